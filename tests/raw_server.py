"""A server that sends exactly the bytes it is told to, and what this process has open to a port."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from typing import Any

import psutil

BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
"""The head and the first piece of an answer of the web protocol."""

Step = bytes | Callable[[socket.socket], None] | None
"""Bytes to send, something to do with the connection, or None: keep it open for another request."""


def json_answer(value: object, status: str = "200 OK") -> bytes:
    """A whole answer with a JSON value."""
    content = json.dumps(value).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


class RawServer:
    """A loopback server that answers every request with scripted steps and then closes the connection.

    `steps` may also be a function of one's own, which gets the request's bytes and returns the steps.
    """

    def __init__(self) -> None:
        self.steps: Callable[[bytes], list[Step]] = lambda _: []
        self.requests: list[bytes] = []
        self.connections = 0
        self.read_requests = True  # False: connections are accepted, and nothing more happens
        self.released = threading.Event()  # set at the end: what `hold` waits for
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def answer(self, *steps: Step) -> None:
        """Answer every request with these steps."""
        self.steps = lambda _: list(steps)

    def hold(self, _: socket.socket) -> None:
        """A step: stay silent until the client closes the connection or the test is over."""
        self.released.wait(30)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.connections += 1
            self._open.add(connection)
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            keep = self.read_requests
            if not keep:
                self.released.wait(30)
            while keep:
                keep = False
                request = _read_request(connection)
                if not request:
                    return
                self.requests.append(request)
                for step in self.steps(request):
                    if step is None:
                        keep = True
                    elif isinstance(step, bytes):
                        connection.sendall(step)
                    else:
                        step(connection)
        except OSError:
            pass  # the client has gone, which many tests are about
        finally:
            self._open.discard(connection)
            connection.close()

    def stop_listening(self) -> None:
        """Refuse further connections; those that are open stay so."""
        with contextlib.suppress(OSError):  # it has been done before
            socket.socket.shutdown(self._listener, socket.SHUT_RDWR)
            self._listener.close()

    def close(self) -> None:
        self.released.set()
        self.stop_listening()
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self._threads:
            thread.join(5)


def _read_request(connection: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    while len(body) < length:
        piece = connection.recv(65536)
        if not piece:
            return b""
        body += piece
    return head + b"\r\n\r\n" + body


def sockets_to(port: int, *states: str) -> list[Any]:
    """The connections of this process to a port, in these states or in any."""
    return [
        connection
        for connection in psutil.Process().net_connections("tcp4")
        if connection.raddr and connection.raddr.port == port and connection.fd != -1
        if not states or connection.status in states
    ]


def has_unread_bytes(connection: socket.socket) -> bool:
    """Whether something has arrived at the other end of a connection within this process, and has not been received."""
    port = connection.getpeername()[1]
    for other in psutil.Process().net_connections("tcp4"):
        if other.laddr.port == port and other.fd != -1:
            with contextlib.suppress(OSError):  # closed in between
                return any(fcntl.ioctl(other.fd, termios.FIONREAD, bytes(4)))
    return False


def until_read(connection: socket.socket) -> None:
    """A step: wait until the client has received what was sent."""
    end = time.monotonic() + 20
    while has_unread_bytes(connection) and time.monotonic() < end:
        time.sleep(0.001)


def drop_all_that_comes(sock: socket.socket) -> None:
    """From now on, the system drops what arrives for this socket, as a path does that has died. For Linux."""
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # "return 0": keep no byte
    so_attach_filter = 26
    sock.setsockopt(socket.SOL_SOCKET, so_attach_filter, struct.pack("@HP", 1, ctypes.addressof(program)))
