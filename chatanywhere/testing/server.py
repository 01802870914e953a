"""A real HTTP server on this machine that stands in for the service, for tests and offline use.

It speaks both of the service's protocols and shares no code with the client, so that a mistake of
the client's finds no accomplice here. What can go wrong between the two goes wrong when it is ordered: see `Fault`.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import json
import logging
import os
import re
import secrets
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from http import HTTPStatus
from itertools import islice, repeat
from types import TracebackType
from typing import Any, Union

from .faults import Fault, Response, ResponseOver, Stream, Wire, check_seconds, end_tls, service_error, to_json
from .talker import talk, text_of

_WEB_PATH = "/v1/chat/gpt/"
_OPENAI_PATH = "/v1/chat/completions"
_MODELS_PATH = "/v1/models"
_MODELS = ("gpt-3.5-turbo", "gpt-4o", "gpt-4o-mini", "deepseek-r1", "deepseek-v3")

_MAX_LINE = 65_536  # bytes
_MAX_BODY = 16 * 1024 * 1024  # bytes

_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[^\s{_CJK}]+)|\s+")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A request that the server received, whatever its method and path."""

    method: str
    path: str
    """The request target as it was sent, so with the query."""
    headers: http.client.HTTPMessage
    """The headers; `headers.get(name)` asks for one in upper or lower case alike."""
    body: bytes

    @functools.cached_property
    def json(self) -> Any:
        """The body as JSON, or None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was sent, under either protocol; empty if there is none."""
        name = "list" if self._route == _WEB_PATH else "messages"
        messages = self.json.get(name) if isinstance(self.json, dict) else None
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            return messages
        return []

    @property
    def text(self) -> str:
        """The text of the user's last message; empty if there is none."""
        said = [text_of(message) for message in self.messages if message.get("role") == "user"]
        return said[-1] if said else ""

    @property
    def _route(self) -> str:
        return self.path.partition("?")[0]


Reply = Union[str, Sequence[str], Fault]
"""What is answered: a text, to be streamed word by word; the very pieces to be streamed; or a fault."""


