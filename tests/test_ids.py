"""Ids sort by time, and cannot be guessed."""

import time
import uuid
from itertools import pairwise

import pytest

from chatstream.ids import ALPHABET, is_id, new_id


def as_uuid(text: str) -> uuid.UUID:
    value = 0
    for character in text:
        value = value << 5 | ALPHABET.index(character)
    return uuid.UUID(int=value)


def test_an_id_has_the_form_of_one() -> None:
    one = new_id()
    assert len(one) == 26
    assert is_id(one)
    assert one == one.lower()


def test_an_id_is_a_uuid_of_version_7_in_base32() -> None:
    before = time.time_ns() // 1_000_000
    one = as_uuid(new_id())
    after = time.time_ns() // 1_000_000
    assert one.version == 7
    assert one.variant == uuid.RFC_4122
    assert before <= one.int >> 80 <= after


def test_later_ids_sort_later() -> None:
    ids = []
    for _ in range(5):
        ids.append(new_id())
        time.sleep(0.003)
    assert ids == sorted(ids)


def test_ids_of_one_moment_differ_in_many_bits() -> None:
    ids = [as_uuid(new_id()).int for _ in range(500)]
    assert len(set(ids)) == 500
    near = [(a ^ b) & (1 << 62) - 1 for a, b in pairwise(ids)]
    assert min(difference.bit_count() for difference in near) > 5
    assert 28 < sum(difference.bit_count() for difference in near) / len(near) < 34


@pytest.mark.parametrize("text", ["", "a" * 25, "a" * 27, "a" * 25 + "\n", "a" * 26 + "\n"])
def test_a_text_of_another_length_is_no_id(text: str) -> None:
    assert not is_id(text)


@pytest.mark.parametrize("character", ["A", "i", "l", "o", "u", "-", "\u0660"])
def test_a_text_with_another_character_is_no_id(character: str) -> None:
    assert not is_id("a" * 25 + character)
