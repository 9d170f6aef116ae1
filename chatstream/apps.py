"""Glue: what belongs to the process hangs here, so that no module keeps state."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from typing import TYPE_CHECKING, Any

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from .conf import settings
from .framelog import FrameLog
from .loop import BackgroundLoop
from .providers.base import Provider
from .streaming import closers_thread
from .tools import Slots, tools_of
from .writer import Writer

if TYPE_CHECKING:
    from .engine import Engine

__all__ = ["ChatstreamConfig"]

EXIT_PATIENCE = 2.0  # seconds for the last commit of a process that ends


class ChatstreamConfig(AppConfig):
    name = "chatstream"
    verbose_name = "Chat streaming"

    default_auto_field = "django.db.models.BigAutoField"
    has_warned_of_thread = False

    def ready(self) -> None:
        from . import checks  # noqa: F401  registers them
        from .owners import adopt

        self.background_loop = BackgroundLoop()
        self.closers_thread = closers_thread()
        self.tool_slots = Slots()
        self.providers = Providers()
        self.writer = Writer()
        self._engines: dict[asyncio.AbstractEventLoop, Engine] = {}
        self._lock = threading.RLock()
        self._frame_log: FrameLog | None = None
        user_logged_in.connect(adopt)
        atexit.register(self._at_exit)
        setting_changed.connect(self._reset_backends)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._reset_after_fork)

    def _reset_backends(self, *, setting: str, **kwargs: Any) -> None:
        if setting == "CHATSTREAM":
            self.providers = Providers()
            self._frame_log = None
            self._engines = {}

    def _reset_after_fork(self) -> None:
        # A client's sockets are the parent's: both processes would read each other's answers.
        self.background_loop.reset_after_fork()
        self.closers_thread = closers_thread()  # the parent's thread is not here
        self.tool_slots = Slots()
        self.providers = Providers()
        self.writer.reset_after_fork()
        self._engines = {}
        self._lock = threading.RLock()
        self._frame_log = None

    @property
    def frame_log(self) -> FrameLog:
        with self._lock:  # of two logs in memory, one would lose its frames
            if self._frame_log is None:
                entry = settings.FRAME_LOG
                self._frame_log = import_string(entry["BACKEND"])(entry["OPTIONS"])
            return self._frame_log

    def engine_on(self, loop: asyncio.AbstractEventLoop) -> Engine:
        """Return the engine of an event loop, made on first use."""
        from .engine import Engine  # models cannot be imported before the apps are ready

        if (engine := self._engines.get(loop)) is None:
            with self._lock:
                engines = {old: e for old, e in self._engines.items() if not old.is_closed()}
                engine = engines.setdefault(loop, Engine(loop, self.frame_log, self.writer))
                self._engines = engines
        return engine

    def engines(self) -> list[Engine]:
        return list(self._engines.values())

    def _at_exit(self) -> None:
        """Tell the readers of what is still open, while there is time: daemons end any moment."""
        for engine in self.engines():
            engine.interrupt(EXIT_PATIENCE)


class Providers(dict[str, Provider[Any]]):
    """Provider instances by alias, each made on first use."""

    def __missing__(self, alias: str) -> Provider[Any]:
        entry = settings.PROVIDERS[alias]
        provider = import_string(entry["BACKEND"])(alias, entry["OPTIONS"])
        provider.tools = tools_of(entry["TOOLS"], f'CHATSTREAM["PROVIDERS"]["{alias}"]["TOOLS"]')
        # setdefault: two threads may have made one each; the first one stays.
        return self.setdefault(alias, provider)
