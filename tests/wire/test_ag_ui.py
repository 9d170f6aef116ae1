"""AG-UI's format, byte by byte; its client's rules of order hold for whatever a run may say."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import ERRORS, error_data
from chatstream.wire.ag_ui import AGUIFormat, answer_id

USAGE = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
DONE = (Kind.DONE, {})
START = (Kind.START, {"run": "r1", "model": "x"})
HELLO = (Kind.TEXT, {"text": "Hello"})


def text(said):
    return (Kind.TEXT, {"text": said})


def thought(said):
    return (Kind.REASONING, {"text": said})


def piece(arguments, **more):
    return (Kind.TOOL_CALL, {"index": 0, "arguments": arguments, **more})


def finish(outcome="completed", **more):
    return (Kind.FINISH, {"outcome": outcome, **more})


def error(code, **more):
    return (Kind.ERROR, error_data(code, **more))


def encoded(*frames: tuple[Kind, dict[str, Any]], cuts: int = 1, **options: Any) -> bytes:
    """Return the whole stream; ``cuts`` is how many writes it is made of."""
    wire = AGUIFormat(thread="t1", run="c1", message="m1", **options)
    numbered = [Frame(number, kind, data) for number, (kind, data) in enumerate(frames, 1)]
    size = len(numbered) // cuts + 1
    writes = [numbered[at : at + size] for at in range(0, len(numbered), size)]
    return wire.opening() + b"".join(map(wire.encode_all, writes))


def events(*frames: tuple[Kind, dict[str, Any]], **options: Any) -> list[dict[str, Any]]:
    blocks = encoded(*frames, **options).decode().split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


def kinds(found: list[dict[str, Any]]) -> list[str]:
    return [event["type"] for event in found]


GOLDEN = b"""\
data: {"type": "RUN_STARTED", "threadId": "t1", "runId": "c1", "protocolVersion": "1.0"}

data: {"type": "REASONING_START", "messageId": "m1.reasoning.1"}

data: {"type": "REASONING_MESSAGE_START", "messageId": "m1.reasoning.1", "role": "reasoning"}

data: {"type": "REASONING_MESSAGE_CONTENT", "messageId": "m1.reasoning.1", "delta": "Hm"}

data: {"type": "REASONING_MESSAGE_END", "messageId": "m1.reasoning.1"}

data: {"type": "REASONING_END", "messageId": "m1.reasoning.1"}

data: {"type": "TEXT_MESSAGE_START", "messageId": "m1", "role": "assistant"}

