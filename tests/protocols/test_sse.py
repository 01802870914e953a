"""The event stream decoder, against the WHATWG's specification (section 9.2.6, "Interpreting an event stream")."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere._errors import ProtocolError
from chatanywhere._protocols import sse

BOM = "\ufeff"

# What str.splitlines takes for a line end and the specification does not.
NOT_LINE_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"

TOKENS = [
    "data",
    "data:",
    "data: ",
    ":",
    " ",
    "event: x",
    "id",
    "retry: 1",
    "\r",
    "\n",
    "\r\n",
    BOM,
    "\0",
    "你好",
    "😀",
]


def decode(*pieces: str) -> list[str]:
    decoder = sse.EventStreamDecoder()
    found: list[str] = []
    for piece in pieces:
        decoder.feed(piece, found)
    return found


def reference(stream: str) -> list[str]:
    """Interpret a stream that is all there, in the specification's words: a data buffer, and what each line does."""
    events, buffer = [], ""
    *lines, _ = re.split("\r\n|\r|\n", stream.removeprefix(BOM))
    for line in lines:
        name, _, value = line.partition(":")
        if not line:
            events += [buffer[:-1]] if buffer else []
            buffer = ""
        elif name == "data":
            buffer += value.removeprefix(" ") + "\n"
    return events


@st.composite
def streams_in_pieces(draw: st.DrawFn) -> list[str]:
    stream = "".join(draw(st.lists(st.sampled_from(TOKENS) | st.sampled_from(NOT_LINE_ENDS), max_size=40)))
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@given(streams_in_pieces())
def test_every_stream_cut_anywhere_has_the_events_that_the_specification_says(pieces: list[str]) -> None:
    """Any text, in any pieces, gives the events that reading all of it at once gives."""
    assert decode(*pieces) == reference("".join(pieces))


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        pytest.param("data: a\n\ndata: b\n\n", ["a", "b"], id="LF"),
        pytest.param("data: a\r\rdata: b\r\r", ["a", "b"], id="CR"),
        pytest.param("data: a\r\n\r\ndata: b\r\n\r\n", ["a", "b"], id="CRLF"),
        pytest.param("data: a\r\n\ndata: b\n\rdata: c\r\r\n", ["a", "b", "c"], id="mixed line ends"),
        pytest.param(f"{BOM}data: a\n\n", ["a"], id="byte order mark"),
        pytest.param(f"{BOM}{BOM}data: a\n\n", [], id="only one byte order mark is dropped"),
        pytest.param(f"data: a\n\n{BOM}data: b\n\ndata: c\n\n", ["a", "c"], id="a byte order mark behind an event"),
        pytest.param(f"\n{BOM}data: a\n\n", [], id="a byte order mark elsewhere is part of the field's name"),
        pytest.param(f"data: {BOM}a\n\n", [f"{BOM}a"], id="a byte order mark within data is data"),
        pytest.param(": keep-alive\n\n:\n\ndata: a\n: more\ndata: b\n\n", ["a\nb"], id="comments"),
        pytest.param("event: x\nid: 1\nretry: 10\ndata: a\n\n", ["a"], id="event, id and retry"),
        pytest.param("event: x\nid: 1\n\n", [], id="an event without data"),
        pytest.param("Data: a\ndatum: b\n data: c\ndata : d\n\n", [], id="unknown fields"),
        pytest.param("data\n\n", [""], id="data without a colon"),
        pytest.param("data:\n\n", [""], id="empty data"),
        pytest.param("data\ndata\n\n", ["\n"], id="two empty data lines"),
        pytest.param("id\nfoo\ndata: a\n\n", ["a"], id="other fields without a colon"),
        pytest.param("data:a\n\n", ["a"], id="no space"),
        pytest.param("data:  a \n\n", [" a "], id="one leading space is dropped, no other"),
        pytest.param("data:\ta\n\n", ["\ta"], id="a tab is not a space"),
        pytest.param("data: a:b: c\n\n", ["a:b: c"], id="colons in data"),
        pytest.param("data: a\ndata:\ndata: b\n\n", ["a\n\nb"], id="several data lines"),
        pytest.param("\n\n\ndata: a\n\n\n\n", ["a"], id="spare blank lines"),
        pytest.param("data: a\n \ndata: b\n\n", ["a\nb"], id="a line of blanks is not a blank line"),
        pytest.param("data: a\n\ndata: b\n", ["a"], id="cut off before the blank line"),
        pytest.param("data: a\n\ndata: b", ["a"], id="cut off within a line"),
        pytest.param(f"data: a{NOT_LINE_ENDS}b\n\n", [f"a{NOT_LINE_ENDS}b"], id="only CR and LF end a line"),
        pytest.param("data: a\0b\n\n", ["a\0b"], id="NUL"),
        pytest.param("", [], id="nothing"),
    ],
)
def test_a_stream_is_interpreted_as_specified(stream: str, expected: list[str]) -> None:
    """The data of the events is the same whether the stream comes whole or a character at a time."""
    assert decode(stream) == expected
    assert decode(*stream) == expected


def test_an_event_is_given_out_as_soon_as_its_blank_line_has_come() -> None:
    """A CR may be the first half of a CRLF, and still its event does not wait for the next character."""
    decoder = sse.EventStreamDecoder()
    found: list[str] = []
    decoder.feed("data: a\r\r", found)
    assert found == ["a"]
    decoder.feed("\ndata: b\n", found)
    assert found == ["a"]
    decoder.feed("\n", found)
    assert found == ["a", "b"]


@pytest.mark.parametrize("nothing", [[], [""], ["", ""]])
def test_a_crlf_cut_in_two_is_one_line_end(nothing: list[str]) -> None:
    """A CR at the end of one piece and the LF at the start of the next make no blank line between them."""
    assert decode("data: a\r", *nothing, "\ndata: b\r\n\r", *nothing, "\n") == ["a\nb"]


LIMIT = 16
BEFORE = "data: before\n\n"


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "MAX_EVENT", LIMIT)


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize(
    "pieces",
    [
        pytest.param([BEFORE, "data: " + "x" * LIMIT], id="a line in one piece"),
        pytest.param([BEFORE, "data: ", *"x" * LIMIT], id="a line in many pieces"),
        pytest.param([BEFORE, ":" + "x" * LIMIT], id="a comment"),
        pytest.param([BEFORE, *["data: 12345\n"] * 3], id="the lines of an event together"),
        pytest.param([BEFORE + "data: 12345\n" * 3], id="all in one piece"),
        pytest.param([BEFORE, *["data\n"] * (LIMIT + 1)], id="empty lines count as well"),
    ],
)
def test_what_is_too_large_is_refused_behind_the_events_before_it(pieces: list[str]) -> None:
    """A line or an event beyond the limit is a ProtocolError that says so, after the events that came before."""
    decoder = sse.EventStreamDecoder()
    found: list[str] = []

    def feed() -> None:
        for piece in pieces:
            decoder.feed(piece, found)

    with pytest.raises(ProtocolError, match=f"{LIMIT} characters"):
        feed()
    assert found == ["before"]


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_limit_is_for_one_line_and_one_event_not_for_the_stream(size: int) -> None:
    """A stream of lines and events that are each small enough may be as long as it likes."""
    stream = (": 3456789012345\ndata: 1234567890\n\n" + "data: 1234\n" * 3 + "\n") * 10
    pieces = [stream[start : start + size] for start in range(0, len(stream), size)]
    assert decode(*pieces) == ["1234567890", "1234\n1234\n1234"] * 10
