"""A line between a client and a server, with a fate of its own: it breaks in mid-answer.

    with Line(port, Fate.CUT) as line:
        ask(line.url)

is cut off when the twelfth token has passed; a second connection holds.
"""

from __future__ import annotations

import contextlib
import enum
import re
import socket

from tests.acceptance.network import Network

__all__ = ["Fate", "Line"]

# A token of the case's answer; the thirteenth if the twelfth came in two reads.
MARK = re.compile(rb"\b1[2-9] ")
LAST_CHUNK = b"0\r\n\r\n"
CONNECTION = re.compile(rb"\r\nconnection:[^\r]*", re.IGNORECASE)


class Fate(enum.Enum):
    STAYS = enum.auto()
    CUT = enum.auto()  # in the middle of the body, once
    CUT_FOR_GOOD = enum.auto()  # and every further one is refused
    ENDED = enum.auto()  # the body ends as if it were whole, once


class Line(Network):
    """``fate`` comes once, at the mark. Each line has a port of its own."""

    def __init__(self, port: int, fate: Fate = Fate.STAYS) -> None:
        super().__init__(port)
        self.fate = fate

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, *, is_answer: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self.fate is Fate.ENDED:
                    data = _closing(data)
                sink.sendall(data)
                if is_answer and self.fate is not Fate.STAYS and _has_mark(data):
                    self._meet_fate(sink)
                    break
        _shut(source)
        _shut(sink)

    def _meet_fate(self, client: socket.socket) -> None:
        if self.fate is Fate.ENDED:
            client.sendall(LAST_CHUNK)
        if self.fate is Fate.CUT_FOR_GOOD:
            _shut(self._listener)
        if self.fate is not Fate.ENDED:
            with self._lock:
                for sock in self._sockets:
                    _shut(sock)
        self.fate = Fate.STAYS


def _closing(data: bytes) -> bytes:
    """Let a response say that its connection closes, so that no client asks on it again."""
    head, end, rest = data.partition(b"\r\n\r\n")
    if not (data.startswith(b"HTTP/1.1 ") and end):
        return data
    return CONNECTION.sub(b"", head) + b"\r\nConnection: close" + end + rest


def _has_mark(data: bytes) -> bool:
    """Whether the mark is in the body: a head's date may look like it."""
    return MARK.search(data.rpartition(b"\r\n\r\n")[2]) is not None


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
