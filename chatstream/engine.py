"""Who pulls the relay of each run: produced once, logged before it is sent, followed by all.

An engine belongs to one event loop: the server's under ASGI, the background loop under WSGI. What
its runs bring gathers while a commit is under way, and goes into the log with the next, all runs in
one; what is in the log is published to the feeds that readers follow. Every half second a beat
looks what others did: stop requests, runs that were lost, frames of runs that other processes
produce, leases that ran out.

Used on its loop's thread only, but for ``start``, ``stop_soon`` and ``interrupt``.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, ParamSpec, TypeVar

from django.db import Error

from .conf import settings
from .core.framer import Framer
from .core.frames import Frame, Kind
from .core.outcomes import error_data
from .feeds import Feed, Follower
from .framelog import FrameLog
from .ids import new_id
from .ledger import Part, commit, look, reap
from .live import LiveRun
from .models import Run
from .providers import get_provider
from .providers.base import AsyncCompletion, Batch
from .providers.rounds import answering
from .relay import aframes
from .signals import run_started
from .tools import Caller
from .writer import Writer

__all__ = ["Engine"]

logger = logging.getLogger("chatstream")

P = ParamSpec("P")
T = TypeVar("T")

TICK = 0.5  # seconds between two looks at what others did
COMMIT_EVERY = 0.0125  # seconds at least between the beginnings of two commits
PATIENCE = 5.0  # seconds that a commit is tried while the database is out of reach


class Engine:
    """Produces and follows runs on one loop. ``id`` is the producer's id in its runs' rows."""

    def __init__(self, loop: asyncio.AbstractEventLoop, log: FrameLog, writer: Writer) -> None:
        self.id = new_id()
        self.loop = loop
        self.log = log
        self._writer = writer
        self._live: dict[str, LiveRun] = {}
        self._dirty: dict[str, LiveRun] = {}  # those with something to log
        self._feeds: dict[str, Feed] = {}  # of runs that are produced elsewhere
        self._committer: asyncio.Task[None] | None = None
        self._beater: asyncio.Task[None] | None = None

    # Producing ------------------------------------------------------------------------------------

    def start(self, run: str) -> bool:
        """Claim a queued run, and produce it if that is won. From any thread; blocks."""
        if not self._writer.call(Run.objects.claim, run, self.id, settings.LEASE):
            return False
        row = Run.objects.get(pk=run)
        run_started.send_robust(Run, run=row)
        self.loop.call_soon_threadsafe(self._produce, row)
        return True

    def stop_soon(self, run: str) -> None:
        """Stop a run if it is produced here. From any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self._stop, run)

    def _stop(self, run: str) -> None:
        live = self._live.get(run)
        if live is not None and live.framer.outcome is None:  # else its last frames are on the way
            live.end("stopped")
            self._mark(live)

    def _produce(self, row: Run) -> None:
        framer = Framer(row.pk, row.model, max_answer_chars=settings.MAX_ANSWER_CHARS)
        feed = self._feeds.pop(row.pk, None) or Feed(0)
        feed.begin(0)
        live = self._live[row.pk] = LiveRun(row.pk, framer, feed)
        live.task = self._spawn(self._pull(live, _completion(row)))
        self._keep_beating()

    async def _pull(self, live: LiveRun, completion: AsyncCompletion) -> None:
        async with aclosing(aframes(completion, live.framer)) as frames:
            async for frame in frames:
                live.put(frame)
                self._mark(live)
                if live.is_full:
                    await live.room()

    def _mark(self, live: LiveRun) -> None:
        self._dirty[live.id] = live
        if self._committer is None or self._committer.done():
            self._committer = self._spawn(self._commit_all())

    # Into the log, then to the readers ------------------------------------------------------------

    async def _commit_all(self) -> None:
        """Commit what gathers, until nothing does: one commit at a time."""
        while self._dirty:
            begun = self.loop.time()
            lives, self._dirty = list(self._dirty.values()), {}
            await self._commit([(live, live.take()) for live in lives])
            await asyncio.sleep(max(0, begun + COMMIT_EVERY - self.loop.time()))

    async def _commit(self, taken: list[tuple[LiveRun, Part]]) -> None:
        parts = [part for _, part in taken if part.frames]
        if not parts:
            return
        try:
            lost = await self._patiently(commit, self.log, self.id, parts)
        except Exception:
            logger.exception("the frames of %s runs could not be stored", len(parts))
            for live, _ in taken:
                self._drop(live, "storage")
            return
        for live, part in taken:
            if part.run in lost:
                self._lose(live)
            elif part.frames:
                live.feed.publish(part.frames)
                if live.is_ending:
                    self._live.pop(live.id, None)

    async def _patiently(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a job in the writer's thread; try again while the database is out of reach."""
        until = self.loop.time() + PATIENCE
        while True:
            try:
                async with asyncio.timeout_at(until):
                    return await self._in_writer(job, *args, **kwargs)
            except Error:
                if self.loop.time() > until - 1:
                    raise
                await asyncio.sleep(0.25)

    async def _in_writer(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._writer.submit(job, *args, **kwargs))

    def _lose(self, live: LiveRun) -> None:
        """Somebody else settled it: his frames are in the log, and the readers find them there."""
        live.framer.close()
        self._live.pop(live.id, None)
        self._dirty.pop(live.id, None)
        live.cancel()
        if live.feed.followers:
            self._feeds[live.id] = live.feed
        live.feed.forget()

    def _drop(self, live: LiveRun, code: str) -> None:
        """Give up a run that cannot be stored; its lease runs out."""
        live.framer.close()
        self._live.pop(live.id, None)
        self._dirty.pop(live.id, None)
        live.cancel()
        live.feed.fail(code)

    # Following ------------------------------------------------------------------------------------

    async def follow(self, run: str, after: int, heartbeat: float) -> AsyncGenerator[list[Frame]]:
        """Yield the run's frames after ``after`` as they come, [] after each silence.

        The last batch ends with the terminal frame, or with an error of this connection alone,
        whose ``seq`` is 0.
        """
        feed = self._join(run)
        follower = Follower(feed, after, self.loop)
        try:
            while True:
                frames = await follower.take(heartbeat)
                if frames is None:
                    frames = await self._from_log(run, follower, feed)
                    if not frames:
                        continue
                if not frames and feed.error is not None:
                    frames = [Frame(0, Kind.ERROR, error_data(feed.error))]
                yield frames
                if frames and frames[-1].is_terminal:
                    return
                del frames
        finally:
            follower.close()
            self._leave(run, feed)

    async def _from_log(self, run: str, follower: Follower, feed: Feed) -> list[Frame]:
        try:
            frames = await self._patiently(self.log.read, run, follower.seq)
        except Exception:
            logger.exception("run %s: its frames could not be read", run)
            return [Frame(0, Kind.ERROR, error_data("storage"))]
        is_behind = feed.first is not None and follower.seq < feed.first
        if (is_behind and not frames) or (frames and frames[0].seq != follower.seq + 1):
            return [Frame(0, Kind.ERROR, error_data("expired"))]  # there were frames, once
        if frames:
            follower.seq = frames[-1].seq
        feed.begin(follower.seq)
        return frames

    def _join(self, run: str) -> Feed:
        live = self._live.get(run)
        feed = live.feed if live is not None else self._feeds.setdefault(run, Feed())
        feed.followers += 1
        self._keep_beating()
        return feed

    def _leave(self, run: str, feed: Feed) -> None:
        feed.followers -= 1
        if feed.followers:
            return
        if self._feeds.get(run) is feed:
            del self._feeds[run]
        elif (live := self._live.get(run)) is not None:
            live.left_at = time.monotonic()

    def last_seq(self, run: str) -> int | None:
        """Return the last number of a run that is produced here; None of another. Any thread."""
        live = self._live.get(run)
        return None if live is None else live.feed.last

    # What others did ------------------------------------------------------------------------------

    def _keep_beating(self) -> None:
        if self._beater is None or self._beater.done():
            self._beater = self._spawn(self._beat())

    async def _beat(self) -> None:
        """Look around as long as anything is produced or followed here."""
        renewed = touched = self.loop.time()
        while self._live or self._feeds:
            await asyncio.sleep(TICK)
            now = self.loop.time()
            for live in list(self._live.values()):
                if live.is_orphan:
                    live.end("interrupted")
                    self._mark(live)
            try:
                if self._live:
                    await self._look_after_own()
                if self._feeds:
                    await self._look_at_others()
                if now - renewed >= settings.LEASE / 3:
                    renewed = now
                    await self._renew()
                if now - touched >= settings.GRACE / 3:
                    touched = now
                    await self._touch()
            except Exception as exc:
                # Leases run out and stops come late; each stream has its own word on storage.
                logger.warning("the runs of others cannot be looked at: %s", type(exc).__name__)

    async def _look_after_own(self) -> None:
        """Stop what shall stop, and drop what somebody else has settled."""
        shall_stop = await self._in_writer(self._open_runs)
        for live in list(self._live.values()):
            if shall_stop.get(live.id):
                self._stop(live.id)
            elif live.is_new:
                live.is_new = False  # it was claimed after the query, perhaps
            elif live.id not in shall_stop and not live.is_ending:
                logger.warning("run %s: settled by another process", live.id)
                self._lose(live)
        if settings.ON_DISCONNECT == "stop":
            await self._stop_left()

    def _open_runs(self) -> dict[str, bool]:
        """Return the runs of this producer, as their rows have them: whether each shall stop."""
        mine = Run.objects.filter(producer=self.id, status=Run.Status.IN_PROGRESS)
        return {run: at is not None for run, at in mine.values_list("pk", "stop_requested_at")}

    async def _stop_left(self) -> None:
        """Stop the runs that nobody has followed for ``GRACE`` seconds, here or elsewhere."""
        since = time.monotonic() - settings.GRACE
        left = [
            run
            for run, live in self._live.items()
            if not live.feed.followers and live.left_at < since
        ]
        if left:
            followed = await self._in_writer(Run.objects.followed_since, left, settings.GRACE)
            for run in set(left) - followed:
                self._stop(run)

    async def _look_at_others(self) -> None:
        """Publish what other processes logged; see to runs whose process died."""
        cursors = {
            run: feed.last
            for run, feed in self._feeds.items()
            if feed.last is not None and not feed.is_over
        }
        found = await self._in_writer(self.log.read_many, cursors) if cursors else {}
        for run, frames in found.items():
            feed = self._feeds.get(run)
            if feed is not None and feed.last == frames[0].seq - 1:
                feed.publish(frames)
        silent = [run for run in cursors if run not in found]
        if silent:
            states = await self._in_writer(look, self.log, silent, settings.LEASE)
            for run in states.queued:
                await self._in_writer(self.start, run)
            for run in states.gone:
                if (feed := self._feeds.get(run)) is not None:
                    feed.fail("expired")

    async def _renew(self) -> None:
        if self._live:
            await self._in_writer(Run.objects.renew, self.id, settings.LEASE, list(self._live))
        await self._in_writer(reap, self.log, settings.LEASE)

    async def _touch(self) -> None:
        if self._feeds and settings.ON_DISCONNECT == "stop":
            await self._in_writer(Run.objects.touch, list(self._feeds))

    # The end of the process -----------------------------------------------------------------------

    def interrupt(self, seconds: float) -> None:
        """Settle what is still open as interrupted: the process ends. From another thread."""
        with suppress(Exception):  # else the leases run out
            parts = [self._interrupted(live) for live in list(self._live.values())]
            if parts:
                self._writer.submit(commit, self.log, self.id, parts).result(seconds)

    def _interrupted(self, live: LiveRun) -> Part:
        if not live.is_concluded:
            live.end("interrupted")
        return live.take()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        # An empty context: a task that inherits asgiref's fails in its first sync_to_async.
        return self.loop.create_task(coroutine, context=contextvars.Context())


@asynccontextmanager
async def _completion(row: Run) -> AsyncIterator[AsyncIterable[Batch]]:
    """Open the run's completion; that its provider is gone is an ending, too."""
    caller = Caller(row.pk, row.owner)
    async with answering(get_provider(row.provider), row.asked(), caller) as batches:
        row.request = {}  # the history would stay as long as the stream
        yield batches
