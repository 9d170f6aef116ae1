"""HTML for htmx to swap, over server-sent events: one wire for htmx 4 and htmx 2.

An unnamed event is HTML that is appended; a named one is a signal. The last is ``done``, however
the answer ended, for on that name, and on nothing else, a page stops listening: a status of 204
starts both versions' next attempt.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from types import MappingProxyType
from typing import Any

from ..core.frames import Frame, Kind
from .base import WireFormat

__all__ = ["HtmxFormat", "ended", "error_span"]


class HtmxFormat(WireFormat):
    """``run`` puts ids ``<run>:<seq>`` on the events, so that a reader can come back for the rest.

    ``opening_html`` comes before the answer, to a reader from the first frame on; None is for one
    that comes back. ``closing_html`` comes after it. ``words`` are what to say instead of our
    English, by code, and by "truncated".
    """

    def __init__(
        self,
        run: str = "",
        *,
        opening_html: str | None = "",
        closing_html: str = "",
        words: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(run)
        self.opening_html = opening_html
        self.closing_html = closing_html
        self.words = words
        self._outcome = ""
        self._ends_in_cr = False

    def opening(self) -> bytes:
        lines = ": open\nretry: 1000\n"
        if self.opening_html is not None:
            # An id before the first token: even a cut before it resumes.
            lines += self._id(0) + _data(self.opening_html) + "\n"
        return lines.encode()

    def encode(self, frame: Frame) -> bytes:
        return self._block(frame).encode(errors="replace")

    def _block(self, frame: Frame) -> str:
        match frame.kind:
            case Kind.TEXT:
                # In an element: htmx 4 drops an event that is nothing but white space.
                html = f"<span>{escape(self._text(frame.data['text']))}</span>"
                return self._numbered(frame, _data(html) + "\n")
            case Kind.FINISH:
                self._outcome = frame.data["outcome"]
            case Kind.DONE:
                return self._numbered(frame, self._note() + self._end("completed"))
            case Kind.ERROR:
                return self._numbered(frame, self._failure(frame.data) + self._end("failed"))
        return ""

    def _numbered(self, frame: Frame, block: str) -> str:
        # seq 0: an error of this connection alone, which is no frame of the run
        return self._id(frame.seq) + block if frame.seq else block

    def _id(self, seq: int) -> str:
        return f"id: {self.run}:{seq}\n" if self.run else ""

    def _text(self, text: str) -> str:
        r"""Return the text with \n as its only line end; one \r\n may come in two frames."""
        if self._ends_in_cr:
            text = text.removeprefix("\n")
        self._ends_in_cr = text.endswith("\r")
        # A parser of HTML would drop NUL without a word.
        return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "\ufffd")

    def _note(self) -> str:
        if self._outcome != "truncated":
            return ""
        told = self.words.get("truncated", "The answer reached its length limit.")
        return _event(f'<span class="chatstream-note">{escape(told)}</span>')

    def _failure(self, error: dict[str, Any]) -> str:
        error = {**error, "message": self.words.get(error["code"], error["message"])}
        html = error_span(error["code"], error["message"])
        return _event(html) + f"event: chat-error\ndata: {json.dumps(error)}\n\n"

    def _end(self, otherwise: str) -> str:
        closing = _event(self.closing_html) if self.closing_html else ""
        return closing + _done(self._outcome or otherwise)


def ended(outcome: str) -> bytes:
    """Return what a reader is told that lacks nothing."""
    return _done(outcome).encode()


def error_span(code: str, message: str) -> str:
    """Return how a failure looks in a page, in mid-stream and before."""
    return (
        f'<span class="chatstream-error" role="alert" data-code="{escape(code)}">'
        f"{escape(message)}</span>"
    )


def _done(outcome: str) -> str:
    return f"event: done\ndata: {json.dumps({'outcome': outcome})}\n\n"


def _event(html: str) -> str:
    return _data(html) + "\n"


def _data(html: str) -> str:
    r"""Return HTML, whose only line ends are \n, as the data lines of an event; "" for none."""
    return "".join([f"data: {line}\n" for line in html.split("\n")]) if html else ""
