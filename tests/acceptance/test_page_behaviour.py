"""The chat page as people use it: keys, versions, tabs, reloads, what is typed and never lost."""

import re
import time
from collections.abc import Iterator

import django
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Route, expect

from tests.acceptance.chat_page import ChatPage, browsing, expect_state
from tests.acceptance.conftest import start_demo
from tests.acceptance.states import STATES, Demos, reached
from tests.behaviours import TEXT
from tests.demo import Demo
from tests.upstream import Upstream

FIRST_WORD = TEXT.split(",")[0]
NARROW = {"viewport": {"width": 360, "height": 800}}


@pytest.fixture(scope="module")
def demos(demo: Demo, upstream: Upstream) -> Iterator[Demos]:
    with start_demo(upstream, "tests.acceptance.page_settings") as door:
        yield Demos(demo, door)


@pytest.fixture
def chat(context: BrowserContext, demo: Demo) -> ChatPage:
    return ChatPage(context.new_page(), demo.url + "chat/")


def done(chat: ChatPage, prompt: str = "Say something", model: str = "ok@page") -> None:
    expect_state(chat.ask(prompt, model), "done")


def told(upstream: Upstream, model: str) -> list[str]:
    """What the last request told the model: the contents, oldest first."""
    asked = upstream.requests_for(model)[-1].body
    return [message["content"] for message in asked["messages"]]


# Writing --------------------------------------------------------------------------------------


def test_shift_enter_breaks_the_line_and_enter_sends(chat: ChatPage, upstream: Upstream) -> None:
    chat.play("ok@lines")
    chat.field.fill("one")
    chat.field.press("Shift+Enter")
    chat.field.press_sequentially("two")
    chat.field.press("Enter")
    expect_state(chat.answers.last, "done")
    assert told(upstream, "ok@lines") == ["one\ntwo"]


@pytest.mark.parametrize("late", [False, True], ids=["composing", "keyCode 229"])
def test_enter_that_picks_a_character_of_an_input_method_does_not_send(
    chat: ChatPage, late: bool
) -> None:
    chat.field.fill("你")
    chat.field.evaluate(
        """(field, late) => field.dispatchEvent(new KeyboardEvent("keydown", {
            key: "Enter", bubbles: true, isComposing: !late, keyCode: late ? 229 : 13 }))""",
        late,
    )
    expect(chat.users).to_have_count(0)
    expect(chat.field).to_have_value("你")


def test_a_counter_appears_near_the_limit_and_beyond_it_nothing_is_sent(chat: ChatPage) -> None:
    chat.field.fill("x" * 4_799)
    expect(chat.part("counter")).to_be_hidden()
    chat.field.fill("x" * 4_800)
    expect(chat.part("counter")).to_have_text("4800 / 6000")
    chat.field.fill("x" * 6_001)
    expect(chat.send).to_be_disabled()
    chat.field.press("Enter")
    expect(chat.users).to_have_count(0)


def test_a_draft_survives_a_reload(chat: ChatPage) -> None:
    chat.field.fill("not yet")
    chat.page.reload()
    chat.wait_ready()
    expect(chat.field).to_have_value("not yet")


def test_what_was_sent_and_not_taken_survives_a_reload(chat: ChatPage) -> None:
    chat.page.route("**/chat/runs/", lambda route: None)  # it never arrives
    chat.field.fill("on its way")
    chat.field.press("Enter")
    expect(chat.field).to_have_value("")
    chat.field.fill("and more")
    chat.page.reload()  # with the route in place: without one, what waits would go through
    chat.wait_ready()
    expect(chat.field).to_have_value("on its way\nand more")


def test_a_suggestion_is_sent_by_a_click(chat: ChatPage) -> None:
    chat.play("ok@page")
    suggestion = chat.page.locator(".cs-suggestions button").first
    words = suggestion.text_content() or ""
    suggestion.click()
    expect_state(chat.answers.last, "done")
    expect(chat.users.last).to_contain_text(words.strip())
    expect(chat.part("empty")).to_be_hidden()


@pytest.mark.slow
def test_what_was_typed_before_the_scripts_came_joins_the_draft(chat: ChatPage) -> None:
    chat.field.fill("kept")
    chat.page.context.route("**/chatstream-entries*", late)
    chat.page.reload(wait_until="commit")
    chat.field.fill("quick")
    chat.wait_ready()
    expect(chat.field).to_have_value("kept\nquick")


def late(route: Route) -> None:
    time.sleep(0.7)
    route.continue_()


