"""What a client may ask for, as it comes: ``{"prompt"}`` or ``{"messages"}``, provider, model."""

from __future__ import annotations

from datetime import UTC
from typing import Any

from rest_framework import serializers

from .conf import settings
from .conversations import tip
from .models import Conversation, Message

__all__ = ["AskSerializer", "ConversationSerializer", "MessageSerializer", "TextField"]


class TextField(serializers.CharField):
    """Text as it is, not stripped; a number or a bool is no text, unlike in DRF's own."""

    default_error_messages = {  # noqa: RUF012  DRF's own shape
        "wrong_type": "Expected text, got {type}.",
        "blank": "May not be empty.",
        "required": "Required.",
        "null": "Expected text, got null.",
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("wrong_type", type=_json_type(data))
        if not data.strip():
            self.fail("blank")
        return str(super().to_internal_value(data))


class MessageSerializer(serializers.Serializer[dict[str, str]]):
    """One message. ``system`` is the server's to say: a client could undo the site's own."""

    role = serializers.ChoiceField(
        choices=["user", "assistant"],
        error_messages={"invalid_choice": "Expected user or assistant."},
    )
    content = TextField()


class AskSerializer(serializers.Serializer[dict[str, Any]]):
    """What a run is asked to do.

    A prompt, or the messages so far, the user's last; in a conversation a prompt, or an action on
    one of its messages.
    """

    prompt = TextField(required=False)
    messages = MessageSerializer(many=True, required=False, allow_empty=False)
    conversation = TextField(required=False)
    action = serializers.ChoiceField(
        choices=["regenerate", "edit", "continue"],
        required=False,
        error_messages={"invalid_choice": "Expected regenerate, edit or continue."},
    )
    message = TextField(required=False)
    provider = TextField(required=False)
    model = TextField(required=False, max_length=200)
    idempotency_key = TextField(required=False, max_length=200)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        given = attrs.keys() & {"prompt", "messages", "conversation", "message"}
        if (action := attrs.get("action")) is not None:
            wanted = {"message", "prompt"} if action == "edit" else {"message"}
            if given != wanted:
                raise serializers.ValidationError(
                    {"action": f"With {action}, send {' and '.join(sorted(wanted))} only."}
                )
        elif "message" in given:
            raise serializers.ValidationError({"action": "Say what to do with the message."})
        elif given >= {"conversation", "messages"}:
            raise serializers.ValidationError(
                {"messages": "A conversation has its own history: send a prompt."}
            )
        elif ("prompt" in given) == ("messages" in given):
            raise serializers.ValidationError({"prompt": "Send either prompt or messages."})
        messages = attrs.get("messages")
        if messages and messages[-1]["role"] != "user":
            raise serializers.ValidationError({"messages": "The last message must be the user's."})
        return attrs

    @staticmethod
    def oversize(messages: list[dict[str, Any]]) -> str:
        """Return which limit the messages exceed, as a sentence; "" if none."""
        contents = [message.get("content") for message in messages]
        sizes = [len(content) if isinstance(content, str) else 0 for content in contents]
        if sizes and sizes[-1] > settings.MAX_PROMPT_CHARS:
            return (
                f"The prompt has {sizes[-1]} characters; at most {settings.MAX_PROMPT_CHARS} "
                "are taken."
            )
        if sum(sizes) > settings.MAX_HISTORY_CHARS:
            return (
                f"The messages have {sum(sizes)} characters; at most "
                f"{settings.MAX_HISTORY_CHARS} are taken."
            )
        return ""


class ConversationSerializer(serializers.ModelSerializer[Conversation]):
    """A conversation without its messages.

    ``leaf`` picks the branch that is shown: any message of it, for its newest end is taken.
    """

    created_at = serializers.DateTimeField(read_only=True, default_timezone=UTC)
    updated_at = serializers.DateTimeField(read_only=True, default_timezone=UTC)

    class Meta:
        model = Conversation
        fields = ("id", "title", "leaf", "created_at", "updated_at")
        read_only_fields = ("id",)

    def update(self, instance: Conversation, validated_data: dict[str, Any]) -> Conversation:
        """Save what was given only: a look at another branch does not make it the latest."""
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save(update_fields=[*validated_data])
        return instance

    def validate_leaf(self, leaf: Message | None) -> Message | None:
        if leaf is not None and (self.instance is None or leaf.conversation_id != self.instance.pk):
            raise serializers.ValidationError("There is no such message in this conversation.")
        return leaf and tip(leaf)


def _json_type(data: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false"}
    return names.get(type(data), "a number" if isinstance(data, int | float) else "a file")
