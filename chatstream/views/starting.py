"""What the endpoints that start a run have in common: checks first, then one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.request import Request
from rest_framework.throttling import BaseThrottle

from ..conf import settings
from ..conversations import Turn, cut
from ..core.requests import RunRequest
from ..models import Conversation, Message, Run
from ..owners import owner_of, owner_of_new
from ..providers import get_provider
from ..providers.base import Provider
from ..refusals import Refused
from ..runs import KeyReused, RunOpen, TooManyRuns, digest_of, find_by_key, start_run
from ..serializers import AskSerializer
from ..throttling import RunThrottle, peek
from .base import ChatView
from .links import links_of

__all__ = ["StartsRuns"]

BUSY_SECONDS = 5  # what a client that has too many open runs is told to wait


class StartsRuns(ChatView):
    """Base of the endpoints that start a run.

    A project changes them by subclassing: the class attributes of any DRF view, and the hooks
    ``get_messages``, ``get_provider``, ``get_completion_params``.
    """

    throttle_classes = [RunThrottle]  # noqa: RUF012
    serializer_class = AskSerializer

    # Hooks ----------------------------------------------------------------------------------------

    def get_messages(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the messages to send; ``data`` is what the serializer let through.

        In a conversation ``data["messages"]`` is its history, with the new prompt.
        """
        if "messages" in data:
            return [dict(message) for message in data["messages"]]
        return [{"role": "user", "content": data["prompt"]}]

    def get_provider(self, data: Mapping[str, Any]) -> Provider[Any]:
        """Return the provider to ask."""
        try:
            return get_provider(data.get("provider", "default"))
        except KeyError:
            raise Refused("invalid", "There is no such provider.", field="provider") from None

    def get_completion_params(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return further fields of the upstream's request body, such as ``temperature``."""
        return {}

    # Steps ----------------------------------------------------------------------------------------

    def start(self, given: Mapping[str, Any]) -> tuple[Run, bool]:
        """Return the run that was asked for, and whether it is new.

        A known idempotency key comes first: it costs nothing, so it is not throttled.
        """
        if key := self.request.headers.get("Idempotency-Key"):
            given = {"idempotency_key": key, **given}
        data = self.validated(given)
        key = data.pop("idempotency_key", None)
        digest = digest_of(data)
        try:
            if key and (run := find_by_key(owner_of(self.request), key, digest)):
                return run, False
            provider, request, turn = self.request_for(data)
            super().check_throttles(self.request)
            return self._start(provider, request, turn, key, digest)
        except KeyReused:
            raise Refused(
                "conflict",
                "This idempotency key came before, with another request. Send a new one.",
                field="idempotency_key",
            ) from None

    def validated(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the serializer lets through."""
        serializer = self.serializer_class(data=given)
        serializer.is_valid(raise_exception=True)
        return dict(serializer.validated_data)

    def request_for(self, data: Mapping[str, Any]) -> tuple[Provider[Any], RunRequest, Turn | None]:
        """Check what was asked for; return whom to ask, what, and for which conversation."""
        provider = self.get_provider(data)
        model = data.get("model")
        if model is not None and not provider.allows_model(model):
            raise Refused("invalid", "This model may not be asked for here.", field="model")
        turn = self.get_turn(data)
        if turn is None:
            messages = self.get_messages(data)
            field = "prompt" if "prompt" in data else "messages"
            self._refuse_oversize(messages, field)
        else:
            self._refuse_oversize(turn.history()[-1:], "prompt")
            messages = self.get_messages({**data, "messages": turn.history()})
            messages = cut(messages, provider.history_chars or settings.MAX_HISTORY_CHARS)
        return provider, RunRequest(messages, model, self.get_completion_params(data)), turn

    def get_turn(self, data: Mapping[str, Any]) -> Turn | None:
        """Return what the run adds to a conversation; None without one."""
        action = data.get("action")
        if action is None:
            if "conversation" not in data:
                return None
            rows = Conversation.objects.select_related("leaf")
            return Turn.send(self.owned(rows, data["conversation"]), data["prompt"])
        message = self._message(data["message"])
        role = message.role
        if action == "edit" and role == Message.Role.USER:
            return Turn.edit(message, data["prompt"])
        if action == "regenerate" and role == Message.Role.ASSISTANT:
            return Turn.regenerate(message)
        if action == "continue" and role == Message.Role.ASSISTANT and message.content:
            return Turn.go_on(message)
        raise Refused("invalid", _MISFITS[action], field="message")

    def check_throttles(self, request: Request) -> None:
        """Not yet: ``start`` does, once it is clear that something new is asked for."""

    def get_throttles(self) -> list[BaseThrottle]:
        throttles = super().get_throttles()
        if self.request.method in ("GET", "POST"):
            return throttles
        return [peek(throttle) for throttle in throttles]

    def _message(self, pk: str) -> Message:
        rows = Message.objects.select_related("conversation", "parent")
        message = rows.filter(pk=pk, conversation__owner=owner_of(self.request)).first()
        if message is None:
            raise Refused("not_found", "There is no such message.", field="message")
        return message

    def _refuse_oversize(self, messages: list[dict[str, Any]], field: str) -> None:
        if message := self.serializer_class.oversize(messages):
            raise Refused("too_large", message, field=field)

    def _start(
        self,
        provider: Provider[Any],
        request: RunRequest,
        turn: Turn | None,
        key: str | None,
        digest: str,
    ) -> tuple[Run, bool]:
        try:
            return start_run(
                request,
                owner=owner_of_new(self.request),
                provider=provider.alias,
                turn=turn,
                key=key,
                digest=digest,
            )
        except RunOpen as exc:
            raise Refused(
                "conflict",
                "An answer is already on its way in this conversation.",
                more=links_of(exc.run, self.request),
            ) from None
        except TooManyRuns:
            raise Refused(
                "busy",
                f"{settings.MAX_OPEN_RUNS} answers are on their way already. Wait for one to end.",
                retry_after=BUSY_SECONDS,
            ) from None


_MISFITS = {
    "edit": "Only a user's message can be edited.",
    "regenerate": "Only an answer can be given anew.",
    "continue": "Only an answer that has some text can be continued.",
}
