"""The clients, unmodified, in Node and in Python: each plays all cases at once.

A ``play`` function takes the service and the plays, and returns for each case, by name, a list of
what was seen: one dict, and one more if the code tried again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import httpx_sse
import openai

from tests.acceptance.cases import MAX_PROMPT_CHARS, Case
from tests.acceptance.lines import Fate
from tests.acceptance.rows import Service
from tests.acceptance.talks import UNHURRIED, eventually
from tests.node import node_client
from tests.reader import Visitor
from tests.servers import Server

__all__ = [
    "KEY",
    "SITE",
    "Play",
    "Seen",
    "add_key",
    "headers_of",
    "play_ag_ui",
    "play_ai_sdk",
    "play_httpx_sse",
    "play_native",
    "play_openai",
    "play_openai_npm",
    "request_stop",
]

Seen = dict[str, Any]
Player = Callable[..., dict[str, list[Seen]]]
# One service for all of these clients: for many answers at once, and pings in every silence.
SITE: Any = {
    "options": UNHURRIED,
    "settings": {
        "MAX_OPEN_RUNS": 1000,
        "HEARTBEAT": 0.1,
        "MAX_PROMPT_CHARS": MAX_PROMPT_CHARS,
    },
}
WITHIN = 60.0  # seconds for all cases of one client, on a busy machine
KEY = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Play:
    """A case, the site's root by a line of its own, and a model that nobody else asks for."""

    case: Case
    url: str
    model: str

    def as_json(self) -> dict[str, Any]:
        case = self.case
        asked = {"name": case.name, "prompt": case.prompt, "stops": case.stops}
        return {**asked, "url": self.url, "model": self.model}


def headers_of(visitor: Visitor, url: str) -> dict[str, str]:
    """Return what a browser adds by itself on a page of the site."""
    cookies = "; ".join(f"{name}={value}" for name, value in visitor.cookies.items())
    return {"Cookie": cookies, "Origin": url.rstrip("/"), "Sec-Fetch-Site": "same-origin"}


def _node(script: str, *args: str, plays: Iterable[Play]) -> dict[str, list[Seen]]:
    cases = json.dumps([play.as_json() for play in plays])
    return dict(node_client(script, *args, cases, within=WITHIN))


def _each(plays: list[Play], look: Callable[[Play], list[Seen]]) -> dict[str, list[Seen]]:
    with ThreadPoolExecutor(len(plays)) as pool:
        return dict(zip((play.case.name for play in plays), pool.map(look, plays), strict=True))


# Our own format -----------------------------------------------------------------------------------


def play_native(client: str) -> Player:
    """Return the player of a client of ``native.mjs``."""

    def play(service: Service, plays: list[Play]) -> dict[str, list[Seen]]:
        cookie = headers_of(Visitor(service.server.port), "")["Cookie"]
        return _node("native.mjs", client, cookie, plays=plays)

    return play


def play_httpx_sse(service: Service, plays: list[Play]) -> dict[str, list[Seen]]:
    visitor = Visitor(service.server.port)
    return _each(plays, lambda play: _httpx_sse(visitor, play))


def _httpx_sse(visitor: Visitor, play: Play) -> list[Seen]:
    """Ask, and once more for what is lacking if the stream breaks off."""
    body = {"prompt": play.case.prompt, "model": play.model}
    seen: Seen = {"text": "", "last_id": ""}
    headers = headers_of(visitor, play.url)
    _read_sse(play, seen, headers, "POST", f"{play.url}chat/stream/", json=body)
    if "end" in seen or "status" in seen:
        return [seen]
    again: Seen = {"text": seen["text"], "last_id": seen["last_id"]}
    url = f"{play.url}chat/runs/{seen['last_id'].split(':')[0]}/stream/"
    _read_sse(play, again, {**headers, "Last-Event-ID": seen["last_id"]}, "GET", url)
    return [seen, again]


def _read_sse(
    play: Play, seen: Seen, headers: dict[str, str], method: str, url: str, **request: Any
) -> None:
    with httpx.Client(headers=headers, timeout=WITHIN) as client:
        try:
            with httpx_sse.connect_sse(client, method, f"{url}?events=all", **request) as source:
                if source.response.is_error:
                    error = json.loads(source.response.read())["error"]
                    seen |= {"status": source.response.status_code, "code": error["code"]}
                    return
                for event in source.iter_sse():
                    _take_sse(client, play, seen, event)
        except httpx.TransportError as exc:
            seen["raised"] = type(exc).__name__


def _take_sse(
    client: httpx.Client, play: Play, seen: Seen, event: httpx_sse.ServerSentEvent
) -> None:
    message = event.json()
    seen["last_id"] = event.id
    if event.event == "finish":
        seen["outcome"] = message["outcome"]
    if event.event != "message":
        return
    if "done" in message or "error" in message:
        seen["end"] = message
    if play.case.stops and message.get("text") and not seen["text"]:
        client.post(f"{play.url}chat/runs/{event.id.split(':')[0]}/stop/", json={})
    seen["text"] += message.get("text", "")


