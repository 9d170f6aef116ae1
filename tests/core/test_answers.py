"""Frames put together: the answer so far, the last two frames, texts that are merged."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from chatstream.core.answers import Answer, Ending, last_frames
from chatstream.core.frames import Frame, Kind, merged
from chatstream.core.outcomes import ERRORS, Outcome, outcome_of_code

START = Frame(1, Kind.START, {"run": "r", "model": "m"})
CALL = Frame(3, Kind.TOOL_CALL, {"index": 0, "arguments": "{"})


def text(seq: int, text: str) -> Frame:
    return Frame(seq, Kind.TEXT, {"text": text})


def thought(seq: int, text: str) -> Frame:
    return Frame(seq, Kind.REASONING, {"text": text})


# Answers


def test_no_frames_are_no_answer() -> None:
    answer = Answer()
    assert (answer.text, answer.last_seq, answer.has_text, answer.is_ended) == ("", 0, False, False)


def test_an_answer_is_its_texts_joined() -> None:
    answer = Answer([START, text(2, "Hel"), thought(3, "hm"), text(4, "lo")])
    assert answer.text == "Hello"
    assert answer.has_text
    assert answer.last_seq == 4
    assert not answer.is_ended


def test_a_start_is_no_text() -> None:
    assert not Answer([START]).has_text


def test_frames_are_added_one_by_one() -> None:
    answer = Answer()
    for frame in (text(1, "a"), text(2, "b")):
        answer.add(frame)
    assert (answer.text, answer.last_seq) == ("ab", 2)


usages = st.none() | st.dictionaries(st.sampled_from(["total_tokens"]), st.integers(0), min_size=1)
successes = st.builds(
    Ending,
    outcome=st.sampled_from([outcome for outcome in Outcome if outcome.is_success]),
    text=st.just("Hello"),
    last_seq=st.just(4),
    finish_reason=st.none() | st.sampled_from(["stop", "length"]),
    usage=usages,
)
failures = st.builds(
    lambda code, reason, usage: Ending(outcome_of_code(code), "Hello", 4, code, reason, usage),
    st.sampled_from(sorted(ERRORS)),
    st.none() | st.just("content_filter"),
    usages,
)


@given(successes | failures)
def test_an_ending_is_read_back_from_the_frames_that_tell_it(ending: Ending) -> None:
    frames = [START, text(2, "Hello"), *last_frames(ending)]
    assert [frame.seq for frame in frames] == [1, 2, 3, 4]
    answer = Answer(frames)
    assert answer.is_ended
    assert answer.ending() == ending


@given(successes | failures)
def test_the_last_of_the_two_is_terminal_and_tells_success_or_the_code(ending: Ending) -> None:
    finish, last = last_frames(ending)
    assert not finish.is_terminal
    assert last.is_terminal
    assert finish.data["outcome"] == ending.outcome
    assert (last.kind is Kind.DONE) == (ending.error_code is None)
    assert last.data.get("code") == ending.error_code


# Merging


def test_adjoining_texts_become_one() -> None:
    frames = [text(1, "a"), text(2, "b"), thought(3, "c"), thought(4, "d"), text(5, "e")]
    assert merged(frames, 7) == [text(7, "ab"), thought(8, "cd"), text(9, "e")]


def test_other_frames_are_kept_apart() -> None:
    frames = [CALL, CALL, text(1, "a"), CALL]
    assert merged(frames, 1) == [
        CALL._replace(seq=1),
        CALL._replace(seq=2),
        text(3, "a"),
        CALL._replace(seq=4),
    ]


def test_half_surrogate_pairs_that_meet_are_joined_when_they_are_sent() -> None:
    (frame,) = merged([text(1, "\ud83d"), text(2, "\ude00")], 1)
    assert frame.data["text"].encode("utf-16", "surrogatepass").decode("utf-16") == "\U0001f600"


def test_nothing_merges_to_nothing() -> None:
    assert merged([], 1) == []


pieces = st.builds(
    lambda kind, words: Frame(0, kind, {"text": words}),
    st.sampled_from([Kind.TEXT, Kind.REASONING]),
    st.text(max_size=3),
)


@given(st.lists(pieces | st.just(CALL)), st.integers(1, 9))
def test_merging_keeps_what_is_said_and_numbers_without_a_gap(
    frames: list[Frame], first: int
) -> None:
    result = merged(frames, first)
    assert [frame.seq for frame in result] == list(range(first, first + len(result)))
    assert said(result) == said(frames)
    joined = {Kind.TEXT, Kind.REASONING}
    for one, other in pairwise(result):
        assert one.kind is not other.kind or one.kind not in joined


def said(frames: list[Frame]) -> list[tuple[str, str]]:
    """Each character with its kind, and each other frame."""
    return [
        (frame.kind, character)
        for frame in frames
        for character in (frame.data["text"] if "text" in frame.data else [str(frame.data)])
    ]
