"""System checks: each fires where it should, and is silent where nothing is wrong."""

import django
import pytest
from django.core.checks import run_checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from chatstream import checks
from chatstream.gunicorn import worker_of

OPENAI = "chatstream.providers.openai.OpenAIProvider"
SCRIPTED = "chatstream.providers.scripted.ScriptedProvider"
DATABASE_LOG = "chatstream.framelog.database.DatabaseFrameLog"
MEMORY_LOG = "chatstream.framelog.memory.MemoryFrameLog"
KEY = "sk-live-0123456789"


@pytest.fixture(autouse=True)
def clean_machine(monkeypatch, tmp_path):
    """No key, and no gunicorn in sight."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "GUNICORN_CMD_ARGS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def found(**chatstream):
    """Return the checks' messages by id for a value of `CHATSTREAM`."""
    with override_settings(CHATSTREAM=chatstream):
        return by_id(run_checks(tags=["chatstream"]))


def by_id(messages):
    return {message.id.removeprefix("chatstream."): message for message in messages}


def provider(backend=SCRIPTED, **options):
    return {"PROVIDERS": {"default": {"BACKEND": backend, "OPTIONS": options}}}


def test_a_good_project_hears_nothing():
    assert found(**provider()) == {}
    assert found(**provider(OPENAI, api_key=KEY, model="m")) == {}


def test_every_message_has_an_id_and_a_hint():
    messages = [
        *found(HEARTBEET=1).values(),
        *found(PROVIDERS={}).values(),
        *found(**provider("x.Y")).values(),
        *found(PROVIDERS={"default": {"BACKEND": SCRIPTED, "TOOLS": ["x.y"]}}).values(),
        *found(FRAME_LOG={"BACKEND": "x.Y"}, **provider()).values(),
        *found(FRAME_LOG={"BACKEND": MEMORY_LOG}, **provider()).values(),
        *found().values(),
    ]
    assert len(messages) == 7
    assert all(message.hint and message.id.startswith("chatstream.") for message in messages)


def test_an_unknown_setting_is_a_message_and_no_traceback():
    messages = found(HEARTBEET=1)
    assert list(messages) == ["E001"]
    assert "Did you mean 'HEARTBEAT'?" in messages["E001"].msg


@pytest.mark.django_db  # Django's own check of a JSON field may ask the database
def test_a_project_with_a_wrong_setting_starts_no_command():
    with (
        override_settings(CHATSTREAM={"HEARTBEET": 1}),
        pytest.raises(SystemCheckError, match=r"chatstream\.E001"),
    ):
        call_command("check")


@pytest.mark.parametrize("providers", [{}, {"other": {"BACKEND": SCRIPTED}}])
def test_a_project_needs_a_default_provider(providers):
    assert list(found(PROVIDERS=providers)) == ["E002"]


@pytest.mark.parametrize(
    ("backend", "hint"),
    [
        ("chatstream.providers.openai.OpenAIProvder", f"Did you mean '{OPENAI}'?"),
        ("chatstream.provider.openai.OpenAIProvider", f"Did you mean '{OPENAI}'?"),
        ("chatstream.providers.scripted.Scripted", f"Did you mean '{SCRIPTED}'?"),
        ("nonsense", "chatstream's own are"),
    ],
)
def test_a_backend_that_cannot_be_imported_is_named_with_the_nearest(backend, hint):
    message = found(**provider(backend))["E003"]
    assert f"'{backend}' cannot be imported" in message.msg
    assert hint in message.hint


def test_a_wrong_option_of_a_provider_is_reported_with_the_nearest():
    messages = found(**provider(OPENAI, api_key=KEY, modell="m"))
    assert list(messages) == ["E004"]
    assert "Did you mean 'model'?" in messages["E004"].msg


def tool(x):
    """Take a parameter without a type."""


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("tests.test_checks.nothing", "'tests.test_checks.nothing' cannot be imported"),
        ("tests.test_checks.tool", "needs a type for its parameter 'x'"),
    ],
)
def test_a_tool_that_no_model_could_call_is_reported(path, words):
    entry = {"BACKEND": SCRIPTED, "TOOLS": [path]}
    messages = found(PROVIDERS={"default": entry})
    assert list(messages) == ["E008"]
    assert words in messages["E008"].msg


def test_a_provider_without_a_key_is_reported():
    assert list(found()) == ["W001"]
    assert list(found(**provider(OPENAI, model="m"))) == ["W001"]


