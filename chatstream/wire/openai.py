"""Chat completions as OpenAI's clients read them: chunks, or one object.

https://platform.openai.com/docs/api-reference/chat-streaming, and what the official clients do:
an ``id:`` or ``retry:`` line breaks the Python one, ``[DONE]`` is sent after success only, and an
error in mid-stream is an object with ``error`` that both raise.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from typing import Any, ClassVar

from ..core.frames import Frame, Kind
from .base import WireFormat

__all__ = ["OpenAIFormat", "completion_of", "error_body"]

# The clients retry 408, 409, 429 and every 5xx twice: each would be billed again.
NO_RETRY = {"x-should-retry": "false"}
FINISH_REASONS = {"truncated": "length", "filtered": "content_filter"}
TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}


class OpenAIFormat(WireFormat):
    """``run`` and ``created`` (seconds since 1970) are in every chunk; ``model`` is what was asked.

    ``include_usage`` adds a chunk with the token counts before ``[DONE]``. ``tools`` are the names
    of those that the client may be asked to run; None for any. The others are the site's affair.
    """

    headers: ClassVar = {**WireFormat.headers, **NO_RETRY}

    def __init__(
        self,
        run: str,
        *,
        created: int,
        model: str,
        include_usage: bool = False,
        tools: Container[str] | None = None,
    ) -> None:
        self.include_usage = include_usage
        self._calls = Calls(tools)
        self._head: dict[str, Any] = {
            "id": f"chatcmpl-{run}",
            "object": "chat.completion.chunk",
            "created": created,
            "model": model,
        }
        self._finish: dict[str, Any] = {}

    def opening(self) -> bytes:
        return b": open\n\n" + self._chunk({"role": "assistant", "content": ""})

    def encode(self, frame: Frame) -> bytes:
        data = frame.data
        match frame.kind:
            case Kind.TEXT:
                return self._chunk({"content": data["text"]})
            case Kind.REASONING:
                return self._chunk({"reasoning_content": data["text"]})
            case Kind.TOOL_CALL:
                piece = self._calls.shown(data)
                return self._chunk({"tool_calls": [_call(piece)]}) if piece else b""
            case Kind.FINISH:
                self._finish = data
            case Kind.DONE:
                return self._end()
            case Kind.ERROR:
                return self._end() if data["code"] == "filtered" else _event(error_body(data))
        return b""

    def _end(self) -> bytes:
        reason = finish_reason_of(self._finish, self._calls.has_any)
        last = self._chunk({}, reason)
        if self.include_usage:
            usage: dict[str, Any] = {"choices": [], "usage": self._finish.get("usage")}
            last += _event(self._head | usage)
        return last + b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self.include_usage else {}
        return _event({**self._head, "choices": [choice], **usage})


class Calls:
    """Picks the calls that a client is to see, and counts them: its SDK puts them into a list."""

    def __init__(self, tools: Container[str] | None) -> None:
        self._tools = tools
        self._places: dict[int, int | None] = {}  # the run's index: the client's; None for hidden

    @property
    def has_any(self) -> bool:
        return self._count > 0

    @property
    def _count(self) -> int:
        return sum(place is not None for place in self._places.values())

    def shown(self, piece: dict[str, Any]) -> dict[str, Any] | None:
        """Return a piece of a call as the client is to have it; None if it is not to."""
        index = piece["index"]
        if index not in self._places:
            is_shown = self._tools is None or piece.get("name") in self._tools
            self._places[index] = self._count if is_shown else None
        place = self._places[index]
        return None if place is None else {**piece, "index": place}


def completion_of(
    frames: Sequence[Frame],
    run: str,
    *,
    created: int,
    model: str,
    tools: Container[str] | None = None,
) -> dict[str, Any]:
    """Return a whole answer as one ``chat.completion`` object, or as one with ``error``.

    ``frames`` are all of the run's; ``tools`` as ``OpenAIFormat`` has them.
    """
    last = frames[-1]
    if last.kind is Kind.ERROR and last.data["code"] != "filtered":
        return error_body(last.data)
    finish = next((frame.data for frame in frames if frame.kind is Kind.FINISH), {})
    message = _message(frames, Calls(tools))
    reason = finish_reason_of(finish, "tool_calls" in message)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usage = {"usage": finish["usage"]} if finish.get("usage") else {}
    head = {"id": f"chatcmpl-{run}", "object": "chat.completion", "created": created}
    return {**head, "model": model, "choices": [choice], **usage}


def finish_reason_of(finish: dict[str, Any], has_calls: bool) -> str:
    """Return one of the reasons that the clients know; ``finish`` is the data of that frame."""
    ordinary = "tool_calls" if has_calls else "stop"
    return FINISH_REASONS.get(finish.get("outcome", ""), ordinary)


def error_body(data: dict[str, Any], status: int | None = None, param: str = "") -> dict[str, Any]:
    """Return an error as OpenAI's are; ``data`` has a ``code`` and a ``message``."""
    kind = TYPES.get(status or 0, "server_error")
    if status in (404, 405, 409, 413, 415):
        kind = "invalid_request_error"
    elif status == 429:
        kind = "rate_limit_error"
    error = {"message": data["message"], "type": kind, "param": param or None}
    return {"error": {**error, "code": data["code"]}}


def _message(frames: Iterable[Frame], shown: Calls) -> dict[str, Any]:
    """Return what the frames say as one message of the assistant's."""
    texts: dict[Kind, list[str]] = {Kind.TEXT: [], Kind.REASONING: []}
    calls: dict[int, dict[str, Any]] = {}
    for frame in frames:
        if frame.kind in texts:
            texts[frame.kind].append(frame.data["text"])
        elif frame.kind is Kind.TOOL_CALL and (piece := shown.shown(frame.data)):
            _add_piece(calls, piece)
    text = "".join(texts[Kind.TEXT])
    content = None if calls and not text else text
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning := "".join(texts[Kind.REASONING]):
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [calls[index] for index in sorted(calls)]
    return message


def _add_piece(calls: dict[int, dict[str, Any]], piece: dict[str, Any]) -> None:
    empty = {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
    call = calls.setdefault(piece["index"], empty)
    call["id"] = piece.get("id") or call["id"]
    call["function"]["name"] += piece.get("name") or ""
    call["function"]["arguments"] += piece.get("arguments") or ""


def _call(piece: dict[str, Any]) -> dict[str, Any]:
    """Return a piece of a tool call as a delta; the first one has the id and the name."""
    function = {"name": piece["name"]} if piece.get("name") else {}
    call = {"index": piece["index"], "function": {**function, "arguments": piece["arguments"]}}
    return {**call, "id": piece["id"], "type": "function"} if piece.get("id") else call


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(data)}\n\n".encode()
