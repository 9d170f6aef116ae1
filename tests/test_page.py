"""The chat page as the server makes it: what it shows, and what its form does by itself."""

from __future__ import annotations

import html
import inspect
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.template import Context, Template, engines
from django.test import Client, RequestFactory, override_settings
from django.urls import include, path
from django.utils import timezone
from rest_framework.permissions import BasePermission

from chatstream import page as chat_page
from chatstream.conversations import tip
from chatstream.models import Conversation, Message, Run
from chatstream.templatetags.chatstream import chatstream
from chatstream.transcript import figures_of
from chatstream.views import ChatPageView
from chatstream.words import STATES
from tests.asking import asked, body_of, configured
from tests.conftest import end_runs

pytestmark = pytest.mark.django_db

# For tests that start an answer: all others need no database that other threads see.
starts_runs = pytest.mark.usefixtures("runs")

PAGE = "/chat/"
PACKAGE = Path(chat_page.__file__).parent
WAITING: list[Any] = ["so far", 60]


# The project around it ----------------------------------------------------------------------------


class IsCustomer(BasePermission):
    message = "Only customers may chat."

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.username == "ada")


class ForCustomers(ChatPageView):
    permission_classes = (IsCustomer,)


class WithRules(ChatPageView):
    def get_messages(self, data: Any) -> list[dict[str, Any]]:
        return [{"role": "system", "content": "Be kind."}, *super().get_messages(data)]


def host(request: HttpRequest) -> HttpResponse:
    """A page of a project: the template is the query's."""
    template = request.GET.get("template", "{% load chatstream %}{% chatstream %}")
    backend = engines["django"]
    return HttpResponse(backend.from_string(template).render({"chat": "the host's own"}, request))


urlpatterns = [
    path("chat/", include("chatstream.urls")),
    path("help/", host),
    path("customers/", ForCustomers.as_view()),
    path("kind/", WithRules.as_view()),
]


@pytest.fixture(autouse=True)
def site() -> Iterator[None]:
    with override_settings(ROOT_URLCONF=__name__, LOGIN_URL="/door/"), configured():
        yield


class Shown:
    """A page as a browser without JavaScript has it."""

    def __init__(self, response: Any) -> None:
        self.response = response
        self.status = response.status_code
        # What JavaScript would copy is not on the page.
        whole = response.content.decode()
        self.text = re.sub(r"<template.*?</template>", "", whole, flags=re.DOTALL)

    def tag(self, mark: str) -> str:
        found = re.search(rf"<[^>]*{mark.lstrip('<')}[^>]*>", self.text)
        assert found, mark
        return found[0]

    def value(self, name: str, mark: str = "<chatstream-chat") -> str:
        found = re.search(rf'\s{name}="([^"]*)"', self.tag(mark))
        return html.unescape(found[1]) if found else ""

    def part(self, name: str) -> str:
        """The text of an element without elements in it, "" if it is hidden."""
        tag = self.tag(f'data-part="{name}"')
        if " hidden" in tag:
            return ""
        return html.unescape(self.text.split(tag, 1)[1].split("<", 1)[0]).strip()

    def parts(self, name: str) -> list[str]:
        found = re.findall(rf'data-part="{name}"[^>]*>([^<]*)<', self.text)
        return [html.unescape(text) for text in found]

    @property
    def state(self) -> str:
        return self.value("data-state")

    @property
    def messages(self) -> list[str]:
        return self.parts("text")

    @property
    def offers(self) -> list[str]:
        """The actions whose buttons the last entry shows."""
        entry = self.text.split("<article")[-1].split("</article>")[0]
        tags = re.findall(r'<button type="submit"[^>]*>', entry)
        shown = [tag for tag in tags if " hidden" not in tag]
        return [re.search(r'data-action="(\w+)"', tag)[1] for tag in shown]  # type: ignore[index]

    @property
    def config(self) -> dict[str, Any]:
        found = re.search(r'<script type="application/json">(.*?)</script>', self.text)
        assert found
        data: dict[str, Any] = json.loads(found[1])
        return data

    @property
    def conversation(self) -> str:
        return self.value("data-conversation")


def look(client: Client, url: str = PAGE, **more: Any) -> Shown:
    return Shown(client.get(url, **more))


def send(client: Client, prompt: str = "hi", url: str = PAGE, **fields: str) -> Any:
    return client.post(url, {"prompt": prompt, **fields})


