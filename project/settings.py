"""Settings of the demo: SQLite, no key, and a model that it brings along.

The environment chooses the model: OPENAI_API_KEY alone for OpenAI, CHATSTREAM_BASE_URL (with
CHATSTREAM_API_KEY and CHATSTREAM_MODEL) for any compatible server, neither for the embedded one.
"""

import os
from pathlib import Path
from typing import Any

from project.embedded.launch import ALIAS, KEY_VARIABLE, URL_VARIABLE

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = os.environ.get("DEBUG", "1") != "0"
# Good for a demo on one's own machine only: the check --deploy says so, too.
SECRET_KEY = os.environ.get("SECRET_KEY", "django-insecure-demo-key-of-no-secrecy-at-all")
ALLOWED_HOSTS = ["localhost", "127.0.0.1", "[::1]"]

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "chatstream",
    "project",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "project.middleware.content_security_policy",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

ROOT_URLCONF = "project.urls"
ASGI_APPLICATION = "project.asgi.application"
WSGI_APPLICATION = "project.wsgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {"context_processors": ["django.template.context_processors.request"]},
    }
]

# With Django's defaults, 500 threads that read and then insert lost 1,303 of 1,500 writes to
# "database is locked"; with WAL and IMMEDIATE, 21.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": os.environ.get("CHATSTREAM_DB", str(BASE_DIR / "db.sqlite3")),
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"


def chosen_model() -> tuple[dict[str, Any], dict[str, Any], str]:
    """Return the default provider's options, the limits that suit it, and its name for people.

    The name is empty for the embedded model, which the page calls a toy.
    """
    environ = os.environ
    model = environ.get("CHATSTREAM_MODEL", "")
    named = {"model": model} if model else {}
    if base_url := environ.get("CHATSTREAM_BASE_URL"):
        # Never OPENAI_API_KEY: that one is for OpenAI, and this is somebody else.
        options = {"base_url": base_url, "api_key": environ.get("CHATSTREAM_API_KEY") or "none"}
        return options | named, {}, model or "your own model server"
    if key := environ.get("OPENAI_API_KEY"):
        return {"api_key": key} | named, {}, model or "OpenAI"
    options = {
        # Port 0 reaches nobody: without the embedded model an answer says "unreachable".
        "base_url": environ.get(URL_VARIABLE, "http://127.0.0.1:0/v1"),
        "api_key": environ.get(KEY_VARIABLE, "none"),
        "model": ALIAS,
        "params": {"max_tokens": 512},
    }
    # It reads about 120 tokens a second on one core and has 2,048 of them for each chat: at three
    # or four characters to a token these stay under 1,500.
    return options, {"MAX_PROMPT_CHARS": 4_000, "MAX_HISTORY_CHARS": 4_500}, ""


_options, _limits, DEMO_MODEL_NAME = chosen_model()

CHATSTREAM = {
    "PROVIDERS": {
        "default": {
            "BACKEND": "project.switches.SwitchedProvider",  # an OpenAIProvider that can be broken
            "OPTIONS": _options,
            # The embedded model is told of it, and calls nothing.
            "TOOLS": ["project.tools.search_conversations"],
        }
    },
    "ALLOW_ANONYMOUS": True,
    **_limits,
}
