"""What an upstream's chunks say: every shape that good servers send, and every one that is refused.

The contract runs twice: with the short cut of msgspec, and as an installation without it runs.
"""

import json
import subprocess
import sys
import zlib
from itertools import pairwise
from types import SimpleNamespace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatstream.core import chunks
from chatstream.core.chunks import DONE, NOTHING, Delta, DeltaReader, decode_chunk, delta_of
from chatstream.core.outcomes import RunError


@pytest.fixture(params=["short cut", "plain"], autouse=True)
def decoder(request, monkeypatch):
    """Run a test on both decoders; without msgspec there is only the plain one."""
    if request.param == "plain":
        monkeypatch.setattr(chunks, "plain_text", lambda data: None)
    return request.param


def choice(delta=..., **more):
    return {"index": 0, **({} if delta is ... else {"delta": delta}), **more}


def chunk(*choices, **more):
    return {"object": "chat.completion.chunk", "choices": list(choices), **more}


def decoded(value) -> Delta:
    return decode_chunk(json.dumps(value).encode())


def code_of(delta: Delta) -> str | None:
    return None if delta.error is None else delta.error.code


# Tolerated


@pytest.mark.parametrize(
    "preamble",
    [
        {},
        {"choices": None},
        {"choices": []},
        {"type": "ping"},
        chunk(),
        chunk(prompt_filter_results=[{"prompt_index": 0}]),
        chunk(choice({"content": "other"}, index=1)),
        chunk(usage=None),
        chunk(usage="many"),
        chunk(usage=[1]),
        chunk(usage={"prompt_tokens": None}),
        chunk(error=None),
        chunk(error={}),
        chunk(error=""),
    ],
)
def test_preamble_says_nothing_of_the_answer(preamble):
    assert decoded(preamble) == NOTHING


@pytest.mark.parametrize(
    "delta",
    [
        ...,
        None,
        {},
        {"role": "assistant"},
        {"content": None},
        {"content": ""},
        {"content": []},
        {"content": None, "refusal": None, "tool_calls": None, "function_call": None},
        {"tool_calls": []},
        {"reasoning_content": None, "reasoning": ""},
        {"reasoning": {"not": "text"}},
    ],
)
def test_a_choice_without_words_is_a_valid_chunk(delta):
    assert decoded(chunk(choice(delta))) == Delta(has_choice=True)


@pytest.mark.parametrize(
    "text", ["Hello", " ", "\n\ndata: x\0\u2028", "🎉", "\ud83c", "\udf89\ud83c", "\ufeff", "\x7f"]
)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_text_arrives_as_sent(text, ascii_only):
    data = json.dumps(chunk(choice({"content": text})), ensure_ascii=ascii_only)
    if not ascii_only and not is_encodable(text):
        pytest.skip("a lone surrogate has no UTF-8")
    assert decode_chunk(data.encode()) == Delta(text, has_choice=True)


def is_encodable(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def test_unknown_fields_are_ignored():
    value = chunk(
        choice({"content": "a", "x": {"y": [1, None, 1e400]}}, logprobs={"content": []}, z=1.5),
        system_fingerprint=None,
        obfuscation="k",
        x_groq={"id": "r"},
    )
    assert decoded(value) == Delta("a", has_choice=True)


@pytest.mark.parametrize("index", [0, None, ...])
def test_a_choice_without_an_index_is_choice_0(index):
    value = chunk({"delta": {"content": "a"}, **({} if index is ... else {"index": index})})
    assert decoded(value) == Delta("a", has_choice=True)


def test_with_n_2_only_choice_0_is_read():
    other, ours = choice({"content": "other"}, index=1), choice({"content": "ours"})
    assert decoded(chunk(other, ours)).text == "ours"
    assert decoded(chunk(ours, other)).text == "ours"
    assert decoded(chunk(choice({}, index=1, finish_reason="length"))) == NOTHING


def test_mistrals_parts_are_text_and_reasoning():
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}, {"text": "."}]},
        {"type": "thinking", "thinking": "So"},
        {"type": "text", "text": "An"},
        {"type": "text", "text": "swer"},
        {"type": "reference", "reference_ids": [1]},
    ]
    assert decoded(chunk(choice({"content": parts}))) == Delta("Answer", "Hm.So", has_choice=True)


