"""What every test shares: the databases, and which services a machine must have.

A test that needs Chromium, nginx, PostgreSQL or a built embedded model skips without it, unless
``CHATSTREAM_REQUIRE_SERVICES=1`` (continuous integration) turns the skip into a failure.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import call_command
from django.db import connections
from django.test import Client

END_WITHIN = 3.0  # seconds; a run whose event loop has ended with its test stays open


@pytest.fixture(scope="session")
def sqlite(tmp_path_factory: pytest.TempPathFactory, django_db_blocker: Any) -> Iterator[None]:
    """A migrated database under the alias ``sqlite``, with the options of the demo."""
    options = settings.DATABASES["default"]["OPTIONS"]
    name = tmp_path_factory.mktemp("sqlite") / "db.sqlite3"
    entry = {"ENGINE": "django.db.backends.sqlite3", "NAME": name, "OPTIONS": options}
    with _migrated("sqlite", entry, django_db_blocker):
        yield


@pytest.fixture(scope="session")
def postgresql(django_db_blocker: Any) -> Iterator[Any]:
    """A cluster of this worker's own, with a migrated database under the alias ``postgresql``."""
    from tests.services import Postgres

    with (
        Postgres() as cluster,
        _migrated("postgresql", cluster.settings("chatstream"), django_db_blocker),
    ):
        yield cluster


@contextmanager
def _migrated(alias: str, entry: dict[str, Any], blocker: Any) -> Iterator[None]:
    configured = connections.configure_settings({"default": {}, alias: entry})
    connections.databases[alias] = configured[alias]
    with blocker.unblock():
        call_command("migrate", database=alias, verbosity=0)
    yield
    connections[alias].close()
    del connections[alias], connections.databases[alias]


class Router:
    """A database router: everything goes to one alias, from every thread."""

    def __init__(self, alias: str) -> None:
        self.alias = alias

    def db_for_read(self, model: Any, **hints: Any) -> str:
        return self.alias

    db_for_write = db_for_read

    def allow_relation(self, *_: Any, **hints: Any) -> bool:
        return True


@pytest.fixture(params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, settings: Any, django_db_blocker: Any
) -> Iterator[str]:
    """The alias of an empty database, which holds all models for the test. No ``django_db``."""
    alias: str = request.param
    request.getfixturevalue(alias)
    settings.DATABASE_ROUTERS = [Router(alias)]
    with django_db_blocker.unblock():
        yield alias
        close_writers_connections()
        _empty(alias)
        connections[alias].close()


@pytest.fixture
def anonymous_site() -> Iterator[None]:
    """A site where anybody may chat; its model says what ``tests.asking`` lets it say."""
    from tests.asking import configured

    with configured():
        yield


@pytest.fixture
def client() -> Client:
    """A browser on a page of this site: no request of it is refused for its origin."""
    return Client(headers={"sec-fetch-site": "same-origin"})


@pytest.fixture
def runs(transactional_db: None) -> Iterator[None]:
    """For a test that starts runs: a database that other threads see; no run outlives its test."""
    yield
    end_runs()


def end_runs() -> None:
    """Stop what is still open, and wait until it has ended and its last frames are written."""
    from chatstream.models import Run
    from chatstream.runs import stop_run

    for run in Run.objects.open():
        stop_run(run)
    until = time.monotonic() + END_WITHIN
    while Run.objects.open().exists() and time.monotonic() < until:
        time.sleep(0.01)
    close_writers_connections()


def _empty(alias: str) -> None:
    """Delete what tests make. ``flush`` would take ten times as long on PostgreSQL."""
    for model in apps.get_models():
        if model._meta.label not in ("contenttypes.ContentType", "auth.Permission"):
            model._base_manager.using(alias).all().delete()


@pytest.fixture(autouse=True)
def _writer_is_done() -> Iterator[None]:
    """What a test's writer still had to do belongs to that test."""
    yield
    close_writers_connections()


def close_writers_connections() -> None:
    """Wait until the process's writer, if it has begun, has done all and let its database go."""
    if any(thread.name == "chatstream-writer" for thread in threading.enumerate()):
        from chatstream.writer import writer

        writer().submit(connections.close_all).result(60)


def find_service(program: str) -> str:
    """Return the path of ``program``; skip the test without it, or fail where it is required."""
    path = shutil.which(program)
    if path is None:
        missing_service(f"'{program}' is not on PATH")
    return path


def missing_service(reason: str) -> None:
    """Skip the running test, or fail it where ``CHATSTREAM_REQUIRE_SERVICES`` is set."""
    if os.environ.get("CHATSTREAM_REQUIRE_SERVICES") == "1":
        pytest.fail(f"{reason}, and CHATSTREAM_REQUIRE_SERVICES=1 asks for it")
    pytest.skip(reason)
