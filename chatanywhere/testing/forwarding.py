"""Requests that are sent on to another server, and its answers, read as they come.

Nothing here outlives the client that asked: when it goes away, so does the connection to the other server.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import re
import selectors
import socket
import ssl
import string
import time
import zlib
from collections.abc import Iterator
from types import TracebackType
from typing import Any, cast
from urllib.parse import quote, urlsplit

from .matching import below
from .request import Request
from .writer import ResponseWriter

_CONNECT = 10.0  # seconds, for each address of a host
_SILENCE = 600.0  # seconds without a byte, which is how long OpenAI's library waits
_BLOCK = 64 * 1024  # bytes
_MAX_INTERIM = 100  # interim answers (1xx) before the answer
_PRINTABLE = string.punctuation  # which stays in a URL as it was sent

# Of one connection only (RFC 9110, section 7.6.1).
_HOP_BY_HOP = {
    *("connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization", "te", "trailer"),
    *("transfer-encoding", "upgrade"),
}
_REPLACED = {*_HOP_BY_HOP, "host", "content-length", "accept-encoding", "expect"}


class UpstreamError(Exception):
    """The other server can't be asked, or does not answer as HTTP has it."""


class UpstreamCut(Exception):
    """The other server's answer ends too early.

    Attributes:
        reset: whether the connection was reset, and not closed in order.
    """

    def __init__(self, reset: bool) -> None:
        super().__init__("reset" if reset else "cut")
        self.reset = reset


class ClientLeft(ConnectionAbortedError):
    """Whoever asked has gone away, or this server is being closed."""


class Upstream:
    """A server to which requests are sent on.

    Args:
        url: where it is, with `/v1` or without.

    Attributes:
        url: the same without a query.
        path: the path below which it is asked.
        query: what is added to the query of each request.

    Raises:
        TypeError: `url` is no str.
        ValueError: it is no URL of a server.
    """

    def __init__(self, url: str) -> None:
        if not isinstance(url, str):
            raise TypeError(f"upstream must be a URL as a str, not {type(url).__name__}")
        if "@" in url.partition("?")[0]:
            raise ValueError("upstream has a user or a password in it: give the client the key, which is sent on")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError as error:
            raise ValueError(f"upstream is no URL: {error}") from error
        if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f]", url):
            raise ValueError(
                f"upstream is a URL such as 'https://api.chatanywhere.tech/v1', not {url.partition('?')[0]!r:.80}"
            )
        self.path = quote(parts.path.rstrip("/"), _PRINTABLE) or "/v1"
        self.url = f"{parts.scheme}://{parts.netloc}{self.path}"
        self.query = quote(parts.query, _PRINTABLE)
        self._host, self._port, self._is_secure = host, port, parts.scheme == "https"

    def ask(self, request: Request, writer: ResponseWriter) -> UpstreamAnswer:
        """Send a request on, and return its answer when the headers have come; `writer` leads back to the client.

        Raises:
            UpstreamError: there is no answer.
            ClientLeft: the client went away.
        """
        try:
            connection = self._connection()
        except ValueError as error:
            raise UpstreamError("the proxy that the environment names is no URL: mend it, or set NO_PROXY") from error
        try:
            connection.connect()
            sent = time.monotonic()
            # Who refuses a request may answer before having read it all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._send(connection, request)
            return UpstreamAnswer(connection, request.method, writer, sent)
        except ClientLeft:
            connection.close()
            raise
        except (OSError, http.client.HTTPException, ValueError) as error:
            connection.close()
            raise UpstreamError(f"no answer from {self.url}: {error or type(error).__name__}") from error

    def _connection(self) -> http.client.HTTPConnection:
        if not self._is_secure:
            return http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT)
        from urllib.request import getproxies, proxy_bypass

        context = ssl.create_default_context()
        proxy = getproxies().get("https")
        if not proxy or proxy_bypass(self._host):
            return http.client.HTTPSConnection(self._host, self._port, timeout=_CONNECT, context=context)
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        if parts.scheme != "http" or parts.username or not parts.hostname:
            raise UpstreamError("a proxy is used if it is http:// and wants no password: set NO_PROXY for this host")
        through = http.client.HTTPSConnection(parts.hostname, parts.port or 80, timeout=_CONNECT, context=context)
        through.set_tunnel(self._host, self._port or 443)
        return through

    def _send(self, connection: http.client.HTTPConnection, request: Request) -> None:
        connection.sock.settimeout(_SILENCE)
        query = "&".join(filter(None, [request.path.partition("?")[2], self.query]))
        target = self.path + below(request.path, self.path) + (f"?{query}" if query else "")
        target = quote(target, _PRINTABLE, encoding="latin-1")
        connection.putrequest(request.method, target, skip_accept_encoding=True)
        for name, value in _end_to_end(request.headers, _REPLACED):
            connection.putheader(name, value)
        # What is compressed hides the keys that are to be left out.
        connection.putheader("Accept-Encoding", "identity")
        connection.putheader("Connection", "close")
        if request.body or "Content-Length" in request.headers:
            connection.putheader("Content-Length", str(len(request.body)))
        connection.endheaders(request.body)


