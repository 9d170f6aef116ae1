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
from dataclasses import dataclass, field, replace
from typing import Any

from ..conf import settings
from ..core.chunks import Delta
from ..core.outcomes import RunError
from ..core.requests import RunRequest
from ..models import storable
from ..tools import Caller, Tool, ToolError
from .base import AsyncCompletion, Batch, Provider

__all__ = ["answering", "brought_names", "brought_to", "tools_for"]

MAX_NAME = 64  # characters
MAX_CALLS = 16  # in one round; further ones are told so
# A good ending of a round of calls, by whatever name; None is [DONE] alone. With any other reason
# a call may have been cut off.
_GOOD = (None, "tool_calls", "tool_call", "tool_use", "function_call", "stop", "end_turn", "eos")
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


def brought_to(provider: Provider[Any], request: RunRequest) -> list[Any]:
    """Return the tools that come with a request, or else with the provider's ``params``.

    They are for the client to run.
    """
    params = {**getattr(provider.options, "params", {}), **request.params}
    return params.get("tools") or []


def brought_names(tools: object) -> frozenset[str]:
    """Return the names of the tools that a request's ``tools`` has."""
    functions = [tool.get("function") for tool in _mappings(tools)]
    return frozenset(str(function.get("name")) for function in _mappings(functions))


def _mappings(values: object) -> list[Mapping[str, Any]]:
    listed = values if isinstance(values, list) else []
    return [value for value in listed if isinstance(value, Mapping)]


@dataclass(slots=True)
class _Call:
    """A tool call as its pieces come; ``given_id`` is what the model calls it.

    It ``is_told`` once its first piece, which has its id and its name, is on its way to the reader.
    """

    index: int
    id: str
    given_id: str
    name: str = ""
    arguments: str = ""
    extra_content: dict[str, Any] = field(default_factory=dict)
    is_told: bool = False

    def add(self, piece: Mapping[str, Any]) -> None:
        name = piece.get("name", "")
        # Some servers repeat it in every piece. A name that is too long for one stays as it is.
        if name != self.name and not self.arguments and len(self.name) <= MAX_NAME:
            self.name += name
        self.arguments += piece["arguments"]
        self.extra_content |= piece.get("extra_content", {})

    def told(self, arguments: str) -> dict[str, Any]:
        """Return a piece for the reader. The first one has all that was held back."""
        if self.is_told:
            return {"index": self.index, "arguments": arguments}
        self.is_told = True
        named = {"id": self.id, "name": self.name}
        return {"index": self.index, **named, "arguments": self.arguments}

    @property
    def is_whole(self) -> bool:
        return bool(self.arguments) and _object_of(self.arguments) is not None


