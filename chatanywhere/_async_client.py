"""The blocking client for event loops; no protocol code.

A worker thread makes a connection: names, TCP, TLS, proxy. No thread is held for the rest: the loop waits for the
socket, and what arrives goes through the decoders that the blocking reader feeds. No cancel scope is open across a
`yield`, so a stream may be read and closed by different tasks.
"""

from __future__ import annotations

import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, overload
from weakref import WeakKeyDictionary

import anyio
import anyio.lowlevel
import anyio.to_thread

from ._call import Call, State, Step, Waiting
from ._config import Model, Settings, Url
from ._errors import ChatAnywhereError
from ._http.exchange import Exchange
from ._http.receiver import Receiver, receiver, thread_safe
from ._http.scope import CallScope
from ._policy import DEFAULT, Retry, RetryLike, Timeout, TimeoutLike
from ._service import Service
from ._stream import BaseStream, leave_text
from ._types import Completion, Event, MessagesLike, Parsed, TextDelta

if TYPE_CHECKING:
    from distributed import Client as DaskClient
    from typing_extensions import Unpack

    from ._account import Balance, UsageRecord
    from ._batch.async_run import AsyncRun
    from ._batch.limits import Limits
    from ._batch.progress import Progress
    from ._batch.run import MapOptions
    from ._conversation.async_conversation import AsyncConversation
    from ._embeddings import Embeddings
    from ._group import CallGroup
    from ._request import Files, RawResponse
    from ._tools import AsyncToolStream
    from ._types import ResponseFormat, ToolFinished, ToolRun, Wanted
    from .typing import ChatOptions

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

    def copy(self) -> Workers:
        """Return as many others."""
        return Workers(self._size)

    async def run(self, scope: CallScope, function: Callable[[], T]) -> T:
        """Do a blocking part of a call in a thread; a cancelled task leaves at once, and the thread soon after."""
        free = self._free()
        try:
            await _acquire(free, scope)
            try:
                # The program's own work in threads has a limiter too; this one is never waited for.
                limiter = anyio.CapacityLimiter(1)
                return await anyio.to_thread.run_sync(function, abandon_on_cancel=True, limiter=limiter)
            finally:
                free.release()
        except ChatAnywhereError:
            raise
        except BaseException:
            scope.cancel()  # what the thread waits for ends, and what it opened is closed
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


@contextmanager
def _until_cancelled(scope: CallScope) -> Iterator[anyio.CancelScope]:
    """What is awaited inside ends when the call is cancelled; whether it is already has to be asked inside."""
    with anyio.CancelScope() as waiting:
        scope.wake = thread_safe(waiting.cancel)
        try:
            yield waiting
        finally:
            scope.wake = None


async def _acquire(semaphore: anyio.Semaphore, scope: CallScope) -> None:
    """Wait within the limits of a call, and only until it is cancelled."""
    acquired = False
    while not acquired:
        with _until_cancelled(scope) as waiting:
            limit = scope.check()
            if limit == 0:
                raise scope.expire()
            waiting.deadline = math.inf if limit is None else anyio.current_time() + limit
            await semaphore.acquire()
            acquired = True


async def _sleep(scope: CallScope, seconds: float) -> None:
    """The loop's counterpart of `CallScope.sleep`."""
    with _until_cancelled(scope):
        if not scope.cancelled:
            await anyio.sleep(seconds)
    scope.raise_if_cancelled()


