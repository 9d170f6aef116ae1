"""How often somebody may start an answer: 429 with ``Retry-After``, and HEAD says so uncounted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client, override_settings
from django.urls import path
from rest_framework.throttling import AnonRateThrottle, BaseThrottle, ScopedRateThrottle

from chatstream.throttling import RunThrottle
from chatstream.views import ChatStreamView
from tests.asking import URL, asked, body_of, configured, is_answer, refusal

RATE = 2


@pytest.fixture(autouse=True)
def two_a_day(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # DRF reads the rates when it is imported: what a project would set, set where DRF keeps it.
    monkeypatch.setattr(RunThrottle, "THROTTLE_RATES", {"chatstream": f"{RATE}/day"})
    cache.clear()
    with configured():
        yield
    cache.clear()


def get(client: Client, url: str = URL, **extra: Any) -> Any:
    return client.get(url, {"prompt": "hi"}, **extra)


def use_up(client: Client, url: str = URL, **extra: Any) -> None:
    for _ in range(RATE):
        assert is_answer(get(client, url, **extra))
    asked().clear()


def check_throttled(response: Any) -> None:
    error = refusal(response, 429, "throttled")
    seconds = int(response["Retry-After"])
    assert 0 < seconds <= 86400
    assert error["retry_after"] == seconds
    assert error["retryable"] is True


def test_the_answer_after_the_last_is_refused_with_the_time_to_wait() -> None:
    client = Client()
    use_up(client)
    check_throttled(get(client))
    check_throttled(get(client, headers={"accept": "text/event-stream"}))
    check_throttled(client.post(URL, {"prompt": "hi"}, content_type="application/json"))


def test_get_and_post_count_together() -> None:
    client = Client()
    assert is_answer(get(client))
    assert is_answer(client.post(URL, {"prompt": "hi"}))
    asked().clear()
    check_throttled(get(client))


@pytest.mark.parametrize("method", ["HEAD", "OPTIONS", "PUT"])
def test_what_starts_nothing_does_not_count(method: str) -> None:
    client = Client()
    for _ in range(RATE * 2):
        assert client.generic(method, f"{URL}?prompt=hi").status_code in (200, 405)
    use_up(client)


def test_head_says_that_get_was_throttled_for_as_long_as_it_is() -> None:
    client = Client()
    use_up(client)
    check_throttled(get(client))
    for _ in range(3):
        response = client.head(URL, {"prompt": "hi"})
        assert response.status_code == 429
        assert response["Chatstream-Error"] == "throttled"
        assert int(response["Retry-After"]) > 0
        assert body_of(response) == b""


def test_a_reconnect_neither_counts_nor_is_refused() -> None:
    client = Client()
    reconnect = {"headers": {"last-event-id": "a:1"}}
    for _ in range(RATE * 2):
        assert get(client, **reconnect).status_code == 204
    use_up(client)
    assert get(client, **reconnect).status_code == 204
    assert asked() == []


def test_a_post_cannot_pass_as_a_reconnect() -> None:
    client = Client()
    use_up(client)
    headers = {"last-event-id": "a:1"}
    check_throttled(client.post(URL, {"prompt": "hi"}, headers=headers))


def test_addresses_are_counted_apart() -> None:
    use_up(Client(REMOTE_ADDR="192.0.2.1"))
    use_up(Client(REMOTE_ADDR="192.0.2.2"))
    check_throttled(get(Client(REMOTE_ADDR="192.0.2.1")))


@pytest.mark.django_db
def test_users_are_counted_apart_wherever_they_are() -> None:
    own = {"headers": {"sec-fetch-site": "same-origin"}}
    here, there, other = Client(), Client(REMOTE_ADDR="192.0.2.1"), Client()
    ada = User.objects.create_user("ada")
    here.force_login(ada)
    there.force_login(ada)
    other.force_login(User.objects.create_user("bob"))
    use_up(here, **own)
    check_throttled(get(there, **own))
    use_up(other, **own)
    use_up(Client())


def test_who_may_not_ask_at_all_does_not_use_up_an_addresss_share() -> None:
    with configured(ALLOW_ANONYMOUS=False):
        for _ in range(RATE * 2):
            refusal(get(Client()), 401, "not_authenticated")
    for _ in range(RATE * 2):
        evil = {"headers": {"sec-fetch-site": "cross-site"}}
        refusal(get(Client(), **evil), 403, "forbidden")
    use_up(Client())


def test_without_a_rate_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for rates in ({}, {"chatstream": None}, {"user": "1/day", "anon": "1/day"}):
        monkeypatch.setattr(RunThrottle, "THROTTLE_RATES", rates)
        for _ in range(RATE * 2):
            assert is_answer(get(Client()))


# Throttles of a project ---------------------------------------------------------------------------


class Anonymous(AnonRateThrottle):
    rate = f"{RATE}/day"


class Scoped(ScopedRateThrottle):
    THROTTLE_RATES = {"chat": f"{RATE}/day"}  # noqa: RUF012  DRF's own way


class Never(BaseThrottle):
    """Refuses all, and cannot say until when."""

    def allow_request(self, request: Any, view: Any) -> bool:
        return False


class Later(Never):
    def wait(self) -> float:
        return 0.2


class AnonymousView(ChatStreamView):
    throttle_classes = (Anonymous,)


class ScopedView(ChatStreamView):
    throttle_classes = (Scoped,)
    throttle_scope = "chat"


class NeverView(ChatStreamView):
    throttle_classes = (Never,)


class LaterView(ChatStreamView):
    throttle_classes = (Later,)


urlpatterns = [
    path("anonymous/", AnonymousView.as_view()),
    path("scoped/", ScopedView.as_view()),
    path("never/", NeverView.as_view()),
    path("later/", LaterView.as_view()),
]


@override_settings(ROOT_URLCONF=__name__)
@pytest.mark.parametrize("url", ["/anonymous/", "/scoped/"])
def test_a_throttle_of_drf_serves_as_well(url: str) -> None:
    client = Client()
    for _ in range(RATE * 2):
        assert client.head(url, {"prompt": "hi"}).status_code == 200
    use_up(client, url)
    check_throttled(get(client, url))
    assert client.head(url, {"prompt": "hi"})["Chatstream-Error"] == "throttled"


@override_settings(ROOT_URLCONF=__name__)
def test_a_throttle_that_knows_no_time_to_wait_names_none() -> None:
    response = get(Client(), "/never/")
    error = refusal(response, 429, "throttled")
    assert "Retry-After" not in response
    assert "retry_after" not in error


@override_settings(ROOT_URLCONF=__name__)
def test_retry_after_is_never_zero() -> None:
    assert get(Client(), "/later/")["Retry-After"] == "1"
