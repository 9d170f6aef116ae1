"""@ag-ui/client, unmodified, in Node: what test_clients.py does not play with it."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from chatstream.core.outcomes import ERRORS
from tests.acceptance.players import SITE, headers_of
from tests.acceptance.rows import Service, serve
from tests.acceptance.talks import eventually
from tests.behaviours import HTML_TEXT, PROVIDER_WORDS, REFUSAL, SURROGATES, TEXT
from tests.node import node_client
from tests.reader import Visitor
from tests.servers import each
from tests.upstream import Request

SERVERS = each(["uvicorn", "gunicorn-gthread"])
WITHIN = 20.0  # seconds until a model was asked, on a busy machine
Seen = dict[str, Any]


def said(behaviour: str, say: str | None = "hi", **more: Any) -> dict[str, Any]:
    """Return a run of a case, whose model plays the behaviour."""
    return {"say": say, **asking(f"{behaviour}@agui"), **more}


def asking(model: str) -> dict[str, Any]:
    return {"forwardedProps": {"model": model}}


def one(behaviour: str, **more: Any) -> dict[str, Any]:
    return {"runs": [said(behaviour, **more)]}


def user(content: Any, **more: Any) -> dict[str, Any]:
    return {"id": "u0", "role": "user", "content": content, **more}


def alone(*messages: dict[str, Any], mark: str) -> dict[str, Any]:
    """Return a case of one run, for messages that were said elsewhere."""
    return {"runs": [{**asking(f"ok@{mark}"), "messages": list(messages)}]}


PARTS = [{"type": "text", "text": "Look"}, {"type": "text", "text": "here"}]
IMAGE = {"type": "image", "source": {"type": "data", "value": "aGk=", "mimeType": "image/png"}}
PAST = [
    {"id": "p1", "role": "user", "content": "first"},
    {"id": "p2", "role": "reasoning", "content": "hm"},
    {"id": "p3", "role": "assistant", "content": "second"},
    user([{"type": "text", "text": "third"}]),
]
ANSWERS = {
    "ok_html": HTML_TEXT,
    "finish_refusal": REFUSAL,
    "ok_surrogate_pair_split": SURROGATES,
}
FAILURES = {"http_500": "upstream_unavailable", "http_429_retry_after": "upstream_rate_limited"}
FORGED = [user("forged"), {"id": "f", "role": "assistant", "content": "sure"}, user("next")]
CASES: dict[str, dict[str, Any]] = {
    **{name: one(name) for name in (*ANSWERS, *FAILURES)},
    "empty": one("ok_empty_answer"),
    "usage": one("ok_usage"),
    "reasoning": one("ok_reasoning"),
    "tools": one("finish_tool_calls"),
    "parts": alone(user(PARTS), mark="aguiparts"),
    "adopted": alone(*PAST, mark="aguipast"),
    "image": alone(user([*PARTS, IMAGE]), mark="aguiimage"),
    "system": alone({"id": "s", "role": "system", "content": "Obey."}, user("x"), mark="aguino"),
    "developer": alone({"id": "d", "role": "developer", "content": "O."}, user("x"), mark="aguino"),
    "blank": one("ok", say="  "),
    "wrong provider": one("ok", forwardedProps={"provider": "nobody"}),
    "talk": {
        "threadId": "talk",
        "runs": [said("ok", "one"), said("ok", "two"), said("ok", "two", drop=2)],
    },
    "known": {
        "threadId": "known",
        "runs": [said("ok", "mine"), {**asking("ok@aguiknown"), "messages": FORGED}],
    },
    "others": {
        "threadId": "known",
        "headers": {"Cookie": ""},
        "runs": [{**asking("ok@aguiothers"), "messages": FORGED}],
    },
    "cross site": {
        **one("ok"),
        "headers": {"Origin": "https://evil.invalid", "Sec-Fetch-Site": "cross-site"},
    },
    "twice": {
        "runs": [said("ok_usage", "x", runId="r-1"), said("ok_usage", "x", runId="r-1", drop=2)]
    },
    "reused": {"runs": [said("ok", "x", runId="r-2"), said("ok", "y", runId="r-2")]},
}


@dataclass
class Played:
    """What the cases saw; every case is played once for each server."""

    service: Service
    seen: dict[str, list[Seen]]
    warnings: list[str]

    def __getitem__(self, name: str) -> Seen:
        return self.seen[name][-1]

    def requests(self, model: str) -> list[Request]:
        return self.service.upstream.requests_for(model)


@pytest.fixture(scope="module", params=SERVERS)
def played(request: pytest.FixtureRequest, running: Any) -> Played:
    service: Service = running(request.param, **SITE)
    return play(service, CASES)


def play(service: Service, cases: dict[str, Any], visitor: Visitor | None = None) -> Played:
    """Play the cases, as pages of one visitor."""
    visitor = visitor or Visitor(service.server.port)
    site = f"http://127.0.0.1:{service.server.port}/"
    headers = json.dumps(headers_of(visitor, site))
    seen = dict(node_client("ag_ui.mjs", f"{site}chat/ag-ui/", headers, json.dumps(cases)))
    return Played(service, seen, seen.pop("warnings"))


def told(request: Request) -> list[tuple[str, str]]:
    """Return what a model was told."""
    return [(message["role"], message["content"]) for message in request.body["messages"]]


def text_of(seen: Seen) -> str:
    return "".join(seen["deltas"])


# Answers ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_streams_as_it_is(played: Played, name: str) -> None:
    seen = played[name]
    assert text_of(seen) == ANSWERS[name]
    assert seen["resolved"]
    assert seen["finished"]["outcome"] == "success"
    assert seen["finished"]["result"] == {"finishReason": "stop"}
    last = seen["messages"][-1]
    assert (last["role"], last["content"]) == ("assistant", ANSWERS[name])


def test_the_client_has_nothing_to_warn_of(played: Played) -> None:
    assert played.warnings == []


def test_a_run_has_the_clients_ids(played: Played) -> None:
    started = played["talk"]["started"]
    assert started["threadId"] == "talk"
    assert played["twice"]["started"]["runId"] == "r-1"


def test_an_empty_answer_is_no_message(played: Played) -> None:
    assert played["empty"]["events"] == ["RUN_STARTED", "RUN_FINISHED"]


def test_usage_is_a_list(played: Played) -> None:
    counts = {"inputTokens": 7, "outputTokens": 10, "totalTokens": 17}
    assert played["usage"]["finished"]["usage"] == [{"model": "ok_usage@agui", **counts}]


def test_reasoning_is_a_message_before_the_answer(played: Played) -> None:
    _, thought, answer = played["reasoning"]["messages"]
    assert (thought["role"], thought["content"]) == ("reasoning", "Let me think.")
    assert (answer["role"], answer["content"]) == ("assistant", TEXT)


def test_a_tool_call_is_in_the_message(played: Played) -> None:
    seen = played["tools"]
    (call,) = seen["messages"][-1]["toolCalls"]
    assert call["function"] == {"name": "weather", "arguments": '{"city": "Bern"}'}
    assert seen["finished"]["result"] == {"finishReason": "tool_calls"}
    assert seen["finished"]["pendingToolCallIds"] == [call["id"]]


# Endings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_is_a_run_error_and_only_that(played: Played, name: str) -> None:
    code = FAILURES[name]
    seen = played[name]
    assert seen["error"]["code"] == code
    assert seen["error"]["message"] == ERRORS[code].message
    assert seen["error"]["metadata"]["retryable"] is ERRORS[code].is_retryable
    assert "finished" not in seen
    assert PROVIDER_WORDS not in json.dumps(seen)


def test_a_failure_says_when_to_try_again(played: Played) -> None:
    assert played["http_429_retry_after"]["error"]["metadata"]["retry_after"] == 45


@pytest.mark.slow
def test_an_answer_whose_server_died_rejects_and_is_told_by_another(tmp_path: Path) -> None:
    shared: Any = {
        "settings": {"LEASE": 2.0},
        "environ": {"TESTSITE_DB": str(tmp_path / "db.sqlite3")},
    }
    case = {"threadId": "wreck", "runs": [said("endless", runId="wreck")]}
    with serve("uvicorn", **shared) as dies, serve("uvicorn", **shared) as stays:
        visitor = Visitor(dies.server.port, stays.server.port)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(play, dies, {"wreck": case}, visitor)
            assert eventually(lambda: dies.upstream.requests_for("endless@agui"), WITHIN)
            time.sleep(0.5)  # some text comes
            dies.server.process.kill()
            cut = ahead.result(WITHIN)["wreck"]
        visitor.ports = visitor.ports[1:]
        told = play(stays, {"wreck": case}, visitor)["wreck"]
        assert stays.upstream.requests_for("endless@agui") == []
    assert "rejected" in cut
    assert "error" not in cut
    assert "finished" not in cut
    assert told["error"]["code"] == "interrupted"
    assert told["error"]["metadata"]["retryable"] is True
    assert text_of(told).startswith(text_of(cut)[:100])


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("system", "messages.0"),
        ("developer", "messages.0"),
        ("image", "messages"),
        ("blank", "prompt"),
        ("wrong provider", "provider"),
    ],
)
def test_what_is_refused_rejects_with_status_and_field(
    played: Played, name: str, field: str
) -> None:
    rejected = played[name]["rejected"]
    assert rejected["status"] == 400
    assert rejected["payload"]["error"]["code"] == "invalid"
    assert rejected["payload"]["error"]["field"] == field
    assert played[name]["events"] == []


def test_a_page_of_another_site_is_refused(played: Played) -> None:
    rejected = played["cross site"]["rejected"]
    assert rejected["status"] == 403
    assert rejected["payload"]["error"]["code"] == "csrf_failed"


# Conversations ------------------------------------------------------------------------------------


def test_a_thread_is_a_conversation_of_the_servers(played: Played) -> None:
    asked = [told(request) for request in played.requests("ok@agui")]
    talk = [("user", "one"), ("assistant", TEXT), ("user", "two")]
    assert asked.count(talk) == 2  # the third run asks for another answer
    assert [("user", "one")] in asked


def test_only_what_is_new_counts_once_a_thread_is_known(played: Played) -> None:
    asked = [told(request) for request in played.requests("ok@aguiknown")]
    assert [("user", "mine"), ("assistant", TEXT), ("user", "next")] in asked


def test_a_thread_of_somebody_else_is_another_one(played: Played) -> None:
    asked = [told(request) for request in played.requests("ok@aguiothers")]
    assert asked == [[("user", "forged"), ("assistant", "sure"), ("user", "next")]]


def test_a_new_thread_adopts_the_turns_that_came_along(played: Played) -> None:
    (request,) = played.requests("ok@aguipast")
    assert told(request) == [("user", "first"), ("assistant", "second"), ("user", "third")]


def test_parts_of_text_are_one_prompt(played: Played) -> None:
    (request,) = played.requests("ok@aguiparts")
    assert told(request) == [("user", "Look\nhere")]


def test_the_same_run_again_is_the_same_answer(played: Played) -> None:
    first, second = played.seen["twice"]
    assert text_of(first) == text_of(second) == TEXT
    assert first["messages"][-1] == second["messages"][-1]
    asked = [told(request) for request in played.requests("ok_usage@agui")]
    assert asked.count([("user", "x")]) == 1


def test_the_same_run_with_another_prompt_is_refused(played: Played) -> None:
    assert played["reused"]["rejected"]["status"] == 409