class Driver(Generic[T]):
    """Does the waiting of a call on an event loop."""

    def __init__(self, call: Call[T], workers: Workers) -> None:
        self._call = call
        self._workers = workers
        self._waiting = Waiting(call)
        self._receiver: Receiver | None = None
        self._more = False  # there may be bytes that need not be waited for

    def perform(self, step: Step) -> Awaitable[None]:
        """Do what `Call.next` asked for; a thread does where the loop can't."""
        call = self._call
        if step is Step.RECEIVE:
            assert call.exchange is not None
            return self._in_thread(call.receive) if call.exchange.waitable is None else self._receive()
        if step is Step.OPEN:
            return self._open()
        if step is Step.SEND:
            return self._in_thread(call.send)
        return self._wait() if step is Step.WAIT else self._pause()

    async def read(self) -> T:
        """Wait for the whole answer; see `Call.read`."""
        values: list[T] = []
        try:
            while (event := self._call.next()) is not Step.END:
                if isinstance(event, Step):
                    await self.perform(event)
                else:
                    values.append(event)
        except ChatAnywhereError as error:
            self._call.failed(error)
            raise
        finally:
            self._call.cancel()
        return values[-1]

    async def _pause(self) -> None:
        try:
            await anyio.lowlevel.checkpoint()
        except BaseException:
            self._call.cancel()
            raise

    async def _wait(self) -> None:
        call = self._call
        with self._waiting:
            call.start_waiting()
            await _sleep(call.scope, call.wait)
            call.wait = 0.0

    async def _open(self) -> None:
        if not self._call.open_now():
            await self._in_thread(self._call.open)

    async def _in_thread(self, function: Callable[[], None]) -> None:
        call = self._call
        started = False

        def work() -> None:
            nonlocal started
            started = True
            function()

        try:
            call.start_waiting()
            await self._workers.run(call.scope, work)
        except ChatAnywhereError as error:  # no thread was free in time, or the call was cancelled
            call.stop_waiting(error)
        except BaseException as error:
            if not started:  # else the thread has stopped waiting, or will soon
                call.stop_waiting(error)
            call.cancel()
            raise

    async def _receive(self) -> None:
        """The loop's counterpart of `Call.receive`."""
        call = self._call
        exchange = call.exchange
        assert isinstance(exchange, Exchange)
        current = self._receiver
        if current is not None and not current.serves(exchange):
            current = None
        with self._waiting:
            call.start_waiting()
            if current is None:
                current = self._receiver = receiver(exchange)
                call.watcher = current
                self._more = False
            limit = call.scope.check()
            data = None
            if self._more:
                # A server that is faster than this program must not keep the loop to itself.
                await anyio.lowlevel.checkpoint()
                data = exchange.receive_nowait()
            if data is None:
                await current.wait(limit)
                data = current.taken()
            if data is None:
                data = exchange.receive_nowait()  # the process may have stood still since it arrived
            if data is None:
                raise call.scope.expire()
            self._more = len(data) >= _TLS_RECORD
            call.accept(data)


