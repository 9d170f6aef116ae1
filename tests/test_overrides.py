"""What a project changes by a subclass of ``ChatStreamView``, hook by hook."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404
from django.test import Client, RequestFactory
from rest_framework import exceptions, serializers
from rest_framework.permissions import AllowAny, BasePermission, IsAdminUser

from chatstream.models import Run
from chatstream.providers import get_provider
from chatstream.providers.base import Provider
from chatstream.refusals import Refused
from chatstream.serializers import AskSerializer
from chatstream.views import ChatStreamView
from chatstream.wire.base import WireFormat
from chatstream.wire.text import TextFormat
from tests.asking import SCRIPT, asked, body_of, configured, is_answer, refusal

RULES = {"role": "system", "content": "Be kind."}
USER = {"role": "user", "content": "hi"}


pytestmark = pytest.mark.usefixtures("runs")


@pytest.fixture(autouse=True)
def anonymous_site() -> Iterator[None]:
    with configured(providers={"second": {}}):
        yield


def ask(
    view: type[ChatStreamView], data: Any = None, user: Any = None, method: str = "POST"
) -> Any:
    """Return a view's response to a request of a client that DRF's own test tools would send."""
    data = {"prompt": "hi"} if data is None else data
    factory = RequestFactory()
    if method == "POST":
        request = factory.post("/", json.dumps(data), content_type="application/json")
    else:
        request = factory.generic(method, "/", QUERY_STRING="prompt=hi")
    request._dont_enforce_csrf_checks = True  # type: ignore[attr-defined]
    if user is not None:
        request.user = user
    response = view.as_view()(request)
    return response if response.streaming else response.render()


# get_messages -------------------------------------------------------------------------------------


class WithRules(ChatStreamView):
    def get_messages(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [RULES, *super().get_messages(data)]


@pytest.mark.parametrize("data", [{"prompt": "hi"}, {"messages": [USER]}])
def test_get_messages_may_add_a_system_prompt(data: dict[str, Any]) -> None:
    assert is_answer(ask(WithRules, data))
    assert asked()[0].messages == [RULES, USER]


def test_a_client_cannot_add_one_of_its_own() -> None:
    refusal(ask(WithRules, {"messages": [RULES, USER]}), 400, "invalid", "messages.0.role")


def test_a_message_that_is_added_counts_for_the_history_and_not_for_the_prompt() -> None:
    size = len(RULES["content"])
    with configured(MAX_PROMPT_CHARS=2, MAX_HISTORY_CHARS=size + 2):
        assert is_answer(ask(WithRules))
    with configured(MAX_PROMPT_CHARS=2, MAX_HISTORY_CHARS=size + 1):
        refusal(ask(WithRules), 413, "too_large", "prompt")


def test_contents_that_are_no_text_reach_the_model_and_are_not_measured() -> None:
    parts = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]

    class WithImage(ChatStreamView):
        def get_messages(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
            history = {"role": "assistant", "content": "x" * 50}
            return [history, {"role": "user", "content": parts}]

    with configured(MAX_PROMPT_CHARS=10):
        assert is_answer(ask(WithImage))
        assert asked()[0].messages[-1]["content"] == parts


# get_provider, get_completion_params, the model ---------------------------------------------------


def test_get_provider_may_choose_by_who_asks() -> None:
    class ByUser(ChatStreamView):
        permission_classes = (AllowAny,)

        def get_provider(self, data: Mapping[str, Any]) -> Provider[Any]:
            return get_provider("second" if self.request.user.is_authenticated else "default")

    assert is_answer(ask(ByUser))
    assert (len(asked()), len(asked("second"))) == (1, 0)
    assert is_answer(ask(ByUser, user=User(username="ada")))
    assert (len(asked()), len(asked("second"))) == (1, 1)


def test_the_model_is_judged_by_the_provider_that_was_chosen() -> None:
    class Second(ChatStreamView):
        def get_provider(self, data: Mapping[str, Any]) -> Provider[Any]:
            return get_provider("second")

    with configured(providers={"default": {"models": ["a"]}, "second": {"models": ["b"]}}):
        refusal(ask(Second, {"prompt": "hi", "model": "a"}), 400, "invalid", "model")
        assert is_answer(ask(Second, {"prompt": "hi", "model": "b"}))
        assert asked("second")[0].model == "b"


def test_get_completion_params_reach_the_request() -> None:
    class Cool(ChatStreamView):
        def get_completion_params(self, data: Mapping[str, Any]) -> dict[str, Any]:
            return {"temperature": 0.1, "user": str(self.request.user)}

    for method in ("GET", "POST"):
        assert is_answer(ask(Cool, method=method))
    assert [request.params for request in asked()] == [
        {"temperature": 0.1, "user": "AnonymousUser"}
    ] * 2


def test_a_client_cannot_set_params_by_itself() -> None:
    assert is_answer(ask(ChatStreamView, {"prompt": "hi", "temperature": 2, "params": {"n": 9}}))
    assert asked()[0].params == {}


class AskWithTone(AskSerializer):
    tone = serializers.ChoiceField(choices=["warm", "cool"], required=False)


class Toned(ChatStreamView):
    serializer_class = AskWithTone

    def get_completion_params(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return {"temperature": 1.0 if data.get("tone") == "warm" else 0.0}


def test_a_serializer_may_take_more_fields_and_the_hooks_see_them() -> None:
    assert is_answer(ask(Toned, {"prompt": "hi", "tone": "warm"}))
    assert asked()[0].params == {"temperature": 1.0}
    asked().clear()
    refusal(ask(Toned, {"prompt": "hi", "tone": "loud"}), 400, "invalid", "tone")


def test_a_field_may_be_of_any_type() -> None:
    class Dated(ChatStreamView):
        class serializer_class(AskSerializer):
            day = serializers.DateField()

        def get_messages(self, data: Mapping[str, Any]) -> list[dict[str, Any]]:
            return [{"role": "user", "content": f"{data['prompt']} {data['day']:%d.%m.}"}]

    assert is_answer(ask(Dated, {"prompt": "hi", "day": "2026-02-01"}))
    assert asked()[0].messages[0]["content"] == "hi 01.02."


# Who may ------------------------------------------------------------------------------------------


class IsCustomer(BasePermission):
    message = "Only customers may chat."

    def has_permission(self, request: Any, view: Any) -> bool:
        return bool(request.user.username == "ada")


class ForCustomers(ChatStreamView):
    permission_classes = (IsCustomer,)


@pytest.mark.parametrize("method", ["GET", "POST", "HEAD"])
def test_a_projects_permission_decides_and_its_message_is_told(method: str) -> None:
    if method == "HEAD":
        response = ask(ForCustomers, user=User(username="bob"), method=method)
        assert (response.status_code, response["Chatstream-Error"]) == (403, "forbidden")
    else:
        error = refusal(
            ask(ForCustomers, user=User(username="bob"), method=method), 403, "forbidden"
        )
        assert error["message"] == "Only customers may chat."
        assert is_answer(ask(ForCustomers, user=User(username="ada"), method=method))


def test_a_permission_without_a_message_has_ours() -> None:
    class ForStaff(ChatStreamView):
        permission_classes = (IsAdminUser,)

    assert (
        refusal(ask(ForStaff, user=User()), 403, "forbidden")["message"] == "You may not do this."
    )
    refusal(ask(ForStaff), 401, "not_authenticated")
    assert is_answer(ask(ForStaff, user=User(is_staff=True)))


def test_a_permission_of_its_own_replaces_allow_anonymous() -> None:
    class ForAll(ChatStreamView):
        permission_classes = (AllowAny,)

    with configured(ALLOW_ANONYMOUS=False):
        assert is_answer(ask(ForAll))


def test_users_without_a_primary_key_do_not_own_runs_together() -> None:
    for _ in range(2):
        assert is_answer(ask(ChatStreamView, user=User(username="service")))
    first, second = Run.objects.values_list("owner", flat=True)
    assert first != second


# Hooks that refuse, and hooks that fail -----------------------------------------------------------


class PaymentRequired(exceptions.APIException):
    status_code = 402
    default_detail = "Please pay."
    default_code = "payment_required"


class UpgradeNeeded(exceptions.PermissionDenied):
    default_detail = "Please upgrade."


HOOKS = ["get_messages", "get_provider", "get_completion_params"]
RAISED: list[tuple[Callable[[], Exception], int, str, str | None]] = [
    (lambda: Refused("busy", "Not now.", retry_after=3), 429, "busy", None),
    (lambda: Refused("conflict", "Twice.", field="prompt"), 409, "conflict", "prompt"),
    (lambda: Refused("storage", "Down."), 503, "storage", None),
    (lambda: Http404("secret"), 404, "not_found", None),
    (lambda: PermissionDenied("secret"), 403, "forbidden", None),
    (lambda: SuspiciousOperation("secret"), 400, "invalid", None),
    (lambda: exceptions.NotFound(), 404, "not_found", None),
    (lambda: exceptions.NotFound("No such topic."), 404, "not_found", None),
    (lambda: exceptions.ValidationError({"topic": ["No."]}), 400, "invalid", "topic"),
    (lambda: exceptions.ValidationError("No."), 400, "invalid", None),
    (lambda: exceptions.ValidationError({}), 400, "invalid", None),
    (lambda: exceptions.ValidationError([]), 400, "invalid", None),
    (lambda: PaymentRequired(), 402, "payment_required", None),
    (lambda: PaymentRequired({"a": ["b"]}), 402, "payment_required", None),
    (lambda: PaymentRequired("Pay.", code="overdue"), 402, "overdue", None),
    (lambda: UpgradeNeeded(), 403, "forbidden", None),
]


def failing(hook: str, make: Callable[[], Exception]) -> type[ChatStreamView]:
    """Return a view whose hook raises."""

    def fail(self: ChatStreamView, data: Mapping[str, Any]) -> Any:
        raise make()

    return type("Failing", (ChatStreamView,), {hook: fail})


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize(("make", "status", "code", "field"), RAISED)
def test_a_hook_may_refuse_with_any_exception_of_django_or_drf(
    hook: str, make: Callable[[], Exception], status: int, code: str, field: str | None
) -> None:
    error = refusal(ask(failing(hook, make)), status, code, field)
    assert "secret" not in error["message"]


def test_a_projects_words_are_told() -> None:
    view = failing("get_messages", lambda: exceptions.NotFound("No such topic."))
    assert refusal(ask(view), 404, "not_found")["message"] == "No such topic."
    view = failing("get_messages", PaymentRequired)
    assert refusal(ask(view), 402, "payment_required")["message"] == "Please pay."
    view = failing("get_messages", UpgradeNeeded)
    assert refusal(ask(view), 403, "forbidden")["message"] == "Please upgrade."


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("error", [KeyError, TypeError, AttributeError, ValueError])
def test_a_bug_in_a_hook_is_reported_as_itself(hook: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="a bug"):
        ask(failing(hook, lambda: error("a bug")))
    assert asked() == []


# The response -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_follow_may_be_wrapped(method: str) -> None:
    class Counted(ChatStreamView):
        def follow(self, run: Run, after: int, **options: Any) -> Any:
            response = super().follow(run, after, **options)
            response["X-Quota-Left"] = "3"
            return response

    response = ask(Counted, method=method)
    assert response["X-Quota-Left"] == "3"
    assert is_answer(response)


def test_get_wire_may_choose_by_who_asks() -> None:
    class Bare(ChatStreamView):
        permission_classes = (AllowAny,)

        def get_wire(self, run: Run) -> WireFormat:
            return super().get_wire(run) if self.request.user.is_authenticated else TextFormat()

    assert body_of(ask(Bare)).decode() == SCRIPT[0]
    assert is_answer(ask(Bare, user=User(username="ada")))


def test_as_view_takes_the_attributes_too() -> None:
    request = RequestFactory().get("/", {"prompt": "hi"})
    response = ChatStreamView.as_view(permission_classes=[IsAdminUser])(request).render()
    refusal(response, 401, "not_authenticated")


def test_head_runs_the_hooks_and_starts_nothing() -> None:
    view = failing("get_messages", lambda: Refused("busy", "Not now."))
    response = ask(view, method="HEAD")
    assert (response.status_code, response["Chatstream-Error"]) == (429, "busy")
    assert ask(WithRules, method="HEAD").status_code == 200
    assert asked() == []
    assert body_of(Client().head("/chat/stream/", {"prompt": "hi"})) == b""
