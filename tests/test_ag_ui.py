"""AG-UI's endpoint: where a message belongs, and what is refused."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client

from chatstream.models import Conversation, Message, Run
from tests.asking import asked, body_of, configured, refusal

URL = "/chat/ag-ui/"
HELLO = "Hello, wörld\n"
FAILING = {"failing": {"script": ["Hel"]}}  # no finish reason: upstream_incomplete

pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(autouse=True)
def anonymous_site() -> Iterator[None]:
    with configured(providers=FAILING):
        yield


def user(text: Any) -> dict[str, Any]:
    return {"id": "u", "role": "user", "content": text}


def post(client: Client, *said: Any, url: str = URL, **more: Any) -> Any:
    body = {"threadId": "t", "runId": f"r{Run.objects.count()}", "messages": said, **more}
    return client.post(url, json.dumps(body), content_type="application/json")


def events(response: Any) -> list[dict[str, Any]]:
    blocks = body_of(response).decode().split("\n\n")
    return [json.loads(block[6:]) for block in blocks if block.startswith("data: ")]


def answer(client: Client, *messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Ask; return the answer as the client's next request brings it."""
    found = events(post(client, *messages, **more))
    ids = [event["messageId"] for event in found if event["type"] == "TEXT_MESSAGE_START"]
    return {"id": ids[-1], "role": "assistant", "content": "what the client says of it"}


def told() -> list[str]:
    """Return what the model was told last."""
    return [message["content"] for message in asked()[-1].messages]


@pytest.mark.parametrize("url", ["/chat/ag-ui/", "/chat/ag-ui"])
def test_both_spellings_answer(client: Client, url: str) -> None:
    assert [event["type"] for event in events(post(client, user("hi"), url=url))] == [
        "RUN_STARTED",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "RUN_FINISHED",
    ]


def test_the_message_is_the_saved_one_and_the_run_can_be_stopped(client: Client) -> None:
    started, opened, *_ = events(post(client, user("hi")))
    run = Run.objects.get()
    assert opened["messageId"] == run.message_id
    assert started["metadata"]["stop_url"] == f"/chat/runs/{run.pk}/stop/"


def test_a_thread_goes_on(client: Client) -> None:
    first = answer(client, user("one"))
    answer(client, user("one"), first, user("two"))
    assert told() == ["one", HELLO, "two"]
    assert Conversation.objects.get().external_id == "t"


def test_a_client_that_sends_its_newest_message_only_goes_on(client: Client) -> None:
    answer(client, user("one"))
    answer(client, user("two"))
    assert told() == ["one", HELLO, "two"]


def test_the_same_message_in_its_place_is_answered_anew(client: Client) -> None:
    first = answer(client, user("one"))
    for _ in range(2):
        answer(client, user("one"), first, user("two"))
        assert told() == ["one", HELLO, "two"]
    assert Message.objects.filter(content="two").count() == 1


def test_the_first_message_is_answered_anew(client: Client) -> None:
    for _ in range(2):
        answer(client, user("one"))
        assert told() == ["one"]


def test_another_message_after_an_earlier_answer_is_a_branch(client: Client) -> None:
    first = answer(client, user("one"))
    second = answer(client, user("one"), first, user("two"))
    answer(client, user("one"), first, user("else"))
    assert told() == ["one", HELLO, "else"]
    answer(client, user("one"), first, user("two"), second, user("three"))
    assert told() == ["one", HELLO, "two", HELLO, "three"]


def test_what_was_said_after_a_failure_comes_after_it(client: Client) -> None:
    first = answer(client, user("one"))
    failed = {"forwardedProps": {"provider": "failing"}}
    assert (
        events(post(client, user("one"), first, user("two"), **failed))[-1]["type"] == "RUN_ERROR"
    )
    answer(client, user("one"), first, user("two"), user("three"))
    assert told() == ["one", HELLO, "two", "Hel", "three"]


def test_the_same_run_id_again_is_the_same_run(client: Client) -> None:
    bodies = [body_of(post(client, user("hi"), runId="again")) for _ in range(2)]
    assert bodies[0] == bodies[1]
    assert len(asked()) == 1


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"threadId": None}, "threadId"),
        ({"threadId": "x" * 201}, "threadId"),
        ({"threadId": "\0"}, "threadId"),
        ({"runId": 5}, "runId"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": ["hi"]}, "messages.0"),
        ({"messages": [user("hi"), {"role": "developer", "content": "x"}]}, "messages.1"),
        ({"messages": [user("hi"), {"role": "assistant", "content": "Hel"}]}, "messages"),
        ({"messages": [user([{"type": "image"}])]}, "messages"),
        ({"messages": [user(None)]}, "prompt"),
        ({"messages": [user({})]}, "prompt"),
        ({"messages": [user([])]}, "prompt"),
        ({"forwardedProps": {"model": 5}}, "model"),
        ({"forwardedProps": {"provider": "nobody"}}, "provider"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_field(
    client: Client, more: dict[str, Any], field: str
) -> None:
    response = post(client, **{"messages": [user("hi")], **more})
    refusal(response, 400, "invalid", field)


@pytest.mark.parametrize("id", ["\0", 5, None, "x.1", "\ud800"])
def test_an_id_that_is_not_ours_places_nothing(client: Client, id: Any) -> None:
    answer(client, user("one"))
    answer(client, user("x"), {"id": id, "role": "assistant", "content": "y"}, user("two"))
    assert told() == ["one", HELLO, "two"]
