"""The official OpenAI SDK against the loopback server: a judge of the openai protocol."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Iterator
from typing import Literal

import pytest

from chatanywhere.testing import LoopbackServer

openai = pytest.importorskip("openai")
pydantic = pytest.importorskip("pydantic")

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


@pytest.fixture
def talker() -> Iterator[openai.OpenAI]:
    """The SDK, with a server that has no script."""
    with (
        LoopbackServer() as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0) as client,
    ):
        yield client


class Cat(pydantic.BaseModel):
    """A pet."""

    kind: Literal["cat"]
    lives: int = pydantic.Field(ge=1, le=9)


class Person(pydantic.BaseModel):
    """A model with all that a strict schema may have."""

    name: str
    postcode: str = pydantic.Field(pattern=r"^[A-Z]{2}\d{3}$")
    color: Literal["red", "blue"]
    pets: list[Cat] = pydantic.Field(min_length=2)
    home: str | None
    friends: list[Person]


class Weather(pydantic.BaseModel):
    """Tell the weather."""

    city: str
    days: int = pydantic.Field(ge=3)


def test_options_of_a_completion(talker: openai.OpenAI) -> None:
    """The SDK reads several choices, each cut, with its log probabilities."""
    options = {"n": 2, "max_completion_tokens": 2, "logprobs": True, "top_logprobs": 3, "stop": ["!"]}
    completion = talker.chat.completions.create(model="m", messages=MESSAGES, **options)
    assert [choice.finish_reason for choice in completion.choices] == ["length", "length"]
    for choice in completion.choices:
        tokens = choice.logprobs.content
        assert "".join(each.token for each in tokens) == choice.message.content
        assert all(bytes(each.bytes).decode() == each.token for each in tokens)
        assert all(len(each.top_logprobs) == 3 for each in tokens)


def test_an_answer_is_parsed(talker: openai.OpenAI) -> None:
    """`parse` has an instance of the model, and so has a stream."""
    completion = talker.chat.completions.parse(model="m", messages=MESSAGES, response_format=Person)
    person = completion.choices[0].message.parsed
    assert isinstance(person, Person)
    assert len(person.pets) == 2
    with talker.chat.completions.stream(model="m", messages=MESSAGES, response_format=Person) as stream:
        deltas = [event.delta for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == person
    assert Person.model_validate_json("".join(deltas)) == person


def test_an_answer_that_is_cut_can_not_be_parsed(talker: openai.OpenAI) -> None:
    """The SDK raises what it raises for the service's own finish reason."""
    with pytest.raises(openai.LengthFinishReasonError):
        talker.chat.completions.parse(model="m", messages=MESSAGES, response_format=Person, max_tokens=2)


def test_a_loop_over_tools(talker: openai.OpenAI) -> None:
    """A tool is called, its arguments are parsed, and its result comes back in the answer."""
    messages: list[object] = [*MESSAGES]
    options = {"model": "m", "tools": [openai.pydantic_function_tool(Weather)], "tool_choice": "required"}
    message = talker.chat.completions.parse(messages=messages, **options).choices[0].message
    (call,) = message.tool_calls
    assert isinstance(call.function.parsed_arguments, Weather)
    messages += [message, {"role": "tool", "tool_call_id": call.id, "content": "22 degrees"}]
    answer = talker.chat.completions.create(messages=messages, **options).choices[0]
    assert "22 degrees" in answer.message.content
    assert answer.finish_reason == "stop"


def test_calls_of_a_stream(talker: openai.OpenAI) -> None:
    """The SDK's stream puts several calls together, each with its arguments."""
    tools = [openai.pydantic_function_tool(Weather), openai.pydantic_function_tool(Cat)]
    options = {"tools": tools, "tool_choice": "required", "parallel_tool_calls": True}
    with talker.chat.completions.stream(model="m", messages=MESSAGES, **options) as stream:
        done = [event for event in stream if event.type == "tool_calls.function.arguments.done"]
        final = stream.get_final_completion()
    assert [event.name for event in done] == ["Weather", "Cat"]
    calls = final.choices[0].message.tool_calls
    assert [type(call.function.parsed_arguments) for call in calls] == [Weather, Cat]


def test_a_custom_tool(talker: openai.OpenAI) -> None:
    """A tool of free text is called with a text."""
    tool = {"type": "custom", "custom": {"name": "shell"}}
    choice = {"type": "custom", "custom": {"name": "shell"}}
    completion = talker.chat.completions.create(model="m", messages=MESSAGES, tools=[tool], tool_choice=choice)
    (call,) = completion.choices[0].message.tool_calls
    assert (call.type, call.custom.name, call.custom.input) == ("custom", "shell", MESSAGES[0]["content"])


def test_embeddings(talker: openai.OpenAI) -> None:
    """The SDK, which asks for base64 by itself, has the floats that it would have otherwise."""
    create = talker.embeddings.create
    answer = create(model="text-embedding-3-small", input=["Hello", "你好"])
    assert [len(each.embedding) for each in answer.data] == [1536, 1536]
    assert math.hypot(*answer.data[0].embedding) == pytest.approx(1)
    assert answer.usage.total_tokens == 3
    plain = create(model="text-embedding-3-small", input=["Hello", "你好"], encoding_format="float")
    assert [each.embedding for each in plain.data] == [each.embedding for each in answer.data]
    with pytest.raises(openai.BadRequestError, match="empty"):
        create(model="text-embedding-3-small", input="")


def test_a_model_is_retrieved(talker: openai.OpenAI) -> None:
    """Each model that is listed can be asked for, and no other."""
    for model in talker.models.list():
        assert talker.models.retrieve(model.id) == model
    with pytest.raises(openai.NotFoundError) as caught:
        talker.models.retrieve("no/such model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    assert "no/such model" in caught.value.message


def test_what_is_malformed_is_refused(talker: openai.OpenAI) -> None:
    """The SDK finds the parameter and the code of what is refused."""
    with pytest.raises(openai.BadRequestError) as caught:
        talker.chat.completions.create(model="m", messages=MESSAGES, n=0)
    assert (caught.value.param, caught.value.code) == ("n", "integer_below_min_value")
    assert caught.value.type == "invalid_request_error"


def test_the_host_may_be_written_without_v1() -> None:
    """A base URL without `/v1` reaches the same routes."""
    with (
        LoopbackServer() as server,
        openai.OpenAI(base_url=server.url, api_key="x", max_retries=0) as client,
    ):
        tools = [openai.pydantic_function_tool(Weather)]
        completion = client.chat.completions.create(
            model="m", messages=MESSAGES, tools=tools, tool_choice={"type": "function", "function": {"name": "Weather"}}
        )
        assert json.loads(completion.choices[0].message.tool_calls[0].function.arguments)["days"] >= 3
        assert client.models.retrieve("gpt-4o").id == "gpt-4o"
        assert client.embeddings.create(model="m", input="Hello").data