class LoopbackServer:
    """A server on 127.0.0.1 that answers chats as the service does, over real connections.

    It is used as a context manager, or with `start` and `close`:

        with LoopbackServer(["Hello!", ["Good", "bye"]]) as server:
            client = Client("any key", base_url=server.url)

    Token counts in its answers are counts of words, and of characters in Chinese and Japanese.

    Args:
        replies: what it answers to chats. None: a small talker answers from the conversation.
            An iterable: one reply per chat, in order; a chat too many is answered with status 400.
            A function: called with each chat's `Request`, on a thread of the connection's;
            if it raises, the status is 500 and the message names the exception.
            A reply that is a str is streamed word by word; one that is a sequence of str is
            streamed in exactly these pieces, each an HTTP chunk or an event of its own; one that is
            a `Fault` strikes the small talker's reply, whatever its `first` is.
        faults: what goes wrong. More than one may strike a request; at one place they do in order.
        tls: the context of a server with TLS, which holds the server's certificate; None: plain HTTP.
        port: the port to listen on; 0 lets the system choose a free one.
        delay: seconds to wait between two pieces of a streamed reply.

    Attributes:
        requests: every `Request` received so far, in order of arrival.
        connections: how many connections have been accepted so far.

    Raises:
        TypeError: `replies` is a single str or no replies at all, or `faults` is not an iterable of `Fault`.
        ValueError: `delay` is negative, or too long to wait for.
    """

    def __init__(
        self,
        replies: Iterable[Reply] | Callable[[Request], Reply] | None = None,
        *,
        faults: Iterable[Fault] = (),
        tls: ssl.SSLContext | None = None,
        port: int = 0,
        delay: float = 0.0,
    ) -> None:
        if isinstance(replies, (str, Fault)):
            raise TypeError("replies is an iterable of replies: for one reply, pass [reply]")
        if not (replies is None or callable(replies) or isinstance(replies, Iterable)):
            raise TypeError(f"replies must be an iterable of replies or a function, not {type(replies).__name__}")
        check_seconds("delay", delay)
        self.requests: list[Request] = []
        self.connections = 0
        self.faults = faults
        self._reply: Callable[[Request], Reply]
        if replies is None:
            self._reply = lambda request: talk(request.messages)
        elif callable(replies):
            self._reply = replies
        else:
            self._reply = _Script(replies)
        self._tls = tls
        self._port = port
        self._delay = delay
        self._closing = threading.Event()
        self._listener: _Listener | None = None

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
        """The server's address, such as `http://127.0.0.1:49152`, or `https://…` with TLS.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._listener is None:
            raise RuntimeError("the server is not running: use it in a `with` statement, or call start() first")
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.server_address[1]}"

    def start(self) -> LoopbackServer:
        """Listen, unless the server runs already; return the server itself.

        Raises:
            OSError: the port can't be had; it may be in use.
            OverflowError: the port is not from 0 to 65535.
        """
        if self._listener is None:
            self._closing.clear()
            self._listener = _Listener(self)
        return self

    def close(self) -> None:
        """Stop at once: break off replies, close connections, join threads."""
        listener, self._listener = self._listener, None
        if listener is not None:
            self._closing.set()
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

    def _respond(self, request: Request, wire: Wire) -> None:
        self.requests.append(request)
        wire.order(self._take_faults(accept=False))
        wire.reach("head", "answer")
        response = self._answer(request)
        if response.fault is not None:
            wire.order([response.fault])
            wire.reach("head", "answer")
        wire.write(response)

    def _answer(self, request: Request) -> Response:
        routes = {
            _WEB_PATH: ("POST", self._answer_web),
            _OPENAI_PATH: ("POST", self._answer_openai),
            _MODELS_PATH: ("GET", self._answer_models),
        }
        if request._route not in routes:
            return _spring_error(404, request)
        method, answer = routes[request._route]
        if request.method != method:
            return _spring_error(405, request, {"Allow": method})
        try:
            return answer(request)
        except _RequestError as error:
            return service_error(error.status, str(error))
        except Exception as error:
            _logger.exception("No reply to %s %s", request.method, request.path)
            return service_error(500, f"{type(error).__name__}: {error}")

    def _answer_web(self, request: Request) -> Response:
        pieces, fault = self._take_reply(request)
        stream = Stream([piece.encode() for piece in pieces], delay=self._delay)
        return Response(200, "application/octet-stream", stream, fault=fault)

    def _answer_openai(self, request: Request) -> Response:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _RequestError(401, "wrong api key: none was sent as `Authorization: Bearer …`")
        pieces, fault = self._take_reply(request)
        common = {
            "id": f"chatcmpl-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": request.json.get("model", _MODELS[0]),
        }
        prompt_tokens = sum(_count_tokens(text_of(message)) for message in request.messages)
        completion_tokens = _count_tokens("".join(pieces))
        usage = {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        }
        if not request.json.get("stream"):
            message = {"role": "assistant", "content": "".join(pieces)}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            completion = {"object": "chat.completion", "choices": [choice], "usage": usage}
            return Response(200, "application/json", to_json({**common, **completion}), fault=fault)

        include_usage = (request.json.get("stream_options") or {}).get("include_usage")
        common["object"] = "chat.completion.chunk"
        if include_usage:
            common["usage"] = None  # until the one chunk that has it

        def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            return _event({**common, "choices": [choice]})

        stream = Stream(
            opening=[event({"role": "assistant", "content": ""})],
            pieces=[event({"content": piece}) for piece in pieces],
            ending=[
                event({}, finish_reason="stop"),
                *([_event({**common, "choices": [], "usage": usage})] if include_usage else []),
                b"data: [DONE]\n\n",
            ],
            delay=self._delay,
        )
        return Response(200, "text/event-stream", stream, fault=fault)

    def _answer_models(self, request: Request) -> Response:
        models = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "loopback"} for name in _MODELS]
        return Response(200, "application/json", to_json({"object": "list", "data": models}))

    def _take_reply(self, request: Request) -> tuple[list[str], Fault | None]:
        """Return the pieces of the reply to a chat, and what goes wrong with it."""
        if not isinstance(request.json, dict):
            raise _RequestError(400, "the body is not a JSON object")
        if not request.messages:
            raise _RequestError(400, "the messages are not a non-empty list of objects")
        reply = self._reply(request)
        fault: Fault | None = None
        if isinstance(reply, Fault):
            if reply.at == "accept":
                raise ValueError("a fault that is a reply comes too late to strike at='accept'")
            fault, reply = reply, talk(request.messages)
        if isinstance(reply, str):
            return _WORD.findall(reply), fault
        if isinstance(reply, Sequence) and all(isinstance(piece, str) for piece in reply):
            return list(reply), fault
        raise TypeError(f"a reply is a str, a sequence of str or a Fault, not {reply!r:.80}")


class _Script:
    """Replies in a given order, for connections that may ask at the same time."""

    def __init__(self, replies: Iterable[Reply]) -> None:
        self._replies = iter(replies)
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply:
        with self._lock:
            try:
                return next(self._replies)
            except StopIteration:
                raise _RequestError(
                    400, "the server has no reply left: give it more, or a function that makes them"
                ) from None


class _RequestError(Exception):
    """A request that is answered with an error status, in the service's envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _spring_error(status: int, request: Request, headers: dict[str, str] | None = None) -> Response:
    """Return an error as the framework beneath the service words it."""
    error = {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "status": status,
        "error": HTTPStatus(status).phrase,
        "path": request._route,
    }
    return Response(status, "application/json", to_json(error), headers or {})


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % to_json(value)


