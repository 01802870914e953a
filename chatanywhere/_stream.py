"""An answer on its way: read once, piece by piece, with the text so far at hand whatever happens."""

from __future__ import annotations

import copy
import functools
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeAlias, TypeVar

from ._accumulator import Accumulator
from ._call import Call, State, Step
from ._errors import ChatAnywhereError, OutputError, StreamCancelledError
from ._http.exchange import HTTPResponse
from ._policy import logger
from ._types import Completion, Event, Parsed, TextDelta

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

_WAITING = State.WAITING

Status: TypeAlias = Literal["open", "complete", "failed", "cancelled", "closed"]
"""What has become of a stream."""


class BaseStream(Generic[Parsed]):
    """What the blocking and the async stream have in common: all but the waiting."""

    def __init__(self, call: Call[Event], *, keep_text: bool) -> None:
        self._call = call
        self._keep_text = keep_text
        self._accumulator = Accumulator(keep_text=keep_text)
        self._outdated = False  # what it holds is an earlier attempt's
        self._closed = False  # before its end
        self._error: ChatAnywhereError | None = None  # with which it failed, without its traceback: that holds it
        self._over = False  # whoever has the stream knows that it has ended
        self._callbacks: list[Callable[[Any], object]] = []
        self._drop_chunks = not keep_text
        self._chunks: list[str] = []  # those of the attempt that `_new_chunks` has looked at, and
        self._given = 0  # how many of them it has given out
        self._parsed: Completion[Parsed] | None = None

    def _next(self) -> Event | Step:
        """Return the next event of what has arrived, or what has to be done to get one.

        Raises:
            ChatAnywhereError: the answer failed; every event that came before has been given out.
        """
        call = self._call
        if call.state is _WAITING and not call.scope.cancelled:
            self._refuse_second_reader()
        try:
            event = call.next()
            if isinstance(event, Step):
                if self._drop_chunks:
                    call.chunks.clear()
                if event is Step.OPEN:
                    self._outdated = True
                elif event is Step.END:
                    if self._outdated:
                        self._begin_anew()
                    self._call_back()
                return event
            if self._outdated:
                self._begin_anew()
            if self._accumulator.add(event):
                call.delivered = True
            return event
        except ChatAnywhereError as error:
            for arrived in call.arrived():  # what has arrived is text too
                if self._outdated:
                    self._begin_anew()
                self._accumulator.add(arrived)
            error.partial = self.text
            self._error = copy.copy(error)
            call.failed(error)
            self._call_back()
            raise
        except BaseException:
            call.cancel()  # an event may be lost, so nothing may follow it
            raise

    def _begin_anew(self) -> None:
        """Forget what an earlier attempt had brought: another one brings its own, from the beginning."""
        self._accumulator = Accumulator(keep_text=self._keep_text)
        self._outdated = False

    def _refuse_second_reader(self) -> NoReturn:
        """Say that another thread or task is reading; what has arrived is its to take.

        Raises:
            StreamCancelledError: the call was cancelled.
            RuntimeError: it was not.
        """
        if not self._call.scope.cancelled:
            raise RuntimeError("another thread or task is reading this stream")
        error = StreamCancelledError("the call was cancelled")
        error.partial = self.text
        self._call.annotate(error)
        raise error

    def _new_chunks(self) -> list[dict[str, Any]]:
        """Return the raw objects that have come since this was last asked."""
        chunks = self._call.chunks
        if chunks is not self._chunks:  # another attempt
            self._chunks, self._given = chunks, 0
        new = chunks[self._given :]
        if self._keep_text:
            self._given += len(new)
        else:
            chunks.clear()
        return [json.loads(chunk) for chunk in new]

    # What is known so far -----------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The text so far; stays readable after an error. Empty with `keep_text=False`."""
        return self._accumulator.text

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, so far."""
        return self._accumulator.reasoning

    @property
    def completion(self) -> Completion[Parsed]:
        """The whole answer.

        Raises:
            OutputError: it is no instance of the type that `response_format` asked for.
            RuntimeError: the stream has not been read to its end, or there will be none; the message says why.
        """
        status = self.status
        if status != "complete":
            failure = f"{type(self._error).__name__}: {self._error}"
            raise RuntimeError(f"the answer is not complete: {_WHY_INCOMPLETE[status].format(failure)}")
        whole: Completion[Any] = self._accumulator.completion(
            self.request_id, self._call.chunks, model=self._call.name or None
        )
        if self._call.output is None:
            return whole
        if self._parsed is None:
            try:
                self._parsed = self._call.output.read(whole)
            except OutputError as error:
                self._call.annotate(error)
                raise
        return self._parsed

    @property
    def status_code(self) -> int:
        """The HTTP status of the answer."""
        return self._response().status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer; keys are case-insensitive. A secret that the server repeats is `***`."""
        self._response()
        return self._call.headers

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the header `x-request-id`."""
        self._response()
        return self._call.request_id

    def _response(self) -> HTTPResponse:
        if self._call.response is None:
            raise RuntimeError("the stream has not been opened: enter it, or ask for its first piece")
        return self._call.response

    @property
    def status(self) -> Status:
        """What has become of it: `"open"`, `"complete"`, `"failed"`, `"cancelled"`, or `"closed"` before its end."""
        state = self._call.state
        if state is State.COMPLETE:
            return "complete"
        if state is State.FAILED:
            return "failed"
        if self._closed:
            return "closed"
        return "cancelled" if state is State.CANCELLED or self._call.scope.cancelled else "open"

    @property
    def error(self) -> ChatAnywhereError | None:
        """A copy of the error that it ended with, without traceback; None as long as there is none."""
        return self._error

    # Ending -------------------------------------------------------------------------------------------------

    def add_done_callback(self, function: Callable[[Self], object]) -> None:
        """Have a function called with the stream when it has ended, once, however that came: `status` tells.

        It is called by whoever learns of the end: the one who reads, closes, or lets go of the stream, before any error
        is raised. So after a `cancel()` it is the reader who calls it. If the stream has ended already, it is called
        now. What it raises is logged.

        Of a stream that is forgotten, the garbage collector may call it, in any thread and in the middle of anything:
        it must not wait for a lock then, and `queue.SimpleQueue.put` is a way to pass on what it is told.
        """
        self._callbacks.append(function)
        if self._over:
            self._call_back()

    def _call_back(self) -> None:
        """Tell those who wanted to know that the stream has ended."""
        self._over = True
        callbacks = self._callbacks
        while callbacks:
            with suppress(IndexError):  # another thread has called the last
                function = callbacks.pop(0)
                try:
                    function(self)
                except Exception:
                    logger.exception("a callback of a stream has failed")

    def cancel(self) -> None:
        """Stop at once, from any thread or task or a signal handler; a reader gets `StreamCancelledError`.

        Does nothing when the stream has ended already.
        """
        self._call.cancel(self.text)

    def _close(self) -> None:
        self._closed = self._closed or self.status == "open"
        self._call.close()

    def __del__(self) -> None:
        with suppress(Exception):  # nothing is to be done about it, and at exit modules may be gone
            self._call.close()
            self._call_back()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status}, {len(self.text)} characters>"


_WHY_INCOMPLETE = {
    "open": "read the stream to its end first",
    "failed": "the stream failed with {}",
    "cancelled": "the stream was cancelled; what had come is in its text",
    "closed": "the stream was closed before its end; read it to the end inside of the `with` block",
}


def leave_text(interrupt: BaseException, text: str) -> None:
    """Give what has interrupted a call from outside, such as Ctrl-C, the text so far as `partial`."""
    if not isinstance(interrupt, Exception):
        interrupt.partial = text  # type: ignore[attr-defined]


class Stream(BaseStream[Parsed]):
    """The answer to one call: an iterator of `str`, and a context manager. Made by `Client.stream`.

    Iterate it once, in one thread; `cancel()` may come from any other. Leaving the `with` block before the
    answer has ended closes its connection.

    Iterating raises `ChatAnywhereError`. What had been received by then is in the error's `partial`, and in
    `text`.
    """

    def __init__(self, call: Call[Event], *, keep_text: bool = True) -> None:
        super().__init__(call, keep_text=keep_text)
        self._turn = threading.Lock()  # held by the thread that reads
        while call.response is None:
            step = self._next()
            assert isinstance(step, Step), "there is no event before there is an answer"
            call.perform(step)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while (event := self._wait()) is not None:
            if isinstance(event, TextDelta) and not event.index:
                return event.text
        raise StopIteration

    def events(self) -> Iterator[Event]:
        """Yield all that the answer tells, not its text only. Takes the place of iterating the stream itself.

        Raises:
            ChatAnywhereError: the answer failed.
        """
        while (event := self._wait()) is not None:
            yield event

    def read(self) -> Completion[Parsed]:
        """Read to the end, and return the whole answer, with what has been read before.

        Raises:
            ChatAnywhereError: the answer failed.
            RuntimeError: it has failed before.
        """
        for _ in self:
            pass
        return self.completion

    def chunks(self) -> Iterator[dict[str, Any]]:
        """Yield the answer's JSON objects as the service sent them. Takes the place of iterating the stream itself.

        Raises:
            ChatAnywhereError: the answer failed.
        """
        self._drop_chunks = False
        while True:
            try:
                step = self._in_turn(self._next)
            except ChatAnywhereError:
                yield from self._new_chunks()
                raise
            yield from self._new_chunks()
            if step is Step.END:
                return
            if isinstance(step, Step):
                self._in_turn(functools.partial(self._call.perform, step))

    def _wait(self) -> Event | None:
        """Block until there is another event; None at the end."""
        return self._in_turn(self._next_event)

    def _next_event(self) -> Event | None:
        while isinstance(event := self._next(), Step):
            if event is Step.END:
                return None
            self._call.perform(event)
        return event

    def _in_turn(self, function: Callable[[], T]) -> T:
        """Do something that only one thread may do at a time."""
        mine = False
        try:
            mine = self._turn.acquire(blocking=False)
            if not mine:
                self._refuse_second_reader()
            return function()
        except BaseException:
            if mine and self.status != "open":  # Ctrl-C, for one, ends it
                self._call_back()
            raise
        finally:
            if mine:
                self._turn.release()

    def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self._close()
        if self._turn.acquire(blocking=False):  # else whoever reads learns of it
            try:
                self._call_back()
            finally:
                self._turn.release()

    def __enter__(self) -> Stream[Parsed]:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
