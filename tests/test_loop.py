"""The background loop: one per process, started on first use, and bounded when it runs ahead."""

import asyncio
import os
import threading
import time

import pytest

from chatstream.loop import AHEAD, BackgroundLoop, background_loop

WAIT = 10


@pytest.fixture(scope="module")
def loop():
    return BackgroundLoop()


def test_the_process_has_one_loop():
    assert background_loop() is background_loop()
    assert background_loop().get() is background_loop().get()


def test_it_runs_in_a_daemon_thread_and_gives_results_back(loop):
    async def where():
        await asyncio.sleep(0)
        return threading.current_thread()

    thread = loop.submit(where()).result(WAIT)
    assert (thread.name, thread.daemon) == ("chatstream-loop", True)
    assert thread is not threading.current_thread()


def test_many_threads_start_one_loop():
    fresh = BackgroundLoop()
    found = set()
    threads = [threading.Thread(target=lambda: found.add(fresh.get())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    assert len(found) == 1
    found.pop().call_soon_threadsafe(lambda: None)


async def count(to, noted=None):
    try:
        for n in range(to):
            if noted is not None:
                noted.append(n)
            yield n
            await asyncio.sleep(0)
    finally:
        if noted is not None:
            noted.append("closed")


def until(is_so) -> bool:
    end = time.monotonic() + WAIT
    while not is_so() and time.monotonic() < end:
        time.sleep(0.005)
    return is_so()


def test_an_async_generator_is_iterated_in_order_and_whole(loop):
    assert list(loop.iterate(count(1000))) == list(range(1000))
    assert list(loop.iterate(count(0))) == []


def test_a_slow_reader_holds_the_source_up(loop):
    noted: list = []
    items = loop.iterate(count(10_000, noted))
    next(items)
    assert until(lambda: len(noted) >= AHEAD)
    time.sleep(0.05)
    assert len(noted) <= AHEAD + 2
    assert list(items) == list(range(1, 10_000))


def test_closing_closes_the_source(loop):
    noted: list = []
    items = loop.iterate(count(10_000, noted))
    next(items)
    items.close()
    assert until(lambda: noted[-1] == "closed")


def test_closing_wakes_a_source_that_waits(loop):
    closed = threading.Event()

    async def hang():
        try:
            yield 1
            await asyncio.sleep(60)
        finally:
            closed.set()

    items = loop.iterate(hang())
    next(items)
    items.close()
    assert closed.wait(WAIT)


def test_an_exception_reaches_the_reader_after_the_items_before_it(loop):
    async def fails():
        yield 1
        raise ValueError("mine")

    items = loop.iterate(fails())
    assert next(items) == 1
    with pytest.raises(ValueError, match="mine"):
        next(items)


def test_two_readers_do_not_wait_for_each_other(loop):
    first, second = loop.iterate(count(500)), loop.iterate(count(500))
    assert list(zip(first, second, strict=True)) == [(n, n) for n in range(500)]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_starts_its_own_loop():
    background_loop().submit(asyncio.sleep(0)).result(WAIT)
    child = os.fork()
    if child == 0:
        try:
            background_loop().submit(asyncio.sleep(0)).result(WAIT)
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
