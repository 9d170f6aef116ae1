"""A run's row and its log change together: one ending, and ``done`` only with the message saved."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from django.db import DatabaseError, OperationalError, connections, transaction

from chatstream.core.answers import Answer, Ending, last_frames
from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import Outcome
from chatstream.framelog import FrameConflict, FrameLog
from chatstream.framelog.database import DatabaseFrameLog
from chatstream.framelog.memory import MemoryFrameLog
from chatstream.ledger import Part, cancel, commit, complete, look, prune, reap
from chatstream.models import Conversation, Message, Run, from_now
from chatstream.signals import run_settled
from tests.framelog.crashing import Crash, CrashingLog

LEASE = 15.0  # seconds

pytestmark = pytest.mark.usefixtures("database")


@pytest.fixture(params=["memory", "database"])
def log(request: pytest.FixtureRequest) -> CrashingLog:
    real = MemoryFrameLog({}) if request.param == "memory" else DatabaseFrameLog({})
    return CrashingLog(real)


@pytest.fixture
def memory() -> CrashingLog:
    return CrashingLog(MemoryFrameLog({}))


@pytest.fixture
def told() -> Iterator[list[str]]:
    """The runs of which ``run_settled`` was sent."""
    runs: list[str] = []

    def note(run: Run, **_: Any) -> None:
        runs.append(run.pk)

    run_settled.connect(note, sender=Run)
    yield runs
    run_settled.disconnect(note, sender=Run)


def make_run(**fields: Any) -> str:
    """A queued run that writes an answer in a conversation."""
    conversation = Conversation.objects.create(owner="user:1")
    message = Message.objects.create(conversation=conversation, role="assistant")
    given = {"owner": "user:1", "provider": "default", "request": {}, "conversation": conversation}
    return Run.objects.create(**(given | {"message": message} | fields)).pk


def claimed(producer: str = "p") -> str:
    run = make_run()
    assert Run.objects.claim(run, producer, LEASE)
    return run


def let_lease_run_out(run: str) -> None:
    Run.objects.filter(pk=run).update(lease_until=from_now(-0.1))


def text(seq: int, text: str) -> Frame:
    return Frame(seq, Kind.TEXT, {"text": text})


def more(run: str, first: int = 1, *texts: str) -> Part:
    """Text that goes on from number ``first``."""
    return Part(run, [text(seq, one) for seq, one in enumerate(texts or ("a", "b"), first)])


def whole(run: str, first: int, before: str = "", last: str = "!") -> Part:
    """The end of an answer that began with ``before``: one more text, and that it is done."""
    ending = Ending(Outcome.COMPLETED, before + last, first + 2, finish_reason="stop")
    return Part(run, [text(first, last), *last_frames(ending)], ending)


def row(run: str) -> Run:
    return Run.objects.select_related("message").get(pk=run)


def content(run: str) -> str:
    message = row(run).message
    assert message is not None
    return message.content


def kinds(log: FrameLog, run: str) -> str:
    """The run's frames as one letter each: text, finish, done, error."""
    return "".join(frame.kind[0] for frame in log.read(run))


# Committing


def test_frames_of_many_runs_are_logged_and_those_that_end_are_settled(
    log: CrashingLog, told: list[str]
) -> None:
    runs = [claimed() for _ in range(3)]
    assert commit(log, "p", [more(run) for run in runs]) == set()
    assert commit(log, "p", [whole(runs[0], 3, "ab"), *(more(run, 3) for run in runs[1:])]) == set()
    assert [kinds(log, run) for run in runs] == ["tttfd", "tttt", "tttt"]
    assert [row(run).status for run in runs] == ["completed", "in_progress", "in_progress"]
    assert told == runs[:1]


def test_the_message_is_saved_with_the_settling(log: CrashingLog) -> None:
    run = claimed()
    commit(log, "p", [whole(run, 1, "", "Hello")])
    assert row(run).text == content(run) == "Hello"


