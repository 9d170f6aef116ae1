"""The helpers for users' tests: they read what came, and tell what breaks the contract."""

import json

import pytest
from django.http import HttpResponse

from chatstream.core.chunks import Delta
from chatstream.core.framer import Framer
from chatstream.core.outcomes import ERRORS, RunError, error_data
from chatstream.framelog import get_frame_log
from chatstream.ledger import prune
from chatstream.responses import EventStreamResponse
from chatstream.testing import (
    ScriptedProvider,
    StreamEvent,
    aread_events,
    assert_stream_contract,
    parse_events,
    read_events,
    text_of,
)
from chatstream.wire.native import NativeFormat
from tests.asking import URL, configured

CHUNKS = [Delta("Hel", has_choice=True), Delta("lo"), Delta(finish_reason="stop", has_choice=True)]
HEAD = b": open\nretry: 1000\n"
TEXT = b'data: {"text": "a"}\n\n'
DONE = b'data: {"done": true}\n\n'


def test_read_events_of_a_sync_response():
    assert read_events(EventStreamResponse(iter(CHUNKS)))[-1] == StreamEvent(
        "message", {"done": True}
    )


async def test_read_events_of_an_async_response():
    async def chunks():
        for chunk in CHUNKS:
            yield chunk

    events = await aread_events(EventStreamResponse(chunks()))
    assert text_of(events) == "Hello"


def test_the_contract_holds_for_our_own_response():
    assert text_of(assert_stream_contract(EventStreamResponse(iter(CHUNKS)))) == "Hello"


async def test_an_async_response_is_no_matter_for_the_sync_reader():
    with pytest.raises(TypeError, match="aread_events"):
        read_events(EventStreamResponse(iter(CHUNKS)))


@pytest.mark.parametrize("reader", [read_events, assert_stream_contract])
def test_a_refusal_is_no_stream(reader):
    with pytest.raises((TypeError, AssertionError), match="400"):
        reader(HttpResponse(status=400))


def test_only_messages_are_text():
    body = b'event: reasoning\ndata: {"text": "hm"}\n\n' + TEXT + DONE
    assert text_of(parse_events(body)) == "a"


def test_the_scripted_provider_is_at_hand():
    assert ScriptedProvider("s", {}).model_for.__self__.alias == "s"


@pytest.mark.parametrize("all_events", [True, False])
@pytest.mark.parametrize("has_opening_block", [True, False])
@pytest.mark.parametrize("code", [None, *ERRORS])
def test_the_contract_holds_for_every_ending(all_events, has_opening_block, code):
    framer = Framer("run-1")
    wire = NativeFormat("run-1", all_events=all_events, has_opening_block=has_opening_block)
    frames = [framer.start()]
    if code is None:
        frames += framer.receive(CHUNKS)
        framer.end()
    else:
        framer.fail(RunError(code, retry_after=7))
    body = wire.opening() + wire.heartbeat + wire.encode_all([*frames, *framer.close()])
    assert assert_stream_contract(body)


def error(code):
    return f"data: {json.dumps({'error': error_data(code)})}\n\n".encode()


@pytest.mark.parametrize("code", ["storage", "expired", "stalled", "internal"])
def test_an_error_of_one_connection_has_no_id(code):
    assert assert_stream_contract(HEAD + b"id: r:2\n" + TEXT + error(code))
    assert assert_stream_contract(HEAD + error(code))


@pytest.mark.parametrize("end", [DONE, error("interrupted")])
def test_the_text_of_a_pruned_answer_has_no_id(end):
    finish = b'id: r:8\nevent: finish\ndata: {"outcome": "completed"}\n\n'
    assert assert_stream_contract(HEAD + TEXT + b"id: r:9\n" + end)
    assert assert_stream_contract(HEAD + TEXT + finish + b"id: r:9\n" + end)


