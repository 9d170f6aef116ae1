"""Nobody buys an answer through somebody else's browser: CSRF for POST, the origin rule for GET."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.middleware.csrf import _get_new_csrf_string
from django.test import Client, override_settings
from django.urls import path
from rest_framework.authentication import (
    BaseAuthentication,
    BasicAuthentication,
    SessionAuthentication,
)
from rest_framework.request import Request

from chatstream.views import ChatStreamView
from tests.asking import URL, asked, configured, is_answer, refusal

JSON = "application/json"
SAME = {"sec-fetch-site": "same-origin", "origin": "http://testserver"}
TOKEN = _get_new_csrf_string()

pytestmark = pytest.mark.usefixtures("anonymous_site", "runs")


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="lovelace")


@pytest.fixture(params=["anonymous", "logged in"])
def client(request: pytest.FixtureRequest) -> Client:
    """A browser of somebody who is logged in, or not."""
    client = Client(enforce_csrf_checks=True)
    if request.param == "logged in":
        client.force_login(User.objects.create_user("ada"))
    return client


def post(client: Client, url: str = URL, form: bool = False, **headers: str) -> Any:
    """POST a prompt, with headers given by their names in snake case."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if form:
        return client.post(url, {"prompt": "hi"}, headers=named)
    return client.post(url, {"prompt": "hi"}, content_type=JSON, headers=named)


def get(client: Client, url: str = URL, **headers: str) -> Any:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(url, {"prompt": "hi"}, headers=named)


# POST ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [False, True])
def test_a_post_without_token_is_refused_and_the_header_is_named(
    client: Client, form: bool
) -> None:
    error = refusal(post(client, form=form), 403, "csrf_failed")
    assert "X-CSRFToken" in error["message"]


@override_settings(CSRF_HEADER_NAME="HTTP_X_XSRF_TOKEN")
def test_the_header_is_named_as_the_project_has_it(client: Client) -> None:
    error = refusal(post(client), 403, "csrf_failed")
    assert "X-Xsrf-Token" in error["message"]
    client.cookies["csrftoken"] = TOKEN
    assert is_answer(post(client, x_xsrf_token=TOKEN))


@pytest.mark.parametrize("form", [False, True])
def test_a_post_with_the_token_is_answered(client: Client, form: bool) -> None:
    client.cookies["csrftoken"] = TOKEN
    assert is_answer(post(client, form=form, x_csrftoken=TOKEN))
    assert is_answer(post(client, form=form, x_csrftoken=TOKEN, origin="http://testserver"))


@pytest.mark.parametrize("multipart", [False, True])
def test_a_form_may_hold_its_token(client: Client, multipart: bool) -> None:
    client.cookies["csrftoken"] = TOKEN
    if multipart:
        response = client.post(URL, {"prompt": "hi", "csrfmiddlewaretoken": TOKEN})
    else:
        body = f"prompt=hi&csrfmiddlewaretoken={TOKEN}"
        response = client.post(URL, body, content_type="application/x-www-form-urlencoded")
    assert is_answer(response)
    assert asked()[0].messages == [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    "token",
    ["", "x", TOKEN[:-1], TOKEN[::-1], "a" * 64, "\u00e9" * 32],
    ids=["none", "short", "cut", "reversed", "long", "not ascii"],  # the token is a random one
)
def test_a_wrong_token_is_refused(client: Client, token: str) -> None:
    client.cookies["csrftoken"] = TOKEN
    refusal(post(client, x_csrftoken=token), 403, "csrf_failed")


def test_a_token_without_its_cookie_is_refused(client: Client) -> None:
    refusal(post(client, x_csrftoken=TOKEN), 403, "csrf_failed")
    client.cookies["csrftoken"] = "garbage"
    refusal(post(client, x_csrftoken=TOKEN), 403, "csrf_failed")