def test_done_is_not_told_if_the_message_cannot_be_saved(log: CrashingLog, database: str) -> None:
    run = claimed()
    commit(log, "p", [more(run)])

    def refuse(execute: Any, sql: str, *rest: Any) -> Any:
        if sql.startswith("UPDATE") and "chatstream_message" in sql.split("SET")[0]:
            raise OperationalError("the database is gone")
        return execute(sql, *rest)

    with connections[database].execute_wrapper(refuse), pytest.raises(OperationalError):
        commit(log, "p", [whole(run, 3, "ab")])
    assert "d" not in kinds(log, run)
    assert row(run).is_open
    assert commit(log, "p", [whole(run, 3, "ab")]) == set()
    assert kinds(log, run) == "tttfd"
    assert content(run) == "ab!"


def test_a_run_that_was_reaped_costs_itself_only(log: CrashingLog, told: list[str]) -> None:
    runs = [claimed() for _ in range(3)]
    commit(log, "p", [more(run) for run in runs])
    let_lease_run_out(runs[1])
    reap(log, LEASE)
    told.clear()
    assert commit(log, "p", [whole(run, 3, "ab") for run in runs]) == {runs[1]}
    assert [kinds(log, run) for run in runs] == ["tttfd", "ttfe", "tttfd"]
    assert [content(run) for run in runs] == ["ab!", "ab", "ab!"]
    assert told == [runs[0], runs[2]]


def test_a_run_that_was_reaped_takes_no_more_text(log: CrashingLog) -> None:
    runs = [claimed() for _ in range(3)]
    commit(log, "p", [more(run) for run in runs])
    let_lease_run_out(runs[1])
    reap(log, LEASE)
    assert commit(log, "p", [more(run, 3) for run in runs]) == {runs[1]}
    assert [kinds(log, run) for run in runs] == ["tttt", "ttfe", "tttt"]


def unstorable(run: str) -> Part:
    """What both databases' drivers refuse: half a surrogate pair."""
    ending = Ending(Outcome.COMPLETED, "ab!", 5)
    return Part(run, [text(3, "!"), *last_frames(ending)], replace(ending, error_code="\ud83d"))


def too_long(run: str) -> Part:
    ending = Ending(Outcome.COMPLETED, "ab!", 5)
    return Part(run, [text(3, "!"), *last_frames(ending)], replace(ending, error_code="x" * 41))


@pytest.mark.parametrize("refused", [unstorable, too_long])
def test_a_run_whose_data_is_refused_fails_alone(
    log: CrashingLog, database: str, refused: Callable[[str], Part]
) -> None:
    if refused is too_long and database == "sqlite":
        pytest.skip("SQLite takes a value of any length")
    runs = [claimed() for _ in range(3)]
    commit(log, "p", [more(run) for run in runs])
    parts = [whole(runs[0], 3, "ab"), refused(runs[1]), more(runs[2], 3)]
    assert commit(log, "p", parts) == {runs[1]}
    assert [kinds(log, run) for run in (runs[0], runs[2])] == ["tttfd", "tttt"]
    assert kinds(log, runs[1]).endswith("fe")
    failed = row(runs[1])
    assert (failed.status, failed.error_code) == ("failed", "storage")
    assert failed.text == content(runs[1]) == Answer(log.read(runs[1])).text
    assert failed.last_seq == log.last_seq(runs[1])


def test_whatever_the_upstream_calls_its_finish_reason_is_stored(log: CrashingLog) -> None:
    run = claimed()
    commit(log, "p", [more(run)])
    ending = Ending(Outcome.COMPLETED, "ab!", 5, finish_reason="\0\ud83d" + "x" * 80)
    assert not commit(log, "p", [Part(run, [text(3, "!"), *last_frames(ending)], ending)])
    assert row(run).finish_reason == "\ufffd\ufffd" + "x" * 38


def test_a_run_that_was_deleted_is_lost_alone(log: CrashingLog) -> None:
    runs = [claimed() for _ in range(2)]
    Conversation.objects.filter(runs=runs[0]).delete()
    assert commit(log, "p", [whole(run, 1) for run in runs]) == {runs[0]}
    assert kinds(log, runs[1]) == "tfd"


