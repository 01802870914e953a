"""From the bytes of an answer to its events and its value, with framing, encoding and protocol at once."""

from __future__ import annotations

import gzip
from typing import Any

import pytest
from decoding import Answer, chunk, sse
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere._errors import ProtocolError, RateLimitError, StreamInterruptedError
from chatanywhere._types import (
    Completion,
    Event,
    Finished,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)

CHUNKED = {"transfer-encoding": "chunked"}
CLOSE = b""  # what the connection gives when it has ended


def openai(headers: dict[str, str] = CHUNKED, limit: int | None = None) -> Answer:
    return Answer("openai", headers, limit)


def take(answer: Answer, *pieces: bytes) -> list[Event]:
    """Feed an answer as the client does: until it is over or wrong."""
    events: list[Event] = []
    for piece in pieces:
        if not answer.over and answer.error is None:
            events += answer.feed(piece)
    return events


def framed(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


LAST = framed(b"")
DONE = "[DONE]"
STARTED = Started("c1", "m1")
HI = framed(sse(chunk(content="Hi")))

ANSWER = sse(
    chunk(reasoning_content="嗯"),
    chunk(reasoning_content="…"),
    chunk(content="你好"),
    chunk(content=" 😀"),
    chunk(tool_calls=[{"index": 1, "id": "t1", "function": {"name": "g", "arguments": ""}}]),
    chunk(tool_calls=[{"index": 0, "id": "t0", "function": {"name": "f", "arguments": '{"x"'}}]),
    chunk(tool_calls=[{"index": 1, "function": {"arguments": "{}"}}, {"index": 0, "function": {"arguments": ": 1}"}}]),
    chunk("tool_calls"),
    {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
    DONE,
)
COMPLETION = Completion(
    text="你好 😀",
    reasoning="嗯…",
    tool_calls=(ToolCall("t0", "f", '{"x": 1}'), ToolCall("t1", "g", "{}")),
    finish_reason="tool_calls",
    usage=Usage(1, 2, 3),
    id="c1",
    model="m1",
    request_id="r1",
)


def test_bytes_come_to_events_and_to_a_completion() -> None:
    """A whole answer gives its events in order, and is one value in the end."""
    answer = openai()
    assert take(answer, framed(ANSWER), LAST) == [
        STARTED,
        ReasoningDelta("嗯…"),
        TextDelta("你好 😀"),
        ToolCallDelta(1, "t1", "g", ""),
        ToolCallDelta(0, "t0", "f", '{"x"'),
        ToolCallDelta(1, None, None, "{}"),
        ToolCallDelta(0, None, None, ": 1}"),
        Finished("tool_calls"),
        Usage(1, 2, 3),
    ]
    assert (answer.over, answer.done, answer.delivered, answer.error) == (True, True, True, None)
    assert answer.completion("r1") == COMPLETION


COMPRESSED = gzip.compress(ANSWER)
WIRE = b"".join(framed(COMPRESSED[start : start + 50]) for start in range(0, len(COMPRESSED), 50)) + LAST


@given(st.sets(st.integers(1, len(WIRE) - 1)))
def test_any_split_gives_the_same_completion(places: set[int]) -> None:
    """Chunks, gzip, UTF-8, events and JSON together come to the same value however the bytes are cut."""
    answer = openai({**CHUNKED, "content-encoding": "gzip"})
    pieces = [WIRE[start:end] for start, end in zip([0, *sorted(places)], [*sorted(places), len(WIRE)], strict=True)]
    events = take(answer, *pieces)
    assert (answer.over, answer.error, answer.completion("r1")) == (True, None, COMPLETION)
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == COMPLETION.text


def test_the_text_so_far_is_at_hand() -> None:
    """Text and thoughts can be asked for after each piece and have all that came until then."""
    answer = openai()
    assert (answer.text, answer.reasoning) == ("", "")
    for number in range(1, 4):
        take(answer, framed(sse(chunk(reasoning_content="嗯", content="好"))))
        assert (answer.text, answer.reasoning) == ("好" * number, "嗯" * number)


def test_the_web_protocol_tells_nothing_but_the_text() -> None:
    """An answer of the web protocol is its text, and is over when its framing says so."""
    answer = Answer("web", {"content-length": "6"})
    assert take(answer, "你".encode()) == [TextDelta("你")]
    assert (answer.over, answer.done) == (False, False)
    assert take(answer, "好".encode()) == [TextDelta("好")]
    assert (answer.over, answer.done, answer.error) == (True, True, None)
    assert answer.completion(None) == Completion("你好")


def test_an_answer_that_the_connection_ends_is_over_with_it() -> None:
    """Without framing the end of the connection is the end, and what was held back until then comes out."""
    answer = Answer("web", {"content-type": "text/html"})
    assert take(answer, b"<") == []
    assert (answer.over, answer.delivered) == (False, False)
    assert take(answer, CLOSE) == [TextDelta("<")]
    assert (answer.over, answer.delivered, answer.text) == (True, True, "<")


@pytest.mark.parametrize(
    ("content", "delivered"),
    [
        (chunk(), False),
        (chunk("stop"), False),
        ({"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}, False),
        (chunk(content="Hi"), True),
        (chunk(reasoning_content="Hm"), True),
        (chunk(tool_calls=[{"index": 0}]), True),
    ],
    ids=["started", "finished", "usage", "text", "reasoning", "tool call"],
)
def test_an_answer_is_delivered_with_its_first_piece(content: dict[str, Any], delivered: bool) -> None:
    """Text, thoughts and tool calls rule out another attempt; what says nothing of the answer does not."""
    answer = openai()
    assert len(take(answer, framed(sse(content)))) >= 1
    assert answer.delivered is delivered


def test_done_comes_before_over() -> None:
    """`[DONE]` says that nothing more is to come; the answer is over when its framing has ended as well."""
    answer = openai()
    take(answer, HI)
    assert (answer.done, answer.over) == (False, False)
    take(answer, framed(sse(DONE)))
    assert (answer.done, answer.over) == (True, False)
    take(answer, LAST)
    assert (answer.done, answer.over) == (True, True)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param([framed(sse(chunk(content="late"))), LAST], id="more text"),
        pytest.param([framed(b"data: {\n\n\xff"), LAST], id="what can't be read"),
        pytest.param([CLOSE], id="no last chunk"),
        pytest.param([b"0\r", CLOSE], id="half a last chunk"),
        pytest.param([b"no chunk\r\n"], id="no chunk"),
    ],
)
def test_nothing_behind_done_spoils_the_answer(after: list[bytes]) -> None:
    """Behind `[DONE]` nothing of the answer can be missing, so what comes or fails there is not looked at."""
    answer = openai()
    events = take(answer, HI + framed(sse(chunk("stop"), DONE)), *after)
    assert events == [STARTED, TextDelta("Hi"), Finished("stop")]
    assert (answer.over, answer.error) == (True, None)


@pytest.mark.parametrize(
    ("wire", "kind"),
    [
        pytest.param([CLOSE], StreamInterruptedError, id="connection lost"),
        pytest.param([LAST], StreamInterruptedError, id="no end of the answer"),
        pytest.param([b"no chunk\r\n"], ProtocolError, id="malformed framing"),
        pytest.param([framed(sse("no JSON"))], ProtocolError, id="malformed chunk"),
        pytest.param([framed(b"\xff")], ProtocolError, id="not UTF-8"),
        pytest.param([framed(b": " + b"x" * 400), framed(b"x" * 400)], ProtocolError, id="too large"),
        pytest.param([framed(sse({"error": {"code": "429"}}))], RateLimitError, id="error of the service"),
    ],
)
@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "apart"])
def test_an_error_is_left_behind_the_events_before_it(wire: list[bytes], kind: type[Exception], together: bool) -> None:
    """What came before the error is given out and kept, whether or not it came in the same piece."""
    answer = openai(limit=600)
    first, *rest = wire
    pieces = [HI + first, *rest, CLOSE] if together else [HI, *wire]
    assert take(answer, *pieces) == [STARTED, TextDelta("Hi")]
    assert type(answer.error) is kind
    assert (answer.over, answer.delivered, answer.text) == (False, True, "Hi")


