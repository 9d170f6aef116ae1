"""Pictures of every state of the chat page, in both colour schemes, wide and narrow.

python -m tests.acceptance.screenshots FOLDER [STATE ...]

The README shows ``done-wide-light.png`` and ``done-narrow-dark.png``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from playwright.sync_api import Browser

from tests.acceptance.conftest import chromium, start_demo
from tests.acceptance.states import DRAWER, LOOKS, STATES, Demos, reached
from tests.upstream import Upstream

__all__ = ["main"]

DOOR = "tests.acceptance.page_settings"
MODEL = "llama3.2"  # what the page shows; the requests name what the scripted upstream plays


def main(folder: str, *states: str) -> None:
    """Write ``<state>-<look>.png`` for all states, or for those that are named."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with (
        Upstream() as upstream,
        start_demo(upstream, model=MODEL) as demo,
        start_demo(upstream, DOOR, MODEL) as door,
        chromium() as browser,
    ):
        for state in states or STATES:
            print(state, flush=True)
            for width in ("wide", "narrow"):
                if state != DRAWER or width == "narrow":
                    shoot(browser, Demos(demo, door), state, width, target)


def shoot(browser: Browser, demos: Demos, state: str, width: str, folder: Path) -> None:
    """Take the state's pictures of one width."""
    with reached(state, browser, demos, **LOOKS[width]) as chat:
        chat.page.mouse.move(0, 0)  # nothing is hovered over
        for scheme in ("light", "dark"):
            chat.page.emulate_media(color_scheme=scheme)
            path = folder / f"{state}-{width}-{scheme}.png"
            chat.page.screenshot(path=path, animations="disabled")


if __name__ == "__main__":
    main(*sys.argv[1:])
