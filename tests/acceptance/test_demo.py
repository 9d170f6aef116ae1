"""The demo page in a real browser, through a real server, against every kind of upstream.

CHATSTREAM_SCREENSHOTS=folder keeps a picture of each state.
"""

import json
import os
import re
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    APIRequestContext,
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
)

from chatstream.core.outcomes import ERRORS, REFUSALS, outcome_of_code
from tests.acceptance.conftest import start_demo
from tests.acceptance.network import Network
from tests.behaviours import HTML_TEXT, INJECTION, PARTIAL, TEXT
from tests.demo import ROOT, Demo
from tests.upstream import Upstream

STATIC = ROOT / "project" / "static" / "demo"
TIMEOUT = 20_000  # milliseconds
FIRST_WORD = r"first word after \d+\.\d\d s"


@pytest.fixture
def page(browser: Browser, demo: Demo) -> Iterator[Page]:
    """A page of its own on the demo, which must end without an error or a policy violation."""
    yield from watched_page(browser, demo.url)


def watched_page(browser: Browser, url: str) -> Iterator[Page]:
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # A refused or broken request is what some tests are about.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    def watch(page: Page) -> None:
        page.set_default_timeout(TIMEOUT)
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    context.on("page", watch)
    page = context.new_page()
    page.goto(url)
    yield page
    context.close()
    assert complaints == []


def play(page: Page, model: str, **body: str) -> None:
    """Let the page's requests ask for ``model``, whose name is the upstream's behaviour."""
    more = {"model": model, **body}

    def add(route: Route) -> None:
        asked = route.request.post_data_json
        assert isinstance(asked, dict)
        route.continue_(post_data=json.dumps(asked | more))

    def add_to_query(route: Route) -> None:
        query = "".join(f"&{name}={value}" for name, value in more.items())
        route.continue_(url=route.request.url + query)

    page.unroute_all()
    page.route("**/chat/runs/", add)
    page.route("**/chat/stream/?*", add_to_query)


def ask(page: Page, prompt: str = "Say something") -> Locator:
    """Send a prompt by the keyboard; return its turn."""
    page.locator("#prompt").fill(prompt)
    page.keyboard.press("Enter")
    return page.locator(".turn").last


def expect_ending(turn: Locator, kind: str) -> Locator:
    """Wait for the turn's ending; return the line that tells of it."""
    expect(turn).to_have_attribute("data-ending", kind, timeout=TIMEOUT)
    return turn.locator(".ending")


def shoot(page: Page, name: str) -> None:
    if folder := os.environ.get("CHATSTREAM_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")


# ------------------------------------------------------------------------------------- endings


def test_a_whole_answer_is_done_with_the_time_to_its_first_word_and_its_tokens(page: Page) -> None:
    play(page, "ok_usage@page")
    turn = ask(page)
    line = expect_ending(turn, "completed")
    expect(line).to_have_text(re.compile(rf"^Done · {FIRST_WORD} · 10 tokens$"))
    assert turn.locator(".answer").text_content() == TEXT
    assert page.locator("#announcer").text_content() == line.text_content()
    shoot(page, "completed")


def test_an_unknown_token_count_is_not_shown(page: Page) -> None:
    line = expect_ending(ask(page), "completed")
    expect(line).to_have_text(re.compile(rf"^Done · {FIRST_WORD}$"))


def test_an_answer_cut_by_the_token_limit_says_that_it_is_not_whole(page: Page) -> None:
    play(page, "finish_length@page")
    turn = ask(page)
    line = expect_ending(turn, "truncated")
    expect(line).to_have_text(re.compile(r"^Cut off at the model's length limit.*truncated$"))
    expect(line).to_have_attribute("data-tone", "warn")
    assert turn.locator(".answer").text_content() == PARTIAL


