"""What comes through real sockets: framing, pieces on time, cut and malformed answers, time limits."""

from __future__ import annotations

import contextlib
import gzip
import json
import select
import socket
import ssl
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from faces import Face
from raw_server import RawServer, sockets_to

from chatanywhere import (
    APIConnectionError,
    APITimeoutError,
    ChatAnywhereError,
    Client,
    ProtocolError,
    Retry,
    StreamInterruptedError,
    Timeout,
)
from chatanywhere._http import connections, dialing

TEXT = "天若有情，天亦老。🙂é"


@pytest.fixture(params=["own", "public"], autouse=True)
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How an answer is read: in the package's own way, or through urllib3's public method.

    The latter is what happens where urllib3's fork has taken its place.
    """
    if request.param == "public":
        monkeypatch.setattr(connections, "BUILDS_ON_HTTP_CLIENT", False)
    return str(request.param)


only_own_reading = pytest.mark.parametrize("reading", ["own"], indirect=True)
"""What is tested is beyond http.client and urllib3."""

Framing = Callable[[str, "list[bytes]"], "list[bytes]"]
"""Turns pieces of content into pieces of an answer as they are on the wire."""


def head(content_type: str, *fields: str) -> bytes:
    return "\r\n".join(("HTTP/1.1 200 OK", f"Content-Type: {content_type}", *fields, "\r\n")).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def chunked(content_type: str, pieces: list[bytes]) -> list[bytes]:
    return [head(content_type, "Transfer-Encoding: chunked"), *map(chunk, pieces), b"0\r\n\r\n"]


def sized(content_type: str, pieces: list[bytes]) -> list[bytes]:
    return [head(content_type, f"Content-Length: {sum(map(len, pieces))}"), *pieces]


def until_close(content_type: str, pieces: list[bytes]) -> list[bytes]:
    return [head(content_type, "Connection: close"), *pieces]


def gzipped(content_type: str, pieces: list[bytes]) -> list[bytes]:
    compressor = zlib.compressobj(wbits=31)
    flushed = [compressor.compress(piece) + compressor.flush(zlib.Z_SYNC_FLUSH) for piece in pieces]
    framed = [*map(chunk, [*flushed, compressor.flush()]), b"0\r\n\r\n"]
    return [head(content_type, "Transfer-Encoding: chunked", "Content-Encoding: gzip"), *framed]


framings = pytest.mark.parametrize("framing", [chunked, sized, until_close, gzipped])
protocols = pytest.mark.parametrize("protocol", ["web", "openai"])


def content_of(protocol: str, texts: list[str]) -> tuple[str, list[bytes]]:
    """The content type, and the texts as that protocol carries them."""
    if protocol == "web":
        return "text/plain", [text.encode() for text in texts]
    events = [{"choices": [{"delta": {"content": text}}]} for text in texts]
    lines = [f"data: {json.dumps(event, ensure_ascii=False)}\n\n".encode() for event in events]
    return "text/event-stream", [*lines, b"data: [DONE]\n\n"]


def client_of(server: RawServer, protocol: str = "web", **settings: object) -> Client:
    return Client("k", base_url=server.url, protocol=protocol, **{"retry": None, "timeout": 10, **settings})  # type: ignore[arg-type]


@framings
@protocols
def test_text_split_at_every_byte_comes_out_whole(raw_server: RawServer, framing: Framing, protocol: str) -> None:
    """A character cut by the network is put together again, wherever the cut is and however the body is framed."""
    content_type, pieces = content_of(protocol, [TEXT])
    content = b"".join(pieces)
    kept = [] if framing is until_close else [None]
    with client_of(raw_server, protocol) as client:
        for cut in range(1, len(content)):
            raw_server.answer(*framing(content_type, [content[:cut], content[cut:]]), *kept)
            with client.stream("Hello") as stream:
                assert "".join(stream) == TEXT


@framings
@protocols
def test_bytes_sent_one_at_a_time_come_out_whole(
    raw_server: RawServer, face: Face, framing: Framing, protocol: str
) -> None:
    """A server that sends single bytes, headers and framing included, is understood."""
    content_type, pieces = content_of(protocol, [TEXT])
    raw_server.answer(*(bytes([byte]) for byte in b"".join(framing(content_type, pieces))))
    assert face.ask(client_of(raw_server, protocol)).text == TEXT


@framings
@protocols
def test_a_piece_is_passed_on_when_it_arrives(
    raw_server: RawServer, face: Face, framing: Framing, protocol: str
) -> None:
    """No piece waits for the next one: the server sends each only after the one before it has been read."""
    texts = ["one", "二", "three"]
    content_type, pieces = content_of(protocol, texts)
    read = [threading.Event() for _ in texts]

    def wait_for(event: threading.Event) -> Callable[[socket.socket], None]:
        return lambda _: event.wait(10) or pytest.fail("the piece before was withheld")

    wire = framing(content_type, pieces)
    steps = [wire[0]]
    for number, piece in enumerate(wire[1:]):
        steps += [wait_for(read[number - 1]), piece] if 0 < number < len(texts) else [piece]
    raw_server.answer(*steps)
    unread = iter(read)
    outcome = face.ask(client_of(raw_server, protocol), on_piece=lambda _: next(unread).set())
    assert outcome.pieces == texts
    assert outcome.seconds < 5


BEGUN = head("text/plain", "Transfer-Encoding: chunked") + chunk("天若".encode())

BAD_CHUNKS = {
    "size with a sign": BEGUN + b"+2\r\nab\r\n",
    "size as a literal": BEGUN + b"0x2\r\nab\r\n",
    "size with an underscore": BEGUN + b"0_2\r\nab\r\n",
    "size behind a space": BEGUN + b" 2\r\nab\r\n",
    "size line without CR": BEGUN + b"2\nab\r\n0\r\n\r\n",
    "no line end behind a chunk": BEGUN + b"2\r\nab3\r\nabc\r\n0\r\n\r\n",
    "a chunk of 8 GB": BEGUN + b"200000000\r\n",
    "a chunk of 2**63": BEGUN + b"8000000000000000\r\n",
}

BAD_TEXT = {
    "bytes that are not UTF-8": BEGUN + chunk(b"\xff"),
    "a character cut by the end": BEGUN + chunk("有".encode()[:2]) + b"0\r\n\r\n",
}

CUT = {
    "in a chunk": BEGUN + b"9\r\nab",
    "behind a chunk": BEGUN,
    "in a size line": BEGUN + b"1",
    "in a sized body": head("text/plain", "Content-Length: 99") + "天若".encode(),
}


@only_own_reading
@pytest.mark.parametrize("wire", BAD_CHUNKS.values(), ids=BAD_CHUNKS.keys())
def test_a_bad_chunk_is_an_error_that_keeps_the_text(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """What HTTP does not allow is a ProtocolError, and the text before it is not lost."""
    raw_server.answer(wire)
    outcome = face.ask(client_of(raw_server))
    assert type(outcome.error) is ProtocolError
    assert outcome.text.removesuffix("ab") == "天若"  # "ab" is what a chunk held before it went wrong
    assert outcome.error.partial == outcome.text


@pytest.mark.parametrize("wire", BAD_TEXT.values(), ids=BAD_TEXT.keys())
def test_bad_text_is_an_error_that_keeps_the_text_before_it(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """What UTF-8 does not allow is a ProtocolError."""
    raw_server.answer(wire)
    outcome = face.ask(client_of(raw_server))
    assert type(outcome.error) is ProtocolError
    assert outcome.text == "天若"
    assert outcome.error.partial == "天若"


@pytest.mark.parametrize("wire", CUT.values(), ids=CUT.keys())
def test_a_cut_answer_is_an_error_that_keeps_the_text(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """A connection that ends before the answer does is never taken for success."""
    raw_server.answer(wire)
    outcome = face.ask(client_of(raw_server))
    assert type(outcome.error) is StreamInterruptedError
    assert outcome.text.removesuffix("ab") == "天若"  # "ab" is the cut chunk's beginning
    assert outcome.error.partial == outcome.text


@only_own_reading
def test_an_answer_cut_within_a_size_line_is_not_complete(raw_server: RawServer, face: Face) -> None:
    """A size that has lost its other digits, and is 0 without them, does not end the answer."""
    raw_server.answer(BEGUN + b"0")
    outcome = face.ask(client_of(raw_server))
    assert type(outcome.error) is StreamInterruptedError
    assert outcome.error.partial == "天若"


def test_truncated_gzip_is_an_error_that_keeps_the_text(raw_server: RawServer, face: Face) -> None:
    """A compressed body that is framed as complete but ends too early is not taken for success."""
    wire = gzipped("text/plain", ["天若".encode()])
    raw_server.answer(*wire[:-2], b"0\r\n\r\n")
    outcome = face.ask(client_of(raw_server))
    assert type(outcome.error) is StreamInterruptedError
    assert outcome.error.partial == "天若"


def test_compressed_framing_is_refused(raw_server: RawServer, face: Face) -> None:
    """A Transfer-Encoding other than chunked is an error, not framing handed out as text."""
    raw_server.answer(head("text/plain", "Transfer-Encoding: gzip, chunked") + chunk(gzip.compress(b"text")))
    assert type(face.ask(client_of(raw_server)).error) is ProtocolError


def test_a_reset_within_the_answer_keeps_the_text(raw_server: RawServer, face: Face) -> None:
    """A connection reset in the middle is a StreamInterruptedError with the text so far."""
    read = threading.Event()

    def reset(connection: socket.socket) -> None:
        read.wait(10)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    raw_server.answer(BEGUN, reset)
    outcome = face.ask(client_of(raw_server), on_piece=lambda _: read.set())
    assert type(outcome.error) is StreamInterruptedError
    assert outcome.error.partial == "天若"


@only_own_reading
@pytest.mark.parametrize(
    "wire",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 200 OK\r\nContent-Type: text", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n"],
    ids=["before the answer", "in the status line", "in a header", "behind a header"],
)
def test_a_connection_lost_in_the_head_is_an_error(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """Half a head is not a short answer."""
    raw_server.answer(wire)
    assert type(face.ask(client_of(raw_server)).error) is APIConnectionError


@pytest.mark.parametrize("wire", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 two hundred\r\n\r\n"])
def test_what_is_not_http_is_a_protocol_error(raw_server: RawServer, face: Face, wire: bytes) -> None:
    """A server that speaks something else is told apart from one that can't be reached."""
    raw_server.answer(wire)
    assert type(face.ask(client_of(raw_server)).error) is ProtocolError


