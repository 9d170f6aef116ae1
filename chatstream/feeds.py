"""The newest frames of a run in memory, and the readers that wait for more.

All readers of a run in a process share its feed and hold no more than a cursor, so a reader that
stalls costs its own stream alone: when the feed has let go of what it lacks, it reads the log.

Used on one event loop's thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from .core.frames import Frame, weight
from .providers.deadlines import LazyTimer

__all__ = ["Feed", "Follower"]

CAPACITY = 64 * 1024  # characters of frames that a feed keeps


class Feed:
    """Holds the frames with ``seq > first``, up to ``last``; both None while nothing is known.

    ``error`` is a code for the readers here, when no more frames can come to them.
    """

    __slots__ = ("_frames", "_readers", "_size", "error", "first", "followers", "is_over", "last")

    def __init__(self, first: int | None = None) -> None:
        self.first = self.last = first
        self.error: str | None = None
        self.is_over = False  # the terminal frame was published
        self.followers = 0
        self._frames: list[Frame] = []
        self._size = 0
        self._readers: set[Follower] = set()

    def publish(self, frames: Sequence[Frame]) -> None:
        """Take frames that are in the log, those right after ``last``."""
        self._frames.extend(frames)
        self.last = frames[-1].seq
        self.is_over = frames[-1].is_terminal
        self._size += sum(map(weight, frames))
        while self._size > CAPACITY and len(self._frames) > 1:
            self._let_go(max(1, len(self._frames) // 2))
        self._wake()

    def begin(self, seq: int) -> None:
        """Say where the feed begins, unless that is known."""
        if self.first is None:
            self.first = self.last = seq

    def forget(self) -> None:
        """Know nothing any more: what was held may not be what the log has."""
        self.first = self.last = None
        self._frames, self._size = [], 0
        self._wake()

    def fail(self, code: str) -> None:
        """Tell the readers here an error that is no frame of the run."""
        self.error = code
        self._wake()

    def after(self, seq: int) -> list[Frame] | None:
        """Return the frames after ``seq``; None if the log has to be asked."""
        if self.first is None or seq < self.first:
            return None
        return self._frames[seq - self.first :]

    def _let_go(self, count: int) -> None:
        self._size -= sum(map(weight, self._frames[:count]))
        self.first = self._frames[count - 1].seq
        del self._frames[:count]

    def _wake(self) -> None:
        readers, self._readers = self._readers, set()
        for reader in readers:
            reader.wake()


class Follower:
    """One reader of a feed. ``seq`` is the number of the last frame that it took."""

    __slots__ = ("_feed", "_loop", "_timer", "_woken", "seq")

    def __init__(self, feed: Feed, after: int, loop: asyncio.AbstractEventLoop) -> None:
        self.seq = after
        self._feed = feed
        self._loop = loop
        self._woken: asyncio.Future[None] | None = None
        self._timer = LazyTimer(loop, self.wake)

    async def take(self, seconds: float) -> list[Frame] | None:
        """Return what came; [] after so many seconds of silence; None if the log must be asked."""
        frames = self._feed.after(self.seq)
        if frames == [] and self._feed.error is None:
            self._timer.set(self._loop.time() + seconds)
            self._woken = self._loop.create_future()
            self._feed._readers.add(self)
            await self._woken
            frames = self._feed.after(self.seq)
        if frames:
            self.seq = frames[-1].seq
        return frames

    def wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def close(self) -> None:
        self._timer.cancel()
        self._feed._readers.discard(self)
