"""The servers under measurement, and how one of them is started beside a fresh upstream."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.request import urlopen

from . import procfs
from .build import BUILD, HERE, ROOT, Missing, peers_python, tool

__all__ = ["SERVERS", "Running", "Server", "conversation", "cores", "free_port"]


def cores() -> tuple[set[int], set[int]]:
    """Return the cores of (the server, the upstream and the load client)."""
    available = sorted(os.sched_getaffinity(0))
    return {available[-1]}, set(available[:-1]) or {available[-1]}


@dataclass(frozen=True)
class Ports:
    own: int
    upstream: int


Argv = Callable[[Ports, int], list[str]]


@dataclass(frozen=True)
class Server:
    """One way to relay a completion. ``argv`` gets the ports and the threads wanted, if any."""

    label: str
    argv: Argv
    path: str = "/chat"
    key: str = "text"  # of a frame's text
    done: str = '"done"'
    headers: Callable[[Ports], list[str]] = field(default=lambda ports: [])
    body: Mapping[str, Any] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    is_ours: bool = False
    is_threaded: bool = False  # a thread for each open stream, by its nature
    is_kept: bool = False  # its answers go on without their readers
    program: str = ""  # that must be installed

    def find_program(self) -> str:
        """Return the path of ``program``, "" if there is none; raise ``Missing``."""
        found = shutil.which(self.program) or shutil.which(self.program, path="/usr/sbin")
        if self.program and not found:
            raise Missing(f"{self.program} is not installed")
        return found or ""


def _uvicorn(python: str, app: str, *options: str, loop: str = "uvloop") -> Argv:
    def argv(ports: Ports, threads: int) -> list[str]:
        address = ["--host", "127.0.0.1", "--port", str(ports.own), "--backlog", "4096"]
        quiet = ["--no-access-log", "--log-level", "warning"]
        interpreter = python or peers_python()
        return [interpreter, "-m", "uvicorn", app, *address, *quiet, "--http", "httptools",
                "--loop", loop, *options]  # fmt: skip

    return argv


def _gthread(ports: Ports, threads: int) -> list[str]:
    bind = ["--bind", f"127.0.0.1:{ports.own}", "--backlog", "4096", "--worker-connections", "9000"]
    workers = ["--worker-class", "gthread", "--workers", "1", "--threads", str(threads)]
    app = "tests.bench.site:wsgi"
    return [sys.executable, "-m", "gunicorn", *workers, *bind, "--timeout", "0", app]


def _nginx(ports: Ports, threads: int) -> list[str]:
    program = SERVERS["nginx"].find_program()
    directory = BUILD / "nginx"
    directory.mkdir(exist_ok=True)
    config = (HERE / "peers" / "nginx.conf").read_text()
    known = {"directory": directory, "port": ports.own, "upstream_port": ports.upstream}
    for name, value in known.items():
        config = config.replace(f"{{{name}}}", str(value))
    (directory / "nginx.conf").write_text(config)
    log = ["-e", str(directory / "nginx.log")]
    return [program, "-p", str(directory), "-c", str(directory / "nginx.conf"), *log]


def _same_origin(ports: Ports) -> list[str]:
    """Return what a browser sends with our page's fetch; an anonymous POST needs it."""
    return ["Sec-Fetch-Site: same-origin", f"Origin: http://127.0.0.1:{ports.own}"]


_OURS = sys.executable
_SITE = "tests.bench.site:application"
_PEERS = ("--app-dir", str(HERE / "peers"))
_VIEW: dict[str, Any] = {"path": "/plain/", "headers": _same_origin, "is_ours": True}
_RUNS = {**_VIEW, "path": "/chat/stream/", "is_kept": True}

SERVERS: dict[str, Server] = {
    "chatstream": Server(
        "chatstream's view, nothing kept; uvicorn + uvloop",
        _uvicorn(_OURS, _SITE, "--lifespan", "off"),
        **_VIEW,
    ),
    "chatstream-runs": Server(
        "ChatStreamView: runs, logged in SQLite",
        _uvicorn(_OURS, _SITE, "--lifespan", "off"),
        **_RUNS,
    ),
    "chatstream-plain": Server(
        "The same without `fast` (asyncio, httpx)",
        _uvicorn(_OURS, _SITE, "--lifespan", "off", loop="asyncio"),
        env={"BENCH_PLAIN": "1"},
        **_VIEW,
    ),
    "chatstream-bare": Server(
        "EventStreamResponse in a plain async view",
        _uvicorn(_OURS, _SITE, "--lifespan", "off"),
        path="/bare",
        is_ours=True,
    ),
    "chatstream-gthread": Server("The same, gunicorn gthread", _gthread, is_threaded=True, **_VIEW),
    "nginx": Server(
        "nginx, raw relay",
        _nginx,
        key="content",
        done="[DONE]",
        body={"stream": True},
        program="nginx",
    ),
    "fastapi": Server(
        "FastAPI + openai, StreamingResponse", _uvicorn("", "fastapi_app:app", *_PEERS)
    ),
    "sse-starlette": Server(
        "FastAPI + openai, sse-starlette", _uvicorn("", "sse_starlette_app:app", *_PEERS)
    ),
    "django-naive": Server(
        "Django async view + openai, as commonly written",
        _uvicorn(_OURS, _SITE, "--lifespan", "off"),
        path="/naive",
    ),
}


