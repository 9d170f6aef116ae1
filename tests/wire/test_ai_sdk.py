"""The AI SDK's UI message stream, frame by frame; its client refuses what is out of order."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import error_data
from chatstream.wire.ai_sdk import AiSdkFormat

USAGE = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17, "details": None}
DONE = (Kind.DONE, {})
START = (Kind.START, {"run": "r1", "model": "x"})
HELLO = (Kind.TEXT, {"text": "Hello"})
THOUGHT = (Kind.REASONING, {"text": "Hm"})
RESULT = (Kind.TOOL_RESULT, {"id": "c1", "output": [3]})
BEGIN = [{"type": "start", "messageId": "m1"}, {"type": "start-step"}]
END = [{"type": "finish-step"}, {"type": "finish", "finishReason": "stop"}]
TOOL = {"toolCallId": "c1", "dynamic": True, "providerExecuted": True}


def finish(outcome="completed", **more):
    return (Kind.FINISH, {"outcome": outcome, **more})


def call(arguments, index=0, **more):
    return (Kind.TOOL_CALL, {"index": index, "arguments": arguments, **more})


def encoded(*frames) -> bytes:
    wire = AiSdkFormat("m1")
    numbered = [Frame(number, kind, data) for number, (kind, data) in enumerate(frames, 1)]
    return wire.opening() + b"".join(wire.encode(frame) for frame in numbered)


def events(*frames) -> list[Any]:
    """Return the events after the first two, and check those; "[DONE]" at the end is cut off."""
    blocks = encoded(*frames).decode().removesuffix("data: [DONE]\n\n").split("\n\n")
    assert (blocks[0], blocks[-1]) == (": open", "")
    found = [json.loads(block.removeprefix("data: ")) for block in blocks[1:-1]]
    assert found[:2] == BEGIN
    return found[2:]


def types(*frames) -> list[str]:
    return [event["type"] for event in events(*frames)]


def test_an_answer_is_one_part_in_one_step():
    assert encoded(START, HELLO, (Kind.TEXT, {"text": "\n\u2028"}), finish(), DONE) == (
        b": open\n\n"
        b'data: {"type": "start", "messageId": "m1"}\n\n'
        b'data: {"type": "start-step"}\n\n'
        b'data: {"type": "text-start", "id": "p1"}\n\n'
        b'data: {"type": "text-delta", "id": "p1", "delta": "Hello"}\n\n'
        b'data: {"type": "text-delta", "id": "p1", "delta": "\\n\\u2028"}\n\n'
        b'data: {"type": "text-end", "id": "p1"}\n\n'
        b'data: {"type": "finish-step"}\n\n'
        b'data: {"type": "finish", "finishReason": "stop"}\n\n'
        b"data: [DONE]\n\n"
    )


def test_reasoning_and_text_are_parts_of_their_own():
    assert [(event["type"], event.get("id")) for event in events(THOUGHT, HELLO, THOUGHT)] == [
        ("reasoning-start", "p1"),
        ("reasoning-delta", "p1"),
        ("reasoning-end", "p1"),
        ("text-start", "p2"),
        ("text-delta", "p2"),
        ("text-end", "p2"),
        ("reasoning-start", "p3"),
        ("reasoning-delta", "p3"),
    ]


def test_an_answer_without_text_is_whole():
    assert events(START, finish(), DONE) == END


def test_a_truncated_answer_says_so():
    assert events(HELLO, finish("truncated"), DONE)[-1]["finishReason"] == "length"


def test_usage_has_the_names_of_the_ai_sdk():
    usage = {"inputTokens": 7, "outputTokens": 10, "totalTokens": 17}
    assert events(HELLO, finish(usage=USAGE), DONE)[-1]["messageMetadata"] == {"usage": usage}


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"other": 1}])
def test_usage_that_says_nothing_is_left_out(usage):
    assert events(HELLO, finish(usage=usage), DONE)[-2:] == END


@pytest.mark.parametrize("code", ["filtered", "stopped", "interrupted", "upstream_timeout"])
def test_what_is_no_success_closes_its_part_and_ends_with_an_error(code):
    data = error_data(code)
    *_, end, error = events(HELLO, finish("failed"), (Kind.ERROR, data))
    assert end == {"type": "text-end", "id": "p1"}
    assert error == {"type": "error", "errorText": data["message"]}
    assert b"[DONE]" not in encoded(HELLO, (Kind.ERROR, data))


def test_an_error_before_any_text_stands_alone():
    assert types(START, (Kind.ERROR, error_data("storage"))) == ["error"]


def test_a_call_without_a_result_is_whole_and_the_reason_is_tool_calls():
    pieces = [call("", id="c1", name="add"), call('{"a": '), call("1}")]
    named = {**TOOL, "toolName": "add"}
    assert events(HELLO, *pieces, finish(), DONE)[2:] == [
        {"type": "text-end", "id": "p1"},
        {"type": "tool-input-start", **named},
        {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": '{"a": '},
        {"type": "tool-input-delta", "toolCallId": "c1", "inputTextDelta": "1}"},
        {"type": "tool-input-available", **named, "input": {"a": 1}},
        {"type": "finish-step"},
        {"type": "finish", "finishReason": "tool-calls"},
    ]


def test_after_a_tools_result_another_step_begins():
    assert types(call("{}", id="c1", name="add"), RESULT, HELLO, finish(), DONE) == [
        "tool-input-start",
        "tool-input-delta",
        "tool-input-available",
        "tool-output-available",
        "finish-step",
        "start-step",
        "text-start",
        "text-delta",
        "text-end",
        "finish-step",
        "finish",
    ]


def test_an_answered_call_leaves_the_reason_stop():
    assert events(call("{}", id="c1", name="add"), RESULT, HELLO, finish(), DONE)[-1:] == END[-1:]


def test_a_tool_that_failed_says_why():
    failed = (Kind.TOOL_RESULT, {"id": "c1", "error": "No such day."})
    event = events(call("{}", id="c1", name="add"), failed)[-1]
    assert event == {"type": "tool-output-error", **TOOL, "errorText": "No such day."}


def test_a_result_of_an_unknown_call_is_left_out():
    assert events(HELLO, RESULT, finish(), DONE)[-2:] == END


def test_a_call_without_an_id_or_arguments_gets_them():
    event = events(call("", name="today"), finish(), DONE)[0]
    assert (event["toolCallId"], event["input"]) == ("call-1", {})


def test_a_call_without_arguments_takes_its_result():
    assert types(call("", id="c1", name="now"), RESULT, HELLO)[:2] == [
        "tool-input-available",
        "tool-output-available",
    ]


@pytest.mark.parametrize("arguments", ["{", "NaN", "[" * 100_000])
def test_arguments_that_are_no_json_are_an_error_of_the_call(arguments):
    *_, event, _, _ = events(call(arguments, id="c1", name="add"), finish(), DONE)
    assert event["type"] == "tool-input-error"
    assert event["input"] == arguments


def test_two_calls_at_once_keep_their_pieces_apart():
    pieces = [call("[", 0, id="a", name="f"), call("{", 1, id="b", name="g")]
    pieces += [call("]", 0), call("}", 1)]
    whole = [event for event in events(*pieces, finish(), DONE) if "input" in event]
    assert [(event["toolCallId"], event["input"]) for event in whole] == [("a", []), ("b", {})]


TEXTS = st.tuples(
    st.sampled_from([Kind.TEXT, Kind.REASONING]), st.fixed_dictionaries({"text": st.text()})
)
PIECES = st.builds(
    call,
    st.text("[]1", max_size=2),
    st.integers(0, 1),
    id=st.sampled_from(["", "c1", "c2"]),
    name=st.sampled_from(["", "f"]),
)
RESULTS = st.tuples(
    st.just(Kind.TOOL_RESULT),
    st.fixed_dictionaries({"id": st.sampled_from(["c1", "c2"]), "output": st.none()}),
)
ENDINGS = st.sampled_from([DONE, (Kind.ERROR, error_data("stopped"))])


@given(st.lists(st.one_of(TEXTS, PIECES, RESULTS)), ENDINGS)
def test_whatever_a_run_says_the_client_accepts_the_order(frames, ending):
    open_parts, calls = set(), set()
    for event in events(*frames, finish(), ending):
        verb = event["type"].rpartition("-")[2]
        if event["type"] in ("tool-input-start", "tool-input-available"):
            calls.add(event["toolCallId"])
        elif "id" in event:
            assert (event["id"] in open_parts) is (verb != "start")
            open_parts = {event["id"]} if verb != "end" else set()
        elif event["type"] in ("tool-input-delta", "tool-output-available"):
            assert event["toolCallId"] in calls
    assert not open_parts
    assert event["type"] in ("finish", "error")
