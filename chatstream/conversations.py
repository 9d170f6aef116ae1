"""How a conversation grows, and what of it the model is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .models import Conversation, Message, storable

__all__ = ["CONTINUE", "Turn", "branch", "cut", "tip"]

# What a model is told that shall go on with an answer that was cut short.
CONTINUE = (
    "Continue your last message exactly where it stopped. Repeat nothing of it, and do not comment."
)


@dataclass(frozen=True)
class Turn:
    """What a run adds to a conversation: a prompt and its answer, or another answer.

    ``parent`` is the message that the new ones come after. ``prompt`` is None to answer it anew.
    ``answer`` is the message to go on with, instead of a new one. ``before`` are the messages, of
    users and assistants, that a new conversation begins with: ``(role, content)``.
    """

    conversation: Conversation
    parent: Message | None
    prompt: str | None = None
    answer: Message | None = None
    before: Sequence[tuple[str, str]] = ()

    @classmethod
    def begin(
        cls,
        owner: str,
        prompt: str | None,
        *,
        before: Sequence[tuple[str, str]] = (),
        **fields: Any,
    ) -> Turn:
        """Say the first thing of a conversation, which is made when the turn is saved."""
        return cls(Conversation(owner=owner, **fields), None, prompt, before=before)

    @classmethod
    def send(cls, conversation: Conversation, prompt: str) -> Turn:
        """Say something after the last message of the branch that is shown."""
        return cls(conversation, conversation.leaf, prompt)

    @classmethod
    def edit(cls, message: Message, prompt: str) -> Turn:
        """Say something else instead of a user's earlier message, which is kept as a sibling."""
        return cls(message.conversation, message.parent, prompt)

    @classmethod
    def regenerate(cls, message: Message) -> Turn:
        """Answer again; the earlier answer is kept as a sibling."""
        return cls(message.conversation, message.parent)

    @classmethod
    def go_on(cls, message: Message) -> Turn:
        """Continue an answer that was cut short, in its own message."""
        return cls(message.conversation, message, answer=message)

    def history(self) -> list[dict[str, str]]:
        """Return the chat messages that the model is told, oldest first."""
        told = [
            {"role": message.role, "content": message.content}
            for message in branch(self.conversation, self.parent)
            if message.content
        ]
        told += [{"role": role, "content": content} for role, content in self.before]
        prompt = CONTINUE if self.answer is not None else self.prompt
        return [*told, {"role": "user", "content": prompt}] if prompt is not None else told

    def save(self) -> Message:
        """Add the messages, within the caller's transaction; return the one to be written."""
        conversation, parent = self.conversation, self.parent
        if conversation._state.adding:
            conversation.save(force_insert=True)
        for role, content in self.before:
            parent = conversation.messages.create(
                parent=parent, role=role, content=storable(content)
            )
        if self.prompt is not None:
            parent = conversation.messages.create(
                parent=parent, role=Message.Role.USER, content=self.prompt
            )
        answer = self.answer or conversation.messages.create(
            parent=parent, role=Message.Role.ASSISTANT
        )
        conversation.leaf = answer
        if not conversation.title:
            conversation.title = title_of(self._first_prompt)
        conversation.save(update_fields=["leaf", "title", "updated_at"])
        return answer

    @property
    def _first_prompt(self) -> str:
        said = [content for role, content in self.before if role == Message.Role.USER]
        return next(iter(said), self.prompt or "")


def branch(conversation: Conversation, leaf: Message | None) -> list[Message]:
    """Return the messages from the first one to ``leaf``; one query."""
    if leaf is None:
        return []
    messages = {message.pk: message for message in conversation.messages.all()}
    path: list[Message] = []
    at = messages.get(leaf.pk)
    while at is not None:
        path.append(at)
        at = messages.get(at.parent_id or "")
    return path[::-1]


def tip(message: Message) -> Message:
    """Return the newest message below ``message``, by its newest children; one query.

    A message that nobody answered is its own.
    """
    messages = Message.objects.filter(conversation=message.conversation_id).order_by("pk")
    newest = {child.parent_id: child for child in messages.defer("content")}
    while (child := newest.get(message.pk)) is not None:
        message = child
    return message


def cut(messages: Sequence[dict[str, str]], budget: int) -> list[dict[str, str]]:
    """Leave out the oldest messages, whole, until the rest has at most ``budget`` characters.

    Leading system messages stay, and so does the last one. What is left begins with a user's.
    """
    head = [message for message in messages if message["role"] == "system"]
    rest = [message for message in messages if message["role"] != "system"]
    room = budget - sum(len(message["content"]) for message in head)
    size = sum(len(message["content"]) for message in rest)
    start = 0
    while start < len(rest) - 1 and (size > room or (start and rest[start]["role"] != "user")):
        size -= len(rest[start]["content"])
        start += 1
    return head + rest[start:]


def title_of(prompt: str) -> str:
    """Return the first line of a prompt, short."""
    line = " ".join(prompt.split("\n", 1)[0].split())
    return line if len(line) <= 60 else line[:59].rstrip() + "…"
