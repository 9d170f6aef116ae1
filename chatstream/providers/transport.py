"""An httpx transport under the openai package, made for streams; ``exchange`` is what it speaks.

A connection is used again only after a whole answer behind which nothing lay. Proxies are httpx's
affair. docs/dependencies.md says what it saves.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from typing import NamedTuple, TypeVar, cast

import aiohappyeyeballs
import httpx2

from .exchange import Exchange, head_of

__all__ = ["HttptoolsTransport"]

T = TypeVar("T")

_KEEP_ALIVE = 60.0  # seconds: a chat pauses between two questions
_ADDRESSES_LAST = 10.0  # seconds that a name's addresses are believed
_NEXT_ADDRESS = 0.25  # seconds until the next address of a host is tried too (RFC 8305)


class Origin(NamedTuple):
    """Where a connection leads: ``host`` is ASCII, an IPv6 address without brackets."""

    scheme: str
    host: str
    port: int


class HttptoolsTransport(httpx2.AsyncBaseTransport):
    """An httpx transport for one event loop.

    It keeps httpx's time-outs for connecting (name, TCP and TLS together) and reading; speaks no
    HTTP/2, to no proxy, and not HEAD. ``is_pooled`` False closes each connection after its answer.
    A response's extension ``body`` is its ``reading.Body``, which waits for as long as it takes.
    """

    def __init__(self, *, is_pooled: bool = True) -> None:
        self._is_pooled = is_pooled
        self._tls: ssl.SSLContext | None = None
        self._addresses: dict[Origin, tuple[float, list[tuple[object, ...]]]] = {}
        self._idle: dict[Origin, dict[Connection, None]] = {}  # the one used last is last
        self._connections: set[Connection] = set()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        origin = _origin_of(request.url)
        content = await request.aread()
        head = head_of(request, len(content))
        timeouts = request.extensions.get("timeout", {})
        connection = self._take(origin) or await self._connect(origin, timeouts.get("connect"))
        try:
            exchange = connection.begin(head + content)
            await _within(timeouts.get("read"), exchange.head())
        except BaseException:
            connection.abort()
            raise
        headers, exchange.headers = exchange.headers, []
        return httpx2.Response(
            exchange.status,
            headers=headers,
            stream=_Stream(exchange, timeouts.get("read")),
            extensions={"http_version": b"HTTP/1.1", "body": exchange},
        )

    async def aclose(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    # The pool -------------------------------------------------------------------------------------

    def put(self, connection: Connection) -> None:
        """Keep a connection for the next answer; it is clean and waits for a request."""
        if self._is_pooled:
            self._idle.setdefault(connection.origin, {})[connection] = None
            connection.rest(_KEEP_ALIVE)
        else:
            connection.abort()

    def remember(self, connection: Connection) -> None:
        """The connection is open."""
        self._connections.add(connection)

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""
        self._connections.discard(connection)
        self._idle.get(connection.origin, {}).pop(connection, None)

    def _take(self, origin: Origin) -> Connection | None:
        idle = self._idle.get(origin)
        while idle:
            connection, _ = idle.popitem()  # the least likely to be closed by now
            if connection.wake():
                return connection
            connection.abort()  # what came on it may be TLS's own, of which the loop tells nobody
        return None

    # Connecting -----------------------------------------------------------------------------------

    async def _connect(self, origin: Origin, patience: float | None) -> Connection:
        # The errors' own words stay here: those of TLS quote what the server sent.
        try:
            async with asyncio.timeout(patience):
                return await self._open(origin)
        except TimeoutError as exc:
            raise httpx2.ConnectTimeout(type(exc).__name__) from None
        except (OSError, ValueError) as exc:  # ssl.CertificateError is a ValueError, too
            raise httpx2.ConnectError(type(exc).__name__) from None

    async def _open(self, origin: Origin) -> Connection:
        loop = asyncio.get_running_loop()
        connection = Connection(self, origin)
        sock = await aiohappyeyeballs.start_connection(
            await self._resolve(origin),  # type: ignore[arg-type]
            happy_eyeballs_delay=_NEXT_ADDRESS,
            loop=loop,
        )
        is_tls = origin.scheme == "https"
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.create_connection(
                lambda: connection,
                sock=sock,
                ssl=self._tls_context() if is_tls else None,
                server_hostname=origin.host if is_tls else None,
            )
        except asyncio.CancelledError:
            self.forget(connection)  # uvloop does not tell that it is lost
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)  # not close: asyncio still watches its number
            raise
        except BaseException:
            sock.close()
            raise
        return connection

    async def _resolve(self, origin: Origin) -> list[tuple[object, ...]]:
        """Return the addresses of a host; asked anew only every ``_ADDRESSES_LAST`` seconds."""
        loop = asyncio.get_running_loop()
        known = self._addresses.get(origin)
        if known is None or known[0] < loop.time():
            found = await loop.getaddrinfo(origin.host, origin.port, type=socket.SOCK_STREAM)
            known = self._addresses[origin] = (loop.time() + _ADDRESSES_LAST, list(found))
        return known[1]

    def _tls_context(self) -> ssl.SSLContext:
        if self._tls is None:
            self._tls = httpx2.create_ssl_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        return self._tls


class Connection(asyncio.Protocol):
    """One socket, which carries one exchange at a time."""

    __slots__ = ("_exchange", "_expiry", "_is_open", "_pool", "_transport", "origin")

    def __init__(self, pool: HttptoolsTransport, origin: Origin) -> None:
        self.origin = origin
        self._pool = pool
        self._exchange: Exchange | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._is_open = True

    # What the event loop calls --------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by type
        self._pool.remember(self)

    def data_received(self, data: bytes) -> None:
        if self._exchange is not None:
            self._exchange.receive(data)
        else:  # nobody asked: it would be taken for the next answer
            self.abort()

    def eof_received(self) -> None:
        if self._exchange is not None:
            self._exchange.end_of_bytes()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_open = False
        self._cancel_expiry()
        self._pool.forget(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.lose()

    # What an exchange calls (``Link``) ------------------------------------------------------------

    def pause(self) -> None:
        self._transport.pause_reading()

    def resume(self) -> None:
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def end(self, *, is_clean: bool) -> None:
        """The exchange is over: back to the pool, or closed."""
        self._exchange = None
        if is_clean and self._is_usable():
            self._pool.put(self)
        else:
            self.abort()

    def abort(self) -> None:
        """Close the socket, and wait for nothing."""
        self._cancel_expiry()
        self._transport.abort()

    # What the pool calls --------------------------------------------------------------------------

    def begin(self, request: bytes) -> Exchange:
        """Send a request; return what becomes of it."""
        exchange = Exchange(self)
        if self._is_open:
            self._exchange = exchange
            self._transport.write(request)
        else:
            exchange.lose()
        return exchange

    def rest(self, seconds: float) -> None:
        """Be closed after so many seconds in which nobody asks."""
        self._expiry = asyncio.get_running_loop().call_later(seconds, self.abort)

    def wake(self) -> bool:
        """Return whether it can be used: it is open, and nothing came on it that nobody asked for.

        What lies in the socket still unread would be taken for the next answer.
        """
        self._cancel_expiry()
        return self._is_usable() and not self._has_news()

    def _is_usable(self) -> bool:
        return self._is_open and not self._transport.is_closing()

    def _has_news(self) -> bool:
        number = self._transport.get_extra_info("socket").fileno()
        if not hasattr(select, "poll"):  # Windows, where select() takes any number
            return bool(select.select([number], [], [], 0)[0])
        poll = select.poll()
        poll.register(number, select.POLLIN)
        return bool(poll.poll(0))

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()
            self._expiry = None


class _Stream(httpx2.AsyncByteStream):
    """The body for those who read the response as httpx's."""

    def __init__(self, exchange: Exchange, timeout: float | None) -> None:
        self._exchange = exchange
        self._timeout = timeout

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await _within(self._timeout, self._exchange.read()):
            yield data

    async def aclose(self) -> None:
        await self._exchange.release()


async def _within(seconds: float | None, wait: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(seconds):
            return await wait
    except TimeoutError:
        raise httpx2.ReadTimeout(f"nothing came for {seconds} seconds") from None


def _origin_of(url: httpx2.URL) -> Origin:
    if url.scheme not in ("http", "https") or not url.host:
        raise httpx2.UnsupportedProtocol(f"base_url is no http or https URL: {url.scheme!r}")
    host = url.raw_host.decode("ascii").removeprefix("[").removesuffix("]")
    return Origin(url.scheme, host, url.port or (443 if url.scheme == "https" else 80))
