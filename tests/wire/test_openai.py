"""OpenAI's format, byte by byte where a client looks."""

import json

import pytest

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import error_data
from chatstream.wire.base import status_of
from chatstream.wire.openai import OpenAIFormat, completion_of, error_body

USAGE = {"prompt_tokens": 7, "completion_tokens": 10, "total_tokens": 17}
HEAD = {"id": "chatcmpl-r1", "created": 5, "model": "m"}


def numbered(*frames):
    return [Frame(number, kind, data) for number, (kind, data) in enumerate(frames, 1)]


def finish(outcome="completed", **more):
    return (Kind.FINISH, {"outcome": outcome, **more})


DONE = (Kind.DONE, {})
HELLO = [(Kind.START, {"run": "r1", "model": "x"}), (Kind.TEXT, {"text": "Hello"})]


def stream(frames, **options):
    """Return the data of each event, JSON where it is."""
    wire = OpenAIFormat("r1", created=5, model="m", **options)
    encoded = (wire.opening() + wire.encode_all(frames)).decode()
    blocks = [block for block in encoded.split("\n\n") if block and not block.startswith(":")]
    data = [block.removeprefix("data: ") for block in blocks]
    return [json.loads(one) if one != "[DONE]" else one for one in data]


def whole(frames):
    return completion_of(frames, "r1", created=5, model="m")


def deltas(events):
    return [event["choices"][0]["delta"] for event in events if event != "[DONE]"]


def test_an_answer_is_its_role_its_text_its_reason_and_done():
    events = stream(numbered(*HELLO, finish(), DONE))
    assert deltas(events) == [{"role": "assistant", "content": ""}, {"content": "Hello"}, {}]
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None, None, "stop"]
    assert events[-1] == "[DONE]"
    for event in events[:-1]:
        assert event.items() >= (HEAD | {"object": "chat.completion.chunk"}).items()


def test_no_line_has_an_id_or_a_retry_and_every_block_ends():
    wire = OpenAIFormat("r1", created=5, model="m")
    frames = numbered(*HELLO, (Kind.TEXT, {"text": "\nid: 1\r\n\nretry: 5"}), finish(), DONE)
    encoded = wire.opening() + wire.heartbeat + wire.encode_all(frames)
    assert encoded.endswith(b"data: [DONE]\n\n")
    lines = encoded.splitlines()
    assert {line.partition(b":")[0] for line in lines if line} == {b"", b"data"}


def test_usage_comes_in_a_chunk_of_its_own_if_it_was_asked_for():
    events = stream(numbered(*HELLO, finish(usage=USAGE), DONE), include_usage=True)
    assert events[-2]["choices"] == []
    assert events[-2]["usage"] == USAGE
    assert [event["usage"] for event in events[:-2]] == [None] * 3
    assert all("usage" not in event for event in stream(numbered(*HELLO, finish(), DONE))[:-1])


@pytest.mark.parametrize(("outcome", "reason"), [("completed", "stop"), ("truncated", "length")])
def test_an_outcome_is_one_of_openais_reasons(outcome, reason):
    frames = numbered(*HELLO, finish(outcome), DONE)
    assert stream(frames)[-2]["choices"][0]["finish_reason"] == reason
    assert whole(frames)["choices"][0]["finish_reason"] == reason


def test_a_filtered_answer_ends_as_openais_do():
    frames = numbered(*HELLO, finish("filtered"), (Kind.ERROR, error_data("filtered")))
    events = stream(frames)
    assert events[-2]["choices"][0]["finish_reason"] == "content_filter"
    assert events[-1] == "[DONE]"
    assert whole(frames)["choices"][0]["finish_reason"] == "content_filter"


