"""The demo's own: the page around the chat, the drawer under the hood, and its switches.

What the chat itself does is tested in ``test_page.py``. CHATSTREAM_SCREENSHOTS=folder keeps
pictures.
"""

import json
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Locator, Page, Request, expect

from chatstream.core.outcomes import ERRORS
from tests.acceptance.chat_page import ChatPage, browsing, expect_state, shoot
from tests.acceptance.network import Network
from tests.behaviours import PARTIAL, TEXT
from tests.demo import Demo
from tests.upstream import Upstream


@pytest.fixture
def chat(browser: Browser, demo: Demo) -> Iterator[ChatPage]:
    """The demo, which must end without an error or a policy violation."""
    with browsing(browser) as context:
        yield ChatPage(context.new_page(), demo.url)


@pytest.fixture
def page(chat: ChatPage) -> Page:
    return chat.page


def expect_answer(answer: Locator, text: str = TEXT) -> None:
    """Wait until the answer is done; its words are compared, for it is rendered as Markdown."""
    expect_state(answer, "done")
    shown = answer.locator("[data-part='text']").text_content() or ""
    assert re.findall(r"\w+", shown) == re.findall(r"\w+", text)


def open_hood(page: Page) -> None:
    page.get_by_role("button", name="Under the hood").click()


def lines_of(page: Page, kind: str) -> list[str]:
    """Return the lines of the event log, without their times."""
    lines: list[str] = page.locator(f"#log [data-kind='{kind}']").evaluate_all(
        "(lines) => lines.map((line) => line.lastChild?.data ?? '')"
    )
    return lines


# ------------------------------------------------------------------------------------ the page


def test_the_page_has_a_strict_policy_and_nothing_inline(demo: Demo) -> None:
    with urllib.request.urlopen(demo.url) as response:
        policy = response.headers["Content-Security-Policy"]
        html = response.read().decode()
    assert "default-src 'self'" in policy
    assert "require-trusted-types-for 'script'" in policy
    assert "unsafe" not in policy
    scripts = re.findall(r"<script[^>]*>", html)
    assert [tag for tag in scripts if "src=" not in tag and "application/json" not in tag] == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", html) == []


def test_a_chat_fills_the_page_and_answers(chat: ChatPage) -> None:
    box = chat.root.bounding_box()
    assert box is not None
    assert (box["width"], box["y"] + box["height"]) == (1280, 800)
    shoot(chat.page, "demo")
    expect_answer(chat.ask())


def test_a_conversation_is_at_an_address_of_the_same_page(chat: ChatPage) -> None:
    expect_answer(chat.ask("Remember this"))
    chat.page.reload()
    assert "?c=" in chat.page.url
    expect(chat.users).to_contain_text("Remember this")
    expect(chat.page.get_by_role("button", name="Under the hood")).to_be_visible()


# ------------------------------------------------------------------------------------ the drawer


def test_the_drawer_opens_beside_the_chat_and_stays_open(page: Page) -> None:
    drawer = page.get_by_role("complementary", name="Under the hood")
    expect(drawer).to_be_hidden()
    open_hood(page)
    chat, hood = page.locator("chatstream-chat").bounding_box(), drawer.bounding_box()
    assert chat is not None
    assert hood is not None
    assert chat["x"] + chat["width"] == hood["x"]
    page.reload()
    expect(drawer).to_be_visible()
    page.get_by_role("button", name="Close", exact=True).last.click()
    expect(drawer).to_be_hidden()
    expect(page.get_by_role("button", name="Under the hood")).to_be_focused()


def test_on_a_narrow_screen_the_drawer_is_a_sheet_below_the_chat(
    browser: Browser, demo: Demo
) -> None:
    with browsing(browser, viewport={"width": 360, "height": 740}) as context:
        chat = ChatPage(context.new_page(), demo.url)
        open_hood(chat.page)
        expect_answer(chat.ask("W" * 200))
        above, hood = chat.root.bounding_box(), chat.page.locator("#hood").bounding_box()
        assert above is not None
        assert hood is not None
        assert above["y"] + above["height"] == hood["y"]
        assert above["height"] > 300
        assert chat.page.evaluate("document.documentElement.scrollWidth") == 360
        shoot(chat.page, "demo-narrow")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_open_drawer_passes_axe(browser: Browser, demo: Demo, scheme: str) -> None:
    # axe is a script of the test's own, which the policy would refuse
    with browsing(browser, color_scheme=scheme, bypass_csp=True) as context:
        chat = ChatPage(context.new_page(), demo.url)
        open_hood(chat.page)
        expect_answer(chat.ask())
        results = Axe().run(chat.page)
        shoot(chat.page, f"demo-{scheme}")
    assert results.violations_count == 0, results.generate_report()


