"""A content security policy for the demo (Django brings its own from 6.0 on; we serve 5.2, too)."""

from collections.abc import Awaitable, Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.utils.decorators import sync_and_async_middleware

POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
    "object-src 'none'; require-trusted-types-for 'script'; trusted-types dompurify"
)


@sync_and_async_middleware
def content_security_policy(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Send the policy with every response: nothing inline, nothing from elsewhere."""
    if iscoroutinefunction(get_response):

        async def amiddleware(request: Any) -> Awaitable[Any]:
            response = await get_response(request)
            response.headers["Content-Security-Policy"] = POLICY
            return response

        return amiddleware

    def middleware(request: Any) -> Any:
        response = get_response(request)
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return middleware
