"""What a client may ask for, as it comes: ``{"prompt"}`` or ``{"messages"}``, provider, model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import Any

from rest_framework import serializers
from rest_framework.fields import empty
from rest_framework.validators import ProhibitSurrogateCharactersValidator

from .conf import settings
from .conversations import tip
from .models import Conversation, Message

__all__ = ["AskSerializer", "ConversationSerializer", "MessagesField", "TextField"]


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
        self.validators = [
            _ProhibitSurrogates() if isinstance(v, ProhibitSurrogateCharactersValidator) else v
            for v in self.validators
        ]

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str):
            self.fail("wrong_type", type=_json_type(data))
        if not data.strip():
            self.fail("blank")
        return str(super().to_internal_value(data))


class _ProhibitSurrogates(ProhibitSurrogateCharactersValidator):
    """DRF's own looks at each character in Python: 10 µs for a message of 250."""

    def __call__(self, value: str) -> None:
        try:
            value.encode()
        except UnicodeEncodeError:
            super().__call__(value)


# What is taken of a message. Shared by all requests: validating changes nothing in a field.
_MESSAGE: dict[str, serializers.Field[Any, Any, Any, Any]] = {
    # ``system`` is the server's to say: a client could undo the site's own.
    "role": serializers.ChoiceField(
        choices=["user", "assistant"],
        error_messages={"invalid_choice": "Expected user or assistant."},
    ),
    "content": TextField(),
}


class MessagesField(serializers.Field[list[dict[str, str]], Any, Any, Any]):
    """The messages so far; of each, its role and content.

    It says what a nested serializer with ``many=True`` says, for a fifth of the CPU: DRF would copy
    that with its fields for each request, and take 20 µs for each message.
    """

    default_error_messages = {  # noqa: RUF012  DRF's own shape
        **serializers.ListSerializer.default_error_messages,  # "not_a_list", "empty"
        **serializers.Serializer.default_error_messages,  # "invalid"
    }

    def to_internal_value(self, data: Any) -> list[dict[str, str]]:
        if not isinstance(data, list):
            self.fail("not_a_list", input_type=type(data).__name__)
        if not data:
            self.fail("empty")
        messages: list[dict[str, str]] = []
        errors: dict[Any, Any] = {}
        for number, item in enumerate(data):
            try:
                messages.append(self._message(item))
            except serializers.ValidationError as exc:
                errors[number] = exc.detail
        if errors:
            raise serializers.ValidationError(errors)
        return messages

    def _message(self, item: Any) -> dict[str, str]:
        if item is None:
            self.fail("null")
        if not isinstance(item, Mapping):
            self.fail("invalid", datatype=type(item).__name__)
        message: dict[str, str] = {}
        errors: dict[str, Any] = {}
        for name, field in _MESSAGE.items():
            try:
                message[name] = field.run_validation(item.get(name, empty))
            except serializers.ValidationError as exc:
                errors[name] = exc.detail
        if errors:
            raise serializers.ValidationError(errors)
        return message


class AskSerializer(serializers.Serializer[dict[str, Any]]):
    """What a run is asked to do.

    A prompt, or the messages so far, the user's last; in a conversation a prompt, or an action on
    one of its messages.
    """

    prompt = TextField(required=False)
    messages = MessagesField(required=False)
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
