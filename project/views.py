"""The demo's one page."""

from pathlib import Path

from django.conf import settings
from django.contrib.staticfiles import finders
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import ensure_csrf_cookie
from django.views.decorators.http import require_safe

SUGGESTIONS = [
    "Why is the sky blue?",
    "Write a short poem about a river that learns to wait.",
    "Explain to a child what a stream of data is.",
    "Give me three names for a friendly robot.",
]


@require_safe
@never_cache
@ensure_csrf_cookie
def demo(request: HttpRequest) -> HttpResponse:
    """Show the chat and, with its source, the smallest possible client."""
    context = {
        "model_name": settings.DEMO_MODEL_NAME,
        "suggestions": SUGGESTIONS,
        "smallest_client": source_of("demo/smallest.js"),
    }
    return render(request, "demo.html", context)


def source_of(static_path: str) -> str:
    """Return the text of the very file that the browser loads as ``static_path``."""
    found = finders.find(static_path)
    if found is None:
        raise FileNotFoundError(f"no static file {static_path!r}")
    return Path(found).read_text(encoding="utf-8").strip()
