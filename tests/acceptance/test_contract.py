"""One test for each sentence of the original contract, and of the project's card.

Later versions keep this file as it is: whatever else the app learns, a client that was written
against these sentences goes on working.
"""

import ast
import json
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.acceptance.rows import Service
from tests.behaviours import INJECTION, PARTIAL, TEXT
from tests.reader import Reader, stream_path

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module", params=["uvicorn", "gunicorn-gthread"])
def service(request: pytest.FixtureRequest, running: Callable[..., Service]) -> Service:
    return running(request.param)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context()
    yield context.new_page()
    context.close()


def open_page(page: Page, service: Service, name: str, model: str) -> None:
    path = stream_path(model, f"/page/{name}/")
    page.goto(f"http://127.0.0.1:{service.server.port}{path}")


def answer_of(page: Page, title: str) -> str:
    """Wait until the page says so in its title; return the answer that it shows."""
    page.wait_for_function("title => document.title === title", arg=title, timeout=20_000)
    return page.evaluate("document.getElementById('answer').textContent")


# The contract ---------------------------------------------------------------------------------


def test_the_stream_of_data_text_messages_stays_as_it_is(service: Service) -> None:
    """The backend's stream of ``data: {"text": …}`` messages stays as it is."""
    for model, text in (("ok", TEXT), ("ok_injection", INJECTION)):
        messages = service.ask(model).messages
        assert all(isinstance(message["text"], str) for message in messages[:-1])
        assert all(list(message) == ["text"] for message in messages[:-1])
        assert "".join(message["text"] for message in messages[:-1]) == text


def test_a_text_message_is_one_data_line_of_json_dumps_and_a_blank_line(service: Service) -> None:
    """As above, to the byte: a reader that splits lines instead of parsing events lives on it."""
    lines = service.ask("ok").body.decode().split("\n")
    data = [line for line in lines if line.startswith("data:")]
    assert data == [f"data: {json.dumps(json.loads(line[6:]))}" for line in data]
    assert {line.split(":")[0] for line in lines if line} <= {"data", "id", "retry", ""}


def test_before_closing_the_backend_sends_done(service: Service) -> None:
    """Before closing the connection, the backend sends ``data: {"done": true}``."""
    for model in ("ok", "ok_no_done", "ok_empty_answer", "finish_length"):
        answer = service.ask(model)
        assert answer.body.endswith(b'data: {"done": true}\n\n')
        assert answer.is_whole


def test_a_client_that_saw_done_knows_of_success(service: Service) -> None:
    """A client that saw it knows of success: done is sent for nothing else."""
    for model in ("fin_mid_stream", "end_no_finish", "error_object", "http_500", "bad_json"):
        assert b'"done"' not in service.ask(model).body, model


def test_a_client_without_done_knows_of_a_backend_failure(service: Service) -> None:
    """A client that did not see it knows of a network error or a backend failure: the latter."""
    answer = service.ask("rst_mid_stream")
    assert answer.text == PARTIAL
    assert [list(message) for message in answer.terminals] == [["error"]]


def test_a_client_without_done_knows_of_a_network_error(service: Service) -> None:
    """And the former: a connection that drops in mid-answer has brought neither done nor error."""
    with Reader(service.server.port, stream_path("ok_slow")) as reader:
        reader.read_until(b'"Hello"')
        reader.sock.shutdown(2)
        answer = reader.read_all()
    assert answer.ending == "cut"


def test_the_client_handles_success_and_failure_apart(service: Service, page: Page) -> None:
    """The client handles the two apart, in a browser."""
    open_page(page, service, "tells-apart", "ok")
    assert answer_of(page, "success") == TEXT
    open_page(page, service, "tells-apart", "fin_mid_stream")
    assert answer_of(page, "failure") == PARTIAL


def test_an_existing_eventsource_client_still_works(service: Service, page: Page) -> None:
    """It knows only ``if (d.text)`` and ``if (d.done)``, and JSON.parse of every message."""
    problems: list[object] = []
    page.on("pageerror", lambda error: problems.append(error))
    for model, text in (("ok", TEXT), ("ok_injection", INJECTION), ("ok_reasoning", TEXT)):
        open_page(page, service, "eventsource", model)
        # The DOM replaces nothing but NUL here, and textContent keeps even that.
        assert answer_of(page, "done") == text
    assert problems == []


def test_an_existing_eventsource_client_asks_the_model_once(service: Service, page: Page) -> None:
    """A browser reconnects after any end; that must not buy the prompt again."""
    before = len(service.upstream.requests_for("fin_mid_stream@browser"))
    open_page(page, service, "eventsource", "fin_mid_stream@browser")
    page.wait_for_function("source.readyState === EventSource.CLOSED", timeout=20_000)
    assert len(service.upstream.requests_for("fin_mid_stream@browser")) == before + 1


