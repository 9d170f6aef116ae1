"""Django settings of the unit tests: SQLite, the scripted provider, no key."""

import atexit
import shutil
import tempfile

SECRET_KEY = "only for tests"
USE_TZ = True
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "tests.urls"

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "rest_framework",
    "chatstream",
]

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {},
    }
]

# A file, for the writer's thread has a connection of its own; the options of the demo.
_folder = tempfile.mkdtemp(prefix="chatstream-tests-")
atexit.register(shutil.rmtree, _folder, ignore_errors=True)
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": f"{_folder}/db.sqlite3",
        "TEST": {"NAME": f"{_folder}/test.sqlite3"},
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# A hash of one round: the tests log users in, and test no password.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

CHATSTREAM = {
    "PROVIDERS": {
        "default": {"BACKEND": "chatstream.providers.scripted.ScriptedProvider", "OPTIONS": {}}
    },
}
