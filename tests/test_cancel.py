"""Stopping a blocking call: from another thread, a signal handler, Ctrl-C, or by letting go of it."""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from raw_server import BEGUN, RawServer, until_read

from chatanywhere import Client, Retry, Stream, StreamCancelledError

EVENTS = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILS = (
    EVENTS.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + b"0\r\n\r\n"
)  # ends with neither a finish reason nor [DONE], before the first text

HEADS = {"before the head": b"", "within the status line": BEGUN[:10], "within the headers": BEGUN[:30]}
every_head = pytest.mark.parametrize("begun", HEADS.values(), ids=HEADS)
"""What may have come of an answer whose head is not whole."""

needs_signals = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")


class Latch:
    """Notes when a connection was closed by its client."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __call__(self, connection: socket.socket) -> None:
        connection.settimeout(20)
        try:
            if not connection.recv(1):
                self.closed.set()
        except ConnectionResetError:
            self.closed.set()


def web(server: RawServer) -> Client:
    return Client(base_url=server.url, protocol="web", timeout=20)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def soon(action: Callable[[], object]) -> None:
    timer = threading.Timer(0.1, action)
    timer.daemon = True
    timer.start()


def test_cancel_from_another_thread_wakes_a_blocked_reader(raw_server: RawServer) -> None:
    """A reader of a silent answer gets StreamCancelledError with the text so far, and the connection is closed."""
    latch = Latch()
    raw_server.answer(BEGUN, latch)
    stream = web(raw_server).stream("Hello")
    assert next(stream) == "one"
    soon(stream.cancel)
    with within(2), pytest.raises(StreamCancelledError) as caught:
        next(stream)
    assert caught.value.partial == stream.text == "one"
    assert latch.closed.wait(2)
    assert list(stream) == []


def test_cancel_between_two_pieces_ends_the_stream(raw_server: RawServer) -> None:
    """Nothing more is handed out after cancel(), though it may have arrived; it is in `partial`."""
    raw_server.answer(EVENTS + b"".join(_event(text) for text in (b"one", b"two")), raw_server.hold)
    stream = Client("k", base_url=raw_server.url).stream("Hello")
    next(stream)
    stream.cancel()
    with pytest.raises(StreamCancelledError) as caught:
        next(stream)
    assert caught.value.partial.startswith("one")
    stream.cancel()


def _event(text: bytes) -> bytes:
    data = b'data: {"choices": [{"delta": {"content": "%b"}}]}\n\n' % text
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_cancel_reaches_a_wait_between_attempts(raw_server: RawServer) -> None:
    """A call that waits before its next attempt stops waiting."""
    raw_server.answer(FAILS)
    with_pause = Retry(attempts=2, backoff=1000, max_backoff=1000)
    stream = Client("k", base_url=raw_server.url, retry=with_pause, timeout=None).stream("Hello")
    soon(stream.cancel)
    with within(2), pytest.raises(StreamCancelledError):
        next(stream)


def stuck_in_a_second_attempt(
    server: RawServer, begun: bytes, then: Callable[[Stream], object]
) -> tuple[Stream, Latch]:
    """A stream of which the next piece hangs, with so much of its answer read; something is then done to it."""
    latch = Latch()
    answers = iter([[FAILS], [begun, until_read, lambda _: then(stream), latch]])
    server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]
    stream = Client("k", base_url=server.url, retry=Retry(attempts=2, backoff=0)).stream("Hello")
    return stream, latch


@every_head
@pytest.mark.parametrize("stop", [Stream.cancel, Stream.close])
def test_an_attempt_that_waits_for_its_head_stops(
    raw_server: RawServer, stop: Callable[[Stream], None], begun: bytes
) -> None:
    """cancel() and close() from another thread reach an attempt that hangs before its head or in it."""
    stream, latch = stuck_in_a_second_attempt(raw_server, begun, stop)
    with within(2), pytest.raises(StreamCancelledError) as caught:
        next(stream)
    assert caught.value.partial == stream.text == ""
    assert latch.closed.wait(2)


@needs_signals
@every_head
def test_a_signal_handler_may_cancel_a_wait_for_a_head(raw_server: RawServer, begun: bytes) -> None:
    """cancel() called in a handler ends the wait that the signal interrupted."""
    main = threading.main_thread().ident
    assert main is not None
    stream, latch = stuck_in_a_second_attempt(raw_server, begun, lambda _: signal.pthread_kill(main, signal.SIGALRM))
    with on_alarm(lambda *_: stream.cancel(), after=0), within(2), pytest.raises(StreamCancelledError):
        next(stream)
    assert latch.closed.wait(2)


def test_cancel_reaches_a_name_that_is_being_looked_up(raw_server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second attempt that hangs in the resolver stops."""
    hang = threading.Event()
    look_up = socket.getaddrinfo
    calls: list[str] = []

    def hanging(host: str, *args: object, **kwargs: object) -> object:
        if host == "localhost" and not kwargs.get("flags"):
            calls.append(host)
            if len(calls) > 1:
                hang.wait(20)
        return look_up(host, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    raw_server.answer(FAILS)
    url = raw_server.url.replace("127.0.0.1", "localhost")
    stream = Client("k", base_url=url, retry=Retry(attempts=2, backoff=0)).stream("Hello")
    soon(stream.cancel)
    with within(2), pytest.raises(StreamCancelledError):
        next(stream)
    hang.set()


def test_close_from_another_thread_wakes_a_blocked_reader(raw_server: RawServer) -> None:
    """close() does not wait for the reader that it ends."""
    raw_server.answer(BEGUN, raw_server.hold)
    stream = web(raw_server).stream("Hello")
    assert next(stream) == "one"
    soon(stream.close)
    with within(2), pytest.raises(StreamCancelledError):
        next(stream)


def test_cancel_after_the_end_does_nothing(raw_server: RawServer) -> None:
    """A finished answer stays finished, and its connection is used again."""
    raw_server.answer(BEGUN, b"0\r\n\r\n", None)
    client = web(raw_server)
    stream = client.stream("Hello")
    assert list(stream) == ["one"]
    stream.cancel()
    stream.close()
    assert stream.completion.text == "one"
    assert client.complete("Hello").text == "one"
    assert raw_server.connections == 1


def test_a_late_cancel_does_not_hit_the_next_call_on_the_connection(raw_server: RawServer) -> None:
    """cancel() and close() of an answer that has ended leave the call alone that uses its connection now."""
    answers = iter([[BEGUN, b"0\r\n\r\n", None], [BEGUN, lambda _: late.wait(10), b"0\r\n\r\n"]])
    late = threading.Event()
    raw_server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]
    client = web(raw_server)
    first = client.stream("Hello")
    assert list(first) == ["one"]
    second = client.stream("Hello")
    assert next(second) == "one"
    first.cancel()
    first.close()
    late.set()
    assert list(second) == []
    assert second.completion.text == "one"
    assert raw_server.connections == 1


