"""``htmx/``: answers as HTML that htmx swaps, for a page without JavaScript of its own.

htmx 4 streams the answer to its POST; its extension says so by ``Accept: text/event-stream``. To
everybody else a POST answers with an element that connects to ``GET htmx/<run>/``.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from typing import Any

from django.http import HttpResponse
from django.template.loader import render_to_string
from rest_framework.request import Request

from ..conversations import Turn
from ..models import Run
from ..owners import owner_of_new
from ..places import url_of, with_query
from ..refusals import Refused, refusal_of
from ..wire.htmx import HtmxFormat, ended, error_span
from ..words import ERRORS, STATES
from .following import FollowsRuns, last_event_id, seq_of
from .page import words_of
from .starting import StartsRuns

__all__ = ["HtmxRunView", "HtmxView"]

_ID = re.compile(r"[A-Za-z][\w-]{0,63}")
RETRYABLE = ("throttled", "busy", "storage")


class FollowsByHtmx(FollowsRuns):
    """Base of the endpoints that stream HTML."""

    form = ""  # the id of the form that asks, if it is one of {% chatstream_htmx %}

    def respond(self, run: Run, after: int, opening_html: str | None = None) -> Any:
        """Return the stream for a reader that holds the frames up to ``after``."""
        wire = HtmxFormat(
            run.pk,
            opening_html=opening_html,
            closing_html=self.rendered("chatstream/htmx_stop.html"),
            words=_words(),
        )
        response = self.follow(run, after, wire=wire)
        if response.status_code != 204:
            return response
        run.refresh_from_db(fields=["status"])
        return _stream(ended(str(run.status)))

    def rendered(self, template: str, **context: Any) -> str:
        """Return what is for a form of the tag; "" for one that a project wrote itself."""
        if not self.form:
            return ""
        html = render_to_string(template, {"form": self.form, **context}, self.request._request)
        return _line_ends(html.strip())


class HtmxView(StartsRuns, FollowsByHtmx):
    """``POST htmx/``: starts a run from the fields of a form, ``prompt`` and, all optional,
    ``conversation``, ``provider``, ``model``, ``idempotency_key``. Without a conversation one
    begins.

    htmx 4 that was cut off posts the same again, with ``Last-Event-ID``: that resumes.
    """

    http_method_names = ["post", "options"]  # noqa: RUF012

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        body = {name: value for name, value in self.get_body(request).items() if value != ""}
        self.form = _form_of(body)
        if (position := last_event_id(request)) is not None:
            return self.respond(self.owned(Run.objects.defer("request"), position[0]), position[1])
        run, _ = self.start(body)
        prompt = _line_ends(str(body.get("prompt", "")))
        turn = self.rendered("chatstream/htmx_turn.html", prompt=prompt, **self._fields(run))
        if _streams(request):
            return self.respond(run, 0, turn)
        answer = render_to_string(
            "chatstream/htmx_answer.html", {"run": run.pk, "url": self._url(run)}, request._request
        )
        return HttpResponse(turn + answer, headers={"Cache-Control": "no-store"})

    def validated(self, given: Mapping[str, Any]) -> dict[str, Any]:
        prompt = given.get("prompt")
        if isinstance(prompt, str):  # a form sends \r\n
            given = {**given, "prompt": _line_ends(prompt)}
        return super().validated(given)

    def get_turn(self, data: Mapping[str, Any]) -> Turn | None:
        """Return what the run adds to a conversation. Without one, a prompt begins it."""
        turn = super().get_turn(data)
        if turn is None and "prompt" in data:
            return Turn.begin(owner_of_new(self.request), data["prompt"])
        return turn

    def handle_exception(self, exc: Exception) -> Any:
        """Answer with what to show. htmx 2 shows no error status: it gets 200, and the event."""
        refused = refusal_of(exc)
        if refused is None:
            raise exc
        html = error_span(refused.code, words_of(refused))
        if refused.field == "idempotency_key":  # sent again, it must be with another
            html += self.rendered("chatstream/htmx_key.html", key=_new_key(), is_new=True)
        is_htmx_2 = "HX-Request" in self.request.headers and not _streams(self.request)
        response = HttpResponse(html, status=200 if is_htmx_2 else refused.status_code)
        response["HX-Trigger"] = json.dumps({"chat-error": _error_of(refused)})
        response["Chatstream-Error"] = refused.code
        response["Cache-Control"] = "no-store"
        if refused.retry_after is not None:
            response["Retry-After"] = str(refused.retry_after)
        return response

    def _fields(self, run: Run) -> dict[str, Any]:
        """Return what changes in the form: it goes on with this conversation."""
        stop_url = url_of(self.request, "run-stop", run=run.pk)
        fields = {"conversation": run.conversation_id, "key": _new_key()}
        return {**fields, "open_run": run.pk, "stop_url": stop_url}

    def _url(self, run: Run) -> str:
        return with_query(url_of(self.request, "htmx-run", run=run.pk), into=self.form)


class HtmxRunView(FollowsByHtmx):
    """``GET htmx/<run>/``: the events that the reader lacks, as they come."""

    http_method_names = ["get", "head", "options"]  # noqa: RUF012

    def get(self, request: Request, run: str, *args: Any, **kwargs: Any) -> Any:
        self.form = _form_of(request.query_params)
        row = self.owned(Run.objects.defer("request"), run)
        # htmx 2 may come back without the id that it holds: what it shows already goes first.
        empty = f'<div id="chatstream-{row.pk}" hx-swap-oob="innerHTML"></div>'
        after = seq_of(request, row)
        return self.respond(row, after, None if after else empty)

    def handle_exception(self, exc: Exception) -> Any:
        """Tell a refusal that stays one as a stream: after any status both versions come again."""
        refused = refusal_of(exc)
        if refused is None or refused.code in RETRYABLE:
            return super().handle_exception(exc)
        html = error_span(refused.code, words_of(refused))
        error = json.dumps(_error_of(refused))
        told = f"data: {html}\n\nevent: chat-error\ndata: {error}\n\n".encode()
        return _stream(told + ended("failed"))


def _streams(request: Any) -> bool:
    """Whether htmx can read a stream: the extension of htmx 4 says so with each request."""
    return "text/event-stream" in request.headers.get("Accept", "")


def _stream(body: bytes) -> HttpResponse:
    headers = {**HtmxFormat.headers, "Cache-Control": "no-store"}
    return HttpResponse(body, content_type=HtmxFormat.content_type, headers=headers)


def _form_of(data: Mapping[str, Any]) -> str:
    given = data.get("into")  # a field named "form" would hide form.form from htmx 4
    return given if isinstance(given, str) and _ID.fullmatch(given) else ""


def _new_key() -> str:
    return secrets.token_urlsafe(16)


def _line_ends(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _words() -> dict[str, str]:
    """Return what the page would say, in the reader's language."""
    told = {code: str(words) for code, words in ERRORS.items()}
    return {**told, "truncated": str(STATES["truncated"].words)}


def _error_of(refused: Refused) -> dict[str, Any]:
    error: dict[str, Any] = {"code": refused.code, "message": words_of(refused)}
    if refused.retry_after is not None:
        error["retry_after"] = refused.retry_after
    return {**error, "retryable": refused.code in RETRYABLE}
