"""Deadlines of an answer, counted from the last token and not from the last byte.

One timer for each answer, however many tokens come: a token moves a number, and the timer looks at
it when it fires. (``asyncio.timeout(…).reschedule`` would make a new timer for every token.)
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

from ..core.outcomes import RunError

__all__ = ["Deadlines", "LazyTimer", "TokenWatch"]


@dataclass(frozen=True)
class Deadlines:
    """How long to wait, in seconds: for the first token, between tokens, for the whole answer."""

    first_token: float = 60.0
    token: float = 30.0
    run: float = 600.0
    after_finish: float = 1.0  # for usage and [DONE], once the finish reason came


class LazyTimer:
    """Calls back when the loop's time reaches ``due``, which is cheap to move to later."""

    __slots__ = ("_armed_for", "_callback", "_due", "_handle", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, callback: Callable[[], None]) -> None:
        self._loop = loop
        self._callback = callback
        self._due = 0.0
        self._handle: asyncio.TimerHandle | None = None
        self._armed_for = math.inf  # not armed

    def set(self, due: float) -> None:
        self._due = due
        if due < self._armed_for:
            self._arm()

    def cancel(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        self._armed_for = math.inf

    def _arm(self) -> None:
        self.cancel()
        self._armed_for = self._due
        self._handle = self._loop.call_at(self._due, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed_for = math.inf
        # A loop's clock may be a millisecond coarse and wake us that much early.
        if self._loop.time() < self._due - 0.002:
            self._arm()
        else:
            self._callback()


class TokenWatch:
    """An async context manager that turns a missed deadline into ``RunError("upstream_timeout")``.

    As ``asyncio.timeout`` does, it cancels the task that entered it: enter and iterate in one task.
    The time between ``pause()`` and ``resume()`` is the reader's, and counts for the whole answer
    alone.
    """

    __slots__ = (
        "_cancelling",
        "_deadlines",
        "_due",
        "_end",
        "_loop",
        "_missed",
        "_patience",
        "_paused_at",
        "_task",
        "_timer",
        "_waits_for",
    )

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._waits_for = "first token"
        self._missed = ""
        self._paused_at: float | None = None
        self._patience: float | None = None  # from the next ``resume`` on, if it counts anew

    async def __aenter__(self) -> TokenWatch:
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._due = now + self._deadlines.first_token
        self._end = now + self._deadlines.run
        self._timer = LazyTimer(self._loop, self._expire)
        self._timer.set(min(self._due, self._end))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if not self._missed or exc_type is not asyncio.CancelledError:
            return
        if self._task.uncancel() <= self._cancelling:
            raise RunError("upstream_timeout", f"no {self._missed} in time") from None

    def token(self) -> None:
        """Something of the answer came; to be told before ``pause``."""
        self._patience = self._deadlines.token
        self._waits_for = "next token"

    def finish(self) -> None:
        """The answer is whole; only usage and a farewell are waited for."""
        self._patience = self._deadlines.after_finish
        self._waits_for = "end of the stream"

    def pause(self) -> None:
        """The batch goes to the reader, who may take his time."""
        self._paused_at = self._loop.time()

    def resume(self) -> None:
        """We wait for the upstream again. Raises if the whole answer has taken too long."""
        now = self._loop.time()
        if self._patience is not None:
            self._due = now + self._patience
            self._patience = None
        elif self._paused_at is not None:
            self._due += now - self._paused_at
        self._paused_at = None
        if now >= self._end:
            raise RunError("upstream_timeout", "no end of the answer in time")
        self._timer.set(self._due if self._due < self._end else self._end)

    def _expire(self) -> None:
        if self._paused_at is None:
            self._missed = self._waits_for if self._due <= self._end else "end of the answer"
            self._task.cancel()
