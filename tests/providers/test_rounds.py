"""Rounds: the model calls a tool of the site, and goes on, in one answer with one ending."""

import asyncio
import json
from contextlib import asynccontextmanager
from typing import Any

import pytest
from django.test import override_settings

from chatstream.core.chunks import Delta
from chatstream.core.framer import Framer
from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import RunError
from chatstream.core.requests import RunRequest
from chatstream.providers.rounds import answering
from chatstream.providers.scripted import ScriptedProvider
from chatstream.relay import aframes
from chatstream.tools import Caller, Tool

HI = {"role": "user", "content": "hi"}
STOP = {"finish_reason": "stop"}
CALLS = {"finish_reason": "tool_calls"}
DONE = {"has_choice": False, "is_done": True}


def weather(city: str) -> dict[str, Any]:
    """Return the weather."""
    return {"city": city, "sky": "clear"}


def shout(word: str, *, caller: Caller) -> str:
    """Return the word, loud."""
    return f"{word.upper()}! {caller.owner}"


def piece(index: int = 0, arguments: str = "", **more: Any) -> dict[str, Any]:
    return {"tool_calls": ({"index": index, "arguments": arguments, **more},)}


def called(name: str = "weather", id: str = "c1", index: int = 0, **arguments: Any) -> list[Any]:
    """Return the steps of a whole call, in three pieces."""
    text = json.dumps(arguments)
    return [piece(index, id=id, name=name), piece(index, text[:3]), piece(index, text[3:])]


BERN = called(city="Bern")


class Asked:
    """A run of a scripted model: its frames, and what the model was asked."""

    def __init__(self, *scripts: list[Any], **params: Any) -> None:
        options = {"script": scripts[0], "rounds": list(scripts[1:])}
        self.provider = ScriptedProvider("s", options)
        self.provider.tools = (Tool(weather), Tool(shout))
        self.request = RunRequest([HI], params=params)
        self.frames: list[Frame] = asyncio.run(self._all())

    async def _all(self) -> list[Frame]:
        completion = answering(self.provider, self.request, Caller("run", "anon:x"))
        return [frame async for frame in aframes(completion, Framer())]

    def data(self, kind: Kind) -> list[dict[str, Any]]:
        return [frame.data for frame in self.frames if frame.kind is kind]

    @property
    def text(self) -> str:
        return "".join(data["text"] for data in self.data(Kind.TEXT))

    @property
    def kinds(self) -> list[str]:
        return [str(frame.kind) for frame in self.frames]

    @property
    def finish(self) -> dict[str, Any]:
        return self.data(Kind.FINISH)[0]

    @property
    def code(self) -> str | None:
        return self.frames[-1].data.get("code")

    @property
    def results(self) -> list[Any]:
        return [data.get("output", data.get("error")) for data in self.data(Kind.TOOL_RESULT)]

    @property
    def requests(self) -> list[RunRequest]:
        return self.provider.requests


def frames_of(provider: ScriptedProvider) -> list[Frame]:
    async def main() -> list[Frame]:
        completion = answering(provider, RunRequest([HI]), Caller("r", "o"))
        return [frame async for frame in aframes(completion, Framer())]

    return asyncio.run(main())


def test_the_model_calls_a_tool_and_goes_on_in_the_same_answer() -> None:
    asked = Asked(["Let me see. ", *BERN, CALLS], ["It is clear.", STOP])
    assert asked.kinds == [
        *("start", "text", "tool_call", "tool_call", "tool_result"),
        *("text", "finish", "done"),
    ]
    assert asked.text == "Let me see. It is clear."
    assert asked.finish == {"outcome": "completed", "finish_reason": "stop"}
    output = {"city": "Bern", "sky": "clear"}
    assert asked.data(Kind.TOOL_RESULT) == [{"id": "c1", "output": output}]
    assert [frame.seq for frame in asked.frames] == list(range(1, 9))


