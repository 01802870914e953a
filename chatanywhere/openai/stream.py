"""Answers that are streamed: chunks as objects, and the helpers that make events of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._errors import ChatAnywhereError
from .errors import APIRequest, APIResponse, ResponseHeaders, adapt, adapted
from .events import ChatCompletionStreamEvent, ChatCompletionStreamState
from .parsing import Wanted
from .types import ChatCompletionChunk, ParsedChatCompletion

if TYPE_CHECKING:
    from .._async_client import AsyncStream
    from .._stream import BaseStream, Stream

T = TypeVar("T")


def _chunk(said: dict[str, Any]) -> ChatCompletionChunk:
    """Return an object of a stream; an answer that a server would not stream is one piece of it."""
    if said.get("object") == "chat.completion":
        choices = [
            {**{name: choice[name] for name in choice if name != "message"}, "delta": choice["message"]}
            if isinstance(choice, dict) and "delta" not in choice and "message" in choice
            else choice
            for choice in said.get("choices") or ()
        ]
        said = {**said, "object": "chat.completion.chunk", "choices": choices}
    return ChatCompletionChunk(**said)


class StreamResponse(APIResponse):
    """What is answered by a stream."""

    def __init__(self, stream: BaseStream[Any], request: APIRequest) -> None:
        super().__init__(stream.status_code, ResponseHeaders(stream.headers), request)
        self._stream = stream

    def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled."""
        self._stream.cancel()

    async def aclose(self) -> None:
        """The same for async programs."""
        self._stream.cancel()


class _ChunkSource(Generic[T]):
    """What blocking and async streams have in common."""

    _stream: BaseStream[Any]

    def __init__(self, stream: BaseStream[Any], request: APIRequest) -> None:
        self._stream = stream
        self._request = request

    @property
    def response(self) -> APIResponse:
        """Status and headers of the answer."""
        return StreamResponse(self._stream, self._request)

    @property
    def text(self) -> str:
        """The text so far; stays readable after an error."""
        return self._stream.text

    def cancel(self) -> None:
        """Stop at once, from any thread or task or a signal handler; a reader gets `StreamCancelledError`."""
        self._stream.cancel()


class ChunkStream(_ChunkSource[T]):
    """The chunks of an answer as they come: an iterator, and a context manager. Made by `create(stream=True)`.

    Iterating raises `ChatAnywhereError`, whose `partial` is the text that had come.
    """

    _stream: Stream[Any]

    def __init__(self, stream: Stream[Any], request: APIRequest) -> None:
        super().__init__(stream, request)
        self._iterator = stream.chunks()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return _chunk(next(self._iterator))  # type: ignore[return-value]  # they are chunks of chats
        except ChatAnywhereError as error:
            adapt(error, self._request)
            raise

    def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self._stream.close()

    def __enter__(self) -> ChunkStream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChunkStream(_ChunkSource[T]):
    """The chunks of an answer as they come: an async iterator, and an async context manager; see `ChunkStream`."""

    _stream: AsyncStream[Any]

    def __init__(self, stream: AsyncStream[Any], request: APIRequest) -> None:
        super().__init__(stream, request)
        self._iterator = stream.chunks()

    def __aiter__(self) -> AsyncIterator[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return _chunk(await self._iterator.__anext__())  # type: ignore[return-value]  # they are chunks of chats
        except ChatAnywhereError as error:
            adapt(error, self._request)
            raise

    async def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        await self._stream.aclose()

    async def __aenter__(self) -> AsyncChunkStream[T]:
        with adapted(self._request):
            await self._stream.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


# Helpers -----------------------------------------------------------------------------------------------------


class _EventSource(Generic[T]):
    """What blocking and async streams of events have in common."""

    _chunks: _ChunkSource[ChatCompletionChunk]

    def __init__(self, chunks: _ChunkSource[ChatCompletionChunk], wanted: Wanted) -> None:
        self._chunks = chunks
        self._state = ChatCompletionStreamState(wanted=wanted)
        self._events: Iterator[ChatCompletionStreamEvent] = iter(())

    def _take(self, chunk: ChatCompletionChunk) -> None:
        if chunk.object != "":  # Azure says so of what its filters have found
            self._events = iter(self._state.handle_chunk(chunk))

    @property
    def current_completion_snapshot(self) -> ParsedChatCompletion[T]:
        """The answer so far; there is one with the first event."""
        return self._state.current_completion_snapshot

    @property
    def response(self) -> APIResponse:
        """Status and headers of the answer."""
        return self._chunks.response

    def cancel(self) -> None:
        """Stop at once, from any thread or task or a signal handler; a reader gets `StreamCancelledError`."""
        self._chunks.cancel()


class ChatCompletionStream(_EventSource[T]):
    """What an answer tells while it comes: an iterator of events. Made by entering `chat.completions.stream(…)`."""

    _chunks: ChunkStream[ChatCompletionChunk]

    def __iter__(self) -> Iterator[ChatCompletionStreamEvent]:
        return self

    def __next__(self) -> ChatCompletionStreamEvent:
        while True:
            for event in self._events:
                return event
            self._take(next(self._chunks))

    def until_done(self) -> ChatCompletionStream[T]:
        """Read to the end."""
        for _ in self:
            pass
        return self

    def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read to the end, and return the whole answer.

        Raises:
            LengthFinishReasonError, ContentFilterFinishReasonError: it has ended too early to be read.
            pydantic.ValidationError: it is not what was asked for.
        """
        return self.until_done()._state.get_final_completion()

    def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self._chunks.close()

    def __enter__(self) -> ChatCompletionStream[T]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncChatCompletionStream(_EventSource[T]):
    """What an answer tells while it comes: an async iterator of events; see `ChatCompletionStream`."""

    _chunks: AsyncChunkStream[ChatCompletionChunk]

    def __aiter__(self) -> AsyncIterator[ChatCompletionStreamEvent]:
        return self

    async def __anext__(self) -> ChatCompletionStreamEvent:
        while True:
            for event in self._events:
                return event
            self._take(await self._chunks.__anext__())

    async def until_done(self) -> AsyncChatCompletionStream[T]:
        """Read to the end."""
        async for _ in self:
            pass
        return self

    async def get_final_completion(self) -> ParsedChatCompletion[T]:
        """Read to the end, and return the whole answer; see `ChatCompletionStream`."""
        return (await self.until_done())._state.get_final_completion()

    async def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        await self._chunks.close()

    async def __aenter__(self) -> AsyncChatCompletionStream[T]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class ChatCompletionStreamManager(Generic[T]):
    """Asks when it is entered, and closes the stream when it is left."""

    def __init__(self, ask: Callable[[], ChunkStream[ChatCompletionChunk]], wanted: Wanted) -> None:
        self._ask = ask
        self._wanted = wanted
        self._stream: ChatCompletionStream[T] | None = None

    def __enter__(self) -> ChatCompletionStream[T]:
        self._stream = ChatCompletionStream(self._ask(), self._wanted)
        return self._stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            self._stream.close()


class AsyncChatCompletionStreamManager(Generic[T]):
    """Asks when it is entered, and closes the stream when it is left."""

    def __init__(self, ask: Callable[[], Awaitable[AsyncChunkStream[ChatCompletionChunk]]], wanted: Wanted) -> None:
        self._ask = ask
        self._wanted = wanted
        self._stream: AsyncChatCompletionStream[T] | None = None

    async def __aenter__(self) -> AsyncChatCompletionStream[T]:
        self._stream = AsyncChatCompletionStream(await self._ask(), self._wanted)
        return self._stream

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._stream is not None:
            await self._stream.close()
