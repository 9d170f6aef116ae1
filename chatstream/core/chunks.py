"""Upstream bytes in, deltas out: what each chat completion chunk says.

Pure, and tolerant of what good servers were seen to send: absent and null fields, empty choices,
unknown fields, content as a list of parts. What is no chunk at all becomes a delta with an error,
so that the deltas before it in the same read are kept. With msgspec installed the common chunk
takes a short cut (``shortcut``); ``_delta_of_json`` alone defines what a chunk means, and decodes
all the others.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, cast

from .outcomes import RunError
from .sse import Decoder, Event, EventTooLarge
from .upstream import code_of_error

try:
    from .shortcut import plain_text
except ImportError:  # the extra ``fast`` is not installed

    def plain_text(data: bytes) -> str | None:
        return None


__all__ = ["Delta", "DeltaReader", "decode_chunk", "delta_of"]


class Delta(NamedTuple):
    """What one upstream chunk says of choice 0.

    ``has_choice`` tells a chunk of an answer from mere preamble. ``tool_calls`` are pieces
    ``{"index", "id"?, "name"?, "arguments", "extra_content"?}``, the last of which is the server's
    own and wanted back with the call; so is reasoning that came in the ``reasoning_field``
    ``reasoning_content``. ``usage`` holds token counts. ``is_done`` stands for
    ``[DONE]``. ``error`` ends the answer. No upstream sends ``tool_results``,
    ``{"id", "output"}`` or ``{"id", "error"}``: they come from those who run the tools.
    """

    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    finish_reason: str | None = None
    usage: dict[str, int] | None = None
    has_choice: bool = False
    is_done: bool = False
    error: RunError | None = None
    tool_results: tuple[dict[str, Any], ...] = ()
    reasoning_field: str = ""

    @property
    def is_token(self) -> bool:
        """Whether something of the answer came, as the deadlines count it."""
        return bool(self.text or self.reasoning or self.tool_calls)


DONE = Delta(is_done=True)
NOTHING = Delta()

_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
_USAGE_DETAILS = (
    ("prompt_tokens_details", "cached_tokens"),
    ("completion_tokens_details", "reasoning_tokens"),
)
_FINISH_REASON = re.compile(r"[A-Za-z0-9_.-]{1,40}")


class _Malformed(ValueError):
    """Says what was expected and what came, by type: never the provider's words."""


def delta_of(chunk: object) -> Delta:
    """Return the delta of a decoded chunk.

    It is a mapping, a pydantic model such as ``ChatCompletionChunk``, or a ``Delta`` as it is.

    Anything else is a TypeError.
    """
    if isinstance(chunk, Delta):
        return chunk
    if not isinstance(chunk, Mapping):
        dump = getattr(chunk, "model_dump", None)
        if not callable(dump):
            raise TypeError(
                "a completion yields ChatCompletionChunk objects or dicts of their shape, "
                f"but this one yielded {type(chunk).__name__}"
            )
        chunk = dump(exclude_unset=True)
    try:
        return _delta_of_json(chunk)
    except _Malformed as exc:
        return _malformed(str(exc))


def decode_chunk(data: bytes) -> Delta:
    """Return the delta of one event's data; what is no chunk is a delta with an error."""
    text = plain_text(data)
    return _decode_any(data) if text is None else Delta(text, has_choice=True)


def _decode_any(data: bytes) -> Delta:
    try:
        return _delta_of_json(json.loads(data.decode()))
    except _Malformed as exc:
        return _malformed(str(exc))
    except (ValueError, RecursionError) as exc:  # not UTF-8, not JSON, a number of 5,000 digits
        return _malformed(f"an event is not JSON ({type(exc).__name__})")


def _delta_of_json(value: object) -> Delta:
    chunk: Mapping[str, Any] = _expect(Mapping, value, "a chunk")
    if chunk.get("error") or chunk.get("object") == "error":
        error = chunk.get("error") or chunk
        return Delta(error=RunError(code_of_error(error, "upstream_error"), _summary(error)))
    usage = _usage(chunk.get("usage"))
    choice = _first_choice(_expect(list, chunk.get("choices") or [], "choices"))
    if choice is None:
        return Delta(usage=usage)
    delta = _expect(Mapping, choice.get("delta") or {}, "delta")
    text, thoughts = _content(delta.get("content"))
    reasoning, field = _reasoning(delta)
    return Delta(
        text + _string(delta.get("refusal"), "refusal"),
        reasoning + thoughts,
        tuple(_tool_calls(delta)),
        _finish_reason(choice.get("finish_reason")),
        usage,
        has_choice=True,
        reasoning_field=field,
    )


def _expect(kind: type, value: Any, name: str) -> Any:
    if not isinstance(value, kind):
        raise _Malformed(f"{name} is a {type(value).__name__}, expected a {kind.__name__.lower()}")
    return value


def _string(value: object, name: str) -> str:
    return "" if value is None else str(_expect(str, value, name))


def _first_choice(choices: list[Any]) -> Mapping[str, Any] | None:
    """Return choice 0: with n=2 the other one's tokens come in between, and are not shown."""
    for choice in choices:
        if not _expect(Mapping, choice, "a choice").get("index"):
            return choice  # type: ignore[no-any-return]
    return None


def _content(content: object) -> tuple[str, str]:
    """Return (text, reasoning) of ``content``: a string, null, or Mistral's list of parts."""
    if not isinstance(content, list):
        return _string(content, "content"), ""
    text, thoughts = "", ""
    for part in content:
        part = _expect(Mapping, part, "a content part")
        if part.get("type") == "thinking":
            thoughts += _content(part.get("thinking"))[0]
        else:
            text += _string(part.get("text"), "text")
    return text, thoughts


