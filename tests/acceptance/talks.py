"""Somebody who chats over real sockets: starts runs, follows them, stops them.

me = Talker(service.upstream, service.server.port)
run = me.start("ok")
assert me.read(run).text == TEXT
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable
from typing import Any, TypeVar

from tests.reader import Answer, Event, Reader, Visitor
from tests.upstream import Request, Upstream

__all__ = ["UNHURRIED", "Talker", "eventually", "seq_of"]

# No deadline may end an answer in a test's place.
UNHURRIED = {"first_token_timeout": 60, "token_timeout": 60, "run_timeout": 120}

T = TypeVar("T")


def eventually(look: Callable[[], T], within: float = 15, every: float = 0.05) -> T:
    """Call until what comes is true; return it, or what came last when the time is over."""
    until = time.monotonic() + within
    while not (found := look()) and time.monotonic() < until:
        time.sleep(every)
    return found


def seq_of(event: Event) -> int:
    return int(event.id.split(":")[1])


class Talker(Visitor):
    """An anonymous visitor of one or more servers that share a database and an upstream."""

    def __init__(self, upstream: Upstream, *ports: int) -> None:
        super().__init__(*ports)
        self.upstream = upstream
        self._models: dict[str, str] = {}

    def name(self, behaviour: str) -> str:
        """Return a model that plays a behaviour and that nobody else asks for."""
        return f"{behaviour}@{secrets.token_hex(6)}"

    def ask(self, behaviour: str = "ok", *, server: int = 0, **data: Any) -> Answer:
        """Post to ``runs/``; whatever comes."""
        data = {"model": self.name(behaviour), **data}
        if not data.keys() & {"messages", "message"}:
            data.setdefault("prompt", "hi")
        answer = self.post("/chat/runs/", data, server=server)
        if answer.status in (200, 201):
            self._models[answer.json["id"]] = data["model"]
        return answer

    def start(self, behaviour: str = "ok", *, server: int = 0, **data: Any) -> str:
        """Start a run; return its id."""
        answer = self.ask(behaviour, server=server, **data)
        assert answer.status == 201, (answer.status, answer.body)
        return str(answer.json["id"])

    def follow(
        self, run: str, *, after: int | None = None, last_id: str | None = None, **options: Any
    ) -> Reader:
        """Open the run's stream."""
        query = "?events=all" if options.pop("all_events", False) else "?"
        query += f"&after={after}" if after is not None else ""
        headers = {"Last-Event-ID": last_id} if last_id is not None else {}
        return self.open(f"/chat/runs/{run}/stream/{query}", headers=headers, **options)

    def read(self, run: str, **options: Any) -> Answer:
        """Follow the run to its end."""
        with self.follow(run, **options) as reader:
            return reader.read_all()

    def look(self, run: str, *, server: int = 0) -> dict[str, Any]:
        """Return the run as JSON."""
        answer = self.get(f"/chat/runs/{run}/", server=server)
        assert answer.status == 200, (answer.status, answer.body)
        return dict(answer.json)

    def stop(self, run: str, *, server: int = 0) -> Answer:
        return self.post(f"/chat/runs/{run}/stop/", server=server)

    def requests(self, run: str) -> list[Request]:
        """Return what the upstream was asked for this run."""
        return self.upstream.requests_for(self._models[run])

    def request(self, run: str) -> Request:
        """Wait for the one request that the upstream gets for this run."""
        (request,) = self.upstream.wait_requests(self._models[run])
        return request

    def is_settled(self, run: str, *, server: int = 0) -> bool:
        with contextlib.suppress(OSError):
            return self.look(run, server=server)["outcome"] is not None
        return False

    def replay(self, run: str, **options: Any) -> Answer:
        """Read all frames of a run to its end, and check that its log is in order."""
        answer = self.read(run, all_events=True, **options)
        last = answer.events[-1]
        assert [seq_of(event) for event in answer.events] == list(range(1, seq_of(last) + 1))
        assert answer.terminals == [last.json]
        row = self.look(run, server=options.get("server", 0))
        (finish,) = (event.json for event in answer.events if event.name == "finish")
        assert (row["outcome"], row["last_seq"]) == (finish["outcome"], seq_of(last))
        assert row["text"] == answer.text
        return answer
