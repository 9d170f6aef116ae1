"""A model that looks things up, played: the embedded one cannot call tools.

It asks for the demo's tool as a real model would, and chatstream calls it. What it looks up are the
longest words of the prompt, one after another, until one is found. Then it says what that was.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, Iterator, Sequence
from datetime import date
from typing import Any

from chatstream.conversations import CONTINUE
from chatstream.core.chunks import Delta
from chatstream.providers.base import Batch

__all__ = ["played"]

TRIES = 3  # words
PAUSE = 0.04  # seconds before each piece

Messages = Sequence[dict[str, Any]]


async def played(messages: Messages) -> AsyncGenerator[Batch]:
    """Yield what the model says next: a call, or the answer, word by word."""
    for delta in next_deltas(messages):
        await asyncio.sleep(PAUSE)
        yield [delta]


def next_deltas(messages: Messages) -> Iterator[Delta]:
    prompt, past = since_prompt(messages)
    calls = [call["function"] for message in past for call in message.get("tool_calls", ())]
    tried = [json.loads(call["arguments"])["words"] for call in calls]
    results = [message["content"] for message in past if message["role"] == "tool"]
    left = [word for word in longest_words(prompt) if word not in tried]
    if left and (not results or results[-1] == "[]"):
        arguments = json.dumps({"words": left[0]}, ensure_ascii=False)
        call = {"index": 0, "name": "search_conversations", "arguments": arguments}
        yield Delta(tool_calls=(call,), has_choice=True)
        yield Delta(finish_reason="tool_calls", has_choice=True)
    else:
        said = [m["content"] for m in past if m["role"] == "assistant" and "tool_calls" not in m]
        for word in re.findall(r"\s*\S+", report(tried, results[-1]).removeprefix("".join(said))):
            yield Delta(word, has_choice=True)
        yield Delta(finish_reason="stop", has_choice=True)
    yield Delta(is_done=True)


def since_prompt(messages: Messages) -> tuple[str, Messages]:
    """Return the prompt that is being answered, and what came after it.

    An answer that goes on after it was cut short is an answer to the prompt before.
    """
    asked = [n for n, message in enumerate(messages) if message["role"] == "user"]
    prompts = [n for n in asked if messages[n]["content"] != CONTINUE] or asked
    return messages[prompts[-1]]["content"], messages[prompts[-1] + 1 :]


def longest_words(prompt: str) -> list[str]:
    words = dict.fromkeys(re.findall(r"\w{3,}", prompt)) or [prompt.strip()]
    return sorted(words, key=len, reverse=True)[:TRIES]


def report(tried: Sequence[str], result: str) -> str:
    """Say what came of it; ``result`` is what the tool said last."""
    words = "”, then “".join(tried)
    if result.startswith("Error: "):
        return f"I could not search your earlier conversations for “{words}”. {result}"
    searched = f"I searched your earlier conversations for “{words}”"
    if result == "[]":
        return f"{searched}, and found nothing."
    newest = json.loads(result)[0]
    day = date.fromisoformat(newest["date"])
    who = "you" if newest["role"] == "user" else "the model"
    return (
        f"{searched}, and found “{newest['title']}”, "
        f"where {who} wrote on {day.day} {day:%B %Y}: “{newest['excerpt']}”"
    )
