"""sse-starlette's EventSourceResponse in FastAPI, over the openai package's iterator."""

import json
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from openai import AsyncOpenAI
from pydantic import BaseModel
from sse_starlette import EventSourceResponse

app = FastAPI()
client = AsyncOpenAI(base_url=os.environ["BENCH_UPSTREAM"], api_key="bench")


class Ask(BaseModel):
    model: str
    messages: list[dict[str, str]]


@app.post("/chat")
async def chat(ask: Ask) -> EventSourceResponse:
    async def events() -> AsyncIterator[dict[str, str]]:
        stream = await client.chat.completions.create(
            model=ask.model, messages=ask.messages, stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield {"data": json.dumps({"text": chunk.choices[0].delta.content})}
        yield {"data": json.dumps({"done": True})}

    return EventSourceResponse(events())
