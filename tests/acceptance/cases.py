"""The ways in which an answer can go, one after the other for each client: ``CASES`` by name."""

from __future__ import annotations

from dataclasses import dataclass

from tests.acceptance.lines import Fate
from tests.behaviours import INJECTION, PARTIAL, TEXT, behaviour, chunk, finish, say, start
from tests.upstream import Peer

__all__ = ["CASES", "MAX_PROMPT_CHARS", "Case"]

MAX_PROMPT_CHARS = 1000
# Line ends of all kinds, look-alikes of frames, NUL, U+2028, emoji; many are white space alone.
ODD = [
    INJECTION,
    " ",
    "\n",
    "\r",
    "\t",
    "🎉",
    "\u2028",
    "\r\n",
    "  ",
    "👩\u200d🚀 data: [DONE]",
    "\n\n",
]
COUNTED = [f"{number} " for number in range(40)]


@behaviour
def odd_text(peer: Peer) -> None:
    start(peer, [])
    for token in ODD:
        say(peer, chunk(token))
        peer.pause(0.05)  # so that none is joined with the next
    finish(peer)


@behaviour
def silences(peer: Peer) -> None:
    """Two silences of several heartbeats: before the first token, and between two."""
    peer.head()
    peer.pause(0.5)
    say(peer, chunk(TEXT[:7]))
    peer.pause(0.5)
    say(peer, chunk(TEXT[7:]))
    finish(peer)


@behaviour
def counting(peer: Peer) -> None:
    """Long enough to be cut in the middle, and to come back before the end."""
    start(peer, [])
    for number in COUNTED:
        say(peer, chunk(number))
        peer.pause(0.05)
    finish(peer)


@dataclass(frozen=True)
class Case:
    """``text`` is what the model says, all that it would have said if ``is_whole``.

    ``stops``: the answer is stopped at its first words. ``fate`` is the connection's.
    """

    name: str
    behaviour: str
    text: str
    prompt: str = "hi"
    is_whole: bool = True
    stops: bool = False
    fate: Fate = Fate.STAYS

    @property
    def breaks_off(self) -> bool:
        """Whether nobody knows how much of the text arrives."""
        return self.stops or self.fate is not Fate.STAYS


_ALL = [
    Case("success", "ok", TEXT),
    Case("odd text", "odd_text", "".join(ODD)),
    Case("heartbeats in silences", "silences", TEXT),
    Case("refused before the stream", "ok", TEXT, prompt="x" * (MAX_PROMPT_CHARS + 1)),
    Case("error in mid-stream", "fin_mid_stream", PARTIAL, is_whole=False),
    Case("truncated", "finish_length", PARTIAL, is_whole=False),
    Case("filtered", "finish_content_filter", PARTIAL, is_whole=False),
    Case(
        "stopped",
        "endless",
        "".join(f"{number} " for number in range(2000)),
        is_whole=False,
        stops=True,
    ),
    Case("connection cut, then back", "counting", "".join(COUNTED), fate=Fate.CUT),
    Case("connection cut for good", "counting", "".join(COUNTED), fate=Fate.CUT_FOR_GOOD),
    Case("a proxy ends the body cleanly", "counting", "".join(COUNTED), fate=Fate.ENDED),
]
CASES = {case.name: case for case in _ALL}
