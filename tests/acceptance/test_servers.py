"""The promise on the wire, kept on every server: the same bytes, heartbeats, HEAD, HTTP/1.0."""

import json
import re
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.acceptance.rows import OPENING, Service, serve
from tests.behaviours import INJECTION, PARTIAL, TEXT
from tests.reader import Answer, Reader, Visitor, read, stream_path
from tests.servers import CANARY_KEY, HEARTBEAT, LAUNCHES, each

numbers = count()
PING = b": ping\n"


@pytest.fixture(scope="module", params=each(LAUNCHES))
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serve(request.param) as service:
        yield service


def own(behaviour: str) -> str:
    return f"{behaviour}@{next(numbers)}"


def post(service: Service, model: str, **more: object) -> bytes:
    """Ask by POST; return the body, without pings."""
    body = json.dumps({"prompt": "hi", "model": model}).encode()
    host = f"http://127.0.0.1:{service.server.port}"
    headers = {"Content-Type": "application/json", "Origin": host}
    answer = read(
        service.server.port,
        "/chat/stream/",
        method="POST",
        body=body,
        headers=headers,
        **more,
    )
    assert answer.status == 200, answer.body
    return answer.body.replace(PING, b"")


def test_a_plain_answer_is_the_opening_text_frames_and_done(service: Service) -> None:
    body = post(service, own("ok"))
    assert body.startswith(OPENING)
    blocks = body.removeprefix(OPENING).decode().split("\n\n")
    assert blocks.pop() == ""
    frames = [re.sub(r"\Aid: [0-9a-z]{26}:\d+\n", "", block) for block in blocks]
    assert frames.pop() == 'data: {"done": true}'
    texts = [json.loads(frame.removeprefix("data: "))["text"] for frame in frames]
    assert "".join(texts) == TEXT
    assert frames == [f"data: {json.dumps({'text': text})}" for text in texts]


def test_an_error_is_the_last_frame_and_the_body_ends_well(service: Service) -> None:
    answer = service.ask(own("rst_mid_stream"))
    assert answer.ending == "error:upstream_incomplete"
    assert answer.text == PARTIAL
    assert answer.is_whole
    assert answer.body.endswith(b"}}\n\n")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_frame_carries_an_id_and_they_rise(service: Service, method: str) -> None:
    if method == "GET":
        body = service.ask(own("ok")).body.replace(PING, b"").removeprefix(OPENING)
    else:
        body = post(service, own("ok")).removeprefix(OPENING)
    ids = re.findall(rb"^id: ([0-9a-z]{26}):(\d+)$", body, re.MULTILINE)
    assert len({run for run, _ in ids}) == 1
    seqs = [int(seq) for _, seq in ids]
    assert seqs == sorted(set(seqs))
    assert len(ids) == body.count(b"\n\n")
    first = b'id: %b:0\ndata: {"text": ""}\n\n' % ids[0][0]
    assert body.startswith(first) == (method == "GET")


def test_text_cannot_forge_a_frame(service: Service) -> None:
    answer = service.ask(own("ok_injection"))
    assert (answer.ending, answer.text) == ("done", INJECTION)
    assert len(answer.terminals) == 1


def test_the_stream_opens_before_the_first_token(service: Service) -> None:
    with Reader(service.server.port, stream_path(own("hang_before_headers"))) as reader:
        reader.read_until(OPENING)
        assert b"error" not in reader.answer.body


def test_tokens_arrive_as_they_come(service: Service) -> None:
    with Reader(
        service.server.port,
        stream_path(own("ok_slow")),
        headers={"Accept-Encoding": "gzip, br", "Accept": "text/event-stream"},
    ) as reader:
        reader.read_until(b'"Hello"')
        assert b"done" not in reader.answer.body
        first_at = time.monotonic()
        answer = reader.read_all()
    assert answer.ended_at - first_at > 1.5  # the other tokens take three seconds
    assert (answer.ending, answer.text) == ("done", TEXT)
    assert answer.headers.get("content-encoding", "identity") == "identity"


def test_silence_is_filled_from_the_first_second_on(service: Service) -> None:
    with Reader(service.server.port, stream_path(own("hang_mid_stream"))) as reader:
        body = reader.read_all().body
    assert body.count(PING) >= 1.5 / HEARTBEAT - 1
    assert b"\n" + PING + b"\n" not in body  # no block of its own


