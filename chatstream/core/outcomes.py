"""How a run ends: one vocabulary for frames, rows, signals, logs and metrics.

Every ending is an ``Outcome``; whatever is not a success also has a stable error code. ``ERRORS``
holds, for each code, the sentence that users see and whether asking again may help. An exception's
own words, a URL, a key or a header never leave the server: they travel in ``RunError.detail``,
which is for the operator's log alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = [
    "ERRORS",
    "REFUSALS",
    "Outcome",
    "PublicError",
    "RunError",
    "error_data",
    "outcome_of_code",
]


class Outcome(StrEnum):
    """What became of a run."""

    COMPLETED = "completed"  # a finish reason we know no worse of, or [DONE] alone
    TRUNCATED = "truncated"  # the finish reason ``length`` or ``max_tokens``
    FILTERED = "filtered"  # the finish reason ``content_filter``
    STOPPED = "stopped"  # the user asked to stop
    INTERRUPTED = "interrupted"  # our process died or was redeployed, or its lease ran out
    FAILED = "failed"  # everything else, with a code

    @property
    def is_success(self) -> bool:
        """Whether the terminal frame is ``{"done": true}``."""
        return self in (Outcome.COMPLETED, Outcome.TRUNCATED)


@dataclass(frozen=True, slots=True)
class PublicError:
    """What a client is told about an error code."""

    message: str
    is_retryable: bool


ERRORS: dict[str, PublicError] = {
    # outcomes that are their own code
    "filtered": PublicError("The answer was stopped by a content filter.", False),
    "stopped": PublicError("The answer was stopped.", False),
    "interrupted": PublicError("The server restarted before the answer was complete.", True),
    # failed: the upstream
    "upstream_unreachable": PublicError("The model could not be reached.", True),
    "upstream_timeout": PublicError("The model took too long to answer.", True),
    "upstream_unavailable": PublicError("The model is not available at the moment.", True),
    "upstream_rate_limited": PublicError("The model is busy. Please try again shortly.", True),
    "upstream_quota": PublicError("The quota for the model is used up.", False),
    "upstream_rejected": PublicError("The model did not accept the request.", False),
    "upstream_too_large": PublicError("The conversation is too long for the model.", False),
    "upstream_auth": PublicError("The server is not allowed to use the model.", False),
    "upstream_incomplete": PublicError("The answer ended before it was complete.", True),
    "upstream_malformed": PublicError("The model sent something that is not an answer.", True),
    "upstream_error": PublicError("The model reported an error.", True),
    # failed: ourselves
    "too_long": PublicError("The answer was longer than this site allows.", False),
    "stalled": PublicError("The connection took in nothing for too long.", True),
    "expired": PublicError("This answer is no longer kept.", False),
    "storage": PublicError("The answer could not be stored.", True),
    "internal": PublicError("Something went wrong on the server.", True),
}


# Refusals: what is said before anything is started, by HTTP status.
REFUSALS: dict[str, int] = {
    "invalid": 400,
    "not_authenticated": 401,
    "forbidden": 403,
    "csrf_failed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "conflict": 409,
    "expired": 410,
    "too_large": 413,
    "unsupported_media_type": 415,
    "throttled": 429,
    "busy": 429,
    "storage": 503,
}


_OUTCOME_CODES = frozenset({"filtered", "stopped", "interrupted"})


class RunError(Exception):
    """A failure with a stable code.

    ``code`` is a key of ``ERRORS``; ``detail`` is for the operator's log and holds no key, never
    sent; ``retry_after`` is in seconds, when the upstream told.
    """

    def __init__(self, code: str, detail: str = "", *, retry_after: int | None = None) -> None:
        assert code in ERRORS, code
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after


def outcome_of_code(code: str) -> Outcome:
    """Return the outcome that an error code stands for: itself, or ``FAILED``."""
    return Outcome(code) if code in _OUTCOME_CODES else Outcome.FAILED


def error_data(code: str, *, retry_after: int | None = None) -> dict[str, object]:
    """Return what a client is told: ``{"code", "message", "retryable"}``, maybe ``retry_after``."""
    public = ERRORS[code]
    data: dict[str, object] = {
        "code": code,
        "message": public.message,
        "retryable": public.is_retryable,
    }
    if retry_after is not None:
        data["retry_after"] = retry_after
    return data