FAILURES = {
    "finish_content_filter": "filtered",
    "http_401_key_echo": "upstream_auth",
    "http_404": "upstream_rejected",
    "http_400_context": "upstream_too_large",
    "http_429_quota": "upstream_quota",
    "http_500": "upstream_unavailable",
    "http_200_html": "upstream_malformed",
    "fin_mid_stream": "upstream_incomplete",
    "end_no_finish": "upstream_incomplete",
    "hang_mid_stream": "upstream_timeout",
    "error_object": "upstream_error",
}


@pytest.mark.parametrize("behaviour", FAILURES)
def test_a_failure_is_told_in_words_with_its_code(
    page: Page, upstream: Upstream, behaviour: str
) -> None:
    model = f"{behaviour}@page"
    play(page, model)
    turn = ask(page)
    code = FAILURES[behaviour]
    line = expect_ending(turn, outcome_of_code(code))
    words = words_of("ERRORS")[code]
    expect(line.locator("strong")).to_have_text(words)
    expect(line.locator("code")).to_have_text(code)
    expect(line).to_have_attribute("data-tone", "bad")
    again = turn.get_by_role("button", name="Ask again")
    expect(again).to_have_count(int(ERRORS[code].is_retryable))
    shoot(page, f"failed-{behaviour}")
    assert len(upstream.requests_for(model)) == 1


def test_a_busy_model_says_when_to_try_again(page: Page) -> None:
    play(page, "http_429_retry_after@page")
    line = expect_ending(ask(page), "failed")
    expect(line.locator("strong")).to_have_text("The model is busy. Try again in 45 s")


def test_asking_again_answers_the_same_prompt_once_more(page: Page, upstream: Upstream) -> None:
    play(page, "http_500@again")
    turn = ask(page, "Once more")
    expect_ending(turn, "failed")
    play(page, "ok@again")
    turn.get_by_role("button", name="Ask again").click()
    expect_ending(turn, "completed")
    assert turn.locator(".answer").text_content() == TEXT
    expect(page.locator(".turn")).to_have_count(1)
    (request,) = upstream.requests_for("ok@again")
    assert request.body["messages"] == [{"role": "user", "content": "Once more"}]


def test_a_refusal_is_told_in_words_with_its_code(page: Page, upstream: Upstream) -> None:
    play(page, "ok@refused", provider="nobody")
    line = expect_ending(ask(page), "refused")
    expect(line.locator("strong")).to_have_text(words_of("REFUSALS")["invalid"])
    expect(line.locator("code")).to_have_text("invalid")
    assert upstream.requests_for("ok@refused") == []


# ------------------------------------------------------------------------ what the network does


@pytest.fixture
def network(demo: Demo) -> Iterator[Network]:
    with Network(demo.port) as network:
        yield network


@pytest.mark.parametrize("seconds", [0.5, 5])
def test_a_network_cut_in_mid_answer_costs_nothing(
    browser: Browser, upstream: Upstream, network: Network, seconds: float
) -> None:
    model = f"ok_slow@cut-{seconds}"
    for page in watched_page(browser, network.url):
        play(page, model)
        turn = ask(page)
        expect(turn.locator(".answer")).to_contain_text("Hello")
        network.cut()
        expect(turn.locator(".ending")).to_contain_text("Reconnecting")
        shoot(page, "reconnecting")
        time.sleep(seconds)
        expect(turn.locator(".ending")).to_contain_text("Reconnecting")
        network.restore()
        expect_ending(turn, "completed")
        assert turn.locator(".answer").text_content() == TEXT
    assert len(upstream.requests_for(model)) == 1


def test_a_reload_in_mid_answer_goes_on_with_it(page: Page, upstream: Upstream) -> None:
    play(page, "ok_slow@reload")
    expect(ask(page, "Go on").locator(".answer")).to_contain_text("Hello")
    page.reload()
    turn = page.locator(".turn")
    expect(turn).to_have_attribute("data-ending", "completed")
    assert turn.locator(".question").text_content() == "Go on"
    assert turn.locator(".answer").text_content() == TEXT
    assert len(upstream.requests_for("ok_slow@reload")) == 1


