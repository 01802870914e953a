"""The body decoder: framing, content encoding and limit, however the bytes are cut."""

from __future__ import annotations

import gzip
import re
import tracemalloc
import zlib
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere._errors import ChatAnywhereError, ProtocolError, StreamInterruptedError
from chatanywhere._http.body import Body

CONTENT = "".join(f"{number}: 你好 😀\n" for number in range(50)).encode()
CHUNKED = {"transfer-encoding": "chunked"}
GZIP = {"content-encoding": "gzip"}
CLOSE = b""  # what the connection gives when it has ended


class Outcome(NamedTuple):
    content: bytes
    error: type[ChatAnywhereError] | None
    message: str
    complete: bool


def read(
    headers: dict[str, str], *pieces: bytes, limit: int | None = None, framed: bool = True, empty: bool = False
) -> Outcome:
    """Read an answer as the client does: until it is complete or wrong."""
    content, body = bytearray(), None
    try:
        body = Body(headers, limit=limit, framed=framed, empty=empty)
        for piece in pieces:
            if body.complete:
                break
            for block in body.feed(piece):
                content += block
    except ChatAnywhereError as error:
        return Outcome(bytes(content), type(error), str(error), body is not None and body.complete)
    return Outcome(bytes(content), None, "", body.complete)


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def cut(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Strategy: the same bytes, in pieces."""
    return st.sets(st.integers(1, max(1, len(data) - 1)), max_size=10).map(
        lambda cuts: [
            data[start:end] for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True)
        ]
    )


def chunked(content: bytes, size: int = 100) -> bytes:
    chunks = [content[start : start + size] for start in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in [*chunks, b""])


def raw_deflate(content: bytes) -> bytes:
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return compressor.compress(content) + compressor.flush()


ENCODINGS = {
    "plain": ("", CONTENT),
    "identity": ("identity", CONTENT),
    "gzip": ("gzip", gzip.compress(CONTENT)),
    "upper case": ("X-GZIP", gzip.compress(CONTENT)),
    "gzip of several members": ("gzip", gzip.compress(CONTENT[:99]) + gzip.compress(b"") + gzip.compress(CONTENT[99:])),
    "padded gzip": ("gzip", gzip.compress(CONTENT) + b"\0\0\0"),
    "deflate": ("deflate", zlib.compress(CONTENT)),
    "raw deflate": ("deflate", raw_deflate(CONTENT)),
}


def framings(encoding: str, encoded: bytes) -> dict[str, tuple[dict[str, str], bytes]]:
    headers = {"content-encoding": encoding} if encoding else {}
    return {
        "chunked": ({**headers, "transfer-encoding": "Chunked"}, chunked(encoded)),
        "sized": ({**headers, "content-length": str(len(encoded))}, encoded),
        "until close": (headers, encoded),
    }


WIRES = {
    f"{encoding}, {framing}": wire
    for encoding, encoded in ENCODINGS.items()
    for framing, wire in framings(*encoded).items()
}
every_wire = pytest.mark.parametrize(("headers", "wire"), WIRES.values(), ids=WIRES)


# Good answers -------------------------------------------------------------------------------------------------


@every_wire
@given(data=st.data())
def test_any_split_gives_the_content(headers: dict[str, str], wire: bytes, data: st.DataObject) -> None:
    """Every framing and encoding gives the content, whatever the connection makes of the bytes."""
    assert read(headers, *data.draw(cut(wire)), CLOSE) == (CONTENT, None, "", True)


@every_wire
def test_single_bytes_give_the_content(headers: dict[str, str], wire: bytes) -> None:
    """The same when no two bytes come together, where every state lasts beyond a piece."""
    assert read(headers, *single_bytes(wire), CLOSE) == (CONTENT, None, "", True)


@every_wire
def test_a_body_is_complete_when_its_framing_says_so(headers: dict[str, str], wire: bytes) -> None:
    """Chunks and a length end the body with its last byte; without either, only the end of the connection does."""
    says_its_end = "transfer-encoding" in headers or "content-length" in headers
    assert not read(headers, wire[:-1]).complete
    assert read(headers, wire).complete is says_its_end
    assert read(headers, wire, CLOSE).complete


@pytest.mark.parametrize("headers", [CHUNKED, {"content-length": "3"}, {}], ids=["chunked", "sized", "until close"])
def test_nothing_is_held_back(headers: dict[str, str]) -> None:
    """Content is given out when it comes, not when its chunk or the body is whole."""
    body = Body(headers, limit=None)
    given_out = [
        b"".join(body.feed(piece)) for piece in single_bytes(b"3\r\nabc\r\n" if headers == CHUNKED else b"abc")
    ]
    assert [piece for piece in given_out if piece] == [b"a", b"b", b"c"]


@pytest.mark.parametrize(
    "size_line",
    [
        b"a",
        b"A",
        b"0a",
        b"00000000000000A",
        b"0" * 4000 + b"a",
        b"a \t",
        b"a;name=value",
        b"a \t; padded",
        b"a;name \t= value \t",
        b'a; name="a value" ;other',
        b'a;name=""',
        b'a;name="; a=b, \xe4\xbd\xa0";other="\t"',
        rb'a;name="a \"quoted\" \\";other',
        b'a;name="\\\xe4\\\t"',
        b"a;!#$%&'*+.^_`|~09AZaz-=!#$%&'*+.^_`|~09AZaz-",
    ],
)
def test_a_size_line_is_read_as_rfc_9112_says(size_line: bytes) -> None:
    """Hexadecimal digits of either case, zeros before them and extensions behind them are all right."""
    wire = b"%b\r\n0123456789\r\n0\r\n\r\n" % size_line
    for pieces in ([wire], single_bytes(wire)):
        assert read(CHUNKED, *pieces) == (b"0123456789", None, "", True)


@pytest.mark.parametrize(
    "ending",
    [
        b"0\r\n\r\n",
        b"000\r\n\r\n",
        b"0;last\r\n\r\n",
        b"0\r\nX-Checksum: 1\r\n\r\n",
        b"0\r\n" + b"X-Number: 1\r\n" * 100 + b"\r\n",
        b"0\r\nX-Long: " + b"x" * 4000 + b"\r\n\r\n",
    ],
    ids=["plain", "zeros", "extension", "trailer", "many trailers", "long trailer"],
)
def test_the_last_chunk_may_have_trailers(ending: bytes) -> None:
    """Trailers are read and dropped; the blank line behind them ends the body."""
    wire = b"5\r\nhello\r\n" + ending
    for pieces in ([wire], single_bytes(wire)):
        assert read(CHUNKED, *pieces[:-1]).complete is False
        assert read(CHUNKED, *pieces) == (b"hello", None, "", True)


@pytest.mark.parametrize("ending", [b"0\r\n", b"0\r\n\r", b"0\r\nX: y\r\n"])
def test_nothing_is_missing_once_the_last_chunk_has_come(ending: bytes) -> None:
    """A connection that ends between the last chunk and the blank line behind it has lost no content."""
    assert read(CHUNKED, b"5\r\nhello\r\n" + ending, CLOSE) == (b"hello", None, "", True)


@pytest.mark.parametrize(
    ("headers", "wire"),
    [
        pytest.param({"content-length": "5, 5"}, b"hello", id="lengths that agree"),
        pytest.param({"content-length": " 005 "}, b"hello", id="length with zeros"),
        pytest.param({**CHUNKED, "content-length": "3"}, b"5\r\nhello\r\n0\r\n\r\n", id="chunks overrule a length"),
    ],
)
def test_the_length_is_understood(headers: dict[str, str], wire: bytes) -> None:
    """Repeated lengths that agree are one, and chunks make a length meaningless."""
    assert read(headers, wire) == (b"hello", None, "", True)


@pytest.mark.parametrize("headers", [{}, CHUNKED, {"content-length": "5"}, GZIP])
def test_an_answer_without_a_body_is_complete_at_once(headers: dict[str, str]) -> None:
    """A status that allows no body (204, 304) is not waited for, whatever its headers announce."""
    assert read(headers, empty=True) == (b"", None, "", True)


@pytest.mark.parametrize(
    ("headers", "wire"), [(CHUNKED, b"0\r\n\r\n"), ({"content-length": "0"}, b""), ({}, b""), (GZIP, b"")]
)
def test_an_empty_body_is_a_whole_one(headers: dict[str, str], wire: bytes) -> None:
    """No content, properly framed, is not an error; nor is it for a coding that was never begun."""
    assert read(headers, wire, CLOSE) == (b"", None, "", True)


@pytest.mark.parametrize("headers", [CHUNKED, {"content-length": "2"}])
def test_framing_that_was_taken_off_already_is_not_looked_for(headers: dict[str, str]) -> None:
    """With `framed=False` the content is what comes, until the connection ends."""
    assert read(headers, b"5\r\nhello", framed=False) == (b"5\r\nhello", None, "", False)
    assert read(headers, b"5\r\nhello", CLOSE, framed=False) == (b"5\r\nhello", None, "", True)


# Surplus ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("together", [True, False], ids=["in one piece", "in a piece of its own"])
@pytest.mark.parametrize(
    ("headers", "wire", "empty"),
    [
        pytest.param(CHUNKED, b"5\r\nhello\r\n0\r\n\r\n", False, id="chunked"),
        pytest.param({"content-length": "5"}, b"hello", False, id="sized"),
        pytest.param({"content-length": "5"}, b"", True, id="no body"),
    ],
)
def test_bytes_behind_the_end_are_surplus(headers: dict[str, str], wire: bytes, empty: bool, together: bool) -> None:
    """What comes behind the end is not content and no error; it is noted, for the connection is of no more use."""
    body = Body(headers, limit=None, empty=empty)
    stray = b"HTTP/1.1 200 OK\r\n\r\n"
    content = b"".join(block for piece in ([wire + stray] if together else [wire, stray]) for block in body.feed(piece))
    assert (content, body.complete, body.surplus) == (b"" if empty else b"hello", True, True)


@every_wire
def test_nothing_is_surplus_of_a_regular_answer(headers: dict[str, str], wire: bytes) -> None:
    """An answer that ends where it says leaves its connection fit for another."""
    body = Body(headers, limit=None)
    assert b"".join(body.feed(wire)) == CONTENT
    assert body.surplus is False


# Bad answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        pytest.param(b"+9\r\n123456789\r\n", id="plus sign"),
        pytest.param(b"-9\r\n123456789\r\n", id="minus sign"),
        pytest.param(b"0x9\r\n123456789\r\n", id="0x"),
        pytest.param(b"0_9\r\n123456789\r\n", id="underscore"),
        pytest.param(b" 9\r\n123456789\r\n", id="space before"),
        pytest.param(b"9 9\r\n123456789\r\n", id="two numbers"),
        pytest.param(b"9g\r\n123456789\r\n", id="not a digit"),
        pytest.param("９\r\n123456789\r\n".encode(), id="full-width digit"),
        pytest.param(b"\r\n123456789\r\n", id="no size"),
        pytest.param(b";name=value\r\n123456789\r\n", id="extension without a size"),
        pytest.param(b'9;name="value\r\n123456789\r\n', id="quote that does not end"),
        pytest.param(b'9;name=value"\r\n123456789\r\n', id="quote that does not begin"),
        pytest.param(b'9;name="\r\n"\r\n123456789\r\n', id="line end in quotes"),
        pytest.param(b'9;name="\\"\r\n123456789\r\n', id="last quote escaped"),
        pytest.param(b'9;name="a"b\r\n123456789\r\n', id="text behind quotes"),
        pytest.param(b'9;"name"\r\n123456789\r\n', id="name of an extension in quotes"),
        pytest.param(b"9;\r\n123456789\r\n", id="extension without a name"),
        pytest.param(b"9;=value\r\n123456789\r\n", id="extension with a value alone"),
        pytest.param(b"9;name=\r\n123456789\r\n", id="extension without its value"),
        pytest.param(b"9;a name\r\n123456789\r\n", id="blank in the name of an extension"),
        pytest.param(b"9;name=a value\r\n123456789\r\n", id="blank in a value"),
        pytest.param(b"9;name=\x00\r\n123456789\r\n", id="NUL in an extension"),
        pytest.param(b'9;name="\x01"\r\n123456789\r\n', id="control character in quotes"),
        pytest.param(b"9,name\r\n123456789\r\n", id="comma for the semicolon"),
        pytest.param(b"9\n123456789\r\n", id="size line ends in LF alone"),
        pytest.param(b"9\r\r\n123456789\r\n", id="stray CR in the size line"),
        pytest.param(b"8000000000000000\r\n123456789\r\n", id="2**63 bytes"),
        pytest.param(b"f" * 40 + b"\r\n123456789\r\n", id="2**160 bytes"),
        pytest.param(b"9;" + b"x" * 4096 + b"\r\n123456789\r\n", id="size line too long"),
        pytest.param(b"9;" + b"x" * 4096, id="size line too long and not over"),
        pytest.param(b"0\r\nX: y\n\r\n", id="trailer ends in LF alone"),
        pytest.param(b"0\r\n\n", id="blank line ends in LF alone"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n", id="too many trailers"),
        pytest.param(b"0\r\nX: " + b"y" * 4096, id="trailer too long"),
    ],
)
@pytest.mark.parametrize("limit", [None, 1000], ids=["unlimited", "limited"])
def test_malformed_chunks_are_refused_behind_the_content_before_them(bad: bytes, limit: int | None) -> None:
    """What is not chunked framing is a ProtocolError, and nothing that came before it is lost."""
    wire = b"5\r\nhello\r\n" + bad
    for pieces in ([wire], single_bytes(wire), [wire[:12], wire[12:]]):
        outcome = read(CHUNKED, *pieces, limit=limit)
        assert outcome[:2] == (b"hello", ProtocolError)
        assert not outcome.complete


@pytest.mark.parametrize("after", [b"XX", b"X", b"\n", b"\rX", b"5\r\n"])
def test_a_chunk_longer_than_its_size_is_refused(after: bytes) -> None:
    """A chunk without CRLF where its size ends is a ProtocolError behind its content."""
    wire = b"5\r\nhello" + after
    for pieces in ([wire], single_bytes(wire)):
        assert read(CHUNKED, *pieces)[:2] == (b"hello", ProtocolError)


def test_malformed_chunks_do_not_swallow_compressed_content_before_them() -> None:
    """Content that could be decompressed is given out before the error of the framing."""
    compressor = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    begun = compressor.compress(CONTENT) + compressor.flush(zlib.Z_SYNC_FLUSH)
    wire = b"%x\r\n%b\r\n+9\r\n" % (len(begun), begun)
    assert read({**CHUNKED, **GZIP}, wire)[:2] == (CONTENT, ProtocolError)


def test_a_chunk_of_8_gb_is_bounded_by_the_limit_alone() -> None:
    """A huge chunk is read as it comes where there is no limit, and refused by its size line where there is one."""
    wire = b"5\r\nhello\r\n200000000\r\nabc"
    assert read(CHUNKED, wire) == (b"helloabc", None, "", False)
    outcome = read(CHUNKED, wire, limit=1_000_000)
    assert outcome[:2] == (b"hello", ProtocolError)
    assert "max_response_bytes=1000000" in outcome.message


@pytest.mark.parametrize(
    "value", ["gzip, chunked", "gzip", "chunked, chunked", "chunked, gzip", "x", "", "chunked\xa0"]
)
def test_a_transfer_coding_that_is_not_supported_is_named(value: str) -> None:
    """Of transfer codings only `chunked` can be read; any other is a ProtocolError before the first byte."""
    with pytest.raises(ProtocolError, match="Transfer-Encoding.*" + re.escape(repr(value))):
        Body({"transfer-encoding": value}, limit=None)


@pytest.mark.parametrize("value", ["gzip, gzip", "compress", "x-br"])
def test_a_content_coding_that_is_not_supported_is_named(value: str) -> None:
    """An encoding that was not asked for and can't be read is a ProtocolError before the first byte."""
    with pytest.raises(ProtocolError, match=f"Content-Encoding.*{value}"):
        Body({"content-encoding": value}, limit=None)


@pytest.mark.parametrize("value", ["5, 6", "5,", "-1", "+5", "abc", "", "5.0", "0x5", "5 5", "５", "5\xa0", "9" * 19])
def test_a_length_that_is_none_is_named(value: str) -> None:
    """A Content-Length that is no number, or several, is a ProtocolError before the first byte."""
    with pytest.raises(ProtocolError, match="Content-Length.*" + re.escape(repr(value))):
        Body({"content-length": value}, limit=None)


@pytest.mark.parametrize("name", ["transfer-encoding", "content-encoding", "content-length"])
def test_a_long_header_is_not_repeated(name: str) -> None:
    """An error quotes the beginning of what it refuses."""
    with pytest.raises(ProtocolError) as caught:
        Body({name: "x" * 60_000}, limit=None)
    assert 50 < len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("headers", "wire"),
    [
        pytest.param(GZIP, b"hello, I am no gzip", id="no gzip"),
        pytest.param(GZIP, gzip.compress(CONTENT)[:-8] + bytes(8), id="wrong checksum"),
        pytest.param(GZIP, gzip.compress(CONTENT)[:10] + b"\xff" * 9, id="gzip header, then garbage"),
        pytest.param({"content-encoding": "deflate"}, b"\xff" * 9, id="no deflate"),
        pytest.param({"content-encoding": "deflate"}, zlib.compress(CONTENT)[:-4] + bytes(4), id="wrong Adler"),
    ],
)
def test_data_that_is_not_compressed_as_announced_is_refused(headers: dict[str, str], wire: bytes) -> None:
    """Compressed data that is damaged, or none, is a ProtocolError however it is cut."""
    for pieces in ([wire], single_bytes(wire)):
        assert read(headers, *pieces, CLOSE).error is ProtocolError


