"""A reader that leaves, dawdles or sleeps, and what becomes of its upstream.

That of a bare response is closed. A run has an upstream of its own, and goes on or is stopped, as
``ON_DISCONNECT`` says. Other readers are not affected.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import pytest

from tests.acceptance.rows import Service, closing_complaint, serve
from tests.acceptance.talks import UNHURRIED, Talker, eventually
from tests.behaviours import TEXT
from tests.reader import Reader, stream_path
from tests.servers import HEARTBEAT, each
from tests.upstream import Request

ASGI = ["uvicorn", "uvicorn-plain", "hypercorn", "daphne", "granian"]
WSGI = ["gunicorn-gthread"]
ASGI_WITHIN = 1.0  # seconds
# WSGI learns of it by a failed write, the second one after the reader left.
WSGI_WITHIN = 2 * HEARTBEAT
SLACK = 3.0  # seconds for a busy machine; who does not notice at all takes a minute
GRACE = 1.0  # seconds
STOP = {"ON_DISCONNECT": "stop", "GRACE": GRACE}
TICK = 0.5  # seconds: how often an engine looks who is left
FORTY = "".join(f"{number} " for number in range(40))  # what ok_four_seconds says

VIEWS = {
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


@pytest.fixture(scope="module", params=each([*ASGI, *WSGI]))
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serve(request.param, options=UNHURRIED) as service:
        yield service


def open_stream(
    service: Service, behaviour: str, base: str = VIEWS["provider"], **options: object
) -> tuple[Reader, Request]:
    """Ask under a name of its own; return the reader, and the request that the upstream got."""
    model = f"{behaviour}@{next(numbers)}"
    reader = Reader(service.server.port, stream_path(model, base), **options)  # type: ignore[arg-type]
    requests = service.upstream.wait_requests(model)
    assert requests, "no request reached the upstream"
    return reader, requests[0]


def assert_closed_soon(
    service: Service, request: Request, left_at: float, later: float = 0
) -> None:
    within = (ASGI_WITHIN if service.server.is_asgi else WSGI_WITHIN) + SLACK + later
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


@pytest.mark.slow
@pytest.mark.parametrize("view", ["async-stream", "sync-stream"])
@pytest.mark.parametrize("moment", ["before-first-token", "mid-answer", "in-silence"])
def test_one_that_leaves_the_packages_own_stream_too(
    service: Service, view: str, moment: str
) -> None:
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


@pytest.mark.slow
def test_a_reader_that_leaves_closes_its_upstream_without_the_garbage_collector() -> None:
    with serve("uvicorn", options=UNHURRIED, environ={"TESTSITE_GC": "off"}) as service:
        for view in VIEWS.values():
            for behaviour, seen in MOMENTS.values():
                if behaviour == "hang_before_headers" and view != VIEWS["provider"]:
                    continue  # the view itself waits there, in the package's own create()
                reader, request = open_stream(service, behaviour, view)
                read_past(reader, seen)
                assert_closed_soon(service, request, reader.leave())


@pytest.mark.parametrize("base", ["/chat/stream/", "/bare/async/"], ids=["run", "bare"])
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


@pytest.mark.parametrize("base", ["/chat/stream/", "/bare/async/"], ids=["run", "bare"])
def test_open_streams_hold_no_thread_under_asgi(running: Callable[..., Service], base: str) -> None:
    service = running("uvicorn", options=UNHURRIED)
    threads_before = inside(service)
    hung = [open_stream(service, "hang_after_role", base)[0] for _ in range(40)]
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


@pytest.mark.slow
@pytest.mark.parametrize("base", ["/chat/stream/", "/bare/provider/"], ids=["run", "bare"])
@pytest.mark.parametrize("name", ["uvicorn", "gunicorn-gthread"])
def test_a_slow_reader_gets_it_all_and_keeps_nobody_waiting(
    running: Callable[..., Service], name: str, base: str
) -> None:
    service = running(name, options=UNHURRIED)
    with open_stream(service, "ok_long", base, within=60, receive_buffer=4096)[0] as slow:
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
@pytest.mark.slow
@pytest.mark.parametrize("name", each(["uvicorn", "hypercorn", "granian", "gunicorn-gthread"]))
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


# Runs -----------------------------------------------------------------------------------------

# gunicorn's sync worker serves one stream at a time; even there nothing goes on that should not.
SERVERS = ["uvicorn", "hypercorn", "daphne", "granian", *WSGI, "gunicorn-sync"]
ONE_OF_EACH = ["uvicorn", "gunicorn-gthread"]
OPENED = {moment: (behaviour, seen or b": open") for moment, (behaviour, seen) in MOMENTS.items()}


@dataclass
class Place:
    """A server, and somebody who chats there."""

    service: Service
    me: Talker


def place(name: str, **site: object) -> Iterator[Place]:
    with serve(name, options=UNHURRIED, **site) as service:
        yield Place(service, Talker(service.upstream, service.server.port))


@pytest.fixture(scope="module", params=each(SERVERS, quick=["uvicorn"]))
def finishing(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where runs go on without readers: the default."""
    yield from place(request.param)


