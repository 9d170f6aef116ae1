"""The view as it is commonly written, here to fail: it shows that the table of faults has teeth.

The openai package's iterator, try/except/finally, and a done frame. Nobody should copy this.
"""

import json
from collections.abc import AsyncIterator, Iterator

from django.conf import settings
from django.http import HttpRequest, StreamingHttpResponse
from openai import AsyncOpenAI, OpenAI

MESSAGES = [{"role": "user", "content": "hi"}]


def frame(data: object) -> str:
    return f"data: {json.dumps(data)}\n\n"


def options() -> dict[str, object]:
    return {
        "base_url": settings.BASE_URL,
        "api_key": settings.API_KEY,
        "timeout": settings.NAIVE_TIMEOUT,
    }


def stream(request: HttpRequest) -> StreamingHttpResponse:
    model = request.GET["model"]

    def generate() -> Iterator[str]:
        client = OpenAI(**options())
        failed = False
        try:
            completion = client.chat.completions.create(model=model, messages=MESSAGES, stream=True)
            for chunk in completion:
                content = chunk.choices[0].delta.content if chunk.choices else None
                if content:
                    yield frame({"text": content})
        except Exception as exc:
            failed = True
            yield frame({"error": {"code": "error", "message": str(exc)}})
        finally:
            client.close()
        if not failed:
            yield frame({"done": True})

    return StreamingHttpResponse(generate(), content_type="text/event-stream")


async def astream(request: HttpRequest) -> StreamingHttpResponse:
    model = request.GET["model"]

    async def generate() -> AsyncIterator[str]:
        client = AsyncOpenAI(**options())
        failed = False
        try:
            completion = await client.chat.completions.create(
                model=model, messages=MESSAGES, stream=True
            )
            async for chunk in completion:
                content = chunk.choices[0].delta.content if chunk.choices else None
                if content:
                    yield frame({"text": content})
        except Exception as exc:
            failed = True
            yield frame({"error": {"code": "error", "message": str(exc)}})
        finally:
            await client.close()
        if not failed:
            yield frame({"done": True})

    return StreamingHttpResponse(generate(), content_type="text/event-stream")