def drip(data: bytes) -> Callable[[socket.socket], None]:
    """A step: send a byte every 50 ms, for 20 s at most."""

    def step(connection: socket.socket) -> None:
        pause = threading.Event()
        for byte in (data * 400)[:400]:
            connection.sendall(bytes([byte]))
            pause.wait(0.05)

    return step


DRIPS = {
    "headers": drip(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 400),
    "a chunk": drip(head("text/plain", "Transfer-Encoding: chunked") + b"fff\r\n" + b"x" * 400),
}


@pytest.mark.parametrize("step", DRIPS.values(), ids=DRIPS.keys())
def test_total_holds_against_a_drip(raw_server: RawServer, face: Face, step: Callable[[socket.socket], None]) -> None:
    """Bytes that keep coming do not extend the total."""
    raw_server.answer(step)
    outcome = face.ask(client_of(raw_server, timeout=Timeout(total=0.5)))
    assert isinstance(outcome.error, APITimeoutError)
    assert outcome.error.phase == "total"
    assert 0.45 < outcome.seconds < 2


def test_total_holds_against_a_flood(raw_server: RawServer, face: Face) -> None:
    """Bytes that are always there do not extend the total, however late it is looked at."""

    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")

    raw_server.answer(BEGUN, flood)
    outcome = face.ask(client_of(raw_server, timeout=Timeout(total=0.2)))  # before it has sent max_response_bytes
    assert isinstance(outcome.error, APITimeoutError)
    assert outcome.error.phase == "total"
    assert outcome.seconds < 2


