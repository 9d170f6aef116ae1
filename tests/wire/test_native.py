"""The native format, to the byte; and what it writes is what json.dumps writes."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import ERRORS, error_data
from chatstream.core.sse import Decoder
from chatstream.wire.native import NativeFormat

FRAMES = [
    Frame(1, Kind.START, {"run": "r1", "model": "m1"}),
    Frame(2, Kind.REASONING, {"text": "Hm"}),
    Frame(3, Kind.TEXT, {"text": "This is the first chunk..."}),
    Frame(4, Kind.TOOL_CALL, {"index": 0, "arguments": "{}"}),
    Frame(5, Kind.FINISH, {"outcome": "completed"}),
    Frame(6, Kind.DONE, {}),
]


def test_a_plain_reader_gets_text_and_the_terminal_frame():
    assert NativeFormat().encode_all(FRAMES) == (
        b'data: {"text": "This is the first chunk..."}\n\ndata: {"done": true}\n\n'
    )


def test_all_events_are_named_but_for_text_and_the_terminal_frame():
    assert NativeFormat(all_events=True).encode_all(FRAMES) == (
        b'event: start\ndata: {"run": "r1", "model": "m1"}\n\n'
        b'event: reasoning\ndata: {"text": "Hm"}\n\n'
        b'data: {"text": "This is the first chunk..."}\n\n'
        b'event: tool_call\ndata: {"index": 0, "arguments": "{}"}\n\n'
        b'event: finish\ndata: {"outcome": "completed"}\n\n'
        b'data: {"done": true}\n\n'
    )


def test_ids_name_the_run_and_the_number_and_may_skip():
    assert NativeFormat("r1").encode_all(FRAMES) == (
        b'id: r1:3\ndata: {"text": "This is the first chunk..."}\n\n'
        b'id: r1:6\ndata: {"done": true}\n\n'
    )


def test_the_opening_is_no_block_of_its_own():
    assert NativeFormat().opening() == b": open\nretry: 1000\n"
    assert NativeFormat("r1").opening() == b": open\nretry: 1000\n"


def test_the_opening_block_of_a_one_shot_get_carries_the_id_to_come_back_with():
    opening = NativeFormat("r1", has_opening_block=True).opening()
    assert opening == b': open\nretry: 1000\nid: r1:0\ndata: {"text": ""}\n\n'


def test_a_heartbeat_is_a_comment_without_a_blank_line():
    assert NativeFormat().heartbeat == b": ping\n"


@pytest.mark.parametrize("code", ERRORS)
def test_an_error_is_an_unnamed_event(code):
    data = error_data(code, retry_after=3)
    encoded = NativeFormat(all_events=True).encode_all([Frame(1, Kind.ERROR, data)])
    assert encoded == b"data: " + json.dumps({"error": data}).encode() + b"\n\n"


@pytest.mark.parametrize("kind", Kind)
def test_no_event_is_ever_named_error(kind):
    data = {"text": "x"} if kind in (Kind.TEXT, Kind.REASONING) else {"code": "internal"}
    assert b"event: error" not in NativeFormat(all_events=True).encode_all([Frame(1, kind, data)])


def test_frames_of_which_none_is_shown_are_no_bytes():
    assert NativeFormat("r1").encode_all(FRAMES[:2]) == b""


CHARS = st.one_of(st.characters(), st.sampled_from("\r\n\0\u2028\ud83c\udf89:🎉 "))


@given(st.lists(st.text(CHARS), max_size=5), st.booleans())
def test_text_is_written_as_json_dumps_writes_it_and_forges_nothing(texts, has_ids):
    frames = [Frame(n, Kind.TEXT, {"text": text}) for n, text in enumerate(texts, 1)]
    encoded = NativeFormat("r1" if has_ids else "").encode_all(frames)
    events = list(Decoder().feed(encoded))
    assert [event.data.decode() for event in events] == [json.dumps({"text": t}) for t in texts]
    assert [json.loads(event.data)["text"] for event in events] == texts
    assert {event.event for event in events} <= {""}


def test_the_headers_keep_proxies_and_middleware_from_buffering():
    assert NativeFormat.headers == {
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        "Content-Encoding": "identity",
    }
    assert NativeFormat.content_type == "text/event-stream"
