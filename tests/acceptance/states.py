"""How the chat page gets into each of its states, for real: ``STATES`` by name.

with reached("failed", browser, demos, **LOOKS["narrow"]) as chat:
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import Browser, BrowserContext, expect

from tests.acceptance.chat_page import TIMEOUT, ChatPage, browsing
from tests.acceptance.history import remember
from tests.acceptance.network import Network
from tests.demo import Demo

__all__ = ["DRAWER", "LOOKS", "STATES", "Demos", "reached"]

PROMPT = "How do I know that a streamed answer is whole?"
PAST = (
    ("Plan a weekend in Lisbon", 1),
    ("Explain this stack trace to me, please", 1),
    ("A poem about a river that learns to wait", 3),
    ("Names for a friendly robot", 5),
    ("Which index does this query need?", 12),
    ("The difference between WSGI and ASGI", 40),
)
LOOKS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 960}},
    "narrow": {
        "viewport": {"width": 360, "height": 780},
        "device_scale_factor": 1.5,
        "has_touch": True,
        "is_mobile": True,
    },
}
DRAWER = "drawer"  # a state of narrow pages only


@dataclass(frozen=True)
class Demos:
    """``open`` takes anybody; ``door`` wants a log-in, is patient with its model, and is killed."""

    open: Demo
    door: Demo


@dataclass(frozen=True)
class Stage:
    """One visitor. ``network`` is what stands between the browser and ``demos.open``."""

    context: BrowserContext
    demos: Demos
    network: Network

    def visit(self) -> ChatPage:
        return ChatPage(self.context.new_page(), self.network.url + "chat/")

    def enter(self) -> ChatPage:
        """Log in at the door."""
        url = f"{self.demos.door.url}enter/?next=/chat/"
        return ChatPage(self.context.new_page(), url)


State = Callable[[Stage], ChatPage]
STATES: dict[str, State] = {}


@contextmanager
def reached(state: str, browser: Browser, demos: Demos, **look: Any) -> Iterator[ChatPage]:
    """The page of a new visitor, in that state for as long as the context is open."""
    with ExitStack() as stack:
        network = stack.enter_context(Network(demos.open.port))
        context = stack.enter_context(browsing(browser, **look))
        yield STATES[state](Stage(context, demos, network))


def state(reach: State) -> State:
    STATES[reach.__name__] = reach
    return reach


def expect_in(chat: ChatPage, state: str) -> ChatPage:
    expect(chat.root).to_have_attribute("data-state", state, timeout=2 * TIMEOUT)
    return chat


def answered(chat: ChatPage, model: str, state: str, prompt: str = PROMPT) -> ChatPage:
    chat.ask(prompt, model)
    expect(chat.part("title")).to_have_text(prompt, timeout=TIMEOUT)
    return expect_in(chat, state)


# Answers --------------------------------------------------------------------------------------


@state
def idle(stage: Stage) -> ChatPage:
    return expect_in(stage.visit(), "idle")


@state
def connecting(stage: Stage) -> ChatPage:
    return answered(stage.enter(), "hang_before_headers@state", "connecting")


@state
def streaming(stage: Stage) -> ChatPage:
    chat = answered(stage.enter(), "markdown_hang@state", "streaming")
    expect(chat.answers.last).to_contain_text("Nothing is lost")
    return chat


@state
def reconnecting(stage: Stage) -> ChatPage:
    chat = answered(stage.visit(), "endless@state", "streaming")
    stage.network.cut()
    return expect_in(chat, "reconnecting")


@state
def failed(stage: Stage) -> ChatPage:
    return answered(stage.visit(), "fin_mid_stream@state", "failed")


@state
def nothing(stage: Stage) -> ChatPage:
    """Failed, without a word."""
    return answered(stage.visit(), "http_500@state", "failed")


@state
def truncated(stage: Stage) -> ChatPage:
    return answered(stage.visit(), "finish_length@state", "truncated")


@state
def stopped(stage: Stage) -> ChatPage:
    chat = streaming(stage)
    chat.send.click()
    return expect_in(chat, "stopped")


@state
def done(stage: Stage) -> ChatPage:
    """Beside a history."""
    chat = answered(stage.visit(), "ok@state", "done", "Why is the sky blue?")
    remember(stage.demos.open.database, chat.conversation, PAST)
    chat = answered(ChatPage(chat.page, stage.network.url + "chat/"), "markdown@state", "done")
    expect(chat.answers.locator(".hljs-keyword").first).to_be_attached()
    return chat


@state
def reasoning(stage: Stage) -> ChatPage:
    """Done, and what was thought before is open."""
    chat = answered(stage.visit(), "ok_reasoning@state", "done")
    chat.answers.locator("summary").click()
    return chat


@state
def tools(stage: Stage) -> ChatPage:
    """Done, after a look at what was said before, by the model that the demo plays."""
    chat = done(stage)
    chat.page.goto(stage.network.url)
    chat.page.get_by_role("button", name="Under the hood").click()
    with chat.page.expect_response("**/demo/switches/"):
        chat.page.get_by_label("Model looks things up").check()
    return answered(stage.visit(), "ok@state", "done", "What did we say about Lisbon?")


@state
def filtered(stage: Stage) -> ChatPage:
    return answered(stage.visit(), "finish_content_filter@state", "filtered")


@state
def interrupted(stage: Stage) -> ChatPage:
    chat = streaming(stage)
    stage.demos.door.kill()
    stage.demos.door.restart()
    return expect_in(chat, "interrupted")


# Refusals -------------------------------------------------------------------------------------


@state
def refused(stage: Stage) -> ChatPage:
    chat = stage.visit()
    chat.play("ok", provider="nobody")
    return sent(chat, "refused")


def sent(chat: ChatPage, state: str) -> ChatPage:
    """Send what will not be taken."""
    chat.field.fill("And what if the connection drops?")
    chat.field.press("Enter")
    return expect_in(chat, state)


@state
def offline(stage: Stage) -> ChatPage:
    chat = stage.visit()
    chat.field.fill("And what if the connection drops?")
    stage.context.set_offline(True)
    return expect_in(chat, "offline")


@state
def signed_out(stage: Stage) -> ChatPage:
    chat = answered(stage.enter(), "ok_usage@state", "done")
    stage.context.clear_cookies(name="sessionid")
    return sent(chat, "signed_out")


@state
def busy(stage: Stage) -> ChatPage:
    chat = answered(stage.visit(), "ok_usage@state", "done")
    chat.page.unroute_all()
    asked = {"prompt": "x", "model": "endless@state", "conversation": chat.conversation}
    assert chat.post("runs/", asked).status == 201
    return sent(chat, "busy")


# More than the table has ----------------------------------------------------------------------


@state
def editing(stage: Stage) -> ChatPage:
    chat = answered(stage.visit(), "ok_usage@state", "done")
    chat.act(chat.users.last, "edit")
    expect(chat.users.last.get_by_role("textbox")).to_be_focused()
    return chat


@state
def versions(stage: Stage) -> ChatPage:
    """The second of two answers."""
    chat = answered(stage.visit(), "ok_usage@state", "done")
    chat.act(chat.answers.last, "regenerate")
    expect(chat.answers.last.locator('[data-part="position"]')).to_have_text("2 / 2")
    return expect_in(chat, "done")


@state
def drawer(stage: Stage) -> ChatPage:
    chat = done(stage)
    chat.page.locator(".cs-menu").click()
    expect(chat.part("sidebar")).to_be_in_viewport(ratio=1)
    return chat


@state
def deleting(stage: Stage) -> ChatPage:
    chat = done(stage)
    if (menu := chat.page.locator(".cs-menu")).is_visible():
        menu.click()
    line = chat.part("history").locator("[data-id]").first
    line.hover()
    line.locator('[data-action="delete"]').click()
    expect(chat.page.get_by_role("dialog")).to_be_visible()
    return chat
