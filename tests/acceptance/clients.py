"""What each client makes of each way in which an answer can go: the tables of docs/wire-formats.md.

    python -m tests.acceptance.clients --write

plays every case with every client, unmodified, against a real server, and writes what was seen;
``test_clients.py`` plays them again and compares.
"""

from __future__ import annotations

import argparse
import logging
import re
import secrets
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser

from tests.acceptance import page_players, players, words
from tests.acceptance.cases import CASES
from tests.acceptance.conftest import chromium
from tests.acceptance.lines import Line
from tests.acceptance.players import SITE, Play
from tests.acceptance.rows import Service, serve

__all__ = [
    "ASKED",
    "CLIENTS",
    "DOCS",
    "FORMATS",
    "Cells",
    "Client",
    "Played",
    "cells",
    "played",
    "table_in",
]

DOCS = Path(__file__).resolve().parents[2] / "docs" / "wire-formats.md"
ASKED = "THE MODEL IS ASKED"  # more than once: a fault
Cells = dict[str, str]  # a case's name: what a client sees of it
Played = Callable[[str, Browser | None], Cells]


@dataclass(frozen=True)
class Client:
    """``play`` returns what the code saw of each case, ``say`` puts it into words."""

    name: str
    play: Callable[..., dict[str, list[players.Seen]]]
    say: Callable[..., str]
    in_browser: bool = False


# A table for each format: the clients are its columns.
FORMATS = {
    "native": [
        Client("`eventsource`", players.play_native("eventsource"), words.of_native),
        Client("`eventsource-parser`", players.play_native("eventsource-parser"), words.of_native),
        Client(
            "`@microsoft/fetch-event-source`",
            players.play_native("fetch-event-source"),
            words.of_native,
        ),
        Client("`httpx-sse`", players.play_httpx_sse, words.of_native),
    ],
    "openai": [
        Client("`openai` (PyPI)", players.play_openai, words.of_openai),
        Client("`openai` (npm)", players.play_openai_npm, words.of_openai),
    ],
    "ai-sdk": [
        Client("`Chat`, in Node", players.play_ai_sdk, words.of_ai_sdk),
        Client(
            "`useChat`, in Chromium", page_players.play_use_chat, words.of_ai_sdk, in_browser=True
        ),
    ],
    "htmx": [
        Client("htmx 4", page_players.play_htmx("htmx4"), words.of_htmx, in_browser=True),
        Client("htmx 2", page_players.play_htmx("htmx2"), words.of_htmx, in_browser=True),
    ],
    "ag-ui": [Client("`@ag-ui/client`", players.play_ag_ui, words.of_ag_ui)],
}
CLIENTS = {client.name: client for clients in FORMATS.values() for client in clients}


def cells(client: Client, service: Service, browser: Browser | None = None) -> Cells:
    """Play all cases at once; return what the code sees, in words."""
    with ExitStack() as lines:
        plays = [
            Play(
                case,
                lines.enter_context(Line(service.server.port, case.fate)).url,
                f"{case.behaviour}@{secrets.token_hex(6)}",
            )
            for case in CASES.values()
        ]
        more = {"browser": browser} if client.in_browser else {}
        seen = client.play(service, plays, **more)
    return {play.case.name: _cell(client, service, play, seen) for play in plays}


def _cell(client: Client, service: Service, play: Play, seen: dict[str, Any]) -> str:
    said = client.say(play.case, seen[play.case.name])
    asked = len(service.upstream.requests_for(play.model))
    return said if asked <= 1 else f"{said}; {ASKED} {asked} times"


@contextmanager
def played(service: Service) -> Iterator[Played]:
    """Return a function: what a client sees, by its name. Those outside of browsers run ahead."""
    outside = [client for client in CLIENTS.values() if not client.in_browser]
    with ThreadPoolExecutor(3) as pool:
        ahead = {client.name: pool.submit(cells, client, service) for client in outside}

        def seen(name: str, browser: Browser | None) -> Cells:
            if name in ahead:
                return ahead[name].result()
            try:
                return cells(CLIENTS[name], service, browser)
            except page_players.NoEnd as exc:
                # Seen once in some twenty runs, with two workers on two cores; not explained yet.
                logging.getLogger(__name__).warning("%s is played again: %s", name, exc)
                return cells(CLIENTS[name], service, browser)

        yield seen


# The tables ---------------------------------------------------------------------------------------


def table_of(columns: dict[str, Cells]) -> str:
    rows = [["case", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(column[name] for column in columns.values())] for name in CASES]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def table_in(document: str, format: str) -> dict[str, Cells]:
    """Return a format's table, by client and case."""
    found = _place_of(format).search(document)
    assert found, f"no table of {format}"
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in found[2].splitlines()]
    head, _, *rest = rows
    return {name: {row[0]: row[at] for row in rest} for at, name in enumerate(head) if at}


def written(document: str, seen: dict[str, Cells]) -> str:
    """Return the document with the tables of what was seen."""
    for format, clients in FORMATS.items():
        table = table_of({client.name: seen[client.name] for client in clients})
        document = _place_of(format).sub(lambda found, t=table: found[1] + t + found[3], document)
    return document


def _place_of(format: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- clients: {format} -->\n\n)(.*?)(\n<!-- /clients -->)", re.DOTALL)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.clients")
    parser.add_argument("--write", action="store_true", help=f"into docs/{DOCS.name}; else print")
    parser.add_argument("--server", default="uvicorn")
    options = parser.parse_args(argv)
    with (
        serve(options.server, **SITE) as service,
        chromium() as browser,
        played(service) as sees,
    ):
        seen = {name: sees(name, browser) for name in CLIENTS}
    if options.write:
        DOCS.write_text(written(DOCS.read_text(encoding="utf-8"), seen), encoding="utf-8")
    else:
        print("\n".join(table_of({name: column}) for name, column in seen.items()))


if __name__ == "__main__":
    main(sys.argv[1:])
