"""FastAPI and the openai package, as commonly written: a StreamingResponse over its iterator."""

import json
import os
from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from openai import AsyncOpenAI
from pydantic import BaseModel

app = FastAPI()
client = AsyncOpenAI(base_url=os.environ["BENCH_UPSTREAM"], api_key="bench")


class Ask(BaseModel):
    model: str
    messages: list[dict[str, str]]


@app.post("/chat")
async def chat(ask: Ask) -> StreamingResponse:
    async def events() -> AsyncIterator[str]:
        stream = await client.chat.completions.create(
            model=ask.model, messages=ask.messages, stream=True
        )
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield f"data: {json.dumps({'text': chunk.choices[0].delta.content})}\n\n"
        yield 'data: {"done": true}\n\n'

    return StreamingResponse(events(), media_type="text/event-stream")