def test_an_outage_commits_nothing_and_is_told(log: CrashingLog, database: str) -> None:
    runs = [claimed() for _ in range(2)]

    def refuse(execute: Any, *rest: Any) -> Any:
        raise OperationalError("the database is gone")

    with connections[database].execute_wrapper(refuse), pytest.raises(DatabaseError):
        commit(log, "p", [whole(run, 1) for run in runs])
    assert [row(run).status for run in runs] == ["in_progress"] * 2
    assert commit(log, "p", [whole(run, 1) for run in runs]) == set()
    assert [kinds(log, run) for run in runs] == ["tfd", "tfd"]


def test_what_was_committed_may_be_tried_again(log: CrashingLog) -> None:
    runs = [claimed() for _ in range(2)]
    first = [more(run) for run in runs]
    second = [whole(runs[0], 3, "ab"), more(runs[1], 3)]
    for parts in (first, second):
        for _ in range(3):
            assert commit(log, "p", parts) == set()
    assert [kinds(log, run) for run in runs] == ["tttfd", "tttt"]
    assert [content(run) for run in runs] == ["ab!", ""]


@pytest.mark.parametrize("append", [1, 2])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_what_was_interrupted_may_be_tried_again(
    log: CrashingLog, moment: str, append: int
) -> None:
    if log.is_transactional and append == 2:
        pytest.skip("it appends once")
    runs = [claimed() for _ in range(2)]
    parts = [
        Part(run, more(run).frames + whole(run, 3).frames, whole(run, 3).ending) for run in runs
    ]
    log.crash(moment, append)
    with pytest.raises(Crash):
        commit(log, "p", parts)
    lost = commit(log, "p", parts)
    look(log, runs, LEASE)
    assert [kinds(log, run) for run in runs] == ["tttfd", "tttfd"]
    # A row that says so already is whoever follows' to complete: the run is not the producer's.
    assert lost == (set(runs) if (moment, append) == ("before", 2) else set())
    assert [content(run) for run in runs] == ["!", "!"]


def test_a_run_without_an_answer_to_write_is_settled(log: CrashingLog) -> None:
    run = make_run(message=None, conversation=None)
    Run.objects.claim(run, "p", LEASE)
    assert commit(log, "p", [whole(run, 1)]) == set()
    assert kinds(log, run) == "tfd"


# Runs that nobody produces


def test_a_reaped_run_keeps_its_partial_text(log: CrashingLog, told: list[str]) -> None:
    run = claimed()
    commit(log, "p", [more(run, 1, "Hel", "lo\0")])
    let_lease_run_out(run)
    assert reap(log, LEASE) == [run]
    assert kinds(log, run) == "ttfe"
    assert log.read(run, 3)[0].data["code"] == "interrupted"
    reaped = row(run)
    assert (reaped.status, reaped.last_seq) == ("interrupted", 4)
    assert reaped.text == content(run) == "Hello\ufffd"
    assert told == [run]


def test_a_queued_run_that_nobody_claims_is_reaped(log: CrashingLog) -> None:
    run = make_run()
    Run.objects.filter(pk=run).update(created_at=from_now(-3 * LEASE))
    assert reap(log, LEASE) == [run]
    assert kinds(log, run) == "fe"
    assert row(run).last_seq == 2


def test_a_run_with_a_lease_is_left_alone(log: CrashingLog) -> None:
    run = claimed()
    assert reap(log, LEASE) == []
    assert kinds(log, run) == ""


def test_reaping_can_be_bound_to_some_runs(log: CrashingLog) -> None:
    runs = [claimed() for _ in range(2)]
    for run in runs:
        let_lease_run_out(run)
    assert reap(log, LEASE, runs[:1]) == runs[:1]
    assert row(runs[1]).is_open


def test_a_queued_run_is_cancelled_once(log: CrashingLog, told: list[str]) -> None:
    run = make_run()
    assert cancel(log, run)
    assert not cancel(log, run)
    assert kinds(log, run) == "fe"
    assert (row(run).status, row(run).last_seq) == ("stopped", 2)
    assert told == [run]


