"""A run as JSON, with the addresses where more can be had."""

from __future__ import annotations

from typing import Any

from django.urls import NoReverseMatch, reverse

from ..core.outcomes import error_data
from ..models import Run
from ..runs import answer_of

__all__ = ["links_of", "run_data", "summary_of"]


def links_of(run: Run, request: Any) -> dict[str, Any]:
    """Return the run's id and the paths of its endpoints."""
    return {
        "run": run.pk,
        "url": _path("run", run, request),
        "stream_url": _path("run-stream", run, request),
        "stop_url": _path("run-stop", run, request),
    }


def summary_of(run: Run, request: Any) -> dict[str, Any]:
    """Return a run without its text."""
    links = links_of(run, request)
    return {
        "id": links.pop("run"),
        "status": str(run.status),
        "outcome": run.outcome and str(run.outcome),
        "error_code": run.error_code or None,
        "error": error_data(run.error_code) if run.error_code else None,
        "finish_reason": run.finish_reason or None,
        "usage": run.usage,
        "conversation": run.conversation_id,
        "message": run.message_id,
        "created_at": run.created_at,
        "claimed_at": run.claimed_at,
        "first_text_at": run.first_text_at,
        "settled_at": run.settled_at,
        "last_seq": run.last_seq,
        **links,
    }


def run_data(run: Run, request: Any) -> dict[str, Any]:
    """Return a run with its text so far. Blocks."""
    return {**summary_of(run, request), "text": answer_of(run)}


def _path(name: str, run: Run, request: Any) -> str | None:
    """Return an endpoint's path; None where a project has none at that name."""
    match = request.resolver_match
    try:
        return reverse(
            f"chatstream:{name}",
            kwargs={"run": run.pk},
            current_app=match.namespace if match else None,
        )
    except NoReverseMatch:
        return None