def test_what_a_server_wants_back_with_a_call_is_kept():
    extra = {"google": {"thought_signature": "x"}}
    call = {"index": 0, "id": "a", "function": {"name": "look"}, "extra_content": extra}
    (piece,) = decoded(chunk(choice({"tool_calls": [call]}))).tool_calls
    assert piece == {
        "index": 0,
        "id": "a",
        "name": "look",
        "arguments": "",
        "extra_content": extra,
    }


@pytest.mark.parametrize("spelling", ["reasoning_content", "reasoning"])
def test_reasoning_is_no_answer_text(spelling):
    delta = decoded(chunk(choice({"content": "", spelling: "Hm"})))
    assert delta == Delta("", "Hm", has_choice=True, reasoning_field=spelling)


def test_a_server_that_spells_reasoning_twice_is_read_once():
    assert decoded(chunk(choice({"reasoning_content": "a", "reasoning": "a"}))).reasoning == "a"


def test_a_refusals_words_are_text():
    assert decoded(chunk(choice({"refusal": "I cannot."}))).text == "I cannot."


def test_tool_call_pieces():
    calls = [
        {"index": 1, "id": "c1", "function": {"name": "weather", "arguments": ""}},
        {"index": 1, "function": {"arguments": '{"city"'}},
        {"function": {"name": None}},
        {"index": None, "id": None, "function": None},
    ]
    assert decoded(chunk(choice({"tool_calls": calls}))).tool_calls == (
        {"index": 1, "id": "c1", "name": "weather", "arguments": ""},
        {"index": 1, "arguments": '{"city"'},
        {"index": 2, "arguments": ""},
        {"index": 3, "arguments": ""},
    )


def test_the_legacy_function_call_is_a_tool_call():
    call = {"name": "f", "arguments": "{}"}
    assert decoded(chunk(choice({"function_call": call}))).tool_calls == (
        {"index": 0, "name": "f", "arguments": "{}"},
    )


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "eos", "max_tokens", "a.b-C_1"])
def test_a_finish_reason_is_kept(reason):
    assert decoded(chunk(choice({}, finish_reason=reason))).finish_reason == reason


@pytest.mark.parametrize("reason", ["two words", "x" * 41, '"}\n\ndata:', "🎉"])
def test_a_finish_reason_that_is_no_word_is_unknown(reason):
    assert decoded(chunk(choice({}, finish_reason=reason))).finish_reason == "unknown"


@pytest.mark.parametrize("reason", [None, "", 0, False])
def test_an_empty_finish_reason_is_none(reason):
    assert decoded(chunk(choice({}, finish_reason=reason))) == Delta(has_choice=True)


def test_a_last_token_may_come_with_its_finish_reason():
    delta = decoded(chunk(choice({"content": "end"}, finish_reason="stop")))
    assert (delta.text, delta.finish_reason) == ("end", "stop")


def test_usage_counts_are_kept_and_nulls_left_out():
    usage = {
        "prompt_tokens": 7,
        "completion_tokens": 10,
        "total_tokens": None,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 1},
        "completion_tokens_details": None,
        "cost": 0.1,
    }
    expected = {"prompt_tokens": 7, "completion_tokens": 10, "cached_tokens": 3}
    assert decoded(chunk(usage=usage)) == Delta(usage=expected)
    assert decoded(chunk(choice({"content": "a"}), usage=usage)).usage == expected


@pytest.mark.parametrize("count", [-1, 1.5, True, "7", [7]])
def test_a_count_that_is_no_count_is_left_out(count):
    assert decoded(chunk(usage={"prompt_tokens": count, "total_tokens": 0})).usage == {
        "total_tokens": 0
    }


def test_numbers_that_json_does_not_know_are_no_harm_where_nobody_looks():
    assert decode_chunk(b'{"created": NaN, "choices": [{"delta": {"content": "a"}}]}').text == "a"
    assert decode_chunk(b'{"created": 1e999, "choices": [{"delta": {"content": "a"}}]}').text == "a"


# Refused