class UpstreamAnswer:
    """The answer of another server.

    Attributes:
        sent: when its request was sent, by `time.monotonic()`.
        status: its status.
        headers: its headers, without those of the connection, but with that which says how it is framed.
    """

    def __init__(
        self, connection: http.client.HTTPConnection, method: str, writer: ResponseWriter, sent: float
    ) -> None:
        self.sent = sent
        self._connection = connection
        incoming = _Incoming(connection.sock, writer)
        self._response = http.client.HTTPResponse(cast("socket.socket", incoming), method=method)
        for _ in range(_MAX_INTERIM):
            self._response.begin()
            if incoming.has_ended:
                raise http.client.HTTPException("the connection was closed within the headers")
            self.status = self._response.status
            if self.status >= 200:
                break
            self._response.headers = None  # type: ignore[assignment]  # so that it begins anew
        else:
            raise http.client.HTTPException("interim answers without an end")
        self.headers = list(_end_to_end(self._response.headers, _HOP_BY_HOP))
        self._frame()

    def _frame(self) -> None:
        """Find out where the body ends, and how it is packed."""
        headers = self._response.headers
        coding = headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in ("identity", "gzip", "x-gzip", "deflate"):
            raise http.client.HTTPException(f"the answer is compressed by {coding}, which was not asked for")
        self._is_packed = coding != "identity" and self._response.length != 0
        transfer_coding = headers.get("Transfer-Encoding")
        lengths = set(headers.get_all("Content-Length", []))
        if transfer_coding and not self._response.chunked:
            raise http.client.HTTPException(f"the answer is sent in the transfer coding {transfer_coding}")
        if len(lengths) > 1 or not all(re.fullmatch(r"[0-9]+", length) for length in lengths):
            raise http.client.HTTPException(f"the answer has a malformed Content-Length: {', '.join(sorted(lengths))}")
        if self._response.chunked or self._is_packed:
            self._leave_out("content-length", *["content-encoding"] * self._is_packed)
            self.headers.append(("Transfer-Encoding", "chunked"))

    def _leave_out(self, *names: str) -> None:
        self.headers = [(name, value) for name, value in self.headers if name.lower() not in names]

    @property
    def is_over(self) -> bool:
        """Whether it is known that nothing more comes."""
        return self._response.length == 0 and not self._is_packed

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it comes: what has come of one chunk is one piece.

        Raises:
            UpstreamCut: it ends too early.
            ClientLeft: the client went away.
        """
        try:
            yield from self._unpacked() if self._is_packed else self._read()
        except ClientLeft:
            raise
        except (OSError, http.client.HTTPException, ValueError, zlib.error) as error:
            raise UpstreamCut(reset=isinstance(error, ConnectionResetError)) from error

    def _read(self) -> Iterator[bytes]:
        while data := self._response.read1(_BLOCK):
            yield data
        if self._response.length:
            raise http.client.IncompleteRead(b"")

    def _unpacked(self) -> Iterator[bytes]:
        unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        for data in self._read():
            while data and not unpacker.eof:
                if piece := unpacker.decompress(data, _BLOCK):
                    yield piece
                data = unpacker.unconsumed_tail
        if piece := unpacker.flush():
            yield piece
        if not unpacker.eof:
            raise http.client.IncompleteRead(b"")

    def __enter__(self) -> UpstreamAnswer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._response.close()
        self._connection.close()


def _end_to_end(headers: http.client.HTTPMessage, replaced: set[str]) -> Iterator[tuple[str, str]]:
    """Yield the headers that are not about a connection, each in one line."""
    named = {name.strip().lower() for value in headers.get_all("Connection", []) for name in value.split(",")}
    for name, value in headers.items():
        if name.lower() not in replaced | named:
            yield name, re.sub(r"[\r\n]+[ \t]*", " ", value)


class _Incoming(io.RawIOBase):
    """What comes from another server, for as long as the client that waits for it stays."""

    def __init__(self, connection: socket.socket, writer: ResponseWriter) -> None:
        connection.setblocking(False)
        self.has_ended = False
        self._connection = connection
        self._writer = writer

    def makefile(self, mode: str) -> io.BufferedReader:
        """Return the file that http.client reads."""
        return io.BufferedReader(self, _BLOCK)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            try:
                size = self._connection.recv_into(buffer)
                self.has_ended = size == 0
                return size
            except (BlockingIOError, ssl.SSLWantReadError):
                self._wait(selectors.EVENT_READ)
            except ssl.SSLWantWriteError:
                self._wait(selectors.EVENT_WRITE)

    def _wait(self, event: int) -> None:
        """Wait until the other server can be read from.

        Raises:
            ClientLeft: the client has gone.
            TimeoutError: it took too long.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, event)
            if self._writer.listens:
                selector.register(self._writer.connection, selectors.EVENT_READ)
            end = time.monotonic() + _SILENCE
            while ready := selector.select(end - time.monotonic()):
                files = [key.fileobj for key, _ in ready]
                if self._writer.connection in files:
                    if self._writer.has_lost_client():
                        raise ClientLeft("the client went away")
                    if not self._writer.listens:
                        selector.unregister(self._writer.connection)
                if self._connection in files:
                    return
        raise TimeoutError(f"nothing came for {_SILENCE:g} seconds")
