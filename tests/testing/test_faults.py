"""The loopback server's faults: what exactly goes over the wire, seen by clients that share no code with it."""

from __future__ import annotations

import email.utils
import json
import os
import pickle
import socket
import socketserver
import ssl
import struct
import threading
import time
import types
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme
from waiting import until

from chatanywhere.testing import Fault, LoopbackServer, Request

TIMEOUT = 20.0  # seconds; reached only when something hangs
NEVER = 3600.0  # seconds; a wait that ends only because the server is closed
PROMPT = 2.0  # seconds that a close may take on a busy machine

PIECES = ["one", "two, 二", "three"]


# What a healthy answer is, byte by byte


def _chunk(data: str) -> tuple[bytes, bytes]:
    """Return a chunk's size line, and the rest of it."""
    content = data.encode()
    return b"%x\r\n" % len(content), content + b"\r\n"


def _event(delta: str, finish_reason: str = "null") -> str:
    return (
        'data: {"id": "chatcmpl-000000000000000000000000", "created": 0, "model": "gpt-4o-mini", '
        '"object": "chat.completion.chunk", '
        f'"choices": [{{"index": 0, "delta": {delta}, "finish_reason": {finish_reason}}}]}}\n\n'
    )


@dataclass(frozen=True)
class Form:
    """One of the forms in which the service answers a chat."""

    path: str
    body: dict[str, Any]
    content_type: str
    parts: list[tuple[bytes, bytes]]
    """The chunks up to the last piece; a body that is not chunked is one part without a size line."""
    opening: int
    """How many of these stand before the first piece."""
    ending: list[tuple[bytes, bytes]]
    framing: str = "Transfer-Encoding: chunked"

    @property
    def request(self) -> bytes:
        content = json.dumps(self.body).encode()
        head = f"POST {self.path} HTTP/1.1\r\nAuthorization: Bearer key\r\nConnection: close\r\n"
        return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content

    def head(self, *more: str) -> bytes:
        lines = [
            "HTTP/1.1 200 OK",
            "Date: today",
            f"Content-Type: {self.content_type}",
            f"x-request-id: {'0' * 32}",
            "Connection: close",
            *more,
            self.framing,
        ]
        return "\r\n".join([*lines, "", ""]).encode()

    @property
    def whole(self) -> bytes:
        return self.up_to(at="end") + (b"0\r\n\r\n" if self.ending else b"")

    def up_to(self, *, at: str = "piece", after: int = 0) -> bytes:
        """Return what is sent before a fault strikes at this place."""
        if at in ("accept", "head"):
            return b""
        head = self.head()
        if at == "fields":
            return head[: head.index(b"\n") + 1]
        if at == "headers":
            return head[: len(head) // 2]
        parts = [*self.parts, *self.ending[:-1]]
        number = 0 if after == 0 else min(self.opening + after, len(self.parts))
        if at == "end":
            number = len(parts)
        sent = head + b"".join(size + data for size, data in parts[:number])
        if at in ("piece", "end") or (number == len(parts) and not self.ending):
            return sent
        size, data = [*self.parts, *self.ending][number]
        if at == "size":
            return sent + size[: len(size) // 2]
        return sent + size + data[: len(data) // 2]


_MESSAGES = [{"role": "user", "content": "Hi"}]
_LAST = (b"0\r\n", b"\r\n")
_COMPLETION = (
    '{"id": "chatcmpl-000000000000000000000000", "created": 0, "model": "gpt-4o-mini", "object": "chat.completion", '
    '"choices": [{"index": 0, "message": {"role": "assistant", "content": "onetwo, 二three"}, '
    '"finish_reason": "stop"}], "usage": {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}}'
).encode()

WEB = Form("/v1/chat/gpt/", {"list": _MESSAGES}, "application/octet-stream", [*map(_chunk, PIECES)], 0, [_LAST])
STREAM = Form(
    "/v1/chat/completions",
    {"model": "gpt-4o-mini", "messages": _MESSAGES, "stream": True},
    "text/event-stream",
    [
        _chunk(_event('{"role": "assistant", "content": ""}')),
        *(_chunk(_event(f'{{"content": "{piece}"}}')) for piece in PIECES),
    ],
    1,
    [_chunk(_event("{}", '"stop"')), _chunk("data: [DONE]\n\n"), _LAST],
)
WHOLE = Form(
    "/v1/chat/completions",
    {"model": "gpt-4o-mini", "messages": _MESSAGES},
    "application/json",
    [(b"", _COMPLETION)],
    0,
    [],
    f"Content-Length: {len(_COMPLETION)}",
)
FORMS = {"web": WEB, "openai": STREAM, "openai, not streamed": WHOLE}

every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)

PLACES: list[dict[str, Any]] = [
    {"at": "head"},
    {"at": "fields"},
    {"at": "headers"},
    {"after": 0},
    {"at": "piece", "after": 2},
    {"after": 99},
    {"at": "size"},
    {"at": "size", "after": 1},
    {"at": "size", "after": 99},
    {"at": "chunk"},
    {"at": "chunk", "after": 2},
    {"at": "chunk", "after": 99},
    {"at": "end"},
]


def _name(place: dict[str, Any]) -> str:
    return " ".join(map(str, place.values()))


every_place = pytest.mark.parametrize("place", PLACES, ids=_name)


# Clients


class Connection:
    """A raw connection that asks for an answer and reads it to whatever its end is."""

    def __init__(self, server: LoopbackServer, tls: ssl.SSLContext | None = None) -> None:
        self.socket = socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), timeout=TIMEOUT)
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname="127.0.0.1", suppress_ragged_eofs=False)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, form: Form) -> None:
        self.socket.sendall(form.request)

    def read(self, size: int) -> bytes:
        """Read so many bytes, or fewer if no more come."""
        data = b""
        while len(data) < size:
            block = self.socket.recv(size - len(data))
            if not block:
                break
            data += block
        return data

    def read_to_end(self) -> tuple[bytes, str]:
        """Return all that comes, and how it ended."""
        data = b""
        while True:
            try:
                block = self.socket.recv(65536)
            except (ConnectionResetError, ssl.SSLEOFError):  # the latter is all that Python says of a reset under TLS
                return data, "reset"
            if not block:
                return data, "closed"
            data += block


