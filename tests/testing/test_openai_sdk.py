"""The official OpenAI SDK against the loopback server: a judge of the openai protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from chatanywhere.testing import LoopbackServer

openai = pytest.importorskip("openai")

MESSAGES = [{"role": "user", "content": "Hello! 我叫小明。"}]
PIECES = ["Pleased", " to", " meet", " you, ", "小明", "."]
TEXT = "Pleased to meet you, 小明."


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer([PIECES]) as server:
        yield server


@pytest.fixture
def client(server: LoopbackServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client:
        yield client


def test_a_completion_in_one(client: openai.OpenAI, server: LoopbackServer) -> None:
    """The SDK reads text, finish reason, model and usage of a completion."""
    completion = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert completion.choices[0].message.content == TEXT
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "gpt-4o-mini"
    assert completion.usage.total_tokens > completion.usage.completion_tokens > 0
    assert completion._request_id
    assert server.requests[0].headers.get("authorization") == "Bearer x"
    assert server.requests[0].messages == MESSAGES


def test_a_streamed_completion(client: openai.OpenAI) -> None:
    """The SDK reads the pieces of a stream, its finish and its usage."""
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(model="m", messages=MESSAGES, **options))
    choices = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert [choice.delta.content for choice in choices] == ["", *PIECES, None]
    assert choices[-1].finish_reason == "stop"
    assert [chunk.usage for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].usage.completion_tokens > 0


def test_the_asynchronous_client(server: LoopbackServer) -> None:
    """The SDK's asynchronous client streams, asks in one, and is refused as the other is."""

    async def chat() -> None:
        async with openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client:
            create = client.chat.completions.create
            stream = await create(model="m", messages=MESSAGES, stream=True)
            pieces = [chunk.choices[0].delta.content async for chunk in stream]
            assert pieces == ["", *PIECES, None]
            with pytest.raises(openai.BadRequestError, match="no reply left"):
                await create(model="m", messages=MESSAGES)
            assert (await client.models.list()).data

    asyncio.run(chat())


def test_a_conversation_of_several_turns() -> None:
    """The SDK and the built-in talker hold a conversation in which the name is remembered."""
    messages: list[dict[str, str]] = []
    with LoopbackServer() as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="x")
        for text in ["My name is Ada.", "I love engines.", "What is my name?"]:
            messages.append({"role": "user", "content": text})
            stream = client.chat.completions.create(model="m", messages=messages, stream=True)
            answer = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            messages.append({"role": "assistant", "content": answer})
        client.close()
    assert "Ada" in answer


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    """The SDK reads the list of models."""
    assert "gpt-4o-mini" in [model.id for model in client.models.list()]


def test_errors_are_understood(client: openai.OpenAI) -> None:
    """The SDK finds status, message, code and type in the error envelope."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="m", messages=[])
    assert caught.value.status_code == 400
    assert caught.value.type == "chatanywhere_error"
    assert caught.value.code == "400 BAD_REQUEST"
    assert caught.value.request_id
    with pytest.raises(openai.AuthenticationError, match="wrong api key"):
        client.with_options(default_headers={"Authorization": "Basic x"}).chat.completions.create(
            model="m", messages=MESSAGES
        )
