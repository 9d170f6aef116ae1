"""What views and commands call: start a run, follow it, stop it.

::

    run, _ = start_run(RunRequest([{"role": "user", "content": "Hi"}]), owner=f"user:{user.pk}")
    async for frames in afollow(run.pk):
        …
    stop_run(run)
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

from django.apps import apps
from django.db import IntegrityError, router, transaction
from django.db.models import QuerySet

from .conf import settings
from .conversations import Turn
from .core.answers import Answer, last_frames
from .core.frames import Frame, Kind
from .core.requests import RunRequest
from .engine import Engine
from .framelog import get_frame_log
from .ledger import cancel, complete, reap
from .loop import serving_loop
from .models import Conversation, Run
from .providers import get_provider
from .writer import writer

__all__ = [
    "KeyReused",
    "Resumption",
    "RunOpen",
    "TooManyRuns",
    "afollow",
    "answer_of",
    "digest_of",
    "engine",
    "find_by_key",
    "looked_after",
    "resume",
    "start_run",
    "stop_run",
    "wait",
]


class RunOpen(Exception):
    """The conversation has an open run already: ``run``."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"run {run.pk} is open")
        self.run = run


class TooManyRuns(Exception):
    """The owner has ``MAX_OPEN_RUNS`` open runs."""


class KeyReused(Exception):
    """The idempotency key came before, with another request."""


def engine() -> Engine:
    """Return the engine of the loop on which this process serves."""
    return engine_on(serving_loop())


def engine_on(loop: asyncio.AbstractEventLoop) -> Engine:
    return cast(Engine, apps.get_app_config("chatstream").engine_on(loop))  # type: ignore[attr-defined]


# Starting -----------------------------------------------------------------------------------------


def digest_of(asked: Any) -> str:
    """Return what tells two requests with one idempotency key apart."""
    # default: a project's serializer may let dates, decimals and more through.
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def find_by_key(owner: str, key: str, digest: str) -> Run | None:
    """Return the run that was started with this key. Raises ``KeyReused``."""
    run = Run.objects.of(owner).filter(idempotency_key=key).first()
    if run is not None and run.request_digest != digest:
        raise KeyReused(key)
    return run


def start_run(
    request: RunRequest,
    *,
    owner: str,
    provider: str = "default",
    turn: Turn | None = None,
    key: str | None = None,
    digest: str = "",
) -> tuple[Run, bool]:
    """Create a run, to be produced by this process as soon as its row is committed.

    ``owner`` is ``user:<pk>`` or ``anon:<token>``. Returns the run and True; with a ``key`` that
    its owner has used meanwhile, the run that was started then and False. Blocks. Raises
    ``RunOpen``, ``TooManyRuns``, ``KeyReused``, and ``django.db.Error``.
    """
    run = Run(
        owner=owner,
        provider=provider,
        model=get_provider(provider).model_for(request),
        request=asdict(request),
        idempotency_key=key,
        request_digest=digest,
    )
    try:
        return writer().call(_create, run, turn, engine()), True
    except (IntegrityError, TooManyRuns) as exc:
        if key is not None and (known := find_by_key(owner, key, digest)):
            return known, False  # two requests raced
        if turn is None or isinstance(exc, TooManyRuns):
            raise
        return _start_after_the_dead(run, turn), True


def _create(run: Run, turn: Turn | None, engine: Engine) -> Run:
    alias = router.db_for_write(Run)
    with transaction.atomic(alias):
        _refuse_too_many(run.owner)
        if turn is not None:
            run.message = turn.save()
            run.conversation = turn.conversation
        run.save(force_insert=True)
        if run.message is not None:
            run.message.run = run
            run.message.save(update_fields=["run"])
        transaction.on_commit(partial(engine.start, run.pk), using=alias)
    return run


def _refuse_too_many(owner: str) -> None:
    if Run.objects.of(owner).open().count() < settings.MAX_OPEN_RUNS:
        return
    dead = Run.objects.of(owner).expired(settings.LEASE).values_list("pk", flat=True)
    if not (dead and reap(get_frame_log(), settings.LEASE, list(dead))):
        raise TooManyRuns(owner)


