"""All that the chat page says beside its templates, translated when it is shown.

``STATES`` are the states of an answer and of the chat, ``ERRORS`` and ``REFUSALS`` what the codes
of ``core.outcomes`` mean to a user, ``WORDS`` everything else. JavaScript gets them all as JSON.
Braces are placeholders; a translation keeps them.

After a change, in this folder, ``django-admin makemessages --all --no-wrap --add-location file``,
translate, and ``django-admin compilemessages``: ``tests/test_words.py`` asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from django.utils.translation import pgettext_lazy

__all__ = ["ERRORS", "REFUSALS", "STATES", "SUGGESTIONS", "WORDS", "State", "config", "state_of"]


@dataclass(frozen=True)
class State:
    """What the page says in one state: the pill's ``tone`` ("": no pill) and ``label``, ``words``.

    ``actions`` are what it offers for an answer that has text.
    """

    tone: str = ""
    label: Any = ""
    words: Any = ""
    actions: tuple[str, ...] = ()


STATES: Mapping[str, State] = {
    "idle": State(),
    "connecting": State(
        "grey",
        pgettext_lazy("chatstream", "Thinking"),
        pgettext_lazy("chatstream", "Thinking…"),
    ),
    "streaming": State("green", pgettext_lazy("chatstream", "Answering")),
    "reconnecting": State(
        "amber",
        pgettext_lazy("chatstream", "Reconnecting"),
        pgettext_lazy("chatstream", "Connection lost. Reconnecting… your answer is safe."),
    ),
    "failed": State(
        "red",
        pgettext_lazy("chatstream", "Failed"),
        pgettext_lazy("chatstream", "The answer stopped early. What arrived is kept."),
        ("continue", "retry"),
    ),
    "truncated": State(
        "grey",
        pgettext_lazy("chatstream", "Cut short"),
        pgettext_lazy("chatstream", "The answer reached its length limit."),
        ("continue", "regenerate"),
    ),
    "stopped": State(
        "grey",
        pgettext_lazy("chatstream", "Stopped"),
        pgettext_lazy("chatstream", "Stopped."),
        ("continue", "regenerate"),
    ),
    "done": State(actions=("regenerate",)),
    "interrupted": State(
        "amber",
        pgettext_lazy("chatstream", "Interrupted"),
        pgettext_lazy("chatstream", "The server restarted."),
        ("continue", "retry"),
    ),
    "filtered": State(
        "grey",
        pgettext_lazy("chatstream", "Filtered"),
        pgettext_lazy("chatstream", "Stopped by a content filter."),
        ("retry",),
    ),
    "refused": State(
        "red",
        pgettext_lazy("chatstream", "Not sent"),
        pgettext_lazy("chatstream", "This was not sent. Your message is kept."),
    ),
    "offline": State(
        "amber",
        pgettext_lazy("chatstream", "Offline"),
        pgettext_lazy("chatstream", "You are offline. Your message is kept."),
    ),
    "signed_out": State(
        "red",
        pgettext_lazy("chatstream", "Signed out"),
        pgettext_lazy("chatstream", "Please sign in again. Your message is saved."),
    ),
    "busy": State(
        "grey",
        pgettext_lazy("chatstream", "Busy"),
        pgettext_lazy("chatstream", "An answer is already on its way."),
    ),
}

# By code; the English is that of ``core.outcomes.ERRORS``.
ERRORS: Mapping[str, Any] = {
    "filtered": pgettext_lazy("chatstream", "The answer was stopped by a content filter."),
    "stopped": pgettext_lazy("chatstream", "The answer was stopped."),
    "interrupted": pgettext_lazy(
        "chatstream", "The server restarted before the answer was complete."
    ),
    "upstream_unreachable": pgettext_lazy("chatstream", "The model could not be reached."),
    "upstream_timeout": pgettext_lazy("chatstream", "The model took too long to answer."),
    "upstream_unavailable": pgettext_lazy(
        "chatstream", "The model is not available at the moment."
    ),
    "upstream_rate_limited": pgettext_lazy(
        "chatstream", "The model is busy. Please try again shortly."
    ),
    "upstream_quota": pgettext_lazy("chatstream", "The quota for the model is used up."),
    "upstream_rejected": pgettext_lazy("chatstream", "The model did not accept the request."),
    "upstream_too_large": pgettext_lazy(
        "chatstream", "The conversation is too long for the model."
    ),
    "upstream_auth": pgettext_lazy("chatstream", "The server is not allowed to use the model."),
    "upstream_incomplete": pgettext_lazy("chatstream", "The answer ended before it was complete."),
    "upstream_malformed": pgettext_lazy(
        "chatstream", "The model sent something that is not an answer."
    ),
    "upstream_error": pgettext_lazy("chatstream", "The model reported an error."),
    "too_long": pgettext_lazy("chatstream", "The answer was longer than this site allows."),
    "stalled": pgettext_lazy("chatstream", "The connection took in nothing for too long."),
    "expired": pgettext_lazy("chatstream", "This answer is no longer kept."),
    "storage": pgettext_lazy("chatstream", "The answer could not be stored."),
    "internal": pgettext_lazy("chatstream", "Something went wrong on the server."),
}

REFUSALS: Mapping[str, Any] = {
    "invalid": pgettext_lazy("chatstream", "This cannot be sent. Please check your message."),
    "not_authenticated": STATES["signed_out"].words,
    "forbidden": pgettext_lazy("chatstream", "You may not do this."),
    "csrf_failed": pgettext_lazy(
        "chatstream", "This page was open for too long. Please send your message again."
    ),
    "not_found": pgettext_lazy("chatstream", "This is not here. Perhaps it was deleted."),
    "method_not_allowed": pgettext_lazy("chatstream", "This cannot be done here."),
    "conflict": STATES["busy"].words,
    "expired": ERRORS["expired"],
    "too_large": pgettext_lazy("chatstream", "Your message is too long."),
    "unsupported_media_type": pgettext_lazy("chatstream", "The server cannot read this."),
    "throttled": pgettext_lazy("chatstream", "Too many messages. Please wait a little."),
    "busy": pgettext_lazy(
        "chatstream", "Other answers are on their way already. Please wait for one to end."
    ),
    "storage": pgettext_lazy(
        "chatstream", "Messages cannot be stored at the moment. Please try again shortly."
    ),
}

WORDS: Mapping[str, Any] = {
    "placeholder": pgettext_lazy("chatstream", "Ask anything…"),
    "untitled": pgettext_lazy("chatstream", "New chat"),
    # How an answer goes
    "still": pgettext_lazy("chatstream", "Still working; long answers can take a moment."),
    "started": pgettext_lazy("chatstream", "Answer started"),
    "complete": pgettext_lazy("chatstream", "Answer complete"),
    "first_word": pgettext_lazy("chatstream", "{seconds} s to first word"),
    "tokens_one": pgettext_lazy("chatstream", "{count} token"),
    "tokens_other": pgettext_lazy("chatstream", "{count} tokens"),
    "nothing": pgettext_lazy("chatstream", "No answer arrived."),
    "support": pgettext_lazy("chatstream", "For support: {id}"),
    "tool_running": pgettext_lazy("chatstream", "running…"),
    "tool_done": pgettext_lazy("chatstream", "done"),
    "tool_failed": pgettext_lazy("chatstream", "failed"),
    # What is said above the field
    "retry_in": pgettext_lazy("chatstream", "Try again in {seconds} s."),
    "sign_in": pgettext_lazy("chatstream", "Sign in"),
    "sign_in_first": pgettext_lazy("chatstream", "Please sign in to chat."),
    "show_it": pgettext_lazy("chatstream", "Show it"),
    "network": pgettext_lazy(
        "chatstream", "The server could not be reached. Your message is kept."
    ),
    "too_long_prompt": pgettext_lazy(
        "chatstream", "Your message is too long: at most {limit} characters."
    ),
    # The field, and what an entry has
    "send": pgettext_lazy("chatstream", "Send"),
    "stop": pgettext_lazy("chatstream", "Stop"),
    "copy": pgettext_lazy("chatstream", "Copy"),
    "copied": pgettext_lazy("chatstream", "Copied"),
    "position": pgettext_lazy("chatstream", "{index} / {count}"),
    "characters": pgettext_lazy("chatstream", "{count} / {limit}"),
    "image": pgettext_lazy("chatstream", "Image"),
    "code": pgettext_lazy("chatstream", "Code"),
    "table": pgettext_lazy("chatstream", "Table"),
    "taskDone": pgettext_lazy("chatstream", "Task: done"),
    "taskOpen": pgettext_lazy("chatstream", "Task: to do"),
    "footnotes": pgettext_lazy("chatstream", "Footnotes"),
    "footnoteBack": pgettext_lazy("chatstream", "Back to reference"),
    # The days of the history
    "today": pgettext_lazy("chatstream", "Today"),
    "yesterday": pgettext_lazy("chatstream", "Yesterday"),
    "week": pgettext_lazy("chatstream", "Last 7 days"),
    "month": pgettext_lazy("chatstream", "Last 30 days"),
    "older": pgettext_lazy("chatstream", "Older"),
}

SUGGESTIONS: tuple[Any, ...] = (
    pgettext_lazy("chatstream", "Explain in three sentences how the internet works."),
    pgettext_lazy("chatstream", "Write a friendly e-mail that moves a meeting to next week."),
    pgettext_lazy("chatstream", "Give me five ideas for a rainy weekend."),
)


def config() -> dict[str, Any]:
    """Return what JavaScript is told, for ``json_script``, which translates it."""
    return {
        "states": {name: asdict(state) for name, state in STATES.items()},
        "words": dict(WORDS),
        "errors": dict(ERRORS),
        "refusals": dict(REFUSALS),
    }


def state_of(outcome: str) -> str:
    """Return the state of an answer whose run ended so."""
    return "done" if outcome == "completed" else outcome
