"""The framer: whatever comes in, one terminal frame or none, and done only on evidence."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from chatstream.core.chunks import DONE, NOTHING, Delta
from chatstream.core.framer import TRANSITIONS, Framer, Input, State
from chatstream.core.frames import TERMINAL, Frame, Kind
from chatstream.core.outcomes import Outcome, RunError

VERDICTS = {State.ENDED, State.FAILED, State.LEFT}
STOP = Delta(finish_reason="stop", has_choice=True)
ROLE = Delta(has_choice=True)


def token(text: str) -> Delta:
    return Delta(text, has_choice=True)


def run(framer: Framer, *batches: list[Delta], end: bool = True) -> list[Frame]:
    """Drive a framer as the relay does: to the end of the bytes, or to the first error."""
    frames = [framer.start()]
    try:
        for batch in batches:
            frames.extend(framer.receive(batch))
        if end:
            framer.end()
    except RunError as exc:
        framer.fail(exc)
    return frames + framer.close()


def kinds(frames: list[Frame]) -> str:
    return " ".join(frame.kind for frame in frames)


def text_of(frames: list[Frame]) -> str:
    return "".join(frame.data["text"] for frame in frames if frame.kind is Kind.TEXT)


def joined(text: str) -> str:
    """The text as a reader joins it: halves of a pair that stand side by side are one character."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def code_of(frames: list[Frame]) -> str | None:
    return frames[-1].data.get("code")


# The table


def test_the_table_is_total():
    assert set(TRANSITIONS) == set(State)
    for moves in TRANSITIONS.values():
        assert set(moves) == set(Input)


@pytest.mark.parametrize("state", VERDICTS, ids=lambda state: state.name)
def test_a_verdict_is_final(state):
    assert set(TRANSITIONS[state].values()) == {state}


def test_no_state_goes_back():
    order = list(State)
    for state, moves in TRANSITIONS.items():
        assert all(order.index(target) >= order.index(state) for target in moves.values())


def test_success_is_reached_from_the_evidence_only():
    before = {state for state, moves in TRANSITIONS.items() if State.ENDED in moves.values()}
    assert before == {State.CONCLUDED, State.ENDED}
    assert TRANSITIONS[State.WAITING][Input.STOP] is State.WAITING


# Endings


def test_a_good_answer():
    framer = Framer("r1", "m1")
    frames = run(framer, [ROLE], [token("Hel"), token("lo")], [STOP, DONE])
    assert frames == [
        Frame(1, Kind.START, {"run": "r1", "model": "m1"}),
        Frame(2, Kind.TEXT, {"text": "Hello"}),
        Frame(3, Kind.FINISH, {"outcome": "completed", "finish_reason": "stop"}),
        Frame(4, Kind.DONE, {}),
    ]
    assert (framer.outcome, framer.error, framer.chars) == (Outcome.COMPLETED, None, 5)


def test_done_without_a_finish_reason_is_evidence():
    framer = Framer()
    assert kinds(run(framer, [token("a")], [DONE])) == "start text finish done"
    assert framer.finish_reason is None


def test_a_finish_reason_without_done_is_evidence():
    assert kinds(run(Framer(), [token("a")], [STOP])) == "start text finish done"


def test_an_empty_answer_with_a_finish_reason_is_an_answer():
    assert kinds(run(Framer(), [STOP])) == "start finish done"


@pytest.mark.parametrize(
    "batches",
    [[], [[DONE]], [[NOTHING], [DONE]], [[token("a")]], [[ROLE]]],
    ids=["nothing", "done alone", "done after preamble", "text alone", "role alone"],
)
def test_without_evidence_the_end_of_the_bytes_is_incomplete(batches):
    framer = Framer()
    frames = run(framer, *batches)
    assert (code_of(frames), framer.outcome) == ("upstream_incomplete", Outcome.FAILED)


