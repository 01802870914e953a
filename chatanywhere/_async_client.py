"""The blocking client for event loops; no protocol code.

A worker thread opens a stream: names, connection, TLS, proxy, the request, the head of the answer, other
attempts. For the body no thread is held: the loop waits for the socket, and what arrives goes through the
decoders that the blocking reader feeds. No cancel scope is open across a `yield`, so a stream may be read and
closed by different tasks.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._call import Call
from ._client import DEFAULT, Client, model_ids
from ._errors import ChatAnywhereError
from ._http.connections import Exchange
from ._http.receiver import Receiver, receiver, thread_safe
from ._http.transport import Answer
from ._policy import RetryLike, TimeoutLike
from ._stream import BaseStream, Step
from ._types import Completion, Event, Messages, TextDelta

T = TypeVar("T")

_TLS_RECORD = 16384  # bytes; TLS gives out no more at a time (RFC 8446, section 5.1)


# A semaphore belongs to an event loop. Clients outlive loops, and loops outlive clients.
_semaphores: anyio.lowlevel.RunVar[WeakKeyDictionary[Workers, anyio.Semaphore]] = anyio.lowlevel.RunVar(
    "chatanywhere_semaphores"
)


class Workers:
    """Worker threads, on each event loop at most `size` at a time, counted apart from those of the program."""

    def __init__(self, size: int) -> None:
        if not isinstance(size, int):
            raise TypeError(f"max_threads must be an int, not {type(size).__name__}")
        if size < 1:
            raise ValueError(f"max_threads={size}: a stream needs a thread to be opened")
        self._size = size

    async def run(self, exchange: Exchange, function: Callable[[], T]) -> T:
        """Do a blocking part of a call in a thread; a cancelled task leaves at once, and the thread soon after."""
        free = self._free()
        try:
            await _acquire(free, exchange)
            try:
                # The program's own work in threads has a limiter too; this one is never waited for.
                limiter = anyio.CapacityLimiter(1)
                return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
            finally:
                free.release()
        except ChatAnywhereError:
            raise
        except BaseException:
            exchange.cancel()  # what the thread waits for ends, and what it opened is closed
            raise

    def _free(self) -> anyio.Semaphore:
        """Count the free threads on the event loop that is running."""
        semaphores = _semaphores.get(None)
        if semaphores is None:
            semaphores = WeakKeyDictionary()
            _semaphores.set(semaphores)
        semaphore = semaphores.get(self)
        if semaphore is None:
            semaphore = semaphores[self] = anyio.Semaphore(self._size)
        return semaphore


async def _acquire(semaphore: anyio.Semaphore, exchange: Exchange) -> None:
    """Wait within the limits of a call, and only until it is cancelled."""
    acquired = False
    while not acquired:
        with anyio.CancelScope() as scope:
            exchange.wake = thread_safe(scope.cancel)
            try:
                limit = exchange.check()
                scope.deadline = math.inf if limit is None else anyio.current_time() + limit
                await semaphore.acquire()
                acquired = True
            finally:
                exchange.wake = None


class AsyncStream(BaseStream):
    """The answer to one call: an async iterator of `str`, and an async context manager.

    Made by `AsyncClient.stream`. Nothing is sent before it is entered or the first piece is asked for.
    """

    def __init__(self, call: Call, workers: Workers, *, keep_text: bool = True) -> None:
        super().__init__(call, keep_text=keep_text)
        self._workers = workers
        self._receiver: Receiver | None = None
        self._more = True  # there may be bytes that need not be waited for

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while True:
            event = self._next()
            if isinstance(event, TextDelta):
                return event.text
            if event is Step.END:
                raise StopAsyncIteration
            if isinstance(event, Step):
                await self._do(event)

    def events(self) -> AsyncIterator[Event]:
        """Return an iterator of all that the answer tells, not its text only. Takes the place of iterating the stream.

        Iterating it raises `ChatAnywhereError` when the answer failed.
        """
        return _Events(self)

    def _do(self, step: Step) -> Awaitable[None]:
        """Wait for what is needed before there is another event; a thread does where the loop can't."""
        if step is Step.PAUSE:
            return self._pause()
        if step is Step.OPEN:
            return self._in_thread(self._open)
        answer = self._opened()
        return self._in_thread(self._receive) if answer.waitable is None else self._in_loop(answer)

    async def _pause(self) -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self.cancel()
            raise

    async def _in_thread(self, function: Callable[[], None]) -> None:
        started = False

        def work() -> None:
            nonlocal started
            started = True
            function()

        self._busy = True
        try:
            await self._workers.run(self._exchange, work)
        except BaseException as error:
            if not started:  # else it has stopped waiting, or will soon
                self._stop_waiting()
            if isinstance(error, ChatAnywhereError):
                self._fail(error)
            self.cancel()
            raise

    async def _in_loop(self, answer: Answer) -> None:
        """The loop's counterpart of `_receive`."""
        current = self._receiver if self._receiver is not None and self._receiver.serves(answer) else None
        try:
            self._start_waiting()
            if current is None:
                current = self._receiver = receiver(answer)
                self._more = True
            limit = self._exchange.check()
            data = None
            if self._more:
                # A server that is faster than this program must not keep the loop to itself.
                await anyio.lowlevel.checkpoint()
                data = answer.receive_nowait()
            if data is None:
                data = await current.receive(limit)
            if data is None:
                raise self._exchange.expire()
            self._more = len(data) >= _TLS_RECORD
            self._accept(data)
        except ChatAnywhereError as error:
            self._reply.fail(error)
        except BaseException:
            self._exchange.cancel()
            raise
        finally:
            self._stop_waiting()

    def _close(self, answer: Answer) -> None:
        if self._receiver is not None and self._receiver.answer is answer:
            self._receiver.close()
        else:
            answer.close()

    async def aclose(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self.cancel()

    async def __aenter__(self) -> AsyncStream:
        if self._answer is None:
            if self._next() is not Step.OPEN:
                raise RuntimeError("the stream could not be opened: make another call")
            await self._do(Step.OPEN)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class _Events(AsyncIterator[Event]):
    """Not an async generator, which an event loop would have to finalise when it is left early."""

    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream

    async def __anext__(self) -> Event:
        while True:
            event = self._stream._next()
            if event is Step.END:
                raise StopAsyncIteration
            if not isinstance(event, Step):
                return event
            await self._stream._do(event)


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
        self._client = client
        self._workers = Workers(max_threads)

    def stream(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        keep_text: bool = True,
        **options: Any,
    ) -> AsyncStream:
        """Prepare a call; see `Client.stream` for the arguments. The time of `timeout` begins now."""
        call = self._client._call(messages, model, timeout, retry, headers, options)
        return AsyncStream(call, self._workers, keep_text=keep_text)

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
        return model_ids(await self._workers.run(call.exchange, call.read))

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
