"""The HTTP endpoints: checks first, then a response that streams."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

from django.conf import settings as django_settings
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.views import APIView

from .core.requests import RunRequest
from .negotiation import FirstRenderer, refuse_charset
from .permissions import MayChat, quiet, refuse_cross_site, refuse_forged
from .providers import get_provider
from .providers.base import Provider
from .providers.sources import ProviderSource
from .refusals import Refused, refusal_of, refusal_response
from .responses import EventStreamResponse
from .serializers import AskSerializer
from .throttling import RunThrottle, peek
from .wire.native import NativeFormat

__all__ = ["ChatStreamView"]

MAX_GET_PROMPT = 2000  # encoded bytes: servers and proxies cut request lines from 4 kB on


class ChatStreamView(APIView):
    """Streams an answer: ``GET ?prompt=…`` for an EventSource, POST for everybody else.

    A project changes it by subclassing: the class attributes of any DRF view, and the hooks
    ``get_messages``, ``get_provider``, ``get_completion_params``::

        class SupportView(ChatStreamView):
            permission_classes = [IsCustomer]

            def get_messages(self, data):
                return [{"role": "system", "content": RULES}, *super().get_messages(data)]
    """

    permission_classes = [MayChat]  # noqa: RUF012  DRF's own way
    throttle_classes = [RunThrottle]  # noqa: RUF012
    parser_classes = [JSONParser, FormParser, MultiPartParser]  # noqa: RUF012
    renderer_classes = [JSONRenderer]  # noqa: RUF012
    content_negotiation_class = FirstRenderer
    metadata_class = None  # OPTIONS tells the methods, and not how this is made
    http_method_names = ["get", "head", "post", "options"]  # noqa: RUF012
    serializer_class = AskSerializer

    # Hooks ----------------------------------------------------------------------------------------

    def get_messages(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the messages to send; ``data`` is what the serializer let through."""
        if "prompt" in data:
            return [{"role": "user", "content": data["prompt"]}]
        return [dict(message) for message in data["messages"]]

    def get_provider(self, data: Mapping[str, Any]) -> Provider[Any]:
        """Return the provider to ask."""
        try:
            return get_provider(data.get("provider", "default"))
        except KeyError:
            raise Refused("invalid", "There is no such provider.", field="provider") from None

    def get_completion_params(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return further fields of the upstream's request body, such as ``temperature``."""
        return {}

    # Methods --------------------------------------------------------------------------------------

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if _is_reconnect(request):
            # The answer is lost with its connection. 204 tells an EventSource to stop for good:
            # anything else would buy the prompt a second time.
            return Response(status=204)
        source = self.get_source(self.get_query(request))
        # An id before the first token: even a reconnect before it buys nothing.
        return self.stream(request, source, has_ids=True)

    def head(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Say what GET would: an EventSource cannot read a refusal. Starts nothing."""
        if not _is_reconnect(request):
            self.get_source(self.get_query(request))
        return Response(status=204 if _is_reconnect(request) else 200)

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        return self.stream(request, self.get_source(self.get_body(request)), has_ids=False)

    def stream(
        self, request: Request, source: ProviderSource, *, has_ids: bool
    ) -> EventStreamResponse:
        """Return the response that streams."""
        run = secrets.token_hex(8)
        # Django's copy of the headers, made when we looked at one: as long as the stream otherwise.
        vars(request._request).pop("headers", None)
        wire = NativeFormat(
            run if has_ids else "",
            all_events=request.query_params.get("events") == "all",
            has_opening_block=has_ids,
        )
        return EventStreamResponse(source, wire=wire, run=run)

    # Checks ---------------------------------------------------------------------------------------

    def get_query(self, request: Request) -> dict[str, Any]:
        """Return a GET's data. A prompt that a request line may not hold is refused."""
        data = request.query_params.dict()
        size = len(quote_plus(data.get("prompt", "")))
        if size > MAX_GET_PROMPT:
            raise Refused(
                "too_large",
                f"The prompt has {size} encoded bytes; a GET takes {MAX_GET_PROMPT}. "
                "Send it by POST.",
                field="prompt",
            )
        return data

    def get_body(self, request: Request) -> Any:
        """Return a POST's data; a form's as a dict."""
        limit = django_settings.DATA_UPLOAD_MAX_MEMORY_SIZE
        size = request.META.get("CONTENT_LENGTH") or "0"
        if limit is not None and size.isdecimal() and int(size) > limit:
            raise Refused("too_large", f"The request has {size} bytes; at most {limit} are taken.")
        try:
            data = request.data
        except RecursionError:
            raise Refused("invalid", "The JSON is nested too deeply.") from None
        if not isinstance(data, Mapping):
            raise Refused("invalid", "Expected a JSON object with prompt or messages.")
        return data.dict() if hasattr(data, "dict") else data

    def get_source(self, given: Any) -> ProviderSource:
        """Check what was asked for; return the completion, not yet opened."""
        serializer = self.serializer_class(data=given)
        serializer.is_valid(raise_exception=True)
        data = serializer.validated_data
        provider = self.get_provider(data)
        model = data.get("model")
        if model is not None and not provider.allows_model(model):
            raise Refused("invalid", "This model may not be asked for here.", field="model")
        messages = self.get_messages(data)
        if message := self.serializer_class.oversize(messages):
            field = "prompt" if "prompt" in data else "messages"
            raise Refused("too_large", message, field=field)
        request = RunRequest(messages, model, self.get_completion_params(data))
        return ProviderSource(provider, request)

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [quiet(authenticator) for authenticator in super().get_authenticators()]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        refuse_charset(request)
        super().initial(request, *args, **kwargs)

    def check_permissions(self, request: Request) -> None:
        if request.method == "POST":
            refuse_forged(request)
        elif request.method in ("GET", "HEAD"):
            refuse_cross_site(request)
        super().check_permissions(request)

    def permission_denied(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        user = request.user
        if user is None or not user.is_authenticated:
            raise exceptions.NotAuthenticated
        super().permission_denied(request, *args, **kwargs)

    def get_throttles(self) -> list[BaseThrottle]:
        throttles = super().get_throttles()
        if _is_reconnect(self.request):
            return []  # 204, whatever was asked before
        if self.request.method in ("GET", "POST"):
            return throttles
        return [peek(throttle) for throttle in throttles]

    def handle_exception(self, exc: Exception) -> Response:
        refused = refusal_of(exc)
        if refused is None:
            raise exc
        response = refusal_response(refused)
        response.exception = True
        return response


def _is_reconnect(request: Any) -> bool:
    return request.method in ("GET", "HEAD") and "Last-Event-ID" in request.headers
