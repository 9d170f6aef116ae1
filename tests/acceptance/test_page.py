"""The chat page: every row of its table of states, reached for real, under the strict policy."""

import re

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from tests.acceptance.chat_page import (
    TIMEOUT,
    ChatPage,
    expect_ending,
    expect_state,
)
from tests.acceptance.network import Network
from tests.behaviours import PARTIAL, TEXT
from tests.demo import Demo
from tests.upstream import Upstream


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


@pytest.fixture
def chat(page: Page, demo: Demo) -> ChatPage:
    return ChatPage(page, demo.url + "chat/")


def status(chat: ChatPage) -> str:
    return chat.part("status").text_content() or ""


# States ---------------------------------------------------------------------------------------


def test_a_new_chat_is_idle_and_asks_for_a_prompt(chat: ChatPage) -> None:
    chat.expect_chat("idle")
    expect(chat.field).to_have_attribute("placeholder", "Ask anything…")
    chat.expect_button("send", enabled=True)
    expect(chat.send).to_be_disabled()  # there is nothing to send


def test_a_slow_first_word_is_told_and_more_so_after_eight_seconds(
    chat: ChatPage, page: Page
) -> None:
    page.clock.install()
    answer = chat.ask(model="ok_slow_first@page")
    chat.expect_chat("connecting", "grey")
    chat.expect_button("stop")
    expect(answer).to_contain_text("Thinking…")
    page.clock.run_for(8_100)
    expect(answer).to_contain_text("Still working; long answers can take a moment.")


def test_an_answer_that_streams_is_shown_as_it_comes_and_announced_once(chat: ChatPage) -> None:
    answer = chat.ask(model="endless@page")
    chat.expect_chat("streaming", "green")
    chat.expect_button("stop")
    expect(answer.locator('[data-part="text"]')).to_contain_text("0 1 2 3")
    assert status(chat) == "Answer started"
    chat.send.click()
    expect_state(answer, "stopped")


def test_a_whole_answer_tells_its_first_word_and_its_tokens(chat: ChatPage) -> None:
    answer = chat.ask(model="ok_usage@page")
    words = re.compile(r"^\s*\d+\.\d s to first word · 10 tokens\s*$")
    expect_ending(answer, "done", words, "regenerate")
    chat.expect_chat("done")
    assert status(chat) == "Answer complete"
    assert answer.get_attribute("aria-busy") == "false"


def test_a_lost_connection_is_told_and_nothing_is_lost(
    page: Page, demo: Demo, upstream: Upstream
) -> None:
    with Network(demo.port) as network:
        chat = ChatPage(page, network.url + "chat/")
        answer = chat.ask(model="ok_slow@cut")
        expect_state(answer, "streaming")
        network.cut()
        chat.expect_chat("reconnecting", "amber")
        expect(answer).to_contain_text("Connection lost. Reconnecting… your answer is safe.")
        chat.expect_button("stop")
        network.restore()
        expect_state(answer, "done")
    page.goto(demo.url + "chat/")
    assert len(upstream.requests_for("ok_slow@cut")) == 1


def test_a_failed_answer_keeps_what_arrived_and_offers_to_go_on(chat: ChatPage) -> None:
    answer = chat.ask(model="fin_mid_stream@page")
    words = "The answer stopped early. What arrived is kept."
    expect_ending(answer, "failed", words, "continue", "retry")
    chat.expect_chat("failed", "red")
    expect(answer.locator('[data-part="text"]')).to_contain_text(PARTIAL.split(",")[0])
    run = re.search(r"[0-9a-z]{26}", answer.locator('[data-part="support"]').text_content() or "")
    assert run is not None


def test_a_failure_without_a_word_offers_to_try_again_only(chat: ChatPage) -> None:
    answer = chat.ask(model="http_500@page")
    expect_ending(answer, "failed", "No answer arrived.", "retry")
    chat.play("ok@page")
    chat.act(answer, "retry")
    expect_state(chat.answers.last, "done")
    expect(chat.answers).to_have_count(1)


