"""The AI SDK, unmodified, in Node and in Chromium: what test_clients.py does not play with it."""

import json
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.acceptance.page_players import chat_pages
from tests.acceptance.players import SITE
from tests.acceptance.rows import Service
from tests.behaviours import HTML_TEXT, PARTIAL, REFUSAL, TEXT
from tests.node import node_client
from tests.servers import each

SERVERS = each(["uvicorn", "gunicorn-gthread"])
WITHIN = 30_000  # milliseconds, on a busy machine
SEND = ["sendMessage", {"text": "hi"}]
# name: the upstream's behaviour, what the page does, further fields of its body
CASES: dict[str, tuple[str, list[Any], dict[str, Any]]] = {
    "success": ("ok_usage", [SEND], {}),
    "html": ("ok_html", [SEND], {}),
    "refusal": ("finish_refusal", [SEND], {}),
    "reasoning": ("ok_reasoning", [SEND], {}),
    "tool": ("finish_tool_calls", [SEND], {}),
    "refused": ("ok", [SEND], {"provider": "nobody"}),
    "blank": ("ok", [["sendMessage", {"text": " "}]], {}),
    "resumed": ("ok_slow", [["leave", "hi"], ["resumeStream"]], {}),
    "nothing_to_resume": ("ok", [["resumeStream"]], {}),
    "again": ("ok", [SEND, ["regenerate"], ["sendMessage", {"text": "more"}]], {}),
    "edited": ("ok", [SEND, ["edit", "other"]], {}),
}


def model_of(name: str) -> str:
    return f"{CASES[name][0]}@ai{name}"


@pytest.fixture(scope="module", params=SERVERS)
def service(request: pytest.FixtureRequest, running: Any) -> Service:
    return running(request.param, **SITE)


@pytest.fixture(scope="module")
def seen(service: Service) -> dict[str, dict[str, Any]]:
    """What the page's code sees at the end of each case. All are played at once, by one Node."""
    api = f"http://127.0.0.1:{service.server.port}/chat/ai-sdk/"
    cases = [
        {"name": name, "model": model_of(name), "steps": steps, "body": body}
        for name, (_, steps, body) in CASES.items()
    ]
    return {one["name"]: one for one in node_client("ai_sdk.mjs", api, json.dumps(cases))}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("success", TEXT),
        ("html", HTML_TEXT),
        ("refusal", REFUSAL),
        ("resumed", TEXT),
    ],
)
def test_an_answer_is_ready_and_its_text_is_as_it_was_said(seen: Any, name: str, text: str) -> None:
    assert seen[name]["text"] == text
    assert (seen[name]["status"], seen[name]["finishReason"]) == ("ready", "stop")
    assert not seen[name]["isError"]


@pytest.mark.parametrize(
    ("name", "words"),
    [("refused", "There is no such provider."), ("blank", "The message has no text.")],
)
def test_a_refusal_is_an_error_in_one_sentence(seen: Any, name: str, words: str) -> None:
    assert (seen[name]["status"], seen[name]["isError"]) == ("error", True)
    assert (seen[name]["error"], seen[name]["text"]) == (words, "")


def test_usage_is_in_the_messages_metadata(seen: Any) -> None:
    usage = {"inputTokens": 7, "outputTokens": 10, "totalTokens": 17}
    assert seen["success"]["messages"][-1]["metadata"] == {"usage": usage}


def test_reasoning_is_a_part_before_the_text(seen: Any) -> None:
    parts = seen["reasoning"]["messages"][-1]["parts"]
    assert [part["type"] for part in parts] == ["step-start", "reasoning", "text"]
    assert parts[1]["text"] == "Let me think."


def test_a_tool_call_is_shown_and_the_page_is_not_asked_to_run_it(seen: Any) -> None:
    call = seen["tool"]["messages"][-1]["parts"][1]
    assert (call["type"], call["toolName"], call["state"]) == (
        "dynamic-tool",
        "weather",
        "input-available",
    )
    assert call["input"] == {"city": "Bern"}
    assert seen["tool"]["calls"] == []
    assert seen["tool"]["finishReason"] == "tool-calls"


