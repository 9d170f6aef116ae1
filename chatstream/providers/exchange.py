"""HTTP/1.1 without the socket: a request's head as bytes, and a response as it comes.

httptools parses. It keeps our promises by its shape: a read is what has arrived, whatever broke is
named, and text that came before it still counts.
"""

from __future__ import annotations

import asyncio
from typing import Literal, Protocol

import httptools
import httpx2

__all__ = ["Exchange", "Link", "head_of"]

_MAX_HEAD = 64 * 1024  # bytes of a response's head, of interim ones before it, and of trailers
_BUFFER = 64 * 1024  # bytes that wait for a slow reader; then the socket is read no further


class Link(Protocol):
    """What a response comes by."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def end(self, *, is_clean: bool) -> None:
        """The response is done with; ``is_clean``: another one may follow it."""


class Exchange:
    """One response as it comes: first its head, then its body (``reading.Body``)."""

    __slots__ = (
        "_error",
        "_is_clean",
        "_is_framed",
        "_is_paused",
        "_link",
        "_loop",
        "_parser",
        "_pieces",
        "_seen",
        "_size",
        "_stage",
        "_waiter",
        "headers",
        "status",
    )

    def __init__(self, link: Link) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self._link: Link | None = link
        self._loop = asyncio.get_running_loop()
        self._stage: Literal["head", "body", "end"] = "head"
        self._is_framed = False  # whether length or chunks tell the body's end
        self._is_clean = False  # whether the connection can carry another answer
        self._seen = 0  # bytes since the last of the body: of the head, of trailers
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_paused = False
        # Not the error itself: raised, it would hold the request until the garbage collector runs.
        self._error: tuple[type[httpx2.TransportError], str] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        # What servers were seen to send, and other clients take.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )

    async def head(self) -> None:
        """Wait for ``status`` and ``headers``."""
        while self._stage == "head":
            await self._news()

    async def read(self) -> bytes:
        while not self._pieces:
            if self._stage == "end":
                return b""
            await self._news()
        pieces = self._pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._size = 0
        if self._is_paused and self._link is not None:
            self._is_paused = False
            self._link.resume()
        return data

    async def release(self) -> None:
        self._leave(is_clean=self._stage == "end" and self._is_clean)

    async def discard(self) -> None:
        self._leave(is_clean=False)

    def _leave(self, *, is_clean: bool) -> None:
        link, self._link = self._link, None
        self._parser = None
        if link is not None:
            link.end(is_clean=is_clean)

    def _news(self) -> asyncio.Future[None]:
        """Return what is done once something has come; raise what has broken."""
        if self._error is not None:
            kind, detail = self._error
            raise kind(detail)
        assert self._waiter is None or self._waiter.done(), "one reader at a time"
        self._waiter = self._loop.create_future()
        return self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # What the connection calls --------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        if self._parser is None:
            return
        self._seen += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            self._break(httpx2.RemoteProtocolError, type(exc).__name__)
        if self._seen > _MAX_HEAD:
            self._break(httpx2.RemoteProtocolError, "a head or a trailer without an end")
        if self._stage == "body" and self._size > _BUFFER and not self._is_paused:
            self._pause()
        self._wake()

    def end_of_bytes(self) -> None:
        """The server has said all, in good order."""
        if self._stage == "body" and not self._is_framed and self._error is None:
            self._stage = "end"
            self._wake()

    def lose(self) -> None:
        """The connection is closed, by whomever."""
        self._link = self._parser = None
        if self._stage == "head" and self._seen:  # not asked again: an answer had begun
            self._break(httpx2.TransportError, "the connection was closed in the head")
        self._break(httpx2.ReadError, "the connection was closed")
        self._wake()

    def _pause(self) -> None:
        if self._link is not None:
            self._is_paused = True
            self._link.pause()

    def _break(self, kind: type[httpx2.TransportError], detail: str) -> None:
        self._is_clean = False
        if self._stage != "end" and self._error is None:
            self._error = (kind, detail)

    # What the parser calls ------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._stage == "end":  # a response that nobody asked for
            self._is_clean = False

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._stage == "head":  # else a trailer
            self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        if self._stage != "head" or self._parser is None:
            return
        self.status = self._parser.get_status_code()
        if self.status >= 200:
            self._is_framed = any(map(_is_framing, self.headers))
            self._stage = "body"

    def on_body(self, piece: bytes) -> None:
        if self._stage == "body":
            self._pieces.append(piece)
            self._size += len(piece)
            self._seen = 0

    def on_message_complete(self) -> None:
        if self._stage == "head":  # an interim response, such as 103: the real one follows
            self.headers = []
        elif self._stage == "body" and self._parser is not None:
            # A refusal may come before the request was sent whole: its rest would go first.
            self._is_clean = self._parser.should_keep_alive() and self.status < 400
            self._stage = "end"


def head_of(request: httpx2.Request, length: int) -> bytes:
    """Return the request's head. Its body leaves in one piece, whatever the headers say of it."""
    if request.method in ("HEAD", "CONNECT"):
        raise httpx2.LocalProtocolError(f"{request.method} is not spoken here: use httpx's own")
    lines = [b"%s %s HTTP/1.1" % (request.method.encode("ascii"), request.url.raw_path)]
    lines += [b"%s: %s" % header for header in request.headers.raw if not _is_framing(header)]
    if length or request.method in ("POST", "PUT", "PATCH"):
        lines.append(b"Content-Length: %d" % length)
    if any(b"\r" in line or b"\n" in line or b"\0" in line for line in lines):
        raise httpx2.LocalProtocolError("a header holds a line break")
    return b"\r\n".join([*lines, b"", b""])


def _is_framing(header: tuple[bytes, bytes]) -> bool:
    name, value = header[0].lower(), header[1].lower()
    is_chunked = name == b"transfer-encoding" and value.strip().endswith(b"chunked")
    return is_chunked or name == b"content-length"
