"""The heart: a completion in, frames out, and the last frame says how it ended.

The generator's ``try``/``finally`` tells success from failure; what is a success the ``Framer``
decides. The twins differ in ``async`` alone.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Generator

from .core.framer import Framer
from .core.frames import Frame
from .core.outcomes import RunError
from .providers.base import AsyncCompletion, Completion

__all__ = ["aframes", "frames"]

logger = logging.getLogger("chatstream")


def frames(completion: Completion, framer: Framer) -> Generator[Frame]:
    """Yield the run's frames; the last one, and only it, is terminal.

    ``completion`` is what ``Provider.open`` returns. An error of the completion becomes a frame,
    never an exception; a consumer that closes this generator early gets no terminal frame.
    """
    try:
        yield framer.start()
        with completion as batches:
            for deltas in batches:  # what one upstream read brought
                yield from framer.receive(deltas)
        framer.end()
    except Exception as exc:
        if framer.fail(exc):
            report(framer, exc)
    finally:
        last = framer.close()  # no verdict yet: the reader left; that is no success
    yield from last  # reached only while someone still reads


async def aframes(completion: AsyncCompletion, framer: Framer) -> AsyncGenerator[Frame]:
    """Yield the run's frames, as ``frames`` does, from what ``Provider.aopen`` returns."""
    try:
        yield framer.start()
        async with completion as batches:
            async for deltas in batches:
                for frame in framer.receive(deltas):
                    yield frame
                    del frame  # a silent stream would keep its last read
                del deltas
        framer.end()
    except Exception as exc:
        if framer.fail(exc):
            report(framer, exc)
    finally:
        last = framer.close()
    for frame in last:
        yield frame


def report(framer: Framer, exc: Exception) -> None:
    """Tell the operator the cause, under the run's id. A bug of ours comes with its traceback."""
    extra = {"run": framer.run, "model": framer.model}
    if isinstance(exc, RunError):
        logger.warning("run %s: %s", framer.run, exc, extra=extra)
    else:
        logger.error("run %s: internal error", framer.run, exc_info=exc, extra=extra)
