"""Glue: what belongs to the process hangs here, so that no module keeps state."""

from __future__ import annotations

import os
from typing import Any

from django.apps import AppConfig
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from .conf import settings
from .loop import BackgroundLoop
from .providers.base import Provider
from .responses import closers_thread

__all__ = ["ChatstreamConfig"]


class ChatstreamConfig(AppConfig):
    name = "chatstream"
    verbose_name = "Chat streaming"

    has_warned_of_thread = False

    def ready(self) -> None:
        from . import checks  # noqa: F401  registers them

        self.background_loop = BackgroundLoop()
        self.closers_thread = closers_thread()
        self.providers = Providers()
        setting_changed.connect(self._reset_providers)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset_after_fork)

    def _reset_providers(self, *, setting: str, **kwargs: Any) -> None:
        if setting == "CHATSTREAM":
            self.providers = Providers()

    def _reset_after_fork(self) -> None:
        # A client's sockets are the parent's: both processes would read each other's answers.
        self.background_loop.reset_after_fork()
        self.closers_thread = closers_thread()  # the parent's thread is not here
        self.providers = Providers()


class Providers(dict[str, Provider[Any]]):
    """Provider instances by alias, each made on first use."""

    def __missing__(self, alias: str) -> Provider[Any]:
        entry = settings.PROVIDERS[alias]
        provider = import_string(entry["BACKEND"])(alias, entry["OPTIONS"])
        # setdefault: two threads may have made one each; the first one stays.
        return self.setdefault(alias, provider)
