"""The blocking client for event loops. The only user of anyio; no protocol code.

A worker thread opens a stream: names, connection, TLS, proxy, the request, the head of the answer, other
attempts. For the body no thread is held: the loop waits for the socket, and what arrives goes through the
decoders that the blocking reader feeds. No cancel scope is open across a `yield`, so a stream may be read and
closed by different tasks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._client import DEFAULT, Client
from ._errors import ChatAnywhereError
from ._policy import RetryLike, TimeoutLike
from ._stream import Call, Stream
from ._types import Completion, Event, Messages, TextDelta

T = TypeVar("T")


class AsyncStream:
    """The answer to one call: an async iterator of `str`, and an async context manager.

    Made by `AsyncClient.stream`. Nothing is sent before it is entered or the first piece is asked for.
    """

    def __init__(self, call: Call, limiter: Callable[[], anyio.CapacityLimiter]) -> None:
        self._call = call
        self._limiter = limiter
        self._stream: Stream | None = None
        self._begun = False
        self._at_once = False  # whether the last bytes came without waiting

    # Reading ------------------------------------------------------------------------------------------------

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        stream = self._stream or await self._open()
        while stream._proceed():
            event = stream._take()
            if event is None:
                await self._advance(stream)
            elif isinstance(event, TextDelta):
                return event.text
        raise StopAsyncIteration

    async def events(self) -> AsyncIterator[Event]:
        """Yield all that the answer tells, not its text only. Takes the place of iterating the stream itself.

        Raises:
            ChatAnywhereError: the answer failed.
        """
        stream = self._stream or await self._open()
        while stream._proceed():
            event = stream._take()
            if event is None:
                await self._advance(stream)
            else:
                yield event

    async def _open(self) -> Stream:
        if self._begun:
            raise RuntimeError("the stream could not be opened, or another task is opening it: make another call")
        self._begun = True
        self._stream = await self._in_thread(lambda: Stream(self._call))
        return self._stream

    async def _advance(self, stream: Stream) -> None:
        """The loop's counterpart of `Stream._advance`."""
        if not stream._waiting():
            if stream._reply.error is None or stream._reply.delivered:
                stream._settle()
            else:
                await self._in_thread(stream._settle)
            return
        try:
            data = await self._receive(stream)
        except ChatAnywhereError as error:
            stream._reply.fail(error)
        except BaseException:
            stream.close()
            raise
        else:
            stream._accept(data)

    async def _receive(self, stream: Stream) -> bytes:
        with stream._using() as answer:
            assert answer is not None
            if self._at_once:  # a server that is faster than this program must not keep the loop to itself
                await anyio.lowlevel.checkpoint()
            self._at_once = True
            while (sock := answer.waitable) is not None:
                budget = answer.budget()
                data = answer.receive_nowait(sock)
                if data is not None:
                    return data
                self._at_once = False
                with anyio.move_on_after(budget) as scope:
                    await anyio.wait_readable(sock)
                if scope.cancelled_caught:
                    raise answer.expire()
        return await self._in_thread(stream._receive)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        try:
            return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=self._limiter())
        except ChatAnywhereError:
            raise
        except BaseException:
            self.cancel()  # the thread ends at once, and what it opened is closed
            raise

    # What is known so far -----------------------------------------------------------------------------------

    def _opened(self) -> Stream:
        if self._stream is None:
            raise RuntimeError("the stream has not been opened: enter it, or ask for its first piece")
        return self._stream

    @property
    def text(self) -> str:
        """The text so far; stays readable after an error."""
        return self._stream.text if self._stream else ""

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, so far."""
        return self._stream.reasoning if self._stream else ""

    @property
    def completion(self) -> Completion:
        """The whole answer.

        Raises:
            RuntimeError: the stream has not been read to its end.
        """
        return self._opened().completion

    @property
    def status_code(self) -> int:
        """The HTTP status of the answer."""
        return self._opened().status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer; keys are case-insensitive."""
        return self._opened().headers

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the header `x-request-id`."""
        return self._opened().request_id

    # Ending -------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop at once, from any task or thread; a reader gets `StreamCancelledError`."""
        if self._stream is None:
            self._call.cancel()
        else:
            self._stream.cancel()

    async def aclose(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        if self._stream is None:
            self._call.cancel()
        else:
            self._stream.close()

    async def __aenter__(self) -> AsyncStream:
        if self._stream is None:
            await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncClient:
    """The same client for asyncio and trio. Takes what `Client` takes, and

    Args:
        max_threads: how many worker threads may be opening streams at the same time. They are counted apart
            from those of the program.
    """

    def __init__(self, api_key: str | None = None, *, max_threads: int = 40, **settings: Any) -> None:
        self._set(Client(api_key, **settings), max_threads)

    @classmethod
    def from_sync(cls, client: Client, *, max_threads: int = 40) -> AsyncClient:
        """Make an async client that shares the connections of a blocking one."""
        self = cls.__new__(cls)
        self._set(client, max_threads)
        return self

    def _set(self, client: Client, max_threads: int) -> None:
        if max_threads < 1:
            raise ValueError(f"max_threads={max_threads}: a stream needs a thread to be opened")
        self._client = client
        self._max_threads = max_threads
        # A limiter belongs to an event loop; the client outlives loops.
        self._limiters: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("chatanywhere_threads")

    def _limiter(self) -> anyio.CapacityLimiter:
        limiter = self._limiters.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(self._max_threads)
            self._limiters.set(limiter)
        return limiter

    def stream(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> AsyncStream:
        """Prepare a call; see `Client.stream` for the arguments. The time of `timeout` begins now."""
        return AsyncStream(self._client._call(messages, model, timeout, retry, headers, options), self._limiter)

    async def complete(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Completion:
        """Ask, and return the whole answer. Arguments and errors are those of `stream`."""
        stream = self.stream(messages, model=model, timeout=timeout, retry=retry, headers=headers, **options)
        async with stream:
            async for _ in stream:
                pass
            return stream.completion

    async def aclose(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self._client.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"Async{self._client!r}"