@pytest.mark.parametrize(
    ("headers", "wire", "content"),
    [
        pytest.param(CHUNKED, b"", b"", id="before the first chunk"),
        pytest.param(CHUNKED, b"5\r\nhello\r\n1", b"hello", id="within a size line"),
        pytest.param(CHUNKED, b"5\r\nhello\r\n0", b"hello", id="size line cut down to 0"),
        pytest.param(CHUNKED, b"5\r\nhello\r\n0\r", b"hello", id="size line cut down to 0 and CR"),
        pytest.param(CHUNKED, b"5\r\nhello\r\n10;name", b"hello", id="within an extension"),
        pytest.param(CHUNKED, b"5\r\nhel", b"hel", id="within a chunk"),
        pytest.param(CHUNKED, b"5\r\nhello", b"hello", id="behind a chunk"),
        pytest.param(CHUNKED, b"5\r\nhello\r", b"hello", id="within the end of a chunk"),
        pytest.param(CHUNKED, b"5\r\nhello\r\n", b"hello", id="before the last chunk"),
        pytest.param({"content-length": "5"}, b"", b"", id="all of the length"),
        pytest.param({"content-length": "10"}, b"hello", b"hello", id="short of the length"),
    ],
)
def test_a_lost_connection_is_told_from_the_end(headers: dict[str, str], wire: bytes, content: bytes) -> None:
    """A body that its framing says is not over is a StreamInterruptedError when the connection ends."""
    for pieces in ([wire] if wire else [], single_bytes(wire)):
        outcome = read(headers, *pieces, CLOSE)
        assert outcome[:2] == (content, StreamInterruptedError)
        assert not outcome.complete


