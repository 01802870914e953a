"""A real HTTP server on this machine that stands in for the service, for tests and offline use.

It speaks both of the service's protocols and shares no code with the client, so that a mistake of
the client's finds no accomplice here.
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
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import Any, Union

from ._talker import talk, text_of

__all__ = ["LoopbackServer", "Reply", "Request"]

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


Reply = Union[str, Sequence[str]]
"""What is answered: a text, to be streamed word by word, or the very pieces to be streamed."""


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
            streamed in exactly these pieces, each an HTTP chunk or an event of its own.
        port: the port to listen on; 0 lets the system choose a free one.
        delay: seconds to wait between two pieces of a streamed reply.

    Attributes:
        requests: every `Request` received so far, in order of arrival.

    Raises:
        TypeError: `replies` is a single str.
        ValueError: `delay` is negative, or too long to wait for.
    """

    def __init__(
        self,
        replies: Iterable[Reply] | Callable[[Request], Reply] | None = None,
        *,
        port: int = 0,
        delay: float = 0.0,
    ) -> None:
        if isinstance(replies, str):
            raise TypeError("replies is an iterable of replies: for one reply, pass [reply]")
        if not 0 <= delay <= threading.TIMEOUT_MAX:
            raise ValueError(f"delay={delay}: a number of seconds, 0 or more")
        self.requests: list[Request] = []
        self._reply: Callable[[Request], Reply]
        if replies is None:
            self._reply = lambda request: talk(request.messages)
        elif callable(replies):
            self._reply = replies
        else:
            self._reply = _Script(replies)
        self._port = port
        self._delay = delay
        self._closing = threading.Event()
        self._listener: _Listener | None = None

    @property
    def url(self) -> str:
        """The server's address, such as `http://127.0.0.1:49152`.

        Raises:
            RuntimeError: the server is not running.
        """
        if self._listener is None:
            raise RuntimeError("the server is not running: use it in a `with` statement, or call start() first")
        return f"http://127.0.0.1:{self._listener.server_address[1]}"

    def start(self) -> LoopbackServer:
        """Listen, unless the server runs already; return the server itself.

        Raises:
            OSError: the port can't be had; it may be in use.
            OverflowError: the port is not from 0 to 65535.
        """
        if self._listener is None:
            self._closing.clear()
            self._listener = _Listener(self._port, self._answer)
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

    def _answer(self, request: Request) -> _Response:
        self.requests.append(request)
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
            return _service_error(error.status, str(error))
        except Exception as error:
            _logger.exception("No reply to %s %s", request.method, request.path)
            return _service_error(500, f"{type(error).__name__}: {error}")

    def _answer_web(self, request: Request) -> _Response:
        pieces = [piece.encode() for piece in self._pieces(request)]
        return _Response(200, "application/octet-stream", self._paced(pieces))

    def _answer_openai(self, request: Request) -> _Response:
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise _RequestError(401, "wrong api key: none was sent as `Authorization: Bearer …`")
        pieces = self._pieces(request)
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
            return _Response(200, "application/json", _json({**common, **completion}))

        include_usage = (request.json.get("stream_options") or {}).get("include_usage")
        common["object"] = "chat.completion.chunk"
        if include_usage:
            common["usage"] = None  # until the one chunk that has it

        def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
            choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
            return _event({**common, "choices": [choice]})

        def stream() -> Iterator[bytes]:
            yield event({"role": "assistant", "content": ""})
            yield from self._paced([event({"content": piece}) for piece in pieces])
            yield event({}, finish_reason="stop")
            if include_usage:
                yield _event({**common, "choices": [], "usage": usage})
            yield b"data: [DONE]\n\n"

        return _Response(200, "text/event-stream", stream())

    def _answer_models(self, request: Request) -> _Response:
        models = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "loopback"} for name in _MODELS]
        return _Response(200, "application/json", _json({"object": "list", "data": models}))

    def _pieces(self, request: Request) -> list[str]:
        """Return the pieces of the reply to a chat, all of them before any is sent."""
        if not isinstance(request.json, dict):
            raise _RequestError(400, "the body is not a JSON object")
        if not request.messages:
            raise _RequestError(400, "the messages are not a non-empty list of objects")
        reply = self._reply(request)
        if isinstance(reply, str):
            return _WORD.findall(reply)
        if isinstance(reply, Sequence) and all(isinstance(piece, str) for piece in reply):
            return list(reply)
        raise TypeError(f"a reply is a str or a sequence of str, not {reply!r:.80}")

    def _paced(self, pieces: Sequence[bytes]) -> Iterator[bytes]:
        for number, piece in enumerate(pieces):
            if number and self._closing.wait(self._delay):
                raise ConnectionAbortedError("the server was closed in the middle of a reply")
            yield piece


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
                raise _RequestError(400, "the script of replies is used up") from None


