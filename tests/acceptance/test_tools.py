"""Tools of the site on real servers: one run, several rounds, and what each kind of client sees."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.acceptance.rows import Service
from tests.acceptance.talks import UNHURRIED, Talker
from tests.acceptance.test_openai_client import KEY, add_key, base_url
from tests.node import node_client
from tests.servers import each
from tests.upstream import Request

NAMES = ("weather", "aweather", "own_runs", "take", "fail")
BERN = {"city": "Bern", "sky": "clear"}
LET_ME_SEE = "Let me see. "
Call = tuple[str, dict[str, Any]]


@pytest.fixture(params=each(["uvicorn", "gunicorn-gthread"]))
def service(request: pytest.FixtureRequest, running: Any) -> Service:
    service: Service = running(
        request.param, tools=NAMES, options=UNHURRIED, settings={"HEARTBEAT": 0.2}
    )
    add_key(service.server)
    return service


@pytest.fixture
def me(service: Service) -> Talker:
    return Talker(service.upstream, service.server.port)


@pytest.fixture
def client(service: Service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=base_url(service), api_key=KEY) as client:
        yield client


def calling(*rounds: list[Call]) -> str:
    """Return the prompt that makes the model call these, a round after the other."""
    return json.dumps(rounds)


def weather(city: str = "Bern", name: str = "weather") -> Call:
    return name, {"city": city}


def told(request: Request) -> list[str]:
    return [m["content"] for m in request.body["messages"] if m["role"] == "tool"]


# Our own format -----------------------------------------------------------------------------------


def test_an_answer_goes_on_after_its_tools_and_all_of_it_is_logged(me: Talker) -> None:
    prompt = calling([weather(), weather("Rome", "aweather")], [weather("Oslo")])
    run = me.start("tools_by_prompt", prompt=prompt)
    answer = me.replay(run)
    calls = [event.json for event in answer.events if event.name == "tool_call"]
    assert len({call["index"] for call in calls}) == 3
    ids = [call["id"] for call in calls if "id" in call]
    results = [event.json for event in answer.events if event.name == "tool_result"]
    cities = {result["id"]: result["output"]["city"] for result in results}
    assert [cities[id] for id in ids] == ["Bern", "Rome", "Oslo"]  # they come as they are ready
    assert answer.text.startswith(2 * LET_ME_SEE + "So: ")
    assert answer.ending == "done"


def test_a_plain_reader_sees_the_text_alone_and_one_ending(me: Talker) -> None:
    answer = me.read(me.start("tools_by_prompt", prompt=calling([weather()])))
    assert {event.name for event in answer.events} == {"message"}
    assert answer.text == f"{LET_ME_SEE}So: {json.dumps(BERN)}"
    assert [*answer.messages[-1]] == ["done"]


def test_a_reader_that_comes_back_in_the_midst_of_a_round_gets_the_rest(me: Talker) -> None:
    run = me.start("tools_by_prompt", prompt=calling([weather()], [weather("Rome")]))
    whole = me.replay(run)
    for event in whole.events[:-1]:
        rest = me.read(run, all_events=True, last_id=event.id)
        assert rest.events == whole.events[whole.events.index(event) + 1 :]
    assert len(me.requests(run)) == 3


def test_a_tool_reads_the_sites_data_of_its_caller_alone(service: Service, me: Talker) -> None:
    other = Talker(service.upstream, service.server.port)
    other.read(other.start("ok"))
    run = me.start("tools_by_prompt", prompt=calling([("own_runs", {})]))
    me.read(run)
    (content,) = told(me.requests(run)[-1])
    assert [row["model"] for row in json.loads(content)] == [me.requests(run)[0].model]


def test_what_failed_is_told_to_the_model_and_only_public_words_to_anybody(me: Talker) -> None:
    failing = [("fail", {"words": "secret"}), ("fail", {"words": "public", "is_public": True})]
    run = me.start("tools_by_prompt", prompt=calling([*failing, ("weather", {"town": 1})]))
    answer = me.replay(run)
    errors = [event.json["error"] for event in answer.events if event.name == "tool_result"]
    assert errors[:2] == ["The tool failed.", "publicpublic"]
    assert errors[2].startswith("The arguments do not fit. city: ")
    assert b"secretsecret" not in answer.body
    assert not any("secretsecret" in content for content in told(me.requests(run)[-1]))
    assert answer.ending == "done"


def test_while_a_tool_runs_the_stream_beats_and_a_stop_ends_it(me: Talker) -> None:
    run = me.start("tools_by_prompt", prompt=calling([("take", {"seconds": 20})]))
    with me.follow(run) as reader:
        assert reader.read_until(b": ping")
        assert me.stop(run).status == 202
        assert reader.read_all().ending == "error:stopped"
    assert len(me.requests(run)) == 1
    assert me.look(run)["text"] == LET_ME_SEE


# OpenAI's clients ---------------------------------------------------------------------------------

DOOR: Any = {
    "type": "function",
    "function": {"name": "open_door", "parameters": {"type": "object", "properties": {}}},
}


def ask(client: openai.OpenAI, prompt: str, **params: Any) -> Any:
    """Return the streamed answer as the package puts it together."""
    with client.chat.completions.stream(
        model="tools_by_prompt@v1", messages=[{"role": "user", "content": prompt}], **params
    ) as stream:
        stream.until_done()
        return stream.get_final_completion().choices[0]


def test_an_openai_client_sees_nothing_of_the_sites_tools(client: openai.OpenAI) -> None:
    choice = ask(client, calling([weather()]))
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert choice.message.content == f"{LET_ME_SEE}So: {json.dumps(BERN)}"


def test_a_whole_answer_has_none_of_them_either(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(
        model="tools_by_prompt@v1", messages=[{"role": "user", "content": calling([weather()])}]
    )
    assert whole.choices[0].finish_reason == "stop"
    assert whole.choices[0].message.tool_calls is None


def test_a_tool_that_the_client_brought_is_for_the_client_to_run(client: openai.OpenAI) -> None:
    """A round that mixes both kinds ends the answer: after a round of the site's own."""
    prompt = calling([weather()], [weather(), ("open_door", {}), weather("Rome")])
    choice = ask(client, prompt, tools=[DOOR])
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("open_door", "{}")


