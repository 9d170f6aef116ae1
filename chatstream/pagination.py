"""Conversations in pages, the latest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from django.db.models import QuerySet
from rest_framework.pagination import CursorPagination
from rest_framework.request import Request

from .models import Conversation

__all__ = ["NewestFirst"]


class NewestFirst(CursorPagination):
    page_size = 50
    ordering = ("-updated_at", "-id")

    def first_page(self, rows: QuerySet[Conversation], url: str) -> tuple[list[Conversation], str]:
        """Return the latest rows, and where ``url``, which lists them, goes on; "" if it ends."""
        page = self.paginate_queryset(rows, cast(Request, _FirstRequest(url)))
        return page or [], self.get_next_link() or ""


@dataclass(frozen=True)
class _FirstRequest:
    """All that a paginator wants of a request: a page's own query is none of its business."""

    url: str
    query_params: Mapping[str, Any] = field(default_factory=dict)

    def build_absolute_uri(self) -> str:
        return self.url
