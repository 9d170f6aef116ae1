"""Turns a run's JSON into a table in the terminal, ``docs/performance.md`` and its plot."""

from __future__ import annotations

import os
import platform
import re
import statistics
import subprocess
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from . import plot
from .build import HERE, ROOT, Missing
from .servers import SERVERS

__all__ = ["Goal", "goals", "machine", "text", "versions", "write_docs"]

Results = dict[str, Any]
Figures = dict[str, float]

OURS = "chatstream"
RUNS = "chatstream-runs"
DOCS = ROOT / "docs"
_VERSIONS = ("django", "djangorestframework", "openai", "httpx2", "msgspec", "uvicorn",
             "uvloop", "httptools", "gunicorn")  # fmt: skip
_PEER_VERSIONS = ("fastapi", "starlette", "pydantic", "sse-starlette", "openai", "httpx2",
                  "uvicorn", "uvloop", "httptools")  # fmt: skip


# Where it was measured -----------------------------------------------------------------------


def machine() -> dict[str, str]:
    """Return what the figures depend on: processor, cores, memory, system, Python."""
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "Processor": model[1].strip() if model else platform.machine(),
        "Cores": f"{len(os.sched_getaffinity(0))}",
        "Memory": f"{memory:.0f} GiB",
        "System": "Linux " + ".".join(platform.release().split(".")[:2]),
        "Python": platform.python_version(),
    }


def versions() -> dict[str, dict[str, str]]:
    """Return the versions of what was measured: ours, and the peers' own environment."""
    ours = {name: metadata.version(name) for name in _VERSIONS}
    pins = dict(
        line.split("==") for line in (HERE / "requirements.txt").read_text().split() if "==" in line
    )
    peers = {name: pins[name] for name in _PEER_VERSIONS}
    try:
        command = [SERVERS["nginx"].find_program(), "-v"]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        peers["nginx"] = answer.rpartition("/")[2].strip()
    except Missing:
        pass
    return {"ours": ours, "peers": peers}


# The figures ---------------------------------------------------------------------------------


def medians(results: Results) -> dict[tuple[str, str], Figures]:
    """Return (scenario, server) -> the median of each figure over the repeats."""
    gathered: dict[tuple[str, str], list[Figures]] = {}
    for row in results["runs"]:
        gathered.setdefault((row["scenario"], row["server"]), []).append(row["figures"])
    return {
        key: {
            name: statistics.median(row[name] for row in rows)
            for name, value in rows[0].items()
            if value is not None
        }
        for key, rows in gathered.items()
    }


@dataclass(frozen=True)
class Goal:
    what: str
    limit: str
    measured: str
    met: bool


def goals(results: Results) -> list[Goal]:
    """Return the goals for whose figures all was measured."""
    found = medians(results)
    judged = []
    makes = (_unpaced, _paced, _paced_nginx, _delivered, _set_up, _memory, _threads, _open)
    for make in (*makes, _runs, _runs_fastapi, _runs_delivered):
        try:
            judged.append(make(found, results))
        except KeyError:  # a scenario or a server was left out
            continue
    return judged


Medians = dict[tuple[str, str], Figures]


def _ratio(found: Medians, scenario: str, peer: str) -> float:
    ours, other = found[scenario, OURS], found[scenario, peer]
    return ours["us_per_chunk"] / other["us_per_chunk"]


def _unpaced(found: Medians, results: Results) -> Goal:
    share = _ratio(found, "unpaced", "fastapi")
    what = "CPU per chunk, no delay, against FastAPI + openai"
    return Goal(what, "at most 1/25", f"1/{1 / share:.1f}", share <= 1 / 25)


def _paced(found: Medians, results: Results) -> Goal:
    share = _ratio(found, "paced", "fastapi")
    what = "CPU per chunk, 200 streams at 50 tokens/s, against FastAPI + openai"
    return Goal(what, "at most 1/3.5", f"1/{1 / share:.1f}", share <= 1 / 3.5)


def _paced_nginx(found: Medians, results: Results) -> Goal:
    share = _ratio(found, "paced", "nginx")
    what = "CPU per chunk, 200 streams at 50 tokens/s, against nginx's raw relay"
    return Goal(what, "at most 4 times", f"{share:.1f} times", share <= 4)


