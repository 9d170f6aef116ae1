"""Any OpenAI-compatible server, through the openai package.

The package makes the request (authentication, Azure, headers); the response's bytes are read here,
for the package's own iterator cannot tell ``[DONE]`` from a cut connection, dies of legal SSE, and
costs ten to forty times more for each chunk (docs/dependencies.md).
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, cast

import httpx2
import openai
from django.core.checks import CheckMessage, Warning
from django.core.exceptions import ImproperlyConfigured

from ..conf import DEFAULT_MODEL
from ..core.outcomes import RunError
from ..core.requests import RunRequest
from ..core.upstream import code_of_error, code_of_status
from .base import Batch, Provider
from .deadlines import Deadlines, TokenWatch
from .reading import Body, ResponseReader, body_of

__all__ = ["OpenAIOptions", "OpenAIProvider", "translate"]

_MAX_ERROR_BODY = 64 * 1024  # bytes of an error response that we look at
_ERROR_BODY_TIMEOUT = 2.0  # seconds for them
# What machine this is, on every request: nobody's business, and a kilobyte for each open stream.
_NO_TELEMETRY = {
    f"X-Stainless-{name}": openai.Omit()
    for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version", "Async")
}
_NO_POOL = httpx2.Limits(max_connections=None, max_keepalive_connections=0)
_NO_LIMITS = httpx2.Limits(
    max_connections=None, max_keepalive_connections=None, keepalive_expiry=60
)


@dataclass(frozen=True)
class OpenAIOptions:
    """The provider's OPTIONS; times in seconds. docs/settings.md explains each."""

    base_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    model: str = DEFAULT_MODEL
    models: list[str] = field(default_factory=list)
    params: dict[str, Any] = field(default_factory=dict)
    max_history_chars: int | None = field(default=None, metadata={"above": 0})
    include_usage: bool = True
    connect_timeout: float = field(default=3.0, metadata={"above": 0})
    first_token_timeout: float = field(default=60.0, metadata={"above": 0})
    token_timeout: float = field(default=30.0, metadata={"above": 0})
    run_timeout: float = field(default=600.0, metadata={"above": 0})
    max_event_bytes: int = field(default=16 * 1024 * 1024, metadata={"above": 0})
    azure_api_version: str | None = None
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    transport: Literal["auto", "httpx", "httptools"] = "auto"
    trust_env: bool = False  # proxies from the environment


