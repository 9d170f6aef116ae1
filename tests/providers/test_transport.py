"""HTTP itself, as odd as servers speak it: what the scripted upstream's behaviours do not reach.

The server is a script of bytes for each connection, over real sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

import httpx2
import openai
import pytest

from chatstream.core.framer import Framer
from chatstream.core.frames import Kind
from chatstream.providers.sources import source_of
from chatstream.providers.transport import HttptoolsTransport
from chatstream.relay import aframes
from tests.behaviours import TEXT
from tests.providers import drained
from tests.upstream import Upstream, certificate

LENGTH = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """Plays ``script`` on each connection; ``heads`` are the requests, ``accepted`` a count."""

    script: Script
    port: int = 0
    accepted: int = 0
    heads: list[bytes] = field(default_factory=list)
    serving: dict[asyncio.Task | None, asyncio.StreamWriter] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1?a=b"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        self.serving[asyncio.current_task()] = writer
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await self.script(reader, writer)
            await writer.drain()
            writer.close()

    async def end(self) -> None:
        """Cut what is still open, and wait for it."""
        for writer in self.serving.values():
            writer.transport.abort()
        await asyncio.wait(self.serving, timeout=10) if self.serving else None

    async def request(self, reader: asyncio.StreamReader) -> None:
        """Read one request."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        await reader.readexactly(int(length or 0))


@contextlib.asynccontextmanager
async def serving(script: Script, **options: object) -> AsyncIterator[Server]:
    server = Server(script)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", **options)
    server.port = listener.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listener.close()
        await server.end()


def answering(*answers: bytes, pause: float = 0.0) -> Callable[[Server], Script]:
    """Return a script that answers one request after the other with these bytes."""

    def script_of(server: Server) -> Script:
        async def script(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for answer in answers:
                await server.request(reader)
                writer.write(answer)
                await writer.drain()
            await reader.read()

        return script

    return script_of


@contextlib.asynccontextmanager
async def playing(*answers: bytes, **options: object) -> AsyncIterator[Server]:
    """A server that answers one request of a connection after the other with these bytes."""
    async with serving(answering(), **options) as server:  # type: ignore[arg-type]
        server.script = answering(*answers)(server)
        yield server


@pytest.fixture
async def client():
    async with client_of() as client:
        yield client


def client_of(**options):
    transport = HttptoolsTransport(**options)
    return httpx2.AsyncClient(transport=transport, timeout=None, trust_env=False)


async def ask(client, server, **options):
    """Return the status and the body of one request, its connection given back."""
    async with client.stream("POST", server.url, content=b"question", **options) as response:
        body = b"".join([part async for part in response.aiter_raw()])
    return response.status_code, body


@pytest.mark.parametrize(
    "answer",
    [
        LENGTH,
        CHUNKED,
        CHUNKED.replace(b"\r\n", b"\n", 3),
        CHUNKED.replace(b"2\r\n", b'2;name="value"\r\n'),
        CHUNKED.replace(b"0\r\n\r\n", b"0\r\nA-Trailer: x\r\n\r\n"),
        b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + LENGTH,
        b"HTTP/1.1 100 Continue\r\n\r\n" + CHUNKED,
    ],
)
async def test_an_answer_is_read_and_its_connection_used_again(client, answer):
    async with playing(answer, LENGTH) as server:
        assert await ask(client, server) == (200, b"hello")
        assert await ask(client, server) == (200, b"hello")
        assert server.accepted == 1


@pytest.mark.parametrize("at", range(1, len(CHUNKED), 7))
async def test_an_answer_may_be_cut_anywhere(client, at):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(CHUNKED[:at])
        await asyncio.sleep(0.01)
        writer.write(CHUNKED[at:])
        await reader.read()

    async with serving(script) as server:
        assert await ask(client, server) == (200, b"hello")


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"\r\nhello",  # its end is the connection's
        LENGTH.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n"),
        LENGTH.replace(b"1.1", b"1.0"),
        LENGTH + b"stray",
        LENGTH + LENGTH,
        CHUNKED + b"HTTP/1.1 200",
    ],
)
async def test_a_connection_with_more_or_less_than_the_answer_is_not_used_again(client, answer):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(answer)

    async with serving(script) as server:
        assert await ask(client, server) == (200, b"hello")
        assert await ask(client, server) == (200, b"hello")
        assert server.accepted == 2