def chat(client: Client, prompt: str = "hi", url: str = PAGE, **fields: str) -> str:
    """Send a prompt, wait for the end of the answer; return the conversation's page."""
    response = send(client, prompt, url, **fields)
    assert response.status_code == 303, response.content[:300]
    settled()
    return str(response["Location"])


def settled() -> Run:
    """Wait for the newest run's end, as its reader does."""
    run = Run.objects.latest("pk")
    client = Client()
    owner = run.owner.removeprefix("anon:")
    if run.owner.startswith("user:"):
        client.force_login(User.objects.get(pk=run.owner.removeprefix("user:")))
    else:
        session = client.session
        session["chatstream_owner"] = owner
        session.save()
    body_of(client.get(f"/chat/runs/{run.pk}/stream/"))
    run.refresh_from_db()
    assert not run.is_open
    return run


def waiting(client: Client) -> str:
    """Begin an answer that does not end by itself; return the conversation's page."""
    location = str(send(client)["Location"])
    run = Run.objects.latest("pk")
    until = timezone.now() + timedelta(seconds=10)
    while not run.frames.filter(kind="text").exists() and timezone.now() < until:
        pass
    return location


# What a visitor sees ------------------------------------------------------------------------------


def test_a_new_chat_is_empty_and_offers_suggestions(client: Client) -> None:
    shown = look(client)
    assert (shown.status, shown.state, shown.messages) == (200, "idle", [])
    assert shown.text.count('name="suggestion"') == 3
    assert shown.part("title") == "New chat"
    assert shown.value("placeholder", 'data-part="prompt"') == "Ask anything…"
    assert shown.value("action", 'data-part="composer"') == PAGE
    assert "csrftoken" in shown.response.cookies
    assert shown.response["Cache-Control"] == "no-store"


def test_a_page_tells_javascript_where_everything_is(client: Client) -> None:
    shown = look(client)
    values = {name: shown.value(f"data-{name}") for name in ("api", "home", "link", "login")}
    assert values == {
        "api": "/chat/",
        "home": "/chat/",
        "link": "/chat/c/__id__/",
        "login": "/door/?next=/chat/",
    }
    assert shown.value("data-max-prompt") == "32000"
    assert shown.config["states"]["truncated"] == {
        "tone": "grey",
        "label": "Cut short",
        "words": "The answer reached its length limit.",
        "actions": ["continue", "regenerate"],
    }
    assert shown.config["words"]["first_word"] == "{seconds} s to first word"
    assert shown.config["errors"]["upstream_timeout"] == "The model took too long to answer."
    assert shown.config["refusals"]["too_large"] == "Your message is too long."


@starts_runs
def test_a_prompt_makes_a_conversation_and_leads_to_its_page(client: Client) -> None:
    location = chat(client, "  One\r\ntwo ")
    conversation = Conversation.objects.get()
    assert location == f"/chat/c/{conversation.pk}/"
    assert asked()[0].messages == [{"role": "user", "content": "  One\ntwo "}]
    shown = look(client, location)
    assert shown.messages == ["  One\ntwo ", "Hello, wörld\n"]
    assert shown.conversation == conversation.pk
    assert shown.part("title") == "One"
    assert "<title>One</title>" in shown.text
    assert (shown.state, shown.offers) == ("done", ["regenerate"])
    assert re.fullmatch(r"\d+\.\d s to first word", shown.parts("ending-text")[0])


@starts_runs
def test_a_prompt_on_a_conversations_page_goes_on_with_it(client: Client) -> None:
    location = chat(client, "one")
    assert chat(client, "two", location) == location
    told = [message["content"] for message in asked()[1].messages]
    assert told == ["one", "Hello, wörld\n", "two"]
    assert Conversation.objects.count() == 1
    assert len(look(client, location).messages) == 4


@starts_runs
def test_a_suggestion_is_a_prompt_and_what_was_typed_stays_in_the_field(client: Client) -> None:
    location = chat(client, "typed", suggestion="Why is the sky blue?")
    assert asked()[0].messages[0]["content"] == "Why is the sky blue?"
    assert look(client, location).part("prompt") == "typed"
    assert look(client, location).part("prompt") == ""


@starts_runs
def test_html_in_a_conversation_is_text(client: Client) -> None:
    location = chat(client, "<script>alert(1)</script>")
    shown = look(client, location)
    assert "<script>alert" not in shown.text
    assert shown.messages[0] == "<script>alert(1)</script>"


