"""A run while it is produced: what came, and is not in the log yet.

Used on one event loop's thread only.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from .core.answers import Answer, Ending, last_frames
from .core.framer import Framer
from .core.frames import Frame, Kind, merged, weight
from .core.outcomes import RunError, outcome_of_code
from .feeds import Feed
from .ledger import Part

__all__ = ["LiveRun"]

CAPACITY = 256 * 1024  # characters that wait for a commit; then the upstream waits, too


class LiveRun:
    """Gathers frames until ``take``, which numbers them as they go into the log."""

    __slots__ = (
        "_has_room",
        "_pending",
        "_size",
        "answer",
        "feed",
        "first_text_at",
        "framer",
        "id",
        "is_ending",
        "is_new",
        "left_at",
        "task",
    )

    def __init__(self, run: str, framer: Framer, feed: Feed) -> None:
        self.id = run
        self.framer = framer
        self.feed = feed
        self.answer = Answer()
        self.is_new = True  # nobody has looked at its row yet
        self.is_ending = False  # its last frames are on their way into the log
        self.first_text_at: float | None = None  # monotonic
        self.left_at = time.monotonic()  # when the last reader left
        self.task: asyncio.Task[None] | None = None
        self._pending: list[Frame] = []
        self._size = 0
        self._has_room = asyncio.Event()

    @property
    def is_full(self) -> bool:
        return self._size >= CAPACITY

    @property
    def is_concluded(self) -> bool:
        """Whether the last frame came."""
        return self.is_ending or (bool(self._pending) and self._pending[-1].is_terminal)

    def put(self, frame: Frame) -> None:
        self._pending.append(frame)
        self._size += weight(frame)
        if frame.kind is Kind.TEXT and self.first_text_at is None:
            self.first_text_at = time.monotonic()

    def take(self) -> Part:
        """Return what goes into the log next."""
        frames = merged(self._pending, self.answer.last_seq + 1)
        self._pending, self._size = [], 0
        self._has_room.set()
        for frame in frames:
            self.answer.add(frame)
        self.is_ending = self.answer.is_ended
        if not self.is_ending:
            return Part(self.id, frames)
        ago = None if self.first_text_at is None else time.monotonic() - self.first_text_at
        return Part(self.id, frames, self.answer.ending(), ago)

    @property
    def is_orphan(self) -> bool:
        """Whether its task was cancelled by somebody else than us."""
        return self.task is not None and self.task.done() and not self.is_concluded

    async def room(self) -> None:
        self._has_room.clear()
        await self._has_room.wait()

    def end(self, code: str) -> None:
        """End the answer now, as ``code`` has it unless it is whole; close its upstream."""
        self.framer.fail(RunError(code))
        for frame in self.framer.close():
            self.put(frame)
        if not self.is_concluded:  # its task was cancelled: then the framer has no last word
            outcome = outcome_of_code(code)
            for frame in last_frames(Ending(outcome, last_seq=2, error_code=code)):
                self.put(frame)
        self.cancel()

    def cancel(self) -> None:
        if self.task is not None:
            with suppress(RuntimeError):  # its loop is closed: the process ends
                self.task.cancel()