@pytest.mark.parametrize("code", ["upstream_incomplete", "stopped", "interrupted", "storage"])
def test_an_error_is_an_object_and_nothing_is_done(code):
    frames = numbered(*HELLO, finish("failed"), (Kind.ERROR, error_data(code)))
    events = stream(frames)
    error = error_data(code)
    assert events[-1] == {
        "error": {
            "message": error["message"],
            "type": "server_error",
            "param": None,
            "code": code,
        }
    }
    assert "[DONE]" not in events
    assert whole(frames) == events[-1]


CALL = [
    (Kind.TOOL_CALL, {"index": 0, "id": "c1", "name": "look", "arguments": ""}),
    (Kind.TOOL_CALL, {"index": 0, "arguments": '{"a": '}),
    (Kind.TOOL_CALL, {"index": 0, "arguments": "1}"}),
]


def of(name, index, arguments="{}"):
    return (
        Kind.TOOL_CALL,
        {"index": index, "id": f"c{index}", "name": name, "arguments": arguments},
    )


BOTH = [of("site", 0), of("own", 1, ""), (Kind.TOOL_CALL, {"index": 1, "arguments": "{}"})]


def test_a_client_sees_those_of_its_own_tools_counted_from_nought():
    """The SDKs put calls into a list by their index."""
    frames = numbered(*BOTH, of("site", 2), of("own", 3), finish(), DONE)
    events = stream(frames, tools={"own"})
    calls = [delta["tool_calls"][0] for delta in deltas(events) if "tool_calls" in delta]
    assert [(call["index"], call.get("id")) for call in calls] == [(0, "c1"), (0, None), (1, "c3")]
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    choice = completion_of(frames, "r1", created=5, model="m", tools={"own"})["choices"][0]
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["c1", "c3"]


def test_calls_of_the_sites_tools_alone_are_no_calls_to_a_client():
    frames = numbered(of("site", 0), (Kind.TOOL_RESULT, {"id": "c0", "output": 1}), finish(), DONE)
    events = stream(frames, tools=frozenset())
    assert deltas(events) == [{"role": "assistant", "content": ""}, {}]
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    choice = completion_of(frames, "r1", created=5, model="m", tools=frozenset())["choices"][0]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] == "stop"


def test_tool_calls_pass_through_piece_by_piece():
    frames = numbered(HELLO[0], *CALL, finish(finish_reason="tool_calls"), DONE)
    events = stream(frames)
    calls = [delta["tool_calls"][0] for delta in deltas(events) if "tool_calls" in delta]
    function = {"name": "look", "arguments": ""}
    assert calls[0] == {"index": 0, "id": "c1", "type": "function", "function": function}
    assert calls[1] == {"index": 0, "function": {"arguments": '{"a": '}}
    assert events[-2]["choices"][0]["finish_reason"] == "tool_calls"
    message = whole(frames)["choices"][0]["message"]
    assert message["content"] is None
    assert message["tool_calls"] == [
        {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}
    ]


def test_reasoning_is_beside_the_content():
    frames = numbered(HELLO[0], (Kind.REASONING, {"text": "Hm"}), HELLO[1], finish(), DONE)
    assert {"reasoning_content": "Hm"} in deltas(stream(frames))
    message = whole(frames)["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("Hm", "Hello")


def test_a_whole_answer_has_its_usage():
    assert whole(numbered(*HELLO, finish(usage=USAGE), DONE))["usage"] == USAGE
    assert "usage" not in whole(numbered(*HELLO, finish(), DONE))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (413, "invalid_request_error"),
        (429, "rate_limit_error"),
        (503, "server_error"),
    ],
)
def test_an_error_has_openais_type(status, kind):
    data = {"code": "c", "message": "m"}
    assert error_body(data, status, "model")["error"] == {
        "message": "m",
        "type": kind,
        "param": "model",
        "code": "c",
    }


def test_a_failure_told_in_one_object_has_a_status():
    codes = ["upstream_rate_limited", "upstream_timeout", "upstream_auth", "storage", "internal"]
    assert [status_of(code) for code in codes] == [429, 504, 502, 503, 500]