@starts_runs
@pytest.mark.parametrize(
    ("script", "state", "words", "offers"),
    [
        (["a", {"finish_reason": "length"}], "truncated", "", ["regenerate", "continue"]),
        (["a", {"finish_reason": "content_filter"}], "filtered", "", ["retry"]),
        (
            ["a", {"error": "upstream_timeout"}],
            "failed",
            "The answer stopped early. What arrived is kept. The model took too long to answer.",
            ["continue", "retry"],
        ),
        (
            [{"error": "upstream_auth"}],
            "failed",
            "No answer arrived. The server is not allowed to use the model.",
            ["retry"],
        ),
        ([{"error": "interrupted"}], "interrupted", "No answer arrived.", ["retry"]),
        (["a", {"error": "interrupted"}], "interrupted", "", ["continue", "retry"]),
        (
            [{"finish_reason": "length"}],
            "truncated",
            "The answer reached its length limit.",
            ["regenerate"],
        ),
    ],
)
def test_an_answer_says_how_it_ended_and_offers_what_helps(
    client: Client, script: list[Any], state: str, words: str, offers: list[str]
) -> None:
    with configured(providers={"default": {"script": script}}):
        shown = look(client, chat(client))
    assert shown.state == state
    assert shown.parts("ending-text") == [words or str(STATES[state].words)]
    assert shown.offers == offers
    assert shown.value("data-tone", 'data-part="pill"') == STATES[state].tone
    run = Run.objects.get()
    assert (f"For support: {run.pk}" in shown.text) is (state == "failed")


@starts_runs
def test_the_tokens_of_an_answer_are_told(client: Client) -> None:
    usage = {"completion_tokens": 1412}
    script = ["a", {"usage": usage}, {"finish_reason": "stop"}]
    with configured(providers={"default": {"script": script}}):
        ending = look(client, chat(client)).parts("ending-text")[0]
    assert re.fullmatch(r"\d+\.\d s to first word · 1,412 tokens", ending)


def test_figures_that_nobody_knows_are_not_told() -> None:
    now = timezone.now()
    assert figures_of(Run(created_at=now)) == ""
    assert figures_of(Run(created_at=now, usage={"prompt_tokens": 3})) == ""
    one = Run(created_at=now, usage={"completion_tokens": 1})
    assert figures_of(one) == "1 token"


@starts_runs
def test_a_message_that_no_run_wrote_has_no_ending(client: Client) -> None:
    location = chat(client)
    Run.objects.all().delete()
    conversation = Conversation.objects.get()
    answer = Message.objects.create(conversation=conversation, role="assistant", content="imported")
    conversation.leaf = answer
    conversation.save()
    shown = look(client, location)
    assert (shown.messages, shown.part("ending")) == (["imported"], "")


# While an answer is on its way --------------------------------------------------------------------


@starts_runs
def test_an_answer_on_its_way_is_shown_as_far_as_it_came_and_the_page_asks_again(
    client: Client,
) -> None:
    with configured(providers={"default": {"script": WAITING}}):
        shown = look(client, waiting(client))
        assert shown.messages == ["hi", "so far"]
        assert (shown.state, shown.offers) == ("streaming", [])
        assert '<noscript><meta http-equiv="refresh"' in shown.text
        assert shown.value("value", 'data-part="send"') == Run.objects.get().pk
        end_runs()


@starts_runs
def test_an_answer_without_a_word_yet_is_thinking(client: Client) -> None:
    with configured(providers={"default": {"script": [60]}}):
        shown = look(client, send(client)["Location"])
        assert (shown.state, shown.parts("ending-text")) == ("connecting", ["Thinking…"])
        end_runs()


@starts_runs
def test_stop_stops_and_keeps_what_was_typed(client: Client) -> None:
    with configured(providers={"default": {"script": WAITING}}):
        location = waiting(client)
        response = client.post(location, {"prompt": "typed", "stop": Run.objects.get().pk})
        assert (response.status_code, response["Location"]) == (303, location)
        assert settled().status == "stopped"
        shown = look(client, location)
        assert (shown.state, shown.offers) == ("stopped", ["regenerate", "continue"])
        assert shown.part("prompt") == "typed"


@starts_runs
def test_another_prompt_in_the_meantime_is_kept_and_leads_to_the_answer(client: Client) -> None:
    with configured(providers={"default": {"script": WAITING}}):
        location = waiting(client)
        shown = Shown(send(client, "me too", location))
        assert (shown.status, shown.state) == (409, "busy")
        assert shown.part("notice-text") == "An answer is already on its way."
        assert shown.value("href", 'data-part="notice-link"') == location
        assert shown.part("prompt") == "me too"
        # A page that asks again by itself would empty the field.
        assert "http-equiv" not in shown.text
        end_runs()


