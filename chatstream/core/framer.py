"""Deltas in, frames out, exactly one of them terminal: every decision about an ending is made here.

Pure: the caller brings the deltas, the faults and the end. The rules (docs/design.md, section 1):

1. Success needs evidence: a valid chunk, and then a stop reason (a finish reason or [DONE]).
2. The end of the upstream's bytes is no evidence.
3. After the evidence, a fault of the transport changes nothing: the answer is whole.
4. An error decides at once, after the evidence too; nothing after it counts.
5. Closing without a verdict means that the reader left: no terminal frame, no success.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import IntEnum, auto
from typing import Any

from .chunks import Delta
from .frames import Frame, Kind
from .outcomes import Outcome, RunError, error_data, outcome_of_code

__all__ = ["TRANSITIONS", "Framer", "Input", "State"]


class State(IntEnum):  # IntEnum: its hash is in C
    WAITING = auto()  # no valid chunk yet
    ANSWERING = auto()  # a valid chunk came
    CONCLUDED = auto()  # a stop reason came: the answer is whole
    ENDED = auto()  # the bytes ended after the evidence: success
    FAILED = auto()  # an error decided
    LEFT = auto()  # closed without a verdict


class Input(IntEnum):
    CHUNK = auto()  # a chunk of the answer
    STOP = auto()  # a finish reason, or [DONE]
    END = auto()  # the upstream's bytes ended
    ERROR = auto()  # the upstream reported an error, or we refuse to go on
    FAULT = auto()  # the transport broke, or an exception of ours
    CLOSE = auto()  # nobody pulls any more


TRANSITIONS: dict[State, dict[Input, State]] = {
    State.WAITING: {
        Input.CHUNK: State.ANSWERING,
        Input.STOP: State.WAITING,  # [DONE] alone is no answer
        Input.END: State.FAILED,
        Input.ERROR: State.FAILED,
        Input.FAULT: State.FAILED,
        Input.CLOSE: State.LEFT,
    },
    State.ANSWERING: {
        Input.CHUNK: State.ANSWERING,
        Input.STOP: State.CONCLUDED,
        Input.END: State.FAILED,
        Input.ERROR: State.FAILED,
        Input.FAULT: State.FAILED,
        Input.CLOSE: State.LEFT,
    },
    State.CONCLUDED: {
        Input.CHUNK: State.CONCLUDED,
        Input.STOP: State.CONCLUDED,
        Input.END: State.ENDED,
        Input.ERROR: State.FAILED,
        Input.FAULT: State.ENDED,  # the answer is whole all the same
        Input.CLOSE: State.ENDED,
    },
    State.ENDED: dict.fromkeys(Input, State.ENDED),
    State.FAILED: dict.fromkeys(Input, State.FAILED),
    State.LEFT: dict.fromkeys(Input, State.LEFT),
}

_WAITING = State.WAITING  # looked up once: before 3.12 an enum's member costs a call in Python
_TEXT = Kind.TEXT
_PIECE = ("index", "id", "name", "arguments")  # what of a call is told
_VERDICTS = frozenset({State.ENDED, State.FAILED, State.LEFT})
_TRUNCATED = frozenset({"length", "max_tokens"})
_FAULTS = {
    "content_filter": "filtered",
    "error": "upstream_error",
    "abort": "upstream_error",  # vLLM and SGLang for an engine failure, with a [DONE] after it
}


class Framer:
    """The state of one run's answer.

    ``receive`` frames deltas; ``end``, ``fail`` and ``close`` bring the ending. What is known
    afterwards: ``outcome`` (None if the reader left), ``error`` (None on success),
    ``finish_reason``, ``usage``, ``chars`` (the answer's length). ``first_seq`` lets a run go on
    after frames it already has.
    """

    __slots__ = (
        "_held",
        "_is_closed",
        "_next_seq",
        "chars",
        "error",
        "finish_reason",
        "max_answer_chars",
        "model",
        "run",
        "state",
        "usage",
    )

    def __init__(
        self,
        run: str = "",
        model: str = "",
        *,
        max_answer_chars: int = 1_000_000,
        first_seq: int = 1,
    ) -> None:
        self.run = run
        self.model = model
        self.max_answer_chars = max_answer_chars
        self.state = State.WAITING
        self.error: RunError | None = None
        self.finish_reason: str | None = None
        self.usage: dict[str, int] | None = None
        self.chars = 0
        self._next_seq = first_seq
        self._held = ""  # a high surrogate that waits for its other half
        self._is_closed = False

    @property
    def outcome(self) -> Outcome | None:
        """The run's outcome; None while there is none, and if the reader left before it."""
        if self.error is not None:
            return outcome_of_code(self.error.code)
        if self.state is not State.ENDED:
            return None
        return Outcome.TRUNCATED if self.finish_reason in _TRUNCATED else Outcome.COMPLETED

    def start(self) -> Frame:
        """Return the frame that opens the run."""
        return self._frame(Kind.START, {"run": self.run, "model": self.model})

    def receive(self, deltas: Iterable[Delta]) -> Iterator[Frame]:
        """Yield the frames of what one upstream read brought; its adjoining texts are one frame.

        Raises the ``RunError`` that a delta carries, after the frames of the deltas before it.
        """
        if self.state in _VERDICTS:
            return
        text: list[str] = []
        try:
            for delta in deltas:
                if delta.text:
                    text.append(delta.text)
                if delta.reasoning or delta.tool_calls or delta.tool_results:
                    yield from self._text(text)
                    yield from self._asides(delta)
                if (fault := self._note(delta)) is not None:
                    yield from self._text(text)
                    raise fault
            yield from self._text(text)
            if self.chars > self.max_answer_chars:
                raise RunError("too_long", f"over {self.max_answer_chars} characters")
        except RunError as error:
            # Damage is the transport's affair: after the evidence the answer is whole all the same.
            if error.code != "upstream_malformed":
                self._decide(Input.ERROR, error)
            raise

    def end(self) -> None:
        """The upstream's bytes ended in good order."""
        self._decide(
            Input.END, RunError("upstream_incomplete", "the bytes ended without a stop reason")
        )

    def fail(self, exc: BaseException) -> bool:
        """The answer broke: return whether this is what decided its ending.

        After the evidence of success it is not, nor after another verdict.
        """
        error = exc if isinstance(exc, RunError) else RunError("internal")
        self._decide(Input.FAULT, error)
        return self.error is error

    def close(self) -> list[Frame]:
        """Return the last frames, once; none if the reader left."""
        self._move(Input.CLOSE)
        if self._is_closed or self.state is State.LEFT:
            self._is_closed = True
            return []
        self._is_closed = True
        last = [self._frame(Kind.TEXT, {"text": self._held})] if self._held else []
        last.append(self._frame(Kind.FINISH, self._finish()))
        if self.error is None:
            last.append(self._frame(Kind.DONE, {}))
        else:
            data = error_data(self.error.code, retry_after=self.error.retry_after)
            last.append(self._frame(Kind.ERROR, data))
        return last

    def _move(self, input: Input) -> None:
        self.state = TRANSITIONS[self.state][input]

    def _decide(self, input: Input, error: RunError) -> None:
        """Move; if that is the move to failure, remember the error."""
        before = self.state
        self._move(input)
        if self.state is State.FAILED and before is not State.FAILED:
            self.error = error

    def _frame(self, kind: Kind, data: dict[str, Any]) -> Frame:
        seq = self._next_seq
        self._next_seq = seq + 1
        return Frame(seq, kind, data)

    def _note(self, delta: Delta) -> RunError | None:
        """Take in what a delta says about the ending; return the fault, if it is one."""
        if delta.error is not None:
            return delta.error
        if delta.has_choice and self.state is _WAITING:  # later the move would change nothing
            self._move(Input.CHUNK)
        if delta.usage is not None:
            self.usage = delta.usage
        if delta.finish_reason is not None and self.finish_reason is None:
            self.finish_reason = delta.finish_reason
            if (code := _FAULTS.get(delta.finish_reason)) is not None:
                return RunError(code, f"finish reason {delta.finish_reason}")
        if delta.finish_reason is not None or delta.is_done:
            self._move(Input.STOP)
        return None

    def _text(self, parts: list[str]) -> tuple[Frame, ...]:
        """Return the parts as one frame; empty them. A split surrogate pair waits to be whole."""
        if not parts:
            return ()
        text = "".join(parts)
        parts.clear()
        if self._held:
            text, self._held = self._held + text, ""
        if not text.isascii():
            text = self._whole(text)
        room = self.max_answer_chars - self.chars
        self.chars += len(text)
        if len(text) > room:
            text = text[: max(room, 0)]
        return (self._frame(_TEXT, {"text": text}),) if text else ()

    def _whole(self, text: str) -> str:
        """Return the text with its surrogate pairs joined; hold back a half at its end."""
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._held = text[:-1], text[-1]
        return _join_surrogates(text)

    def _asides(self, delta: Delta) -> Iterator[Frame]:
        self.chars += len(delta.reasoning)
        if delta.reasoning:
            yield self._frame(Kind.REASONING, {"text": delta.reasoning})
        for call in delta.tool_calls:
            self.chars += len(call["arguments"]) + len(call.get("id", "") + call.get("name", ""))
            yield self._frame(Kind.TOOL_CALL, {k: call[k] for k in _PIECE if k in call})
        for result in delta.tool_results:
            yield self._frame(Kind.TOOL_RESULT, result)

    def _finish(self) -> dict[str, Any]:
        data: dict[str, Any] = {"outcome": str(self.outcome)}
        if self.finish_reason is not None:
            data["finish_reason"] = self.finish_reason
        if self.usage is not None:
            data["usage"] = self.usage
        return data


def _join_surrogates(text: str) -> str:
    """Return the text with each surrogate pair as its one character; lone halves stay.

    json.dumps would write the same escapes for both, but a count of characters would differ.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    return text
