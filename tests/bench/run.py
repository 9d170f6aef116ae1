"""Measure our servers and the peers in one run: ``python -m tests.bench.run``; ``make bench``.

One server at a time has a core to itself; the upstream and the load client share the rest. The
order rotates from repeat to repeat, and medians are reported. ``--quick`` measures nothing and
checks that every server delivers every token.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from . import report, scenarios, smoke
from .build import BUILD, Missing, build_tools, peers_python
from .servers import SERVERS

ONCE = {"memory-500", "memory-2000"}  # memory is the same each time
MAX_STOLEN = 0.1  # of the server's core; where the host takes more, it is measured again
TRIES = 3


def main() -> int:
    """Return the exit status: 1 for a server that failed, or a goal missed with ``--strict``."""
    options = parse()
    if options.report:
        results = json.loads(options.report.read_text())
    else:
        build_tools()
        peers_python()
        names = available(options.servers)
        if options.quick:
            return quick(names)
        results = run(names, options.scenarios, options.repeats)
        options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(report.text(results))
    if options.write_docs:
        report.write_docs(results)
    missed = [goal for goal in report.goals(results) if not goal.met]
    return int(bool(results["failures"]) or (options.strict and bool(missed)))


def parse() -> argparse.Namespace:
    def names_of(known: Any) -> Any:
        def parse_names(text: str) -> list[str]:
            names = text.split(",")
            if unknown := set(names) - set(known):
                raise argparse.ArgumentTypeError(f"unknown: {', '.join(sorted(unknown))}")
            return names

        return parse_names

    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="check correctness only, in about a minute")
    add("--servers", type=names_of(SERVERS), default=list(SERVERS), help=f"of {', '.join(SERVERS)}")
    known = scenarios.SCENARIOS
    add("--scenarios", type=names_of(known), default=list(known), help=f"of {', '.join(known)}")
    add("--repeats", type=int, default=3, help="of all but the memory scenarios (default: 3)")
    add("--out", type=Path, default=BUILD / "results.json", help="where the figures go, as JSON")
    add("--report", type=Path, metavar="JSON", help="measure nothing; report what a run wrote")
    add("--write-docs", action="store_true", help="write docs/performance.md and its plot")
    add("--strict", action="store_true", help="a goal that is missed is a failure")
    return parser.parse_args()


def available(names: list[str]) -> list[str]:
    """Return the servers whose program is there; say which are left out, or fail in CI."""
    kept = []
    for name in names:
        try:
            SERVERS[name].find_program()
            kept.append(name)
        except Missing as exc:
            if os.environ.get("CHATSTREAM_REQUIRE_SERVICES") == "1":
                raise SystemExit(f"{name}: {exc}") from None
            say(f"{name} is left out: {exc}")
    return kept


def quick(names: list[str]) -> int:
    """Check every server; print what is wrong."""
    failed = 0
    for name in names:
        try:
            found = smoke.faults(name)
        except RuntimeError as exc:  # it did not start
            found = [str(exc)]
        failed += bool(found)
        say(f"{name}: {'; '.join(found) or 'ok'}")
    return int(bool(failed))


def run(names: list[str], wanted: list[str], repeats: int) -> dict[str, Any]:
    """Measure; a server that fails in a scenario is named in ``failures`` and costs no other's."""
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    begin = time.monotonic()
    for repeat in range(repeats):
        for scenario in wanted:
            if repeat and scenario in ONCE:
                continue
            for name in rotated(names, repeat):
                try:
                    figures = measure(scenario, name)
                except (RuntimeError, ZeroDivisionError) as exc:
                    failures.append(f"{scenario}, {name}: {exc!r}")
                    say(f"FAILED {failures[-1]}")
                    continue
                if figures is None:
                    continue
                rows.append({"scenario": scenario, "server": name, "figures": figures})
                shown = {k: round(v, 2) for k, v in figures.items() if v is not None}
                elapsed = time.monotonic() - begin
                say(f"{elapsed:5.0f} s  {repeat + 1}  {scenario:12} {name}  {shown}")
    try:
        request_cost = scenarios.request_cost()
    except CalledProcessError as exc:
        failures.append(f"request_cost: {exc!r}")
        request_cost = {}
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "repeats": repeats,
        "machine": report.machine(),
        "versions": report.versions(),
        "runs": rows,
        "request_cost": request_cost,
        "failures": failures,
    }


def measure(scenario: str, name: str) -> scenarios.Figures | None:
    """Measure, and again while the host of a virtual machine takes its core away.

    Of the tries the one counts that it disturbed least, whatever the other figures are.
    """
    tries: list[scenarios.Figures] = []
    while not tries or (tries[-1].get("stolen", 0) > MAX_STOLEN and len(tries) < TRIES):
        figures = scenarios.measure(scenario, name)
        if figures is None:
            return None
        tries.append(figures)
    best = min(tries, key=lambda figures: figures.get("stolen", 0))
    return best | {"tries": len(tries)}


def rotated(names: list[str], by: int) -> list[str]:
    """Return the names, begun a third of the way later in each repeat."""
    at = by * max(1, len(names) // 3) % len(names)
    return names[at:] + names[:at]


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