def test_the_log_shows_the_bytes_lines_and_what_the_client_saw(page: Page, chat: ChatPage) -> None:
    open_hood(page)
    expect_answer(chat.ask())
    expect(page.locator("#log")).to_contain_text('data: {"done": true}')
    lines = lines_of(page, "line")
    assert lines[:2] == [": open", "retry: 1000"]
    assert "event: start" in lines
    assert any(line.startswith('data: {"text": ') for line in lines)
    assert re.fullmatch(r"id: \w+:\d+", lines[2])
    seen = lines_of(page, "client")
    assert seen[0] == "state: connecting"
    assert seen[1].startswith("created: run ")
    assert seen[-1] == "end: completed"


@pytest.mark.slow
def test_the_log_begins_again_from_the_start_when_it_is_opened_late(
    page: Page, chat: ChatPage
) -> None:
    expect_answer(chat.ask())
    assert lines_of(page, "line") == []
    open_hood(page)
    expect(page.locator("#log")).to_contain_text('data: {"done": true}')
    assert lines_of(page, "line")[0] == ": open"


@pytest.mark.slow
def test_a_closed_drawer_costs_no_connection(page: Page, chat: ChatPage) -> None:
    streams: list[str] = []

    def note(request: Request) -> None:
        if "/stream/" in request.url:
            streams.append(request.resource_type)

    page.on("request", note)
    open_hood(page)
    expect(chat.ask(model="ok_slow@closed")).to_contain_text("Hello")
    assert sorted(streams) == ["eventsource", "fetch"]
    with page.expect_event("requestfailed", lambda it: it.resource_type == "fetch"):
        page.get_by_role("button", name="Close", exact=True).last.click()


@pytest.mark.slow
def test_the_plots_show_the_first_token_and_the_speed(page: Page, chat: ChatPage) -> None:
    open_hood(page)
    expect_answer(chat.ask(model="ok_slow@plots"))
    expect(page.locator("#figure-first")).to_have_text(re.compile(r"^\d+\.\d\d s$"))
    expect(page.locator("#figure-rate")).to_have_text(re.compile(r"^≈ \d+/s$"))
    expect(page.locator("#plot-rate polyline")).to_have_attribute("points", re.compile(r"\d,\d"))
    expect_answer(chat.ask(model="ok_usage@plots"))
    expect(page.locator("#plot-first rect")).to_have_count(2)
    expect(page.locator("#note-rate")).to_have_text(re.compile("^10 tokens in .* s, as the model"))


# ---------------------------------------------------------------------------------- the switches


def test_a_cut_connection_costs_nothing(page: Page, chat: ChatPage, upstream: Upstream) -> None:
    open_hood(page)
    answer = chat.ask(model="ok_four_seconds@cut")
    expect(answer).to_contain_text("3")
    page.get_by_role("button", name="Cut the connection").click()
    expect_state(answer, "reconnecting")
    expect(answer).to_contain_text("your answer is safe")
    expect(page.locator("#switches-line")).to_contain_text("Cut")
    shoot(page, "demo-cut")
    expect_answer(answer, " ".join(str(number) for number in range(40)))
    expect(page.locator("#switches-line")).to_contain_text("Connected again")
    assert len(upstream.requests_for("ok_four_seconds@cut")) == 1
    expect(page.locator("#log")).to_contain_text("connection lost")
    expect(page.locator("#log")).to_contain_text("Last-Event-ID")
    expect(page.locator("#log")).to_contain_text('data: {"done": true}')
    texts = [line for line in lines_of(page, "line") if line.startswith('data: {"text"')]
    told = "".join(json.loads(line.removeprefix("data: "))["text"] for line in texts)
    assert told == "".join(f"{number} " for number in range(40))


def test_a_cut_without_an_answer_says_so(page: Page) -> None:
    open_hood(page)
    page.get_by_role("button", name="Cut the connection").click()
    expect(page.locator("#switches-line")).to_contain_text("Ask something first")


@pytest.mark.slow
def test_a_slow_model_takes_its_time_for_each_word(page: Page, chat: ChatPage) -> None:
    open_hood(page)
    with page.expect_response("**/demo/switches/"):
        page.get_by_label("Slow model").check()
    began = time.monotonic()
    expect_answer(chat.ask())
    assert time.monotonic() - began > 0.9 * 0.2 * len(TEXT.split())
    page.reload()
    expect(page.get_by_label("Slow model")).to_be_checked()