def test_the_model_is_told_of_the_tools_and_of_what_they_returned() -> None:
    asked = Asked(["Let me see. ", *BERN, CALLS], ["It is clear.", STOP], temperature=0.5)
    first, second = asked.requests
    names = [tool["function"]["name"] for tool in first.params["tools"]]
    assert names == ["weather", "shout"]
    assert first.params["temperature"] == second.params["temperature"] == 0.5
    function = {"name": "weather", "arguments": '{"city": "Bern"}'}
    assert second.messages == [
        HI,
        {
            "role": "assistant",
            "content": "Let me see. ",
            "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        },
        {
            "role": "tool",
            "tool_call_id": "c1",
            "content": '{"city": "Bern", "sky": "clear"}',
        },
    ]


def test_calls_of_one_round_run_together_and_a_tool_knows_for_whom() -> None:
    calls = [*called(city="Bern"), *called("shout", "c2", 1, word="hey")]
    asked = Asked([*calls, CALLS], ["Done.", STOP])
    assert asked.results == [{"city": "Bern", "sky": "clear"}, "HEY! anon:x"]
    assert [message["role"] for message in asked.requests[1].messages[1:]] == [
        "assistant",
        "tool",
        "tool",
    ]


def test_without_tools_nothing_is_added() -> None:
    class Bare(ScriptedProvider):
        def get_tools(self, request: RunRequest) -> Any:
            return ()

    provider = Bare("s", {"script": ["Hi.", STOP]})
    assert frames_of(provider)[-1].kind is Kind.DONE
    assert provider.requests[0].params == {}


# Ids and numbers ----------------------------------------------------------------------------------


def test_each_call_of_a_run_has_a_number_and_an_id_of_its_own() -> None:
    """Some servers give every round's calls the same ids."""
    asked = Asked([*BERN, CALLS], [*BERN, CALLS], ["Done.", STOP])
    calls = asked.data(Kind.TOOL_CALL)
    assert [call["index"] for call in calls] == [0, 0, 1, 1]
    ids = [call["id"] for call in calls if "id" in call]
    assert ids[0] != ids[1]
    assert ids == [result["id"] for result in asked.data(Kind.TOOL_RESULT)]
    told = [m["tool_call_id"] for m in asked.requests[2].messages if m["role"] == "tool"]
    assert told == ids


def test_a_call_without_an_id_gets_one() -> None:
    asked = Asked([piece(name="weather", arguments='{"city": "Bern"}'), CALLS], ["Done.", STOP])
    (call,) = asked.data(Kind.TOOL_CALL)
    (result,) = asked.data(Kind.TOOL_RESULT)
    assert call["id"] == result["id"] != ""


def test_whole_calls_that_all_have_the_same_index_are_several() -> None:
    calls = [
        piece(0, '{"city": "Bern"}', id="a", name="weather"),
        piece(0, '{"city": "Rome"}', id="b", name="weather"),
    ]
    asked = Asked([*calls, CALLS], ["Done.", STOP])
    assert [result["city"] for result in asked.results] == ["Bern", "Rome"]


def test_a_server_that_repeats_id_and_name_in_every_piece_means_one_call() -> None:
    pieces = [piece(0, text, id="a", name="weather") for text in ("", '{"city"', ': "Bern"}')]
    asked = Asked([*pieces, CALLS], ["Done.", STOP])
    assert asked.results == [{"city": "Bern", "sky": "clear"}]
    names = [call.get("name") for call in asked.data(Kind.TOOL_CALL)]
    assert names == ["weather", None]


def test_whole_calls_without_an_id_that_all_have_the_index_0_are_several() -> None:
    calls = [piece(0, f'{{"city": "{city}"}}', name="weather") for city in ("Bern", "Rome")]
    asked = Asked([*calls, CALLS], ["Done.", STOP])
    assert [result["city"] for result in asked.results] == ["Bern", "Rome"]


def test_a_name_in_pieces_is_told_whole() -> None:
    calls = [piece(0, id="a", name="wea"), piece(0, name="ther"), piece(0, '{"city": "Bern"}')]
    asked = Asked([*calls, CALLS], ["Done.", STOP])
    assert asked.data(Kind.TOOL_CALL) == [
        {"index": 0, "id": "a", "name": "weather", "arguments": '{"city": "Bern"}'}
    ]


def test_a_call_without_arguments_is_told_before_it_is_run() -> None:
    asked = Asked([piece(0, id="a", name="weather"), CALLS], ["Done.", STOP])
    assert asked.kinds[1:3] == ["tool_call", "tool_result"]
    assert asked.data(Kind.TOOL_CALL) == [
        {"index": 0, "id": "a", "name": "weather", "arguments": ""}
    ]


def test_halves_of_a_character_in_two_pieces_meet() -> None:
    calls = [piece(0, '{"city": "\ud83c', id="a", name="weather"), piece(0, '\udf89"}')]
    assert Asked([*calls, CALLS], ["Done.", STOP]).results[0]["city"] == "🎉"


def test_what_a_server_wants_back_with_a_call_goes_back_and_to_nobody_else() -> None:
    """DeepSeek refuses a history without its reasoning, Gemini one without its signatures."""
    extra = {"google": {"thought_signature": "zq"}}
    thought = {"reasoning": "Hm.", "reasoning_field": "reasoning_content"}
    other = {"reasoning": "Well.", "reasoning_field": "reasoning"}
    call = piece(0, '{"city": "Bern"}', id="a", name="weather", extra_content=extra)
    asked = Asked([thought, other, call, CALLS], ["Done.", STOP])
    message = asked.requests[1].messages[1]
    assert message["reasoning_content"] == "Hm."
    assert message["tool_calls"][0]["extra_content"] == extra
    assert "zq" not in str(asked.frames)


def test_each_round_is_a_paragraph() -> None:
    asked = Asked(["Let me see.", *BERN, CALLS], ["It ", "is clear.", STOP])
    assert asked.text == "Let me see.\n\nIt is clear."
    assert asked.requests[1].messages[1]["content"] == "Let me see."


# Endings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [[CALLS], [CALLS, DONE], [DONE], [STOP], [STOP, DONE]])
def test_a_round_of_calls_goes_on_whatever_its_good_ending_says(ending: list[Any]) -> None:
    asked = Asked([*BERN, *ending], ["Done.", STOP, DONE])
    assert (asked.text, asked.kinds[-1]) == ("Done.", "done")


def test_a_call_in_the_chunk_that_ends_the_round_is_run() -> None:
    last = {**piece(0, '{"city": "Bern"}', id="a", name="weather"), "finish_reason": "tool_calls"}
    assert Asked([last], ["Done.", STOP]).results == [{"city": "Bern", "sky": "clear"}]


def test_a_fault_after_the_evidence_does_not_keep_a_tool_from_running() -> None:
    asked = Asked([*BERN, CALLS, {"error": "upstream_incomplete"}], ["Done.", STOP])
    assert (asked.text, asked.kinds[-1]) == ("Done.", "done")


@pytest.mark.parametrize(
    ("ending", "code"),
    [
        ([], "upstream_incomplete"),
        ([{"error": "upstream_timeout"}], "upstream_timeout"),
        ([{"finish_reason": "content_filter"}], "filtered"),
        ([{"finish_reason": "error"}], "upstream_error"),
        ([{"error": "upstream_malformed"}], "upstream_malformed"),
    ],
)
def test_a_call_of_a_round_that_failed_is_not_run(ending: list[Any], code: str) -> None:
    asked = Asked([*BERN, *ending], ["Done.", STOP])
    assert (asked.code, asked.results, len(asked.requests)) == (code, [], 1)


def test_damage_after_the_evidence_does_not_either() -> None:
    damage = {"error": RunError("upstream_malformed")}
    provider = ScriptedProvider("s", {"script": [*BERN, CALLS], "rounds": [["Done.", STOP]]})

    class Damaged(ScriptedProvider):
        @asynccontextmanager
        async def aopen(self, request: RunRequest) -> Any:
            async with provider.aopen(request) as batches:
                yield with_damage(batches)

    async def with_damage(batches: Any) -> Any:
        async for batch in batches:
            yield [*batch, Delta(**damage)] if batch[-1].finish_reason == "tool_calls" else batch

    damaged = Damaged("d", {})
    damaged.tools = (Tool(weather),)
    frames = frames_of(damaged)
    assert [str(frame.kind) for frame in frames[-4:]] == ["tool_result", "text", "finish", "done"]


@pytest.mark.parametrize("reason", ["model_length", "MAX_TOKENS", "malformed_function_call"])
def test_a_call_that_ends_for_an_unknown_reason_is_not_run(reason: str) -> None:
    asked = Asked([piece(name="weather", id="a"), {"finish_reason": reason}], ["Done.", STOP])
    assert (asked.results, len(asked.requests)) == ([], 1)


def test_a_call_that_was_cut_by_the_length_limit_is_not_run() -> None:
    asked = Asked([*BERN, {"finish_reason": "length"}], ["Done.", STOP])
    assert (asked.finish["outcome"], asked.results) == ("truncated", [])


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ([], "upstream_incomplete"),
        ([DONE], "upstream_incomplete"),
        (["It is", {"error": "upstream_timeout"}], "upstream_timeout"),
        ([{"error": "upstream_rejected"}], "upstream_rejected"),
    ],
)
def test_a_later_round_needs_evidence_of_its_own(script: list[Any], code: str) -> None:
    asked = Asked([*BERN, CALLS], script)
    assert (asked.code, asked.finish["outcome"]) == (code, "failed")