def test_an_edit_survives_a_reload_and_is_gone_once_it_is_sent(chat: ChatPage) -> None:
    done(chat, "first")
    chat.act(chat.users.last, "edit")
    editor = chat.users.last.get_by_role("textbox")
    editor.fill("changed")
    chat.field.press("ArrowUp")
    expect(editor).to_have_value("changed")
    chat.page.reload()
    expect(editor).to_have_value("changed")
    editor.press("Enter")
    expect(chat.users.last).to_contain_text("changed")
    expect_state(chat.answers.last, "done")
    chat.page.reload()
    chat.wait_ready()
    expect(editor).to_have_count(0)


def test_stop_right_after_send_stops_the_run_that_is_not_there_yet(chat: ChatPage) -> None:
    chat.play("endless@early")
    chat.page.route("**/chat/conversations/", late)
    chat.field.fill("Go")
    chat.field.press("Enter")
    chat.field.press("Escape")
    expect_state(chat.answers.last, "stopped")


def test_a_double_click_on_send_does_not_stop(chat: ChatPage) -> None:
    chat.play("ok@twice")
    chat.page.route("**/chat/conversations/", late)
    chat.field.fill("Go")
    chat.send.dblclick()
    expect_state(chat.answers.last, "done")


@pytest.mark.slow
def test_the_focus_stays_on_the_page_when_what_had_it_goes(chat: ChatPage) -> None:
    chat.play("ok@focus")
    chat.page.locator(".cs-suggestions button").first.click()
    expect(chat.field).to_be_focused()
    expect_state(chat.answers.last, "done")
    chat.field.fill("by the button")
    chat.send.press("Enter")
    expect_state(chat.answers.last, "done")
    expect(chat.field).to_be_focused()
    chat.answers.last.locator('[data-action="regenerate"]').press("Enter")
    expect(chat.field).to_be_focused()


@pytest.mark.slow
def test_a_browser_without_storage_and_channels_chats_too(
    context: BrowserContext, demo: Demo
) -> None:
    context.add_init_script(
        """delete window.BroadcastChannel;
        Object.defineProperty(window, "sessionStorage", {
            get() { throw new DOMException("forbidden", "SecurityError"); } });"""
    )
    done(ChatPage(context.new_page(), demo.url + "chat/"))


@pytest.mark.slow
def test_a_link_within_the_page_does_not_load_it_again(chat: ChatPage) -> None:
    done(chat)
    chat.page.evaluate("() => { window.isOld = true; location.hash = 'below'; }")
    chat.page.wait_for_timeout(300)
    assert chat.page.evaluate("() => window.isOld") is True


@pytest.mark.slow
def test_a_short_loss_of_the_network_is_over_when_it_is(chat: ChatPage) -> None:
    """The connection itself outlives it."""
    answer = chat.ask(model="endless@blip")
    expect_state(answer, "streaming")
    chat.page.context.set_offline(True)
    expect_state(answer, "reconnecting")
    chat.page.context.set_offline(False)
    expect_state(answer, "streaming")
    chat.send.click()
    expect_state(answer, "stopped")


@pytest.mark.slow
def test_a_failing_look_at_the_conversation_does_not_hide_a_good_answer(chat: ChatPage) -> None:
    chat.play("endless@unsynced")
    chat.page.route("**/chat/conversations/?*/", lambda route: route.fulfill(status=500))
    chat.field.fill("Go")
    chat.field.press("Enter")
    expect_state(chat.answers.last, "streaming")
    chat.page.wait_for_timeout(500)
    chat.expect_chat("streaming", "green")
    expect(chat.notice).to_be_hidden()
    chat.page.unroute_all()
    chat.send.click()
    expect_state(chat.answers.last, "stopped")


# Versions -------------------------------------------------------------------------------------


def test_an_edited_message_is_answered_anew_and_both_versions_stay(
    chat: ChatPage, upstream: Upstream
) -> None:
    done(chat, "first")
    done(chat, "second")
    chat.play("ok@edited")
    chat.act(chat.users.first, "edit")
    editor = chat.users.first.get_by_role("textbox")
    editor.fill("changed")
    editor.press("Enter")
    expect(chat.answers).to_have_count(1)
    expect_state(chat.answers.last, "done")
    assert told(upstream, "ok@edited") == ["changed"]
    position = chat.users.first.locator('[data-part="position"]')
    expect(position).to_have_text("2 / 2")
    chat.act(chat.users.first, "previous")
    expect(chat.answers).to_have_count(2)
    expect(chat.users.first).to_contain_text("first")
    expect(chat.users.last).to_contain_text("second")


