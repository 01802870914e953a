"""The async face: cancellation in every phase, event loops that come and go, many streams at once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import gzip
import logging
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from faces import backends, run
from raw_server import BEGUN, RawServer, sockets_to
from waiting import until

from chatanywhere import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    Client,
    NotFoundError,
    Retry,
    StreamCancelledError,
    TextDelta,
    Timeout,
)
from chatanywhere._async_client import Driver
from chatanywhere._http import connections
from chatanywhere.testing import Fault, LoopbackServer

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
HI = b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'


async def no_socket_to(port: int) -> None:
    """Fail unless all connections to a port are closed in time."""
    with anyio.fail_after(2):
        while sockets_to(port):
            await anyio.sleep(0.01)


@backends
@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\r\nX: ", BEGUN], ids=["silent", "in the head", "in the body"])
def test_a_cancelled_task_ends_at_once_and_closes_its_connection(
    raw_server: RawServer, backend: str, begun: bytes
) -> None:
    """A scope that times out gets control back at once; the server sees the connection close, no thread is left."""
    closed = threading.Event()

    def wait_for_close(connection: socket.socket) -> None:
        connection.settimeout(10)
        if not connection.recv(1):
            closed.set()

    raw_server.answer(begun, wait_for_close)

    async def main() -> float:
        client = AsyncClient(base_url=raw_server.url, protocol="web")
        with anyio.move_on_after(0.3):
            async with client.stream("Hello") as stream:
                async for _ in stream:
                    pass
        return time.monotonic()

    began = time.monotonic()
    ended = run(backend, main)
    assert 0.25 < ended - began < 1.5
    assert closed.wait(2)


@backends
def test_cancel_from_another_thread_wakes_a_reader(raw_server: RawServer, backend: str) -> None:
    """cancel() ends a silent stream with StreamCancelledError, which has the text so far."""
    raw_server.answer(BEGUN, raw_server.hold)

    async def main() -> None:
        async with AsyncClient(base_url=raw_server.url, protocol="web").stream("Hello") as stream:
            assert await stream.__anext__() == "one"
            threading.Timer(0.1, stream.cancel).start()
            with pytest.raises(StreamCancelledError) as caught:
                await stream.__anext__()
            assert caught.value.partial == stream.text == "one"

    with_limit(backend, main)


def with_limit(backend: str, main: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        with anyio.fail_after(10):
            await main()

    run(backend, limited)


@backends
def test_a_client_outlives_its_event_loops(backend: str) -> None:
    """One AsyncClient serves one event loop after another, reusing its connections."""
    with LoopbackServer(replies=["one two", "three four"]) as server:
        client = AsyncClient("k", base_url=server.url)

        async def main() -> str:
            return (await client.complete("Hello")).text

        assert [run(backend, main), run(backend, main)] == ["one two", "three four"]


def test_wait_for_around_each_piece_works() -> None:
    """asyncio.wait_for may wrap every single piece, though it runs each in a task of its own."""
    with LoopbackServer(replies=[["one", "two"]]) as server:

        async def main() -> str:
            stream = AsyncClient("k", base_url=server.url).stream("Hello")
            with contextlib.suppress(StopAsyncIteration):
                while True:
                    await asyncio.wait_for(stream.__anext__(), 5)
            return stream.completion.text

        assert asyncio.run(main()) == "onetwo"


CROWD = """
import asyncio

async def serve(reader, writer):
    global here
    await reader.readuntil(b"}")
    writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Type: text/plain\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n")
    writer.write(b"3\\r\\none\\r\\n")
    here += 1
    while here < 1000:
        await asyncio.sleep(0.1)
    writer.write(b"3\\r\\ntwo\\r\\n")
    await asyncio.sleep(2)
    writer.write(b"5\\r\\nthree\\r\\n0\\r\\n\\r\\n")
    await writer.drain()
    writer.close()

here = 0

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=2000)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.sleep(60)  # stops by itself if nobody stops it

