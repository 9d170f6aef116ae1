"""Services that tests start for themselves.

    with Postgres() as postgres:
        DATABASES = {"default": postgres.settings("chat")}
        postgres.stop()     # every connection breaks, new ones are refused
        postgres.start()    # the same data again

A cluster lives in a folder of its own, listens on a socket in there and on no port, and syncs
nothing to disk.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.conftest import missing_service

__all__ = ["Postgres"]

SUPERUSER = "postgres"
TIMEOUT = 60  # seconds to start or to stop
INITDB = ("-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
QUICK = ("fsync=off", "full_page_writes=off", "listen_addresses=", "max_connections=200")


class Postgres:
    """A private PostgreSQL cluster; skips the test where PostgreSQL or psycopg is missing."""

    def __enter__(self) -> Postgres:
        if importlib.util.find_spec("psycopg") is None:
            missing_service("PostgreSQL needs the package psycopg")
        self._bin = _find_binaries()
        self._process: subprocess.Popen[bytes] | None = None
        self._cleanup = contextlib.ExitStack()
        with contextlib.ExitStack() as cleanup:
            self.folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pg-")))
            cleanup.callback(self.kill)
            self._init()
            self.start()
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @property
    def log(self) -> str:
        """All that the cluster wrote."""
        return (self.folder / "log").read_text(errors="replace")

    def settings(self, name: str) -> dict[str, Any]:
        """Return an entry of ``DATABASES``; the database is made if it is not there."""
        with self._connect() as connection:
            query = "SELECT FROM pg_database WHERE datname = %s"
            if connection.execute(query, [name]).fetchone() is None:
                connection.execute(f'CREATE DATABASE "{name}"')
        return {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": name,
            "USER": SUPERUSER,
            "HOST": str(self.folder),
        }

    def start(self) -> None:
        """Start the cluster, and wait until it takes connections."""
        options = [part for option in QUICK for part in ("-c", option)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-k", self.folder, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **_identity(),
            )
        self._wait_ready()

    def stop(self) -> None:
        """End it in order, without waiting for its clients: their connections break."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        process.send_signal(how)
        try:
            process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _init(self) -> None:
        identity = _identity()
        if identity:
            os.chown(self.folder, identity["user"], identity["group"])
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, *INITDB],
            check=True,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.folder,
            timeout=TIMEOUT,
            **identity,
        )

    def _wait_ready(self) -> None:
        import psycopg

        until = time.monotonic() + TIMEOUT
        while True:
            try:
                self._connect().close()
            except psycopg.OperationalError:
                assert self._process is not None
                if self._process.poll() is not None or time.monotonic() > until:
                    raise RuntimeError(f"PostgreSQL did not start:\n{self.log[-3000:]}") from None
                time.sleep(0.05)
            else:
                return

    def _connect(self) -> Any:
        import psycopg

        return psycopg.connect(
            host=str(self.folder), user=SUPERUSER, dbname="postgres", autocommit=True
        )


def _find_binaries() -> Path:
    """Return the folder of PostgreSQL's programs; Debian puts them on no PATH."""
    for folder in _folders():
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    missing_service("PostgreSQL is not installed")
    raise AssertionError("not reached")


def _folders() -> Iterator[Path]:
    if (found := shutil.which("postgres")) is not None:
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def _identity() -> dict[str, Any]:
    """Return who runs the cluster, for ``subprocess``: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(SUPERUSER)
    except KeyError:
        missing_service(f"there is no user '{SUPERUSER}', and PostgreSQL refuses to run as root")
        raise AssertionError("not reached") from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
