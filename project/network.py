"""A network between the browser and the demo that a visitor can cut: an ASGI application.

For the app it looks like what it shows: a client that is gone. The server closes the connection
without the end of the body.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from typing import Any

from project.switches import COOKIE, switches_of

__all__ = ["Network"]

LOOK_EVERY = 0.1  # seconds

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Network:
    """Passes everything on, but for the streams of a visitor who has cut them.

    While they are cut, a new one waits: what a browser sees of a network that is down.
    """

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        visitor = visitor_of(scope) if is_stream(scope) else ""
        if not visitor:
            await self._app(scope, receive, send)
            return
        if seconds := switches_of(visitor).cut_for:
            await asyncio.sleep(seconds + LOOK_EVERY)
        connection = Connection(visitor, receive, send)
        await self._app(scope, connection.receive, connection.send)


class Connection:
    """One stream of a visitor, who is gone for the app once he has cut it.

    Not before the response has begun: a server answers 500 for an app that sends nothing at all.
    """

    def __init__(self, visitor: str, receive: Receive, send: Send) -> None:
        self._visitor = visitor
        self._receive = receive
        self._send = send
        self._has_begun = False

    async def send(self, message: Message) -> None:
        await self._send(message)
        self._has_begun = True

    async def receive(self) -> Message:
        receiving = asyncio.ensure_future(self._receive())
        try:
            while not receiving.done():
                if self._has_begun and switches_of(self._visitor).cut_for:
                    return {"type": "http.disconnect"}
                await asyncio.wait([receiving], timeout=LOOK_EVERY)
            return receiving.result()
        finally:
            receiving.cancel()


def is_stream(scope: dict[str, Any]) -> bool:
    return scope["type"] == "http" and scope["path"].endswith("/stream/")


def visitor_of(scope: dict[str, Any]) -> str:
    """Return the visitor's cookie, "" without one."""
    cookies: SimpleCookie = SimpleCookie()
    with suppress(CookieError):
        for name, value in scope["headers"]:
            if name == b"cookie":
                cookies.load(value.decode("latin-1"))
    return cookies[COOKIE].value if COOKIE in cookies else ""