def test_usage_is_the_sum_of_the_rounds() -> None:
    first = {"has_choice": False, "usage": {"prompt_tokens": 5, "completion_tokens": 2}}
    second = {"has_choice": False, "usage": {"prompt_tokens": 9, "completion_tokens": 3}}
    asked = Asked([*BERN, CALLS, first, DONE], ["Done.", STOP, second, DONE])
    assert asked.finish["usage"] == {"prompt_tokens": 14, "completion_tokens": 5}


# What a model does wrong --------------------------------------------------------------------------


def test_an_unknown_tool_and_bad_arguments_are_told_to_the_model_which_may_do_better() -> None:
    calls = [*called("wether", "c1", 0, city="Bern"), *called("weather", "c2", 1, town="Bern")]
    asked = Asked([*calls, CALLS], [*called(id="c3", city="Bern"), CALLS], ["Done.", STOP])
    assert asked.results[0] == "There is no such tool."
    assert asked.results[1].startswith("The arguments do not fit. city: Field required")
    assert asked.results[2] == {"city": "Bern", "sky": "clear"}
    contents = [m["content"] for m in asked.requests[1].messages if m["role"] == "tool"]
    assert all(content.startswith("Error: ") for content in contents)


def test_what_a_model_made_up_goes_back_in_a_form_that_its_server_takes() -> None:
    call = piece(0, '{"city": ', id="id with spaces \ud83c", name="no name!")
    asked = Asked(["half \ud83c", call, CALLS], ["Done.", STOP])
    assistant, result = asked.requests[1].messages[1:]
    (told,) = assistant["tool_calls"]
    assert told["function"] == {"name": "unknown", "arguments": "{}"}
    assert told["id"] == result["tool_call_id"]
    json.dumps(asked.requests[1].messages, ensure_ascii=False).encode()  # no half surrogate


