"""Calls as programs write them for OpenAI's library, each with what the server says to it.

They are coroutines for blocking clients and async ones alike: `got` awaits what has to be awaited, `each` iterates
and `entered` enters in the way that there is.
"""

from __future__ import annotations

import datetime
import inspect
import json
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import pydantic

from chatanywhere.testing import Fault, Reply

HELLO = [{"role": "user", "content": "Hello! 我叫小明。"}]
ASK = {"model": "gpt-4o-mini", "messages": HELLO}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
STRICT = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PARIS = Reply("Let me look. ", tool_calls=[("weather", {"city": "Paris", "why": "雨"})])
BOTH = Reply(tool_calls=[("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})])


class Cat(pydantic.BaseModel):
    """A pet."""

    name: str
    lives: int


class Person(pydantic.BaseModel):
    """Somebody with pets."""

    name: str
    age: int
    pets: list[Cat]
    color: Literal["red", "blue"]


class weather(pydantic.BaseModel):
    """Tell the weather."""

    city: str


ADA = Person(name="Ada 小明", age=36, pets=[Cat(name="Tom", lives=9)], color="red").model_dump_json()
PERSON = Reply(pieces=[ADA[:9], ADA[9:14], ADA[14:40], ADA[40:]])

Call = Callable[[Any, Any], Awaitable[Any]]
"""Takes the module and a client of it."""


@dataclass(frozen=True)
class Case:
    """A call.

    Attributes:
        replies, faults: of the server; None for the small talker.
        settings: of the client.
        kinds: whether it fails, streams, uses tools.
    """

    call: Call
    replies: Any = None
    faults: tuple[Fault, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict)
    kinds: frozenset[str] = frozenset()


CASES: dict[str, Case] = {}


def case(
    *, replies: Any = None, faults: tuple[Fault, ...] = (), kinds: str = "", **settings: Any
) -> Callable[[Call], Call]:
    """Note a call by its name."""

    def note(call: Call) -> Call:
        name = call.__name__.replace("_", " ")
        assert name not in CASES
        CASES[name] = Case(call, replies, faults, settings, frozenset(kinds.split()))
        return call

    return note


async def got(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value


async def each(source: Any) -> AsyncIterator[Any]:
    if hasattr(source, "__anext__") or inspect.isasyncgen(source):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item


async def listed(source: Any) -> list[Any]:
    return [item async for item in each(source)]


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


def create(client: Any, **options: Any) -> Any:
    return client.chat.completions.create(**{**ASK, **options})


def asking(
    name: str,
    *,
    replies: Any = None,
    faults: tuple[Fault, ...] = (),
    kinds: str = "",
    raw: bool = False,
    **options: Any,
) -> None:
    """Note a call of `create` with these options, whose stream is read to its end."""

    async def call(_: Any, client: Any) -> Any:
        answer = await got(create(client, **options))
        return await listed(answer) if options.get("stream") else answer

    kinds += " streams" if options.get("stream") else ""
    CASES[name] = Case(call, replies, faults, {}, frozenset(kinds.split()))


def message(**fields: Any) -> dict[str, Any]:
    """A whole answer as a server sends it, with fields that nobody knows."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": "stop"}],
    }


def chunk(delta: dict[str, Any], **choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "gpt-4o-mini",
        "choices": [{"index": 0, "delta": delta, "finish_reason": None, **choice}],
    }


class Named(pydantic.BaseModel):
    """What a program has other names for than the service."""

    text: str = pydantic.Field(alias="content")
    role: str = "user"


# Whole answers -----------------------------------------------------------------------------------------------

asking("a whole answer", replies=["Pleased to meet you, 小明. 🎉"])
asking("a whole answer that is told not to stream", replies=["Hi"], stream=False)
asking("none for stream", replies=["Hi"], stream=None)
asking(
    "many options",
    replies=["Hi"],
    temperature=0.5,
    top_p=1,
    seed=7,
    user="ada",
    metadata={"a": "b"},
    logit_bias={"50256": -100},
    frequency_penalty=0.1,
    presence_penalty=-0.1,
    reasoning_effort="low",
    service_tier="auto",
    store=False,
    verbosity="low",
    modalities=["text"],
    prompt_cache_key="k",
    safety_identifier="s",
)
asking("none as an option", replies=["Hi"], temperature=None, stop=None, tools=None)
asking("several choices", n=3)
asking("a choice that is cut", replies=["one two three"], max_tokens=2)
asking("stop words as a tuple", replies=["one two three"], stop=("three",))
asking("log probabilities", replies=["one two"], logprobs=True, top_logprobs=2)
asking("a JSON object", response_format={"type": "json_object"})
asking(
    "a JSON schema",
    response_format={
        "type": "json_schema",
        "json_schema": {
            "name": "age",
            "schema": {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]},
        },
    },
)
asking("fields of the body that have no keyword", replies=["Hi"], extra_body={"top_k": 5, "model": "other", "x": None})
asking("headers of a call", replies=["Hi"], extra_headers={"X-Title": "t", "OpenAI-Project": "p"})
asking("parameters of the URL", replies=["Hi"], extra_query={"api-version": "1", "many": ["a", "b"], "yes": True})
asking("moments in the body", replies=["Hi"], metadata={"at": datetime.datetime(2026, 1, 2, 3, 4)})
asking(
    "models in the body",
    replies=["Hi"],
    messages=[*HELLO, Named(content="a", role="user")],
    extra_body={"last": Named(content="b"), "all": [Named(content="c")]},
)
asking("messages as a tuple", replies=["Hi"], messages=tuple(HELLO))
asking(
    "parts of a message",
    replies=["Hi"],
    messages=[
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}},
            ],
        }
    ],
)
asking("a refusal", replies=[Reply(refusal="I will not.")])
asking("thoughts", replies=[Reply("Hi", reasoning="They greet.")])
asking("an empty answer", replies=[message(content="")])
asking("content that is null", replies=[message(content=None, refusal=None, tool_calls=None, audio=None)])
asking(
    "fields that nobody knows",
    replies=[
        {
            **message(content="Hi", reasoning_content="Hm", extra={"deep": [{"er": None}], "id": 1}),
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": 1,
                "total_tokens": 4,
                "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": None, "new_tokens": 1},
                "completion_tokens_details": {"reasoning_tokens": 0},
                "cost": 0.25,
            },
            "system_fingerprint": None,
            "service_tier": "default",
            "provider": {"name": "x"},
            "citations": ["https://example.com"],
        }
    ],
)
asking(
    "annotations and audio and a function call",
    replies=[
        message(
            content="Hi",
            annotations=[
                {
                    "type": "url_citation",
                    "url_citation": {"start_index": 0, "end_index": 2, "title": "t", "url": "u", "more": 1},
                }
            ],
            audio={"id": "a", "data": "AAAA", "expires_at": 1, "transcript": "Hi"},
            function_call={"name": "f", "arguments": "{}"},
        )
    ],
)
asking("usage that is null", replies=[{**message(content="Hi"), "usage": None}])
asking("whole numbers as log probabilities", replies=[
    {
        **message(content="Hi"),
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hi"},
                "finish_reason": "weird",
                "logprobs": {"content": [{"token": "Hi", "logprob": 0, "bytes": [72], "top_logprobs": []}]},
            }
        ],
    }
])  # fmt: skip


@case(replies=["Hi"])
async def arguments_that_are_not_given(openai: Any, client: Any) -> Any:
    return await got(create(client, temperature=openai.NOT_GIVEN, tools=openai.NOT_GIVEN, stop=openai.NOT_GIVEN))


@case(replies=["Hi"], organization="org", project="proj", default_headers={"X-A": "1"}, default_query={"q": "1"})
async def settings_of_a_client(_: Any, client: Any) -> Any:
    return await got(create(client))


@case(replies=["Hi"], default_headers={"X-A": "1"})
async def a_client_with_other_options(_: Any, client: Any) -> Any:
    other = client.with_options(timeout=20, max_retries=1, default_headers={"X-B": "2"}, api_key="other")
    return [other.api_key, other.max_retries, await got(create(other, extra_headers={"X-C": "3"}))]


@case(replies=["Hi"])
async def the_answer_as_it_came(_: Any, client: Any) -> Any:
    raw = await got(client.chat.completions.with_raw_response.create(**ASK))
    return [raw.status_code, raw.headers["content-type"], raw.headers.get("X-Request-Id"), raw.request_id, raw.parse()]


# Tools -------------------------------------------------------------------------------------------------------

asking("a tool call", replies=[PARIS], tools=[WEATHER], kinds="tools")
asking("a tool call that is demanded", tools=[WEATHER], tool_choice="required", kinds="tools")
asking(
    "a tool call by name",
    tools=[WEATHER],
    tool_choice={"type": "function", "function": {"name": "weather"}},
    kinds="tools",
)
asking("tool calls at the same time", replies=[BOTH], tools=[WEATHER], parallel_tool_calls=True, kinds="tools")
asking(
    "functions of old",
    replies=[message(content=None, function_call={"name": "weather", "arguments": "{}"})],
    functions=[WEATHER["function"]],
    function_call="auto",
    kinds="tools",
)
asking(
    "a custom tool call",
    replies=[
        message(
            content=None,
            tool_calls=[
                {"id": "c1", "type": "custom", "custom": {"name": "run", "input": "1+1"}},
                {"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}", "more": 1}, "extra": {}},
            ],
        )
    ],
    kinds="tools",
)
asking("a streamed tool call", replies=[PARIS], tools=[WEATHER], stream=True, kinds="tools")
asking("streamed tool calls at the same time", replies=[BOTH], tools=[WEATHER], stream=True, kinds="tools")


@case(replies=[PARIS, "It rains."], kinds="tools")
async def an_answer_in_a_conversation(_: Any, client: Any) -> Any:
    messages: list[Any] = list(HELLO)
    first = await got(create(client, messages=messages, tools=[WEATHER]))
    messages.append(first.choices[0].message)
    for call in first.choices[0].message.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": call.function.arguments})
    return [first, await got(create(client, messages=messages, tools=[WEATHER]))]


@case(replies=[PARIS, "It rains."], kinds="tools")
async def parts_of_an_answer_in_a_conversation(_: Any, client: Any) -> Any:
    first = (await got(create(client, tools=[WEATHER]))).choices[0].message
    turn = {"role": "assistant", "content": first.content, "tool_calls": first.tool_calls}
    result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"}
    return await got(create(client, messages=[*HELLO, turn, result], tools=[WEATHER]))


@case(replies=[Reply("Hi", reasoning="They greet."), "Bye"])
async def an_answer_with_thoughts_in_a_conversation(_: Any, client: Any) -> Any:
    first = (await got(create(client))).choices[0].message
    return await got(create(client, messages=[*HELLO, first.model_dump(), first, *HELLO]))


# Streams -----------------------------------------------------------------------------------------------------

asking("a stream", replies=[["Pleased", " to", " meet", " you, ", "小明", ". 🎉"]], stream=True)
asking("a stream that tells its usage", replies=["Hi you"], stream=True, stream_options={"include_usage": True})
asking("a stream of several choices", stream=True, n=2)
asking("a stream with log probabilities", replies=["one two"], stream=True, logprobs=True, top_logprobs=1)
asking("a streamed refusal", replies=[Reply(refusal="I will not.")], stream=True)
asking("streamed thoughts", replies=[Reply("Hi", reasoning="They greet.")], stream=True)
asking(
    "chunks with fields that nobody knows",
    replies=[
        Reply(
            chunks=[
                {**chunk({}), "choices": [], "prompt_filter_results": [{"a": 1}]},
                chunk({"role": "assistant", "content": None, "reasoning_content": "Hm"}),
                {**chunk({"content": "Hi", "x": {"y": []}}, logprobs=None, z=1), "usage": None},
                chunk({}, finish_reason="stop"),
                {
                    **chunk({}),
                    "choices": [],
                    "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "queue_time": 0.5},
                },
            ]
        )
    ],
    stream=True,
)


@case(replies=[["one ", "two ", "three"]], kinds="streams")
async def a_stream_that_is_left(_: Any, client: Any) -> Any:
    async with entered(await got(create(client, stream=True))) as stream:
        pieces = each(stream)
        first, second = await anext(pieces), await anext(pieces)
        return [first, second, stream.response.status_code, stream.response.headers["content-type"]]


@case(replies=["Hi you"], kinds="streams")
async def a_stream_as_it_came(_: Any, client: Any) -> Any:
    raw = await got(client.chat.completions.with_raw_response.create(**ASK, stream=True))
    return [raw.headers["content-type"], await listed(raw.parse())]


async def events(client: Any, **options: Any) -> list[Any]:
    """All that the helper for streams tells."""
    async with entered(client.chat.completions.stream(**{**ASK, **options})) as stream:
        told = await listed(stream)
    final = await got(stream.get_final_completion())
    return [*told, final, stream.current_completion_snapshot]


@case(replies=[["One", " two", " 三"]], kinds="streams")
async def the_events_of_a_text(_: Any, client: Any) -> Any:
    return await events(client, stream_options={"include_usage": True})


@case(kinds="streams")
async def the_events_of_several_choices(_: Any, client: Any) -> Any:
    return await events(client, n=2)


@case(replies=[Reply(refusal="I will not.")], kinds="streams")
async def the_events_of_a_refusal(_: Any, client: Any) -> Any:
    return await events(client)


@case(replies=["one two"], kinds="streams")
async def the_events_of_log_probabilities(_: Any, client: Any) -> Any:
    return await events(client, logprobs=True, top_logprobs=1)


@case(replies=[PARIS], kinds="streams tools")
async def the_events_of_a_tool_call(_: Any, client: Any) -> Any:
    return await events(client, tools=[WEATHER])


@case(replies=[BOTH], kinds="streams tools")
async def the_events_of_strict_tools(_: Any, client: Any) -> Any:
    return await events(client, tools=[STRICT])


@case(replies=[BOTH], kinds="streams tools")
async def the_events_of_a_tool_made_of_a_model(openai: Any, client: Any) -> Any:
    return await events(client, tools=[openai.pydantic_function_tool(weather)])


@case(replies=[PERSON], kinds="streams")
async def the_events_of_a_type(_: Any, client: Any) -> Any:
    return await events(client, response_format=Person)


@case(replies=[PERSON], kinds="streams")
async def the_end_of_a_stream(_: Any, client: Any) -> Any:
    async with entered(client.chat.completions.stream(**ASK, response_format=Person)) as stream:
        await got(stream.until_done())
        return (await got(stream.get_final_completion())).choices[0].message.parsed


@case(replies=[PERSON, Reply(text=ADA)])
async def a_type(_: Any, client: Any) -> Any:
    first = await got(client.chat.completions.parse(**ASK, response_format=Person))
    beta = await got(client.beta.chat.completions.parse(**ASK, response_format=Person))
    return [first, beta, first.choices[0].message.parsed]


@case(replies=[PERSON, "Bye"])
async def what_was_parsed_in_a_conversation(_: Any, client: Any) -> Any:
    first = await got(client.chat.completions.parse(**ASK, response_format=Person))
    return await got(create(client, messages=[*HELLO, first.choices[0].message, *HELLO]))


@case(replies=[Reply(ADA, choices=[Reply(ADA)])])
async def several_of_a_type(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK, response_format=Person, n=2))


@case(replies=[Reply(refusal="I will not.")])
async def a_refusal_of_a_type(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK, response_format=Person))


@case(replies=[BOTH], kinds="tools")
async def arguments_of_a_type(openai: Any, client: Any) -> Any:
    return await got(
        client.chat.completions.parse(
            **ASK,
            tools=[
                openai.pydantic_function_tool(weather),
            ],
        )
    )


@case(replies=[BOTH], kinds="tools")
async def arguments_of_strict_tools(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK, tools=[STRICT]))


@case(replies=["Hi"])
async def parsing_without_a_type(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK))


# Failures ----------------------------------------------------------------------------------------------------


def failing(name: str, *faults: Fault, replies: Any = ("Hi",), **options: Any) -> None:
    asking(name, replies=replies, faults=faults, kinds="fails", **options)


def envelope(message: str | None, code: str | int | None = None, **more: Any) -> str:
    import json

    return json.dumps({"error": {"message": message, "type": "some_error", "param": "p", "code": code, **more}})


failing("no messages", messages=[])
failing("a request that is refused", Fault.status(400, body=envelope("no such field", "bad", inner={"a": 1})))
failing("a wrong key", Fault.status(401, "wrong api key"))
failing("a balance that is spent", Fault.status(402, body=envelope("pay first", "402 PAYMENT_REQUIRED")))
failing("a balance that is too low", Fault.status(403, "账户余额过低"))
failing("a prompt that is too long", Fault.status(403, "免费API限制模型输入token小于4096"))
failing("a model that is not allowed", Fault.status(403, body=envelope("no", "insufficient_user_quota")))
failing("a model that there is not", Fault.status(400, body=envelope("The model does not exist", "model_not_found")))
failing("a path that there is not", Fault.status(404, body='{"status": 404, "error": "Not Found", "path": "/v1/x"}'))
failing("a conflict", Fault.status(409, "try again"))
failing("an error as a list", Fault.status(422, body='{"detail": [{"loc": ["body"], "msg": "field required"}]}'))
failing("too many requests", Fault.status(429, "slow down"))
failing("a quota that is spent", Fault.status(429, body=envelope("limited to 200 requests per day", 429)))
failing("an error without words", Fault.status(500, body=envelope(None)))
failing("a gateway's page", Fault.html(502))
failing("an error without a body", Fault.status(503, body=""))
failing("an error that is text", Fault.status(500, body="upstream is down", content_type="text/plain"))
failing("an error that is a list", Fault.status(400, body='["no"]'))
failing("a status that is rare", Fault.status(418, "a teapot"))
failing("a connection that is reset", Fault.reset_peer())
failing("an answer that is cut", Fault.limit_data(300), replies=["one two three"])
failing("broken chunks", Fault.bad_chunk(after=1), replies=["one two three"], stream=True)
failing("a stream that is cut", Fault.limit_data(0, after=2), replies=["one two three"], stream=True)
failing("a stream that ends with an error", Fault.error_frame(after=2), replies=["one two three"], stream=True)
failing("a stream that is refused", Fault.status(429, "slow down"), stream=True)
failing("an option that there is not", temprature=1)
failing("a type for create", response_format=Person)


@case(faults=(Fault.status(503, first=1),), replies=["Hi"], max_retries=1, kinds="fails")
async def a_retry(_: Any, client: Any) -> Any:
    return await got(create(client))


@case(default_headers={"X-A": "1", "X-B": "2"})
async def headers_in_another_case(module: Any, client: Any) -> Any:
    return await got(create(client, extra_headers={"x-a": module.omit, "x-b": "3", "authorization": "Bearer other"}))


@case(kinds="fails")
async def another_host(_: Any, client: Any) -> Any:
    client.base_url = f"{str(client.base_url).rstrip('/')}/there"
    return await got(create(client))


@case(replies=["Hi"])
async def methods_of_old(_: Any, client: Any) -> Any:
    completion = await got(create(client))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydantic's: there are newer ones
        return [json.loads(completion.json()), completion.dict(), completion.copy()]


@case(faults=(Fault.status(500),), replies=["Hi"], max_retries=1, kinds="fails")
async def a_retry_that_fails(_: Any, client: Any) -> Any:
    return await got(create(client))


@case(faults=(Fault.timeout(),), replies=["Hi"], timeout=0.3, kinds="fails")
async def a_server_that_is_silent(_: Any, client: Any) -> Any:
    return await got(create(client))


@case(faults=(Fault.timeout(after=1),), replies=["one two three"], timeout=0.3, kinds="fails streams")
async def a_stream_that_is_silent(_: Any, client: Any) -> Any:
    return await listed(await got(create(client, stream=True)))


@case(base_url="http://127.0.0.1:9/v1", kinds="fails")
async def a_server_that_is_not_there(_: Any, client: Any) -> Any:
    return await got(create(client))


@case(replies=[Reply(ADA[:9], finish_reason="length")], kinds="fails")
async def a_type_that_is_cut(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK, response_format=Person))


@case(replies=[Reply(ADA[:9], finish_reason="content_filter")], kinds="fails")
async def a_type_that_is_filtered(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK, response_format=Person))


@case(replies=[Reply(ADA[:9], finish_reason="length")], kinds="fails streams")
async def a_streamed_type_that_is_cut(_: Any, client: Any) -> Any:
    return await events(client, response_format=Person)


@case(replies=[Reply(ADA[:9], finish_reason="content_filter")], kinds="fails streams")
async def a_streamed_type_that_is_filtered(_: Any, client: Any) -> Any:
    return await events(client, response_format=Person)


@case(replies=['{"name": 1}'], kinds="fails")
async def something_else_than_the_type(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK, response_format=Person))


@case(replies=["Hi"], kinds="fails tools")
async def a_tool_that_is_not_strict(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.parse(**ASK, tools=[WEATHER]))


@case(replies=["Hi"], kinds="fails")
async def positional_arguments(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.create("gpt-4o", HELLO))


@case(replies=["Hi"], kinds="fails")
async def no_model(_: Any, client: Any) -> Any:
    return await got(client.chat.completions.create(messages=HELLO))


# Other endpoints ---------------------------------------------------------------------------------------------


@case()
async def embeddings(_: Any, client: Any) -> Any:
    return await got(client.embeddings.create(model="text-embedding-3-small", input=["a", "小明"], dimensions=5))


@case()
async def embeddings_as_numbers(_: Any, client: Any) -> Any:
    return await got(client.embeddings.create(model="m", input="a", dimensions=3, encoding_format="float", user="u"))


@case()
async def embeddings_in_base64(_: Any, client: Any) -> Any:
    return await got(client.embeddings.create(model="m", input=("a",), dimensions=3, encoding_format="base64"))


@case(kinds="fails")
async def embeddings_of_nothing(_: Any, client: Any) -> Any:
    return await got(client.embeddings.create(model="m", input=[]))


@case()
async def models(_: Any, client: Any) -> Any:
    page = await got(client.models.list())
    return [page, page.data, await listed(client.models.list()), await listed(page)]


@case()
async def a_model(_: Any, client: Any) -> Any:
    return await got(client.models.retrieve("gpt-4o-mini"))


@case(kinds="fails")
async def a_model_that_is_not_listed(_: Any, client: Any) -> Any:
    return await got(client.models.retrieve("none"))


@case(kinds="fails")
async def a_model_without_a_name(_: Any, client: Any) -> Any:
    return await got(client.models.retrieve(""))


def names() -> Iterator[str]:
    """The names of all calls."""
    yield from CASES
