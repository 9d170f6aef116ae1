"""``?wire=`` on real servers: bare text for a person at a terminal, the finished run as JSON."""

import subprocess
from typing import Any

import pytest

from tests.acceptance.rows import Service
from tests.acceptance.talks import Talker
from tests.behaviours import PARTIAL, TEXT
from tests.conftest import find_service
from tests.servers import each


@pytest.fixture(params=each(["uvicorn", "gunicorn-gthread"]))
def service(request: pytest.FixtureRequest, running: Any) -> Service:
    service: Service = running(request.param)
    return service


@pytest.fixture
def me(service: Service) -> Talker:
    return Talker(service.upstream, service.server.port)


def ask(me: Talker, behaviour: str, wire: str) -> Any:
    data = {"prompt": "hi", "model": me.name(behaviour)}
    return me.post(f"/chat/runs/?wire={wire}", data)


def accept(me: Talker, accepted: str) -> Any:
    data = {"prompt": "hi", "model": me.name("ok")}
    return me.send("POST", "/chat/runs/", data, headers={"Accept": accepted})


def test_curl_prints_the_text_as_it_is(service: Service) -> None:
    curl = find_service("curl")
    url = f"http://127.0.0.1:{service.server.port}/chat/stream/?prompt=hi&wire=text"
    told = subprocess.run([curl, "-sN", url], capture_output=True, check=True, timeout=30)
    assert told.stdout.decode() == TEXT


def test_text_of_a_failed_answer_says_so_in_its_last_line(me: Talker) -> None:
    answer = ask(me, "fin_mid_stream", "text")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    text = answer.body.decode()
    assert text.startswith(PARTIAL)
    assert text.splitlines()[-1].startswith("[upstream_incomplete: ")


@pytest.mark.parametrize(
    ("behaviour", "status", "outcome", "text"),
    [
        ("ok", 201, "completed", TEXT),
        ("finish_length", 201, "truncated", PARTIAL),
        ("finish_content_filter", 201, "filtered", PARTIAL),
        ("fin_mid_stream", 502, "failed", PARTIAL),
        ("http_500", 502, "failed", ""),
    ],
)
def test_json_is_the_finished_run(
    me: Talker, behaviour: str, status: int, outcome: str, text: str
) -> None:
    answer = ask(me, behaviour, "json")
    assert answer.status == status
    assert (answer.json["outcome"], answer.json["text"]) == (outcome, text)


def test_sse_streams_from_the_post_itself(me: Talker) -> None:
    answer = ask(me, "ok", "sse")
    assert (answer.text, answer.ending) == (TEXT, "done")


def test_another_format_is_refused_before_anything_is_asked(me: Talker) -> None:
    answer = ask(me, "ok", "xml")
    assert (answer.status, answer.json["error"]["field"]) == (400, "wire")


@pytest.mark.parametrize(
    ("accepted", "content_type"),
    [
        ("text/plain", "text/plain; charset=utf-8"),
        ("text/event-stream, */*", "text/event-stream"),
        ("application/json, text/plain, */*", "application/json"),  # axios
        ("*/*", "application/json"),
    ],
)
def test_accept_decides_where_nothing_else_does(
    me: Talker, accepted: str, content_type: str
) -> None:
    assert accept(me, accepted).headers["content-type"] == content_type