def _delivered(found: Medians, results: Results) -> Goal:
    key = ("paced", OURS)
    best = found[key]["delivered"]  # KeyError: it was not measured
    rows = [r["figures"] for r in results["runs"] if (r["scenario"], r["server"]) == key]
    share = min((row["delivered"] for row in rows), default=best)
    what = "Tokens delivered, 200 streams at 50 tokens/s"
    return Goal(what, "all", f"{int(share * 10_000) / 100:g} %", share == 1)


def _runs(found: Medians, results: Results) -> Goal:
    share = found["paced", RUNS]["us_per_chunk"] / found["paced", OURS]["us_per_chunk"]
    what = "CPU per chunk of runs, which are kept in SQLite, against the view that keeps nothing"
    return Goal(what, "at most 2.5 times", f"{share:.1f} times", share <= 2.5)


def _runs_fastapi(found: Medians, results: Results) -> Goal:
    share = found["paced", RUNS]["us_per_chunk"] / found["paced", "fastapi"]["us_per_chunk"]
    what = "CPU per chunk of runs, against FastAPI + openai, which keeps nothing"
    return Goal(what, "at most 1/2", f"1/{1 / share:.1f}", share <= 1 / 2)


def _runs_delivered(found: Medians, results: Results) -> Goal:
    share = found["paced", RUNS]["delivered"]
    what = "Tokens of runs delivered, 200 streams at 50 tokens/s"
    return Goal(what, "all", f"{int(share * 10_000) / 100:g} %", share == 1)


def _set_up(found: Medians, results: Results) -> Goal:
    cost = results["request_cost"]["40"]
    share = cost["ours"] / cost["package"]
    what = "CPU of a request's set-up with 40 messages, against the package's `create()`"
    return Goal(what, "at most 1/5", f"1/{1 / share:.1f}", share <= 1 / 5)


def _memory(found: Medians, results: Results) -> Goal:
    each = [found[f"memory-{n}", OURS]["kib_per_stream"] for n in (500, 2000)]
    what = "Memory of an open stream (500 and 2,000 open)"
    measured = " and ".join(f"{kib:.1f}" for kib in each)
    return Goal(what, "at most 35 KiB", f"{measured} KiB", max(each) <= 35)


def _threads(found: Medians, results: Results) -> Goal:
    figures = found["memory-2000", OURS]
    # A few threads are the process's own (asgiref's, a resolver's), however many streams there are.
    grown = figures["threads_per_stream"] * figures["streams"]
    what = "Threads for an open stream"
    return Goal(what, "none", f"{figures['threads']:.0f} in all with 2,000 open", grown <= 40)


def _open(found: Medians, results: Results) -> Goal:
    got = found["memory-2000", OURS]["got_first"]
    return Goal("Open streams in one process", "2,000", f"{got:,.0f}", got == 2000)


# Tables --------------------------------------------------------------------------------------

Column = tuple[str, str, Callable[[float], str]]


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _percent(value: float) -> str:
    # Rounded down: 100 % means every token.
    return f"{int(value * 1000) / 10:g} %"


_RELAY: list[Column] = [
    ("CPU per chunk, µs", "us_per_chunk", _number),
    ("Chunks per second and core", "chunks_per_core_s", _number),
]
_PACED: list[Column] = [
    ("CPU per chunk, µs", "us_per_chunk", _number),
    ("Streams per core", "streams_per_core", _number),
    ("Tokens delivered", "delivered", _percent),
    ("Token latency, median, ms", "token_p50_ms", _number),
    ("99 %, ms", "token_p99_ms", _number),
]
_MEMORY: list[Column] = [
    ("Streams that began", "got_first", _count),
    ("KiB per stream", "kib_per_stream", _number),
    ("Threads in all", "threads", _count),
    ("Process, MiB", "open_mib", _number),
]
_REQUEST: list[Column] = [
    ("CPU per request, ms", "cpu_ms", _number),
    ("First token, median, ms", "first_token_p50_ms", _number),
]


