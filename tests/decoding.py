"""Answers put through the decoders by hand, and strategies that make them up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from hypothesis import strategies as st

from chatanywhere._accumulator import Accumulator
from chatanywhere._errors import ChatAnywhereError
from chatanywhere._http.body import Body
from chatanywhere._protocols import find_protocol
from chatanywhere._protocols.decoder import Decoder
from chatanywhere._protocols.head import AnswerHead
from chatanywhere._protocols.json_text import MAX_JSON
from chatanywhere._reading import Reading
from chatanywhere._types import Completion, Event, ReasoningDelta, RefusalDelta, Started, TextDelta


class Answer:
    """An answer that is read as a stream reads it, from the bytes to the value, without a connection."""

    def __init__(self, protocol: str, headers: Mapping[str, str], limit: int | None = None) -> None:
        decoder = find_protocol(protocol).chat.decoder(AnswerHead(200, headers), MAX_JSON)
        self._reading = Reading(Body(headers, limit=limit), decoder)
        self._accumulator = Accumulator()
        self.delivered = False

    def feed(self, data: bytes) -> list[Event]:
        """The events that `data` completes."""
        events = [event for event in self._reading.feed(data) if event is not None]
        for event in events:
            self.delivered |= self._accumulator.add(event)
        return events

    @property
    def over(self) -> bool:
        return self._reading.complete

    @property
    def done(self) -> bool:
        return self._reading.done

    @property
    def whole(self) -> bool:
        return self._reading.whole

    @property
    def error(self) -> ChatAnywhereError | None:
        return self._reading.error

    @property
    def text(self) -> str:
        return self._accumulator.text

    @property
    def reasoning(self) -> str:
        return self._accumulator.reasoning

    def completion(self, request_id: str | None) -> Completion:
        return self._accumulator.completion(request_id, self._reading.chunks)

    def chunks(self) -> list[str]:
        return list(self._reading.chunks)


class Decoded(NamedTuple):
    events: list[Event]
    error: ChatAnywhereError | None


def decode(decoder: Decoder[Event], *blocks: bytes) -> Decoded:
    """Decode an answer as the client does: up to its end, or the place where it says that it is over."""
    events: list[Event] = []
    try:
        for block in blocks:
            if not decoder.done:
                decoder.feed(block, events)
        if not decoder.done:
            for _ in decoder.finish(events) or ():
                pass
    except ChatAnywhereError as error:
        return Decoded(events, error)
    return Decoded(events, None)


def feed(decoder: Decoder[Event], block: bytes) -> list[Event]:
    """The events that a block completes."""
    events: list[Event] = []
    decoder.feed(block, events)
    return events


def decoder_for(protocol: str, content_type: str = "") -> Decoder[Event]:
    return find_protocol(protocol).chat.decoder(AnswerHead(200, {"content-type": content_type}), MAX_JSON)


def web(*blocks: bytes, content_type: str = "text/plain") -> Decoded:
    return decode(decoder_for("web", content_type), *blocks)


def openai(*blocks: bytes, content_type: str = "text/event-stream") -> Decoded:
    return decode(decoder_for("openai", content_type), *blocks)


def sse(*chunks: Any) -> bytes:
    """Frame chunks as events; a str is the data itself."""
    datas = (chunk if isinstance(chunk, str) else json.dumps(chunk) for chunk in chunks)
    return "".join(f"data: {data}\n\n" for data in datas).encode()


def chunk(finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m1", "choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


STARTED = Started("c1", "m1")
STOP = chunk("stop")
DONE = "[DONE]"
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3, "prompt_tokens_details": {"cached_tokens": 0}}


def cuts(data: bytes) -> list[list[bytes]]:
    """The data in one piece, in two at every place, and in single bytes."""
    halves = [[data[:place], data[place:]] for place in range(1, len(data))]
    return [[data], *halves, [data[place : place + 1] for place in range(len(data))]]


PIECES = (TextDelta, ReasoningDelta, RefusalDelta)


def joined(events: list[Event]) -> list[Event]:
    """The events with neighbouring pieces of one kind made one, which is how an uncut answer has them."""
    result: list[Event] = []
    for event in events:
        last = result[-1] if result else None
        if isinstance(event, PIECES) and isinstance(last, type(event)) and last.index == event.index:
            event = type(event)(result.pop().text + event.text, event.index)  # type: ignore[union-attr]
        result.append(event)
    return result


def any_json(*keys: str) -> st.SearchStrategy[Any]:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})
    return st.recursive(
        leaves,
        lambda values: st.lists(values, max_size=2) | st.dictionaries(st.sampled_from(keys), values, max_size=4),
        max_leaves=6,
    )


def objects(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Strategy: objects with some of these fields, right or wrong, or something else."""
    anything = any_json("index", "message", "code", *fields)
    return anything | st.fixed_dictionaries({}, optional={name: good | anything for name, good in fields.items()})


TEXTS = st.none() | st.text(max_size=3)
FUNCTIONS = objects(name=TEXTS, arguments=TEXTS)
CALLS = st.lists(objects(index=st.integers(0, 2), id=TEXTS, function=FUNCTIONS), max_size=2)
DELTAS = objects(content=TEXTS, reasoning_content=TEXTS, tool_calls=CALLS)
CHOICES = st.lists(objects(index=st.just(0), delta=DELTAS, finish_reason=TEXTS), max_size=2)
COUNTS = objects(prompt_tokens=st.integers(), completion_tokens=st.integers(), total_tokens=st.integers())
CHUNKS = objects(id=TEXTS, model=TEXTS, choices=CHOICES, usage=COUNTS, error=st.none())
