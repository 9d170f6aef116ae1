"""Frames in the database of the runs: the default.

A number is given once by a unique constraint. That nothing follows a terminal frame rests on the
same constraint: whoever appends frame n + 1 has seen frame n, committed and not terminal, or
appends it himself; so no terminal frame can come in between (docs/design.md has the proof).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Any, TypeVar

from django.db import IntegrityError, connections, router, transaction
from django.db.models import Max, Q

from ..core.frames import Frame, Kind
from ..models import StoredFrame
from .base import FrameConflict, FrameLog, refuse_misfits

__all__ = ["DatabaseFrameLog"]

COLUMNS = ("run_id", "seq", "kind", "data")
Row = tuple[str, int, str, str]
T = TypeVar("T")

AT_ONCE = 200  # runs that one query asks for: SQLite bounds the depth of an expression
REMEMBERED = 10_000


@dataclass(frozen=True)
class DatabaseOptions:
    """There are none: the database is the one that Django's routers name for the model."""


class DatabaseFrameLog(FrameLog):
    """Rows of ``StoredFrame``."""

    options_class = DatabaseOptions
    is_transactional = True

    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__(options)
        self._appended: dict[str, int] = {}  # run → the last number that this process committed

    def append(self, frames: Mapping[str, Sequence[Frame]]) -> None:
        self._refuse_misfits(frames)
        rows = [
            (run, frame.seq, str(frame.kind), json.dumps(frame.data))
            for run, added in frames.items()
            for frame in added
        ]
        try:
            with transaction.atomic(self._alias):
                _insert(self._alias, rows)
        except IntegrityError as exc:
            raise FrameConflict(str(exc)) from exc
        transaction.on_commit(lambda: self._remember(frames), using=self._alias)

    def read(self, run: str, after: int = 0) -> list[Frame]:
        rows = self._rows.filter(run=run, seq__gt=after).order_by("seq")
        return [_frame(*row) for row in rows.values_list("seq", "kind", "data")]

    def read_many(self, cursors: Mapping[str, int]) -> dict[str, list[Frame]]:
        found: dict[str, list[Frame]] = {}
        for some in _batches(list(cursors.items())):
            wanted = reduce(or_, (Q(run=run, seq__gt=after) for run, after in some))
            rows = self._rows.filter(wanted).order_by("run", "seq")
            for run, *row in rows.values_list("run_id", "seq", "kind", "data"):
                found.setdefault(run, []).append(_frame(*row))
        return found

    def last_seq(self, run: str) -> int:
        return self._rows.filter(run=run).aggregate(last=Max("seq"))["last"] or 0

    def delete(self, runs: Iterable[str]) -> None:
        self._rows.filter(run__in=list(runs)).delete()

    @property
    def _alias(self) -> str:
        return router.db_for_write(StoredFrame)

    @property
    def _rows(self) -> Any:
        # The one that is written: a replica that lags makes a valid id look like a future one.
        return StoredFrame.objects.using(self._alias)

    def _refuse_misfits(self, frames: Mapping[str, Sequence[Frame]]) -> None:
        lasts: dict[str, Frame] = {}
        before = {run: added[0].seq - 1 for run, added in frames.items() if added[0].seq > 1}
        for run, seq in tuple(before.items()):
            if self._appended.get(run) == seq:  # it is there for good: no need to look
                lasts[run] = Frame(seq, Kind.TEXT, {})
                del before[run]
        for some in _batches(list(before.items())):
            wanted = reduce(or_, (Q(run=run, seq=seq) for run, seq in some))
            rows = self._rows.filter(wanted).values_list("run_id", "seq", "kind")
            lasts |= {run: Frame(seq, Kind(kind), {}) for run, seq, kind in rows}
        for run, added in frames.items():
            refuse_misfits(lasts.get(run), added)

    def _remember(self, frames: Mapping[str, Sequence[Frame]]) -> None:
        if len(self._appended) > REMEMBERED:  # of runs that were lost to others
            self._appended.clear()
        for run, added in frames.items():
            if added[-1].is_terminal:
                self._appended.pop(run, None)
            else:
                self._appended[run] = added[-1].seq


def _insert(alias: str, rows: list[Row]) -> None:
    # By hand: for 100 frames bulk_create takes 4.9 ms of CPU on SQLite where this takes 2.3, and
    # 4.3 against 2.5 on PostgreSQL; a busy process does it up to 100 times a second.
    connection = connections[alias]
    table, *columns = map(connection.ops.quote_name, (StoredFrame._meta.db_table, *COLUMNS))
    insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES "
    at_once = (connection.features.max_query_params or 40_000) // len(COLUMNS)
    with connection.cursor() as cursor:
        for some in _batches(rows, at_once):
            values = ", ".join(["(%s, %s, %s, %s)"] * len(some))
            cursor.execute(insert + values, [value for row in some for value in row])


def _frame(seq: int, kind: str, data: str) -> Frame:
    return Frame(seq, Kind(kind), json.loads(data))


def _batches(items: list[T], size: int = AT_ONCE) -> list[list[T]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
