"""Processes that die, sleep and are told to leave: readers elsewhere get a clear ending."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.talks import UNHURRIED, Talker, eventually
from tests.reader import Answer, Event
from tests.servers import ROOT, Server, Site, each
from tests.services import Postgres
from tests.upstream import Upstream

pytestmark = pytest.mark.slow  # processes that die take their time

LEASE = 2.0  # seconds
NOTICED_WITHIN = LEASE + 2
SLACK = 4.0  # seconds for a busy machine
GRACE = 2.0  # seconds: what the servers under test are started with
INTERRUPTED = "error:interrupted"
# uvicorn ends itself by the signal that it was sent, granian's workers not by Python's ways, and
# gunicorn's are killed while a reader holds a thread: no exit handler runs, and the lease runs out.
SETTLE_AT_EXIT = {"hypercorn", "daphne"}
# From Python 3.12 on hypercorn waits for an open stream, for ever, whatever its grace period says:
# asyncio's Server.wait_closed() does. A process manager kills it then.
WAIT_FOR_STREAMS = {"hypercorn"} if sys.version_info >= (3, 12) else set()
SERVERS = ["uvicorn", "hypercorn", "granian", "daphne", "gunicorn-gthread", "granian-wsgi"]


@dataclass
class Place:
    """A database with a server that stays, and room for others that do not."""

    site: Site
    upstream: Upstream
    stays: Server

    @contextlib.contextmanager
    def another(self, name: str = "uvicorn") -> Iterator[tuple[Talker, Server]]:
        """Start a server; yield it, and a visitor whose server 0 it is: server 1 is what stays."""
        with Server(name, self.site) as server:
            yield Talker(self.upstream, server.port, self.stays.port), server


def assert_no_traceback_of_ours(server: Server) -> None:
    """Servers that cut their connections print tracebacks of their own."""
    assert str(ROOT / "chatstream") not in server.log, server.log[-3000:]


@contextlib.contextmanager
def place(environ: dict[str, str], name: str = "gunicorn-gthread") -> Iterator[Place]:
    settings = {"LEASE": LEASE, "MAX_OPEN_RUNS": 1000}
    with Upstream() as upstream:
        site = Site(upstream.url, options=UNHURRIED, settings=settings, environ=environ)
        with Server(name, site) as stays:
            yield Place(site, upstream, stays)


def environ_of(database: str, folder: Path, stack: ExitStack) -> dict[str, str]:
    if database == "sqlite":
        return {"TESTSITE_DB": str(folder / "db.sqlite3")}
    cluster = stack.enter_context(Postgres())
    return {"TESTSITE_DATABASE": json.dumps(cluster.settings("chat"))}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with ExitStack() as stack:
        environ = environ_of(request.param, tmp_path_factory.mktemp("shared"), stack)
        yield stack.enter_context(place(environ))


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ExitStack() as stack:
        environ = environ_of("sqlite", tmp_path_factory.mktemp("shared"), stack)
        yield stack.enter_context(place(environ, "uvicorn"))


def signal_all(server: Server, number: signal.Signals) -> float:
    """Send a signal to the server and its children; return when."""
    os.killpg(server.process.pid, number)
    return time.monotonic()


def assert_interrupted(me: Talker, run: str, answer: Answer, *, server: int = 1) -> None:
    """The reader was told so, all that came is kept, and the log ends there."""
    assert answer.ending == INTERRUPTED
    assert answer.terminals[0]["error"]["retryable"] is True
    assert me.look(run, server=server)["status"] == "interrupted"
    assert me.replay(run, server=server).text == answer.text


# Killed ---------------------------------------------------------------------------------------


@dataclass
class Wreck:
    """What a process left that was killed while it produced three answers."""

    me: Talker  # server 1 is alive
    conversation: str
    talked: str  # a run of the conversation, followed from elsewhere: ``told``
    told: Answer
    told_after: float  # seconds after the killing
    cut_off: str  # a run that was followed where it was produced: ``cut``
    cut: Answer
    alone: str  # a run that nobody followed
    refused: Answer  # another prompt in the conversation, at once


@pytest.fixture(scope="module")
def wreck(shared: Place) -> Iterator[Wreck]:
    with shared.another() as (me, server):
        conversation = str(me.post("/chat/conversations/", {}).json["id"])
        talked = me.start("endless", conversation=conversation)
        cut_off, alone = me.start("endless"), me.start("endless")
        me.request(alone)
        with me.follow(talked, server=1) as elsewhere, me.follow(cut_off) as here:
            elsewhere.read_events(3)
            here.read_events(5)
            killed_at = signal_all(server, signal.SIGKILL)
            refused = me.ask(conversation=conversation, server=1)
            cut, told = here.read_all(), elsewhere.read_all()
        took = told.ended_at - killed_at
        yield Wreck(me, conversation, talked, told, took, cut_off, cut, alone, refused)


def test_readers_of_a_process_that_is_killed_are_told_by_another(wreck: Wreck) -> None:
    assert wreck.told_after < NOTICED_WITHIN + SLACK
    assert wreck.told.text
    assert_interrupted(wreck.me, wreck.talked, wreck.told)


def test_the_partial_answer_is_kept_and_marked(wreck: Wreck) -> None:
    path = f"/chat/conversations/{wreck.conversation}/"
    _, message, *_ = wreck.me.get(path, server=1).json["messages"]
    assert message["content"] == wreck.told.text
    assert message["run"]["outcome"] == "interrupted"


def test_readers_of_a_process_that_is_killed_reconnect_to_another(wreck: Wreck) -> None:
    assert wreck.cut.ending == "cut"
    rest = wreck.me.read(wreck.cut_off, last_id=wreck.cut.events[-1].id, server=1)
    assert rest.ending == INTERRUPTED
    stored = wreck.me.replay(wreck.cut_off, server=1)
    assert stored.text == wreck.cut.text + rest.text


def test_a_run_that_nobody_follows_is_settled_by_who_asks_for_it(wreck: Wreck) -> None:
    me = wreck.me
    assert eventually(lambda: me.is_settled(wreck.alone, server=1), NOTICED_WITHIN + SLACK)
    assert me.look(wreck.alone, server=1)["status"] == "interrupted"
    me.replay(wreck.alone, server=1)


def test_a_conversation_whose_process_was_killed_goes_on(wreck: Wreck) -> None:
    assert wreck.refused.status in (409, 201)  # 201: the machine took longer than the lease
    me, conversation = wreck.me, wreck.conversation

    def is_served() -> bool:
        return me.ask(conversation=conversation, server=1).status == 201

    assert wreck.refused.status == 201 or eventually(is_served, NOTICED_WITHIN + SLACK, every=0.5)
    assert me.look(wreck.talked, server=1)["status"] == "interrupted"


# Asleep ---------------------------------------------------------------------------------------


def test_a_process_that_wakes_up_after_its_lease_adds_nothing(shared: Place) -> None:
    with shared.another() as (me, server):
        run = me.start("endless")
        with me.follow(run) as own, me.follow(run, server=1) as elsewhere:
            own.read_events(3)
            elsewhere.read_events(3)
            nap(server, LEASE / 4)
            count = len(own.answer.events)
            assert len(own.read_events(count + 5)) >= count + 5  # a short one costs nothing
            freeze(server)
            answer = elsewhere.read_all()
            before = me.replay(run, server=1)
            woken_at = signal_all(server, signal.SIGCONT)
            assert own.read_all().events == unnamed(before)
        assert_interrupted(me, run, answer)
        request = me.request(run)
        assert me.upstream.wait_closed(SLACK, request.model)
        assert request.connection.closed_at is not None
        assert request.connection.closed_at - woken_at < SLACK
        time.sleep(1)
        assert me.replay(run, server=1).events == before.events
        assert me.read(me.start()).ending == "done"
        assert_no_traceback_of_ours(server)


def freeze(server: Server) -> None:
    """Stop a process between two commits.

    SQLite's lock is a lock on its file: one that is stopped while it holds it stops everybody.
    """
    signal_all(server, signal.SIGSTOP)
    while is_locked(server.site.environ.get("TESTSITE_DB")):
        signal_all(server, signal.SIGCONT)
        time.sleep(0.01)
        signal_all(server, signal.SIGSTOP)


def is_locked(database: str | None) -> bool:
    """Whether an SQLite database has a writer; None has none."""
    if database is None:
        return False
    with contextlib.closing(sqlite3.connect(database, timeout=0)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.rollback()
        return False


def nap(server: Server, seconds: float) -> None:
    signal_all(server, signal.SIGSTOP)
    time.sleep(seconds)
    signal_all(server, signal.SIGCONT)


def unnamed(answer: Answer) -> list[Event]:
    return [event for event in answer.events if event.name == "message"]


# Told to leave --------------------------------------------------------------------------------


def left_within(server: Server, seconds: float) -> bool:
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.process.wait(seconds)
    return server.process.poll() is not None


@pytest.mark.parametrize("name", each(SERVERS))
def test_a_server_that_is_told_to_leave_does_and_its_readers_go_on_elsewhere(
    on_sqlite: Place, name: str
) -> None:
    with on_sqlite.another(name) as (me, server):
        followed, alone = me.start("endless"), me.start("endless")
        with me.follow(followed) as reader:
            reader.read_events(5)
            server.process.terminate()
            if not left_within(server, GRACE + 2 * SLACK):
                assert name in WAIT_FOR_STREAMS, f"{name} hangs"
                server.stop()  # the process manager's SIGKILL
            cut = reader.read_all()
        if name in SETTLE_AT_EXIT - WAIT_FOR_STREAMS:
            assert_settled_at_exit(me, alone)
        assert "done" not in cut.ending
        last_id = cut.events[-1].id
        rest = me.read(followed, last_id=last_id, server=1)
        if cut.ending == INTERRUPTED:
            assert rest.status == 204
        else:
            assert rest.ending == INTERRUPTED, on_sqlite.stays.log[-2000:]
        assert me.replay(followed, server=1).text == cut.text + (rest.text if rest.body else "")
        assert me.read(alone, server=1).ending == INTERRUPTED
        me.replay(alone, server=1)
        assert_no_traceback_of_ours(server)


def test_a_run_without_readers_is_settled_as_its_server_leaves(on_sqlite: Place) -> None:
    with on_sqlite.another("gunicorn-gthread") as (me, server):
        run = me.start("endless")
        me.request(run)
        server.process.terminate()
        assert left_within(server, GRACE + 2 * SLACK)
        assert_settled_at_exit(me, run)


def assert_settled_at_exit(me: Talker, run: str) -> None:
    """The row was settled by its own process: nobody has looked at it since."""
    answer = me.post(f"/chat/runs/{run}/stop/", server=1)  # which reaps nothing
    assert answer.json["status"] == "interrupted"
