"""What the bytes of an answer come to: events, and the text so far. No I/O, so every reader shares it."""

from __future__ import annotations

from collections.abc import Iterator

from ._errors import ChatAnywhereError
from ._http.body import Body
from ._protocols.openai import Decoder
from ._types import Completion, Event, Finished, ReasoningDelta, Started, TextDelta, ToolCall, ToolCallDelta, Usage


class Reply:
    """The answer to one call, as far as it has come, over all its attempts.

    Args:
        keep_text: False for answers without end, whose text would fill the memory.

    Attributes:
        over: the answer has come to its end.
        error: what was wrong with the bytes; to be looked at when their events have been taken.
        delivered: a piece of the answer has been given out, so no other attempt may be made.
    """

    def __init__(self, *, keep_text: bool = True) -> None:
        self._keep_text = keep_text
        self.over = False
        self.error: ChatAnywhereError | None = None
        self.delivered = False
        self._text = _Pieces()
        self._reasoning = _Pieces()
        self._tool_calls: dict[int, list[ToolCallDelta]] = {}
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._usage: Usage | None = None

    def begin(self, body: Body, decoder: Decoder) -> None:
        """Read another attempt's answer from now on."""
        self._body = body
        self._decoder = decoder
        self.error = None
        self._started = None
        self._finished = None
        self._usage = None

    @property
    def done(self) -> bool:
        """The protocol says that the answer is over, even if its connection does not yet."""
        return self.over or self._decoder.done

    def feed(self, data: bytes) -> Iterator[Event | None]:
        """Yield the events that `data` completes; `b""` says that the connection has ended.

        An error is left in `error`, behind the events that came before it. None is yielded between the blocks of
        what was compressed: they may be many, and hold no event.
        """
        decoder = self._decoder
        events: list[Event] = []
        failure: ChatAnywhereError | None = None
        try:
            for number, block in enumerate(self._body.feed(data)):
                if number:
                    yield from self._record(events)
                    yield None
                if not decoder.done:
                    decoder.feed(block, events)
            if self._body.complete and not decoder.done:
                decoder.finish(events)
        except ChatAnywhereError as error:
            failure = error
        yield from self._record(events)
        if failure is not None:
            self.fail(failure)
        elif self._body.complete:
            self.over = True

    def fail(self, error: ChatAnywhereError) -> None:
        """Take note of what went wrong with the connection or its bytes."""
        if self.done:
            self.over = True  # nothing was missing but the end of the framing
        else:
            self.error = error

    def _record(self, events: list[Event]) -> Iterator[Event]:
        """Give the events out, and note each as it goes; `events` is empty then."""
        for event in events:
            if isinstance(event, TextDelta):
                if self._keep_text:
                    self._text.append(event.text)
                self.delivered = True
            elif isinstance(event, ReasoningDelta):
                if self._keep_text:
                    self._reasoning.append(event.text)
                self.delivered = True
            elif isinstance(event, ToolCallDelta):
                self._tool_calls.setdefault(event.index, []).append(event)
                self.delivered = True
            elif isinstance(event, Started):
                self._started = event
            elif isinstance(event, Finished):
                self._finished = event
            else:
                self._usage = event
            yield event
        events.clear()

    @property
    def text(self) -> str:
        return self._text.joined()

    @property
    def reasoning(self) -> str:
        return self._reasoning.joined()

    def completion(self, request_id: str | None) -> Completion:
        """The answer as a value."""
        return Completion(
            text=self.text,
            reasoning=self.reasoning,
            tool_calls=tuple(_tool_call(deltas) for _, deltas in sorted(self._tool_calls.items())),
            finish_reason=self._finished.reason if self._finished else None,
            usage=self._usage,
            id=self._started.id if self._started else None,
            model=self._started.model if self._started else None,
            request_id=request_id,
        )


class _Pieces:
    """Text that grows. Another thread may ask for it at any moment, so nothing is ever taken away."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.append = self._pieces.append
        self._known = (0, "")  # how many pieces have been joined, and to what

    def joined(self) -> str:
        count, text = self._known
        new = self._pieces[count:]
        if new:
            text += "".join(new)
            self._known = (count + len(new), text)
        return text


def _tool_call(deltas: list[ToolCallDelta]) -> ToolCall:
    return ToolCall(
        id=next((delta.id for delta in deltas if delta.id), None),
        name=next((delta.name for delta in deltas if delta.name), None),
        arguments="".join(delta.arguments for delta in deltas),
    )
