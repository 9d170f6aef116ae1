"""A run's row and its frame log, changed together: everything that settles a run is here.

The row decides: whoever wins its conditional UPDATE tells the ending, in frames. With a log in the
runs' database both are one transaction. With another the row comes first, the terminal frame after
it; should the process die in between, any other appends the frame that the row implies.

All functions block, and run in the writer's thread or in a transaction of the caller's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from django.db import DataError, IntegrityError, connections, router, transaction

from .core.answers import Answer, Ending, last_frames
from .core.frames import Frame
from .core.outcomes import Outcome
from .framelog import FrameConflict, FrameLog
from .models import Run, from_now, storable
from .signals import run_settled

__all__ = ["Part", "cancel", "commit", "complete", "look", "prune", "reap"]

logger = logging.getLogger("chatstream")

INTERRUPTED = Ending(Outcome.INTERRUPTED, error_code="interrupted")
STOPPED = Ending(Outcome.STOPPED, error_code="stopped")
UNSTORABLE = Ending(Outcome.FAILED, error_code="storage")
# What one run alone can be guilty of. ValueError: a driver cannot encode a text.
FAULTS = (FrameConflict, DataError, IntegrityError, ValueError)
FROZEN_AFTER = 2  # seconds between two statements of a transaction
ATTEMPTS = 20  # a producer that is not dead after all may append a few more frames meanwhile


@dataclass(slots=True)
class Part:
    """What one commit does for one run. ``ending`` is there if the frames end it."""

    run: str
    frames: list[Frame]  # at least one
    ending: Ending | None = None
    first_text_ago: float | None = None  # seconds


def commit(log: FrameLog, producer: str, parts: Sequence[Part]) -> set[str]:
    """Append the frames of many runs, and settle those that end. Return the runs that were lost.

    A run is lost if somebody else has settled it, or written where its frames belong; and if the
    database refuses what it brings, which settles it as failed.
    Raises ``django.db.Error`` if the database is out of reach; then nothing is committed, unless
    the connection broke during the commit itself: to try again is safe.
    """
    try:
        failed = _commit(log, producer, parts)
    except FAULTS:
        failed = {part.run for part in parts}  # one only is at fault: it alone shall lose
    again = [part for part in parts if part.run in failed]
    lost = {part.run for part in again if not _commit_alone(log, producer, part)}
    for part in parts:
        if part.ending is not None and part.run not in lost:
            tell_settled(part.run)
    return lost


def _commit(log: FrameLog, producer: str, parts: Sequence[Part]) -> set[str]:
    if log.is_transactional:
        with _transaction():
            lost = _settle(producer, parts)
            _append(log, {part.run: part.frames for part in parts if part.run not in lost})
        return lost
    # The row first, then the two frames that tell its ending.
    _append(log, {part.run: part.frames[:-2] if part.ending else part.frames for part in parts})
    with _transaction():
        lost = _settle(producer, parts)
    ended = [part for part in parts if part.ending and part.run not in lost]
    _append(log, {part.run: part.frames[-2:] for part in ended})
    return lost


def _append(log: FrameLog, frames: dict[str, list[Frame]]) -> None:
    if frames := {run: added for run, added in frames.items() if added}:
        log.append(frames)


def _commit_alone(log: FrameLog, producer: str, part: Part) -> bool:
    """Commit one run, less what an earlier try has left in the log; return whether it is there.

    The answer to a commit may get lost with the connection.
    """
    held = log.read(part.run, part.frames[0].seq - 1)[: len(part.frames)]
    if held == part.frames:
        return True
    rest = replace(part, frames=part.frames[len(held) :])
    try:
        if held == part.frames[: len(held)] and not _commit(log, producer, [rest]):
            return True
        logger.warning("run %s: lost to another process", part.run)
    except FAULTS as exc:
        logger.error("run %s: cannot be stored: %s", part.run, exc)
        _conclude(log, part.run, UNSTORABLE, partial(_give_up, producer))
    return False


def _give_up(producer: str, run: str, ending: Ending) -> bool:
    return Run.objects.settle(run, producer, ending)


def _settle(producer: str, parts: Sequence[Part]) -> set[str]:
    """Settle the runs that end, and save what they answered; return those that were lost."""
    lost = set()
    for part in parts:
        if part.ending is None:
            continue
        if Run.objects.settle(part.run, producer, part.ending, part.first_text_ago):
            _save_message(part.run, part.ending.text)
        else:
            lost.add(part.run)
    return lost


def _save_message(run: str, text: str) -> None:
    Run.objects.only("message").get(pk=run).save_message(text)


@contextmanager
def _transaction() -> Iterator[None]:
    alias = router.db_for_write(Run)
    connection = connections[alias]
    is_outermost = not connection.in_atomic_block
    with transaction.atomic(alias):
        if is_outermost and connection.vendor == "postgresql":
            # A process that freezes here would hold its locks for as long, and with them whoever
            # reaps its runs: the server ends its transaction.
            with connection.cursor() as cursor:
                cursor.execute(
                    "SET LOCAL idle_in_transaction_session_timeout = %s", [FROZEN_AFTER * 1000]
                )
        yield


def tell_settled(run: str) -> None:
    """Send ``run_settled``."""
    if run_settled.has_listeners(Run) and (row := Run.objects.filter(pk=run).first()):
        run_settled.send_robust(Run, run=row)


# Runs that nobody produces --------------------------------------------------------------------


def reap(log: FrameLog, lease: float, runs: Iterable[str] | None = None) -> list[str]:
    """Settle, as interrupted, the runs whose producer died; return them.

    ``runs`` bounds the search to these. The partial text is kept.
    """
    expired = Run.objects.expired(lease)
    if runs is not None:
        expired = expired.filter(pk__in=list(runs))
    reaped = []
    for run in expired.values_list("pk", flat=True):
        if _conclude(log, run, INTERRUPTED, partial(_reap, lease)):
            logger.warning("run %s: its process died; interrupted", run)
            reaped.append(run)
    return reaped


def _reap(lease: float, run: str, ending: Ending) -> bool:
    return Run.objects.reap(run, lease, ending)


def cancel(log: FrameLog, run: str) -> bool:
    """Settle a run that is queued as stopped: nobody had begun."""
    return _conclude(log, run, STOPPED, Run.objects.cancel)


def _conclude(
    log: FrameLog, run: str, ending: Ending, settle: Callable[[str, Ending], bool]
) -> bool:
    """Settle by ``settle(run, ending)``; then bring the log and the message up to the row."""
    with _transaction() if log.is_transactional else nullcontext():
        if not settle(run, ending):
            return False
        _close(log, run, ending)
    tell_settled(run)
    return True


def complete(log: FrameLog, run: Run) -> None:
    """Append what the row of a settled run implies, should its process have died before."""
    if not run.is_pruned:
        _close(log, run.pk, run.ending())


def _close(log: FrameLog, run: str, ending: Ending) -> None:
    """Append the last frames; then save what the log holds in all as the answer."""
    answer = _ended(log, run, ending)
    with _transaction():
        unsaved = Run.objects.filter(pk=run, last_seq=0)
        if unsaved.update(text=storable(answer.text), last_seq=answer.last_seq):
            _save_message(run, answer.text)


def _ended(log: FrameLog, run: str, ending: Ending) -> Answer:
    """Append the last frames, unless the log has such; return the whole answer."""
    for _ in range(ATTEMPTS):
        frames = log.read(run)
        if frames and frames[-1].is_terminal:
            return Answer(frames)
        last = last_frames(replace(ending, last_seq=len(frames) + 2))
        try:
            log.append({run: last})
        except FrameConflict:
            continue
        return Answer([*frames, *last])
    raise FrameConflict(f"run {run}: its producer appended all the time")


@dataclass(frozen=True)
class Look:
    """What is to be done about runs of others: claim those queued, give up those gone."""

    queued: list[str]
    gone: list[str]


def look(log: FrameLog, runs: Sequence[str], lease: float) -> Look:
    """See to runs that somebody follows and that say nothing.

    Reaps those whose process died, and completes those that are settled.
    """
    reap(log, lease, runs)
    rows = {row.pk: row for row in Run.objects.filter(pk__in=runs).defer("request")}
    gone = [run for run in runs if run not in rows]
    for row in rows.values():
        if row.is_open:
            continue
        if row.last_seq and not log.last_seq(row.pk):
            gone.append(row.pk)  # its frames are lost, or in the memory of another process
        else:
            complete(log, row)
    late = Run.objects.queued_for(lease).filter(pk__in=runs)
    return Look(queued=list(late.values_list("pk", flat=True)), gone=gone)


def prune(log: FrameLog, retention: float, at_once: int = 500) -> int:
    """Delete the frames of runs that were settled so many seconds ago; return how many runs."""
    count = 0
    old = Run.objects.exclude(status__in=Run.OPEN).filter(
        settled_at__lt=from_now(-retention), is_pruned=False
    )
    while batch := list(old.values_list("pk", flat=True)[:at_once]):
        log.delete(batch)
        count += Run.objects.filter(pk__in=batch).update(is_pruned=True)
    return count
