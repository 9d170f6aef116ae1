"""What every response that streams has in common: the server's way of iterating decides.

Under ASGI the body runs on the server's loop, where it holds no thread and no database connection;
under WSGI on the process's background loop, and the server's thread waits for its parts.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Generator,
    Iterator,
    Mapping,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Protocol

from asgiref.sync import SyncToAsync
from django.apps import apps
from django.db import Error, connections
from django.http import HttpRequest, StreamingHttpResponse

from .core.frames import Frame, Kind
from .core.outcomes import error_data
from .loop import background_loop, server_loop
from .wire.base import WireFormat

__all__ = ["Body", "StreamResponse", "close_connections", "closers_thread", "release_thread"]

logger = logging.getLogger("chatstream")


class StreamResponse(StreamingHttpResponse):
    """Base of the responses that stream: the server's way of iterating decides how."""

    def __init__(
        self, body: Body, *, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        self._resource_closers: list[Any]
        super().__init__(
            body,
            content_type=body.wire.content_type,
            status=status,
            headers={**body.wire.headers, **(headers or {})},
        )

    # Django asks a streaming response for its kind when it is made. Ours is known when a server
    # iterates it: by __iter__ under WSGI, by __aiter__ under ASGI. A middleware may have replaced
    # the content before; then Django's own way holds.

    def _set_streaming_content(self, value: Any) -> None:
        if isinstance(value, Body):
            self._iterator = value
            self._resource_closers.append(value.close)
        else:
            super()._set_streaming_content(value)  # type: ignore[misc]

    @property
    def is_async(self) -> bool:
        if isinstance(self._iterator, Body):
            return server_loop() is not None
        return self._is_async

    @is_async.setter
    def is_async(self, value: bool) -> None:
        self._is_async = value

    def __iter__(self) -> Iterator[bytes]:
        if not isinstance(self._iterator, Body):
            return super().__iter__()
        return iter(()) if self._answers_head() else iter(self._iterator)

    def __aiter__(self) -> AsyncGenerator[bytes]:
        if not isinstance(self._iterator, Body):
            return super().__aiter__()
        if (request := self._request()) is not None:
            # A second copy of META, as heavy; Django makes it anew for who asks after this.
            vars(request).pop("headers", None)
        return self._iterator.ahead() if self._answers_head() else aiter(self._iterator)

    def _answers_head(self) -> bool:
        """Whether the request is a HEAD: then the body is not sent, and nothing is pulled.

        Servers run the generator all the same.
        """
        request = self._request()
        return request is not None and request.method == "HEAD"

    def _request(self) -> HttpRequest | None:
        """Return the request, which a response does not know but for one trace.

        ``BaseHandler.get_response`` adds ``request.close`` to what it closes.
        """
        for closer in self._resource_closers:
            request = getattr(closer, "__self__", None)
            if isinstance(request, HttpRequest):
                return request
        return None


class FrameBatches(Protocol):
    """An async iterator of batches of frames; closing it lets go of what they come from."""

    def __aiter__(self) -> AsyncIterator[list[Frame]]: ...

    def __anext__(self) -> Awaitable[list[Frame]]: ...

    def aclose(self) -> Awaitable[None]: ...


class Body(ABC):
    """The body of a response, to be iterated once: in a thread, or on a loop."""

    def __init__(self, wire: WireFormat, run: str) -> None:
        self.wire = wire
        self._run = run
        self._running: Generator[bytes] | None = None
        self._release: Callable[[], object] | None = None

    @abstractmethod
    def batches(self) -> FrameBatches:
        """Return the frames as they come, [] for a heartbeat; the last one is terminal."""

    def __iter__(self) -> Iterator[bytes]:
        self._running = self._in_thread()
        return self._running

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._parts(self._on_server_loop)

    def close(self) -> None:
        """Called by the server when the response is over, in whatever way."""
        if self._running is not None:
            self._running.close()
        elif self._release is not None:
            self._release()

    async def ahead(self) -> AsyncGenerator[bytes]:
        """Answer a HEAD: nothing is pulled."""
        return
        yield b""

    def _in_thread(self) -> Generator[bytes]:
        """WSGI: the body runs on the background loop; this thread waits for its parts."""
        close_connections()
        with closing(background_loop().iterate(self._parts())) as parts:
            yield from parts

    async def _on_server_loop(self) -> None:
        """ASGI: the body runs where the server iterates it."""
        self._release = await release_thread()

    async def _parts(
        self, prepare: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncGenerator[bytes]:
        wire = self.wire
        is_terminated = False
        if prepare is not None:
            await prepare()
        yield wire.opening()
        try:
            async with aclosing(self.batches()) as gathered:
                async for frames in gathered:
                    part = wire.encode_all(frames) if frames else wire.heartbeat
                    is_terminated = bool(frames) and frames[-1].is_terminal
                    del frames  # a silent stream would keep its last read
                    if part:
                        yield part
                    del part
        except Exception:
            logger.exception("run %s: internal error while streaming", self._run)
        if not is_terminated:  # no exception leaves: a broken body is a network failure, not ours
            yield wire.encode(internal_error())


def internal_error() -> Frame:
    return Frame(0, Kind.ERROR, error_data("internal"))


def close_connections() -> None:
    """Close this thread's database connections, but for those in a transaction.

    An open stream would keep each of them idle for as long as it lasts.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            try:
                connection.close()
            except Error:  # a broken connection is no reason to break the stream
                logger.exception("the database connection '%s' did not close", connection.alias)


class _ClosersThread(ThreadPoolExecutor):
    """One thread for the end of all streams; asgiref shuts its contexts' executors down."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        return None


def closers_thread() -> ThreadPoolExecutor:
    return _ClosersThread(1, "chatstream-close")


async def release_thread() -> Callable[[], object]:
    """Let go of the thread, and of its database connections, in which the view was run.

    Django's ASGI handler keeps one thread for each request in a ``ThreadSensitiveContext`` until
    the response has ended; for a stream that is minutes. What needs a thread at the end, such as
    ``response.close()``, gets one that all streams share. Returns what to call last there.
    """
    context = SyncToAsync.thread_sensitive_context.get(None)
    if context is None:
        return _nothing
    executors = SyncToAsync.context_to_thread_executor
    if context in executors:
        thread = executors[context]
        try:
            await asyncio.get_running_loop().run_in_executor(thread, close_connections)
        finally:
            thread.shutdown(wait=False)
    executors[context] = apps.get_app_config("chatstream").closers_thread  # type: ignore[attr-defined]
    return partial(executors.pop, context, None)


def _nothing() -> None:
    return None
