"""A reader of our streams over a raw socket, with an event-stream parser of its own.

It shares no code with the product, so that both cannot be wrong in the same way. ``read`` reads
an answer to its end; a ``Reader`` reads as far as a test wants, and leaves; a ``Visitor`` keeps
cookies, so that what he began is his.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

__all__ = ["Answer", "Event", "Reader", "Visitor", "parse_events", "read", "stream_path"]

SAME_ORIGIN = {"Sec-Fetch-Site": "same-origin"}


@dataclass(frozen=True)
class Event:
    """One event as a browser would dispatch it; ``name`` is "message" unless named."""

    name: str
    data: str
    id: str

    @property
    def json(self) -> Any:
        return json.loads(self.data)


@dataclass
class Answer:
    """A whole response. ``is_whole``: the body ended as HTTP wants it; ``ended_at``: monotonic."""

    status: int = 0
    version: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cookies: list[str] = field(default_factory=list)  # each as ``name=value``
    body: bytes = b""
    is_whole: bool = False
    is_late: bool = False
    ended_at: float = 0.0

    @property
    def events(self) -> list[Event]:
        return parse_events(self.body)

    @property
    def messages(self) -> list[Any]:
        """The parsed data of the unnamed events: all that ``onmessage`` sees."""
        return [event.json for event in self.events if event.name == "message"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        """The answer, as a browser would join it: surrogate halves meet."""
        parts = [str(message.get("text", "")) for message in self.messages]
        return "".join(parts).encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")

    @property
    def terminals(self) -> list[Any]:
        return [message for message in self.messages if "done" in message or "error" in message]

    @property
    def ending(self) -> str:
        """``done``, ``error:<code>``, ``silence`` (no end in time), ``cut`` or ``status:<n>``."""
        if self.is_late:
            return "silence"
        if self.status != 200:
            return f"status:{self.status}"
        if not self.terminals:
            return "cut"
        last = self.terminals[-1]
        return "done" if last == {"done": True} else f"error:{last['error']['code']}"


def parse_events(body: bytes) -> list[Event]:
    """Return the dispatched events of an event stream (WHATWG HTML, 9.2.6); an open one is lost."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    events: list[Event] = []
    name, data, last_id = "", [], ""
    for line in text.split("\n")[:-1]:
        if not line:
            if data:
                events.append(Event(name or "message", "\n".join(data), last_id))
            name, data = "", []
            continue
        key, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if key == "event":
            name = value
        elif key == "data":
            data.append(value)
        elif key == "id" and "\0" not in value:
            last_id = value
    return events


def stream_path(model: str, base: str = "/chat/stream/", **query: str) -> str:
    """Return the path and query that ask for an answer of the behaviour ``model``."""
    return f"{base}?{urlencode({'prompt': 'hi', 'model': model, **query})}"


