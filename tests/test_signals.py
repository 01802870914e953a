"""What a signal does to a call: an exception of the program's own passes, and a stopped process reads on."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from faces import backends, run
from raw_server import BEGUN, RawServer, sockets_to

from chatanywhere import AsyncClient, Client, Retry, Timeout

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")

PATIENT = Retry(attempts=3, backoff=1e6, max_backoff=1e6)


class SoftTimeLimit(Exception):
    """As Celery's: raised in the middle of whatever a worker does."""


@contextmanager
def raised_soon(error: BaseException) -> Iterator[None]:
    """Let a signal handler raise this error in a moment; check that it comes through as it is, and at once."""

    def handler(*_: object) -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        raise error

    before = signal.signal(signal.SIGALRM, handler)
    # Again and again, since a signal that comes just before a wait begins is not noticed until that is over.
    signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)
    began = time.monotonic()
    try:
        with pytest.raises(type(error)) as caught:
            yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value is error
    assert time.monotonic() - began < 3
    error.__traceback__ = None  # its frames may hold a socket


class Wait:
    """A wait in which a call can be stuck: the settings of a client that comes to it, and what it sends."""

    def __init__(self, port: int, **settings: Any) -> None:
        self.port = port
        self.settings = {
            "base_url": f"http://127.0.0.1:{port}",
            "protocol": "web",
            "timeout": Timeout(total=60, connect=20, read=20),
            "retry": PATIENT,
            **settings,
        }
        self.messages = "Hello"


