"""Conversations, their messages, the runs that answer, and the frames of each run.

Every change of a run's state is one conditional UPDATE of ``RunQuerySet`` that says whether it
won: of two processes that settle the same run, one does. Times are the database's (``Now()``), for
the processes' clocks differ. ``chatstream.ledger`` changes a row and its frame log together; nobody
else settles a run.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Any, ClassVar

from django.db import models, router
from django.db.models import ExpressionWrapper, F, Q, Value
from django.db.models.functions import Now

from .core.answers import Ending
from .core.frames import Kind
from .core.outcomes import Outcome
from .core.requests import RunRequest
from .ids import new_id

__all__ = ["Conversation", "ConversationQuerySet", "Message", "Run", "RunQuerySet", "StoredFrame"]


QUEUED_LEASES = 2  # a run that nobody claims for so many leases is as good as dead


def from_now(seconds: float) -> Any:
    """Return the database's time so many seconds from now; negative for the past."""
    moment = Now() + Value(timedelta(seconds=seconds), output_field=models.DurationField())
    return ExpressionWrapper(moment, output_field=models.DateTimeField())


class ConversationQuerySet(models.QuerySet["Conversation"]):
    """How conversations are found."""

    def of(self, owner: str) -> ConversationQuerySet:
        """Those of an owner; none for "", who is a visitor that owns nothing yet."""
        return self.filter(owner=owner) if owner else self.none()

    def known_as(self, format: str, external_id: str) -> ConversationQuerySet:
        """Those that a client of another format knows by its own id: of one owner, one at most."""
        return self.filter(format=format, external_id=external_id)


class Conversation(models.Model):
    """Messages that belong together, as a tree: a regenerated answer is a sibling of the first.

    ``owner`` is ``user:<pk>`` or ``anon:<token>``; ``leaf`` the last message of the branch shown.
    One that a client of another format began has that client's id for it as ``external_id``.
    """

    id = models.CharField(primary_key=True, max_length=26, default=new_id, editable=False)
    owner = models.CharField(max_length=80)
    title = models.CharField(max_length=200, blank=True)
    format = models.CharField(max_length=20, blank=True)  # that of ``external_id``
    external_id = models.CharField(max_length=200, null=True, blank=True)
    leaf = models.ForeignKey(
        "Message", null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects = ConversationQuerySet.as_manager()

    class Meta:
        indexes: ClassVar = [models.Index(fields=["owner", "-updated_at"], name="chatstream_conv")]
        constraints: ClassVar = [
            models.UniqueConstraint(
                fields=["owner", "format", "external_id"], name="chatstream_conv_external"
            )
        ]

    def __str__(self) -> str:
        return self.title or self.id


class Message(models.Model):
    """What one side said; an assistant's is there when its run begins, and filled in at its end."""

    class Role(models.TextChoices):
        SYSTEM = "system"
        USER = "user"
        ASSISTANT = "assistant"

    id = models.CharField(primary_key=True, max_length=26, default=new_id, editable=False)
    conversation = models.ForeignKey(
        Conversation, on_delete=models.CASCADE, related_name="messages"
    )
    parent = models.ForeignKey(
        "self", null=True, blank=True, on_delete=models.CASCADE, related_name="children"
    )
    role = models.CharField(max_length=9, choices=Role.choices)
    content = models.TextField(blank=True)
    run = models.ForeignKey(
        "Run", null=True, blank=True, on_delete=models.SET_NULL, related_name="messages"
    )  # the run that wrote it last
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.role}: {self.content[:60]}"