def test_a_key_in_the_environment_is_enough(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert found() == {}


def test_no_message_shows_a_key():
    messages = found(**provider(OPENAI, api_key=KEY, modell=KEY))
    messages |= found(**provider(OPENAI, api_key=[KEY]))
    assert messages
    assert KEY not in str(messages)


# The frame log


@pytest.mark.parametrize(
    ("backend", "hint"),
    [
        ("chatstream.framelog.database.DatabaseFramelogs", f"Did you mean '{DATABASE_LOG}'?"),
        ("chatstream.framelogs.memory.MemoryFrameLog", f"Did you mean '{MEMORY_LOG}'?"),
        ("nonsense", f"chatstream's own are {DATABASE_LOG} and {MEMORY_LOG}."),
    ],
)
def test_a_frame_log_that_cannot_be_imported_is_named_with_the_nearest(backend, hint):
    message = found(FRAME_LOG={"BACKEND": backend}, **provider())["E006"]
    assert f"'{backend}' cannot be imported" in message.msg
    assert hint in message.hint


def test_a_wrong_option_of_a_frame_log_is_reported():
    frame_log = {"BACKEND": DATABASE_LOG, "OPTIONS": {"alias": "other"}}
    messages = found(FRAME_LOG=frame_log, **provider())
    assert list(messages) == ["E007"]
    assert "does not know 'alias'" in messages["E007"].msg


def test_frames_in_memory_are_reported():
    assert list(found(FRAME_LOG={"BACKEND": MEMORY_LOG}, **provider())) == ["W008"]
    assert found(FRAME_LOG={"BACKEND": DATABASE_LOG}, **provider()) == {}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"transaction_mode": "IMMEDIATE"},
        {"transaction_mode": "DEFERRED", "init_command": "PRAGMA journal_mode=WAL"},
        {"init_command": "PRAGMA journal_mode=WAL"},
    ],
)
def test_sqlite_that_loses_writes_is_reported(settings, monkeypatch, options):
    monkeypatch.setitem(settings.DATABASES["default"], "OPTIONS", options)
    assert 'DATABASES["default"]' in by_id(checks.check_sqlite())["W009"].msg


@pytest.mark.parametrize(
    "database",
    [
        {"OPTIONS": {"transaction_mode": "immediate", "init_command": "pragma journal_mode=wal"}},
        {"ENGINE": "django.db.backends.postgresql", "OPTIONS": {}},
    ],
)
def test_a_database_that_takes_many_writers_is_fine(settings, monkeypatch, database):
    for key, value in database.items():
        monkeypatch.setitem(settings.DATABASES["default"], key, value)
    assert checks.check_sqlite() == []


# The project


def test_rest_framework_must_be_installed(settings):
    assert checks.check_rest_framework() == []
    settings.INSTALLED_APPS = [a for a in settings.INSTALLED_APPS if a != "rest_framework"]
    assert list(by_id(checks.check_rest_framework())) == ["E005"]


@pytest.mark.parametrize("middleware", [checks.GZIP, *sorted(checks.COMPRESSORS)])
def test_middleware_that_holds_back_a_stream_is_named(settings, monkeypatch, middleware):
    monkeypatch.setattr(django, "VERSION", (6, 0, 0, "final", 0))
    settings.MIDDLEWARE = [middleware, *settings.MIDDLEWARE]
    assert middleware in by_id(checks.check_middleware())["W002"].msg


def test_gzip_of_django_6_1_flushes_and_is_fine(settings, monkeypatch):
    monkeypatch.setattr(django, "VERSION", (6, 1, 0, "final", 0))
    settings.MIDDLEWARE = [checks.GZIP, *settings.MIDDLEWARE]
    assert checks.check_middleware() == []


def test_djangos_cache_and_conditional_middleware_leave_streams_alone(settings):
    settings.MIDDLEWARE = [
        "django.middleware.cache.UpdateCacheMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        *settings.MIDDLEWARE,
        "django.middleware.cache.FetchFromCacheMiddleware",
    ]
    assert checks.check_middleware() == []


def test_a_heartbeat_slower_than_proxies_is_reported():
    assert list(found(HEARTBEAT=60, **provider())) == ["W003"]
    assert found(HEARTBEAT=59, **provider()) == {}


