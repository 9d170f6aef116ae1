"""The Django project that the benchmark serves, in one file: our views and the naive peer's.

No database, no sessions; the same two middlewares for all. ``BENCH_UPSTREAM`` is the base URL of
the upstream. ``BENCH_PLAIN=1`` serves without the extra ``fast``: the httpx transport, the standard
library's JSON (uvicorn's loop is the runner's choice).

    /chat/stream/   ChatStreamView
    /bare           a plain async view with EventStreamResponse over the openai package's stream
    /naive          the async view as commonly written, without chatstream
"""

import json
import os
import sys
from typing import Any

PLAIN = os.environ.get("BENCH_PLAIN") == "1"
if PLAIN:  # before chatstream looks for it
    sys.modules["msgspec"] = None  # type: ignore[assignment]

import django  # noqa: E402
from django.conf import settings  # noqa: E402

UPSTREAM = os.environ["BENCH_UPSTREAM"]

settings.configure(
    DEBUG=False,
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "rest_framework",
        "chatstream",
    ],
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
    ],
    LOGGING_CONFIG=None,
    CHATSTREAM={
        "PROVIDERS": {
            "default": {
                "BACKEND": "chatstream.providers.openai.OpenAIProvider",
                "OPTIONS": {
                    "base_url": UPSTREAM,
                    "api_key": "bench",
                    "model": "bench",
                    "models": ["*"],
                    "transport": "httpx" if PLAIN else "aiohttp",
                    # An upstream that holds its streams open is silent for longer than the default.
                    "token_timeout": 300,
                },
            }
        },
        "ALLOW_ANONYMOUS": True,
    },
)
django.setup()

from django.core.asgi import get_asgi_application  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, StreamingHttpResponse  # noqa: E402
from django.urls import include, path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from httpx2 import Limits  # noqa: E402
from openai import AsyncOpenAI, DefaultAioHttpClient  # noqa: E402

from chatstream.responses import EventStreamResponse  # noqa: E402

# What someone who installed the extra `fast` and read our README would write.
# The limit is the package's own, 1,000, but for the 2,000 streams that we hold open.
client = AsyncOpenAI(
    base_url=UPSTREAM,
    api_key="bench",
    http_client=DefaultAioHttpClient(limits=Limits(max_connections=10_000, keepalive_expiry=60)),
)
# The naive peer's: the package's defaults.
default_client = AsyncOpenAI(base_url=UPSTREAM, api_key="bench")


@csrf_exempt
async def bare(request: HttpRequest) -> EventStreamResponse:
    ask: dict[str, Any] = json.loads(request.body)
    return EventStreamResponse(
        await client.chat.completions.create(
            model=ask["model"], messages=ask["messages"], stream=True
        )
    )


@csrf_exempt
async def naive(request: HttpRequest) -> StreamingHttpResponse:
    ask: dict[str, Any] = json.loads(request.body)

    async def events():
        stream = await default_client.chat.completions.create(
            model=ask["model"], messages=ask["messages"], stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps({'text': chunk.choices[0].delta.content})}\n\n"
        yield 'data: {"done": true}\n\n'

    return StreamingHttpResponse(events(), content_type="text/event-stream")


urlpatterns = [
    path("chat/", include("chatstream.urls")),
    path("bare", bare),
    path("naive", naive),
]

application = get_asgi_application()
wsgi = get_wsgi_application()