def test_a_token_in_a_json_body_is_none(client: Client) -> None:
    client.cookies["csrftoken"] = TOKEN
    data = {"prompt": "hi", "csrfmiddlewaretoken": TOKEN}
    refusal(client.post(URL, data, content_type=JSON), 403, "csrf_failed")


def test_json_of_a_page_of_this_site_needs_no_token(client: Client) -> None:
    assert is_answer(client.post(URL, {"prompt": "hi"}, content_type=JSON, headers=SAME))


@pytest.mark.parametrize(
    "headers",
    [
        {"sec-fetch-site": "same-origin"},
        {"origin": "http://testserver"},
        {**SAME, "origin": "null"},
        {**SAME, "origin": ""},
        {**SAME, "origin": "testserver"},
        {**SAME, "origin": "http://evil.example"},
        {**SAME, "origin": "http://testserver.evil.example"},
        {**SAME, "origin": "http://eviltestserver"},
        {**SAME, "origin": "http://evil.testserver"},
        {**SAME, "origin": "http://testserver:8000"},
        {**SAME, "origin": "http://testserver@evil.example"},
        {**SAME, "origin": "http://evil@testserver"},
        {**SAME, "origin": "http://["},
        {**SAME, "origin": "http://testserver, http://evil.example"},
        {**SAME, "sec-fetch-site": "cross-site"},
        {**SAME, "sec-fetch-site": "same-site"},
        {**SAME, "sec-fetch-site": "none"},
        {**SAME, "sec-fetch-site": ""},
        {**SAME, "sec-fetch-site": "same-origin, cross-site"},
        {"sec-fetch-site": "same-origin", "referer": "http://testserver/"},
    ],
)
def test_json_with_less_than_a_browsers_word_is_refused(
    client: Client, headers: dict[str, str]
) -> None:
    response = client.post(URL, {"prompt": "hi"}, content_type=JSON, headers=headers)
    refusal(response, 403, "csrf_failed")


@pytest.mark.parametrize(
    "content_type",
    [
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=b",
        "text/plain",
        "text/plain; application/json",
        "application/x-www-form-urlencoded; a=application/json",
        "application/json, text/plain",
        "",
    ],
)
def test_what_a_form_can_send_needs_a_token_even_from_this_site(
    client: Client, content_type: str
) -> None:
    body = b'{"prompt": "hi"}'
    response = client.generic("POST", URL, body, content_type=content_type, headers=SAME)
    refusal(response, 403, "csrf_failed")


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("form", [False, True])
def test_a_cross_site_post_is_refused(client: Client, site: str, form: bool) -> None:
    client.cookies["csrftoken"] = TOKEN
    evil = {"sec_fetch_site": site, "origin": "http://evil.example"}
    refusal(post(client, form=form, **evil), 403, "csrf_failed")
    refusal(post(client, form=form, x_csrftoken=TOKEN, **evil), 403, "csrf_failed")


@override_settings(CSRF_TRUSTED_ORIGINS=["https://app.example", "https://*.trusted.example"])
@pytest.mark.parametrize("origin", ["https://app.example", "https://a.trusted.example"])
def test_a_trusted_origin_passes_with_a_token_and_only_with_it(client: Client, origin: str) -> None:
    headers = {"sec_fetch_site": "cross-site", "origin": origin}
    refusal(post(client, **headers), 403, "csrf_failed")
    client.cookies["csrftoken"] = TOKEN
    refusal(post(client, **headers), 403, "csrf_failed")
    assert is_answer(post(client, x_csrftoken=TOKEN, **headers))
    asked().clear()
    headers["origin"] = "http://app.example"  # the scheme is part of an origin
    refusal(post(client, x_csrftoken=TOKEN, **headers), 403, "csrf_failed")


