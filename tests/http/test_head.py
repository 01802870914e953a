"""The head decoder: what is an answer's head and what is none, however the bytes are cut."""

from __future__ import annotations

import copy
import pickle
import time
from dataclasses import FrozenInstanceError

import pytest
from decoding import cuts
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere._errors import ProtocolError
from chatanywhere._http.body import Body
from chatanywhere._http.head import MAX_FIELDS, MAX_HEAD, MAX_INTERIM, Head, HeadDecoder, Headers

OK = b"HTTP/1.1 200 OK\r\n"


def read(*pieces: bytes) -> tuple[Head | None, bytes]:
    """The head that these pieces begin with, None if it is not whole, and all that follows it."""
    decoder = HeadDecoder()
    for number, piece in enumerate(pieces):
        head = decoder.feed(piece)
        if head is not None:
            return head, decoder.rest + b"".join(pieces[number + 1 :])
    return None, b""


def head_of(wire: bytes) -> Head:
    """The head of an answer, checked to be the same at every cut."""
    heads = [read(*pieces) for pieces in cuts(wire)]
    assert heads == [heads[0]] * len(heads)
    head, rest = heads[0]
    assert head is not None
    assert rest == b""
    return head


def headers_of(*fields: bytes) -> dict[str, str]:
    """The headers of an answer with these lines."""
    return dict(head_of(OK + b"".join(fields) + b"\r\n").headers)


def refusal_of(wire: bytes) -> str:
    """What is said of bytes that are no head, checked to be refused at every cut."""
    for pieces in cuts(wire)[1:]:
        with pytest.raises(ProtocolError):
            read(*pieces)
    with pytest.raises(ProtocolError) as caught:
        read(wire)
    return str(caught.value)


# Good heads ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status_line", "status_code"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.0 404 Not Found\r\n", 404),
        (b"HTTP/1.1 200 \r\n", 200),
        (b"HTTP/1.1 200\r\n", 200),
        (b"HTTP/1.1 503\n", 503),
        (b"HTTP/1.1 429 Too\tMany  Requests \r\n", 429),
        ("HTTP/1.1 200 没有问题\r\n".encode(), 200),
        (b"HTTP/1.1 999 Blocked\r\n", 999),
        (b"HTTP/1.2 200 OK\r\n", 200),
    ],
)
def test_a_status_line_is_read_as_rfc_9112_says(status_line: bytes, status_code: int) -> None:
    """The reason may be missing, in any encoding, and the minor version a later one."""
    head = head_of(status_line + b"\r\n")
    assert (head.status_code, dict(head.headers)) == (status_code, {})


@pytest.mark.parametrize(
    ("field", "name", "value"),
    [
        pytest.param(b"Server: a\r\n", "Server", "a", id="usual"),
        pytest.param(b"Server:a\r\n", "Server", "a", id="no blank"),
        pytest.param(b"Server: \t a, b  c \t\r\n", "Server", "a, b  c", id="blanks around"),
        pytest.param(b"Server:\r\n", "Server", "", id="no value"),
        pytest.param(b"Server: \t\r\n", "Server", "", id="blanks for a value"),
        pytest.param(b"Server: a:b\r\n", "Server", "a:b", id="colon in the value"),
        pytest.param(b"Server: a\n", "Server", "a", id="LF alone"),
        pytest.param(b"!#$%&'*+-.^_`|~09AZaz: a\r\n", "!#$%&'*+-.^_`|~09AZaz", "a", id="odd name"),
        pytest.param(b"Server: \xe9\xa0\x85\r\n", "Server", "\xe9\xa0\x85", id="Latin-1"),
        pytest.param(b"Server: \xa0a\x85\r\n", "Server", "\xa0a\x85", id="blanks of Latin-1"),
        pytest.param(b"Server: a\r\n b\r\n", "Server", "a b", id="folded"),
        pytest.param(b"Server: a \t\r\n \t b\r\n\tc \r\n", "Server", "a b c", id="folded twice, with blanks"),
        pytest.param(b"Server: a\n b\n", "Server", "a b", id="folded with LF alone"),
        pytest.param(b"Server: a\xa0\r\n \x85b\r\n", "Server", "a\xa0 \x85b", id="folded between blanks of Latin-1"),
        pytest.param(b"Server:\r\n a\r\n \r\n", "Server", "a", id="folds with nothing before and behind"),
        pytest.param(b"Server: a\r\n B: c\r\n", "Server", "a B: c", id="fold that looks like a header"),
    ],
)
def test_a_header_is_read_as_rfc_9112_says(field: bytes, name: str, value: str) -> None:
    """Blanks around the value are none of it, each fold is a blank, and bytes beyond ASCII are Latin-1."""
    assert headers_of(b"Before: 1\r\n", field, b"After: 2\r\n") == {"Before": "1", name: value, "After": "2"}


