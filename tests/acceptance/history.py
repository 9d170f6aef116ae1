"""Conversations of long ago, written into a demo's database: nobody waits until they are old."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from chatstream.ids import new_id

__all__ = ["remember"]

CONVERSATION = """
    INSERT INTO chatstream_conversation (id, owner, title, leaf_id, created_at, updated_at)
    SELECT ?, owner, ?, ?, ?, ? FROM chatstream_conversation WHERE id = ?
"""
MESSAGE = """
    INSERT INTO chatstream_message (id, conversation_id, parent_id, role, content, created_at)
    VALUES (?, ?, ?, ?, ?, ?)
"""


def remember(database: str, conversation: str, past: Iterable[tuple[str, int]]) -> list[str]:
    """Give the owner of a conversation more of them; return their ids.

    ``past`` are their titles, which are their prompts, too, and how many days ago that was. The
    answer to "x" is "About x".
    """
    connection = sqlite3.connect(database, timeout=30)
    with connection:
        ids = [_remember(connection, conversation, title, days) for title, days in past]
    connection.close()
    return ids


def _remember(connection: sqlite3.Connection, owned: str, title: str, days: int) -> str:
    pk, prompt, answer = new_id(), new_id(), new_id()
    at = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
    connection.execute(CONVERSATION, (pk, title, answer, at, at, owned))
    connection.execute(MESSAGE, (prompt, pk, None, "user", title, at))
    connection.execute(MESSAGE, (answer, pk, prompt, "assistant", f"About {title}", at))
    return pk
