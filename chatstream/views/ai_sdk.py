"""``ai-sdk/``: chats of the AI SDK (``useChat``), by the ids that their pages give them.

The client sends the whole history. A chat that is new here adopts it; afterwards the server's
history wins, and only the last message of the user's counts, or the answer to give anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from django.http import HttpResponse
from rest_framework import exceptions, serializers
from rest_framework.request import Request
from rest_framework.response import Response

from ..conversations import Turn, branch
from ..models import Conversation, Message, Run, from_now, storable
from ..owners import owner_of, owner_of_new
from ..refusals import Refused, refusal_of
from ..runs import digest_of, looked_after, stop_run
from ..serializers import AskSerializer, TextField
from ..wire.ai_sdk import AiSdkFormat
from .base import ChatView
from .following import FollowsRuns
from .starting import StartsRuns

__all__ = ["AiSdkStopView", "AiSdkStreamView", "AiSdkView"]

FORMAT = "ai-sdk"
SUBMIT, REGENERATE = "submit-message", "regenerate-message"
REPLAYS_FOR = 300  # seconds


class ChatSerializer(serializers.Serializer[dict[str, Any]]):
    """What comes along with the messages. A project reads further fields of the body itself."""

    id = TextField(max_length=200)
    trigger = serializers.ChoiceField(
        choices=[SUBMIT, REGENERATE],
        default=SUBMIT,
        error_messages={"invalid_choice": f"Expected {SUBMIT} or {REGENERATE}."},
    )
    messageId = TextField(required=False, allow_null=True)
    provider = TextField(required=False)
    model = TextField(required=False, max_length=200)
    idempotency_key = TextField(required=False, max_length=200)

    oversize = staticmethod(AskSerializer.oversize)


class UIMessage(NamedTuple):
    """A message as the page has it, its text parts joined."""

    id: str
    role: str
    text: str


class ChatsOfPages(ChatView):
    """Base of the endpoints. A refusal is one sentence, for the client shows the body as it is."""

    def get_conversation(self, chat: str) -> Conversation | None:
        """Return the chat of that id, the page's own or the conversation's; None for a new one."""
        rows = Conversation.objects.of(owner_of(self.request)).select_related("leaf")
        return (rows.known_as(FORMAT, chat) | rows.filter(pk=chat)).first()

    def get_run(self, chat: str) -> Run | None:
        """Return the chat's newest run."""
        conversation = self.get_conversation(chat)
        if conversation is None:
            return None
        return conversation.runs.defer("request").order_by("-pk").first()

    def handle_exception(self, exc: Exception) -> Any:
        refused = refusal_of(exc)
        if refused is None:
            raise exc
        # A field's error is for who wrote the page; ours are sentences for its user.
        is_field = isinstance(exc, exceptions.ValidationError) and refused.field
        text = f"{refused.field}: {refused.message}" if is_field else refused.message
        headers = {"Cache-Control": "no-store", "Chatstream-Error": refused.code}
        if refused.retry_after is not None:
            headers["Retry-After"] = str(refused.retry_after)
        kind = "text/plain; charset=utf-8"
        return HttpResponse(text, content_type=kind, status=refused.status_code, headers=headers)


class AiSdkView(ChatsOfPages, StartsRuns, FollowsRuns):
    """``POST ai-sdk/``: submit a message, or ask for another answer; the answer streams."""

    http_method_names = ["post", "options"]  # noqa: RUF012
    serializer_class: Any = ChatSerializer

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        run, _ = self.start(self.get_body(request))
        return self.follow(run, 0, wire=wire_of(run))

    def validated(self, given: Mapping[str, Any]) -> dict[str, Any]:
        data = super().validated(given)
        messages = messages_of(given)
        if data["trigger"] == SUBMIT or messages:
            data |= _asked(data, messages)
        if "messages" in given and data["trigger"] == SUBMIT and data.get("messageId"):
            # Its place tells which message it replaces: the page's ids of them are not known here.
            data["place"] = sum(message.role == Message.Role.USER for message in messages)
        return data

    def get_turn(self, data: Mapping[str, Any]) -> Turn:
        conversation = self.get_conversation(data["id"])
        if conversation is None:
            return self._first_turn(data)
        if data["trigger"] == REGENERATE:
            return _anew(conversation, data.get("messageId"), data.get("prompt"))
        shown = _of_role(Message.Role.USER, conversation)
        place = data.get("place", 0)
        if 0 < place <= len(shown):
            return Turn.edit(shown[place - 1], data["prompt"])
        return Turn.send(conversation, data["prompt"])

    def _first_turn(self, data: Mapping[str, Any]) -> Turn:
        """Return a new chat's: with the first answer refused, "regenerate" begins it as well."""
        if "prompt" not in data:
            raise exceptions.NotFound("There is no such chat.")
        return Turn.begin(
            owner_of_new(self.request),
            data["prompt"],
            before=data["before"],
            format=FORMAT,
            external_id=data["id"],
        )