def test_an_existing_eventsource_client_survives_silence(service: Service, page: Page) -> None:
    """Heartbeats are no messages: an ``onmessage`` that parses everything never sees them."""
    problems: list[object] = []
    page.on("pageerror", lambda error: problems.append(error))
    open_page(page, service, "eventsource", "ok_other_choice_first")
    assert answer_of(page, "done") == TEXT
    assert problems == []


def test_an_existing_fetch_client_still_works(service: Service, page: Page) -> None:
    """Four lines that split blocks and lines by hand."""
    open_page(page, service, "fetch", "ok")
    assert answer_of(page, "done") == TEXT


# The card -------------------------------------------------------------------------------------


def test_it_is_a_django_app_providing_streaming_chat_views(service: Service) -> None:
    """A Django app providing streaming chat views."""
    from django.apps import apps
    from django.urls import resolve, reverse
    from rest_framework.views import APIView

    config = apps.get_app_config("chatstream")
    assert config.name == "chatstream"
    match = resolve("/stream/", urlconf="chatstream.urls")
    assert issubclass(match.func.cls, APIView)  # type: ignore[attr-defined]
    assert reverse("stream", urlconf="chatstream.urls") == "/stream/"
    answer = service.ask("ok")
    assert answer.headers["content-type"].startswith("text/event-stream")


def test_the_packages_are_django_djangorestframework_pytest_django_and_openai() -> None:
    """Packages: django, djangorestframework, pytest-django, openai."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {_name(requirement) for requirement in project["dependencies"]}
    assert needed == {"django", "djangorestframework", "openai"}
    for_tests = {_name(requirement) for requirement in project["optional-dependencies"]["test"]}
    assert "pytest-django" in for_tests


def _name(requirement: str) -> str:
    return requirement.split(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip()


def test_the_top_level_is_as_the_card_says() -> None:
    """manage.py, pyproject.toml, chatstream/, project/, tests/, templates/, beside documents."""
    files = {"manage.py", "pyproject.toml"}
    folders = {"chatstream", "project", "tests", "templates"}
    for name in files:
        assert (ROOT / name).is_file(), name
    for name in folders:
        assert (ROOT / name).is_dir(), name


def test_a_streaming_http_response_iterates_an_openai_compatible_completion() -> None:
    """A Django StreamingHttpResponse view iterates an OpenAI-compatible streaming completion."""
    from django.http import StreamingHttpResponse

    from chatstream.responses import EventStreamResponse

    assert issubclass(EventStreamResponse, StreamingHttpResponse)


def test_a_bare_view_iterates_the_packages_own_completion(service: Service) -> None:
    """As above: ``client.chat.completions.create(stream=True)`` in a plain view."""
    answer = service.ask("ok", "/bare/sync/")
    assert (answer.ending, answer.text) == ("done", TEXT)


def test_text_frames_come_from_a_generator_with_try_and_finally() -> None:
    """It yields text frames through a generator that uses try/finally to tell the endings apart."""
    tree = ast.parse((ROOT / "chatstream" / "relay.py").read_text())
    functions = {
        node.name: node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    for name in ("frames", "aframes"):
        body = list(ast.walk(functions[name]))
        assert any(isinstance(node, ast.Yield | ast.YieldFrom) for node in body)
        tries = [node for node in body if isinstance(node, ast.Try)]
        assert any(node.finalbody for node in tries)
        for node in tries:  # a yield in finally is an error as soon as the reader has left
            for final in node.finalbody:
                assert not any(isinstance(n, ast.Yield | ast.YieldFrom) for n in ast.walk(final))


def test_the_generator_finishes_with_the_done_frame(service: Service) -> None:
    """… and finishes with the done frame."""
    answer = service.ask("ok")
    assert answer.messages[-1] == {"done": True}
    assert len(answer.terminals) == 1


def test_a_demo_template_consumes_it_via_eventsource() -> None:
    """With a demo template that consumes it via EventSource."""
    pages = [path.read_text() for path in (ROOT / "templates").rglob("*.html")]
    assert pages
    scripts = [
        path.read_text()
        for folder in ("templates", "project", "chatstream")
        for path in (ROOT / folder).rglob("*.js")
    ]
    assert any("new EventSource(" in text for text in [*pages, *scripts])


def test_it_is_used_by_installed_apps_inclusion() -> None:
    """Used by INSTALLED_APPS inclusion …"""
    from tests.site import settings

    assert "chatstream" in settings.INSTALLED_APPS
    assert "chatstream" in (ROOT / "project" / "settings.py").read_text()


def test_it_is_used_by_url_include_in_a_django_project(service: Service) -> None:
    """… URL include in a Django project …"""
    assert 'include("chatstream.urls")' in (ROOT / "project" / "urls.py").read_text()
    assert service.ask("ok", base="/chat/stream/").ending == "done"


def test_it_is_used_by_a_browser_demo_page() -> None:
    """… and a browser demo page: the project serves one at its root."""
    tree = ast.parse((ROOT / "project" / "urls.py").read_text())
    routes = [
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant)
    ]
    assert "" in routes
