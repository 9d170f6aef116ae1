"""The event stream: the WHATWG's own examples, and any cutting of any bytes."""

import re
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatstream.core.sse import Decoder, Event, EventTooLarge, encode


def decode(*pieces: bytes) -> list[Event]:
    decoder = Decoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def data_of(events: list[Event]) -> list[bytes]:
    return [event.data for event in events]


def reference(stream: bytes) -> list[Event]:
    """The specification's steps, word for word, over the whole stream at once."""
    stream = stream.removeprefix(b"\xef\xbb\xbf")
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")[:-1]
    events, buffer, name, last_id = [], b"", "", ""
    for line in lines:
        if line == b"":
            if buffer:
                events.append(Event(buffer.removesuffix(b"\n"), name, last_id))
            buffer, name = b"", ""
        elif line.startswith(b":"):
            continue
        else:
            field, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if field == b"data":
                buffer += value + b"\n"
            elif field == b"event":
                name = value.decode(errors="replace")
            elif field == b"id" and b"\0" not in value:
                last_id = value.decode(errors="replace")
    return events


def cut(stream: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(stream) + 1) for place in places), len(stream)]
    return [stream[begin:end] for begin, end in pairwise(edges)]


# The specification's examples, https://html.spec.whatwg.org/multipage/server-sent-events.html


def test_three_lines_of_data_are_one_event():
    stream = b"data: YHOO\ndata: +2\ndata: 10\n\n"
    assert decode(stream) == [Event(b"YHOO\n+2\n10")]


def test_the_example_of_four_blocks():
    stream = (
        b": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event"
    )
    assert decode(stream) == [Event(b"first event", "", "1"), Event(b"second event", "", "")]


def test_an_empty_data_field_is_an_empty_event_and_a_cut_one_is_none():
    # The specification dispatches an empty string for the first block, a newline for the second.
    stream = b"data\n\ndata\ndata\n\ndata:"
    assert data_of(decode(stream)) == [b"", b"\n"]


def test_the_space_after_the_colon_is_ignored_once():
    assert data_of(decode(b"data:test\n\ndata: test\n\ndata:  test\n\n")) == [
        b"test",
        b"test",
        b" test",
    ]


def test_named_events_of_the_specification():
    stream = b"event: add\ndata: 73857293\n\nevent: remove\ndata: 2153\n\ndata: 1\n\n"
    assert decode(stream) == [Event(b"73857293", "add"), Event(b"2153", "remove"), Event(b"1")]


# Line ends and the byte-order mark


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_every_line_end_ends_a_line(end):
    stream = end.join([b"event: a", b"data: one", b"data: two", b"", b"data: three", b"", b""])
    assert decode(stream) == [Event(b"one\ntwo", "a"), Event(b"three")]


def test_line_ends_may_be_mixed():
    assert decode(b"data: a\r\ndata: b\rdata: c\n\r\ndata: d\n\r") == [
        Event(b"a\nb\nc"),
        Event(b"d"),
    ]


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_stream_cut_after_every_byte_reads_the_same(end):
    stream = b"data: a\n: c\nid: 5\nevent: e\ndata: b\n\ndata: \xf0\x9f\x8e\x89\n\n".replace(
        b"\n", end
    )
    pieces = [bytes([byte]) for byte in stream]
    assert decode(*pieces) == reference(stream) == decode(stream)


def test_an_event_ended_by_cr_is_yielded_without_waiting_for_an_lf():
    assert decode(b"data: a\r\r") == [Event(b"a")]
    assert decode(b"data: a\r\n\r", b"\ndata: b\r\n\r\n") == [Event(b"a"), Event(b"b")]


@pytest.mark.parametrize(
    "pieces", [[b"\xef\xbb\xbfdata: a\n\n"], [b"\xef", b"\xbb", b"\xbfdata: a\n\n"]]
)
def test_one_byte_order_mark_at_the_start_is_ignored(pieces):
    assert decode(*pieces) == [Event(b"a")]


