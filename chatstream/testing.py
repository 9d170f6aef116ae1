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
import threading
import time
from collections.abc import AsyncIterable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from django.db import connections
from django.http.response import HttpResponseBase

from .core.frames import Frame, Kind
from .core.outcomes import ERRORS, error_data
from .core.sse import Decoder
from .framelog import FrameConflict, FrameLog
from .ids import new_id
from .providers.scripted import ScriptedProvider
from .wire.native import NativeFormat

__all__ = [
    "FrameLogContract",
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
_OF_ONE_CONNECTION = {"storage", "expired", "stalled", "internal"}
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
    _check_ids(_ids_to_grow([_own_id(block) for block in blocks], events))
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


def _own_id(block: bytes) -> str:
    """Return the id that stands in a block; an event without one has the last one before it."""
    ids = [line for line in block.split(b"\n") if line.startswith(b"id: ")]
    return ids[0].removeprefix(b"id: ").decode() if ids else ""


def _ids_to_grow(ids: list[str], events: list[StreamEvent]) -> list[str]:
    """Leave out what may have no id: an error of one connection, the text of a pruned answer."""
    last = events[-1].data.get("error")
    if last is not None and last["code"] in _OF_ONE_CONNECTION and not ids[-1]:
        ids = ids[:-1]
    texts = [event for event in events if "text" in event.data and event.name == "message"]
    if len(texts) == 1 and events[0] is texts[0] and not ids[0]:
        ids = ids[1:]
    return ids


def _check_ids(ids: list[str]) -> None:
    found = [_ID.fullmatch(one) for one in ids if one]
    _require(all(found), f"an id is <run>:<number>, but these are {ids!r}")
    _require(len(found) in (0, len(ids)), f"either every event has an id, or none: {ids!r}")
    matches = [match for match in found if match is not None]
    _require(len({match["run"] for match in matches}) <= 1, f"the ids name two runs: {ids!r}")
    numbers = [int(match["seq"]) for match in matches]
    _require(numbers == sorted(set(numbers)), f"the numbers of the ids do not grow: {numbers}")


def _text(seq: int, text: str) -> Frame:
    return Frame(seq, Kind.TEXT, {"text": text})


# What a log must give back: NUL, half surrogate pairs, what ends a line in JavaScript, and more.
_AWKWARD = ["", "\0", "\ud83d", "\ude00", "\u2028\u2029\x85", "\U0001f600", 'data: {"}\\\r\n\n']
_DONE = Frame(2, Kind.DONE, {})
_FAILED = Frame(2, Kind.ERROR, error_data("internal"))
_FRAMES = [
    Frame(1, Kind.START, {"run": "r", "model": "m"}),
    _text(2, "Hello"),
    Frame(3, Kind.TOOL_CALL, {"index": 0, "name": "f", "arguments": '{"a": 1}'}),
    Frame(4, Kind.FINISH, {"outcome": "completed", "usage": {"total_tokens": 3}}),
    Frame(5, Kind.DONE, {}),
]
_RACE_TIMEOUT = 60.0  # seconds


class FrameLogContract:
    """What every frame log keeps to, as tests; inherit it in yours.

    ::

        class TestMyFrameLog(FrameLogContract):
            def make_log(self):
                return MyFrameLog({})

    Each test makes a log, and runs of its own in it. A log that is shared is made a second time
    for what another process does: both see the same frames.
    """

    racers = 4
    rounds = 15

    def make_log(self) -> FrameLog:
        """Return the log to test."""
        raise NotImplementedError

    def make_run(self) -> str:
        """Return the id of a new run."""
        return new_id()

    def make_other(self, log: FrameLog) -> FrameLog:
        """Return the log as another process has it."""
        return self.make_log() if log.is_shared else log

    # Reading

    def test_what_was_appended_is_read(self) -> None:
        log, run = self.make_log(), self.make_run()
        log.append({run: _FRAMES[:2]})
        log.append({run: _FRAMES[2:]})
        _expect(log.read(run), _FRAMES)

    def test_what_was_appended_is_read_elsewhere(self) -> None:
        log, run = self.make_log(), self.make_run()
        log.append({run: _FRAMES})
        _expect(self.make_other(log).read(run), _FRAMES)

    def test_a_reader_gets_what_follows_its_number(self) -> None:
        log, run = self.make_log(), self.make_run()
        log.append({run: _FRAMES})
        for after in range(len(_FRAMES) + 2):
            _expect(log.read(run, after), _FRAMES[after:])

    def test_an_unknown_run_is_empty(self) -> None:
        log, run = self.make_log(), new_id()
        _expect(log.read(run), [])
        _expect(log.last_seq(run), 0)
        _expect(log.read_many({run: 0}), {})

    def test_one_append_takes_many_runs(self) -> None:
        log, runs = self.make_log(), [self.make_run() for _ in range(5)]
        log.append({run: [_text(1, run)] for run in runs})
        for run in runs:
            _expect(log.read(run), [_text(1, run)])

    def test_many_runs_are_read_at_once(self) -> None:
        log, whole, half, silent = self.make_log(), *(self.make_run() for _ in range(3))
        log.append({whole: _FRAMES, half: _FRAMES[:2], silent: _FRAMES})
        found = log.read_many({whole: 0, half: 1, silent: len(_FRAMES)})
        _expect(found, {whole: _FRAMES, half: _FRAMES[1:2]})

    def test_a_thousand_runs_are_read_at_once(self) -> None:
        log, run = self.make_log(), self.make_run()
        log.append({run: _FRAMES})
        strangers = {new_id(): 3 for _ in range(1000)}
        _expect(log.read_many(strangers | {run: 3}), {run: _FRAMES[3:]})

    def test_the_last_number_is_known(self) -> None:
        log, run = self.make_log(), self.make_run()
        log.append({run: _FRAMES[:2]})
        _expect(log.last_seq(run), 2)

    def test_any_text_comes_back_as_it_went_in(self) -> None:
        log, run = self.make_log(), self.make_run()
        frames = [_text(seq, text) for seq, text in enumerate(_AWKWARD, 1)]
        log.append({run: frames})
        _expect(self.make_other(log).read(run), frames)

    # Conflicts

    def test_a_number_is_given_once(self) -> None:
        self._refuses(_FRAMES[:2], [_text(2, "again")])

    def test_a_number_is_given_once_in_one_append(self) -> None:
        self._refuses([], [_text(1, "a"), _text(1, "b")])

    def test_there_is_no_gap(self) -> None:
        self._refuses(_FRAMES[:2], [_text(4, "gap")])

    def test_there_is_no_gap_in_one_append(self) -> None:
        self._refuses(_FRAMES[:1], [_text(2, "a"), _text(4, "gap")])

    def test_the_first_number_is_one(self) -> None:
        self._refuses([], [_text(2, "gap")])

    def test_nothing_follows_a_terminal_frame(self) -> None:
        for end in (_DONE, _FAILED):
            self._refuses([_FRAMES[0], end], [_text(3, "more")])
            self._refuses([_FRAMES[0], end], [end._replace(seq=3)])

    def test_nothing_follows_a_terminal_frame_in_one_append(self) -> None:
        self._refuses(_FRAMES[:1], [_DONE, _text(3, "more")])

    def test_what_another_has_appended_conflicts(self) -> None:
        log, run = self.make_log(), self.make_run()
        other = self.make_other(log)
        log.append({run: _FRAMES[:1]})
        other.append({run: [_text(2, "theirs")]})
        _require(_conflicts(log, {run: _FRAMES[1:2]}), "number 2 was given by another")
        log.append({run: _FRAMES[2:3]})
        other.append({run: [_DONE._replace(seq=4)]})
        _require(_conflicts(log, {run: [_text(4, "late")]}), "another has ended the run")
        _require(_conflicts(log, {run: [_text(5, "late")]}), "another has ended the run")
        _expect(len(log.read(run)), 4)

    def test_a_conflict_appends_to_no_run(self) -> None:
        log, runs = self.make_log(), [self.make_run() for _ in range(3)]
        log.append(dict.fromkeys(runs, _FRAMES[:1]))
        frames = dict.fromkeys(runs, _FRAMES[1:2])
        for culprit in runs:
            wrong = frames | {culprit: [_text(1, "again")]}
            _require(_conflicts(log, wrong), "number 1 was given")
            for run in runs:
                _expect(log.read(run), _FRAMES[:1])
        log.append(frames)

    def _refuses(self, before: list[Frame], frames: list[Frame]) -> None:
        log, run = self.make_log(), self.make_run()
        if before:
            log.append({run: before})
        for one in (log, self.make_other(log)):
            _require(_conflicts(one, {run: frames}), f"{frames} cannot follow {before}")
            _expect(one.read(run), before)

    # Deleting

    def test_deleted_frames_are_gone_and_others_are_not(self) -> None:
        log, old, older, kept = self.make_log(), *(self.make_run() for _ in range(3))
        log.append({old: _FRAMES, older: _FRAMES, kept: _FRAMES})
        log.delete([old, older, new_id()])
        _expect(log.read_many({old: 0, older: 0, kept: 0}), {kept: _FRAMES})
        _expect(log.last_seq(old), 0)

    # Races: threads with connections and logs of their own

    def test_of_those_who_race_for_a_number_one_wins(self) -> None:
        log, run = self.make_log(), self.make_run()
        start = threading.Barrier(self.racers)

        def race(mine: FrameLog, name: str) -> list[int]:
            won = []
            for seq in range(1, self.rounds + 1):
                start.wait(_RACE_TIMEOUT)
                if not _conflicts(mine, {run: [_text(seq, name)]}):
                    won.append(seq)
            return won

        won = self._race(log, [race] * self.racers)
        numbers = list(range(1, self.rounds + 1))
        _expect(sorted(seq for seqs in won for seq in seqs), numbers)
        for frame in log.read(run):
            _require(frame.seq in won[int(frame.data["text"])], f"{frame} was refused")

    def test_nothing_follows_a_terminal_frame_that_races_with_others(self) -> None:
        for _ in range(self.rounds):
            self._race_to_the_end()

    def _race_to_the_end(self) -> None:
        log, run = self.make_log(), self.make_run()
        start = threading.Barrier(self.racers)

        def go_on(mine: FrameLog, name: str) -> None:
            start.wait(_RACE_TIMEOUT)
            ends = time.monotonic() + _RACE_TIMEOUT
            while not _is_ended(mine, run) and time.monotonic() < ends:
                _conflicts(mine, {run: [_text(mine.last_seq(run) + 1, name)]})

        def end(mine: FrameLog, name: str) -> None:
            start.wait(_RACE_TIMEOUT)
            ends = time.monotonic() + _RACE_TIMEOUT
            while time.monotonic() < ends:
                if not _conflicts(mine, {run: [_DONE._replace(seq=mine.last_seq(run) + 1)]}):
                    return

        self._race(log, [end, *[go_on] * (self.racers - 1)])
        frames = log.read(run)
        _expect([frame.seq for frame in frames], list(range(1, len(frames) + 1)))
        _expect([frame.is_terminal for frame in frames], [False] * (len(frames) - 1) + [True])

    def _race(self, log: FrameLog, racers: list[Callable[[FrameLog, str], Any]]) -> list[Any]:
        """Run each in a thread, with its log and its number; return what they return."""

        def run(racer: Callable[[FrameLog, str], Any], number: int) -> Any:
            try:
                return racer(self.make_other(log), str(number))
            finally:
                connections.close_all()

        with ThreadPoolExecutor(len(racers)) as pool:
            futures = [pool.submit(run, racer, number) for number, racer in enumerate(racers)]
            return [future.result(_RACE_TIMEOUT) for future in futures]


def _conflicts(log: FrameLog, frames: dict[str, list[Frame]]) -> bool:
    try:
        log.append(frames)
    except FrameConflict:
        return True
    return False


def _is_ended(log: FrameLog, run: str) -> bool:
    frames = log.read(run)
    return bool(frames) and frames[-1].is_terminal


def _expect(actual: object, expected: object) -> None:
    _require(actual == expected, f"expected {expected!r}, got {actual!r}")