asyncio.run(main())
"""


@pytest.fixture
def crowd() -> Iterator[str]:
    """The URL of a server, in a process of its own, that holds its answers open until there are a thousand."""
    resource = pytest.importorskip("resource", reason="Windows has no limit on files that could be raised")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096 if hard < 0 else min(4096, hard), hard))
    process = subprocess.Popen([sys.executable, "-c", CROWD], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.wait(10)
    process.stdout.close()


@backends
def test_a_thousand_streams_need_forty_threads(crowd: str, backend: str) -> None:
    """They are open at the same time, mostly silent, and all of them are read to their end."""
    client = AsyncClient(base_url=crowd, protocol="web", timeout=60)
    before = threading.active_count()
    open_now: set[int] = set()
    most_open: list[int] = []
    threads: list[int] = []

    async def ask(number: int, texts: list[str]) -> None:
        async with client.stream("Hello") as stream:
            open_now.add(number)
            async for _ in stream:
                most_open.append(len(open_now))
                threads.append(threading.active_count() - before)
            open_now.remove(number)
        texts.append(stream.text)

    async def main() -> list[str]:
        texts: list[str] = []
        async with anyio.create_task_group() as tasks:
            for number in range(1000):
                tasks.start_soon(ask, number, texts)
        return texts

    assert run(backend, main) == ["onetwothree"] * 1000
    assert max(most_open) == 1000
    assert max(threads) <= 40


@backends
def test_threads_are_counted_apart_from_the_programs(raw_server: RawServer, backend: str) -> None:
    """Calls that are stuck don't keep the program from its own threads, nor the program's the calls from theirs."""
    released = threading.Event()

    async def main() -> None:
        stuck = AsyncClient(base_url=raw_server.url, protocol="web", max_threads=40)
        free = AsyncClient(base_url=server.url, protocol="web")
        default = anyio.to_thread.current_default_thread_limiter()
        async with anyio.create_task_group() as tasks:
            for _ in range(40):
                tasks.start_soon(stuck.complete, "Hello")
            while len(raw_server.requests) < 40:
                await anyio.sleep(0.01)
            with anyio.fail_after(5):
                assert await anyio.to_thread.run_sync(lambda: "mine") == "mine"
            for _ in range(int(default.total_tokens)):
                tasks.start_soon(anyio.to_thread.run_sync, released.wait)
            while default.available_tokens:
                await anyio.sleep(0.01)
            with anyio.fail_after(5):
                assert (await free.complete("Hello")).text == "Hi"
            released.set()
            tasks.cancel_scope.cancel()

    raw_server.answer(raw_server.hold)
    with LoopbackServer(lambda _: "Hi") as server:
        run(backend, main)


@backends
def test_a_slow_reader_slows_the_server_down(raw_server: RawServer, backend: str) -> None:
    """What is not read stays with the server: less than 1 MiB of an endless answer is held for a stream."""
    sent: list[int] = []

    def flood(connection: socket.socket) -> None:
        while True:
            connection.sendall(b"4000\r\n" + b"x" * 0x4000 + b"\r\n")
            sent.append(0x4000)

    raw_server.answer(BEGUN, flood)

    async def main() -> int:
        tracemalloc.start()
        async with AsyncClient(base_url=raw_server.url, protocol="web").stream("Hello") as stream:
            before = tracemalloc.get_traced_memory()[0]
            for _ in range(3):
                await stream.__anext__()
            count = -1
            while count < len(sent):  # until the server is stuck
                count = len(sent)
                await anyio.sleep(0.2)
            tracemalloc.reset_peak()
            await stream.__anext__()
            return tracemalloc.get_traced_memory()[1] - before

    try:
        assert run(backend, main) < 2**20
    finally:
        tracemalloc.stop()


@backends
def test_the_callers_context_reaches_the_log(caplog: pytest.LogCaptureFixture, backend: str) -> None:
    """A context variable of the task is seen where its call logs a retry."""
    user = contextvars.ContextVar("user", default="nobody")
    seen: list[str] = []

    class Filter(logging.Filter):
        def filter(self, record: logging.LogRecord) -> bool:
            seen.append(user.get())
            return True

    async def main() -> None:
        user.set("Ada")
        await AsyncClient("k", base_url=server.url, retry=Retry(2, 0)).complete("Hello")

    caplog.set_level(logging.INFO)
    logger = logging.getLogger("chatanywhere")
    watch = Filter()
    logger.addFilter(watch)
    try:
        with LoopbackServer(faults=[Fault.status(503, first=1)]) as server:
            run(backend, main)
    finally:
        logger.removeFilter(watch)
    assert seen == ["Ada"]


@backends
def test_an_error_shows_where_it_was_made(backend: str) -> None:
    """The traceback leads from the caller through the worker thread to the connection that failed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(APIConnectionError) as caught:
        run(backend, AsyncClient("k", base_url=url, retry=None).complete, "Hello")
    names = [frame.name for frame in caught.traceback]
    assert "complete" in names
    assert "open" in names


