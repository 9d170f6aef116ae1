"""The chat as a page, which works without JavaScript, and a conversation as a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from django.http import HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.utils.decorators import method_decorator
from django.utils.http import content_disposition_header, url_has_allowed_host_and_scheme
from django.utils.text import slugify
from django.utils.translation import pgettext
from django.views.decorators.csrf import ensure_csrf_cookie
from rest_framework.exceptions import NotFound
from rest_framework.request import Request

from ..conf import settings
from ..conversations import Turn
from ..models import Conversation, Run
from ..negotiation import refuse_charset
from ..owners import owner_of_new
from ..page import Chat, Notice, keep_draft, own_conversation, take_draft
from ..places import PLACE, conversation_in_query, places_by_query, url_of
from ..refusals import MESSAGES, Refused, refusal_of
from ..runs import stop_run
from ..words import REFUSALS, WORDS
from .base import ChatView
from .starting import StartsRuns

__all__ = ["ChatPageView", "ConversationExportView"]

ACTIONS = ("regenerate", "continue")
OTHERS = ("stop", "suggestion", *ACTIONS)  # buttons that leave what stands in the field unsent


class SeeOther(HttpResponseRedirect):
    status_code = 303


class ChatPageView(StartsRuns):
    """The page. Its form's POST starts a run, as ``POST runs/`` does, or stops one.

    Whatever is refused is this page, with the status, the reason, and what was typed. A project
    changes it by its own ``chatstream/page.html``, or by subclassing::

        class SupportPage(ChatPageView):
            template_name = "support/chat.html"
            permission_classes = [IsCustomer]
    """

    template_name = "chatstream/page.html"
    http_method_names = ["get", "head", "post", "options"]  # noqa: RUF012

    form: Mapping[str, Any] = MappingProxyType({})  # what a POST brought

    @method_decorator(ensure_csrf_cookie)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        chat = self.get_chat(conversation=self.get_conversation(), draft=take_draft(request))
        return self.respond(chat)

    def post(self, request: Request, *args: Any, **kwargs: Any) -> HttpResponse:
        if pk := self._text("stop"):
            run = self.owned(Run.objects.defer("request"), pk)
            stop_run(run)
        else:
            run, _ = self.start(self.get_asked())
        if any(self._text(name) for name in OTHERS):
            keep_draft(request, self._text("prompt"))
        return SeeOther(self.get_chat(conversation=run.conversation).here)

    # Hooks ----------------------------------------------------------------------------------------

    def get_chat(self, **fields: Any) -> Chat:
        """Return what the template is told; ``fields`` are those of ``Chat``."""
        home, link = self._places()
        form = {"next": self._next(), "asked_provider": self._text("provider")}
        return Chat(self.request._request, home, link, **{**form, **fields})

    def get_conversation(self) -> Conversation | None:
        """Return the conversation that is asked for. Raises ``NotFound`` for another's."""
        pk = self._conversation_id()
        found = own_conversation(self.request, pk)
        if pk and found is None:
            raise NotFound
        return found

    def get_asked(self) -> dict[str, Any]:
        """Return what the form asks for, as ``POST runs/`` would have it."""
        asked = {"provider": self._text("provider"), "conversation": self._conversation_id()}
        asked = {name: value for name, value in asked.items() if value}
        for action in ACTIONS:
            if message := self._text(action):
                asked.pop("conversation", None)  # the message's own
                return {**asked, "action": action, "message": message}
        return {**asked, "prompt": self._text("suggestion") or self._text("prompt")}

    def get_turn(self, data: Mapping[str, Any]) -> Turn | None:
        """Return what the run adds to a conversation. Without one, a prompt begins it."""
        return super().get_turn(data) or Turn.begin(owner_of_new(self.request), data["prompt"])

    # Steps ----------------------------------------------------------------------------------------

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        if request.method == "POST":
            refuse_charset(request)
            # Before anything is refused: what was typed is in it.
            self.form = self.get_body(request)
        super().initial(request, *args, **kwargs)

    def handle_exception(self, exc: Exception) -> Any:
        refused = refusal_of(exc)
        if refused is None:
            raise exc
        return self.refuse(refused)

    def refuse(self, refused: Refused) -> HttpResponse:
        """Return the page with the reason, and what was typed."""
        if refused.code == "not_authenticated":
            keep_draft(self.request, self._text("prompt"))  # until somebody has signed in
        response = self.respond(self._chat_refused(refused), refused.status_code)
        response["Chatstream-Error"] = refused.code
        if refused.retry_after is not None:
            response["Retry-After"] = str(refused.retry_after)
        return response

    def respond(self, chat: Chat, status: int = 200) -> HttpResponse:
        response = render(chat.request, self.template_name, {"chat": chat}, status=status)
        response["Cache-Control"] = "no-store"
        return response

    def _chat_refused(self, refused: Refused) -> Chat:
        draft = self._text("prompt")
        if refused.code == "storage":  # nothing can be read, either
            return self.get_chat(
                draft=draft, sidebar=False, refused=Notice("refused", words_of(refused))
            )
        may_chat = all(p.has_permission(self.request, self) for p in self.get_permissions())
        found = own_conversation(self.request, self._conversation_id()) if may_chat else None
        chat = self.get_chat(conversation=found, may_chat=may_chat, draft=draft)
        return replace(chat, refused=self._notice(refused, chat))

    def _notice(self, refused: Refused, chat: Chat) -> Notice | None:
        """Return what to say; None for what the chat says by itself to who may not see it."""
        told = words_of(refused)
        if refused.code == "not_authenticated":
            if self.request.method != "POST":
                return None
            return Notice("signed_out", told, chat.login, str(WORDS["sign_in"]))
        if "run" in refused.more:
            return Notice("busy", told, chat.here, str(WORDS["show_it"]))
        return Notice("refused" if chat.may_chat else "signed_out", told)

    # What came ------------------------------------------------------------------------------------

    def _text(self, name: str) -> str:
        """Return a field of the form; its line ends are not as a form sends them."""
        value = self.form.get(name)
        return value.replace("\r\n", "\n") if isinstance(value, str) else ""

    def _conversation_id(self) -> str:
        in_path: str = self.kwargs.get("conversation", "")
        return in_path or self._text("conversation") or conversation_in_query(self.request)

    def _next(self) -> str:
        """Return the host page that the form leads back to, if it is one of this site."""
        url = self._text("next")
        is_ours = url_has_allowed_host_and_scheme(
            url, {self.request.get_host()}, require_https=self.request.is_secure()
        )
        return url if is_ours else ""

    def _places(self) -> tuple[str, str]:
        """Return the URLs of this page; a subclass may be somewhere else than ours."""
        request = self.request._request
        home = url_of(request, "chat")
        link = url_of(request, "chat-conversation", conversation=PLACE)
        ours = (home, link.replace(PLACE, self.kwargs.get("conversation", "")))
        return (home, link) if request.path in ours else places_by_query(request)


