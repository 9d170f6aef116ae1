"""What a view may hand to ``EventStreamResponse``, made into something that can be pulled.

A source is asked for a completion when the response is iterated, for only then is it known whether
a WSGI server iterates it in a thread or an ASGI server on a loop. ``source_of`` takes what the
openai package returned, or any iterable of chunks, and refuses the rest with a ``TypeError`` that
says what to pass.
"""

from __future__ import annotations

import dis
import inspect
import socket
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from types import AsyncGeneratorType
from typing import Any

import httpx2
import openai

from ..core.chunks import DeltaReader, delta_of
from ..core.outcomes import RunError
from ..core.requests import RunRequest
from .base import AsyncCompletion, Batch, Provider
from .deadlines import Deadlines, TokenWatch
from .openai import translate
from .reading import ResponseReader

__all__ = ["AsyncSource", "ProviderSource", "Source", "SyncSource", "source_of"]

MAX_EVENT_BYTES = 16 * 1024 * 1024


class Source:
    """Something that can be asked for a completion, once."""

    model = ""

    async def adiscard(self) -> None:
        """Let go of it without having opened it."""
        return None


class ProviderSource(Source):
    """A provider and a request: bound to no loop and no thread; nothing was asked yet."""

    def __init__(self, provider: Provider[Any], request: RunRequest) -> None:
        self._provider = provider
        self._request: RunRequest | None = request
        self.model = provider.model_for(request)

    def aopen(self) -> AsyncCompletion:
        request, self._request = self._request, None  # the history would stay as long as the stream
        if request is None:
            raise RuntimeError("a source is opened once")
        return self._provider.aopen(request)


class AsyncSource(Source):
    """An async iterable of chunks: bound to the loop of the view that made it."""

    def __init__(self, chunks: AsyncIterable[Any], deadlines: Deadlines) -> None:
        self._chunks = chunks
        self._deadlines = deadlines

    @asynccontextmanager
    async def aopen(self) -> AsyncIterator[AsyncGenerator[Batch]]:
        async with TokenWatch(self._deadlines) as watch:
            try:
                async with aclosing(self._deltas(watch)) as batches:
                    yield batches
            except openai.OpenAIError as exc:
                raise translate(exc) from None
            finally:
                await self.adiscard()

    async def _deltas(self, watch: TokenWatch) -> AsyncGenerator[Batch]:
        async for chunk in self._chunks:
            delta = delta_of(chunk)
            if delta.is_token:
                watch.token()
            watch.pause()
            yield [delta]
            watch.resume()

    async def adiscard(self) -> None:
        close = getattr(self._chunks, "close", None) or getattr(self._chunks, "aclose", None)
        if close is not None:
            await close()


class AsyncStreamSource(AsyncSource):
    """An ``AsyncStream``, whose response is read raw."""

    _chunks: openai.AsyncStream[Any]

    @asynccontextmanager
    async def aopen(self) -> AsyncIterator[AsyncGenerator[Batch]]:
        response = self._chunks.response
        response.is_stream_consumed = True  # by us, past httpx: it cannot be passed once more
        async with TokenWatch(self._deadlines) as watch:
            reader = ResponseReader(response, MAX_EVENT_BYTES)
            async with reader, aclosing(reader.batches(watch)) as batches:
                yield batches