def ask(server: LoopbackServer, form: Form = WEB, tls: ssl.SSLContext | None = None) -> tuple[bytes, str]:
    with Connection(server, tls) as connection:
        connection.ask(form)
        return connection.read_to_end()


def serve(*faults: Fault, **options: Any) -> LoopbackServer:
    return LoopbackServer(lambda request: PIECES, faults=faults, **options)


def post(server: LoopbackServer, form: Form = WEB) -> requests.Response:
    return requests.post(server.url + form.path, json=form.body, headers={"Authorization": "Bearer x"}, timeout=TIMEOUT)


def unchunked(body: bytes) -> list[bytes]:
    """Return the chunks of a whole body."""
    chunks = []
    while body != b"0\r\n\r\n":
        size, _, rest = body.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)])
        assert rest[int(size, 16) :].startswith(b"\r\n")
        body = rest[int(size, 16) + 2 :]
    return chunks


@pytest.fixture(autouse=True)
def no_trace_left(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Whatever strikes leaves no thread behind, and nothing is printed."""
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before
    assert capfd.readouterr() == ("", "")


@pytest.fixture(autouse=True)
def nothing_varies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and dates are always the same, so that answers are known to the byte."""
    monkeypatch.setattr("chatanywhere.testing.writer.formatdate", lambda usegmt: "today")
    monkeypatch.setattr("chatanywhere.testing.completions.time", types.SimpleNamespace(time=lambda: 0))
    hexes = types.SimpleNamespace(token_hex=lambda size: "0" * (2 * size))
    monkeypatch.setattr("chatanywhere.testing.writer.secrets", hexes)
    monkeypatch.setattr("chatanywhere.testing.completions.secrets", hexes)


@every_form
def test_without_faults_the_answer_is_healthy(form: Form) -> None:
    """What the other tests take for the whole answer is what a server without faults sends."""
    with serve() as server:
        assert ask(server, form) == (form.whole, "closed")


# Faults of the connection, at each of their places


@every_form
@every_place
def test_latency_waits_at_its_place(form: Form, place: dict[str, Any]) -> None:
    """What stands before the place has been sent when the wait begins, and nothing else."""
    sent = form.up_to(**place)
    with serve(Fault.latency(NEVER, **place)) as server, Connection(server) as connection:
        connection.ask(form)
        assert connection.read(len(sent)) == sent
        until(lambda: server.requests, TIMEOUT)
        server.close()
        assert connection.read_to_end() == (b"", "closed")


@every_form
@every_place
def test_latency_lets_the_answer_go_on(form: Form, place: dict[str, Any]) -> None:
    """After the wait the answer is whole."""
    with serve(Fault.latency(0.01, **place)) as server:
        began = time.monotonic()
        assert ask(server, form) == (form.whole, "closed")
        assert time.monotonic() - began >= 0.01


@every_form
@every_place
def test_timeout_is_silent_from_its_place_on(form: Form, place: dict[str, Any]) -> None:
    """Nothing comes behind the place, until the client leaves."""
    with serve(Fault.timeout(**place)) as server, Connection(server) as connection:
        connection.ask(form)
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.read_to_end() == (form.up_to(**place), "closed")


@every_form
@every_place
def test_reset_peer_resets_at_its_place(form: Form, place: dict[str, Any]) -> None:
    """What stands before the place arrives, and then a reset."""
    with serve(Fault.reset_peer(**place)) as server:
        assert ask(server, form) == (form.up_to(**place), "reset")


@every_form
@every_place
@pytest.mark.parametrize("size", [0, 5])
def test_limit_data_closes_after_so_many_bytes(form: Form, place: dict[str, Any], size: int) -> None:
    """So many bytes behind the place arrive, and then a close in order."""
    with serve(Fault.limit_data(size, **place)) as server:
        expected = form.whole[: len(form.up_to(**place)) + size]
        assert ask(server, form) == (expected, "closed")


@every_form
@every_place
@pytest.mark.parametrize(
    ("fault", "size"), [(Fault.slow_drip, 1), (lambda *args, **place: Fault.slicer(3, *args, **place), 3)]
)
def test_drips_and_slices_begin_at_their_place(
    form: Form, place: dict[str, Any], fault: Callable[..., Fault], size: int
) -> None:
    """Behind the place a byte comes alone, or a slice, and then there is a pause."""
    sent = form.whole[: len(form.up_to(**place)) + size]
    with serve(fault(NEVER, **place)) as server, Connection(server) as connection:
        connection.ask(form)
        assert connection.read(len(sent)) == sent
        until(lambda: server.requests, TIMEOUT)
        server.close()
        assert connection.read_to_end() == (b"", "closed")


@every_form
@every_place
def test_bytes_are_injected_at_their_place(form: Form, place: dict[str, Any]) -> None:
    """Any bytes may stand at the place, as they are, and the answer goes on behind them."""
    sent = form.up_to(**place)
    with serve(Fault.inject(b"\0\r\xff\n", **place)) as server:
        assert ask(server, form) == (sent + b"\0\r\xff\n" + form.whole[len(sent) :], "closed")


def test_bytes_are_injected_before_the_first_header() -> None:
    """Without a place, or in an answer to HEAD, or in that of another fault, it is behind the status line."""
    line = Fault.inject(b"no colon\r\n")
    assert line == Fault.inject(b"no colon\r\n", at="fields")
    with serve(line, Fault.status(503, first=1)) as server:
        assert ask(server)[0].startswith(b"HTTP/1.1 503 Service Unavailable\r\nno colon\r\nDate: ")
        assert ask(server)[0].startswith(b"HTTP/1.1 200 OK\r\nno colon\r\nDate: ")
        with Connection(server) as connection:
            connection.socket.sendall(b"HEAD /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n")
            assert connection.read_to_end()[0].startswith(b"HTTP/1.1 405 Method Not Allowed\r\nno colon\r\nDate: ")


def test_injected_bytes_count_and_are_sliced() -> None:
    """A limit on what is sent holds for injected bytes too, and several stand one behind the other."""
    with serve(Fault.slicer(1), Fault.limit_data(22), Fault.inject(b"abc"), Fault.inject(b"def")) as server:
        assert ask(server) == (b"HTTP/1.1 200 OK\r\nabcde", "closed")


@every_form
@pytest.mark.parametrize(
    "fault",
    [Fault.slow_drip(0), Fault.slicer(7), Fault.slicer(1_000_000), Fault.limit_data(1_000_000)],
    ids=lambda fault: fault.name,
)
def test_slices_and_limits_change_no_byte(form: Form, fault: Fault) -> None:
    """In pieces however small, and below a limit, the answer is the same."""
    with serve(fault) as server:
        assert ask(server, form) == (form.whole, "closed")


def test_a_reset_before_the_request_is_read() -> None:
    """At accept, a connection is reset although nothing has been asked."""
    with serve(Fault.reset_peer(at="accept")) as server:
        with pytest.raises(ConnectionResetError), Connection(server) as connection:
            connection.socket.recv(1)
        assert server.requests == []


def test_a_silence_before_the_request_is_read() -> None:
    """At accept, a request is neither answered nor recorded."""
    with serve(Fault.timeout(at="accept")) as server, Connection(server) as connection:
        connection.ask(WEB)
        connection.socket.shutdown(socket.SHUT_WR)
        assert connection.read_to_end() == (b"", "closed")
        assert server.requests == []


def test_latency_before_the_request_is_read() -> None:
    """At accept, the wait is for the first request on a connection, and not for the second."""
    with serve(Fault.latency(0.05, at="accept")) as server, Connection(server) as connection:
        began = time.monotonic()
        connection.socket.sendall(WEB.request.replace(b"Connection: close\r\n", b""))
        connection.ask(WEB)
        data, end = connection.read_to_end()
        assert time.monotonic() - began >= 0.05
        assert data.count(b"HTTP/1.1 200 OK") == 2
        assert end == "closed"


def test_slow_close_closes_after_the_whole_answer() -> None:
    """The answer says that the connection will be closed, is whole, and nothing follows until the close."""
    with serve(Fault.slow_close(NEVER)) as server, Connection(server) as connection:
        connection.socket.sendall(WEB.request.replace(b"Connection: close\r\n", b""))
        assert connection.read(len(WEB.whole)) == WEB.whole
        connection.socket.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.socket.recv(1)
        connection.socket.settimeout(TIMEOUT)
        server.close()
        assert connection.read_to_end() == (b"", "closed")


def test_slow_close_closes_in_the_end() -> None:
    """After its time the connection is closed, although the client would keep it."""
    with serve(Fault.slow_close(0.01)) as server, Connection(server) as connection:
        connection.socket.sendall(WEB.request.replace(b"Connection: close\r\n", b""))
        assert connection.read_to_end() == (WEB.whole, "closed")


def test_an_old_client_is_struck_too() -> None:
    """In an answer to HTTP/1.0, which has no chunks, a chunk's places are those of the bare piece."""
    request = WEB.request.replace(b"HTTP/1.1", b"HTTP/1.0")
    for place, text in [("size", b"one"), ("chunk", b"onetwo")]:
        with serve(Fault.reset_peer(at=place, after=1)) as server, Connection(server) as connection:  # type: ignore[arg-type]
            connection.socket.sendall(request)
            data, end = connection.read_to_end()
        assert (data.partition(b"\r\n\r\n")[2][: len(text)], end) == (text, "reset")
        assert b"Transfer-Encoding" not in data


def test_the_answer_to_head_is_struck_in_its_headers() -> None:
    """A HEAD request's answer has no body to be struck in, but headers."""
    request = b"HEAD /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n"
    for fault, end in [(Fault.reset_peer(after=0), "closed"), (Fault.reset_peer(at="headers"), "reset")]:
        with serve(fault) as server, Connection(server) as connection:
            connection.socket.sendall(request)
            data, ended = connection.read_to_end()
            assert data.startswith(b"HTTP/1.1")
            assert ended == end


# Faults that answer instead


def _answer(status: str, content_type: str, body: bytes, *headers: str) -> bytes:
    head = ["Date: today", f"Content-Type: {content_type}", f"x-request-id: {'0' * 32}", "Connection: close", *headers]
    return "\r\n".join([f"HTTP/1.1 {status}", *head, f"Content-Length: {len(body)}", "", ""]).encode() + body


def _error(code: str, message: str) -> bytes:
    fields = f'"message": "{message}", "type": "chatanywhere_error", "param": null, "code": "{code}"'
    return f'{{"error": {{{fields}}}}}'.encode()


_PAGE = "<!DOCTYPE html>\n<html><head><title>{0}</title></head><body><h1>{0}</h1></body></html>\n"
_DATE = datetime(2031, 2, 3, 5, 5, 6, tzinfo=timezone(timedelta(hours=1)))


@every_form
@pytest.mark.parametrize(
    ("fault", "answer"),
    [
        (
            Fault.status(503),
            _answer(
                "503 Service Unavailable",
                "application/json",
                _error("503 SERVICE_UNAVAILABLE", "Service Unavailable"),
            ),
        ),
        (
            Fault.status(429, "今日额度已用完"),
            _answer("429 Too Many Requests", "application/json", _error("429 TOO_MANY_REQUESTS", "今日额度已用完")),
        ),
        (
            Fault.status(520),
            _answer("520 Unknown Error", "application/json", _error("520 UNKNOWN_ERROR", "Unknown Error")),
        ),
        (
            Fault.status(500, body="哎", content_type="text/plain"),
            _answer("500 Internal Server Error", "text/plain", "哎".encode()),
        ),
        (
            Fault.status(500, body=b"\xff"),
            _answer("500 Internal Server Error", "application/json", b"\xff"),
        ),
        (
            Fault.retry_after(7),
            _answer(
                "429 Too Many Requests",
                "application/json",
                _error("429 TOO_MANY_REQUESTS", "Too Many Requests"),
                "Retry-After: 7",
            ),
        ),
        (
            Fault.retry_after(ms=1500, status=503),
            _answer(
                "503 Service Unavailable",
                "application/json",
                _error("503 SERVICE_UNAVAILABLE", "Service Unavailable"),
                "retry-after-ms: 1500",
            ),
        ),
        (
            Fault.retry_after(date=_DATE),
            _answer(
                "429 Too Many Requests",
                "application/json",
                _error("429 TOO_MANY_REQUESTS", "Too Many Requests"),
                "Retry-After: Mon, 03 Feb 2031 04:05:06 GMT",
            ),
        ),
        (
            Fault.html(),
            _answer("502 Bad Gateway", "text/html; charset=utf-8", _PAGE.format("502 Bad Gateway").encode()),
        ),
        (
            Fault.html(200),
            _answer("200 OK", "text/html; charset=utf-8", _PAGE.format("200 OK").encode()),
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Fault) else "",
)
def test_a_status_or_a_page_comes_in_place_of_the_answer(form: Form, fault: Fault, answer: bytes) -> None:
    """The status, its headers and its body are sent as ordered, under either protocol."""
    with serve(fault) as server:
        assert ask(server, form) == (answer, "closed")
        assert len(server.requests) == 1


def test_a_date_without_a_zone_is_local() -> None:
    """A naive datetime, such as that of datetime.now(), is sent as the moment that it is here."""
    moment = datetime(2031, 2, 3, 4, 5, 6)
    with serve(Fault.retry_after(date=moment)) as server:
        header = post(server).headers["Retry-After"]
    assert email.utils.parsedate_to_datetime(header) == moment.astimezone()


def test_an_answered_request_uses_up_no_reply() -> None:
    """A script's first reply is still there for the request that gets through, on the same connection."""
    with LoopbackServer(["Hello"], faults=[Fault.status(503, first=2)]) as server, requests.Session() as session:

        def ask() -> requests.Response:
            return session.post(server.url + WEB.path, json=WEB.body, timeout=TIMEOUT)

        assert [ask().status_code, ask().status_code, ask().text] == [503, 503, "Hello"]
        assert server.connections == 1


# Faults of the content


def _chunks(*data: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in data)


def _head(form: Form) -> bytes:
    """Return the headers of an answer of unknown length."""
    return form.head().replace(form.framing.encode(), b"Transfer-Encoding: chunked")


def _parts(form: Form, after: int) -> tuple[bytes, bytes]:
    """Return what is sent before and behind a place behind pieces, all of it in chunks."""
    parts = [data if form is WHOLE else data[:-2] for _, data in [*form.parts, *form.ending[:-1]]]
    number = 0 if after == 0 else min(form.opening + after, len(form.parts))
    return _head(form) + _chunks(*parts[:number]), _chunks(*parts[number:]) + b"0\r\n\r\n"


every_after = pytest.mark.parametrize("after", [0, 1, 3, 99])


@every_form
@every_after
def test_bad_json_is_a_piece_more(form: Form, after: int) -> None:
    """Behind some pieces the beginning of an object is sent, as an event where there are events."""
    with serve(Fault.bad_json(after=after)) as server:
        before, behind = _parts(form, after)
        spoilt = b'{"choices": [{"delta"'
        spoilt = b"data: %b\n\n" % spoilt if form is STREAM else spoilt
        assert ask(server, form) == (before + _chunks(spoilt) + behind, "closed")


@every_form
@every_after
def test_bad_utf8_is_a_piece_more(form: Form, after: int) -> None:
    """Behind some pieces a byte is sent that no text has, in an event that is whole where there are events."""
    with serve(Fault.bad_utf8(after=after)) as server:
        before, behind = _parts(form, after)
        spoilt = b"\xff"
        if form is STREAM:
            spoilt = b'data: {"choices": [{"index": 0, "delta": {"content": "\xff"}}]}\n\n'
        assert ask(server, form) == (before + _chunks(spoilt) + behind, "closed")


@every_form
@every_after
def test_an_error_frame_is_the_last(form: Form, after: int) -> None:
    """Behind some pieces an error object is sent, and then the answer ends in order."""
    with serve(Fault.error_frame("overloaded", status=503, after=after)) as server:
        error = _error("503 SERVICE_UNAVAILABLE", "overloaded")
        error = b"data: %b\n\n" % error if form is STREAM else error
        assert ask(server, form) == (_parts(form, after)[0] + _chunks(error) + b"0\r\n\r\n", "closed")


@every_form
@every_after
def test_a_huge_line_has_no_end(form: Form, after: int) -> None:
    """Behind some pieces the bytes of one line are sent, and then the answer ends in order."""
    with serve(Fault.huge_line(100_000, after=after)) as server:
        data, end = ask(server, form)
    before = _parts(form, after)[0]
    assert data.startswith(before)
    line = b"".join(unchunked(data[len(before) :]))
    assert line == (b"data: " if form is STREAM else b"") + b"x" * 100_000
    assert end == "closed"


@pytest.mark.parametrize("after", [None, 0, 1, 99])
def test_a_stream_of_events_ends_without_done(after: int | None) -> None:
    """The openai stream lacks the finish reason and `[DONE]`, and its chunks are in order."""
    with serve(Fault.no_done(after=after)) as server:
        before = STREAM.up_to(after=99 if after is None else after)
        assert ask(server, STREAM) == (before + b"0\r\n\r\n", "closed")


@pytest.mark.parametrize("form", [WEB, WHOLE], ids=["web", "openai, not streamed"])
@pytest.mark.parametrize("after", [None, 0, 1, 99])
def test_an_answer_without_events_is_closed_early(form: Form, after: int | None) -> None:
    """The web protocol's answer lacks the last chunk, and the connection is closed in order."""
    with serve(Fault.no_done(after=after)) as server:
        before = form.up_to(after=99 if after is None else after)
        assert ask(server, form) == (before, "closed")


@every_form
@pytest.mark.parametrize("at", ["size", "chunk"])
@pytest.mark.parametrize("after", [0, 2])
def test_a_bad_chunk_has_a_byte_too_many(form: Form, at: Any, after: int) -> None:
    """A byte stands in the chunk's size line, or in the chunk, and all else is as it should be."""
    size, data = _chunk(_COMPLETION.decode())
    form = form if form is not WHOLE else Form(form.path, form.body, form.content_type, [(size, data)], 0, [_LAST])
    with serve(Fault.bad_chunk(at=at, after=after)) as server:
        before = form.up_to(at=at, after=after)
        assert ask(server, form) == (before + b"!" + form.whole[len(before) :], "closed")


def _unzip(data: bytes) -> tuple[bytes, zlib._Decompress]:
    """Return what gzipped chunks hold up to their end, or to what is not gzip."""
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip\r\n" in head + b"\r\n"
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    text = b""
    for chunk in unchunked(body):
        text += inflate.decompress(chunk)
    return text, inflate


def _text(form: Form, after: int) -> bytes:
    return b"".join(unchunked(_parts(form, after)[0].partition(b"\r\n\r\n")[2] + b"0\r\n\r\n"))


@every_form
@every_after
def test_bad_gzip_may_lack_its_end(form: Form, after: int) -> None:
    """Truncated, the pieces before the place can be unpacked, each as it comes, and no end follows."""
    with serve(Fault.bad_gzip(truncated=True, after=after)) as server:
        data, end = ask(server, form)
    text, inflate = _unzip(data)
    assert (text, end) == (_text(form, after), "closed")
    assert not inflate.eof


@every_form
@every_after
def test_bad_gzip_may_be_corrupt(form: Form, after: int) -> None:
    """Otherwise bytes follow that can't be unpacked, and the answer ends in order."""
    with serve(Fault.bad_gzip(after=after)) as server:
        data, end = ask(server, form)
    assert end == "closed"
    chunks = unchunked(data.partition(b"\r\n\r\n")[2])
    assert chunks.pop() == b"\xff" * 8
    inflate = zlib.decompressobj(16 + zlib.MAX_WBITS)
    assert b"".join(map(inflate.decompress, chunks)) == _text(form, after)
    with pytest.raises(zlib.error):
        inflate.decompress(b"\xff" * 8)


@every_form
@every_after
def test_a_gzip_bomb_is_small_on_the_wire(form: Form, after: int) -> None:
    """A hundredth of the size unpacks to the pieces before the place and to zeros, and is whole."""
    size = 4_000_000
    with serve(Fault.gzip_bomb(size, after=after)) as server:
        data, end = ask(server, form)
    text, inflate = _unzip(data)
    assert text == _text(form, after) + bytes(size)
    assert len(data) < size / 100
    assert inflate.eof
    assert end == "closed"


def test_a_content_fault_in_an_answer_without_chunks() -> None:
    """A client of HTTP/1.0 gets neither chunks nor a length that would not be true."""
    with serve(Fault.bad_utf8(after=1)) as server, Connection(server) as connection:
        connection.socket.sendall(WEB.request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        head, _, body = connection.read_to_end()[0].partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert b"Content-Length" not in head
    assert body == b"one\xff" + "two, 二three".encode()


def test_a_connection_goes_on_after_an_answer_that_ended_early() -> None:
    """An answer that a fault ended in order is followed by the next one on the same connection."""
    with serve(Fault.error_frame(first=1)) as server, requests.Session() as session:
        for _ in range(2):
            response = session.post(server.url + WEB.path, json=WEB.body, timeout=TIMEOUT)
        assert response.content == "".join(PIECES).encode()
        assert server.connections == 1


# How long


@pytest.mark.parametrize(
    "fault",
    [Fault.slow_drip(0.01), Fault.slicer(1), Fault.gzip_bomb(1 << 60), Fault.huge_line(1 << 60)],
    ids=lambda fault: fault.name,
)
def test_a_fault_does_not_send_for_ever(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    """When its time is over, the connection is closed in order, in the middle of the answer."""
    monkeypatch.setattr("chatanywhere.testing.faults.MAX_SECONDS", 0.001)
    with serve(fault) as server:
        data, end = ask(server, STREAM)
    assert data[:4] == STREAM.whole[: min(4, len(data))]
    assert not data.endswith(b"0\r\n\r\n")
    assert end == "closed"


ENDLESS = [
    *(Fault.latency(NEVER, at=at) for at in ("accept", "head", "fields", "headers", "size", "chunk", "end")),
    *(Fault.timeout(at=at) for at in ("accept", "head", "fields", "headers", "size", "chunk", "end")),
    Fault.latency(NEVER, after=1),
    Fault.timeout(after=1),
    Fault.slow_drip(NEVER),
    Fault.slow_drip(0.001),
    Fault.slicer(1, NEVER),
    Fault.slow_close(NEVER),
    Fault.gzip_bomb(1 << 60),
    Fault.huge_line(1 << 60),
]


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("fault", ENDLESS, ids=lambda fault: f"{fault.name} {fault.at}")
def test_close_ends_any_fault_at_once(
    fault: Fault, secure: bool, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """A server that is closed in the middle of a fault has neither a thread nor the connection any more."""
    hangs_early = secure and fault.at == "accept"
    with ExitStack() as stack:
        server = stack.enter_context(serve(fault, tls=server_tls if secure else None))
        connection = stack.enter_context(Connection(server, client_tls if secure and not hangs_early else None))
        connection.ask(STREAM)
        until(lambda: server.connections if fault.at == "accept" else server.requests, TIMEOUT)
        if fault.at not in ("accept", "head") or fault.name in ("slow_drip", "slicer"):
            assert connection.socket.recv(1)  # the fault is on
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < PROMPT
        connection.read_to_end()


def test_close_ends_a_fault_whose_client_does_not_read() -> None:
    """A server that is stuck in sending is closed at once, too."""
    with serve(Fault.huge_line(1 << 60)) as server, Connection(server) as connection:
        connection.ask(WEB)
        assert connection.socket.recv(1)
        began = time.monotonic()
        server.close()
        assert time.monotonic() - began < PROMPT


# How often, and several at once


def test_the_first_requests_only() -> None:
    """A fault for the first requests strikes so many, counted by itself."""
    faults = [Fault.status(503, first=2), Fault.status(500, first=3)]
    with serve(*faults) as server:
        assert [post(server).status_code for _ in range(5)] == [503, 503, 500, 200, 200]


def test_the_first_connections_only() -> None:
    """At accept it is connections that count, and several may send many requests."""
    with serve(Fault.reset_peer(at="accept", first=1)) as server:
        with pytest.raises(ConnectionResetError), Connection(server) as connection:
            connection.socket.recv(1)
        for _ in range(3):
            assert ask(server) == (WEB.whole, "closed")
        assert server.connections == 4
        assert len(server.requests) == 3


def test_faults_may_be_changed_between_requests() -> None:
    """Others may be assigned, none, and the same again, which then are counted anew."""
    fault = Fault.status(503, first=1)
    with serve() as server, requests.Session() as session:

        def ask() -> int:
            return session.post(server.url + WEB.path, json=WEB.body, timeout=TIMEOUT).status_code

        assert server.faults == ()
        assert ask() == 200
        server.faults = [fault]
        assert server.faults == (fault,)
        assert [ask(), ask()] == [503, 200]
        server.faults = server.faults
        assert [ask(), ask()] == [503, 200]
        server.faults = []
        assert ask() == 200
        assert server.connections == 1


def test_one_fault_may_follow_another() -> None:
    """Latency before the headers does not keep a reset behind three pieces from striking."""
    with serve(Fault.reset_peer(after=3), Fault.latency(0.05)) as server:
        began = time.monotonic()
        assert ask(server) == (WEB.up_to(after=3), "reset")
        assert time.monotonic() - began >= 0.05


def test_faults_at_one_place_strike_in_order() -> None:
    """Of two faults at one place, the one that was ordered first is first."""
    json, utf8 = Fault.bad_json(after=1), Fault.bad_utf8(after=1)
    with serve(json, utf8, json) as server:
        text = ask(server)[0]
    assert b"\r\none\r\n15\r\n{" in text
    assert text.index(b"{") < text.index(b"\xff") < text.rindex(b"{")


def test_a_limit_counts_the_bytes_of_slices() -> None:
    """Slices do not keep a limit from striking in the middle of one."""
    with serve(Fault.slicer(10), Fault.limit_data(25)) as server:
        assert ask(server) == (WEB.whole[:25], "closed")


def test_a_status_may_be_struck_itself() -> None:
    """An error's answer has places as any other, where another fault may strike."""
    with serve(Fault.status(503, body=b"no service"), Fault.reset_peer(at="chunk")) as server:
        data, end = ask(server)
    assert data.endswith(b"\r\n\r\nno se")
    assert end == "reset"


def test_every_request_is_struck_whatever_it_asks_for() -> None:
    """Models, and what there is not, are no safer than chats."""
    with serve(Fault.status(503, first=2)) as server:
        statuses = [requests.get(server.url + path, timeout=TIMEOUT).status_code for path in ("/v1/models", "/x", "/x")]
    assert statuses == [503, 503, 404]


# In the script of replies


@pytest.mark.parametrize("form", [WEB, STREAM, WHOLE], ids=FORMS)
def test_a_fault_may_be_a_reply(form: Form) -> None:
    """A fault in the script strikes the request whose turn it is, and no other."""
    replies: list[list[str] | Fault] = [
        PIECES,
        Fault.status(503),
        Fault.reset_peer(after=1, first=1),
        Fault.reset_peer(at="head"),
        PIECES,
    ]
    with LoopbackServer(replies) as server:
        answers = [ask(server, form) for _ in replies]
    assert answers[0] == answers[4] == (form.whole, "closed")
    assert answers[1][0].startswith(b"HTTP/1.1 503 ")
    assert answers[2][0].startswith(b"HTTP/1.1 200 OK")
    assert answers[2][1] == "reset"
    assert answers[3] == (b"", "reset")


def test_a_function_may_reply_with_a_fault() -> None:
    """A function decides by the request; behind a fault that lets the answer through, it is the talker's."""

    def reply(request: Request) -> Fault | str:
        return Fault.latency(0) if request.text == "Hi" else "fine"

    with LoopbackServer(reply) as server:
        assert len(post(server).text) > 4


def test_a_reply_comes_too_late_to_strike_at_accept() -> None:
    """A fault at accept is no reply, which is said to the client and in the log."""
    with LoopbackServer([Fault.timeout(at="accept")]) as server:
        response = post(server)
    assert response.status_code == 500
    assert (
        response.json()["error"]["message"]
        == "ValueError: a fault that is a reply comes too late to strike at='accept'"
    )


def test_a_single_fault_is_no_script() -> None:
    """One fault in place of an iterable of replies, or of faults, is an error at once."""
    with pytest.raises(TypeError, match=r"\[reply\]"):
        LoopbackServer(Fault.timeout())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"\[fault\]"):
        LoopbackServer(faults=Fault.timeout())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"methods of Fault, and is not 'timeout'"):
        LoopbackServer(faults=["timeout"])  # type: ignore[list-item]


# TLS


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture
def client_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(context)
    return context


@every_form
def test_tls_carries_the_same_answer(form: Form, server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """With a context the server speaks TLS, and says so when it has sent all."""
    with serve(tls=server_tls) as server:
        assert server.url.startswith("https://127.0.0.1:")
        assert ask(server, form, client_tls) == (form.whole, "closed")


def test_tls_connections_are_kept(server_tls: ssl.SSLContext, ca: trustme.CA, tmp_path: Path) -> None:
    """An ordinary client verifies the certificate, and reuses the connection."""
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with serve(tls=server_tls) as server, requests.Session() as session:
        session.verify = str(tmp_path / "ca.pem")
        for _ in range(3):
            response = session.post(server.url + WEB.path, json=WEB.body, timeout=TIMEOUT)
            assert response.content == "".join(PIECES).encode()
        assert server.connections == 1


@every_place
def test_tls_is_cut_in_order_or_reset(
    place: dict[str, Any], server_tls: ssl.SSLContext, client_tls: ssl.SSLContext
) -> None:
    """Under TLS a close is one that TLS knows of, and a reset is a reset."""
    sent = STREAM.up_to(**place)
    with serve(Fault.limit_data(0, **place), tls=server_tls) as server:
        assert ask(server, STREAM, client_tls) == (sent, "closed")
        server.faults = [Fault.reset_peer(**place)]
        assert ask(server, STREAM, client_tls) == (sent, "reset")


def test_a_fault_at_accept_comes_before_the_handshake(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext) -> None:
    """One connection may hang before its handshake while another succeeds, or may be reset."""
    faults = [Fault.timeout(at="accept", first=1)]
    with serve(*faults, tls=server_tls) as server, Connection(server) as connection:
        until(lambda: server.connections, TIMEOUT)
        connection.socket.settimeout(0.01)
        with pytest.raises(OSError, match="timed out"):
            client_tls.wrap_socket(connection.socket, server_hostname="127.0.0.1")
        assert ask(server, WEB, client_tls) == (WEB.whole, "closed")
        server.faults = [Fault.reset_peer(at="accept")]
        with pytest.raises(ConnectionResetError), Connection(server) as hasty:
            hasty.socket.recv(1)


@pytest.mark.parametrize("sent", [b"", b"POST / HTTP/1.1\r\n\r\n"])
def test_a_client_that_does_not_speak_tls_is_no_event(server_tls: ssl.SSLContext, sent: bytes) -> None:
    """A handshake that fails ends its connection, and prints nothing."""
    with serve(tls=server_tls) as server:
        with Connection(server) as connection, suppress(OSError):  # the server may be the first to hang up
            connection.socket.sendall(sent)
            connection.socket.shutdown(socket.SHUT_WR)
            connection.read_to_end()
        assert server.requests == []


def test_a_client_that_does_not_trust_is_no_event(server_tls: ssl.SSLContext) -> None:
    """A client that refuses the certificate gets no answer, and nothing is printed."""
    with serve(tls=server_tls) as server:
        with pytest.raises(requests.exceptions.SSLError):
            post(server)
        assert server.requests == []


def test_a_client_that_is_gone_at_once_is_no_event(
    server_tls: ssl.SSLContext, client_tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection that is reset before the server takes it up leaves nothing open, and the next is served."""
    accept = socketserver.TCPServer.get_request

    def accept_late(listener: socketserver.TCPServer) -> Any:
        connection, address = accept(listener)
        if server.connections == 0:
            until(lambda: connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), TIMEOUT)
        return connection, address

    monkeypatch.setattr(socketserver.TCPServer, "get_request", accept_late)
    with serve(tls=server_tls) as server:
        with Connection(server) as connection:
            linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        assert ask(server, WEB, client_tls) == (WEB.whole, "closed")
        assert server.connections == 2


# Connections


def test_connections_are_counted() -> None:
    """A connection counts when it is accepted, and once however much is asked on it."""
    with serve() as server:
        assert server.connections == 0
        with requests.Session() as session:
            for _ in range(3):
                session.post(server.url + WEB.path, json=WEB.body, timeout=TIMEOUT)
        assert server.connections == 1
        post(server)
        assert server.connections == 2
    with server:
        post(server)
    assert server.connections == 3


# What can't be ordered


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fault.slicer(5, at="accept"), "'head', 'fields', 'headers', 'piece', 'size', 'chunk', 'end'"),  # type: ignore[arg-type,unused-ignore]
        (lambda: Fault.slow_drip(1, at="accept"), r"Fault\.slow_drip\(at='accept'\)"),
        (lambda: Fault.limit_data(1, at="accept"), "'head', 'fields', 'headers'"),
        (lambda: Fault.inject(b"", at="accept"), r"Fault\.inject\(at='accept'\)"),
        (lambda: Fault.reset_peer(at="nowhere"), "'accept', 'head'"),  # type: ignore[arg-type]
        (lambda: Fault.bad_chunk(at="head"), "strikes at 'size', 'chunk'"),  # type: ignore[arg-type]
        (lambda: Fault.timeout(at="head", after=1), "goes with 'piece', 'size', 'chunk'"),
        (lambda: Fault.latency(1, after=-1), "after=-1: a number of pieces"),
        (lambda: Fault.bad_json(after=-1), "after=-1: a number of pieces"),
        (lambda: Fault.timeout(first=0), "first=0: a number of requests"),
        (lambda: Fault.status(200), "status=200: an error's is from 400"),
        (lambda: Fault.status(600), "from 400 to 599"),
        (lambda: Fault.html(302), "from 400 to 599"),
        (lambda: Fault.error_frame(status=1), "from 400 to 599"),
        (lambda: Fault.retry_after(1, status=200), "from 400 to 599"),
        (lambda: Fault.retry_after(), "give one of"),
        (lambda: Fault.retry_after(1, ms=1), "give one of"),
        (lambda: Fault.latency(-1), "seconds=-1: a number of seconds"),
        (lambda: Fault.slow_close(float("inf")), "seconds=inf"),
        (lambda: Fault.slow_drip(float("nan")), "seconds=nan"),
        (lambda: Fault.slicer(1, -1), "delay=-1"),
        (lambda: Fault.slicer(0), "size=0: a number of bytes, 1 or more"),
        (lambda: Fault.limit_data(-1), "size=-1: a number of bytes, 0 or more"),
        (lambda: Fault.gzip_bomb(0), "size=0"),
        (lambda: Fault.huge_line(0), "size=0"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Callable[[], Fault], message: str) -> None:
    """A place or a number that makes no sense is an error when the fault is made, and names those that do."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fault.status("503"), "status must be a number, not str"),  # type: ignore[arg-type]
        (lambda: Fault.latency("1 s"), "seconds must be a number, not str"),  # type: ignore[arg-type]
        (lambda: Fault.limit_data(None), "size must be a number, not NoneType"),  # type: ignore[arg-type]
        (lambda: Fault.inject("X: 1\r\n"), "data must be bytes, not str"),  # type: ignore[arg-type]
        (lambda: Fault.timeout(first=True), "first must be a number, not bool"),
        (lambda: Fault.bad_json(after="2"), "after must be a number, not str"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_number_is_refused(make: Callable[[], Fault], message: str) -> None:
    """A fault is not made with what is no number, and the error names the argument."""
    with pytest.raises(TypeError, match=message):
        make()


def test_faults_are_values() -> None:
    """Faults are equal when they are the same, can be hashed and pickled, and tell what they are."""
    for fault, same in [
        (Fault.latency(1, after=2), Fault.latency(1, at="piece", after=2)),
        (Fault.retry_after(5), Fault.retry_after(5)),
        (Fault.no_done(), Fault.no_done()),
    ]:
        assert fault == same == pickle.loads(pickle.dumps(fault))
        assert len({fault, same}) == 1
        with pytest.raises(AttributeError):
            fault.at = "head"  # type: ignore[misc]
    assert Fault.latency(1) != Fault.latency(2)
    assert repr(Fault.latency(1, first=3)) == "Fault(name='latency', at='head', after=0, first=3, arguments=(1,))"