def test_a_run_in_progress_is_not_cancelled(log: CrashingLog) -> None:
    run = claimed()
    assert not cancel(log, run)
    assert row(run).is_open


def test_a_reaper_that_dies_in_the_middle_leaves_a_run_that_is_completed(log: CrashingLog) -> None:
    run = claimed()
    commit(log, "p", [more(run)])
    let_lease_run_out(run)
    log.crash("before", 1)
    with pytest.raises(Crash):
        reap(log, LEASE)
    look(log, [run], LEASE)
    assert kinds(log, run) == "ttfe"
    assert row(run).text == content(run) == "ab"


def test_a_reaper_that_dies_before_it_saves_the_text_leaves_it_to_others(log: CrashingLog) -> None:
    run = claimed()
    commit(log, "p", [more(run)])
    let_lease_run_out(run)
    log.crash("after", 1)
    with pytest.raises(Crash):
        reap(log, LEASE)
    look(log, [run], LEASE)
    assert kinds(log, run) == "ttfe"
    assert (row(run).last_seq, content(run)) == (4, "ab")


def test_a_process_that_dies_after_the_row_leaves_its_last_frame_to_others(
    memory: CrashingLog,
) -> None:
    run = claimed()
    memory.crash("before", 2)
    with pytest.raises(Crash):
        commit(memory, "p", [whole(run, 1, "", "Hello")])
    assert row(run).status == "completed"
    assert kinds(memory, run) == "t"
    complete(memory, row(run))
    assert kinds(memory, run) == "tfd"
    assert memory.read(run) == whole(run, 1, "", "Hello").frames
    assert content(run) == "Hello"


def test_completing_again_changes_nothing(log: CrashingLog) -> None:
    ended, reaped = claimed(), claimed()
    commit(log, "p", [whole(ended, 1), more(reaped)])
    let_lease_run_out(reaped)
    reap(log, LEASE)
    for run in (ended, reaped):
        before = log.read(run), row(run).text, content(run)
        complete(log, row(run))
        assert (log.read(run), row(run).text, content(run)) == before


def test_those_who_complete_at_once_save_the_text_once(memory: CrashingLog) -> None:
    for _ in range(5):
        run = claimed()
        commit(memory, "p", [more(run)])
        Run.objects.filter(pk=run).update(status="interrupted", error_code="interrupted")
        at_once([lambda run=run: complete(memory, row(run))] * 4)
        assert kinds(memory, run) == "ttfe"
        assert row(run).text == content(run) == "ab"


def test_a_producer_that_appends_while_it_is_reaped_leaves_one_ending(memory: CrashingLog) -> None:
    run = claimed()
    commit(memory, "p", [more(run)])
    let_lease_run_out(run)
    left = [2]

    def append_more() -> None:
        if left[0]:
            left[0] -= 1
            memory.log.append({run: more(run, memory.last_seq(run) + 1).frames})

    memory.before = append_more
    reap(memory, LEASE)
    memory.calm()
    assert kinds(memory, run) == "ttttttfe"
    assert row(run).text == content(run) == "ababab"
    assert commit(memory, "p", [more(run, 7)]) == {run}


def test_a_producer_that_never_rests_is_no_reason_to_tell_no_ending(memory: CrashingLog) -> None:
    run = claimed()
    let_lease_run_out(run)
    memory.before = lambda: memory.log.append({run: [text(memory.last_seq(run) + 1, "a")]})
    with pytest.raises(FrameConflict):
        reap(memory, LEASE)
    memory.calm()
    look(memory, [run], LEASE)
    assert kinds(memory, run).endswith("tfe")
    assert row(run).text == content(run) == Answer(memory.read(run)).text


def test_a_producer_and_a_reaper_at_once_leave_one_ending(log: CrashingLog) -> None:
    for _ in range(5):
        run = claimed()
        commit(log, "p", [more(run)])
        let_lease_run_out(run)
        lost, reaped = at_once(
            [lambda run=run: commit(log, "p", [whole(run, 3, "ab")]), lambda: reap(log, LEASE)]
        )
        assert (kinds(log, run), row(run).status) in (
            ("tttfd", "completed"),
            ("ttfe", "interrupted"),
            ("tttfe", "interrupted"),
        )
        assert (run in lost) == (run in reaped)
        assert row(run).text == content(run) == Answer(log.read(run)).text