async def test_a_stray_answer_that_comes_later_closes_the_connection(client):
    closed = asyncio.Event()

    async def script(reader, writer):
        await server.request(reader)
        writer.write(LENGTH)
        if server.accepted == 1:
            await asyncio.sleep(0.1)
            writer.write(LENGTH.replace(b"hello", b"wrong"))
            await reader.read()
            closed.set()
        await reader.read()

    async with serving(script) as server:
        assert await ask(client, server) == (200, b"hello")
        await asyncio.wait_for(closed.wait(), 5)
        assert await ask(client, server) == (200, b"hello")


async def test_a_stray_answer_that_nobody_has_read_yet_is_not_the_next_one(client):
    """The loop was busy: it lies in the socket when the next request comes."""
    strayed = threading.Event()

    def serve():
        for _ in range(2):
            sock, _ = listener.accept()
            sock.recv(65536)
            sock.sendall(LENGTH)
            if not strayed.is_set():
                asking.wait(5)
                sock.sendall(LENGTH.replace(b"hello", b"WRONG"))
                strayed.set()
            sockets.append(sock)

    sockets: list[socket.socket] = []
    asking = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(serve, listener.getsockname()[1])  # type: ignore[arg-type]
        threading.Thread(target=serve, daemon=True).start()
        assert await ask(client, server) == (200, b"hello")
        asking.set()
        strayed.wait(5)  # without a turn of the loop
        time.sleep(0.1)  # noqa: ASYNC251
        assert await ask(client, server) == (200, b"hello")
        await asyncio.sleep(0.1)
        assert len(client._transport._connections) == 1  # the other one is closed
    for sock in sockets:
        sock.close()


async def test_a_large_answer_that_is_left_unread_does_not_stop_its_connection(client):
    large = LENGTH.replace(b"5", b"200000").replace(b"hello", b"x" * 200_000)
    async with playing(large, LENGTH) as server:
        async with client.stream("POST", server.url):
            await asyncio.sleep(0.3)
        server.script = answering(LENGTH)(server)
        assert await asyncio.wait_for(ask(client, server), 5) == (200, b"hello")


async def test_a_body_without_a_length_that_is_cut_is_not_whole(client):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(HEAD + b"\r\nhello")
        await asyncio.sleep(0.1)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    async with serving(script) as server:
        with pytest.raises(httpx2.ReadError):
            await ask(client, server)


async def test_a_trailer_without_an_end_is_an_error(client):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(CHUNKED.removesuffix(b"\r\n") + b"A-Trailer: ")
        while True:
            writer.write(b"x" * 10_000)
            await writer.drain()

    async with serving(script) as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            await asyncio.wait_for(ask(client, server), 10)


@pytest.mark.parametrize("answer", [b"", HEAD + b"\r\n", HEAD + b"\r\nhello"])
async def test_the_clients_own_time_out_holds(answer):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(answer)
        await reader.read()

    async with serving(script) as server, client_of() as client:
        client.timeout = httpx2.Timeout(None, read=0.3)
        with pytest.raises(httpx2.ReadTimeout):
            await asyncio.wait_for(ask(client, server), 10)


@pytest.mark.parametrize("turns", range(12))
async def test_a_request_that_is_cancelled_while_it_connects_leaves_nothing(tmp_path, turns):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    transport = HttptoolsTransport()
    async with (
        playing(LENGTH, ssl=context) as server,
        playing(LENGTH, LENGTH) as plain,
        httpx2.AsyncClient(transport=transport, timeout=None) as client,
    ):
        for url in (server.url.replace("http:", "https:"), plain.url):
            task = asyncio.create_task(client.post(url))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, httpx2.ConnectError):
                await task
        await asyncio.sleep(0.1)
        assert await ask(client, plain) == (200, b"hello")  # on a number that may have been its
        assert len(transport._connections) == 1


