"""The database goes away in mid-answer, or is asked by many: no false ``done``, no lost frame."""

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.acceptance.talks import UNHURRIED, Talker, eventually
from tests.behaviours import TEXT
from tests.bench.open_runs import measure
from tests.servers import ROOT, Server, Site
from tests.services import Postgres
from tests.upstream import Upstream

pytestmark = pytest.mark.slow  # outages take their time

LEASE = 2.0  # seconds
PATIENCE = 5.0  # seconds that the engine tries to store what came
SLACK = 6.0  # seconds for a busy machine
LOST = {"error:storage", "cut"}  # what readers may be told: it is a network failure, or we say so


@dataclass
class Place:
    """A server on a cluster that tests stop."""

    cluster: Postgres
    server: Server
    me: Talker


@pytest.fixture(scope="module", params=["uvicorn", "gunicorn-gthread"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    with ExitStack() as stack:
        cluster = stack.enter_context(Postgres())
        upstream = stack.enter_context(Upstream())
        environ = {"TESTSITE_DATABASE": json.dumps(cluster.settings("chat"))}
        settings = {"LEASE": LEASE, "MAX_OPEN_RUNS": 1000}
        site = Site(upstream.url, options=UNHURRIED, settings=settings, environ=environ)
        server = stack.enter_context(Server(request.param, site))
        yield Place(cluster, server, Talker(upstream, server.port))


@pytest.fixture
def outage(place: Place) -> Iterator[Postgres]:
    """The cluster, to be stopped; it is there again afterwards, and the app works."""
    yield place.cluster
    place.cluster.stop()
    place.cluster.start()
    assert eventually(lambda: place.me.ask().status == 201)


def test_readers_get_an_error_or_a_broken_connection(place: Place, outage: Postgres) -> None:
    me = place.me
    run = me.start("endless")
    with me.follow(run, within=30) as reader:
        reader.read_events(3)
        outage.stop()
        stopped_at = time.monotonic()
        answer = reader.read_all()
    assert answer.ending in LOST
    assert answer.ended_at - stopped_at < PATIENCE + SLACK
    request = me.request(run)
    assert me.upstream.wait_closed(SLACK, request.model)
    outage.start()
    assert eventually(lambda: me.is_settled(run), LEASE + 2 + SLACK)
    assert me.look(run)["status"] == "interrupted"
    stored = me.replay(run)
    assert stored.text.startswith(answer.text)  # logged before it was sent


def test_an_answer_that_ends_meanwhile_is_never_done(place: Place, outage: Postgres) -> None:
    me = place.me
    run = me.start("ok_four_seconds")
    with me.follow(run, within=30) as reader:
        reader.read_events(3)
        outage.stop()
        time.sleep(4)
        answer = reader.read_all()
    assert answer.ending in LOST
    outage.start()
    last_id = answer.events[-1].id
    rest = me.read(run, last_id=last_id)
    assert rest.ending == "error:interrupted"
    assert me.replay(run).text == answer.text + rest.text


def test_a_short_outage_costs_nothing(place: Place, outage: Postgres) -> None:
    me = place.me
    run = me.start("ok_slow")
    with me.follow(run, within=30) as reader:
        reader.read_events(3)
        outage.stop()
        outage.start()
        answer = reader.read_all()
    assert (answer.ending, answer.text) == ("done", TEXT)
    assert me.replay(run).text == TEXT


def test_new_runs_are_refused_before_the_upstream_is_asked(place: Place, outage: Postgres) -> None:
    me = place.me
    model = me.name("ok")
    run = me.start()
    me.read(run)
    outage.stop()
    stopped_at = time.monotonic()
    for answer in (
        me.ask(model=model),
        me.get(f"/chat/stream/?prompt=hi&model={model}"),
        me.get(f"/chat/runs/{run}/stream/"),
        me.get(f"/chat/runs/{run}/"),
        me.stop(run),
    ):
        assert (answer.status, answer.json["error"]["code"]) == (503, "storage")
        assert answer.json["error"]["retryable"] is True
        assert int(answer.headers["retry-after"]) > 0
    assert time.monotonic() - stopped_at < SLACK
    assert me.upstream.requests_for(model) == []
    outage.start()
    assert eventually(lambda: me.ask(model=model).status == 201)
    assert len(me.upstream.wait_requests(model)) == 1


def test_the_first_request_after_an_outage_is_served(place: Place, outage: Postgres) -> None:
    me = place.me
    me.read(me.start())
    time.sleep(1.5)  # what rests for a moment is looked at before it is used again
    outage.stop()
    outage.start()
    assert me.read(me.start()).text == TEXT


def test_an_outage_is_told_in_the_log_without_tracebacks_of_ours(place: Place) -> None:
    assert "could not be stored" in place.server.log
    assert str(ROOT / "chatstream" / "views") not in place.server.log


def test_five_hundred_open_streams_on_sqlite_lose_nothing() -> None:
    result = asyncio.run(measure(streams=500, rate=1, seconds=12))
    assert (result.locked, result.tracebacks) == (0, 0)
    assert (result.whole, result.requests, result.stored) == (500, 500, 500)
    assert result.reads > 0  # ordinary requests were served meanwhile
