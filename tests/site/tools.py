"""The tools of the test project."""

import time
from typing import Any

from chatstream.models import Run
from chatstream.tools import Caller, ToolError


def weather(city: str) -> dict[str, str]:
    """Return the weather in a city."""
    return {"city": city, "sky": "clear"}


async def aweather(city: str) -> dict[str, str]:
    """Return the weather in a city, on the event loop."""
    return weather(city)


def own_runs(*, caller: Caller) -> Any:
    """Return the models that the caller has asked, from the database."""
    return Run.objects.of(caller.owner).values("model")


def take(seconds: float) -> str:
    """Take that long."""
    time.sleep(seconds)
    return "taken"


def fail(words: str, is_public: bool = False) -> None:
    """Fail with these words, said twice."""
    raise ToolError(2 * words) if is_public else RuntimeError(2 * words)