async def test_an_answer_that_is_left_half_read_costs_its_connection(client):
    async with playing(LENGTH.replace(b"5", b"10"), LENGTH) as server:
        async with client.stream("POST", server.url) as response:
            assert await anext(response.aiter_raw()) == b"hello"
        server.script = answering(LENGTH)(server)
        assert await ask(client, server) == (200, b"hello")
        assert server.accepted == 2


async def test_a_connection_that_the_server_closed_is_not_used(client):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(LENGTH)

    async with serving(script) as server:
        assert await ask(client, server) == (200, b"hello")
        await asyncio.sleep(0.1)
        assert await ask(client, server) == (200, b"hello")


async def test_answers_that_overlap_have_a_connection_each(client):
    async with playing(LENGTH, LENGTH) as server:
        async with client.stream("POST", server.url) as first:
            assert await ask(client, server) == (200, b"hello")
            assert await first.aread() == b"hello"
        assert server.accepted == 2


async def test_without_a_pool_every_answer_has_a_connection_of_its_own():
    async with client_of(is_pooled=False) as client, playing(LENGTH) as server:
        assert await ask(client, server) == (200, b"hello")
        assert await ask(client, server) == (200, b"hello")
        assert server.accepted == 2


async def test_closing_closes_what_is_open_and_what_waits():
    left = asyncio.Semaphore(0)

    async def script(reader, writer):
        await server.request(reader)
        writer.write(LENGTH)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await server.request(reader)
            writer.write(HEAD + b"\r\n")
            await reader.read()
        left.release()

    async with client_of() as client, serving(script) as server:
        async with client.stream("POST", server.url) as first:
            assert await ask(client, server) == (200, b"hello")
            await first.aread()
        async with client.stream("POST", server.url):  # on one of the two; the other one waits
            await client.aclose()
            for _ in range(2):
                await asyncio.wait_for(left.acquire(), 5)
    assert server.accepted == 2


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", httpx2.ReadError),
        (b"HTTP/1.1 200 OK\r\nContent-", httpx2.TransportError),
        (b"SSH-2.0-OpenSSH\r\n", httpx2.RemoteProtocolError),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", None),
        (HEAD + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n", httpx2.RemoteProtocolError),
        (HEAD + b"X: " + b"x" * 100_000, httpx2.RemoteProtocolError),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 5_000, httpx2.RemoteProtocolError),
    ],
)
async def test_what_is_no_head_is_an_error_with_its_request(client, answer, error):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(answer)
        await writer.drain()

    async with serving(script) as server:
        with pytest.raises(error or httpx2.RemoteProtocolError) as caught:
            await ask(client, server)
        assert caught.value.request.url == server.url


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (LENGTH.replace(b"5", b"6"), httpx2.ReadError),
        (CHUNKED.removesuffix(b"0\r\n\r\n"), httpx2.ReadError),
        (CHUNKED.replace(b"0\r\n\r\n", b"-1\r\n"), httpx2.RemoteProtocolError),
        (CHUNKED.replace(b"0\r\n\r\n", b"zz\r\n"), httpx2.RemoteProtocolError),
    ],
)
async def test_what_came_before_the_body_broke_is_read_first(client, answer, error):
    async def script(reader, writer):
        await server.request(reader)
        writer.write(answer)

    async with serving(script) as server, client.stream("POST", server.url) as response:
        parts = response.aiter_raw()
        read = b""
        while len(read) < 5:
            read += await anext(parts)
        assert read == b"hello"
        with pytest.raises(error):
            await anext(parts)


async def test_a_reader_that_is_slow_stops_the_server(client):
    sent = 0

    async def script(reader, writer):
        nonlocal sent
        await server.request(reader)
        writer.write(HEAD + b"\r\n")
        while True:
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with serving(script) as server, client.stream("POST", server.url) as response:
        before = -1
        while sent != before:  # until the sockets' buffers are full
            before = sent
            await asyncio.sleep(0.5)
        assert sent < 50_000_000
        parts = response.aiter_raw()
        read, wanted = 0, sent + 1_000_000
        while read < wanted:
            read += len(await anext(parts))


