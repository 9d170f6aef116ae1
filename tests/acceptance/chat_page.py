"""The chat page as somebody uses it, in Chromium.

with browsing(browser, demo.url) as page:
    chat = ChatPage(page)
    answer = chat.ask("Hi", model="ok@mine")
    expect_state(answer, "done")
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

from playwright.sync_api import (
    APIResponse,
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Route,
    expect,
)

__all__ = ["TIMEOUT", "ChatPage", "browsing", "expect_ending", "expect_state", "shoot"]

TIMEOUT = 20_000  # milliseconds


@contextmanager
def browsing(browser: Browser, **options: Any) -> Iterator[BrowserContext]:
    """A visitor's browser. In the end no page may have had an error or a policy violation."""
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        # A refused or broken request is what some tests are about.
        if message.type == "error" and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    def watch(page: Page) -> None:
        page.set_default_timeout(TIMEOUT)
        page.on("console", note)
        page.on("pageerror", lambda error: complaints.append(str(error)))

    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **options})
    context.on("page", watch)
    yield context
    context.close()
    assert complaints == [], complaints


class ChatPage:
    """A page with ``{% chatstream %}``, in its default language."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        page.goto(url)
        self.wait_ready()

    def wait_ready(self) -> None:
        expect(self.root).to_have_attribute("data-ready", "", timeout=TIMEOUT)

    def part(self, name: str) -> Locator:
        return self.root.locator(f'[data-part="{name}"]')

    @property
    def root(self) -> Locator:
        return self.page.locator("chatstream-chat")

    @property
    def field(self) -> Locator:
        return self.part("prompt")

    @property
    def send(self) -> Locator:
        return self.part("send")

    @property
    def notice(self) -> Locator:
        return self.part("notice")

    @property
    def answers(self) -> Locator:
        return self.root.locator(".cs-transcript > .cs-answer")

    @property
    def users(self) -> Locator:
        return self.root.locator(".cs-transcript > .cs-user")

    @property
    def conversation(self) -> str:
        return self.root.get_attribute("data-conversation") or ""

    def play(self, model: str, **body: str) -> None:
        """Let what the page asks for name ``model``: the behaviour of the upstream."""
        more = {"model": model, **body}

        def add(route: Route) -> None:
            asked = route.request.post_data_json
            assert isinstance(asked, dict)
            route.continue_(post_data=json.dumps(asked | more))

        self.page.unroute_all()
        self.page.route("**/chat/runs/", add)

    def post(self, path: str, data: dict[str, str]) -> APIResponse:
        """Post to the app as the same visitor, from elsewhere."""
        cookies = self.page.context.cookies(self.page.url)
        (token,) = (cookie["value"] for cookie in cookies if cookie["name"] == "csrftoken")
        url = urljoin(self.page.url, "/chat/" + path)
        headers = {"X-CSRFToken": token}
        return self.page.context.request.post(url, data=data, headers=headers)

    def ask(self, prompt: str = "Say something", model: str = "ok@page") -> Locator:
        """Send a prompt by the keyboard; return its answer."""
        self.play(model)
        count = self.answers.count()
        self.field.fill(prompt)
        self.field.press("Enter")
        expect(self.answers).to_have_count(count + 1)
        return self.answers.last

    def act(self, entry: Locator, action: str) -> None:
        entry.hover()
        entry.locator(f'[data-action="{action}"]:visible').click()

    def expect_chat(self, state: str, tone: str = "") -> None:
        """The chat is in a state, and its pill has the state's colour; none without one."""
        expect(self.root).to_have_attribute("data-state", state, timeout=TIMEOUT)
        pill = self.part("pill")
        if tone:
            expect(pill).to_be_visible()
            expect(pill).to_have_attribute("data-tone", tone)
        else:
            expect(pill).to_be_hidden()

    def expect_button(self, does: str, *, enabled: bool = True) -> None:
        expect(self.send).to_have_attribute("data-does", does)
        if does == "stop":
            expect(self.send).to_be_enabled()
        elif not enabled:
            self.field.fill("x")
            expect(self.send).to_be_disabled()


def expect_state(answer: Locator, state: str) -> None:
    expect(answer).to_have_attribute("data-state", state, timeout=TIMEOUT)


def expect_ending(answer: Locator, state: str, words: Any, *actions: str) -> None:
    """The answer ended so, says so, and offers these, and only these."""
    expect_state(answer, state)
    expect(answer.locator('[data-part="ending"]')).to_contain_text(words)
    for action in ("continue", "regenerate", "retry"):
        button = answer.locator(f'[data-action="{action}"]')
        if action in actions:
            expect(button).not_to_have_attribute("hidden", "")
        else:
            expect(button).to_have_attribute("hidden", "")


def shoot(page: Page, name: str) -> None:
    """Keep a picture where ``CHATSTREAM_SCREENSHOTS`` says."""
    if folder := os.environ.get("CHATSTREAM_SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png")
