"""Who needs the embedded model, and how it reaches them: through the environment.

It is started once, in the outermost process, before Django reads its settings. Workers and the
autoreloader's inner process inherit its URL and key, and start nothing.
"""

import importlib.util
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from .download import model_file
from .errors import ModelUnavailable
from .supervisor import EmbeddedModel

__all__ = ["ALIAS", "KEY_VARIABLE", "URL_VARIABLE", "embedded_model", "model_for", "needs_model"]

ALIAS = "smollm2-135m-instruct"
URL_VARIABLE = "CHATSTREAM_EMBEDDED_URL"
KEY_VARIABLE = "CHATSTREAM_EMBEDDED_KEY"

COMMANDS = frozenset({"chatstream_ask", "demo", "runserver"})
# Somebody else's model is configured, or an outer process has started ours.
CHOSEN_BY = ("OPENAI_API_KEY", "CHATSTREAM_BASE_URL", URL_VARIABLE)


@contextmanager
def model_for(argv: Sequence[str]) -> Iterator[None]:
    """Run the model around ``manage.py``'s command ``argv``, if that command needs it."""
    if not needs_model(argv, os.environ):
        yield
        return
    # The default of SIGTERM skips every finally; this one unwinds them (and ends the child).
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    with embedded_model():
        yield


def needs_model(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether the command ``argv`` talks to a model and nobody has chosen one.

    ``RUN_MAIN`` marks the autoreloader's inner process, which is started anew at every change.
    """
    is_help = not {"-h", "--help"}.isdisjoint(argv)
    command = argv[1] if len(argv) > 1 else ""
    if command not in COMMANDS or is_help or environ.get("RUN_MAIN"):
        return False
    return not any(environ.get(name) for name in CHOSEN_BY)


@contextmanager
def embedded_model() -> Iterator[EmbeddedModel]:
    """Run the model; its URL and key are in the environment inside the block.

    Raises ``ModelUnavailable`` with advice. Progress goes to stderr.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise ModelUnavailable(
            "xllamacpp is not installed. It has wheels for Linux (glibc), macOS and Windows on\n"
            "x86-64; where there is one, pip install 'django-chatstream[demo]' brings it."
        )
    path = model_file(say)
    with EmbeddedModel(path, alias=ALIAS, tick=show_loading) as model:
        show_loaded()
        os.environ[URL_VARIABLE], os.environ[KEY_VARIABLE] = model.url, model.key
        try:
            yield model
        finally:
            for name in (URL_VARIABLE, KEY_VARIABLE):
                os.environ.pop(name, None)


def say(line: str) -> None:
    """Print a line of progress."""
    print(line, file=sys.stderr, flush=True)


def show_loading(seconds: float) -> None:
    """Draw the loading line anew, with the time so far, if a person is watching."""
    if sys.stderr.isatty():
        spinner = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"[int(seconds * 10) % 10]
        print(f"\r{spinner} Loading {ALIAS} … {seconds:.1f} s", end="", file=sys.stderr, flush=True)


def show_loaded() -> None:
    """Say that the model is ready, over the loading line if there is one."""
    start = "\r\033[K" if sys.stderr.isatty() else ""
    say(f"{start}The embedded model is ready: {ALIAS}, a toy that shows streaming.")