def test_the_check_does_not_hang_on_the_middleware(client: Client) -> None:
    from django.conf import settings

    csrf = "django.middleware.csrf.CsrfViewMiddleware"
    with override_settings(MIDDLEWARE=[m for m in settings.MIDDLEWARE if m != csrf]):
        refusal(post(client), 403, "csrf_failed")
        client.cookies["csrftoken"] = TOKEN
        assert is_answer(post(client, x_csrftoken=TOKEN))


# POST, authenticated otherwise --------------------------------------------------------------------


class HeaderAuthentication(BaseAuthentication):
    """``Authorization: <keyword> ada``, or ``X-Api-Key: ada``, or the cookie ``jwt``."""

    def authenticate(self, request: Request) -> tuple[Any, None] | None:
        authorization = request.headers.get("Authorization", "").split(" ")
        name = (
            (authorization[-1] if authorization[0] in self.keywords else "")
            or request.headers.get("X-Api-Key")
            or request.COOKIES.get("jwt")
        )
        user = User.objects.filter(username=name).first()
        return (user, None) if user else None

    keywords = ("Token", "Bearer", "Negotiate", "NTLM", "Digest")


class OwnSessionAuthentication(SessionAuthentication):
    """A project's subclass: as the many that only want a challenge."""

    def authenticate_header(self, request: Request) -> str:
        return "Session"


class ByHeaderView(ChatStreamView):
    authentication_classes = (HeaderAuthentication, BasicAuthentication, SessionAuthentication)


class ByOwnSessionView(ChatStreamView):
    authentication_classes = (OwnSessionAuthentication,)


urlpatterns = [
    path("header/", ByHeaderView.as_view()),
    path("session/", ByOwnSessionView.as_view()),
]

BASIC = "Basic YWRhOmxvdmVsYWNl"
AUTHORIZED = ["Token ada", "Bearer ada"]
BY_BROWSERS = [BASIC, "Negotiate ada", "NTLM ada", "Digest ada"]


@pytest.fixture
def script(ada: User) -> Iterator[Client]:
    """A client of the views above, for signed-in users only; ada is one."""
    with configured(ALLOW_ANONYMOUS=False), override_settings(ROOT_URLCONF=__name__):
        yield Client(enforce_csrf_checks=True)


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("authorization", AUTHORIZED)
@pytest.mark.parametrize("site", [{}, {"sec_fetch_site": "cross-site", "origin": "http://a.b"}])
def test_an_authorization_that_browsers_do_not_add_needs_no_token(
    script: Client, authorization: str, form: bool, site: dict[str, str]
) -> None:
    assert is_answer(post(script, "/header/", form=form, authorization=authorization, **site))


@pytest.mark.parametrize("authorization", BY_BROWSERS)
def test_a_script_with_credentials_that_browsers_add_needs_no_token(
    script: Client, authorization: str
) -> None:
    assert is_answer(post(script, "/header/", authorization=authorization))
    assert is_answer(get(script, "/header/", authorization=authorization))


def test_a_script_with_a_header_of_its_own_needs_no_token(script: Client) -> None:
    assert is_answer(post(script, "/header/", x_api_key="ada"))


@pytest.mark.parametrize("form", [False, True])
@pytest.mark.parametrize("authorization", BY_BROWSERS)
@pytest.mark.parametrize(
    "site",
    [
        {"sec_fetch_site": "cross-site", "origin": "http://evil.example"},
        {"sec_fetch_site": "cross-site"},
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"referer": "http://evil.example/"},
    ],
)
def test_credentials_that_a_browser_sends_for_another_site_are_not_enough(
    script: Client, authorization: str, form: bool, site: dict[str, str]
) -> None:
    response = post(script, "/header/", form=form, authorization=authorization, **site)
    refusal(response, 403, "csrf_failed")
    refusal(get(script, "/header/", authorization=authorization, **site), 403, "forbidden")


def test_basic_credentials_of_a_page_of_this_site_are_enough(script: Client) -> None:
    headers = {"sec_fetch_site": "same-origin", "origin": "http://testserver"}
    assert is_answer(post(script, "/header/", authorization=BASIC, **headers))
    assert is_answer(get(script, "/header/", authorization=BASIC, sec_fetch_site="same-origin"))


