"""The demo as a subprocess, as ``make demo`` starts it.

with Demo(CHATSTREAM_BASE_URL=upstream.url) as demo:
    urllib.request.urlopen(demo.url)
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from urllib.parse import urlsplit

__all__ = ["ROOT", "Demo", "demo_environment"]

ROOT = Path(__file__).parent.parent
START_TIMEOUT = 180  # seconds; the embedded model may have to be downloaded
END_TIMEOUT = 15
CHOOSING = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "DJANGO_SETTINGS_MODULE", "RUN_MAIN", "PORT")


def demo_environment(**variables: str) -> dict[str, str]:
    """Return our environment without what chooses a model, and with ``variables``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in CHOOSING and not name.startswith("CHATSTREAM_")
    }
    return kept | {"PYTHONUNBUFFERED": "1", **variables}


class Demo:
    """``manage.py demo`` on a free port, with a database of its own: the file ``database``."""

    def __init__(self, **variables: str) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.database = str(Path(self._folder.name) / "demo.sqlite3")
        self._environment = demo_environment(CHATSTREAM_DB=self.database, **variables)
        self._lines: list[str] = []
        self.url = ""

    @property
    def port(self) -> int:
        """0 before it has started."""
        return urlsplit(self.url).port or 0

    def __enter__(self) -> "Demo":
        self._start()
        return self

    def kill(self) -> None:
        """End its process like a crash does."""
        self.process.kill()
        self._join()

    def restart(self) -> None:
        """Start it again, on the same port and the same database."""
        self._start()

    def _start(self) -> None:
        self._announced = threading.Event()
        self.process = subprocess.Popen(
            [sys.executable, "manage.py", "demo", "--port", str(self.port)],
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._announced.wait(START_TIMEOUT) or not self.url:
            self.__exit__()
            raise AssertionError(f"the demo did not start:\n{self.log}")

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self._join()
        self._folder.cleanup()

    def _join(self) -> None:
        self.process.wait()
        self._reader.join(END_TIMEOUT)
        if self.process.stdout is not None:
            self.process.stdout.close()

    @property
    def log(self) -> str:
        """All that it wrote so far."""
        return "".join(self._lines)

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                self.url = found[0]
                self._announced.set()
        self._announced.set()
