"""To whom a run and its conversation belong: a user, or the session of an anonymous visitor.

An owner is one string, ``user:<pk>`` or ``anon:<token>``. The token is random and lives in the
session's data, so it survives a log-in, which adopts all that it owns. A client without cookies has
a new one at every request: it can start runs, and finds none again.
"""

from __future__ import annotations

import secrets
from typing import Any

from django.http import HttpRequest

from .models import Conversation, Run

__all__ = ["adopt", "owner_of", "owner_of_new"]

SESSION_KEY = "chatstream_owner"


def owner_of(request: Any) -> str:
    """Return who asks; "" for an anonymous visitor who owns nothing yet."""
    user = getattr(request, "user", None)  # a site without users has none
    # A stateless authentication's user may have no key: all of those would be one owner.
    if user is not None and user.is_authenticated and getattr(user, "pk", None) is not None:
        return f"user:{user.pk}"
    token = _session(request).get(SESSION_KEY)
    return f"anon:{token}" if token else ""


def owner_of_new(request: Any) -> str:
    """Return who is to own what is about to be made. Call before the response starts."""
    if owner := owner_of(request):
        return owner
    token = _session(request)[SESSION_KEY] = secrets.token_urlsafe(16)
    return f"anon:{token}"


def adopt(sender: Any, request: HttpRequest | None, user: Any, **kwargs: Any) -> None:
    """Give a user who logs in what he began as an anonymous visitor."""
    token = _session(request).pop(SESSION_KEY, None)
    if token is None:
        return
    anonymous, owner = f"anon:{token}", f"user:{user.pk}"
    begun, owned = Conversation.objects.of(anonymous), Conversation.objects.of(owner)
    for row in begun.exclude(external_id=None):
        if owned.known_as(row.format, str(row.external_id)).exists():
            begun.filter(pk=row.pk).update(external_id=None)
    begun.update(owner=owner)
    runs = Run.objects.of(anonymous)
    used = Run.objects.of(owner).exclude(idempotency_key=None).values("idempotency_key")
    runs.filter(idempotency_key__in=used).update(idempotency_key=None)
    runs.update(owner=owner)


def _session(request: Any) -> Any:
    """Return the request's session; an empty dict for a site without sessions."""
    session = getattr(request, "session", None)
    return {} if session is None else session
