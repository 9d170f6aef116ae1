"""A refusal is JSON, whatever ``Accept`` says.

An EventSource asks for ``text/event-stream`` alone: DRF would answer 406, and with an event-stream
renderer it would send a refusal as a Python ``repr``.
"""

from __future__ import annotations

from typing import Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

__all__ = ["FirstRenderer"]


class FirstRenderer(BaseContentNegotiation):
    """Takes the view's first renderer, and the parser of the request's content type."""

    def select_parser(self, request: Request, parsers: Any) -> BaseParser | None:
        content_type = (request.content_type or "").partition(";")[0].strip().lower()
        return next((p for p in parsers if p.media_type == content_type), None)

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type
