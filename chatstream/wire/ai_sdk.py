"""The AI SDK's UI message stream, as ``useChat`` reads it.

https://ai-sdk.dev/docs/ai-sdk-ui/stream-protocol, and what the client does with it: a frame of an
unknown type, a null in an optional field or a delta of a part that is not open fails the whole
answer, and it stops reading at ``error``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from ..core.frames import Frame, Kind
from .base import WireFormat

__all__ = ["AiSdkFormat"]

_PARTS = {Kind.TEXT: "text", Kind.REASONING: "reasoning"}
_USAGE = {
    "prompt_tokens": "inputTokens",
    "completion_tokens": "outputTokens",
    "total_tokens": "totalTokens",
}


class AiSdkFormat(WireFormat):
    """``message`` is the id that the answer has in the page; the same when it is told again.

    Tool calls are the server's affair: ``providerExecuted`` keeps the page from running them.
    """

    headers: ClassVar = {**WireFormat.headers, "x-vercel-ai-ui-message-stream": "v1"}

    def __init__(self, message: str) -> None:
        self.message = message
        self._part: str | None = None  # "text" or "reasoning", while one is open
        self._parts = 0
        self._calls: dict[int, Call] = {}  # those of this step whose input is not whole, by index
        self._unanswered: set[str] = set()
        self._is_answered = False  # the step has results: what comes now is the next one
        self._finish: Mapping[str, Any] = {}

    def opening(self) -> bytes:
        start = {"type": "start", "messageId": self.message}
        return b": open\n\n" + _encoded([start, {"type": "start-step"}])

    def encode(self, frame: Frame) -> bytes:
        match frame.kind:
            case Kind.TEXT | Kind.REASONING:
                return _encoded(self._delta(_PARTS[frame.kind], frame.data["text"]))
            case Kind.TOOL_CALL:
                return _encoded(self._call(frame.data))
            case Kind.TOOL_RESULT:
                return _encoded(self._result(frame.data))
            case Kind.FINISH:
                self._finish = frame.data
            case Kind.DONE:
                return _encoded(self._done()) + b"data: [DONE]\n\n"
            case Kind.ERROR:
                error = {"type": "error", "errorText": frame.data["message"]}
                return _encoded([*self._close_part(), error])
        return b""

    def _delta(self, part: str, text: str) -> list[dict[str, Any]]:
        events = self._next_step()
        if part != self._part:
            events += [*self._close_part(), self._open_part(part)]
        return [*events, {"type": f"{part}-delta", "id": self._id, "delta": text}]

    @property
    def _id(self) -> str:
        return f"p{self._parts}"

    def _open_part(self, part: str) -> dict[str, Any]:
        self._part = part
        self._parts += 1
        return {"type": f"{part}-start", "id": self._id}

    def _close_part(self) -> list[dict[str, Any]]:
        part, self._part = self._part, None
        return [{"type": f"{part}-end", "id": self._id}] if part else []

    def _next_step(self) -> list[dict[str, Any]]:
        """Once a step's tools have answered, the model speaks again: that is another step."""
        if not self._is_answered:
            return []
        self._is_answered = False
        return [*self._close_part(), {"type": "finish-step"}, {"type": "start-step"}]

    def _call(self, piece: dict[str, Any]) -> list[dict[str, Any]]:
        events = [*self._next_step(), *self._close_part()]
        index = piece["index"]
        if index not in self._calls:
            self._parts += 1
            self._calls[index] = Call(f"call-{self._parts}")
        call = self._calls[index]
        was_started = call.is_started
        delta = call.add(piece)
        if not was_started and call.is_started:
            events.append(call.event("tool-input-start", dynamic=True, providerExecuted=True))
        if delta:
            events.append(
                {"type": "tool-input-delta", "toolCallId": call.id, "inputTextDelta": delta}
            )
        return events

    def _end_calls(self) -> list[dict[str, Any]]:
        calls = [call for call in self._calls.values() if call.name]
        self._calls = {}
        self._unanswered.update(call.id for call in calls)
        return [call.end() for call in calls]

    def _result(self, data: dict[str, Any]) -> list[dict[str, Any]]:
        """The client refuses a result of a call that it does not know."""
        events = self._end_calls()
        if data["id"] not in self._unanswered:
            return events
        self._unanswered.remove(data["id"])
        self._is_answered = True
        event = {"toolCallId": data["id"], "dynamic": True, "providerExecuted": True}
        if "error" in data:
            event |= {"type": "tool-output-error", "errorText": str(data["error"])}
        else:
            event |= {"type": "tool-output-available", "output": data["output"]}
        return [*events, event]

    def _done(self) -> list[dict[str, Any]]:
        last = [*self._close_part(), *self._end_calls(), {"type": "finish-step"}]
        reason = "tool-calls" if self._unanswered else "stop"
        if self._finish.get("outcome") == "truncated":
            reason = "length"
        finish: dict[str, Any] = {"type": "finish", "finishReason": reason}
        if usage := _usage(self._finish.get("usage")):
            finish["messageMetadata"] = {"usage": usage}
        return [*last, finish]


class Call:
    """A tool call as its pieces come. It starts when it has arguments: its name is whole then."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.name = ""
        self.is_started = False
        self._arguments = ""

    def add(self, piece: dict[str, Any]) -> str:
        """Take a piece; return what it adds to the input."""
        delta = str(piece.get("arguments") or "")
        self._arguments += delta
        if not self.is_started:
            self.id = piece.get("id") or self.id
            self.name += piece.get("name") or ""
            self.is_started = bool(self.name and self._arguments)
            delta = self._arguments
        return delta if self.is_started else ""

    def end(self) -> dict[str, Any]:
        """Return the event that has the whole input."""
        more = {"dynamic": True, "providerExecuted": True}
        try:
            given = json.loads(self._arguments or "{}", parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            text = "The arguments of the call are not JSON."
            return self.event("tool-input-error", input=self._arguments, errorText=text, **more)
        return self.event("tool-input-available", input=given, **more)

    def event(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"type": kind, "toolCallId": self.id, "toolName": self.name, **more}


def _usage(usage: Any) -> dict[str, int]:
    """Return the counts of tokens by the names that the AI SDK has for them."""
    given = usage if isinstance(usage, dict) else {}
    return {name: given[ours] for ours, name in _USAGE.items() if isinstance(given.get(ours), int)}


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _encoded(events: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"data: {json.dumps(event)}\n\n" for event in events).encode()
