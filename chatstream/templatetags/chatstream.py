"""``{% load chatstream %}{% chatstream %}``: the chat, on any page of a project."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from django import template
from django.core.exceptions import ImproperlyConfigured
from django.template import Context

from ..conf import nearest, settings
from ..models import Conversation
from ..page import Chat, own_conversation, take_draft
from ..permissions import MayChat
from ..places import conversation_in_query, places_by_query, url_of, with_query

__all__ = ["chatstream", "chatstream_htmx", "register"]

register = template.Library()


@register.simple_tag(takes_context=True)
def chatstream(
    context: Context,
    conversation: Conversation | str | None = None,
    provider: str = "",
    placeholder: str = "",
    suggestions: str | Iterable[str] | None = None,
    sidebar: bool | None = None,
    heading: str = "",
) -> str:
    """Render the chat; ``docs/page.md`` explains the options.

    ``suggestions`` are a list, or one text with ``|`` between them.
    """
    chat = context.get("chat")
    if not isinstance(chat, Chat):  # not our own page
        chat = _chat_of_host(_request_of(context))
    if conversation is not None and chat.conversation is None:
        pk = conversation.pk if isinstance(conversation, Conversation) else conversation
        chat = replace(chat, conversation=own_conversation(chat.request, pk))
    options: dict[str, Any] = {
        "only_provider": _known(provider),
        "placeholder": placeholder,
        "suggestions": _list_of(suggestions),
        "sidebar": sidebar,
        "heading": heading,
    }
    given = {name: value for name, value in options.items() if value not in (None, "")}
    return _render(context, replace(chat, **given))


@register.simple_tag(takes_context=True)
def chatstream_htmx(context: Context, provider: str = "") -> str:
    """Render a form and its answers for htmx, which the page itself loads; ``docs/page.md``."""
    chat = replace(_chat_of_host(_request_of(context)), only_provider=_known(provider))
    more = {
        "post_url": url_of(chat.request, "htmx"),
        "form": chat.form,
        "key": secrets.token_urlsafe(16),
    }
    if run := chat.open_run:
        more["stop_url"] = url_of(chat.request, "run-stop", run=run)
        more["url"] = with_query(url_of(chat.request, "htmx-run", run=run), into=chat.form)
    return _render(context, chat, "chatstream/htmx.html", **more)


def _render(
    context: Context, chat: Chat, template_name: str = "chatstream/chat.html", **more: str
) -> str:
    engine = context.template.engine  # type: ignore[union-attr]
    outer, context.autoescape = context.autoescape, True  # whatever the page does around it
    try:
        # In the page's own context: what its processors brought, such as a nonce, is there.
        with context.push(chat=chat, **more):
            return str(engine.get_template(template_name).render(context))
    finally:
        context.autoescape = outer


def _request_of(context: Context) -> Any:
    request = getattr(context, "request", None) or context.get("request")
    if request is None:
        raise ImproperlyConfigured(
            "{% chatstream %} needs the request, to know whose conversations to show. Render the "
            "template by render(request, …), or put 'django.template.context_processors.request' "
            'into TEMPLATES["OPTIONS"]["context_processors"].'
        )
    return request


def _chat_of_host(request: Any) -> Chat:
    home, link = places_by_query(request)
    may_chat = MayChat().has_permission(request, None)
    wanted = conversation_in_query(request) if may_chat else ""
    return Chat(
        request,
        home,
        link,
        next=home,
        conversation=own_conversation(request, wanted),
        may_chat=may_chat,
        draft=take_draft(request) if may_chat else "",
    )


def _known(provider: str) -> str:
    if provider and provider not in settings.PROVIDERS:
        near = nearest(provider, settings.PROVIDERS)
        hint = f"Did you mean '{near}'?" if near else f"Known are {', '.join(settings.PROVIDERS)}."
        raise ImproperlyConfigured(
            f"{{% chatstream %}} does not know the provider '{provider}'. {hint}"
        )
    return provider


def _list_of(suggestions: str | Iterable[str] | None) -> list[str] | None:
    if isinstance(suggestions, str):
        return [text.strip() for text in suggestions.split("|") if text.strip()]
    return None if suggestions is None else list(suggestions)
