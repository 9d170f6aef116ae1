"""htmx's format, byte by byte."""

import json

import pytest

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import error_data
from chatstream.wire.htmx import HtmxFormat, ended, error_span


def numbered(*frames):
    return [Frame(number, kind, data) for number, (kind, data) in enumerate(frames, 1)]


def text(content):
    return (Kind.TEXT, {"text": content})


def finish(outcome="completed"):
    return (Kind.FINISH, {"outcome": outcome})


START = (Kind.START, {"run": "r1", "model": "m"})
DONE = (Kind.DONE, {})


def encoded(*frames, **options):
    return HtmxFormat(**options).encode_all(numbered(*frames)).decode()


def shown(*contents):
    """Return what a browser makes of the spans, as HTML."""
    return "".join(
        block.removeprefix("data: ").replace("\ndata: ", "\n")
        for block in encoded(*map(text, contents)).split("\n\n")
    )


def test_an_answer_is_spans_and_done():
    assert encoded(START, text("Hello"), text(" "), finish(), DONE, run="r1") == (
        "id: r1:2\ndata: <span>Hello</span>\n\n"
        "id: r1:3\ndata: <span> </span>\n\n"
        'id: r1:5\nevent: done\ndata: {"outcome": "completed"}\n\n'
    )


def test_without_a_run_there_are_no_ids():
    assert encoded(text("Hello"), DONE) == (
        'data: <span>Hello</span>\n\nevent: done\ndata: {"outcome": "completed"}\n\n'
    )


def test_a_reader_gets_an_id_before_the_first_token():
    assert HtmxFormat("r1").opening() == b": open\nretry: 1000\nid: r1:0\n\n"
    assert HtmxFormat("r1", opening_html="<p>\nhi").opening() == (
        b": open\nretry: 1000\nid: r1:0\ndata: <p>\ndata: hi\n\n"
    )


def test_a_reader_that_comes_back_keeps_its_id():
    assert HtmxFormat("r1", opening_html=None).opening() == b": open\nretry: 1000\n"


@pytest.mark.parametrize(
    ("content", "html"),
    [
        ("<script>alert('&')</script>", "&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;"),
        ("\n\ndata: x\n", "\n\ndata: x\n"),
        ("a\r\nb\rc", "a\nb\nc"),
        ("\u2028\u2029\u0085\ufeff🎉", "\u2028\u2029\u0085\ufeff🎉"),
        ("a\0b", "a\ufffdb"),
        ("\ud83c", "?"),
    ],
)
def test_text_is_text(content, html):
    assert shown(content) == f"<span>{html}</span>"


def test_a_line_end_that_comes_in_two_frames_is_one():
    assert shown("a\r", "\nb", "\n") == "<span>a\n</span><span>b</span><span>\n</span>"


def test_nothing_in_a_text_begins_a_line():
    lines = encoded(text("a\nid: 1\r\rdata: x\n\nevent: done\n"), run="r1").splitlines()
    assert {line.partition(":")[0] for line in lines if line} == {"id", "data"}
    assert [line for line in lines if line.startswith("id")] == ["id: r1:1"]


@pytest.mark.parametrize("code", ["upstream_incomplete", "stopped", "filtered", "interrupted"])
def test_a_failure_is_seen_told_and_ends(code):
    outcome = code if code != "upstream_incomplete" else "failed"
    error = error_data(code)
    frames = [START, text("a"), finish(outcome), (Kind.ERROR, error)]
    _, seen, told, end, rest = encoded(*frames, run="r1").split("\n\n")
    assert seen == f"id: r1:4\ndata: {error_span(code, error['message'])}"
    assert told == f"event: chat-error\ndata: {json.dumps(error)}"
    assert (end, rest) == (f'event: done\ndata: {{"outcome": "{outcome}"}}', "")


def test_an_error_of_a_connection_has_no_id():
    block = HtmxFormat("r1").encode_all([Frame(0, Kind.ERROR, error_data("storage"))]).decode()
    assert "id:" not in block
    assert block.endswith('event: done\ndata: {"outcome": "failed"}\n\n')


def test_a_truncated_answer_says_so():
    note = 'data: <span class="chatstream-note">The answer reached its length limit.</span>\n\n'
    assert encoded(text("a"), finish("truncated"), DONE).endswith(
        f'{note}event: done\ndata: {{"outcome": "truncated"}}\n\n'
    )


def test_a_page_has_its_own_words():
    words = {"stopped": "Angehalten & aus", "truncated": "Zu lang"}
    error = (Kind.ERROR, error_data("stopped"))
    assert "Angehalten &amp; aus</span>" in encoded(error, words=words)
    assert '"message": "Angehalten & aus"' in encoded(error, words=words)
    assert "Zu lang</span>" in encoded(finish("truncated"), DONE, words=words)


def test_what_is_to_come_last_comes_before_done():
    blocks = encoded(text("a"), DONE, closing_html="<i></i>").split("\n\n")
    assert blocks[1] == "data: <i></i>"
    assert blocks[2].startswith("event: done")


def test_who_lacks_nothing_is_told_the_end():
    assert ended("stopped") == b'event: done\ndata: {"outcome": "stopped"}\n\n'


def test_tools_and_reasoning_are_not_shown():
    call = (Kind.TOOL_CALL, {"index": 0, "arguments": "{}"})
    assert encoded((Kind.REASONING, {"text": "Hm"}), call) == ""