# The upstream itself, asked as every server asks it: what the others' text is compared with.
UPSTREAM = Server(
    "the upstream",
    lambda ports, threads: [],
    path="/v1/chat/completions",
    key="content",
    done="[DONE]",
    body={"stream": True},
)


def conversation(length: int) -> list[dict[str, str]]:
    """Return ``length`` messages of about 200 characters; the last one is the user's."""
    text = "The quick brown fox jumps over the lazy dog, and then explains to it at length why. "
    return [
        {"role": "assistant" if (length - n) % 2 else "user", "content": f"{n}: {text * 2}{text}"}
        for n in range(1, length + 1)
    ]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Running:
    """A server and its upstream, started for one measurement; a context manager that ends both.

    ``Missing`` if the server's program is not installed, ``RuntimeError`` if it does not answer.
    """

    def __init__(self, name: str, threads: int = 64) -> None:
        self.name = name
        self.server = SERVERS[name]
        self.ports = Ports(free_port(), free_port())
        self._threads = threads
        self._processes: list[subprocess.Popen[bytes]] = []

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.ports.upstream}/v1"

    @property
    def pid(self) -> int:
        return self._processes[-1].pid

    def __enter__(self) -> Self:
        argv = self.server.argv(self.ports, self._threads)
        server_cores, other_cores = cores()
        try:
            self._start([tool("upstream"), str(self.ports.upstream)], other_cores)
            self._await_port(self.ports.upstream)
            self._start(argv, server_cores)
            self._await_port(self.ports.own)
            self._warm_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        for process in reversed(self._processes):
            for sign, patience in ((signal.SIGTERM, 1), (signal.SIGKILL, 5)):
                try:
                    os.killpg(process.pid, sign)
                    process.wait(patience)
                    break
                except (ProcessLookupError, subprocess.TimeoutExpired):
                    continue

    def load(self, model: str, *, messages: int = 1, **options: Any) -> dict[str, Any]:
        """Run the load client to its end; return what it says (see load.c)."""
        with self.start_load(model, messages=messages, **options) as process:
            return _result(process)

    def measured(self, model: str, *, messages: int = 1, **options: Any) -> dict[str, Any]:
        """Run the load client; return what it says, and what the server used meanwhile.

        ``cpu_s`` is its CPU time; ``disturbed`` how long it waited for its core, as a share of it;
        ``stolen`` how long the host of a virtual machine kept its core, as a share of the time.
        """
        server_cores, _ = cores()
        cpu, waited = procfs.cpu_seconds(self.pid), procfs.waited_seconds(self.pid)
        stolen, begin = procfs.stolen_seconds(server_cores), time.monotonic()
        result = self.load(model, messages=messages, **options)
        stolen = procfs.stolen_seconds(server_cores) - stolen
        used = procfs.cpu_seconds(self.pid) - cpu
        share = (procfs.waited_seconds(self.pid) - waited) / used if used else 0.0
        return result | {
            "cpu_s": used,
            "disturbed": max(0.0, share),
            "stolen": stolen / (time.monotonic() - begin),
        }

    def start_load(
        self, model: str, *, messages: int = 1, direct: bool = False, **options: Any
    ) -> subprocess.Popen[bytes]:
        """Start the load client; ``direct`` asks the upstream itself."""
        server, port = (UPSTREAM, self.ports.upstream) if direct else (self.server, self.ports.own)
        _, other_cores = cores()
        body = {"model": model, "messages": conversation(messages), **server.body}
        argv = [tool("load"), "--port", str(port), "--path", server.path]
        argv += ["--key", server.key, "--done", server.done, "--body", json.dumps(body)]
        for header in server.headers(self.ports):
            argv += ["--header", header]
        for option, value in options.items():
            argv += [f"--{option.replace('_', '-')}", str(value)]
        return subprocess.Popen(
            argv, stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, other_cores)
        )

    def upstream_stats(self) -> dict[str, int]:
        with urlopen(f"http://127.0.0.1:{self.ports.upstream}/stats", timeout=5) as response:
            stats: dict[str, int] = json.load(response)
            return stats

    @property
    def log(self) -> Path:
        return BUILD / "logs" / f"{self.name}.log"

    def _start(self, argv: list[str], on_cores: set[int]) -> None:
        environment = os.environ | {
            "BENCH_UPSTREAM": self.upstream_url,
            "DJANGO_SETTINGS_MODULE": "",
            "PYTHONWARNINGS": "",
            "MALLOC_ARENA_MAX": "2",  # as docs/deploy.md advises; for the peers too
            **self.server.env,
        }
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    argv,
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # so that only this group is ended
                    preexec_fn=lambda: os.sched_setaffinity(0, on_cores),
                )
            )

    def _await_port(self, port: int) -> None:
        end = time.monotonic() + 30
        while time.monotonic() < end and self._processes[-1].poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 0.5).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"{self.name} did not start; see {self.log}")

    def _warm_up(self) -> None:
        end = time.monotonic() + 15
        while (result := self.load("bench-c20", n=2, total=20, timeout_s=10))["ok"] < 20:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.name} does not answer: {result}; see {self.log}")


def _result(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    output, _ = process.communicate()
    result: dict[str, Any] = json.loads(output)
    return result
