"""Frame logs: where the frames of all runs live."""

from __future__ import annotations

from typing import cast

from django.apps import apps

from .base import FrameConflict, FrameLog

__all__ = ["FrameConflict", "FrameLog", "get_frame_log"]


def get_frame_log() -> FrameLog:
    """Return the frame log that the settings name; one instance for the process."""
    return cast(FrameLog, apps.get_app_config("chatstream").frame_log)  # type: ignore[attr-defined]