def test_repeated_headers_are_one() -> None:
    """Their values are joined in their order, under the name as it was spelt first."""
    assert headers_of(b"Via: a\r\n", b"Age: 1\r\n", b"VIA: b\r\n", b"via:\r\n") == {"Via": "a, b, ", "Age": "1"}


@pytest.mark.parametrize("rest", [b"", b"5\r\nhello\r\n", b"\r\n", OK + b"\r\n"])
def test_what_comes_behind_the_head_is_kept(rest: bytes) -> None:
    """The body's bytes that came with the head are handed on untouched, wherever the connection cut."""
    wire = OK + b"Server: a\r\n\r\n"
    for pieces in cuts(wire + rest):
        head, kept = read(*pieces)
        assert head == Head(200, Headers([("Server", "a")]), True)
        assert kept == rest


def test_a_body_takes_the_headers_of_a_head() -> None:
    """The decoders of head and body fit together: any case of names, framing and coding."""
    decoder = HeadDecoder()
    head = decoder.feed(OK + b"TRANSFER-encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert head is not None
    body = Body(head.headers, limit=None)
    assert (b"".join(body.feed(decoder.rest)), body.complete) == (b"hello", True)


# Interim answers ----------------------------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("interim", [CONTINUE, EARLY_HINTS, CONTINUE + EARLY_HINTS + CONTINUE])
def test_interim_answers_are_passed_over(interim: bytes) -> None:
    """What comes before the final answer leaves no trace in it."""
    head = head_of(interim + OK + b"Server: a\r\n\r\n")
    assert head == Head(200, Headers([("Server", "a")]), True)


def test_interim_answers_are_limited() -> None:
    """A server that never comes to the point is refused."""
    final = OK + b"\r\n"
    assert read(CONTINUE * MAX_INTERIM + final)[0] is not None
    for pieces in ([CONTINUE * (MAX_INTERIM + 1)], [CONTINUE] * (MAX_INTERIM + 1)):
        with pytest.raises(ProtocolError, match="more than 100 interim answers"):
            read(*pieces)


@pytest.mark.parametrize("bad", [b"HTTP/1.1 100 Continue\r\n a: b\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n\r\n"])
def test_interim_answers_are_read_as_strictly(bad: bytes) -> None:
    """What is refused in a final head is refused in an interim one, or behind it."""
    refusal_of(CONTINUE + bad + OK + b"\r\n")


def test_a_switch_of_protocols_is_refused() -> None:
    """Nobody asked for one, so what comes behind it can't be understood."""
    assert "101" in refusal_of(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\n\r\n")


def test_a_decoder_tells_whether_an_answer_began() -> None:
    """The first byte counts, be it of an interim answer or of no answer at all."""
    decoder = HeadDecoder()
    assert decoder.begun is False
    assert decoder.feed(b"H") is None
    assert decoder.begun is True
    interim = HeadDecoder()
    interim.feed(CONTINUE)
    assert interim.begun is True
    stranger = HeadDecoder()
    with pytest.raises(ProtocolError):
        stranger.feed(b"\0")
    assert stranger.begun is True


# Whether the connection may be used again ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: keep-alive\r\n", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"connection: foo,\tClose , keep-alive\r\n", False),
        (b"1.1", b"Connection: keep-alive\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.9", b"", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
        (b"1.0", b"Keep-Alive: timeout=5\r\n", False),
        (b"1.1", b"Transfer-Encoding: chunked\r\n", True),
        (b"1.1", b"Content-Length: 5\r\n", True),
        (b"1.1", b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", False),
        (b"1.0", b"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n", False),
    ],
)
def test_a_head_says_whether_the_connection_lasts(version: bytes, fields: bytes, keep_alive: bool) -> None:
    """It does as RFC 9112 says in its section 9.3, but never where the framing may be understood in two ways."""
    assert head_of(b"HTTP/" + version + b" 200 OK\r\n" + fields + b"\r\n").keep_alive is keep_alive


# Bad heads ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        pytest.param(b"no colon\r\n", id="no colon"),
        pytest.param(b"Name : a\r\n", id="blank before the colon"),
        pytest.param(b"Name\t: a\r\n", id="tab before the colon"),
        pytest.param(b": a\r\n", id="no name"),
        pytest.param(b"Na me: a\r\n", id="blank in the name"),
        pytest.param(b"Na(me): a\r\n", id="brackets in the name"),
        pytest.param(b'"Name": a\r\n', id="quotes in the name"),
        pytest.param(b"N\xc3\xa4me: a\r\n", id="name beyond ASCII"),
        pytest.param(b"Na\0me: a\r\n", id="NUL in the name"),
        pytest.param(b"Name: a\0\r\n", id="NUL in the value"),
        pytest.param(b"Name: a\x01b\r\n", id="control character"),
        pytest.param(b"Name: a\x0bb\r\n", id="vertical tab"),
        pytest.param(b"Name: a\x7f\r\n", id="DEL"),
        pytest.param(b"Name: a\rContent-Length: 5\r\n", id="lone CR"),
        pytest.param(b"Name: a\r\r\n", id="CR before the line end"),
        pytest.param(b"Name: a\r\n b\rc\r\n", id="lone CR in a fold"),
        pytest.param(b"Name: a\r\n b\0\r\n", id="NUL in a fold"),
        pytest.param(b"HTTP/1.1 200 OK\r\n", id="second status line"),
    ],
)
def test_a_bad_header_is_refused(field: bytes) -> None:
    """Headers that another reader might take for more, fewer or others are no headers, wherever they stand."""
    for before, after in ((b"", b""), (b"A: b\r\n", b""), (b"", b"A: b\r\n"), (b"A: b\n", b"A: b\n")):
        assert "header" in refusal_of(OK + before + field + after + b"\r\n")


