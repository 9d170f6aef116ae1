"""CPU from the call until the request has left: our provider against the package's ``create()``.

``python -m tests.bench.request_cost CORE`` prints JSON, in milliseconds. Both run in this process
on asyncio's own loop, in turn, on connections kept alive; the request has left when the last
write to its socket returns, which is watched on asyncio's transport, below every HTTP library.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from asyncio import selector_events
from collections.abc import Awaitable, Callable
from typing import Any

from .build import tool
from .servers import conversation, free_port

ROUNDS = 60
MODEL = "bench-c1"

left = 0  # process CPU time, ns, when something was last written to a socket


def watch_writes() -> None:
    """Note the CPU time after each write to a socket."""
    transport: Any = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    for name in ("write", "writelines"):
        original = getattr(transport, name)

        def watched(self: Any, data: Any, original: Any = original) -> None:
            global left
            original(self, data)
            left = time.process_time_ns()

        setattr(transport, name, watched)


async def cost(ask: Callable[[], Awaitable[None]]) -> float:
    """Return the CPU milliseconds from calling ``ask`` until its request has left."""
    begin = time.process_time_ns()
    await ask()
    return (left - begin) / 1e6


async def compare(messages: int) -> dict[str, float]:
    """Return the median cost of each way to ask, with a history of so many messages."""
    from openai import AsyncOpenAI

    from chatstream.core.requests import RunRequest
    from chatstream.providers import get_provider

    history = conversation(messages)
    provider = get_provider("default")
    client = AsyncOpenAI(base_url=os.environ["BENCH_UPSTREAM"], api_key="bench")

    async def ours() -> None:
        async with provider.aopen(RunRequest(messages=history, model=MODEL)) as batches:
            async for _ in batches:
                pass

    async def package() -> None:
        stream = await client.chat.completions.create(
            model=MODEL,
            messages=history,  # type: ignore[arg-type]
            stream=True,
        )
        async for _ in stream:
            pass

    samples: dict[str, list[float]] = {"ours": [], "package": []}
    for turn in range(ROUNDS + 5):
        for name, ask in (("ours", ours), ("package", package)):
            spent = await cost(ask)
            if turn >= 5:
                samples[name].append(spent)
    await client.close()
    return {name: statistics.median(values) for name, values in samples.items()}


def main() -> None:
    """Start an upstream and print ``{"1": {"ours": ms, "package": ms}, "40": …}``."""
    own = int(sys.argv[1])
    port = free_port()
    others = os.sched_getaffinity(0) - {own} or {own}
    upstream = subprocess.Popen(
        [tool("upstream"), str(port)], preexec_fn=lambda: os.sched_setaffinity(0, others)
    )
    try:
        os.sched_setaffinity(0, {own})
        os.environ["BENCH_UPSTREAM"] = f"http://127.0.0.1:{port}/v1"
        from . import site  # noqa: F401  configures Django

        watch_writes()
        print(json.dumps({str(n): asyncio.run(compare(n)) for n in (1, 40)}))
    finally:
        upstream.terminate()
        upstream.wait(5)


if __name__ == "__main__":
    main()