class _RequestError(Exception):
    """A request that is answered with an error status, in the service's envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class _Response:
    """What to answer: a body in one, or a stream of pieces that each leave at once."""

    status: int
    content_type: str
    body: bytes | Iterator[bytes]
    headers: dict[str, str] = field(default_factory=dict)


def _service_error(status: int, message: str) -> _Response:
    """Return an error as the service itself words it."""
    code = f"{status} {HTTPStatus(status).name}"
    error = {"message": message, "type": "chatanywhere_error", "param": None, "code": code}
    return _Response(status, "application/json", _json({"error": error}))


def _spring_error(status: int, request: Request, headers: dict[str, str] | None = None) -> _Response:
    """Return an error as the framework beneath the service words it."""
    error = {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "status": status,
        "error": HTTPStatus(status).phrase,
        "path": request._route,
    }
    return _Response(status, "application/json", _json(error), headers or {})


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % _json(value)


def _json(value: object) -> bytes:
    # A lone surrogate has no UTF-8; the backslash form it gets instead is an escape of JSON's, too.
    return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")


def _count_tokens(text: str) -> int:
    return len(_WORD.findall(text))


class _Listener(socketserver.TCPServer):
    """Accepts connections, serves each on a thread of its own, and can end them all."""

    # Elsewhere than on POSIX systems this would let two servers share a port.
    allow_reuse_address = os.name == "posix"
    request_queue_size = 128

    def __init__(self, port: int, answer: Callable[[Request], _Response]) -> None:
        super().__init__(("127.0.0.1", port), _Connection)
        self.answer = answer
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
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections:
            thread.join(timeout=5.0)  # seconds, for a reply function that hangs

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
            self.shutdown_request(connection)
            del self._connections[threading.current_thread()]


class _Connection(socketserver.StreamRequestHandler):
    """Reads requests off a connection and writes their responses, one after the other."""

    disable_nagle_algorithm = True  # each piece leaves when it is written
    server: _Listener

    def handle(self) -> None:
        try:
            while self._exchange():
                pass
        except _RequestError as error:
            self._respond(_service_error(error.status, str(error)), keep_alive=False)
            # What the client still sends is read, since a connection that is closed with input
            # unread is reset, and the reset may overtake the response.
            self.request.shutdown(socket.SHUT_WR)
            while self.rfile.read(_MAX_LINE):
                pass

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
        response = self.server.answer(request)
        self._respond(response, keep_alive=keep_alive, chunked=http11, bare=method == "HEAD")
        return keep_alive

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

    def _respond(self, response: _Response, *, keep_alive: bool, chunked: bool = True, bare: bool = False) -> None:
        headers = {
            "Date": formatdate(usegmt=True),
            "Content-Type": response.content_type,
            "x-request-id": secrets.token_hex(16),
            "Connection": "keep-alive" if keep_alive else "close",
            **response.headers,
        }
        if isinstance(response.body, bytes):
            headers["Content-Length"] = str(len(response.body))
        elif chunked:
            headers["Transfer-Encoding"] = "chunked"
        writer = _Writer(self.request)
        writer.head(response.status, headers)
        if bare:
            return
        for piece in [response.body] if isinstance(response.body, bytes) else response.body:
            writer.piece(piece)
        writer.end()


class _Writer:
    """Writes one response to a connection; every byte of it leaves through `send`."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._chunked = False

    def send(self, data: bytes) -> None:
        self._connection.sendall(data)

    def head(self, status: int, headers: dict[str, str]) -> None:
        self._chunked = "Transfer-Encoding" in headers
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self.send("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def piece(self, data: bytes) -> None:
        if not self._chunked:
            self.send(data)
        elif data:  # an empty chunk would end the response
            self.send(b"%x\r\n%b\r\n" % (len(data), data))

    def end(self) -> None:
        if self._chunked:
            self.send(b"0\r\n\r\n")
