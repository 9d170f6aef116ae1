"""What every client sees of every case is what the tables of docs/wire-formats.md say."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.acceptance.cases import CASES
from tests.acceptance.clients import ASKED, CLIENTS, DOCS, FORMATS, Cells, Played, played, table_in
from tests.acceptance.players import SITE
from tests.acceptance.rows import Service
from tests.acceptance.talks import Talker
from tests.acceptance.words import ANOTHER
from tests.servers import each

SERVERS = each(["uvicorn", "gunicorn-gthread"])


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, running: Any) -> Service:
    service: Service = running(request.param, **SITE)
    return service


@pytest.fixture(scope="module")
def seen(service: Service) -> Iterator[Played]:
    with played(service) as seen:
        yield seen


@pytest.fixture(scope="module")
def told() -> dict[str, Cells]:
    """What the tables say that a client sees, by its name."""
    document = DOCS.read_text(encoding="utf-8")
    return {name: cells for format in FORMATS for name, cells in table_in(document, format).items()}


@pytest.mark.parametrize("client", CLIENTS, ids=lambda name: name.replace("`", ""))
def test_a_client_sees_what_its_table_says(
    request: pytest.FixtureRequest, seen: Played, told: dict[str, Cells], client: str
) -> None:
    in_browser = CLIENTS[client].in_browser
    browser = request.getfixturevalue("browser") if in_browser else None
    assert seen(client, browser) == told[client]


def test_a_silence_is_filled_with_heartbeats(service: Service) -> None:
    """The case of that name has some, before its text and in the middle."""
    me = Talker(service.upstream, service.server.port)
    before, text, after = me.read(me.start("silences")).body.partition(b"Hello")
    assert text
    assert b": ping\n" in before
    assert b": ping\n" in after


def test_the_tables_tell_of_no_fault(told: dict[str, Cells]) -> None:
    every = [cell for cells in told.values() for cell in cells.values()]
    assert len(every) == len(CLIENTS) * len(CASES)
    assert [cell for cell in every if ANOTHER in cell or ASKED in cell] == []


def test_no_part_of_an_answer_ends_as_a_whole_one_does(told: dict[str, Cells]) -> None:
    """Where a client's code looks at the end, that is; ``text`` is what it has then."""
    for cells in told.values():
        ends = {name: cell.rpartition(". ")[2].rpartition("; ") for name, cell in cells.items()}
        good = ends["success"][2]
        alike = {name for name, (_, _, end) in ends.items() if end == good}
        assert {name for name in alike if "all text" not in ends[name][0]} == set()
        assert {"success", "odd text", "heartbeats in silences"} <= alike
