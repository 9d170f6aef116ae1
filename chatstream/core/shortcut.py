"""The short cut for the common chunk, a bit of text and nothing else. Needs msgspec."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

__all__ = ["plain_text"]


# What is not plain is refused by the types, while it is read: nothing is left to compare here.
_NoText = Literal[""] | None
_NoItems = Annotated[list[Any], msgspec.Meta(max_length=0)] | None


class _Content(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: _NoText = None
    reasoning: _NoText = None
    refusal: _NoText = None
    tool_calls: _NoItems = None
    function_call: None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Content
    index: Literal[0] | None = 0
    finish_reason: _NoText = None


class _Chunk(msgspec.Struct, gc=False):
    choices: tuple[_Choice]
    object: Any = None
    usage: None = None
    error: None = None


_decode = msgspec.json.Decoder(_Chunk).decode


def plain_text(data: bytes) -> str | None:
    """Return the text of a chunk that holds choice 0 with text at most; None for any other.

    None is no verdict: the chunk may say more, or be refused here for an escape that the standard
    library takes, such as a lone surrogate.
    """
    try:
        data.decode()  # msgspec does not look into what it skips, not even for UTF-8
        chunk = _decode(data)
    except (ValueError, RecursionError):  # msgspec's own errors are ValueErrors
        return None
    if chunk.object == "error":
        return None
    return chunk.choices[0].delta.content or ""
