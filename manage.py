#!/usr/bin/env python
"""Django's command line, with the demo's embedded model around the commands that need it."""

import os
import sys

from project.embedded.errors import ModelUnavailable
from project.embedded.launch import model_for


def main() -> None:
    """Run the command that the arguments name."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")
    from django.core.management import execute_from_command_line

    try:
        with model_for(sys.argv):
            execute_from_command_line(sys.argv)
    except ModelUnavailable as exc:
        sys.exit(str(exc))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