@pytest.mark.parametrize(
    "value",
    [
        None,
        "oops",
        42,
        True,
        [],
        [chunk()],
        {"choices": {"index": 0}},
        {"choices": "abc"},
        {"choices": 5},
        chunk(None),
        chunk("x"),
        chunk([]),
        chunk(choice("abc")),
        chunk(choice(["a"])),
        chunk(choice(5)),
        chunk(choice({"content": 5})),
        chunk(choice({"content": 0})),
        chunk(choice({"content": False})),
        chunk(choice({"content": {"text": "x"}})),
        chunk(choice({"content": ["x"]})),
        chunk(choice({"content": [{"text": 5}]})),
        chunk(choice({"refusal": 5})),
        chunk(choice({"tool_calls": {"index": 0}})),
        chunk(choice({"tool_calls": ["x"]})),
        chunk(choice({"tool_calls": [{"function": "f"}]})),
        chunk(choice({"tool_calls": [{"id": 5}]})),
        chunk(choice({"tool_calls": [{"function": {"arguments": {}}}]})),
        chunk(choice({}, finish_reason=5)),
        chunk(choice({}, finish_reason=["stop"])),
    ],
)
def test_what_is_no_chunk_is_malformed(value):
    assert code_of(decoded(value)) == "upstream_malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"{oops",
        b'{"choices": [',
        b'{"choices": []} x',
        b'{"choices": []}{"choices": []}',
        b"",
        b"\xff\xfe",
        b'{"choices": [{"delta": {"content": "\xff"}}]}',
        b'{"choices": [{"delta": {"content": "\xed\xa0\xbc"}}]}',
        b'{"choices": [{"delta": {"content": "\xc0\xaf"}}]}',
        b'{"choices": [{"delta": {"content": "\\x41"}}]}',
        b'{"choices": [{"delta": {"content": "a\nb"}}]}',
        b'\xef\xbb\xbf{"choices": []}',
        '{"choices": []}'.encode("utf-16"),
        b"[" * 200_000,
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"created": 1' + b"0" * 6000 + b', "choices": []}',
    ],
    ids=lambda data: repr(data[:30]),
)
def test_what_is_no_json_is_malformed(data):
    assert code_of(decode_chunk(data)) == "upstream_malformed"


@pytest.mark.parametrize("value", ["SECRET", ["SECRET"], {"choices": "SECRET"}])
def test_a_malformed_chunks_words_stay_out_of_the_detail(value):
    assert "SECRET" not in str(decoded(value).error)


# Errors in the stream


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ({"error": {"message": "x", "type": "server_error"}}, "upstream_error"),
        ({"error": {"code": "rate_limit_exceeded"}}, "upstream_rate_limited"),
        ({"error": {"code": 503}}, "upstream_unavailable"),
        ({"error": "text"}, "upstream_error"),
        ({"error": ["list"]}, "upstream_error"),
        ({"error": {"message": {"a": []}, "code": []}}, "upstream_error"),
        ({"object": "error", "message": "vLLM", "code": 400}, "upstream_rejected"),
        (chunk(choice({"content": "x"}), error={"message": "m"}), "upstream_error"),
    ],
)
def test_an_error_object_is_an_error_with_a_code_of_ours(value, code):
    assert code_of(decoded(value)) == code


def test_an_error_objects_message_stays_out_of_the_detail():
    error = decoded({"error": {"message": "key sk-SECRET", "type": "t", "code": "c"}}).error
    assert "SECRET" not in str(error)
    assert "'t'" in error.detail


# Chunks that are not bytes: what iterables yield


class Model:
    """A pydantic model, as far as it is looked at."""

    def __init__(self, value):
        self.value = value

    def model_dump(self, *, exclude_unset):
        assert exclude_unset
        return self.value


def test_an_iterable_may_yield_dicts_models_and_deltas():
    value = chunk(choice({"content": "a"}))
    delta = Delta("a", has_choice=True)
    assert delta_of(value) == delta_of(Model(value)) == delta_of(delta) == delta


def test_the_openai_packages_own_chunk_is_taken():
    from openai.types.chat import ChatCompletionChunk

    value = {"id": "x", "created": 1, "model": "m", **chunk(choice({"content": "a"}))}
    assert delta_of(ChatCompletionChunk.model_validate(value)) == Delta("a", has_choice=True)


@pytest.mark.parametrize("value", [None, "text", b"bytes", 5, [], SimpleNamespace(choices=[])])
def test_anything_else_is_a_type_error_that_names_it(value):
    with pytest.raises(TypeError, match=f"yielded {type(value).__name__}"):
        delta_of(value)


def test_a_dict_of_a_wrong_shape_is_malformed():
    assert code_of(delta_of({"choices": "x"})) == "upstream_malformed"


