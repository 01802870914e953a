"""Answers that are no HTTP/1, or whose head HTTP does not allow: refused at once, and never taken for an answer."""

from __future__ import annotations

import ssl

import pytest
import trustme
from faces import Face, Outcome
from raw_server import RawServer

from chatanywhere import APIStatusError, Client, InternalServerError, ProtocolError, Retry
from chatanywhere.testing import LoopbackServer

RETRY = Retry(attempts=3, backoff=0)


def ask(face: Face, server: RawServer) -> Outcome:
    with Client(base_url=server.url, protocol="web", retry=RETRY, timeout=5) as client:
        return face.ask(client)


def assert_refused(outcome: Outcome, server: RawServer) -> None:
    """It is a ProtocolError of one attempt, and nothing came out."""
    assert type(outcome.error) is ProtocolError, (outcome.error, outcome.text)
    assert outcome.text == outcome.error.partial == ""
    assert outcome.error.attempts == len(server.requests) == 1
    assert outcome.seconds < 4


# No HTTP/1 ----------------------------------------------------------------------------------------------------

SETTINGS = (
    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x80\x00\x04\x00\x01\x00\x00\x00\x05\x00\xff\xff\xff"
)
GOAWAY = b"\x00\x00\x08\x07\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01"

OTHER_PROTOCOLS = {
    "HTTP/2's settings": (SETTINGS, "HTTP/2"),
    "HTTP/2's settings and farewell": (SETTINGS + GOAWAY, "HTTP/2"),
    "a TLS 1.0 alert": (b"\x15\x03\x01\x00\x02\x02\x46", "TLS"),
    "a TLS 1.2 alert": (b"\x15\x03\x03\x00\x02\x02\x0a", "TLS"),
    "an SSH banner": (b"SSH-2.0-OpenSSH_9.6p1 Ubuntu-3ubuntu13\r\n", "SSH"),
    "an SMTP banner": (b"220 mail.example ESMTP Postfix\r\n", "220 mail.example"),
    "a line of text": (b"Hello! Who are you?\r\n", "Hello!"),
    "a web page without a head": (b"<!doctype html><title>Hi</title>\r\n\r\n", "<!doctype html>"),
    "a later version": (b"HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nno", "HTTP/2"),
    "internet radio": (b"ICY 200 OK\r\nContent-Length: 2\r\n\r\nno", "ICY"),
    "only zeros": (b"\x00", ""),
}

other_protocols = pytest.mark.parametrize(
    ("data", "words"), OTHER_PROTOCOLS.values(), ids=[name.replace("/", " ") for name in OTHER_PROTOCOLS]
)


@pytest.mark.parametrize("ends", [False, True], ids=["stays open", "closes"])
@other_protocols
def test_bytes_of_another_protocol_are_refused_at_once(
    raw_server: RawServer, face: Face, data: bytes, words: str, ends: bool
) -> None:
    """The error says what they look like, without another attempt, and does not wait for more of them."""
    raw_server.answer(data, *([] if ends else [raw_server.hold]))
    outcome = ask(face, raw_server)
    assert_refused(outcome, raw_server)
    assert words in str(outcome.error)


@other_protocols
def test_bytes_of_another_protocol_may_come_one_at_a_time(
    raw_server: RawServer, face: Face, data: bytes, words: str
) -> None:
    """However few of them come first."""
    raw_server.answer(*(bytes([byte]) for byte in data), raw_server.hold)
    assert_refused(ask(face, raw_server), raw_server)


def test_tls_on_a_plain_port_names_the_remedy(raw_server: RawServer, face: Face) -> None:
    """Who forgot the s in https:// is told so."""
    raw_server.answer(b"\x15\x03\x01\x00\x02\x02\x46", raw_server.hold)
    assert "https://" in str(ask(face, raw_server).error)