def test_lasting_connections_under_asgi_are_reported(settings):
    settings.DATABASES["default"]["CONN_MAX_AGE"] = 60
    try:
        assert checks.check_connection_age() == []  # nothing says that ASGI is used
        settings.ASGI_APPLICATION = "tests.asgi.application"
        assert 'DATABASES["default"]' in by_id(checks.check_connection_age())["W006"].msg
        settings.DATABASES["default"]["CONN_MAX_AGE"] = None  # for ever
        assert list(by_id(checks.check_connection_age())) == ["W006"]
        settings.DATABASES["default"]["CONN_MAX_AGE"] = 0
        assert checks.check_connection_age() == []
    finally:
        settings.DATABASES["default"]["CONN_MAX_AGE"] = 0


def test_the_embedded_model_in_production_is_reported_by_deploy_alone(settings):
    chatstream = provider(OPENAI, api_key=KEY, model=checks.EMBEDDED_MODEL)
    assert found(**chatstream) == {}
    with override_settings(CHATSTREAM=chatstream, DEBUG=True):
        messages = run_checks(tags=["chatstream"], include_deployment_checks=True)
    assert "together with DEBUG = True" in by_id(messages)["W007"].msg
    with override_settings(CHATSTREAM=chatstream, DEBUG=False):
        messages = run_checks(tags=["chatstream"], include_deployment_checks=True)
    assert "DEBUG" not in by_id(messages)["W007"].msg
    with override_settings(CHATSTREAM=provider(), DEBUG=True):
        messages = run_checks(tags=["chatstream"], include_deployment_checks=True)
    assert messages == []


def test_the_embedded_model_is_the_one_of_the_demo():
    from project.embedded.launch import ALIAS

    assert ALIAS == checks.EMBEDDED_MODEL


# gunicorn's worker


def test_a_sync_worker_is_reported_where_it_is_named(monkeypatch):
    assert checks.check_gunicorn_worker() == []
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "--bind=127.0.0.1 --worker-class=sync")
    assert "GUNICORN_CMD_ARGS" in by_id(checks.check_gunicorn_worker())["W004"].msg
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-k gevent")
    assert "gevent" in by_id(checks.check_gunicorn_worker())["W005"].msg
    monkeypatch.setenv("GUNICORN_CMD_ARGS", "-k gthread --threads 40")
    assert checks.check_gunicorn_worker() == []


@pytest.mark.parametrize(
    "line",
    [
        "web: gunicorn project.wsgi",
        "web: gunicorn project.wsgi --threads 1 --log-file -",
        "release: python manage.py migrate\nweb: gunicorn -k sync project.wsgi",
    ],
)
def test_a_procfile_tells_the_sync_worker_named_or_not(tmp_path, line):
    (tmp_path / "Procfile").write_text(line)
    worker = worker_of(tmp_path, {})
    assert worker.is_sync
    assert worker.source == "the Procfile"


@pytest.mark.parametrize(
    "line",
    [
        "web: gunicorn project.asgi -k uvicorn.workers.UvicornWorker",
        "web: gunicorn project.wsgi --threads 8",
        "web: gunicorn project.wsgi --worker-class=gthread",
        "web: gunicorn -c conf/gunicorn.py project.wsgi",
        "web: uvicorn project.asgi:application",
        "web: gunicorn project.wsgi\nstream: gunicorn project.asgi -k uvicorn_worker.UvicornWorker",
        "web: gunicorn 'unbalanced",
    ],
)
def test_a_procfile_with_another_worker_or_none_that_can_be_told_is_fine(tmp_path, line):
    (tmp_path / "Procfile").write_text(line)
    worker = worker_of(tmp_path, {})
    assert worker is None or not worker.is_sync


def test_a_configuration_file_is_read_and_never_run(tmp_path):
    config = tmp_path / "gunicorn.conf.py"
    config.write_text("raise SystemExit\nworker_class = 'sync'\n")
    assert worker_of(tmp_path, {}).is_sync
    config.write_text("worker_class = 'sync'\nthreads = 4\n")
    assert not worker_of(tmp_path, {}).is_sync
    config.write_text("import os\nworker_class = os.environ.get('WORKER', 'sync')\n")
    assert worker_of(tmp_path, {}) is None
    config.write_text("workers = 4\n")  # the command line may name a class
    assert worker_of(tmp_path, {}) is None
    config.write_text("this is no Python")
    assert worker_of(tmp_path, {}) is None


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text("worker_class = 'sync'\n")
    assert not worker_of(tmp_path, {"GUNICORN_CMD_ARGS": "-k gthread"}).is_sync
    (tmp_path / "Procfile").write_text("web: gunicorn project.wsgi -k sync")
    assert worker_of(tmp_path, {"GUNICORN_CMD_ARGS": "-k gthread"}).is_sync