def test_a_failing_model_fails_and_goes_on_when_it_is_well_again(
    page: Page, chat: ChatPage, upstream: Upstream
) -> None:
    open_hood(page)
    with page.expect_response("**/demo/switches/"):
        page.get_by_label("Failing model").check()
    answer = chat.ask(model="ok@failing")  # ten words
    expect_state(answer, "failed")
    expect(page.locator("#log")).to_contain_text("end: failed (upstream_incomplete)")
    shoot(page, "demo-failed")
    with page.expect_response("**/demo/switches/"):
        page.get_by_label("Failing model").uncheck()
    answer.get_by_role("button", name="Continue").click()
    expect_state(answer, "done")
    assert upstream.requests_for("ok@failing")[0].body.keys() == {
        *("model", "messages", "stream", "stream_options", "tools")
    }


@pytest.mark.slow
def test_a_switch_acts_on_the_answer_that_is_on_its_way(
    page: Page, chat: ChatPage, upstream: Upstream
) -> None:
    open_hood(page)
    answer = chat.ask(model="endless@switched")
    expect(answer).to_contain_text("3")
    page.get_by_label("Failing model").check()
    expect_state(answer, "failed")
    assert upstream.wait_closed(5, "endless@switched")


@pytest.mark.slow
def test_another_visitor_is_left_alone(page: Page, browser: Browser, demo: Demo) -> None:
    open_hood(page)
    with page.expect_response("**/demo/switches/"):
        page.get_by_label("Failing model").check()
    with browsing(browser) as context:
        expect_answer(ChatPage(context.new_page(), demo.url).ask())


def look_things_up(page: Page) -> None:
    open_hood(page)
    with page.expect_response("**/demo/switches/"):
        page.get_by_label("Model looks things up").check()


def ask_anew(chat: ChatPage, prompt: str) -> Locator:
    """Ask in a new conversation."""
    with chat.page.expect_navigation():
        chat.page.get_by_role("link", name="New chat").click()
    chat.wait_ready()
    return chat.ask(prompt)


def test_a_model_looks_up_what_was_said_before(
    page: Page, chat: ChatPage, upstream: Upstream
) -> None:
    expect_answer(chat.ask("Three names for a penguin"))
    asked = len(upstream.requests_for("ok"))
    look_things_up(page)
    expect(page.locator("#switches-line")).to_contain_text("played")
    answer = ask_anew(chat, "Where did a penguin interest me?")
    expect_state(answer, "done")
    tools = answer.locator(".cs-tool")
    expect(tools).to_have_text([re.compile("search_conversations.*done")] * 2)
    expect(answer).to_contain_text(
        "for “interest”, then “penguin”, and found “Three names for a penguin”"
    )
    expect(answer).to_contain_text(
        re.compile("you wrote on [0-9]+ [A-Z][a-z]+ [0-9]+: “Three names for a penguin”")
    )
    assert len(upstream.requests_for("ok")) == asked
    expect(page.locator("#log")).to_contain_text('data: {"done": true}')
    lines = lines_of(page, "line")
    assert any('"model": "played"' in line for line in lines)
    told = [lines[at + 1] for at, line in enumerate(lines) if line == "event: tool_result"]
    assert lines.count("event: tool_call") == 2
    first, second = (json.loads(line.removeprefix("data: "))["output"] for line in told)
    assert first == []
    assert [row["title"] for row in second] == ["Three names for a penguin"]
    shoot(page, "demo-searching")


def test_a_model_finds_nothing_of_another_visitor_nor_of_this_conversation(
    page: Page, chat: ChatPage, browser: Browser, demo: Demo
) -> None:
    with browsing(browser) as context:
        expect_answer(ChatPage(context.new_page(), demo.url).ask("A secret walrus"))
    look_things_up(page)
    answer = chat.ask("A walrus?")
    expect_answer(answer, "I searched your earlier conversations for “walrus”, and found nothing.")


@pytest.mark.slow
def test_a_model_that_looks_things_up_may_fail_too_and_goes_on(page: Page, chat: ChatPage) -> None:
    expect_answer(chat.ask("Three names for a pelican"))
    look_things_up(page)
    with page.expect_response("**/demo/switches/"):
        page.get_by_label("Failing model").check()
    answer = ask_anew(chat, "Pelican?")
    expect_state(answer, "failed")
    expect(answer.locator(".cs-tool")).to_have_attribute("data-state", "done")
    expect(answer).to_contain_text("I searched your earlier conversations for “Pelican”")
    with page.expect_response("**/demo/switches/"):
        page.get_by_label("Failing model").uncheck()
    answer.get_by_role("button", name="Continue").click()
    expect_state(answer, "done")
    text = answer.locator("[data-part='text']").text_content() or ""
    assert text.count("I searched") == 1
    assert text.rstrip().endswith("“Three names for a pelican”")


def test_another_site_cannot_throw_a_switch(demo: Demo) -> None:
    request = urllib.request.Request(f"{demo.url}demo/cut/", data=b"")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value:
        assert refused.value.code == 403