# The short cut says what the plain decoder says


JSON_STRINGS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(["stop", "", "\ud83c", "\udf89", "\ud83c\udf89", "\0", "\u2028", "é", "error"]),
)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.0, -0.0, 1e308]),
    JSON_STRINGS,
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(JSON_STRINGS, inner, max_size=2),
    max_leaves=4,
)


def sometimes(strategy):
    """Mostly what is due there; now and then anything."""
    return st.one_of(strategy, strategy, strategy, JSON)


DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "role": sometimes(st.just("assistant")),
        "content": sometimes(JSON_STRINGS),
        "reasoning_content": sometimes(st.none()),
        "reasoning": sometimes(st.none()),
        "refusal": sometimes(st.none()),
        "tool_calls": sometimes(st.none()),
        "function_call": sometimes(st.none()),
        "x": JSON,
    },
)
CHOICES = st.fixed_dictionaries(
    {"delta": sometimes(DELTAS)},
    optional={
        "index": sometimes(st.sampled_from([0, 1, None])),
        "finish_reason": sometimes(st.none()),
        "logprobs": JSON,
    },
)
CHUNKS = st.fixed_dictionaries(
    {"choices": sometimes(st.lists(sometimes(CHOICES), min_size=1, max_size=2))},
    optional={
        "id": JSON,
        "object": sometimes(st.just("chat.completion.chunk")),
        "usage": sometimes(st.none()),
        "error": sometimes(st.none()),
        "created": JSON,
    },
)


def assert_same_verdict(data: bytes) -> None:
    from chatstream.core.shortcut import plain_text

    text = plain_text(data)
    if text is not None:
        assert Delta(text, has_choice=True) == chunks._decode_any(data)


@given(CHUNKS, st.booleans())
@example({"choices": [{"delta": {"content": "a", "refusal": 0}}]}, True)
@example({"choices": [{"delta": {"content": "a", "refusal": False}}]}, True)
def test_the_short_cut_agrees_with_the_plain_decoder(value, ascii_only):
    pytest.importorskip("msgspec")
    try:
        data = json.dumps(value, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        data = json.dumps(value).encode()
    assert_same_verdict(data)


TEMPLATE = b'{"id": "x", "created": 1, "choices": [{"index": 0, "delta": {"content": "abc"}}]}'
SNIPPETS = st.sampled_from(
    [
        b'"',
        b"\\",
        b"\\u0000",
        b"\\ud83c",
        b"\\udf89",
        b"\\u12",
        b"\xff",
        b"\xed\xa0\xbc",
        b"\n",
        b"\0",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"NaN",
        b"9" * 25,
        b"1e999",
        b"-",
        b" ",
        b"01",
        b"1.",
        b'"error": 1, ',
        b'"choices": [], ',
        b"\xef\xbb\xbf",
        b"/**/",
        b"'",
        b"true",
    ]
)


@given(
    st.lists(
        st.tuples(st.integers(0, len(TEMPLATE)), st.integers(0, 4), SNIPPETS),
        min_size=1,
        max_size=3,
    )
)
def test_the_short_cut_agrees_on_damaged_chunks(changes):
    pytest.importorskip("msgspec")
    data = TEMPLATE
    for place, dropped, snippet in changes:
        data = data[:place] + snippet + data[place + dropped :]
    assert_same_verdict(data)


@pytest.mark.parametrize(
    "junk",
    [b'"\xff"', b'"\n"', b'"\\x"', b'"\\ud83c"', b"NaN", b"[" * 900 + b"]" * 900],
    ids=lambda junk: repr(junk[:12]),
)
def test_the_short_cut_agrees_on_what_it_skips(junk):
    pytest.importorskip("msgspec")
    assert_same_verdict(b'{"created": ' + junk + b', "choices": [{"delta": {"content": "a"}}]}')


WITHOUT_MSGSPEC = """
import sys
sys.modules["msgspec"] = None
from chatstream.core import chunks
assert "chatstream.core.shortcut" not in sys.modules
assert chunks.plain_text(b'{"choices": [{"delta": {"content": "a"}}]}') is None
print(ascii(chunks.decode_chunk(rb'{"choices": [{"delta": {"content": "a\\ud83c"}}]}')))
"""


def test_chunks_are_read_without_msgspec_installed():
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_MSGSPEC], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == ascii(Delta("a\ud83c", has_choice=True))


