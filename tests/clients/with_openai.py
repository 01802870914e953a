"""OpenAI's SDK: what tests/testing/test_openai_sdk.py does, by the asynchronous client, and errors and pictures."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable
from typing import Any

import openai
import pytest
from clients.cases import (
    ADA,
    ANSWER,
    PICTURE,
    QUOTA,
    WEATHER,
    WRONG_KEY,
    Person,
    picture_of,
    results_of,
    waited_for_a_second,
    weather,
)
from pydantic import BaseModel

from chatanywhere.testing import Fault, LoopbackServer, Reply

MESSAGES: list[Any] = [{"role": "user", "content": ADA}]
CHAT: dict[str, Any] = {"model": "gpt-4o-mini", "messages": MESSAGES}


class Weather(BaseModel):
    """Tell the weather."""

    city: str
    days: int


TOOL = openai.pydantic_function_tool(Weather, name="weather")


def run(server: LoopbackServer, function: Callable[[Any], Awaitable[None]]) -> None:
    """Run a function with an asynchronous client of the server."""

    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
            await function(client)

    asyncio.run(main())


def test_create(server: LoopbackServer) -> None:
    """An answer comes at once, with its usage, and in pieces."""

    async def chat(client: openai.AsyncOpenAI) -> None:
        completion = await client.chat.completions.create(**CHAT)
        assert completion.choices[0].message.content == ANSWER
        assert completion.usage
        assert completion.usage.total_tokens == completion.usage.prompt_tokens + completion.usage.completion_tokens
        chunks = [chunk async for chunk in await client.chat.completions.create(**CHAT, stream=True)]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == ANSWER
        raw = await client.chat.completions.with_raw_response.create(**CHAT)
        assert raw.parse().choices[0].message.content == ANSWER
        assert raw.headers["x-request-id"]

    run(server, chat)


def test_parse_and_stream(server: LoopbackServer) -> None:
    """An answer is parsed into a model, whole and in pieces."""

    async def chat(client: openai.AsyncOpenAI) -> None:
        parsed = await client.chat.completions.parse(**CHAT, response_format=Person)
        assert isinstance(parsed.choices[0].message.parsed, Person)
        async with client.chat.completions.stream(**CHAT, response_format=Person) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()
        assert kinds[-1] == "content.done"
        assert final.choices[0].message.parsed == parsed.choices[0].message.parsed

    run(server, chat)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(streamed: bool) -> None:
    """A tool is called, and its result is told."""

    async def chat(client: openai.AsyncOpenAI) -> None:
        messages = [*MESSAGES]

        async def ask() -> Any:
            options: dict[str, Any] = {"model": "m", "messages": messages, "tools": [TOOL]}
            if not streamed:
                return (await client.chat.completions.parse(**options)).choices[0].message
            async with client.chat.completions.stream(**options) as stream:
                return (await stream.get_final_completion()).choices[0].message

        message = await ask()
        assert message.content is None
        (call,) = message.tool_calls
        assert call.function.parsed_arguments == Weather(city="Paris", days=2)
        result = weather(**json.loads(call.function.arguments))
        messages += [message, {"role": "tool", "tool_call_id": call.id, "content": result}]
        assert (await ask()).content == "It is 22 degrees."

    with LoopbackServer(WEATHER) as server:
        run(server, chat)
        assert results_of(server) == ["22 degrees in Paris"]


def test_embeddings(server: LoopbackServer) -> None:
    """Vectors come in both formats, of any size."""

    async def embed(client: openai.AsyncOpenAI) -> None:
        create = client.embeddings.create
        answers = [
            await create(model="text-embedding-3-small", input=["Hello", "你好"], dimensions=8, encoding_format=each)
            for each in ("float", "base64")
        ]
        assert [len(each.embedding) for each in answers[0].data] == [8, 8]
        raw = await create(model="text-embedding-3-small", input=["Hello", "你好"], dimensions=8)
        assert [each.embedding for each in raw.data] == [each.embedding for each in answers[0].data]
        assert len(base64.b64decode(str(answers[1].data[0].embedding))) == 32

    run(server, embed)


def test_models(server: LoopbackServer) -> None:
    """Models are listed page by page, which is one page."""

    async def ask(client: openai.AsyncOpenAI) -> None:
        names = [model.id async for model in client.models.list()]
        assert (await client.models.retrieve(names[-1])).id == names[-1]

    run(server, ask)


def test_a_picture(server: LoopbackServer) -> None:
    """A picture that is sent with a text arrives."""
    url = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    content = [{"type": "text", "text": ADA}, {"type": "image_url", "image_url": {"url": url}}]

    async def chat(client: openai.AsyncOpenAI) -> None:
        messages: list[Any] = [{"role": "user", "content": content}]
        answer = await client.chat.completions.create(model="m", messages=messages)
        assert answer.choices[0].message.content == ANSWER

    run(server, chat)
    assert picture_of(server) == PICTURE


ERRORS = {
    "wrong key": (WRONG_KEY, openai.AuthenticationError, "invalid_api_key"),
    "quota": (QUOTA, openai.RateLimitError, "insufficient_quota"),
    "forbidden": (Fault.status(403), openai.PermissionDeniedError, "403 FORBIDDEN"),
    "server": (Fault.status(503), openai.InternalServerError, "503 SERVICE_UNAVAILABLE"),
    "page": (Fault.html(502), openai.InternalServerError, None),
    "silence": (Fault.timeout(), openai.APITimeoutError, None),
    "reset": (Fault.reset_peer(), openai.APIConnectionError, None),
}


@pytest.mark.parametrize(("fault", "kind", "code"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(server: LoopbackServer, fault: Fault, kind: type[openai.APIError], code: str | None) -> None:
    """What goes wrong is the error that OpenAI's SDK has for it, by either client."""
    server.faults = [fault]

    async def chat(client: openai.AsyncOpenAI) -> None:
        with pytest.raises(kind) as caught:
            await client.with_options(timeout=0.5).chat.completions.create(**CHAT)
        assert (type(caught.value), caught.value.code) == (kind, code)

    run(server, chat)
    with (
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0, timeout=0.5) as client,
        pytest.raises(kind) as caught,
    ):
        client.chat.completions.create(**CHAT)
    assert (type(caught.value), caught.value.code) == (kind, code)