@backends
def test_a_connect_limit_is_followed_by_another_attempt(raw_server: RawServer, backend: str) -> None:
    """Each attempt has the whole of `connect`, is counted, and leaves the event loop free while it waits."""
    raw_server.read_requests = False  # and so no TLS handshake
    url = raw_server.url.replace("http:", "https:")
    limits = Timeout(total=10, connect=0.2)
    client = AsyncClient("k", base_url=url, verify=False, timeout=limits, retry=Retry(3, backoff=0))
    turns = 0

    async def main() -> APITimeoutError:
        async def take_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.sleep(0.01)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_turns)
            with pytest.raises(APITimeoutError) as caught:
                await client.complete("Hello")
            tasks.cancel_scope.cancel()
        return caught.value

    error = run(backend, main)
    assert (error.phase, error.attempts, raw_server.connections) == ("connect", 3, 3)
    assert turns >= 10


@backends
def test_events_and_facts_are_those_of_the_blocking_stream(backend: str) -> None:
    """AsyncStream tells what Stream tells."""
    with LoopbackServer(replies=lambda _: ["one ", "two"]) as server:
        client = Client("k", base_url=server.url)
        with client.stream("Hello") as blocking:
            expected = [event for event in blocking.events() if type(event).__name__ != "Started"]

        async def main() -> None:
            stream = client.as_async().stream("Hello")
            with pytest.raises(RuntimeError, match="not been opened"):
                _ = stream.status_code
            assert (stream.text, stream.reasoning) == ("", "")
            events = [event async for event in stream.events()]
            assert "".join(getattr(event, "text", "") for event in events) == "one two" == stream.text
            assert events[-1] == expected[-1]
            assert stream.status_code == 200
            assert stream.headers["content-type"] == "text/event-stream"
            assert stream.request_id == stream.completion.request_id

        run(backend, main)


@backends
def test_a_stream_that_was_never_opened_closes_without_a_word(backend: str) -> None:
    """Nothing is sent by a stream that nobody asks for a piece."""
    with LoopbackServer() as server:

        async def main() -> None:
            client = AsyncClient("k", base_url=server.url)
            await client.stream("Hello").aclose()
            client.stream("Hello").cancel()
            await client.aclose()

        run(backend, main)
        assert server.requests == []


@backends
def test_a_fast_server_does_not_keep_the_loop_to_itself(backend: str) -> None:
    """While an answer comes faster than it is read, other tasks run and the total holds."""
    with LoopbackServer(lambda _: ["x" * 65536] * 20_000) as server:

        async def main() -> int:
            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await anyio.sleep(0.01)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(count)
                with pytest.raises(APITimeoutError):
                    await AsyncClient(base_url=server.url, protocol="web", timeout=0.4, retry=1).complete("Hello")
                tasks.cancel_scope.cancel()
            return turns

        assert run(backend, main) > 5


@backends
def test_one_task_at_a_time_reads_a_stream(raw_server: RawServer, backend: str) -> None:
    """A second reader is refused, and the first one is not disturbed."""
    raw_server.answer(BEGUN, lambda _: proceed.wait(10), b"3\r\ntwo\r\n0\r\n\r\n")
    proceed = threading.Event()

    async def main() -> list[str]:
        stream = AsyncClient(base_url=raw_server.url, protocol="web").stream("Hello")
        pieces = [await stream.__anext__()]

        async def read() -> None:
            pieces.append(await stream.__anext__())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.sleep(0.05)
            with pytest.raises(RuntimeError, match="another thread or task"):
                await stream.__anext__()
            proceed.set()
        return pieces

    assert run(backend, main) == ["one", "two"]


@backends
def test_a_call_that_failed_is_not_made_again(backend: str) -> None:
    """A stream that could not be opened is over, can't be entered, and sends nothing more."""
    with LoopbackServer(faults=[Fault.status(404)]) as server:

        async def main() -> None:
            stream = AsyncClient("k", base_url=server.url).stream("Hello")
            with pytest.raises(NotFoundError):
                await stream.__anext__()
            with pytest.raises(StopAsyncIteration):
                await stream.__anext__()
            with pytest.raises(RuntimeError, match="make another call"):
                await stream.__aenter__()

        run(backend, main)
        assert len(server.requests) == 1


