"""A reader that leaves, dawdles or sleeps: its upstream is closed, the others are not affected."""

import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from tests.acceptance.rows import Service, closing_complaint, serve
from tests.behaviours import TEXT
from tests.reader import Reader, stream_path
from tests.servers import HEARTBEAT
from tests.upstream import Request

ASGI = ["uvicorn", "uvicorn-plain", "hypercorn", "daphne", "granian"]
WSGI = ["gunicorn-gthread"]
ASGI_WITHIN = 1.0  # seconds
# WSGI learns of it by a failed write, the second one after the reader left.
WSGI_WITHIN = 2 * HEARTBEAT
SLACK = 1.5  # seconds for a busy machine
# No deadline may close the upstream in the reader's place.
UNHURRIED = {"first_token_timeout": 60, "token_timeout": 60, "run_timeout": 120}

VIEWS = {
    "chat": "/chat/stream/",
    "provider": "/bare/provider/",
    "async-stream": "/bare/async/",
    "sync-stream": "/bare/sync/",
}
# When the reader leaves: the behaviour, and what it has seen by then.
MOMENTS = {
    "before-headers": ("hang_before_headers", b""),
    "before-first-token": ("hang_after_role", b": open"),
    "mid-answer": ("ok_four_seconds", b'data: {"text": "3'),
    "in-silence": ("hang_mid_stream", b'data: {"text": "'),
}
numbers = count()


@pytest.fixture(scope="module", params=[*ASGI, *WSGI])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serve(request.param, options=UNHURRIED) as service:
        yield service


def open_stream(
    service: Service, behaviour: str, base: str = "/chat/stream/", **options: object
) -> tuple[Reader, Request]:
    """Ask under a name of its own; return the reader, and the request that the upstream got."""
    model = f"{behaviour}@{next(numbers)}"
    reader = Reader(service.server.port, stream_path(model, base), **options)  # type: ignore[arg-type]
    requests = service.upstream.wait_requests(model)
    assert requests, "no request reached the upstream"
    return reader, requests[0]


def assert_closed_soon(service: Service, request: Request, left_at: float) -> None:
    within = (ASGI_WITHIN if service.server.is_asgi else WSGI_WITHIN) + SLACK
    service.upstream.wait_closed(within + 1, request.model)
    assert closing_complaint(request, left_at, within) == []
    assert request.connection.closed_by == "relay"


def read_past(reader: Reader, seen: bytes) -> None:
    if seen:
        reader.read_until(seen)


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("reset", [False, True], ids=["fin", "rst"])
def test_a_reader_that_leaves_has_its_upstream_closed(
    service: Service, moment: str, reset: bool
) -> None:
    behaviour, seen = MOMENTS[moment]
    reader, request = open_stream(service, behaviour)
    read_past(reader, seen)
    assert_closed_soon(service, request, reader.leave(reset=reset))


@pytest.mark.parametrize("view", ["provider", "async-stream", "sync-stream"])
@pytest.mark.parametrize("moment", ["before-first-token", "mid-answer", "in-silence"])
def test_a_bare_response_closes_the_upstream_too(service: Service, view: str, moment: str) -> None:
    if view == "async-stream" and not service.server.is_asgi:
        pytest.skip("an async completion is refused under WSGI")
    behaviour, seen = MOMENTS[moment]
    reader, request = open_stream(service, behaviour, VIEWS[view])
    read_past(reader, seen)
    assert_closed_soon(service, request, reader.leave())


def test_leaving_is_no_error_in_the_log(service: Service) -> None:
    for behaviour, seen in MOMENTS.values():
        reader, request = open_stream(service, behaviour)
        read_past(reader, seen)
        assert_closed_soon(service, request, reader.leave())
    assert "Traceback" not in service.server.log, service.server.log[-3000:]
    assert "never retrieved" not in service.server.log


def test_the_next_answer_is_right_after_many_left(service: Service) -> None:
    for _ in range(10):
        reader, request = open_stream(service, "ok_four_seconds")
        reader.read_until(b'"text": "0')
        assert_closed_soon(service, request, reader.leave())
    answer = service.ask(f"ok@{next(numbers)}")
    assert (answer.ending, answer.text) == ("done", TEXT)


