"""Requests that take long to be sent: steady ones, ones that get stuck, and answers that come before their end."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from faces import Face, Outcome

from chatanywhere import APIStatusError, APITimeoutError, Client, Retry, Timeout

SIZE = 12_000_000
"""Bytes; more than the buffers of both sides hold."""

EVENTS = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)
TOO_LARGE = b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 9\r\n\r\ntoo large"


class Upload:
    """A request on its way to a `Server`."""

    def __init__(self, connection: socket.socket, released: threading.Event) -> None:
        self.connection = connection
        self.released = released  # set when the test is over
        head = b""
        while b"\r\n\r\n" not in head:
            head += self._receive(65536)
        head, _, body = head.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        self.left = int(lengths[0].partition(b":")[2]) - len(body)

    def _receive(self, size: int) -> bytes:
        data = self.connection.recv(size)
        if not data:
            raise ConnectionAbortedError("the client has gone")
        return data

    def read(self, size: int, bytes_per_second: float = 1e12) -> None:
        """Read so many bytes at a steady pace."""
        began, end = time.monotonic(), max(0, self.left - size)
        total = self.left - end
        while self.left > end:
            self.left -= len(self._receive(min(65536, self.left - end)))
            due = began + (total - (self.left - end)) / bytes_per_second
            self.released.wait(max(0.0, due - time.monotonic()))


class Server:
    """A loopback server that does with each request what it is told to, and closes the connection."""

    def __init__(self, act: Callable[[Upload], None], tls: ssl.SSLContext | None) -> None:
        self.uploads: list[Upload] = []
        self.released = threading.Event()
        self._act = act
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # else it takes half of the request
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self.released.is_set():
                connection.close()
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:  # the client may go at any time
            stack.callback(connection.close)
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                stack.callback(connection.close)
            self.uploads.append(Upload(connection, self.released))
            self._act(self.uploads[-1])

    def close(self) -> None:
        self.released.set()
        socket.create_connection(self._listener.getsockname()).close()
        for thread in self._threads:
            thread.join(25)
        self._listener.close()


Serve = Callable[[Callable[[Upload], None]], "tuple[Server, Client]"]


@pytest.fixture(params=["http", "https"])
def serve(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Serve]:
    """Start a server that handles requests with a function, and return it with a client of it."""
    context = None
    if request.param == "https":
        authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with contextlib.ExitStack() as stack:

        def start(act: Callable[[Upload], None]) -> tuple[Server, Client]:
            server = Server(act, context)
            stack.callback(server.close)
            verify: Any = tmp_path / "ca.pem" if context else True
            retry = Retry(attempts=3, backoff=0)
            client = Client("k", base_url=server.url, verify=verify, retry=retry, timeout=30)
            return server, stack.enter_context(client)

        yield start


def test_a_steady_upload_is_not_silence(serve: Serve, face: Face) -> None:
    """A request that takes twice as long as `read` allows silence is sent once, and answered."""

    def read_steadily(upload: Upload) -> None:
        upload.read(SIZE * 2, bytes_per_second=SIZE / 3)
        upload.connection.sendall(ANSWER)

    server, client = serve(read_steadily)
    outcome = face.ask(client, "x" * SIZE, timeout=Timeout(total=30, read=1.5))
    assert (outcome.text, outcome.error) == ("Hi", None)
    assert len(server.uploads) == 1
    assert outcome.seconds > 1.5


def test_a_server_that_stops_reading_is_silent(serve: Serve, face: Face) -> None:
    """A request that gets stuck ends with the limit of `read`."""

    def stop(upload: Upload) -> None:
        upload.read(1_000_000)
        upload.released.wait(20)

    server, client = serve(stop)
    outcome = face.ask(client, "x" * SIZE, timeout=Timeout(total=30, read=0.5), retry=None)
    assert isinstance(outcome.error, APITimeoutError), repr(outcome.error)
    assert outcome.error.phase == "headers"
    assert outcome.error.attempts == len(server.uploads) == 1
    assert 0.4 < outcome.seconds < 5


def test_a_server_may_take_its_time_to_read(serve: Serve, face: Face) -> None:
    """Within `read`, a pause in the middle of an upload ends nothing."""

    def pause(upload: Upload) -> None:
        upload.read(SIZE // 4)
        upload.released.wait(1.6)
        upload.read(SIZE)
        upload.connection.sendall(ANSWER)

    server, client = serve(pause)
    outcome = face.ask(client, "x" * SIZE, timeout=Timeout(total=30, read=2.5))
    assert (outcome.text, outcome.error) == ("Hi", None)
    assert len(server.uploads) == 1


def read_on(upload: Upload) -> None:
    """Answer, and read what still comes, as RFC 9112, section 9.6, asks a server to do."""
    upload.connection.sendall(TOO_LARGE)
    upload.read(SIZE * 2)


def reset(upload: Upload) -> None:
    """Answer, and end the connection with a reset, while the client still sends."""
    upload.connection.sendall(TOO_LARGE)
    upload.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def close(upload: Upload) -> None:
    """Answer, and close with bytes unread, as simple servers do."""
    upload.connection.sendall(TOO_LARGE)


def stop_reading(upload: Upload) -> None:
    """Answer, and neither read nor close."""
    upload.connection.sendall(TOO_LARGE)
    upload.released.wait(20)


@pytest.mark.parametrize("then", [read_on, reset, close, stop_reading], ids=lambda then: then.__name__)
def test_an_answer_that_comes_early_is_told(serve: Serve, face: Face, then: Callable[[Upload], None]) -> None:
    """A refusal while the request is still being sent is the answer, and not a broken pipe."""

    def refuse(upload: Upload) -> None:
        upload.read(1_000_000)
        then(upload)

    server, client = serve(refuse)
    assert_refused(server, face.ask(client, "x" * SIZE, timeout=Timeout(total=30, read=2)))


def test_an_early_answer_on_a_reused_connection_is_told(serve: Serve, face: Face) -> None:
    """The request was answered, though it could not be sent to its end: it is not sent again."""

    def answer_then_refuse(upload: Upload) -> None:
        upload.read(SIZE)
        upload.connection.sendall(ANSWER)
        second = Upload(upload.connection, upload.released)
        server.uploads.append(second)
        second.read(1_000_000)
        reset(second)

    server, client = serve(answer_then_refuse)
    assert face.ask(client).text == "Hi"
    server.uploads.clear()
    assert_refused(server, face.ask(client, "x" * SIZE))


def assert_refused(server: Server, outcome: Outcome) -> None:
    assert type(outcome.error) is APIStatusError, repr(outcome.error)
    assert outcome.error.status_code == 413
    assert "too large" in str(outcome.error)
    assert outcome.error.attempts == len(server.uploads) == 1
    assert outcome.seconds < 10
