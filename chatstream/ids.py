"""Ids of conversations, messages and runs: sortable by time, and not to be guessed.

A UUIDv7 (RFC 9562, 5.7) in the 26 lower-case characters of Crockford's base32: 48 bits of Unix
milliseconds, then 74 random bits. Uniqueness and secrecy rest on the random bits alone.
"""

from __future__ import annotations

import re
import secrets
import time

__all__ = ["PATTERN", "is_id", "new_id"]

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
LENGTH = 26
PATTERN = f"[{ALPHABET}]{{{LENGTH}}}"

_ID = re.compile(PATTERN)


def new_id() -> str:
    """Return a new id."""
    milliseconds = time.time_ns() // 1_000_000
    version_7 = (7 << 12 | secrets.randbits(12)) << 64
    variant = 0b10 << 62 | secrets.randbits(62)
    return _base32((milliseconds & (1 << 48) - 1) << 80 | version_7 | variant)


def is_id(text: str) -> bool:
    """Whether the text has the form of an id."""
    return _ID.fullmatch(text) is not None


def _base32(value: int) -> str:
    return "".join(ALPHABET[value >> shift & 31] for shift in range(5 * (LENGTH - 1), -1, -5))