def test_a_reader_that_leaves_closes_its_upstream_without_the_garbage_collector() -> None:
    with serve("uvicorn", options=UNHURRIED, environ={"TESTSITE_GC": "off"}) as service:
        for view in VIEWS.values():
            for behaviour, seen in MOMENTS.values():
                if behaviour == "hang_before_headers" and view.startswith("/bare/"):
                    continue  # the view itself waits there, in the package's own create()
                reader, request = open_stream(service, behaviour, view)
                read_past(reader, seen)
                assert_closed_soon(service, request, reader.leave())


@pytest.mark.parametrize("base", ["/chat/stream/", "/bare/async/"], ids=["chat", "bare"])
def test_forty_hung_streams_do_not_stop_a_forty_first(
    running: Callable[..., Service], base: str
) -> None:
    service = running("uvicorn", options=UNHURRIED)
    hung = [open_stream(service, "hang_after_role", base)[0] for _ in range(40)]
    try:
        for reader in hung:
            reader.read_until(b": open")
        answer = service.ask(f"ok@{next(numbers)}", base)
        assert (answer.ending, answer.text) == ("done", TEXT)
    finally:
        for reader in hung:
            reader.leave()


def test_open_streams_hold_no_thread_under_asgi(running: Callable[..., Service]) -> None:
    service = running("uvicorn", options=UNHURRIED)
    threads_before = inside(service)
    hung = [open_stream(service, "hang_after_role")[0] for _ in range(40)]
    try:
        for reader in hung:
            reader.read_until(b": open")
        assert inside(service) < threads_before + 20
    finally:
        for reader in hung:
            reader.leave()


def inside(service: Service) -> int:
    """Return the number of the server's threads."""
    with Reader(service.server.port, "/inside/") as reader:
        return int(reader.read_all().body.split(b":")[1].strip(b" }"))


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn-gthread"])
def test_a_slow_reader_gets_it_all_and_keeps_nobody_waiting(
    running: Callable[..., Service], name: str
) -> None:
    service = running(name, options=UNHURRIED)
    with open_stream(service, "ok_long", within=60, receive_buffer=4096)[0] as slow:
        slow.read_head()
        for _ in range(10):
            time.sleep(0.1)
            slow.read_some()
            answer = service.ask(f"ok@{next(numbers)}")
            assert (answer.ending, answer.text) == ("done", TEXT)
        answer = slow.read_all()
    assert answer.ending == "done"
    assert answer.text == "".join(f"tok{n} " for n in range(3000))


# daphne has no backpressure of its own: what is written to it, it keeps.
@pytest.mark.parametrize("name", ["uvicorn", "hypercorn", "granian", "gunicorn-gthread"])
def test_a_reader_that_stops_reading_stops_the_intake(
    running: Callable[..., Service], name: str
) -> None:
    service = running(name, options=UNHURRIED, settings={"MAX_ANSWER_CHARS": 10**9})
    reader, request = open_stream(service, "flood", receive_buffer=65536)
    with reader:
        reader.read_until(b": open")
        taken = settled_intake(request)
        # 64 MiB are on offer; the sockets' own buffers may hold some MiB each.
        assert taken < 24 * 1024 * 1024
        assert service.ask(f"ok@{next(numbers)}").ending == "done"
        assert_closed_soon(service, request, reader.leave(reset=True))


def settled_intake(request: Request) -> int:
    """Return how many bytes the relay took from the upstream, once it takes no more."""
    before = -1
    until = time.monotonic() + 15
    while request.connection.bytes_sent != before and time.monotonic() < until:
        before = request.connection.bytes_sent
        time.sleep(1)
    return before


@pytest.mark.parametrize("name", ["uvicorn", "gunicorn-gthread"])
def test_a_reader_that_wakes_up_gets_the_rest(running: Callable[..., Service], name: str) -> None:
    service = running(name, options=UNHURRIED, settings={"MAX_ANSWER_CHARS": 10**9})
    characters = 0
    tail = b""
    with open_stream(service, "flood", receive_buffer=65536, within=60)[0] as reader:
        reader.read_until(b": open")
        time.sleep(3)
        while reader.read_some():
            data = tail + reader.answer.body
            reader.answer.body = b""
            characters += data.count(b"#")
            tail = data[-64:].replace(b"#", b"")
    assert characters == 64 * 1024 * 1024
    assert tail.endswith(b'data: {"done": true}\n\n')