def test_a_model_that_never_stops_calling_is_asked_for_words_and_then_given_up() -> None:
    with override_settings(CHATSTREAM={"MAX_TOOL_ROUNDS": 2}):
        asked = Asked([*BERN, CALLS], tool_choice="required")
    choices = [request.params["tool_choice"] for request in asked.requests]
    assert choices == ["required", "auto", "none"]
    assert (len(asked.results), asked.code) == (2, "upstream_malformed")


def test_a_result_that_is_too_long_for_the_history_is_not_told() -> None:
    with override_settings(CHATSTREAM={"MAX_HISTORY_CHARS": 20}):
        asked = Asked([*BERN, CALLS], ["Done.", STOP])
    assert asked.results == ["The result is too long."]


def test_all_results_of_a_run_share_one_room() -> None:
    room = len(json.dumps({"city": "Bern", "sky": "clear"}))
    with override_settings(CHATSTREAM={"MAX_HISTORY_CHARS": room + 5}):
        asked = Asked([*BERN, CALLS], [*BERN, CALLS], ["Done.", STOP])
    assert asked.results == [{"city": "Bern", "sky": "clear"}, "The result is too long."]


def test_so_many_calls_are_taken_in_one_round() -> None:
    calls = [step for n in range(20) for step in called(id=f"c{n}", index=n, city="Bern")]
    asked = Asked([*calls, CALLS], ["Done.", STOP])
    refused = [
        result for result in asked.results if result == "At most 16 calls are taken at once."
    ]
    assert (len(asked.results), len(refused)) == (20, 4)
    told = [m["tool_call_id"] for m in asked.requests[1].messages if m["role"] == "tool"]
    assert told == [f"c{n}" for n in range(20)]


