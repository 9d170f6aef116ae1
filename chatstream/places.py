"""Where the chat is: on our page the conversation is in the path, on a host page in the query."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, QueryDict
from django.urls import NoReverseMatch, reverse

__all__ = ["PLACE", "conversation_in_query", "places_by_query", "url_of", "with_query"]

PLACE = "__id__"  # stands for a conversation's id in a URL


def conversation_in_query(request: HttpRequest) -> str:
    """Return the id of the conversation that a host page is asked for; "" for none."""
    return request.GET.get("c", "")


def places_by_query(request: HttpRequest) -> tuple[str, str]:
    """Return ``home`` and ``link`` of a page that names the conversation in its query."""
    home = with_query(request.get_full_path(), c="")
    return home, with_query(home, c=PLACE)


def with_query(url: str, **parameters: str) -> str:
    """Return a URL with these parameters instead of those of their names; without an empty one."""
    rest, hash_mark, fragment = url.partition("#")
    path, _, given = rest.partition("?")
    query = QueryDict(given, mutable=True)
    for name, value in parameters.items():
        query.pop(name, None)
        if value:
            query[name] = value
    mark = "?" if query else ""
    return f"{path}{mark}{query.urlencode(safe='/')}{hash_mark}{fragment}"


def url_of(request: Any, name: str, **arguments: str) -> str:
    """Return the path of one of our URLs. Raises ``ImproperlyConfigured`` where there are none."""
    match = getattr(request, "resolver_match", None)
    try:
        return reverse(
            f"chatstream:{name}",
            kwargs=arguments,
            current_app=match.namespace if match else None,
        )
    except NoReverseMatch:
        raise ImproperlyConfigured(
            f"There is no URL 'chatstream:{name}', which the chat page needs. Add "
            'path("chat/", include("chatstream.urls")) to the project\'s URLs.'
        ) from None
