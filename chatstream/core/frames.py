"""A frame: the unit of every answer, of every log and of every wire format."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, NamedTuple

__all__ = ["TERMINAL", "Frame", "Kind"]


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


class Frame(NamedTuple):
    """``seq`` counts 1, 2, … within a run; ``data`` is plain JSON data in the shape of its kind."""

    seq: int
    kind: Kind
    data: dict[str, Any]

    @property
    def is_terminal(self) -> bool:
        return self.kind in TERMINAL