@needs_signals
def test_a_signal_handler_may_cancel_what_it_interrupts(raw_server: RawServer) -> None:
    """cancel() called in a handler ends the read that the signal interrupted."""
    raw_server.answer(BEGUN, raw_server.hold)
    stream = web(raw_server).stream("Hello")
    assert next(stream) == "one"
    with on_alarm(lambda *_: stream.cancel()), within(2), pytest.raises(StreamCancelledError):
        next(stream)


def test_ctrl_c_while_decoding_is_no_end(raw_server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of which something was lost to an interrupt is never taken for a complete one."""
    raw_server.answer(BEGUN, b"0\r\n\r\n")
    stream = web(raw_server).stream("Hello")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("chatanywhere._protocols.web.TextDecoder.feed", interrupt)
        with pytest.raises(KeyboardInterrupt):
            next(stream)
    with pytest.raises(StreamCancelledError):
        next(stream)


@needs_signals
@pytest.mark.parametrize("begun", [*HEADS.values(), BEGUN], ids=[*HEADS, "within the body"])
def test_ctrl_c_leaves_no_half_read_connection(raw_server: RawServer, begun: bytes) -> None:
    """KeyboardInterrupt passes through and the connection is closed; the next call gets one of its own."""
    latch = Latch()
    answers = iter([[begun, latch], [BEGUN, b"0\r\n\r\n"]])
    raw_server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]
    client = web(raw_server)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with on_alarm(interrupt), within(2), pytest.raises(KeyboardInterrupt):
        client.complete("Hello")
    assert latch.closed.wait(2)
    assert client.complete("Hello").text == "one"
    assert raw_server.connections == 2


@contextmanager
def on_alarm(handler: Callable[..., object], after: float = 0.1) -> Iterator[None]:
    """Handle the alarm signal, which comes after so many seconds; 0: somebody else sends it."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, after)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("way", ["break", "close", "an exception", "forgetting it"])
def test_an_answer_left_early_closes_its_connection(raw_server: RawServer, way: str) -> None:
    """However a program turns away from an answer, the socket is closed at once and nothing is printed."""
    latch = Latch()
    raw_server.answer(BEGUN, latch)
    client = web(raw_server)
    gc.disable()  # so that "at once" is not left to the garbage collector's rounds
    try:
        if way == "break":
            with client.stream("Hello") as stream:
                for _ in stream:
                    break
        elif way == "close":
            stream = client.stream("Hello")
            stream.close()
            stream.close()
        elif way == "an exception":
            with pytest.raises(ZeroDivisionError), client.stream("Hello") as stream:
                _ = 1 / 0
        else:
            for _ in client.stream("Hello"):
                break
    finally:
        closed = latch.closed.wait(2)
        gc.enable()
    assert closed


def test_reading_on_after_leaving_early_says_so(raw_server: RawServer) -> None:
    """A stream that was closed early is not taken for one that ended."""
    raw_server.answer(BEGUN, raw_server.hold)
    with web(raw_server).stream("Hello") as stream:
        next(stream)
    with pytest.raises(StreamCancelledError):
        next(stream)
    with pytest.raises(RuntimeError, match="not complete"):
        _ = stream.completion
