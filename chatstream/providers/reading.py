"""Reads one upstream response's raw bytes into batches of deltas, and lets its connection go.

A connection goes back to the pool after a clean end alone; after any other it is closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import suppress
from typing import Protocol, cast

import httpx2

from ..core.chunks import Delta, DeltaReader
from ..core.outcomes import RunError
from .base import Batch
from .deadlines import TokenWatch

__all__ = ["Body", "ResponseReader", "body_of"]

_DRAIN_TIMEOUT = 0.5  # seconds for what follows [DONE], so that the connection can be used again
_DRAIN_BYTES = 64 * 1024


class Body(Protocol):
    """The unread body of a response. Its errors are ``httpx2.HTTPError``."""

    async def read(self) -> bytes:
        """Return what has arrived, waiting for it; b"" at the end."""

    async def release(self) -> None:
        """Give the connection back to the pool, if the body was read to its end; else close it."""

    async def discard(self) -> None:
        """Close the connection, whatever was read."""


class HttpxBody:
    """The body of a response of any httpx transport."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._bytes = aiter(cast(httpx2.AsyncByteStream, response.stream))

    async def read(self) -> bytes:
        return await anext(self._bytes, b"")

    async def release(self) -> None:
        if _has_leftovers(self._response):
            await self._close_socket()
        with suppress(httpx2.HTTPError):
            await self._response.aclose()

    async def discard(self) -> None:
        await self._close_socket()
        with suppress(httpx2.HTTPError):
            await self._response.aclose()

    async def _close_socket(self) -> None:
        if (stream := self._response.extensions.get("network_stream")) is not None:
            await stream.aclose()


def _has_leftovers(response: httpx2.Response) -> bool:
    """Whether bytes came after the response, which httpcore would take for the next one.

    They lie in the connection's h11 state, where no public way leads; if that is not found where
    it was, we take the worse for granted, and the connection is not used again.
    """
    state: object = response.stream
    for name in ("_stream", "_httpcore_stream", "_stream", "_connection", "_h11_state"):
        state = getattr(state, name, None)
    data, _ = getattr(state, "trailing_data", (b"unknown", False))
    return bool(data)


def body_of(response: httpx2.Response) -> Body:
    """Return a response's body; our own transport hands over a lighter one than httpx's."""
    return cast(Body, response.extensions.get("body")) or HttpxBody(response)


class ResponseReader:
    """Reads a response; ``is_finished`` once a stop reason came.

    An async context manager, which lets the connection go: back to the pool after a clean end.
    """

    __slots__ = ("_body", "_content_encoding", "_max_event_bytes", "is_finished")

    def __init__(self, response: httpx2.Response, max_event_bytes: int) -> None:
        # The response itself is let go of: with its request it weighs as much as all the rest.
        self._body = body_of(response)
        self._content_encoding = response.headers.get("content-encoding", "")
        self._max_event_bytes = max_event_bytes
        self.is_finished = False

    async def batches(self, watch: TokenWatch) -> AsyncGenerator[Batch]:
        """Yield what each read brought, up to ``[DONE]`` or the end of the bytes."""
        # Made here, where a refusal of the encoding finds somebody to close the connection.
        reader = DeltaReader(self._content_encoding, self._max_event_bytes)
        try:
            while data := await self._body.read():
                if deltas := reader.receive(data):
                    self._note(deltas, watch)
                    watch.pause()
                    yield deltas
                    watch.resume()
                del data, deltas  # a silent stream would keep its last read
                if reader.is_done:
                    return
        except httpx2.HTTPError as exc:
            detail = f"the connection broke: {type(exc).__name__}"
            raise RunError("upstream_incomplete", detail) from None

    def _note(self, deltas: Sequence[Delta], watch: TokenWatch) -> None:
        for delta in deltas:
            if delta.finish_reason is not None or delta.is_done:
                self.is_finished = True
                watch.finish()
            elif delta.is_token and not self.is_finished:
                watch.token()

    async def __aenter__(self) -> ResponseReader:
        return self

    async def __aexit__(self, exc_type: type[BaseException] | None, *_: object) -> None:
        if exc_type is None and self.is_finished:
            _in_background(self._drain())  # nobody waits for it
        else:
            await self._body.discard()

    async def _drain(self) -> None:
        """Read what is left, so that the connection can be pooled; close it if that takes long."""
        left = _DRAIN_BYTES
        try:
            async with asyncio.timeout(_DRAIN_TIMEOUT):
                while (data := await self._body.read()) and left > 0:
                    left -= len(data)
        except (TimeoutError, httpx2.HTTPError):
            await self._body.discard()
        else:
            await self._body.release()


_tasks: set[asyncio.Task[None]] = set()  # the loop itself holds them weakly


def _in_background(work: Coroutine[None, None, None]) -> None:
    task = asyncio.get_running_loop().create_task(work)
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