@pytest.mark.parametrize(("begun", "phase"), [(b"", "headers"), (BEGUN, "read")])
def test_silence_ends_with_the_read_limit(raw_server: RawServer, face: Face, begun: bytes, phase: str) -> None:
    """A server that falls silent is given `read` seconds, and the error says where it was."""
    raw_server.answer(begun, raw_server.hold)
    outcome = face.ask(client_of(raw_server, timeout=Timeout(total=10, read=0.3)))
    assert isinstance(outcome.error, APITimeoutError)
    assert outcome.error.phase == phase
    assert outcome.error.partial == outcome.text
    assert 0.25 < outcome.seconds < 2


def test_the_connection_of_a_finished_answer_is_used_again(raw_server: RawServer, face: Face) -> None:
    """Two calls in a row need one connection, on each protocol."""
    for protocol in ("web", "openai"):
        before = raw_server.connections
        content_type, pieces = content_of(protocol, [TEXT])
        raw_server.answer(*chunked(content_type, pieces), None)
        client = client_of(raw_server, protocol)
        assert [face.ask(client).text for _ in range(2)] == [TEXT, TEXT]
        assert raw_server.connections == before + 1
        client.close()


def test_done_ends_the_answer_though_the_connection_stays_open(raw_server: RawServer, face: Face) -> None:
    """`[DONE]` is the end: a server that then keeps silent delays it only by a moment."""
    content_type, pieces = content_of("openai", [TEXT])
    raw_server.answer(*until_close(content_type, pieces), raw_server.hold)
    for timeout in (10, None):
        outcome = face.ask(client_of(raw_server, "openai", timeout=timeout))
        assert (outcome.text, outcome.error) == (TEXT, None)
        assert outcome.seconds < 3