def test_nothing_to_resume_leaves_the_chat_ready(seen: Any) -> None:
    nothing = seen["nothing_to_resume"]
    assert (nothing["status"], nothing["messages"]) == ("ready", [])


def test_an_answer_that_was_left_is_asked_for_once(seen: Any, service: Service) -> None:
    assert len(seen["resumed"]["messages"]) == 2
    assert len(service.upstream.requests_for(model_of("resumed"))) == 1


def test_the_model_is_told_the_branch_that_the_page_shows(seen: Any, service: Service) -> None:
    assert [message["role"] for message in seen["again"]["messages"]] == ["user", "assistant"] * 2
    told = [
        request.body["messages"] for request in service.upstream.requests_for(model_of("again"))
    ]
    first = {"role": "user", "content": "hi"}
    answer = {"role": "assistant", "content": TEXT}
    assert told == [[first], [first], [first, answer, {"role": "user", "content": "more"}]]


def test_an_edited_message_replaces_the_first(seen: Any, service: Service) -> None:
    assert (seen["edited"].get("error"), seen["edited"]["text"]) == (None, TEXT)
    _, told = service.upstream.requests_for(model_of("edited"))
    assert told.body["messages"] == [{"role": "user", "content": "other"}]


# In a browser -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def context(
    browser: Browser, running: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrowserContext]:
    """A visitor of one server, whose pages come from the test: ``open_chat`` opens one."""
    service = running("uvicorn", **SITE)
    context = browser.new_context(base_url=f"http://127.0.0.1:{service.server.port}")
    chat_pages(context, tmp_path_factory.mktemp("ai_sdk"))
    yield context
    context.close()


@pytest.fixture
def open_chat(context: BrowserContext) -> Iterator[Callable[[str], Page]]:
    """Return a function: a new chat's page, whose model plays that behaviour. No page may fail."""
    failures: list[str] = []
    page = context.new_page()
    page.on("pageerror", lambda error: failures.append(str(error)))

    def open_chat(behaviour: str) -> Page:
        name = secrets.token_hex(4)
        page.goto(f"/ai-sdk-page/?chat={name}/%C3%BC&model={behaviour}@{name}")
        expect(page.locator("output")).to_have_text("ready", timeout=WITHIN)
        return page

    yield open_chat
    page.close()
    assert failures == []


def ask(page: Page, prompt: str = "hi") -> None:
    page.locator("input").fill(prompt)
    page.locator("input").press("Enter")


def text_of(page: Page) -> str:
    return "".join(page.locator("article.assistant b").all_text_contents())


def test_usechat_shows_an_answer(open_chat: Callable[[str], Page]) -> None:
    page = open_chat("ok_reasoning")
    ask(page)
    expect(page.locator("article.assistant")).to_contain_text("three'.", timeout=WITHIN)
    expect(page.locator("output")).to_have_text("ready", timeout=WITHIN)
    expect(page.locator("article.assistant i")).to_have_text("Let me think.")
    assert text_of(page) == TEXT


def test_usechat_shows_why_an_answer_broke_off_and_asks_again(
    open_chat: Callable[[str], Page],
) -> None:
    page = open_chat("fin_mid_stream")
    ask(page)
    expect(page.get_by_role("alert")).to_have_text(
        "The answer ended before it was complete.", timeout=WITHIN
    )
    assert text_of(page) == PARTIAL
    with page.expect_response("**/chat/ai-sdk/", timeout=WITHIN):
        page.get_by_text("Again").click()
    expect(page.locator("output")).to_have_text("error", timeout=WITHIN)
    expect(page.locator("article")).to_have_count(2, timeout=WITHIN)


def test_usechat_resumes_after_a_reload_and_repeats_nothing(
    open_chat: Callable[[str], Page],
) -> None:
    page = open_chat("ok_four_seconds")
    ask(page)
    expect(page.locator("article.assistant")).to_contain_text("0 1 ", timeout=WITHIN)
    page.reload()
    expect(page.locator("article.assistant")).to_contain_text("39 ", timeout=WITHIN)
    expect(page.locator("output")).to_have_text("ready", timeout=WITHIN)
    expect(page.locator("article")).to_have_count(2, timeout=WITHIN)
    assert text_of(page) == "".join(f"{number} " for number in range(40))
