"""HTTP under the openai package by aiohttp: a quarter of httpx's CPU for each read of a stream.

The package ships such a transport too. This one differs where our promises need it: it reads what
has arrived instead of up to 16 KiB, names each failure (the shipped one calls a server that hung up
a connect time-out), keeps no cookies, never uses a connection again on which something stray came,
and can close one that did not end well (the response's extension ``body``). See
docs/dependencies.md.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self, cast

import aiohttp
import httpx2
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

__all__ = ["AiohttpTransport"]

_NO_HEADERS: CIMultiDictProxy[str] = CIMultiDictProxy(CIMultiDict())
_KEEP_ALIVE = 60.0  # seconds: a chat pauses between two questions
_READ_BUFFER = 64 * 1024
_CAN_CHECK_POOL = hasattr(aiohttp.TCPConnector, "_get")
_CAN_TAKE = hasattr(ResponseHandler, "_reading_paused") and all(
    hasattr(aiohttp.StreamReader, name)
    for name in ("_buffer", "_size", "_eof", "_exception", "_http_chunk_splits", "_waiter")
)


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """An httpx transport over one aiohttp session, made on first use in the running loop.

    ``connect_timeout`` is in seconds. There is no read time-out: the provider counts tokens.
    ``is_pooled`` False closes every connection after its one answer.
    """

    def __init__(
        self, *, connect_timeout: float, trust_env: bool = False, is_pooled: bool = True
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, ceil_threshold=60
        )
        self._trust_env = trust_env
        self._is_pooled = is_pooled and _CAN_CHECK_POOL
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._session is None:
            self._session = self._make_session()
        with _as_httpx_errors(request):
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=[(_text(key), _text(value)) for key, value in request.headers.raw],
                data=await request.aread() or None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            )
        body = _body_of(cast(_Response, response))
        headers = list(response.raw_headers)
        cast(_Response, response).forget_headers()
        return httpx2.Response(
            response.status,
            headers=headers,
            stream=_Stream(body),
            request=request,
            extensions={"http_version": b"HTTP/1.1", "body": body},
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _make_session(self) -> aiohttp.ClientSession:
        # limit=0: no cap of our own, so that an answer never waits for another one to end.
        connector = (
            _CleanConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
            if self._is_pooled
            else aiohttp.TCPConnector(limit=0, force_close=True)
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
            read_bufsize=_READ_BUFFER,
            response_class=_Response,
        )


@lru_cache(256)
def _text(header: bytes) -> str:
    """Decode a header's name or value; the same few on every request are kept once."""
    return header.decode()


class _CleanConnector(aiohttp.TCPConnector):
    """Hands out no pooled connection on which something came that nobody asked for.

    aiohttp would take it for the next answer: a stray response after an answer makes every later
    chat on that connection show the one before.
    """

    async def _get(self, key: Any, traces: Any) -> Any:
        while (connection := await super()._get(key, traces)) is not None:
            if connection.protocol is not None and not connection.protocol.should_close:
                return connection
            connection.close()
        return None


class _Response(aiohttp.ClientResponse):
    """Remembers its connection, which aiohttp pools as soon as the body's last byte is here."""

    protocol: ResponseHandler | None = None

    async def start(self, connection: Connection) -> Self:
        self.protocol = connection.protocol
        if self.protocol is not None:
            self.protocol.answering = weakref.ref(self)  # type: ignore[attr-defined]
        await super().start(connection)
        return self

    def forget_headers(self) -> None:
        """Let go of both sides' headers: three of the forty kilobytes of an open stream."""
        self._headers = _NO_HEADERS
        self._cache = {}  # ``headers`` keeps them here, too
        self._raw_headers = ()
        self._request_info = self._request_info._replace(headers=_NO_HEADERS)