def test_an_error_within_a_stream(server: LoopbackServer) -> None:
    """An error in place of the next chunk is raised behind the text that came."""
    server.faults = [Fault.error_frame("upstream failed", after=2)]

    async def chat(client: openai.AsyncOpenAI) -> None:
        pieces = []

        async def read() -> None:
            async for chunk in await client.chat.completions.create(**CHAT, stream=True):
                pieces.append(chunk.choices[0].delta.content)

        with pytest.raises(openai.APIError, match="upstream failed"):
            await read()
        assert pieces == ["", "Pleased", " to"]

    run(server, chat)


def test_a_busy_server(server: LoopbackServer) -> None:
    """It is asked again when it says."""

    async def chat(client: openai.AsyncOpenAI) -> None:
        await client.with_options(max_retries=1).chat.completions.create(**CHAT)

    with waited_for_a_second(server):
        run(server, chat)


def test_what_openai_says_besides() -> None:
    """Reasoning and a refusal are where the SDK has them."""
    replies = [Reply("Yes.", reasoning="Let me think."), Reply(refusal="No way.")]

    async def chat(client: openai.AsyncOpenAI) -> None:
        create = client.chat.completions.create
        message = (await create(**CHAT)).choices[0].message
        assert (message.content, getattr(message, "reasoning_content", None)) == ("Yes.", "Let me think.")
        message = (await create(**CHAT)).choices[0].message
        assert (message.content, message.refusal) == (None, "No way.")

    with LoopbackServer(replies) as server:
        run(server, chat)
