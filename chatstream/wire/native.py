"""Our own format: server-sent events that a reader of ``onmessage`` and ``JSON.parse`` can use.

docs/design.md, section 1, has its rules. A plain reader gets text frames and the terminal frame;
who asks for all events gets the named ones too.
"""

from __future__ import annotations

import json
from json.encoder import encode_basestring_ascii
from typing import ClassVar

from ..core.frames import Frame, Kind
from .base import WireFormat

__all__ = ["NativeFormat"]

_TEXT = Kind.TEXT  # looked up once: before 3.12 an enum's member costs a call in Python
_UNNAMED = frozenset({Kind.TEXT, Kind.DONE, Kind.ERROR})


class NativeFormat(WireFormat):
    """``run`` puts ids ``<run>:<seq>`` on the frames, so that a reader can come back for the rest;
    ``has_opening_block`` sends one id at once. ``all_events`` adds the named events.
    """

    # Lines without a blank one: they belong to the next frame's block. A block without data
    # reaches some clients as an empty message, on which their JSON.parse dies.
    heartbeat: ClassVar[bytes] = b": ping\n"

    def __init__(
        self, run: str = "", *, all_events: bool = False, has_opening_block: bool = False
    ) -> None:
        super().__init__(run)
        self.all_events = all_events
        self.has_opening_block = has_opening_block

    def opening(self) -> bytes:
        lines = ": open\nretry: 1000\n"
        if self.has_opening_block:
            lines += f'id: {self.run}:0\ndata: {{"text": ""}}\n\n'
        return lines.encode()

    def encode(self, frame: Frame) -> bytes:
        return self._block(frame).encode()

    def _block(self, frame: Frame) -> str:
        kind = frame.kind
        if kind is _TEXT:
            # What json.dumps writes, without its detours: this runs for every token.
            block = f'data: {{"text": {encode_basestring_ascii(frame.data["text"])}}}\n\n'
        elif kind in _UNNAMED:
            block = f"data: {_terminal(frame)}\n\n"
        elif self.all_events:
            block = f"event: {kind}\ndata: {json.dumps(frame.data)}\n\n"
        else:
            return ""
        # seq 0: an error of this connection alone, which is no frame of the run
        return f"id: {self.run}:{frame.seq}\n{block}" if self.run and frame.seq else block


def _terminal(frame: Frame) -> str:
    return '{"done": true}' if frame.kind is Kind.DONE else json.dumps({"error": frame.data})
