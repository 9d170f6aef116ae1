"""Plain Django views around ``EventStreamResponse``, one for each kind of completion."""

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Iterator

from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.template import engines
from openai import AsyncOpenAI, OpenAI
from openai.types.chat import ChatCompletionChunk

from tests.behaviours import STOP, TOKENS, chunk

MESSAGES = [{"role": "user", "content": "hi"}]

# What pages a test put here, by name: an existing client's HTML, served from the app's own origin.
PAGES = {
    "eventsource": """<!doctype html><title>eventsource</title><p id=answer></p>
<script>
  const source = new EventSource("/chat/stream/" + location.search);
  source.onmessage = (e) => { const d = JSON.parse(e.data);
    if (d.text) answer.textContent += d.text;
    if (d.done) { source.close(); document.title = "done"; } };
</script>""",
    "fetch": """<!doctype html><title>fetch</title><p id=answer></p>
<script type=module>
  const r = await fetch("/chat/stream/" + location.search);
  for (const block of (await r.text()).split("\\n\\n")) for (const line of block.split("\\n"))
    if (line.startsWith("data: ")) { const d = JSON.parse(line.slice(6));
      if (d.text) answer.textContent += d.text; if (d.done) document.title = "done"; }
</script>""",
    "tells-apart": """<!doctype html><title>open</title><p id=answer></p>
<script>
  const source = new EventSource("/chat/stream/" + location.search);
  let sawDone = false;
  source.onmessage = (e) => { const d = JSON.parse(e.data);
    if (d.text) answer.textContent += d.text;
    if (d.done) { sawDone = true; source.close(); document.title = "success"; } };
  source.onerror = () => { source.close(); if (!sawDone) document.title = "failure"; };
</script>""",
}

# The files of each version, and of its extension for server-sent events.
HTMX = {
    "htmx4": ("htmx.org/dist/htmx.js", "htmx.org/dist/ext/hx-sse.js"),
    "htmx2": ("htmx2/dist/htmx.js", "htmx-ext-sse/dist/sse.js"),
}
HTMX_PAGE = """<!doctype html><title>htmx</title>{% load chatstream %}
{% for script in scripts %}<script src="/clients/{{ script }}"></script>{% endfor %}
{% chatstream_htmx %}"""


def ready(request: HttpRequest) -> HttpResponse:
    return HttpResponse("ready")


def inside(request: HttpRequest) -> JsonResponse:
    """What the process holds at the moment."""
    return JsonResponse({"threads": threading.active_count()})


def page(request: HttpRequest, name: str) -> HttpResponse:
    return HttpResponse(PAGES[name])


def htmx(request: HttpRequest, version: str) -> HttpResponse:
    """A page around {% chatstream_htmx %}; ``/clients/`` is the browser's to fill."""
    template = engines["django"].from_string(HTMX_PAGE)
    return HttpResponse(template.render({"scripts": HTMX[version]}, request))


@functools.cache
def client() -> OpenAI:
    return OpenAI(base_url=settings.BASE_URL, api_key=settings.API_KEY, max_retries=0)


@functools.cache
def aclient() -> AsyncOpenAI:
    return AsyncOpenAI(base_url=settings.BASE_URL, api_key=settings.API_KEY, max_retries=0)


def bare_sync(request: HttpRequest) -> HttpResponseBase:
    """The package's sync client; under ASGI this is the case of the pump thread."""
    from chatstream.responses import EventStreamResponse

    completion = client().chat.completions.create(
        model=request.GET["model"], messages=MESSAGES, stream=True
    )
    return EventStreamResponse(completion)


async def bare_async(request: HttpRequest) -> HttpResponseBase:
    """The package's async client; under WSGI this is a mistake, and ends as one."""
    from chatstream.responses import EventStreamResponse

    completion = await aclient().chat.completions.create(
        model=request.GET["model"], messages=MESSAGES, stream=True
    )
    return EventStreamResponse(completion)


def bare_provider(request: HttpRequest) -> HttpResponseBase:
    """A provider of ours, without the app's view."""
    from chatstream.core.requests import RunRequest
    from chatstream.providers import get_provider
    from chatstream.providers.sources import ProviderSource
    from chatstream.responses import EventStreamResponse

    run = RunRequest(messages=MESSAGES, model=request.GET["model"])
    return EventStreamResponse(ProviderSource(get_provider("default"), run))


def bare_chunks(request: HttpRequest) -> HttpResponseBase:
    """A sync iterable of chunks."""
    from chatstream.responses import EventStreamResponse

    return EventStreamResponse(_chunks(float(request.GET.get("pause", "0"))))


async def bare_achunks(request: HttpRequest) -> HttpResponseBase:
    """An async iterable of chunks."""
    from chatstream.responses import EventStreamResponse

    return EventStreamResponse(_achunks(float(request.GET.get("pause", "0"))))


def _chunks(pause: float) -> Iterator[ChatCompletionChunk]:
    for token in TOKENS:
        time.sleep(pause)
        yield ChatCompletionChunk.model_validate(chunk(token))
    yield ChatCompletionChunk.model_validate(STOP)


async def _achunks(pause: float) -> AsyncIterator[ChatCompletionChunk]:
    for token in TOKENS:
        await asyncio.sleep(pause)
        yield ChatCompletionChunk.model_validate(chunk(token))
    yield ChatCompletionChunk.model_validate(STOP)