def test_a_process_that_freezes_in_a_commit_holds_nobody_up(database: str) -> None:
    if database == "sqlite":
        pytest.skip("SQLite has one lock for all, and nobody who takes it away")
    frozen, log = CrashingLog(DatabaseFrameLog({})), DatabaseFrameLog({})
    run = claimed()
    commit(log, "p", [more(run)])
    holds_locks, may_go_on = threading.Event(), threading.Event()

    def freeze() -> None:
        holds_locks.set()
        may_go_on.wait(30)

    frozen.after = freeze
    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(hanging_up, lambda: commit(frozen, "p", [more(run, 3)]))
        holds_locks.wait(30)
        let_lease_run_out(run)
        assert reap(log, LEASE) == [run]
        frozen.calm()
        may_go_on.set()
        with pytest.raises(DatabaseError):
            late.result()
    assert commit(log, "p", [more(run, 3)]) == {run}
    assert kinds(log, run) == "ttfe"


def at_once(jobs: list[Callable[[], Any]]) -> list[Any]:
    """Run each in a thread with a connection of its own; return what they return."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], Any]) -> Any:
        connections[Run.objects.db].ensure_connection()
        start.wait(30)
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return list(pool.map(lambda job: hanging_up(lambda: run(job)), jobs))


def hanging_up(job: Callable[[], Any]) -> Any:
    """Run it, then let go of this thread's connections."""
    try:
        return job()
    finally:
        connections.close_all()


# Looking and pruning


def test_a_look_says_what_waits_and_what_is_gone(log: CrashingLog) -> None:
    late, fresh, running, unknown = make_run(), make_run(), claimed(), "0" * 26
    Run.objects.filter(pk=late).update(created_at=from_now(-1.5 * LEASE))
    seen = look(log, [late, fresh, running, unknown], LEASE)
    assert (seen.queued, seen.gone) == ([late], [unknown])


def test_pruning_deletes_the_frames_of_old_settled_runs_only(log: CrashingLog) -> None:
    old, fresh, running = (claimed() for _ in range(3))
    commit(log, "p", [whole(old, 1), whole(fresh, 1), more(running)])
    Run.objects.filter(pk=old).update(settled_at=from_now(-100))
    Run.objects.filter(pk=running).update(created_at=from_now(-100), claimed_at=from_now(-100))
    assert prune(log, 50) == 1
    assert [kinds(log, run) for run in (old, fresh, running)] == ["", "tfd", "tt"]
    assert [row(run).is_pruned for run in (old, fresh, running)] == [True, False, False]
    assert (row(old).text, content(old)) == ("!", "!")
    assert prune(log, 50) == 0


def test_pruning_goes_in_batches(log: CrashingLog) -> None:
    runs = [claimed() for _ in range(5)]
    commit(log, "p", [whole(run, 1) for run in runs])
    Run.objects.update(settled_at=from_now(-100))
    assert prune(log, 50, at_once=2) == 5
    assert log.read_many(dict.fromkeys(runs, 0)) == {}


def test_a_pruned_run_is_not_completed_anew(log: CrashingLog) -> None:
    run = claimed()
    commit(log, "p", [whole(run, 1)])
    Run.objects.update(settled_at=from_now(-100))
    prune(log, 50)
    complete(log, row(run))
    assert look(log, [run], LEASE).gone == [run]
    assert kinds(log, run) == ""


def test_a_commit_in_a_transaction_of_the_caller_is_undone_with_it(database: str) -> None:
    log, run = DatabaseFrameLog({}), claimed()
    with transaction.atomic(database):
        commit(log, "p", [more(run)])
        transaction.set_rollback(True, using=database)
    assert commit(log, "p", [more(run)]) == set()
    assert kinds(log, run) == "tt"
