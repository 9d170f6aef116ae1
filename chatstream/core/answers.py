"""What the frames of a run say when they are put together. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .frames import Frame, Kind
from .outcomes import Outcome, error_data

__all__ = ["Answer", "Ending", "last_frames"]


@dataclass(frozen=True, slots=True)
class Ending:
    """What became of a run: as its row has it, and as its last two frames tell it.

    ``last_seq`` is the terminal frame's number; ``error_code`` is None on success.
    """

    outcome: Outcome
    text: str = ""
    last_seq: int = 0
    error_code: str | None = None
    finish_reason: str | None = None
    usage: dict[str, int] | None = None


class Answer:
    """The sum of the frames added so far."""

    __slots__ = ("_finish", "_parts", "error_code", "is_ended", "last_seq")

    def __init__(self, frames: Iterable[Frame] = ()) -> None:
        self.last_seq = 0
        self.is_ended = False
        self.error_code: str | None = None
        self._parts: list[str] = []
        self._finish: dict[str, Any] = {}
        for frame in frames:
            self.add(frame)

    def add(self, frame: Frame) -> None:
        self.last_seq = frame.seq
        if frame.kind is Kind.TEXT:
            self._parts.append(frame.data["text"])
        elif frame.kind is Kind.FINISH:
            self._finish = frame.data
        elif frame.is_terminal:
            self.is_ended = True
            self.error_code = frame.data.get("code")

    @property
    def text(self) -> str:
        return "".join(self._parts)

    @property
    def has_text(self) -> bool:
        return bool(self._parts)

    def ending(self) -> Ending:
        """Return the ending that the last frames tell. Call when ``is_ended``."""
        return Ending(
            Outcome(self._finish["outcome"]),
            self.text,
            self.last_seq,
            self.error_code,
            self._finish.get("finish_reason"),
            self._finish.get("usage"),
        )


def last_frames(ending: Ending) -> list[Frame]:
    """Return the two frames that tell an ending: ``finish`` and the terminal one."""
    finish: dict[str, Any] = {"outcome": str(ending.outcome)}
    if ending.finish_reason is not None:
        finish["finish_reason"] = ending.finish_reason
    if ending.usage is not None:
        finish["usage"] = ending.usage
    if ending.error_code is None:
        last = Frame(ending.last_seq, Kind.DONE, {})
    else:
        last = Frame(ending.last_seq, Kind.ERROR, error_data(ending.error_code))
    return [Frame(ending.last_seq - 1, Kind.FINISH, finish), last]
