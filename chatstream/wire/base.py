"""What a wire format is: frames in, bytes out. Pure: no I/O, no request, no database."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import ClassVar

from ..core.frames import Frame

__all__ = ["WireFormat", "status_of"]

_STATUSES = {
    "upstream_rate_limited": 429,
    "upstream_timeout": 504,
    "storage": 503,
    "interrupted": 503,
}


def status_of(code: str) -> int:
    """Return the HTTP status of an error that is told in one piece, when nothing was sent yet."""
    return _STATUSES.get(code, 502 if code.startswith("upstream_") else 500)


class WireFormat(ABC):
    """Base of all wire formats; an instance serves one response.

    ``run`` is the run's id, for a reader that may come back for the rest; "" without a run.
    ``heartbeat`` is what fills a silence, empty for nothing; it may stand between any two frames.
    """

    content_type: ClassVar[str] = "text/event-stream"
    headers: ClassVar[Mapping[str, str]] = {
        # no-transform: a proxy that compresses would buffer. nginx: one header cures its buffering.
        "Cache-Control": "no-cache, no-transform",
        "X-Accel-Buffering": "no",
        # GZipMiddleware before Django 6.1 collects what it compresses; it skips what is encoded.
        "Content-Encoding": "identity",
    }
    heartbeat: ClassVar[bytes] = b": ping\n\n"

    def __init__(self, run: str = "") -> None:
        self.run = run

    def opening(self) -> bytes:
        """Return the bytes that leave at once, before the upstream is asked."""
        return b""

    @abstractmethod
    def encode(self, frame: Frame) -> bytes:
        """Return the bytes of a frame; may be empty."""

    def encode_all(self, frames: Iterable[Frame]) -> bytes:
        """Return the bytes of frames that leave in one write."""
        return b"".join(map(self.encode, frames))