def test_a_client_may_not_bring_a_tool_by_a_name_of_the_sites(client: openai.OpenAI) -> None:
    taken: Any = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, calling([weather()]), tools=[taken])
    assert refused.value.param == "tools"
    with pytest.raises(openai.BadRequestError, match="Expected a list of objects"):
        client.chat.completions.create(
            model="ok@v1", messages=[{"role": "user", "content": "hi"}], extra_body={"tools": 5}
        )


def test_a_tool_of_the_providers_params_is_the_clients_to_run_too(running: Any) -> None:
    service = running("uvicorn", tools=NAMES, options={**UNHURRIED, "params": {"tools": [DOOR]}})
    add_key(service.server)
    with openai.OpenAI(base_url=base_url(service), api_key=KEY) as client:
        choice = ask(client, calling([("open_door", {})]))
    assert choice.finish_reason == "tool_calls"
    assert [call.function.name for call in choice.message.tool_calls] == ["open_door"]


# The others ---------------------------------------------------------------------------------------


def test_the_ai_sdk_shows_calls_and_results_as_parts(service: Service) -> None:
    api = f"http://127.0.0.1:{service.server.port}/chat/ai-sdk/"
    send = ["sendMessage", {"text": calling([weather()])}]
    case = {"name": "tools", "model": "tools_by_prompt@ai", "steps": [send]}
    (seen,) = node_client("ai_sdk.mjs", api, json.dumps([case]))
    assert (seen["status"], seen["finishReason"], seen["calls"]) == ("ready", "stop", [])
    parts = seen["messages"][-1]["parts"]
    kinds = [part["type"] for part in parts]
    assert kinds == ["step-start", "text", "dynamic-tool", "step-start", "text"]
    assert (parts[2]["state"], parts[2]["output"]) == ("output-available", BERN)


def test_ag_ui_has_the_call_and_its_result_among_the_messages(service: Service) -> None:
    url = f"http://127.0.0.1:{service.server.port}/chat/ag-ui/"
    origin = {"Origin": f"http://127.0.0.1:{service.server.port}", "Sec-Fetch-Site": "same-origin"}
    forwarded = {"model": "tools_by_prompt@agui"}
    case = {"runs": [{"say": calling([weather()]), "forwardedProps": forwarded}]}
    lines = node_client("ag_ui.mjs", url, json.dumps(origin), json.dumps({"tools": case}))
    ((_, [seen]), _) = lines
    assert seen["finished"]["result"] == {"finishReason": "stop"}
    assert [message["role"] for message in seen["messages"]] == [
        *("user", "assistant", "tool", "assistant")
    ]
    assert json.loads(seen["messages"][2]["content"]) == BERN
