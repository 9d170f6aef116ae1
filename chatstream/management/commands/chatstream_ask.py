"""``manage.py chatstream_ask "…"``: stream one answer into the terminal.

The answer, and nothing else, goes to stdout; the spinner and the closing line go to stderr. The
exit status is 0 for a whole answer (``done``), 1 for an error, 130 after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import sys
import time
from argparse import ArgumentParser
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import IO, Any

from django.core.management.base import BaseCommand, CommandError

from chatstream.conf import settings
from chatstream.core.framer import Framer
from chatstream.core.frames import Frame, Kind
from chatstream.core.requests import RunRequest
from chatstream.providers import get_provider
from chatstream.providers.base import Provider
from chatstream.providers.rounds import answering
from chatstream.relay import aframes
from chatstream.tools import Caller

SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
INTERRUPTED = 130  # what shells report for Ctrl-C
NOBODY = Caller("chatstream_ask", "")  # for whom tools are called here


@dataclass
class Tally:
    """What is known of an answer while it comes; times are ``time.monotonic()``."""

    started: float = field(default_factory=time.monotonic)
    first: float | None = None
    last: float | None = None
    outcome: str = "stopped"
    is_done: bool = False
    tokens: int | None = None
    explanation: str = ""

    def take(self, frame: Frame) -> None:
        """Note what ``frame`` says."""
        if frame.kind in (Kind.TEXT, Kind.REASONING):
            self.last = time.monotonic()
            self.first = self.first or self.last
        elif frame.kind is Kind.FINISH:
            self.outcome = frame.data["outcome"]
            self.tokens = (frame.data.get("usage") or {}).get("completion_tokens")
        elif frame.kind is Kind.ERROR:
            self.explanation = f"{frame.data['message']} ({frame.data['code']})"
        self.is_done = frame.kind is Kind.DONE

    def line(self) -> str:
        """Return the closing line; what is not known is absent from it."""
        parts = [self.outcome]
        if self.explanation:
            parts.append(self.explanation)
        if self.tokens is not None:
            parts.append(f"{self.tokens} {'token' if self.tokens == 1 else 'tokens'}")
        if self.first is not None:
            parts.append(f"first token after {self.first - self.started:.2f} s")
        if self.tokens and self.first and self.last and self.last > self.first:
            parts.append(f"{self.tokens / (self.last - self.first):.1f} tokens/s")
        return " · ".join(parts)


class Command(BaseCommand):
    """Ask a configured provider and print its answer as it comes."""

    help = "Ask the model and stream its answer into the terminal."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the prompt and whom to ask."""
        parser.add_argument("prompt", help="what to ask; - reads it from stdin")
        parser.add_argument("--provider", default="default", help='an alias in "PROVIDERS"')
        parser.add_argument("--model", help="another model than the provider's own")
        parser.add_argument("--system", help="a system message before the prompt")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print the answer, then the line that says how it ended; exit with its status."""
        provider = self.find_provider(options["provider"])
        request = RunRequest(read_messages(options["prompt"], options["system"]), options["model"])
        tally = Tally()
        try:
            asyncio.run(self.ask(provider, request, tally))
        except KeyboardInterrupt:  # asyncio.run has closed the upstream by now
            self.close(tally)
            sys.exit(INTERRUPTED)
        self.close(tally)
        if not tally.is_done:
            sys.exit(1)

    def find_provider(self, alias: str) -> Provider[Any]:
        """Return the provider; a ``CommandError`` names those there are."""
        try:
            return get_provider(alias)
        except KeyError:
            known = ", ".join(sorted(settings.PROVIDERS))
            raise CommandError(f"There is no provider '{alias}'. Configured: {known}.") from None

    async def ask(self, provider: Provider[Any], request: RunRequest, tally: Tally) -> None:
        """Print the text as it comes, and note everything in ``tally``."""
        framer = Framer(
            run="chatstream_ask",
            model=provider.model_for(request),
            max_answer_chars=settings.MAX_ANSWER_CHARS,
        )
        async with (
            releasing(provider),
            spinning(sys.stderr) as stop_spinner,
            aclosing(aframes(answering(provider, request, NOBODY), framer)) as answer,
        ):
            async for frame in answer:
                tally.take(frame)
                if frame.kind is Kind.TEXT:
                    stop_spinner()
                    self.write(frame.data["text"])

    def write(self, text: str) -> None:
        """Print a piece of the answer at once."""
        is_terminal = self.stdout.isatty()
        self.stdout.write(printable(text) if is_terminal else encodable(text), ending="")
        self.stdout.flush()

    def close(self, tally: Tally) -> None:
        """End the answer's last line, and say on stderr how it went."""
        if tally.first is not None:
            self.stdout.write("")
            self.stdout.flush()
        style = self.style.SUCCESS if tally.is_done else self.style.ERROR
        self.stderr.write(tally.line(), style)


def read_messages(prompt: str, system: str | None) -> list[dict[str, Any]]:
    """Return the messages to send. A ``CommandError`` if there is no prompt."""
    content = sys.stdin.read() if prompt == "-" else prompt
    if not content.strip():
        raise CommandError("The prompt is empty.")
    messages = [{"role": "user", "content": content}]
    return [{"role": "system", "content": system}, *messages] if system else messages


def encodable(text: str) -> str:
    """Return ``text`` without lone surrogates, which no encoding takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def printable(text: str) -> str:
    """Return ``text`` without what a terminal would obey: a model's words are data."""
    return "".join(
        char if char.isprintable() or char in "\n\t" else "\ufffd" for char in encodable(text)
    )


@asynccontextmanager
async def releasing(provider: Provider[Any]) -> AsyncIterator[None]:
    """Close the provider's kept connections in the end: they belong to this event loop."""
    try:
        yield
    finally:
        if (aclose := getattr(provider, "aclose", None)) is not None:
            await aclose()


@asynccontextmanager
async def spinning(stream: IO[str]) -> AsyncIterator[Any]:
    """Turn a spinner on ``stream``, if it is a terminal; yields the function that ends it."""
    if not stream.isatty():
        yield lambda: None
        return
    task = asyncio.create_task(spin(stream))

    def stop() -> None:
        if not task.done() and task.cancel():
            print("\r\033[K", end="", file=stream, flush=True)

    try:
        yield stop
    finally:
        stop()
        with suppress(asyncio.CancelledError):
            await task


async def spin(stream: IO[str]) -> None:
    """Draw until cancelled."""
    turn = 0
    while True:
        frame = SPINNER[turn % len(SPINNER)]
        print(f"\r{frame} waiting for the first token", end="", file=stream, flush=True)
        turn += 1
        await asyncio.sleep(0.1)
