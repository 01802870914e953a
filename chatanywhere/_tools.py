"""Functions as tools: what the model calls is run, and it is told the result, until it has no more calls.

`Rounds` decides what comes next, without I/O. The two streams, one for each kind of client, ask the client and run the
functions. They know the client by its public names only.
"""

from __future__ import annotations

import contextvars
import inspect
import math
import queue
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeAlias

from ._errors import APITimeoutError
from ._policy import Timeout
from ._protocols.protocol import as_messages
from ._schema import Function, to_json
from ._stream import leave_text
from ._types import Completion, Event, MessagesLike, Parsed, ToolCall, ToolEvent, ToolFinished, ToolRun, ToolStarted

if TYPE_CHECKING:
    from ._async_client import AsyncClient, AsyncStream
    from ._client import Client
    from ._stream import Stream

_MOST = 32
"""Functions that run at the same time; how many calls there are, the model says."""

_Step: TypeAlias = "ToolEvent | Sequence[ToolCall] | Awaitable[object] | None"


class Rounds:
    """One run: its conversation, its clock, and what comes next.

    Args:
        timeout: its `total` bounds the whole run.
        options: of each request.
        awaits: whether coroutine functions can be run. The other arguments are those of `Client.run_tools`.

    Attributes:
        messages: the conversation so far.
        stream: the answer that is being read, or was read last.
        completion: the last answer.
        over: there is nothing more to come.

    Raises:
        TypeError, ValueError: an argument can't be used.
    """

    def __init__(
        self,
        messages: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        *,
        max_rounds: int,
        parallel: bool,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None,
        timeout: Timeout,
        options: Mapping[str, Any],
        awaits: bool,
    ) -> None:
        self.messages: list[Any] = list(as_messages(messages))
        self.stream: Stream | AsyncStream | None = None
        self.completion: Completion | None = None
        self.over = False
        self._functions = _functions(tools, awaits=awaits)
        self._max_rounds = _checked(max_rounds)
        self._parallel = parallel
        self._on_round = on_round
        self._timeout = timeout
        self._deadline = None if timeout.total is None else monotonic() + timeout.total
        self._options = dict(options)
        self._awaits = awaits
        if on_round is not None and not callable(on_round):
            raise TypeError(f"on_round must be a function, not {type(on_round).__name__}")
        if inspect.iscoroutinefunction(on_round) and not awaits:
            raise TypeError("on_round is a coroutine function, which only AsyncClient can run")
        if not self._options.get("keep_text", True):
            raise ValueError("keep_text=False keeps no tool calls that could be run")

    def script(self) -> Generator[_Step, Any, None]:
        """Yield what comes next.

        That is an event to be given out; a tuple of calls to be run, whose outcomes are to be sent back, fewer if there
        was no time for all; what `on_round` returned, to be awaited; or None: the service is to be asked with
        `request()`, and the answer sent back.

        Raises:
            APITimeoutError: the time is up.
        """
        for rounds in range(self._max_rounds + 1):
            completion: Completion = yield None
            self.completion = completion
            self.messages.append(completion.message)
            calls = completion.tool_calls
            if not calls or rounds == self._max_rounds:
                break
            outcomes: dict[int, ToolFinished] = {}
            for batch in [calls] if self._parallel else [(call,) for call in calls]:
                for call in batch:
                    yield ToolStarted(call)
                new: list[ToolFinished] = yield batch
                for finished in new:
                    outcomes[id(finished.call)] = finished
                    yield finished
                if len(new) < len(batch):
                    raise self.expired()
            results = tuple(outcomes[id(call)] for call in calls)
            self.messages += map(tool_message, results)
            if self._on_round is not None:
                said = self._on_round(completion, results)
                if self._awaits and inspect.isawaitable(said):
                    yield said
            self._demand_no_more()
        self.over = True

    def _demand_no_more(self) -> None:
        """Let the model answer: what was demanded of it by `tool_choice` has been done. What it may call stays."""
        choice = self._options.get("tool_choice")
        if isinstance(choice, Mapping) and "allowed_tools" in choice:
            self._options["tool_choice"] = {**choice, "allowed_tools": {**choice["allowed_tools"], "mode": "auto"}}
        elif choice not in ("auto", "none"):
            self._options.pop("tool_choice", None)

    # Requests -----------------------------------------------------------------------------------------------

    def request(self) -> dict[str, Any]:
        """Return the arguments of the next request.

        Raises:
            APITimeoutError: the time is up.
        """
        definitions = [function.definition for function in self._functions.values()]
        timeout = replace(self._timeout, total=self.left())
        return {**self._options, "messages": self.messages, "tools": definitions, "timeout": timeout}

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let an error of a request that took the rest of the time tell the time of the whole run."""
        try:
            yield
        except APITimeoutError as error:
            if error.phase != "total":
                raise
            expired = self.expired()
            expired.partial, expired.request_id, expired.attempts = error.partial, error.request_id, error.attempts
            raise expired from error

    # Functions ----------------------------------------------------------------------------------------------

    def bind(self, call: ToolCall) -> tuple[Callable[[], Any], bool]:
        """Return the function of a call with its arguments, and whether it is a coroutine function.

        Raises:
            ValueError: there is none of that name, or they are not what it takes.
        """
        function = self._functions.get(call.name or "")
        if function is None:
            raise ValueError(f"there is no function {call.name}, only {', '.join(self._functions)}")
        return function.bind(call), function.awaitable

    def left(self) -> float | None:
        """Return the seconds that are left, None for no limit.

        Raises:
            APITimeoutError: there are none.
        """
        left = None if self._deadline is None else self._deadline - monotonic()
        if left is not None and left <= 0:
            raise self.expired()
        return left

    def expired(self) -> APITimeoutError:
        """Return the error that says that the time is up."""
        error = APITimeoutError(f"timeout: the run's {self._timeout.total} s ran out", "total")
        error.partial = self.text
        return error

    @property
    def text(self) -> str:
        """The text of the last answer so far."""
        if self.stream is not None:
            return self.stream.text
        return "" if self.completion is None else self.completion.text


def _functions(tools: Iterable[Callable[..., Any]], *, awaits: bool) -> dict[str, Function]:
    """The tools by their names."""
    if callable(tools) or not isinstance(tools, Iterable):
        raise TypeError("tools must be a list of functions: use tools=[function]")
    functions: dict[str, Function] = {}
    for index, tool in enumerate(tools):
        if isinstance(tool, Mapping):
            raise TypeError(
                f"tools[{index}] is a definition without a function to run: give the function, or use "
                "complete(tools=…) and run the calls yourself"
            )
        function = Function(tool)
        if function.awaitable and not awaits:
            raise TypeError(f"{function.name} is a coroutine function, which only AsyncClient can run")
        if function.name in functions:
            raise ValueError(f"two tools have the name {function.name}: rename one")
        functions[function.name] = function
    if not functions:
        raise ValueError("tools is empty: use complete(), or give functions")
    return functions


def _checked(max_rounds: int) -> int:
    if isinstance(max_rounds, bool) or not isinstance(max_rounds, int):
        raise TypeError(f"max_rounds must be an int, not {type(max_rounds).__name__}")
    if max_rounds < 0:
        raise ValueError(f"max_rounds={max_rounds}: 0 is the least, which runs no function")
    return max_rounds


def tool_message(finished: ToolFinished) -> dict[str, Any]:
    """Return the message that tells the model what became of a call."""
    return {"role": "tool", "tool_call_id": finished.call.id, "content": finished.content}


def _returned(call: ToolCall, result: Any) -> ToolFinished:
    """The outcome of a call whose function has returned.

    Raises:
        ValueError: what it returned has no JSON.
    """
    return ToolFinished(call, result, content=result if isinstance(result, str) else to_json(result))


def _failed(call: ToolCall, error: Exception) -> ToolFinished:
    try:
        words = str(error)
    except Exception:  # its class is the program's; the model has to be told something all the same
        words = "no words"
    return ToolFinished(call, error=error, content=f"{type(error).__name__}: {words}")


class BaseToolStream(Generic[Parsed]):
    """What the blocking and the async run have in common: all but the waiting."""

    def __init__(self, rounds: Rounds) -> None:
        self._rounds = rounds

    @property
    def text(self) -> str:
        """The text of the last answer so far."""
        return self._rounds.text

    @property
    def messages(self) -> list[Any]:
        """The conversation so far: what was asked, the answers, and what the functions returned."""
        return list(self._rounds.messages)

    @property
    def run(self) -> ToolRun[Parsed]:
        """What it all came to.

        Raises:
            RuntimeError: the run is not over, or has failed.
        """
        if not self._rounds.over:
            raise RuntimeError("the run is not complete: read it to its end first")
        assert self._rounds.completion is not None
        return ToolRun(self._rounds.completion, self.messages)

    def _leave_text(self, interrupt: BaseException) -> None:
        if not hasattr(interrupt, "partial"):  # which an interrupted request has left
            leave_text(interrupt, self.text)


class ToolStream(BaseToolStream[Parsed]):
    """The events of a run: an iterator, and a context manager. Made by `Client.stream_tools`.

    Iterating raises `ChatAnywhereError`.
    """

    def __init__(self, client: Client, rounds: Rounds, *, whole: bool = False) -> None:
        super().__init__(rounds)
        self._events = _events(client, rounds, whole)

    def __iter__(self) -> Iterator[ToolEvent]:
        return self

    def __next__(self) -> ToolEvent:
        if inspect.getgeneratorstate(self._events) == inspect.GEN_RUNNING:
            raise RuntimeError("another thread is reading this run")
        return next(self._events)

    def read(self) -> ToolRun[Parsed]:
        """Read to the end, and return what it all came to.

        Raises:
            ChatAnywhereError: a request failed, or the time is up.
            RuntimeError: the run has failed before.
        """
        try:
            for _ in self:
                pass
        except BaseException as interrupt:
            self._leave_text(interrupt)
            raise
        return self.run

    def close(self) -> None:
        """Release the connection; a run that has not ended goes no further. May be called again.

        Raises:
            RuntimeError: another thread is reading the run.
        """
        if inspect.getgeneratorstate(self._events) == inspect.GEN_RUNNING:
            raise RuntimeError("another thread is reading this run, which ends there, or by its timeout")
        self._events.close()

    def __enter__(self) -> ToolStream[Parsed]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _events(client: Client, rounds: Rounds, whole: bool) -> Generator[ToolEvent, None, None]:
    """Play the script; with `whole`, answers are not given out piece by piece."""
    script = rounds.script()
    answer: Any = None  # to what the script wants
    while True:
        try:
            step: Any = script.send(answer)
        except StopIteration:
            return
        if step is None:
            request = rounds.request()
            with rounds.asking():
                answer = client.complete(**request) if whole else (yield from _answer(client, rounds, request))
        elif isinstance(step, tuple):
            answer = _run(rounds, step)
        else:
            answer = None
            yield step


def _answer(client: Client, rounds: Rounds, request: dict[str, Any]) -> Generator[Event, None, Completion]:
    with client.stream(**request) as stream:
        rounds.stream = stream
        yield from stream.events()
        return stream.completion


def _run(rounds: Rounds, calls: Sequence[ToolCall]) -> list[ToolFinished]:
    """Run functions until the time is up, in threads, for these can be left alone then."""
    waiting = deque(calls)
    mailbox: queue.SimpleQueue[ToolFinished | BaseException] = queue.SimpleQueue()

    def work() -> None:
        with suppress(IndexError):
            while True:
                mailbox.put(_outcome(rounds, waiting.popleft()))

    outcomes: list[ToolFinished] = []
    rounds.left()
    try:
        for _ in calls[:_MOST]:
            context = contextvars.copy_context()
            threading.Thread(target=context.run, args=(work,), name="chatanywhere tool", daemon=True).start()
        while len(outcomes) < len(calls):
            outcome = mailbox.get(timeout=rounds.left())
            if isinstance(outcome, BaseException):
                raise outcome
            outcomes.append(outcome)
    except (APITimeoutError, queue.Empty):
        pass  # the script says it, behind what has finished
    finally:
        waiting.clear()
    return outcomes


def _outcome(rounds: Rounds, call: ToolCall) -> ToolFinished | BaseException:
    try:
        function, _ = rounds.bind(call)
        return _returned(call, function())
    except Exception as error:
        return _failed(call, error)
    except BaseException as error:  # such as SystemExit, which is meant for the program
        return error


class AsyncToolStream(BaseToolStream[Parsed]):
    """The events of a run: an async iterator, and an async context manager. Made by `AsyncClient.stream_tools`.

    Iterating raises `ChatAnywhereError`.
    """

    def __init__(self, client: AsyncClient, rounds: Rounds, *, whole: bool = False) -> None:
        super().__init__(rounds)
        self._client = client
        self._whole = whole
        self._script = rounds.script()
        self._answer: Any = None  # to what the script wanted
        self._is_read = False  # by a task
        self._events: AsyncIterator[Event] | None = None  # of the answer that is being read

    def __aiter__(self) -> AsyncIterator[ToolEvent]:
        return self

    async def __anext__(self) -> ToolEvent:
        if self._is_read:
            raise RuntimeError("another task is reading this run")
        self._is_read = True
        try:
            while True:
                event = await self._next()
                if event is not None:
                    return event
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._is_read = False

    async def _next(self) -> ToolEvent | None:
        """Do one thing; return an event if it gave one."""
        rounds = self._rounds
        if self._events is not None:
            stream: Any = rounds.stream
            with rounds.asking():
                with suppress(StopAsyncIteration):
                    return await self._events.__anext__()
                self._answer = stream.completion
            self._events = None
        try:
            step: Any = self._script.send(self._answer)
        except StopIteration:
            raise StopAsyncIteration from None
        self._answer = None
        if step is None:
            request = rounds.request()
            if self._whole:
                with rounds.asking():
                    self._answer = await self._client.complete(**request)
            else:
                rounds.stream = self._client.stream(**request)
                self._events = rounds.stream.events()
        elif isinstance(step, tuple):
            self._answer = await _run_async(rounds, step)
        elif inspect.isawaitable(step):
            await step
        else:
            event: ToolEvent = step
            return event
        return None

    async def read(self) -> ToolRun[Parsed]:
        """Read to the end, and return what it all came to; see `ToolStream.read`."""
        try:
            async for _ in self:
                pass
        except BaseException as interrupt:
            self._leave_text(interrupt)
            raise
        return self.run

    async def aclose(self) -> None:
        """Release the connection; a run that has not ended goes no further. May be called again."""
        self._script.close()
        self._events = None
        stream: Any = self._rounds.stream
        if stream is not None:
            await stream.aclose()

    async def close(self) -> None:
        """Another name of `aclose`."""
        await self.aclose()

    async def __aenter__(self) -> AsyncToolStream[Parsed]:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


async def _run_async(rounds: Rounds, calls: Sequence[ToolCall]) -> list[ToolFinished]:
    """Run coroutine functions on the loop, and others in threads, until the time is up."""
    import anyio  # here and below, for the blocking client does without

    outcomes: list[ToolFinished] = []
    failures: list[BaseException] = []
    free = anyio.Semaphore(_MOST)
    left = rounds.left()

    async def work(call: ToolCall) -> None:
        async with free:
            try:
                outcomes.append(await _outcome_async(rounds, call))
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # the group would put it into another one
                failures.append(error)
                group.cancel_scope.cancel()

    try:
        with anyio.move_on_after(left):
            async with anyio.create_task_group() as group:
                for call in calls:
                    group.start_soon(work, call)
    except BaseException as error:
        # Ctrl-C strikes trio where the group waits.
        failures += [each for each in getattr(error, "exceptions", ()) if isinstance(each, KeyboardInterrupt)]
        if not failures:
            raise
    if failures:
        raise failures[0]
    return outcomes


async def _outcome_async(rounds: Rounds, call: ToolCall) -> ToolFinished:
    import anyio

    try:
        function, awaitable = rounds.bind(call)
        result = await (function() if awaitable else _in_thread(function))
        if inspect.isawaitable(result):
            result = await result
        return _returned(call, result)
    except Exception as error:
        return _failed(call, error)
    except anyio.get_cancelled_exc_class():
        if anyio.current_effective_deadline() == -math.inf:
            raise
        # It is not the run that is cancelled, but a task of asyncio's that the function has waited for.
        return _failed(call, RuntimeError(f"{call.name} was cancelled"))


async def _in_thread(function: Callable[[], Any]) -> Any:
    """Run a function in a thread that nobody waits for: anyio waits for its own when the program ends."""
    import anyio
    import anyio.to_thread

    mailbox: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            mailbox.put((function(), None))
        except BaseException as error:
            mailbox.put((None, error))

    def wait() -> tuple[Any, BaseException | None]:
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(work,), name="chatanywhere tool", daemon=True).start()
        return mailbox.get()

    try:
        # The program's own work in threads has a limiter too; this one is never waited for.
        limiter = anyio.CapacityLimiter(1)
        result, error = await anyio.to_thread.run_sync(wait, abandon_on_cancel=True, limiter=limiter)
    finally:
        mailbox.put((None, None))  # what waits for a function that has been left alone ends
    if error is not None:
        raise error
    return result