def test_a_cookie_that_a_project_authenticates_by_is_no_header(script: Client) -> None:
    script.cookies["jwt"] = "ada"
    refusal(post(script, "/header/"), 403, "csrf_failed")
    refusal(post(script, "/header/", origin="http://evil.example"), 403, "csrf_failed")
    refusal(get(script, "/header/", sec_fetch_site="cross-site"), 403, "forbidden")
    script.cookies["csrftoken"] = TOKEN
    assert is_answer(post(script, "/header/", x_csrftoken=TOKEN))


def test_a_session_is_not_excused_by_a_header_that_authenticates_nobody(
    script: Client, ada: User
) -> None:
    script.force_login(ada)
    for authorization in ("Bearer nobody", "Token", "Anything x"):
        response = post(script, "/header/", authorization=authorization)
        refusal(response, 403, "csrf_failed")


def test_a_projects_own_session_authentication_has_the_same_ways_in(
    script: Client, ada: User
) -> None:
    script.force_login(ada)
    refusal(post(script, "/session/"), 403, "csrf_failed")
    headers = {"sec_fetch_site": "same-origin", "origin": "http://testserver"}
    assert is_answer(post(script, "/session/", **headers))


def test_wrong_credentials_are_401_without_a_challenge(script: Client) -> None:
    for authorization in ("Basic YWRhOng=", "Basic !", "Basic a b"):
        response = post(script, "/header/", authorization=authorization)
        refusal(response, 401, "not_authenticated")


# GET ----------------------------------------------------------------------------------------------

OURS, THEIRS = "http://testserver", "http://evil.example"


def is_let_in(client: Client, **headers: str) -> bool:
    """Whether GET starts an answer, after checking that HEAD says the same."""
    asked().clear()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    head = client.head(URL, {"prompt": "hi"}, headers=named)
    assert asked() == []
    response = client.get(URL, {"prompt": "hi"}, headers=named)
    assert (head.status_code, head.get("Chatstream-Error")) == (
        response.status_code,
        response.get("Chatstream-Error"),
    )
    if response.status_code == 200:
        assert is_answer(response)
        return True
    refusal(response, 403, "forbidden")
    return False


REFERERS = [None, f"{OURS}/page?x", f"{THEIRS}/{OURS}"]


@pytest.mark.parametrize("has_session", [False, True])
@pytest.mark.parametrize("site", [None, "same-origin", "none", "same-site", "cross-site", "", "x"])
def test_the_origin_rule_of_get(ada: User, site: str | None, has_session: bool) -> None:
    client = Client()
    if has_session:
        client.force_login(ada)
    for origin, referer in product([None, OURS, THEIRS, "null"], REFERERS):
        given = {"sec_fetch_site": site, "origin": origin, "referer": referer}
        headers = {name: value for name, value in given.items() if value is not None}
        if site is not None:
            expected = site in ("same-origin", "none")
        elif origin is not None:
            expected = origin == OURS
        elif referer is not None:
            expected = referer.startswith(OURS)
        else:
            expected = not has_session
        assert is_let_in(client, **headers) is expected, headers


@pytest.mark.parametrize("header", ["sec_purpose", "purpose"])
@pytest.mark.parametrize("value", ["prefetch", "prefetch;prerender"])
def test_a_prefetch_is_refused_wherever_it_comes_from(header: str, value: str) -> None:
    for site in ("same-origin", "none"):
        assert not is_let_in(Client(), **{header: value, "sec_fetch_site": site})
    assert not is_let_in(Client(), **{header: value})


