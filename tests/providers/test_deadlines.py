"""Deadlines, with short times: counted from the last token, and never against the reader's time."""

import asyncio
import time
from collections.abc import Iterable

import pytest

from chatstream.core.outcomes import RunError
from chatstream.providers.deadlines import Deadlines, LazyTimer, TokenWatch

SHORT, LONG = 0.05, 30.0


async def expire(deadlines: Deadlines, *steps: str | float) -> tuple[str, str]:
    """Take steps under a watch (a number is a wait), then wait; return the error's code and words.

    "ping" is a batch without a token.
    """
    with pytest.raises(RunError) as caught:
        await walk(deadlines, (*steps, LONG))
    assert asyncio.current_task().cancelling() == 0
    return caught.value.code, caught.value.detail


async def walk(deadlines: Deadlines, steps: Iterable[str | float]) -> None:
    async with TokenWatch(deadlines) as watch:
        for step in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif step == "ping":
                watch.pause()
                watch.resume()
            else:
                getattr(watch, step)()


def timeout_of(what: str) -> tuple[str, str]:
    return "upstream_timeout", f"no {what} in time"


async def test_no_first_token():
    assert await expire(Deadlines(SHORT, LONG, LONG)) == timeout_of("first token")


async def test_no_next_token():
    steps = ["token", "pause", "resume"]
    assert await expire(Deadlines(LONG, SHORT, LONG), *steps) == timeout_of("next token")


async def test_pings_are_no_tokens():
    began = time.monotonic()
    pings = ["ping", 0.01] * 500
    assert await expire(Deadlines(SHORT, LONG, LONG), *pings) == timeout_of("first token")
    steps = ["token", "pause", "resume", *pings]
    assert await expire(Deadlines(LONG, SHORT, LONG), *steps) == timeout_of("next token")
    assert time.monotonic() - began < 4


async def test_tokens_put_the_deadline_off():
    deadlines = Deadlines(first_token=LONG, token=0.3, run=LONG)
    async with TokenWatch(deadlines) as watch:
        for _ in range(12):
            watch.token()
            watch.pause()
            watch.resume()
            await asyncio.sleep(0.05)


async def test_the_readers_time_does_not_count():
    deadlines = Deadlines(SHORT, SHORT, LONG)
    async with TokenWatch(deadlines) as watch:
        watch.token()
        watch.pause()
        await asyncio.sleep(4 * SHORT)
        watch.resume()
    assert not asyncio.current_task().cancelling()


async def test_after_the_readers_time_the_deadline_counts_on():
    steps = ["token", "pause", 3 * SHORT, "resume"]
    assert await expire(Deadlines(SHORT, SHORT, LONG), *steps) == timeout_of("next token")


async def test_tokens_for_ever_meet_the_end_of_the_run():
    steps = ["token", "pause", "resume", 0.01] * 500
    assert await expire(Deadlines(LONG, LONG, SHORT), *steps) == timeout_of("end of the answer")


async def test_the_readers_time_counts_for_the_run():
    steps = ["token", "pause", 3 * SHORT, "resume"]
    found = await expire(Deadlines(LONG, LONG, SHORT), *steps)
    assert found == timeout_of("end of the answer")


async def test_after_the_finish_reason_only_a_moment_is_waited():
    deadlines = Deadlines(LONG, LONG, LONG, after_finish=SHORT)
    steps = ["token", "finish", "pause", "resume"]
    assert await expire(deadlines, *steps) == timeout_of("end of the stream")


async def test_a_watch_that_was_left_in_time_never_fires():
    async with TokenWatch(Deadlines(SHORT, SHORT, SHORT)):
        pass
    await asyncio.sleep(3 * SHORT)


async def test_an_error_within_passes():
    with pytest.raises(ValueError, match="mine"):
        async with TokenWatch(Deadlines()):
            raise ValueError("mine")


async def test_a_cancelling_from_outside_is_no_timeout():
    async def watched():
        async with TokenWatch(Deadlines(LONG, LONG, LONG)):
            await asyncio.sleep(LONG)

    task = asyncio.create_task(watched())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelling_from_outside_wins_over_a_timeout_at_the_same_time():
    async def watched():
        async with TokenWatch(Deadlines(SHORT, LONG, LONG)) as watch:
            try:
                await asyncio.sleep(LONG)
            finally:
                task.cancel()
                assert watch

    task = asyncio.create_task(watched())
    with pytest.raises(asyncio.CancelledError):
        await task


# LazyTimer


async def fired_after(timer_of, *, at_least: float) -> None:
    loop = asyncio.get_running_loop()
    fired = loop.create_future()
    began = loop.time()
    timer_of(loop, lambda: fired.set_result(loop.time()))
    at = await asyncio.wait_for(fired, 5)
    assert at - began >= at_least - 0.005


async def test_a_timer_calls_back_when_it_is_due():
    await fired_after(
        lambda loop, call: LazyTimer(loop, call).set(loop.time() + 0.03), at_least=0.03
    )


async def test_a_timer_moved_to_later_calls_back_then_and_once():
    calls = []

    def moved(loop, call):
        timer = LazyTimer(loop, lambda: (calls.append(1), call()))
        for n in range(10):
            timer.set(loop.time() + 0.01 * n)
        timer.set(loop.time() + 0.1)

    await fired_after(moved, at_least=0.1)
    await asyncio.sleep(0.05)
    assert calls == [1]


async def test_a_timer_moved_to_earlier_calls_back_then():
    def moved(loop, call):
        timer = LazyTimer(loop, call)
        timer.set(loop.time() + LONG)
        timer.set(loop.time() + 0.02)

    await fired_after(moved, at_least=0.02)


async def test_a_cancelled_timer_is_silent_and_can_be_set_again():
    loop = asyncio.get_running_loop()
    calls = []
    timer = LazyTimer(loop, lambda: calls.append(1))
    timer.set(loop.time() + 0.01)
    timer.cancel()
    timer.cancel()
    await asyncio.sleep(0.05)
    assert calls == []
    timer.set(loop.time())
    await asyncio.sleep(0.02)
    timer.set(loop.time())
    await asyncio.sleep(0.02)
    assert calls == [1, 1]


async def test_a_token_makes_no_timer():
    loop = asyncio.get_running_loop()
    timer = LazyTimer(loop, lambda: None)
    timer.set(loop.time() + LONG)
    handle = timer._handle
    for n in range(1000):
        timer.set(loop.time() + LONG + n)
    assert timer._handle is handle
    timer.cancel()
