"""Engines and the feeds between them and their readers; two engines stand for two processes."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, aclosing
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.db import OperationalError, connections
from django.test import Client

import chatstream.engine
from chatstream.conversations import Turn
from chatstream.core.answers import Answer
from chatstream.core.frames import Frame, Kind
from chatstream.core.requests import RunRequest
from chatstream.engine import Engine
from chatstream.feeds import CAPACITY, Feed, Follower
from chatstream.framelog import get_frame_log
from chatstream.framelog.database import DatabaseFrameLog
from chatstream.ledger import reap
from chatstream.models import Conversation, Run, from_now
from chatstream.runs import RunOpen, TooManyRuns, looked_after, start_run, stop_run
from chatstream.writer import Writer, writer
from tests.asking import DONE, asked, body_of, configured

LEASE = 1.0  # seconds
WITHIN = 10.0  # seconds, generous
STOP = {"finish_reason": "stop"}


def text(seq: int, content: str = "x") -> Frame:
    return Frame(seq, Kind.TEXT, {"text": content})


def seqs(frames: list[Frame] | None) -> list[int]:
    return [frame.seq for frame in frames or []]


# Feeds ----------------------------------------------------------------------------------------


def test_a_feed_that_knows_nothing_sends_to_the_log() -> None:
    assert Feed().after(0) is None


def test_a_feed_tells_what_comes_after_a_number() -> None:
    feed = Feed(0)
    feed.publish([text(1), text(2), text(3)])
    assert seqs(feed.after(0)) == [1, 2, 3]
    assert seqs(feed.after(2)) == [3]
    assert feed.after(3) == []


def test_a_feed_lets_go_of_what_is_old() -> None:
    feed = Feed(0)
    for seq in range(1, 101):
        feed.publish([text(seq, "x" * (CAPACITY // 10))])
    assert feed.last == 100
    assert feed.first is not None
    assert 80 < feed.first < 100
    assert feed.after(feed.first - 1) is None
    assert seqs(feed.after(feed.first)) == list(range(feed.first + 1, 101))


def test_a_feed_keeps_the_newest_frame_however_large() -> None:
    feed = Feed(0)
    feed.publish([text(1), text(2, "x" * CAPACITY * 2)])
    assert seqs(feed.after(1)) == [2]


def test_a_reader_that_is_ahead_of_a_feed_waits_for_what_follows() -> None:
    feed = Feed(0)
    feed.begin(5)
    feed.publish([text(1)])
    assert feed.after(3) == []  # it read that from the log


async def test_a_follower_is_woken_by_what_comes() -> None:
    feed = Feed(0)
    loop = asyncio.get_running_loop()
    follower = Follower(feed, 0, loop)
    loop.call_later(0.01, feed.publish, [text(1)])
    assert seqs(await follower.take(WITHIN)) == [1]
    follower.close()


async def test_silence_is_told_after_its_time() -> None:
    follower = Follower(Feed(0), 0, asyncio.get_running_loop())
    assert await follower.take(0.01) == []
    follower.close()


async def test_a_follower_of_a_feed_that_forgets_asks_the_log() -> None:
    feed = Feed(0)
    loop = asyncio.get_running_loop()
    follower = Follower(feed, 0, loop)
    loop.call_later(0.01, feed.forget)
    assert await follower.take(WITHIN) is None
    follower.close()


# Engines --------------------------------------------------------------------------------------


Make = Callable[..., Run]


async def in_writer(job: Callable[..., Any], *args: Any, **more: Any) -> Any:
    return await asyncio.wrap_future(writer().submit(job, *args, **more))


async def in_thread(job: Callable[..., Any], *args: Any) -> Any:
    """Call as a view would be: in a thread whose connections are closed afterwards."""

    def call() -> Any:
        try:
            return job(*args)
        finally:
            connections.close_all()

    return await asyncio.to_thread(call)


@pytest.fixture
def script(database: str) -> Iterator[Callable[..., None]]:
    """Return a function: what the model says from now on, and settings."""
    with ExitStack() as stack:

        def play(*steps: Any, **settings: Any) -> None:
            providers = {"default": {"script": list(steps)}}
            stack.enter_context(configured(providers=providers, **{"LEASE": LEASE, **settings}))

        play(STOP)
        yield play


@pytest.fixture
async def engines(script: Callable[..., None]) -> AsyncIterator[Callable[[], Engine]]:
    """Return a function that makes an engine with a writer and a log of its own."""
    made: list[tuple[Engine, Writer]] = []

    def make() -> Engine:
        own = Writer()
        engine = Engine(asyncio.get_running_loop(), DatabaseFrameLog({}), own)
        made.append((engine, own))
        return engine

    yield make
    for engine, own in made:
        for run in list(engine._live):
            engine._stop(run)
        await until(lambda: all(live.is_ending for live in engine._live.values()))  # noqa: B023
        for task in (engine._beater, engine._committer):
            if task is not None:
                task.cancel()
        await asyncio.wrap_future(own.submit(connections.close_all))


async def new_run(**fields: Any) -> str:
    given = {"owner": "user:1", "provider": "default", "request": {"messages": []}}
    run = await in_writer(Run.objects.create, **(given | fields))
    return str(run.pk)


async def started(engine: Engine, **fields: Any) -> str:
    run = await new_run(**fields)
    assert await in_thread(engine.start, run)
    return run


async def row(run: str) -> Run:
    return await in_writer(Run.objects.get, pk=run)


async def read(engine: Engine, run: str, after: int = 0) -> Answer:
    """Follow to the end; every number comes once, and in order."""
    answer = Answer()
    async with asyncio.timeout(WITHIN), aclosing(engine.follow(run, after, WITHIN)) as batches:
        async for frames in batches:
            for frame in frames:
                assert frame.seq in (after + 1, 0)
                after = frame.seq
                answer.add(frame)
    return answer


async def until(look: Callable[[], Any]) -> None:
    """Wait until what ``look`` returns, or what comes when that is awaited, is true."""
    async with asyncio.timeout(WITHIN):
        while not (await found if inspect.isawaitable(found := look()) else found):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_a_run_is_followed_by_another_engine(engines, script) -> None:
    script("one ", 0.3, "two ", 0.3, "three", STOP)
    mine, other = engines(), engines()
    run = await started(mine)
    answers = await asyncio.gather(read(mine, run), read(other, run), read(other, run))
    assert {(answer.text, answer.error_code) for answer in answers} == {("one two three", None)}
    assert len(asked()) == 1


async def test_a_run_is_claimed_once(engines, script) -> None:
    script("one", STOP)
    run = await new_run()
    several = [engines() for _ in range(4)]
    won = await asyncio.gather(*(in_thread(one.start, run) for one in several))
    assert sorted(won) == [False, False, False, True]
    assert (await read(several[0], run)).text == "one"
    assert len(asked()) == 1


async def test_a_follower_claims_a_run_that_nobody_has_begun(engines, script) -> None:
    script("one", STOP)
    run = await new_run()
    await in_writer(Run.objects.filter(pk=run).update, created_at=from_now(-1.2 * LEASE))
    assert (await read(engines(), run)).text == "one"
    assert (await row(run)).status == "completed"


async def test_a_queued_run_that_is_too_old_is_interrupted(engines, script) -> None:
    script("one", STOP)
    run = await new_run()
    await in_writer(Run.objects.filter(pk=run).update, created_at=from_now(-10 * LEASE))
    assert (await read(engines(), run)).error_code == "interrupted"
    assert asked() == []


async def test_a_run_that_was_lost_sends_its_readers_to_the_log(engines, script) -> None:
    script("one", 60)
    engine = engines()
    run = await started(engine)
    reading = asyncio.create_task(read(engine, run))
    await until(lambda: in_writer(get_frame_log().last_seq, run))
    await in_writer(Run.objects.filter(pk=run).update, lease_until=from_now(-1))
    assert await in_writer(reap, get_frame_log(), LEASE) == [run]
    answer = await reading
    assert (answer.text, answer.error_code) == ("one", "interrupted")
    assert engine.last_seq(run) is None


async def test_a_run_that_was_lost_adds_nothing(engines, script) -> None:
    script("one", 1.5, "two", STOP)
    engine = engines()
    run = await started(engine)
    await until(lambda: in_writer(get_frame_log().last_seq, run))
    await in_writer(Run.objects.filter(pk=run).update, lease_until=from_now(-1))
    await in_writer(reap, get_frame_log(), LEASE)
    before = await in_writer(get_frame_log().read, run)
    await asyncio.sleep(2)
    assert await in_writer(get_frame_log().read, run) == before
    assert before[-1].data["code"] == "interrupted"


async def test_a_follower_that_stalls_reads_the_rest_from_the_log(engines, script) -> None:
    parts = ["x" * 4096] * 100
    script(*[step for part in parts for step in (part, 0.002)], 0.3, STOP)
    engine = engines()
    run = await started(engine)
    after = 0
    async with aclosing(engine.follow(run, 0, WITHIN)) as batches:
        async for frames in batches:
            if not after:
                await until(lambda: is_settled(run))
            assert seqs(frames) == list(range(after + 1, after + 1 + len(frames)))
            after = frames[-1].seq
            last = frames[-1]
    assert last.kind is Kind.DONE
    assert (await row(run)).last_seq == after


async def is_settled(run: str) -> bool:
    return not (await row(run)).is_open


async def test_stop_reaches_a_run_of_another_engine(engines, script) -> None:
    script("one", 60)
    mine, other = engines(), engines()
    run = await started(mine)
    reading = asyncio.create_task(read(other, run))
    await until(lambda: in_writer(get_frame_log().last_seq, run))
    assert await in_writer(Run.objects.request_stop, run)
    answer = await reading
    assert (answer.text, answer.error_code) == ("one", "stopped")


async def test_stop_before_anybody_begins_settles_the_run(engines, script) -> None:
    script("one", STOP)
    run = await new_run()
    await in_thread(stop_run, await row(run))
    assert (await row(run)).status == "stopped"
    assert not await in_thread(engines().start, run)
    assert (await read(engines(), run)).error_code == "stopped"
    assert asked() == []


async def test_a_run_that_nobody_follows_is_stopped_where_that_is_wanted(engines, script) -> None:
    script("one", 60, ON_DISCONNECT="stop", GRACE=0.3)
    engine = engines()
    run = await started(engine)
    await until(lambda: is_settled(run))
    assert (await row(run)).status == "stopped"


async def test_a_run_that_is_followed_elsewhere_is_not_stopped(engines, script) -> None:
    script("one", 3, "two", STOP, ON_DISCONNECT="stop", GRACE=1.5)
    mine, other = engines(), engines()
    run = await started(mine)
    assert (await read(other, run)).text == "onetwo"


async def test_a_run_goes_on_without_readers_by_default(engines, script) -> None:
    script("one", 1, "two", STOP, GRACE=0.1)
    engine = engines()
    run = await started(engine)
    await until(lambda: is_settled(run))
    assert (await row(run)).text == "onetwo"


async def test_a_run_that_cannot_be_stored_ends_its_readers_and_its_lease_runs_out(
    engines, script, monkeypatch
) -> None:
    script("one", 0.5, "two", 60)
    monkeypatch.setattr(chatstream.engine, "PATIENCE", 0.5)
    engine = engines()
    healthy = await started(engine)  # keeps the engine renewing
    run = await started(engine)
    await until(lambda: in_writer(get_frame_log().last_seq, healthy))
    real = engine.log.append

    def append(frames: Any) -> None:
        if run in frames:
            raise OperationalError("disk full")
        real(frames)

    monkeypatch.setattr(engine.log, "append", append)
    answer = await read(engine, run)
    assert answer.error_code == "storage"
    monkeypatch.undo()
    assert (await read(engines(), run)).error_code == "interrupted"


async def test_a_follower_of_a_run_that_was_deleted_is_told(engines, script) -> None:
    script("one", 60)
    mine, other = engines(), engines()
    run = await started(mine)
    reading = [asyncio.create_task(read(engine, run)) for engine in (mine, other)]
    await until(lambda: in_writer(get_frame_log().last_seq, run))
    await asyncio.sleep(0.6)
    await in_writer(Run.objects.filter(pk=run).delete)
    assert [(await task).error_code for task in reading] == ["expired", "expired"]


async def test_what_is_open_at_the_end_of_a_process_is_interrupted(engines, script) -> None:
    script("one", 60)
    engine = engines()
    run = await started(engine)
    reading = asyncio.create_task(read(engines(), run))
    await until(lambda: in_writer(get_frame_log().last_seq, run))
    await in_thread(engine.interrupt, 5)
    assert (await row(run)).status == "interrupted"
    answer = await reading
    assert (answer.text, answer.error_code) == ("one", "interrupted")


async def test_what_was_taken_from_a_run_is_stored_though_its_loop_ends(engines, script) -> None:
    script("one", 60)
    engine = engines()
    run = await started(engine)
    gate = threading.Event()
    held = engine._writer.submit(gate.wait, WITHIN)  # so that the commit has to wait
    await until(lambda: engine._committer is not None)
    await asyncio.sleep(0.05)
    engine._committer.cancel()
    await asyncio.sleep(0)
    gate.set()
    await asyncio.wrap_future(held)
    await in_thread(engine.interrupt, 5)
    frames = await in_writer(get_frame_log().read, run)
    assert seqs(frames) == list(range(1, len(frames) + 1))
    assert (Answer(frames).text, Answer(frames).error_code) == ("one", "interrupted")


async def test_a_run_whose_process_died_is_settled_by_who_looks_at_it(engines, script) -> None:
    run = await new_run()
    assert await in_writer(Run.objects.claim, run, "dead", LEASE)
    looked = await in_thread(looked_after, await row(run))
    assert looked.status == "in_progress"
    await in_writer(Run.objects.filter(pk=run).update, lease_until=from_now(-1))
    looked = await in_thread(looked_after, await row(run))
    assert looked.status == "interrupted"


async def test_a_provider_that_is_gone_is_an_ending(engines, script) -> None:
    run = await started(engines(), provider="gone")
    assert (await read(engines(), run)).error_code == "internal"


async def test_a_message_is_saved_with_its_run(engines, script) -> None:
    script("one ", "two", STOP)
    conversation = await in_writer(Conversation.objects.create, owner="user:1")
    message = await in_writer(conversation.messages.create, role="assistant")
    run = await started(engines(), conversation=conversation, message=message)
    await until(lambda: is_settled(run))
    await in_writer(message.refresh_from_db)
    assert message.content == "one two"


# Endpoints ------------------------------------------------------------------------------------


HEADERS = {"Sec-Fetch-Site": "same-origin", "Origin": "http://testserver"}


@pytest.fixture
def visitor(runs: None) -> Iterator[Client]:
    with configured(providers={"default": {"script": ["one ", "two", STOP]}}):
        yield Client(headers=HEADERS)


def post(client: Client, path: str, **data: Any) -> Any:
    return client.post(f"/chat/{path}", data, content_type="application/json")


def answered(client: Client, **data: Any) -> str:
    """Start a run, and wait for its end."""
    run = post(client, "runs/", prompt="hi", **data).json()["id"]
    assert body_of(client.get(f"/chat/runs/{run}/stream/")).endswith(DONE)
    return str(run)


def test_who_logs_in_keeps_what_he_began(visitor: Client) -> None:
    conversation = post(visitor, "conversations/").json()["id"]
    run = answered(visitor, conversation=conversation, idempotency_key="k")
    visitor.force_login(User.objects.create(username="ada"))
    assert visitor.get(f"/chat/runs/{run}/").json()["text"] == "one two"
    assert visitor.get(f"/chat/conversations/{conversation}/").status_code == 200
    again = post(
        visitor, "runs/", prompt="hi", conversation=conversation, idempotency_key="k"
    ).json()
    assert again["id"] == run
    visitor.logout()
    assert visitor.get(f"/chat/runs/{run}/").status_code == 404


def test_the_next_who_logs_in_gets_nothing_of_it(visitor: Client) -> None:
    run = answered(visitor)
    visitor.force_login(User.objects.create(username="ada"))
    visitor.logout()
    visitor.force_login(User.objects.create(username="bob"))
    assert visitor.get(f"/chat/runs/{run}/").status_code == 404


def test_keys_of_a_visitor_and_of_the_user_that_he_becomes_do_not_clash(visitor: Client) -> None:
    user = User.objects.create(username="ada")
    other = Client(headers=HEADERS)
    other.force_login(user)
    kept = answered(other, idempotency_key="k")
    run = answered(visitor, idempotency_key="k")
    visitor.force_login(user)
    assert {visitor.get(f"/chat/runs/{pk}/").status_code for pk in (kept, run)} == {200}
    assert post(visitor, "runs/", prompt="hi", idempotency_key="k").json()["id"] == kept


def test_a_known_key_comes_before_the_limit_of_open_runs(visitor: Client) -> None:
    script = {"default": {"script": ["one", 30]}}
    with configured(providers=script, MAX_OPEN_RUNS=1):
        post(visitor, "conversations/")
        first = post(visitor, "runs/", prompt="hi", idempotency_key="k")
        assert first.status_code == 201
        assert post(visitor, "runs/", prompt="hi").status_code == 429
        assert post(visitor, "runs/", prompt="hi", idempotency_key="k").status_code == 200
        with pytest.raises(TooManyRuns):
            start_run(RunRequest([]), owner=Run.objects.get().owner)
        known, is_new = start_run(
            RunRequest([]),
            owner=Run.objects.get().owner,
            key="k",
            digest=Run.objects.get().request_digest,
        )
        assert (known.pk, is_new) == (first.json()["id"], False)
        post(visitor, f"runs/{known.pk}/stop/")


def test_of_two_requests_that_begin_one_external_conversation_the_second_is_told_the_first(
    visitor: Client,
) -> None:
    with configured(providers={"default": {"script": ["one", 30]}}):
        turns = [
            Turn.begin("user:1", prompt, format="x", external_id="same")
            for prompt in ("first", "second")
        ]
        first, _ = start_run(RunRequest([]), owner="user:1", turn=turns[0])
        with pytest.raises(RunOpen) as refused:
            start_run(RunRequest([]), owner="user:1", turn=turns[1])
        assert refused.value.run == first
        stop_run(first)
        assert Conversation.objects.count() == 1
