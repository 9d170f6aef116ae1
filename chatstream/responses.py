"""A completion as an HTTP response that streams, on every server, and says how it ended.

::

    def answer(request):
        stream = client.chat.completions.create(model=…, messages=…, stream=True)
        return EventStreamResponse(stream)

No models: nothing is stored, nothing can be resumed. What is promised on the wire is in
docs/design.md, section 1.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, closing
from functools import partial
from typing import Any

from asgiref.sync import SyncToAsync, sync_to_async
from django.apps import apps
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.http import HttpRequest, StreamingHttpResponse

from .conf import settings
from .core.framer import Framer
from .core.frames import Frame, Kind
from .core.outcomes import error_data
from .loop import background_loop
from .providers.deadlines import Deadlines
from .providers.sources import AsyncSource, Source, SyncSource, source_of
from .pump import Pace, batches
from .wire.base import WireFormat
from .wire.native import NativeFormat

__all__ = ["EventStreamResponse"]

logger = logging.getLogger("chatstream")


class EventStreamResponse(StreamingHttpResponse):
    """Streams one completion.

    ``completion`` is the unstarted ``Stream`` or ``AsyncStream`` of the openai package, or a sync
    or async iterable of chunks (``ChatCompletionChunk``, dicts of its shape, or ``Delta``);
    anything else is a ``TypeError`` that says what to pass. It is iterated as the server wants:
    in a thread under WSGI, on the loop under ASGI. A synchronous completion under ASGI costs a
    thread; an asynchronous one cannot be streamed under WSGI, and ends as the error ``internal``.

    ``wire`` is the format, server-sent events by default; ``run`` names the answer in the log.
    ``deadlines`` hold for a completion that brings none of its own.
    """

    stall_timeout = 60.0  # seconds that a reader may take nothing before its upstream is closed

    def __init__(
        self,
        completion: object,
        *,
        wire: WireFormat | None = None,
        run: str = "",
        deadlines: Deadlines | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        if not apps.is_installed("chatstream"):
            raise ImproperlyConfigured("Add 'chatstream' to INSTALLED_APPS.")
        source = source_of(completion, deadlines)
        wire = wire or NativeFormat()
        framer = Framer(run, source.model, max_answer_chars=settings.MAX_ANSWER_CHARS)
        pace = Pace(settings.HEARTBEAT, self.stall_timeout)
        self._resource_closers: list[Any]
        super().__init__(
            EventStream(source, framer, wire, pace),
            content_type=wire.content_type,
            status=status,
            headers={**wire.headers, **(headers or {})},
        )

    # Django asks a streaming response for its kind when it is made. Ours is known when a server
    # iterates it: by __iter__ under WSGI, by __aiter__ under ASGI. A middleware may have replaced
    # the content before; then Django's own way holds.

    def _set_streaming_content(self, value: Any) -> None:
        if isinstance(value, EventStream):
            self._iterator = value
            self._resource_closers.append(value.close)
        else:
            super()._set_streaming_content(value)  # type: ignore[misc]

    @property
    def is_async(self) -> bool:
        if isinstance(self._iterator, EventStream):
            return _is_under_asgi()
        return self._is_async

    @is_async.setter
    def is_async(self, value: bool) -> None:
        self._is_async = value

    def __iter__(self) -> Iterator[bytes]:
        if not isinstance(self._iterator, EventStream):
            return super().__iter__()
        return self._iterator.head() if self._answers_head() else iter(self._iterator)

    def __aiter__(self) -> AsyncGenerator[bytes]:
        if not isinstance(self._iterator, EventStream):
            return super().__aiter__()
        return self._iterator.ahead() if self._answers_head() else aiter(self._iterator)

    def _answers_head(self) -> bool:
        """Whether the request is a HEAD: then the body is not sent, and nothing is pulled.

        Servers run the generator all the same. A response does not know its request but for one
        trace: ``BaseHandler.get_response`` adds ``request.close`` to what it closes.
        """
        for closer in self._resource_closers:
            request = getattr(closer, "__self__", None)
            if isinstance(request, HttpRequest):
                return request.method == "HEAD"
        return False


class EventStream:
    """The body of a response, to be iterated once: in a thread, or on a loop."""

    def __init__(self, source: Source, framer: Framer, wire: WireFormat, pace: Pace) -> None:
        self._source = source
        self._framer = framer
        self._wire = wire
        self._pace = pace
        self._running: Generator[bytes] | None = None
        self._release: Callable[[], object] | None = None

    def __iter__(self) -> Iterator[bytes]:
        self._running = self._in_thread()
        return self._running

    def __aiter__(self) -> AsyncGenerator[bytes]:
        return self._body(self._on_server_loop)

    def close(self) -> None:
        """Called by the server when the response is over, in whatever way."""
        if self._running is not None:
            self._running.close()
        elif self._release is not None:
            self._release()
        if isinstance(self._source, SyncSource) and not self._source.is_opened:
            self._source.interrupt()
            self._source.discard()

    def head(self) -> Iterator[bytes]:
        return iter(())

    async def ahead(self) -> AsyncGenerator[bytes]:
        await self._source.adiscard()
        return
        yield b""

    def _in_thread(self) -> Generator[bytes]:
        """WSGI: the body runs on the background loop; this thread waits for its parts."""
        close_connections()
        if isinstance(self._source, AsyncSource):
            logger.error(
                "An async completion cannot be streamed under WSGI: its connection belongs to the "
                "event loop of the view, which has ended. Make it with openai.OpenAI instead of "
                "openai.AsyncOpenAI, or serve the project with an ASGI server."
            )
            yield self._wire.opening() + self._wire.encode([_internal()])
            return
        with closing(background_loop().iterate(self._body())) as parts:
            yield from parts

    async def _on_server_loop(self) -> None:
        """ASGI: the body runs where the server iterates it."""
        self._release = await release_thread()
        if isinstance(self._source, SyncSource):
            _warn_of_thread()

    async def _body(
        self, prepare: Callable[[], Awaitable[None]] | None = None
    ) -> AsyncGenerator[bytes]:
        wire = self._wire
        is_terminated = False
        if prepare is not None:
            await prepare()
        yield wire.opening()
        try:
            async with aclosing(batches(self._source, self._framer, self._pace)) as gathered:
                async for frames in gathered:
                    if not frames:
                        yield wire.heartbeat
                        continue
                    part = wire.encode(frames)
                    is_terminated = frames[-1].is_terminal
                    del frames  # a silent stream would keep its last read
                    if part:
                        yield part
                    del part
        except Exception:
            logger.exception("run %s: internal error while streaming", self._framer.run)
        if not is_terminated:  # no exception leaves: a broken body is a network failure, not ours
            yield wire.encode([_internal()])


def _internal() -> Frame:
    return Frame(0, Kind.ERROR, error_data("internal"))


def close_connections() -> None:
    """Close this thread's database connections, but for those in a transaction.

    An open stream would keep each of them idle for as long as it lasts.
    """
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


_aclose_connections = sync_to_async(close_connections)  # made once: it costs as much as its call


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
        await _aclose_connections()
        executors[context].shutdown(wait=False)
    executors[context] = apps.get_app_config("chatstream").closers_thread  # type: ignore[attr-defined]
    return partial(executors.pop, context, None)


def _nothing() -> None:
    return None


def _is_under_asgi() -> bool:
    """Whether this code runs for an event loop: on it, or in a thread that it waits for."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        local = SyncToAsync.threadlocal
        if getattr(local, "main_event_loop_pid", None) != os.getpid():
            return False
        # asgiref never forgets: a WSGI thread that once ran an async view holds a loop that ended.
        return bool(local.main_event_loop.is_running())
    return True


def _warn_of_thread() -> None:
    config = apps.get_app_config("chatstream")
    if not config.has_warned_of_thread:  # type: ignore[attr-defined]
        config.has_warned_of_thread = True  # type: ignore[attr-defined]
        logger.warning(
            "A synchronous completion is streamed under ASGI: it costs a thread for each stream. "
            "Make it with openai.AsyncOpenAI to need none."
        )