@backends
def test_waiting_for_a_thread_takes_of_the_total_too(raw_server: RawServer, backend: str) -> None:
    """A call that no thread is free for ends when its time is up, having sent nothing."""
    raw_server.read_requests = False  # and so no TLS handshake, in which a thread is held

    async def main() -> tuple[APITimeoutError, float]:
        client = AsyncClient("k", base_url=raw_server.url.replace("http:", "https:"), max_threads=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.stream("Hello").__aenter__)
            while not raw_server.connections:
                await anyio.sleep(0.005)
            began = time.monotonic()
            with pytest.raises(APITimeoutError) as caught:
                await client.complete("Hello", timeout=0.3)
            tasks.cancel_scope.cancel()
        return caught.value, time.monotonic() - began

    error, seconds = run(backend, main)
    assert error.phase == "total"
    assert error.attempts == 0
    assert 0.25 < seconds < 1.5
    assert raw_server.connections == 1


@backends
def test_events_may_be_left_early(raw_server: RawServer, backend: str) -> None:
    """Breaking out of events() needs no event loop to clean up, and what is left can be read on."""
    raw_server.answer(BEGUN, b"3\r\ntwo\r\n0\r\n\r\n")

    async def main() -> str:
        stream = AsyncClient(base_url=raw_server.url, protocol="web").stream("Hello")
        async for event in stream.events():
            if isinstance(event, TextDelta):
                break
        async for _ in stream:
            pass
        return stream.completion.text

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(backend, main) == "onetwo"


@backends
def test_models_are_listed(backend: str) -> None:
    """models() is there too, and fails like the blocking one."""
    with LoopbackServer() as server:
        assert "gpt-4o-mini" in run(backend, AsyncClient("k", base_url=server.url).models)
    with LoopbackServer(faults=[Fault.status(404)]) as server, pytest.raises(NotFoundError):
        run(backend, AsyncClient("k", base_url=server.url).models)


@backends
def test_both_faces_share_one_pool(backend: str) -> None:
    """A client and its async face use each other's connections."""
    with LoopbackServer() as server, Client("k", base_url=server.url) as client:
        client.complete("Hello")
        run(backend, client.as_async().complete, "Hello")
        client.complete("Hello")
        assert server.connections == 1


def test_a_limit_on_threads_must_leave_one() -> None:
    """max_threads=0 is refused, and so is what is no number."""
    with pytest.raises(ValueError, match="max_threads"):
        AsyncClient("k", max_threads=0)
    with pytest.raises(TypeError, match="max_threads"):
        AsyncClient("k", max_threads="many")  # type: ignore[arg-type]


def test_a_stream_outlives_its_event_loop(raw_server: RawServer) -> None:
    """What was begun on one loop can be read to its end on the next, but not while the first is still open."""
    raw_server.answer(BEGUN, b"3\r\ntwo\r\n", lambda _: proceed.wait(10), b"5\r\nthree\r\n0\r\n\r\n")
    proceed = threading.Event()
    stream = AsyncClient(base_url=raw_server.url, protocol="web").stream("Hello")

    async def rest() -> str:
        return "".join([piece async for piece in stream])

    async def beginning() -> str:
        text = ""
        while "two" not in text:
            text += await stream.__anext__()
        with pytest.raises(RuntimeError, match="still open"):
            await anyio.to_thread.run_sync(asyncio.run, rest())
        return text

    text = asyncio.run(beginning())
    proceed.set()
    assert text + asyncio.run(rest()) == "onetwothree"


@backends
def test_what_comes_with_the_head_of_a_later_attempt_is_read(raw_server: RawServer, backend: str) -> None:
    """The answer to a second attempt may be there, whole, before the loop waits for it."""
    answers = iter([[EVENTS], [EVENTS + HI, raw_server.hold]])  # the first is cut before its first text
    raw_server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]

    async def main() -> str:
        client = AsyncClient("k", base_url=raw_server.url, timeout=5, retry=Retry(2, backoff=0.001))
        async with client.stream("Hello") as stream:
            return await stream.__anext__()

    assert run(backend, main) == "Hi"
    assert len(raw_server.requests) == 2


@backends
@pytest.mark.parametrize("way", ["aclose", "from a thread"])
def test_cancel_reaches_a_call_that_waits_for_a_thread(raw_server: RawServer, backend: str, way: str) -> None:
    """A call that no thread is free for ends at once when it is cancelled, having sent nothing."""
    raw_server.read_requests = False  # and so no TLS handshake, in which a thread is held

    async def main() -> None:
        url = raw_server.url.replace("http:", "https:")
        client = AsyncClient("k", base_url=url, max_threads=1, timeout=None)
        stream = client.stream("Hello")

        async def read() -> None:
            with pytest.raises(StreamCancelledError):
                await stream.__anext__()
            finished.set()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.stream("Hello").__aenter__)
                while not raw_server.connections:
                    await anyio.sleep(0.005)
                finished = anyio.Event()
                tasks.start_soon(read)
                await anyio.wait_all_tasks_blocked()
                if way == "aclose":
                    await stream.aclose()
                else:
                    threading.Thread(target=stream.cancel).start()
                await finished.wait()
                tasks.cancel_scope.cancel()

    run(backend, main)
    assert raw_server.connections == 1


