"""A project as ``startproject`` makes it, the wheel, three lines of settings, one URL: a chat."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.behaviours import TEXT
from tests.test_packaging import (  # the fixtures, too
    bare_python,  # noqa: F401
    run,
    serving,
    unpacked,  # noqa: F401
    wheel,  # noqa: F401
)
from tests.upstream import Upstream

TIMEOUT = 20_000  # milliseconds

# As the check chatstream.W009 asks for it.
SQLITE = {
    "transaction_mode": "IMMEDIATE",
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
}
SETTINGS = """
INSTALLED_APPS += ["rest_framework", "chatstream"]
CHATSTREAM = {{"ALLOW_ANONYMOUS": True, "PROVIDERS": {{"default": {provider!r}}}}}
DATABASES["default"]["OPTIONS"] = {sqlite!r}
"""
URLS = """
from django.urls import include

urlpatterns += [path("chat/", include("chatstream.urls"))]
"""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def address(
    bare_python: Path,  # noqa: F811
    upstream: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("fresh")
    env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    run(bare_python, "-m", "django", "startproject", "mysite", ".", cwd=folder, env=env)
    options = {"base_url": upstream.url, "api_key": "none", "model": "ok"}
    provider = {"BACKEND": "chatstream.providers.openai.OpenAIProvider", "OPTIONS": options}
    add(folder / "mysite" / "settings.py", SETTINGS.format(provider=provider, sqlite=SQLITE))
    add(folder / "mysite" / "urls.py", URLS)
    run(bare_python, "manage.py", "migrate", cwd=folder, env=env)
    command = f"{bare_python} manage.py runserver --noreload"
    with serving(command, folder, env, before_port="127.0.0.1:") as address:
        yield address


def add(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


def send(page: Page, address: str) -> None:
    page.set_default_timeout(TIMEOUT)
    page.goto(f"{address}/chat/")
    page.locator("[data-part=prompt]").fill("Hello?")
    page.locator("[data-part=send]").click()


def expect_answer(page: Page) -> None:
    entries = page.locator(".cs-transcript > article")
    expect(entries).to_have_count(2, timeout=TIMEOUT)
    expect(entries.first).to_contain_text("Hello?")
    expect(entries.last).to_have_attribute("data-state", "done", timeout=TIMEOUT)
    for line in TEXT.split("\n- "):
        expect(entries.last).to_contain_text(line)
    expect(entries.last).to_contain_text("s to first word")


def test_a_prompt_is_answered(browser: Browser, address: str) -> None:
    page = browser.new_page()
    send(page, address)
    expect_answer(page)
    page.reload()
    expect_answer(page)
    page.close()


def test_a_prompt_is_answered_without_javascript(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    send(page, address)
    expect(page).to_have_url(f"{address}/chat/c/{page.url.split('/')[-2]}/")
    expect_answer(page)  # by itself: the page asks again while the answer is on its way
    page.locator('[data-part="title"]').get_by_text("Hello?").wait_for()
    context.close()
