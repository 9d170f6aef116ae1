"""What rendering an answer while it streams costs the page, against rendering all of it each time.

    python -m tests.bench.markdown [--whole-every 1]

An answer of 20 kB comes in 5,000 deltas to an empty page in Chromium. What is counted is the CPU
time of the page's main thread, as DevTools tells it: scripts, layout, garbage. Three ways:

- whole: marked and DOMPurify on the whole text at each delta, as any chat's first version does it.
  One in ten is rendered and counted ten times: all of them take most of a minute.
- each: ours, each delta rendered by itself, as if a frame came between any two. The worst case.
- paced: ours as it is used, 300 deltas a second and a rendering in each frame.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import CDPSession, Page, sync_playwright

from tests.acceptance.conftest import CHROMIUM_ARGS
from tests.acceptance.markdown import serve
from tests.conftest import find_service

__all__ = ["answer", "cost", "open_page", "ratio"]

SIZE = 20_000  # characters
DELTAS = 5_000
WAYS = {
    "whole": """async ([deltas, every]) => {
        const element = fresh();
        let text = "";
        for (const [at, delta] of deltas.entries()) {
            text += delta;
            if (at % every) continue;
            const html = marked.parse(text);
            element.replaceChildren(DOMPurify.sanitize(html, { RETURN_DOM_FRAGMENT: true }));
            await turn();
        }
    }""",
    "each": """async ([deltas]) => {
        const answer = markdown.stream(fresh());
        for (const delta of deltas) {
            answer.append(delta);
            answer.flush();
            await turn();
        }
        await answer.end();
    }""",
    "paced": """async ([deltas]) => {
        const answer = markdown.stream(fresh());
        const start = performance.now();
        for (const [at, delta] of deltas.entries()) {
            answer.append(delta);
            const early = start + at / 0.3 - performance.now();
            if (early > 0) await new Promise((resolve) => setTimeout(resolve, early));
        }
        await answer.end();
    }""",
}


def answer(size: int = SIZE) -> str:
    """Return what a model may have written: headings, paragraphs, lists, a table, code."""
    dice = random.Random(20)
    text = ""
    while len(text) < size:
        text += "".join(_section(dice))
    return text[:size]


def _section(dice: random.Random) -> Iterator[str]:
    yield f"## {_words(dice, 4)}\n\n"
    for _ in range(2):
        yield f"{_words(dice, 50)}, see [{_words(dice, 2)}](https://example.com/{dice.random()}).\n\n"
    yield "".join(f"{n}. **{_words(dice, 2)}**: {_words(dice, 12)}\n" for n in range(1, 7)) + "\n"
    lines = "".join(f'    value_{n} = compute({n}, "{_words(dice, 3)}")\n' for n in range(12))
    yield f"```python\ndef work():\n{lines}    return value_1\n```\n\n"
    rows = "".join(f"| {_words(dice, 2)} | `{_words(dice, 1)}` | {n} |\n" for n in range(6))
    yield f"| What | How | Count |\n|:--|---|--:|\n{rows}\n"


def _words(dice: random.Random, count: int) -> str:
    letters = "etaoinshrdlu"
    words = ("".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(count))
    return " ".join(words).capitalize()


@contextmanager
def open_page() -> Iterator[tuple[Page, CDPSession]]:
    """Open the empty page; yield it with its DevTools session."""
    with serve() as url, sync_playwright() as playwright:
        path = find_service("chromium")
        browser = playwright.chromium.launch(executable_path=path, args=CHROMIUM_ARGS)
        page = browser.new_page()
        page.goto(f"{url}/strict/")
        page.locator("main[data-ready]").wait_for(state="attached")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})
        yield page, session
        browser.close()


def cost(page: Page, session: CDPSession, way: str, text: str, *, every: int = 1) -> float:
    """Return the main thread's CPU seconds for an answer that is rendered that way."""
    step = SIZE // DELTAS
    deltas = [text[at : at + step] for at in range(0, len(text), step)]
    session.send("HeapProfiler.collectGarbage")
    before = _task_seconds(session)
    page.evaluate(WAYS[way], [deltas, every])
    return (_task_seconds(session) - before) * every


def _task_seconds(session: CDPSession) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    seconds: float = next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")
    return seconds


def ratio(every: int = 10) -> tuple[dict[str, float], float]:
    """Return the CPU seconds of each way, and how many times less ours takes at its worst."""
    text = answer()
    with open_page() as (page, session):
        cost(page, session, "each", text[: SIZE // 10])  # compiled, the highlighter loaded
        seconds = {way: cost(page, session, way, text) for way in ("each", "paced")}
        seconds["whole"] = cost(page, session, "whole", text, every=every)
    return seconds, seconds["whole"] / seconds["each"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--whole-every", type=int, default=10, help="render the whole each so many deltas"
    )
    seconds, times = ratio(parser.parse_args().whole_every)
    print(f"{SIZE:,} characters in {DELTAS:,} deltas; CPU seconds of the main thread")
    print(f"  whole text at each delta       {seconds['whole']:7.2f}")
    print(f"  ours, each delta by itself     {seconds['each']:7.2f}   {times:.0f} times less")
    paced = seconds["whole"] / seconds["paced"]
    print(f"  ours, 300 deltas a second      {seconds['paced']:7.2f}   {paced:.0f} times less")


if __name__ == "__main__":
    main()