class SyncSource(Source):
    """A ``Stream`` or an iterable: pulled in a thread of its own, on every server."""

    def __init__(self, chunks: Iterable[Any], deadlines: Deadlines) -> None:
        self._chunks = chunks
        self.deadlines = deadlines
        self.is_opened = False
        self._lock = threading.Lock()
        self._is_discarded = False
        self._is_interrupted = False

    @contextmanager
    def open(self) -> Generator[Iterable[Batch]]:
        self.is_opened = True
        try:
            with closing(self._batches()) as batches:
                yield batches
        except openai.OpenAIError as exc:
            raise translate(exc) from None
        finally:
            self.discard()

    def interrupt(self) -> None:
        """Wake the thread that waits for the upstream, from another one, if that can be done.

        Closing the stream does not wake it: the socket has to be shut down.
        """
        self._is_interrupted = True  # an iterable ends at its next chunk
        # The lock: once discarded, the connection may already carry somebody else's answer.
        with self._lock:
            if self._is_discarded or not isinstance(self._chunks, openai.Stream):
                return
            network = self._chunks.response.extensions.get("network_stream")
            if network is not None and (sock := network.get_extra_info("socket")) is not None:
                with suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def discard(self) -> None:
        with self._lock:
            self._is_discarded = True
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()

    async def adiscard(self) -> None:
        self.interrupt()
        self.discard()

    def _batches(self) -> Generator[Batch]:
        if isinstance(self._chunks, openai.Stream):
            return _raw_batches(self._chunks.response)
        return self._deltas()

    def _deltas(self) -> Generator[Batch]:
        for chunk in self._chunks:
            if self._is_interrupted:
                return
            yield [delta_of(chunk)]


def _raw_batches(response: httpx2.Response) -> Generator[Batch]:
    reader = DeltaReader(response.headers.get("content-encoding", ""), MAX_EVENT_BYTES)
    try:
        for data in response.iter_raw():
            if deltas := reader.receive(data):
                yield deltas
            if reader.is_done:
                return
    except httpx2.HTTPError as exc:
        detail = f"the connection broke: {type(exc).__name__}"
        raise RunError("upstream_incomplete", detail) from None


# What is taken, and what is not -----------------------------------------------------------------

_WANTED = (
    "EventStreamResponse takes the unstarted stream that client.chat.completions.create(…, "
    "stream=True) returned, or an iterable or async iterable of chunks"
)


def source_of(completion: object, deadlines: Deadlines | None = None) -> Source:
    """Return the source for what a view hands over; ``TypeError`` for what cannot be streamed."""
    deadlines = deadlines or Deadlines()
    if isinstance(completion, Source):
        return completion
    _refuse_misfits(completion)
    if isinstance(completion, openai.AsyncStream):
        return AsyncStreamSource(completion, deadlines)
    if hasattr(completion, "__aiter__"):
        return AsyncSource(completion, deadlines)
    if isinstance(completion, Iterable):
        return SyncSource(completion, deadlines)
    raise TypeError(f"{_WANTED}, not {type(completion).__name__}.")


def _refuse_misfits(completion: object) -> None:
    name = type(completion).__name__
    if inspect.isawaitable(completion):
        if inspect.iscoroutine(completion):
            completion.close()  # it will never be awaited, and would warn of that
        raise TypeError(f"{_WANTED}, not {name}: await it first.")
    if isinstance(completion, str | bytes | dict):
        raise TypeError(f"{_WANTED}, not {name}: put chunks into a list, or yield them.")
    if hasattr(completion, "model_dump"):
        raise TypeError(f"{_WANTED}, not a whole {name}: pass stream=True to create().")
    if hasattr(completion, "__enter__") and not isinstance(completion, openai.Stream):
        raise TypeError(f"{_WANTED}, not a {name}: create(…, stream=True) returns one.")
    if _is_started(completion):
        raise TypeError(f"{_WANTED}, but this {name} was already iterated: pass it untouched.")


def _is_started(completion: object) -> bool:
    if isinstance(completion, openai.Stream | openai.AsyncStream):
        return completion.response.is_stream_consumed or completion.response.is_closed
    if inspect.isgenerator(completion):
        return inspect.getgeneratorstate(completion) != inspect.GEN_CREATED
    if inspect.isasyncgen(completion):
        return not _is_untouched(completion)
    return False


def _is_untouched(generator: AsyncGeneratorType[Any, Any]) -> bool:
    if sys.version_info >= (3, 12):
        return inspect.getasyncgenstate(generator) == inspect.AGEN_CREATED
    # Before its first step a generator stands at the instruction that made it.
    frame = generator.ag_frame
    return frame is not None and (
        dis.opname[frame.f_code.co_code[frame.f_lasti]] == "RETURN_GENERATOR"
    )
