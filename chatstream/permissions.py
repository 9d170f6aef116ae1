"""Who may start an answer, and from where: an answer costs money.

Anonymous use is off unless ``ALLOW_ANONYMOUS``. A request that a browser sends for another site is
refused: POST by CSRF, GET by what the browser says of its origin.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from django.conf import settings as django_settings
from django.http import HttpRequest, HttpResponse
from rest_framework.authentication import BaseAuthentication, CSRFCheck, SessionAuthentication
from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from .conf import settings
from .refusals import Refused

__all__ = ["MayChat", "quiet", "refuse_cross_site", "refuse_forged"]

# What a browser adds to every request by itself, other sites' too, once a user has signed in.
_SCHEMES_OF_BROWSERS = frozenset({"basic", "digest", "negotiate", "ntlm"})

# A browser's POST carries at least one of these, or a cookie.
_TRACES_OF_BROWSERS = ("Origin", "Referer", "Sec-Fetch-Site")


class MayChat(BasePermission):
    """Logged-in users; everybody with ``ALLOW_ANONYMOUS``."""

    message = "Please sign in."

    def has_permission(self, request: Request, view: Any) -> bool:
        user = getattr(request, "user", None)
        return settings.ALLOW_ANONYMOUS or bool(user and user.is_authenticated)


def quiet(authenticator: BaseAuthentication) -> BaseAuthentication:
    """Take DRF's CSRF check from a session authenticator, a project's subclass of it too.

    That check knows one way in, and skips anonymous visitors. For views that call
    ``refuse_forged`` themselves.
    """
    if isinstance(authenticator, SessionAuthentication):
        authenticator.enforce_csrf = lambda request: None  # type: ignore[method-assign]
    return authenticator


def refuse_forged(request: Request) -> None:
    """Refuse a POST that another site may have made a browser send.

    It passes with a CSRF token; as JSON also when the browser vouches for the same origin; and
    always when it is authenticated by a header, which no other site can make a browser send.
    """
    if (
        _is_authenticated_by_header(request)
        or _is_authenticated_script(request)
        or _is_same_origin_json(request)
    ):
        return
    if (reason := _csrf_reason(request._request)) is not None:
        name = django_settings.CSRF_HEADER_NAME.removeprefix("HTTP_").replace("_", "-").title()
        name = name.replace("Csrftoken", "CSRFToken")  # as Django's documentation spells it
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
    """Whether an ``Authorization`` that no browser adds by itself says who asks."""
    scheme = request.headers.get("Authorization", "").partition(" ")[0].lower()
    return _has_credentials(request) and bool(scheme) and scheme not in _SCHEMES_OF_BROWSERS


def _is_authenticated_script(request: Request) -> bool:
    """Whether somebody asks by other credentials, Basic or a header of one's own, with no browser.

    A cookie or a browser's own credentials may have signed this in as well: only the absence of
    all that a browser sends along with a POST tells them apart.
    """
    is_traced = any(trace in request.headers for trace in _TRACES_OF_BROWSERS)
    return _has_credentials(request) and not is_traced and not request.COOKIES


def _has_credentials(request: Request) -> bool:
    authenticator = request.successful_authenticator
    return authenticator is not None and not isinstance(authenticator, SessionAuthentication)


def _is_same_origin_json(request: Request) -> bool:
    content_type = (request.content_type or "").partition(";")[0].strip().lower()
    return (
        content_type == "application/json"
        and request.headers.get("Sec-Fetch-Site") == "same-origin"
        and _is_own_host(request, request.headers.get("Origin", ""))
    )


def _is_own_host(request: Request, url: str) -> bool:
    """Whether a URL's host and port are the request's. The scheme is the proxy's affair."""
    try:
        netloc = urlsplit(url).netloc
    except ValueError:  # http://[
        return False
    return bool(netloc) and _host(netloc) == _host(request.get_host())


def _host(netloc: str) -> str:
    return netloc.lower().removesuffix(":80").removesuffix(":443")


def _csrf_reason(request: HttpRequest) -> str | None:
    """Return why Django's CSRF check refuses the request, or None."""
    check = CSRFCheck(lambda request: HttpResponse())
    check.process_request(request)
    return check.process_view(request, None, (), {})  # type: ignore[arg-type, return-value]
