"""Start the child that runs the model, wait until it answers, and end it.

The child hangs on a pipe that only we hold: when we end, in whatever way, it ends.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from .child import LOAD_TIMEOUT
from .errors import ModelUnavailable

__all__ = ["EmbeddedModel"]

CHILD = Path(__file__).with_name("child.py")
END_TIMEOUT = 5  # seconds

# OpenMP's threads spin while they wait, by default: one busy core then stalls all of them
# (80 tokens a second became 1 to 3).
QUIET_THREADS = {"GOMP_SPINCOUNT": "0", "OMP_WAIT_POLICY": "passive"}


class EmbeddedModel:
    """A running model: ``url`` and ``key`` are what an OpenAI client needs.

    >>> with EmbeddedModel(path, alias="smollm2") as model:
    ...     openai.OpenAI(base_url=model.url, api_key=model.key)

    ``tick`` is called with the seconds that loading took so far, some times a second.
    """

    def __init__(
        self, path: Path, *, alias: str, tick: Callable[[float], None] = lambda seconds: None
    ) -> None:
        self.path = path
        self.alias = alias
        self.key = secrets.token_urlsafe(24)
        self.url = ""
        self._tick = tick

    def __enter__(self) -> "EmbeddedModel":
        self._log = tempfile.TemporaryFile()
        self._process = self._spawn(self._log)
        try:
            self._send_settings()
            self.url = self._wait_for_url()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def close(self) -> None:
        """End the child and wait for it; killed if it does not end by itself. Idempotent."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _spawn(self, log: IO[bytes]) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, str(CHILD)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            bufsize=0,
            env=os.environ | QUIET_THREADS,
            # Ctrl-C in the terminal goes to a whole session. The child ends when we say so.
            start_new_session=True,
        )

    def _send_settings(self) -> None:
        # By stdin and not by arguments: those are readable to everybody on the machine.
        settings = {
            "model": str(self.path),
            "alias": self.alias,
            "key": self.key,
            "threads": max(1, (os.cpu_count() or 1) - 1),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(settings).encode() + b"\n")

    def _wait_for_url(self) -> str:
        """Return the URL from the child's line; raise ``ModelUnavailable`` if it never comes."""
        lines: list[bytes] = []
        stdout: Any = self._process.stdout
        reader = threading.Thread(target=lambda: lines.append(stdout.readline()), daemon=True)
        reader.start()
        started = time.monotonic()
        while reader.is_alive():
            seconds = time.monotonic() - started
            if seconds > LOAD_TIMEOUT + END_TIMEOUT:
                self._process.kill()
                raise ModelUnavailable(f"it did not load within {LOAD_TIMEOUT} seconds.")
            self._tick(seconds)
            reader.join(0.1)
        if not lines or not lines[0]:
            raise ModelUnavailable(self._cause_of_death())
        url: str = json.loads(lines[0])["url"]
        return url

    def _cause_of_death(self) -> str:
        status = self._process.wait()
        self._log.seek(0)
        said = self._log.read().decode(errors="replace").strip().splitlines()[-5:]
        cause = f"signal {-status}" if status < 0 else f"exit status {status}"
        return "\n  ".join([f"its process ended while loading ({cause}).", *said])