class RunQuerySet(models.QuerySet["Run"]):
    """Each method that changes a state is one UPDATE, and returns whether it won."""

    @property
    def db(self) -> str:
        # Reads, too: on a replica that lags, a valid id looks like one of the future.
        return self._db or router.db_for_write(self.model)  # type: ignore[attr-defined]

    def of(self, owner: str) -> RunQuerySet:
        """Those of an owner; of "" those that a script started for nobody."""
        return self.filter(owner=owner)

    def open(self) -> RunQuerySet:
        return self.filter(status__in=Run.OPEN)

    def expired(self, lease: float) -> RunQuerySet:
        """Runs whose producer died, and queued ones that nobody claimed; ``lease`` in seconds."""
        return self.filter(
            Q(status=Run.Status.IN_PROGRESS, lease_until__lt=Now())
            | Q(status=Run.Status.QUEUED, created_at__lt=from_now(-QUEUED_LEASES * lease))
        )

    def queued_for(self, seconds: float) -> RunQuerySet:
        return self.filter(status=Run.Status.QUEUED, created_at__lt=from_now(-seconds))

    def followed_since(self, runs: Iterable[str], seconds: float) -> set[str]:
        """Return which of the runs somebody in another process followed so recently."""
        found = self.filter(pk__in=list(runs), followed_at__gt=from_now(-seconds))
        return set(found.values_list("pk", flat=True))

    def claim(self, run: str, producer: str, lease: float) -> bool:
        """queued → in_progress, for the producer that will pull it."""
        return bool(
            self.filter(pk=run, status=Run.Status.QUEUED).update(
                status=Run.Status.IN_PROGRESS,
                producer=producer,
                claimed_at=Now(),
                lease_until=from_now(lease),
            )
        )

    def renew(self, producer: str, lease: float, runs: Iterable[str]) -> int:
        """Extend the leases of the runs that are the producer's still; return how many are."""
        mine = self.filter(pk__in=list(runs), status=Run.Status.IN_PROGRESS, producer=producer)
        return mine.update(lease_until=from_now(lease))

    def settle(
        self, run: str, producer: str, ending: Ending, first_text_ago: float | None = None
    ) -> bool:
        """in_progress → its outcome, by its producer. ``first_text_ago`` in seconds."""
        first_text_at = None if first_text_ago is None else from_now(-first_text_ago)
        mine = self.filter(pk=run, status=Run.Status.IN_PROGRESS, producer=producer)
        return bool(mine.update(first_text_at=first_text_at, **_settled(ending)))

    def reap(self, run: str, lease: float, ending: Ending) -> bool:
        """Settle a run whose producer died, or that nobody claimed."""
        return bool(self.filter(pk=run).expired(lease).update(**_settled(ending)))

    def cancel(self, run: str, ending: Ending) -> bool:
        """queued → its outcome: nobody had begun."""
        return bool(self.filter(pk=run, status=Run.Status.QUEUED).update(**_settled(ending)))

    def request_stop(self, run: str) -> bool:
        """Ask the producer of a run in progress to stop it."""
        mine = self.filter(pk=run, status=Run.Status.IN_PROGRESS, stop_requested_at=None)
        return bool(mine.update(stop_requested_at=Now()))

    def touch(self, runs: Iterable[str]) -> None:
        """Tell the producers that somebody follows these runs elsewhere."""
        self.filter(pk__in=list(runs), status=Run.Status.IN_PROGRESS).update(followed_at=Now())


def _settled(ending: Ending) -> dict[str, Any]:
    return {
        "status": str(ending.outcome),
        "error_code": ending.error_code or "",
        "finish_reason": storable(ending.finish_reason or "")[:40],  # the upstream's own words
        "usage": ending.usage,
        "text": storable(ending.text),
        "last_seq": ending.last_seq,
        "settled_at": Now(),
    }


