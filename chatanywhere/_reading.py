"""What the bytes of an answer come to, as they arrive. No I/O."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from ._errors import ChatAnywhereError, StreamCancelledError
from ._http.body import Body
from ._protocols.protocol import Decoder
from ._protocols.service import ErrorDecoder

T = TypeVar("T")


class Reading(Generic[T]):
    """What the bytes of one attempt's answer come to. No I/O, and no way back to the call.

    Attributes:
        events: those that have arrived, and were not given out yet.
        complete: the answer has come to its end.
        error: what was wrong with the bytes; to be looked at when their events have been taken.
    """

    def __init__(self, body: Body, decoder: Decoder[T]) -> None:
        self._body = body
        self._decoder = decoder
        self.events: Iterator[T | None] = iter(())
        self.complete = False
        self.error: ChatAnywhereError | None = None

    @property
    def done(self) -> bool:
        """The protocol says that the answer is over, even if its connection does not yet."""
        return self.complete or self._decoder.done

    def feed(self, data: bytes) -> Iterator[T | None]:
        """Yield the events that `data` completes; `b""` says that the connection has ended.

        An error is left in `error`, behind the events that came before it. None is yielded between the blocks of
        what was compressed, which may be many and hold no event, and while much JSON is read at once.
        """
        body, decoder = self._body, self._decoder
        events: list[T] = []
        failure: ChatAnywhereError | None = None
        try:
            for number, block in enumerate(body.feed(data)):
                if number:
                    yield from events
                    events.clear()
                    yield None
                if not decoder.done:
                    decoder.feed(block, events)
            if body.complete and not decoder.done:
                for _ in decoder.finish(events) or ():
                    yield None
        except ChatAnywhereError as error:
            failure = error
        yield from events
        if failure is not None:
            self.fail(failure)
            failure = None  # its traceback holds this frame
        elif body.complete:
            self.complete = True

    def fail(self, error: ChatAnywhereError) -> None:
        """Take note of what went wrong with the connection or its bytes."""
        if self.done and not self._body.damaged:
            self.complete = True  # nothing was missing but the end of the framing
        elif isinstance(self._decoder, ErrorDecoder) and not isinstance(error, StreamCancelledError):
            self.error = self._decoder.error()  # the status says more than a body that was cut
        else:
            self.error = error
