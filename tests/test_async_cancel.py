"""How fast an async call stops, in each phase, however it is told to; a table is printed at the end of the run."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
from faces import backends, run
from raw_server import BEGUN, RawServer, sockets_to, until_read

import chatanywhere
from chatanywhere import AsyncClient, AsyncStream, Retry, StreamCancelledError
from chatanywhere.testing import Fault, LoopbackServer

PACKAGE = {str(path) for path in Path(chatanywhere.__file__).parent.rglob("*.py") if path.parent.name != "testing"}


class Phase:
    """A call that will be stuck: with which client, on which port, and how to know that it is."""

    def __init__(self, name: str, port: int, stuck: Callable[[AsyncStream], bool], **settings: Any) -> None:
        self.name = name
        self.port = port
        self.stuck = stuck
        settings = {"base_url": f"http://127.0.0.1:{port}", "protocol": "web", "timeout": None, **settings}
        self.client = AsyncClient(**settings)


def at_work() -> bool:
    """Whether a thread is at work for a call."""
    # A name that is being looked up can't be given up by the thread that does it; nobody waits for it.
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident() and not names.get(ident, "").startswith("chatanywhere-resolve"):
            while frame is not None:
                if frame.f_code.co_filename in PACKAGE:
                    return True
                frame = frame.f_back  # type: ignore[assignment]
    return False


HALF_A_HEAD = BEGUN[:20]
PHASES = [
    "names",
    "connect",
    "TLS",
    "headers",
    "half a head",
    "half a head over TLS",
    "body",
    "body over TLS",
    "backoff",
]


@pytest.fixture(params=PHASES)
def phase(
    request: pytest.FixtureRequest,
    raw_server: RawServer,
    full_port: int,
    monkeypatch: pytest.MonkeyPatch,
    tls_context: ssl.SSLContext,
    ca_file: Path,
) -> Iterator[Phase]:
    """Each of the phases in which a call can be stuck."""
    name = request.param
    if name == "names":
        asked, released = threading.Event(), threading.Event()
        look_up = socket.getaddrinfo

        def hang(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
            if host == "api.example" and not flags:
                asked.set()
                released.wait(20)
            return look_up(host, *args, flags=flags, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", hang)
        yield Phase(name, 80, lambda _: asked.is_set(), base_url="http://api.example")
        released.set()
    elif name == "connect":
        # Those that fill the port's queue are this process's too.
        filling = len(sockets_to(full_port, psutil.CONN_SYN_SENT))
        yield Phase(name, full_port, lambda _: len(sockets_to(full_port, psutil.CONN_SYN_SENT)) > filling)
    elif name == "TLS":
        raw_server.read_requests = False
        yield Phase(
            name,
            raw_server.port,
            lambda _: raw_server.connections == 1,
            base_url=f"https://127.0.0.1:{raw_server.port}",
        )
    elif name == "headers":
        raw_server.answer(raw_server.hold)
        yield Phase(name, raw_server.port, lambda _: len(raw_server.requests) == 1)
    elif name == "half a head":
        sent = threading.Event()
        raw_server.answer(HALF_A_HEAD, until_read, lambda _: sent.set(), raw_server.hold)
        yield Phase(name, raw_server.port, lambda _: sent.is_set())
    elif name == "backoff":
        raw_server.answer(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\n\r\n")
        retry = Retry(2, backoff=1e6, max_backoff=1e6)
        yield Phase(name, raw_server.port, lambda _: len(raw_server.requests) == 1, retry=retry)
    else:
        in_head = name.startswith("half a head")
        silence = Fault.timeout(at="headers") if in_head else Fault.timeout(after=1)
        with LoopbackServer(
            lambda _: ["one", "two"], faults=[silence], tls=tls_context if name.endswith("TLS") else None
        ) as server:
            yield Phase(
                name,
                int(server.url.rpartition(":")[2]),
                lambda stream: len(server.requests) == 1 and (in_head or stream.text == "one"),
                base_url=server.url,
                verify=ca_file,
            )


Stop = Callable[[AsyncStream, Any], Awaitable[None]]


async def cancel_scope(_: AsyncStream, scope: anyio.CancelScope) -> None:
    scope.cancel()


async def close(stream: AsyncStream, _: anyio.CancelScope) -> None:
    await stream.aclose()


async def cancel_from_a_thread(stream: AsyncStream, _: anyio.CancelScope) -> None:
    threading.Thread(target=stream.cancel).start()


@backends
@pytest.mark.parametrize("stop", [cancel_scope, close, cancel_from_a_thread])
def test_a_call_that_is_stuck_stops_at_once(
    phase: Phase, stop: Stop, backend: str, record_property: Callable[[str, object], None]
) -> None:
    """The task goes on at once, and a moment later no thread works for the call and no socket is open."""
    others = len(sockets_to(phase.port)) if phase.name == "connect" else 0
    times: dict[str, float] = {}
    errors: list[StreamCancelledError] = []

    async def read(stream: AsyncStream, scope: anyio.CancelScope) -> None:
        with scope:
            try:
                async for _ in stream:
                    pass
            except StreamCancelledError as error:
                errors.append(error)
            finally:
                times["gone on"] = time.monotonic()

    async def main() -> None:
        stream = phase.client.stream("Hello")
        scope = anyio.CancelScope()
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read, stream, scope)
                while not phase.stuck(stream):
                    await anyio.sleep(0.002)
                await anyio.sleep(0.05)  # so that it is well within
                assert "gone on" not in times
                times["told"] = time.monotonic()
                await stop(stream, scope)
            while at_work() or len(sockets_to(phase.port)) > others:
                await anyio.sleep(0.002)
            times["clean"] = time.monotonic()
        assert stream.text == ("one" if phase.name.startswith("body") else "")
        assert [error.partial for error in errors] == ([] if stop is cancel_scope else [stream.text])

    run(backend, main)
    gone_on, clean = times["gone on"] - times["told"], times["clean"] - times["told"]
    assert gone_on < 1
    assert clean < 1.5
    record_property("latency", (phase.name, gone_on, clean))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("way", ["task.cancel", "wait_for", "timeout", "end of the loop"])
def test_asyncios_own_ways_to_stop(phase: Phase, way: str, loop: str) -> None:
    """They all end the call at once, whatever it waits for, and leave neither a thread nor a socket."""
    if way == "timeout" and sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout is new in 3.11")
    others = len(sockets_to(phase.port)) if phase.name == "connect" else 0

    async def read(stream: AsyncStream) -> None:
        async for _ in stream:
            pass

    async def main() -> None:
        stream = phase.client.stream("Hello")
        task = asyncio.create_task(read(stream))
        while not phase.stuck(stream):
            await asyncio.sleep(0.002)
        if way == "task.cancel":
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        elif way == "wait_for":
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(task, 0.05)
        elif way == "timeout":
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await task
        began.append(time.monotonic())

    began: list[float] = []
    run(loop, main)
    while at_work() or len(sockets_to(phase.port)) > others:
        assert time.monotonic() - began[0] < 2
        time.sleep(0.002)


def wait_for_heads_with_one_thread(
    backend: str, client: AsyncClient, requests: Sequence[object], proceed: threading.Event
) -> list[str]:
    """Make twenty calls at once, and let the server answer when it has all of their requests; return their texts."""

    async def main() -> list[str]:
        texts: list[str] = []

        async def ask() -> None:
            texts.append((await client.complete("Hello")).text)

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(ask)
                while len(requests) < 20 or at_work():
                    await anyio.sleep(0.002)
                proceed.set()
        return texts

    try:
        return run(backend, main)  # type: ignore[no-any-return]
    finally:
        proceed.set()


@backends
@pytest.mark.parametrize("begun", [b"", HALF_A_HEAD], ids=["headers", "half a head"])
def test_no_thread_waits_for_a_head(raw_server: RawServer, backend: str, begun: bytes) -> None:
    """One thread for all calls is enough for many that wait for their heads, and none is at work meanwhile."""
    proceed = threading.Event()
    raw_server.answer(begun, lambda _: proceed.wait(20), BEGUN[len(begun) :] + b"0\r\n\r\n")
    client = AsyncClient(base_url=raw_server.url, protocol="web", max_threads=1, retry=None)
    assert wait_for_heads_with_one_thread(backend, client, raw_server.requests, proceed) == ["one"] * 20


@backends
def test_no_thread_waits_for_a_head_over_tls(backend: str, tls_context: ssl.SSLContext, ca_file: Path) -> None:
    """Over TLS neither, on new connections and on those that are used again."""
    proceed = threading.Event()

    def reply(_: object) -> str:
        proceed.wait(20)
        return "one"

    with LoopbackServer(reply, tls=tls_context) as server:
        client = AsyncClient(base_url=server.url, protocol="web", max_threads=1, retry=None, verify=ca_file)
        for _ in range(2):
            server.requests.clear()
            proceed.clear()
            assert wait_for_heads_with_one_thread(backend, client, server.requests, proceed) == ["one"] * 20
        assert server.connections == 20


PROGRAM = """
import asyncio, gc, sys
from chatanywhere import AsyncClient, ChatAnywhere

