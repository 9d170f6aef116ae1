"""The openai package, unmodified: what test_clients.py does not play with it."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.acceptance.players import KEY, SITE, add_key
from tests.acceptance.rows import Service
from tests.behaviours import HTML_TEXT, REFUSAL, TEXT
from tests.servers import each

SERVERS = each(["uvicorn", "gunicorn-gthread"])
HI: Any = [{"role": "user", "content": "hi"}]


@pytest.fixture(params=SERVERS)
def service(request: pytest.FixtureRequest, running: Any) -> Service:
    service: Service = running(request.param, **SITE)
    add_key(service.server)
    return service


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url(service), api_key=KEY) as client:
        yield client


def base_url(service: Service) -> str:
    return f"http://127.0.0.1:{service.server.port}/chat/v1"


def ask(client: openai.OpenAI, model: str, **params: Any) -> list[Any]:
    return list(client.chat.completions.create(model=model, messages=HI, stream=True, **params))


def text_of(chunks: list[Any]) -> str:
    return "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)


def reason_of(chunks: list[Any]) -> str | None:
    return [c.choices[0].finish_reason for c in chunks if c.choices][-1]


@pytest.mark.parametrize(
    ("behaviour", "text"),
    [("ok_html", HTML_TEXT), ("finish_refusal", REFUSAL)],
)
def test_an_answer_streams_as_it_is(client: openai.OpenAI, behaviour: str, text: str) -> None:
    chunks = ask(client, f"{behaviour}@v1")
    assert text_of(chunks) == text
    assert reason_of(chunks) == "stop"
    assert {chunk.model for chunk in chunks} == {f"{behaviour}@v1"}
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_comes_if_it_was_asked_for(client: openai.OpenAI) -> None:
    chunks = ask(client, "ok_usage@v1", stream_options={"include_usage": True})
    assert chunks[-1].usage.completion_tokens == 10
    assert chunks[-1].choices == []


def test_a_whole_answer_is_one_object(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="ok_usage@v1", messages=HI)
    assert answer.choices[0].message.content == TEXT
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.total_tokens == 17


def test_tool_calls_and_reasoning_pass_through(client: openai.OpenAI) -> None:
    chunks = ask(client, "finish_tool_calls@v1")
    calls = [c.choices[0].delta.tool_calls for c in chunks if c.choices[0].delta.tool_calls]
    assert calls[0][0].id
    assert calls[0][0].function.name
    assert reason_of(chunks) == "tool_calls"
    thoughts = [
        getattr(c.choices[0].delta, "reasoning_content", None)
        for c in ask(client, "ok_reasoning@v1")
    ]
    assert any(thoughts)


def test_a_failure_of_a_whole_answer_raises_and_is_not_tried_again(
    client: openai.OpenAI, service: Service
) -> None:
    with pytest.raises(openai.InternalServerError) as failed:
        client.chat.completions.create(model="http_500@whole", messages=HI)
    assert (failed.value.status_code, failed.value.code) == (502, "upstream_unavailable")
    assert len(service.upstream.requests_for("http_500@whole")) == 1


def test_a_wrong_key_is_refused(service: Service) -> None:
    with (
        openai.OpenAI(base_url=base_url(service), api_key="wrong") as client,
        pytest.raises(openai.AuthenticationError) as refused,
    ):
        ask(client, "ok@v1")
    assert refused.value.code == "invalid_api_key"


def test_an_unknown_provider_is_no_model(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="", messages=HI)
    assert refused.value.param == "model"


def test_bad_messages_are_refused_with_the_field(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="ok@v1", messages=[{"role": "robot", "content": "x"}])
    assert refused.value.param == "messages.0"


def test_a_system_message_and_parameters_reach_the_model(
    client: openai.OpenAI, service: Service
) -> None:
    messages: Any = [{"role": "system", "content": "Be kind."}, *HI]
    client.chat.completions.create(
        model="default/ok@v1params", messages=messages, temperature=0.5, max_tokens=9
    )
    (request,) = service.upstream.requests_for("ok@v1params")
    assert request.body["messages"] == messages
    assert (request.body["temperature"], request.body["max_tokens"]) == (0.5, 9)


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert "default" in [model.id for model in client.models.list()]


def test_the_same_idempotency_key_starts_one_answer(
    client: openai.OpenAI, service: Service
) -> None:
    headers = {"Idempotency-Key": "once"}
    for _ in range(2):
        assert text_of(ask(client, "ok@once", extra_headers=headers)) == TEXT
    assert len(service.upstream.requests_for("ok@once")) == 1