def test_text_before_an_error_is_delivered():
    error = Delta(error=RunError("upstream_error"))
    frames = run(Framer(), [token("a")], [token("b"), error, token("c"), STOP])
    assert (text_of(frames), code_of(frames)) == ("ab", "upstream_error")


@pytest.mark.parametrize("fault", [RunError("upstream_timeout"), ValueError("x"), None])
def test_a_fault_after_the_evidence_changes_nothing(fault):
    framer = Framer()
    frames = [framer.start(), *framer.receive([token("a"), STOP])]
    if fault is not None:
        assert framer.fail(fault) is False
    assert kinds(frames + framer.close()) == "start text finish done"


def test_an_error_that_the_upstream_reports_decides_after_the_evidence_too():
    frames = run(Framer(), [token("a"), STOP], [Delta(error=RunError("upstream_error"))])
    assert code_of(frames) == "upstream_error"


def test_damage_after_the_evidence_changes_nothing():
    frames = run(Framer(), [token("a"), STOP], [Delta(error=RunError("upstream_malformed"))])
    assert frames[-1].kind is Kind.DONE


def test_an_answer_that_grows_over_the_cap_after_its_finish_reason_is_too_long():
    frames = run(Framer(max_answer_chars=3), [token("abc"), STOP], [token("d")])
    assert (text_of(frames), code_of(frames)) == ("abc", "too_long")


def test_a_fault_that_is_no_run_error_is_internal():
    framer = Framer()
    framer.start()
    assert framer.fail(ValueError("secret words")) is True
    last = framer.close()[-1]
    assert last.data["code"] == "internal"
    assert "secret" not in str(last)


def test_the_first_of_two_faults_decides():
    framer = Framer()
    assert framer.fail(RunError("upstream_timeout")) is True
    assert framer.fail(RunError("internal")) is False
    assert framer.close()[-1].data["code"] == "upstream_timeout"


def test_retry_after_reaches_the_reader():
    framer = Framer()
    framer.fail(RunError("upstream_rate_limited", retry_after=45))
    assert framer.close()[-1].data["retry_after"] == 45


def test_a_reader_that_left_is_no_success():
    framer = Framer()
    list(framer.receive([token("a")]))
    assert framer.close() == []
    assert (framer.outcome, framer.state) == (None, State.LEFT)


def test_a_reader_that_left_after_the_evidence_got_a_whole_answer():
    framer = Framer()
    list(framer.receive([token("a"), STOP]))
    framer.close()
    assert framer.outcome is Outcome.COMPLETED


def test_closing_twice_frames_once():
    framer = Framer()
    run(framer, [token("a"), STOP])
    assert framer.close() == []


@pytest.mark.parametrize("verdict", ["end", "fail", "close"])
def test_nothing_is_received_after_a_verdict(verdict):
    framer = Framer()
    list(framer.receive([token("a"), STOP]))
    framer.fail(RunError("internal")) if verdict == "fail" else getattr(framer, verdict)()
    assert list(framer.receive([token("b")])) == []


@pytest.mark.parametrize(
    ("reason", "outcome", "code"),
    [
        ("stop", Outcome.COMPLETED, None),
        ("tool_calls", Outcome.COMPLETED, None),
        ("eos", Outcome.COMPLETED, None),
        ("unknown", Outcome.COMPLETED, None),
        ("length", Outcome.TRUNCATED, None),
        ("max_tokens", Outcome.TRUNCATED, None),
        ("content_filter", Outcome.FILTERED, "filtered"),
        ("error", Outcome.FAILED, "upstream_error"),
        ("abort", Outcome.FAILED, "upstream_error"),
    ],
)
def test_what_a_finish_reason_makes_of_a_run(reason, outcome, code):
    framer = Framer()
    frames = run(framer, [token("a")], [Delta(finish_reason=reason, has_choice=True), DONE])
    assert (framer.outcome, code_of(frames)) == (outcome, code)
    assert frames[-2].data == {"outcome": str(outcome), "finish_reason": reason}