class OpenAIProvider(Provider[OpenAIOptions]):
    """Streams chat completions from ``base_url``, or from OpenAI."""

    options_class = OpenAIOptions

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self._refuse_misfits()
        self.deadlines = Deadlines(
            self.options.first_token_timeout, self.options.token_timeout, self.options.run_timeout
        )
        # A client's connections belong to one event loop. The keys: whether they are pooled.
        self._clients: weakref.WeakKeyDictionary[
            asyncio.AbstractEventLoop, dict[bool, openai.AsyncOpenAI]
        ] = weakref.WeakKeyDictionary()

    @asynccontextmanager
    async def aopen(self, request: RunRequest) -> AsyncIterator[AsyncGenerator[Batch]]:
        async with TokenWatch(self.deadlines) as watch:
            reader = ResponseReader(await self._ask(request), self.options.max_event_bytes)
            del request  # the history would stay as long as the stream
            async with reader, aclosing(reader.batches(watch)) as batches:
                yield batches

    def _refuse_misfits(self) -> None:
        if self.options.transport != "httptools":
            return
        where = f'CHATSTREAM["PROVIDERS"]["{self.alias}"]["OPTIONS"]["transport"] is "httptools", '
        if self.options.trust_env:
            raise ImproperlyConfigured(
                f'{where}which knows no proxies. With trust_env, say "auto" or "httpx".'
            )
        if not _has_httptools():
            raise ImproperlyConfigured(
                f'{where}which is not installed: pip install "django-chatstream[fast]", or say '
                '"auto".'
            )

    async def aclose(self) -> None:
        """Close this loop's connections; a later request opens new ones."""
        clients = self._clients.pop(asyncio.get_running_loop(), {})
        for client in clients.values():
            await client.close()

    def check(self) -> list[CheckMessage]:
        if self.options.api_key or self.options.base_url:
            return []
        return [
            Warning(  # no error: a build machine that has no key still migrates and tests
                f"The provider '{self.alias}' has no api_key.",
                hint="Set the environment variable OPENAI_API_KEY, or the option api_key; "
                "for a local server that wants none, set base_url.",
                id="chatstream.W001",
            )
        ]

    # The request --------------------------------------------------------------------------------

    def body(self, request: RunRequest) -> dict[str, Any]:
        """Return the fields of the request body; a subclass may add to them."""
        body: dict[str, Any] = {"messages": request.messages, "stream": True}
        if self.options.include_usage:
            body["stream_options"] = {"include_usage": True}
        return body | self.options.params | request.params

    async def _ask(self, request: RunRequest) -> httpx2.Response:
        """Send the request; return the response, its body unread.

        Asks once more, and at once, only if the connection was lost before any byte of a response:
        most likely a pooled one that the upstream had closed. The second try has a connection of
        its own, for all pooled ones may have died together when the upstream restarted.
        """
        try:
            return await self._create(request)
        except _ConnectionLost:
            return await self._create(request, is_pooled=False)

    async def _create(self, request: RunRequest, *, is_pooled: bool = True) -> httpx2.Response:
        try:
            # What ``chat.completions.create`` ends in. It would validate the messages one by one,
            # 10 ms of CPU for forty, and wrap a response that is only read here.
            response = await self._client(is_pooled).post(
                "/chat/completions",
                cast_to=httpx2.Response,
                body={"model": self.model_for(request), **self.body(request)},
                options={"security": {"bearer_auth": True}},  # as create(): no admin key
                stream=True,
                stream_cls=openai.AsyncStream[Any],
            )
        except openai.OpenAIError as exc:
            raise translate(exc) from None
        return cast(httpx2.Response, response)  # what cast_to asks for, whatever stream_cls says

    def _client(self, is_pooled: bool) -> openai.AsyncOpenAI:
        clients = self._clients.setdefault(asyncio.get_running_loop(), {})
        if is_pooled not in clients:
            self._forget_closed_loops()
            clients[is_pooled] = self.make_client(is_pooled=is_pooled)
        return clients[is_pooled]

    def _forget_closed_loops(self) -> None:
        """A client holds its loop by its connections, so that the weak keys never die alone."""
        for loop in [loop for loop in self._clients if loop.is_closed()]:
            del self._clients[loop]

    def make_client(self, *, is_pooled: bool = True) -> openai.AsyncOpenAI:
        """Return a client of the openai package for the running loop.

        With ``is_pooled`` False each of its connections carries one request.
        ``max_retries=0``: the package would sleep out a Retry-After of up to two minutes.
        """
        options = self.options
        settings: dict[str, Any] = {
            # A server that wants no key gets a word: the package refuses to send none.
            "api_key": options.api_key or "none",
            "default_headers": {"Accept-Encoding": "identity", **_NO_TELEMETRY, **options.headers},
            "max_retries": 0,
            "http_client": self._http_client(is_pooled),
        }
        if options.azure_api_version:
            settings |= {
                "azure_endpoint": options.base_url,
                "api_version": options.azure_api_version,
            }
            return openai.AsyncAzureOpenAI(**settings)
        return openai.AsyncOpenAI(base_url=options.base_url, **settings)

    def _http_client(self, is_pooled: bool) -> httpx2.AsyncClient:
        options = self.options
        return httpx2.AsyncClient(
            transport=self._transport(is_pooled),
            limits=_NO_LIMITS if is_pooled else _NO_POOL,
            timeout=httpx2.Timeout(None, connect=options.connect_timeout),
            follow_redirects=False,
            trust_env=options.trust_env,
            event_hooks={"response": [_expect_stream]},
        )

    def _transport(self, is_pooled: bool) -> httpx2.AsyncBaseTransport | None:
        options = self.options
        wants = options.transport
        if wants == "auto":
            # Proxies are httpx's affair.
            wants = "httptools" if _has_httptools() and not options.trust_env else "httpx"
        if wants == "httpx":
            return None  # httpx's own: given one, it would not look for the environment's proxies
        from .transport import HttptoolsTransport

        return HttptoolsTransport(is_pooled=is_pooled)


