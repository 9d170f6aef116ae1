"""Server-sent events: encode one; decode bytes into events, however they were cut.

Pure: bytes in, events out. Follows the WHATWG text,
https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Decoder", "Event", "EventTooLarge", "encode"]

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = b"\xef\xbb\xbf"
_BREAKS_A_LINE = re.compile(r"[\r\n\0]")


class Event(NamedTuple):
    """A dispatched event. ``data`` is raw UTF-8; ``event`` is "" for an unnamed one."""

    data: bytes
    event: str = ""
    id: str = ""


class EventTooLarge(ValueError):
    """An event grew past the decoder's cap."""


def encode(data: str, *, event: str = "", id: str = "") -> bytes:
    """Return one event block, closed by its blank line.

    Every line of ``data`` gets a ``data: `` of its own, so that nothing in it can end the block. A
    line break or NUL in ``event`` or ``id`` is a ValueError: those fields have no way to carry one.
    """
    head = ""
    for name, value in (("id", id), ("event", event)):
        if value:
            if _BREAKS_A_LINE.search(value):
                raise ValueError(f"an SSE {name} cannot hold CR, LF or NUL, but it is {value!r}")
            head += f"{name}: {value}\n"
    lines = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return (head + "".join(f"data: {line}\n" for line in lines) + "\n").encode()


class Decoder:
    """Turns the bytes of an event stream into events.

    ``feed(data)`` yields the events that ``data`` completes; iterate it to its end before the next
    ``feed``. An event that is never closed by a blank line is never yielded, as the specification
    wants. An event of more than ``max_event_bytes`` raises ``EventTooLarge``, after the events
    before it. The last ``retry:`` seen is ``retry_ms``, the last event id ``last_event_id``.
    """

    __slots__ = (
        "_data",
        "_data_size",
        "_ends_in_cr",
        "_is_first",
        "_name",
        "_tail",
        "_tail_size",
        "last_event_id",
        "max_event_bytes",
        "retry_ms",
    )

    def __init__(self, max_event_bytes: int = 16 * 1024 * 1024) -> None:
        self.max_event_bytes = max_event_bytes
        self.retry_ms: int | None = None
        self.last_event_id = ""
        self._is_first = True
        self._tail: list[bytes] = []  # an unfinished line in pieces: joined once, not on every feed
        self._tail_size = 0
        self._ends_in_cr = False
        self._name = ""
        self._data: list[bytes] = []
        self._data_size = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        """Yield the events completed by ``data``, oldest first."""
        if self._is_first:
            data = self._strip_bom(data)
        if self._ends_in_cr and data:
            # The CR ended its line when it came. An LF after it belongs to the same line end.
            self._ends_in_cr = False
            data = data.removeprefix(b"\n")
        if not data:
            return iter(())
        if b"\r" not in data and not self._data and not self._name:
            return self._feed_blocks(data)
        return self._feed_lines(data)

    def feed_plain(self, data: bytes) -> list[bytes] | None:
        """Take ``data`` and return its events' data, if all are unnamed and of one line each.

        None if they are not: then nothing was taken, and ``feed`` has to. The short cut for what
        every upstream sends, at the speed of ``bytes.split``.
        """
        if self._is_first or self._ends_in_cr or self._data or self._name or b"\n" not in data:
            return None
        whole = self._joined(data) if self._tail else data
        if whole.endswith(b"\n\n") and whole.count(b"\n") == 2 and whole.startswith(b"data: "):
            if b"\r" in whole or len(whole) > self.max_event_bytes:
                return None
            if self._tail:
                self._tail, self._tail_size = [], 0
            return [whole[6:-2]]
        end = whole.rfind(b"\n\n") + 2
        blocks = whole[: end - 2].split(b"\n\n")
        is_plain = (
            end > 1
            and whole.startswith(b"data: ")
            and whole.count(b"\n\ndata: ", 0, end) == len(blocks) - 1
            and whole.count(b"\n") == 2 * len(blocks)  # none inside a block, none after the last
            and b"\r" not in whole
            and len(max(blocks, key=len)) <= self.max_event_bytes
            and len(whole) - end <= self.max_event_bytes  # else _keep would raise from here
        )
        if not is_plain:
            return None
        self._tail, self._tail_size = [], 0
        if end < len(whole):
            self._keep(whole[end:])
        return [block[6:] for block in blocks]

    def _strip_bom(self, data: bytes) -> bytes:
        data = b"".join([*self._tail, data])
        if len(data) < len(_BOM) and _BOM.startswith(data):
            self._tail = [data] if data else []
            return b""
        self._is_first = False
        self._tail = []
        return data.removeprefix(_BOM)

    def _feed_blocks(self, data: bytes) -> Iterator[Event]:
        """The common case: LF only, and no event half read. Whole blocks of one ``data: `` line."""
        if b"\n" not in data:
            self._keep(data)
            return
        blocks = self._take_tail(data).split(b"\n\n")
        rest = blocks.pop()
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                self._refuse_over(len(block))
                yield Event(block[6:], "", self.last_event_id)
            else:
                yield from self._feed_lines(block + b"\n\n")
        if b"\n" in rest:
            yield from self._feed_lines(rest)
        elif rest:
            self._keep(rest)

    def _feed_lines(self, data: bytes) -> Iterator[Event]:
        lines = _LINE_END.split(self._take_tail(data))
        self._ends_in_cr = data.endswith(b"\r")
        rest = lines.pop()
        for line in lines:
            if (event := self._line(line)) is not None:
                yield event
        if rest:
            self._keep(rest)

    def _take_tail(self, data: bytes) -> bytes:
        data = self._joined(data)
        self._tail, self._tail_size = [], 0
        return data

    def _joined(self, data: bytes) -> bytes:
        return b"".join([*self._tail, data]) if self._tail else data

    def _keep(self, data: bytes) -> None:
        self._tail.append(data)
        self._tail_size += len(data)
        self._refuse_over(self._tail_size + self._data_size)

    def _refuse_over(self, size: int) -> None:
        if size > self.max_event_bytes:
            raise EventTooLarge(f"an event of over {self.max_event_bytes} bytes")

    def _line(self, line: bytes) -> Event | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
            self._data_size += len(value) + 1
            self._refuse_over(self._data_size)
        elif name == b"event":
            self._name = value.decode(errors="replace")
        elif name == b"id":
            if b"\0" not in value:
                self.last_event_id = value.decode(errors="replace")
        elif name == b"retry" and value.isdigit():
            self.retry_ms = int(value[:9])  # nine digits are eleven days, and no parser's limit
        return None

    def _dispatch(self) -> Event | None:
        lines, name = self._data, self._name
        self._data, self._data_size, self._name = [], 0, ""
        if not lines:
            return None
        return Event(b"\n".join(lines), name, self.last_event_id)