@pytest.mark.parametrize("encoding", ["gzip", "gzip of several members", "deflate", "raw deflate"])
@pytest.mark.parametrize("framing", ["chunked", "sized", "until close"])
@pytest.mark.parametrize("lost", [1, 4, 9, 100])
def test_compressed_data_that_ends_early_is_told_from_the_end(encoding: str, framing: str, lost: int) -> None:
    """Compressed data short of its end is a StreamInterruptedError even where the framing is in order."""
    coding, encoded = ENCODINGS[encoding]
    headers, wire = framings(coding, encoded[:-lost])[framing]
    outcome = read(headers, wire, CLOSE)
    assert outcome.error is StreamInterruptedError
    assert CONTENT.startswith(outcome.content)


FRAGMENTS = [
    b"5\r\nhello\r\n",
    b"5",
    b"0",
    b"f" * 16,
    b"\r\n",
    b"\r",
    b"\n",
    b";x",
    b'=";',
    b'"',
    b"hello",
    b"0\r\n",
    b"X: y\r\n",
]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map(b"".join).flatmap(cut), st.sampled_from([None, 8]))
def test_chunks_good_or_bad_are_judged_the_same_however_they_are_cut(pieces: list[bytes], limit: int | None) -> None:
    """Whether bytes are accepted as chunks does not depend on how the connection delivers them."""
    pieces = [piece for piece in pieces if piece]
    split = read(CHUNKED, *pieces, CLOSE, limit=limit)
    whole = read(CHUNKED, *([b"".join(pieces)] if pieces else []), CLOSE, limit=limit)
    assert split.error == whole.error
    if limit is None or split.error is None:  # the piece that goes beyond the limit may be large or small
        assert (split.content, split.complete) == (whole.content, whole.complete)


