"""Correctness under load, in about a minute, with no timed figure: for CI.

Every token of every stream arrives; the text is the upstream's own, byte for byte, through every
server; our open streams hold no thread, and a reader that left closes its upstream, but for runs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

from . import procfs
from .servers import SERVERS, Running

__all__ = ["faults"]

HELD = 100  # streams held open
FEW = 8  # threads that a process may start for other reasons than a stream: asgiref's, a resolver's


def faults(name: str) -> list[str]:
    """Return what is wrong with a server; ``[]`` for a good one."""
    with Running(name, threads=HELD + 20) as running:
        found = [*_text(running), *_delivery(running)]
        if SERVERS[name].is_ours and not SERVERS[name].is_threaded:
            found += _held(running)
    return found


def _text(running: Running) -> Iterator[str]:
    for model in ("bench-c103-mmix", "bench-c103-b7-mmix"):
        want = running.load(model, direct=True, n=10, total=20)
        got = running.load(model, n=10, total=20)
        if got["ok"] != 20:
            yield f"{model}: {got['ok']} of 20 streams ended well: {got}"
        elif (got["hash"], got["chars"]) != (want["hash"], want["chars"]):
            yield f"{model}: the text differs from the upstream's"


def _delivery(running: Running) -> Iterator[str]:
    fast = running.load("bench-c1000", n=20)
    if fast["ok"] != 20 or fast["chars"] != 20 * 1000 * 5:
        yield f"unpaced: {fast['ok']} of 20 streams, {fast['chars']} of 100000 characters: {fast}"
    paced = running.load("bench-c50-d20000-mstamp", n=40, ramp_ms=500)
    if paced["ok"] != 40 or paced["tokens"] != 40 * 50:
        yield f"paced: {paced['ok']} of 40 streams, {paced['tokens']} of 2000 tokens: {paced}"


def _held(running: Running) -> Iterator[str]:
    threads, aborted = procfs.threads(running.pid), running.upstream_stats()["aborted"]
    with running.start_load("bench-c3-h1", n=HELD, ramp_ms=500, hold_s=8) as process:
        end = time.monotonic() + 6
        time.sleep(2)  # before, a request may still have its thread
        while (grown := procfs.threads(running.pid) - threads) > FEW and time.monotonic() < end:
            time.sleep(0.1)
        result = json.loads(process.communicate()[0])
    if result["got_first"] != HELD:
        yield f"held open: {result['got_first']} of {HELD} streams began: {result}"
    if grown > FEW:
        yield f"held open: {HELD} streams took {grown} threads"
    if running.server.is_kept:
        return
    end = time.monotonic() + 5
    while (left := running.upstream_stats()["aborted"] - aborted) < HELD and time.monotonic() < end:
        time.sleep(0.1)
    if left < HELD:
        yield f"held open: of {HELD} readers that left, {left} closed their upstream"
