"""The responses that stream, behind Django's own handlers, WSGI and ASGI."""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from io import BytesIO

import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from asgiref.testing import ApplicationCommunicator
from django.apps import apps
from django.core.handlers.asgi import ASGIHandler
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import request_finished, request_started
from django.db import close_old_connections, connections, transaction
from django.http import HttpResponse, StreamingHttpResponse
from django.test import AsyncClient, Client
from django.urls import path
from django.utils.decorators import sync_and_async_middleware

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import RunError
from chatstream.core.requests import RunRequest
from chatstream.providers import get_provider
from chatstream.providers.deadlines import Deadlines
from chatstream.providers.sources import ProviderSource
from chatstream.responses import EventStreamResponse, RunStreamResponse, close_connections
from chatstream.runs import start_run
from chatstream.testing import (
    StreamEvent,
    aread_events,
    assert_stream_contract,
    parse_events,
    read_events,
    text_of,
)
from chatstream.wire.native import NativeFormat
from tests.asking import configured

WAIT = 10  # seconds that a test waits for what must come soon


def chunk(text="", finish=None):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


CHUNKS = [chunk("Hel"), chunk("lo"), chunk(finish="stop")]
GOOD = b': open\nretry: 1000\ndata: {"text": "Hello"}\n\ndata: {"done": true}\n\n'


def generate(chunks=CHUNKS):
    yield from chunks


async def agenerate(chunks=CHUNKS):
    for one in chunks:
        yield one


def scripted(*script):
    from chatstream.providers.scripted import ScriptedProvider

    return ProviderSource(ScriptedProvider("s", {"script": list(script)}), RunRequest(messages=[]))


def ending(body: bytes) -> str:
    data = assert_stream_contract(body)[-1].data
    return data["error"]["code"] if "error" in data else "done"


def joined(body: bytes) -> str:
    return text_of(parse_events(body))


@pytest.fixture(autouse=True)
def _no_old_connections():
    """As Django's test client does: the handlers' own look at connections is none of ours."""
    for signal in (request_started, request_finished):
        signal.disconnect(close_old_connections)
    yield
    for signal in (request_started, request_finished):
        signal.connect(close_old_connections)


def from_wsgi(method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    """Ask Django's WSGI handler for "/", as a server does: iterate the response, then close it."""
    seen = []
    environ = {
        "REQUEST_METHOD": method,
        "PATH_INFO": "/",
        "SERVER_NAME": "testserver",
        "SERVER_PORT": "80",
        "wsgi.input": BytesIO(),
        "wsgi.url_scheme": "http",
    }
    response = WSGIHandler()(environ, lambda status, headers: seen.append((status, headers)))
    try:
        body = b"".join(response)
    finally:
        response.close()
    status, headers = seen[0]
    return status[:3], dict(headers), body


async def communicate(method: str = "GET"):
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": "/",
        "query_string": b"",
        "headers": [(b"host", b"testserver")],
    }
    communicator = ApplicationCommunicator(ASGIHandler(), scope)
    await communicator.send_input({"type": "http.request"})
    return communicator


