"""Who may start an answer, and from where: an answer costs money.

Anonymous use is off unless ``ALLOW_ANONYMOUS``. A request that a browser sends for another site is
refused: POST by CSRF, GET by what the browser says of its origin.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import CSRFCheck, SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from .conf import settings
from .refusals import Refused

__all__ = ["MayChat", "QuietSessionAuthentication", "refuse_cross_site", "refuse_forged"]


class MayChat(BasePermission):
    """Logged-in users; everybody with ``ALLOW_ANONYMOUS``."""

    message = "Please sign in."

    def has_permission(self, request: Request, view: Any) -> bool:
        return settings.ALLOW_ANONYMOUS or bool(request.user and request.user.is_authenticated)


class QuietSessionAuthentication(SessionAuthentication):
    """DRF's, less its CSRF check: that one knows one way in, and skips anonymous visitors.

    For views that call ``refuse_forged`` themselves.
    """

    def enforce_csrf(self, request: Any) -> None:
        return None


def refuse_forged(request: Request) -> None:
    """Refuse a POST that another site may have made a browser send.

    It passes with a CSRF token; as JSON also when the browser vouches for the same origin; and
    always when it is authenticated by a header, which no other site can make a browser send.
    """
    if _is_authenticated_by_header(request) or _is_same_origin_json(request):
        return
    if (reason := _csrf_reason(request._request)) is not None:
        name = django_settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-").title()
        raise Refused(
            "csrf_failed",
            f"The CSRF token is missing or wrong ({reason.rstrip('.')}). Send the csrftoken "
            f"cookie's value in the header {name}; a JSON request also passes with the headers "
            "Sec-Fetch-Site: same-origin and Origin that a browser sends for a page of this site.",
        )


def refuse_cross_site(request: Request) -> None:
    """Refuse a GET that another site may have made a browser send, and a prefetch.

    Browsers send ``Sec-Fetch-Site`` over HTTPS and to localhost; elsewhere Origin or Referer
    decides, and with neither a session cookie does: a script of its own has none.
    """
    if _is_authenticated_by_header(request):
        return
    headers = request.headers
    if "prefetch" in headers.get("Sec-Purpose", "") + headers.get("Purpose", ""):
        raise Refused("forbidden", "An answer is not prefetched: it costs money.")
    site = headers.get("Sec-Fetch-Site")
    if site is not None:
        is_ours = site in ("same-origin", "none")
    elif source := headers.get("Origin") or headers.get("Referer"):
        is_ours = _is_own_host(request, source)
    else:
        is_ours = django_settings.SESSION_COOKIE_NAME not in request.COOKIES
    if not is_ours:
        raise Refused(
            "forbidden", "A page of another site may not start an answer here. Use POST from there."
        )


def _is_authenticated_by_header(request: Request) -> bool:
    """Whether a header that no browser adds by itself says who asks.

    A browser does add the Basic credentials that it was once given; but then it says where from.
    """
    authenticator = request.successful_authenticator
    if authenticator is None or isinstance(authenticator, SessionAuthentication):
        return False
    scheme = request.headers.get("Authorization", "").partition(" ")[0].lower()
    if scheme == "basic":
        return "Origin" not in request.headers and "Sec-Fetch-Site" not in request.headers
    return bool(scheme)


def _is_same_origin_json(request: Request) -> bool:
    content_type = (request.content_type or "").partition(";")[0].strip().lower()
    return (
        content_type == "application/json"
        and request.headers.get("Sec-Fetch-Site") == "same-origin"
        and _is_own_host(request, request.headers.get("Origin", ""))
    )


def _is_own_host(request: Request, url: str) -> bool:
    """Whether a URL's host and port are the request's. The scheme is the proxy's affair."""
    return bool(url) and _host(urlsplit(url).netloc) == _host(request.get_host())


def _host(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")


def _csrf_reason(request: HttpRequest) -> str | None:
    """Return why Django's CSRF check refuses the request, or None."""
    check = CSRFCheck(lambda request: HttpResponse())
    check.process_request(request)
    return check.process_view(request, None, (), {})  # type: ignore[arg-type, return-value]