@given(
    st.sampled_from([{}, CHUNKED, {"content-length": "9"}]),
    st.sampled_from([{}, GZIP, {"content-encoding": "deflate"}]),
    st.lists(st.binary(min_size=1) | st.sampled_from([*FRAGMENTS, gzip.compress(b"")]), max_size=5),
)
def test_no_bytes_make_it_fail_otherwise(framing: dict[str, str], coding: dict[str, str], pieces: list[bytes]) -> None:
    """Whatever comes, it is content, a ProtocolError or a StreamInterruptedError."""
    assert read({**framing, **coding}, *pieces, CLOSE).error in (None, ProtocolError, StreamInterruptedError)


# The limit ----------------------------------------------------------------------------------------------------


@every_wire
def test_the_limit_counts_the_content(headers: dict[str, str], wire: bytes) -> None:
    """Content as large as the limit passes; one byte more is a ProtocolError that names the limit."""
    for pieces in ([wire], single_bytes(wire)):
        assert read(headers, *pieces, CLOSE, limit=len(CONTENT)) == (CONTENT, None, "", True)
        outcome = read(headers, *pieces, CLOSE, limit=len(CONTENT) - 1)
        assert outcome.error is ProtocolError
        assert f"max_response_bytes={len(CONTENT) - 1}" in outcome.message
        assert CONTENT.startswith(outcome.content)


