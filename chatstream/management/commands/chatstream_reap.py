"""``manage.py chatstream_reap``: end the runs whose process died.

Whoever follows such a run ends it, and so does every process that produces others; this is for the
runs that nobody follows. Every few minutes is enough.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from chatstream.conf import settings
from chatstream.framelog import get_frame_log
from chatstream.ledger import reap


class Command(BaseCommand):
    """Settle, as interrupted, the runs whose lease ran out and those that nobody claimed."""

    help = "End the runs whose process died; what they had answered is kept."

    def handle(self, *args: Any, **options: Any) -> None:
        """Reap; print how many there were, unless the verbosity is 0."""
        log = get_frame_log()
        if not log.is_shared:
            raise CommandError("The frames are in the memory of the server: no other can reap.")
        count = len(reap(log, settings.LEASE))
        if options["verbosity"]:
            self.stdout.write(f"Reaped {count} {'run' if count == 1 else 'runs'}.")
