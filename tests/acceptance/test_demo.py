"""The demo page in a real browser, through a real server, against every kind of upstream.

CHATSTREAM_SCREENSHOTS=folder keeps a picture of each state.
"""

import os
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
    sync_playwright,
)

from chatstream.core.outcomes import ERRORS, REFUSALS
from tests.behaviours import HTML_TEXT, INJECTION, PARTIAL, TEXT
from tests.conftest import find_service
from tests.demo import ROOT, Demo
from tests.upstream import Upstream

STATIC = ROOT / "project" / "static" / "demo"
SETTINGS = "tests.acceptance.demo_settings"
CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
TIMEOUT = 20_000  # milliseconds
FIRST_WORD = r"first word after \d+\.\d\d s"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def demo(upstream: Upstream) -> Iterator[Demo]:
    with start_demo(upstream) as demo:
        yield demo


def start_demo(upstream: Upstream) -> Demo:
    return Demo(
        CHATSTREAM_BASE_URL=upstream.url,
        CHATSTREAM_MODEL="ok",
        DJANGO_SETTINGS_MODULE=SETTINGS,
    )


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = find_service("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


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

    context = browser.new_context(viewport={"width": 1280, "height": 800})
    page = context.new_page()
    page.set_default_timeout(TIMEOUT)
    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert complaints == []


def play(page: Page, model: str, **query: str) -> None:
    """Let the page's requests ask for ``model``, whose name is the upstream's behaviour."""
    extra = "".join(f"&{name}={value}" for name, value in {"model": model, **query}.items())

    def add(route: Route) -> None:
        route.continue_(url=route.request.url + extra)

    page.route("**/chat/stream/?*", add)


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
    line = expect_ending(turn, "done")
    expect(line).to_have_text(re.compile(rf"^Done · {FIRST_WORD} · 10 tokens$"))
    assert turn.locator(".answer").text_content() == TEXT
    assert page.locator("#announcer").text_content() == line.text_content()
    shoot(page, "done")


def test_an_unknown_token_count_is_not_shown(page: Page) -> None:
    line = expect_ending(ask(page), "done")
    expect(line).to_have_text(re.compile(rf"^Done · {FIRST_WORD}$"))


def test_an_answer_cut_by_the_token_limit_says_that_it_is_not_whole(page: Page) -> None:
    play(page, "finish_length@page")
    turn = ask(page)
    line = expect_ending(turn, "done")
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
    line = expect_ending(turn, "error")
    code = FAILURES[behaviour]
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
    line = expect_ending(ask(page), "error")
    expect(line.locator("strong")).to_have_text("The model is busy. Try again in 45 s")


def test_asking_again_sends_the_same_prompt_once_more(page: Page, upstream: Upstream) -> None:
    play(page, "http_500@again")
    turn = ask(page, "Once more")
    expect_ending(turn, "error")
    page.unroute_all()
    play(page, "ok@again")
    turn.get_by_role("button", name="Ask again").click()
    expect(page.locator(".turn")).to_have_count(2)
    expect_ending(page.locator(".turn").last, "done")
    (request,) = upstream.requests_for("ok@again")
    assert request.body["messages"][-1]["content"] == "Once more"


def test_a_refusal_that_event_source_cannot_read_is_asked_for_by_head(
    page: Page, upstream: Upstream
) -> None:
    play(page, "ok@refused", provider="nobody")
    with page.expect_request(lambda request: request.method == "HEAD"):
        turn = ask(page)
    line = expect_ending(turn, "refused")
    expect(line.locator("code")).to_have_text("invalid")
    assert upstream.requests_for("ok@refused") == []


def test_a_server_that_dies_in_mid_answer_is_a_lost_connection(
    browser: Browser, upstream: Upstream
) -> None:
    with start_demo(upstream) as mortal:
        for page in watched_page(browser, mortal.url):
            play(page, "endless@lost")
            turn = ask(page)
            expect(turn.locator(".answer")).not_to_be_empty()
            mortal.process.kill()
            line = expect_ending(turn, "lost")
            expect(line.locator("strong")).to_have_text(words_for_lost())
            shoot(page, "lost")
            # And a server that is not there at all.
            expect_ending(ask(page), "lost")
    assert upstream.wait_closed(5, "endless@lost")
    assert len(upstream.requests_for("endless@lost")) == 1


def words_for_lost() -> re.Pattern[str]:
    return re.compile("^Connection lost")


# ------------------------------------------------------------------------------ stop and leave


def test_stop_closes_the_stream_and_the_upstream(page: Page, upstream: Upstream) -> None:
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
    upstream.wait_requests("hang_after_headers@stop")
    page.get_by_role("button", name="Stop").click()
    expect_ending(turn, "stopped")
    assert upstream.wait_closed(5, "hang_after_headers@stop")


def test_a_reload_of_the_page_closes_the_upstream(page: Page, upstream: Upstream) -> None:
    play(page, "endless@reload")
    expect(ask(page).locator(".answer")).not_to_be_empty()
    page.reload()
    assert upstream.wait_closed(5, "endless@reload")
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


def test_several_turns_make_a_transcript(page: Page) -> None:
    for number in range(1, 4):
        expect_ending(ask(page, f"question {number}"), "done")
    questions = page.locator(".question").all_text_contents()
    assert questions == ["question 1", "question 2", "question 3"]


def test_a_suggestion_is_sent_by_a_click(page: Page) -> None:
    suggestion = page.locator("#suggestions button").first
    words = suggestion.text_content()
    shoot(page, "empty")
    suggestion.click()
    turn = page.locator(".turn").last
    expect_ending(turn, "done")
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


def test_a_long_prompt_goes_by_post_and_ends_in_the_same_words(
    page: Page, upstream: Upstream
) -> None:
    prompt = "ü" * 400  # 2,400 encoded bytes
    with page.expect_request(lambda request: request.method == "POST"):
        turn = ask(page, prompt)
    expect(expect_ending(turn, "done")).to_contain_text("Done")
    assert turn.locator(".answer").text_content() == TEXT
    assert upstream.requests_for("ok")[-1].body["messages"][-1]["content"] == prompt


def test_a_long_prompt_can_be_refused_and_failed_and_stopped(
    page: Page, upstream: Upstream
) -> None:
    refused = expect_ending(ask(page, "x" * 6_001), "refused")
    expect(refused.locator("code")).to_have_text(re.compile("^(too_large|invalid)$"))

    def play_by_post(model: str) -> None:
        page.unroute_all()
        page.route(
            "**/chat/stream/?*",
            lambda route: route.continue_(
                post_data={**route.request.post_data_json, "model": model}  # type: ignore[dict-item]
            ),
        )

    play_by_post("fin_mid_stream@post")
    failed = expect_ending(ask(page, "x" * 2_001), "error")
    expect(failed.locator("code")).to_have_text("upstream_incomplete")

    play_by_post("endless@post")
    turn = ask(page, "x" * 2_001)
    expect(turn.locator(".answer")).not_to_be_empty()
    page.get_by_role("button", name="Stop").click()
    expect_ending(turn, "stopped")
    assert upstream.wait_closed(5, "endless@post")


# ------------------------------------------------------------------------------- text is data


@pytest.mark.parametrize(
    ("behaviour", "text"), [("ok_injection", INJECTION), ("ok_html", HTML_TEXT)]
)
def test_what_the_model_writes_stays_text(page: Page, behaviour: str, text: str) -> None:
    play(page, behaviour)
    turn = ask(page)
    expect_ending(turn, "done")
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


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_pages_own_reader_takes_events_split_anywhere(page: Page, end: str) -> None:
    lines = (
        *(": open", "retry: 1", "data: one", "", "event:named", "data: a", "data:b", "", ""),
        *("data", "", "id: 1", "", "data: é🎉", "", "data: cut off"),
    )
    stream = end.join(lines)
    events = page.evaluate(
        """async ([stream]) => {
            const { createEventReader } = await import("/static/demo/sse.js");
            const results = new Set();
            for (let size = 1; size <= stream.length; size++) {
                const read = createEventReader();
                const events = [];
                for (let at = 0; at < stream.length; at += size)
                    events.push(...read(stream.slice(at, at + size)));
                results.add(JSON.stringify(events));
            }
            return [...results];
        }""",
        [stream],
    )
    assert events == [
        '[{"name":"message","data":"one"},{"name":"named","data":"a\\nb"},'
        '{"name":"message","data":""},{"name":"message","data":"é🎉"}]'
    ]


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
    expect_ending(ask(page, "W" * 200), "error")
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
    assert {"Send", "Your prompt", "Run it", "Prompt"} <= set(reached)