data: {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": "Hello"}

data: {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m1", "delta": "\\n: \\u2028\\ud83c\\udf89\\r"}

data: {"type": "TEXT_MESSAGE_END", "messageId": "m1"}

data: {"type": "RUN_FINISHED", "threadId": "t1", "runId": "c1", "outcome": {"type": "success"}, \
"result": {"finishReason": "stop"}, \
"usage": [{"model": "x", "inputTokens": 7, "outputTokens": 10, "totalTokens": 17}]}

"""


def test_an_answer_to_the_byte():
    awkward = text("\n: \u2028🎉\r")
    frames = (START, thought("Hm"), HELLO, awkward, finish(usage=USAGE), DONE)
    assert encoded(*frames, model="x") == GOLDEN


def test_the_first_event_tells_what_the_view_wants_told():
    started = events(metadata={"stop_url": "/s/"})[0]
    assert started["metadata"] == {"stop_url": "/s/"}


def test_no_line_is_anything_but_data_or_a_comment():
    frames = (START, text("\nid: 1\r\n\nevent: x\n\nretry: 5"), finish(), DONE)
    lines = (encoded(*frames) + AGUIFormat.heartbeat).splitlines()
    assert {line.partition(b":")[0] for line in lines if line} == {b"", b"data"}


@pytest.mark.parametrize(
    ("finished", "reason"),
    [
        (finish(), "stop"),
        (finish(finish_reason="eos"), "stop"),
        (finish(finish_reason="tool_calls"), "tool_calls"),
        (finish("truncated", finish_reason="max_tokens"), "length"),
    ],
)
def test_a_success_has_its_reason_in_the_result(finished, reason):
    last = events(START, HELLO, finished, DONE)[-1]
    assert last["type"] == "RUN_FINISHED"
    assert last["outcome"] == {"type": "success"}
    assert last["result"] == {"finishReason": reason}


def test_a_stopped_answer_is_closed_and_cancelled():
    found = events(START, HELLO, finish("stopped", usage=USAGE), error("stopped"))
    assert kinds(found)[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
    assert found[-1]["outcome"] == {"type": "cancelled"}
    assert found[-1]["usage"][0]["outputTokens"] == 10
    assert "result" not in found[-1]


@pytest.mark.parametrize("code", sorted(ERRORS.keys() - {"stopped"}))
def test_every_other_error_is_a_run_error_with_its_code(code):
    found = events(START, HELLO, finish("failed"), error(code))
    message = ERRORS[code].message
    assert kinds(found)[-2:] == ["TEXT_MESSAGE_END", "RUN_ERROR"]
    assert found[-1] == {
        "type": "RUN_ERROR",
        "message": message,
        "code": code,
        "metadata": {"retryable": ERRORS[code].is_retryable},
    }


def test_an_error_says_how_long_to_wait_and_what_was_used():
    finished = finish("failed", usage=USAGE)
    last = events(START, finished, error("upstream_rate_limited", retry_after=5))[-1]
    assert last["metadata"] == {"retryable": True, "retry_after": 5}
    assert last["usage"] == [{"inputTokens": 7, "outputTokens": 10, "totalTokens": 17}]


def test_usage_has_the_protocols_names_and_is_left_out_without_counts():
    usage = {"reasoning_tokens": 3, "cached_tokens": 2, "anything": 9}
    last = events(START, finish(usage=usage), DONE)[-1]
    assert last["usage"] == [{"reasoningTokens": 3, "cachedInputTokens": 2}]
    assert "usage" not in events(START, finish(), DONE)[-1]


def test_an_empty_answer_has_no_message():
    assert kinds(events(START, finish(), DONE)) == ["RUN_STARTED", "RUN_FINISHED"]


CALL = [piece("", id="c9", name="look"), piece('{"a": '), piece("1}")]


def test_a_tool_call_belongs_to_the_message_and_is_closed_before_the_end():
    found = events(START, HELLO, *CALL, finish(finish_reason="tool_calls"), DONE)
    calls = [event for event in found if event["type"].startswith("TOOL_CALL")]
    assert calls == [
        {
            "type": "TOOL_CALL_START",
            "toolCallId": "m1.call.1",
            "toolCallName": "look",
            "parentMessageId": "m1",
        },
        {"type": "TOOL_CALL_ARGS", "toolCallId": "m1.call.1", "delta": '{"a": '},
        {"type": "TOOL_CALL_ARGS", "toolCallId": "m1.call.1", "delta": "1}"},
        {"type": "TOOL_CALL_END", "toolCallId": "m1.call.1"},
    ]


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ({"output": "42"}, "42"),
        ({"output": {"n": 42}}, '{"n": 42}'),
        ({"error": "no such"}, "no such"),
    ],
)
def test_a_tools_result_closes_its_call_and_begins_another_message(result, content):
    round_ = (*CALL, (Kind.TOOL_RESULT, {"id": "c9", **result}))
    found = events(START, *round_, HELLO, *round_, text("!"), finish(), DONE)
    results = [event for event in found if event["type"] == "TOOL_CALL_RESULT"]
    assert [(one["toolCallId"], one["content"]) for one in results] == [
        ("m1.call.1", content),
        ("m1.call.2", content),
    ]
    ids = [event["messageId"] for event in found if event["type"] == "TEXT_MESSAGE_START"]
    assert len({*ids, *(one["messageId"] for one in results), "m1"}) == 5
    assert {answer_id(one) for one in ids} == {"m1"}


def test_a_result_of_no_call_is_left_out():
    found = events(START, (Kind.TOOL_RESULT, {"id": "c9", "output": "x"}), finish(), DONE)
    assert kinds(found) == ["RUN_STARTED", "RUN_FINISHED"]


# The rules of order ------------------------------------------------------------------------------

# What opens, fills and closes something that is known by an id, and which id that is.
SPANS = [
    ("TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "messageId"),
    ("TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "toolCallId"),
    ("REASONING_START", None, "REASONING_END", "messageId"),
    (
        "REASONING_MESSAGE_START",
        "REASONING_MESSAGE_CONTENT",
        "REASONING_MESSAGE_END",
        "messageId",
    ),
]
ENDS = ("RUN_FINISHED", "RUN_ERROR")


def breaches(found: list[dict[str, Any]]) -> list[str]:
    """Return what the client would reject, and what it would take for something else."""
    names = kinds(found)
    told = []
    if names[0] != "RUN_STARTED" or names.count("RUN_STARTED") != 1:
        told.append("RUN_STARTED is not the first event, once")
    if names[-1] not in ENDS or sum(name in ENDS for name in names) != 1:
        told.append("the end is not the last event, once")
    if None in [value for event in found for value in event.values()]:
        told.append("null")
    return told + [breach for span in SPANS for breach in _span_breaches(found, *span)]


def _span_breaches(
    found: list[dict[str, Any]], start: str, content: str | None, end: str, id_name: str
) -> list[str]:
    told, seen = [], set()
    is_open: set[str] = set()
    for event in found:
        kind, id = event["type"], event.get(id_name)
        if kind == start and id in seen:
            told.append(f"{start} comes again for {id}")
        if kind in (content, end) and id not in is_open:
            told.append(f"{kind} for {id}, which is not open")
        if kind == start:
            seen.add(id)
            is_open.add(id)
        elif kind == end:
            is_open.discard(id)
    return told + [f"{start} of {id} is never closed" for id in is_open]


def test_a_breach_is_found():
    started, opened, said, ended, finished = events(START, HELLO, finish(), DONE)
    assert breaches([started, opened, said, ended, finished]) == []
    for broken in (
        [opened, said, ended, finished],
        [started, opened, said, finished],
        [started, said, ended, finished],
        [started, opened, opened, said, ended, finished],
        [started, opened, said, ended],
        [started, opened, said, ended, finished, ended],
        [started, {**opened, "name": None}, said, ended, finished],
    ):
        assert breaches(broken)


TEXTS = st.sampled_from(["a", " ", "\n", "null?", "🎉", "\ud83c", "data: [DONE]\n\n"])
IDS = st.sampled_from(["c1", "c2", "c3"])
SAID = st.one_of(
    TEXTS.map(text),
    TEXTS.map(thought),
    st.fixed_dictionaries(
        {"index": st.integers(0, 2), "arguments": st.sampled_from(["", "{", "}"])},
        optional={"id": IDS, "name": st.just("look")},
    ).map(lambda data: (Kind.TOOL_CALL, data)),
    IDS.map(lambda id: (Kind.TOOL_RESULT, {"id": id, "output": "out"})),
)
ENDINGS = st.one_of(
    st.sampled_from([(finish(), DONE), (finish("truncated", usage=USAGE), DONE)]),
    st.sampled_from(sorted(ERRORS)).map(lambda code: (finish("failed"), error(code))),
    st.sampled_from(["storage", "expired"]).map(lambda code: (error(code),)),  # seq 0: no finish
)


@given(st.lists(SAID, max_size=30), ENDINGS, st.integers(1, 9))
def test_the_rules_of_order_hold_for_whatever_a_run_says(said, ending, cuts):
    found = events(START, *said, *ending, cuts=cuts)
    assert breaches(found) == []
    for kind, event in [(Kind.TEXT, "TEXT_MESSAGE"), (Kind.REASONING, "REASONING_MESSAGE")]:
        sent = [data["text"] for frame, data in said if frame is kind]
        assert [one["delta"] for one in found if one["type"] == f"{event}_CONTENT"] == sent


@given(st.lists(SAID, max_size=30), ENDINGS, st.integers(1, 9))
def test_how_the_frames_were_gathered_changes_no_byte(said, ending, cuts):
    frames = (START, *said, *ending)
    assert encoded(*frames, cuts=cuts) == encoded(*frames)
