"""What the chat's templates are told: one ``Chat``, for our own page and for ``{% chatstream %}``.

Reads what a template asks for, when it does. Nothing here checks who may read a conversation:
``own_conversation`` does, and both callers get theirs from it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from functools import cached_property
from typing import Any, ClassVar

from django.conf import settings as django_settings
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.shortcuts import resolve_url
from django.urls import NoReverseMatch
from django.utils.timezone import is_aware, localtime, now

from . import words
from .conf import settings
from .conversations import branch
from .core.requests import RunRequest
from .ids import is_id
from .models import Conversation, Message, Run
from .owners import owner_of
from .pagination import NewestFirst
from .places import PLACE, url_of, with_query
from .providers import get_provider
from .runs import looked_after
from .transcript import Entry, entry_of
from .words import REFUSALS, STATES, WORDS

__all__ = ["Chat", "Notice", "keep_draft", "own_conversation", "take_draft"]

DRAFT = "chatstream_draft"  # in the session
MAX_COOKIE_DRAFT = 1000  # characters


@dataclass(frozen=True)
class Notice:
    """What is said above the composer, and the state that the chat is in for it."""

    state: str = ""
    words: str = ""
    url: str = ""
    link: str = ""


@dataclass(frozen=True)
class Chat:
    """Everything that ``chatstream/chat.html`` shows.

    ``home`` is the page's URL without a conversation, ``link`` the one with ``PLACE`` for an id.
    ``next`` is the host page that a form leads back to; "" on a page that takes its own forms.
    ``only_provider`` is all that may be asked here, ``asked_provider`` what a refused form asked.
    ``refused`` is what to say of a request that was refused.
    """

    request: Any
    home: str
    link: str
    next: str = ""
    conversation: Conversation | None = None
    may_chat: bool = True
    only_provider: str = ""
    asked_provider: str = ""
    placeholder: Any = WORDS["placeholder"]
    suggestions: Sequence[Any] = words.SUGGESTIONS
    sidebar: bool = True
    heading: str = "h2"
    draft: str = ""
    refused: Notice | None = None
    form: str = field(default_factory=lambda: f"cs-{secrets.token_hex(3)}")

    # The UMD builds; they make globals of themselves.
    scripts: ClassVar = (
        "chatstream/vendor/marked.umd.js",
        "chatstream/vendor/marked-footnote.umd.js",
        "chatstream/vendor/purify.min.js",
    )

    # Addresses ------------------------------------------------------------------------------------

    @property
    def api(self) -> str:
        return url_of(self.request, "chat")

    @property
    def here(self) -> str:
        """This page's URL, to come back to."""
        if not self.next:
            return self.url(self.conversation)
        return with_query(self.next, c=self.conversation.pk if self.conversation else "")

    @property
    def login(self) -> str:
        """Where to sign in, and then come back here; "" if the site has no such place."""
        try:
            url = resolve_url(django_settings.LOGIN_URL)
        except NoReverseMatch:
            return ""
        return with_query(url, **{REDIRECT_FIELD_NAME: self.here})

    @property
    def action(self) -> str:
        if not self.next:
            return self.url(self.conversation)
        if self.conversation is None:
            return self.api
        return url_of(self.request, "chat-conversation", conversation=self.conversation.pk)

    @property
    def export(self) -> str:
        if self.conversation is None or self.conversation.leaf_id is None:
            return ""
        return url_of(self.request, "conversation-export", conversation=self.conversation.pk)

    def url(self, conversation: Conversation | None) -> str:
        return self.link.replace(PLACE, conversation.pk) if conversation else self.home

    # The conversation -----------------------------------------------------------------------------

    @property
    def title(self) -> str:
        return (self.conversation and self.conversation.title) or str(WORDS["untitled"])

    @cached_property
    def entries(self) -> list[Entry]:
        messages, runs = self._rows
        shown = (message for message in messages if message.role != Message.Role.SYSTEM)
        return [entry_of(message, runs.get(message.run_id or "")) for message in shown]

    @property
    def open_run(self) -> str:
        _, runs = self._rows
        return next((pk for pk, run in runs.items() if run.is_open), "")

    @property
    def refreshes(self) -> bool:
        """Whether the page asks again by itself, without JavaScript: that would empty the field."""
        return bool(self.open_run) and not self.draft

    @cached_property
    def _rows(self) -> tuple[list[Message], dict[str, Run]]:
        """The messages that are shown, and all runs, the oldest first."""
        if self.conversation is None:
            return [], {}
        rows = self.conversation.runs.defer("request", "text").order_by("pk")
        while True:
            runs = {run.pk: looked_after(run) for run in rows.all()}
            messages = branch(self.conversation, self.conversation.leaf)
            was_open = {pk for pk, run in runs.items() if run.is_open}
            # A run that was settled in between has its text in its message, and in its frames.
            if not was_open or Run.objects.open().filter(pk__in=was_open).exists():
                return messages, runs

    # Which model is asked -------------------------------------------------------------------------

    @property
    def providers(self) -> list[str]:
        return [self.only_provider] if self.only_provider else list(settings.PROVIDERS)

    @property
    def provider(self) -> str:
        """The alias to ask next: what was asked last, in the form or in the conversation."""
        _, runs = self._rows
        last = next(reversed(runs.values())).provider if runs else ""
        wanted = (self.only_provider, self.asked_provider, last, "default")
        return next((alias for alias in wanted if alias in self.providers), self.providers[0])

    @property
    def model(self) -> str:
        return get_provider(self.provider).model_for(RunRequest([]))

    # The sidebar ----------------------------------------------------------------------------------

    @property
    def history(self) -> list[dict[str, Any]]:
        """The latest conversations, by day: ``{"day", "label", "conversations"}``."""
        today = local_date(now())
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in self._latest[0]:
            day = day_of(local_date(row.updated_at), today)
            groups.setdefault(day, []).append(self._item(row))
        return [
            {"day": day, "label": WORDS[day], "conversations": items}
            for day, items in groups.items()
        ]

    @property
    def more(self) -> str:
        return self._latest[1]

    @cached_property
    def _latest(self) -> tuple[list[Conversation], str]:
        owner = owner_of(self.request)
        if not (owner and self.may_chat):
            return [], ""
        # One that has no message yet was made for a prompt that was refused.
        rows = Conversation.objects.of(owner).filter(leaf__isnull=False)
        return NewestFirst().first_page(rows, url_of(self.request, "conversations"))

    def _item(self, row: Conversation) -> dict[str, Any]:
        is_current = self.conversation is not None and row.pk == self.conversation.pk
        title = row.title or WORDS["untitled"]
        return {"id": row.pk, "title": title, "url": self.url(row), "is_current": is_current}

    # What the page says ---------------------------------------------------------------------------

    @property
    def said(self) -> Notice:
        if self.refused is not None or self.may_chat:
            return self.refused or Notice()
        user = getattr(self.request, "user", None)
        if user is not None and user.is_authenticated:
            return Notice("signed_out", str(REFUSALS["forbidden"]))
        link = str(WORDS["sign_in"]) if self.login else ""
        return Notice("signed_out", str(WORDS["sign_in_first"]), self.login, link)

    @property
    def state(self) -> str:
        if self.said.state:
            return self.said.state
        last = self.entries[-1] if self.entries else None
        return last.state if last and last.state else "idle"

    @property
    def pill(self) -> str:
        return STATES[self.state].tone

    @property
    def pill_words(self) -> Any:
        return STATES[self.state].label

    @property
    def notice(self) -> str:
        return self.said.words

    @property
    def notice_tone(self) -> str:
        return STATES[self.said.state].tone if self.said.state else ""

    @property
    def notice_url(self) -> str:
        return self.said.url

    @property
    def notice_link(self) -> str:
        return self.said.link

    @property
    def max_prompt_chars(self) -> str:
        return str(settings.MAX_PROMPT_CHARS)  # as a number, a template would group its digits

    @property
    def on_disconnect(self) -> str:
        return settings.ON_DISCONNECT

    @property
    def config(self) -> dict[str, Any]:
        return words.config()


