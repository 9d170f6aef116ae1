"""What is measured. Each scenario starts its own server and returns plain figures.

CPU is that of the server's process tree, from /proc: it survives a busy machine. Wall-clock
figures (latencies) do not, and compare only within one run.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from . import procfs
from .build import ROOT
from .servers import SERVERS, Running, cores

__all__ = ["SCENARIOS", "Figures", "measure", "request_cost"]

Figures = dict[str, Any]

CHUNK = 5  # characters of text in a plain chunk
TOKENS_PER_SECOND = 50
PACED_STREAMS = 200
PACED_SECONDS = 10
UNPACED_STREAMS = 50
UNPACED_LIMIT = 8  # seconds
REQUESTS = 200


def unpaced(name: str) -> Figures:
    """50 streams at once, 200 in all, 2,000 chunks each, as fast as they go; cut after 8 s."""
    with Running(name) as running:
        result = running.measured(
            "bench-c2000", n=UNPACED_STREAMS, total=4 * UNPACED_STREAMS, hold_s=UNPACED_LIMIT
        )
    chunks = result["chars"] / CHUNK
    us = result["cpu_s"] / chunks * 1e6
    return {
        "us_per_chunk": us,
        "chunks_per_core_s": 1e6 / us,
        "frames_per_chunk": result["frames"] / chunks,
        "bad": result["bad"],
        "disturbed": result["disturbed"],
    }


def paced(name: str) -> Figures:
    """200 streams at 50 tokens a second each for ten seconds, opened over one."""
    chunks = PACED_SECONDS * TOKENS_PER_SECOND
    pace = 1_000_000 // TOKENS_PER_SECOND
    with Running(name, threads=PACED_STREAMS + 20) as running:
        result = running.measured(
            f"bench-c{chunks}-d{pace}-mstamp",
            n=PACED_STREAMS,
            ramp_ms=1000,
            warm_ms=1500,
            hold_s=PACED_SECONDS + 3,
        )
    us = result["cpu_s"] / result["tokens"] * 1e6
    return {
        "us_per_chunk": us,
        "streams_per_core": 1e6 / us / TOKENS_PER_SECOND,
        "cores": result["cpu_s"] / result["wall_s"],
        "delivered": result["tokens"] / (chunks * PACED_STREAMS),
        "ok": result["ok"],
        "disturbed": result["disturbed"],
        "stolen": result["stolen"],
        "token_p50_ms": result["token_us"]["p50"] / 1e3,
        "token_p99_ms": result["token_us"]["p99"] / 1e3,
        "first_token_p50_ms": result["ttft_us"]["p50"] / 1e3,
    }


def memory(name: str, streams: int) -> Figures:
    """Streams that stay open, silent after three tokens: memory and threads of each."""
    with Running(name, threads=streams + 20) as running:
        running.load("bench-c20", n=50, total=100)  # what a process allocates once
        pss, threads = procfs.pss_kib(running.pid), procfs.threads(running.pid)
        begun = running.upstream_stats()["streams"]
        with running.start_load("bench-c3-h1", n=streams, ramp_ms=streams * 8) as process:
            _await_streams(running, begun + streams)
            pss_open, threads_open = procfs.pss_kib(running.pid), procfs.threads(running.pid)
            process.terminate()
            result = json.loads(process.communicate()[0])
    got = result["got_first"]
    is_whole = got == streams  # requests that wait for an upstream connection are no streams
    return {
        "streams": streams,
        "got_first": got,
        "kib_per_stream": (pss_open - pss) / got if is_whole else None,
        "threads_per_stream": (threads_open - threads) / streams,
        "threads": threads_open,
        "base_mib": pss / 1024,
        "open_mib": pss_open / 1024,
    }


def _await_streams(running: Running, count: int) -> None:
    """Wait until the upstream has begun so many streams, or no more come."""
    begun, changed = 0, time.monotonic()
    while begun < count and time.monotonic() < changed + 10:
        time.sleep(0.5)
        before, begun = begun, running.upstream_stats()["streams"]
        if begun != before:
            changed = time.monotonic()
    time.sleep(1)  # for the first tokens of the last


def request(name: str, messages: int) -> Figures:
    """One request after the other on one connection: the cost of a request of five tokens."""
    with Running(name) as running:
        running.load("bench-c5", messages=messages, n=1, total=20)
        result = running.measured("bench-c5", messages=messages, n=1, total=REQUESTS)
    return {
        "messages": messages,
        "cpu_ms": result["cpu_s"] / REQUESTS * 1e3,
        "first_token_p50_ms": result["ttft_us"]["p50"] / 1e3,
        "first_token_p99_ms": result["ttft_us"]["p99"] / 1e3,
        "ok": result["ok"],
    }


SCENARIOS: dict[str, Callable[[str], Figures]] = {
    "unpaced": unpaced,
    "paced": paced,
    "request-1": lambda name: request(name, 1),
    "request-40": lambda name: request(name, 40),
    "memory-500": lambda name: memory(name, 500),
    "memory-2000": lambda name: memory(name, 2000),
}


def measure(scenario: str, name: str) -> Figures | None:
    """Run a scenario on a server; None where it makes no sense."""
    if scenario == "memory-2000" and SERVERS[name].is_threaded:
        return None  # 2,000 threads are no way to serve, and nobody claims they were
    return SCENARIOS[scenario](name)


def request_cost() -> Figures:
    """Compare our request set-up with the openai package's, in a process of its own."""
    server_cores, _ = cores()
    argv = [sys.executable, "-m", "tests.bench.request_cost", str(min(server_cores))]
    output = subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout
    figures: Figures = json.loads(output)
    return figures