def test_a_server_with_tls_that_is_asked_without(face: Face) -> None:
    """A real one: its answer to a plain request, if there is any, is not taken for one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with LoopbackServer(["no"], tls=context) as server:
        url = server.url.replace("https:", "http:")
        outcome = face.ask(Client(base_url=url, protocol="web", retry=RETRY, timeout=5))
    assert outcome.error is not None
    assert outcome.text == ""
    assert not server.requests


# Heads --------------------------------------------------------------------------------------------------------

STATUS = b"HTTP/1.1 200 OK\r\n"
REST = b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\nno"

BAD_HEADS = {
    # Each made http.client drop the headers behind it, or take what is none.
    "a header without a colon": STATUS + b"no colon here\r\n" + REST,
    "a header of one word": STATUS + b"word\r\n" + REST,
    "a header without a colon at the end": STATUS + REST.replace(b"\r\n\r\n", b"\r\nword\r\n\r\n"),
    "a blank before the first name": STATUS + b" X-A: b\r\n" + REST,
    "a tab before the first name": STATUS + b"\tX-A: b\r\n" + REST,
    "a blank behind a name": STATUS + b"X-A : b\r\n" + REST,
    "a blank within a name": STATUS + b"X A: b\r\n" + REST,
    "a header without a name": STATUS + b": b\r\n" + REST,
    "a name that is not ASCII": STATUS + "X-Ä: b\r\n".encode() + REST,
    "a name in Latin-1": STATUS + b"X-\xc4: b\r\n" + REST,
    "NUL in a name": STATUS + b"X\x00A: b\r\n" + REST,
    "NUL in a value": STATUS + b"X-A: b\x00c\r\n" + REST,
    "a bare CR in a value": STATUS + b"X-A: b\rContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nno",
    "a bare CR at the end of a value": STATUS + b"X-A: b\r\r\n" + REST,
    "a bare CR in a name": STATUS + b"X\rA: b\r\n" + REST,
    "a bare CR for the end of a line": STATUS.replace(b"\r\n", b"\r") + REST,
    "a separator in a name": STATUS + b"X(A): b\r\n" + REST,
    "a quote in a name": STATUS + b'"X": b\r\n' + REST,
    # The first line
    "a first line that is folded": b"HTTP/1.1 200\r\n OK\r\n" + REST,
    "a first line that begins with a blank": b" " + STATUS + REST,
    "no status": b"HTTP/1.1\r\n" + REST,
    "a status of two digits": b"HTTP/1.1 20 OK\r\n" + REST,
    "a status of four digits": b"HTTP/1.1 2000 OK\r\n" + REST,
    "a status with a sign": b"HTTP/1.1 +20 OK\r\n" + REST,
    "a status that is a word": b"HTTP/1.1 OK 200\r\n" + REST,
    "no blank behind the status": b"HTTP/1.1 200OK\r\n" + REST,
    "a reason with NUL": b"HTTP/1.1 200 O\x00K\r\n" + REST,
    "a reason with a bare CR": b"HTTP/1.1 200 O\rK\r\n" + REST,
    "a version in small letters": b"http/1.1 200 OK\r\n" + REST,
    # Sizes and counts
    "a head without end": STATUS + b"X-A: " + b"b" * 2**20 + b"\r\n" + REST,
    "headers without end": STATUS + b"X-A: b\r\n" * 20_000 + REST,
}

bad_heads = pytest.mark.parametrize("wire", BAD_HEADS.values(), ids=list(BAD_HEADS))


@bad_heads
def test_a_head_that_http_does_not_allow_is_refused(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """One bad line refuses the head: no header behind it is lost, and no text comes out of what follows."""
    raw_server.answer(wire, raw_server.hold)
    assert_refused(ask(face, raw_server), raw_server)


@bad_heads
def test_a_bad_head_that_comes_byte_by_byte_is_refused(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """Where it is cut makes no difference."""
    raw_server.answer(*(bytes([byte]) for byte in wire[:400]), wire[400:], raw_server.hold)
    assert_refused(ask(face, raw_server), raw_server)


@bad_heads
def test_a_bad_head_is_refused_whatever_its_status(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """A malformed line is no reason to try again, though the status would be."""
    if b" 200" not in wire[:20]:
        wire = wire.replace(b" OK", b" Unavailable", 1)
    raw_server.answer(wire.replace(b" 200", b" 503", 1), raw_server.hold)
    assert_refused(ask(face, raw_server), raw_server)


BAD_BODIES = {
    "an unbalanced quote in a chunk extension": b'2;a="b\r\nno\r\n0\r\n\r\n',
    "a chunk size behind a lost header": b"x\r\nno\r\n",
}


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=list(BAD_BODIES))
def test_a_chunk_line_that_http_does_not_allow_is_refused(raw_server: RawServer, face: Face, body: bytes) -> None:
    """A size line is read to the letter, extensions included."""
    head = STATUS + b"Content-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw_server.answer(head + body, raw_server.hold)
    assert_refused(ask(face, raw_server), raw_server)


GOOD_HEADS = {
    "bare LF for the end of lines (RFC 9112, 2.2)": (STATUS + REST).replace(b"\r\n", b"\n"),
    "a value that is folded (RFC 9112, 5.2)": STATUS + b"X-A: b\r\n c\r\n" + REST,
    "no reason (RFC 9112, 4)": b"HTTP/1.1 200 \r\n" + REST,
    "no reason and no blank": b"HTTP/1.1 200\r\n" + REST,
    "HTTP 1.0": STATUS.replace(b"1.1", b"1.0") + REST,
    "bytes above ASCII in a value (RFC 9110, 5.5)": STATUS + b"X-A: \xc4\xe4\r\n" + REST,
    "an empty value": STATUS + b"X-A:\r\n" + REST,
    "blanks around a value": STATUS + b"X-A: \t b \t \r\n" + REST,
    "every character of a token in a name": STATUS + b"!#$%&'*+-.^_`|~09AZaz: b\r\n" + REST,
    "a colon in a value": STATUS + b"X-A: b: c\r\n" + REST,
}


@pytest.mark.parametrize("wire", GOOD_HEADS.values(), ids=[name.replace("/", " ") for name in GOOD_HEADS])
def test_a_head_that_http_allows_is_taken(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """Strict is not narrow."""
    raw_server.answer(wire)
    outcome = ask(face, raw_server)
    assert (outcome.text, outcome.error) == ("no", None)


def test_switching_protocols_is_refused(raw_server: RawServer, face: Face) -> None:
    """A 101 was not asked for; what follows it is no answer."""
    switching = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    raw_server.answer(switching + STATUS + REST, raw_server.hold)
    outcome = ask(face, raw_server)
    assert isinstance(outcome.error, (ProtocolError, APIStatusError)), repr(outcome.error)
    assert outcome.text == ""
    assert outcome.seconds < 4


def test_a_bad_head_on_a_reused_connection_is_refused(raw_server: RawServer, face: Face) -> None:
    """It is an answer, and not the loss of the connection: it is not sent again."""
    answers = iter([[STATUS + REST, None], [STATUS + b"word\r\n" + REST, raw_server.hold]])
    raw_server.steps = lambda _: next(answers)
    with Client(base_url=raw_server.url, protocol="web", retry=RETRY, timeout=5) as client:
        assert face.ask(client).text == "no"
        outcome = face.ask(client)
    assert type(outcome.error) is ProtocolError, repr(outcome.error)
    assert outcome.error.attempts == 1
    assert (len(raw_server.requests), raw_server.connections) == (2, 1)


# Values that can't be used ------------------------------------------------------------------------------------

BAD_VALUES = {
    "an unknown coding": b"Content-Encoding: rot13\r\nContent-Length: 2\r\n",
    "a length that is no number": b"Content-Length: abc\r\n",
    "a length with a sign": b"Content-Length: +2\r\n",
    "two lengths": b"Content-Length: 2\r\nContent-Length: 3\r\n",
    "two lengths in a list": b"Content-Length: 2, 3\r\n",
    "an unknown transfer coding": b"Transfer-Encoding: rot13\r\n",
}

bad_values = pytest.mark.parametrize("fields", BAD_VALUES.values(), ids=list(BAD_VALUES))


@bad_values
def test_a_status_is_not_lost_behind_unusable_values(raw_server: RawServer, face: Face, fields: bytes) -> None:
    """A 503 is one, and is tried again, whatever can't be made of its body."""
    answers = iter([[b"HTTP/1.1 503 Busy\r\n" + fields + b"\r\nno"]] * 2 + [[STATUS + REST]])
    raw_server.steps = lambda _: next(answers)
    outcome = ask(face, raw_server)
    assert (outcome.text, outcome.error) == ("no", None)
    assert len(raw_server.requests) == 3

    raw_server.answer(b"HTTP/1.1 503 Busy\r\n" + fields + b"\r\nno")
    outcome = ask(face, raw_server)
    assert type(outcome.error) is InternalServerError, repr(outcome.error)
    assert (outcome.error.status_code, outcome.error.attempts) == (503, 3)


@bad_values
def test_unusable_values_refuse_a_good_answer(raw_server: RawServer, face: Face, fields: bytes) -> None:
    """On a 200 they are a ProtocolError, and not a lost connection."""
    raw_server.answer(STATUS + fields + b"\r\nno", raw_server.hold)
    assert_refused(ask(face, raw_server), raw_server)
