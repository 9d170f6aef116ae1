"""``manage.py demo``: the demo under uvicorn, on this machine only."""

import logging
import os
import socket
from argparse import ArgumentParser
from typing import Any

import uvicorn
from django.contrib.staticfiles.handlers import ASGIStaticFilesHandler
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from project.asgi import application

HOST = "127.0.0.1"


class AnnouncingServer(uvicorn.Server):
    """uvicorn that says where it listens once it does."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then print the URL."""
        await super().startup(sockets=sockets)
        for listener in sockets or []:
            port = listener.getsockname()[1]
            print(f"\n  The demo is at http://{HOST}:{port}/   (Ctrl-C ends it)\n", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End; streams that are still open are cut, each of which uvicorn logs as a traceback."""
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets=sockets)


def is_no_cut(record: logging.LogRecord) -> bool:
    """Whether a record is about anything but a stream that a visitor has cut."""
    return record.getMessage() != "ASGI callable returned without completing response."


class Command(BaseCommand):
    """Migrate, serve the page and its static files, and print the URL."""

    help = __doc__
    requires_migrations_checks = False

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the port; the environment's PORT is its default, 0 picks a free one."""
        parser.add_argument("--port", type=int, default=int(os.environ.get("PORT") or 8000))

    def handle(self, *args: Any, port: int, **options: Any) -> None:
        """Serve until Ctrl-C or SIGTERM."""
        listener = self.listen(port)
        call_command("migrate", verbosity=0, interactive=False)
        config = uvicorn.Config(
            ASGIStaticFilesHandler(application),
            lifespan="off",
            access_log=False,
            log_level="warning",
            # For streams that are still open at the end: nobody waits long for a demo.
            timeout_graceful_shutdown=1,
        )
        logging.getLogger("uvicorn.error").addFilter(is_no_cut)
        try:
            AnnouncingServer(config).run(sockets=[listener])
        except KeyboardInterrupt:
            self.stdout.write("The demo has ended.")
        finally:
            listener.close()

    def listen(self, port: int) -> socket.socket:
        """Return a socket bound to ``port`` of the loopback address."""
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, port))
        except OSError as exc:
            listener.close()
            advice = f"Choose another: make demo PORT={port + 1}"
            raise CommandError(f"Port {port} cannot be used ({exc.strerror}). {advice}") from exc
        return listener
