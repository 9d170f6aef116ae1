"""What takes longer to start than most tests: servers for the session, Chromium for a module."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

from tests.acceptance.chat_page import browsing
from tests.acceptance.rows import Service, serve
from tests.conftest import find_service
from tests.demo import Demo
from tests.upstream import Upstream

# Five seconds are Playwright's own: a busy machine takes longer.
expect.set_options(timeout=20_000)

CHROMIUM_ARGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]


@pytest.fixture(scope="session")
def running() -> Iterator[Callable[..., Service]]:
    """Return a function: the service of that name and configuration, started at first use."""
    services: dict[str, Service] = {}
    with ExitStack() as stack:

        def get(name: str, transport: str = "auto", **site: object) -> Service:
            key = repr((name, transport, site))
            if key not in services:
                services[key] = stack.enter_context(serve(name, transport, **site))
            return services[key]

        yield get


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. For a module only: while it lives, the thread's event loop counts as running."""
    with chromium() as browser:
        yield browser


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A visitor's browser, whose pages may have no error."""
    with browsing(browser) as context:
        yield context


@contextmanager
def chromium() -> Iterator[Browser]:
    path = find_service("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def demo(upstream: Upstream) -> Iterator[Demo]:
    """The demo, whose model plays the behaviour that a request asks for; "ok" by itself."""
    with start_demo(upstream) as demo:
        yield demo


def start_demo(
    upstream: Upstream, settings: str = "tests.acceptance.demo_settings", model: str = "ok"
) -> Demo:
    return Demo(
        CHATSTREAM_BASE_URL=upstream.url,
        CHATSTREAM_MODEL=model,
        DJANGO_SETTINGS_MODULE=settings,
    )
