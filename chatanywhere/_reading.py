"""What the bytes of an answer come to, as they arrive. No I/O."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Generic, TypeVar

from ._errors import APIStatusError, ChatAnywhereError, StreamCancelledError
from ._http.body import Body
from ._protocols.decoder import Decoder
from ._protocols.service import ErrorDecoder

T = TypeVar("T")


class Reading(Generic[T]):
    """What the bytes of one attempt's answer come to. No I/O, and no way back to the call.

    Attributes:
        events: those that have arrived, and were not given out yet.
        news: an event has come since this was last set to False.
        complete: the answer has come to its end.
        error: what was wrong with the bytes; to be looked at when their events have been taken.
    """

    def __init__(self, body: Body, decoder: Decoder[T], *, choices: int = 1) -> None:
        self._choices = choices  # that were asked for
        self._body = body
        self._decoder = decoder
        self.events: Iterator[T | None] = iter(())
        self._finishing = False  # the decoder has been told that the content has ended
        self.news = False
        self.complete = False
        self.error: ChatAnywhereError | None = None

    @property
    def done(self) -> bool:
        """The protocol says that the answer is over, even if its connection does not yet."""
        return self.complete or self._decoder.done

    @property
    def whole(self) -> bool:
        """Nothing is missing: every choice that was asked for, or has begun, has ended. More may follow."""
        return self.complete or self._decoder.is_whole(self._choices)

    @property
    def chunks(self) -> list[str]:
        """The JSON of the objects that have been read so far."""
        return self._decoder.chunks

    def feed(self, data: bytes) -> Iterator[T | None]:
        """Yield the events that `data` completes; `b""` says that the connection has ended.

        An error is left in `error`, behind the events that came before it. None is yielded between the blocks of
        what was compressed, which may be many and hold no event, and while much JSON is read at once.
        """
        body, decoder = self._body, self._decoder
        events: list[T] = []
        failure: ChatAnywhereError | None = None
        decoding = False
        try:
            for number, block in enumerate(body.feed(data)):
                if number:
                    self.news = self.news or bool(events)
                    yield from events
                    events.clear()
                    yield None
                if not decoder.done:
                    decoding = True
                    decoder.feed(block, events)
                    decoding = False
            if body.complete and not decoder.done:
                decoding = self._finishing = True
                for _ in decoder.finish(events) or ():
                    yield None
        except ChatAnywhereError as error:
            failure = error
        self.news = self.news or bool(events)
        yield from events
        if failure is not None:
            if decoding:
                self.error = failure
            else:
                yield from self._end(failure)
            failure = None  # its traceback holds this frame
        elif body.complete:
            self.complete = True

    def fail(self, error: ChatAnywhereError) -> None:
        """Take note of what went wrong with the connection or its bytes; what had come until then is in `events`.

        `error` or `complete` says it when they have been taken.
        """
        self.events = itertools.chain(self.events, self._end(error))

    def _end(self, error: ChatAnywhereError) -> Iterator[T | None]:
        """Take note of an end that came too early; yield what the decoder still held.

        None is yielded while that takes long.
        """
        decoder, rest = self._decoder, list[T]()
        if isinstance(decoder, ErrorDecoder):
            # The status says more than a body that was cut.
            self.error = error if isinstance(error, StreamCancelledError) else decoder.error()
            return
        whole = self.whole and not self._finishing
        if not (decoder.done or self._finishing):
            self._finishing = True
            try:
                for _ in decoder.finish(rest) or ():
                    yield None
                whole = self.whole
            except ChatAnywhereError as said:
                if whole or isinstance(said, APIStatusError):  # else that it was cut says it better
                    error = said
                whole = False
        if whole and not self._body.damaged:
            self.complete = True  # nothing was missing but the end of the framing
        else:
            self.error = error
        del error  # its traceback holds this frame
        yield from rest
