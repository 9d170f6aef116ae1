"""What the AI SDK's route makes of a request. Its client over real sockets is tested elsewhere."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from chatstream.models import Conversation, Message, Run
from tests.asking import asked, body_of, configured

pytestmark = pytest.mark.usefixtures("anonymous_site", "runs")

URL = "/chat/ai-sdk/"
ANSWER = {"role": "assistant", "content": "Hello, w\u00f6rld\n"}  # what the script says


def said(text: str, role: str = "user", id: str = "") -> dict[str, Any]:
    return {"id": id or f"page-{text}", "role": role, "parts": [{"type": "text", "text": text}]}


def post(client: Client, *messages: Any, chat: str = "c1", **more: Any) -> Any:
    body = {"id": chat, "trigger": "submit-message", "messages": list(messages), **more}
    return client.post(URL, body, content_type="application/json")


def ask(client: Client, *messages: Any, **more: Any) -> bytes:
    """Post, and read the answer to its end."""
    response = post(client, *messages, **more)
    body = body_of(response)
    assert response.status_code == 200, body
    assert body.endswith(b"data: [DONE]\n\n"), body
    return body


def told() -> list[tuple[str, str]]:
    """Return the roles and texts of the last request to the model."""
    return [(message["role"], message["content"]) for message in asked()[-1].messages]


def refused(response: Any, status: int, sentence: str) -> None:
    assert response.status_code == status
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Cache-Control"] == "no-store"
    assert response.content.decode() == sentence
    assert asked() == []


def test_the_response_has_the_formats_header(client: Client) -> None:
    response = post(client, said("hi"))
    assert response["x-vercel-ai-ui-message-stream"] == "v1"
    assert response["Content-Type"] == "text/event-stream"
    body_of(response)


def test_both_spellings_of_the_address_answer(client: Client) -> None:
    body = {"id": "c1", "messages": [said("hi")]}
    response = client.post(URL.rstrip("/"), body, content_type="application/json")
    assert body_of(response).endswith(b"data: [DONE]\n\n")


def test_the_message_of_the_page_is_the_one_that_is_saved(client: Client) -> None:
    body = ask(client, said("hi"))
    message = Message.objects.get(role="assistant")
    assert f'{{"type": "start", "messageId": "{message.pk}"}}'.encode() in body


def test_a_new_chat_adopts_the_messages_that_came_along(client: Client) -> None:
    ask(client, said("one"), said("two", "assistant"), said(" ", "assistant"), said("three"))
    assert told() == [("user", "one"), ("assistant", "two"), ("user", "three")]
    assert Conversation.objects.get().title == "one"


def test_of_a_known_chat_the_servers_history_wins(client: Client) -> None:
    ask(client, said("one"))
    ask(client, said("forged"), said("lies", "assistant"), said("two"))
    assert told() == [("user", "one"), ("assistant", ANSWER["content"]), ("user", "two")]


def test_the_last_message_alone_is_enough(client: Client) -> None:
    ask(client, said("one"))
    body = {"id": "c1", "message": said("two")}
    body_of(client.post(URL, body, content_type="application/json"))
    assert told()[-1] == ("user", "two")
    assert len(told()) == 3


def test_parts_that_are_no_text_are_left_out(client: Client) -> None:
    message = said("a")
    message["parts"] += [{"type": "file", "url": "x"}, None, {"type": "text", "text": "b"}]
    ask(client, message)
    assert told() == [("user", "ab")]


def test_the_same_message_again_is_the_same_answer(client: Client) -> None:
    assert ask(client, said("hi")) == ask(client, said("hi"))
    assert len(asked()) == 1


def test_the_same_message_id_in_another_chat_is_another_answer(client: Client) -> None:
    ask(client, said("hi"))
    ask(client, said("hi"), chat="c2")
    assert Conversation.objects.count() == 2


def test_another_visitors_chat_of_the_same_id_is_not_seen(client: Client) -> None:
    ask(client, said("one"))
    other = Client(headers={"sec-fetch-site": "same-origin"})
    ask(other, said("two"))
    assert told() == [("user", "two")]
    assert Conversation.objects.count() == 2


def test_an_edited_message_replaces_the_one_in_its_place(client: Client) -> None:
    ask(client, said("one"))
    ask(client, said("one"), said("two"))
    ask(client, said("one"), said("2", id="page-two"), messageId="page-two")
    assert told() == [("user", "one"), ("assistant", ANSWER["content"]), ("user", "2")]


@pytest.mark.parametrize("target", [None, "unknown"])
def test_another_answer_is_given_to_the_last_question(client: Client, target: str | None) -> None:
    ask(client, said("one"))
    more = {"messageId": target} if target else {}
    ask(client, said("one"), trigger="regenerate-message", **more)
    assert told() == [("user", "one")]
    assert Message.objects.filter(role="user").count() == 1
    assert Message.objects.filter(role="assistant").count() == 2


def test_an_earlier_answer_is_given_anew_by_its_id(client: Client) -> None:
    ask(client, said("one"))
    first = Message.objects.get(role="assistant")
    ask(client, said("one"), said("two"))
    body = {"id": "c1", "trigger": "regenerate-message", "messageId": first.pk}
    body_of(client.post(URL, body, content_type="application/json"))
    assert told() == [("user", "one")]


def test_a_question_that_was_refused_is_asked_by_regenerate(client: Client) -> None:
    ask(client, said("one"))
    ask(client, said("one"), said("two"), trigger="regenerate-message")
    assert told()[-1] == ("user", "two")
    ask(client, said("first"), trigger="regenerate-message", chat="new")
    assert told() == [("user", "first")]


@pytest.mark.parametrize(
    ("messages", "more", "sentence"),
    [
        ([], {}, "The last message must be the user's."),
        ([said("a", "assistant")], {}, "The last message must be the user's."),
        ([said("\n")], {}, "The message has no text."),
        ([said("a", "system"), said("b")], {}, "Expected a user's or assistant's message."),
        (["a"], {}, "Expected a user's or assistant's message."),
        ([said("a")], {"trigger": "x"}, "trigger: Expected submit-message or regenerate-message."),
        ([said("a")], {"id": 5}, "id: Expected text, got a number."),
        ([said("a")], {"messages": "a"}, "Expected a list of messages."),
        ([said("a\0")], {}, "messages: Null characters are not allowed."),
        ([said("a")], {"provider": "x"}, "There is no such provider."),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_sentence(
    client: Client, messages: list[Any], more: dict[str, Any], sentence: str
) -> None:
    refused(post(client, *messages, **more), 400, sentence)


def test_an_unknown_chat_has_no_answer_to_give_anew(client: Client) -> None:
    body = {"id": "c1", "trigger": "regenerate-message"}
    response = client.post(URL, body, content_type="application/json")
    refused(response, 404, "There is no such chat.")


def test_a_visitor_must_sign_in_where_the_site_wants_it(client: Client) -> None:
    with configured(ALLOW_ANONYMOUS=False):
        refused(post(client, said("hi")), 401, "Please sign in.")


def test_a_post_of_another_site_is_refused() -> None:
    client = Client(enforce_csrf_checks=True, headers={"sec-fetch-site": "cross-site"})
    assert post(client, said("hi")).status_code == 403
    assert asked() == []


def test_a_recent_answer_is_told_again_from_its_first_frame(client: Client) -> None:
    answer = ask(client, said("hi"), chat="a/b")
    for spelling in ("a%2Fb/stream", "a/b/stream/"):
        assert body_of(client.get(URL + spelling)) == answer


def test_nothing_is_told_of_an_unknown_chat_or_of_an_old_answer(client: Client) -> None:
    assert client.get(f"{URL}c1/stream").status_code == 204
    ask(client, said("hi"))
    Run.objects.update(settled_at="2020-01-01T00:00:00Z")
    assert client.get(f"{URL}c1/stream").status_code == 204


def test_a_conversation_of_ours_is_a_chat_by_its_own_id(client: Client) -> None:
    ask(client, said("one"))
    ask(client, said("two"), chat=Conversation.objects.get().pk)
    assert Conversation.objects.count() == 1


def test_stop_is_taken_however_often(client: Client) -> None:
    ask(client, said("hi"))
    for _ in range(2):
        assert client.post(f"{URL}c1/stop", content_type="application/json").status_code == 202
    refused_stop = client.post(f"{URL}c2/stop", content_type="application/json")
    assert refused_stop.status_code == 404