@pytest.mark.parametrize("fold", [b" a\r\n", b"\ta: b\r\n", b" \r\n"])
def test_the_first_header_can_t_be_a_continuation(fold: bytes) -> None:
    """A blank at the beginning of the first line is refused; there is nothing that it could continue."""
    assert "header" in refusal_of(OK + fold + b"A: b\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1\r\n",
        b"HTTP/1.1 \r\n",
        b"HTTP/1. 200 OK\r\n",
        b"HTTP/1.10 200 OK\r\n",
        b"HTTP/1.x 200 OK\r\n",
        b"HTTP/1.1  200 OK\r\n",
        b"HTTP/1.1\t200 OK\r\n",
        b"HTTP/1.1 20 OK\r\n",
        b"HTTP/1.1 2000 OK\r\n",
        b"HTTP/1.1 +20 OK\r\n",
        b"HTTP/1.1 000 OK\r\n",
        b"HTTP/1.1 099 OK\r\n",
        "HTTP/1.1 ２００ OK\r\n".encode(),
        b"HTTP/1.1 200OK\r\n",
        b"HTTP/1.1 200\tOK\r\n",
        b"HTTP/1.1 200 O\0K\r\n",
        b"HTTP/1.1 200 O\rK\r\n",
        b"HTTP/1.1 200 OK\r\r\n",
        b"HTTP/1.1: 200\r\n",
    ],
)
def test_a_bad_status_line_is_refused(line: bytes) -> None:
    """What only resembles a status line is a ProtocolError that shows it."""
    assert "status line" in refusal_of(line + b"A: b\r\n\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/2.0 200 OK\r\n",
        b"HTTP/0.9 200 OK\r\n",
        b"http/1.1 200 OK\r\n",
        b"ICY 200 OK\r\n",
        b"HTTPS/1.1 200 OK\r\n",
        b" HTTP/1.1 200 OK\r\n",
        b"\r\nHTTP/1.1 200 OK\r\n",
        b"<!doctype html>\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\0\0\0\0\0",
        b"\0\0\x12\x04\0\0\0\0\1",
        b"\x16\x02\x01",
    ],
)
def test_what_is_no_answer_is_refused_at_its_first_wrong_byte(line: bytes) -> None:
    """No line end is waited for, and the beginning is shown as it is."""
    wrong = next(place for place in range(7) if line[place : place + 1] != b"HTTP/1."[place : place + 1])
    decoder = HeadDecoder()
    for place in range(wrong):
        assert decoder.feed(line[place : place + 1]) is None
    with pytest.raises(ProtocolError, match="not an HTTP/1 answer"):
        decoder.feed(line[wrong : wrong + 1])
    assert repr(line) in refusal_of(line)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"\x15\x03\x01\x00\x02\x02\x50", "the server speaks TLS: use https://", id="TLS alert"),
        pytest.param(b"\x16\x03\x03\x00\x7a\x02", "the server speaks TLS: use https://", id="TLS handshake"),
        pytest.param(b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80", "HTTP/2", id="SETTINGS"),
        pytest.param(b"\0\0\x08\x07\0\0\0\0\0" + bytes(8), "HTTP/2", id="GOAWAY"),
        pytest.param(b"\0\x01\x08\x07\0\0\0\0\0", "HTTP/2", id="GOAWAY with words"),
    ],
)
def test_the_protocol_that_a_server_speaks_instead_is_named(data: bytes, words: str) -> None:
    """A port of TLS, or a server of HTTP/2 alone, is told by its first bytes, and with what to do about it."""
    assert words in refusal_of(data)
    assert words in refusal_of(data[:5])


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(b"\xff" * 60_000, id="no answer"),
        pytest.param(b"HTTP/1.1 200" + b"\x01" * 60_000 + b"\r\n\r\n", id="status line"),
        pytest.param(OK + b"\x01" * 60_000 + b"\r\n\r\n", id="header"),
        pytest.param(OK + b"A: " + b"x" * 60_000 + b"\0\r\n\r\n", id="value"),
        pytest.param(OK + b"\xe4\xbd\xa0: a\r\n\r\n", id="beyond ASCII"),
        pytest.param(OK + b"A: " + b"x" * 70_000, id="too large"),
        pytest.param(OK + b"A: xxxxxxxxx\r\n" * 300 + b"\r\n", id="too many"),
    ],
)
def test_errors_are_short_and_printable(wire: bytes) -> None:
    """Of what is refused an error shows no more than the beginning."""
    with pytest.raises(ProtocolError) as caught:
        read(wire)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