def test_the_headers_keep_caches_and_proxies_off(service: Service) -> None:
    headers = service.ask(own("ok")).headers
    assert headers["content-type"].split(";")[0] == "text/event-stream"
    assert "no-transform" in headers["cache-control"]
    assert {"no-cache", "no-store"} & set(headers["cache-control"].replace(" ", "").split(","))
    assert headers["x-accel-buffering"] == "no"
    assert "content-length" not in headers


def test_head_sends_no_body_and_asks_nothing_upstream(service: Service) -> None:
    for base in ("/chat/stream/", "/bare/provider/"):
        model = own("ok")
        started = time.monotonic()
        with Reader(service.server.port, stream_path(model, base), method="HEAD") as reader:
            assert reader.read_head().status == 200
            assert reader.anything_more(0.5) == b""
        assert time.monotonic() - started < 5
        assert service.upstream.requests_for(model) == []


def test_head_tells_what_get_would_refuse(service: Service) -> None:
    answer = read(service.server.port, "/chat/stream/?prompt=", method="HEAD")
    assert answer.status == 400
    assert answer.headers["chatstream-error"] == "invalid"
    assert answer.body == b""


def test_a_refusal_is_json_whatever_accept_says(service: Service) -> None:
    for accept in ("text/event-stream", "text/html", "application/x-unknown"):
        answer = read(service.server.port, "/chat/stream/?prompt=", headers={"Accept": accept})
        assert answer.status == 400
        assert answer.headers["content-type"].split(";")[0] == "application/json"
        error = json.loads(answer.body)["error"]
        assert (error["code"], error["status"], error["field"]) == ("invalid", 400, "prompt")


def reconnect(visitor: Visitor, path: str, last_id: str) -> Answer:
    return visitor.get(path, headers={"Last-Event-ID": last_id})


def test_a_reconnect_gets_what_it_lacks_and_asks_no_model(service: Service) -> None:
    visitor, model = Visitor(service.server.port), own("ok")
    events = visitor.get(stream_path(model)).events
    assert events[-1].json == {"done": True}
    for number, event in enumerate(events[:-1], 1):
        assert reconnect(visitor, stream_path(model), event.id).events == events[number:]
    assert len(service.upstream.requests_for(model)) == 1


def test_a_reconnect_after_the_end_is_answered_204_and_asks_no_model(service: Service) -> None:
    visitor, model = Visitor(service.server.port), own("ok")
    last_id = visitor.get(stream_path(model)).events[-1].id
    answer = reconnect(visitor, stream_path(model), last_id)
    assert answer.status == 204
    assert answer.body == b""
    assert len(service.upstream.requests_for(model)) == 1


def test_a_reconnect_that_is_none_of_ours_is_refused_and_asks_no_model(service: Service) -> None:
    visitor, model = Visitor(service.server.port), own("ok")
    last_id = visitor.get(stream_path(model)).events[-1].id
    run, seq = last_id.split(":")
    for wrong, status in [("abc:1", 400), (f"{run}:{int(seq) + 1}", 400), (f"{'0' * 26}:1", 404)]:
        assert reconnect(visitor, stream_path(model), wrong).status == status
    assert reconnect(Visitor(service.server.port), stream_path(model), last_id).status == 404
    without_cookies = read(
        service.server.port, stream_path(model), headers={"Last-Event-ID": last_id}
    )
    assert without_cookies.status == 404
    assert len(service.upstream.requests_for(model)) == 1


def test_an_http_1_0_client_gets_the_plain_stream(service: Service) -> None:
    answer = read(service.server.port, stream_path(own("ok")), version="HTTP/1.0")
    assert (answer.ending, answer.text) == ("done", TEXT)
    assert answer.is_whole
    assert answer.body.startswith(OPENING)
    if service.server.name != "uvicorn":  # with httptools it chunks whatever the client speaks
        assert "transfer-encoding" not in answer.headers


def test_a_client_that_asks_for_close_is_obeyed(service: Service) -> None:
    answer = read(service.server.port, stream_path(own("ok")), headers={"Connection": "close"})
    assert (answer.ending, answer.text) == ("done", TEXT)
    assert answer.is_whole


def test_named_events_come_only_to_who_asks(service: Service) -> None:
    names = [event.name for event in service.ask(own("ok_reasoning")).events]
    assert set(names) == {"message"}
    events = service.ask(own("ok_reasoning"), events="all").events
    names = [event.name for event in events]
    assert "reasoning" in names
    assert names[-2:] == ["finish", "message"]
    assert "start" in names
    assert "error" not in names
    assert events[-2].json["outcome"] == "completed"
    assert events[-1].json == {"done": True}


