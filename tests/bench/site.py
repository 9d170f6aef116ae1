"""The Django project that the benchmark serves, in one file: our views and the naive peer's.

No sessions; the same two middlewares for all; SQLite with the demo's options for the runs.
``BENCH_UPSTREAM`` is the base URL of the upstream. ``BENCH_PLAIN=1`` serves without the extra
``fast``: the httpx transport, the standard library's JSON (uvicorn's loop is the runner's choice).

    /chat/stream/   ChatStreamView: a run, logged before it is sent
    /plain/         the same checks and provider, streamed without a run: nothing is kept
    /bare           a plain async view with EventStreamResponse over the openai package's stream
    /naive          the async view as commonly written, without chatstream
"""

import json
import os
import sys
import tempfile
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
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": f"{tempfile.mkdtemp(prefix='chatstream-bench-')}/db.sqlite3",
            "OPTIONS": {
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
            },
        }
    },
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    CHATSTREAM={
        "PROVIDERS": {
            "default": {
                "BACKEND": "chatstream.providers.openai.OpenAIProvider",
                "OPTIONS": {
                    "base_url": UPSTREAM,
                    "api_key": "bench",
                    "model": "bench",
                    "models": ["*"],
                    "transport": "httpx" if PLAIN else "httptools",
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
from django.core.management import call_command  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.http import HttpRequest, StreamingHttpResponse  # noqa: E402
from django.urls import include, path  # noqa: E402
from django.views.decorators.csrf import csrf_exempt  # noqa: E402
from httpx2 import AsyncClient  # noqa: E402
from openai import AsyncOpenAI  # noqa: E402

from chatstream.providers.sources import ProviderSource  # noqa: E402
from chatstream.providers.transport import HttptoolsTransport  # noqa: E402
from chatstream.responses import EventStreamResponse  # noqa: E402
from chatstream.views import StartsRuns  # noqa: E402

call_command("migrate", verbosity=0, skip_checks=True)

# What someone who installed the extra `fast` and read docs/dependencies.md would write.
client = AsyncOpenAI(
    base_url=UPSTREAM,
    api_key="bench",
    http_client=AsyncClient(transport=HttptoolsTransport()),
)
# The naive peer's: the package's defaults.
default_client = AsyncOpenAI(base_url=UPSTREAM, api_key="bench")


class PlainView(StartsRuns):
    """What ``ChatStreamView`` does for a POST, less the run."""

    def post(self, request: Any) -> EventStreamResponse:
        provider, asked, _ = self.request_for(self.validated(self.get_body(request)))
        return EventStreamResponse(ProviderSource(provider, asked))


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
    path("plain/", PlainView.as_view()),
    path("bare", bare),
    path("naive", naive),
]

application = get_asgi_application()
wsgi = get_wsgi_application()
