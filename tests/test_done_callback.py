"""What a stream tells when it has ended, once, however that came."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest

from chatanywhere import (
    AsyncStream,
    ChatAnywhereError,
    Client,
    Retry,
    Stream,
    StreamCancelledError,
    StreamInterruptedError,
)
from chatanywhere.testing import Fault, LoopbackServer


class Calls:
    """Notes how often it is called, and what is known of the stream then."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, bool]] = []

    def __call__(self, stream: Stream | AsyncStream) -> None:
        self.seen.append((stream.status, stream.text, stream.error is not None))


def server(*faults: Fault, delay: float = 0.0) -> LoopbackServer:
    return LoopbackServer(lambda _: ["one", "two", "three"], faults=faults, delay=delay)


def read_all(stream: Stream) -> None:
    for _ in stream:
        pass


def stop_after_one(stream: Stream) -> None:
    with stream:
        for _ in stream:
            break


def cancel_between(stream: Stream) -> None:
    next(stream)
    stream.cancel()
    with pytest.raises(StreamCancelledError):
        next(stream)


def raise_between(stream: Stream) -> None:
    with suppress(ZeroDivisionError), stream:
        next(stream)
        raise ZeroDivisionError


WAYS: dict[str, tuple[Callable[[Stream], object], str]] = {
    "iterated": (read_all, "complete"),
    "read": (Stream.read, "complete"),
    "events": (lambda stream: list(stream.events()), "complete"),
    "chunks": (lambda stream: list(stream.chunks()), "complete"),
    "left": (stop_after_one, "closed"),
    "left by an error": (raise_between, "closed"),
    "closed": (Stream.close, "closed"),
    "cancelled": (cancel_between, "cancelled"),
}


@pytest.mark.parametrize(("use", "status"), WAYS.values(), ids=WAYS)
def test_a_callback_is_called_once(use: Callable[[Stream], object], status: str) -> None:
    """However a stream is used, its end is told once, with what has become of it, and also to one that asks late."""
    with server() as running, Client("k", base_url=running.url) as client:
        stream = client.stream("Hello")
        calls, late = Calls(), Calls()
        stream.add_done_callback(calls)
        assert calls.seen == []
        use(stream)
        stream.add_done_callback(late)
        stream.close()
        assert calls.seen == late.seen == [(status, stream.text, status == "cancelled")]
        assert stream.status == status


@pytest.mark.parametrize("use", [read_all, Stream.read, lambda stream: list(stream.chunks())])
def test_a_failure_is_told_before_it_is_raised(use: Callable[[Stream], object]) -> None:
    """The callback has the text and the error of a stream that failed, and its error is without traceback."""
    with server(Fault.reset_peer(after=2)) as running, Client("k", base_url=running.url) as client:
        stream, calls = client.stream("Hello"), Calls()
        stream.add_done_callback(calls)
        with pytest.raises(StreamInterruptedError) as caught:
            use(stream)
        stream.close()
        assert calls.seen == [("failed", caught.value.partial, True)]
        assert isinstance(stream.error, StreamInterruptedError)
        assert stream.error.partial == caught.value.partial == stream.text
        assert (str(stream.error), stream.error.__traceback__) == (str(caught.value), None)


def test_letting_go_of_a_stream_within_an_event_is_told() -> None:
    """It is told at once, and not when the garbage is collected, though the JSON that has come is none yet."""
    with server(Fault.slicer(7, 0.001)) as running, Client("k", base_url=running.url) as client:
        calls = Calls()
        gc.disable()
        try:
            stream = client.stream("Hello")
            stream.add_done_callback(calls)
            next(stream)
            del stream
            assert calls.seen == [("cancelled", "one", False)]
        finally:
            gc.enable()


