"""Helpers for the tests of projects that stream chats.

::

    from chatstream.testing import assert_stream_contract, read_events

    def test_the_chat_answers(client):
        response = client.post("/chat/stream/", {"prompt": "hi"})
        events = assert_stream_contract(response)
        assert text_of(events) == "Hello from the script."

Set ``ScriptedProvider`` as the BACKEND of a provider, and no model is asked. Nothing here needs a
particular test runner.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterable, Iterable
from typing import Any, NamedTuple

from django.http.response import HttpResponseBase

from .core.frames import Kind
from .core.outcomes import ERRORS
from .core.sse import Decoder
from .providers.scripted import ScriptedProvider
from .wire.native import NativeFormat

__all__ = [
    "ScriptedProvider",
    "StreamEvent",
    "aread_events",
    "assert_stream_contract",
    "parse_events",
    "read_events",
    "text_of",
]

_NAMED = {str(kind) for kind in Kind} - {Kind.TEXT, Kind.DONE, Kind.ERROR}
_HEAD = b": open\nretry: 1000\n"
_LINE = re.compile(rb": ping|(id|event|data): [ -~]*")
_ID = re.compile(r"(?P<run>[A-Za-z0-9_-]+):(?P<seq>0|[1-9][0-9]*)")


class StreamEvent(NamedTuple):
    """One event as a browser would dispatch it; ``name`` is "message" unless it has one.

    ``data`` is the parsed JSON: ``{"text": "…"}``, ``{"done": True}`` or ``{"error": {…}}`` for a
    message; ``id`` is "" for a stream without ids.
    """

    name: str
    data: Any
    id: str = ""


def parse_events(body: bytes) -> list[StreamEvent]:
    """Return the events of a whole body.

    ::

        assert parse_events(b'data: {"done": true}\\n\\n') == [
            StreamEvent("message", {"done": True})
        ]
    """
    return [
        StreamEvent(event.event or "message", json.loads(event.data), event.id)
        for event in Decoder().feed(body)
    ]


def read_events(response: HttpResponseBase) -> list[StreamEvent]:
    """Read a response of ``django.test.Client`` to its end; return its events.

    ::

        events = read_events(client.get("/chat/stream/?prompt=hi"))
        assert events[-1].data == {"done": True}

    A response streams once: read again, it has no events. ``TypeError`` for a response that does
    not stream, such as a refusal.
    """
    return parse_events(_body(response))


async def aread_events(response: HttpResponseBase) -> list[StreamEvent]:
    """Read a response of ``django.test.AsyncClient`` to its end; return its events.

    ::

        events = await aread_events(await async_client.get("/chat/stream/?prompt=hi"))
    """
    return parse_events(await _abody(response))


def text_of(events: Iterable[StreamEvent]) -> str:
    """Return the answer: the text of all messages, joined.

    ::

        assert text_of(read_events(response)) == "Hello"
    """
    return "".join(event.data.get("text", "") for event in events if event.name == "message")


def assert_stream_contract(stream: HttpResponseBase | bytes) -> list[StreamEvent]:
    """Raise ``AssertionError`` if a whole stream breaks a promise of the wire; return its events.

    ``stream`` is a response of ``django.test.Client``, or the bytes of a body in the native format
    (an async response's are ``b"".join([part async for part in response])``)::

        events = assert_stream_contract(client.get("/chat/stream/?prompt=hi"))

    It checks what can be seen from outside: the head, the heartbeat and the shape of every block;
    exactly one terminal event, which is the last; the bytes that ``json.dumps`` writes; known names
    and error codes; ids that only grow. Of a response also its status and its headers.
    """
    if isinstance(stream, bytes):
        body = stream
    else:
        _check_headers(stream)
        body = _body(stream)
    _require(body.startswith(_HEAD), f"a stream begins with {_HEAD!r}, not with {body[:40]!r}")
    blocks = body.removeprefix(_HEAD).split(b"\n\n")
    _require(not blocks.pop(), "a stream ends with a whole block")
    for block in blocks:
        _check_block(block)
    events = parse_events(body)
    for event in events:
        _check_event(event)
    _check_order(events)
    _check_ids([event.id for event in events])
    return events


def _body(response: HttpResponseBase) -> bytes:
    _require_streaming(response)
    if getattr(response, "is_async", False):
        raise TypeError("this response streams asynchronously: read it with aread_events")
    assert isinstance(response, Iterable)
    return b"".join(response)


async def _abody(response: HttpResponseBase) -> bytes:
    _require_streaming(response)
    assert isinstance(response, AsyncIterable)
    return b"".join([part async for part in response])


def _require_streaming(response: HttpResponseBase) -> None:
    if not response.streaming:
        raise TypeError(f"this response does not stream: it is a {response.status_code}")


def _require(is_kept: bool, message: str) -> None:
    # No assert statement: python -O would leave it out.
    if not is_kept:
        raise AssertionError(message)


def _check_headers(response: HttpResponseBase) -> None:
    _require(response.status_code == 200, f"a stream has status 200, not {response.status_code}")
    kind = response.headers.get("Content-Type", "")
    _require(kind == NativeFormat.content_type, f"Content-Type is {kind!r}")
    for name, expected in NativeFormat.headers.items():
        value = response.headers.get(name)
        _require(value == expected, f"{name} is {value!r}, expected {expected!r}")


def _check_block(block: bytes) -> None:
    lines = block.split(b"\n")
    for line in lines:
        _require(_LINE.fullmatch(line) is not None, f"{line!r} is no line of a stream")
    fields = [line.partition(b":")[0] for line in lines if not line.startswith(b":")]
    _require(
        fields in ([b"data"], [b"id", b"data"], [b"event", b"data"], [b"id", b"event", b"data"]),
        f"a block holds one id and one event at most, and one data line, but this is {block!r}",
    )
    data = lines[-1].removeprefix(b"data: ")
    try:
        written = json.dumps(json.loads(data)).encode()
    except ValueError:
        raise AssertionError(f"{data!r} is no JSON") from None
    _require(data == written, f"{data!r} is not what json.dumps writes: {written!r}")


def _check_event(event: StreamEvent) -> None:
    _require(isinstance(event.data, dict), f"{event.data!r} is no JSON object")
    if event.name != "message":
        _require(event.name in _NAMED, f"no event is named {event.name!r}")
        return
    data = event.data
    if list(data) == ["text"]:
        _require(isinstance(data["text"], str), f"text is a string, but this is {data!r}")
    elif list(data) == ["error"]:
        _check_error(data["error"])
    else:
        _require(json.dumps(data) == '{"done": true}', f"{data!r} is no message")


def _check_error(error: dict[str, Any]) -> None:
    code = error.get("code")
    _require(code in ERRORS, f"{code!r} is no error code")
    expected = {"code": code, "message": ERRORS[str(code)].message}
    expected |= {"retryable": ERRORS[str(code)].is_retryable}
    known = {name: value for name, value in error.items() if name != "retry_after"}
    _require(known == expected, f"{error!r} is not what a client is told of {code!r}")
    seconds = error.get("retry_after", 0)
    _require(isinstance(seconds, int) and seconds >= 0, f"retry_after is {seconds!r}")


def _check_order(events: list[StreamEvent]) -> None:
    ends = [n for n, event in enumerate(events) if {"done", "error"} & event.data.keys()]
    ends = [n for n in ends if events[n].name == "message"]
    _require(len(ends) == 1, f"a stream has one terminal event, but this one has {len(ends)}")
    _require(ends[0] == len(events) - 1, f"{events[-1]!r} follows the terminal event")
    names = [event.name for event in events]
    if "finish" in names:
        is_there = names.index("finish") == len(names) - 2
        _require(is_there, "finish is the last event before the terminal one, and the only finish")
    # Only the block that gives a one-shot GET its id stands before the start.
    is_first = "start" not in names[1 + events[0].id.endswith(":0") :]
    _require(is_first, "start is the first event, and the only start")


def _check_ids(ids: list[str]) -> None:
    found = [_ID.fullmatch(one) for one in ids if one]
    _require(all(found), f"an id is <run>:<number>, but these are {ids!r}")
    _require(len(found) in (0, len(ids)), f"either every event has an id, or none: {ids!r}")
    matches = [match for match in found if match is not None]
    _require(len({match["run"] for match in matches}) <= 1, f"the ids name two runs: {ids!r}")
    numbers = [int(match["seq"]) for match in matches]
    _require(numbers == sorted(set(numbers)), f"the numbers of the ids do not grow: {numbers}")