@pytest.mark.parametrize("index", [[], {}, "1", None], ids=repr)
def test_a_tool_call_that_makes_no_sense_is_an_error_of_the_answer(index: object) -> None:
    """A tool call with an index that is no number never makes the library fail in its own words."""
    answer = openai()
    take(answer, framed(sse(chunk(tool_calls=[{"index": 0}]), chunk(tool_calls=[{"index": index}]), DONE)), LAST)
    assert answer.error is None or isinstance(answer.error, ProtocolError)
    assert answer.completion(None).tool_calls[0] == ToolCall(None, None, "")


def test_another_attempt_takes_the_place_of_a_failed_one() -> None:
    """After an error that came before any piece of the answer, the next attempt's answer is the answer."""
    answer = openai()
    assert take(answer, framed(sse(chunk())), CLOSE) == [STARTED]
    assert isinstance(answer.error, StreamInterruptedError)
    assert answer.delivered is False

    answer = openai()
    assert (answer.error, answer.over, answer.done) == (None, False, False)
    second = {**chunk("stop", content="Hi"), "id": "c2"}
    assert take(answer, framed(sse(second, DONE)), LAST) == [Started("c2", "m1"), TextDelta("Hi"), Finished("stop")]
    assert answer.completion("r2") == Completion("Hi", finish_reason="stop", id="c2", model="m1", request_id="r2")
