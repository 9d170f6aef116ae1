"""Many open streams on one process and SQLite: ``python -m tests.bench.open_runs``.

One uvicorn process with the demo's database settings serves an ordinary request of the ORM (the
list of conversations) and a small write (a new one), again and again, alone and then beside many
streams of runs. Prints counts, and the p95 of both in milliseconds. The upstream and the readers
are asyncio in this process; who probes is a process of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import time
from collections.abc import Coroutine
from dataclasses import asdict, dataclass
from typing import Any

from tests.behaviours import DONE, ROLE, STOP, chunk, event
from tests.reader import Answer, Visitor
from tests.servers import Server, Site

from . import procfs

__all__ = ["Result", "measure"]

PROBE = "/chat/conversations/"
RAMP = 4.0  # seconds in which the streams are opened
ALONE = 4.0  # seconds of probing without streams


@dataclass
class Result:
    """What came of it; times in milliseconds. ``stored`` counts runs whose log is in order."""

    streams: int
    whole: int
    requests: int
    stored: int
    locked: int
    tracebacks: int
    reads: int
    read_p95: float
    read_p95_alone: float
    write_p95: float
    write_p95_alone: float
    busy: float  # of a core, the server's share while both are at work
    starved: float  # for so much of the time the server was ready to run, and had no core


class PacedUpstream:
    """Says ``tokens`` words to everybody, ``pause`` seconds apart."""

    def __init__(self, tokens: int, pause: float) -> None:
        self.tokens = tokens
        self.pause = pause
        self.requests = 0

    @property
    def text(self) -> str:
        return "".join(f"word{number} " for number in range(self.tokens))

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.requests += 1
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(size)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
        writer.write(b"Connection: close\r\n\r\n" + event(ROLE))
        for number in range(self.tokens):
            await asyncio.sleep(self.pause)
            writer.write(event(chunk(f"word{number} ")))
        writer.write(event(STOP) + DONE)
        await writer.drain()
        writer.close()


async def measure(streams: int = 500, rate: float = 4.0, seconds: float = 12.0) -> Result:
    """Open so many streams of ``rate`` tokens a second each, for so many seconds."""
    paced = PacedUpstream(int(rate * seconds), 1 / rate)
    listener = await asyncio.start_server(paced.answer, "127.0.0.1", 0, backlog=1024)
    url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    settings = {"MAX_OPEN_RUNS": 2 * streams, "HEARTBEAT": 15.0}
    patience = {"first_token_timeout": 60, "token_timeout": 60, "run_timeout": 600}
    server = await asyncio.to_thread(
        Server("uvicorn", Site(url, settings=settings, options=patience)).__enter__
    )
    try:
        return await _measure(server, paced, streams, seconds)
    finally:
        await asyncio.to_thread(server.__exit__)
        listener.close()


async def _measure(server: Server, paced: PacedUpstream, streams: int, seconds: float) -> Result:
    visitor = await asyncio.to_thread(Visitor, server.port)
    alone = await probe(server.port, visitor, ALONE)
    opened = [
        asyncio.create_task(after(RAMP * number / streams, read_run(server.port, visitor)))
        for number in range(streams)
    ]
    await asyncio.sleep(RAMP)
    pid, span = server.process.pid, seconds - RAMP - 1
    cpu, waited = procfs.cpu_seconds(pid), procfs.waited_seconds(pid)
    beside = await probe(server.port, visitor, span)
    cpu, waited = procfs.cpu_seconds(pid) - cpu, procfs.waited_seconds(pid) - waited
    answers = await asyncio.gather(*opened)
    whole = [answer for answer in answers if (answer.ending, answer.text) == ("done", paced.text)]
    log = server.log
    return Result(
        streams=streams,
        whole=len(whole),
        requests=paced.requests,
        stored=await asyncio.to_thread(stored, visitor, whole),
        locked=log.count("database is locked"),
        tracebacks=log.count("Traceback"),
        reads=len(beside["GET"]),
        read_p95=p95(beside["GET"]),
        read_p95_alone=p95(alone["GET"]),
        write_p95=p95(beside["POST"]),
        write_p95_alone=p95(alone["POST"]),
        busy=round(cpu / span, 2),
        starved=round(waited / span, 2),
    )


async def after(seconds: float, coroutine: Coroutine[Any, Any, Answer]) -> Answer:
    await asyncio.sleep(seconds)
    return await coroutine


async def read_run(port: int, visitor: Visitor) -> Answer:
    """Start a run by POST, and read it to its end; HTTP/1.0, so that the body is unchunked."""
    body = json.dumps({"prompt": "hi"})
    head = [
        "POST /chat/stream/ HTTP/1.0",
        *(f"{name}: {value}" for name, value in headers_of(port, visitor).items()),
        f"Content-Length: {len(body)}",
    ]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([*head, "", body]).encode())
    received = await reader.read(-1)
    writer.close()
    status, _, body_received = received.partition(b"\r\n\r\n")
    return Answer(status=int(status.split(b" ")[1]), body=body_received, is_whole=True)


def stored(visitor: Visitor, answers: list[Answer]) -> int:
    """Return how many of the answers the server tells again, frame by frame."""
    runs = {answer.events[0].id.split(":")[0]: answer for answer in answers}
    return sum(
        visitor.get(f"/chat/runs/{run}/stream/").events == answer.events
        for run, answer in runs.items()
    )


def headers_of(port: int, visitor: Visitor) -> dict[str, str]:
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    origin = f"http://127.0.0.1:{port}"
    given = {"Cookie": cookies, "Content-Type": "application/json", "Origin": origin}
    return {**given, "Host": f"127.0.0.1:{port}", "Sec-Fetch-Site": "same-origin"}


# Probing ----------------------------------------------------------------------------------------


async def probe(port: int, visitor: Visitor, seconds: float) -> dict[str, list[float]]:
    """Return the times of reads and writes, in milliseconds, as another process takes them."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __spec__.name if __spec__ else __name__, "--probe"),
        json.dumps({"port": port, "headers": headers_of(port, visitor), "seconds": seconds}),
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return dict(json.loads(out))


def take_times(port: int, headers: dict[str, str], seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {"GET": [], "POST": []}
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for method, body in (("GET", None), ("GET", None), ("GET", None), ("POST", "{}")):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            began = time.perf_counter()
            connection.request(method, PROBE, body, headers)
            response = connection.getresponse()
            response.read()
            times[method].append((time.perf_counter() - began) * 1000)
            assert response.status in (200, 201), response.status
            connection.close()
            time.sleep(0.01)
    return times


def p95(times: list[float]) -> float:
    return round(sorted(times)[int(len(times) * 0.95)], 1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.open_runs", description=__doc__)
    parser.add_argument("--streams", type=int, default=500)
    parser.add_argument("--rate", type=float, default=4.0, help="tokens a second of each stream")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--probe", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.probe:
        print(json.dumps(take_times(**json.loads(options.probe))))
        return
    result = asyncio.run(measure(options.streams, options.rate, options.seconds))
    print(json.dumps(asdict(result), indent=1))


if __name__ == "__main__":
    main()