client = AsyncClient(base_url=sys.argv[1], protocol="web")
provider = type("Provider", (ChatAnywhere,), {"url": sys.argv[1]})


async def left_by_break():
    async for piece in client.stream("Hello"):
        break
    async for event in client.stream("Hello").events():
        break
    async for piece in provider.create_async_generator("", [{"role": "user", "content": "Hello"}]):
        break


async def cancelled():
    task = asyncio.create_task(client.complete("Hello"))
    await asyncio.sleep(0.1)
    task.cancel()


async def pending():
    asyncio.create_task(client.complete("Hello"))
    await asyncio.sleep(0.1)


async def closed_elsewhere():
    pieces = provider.create_async_generator("", [{"role": "user", "content": "Hello"}])
    await asyncio.create_task(pieces.__anext__())
    await asyncio.create_task(pieces.aclose())


async def closed_while_read():
    stream = client.stream("Hello")
    task = asyncio.create_task(stream.__anext__())
    await asyncio.sleep(0.1)
    await stream.aclose()
    await asyncio.gather(task, return_exceptions=True)


async def forgotten():
    stream = client.stream("Hello")
    await stream.__anext__()


for main in (left_by_break, cancelled, pending, closed_elsewhere, closed_while_read, forgotten):
    asyncio.run(main(), debug=True)
    gc.collect()
"""


def test_nothing_is_printed_whatever_ends_a_stream(raw_server: RawServer) -> None:
    """Streams that are left, cancelled, closed by other tasks, forgotten or cut off by the loop's end: not a word."""
    raw_server.answer(BEGUN, raw_server.hold)
    command = [sys.executable, "-X", "dev", "-W", "always", "-c", PROGRAM, raw_server.url]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    lines = [line for line in process.stderr.splitlines() if not line.startswith("Executing <")]  # a slow machine
    assert (process.returncode, process.stdout, lines) == (0, "", [])