def test_callbacks_may_come_from_any_thread(caplog: pytest.LogCaptureFixture) -> None:
    """Each is called once, though others are added, or called, at the same time; none is taken for one that fails."""
    with server() as running, Client("k", base_url=running.url) as client:
        stream = client.stream("Hello")
        calls: list[int] = []
        threads = 8
        start = threading.Barrier(threads)

        def add(thread: int) -> None:
            start.wait()
            for number in range(200):
                stream.add_done_callback(lambda _, number=thread * 200 + number: calls.append(number))  # type: ignore[misc]
                if number == 100 and not thread:
                    stream.read()

        workers = [threading.Thread(target=add, args=(thread,)) for thread in range(threads)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()
        assert sorted(calls) == list(range(threads * 200))
        assert not caplog.records


def test_letting_go_of_a_stream_is_told(pieces_apart: None) -> None:
    """A loop that is left without a `with` block ends the stream as well."""
    with server() as running, Client("k", base_url=running.url) as client:
        calls = Calls()

        def begin() -> Stream:
            stream = client.stream("Hello")
            stream.add_done_callback(calls)
            return stream

        for _ in begin():
            break
        assert calls.seen == [("cancelled", "one", False)]


def test_an_interrupt_is_told() -> None:
    """Ctrl-C while the next piece is awaited ends the stream, whoever still has it."""
    with server(Fault.timeout(after=1)) as running, Client("k", base_url=running.url) as client:
        stream, calls = client.stream("Hello"), Calls()
        stream.add_done_callback(calls)
        next(stream)
        exchange: Any = stream._call.exchange

        def interrupt() -> bytes:
            raise KeyboardInterrupt

        exchange.receive = interrupt
        with pytest.raises(KeyboardInterrupt):
            next(stream)
        assert calls.seen == [("cancelled", "one", False)]


def test_closing_what_another_thread_reads_is_told_once() -> None:
    """The reader learns of it, and tells."""
    with server(Fault.timeout(after=1)) as running, Client("k", base_url=running.url) as client:
        stream, calls = client.stream("Hello"), Calls()
        told_by: list[threading.Thread] = []
        stream.add_done_callback(calls)
        stream.add_done_callback(lambda _: told_by.append(threading.current_thread()))
        begun = threading.Event()

        def read() -> None:
            with suppress(StreamCancelledError):
                for _ in stream:
                    begun.set()

        reader = threading.Thread(target=read)
        reader.start()
        assert begun.wait(20)
        stream.close()
        reader.join(20)
        assert len(calls.seen) == len(told_by) == 1


def test_a_callback_that_fails_is_harmless(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged; the others are called, and the stream is read as ever."""
    with server() as running, Client("k", base_url=running.url) as client:
        stream, calls = client.stream("Hello"), Calls()
        stream.add_done_callback(lambda _: 1 / 0)
        stream.add_done_callback(calls)
        with caplog.at_level(logging.ERROR, "chatanywhere"):
            assert stream.read().text == "onetwothree"
        assert calls.seen == [("complete", "onetwothree", False)]
        assert "ZeroDivisionError" in caplog.text


backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])


async def iterate(stream: AsyncStream) -> None:
    async for _ in stream:
        pass


async def iterate_events(stream: AsyncStream) -> None:
    async for _ in stream.events():
        pass


async def iterate_chunks(stream: AsyncStream) -> None:
    async for _ in stream.chunks():
        pass


async def leave(stream: AsyncStream) -> None:
    async with stream:
        async for _ in stream:
            break


async def cancel(stream: AsyncStream) -> None:
    await stream.__anext__()
    stream.cancel()
    with pytest.raises(StreamCancelledError):
        await stream.__anext__()


ASYNC_WAYS = {
    "iterated": (iterate, "complete"),
    "read": (AsyncStream.read, "complete"),
    "events": (iterate_events, "complete"),
    "chunks": (iterate_chunks, "complete"),
    "left": (leave, "closed"),
    "closed": (AsyncStream.aclose, "closed"),
    "cancelled": (cancel, "cancelled"),
}


@backends
@pytest.mark.parametrize(("use", "status"), ASYNC_WAYS.values(), ids=ASYNC_WAYS)
def test_an_async_stream_tells_its_end_once(use: Callable[[AsyncStream], Any], status: str, backend: str) -> None:
    """The same on event loops."""

    async def main() -> None:
        stream, calls = Client("k", base_url=running.url).as_async().stream("Hello"), Calls()
        stream.add_done_callback(calls)
        await use(stream)
        await stream.aclose()
        assert calls.seen == [(status, stream.text, status == "cancelled")]

    with server() as running:
        anyio.run(main, backend=backend)


@backends
def test_an_async_failure_is_told(backend: str) -> None:
    """The callback has the text and the error of a stream that failed."""

    async def main() -> None:
        client = Client("k", base_url=running.url, retry=1).as_async()
        for use in (iterate, iterate_events, iterate_chunks):
            stream, calls = client.stream("Hello"), Calls()
            stream.add_done_callback(calls)
            with pytest.raises(ChatAnywhereError) as caught:
                await use(stream)
            assert calls.seen == [("failed", caught.value.partial, True)]

    with server(Fault.reset_peer(after=2)) as running:
        anyio.run(main, backend=backend)


@backends
def test_a_task_that_is_cancelled_ends_its_stream(backend: str) -> None:
    """The end is told when the task is cancelled, whoever still has the stream."""

    async def main() -> None:
        client = Client("k", base_url=running.url, retry=Retry(attempts=1)).as_async()
        streams: list[AsyncStream] = []
        calls = Calls()

        async def read(task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
            streams.append(client.stream("Hello"))
            streams[0].add_done_callback(calls)
            async for _ in streams[0]:
                task_status.started()

        async with anyio.create_task_group() as group:
            await group.start(read)
            group.cancel_scope.cancel()
        assert calls.seen == [("cancelled", "one", False)]

    with server(Fault.timeout(after=1)) as running:
        anyio.run(main, backend=backend)


def test_an_async_stream_that_was_never_opened_tells_its_end() -> None:
    """Letting go of it is its end."""

    async def main() -> None:
        calls = Calls()
        Client("k", base_url="http://127.0.0.1:9").as_async().stream("Hello").add_done_callback(calls)
        gc.collect()
        assert calls.seen == [("cancelled", "", False)]

    asyncio.run(main())