def words_of(refused: Refused) -> str:
    """Return what the page says of a refusal, by its code; a project's own words as they are."""
    known = REFUSALS.get(refused.code, refused.message)
    if refused.code == "forbidden" and refused.message != MESSAGES["forbidden"]:
        known = refused.message
    if refused.code == "too_large" and refused.field == "prompt":
        known = str(WORDS["too_long_prompt"]).format(limit=settings.MAX_PROMPT_CHARS)
    if refused.retry_after is None:
        return str(known)
    return f"{known} {str(WORDS['retry_in']).format(seconds=refused.retry_after)}"


class ConversationExportView(ChatView):
    """``GET conversations/<id>/export/``: the branch that is shown, as Markdown."""

    http_method_names = ["get", "head", "options"]  # noqa: RUF012

    def get(self, request: Request, conversation: str, *args: Any, **kwargs: Any) -> HttpResponse:
        found = own_conversation(request, conversation)
        if found is None:
            raise NotFound
        chat = Chat(request, "", "", conversation=found)
        response = HttpResponse(markdown_of(chat), content_type="text/markdown; charset=utf-8")
        name = f"{slugify(chat.title, allow_unicode=True)[:60] or 'chat'}.md"
        response["Content-Disposition"] = content_disposition_header(True, name) or ""
        response["Cache-Control"] = "no-store"
        return response


def markdown_of(chat: Chat) -> str:
    """Return what was said, and of each answer that is not whole, why."""
    parts = [f"# {chat.title}"]
    for entry in chat.entries:
        name = pgettext("chatstream", "You") if entry.is_user else pgettext("chatstream", "Answer")
        parts += [f"## {name}", entry.content.strip()]
        if entry.ending and entry.state != "done":
            parts.append(f"*{entry.ending}*")
    return "\n\n".join(filter(None, parts)) + "\n"
