"""The pump: frames gather, silence is told, a reader that takes nothing is given up."""

import asyncio
import threading
import time
from contextlib import aclosing

import pytest

from chatstream.core.framer import Framer, State
from chatstream.core.frames import Frame, Kind
from chatstream.core.requests import RunRequest
from chatstream.providers.deadlines import Deadlines
from chatstream.providers.scripted import ScriptedProvider
from chatstream.providers.sources import ProviderSource, source_of
from chatstream.pump import CAPACITY, Batches, Outbox, Pace

WAIT = 10


def chunk(text="", finish=None):
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def generate(chunks):
    yield from chunks


async def agenerate(chunks):
    for one in chunks:
        yield one


def scripted(*script):
    provider = ScriptedProvider("s", {"script": list(script)})
    return ProviderSource(provider, RunRequest(messages=[]))


def from_provider(chunks):
    steps = []
    for one in chunks:
        choice = one["choices"][0]
        steps.append({"text": choice["delta"]["content"], "finish_reason": choice["finish_reason"]})
    return scripted(*steps)


@pytest.fixture(
    params=[
        lambda chunks: source_of(generate(chunks)),
        lambda chunks: source_of(agenerate(chunks)),
        from_provider,
    ],
    ids=["sync", "async", "provider"],
)
def source(request):
    """Return a function: a source of chunks, of each kind."""
    return request.param


async def gather(source, framer=None, pace=None) -> list[list[Frame]]:
    gathered = Batches(source, framer or Framer(), pace or Pace())
    async with aclosing(gathered):
        return [list(batch) async for batch in gathered]


def flat(gathered):
    return [frame for batch in gathered for frame in batch]


def text_of(gathered) -> str:
    return "".join(frame.data["text"] for frame in flat(gathered) if frame.kind is Kind.TEXT)


async def test_all_frames_come_in_order_and_the_last_is_terminal(source):
    chunks = [chunk(f"{n} ") for n in range(2000)] + [chunk(finish="stop")]
    gathered = await gather(source(chunks))
    frames = flat(gathered)
    assert text_of(gathered) == "".join(f"{n} " for n in range(2000))
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert [frame.kind for frame in frames if frame.is_terminal] == [Kind.DONE]
    assert gathered[-1][-1].is_terminal


async def test_silence_is_an_empty_batch():
    source = scripted(0.3, "a", {"finish_reason": "stop"})
    gathered = await gather(source, pace=Pace(heartbeat=0.05))
    assert gathered.count([]) >= 2
    assert text_of(gathered) == "a"


async def test_frames_that_come_while_the_reader_is_busy_leave_together(source):
    chunks = [chunk("x") for _ in range(20)] + [chunk(finish="stop")]
    gathered = Batches(source(chunks), Framer(), Pace())
    async with aclosing(gathered):
        first = await anext(gathered)
        await asyncio.sleep(0.2)
        rest = [batch async for batch in gathered]
    assert len(first) + sum(map(len, rest)) == 23
    assert len(rest) < 10


class Counted:
    """An endless completion; ``count`` is how much of it was pulled."""

    def __init__(self):
        self.count = 0
        self.closed = threading.Event()

    def sync(self):
        try:
            while True:
                self.count += 1
                yield chunk("x")
        finally:
            self.closed.set()

    async def items(self):
        try:
            while True:
                self.count += 1
                yield chunk("x")
                await asyncio.sleep(0)
        finally:
            self.closed.set()


@pytest.fixture(params=["sync", "items"])
def endless(request):
    """Return (the counter, its source)."""
    counted = Counted()
    return counted, source_of(getattr(counted, request.param)())


async def test_a_reader_that_stops_reading_stops_the_upstream(endless):
    counted, source = endless
    gathered = Batches(source, Framer(), Pace())
    async with aclosing(gathered):
        await anext(gathered)
        await asyncio.sleep(0.2)
        pulled = counted.count
        await asyncio.sleep(0.2)
        assert counted.count == pulled
        assert pulled <= 3 * CAPACITY
        await anext(gathered)
        await asyncio.sleep(0.2)
        assert counted.count > pulled


