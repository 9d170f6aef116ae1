"""The project that the servers under test serve; its values come from ``tests.servers.Site``."""

import gc
import json
import os

if os.environ.get("TESTSITE_GC") == "off":
    gc.disable()

SECRET_KEY = "only for tests"
ALLOWED_HOSTS = ["*"]
USE_TZ = True
ROOT_URLCONF = "tests.site.urls"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "rest_framework",
    "rest_framework.authtoken",
    "chatstream",
]
# GZip is here to be stepped aside of: streams must pass it unpacked and at once.
MIDDLEWARE = [
    "django.middleware.gzip.GZipMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
SQLITE = {
    "ENGINE": "django.db.backends.sqlite3",
    "NAME": os.environ.get("TESTSITE_DB", ":memory:"),
    "OPTIONS": {
        "transaction_mode": "IMMEDIATE",
        "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
    },
}
# TESTSITE_DATABASE: an entry of DATABASES, as ``tests.services.Postgres.settings`` returns it.
DATABASES = {"default": json.loads(os.environ.get("TESTSITE_DATABASE", "null")) or SQLITE}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
WSGI_APPLICATION = "tests.site.wsgi.application"
SILENCED_SYSTEM_CHECKS: list[str] = []
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "INFO"},
}

CHATSTREAM = json.loads(os.environ.get("TESTSITE_CHATSTREAM", "{}"))
BASE_URL = os.environ.get("TESTSITE_BASE_URL", "")
API_KEY = os.environ.get("TESTSITE_KEY", "")
# The naive views are told how long to wait; the package's own default is ten minutes.
NAIVE_TIMEOUT = float(os.environ.get("TESTSITE_NAIVE_TIMEOUT", "2"))
