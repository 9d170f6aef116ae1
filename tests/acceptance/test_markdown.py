"""Markdown in Chromium under the strict policy.

What streams ends as what is rendered at once, nothing of a model's making runs or asks another host
for anything, and the reader can use an answer before it is whole.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, expect

from tests.acceptance.markdown import CORPUS, POLICIES, serve
from tests.acceptance.markdown.payloads import PAYLOADS

TIMEOUT = 20_000  # milliseconds
RANDOM_SPLITS = 6
CODE = "```python\nprint(1)\n```\n"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve() as url:
        yield url


@dataclass
class Watched:
    """A page, and what it must not do: violate its policy, run a model's script, ask a host."""

    page: Page
    faults: list[str]

    def check(self) -> None:
        self.faults += self.page.evaluate("caught.splice(0)")
        assert self.faults == []


@pytest.fixture(scope="module")
def shared(browser: Browser, url: str) -> Iterator[Watched]:
    with opened(browser, f"{url}/strict/") as watched:
        yield watched


@pytest.fixture
def page(shared: Watched) -> Iterator[Page]:
    """The page that most tests share: each makes its own answer, and nothing else."""
    shared.page.evaluate("getSelection().removeAllRanges()")
    yield shared.page
    shared.check()


@pytest.fixture
def new_page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, f"{url}/strict/") as watched:
        yield watched.page


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Watched]:
    context = browser.new_context(**options)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(TIMEOUT)
    watched = Watched(context.new_page(), [])

    def refuse(route: Route) -> None:
        watched.faults.append(route.request.url)
        route.abort()

    own = ("/".join(url.split("/")[:3]), "data:")
    context.route(lambda asked: not asked.startswith(own), refuse)
    watched.page.on("pageerror", lambda error: watched.faults.append(str(error)))
    watched.page.goto(url)
    watched.page.locator("main[data-ready]").wait_for(state="attached")
    yield watched
    watched.check()
    context.close()


def begin(page: Page, text: str = "") -> Locator:
    """Stream an answer's beginning; it is ``answer`` in the page."""
    page.evaluate("(text) => { window.answer = markdown.stream(fresh()); add(text); }", text)
    return page.locator("main > div")


def add(page: Page, text: str) -> None:
    page.evaluate("(text) => add(text)", text)


def end(page: Page) -> None:
    page.evaluate("answer.end()")


def clipboard(page: Page) -> str:
    text: str = page.evaluate("navigator.clipboard.readText()")
    return text


def select(page: Page, start: str, end: str) -> None:
    """Select from the beginning of an element to the end of another."""
    page.evaluate(
        """([start, end]) => {
            const [first, last] = [start, end].map((name) => main.querySelector(name));
            getSelection().setBaseAndExtent(first, 0, last, last.childNodes.length);
        }""",
        [start, end],
    )