@backends
def test_a_cancelled_task_gives_up_what_its_thread_has_opened(raw_server: RawServer, backend: str) -> None:
    """Cancelled when the answer is there but the task has not gone on yet, the call closes its connection."""
    raw_server.answer(BEGUN, raw_server.hold)

    async def main() -> None:
        stream = AsyncClient(base_url=raw_server.url, protocol="web").stream("Hello")

        async def read() -> None:
            async with stream:
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            while not raw_server.requests:
                await anyio.sleep(0)
            time.sleep(0.2)  # the loop is busy while the thread opens the stream
            tasks.cancel_scope.cancel()
        await no_socket_to(raw_server.port)

    run(backend, main)


@backends
def test_cancelled_while_waiting_for_a_thread_to_read(
    raw_server: RawServer, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a thread has to read the body, a task that is cancelled before there is one closes its connection."""
    monkeypatch.setattr(connections, "BUILDS_ON_HTTP_CLIENT", False)  # as with urllib3's fork
    raw_server.answer(BEGUN, raw_server.hold)

    async def main() -> None:
        client = AsyncClient(base_url=raw_server.url, protocol="web", max_threads=1)
        streams = [client.stream("Hello") for _ in range(2)]
        for stream in streams:
            assert await stream.__anext__() == "one"
        async with anyio.create_task_group() as tasks:
            for stream in streams:
                tasks.start_soon(stream.__anext__)  # the first of them has the only thread
                await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        await no_socket_to(raw_server.port)

    run(backend, main)


@pytest.mark.parametrize("way", ["cancel", "forgetting it"])
def test_a_stream_is_released_when_its_loop_stands_still(raw_server: RawServer, way: str) -> None:
    """Between two runs of an event loop, as in a notebook, cancel() and forgetting a stream close its connection."""
    raw_server.answer(BEGUN, raw_server.hold)
    loop = asyncio.new_event_loop()
    stream = AsyncClient(base_url=raw_server.url, protocol="web").stream("Hello")
    assert loop.run_until_complete(stream.__anext__()) == "one"
    if way == "cancel":
        stream.cancel()
    else:
        del stream  # the thread that opened it may be about to forget it, too
    until(lambda: not sockets_to(raw_server.port), 5)
    loop.close()


@backends
def test_a_task_cancelled_while_a_bomb_is_unpacked_closes_its_connection(
    raw_server: RawServer, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unpacking what has arrived lets the loop have its turns; a task cancelled in one of them ends its call."""
    pause = Driver._pause

    async def main() -> None:
        scope = anyio.CancelScope()

        async def cancelled_pause(driver: Driver[Any]) -> None:
            scope.cancel()
            await pause(driver)

        monkeypatch.setattr(Driver, "_pause", cancelled_pause)
        stream = AsyncClient("k", base_url=raw_server.url, timeout=5).stream("Hello")
        with scope:
            async for _ in stream:
                pass
        assert scope.cancelled_caught
        await no_socket_to(raw_server.port)

    head = EVENTS.replace(b"Connection: close", b"Content-Encoding: gzip")
    raw_server.answer(head + gzip.compress(b":\n" * 2_000_000), raw_server.hold)  # one packet, of many blocks
    run(backend, main)


@pytest.mark.parametrize("face", ["sync", "asyncio", "trio"])
def test_a_retried_stream_that_is_forgotten_is_closed(raw_server: RawServer, face: str) -> None:
    """A failed attempt leaves nothing behind that holds the stream until garbage is collected."""
    answers = iter([[EVENTS], [EVENTS + HI, raw_server.hold]])
    raw_server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]
    client = Client("k", base_url=raw_server.url, timeout=5, retry=Retry(2, backoff=0.001))

    def read() -> None:
        assert next(client.stream("Hello")) == "Hi"

    async def read_async() -> None:
        assert await client.as_async().stream("Hello").__anext__() == "Hi"
        await no_socket_to(raw_server.port)

    gc.disable()
    try:
        if face == "sync":
            read()
        else:
            run(face, read_async)
        assert len(raw_server.requests) == 2
        until(lambda: not sockets_to(raw_server.port), 5)
    finally:
        gc.enable()