def test_an_answer_ends_without_its_tab_and_is_there_when_one_opens(
    page: Page, demo: Demo, upstream: Upstream
) -> None:
    play(page, "ok_slow@tab")
    expect(ask(page).locator(".answer")).to_contain_text("Hello")
    conversation = page.evaluate("localStorage.getItem('chatstream-conversation')")
    page.close()
    wait_until_settled(page.context.request, f"{demo.url}chat/conversations/{conversation}/")
    reopened = page.context.new_page()
    with reopened.expect_request_finished(lambda request: "/conversations/" in request.url):
        reopened.goto(demo.url)
    turn = reopened.locator(".turn")
    expect(turn).to_have_attribute("data-ending", "completed")
    assert turn.locator(".answer").text_content() == TEXT
    assert len(upstream.requests_for("ok_slow@tab")) == 1


def wait_until_settled(request: APIRequestContext, url: str) -> None:
    until = time.monotonic() + 30
    while request.get(url).json()["open_run"]:
        assert time.monotonic() < until, "the answer did not end"
        time.sleep(0.2)


def test_a_server_that_dies_in_mid_answer_leaves_a_clear_ending(
    browser: Browser, upstream: Upstream
) -> None:
    with start_demo(upstream) as mortal:
        for page in watched_page(browser, mortal.url):
            play(page, "endless@died")
            turn = ask(page)
            expect(turn.locator(".answer")).to_contain_text("5 ")
            mortal.kill()
            expect(turn.locator(".ending")).to_contain_text("Reconnecting")
            mortal.restart()
            line = expect_ending(turn, "interrupted")
            expect(line.locator("strong")).to_have_text(words_of("ERRORS")["interrupted"])
            expect(turn.locator(".answer")).to_contain_text("0 1 2 3 4 5 ")
            expect(turn.get_by_role("button", name="Ask again")).to_be_visible()
            shoot(page, "interrupted")
    assert len(upstream.requests_for("endless@died")) == 1


def test_a_server_that_is_not_there_is_a_lost_connection(
    browser: Browser, upstream: Upstream, network: Network
) -> None:
    for page in watched_page(browser, network.url):
        network.cut()
        turn = ask(page, "Anybody?")
        line = expect_ending(turn, "lost")
        expect(line.locator("strong")).to_have_text(re.compile("^Connection lost"))
        network.restore()
        play(page, "ok@there")
        turn.get_by_role("button", name="Ask again").click()
        expect_ending(turn, "completed")
    assert len(upstream.requests_for("ok@there")) == 1


# ------------------------------------------------------------------------------ stop and leave


def test_stop_ends_the_answer_and_closes_the_upstream(page: Page, upstream: Upstream) -> None:
    play(page, "endless@stop")
    turn = ask(page)
    expect(turn.locator(".answer")).not_to_be_empty()
    shoot(page, "streaming")
    page.get_by_role("button", name="Stop").click()
    line = expect_ending(turn, "stopped")
    expect(line).to_contain_text("Stopped by you")
    assert upstream.wait_closed(5, "endless@stop")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.locator("#prompt")).to_be_focused()


def test_stop_works_before_the_first_word(page: Page, upstream: Upstream) -> None:
    play(page, "hang_after_headers@stop")
    turn = ask(page)
    expect(turn.locator(".ending")).to_have_text("Waiting for the first word…")
    upstream.wait_requests("hang_after_headers@stop")
    page.get_by_role("button", name="Stop").click()
    expect_ending(turn, "stopped")
    assert upstream.wait_closed(5, "hang_after_headers@stop")


def test_stop_works_after_a_reload(page: Page, upstream: Upstream) -> None:
    play(page, "endless@reloaded")
    expect(ask(page).locator(".answer")).not_to_be_empty()
    page.reload()
    page.get_by_role("button", name="Stop").click()
    expect_ending(page.locator(".turn"), "stopped")
    assert upstream.wait_closed(5, "endless@reloaded")


def test_a_new_chat_leaves_the_old_one(page: Page) -> None:
    expect_ending(ask(page), "completed")
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("#welcome")).to_be_visible()
    expect(page.locator(".turn")).to_have_count(0)


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