def test_only_the_first_byte_order_mark_is_ignored():
    assert decode(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n") == [Event(b"b")]
    assert decode(b"data: a\n\n\xef\xbb\xbfdata: b\n\n") == [Event(b"a")]


# Fields


def test_comments_and_unknown_fields_are_ignored():
    assert decode(b": hi\n:\nfoo: bar\ndata: a\nnonsense\nDATA: b\n data: c\n\n") == [Event(b"a")]


def test_a_block_without_data_is_no_event_and_its_name_is_forgotten():
    assert decode(b"event: lost\n\ndata: a\n\n") == [Event(b"a")]


def test_the_last_of_two_names_counts():
    assert decode(b"event: a\nevent: b\ndata: x\n\n") == [Event(b"x", "b")]


def test_an_id_stays_until_another_one_comes():
    stream = b"id: 1\ndata: a\n\ndata: b\n\nid: 2\n\ndata: c\n\nid\ndata: d\n\n"
    assert [event.id for event in decode(stream)] == ["1", "1", "2", ""]


def test_an_id_with_nul_is_ignored():
    assert decode(b"id: 1\ndata: a\n\nid: 2\x003\ndata: b\n\n")[1].id == "1"


def test_retry_takes_digits_only():
    decoder = Decoder()
    assert (
        list(decoder.feed(b"retry: 1000\n\nretry: soon\nretry:\nretry: -1\nretry: 1.5\n\n")) == []
    )
    assert decoder.retry_ms == 1000


def test_a_retry_of_ten_thousand_digits_is_no_error():
    decoder = Decoder()
    assert list(decoder.feed(b"retry: " + b"9" * 10_000 + b"\ndata: a\n\n")) == [Event(b"a")]
    assert decoder.retry_ms is not None


def test_bytes_that_are_not_utf8_pass_as_data():
    assert decode(b"data: \xff\xfe\n\n") == [Event(b"\xff\xfe")]


def test_an_event_that_is_not_closed_is_not_yielded():
    assert decode(b"data: a\n") == []
    assert decode(b"data: a") == []


# Caps


@pytest.mark.parametrize(
    "endless", [b"data: x", b": comment", b"data: x\n", b"event: x", b"data\n"], ids=repr
)
def test_an_event_without_end_is_refused(endless):
    decoder = Decoder(max_event_bytes=1000)

    def feed_for_ever():
        for _ in range(5000):
            list(decoder.feed(endless))

    with pytest.raises(EventTooLarge, match="1000"):
        feed_for_ever()


def test_one_big_event_in_one_read_is_refused_after_the_events_before_it():
    events = Decoder(max_event_bytes=100).feed(b"data: a\n\ndata: " + b"x" * 101 + b"\n\n")
    assert next(events) == Event(b"a")
    with pytest.raises(EventTooLarge):
        next(events)


def test_the_cap_is_for_one_event_and_not_for_the_stream():
    decoder = Decoder(max_event_bytes=100)
    stream = b"data: " + b"x" * 80 + b"\n\n"
    assert sum(len(list(decoder.feed(stream * 10))) for _ in range(100)) == 1000


# Any bytes, any cutting

LINES = st.sampled_from(
    [
        b"data: one",
        b"data: ",
        b"data",
        b"data:x: y",
        b"data:  two",
        b"event: e",
        b"event",
        b"id: 7",
        b"id: \x00",
        b"id",
        b"retry: 5",
        b": comment",
        b":",
        b"",
        b"",
        b"other: x",
        "data: 🎉 ".encode(),
        b"data: \xff",
        b"\xef\xbb\xbf",
        b"\xef\xbb\xbfdata: bom",
    ]
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b"\r\n\r\n"])
STREAMS = st.one_of(
    st.lists(st.tuples(LINES, ENDS).map(b"".join), max_size=14).map(b"".join),
    st.lists(st.sampled_from([b"data: ab\n\n", b"\n", b"id: 1\n", b"e"]), max_size=12).map(
        b"".join
    ),
    st.binary(max_size=40),
)


@given(STREAMS, st.lists(st.integers(0, 400), max_size=12))
@example(b"data: a\r\n\r\ndata: b\n\n", [8, 9, 10, 11])
def test_any_cutting_of_the_same_bytes_gives_the_same_events(stream, places):
    assert decode(*cut(stream, places)) == reference(stream)


TEXTS = st.text(
    alphabet=st.one_of(st.sampled_from("\r\n:\0 \u2028\ufeffdataev"), st.characters(codec="utf-8"))
)
NAMES = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\n\0"), max_size=12)


@given(TEXTS, NAMES, NAMES)
def test_what_was_encoded_decodes_to_what_went_in(data, name, last_id):
    block = encode(data, event=name, id=last_id)
    expected = re.sub("\r\n|\r", "\n", data)  # an event stream knows one line end
    (event,) = decode(block)
    assert event == Event(expected.encode(), name, last_id)


@given(st.lists(TEXTS, max_size=6), st.lists(st.integers(0, 400), max_size=6))
def test_nothing_in_the_data_forges_an_event(texts, places):
    stream = b"".join(encode(text) for text in texts)
    events = decode(*cut(stream, places))
    assert len(events) == len(texts)
    assert {(event.event, event.id) for event in events} <= {("", "")}


@pytest.mark.parametrize("field", ["event", "id"])
@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b", "\n"])
def test_a_name_or_id_that_breaks_the_line_is_refused(field, bad):
    with pytest.raises(ValueError, match=field):
        encode("x", **{field: bad})
