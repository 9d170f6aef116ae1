"""Hashed static files: they can be collected, and the page works from them alone."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.behaviours import TEXT
from tests.demo import ROOT
from tests.servers import Server, Site
from tests.upstream import Upstream

DJANGOS = "django.contrib.staticfiles.storage.ManifestStaticFilesStorage"
WHITENOISES = "whitenoise.storage.CompressedManifestStaticFilesStorage"
HASHED = re.compile(r"\.[0-9a-f]{12}\.")
OTHERS = ("--ignore", "rest_framework")  # files of which the page needs none
TIMEOUT = 20_000  # milliseconds


def site(upstream: Upstream, storage: str, folder: Path) -> Site:
    environ = {
        "DJANGO_SETTINGS_MODULE": "tests.acceptance.static_settings",
        "TESTSITE_STORAGE": storage,
        "TESTSITE_STATIC_ROOT": str(folder / "static"),
    }
    return Site(upstream.url, environ=environ)


def collect(site: Site, folder: Path) -> set[str]:
    """Return the paths of what ``collectstatic`` brings together, below ``chatstream/``."""
    done = subprocess.run(
        [sys.executable, "-m", "django", "collectstatic", "--noinput", "--skip-checks", *OTHERS],
        cwd=ROOT,
        env=site.environment(folder),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout
    root = folder / "static"
    found = (path.relative_to(root) for path in (root / "chatstream").rglob("*") if path.is_file())
    return {str(path) for path in found}


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def hashed(upstream: Upstream, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("whitenoise")
    whitenoise = site(upstream, WHITENOISES, folder)
    names = collect(whitenoise, folder)
    assert all(HASHED.search(name) for name in names)
    assert any(name.endswith(".js.gz") for name in names)
    with Server("gunicorn-gthread", whitenoise) as server:
        yield server


def test_djangos_own_storage_hashes_our_files(upstream: Upstream, tmp_path: Path) -> None:
    names = collect(site(upstream, DJANGOS, tmp_path), tmp_path)
    assert any(re.fullmatch(r"chatstream/chatstream-ui\.[0-9a-f]{12}\.js", name) for name in names)


def test_the_page_works_from_hashed_files_alone(browser: Browser, hashed: Server) -> None:
    context = browser.new_context()
    page = context.new_page()
    failed: list[str] = []
    loaded: list[str] = []
    page.on("response", lambda r: (failed if r.status >= 400 else loaded).append(r.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.goto(f"http://127.0.0.1:{hashed.port}/chat/")
    page.locator("chatstream-chat[data-ready]").wait_for(timeout=TIMEOUT)
    page.locator("[data-part=prompt]").fill("hi")
    page.keyboard.press("Enter")
    answer = page.locator(".cs-answer").last
    expect(answer).to_have_attribute("data-state", "done", timeout=TIMEOUT)
    expect(answer).to_contain_text(TEXT.split(",")[0])
    files = [url for url in loaded if "/static/" in url]
    assert len(files) > 5
    assert all(HASHED.search(url) for url in files)
    assert failed == []
    context.close()
