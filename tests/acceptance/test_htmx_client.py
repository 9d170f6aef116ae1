"""htmx 4 and 2, unmodified, in Chromium, on a page of {% chatstream_htmx %} and nothing else."""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from tests.acceptance.network import Network
from tests.acceptance.rows import Service
from tests.behaviours import HTML_TEXT, INJECTION, PARTIAL, TEXT
from tests.node import package_file

# Every version on both kinds of server; the two that cover both are quick.
PAIRS = [
    ("uvicorn", "htmx4"),
    ("gunicorn-gthread", "htmx2"),
    pytest.param(("uvicorn", "htmx2"), marks=pytest.mark.slow),
    pytest.param(("gunicorn-gthread", "htmx4"), marks=pytest.mark.slow),
]
SHOWN_INJECTION = INJECTION.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")
TIMEOUT = 20_000  # ms
TOKENS = "span:not(.chatstream-error, .chatstream-note)"

# Half a minute a pair; tests/wire and tests/test_htmx.py have the quick ones.
pytestmark = pytest.mark.slow


class Chat:
    """The page, with what happened on it in ``events``: (name, detail)."""

    def __init__(self, page: Page, service: Service, version: str) -> None:
        self.page = page
        self.service = service
        self.version = version

    def open(self, base: str = "") -> None:
        base = base or f"http://127.0.0.1:{self.service.server.port}/"
        self.page.goto(f"{base}htmx/{self.version}/")

    def ask(self, model: str, prompt: str = "hi", provider: str = "default") -> None:
        """Send a prompt, with fields that a project's own form might have."""
        self.set_field("model", model)
        self.set_field("provider", provider)
        self.page.get_by_label("Your message").fill(prompt)
        self.page.get_by_role("button", name="Send").click()

    def set_field(self, name: str, value: str) -> None:
        self.page.evaluate(
            """([name, value]) => {
                const known = document.querySelector(`[name=${name}]`);
                const field = known ?? document.createElement("input");
                Object.assign(field, {type: "hidden", name, value});
                document.forms[0].append(field);
            }""",
            [name, value],
        )

    @property
    def turns(self) -> Locator:
        return self.page.get_by_role("log")

    @property
    def errors(self) -> Locator:
        return self.page.locator(".chatstream-error")

    @property
    def stop(self) -> Locator:
        return self.page.get_by_role("button", name="Stop")

    def text(self) -> str:
        """Return the text of the spans that are tokens."""
        script = "nodes => nodes.map(node => node.textContent).join('')"
        return str(self.turns.locator(TOKENS).evaluate_all(script))

    def expect_ended(self) -> None:
        expect(self.turns.locator("span").first).to_be_attached()
        expect(self.stop).to_have_count(0)
        self.page.wait_for_function("endings() > 0")

    def events(self, name: str) -> list[Any]:
        found = self.page.evaluate("name => happened.filter(([n]) => n === name)", name)
        return [detail for _, detail in found]

    def requests_for(self, model: str) -> int:
        return len(self.service.upstream.requests_for(model))


RECORDER = """
window.happened = [];
const record = name => document.addEventListener(name, event => {
  const detail = event.detail ?? {};
  happened.push([name, {data: detail.data ?? null, reason: detail.reason ?? detail.type ?? null,
                        code: detail.code ?? null}]);
});
["chat-error", "done", "htmx:sse:close", "htmx:sseClose", "htmx:oobErrorNoTarget"].forEach(record);
document.addEventListener("htmx:sseOpen", ({detail: {source}}) => {
  for (const name of ["chat-error", "done"])
    source.addEventListener(name, ({data}) => happened.push([name, {data}]));
});
window.endings = () => happened.filter(
  ([name, {reason}]) => /sse:?close/i.test(name) && reason === "message").length;
"""


def serve_client(route: Route) -> None:
    path = route.request.url.partition("/clients/")[2]
    route.fulfill(path=package_file(path), content_type="text/javascript")


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    context = browser.new_context()
    context.set_default_timeout(TIMEOUT)
    context.route("**/clients/**", serve_client)
    context.add_init_script(RECORDER)
    yield context
    context.close()