ADDRESSES = [
    # host, origin, is it ours?
    ("testserver", "http://testserver", True),
    ("testserver", "https://testserver", True),  # TLS ends at a proxy
    ("testserver", "HTTP://TestServer", True),
    ("testserver", "http://testserver:80", True),
    ("testserver:80", "http://testserver", True),
    ("testserver:443", "https://testserver", True),
    ("testserver:8000", "http://testserver:8000", True),
    ("testserver:8000", "http://testserver", False),
    ("testserver:8000", "http://testserver:8001", False),
    ("testserver:8000", "http://testserver:80", False),
    ("testserver", "http://testserver:8000", False),
    ("testserver", "http://testserver.evil.example", False),
    ("testserver", "http://evil.testserver", False),
    ("testserver", "http://eviltestserver", False),
    ("testserver", "http://testserver.", False),
    ("testserver", "http://testserver@evil.example", False),
    ("testserver", "http://testserver:80@evil.example", False),
    ("testserver", "http://evil@testserver", False),
    ("testserver", "http://testserver\\@evil.example", False),
    ("testserver", "http://evil.example/testserver", False),
    ("testserver", "http://evil.example?http://testserver", False),
    ("testserver", "http://evil.example#http://testserver", False),
    ("testserver", "http:testserver", False),
    ("testserver", "http:/testserver", False),
    ("testserver", "http://", False),
    ("testserver", "http://[", False),
    ("testserver", "http://[testserver", False),
    ("testserver", "http://[testserver]", False),
    ("testserver", "testserver", False),
    ("testserver", "data:text/html,x", False),
    ("testserver", "file://", False),
    ("127.0.0.1:8000", "http://127.0.0.1:8000", True),
    ("127.0.0.1:8000", "http://localhost:8000", False),
    ("[::1]:8000", "http://[::1]:8000", True),
    ("[::1]", "http://[::1]", True),
    ("[::1]", "http://[::1]:80", True),
    ("[::1]", "http://[::1", False),
    ("[::1]", "http://::1", False),
    ("[::1]:8000", "http://[::1]:8001", False),
    ("[::1]:8000", "http://[::1]", False),
    ("[::80]", "http://[::80]", True),
    ("[::80]", "http://[::]", False),
    ("[::80]:8000", "http://[::80]:8000", True),
]


@pytest.mark.parametrize(("host", "url", "is_ours"), ADDRESSES)
def test_only_the_same_host_and_port_are_ours(host: str, url: str, is_ours: bool) -> None:
    assert is_let_in(Client(), host=host, origin=url) is is_ours
    assert is_let_in(Client(), host=host, referer=url) is is_ours
    response = Client(enforce_csrf_checks=True).post(
        URL,
        json.dumps({"prompt": "hi"}),
        content_type=JSON,
        headers={"host": host, "origin": url, "sec-fetch-site": "same-origin"},
    )
    assert response.status_code == (200 if is_ours else 403)


@override_settings(CSRF_TRUSTED_ORIGINS=["https://app.example"])
def test_a_trusted_origin_may_not_start_an_answer_by_get() -> None:
    assert not is_let_in(Client(), origin="https://app.example")
    assert not is_let_in(Client(), origin="https://app.example", sec_fetch_site="cross-site")


@override_settings(SESSION_COOKIE_NAME="sid")
def test_the_session_cookie_is_the_one_that_the_project_names() -> None:
    client = Client()
    client.cookies["sessionid"] = "x"
    assert is_let_in(client)
    client.cookies["sid"] = "x"
    assert not is_let_in(client)


def test_a_reconnect_from_another_site_is_refused_like_any_other() -> None:
    headers = {"last-event-id": "a:1", "sec-fetch-site": "cross-site"}
    refusal(Client().get(URL, {"prompt": "hi"}, headers=headers), 403, "forbidden")


def test_a_bearer_may_get_from_anywhere(script: Client) -> None:
    headers = {"sec_fetch_site": "cross-site", "origin": THEIRS}
    assert is_answer(get(script, "/header/", authorization="Bearer ada", **headers))