# Tools that the client brought --------------------------------------------------------------------

BROUGHT = [{"type": "function", "function": {"name": "open_door", "parameters": {}}}]


def test_a_call_of_the_clients_tool_ends_the_answer() -> None:
    asked = Asked([*called("open_door", word="x"), CALLS], ["Never.", STOP], tools=BROUGHT)
    assert asked.finish == {"outcome": "completed", "finish_reason": "tool_calls"}
    assert len(asked.requests) == 1
    names = [tool["function"]["name"] for tool in asked.requests[0].params["tools"]]
    assert names == ["open_door", "weather", "shout"]


def test_a_round_of_both_kinds_ends_the_answer_and_runs_neither() -> None:
    calls = [*BERN, *called("open_door", "c2", 1, word="x")]
    asked = Asked([*calls, CALLS], ["Never.", STOP], tools=BROUGHT)
    assert (asked.finish["finish_reason"], asked.results) == ("tool_calls", [])


def test_the_sites_own_tool_wins_over_one_of_the_same_name() -> None:
    same = {"type": "function", "function": {"name": "weather", "parameters": {}}}
    asked = Asked([*BERN, CALLS], ["Done.", STOP], tools=[same, *BROUGHT])
    assert asked.results == [{"city": "Bern", "sky": "clear"}]
    names = [tool["function"]["name"] for tool in asked.requests[0].params["tools"]]
    assert names == ["open_door", "weather", "shout"]


def test_a_client_with_the_older_functions_gets_no_tools_of_ours() -> None:
    asked = Asked([*BERN, CALLS], ["Never.", STOP], functions=[{"name": "weather"}])
    assert "tools" not in asked.requests[0].params
    assert asked.finish["finish_reason"] == "tool_calls"


# Leaving ------------------------------------------------------------------------------------------


def test_who_leaves_while_a_tool_runs_closes_the_answer_and_asks_nothing_more() -> None:
    async def forever() -> None:
        """Wait."""
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    class Forever(ScriptedProvider):
        @asynccontextmanager
        async def aopen(self, request: RunRequest) -> Any:
            if self.requests:
                raise RunError("internal", "asked again")
            async with super().aopen(request) as batches:
                yield batches

    async def main() -> None:
        provider = Forever("s", {"script": [*called("forever"), CALLS]})
        provider.tools = (Tool(forever),)
        completion = answering(provider, RunRequest([HI]), Caller("r", "o"))

        async def pull() -> list[Frame]:
            return [frame async for frame in aframes(completion, Framer())]

        task = asyncio.create_task(pull())
        await asyncio.wait_for(begun.wait(), 10)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.wait_for(ended.wait(), 10)
        assert len(provider.requests) == 1

    begun, ended = asyncio.Event(), asyncio.Event()
    asyncio.run(main())


def test_deltas_pass_one_by_one_as_they_come() -> None:
    """A reader sees the words of a round while it is under way."""

    async def main() -> None:
        provider = ScriptedProvider("s", {"script": ["one", 30, "two", STOP]})
        provider.tools = (Tool(weather),)
        async with answering(provider, RunRequest([HI]), Caller("r", "o")) as batches:
            first = await asyncio.wait_for(anext(aiter(batches)), 10)
        assert first == [Delta("one", has_choice=True)]

    asyncio.run(main())
