"""The test project with static files as many projects serve them: hashed, and by WhiteNoise."""

import os

from tests.site.settings import *  # noqa: F403
from tests.site.settings import INSTALLED_APPS, MIDDLEWARE

DEBUG = False
INSTALLED_APPS = [*INSTALLED_APPS, "django.contrib.staticfiles"]
MIDDLEWARE = ["whitenoise.middleware.WhiteNoiseMiddleware", *MIDDLEWARE]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]

STATIC_URL = "/static/"
STATIC_ROOT = os.environ["TESTSITE_STATIC_ROOT"]
STORAGES = {"staticfiles": {"BACKEND": os.environ["TESTSITE_STORAGE"]}}
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
