"""The sidebar: the history, its conversations' addresses, rename, delete, and the drawer."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, expect

from tests.acceptance.chat_page import ChatPage, browsing, expect_state
from tests.acceptance.history import remember
from tests.behaviours import TEXT
from tests.demo import Demo

PAGE = 50  # conversations

pytestmark = pytest.mark.slow


@pytest.fixture
def chat(context: BrowserContext, demo: Demo) -> ChatPage:
    """A chat with one answer, called "Newest"."""
    return begun(context, demo)


def begun(context: BrowserContext, demo: Demo) -> ChatPage:
    chat = ChatPage(context.new_page(), demo.url + "chat/")
    expect_state(chat.ask("Newest"), "done")
    return chat


def remembering(chat: ChatPage, demo: Demo, *past: tuple[str, int]) -> list[str]:
    """Let the history have more, so many days old, and show it."""
    ids = remember(demo.database, chat.conversation, past)
    chat.page.reload()
    chat.wait_ready()
    return ids


def lines(chat: ChatPage) -> Locator:
    return chat.part("history").locator("[data-id]")


def line(chat: ChatPage, title: str) -> Locator:
    return lines(chat).filter(has_text=re.compile(f"^\\s*{title}\\s*$"))


def act(line: Locator, action: str) -> None:
    line.hover()
    line.locator(f'[data-action="{action}"]').click()


# History --------------------------------------------------------------------------------------


def test_conversations_are_listed_by_date_each_with_its_address(chat: ChatPage, demo: Demo) -> None:
    past = (("One", 1), ("Three", 3), ("Ten", 10), ("Forty", 40))
    ids = remembering(chat, demo, *past)
    days = ["Today", "Yesterday", "Last 7 days", "Last 30 days", "Older"]
    expect(chat.page.locator(".cs-day")).to_have_text(days)
    links = chat.part("history").get_by_role("link")
    expect(links).to_have_text(["Newest", *(title for title, _ in past)])
    found = links.evaluate_all("(links) => links.map((link) => link.getAttribute('href'))")
    assert found == [f"/chat/c/{pk}/" for pk in [chat.conversation, *ids]]
    expect(links.first).to_have_attribute("aria-current", "page")


def test_a_new_conversation_is_on_top_while_its_first_answer_comes(
    chat: ChatPage, demo: Demo
) -> None:
    remembering(chat, demo, ("Old", 1))
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.users).to_have_count(0)
    chat.wait_ready()
    answer = chat.ask("Brand new", model="endless@sidebar")
    expect_state(answer, "streaming")
    expect(chat.page.locator(".cs-day")).to_have_text(["Today", "Yesterday"])
    first = lines(chat).first.get_by_role("link")
    expect(first).to_have_text("Brand new")
    expect(first).to_have_attribute("aria-current", "page")
    expect(answer).to_have_attribute("data-state", "streaming")
    chat.send.click()
    expect_state(answer, "stopped")


def test_an_old_conversation_opens_by_its_link_and_back_leads_back(
    chat: ChatPage, demo: Demo
) -> None:
    newest = chat.page.url
    (old,) = remembering(chat, demo, ("Old", 1))
    line(chat, "Old").get_by_role("link").click()
    expect(chat.page).to_have_url(f"{demo.url}chat/c/{old}/")
    expect(chat.answers).to_have_text(re.compile("About Old"))
    chat.page.go_back()
    expect(chat.page).to_have_url(newest)
    expect(chat.users).to_have_text(re.compile("Newest"))
    chat.wait_ready()
    chat.page.go_back()  # to where the conversation began
    expect(chat.page).to_have_url(demo.url + "chat/")
    expect(chat.part("empty")).to_be_visible()
    expect(chat.users).to_have_count(0)


def test_older_conversations_come_by_the_page(chat: ChatPage, demo: Demo) -> None:
    remembering(chat, demo, *((f"Old {n}", 40 + n) for n in range(PAGE + 5)))
    expect(lines(chat)).to_have_count(PAGE)
    more = chat.page.get_by_role("button", name="Older conversations")
    more.click()
    expect(lines(chat)).to_have_count(1 + PAGE + 5)
    expect(more).to_be_hidden()
    expect(lines(chat).nth(PAGE).get_by_role("link")).to_be_focused()
    expect(lines(chat).last).to_contain_text(f"Old {PAGE + 4}")


def test_somebody_elses_conversation_is_not_found(browser: Browser, chat: ChatPage) -> None:
    with browsing(browser) as elsewhere:
        page = elsewhere.new_page()
        response = page.goto(chat.page.url)
        assert response is not None
        assert response.status == 404
        expect(page.get_by_role("heading", level=1)).to_have_text("New chat")
        expect(page.locator('[data-part="notice"]')).to_be_visible()
        expect(page.locator("body")).not_to_contain_text("Newest")


# Rename, delete, export -----------------------------------------------------------------------


@pytest.mark.parametrize(("key", "title"), [("Enter", "Better"), ("Escape", "Newest")])
def test_a_title_is_written_in_its_place(chat: ChatPage, key: str, title: str) -> None:
    act(line(chat, "Newest"), "rename")
    field = lines(chat).get_by_role("textbox")
    expect(field).to_be_focused()
    expect(field).to_have_value("Newest")
    field.fill("  Better ")
    field.press(key)
    expect(field).to_have_count(0)
    link = lines(chat).get_by_role("link")
    expect(link).to_be_focused()
    expect(link).to_have_text(title)
    expect(chat.part("title")).to_have_text(title)
    chat.page.reload()
    expect(lines(chat).get_by_role("link")).to_have_text(title)


def test_delete_asks_first_and_leaves_an_empty_chat(chat: ChatPage, demo: Demo) -> None:
    remembering(chat, demo, ("Old", 1))
    dialog = chat.page.get_by_role("dialog")
    act(line(chat, "Newest"), "delete")
    expect(dialog).to_contain_text("Newest")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    expect(lines(chat)).to_have_count(2)
    act(line(chat, "Newest"), "delete")
    dialog.get_by_role("button", name="Delete").click()
    expect(chat.page).to_have_url(demo.url + "chat/")
    expect(chat.users).to_have_count(0)
    expect(lines(chat).get_by_role("link")).to_have_text(["Old"])


def test_the_branch_that_is_shown_is_exported_as_markdown(chat: ChatPage) -> None:
    chat.act(chat.users.first, "edit")
    editor = chat.users.first.get_by_role("textbox")
    editor.fill("Changed")
    editor.press("Enter")
    expect_state(chat.answers.last, "done")
    with chat.page.expect_download() as downloading:
        chat.part("export").click()
    download = downloading.value
    assert download.suggested_filename == "newest.md"
    told = Path(download.path()).read_text(encoding="utf-8")
    assert told == f"# Newest\n\n## You\n\nChanged\n\n## Answer\n\n{TEXT}\n"


# The drawer -----------------------------------------------------------------------------------


def test_on_a_narrow_screen_the_sidebar_is_a_drawer(browser: Browser, demo: Demo) -> None:
    with browsing(browser, viewport={"width": 360, "height": 720}) as context:
        chat = begun(context, demo)
        menu = chat.page.get_by_role("button", name="Conversations")
        sidebar = chat.part("sidebar")
        expect(sidebar).not_to_be_in_viewport()
        menu.click()
        expect(sidebar).to_be_in_viewport(ratio=1)
        expect(menu).to_have_attribute("aria-expanded", "true")
        expect(chat.page.get_by_role("link", name="New chat")).to_be_focused()
        chat.field.focus()
        expect(chat.field).not_to_be_focused()  # what is behind the drawer is inert
        chat.page.keyboard.press("Escape")
        expect(sidebar).not_to_be_in_viewport()
        expect(menu).to_be_focused()
        expect(menu).to_have_attribute("aria-expanded", "false")
        chat.field.focus()
        expect(chat.field).to_be_focused()
