"""AG-UI 1.0 as its client reads it: events that open, fill and close messages.

https://docs.ag-ui.com/concepts/events, and what ``@ag-ui/client`` enforces: RUN_STARTED comes
first, whatever was opened is closed before RUN_FINISHED, and nothing follows the end. There is no
``[DONE]``, which its JSON parser would die of. Ids must differ in a whole conversation: they are
made of the answer's own, so that a replay has the same.
"""

from __future__ import annotations

import json
from typing import Any

from ..core.frames import Frame, Kind
from .base import WireFormat

__all__ = ["AGUIFormat", "answer_id"]

PROTOCOL_VERSION = "1.0"
CALLED = ("tool_calls", "function_call")
COUNTS = {
    "prompt_tokens": "inputTokens",
    "completion_tokens": "outputTokens",
    "total_tokens": "totalTokens",
    "reasoning_tokens": "reasoningTokens",
    "cached_tokens": "cachedInputTokens",
}


class AGUIFormat(WireFormat):
    """``thread`` and ``run`` are the client's ids; ``message`` is our id of the answer.

    ``metadata`` is added to RUN_STARTED. ``model`` is the one whose tokens are counted.
    """

    def __init__(
        self,
        *,
        thread: str,
        run: str,
        message: str,
        model: str = "",
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._ids = {"threadId": thread, "runId": run}
        self._model = {"model": model} if model else {}
        self._metadata = {"metadata": metadata} if metadata else {}
        self._parts = _Parts(message)
        self._finish: dict[str, Any] = {}

    def opening(self) -> bytes:
        return _event(
            "RUN_STARTED", **self._ids, protocolVersion=PROTOCOL_VERSION, **self._metadata
        )

    def encode(self, frame: Frame) -> bytes:
        data = frame.data
        match frame.kind:
            case Kind.TEXT:
                return self._parts.text(data["text"])
            case Kind.REASONING:
                return self._parts.reasoning(data["text"])
            case Kind.TOOL_CALL:
                return self._parts.tool_call(data)
            case Kind.TOOL_RESULT:
                return self._parts.tool_result(data)
            case Kind.FINISH:
                self._finish = data
            case Kind.DONE:
                return self._parts.close() + self._finished({"type": "success"})
            case Kind.ERROR if data["code"] == "stopped":
                return self._parts.close() + self._finished({"type": "cancelled"})
            case Kind.ERROR:
                return self._parts.close() + self._failed(data)
        return b""

    def _finished(self, outcome: dict[str, str]) -> bytes:
        result = {}
        if outcome["type"] == "success":
            result = {"result": {"finishReason": self._finish_reason}}
        return _event("RUN_FINISHED", **self._ids, outcome=outcome, **result, **self._usage)

    def _failed(self, data: dict[str, Any]) -> bytes:
        more = {name: data[name] for name in ("retryable", "retry_after") if name in data}
        said = {"message": data["message"], "code": data["code"], "metadata": more}
        return _event("RUN_ERROR", **said, **self._usage)

    @property
    def _finish_reason(self) -> str:
        if self._finish.get("outcome") == "truncated":
            return "length"
        return "tool_calls" if self._finish.get("finish_reason") in CALLED else "stop"

    @property
    def _usage(self) -> dict[str, Any]:
        """Return the ``usage`` of an ending, a list; nothing if the upstream did not count."""
        counts = self._finish.get("usage") or {}
        told = {COUNTS[name]: count for name, count in counts.items() if name in COUNTS}
        return {"usage": [{**self._model, **told}]} if told else {}


class _Parts:
    """What is open of an answer: a text, a span of reasoning, tool calls.

    An answer is one message with its text and its tool calls; after a tool's result another one
    begins, for a client shows a call and what follows it in the order of its messages.
    """

    def __init__(self, answer: str) -> None:
        self._answer = answer
        self._message = answer
        self._counts: dict[str, int] = {}
        self._text_head = ""  # of the open text's events; "" for none
        self._reasoning = ""  # the open span's id
        self._calls: dict[int, str] = {}  # the open calls: index -> our id
        self._called: dict[str, str] = {}  # the model's id of a call -> ours

    def text(self, text: str) -> bytes:
        begun = self._end_reasoning()
        if not self._text_head:
            begun += _event("TEXT_MESSAGE_START", messageId=self._message, role="assistant")
            # Written once: the rest of it runs for every token.
            head = {"type": "TEXT_MESSAGE_CONTENT", "messageId": self._message}
            self._text_head = f'data: {json.dumps(head)[:-1]}, "delta": '
        return begun + f"{self._text_head}{json.dumps(text)}}}\n\n".encode()

    def reasoning(self, text: str) -> bytes:
        begun = b""
        if not self._reasoning:
            span = self._reasoning = self._new_id("reasoning")
            begun = _event("REASONING_START", messageId=span)
            begun += _event("REASONING_MESSAGE_START", messageId=span, role="reasoning")
        return begun + _event("REASONING_MESSAGE_CONTENT", messageId=self._reasoning, delta=text)

    def tool_call(self, piece: dict[str, Any]) -> bytes:
        begun = self._end_reasoning()
        if piece["index"] not in self._calls:
            begun += self._start_call(piece)
        if not piece["arguments"]:
            return begun
        call = self._calls[piece["index"]]
        return begun + _event("TOOL_CALL_ARGS", toolCallId=call, delta=piece["arguments"])

    def tool_result(self, data: dict[str, Any]) -> bytes:
        call = self._called.get(data["id"])
        if call is None:
            return b""
        said = data.get("output", data.get("error"))
        content = said if isinstance(said, str) else json.dumps(said)
        ended = self.close()
        self._message = self._new_id("more")
        result = {"messageId": self._new_id("result"), "toolCallId": call, "content": content}
        return ended + _event("TOOL_CALL_RESULT", **result, role="tool")

    def close(self) -> bytes:
        """Return the ends of all that is open."""
        ended = self._end_reasoning()
        ended += b"".join(_event("TOOL_CALL_END", toolCallId=id) for id in self._calls.values())
        if self._text_head:
            ended += _event("TEXT_MESSAGE_END", messageId=self._message)
        self._text_head = ""
        self._calls.clear()
        return ended

    def _start_call(self, piece: dict[str, Any]) -> bytes:
        """Some models' ids come again in the next answer, where the client would go on with the
        old call's arguments: the call gets one of ours."""
        call = self._calls[piece["index"]] = self._new_id("call")
        self._called[piece.get("id") or call] = call
        named = {"toolCallId": call, "toolCallName": piece.get("name") or ""}
        return _event("TOOL_CALL_START", **named, parentMessageId=self._message)

    def _end_reasoning(self) -> bytes:
        if not self._reasoning:
            return b""
        span, self._reasoning = self._reasoning, ""
        ended = _event("REASONING_MESSAGE_END", messageId=span)
        return ended + _event("REASONING_END", messageId=span)

    def _new_id(self, kind: str) -> str:
        number = self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{self._answer}.{kind}.{number}"


def answer_id(message_id: str) -> str:
    """Return our id of the answer that a client's message is a part of."""
    return message_id.partition(".")[0]


def _event(kind: str, **data: Any) -> bytes:
    return f"data: {json.dumps({'type': kind, **data})}\n\n".encode()
