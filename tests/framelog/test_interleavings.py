"""Whatever happens to runs, in whatever order: one ending each, no gap, ``done`` only if saved.

Several producers start, append, settle, stall, die in the midst of a commit and try again; others
stop, reap, complete and read. After every step everything that a reader could see is checked; in
the end everybody is dead, and the survivors have to bring each run to its end.

A few are tried in every run; ``make test-slow`` tries two thousand, a quarter of them with each of
two logs on each of two databases.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from chatstream.core.answers import Answer, Ending, last_frames
from chatstream.core.frames import Frame, Kind
from chatstream.core.outcomes import Outcome
from chatstream.framelog import FrameConflict, FrameLog
from chatstream.framelog.database import DatabaseFrameLog
from chatstream.framelog.memory import MemoryFrameLog
from chatstream.ids import new_id
from chatstream.ledger import Part, cancel, commit, look, reap
from chatstream.models import Conversation, Message, Run, from_now, storable
from tests.framelog.crashing import Crash, CrashingLog, countdown

STEPS = 14
LEASE = 15.0  # seconds; time passes only where a rule says so

ENDINGS = {
    "done": Ending(Outcome.COMPLETED, finish_reason="stop", usage={"total_tokens": 3}),
    "truncated": Ending(Outcome.TRUNCATED, finish_reason="length"),
    "failed": Ending(Outcome.FAILED, error_code="upstream_timeout"),
    "stopped": Ending(Outcome.STOPPED, error_code="stopped"),
}
TEXTS = st.sampled_from(["a", "bc", "\0", "\ud83d", "\U0001f600"])
PIECES = st.lists(TEXTS, min_size=1, max_size=2)
PRODUCERS = st.integers(0, 2)
RUNS = st.integers(0, 3)
PLANS = st.lists(st.tuples(PIECES, st.sampled_from([None, None, *ENDINGS])), min_size=1, max_size=4)
# When a process or its connection dies in a commit: at its append of this number.
CRASHES = st.sampled_from([("before", 1), ("after", 1), ("before", 2)])
# What others do in the midst of a commit, before its append of this number.
INTRUSIONS = st.tuples(st.sampled_from(["reap", "look"]), st.integers(1, 2))


class Producer:
    """A process: the runs it won, and what it believes to have logged of each."""

    def __init__(self, log: FrameLog) -> None:
        self.id = new_id()
        self.log = CrashingLog(log)
        self.answers: dict[str, Answer] = {}

    def parts(self, plan: list[tuple[list[str], str | None]]) -> list[Part]:
        """Return the parts of a commit: something of each run, as far as the plan goes."""
        return [self.part(run, *what) for run, what in zip(self.answers, plan, strict=False)]

    def part(self, run: str, pieces: list[str], end: str | None) -> Part:
        """Return what comes next of a run, in frames that follow those it has logged."""
        first = self.answers[run].last_seq + 1
        frames = [Frame(first + n, Kind.TEXT, {"text": t}) for n, t in enumerate(pieces)]
        if end is None:
            return Part(run, frames)
        text = self.answers[run].text + "".join(pieces)
        ending = replace(ENDINGS[end], text=text, last_seq=first + len(frames) + 1)
        return Part(run, frames + last_frames(ending), ending, first_text_ago=1.0)

    def commit(self, parts: list[Part]) -> None:
        lost = commit(self.log, self.id, parts)
        for part in parts:
            if part.run in lost or part.ending is not None:
                self.answers.pop(part.run, None)
            else:
                for frame in part.frames:
                    self.answers[part.run].add(frame)
        for part in parts:
            if part.run not in lost:
                logged = self.log.read(part.run, part.frames[0].seq - 1)
                assert logged[: len(part.frames)] == part.frames, "a commit that was won is there"


class Runs(RuleBasedStateMachine):
    """``make_log`` returns the log as a new process has it."""

    def __init__(self, make_log: Callable[[], FrameLog]) -> None:
        super().__init__()
        self.make_log = make_log
        self.runs: list[str] = []
        self.seen: dict[str, list[Frame]] = {}
        self.ended: dict[str, str] = {}
        self.observer = make_log()
        self.is_over = False

    @initialize()
    def begin(self) -> None:
        self.producers = [Producer(self.make_log()) for _ in range(3)]
        for number in range(2):
            self.start()
            self.claim(number, number)
            self.claim(0, number)

    # Producers

    @precondition(lambda self: len(self.runs) < 4)
    @rule()
    def start(self) -> None:
        conversation = Conversation.objects.create(owner="user:1")
        message = Message.objects.create(conversation=conversation, role="assistant")
        fields = {"owner": "user:1", "provider": "default", "request": {}}
        run = Run.objects.create(conversation=conversation, message=message, **fields)
        self.runs.append(run.pk)

    @rule(producer=PRODUCERS, run=RUNS)
    def claim(self, producer: int, run: int) -> None:
        mine, chosen = self.producers[producer], self.run(run)
        if Run.objects.claim(chosen, mine.id, LEASE):
            mine.answers[chosen] = Answer()

    @rule(producer=PRODUCERS, plan=PLANS)
    def commit(self, producer: int, plan: list[Any]) -> None:
        mine = self.producers[producer]
        mine.commit(mine.parts(plan))

    @rule(producer=PRODUCERS, plan=PLANS)
    def commit_twice(self, producer: int, plan: list[Any]) -> None:
        """A commit went through, and its answer was lost with the connection."""
        mine = self.producers[producer]
        parts = mine.parts(plan)
        commit(mine.log, mine.id, parts)
        mine.commit(parts)

    @rule(producer=PRODUCERS, plan=PLANS, crash=CRASHES, tries_again=st.booleans())
    def commit_and_crash(
        self, producer: int, plan: list[Any], crash: tuple[str, int], tries_again: bool
    ) -> None:
        mine = self.producers[producer]
        parts = mine.parts(plan)
        mine.log.crash(*crash)
        try:
            mine.commit(parts)
        except Crash:
            mine.log.calm()
            if tries_again:
                mine.commit(parts)
            else:
                self.befall(producer, "dies")
        mine.log.calm()

    # A log in the database appends in a transaction: there the two wait for each other.
    @precondition(lambda self: not self.observer.is_transactional)
    @rule(producer=PRODUCERS, plan=PLANS, intrusion=INTRUSIONS)
    def commit_while_others_act(
        self, producer: int, plan: list[Any], intrusion: tuple[str, int]
    ) -> None:
        mine = self.producers[producer]

        def intrude() -> None:
            mine.log.calm()
            self.befall(producer, "stalls")
            self.see_to_others(intrusion[0], None)

        mine.log.before = countdown(intrusion[1], intrude)
        mine.commit(mine.parts(plan))
        mine.log.calm()

    @rule(producer=PRODUCERS, what=st.sampled_from(["stalls", "renews", "dies"]))
    def befall(self, producer: int, what: str) -> None:
        """A producer that stalls does not know that its leases ran out."""
        mine = self.producers[producer]
        if what == "renews":
            Run.objects.renew(mine.id, LEASE, mine.answers)
        else:
            Run.objects.filter(producer=mine.id).update(lease_until=from_now(-1))
        if what == "dies":
            self.producers[producer] = Producer(self.make_log())

    # Others

    @rule(how=st.sampled_from(["reap", "look"]), crash=st.none() | CRASHES)
    def see_to_others(self, how: str, crash: tuple[str, int] | None) -> None:
        log = CrashingLog(self.make_log())
        if crash is not None:
            log.crash(*crash)
        with suppress(Crash):
            reap(log, LEASE) if how == "reap" else look(log, self.runs, LEASE)

    @rule(run=RUNS, crash=st.none() | CRASHES)
    def stop(self, run: int, crash: tuple[str, int] | None) -> None:
        log = CrashingLog(self.make_log())
        if crash is not None:
            log.crash(*crash)
        with suppress(Crash):
            if not cancel(log, self.run(run)):
                Run.objects.request_stop(self.run(run))

    @rule(run=RUNS, after=st.integers(0, 8))
    def read(self, run: int, after: int) -> None:
        chosen = self.run(run)
        log = self.make_log()
        assert log.read(chosen, after) == self.seen[chosen][after:]
        assert log.last_seq(chosen) == len(self.seen[chosen])

    @rule(run=RUNS, seq=st.integers(1, 8), kind=st.sampled_from([Kind.TEXT, Kind.DONE]))
    def intrude(self, run: int, seq: int, kind: Kind) -> None:
        """Somebody appends out of turn."""
        held = self.seen[self.run(run)]
        if seq == len(held) + 1 and not (held and held[-1].is_terminal):
            return
        with pytest.raises(FrameConflict):
            self.make_log().append({self.run(run): [Frame(seq, kind, {})]})

    # What a reader sees

    @invariant()
    def is_sound(self) -> None:
        rows = Run.objects.filter(pk__in=self.runs)
        for row in rows.values_list("pk", "status", "text", "last_seq", "message__content"):
            frames = self.observer.read(row[0])
            before = self.seen.get(row[0], [])
            assert frames[: len(before)] == before, "what was read stays as it was"
            self.seen[row[0]] = frames
            self.check(frames, *row)

    def check(self, frames: list[Frame], run: str, status: str, *saved: Any) -> None:
        assert [frame.seq for frame in frames] == list(range(1, len(frames) + 1)), "no gap"
        assert not any(frame.is_terminal for frame in frames[:-1]), "nothing after the end"
        if status not in Run.OPEN:
            assert self.ended.setdefault(run, status) == status, "one outcome"
        if frames and frames[-1].is_terminal:
            answer = Answer(frames)
            assert status == answer.ending().outcome, "row and log tell the same ending"
            if frames[-1].kind is Kind.DONE or self.is_over:
                text = storable(answer.text)
                assert saved == (text, len(frames), text), "done only with the message saved"

    def teardown(self) -> None:
        """Everybody dies; who comes next ends every run."""
        Run.objects.filter(pk__in=self.runs).update(
            lease_until=from_now(-1), created_at=from_now(-3 * LEASE)
        )
        look(self.make_log(), self.runs, LEASE)
        self.is_over = True
        self.is_sound()
        assert all(frames[-1].is_terminal for frames in self.seen.values()), "every run ends"
        assert self.seen.keys() == self.ended.keys() == set(self.runs)

    # Means

    def run(self, number: int) -> str:
        return self.runs[number % len(self.runs)]


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["memory", "database"])
def test_any_interleaving_leaves_each_run_one_sound_ending(
    kind: str, count: int, database: str
) -> None:
    def machine() -> Runs:
        memory = MemoryFrameLog({})
        return Runs(lambda: memory if kind == "memory" else DatabaseFrameLog({}))

    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        ),
    )
