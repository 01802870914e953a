"""Responses, and the writer that sends one to a connection and lets faults strike on the way.

The writer knows of a fault only that it strikes at a place. It offers what can be done to a response there;
which fault does what is for `faults.py` to say.
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import NoReturn, Protocol

_BLOCK = 64 * 1024  # bytes
_EVENT_STREAM = "text/event-stream"


class SupportsStrike(Protocol):
    """What a writer knows of a fault."""

    @property
    def at(self) -> str:
        """The place where it strikes."""
        ...

    @property
    def after(self) -> float:
        """How many pieces of the reply come first."""
        ...

    @property
    def needs(self) -> Sequence[tuple[str, str]]:
        """The headers that a response must have for this fault to strike it."""
        ...

    def strike(self, writer: ResponseWriter) -> None:
        """Do what goes wrong."""
        ...


@dataclass(frozen=True)
class StreamedBody:
    """A body that is written piece by piece, each of which leaves at once."""

    pieces: Iterable[bytes]
    opening: Sequence[bytes] = ()
    """What leaves before the first piece, and is none of the reply's."""
    ending: Sequence[bytes] = ()


@dataclass(frozen=True)
class Response:
    """What to answer: a body in one, or a streamed one."""

    status: int
    content_type: str
    body: bytes | StreamedBody
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    fault: SupportsStrike | None = None
    """What goes wrong with this response, besides what goes wrong with its request."""