# ------------------------------------------------------------------------- streamed is as rendered


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_an_answer_split_at_random_ends_as_it_is_rendered_at_once(page: Page, path: Path) -> None:
    text = path.read_text()
    dice = random.Random(path.stem)
    whole = page.evaluate("(text) => rendered(text)", text)
    for _ in range(RANDOM_SPLITS):
        count = dice.choice([3, 20, len(text) // 4])
        cuts = sorted(dice.sample(range(1, len(text)), count))
        split = "([text, cuts]) => streamed(pieces(text, cuts))"
        assert page.evaluate(split, [text, cuts]) == whole, cuts


@pytest.mark.slow
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_an_answer_that_comes_letter_by_letter_ends_as_it_is_rendered_at_once(
    page: Page, path: Path
) -> None:
    text = path.read_text()
    whole = page.evaluate("(text) => rendered(text)", text)
    assert page.evaluate("(text) => streamed([...text])", text) == whole


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_documents_put_together_from_any_lines_stream_to_the_same_result(
    page: Page, seed: int
) -> None:
    dice = random.Random(seed)
    lines = [line for path in CORPUS for line in path.read_text().split("\n")]
    lines += [
        "",
        "",
        "",
        "---",
        "===",
        "- a",
        "1. b",
        "> c",
        "```",
        "    d",
        "|-|",
        "[^b]: e",
        "<b>",
    ] * 8
    for _ in range(150):
        text = "\n".join(dice.choices(lines, k=dice.randint(2, 12)))
        cuts = sorted(dice.sample(range(len(text) + 1), min(len(text), dice.choice([2, 9, 40]))))
        split = "([text, cuts]) => streamed(pieces(text, cuts))"
        assert page.evaluate(split, [text, cuts]) == page.evaluate("rendered", text), (text, cuts)


def test_line_ends_of_every_kind_are_line_ends(page: Page) -> None:
    text = "# a\n\n- b\n- c\n\n```\nd\n\ne\n```\n"
    whole = page.evaluate("(text) => rendered(text)", text)
    for other in ("\r\n", "\r"):
        assert page.evaluate("(text) => streamed([...text])", text.replace("\n", other)) == whole


def test_the_answer_is_kept_as_it_came(page: Page) -> None:
    begin(page, "# a\r\n<b>")
    end(page)
    assert page.evaluate("answer.text") == "# a\r\n<b>"


def test_what_github_knows_is_rendered_as_github_does(page: Page) -> None:
    root = begin(page, (CORPUS[0].parent / "tables.md").read_text())
    end(page)
    expect(root.locator(".cs-table table")).to_have_count(2)
    expect(root.locator("td[align=right]").first).to_have_text("c")
    expect(root.locator("td br")).to_have_count(1)
    expect(root.locator("li.cs-task input[type=checkbox]:disabled")).to_have_count(5)
    expect(root.locator("li.cs-task input:checked")).to_have_count(3)


def test_numbered_steps_with_code_stay_one_list(page: Page) -> None:
    root = begin(page)
    for piece in ("1. a\n\n", "   ```\n   x\n", "   ```\n\n", "2. b\n\n", "3.", " c\n"):
        add(page, piece)
        expect(root.locator("ol")).to_have_count(1)
    end(page)
    expect(root.locator("ol > li")).to_have_count(3)


# ------------------------------------------------------------------------------ what a model may do


@pytest.mark.parametrize("policy", POLICIES)
def test_no_payload_runs_or_leaves_the_page(browser: Browser, url: str, policy: str) -> None:
    with opened(browser, f"{url}/{policy}/") as watched:
        for payload in PAYLOADS:
            assert watched.page.evaluate("(text) => attack(text, {})", payload) == [], payload


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["strict", "bare"])
def test_no_payload_runs_or_leaves_the_page_wherever_it_is_split(
    browser: Browser, url: str, policy: str
) -> None:
    with opened(browser, f"{url}/{policy}/") as watched:
        for payload in PAYLOADS:
            found = watched.page.evaluate("(text) => attack(text, { isSplit: true })", payload)
            assert found == [], payload


@pytest.mark.parametrize(
    "text",
    ["> " * 5000, "1. " * 5000, "[^a]: " * 3000, "*a **b " * 1500 + "b** a*" * 1500, "![" * 5000],
    ids=["quotations", "lists", "footnotes", "emphasis", "images"],
)
def test_an_answer_may_nest_as_deep_as_it_likes(page: Page, text: str) -> None:
    root = begin(page, f"First.\n\n{text}\n\nLast.\n")
    end(page)
    expect(root.locator("p").last).to_have_text("Last.")


def test_html_is_text(page: Page) -> None:
    root = begin(page, "<b>bold</b> and <img src=x>\n\n<div>\nblock\n</div>\n")
    end(page)
    assert root.inner_text() == "<b>bold</b> and <img src=x>\n\n<div> block </div>"
    expect(root.locator("b, img, div")).to_have_count(0)


def test_an_image_is_a_link_that_says_what_it_shows(page: Page) -> None:
    root = begin(
        page, "![A cat](https://example.com/cat.png) ![](https://example.com/a.png) ![x](/y)"
    )
    end(page)
    expect(root.locator("img")).to_have_count(0)
    expect(root.locator("a")).to_have_text(["A cat", "Image"])
    assert root.inner_text().endswith("x")


def test_a_link_opens_elsewhere_and_vouches_for_nothing(page: Page) -> None:
    root = begin(
        page, "[a](https://example.com) [b](mailto:a@b.c) [c](/c) [d](ftp://d) [e](javascript:e)"
    )
    end(page)
    links = root.locator("a[target=_blank][rel='noopener nofollow']")
    expect(links).to_have_text(["a", "b"])
    expect(root.locator("a")).to_have_count(2)


def test_nothing_has_an_inline_style(page: Page) -> None:
    for path in CORPUS:
        begin(page, path.read_text())
        end(page)
        assert page.locator("main [style]").count() == 0


# ------------------------------------------------------------------------------ while it streams


def test_a_tail_is_shown_with_its_incomplete_line_in_the_next_frame(page: Page) -> None:
    root = begin(page, "Settled.\n\nA ta")
    page.evaluate("async () => { answer.append('il *and'); await frame(); await frame(); }")
    expect(root.locator("p")).to_have_text(["Settled.", "A tail *and"])
    page.evaluate("async () => { answer.append(' more*'); await frame(); await frame(); }")
    expect(root.locator("em")).to_have_text("and more")


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("some **bold te", "some <strong>bold te</strong>"),
        ("some **bold**, not 2 ** 3", "some <strong>bold</strong>, not 2 ** 3"),
        ("run `make te", "run <code>make te</code>"),
        ("see [the docs](https://exam", "see the docs"),
        ("some\n- ", "some"),
        ("some\n**", "some"),
    ],
)
def test_what_a_line_has_opened_is_shown_as_if_it_were_closed(
    page: Page, text: str, html: str
) -> None:
    root = begin(page, text)
    assert root.locator("p").inner_html().strip() == html


