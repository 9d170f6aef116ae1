"""A network between a browser and a server that can be cut: a TCP proxy.

``context.set_offline`` leaves open connections alone; this does what a lost network does.

    with Network(port) as network:
        page.goto(network.url)
        network.cut()
        network.restore()
"""

from __future__ import annotations

import contextlib
import socket
import threading

__all__ = ["Network"]


class Network:
    """Passes bytes on, in both directions.

    While ``loses_answers`` is set, requests reach the server, and its first answer cuts the
    connection.
    """

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._is_cut = False
        self.loses_answers = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def __enter__(self) -> Network:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self) -> None:
        """Close every connection, and each new one at once."""
        with self._lock:
            self._is_cut = True
            for sock in self._sockets:
                _shut(sock)

    def restore(self) -> None:
        with self._lock:
            self._is_cut = False

    def _accept(self) -> None:
        while True:
            try:
                browser, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connect, args=(browser,), daemon=True).start()

    def _connect(self, browser: socket.socket) -> None:
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            stack.enter_context(browser)
            server = stack.enter_context(socket.create_connection(self._target))
            with self._lock:
                if self._is_cut:
                    return
                self._sockets |= {browser, server}
            upwards = threading.Thread(target=self._pass_on, args=(browser, server), daemon=True)
            upwards.start()
            self._pass_on(server, browser, is_answer=True)
            upwards.join()
            with self._lock:
                self._sockets -= {browser, server}

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, *, is_answer: bool = False
    ) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if is_answer and self.loses_answers:
                    break
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
