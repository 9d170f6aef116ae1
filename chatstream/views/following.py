"""What the endpoints that stream a run have in common: where a reader goes on."""

from __future__ import annotations

import re
from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from ..ids import PATTERN
from ..models import Run
from ..refusals import Refused
from ..responses import RunStreamResponse
from ..runs import resume
from ..wire.base import WireFormat
from ..wire.native import NativeFormat
from ..wire.text import TextFormat
from .base import ChatView

__all__ = ["FollowsRuns", "last_event_id", "seq_of", "wanted_wire"]

# JSON is what our own client accepts, and wants at once.
_WIRES = {"text/event-stream": "sse", "text/plain": "text"}
_EVENT_ID = re.compile(rf"({PATTERN}):([0-9]{{1,9}})")


class FollowsRuns(ChatView):
    """Base of the endpoints that stream a run.

    ``wire_class`` is the format to answer in, made with the run's id; None for the one that the
    client asks for::

        path("mobile/", ChatStreamView.as_view(wire_class=JsonLines))
    """

    wire_class: type[WireFormat] | None = None

    def follow(self, run: Run, after: int, *, wire: WireFormat | None = None) -> Any:
        """Return the response for a reader that holds the frames up to ``after``."""
        resumption = resume(run, after)
        if resumption.verdict == "nothing":
            return Response(status=204)  # this stops a browser's EventSource for good
        if resumption.verdict == "future":
            raise Refused("invalid", f"The run has no frame {after} yet.", field="after")
        if resumption.verdict == "expired":
            raise Refused("expired", "The frames of this answer are no longer kept.")
        # Django's copy of the headers, made when we looked at one: as long as the stream otherwise.
        vars(self.request._request).pop("headers", None)
        wire = wire or self.get_wire(run)
        return RunStreamResponse(run.pk, after=after, told=resumption.frames, wire=wire)

    def get_wire(self, run: Run) -> WireFormat:
        """Return the format to answer in: a new one for each response."""
        if self.wire_class is not None:
            return self.wire_class(run.pk)
        if wanted_wire(self.request) == "text":
            return TextFormat()
        return NativeFormat(run.pk, all_events=self.request.query_params.get("events") == "all")


def wanted_wire(request: Request) -> str:
    """Return what a client wants to read: "sse", "json" or "text"; "" if it does not say."""
    given = request.query_params.get("wire")
    if given is None:
        # The first one: axios accepts "application/json, text/plain, */*" by itself.
        first = request.headers.get("Accept", "").partition(",")[0].partition(";")[0]
        return _WIRES.get(first.strip().lower(), "")
    if given not in ("sse", "json", "text"):
        raise Refused("invalid", "Expected sse, json or text.", field="wire")
    return given


def last_event_id(request: Request) -> tuple[str, int] | None:
    """Return the run and the number that a browser received last; None if it says nothing."""
    given = request.headers.get("Last-Event-ID")
    if given is None:
        return None
    match = _EVENT_ID.fullmatch(given.strip())
    if match is None:
        raise Refused("invalid", "Last-Event-ID is not one of ours: <run>:<number>.")
    return match[1], int(match[2])


def seq_of(request: Request, run: Run) -> int:
    """Return the number of the last frame that a reader of ``run`` holds.

    The header wins over ``?after=``: a browser that reconnects repeats the old URL.
    """
    if (position := last_event_id(request)) is not None:
        if position[0] != run.pk:
            raise Refused("invalid", "Last-Event-ID names another run.")
        return position[1]
    given = request.query_params.get("after", "0")
    if not (given.isascii() and given.isdecimal() and len(given) < 10):
        raise Refused("invalid", "Expected a whole number.", field="after")
    return int(given)
