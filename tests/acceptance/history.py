"""Conversations of long ago, written into a demo's database: nobody waits until they are old."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from chatstream.ids import new_id

__all__ = ["remember"]


def remember(database: str, conversation: str, past: Iterable[tuple[str, int]]) -> list[str]:
    """Copy a conversation of one prompt and one answer for its owner; return the copies' ids.

    ``past`` are their titles, which are their prompts, too, and how many days ago that was. The
    answer to "x" is "About x".
    """
    connection = sqlite3.connect(database, timeout=30)
    connection.row_factory = sqlite3.Row
    find = "SELECT * FROM chatstream_conversation WHERE id = ?"
    row = connection.execute(find, [conversation]).fetchone()
    find = "SELECT * FROM chatstream_message WHERE conversation_id = ? ORDER BY id"
    messages = connection.execute(find, [conversation]).fetchall()
    with connection:
        ids = [_copy(connection, row, messages, title, days) for title, days in past]
    connection.close()
    return ids


def _copy(
    connection: sqlite3.Connection,
    conversation: sqlite3.Row,
    messages: list[sqlite3.Row],
    title: str,
    days: int,
) -> str:
    pk, prompt, answer = new_id(), new_id(), new_id()
    at = f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d %H:%M:%S.%f}"
    told = [(prompt, None, title), (answer, prompt, f"About {title}")]
    changes = {"id": pk, "title": title, "leaf_id": answer, "created_at": at, "updated_at": at}
    _insert(connection, "chatstream_conversation", dict(conversation) | changes)
    for row, (message, parent, content) in zip(messages, told, strict=True):
        where = {"id": message, "conversation_id": pk, "parent_id": parent, "run_id": None}
        changes = {**where, "content": content, "created_at": at}
        _insert(connection, "chatstream_message", dict(row) | changes)
    return pk


def _insert(connection: sqlite3.Connection, table: str, row: dict[str, Any]) -> None:
    marks = ", ".join("?" * len(row))
    values = list(row.values())
    connection.execute(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", values)
