"""An answer in rounds: the model asks for tools, the site runs them, the model goes on.

All rounds are one run. What its readers see is one answer: text, calls, results, text, and one
ending, that of the last round; token counts are the sum. A model that calls a tool which the client
brought ends the answer, for the client is to run it: so does one that calls both kinds at once.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..conf import settings
from ..core.chunks import Delta
from ..core.outcomes import RunError
from ..core.requests import RunRequest
from ..models import storable
from ..tools import Caller, Tool, ToolError
from .base import AsyncCompletion, Batch, Provider

__all__ = ["answering", "brought_names", "tools_for"]

# With these a call is not whole, or not meant.
_NO_CALLS = frozenset({"length", "max_tokens", "content_filter", "error", "abort"})
# What every server takes back of what a model said.
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_ID = re.compile(r"[!-~]{1,256}")


def answering(provider: Provider[Any], request: RunRequest, caller: Caller) -> AsyncCompletion:
    """Return what ``provider.aopen`` does, with as many rounds as its tools take."""
    tools = tools_for(provider, request)
    return _Answer(provider, request, tools, caller).aopen() if tools else provider.aopen(request)


def tools_for(provider: Provider[Any], request: RunRequest) -> Sequence[Tool]:
    """Return the site's tools for a request; none for one that brings ``functions``.

    That is the older form of ``tools``: a server takes one of the two.
    """
    return () if request.params.get("functions") else provider.get_tools(request)


def brought_names(tools: object) -> frozenset[str]:
    """Return the names of the tools that a request's ``tools`` has."""
    functions = [tool.get("function") for tool in _mappings(tools)]
    return frozenset(str(function.get("name")) for function in _mappings(functions))


def _mappings(values: object) -> list[Mapping[str, Any]]:
    listed = values if isinstance(values, list) else []
    return [value for value in listed if isinstance(value, Mapping)]


@dataclass(slots=True)
class _Call:
    """A tool call as its pieces come; ``given_id`` is what the model calls it."""

    index: int
    id: str
    given_id: str
    name: str = ""
    arguments: str = ""

    def add(self, piece: Mapping[str, Any]) -> None:
        name = piece.get("name", "")
        if name != self.name and not self.arguments:  # some servers repeat it in every piece
            self.name += name
        self.arguments += piece["arguments"]


class _Answer:
    """The rounds of one run."""

    def __init__(
        self, provider: Provider[Any], request: RunRequest, tools: Sequence[Tool], caller: Caller
    ) -> None:
        self._provider = provider
        self._tools = {tool.name: tool for tool in tools}
        self._caller = caller
        params = {**getattr(provider.options, "params", {}), **request.params}
        brought = [tool for tool in params.get("tools") or [] if not self._has(tool)]
        self._brought = brought_names(brought)
        self._choice = {"tool_choice": "auto"} if "tool_choice" in params else {}
        specs = {"tools": [*brought, *(tool.spec for tool in tools)]}
        self._request = replace(request, params={**request.params, **specs})
        self._ids: set[str] = set()
        self._count = 0  # calls of all rounds
        self._usage: dict[str, int] = {}  # of the rounds before

    @asynccontextmanager
    async def aopen(self) -> AsyncIterator[AsyncGenerator[Batch]]:
        async with aclosing(self._batches()) as batches:
            yield batches

    async def _batches(self) -> AsyncGenerator[Batch]:
        for left in reversed(range(settings.MAX_TOOL_ROUNDS + 1)):
            round = _Round(self)
            try:
                async with self._provider.aopen(self._request) as batches:
                    async for batch in batches:
                        if deltas := round.receive(batch):
                            yield deltas
                        del batch, deltas  # a silent stream would keep its last read
            except Exception:
                if not round.calls_tools:  # else its answer is whole all the same
                    raise
            if not round.calls_tools:
                return
            if not left:
                raise RunError("too_long", f"over {settings.MAX_TOOL_ROUNDS} rounds of tools")
            results = await asyncio.gather(*map(self._run, round.calls))
            yield [Delta(tool_results=tuple(results))]
            self._go_on(round, results, is_last=left == 1)

    async def _run(self, call: _Call) -> dict[str, Any]:
        """Return the result of a call, as the data of its frame."""
        tool = self._tools.get(call.name)
        try:
            if tool is None:
                raise ToolError("There is no such tool.")
            output = await tool.call(call.arguments, self._caller, settings.TOOL_TIMEOUT)
            if len(_content(output)) > self._limit:
                raise ToolError("The result is too long.")
        except ToolError as error:
            return {"id": call.id, "error": str(error)}
        return {"id": call.id, "output": output}

    @property
    def _limit(self) -> int:
        return self._provider.history_chars or settings.MAX_HISTORY_CHARS

    def _go_on(self, round: _Round, results: list[dict[str, Any]], *, is_last: bool) -> None:
        """Ask with what the tools said; the last time for words alone."""
        self._usage = round.usage
        said = {"role": "assistant", "content": storable(round.text) or None}
        calls = [_told(call) for call in round.calls]
        told = [
            {"role": "tool", "tool_call_id": result["id"], "content": _result_content(result)}
            for result in results
        ]
        messages = [*self._request.messages, {**said, "tool_calls": calls}, *told]
        choice = {"tool_choice": "none"} if is_last else self._choice
        params = {**self._request.params, **choice}
        self._request = replace(self._request, messages=messages, params=params)

    def new_call(self, piece: Mapping[str, Any]) -> _Call:
        """Return a call with an index and an id that no other one of the run has."""
        given = piece.get("id", "")
        id = given if _ID.fullmatch(given) else f"call_{self._count}"
        while id in self._ids:
            id += "_"
        self._ids.add(id)
        self._count += 1
        return _Call(self._count - 1, id, given)

    def _has(self, tool: object) -> bool:
        return not brought_names([tool]).isdisjoint(self._tools)

    def is_brought(self, call: _Call) -> bool:
        return call.name in self._brought

    def total(self, usage: Mapping[str, int]) -> dict[str, int]:
        names = [*self._usage, *(name for name in usage if name not in self._usage)]
        return {name: self._usage.get(name, 0) + usage.get(name, 0) for name in names}


