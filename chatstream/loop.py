"""The process's one background event loop, for callers that have none (WSGI, commands, scripts).

An instance hangs on the AppConfig (``background_loop()`` finds it): no state at module level. The
thread starts on first use, is a daemon, so that it never holds up an exit, and starts anew in a
forked child, where the parent's thread does not exist.
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import AsyncGenerator, Coroutine, Generator
from concurrent.futures import Future
from contextlib import aclosing, suppress
from typing import Any, TypeVar, cast

from asgiref.sync import SyncToAsync
from django.apps import apps

__all__ = ["BackgroundLoop", "background_loop", "server_loop", "serving_loop"]

T = TypeVar("T")

AHEAD = 8  # items that a source may run ahead of its reader: an item may hold 64 Ki characters


class _End:
    """Follows the last item."""


_END = _End()


class BackgroundLoop:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = 0

    def get(self) -> asyncio.AbstractEventLoop:
        """Return the running loop of this process; start it if need be."""
        if self._loop is not None and self._pid == os.getpid():
            return self._loop
        with self._lock:
            if self._loop is None or self._pid != os.getpid():
                self._loop, self._pid = self._start(), os.getpid()
            return self._loop

    def submit(self, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
        """Run a coroutine there. Its result, and its cancelling, is the returned future's."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.get())

    def iterate(self, source: AsyncGenerator[T]) -> Generator[T]:
        """Iterate an async generator there, from this thread; close the result when done with it.

        The source runs ahead by ``AHEAD`` items at most.
        """
        items: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        loop = self.get()
        has_room = asyncio.Event()
        has_room.set()

        async def pull() -> None:
            async with aclosing(source):
                async for item in source:
                    items.put(item)
                    if items.qsize() >= AHEAD:
                        has_room.clear()
                        if items.qsize() >= AHEAD:  # it may have been emptied just before
                            await has_room.wait()

        pulling = self.submit(pull())
        pulling.add_done_callback(lambda _: items.put(_END))
        try:
            while not isinstance(item := items.get(), _End):
                yield item
                if not has_room.is_set():
                    loop.call_soon_threadsafe(has_room.set)
            pulling.result()
        finally:
            pulling.cancel()

    def reset_after_fork(self) -> None:
        """Forget the parent's loop and lock: another thread may have held it while we forked."""
        self._lock = threading.Lock()
        self._loop = None

    def _start(self) -> asyncio.AbstractEventLoop:
        loop = _new_event_loop()
        thread = threading.Thread(target=_run, args=(loop,), name="chatstream-loop", daemon=True)
        thread.start()
        return loop


def background_loop() -> BackgroundLoop:
    """Return the process's background loop."""
    return cast(BackgroundLoop, apps.get_app_config("chatstream").background_loop)  # type: ignore[attr-defined]


def server_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that this code runs for: on it, or in a thread that it waits for.

    None under WSGI.
    """
    with suppress(RuntimeError):
        return asyncio.get_running_loop()
    local = SyncToAsync.threadlocal
    if getattr(local, "main_event_loop_pid", None) != os.getpid():
        return None
    # asgiref never forgets: a WSGI thread that once ran an async view holds a loop that ended.
    loop = cast(asyncio.AbstractEventLoop, local.main_event_loop)
    return loop if loop.is_running() else None


def serving_loop() -> asyncio.AbstractEventLoop:
    """Return the loop on which this process serves streams: the server's, or the background one."""
    return server_loop() or background_loop().get()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    loop.run_forever()


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop
    except ImportError:  # the extra ``fast`` is not installed
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()
