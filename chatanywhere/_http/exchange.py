"""One request on one connection, and its answer: sent and received by whoever waits, decoded without I/O."""

from __future__ import annotations

import enum
import errno
import http.client
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from .._errors import APIConnectionError, ChatAnywhereError, ProtocolError, StreamInterruptedError
from .body import Body
from .connections import Connection
from .head import Head, HeadDecoder
from .idle import IdleConnections
from .scope import CallScope
from .sockets import raised_by_program, receive, receive_nowait, send_nowait, wait_until_ready, was_not_read

_REQUEST_IDS = (  # OpenAI's, Anthropic's, Azure's two, Amazon's, LiteLLM's; of Cloudflare, which stands before many
    "x-request-id",
    "request-id",
    "x-ms-request-id",
    "apim-request-id",
    "x-amzn-requestid",
    "x-litellm-call-id",
    "cf-ray",
)

_BROKEN = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.ESHUTDOWN)


class Loss(enum.Enum):
    """How a connection was lost that had been idle, before anything came back on it."""

    UNREAD = enum.auto()  # the server can't have read the request
    MAYBE_READ = enum.auto()


class HTTPResponse:
    """An answer whose head has come.

    Attributes:
        status_code: the HTTP status.
        headers: with case-insensitive keys.
        reason: the words behind the status.
        body: decodes what the connection gives.
        is_readable: the head says where the body ends, and how to read it.
    """

    def __init__(
        self, status_code: int, headers: Mapping[str, str], max_bytes: int | None, *, framed: bool, reason: str = ""
    ) -> None:
        """Take a head.

        Raises:
            ProtocolError: it announces a body that can't be read, and is not that of an error.
        """
        self.status_code = status_code
        self.headers = headers
        self.reason = reason
        fine = 200 <= status_code < 300
        limit = max_bytes if fine else None  # of an error, the beginning is read
        self.is_readable = True
        try:
            self.body = Body(headers, limit=limit, framed=framed, empty=status_code in (204, 304))
        except ProtocolError:
            if fine:
                raise
            self.body = Body({}, limit=limit, empty=True)  # the status is worth telling
            self.is_readable = False

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the first of the headers that there is."""
        return next((self.headers[name] for name in _REQUEST_IDS if name in self.headers), None)


class Exchange:
    """A request that is being sent, and what comes back.

    Args:
        scope: the limits of its call.
        connection: it is the exchange's until `close`.
        idle, origin: where the connection goes when it can be used again, and whose it is.
        request: what is sent.
        reused: the connection has been idle.
        max_bytes: the largest answer.

    Attributes:
        response: the answer, once its head has come.
        rest: what came behind the head of the answer.
        loss: how the connection was lost, if that says nothing about the server.
    """

    def __init__(
        self,
        scope: CallScope,
        connection: Connection,
        idle: IdleConnections,
        origin: str,
        request: bytes,
        *,
        reused: bool,
        max_bytes: int | None,
    ) -> None:
        self.response: HTTPResponse | None = None
        self._reused = reused
        self.rest = b""
        self.loss: Loss | None = None
        self._scope = scope
        self._connection = connection
        self._socket = connection.sock
        self._origin = origin
        self._idle = idle
        self._max_bytes = max_bytes
        self._unsent = memoryview(request)
        self._send_error: OSError | None = None
        self._answered_early = False
        self._decoder = HeadDecoder()
        self._head: Head | None = None
        self._closed = False
        scope.attach(connection)

    @property
    def is_sent(self) -> bool:
        """Whether the whole request is on its way."""
        return not self._unsent

    @property
    def waitable(self) -> Any:
        """The socket for an event loop to wait for; None where only a thread can, for TLS within TLS."""
        return self._socket if self._socket is self._connection.innermost else None

    def send(self) -> None:
        """Wait until the request is on its way, or the server has answered without reading it to its end.

        Raises:
            ChatAnywhereError: a limit ran out, the call was cancelled, or what came back is no answer.
        """
        try:
            self._send_some()
            while self._unsent:
                wait_until_ready(self._scope, self._socket)
                data = receive_nowait(self._scope, self._socket)
                if data and self.read_head(data):
                    self._answered_early = True
                    self._unsent = self._unsent[:0]
                elif data == b"":
                    raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
                self._send_some()
        except OSError as exc:
            self._give_up_sending(exc)

    def send_nowait(self) -> None:
        """Send what the socket takes without waiting."""
        try:
            self._send_some()
        except OSError as exc:
            self._give_up_sending(exc)

    def _send_some(self) -> None:
        while self._unsent and (sent := send_nowait(self._socket, self._unsent)):
            self._unsent = self._unsent[sent:]

    def _give_up_sending(self, exc: OSError) -> None:
        """A server that closes may have answered before; so what it sent is looked at first."""
        failure = self._scope.failure()
        if failure is not None:
            raise failure from exc
        if raised_by_program(exc):
            raise exc
        self._send_error = exc
        self._unsent = self._unsent[:0]

    def receive(self) -> bytes:
        """Wait for bytes and return them; `b""` says that the connection has ended.

        Raises:
            ChatAnywhereError: the connection failed, a limit ran out, or the call was cancelled.
        """
        try:
            return receive(self._scope, self._socket)
        except OSError as exc:
            raise self._loss(exc) from exc

    def receive_nowait(self) -> bytes | None:
        """Return what has arrived, `b""` at the end of the connection, None if nothing has.

        Raises:
            ChatAnywhereError: the connection failed, or the call was cancelled.
        """
        try:
            return receive_nowait(self._scope, self._socket)
        except OSError as exc:
            raise self._loss(exc) from exc

    def read_head(self, data: bytes) -> HTTPResponse | None:
        """Take bytes that belong to the head; return the answer once it is whole. What came behind it is in `rest`.

        Raises:
            ProtocolError: this is not the head of an answer, or announces what can't be read.
            APIConnectionError: the connection has ended.
        """
        if not data:
            raise self._loss(None) from http.client.RemoteDisconnected("the server closed the connection")
        self._head = self._decoder.feed(data)
        if self._head is not None:
            self.rest = self._decoder.rest
            head = self._head
            self.response = HTTPResponse(
                head.status_code, head.headers, self._max_bytes, framed=True, reason=head.reason
            )
            self._scope.reading()
        return self.response

    def close(self) -> None:
        """Keep the connection for another call if the answer was read to its end, else close it."""
        if self._closed:
            return
        self._scope.detach()
        if not self._is_reusable():
            self._connection.close()
        # Ctrl-C may come anywhere, and closing may then be tried again; but a signal handler that comes while the
        # connection is given away must not give it away too.
        self._closed = True
        if self._connection.sock is not None:
            self._idle.put(self._origin, self._connection)

    def __del__(self) -> None:
        with suppress(Exception):  # an interrupt struck before anybody could take it
            self.close()

    def _is_reusable(self) -> bool:
        response, head = self.response, self._head
        if response is None or head is None or self._scope.cancelled or self._send_error or self._answered_early:
            return False
        # Of TLS within TLS, more may have come than the socket shows, and would be taken for the next answer.
        return bool(self.waitable) and response.is_readable and response.body.leaves_connection and head.keep_alive

    def _loss(self, exc: OSError | None) -> ChatAnywhereError:
        """What it means that the connection has ended, or failed."""
        failure = self._scope.failure()
        if failure is not None:
            return failure
        if exc is not None and raised_by_program(exc):
            raise exc
        if self.response is not None:
            return StreamInterruptedError(f"the connection was lost within the answer: {words(exc)}")
        said = words(self._send_error or exc)
        if self._reused and not self._decoder.begun:
            self.loss = Loss.UNREAD if self._is_unread(exc) else Loss.MAYBE_READ
            if self.loss is Loss.MAYBE_READ:
                said += " (a reused connection was lost, and the request may have been read)"
        return APIConnectionError(f"the connection to {self._origin} was lost before the answer began: {said}")

    def _is_unread(self, exc: OSError | None) -> bool:
        """Whether the server can't have read the request."""
        if self._send_error is not None:
            return self._send_error.errno in _BROKEN
        if exc is None or isinstance(exc, ssl.SSLEOFError):
            return was_not_read(self._connection.innermost)
        return False  # a reset leaves no trace of what was read


def words(exc: BaseException | None) -> str:
    """What an exception says, in a few words."""
    if exc is None:
        return "it was closed"
    return getattr(exc, "strerror", None) or str(exc) or type(exc).__name__
