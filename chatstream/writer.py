"""The thread in which a process writes for all its runs: its one lasting database connection.

An instance hangs on the AppConfig (``writer()`` finds it). One writer means that a process never
waits for its own locks, which SQLite would answer with "database is locked". The thread starts on
first use, is a daemon, so that it never holds up an exit, and starts anew in a forked child. When
nothing was written for a while it lets its connections go.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ParamSpec, TypeVar, cast

from django.apps import apps
from django.db import Error, OperationalError, connections

__all__ = ["Writer", "writer"]

P = ParamSpec("P")
T = TypeVar("T")

IDLE = 30.0  # seconds after which an idle writer closes its connections
RESTED = 1.0  # seconds after which a connection is looked at before it is used
PATIENCE = 10.0  # seconds that a caller waits


class Writer:
    """Runs jobs one after the other."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    reset_after_fork = _reset  # the parent's thread is not here, and its lock may be held for ever

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call; what it returns or raises is the future's."""
        future: Future[T] = Future()
        # Not to be cancelled: a task that ends with its loop would take frames out of the queue
        # that the next ones go on from.
        future.set_running_or_notify_cancel()

        def job() -> None:
            try:
                result = function(*args, **kwargs)
            except BaseException as exc:
                if isinstance(exc, Error):
                    connections.close_all()  # the next job shall find a connection that works
                future.set_exception(exc)
            else:
                future.set_result(result)

        self._start()
        self._jobs.put(job)
        return future

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call there and wait for it; within a transaction of this thread, as part of it.

        Raises ``OperationalError`` if the writer does not come to it in time: the database hangs.
        """
        is_here = threading.current_thread() is self._thread
        if is_here or any(c.in_atomic_block for c in connections.all(initialized_only=True)):
            return function(*args, **kwargs)
        is_late = False

        def in_time() -> T:
            if is_late:
                raise TimeoutError
            return function(*args, **kwargs)

        try:
            return self.submit(in_time).result(PATIENCE)
        except TimeoutError:
            is_late = True
            raise OperationalError("the database takes too long") from None

    def _start(self) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=_work, args=(self._jobs,), name="chatstream-writer", daemon=True
                )
                self._thread.start()


def writer() -> Writer:
    """Return the process's writer."""
    return cast(Writer, apps.get_app_config("chatstream").writer)  # type: ignore[attr-defined]


def _work(jobs: queue.SimpleQueue[Callable[[], None]]) -> None:
    while True:
        waits_since = time.monotonic()
        try:
            job = jobs.get(timeout=IDLE)
        except queue.Empty:
            connections.close_all()
            continue
        if time.monotonic() - waits_since > RESTED:
            _close_broken()
        job()


def _close_broken() -> None:
    """Close connections that broke while nobody used them: a server was restarted, for one."""
    for connection in connections.all(initialized_only=True):
        if connection.connection is not None and not connection.is_usable():
            connection.close()
