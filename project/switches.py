"""Switches that let a visitor of the demo break things, and see a model that calls a tool.

They are kept in Django's cache by visitor, for an hour, and looked at all the time: they act on the
answer that is on its way, too. The visitor is a cookie; a client without it has no switches.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from django.core.cache import cache

from chatstream.core.chunks import Delta
from chatstream.core.outcomes import RunError
from chatstream.core.requests import RunRequest
from chatstream.providers.base import AsyncCompletion, Batch
from chatstream.providers.openai import OpenAIProvider
from project.played import played

__all__ = ["COOKIE", "PARAM", "SwitchedProvider", "Switches", "flip", "switches_of"]

COOKIE = "demo_visitor"
PARAM = "demo_visitor"  # among a run's params, where the provider finds whose switches to obey

PAUSE = 0.2  # seconds before each word of a slow answer
LAST_WORDS = 8  # what a failing model still says


@dataclass(frozen=True)
class Switches:
    """What a visitor has switched on; ``cut_until`` is a ``time.time()``."""

    is_slow: bool = False
    is_failing: bool = False
    is_searching: bool = False
    cut_until: float = 0.0

    @property
    def cut_for(self) -> float:
        """Seconds that are left of it."""
        return max(0.0, self.cut_until - time.time())


def switches_of(visitor: str) -> Switches:
    found: Switches | None = cache.get(_key(visitor)) if visitor else None
    return found or Switches()


def flip(visitor: str, **changes: Any) -> None:
    """Change some of a visitor's switches; nothing for "", who is everybody."""
    if visitor:
        cache.set(_key(visitor), replace(switches_of(visitor), **changes), timeout=3600)


def _key(visitor: str) -> str:
    return f"demo-switches-{visitor}"


class SwitchedProvider(OpenAIProvider):
    """Any OpenAI-compatible server, as slow and as bad as the visitor wants it."""

    @asynccontextmanager
    async def aopen(self, request: RunRequest) -> AsyncIterator[AsyncGenerator[Batch]]:
        params = dict(request.params)
        visitor = params.pop(PARAM, "")
        async with (
            self._source(replace(request, params=params), visitor) as batches,
            aclosing(switched(batches, visitor)) as pieces,
        ):
            yield pieces

    def model_for(self, request: RunRequest) -> str:
        is_played = switches_of(request.params.get(PARAM, "")).is_searching
        return "played" if is_played else super().model_for(request)

    def _source(self, request: RunRequest, visitor: str) -> AsyncCompletion:
        if switches_of(visitor).is_searching:
            return aclosing(played(request.messages))
        return super().aopen(request)


async def switched(batches: AsyncIterable[Batch], visitor: str) -> AsyncGenerator[Batch]:
    """Pass batches on, slowly if that is wanted; raise ``RunError`` where the model is to fail."""
    left = LAST_WORDS
    async for batch in batches:
        if switches_of(visitor) == Switches():
            yield batch
            continue
        for delta in words_of(batch):
            switches = switches_of(visitor)
            if delta.is_token and switches.is_slow:
                await asyncio.sleep(PAUSE)
            if switches.is_failing:
                left -= 1
                # Not before a tool that it called: it fails while it answers.
                is_end = delta.is_done or delta.finish_reason not in (None, "tool_calls")
                if left < 0 or is_end:
                    raise RunError("upstream_incomplete", "the switch of the demo")
            yield [delta]


def words_of(batch: Batch) -> Iterator[Delta]:
    """Yield the deltas, text a word at a time: what came in one read is one delta's."""
    for delta in batch:
        *words, last = re.findall(r"\s*\S+|\s+", delta.text) or [""]
        for word in words:
            yield Delta(text=word, has_choice=True)
        yield delta._replace(text=last)