def test_an_error_shows_the_line_that_is_wrong() -> None:
    """It is that line, as far as its end."""
    message = refusal_of(OK + b"A: b\r\nno colon\r\nC: d\r\n\r\n")
    assert message == r"not a header of an HTTP/1 answer: 'no colon\r'"


# Limits -------------------------------------------------------------------------------------------------------


def large(size: int) -> bytes:
    """A head of so many bytes."""
    return OK + b"A: " + b"x" * (size - len(OK) - 7) + b"\r\n\r\n"


def test_a_head_has_a_largest_size() -> None:
    """One of 64 KiB passes, whatever comes behind it; one byte more does not, whole or in pieces."""
    for size in (1, 1000, MAX_HEAD):
        fits, too_large = large(MAX_HEAD) + b"rest" * 9, large(MAX_HEAD + 1)
        head, rest = read(*(fits[place : place + size] for place in range(0, len(fits), size)))
        assert head is not None
        assert rest == b"rest" * 9
        with pytest.raises(ProtocolError, match="larger than 65536 bytes"):
            read(*(too_large[place : place + size] for place in range(0, len(too_large), size)))


def test_a_head_that_never_ends_is_refused() -> None:
    """Waiting for more stops at the limit."""
    decoder = HeadDecoder()
    assert decoder.feed(OK) is None
    with pytest.raises(ProtocolError, match="larger than 65536 bytes"):
        decoder.feed(b"x" * (MAX_HEAD - len(OK)))


def test_a_head_has_a_largest_number_of_headers() -> None:
    """200 pass, repeated or not; one more does not."""
    assert read(OK + b"A: b\r\n" * MAX_FIELDS + b"\r\n")[0] is not None
    with pytest.raises(ProtocolError, match="more than 200 headers"):
        read(OK + b"A: b\r\n" * (MAX_FIELDS + 1) + b"\r\n")


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(large(MAX_HEAD), id="one long value"),
        pytest.param(OK + b"A: b" + b" " * 65_000 + b"c\r\n d\r\n\r\n", id="blanks before a fold"),
        pytest.param(OK + b"A: b\r\n" + b" \r\n" * 21_000 + b"\r\n", id="folds"),
        pytest.param(OK + b"A: b\r\n" + b" \r\n" * 21_000 + b" \0\r\n\r\n", id="folds, then NUL"),
        pytest.param(OK + b"A: b" + b" " * 65_000 + b"\0\r\n\r\n", id="blanks, then NUL"),
        pytest.param(OK + b"A" * 65_000 + b"\r\n\r\n", id="long name without a colon"),
        pytest.param(OK + b"A:\n" * 21_000 + b"\r\n", id="many headers"),
        pytest.param(OK + b"\r" * 65_000, id="CR"),
        pytest.param(b"HTTP/1.1 200 " + b" " * 65_000 + b"\0\r\n\r\n", id="blanks in the status line"),
    ],
)
def test_no_head_takes_long(wire: bytes) -> None:
    """The largest and oddest heads take milliseconds, whole or byte by byte; in quadratic time it would be minutes."""
    began = time.process_time()
    for pieces in ([wire], [wire[place : place + 1] for place in range(len(wire))]):
        try:
            read(*pieces)
        except ProtocolError:
            pass
    assert time.process_time() - began < 5


