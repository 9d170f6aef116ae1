"""The demo's one page, and its switches."""

import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_POST, require_safe

from chatstream import views
from project.switches import COOKIE, PARAM, flip, switches_of

SUGGESTIONS = [
    "Why is the sky blue?",
    "Write a short poem about a river that learns to wait.",
    "Explain to a child what a stream of data is.",
    "Give me three names for a friendly robot.",
]
CUT_SECONDS = 4


@require_safe
@never_cache
@ensure_csrf_cookie
def demo(request: HttpRequest) -> HttpResponse:
    """Show the chat and, below it, what goes on under the hood."""
    visitor = visitor_of(request) or secrets.token_urlsafe(12)
    context = {
        "model_name": settings.DEMO_MODEL_NAME,
        "suggestions": SUGGESTIONS,
        "switches": switches_of(visitor),
        "can_cut": isinstance(request, ASGIRequest),  # only there is project.network in between
        "cut_seconds": CUT_SECONDS,
        "smallest_client": source_of("demo/smallest.js"),
    }
    response = render(request, "demo.html", context)
    response.set_cookie(COOKIE, visitor, httponly=True, samesite="Lax")
    return response


@require_POST
def set_switches(request: HttpRequest) -> HttpResponse:
    """Take the form of the switches: what it does not name is off."""
    on = request.POST
    flip(
        visitor_of(request),
        is_slow="slow" in on,
        is_failing="failing" in on,
        is_searching="searching" in on,
    )
    return HttpResponse(status=204)


@require_POST
def cut(request: HttpRequest) -> HttpResponse:
    """Cut all of the visitor's streams, and let none through for some seconds."""
    flip(visitor_of(request), cut_until=time.time() + CUT_SECONDS)
    return HttpResponse(status=204)


class Switched:
    """Base of the views that start an answer: they say in it whose switches hold."""

    request: Any

    def get_completion_params(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {PARAM: visitor_of(self.request)}


class RunListView(Switched, views.RunListView):
    pass


class ChatStreamView(Switched, views.ChatStreamView):
    pass


def visitor_of(request: Any) -> str:
    return str(request.COOKIES.get(COOKIE, ""))


def source_of(static_path: str) -> str:
    """Return the text of the very file that the browser loads as ``static_path``."""
    found = finders.find(static_path)
    if found is None:
        raise FileNotFoundError(f"no static file {static_path!r}")
    return Path(found).read_text(encoding="utf-8").strip()
