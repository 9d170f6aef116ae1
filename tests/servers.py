"""Real servers as subprocesses, serving ``tests.site``.

    with Server("uvicorn", site=Site(upstream.url)) as server:
        answer = read(server.port, stream_path("ok"))

A server runs in a session of its own, is asked to end by SIGTERM and, after a grace of some
seconds, killed with its children. ``server.log`` is all that it wrote to stdout and stderr.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import missing_service
from tests.faults import MAX_ANSWER_CHARS, OPTIONS, TIMEOUTS

__all__ = [
    "ASGI",
    "CANARY_KEY",
    "HEARTBEAT",
    "LAUNCHES",
    "WSGI",
    "Launch",
    "Server",
    "Site",
    "each",
]

ROOT = Path(__file__).parent.parent
CANARY_KEY = "sk-canary-5f1e0a7b93d24c68"
HEARTBEAT = 0.5  # seconds
PYTHON = sys.executable
WSGI_APP = "tests.site.wsgi:application"
ASGI_APP = "tests.site.asgi:application"


@dataclass(frozen=True)
class Launch:
    """How to start one server; ``{port}`` is filled in. ``needs`` are importable modules."""

    interface: str
    argv: tuple[str, ...]
    needs: tuple[str, ...]


def _uvicorn(*more: str) -> tuple[str, ...]:
    return (
        *("-m", "uvicorn", ASGI_APP, "--host", "127.0.0.1", "--port", "{port}"),
        *("--log-level", "info", "--timeout-graceful-shutdown", "2", "--lifespan", "off", *more),
    )


def _gunicorn(*more: str) -> tuple[str, ...]:
    return (
        *("-m", "gunicorn", WSGI_APP, "--bind", "127.0.0.1:{port}", "--graceful-timeout", "2"),
        *("--no-control-socket", *more),
    )


def _granian(interface: str, app: str) -> tuple[str, ...]:
    return (
        *("-m", "granian", "--interface", interface, "--host", "127.0.0.1", "--port", "{port}"),
        *("--workers-kill-timeout", "2", "--no-ws", app),
    )


LAUNCHES = {
    "uvicorn": Launch(
        "asgi",
        _uvicorn("--loop", "uvloop", "--http", "httptools"),
        ("uvicorn", "uvloop", "httptools"),
    ),
    "uvicorn-plain": Launch("asgi", _uvicorn("--loop", "asyncio", "--http", "h11"), ("uvicorn",)),
    "hypercorn": Launch(
        "asgi",
        (
            *("-m", "hypercorn", ASGI_APP, "--bind", "127.0.0.1:{port}"),
            *("--graceful-timeout", "2", "--error-logfile", "-"),
        ),
        ("hypercorn",),
    ),
    "daphne": Launch(
        "asgi",
        ("-m", "daphne", "-b", "127.0.0.1", "-p", "{port}", ASGI_APP),
        ("daphne",),
    ),
    "granian": Launch("asgi", _granian("asginl", ASGI_APP), ("granian",)),
    "granian-wsgi": Launch("wsgi", _granian("wsgi", WSGI_APP), ("granian",)),
    "gunicorn-gthread": Launch(
        "wsgi", _gunicorn("--worker-class", "gthread", "--threads", "100"), ("gunicorn",)
    ),
    "gunicorn-sync": Launch("wsgi", _gunicorn("--worker-class", "sync"), ("gunicorn",)),
    "runserver": Launch(
        "wsgi",
        ("-m", "django", "runserver", "127.0.0.1:{port}", "--noreload"),
        ("django",),
    ),
}
ASGI = [name for name, launch in LAUNCHES.items() if launch.interface == "asgi"]
WSGI = [name for name, launch in LAUNCHES.items() if launch.interface == "wsgi"]


def each(names: Iterable[str], quick: Iterable[str] = ("uvicorn", "gunicorn-gthread")) -> list[Any]:
    """Return parameters for these servers: all but the two that most projects run on are slow.

    ``quick`` has fewer where the tests wait for long.
    """
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


@dataclass
class Site:
    """What the test project is configured with.

    ``tools`` are the names of those in ``tests.site.tools`` that the default provider has.

    ``base_urls``: provider alias → base_url, beside ``default``. ``options`` override those of
    every provider, ``settings`` those of CHATSTREAM, ``environ`` the process's environment.
    """

    base_url: str
    base_urls: dict[str, str] = field(default_factory=dict)
    transport: str = "auto"
    options: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    environ: dict[str, str] = field(default_factory=dict)
    tools: Sequence[str] = ()

    def environment(self, folder: Path) -> dict[str, str]:
        """Return the environment of the server's process."""
        backend = "chatstream.providers.openai.OpenAIProvider"
        providers = {
            alias: {
                "BACKEND": backend,
                "OPTIONS": {
                    "base_url": base_url,
                    "api_key": CANARY_KEY,
                    "model": "ok",
                    "models": ["*"],
                    "transport": self.transport,
                    **TIMEOUTS,
                    **OPTIONS.get(alias, {}),
                    **self.options,
                },
            }
            for alias, base_url in {"default": self.base_url, **self.base_urls}.items()
        }
        providers["default"]["TOOLS"] = [f"tests.site.tools.{name}" for name in self.tools]
        chatstream = {
            "PROVIDERS": providers,
            "ALLOW_ANONYMOUS": True,
            "HEARTBEAT": HEARTBEAT,
            "MAX_ANSWER_CHARS": MAX_ANSWER_CHARS,
            **self.settings,
        }
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        return {
            **kept,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "DJANGO_SETTINGS_MODULE": "tests.site.settings",
            "TESTSITE_CHATSTREAM": json.dumps(chatstream),
            "TESTSITE_BASE_URL": self.base_url,
            "TESTSITE_KEY": CANARY_KEY,
            "TESTSITE_DB": str(folder / "db.sqlite3"),
            **self.environ,
        }