# ------------------------------------------------------------------------------------- asking


def test_the_next_prompt_waits_until_the_answer_has_ended(page: Page) -> None:
    play(page, "endless@patience")
    ask(page, "first")
    page.locator("#prompt").fill("second")
    page.keyboard.press("Enter")
    expect(page.locator("#prompt")).to_have_value("second")
    expect(page.locator(".turn")).to_have_count(1)
    page.get_by_role("button", name="Stop").click()


def test_several_turns_make_a_transcript_that_a_reload_keeps(page: Page) -> None:
    for number in range(1, 4):
        expect_ending(ask(page, f"question {number}"), "completed")
    page.reload()
    expect(page.locator(".turn")).to_have_count(3)
    questions = page.locator(".question").all_text_contents()
    assert questions == ["question 1", "question 2", "question 3"]
    assert page.locator(".answer").all_text_contents() == [TEXT] * 3


def test_the_model_is_told_what_was_said_before(page: Page, upstream: Upstream) -> None:
    play(page, "ok@told")
    expect_ending(ask(page, "first"), "completed")
    expect_ending(ask(page, "second"), "completed")
    assert upstream.requests_for("ok@told")[-1].body["messages"] == [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": TEXT},
        {"role": "user", "content": "second"},
    ]


def test_a_double_click_sends_once(page: Page, upstream: Upstream) -> None:
    play(page, "ok@double")
    page.locator("#suggestions button").first.dblclick()
    expect_ending(page.locator(".turn"), "completed")
    assert len(upstream.requests_for("ok@double")) == 1


def test_a_suggestion_is_sent_by_a_click(page: Page) -> None:
    suggestion = page.locator("#suggestions button").first
    words = suggestion.text_content()
    shoot(page, "empty")
    suggestion.click()
    turn = page.locator(".turn").last
    expect_ending(turn, "completed")
    assert turn.locator(".question").text_content() == words
    expect(page.locator("#welcome")).to_be_hidden()


