"""``ag-ui/``: AG-UI, so that an ``HttpAgent`` can ask here.

A ``threadId`` is a conversation. A new one adopts the messages that came along; afterwards our
history counts, and of the client's only its last message and which answer of ours that one follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework import serializers
from rest_framework.request import Request

from ..conversations import Turn
from ..ids import is_id
from ..models import Conversation, Message
from ..owners import owner_of, owner_of_new
from ..refusals import Refused
from ..serializers import TextField
from ..wire.ag_ui import AGUIFormat, answer_id
from .following import FollowsRuns
from .links import links_of
from .starting import StartsRuns

__all__ = ["AGUIView"]

FORMAT = "ag-ui"
ADOPTED = ("user", "assistant")
REFUSED = ("system", "developer")  # the server's to say: a client could undo the site's own


class InputSerializer(serializers.Serializer[dict[str, Any]]):
    """What we read of AG-UI's RunAgentInput; tools, context and state are the client's affair."""

    threadId = TextField(max_length=200)
    runId = TextField(max_length=190)
    messages = serializers.ListField(child=serializers.DictField(), allow_empty=False)
    forwardedProps = serializers.DictField(required=False, allow_null=True)

    def validate_messages(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        for number, message in enumerate(messages):
            if message.get("role") in REFUSED:
                raise serializers.ValidationError(
                    {f"{number}": f"A {message['role']} message is the server's to say."}
                )
        if messages[-1].get("role") != "user":
            raise serializers.ValidationError(
                "The last message must be the user's. To ask again, leave out what came after it."
            )
        return messages


class AGUIView(StartsRuns, FollowsRuns):
    """``POST ag-ui/``: a run for the last message of a thread, as a stream of AG-UI's events.

    ``forwardedProps`` may name a ``provider`` and a ``model``. The same ``runId`` again is the same
    run, from its beginning.
    """

    http_method_names = ["post", "options"]  # noqa: RUF012

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        body = self.get_body(request)
        run, _ = self.start(body)
        # Its first event tells where the run is followed and stopped.
        wire = AGUIFormat(
            thread=body["threadId"],
            run=body["runId"],
            message=run.message_id or run.pk,
            model=run.model,
            metadata=links_of(run, request),
        )
        return self.follow(run, 0, wire=wire)

    def validated(self, given: Mapping[str, Any]) -> dict[str, Any]:
        serializer = InputSerializer(data=given)
        serializer.is_valid(raise_exception=True)
        data = serializer.validated_data
        *before, last = data["messages"]
        asked = data.get("forwardedProps") or {}
        chosen = {name: asked[name] for name in ("provider", "model") if asked.get(name)}
        key = f"{FORMAT}:{data['runId']}"
        return {
            **super().validated({"prompt": _prompt(last), "idempotency_key": key, **chosen}),
            "thread": data["threadId"],
            "before": _adopted(before),
            "after": _answer_before(before),
        }

    def get_turn(self, data: Mapping[str, Any]) -> Turn:
        threads = Conversation.objects.of(owner_of(self.request)).select_related("leaf")
        if conversation := threads.known_as(FORMAT, data["thread"]).first():
            return _next_turn(conversation, data)
        return Turn.begin(
            owner_of_new(self.request),
            data["prompt"],
            before=data["before"],
            format=FORMAT,
            external_id=data["thread"],
        )


def _next_turn(conversation: Conversation, data: Mapping[str, Any]) -> Turn:
    """Return where the prompt goes: behind the answer that it follows, else behind the newest.

    The same prompt in the same place asks for another answer.
    """
    prompt = data["prompt"]
    answer = conversation.messages.filter(pk=data["after"], role=Message.Role.ASSISTANT).first()
    if answer is None and data["before"]:
        return Turn.send(conversation, prompt)
    said = conversation.messages.filter(parent=answer, role=Message.Role.USER, content=prompt)
    earlier = Message.objects.filter(parent__in=said).order_by("pk").last()
    if earlier is not None:
        return Turn.regenerate(earlier)
    return Turn(conversation, answer or conversation.leaf, prompt)


def _prompt(message: Mapping[str, Any]) -> Any:
    """Return what the user says. Parts that are no text are refused: no model would see them."""
    content = message.get("content")
    if isinstance(content, list) and any(_text_of(part) is None for part in content):
        raise Refused("invalid", "Only text is taken here.", field="messages")
    return _text(content)


def _text(content: Any) -> Any:
    """Return a message's text; what is neither text nor parts is left for others to refuse."""
    if not isinstance(content, list):
        return content
    return "\n".join(text for part in content if (text := _text_of(part)) is not None)


def _text_of(part: Any) -> str | None:
    is_text = isinstance(part, Mapping) and part.get("type") == "text"
    text = part.get("text") if is_text else None
    return text if isinstance(text, str) else None


def _adopted(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return what a new conversation begins with: no calls and thoughts."""
    said = [(one["role"], _text(one.get("content"))) for one in messages if _is_adopted(one)]
    return [(role, text) for role, text in said if isinstance(text, str) and text.strip()]


def _is_adopted(message: Mapping[str, Any]) -> bool:
    return message.get("role") in ADOPTED


def _answer_before(messages: list[dict[str, Any]]) -> str:
    """Return our id of the answer that the last message follows at once; "" if none does."""
    said = [message for message in messages if _is_adopted(message)]
    if not said or said[-1]["role"] != "assistant":
        return ""
    answer = answer_id(str(said[-1].get("id")))
    return answer if is_id(answer) else ""