class AiohttpBody:
    """The unread body of a response (``reading.Body``)."""

    __slots__ = ("_closed", "_content", "_error", "_protocol", "_response")

    def __init__(self, response: _Response) -> None:
        self._response = response
        self._content = response.content
        self._error: Exception | None = None
        self._protocol = response.protocol
        self._closed = self._protocol.closed if self._protocol is not None else None
        if self._closed is not None:
            self._closed.add_done_callback(self._wake)

    async def read(self) -> bytes:
        if self._error is not None:
            raise self._error
        try:
            return await self._content.readany()
        except (aiohttp.ClientError, OSError) as exc:
            self._error = httpx2.ReadError(type(exc).__name__)
        # aiohttp forgets what came before the error: it still counts.
        buffered = b"".join(getattr(self._content, "_buffer", ()))
        if not buffered:
            raise self._error
        return buffered

    async def release(self) -> None:
        self._let_go()
        self._response.release()

    async def discard(self) -> None:
        self._let_go()
        self._response.close()
        # It may be in the pool already, and from there even have been taken for another answer.
        protocol = self._protocol
        if protocol is not None and protocol.answering() is self._response:  # type: ignore[attr-defined]
            protocol.close()

    def _wake(self, closed: asyncio.Future[None]) -> None:
        """The connection is closed. After a broken chunk aiohttp would not tell its reader."""
        _retrieve(closed)
        if not self._content.is_eof() and self._content.exception() is None:
            self._content.set_exception(aiohttp.ClientPayloadError("the connection was closed"))

    def _let_go(self) -> None:
        if self._closed is not None:
            self._closed.remove_done_callback(self._wake)
            self._closed.remove_done_callback(_retrieve)
            self._closed.add_done_callback(_retrieve)


class _QuickBody(AiohttpBody):
    """Takes what has arrived out of aiohttp's buffer itself.

    ``readany`` keeps account of the ends of HTTP chunks, and after every read resumes a parser that
    nobody paused: as much CPU for a token as all of our decoding.
    """

    __slots__ = ()

    async def read(self) -> bytes:
        content: Any = self._content
        try:
            while not content._buffer and not content._eof:
                await self._arrival()
        except (aiohttp.ClientError, OSError) as exc:
            raise httpx2.ReadError(type(exc).__name__) from None
        buffer = content._buffer
        data: bytes = buffer.popleft() if len(buffer) == 1 else b"".join(buffer)
        buffer.clear()
        content._size = 0
        while content._http_chunk_splits:
            content._http_chunk_splits.popleft()
        if content._protocol._reading_paused:
            content._protocol.resume_reading()
        return data

    def _arrival(self) -> asyncio.Future[None]:
        """Return what aiohttp sets when bytes arrive, or their end; raise if none can come."""
        content: Any = self._content
        if content._exception is not None:
            raise content._exception
        if not content._protocol.connected:
            raise aiohttp.ClientConnectionError
        content._waiter = content._loop.create_future()
        return cast("asyncio.Future[None]", content._waiter)


def _body_of(response: _Response) -> AiohttpBody:
    is_usual = type(response.content) is aiohttp.StreamReader  # a 204 has another one
    return _QuickBody(response) if _CAN_TAKE and is_usual else AiohttpBody(response)


def _retrieve(closed: asyncio.Future[None]) -> None:
    """Look at the future's error, so that asyncio does not report that nobody did."""
    if not closed.cancelled():
        closed.exception()


class _Stream(httpx2.AsyncByteStream):
    """The same for those who read the response as httpx's."""

    def __init__(self, body: AiohttpBody) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self._body.read():
            yield data

    async def aclose(self) -> None:
        await self._body.release()


@contextmanager
def _as_httpx_errors(request: httpx2.Request) -> Iterator[None]:
    """Raise aiohttp's failures as httpx's, without their words: those may repeat a header."""
    try:
        yield
    except (aiohttp.ServerTimeoutError, TimeoutError) as exc:
        raise httpx2.ConnectTimeout(type(exc).__name__, request=request) from None
    except aiohttp.ClientConnectorError as exc:
        raise httpx2.ConnectError(type(exc).__name__, request=request) from None
    except aiohttp.ServerDisconnectedError as exc:
        raise httpx2.ReadError(type(exc).__name__, request=request) from None
    except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as exc:
        raise httpx2.RemoteProtocolError(type(exc).__name__, request=request) from None
    except (aiohttp.ClientError, OSError) as exc:
        raise httpx2.ReadError(type(exc).__name__, request=request) from None
