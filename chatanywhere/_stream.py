"""An answer on its way: read once, piece by piece, with the text so far at hand whatever happens."""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import TracebackType
from typing import NoReturn

from ._call import Call
from ._errors import ChatAnywhereError, StreamCancelledError
from ._http.transport import Answer
from ._reply import Reply
from ._types import Completion, Event, TextDelta


class Step(enum.Enum):
    """What a reader has to do before there is another event."""

    OPEN = enum.auto()
    RECEIVE = enum.auto()
    PAUSE = enum.auto()  # nothing; but decoding goes on for so long that an event loop wants its turn
    END = enum.auto()  # nothing: the answer is over


class BaseStream:
    """What the blocking and the async stream have in common: all but the waiting.

    Between `_next`, which gives out what has arrived, and the blocking `_open` and `_receive`, a reader has only
    to decide where to wait.
    """

    def __init__(self, call: Call, *, keep_text: bool) -> None:
        self._call = call
        self._exchange = call.exchange
        self._reply = Reply(keep_text=keep_text)
        self._answer: Answer | None = None
        self._pending: Iterator[Event | None] = iter(())
        self._ended = False
        self._busy = False
        self._releasing = threading.RLock()  # reentrant, because a signal handler may cancel what it interrupts

    # Reading ------------------------------------------------------------------------------------------------

    def _next(self) -> Event | Step:
        """Return the next event of what has arrived, or what has to be done to get one.

        Raises:
            ChatAnywhereError: the answer failed; every event that came before has been given out.
        """
        if self._ended:
            return Step.END
        if self._exchange.cancelled:
            self._fail(StreamCancelledError("the call was cancelled"))
        if self._busy:
            raise RuntimeError("another thread or task is reading this stream")
        try:
            event = next(self._pending, Step.END)
        except BaseException:  # Ctrl-C while decoding: what was being decoded is lost, so nothing may follow it
            self.cancel()
            raise
        reply = self._reply
        if event is None:
            try:
                self._exchange.check()
            except ChatAnywhereError as error:
                self._pending = iter(())
                reply.fail(error)
            return Step.PAUSE
        if event is not Step.END:
            return event
        if reply.error is not None:
            if reply.delivered:
                self._fail(reply.error)
            self._release()
            return Step.OPEN
        if reply.over:
            self._release()
            self._ended = True
            return Step.END
        if self._answer is None:
            return Step.OPEN
        if reply.done:
            self._exchange.linger()
        return Step.RECEIVE

    def _open(self) -> None:
        """Block until an attempt has been answered."""
        try:
            self._start_waiting()
            self._answer = None
            self._answer, decoder = self._call.open(self._reply.error)
        except ChatAnywhereError as error:
            self._fail(error)
        except BaseException:
            self._exchange.cancel()
            raise
        else:
            body = self._answer.body
            self._reply.begin(body, decoder)
            if body.complete:  # an answer without one
                self._accept(b"")
        finally:
            self._stop_waiting()

    def _receive(self) -> None:
        """Block until more of the answer has come."""
        assert self._answer is not None
        try:
            self._start_waiting()
            self._accept(self._answer.receive())
        except ChatAnywhereError as error:
            self._reply.fail(error)
        except BaseException:
            self._exchange.cancel()
            raise
        finally:
            self._stop_waiting()

    def _accept(self, data: bytes) -> None:
        """Take what the connection gave; `b""` says that it has ended."""
        self._pending = self._reply.feed(data)

    def _start_waiting(self) -> None:
        """From now until `_stop_waiting`, only the reader may close the connection; `cancel()` wakes it.

        What is being waited for must not be closed: its descriptor might become another connection's.

        Raises:
            StreamCancelledError: the call has been cancelled already, and the connection perhaps closed.
        """
        with self._releasing:
            self._busy = True
        if self._exchange.cancelled:
            raise StreamCancelledError("the call was cancelled")

    def _stop_waiting(self) -> None:
        self._busy = False
        if self._exchange.cancelled:
            self._release()

    def _fail(self, error: ChatAnywhereError) -> NoReturn:
        for event in self._pending:  # what has arrived is text too
            if event is None:
                break
        self._ended = True
        self._release()
        error.partial = self.text
        self._call.annotate(error)
        if error.request_id is None and self._answer is not None:
            error.request_id = self.request_id
        raise error

    # What is known so far -----------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The text so far; stays readable after an error. Empty with `keep_text=False`."""
        return self._reply.text

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, so far."""
        return self._reply.reasoning

    @property
    def completion(self) -> Completion:
        """The whole answer.

        Raises:
            RuntimeError: the stream has not been read to its end.
        """
        if not self._reply.over:
            raise RuntimeError("the answer is not complete: read the stream to its end first")
        return self._reply.completion(self.request_id)

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
        return self.headers.get("x-request-id")

    def _opened(self) -> Answer:
        if self._answer is None:
            raise RuntimeError("the stream has not been opened: enter it, or ask for its first piece")
        return self._answer

    # Ending -------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop at once, from any thread or task or a signal handler; a reader gets `StreamCancelledError`.

        Does nothing when the stream has ended already.
        """
        if not self._ended:
            self._exchange.cancel()
            self._release()

    def _release(self) -> None:
        with self._releasing:
            if self._answer is not None and not self._busy:
                self._close(self._answer)

    def _close(self, answer: Answer) -> None:
        answer.close()

    def __del__(self) -> None:
        with suppress(Exception):  # nothing is to be done about it, and at exit modules may be gone
            self.cancel()

    def __repr__(self) -> str:
        state = "complete" if self._reply.over else "ended" if self._ended else "open"
        return f"<{type(self).__name__} {state}, {len(self.text)} characters>"


class Stream(BaseStream):
    """The answer to one call: an iterator of `str`, and a context manager. Made by `Client.stream`.

    Iterate it once, in one thread; `cancel()` may come from any other. Leaving the `with` block before the
    answer has ended closes its connection.

    Iterating raises `ChatAnywhereError`. What had been received by then is in the error's `partial`, and in
    `text`.
    """

    def __init__(self, call: Call, *, keep_text: bool = True) -> None:
        super().__init__(call, keep_text=keep_text)
        self._open()

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while (event := self._wait()) is not None:
            if isinstance(event, TextDelta):
                return event.text
        raise StopIteration

    def events(self) -> Iterator[Event]:
        """Yield all that the answer tells, not its text only. Takes the place of iterating the stream itself.

        Raises:
            ChatAnywhereError: the answer failed.
        """
        while (event := self._wait()) is not None:
            yield event

    def _wait(self) -> Event | None:
        """Block until there is another event; None at the end."""
        while True:
            step = self._next()
            if step is Step.RECEIVE:
                self._receive()
            elif step is Step.OPEN:
                self._open()
            elif step is Step.END:
                return None
            elif step is not Step.PAUSE:
                return step

    def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self.cancel()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
