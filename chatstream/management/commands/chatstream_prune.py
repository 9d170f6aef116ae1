"""``manage.py chatstream_prune``: delete the frames of runs that ended ``RETENTION`` seconds ago.

Their texts and their messages are kept; what goes is the way to resume them. Once a day is enough.
"""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from chatstream.conf import settings
from chatstream.framelog import get_frame_log
from chatstream.ledger import prune


class Command(BaseCommand):
    """Delete the frames of old settled runs."""

    help = 'Delete the frames of runs that ended CHATSTREAM["RETENTION"] seconds ago.'

    def handle(self, *args: Any, **options: Any) -> None:
        """Prune; print of how many runs, unless the verbosity is 0."""
        log = get_frame_log()
        if not log.is_shared:
            raise CommandError("The frames are in the memory of the server: no other can prune.")
        count = prune(log, settings.RETENTION)
        if options["verbosity"]:
            self.stdout.write(f"Pruned {count} {'run' if count == 1 else 'runs'}.")