@only_own_reading
def test_bytes_behind_the_end_cost_the_connection_but_not_the_answer(raw_server: RawServer, face: Face) -> None:
    """A connection on which more came than was asked for is not used again."""
    answer = b"".join(chunked("text/plain", [TEXT.encode()]))  # at once: what comes later, nobody could tell
    raw_server.answer(answer + b"HTTP/1.1 500 stray\r\n\r\n", raw_server.hold)
    client = client_of(raw_server)
    assert face.ask(client).text == TEXT
    assert face.ask(client).text == TEXT
    assert raw_server.connections == 2


@only_own_reading
def test_a_hundred_thousand_small_chunks_come_out_in_order(raw_server: RawServer, face: Face) -> None:
    """A burst is read in large pieces without losing or reordering anything."""
    texts = [f"{number}," for number in range(100_000)]
    raw_server.answer(
        head("text/plain", "Transfer-Encoding: chunked"), b"".join(chunk(t.encode()) for t in texts), b"0\r\n\r\n"
    )
    outcome = face.ask(client_of(raw_server))
    assert outcome.text == "".join(texts)
    assert len(outcome.pieces) < len(texts) / 10


@pytest.mark.parametrize("head_", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 No Content\r\n\r\n"])
def test_an_answer_without_a_body_is_over_at_once(raw_server: RawServer, face: Face, head_: bytes) -> None:
    """Nothing is waited for where nothing can come; on the openai protocol an empty answer is a cut one."""
    raw_server.answer(head_, raw_server.hold)
    outcome = face.ask(client_of(raw_server))
    assert (outcome.text, outcome.error) == ("", None)
    outcome = face.ask(client_of(raw_server, "openai"))
    assert type(outcome.error) is StreamInterruptedError
    assert outcome.seconds < 2


def test_what_a_failed_attempt_told_is_not_kept(raw_server: RawServer) -> None:
    """Usage of an attempt that came to nothing is not reported for the one that succeeds."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    first = [f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode()]
    _, second = content_of("openai", [TEXT])
    answers = iter([until_close("text/event-stream", first), until_close("text/event-stream", second)])
    raw_server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]
    client = client_of(raw_server, "openai", retry=Retry(attempts=2, backoff=0))
    completion = client.complete("Hello")
    assert (completion.text, completion.usage) == (TEXT, None)


def test_a_server_that_refuses_is_a_connection_error(face: Face) -> None:
    """A port on which nobody listens is an APIConnectionError that counts its attempts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    outcome = face.ask(Client("k", base_url=url, retry=1))
    assert isinstance(outcome.error, APIConnectionError)
    assert outcome.error.attempts == 1
    assert isinstance(outcome.error, ChatAnywhereError)


@only_own_reading
def test_interim_answers_are_skipped(raw_server: RawServer, face: Face) -> None:
    """Heads such as 103 Early Hints may come before the answer's own (RFC 8297)."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>\r\n\r\n"
    raw_server.answer(b"HTTP/1.1 102 Processing\r\n\r\n", hints + hints, *chunked("text/plain", [b"one", b"two"]))
    assert face.ask(Client(base_url=raw_server.url, protocol="web")).text == "onetwo"


@only_own_reading
def test_interim_answers_without_end_are_refused(raw_server: RawServer, face: Face) -> None:
    """A server that sends nothing else has not answered."""
    raw_server.answer(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)
    outcome = face.ask(Client(base_url=raw_server.url, protocol="web"))
    assert type(outcome.error) is ProtocolError


@pytest.mark.parametrize("farewell", [True, False], ids=["close_notify", "cut"])
def test_over_tls_an_end_without_farewell_is_a_cut(tmp_path: Path, farewell: bool, face: Face) -> None:
    """Where the end of the connection ends the answer, TLS tells whether the server meant it (RFC 9112, 9.8)."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    def serve() -> None:
        connection, _ = listener.accept()
        connection.settimeout(10)
        with context.wrap_socket(connection, server_side=True) as tls:
            received = b""
            while not received.endswith(b"}"):
                received += tls.recv(65536)
            tls.sendall(b"".join(until_close("text/plain", [TEXT.encode()])))
            if farewell:
                with contextlib.suppress(ssl.SSLError):  # it waits for the client's farewell, which does not come
                    tls.unwrap()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = threading.Thread(target=serve)
        server.start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        client = Client(base_url=url, protocol="web", verify=tmp_path / "ca.pem", retry=None)
        outcome = face.ask(client)
        client.close()
        server.join(10)
    assert outcome.text == TEXT
    if farewell:
        assert outcome.error is None
    else:
        assert isinstance(outcome.error, StreamInterruptedError)
        assert outcome.error.partial == TEXT


@only_own_reading
def test_a_reset_before_the_handshake_leaves_no_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is gone when TLS is to begin is closed at once, not when its error is forgotten."""
    dial = dialing.dial

    def reset(*args: Any) -> socket.socket:
        sock = dial(*args)
        peer, _ = listener.accept()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        peer.close()
        select.select([sock], [], [], 10)  # the reset has arrived
        return sock

    monkeypatch.setattr(dialing, "dial", reset)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(APIConnectionError) as caught:
            Client("k", base_url=f"https://127.0.0.1:{port}", retry=None).complete("Hello")
        assert not sockets_to(port)
    assert isinstance(caught.value.__cause__, ConnectionResetError)