def test_the_arrow_up_in_an_empty_field_edits_the_last_message(chat: ChatPage) -> None:
    done(chat, "first")
    done(chat, "second")
    chat.field.press("ArrowUp")
    editor = chat.users.last.get_by_role("textbox")
    expect(editor).to_be_focused()
    expect(editor).to_have_value("second")
    editor.press("Escape")
    expect(chat.users.last.get_by_role("textbox")).to_have_count(0)
    expect(chat.users.last).to_contain_text("second")


def test_an_answer_is_regenerated_and_the_earlier_one_is_a_click_away(chat: ChatPage) -> None:
    done(chat, model="ok_usage@page")
    chat.play("ok_html@page")
    chat.act(chat.answers.last, "regenerate")
    expect(chat.answers.last.locator('[data-part="position"]')).to_have_text("2 / 2")
    expect_state(chat.answers.last, "done")
    chat.act(chat.answers.last, "previous")
    expect(chat.answers.last).to_contain_text(FIRST_WORD)


def test_a_refused_edit_keeps_what_was_typed(chat: ChatPage) -> None:
    done(chat, "first")
    chat.page.unroute_all()
    chat.page.route("**/chat/runs/", lambda route: route.fulfill(status=404, body="gone"))
    chat.act(chat.users.last, "edit")
    editor = chat.users.last.get_by_role("textbox")
    editor.fill("second thoughts")
    editor.press("Enter")
    expect(chat.users.last.get_by_role("textbox")).to_have_value("second thoughts")
    chat.expect_chat("refused", "red")


# Reloads, tabs --------------------------------------------------------------------------------


def test_a_reload_in_mid_answer_goes_on_where_it_was(chat: ChatPage, upstream: Upstream) -> None:
    answer = chat.ask("Go", model="ok_slow@reload")
    expect_state(answer, "streaming")
    assert "/chat/c/" in chat.page.url
    chat.page.reload()
    expect_state(chat.answers.last, "done")
    expect(chat.answers.last).to_contain_text("three")
    expect(chat.users).to_have_count(1)
    assert len(upstream.requests_for("ok_slow@reload")) == 1


def test_two_tabs_on_one_conversation_show_the_same_answer(
    chat: ChatPage, context: BrowserContext
) -> None:
    done(chat, "first")
    other = ChatPage(context.new_page(), chat.page.url)
    expect(other.answers).to_have_count(1)
    answer = chat.ask("second", model="endless@tabs")
    expect_state(other.answers.last, "streaming")
    expect(other.users.last).to_contain_text("second")
    other.send.click()
    expect_state(answer, "stopped")
    expect_state(other.answers.last, "stopped")


def test_a_hidden_page_lets_go_of_its_connection_and_catches_up(chat: ChatPage) -> None:
    answer = chat.ask("Go", model="ok_slow@hidden")
    expect_state(answer, "streaming")
    hide = """(is_hidden) => {
        Object.defineProperty(document, "hidden", { configurable: true, value: is_hidden });
        document.dispatchEvent(new Event("visibilitychange"));
    }"""
    chat.page.evaluate(hide, True)
    held = answer.locator('[data-part="text"]').inner_text()
    chat.page.wait_for_timeout(700)
    assert answer.locator('[data-part="text"]').inner_text() == held
    chat.page.evaluate(hide, False)
    expect_state(answer, "done")
    expect(answer).to_contain_text("three")
    chat.expect_chat("done")


@pytest.mark.slow
def test_an_answer_whose_server_died_is_told_as_interrupted(
    context: BrowserContext, upstream: Upstream
) -> None:
    with start_demo(upstream) as demo:
        chat = ChatPage(context.new_page(), demo.url + "chat/")
        answer = chat.ask("Go", model="endless@killed")
        expect_state(answer, "streaming")
        demo.kill()
        chat.expect_chat("reconnecting", "amber")
        demo.restart()
        expect(answer).to_have_attribute("data-state", "interrupted", timeout=40_000)
        expect(answer).to_contain_text("The server restarted.")
        chat.expect_chat("interrupted", "amber")
        chat.play("ok@page")
        chat.act(answer, "continue")
        expect_state(answer, "done")


# Signed out -----------------------------------------------------------------------------------


