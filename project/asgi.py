"""The demo for ASGI servers: ``uvicorn project.asgi:application``."""

import os

from django.core.asgi import get_asgi_application

from project.network import Network

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

application = Network(get_asgi_application())
