"""Who asks, by a token in the header: what clients of other ecosystems send."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from rest_framework.authentication import TokenAuthentication
from rest_framework.request import Request

__all__ = ["BearerAuthentication"]


class BearerAuthentication(TokenAuthentication):
    """``Authorization: Bearer <key>``, with the tokens of ``rest_framework.authtoken``.

    Where that app is not installed nobody is known by a token; a project with tokens of its own
    puts its class in the place of this one.
    """

    keyword = "Bearer"

    def authenticate(self, request: Request) -> tuple[Any, Any] | None:
        if self.model is None and not apps.is_installed("rest_framework.authtoken"):
            return None
        return super().authenticate(request)
