"""How the tests of the endpoint ask, and what a refusal must look like.

The upstream is the scripted provider; its ``requests`` say what a model was asked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.test import override_settings

from chatstream.core.requests import RunRequest
from chatstream.providers import get_provider

__all__ = ["DONE", "SCRIPT", "URL", "asked", "body_of", "configured", "is_answer", "refusal"]

URL = "/chat/stream/"
DONE = b'data: {"done": true}\n\n'
SCRIPTED = "chatstream.providers.scripted.ScriptedProvider"

# One text step: its bytes do not depend on how the steps were gathered.
SCRIPT = ["Hello, w\u00f6rld\n", {"finish_reason": "stop"}]


@contextmanager
def configured(
    *, providers: dict[str, dict[str, Any]] | None = None, **settings: Any
) -> Iterator[None]:
    """Set ``CHATSTREAM``; ``providers`` are options of scripted providers by alias."""
    providers = {"default": {}, **(providers or {})}
    entries = {
        alias: {"BACKEND": SCRIPTED, "OPTIONS": {"script": SCRIPT, **options}}
        for alias, options in providers.items()
    }
    with override_settings(CHATSTREAM={"PROVIDERS": entries, "ALLOW_ANONYMOUS": True, **settings}):
        yield


def asked(alias: str = "default") -> list[RunRequest]:
    """Return what the model was asked so far."""
    return get_provider(alias).requests  # type: ignore[attr-defined]


def body_of(response: Any) -> bytes:
    """Return the whole body, streamed or not."""
    return b"".join(response) if response.streaming else response.content


def is_answer(response: Any) -> bool:
    """Whether the response is an answer that succeeded."""
    return response.status_code == 200 and body_of(response).endswith(DONE)


def refusal(response: Any, status: int, code: str, field: str | None = None) -> dict[str, Any]:
    """Return the refusal's error, after checking its form and that no model was asked."""
    body = body_of(response)
    assert response.status_code == status, (response.status_code, body[:300])
    assert response["Content-Type"] == "application/json"
    assert response["Chatstream-Error"] == code
    assert "WWW-Authenticate" not in response
    answer = json.loads(body)
    assert list(answer) == ["error"]
    error: dict[str, Any] = answer["error"]
    assert error["status"] == status
    assert error["code"] == code
    assert isinstance(error["message"], str)
    assert error["message"]
    assert error["retryable"] is (status in (429, 503))
    assert error.get("field") == field
    assert asked() == []
    return error
