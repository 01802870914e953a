"""A response on its way to a connection, and the faults that strike it there.

A `Fault` says what goes wrong, where and how often. The `Wire` writes a response, and lets faults strike
when it comes to their places. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import socket
import ssl
import struct
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime, formatdate
from http import HTTPStatus
from typing import Literal, NoReturn

MAX_SECONDS = 60.0
"""How long a fault may go on sending; then the connection is closed."""

_BLOCK = 64 * 1024  # bytes
_EVENT_STREAM = "text/event-stream"

Place = Literal["accept", "head", "headers", "piece", "size", "chunk", "end"]

_IN_ANSWER: tuple[Place, ...] = ("head", "headers", "piece", "size", "chunk", "end")
_ANYWHERE: tuple[Place, ...] = ("accept", *_IN_ANSWER)

# What some faults need of the response that they strike.
_CHUNKED = (("Transfer-Encoding", "chunked"),)  # they change the content, and so its length
_GZIP = (*_CHUNKED, ("Content-Encoding", "gzip"))
_CLOSE = (("Connection", "close"),)


@dataclass(frozen=True)
class Stream:
    """A body that is written piece by piece: each leaves at once, `delay` seconds after the one before."""

    pieces: Sequence[bytes]
    opening: Sequence[bytes] = ()
    """What leaves before the first piece, and is none of the reply's."""
    ending: Sequence[bytes] = ()
    delay: float = 0.0


@dataclass(frozen=True)
class Response:
    """What to answer: a body in one, or a stream."""

    status: int
    content_type: str
    body: bytes | Stream
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    fault: Fault | None = None
    """What goes wrong with this response, besides what goes wrong with its request."""


class ResponseOver(Exception):
    """A fault has ended the response; another request may follow."""


