"""A frame: the unit of every answer, of every log and of every wire format."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import groupby
from typing import Any, NamedTuple

__all__ = ["TERMINAL", "Frame", "Kind", "merged", "weight"]


class Kind(StrEnum):
    """What a frame says, and the shape of its data."""

    START = "start"  # {"run", "model"}
    TEXT = "text"  # {"text"}
    REASONING = "reasoning"  # {"text"}
    TOOL_CALL = "tool_call"  # {"index", "id"?, "name"?, "arguments"}: a piece of a call
    TOOL_RESULT = "tool_result"  # {"id", "output"} or {"id", "error"}
    FINISH = "finish"  # {"outcome", "finish_reason"?, "usage"?}
    DONE = "done"  # {}
    ERROR = "error"  # {"code", "message", "retryable", "retry_after"?}


TERMINAL = frozenset({Kind.DONE, Kind.ERROR})


_JOINED = frozenset({Kind.TEXT, Kind.REASONING})


class Frame(NamedTuple):
    """``seq`` counts 1, 2, … within a run; ``data`` is plain JSON data in the shape of its kind."""

    seq: int
    kind: Kind
    data: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        return self.kind in TERMINAL


def merged(frames: Iterable[Frame], first_seq: int) -> list[Frame]:
    """Return the frames numbered from ``first_seq``, adjoining texts as one frame."""
    result: list[Frame] = []
    for kind, group in groupby(frames, lambda frame: frame.kind):
        if kind in _JOINED:
            text = "".join([frame.data["text"] for frame in group])
            result.append(Frame(first_seq + len(result), kind, {"text": text}))
        else:
            for frame in group:
                result.append(frame._replace(seq=first_seq + len(result)))
    return result


def weight(frame: Frame) -> int:
    """Return about how many characters a frame holds."""
    data = frame.data
    if frame.kind is Kind.TOOL_RESULT:
        return 64 + len(str(data.get("output", data.get("error"))))
    return 64 + len(data.get("text") or data.get("arguments") or "")
