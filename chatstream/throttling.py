"""How often somebody may start an answer.

::

    REST_FRAMEWORK = {"DEFAULT_THROTTLE_RATES": {"chatstream": "20/min"}}
"""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle, SimpleRateThrottle

__all__ = ["RunThrottle", "peek"]


class RunThrottle(SimpleRateThrottle):
    """Counts answers by user, or by address for anonymous visitors. Without a rate: no limit."""

    scope = "chatstream"

    def get_rate(self) -> str | None:
        return self.THROTTLE_RATES.get(self.scope)

    def get_cache_key(self, request: Request, view: Any) -> str | None:
        user = request.user
        is_known = user is not None and user.is_authenticated
        ident = f"user-{user.pk}" if is_known else self.get_ident(request)
        return self.cache_format % {"scope": self.scope, "ident": ident}


def peek(throttle: BaseThrottle) -> BaseThrottle:
    """Make a throttle answer without counting: a HEAD starts nothing."""
    if isinstance(throttle, SimpleRateThrottle):
        throttle.throttle_success = lambda: True  # type: ignore[method-assign]
    return throttle
