"""Whatever the upstream does, the answer ends as the table says: on ASGI and WSGI, each transport.

All rows are played once for each server, many at a time; each is then a test of its own that only
looks at what came.
"""

import sqlite3
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from chatstream.models import storable
from tests.acceptance.rows import (
    Service,
    complaints,
    connection_complaints,
    model_of,
    play,
    serve,
    wire_complaints,
)
from tests.behaviours import TEXT
from tests.faults import ROWS, Row
from tests.reader import Answer
from tests.servers import CANARY_KEY, HEARTBEAT

DRIVERS = [
    pytest.param(("uvicorn", "httpx"), marks=pytest.mark.slow),
    ("uvicorn", "httptools"),
    ("gunicorn-gthread", "auto"),
]


@pytest.fixture(scope="session", params=DRIVERS, ids="-".join)
def played(request: pytest.FixtureRequest, running: Callable[..., Service]) -> Service:
    """A service that all rows were played on."""
    service = running(*request.param)
    if not service.answers:
        service.answers.update(play(service))
        _let_connections_close(service)
    return service


def _let_connections_close(service: Service) -> None:
    for row in ROWS.values():
        if row.closes:
            service.upstream.wait_closed(2, model_of(row))


@pytest.mark.parametrize("row", ROWS.values(), ids=lambda row: row.name)
def test_the_answer_ends_as_the_table_says(played: Service, row: Row) -> None:
    answer = played.answers[row.name]
    requests = played.upstream.requests_for(model_of(row))
    found = complaints(row, answer, requests)
    found += wire_complaints(row, answer)
    found += connection_complaints(row, answer, requests)
    assert not found, "\n".join([*found, f"body ends: {answer.body[-400:]!r}"])


def test_what_is_stored_is_what_was_told(played: Service) -> None:
    with closing(sqlite3.connect(played.server.database)) as database:
        query = "SELECT id, status, error_code, text FROM chatstream_run"
        stored = {run: row for run, *row in database.execute(query)}
    for name, answer in played.answers.items():
        status, code, text = stored[answer.events[0].id.split(":")[0]]
        if answer.ending == "done":
            assert (status in ("completed", "truncated"), code) == (True, ""), name
        else:
            assert answer.ending == f"error:{code}", name
        assert text == storable(answer.text), name


def test_no_redirect_was_followed(played: Service) -> None:
    assert played.upstream.requests_for("redirected") == []


def test_the_key_went_to_the_upstream_alone(played: Service) -> None:
    sent = played.upstream.requests_for("ok@row")[0].headers["authorization"]
    assert sent == f"Bearer {CANARY_KEY}"
    assert CANARY_KEY not in played.server.log


def test_no_fault_left_a_traceback_in_the_log(played: Service) -> None:
    log = played.server.log
    at = log.find("Traceback")
    assert at < 0, log[max(0, at - 500) : at + 3000]


def test_good_answers_follow_bad_ones(played: Service) -> None:
    for number in range(20):
        answer = played.ask(f"ok@after-{number}")
        assert (answer.ending, answer.text) == ("done", TEXT)


@pytest.fixture(params=DRIVERS, ids="-".join)
def fresh(request: pytest.FixtureRequest) -> Iterator[Service]:
    """A service of the test's own, with no connection in its pool."""
    with serve(*request.param) as service:
        yield service


@pytest.mark.parametrize("behaviour", ["ok_stray_with_end", "ok_stray_later"])
def test_stray_bytes_never_become_the_next_answer(fresh: Service, behaviour: str) -> None:
    for number in range(4):
        answer = fresh.ask(f"{behaviour}@{number}")
        assert (answer.ending, answer.text) == ("done", TEXT)
        time.sleep(0.8)  # the bytes are there before the next request is: no race to lose
        answer = fresh.ask(f"ok@{number}")
        assert (answer.ending, answer.text) == ("done", TEXT)
    for connection in fresh.upstream.connections:
        assert not connection.reused_when_dead


def test_good_answers_share_a_connection(fresh: Service) -> None:
    for number in range(6):
        assert fresh.ask(f"ok@{number}").ending == "done"
        time.sleep(0.1)  # what follows [DONE] is read after the reader has his answer
    assert len(fresh.upstream.connections) <= 2


def test_a_pooled_connection_that_died_costs_no_answer(fresh: Service) -> None:
    for number in range(5):
        answer = fresh.ask(f"stale@{number}")
        assert (answer.ending, answer.text) == ("done", TEXT)


def test_many_pooled_connections_that_died_cost_no_answer(fresh: Service) -> None:
    """A load balancer drops all idle connections at once: one retry must find a live one."""
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: fresh.ask(f"ok_slow@{number}"), range(6)))
    answer = fresh.ask("stale")
    assert (answer.ending, answer.text) == ("done", TEXT)


@pytest.mark.parametrize(
    "name", ["hang_before_headers", "hang_after_headers", "hang_mid_stream", "hang_with_pings"]
)
def test_silence_is_filled_with_pings(played: Service, name: str) -> None:
    body = played.answers[name].body
    assert body.count(b": ping\n") >= 1.5 / HEARTBEAT - 1
    assert b": ping\n\n" not in body


def test_the_table_has_the_ninety_and_forty_more() -> None:
    listed = [row for row in ROWS.values() if row.is_listed]
    assert len(listed) == 90
    assert len(ROWS) - len(listed) >= 40


@pytest.mark.slow
@pytest.mark.parametrize(
    ("server", "base"),
    [("uvicorn", "/naive/async/"), ("gunicorn-gthread", "/naive/sync/")],
    ids=["async", "sync"],
)
def test_the_commonly_written_view_fails_the_table(server: str, base: str) -> None:
    # A base_url that leads nowhere is the provider's option, which the naive view does not have.
    rows = [row for row in ROWS.values() if row.provider == "default"]
    with serve(server) as service:
        answers = play(service, [_impatient(row) for row in rows], base)
        failed = [row.name for row in rows if _fails(service, row, answers[row.name])]
    assert "ok" not in failed
    assert len(failed) >= 40, failed


def _impatient(row: Row) -> Row:
    return Row(**{**row.__dict__, "within": 10})


def _fails(service: Service, row: Row, answer: Answer) -> bool:
    if answer.terminals and "error" in answer.terminals[-1] and row.endings != {"done"}:
        # It has no codes; any error where an error is due counts as the right one.
        code = next(iter(row.endings - {"done"})).removeprefix("error:")
        answer.body = answer.body.replace(b'"code": "error"', f'"code": "{code}"'.encode())
    return bool(complaints(row, answer, service.upstream.requests_for(row.name)))