async def test_a_reader_that_takes_nothing_for_too_long_is_given_up(endless, caplog):
    counted, source = endless
    framer = Framer("run-7")
    gathered = Batches(source, framer, Pace(heartbeat=15, stall=0.1))
    async with aclosing(gathered):
        await anext(gathered)
        assert await asyncio.to_thread(counted.closed.wait, WAIT)
        await asyncio.sleep(0.05)
        rest = flat([batch async for batch in gathered])
    assert [frame.data["code"] for frame in rest if frame.is_terminal] == ["stalled"]
    assert rest[-1].is_terminal
    assert (framer.error.code, framer.state) == ("stalled", State.FAILED)
    assert caplog.text.count("stalled") == 1


async def test_closing_closes_the_upstream_and_is_no_success(endless):
    counted, source = endless
    framer = Framer()
    gathered = Batches(source, framer, Pace())
    await anext(gathered)
    await gathered.aclose()
    assert await asyncio.to_thread(counted.closed.wait, WAIT)
    assert framer.outcome is None


async def test_a_thread_that_hangs_meets_its_deadlines():
    def hang():
        time.sleep(2)
        yield chunk("late")

    source = source_of(hang(), Deadlines(first_token=0.1, token=30, run=30))
    frames = flat(await gather(source))
    assert [frame.kind for frame in frames] == [Kind.START, Kind.FINISH, Kind.ERROR]
    assert frames[-1].data["code"] == "upstream_timeout"


async def test_a_thread_that_dawdles_after_its_finish_reason_is_done():
    def dawdle():
        yield chunk("a", finish="stop")
        time.sleep(2)

    source = source_of(dawdle(), Deadlines(after_finish=0.1))
    frames = flat(await gather(source))
    assert [frame.kind for frame in frames] == [Kind.START, Kind.TEXT, Kind.FINISH, Kind.DONE]


async def test_a_thread_that_says_words_for_ever_meets_the_end_of_the_run():
    def babble():
        while True:
            yield chunk("x")
            time.sleep(0.02)

    frames = flat(await gather(source_of(babble(), Deadlines(run=0.2))))
    assert frames[-1].data["code"] == "upstream_timeout"


async def test_silent_chunks_of_a_thread_do_not_put_its_deadline_off():
    def silent():
        for _ in range(400):
            yield chunk("")
            time.sleep(0.01)

    frames = flat(await gather(source_of(silent(), Deadlines(first_token=0.2))))
    assert frames[-1].data["code"] == "upstream_timeout"


async def test_the_readers_time_does_not_count_against_a_thread():
    def answer():
        for _ in range(500):
            yield chunk("x")
        yield chunk(finish="stop")

    source = source_of(answer(), Deadlines(token=0.2))
    gathered = Batches(source, Framer(), Pace())
    async with aclosing(gathered):
        first = await anext(gathered)
        await asyncio.sleep(1.2)
        rest = [batch async for batch in gathered]
    assert flat([first, *rest])[-1].kind is Kind.DONE


async def test_a_bug_of_the_upstream_is_internal(source, caplog):
    frames = flat(await gather(source_of(generate([chunk("a"), 5]))))
    assert frames[-1].data["code"] == "internal"


# The outbox


async def test_an_outbox_gives_what_has_gathered_and_then_the_end():
    outbox = Outbox(asyncio.get_running_loop())
    one, two = Frame(1, Kind.TEXT, {"text": "a"}), Frame(2, Kind.DONE, {})
    outbox.put(one)
    outbox.put(two)
    outbox.end()
    assert (outbox.take(), outbox.is_silent) == ([one, two], False)
    assert (outbox.take(), outbox.is_ended) == ([], True)
    outbox.put(one)
    assert outbox.take() == []


async def test_an_outbox_wakes_its_reader():
    loop = asyncio.get_running_loop()
    outbox = Outbox(loop)
    loop.call_later(0.02, outbox.put, Frame(1, Kind.TEXT, {"text": "a"}))
    assert outbox.is_silent
    await outbox.news(WAIT)
    assert len(outbox.take()) == 1
    outbox.close()


async def test_an_outbox_has_room_when_its_reader_took_something():
    loop = asyncio.get_running_loop()
    outbox = Outbox(loop)
    outbox.put(Frame(1, Kind.TEXT, {"text": "a"}))
    assert not outbox.is_full
    outbox.put(Frame(2, Kind.TEXT, {"text": "a" * CAPACITY}))
    assert outbox.is_full
    assert await outbox.room(0.02) is False
    waiting = asyncio.create_task(outbox.room(WAIT))
    await asyncio.sleep(0)
    assert len(outbox.take()) == 2
    assert (await waiting, outbox.is_full) == (True, False)
