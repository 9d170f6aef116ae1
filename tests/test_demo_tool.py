"""The demo's tool, and the model that the demo plays: what is searched, and what is said of it."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chatstream.conversations import CONTINUE
from chatstream.models import Conversation, Message, Run
from chatstream.tools import Caller, Tool, ToolError
from project.played import played
from project.tools import search_conversations

ME, OTHER = "anon:me", "anon:other"
WITHIN = 10.0  # seconds, generous


def said(
    content: str, *, role: str = "user", owner: str = ME, title: str = "", ago: int = 0
) -> str:
    """Store a conversation in which this was said ``ago`` days ago; return its id."""
    conversation = Conversation.objects.create(owner=owner, title=title or content[:20])
    message = conversation.messages.create(role=role, content=content)
    Message.objects.filter(pk=message.pk).update(created_at=datetime.now(UTC) - timedelta(days=ago))
    return conversation.pk


def search(words: str, *, conversation: str | None = None, **arguments: Any) -> list[Any]:
    """Return what a model gets that calls from this conversation."""
    run = Run.objects.create(owner=ME, provider="default", request={}, conversation_id=conversation)
    given = json.dumps({"words": words, **arguments})
    tool = Tool(search_conversations)
    return asyncio.run(tool.call(given, Caller(run.pk, ME), within=WITHIN, max_chars=9999))


@pytest.mark.django_db(transaction=True)
class TestTheTool:
    def test_it_finds_all_words_in_one_message_newest_first(self) -> None:
        said("A robot named Ada", title="Names", ago=3)
        said("Two robots", role="assistant", title="More", ago=1)
        said("A named river", ago=2)
        assert [row["title"] for row in search("ROBOT")] == ["More", "Names"]
        (row,) = search("named robot")
        day = datetime.now(UTC).date() - timedelta(days=3)
        assert row == {
            "title": "Names",
            "role": "user",
            "excerpt": "A robot named Ada",
            "date": day.isoformat(),
        }

    def test_it_leaves_out_another_visitor_and_the_conversation_that_asks(self) -> None:
        said("a robot", owner=OTHER)
        here = said("a robot")
        assert search("robot", conversation=here) == []
        assert len(search("robot")) == 1

    def test_an_excerpt_is_one_line_around_the_first_word(self) -> None:
        said("x" * 200 + "\n\nthe Robot\n" + "y" * 200)
        (row,) = search("robot")
        assert row["excerpt"] == f"…{'x' * 74} the Robot {'y' * 79}…"

    def test_no_more_than_the_limit_and_a_percent_sign_is_itself(self) -> None:
        for number in range(7):
            said(f"robot {number}")
        assert len(search("robot")) == 5
        assert len(search("robot", limit=2)) == 2
        assert search("%") == []

    @pytest.mark.parametrize("arguments", [{"words": " "}, {"words": "x", "limit": 0}])
    def test_what_makes_no_sense_is_told_to_the_model(self, arguments: Any) -> None:
        with pytest.raises(ToolError):
            search(**arguments)


# The played model ---------------------------------------------------------------------------------

FOUND = [{"title": "Names", "role": "assistant", "excerpt": "…Ada…", "date": "2026-01-02"}]
ADA = (
    "I searched your earlier conversations for “robots”, and found “Names”, "
    "where the model wrote on 2 January 2026: “…Ada…”"
)


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def called(words: str, result: Any) -> list[dict[str, Any]]:
    function = {"name": "search_conversations", "arguments": json.dumps({"words": words})}
    call = {"id": "c", "type": "function", "function": function}
    content = result if isinstance(result, str) else json.dumps(result)
    return [
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": content},
    ]


def plays(*messages: dict[str, Any]) -> tuple[str, str, list[str]]:
    """Return the text, the words that are looked up, and the finish reasons."""

    async def deltas() -> list[Any]:
        return [delta async for batch in played(messages) for delta in batch]

    told = asyncio.run(deltas())
    calls = [json.loads(call["arguments"])["words"] for it in told for call in it.tool_calls]
    reasons = [it.finish_reason for it in told if it.finish_reason]
    assert told[-1].is_done
    return "".join(it.text for it in told), " ".join(calls), reasons


def test_it_looks_up_the_longest_word_first() -> None:
    assert plays(user("and my robots?")) == ("", "robots", ["tool_calls"])


def test_it_looks_up_the_next_one_when_nothing_was_found() -> None:
    assert plays(user("and my robots?"), *called("robots", [])) == ("", "and", ["tool_calls"])


def test_it_says_what_was_found() -> None:
    assert plays(user("my robots?"), *called("robots", FOUND)) == (ADA, "", ["stop"])


def test_it_says_that_nothing_was_found() -> None:
    text = "I searched your earlier conversations for “robots”, and found nothing."
    assert plays(user("robots"), *called("robots", [])) == (text, "", ["stop"])


def test_it_says_that_the_search_failed() -> None:
    text, _, _ = plays(user("robots"), *called("robots", "Error: The tool failed."))
    assert text == (
        "I could not search your earlier conversations for “robots”. Error: The tool failed."
    )


def test_it_goes_on_where_it_was_cut_short() -> None:
    cut = {"role": "assistant", "content": ADA[:40]}
    told = [user("robots"), cut, user(CONTINUE)]
    assert plays(*told) == ("", "robots", ["tool_calls"])
    assert plays(*told, *called("robots", FOUND)) == (ADA[40:], "", ["stop"])


@pytest.mark.parametrize("prompt", ["?", "日本", "🤖"])
def test_a_prompt_of_no_long_word_is_looked_up_whole(prompt: str) -> None:
    assert plays(user(prompt)) == ("", prompt, ["tool_calls"])