class Wire:
    """Writes one response to a connection; every byte of it leaves through `send`.

    Whatever ends the connection raises an OSError.

    Args:
        connection: a socket, or one with TLS.
        closing: set when the server is closed, which ends every wait.
        keep_alive: whether another request may follow.
        chunked: whether the client knows chunks, as one of HTTP/1.0 does not.
        bare: leave out the body, as the answer to HEAD does.

    Attributes:
        keep_alive: see above; a fault may have changed it.
    """

    def __init__(
        self,
        connection: socket.socket,
        closing: threading.Event,
        *,
        keep_alive: bool = False,
        chunked: bool = True,
        bare: bool = False,
    ) -> None:
        self.keep_alive = keep_alive
        self._connection = connection
        self._closing = closing
        self._chunked = chunked
        self._bare = bare
        self._faults: list[Fault] = []  # that have not struck yet
        self._written = 0.0  # pieces of the reply
        self._event_stream = False
        self._gzip: zlib._Compress | None = None
        self._left: int | None = None  # bytes that may still leave
        self._slice_size = 0
        self._slice_delay = 0.0
        self._deadline = math.inf

    def order(self, faults: Iterable[Fault]) -> None:
        """Let these faults strike from here on, each once."""
        self._faults += faults

    def reach(self, *places: str) -> None:
        """Come to places one after the other: the faults that wait there strike, in their order."""
        for place in places:
            while (fault := self._waiting(place)) is not None:
                self._faults.remove(fault)
                fault._action(self, *fault.arguments)

    def _waiting(self, place: str) -> Fault | None:
        return next((fault for fault in self._faults if fault.at == place and fault.after <= self._written), None)

    def write(self, response: Response) -> None:
        """Write a whole response.

        Raises:
            ResponseOver: a fault ended it early.
        """
        self._write_head(response)
        if self._bare:
            return
        stream = response.body if isinstance(response.body, Stream) else Stream([response.body])
        self.reach("piece")
        for data in stream.opening:
            self.piece(data)
        for data in stream.pieces:
            if self._written:
                self.wait(stream.delay)
            self.piece(data)
            self._written += 1
            self.reach("piece")
        self._written = math.inf  # a fault that waits for more pieces than there are strikes now
        self.reach("piece")
        for data in stream.ending:
            self.piece(data)
        self.end()

    def _write_head(self, response: Response) -> None:
        headers = {
            "Date": formatdate(usegmt=True),
            "Content-Type": response.content_type,
            "x-request-id": secrets.token_hex(16),
            "Connection": "keep-alive" if self.keep_alive else "close",
            **response.headers,
        }
        for fault in self._faults:
            headers.update(fault._headers)
        if isinstance(response.body, bytes) and "Transfer-Encoding" not in headers:
            headers["Content-Length"] = str(len(response.body))
            self._chunked = False
        elif self._chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers.pop("Transfer-Encoding", None)
        self.keep_alive = headers["Connection"] == "keep-alive"
        self._event_stream = response.content_type == _EVENT_STREAM
        if "Content-Encoding" in headers:
            self._gzip = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._send_parts(("headers", "\r\n".join([*lines, "", ""]).encode("latin-1")))

    def piece(self, data: bytes) -> None:
        """Write a part of the body, as a chunk if the body is chunked."""
        if self._gzip is not None:
            data = self._gzip.compress(data) + self._gzip.flush(zlib.Z_SYNC_FLUSH)
        if data:  # an empty chunk would end the response
            self._write_chunk(data)

    def _write_chunk(self, data: bytes) -> None:
        if self._chunked:
            self._send_parts(("size", b"%x\r\n" % len(data)), ("chunk", data + b"\r\n"))
        else:
            self._send_parts(("size", b""), ("chunk", data))

    def event(self, data: bytes) -> None:
        """Write a part of the body, as an event if the body is a stream of events."""
        self.piece(b"data: %b\n\n" % data if self._event_stream else data)

    def end(self) -> None:
        """Write what ends the body."""
        if self._gzip is not None:
            compressor, self._gzip = self._gzip, None
            self.piece(compressor.flush())
        self.reach("end")
        self._write_chunk(b"")
        self.reach("close")

    def _send_parts(self, *parts: tuple[str, bytes]) -> None:
        """Send parts in one, unless a fault waits at one of them: it strikes in the middle of that part."""
        pending = b""
        for place, data in parts:
            if self._waiting(place) is not None:
                half = len(data) // 2
                self.send(pending + data[:half])
                self.reach(place)
                pending, data = b"", data[half:]
            pending += data
        self.send(pending)

    def send(self, data: bytes) -> None:
        """Send bytes as they are, under what `limit` and `cut` impose."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        size = self._slice_size or len(data)
        for start in range(0, len(data), size or 1):
            left = self._deadline - time.monotonic()
            if left <= 0:
                self.close()
            self._connection.sendall(data[start : start + size])
            if self._slice_size:
                self.wait(min(self._slice_delay, left))
        if self._left == 0:
            self.close()

    # What faults do

    def wait(self, seconds: float) -> None:
        """Let time pass, but none once the server closes."""
        if self._closing.wait(seconds):
            raise ConnectionAbortedError("the server was closed in the middle of a response")

    def limit(self, size: int) -> None:
        """Close the connection when `size` more bytes have been sent."""
        self._left = size
        self.send(b"")

    def cut(self, size: int, delay: float) -> None:
        """Send at most `size` bytes at a time from here on, with `delay` seconds between."""
        self._slice_size, self._slice_delay = size, delay
        self._bound()

    def _bound(self) -> None:
        self._deadline = min(self._deadline, time.monotonic() + MAX_SECONDS)

    def silence(self) -> NoReturn:
        """Send nothing more until the client leaves or the server closes."""
        # What a client sends under TLS is read as it comes: reading it decrypted would shake hands.
        while socket.socket.recv(self._connection, _BLOCK):
            pass
        raise ConnectionAbortedError("nothing more is sent, and the client left")

    def close(self) -> NoReturn:
        """End the connection, for the client to read to the end what has been sent."""
        end_tls(self._connection)
        socket.socket.shutdown(self._connection, socket.SHUT_WR)
        # What the client still sends is read, since a connection that is closed with input
        # unread is reset, and the reset may overtake the response.
        self.silence()

    def reset(self) -> NoReturn:
        """End the connection by a TCP reset."""
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # on, for 0 seconds
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._connection.close()
        raise ConnectionResetError("a fault reset the connection")

    def finish(self) -> NoReturn:
        """End the response here as if it were complete."""
        self.end()
        raise ResponseOver

    def answer(self, response: Response) -> NoReturn:
        """Write this response, and no other."""
        self.write(response)
        raise ResponseOver

    def stop(self) -> NoReturn:
        """End a stream of events before the events that end it, and anything else before its last chunk."""
        if self._event_stream:
            self.finish()
        self.close()

    def fail(self, error: bytes) -> NoReturn:
        """Write an error object, and nothing after it."""
        self.event(error)
        self.finish()

    def garble(self, byte: bytes) -> None:
        """Write a piece of text with this byte in it."""
        self.event(b'{"choices": [{"index": 0, "delta": {"content": "%b"}}]}' % byte if self._event_stream else byte)

    def spoil_gzip(self, data: bytes) -> NoReturn:
        """Write bytes where compressed ones should follow, and end the response."""
        self._gzip = None
        self.piece(data)
        self.finish()

    def flood(self, size: int, byte: bytes, start: bytes = b"") -> NoReturn:
        """Write `start`, if the body is a stream of events, then one byte `size` times, and end the response."""
        self._bound()
        if self._event_stream:
            self.piece(start)
        for position in range(0, size, _BLOCK):
            self.piece(byte * min(_BLOCK, size - position))
        self.finish()


def end_tls(connection: socket.socket) -> None:
    """Say under TLS that nothing more will be sent, without waiting for the other side to say so."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):  # there has been no handshake, or the client is gone
            connection.settimeout(0)
            connection.unwrap()
        with contextlib.suppress(OSError):
            connection.settimeout(None)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with a response, made by one of the methods here.

    They are named after toxiproxy's toxics where there is one. Common arguments, each where it makes sense:

    at: the place where the fault strikes, or begins:
        `"accept"`: before a request is read from a new connection, and before the TLS handshake.
        `"head"`: when the request has been read, and nothing of the answer has been sent.
        `"headers"`: in the middle of the status line and headers.
        `"piece"`: right behind a piece of the reply; `after` says which.
        `"size"`: in the middle of a chunk's size line; right before the body if it is not chunked.
        `"chunk"`: in the middle of a chunk, or of a body that is not chunked.
        `"end"`: behind the content, before the last chunk, which ends it.
    after: how many pieces of the reply come first: 0 is right behind the headers. Given alone it means
        `at="piece"`; with `"size"` and `"chunk"`, the chunk that follows is struck. A reply with
        fewer pieces is struck behind its last. A body that is not streamed is one piece.
    first: strike the first so many requests only; connections, if it strikes at `"accept"`.

    A fault that goes on sending stops after 60 seconds, and the connection is closed.

    Attributes:
        name: the method that made it.
        at, after, first: see above.
        arguments: what is particular to it.

    Raises:
        ValueError: an argument is out of range, or a place is none of the fault's.
    """

    name: str
    at: str
    after: float
    first: int | None
    arguments: tuple[object, ...]
    _action: Callable[..., None] = field(repr=False)
    _headers: tuple[tuple[str, str], ...] = field(repr=False, default=())

    def __post_init__(self) -> None:
        if self.first is not None:
            _check_number("first", self.first)
            if self.first < 1:
                raise ValueError(f"first={self.first}: a number of requests, 1 or more, or None for all")
        _check_number("after", self.after)
        if not self.after >= 0:
            raise ValueError(f"after={self.after}: a number of pieces, 0 or more")

    # The connection

    @classmethod
    def latency(
        cls, seconds: float, *, at: Place | None = None, after: int | None = None, first: int | None = None
    ) -> Fault:
        """Wait for a time, and go on. At the head, unless a place is given."""
        check_seconds("seconds", seconds)
        place = _place("latency", _ANYWHERE, at, after)
        return cls("latency", *place, first, (seconds,), Wire.wait)

    @classmethod
    def timeout(cls, *, at: Place | None = None, after: int | None = None, first: int | None = None) -> Fault:
        """Be silent, with the connection open, until the client leaves or the server is closed.

        At the head, unless a place is given.
        """
        return cls("timeout", *_place("timeout", _ANYWHERE, at, after), first, (), Wire.silence)

    @classmethod
    def reset_peer(cls, *, at: Place | None = None, after: int | None = None, first: int | None = None) -> Fault:
        """Reset the connection (RST). At the head, unless a place is given.

        What the client has not read by then it may never see.
        """
        return cls("reset_peer", *_place("reset_peer", _ANYWHERE, at, after), first, (), Wire.reset)

    @classmethod
    def limit_data(
        cls, size: int, *, at: Place | None = None, after: int | None = None, first: int | None = None
    ) -> Fault:
        """Close the connection in order (FIN) when `size` bytes have been sent.

        They are counted as HTTP has them, from the head on unless a place is given; 0 closes the connection there.
        """
        _check_size(size, least=0)
        return cls("limit_data", *_place("limit_data", _IN_ANSWER, at, after), first, (size,), Wire.limit)

    @classmethod
    def slow_drip(
        cls, seconds: float, *, at: Place | None = None, after: int | None = None, first: int | None = None
    ) -> Fault:
        """Send byte by byte, and wait for a time after each. From the head on, unless a place is given."""
        check_seconds("seconds", seconds)
        return cls("slow_drip", *_place("slow_drip", _IN_ANSWER, at, after), first, (1, seconds), Wire.cut)

    @classmethod
    def slicer(
        cls,
        size: int,
        delay: float = 0.0,
        *,
        at: Place | None = None,
        after: int | None = None,
        first: int | None = None,
    ) -> Fault:
        """Send at most `size` bytes at a time, `delay` seconds apart. From the head on, unless a place is given."""
        _check_size(size)
        check_seconds("delay", delay)
        return cls("slicer", *_place("slicer", _IN_ANSWER, at, after), first, (size, delay), Wire.cut)

    @classmethod
    def slow_close(cls, seconds: float, *, first: int | None = None) -> Fault:
        """Close the connection, as the headers say it will be, but only a time after the complete answer.

        `latency(…, at="end")` has the end of the answer itself come late.
        """
        check_seconds("seconds", seconds)
        return cls("slow_close", "close", 0, first, (seconds,), Wire.wait, _CLOSE)

    # What is answered instead

    @classmethod
    def status(
        cls,
        status: int,
        message: str | None = None,
        *,
        body: str | bytes | None = None,
        content_type: str = "application/json",
        first: int | None = None,
    ) -> Fault:
        """Answer with a status from 400 to 599; no reply is used up.

        Args:
            status: the status.
            message: what the error object says, which the service sends with a status; None: the status's name.
            body: what to send in place of an error object.
            content_type: of `body`.
            first: see `Fault`.
        """
        _check_status(status)
        if body is None:
            response = service_error(status, message or _phrase(status))
        else:
            response = Response(status, content_type, body.encode() if isinstance(body, str) else body)
        return cls._instead("status", response, first)

    @classmethod
    def retry_after(
        cls,
        seconds: float | None = None,
        *,
        ms: float | None = None,
        date: datetime | None = None,
        status: int = 429,
        first: int | None = None,
    ) -> Fault:
        """Answer with a status, and with a header that says when to try again; no reply is used up.

        Args:
            seconds: `Retry-After` as a number of seconds.
            ms: `retry-after-ms`, a number of milliseconds, which is OpenAI's.
            date: `Retry-After` as a date; one without a time zone is in local time.
            status: the status, from 400 to 599.
            first: see `Fault`.

        Raises:
            ValueError: it is not exactly one of `seconds`, `ms` and `date`.
        """
        if [seconds, ms, date].count(None) != 2:
            raise ValueError("give one of seconds, ms= and date=")
        _check_status(status)
        if date is not None:
            headers = {"Retry-After": format_datetime(date.astimezone(timezone.utc), usegmt=True)}
        else:
            headers = {"Retry-After": f"{seconds}"} if ms is None else {"retry-after-ms": f"{ms}"}
        return cls._instead("retry_after", service_error(status, _phrase(status), headers), first)

    @classmethod
    def html(cls, status: int = 502, *, first: int | None = None) -> Fault:
        """Answer with a gateway's page and a status from 400 to 599, or 200; no reply is used up."""
        if status != 200:
            _check_status(status)
        title = f"{status} {_phrase(status)}"
        page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
        return cls._instead("html", Response(status, "text/html; charset=utf-8", page.encode()), first)

    @classmethod
    def _instead(cls, name: str, response: Response, first: int | None) -> Fault:
        return cls(name, "answer", 0, first, (response,), Wire.answer)

    # The content

    @classmethod
    def bad_chunk(cls, *, at: Literal["size", "chunk"] = "size", after: int = 0, first: int | None = None) -> Fault:
        """Send a byte too many: the chunk's size is none, or the chunk does not end where its size says."""
        place = _place("bad_chunk", ("size", "chunk"), at, after)
        return cls("bad_chunk", *place, first, (b"!",), Wire.send, _CHUNKED)

    @classmethod
    def bad_gzip(cls, *, truncated: bool = False, after: int = 0, first: int | None = None) -> Fault:
        """Compress the answer, though nobody asked for it, and send what is not gzip behind some pieces.

        Args:
            truncated: send nothing there, so that the compressed data lacks its end.
            after: see `Fault`.
            first: see `Fault`.
        """
        data = b"" if truncated else b"\xff" * 8  # 0xff begins a deflate block of a type that there is not
        return cls("bad_gzip", "piece", after, first, (data,), Wire.spoil_gzip, _GZIP)

    @classmethod
    def gzip_bomb(cls, size: int, *, after: int = 0, first: int | None = None) -> Fault:
        """Compress the answer, and end it with `size` zero bytes, which take a thousandth of that on the wire."""
        _check_size(size)
        return cls("gzip_bomb", "piece", after, first, (size, b"\0"), Wire.flood, _GZIP)

    @classmethod
    def huge_line(cls, size: int, *, after: int = 0, first: int | None = None) -> Fault:
        """End the answer with an event that is one line: `data: `, `size` bytes, and no line end.

        The web protocol knows no lines; there it is `size` bytes of text.
        """
        _check_size(size)
        return cls("huge_line", "piece", after, first, (size, b"x", b"data: "), Wire.flood, _CHUNKED)

    @classmethod
    def bad_utf8(cls, *, after: int = 0, first: int | None = None) -> Fault:
        """Send, between pieces, one whose text is a byte that UTF-8 does not have."""
        return cls("bad_utf8", "piece", after, first, (b"\xff",), Wire.garble, _CHUNKED)

    @classmethod
    def bad_json(cls, *, after: int = 0, first: int | None = None) -> Fault:
        """Send, between pieces, the beginning of a JSON object only.

        The web protocol carries text, where this is no fault.
        """
        return cls("bad_json", "piece", after, first, (b'{"choices": [{"delta"',), Wire.event, _CHUNKED)

    @classmethod
    def error_frame(
        cls, message: str = "upstream failed", *, status: int = 500, after: int = 0, first: int | None = None
    ) -> Fault:
        """Send an error object with a status from 400 to 599 behind some pieces, where the answer then ends.

        The web protocol carries text, of which this is a part then.
        """
        _check_status(status)
        error = _error_object(status, message)
        return cls("error_frame", "piece", after, first, (error,), Wire.fail, _CHUNKED)

    @classmethod
    def no_done(cls, *, after: int | None = None, first: int | None = None) -> Fault:
        """End the answer behind some pieces, or all, but not as it should end.

        A stream of events lacks the finish reason and `[DONE]`; anything else, as the web protocol
        has it, lacks the last chunk, and the connection is closed in order.
        """
        return cls("no_done", "piece", math.inf if after is None else after, first, (), Wire.stop)