class Run(models.Model):
    """One attempt at one answer: queued, in progress, and then its outcome."""

    class Status(models.TextChoices):
        QUEUED = "queued"
        IN_PROGRESS = "in_progress"
        COMPLETED = Outcome.COMPLETED
        TRUNCATED = Outcome.TRUNCATED
        FILTERED = Outcome.FILTERED
        STOPPED = Outcome.STOPPED
        INTERRUPTED = Outcome.INTERRUPTED
        FAILED = Outcome.FAILED

    OPEN: ClassVar = (Status.QUEUED, Status.IN_PROGRESS)

    id = models.CharField(primary_key=True, max_length=26, default=new_id, editable=False)
    owner = models.CharField(max_length=80)  # as a conversation's
    conversation = models.ForeignKey(
        Conversation, null=True, blank=True, on_delete=models.CASCADE, related_name="runs"
    )
    message = models.ForeignKey(
        Message, null=True, blank=True, on_delete=models.CASCADE, related_name="runs"
    )  # the answer that it writes
    provider = models.CharField(max_length=80)
    model = models.CharField(max_length=200, blank=True)
    request = models.JSONField()  # {"messages", "model", "params"}: as it was sent
    status = models.CharField(max_length=11, choices=Status.choices, default=Status.QUEUED)
    error_code = models.CharField(max_length=40, blank=True)
    finish_reason = models.CharField(max_length=40, blank=True)
    usage = models.JSONField(null=True, blank=True)
    text = models.TextField(blank=True)
    last_seq = models.PositiveIntegerField(default=0)  # the terminal frame's; 0 while open
    created_at = models.DateTimeField(db_default=Now())
    claimed_at = models.DateTimeField(null=True, blank=True)
    first_text_at = models.DateTimeField(null=True, blank=True)
    settled_at = models.DateTimeField(null=True, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    followed_at = models.DateTimeField(null=True, blank=True)  # from another process than its own
    stop_requested_at = models.DateTimeField(null=True, blank=True)
    producer = models.CharField(max_length=26, blank=True)
    is_pruned = models.BooleanField(default=False)  # its frames were deleted
    idempotency_key = models.CharField(max_length=200, null=True, blank=True)
    request_digest = models.CharField(max_length=64, blank=True)  # of what came with the key

    objects = RunQuerySet.as_manager()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["owner", "idempotency_key"], name="chatstream_run_key"),
            models.UniqueConstraint(
                fields=["conversation"],
                condition=Q(status__in=["queued", "in_progress"]),
                name="chatstream_one_open_run",
            ),
        ]
        indexes: ClassVar = [
            models.Index(fields=["status", "lease_until"], name="chatstream_run_lease"),
            models.Index(fields=["producer", "status"], name="chatstream_run_producer"),
            models.Index(fields=["owner", "status"], name="chatstream_run_owner"),
            models.Index(fields=["settled_at"], name="chatstream_run_settled"),
        ]

    def __str__(self) -> str:
        return f"run {self.id}: {self.status}"

    @property
    def is_open(self) -> bool:
        return self.status in self.OPEN

    @property
    def outcome(self) -> Outcome | None:
        return None if self.is_open else Outcome(self.status)

    def asked(self) -> RunRequest:
        """Return the request to send to the provider."""
        return RunRequest(**self.request)

    def ending(self) -> Ending:
        """Return how it ended, as the row has it. Call when it is not open."""
        return Ending(
            Outcome(self.status),
            self.text,
            self.last_seq,
            self.error_code or None,
            self.finish_reason or None,
            self.usage,
        )

    def save_message(self, text: str) -> None:
        """Add what the run answered to its message."""
        if self.message_id is not None:
            added = models.functions.Concat(F("content"), Value(storable(text)))
            Message.objects.filter(pk=self.message_id).update(content=added)


class StoredFrame(models.Model):
    """One frame of a run. ``data`` is JSON in ASCII: no jsonb, which refuses a NUL."""

    run = models.ForeignKey(Run, on_delete=models.CASCADE, related_name="frames", db_index=False)
    seq = models.PositiveIntegerField()
    kind = models.CharField(max_length=11, choices=[(str(kind), str(kind)) for kind in Kind])
    data = models.TextField()

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["run", "seq"], name="chatstream_frame_seq")
        ]

    def __str__(self) -> str:
        return f"{self.run_id}:{self.seq} {self.kind}"


def storable(text: str) -> str:
    """Return the text as a database takes it: U+FFFD for a NUL and for half a surrogate pair."""
    if text.isascii():
        return text.replace("\0", "\ufffd")
    whole = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return whole.replace("\0", "\ufffd")
