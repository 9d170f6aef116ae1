"""A scripted OpenAI-compatible upstream over raw sockets: one thread for each connection.

``model`` in the request's body picks the behaviour: ``ok``, ``fault-ok`` and ``ok@anything`` all
play ``tests.behaviours.ok``; what stands behind ``@`` only keeps one test's requests apart from
another's. A base_url from ``url_playing(name)`` picks it by path, before the body is read.

    with Upstream() as upstream:
        OpenAI(base_url=upstream.url, api_key="x").chat.completions.create(model="ok", ...)
        assert len(upstream.requests_for("ok")) == 1

By hand: ``python -m tests.upstream PORT``.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import ssl
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "Connection",
    "Ended",
    "Peer",
    "PeerClosed",
    "Request",
    "Upstream",
    "certificate",
    "closed_port",
    "full_backlog",
    "self_signed",
    "unknown_host",
]

HOLD = 40.0  # seconds that a behaviour keeps a dead connection open, for the relay to close it


class PeerClosed(Exception):
    """The relay closed the connection."""


class Ended(Exception):
    """The behaviour ended the connection itself."""


@dataclass
class Connection:
    """One TCP connection. Times are ``time.monotonic()``; ``closed_by`` is upstream or relay."""

    number: int
    opened_at: float
    closed_at: float | None = None
    closed_by: str | None = None
    bytes_sent: int = 0
    requests: list[Request] = field(default_factory=list)
    reused_when_dead: bool = False


@dataclass
class Request:
    """One request as it came; ``body`` is the parsed JSON, ``{}`` if there was none."""

    model: str
    behaviour: str
    method: str
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    at: float
    connection: Connection

    @property
    def is_last(self) -> bool:
        """Nothing was asked on the same connection after this."""
        return self.connection.requests[-1] is self


class Peer:
    """The relay as a behaviour sees it: send, pause, end. Every call may raise ``PeerClosed``."""

    def __init__(self, sock: socket.socket, connection: Connection) -> None:
        self.sock = sock
        self.connection = connection
        self.buffer = b""
        self.request: Request
        self.nth = 1  # how many requests for this very model have come, this one included
        self.is_chunked = True
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    # reading

    def fill(self, timeout: float | None = None) -> bool:
        """Wait for bytes; False if none came in ``timeout`` seconds."""
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        if not poll.poll(None if timeout is None else max(0.0, timeout) * 1000):
            return False
        try:
            data = self.sock.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            raise PeerClosed from None
        if not data:
            raise PeerClosed
        self.buffer += data
        return True

    def read_until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            self.fill()
        found, self.buffer = self.buffer.split(mark, 1)
        return found

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.fill()
        found, self.buffer = self.buffer[:count], self.buffer[count:]
        return found

    def read_head(self) -> tuple[str, str, dict[str, str]]:
        lines = self.read_until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        method, path, _ = lines[0].split(" ", 2)
        pairs = (line.split(":", 1) for line in lines[1:])
        return method, path, {name.strip().lower(): value.strip() for name, value in pairs}

    def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() != "chunked":
            return self.read_exactly(int(headers.get("content-length", "0")))
        body = b""
        while size := int(self.read_until(b"\r\n").split(b";")[0], 16):
            body += self.read_exactly(size)
            self.read_exactly(2)
        self.read_until(b"\r\n")
        return body

    # writing

    def send(self, data: bytes) -> None:
        """Write all of it, waiting for the relay to take it."""
        view = memoryview(data)
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        while view:
            poll.poll(1000)
            try:
                sent = self.sock.send(view)
            except BlockingIOError:
                continue
            except OSError:
                raise PeerClosed from None
            self.connection.bytes_sent += sent
            view = view[sent:]

    def head(
        self,
        status: str = "200 OK",
        *more: str,
        content_type: str | None = "text/event-stream; charset=utf-8",
        chunked: bool = True,
    ) -> None:
        """Send status line and headers; ``more`` are whole header lines."""
        self.is_chunked = chunked
        lines = [f"HTTP/1.1 {status}", *more]
        if content_type:
            lines.append(f"Content-Type: {content_type}")
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def body(self, data: bytes) -> None:
        """Send ``data``, as an HTTP chunk of its own where the coding is chunked."""
        self.send(b"%x\r\n%b\r\n" % (len(data), data) if self.is_chunked else data)

    def end(self) -> None:
        """End the body as HTTP wants it."""
        if self.is_chunked:
            self.send(b"0\r\n\r\n")

    # time and ends

    def pause(self, seconds: float) -> None:
        """Sleep, but notice at once that the relay closed."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.fill(left):  # bytes in the middle of an answer: pipelined, kept for later
                time.sleep(min(left, 0.05))

    def hold(self, seconds: float = HOLD) -> None:
        """Keep a connection open that must not be used again, until the relay closes it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self.buffer or self.fill(left):
                self.connection.reused_when_dead = True
                break
        raise Ended

    def fin(self) -> None:
        """Close in order."""
        raise Ended

    def rst(self) -> None:
        """Close with a reset. What was sent is given the time to arrive: a reset may overtake."""
        self.pause(0.15)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise Ended


class Upstream:
    """The server. ``requests`` and ``connections`` tell what happened, in order."""

    def __init__(self, port: int = 0) -> None:
        self.requests: list[Request] = []
        self.connections: list[Connection] = []
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._is_open = True

    @property
    def root(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """The base_url for a client."""
        return f"{self.root}/v1"

    def url_playing(self, behaviour: str) -> str:
        """A base_url whose path picks the behaviour, before the request's body is read."""
        return f"{self.root}/play-{behaviour}/v1"

    def __enter__(self) -> Upstream:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._is_open = False
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._changed:
            left = list(self._sockets)
        for sock in left:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    # what tests ask

    def requests_for(self, model: str) -> list[Request]:
        """All requests whose ``model`` was exactly this, oldest first."""
        with self._changed:
            return [request for request in self.requests if request.model == model]

    def wait_requests(self, model: str, count: int = 1, timeout: float = 10) -> list[Request]:
        """Wait until ``count`` requests for the model came; what there is after ``timeout``."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._asked(model)) >= count, timeout)
            return self._asked(model)

    def wait_closed(self, timeout: float, model: str | None = None) -> bool:
        """Wait until the connections that served ``model`` (None: all) are closed."""
        with self._changed:
            return self._changed.wait_for(lambda: self._all_closed(model), timeout)

    def _asked(self, model: str) -> list[Request]:
        return [request for request in self.requests if request.model == model]

    def _all_closed(self, model: str | None) -> bool:
        return all(
            connection.closed_at is not None
            for connection in self.connections
            if model is None or any(request.model == model for request in connection.requests)
        )

    # the server

    def _accept(self) -> None:
        while self._is_open:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                connection = Connection(len(self.connections) + 1, time.monotonic())
                self.connections.append(connection)
                self._sockets.add(sock)
            threading.Thread(target=self._serve, args=(sock, connection), daemon=True).start()

    def _serve(self, sock: socket.socket, connection: Connection) -> None:
        closed_by = "upstream"
        try:
            peer = Peer(sock, connection)
            while True:
                self._answer(peer)
        except PeerClosed:
            closed_by = "relay"
        except Ended:
            pass
        finally:
            with self._changed:
                self._sockets.discard(sock)
                sock.close()
                connection.closed_at = time.monotonic()
                connection.closed_by = closed_by
                self._changed.notify_all()

    def _answer(self, peer: Peer) -> None:
        from tests.behaviours import BEHAVIOURS

        method, path, headers = peer.read_head()
        by_path = path.startswith("/play-")
        if by_path:
            model = path.split("/")[1].removeprefix("play-")
            body: dict[str, Any] = {}
        else:
            body = json.loads(peer.read_body(headers) or b"{}")
            model = str(body.get("model", "unknown"))
        name = model.removeprefix("fault-").split("@")[0]
        request = Request(
            model, name, method, path, headers, body, time.monotonic(), peer.connection
        )
        peer.request = request
        with self._changed:
            self.requests.append(request)
            peer.connection.requests.append(request)
            peer.nth = len(self._asked(model))
            self._changed.notify_all()
        BEHAVIOURS.get(name, BEHAVIOURS["http_404"])(peer)
        if by_path:
            request.body = json.loads(peer.read_body(headers) or b"{}")


# base_urls that lead nowhere


def closed_port() -> str:
    """A base_url on whose port nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