def test_shift_enter_starts_a_new_line(page: Page) -> None:
    page.locator("#prompt").fill("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(page.locator("#prompt")).to_have_value("one\ntwo")
    expect(page.locator(".turn")).to_have_count(0)


@pytest.mark.parametrize("composing", ["isComposing: true", "keyCode: 229"])
def test_enter_that_picks_a_character_of_an_input_method_sends_nothing(
    page: Page, composing: str
) -> None:
    box = page.locator("#prompt")
    box.fill("にほん")
    box.evaluate(
        f"""(box) => box.dispatchEvent(new KeyboardEvent("keydown",
            {{ key: "Enter", bubbles: true, cancelable: true, {composing} }}))"""
    )
    expect(page.locator(".turn")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator(".turn")).to_have_count(1)


def test_an_empty_prompt_is_not_sent(page: Page) -> None:
    ask(page, "  \n ")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_long_prompt_is_sent_whole(page: Page, upstream: Upstream) -> None:
    prompt = "ü" * 2_000
    play(page, "ok@long")
    expect_ending(ask(page, prompt), "completed")
    (request,) = upstream.requests_for("ok@long")
    assert request.body["messages"][-1]["content"] == prompt


def test_a_prompt_that_is_too_long_is_refused(page: Page) -> None:
    refused = expect_ending(ask(page, "x" * 6_001), "refused")
    expect(refused.locator("code")).to_have_text("too_large")


# ------------------------------------------------------------------------------- text is data


@pytest.mark.parametrize(
    ("behaviour", "text"), [("ok_injection", INJECTION), ("ok_html", HTML_TEXT)]
)
def test_what_the_model_writes_stays_text(page: Page, behaviour: str, text: str) -> None:
    play(page, behaviour)
    turn = ask(page)
    expect_ending(turn, "completed")
    answer = turn.locator(".answer")
    assert answer.evaluate("(element) => element.textContent") == text
    assert answer.locator("*").count() == 0


def test_the_page_has_a_strict_policy_and_nothing_inline(demo: Demo) -> None:
    with urllib.request.urlopen(demo.url) as response:
        policy = response.headers["Content-Security-Policy"]
        html = response.read().decode()
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert re.findall(r"<script(?![^>]*\ssrc=)", html) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|javascript:", html) == []


def test_every_code_has_words_on_the_page() -> None:
    assert set(ERRORS) <= set(words_of("ERRORS"))
    assert set(REFUSALS) <= set(words_of("REFUSALS"))


def words_of(table: str) -> dict[str, str]:
    """Return one of the tables of ``endings.js``."""
    source = (STATIC / "endings.js").read_text(encoding="utf-8")
    found = re.search(rf"const {table} = \{{(.*?)\n\}};", source, re.DOTALL)
    assert found is not None
    return dict(re.findall(r'^  (\w+): "(.*)",$', found[1], re.MULTILINE))


# -------------------------------------------------------------------- the smallest possible client


def test_the_code_shown_is_the_file_that_runs_and_has_four_lines(page: Page) -> None:
    shown = page.locator("#smallest-source").text_content() or ""
    served = page.evaluate("fetch('/static/demo/smallest.js').then((file) => file.text())")
    assert shown == served.strip()
    assert len(shown.splitlines()[1:-1]) == 4  # between the function's head and its brace


def test_four_lines_read_an_answer_to_its_end(page: Page) -> None:
    page.get_by_role("button", name="Run it").click()
    expect(page.locator("#try-ending")).to_have_text("Done")
    assert page.locator("#try-output").text_content() == TEXT
    page.locator("#try-ending").scroll_into_view_if_needed()
    shoot(page, "smallest")


def test_four_lines_tell_a_failure_from_success(page: Page, upstream: Upstream) -> None:
    play(page, "fin_mid_stream@four")
    page.get_by_role("button", name="Run it").click()
    expect(page.locator("#try-ending")).to_have_text(ERRORS["upstream_incomplete"].message)
    assert page.locator("#try-output").text_content() == PARTIAL
    assert len(upstream.requests_for("fin_mid_stream@four")) == 1


def test_four_lines_survive_a_cut_network(
    browser: Browser, upstream: Upstream, network: Network
) -> None:
    for page in watched_page(browser, network.url):
        play(page, "ok_slow@four")
        page.get_by_role("button", name="Run it").click()
        expect(page.locator("#try-output")).to_contain_text("Hello")
        network.cut()
        network.restore()
        expect(page.locator("#try-ending")).to_have_text("Done")
        assert page.locator("#try-output").text_content() == TEXT
    assert len(upstream.requests_for("ok_slow@four")) == 1


# -------------------------------------------------------------------------------------- the look


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_a_narrow_screen_in_light_and_dark(
    browser: Browser, demo: Demo, scheme: str
) -> None:
    context = browser.new_context(
        viewport={"width": 360, "height": 740},
        color_scheme=scheme,  # type: ignore[arg-type]
    )
    page = context.new_page()
    page.goto(demo.url)
    play(page, "fin_mid_stream@narrow")
    expect_ending(ask(page, "W" * 200), "failed")
    width = page.evaluate("document.documentElement.scrollWidth")
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shoot(page, f"narrow-{scheme}")
    context.close()
    assert width == 360
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(17, 22, 20)"}[scheme]


def test_every_control_has_a_name_and_the_keyboard_reaches_it(page: Page) -> None:
    page.locator("#prompt").blur()
    reached = []
    for _ in range(page.locator("a, button, input, textarea, pre").count()):
        page.keyboard.press("Tab")
        reached.append(
            page.evaluate(
                """() => {
                    const it = document.activeElement;
                    return it.labels?.[0]?.textContent || it.ariaLabel || it.textContent.trim();
                }"""
            )
        )
    assert all(reached)
    assert {"New chat", "Send", "Your prompt", "Run it", "Prompt"} <= set(reached)
