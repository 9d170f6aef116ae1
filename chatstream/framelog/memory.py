"""Frames in the memory of one process: for development and tests.

Lost with the process; other processes see none of it. ``manage.py check`` says so (W008).
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from django.core.checks import CheckMessage, Warning

from ..core.frames import Frame
from .base import FrameLog, refuse_misfits

__all__ = ["MemoryFrameLog"]


@dataclass(frozen=True)
class MemoryOptions:
    """There are none."""


class MemoryFrameLog(FrameLog):
    """A list of frames for each run, until it is pruned."""

    options_class = MemoryOptions
    is_shared = False

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._lock = threading.Lock()
        self._frames: dict[str, list[Frame]] = {}

    def append(self, frames: Mapping[str, Sequence[Frame]]) -> None:
        with self._lock:
            for run, added in frames.items():
                held = self._frames.get(run)
                refuse_misfits(held[-1] if held else None, added)
            for run, added in frames.items():
                self._frames.setdefault(run, []).extend(added)

    def read(self, run: str, after: int = 0) -> list[Frame]:
        with self._lock:
            return self._frames.get(run, [])[after:]

    def last_seq(self, run: str) -> int:
        with self._lock:
            return len(self._frames.get(run, ()))

    def delete(self, runs: Iterable[str]) -> None:
        with self._lock:
            for run in runs:
                self._frames.pop(run, None)

    def check(self) -> list[CheckMessage]:
        return [
            Warning(
                "The frame log is kept in memory: answers are lost with the process, and a reader "
                "that reaches another process cannot resume.",
                hint='Leave CHATSTREAM["FRAME_LOG"] out to keep frames in the database.',
                id="chatstream.W008",
            )
        ]
