"""A frame log on which a process can be made to die, or others to act, in the midst of a commit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import count

from chatstream.core.frames import Frame
from chatstream.framelog import FrameLog

__all__ = ["Crash", "CrashingLog", "countdown"]


class Crash(Exception):
    """The process died, or its connection did."""


class CrashingLog(FrameLog):
    """Another log; ``before`` and ``after`` are called around each append, and may raise."""

    def __init__(self, log: FrameLog) -> None:
        self.log = log
        self.is_transactional = log.is_transactional  # type: ignore[misc]
        self.before: Callable[[], None] = bool
        self.after: Callable[[], None] = bool

    def append(self, frames: Mapping[str, Sequence[Frame]]) -> None:
        self.before()
        self.log.append(frames)
        self.after()

    def read(self, run: str, after: int = 0) -> list[Frame]:
        return self.log.read(run, after)

    def last_seq(self, run: str) -> int:
        return self.log.last_seq(run)

    def delete(self, runs: Iterable[str]) -> None:
        self.log.delete(runs)

    def crash(self, moment: str, append: int) -> None:
        """Die "before" or "after" the append of this number, counted from now, 1 for the next."""
        setattr(self, moment, countdown(append, _die))

    def calm(self) -> None:
        """Let nothing happen any more."""
        self.before = self.after = bool


def countdown(number: int, act: Callable[[], None]) -> Callable[[], None]:
    """Return a function that acts when it is called for the ``number``-th time."""
    calls = count(1)

    def called() -> None:
        if next(calls) == number:
            act()

    return called


def _die() -> None:
    raise Crash
