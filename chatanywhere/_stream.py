"""An answer on its way: read once, piece by piece, with the text so far at hand whatever happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import NoReturn, Protocol

from ._errors import ChatAnywhereError, StreamCancelledError
from ._reply import Reply
from ._transport import Answer
from ._types import Completion, Event, TextDelta
from ._wire import Decoder


class Call(Protocol):
    """What a stream asks of the call whose answer it is."""

    @property
    def cancelled(self) -> bool:
        """`cancel()` was called."""

    def open(self, failed: ChatAnywhereError | None) -> tuple[Answer, Decoder]:
        """Make attempts until one is answered; `failed` is how the one before ended, if there was one."""

    def complete(self, error: ChatAnywhereError) -> None:
        """Add to an error what only the call knows, and take the key out of it."""

    def linger(self) -> None:
        """The answer is whole: wait only a moment longer for the end of its framing."""

    def cancel(self) -> None:
        """Make the operation that is running, in whatever thread, and every later one fail at once."""


class Stream:
    """The answer to one call: an iterator of `str`, and a context manager. Made by `Client.stream`.

    Iterate it once, in one thread; `cancel()` may come from any other. Leaving the `with` block before the
    answer has ended closes its connection.

    Iterating raises `ChatAnywhereError`. What had been received by then is in the error's `partial`, and in
    `text`.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self._reply = Reply()
        self._answer: Answer | None = None
        self._pending: Iterator[Event] = iter(())
        self._ended = False
        self._busy = False
        self._releasing = threading.RLock()  # reentrant, because a signal handler may cancel what it interrupts
        try:
            self._open(None)
        except ChatAnywhereError as error:
            self._fail(error)

    # Reading ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        while self._proceed():
            event = self._take()
            if event is None:
                self._advance()
            elif isinstance(event, TextDelta):
                return event.text
        raise StopIteration

    def events(self) -> Iterator[Event]:
        """Yield all that the answer tells, not its text only. Takes the place of iterating the stream itself.

        Raises:
            ChatAnywhereError: the answer failed.
        """
        while self._proceed():
            event = self._take()
            if event is None:
                self._advance()
            else:
                yield event

    def _take(self) -> Event | None:
        """Return the next event of what has arrived, None if there is none."""
        try:
            return next(self._pending, None)
        except BaseException:  # Ctrl-C while decoding: what was being decoded is lost, so nothing may follow it
            self.close()
            raise

    def _proceed(self) -> bool:
        """Whether there may be more; raises when the stream was cancelled, or is being read elsewhere."""
        if self._busy:
            raise RuntimeError("another thread or task is reading this stream")
        if self._call.cancelled and not self._ended:
            self._fail(StreamCancelledError("the call was cancelled"))
        return not self._ended

    def _advance(self) -> None:
        """Block until there is more to take from `_pending`, or the answer is over."""
        if self._waiting():
            try:
                data = self._receive()
            except ChatAnywhereError as error:
                self._reply.fail(error)
            except BaseException:
                self.close()
                raise
            else:
                self._accept(data)
        else:
            self._settle()

    def _waiting(self) -> bool:
        """Whether the next thing to do is to wait for bytes of the answer."""
        reply = self._reply
        if reply.error is not None or reply.over:
            return False
        if reply.done:
            self._call.linger()
        return True

    def _receive(self) -> bytes:
        with self._using() as answer:
            assert answer is not None
            return answer.receive()

    def _accept(self, data: bytes) -> None:
        """Take what the connection gave; `b""` says that it has ended."""
        self._pending = self._reply.feed(data)

    def _settle(self) -> None:
        """The answer is over, or it failed: finish, or make another attempt, or raise."""
        error = self._reply.error
        if error is None:
            self._release()
            self._ended = True
        elif self._reply.delivered:
            self._fail(error)
        else:
            self._release()
            self._answer = None
            try:
                self._open(error)
            except ChatAnywhereError as last:
                self._fail(last)

    def _open(self, failed: ChatAnywhereError | None) -> None:
        with self._using():
            self._answer, decoder = self._call.open(failed)
            self._status_code, self._headers = self._answer.status_code, self._answer.headers
        self._reply.begin(self._answer.body, decoder)

    def _fail(self, error: ChatAnywhereError) -> NoReturn:
        for _ in self._pending:  # what has arrived is text too
            pass
        self._ended = True
        self._release()
        error.partial = self.text
        self._call.complete(error)
        if error.request_id is None and self._answer is not None:
            error.request_id = self.request_id
        raise error

    # What is known so far -----------------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """The text so far; stays readable after an error."""
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
        return self._status_code

    @property
    def headers(self) -> Mapping[str, str]:
        """The headers of the answer; keys are case-insensitive."""
        return self._headers

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the header `x-request-id`."""
        return self._headers.get("x-request-id")

    # Ending -------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop at once, from any thread or a signal handler; a reader gets `StreamCancelledError`.

        Does nothing when the stream has ended already.
        """
        if not self._ended:
            self._call.cancel()
            self._release()

    def close(self) -> None:
        """Release the connection; an answer that has not ended is cancelled. May be called again."""
        self.cancel()
        self._release()

    @contextmanager
    def _using(self) -> Iterator[Answer | None]:
        """Wait for the connection in this block only.

        What is being waited for must not be closed: its descriptor might become another connection's. So
        `cancel()` wakes the reader, and the reader releases the connection.
        """
        self._busy = True
        try:
            yield self._answer
        finally:
            self._busy = False
            if self._call.cancelled:
                self._release()

    def _release(self) -> None:
        with self._releasing:
            if self._answer is not None and not self._busy:
                self._answer.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        with suppress(Exception):  # nothing is to be done about it, and at exit modules may be gone
            self.close()

    def __repr__(self) -> str:
        state = "complete" if self._reply.over else "ended" if self._ended else "open"
        return f"<{type(self).__name__} {state}, {len(self.text)} characters>"
