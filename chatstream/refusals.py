"""Refusals: JSON with status, code, message and, where there is one, the field at fault.

``{"error": {"status": 400, "code": "invalid", "message": "…", "retryable": false,
"field": "prompt"}}``: the shape of an error frame, so that one reader serves both.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import (
    BadRequest,
    PermissionDenied,
    RequestDataTooBig,
    SuspiciousOperation,
)
from django.db import InterfaceError, OperationalError
from django.http import Http404
from django.http.multipartparser import MultiPartParserError
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.settings import api_settings

from .core.outcomes import REFUSALS

__all__ = ["MESSAGES", "Refused", "refusal_of", "refusal_response"]

logger = logging.getLogger("chatstream")

_CODES: dict[type[Exception], str] = {
    exceptions.NotAuthenticated: "not_authenticated",
    exceptions.AuthenticationFailed: "not_authenticated",
    exceptions.PermissionDenied: "forbidden",
    PermissionDenied: "forbidden",
    exceptions.NotFound: "not_found",
    Http404: "not_found",
    exceptions.MethodNotAllowed: "method_not_allowed",
    exceptions.UnsupportedMediaType: "unsupported_media_type",
    exceptions.ParseError: "invalid",
    RequestDataTooBig: "too_large",  # a SuspiciousOperation: before it
    SuspiciousOperation: "invalid",
    BadRequest: "invalid",
    MultiPartParserError: "invalid",
}

# What a refusal says of which nothing better is known.
MESSAGES = {
    "invalid": "The request cannot be read.",
    "not_authenticated": "Please sign in.",
    "forbidden": "You may not do this.",
    "not_found": "There is no such thing.",
    "too_large": "The request is too large.",
}


# Their defaults say no more than our own words do.
_SPOKEN_FOR = (
    exceptions.NotAuthenticated,
    exceptions.AuthenticationFailed,
    exceptions.PermissionDenied,
    exceptions.NotFound,
)


class Refused(exceptions.APIException):
    """A request that is refused before anything starts; ``code`` is one of ``REFUSALS``.

    ``status`` is the code's own unless given, as for a project's own exceptions.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str = "",
        retry_after: int | None = None,
        status: int | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message, code)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.status_code = status or REFUSALS[code]
        self.more = dict(more or {})  # further fields of the JSON


def refusal_of(exc: Exception) -> Refused | None:
    """Return the refusal that an exception of Django or DRF means; None for a bug."""
    if isinstance(exc, Refused):
        return exc
    if isinstance(exc, exceptions.Throttled):
        seconds: float | None = getattr(exc, "wait", None)
        wait = None if seconds is None else max(1, round(seconds))
        return Refused("throttled", "Too many requests. Please wait a little.", retry_after=wait)
    if isinstance(exc, exceptions.ValidationError):
        field, message = _first_error(exc.detail)
        return Refused("invalid", message, field=field)
    for kind, code in _CODES.items():
        if isinstance(exc, kind):
            return Refused(code, _own_words(exc) or MESSAGES[code])
    if isinstance(exc, OperationalError | InterfaceError):
        logger.error("refused, for the database is out of reach: %s", exc)
        return Refused("storage", "Answers cannot be stored at the moment.", retry_after=5)
    if isinstance(exc, exceptions.APIException):
        # A project's own: its status stays, and so does its code.
        codes = exc.get_codes()
        code = codes if isinstance(codes, str) else exc.default_code
        return Refused(code, str(exc.detail), status=exc.status_code)
    return None


def _own_words(exc: Exception) -> str:
    """Return what a DRF exception was made to tell the client; "" if nothing but the default.

    The words of Django's exceptions are for the log.
    """
    if not isinstance(exc, exceptions.APIException):
        return ""
    says_more = type(exc) not in _SPOKEN_FOR or exc.detail != exc.default_detail
    return str(exc.detail) if says_more else ""


def refusal_response(refused: Refused) -> Response:
    """Return the response; a HEAD's reader finds the code in ``Chatstream-Error``."""
    error: dict[str, Any] = {
        "status": refused.status_code,
        "code": refused.code,
        "message": refused.message,
        "retryable": refused.code in ("throttled", "busy", "storage"),
    }
    error |= refused.more
    if refused.field:
        error["field"] = refused.field
    headers = {"Chatstream-Error": refused.code, "Cache-Control": "no-store"}
    if refused.retry_after is not None:
        error["retry_after"] = refused.retry_after
        headers["Retry-After"] = str(refused.retry_after)
    return Response({"error": error}, status=refused.status_code, headers=headers)


def _first_error(detail: Any, path: str = "") -> tuple[str, str]:
    """Return (field, message) of the first error in DRF's nested detail; lists count from 0."""
    if isinstance(detail, dict) and detail:
        key, inner = next(iter(detail.items()))
        name = "" if key == api_settings.NON_FIELD_ERRORS_KEY else str(key)
        return _first_error(inner, f"{path}.{name}" if path and name else path or name)
    if isinstance(detail, list):
        for index, inner in enumerate(detail):
            if inner:
                nested = isinstance(inner, dict | list)
                return _first_error(inner, f"{path}.{index}" if nested else path)
    return path, str(detail)
