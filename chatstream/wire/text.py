"""The bare text as it comes, for people who watch: ``curl --no-buffer``.

There is no room for a heartbeat in it, nor for anything but text: what is not whole says so in a
last line, in brackets.
"""

from __future__ import annotations

from typing import ClassVar

from ..core.frames import Frame, Kind
from .base import WireFormat

__all__ = ["TextFormat"]


class TextFormat(WireFormat):
    """Text in UTF-8; half a surrogate pair is a question mark."""

    content_type: ClassVar[str] = "text/plain; charset=utf-8"
    heartbeat: ClassVar[bytes] = b""

    def __init__(self, run: str = "") -> None:
        super().__init__(run)
        self._is_truncated = False

    def encode(self, frame: Frame) -> bytes:
        return self._text(frame).encode(errors="replace")

    def _text(self, frame: Frame) -> str:
        match frame.kind:
            case Kind.TEXT:
                return str(frame.data["text"])
            case Kind.FINISH:
                self._is_truncated = frame.data["outcome"] == "truncated"
            case Kind.DONE if self._is_truncated:
                return "\n[truncated: The answer reached its length limit.]\n"
            case Kind.ERROR:
                return f"\n[{frame.data['code']}: {frame.data['message']}]\n"
        return ""