def test_an_answer_at_its_length_limit_can_be_continued_in_place(chat: ChatPage) -> None:
    answer = chat.ask(model="finish_length@page")
    words = "The answer reached its length limit."
    expect_ending(answer, "truncated", words, "continue", "regenerate")
    chat.expect_chat("truncated", "grey")
    chat.play("ok@page")
    chat.act(answer, "continue")
    expect_state(answer, "done")
    expect(chat.answers).to_have_count(1)
    assert len(answer.locator('[data-part="text"]').inner_text()) > len(TEXT) + len(PARTIAL) - 9


@pytest.mark.parametrize("key", ["button", "Escape"])
def test_a_stopped_answer_says_so(chat: ChatPage, upstream: Upstream, key: str) -> None:
    answer = chat.ask(model=f"endless@stop-{key}")
    expect_state(answer, "streaming")
    if key == "button":
        chat.send.click()
    else:
        chat.field.press("Escape")
    expect_ending(answer, "stopped", "Stopped.", "continue", "regenerate")
    chat.expect_chat("stopped", "grey")
    chat.expect_button("send")
    assert upstream.wait_closed(5, f"endless@stop-{key}")


def test_an_answer_can_be_stopped_before_its_first_word(chat: ChatPage) -> None:
    answer = chat.ask(model="hang_after_headers@page")
    chat.expect_chat("connecting", "grey")
    chat.send.click()
    expect_state(answer, "stopped")


def test_a_filtered_answer_says_so(chat: ChatPage) -> None:
    answer = chat.ask(model="finish_content_filter@page")
    expect_ending(answer, "filtered", "Stopped by a content filter.", "retry")
    chat.expect_chat("filtered", "grey")


def test_a_refused_prompt_comes_back_into_the_field(chat: ChatPage) -> None:
    chat.play("ok", provider="nobody")
    chat.field.fill("Keep me")
    chat.field.press("Enter")
    chat.expect_chat("refused", "red")
    expect(chat.notice).to_be_visible()
    expect(chat.field).to_have_value("Keep me")
    expect(chat.users).to_have_count(0)
    expect(chat.send).to_be_enabled()


def test_too_many_answers_count_down(chat: ChatPage) -> None:
    chat.ask()
    expect_state(chat.answers.last, "done")
    for _ in range(10):
        run = chat.post("runs/", {"prompt": "x", "model": "endless@many"})
        assert run.status == 201
    chat.play("ok@page")
    chat.field.fill("One more")
    chat.field.press("Enter")
    chat.expect_chat("refused", "red")
    expect(chat.notice).to_contain_text(re.compile(r"Try again in [1-5] s\."))
    expect(chat.notice).to_be_hidden(timeout=TIMEOUT)
    chat.expect_chat("idle")
    expect(chat.field).to_have_value("One more")


def test_who_is_offline_keeps_the_message(chat: ChatPage, context: BrowserContext) -> None:
    chat.field.fill("Later")
    context.set_offline(True)
    chat.expect_chat("offline", "amber")
    expect(chat.notice).to_contain_text("You are offline. Your message is kept.")
    expect(chat.send).to_be_disabled()
    context.set_offline(False)
    chat.expect_chat("idle")
    expect(chat.field).to_have_value("Later")
    expect(chat.send).to_be_enabled()


def test_a_second_answer_in_a_conversation_is_told_with_a_link_to_the_first(
    chat: ChatPage,
) -> None:
    chat.ask()
    expect_state(chat.answers.last, "done")
    chat.play("ok@page")
    asked = {"prompt": "x", "model": "endless@busy", "conversation": chat.conversation}
    chat.post("runs/", asked)
    chat.field.fill("Me too")
    chat.field.press("Enter")
    chat.expect_chat("busy", "grey")
    expect(chat.notice).to_contain_text("An answer is already on its way.")
    expect(chat.field).to_have_value("Me too")
    expect(chat.send).to_be_disabled()
    chat.notice.get_by_role("link").click()
    chat.wait_ready()
    expect_state(chat.answers.last, "streaming")
    expect(chat.field).to_have_value("Me too")
    chat.send.click()
    expect_state(chat.answers.last, "stopped")
