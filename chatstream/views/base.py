"""What all endpoints have in common: who may use them, how they refuse, and what they read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.conf import settings as django_settings
from django.db.models import Model, QuerySet
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from ..ids import is_id
from ..negotiation import FirstRenderer, refuse_charset
from ..owners import owner_of
from ..permissions import MayChat, quiet, refuse_forged
from ..refusals import Refused, refusal_of, refusal_response

__all__ = ["ChatView"]


class ChatView(APIView):
    """Base of all endpoints. Whatever is refused is JSON with a code, whatever ``Accept`` says."""

    permission_classes = [MayChat]  # noqa: RUF012  DRF's own way
    throttle_classes = []  # noqa: RUF012
    parser_classes = [JSONParser, FormParser, MultiPartParser]  # noqa: RUF012
    renderer_classes = [JSONRenderer]  # noqa: RUF012
    content_negotiation_class = FirstRenderer
    metadata_class = None  # OPTIONS tells the methods, and not how this is made

    def get_body(self, request: Request) -> dict[str, Any]:
        """Return the request's data; a form's as a dict."""
        limit = django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        size = request.META.get("CONTENT_LENGTH") or "0"
        if limit is not None and size.isdecimal() and int(size) > limit:
            raise Refused("too_large", f"The request has {size} bytes; at most {limit} are taken.")
        try:
            data = request.data
        except RecursionError:
            raise Refused("invalid", "The JSON is nested too deeply.") from None
        if not isinstance(data, Mapping):
            raise Refused("invalid", "Expected a JSON object.")
        return data.dict() if hasattr(data, "dict") else dict(data)

    def owned(self, rows: QuerySet[Any, Any], pk: str) -> Any:
        """Return the row; another owner's reads like one that does not exist: 404."""
        owner = owner_of(self.request)
        row: Model | None = None
        if owner and is_id(pk):
            row = rows.filter(owner=owner, pk=pk).first()
        if row is None:
            raise exceptions.NotFound
        return row

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [quiet(authenticator) for authenticator in super().get_authenticators()]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        refuse_charset(request)
        super().initial(request, *args, **kwargs)

    def check_permissions(self, request: Request) -> None:
        if request.method not in ("GET", "HEAD", "OPTIONS"):
            refuse_forged(request)
        super().check_permissions(request)

    def permission_denied(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        user = request.user
        if user is None or not user.is_authenticated:
            raise exceptions.NotAuthenticated
        super().permission_denied(request, *args, **kwargs)

    def handle_exception(self, exc: Exception) -> Response:
        refused = refusal_of(exc)
        if refused is None:
            raise exc
        response = refusal_response(refused)
        response.exception = True
        return response
