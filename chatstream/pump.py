"""Who pulls the relay for one response: frames into an outbox, and out again with a heartbeat.

The producer is a task on the running loop (``TaskProducer``) or, for a synchronous source, a thread
(``ThreadProducer``). Either puts frames into the outbox and waits when it is full; the one reader
takes all that has gathered, which leaves in one write. Reading in a task of its own, the upstream
is never cancelled by a heartbeat.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import aclosing, closing, suppress
from dataclasses import dataclass

from .core.framer import Framer, State
from .core.frames import TERMINAL, Frame, Kind, weight
from .core.outcomes import RunError
from .providers.base import AsyncCompletion
from .providers.deadlines import LazyTimer
from .providers.sources import AsyncSource, ProviderSource, Source, SyncSource
from .relay import aframes, frames, report

__all__ = ["Batches", "Pace"]

CAPACITY = 64 * 1024  # characters that wait for a slow reader; then the upstream is read no further
QUEUED = 64  # frames that a thread may hand over before the reader takes them
TICK = 0.5  # seconds between two looks at the deadlines of a thread


@dataclass(frozen=True)
class Pace:
    """How long the pump waits, in seconds.

    ``heartbeat``: a silence for the reader; ``stall``: a reader that takes nothing.
    """

    heartbeat: float = 15.0
    stall: float = 60.0


class Batches:
    """A run's frames as they gather; [] after each ``pace.heartbeat`` of silence.

    An async iterator, to be made on the loop that iterates it; the run starts at once. The last
    batch ends with the terminal frame. Closing it closes the upstream.
    """

    # No generator: each step of one raises an exception inside, which costs more than what we do.

    __slots__ = ("_heartbeat", "_outbox", "_producer")

    def __init__(self, source: Source, framer: Framer, pace: Pace) -> None:
        self._heartbeat = pace.heartbeat
        self._outbox = Outbox(asyncio.get_running_loop())
        self._producer = _producer(source, framer, self._outbox, pace)
        self._producer.start()

    def __aiter__(self) -> Batches:
        return self

    async def __anext__(self) -> list[Frame]:
        outbox = self._outbox
        if outbox.is_silent:
            await outbox.news(self._heartbeat)
        taken = outbox.take()
        if not taken and outbox.is_ended:
            raise StopAsyncIteration
        self._producer.taken(len(taken))
        return taken

    async def aclose(self) -> None:
        self._outbox.close()
        await self._producer.stop()


def _producer(
    source: Source, framer: Framer, outbox: Outbox, pace: Pace
) -> TaskProducer | ThreadProducer:
    if isinstance(source, SyncSource):
        return ThreadProducer(source, framer, outbox, pace)
    assert isinstance(source, ProviderSource | AsyncSource)
    return TaskProducer(source.aopen(), framer, outbox, pace)


class Outbox:
    """Frames on their way to one reader. Used on the loop's thread only."""

    __slots__ = ("_frames", "_loop", "_reader", "_size", "_timer", "_writer", "is_ended")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.is_ended = False
        self._frames: list[Frame] = []
        self._size = 0
        self._loop = loop
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._timer = LazyTimer(loop, self._wake_reader)

    @property
    def is_empty(self) -> bool:
        return not self._frames

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to take, but something may come."""
        return not self._frames and not self.is_ended

    @property
    def is_full(self) -> bool:
        return self._size >= CAPACITY

    def put(self, frame: Frame) -> None:
        if not self.is_ended:
            self._frames.append(frame)
            self._size += weight(frame)
            self._wake_reader()

    def end(self) -> None:
        """No frame comes any more."""
        self.is_ended = True
        self._wake_reader()

    async def room(self, seconds: float) -> bool:
        """Wait until the reader has taken what waits for it; return whether he did in time."""
        self._writer = self._loop.create_future()
        done, _ = await asyncio.wait({self._writer}, timeout=seconds)
        return bool(done)

    def news(self, seconds: float) -> asyncio.Future[None]:
        """Return what is done once something came, or the end, or so many seconds of silence."""
        self._timer.set(self._loop.time() + seconds)
        self._reader = self._loop.create_future()
        return self._reader

    def take(self) -> list[Frame]:
        """Return what has gathered."""
        taken, self._frames, self._size = self._frames, [], 0
        if self._writer is not None and not self._writer.done():
            self._writer.set_result(None)
        return taken

    def close(self) -> None:
        self.is_ended = True
        self._timer.cancel()

    def _wake_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)


def give_up(framer: Framer) -> list[Frame]:
    """The reader takes nothing: end the answer; return its last frames, in case he comes back."""
    stalled = RunError("stalled", "the reader took nothing for too long")
    if framer.fail(stalled):
        report(framer, stalled)
    return framer.close()


class TaskProducer:
    """Pulls an async completion in a task on the running loop."""

    __slots__ = ("_completion", "_framer", "_outbox", "_pace", "_task")

    def __init__(
        self, completion: AsyncCompletion, framer: Framer, outbox: Outbox, pace: Pace
    ) -> None:
        self._completion = completion
        self._framer = framer
        self._outbox = outbox
        self._pace = pace

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End the task and wait until it has closed its upstream; no error of its own comes out."""
        self._task.cancel()
        await asyncio.wait({self._task})

    def taken(self, count: int) -> None:
        """The reader took so many frames."""

    async def _run(self) -> None:
        outbox = self._outbox
        try:
            async with aclosing(aframes(self._completion, self._framer)) as source:
                async for frame in source:
                    outbox.put(frame)
                    if outbox.is_full and not await outbox.room(self._pace.stall):
                        for last in give_up(self._framer):
                            outbox.put(last)
                        return
                    del frame  # a silent stream would keep it
        finally:
            outbox.end()


