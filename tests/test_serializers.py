"""What the messages of a request are judged by, beside DRF's own nested serializer."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from rest_framework import serializers
from rest_framework.validators import ProhibitSurrogateCharactersValidator

from chatstream.refusals import refusal_of
from chatstream.serializers import AskSerializer, TextField

USER = {"role": "user", "content": "hi"}
ODD: list[Any] = [
    *(None, True, 1, 1.5, [], ["user"], {}, {"user": 1}),
    *("", " \n", "user", "User", "assistant", "system"),
    *("a\0b", "\ud800", "a\0\udfff", "\U0001f600"),
]


class NestedMessage(serializers.Serializer[dict[str, str]]):
    role = serializers.ChoiceField(
        choices=["user", "assistant"],
        error_messages={"invalid_choice": "Expected user or assistant."},
    )
    content = TextField()


class NestedAsk(AskSerializer):
    messages = NestedMessage(many=True, required=False, allow_empty=False)  # type: ignore[assignment]


def verdict(serializer: type[AskSerializer], messages: Any) -> Any:
    """Return what is let through, or the field and the words of the refusal."""
    asked = serializer(data={"messages": messages})
    try:
        asked.is_valid(raise_exception=True)
    except serializers.ValidationError as exc:
        refused = refusal_of(exc)
        assert refused is not None
        return refused.field, refused.message
    return asked.validated_data["messages"]


CASES: list[Any] = [
    *(odd for odd in ODD if not isinstance(odd, list)),
    [],
    *([odd] for odd in ODD),
    *([USER, odd, USER, odd] for odd in ODD),
    *([{"role": odd}] for odd in ODD),
    *([{"content": odd}] for odd in ODD),
    *([{**USER, "name": odd}] for odd in ODD),
    *([{"role": role, "content": text}, USER] for role, text in product(ODD, ODD)),
]


def test_messages_are_judged_as_by_a_nested_serializer() -> None:
    for messages in CASES:
        assert verdict(AskSerializer, messages) == verdict(NestedAsk, messages), ascii(messages)


def test_every_message_at_fault_is_named() -> None:
    asked = AskSerializer(data={"messages": [{}, USER, 1, {"role": "user", "content": 2}]})
    assert not asked.is_valid()
    assert {number: {*said} for number, said in asked.errors["messages"].items()} == {
        0: {"role", "content"},
        2: {"Invalid data. Expected a dictionary, but got int."},
        3: {"content"},
    }


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "é\udc00\ud800"])
def test_a_lone_surrogate_is_refused_in_drfs_words(text: str) -> None:
    with pytest.raises(serializers.ValidationError) as refused:
        TextField().run_validation(text)
    with pytest.raises(serializers.ValidationError) as drfs:
        ProhibitSurrogateCharactersValidator()(text)
    assert refused.value.detail == drfs.value.detail
