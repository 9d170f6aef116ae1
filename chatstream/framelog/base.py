"""Where the frames of all runs live. A frame that was appended is never changed.

::

    log.append({run: [Frame(1, Kind.START, {…}), Frame(2, Kind.TEXT, {…})]})
    log.read(run, after=1)      # [Frame(2, …)]

The rules, which hold under true concurrency (``chatstream.testing`` has the suite):

1. Frames of a run are numbered 1, 2, … without a gap.
2. A number is given once, and nothing follows a terminal frame: else ``FrameConflict``.
3. An append that conflicts has appended nothing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from django.core.checks import CheckMessage

from ..conf import typed_options
from ..core.frames import Frame

__all__ = ["FrameConflict", "FrameLog"]


class FrameConflict(Exception):
    """Somebody else has written there: one of the frames would not be the next of its run."""


class FrameLog(ABC):
    """Base of all frame logs. Every method may block, and is called from threads only.

    ``is_transactional``: it lives in the database of the runs, so that a run is settled and its
    last frames are appended in one transaction. ``is_shared``: other processes see it.
    ``interval``: how often, in seconds, a process looks for frames of runs of other processes.
    """

    options_class: ClassVar[type[Any]]
    is_transactional: ClassVar[bool] = False
    is_shared: ClassVar[bool] = True
    interval: ClassVar[float] = 0.5

    def __init__(self, options: dict[str, Any]) -> None:
        """Raise ``ImproperlyConfigured`` for an option that is unknown or of a wrong type."""
        where = 'CHATSTREAM["FRAME_LOG"]["OPTIONS"]'
        self.options = typed_options(self.options_class, options, where)

    @abstractmethod
    def append(self, frames: Mapping[str, Sequence[Frame]]) -> None:
        """Append to each run (by its id) the frames that come next; all of them or none.

        Raises ``FrameConflict``.
        """

    @abstractmethod
    def read(self, run: str, after: int = 0) -> list[Frame]:
        """Return the run's frames with ``seq > after``, oldest first; ``[]`` if there are none.

        ``after`` is the last number that the reader holds, 0 for all. An unknown run reads as
        empty.
        """

    @abstractmethod
    def last_seq(self, run: str) -> int:
        """Return the number of the run's last frame; 0 if it has none."""

    @abstractmethod
    def delete(self, runs: Iterable[str]) -> None:
        """Forget all frames of these runs."""

    def read_many(self, cursors: Mapping[str, int]) -> dict[str, list[Frame]]:
        """Return, for each run that has any, its frames after the number given."""
        found = {run: self.read(run, after) for run, after in cursors.items()}
        return {run: frames for run, frames in found.items() if frames}

    def check(self) -> list[CheckMessage]:
        """Return what ``manage.py check`` should say of this log."""
        return []


def refuse_misfits(last: Frame | None, frames: Sequence[Frame]) -> None:
    """Raise ``FrameConflict`` unless the frames may follow ``last``, the run's last frame."""
    for frame in frames:
        expected = last.seq + 1 if last else 1
        if frame.seq != expected or (last is not None and last.is_terminal):
            raise FrameConflict(f"expected frame {expected}, not frame {frame.seq}")
        last = frame