@pytest.mark.parametrize(
    ("behaviour", "outcome", "reason"),
    [
        ("ok", "completed", "stop"),
        ("finish_length", "truncated", "length"),
        ("finish_tool_calls", "completed", "tool_calls"),
        ("finish_content_filter", "filtered", "content_filter"),
        ("ok_unknown_fields", "completed", "eos"),
        ("hang_mid_stream", "failed", None),
    ],
)
def test_the_finish_event_tells_outcome_and_reason(
    running: Callable[..., Service], behaviour: str, outcome: str, reason: str | None
) -> None:
    events = running("uvicorn").ask(behaviour, events="all").events
    assert events[-2].name == "finish"
    assert events[-2].json["outcome"] == outcome
    assert events[-2].json.get("finish_reason") == reason


def test_usage_is_told_as_the_upstream_told_it(running: Callable[..., Service]) -> None:
    finish = running("uvicorn").ask("ok_usage", events="all").events[-2].json
    usage = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
    assert {key: finish["usage"][key] for key in usage} == usage
    assert "usage" not in running("uvicorn").ask("ok", events="all").events[-2].json


def test_tool_calls_arrive_in_pieces(running: Callable[..., Service]) -> None:
    events = running("uvicorn").ask("finish_tool_calls", events="all").events
    calls = [event.json for event in events if event.name == "tool_call"]
    assert "".join(call["arguments"] for call in calls) == '{"city": "Bern"}'
    assert [call["name"] for call in calls if call.get("name")] == ["weather"]
    assert {call["index"] for call in calls} == {0}


def test_answers_follow_on_one_connection(service: Service) -> None:
    if service.server.name in ("gunicorn-sync", "runserver"):
        pytest.skip(f"{service.server.name} closes after each stream")
    answer = service.ask(own("ok"))
    assert answer.headers.get("connection", "keep-alive").lower() in ("keep-alive", "close")
    assert answer.ending == "done"


BARE = {
    "/bare/sync/": TEXT,
    "/bare/async/": TEXT,
    "/bare/provider/": TEXT,
    "/bare/chunks/": TEXT,
    "/bare/achunks/": TEXT,
}


@pytest.mark.parametrize("base", BARE)
def test_a_bare_response_keeps_the_contract(service: Service, base: str) -> None:
    answer = service.ask(own("ok"), base)
    assert answer.status == 200, answer.body
    assert answer.is_whole
    assert answer.body.startswith(OPENING)
    if not service.server.is_asgi and base in ("/bare/async/", "/bare/achunks/"):
        # An async completion belongs to the view's own loop, which WSGI has ended by now.
        assert answer.ending == "error:internal"
        return
    assert (answer.ending, answer.text) == ("done", BARE[base])


@pytest.mark.parametrize("base", ["/bare/sync/", "/bare/async/"])
def test_a_bare_response_ends_as_an_error_when_the_upstream_is_cut(
    service: Service, base: str
) -> None:
    if not service.server.is_asgi and base == "/bare/async/":
        pytest.skip("an async completion is refused under WSGI")
    for behaviour in ("fin_mid_chunk", "end_no_finish"):
        answer = service.ask(own(behaviour), base)
        assert answer.ending == "error:upstream_incomplete"
        assert answer.text == PARTIAL


@pytest.mark.parametrize("base", ["/bare/chunks/", "/bare/achunks/"])
def test_a_bare_iterable_streams_and_its_silence_is_filled(service: Service, base: str) -> None:
    if not service.server.is_asgi and base == "/bare/achunks/":
        pytest.skip("an async completion is refused under WSGI")
    with Reader(service.server.port, stream_path(own("ok"), base, pause="0.8")) as reader:
        reader.read_until(b'"Hello"')
        assert b"done" not in reader.answer.body
        assert PING in reader.answer.body
        reader.read_until(b'" w')
        assert b"done" not in reader.answer.body


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_not_used(running: Callable[..., Service]) -> None:
    nowhere = "http://127.0.0.1:9"
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), nowhere)
    for transport in ("httpx", "httptools"):
        service = running("uvicorn", transport, environ=proxies)
        assert service.ask(own("ok")).ending == "done"


def test_the_key_is_in_no_log(service: Service) -> None:
    service.ask(own("http_401_key_echo"))
    assert CANARY_KEY not in service.server.log


# Last: what the tests above made the servers log.
def test_no_traceback_is_in_the_log(service: Service) -> None:
    log = service.server.log
    at = log.find("Traceback")
    assert at < 0, log[max(0, at - 500) : at + 3000]
