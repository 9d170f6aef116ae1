"""HTTP under the openai package by aiohttp: a quarter of httpx's CPU for each read of a stream.

The package ships such a transport too. This one differs where our promises need it: it reads what
has arrived instead of up to 16 KiB, names each failure (the shipped one calls a server that hung up
a connect time-out), keeps no cookies, and can close a connection that did not end well instead of
pooling it (the extension ``discard``). See docs/dependencies.md.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import aiohttp
import httpx2
from yarl import URL

__all__ = ["AiohttpTransport"]

_KEEP_ALIVE = 60.0  # seconds: a chat pauses between two questions
_READ_BUFFER = 64 * 1024


class AiohttpTransport(httpx2.AsyncBaseTransport):
    """An httpx transport over one aiohttp session, made on first use in the running loop.

    ``connect_timeout`` is in seconds. There is no read time-out: the provider counts tokens.
    """

    def __init__(self, *, connect_timeout: float, trust_env: bool = False) -> None:
        self._timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=connect_timeout, ceil_threshold=60
        )
        self._trust_env = trust_env
        self._session: aiohttp.ClientSession | None = None

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if self._session is None:
            self._session = self._make_session()
        with _as_httpx_errors(request):
            response = await self._session.request(
                request.method,
                URL(str(request.url), encoded=True),
                headers=[(key.decode(), value.decode()) for key, value in request.headers.raw],
                data=await request.aread() or None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Content-Type"),
            )
        return httpx2.Response(
            response.status,
            headers=list(response.raw_headers),
            stream=_Body(response, request),
            request=request,
            extensions={"http_version": b"HTTP/1.1", "discard": response.close},
        )

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    def _make_session(self) -> aiohttp.ClientSession:
        # limit=0: no cap of our own, so that an answer never waits for another one to end.
        connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE)
        return aiohttp.ClientSession(
            connector=connector,
            timeout=self._timeout,
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._trust_env,
            read_bufsize=_READ_BUFFER,
        )


class _Body(httpx2.AsyncByteStream):
    def __init__(self, response: aiohttp.ClientResponse, request: httpx2.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors(self._request):
            content = self._response.content
            while data := await content.readany():
                yield data

    async def aclose(self) -> None:
        """Release the connection: to the pool if the body was read to its end, else close it."""
        self._response.release()


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
