"""Play rows of the table against a running server, and say what is wrong with the answers."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tests.behaviours import PROVIDER_WORDS
from tests.faults import ROWS, Row
from tests.reader import Answer, read, stream_path
from tests.servers import CANARY_KEY, Server, Site
from tests.upstream import (
    Request,
    Upstream,
    closed_port,
    full_backlog,
    self_signed,
    unknown_host,
)

__all__ = [
    "Service",
    "closing_complaint",
    "complaints",
    "connection_complaints",
    "model_of",
    "play",
    "serve",
    "wire_complaints",
]

CLOSES_WITHIN = 3.0  # seconds; the promise is one, and two cores play many rows at once
OPENING = b": open\nretry: 1000\n"
# One block of a plain GET answer, pings taken out.
BLOCK = re.compile(rb"id: [A-Za-z0-9_-]+:\d+\ndata: \{[^\n\r]*\}\n\n")
ERROR_KEYS = {"code", "message", "retryable"}
NEVER_IN_AN_ERROR = ("http:", "https:", "<", "Traceback", "10.0.0.1", "127.0.0.1", "Bearer", "sk-")


@dataclass
class Service:
    """A server under test with its upstream, and the answers to the rows that were played."""

    server: Server
    upstream: Upstream
    answers: dict[str, Answer]

    def ask(self, model: str, base: str = "/chat/stream/", **query: str) -> Answer:
        return read(self.server.port, stream_path(model, base, **query))


@contextlib.contextmanager
def serve(name: str, transport: str = "auto", **site: object) -> Iterator[Service]:
    """Start a server and an upstream, with a provider for every base_url that leads nowhere."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        tls = stack.enter_context(self_signed())
        base_urls = {
            "patient": upstream.url,
            "narrow": upstream.url,
            "before_body": upstream.url_playing("ok_before_body"),
            "conn_refused": closed_port(),
            "dns_fail": unknown_host(),
            "connect_timeout": stack.enter_context(full_backlog()),
            "tls_self_signed": tls,
            "tls_expected": tls.replace("https:", "http:"),
        }
        configured = Site(upstream.url, base_urls, transport, **site)  # type: ignore[arg-type]
        server = stack.enter_context(Server(name, configured))
        yield Service(server, upstream, {})


def model_of(row: Row) -> str:
    """The model that plays a row; other tests on the same service ask others."""
    return f"{row.name}@row"


def play(
    service: Service, rows: Iterable[Row] = ROWS.values(), base: str = "/chat/stream/"
) -> dict[str, Answer]:
    """Ask for all rows, many at a time; return the answers by name."""

    def ask(row: Row) -> tuple[str, Answer]:
        path = stream_path(model_of(row), base, provider=row.provider)
        return row.name, read(service.server.port, path, within=row.within)

    # Those that only wait come first, so that nobody waits for them in the end.
    ordered = sorted(rows, key=lambda row: row.endings == {"done"})
    with ThreadPoolExecutor(24) as pool:
        return dict(pool.map(ask, ordered))


def complaints(row: Row, answer: Answer, requests: list[Request]) -> list[str]:
    """Return what the table finds wrong with an answer, in words; nothing if it is right.

    Asks of the answer only what any event stream with text, done and error frames can give, so
    that the commonly written view is judged fairly.
    """
    found = []
    if answer.ending not in row.endings:
        found.append(f"ended as {answer.ending}, allowed: {', '.join(sorted(row.endings))}")
    if len(answer.terminals) > 1 or (answer.terminals and not _is_terminal(answer.messages[-1])):
        found.append(f"{len(answer.terminals)} terminal frames, and the last frame is another")
    if not row.has_text(answer.text, answer.ending):
        found.append(f"the text is {answer.text[:200]!r} ({len(answer.text)} characters)")
    if not answer.is_whole and answer.ending not in ("silence", "cut"):
        found.append("the body did not end as HTTP wants it")
    if len(requests) > row.requests:
        found.append(f"{len(requests)} requests reached the upstream, allowed: {row.requests}")
    return found + _leaks(answer)


def _is_terminal(message: dict[str, object]) -> bool:
    return "done" in message or "error" in message


def _leaks(answer: Answer) -> list[str]:
    whole = answer.body.decode("utf-8", "replace") + json.dumps(answer.headers)
    found = [f"leaks {word}" for word in (PROVIDER_WORDS, CANARY_KEY) if word in whole]
    errors = json.dumps([message for message in answer.terminals if "error" in message])
    return found + [f"an error says {word}" for word in NEVER_IN_AN_ERROR if word in errors]


def wire_complaints(row: Row, answer: Answer) -> list[str]:
    """Return what is wrong with the bytes of an answer to a GET, beyond the table."""
    found = []
    if not answer.body.startswith(OPENING):
        found.append(f"opens with {answer.body[:60]!r}")
    rest = answer.body.removeprefix(OPENING).replace(b": ping\n", b"")
    if BLOCK.sub(b"", rest):
        found.append(f"holds more than blocks: {BLOCK.sub(b'', rest)[:80]!r}")
    if any(event.name != "message" for event in answer.events):
        found.append("a plain reader got named events")
    if answer.ending.startswith("error:"):
        found += _error_complaints(row, answer.terminals[-1])
    return found


def _error_complaints(row: Row, message: dict[str, dict[str, object]]) -> list[str]:
    error = message["error"]
    found = []
    if set(message) != {"error"} or set(error) - {"retry_after"} != ERROR_KEYS:
        found.append(f"the error frame holds {error}")
    if not error["message"] or not isinstance(error["retryable"], bool):
        found.append(f"the error frame says {error}")
    seconds = error.get("retry_after")
    if row.retry_after is None and seconds is not None:
        found.append(f"retry_after is {seconds}, and nothing said so")
    elif row.retry_after is not None and row.retry_after[0] > 0 and seconds is None:
        found.append("retry_after is missing")
    if row.retry_after and seconds is not None:
        low, high = row.retry_after
        if not (isinstance(seconds, int | float) and low <= seconds <= high):
            found.append(f"retry_after is {seconds}, not {low} to {high}")
    return found


def connection_complaints(row: Row, answer: Answer, requests: list[Request]) -> list[str]:
    """Return what is wrong with the fate of the upstream's connections."""
    found = []
    for request in requests:
        if request.connection.reused_when_dead:
            found.append("a connection was used again after a bad end")
        if row.closes and answer.ending != "done" and not request.is_last:
            found.append("a connection carried a request after a bad end")
        if row.closes:
            found += closing_complaint(request, answer.ended_at)
    return found


def closing_complaint(
    request: Request, wanted_at: float, within: float = CLOSES_WITHIN
) -> list[str]:
    """Return a complaint if the request's connection outlived ``wanted_at`` for too long."""
    closed_at = request.connection.closed_at
    if closed_at is None:
        return ["the upstream connection is still open"]
    late = closed_at - wanted_at
    return [f"the upstream connection was closed {late:.1f} s late"] if late > within else []