def local_date(moment: datetime) -> date:
    return (localtime(moment) if is_aware(moment) else moment).date()


def day_of(day: date, today: date) -> str:
    """Return the name of the group of the history that a day is in."""
    age = (today - day).days
    if age < 1:
        return "today"
    if age < 2:
        return "yesterday"
    return "week" if age < 7 else "month" if age < 30 else "older"


# Requests -----------------------------------------------------------------------------------------


def own_conversation(request: Any, pk: str) -> Conversation | None:
    """Return a conversation of who asks; None for another's, and for one that does not exist."""
    owner = owner_of(request)
    if not (owner and is_id(pk)):
        return None
    return Conversation.objects.of(owner).select_related("leaf").filter(pk=pk).first()


def keep_draft(request: Any, text: str) -> None:
    """Keep what was typed, and not sent, until the chat is shown again."""
    session = getattr(request, "session", None)
    # A session that is a cookie has 4 kB: one that is larger is lost, and the log-in with it.
    is_cookie = django_settings.SESSION_ENGINE.endswith("signed_cookies")
    if session is not None and text and not (is_cookie and len(text) > MAX_COOKIE_DRAFT):
        session[DRAFT] = text


def take_draft(request: Any) -> str:
    """Return what was kept, once. A HEAD is told nothing, and takes nothing."""
    session = getattr(request, "session", None)
    if session is None or request.method == "HEAD":
        return ""
    return str(session.pop(DRAFT, ""))
