"""``runs/``: start a run, look at it, follow it, stop it."""

from __future__ import annotations

from typing import Any

from rest_framework.request import Request
from rest_framework.response import Response

from ..models import Run
from ..runs import looked_after, stop_run, wait
from ..wire.base import status_of
from .base import ChatView
from .following import FollowsRuns, seq_of, wanted_wire
from .links import run_data, summary_of
from .starting import StartsRuns

__all__ = ["RunListView", "RunStopView", "RunStreamView", "RunView"]


class RunListView(StartsRuns, FollowsRuns):
    """``POST runs/``: 201 with the new run; 200 with the old one for a known idempotency key.

    With ``?wire=json`` once it has ended, with ``sse`` or ``text`` its stream.
    """

    http_method_names = ["post", "options"]  # noqa: RUF012

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        wire = wanted_wire(request)
        run, is_new = self.start(self.get_body(request))
        if wire in ("sse", "text"):
            return self.follow(run, 0)
        status = 201 if is_new else 200
        if wire == "json":
            return self._finished(run, status)
        return Response(summary_of(run, request), status=status)

    def _finished(self, run: Run, status: int) -> Response:
        """Wait for the answer. A failure has an HTTP status: nothing was sent yet."""
        *_, last = wait(run.pk)
        run.refresh_from_db()
        code = last.data.get("code", "")
        if code not in ("", "stopped", "filtered"):
            status = status_of(code)
        headers = {"Cache-Control": "no-store"}
        return Response(run_data(run, self.request), status=status, headers=headers)


class RunView(ChatView):
    """``GET runs/<id>/``: the run, with its text so far."""

    http_method_names = ["get", "head", "options"]  # noqa: RUF012

    def get(self, request: Request, run: str, *args: Any, **kwargs: Any) -> Response:
        row = looked_after(self.owned(Run.objects.defer("request"), run))
        return Response(run_data(row, request), headers={"Cache-Control": "no-store"})


class RunStreamView(FollowsRuns):
    """``GET runs/<id>/stream/``: the frames that the reader lacks, as they come."""

    http_method_names = ["get", "head", "options"]  # noqa: RUF012

    def get(self, request: Request, run: str, *args: Any, **kwargs: Any) -> Any:
        row = self.owned(Run.objects.defer("request"), run)
        return self.follow(row, seq_of(request, row))


class RunStopView(ChatView):
    """``POST runs/<id>/stop/``: 202, however often, and also after the end."""

    http_method_names = ["post", "options"]  # noqa: RUF012

    def post(self, request: Request, run: str, *args: Any, **kwargs: Any) -> Response:
        row = self.owned(Run.objects.defer("request"), run)
        stop_run(row)
        row.refresh_from_db(fields=["status"])
        return Response({"id": row.pk, "status": str(row.status)}, status=202)
