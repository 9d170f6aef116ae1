"""``htmx/``: what a POST answers to whom, and what a reader that comes back is told."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.template import Context, Template
from django.test import Client, RequestFactory

from chatstream.models import Conversation, Run
from tests.asking import asked, body_of, configured

URL = "/chat/htmx/"
STREAMS = {"HX-Request": "true", "Accept": "text/html, text/event-stream"}  # htmx 4 with hx-sse
HTMX_2 = {"HX-Request": "true", "Accept": "*/*"}
DONE = b'event: done\ndata: {"outcome": "completed"}\n\n'

pytestmark = pytest.mark.usefixtures("anonymous_site", "runs")


def ask(client: Client, headers: dict[str, str] = STREAMS, url: str = URL, **fields: str) -> Any:
    return client.post(url, {"prompt": "hi", **fields}, headers=headers)


def ended_run(client: Client, **fields: str) -> Run:
    """Return the run of an answer that was read to its end."""
    assert body_of(ask(client, **fields)).endswith(DONE)
    return Run.objects.latest("created_at")


def follow(client: Client, run: str, **headers: str) -> bytes:
    response = client.get(f"{URL}{run}/", headers=headers)
    assert response.status_code == 200
    assert response["Content-Type"] == "text/event-stream"
    return body_of(response)


@pytest.mark.parametrize("url", ["/chat/htmx/", "/chat/htmx"])
def test_htmx_4_gets_the_stream(client: Client, url: str) -> None:
    response = ask(client, url=url)
    assert response["Content-Type"] == "text/event-stream"
    body = body_of(response)
    assert b"data: <span>Hello, w\xc3\xb6rld\ndata: </span>\n\n" in body
    assert body.endswith(DONE)
    assert b"hx-swap-oob" not in body  # the project's own form has nothing to replace


def test_everybody_else_gets_an_element_that_connects(client: Client) -> None:
    response = ask(client, HTMX_2)
    assert response["Content-Type"].startswith("text/html")
    match = re.search(r'sse-connect="([^"]+)"', response.content.decode())
    assert match
    assert body_of(client.get(match[1])).endswith(DONE)


def test_a_form_of_the_tag_gets_a_new_key_and_its_conversation(client: Client) -> None:
    for headers in (STREAMS, HTMX_2):
        body = body_of(ask(client, headers, into="cs-1", prompt="a <b>\r\nc")).decode()
        conversation = Conversation.objects.latest("created_at")
        assert f'name="conversation" value="{conversation.pk}"' in body
        assert 'id="cs-1-fields" hx-swap-oob="true"' in body
        assert "a &lt;b&gt;" in body
    assert asked()[-1].messages[-1]["content"] == "a <b>\nc"


def test_what_a_form_calls_itself_is_no_markup(client: Client) -> None:
    assert b"<x" not in body_of(ask(client, into='"><x'))


def test_a_conversation_goes_on(client: Client) -> None:
    first = ended_run(client)
    second = ended_run(client, conversation=first.conversation_id or "", prompt="more")
    assert second.conversation_id == first.conversation_id
    told = [message["content"] for message in asked()[-1].messages]
    assert told == ["hi", "Hello, w\u00f6rld\n", "more"]


def test_a_key_that_comes_twice_is_one_run(client: Client) -> None:
    bodies = {body_of(ask(client, idempotency_key="k")) for _ in range(2)}
    assert len(bodies) == len(asked()) == 1


def test_a_post_that_was_cut_off_goes_on(client: Client) -> None:
    run = ended_run(client)
    body = body_of(ask(client, {**STREAMS, "Last-Event-ID": f"{run.pk}:0"}))
    assert b"<span>Hello" in body
    assert b":0\n" not in body
    assert len(asked()) == 1


def test_who_comes_back_after_the_end_is_told_so_at_once(client: Client) -> None:
    run = ended_run(client)
    assert follow(client, run.pk, **{"Last-Event-ID": f"{run.pk}:{run.last_seq}"}) == DONE
    body = body_of(ask(client, {**STREAMS, "Last-Event-ID": f"{run.pk}:{run.last_seq}"}))
    assert body == DONE


def test_who_comes_back_with_nothing_shows_it_afresh(client: Client) -> None:
    run = ended_run(client)
    body = follow(client, run.pk)
    empty = f'data: <div id="chatstream-{run.pk}" hx-swap-oob="innerHTML"></div>\n\n'
    assert body.startswith(f": open\nretry: 1000\nid: {run.pk}:0\n{empty}".encode())


def test_a_refusal_that_stays_one_ends_the_reader(client: Client) -> None:
    other = ended_run(Client())
    for run in ("nonsense", other.pk):
        body = follow(client, run)
        assert b'data-code="not_found"' in body
        assert b"event: chat-error\n" in body
        assert body.endswith(b'event: done\ndata: {"outcome": "failed"}\n\n')


@pytest.mark.parametrize(("headers", "status"), [(STREAMS, 400), (HTMX_2, 200), ({}, 400)])
def test_a_refusal_is_markup_and_an_event(
    client: Client, headers: dict[str, str], status: int
) -> None:
    response = ask(client, headers, prompt=" ")
    assert response.status_code == status
    assert b'<span class="chatstream-error" role="alert" data-code="invalid">' in response.content
    assert json.loads(response["HX-Trigger"])["chat-error"]["code"] == "invalid"
    assert response["Chatstream-Error"] == "invalid"
    assert asked() == []


def test_a_key_with_another_prompt_is_refused_and_replaced(client: Client) -> None:
    ended_run(client, idempotency_key="k")
    response = ask(client, idempotency_key="k", prompt="another", into="cs-1")
    assert response.status_code == 409
    assert re.search(rb'id="cs-1-key" name="idempotency_key" value="[\w-]+" hx', response.content)


def test_a_form_without_its_token_is_refused() -> None:
    response = ask(Client(enforce_csrf_checks=True))
    assert response.status_code == 403
    assert response["Chatstream-Error"] == "csrf_failed"


def test_who_may_not_chat_is_refused(client: Client) -> None:
    with configured(ALLOW_ANONYMOUS=False):
        assert ask(client).status_code == 401
        client.force_login(User.objects.create_user("ada"))
        assert body_of(ask(client)).endswith(DONE)


def test_the_tag_is_a_form_that_works_alone() -> None:
    request = RequestFactory().get("/page/")
    template = Template("{% load chatstream %}{% chatstream_htmx %}")
    context = Context({"request": request, "csrf_token": "t0ken"})
    html, again = (template.render(context) for _ in range(2))
    assert '<form method="post" action="/chat/"' in html
    assert 'name="next" value="/page/"' in html
    assert 'name="csrfmiddlewaretoken" value="t0ken"' in html
    key = r'name="idempotency_key" value="([\w-]{22})"'
    assert re.findall(key, html) != re.findall(key, again)
    assert "<script" not in html
    assert not re.search(r"\son\w+=|hx-on", html)