class Reader:
    """One request on a connection of its own. Use as a context manager, or call ``leave``."""

    def __init__(
        self,
        port: int,
        path: str,
        *,
        method: str = "GET",
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        version: str = "HTTP/1.1",
        within: float = 20,
        receive_buffer: int | None = None,
    ) -> None:
        self.deadline = time.monotonic() + within
        self.answer = Answer()
        self.method = method
        self._body_mode = "eof"
        self._left = 0
        self._buffer = b""
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(within)
        self.sock.connect(("127.0.0.1", port))
        lines = [f"{method} {path} {version}", f"Host: 127.0.0.1:{port}"]
        lines += [f"{name}: {value}" for name, value in {**SAME_ORIGIN, **(headers or {})}.items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        self.sock.sendall("\r\n".join([*lines, "", ""]).encode() + body)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def leave(self, *, reset: bool = False) -> float:
        """Close the connection; return when."""
        if reset:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()
        return time.monotonic()

    def read_head(self) -> Answer:
        """Read the status line and the headers."""
        while b"\r\n\r\n" not in self._buffer:
            self._receive()
        head, self._buffer = self._buffer.split(b"\r\n\r\n", 1)
        lines = head.decode("latin-1").split("\r\n")
        self.answer.version, status, *_ = lines[0].split(" ")
        self.answer.status = int(status)
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.answer.headers[name.lower()] = value.strip()
            if name.lower() == "set-cookie":
                self.answer.cookies.append(value.strip().split(";")[0])
        if self.answer.headers.get("transfer-encoding", "").lower() == "chunked":
            self._body_mode = "chunked"
        elif "content-length" in self.answer.headers:
            self._body_mode = "length"
            self._left = int(self.answer.headers["content-length"])
        if self.method == "HEAD" or self.answer.status == 204:
            self._body_mode, self._left = "length", 0
        return self.answer

    def read_events(self, count: int) -> list[Event]:
        """Read until so many events came, or the body ended; return all that came."""
        if not self.answer.status:
            self.read_head()
        while len(self.answer.events) < count and self.read_some():
            pass
        return self.answer.events

    def read_until(self, mark: bytes) -> bytes:
        """Read the body until ``mark`` is in it; return the body so far."""
        if not self.answer.status:
            self.read_head()
        while mark not in self.answer.body and self.read_some():
            pass
        assert mark in self.answer.body, self.answer.body[-300:]
        return self.answer.body

    def read_some(self) -> bool:
        """Take what one read brings; False at the end of the body."""
        if self._take():
            return True
        if self.answer.is_whole:
            return False
        try:
            self._receive()
        except (EOFError, ConnectionError):
            self.answer.is_whole = self._body_mode == "eof"
            return False
        return True

    def read_all(self) -> Answer:
        """Read to the end of the body, or until the deadline (``is_late``)."""
        try:
            if not self.answer.status:
                self.read_head()
            while self.read_some():
                pass
        except TimeoutError:
            self.answer.is_late = True
        except (EOFError, ConnectionError):
            pass
        self.answer.ended_at = time.monotonic()
        return self.answer

    def anything_more(self, seconds: float) -> bytes:
        """Return the undecoded bytes that came after the head, those of some seconds more too."""
        self.deadline = time.monotonic() + seconds
        with contextlib.suppress(TimeoutError, EOFError):
            while True:
                self._receive()
        return self._buffer

    def _receive(self) -> None:
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.sock.settimeout(left)
        data = self.sock.recv(262144)
        if not data:
            raise EOFError
        self._buffer += data

    def _take(self) -> bool:
        """Move what is decoded from the buffer to the body; True if anything was."""
        if self._body_mode == "eof":
            data, self._buffer = self._buffer, b""
            self.answer.body += data
            return bool(data)
        if self._body_mode == "length":
            data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
            self._left -= len(data)
            self.answer.body += data
            self.answer.is_whole = self._left == 0
            return bool(data)
        return self._take_chunks()

    def _take_chunks(self) -> bool:
        taken = bytearray()
        begin = 0
        while (line_end := self._buffer.find(b"\r\n", begin)) >= 0:
            size = int(self._buffer[begin:line_end].split(b";")[0], 16)
            if len(self._buffer) < line_end + 2 + size + 2:
                break
            if size == 0:
                self.answer.is_whole = True
                break
            taken += self._buffer[line_end + 2 : line_end + 2 + size]
            begin = line_end + 2 + size + 2
        self._buffer = self._buffer[begin:]
        self.answer.body += bytes(taken)
        return bool(taken)


def read(port: int, path: str, **options: Any) -> Answer:
    """Ask and read to the end."""
    try:
        with Reader(port, path, **options) as reader:
            return reader.read_all()
    except (TimeoutError, ConnectionError):
        with contextlib.suppress(Exception):
            return reader.answer
        return Answer(is_late=True, ended_at=time.monotonic())


class Visitor:
    """A browser without a page: cookies come back with the next request, to whichever server.

    The ports are those of servers on one database; a request goes to the first unless told.
    """

    def __init__(self, *ports: int) -> None:
        self.ports = ports
        self.cookies: dict[str, str] = {}
        self.post("/chat/conversations/", {})  # whereupon he has a session

    def open(self, path: str, *, server: int = 0, **options: Any) -> Reader:
        """Ask, and leave the reading to the caller; what is asked sets no cookie."""
        headers = options.pop("headers", {}) | self._cookie()
        return Reader(self.ports[server], path, headers=headers, **options)

    def get(self, path: str, *, server: int = 0, **options: Any) -> Answer:
        """Ask, and read to the end."""
        return self._kept(self.open(path, server=server, **options))

    def post(self, path: str, data: Any = None, *, server: int = 0, **options: Any) -> Answer:
        """Post ``data`` as JSON, as a page of the site does; read to the end."""
        return self.send("POST", path, data, server=server, **options)

    def send(self, method: str, path: str, data: Any = None, **options: Any) -> Answer:
        port = self.ports[options.get("server", 0)]
        headers = {"Content-Type": "application/json", "Origin": f"http://127.0.0.1:{port}"}
        headers |= options.pop("headers", {})
        body = json.dumps(data).encode() if data is not None else b"{}"
        return self._kept(self.open(path, method=method, headers=headers, body=body, **options))

    def _kept(self, reader: Reader) -> Answer:
        with reader:
            answer = reader.read_all()
        self.cookies |= dict(cookie.split("=", 1) for cookie in answer.cookies)
        return answer

    def _cookie(self) -> dict[str, str]:
        pairs = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"Cookie": pairs} if pairs else {}