def _count_tokens(text: str) -> int:
    return len(_WORD.findall(text))


class _Listener(socketserver.TCPServer):
    """Accepts connections, serves each on a thread of its own, and can end them all."""

    # Elsewhere than on POSIX systems this would let two servers share a port.
    allow_reuse_address = os.name == "posix"
    request_queue_size = 128

    def __init__(self, loopback: LoopbackServer) -> None:
        super().__init__(("127.0.0.1", loopback._port), _Connection)
        self.loopback = loopback
        self._connections: dict[threading.Thread, socket.socket] = {}
        self._acceptor = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._acceptor.start()

    def close(self) -> None:
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
        self.loopback.connections += 1
        if self.loopback._tls is not None:
            try:
                connection.getpeername()  # fails if the client is gone: wrap_socket would leak the socket then
            except OSError:
                connection.close()
                raise
            # The handshake is left to the connection's own thread, since a client may be slow at it.
            connection = self.loopback._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, client_address

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(target=self._serve, args=(request, client_address), daemon=True)
        self._connections[thread] = request
        thread.start()

    def _serve(self, connection: socket.socket, client_address: Any) -> None:
        try:
            self.finish_request(connection, client_address)
        except OSError:
            pass  # the client went away, or this server closes: either may happen at any time
        finally:
            end_tls(connection)
            self.shutdown_request(connection)
            del self._connections[threading.current_thread()]


class _Connection(socketserver.StreamRequestHandler):
    """Reads requests off a connection and writes their responses, one after the other."""

    disable_nagle_algorithm = True  # each piece leaves when it is written
    server: _Listener

    def handle(self) -> None:
        wire = Wire(self.request, self.server.loopback._closing)
        wire.order(self.server.loopback._take_faults(accept=True))
        wire.reach("accept")
        if isinstance(self.request, ssl.SSLSocket):
            self.request.do_handshake()
        try:
            while self._exchange():
                pass
        except _RequestError as error:
            wire.write(service_error(error.status, str(error)))
            wire.close()

    def _exchange(self) -> bool:
        """Serve one request; return whether another may follow on the connection."""
        line = self.rfile.readline(_MAX_LINE + 1)
        if line in (b"\r\n", b"\n"):
            return True  # empty lines before a request are to be ignored
        if not line.endswith(b"\n") and len(line) <= _MAX_LINE:
            return False  # the client closed the connection
        found = re.fullmatch(r"(\S+) (\S+) HTTP/1\.([0-9])\r?\n", line.decode("latin-1"))
        if not found:
            raise _RequestError(400, "malformed request line")
        method, path, minor_version = found.groups()
        try:
            headers = http.client.parse_headers(self.rfile)
        except http.client.HTTPException as error:
            raise _RequestError(431, f"malformed request headers: {error}") from error
        body = self._read_body(headers)
        if body is None:
            return False
        request = Request(method, path, headers, body)
        http11 = minor_version != "0"
        keep_alive = http11 and "close" not in headers.get("Connection", "").lower()
        wire = Wire(
            self.request, self.server.loopback._closing, keep_alive=keep_alive, chunked=http11, bare=method == "HEAD"
        )
        with contextlib.suppress(ResponseOver):
            self.server.loopback._respond(request, wire)
        return wire.keep_alive

    def _read_body(self, headers: http.client.HTTPMessage) -> bytes | None:
        """Return a request's body, or None if the client went away before its end."""
        if "Transfer-Encoding" in headers:
            raise _RequestError(411, "a request must have a Content-Length")
        length = headers.get("Content-Length", "0")
        if not re.fullmatch("[0-9]{1,18}", length):
            raise _RequestError(400, f"malformed Content-Length: {length}")
        if int(length) > _MAX_BODY:
            raise _RequestError(413, f"the request is larger than {_MAX_BODY} bytes")
        if headers.get("Expect", "").lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = self.rfile.read(int(length))
        return body if len(body) == int(length) else None