class AiSdkStreamView(ChatsOfPages, FollowsRuns):
    """``GET ai-sdk/<chat id>/stream``: the newest answer from its first frame on, or 204.

    One that has ended is told again for a while: the client takes 204 for a good end of what it
    has, so a page that was cut off would show half an answer as if it were whole.
    """

    http_method_names = ["get", "options"]  # noqa: RUF012
    replays_for = REPLAYS_FOR  # seconds after its end

    def get(self, request: Request, chat: str, *args: Any, **kwargs: Any) -> Any:
        run = self.get_run(chat)
        if run is None or not self.is_worth_telling(looked_after(run)):
            return Response(status=204)
        return self.follow(run, 0, wire=wire_of(run))

    def is_worth_telling(self, run: Run) -> bool:
        """Whether a page may lack some of it. Who stopped an answer knows that it was."""
        if run.is_open:
            return True
        recent = Run.objects.filter(settled_at__gt=from_now(-self.replays_for))
        return recent.exclude(status=Run.Status.STOPPED).filter(pk=run.pk).exists()


class AiSdkStopView(ChatsOfPages):
    """``POST ai-sdk/<chat id>/stop``: 202, however often. The client's own stop() only leaves."""

    http_method_names = ["post", "options"]  # noqa: RUF012

    def post(self, request: Request, chat: str, *args: Any, **kwargs: Any) -> Response:
        run = self.get_run(chat)
        if run is None:
            raise exceptions.NotFound("There is no such chat.")
        stop_run(run)
        run.refresh_from_db(fields=["status"])
        return Response({"id": run.pk, "status": str(run.status)}, status=202)


def wire_of(run: Run) -> AiSdkFormat:
    return AiSdkFormat(run.message_id or run.pk)


def messages_of(given: Mapping[str, Any]) -> list[UIMessage]:
    """Return the messages: all of ``messages``, or the one of ``message``. Raises ``Refused``."""
    if "messages" not in given:
        return [_message(given["message"], "message")] if given.get("message") else []
    if not isinstance(given["messages"], list):
        raise Refused("invalid", "Expected a list of messages.", field="messages")
    return [
        _message(message, f"messages.{number}") for number, message in enumerate(given["messages"])
    ]


def _message(given: Any, field: str) -> UIMessage:
    parts = given.get("parts") if isinstance(given, dict) else None
    if not isinstance(parts, list) or given.get("role") not in ("user", "assistant"):
        raise Refused("invalid", "Expected a user's or assistant's message.", field=field)
    text = "".join(part["text"] for part in parts if _is_text(part))
    return UIMessage(str(given.get("id", "")), given["role"], text)


def _is_text(part: Any) -> bool:
    is_text = isinstance(part, dict) and part.get("type") == "text"
    return is_text and isinstance(part.get("text"), str)


def _asked(data: Mapping[str, Any], messages: Sequence[UIMessage]) -> dict[str, Any]:
    """Return the prompt, what was said before it, and a key for a message that is new."""
    if not messages or messages[-1].role != Message.Role.USER:
        raise Refused("invalid", "The last message must be the user's.", field="messages")
    *before, last = messages
    if not last.text.strip():
        raise Refused("invalid", "The message has no text.", field="messages")
    try:
        prompt = TextField().run_validation(last.text)
    except serializers.ValidationError as exc:
        raise serializers.ValidationError({"messages": exc.detail}) from None
    asked = {
        "prompt": prompt,
        "before": [(said.role, said.text) for said in before if said.text.strip()],
    }
    if data["trigger"] == SUBMIT and last.id and "idempotency_key" not in data:
        # With the text: a message that is edited keeps its id.
        asked["idempotency_key"] = digest_of([FORMAT, data["id"], last.id, prompt])
    return asked


def _anew(conversation: Conversation, target: str | None, prompt: str | None) -> Turn:
    """Return the turn that answers again: ``target``'s question, or the one that says ``prompt``.

    A question that never came here, for its submission was refused, is asked now.
    """
    message = conversation.messages.filter(pk=target, role=Message.Role.ASSISTANT).first()
    if message is not None:
        return Turn.regenerate(message)
    asked = _of_role(Message.Role.USER, conversation)
    if prompt is not None:
        asked = [message for message in asked if message.content == storable(prompt)]
        return Turn(conversation, asked[-1]) if asked else Turn.send(conversation, prompt)
    if not asked:
        raise Refused("invalid", "There is no answer to give anew.", field="messageId")
    return Turn(conversation, asked[-1])


def _of_role(role: str, conversation: Conversation) -> list[Message]:
    shown = branch(conversation, conversation.leaf)
    return [message for message in shown if message.role == role]
