"""What type checkers make of the public face; checked by mypy, never run."""

from __future__ import annotations

from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    ChatAnywhere,
    ChatAnywhereError,
    Client,
    Completion,
    Retry,
    Stream,
    TextDelta,
    Timeout,
    Usage,
)
from chatanywhere.typing import AsyncResult, CreateResult, Event, Messages


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


def failure(error: ChatAnywhereError) -> tuple[str, int]:
    if isinstance(error, APITimeoutError):
        timeout: TimeoutError = error
        print(timeout, error.phase)
    if isinstance(error, APIStatusError):
        hint: str | None = error.hint
        return hint or error.message, error.status_code
    return error.partial, error.attempts
