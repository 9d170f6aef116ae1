"""Run any command beside the embedded model, once for all of its workers.

python -m project.embedded uvicorn project.asgi:application --workers 2
"""

import os
import signal
import subprocess
import sys

from .errors import ModelUnavailable
from .launch import embedded_model


def main(command: list[str]) -> int:
    """Run ``command`` with the model's URL and key in its environment; return its status."""
    if not command:
        print(f"usage: {__doc__}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        with embedded_model(), subprocess.Popen(command, env=os.environ) as process:
            return wait_for(process)
    except ModelUnavailable as exc:
        print(exc, file=sys.stderr)
        return 1


def wait_for(process: "subprocess.Popen[bytes]") -> int:
    """Return the status of ``process``; hand an order to end on to it."""
    try:
        return process.wait()
    except KeyboardInterrupt:  # the terminal sent it to the process as well
        return process.wait()
    except SystemExit:
        process.terminate()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