def _reasoning(delta: Mapping[str, Any]) -> tuple[str, str]:
    """Return reasoning and its field: ``reasoning_content`` (DeepSeek, vLLM) or ``reasoning``."""
    for name in ("reasoning_content", "reasoning"):
        if value := delta.get(name):
            return (value, name) if isinstance(value, str) else ("", "")
    return "", ""


def _tool_calls(delta: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    calls = _expect(list, delta.get("tool_calls") or [], "tool_calls")
    if legacy := delta.get("function_call"):
        calls = [{"index": 0, "function": legacy}, *calls]
    for position, call in enumerate(calls):
        call = _expect(Mapping, call, "a tool call")
        function = _expect(Mapping, call.get("function") or {}, "function")
        index = call.get("index")
        piece: dict[str, Any] = {"index": index if isinstance(index, int) else position}
        if call_id := _string(call.get("id"), "id"):
            piece["id"] = call_id
        if name := _string(function.get("name"), "name"):
            piece["name"] = name
        piece["arguments"] = _string(function.get("arguments"), "arguments")
        if isinstance(extra := call.get("extra_content"), Mapping):  # Gemini's thought signatures
            piece["extra_content"] = extra
        yield piece


def _finish_reason(value: object) -> str | None:
    if not value:
        return None
    reason = _string(value, "finish_reason")
    return reason if _FINISH_REASON.fullmatch(reason) else "unknown"


def _usage(usage: object) -> dict[str, int] | None:
    """Return the token counts that are counts; None if there are none."""
    if not isinstance(usage, Mapping):
        return None
    found = [(name, usage.get(name)) for name in _USAGE]
    for group, name in _USAGE_DETAILS:
        details = usage.get(group)
        found.append((name, details.get(name) if isinstance(details, Mapping) else None))
    counts = {n: v for n, v in found if isinstance(v, int) and not isinstance(v, bool) and v >= 0}
    return counts or None


def _summary(error: object) -> str:
    """Return an error object's type and code for the operator's log; its message may hold a key."""
    if not isinstance(error, Mapping):
        return f"an error of type {type(error).__name__} in the stream"
    return f"an error in the stream: type {error.get('type')!r:.80}, code {error.get('code')!r:.80}"


class DeltaReader:
    """Turns the bytes of an upstream's response into deltas, a batch for each read.

    ``content_encoding`` is the response's header: "gzip" and "deflate" are undone here, a bounded
    piece at a time, so that a decompression bomb meets the caps of its decoded bytes; another
    encoding is an error. ``is_done`` is True once ``[DONE]`` came; what follows it is ignored.
    """

    __slots__ = ("_decoder", "_inflate", "is_done")

    def __init__(self, content_encoding: str = "", max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self._decoder = Decoder(max_event_bytes)
        self._inflate = _inflater(content_encoding)
        self.is_done = False

    def receive(self, data: bytes) -> list[Delta]:
        """Return what ``data`` says; after an error or ``[DONE]`` nothing more."""
        deltas: list[Delta] = []
        if self.is_done:
            return deltas
        if self._inflate is None:
            self._read(data, deltas)
            return deltas
        try:
            for piece in self._inflate(data):
                self._read(piece, deltas)
        except zlib.error:
            deltas.append(_malformed("the compressed body is damaged"))
            self.is_done = True
        return deltas

    def _read(self, data: bytes, deltas: list[Delta]) -> None:
        if self.is_done:
            return
        events: Iterable[Event]
        if (plain := self._decoder.feed_plain(data)) is None:
            events = self._decoder.feed(data)
        else:
            texts = list(map(plain_text, plain))
            if None not in texts:  # nearly always
                deltas.append(Delta("".join(cast(list[str], texts)), has_choice=True))
                return
            events = map(Event, plain)
        for delta in _deltas(events):
            deltas.append(delta)
            if delta.is_done or delta.error is not None:
                self.is_done = True
                return


def _deltas(events: Iterable[Event]) -> Iterator[Delta]:
    """Yield the events' deltas; adjoining chunks of mere text are one."""
    texts: list[str] = []
    fault: Delta | None = None
    try:
        for event in events:
            text = None if event.event else plain_text(event.data)
            if text is not None:
                texts.append(text)
                continue
            if texts:
                yield Delta("".join(texts), has_choice=True)
                texts = []
            yield _delta_of_event(event)
    except EventTooLarge as exc:
        fault = Delta(error=RunError("too_long", str(exc)))
    if texts:
        yield Delta("".join(texts), has_choice=True)
    if fault is not None:
        yield fault


def _delta_of_event(event: Event) -> Delta:
    if event.event == "error":
        return _delta_of_error_event(event.data)
    data = event.data
    if data.startswith(b"[DONE]"):
        return DONE
    return _decode_any(data) if data and not data.isspace() else NOTHING


def _delta_of_error_event(data: bytes) -> Delta:
    """``event: error`` is an error whatever its data is, with or without an ``error`` key."""
    delta = decode_chunk(data)
    if delta.error is not None and delta.error.code != "upstream_malformed":
        return delta
    return Delta(error=RunError("upstream_error", "an SSE event named error"))


def _malformed(detail: str) -> Delta:
    return Delta(error=RunError("upstream_malformed", detail))


def _inflater(content_encoding: str) -> Callable[[bytes], Iterable[bytes]] | None:
    encoding = content_encoding.strip().lower()
    if encoding in ("", "identity"):
        return None
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise RunError("upstream_malformed", "a Content-Encoding that was not asked for")
    inflate = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)  # 32: gzip or zlib, by the header

    def pieces(data: bytes) -> Iterator[bytes]:
        while data:
            yield inflate.decompress(data, 65536)
            data = inflate.unconsumed_tail

    return pieces