def test_many_deltas_make_one_rendering_in_a_frame(page: Page) -> None:
    begin(page)
    changes = page.evaluate(
        """async () => {
            let changes = 0;
            await frame();
            new MutationObserver(() => changes++).observe(main, { childList: true, subtree: true });
            for (let n = 0; n < 100; n++) { answer.append(`**${n}** `); await Promise.resolve(); }
            await frame();
            await frame();
            return changes;
        }"""
    )
    assert changes <= 2


def test_a_settled_block_is_not_touched_again(page: Page) -> None:
    root = begin(page, "First.\n\nSecond")
    page.evaluate("window.first = main.querySelector('p'); first.isMine = true;")
    for piece in (" grows.\n\n", "# Third\n", "- a\n- b\n"):
        add(page, piece)
    end(page)
    assert page.evaluate("main.querySelector('p') === first && first.isMine")
    expect(root.locator("p")).to_have_count(2)


def test_a_paragraph_is_no_heading_for_the_moment_that_a_list_begins(page: Page) -> None:
    root = begin(page)
    for letter in "Some things:\n- one\n- two\n":
        add(page, letter)
        expect(root.locator("h1, h2, h3, h4")).to_have_count(0)
    expect(root.locator("li")).to_have_count(2)


def test_a_late_definition_makes_links_of_what_had_been_text(page: Page) -> None:
    root = begin(page, "See [the docs][d] and [D].\n\nMore.\n\n")
    expect(root.locator("a")).to_have_count(0)
    add(page, "[d]: https://example.com/docs\n\n")
    expect(root.locator("a")).to_have_text(["the docs", "D"])


def test_footnotes_are_numbered_by_their_references_and_linked_both_ways(page: Page) -> None:
    root = begin(page, "One[^x], two[^y], one again[^x].\n\n[^y]: Why\n[^x]: Ex\n")
    end(page)
    expect(root.locator("p sup a")).to_have_text(["1", "2", "1"])
    expect(root.locator("section li")).to_have_text(["Ex ↩ ↩2", "Why ↩"])
    for link in root.locator("a").all():
        assert root.locator(link.get_attribute("href") or "").count() == 1


def test_two_answers_on_a_page_have_no_id_in_common(page: Page) -> None:
    text = "a[^1]\n\n[^1]: note\n\n[^__proto__]: x\n"
    ids = page.evaluate(
        """(text) => {
            main.replaceChildren();
            for (let n = 0; n < 2; n++) {
                const element = document.createElement("div");
                main.append(element);
                markdown.render(element, text);
            }
            return [...main.querySelectorAll("[id]")].map(({ id }) => id);
        }""",
        text,
    )
    assert len(ids) == 6
    assert len(set(ids)) == 6


def test_reduced_motion_shows_whole_blocks(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}/strict/", reduced_motion="reduce") as watched:
        page = watched.page
        root = begin(page, "First.\n\nSecond is not wh")
        expect(root).to_have_text("First.")
        add(page, "ole.\n\n")
        expect(root.locator("p")).to_have_text(["First.", "Second is not whole."])
        add(page, "Third")
        end(page)
        expect(root.locator("p")).to_have_count(3)


def test_a_page_without_frames_goes_on(new_page: Page) -> None:
    new_page.evaluate("window.requestAnimationFrame = () => 1")
    root = begin(new_page)
    new_page.evaluate("answer.append('Hello')")
    expect(root).to_have_text("Hello")


# ------------------------------------------------------------------------------------ the selection


def test_a_selection_in_the_tail_holds_its_rendering_until_it_is_gone(page: Page) -> None:
    root = begin(page, "Settled.\n\nA tail")
    select(page, "p:last-child", "p:last-child")
    page.evaluate("frame()")
    add(page, " that grows.\n\nAnd more.")
    assert page.evaluate("String(getSelection())") == "A tail"
    end_is_shown = "answer.end().then(() => (window.isShown = true))"
    page.evaluate(f"void {end_is_shown}")
    expect(root).not_to_contain_text("more")
    page.evaluate("getSelection().removeAllRanges()")
    expect(root).to_contain_text("And more.")
    assert page.evaluate("window.isShown")