def unknown_host() -> str:
    """A base_url whose name does not resolve: RFC 6761 keeps ``.invalid`` free for ever."""
    return "http://upstream.invalid/v1"


@contextlib.contextmanager
def full_backlog() -> Iterator[str]:
    """A base_url whose accept queue is full, so that the kernel drops every further SYN."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        time.sleep(0.05)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@contextlib.contextmanager
def self_signed() -> Iterator[str]:
    """An https base_url whose certificate nobody trusts."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate(Path(folder)))
        threading.Thread(target=_shake_hands, args=(server, context), daemon=True).start()
        try:
            yield f"https://127.0.0.1:{server.getsockname()[1]}/v1"
        finally:
            server.shutdown(socket.SHUT_RDWR)


def _shake_hands(server: socket.socket, context: ssl.SSLContext) -> None:
    while True:
        try:
            sock, _ = server.accept()
        except OSError:
            return
        # One after another is enough, but a silent client must not hold up the next.
        sock.settimeout(5)
        with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as tls:
            tls.recv(65536)


def certificate(folder: Path) -> Path:
    """Write a fresh key and certificate for 127.0.0.1 and return the PEM file."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "nobody trusts this")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .sign(key, hashes.SHA256())
    )
    pem = folder / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    os.chmod(pem, 0o600)
    return pem


def main() -> None:
    with Upstream(int(sys.argv[1]) if len(sys.argv) > 1 else 0) as upstream:
        print(upstream.url, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