@pytest.fixture(params=["lookup", "connect", "TLS", "send", "head", "body", "backoff"])
def wait(
    request: pytest.FixtureRequest, raw_server: RawServer, full_port: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Wait]:
    """Each of the waits of a call."""
    stuck = Wait(raw_server.port)
    released = threading.Event()
    if request.param == "lookup":
        look_up = socket.getaddrinfo

        def hang(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
            if host == "api.example" and not flags & socket.AI_NUMERICHOST:
                released.wait(20)
            return look_up(host, *args, flags=flags, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        stuck = Wait(raw_server.port, base_url=f"http://api.example:{raw_server.port}")
    elif request.param == "connect":
        stuck = Wait(full_port)
    elif request.param == "TLS":
        raw_server.read_requests = False
        stuck = Wait(raw_server.port, base_url=raw_server.url.replace("http:", "https:"))
    elif request.param == "send":
        raw_server.read_requests = False
        stuck.messages = "x" * 8_000_000
    elif request.param == "head":
        raw_server.answer(raw_server.hold)
    elif request.param == "body":
        raw_server.answer(BEGUN, raw_server.hold)
    else:
        raw_server.answer(b"HTTP/1.1 503 Busy\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        stuck = Wait(raw_server.port, timeout=None)
    yield stuck
    released.set()


def assert_left(wait: Wait, server: RawServer, sockets_before: int) -> None:
    """There was no further attempt, and the call holds no socket."""
    assert len(server.requests) <= 1
    end = time.monotonic() + 3
    while len(sockets_to(wait.port)) > sockets_before and time.monotonic() < end:
        time.sleep(0.005)
    assert len(sockets_to(wait.port)) == sockets_before


# TimeoutError is what a script's own timer raises; ConnectionError is what a broken connection raises, too.
own_errors = pytest.mark.parametrize("kind", [SoftTimeLimit, TimeoutError, ConnectionError, KeyboardInterrupt])


@own_errors
def test_an_error_that_a_signal_handler_raises_passes(
    wait: Wait, raw_server: RawServer, kind: type[BaseException]
) -> None:
    """It reaches the program at once, unchanged, whatever the call was waiting for, and nothing is tried again."""
    error = kind("the program's")
    sockets_before = len(sockets_to(wait.port))  # those that fill a port's queue
    client = Client(**wait.settings)
    with raised_soon(error):
        client.complete(wait.messages)
    assert_left(wait, raw_server, sockets_before)
    assert error.__cause__ is None


@pytest.mark.parametrize("kind", [SoftTimeLimit, TimeoutError])
def test_an_error_that_a_signal_handler_raises_passes_through_asyncio(
    wait: Wait, raw_server: RawServer, kind: type[Exception]
) -> None:
    """It ends the loop, as asyncio has it, and is not taken for a limit of the call."""
    sockets_before = len(sockets_to(wait.port))

    async def main() -> None:
        await AsyncClient(**wait.settings).complete(wait.messages)

    with raised_soon(kind("the program's")):
        run("asyncio", main)
    assert_left(wait, raw_server, sockets_before)


def test_the_client_works_after_an_error_of_a_signal_handler(raw_server: RawServer) -> None:
    """The next call gets a connection of its own, and its own answer."""
    answers = iter([[BEGUN, raw_server.hold], [BEGUN, b"0\r\n\r\n", None]])
    raw_server.steps = lambda _: next(answers)
    with Client(base_url=raw_server.url, protocol="web", timeout=20, retry=PATIENT) as client:
        with raised_soon(TimeoutError("the program's")):
            client.complete("Hello")
        assert client.complete("Hello").text == "one"
    assert (len(raw_server.requests), raw_server.connections) == (2, 2)


def test_a_limit_that_a_signal_outlives_is_still_a_limit(raw_server: RawServer) -> None:
    """Handlers that return change nothing: the call ends with its own error when its own time is up."""
    raw_server.answer(raw_server.hold)
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError, match="nothing came"):
            Client(base_url=raw_server.url, protocol="web", timeout=Timeout(read=0.5), retry=None).complete("Hello")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert 0.45 < time.monotonic() - began < 3


# A process that is stopped ------------------------------------------------------------------------------------

READ = 1.0

SYNC = """
import sys
from chatanywhere import Client, Timeout
url, read = sys.argv[1], float(sys.argv[2])
with Client(base_url=url, protocol="web", retry=None, timeout=Timeout(total=60, read=read), proxy="") as client:
    for piece in client.stream("Hello"):
        print(piece, flush=True)
"""

ASYNC = """
import sys
import anyio
from chatanywhere import AsyncClient, Timeout
url, read, backend, options = sys.argv[1], float(sys.argv[2]), *sys.argv[3].partition("+")[::2]

async def main():
    client = AsyncClient(base_url=url, protocol="web", retry=None, timeout=Timeout(total=60, read=read), proxy="")
    async with client.stream("Hello") as stream:
        async for piece in stream:
            print(piece, flush=True)
    await client.aclose()

anyio.run(main, backend=backend, backend_options={"use_uvloop": True} if options else {})
"""


@contextmanager
def stoppable(server: RawServer, backend: str) -> Iterator[subprocess.Popen[str]]:
    """A process that makes a call and prints its pieces."""
    script = SYNC if backend == "sync" else ASYNC
    name = "asyncio+uvloop" if backend == "uvloop" else backend
    process = subprocess.Popen(
        [sys.executable, "-c", script, server.url, str(READ), name],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)


def wait_for(condition: threading.Event) -> None:
    assert condition.wait(30)


class Script:
    """Steps of a server that stop when told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.go_on = threading.Event()
        self.sent = threading.Event()

    def pause(self, _: socket.socket) -> None:
        self.asked.set()
        self.go_on.wait(30)

    def done(self, _: socket.socket) -> None:
        self.sent.set()


all_faces = pytest.mark.parametrize("backend", ["sync", *backends.args[1]])


@all_faces
@pytest.mark.parametrize("where", ["head", "body"])
def test_a_stopped_process_reads_what_waits_for_it(raw_server: RawServer, backend: str, where: str) -> None:
    """Stopped for longer than `read`, as by Ctrl-Z or a laptop's lid, it takes what has come meanwhile."""
    script = Script()
    first = [BEGUN] if where == "body" else []
    second = b"5\r\n two!\r\n0\r\n\r\n"
    raw_server.answer(*first, script.pause, second if first else BEGUN + second, script.done, raw_server.hold)
    with stoppable(raw_server, backend) as process:
        assert process.stdout is not None
        wait_for(script.asked)
        if first:
            assert process.stdout.readline() == "one\n"
        time.sleep(READ / 4)  # it waits for the rest by then
        stop(process)
        script.go_on.set()
        wait_for(script.sent)
        time.sleep(READ * 1.5)  # longer than the limit
        process.send_signal(signal.SIGCONT)
        output, errors = process.communicate(timeout=30)
    assert ("one\n" if first else "") + output in ("one\n two!\n", "one two!\n"), errors
    assert process.returncode == 0, errors


@all_faces
def test_a_stopped_process_gives_up_where_nothing_waits_for_it(raw_server: RawServer, backend: str) -> None:
    """The limit has passed, and the server was silent: that is its end."""
    script = Script()
    raw_server.answer(BEGUN, script.pause)
    with stoppable(raw_server, backend) as process:
        assert process.stdout is not None
        wait_for(script.asked)
        assert process.stdout.readline() == "one\n"
        stop(process)
        time.sleep(READ * 1.5)
        process.send_signal(signal.SIGCONT)
        _, errors = process.communicate(timeout=30)
        script.go_on.set()
    assert process.returncode == 1
    assert "APITimeoutError" in errors
