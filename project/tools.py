"""The demo's tool: a model may search what was said to this visitor before.

A tool is a function of the site. Its docstring and its annotations are written for the model, and
``caller`` is filled in by chatstream: whatever a model asks for, it sees its visitor's rows alone.
"""

import re
from typing import Annotated, Any

from pydantic import Field

from chatstream.models import Conversation, Message
from chatstream.tools import Caller, ToolError

__all__ = ["search_conversations"]

AROUND = 80  # characters of an excerpt on either side of the match


def search_conversations(
    words: str, limit: Annotated[int, Field(ge=1, le=20)] = 5, *, caller: Caller
) -> list[dict[str, Any]]:
    """Search what the user and the assistant said in earlier conversations on this site.

    Use it when the user speaks of something that this conversation does not contain. Give one or
    two words that are rare: a message is found if it contains all of them. The newest come first.
    Each has the title of its conversation, the role of who said it, an excerpt around the first
    word, and the date. An empty list means that nothing was found: try other words.
    """
    wanted = words.split()
    if not wanted:
        raise ToolError("Give at least one word to search for.")
    earlier = Conversation.objects.of(caller.owner).exclude(runs=caller.run)
    found = Message.objects.filter(conversation__in=earlier).select_related("conversation")
    for word in wanted:
        found = found.filter(content__icontains=word)
    return [
        {
            "title": message.conversation.title,
            "role": message.role,
            "excerpt": excerpt(message.content, wanted[0]),
            "date": message.created_at.date(),
        }
        for message in found.order_by("-created_at", "-pk")[:limit]
    ]


def excerpt(text: str, word: str) -> str:
    """Return the text around the word's first occurrence, in one line."""
    match = re.search(re.escape(word), text, re.IGNORECASE)
    at, end = match.span() if match else (0, 0)  # a database may fold letters otherwise
    start, stop = max(0, at - AROUND), end + AROUND
    line = " ".join(text[start:stop].split())
    return f"{'…' if start else ''}{line}{'…' if stop < len(text) else ''}"