async def test_the_request_is_sent_as_it_was_built(client):
    async with playing(LENGTH) as server:
        await ask(client, server, headers={"X-Name": "välue".encode("latin-1")})
        line, *headers = server.heads[0].split(b"\r\n")
        assert line == b"POST /v1?a=b HTTP/1.1"
        assert b"Host: 127.0.0.1:%d" % server.port in headers
        assert b"Content-Length: 8" in headers
        assert b"X-Name: v\xe4lue" in headers


@pytest.mark.parametrize("method", ["HEAD", "CONNECT"])
async def test_what_is_not_spoken_is_refused(client, method):
    with pytest.raises(httpx2.LocalProtocolError, match=method):
        await client.request(method, "http://127.0.0.1:9/")


async def test_the_length_of_the_request_is_the_truth(client):
    async def parts():
        yield b"que"
        yield b"stion"

    async with playing(LENGTH, LENGTH) as server:
        async with client.stream("POST", server.url, content=parts()) as response:
            await response.aread()
        async with client.stream(
            "POST", server.url, content=b"question", headers={"Content-Length": "0"}
        ) as response:
            await response.aread()
        for head in server.heads:
            assert head.lower().count(b"content-length: 8") == 1
            assert b"transfer-encoding" not in head.lower()


async def test_a_header_cannot_bring_another_one(client):
    async with playing(LENGTH) as server:
        with pytest.raises(httpx2.LocalProtocolError):
            await ask(client, server, headers=[(b"X-Name", b"value\r\nX-Other: value")])
        assert server.accepted == 0


async def test_a_large_request_is_sent_whole_and_an_early_refusal_is_heard(client):
    async def script(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        await asyncio.sleep(1)

    async with serving(script) as server:
        async with client.stream("POST", server.url, content=b"x" * 30_000_000) as response:
            assert response.status_code == 413
        server.script = answering(LENGTH)(server)
        async with client.stream("POST", server.url, content=b"x" * 5_000_000) as response:
            assert await response.aread() == b"hello"


async def test_a_name_is_tried_at_all_its_addresses(client):
    """``localhost`` is ::1, where nobody listens, and 127.0.0.1."""
    async with playing(LENGTH) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        async with client.stream("POST", url) as response:
            assert await response.aread() == b"hello"


def has_ipv6():
    """Whether ::1 can be listened on; ``socket.has_ipv6`` tells what Python was built with."""
    with contextlib.suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


async def test_an_ipv6_address_is_a_host(client):
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    async with playing(LENGTH) as server:
        listener = await asyncio.start_server(server.serve, "::1")
        port = listener.sockets[0].getsockname()[1]
        async with client.stream("POST", f"http://[::1]:{port}/") as response:
            assert await response.aread() == b"hello"
        listener.close()


async def test_tls_is_spoken_with_those_whom_the_machine_trusts(tmp_path, monkeypatch):
    pem = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    async with playing(LENGTH, CHUNKED, ssl=context) as server:
        url = server.url.replace("http:", "https:")
        async with client_of() as client:
            with pytest.raises(httpx2.ConnectError):
                await client.post(url)
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        async with client_of() as client:
            for _ in range(2):
                assert (await client.post(url)).content == b"hello"
        assert server.accepted == 1


async def test_a_url_of_another_kind_is_refused(client):
    with pytest.raises(httpx2.UnsupportedProtocol):
        await client.get("ftp://127.0.0.1/")


async def test_the_packages_own_client_can_have_it():
    """As docs/dependencies.md shows."""
    with Upstream() as upstream:
        http_client = httpx2.AsyncClient(transport=HttptoolsTransport())
        async with openai.AsyncOpenAI(
            base_url=upstream.url, api_key="x", http_client=http_client
        ) as client:
            ask = partial(client.chat.completions.create, messages=[], stream=True)
            source = source_of(await ask(model="ok"))
            told = [frame async for frame in aframes(source.aopen(), Framer())]
            assert told[-1].kind is Kind.DONE
            assert "".join(f.data["text"] for f in told if f.kind is Kind.TEXT) == TEXT
            await drained()
            chunks = [chunk async for chunk in await ask(model="ok")]
            assert chunks
        assert len(upstream.connections) == 1
