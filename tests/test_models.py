"""A run's row: every change of its state is won once, on the database's clock."""

import datetime
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connections
from django.test import override_settings

from chatstream.core.answers import Ending
from chatstream.core.outcomes import Outcome
from chatstream.ids import new_id
from chatstream.models import Conversation, Message, Run, from_now, storable
from tests.conftest import Router

LEASE = 15.0  # seconds
DONE = Ending(Outcome.COMPLETED, "Hello", 4, finish_reason="stop", usage={"total_tokens": 3})
INTERRUPTED = Ending(Outcome.INTERRUPTED, error_code="interrupted")
STOPPED = Ending(Outcome.STOPPED, error_code="stopped")

pytestmark = pytest.mark.usefixtures("database")
Change = Callable[[str], bool]


def make_run(**fields: Any) -> str:
    fields = {"owner": "user:1", "provider": "default", "request": {}} | fields
    return Run.objects.create(**fields).pk


def claimed(producer: str = "p", **fields: Any) -> str:
    run = make_run(**fields)
    assert Run.objects.claim(run, producer, LEASE)
    return run


def expired() -> str:
    run = claimed()
    Run.objects.filter(pk=run).update(lease_until=from_now(-0.1))
    return run


def state(run: str) -> tuple[str, str]:
    row = Run.objects.get(pk=run)
    return row.status, row.producer


def claim(run: str) -> bool:
    return Run.objects.claim(run, new_id(), LEASE)


def settle(run: str) -> bool:
    return Run.objects.settle(run, "p", DONE)


def reap(run: str) -> bool:
    return Run.objects.reap(run, LEASE, INTERRUPTED)


def cancel(run: str) -> bool:
    return Run.objects.cancel(run, STOPPED)


def request_stop(run: str) -> bool:
    return Run.objects.request_stop(run)


CHANGES = [(make_run, claim), (claimed, settle), (expired, reap), (make_run, cancel)]
CHANGES += [(claimed, request_stop)]


def race(run: str, changes: list[Change]) -> list[bool]:
    """Make all changes at once, each in a thread with a connection of its own."""
    start = threading.Barrier(len(changes))

    def change(one: Change) -> bool:
        try:
            connections[Run.objects.db].ensure_connection()
            start.wait(30)
            return one(run)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(changes)) as pool:
        return list(pool.map(change, changes))


@pytest.mark.parametrize(("make", "change"), CHANGES)
def test_a_change_is_won_once(make: Callable[[], str], change: Change) -> None:
    run = make()
    assert change(run)
    assert not change(run)


@pytest.mark.parametrize(("make", "change"), CHANGES)
def test_of_those_who_race_for_a_change_one_wins(make: Callable[[], str], change: Change) -> None:
    for _ in range(5):
        assert sorted(race(make(), [change] * 4)) == [False, False, False, True]


def test_of_producer_and_reaper_one_settles() -> None:
    for _ in range(5):
        run = expired()
        won = race(run, [settle, reap])
        assert sorted(won) == [False, True]
        assert Run.objects.get(pk=run).status == ("completed" if won[0] else "interrupted")


def test_of_claim_and_cancel_one_wins() -> None:
    for _ in range(5):
        run = make_run()
        won = race(run, [claim, cancel])
        assert sorted(won) == [False, True]
        assert Run.objects.get(pk=run).status == ("in_progress" if won[0] else "stopped")


@pytest.mark.parametrize("change", [claim, settle, reap, cancel, request_stop])
def test_a_settled_run_stays_as_it_is(change: Change) -> None:
    run = claimed()
    settle(run)
    before = Run.objects.filter(pk=run).values().get()
    assert not change(run)
    assert Run.objects.filter(pk=run).values().get() == before


@pytest.mark.parametrize("change", [claim, settle, reap, cancel, request_stop])
def test_an_unknown_run_cannot_be_changed(change: Change) -> None:
    assert not change(new_id())


def test_a_claimed_run_has_its_producer_and_a_lease() -> None:
    row = Run.objects.get(pk=claimed("one"))
    assert (row.status, row.producer) == ("in_progress", "one")
    assert row.claimed_at is not None
    assert row.lease_until is not None
    assert (row.lease_until - row.claimed_at).total_seconds() == pytest.approx(LEASE, abs=1)


def test_only_its_producer_settles_a_run() -> None:
    run = claimed("one")
    assert not Run.objects.settle(run, "two", DONE)
    assert not Run.objects.settle(make_run(), "one", DONE)
    assert state(run) == ("in_progress", "one")


def test_a_settled_run_says_how_it_ended() -> None:
    run = claimed()
    settle(run)
    row = Run.objects.get(pk=run)
    assert row.ending() == DONE
    assert row.outcome is Outcome.COMPLETED
    assert not row.is_open
    assert row.settled_at is not None


def test_the_first_text_has_its_time() -> None:
    run = claimed()
    Run.objects.settle(run, "p", DONE, first_text_ago=40)
    row = Run.objects.get(pk=run)
    assert row.settled_at is not None
    assert row.first_text_at is not None
    assert (row.settled_at - row.first_text_at).total_seconds() == pytest.approx(40, abs=1)


def test_a_lease_that_is_renewed_does_not_expire() -> None:
    run = expired()
    assert Run.objects.renew("p", LEASE, [run]) == 1
    assert not reap(run)