@pytest.mark.usefixtures("runs")
@pytest.mark.parametrize("query", [{}, {"events": "all"}])
def test_the_contract_holds_for_a_run_read_and_resumed(client, query):
    with configured():
        events = assert_stream_contract(client.post(URL, {"prompt": "hi"}, query_params=query))
        own = {"sec-fetch-site": "same-origin"}
        for number, event in enumerate(events[:-1], 1):
            rest = client.get(URL, query, headers={**own, "last-event-id": event.id})
            assert assert_stream_contract(rest) == events[number:]
        prune(get_frame_log(), retention=-1)
        whole = client.get(URL, query, headers={**own, "last-event-id": event.id[:26] + ":0"})
        assert text_of(assert_stream_contract(whole)) == text_of(events)


BROKEN = {
    "no head": TEXT + DONE,
    "a head that is a block of its own": HEAD + b"\n" + TEXT + DONE,
    "a heartbeat that is a block of its own": HEAD + b": ping\n\n" + TEXT + DONE,
    "no terminal event": HEAD + TEXT,
    "nothing": HEAD,
    "two terminal events": HEAD + DONE + DONE,
    "text after the end": HEAD + DONE + TEXT,
    "an unfinished block": HEAD + TEXT + DONE[:-1],
    "bytes after the end": HEAD + DONE + b": ping\n",
    "not what json.dumps writes": HEAD + b'data: {"text":"a"}\n\n' + DONE,
    "letters as they are": HEAD + 'data: {"text": "ä"}\n\n'.encode() + DONE,
    "another done": HEAD + b'data: {"done": 1}\n\n',
    "no json": HEAD + b"data: [DONE]\n\n" + DONE,
    "no object": HEAD + b"data: null\n\n" + DONE,
    "two lines of data": HEAD + b"data: {}\ndata: {}\n\n" + DONE,
    "an unknown message": HEAD + b'data: {"content": "a"}\n\n' + DONE,
    "text that is none": HEAD + b'data: {"text": null}\n\n' + DONE,
    "a foreign comment": HEAD + b": hello\n" + TEXT + DONE,
    "an event named error": HEAD + b'event: error\ndata: {"a": 1}\n\n' + DONE,
    "an unknown name": HEAD + b"event: chunk\n" + TEXT + DONE,
    "a carriage return": HEAD + TEXT.replace(b"\n", b"\r\n") + DONE,
    "an unknown code": HEAD + b'data: {"error": {"code": "oops", "message": "x"}}\n\n',
    "a foreign message": HEAD
    + b'data: {"error": {"code": "internal", "message": "ValueError", "retryable": true}}\n\n',
    "an early finish": HEAD + b'event: finish\ndata: {"outcome": "x"}\n\n' + TEXT + DONE,
    "a late start": HEAD + TEXT + b'event: start\ndata: {"run": "r"}\n\n' + DONE,
    "ids that shrink": HEAD + b"id: r:2\n" + TEXT + b"id: r:1\n" + DONE,
    "ids that stand still": HEAD + b"id: r:2\n" + TEXT + b"id: r:2\n" + DONE,
    "ids of two runs": HEAD + b"id: r:1\n" + TEXT + b"id: s:2\n" + DONE,
    "an id of another shape": HEAD + b"id: 1\n" + TEXT + b"id: 2\n" + DONE,
    "ids on some events": HEAD + TEXT + b"id: r:2\n" + TEXT + b"id: r:3\n" + DONE,
    "an end without its id": HEAD + b"id: r:2\n" + TEXT + DONE,
    "an error of the run without its id": HEAD + b"id: r:2\n" + TEXT + error("filtered"),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_contract_is_told(body):
    with pytest.raises(AssertionError):
        assert_stream_contract(body)


@pytest.mark.parametrize("name", ["Cache-Control", "X-Accel-Buffering", "Content-Encoding"])
def test_a_missing_header_breaks_the_contract(name):
    response = EventStreamResponse(iter(CHUNKS))
    del response.headers[name]
    with pytest.raises(AssertionError, match=name):
        assert_stream_contract(response)
