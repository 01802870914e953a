"""A real HTTP server on this machine that stands in for the service, for tests and offline use.

It speaks both of the service's protocols and shares no code with the client, so that a mistake of
the client's finds no accomplice here. What can go wrong between the two goes wrong when it is ordered: see `Fault`.
Here connections are accepted and requests are read; what they are answered is made in `routes.py` and sent by
`writer.py`.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import re
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Iterable
from itertools import islice, repeat
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO

from .faults import Fault, check_seconds
from .replies import ReplyLike
from .request import Request, RequestError, without_query
from .routes import Backend, Replies, respond
from .writer import ResponseOver, ResponseWriter, end_tls

if TYPE_CHECKING:
    from .recorder import Player, Recorder

_logger = logging.getLogger(__name__)
_logger.setLevel(logging.WARNING)  # who watches the logger `chatanywhere` wants to know of the client

_MAX_LINE = 65_536  # bytes
_MAX_BODY = 50 * 1024 * 1024  # bytes, which is OpenAI's limit


class LoopbackServer:
    """A server on this machine that answers chats as the service does, over real connections.

    It has embeddings, the models and the account besides, and refuses what OpenAI refuses.
    It is used as a context manager, or with `start` and `close`:

        with LoopbackServer(["Hello!", ["Good", "bye"]]) as server:
            client = Client("any-key", base_url=server.url)

    Token counts in its answers are counts of words, and of characters in Chinese and Japanese. `record` and `replay`
    make servers that answer what a real service says, or has said.

    Args:
        replies: what it answers to chats. None: a small talker answers from the conversation; it calls the tools
            that it has to call, and says what fits a schema.
            An iterable: one reply per chat, in order; a chat too many is answered with status 400.
            A function: called with each chat's `Request`, on a thread of the connection's;
            if it raises, the status is 500 and the message names the exception.
            A reply is a `Reply`, or a str, which is streamed word by word; a sequence of str, which is
            streamed in exactly these pieces, each an HTTP chunk or an event of its own; a dict, which is
            sent as a JSON object; or a `Fault`, which strikes the small talker's reply, whatever its `first` is.
        faults: what goes wrong. More than one may strike a request; at one place they do in order.
        tls: the context of a server with TLS, which holds the server's certificate; None: plain HTTP.
        port: the port to listen on; 0 lets the system choose a free one.
        delay: seconds to wait between two pieces of a streamed reply.
        host: the name or address to listen on; `"0.0.0.0"` and `"::"` are all of this machine's, which others can
            then reach.

    Each request is logged when its answer is over, by `logging`'s name `chatanywhere.testing.server` at the level
    INFO: method, path without the query, and status. That level has to be set for this very name.

    Attributes:
        requests: every `Request` received so far, in order of arrival.
        connections: how many connections have been accepted so far.

    Raises:
        TypeError: `replies` is a single str or no replies at all, `faults` is not an iterable of `Fault`, or another
            argument is not of its type.
        ValueError: `delay` is negative or too long to wait for, or `port` is not from 0 to 65535.
    """

    def __init__(
        self,
        replies: Iterable[ReplyLike] | Callable[[Request], ReplyLike] | None = None,
        *,
        faults: Iterable[Fault] = (),
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        delay: float = 0.0,
        host: str = "127.0.0.1",
    ) -> None:
        self._backend = Backend(Replies(replies))
        check_seconds("delay", delay)
        if not isinstance(host, str):
            raise TypeError(f"host must be a str, not {type(host).__name__}")
        if not isinstance(port, int) or isinstance(port, bool):
            raise TypeError(f"port must be an int, not {type(port).__name__}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port={port}: a port is from 0 to 65535, and 0 is any free one")
        self.requests: list[Request] = []
        self.connections = 0
        self.faults = faults
        self._tls = tls
        self._address = host, port
        self._delay = delay
        self._listener: _Listener | None = None
        self._relay: Recorder | Player | None = None  # what answers in place of the routes

    @classmethod
    def record(
        cls,
        path: str | os.PathLike[str],
        upstream: str,
        *,
        faults: Iterable[Fault] = (),
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> LoopbackServer:
        """Return a server that sends each request on to a real service, and writes down what that answers.

            with LoopbackServer.record("joke.rec", upstream="https://api.chatanywhere.tech/v1") as server:
                client = Client(base_url=server.url)

        The client gets the answer as it comes, and the service the client's key. Neither the keys nor the cookies of
        requests and answers are recorded, nor what looks like a key. When the client goes away, the connection to the
        service is closed; what had come by then is recorded. If the service does not answer, the client gets status
        502, and nothing is recorded.

        The file is made when the server starts, so that only its owner can read it; one that is there already is not
        overwritten. An exchange is written when it is over. `chatanywhere/testing/recording.py` describes the format.

        Args:
            path: the file to make.
            upstream: the URL of the service, with `/v1` or without. Its certificate is checked.
            faults: see `LoopbackServer`, here and below. What goes wrong is not recorded.
            tls: see there.
            port: see there.
            host: see there.

        Raises:
            TypeError: `upstream` is no str, or another argument is not of its type.
            ValueError: `upstream` is no URL of a server.
        """
        from .recorder import Recorder

        server = cls(faults=faults, tls=tls, port=port, host=host)
        server._relay = Recorder(path, upstream)
        return server

    @classmethod
    def replay(
        cls,
        path: str | os.PathLike[str],
        speed: float = 1.0,
        *,
        faults: Iterable[Fault] = (),
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        host: str = "127.0.0.1",
    ) -> LoopbackServer:
        """Return a server that answers from a recording, in the same pieces and with the same pauses.

        A request is answered if one with the same method, path and body was recorded, whatever its key. The same
        request again gets the next of the answers that it had, and in the end always the last. One that was not
        recorded has status 400, and the error tells how it differs from the nearest.

        Args:
            path: what `record` has made.
            speed: how many times as fast as it was; `math.inf`, or 0: without pauses.
            faults: see `LoopbackServer`, here and below.
            tls: see there.
            port: see there.
            host: see there.

        Raises:
            TypeError: `speed` or another argument is not of its type.
            ValueError: `speed` is negative or no number; or the file is no recording, or one of an unknown version.
            OSError: the file can't be read.
        """
        from .recorder import Player

        server = cls(faults=faults, tls=tls, port=port, host=host)
        server._relay = Player(path, speed)
        return server

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What goes wrong. Others may be assigned at any time, and requests are then counted anew."""
        return self._faults

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        if isinstance(faults, Fault):
            raise TypeError("faults is an iterable of faults: for one fault, pass [fault]")
        self._faults = tuple(faults)
        for fault in self._faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"a fault is made by one of the methods of Fault, and is not {fault!r:.80}")
        # Each hands out its fault as often as that is to strike.
        self._orders = [
            (fault.at == "accept", repeat(fault) if fault.first is None else repeat(fault, fault.first))
            for fault in self._faults
        ]

    def _take_faults(self, *, accept: bool) -> list[Fault]:
        """Return the faults that strike a new connection, or a new request on one."""
        return [fault for at_accept, order in self._orders if at_accept is accept for fault in islice(order, 1)]

    @property
    def url(self) -> str:
        """Where it can be asked from this machine, such as `http://127.0.0.1:49152`, or `https://…` with TLS.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._listener is None:
            raise RuntimeError("the server is not running: use it in a `with` statement, or call start() first")
        scheme = "http" if self._tls is None else "https"
        host, port = self._address[0], self._listener.server_address[1]
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)  # noqa: S104  it is looked up here
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def start(self) -> LoopbackServer:
        """Listen, unless the server runs already; return the server itself.

        Raises:
            OSError: the address can't be had: the port may be in use, or the host none of this machine's. Or the file
                of a recording can't be made: there may be one.
        """
        if self._listener is None:
            listener = _Listener(self._address, self._accept, self._serve)
            if self._relay is not None:
                try:
                    self._relay.recording.make()
                except OSError:
                    listener.close()
                    raise
            self._listener = listener
        return self

    def close(self) -> None:
        """Stop at once: break off replies, close connections, join threads."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    def __enter__(self) -> LoopbackServer:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self, connection: socket.socket) -> socket.socket:
        """Count a new connection; return it, with TLS if the server has it."""
        self.connections += 1
        if self._tls is None:
            return connection
        try:
            connection.getpeername()  # fails if the client is gone: wrap_socket would leak the socket then
        except OSError:
            connection.close()
            raise
        # The handshake is left to the connection's own thread, since a client may be slow at it.
        return self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)

    def _serve(self, connection: socket.socket, closing: threading.Event) -> None:
        """Answer the requests on a connection, one after the other, until the last."""
        writer = ResponseWriter(connection, closing)
        writer.order(self._take_faults(accept=True))
        writer.reach("accept")
        if isinstance(connection, ssl.SSLSocket):
            connection.do_handshake()
        with connection.makefile("rb") as incoming:
            reader = _RequestReader(connection, incoming)
            try:
                while (request := reader.read()) is not None:
                    writer = ResponseWriter(
                        connection,
                        closing,
                        keep_alive=reader.keep_alive,
                        chunked=reader.http11,
                        bare=request.method == "HEAD",
                        delay=self._delay,
                    )
                    self._respond(request, writer)
                    if not writer.keep_alive:
                        break
            except RequestError as error:
                _logger.info("%d: %s", error.status, error)
                writer = ResponseWriter(connection, closing)
                writer.write(error.response)
                writer.close()

    def _respond(self, request: Request, writer: ResponseWriter) -> None:
        self.requests.append(request)
        writer.order(self._take_faults(accept=False))
        try:
            with contextlib.suppress(ResponseOver):
                writer.reach("head", "answer")
                if self._relay is not None:
                    self._relay.answer(request, writer)
                else:
                    self._reply(request, writer)
        finally:
            asked = f"{request.method} {without_query(request.path)}"
            asked = asked.encode("unicode_escape").decode()  # a terminal might obey what is no text
            _logger.info("%s %s", asked, writer.status or "without an answer")

    def _reply(self, request: Request, writer: ResponseWriter) -> None:
        response = respond(request, self._backend)
        if response.fault is not None:
            writer.order([response.fault])
            writer.reach("head", "answer")
        writer.write(response)