# The reader of a whole response


def event(value) -> bytes:
    return f"data: {value if isinstance(value, str) else json.dumps(value)}\n\n".encode()


def token(text):
    return chunk(choice({"content": text}))


ANSWER = b"".join(
    [
        b": hello\n\n",
        event(token("Hel")),
        event(token("lo 🎉")),
        event(chunk(choice({}, finish_reason="stop"))),
        event("[DONE]"),
    ]
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def received(reader: DeltaReader, pieces) -> list[Delta]:
    return [delta for piece in pieces for delta in reader.receive(piece)]


def texts(deltas: list[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


def said(deltas: list[Delta]) -> list[Delta]:
    """The deltas, with adjoining mere text joined and silence left out: what they say."""
    told: list[Delta] = []
    for delta in deltas:
        if told and delta.has_choice and delta == Delta(delta.text, has_choice=True):
            last = told[-1]
            if last == Delta(last.text, has_choice=True):
                told[-1] = Delta(last.text + delta.text, has_choice=True)
                continue
        if delta != NOTHING:
            told.append(delta)
    return told


def compress(data: bytes, coding: str, *, level=-1) -> bytes:
    packer = zlib.compressobj(level, wbits=31 if coding in ("gzip", "x-gzip") else 15)
    return packer.compress(data) + packer.flush()


def test_a_batch_is_what_one_read_brought():
    reader = DeltaReader()
    assert texts(reader.receive(event(token("a")) + event(token("b")))) == "ab"
    assert texts(reader.receive(event(token("c")))) == "c"
    assert reader.receive(b"data: ") == []
    assert not reader.is_done


def test_what_follows_done_is_ignored():
    reader = DeltaReader()
    deltas = reader.receive(ANSWER + event(token("after")) + event("not json"))
    assert deltas[-1] == DONE
    assert reader.is_done
    assert reader.receive(event(token("after"))) == []


@pytest.mark.parametrize("spelling", [b"data:[DONE]", b"data: [DONE]", b"data: [DONE] "])
def test_done_in_its_spellings(spelling):
    assert DeltaReader().receive(spelling + b"\n\n") == [DONE]


@pytest.mark.parametrize("heartbeat", [b"data:\n\n", b"data: \n\n", b"data\n\n", b"data:  \t\n\n"])
def test_an_event_with_empty_data_says_nothing(heartbeat):
    assert DeltaReader().receive(heartbeat) == [NOTHING]


def test_a_named_event_is_read_by_its_data():
    assert DeltaReader().receive(b"event: chunk\n" + event(token("a")))[0].text == "a"
    assert DeltaReader().receive(b"event: ping\ndata: {}\n\n") == [NOTHING]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b'{"detail": "x"}', "upstream_error"),
        (b"plain words", "upstream_error"),
        (b"[DONE]", "upstream_error"),
        (b"", "upstream_error"),
        (b'{"error": {"code": "rate_limit_exceeded"}}', "upstream_rate_limited"),
        (json.dumps(token("x")).encode(), "upstream_error"),
    ],
)
def test_an_event_named_error_is_an_error_whatever_it_says(data, code):
    reader = DeltaReader()
    (delta,) = reader.receive(b"event: error\ndata: " + data + b"\n\n")
    assert code_of(delta) == code


def test_what_follows_an_error_is_ignored_and_what_came_before_is_kept():
    reader = DeltaReader()
    deltas = reader.receive(event(token("a")) + event("{oops") + event(token("b")))
    assert [(delta.text, code_of(delta)) for delta in deltas] == [
        ("a", None),
        ("", "upstream_malformed"),
    ]
    assert reader.receive(event(token("b"))) == []


def test_an_event_over_the_cap_is_too_long_and_the_last():
    reader = DeltaReader(max_event_bytes=1000)
    deltas = reader.receive(event(token("a")) + b"data: " + b"x" * 2000)
    assert [code_of(delta) for delta in deltas] == [None, "too_long"]
    assert reader.receive(event(token("b"))) == []


@pytest.mark.parametrize("rest", [b"data: " + b"x" * 2000, b"data: " + b"x" * 2000 + b"\n\n"])
def test_an_event_over_the_cap_in_a_later_read_does_not_take_the_text_before_it(rest):
    reader = DeltaReader(max_event_bytes=1000)
    deltas = received(reader, [event(token("a")), event(token("b")) + rest])
    assert [code_of(delta) for delta in deltas] == [None, None, "too_long"]
    assert texts(deltas) == "ab"