class ThreadProducer:
    """Pulls a synchronous source in a daemon thread; keeps its deadlines from the loop."""

    def __init__(self, source: SyncSource, framer: Framer, outbox: Outbox, pace: Pace) -> None:
        self._source = source
        self._framer = framer
        self._outbox = outbox
        self._pace = pace
        self._room = threading.Semaphore(QUEUED)
        self._is_stopped = False
        self._loop = asyncio.get_running_loop()
        self._timer = LazyTimer(self._loop, self._tick)

    def start(self) -> None:
        now = self._loop.time()
        self._waits_until = now + self._source.deadlines.first_token
        self._end = now + self._source.deadlines.run
        self._concluded_at: float | None = None
        self._timer.set(now + TICK)
        threading.Thread(target=self._run, name="chatstream-pump", daemon=True).start()

    async def stop(self) -> None:
        """Tell the thread to end, and wake it if it waits for the upstream."""
        self._halt()

    def taken(self, count: int) -> None:
        """The reader took so many frames."""
        if count:
            self._room.release(count)

    def _run(self) -> None:
        # RuntimeError: the loop is closed, the server is on its way out.
        with suppress(RuntimeError):
            with closing(frames(self._source.open(), self._framer)) as source:
                for frame in source:
                    has_room = self._room.acquire(timeout=self._pace.stall)
                    if self._is_stopped:
                        break
                    if not has_room:
                        for last in give_up(self._framer):
                            self._loop.call_soon_threadsafe(self._outbox.put, last)
                        break
                    self._loop.call_soon_threadsafe(self._arrived, frame)
            self._loop.call_soon_threadsafe(self._halt)

    def _arrived(self, frame: Frame) -> None:
        if frame.kind is not Kind.START:
            self._waits_until = self._loop.time() + self._source.deadlines.token
        self._outbox.put(frame)
        if frame.kind in TERMINAL:
            self._outbox.end()

    def _tick(self) -> None:
        """Look at the deadlines: the thread itself may hang in a read."""
        now = self._loop.time()
        if self._framer.state is State.CONCLUDED:
            self._concluded_at = self._concluded_at or now
            self._waits_until = self._concluded_at + self._source.deadlines.after_finish
        if not self._outbox.is_empty:  # the reader's time does not count
            self._waits_until = max(self._waits_until, now + self._source.deadlines.token)
        if now < min(self._waits_until, self._end):
            self._timer.set(now + TICK)
        else:
            self._expire()

    def _expire(self) -> None:
        late = RunError("upstream_timeout", "a synchronous completion took too long")
        if self._framer.fail(late):
            report(self._framer, late)
        for frame in self._framer.close():
            self._outbox.put(frame)
        self._halt()

    def _halt(self) -> None:
        self._timer.cancel()
        self._framer.close()
        self._outbox.end()
        if not self._is_stopped:
            self._is_stopped = True
            self._room.release()
            self._source.interrupt()