@pytest.mark.parametrize("framing", ["chunked", "sized", "until close"])
def test_the_limit_does_not_count_compressed_bytes(framing: str) -> None:
    """Short content passes although compressing has made it longer than the limit."""
    headers, wire = framings("gzip", gzip.compress(b"hello"))[framing]
    assert read(headers, wire, CLOSE, limit=5) == (b"hello", None, "", True)


@pytest.mark.parametrize("framing", ["chunked", "sized", "until close"])
def test_a_gzip_bomb_never_stands_in_memory(framing: str) -> None:
    """50 MB of zeros come in blocks of at most 64 KiB, and no more of them are made than the limit allows."""
    limit = 2**20
    headers, wire = framings("gzip", gzip.compress(bytes(50_000_000)))[framing]
    blocks: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=f"max_response_bytes={limit}"):
            blocks.extend(map(len, Body(headers, limit=limit).feed(wire)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(blocks) <= 64 * 1024
    assert 0 < sum(blocks) <= limit
    assert peak < 4 * limit


@pytest.mark.parametrize(
    ("coding", "compress"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", raw_deflate)],
    ids=["gzip", "deflate", "raw deflate"],
)
@pytest.mark.parametrize("extra", [0, 1, 22, 100, 258, 300])
def test_the_end_of_a_block_loses_nothing(coding: str, compress: Callable[[bytes], bytes], extra: int) -> None:
    """Content a little larger than what is decompressed at a time comes whole."""
    content = bytes(64 * 1024 + extra)
    outcome = read({"content-encoding": coding}, compress(content), CLOSE)
    assert (len(outcome.content), outcome.error) == (len(content), None)
