"""The short cut for the common chunk, a bit of text and nothing else. Needs msgspec."""

from __future__ import annotations

from typing import Any

import msgspec

__all__ = ["plain_text"]


class _Content(msgspec.Struct):
    content: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    refusal: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(msgspec.Struct):
    delta: _Content
    index: int | None = 0
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: tuple[_Choice]
    object: Any = None
    usage: Any = None
    error: Any = None


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
    choice = chunk.choices[0]
    delta = choice.delta
    if (
        choice.index
        or choice.finish_reason
        or delta.reasoning_content
        or delta.reasoning
        or delta.refusal not in (None, "")  # 0 or [] is refused by the plain decoder
        or delta.tool_calls
        or delta.function_call
        or chunk.usage
        or chunk.error
        or chunk.object == "error"
    ):
        return None
    return delta.content or ""
