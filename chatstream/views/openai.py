"""``v1/``: OpenAI's chat completions, so that any of its clients can ask here.

Stateless: the client brings the whole history, and nothing is added to a conversation. Every answer
is a run like any other, with its owner, its limits and its row.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import NotAuthenticated
from rest_framework.request import Request
from rest_framework.response import Response

from ..authentication import BearerAuthentication
from ..conf import settings
from ..conversations import Turn
from ..core.requests import RunRequest
from ..models import Run
from ..permissions import quiet
from ..providers import get_provider
from ..providers.base import Provider
from ..providers.rounds import brought_names, brought_to, tools_for
from ..refusals import Refused, refusal_of
from ..runs import wait
from ..wire.base import status_of
from ..wire.openai import NO_RETRY, OpenAIFormat, completion_of, error_body
from .base import ChatView
from .following import FollowsRuns
from .starting import StartsRuns

__all__ = ["CompletionsView", "ModelsView"]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
# What a client may say of how to answer; anything else that it sends is ignored.
PARAMS = (
    "frequency_penalty",
    "function_call",
    "functions",
    "logit_bias",
    "max_completion_tokens",
    "max_tokens",
    "parallel_tool_calls",
    "presence_penalty",
    "reasoning_effort",
    "response_format",
    "seed",
    "stop",
    "temperature",
    "tool_choice",
    "tools",
    "top_p",
    "verbosity",
)


class OpenAIView(ChatView):
    """Base of the endpoints that speak as OpenAI's do, errors too."""

    bearer_class: type[BaseAuthentication] = BearerAuthentication

    def get_authenticators(self) -> list[BaseAuthentication]:
        return [quiet(self.bearer_class()), *super().get_authenticators()]

    def handle_exception(self, exc: Exception) -> Response:
        refused = refusal_of(exc)
        if refused is None:
            raise exc
        code = "model_not_found" if refused.field == "model" else refused.code
        if refused.status_code == 401:
            code = "invalid_api_key"
        data = {"code": code, "message": refused.message}
        body = error_body(data, refused.status_code, refused.field)
        response = Response(body, status=refused.status_code, headers={"Cache-Control": "no-store"})
        if refused.retry_after is not None:
            response["Retry-After"] = str(refused.retry_after)
        response.exception = True
        return response

    def permission_denied(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        if request.successful_authenticator is None:
            raise NotAuthenticated("Send a valid key: Authorization: Bearer <key>.")
        super().permission_denied(request, *args, **kwargs)


class CompletionsView(OpenAIView, StartsRuns, FollowsRuns):
    """``POST v1/chat/completions``: a stream of chunks, or one object.

    ``model`` is a provider's alias, ``alias/model``, or a model of the default provider.
    """

    http_method_names = ["post", "options"]  # noqa: RUF012

    def post(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        body = self.get_body(request)
        run, _ = self.start(body)
        if not body.get("stream"):
            return self._whole(run, body["model"])
        options = body.get("stream_options") or {}
        wire = OpenAIFormat(
            run.pk,
            created=int(run.created_at.timestamp()),
            model=body["model"],
            include_usage=bool(options.get("include_usage")),
            tools=self.client_tools(run),
        )
        return self.follow(run, 0, wire=wire)

    def validated(self, given: Mapping[str, Any]) -> dict[str, Any]:
        options = given.get("stream_options") or {}
        if not isinstance(options, dict):
            raise Refused("invalid", "Expected an object.", field="stream_options")
        if not _is_list_of_objects(given.get("tools") or []):
            raise Refused("invalid", "Expected a list of objects.", field="tools")
        if given.get("n") not in (None, 1):
            raise Refused("invalid", "One answer is given at a time.", field="n")
        data = {
            "messages": _messages(given.get("messages")),
            "params": {name: given[name] for name in PARAMS if given.get(name) is not None},
        }
        provider, model = _asked(given.get("model"))
        key = given.get("idempotency_key")
        named = {"provider": provider, "model": model, "idempotency_key": key}
        return data | {name: value for name, value in named.items() if value is not None}

    def get_completion_params(self, data: Mapping[str, Any]) -> dict[str, Any]:
        return dict(data["params"])

    def request_for(self, data: Mapping[str, Any]) -> tuple[Provider[Any], RunRequest, Turn | None]:
        provider, request, turn = super().request_for(data)
        ours = {tool.name for tool in tools_for(provider, request)}
        if taken := sorted(ours & brought_names(request.params.get("tools"))):
            message = f"The site has a tool of its own with the name '{taken[0]}'."
            raise Refused("invalid", message, field="tools")
        return provider, request, turn

    def client_tools(self, run: Run) -> frozenset[str] | None:
        """Return the names of the tools that the client is asked to run; None for any.

        Where the site runs tools of its own, the client sees no calls but those of its own.
        """
        provider, request = get_provider(run.provider), run.asked()
        if not tools_for(provider, request):
            return None
        return brought_names(brought_to(provider, request))

    def _whole(self, run: Run, model: str) -> Response:
        """Wait for the answer; its failure is an HTTP error, for nothing was sent yet."""
        frames = wait(run.pk)
        created = int(run.created_at.timestamp())
        tools = self.client_tools(run)
        body = completion_of(frames, run.pk, created=created, model=model, tools=tools)
        status = status_of(body["error"]["code"]) if "error" in body else 200
        # Asking again would be billed again.
        headers = {"Cache-Control": "no-store", **(NO_RETRY if status != 200 else {})}
        return Response(body, status=status, headers=headers)


class ModelsView(OpenAIView):
    """``GET v1/models``: what ``model`` may be."""

    http_method_names = ["get", "head", "options"]  # noqa: RUF012

    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        names = [name for alias in settings.PROVIDERS for name in _names_of(alias)]
        entry = {"object": "model", "created": 0, "owned_by": "chatstream"}
        return Response({"object": "list", "data": [{"id": name, **entry} for name in names]})


def _names_of(alias: str) -> list[str]:
    models = getattr(get_provider(alias).options, "models", ())
    return [alias, *(f"{alias}/{model}" for model in models if model != "*")]


def _asked(name: Any) -> tuple[str, str | None]:
    """Return the provider and the model that a name means; None for the provider's own."""
    if not isinstance(name, str) or not name:
        raise Refused("invalid", "Expected the name of a model.", field="model")
    alias, _, rest = name.partition("/")
    if name in settings.PROVIDERS:
        return name, None
    if rest and alias in settings.PROVIDERS and get_provider(alias).allows_model(rest):
        return alias, rest
    if get_provider("default").allows_model(name):
        return "default", name
    raise Refused("not_found", "There is no such model here.", field="model")


def _messages(given: Any) -> list[dict[str, Any]]:
    """Return the messages as they came, once they look like messages."""
    if not isinstance(given, list) or not given:
        raise Refused("invalid", "Expected a list of messages.", field="messages")
    for number, message in enumerate(given):
        if not _is_message(message):
            raise Refused(
                "invalid",
                f"Expected a message with one of the roles {', '.join(ROLES)}.",
                field=f"messages.{number}",
            )
    return given


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") not in ROLES:
        return False
    content = message.get("content")
    return content is None or isinstance(content, str) or _is_list_of_objects(content)


def _is_list_of_objects(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)
