"""What a provider is: it opens a completion upstream, which yields batches of deltas.

A batch is what one upstream read brought; its frames leave in one write. ``aopen`` is the one that
a provider writes; ``open``, for callers without an event loop, runs it on the process's background
loop unless a provider has something better.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterable, Generator, Iterable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    closing,
    contextmanager,
)
from typing import Any, ClassVar, Generic, TypeVar

from django.core.checks import CheckMessage

from ..conf import typed_options
from ..core.chunks import Delta
from ..core.requests import RunRequest
from ..loop import background_loop
from ..tools import Tool

__all__ = ["AsyncCompletion", "Batch", "Completion", "Provider"]

Batch = Sequence[Delta]
Completion = AbstractContextManager[Iterable[Batch]]
AsyncCompletion = AbstractAsyncContextManager[AsyncIterable[Batch]]

OptionsT = TypeVar("OptionsT")


class Provider(ABC, Generic[OptionsT]):
    """Base of all providers.

    A subclass names its options by a dataclass in ``options_class`` and writes ``aopen``::

        @dataclass(frozen=True)
        class EchoOptions:
            model: str = "echo"

        class EchoProvider(Provider[EchoOptions]):
            options_class = EchoOptions

            @asynccontextmanager
            async def aopen(self, request):
                async def batches():
                    yield [Delta(text=request.messages[-1]["content"], has_choice=True)]
                    yield [Delta(finish_reason="stop")]
                yield batches()
    """

    options_class: ClassVar[type[Any]]
    tools: Sequence[Tool] = ()  # those of the settings

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        """Raise ``ImproperlyConfigured`` for an option that is unknown or of a wrong type."""
        self.alias = alias
        where = f'CHATSTREAM["PROVIDERS"]["{alias}"]["OPTIONS"]'
        self.options: OptionsT = typed_options(self.options_class, options, where)

    @abstractmethod
    def aopen(self, request: RunRequest) -> AsyncCompletion:
        """Return a context manager over the batches; nothing is asked before it is entered.

        A failure is raised as ``RunError``, on entering or in the iteration; leaving it closes
        the upstream connection.
        """

    @contextmanager
    def open(self, request: RunRequest) -> Generator[Iterable[Batch]]:
        """The same for a caller without an event loop."""

        async def batches() -> AsyncGenerator[Batch]:
            async with self.aopen(request) as source:
                async for batch in source:
                    yield batch

        with closing(background_loop().iterate(batches())) as iterator:
            yield iterator

    def model_for(self, request: RunRequest) -> str:
        """Return the name of the model that a request will ask."""
        return request.model or str(getattr(self.options, "model", ""))

    def get_tools(self, request: RunRequest) -> Sequence[Tool]:
        """Return the tools that a model may call for this request.

        A subclass may choose, or add a ``Tool`` of its own. Called on the event loop: no queries.
        """
        return self.tools

    @property
    def history_chars(self) -> int | None:
        """How many characters of history the model takes; None for ``MAX_HISTORY_CHARS``."""
        return getattr(self.options, "max_history_chars", None)

    def allows_model(self, model: str) -> bool:
        """Whether a client may ask for this model: the provider's own, or one of ``models``."""
        allowed = getattr(self.options, "models", ())
        return model == getattr(self.options, "model", "") or model in allowed or "*" in allowed

    def check(self) -> list[CheckMessage]:
        """Return what ``manage.py check`` should say of this provider's options."""
        return []