def _start_after_the_dead(run: Run, turn: Turn) -> Run:
    """The conversation has an open run: unless its process died, say which."""
    runs = Run.objects.filter(conversation__in=_stored(turn.conversation))
    for _ in range(2):
        other = runs.filter(status__in=Run.OPEN).first()
        if other is not None and not writer().call(
            reap, get_frame_log(), settings.LEASE, [other.pk]
        ):
            raise RunOpen(other)
        try:
            return writer().call(_create, run, turn, engine())
        except IntegrityError:
            continue
    raise RunOpen(runs.order_by("pk").last() or run)


def _stored(conversation: Conversation) -> QuerySet[Conversation]:
    """Return the conversation as it is stored: another request may just have made it."""
    if conversation.external_id is None:
        return Conversation.objects.filter(pk=conversation.pk)
    rows = Conversation.objects.of(conversation.owner)
    return rows.known_as(conversation.format, conversation.external_id)


# Following ----------------------------------------------------------------------------------------


def afollow(
    run: str, after: int = 0, heartbeat: float | None = None
) -> AsyncGenerator[list[Frame]]:
    """Yield a run's frames after ``after`` as they come, [] after each ``heartbeat`` of silence.

    The last batch ends with the terminal frame, or with an error of this connection alone, whose
    ``seq`` is 0. Close it when done (``aclosing``). Who may follow is the caller's to check. Call
    it on the loop that iterates it.
    """
    here = engine_on(asyncio.get_running_loop())
    return here.follow(run, after, settings.HEARTBEAT if heartbeat is None else heartbeat)


def wait(run: str) -> list[Frame]:
    """Return all frames of a run, once it has ended. Blocks: not on a loop's thread."""

    async def collect() -> list[Frame]:
        async with aclosing(afollow(run)) as batches:
            return [frame async for batch in batches for frame in batch]

    return asyncio.run_coroutine_threadsafe(collect(), serving_loop()).result()


@dataclass(frozen=True)
class Resumption:
    """What a reader that holds the frames up to some number is to be told.

    ``verdict``: "follow" (from there on), "told" (``frames`` is all that is left to tell),
    "nothing" (204), "future" (400), "expired" (410).
    """

    verdict: str
    frames: tuple[Frame, ...] = ()


def resume(run: Run, after: int) -> Resumption:
    """Say how a reader goes on that holds the frames up to ``after``. Blocks; one query at most,
    unless the number is the newest or wrong."""
    if run.is_open:
        return _resume_open(run, after)
    if after >= run.last_seq > 0:
        return Resumption("nothing" if after == run.last_seq else "future")
    log = get_frame_log()
    frames = log.read(run.pk, after)
    if not frames or not frames[-1].is_terminal:
        if run.last_seq and not log.last_seq(run.pk):
            return _from_row(run) if after == 0 else Resumption("expired")
        writer().call(complete, log, run)
        frames = log.read(run.pk, after)
    return Resumption("told", tuple(frames))


def _resume_open(run: Run, after: int) -> Resumption:
    if after > 0:
        last = engine().last_seq(run.pk)
        if last is None or after > last:
            last = get_frame_log().last_seq(run.pk)
        if after > last:
            return Resumption("future")
    return Resumption("follow")


def _from_row(run: Run) -> Resumption:
    """The frames are gone: the saved text is one, without a number."""
    text = [Frame(0, Kind.TEXT, {"text": run.text})] if run.text else []
    return Resumption("told", (*text, *last_frames(run.ending())))


def looked_after(run: Run) -> Run:
    """Return the run, settled as interrupted if it is open and its process has died. Blocks."""
    is_elsewhere = run.is_open and engine().last_seq(run.pk) is None
    if is_elsewhere and writer().call(reap, get_frame_log(), settings.LEASE, [run.pk]):
        run.refresh_from_db()
    return run


def answer_of(run: Run) -> str:
    """Return the text so far. Blocks."""
    return Answer(get_frame_log().read(run.pk)).text if run.is_open else run.text


# Stopping -----------------------------------------------------------------------------------------


def stop_run(run: Run) -> None:
    """Stop a run, wherever it is produced; one that has ended stays as it is. Blocks."""
    if not run.is_open:
        return
    config = apps.get_app_config("chatstream")
    if writer().call(cancel, get_frame_log(), run.pk):
        return
    writer().call(Run.objects.request_stop, run.pk)
    for here in config.engines():  # type: ignore[attr-defined]
        here.stop_soon(run.pk)