class _Listener(socketserver.TCPServer):
    """Accepts connections, serves each on a thread of its own, and can end them all.

    Args:
        address: the host and the port to listen on.
        accept: called with each connection as it comes in; returns the socket to go on with.
        serve: called with that socket on the connection's thread, and with an event that is set when all ends.
    """

    # Elsewhere than on POSIX systems this would let two servers share a port.
    allow_reuse_address = os.name == "posix"
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        accept: Callable[[socket.socket], socket.socket],
        serve: Callable[[socket.socket, threading.Event], None],
    ) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        # The handler class that it asks for is never used: process_request serves connections in another way.
        super().__init__(address, socketserver.BaseRequestHandler)
        self._accept = accept
        self._serve = serve
        self._closing = threading.Event()
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._acceptor = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        self._closing.set()
        self.shutdown()
        self.server_close()
        self._acceptor.join()
        connections = dict(self._connections)
        for connection in connections.values():
            with contextlib.suppress(OSError):  # it has just ended by itself
                # Not the SSLSocket's own method, which takes TLS away from the thread that is using it.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in connections:
            thread.join(timeout=5.0)  # seconds, for a reply function that hangs

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, client_address = super().get_request()
        return self._accept(connection), client_address

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self._run, args=(request,), daemon=True)
        self._connections[thread] = request
        thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each piece leaves when it is written
            self._serve(connection, self._closing)
        except OSError:
            pass  # the client went away, or this server closes: either may happen at any time
        finally:
            end_tls(connection)
            self.shutdown_request(connection)
            del self._connections[threading.current_thread()]


