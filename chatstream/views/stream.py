"""``stream/``: an answer in one response. ``GET ?prompt=…`` is for an EventSource."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote_plus

from rest_framework.request import Request
from rest_framework.response import Response

from ..models import Run
from ..permissions import refuse_cross_site
from ..refusals import Refused
from ..wire.native import NativeFormat
from .following import FollowsRuns, last_event_id, wanted_wire
from .starting import StartsRuns

__all__ = ["ChatStreamView"]

MAX_GET_PROMPT = 2000  # encoded bytes: servers and proxies cut request lines from 4 kB on


class ChatStreamView(StartsRuns, FollowsRuns):
    """Starts a run and streams it: ``GET ?prompt=…`` for an EventSource, POST for everybody else.

    A project changes it by subclassing::

        class SupportView(ChatStreamView):
            permission_classes = [IsCustomer]

            def get_messages(self, data):
                return [{"role": "system", "content": RULES}, *super().get_messages(data)]
    """

    http_method_names = ["get", "head", "post", "options"]  # noqa: RUF012

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if (position := last_event_id(request)) is not None:
            return self.resume(*position)
        run, _ = self.start(self.get_query(request))
        wire = self.get_wire(run)
        if isinstance(wire, NativeFormat):
            wire.has_opening_block = True  # even a cut before the first token resumes
        return self.follow(run, 0, wire=wire)

    def head(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Say what GET would: an EventSource cannot read a refusal. Starts nothing."""
        if (position := last_event_id(request)) is not None:
            return Response(status=self.resume(*position).status_code)
        self.request_for(self.validated(self.get_query(request)))
        super(StartsRuns, self).check_throttles(request)
        return Response(status=200)

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if (position := last_event_id(request)) is not None:
            return self.resume(*position)
        run, _ = self.start(self.get_body(request))
        return self.follow(run, 0)

    def resume(self, run: str, after: int) -> Any:
        """A client that was cut off asks the same again by itself: that buys nothing."""
        return self.follow(self.owned(Run.objects.defer("request"), run), after)

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
        if "key" in data:
            data["idempotency_key"] = data.pop("key")
        return data

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        if self.wire_class is None:
            wanted_wire(request)  # an unknown one is refused before anything is asked

    def check_permissions(self, request: Request) -> None:
        if request.method in ("GET", "HEAD"):
            refuse_cross_site(request)
        super().check_permissions(request)