class AsyncStream(BaseStream[Parsed]):
    """The answer to one call: an async iterator of `str`, and an async context manager.

    Made by `AsyncClient.stream`. Nothing is sent before it is entered or the first piece is asked for.
    """

    def __init__(self, call: Call[Event], workers: Workers, *, keep_text: bool = True) -> None:
        super().__init__(call, keep_text=keep_text)
        self._driver = Driver(call, workers)

    def __aiter__(self) -> AsyncIterator[str]:
        return self

    async def __anext__(self) -> str:
        while True:
            event = self._next()
            if isinstance(event, TextDelta) and not event.index:
                return event.text
            if event is Step.END:
                raise StopAsyncIteration
            if isinstance(event, Step):
                await self._perform(event)

    async def _perform(self, step: Step) -> None:
        try:
            await self._driver.perform(step)
        except BaseException:
            if self.status != "open":  # a task that is cancelled ends it
                self._call_back()
            raise

    def events(self) -> AsyncIterator[Event]:
        """Return an iterator of all that the answer tells, not its text only. Takes the place of iterating the stream.

        Iterating it raises `ChatAnywhereError` when the answer failed.
        """
        return _Events(self)

    async def read(self) -> Completion[Parsed]:
        """Read to the end, and return the whole answer; see `Stream.read`."""
        async for _ in self:
            pass
        return self.completion

    def chunks(self) -> AsyncIterator[dict[str, Any]]:
        """Return an iterator of the answer's JSON objects as the service sent them. Takes the place of iterating.

        Iterating it raises `ChatAnywhereError` when the answer failed.
        """
        return _Chunks(self)

    async def aclose(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self._close()
        if self._call.state is not State.WAITING:  # else whoever reads learns of it
            self._call_back()

    async def close(self) -> None:
        """Another name of `aclose`."""
        await self.aclose()

    async def __aenter__(self) -> AsyncStream[Parsed]:
        while self._call.response is None:
            step = self._next()
            if step is Step.END:
                raise RuntimeError("the stream could not be opened: make another call")
            assert isinstance(step, Step), "there is no event before there is an answer"
            await self._perform(step)
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
            await self._stream._perform(event)


class _Chunks(AsyncIterator[dict[str, Any]]):
    """The raw objects of a stream."""

    def __init__(self, stream: AsyncStream) -> None:
        self._stream = stream
        self._waiting: Iterator[dict[str, Any]] = iter(())
        self._error: ChatAnywhereError | None = None
        stream._drop_chunks = False

    async def __anext__(self) -> dict[str, Any]:
        stream = self._stream
        over = False
        while True:
            chunk = next(self._waiting, None)
            if chunk is not None:
                return chunk
            error, self._error = self._error, None
            if error is not None:
                raise error
            if over:
                raise StopAsyncIteration
            try:
                event = stream._next()
                over = event is Step.END
            except ChatAnywhereError as exc:  # what came before it goes first
                self._error = exc
                event = Step.END
            self._waiting = iter(stream._new_chunks())
            if isinstance(event, Step) and event is not Step.END:
                await stream._perform(event)


class AsyncClient:
    """The same client for asyncio and trio. Takes what `Client` takes, and

    Args:
        max_threads: how many worker threads may be opening streams at the same time. They are counted apart
            from those of the program.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: Url | None = None,
        protocol: Literal["openai", "web"] = "openai",
        model: Model | None = None,
        timeout: TimeoutLike = Timeout(),  # noqa: B008  frozen
        retry: RetryLike = Retry(),  # noqa: B008  frozen
        proxy: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = DEFAULT,
        keepalive_expiry: float | None = 30.0,
        observers: Iterable[object] = (),
        max_threads: int = 40,
    ) -> None:
        settings = Settings(
            api_key=api_key,
            base_url=base_url,
            protocol=protocol,
            model=model,
            timeout=timeout,
            retry=retry,
            proxy=proxy,
            verify=verify,
            headers=headers,
            max_response_bytes=max_response_bytes,
            keepalive_expiry=keepalive_expiry,
            observers=observers,
        )
        settings.check_key()
        self._service = Service(settings)
        self._workers = Workers(max_threads)

    @classmethod
    def _sharing(cls, service: Service, max_threads: int) -> AsyncClient:
        """Make one that shares the connections of a blocking client."""
        self = cls.__new__(cls)
        self._service = service
        self._workers = Workers(max_threads)
        return self

    def stream(
        self,
        messages: str | MessagesLike,
        *,
        model: Model | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = DEFAULT,
        keep_text: bool = True,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Unpack[ChatOptions],
    ) -> AsyncStream[Wanted]:
        """Prepare a call; see `Client.stream` for the arguments. The time of `timeout` begins now."""
        call = self._service.chat(
            messages,
            model=model,
            timeout=timeout,
            retry=retry,
            headers=headers,
            max_response_bytes=max_response_bytes,
            extra_headers=extra_headers,
            extra_query=extra_query,
            extra_body=extra_body,
            response_format=response_format,
            keep_text=keep_text,
            options=options,
        )
        return AsyncStream(call, self._workers, keep_text=keep_text)

    async def complete(
        self,
        messages: str | MessagesLike,
        *,
        model: Model | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = DEFAULT,
        stream: bool | None = True,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Unpack[ChatOptions],
    ) -> Completion[Wanted]:
        """Ask, and return the whole answer; see `Client.complete`.

        What cancels the task, and whatever else interrupts it from outside, has the text so far as `partial`.
        """
        call = self._service.chat(
            messages,
            model=model,
            timeout=timeout,
            retry=retry,
            headers=headers,
            max_response_bytes=max_response_bytes,
            extra_headers=extra_headers,
            extra_query=extra_query,
            extra_body=extra_body,
            response_format=response_format,
            stream=stream,
            kept_back=True,
            options=options,
        )
        answer: AsyncStream[Wanted] = AsyncStream(call, self._workers)
        try:
            async with answer:
                return await answer.read()
        except BaseException as interrupt:
            leave_text(interrupt, answer.text)
            raise

    async def run_tools(
        self,
        messages: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        *,
        max_rounds: int = 8,
        parallel: bool = False,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None = None,
        timeout: TimeoutLike = DEFAULT,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> ToolRun[Wanted]:
        """Ask, and run the functions that the model calls; see `Client.run_tools`.

        Coroutine functions are awaited, others run in threads. `on_round` may be a coroutine function, too.
        """
        from ._tools import AsyncToolStream, Rounds

        rounds = Rounds(
            messages,
            tools,
            max_rounds=max_rounds,
            parallel=parallel,
            on_round=on_round,
            timeout=self._service.settings.limits(timeout),
            options={"response_format": response_format, **options},
            awaits=True,
        )
        run: AsyncToolStream[Wanted] = AsyncToolStream(self, rounds, whole=True)
        return await run.read()

    def stream_tools(
        self,
        messages: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        *,
        max_rounds: int = 8,
        parallel: bool = False,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None = None,
        timeout: TimeoutLike = DEFAULT,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> AsyncToolStream[Wanted]:
        """Do what `run_tools` does, and return all that happens as events; see `Client.stream_tools`."""
        from ._tools import AsyncToolStream, Rounds

        rounds = Rounds(
            messages,
            tools,
            max_rounds=max_rounds,
            parallel=parallel,
            on_round=on_round,
            timeout=self._service.settings.limits(timeout),
            options={"response_format": response_format, **options},
            awaits=True,
        )
        return AsyncToolStream(self, rounds)

    def conversation(
        self,
        system: str | None = None,
        *,
        messages: MessagesLike = (),
        model: Model | None = None,
        max_messages: int | None = None,
        max_chars: int | None = None,
        **options: Any,
    ) -> AsyncConversation:
        """Begin a conversation; see `Client.conversation`."""
        from ._conversation.async_conversation import AsyncConversation

        return AsyncConversation(
            self,
            system,
            messages=messages,
            model=model,
            max_messages=max_messages,
            max_chars=max_chars,
            **options,
        )

    def map(
        self,
        prompts: Iterable[str | MessagesLike | Mapping[str, Any]],
        *,
        journal: str | os.PathLike[str] | None = None,
        concurrency: int = 16,
        limits: Limits | None = None,
        order: Literal["input", "done"] = "input",
        ahead: int | None = None,
        errors: Literal["return", "raise"] = "return",
        max_errors: int | None = None,
        on_quota: Literal["stop", "wait"] = "stop",
        reuse: bool = False,
        retry_failed: bool = True,
        progress: bool | Callable[[Progress], object] | None = None,
        prices: Mapping[str, tuple[float, float]] | None = None,
        executor: DaskClient | None = None,
        model: Model | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> AsyncRun[Wanted]:
        """Ask many prompts, some at a time, and return an async iterator of their `Result`s; see `Client.map`.

        The calls are made by threads, as many as `concurrency` says, whatever `max_threads` is; the event loop has only
        the results to take.
        """
        from ._batch.async_run import AsyncRun

        run: MapOptions = {
            "journal": journal,
            "concurrency": concurrency,
            "limits": limits,
            "order": order,
            "ahead": ahead,
            "errors": errors,
            "max_errors": max_errors,
            "on_quota": on_quota,
            "reuse": reuse,
            "retry_failed": retry_failed,
            "progress": progress,
            "prices": prices,
            "executor": executor,
        }
        call = {"model": model, "timeout": timeout, "retry": retry, "response_format": response_format, **options}
        return AsyncRun(self._service, prompts, run, call)

    async def models(
        self,
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Ask the service which models it has; see `Client.models`."""
        from ._account import MODELS

        return await self._read(self._service.ask(MODELS, timeout=timeout, retry=retry, headers=headers))

    async def embed(
        self,
        texts: str | Iterable[str],
        *,
        model: str = "text-embedding-3-small",
        dimensions: int | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Embeddings:
        """Return the embeddings of texts; see `Client.embed`."""
        from ._embeddings import embedding_calls, joined

        calls = embedding_calls(self._service, texts, model, dimensions, timeout=timeout, retry=retry, headers=headers)
        return joined(await self._read_all(calls), model)

    async def balance(
        self,
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Balance:
        """Return what the account of the key holds; see `Client.balance`."""
        from ._account import BALANCE

        return await self._read(self._service.ask(BALANCE, {}, timeout=timeout, retry=retry, headers=headers))

    async def usage(
        self,
        hours: int = 24,
        model: str = "%",
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> list[UsageRecord]:
        """Return what the key has used of late; see `Client.usage`."""
        from ._account import USAGE, usage_body

        body = usage_body(model, hours=hours)
        return await self._read(self._service.ask(USAGE, body, timeout=timeout, retry=retry, headers=headers))

    async def usage_by_day(
        self,
        days: int = 5,
        model: str = "%",
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> list[UsageRecord]:
        """Return what the key has used on each of the last days; see `Client.usage_by_day`."""
        from ._account import USAGE_BY_DAY, usage_body

        body = usage_body(model, days=days)
        return await self._read(self._service.ask(USAGE_BY_DAY, body, timeout=timeout, retry=retry, headers=headers))

    async def ping(
        self, *, timeout: TimeoutLike = DEFAULT, headers: Mapping[str, str] | None = None
    ) -> dict[str, float | None]:
        """Return how soon each host has answered; see `Client.ping`."""
        from ._account import Ping

        ping = Ping(self._service, timeout=timeout, headers=headers)
        return ping.seconds(await self._read_all(ping.calls))

    @overload
    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        raw: Literal[True],
        query: Mapping[str, Any] | None = None,
        files: Files | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> RawResponse: ...
    @overload
    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        files: Files | None = None,
        raw: Literal[False] = False,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Any: ...
    async def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        files: Files | None = None,
        raw: bool = False,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask any endpoint; see `Client.request`. Files are read by a worker thread."""
        from ._request import any_call, result

        prepare = partial(
            any_call,
            self._service,
            method,
            path,
            json,
            query=query,
            files=files,
            raw=raw,
            timeout=timeout,
            retry=retry,
            headers=headers,
        )
        call = await anyio.to_thread.run_sync(prepare, abandon_on_cancel=True) if files else prepare()
        return result(call, await self._read(call))

    async def _read(self, call: Call[T]) -> T:
        return await Driver(call, self._workers).read()

    async def _read_all(self, calls: CallGroup[T]) -> list[T]:
        """Wait for all of them; the counterpart of `CallGroup.read`."""
        errors: list[BaseException] = []

        async def work() -> None:
            try:
                while (call := calls.take()) is not None:
                    try:
                        calls.put(call, await self._read(call))
                    except ChatAnywhereError as error:
                        calls.settle(call, error)
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # which is to come out alone, not in an ExceptionGroup
                errors.append(error)
                tasks.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as tasks:
                for _ in range(calls.size):
                    tasks.start_soon(work)
            if errors:
                raise errors[0]
        finally:
            errors.clear()  # their tracebacks hold this frame
        return calls.values

    async def aclose(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self._service.close()

    async def close(self) -> None:
        """Another name of `aclose`."""
        await self.aclose()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"AsyncClient({self._service.describe()})"

    def __copy__(self) -> AsyncClient:
        duplicate = type(self).__new__(type(self))
        vars(duplicate).update(vars(self), _service=Service(self._service.settings), _workers=self._workers.copy())
        return duplicate

    def __deepcopy__(self, memo: dict[int, Any]) -> AsyncClient:
        import copy

        duplicate = self.__copy__()
        memo[id(self)], memo[id(self._service)] = duplicate, duplicate._service
        vars(duplicate).update(copy.deepcopy(vars(self), memo))  # what a subclass has added
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        return {"workers": self._workers, **self._service.settings.arguments()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._workers = state.pop("workers")
        self._service = Service(Settings(**state))