def test_a_selection_above_the_tail_survives_what_comes(page: Page) -> None:
    root = begin(page, "Settled with [a link][l].\n\nA tail")
    select(page, "p", "p")
    page.evaluate("frame()")
    for piece in (" that grows.\n\n", "- a\n", "- b\n", "\n[l]: https://example.com\n\n"):
        add(page, piece)
    end(page)
    expect(root.locator("li")).to_have_count(2)
    expect(root.locator("a")).to_have_count(1)
    assert page.evaluate("String(getSelection())").startswith("Settled with ")


def test_blocks_selected_as_a_whole_are_copied_as_their_markdown(page: Page) -> None:
    begin(page, f"# Title\n\nSome **bold**.\n\n- a\n- [b](https://b.test)\n\n{CODE}\nLast *one*.\n")
    end(page)
    select(page, "p", ".cs-code")
    page.keyboard.press("Control+c")
    assert clipboard(page) == f"Some **bold**.\n\n- a\n- [b](https://b.test)\n\n{CODE}".rstrip()


def test_a_part_of_a_block_is_copied_as_it_is_shown(page: Page) -> None:
    begin(page, "Some **bold** text.\n\nAnd more.\n")
    end(page)
    select(page, "strong", "strong")
    page.keyboard.press("Control+c")
    assert clipboard(page) == "bold"
    select(page, "strong", "p:last-child")
    page.keyboard.press("Control+c")
    assert clipboard(page) == "bold text.\n\nAnd more."


# ----------------------------------------------------------------------------------------- code


def test_a_code_can_be_copied_while_it_streams(page: Page) -> None:
    root = begin(page, "```python\nprint(1)\n")
    button = root.get_by_role("button", name="Copy")
    button.focus()
    add(page, "print(2)\nprin")
    expect(button).to_be_focused()
    button.click()
    expect(root.get_by_role("button")).to_have_text("Copied")
    assert clipboard(page) == "print(1)\nprint(2)\nprin"
    add(page, "t(3)\n```\n")
    expect(root.get_by_role("button")).to_have_text("Copied")
    expect(root.get_by_role("button")).to_have_text("Copy")


def test_a_page_without_a_clipboard_object_copies_too(new_page: Page) -> None:
    new_page.evaluate(
        """() => {
            window.board = navigator.clipboard;
            Object.defineProperty(navigator, "clipboard", { value: undefined });
        }"""
    )
    root = begin(new_page, CODE)
    root.get_by_role("button").click()
    expect(root.get_by_role("button")).to_have_text("Copied")
    assert new_page.evaluate("board.readText()") == "print(1)"


def test_a_fence_is_coloured_when_it_closes_and_not_before(new_page: Page) -> None:
    root = begin(new_page, "Text.\n\n```python\ndef f():\n    return 1\n")
    expect(root.locator(".cs-code-lang")).to_have_text("python")
    assert not new_page.evaluate("window.loads")
    add(new_page, "```\n")
    expect(root.locator(".hljs-keyword")).to_have_text(["def", "return"])
    assert root.locator("code").text_content() == "def f():\n    return 1\n"
    assert new_page.evaluate("loads") == 1


def test_a_code_inside_a_list_is_coloured_before_the_list_ends(page: Page) -> None:
    root = begin(page, "1. a\n\n   ```js\n   const x = 1;\n   ```\n")
    add(page, "\n2. b")
    expect(root.locator(".hljs-keyword")).to_have_text("const")
    colour = root.locator(".hljs-keyword").element_handle()
    add(page, " and more **text**\n3. c\n")
    assert colour.evaluate("(element) => element.isConnected")


def test_code_and_tables_scroll_within_themselves(page: Page) -> None:
    long = "x" * 3000
    root = begin(page, f"```\n{long}\n```\n\n| {'| '.join(['a' * 60] * 40)} |\n|{'-|' * 40}\n")
    end(page)
    for part in (root.locator("pre"), root.locator(".cs-table")):
        assert part.get_attribute("tabindex") == "0"
        assert part.get_attribute("aria-label")


def test_a_code_keeps_its_scroll_position_while_it_grows(page: Page) -> None:
    root = begin(page, f"```\n{'x' * 3000}\n")
    root.locator("pre").evaluate("(pre) => (pre.scrollLeft = 100)")
    add(page, "more <b>\n```\n")
    assert root.locator("pre").evaluate("(pre) => pre.scrollLeft") == 100
