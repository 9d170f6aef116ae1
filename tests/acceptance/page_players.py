"""The clients of pages, unmodified, in Chromium: they play as those of ``players`` do."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Frame, TimeoutError

from tests.acceptance.htmx_page import HtmxChat, prepare
from tests.acceptance.lines import Fate
from tests.acceptance.players import WITHIN, Play, Player, Seen
from tests.acceptance.rows import Service
from tests.acceptance.words import AGAIN_AND_AGAIN
from tests.node import bundle
from tests.reader import Visitor

__all__ = ["NoEnd", "chat_pages", "play_htmx", "play_use_chat"]

AI_SDK_PAGE = (
    "<!doctype html><meta charset=utf-8><main></main><script type=module src=page.js></script>"
)


def chat_pages(context: BrowserContext, folder: Path) -> None:
    """Let ``/ai-sdk-page/?chat=…&model=…`` of every site be a page with useChat."""
    script = bundle("ai_sdk_page.jsx", folder / "page.js")
    context.route(
        re.compile(r"/ai-sdk-page/\?"),
        lambda route: route.fulfill(body=AI_SDK_PAGE, content_type="text/html"),
    )
    context.route("**/ai-sdk-page/page.js", lambda route: route.fulfill(path=script))


def play_use_chat(service: Service, plays: list[Play], browser: Browser) -> dict[str, list[Seen]]:
    with _context(service, browser) as context, tempfile.TemporaryDirectory() as folder:
        chat_pages(context, Path(folder))
        urls = [f"ai-sdk-page/?chat={play.model}&model={play.model}" for play in plays]
        frames = _frames(service, context, plays, urls)
        for play, frame in frames:
            frame.get_by_text("ready", exact=True).wait_for()
            frame.evaluate("window.finished = null")
            frame.locator("input").fill(play.case.prompt)
            frame.locator("input").press("Enter")
        for play, frame in frames:
            if play.case.stops:
                frame.locator("article.assistant", has_text="0 1 ").wait_for()
                frame.get_by_text("Stop").click()
        return {play.case.name: _use_chat(play, frame) for play, frame in frames}


def _use_chat(play: Play, frame: Frame) -> list[Seen]:
    seen = [_finished(frame)]
    if play.case.fate is Fate.CUT:
        frame.goto(frame.url)
        seen.append(_finished(frame))
    return seen


def _finished(frame: Frame) -> Seen:
    frame.wait_for_function("window.finished")
    frame.wait_for_function("/ready|error/.test(document.querySelector('output').textContent)")
    return {
        **frame.evaluate("finished"),
        "status": frame.locator("output").text_content(),
        "error": frame.get_by_role("alert").text_content(),
        "text": "".join(frame.locator("article.assistant b").all_text_contents()),
    }


@contextmanager
def _context(service: Service, browser: Browser, path: str = "") -> Iterator[BrowserContext]:
    """A browser of one visitor, who has been there before: his cookies are set."""
    visitor = Visitor(service.server.port)
    if path:
        visitor.get(path)
    context = browser.new_context()
    context.set_default_timeout(WITHIN * 1000)
    for name, value in visitor.cookies.items():
        context.add_cookies([{"name": name, "value": value, "domain": "127.0.0.1", "path": "/"}])
    yield context
    context.close()


def _frames(
    service: Service, context: BrowserContext, plays: list[Play], paths: list[str]
) -> list[tuple[Play, Frame]]:
    """Open a page of frames, one for each play; a page of its own takes many times as long."""
    frames = [
        f'<iframe name="{number}" src="{play.url}{path}" width=300 height=150></iframe>'
        for number, (play, path) in enumerate(zip(plays, paths, strict=True))
    ]
    page = context.new_page()
    # A page of the server's own: Chromium lets no other have frames of this machine.
    page.goto(f"http://127.0.0.1:{service.server.port}/ready/")
    page.set_content("".join(frames))
    found = [page.frame(str(number)) for number in range(len(plays))]
    return [(play, frame) for play, frame in zip(plays, found, strict=True) if frame]


# htmx ---------------------------------------------------------------------------------------------


class NoEnd(AssertionError):
    """A page showed no end within Playwright's time."""


def play_htmx(version: str) -> Player:
    """Return the player of a version, ``htmx4`` or ``htmx2``."""

    def play(service: Service, plays: list[Play], browser: Browser) -> dict[str, list[Seen]]:
        with _context(service, browser, f"/htmx/{version}/") as context:
            prepare(context)
            frames = _frames(service, context, plays, [f"htmx/{version}/"] * len(plays))
            chats = [(play, HtmxChat(frame, service, version)) for play, frame in frames]
            for play, chat in chats:
                chat.send.wait_for()
                chat.ask(play.model, play.case.prompt)
            for play, chat in chats:
                if play.case.stops:
                    chat.turns.get_by_text("1 ").first.wait_for()
                    chat.stop.click()
            return {play.case.name: [_htmx(chat)] for play, chat in chats}

    return play


def _htmx(chat: HtmxChat) -> Seen:
    error_event = "htmx:sse:error" if chat.version == "htmx4" else "htmx:sseError"
    try:
        chat.page.wait_for_function(
            """([name, many]) => endings() > 0
                || happened.filter(([n]) => n === name).length >= many
                || happened.some(([n, { code }]) => n === "chat-error" && code)
                    && document.querySelector(".chatstream-error")""",
            arg=[error_event, AGAIN_AND_AGAIN],
        )
    except TimeoutError:
        said = chat.page.evaluate("happened")
        raise NoEnd(f"no end at {chat.page.url}: {chat.text()!r}, {said}") from None
    told = [error["code"] or json.loads(error["data"])["code"] for error in _told(chat)]
    return {
        "text": chat.text(),
        "note": chat.turns.locator(".chatstream-note").count(),
        "span": chat.errors.first.get_attribute("data-code") if chat.errors.count() else "",
        "chat_errors": told,
        "done": [json.loads(done["data"])["outcome"] for done in chat.events("done")],
        "errors": len(chat.events(error_event)),
        "error_event": error_event,
    }


def _told(chat: HtmxChat) -> list[Any]:
    return [{"code": None, "data": None, **event} for event in chat.events("chat-error")]
