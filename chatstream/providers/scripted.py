"""A provider that plays a script: for tests of projects, and for ours.

::

    CHATSTREAM = {"PROVIDERS": {"default": {
        "BACKEND": "chatstream.providers.scripted.ScriptedProvider",
        "OPTIONS": {"script": ["Hello ", "world", 0.5, {"finish_reason": "stop"}]},
    }}}
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from ..core.chunks import Delta
from ..core.outcomes import ERRORS, RunError
from ..core.requests import RunRequest
from .base import Batch, Provider

__all__ = ["ScriptedOptions", "ScriptedProvider"]

HELLO = ("Hello", " from", " the", " script", ".", {"finish_reason": "stop"})


@dataclass(frozen=True)
class ScriptedOptions:
    """``script``: what happens, step by step.

    A string is text; a number is a pause in seconds; a dict holds fields of ``Delta``, such as
    ``{"finish_reason": "stop"}``, ``{"reasoning": "…"}`` or ``{"tool_calls": [{"id": "c1", "name":
    "find_orders", "arguments": "{}"}]}``; ``{"error": code}`` fails with one of
    the codes of ``chatstream.core.outcomes.ERRORS``. The end of a script without a finish reason
    is the end of the bytes: ``upstream_incomplete``.

    ``rounds`` are the scripts that follow when tools have answered: the first one after the first
    round of tools, and so on; the last one for all further ones.
    """

    script: list[Any] = field(default_factory=lambda: list(HELLO))
    rounds: list[list[Any]] = field(default_factory=list)
    model: str = "scripted"
    models: list[str] = field(default_factory=list)


class ScriptedProvider(Provider[ScriptedOptions]):
    """Plays ``options.script`` and keeps the requests that came, in ``requests``."""

    options_class = ScriptedOptions

    def __init__(self, alias: str, options: dict[str, Any]) -> None:
        super().__init__(alias, options)
        self.requests: list[RunRequest] = []
        self._scripts = [self.options.script, *self.options.rounds]
        for script in self._scripts:
            for step in script:
                _check_step(step, alias)

    @asynccontextmanager
    async def aopen(self, request: RunRequest) -> AsyncIterator[AsyncGenerator[Batch]]:
        self.requests.append(request)
        script = self._scripts[min(_rounds_of(request), len(self._scripts) - 1)]
        async with aclosing(_played(script)) as batches:
            yield batches


def _rounds_of(request: RunRequest) -> int:
    """Return how many rounds of tools this answer has had."""
    count = 0
    for message in request.messages:
        count = 0 if message["role"] == "user" else count + bool(message.get("tool_calls"))
    return count


async def _played(script: list[Any]) -> AsyncGenerator[Batch]:
    for step in script:
        if isinstance(step, int | float):
            await asyncio.sleep(step)
        elif isinstance(step, str):
            yield [Delta(step, has_choice=True)]
        elif "error" in step:
            raise RunError(step["error"], "scripted")
        else:
            yield [_delta_of(step)]


def _delta_of(step: dict[str, Any]) -> Delta:
    calls = [
        {"index": index, "arguments": "", **call}
        for index, call in enumerate(step.get("tool_calls", ()))
    ]
    return Delta(**{"has_choice": True, **step, "tool_calls": tuple(calls)})


def _check_step(step: Any, alias: str) -> None:
    if isinstance(step, str | int | float):
        return
    if isinstance(step, dict) and "error" in step:
        if step["error"] in ERRORS:
            return
        raise ImproperlyConfigured(
            f"The script of provider '{alias}' fails with {step['error']!r}, which is no error "
            f"code. Known are {', '.join(ERRORS)}."
        )
    if isinstance(step, dict) and step.keys() <= set(Delta._fields):
        return
    raise ImproperlyConfigured(
        f"A step of the script of provider '{alias}' is {step!r}; expected a string, a number of "
        f"seconds, or a dict with fields of Delta: {', '.join(Delta._fields)}."
    )
