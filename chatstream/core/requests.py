"""What a run is asked to do, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

__all__ = ["RunRequest"]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One request to a provider.

    ``messages`` are chat messages, oldest first: ``{"role": "user", "content": "…"}``. ``model`` is
    None for the provider's own. ``params`` are further fields of the request body, such as
    ``temperature``; they win over the provider's.
    """

    messages: list[dict[str, Any]]
    model: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
