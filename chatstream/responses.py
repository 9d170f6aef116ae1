"""HTTP responses that stream, on every server, and say how the answer ended.

::

    def answer(request):
        stream = client.chat.completions.create(model=…, messages=…, stream=True)
        return EventStreamResponse(stream)

That needs no tables: nothing is stored, nothing can be resumed. ``RunStreamResponse`` is one reader
of a run. What is promised on the wire is in docs/design.md.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator, Mapping, Sequence

from django.apps import apps
from django.core.exceptions import ImproperlyConfigured

from .conf import settings
from .core.framer import Framer
from .core.frames import Frame
from .providers.deadlines import Deadlines
from .providers.sources import AsyncSource, Source, SyncSource, source_of
from .pump import Batches, Pace
from .runs import afollow
from .streaming import Body, StreamResponse, close_connections, internal_error
from .wire.base import WireFormat
from .wire.native import NativeFormat

__all__ = ["EventStreamResponse", "RunStreamResponse"]

logger = logging.getLogger("chatstream")


class EventStreamResponse(StreamResponse):
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
        framer = Framer(run, source.model, max_answer_chars=settings.MAX_ANSWER_CHARS)
        pace = Pace(settings.HEARTBEAT, self.stall_timeout)
        body = CompletionBody(source, framer, wire or NativeFormat(), pace)
        super().__init__(body, status=status, headers=headers)


class RunStreamResponse(StreamResponse):
    """Streams a run to one of its readers, who may come and go.

    ``run`` is its id, ``after`` the number of the last frame that the reader holds. ``told`` are
    the frames themselves, where the run has ended and they are known. Who may read it is the
    view's to check.
    """

    def __init__(
        self,
        run: str,
        *,
        after: int = 0,
        told: Sequence[Frame] = (),
        wire: WireFormat | None = None,
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        body = RunBody(run, after, told, wire or NativeFormat(run))
        super().__init__(body, status=status, headers=headers)


class RunBody(Body):
    """Follows a run."""

    def __init__(self, run: str, after: int, told: Sequence[Frame], wire: WireFormat) -> None:
        super().__init__(wire, run)
        self._after = after
        self._told = list(told)

    def batches(self) -> AsyncGenerator[list[Frame]]:
        return self._tell() if self._told else afollow(self._run, self._after)

    async def _tell(self) -> AsyncGenerator[list[Frame]]:
        yield self._told


class CompletionBody(Body):
    """Pulls a completion."""

    def __init__(self, source: Source, framer: Framer, wire: WireFormat, pace: Pace) -> None:
        super().__init__(wire, framer.run)
        self._source = source
        self._framer = framer
        self._pace = pace

    def batches(self) -> Batches:
        return Batches(self._source, self._framer, self._pace)

    def close(self) -> None:
        super().close()
        if isinstance(self._source, SyncSource) and not self._source.is_opened:
            self._source.interrupt()
            self._source.discard()

    async def ahead(self) -> AsyncGenerator[bytes]:
        await self._source.adiscard()
        return
        yield b""

    def _in_thread(self) -> Generator[bytes]:
        if not isinstance(self._source, AsyncSource):
            yield from super()._in_thread()
            return
        close_connections()
        logger.error(
            "An async completion cannot be streamed under WSGI: its connection belongs to the "
            "event loop of the view, which has ended. Make it with openai.OpenAI instead of "
            "openai.AsyncOpenAI, or serve the project with an ASGI server."
        )
        yield self.wire.opening() + self.wire.encode(internal_error())

    async def _on_server_loop(self) -> None:
        await super()._on_server_loop()
        if isinstance(self._source, SyncSource):
            _warn_of_thread()


def _warn_of_thread() -> None:
    config = apps.get_app_config("chatstream")
    if not config.has_warned_of_thread:  # type: ignore[attr-defined]
        config.has_warned_of_thread = True  # type: ignore[attr-defined]
        logger.warning(
            "A synchronous completion is streamed under ASGI: it costs a thread for each stream. "
            "Make it with openai.AsyncOpenAI to need none."
        )
