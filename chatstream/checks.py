"""System checks: what breaks streaming, said before users find out.

``manage.py check --tag chatstream`` runs these alone. An error is a mistake in the settings
themselves; whatever depends on the machine (a key, a server's configuration) is a warning, so that
a build without secrets still passes. Each message has a hint that says what to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import django
from django.apps import apps
from django.conf import settings as django_settings
from django.core.checks import CheckMessage, Error, Warning, register
from django.core.exceptions import ImproperlyConfigured
from django.db import router

from .conf import (
    DEFAULT_BACKEND,
    DEFAULT_FRAME_LOG,
    BackendEntry,
    ProviderEntry,
    Settings,
    load,
    nearest,
)
from .gunicorn import worker_of
from .tools import tools_of

TAG = "chatstream"
FRAME_LOGS = (DEFAULT_FRAME_LOG, "chatstream.framelog.memory.MemoryFrameLog")
BACKENDS = (DEFAULT_BACKEND, "chatstream.providers.scripted.ScriptedProvider")

# Many proxies, nginx among them, cut a connection that was silent for a minute.
PROXY_SILENCE = 60  # seconds

# These compress a stream without flushing each chunk: tokens wait until a block is full.
COMPRESSORS = {
    "compression_middleware.middleware.CompressionMiddleware",
    "django_brotli.middleware.BrotliMiddleware",
}
# The name by which the demo's model is asked; it is small enough to run anywhere, and to be wrong.
EMBEDDED_MODEL = "smollm2-135m-instruct"

GZIP = "django.middleware.gzip.GZipMiddleware"


def current_settings() -> Settings | None:
    """Return the settings, or None if they are wrong, which ``check_setting`` reports."""
    try:
        return load()
    except ImproperlyConfigured:
        return None


@register(TAG)
def check_setting(**kwargs: Any) -> list[CheckMessage]:
    """E001: an unknown key, a wrong type or a value out of range in ``CHATSTREAM``."""
    try:
        load()
    except ImproperlyConfigured as exc:
        return [Error(str(exc), hint="docs/settings.md lists every setting.", id="chatstream.E001")]
    return []


@register(TAG)
def check_providers(**kwargs: Any) -> list[CheckMessage]:
    """E002 to E004: providers that are missing, unimportable or wrong; E008: tools that are.

    What a provider's own ``check`` returns is passed on: W001 is a missing key.
    """
    settings = current_settings()
    if settings is None:
        return []
    if "default" not in settings.PROVIDERS:
        return [
            Error(
                'CHATSTREAM["PROVIDERS"] has no "default".',
                hint="Name one, or leave PROVIDERS out to use OpenAI with OPENAI_API_KEY.",
                id="chatstream.E002",
            )
        ]
    return [
        message
        for alias, entry in settings.PROVIDERS.items()
        for message in _check_provider(alias, entry)
    ]


def _check_provider(alias: str, entry: ProviderEntry) -> Iterator[CheckMessage]:
    where = f'CHATSTREAM["PROVIDERS"]["{alias}"]'
    yield from _check_backend(
        where, entry, BACKENDS, (alias,), "chatstream.E003", "chatstream.E004"
    )
    try:
        tools_of(entry["TOOLS"], f'{where}["TOOLS"]')
    except ImproperlyConfigured as exc:
        hint = "docs/tools.md says what a tool has to be."
        yield Error(str(exc), hint=hint, id="chatstream.E008")


def _check_backend(
    where: str,
    entry: BackendEntry,
    known: tuple[str, ...],
    leading: tuple[str, ...],
    unimportable: str,
    wrong: str,
) -> Iterator[CheckMessage]:
    """Make what an entry names, from the ``leading`` arguments and its options; let it speak.

    ``known`` are chatstream's own; ``unimportable`` and ``wrong`` the ids of what is reported here.
    """
    path = entry["BACKEND"]
    try:
        backend = _import(path)
    except ImportError as exc:
        message = f"{where}[\"BACKEND\"] '{path}' cannot be imported: {exc}."
        yield Error(message, hint=_backend_hint(path, known), id=unimportable)
        return
    try:
        made = backend(*leading, entry["OPTIONS"])
    except ImproperlyConfigured as exc:
        yield Error(str(exc), hint="docs/settings.md lists the options of each backend.", id=wrong)
        return
    yield from made.check()


def _import(path: str) -> Any:
    """Return the object at a dotted path; ``ImportError`` says which part is missing."""
    module_path, _, name = path.rpartition(".")
    if not module_path:
        raise ImportError("it is not a dotted path to a class")
    module = import_module(module_path)
    try:
        return getattr(module, name)
    except AttributeError:
        raise ImportError(f"module '{module_path}' has no '{name}'") from None


def _backend_hint(path: str, known: tuple[str, ...]) -> str:
    near = nearest(path, known)
    if near:
        return f"Did you mean '{near}'?"
    return f"chatstream's own are {' and '.join(known)}."


@register(TAG)
def check_frame_log(**kwargs: Any) -> list[CheckMessage]:
    """E006 and E007: a frame log that is unimportable or wrong. Others speak for themselves.

    What a log's own ``check`` returns is passed on: W008 is frames in memory.
    """
    settings = current_settings()
    if settings is None:
        return []
    where, ids = 'CHATSTREAM["FRAME_LOG"]', ("chatstream.E006", "chatstream.E007")
    return list(_check_backend(where, settings.FRAME_LOG, FRAME_LOGS, (), *ids))


@register(TAG)
def check_sqlite(**kwargs: Any) -> list[CheckMessage]:
    """W009: SQLite with options that lose writes to "database is locked"."""
    alias = router.db_for_write(apps.get_model("chatstream", "Run"))
    database: dict[str, Any] = django_settings.DATABASES.get(alias, {})
    if not str(database.get("ENGINE", "")).endswith("sqlite3"):
        return []
    options = database.get("OPTIONS", {})
    is_immediate = str(options.get("transaction_mode", "")).upper() == "IMMEDIATE"
    is_wal = "wal" in str(options.get("init_command", "")).lower()
    if is_immediate and is_wal:
        return []
    return [
        Warning(
            f'DATABASES["{alias}"] is SQLite without WAL and immediate transactions: concurrent '
            'requests fail with "database is locked".',
            hint='Set OPTIONS = {"transaction_mode": "IMMEDIATE", "init_command": '
            '"PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"}.',
            id="chatstream.W009",
        )
    ]


@register(TAG)
def check_rest_framework(**kwargs: Any) -> list[CheckMessage]:
    """E005: ``rest_framework`` is not installed as an app."""
    if apps.is_installed("rest_framework"):
        return []
    return [
        Error(
            "chatstream needs 'rest_framework' in INSTALLED_APPS.",
            hint="Add 'rest_framework' beside 'chatstream'.",
            id="chatstream.E005",
        )
    ]


@register(TAG)
def check_middleware(**kwargs: Any) -> list[CheckMessage]:
    """W002: middleware that holds back what is streamed."""
    culprits = COMPRESSORS | ({GZIP} if django.VERSION < (6, 1) else set())
    return [
        Warning(
            f"{path} holds back streamed responses until it has a block to compress.",
            hint="chatstream's own responses step around it with 'Content-Encoding: identity'; "
            "keep that header in a subclass, set it on other streams, or let the proxy compress.",
            id="chatstream.W002",
        )
        for path in django_settings.MIDDLEWARE
        if path in culprits
    ]


@register(TAG)
def check_heartbeat(**kwargs: Any) -> list[CheckMessage]:
    """W003: a heartbeat that is slower than the patience of common proxies."""
    settings = current_settings()
    if settings is None or settings.HEARTBEAT < PROXY_SILENCE:
        return []
    return [
        Warning(
            f'CHATSTREAM["HEARTBEAT"] is {settings.HEARTBEAT:g} s; proxies such as nginx cut a '
            f"connection that is silent for {PROXY_SILENCE} s.",
            hint="15 s is a good value.",
            id="chatstream.W003",
        )
    ]


@register(TAG)
def check_gunicorn_worker(**kwargs: Any) -> list[CheckMessage]:
    """W004 and W005: gunicorn workers that cannot stream, where files or environment tell."""
    worker = worker_of(Path.cwd(), os.environ)
    if worker is None:
        return []
    if worker.is_sync:
        return [
            Warning(
                f"gunicorn's sync worker, as {worker.source} has it, serves one stream at a time "
                "and kills it after 30 s.",
                hint="Use uvicorn's worker, or '--worker-class gthread --threads N' with one "
                "thread for each open stream; see docs/deploy.md.",
                id="chatstream.W004",
            )
        ]
    if worker.is_green:
        return [
            Warning(
                f"gunicorn's {worker.name} worker, as {worker.source} has it, is not supported.",
                hint="Use uvicorn's worker or gthread; see docs/deploy.md.",
                id="chatstream.W005",
            )
        ]
    return []


@register(TAG)
def check_connection_age(**kwargs: Any) -> list[CheckMessage]:
    """W006: lasting database connections under ASGI, where they leak."""
    if not getattr(django_settings, "ASGI_APPLICATION", None):
        return []
    return [
        Warning(
            f'DATABASES["{alias}"] has CONN_MAX_AGE = {database["CONN_MAX_AGE"]}, which leaks '
            "connections under ASGI.",
            hint="Set CONN_MAX_AGE to 0; use the database's pool instead (on PostgreSQL: "
            'OPTIONS = {"pool": True}).',
            id="chatstream.W006",
        )
        for alias, database in django_settings.DATABASES.items()
        if database.get("CONN_MAX_AGE", 0) != 0
    ]


@register(TAG, deploy=True)
def check_embedded_model(**kwargs: Any) -> list[CheckMessage]:
    """W007, with ``--deploy``: the demo's embedded model in production."""
    settings = current_settings()
    if settings is None:
        return []
    debug = " together with DEBUG = True" if django_settings.DEBUG else ""
    return [
        Warning(
            f'CHATSTREAM["PROVIDERS"]["{alias}"] uses the demo\'s embedded model{debug}.',
            hint="It is a toy that shows streaming: name a real model's 'base_url', 'api_key' and "
            "'model', and set DEBUG = False.",
            id="chatstream.W007",
        )
        for alias, entry in settings.PROVIDERS.items()
        if entry["OPTIONS"].get("model") == EMBEDDED_MODEL
    ]
