"""Stream answers to a browser from FastAPI, as server-sent events.

    uvicorn --app-dir examples/web --timeout-graceful-shutdown 5 fastapi_app:app

Needs a key in CHATANYWHERE_API_KEY. Open http://127.0.0.1:8000 and ask.
"""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse, StreamingResponse

from chatanywhere import AsyncClient, ChatAnywhereError

PAGE = Path(__file__).with_name("page.html")

logger = logging.getLogger("uvicorn.error")
client = AsyncClient()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Close the client's connections when the server ends."""
    async with client:
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/")
async def page() -> FileResponse:
    """The form, and the script that shows the answer as it comes."""
    return FileResponse(PAGE)


@app.get("/ask")
async def ask(question: str) -> StreamingResponse:
    """Answer as a stream of events."""
    return StreamingResponse(events(question), media_type="text/event-stream")


async def events(question: str) -> AsyncIterator[str]:
    """Yield the answer as events. When the browser has gone, this is cancelled, and that ends the call."""
    end = ""
    try:
        async with client.stream(question) as stream:
            async for text in stream:
                yield f"data: {json.dumps(text)}\n\n"
    except ChatAnywhereError:
        logger.exception("no answer, or one that broke off")
        end = " [the answer broke off]"
    yield f"event: end\ndata: {json.dumps(end)}\n\n"
