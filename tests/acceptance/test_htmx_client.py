"""htmx 4 and 2, unmodified, in Chromium: what test_clients.py does not play with them."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Route, expect

from tests.acceptance.htmx_page import HtmxChat, prepare
from tests.acceptance.network import Network
from tests.acceptance.players import SITE
from tests.behaviours import HTML_TEXT, TEXT

# Every version on both kinds of server; the two that cover both are quick.
PAIRS = [
    ("uvicorn", "htmx4"),
    ("gunicorn-gthread", "htmx2"),
    pytest.param(("uvicorn", "htmx2"), marks=pytest.mark.slow),
    pytest.param(("gunicorn-gthread", "htmx4"), marks=pytest.mark.slow),
]
TIMEOUT = 20_000  # ms

# Half a minute a pair; test_clients.py has what is always run.
pytestmark = pytest.mark.slow


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT)
    prepare(context)
    yield context
    context.close()


@pytest.fixture(params=PAIRS, ids="-".join)
def chat(request: pytest.FixtureRequest, running: Any, context: BrowserContext) -> HtmxChat:
    server, version = request.param
    chat = HtmxChat(context.new_page(), running(server, **SITE), version)
    chat.open()
    return chat


def test_an_answer_with_markup_is_text(chat: HtmxChat) -> None:
    chat.ask("ok_html@htmx")
    chat.expect_ended()
    assert chat.text() == HTML_TEXT
    assert chat.turns.locator("script, img, a").count() == 0


def test_a_second_prompt_goes_on_with_the_conversation(chat: HtmxChat) -> None:
    model = f"ok@{chat.version}second{chat.service.server.name}"
    chat.ask(model, "first")
    chat.expect_ended()
    chat.ask(model, "second")
    chat.page.wait_for_function("endings() > 1")
    assert chat.text() == TEXT + TEXT
    assert chat.turns.locator(".chatstream-prompt").all_text_contents() == ["first", "second"]
    expect(chat.page.get_by_label("Your message")).to_have_value("")
    _, second = chat.service.upstream.requests_for(model)
    assert [message["content"] for message in second.body["messages"]] == ["first", TEXT, "second"]


def test_an_answer_that_never_began_is_a_failure_and_asked_for_once(chat: HtmxChat) -> None:
    model = f"http_500@{chat.version}{chat.service.server.name}"
    chat.ask(model)
    expect(chat.errors).to_have_attribute("data-code", "upstream_unavailable")
    chat.expect_ended()
    assert chat.requests_for(model) == 1


def test_a_refusal_is_shown_and_told(chat: HtmxChat) -> None:
    chat.ask("ok@htmx", "x" * 1_001)
    expect(chat.errors).to_have_attribute("data-code", "too_large")
    assert chat.events("chat-error")[0]["code"] == "too_large"
    expect(chat.page.get_by_label("Your message")).to_have_value("x" * 1_001)
    chat.ask("ok@htmx", "short")
    chat.expect_ended()
    assert chat.text() == TEXT


def test_a_prompt_that_is_sent_twice_is_one_run(chat: HtmxChat) -> None:
    model = f"ok@{chat.version}twice{chat.service.server.name}"
    key = chat.page.locator("[name=idempotency_key]").input_value()
    chat.ask(model)
    chat.expect_ended()
    chat.page.locator("[name=idempotency_key]").evaluate("(node, key) => node.value = key", key)
    chat.page.locator("[name=conversation]").evaluate("node => node.remove()")
    chat.ask(model)
    chat.page.wait_for_function("endings() > 1")
    assert chat.requests_for(model) == 1
    assert chat.text().endswith(TEXT)  # an element that connects again empties the first one


def test_an_answer_that_a_proxy_refuses_meanwhile_goes_on(chat: HtmxChat) -> None:
    model = f"ok_four_seconds@{chat.version}proxy{chat.service.server.name}"
    refused = []

    def refuse_once(route: Route) -> None:
        refused.append(route.request.url)
        route.fulfill(status=502, body="Bad Gateway")

    with Network(chat.service.server.port) as network:
        chat.open(network.url)
        chat.ask(model)
        expect(chat.turns).to_contain_text("0 1 2 3")
        chat.page.route("**/chat/htmx**", refuse_once, times=1)
        network.cut()
        network.restore()
        chat.expect_ended()
    assert len(refused) == 1
    assert chat.text() == "".join(f"{number} " for number in range(40))
    assert chat.requests_for(model) == 1


def test_a_page_that_is_loaded_again_goes_on_with_the_answer(chat: HtmxChat) -> None:
    chat.ask("ok_four_seconds@htmxload")
    expect(chat.turns).to_contain_text("0 1")
    conversation = chat.page.locator("[name=conversation]").input_value()
    chat.page.goto(f"{chat.page.url}?c={conversation}")
    chat.expect_ended()
    assert chat.text() == "".join(f"{number} " for number in range(40))


def test_a_press_of_stop_counts_although_text_moves_the_button(chat: HtmxChat) -> None:
    """A hand holds a button down for a tenth of a second, and a line of text may come in it."""
    chat.ask("hang_after_headers@htmxpress")  # no text but ours: the button rests until then
    box = chat.stop.bounding_box()
    assert box
    mouse = chat.stop.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mouse.down()
    chat.turns.evaluate("log => log.append('A line.\\n'.repeat(9))")
    mouse.up()
    chat.expect_ended()


def test_without_javascript_the_page_comes_back_with_the_answer(
    browser: Browser, running: Any
) -> None:
    service = running("gunicorn-gthread", **SITE)
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"http://127.0.0.1:{service.server.port}/htmx/htmx2/")
    page.get_by_label("Your message").fill("hi")
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_role("log")).to_contain_text("'three'.", timeout=TIMEOUT)
    expect(page.get_by_role("button", name="Stop")).to_have_count(0)
    assert "/htmx/htmx2/?c=" in page.url
    assert TEXT in (page.locator(".chatstream-answer").text_content() or "")
    context.close()
