"""Which worker gunicorn will use, as far as files and environment tell without running anything.

gunicorn takes its settings from ``gunicorn.conf.py``, then ``GUNICORN_CMD_ARGS``, then its command
line, the last one winning. The command line is known here only if a ``Procfile`` holds it. What is
not a plain value is not guessed.
"""

from __future__ import annotations

import argparse
import ast
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Worker", "worker_of"]

SYNC = {"sync", "egg:gunicorn#sync", "gunicorn.workers.sync.SyncWorker"}


@dataclass(frozen=True)
class Worker:
    """A worker class, its threads, and the file or variable that names it."""

    name: str
    threads: int
    source: str

    @property
    def is_sync(self) -> bool:
        # gunicorn itself turns ``sync`` with more than one thread into gthread.
        return self.name in SYNC and self.threads <= 1

    @property
    def is_green(self) -> bool:
        return any(kind in self.name for kind in ("gevent", "eventlet", "tornado"))


def worker_of(folder: Path, environ: Mapping[str, str]) -> Worker | None:
    """Return the worker of a gunicorn started in ``folder``; None where it cannot be told.

    gunicorn's default, the sync worker, counts only where the whole command line is known.
    """
    command = _procfile_command(folder)
    arguments = (
        (_from_arguments(environ.get("GUNICORN_CMD_ARGS", "")), "GUNICORN_CMD_ARGS"),
        (_from_arguments(command or ""), "the Procfile"),
    )
    # Another configuration file may be named: then what the usual one says may not hold.
    other_config = any("config" in values for values, _ in arguments)
    config = {} if other_config else _from_config(folder / "gunicorn.conf.py")
    found: dict[str, tuple[object, str]] = {}
    for values, source in ((config, "gunicorn.conf.py"), *arguments):
        found |= {name: (value, source) for name, value in values.items()}
    if command is not None and not other_config:
        found.setdefault("worker_class", ("sync", "the Procfile"))
    name, source = found.get("worker_class", (None, ""))
    threads, _ = found.get("threads", (1, ""))
    if not isinstance(name, str) or not isinstance(threads, int):
        return None
    return Worker(name, threads, source)


def _from_config(path: Path) -> dict[str, object]:
    """Return ``worker_class`` and ``threads`` of a configuration file, read but never run.

    An expression, such as a call of ``os.environ.get``, comes as None: set, but not known.
    """
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError):
        return {}
    values: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            value = node.value.value if isinstance(node.value, ast.Constant) else None
            values |= {t.id: value for t in node.targets if isinstance(t, ast.Name)}
    return {name: values[name] for name in ("worker_class", "threads") if name in values}


def _from_arguments(line: str) -> dict[str, object]:
    """Return what a command line has of ``worker_class``, ``threads`` and ``config``."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("-k", "--worker-class", default=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=argparse.SUPPRESS)
    parser.add_argument("-c", "--config", default=argparse.SUPPRESS)
    try:
        known, _ = parser.parse_known_args(shlex.split(line, comments=True))
    except (ValueError, argparse.ArgumentError):
        return {"worker_class": None}
    return vars(known)


def _procfile_command(folder: Path) -> str | None:
    """Return the arguments of the only gunicorn command of a ``Procfile``, or None."""
    try:
        lines = (folder / "Procfile").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return None
    commands = [line.partition("gunicorn ")[2] for line in lines if "gunicorn " in line]
    return commands[0] if len(commands) == 1 else None