# Any bytes ----------------------------------------------------------------------------------------------------

FRAGMENTS = [
    OK,
    b"HTTP/1.1 ",
    b"HTTP/1.0 204\r\n",
    CONTINUE,
    b"A: b",
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b":",
    b"\0",
    b"\xff",
    b"Connection: close\r\n",
    b"\r\n\r\n",
]


def outcome(pieces: list[bytes]) -> tuple[Head | None, bytes] | type[ProtocolError]:
    try:
        return read(*pieces)
    except ProtocolError:
        return ProtocolError


@given(st.lists(st.sampled_from(FRAGMENTS) | st.binary(max_size=4), max_size=8), st.booleans())
def test_bytes_good_or_bad_are_judged_the_same_however_they_are_cut(pieces: list[bytes], likely: bool) -> None:
    """Whatever comes, it is a head, the beginning of one, or a ProtocolError; no cut changes which."""
    wire = b"".join([OK, *pieces] if likely else pieces)
    whole = outcome([wire])
    for cut in cuts(wire):
        assert outcome(cut) == whole


TOKENS = st.text("!#$%&'*+-.^_`|~09AZaz", min_size=1)
VALUES = st.text([chr(code) for code in (9, *range(32, 127), *range(128, 256))]).map(lambda text: text.strip(" \t"))


@given(st.lists(st.tuples(TOKENS, VALUES), max_size=8), st.integers(200, 999), st.sampled_from(["\r\n", "\n"]))
def test_what_was_written_is_read(fields: list[tuple[str, str]], status_code: int, line_end: str) -> None:
    """Any names and values that RFC 9110 allows come out as they went in."""
    lines = [f"HTTP/1.1 {status_code} any", *(f"{name}: {value}" for name, value in fields), "", ""]
    head, _ = read(line_end.join(lines).encode("latin-1"))
    assert head is not None
    assert (head.status_code, head.headers) == (status_code, Headers(fields))


# Values -------------------------------------------------------------------------------------------------------

HEADERS = Headers([("Content-Type", "text/plain"), ("X-A", "1"), ("x-a", "2")])


def test_headers_are_found_in_any_case() -> None:
    """A name finds its value however it is spelt; iterating gives the spelling that came first."""
    for name in ("x-a", "X-A", "X-a"):
        assert HEADERS[name] == HEADERS.get(name) == HEADERS.get(name, "none") == "1, 2"
        assert name in HEADERS
    assert list(HEADERS) == ["Content-Type", "X-A"]
    assert len(HEADERS) == 2
    assert dict(HEADERS) == {"Content-Type": "text/plain", "X-A": "1, 2"}


def test_headers_that_are_not_there_are_missed_as_in_any_mapping() -> None:
    """A name that is not there is a KeyError, None, or what was given for this case."""
    with pytest.raises(KeyError):
        HEADERS["x"]
    assert HEADERS.get("x") is None
    assert HEADERS.get("x", "none") == "none"
    assert "x" not in HEADERS
    assert 5 not in HEADERS


def test_headers_are_equal_to_mappings_with_the_same_names_and_values() -> None:
    """The case of names makes no difference, that of values does."""
    assert Headers([("X-A", "1, 2"), ("content-type", "text/plain")]) == HEADERS
    assert HEADERS == {"CONTENT-TYPE": "text/plain", "x-a": "1, 2"}
    assert HEADERS != {"Content-Type": "TEXT/plain", "X-A": "1, 2"}
    assert Headers() == {}
    assert HEADERS != [("Content-Type", "text/plain"), ("X-A", "1, 2")]


def test_headers_show_what_they_hold() -> None:
    """The repr can be pasted."""
    assert repr(HEADERS) == "Headers([('Content-Type', 'text/plain'), ('X-A', '1, 2')])"
    assert eval(repr(HEADERS)) == HEADERS


@pytest.mark.parametrize("value", [HEADERS, Head(200, HEADERS, True)], ids=["headers", "head"])
def test_values_are_copied_and_pickled(value: object) -> None:
    """What an error carries goes to other processes with it."""
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        again = pickle.loads(pickle.dumps(value, protocol))
        assert again == value
        assert repr(again) == repr(value)
    assert copy.deepcopy(value) == copy.copy(value) == value


def test_a_head_does_not_change() -> None:
    """It can be handed to anyone."""
    head = head_of(OK + b"\r\n")
    with pytest.raises(FrozenInstanceError):
        head.status_code = 500  # type: ignore[misc]
    with pytest.raises(TypeError):
        head.headers["a"] = "b"  # type: ignore[index]
