"""A refusal is JSON, whatever ``Accept`` says; a request is UTF-8, whatever it says.

An EventSource asks for ``text/event-stream`` alone: DRF would answer 406, and with an event-stream
renderer it would send a refusal as a Python ``repr``.
"""

from __future__ import annotations

import codecs
from typing import Any

from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from .refusals import Refused

__all__ = ["FirstRenderer", "refuse_charset"]


class FirstRenderer(BaseContentNegotiation):
    """Takes the view's first renderer, and the parser of the request's content type."""

    def select_parser(self, request: Request, parsers: Any) -> BaseParser | None:
        content_type = (request.content_type or "").partition(";")[0].strip().lower()
        return next((p for p in parsers if p.media_type == content_type), None)

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        return renderers[0], renderers[0].media_type


def refuse_charset(request: Request) -> None:
    """Refuse a ``charset`` other than UTF-8: Python's codecs are not all of text (``zlib``)."""
    charset = (request._request.content_params or {}).get("charset", "utf-8")
    try:
        name = codecs.lookup(charset).name
    except LookupError:
        name = ""
    if name not in ("utf-8", "ascii"):
        raise Refused("unsupported_media_type", "The request must be UTF-8.")