async def ask_asgi(method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    communicator = await communicate(method)
    start = await communicator.receive_output(WAIT)
    body, more = b"", True
    while more:
        part = await communicator.receive_output(WAIT)
        body, more = body + part.get("body", b""), part.get("more_body", False)
    await communicator.wait(WAIT)
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return str(start["status"]), headers, body


def from_asgi(method: str = "GET") -> tuple[str, dict[str, str], bytes]:
    return asyncio.run(ask_asgi(method))


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(apps.get_app_config("chatstream"), "has_warned_of_thread", True)


@pytest.fixture
def serve(settings):
    """Return a function: let "/" be this view."""
    settings.MIDDLEWARE = []

    def serve(view):
        settings.ROOT_URLCONF = type("Urls", (), {"urlpatterns": [path("", view)]})

    return serve


@pytest.fixture(params=["wsgi", "asgi"])
def ask(request, serve):
    """Return a function: what a server gets from a view, as (status, headers, body)."""

    def ask(view, method: str = "GET"):
        serve(view)
        return from_wsgi(method) if request.param == "wsgi" else from_asgi(method)

    ask.server = request.param
    return ask


@pytest.fixture
def heartbeat(settings):
    settings.CHATSTREAM = {**settings.CHATSTREAM, "HEARTBEAT": 0.05}


# A good answer, on every server


@pytest.mark.parametrize("make", [generate, lambda: list(CHUNKS)], ids=["generator", "list"])
def test_a_sync_iterable_streams_on_every_server(ask, make):
    status, _, body = ask(lambda request: EventStreamResponse(make()))
    assert (status, joined(body), ending(body)) == ("200", "Hello", "done")


def test_a_provider_streams_on_every_server(ask):
    source = scripted("Hel", "lo", {"finish_reason": "stop"})
    status, _, body = ask(lambda request: EventStreamResponse(source))
    assert (status, joined(body), ending(body)) == ("200", "Hello", "done")


def test_the_configured_provider_streams_on_every_server(ask):
    source = ProviderSource(get_provider(), RunRequest(messages=[]))
    _, _, body = ask(lambda request: EventStreamResponse(source))
    assert (joined(body), ending(body)) == ("Hello from the script.", "done")


def test_an_async_iterable_streams_under_asgi(serve):
    async def view(request):
        return EventStreamResponse(agenerate())

    serve(view)
    _, _, body = from_asgi()
    assert (joined(body), ending(body)) == ("Hello", "done")


def test_a_sync_view_may_hand_over_an_async_iterable_under_asgi(serve):
    serve(lambda request: EventStreamResponse(agenerate()))
    assert ending(from_asgi()[2]) == "done"


def test_an_async_view_may_hand_over_a_provider_under_wsgi(serve):
    async def view(request):
        return EventStreamResponse(scripted("a", {"finish_reason": "stop"}))

    serve(view)
    assert ending(from_wsgi()[2]) == "done"


def test_what_leaves_in_one_write_is_this_to_the_byte():
    response = EventStreamResponse(iter([chunk("Hello"), chunk(finish="stop")]))
    assert b"".join(response) == GOOD


def test_the_headers_keep_the_stream_moving(ask):
    _, headers, _ = ask(lambda request: EventStreamResponse(generate()))
    assert headers.pop("Content-Type") == "text/event-stream"
    assert {name: headers[name] for name in NativeFormat.headers} == dict(NativeFormat.headers)
    assert "Content-Length" not in headers
    assert "Connection" not in headers


def test_a_view_may_add_headers_and_choose_the_status_and_the_wire():
    wire = NativeFormat("r1", all_events=True)
    response = EventStreamResponse(
        generate(), wire=wire, run="r1", status=201, headers={"X-Run": "r1"}
    )
    assert (response.status_code, response["X-Run"]) == (201, "r1")
    events = read_events(response)
    assert events[0] == StreamEvent("start", {"run": "r1", "model": ""}, "r1:1")
    assert [event.name for event in events][-2:] == ["finish", "message"]


def test_the_first_bytes_leave_before_the_completion_is_asked():
    asked = []

    def chunks():
        asked.append(True)
        yield from CHUNKS

    response = EventStreamResponse(chunks())
    parts = iter(response)
    assert next(parts) == b": open\nretry: 1000\n"
    assert ending(b": open\nretry: 1000\n" + b"".join(parts)) == "done"
    assert asked == [True]


def test_the_first_token_does_not_wait_for_the_second(ask):
    """The generator waits until its first chunk was seen by the reader."""
    seen = threading.Event()

    def chunks():
        yield chunk("first")
        assert seen.wait(WAIT)
        yield chunk(finish="stop")

    parts = []

    if ask.server == "wsgi":
        for part in EventStreamResponse(chunks()):
            parts.append(part)
            if b"first" in part:
                seen.set()
    else:

        async def main():
            async for part in EventStreamResponse(chunks()):
                parts.append(part)
                if b"first" in part:
                    seen.set()

        asyncio.run(main())
    assert ending(b"".join(parts)) == "done"


def test_a_wsgi_thread_that_once_ran_an_async_view_streams_on(serve):
    @sync_and_async_middleware
    async def view(request):
        await sync_to_async(len)("x")
        return HttpResponse()

    found = []

    def worker():
        serve(view)
        from_wsgi()
        serve(lambda request: EventStreamResponse(generate()))
        found.append(ending(from_wsgi()[2]))
        found.append(EventStreamResponse(generate()).is_async)

    thread = threading.Thread(target=worker)
    thread.start()
    thread.join(WAIT)
    assert found == ["done", False]


# Refused


@pytest.mark.parametrize("misfit", ["text", b"bytes", 5, None, {}, StreamEvent])
def test_what_cannot_be_streamed_is_a_type_error_at_construction(misfit):
    with pytest.raises(TypeError, match="EventStreamResponse takes the unstarted stream"):
        EventStreamResponse(misfit)


def test_a_coroutine_is_a_type_error_and_does_not_warn():
    async def create():
        raise AssertionError

    with pytest.raises(TypeError, match="await it first"):
        EventStreamResponse(create())


# Django's test clients


def test_the_test_client_reads_a_stream(serve):
    serve(lambda request: EventStreamResponse(generate()))
    response = Client().get("/")
    assert isinstance(response, StreamingHttpResponse)
    assert text_of(read_events(response)) == "Hello"


async def test_the_async_test_client_reads_a_stream(serve):
    async def view(request):
        return EventStreamResponse(agenerate())

    serve(view)
    assert text_of(await aread_events(await AsyncClient().get("/"))) == "Hello"


async def test_the_async_test_client_reads_a_sync_views_provider(serve):
    serve(lambda request: EventStreamResponse(scripted("a", {"finish_reason": "stop"})))
    assert text_of(await aread_events(await AsyncClient().get("/"))) == "a"


def test_head_by_the_test_client_pulls_nothing(serve):
    pulled = []
    serve(lambda request: EventStreamResponse(pulled.append(n) or chunk() for n in range(3)))
    response = Client().head("/")
    assert (response.status_code, b"".join(response), pulled) == (200, b"", [])


async def test_head_by_the_async_test_client_pulls_nothing(serve):
    pulled = []

    async def chunks():
        pulled.append(True)
        yield chunk()

    async def view(request):
        return EventStreamResponse(chunks())

    serve(view)
    response = await AsyncClient().head("/")
    # Django has put an empty list in the stream's place.
    assert (response.status_code, b"".join(response), pulled) == (200, b"", [])


def test_head_on_a_server_pulls_nothing_and_lets_go_of_the_completion(ask):
    class Completion:
        pulled = closed = 0

        def __iter__(self):
            self.pulled += 1
            return generate()

        def close(self):
            self.closed += 1

    completion = Completion()
    status, headers, body = ask(lambda request: EventStreamResponse(completion), "HEAD")
    assert (status, headers["Content-Type"], body) == ("200", "text/event-stream", b"")
    assert (completion.pulled, bool(completion.closed)) == (0, True)


# Silence


def test_silence_is_filled_with_heartbeats(ask, heartbeat):
    source = scripted("a", 0.4, "b", {"finish_reason": "stop"})
    _, _, body = ask(lambda request: EventStreamResponse(source))
    first, second = body.index(b'"a"'), body.index(b'"b"')
    assert body[first:second].count(b": ping\n") >= 2
    assert ending(body) == "done"


def test_silence_before_the_first_token_too(ask, heartbeat):
    source = scripted(0.4, {"finish_reason": "stop"})
    _, _, body = ask(lambda request: EventStreamResponse(source))
    assert body.startswith(b": open\nretry: 1000\n: ping\n: ping\n")


def test_a_sync_iterable_that_sleeps_gets_heartbeats_too(ask, heartbeat):
    def chunks():
        time.sleep(0.4)
        yield from CHUNKS

    _, _, body = ask(lambda request: EventStreamResponse(chunks()))
    assert body.count(b": ping\n") >= 2
    assert ending(body) == "done"


def test_a_sync_iterable_that_hangs_meets_its_deadline(ask):
    def chunks():
        yield chunk("a")
        time.sleep(3)

    deadlines = Deadlines(first_token=30, token=0.1, run=30)
    _, _, body = ask(lambda request: EventStreamResponse(chunks(), deadlines=deadlines))
    assert (joined(body), ending(body)) == ("a", "upstream_timeout")


# Faults


def failing(exc):
    yield chunk("before")
    raise exc


@pytest.mark.parametrize(
    ("exc", "code"),
    [
        (ValueError("zq-words"), "internal"),
        (TypeError("zq-words"), "internal"),
        (StopAsyncIteration("zq-words"), "internal"),
        (RunError("upstream_quota"), "upstream_quota"),
    ],
    ids=repr,
)
def test_an_exception_in_the_iterable_is_an_error_frame_after_the_text(ask, exc, code, caplog):
    status, _, body = ask(lambda request: EventStreamResponse(failing(exc), run="run-7"))
    assert (status, joined(body), ending(body)) == ("200", "before", code)
    assert b"zq-words" not in body
    ours = [record for record in caplog.records if record.name == "chatstream"]
    assert len(ours) == 1
    assert "run-7" in ours[0].getMessage()


async def test_a_type_error_in_an_async_generator_is_logged_as_itself(caplog):
    async def chunks():
        yield chunk("before")
        raise TypeError("unsupported operand")

    body = b"".join([part async for part in EventStreamResponse(chunks())])
    assert (joined(body), ending(body)) == ("before", "internal")
    (record,) = [record for record in caplog.records if record.name == "chatstream"]
    assert str(record.exc_info[1]) == "unsupported operand"


def test_a_wire_format_that_fails_ends_in_internal_and_not_in_a_broken_body(ask, caplog):
    class Broken(NativeFormat):
        def encode(self, frame):
            if frame.kind == "text":
                raise ValueError("a bug of ours")
            return super().encode(frame)

    _, _, body = ask(lambda request: EventStreamResponse(generate(), wire=Broken()))
    assert ending(body) == "internal"
    assert "a bug of ours" in caplog.text


def test_an_end_without_a_stop_reason_is_incomplete(ask):
    _, _, body = ask(lambda request: EventStreamResponse(generate(CHUNKS[:2])))
    assert (joined(body), ending(body)) == ("Hello", "upstream_incomplete")


def test_an_answer_over_the_cap_of_the_setting_is_too_long(ask, settings):
    settings.CHATSTREAM = {**settings.CHATSTREAM, "MAX_ANSWER_CHARS": 3}
    _, _, body = ask(lambda request: EventStreamResponse(generate()))
    assert (joined(body), ending(body)) == ("Hel", "too_long")


def test_an_async_completion_under_wsgi_ends_as_internal_and_says_what_to_do(serve, caplog):
    serve(lambda request: EventStreamResponse(agenerate()))
    status, _, body = from_wsgi()
    assert (status, joined(body), ending(body)) == ("200", "", "internal")
    (record,) = [record for record in caplog.records if record.name == "chatstream"]
    assert (record.levelno, "openai.OpenAI" in record.getMessage()) == (logging.ERROR, True)


def test_an_internal_error_of_the_connection_carries_no_id(serve, caplog):
    wire = NativeFormat("r1")
    serve(lambda request: EventStreamResponse(agenerate(), wire=wire, run="r1"))
    assert b"id:" not in from_wsgi()[2]


def test_a_sync_completion_under_asgi_warns_once(serve, caplog, monkeypatch):
    monkeypatch.setattr(apps.get_app_config("chatstream"), "has_warned_of_thread", False)
    serve(lambda request: EventStreamResponse(generate()))
    for _ in range(3):
        assert ending(from_asgi()[2]) == "done"
    assert caplog.text.count("streamed under ASGI") == 1


def test_neither_an_async_completion_nor_wsgi_warns(serve, caplog, monkeypatch):
    monkeypatch.setattr(apps.get_app_config("chatstream"), "has_warned_of_thread", False)
    serve(lambda request: EventStreamResponse(agenerate()))
    from_asgi()
    serve(lambda request: EventStreamResponse(generate()))
    from_wsgi()
    assert caplog.records == []


# Readers that leave


class Endless:
    """Chunks for ever; ``closed`` is set when the iteration was closed."""

    def __init__(self):
        self.closed = threading.Event()

    def __iter__(self):
        try:
            while True:
                yield chunk("x")
                time.sleep(0.005)
        finally:
            self.closed.set()

    async def items(self):
        try:
            while True:
                yield chunk("x")
                await asyncio.sleep(0.005)
        finally:
            self.closed.set()


def test_a_reader_that_leaves_under_wsgi_closes_the_completion():
    endless = Endless()
    response = EventStreamResponse(endless)
    parts = iter(response)
    assert b"x" in next(parts) + next(parts)
    response.close()
    assert endless.closed.wait(WAIT)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_reader_that_leaves_under_asgi_closes_the_completion(serve, kind):
    endless = Endless()
    serve(lambda request: EventStreamResponse(endless if kind == "sync" else endless.items()))
    communicator = await communicate()
    body = b""
    await communicator.receive_output(WAIT)
    while b"x" not in body:
        body += (await communicator.receive_output(WAIT)).get("body", b"")
    await communicator.send_input({"type": "http.disconnect"})
    await communicator.wait(WAIT)
    assert await asyncio.to_thread(endless.closed.wait, WAIT)
    assert b"done" not in body


@pytest.mark.parametrize("has_close", [True, False])
def test_closing_a_response_that_was_never_iterated_closes_the_given_stream(has_close):
    class Given:
        closed = 0

        def __iter__(self):
            raise AssertionError("never asked for")

        if has_close:

            def close(self):
                self.closed += 1

    given = Given()
    EventStreamResponse(given).close()
    assert given.closed == has_close


def test_a_generator_that_was_never_started_is_closed_with_the_response():
    generator = generate()
    EventStreamResponse(generator).close()
    assert list(generator) == []


# Middleware


def test_gzip_middleware_steps_aside(serve, settings):
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware"]
    serve(lambda request: EventStreamResponse(generate([chunk("x" * 2000), *CHUNKS])))
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware"]
    response = Client(headers={"Accept-Encoding": "gzip"}).get("/")
    assert response["Content-Encoding"] == "identity"
    assert text_of(assert_stream_contract(response)) == "x" * 2000 + "Hello"


async def test_gzip_middleware_steps_aside_under_asgi(serve, settings):
    serve(lambda request: EventStreamResponse(agenerate()))
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware"]
    response = await AsyncClient(headers={"Accept-Encoding": "gzip"}).get("/")
    assert response["Content-Encoding"] == "identity"
    assert text_of(await aread_events(response)) == "Hello"


@sync_and_async_middleware
def shouting(get_response):
    """Wraps the streaming content as Django's documentation shows it."""

    def shout(response):
        if response.is_async:
            response.streaming_content = aloud(response.streaming_content)
        else:
            response.streaming_content = (part.upper() for part in response.streaming_content)
        return response

    async def aloud(parts):
        async for part in parts:
            yield part.upper()

    if asyncio.iscoroutinefunction(get_response):

        async def middleware(request):
            return shout(await get_response(request))

        return middleware
    return lambda request: shout(get_response(request))


@pytest.mark.parametrize("make", [generate, lambda: scripted("Hello", {"finish_reason": "stop"})])
def test_a_middleware_that_wraps_the_content_works(ask, settings, make):
    def view(request):
        settings.MIDDLEWARE = []
        return EventStreamResponse(make())

    settings.MIDDLEWARE = [f"{shouting.__module__}.shouting"]
    _, _, body = ask(view)
    assert b"HEL" in body
    assert body.endswith(b'DATA: {"DONE": TRUE}\n\n')


# Runs: the response is one reader of many

HELLO = ["Hel", {"reasoning": "hm"}, "lo"]  # texts that adjoin could become one frame


@pytest.fixture
def running(runs):
    """Return a function: start a run that plays the script, and return its id."""
    with contextlib.ExitStack() as stack:

        def run(*script, **settings):
            script = [*script, {"finish_reason": "stop"}]
            providers = {"default": {"script": script}}
            stack.enter_context(configured(providers=providers, **settings))
            return start_run(RunRequest(messages=[]), owner="user:1")[0].pk

        yield run


def numbers(body: bytes) -> list[int]:
    return [int(event.id.split(":")[1]) for event in parse_events(body)]


def test_a_run_streams_on_every_server(ask, running):
    _, _, body = ask(lambda request: RunStreamResponse(running(*HELLO)))
    assert (joined(body), ending(body), numbers(body)) == ("Hello", "done", [2, 4, 6])


def test_a_run_is_read_from_a_number_on(ask, running):
    _, _, body = ask(lambda request: RunStreamResponse(running(*HELLO), after=2))
    assert (joined(body), ending(body), numbers(body)) == ("lo", "done", [4, 6])


def test_what_is_told_is_all_that_is_sent(ask):
    told = [Frame(0, Kind.TEXT, {"text": "Hello"}), Frame(9, Kind.DONE, {})]
    _, _, body = ask(lambda request: RunStreamResponse("r1", told=told))
    assert body == (
        b': open\nretry: 1000\ndata: {"text": "Hello"}\n\nid: r1:9\ndata: {"done": true}\n\n'
    )


def test_a_run_that_is_silent_gets_heartbeats(ask, running):
    _, _, body = ask(lambda request: RunStreamResponse(running("a", 0.4, "b", HEARTBEAT=0.05)))
    first, second = body.index(b'"a"'), body.index(b'"b"')
    assert body[first:second].count(b": ping\n") >= 2
    assert ending(body) == "done"


def test_head_of_a_run_sends_nothing(ask, running):
    status, _, body = ask(lambda request: RunStreamResponse(running("a")), "HEAD")
    assert (status, body) == ("200", b"")


def test_a_run_that_does_not_exist_ends_as_expired(ask, runs):
    _, _, body = ask(lambda request: RunStreamResponse("0" * 26))
    assert ending(body) == "expired"


def test_a_wire_format_that_fails_costs_its_own_stream_alone(ask, running, caplog):
    class Broken(NativeFormat):
        def encode(self, frame):
            if frame.kind == "text":
                raise ValueError("a bug of ours")
            return super().encode(frame)

    run = []

    def view(request):
        run.append(run[0] if run else running("a"))
        return RunStreamResponse(run[0], wire=Broken() if len(run) == 1 else None)

    assert ending(ask(view)[2]) == "internal"
    assert "a bug of ours" in caplog.text
    if ask.server == "wsgi":  # under ASGI the run's loop has ended with the test's first request
        assert ending(ask(view)[2]) == "done"


def test_a_reader_that_leaves_a_run_under_wsgi_does_not_end_it(running):
    run = running("Hel", 0.3, "lo")
    response = RunStreamResponse(run)
    parts = iter(response)
    assert b"Hel" in next(parts) + next(parts)
    response.close()
    assert (joined(body := b"".join(RunStreamResponse(run))), ending(body)) == ("Hello", "done")


async def test_a_reader_that_leaves_a_run_under_asgi_does_not_end_it(serve, running):
    run = []

    def view(request):
        run.append(run[0] if run else running("Hel", 0.3, "lo"))
        return RunStreamResponse(run[0])

    serve(view)
    communicator = await communicate()
    body = b""
    await communicator.receive_output(WAIT)
    while b"Hel" not in body:
        body += (await communicator.receive_output(WAIT)).get("body", b"")
    await communicator.send_input({"type": "http.disconnect"})
    await communicator.wait(WAIT)
    _, _, body = await ask_asgi()
    assert (joined(body), ending(body)) == ("Hello", "done")


# Database connections


@pytest.fixture
def database(tmp_path, django_db_blocker):
    """Return the alias of a database in a file: one in memory is never closed."""
    connections.databases["other"] = {
        **connections.databases["default"],
        "NAME": str(tmp_path / "other.sqlite3"),
    }
    with django_db_blocker.unblock():
        yield "other"
        with contextlib.suppress(AttributeError):
            connections["other"].close()
            del connections["other"]
    del connections.databases["other"]


def use(alias):
    connections[alias].cursor().execute("SELECT 1")
    return connections[alias]


def test_the_threads_connections_are_closed_but_for_those_in_a_transaction(database):
    connection = use(database)
    with transaction.atomic(using=database):
        close_connections()
        assert connection.connection is not None
    close_connections()
    assert connection.connection is None


def test_a_wsgi_stream_holds_no_connection(serve, database):
    used = []

    def chunks():
        yield chunk("held" if used[0].connection else "free")
        yield chunk(finish="stop")

    def view(request):
        used.append(use(database))
        return EventStreamResponse(chunks())

    serve(view)
    assert joined(from_wsgi()[2]) == "free"


class Broken:
    """A driver's connection that cannot even be closed."""

    def close(self):
        raise sqlite3.OperationalError("it is gone")


@pytest.mark.parametrize("ask", [from_wsgi, from_asgi])
def test_a_connection_that_does_not_close_breaks_no_stream(serve, database, caplog, ask):
    def view(request):
        connection = use(database)
        connection.connection.close()
        connection.connection = Broken()
        return EventStreamResponse([chunk("Hi"), chunk(finish="stop")])

    serve(view)
    status, _, body = ask()
    assert (status, joined(body)) == ("200", "Hi")
    assert f"the database connection '{database}' did not close" in caplog.text


def test_an_asgi_stream_holds_no_connection_and_no_thread(serve, database):
    used = []

    async def chunks():
        shared = apps.get_app_config("chatstream").closers_thread
        own = set(SyncToAsync.context_to_thread_executor.values()) - {shared}
        yield chunk(f"{'held' if used[0].connection else 'free'} {len(own)}")
        yield chunk(finish="stop")

    def view(request):
        used.append(use(database))
        return EventStreamResponse(chunks())

    serve(view)
    assert joined(from_asgi()[2]) == "free 0"
