"""What type checkers make of the public face; checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NoReturn, Union

from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    AsyncConversation,
    AsyncGeneratorProvider,
    AsyncRun,
    AsyncStream,
    AsyncToolStream,
    Balance,
    CallView,
    ChatAnywhere,
    ChatAnywhereAPI,
    ChatAnywhereError,
    Client,
    Completion,
    Conversation,
    Embeddings,
    Extra,
    Finished,
    Limits,
    Observer,
    OutputError,
    Progress,
    RawResponse,
    ReasoningDelta,
    RefusalDelta,
    Result,
    Retry,
    Run,
    Started,
    Stream,
    TextDelta,
    Timeout,
    ToolCall,
    ToolCallDelta,
    ToolFinished,
    ToolRun,
    ToolStarted,
    ToolStream,
    Turn,
    Usage,
    UsageRecord,
    image,
    openai,
)
from chatanywhere.openai import AsyncOpenAI, ChatCompletion, ChatCompletionChunk, OpenAI
from chatanywhere.openai.types import ChatCompletionMessageFunctionToolCall
from chatanywhere.otel import Tracing
from chatanywhere.typing import AsyncResult, ChatOptions, CreateResult, Event, Message, Messages, ToolEvent


def blocking(messages: list[dict[str, str]]) -> str:
    client = Client("k", timeout=Timeout(total=5), retry=Retry(attempts=2), base_url=["https://a", "https://b"])
    stream: Stream = client.stream(messages, temperature=0.5, timeout=None)
    with stream as same:
        for text in same:
            piece: str = text
            print(piece)
    completion: Completion = stream.completion
    usage: Usage | None = completion.usage
    if usage is not None:
        total: int = usage.total_tokens
        print(total)
    event: Event
    for event in client.stream("Hello", timeout=5, retry=3).events():
        if isinstance(event, TextDelta):
            piece = event.text
    return client.complete(messages).text


async def asynchronous(messages: Messages) -> str:
    async with AsyncClient("k", max_threads=4) as client:
        async with client.stream(messages) as stream:
            async for text in stream:
                piece: str = text
                print(piece)
        return (await client.complete("Hello")).text


async def provider(messages: Messages) -> None:
    result: AsyncResult = ChatAnywhere.create_async_generator("", messages)
    async for text in result:
        piece: str = text
    awaited = await ChatAnywhere.create_async_generator("", messages)
    async for text in awaited:
        piece = text
    pieces: CreateResult = ChatAnywhere.create_completion("", messages)
    for piece in pieces:
        print(piece)


@dataclass
class Said:
    role: str
    content: str


class Dumped:
    def model_dump(self, *, mode: str = "python") -> dict[str, Any]:
        return {"role": "user", "content": mode}


def options(client: Client, asked: Completion, read_only: Mapping[str, Any]) -> Completion:
    messages: list[Message | Completion | Said | Dumped] = [
        {"role": "user", "content": "Hi"},
        asked,
        Said("user", "Hi"),
    ]
    client.stream(message for message in (*messages, Dumped(), read_only))
    client.stream(
        "Hello", max_response_bytes=None, extra_headers={"X": "1"}, extra_query={"a": 1}, extra_body=read_only
    )
    return client.complete(messages, stream=False, max_response_bytes=1 << 20)


def account(client: Client) -> float | None:
    made: Embeddings = client.embed(text for text in ("a", "b"))
    vector: list[float] = made[0]
    vectors: list[list[float]] = [*made, *made[1:], vector]
    balance: Balance = client.balance(timeout=5)
    records: list[UsageRecord] = client.usage(hours=1) + client.usage_by_day()
    pings: dict[str, float | None] = client.ping()
    print(vectors, [record.cost for record in records], pings, client.models(retry=None))
    return balance.remaining


async def endturns(client: AsyncClient, path: Path, file: BinaryIO) -> bytes:
    answer = await client.request("POST", "/images/edits", {"n": 1}, files={"image": [path, file], "mask": b""})
    speech: RawResponse = await client.request("POST", "/audio/speech", {"input": answer["text"]}, raw=True)
    part: dict[str, Any] = image(path, detail="low")
    for source in ("cat.png", b"", file, part["image_url"]["url"]):
        image(source)
    image(5)  # type: ignore[arg-type]
    return speech.content


def failure(error: ChatAnywhereError) -> tuple[str, int]:
    if isinstance(error, APITimeoutError):
        timeout: TimeoutError = error
        print(timeout, error.phase)
    if isinstance(error, APIStatusError):
        hint: str | None = error.hint
        return hint or error.message, error.status_code
    return error.partial, error.attempts


def whole(completion: Completion) -> None:
    text: str = completion.text
    reasoning: str = completion.reasoning
    calls: tuple[ToolCall, ...] = completion.tool_calls
    names: list[str | None] = [call.name for call in calls]
    finish_reason: str | None = completion.finish_reason
    ids: tuple[str | None, str | None, str | None] = (completion.id, completion.model, completion.request_id)
    print(text, reasoning, names, finish_reason, ids)
    completion.text = ""  # type: ignore[misc]  # it is frozen


def structured(client: Client, schema: dict[str, Any]) -> tuple[Said, list[int]]:
    turn = client.complete("Hello", response_format=Said, temperature=0.5).parsed
    role: str = turn.role
    numbers: Completion[list[int]] = client.complete("Hello", stream=False, response_format=list[int])
    with client.stream("Hello", response_format=Said) as stream:
        same: Stream[Said] = stream
        print(same.completion.parsed.content, stream.read().parsed.role)
    either = client.complete("Hello", response_format=Union[Said, int]).parsed  # noqa: UP007
    label = client.complete("Hello", response_format=Literal["spam", "ham"]).parsed
    print(role, either, label, client.complete("Hello", response_format=schema).text)
    nothing: Any = client.complete("Hello").parsed
    plain: Completion = client.complete("Hello", response_format=Said)
    print(turn.roles)  # type: ignore[attr-defined]
    client.complete("Hello", response_format="json_object")  # type: ignore[arg-type]
    print(nothing, plain)
    return turn, numbers.parsed


async def structured_async(client: AsyncClient) -> Said:
    async with client.stream("Hello", response_format=Said) as stream:
        role: str = (await stream.read()).parsed.role
    done: ToolRun[Said] = await client.run_tools("Hello", [structured_async], response_format=Said)
    events: AsyncToolStream[Said] = client.stream_tools("Hello", [structured_async], response_format=Said)
    async for event in events:
        print(event, role, done.completion.parsed.role)
    return events.run.completion.parsed


def tools(client: Client, function: Mapping[str, Any]) -> str:
    def note(completion: Completion, results: Sequence[ToolFinished]) -> None:
        print(completion.text, [result.error or result.result for result in results])

    done = client.run_tools("Hello", [note, tools], max_rounds=2, parallel=True, on_round=note, timeout=5, seed=1)
    event: ToolEvent
    with client.stream_tools(done.messages, (note,)) as stream:
        same: ToolStream = stream
        for event in same:
            if isinstance(event, (ToolStarted, ToolFinished)):
                arguments: dict[str, Any] = event.call.json()
                print(arguments)
    client.run_tools("Hello", [function])  # type: ignore[list-item]
    return done.text + stream.run.completion.text


def no_output(error: OutputError) -> Literal["invalid", "length", "refusal", "content_filter"]:
    print(error.completion.refusal)
    return error.reason


def unreachable(value: NoReturn) -> NoReturn:
    raise AssertionError(value)


def every_event(event: Event) -> str | int | None:
    if isinstance(event, Started):
        return event.id or event.model
    if isinstance(event, (TextDelta, ReasoningDelta, RefusalDelta)):
        return event.text
    if isinstance(event, ToolCallDelta):
        return event.name or event.arguments
    if isinstance(event, Finished):
        return event.reason
    if isinstance(event, Usage):
        return event.prompt_tokens + event.completion_tokens
    if isinstance(event, Extra):
        return ", ".join(event.fields)
    unreachable(event)  # these are all: an error here says that an event has been forgotten above


async def asynchronous_stream(client: AsyncClient, message: Message) -> Mapping[str, str]:
    stream: AsyncStream = client.stream([message], model="m", retry=None, headers={"X-Mine": "1"})
    event: Event
    async with stream as same:
        async for event in same.events():
            print(every_event(event))
    whole(stream.completion)
    status: int = stream.status_code
    request_id: str | None = stream.request_id
    print(status, request_id)
    return stream.headers


async def generator(kind: type[AsyncGeneratorProvider], messages: Messages) -> str:
    awaited: AsyncGenerator[str, None] = await kind.create_async_generator("", messages, top_p=0.5)
    piece: str = await awaited.asend(None)
    await awaited.aclose()
    models: list[str] = ChatAnywhereAPI.get_models(api_key="k")
    facts: tuple[str, bool, bool, str] = (kind.url, kind.working, kind.needs_auth, kind.params)
    text: str = await kind.create_async("", messages)
    print(piece, models, facts)
    return text


def status(error: APIStatusError) -> None:
    code: str | None = error.code
    body: object = error.body
    headers: Mapping[str, str] = error.headers
    retry_after: float | None = error.retry_after
    request_id: str | None = error.request_id
    print(code, body, headers, retry_after, request_id)


def phase(error: APITimeoutError) -> Literal["connect", "headers", "read", "total"]:
    return error.phase


def known_options(client: Client, chosen: ChatOptions, others: dict[str, Any]) -> None:
    client.complete("Hello", model=["a", "b"], n=2, stop=["."], seed=1, logit_bias={"1": 2}, max_tokens=None)
    client.stream("Hello", **chosen)
    client.stream("Hello", **others)
    client.complete("Hello", extra_body={"top_k": 40})


def as_openai_has_it(client: OpenAI, messages: list[dict[str, str]]) -> list[str | None]:
    completion: ChatCompletion = client.chat.completions.create(model="m", messages=messages, temperature=0.5)
    text: str | None = completion.choices[0].message.content
    for call in completion.choices[0].message.tool_calls or []:
        if isinstance(call, ChatCompletionMessageFunctionToolCall):
            text = call.function.arguments
    cached: int | None = None
    if completion.usage and completion.usage.prompt_tokens_details:
        cached = completion.usage.prompt_tokens_details.cached_tokens
    pieces: list[str | None] = []
    chunks: openai.Stream[ChatCompletionChunk] = client.chat.completions.create(
        model="m", messages=messages, stream=True
    )
    with chunks as stream:
        for chunk in stream:
            pieces.append(chunk.choices[0].delta.content)
    parsed = client.chat.completions.parse(model="m", messages=messages, response_format=Turn)
    turn: Turn | None = parsed.choices[0].message.parsed
    with client.chat.completions.stream(model="m", messages=messages, response_format=Turn) as events:
        for event in events:
            if event.type == "content.delta":
                pieces.append(event.delta)
            elif event.type == "tool_calls.function.arguments.done":
                pieces.append(event.arguments)
        turn = events.get_final_completion().choices[0].message.parsed
    vector: list[float] = client.embeddings.create(model="m", input="a").data[0].embedding
    models: list[str] = [model.id for model in client.with_options(timeout=5).models.list()]
    print(cached, turn, vector, models, client.chat.completions.create(model=["a", "b"], messages=messages))
    return [*pieces, text]


async def as_openai_has_it_async(client: AsyncOpenAI, messages: list[dict[str, str]]) -> str | None:
    completion: ChatCompletion = await client.chat.completions.create(model="m", messages=messages)
    async for chunk in await client.chat.completions.create(model="m", messages=messages, stream=True):
        print(chunk.choices[0].delta.content)
    async with client.chat.completions.stream(model="m", messages=messages) as events:
        async for event in events:
            print(event.type)
    async for model in client.models.list():
        print(model.id)
    models: list[str] = [model.id for model in await client.models.list()]
    print(models)
    return completion.choices[0].message.content


def mistakes_in_openais_words(client: OpenAI, messages: list[dict[str, str]]) -> None:
    client.chat.completions.create(messages=messages)  # type: ignore[call-overload]
    client.chat.completions.create(model="m", messages=messages, temprature=1)  # type: ignore[call-overload]
    client.responses.create(input="Hello")  # type: ignore[attr-defined]
    print(client.chat.completions.create(model="m", messages=messages).choices[0].text)  # type: ignore[attr-defined]


def many(client: Client, prompts: list[str]) -> list[str]:
    run: Run = client.map(prompts, limits=Limits(requests_per_second=5), journal=Path("run.sqlite"), temperature=0.5)
    result: Result
    with run as same:
        for result in same:
            error: Exception | None = result.error
            print(result.index, error)
    progress: Progress = run.progress
    cost: float | None = progress.cost
    print(cost)
    for typed in client.map([{"prompt": "Where to?", "id": 5}], response_format=Turn, order="done"):
        if typed.completion is not None:
            parsed: Turn = typed.completion.parsed
            print(parsed)
    client.map(prompts, order="any")  # type: ignore[arg-type]
    client.map(prompts, concurrency="many")  # type: ignore[arg-type]
    return [each.text for each in client.map([[{"role": "user", "content": "Hello"}]])]


async def many_async(client: AsyncClient) -> list[Turn]:
    run: AsyncRun = client.map(["Hello"])
    run.cancel()
    async with client.map(["Hello"], response_format=Turn) as trips:
        return [each.completion.parsed async for each in trips if each.completion is not None]


def mistakes(client: Client, asynchronous_client: AsyncClient) -> None:
    """What a type checker is to object to; mypy reports an `ignore` that is not needed."""
    client.stream(1)  # type: ignore[arg-type]
    client.stream("Hello", timeout="5")  # type: ignore[arg-type]
    client.complete("Hello", retry="often")  # type: ignore[arg-type]
    client.complete("Hello", stream="no")  # type: ignore[arg-type]
    client.complete(["Hello"])  # type: ignore[list-item]
    client.stream("Hello", extra_headers={"X": 1})  # type: ignore[dict-item]
    client.complete("Hello", temperature="high")  # type: ignore[arg-type]
    client.complete("Hello", temprature=0.5)  # type: ignore[call-arg]
    Client(protocol="gopher")  # type: ignore[arg-type]
    with asynchronous_client.stream("Hello"):  # type: ignore[attr-defined]
        pass


@dataclass
class Person:
    name: str


def conversations(client: Client, path: Path) -> list[dict[str, Any]]:
    conversation: Conversation = client.conversation("Be brief.", model=["a", "b"], max_messages=20, temperature=0.5)
    text: str = conversation.send("Hello", files=[path, "notes.txt", ("cat.png", b"")]).text
    person: Completion[Person] = conversation.send("Who?", response_format=Person)
    with conversation.stream([{"role": "user", "content": text}]) as stream:
        stream.add_done_callback(lambda ended: print(ended.text, ended.status, ended.error))
    turn: Turn | None = conversation.turn
    fork: Conversation = conversation.fork()
    loaded: Conversation = Conversation.load(path, client)
    again: Completion = fork.retry(model="gpt-4o")
    print(person.parsed.name, turn and turn.error, again, loaded.undo(), [each["role"] for each in loaded])
    return conversation.messages


async def async_conversations(client: AsyncClient, path: Path) -> str:
    conversation: AsyncConversation = client.conversation()
    person: Person = (await conversation.send("Who?", response_format=Person)).parsed
    async with conversation.stream("Hello") as stream:
        stream.add_done_callback(lambda ended: print(ended.text))
    loaded: AsyncConversation = AsyncConversation.load(path, client)
    return person.name + (await loaded.resume()).text


class Watching(Observer):
    capture_content = True

    def call_ended(self, view: CallView) -> None:
        seconds: float = view.seconds
        model: str | None = view.model
        usage: Usage | None = view.usage
        error: BaseException | None = view.error
        reasons: tuple[str, ...] = view.finish_reasons
        temperature: Any = view.parameters.get("temperature")
        completion: Completion | None = view.completion
        print(seconds, model, usage, error, reasons, temperature, completion)


class OnlyTheEnd:
    def call_ended(self, view: CallView) -> None:
        print(view.wait)


def watching() -> None:
    Client("k", observers=[Watching(), OnlyTheEnd(), Tracing(capture_content=True)])
    AsyncClient("k", observers=(Watching(),))