# OpenAI -------------------------------------------------------------------------------------------


def add_key(server: Server) -> None:
    """Give a user a token: ``KEY``."""
    now = "2026-01-01 00:00:00"
    with closing(sqlite3.connect(server.database, timeout=30)) as database, database:
        database.execute(
            "INSERT OR IGNORE INTO auth_user (id, password, is_superuser, username, first_name,"
            " last_name, email, is_staff, is_active, date_joined)"
            " VALUES (1, '', 0, 'ada', '', '', '', 0, 1, ?)",
            [now],
        )
        database.execute(
            "INSERT OR IGNORE INTO authtoken_token (key, created, user_id) VALUES (?, ?, 1)",
            [KEY, now],
        )


def request_stop(server: Server, model: str) -> bool:
    """Ask for the end of a model's answer that has begun, as another process of the site does."""
    with closing(sqlite3.connect(server.database, timeout=30)) as database, database:
        done = database.execute(
            "UPDATE chatstream_run SET stop_requested_at = '2026-01-01 00:00:00'"
            " WHERE model = ? AND EXISTS (SELECT 1 FROM chatstream_storedframe"
            " WHERE run_id = chatstream_run.id AND kind = 'text')",
            [model],
        )
        return done.rowcount > 0


@contextmanager
def _stopping(service: Service, plays: list[Play]) -> Iterator[None]:
    """Stop the answers that a case wants stopped, from elsewhere: the client cannot."""
    add_key(service.server)
    with ThreadPoolExecutor(1) as pool:
        wanted = [play.model for play in plays if play.case.stops]
        stops = [
            pool.submit(eventually, lambda model=model: request_stop(service.server, model), 25)
            for model in wanted
        ]
        yield
        assert all(stop.result() for stop in stops)


def play_openai(service: Service, plays: list[Play]) -> dict[str, list[Seen]]:
    with _stopping(service, plays):
        return _each(plays, _openai)


def _openai(play: Play) -> list[Seen]:
    """Ask, and once more with the same key if the connection breaks."""
    with openai.OpenAI(base_url=f"{play.url}chat/v1", api_key=KEY) as client:
        seen = _ask_openai(client, play)
        if seen.get("raised") == "APIConnectionError":
            return [seen, _ask_openai(client, play)]
    return [seen]


def _ask_openai(client: openai.OpenAI, play: Play) -> Seen:
    seen: Seen = {"text": "", "finish_reason": None}
    try:
        stream = client.chat.completions.create(
            model=play.model,
            messages=[{"role": "user", "content": play.case.prompt}],
            stream=True,
            extra_headers={"Idempotency-Key": play.model},
        )
        for chunk in stream:
            seen["text"] += chunk.choices[0].delta.content or ""
            seen["finish_reason"] = chunk.choices[0].finish_reason
    except openai.OpenAIError as exc:
        seen["raised"] = type(exc).__name__
        seen["status"] = getattr(exc, "status_code", None)
        seen["code"] = getattr(exc, "code", None)
    return seen


def play_openai_npm(service: Service, plays: list[Play]) -> dict[str, list[Seen]]:
    with _stopping(service, plays):
        return _node("openai.mjs", KEY, plays=plays)


# AI SDK -------------------------------------------------------------------------------------------


def play_ai_sdk(service: Service, plays: list[Play]) -> dict[str, list[Seen]]:
    site = f"http://127.0.0.1:{service.server.port}/chat/ai-sdk/"
    cases = [
        {
            "name": play.case.name,
            "model": play.model,
            "api": f"{play.url}chat/ai-sdk/",
            "steps": _ai_sdk_steps(play.case),
        }
        for play in plays
    ]
    seen = node_client("ai_sdk.mjs", site, json.dumps(cases), within=WITHIN)
    return {one["name"]: one["attempts"] for one in seen}


def _ai_sdk_steps(case: Case) -> list[Any]:
    if case.stops:
        return [["stopped", case.prompt]]
    send = ["sendMessage", {"text": case.prompt}]
    return [send, ["resumeStream"]] if case.fate is Fate.CUT else [send]


# AG-UI --------------------------------------------------------------------------------------------


def play_ag_ui(service: Service, plays: list[Play]) -> dict[str, list[Seen]]:
    visitor = Visitor(service.server.port)
    cases = {play.case.name: _ag_ui_case(visitor, play) for play in plays}
    headers = json.dumps(headers_of(visitor, f"http://127.0.0.1:{service.server.port}"))
    seen = dict(node_client("ag_ui.mjs", "", headers, json.dumps(cases), within=WITHIN))
    assert seen.pop("warnings") == []
    return seen


def _ag_ui_case(visitor: Visitor, play: Play) -> dict[str, Any]:
    case = play.case
    run = {
        "say": case.prompt,
        "runId": play.model,
        "forwardedProps": {"model": play.model},
        "stop": case.stops,
    }
    again = [{**run, "drop": 2}] if case.fate is Fate.CUT else []
    return {
        "url": f"{play.url}chat/ag-ui/",
        "headers": headers_of(visitor, play.url),
        "runs": [run, *again],
    }