class _Answer:
    """The rounds of one run."""

    def __init__(
        self, provider: Provider[Any], request: RunRequest, tools: Sequence[Tool], caller: Caller
    ) -> None:
        self._provider = provider
        self._tools = {tool.name: tool for tool in tools}
        self._caller = caller
        params = {**getattr(provider.options, "params", {}), **request.params}
        brought = [tool for tool in brought_to(provider, request) if not self._has(tool)]
        self._brought = brought_names(brought)
        self._choice = {"tool_choice": "auto"} if "tool_choice" in params else {}
        specs = {"tools": [*brought, *(tool.spec for tool in self._tools.values())]}
        self._request = replace(request, params={**request.params, **specs})
        self._ids: set[str] = set()
        self._count = 0  # calls of all rounds
        self._usage: dict[str, int] = {}  # of the rounds before
        # Characters of results that the model may still be told: as many as the history may have.
        self._room = provider.history_chars or settings.MAX_HISTORY_CHARS
        self.last_text = ""  # of the rounds so far

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
                detail = f"it calls tools after {settings.MAX_TOOL_ROUNDS} rounds of them"
                raise RunError("upstream_malformed", detail)
            results: dict[str, dict[str, Any]] = {}
            async with aclosing(self._run_all(round.calls)) as said:
                async for result in said:
                    results[result["id"]] = result
                    yield [Delta(tool_results=(result,))]
            self._go_on(round, results, is_last=left == 1)

    async def _run_all(self, calls: Sequence[_Call]) -> AsyncGenerator[dict[str, Any]]:
        """Run calls together; yield the data of a frame for each, as they come."""
        tasks = [asyncio.create_task(self._run(call)) for call in calls[:MAX_CALLS]]
        try:
            for call in calls[MAX_CALLS:]:
                yield {"id": call.id, "error": f"At most {MAX_CALLS} calls are taken at once."}
            for done in asyncio.as_completed(tasks):
                yield await done
        finally:
            for task in tasks:
                task.cancel()

    async def _run(self, call: _Call) -> dict[str, Any]:
        tool = self._tools.get(call.name)
        try:
            if tool is None:
                raise ToolError("There is no such tool.")
            output = await tool.call(
                storable(call.arguments),
                self._caller,
                within=settings.TOOL_TIMEOUT,
                max_chars=self._room,
            )
            if len(_content(output)) > self._room:
                raise ToolError("The result is too long.")
        except ToolError as error:
            return {"id": call.id, "error": str(error)}
        self._room -= len(_content(output))
        return {"id": call.id, "output": output}

    def _go_on(
        self, round: _Round, results: Mapping[str, dict[str, Any]], *, is_last: bool
    ) -> None:
        """Ask with what the tools said; the last time for words alone."""
        self._usage = round.usage
        told = [
            {"role": "tool", "tool_call_id": call.id, "content": _result_content(results[call.id])}
            for call in round.calls
        ]
        messages = [*self._request.messages, round.message(), *told]
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
        self._thoughts: list[str] = []  # those that the server wants back
        self._has_choice = False
        self._is_over = False
        self.calls: list[_Call] = []
        self.calls_tools = False
        self.usage = answer.total({})

    def message(self) -> dict[str, Any]:
        """Return the round as a message of the history."""
        text, thoughts = storable("".join(self._texts)), storable("".join(self._thoughts))
        said = {"role": "assistant", "content": text or None}
        more = {"reasoning_content": thoughts} if thoughts else {}
        return {**said, **more, "tool_calls": [_told(call) for call in self.calls]}

    def receive(self, batch: Batch) -> list[Delta]:
        return list(self._received(batch))

    def _received(self, batch: Batch) -> Iterator[Delta]:
        for delta in batch:
            if self.calls_tools and delta.error and delta.error.code == "upstream_malformed":
                return  # damage after the evidence: the round is whole all the same
            self._has_choice = self._has_choice or delta.has_choice
            if delta.reasoning_field == "reasoning_content":
                self._thoughts.append(delta.reasoning)
            if delta.text:
                delta = delta._replace(text=self._text(delta.text))
            if delta.tool_calls:
                pieces = [told for piece in delta.tool_calls for told in self._pieces(piece)]
                delta = delta._replace(tool_calls=tuple(pieces))
            if delta.usage is not None:
                self.usage = self._answer.total(delta.usage)
                delta = delta._replace(usage=self.usage)
            if delta.finish_reason is not None or delta.is_done:
                delta = self._ending(delta)
            yield delta

    def _text(self, text: str) -> str:
        """Take in a text; return it for the reader, to whom each round is a paragraph."""
        before = self._answer.last_text
        is_glued = before and not self._texts and not (before[-1].isspace() or text[0].isspace())
        self._texts.append(text)
        self._answer.last_text = text
        return "\n\n" + text if is_glued else text

    def _pieces(self, piece: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Take in a piece of a call; yield what the reader is to have now.

        A call is told when its name is whole: some servers send that in pieces, or in each one.
        """
        call = self._calls.get(piece["index"])
        if call is None or _begins_another(call, piece):
            yield from self._held()
            call = self._calls[piece["index"]] = self._answer.new_call(piece)
            self.calls.append(call)
        call.add(piece)
        if piece["arguments"]:
            yield call.told(piece["arguments"])

    def _held(self) -> Iterator[dict[str, Any]]:
        for call in self.calls:
            if not call.is_told:
                yield call.told("")

    def _ending(self, delta: Delta) -> Delta:
        """Hold back the ending of a round after which the model goes on."""
        delta = delta._replace(tool_calls=(*delta.tool_calls, *self._held()))
        if not self._is_over:
            self._is_over = True
            self.calls_tools = self._is_ours(delta.finish_reason)
        if self.calls_tools:
            return delta._replace(finish_reason=None, is_done=False)
        if not self._has_choice:
            return delta._replace(is_done=False)  # [DONE] alone is no answer in any round
        return delta

    def _is_ours(self, finish_reason: str | None) -> bool:
        if not self.calls or finish_reason not in _GOOD:
            return False
        return not any(map(self._answer.is_brought, self.calls))


def _begins_another(call: _Call, piece: Mapping[str, Any]) -> bool:
    """Whether a piece is of another call than the one with its index.

    Some servers send each call whole, and all of them with the index 0, with ids or without.
    """
    if not piece.get("name"):
        return False
    given = piece.get("id", "")
    if call.given_id or given:
        return bool(given) and given != call.given_id
    return bool(piece["arguments"]) and call.is_whole


def _told(call: _Call) -> dict[str, Any]:
    """Return a call for the history: what a model makes up, its own server may refuse."""
    name = call.name if _NAME.fullmatch(call.name) else "unknown"
    arguments = json.dumps(_object_of(call.arguments) or {})
    extra = {"extra_content": call.extra_content} if call.extra_content else {}
    function = {"name": name, "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function, **extra}


def _object_of(arguments: str) -> dict[str, Any] | None:
    """Return the object that the arguments are; None if they are none."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _content(output: Any) -> str:
    return storable(output) if isinstance(output, str) else json.dumps(output)


def _result_content(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"Error: {storable(result['error'])}"
    return _content(result["output"])