@pytest.fixture(params=PAIRS, ids="-".join)
def chat(request: pytest.FixtureRequest, running: Any, context: BrowserContext) -> Chat:
    server, version = request.param
    chat = Chat(context.new_page(), running(server), version)
    chat.open()
    return chat


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [
        ("ok_slow", TEXT),  # each token by itself, some of them white space
        ("ok_slow_first", TEXT),  # pings before it
        ("ok_injection", SHOWN_INJECTION),
        pytest.param("ok_html", HTML_TEXT, marks=pytest.mark.slow),
    ],
)
def test_an_answer_is_shown_as_it_is(chat: Chat, behaviour: str, text: str) -> None:
    chat.ask(f"{behaviour}@htmx", provider="patient")
    chat.expect_ended()
    assert chat.text() == text
    assert [event["data"] for event in chat.events("done")] == ['{"outcome": "completed"}']
    assert chat.turns.locator("script, img, a").count() == 0


def test_a_second_prompt_goes_on_with_the_conversation(chat: Chat) -> None:
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


def test_an_answer_is_shown_as_it_comes_until_it_is_stopped(chat: Chat) -> None:
    chat.ask("endless@htmxstop")
    expect(chat.turns).to_contain_text("0 1 2 3")
    assert chat.events("done") == []
    chat.stop.click()
    expect(chat.errors).to_have_text("The answer was stopped.")
    chat.expect_ended()
    assert '"code": "stopped"' in chat.events("chat-error")[0]["data"]


@pytest.mark.parametrize(
    ("behaviour", "code", "text"),
    [
        ("fin_mid_stream", "upstream_incomplete", PARTIAL),
        ("finish_content_filter", "filtered", PARTIAL),
        ("http_500", "upstream_unavailable", ""),
    ],
)
def test_a_failure_is_seen_and_told_and_ends_it(
    chat: Chat, behaviour: str, code: str, text: str
) -> None:
    model = f"{behaviour}@{chat.version}{chat.service.server.name}"
    chat.ask(model)
    expect(chat.errors).to_have_attribute("data-code", code)
    chat.expect_ended()
    assert chat.text() == text
    assert f'"code": "{code}"' in chat.events("chat-error")[0]["data"]
    assert len(chat.events("done")) == 1
    assert chat.requests_for(model) == 1


def test_a_truncated_answer_is_done_and_says_so(chat: Chat) -> None:
    chat.ask("finish_length@htmx")
    chat.expect_ended()
    expect(chat.turns.locator(".chatstream-note")).to_have_text(
        "The answer reached its length limit."
    )
    assert chat.text() == PARTIAL
    assert chat.events("done")[0]["data"] == '{"outcome": "truncated"}'


def test_a_refusal_is_shown_and_told(chat: Chat) -> None:
    chat.ask("ok@htmx", "x" * 200_000)
    expect(chat.errors).to_have_attribute("data-code", "too_large")
    assert chat.events("chat-error")[0]["code"] == "too_large"
    expect(chat.page.get_by_label("Your message")).to_have_value("x" * 200_000)
    chat.ask("ok@htmx", "short")
    chat.expect_ended()
    assert chat.text() == TEXT


def test_a_prompt_that_is_sent_twice_is_one_run(chat: Chat) -> None:
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


def test_an_answer_that_is_cut_off_goes_on(chat: Chat) -> None:
    model = f"ok_four_seconds@{chat.version}cut{chat.service.server.name}"
    with Network(chat.service.server.port) as network:
        chat.open(network.url)
        chat.ask(model)
        expect(chat.turns).to_contain_text("0 1 2 3")
        network.cut()
        chat.page.wait_for_timeout(300)
        network.restore()
        chat.expect_ended()
    assert chat.text() == "".join(f"{number} " for number in range(40))
    assert chat.requests_for(model) == 1


def test_an_answer_that_a_proxy_refuses_meanwhile_goes_on(chat: Chat) -> None:
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


def test_a_page_that_is_loaded_again_goes_on_with_the_answer(chat: Chat) -> None:
    chat.ask("ok_four_seconds@htmxload")
    expect(chat.turns).to_contain_text("0 1")
    conversation = chat.page.locator("[name=conversation]").input_value()
    chat.page.goto(f"{chat.page.url}?c={conversation}")
    chat.expect_ended()
    assert chat.text() == "".join(f"{number} " for number in range(40))


def test_without_javascript_the_page_comes_back_with_the_answer(
    browser: Browser, running: Any
) -> None:
    service = running("gunicorn-gthread")
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
