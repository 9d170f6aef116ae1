"""The relay, told once and run on both drivers, ``frames`` and ``aframes``."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import asynccontextmanager, contextmanager

import pytest

from chatstream.core.chunks import DONE, Delta
from chatstream.core.framer import Framer, State
from chatstream.core.frames import Frame
from chatstream.core.outcomes import Outcome, RunError
from chatstream.relay import aframes, frames

STOP = Delta(finish_reason="stop", has_choice=True)
ANSWER = [[Delta(has_choice=True)], [Delta("Hel", has_choice=True)], [Delta("lo"), STOP, DONE]]


class Completion:
    """A completion of given batches, sync and async; keeps what was done to it in ``log``.

    A batch that is an exception is raised in its place; ``entering`` is raised on entering.
    """

    def __init__(self, batches=ANSWER, *, entering: BaseException | None = None):
        self.batches = batches
        self.entering = entering
        self.log: list[str] = []

    def play(self):
        for batch in self.batches:
            if isinstance(batch, BaseException):
                raise batch
            yield batch

    @contextmanager
    def open(self):
        with self.noted():
            yield self.play()

    @asynccontextmanager
    async def aopen(self):
        async def play():
            for batch in self.play():
                yield batch

        with self.noted():
            yield play()

    @contextmanager
    def noted(self):
        self.log.append("asked")
        if self.entering is not None:
            raise self.entering
        try:
            yield
        finally:
            self.log.append("closed")


def drive(completion: Completion, framer: Framer, take: int | None = None) -> list[Frame]:
    taken = []
    generator = frames(completion.open(), framer)
    for frame in generator:
        taken.append(frame)
        if len(taken) == take:
            break
    generator.close()
    return taken


def adrive(completion: Completion, framer: Framer, take: int | None = None) -> list[Frame]:
    async def main():
        taken = []
        generator = aframes(completion.aopen(), framer)
        async for frame in generator:
            taken.append(frame)
            if len(taken) == take:
                break
        await generator.aclose()
        return taken

    return asyncio.run(main())


Drive = Callable[..., list[Frame]]


@pytest.fixture(params=[drive, adrive], ids=["frames", "aframes"])
def pull(request) -> Drive:
    """Return a function: the frames of a completion; the reader leaves after ``take`` of them."""
    return request.param


def kinds(taken: list[Frame]) -> str:
    return " ".join(frame.kind for frame in taken)


def test_a_good_answer_ends_in_done(pull: Drive):
    completion, framer = Completion(), Framer("r1", "m1")
    taken = pull(completion, framer)
    assert kinds(taken) == "start text text finish done"
    assert [frame.seq for frame in taken] == [1, 2, 3, 4, 5]
    assert "".join(frame.data["text"] for frame in taken[1:3]) == "Hello"
    assert (framer.outcome, completion.log) == (Outcome.COMPLETED, ["asked", "closed"])


def test_the_start_frame_comes_before_the_upstream_is_asked(pull: Drive):
    completion = Completion()
    assert kinds(pull(completion, Framer(), take=1)) == "start"
    assert completion.log == []


def test_an_end_without_a_stop_reason_is_incomplete(pull: Drive):
    taken = pull(Completion(ANSWER[:2]), Framer())
    assert kinds(taken) == "start text finish error"
    assert taken[-1].data["code"] == "upstream_incomplete"


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunError("upstream_timeout"), "upstream_timeout"), (ValueError("words"), "internal")],
)
def test_an_error_of_the_completion_is_a_frame_after_the_text_before_it(pull: Drive, error, code):
    completion = Completion([*ANSWER[:2], error])
    taken = pull(completion, Framer())
    assert kinds(taken) == "start text finish error"
    assert taken[-1].data["code"] == code
    assert completion.log == ["asked", "closed"]


@pytest.mark.parametrize(
    ("error", "code"),
    [(RunError("upstream_unreachable"), "upstream_unreachable"), (OSError("words"), "internal")],
)
def test_an_error_on_entering_is_a_frame(pull: Drive, error, code):
    taken = pull(Completion(entering=error), Framer())
    assert kinds(taken) == "start finish error"
    assert taken[-1].data["code"] == code


def test_an_error_in_a_delta_is_a_frame_and_closes_the_upstream(pull: Drive):
    fault = Delta(error=RunError("upstream_error"))
    completion = Completion([[Delta("a", has_choice=True), fault], [STOP]])
    taken = pull(completion, Framer())
    assert (kinds(taken), completion.log[-1]) == ("start text finish error", "closed")


def test_an_error_after_the_evidence_changes_nothing(pull: Drive, caplog):
    taken = pull(Completion([*ANSWER, RunError("upstream_incomplete")]), Framer())
    assert kinds(taken) == "start text text finish done"
    assert caplog.records == []


@pytest.mark.parametrize("take", [1, 2, 3])
def test_a_reader_that_leaves_gets_no_terminal_frame_and_the_upstream_is_closed(pull: Drive, take):
    completion, framer = Completion([*ANSWER[:2], ANSWER[1], *ANSWER]), Framer()
    taken = pull(completion, framer, take=take)
    assert [frame for frame in taken if frame.is_terminal] == []
    assert (framer.outcome, framer.state) == (None, State.LEFT)
    assert completion.log in ([], ["asked", "closed"])


@pytest.mark.parametrize("take", [4, 5])
def test_a_reader_that_leaves_among_the_last_frames_leaves_a_whole_answer(pull: Drive, take):
    completion, framer = Completion(), Framer()
    pull(completion, framer, take=take)
    assert framer.outcome is Outcome.COMPLETED
    assert completion.log == ["asked", "closed"]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)], ids=["ctrl-c", "exit"])
def test_what_is_no_error_is_not_swallowed(pull: Drive, error):
    completion, framer = Completion([*ANSWER[:2], error]), Framer()
    with pytest.raises(type(error)):
        pull(completion, framer)
    assert (framer.outcome, completion.log) == (None, ["asked", "closed"])


async def test_a_cancelled_task_is_cancelled_and_no_success():
    framer = Framer()
    never, has_text = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def completion():
        async def play():
            yield ANSWER[1]
            await never.wait()

        yield play()

    async def pull():
        async for frame in aframes(completion(), framer):
            taken.append(frame)
            if frame.kind == "text":
                has_text.set()

    taken: list[Frame] = []
    task = asyncio.create_task(pull())
    await has_text.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (kinds(taken), framer.outcome) == ("start text", None)


def test_a_fault_of_the_upstream_is_logged_once_with_the_run_and_without_a_traceback(
    pull: Drive, caplog
):
    error = RunError("upstream_auth", "status 401, application/json")
    with caplog.at_level(logging.DEBUG):
        pull(Completion([error]), Framer("run-7", "m1"))
    (record,) = [record for record in caplog.records if record.name == "chatstream"]
    assert (record.levelname, record.exc_info) == ("WARNING", None)
    assert record.getMessage() == "run run-7: upstream_auth: status 401, application/json"
    assert (record.run, record.model) == ("run-7", "m1")


def test_a_bug_is_logged_once_with_its_traceback(pull: Drive, caplog):
    pull(Completion([ValueError("our own bug")]), Framer("run-7"))
    (record,) = [record for record in caplog.records if record.name == "chatstream"]
    assert record.levelname == "ERROR"
    assert "run-7" in record.getMessage()
    assert isinstance(record.exc_info[1], ValueError)


def test_a_providers_words_reach_neither_the_frames_nor_the_message(pull: Drive, caplog):
    taken = pull(Completion([ValueError("zq-words sk-key")]), Framer("run-7"))
    assert "zq-words" not in str(taken)
    assert "zq-words" not in caplog.records[0].getMessage()


def test_a_reader_that_left_is_not_logged(pull: Drive, caplog):
    pull(Completion(), Framer(), take=2)
    assert caplog.records == []


def test_an_error_while_closing_after_the_evidence_changes_nothing(pull: Drive):
    class Breaks(Completion):
        @contextmanager
        def noted(self):
            with super().noted():
                yield
            raise RunError("upstream_incomplete")

    assert kinds(pull(Breaks(), Framer())) == "start text text finish done"
