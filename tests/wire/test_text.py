"""The bare text, and what its last line says."""

import pytest

from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import error_data
from chatstream.wire.text import TextFormat

HELLO = [Frame(1, Kind.START, {"run": "r", "model": "m"}), Frame(2, Kind.TEXT, {"text": "Hé\n"})]


def encoded(*frames: Frame) -> str:
    wire = TextFormat()
    return (wire.opening() + wire.encode_all([*HELLO, *frames])).decode()


def finish(outcome: str) -> Frame:
    return Frame(3, Kind.FINISH, {"outcome": outcome})


def test_a_whole_answer_is_its_text_and_nothing_else() -> None:
    assert encoded(finish("completed"), Frame(4, Kind.DONE, {})) == "Hé\n"


def test_an_answer_cut_at_its_limit_says_so() -> None:
    assert "\n[truncated: " in encoded(finish("truncated"), Frame(4, Kind.DONE, {}))


@pytest.mark.parametrize("code", ["stopped", "upstream_timeout", "interrupted", "filtered"])
def test_an_error_is_the_last_line_in_brackets(code: str) -> None:
    data = error_data(code)
    last = encoded(finish("failed"), Frame(4, Kind.ERROR, data)).splitlines()[-1]
    assert last == f"[{code}: {data['message']}]"


def test_reasoning_and_tools_are_not_text() -> None:
    asides = [
        Frame(3, Kind.REASONING, {"text": "Hm"}),
        Frame(4, Kind.TOOL_CALL, {"index": 0, "arguments": "{}"}),
    ]
    assert encoded(*asides) == "Hé\n"


def test_half_a_surrogate_pair_breaks_nothing() -> None:
    assert TextFormat().encode_all([Frame(1, Kind.TEXT, {"text": "a\ud83c"})]) == b"a?"


def test_silence_is_silence() -> None:
    assert TextFormat().heartbeat == b""
