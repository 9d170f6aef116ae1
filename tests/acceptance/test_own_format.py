"""The example of docs/wire-formats.md, as it stands there, in a project on real servers."""

import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.rows import Service
from tests.acceptance.talks import UNHURRIED
from tests.behaviours import INJECTION, PARTIAL, TEXT
from tests.reader import Answer, Reader, read
from tests.servers import ROOT, each

SETTINGS = 'from tests.site.settings import *\n\nROOT_URLCONF = "mobile_urls"\n'
URLS = """\
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.urls import include, path
from rest_framework.authtoken.models import Token

from tests.site.urls import urlpatterns as site


def key(request):
    user, _ = User.objects.get_or_create(username="ada")
    return HttpResponse(Token.objects.get_or_create(user=user)[0].key)


urlpatterns = [*site, path("key/", key), path("mobile/", include("mobile"))]
"""


def example() -> str:
    """Return the section's module."""
    page = (ROOT / "docs" / "wire-formats.md").read_text(encoding="utf-8")
    section = page.partition("\n## A format of your own\n")[2]
    return section.partition("```python\n")[2].partition("```\n")[0]


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a project that has the example."""
    folder = tmp_path_factory.mktemp("mobile")
    files = {"mobile": example(), "mobile_urls": URLS, "mobile_settings": SETTINGS}
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(params=each(["uvicorn", "gunicorn-gthread"]))
def service(request: pytest.FixtureRequest, running: Any, project: Path) -> Service:
    environ = {
        "PYTHONPATH": f"{ROOT}:{project}",
        "DJANGO_SETTINGS_MODULE": "mobile_settings",
    }
    service: Service = running(request.param, options=UNHURRIED, environ=environ)
    return service


class App:
    """Somebody's app: no browser, no cookies, a token."""

    def __init__(self, service: Service) -> None:
        self.upstream = service.upstream
        self._port = service.server.port
        key = read(self._port, "/key/").body.decode()
        self._headers = {"Authorization": f"Bearer {key}"}

    def open(self, model: str, prompt: str = "hi") -> Reader:
        body = json.dumps({"prompt": prompt, "model": model}).encode()
        headers = {**self._headers, "Content-Type": "application/json"}
        return Reader(self._port, "/mobile/", method="POST", headers=headers, body=body)

    def ask(self, model: str, prompt: str = "hi") -> Answer:
        with self.open(model, prompt) as reader:
            return reader.read_all()

    def come_back(self, run: str, seq: int) -> Answer:
        headers = {**self._headers, "Last-Event-ID": f"{run}:{seq}"}
        return read(self._port, "/mobile/", headers=headers)


@pytest.fixture
def app(service: Service) -> App:
    return App(service)


def named(behaviour: str) -> str:
    """Return a model that plays a behaviour and that nobody else asks for."""
    return f"{behaviour}@{secrets.token_hex(6)}"


@dataclass
class Told:
    """The lines of an answer: the run's first, unless it is one that goes on."""

    lines: list[dict[str, Any]]

    @property
    def run(self) -> str:
        return str(self.lines[0]["run"])

    @property
    def text(self) -> str:
        return "".join(line.get("text", "") for line in self.lines)

    @property
    def seqs(self) -> list[int]:
        return [line["seq"] for line in self.lines[1:]]

    @property
    def ending(self) -> list[dict[str, Any]]:
        """The last two lines, without their numbers."""
        return [{key: line[key] for key in line if key != "seq"} for line in self.lines[-2:]]


def told(answer: Answer) -> Told:
    assert answer.headers["content-type"] == "application/x-ndjson"
    whole, newline, cut = answer.body.rpartition(b"\n")
    lines = Told([json.loads(line) for line in whole.split(b"\n") if line])
    assert (newline, cut) == (b"\n", b"")
    assert lines.seqs == sorted(set(lines.seqs))
    return lines


@pytest.mark.parametrize(("behaviour", "text"), [("ok", TEXT), ("ok_injection", INJECTION)])
def test_an_answer_is_lines_of_json(app: App, behaviour: str, text: str) -> None:
    answer = told(app.ask(named(behaviour)))
    assert answer.text == text
    assert answer.ending == [{"outcome": "completed"}, {"done": True}]


def test_an_answer_that_was_cut_at_its_limit_says_so(app: App) -> None:
    answer = told(app.ask(named("finish_length")))
    assert answer.text == PARTIAL
    assert answer.ending == [{"outcome": "truncated"}, {"done": True}]


def test_a_failure_in_mid_stream_is_the_last_line(app: App) -> None:
    answer = told(app.ask(named("fin_mid_stream")))
    assert answer.text == PARTIAL
    outcome, last = answer.ending
    assert outcome == {"outcome": "failed"}
    assert last["error"]["code"] == "upstream_incomplete"
    assert not any("done" in line for line in answer.lines)


def test_what_is_refused_has_a_status_and_a_code(app: App) -> None:
    answer = app.ask(model := named("ok"), prompt="")
    assert answer.status == 400
    assert (answer.json["error"]["code"], answer.json["error"]["field"]) == ("invalid", "prompt")
    assert app.upstream.requests_for(model) == []


def test_who_has_no_token_is_refused(service: Service) -> None:
    answer = read(service.server.port, "/mobile/?prompt=hi", headers={"Authorization": "Bearer x"})
    assert (answer.status, answer.json["error"]["code"]) == (401, "not_authenticated")


def test_who_was_cut_off_in_silence_comes_back_to_the_whole_answer(app: App) -> None:
    with app.open(model := named("ok_slow_first")) as reader:
        opened = reader.read_until(b"}\n\n\n")  # the run, and two heartbeats
    assert b"seq" not in opened
    run = json.loads(opened.split(b"\n")[0])["run"]
    answer = told(app.come_back(run, 0))
    assert (answer.run, answer.text) == (run, TEXT)
    assert answer.ending == [{"outcome": "completed"}, {"done": True}]
    assert len(app.upstream.requests_for(model)) == 1


def test_who_was_cut_off_in_mid_answer_gets_the_rest_and_nothing_twice(app: App) -> None:
    with app.open(model := named("ok_four_seconds")) as reader:
        seen = reader.read_until(b'"text": "3 "')
    *lines, _ = [line for line in seen.split(b"\n") if line]  # the last one may be cut
    before = Told([json.loads(line) for line in lines])
    after = told(app.come_back(before.run, before.seqs[-1]))
    assert before.text + after.text == "".join(f"{number} " for number in range(40))
    assert after.seqs[0] == before.seqs[-1] + 1
    assert len(app.upstream.requests_for(model)) == 1
    assert app.come_back(before.run, after.seqs[-1]).status == 204
