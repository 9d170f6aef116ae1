"""How often somebody may start an answer: 429 with ``Retry-After``, and HEAD says so uncounted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client, override_settings
from django.urls import path
from rest_framework.throttling import AnonRateThrottle, BaseThrottle, ScopedRateThrottle

from chatstream.models import Run
from chatstream.testing import parse_events
from chatstream.throttling import RunThrottle
from chatstream.views import ChatStreamView
from tests.asking import URL, asked, body_of, configured, is_answer, refusal
from tests.conftest import end_runs

RATE = 2
OWN = {"sec-fetch-site": "same-origin"}

pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(autouse=True)
def two_a_day(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # DRF reads the rates when it is imported: what a project would set, set where DRF keeps it.
    monkeypatch.setattr(RunThrottle, "THROTTLE_RATES", {"chatstream": f"{RATE}/day"})
    cache.clear()
    with configured():
        yield
    cache.clear()


def get(client: Client, url: str = URL, *, query: Any = None, **headers: str) -> Any:
    """Ask as a page of this site does; headers are given by their names in snake case."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return client.get(url, {"prompt": "hi", **(query or {})}, headers={**OWN, **named})


def head(client: Client, url: str = URL) -> Any:
    return client.head(url, {"prompt": "hi"}, headers=OWN)


def use_up(client: Client, url: str = URL) -> None:
    for _ in range(RATE):
        assert is_answer(get(client, url))
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
    check_throttled(get(client, accept="text/event-stream"))
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
        response = head(client)
        assert response.status_code == 429
        assert response["Chatstream-Error"] == "throttled"
        assert int(response["Retry-After"]) > 0
        assert body_of(response) == b""


def test_a_reconnect_neither_counts_nor_is_refused() -> None:
    client = Client()
    events = parse_events(body_of(get(client)))
    for _ in range(RATE * 2):
        assert get(client, last_event_id=events[-1].id).status_code == 204
        assert is_answer(get(client, last_event_id=events[0].id))
    assert is_answer(get(client))
    asked().clear()
    check_throttled(get(client))
    assert get(client, last_event_id=events[-1].id).status_code == 204
    assert is_answer(get(client, last_event_id=events[0].id))
    assert asked() == []


def test_a_reconnect_that_is_refused_does_not_count() -> None:
    client = Client()
    for _ in range(RATE * 2):
        refusal(get(client, last_event_id=f"{'0' * 26}:1"), 404, "not_found")
        refusal(get(client, last_event_id="a:1"), 400, "invalid")
    use_up(client)


def test_a_key_that_came_before_neither_counts_nor_is_refused() -> None:
    client = Client()
    for _ in range(RATE * 2):
        assert is_answer(get(client, query={"key": "a"}))
    assert is_answer(get(client, query={"key": "b"}))
    assert len(asked()) == 2
    asked().clear()
    check_throttled(get(client, query={"key": "c"}))
    assert is_answer(get(client, query={"key": "a"}))
    assert asked() == []


def test_what_is_refused_as_invalid_does_not_count() -> None:
    client = Client()
    for _ in range(RATE * 2):
        refusal(get(client, query={"prompt": ""}), 400, "invalid", "prompt")
        refusal(get(client, query={"prompt": "x" * 3000}), 413, "too_large", "prompt")
        refusal(get(client, query={"provider": "none"}), 400, "invalid", "provider")
        refusal(get(client, query={"model": "none"}), 400, "invalid", "model")
    use_up(client)


def test_a_post_that_passes_as_a_reconnect_asks_nobody() -> None:
    client = Client()
    use_up(client)
    before = len(asked())
    headers = {"last-event-id": f"{'0' * 26}:1"}
    assert client.post(URL, {"prompt": "hi"}, headers=headers).status_code == 404
    assert len(asked()) == before


def test_addresses_are_counted_apart() -> None:
    use_up(Client(REMOTE_ADDR="192.0.2.1"))
    use_up(Client(REMOTE_ADDR="192.0.2.2"))
    check_throttled(get(Client(REMOTE_ADDR="192.0.2.1")))


def test_users_are_counted_apart_wherever_they_are() -> None:
    here, there, other = Client(), Client(REMOTE_ADDR="192.0.2.1"), Client()
    ada = User.objects.create_user("ada")
    here.force_login(ada)
    there.force_login(ada)
    other.force_login(User.objects.create_user("bob"))
    use_up(here)
    check_throttled(get(there))
    use_up(other)
    use_up(Client())


def test_who_may_not_ask_at_all_does_not_use_up_an_addresss_share() -> None:
    with configured(ALLOW_ANONYMOUS=False):
        for _ in range(RATE * 2):
            refusal(get(Client()), 401, "not_authenticated")
    for _ in range(RATE * 2):
        refusal(get(Client(), sec_fetch_site="cross-site"), 403, "forbidden")
    use_up(Client())


def test_without_a_rate_there_is_no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for rates in ({}, {"chatstream": None}, {"user": "1/day", "anon": "1/day"}):
        monkeypatch.setattr(RunThrottle, "THROTTLE_RATES", rates)
        for _ in range(RATE * 2):
            assert is_answer(get(Client()))


# How many at a time -------------------------------------------------------------------------------


@pytest.fixture
def slowly(runs: None) -> Iterator[None]:
    """An answer takes a minute; an owner may have two open runs."""
    script = ["a", 60, {"finish_reason": "stop"}]
    with configured(providers={"default": {"script": script}}, MAX_OPEN_RUNS=2):
        yield
        end_runs()


@pytest.fixture
def no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunThrottle, "THROTTLE_RATES", {})


@pytest.mark.usefixtures("no_rate", "slowly")
def test_an_owner_has_max_open_runs_and_not_one_more() -> None:
    client = Client()
    for _ in range(2):
        assert get(client).status_code == 200
    response = get(client)
    assert response.status_code == 429
    error = json.loads(body_of(response))["error"]
    assert (error["code"], error["retryable"]) == ("busy", True)
    assert error["retry_after"] == int(response["Retry-After"]) > 0
    assert get(Client()).status_code == 200


@pytest.mark.usefixtures("no_rate", "slowly")
def test_a_run_that_was_stopped_makes_room_for_another() -> None:
    client = Client()
    answers = [get(client) for _ in range(2)]
    assert get(client).status_code == 429
    run = Run.objects.earliest("pk").pk
    assert client.post(f"/chat/runs/{run}/stop/").status_code == 202
    body = body_of(answers[0])
    assert parse_events(body)[-1].data["error"]["code"] == "stopped"
    assert get(client).status_code == 200


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
        assert head(client, url).status_code == 200
    use_up(client, url)
    check_throttled(get(client, url))
    assert head(client, url)["Chatstream-Error"] == "throttled"


@override_settings(ROOT_URLCONF=__name__)
def test_a_throttle_that_knows_no_time_to_wait_names_none() -> None:
    response = get(Client(), "/never/")
    error = refusal(response, 429, "throttled")
    assert "Retry-After" not in response
    assert "retry_after" not in error


@override_settings(ROOT_URLCONF=__name__)
def test_retry_after_is_never_zero() -> None:
    assert get(Client(), "/later/")["Retry-After"] == "1"