class _RequestReader:
    """Reads requests off a connection, one after the other.

    Args:
        connection: what the requests come from, and what a client is told on that waits to send a body.
        incoming: the same, to be read as a file.

    Attributes:
        http11: whether the last request was not of HTTP/1.0.
        keep_alive: whether the client would send another after it.
    """

    def __init__(self, connection: socket.socket, incoming: BinaryIO) -> None:
        self.http11 = True
        self.keep_alive = True
        self._connection = connection
        self._incoming = incoming

    def read(self) -> Request | None:
        """Return the next request, or None if the client went away before its end.

        Raises:
            RequestError: what comes is no request that the server would answer.
        """
        line = self._incoming.readline(_MAX_LINE + 1)
        while line in (b"\r\n", b"\n"):  # empty lines before a request are to be ignored
            line = self._incoming.readline(_MAX_LINE + 1)
        if not line.endswith(b"\n") and len(line) <= _MAX_LINE:
            return None
        found = re.fullmatch(r"(\S+) (\S+) HTTP/1\.([0-9])\r?\n", line.decode("latin-1"))
        if not found:
            raise RequestError(400, "malformed request line")
        method, path, minor_version = found.groups()
        try:
            headers = http.client.parse_headers(self._incoming)
        except http.client.HTTPException as error:
            raise RequestError(431, f"malformed request headers: {error}") from error
        self.http11 = minor_version != "0"
        self.keep_alive = self.http11 and "close" not in headers.get("Connection", "").lower()
        body = self._read_body(headers)
        return None if body is None else Request(method, path, headers, body)

    def _read_body(self, headers: http.client.HTTPMessage) -> bytes | None:
        """Return a request's body, or None if the client went away before its end."""
        coding = headers.get("Transfer-Encoding")
        if coding is not None and (coding.strip().lower() != "chunked" or "Content-Length" in headers):
            raise RequestError(400, "a request's body has a Content-Length, or comes in chunks and not coded otherwise")
        length = headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            raise RequestError(400, f"malformed Content-Length: {length}")
        if int(length) > _MAX_BODY:
            raise RequestError(413, f"the request is larger than {_MAX_BODY} bytes")
        if headers.get("Expect", "").lower() == "100-continue":
            self._connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if coding is not None:
            return self._read_chunks()
        body = self._incoming.read(int(length))
        return body if len(body) == int(length) else None

    def _read_chunks(self) -> bytes | None:
        body = bytearray()
        while True:
            line = self._incoming.readline(_MAX_LINE)
            found = re.fullmatch(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r?\n", line)
            if not found:
                if line.endswith(b"\n") or len(line) == _MAX_LINE:
                    raise RequestError(400, "malformed size of a chunk")
                return None
            size = int(found[1], 16)
            if len(body) + size > _MAX_BODY:
                raise RequestError(413, f"the request is larger than {_MAX_BODY} bytes")
            if size == 0:
                break
            chunk = self._incoming.read(size)
            end = self._incoming.readline(3)
            if len(chunk) < size or end in (b"", b"\r"):
                return None
            if end not in (b"\r\n", b"\n"):
                raise RequestError(400, "a chunk is longer than its size")
            body += chunk
        while (line := self._incoming.readline(_MAX_LINE)) not in (b"\r\n", b"\n"):  # what follows says nothing here
            if not line.endswith(b"\n"):
                return None
        return bytes(body)
