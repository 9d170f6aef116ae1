"""A format that nobody else knows: this file is all that it takes to add one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.urls import path

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import error_data
from chatstream.framelog import get_frame_log
from chatstream.models import Run
from chatstream.views import ChatStreamView
from chatstream.wire.base import WireFormat
from tests.asking import body_of, configured, refusal

# The format, and its place ------------------------------------------------------------------------


class Toy(WireFormat):
    """One frame is one line: its kind in brackets, and what it says."""

    content_type = "text/x-toy"
    heartbeat = b"(zzz)\n"

    def opening(self) -> bytes:
        return f"(run) {self.run}\n".encode()

    def encode(self, frame: Frame) -> bytes:
        return f"({frame.kind}) {json.dumps(frame.data)}\n".encode()


urlpatterns = [path("toy/", ChatStreamView.as_view(wire_class=Toy))]

pytestmark = [pytest.mark.usefixtures("runs"), pytest.mark.urls(__name__)]


# What it makes of a run ---------------------------------------------------------------------------

CALL = {"index": 0, "id": "c1", "name": "look", "arguments": "{}"}
SCRIPT = [{"reasoning": "Hm"}, "Hello\n", {"tool_calls": [CALL]}, {"finish_reason": "tool_calls"}]
ENDINGS = [
    [
        (Kind.FINISH, {"outcome": "completed", "finish_reason": "stop", "usage": {}}),
        (Kind.DONE, {}),
    ],
    [
        (Kind.FINISH, {"outcome": "failed"}),
        (Kind.ERROR, error_data("upstream_timeout")),
    ],
]
SAID = [
    (Kind.START, {"run": "r", "model": "m"}),
    (Kind.REASONING, {"text": "Hm"}),
    (Kind.TEXT, {"text": "a\r\n(done) {}\n\u2028\ud83c"}),
    (Kind.TOOL_CALL, CALL),
    (Kind.TOOL_RESULT, {"id": "c1", "output": {"n": [1]}}),
    (Kind.TOOL_RESULT, {"id": "c2", "error": "no such"}),
    (Kind.TEXT, {"text": "b"}),
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with configured(providers={"default": {"script": SCRIPT}, "failing": {"script": ["Hel"]}}):
        yield


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada")


@pytest.fixture
def page(client: Client, ada: User) -> Client:
    client.force_login(ada)
    return client


def lines(response: Any) -> list[tuple[str, Any]]:
    """Return what was told: the kinds, with what was said; first the run's id."""
    assert response.status_code == 200
    assert response["Content-Type"] == "text/x-toy"
    text = body_of(response).decode()
    assert text.endswith("\n")
    found = [line[1:].split(") ", 1) for line in text.split("\n")[:-1] if line != "(zzz)"]
    return [(kind, said if kind == "run" else json.loads(said)) for kind, said in found]


def ended_run(owner: User, said: list[tuple[Kind, dict[str, Any]]]) -> Run:
    """Return a run of which just this was told."""
    run = Run.objects.create(
        owner=f"user:{owner.pk}", request={}, status=Run.Status.COMPLETED, last_seq=len(said)
    )
    frames = [Frame(number, kind, data) for number, (kind, data) in enumerate(said, 1)]
    get_frame_log().append({run.pk: frames})
    return run


def test_an_answer_streams_in_it(page: Client) -> None:
    (_, run), *told = lines(page.get("/toy/", {"prompt": "hi"}))
    assert run == Run.objects.get().pk
    assert told == [
        ("start", {"run": run, "model": "scripted"}),
        ("reasoning", {"text": "Hm"}),
        ("text", {"text": "Hello\n"}),
        ("tool_call", CALL),
        ("finish", {"outcome": "completed", "finish_reason": "tool_calls"}),
        ("done", {}),
    ]


def test_a_failure_is_told_in_it(page: Client) -> None:
    asked = {"prompt": "hi", "provider": "failing"}
    *_, finish, last = lines(page.post("/toy/", asked, content_type="application/json"))
    assert finish == ("finish", {"outcome": "failed"})
    assert last == ("error", error_data("upstream_incomplete"))


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_kind_of_frame_is_told_in_it(
    page: Client, ada: User, ending: list[tuple[Kind, dict[str, Any]]]
) -> None:
    run = ended_run(ada, [*SAID, *ending])
    response = page.get("/toy/", headers={"Last-Event-ID": f"{run.pk}:0"})
    assert lines(response) == [("run", run.pk), *SAID, *ending]


def test_no_kind_of_frame_was_forgotten() -> None:
    assert {kind for kind, _ in [*SAID, *ENDINGS[0], *ENDINGS[1]]} == set(Kind)


def test_who_comes_back_gets_the_rest(page: Client, ada: User) -> None:
    run = ended_run(ada, [*SAID, *ENDINGS[0]])
    response = page.get("/toy/", headers={"Last-Event-ID": f"{run.pk}:{len(SAID)}"})
    assert lines(response) == [("run", run.pk), *ENDINGS[0]]


def test_a_refusal_has_a_status(page: Client) -> None:
    refusal(page.post("/toy/", {"prompt": ""}), 400, "invalid", "prompt")