def service_error(status: int, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the service itself words it."""
    return Response(status, "application/json", error_object(status, message), headers or {})


def openai_error(
    status: int,
    message: str,
    code: str | None,
    *,
    param: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return an error of the request itself as OpenAI words it."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Response(status, "application/json", to_json({"error": error}), headers or {})


def error_object(status: int, message: str) -> bytes:
    """Return the JSON object by which the service tells an error."""
    code = f"{status} {reason_phrase(status).upper().replace(' ', '_')}"
    return to_json({"error": {"message": message, "type": "chatanywhere_error", "param": None, "code": code}})


def reason_phrase(status: int) -> str:
    """Return a status in words."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:  # a gateway's own, such as 520
        return "Unknown Error"


def to_json(value: object) -> bytes:
    """Return a value as JSON in UTF-8."""
    # A lone surrogate has no UTF-8; the backslash form it gets instead is an escape of JSON's, too.
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")


class ResponseOver(Exception):
    """A fault has ended the response; another request may follow."""


class ResponseWriter:
    """Writes one response to a connection; every byte of it leaves through `send`.

    Whatever ends the connection raises an OSError.

    Args:
        connection: a socket, or one with TLS.
        closing: set when the server is closed, which ends every wait.
        keep_alive: whether another request may follow.
        chunked: whether the client knows chunks, as one of HTTP/1.0 does not.
        bare: leave out the body, as the answer to HEAD does.
        delay: seconds to wait between two pieces of a streamed body.

    Attributes:
        connection, closing: see above.
        listens: whether what comes from the client meanwhile says anything about whether it is still there.
        keep_alive: see above; a fault may have changed it.
        status: the status that has been sent, or is about to be; 0 before.
        event_stream: whether the body is a stream of events.
        compressor: what the body goes through, or None; a fault may take it away.
    """

    def __init__(
        self,
        connection: socket.socket,
        closing: threading.Event,
        *,
        keep_alive: bool = False,
        chunked: bool = True,
        bare: bool = False,
        delay: float = 0.0,
    ) -> None:
        self.connection = connection
        self.closing = closing
        self.keep_alive = keep_alive
        self.listens = True
        self.status = 0
        self.event_stream = False
        self.compressor: zlib._Compress | None = None
        self._chunked = chunked
        self._bare = bare
        self._delay = delay
        self._faults: list[SupportsStrike] = []  # that have not struck yet
        self._written = 0.0  # pieces of the reply
        self._left: int | None = None  # bytes that may still leave
        self._slice_size = 0
        self._slice_delay = 0.0
        self._deadline = math.inf

    # Faults

    def order(self, faults: Iterable[SupportsStrike]) -> None:
        """Let these faults strike from here on, each once."""
        self._faults += faults

    def reach(self, *places: str) -> None:
        """Come to places one after the other: the faults that wait there strike, in their order."""
        for place in places:
            while (fault := self._waiting(place)) is not None:
                self._faults.remove(fault)
                fault.strike(self)

    def _waiting(self, place: str) -> SupportsStrike | None:
        return next((fault for fault in self._faults if fault.at == place and fault.after <= self._written), None)

    # The response

    def write(self, response: Response) -> None:
        """Write a whole response.

        Raises:
            ResponseOver: a fault ended it early.
        """
        self._write_head(response)
        if not self._bare:
            self._write_body(
                response.body if isinstance(response.body, StreamedBody) else StreamedBody([response.body])
            )

    def relay(self, status: int, headers: Iterable[tuple[str, str]], pieces: Iterable[bytes]) -> None:
        """Write another server's response, with its headers, and framed as they say as far as the client knows that.

        Args:
            status: its status.
            headers: its headers, without `Connection`.
            pieces: its body, each piece of which leaves at once; not asked for where there is none to be sent.

        Raises:
            ResponseOver: a fault ended it early.
        """
        needs = {name: value for fault in self._faults for name, value in fault.needs}
        changed = {"connection", *(name.lower() for name in needs)}
        fields = [*((name, value) for name, value in headers if name.lower() not in changed), *needs.items()]
        names = {name.lower() for name, _ in fields}
        self._bare = self._bare or status in (204, 304)
        self._chunked = self._chunked and "transfer-encoding" in names
        if "transfer-encoding" in names:
            left_out = "content-length" if self._chunked else "transfer-encoding"
            fields = [(name, value) for name, value in fields if name.lower() != left_out]
        if not self._chunked and "content-length" not in names and not self._bare:
            self.keep_alive = False
        connection = needs.get("Connection", "keep-alive" if self.keep_alive else "close")
        content_type = next((value for name, value in fields if name.lower() == "content-type"), "")
        self._send_head(
            status, [*fields, ("Connection", connection)], content_type, is_packed="Content-Encoding" in needs
        )
        if not self._bare:
            self._write_body(StreamedBody(pieces))

    def _write_body(self, body: StreamedBody) -> None:
        self.reach("piece")
        for data in body.opening:
            self.piece(data)
        for data in body.pieces:
            if self._written:
                self.wait(self._delay)
            self.piece(data)
            self._written += 1
            self.reach("piece")
        self._written = math.inf  # a fault that waits for more pieces than there are strikes now
        self.reach("piece")
        for data in body.ending:
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
            headers.update(fault.needs)
        if isinstance(response.body, bytes) and "Transfer-Encoding" not in headers:
            headers["Content-Length"] = str(len(response.body))
            self._chunked = False
        elif self._chunked:
            headers["Transfer-Encoding"] = "chunked"
        else:
            headers.pop("Transfer-Encoding", None)
        self._send_head(
            response.status, [*headers.items()], response.content_type, is_packed="Content-Encoding" in headers
        )

    def _send_head(
        self, status: int, headers: Sequence[tuple[str, str]], content_type: str, *, is_packed: bool
    ) -> None:
        self.status = status
        self.keep_alive = ("Connection", "keep-alive") in headers
        self.event_stream = content_type.partition(";")[0].strip().lower() == _EVENT_STREAM
        if is_packed:
            self.compressor = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        status_line = f"HTTP/1.1 {status} {reason_phrase(status)}\r\n"
        lines = [f"{name}: {value}\r\n" for name, value in headers]
        head = "".join([status_line, *lines, "\r\n"]).encode("latin-1")
        self._send_around(head, fields=len(status_line), headers=len(head) // 2)

    def piece(self, data: bytes) -> None:
        """Write a part of the body, as a chunk if the body is chunked."""
        if self.compressor is not None:
            data = self.compressor.compress(data) + self.compressor.flush(zlib.Z_SYNC_FLUSH)
        if data:  # an empty chunk would end the response
            self._write_chunk(data)

    def _write_chunk(self, data: bytes) -> None:
        size = b""
        if self._chunked:
            size = b"%x\r\n" % len(data)
            data += b"\r\n"
        self._send_around(size + data, size=len(size) // 2, chunk=len(size) + len(data) // 2)

    def event(self, data: bytes) -> None:
        """Write a part of the body, as an event if the body is a stream of events."""
        self.piece(b"data: %b\n\n" % data if self.event_stream else data)

    def end(self) -> None:
        """Write what ends the body."""
        if self.compressor is not None:
            compressor, self.compressor = self.compressor, None
            self.piece(compressor.flush())
        self.reach("end")
        self._write_chunk(b"")
        self.reach("close")

    def _send_around(self, data: bytes, **places: int) -> None:
        """Send bytes in one, unless a fault waits at one of these places, each so many bytes behind the first."""
        start = 0
        for place, end in places.items():
            if self._waiting(place) is not None:
                self.send(data[start:end])
                self.reach(place)
                start = end
        self.send(data[start:])

    def send(self, data: bytes) -> None:
        """Send bytes as they are, under the limits and in the slices that are set."""
        if self._left is not None:
            data = data[: self._left]
            self._left -= len(data)
        size = self._slice_size or len(data)
        for start in range(0, len(data), size or 1):
            left = self._deadline - time.monotonic()
            if left <= 0:
                self.close()
            self.connection.sendall(data[start : start + size])
            if self._slice_size:
                self.wait(min(self._slice_delay, left))
        if self._left == 0:
            self.close()

    # What can be done to it

    def wait(self, seconds: float) -> None:
        """Let time pass, but none once the server closes."""
        if self.closing.wait(seconds):
            raise ConnectionAbortedError("the server was closed in the middle of a response")

    def limit_size(self, size: int) -> None:
        """Close the connection when `size` more bytes have been sent."""
        self._left = size
        self.send(b"")

    def limit_time(self, seconds: float) -> None:
        """Close the connection instead of sending anything after so many seconds."""
        self._deadline = min(self._deadline, time.monotonic() + seconds)

    def slice(self, size: int, delay: float) -> None:
        """Send at most `size` bytes at a time from here on, with `delay` seconds between."""
        self._slice_size, self._slice_delay = size, delay

    def finish(self) -> NoReturn:
        """End the response here as if it were complete."""
        self.end()
        raise ResponseOver

    def silence(self) -> NoReturn:
        """Send nothing more until the client leaves or the server closes."""
        # What a client sends under TLS is read as it comes: reading it decrypted would shake hands.
        while socket.socket.recv(self.connection, _BLOCK):
            pass
        raise ConnectionAbortedError("nothing more is sent, and the client left")

    def has_lost_client(self) -> bool:
        """Return whether the client has closed the connection, once something has come from it."""
        try:
            if isinstance(self.connection, ssl.SSLSocket):
                self.keep_alive = False  # what is read here, which is most often the end of TLS, is lost to it
                return not socket.socket.recv(self.connection, _BLOCK)
            # Its next request, which is not read here, hides whether it closes the connection behind it.
            self.listens = not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True
        return self.listens

    def close(self) -> NoReturn:
        """End the connection, for the client to read to the end what has been sent."""
        end_tls(self.connection)
        socket.socket.shutdown(self.connection, socket.SHUT_WR)
        # What the client still sends is read, since a connection that is closed with input
        # unread is reset, and the reset may overtake the response.
        self.silence()

    def reset(self) -> NoReturn:
        """End the connection by a TCP reset."""
        linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)  # on, for 0 seconds
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        raise ConnectionResetError("a fault reset the connection")


def end_tls(connection: socket.socket) -> None:
    """Say under TLS that nothing more will be sent, without waiting for the other side to say so."""
    if isinstance(connection, ssl.SSLSocket):
        with contextlib.suppress(OSError, ValueError):  # there has been no handshake, or the client is gone
            connection.settimeout(0)
            connection.unwrap()
        with contextlib.suppress(OSError):
            connection.settimeout(None)
