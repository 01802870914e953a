"""What the tests share: a server that sends exactly the bytes it is told to."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import socket
import termios
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Iterator
from typing import Any, Callable, Optional, Union

import anyio
import hypothesis
import psutil
import pytest

from chatanywhere import AsyncClient, ChatAnywhereError, Client
from chatanywhere._faults import Wire

hypothesis.settings.register_profile("no deadline", deadline=None)  # the machines are noisy
hypothesis.settings.load_profile("no deadline")

FORK = importlib.util.find_spec("urllib3_future") is not None
"""Whether urllib3's files have been replaced by those of urllib3-future, as installing niquests does."""

BEGUN = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
"""The head and the first piece of an answer of the web protocol."""

Step = Optional[Union[bytes, Callable[[socket.socket], None]]]
"""Bytes to send, something to do with the connection, or None: keep it open for another request."""


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

    def close(self) -> None:
        self.released.set()
        socket.socket.shutdown(self._listener, socket.SHUT_RDWR)
        self._listener.close()
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


@pytest.fixture
def raw_server() -> Iterator[RawServer]:
    """A server that sends exactly the bytes it is told to."""
    server = RawServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: another one is neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


def sockets_to(port: int, *states: str) -> list[Any]:
    """The connections of this process to a port, in these states or in any."""
    return [
        connection
        for connection in psutil.Process().net_connections("tcp4")
        if connection.raddr and connection.raddr.port == port and connection.fd != -1
        if not states or connection.status in states
    ]


@pytest.fixture
def pieces_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback servers wait with a piece until the one before has been read, so that no two are read as one."""
    pause = Wire.wait

    def wait(wire: Wire, seconds: float) -> None:
        reader = wire._connection.getpeername()[1]
        while _has_unread_bytes(reader) and not wire._closing.wait(0.001):
            pass
        pause(wire, seconds)

    monkeypatch.setattr(Wire, "wait", wait)


def _has_unread_bytes(port: int) -> bool:
    """Whether something has arrived at this port, a connection's of this process, and has not been received."""
    for connection in psutil.Process().net_connections("tcp4"):
        if connection.laddr.port == port and connection.fd != -1:
            with contextlib.suppress(OSError):  # closed in between
                return any(fcntl.ioctl(connection.fd, termios.FIONREAD, bytes(4)))
    return False


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is at the mercy of the keys, URLs and proxies of the machine it runs on."""
    for name in list(os.environ):
        if name.startswith(("CHATANYWHERE_", "OPENAI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


_no_uvloop = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not for Windows")

backends = pytest.mark.parametrize("backend", ["asyncio", pytest.param("uvloop", marks=_no_uvloop), "trio"])
"""Event loops, for `run`."""


def run(backend: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run an async function on a new event loop of this kind."""
    if backend == "uvloop":
        return anyio.run(function, *args, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(function, *args, backend=backend)


class Outcome:
    """How a call ended: its pieces, and its error if it failed."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.error: ChatAnywhereError | None = None
        self.seconds = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Face:
    """One of the ways to make a call: blocking, or async on one of the event loops."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ask(
        self,
        client: Client,
        messages: str = "Hello",
        *,
        on_piece: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> Outcome:
        """Make a call to its end, whatever that is."""
        outcome = Outcome()
        began = time.monotonic()
        try:
            if self.name == "sync":
                with client.stream(messages, **options) as stream:
                    for piece in stream:
                        outcome.pieces.append(piece)
                        on_piece(piece)
            else:
                anyio.run(self._ask_async, client, messages, on_piece, options, outcome, backend=self.name)
        except ChatAnywhereError as error:
            outcome.error = error
        outcome.seconds = time.monotonic() - began
        return outcome

    async def _ask_async(
        self,
        client: Client,
        messages: str,
        on_piece: Callable[[str], None],
        options: dict[str, Any],
        outcome: Outcome,
    ) -> None:
        async with AsyncClient.from_sync(client).stream(messages, **options) as stream:
            async for piece in stream:
                outcome.pieces.append(piece)
                on_piece(piece)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def face(request: pytest.FixtureRequest) -> Face:
    """Each of the ways to make a call."""
    return Face(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the cells of the fault matrix that passed, and how fast async calls stopped."""
    properties = [pair for report in terminalreporter.stats.get("passed", []) for pair in report.user_properties]
    cells = Counter(value for name, value in properties if name == "cell")
    if cells:
        terminalreporter.section(f"fault matrix: {sum(cells.values())} cells passed")
        for cell, count in sorted(cells.items()):
            terminalreporter.write_line(f"{cell:50} {count} of 3 faces")
    latencies = [value for name, value in properties if name == "latency"]
    if latencies:
        terminalreporter.section("async calls told to stop: ms until the task goes on, ms until all is clean")
        for phase in dict.fromkeys(phase for phase, _, _ in latencies):
            gone_on = sorted(1000 * gone_on for name, gone_on, _ in latencies if name == phase)
            clean = sorted(1000 * clean for name, _, clean in latencies if name == phase)
            middle = len(clean) // 2
            terminalreporter.write_line(
                f"{phase:15} median {gone_on[middle]:5.1f}, {clean[middle]:5.1f}   "
                f"worst of {len(clean)} {gone_on[-1]:5.1f}, {clean[-1]:5.1f}"
            )
