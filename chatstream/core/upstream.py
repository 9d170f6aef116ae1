"""What an upstream's HTTP status and error object mean in our words.

Pure. The source for the codes: the OpenAI API's error guide, and what other servers were seen to
send (vLLM, Azure, Ollama, gateways).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["code_of_error", "code_of_status"]

_BY_STATUS = {
    400: "upstream_rejected",
    401: "upstream_auth",
    403: "upstream_auth",
    404: "upstream_rejected",
    408: "upstream_timeout",
    409: "upstream_unavailable",
    413: "upstream_too_large",
    422: "upstream_rejected",
    429: "upstream_rate_limited",
    504: "upstream_timeout",
}

# Looked for in the error's ``code`` and ``type``, most telling first.
_BY_WORD = {
    "insufficient_quota": "upstream_quota",
    "billing": "upstream_quota",
    "context_length": "upstream_too_large",
    "content_filter": "filtered",
    "content_policy": "filtered",
    "rate_limit": "upstream_rate_limited",
    "too_many_requests": "upstream_rate_limited",
    "invalid_api_key": "upstream_auth",
    "authentication": "upstream_auth",
    "permission": "upstream_auth",
    "overloaded": "upstream_unavailable",
    "timeout": "upstream_timeout",
}


def code_of_status(status: int) -> str:
    """Return the code of a response that is no answer: 3xx to 5xx, or 2xx without a stream."""
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    if status >= 500:
        return "upstream_unavailable"
    if status >= 300:
        return "upstream_rejected"  # redirects too: we never follow one
    return "upstream_malformed"


def code_of_error(error: object, default: str) -> str:
    """Return the code of an error object, or ``default`` if its code and type tell nothing.

    ``error`` is the value under ``"error"``, of any shape; its message is never looked at.
    """
    if not isinstance(error, Mapping):
        return default
    words = f"{_word(error, 'code')} {_word(error, 'type')}".lower()
    for word, code in _BY_WORD.items():
        if word in words:
            return code
    status = error.get("code")
    if isinstance(status, int) and 400 <= status < 600:
        return code_of_status(status)
    return default


def _word(error: Mapping[Any, Any], key: str) -> str:
    value = error.get(key)
    return value if isinstance(value, str) else ""