def table(found: Medians, scenario: str, columns: list[Column], against: list[str]) -> str:
    """Return a Markdown table of one scenario; ``against`` adds ratios of CPU per chunk."""
    heads = [
        "Server",
        *(title for title, _, _ in columns),
        *(f"Ratio to {peer}" for peer in against),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|---|" + "---:|" * (len(heads) - 1)]
    for name, server in SERVERS.items():
        figures = found.get((scenario, name))
        if figures is None:
            continue
        cells = [show(figures[key]) if key in figures else "" for _, key, show in columns]
        for peer in against:
            base = found.get((scenario, peer))
            ratio = figures["us_per_chunk"] / base["us_per_chunk"] if base else 0
            cells.append(f"{ratio:.3f}" if 0 < ratio < 0.1 else f"{ratio:.2f}" if ratio else "")
        label = f"**{server.label}**" if server.is_ours else server.label
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _goals_table(results: Results) -> str:
    lines = ["| Goal | Limit | Measured | |", "|---|---:|---:|---|"]
    for goal in goals(results):
        verdict = "met" if goal.met else "**not met**"
        lines.append(f"| {goal.what} | {goal.limit} | {goal.measured} | {verdict} |")
    return "\n".join(lines)


def _cost_table(results: Results) -> str:
    lines = [
        "| Messages | chatstream's provider, ms | `create()`, ms | Ratio |",
        "|---:|---:|---:|---:|",
    ]
    for messages, cost in results["request_cost"].items():
        ours, package = cost["ours"], cost["package"]
        lines.append(f"| {messages} | {ours:.2f} | {package:.2f} | 1/{package / ours:.1f} |")
    return "\n".join(lines)


def _section_tables(results: Results) -> dict[str, str]:
    found = medians(results)
    return {
        "goals": _goals_table(results),
        "unpaced": table(found, "unpaced", _RELAY, ["fastapi", "nginx"]),
        "paced": table(found, "paced", _PACED, ["fastapi", "nginx"]),
        "memory-500": table(found, "memory-500", _MEMORY, []),
        "memory-2000": table(found, "memory-2000", _MEMORY, []),
        "request-1": table(found, "request-1", _REQUEST, []),
        "request-40": table(found, "request-40", _REQUEST, []),
        "cost": _cost_table(results),
    }


def disturbance(results: Results) -> str:
    """Return remarks if others took the servers' core in this run, else ""."""
    remarks = filter(None, [_stolen(results), _busy(results)])
    return "\n".join(f"{textwrap.fill(remark, 100)}\n" for remark in remarks)


def _stolen(results: Results) -> str:
    rows = [row["figures"] for row in results["runs"] if "stolen" in row["figures"]]
    again = sum(figures["tries"] - 1 for figures in rows)
    if not again:
        return ""
    worst = max(figures["stolen"] for figures in rows)
    return (
        "The host of this virtual machine took the servers' core away now and then. "
        f"{again} of {len(rows) + again} measurements at a model's pace were made again for that, "
        f"and of each the one was kept during which it took least: {worst * 100:.0f} % of the "
        "time at most."
    )


def _busy(results: Results) -> str:
    found = medians(results)
    # Of our own server on the event loop: those with many threads also wait for each other.
    shares = [
        found[s, OURS].get("disturbed", 0) for s in ("unpaced", "paced") if (s, OURS) in found
    ]
    worst = max(shares, default=0)
    if worst < 0.2:
        return ""
    return (
        f"**The machine was busy with other work: for each second of CPU, our server waited "
        f"{worst:.1f} s for its core.** Delivery and latencies say little in this run, "
        f"and CPU per chunk is distorted; repeat it on an idle machine."
    )


def text(results: Results) -> str:
    """Return all tables, for the terminal."""
    tables = _section_tables(results).items()
    lines = [f"\n{title}\n\n{content}" for title, content in tables if content.count("\n") > 1]
    return "\n".join(
        [
            *lines,
            "",
            disturbance(results),
            *(f"FAILED {failure}" for failure in results["failures"]),
        ]
    )


# The document --------------------------------------------------------------------------------

_DOCUMENT = """\
# Performance

<!-- Written by `make bench`; edit tests/bench/report.py instead. -->

What it costs to relay a model's answer, measured on {date}: our view, the frameworks that people
would otherwise use, and nginx, which only copies bytes, all in the same run.

{disturbance}
{goals}

![CPU per relayed chunk, and memory per open stream](performance.svg)

The bold rows are ours. All other Python servers use the openai package's own iterator, as its
documentation shows. The ratios divide a row's CPU per chunk by FastAPI's and by nginx's.

## Relaying, as fast as it goes

50 streams at once, 2,000 chunks each, every chunk in a TCP write of its own, no delay between
them. This is what an answer from a fast or cached model costs, and how much room is left.

{unpaced}

## Relaying at the pace of a model

200 streams at 50 tokens a second each, for ten seconds: 10,000 chunks a second. The set-up of the
200 requests is in the figures. Latency is from the upstream's
write of a token to the client's read of it. A server that cannot keep up delivers less than
100 % in the time, and its cost per chunk looks *better* than it is, for its backlog comes in larger
pieces. "Streams per core" follows from the cost per chunk.

{paced}

At this pace nearly every chunk is a read and a write of its own, and most of the cost is system
calls and the event loop's turn, which nginx pays too.

## Open streams

Streams that have sent three tokens and then stay silent: what an open tab costs. Memory is the
growth of the proportional set size (PSS) of the server's processes. `gthread` needs a thread for
each open stream by its nature, so it is left out where 2,000 are open.

500 open:

{memory-500}

2,000 open. The openai package's default client stops at 1,000 connections; where not all streams
began, memory per stream would mean nothing:

{memory-2000}

## A request

One request after the other, five tokens each, on connections kept alive; with one message, and
with a history of 40 messages of about 250 characters.

One message:

{request-1}

40 messages:

{request-40}

CPU from the call until the request has left, in one process: the provider against the package's
`create(messages=…)`, which validates every message. That is also why a plain view that calls
`create(messages=…)` itself pays for a long history (docs/dependencies.md).

{cost}

## How it was measured

- One server at a time, one process, on a core of its own; the upstream and the load client
  (`tests/bench/upstream.c`, `tests/bench/load.c`) share the other. Everything runs on loopback.
- CPU is user and system time of the server's process tree, from `/proc`: unlike wall-clock times,
  it does not depend much on what else the machine does. {repeats}; the
  memory of an open stream is measured once.
- All servers relay the same text; `python -m tests.bench.run --quick` checks that it arrives
  byte for byte.
- Every Python server runs with `MALLOC_ARENA_MAX=2`, as [deploy.md](deploy.md) advises.
- "Extra `fast`": msgspec, the httptools transport under the openai package, and uvloop.

| | |
|---|---|
{machine}
| Versions | {ours} |
| The peers' environment | {peers} |

## Repeat it

    make bench

takes half an hour, needs a C compiler and, for its row, nginx, and writes this page.
`python -m tests.bench.run --help` lists the options: single servers and scenarios, more repeats.
"""


def write_docs(results: Results) -> None:
    """Write docs/performance.md and docs/performance.svg."""
    listed = {
        name: ", ".join(f"{package} {version}" for package, version in found.items())
        for name, found in results["versions"].items()
    }
    where = "\n".join(f"| {name} | {value} |" for name, value in results["machine"].items())
    fields = _section_tables(results) | listed
    fields |= {"disturbance": disturbance(results)}
    repeats = results["repeats"]
    often = "One run of each" if repeats == 1 else f"Medians of {repeats}, in rotated order"
    fields |= {"machine": where, "date": results["date"], "repeats": often}
    document = re.sub(r"\{([\w-]+)\}", lambda match: fields[match[1]], _DOCUMENT)
    DOCS.mkdir(exist_ok=True)
    (DOCS / "performance.md").write_text(document.replace("\n\n\n", "\n\n"))
    (DOCS / "performance.svg").write_text(plot.svg(_panels(medians(results))))


def _panels(found: Medians) -> list[plot.Panel]:
    wanted = [
        ("CPU per chunk, no delay (µs)", "unpaced", "us_per_chunk"),
        ("CPU per chunk, 200 streams at 50 tokens/s (µs)", "paced", "us_per_chunk"),
        ("Memory per open stream, 500 open (KiB)", "memory-500", "kib_per_stream"),
    ]
    return [
        plot.Panel(
            title,
            [
                plot.Bar(server.label, found[scenario, name][figure], server.is_ours)
                for name, server in SERVERS.items()
                if figure in found.get((scenario, name), {})
            ],
        )
        for title, scenario, figure in wanted
    ]