class _Round:
    """What one completion says. ``calls_tools`` once it has ended in calls that are ours to run."""

    def __init__(self, answer: _Answer) -> None:
        self._answer = answer
        self._calls: dict[int, _Call] = {}  # by the model's index: the one that its pieces are for
        self._texts: list[str] = []
        self._has_choice = False
        self._is_over = False
        self.calls: list[_Call] = []
        self.calls_tools = False
        self.usage = answer.total({})

    @property
    def text(self) -> str:
        return "".join(self._texts)

    def receive(self, batch: Batch) -> list[Delta]:
        return list(self._received(batch))

    def _received(self, batch: Batch) -> Iterator[Delta]:
        for delta in batch:
            self._has_choice = self._has_choice or delta.has_choice
            if delta.text:
                self._texts.append(delta.text)
            if delta.tool_calls:
                delta = delta._replace(tool_calls=tuple(map(self._piece, delta.tool_calls)))
            if delta.usage is not None:
                self.usage = self._answer.total(delta.usage)
                delta = delta._replace(usage=self.usage)
            if delta.finish_reason is not None or delta.is_done:
                delta = self._ending(delta)
            yield delta

    def _piece(self, piece: Mapping[str, Any]) -> dict[str, Any]:
        """Take a piece of a call; return it with our index and, where it has one, our id."""
        call = self._calls.get(piece["index"])
        is_first = call is None or _begins_another(call, piece)
        if call is None or is_first:
            call = self._calls[piece["index"]] = self._answer.new_call(piece)
            self.calls.append(call)
        call.add(piece)
        told = {**piece, "index": call.index}
        return {**told, "id": call.id} if is_first or "id" in piece else told

    def _ending(self, delta: Delta) -> Delta:
        """Hold back the ending of a round after which the model goes on."""
        if not self._is_over:
            self._is_over = True
            self.calls_tools = self._is_ours(delta.finish_reason)
        if self.calls_tools:
            return delta._replace(finish_reason=None, is_done=False)
        if not self._has_choice:
            return delta._replace(is_done=False)  # [DONE] alone is no answer in any round
        return delta

    def _is_ours(self, finish_reason: str | None) -> bool:
        if not self.calls or finish_reason in _NO_CALLS:
            return False
        return not any(map(self._answer.is_brought, self.calls))


def _begins_another(call: _Call, piece: Mapping[str, Any]) -> bool:
    """Whether a piece is of another call than the one with its index.

    Some servers send each call whole, and all of them with the index 0.
    """
    given = piece.get("id", "")
    return bool(call.given_id and given and given != call.given_id and piece.get("name"))


def _told(call: _Call) -> dict[str, Any]:
    """Return a call for the history: what a model makes up, its own server may refuse."""
    name = call.name if _NAME.fullmatch(call.name) else "unknown"
    try:
        arguments = json.loads(call.arguments or "{}")
    except (ValueError, RecursionError):
        arguments = None
    given = json.dumps(arguments if isinstance(arguments, dict) else {})
    return {"id": call.id, "type": "function", "function": {"name": name, "arguments": given}}


def _content(output: Any) -> str:
    return storable(output) if isinstance(output, str) else json.dumps(output)


def _result_content(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"Error: {storable(result['error'])}"
    return _content(result["output"])