def test_the_first_finish_reason_counts():
    framer = Framer()
    run(framer, [token("a"), STOP], [Delta(finish_reason="length", has_choice=True)])
    assert framer.finish_reason == "stop"


def test_usage_after_the_finish_reason_is_told():
    usage = {"prompt_tokens": 7}
    frames = run(Framer(), [token("a"), STOP], [Delta(usage=usage), DONE])
    assert frames[-2].data["usage"] == usage


# Frames


def test_the_adjoining_texts_of_one_read_are_one_frame():
    frames = run(Framer(), [token("a"), ROLE, token("b")], [token("c"), STOP])
    assert [frame.data["text"] for frame in frames if frame.kind is Kind.TEXT] == ["ab", "c"]


def test_asides_keep_their_place_among_the_texts():
    call = {"index": 0, "arguments": "{}"}
    batch = [token("a"), Delta("b", "think", (call,), has_choice=True), token("c"), STOP]
    frames = run(Framer(), batch)
    assert kinds(frames) == "start text reasoning tool_call text finish done"
    assert text_of(frames) == "abc"
    assert frames[3].data == call


def test_a_run_goes_on_after_frames_it_already_has():
    frames = run(Framer(first_seq=7), [token("a"), STOP])
    assert [frame.seq for frame in frames] == [7, 8, 9, 10]


# Surrogates


def test_a_pair_split_over_two_reads_arrives_joined():
    frames = run(Framer(), [token("a\ud83c")], [token("\udf89b"), STOP])
    assert [frame.data.get("text") for frame in frames[1:3]] == ["a", "🎉b"]


LONE = ("\ud83c", "a\ud83c", "\udf89", "\ud83cx", "\udf89\ud83c")


@pytest.mark.parametrize("text", LONE)
def test_a_lone_half_arrives_as_sent(text):
    assert text_of(run(Framer(), [token(text)], [STOP])) == text


def test_a_half_that_waits_is_delivered_before_an_error():
    frames = run(Framer(), [token("a\ud83c")], [Delta(error=RunError("upstream_error"))])
    assert kinds(frames) == "start text text finish error"
    assert text_of(frames) == "a\ud83c"


# The cap


def test_an_answer_over_the_cap_is_cut_there_and_too_long():
    framer = Framer(max_answer_chars=5)
    frames = run(framer, [token("abc")], [token("defg")], [STOP])
    assert (text_of(frames), code_of(frames)) == ("abcde", "too_long")


def test_an_answer_of_exactly_the_cap_is_whole():
    frames = run(Framer(max_answer_chars=5), [token("abc")], [token("de"), STOP])
    assert (text_of(frames), frames[-1].kind) == ("abcde", Kind.DONE)


def test_an_answer_that_was_cut_is_not_done_though_its_end_came_in_the_same_read():
    framer = Framer(max_answer_chars=3)
    frames = run(framer, [token("abcdef"), STOP, DONE])
    assert (text_of(frames), code_of(frames)) == ("abc", "too_long")


@pytest.mark.parametrize(
    "endless",
    [
        Delta(reasoning="x" * 10, has_choice=True),
        Delta(tool_calls=({"index": 0, "arguments": "x" * 10},), has_choice=True),
    ],
    ids=["reasoning", "tool call"],
)
def test_what_is_no_text_counts_too(endless):
    frames = run(Framer(max_answer_chars=100), *([endless] for _ in range(50)), [STOP])
    assert code_of(frames) == "too_long"
    assert len(frames) < 20


@pytest.mark.parametrize("field", ["id", "name"])
def test_tool_calls_without_arguments_do_not_grow_without_end(field):
    piece = Delta(tool_calls=({"index": 0, field: "x" * 10, "arguments": ""},), has_choice=True)
    frames = run(Framer(max_answer_chars=100), *([piece] for _ in range(500)), [STOP])
    assert code_of(frames) == "too_long"


