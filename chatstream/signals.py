"""What a project may listen to.

Both are sent with ``run``, the ``Run``, after its change was committed, in the thread that writes
for all runs of the process: a receiver that takes long holds them all up. Its errors are logged.
"""

from __future__ import annotations

from django.dispatch import Signal

__all__ = ["run_settled", "run_started"]

run_started = Signal()  # claimed: its provider is about to be asked
run_settled = Signal()  # ended, with whatever outcome