@starts_runs
def test_an_answer_that_goes_on_shows_what_it_had_and_what_came(client: Client) -> None:
    with configured(providers={"default": {"script": ["a", {"finish_reason": "length"}]}}):
        location = chat(client)
        answer = Message.objects.get(role="assistant").pk
    with configured(providers={"default": {"script": WAITING}}):
        client.post(location, {"prompt": "", "continue": answer})
        run = Run.objects.latest("pk")
        while not run.frames.filter(kind="text").exists():
            pass
        assert look(client, location).messages == ["hi", "aso far"]
        end_runs()


@starts_runs
def test_regenerate_answers_again_and_keeps_what_was_typed(client: Client) -> None:
    location = chat(client)
    answer = Message.objects.get(role="assistant").pk
    assert chat(client, "typed", location, regenerate=answer) == location
    assert Message.objects.filter(role="assistant").count() == 2
    assert len(asked()[1].messages) == 1
    assert look(client, location).part("prompt") == "typed"


# Refusals -----------------------------------------------------------------------------------------


def refused(response: Any, status: int, code: str, draft: str = "") -> Shown:
    shown = Shown(response)
    assert shown.status == status
    assert response["Chatstream-Error"] == code
    assert response["Content-Type"].startswith("text/html")
    assert response["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in response
    assert shown.part("prompt") == draft.strip()
    assert asked() == []
    return shown


@pytest.mark.parametrize(
    ("prompt", "status", "code", "words"),
    [
        (" ", 400, "invalid", "This cannot be sent. Please check your message."),
        ("x" * 11, 413, "too_large", "Your message is too long: at most 10 characters."),
    ],
)
def test_a_prompt_that_is_refused_is_still_in_the_field(
    client: Client, prompt: str, status: int, code: str, words: str
) -> None:
    with configured(MAX_PROMPT_CHARS=10):
        shown = refused(send(client, prompt), status, code, prompt)
    assert (shown.state, shown.part("notice-text")) == ("refused", words)
    assert shown.value("data-tone", 'data-part="notice"') == "red"
    assert not Conversation.objects.exists()


@starts_runs
def test_too_many_prompts_are_told_how_long_to_wait(client: Client) -> None:
    from django.core.cache import cache

    from chatstream.throttling import RunThrottle

    class Once(RunThrottle):
        THROTTLE_RATES = {"chatstream": "1/hour"}  # noqa: RUF012

    cache.clear()
    view = type("OnceView", (ChatPageView,), {"throttle_classes": [Once]})
    factory = RequestFactory()

    def post() -> Any:
        request = factory.post(PAGE, {"prompt": "again"})
        request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
        request.session = client.session  # type: ignore[assignment]
        return view.as_view()(request)

    assert post().status_code == 303
    end_runs()
    asked().clear()
    response = post()
    shown = refused(response, 429, "throttled", "again")
    wait = int(response["Retry-After"])
    words = f"Too many messages. Please wait a little. Try again in {wait} s."
    assert shown.part("notice-text") == words


def test_a_provider_that_does_not_exist_is_refused_and_the_one_that_was_chosen_stays(
    client: Client,
) -> None:
    with configured(providers={"second": {}}):
        refused(send(client, provider="nobody"), 400, "invalid", "hi")
        shown = refused(send(client, " ", provider="second"), 400, "invalid")
    assert shown.value("value", "selected") == "second"


@starts_runs
def test_the_page_of_another_is_an_empty_one_with_404(client: Client) -> None:
    location = chat(client, "secret")
    asked().clear()
    for url in (location, f"/chat/c/{'0' * 26}/", "/chat/c/nonsense/", f"{PAGE}?c={'0' * 26}"):
        shown = refused(Client().get(url), 404, "not_found")
        assert (shown.messages, shown.conversation) == ([], "")
        assert shown.part("notice-text") == "This is not here. Perhaps it was deleted."
        assert "secret" not in shown.text
        assert shown.value("action", 'data-part="composer"') == PAGE


@starts_runs
def test_a_prompt_for_a_conversation_of_another_is_kept(client: Client) -> None:
    location = chat(client)
    asked().clear()
    refused(send(Client(), "mine", location), 404, "not_found", "mine")
    refused(Client().post(PAGE, {"stop": Run.objects.get().pk}), 404, "not_found")


@starts_runs
def test_a_forged_post_starts_nothing_and_the_page_says_so() -> None:
    client = Client(enforce_csrf_checks=True)
    shown = refused(send(client, "forged"), 403, "csrf_failed", "forged")
    assert "Please send your message again." in shown.part("notice-text")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', shown.text)
    assert token
    assert send(client, "mine", csrfmiddlewaretoken=token[1]).status_code == 303


def test_what_the_server_cannot_read_is_refused_as_a_page(client: Client) -> None:
    response = client.post(PAGE, b"x", content_type="text/plain")
    assert refused(response, 415, "unsupported_media_type").state == "refused"
    assert refused(client.put(PAGE), 405, "method_not_allowed").state == "refused"


def test_a_database_out_of_reach_is_told_without_asking_it(client: Client) -> None:
    from django.db import OperationalError

    class Down(ChatPageView):
        def get_messages(self, data: Any) -> Any:
            raise OperationalError("down")

    request = RequestFactory().post(PAGE, {"prompt": "hi"})
    request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
    request.session = client.session  # type: ignore[assignment]
    shown = refused(Down.as_view()(request), 503, "storage", "hi")
    assert 'data-part="sidebar"' not in shown.text


# Who may ------------------------------------------------------------------------------------------


def test_who_is_not_signed_in_is_asked_to_and_led_back(client: Client) -> None:
    with configured(ALLOW_ANONYMOUS=False):
        shown = refused(client.get(PAGE), 401, "not_authenticated")
        assert shown.part("notice-text") == "Please sign in to chat."
        assert shown.value("href", 'data-part="notice-link"') == "/door/?next=/chat/"
        assert shown.part("notice-link") == "Sign in"
        assert (shown.state, shown.value("data-signed-in")) == ("signed_out", "no")
        assert "disabled" in shown.tag('data-part="prompt"')
        assert 'name="suggestion"' not in shown.text


def test_a_message_of_who_was_signed_out_is_there_after_the_log_in(client: Client) -> None:
    with configured(ALLOW_ANONYMOUS=False):
        shown = refused(send(client, "precious"), 401, "not_authenticated", "precious")
        assert shown.part("notice-text") == str(STATES["signed_out"].words)
        client.force_login(User.objects.create_user("ada"))
        assert look(client).part("prompt") == "precious"
        assert look(client).part("prompt") == ""


@starts_runs
def test_who_may_not_is_told_why_and_sees_nothing(client: Client) -> None:
    client.force_login(User.objects.create_user("bob"))
    chat(client, "from before")
    asked().clear()
    shown = refused(client.get("/customers/"), 403, "forbidden")
    assert (shown.state, shown.part("notice-text")) == ("signed_out", "Only customers may chat.")
    assert "from before" not in shown.text
    assert " hidden" in shown.tag('data-part="notice-link"')
    client.force_login(User.objects.create_user("ada"))
    assert look(client, "/customers/").state == "idle"


@override_settings(LOGIN_URL="no such url name")
def test_a_site_without_a_log_in_has_no_link_to_one(client: Client) -> None:
    with configured(ALLOW_ANONYMOUS=False):
        assert " hidden" in look(client).tag('data-part="notice-link"')


# A page of a project's own ------------------------------------------------------------------------


@starts_runs
def test_a_host_page_has_the_chat_and_its_conversation_is_in_the_query(client: Client) -> None:
    shown = look(client, "/help/?topic=a%20b")
    assert (shown.status, shown.state) == (200, "idle")
    assert shown.value("data-home") == "/help/?topic=a%20b"
    assert shown.value("data-link") == "/help/?topic=a%20b&c=__id__"
    assert shown.value("action", 'data-part="composer"') == PAGE
    assert "<h2" in shown.text
    location = chat(client, next=shown.value("data-home"))
    conversation = Conversation.objects.get().pk
    assert location == f"/help/?topic=a%20b&c={conversation}"
    shown = look(client, location)
    assert shown.messages == ["hi", "Hello, wörld\n"]
    assert shown.value("action", 'data-part="composer"') == f"/chat/c/{conversation}/"
    assert shown.value("data-home") == "/help/?topic=a%20b"


@starts_runs
def test_a_conversation_of_another_is_an_empty_chat_on_a_host_page(client: Client) -> None:
    conversation = chat(client, "secret").split("/")[-2]
    for pk in (conversation, "nonsense"):
        shown = look(Client(), f"/help/?c={pk}")
        assert (shown.status, shown.messages, shown.conversation) == (200, [], "")
    template = "{% load chatstream %}{% chatstream conversation='" + conversation + "' %}"
    assert look(Client(), "/help/", data={"template": template}).messages == []
    assert len(look(client, "/help/", data={"template": template}).messages) == 2


def test_a_host_page_asks_to_sign_in(client: Client) -> None:
    with configured(ALLOW_ANONYMOUS=False):
        shown = look(client, "/help/")
        assert (shown.status, shown.state) == (200, "signed_out")
        assert shown.value("href", 'data-part="notice-link"') == "/door/?next=/help/"


def test_what_is_refused_on_a_host_page_still_leads_back_to_it(client: Client) -> None:
    shown = refused(send(client, " ", next="/help/"), 400, "invalid")
    assert shown.value("value", 'name="next"') == "/help/"


@starts_runs
@pytest.mark.parametrize(
    "next", ["https://evil.example/", "//evil.example/", "javascript:alert(1)", "\\\\evil"]
)
def test_a_form_leads_to_no_other_site(client: Client, next: str) -> None:
    assert chat(client, next=next).startswith("/chat/c/")


def test_the_options_of_the_tag(client: Client) -> None:
    template = (
        "{% load chatstream %}{% chatstream provider='second' placeholder='Your order?' "
        "suggestions='One | Two' sidebar=False heading='h3' %}"
    )
    with configured(providers={"second": {"model": "two"}}):
        shown = look(client, "/help/", data={"template": template})
    assert shown.value("value", 'name="provider"') == "second"
    assert "<select" not in shown.text
    assert '<span class="cs-model">two</span>' in shown.text
    assert shown.value("placeholder", 'data-part="prompt"') == "Your order?"
    assert re.findall(r'name="suggestion" value="(\w+)"', shown.text) == ["One", "Two"]
    assert 'data-part="sidebar"' not in shown.text
    assert "<h3" in shown.text


def test_two_chats_on_one_page_have_forms_of_their_own(client: Client) -> None:
    template = "{% load chatstream %}{% chatstream %}{% chatstream %}"
    shown = look(client, "/help/", data={"template": template})
    assert len(set(re.findall(r'<form class="cs-composer" id="([^"]+)"', shown.text))) == 2


def test_a_provider_that_does_not_exist_is_named_with_the_nearest(client: Client) -> None:
    template = "{% load chatstream %}{% chatstream provider='defualt' %}"
    with pytest.raises(ImproperlyConfigured, match=r"'defualt'\. Did you mean 'default'"):
        client.get("/help/", {"template": template})


def test_a_template_without_a_request_is_told_what_it_lacks() -> None:
    template = Template("{% load chatstream %}{% chatstream %}")
    with pytest.raises(ImproperlyConfigured, match="needs the request"):
        template.render(Context())


@override_settings(ROOT_URLCONF="tests.no_urls")
def test_a_project_without_our_urls_is_told_so(rf: RequestFactory) -> None:
    template = Template("{% load chatstream %}{% chatstream %}")
    request = rf.get("/")
    with pytest.raises(ImproperlyConfigured, match="include"):
        template.render(Context({"request": request}))


def test_a_page_needs_neither_users_nor_sessions(rf: RequestFactory) -> None:
    response = render(rf.get("/help/"), "chatstream/page.html")
    assert Shown(response).state == "idle"
    with configured(ALLOW_ANONYMOUS=False):
        assert Shown(render(rf.get("/help/"), "chatstream/page.html")).state == "signed_out"


@starts_runs
def test_a_subclass_may_be_anywhere_and_its_forms_stay_with_it(client: Client) -> None:
    assert look(client, "/kind/").value("action", 'data-part="composer"') == "/kind/"
    location = chat(client, url="/kind/")
    assert location == f"/kind/?c={Conversation.objects.get().pk}"
    assert chat(client, "more", location) == location
    assert [request.messages[0]["content"] for request in asked()] == ["Be kind."] * 2
    assert len(look(client, location).messages) == 4


def test_a_project_has_templates_of_its_own(client: Client, tmp_path: Path) -> None:
    folder = tmp_path / "chatstream"
    folder.mkdir()
    (tmp_path / "base.html").write_text("<nav>Ours</nav>{% block content %}{% endblock %}")
    (folder / "page.html").write_text(
        "{% extends 'base.html' %}{% load chatstream %}"
        "{% block content %}{{ chat.title }}{% chatstream sidebar=False %}{% endblock %}"
    )
    (folder / "icon.html").write_text("<b>{{ name }}</b>")
    backend = "django.template.backends.django.DjangoTemplates"
    templates = [{"BACKEND": backend, "DIRS": [tmp_path], "APP_DIRS": True}]
    with override_settings(TEMPLATES=templates):
        shown = look(client)
    assert shown.text.startswith("<nav>Ours</nav>New chat")
    assert "<b>send</b>" in shown.text
    assert 'data-part="sidebar"' not in shown.text


@starts_runs
def test_what_was_said_is_escaped_on_a_page_that_escapes_nothing(client: Client) -> None:
    location = chat(client, "<b>bold</b>", next="/help/")
    template = (
        "{% load chatstream %}{% autoescape off %}{% chatstream %}{{ '<i>' }}{% endautoescape %}"
    )
    pk = location.partition("c=")[2]
    text = look(client, "/help/", data={"template": template, "c": pk}).text
    assert "<b>bold" not in text
    assert text.endswith("<i>")


@pytest.mark.parametrize("nonce", ["", "abc"])
def test_scripts_have_the_nonce_of_a_page_that_has_one(client: Client, nonce: str) -> None:
    template = "{% load chatstream %}{% chatstream %}"
    context = {"csp_nonce": nonce} if nonce else {}
    request = RequestFactory().get("/help/")
    text = engines["django"].from_string(template).render(context, request)
    scripts = re.findall(r"<script [^>]*src=[^>]*>", text)
    assert len(scripts) == 4
    assert all((f'nonce="{nonce}"' in script) is bool(nonce) for script in scripts)


@starts_runs
def test_nothing_inline_is_on_the_page(client: Client) -> None:
    text = look(client, chat(client)).response.content.decode()
    assert not re.search(r"\son\w+=|\sstyle=|<style", text)
    assert re.findall(r"<script(?! [^>]*src=)([^>]*)>", text) == [' type="application/json"']


# The sidebar --------------------------------------------------------------------------------------


@starts_runs
def test_the_history_is_by_day_and_leaves_out_what_is_empty(client: Client) -> None:
    location = chat(client, "now")
    owner = Conversation.objects.get().owner
    for title, days in (("1", 1), ("6", 6), ("29", 29), ("99", 99)):
        aged(owner, title, days)
    Conversation.objects.create(owner=owner, title="empty")
    aged("anon:somebody", "other", 0)
    shown = look(client, location)
    groups = re.findall(
        r'data-day="(\w+)"><p class="cs-day">([^<]+)</p>(.*?)</section>', shown.text, re.DOTALL
    )
    told = [
        (day, label, re.findall(r'data-part="link"[^>]*>([^<]*)<', g)) for day, label, g in groups
    ]
    assert told == [
        ("today", "Today", ["now"]),
        ("yesterday", "Yesterday", ["1"]),
        ("week", "Last 7 days", ["6"]),
        ("month", "Last 30 days", ["29"]),
        ("older", "Older", ["99"]),
    ]
    assert f'href="{location}" aria-current="page"' in shown.text
    assert 'data-action="more"' not in shown.text


def aged(owner: str, title: str, days: int) -> None:
    row = Conversation.objects.create(owner=owner, title=title)
    row.leaf = Message.objects.create(conversation=row, role="user", content="x")
    row.save()
    when = timezone.now() - timedelta(days=days)
    Conversation.objects.filter(pk=row.pk).update(updated_at=when)


@starts_runs
def test_older_conversations_are_where_the_page_says(client: Client) -> None:
    chat(client)
    owner = Conversation.objects.get().owner
    for number in range(60):
        aged(owner, str(number), 2)
    shown = look(client)
    assert shown.text.count('<li class="cs-conversation"') == 50
    following = client.get(shown.value("data-next", 'data-action="more"')).json()
    assert len(following["results"]) == 11
    first = set(re.findall(r'data-id="(\w+)"', shown.text))
    assert not first & {row["id"] for row in following["results"]}


@starts_runs
@override_settings(USE_TZ=False)
def test_a_project_without_time_zones_has_a_history_too(client: Client) -> None:
    assert "Today" in look(client, chat(client)).text


@starts_runs
def test_the_provider_of_the_last_answer_is_chosen_again(client: Client) -> None:
    with configured(providers={"second": {}}):
        shown = look(client, chat(client, provider="second"))
        assert (shown.value("data-provider"), shown.value("value", "selected")) == (
            "second",
            "second",
        )
        assert look(client).value("data-provider") == "default"


# Export -------------------------------------------------------------------------------------------


@starts_runs
def test_a_conversation_is_exported_as_markdown(client: Client) -> None:
    with configured(providers={"default": {"script": ["*a*", {"finish_reason": "length"}]}}):
        shown = look(client, chat(client, "Füße & more"))
    response = client.get(shown.value("href", 'data-part="export"'))
    assert response["Content-Type"] == "text/markdown; charset=utf-8"
    assert response["Content-Disposition"] == "attachment; filename*=utf-8''f%C3%BC%C3%9Fe-more.md"
    assert response.content.decode() == (
        "# Füße & more\n\n## You\n\nFüße & more\n\n## Answer\n\n*a*\n\n"
        "*The answer reached its length limit.*\n"
    )


@starts_runs
def test_only_the_branch_that_is_shown_is_exported(client: Client) -> None:
    location = chat(client)
    first = Message.objects.get(role="assistant")
    chat(client, "", location, regenerate=first.pk)
    Message.objects.filter(pk=first.pk).update(content="the first one")
    text = client.get(f"/chat/conversations/{first.conversation_id}/export/").content.decode()
    assert text.count("## Answer") == 1
    assert "the first one" not in text


@starts_runs
def test_an_export_is_its_owners(client: Client) -> None:
    chat(client)
    url = f"/chat/conversations/{Conversation.objects.get().pk}/export/"
    assert Client().get(url).status_code == 404
    with configured(ALLOW_ANONYMOUS=False):
        assert client.get(url).status_code == 401


def test_a_chat_without_a_message_has_nothing_to_export(client: Client) -> None:
    assert " hidden" in look(client).tag('data-part="export"')


# Branches -----------------------------------------------------------------------------------------


def grown() -> dict[str, Message]:
    """A conversation: a, whose siblings b have answers, of which the second was answered, too."""
    conversation = Conversation.objects.create(owner="user:1")
    messages: dict[str, Message] = {}
    for name, parent in (
        ("a", ""),
        ("b1", "a"),
        ("b2", "a"),
        ("c1", "b1"),
        ("c2", "b1"),
        ("d", "c2"),
    ):
        messages[name] = Message.objects.create(
            id=f"{len(messages):026}",
            conversation=conversation,
            parent=messages.get(parent),
            role="user",
        )
    return messages


@pytest.mark.parametrize(
    ("start", "end"), [("a", "b2"), ("b1", "d"), ("c1", "c1"), ("c2", "d"), ("d", "d")]
)
def test_the_tip_is_the_newest_below(start: str, end: str) -> None:
    messages = grown()
    assert tip(messages[start]) == messages[end]


@starts_runs
def test_who_picks_an_edited_message_sees_its_whole_branch(client: Client) -> None:
    chat(client, "first")
    first = Message.objects.get(content="first")
    conversation = f"/chat/conversations/{first.conversation_id}/"
    edit = {"action": "edit", "message": first.pk, "prompt": "second"}
    client.post("/chat/runs/", edit, content_type="application/json")
    settled()
    answer = client.patch(conversation, {"leaf": first.pk}, content_type="application/json")
    assert answer.json()["leaf"] == Message.objects.get(parent=first).pk
    shown = [message["content"] for message in client.get(conversation).json()["messages"]]
    assert shown == ["first", "Hello, wörld\n"]


@starts_runs
def test_a_look_at_another_branch_does_not_make_a_conversation_the_latest(client: Client) -> None:
    chat(client, "first")
    conversation = Conversation.objects.get()
    url = f"/chat/conversations/{conversation.pk}/"
    leaf = {"leaf": conversation.leaf_id, "title": "Renamed"}
    assert client.patch(url, leaf, content_type="application/json").json()["title"] == "Renamed"
    changed = Conversation.objects.get()
    assert (changed.title, changed.updated_at) == ("Renamed", conversation.updated_at)


@starts_runs
def test_only_an_answer_can_be_given_anew(client: Client) -> None:
    chat(client, "first")
    asked = {"action": "regenerate", "message": Message.objects.get(content="first").pk}
    response = client.post("/chat/runs/", asked, content_type="application/json")
    assert (response.status_code, response.json()["error"]["field"]) == (400, "message")


# What is written about it -------------------------------------------------------------------------


def test_every_option_property_state_and_template_is_documented() -> None:
    told = (PACKAGE.parent / "docs" / "page.md").read_text(encoding="utf-8")
    options = list(inspect.signature(chatstream).parameters)[1:]
    css = (PACKAGE / "static" / "chatstream" / "chatstream.css").read_text(encoding="utf-8")
    properties = re.findall(r"^  (--cs-[\w-]+):", css.split("}")[0], re.MULTILINE)
    templates = (path.name for path in (PACKAGE / "templates" / "chatstream").iterdir())
    names = [*options, *properties, *STATES, *(f"chatstream/{name}" for name in templates)]
    assert len(properties) > 10
    assert [name for name in names if f"`{name}`" not in told] == []