def migrate(environment: dict[str, str]) -> None:
    """Make the tables of the test project."""
    argv = [PYTHON, "-m", "django", "migrate", "--skip-checks", "--verbosity", "0"]
    subprocess.run(argv, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=True)


@cache
def migrated_file() -> Path:
    """Return an SQLite database with the tables, made once: each server has a copy."""
    folder = Path(tempfile.mkdtemp(prefix="chatstream-migrated-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    migrate(Site("http://127.0.0.1:1/v1").environment(folder))
    return folder / "db.sqlite3"


class Server:
    """One running server. Started by ``with``; ``port`` and ``log`` are there from then on."""

    def __init__(self, name: str, site: Site) -> None:
        self.name = name
        self.launch = LAUNCHES[name]
        self.site = site
        self.port = 0

    @property
    def is_asgi(self) -> bool:
        return self.launch.interface == "asgi"

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace")

    @property
    def database(self) -> Path:
        """The SQLite file of a server without ``TESTSITE_DATABASE``."""
        return Path(self._folder.name) / "db.sqlite3"

    def __enter__(self) -> Server:
        for module in self.launch.needs:
            if importlib.util.find_spec(module) is None:
                missing_service(f"the server {self.name} needs the package {module}")
        self._folder = tempfile.TemporaryDirectory(prefix=f"chatstream-{self.name}-")
        self._log_path = Path(self._folder.name) / "server.log"
        self._migrate()
        for attempt in range(3):
            # Another process may take the port between our asking and the server's binding.
            if self._start():
                return self
            self.stop()
            if attempt == 2 or "in use" not in self.log:
                break
        message = f"{self.name} did not start:\n{self.log[-3000:]}"
        self._folder.cleanup()
        raise RuntimeError(message)

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()

    def _migrate(self) -> None:
        environment = self.site.environment(Path(self._folder.name))
        if "TESTSITE_DATABASE" in environment:
            migrate(environment)
        elif not Path(environment["TESTSITE_DB"]).exists():  # else another server's, to be shared
            shutil.copy(migrated_file(), environment["TESTSITE_DB"])

    def _start(self) -> bool:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        argv = [PYTHON, *(part.format(port=self.port) for part in self.launch.argv)]
        with self._log_path.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=ROOT,
                env=self.site.environment(Path(self._folder.name)),
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self._wait_ready(30)

    def _wait_ready(self, timeout: float) -> bool:
        until = time.monotonic() + timeout
        while time.monotonic() < until and self.process.poll() is None:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock,
            ):
                sock.settimeout(5)
                sock.sendall(
                    b"GET /ready/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
                )
                if b" 200 " in sock.recv(64):
                    return True
            time.sleep(0.1)
        return False

    def stop(self) -> None:
        """End the server: SIGTERM, then SIGKILL for it and its children."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        # The session is its own: what is left of it are this server's children.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(5)