@pytest.fixture(scope="module", params=each(SERVERS))
def stopping(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Where runs are stopped soon after their last reader left."""
    yield from place(request.param, settings=STOP)


@pytest.mark.parametrize(
    ("seen", "reset"),
    [(b": open", False), (b'"text": "3', True)],
    ids=["at-once-fin", "mid-answer-rst"],
)
def test_a_run_goes_on_to_its_end_when_its_reader_left(
    finishing: Place, seen: bytes, reset: bool
) -> None:
    me = finishing.me
    run = me.start("ok_four_seconds")
    reader = me.follow(run)
    reader.read_until(seen)
    reader.leave(reset=reset)
    assert eventually(lambda: me.is_settled(run))
    row = me.look(run)
    assert (row["outcome"], row["text"]) == ("completed", FORTY)
    assert me.replay(run).text == FORTY
    assert len(me.requests(run)) == 1


@pytest.mark.parametrize("finishing", each(ONE_OF_EACH, quick=["uvicorn"]), indirect=True)
def test_a_one_shot_run_goes_on_too(finishing: Place) -> None:
    me = finishing.me
    model = me.name("ok_four_seconds")
    reader = me.open(stream_path(model))
    last_id = reader.read_events(2)[-1].id
    seen = reader.answer.text
    reader.leave()
    time.sleep(1)
    rest = me.get(stream_path(model), headers={"Last-Event-ID": last_id})
    assert (rest.ending, seen + rest.text) == ("done", FORTY)
    assert len(me.upstream.requests_for(model)) == 1


def assert_stopped_after_grace(service: Service, request: Request, left_at: float) -> None:
    assert_closed_soon(service, request, left_at, GRACE + TICK)
    closed_at = request.connection.closed_at
    # Who leaves right after the opening may be gone before he counted as a reader.
    assert closed_at is not None
    assert closed_at - left_at > GRACE / 2


@pytest.mark.parametrize("moment", OPENED)
def test_a_run_is_stopped_a_while_after_its_reader_left(stopping: Place, moment: str) -> None:
    service, me = stopping.service, stopping.me
    behaviour, seen = OPENED[moment]
    run = me.start(behaviour)
    request = me.request(run)
    reader = me.follow(run)
    reader.read_until(seen)
    assert_stopped_after_grace(service, request, reader.leave())
    assert eventually(lambda: me.is_settled(run))
    answer = me.replay(run)
    assert answer.ending == "error:stopped"
    assert answer.text.startswith(reader.answer.text)


@pytest.mark.parametrize("stopping", ONE_OF_EACH, indirect=True)
def test_a_run_that_nobody_reads_is_stopped_too(stopping: Place) -> None:
    service, me = stopping.service, stopping.me
    run = me.start("ok_four_seconds")
    assert_stopped_after_grace(service, me.request(run), time.monotonic())


@pytest.mark.slow
@pytest.mark.parametrize("stopping", ONE_OF_EACH, indirect=True)
def test_a_run_whose_reader_comes_back_in_time_goes_on(stopping: Place) -> None:
    me = stopping.me
    run = me.start("ok_four_seconds")
    text, last_id = "", None
    for _ in range(4):
        reader = me.follow(run, last_id=last_id)
        last_id = reader.read_events(3)[-1].id
        text += reader.answer.text
        reader.leave()
    rest = me.read(run, last_id=last_id)
    assert (rest.ending, text + rest.text) == ("done", FORTY)


@pytest.mark.parametrize("stopping", ONE_OF_EACH, indirect=True)
def test_a_run_goes_on_for_the_last_of_its_readers(stopping: Place) -> None:
    me = stopping.me
    run = me.start("ok_four_seconds")
    with me.follow(run) as last:
        for _ in range(3):
            reader = me.follow(run)
            reader.read_until(b": open")
            reader.leave()
        answer = last.read_all()
    assert (answer.ending, answer.text) == ("done", FORTY)


@pytest.mark.slow
def test_a_run_is_stopped_without_the_garbage_collector() -> None:
    environ = {"TESTSITE_GC": "off"}
    with serve("uvicorn", options=UNHURRIED, settings=STOP, environ=environ) as service:
        me = Talker(service.upstream, service.server.port)
        for behaviour, seen in OPENED.values():
            run = me.start(behaviour)
            request = me.request(run)
            reader = me.follow(run)
            reader.read_until(seen)
            assert_stopped_after_grace(service, request, reader.leave())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["uvicorn", "gunicorn-gthread"])
def test_a_reader_that_takes_nothing_does_not_stop_a_run(
    running: Callable[..., Service], name: str
) -> None:
    service = running(name, options=UNHURRIED)
    me = Talker(service.upstream, service.server.port)
    run = me.start("ok_long")
    with me.follow(run, receive_buffer=4096, within=60) as sleeper:
        sleeper.read_until(b": open")
        assert eventually(lambda: me.is_settled(run), within=30)
        assert me.look(run)["outcome"] == "completed"
        answer = sleeper.read_all()
    assert answer.text == "".join(f"tok{n} " for n in range(3000))
    assert answer.ending == "done"


# Last: what the tests above made the servers log.


def assert_log_is_clean(place: Place) -> None:
    log = place.service.server.log
    for trouble in ("Traceback", "never retrieved", "was destroyed"):
        assert trouble not in log, log[-3000:]


def test_runs_that_went_on_left_no_error_in_the_log(finishing: Place) -> None:
    assert_log_is_clean(finishing)


def test_runs_that_were_stopped_left_no_error_in_the_log(stopping: Place) -> None:
    assert_log_is_clean(stopping)
