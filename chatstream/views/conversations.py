"""``conversations/``: list, create, read, rename, delete."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from django.db.models import QuerySet
from rest_framework.generics import ListCreateAPIView, RetrieveUpdateDestroyAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from ..conversations import branch
from ..models import Conversation, Message, Run
from ..owners import owner_of, owner_of_new
from ..pagination import NewestFirst
from ..runs import stop_run
from ..serializers import ConversationSerializer
from .base import ChatView
from .links import summary_of

__all__ = ["ConversationListView", "ConversationView"]


class ConversationListView(ChatView, ListCreateAPIView[Conversation]):
    """``GET``: the owner's conversations, the latest first. ``POST {title?}``: a new one."""

    serializer_class = ConversationSerializer
    pagination_class = NewestFirst
    http_method_names = ["get", "head", "post", "options"]  # noqa: RUF012

    def get_queryset(self) -> QuerySet[Conversation]:
        return Conversation.objects.of(owner_of(self.request))

    def create(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        serializer = self.get_serializer(data=self.get_body(request))
        serializer.is_valid(raise_exception=True)
        serializer.save(owner=owner_of_new(request))
        return Response(serializer.data, status=201)


class ConversationView(ChatView, RetrieveUpdateDestroyAPIView[Conversation]):
    """One conversation, with the messages of the branch that is shown."""

    serializer_class = ConversationSerializer
    http_method_names = ["get", "head", "patch", "delete", "options"]  # noqa: RUF012

    def get_object(self) -> Conversation:
        rows = Conversation.objects.select_related("leaf")
        found: Conversation = self.owned(rows, self.kwargs["conversation"])
        return found

    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        conversation = self.get_object()
        data = dict(self.get_serializer(conversation).data)
        runs = {run.pk: run for run in conversation.runs.defer("request", "text").order_by("pk")}
        siblings = defaultdict(list)
        for message in conversation.messages.order_by("pk"):
            siblings[message.parent_id].append(message.pk)
        data["messages"] = [
            self._message(message, runs, siblings)
            for message in branch(conversation, conversation.leaf)
        ]
        data["open_run"] = next((pk for pk, run in runs.items() if run.is_open), None)
        return Response(data, headers={"Cache-Control": "no-store"})

    def perform_destroy(self, instance: Conversation) -> None:
        for run in instance.runs.open():
            stop_run(run)
        instance.delete()

    def _message(
        self, message: Message, runs: dict[str, Run], siblings: dict[str | None, list[str]]
    ) -> dict[str, Any]:
        run = runs.get(message.run_id or "")
        return {
            "id": message.pk,
            "role": message.role,
            "content": message.content,
            "parent": message.parent_id,
            "siblings": siblings[message.parent_id],
            "created_at": message.created_at,
            "run": run and summary_of(run, self.request),
        }