def test_who_was_signed_out_signs_in_again_and_finds_the_message(
    context: BrowserContext, demos: Demos
) -> None:
    page = context.new_page()
    refused = page.goto(demos.door.url + "chat/")
    assert refused is not None
    policy = refused.headers["content-security-policy"]
    assert ("'nonce-" in policy) == (django.VERSION >= (6, 0))
    expect(page.locator("chatstream-chat")).to_have_attribute("data-state", "signed_out")
    page.locator('[data-part="notice-link"]').click()
    chat = ChatPage(page, page.url)
    done(chat, "first")
    context.clear_cookies(name="sessionid")
    chat.field.fill("second")
    chat.field.press("Enter")
    chat.expect_chat("signed_out", "red")
    expect(chat.notice).to_contain_text("Please sign in again. Your message is saved.")
    expect(chat.send).to_be_disabled()
    chat.notice.get_by_role("link").click()
    chat.wait_ready()
    expect(chat.field).to_have_value("second")
    expect(chat.users).to_have_count(1)
    expect(chat.send).to_be_enabled()


# Reading --------------------------------------------------------------------------------------


def test_the_page_follows_the_end_unless_the_reader_has_scrolled_away(chat: ChatPage) -> None:
    answer = chat.ask("Go", model="lines@scroll")
    expect_state(answer, "streaming")
    latest = chat.page.locator('[data-action="latest"]')
    gap = "(box) => box.scrollHeight - box.scrollTop - box.clientHeight"
    scroll = chat.part("scroll")
    chat.page.wait_for_timeout(1_000)
    assert scroll.evaluate(gap) < 80
    scroll.evaluate("(box) => { box.scrollTop = 0; }")
    expect(latest).to_be_visible()
    chat.send.click()
    expect_state(answer, "stopped")
    assert scroll.evaluate("(box) => box.scrollTop") == 0
    latest.click()
    expect(latest).to_be_hidden()
    assert scroll.evaluate(gap) < 80


def test_the_whole_answer_is_copied_as_markdown(context: BrowserContext, chat: ChatPage) -> None:
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    done(chat)
    chat.act(chat.answers.last, "copy")
    expect(chat.part("status")).to_have_text("Copied")
    assert chat.page.evaluate("() => navigator.clipboard.readText()") == TEXT


def test_reasoning_is_there_behind_a_click(chat: ChatPage) -> None:
    answer = chat.ask(model="ok_reasoning@page")
    expect_state(answer, "done")
    summary = answer.locator(".cs-reasoning summary")
    expect(summary).to_be_visible()
    summary.click()
    expect(answer.locator('[data-part="reasoning-text"]')).to_be_visible()


@pytest.mark.slow
def test_who_wants_less_motion_gets_whole_blocks_and_no_pulse(browser: Browser, demo: Demo) -> None:
    with browsing(browser, reduced_motion="reduce") as context:
        chat = ChatPage(context.new_page(), demo.url + "chat/")
        answer = chat.ask("Go", model="lines@still")
        expect(answer.locator("p").nth(3)).to_be_visible()
        pulse = "(text) => getComputedStyle(text, '::after').animationName"
        assert answer.locator('[data-part="text"]').evaluate(pulse) == "none"
        lines = answer.locator('[data-part="text"] p').all_text_contents()
        assert all(re.fullmatch(r"Line \d+\.", line) for line in lines)
        chat.send.click()
        expect_state(answer, "stopped")


# Without JavaScript ---------------------------------------------------------------------------


def test_without_javascript_the_form_asks_and_the_page_refreshes_itself(
    browser: Browser, demo: Demo
) -> None:
    with browsing(browser, java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(demo.url + "chat/")
        page.locator('[data-part="prompt"]').fill("No scripts")
        page.locator('[data-part="send"]').click()
        expect(page).to_have_url(re.compile("/chat/c/[0-9a-z]{26}/$"))
        expect(page.locator(".cs-user")).to_contain_text("No scripts")
        expect(page.locator(".cs-answer")).to_contain_text(FIRST_WORD, timeout=15_000)
        expect(page.locator(".cs-answer")).to_have_attribute("data-state", "done", timeout=15_000)


# For everybody --------------------------------------------------------------------------------

OFTEN = ("idle", "streaming", "done", "failed")


@pytest.mark.parametrize(
    "state",
    [pytest.param(name, marks=() if name in OFTEN else pytest.mark.slow) for name in STATES],
)
def test_no_state_has_a_violation_of_accessibility(
    browser: Browser, demos: Demos, state: str
) -> None:
    # Narrow at first, for only there the sidebar is a drawer.
    with reached(state, browser, demos, reduced_motion="reduce", **NARROW) as chat:
        complaints = []
        for scheme, width in (("dark", 360), ("light", 1280)):
            chat.page.emulate_media(color_scheme=scheme)
            chat.page.set_viewport_size({"width": width, "height": 800})
            found = Axe().run(chat.page)
            complaints += [found.generate_report()] if found.violations_count else []
        assert complaints == []