@given(st.lists(st.integers(0, 10_000), max_size=10), st.sampled_from(["", "gzip", "deflate"]))
def test_any_cutting_of_a_response_says_the_same(places, coding):
    body = compress(ANSWER, coding) if coding else ANSWER
    assert said(received(DeltaReader(coding), cut(body, places))) == [
        Delta("Hello 🎉", has_choice=True),
        Delta(finish_reason="stop", has_choice=True),
        DONE,
    ]


EVENTS = st.sampled_from(
    [
        *(event(token(text)) for text in ("a", "", "🎉", "\ud83c")),
        event(chunk()),
        event(chunk(choice({"reasoning": "hm"}))),
        event(chunk(choice({"content": "end"}, finish_reason="length"))),
        event("[DONE]"),
        event("{oops"),
        event(token("crlf")).replace(b"\n", b"\r\n"),
        b"event: error\ndata: x\n\n",
        b"event: x\n" + event(token("n")),
        b"data: {\ndata: }\n\n",
        b"data: \n\n",
        b"id: 1\n\n",
        b": c\n\n",
        b"\n",
        b"\xef\xbb\xbf",
    ]
)


def shape(deltas: list[Delta]) -> list[str]:
    return [str(delta) for delta in said(deltas)]


@given(st.lists(EVENTS, max_size=10), st.lists(st.integers(0, 2000), max_size=10))
def test_what_a_stream_says_does_not_depend_on_the_reads(events, places):
    stream = b"".join(events)
    bytewise = received(DeltaReader(), [bytes([byte]) for byte in stream])
    assert shape(received(DeltaReader(), cut(stream, places))) == shape(bytewise)
    assert shape(received(DeltaReader(), [stream])) == shape(bytewise)
    assert shape(received(DeltaReader(), events)) == shape(bytewise)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", " GZIP "])
def test_compressed_bodies_are_read(coding):
    body = compress(ANSWER, coding.strip().lower())
    assert received(DeltaReader(coding), [body[:7], body[7:]])[-1] == DONE


def test_a_flushed_event_arrives_with_its_own_read():
    packer = zlib.compressobj(wbits=31)
    reader = DeltaReader("gzip")
    for text in "abc":
        piece = packer.compress(event(token(text))) + packer.flush(zlib.Z_SYNC_FLUSH)
        assert [delta.text for delta in reader.receive(piece)] == [text]


@pytest.mark.parametrize("size", [65_500, 65_536, 66_000, 131_000, 1_000_000])
def test_a_well_packed_event_is_not_left_in_the_inflater(size):
    for pad in range(0, 600, 37):
        body = event(token("x" * (size + pad)))
        deltas = DeltaReader("gzip").receive(compress(body, "gzip", level=9))
        assert [len(delta.text) for delta in deltas] == [size + pad]


def test_a_bomb_meets_the_cap_of_its_decoded_bytes():
    bomb = compress(b"data: " + b"x" * 50_000_000, "gzip", level=9)
    (delta,) = DeltaReader("gzip", max_event_bytes=100_000).receive(bomb)
    assert code_of(delta) == "too_long"


def test_a_damaged_compressed_body_is_malformed_after_what_was_read():
    packer = zlib.compressobj(wbits=31)
    good = packer.compress(event(token("a"))) + packer.flush(zlib.Z_SYNC_FLUSH)
    deltas = DeltaReader("gzip").receive(good + b"\xff" * 100)
    assert [code_of(delta) for delta in deltas][-1] == "upstream_malformed"


def test_a_damaged_compressed_body_is_reported_once():
    reader = DeltaReader("gzip")
    assert [code_of(delta) for delta in reader.receive(b"not gzip at all")] == [
        "upstream_malformed"
    ]
    assert reader.receive(b"more of it") == []


@pytest.mark.parametrize("coding", ["br", "zstd", "compress", "gzip, gzip", "nonsense"])
def test_an_encoding_that_was_not_asked_for_is_refused(coding):
    with pytest.raises(RunError) as caught:
        DeltaReader(coding)
    assert caught.value.code == "upstream_malformed"
    assert coding not in str(caught.value)