def _place(name: str, places: Sequence[Place], at: Place | None, after: int | None) -> tuple[Place, int]:
    """Return where a fault strikes, given the places that make sense for it."""
    if at is None:
        at = "head" if after is None else "piece"
    if at not in places:
        raise ValueError(f"Fault.{name}(at={at!r}): it strikes at {', '.join(map(repr, places))}")
    counting = [place for place in places if place in ("piece", "size", "chunk")]
    if after is not None and at not in counting:
        raise ValueError(f"Fault.{name}(at={at!r}, after={after}): after= goes with {', '.join(map(repr, counting))}")
    return at, after or 0


def _check_number(name: str, value: float) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")


def check_seconds(name: str, value: float) -> None:
    """Raise ValueError for what can't be waited for, TypeError for what is no number."""
    _check_number(name, value)
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name}={value}: a number of seconds, 0 or more")


def _check_size(size: int, least: int = 1) -> None:
    _check_number("size", size)
    if size < least:
        raise ValueError(f"size={size}: a number of bytes, {least} or more")


def _check_status(status: int) -> None:
    _check_number("status", status)
    if not 400 <= status <= 599:
        raise ValueError(f"status={status}: an error's is from 400 to 599")


def service_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the service itself words it."""
    return Response(status, "application/json", _error_object(status, message), headers or {})


def _error_object(status: int, message: str) -> bytes:
    code = f"{status} {_phrase(status).upper().replace(' ', '_')}"
    return to_json({"error": {"message": message, "type": "chatanywhere_error", "param": None, "code": code}})


def to_json(value: object) -> bytes:
    """Return a value as JSON in UTF-8."""
    # A lone surrogate has no UTF-8; the backslash form it gets instead is an escape of JSON's, too.
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a gateway's own, such as 520
        return "Unknown Error"