def _has_httptools() -> bool:
    """Whether the extra ``fast`` is there; uvicorn brings an httptools too, which may be old."""
    if not all(map(importlib.util.find_spec, ("httptools", "aiohappyeyeballs"))):
        return False
    import httptools

    return hasattr(httptools.HttpResponseParser, "set_dangerous_leniencies")


class _ConnectionLost(RunError):
    """The connection was lost before any byte of a response."""


async def _expect_stream(response: httpx2.Response) -> None:
    """Raise a ``RunError`` for a response that is no stream, after a look at what it is.

    An httpx response hook: it runs before the package, which would read an error body without end.
    """
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    if response.status_code == 200 and kind not in ("text/html", "application/json"):
        return
    body = body_of(response)
    refusal = await _read_json(body)
    await body.discard()
    code = code_of_status(response.status_code)
    if response.status_code >= 400:
        error = refusal.get("error", refusal) if isinstance(refusal, dict) else None
        code = code_of_error(error, code)
    detail = f"status {response.status_code}, {kind or 'no content type'}"
    raise RunError(code, detail, retry_after=_retry_after(response.headers.get("retry-after")))


async def _read_json(body: Body) -> object:
    """Return the decoded JSON body, or None; reads a bounded part for a bounded time."""
    read = b""
    with suppress(TimeoutError, httpx2.HTTPError, ValueError, RecursionError):
        async with asyncio.timeout(_ERROR_BODY_TIMEOUT):
            while data := await body.read():
                read += data
                if len(read) > _MAX_ERROR_BODY:
                    return None
        return json.loads(read)
    return None


def _retry_after(value: str | None) -> int | None:
    """Return the seconds of a Retry-After header (RFC 9110, 10.2.3): a number, or a date."""
    if not value:
        return None
    if value.strip().isdigit():
        return int(value.strip()[:9])
    with suppress(ValueError, TypeError):
        seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        return max(0, round(seconds))
    return None


def translate(exc: openai.OpenAIError) -> RunError:
    """Return our exception for the package's, without its words: they may repeat the key."""
    cause = exc.__cause__
    if isinstance(cause, RunError):
        return cause
    if isinstance(exc, openai.APIStatusError):
        code = code_of_error(exc.body, code_of_status(exc.status_code))
        retry_after = _retry_after(exc.response.headers.get("retry-after"))
        return RunError(code, f"status {exc.status_code}", retry_after=retry_after)
    if isinstance(exc, openai.APITimeoutError) or isinstance(cause, httpx2.TimeoutException):
        return RunError("upstream_timeout", "the connection took too long")
    if isinstance(cause, httpx2.ConnectError):
        return RunError("upstream_unreachable", "the connection was refused, or name or TLS failed")
    if isinstance(cause, httpx2.RemoteProtocolError) and "disconnected" not in str(cause):
        return RunError("upstream_malformed", "the response is not HTTP")
    if isinstance(cause, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return _ConnectionLost("upstream_unreachable", "the connection was lost")
    if isinstance(exc, openai.APIError) and not isinstance(exc, openai.APIConnectionError):
        return RunError(code_of_error(exc.body, "upstream_error"), "an error in the stream")
    return RunError("upstream_unreachable", type(cause or exc).__name__)
