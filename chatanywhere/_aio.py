"""The blocking client for event loops. The only user of anyio; no protocol code.

A worker thread opens a stream: names, connection, TLS, proxy, the request, the head of the answer, other
attempts. For the body no thread is held: the loop waits for the socket, and what arrives goes through the
decoders that the blocking reader feeds. No cancel scope is open across a `yield`, so a stream may be read and
closed by different tasks.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._call import Call
from ._client import DEFAULT, Client, model_ids
from ._errors import ChatAnywhereError
from ._policy import RetryLike, TimeoutLike
from ._stream import BaseStream, Step
from ._types import Completion, Event, Messages, TextDelta

T = TypeVar("T")


class _Workers:
    """The worker threads of one client. They are counted apart from those of the program."""

    def __init__(self, size: int) -> None:
        self._size = size
        # A limiter belongs to an event loop; the client outlives loops.
        self._limiters: anyio.lowlevel.RunVar[anyio.CapacityLimiter] = anyio.lowlevel.RunVar("chatanywhere_workers")

    async def run(self, call: Call, function: Callable[[], T]) -> T:
        """Do a blocking part of a call in a thread; a cancelled task leaves at once, and the thread soon after."""
        limiter = self._limiters.get(None)
        if limiter is None:
            limiter = anyio.CapacityLimiter(self._size)
            self._limiters.set(limiter)
        slot = object()
        try:
            held = False
            while not held:
                with anyio.move_on_after(call.check()):  # waiting for a free thread takes of the call's time too
                    await limiter.acquire_on_behalf_of(slot)
                    held = True
            try:
                return await anyio.to_thread.run_sync(
                    function, abandon_on_cancel=True, limiter=anyio.CapacityLimiter(1)
                )
            finally:
                limiter.release_on_behalf_of(slot)
        except ChatAnywhereError:
            raise
        except BaseException:
            call.cancel()  # what the thread waits for ends, and what it opened is closed
            raise


class AsyncStream(BaseStream):
    """The answer to one call: an async iterator of `str`, and an async context manager.

    Made by `AsyncClient.stream`. Nothing is sent before it is entered or the first piece is asked for.
    """

    def __init__(self, call: Call, workers: _Workers) -> None:
        super().__init__(call)
        self._workers = workers
        self._reading = False
        self._at_once = False  # whether the last bytes came without waiting

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while (event := await self._wait()) is not None:
            if isinstance(event, TextDelta):
                return event.text
        raise StopAsyncIteration

    def events(self) -> AsyncIterator[Event]:
        """Return an iterator of all that the answer tells, not its text only. Takes the place of iterating the stream.

        Iterating it raises `ChatAnywhereError` when the answer failed.
        """
        return _Events(self._wait)

    async def _wait(self) -> Event | None:
        """Wait until there is another event; None at the end."""
        with self._alone():
            while True:
                step = self._next()
                if step is Step.RECEIVE:
                    await self._arrival()
                elif step is Step.OPEN:
                    await self._opening()
                elif step is Step.PAUSE:
                    await anyio.lowlevel.checkpoint()
                elif step is Step.END:
                    return None
                else:
                    return step

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._reading:
            raise RuntimeError("another thread or task is reading this stream")
        self._reading = True
        try:
            yield
        finally:
            self._reading = False

    async def _opening(self) -> None:
        try:
            await self._workers.run(self._call, self._open)
        except ChatAnywhereError as error:
            self._fail(error)

    async def _arrival(self) -> None:
        """The loop's counterpart of `_receive`, which waits in a thread only where the loop can't."""
        answer = self._opened()
        sock = answer.waitable
        if sock is None:
            await self._workers.run(self._call, self._receive)
            return
        self._busy = True
        try:
            if self._at_once:  # a server that is faster than this program must not keep the loop to itself
                await anyio.lowlevel.checkpoint()
            self._at_once = True
            while True:
                limit = self._call.check()
                data = answer.receive_nowait(sock)
                if data is not None:
                    break
                self._at_once = False
                with anyio.move_on_after(limit) as scope:
                    await anyio.wait_readable(sock)
                if scope.cancelled_caught:
                    raise self._call.expire()
            self._accept(data)
        except ChatAnywhereError as error:
            self._reply.fail(error)
        except BaseException:
            self._call.cancel()
            raise
        finally:
            self._stop_waiting()

    async def aclose(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self.cancel()

    async def __aenter__(self) -> AsyncStream:
        with self._alone():
            if self._answer is None:
                if self._next() is not Step.OPEN:
                    raise RuntimeError("the stream could not be opened: make another call")
                await self._opening()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Events(AsyncIterator[Event]):
    """Not an async generator, which an event loop would have to finalise when it is left early."""

    def __init__(self, wait: Callable[[], Awaitable[Event | None]]) -> None:
        self._wait = wait

    async def __anext__(self) -> Event:
        event = await self._wait()
        if event is None:
            raise StopAsyncIteration
        return event


class AsyncClient:
    """The same client for asyncio and trio. Takes what `Client` takes, and

    Args:
        max_threads: how many worker threads may be opening streams at the same time. They are counted apart
            from those of the program.
    """

    def __init__(self, api_key: str | None = None, *, max_threads: int = 40, **settings: Any) -> None:
        self._share(Client(api_key, **settings), max_threads)

    @classmethod
    def from_sync(cls, client: Client, *, max_threads: int = 40) -> AsyncClient:
        """Make an async client that shares the connections of a blocking one."""
        self = cls.__new__(cls)
        self._share(client, max_threads)
        return self

    def _share(self, client: Client, max_threads: int) -> None:
        if max_threads < 1:
            raise ValueError(f"max_threads={max_threads}: a stream needs a thread to be opened")
        self._client = client
        self._workers = _Workers(max_threads)

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
        return AsyncStream(self._client._call(messages, model, timeout, retry, headers, options), self._workers)

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

    async def models(self) -> list[str]:
        """Ask the service which models it has; see `Client.models`."""
        call = self._client._models_call()
        return model_ids(await self._workers.run(call, call.read))

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
