"""A page of {% chatstream_htmx %} and nothing else, in Chromium, and somebody who chats there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from playwright.sync_api import BrowserContext, Frame, Locator, Page, Route, expect

import chatstream
from tests.acceptance.rows import Service
from tests.node import package_file

__all__ = ["HtmxChat", "prepare"]

STYLES = Path(chatstream.__file__).parent / "static/chatstream/chatstream-htmx.css"
TOKENS = "span:not(.chatstream-error, .chatstream-note)"
RECORDER = """
window.happened = [];
const record = name => document.addEventListener(name, event => {
  const detail = event.detail ?? {};
  happened.push([name, {data: detail.data ?? null, reason: detail.reason ?? detail.type ?? null,
                        code: detail.code ?? null}]);
});
["chat-error", "done", "htmx:sse:close", "htmx:sseClose", "htmx:sse:error", "htmx:sseError",
 "htmx:oobErrorNoTarget"].forEach(record);
const sources = new Set();
document.addEventListener("htmx:sseOpen", ({detail: {source}}) => {
  if (sources.has(source)) return;
  sources.add(source);
  for (const name of ["chat-error", "done"])
    source.addEventListener(name, ({data}) => happened.push([name, {data}]));
});
window.endings = () => happened.filter(
  ([name, {reason}]) => /sse:?close/i.test(name) && reason === "message").length;
"""


def prepare(context: BrowserContext) -> None:
    """Let pages of the context load htmx and our stylesheet, and keep what happens on them."""
    context.route("**/clients/**", _serve_client)
    context.route(f"**/{STYLES.name}", lambda route: route.fulfill(path=STYLES))
    context.add_init_script(RECORDER)


def _serve_client(route: Route) -> None:
    path = route.request.url.partition("/clients/")[2]
    route.fulfill(path=package_file(path), content_type="text/javascript")


class HtmxChat:
    """The page of a ``version``, with what happened on it in ``events``: (name, detail)."""

    def __init__(self, page: Page | Frame, service: Service, version: str) -> None:
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
        self.send.click()

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
    def send(self) -> Locator:
        return self.page.get_by_role("button", name="Send")

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