# -------------------------------------------------------------------------------------- by curl


def run_shown(page: Page, name: str, **replaced: str) -> str:
    """Run a command as it is shown, in a shell; return its output."""
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    command = page.locator(f"#{name}").text_content() or ""
    for old, new in replaced.items():
        command = command.replace(old.replace("_", "-"), new)
    result = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30)
    return result.stdout


def test_the_command_shown_asks_the_same(page: Page, chat: ChatPage, upstream: Upstream) -> None:
    prompt = "It's \"quoted\" & 50 % $HOME; \\ 'done'"
    expect_answer(chat.ask(prompt))
    output = run_shown(page, "curl-ask")
    assert output.rstrip().endswith('data: {"done": true}')
    assert upstream.requests_for("ok")[-1].body["messages"][-1]["content"] == prompt


def test_the_command_shown_takes_the_run_up_again(page: Page, chat: ChatPage) -> None:
    open_hood(page)
    expect_answer(chat.ask())
    expect(page.locator("#curl-resume")).to_contain_text(re.compile(r"Last-Event-ID: \w+:[1-9]"))
    (session,) = [it["value"] for it in page.context.cookies() if it["name"] == "sessionid"]
    output = run_shown(page, "curl-resume", YOUR_SESSION=session)
    assert output.rstrip().endswith('data: {"done": true}')
    assert "event: start" not in output


@pytest.mark.slow
def test_a_command_is_copied_by_its_button(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_hood(page)
    button = page.locator("[data-copy='curl-ask']")
    button.click()
    expect(button).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.locator("#curl-ask").text_content()


# -------------------------------------------------------------------- the smallest possible client


@pytest.fixture
def network(demo: Demo) -> Iterator[Network]:
    with Network(demo.port) as network:
        yield network


def test_the_code_shown_is_the_file_that_runs_and_has_four_lines(page: Page) -> None:
    shown = page.locator("#smallest-source").text_content() or ""
    served = page.evaluate("fetch('/static/demo/smallest.js').then((file) => file.text())")
    assert shown == served.strip()
    assert len(shown.splitlines()[1:-1]) == 4  # between the function's head and its brace


def run_smallest(page: Page, model: str = "ok") -> Locator:
    """Run the four lines, which the upstream answers as ``model`` says; return the ending."""
    page.route(
        "**/chat/stream/?*",
        lambda route: route.continue_(url=f"{route.request.url}&model={model}"),
    )
    open_hood(page)
    page.get_by_role("button", name="Run it").click()
    return page.locator("#try-ending")


def test_four_lines_read_an_answer_to_its_end(page: Page) -> None:
    expect(run_smallest(page)).to_have_text("Done")
    assert page.locator("#try-output").text_content() == TEXT


def test_four_lines_tell_a_failure_from_success(page: Page, upstream: Upstream) -> None:
    expect(run_smallest(page, "fin_mid_stream@four")).to_have_text(
        ERRORS["upstream_incomplete"].message
    )
    assert page.locator("#try-output").text_content() == PARTIAL
    assert len(upstream.requests_for("fin_mid_stream@four")) == 1


@pytest.mark.slow
def test_four_lines_survive_a_cut_network(
    browser: Browser, upstream: Upstream, network: Network
) -> None:
    with browsing(browser) as context:
        page = ChatPage(context.new_page(), network.url).page
        ending = run_smallest(page, "ok_slow@four")
        expect(page.locator("#try-output")).to_contain_text("Hello")
        network.cut()
        network.restore()
        expect(ending).to_have_text("Done")
        assert page.locator("#try-output").text_content() == TEXT
    assert len(upstream.requests_for("ok_slow@four")) == 1


@pytest.mark.slow
def test_four_lines_survive_the_switch_that_cuts(page: Page, upstream: Upstream) -> None:
    ending = run_smallest(page, "ok_slow@switch")
    expect(page.locator("#try-output")).to_contain_text("Hello")
    page.get_by_role("button", name="Cut the connection").click()
    expect(ending).to_have_text("Done")
    assert page.locator("#try-output").text_content() == TEXT
    assert len(upstream.requests_for("ok_slow@switch")) == 1


def test_a_reconnecting_event_source_never_buys_the_prompt_twice(
    page: Page, upstream: Upstream
) -> None:
    is_closed = page.evaluate(
        """() => new Promise((resolve) => {
            const source = new EventSource("/chat/stream/?prompt=x&model=ok@careless");
            source.onerror = () => source.readyState === EventSource.CLOSED && resolve(true);
        })"""
    )
    assert is_closed
    assert len(upstream.requests_for("ok@careless")) == 1