# Any sequence

HALVES = st.sampled_from(["\ud83c", "\udf89", "a", "🎉", "\n\ndata: x", "\0", ""])
TEXTS = st.lists(HALVES, max_size=3).map("".join)
DELTAS = st.one_of(
    TEXTS.map(token),
    TEXTS.map(token),
    st.just(ROLE),
    st.just(NOTHING),
    st.just(DONE),
    st.builds(
        Delta,
        text=TEXTS,
        reasoning=st.sampled_from(["", "hm"]),
        tool_calls=st.sampled_from([(), ({"index": 0, "arguments": "{"},)]),
        tool_results=st.sampled_from([(), ({"id": "c", "output": 1},)]),
        finish_reason=st.sampled_from([None, None, "stop", "length", "content_filter", "abort"]),
        usage=st.sampled_from([None, {"total_tokens": 1}]),
        has_choice=st.just(True),
        error=st.none(),
    ),
    st.builds(lambda: Delta(error=RunError("upstream_error"))),
)
BATCHES = st.lists(st.lists(DELTAS, max_size=4), max_size=6)


def believed(batches: list[list[Delta]]) -> tuple[str, str]:
    """What must come of the deltas, told anew: (ending, text)."""
    text, has_choice, has_stop, reason = "", False, False, None
    for delta in (delta for batch in batches for delta in batch):
        if delta.error is not None:
            return "error", text
        text += delta.text
        has_choice = has_choice or delta.has_choice
        if delta.finish_reason is not None and reason is None:
            reason = delta.finish_reason
            if reason in ("content_filter", "abort"):
                return "error", text
        has_stop = has_stop or (has_choice and (delta.is_done or delta.finish_reason is not None))
    return ("done" if has_stop else "error"), text


@given(BATCHES)
@example([[token("\ud83c"), Delta("", "hm", has_choice=True), token("\udf89"), STOP]])
@example([[DONE], [token("a")]])
def test_any_sequence_ends_in_one_terminal_frame_and_done_has_its_evidence(batches):
    frames = run(Framer(), *batches)
    ending, text = believed(batches)
    assert [frame.kind for frame in frames if frame.is_terminal] == [ending]
    assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1))
    assert frames[-1].kind in TERMINAL
    assert frames[-2].kind is Kind.FINISH
    assert text_of(frames) == joined(text)


@given(BATCHES, st.integers(0, 6))
def test_a_reader_that_leaves_any_time_gets_no_terminal_frame_unless_the_answer_is_whole(
    batches, count
):
    framer = Framer()
    frames = run(framer, *batches[:count], end=False)
    terminals = [frame.kind for frame in frames if frame.kind in TERMINAL]
    assert len(terminals) == (0 if framer.outcome is None else 1)
    assert (framer.outcome is None) is (framer.state is State.LEFT)
    assert framer.close() == []


@given(BATCHES, st.integers(1, 12))
def test_no_answer_is_longer_than_the_cap_and_a_cut_one_is_not_done(batches, cap):
    frames = run(Framer(max_answer_chars=cap), *batches)
    text = text_of(frames)
    assert len(text.rstrip("\ud83c")) <= cap  # half a pair that waits may be one over
    if frames[-1].kind is Kind.DONE:
        assert text == joined(believed(batches)[1])


@given(st.lists(st.sampled_from(["🎉", "a", "\ud83c", "\udf89"]), max_size=8), st.data())
def test_text_split_at_any_place_arrives_joined(parts, data):
    units = list("".join(parts).encode("utf-16-le", "surrogatepass"))
    codes = [chr(units[n] | units[n + 1] << 8) for n in range(0, len(units), 2)]
    batches, batch = [], []
    for code in codes:
        batch.append(token(code))
        if data.draw(st.booleans()):
            batches.append(batch)
            batch = []
    frames = run(Framer(), *batches, batch, [STOP])
    assert text_of(frames) == joined("".join(codes))
