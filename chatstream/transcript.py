"""The transcript of a conversation: what was said, and how each answer ended."""

from __future__ import annotations

from dataclasses import dataclass

from django.utils.formats import number_format

from .models import Message, Run
from .runs import answer_of
from .words import ERRORS, STATES, WORDS, state_of

__all__ = ["Entry", "entry_of", "figures_of"]


@dataclass(frozen=True)
class Entry:
    """A message as it is shown; ``ending`` and ``support`` only for answers."""

    id: str
    content: str
    is_user: bool
    state: str = ""
    ending: str = ""
    support: str = ""
    actions: tuple[str, ...] = ()

    @property
    def tone(self) -> str:
        return STATES[self.state].tone if self.state else ""


def entry_of(message: Message, run: Run | None) -> Entry:
    """Return a message as it is shown. Blocks; ``run`` is the one that wrote it last."""
    if message.role == Message.Role.USER:
        return Entry(message.pk, message.content, is_user=True)
    if run is None:
        return Entry(message.pk, message.content, False, "done", actions=STATES["done"].actions)
    if run.is_open:
        text = message.content + answer_of(run)
        state = "streaming" if text else "connecting"
        return Entry(message.pk, text, False, state, str(STATES[state].words))
    return _ended(message, run)


def _ended(message: Message, run: Run) -> Entry:
    state = state_of(run.status)
    has_text = bool(message.content)
    ending = figures_of(run) if state == "done" else _told(state, run, has_text)
    support = str(WORDS["support"]).format(id=run.pk) if state == "failed" else ""
    actions = STATES[state].actions
    if not has_text:
        offers_retry = state in ("failed", "interrupted")
        actions = ("retry",) if offers_retry else tuple(a for a in actions if a != "continue")
    return Entry(message.pk, message.content, False, state, ending, support, actions)


def _told(state: str, run: Run, has_text: bool) -> str:
    """Return what is said of an answer that is not done; of a failure with its reason."""
    is_kept = has_text or state not in ("failed", "interrupted")
    told = [STATES[state].words if is_kept else WORDS["nothing"]]
    if state == "failed" and run.error_code in ERRORS:
        told.append(ERRORS[run.error_code])
    return " ".join(map(str, told))


def figures_of(run: Run) -> str:
    """Return how long the first word took, and how many tokens came; "" if nothing is known."""
    figures = []
    if run.first_text_at is not None:
        seconds = max(0.0, (run.first_text_at - run.created_at).total_seconds())
        figures.append(str(WORDS["first_word"]).format(seconds=number_format(seconds, 1)))
    count = (run.usage or {}).get("completion_tokens")
    if isinstance(count, int):
        form = WORDS["tokens_one" if count == 1 else "tokens_other"]
        figures.append(str(form).format(count=number_format(count, force_grouping=True)))
    return " · ".join(figures)