def test_a_producer_renews_only_what_is_its_own_and_open_and_named() -> None:
    mine, dropped, ended, theirs = claimed(), claimed(), claimed(), claimed("q")
    settle(ended)
    before = dict(Run.objects.values_list("pk", "lease_until"))
    assert Run.objects.renew("p", 2 * LEASE, [mine, ended, theirs, new_id()]) == 1
    after = dict(Run.objects.values_list("pk", "lease_until"))
    assert {run for run in after if after[run] != before[run]} == {mine}
    assert dropped in after


def test_a_run_with_a_lease_is_not_reaped() -> None:
    assert not reap(claimed())


def test_a_queued_run_is_reaped_after_two_leases() -> None:
    run = make_run()
    Run.objects.filter(pk=run).update(created_at=from_now(-1.5 * LEASE))
    assert not reap(run)
    Run.objects.filter(pk=run).update(created_at=from_now(-2.1 * LEASE))
    assert set(Run.objects.expired(LEASE)) == set(Run.objects.all())
    assert reap(run)


def test_a_run_in_progress_cannot_be_cancelled() -> None:
    assert not cancel(claimed())


def test_a_queued_run_is_not_asked_to_stop() -> None:
    assert not request_stop(make_run())


def test_followers_elsewhere_are_seen_for_a_while() -> None:
    fresh, stale, queued = claimed(), claimed(), make_run()
    Run.objects.touch([fresh, stale, queued])
    Run.objects.filter(pk=stale).update(followed_at=from_now(-31))
    assert Run.objects.followed_since([fresh, stale, queued], 30) == {fresh}


def test_a_run_that_waits_to_be_claimed_is_found() -> None:
    run = make_run()
    claimed()
    assert not Run.objects.queued_for(5).exists()
    Run.objects.filter(pk=run).update(created_at=from_now(-6))
    assert [row.pk for row in Run.objects.queued_for(5)] == [run]


def test_the_clock_is_the_databases(database: str) -> None:
    sent: list[Any] = []

    def note(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        sent.extend(params or ())
        return execute(sql, params, many, context)

    with connections[database].execute_wrapper(note):
        run = make_run()
        claim(run)
        Run.objects.renew("p", LEASE, [run])
        Run.objects.settle(claimed(), "p", DONE, 1.0)
        reap(expired())
        request_stop(claimed())
        cancel(make_run())
        Run.objects.touch([run])
        list(Run.objects.expired(LEASE))
    year = str(datetime.date.today().year)
    assert sent
    assert not [one for one in sent if isinstance(one, datetime.date) or str(one)[:4] == year]


def test_texts_that_a_database_refuses_are_replaced() -> None:
    run = claimed()
    text = "a\0b\ud83dc \U0001f600 \ud83d\ude00 \u2028"
    assert Run.objects.settle(run, "p", Ending(Outcome.COMPLETED, text, 4))
    saved = Run.objects.get(pk=run).text
    assert saved == storable(text) == "a\ufffdb\ufffdc \U0001f600 \U0001f600 \u2028"


def test_an_answer_is_added_to_its_message() -> None:
    message = Message.objects.create(conversation=Conversation.objects.create(owner="user:1"))
    for text in ("Hello ", "wor\0ld 100%"):
        Run.objects.get(pk=make_run(message=message)).save_message(text)
    message.refresh_from_db()
    assert message.content == "Hello wor\ufffdld 100%"


def test_a_key_is_given_once_to_each_owner() -> None:
    make_run(idempotency_key="k")
    make_run(idempotency_key="k", owner="user:2")
    with pytest.raises(IntegrityError):
        make_run(idempotency_key="k")


def test_runs_without_a_key_are_many() -> None:
    make_run()
    make_run()
    assert Run.objects.of("user:1").open().count() == 2


def test_a_conversation_has_one_open_run() -> None:
    conversation = Conversation.objects.create(owner="user:1")
    for make in (make_run, claimed):
        run = make(conversation=conversation)
        with pytest.raises(IntegrityError):
            make_run(conversation=conversation)
        cancel(run)
        settle(run)
    assert Run.objects.filter(conversation=conversation).count() == 2


class Replicated(Router):
    """Reads go to a replica that is out of reach."""

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return "replica"


def test_a_conversation_is_found_by_its_owner_and_its_clients_id() -> None:
    named = {"format": "x", "external_id": "c1"}
    mine = Conversation.objects.create(owner="user:1", **named)
    for other in ({"owner": "user:2", **named}, {"owner": "user:1", "format": "y"}):
        Conversation.objects.create(**{"external_id": "c1", **other})
    assert Conversation.objects.of("user:1").known_as("x", "c1").get() == mine


def test_who_owns_nothing_has_no_conversation() -> None:
    Conversation.objects.create(owner="")
    assert not Conversation.objects.of("").exists()


def test_runs_are_read_where_they_are_written(database: str) -> None:
    run = make_run()
    with override_settings(DATABASE_ROUTERS=[Replicated(database)]):
        assert Run.objects.get(pk=run).pk == run
        assert Run.objects.open().filter(pk=run).exists()


def test_the_migration_makes_the_models(database: str) -> None:
    call_command("makemigrations", "chatstream", check=True, dry_run=True, verbosity=0)
