"""Receives an answer on an event loop, without a thread.

anyio's way works everywhere, but registers the socket with the loop for each wait and opens a cancel scope for its
time limit, which on asyncio is most of what a piece costs. There, the socket stays registered while its answer is
read, is read in the loop's own callback, and has one timer.

Neither holds the stream that it works for, so that a stream that nobody holds any more is closed.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio

from .exchange import Exchange


class AnyioReceiver:
    """Receives on every event loop that anyio knows."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self._socket = exchange.waitable
        self._arrived: bytes | None = None

    def serves(self, exchange: Exchange) -> bool:
        """Whether it can receive this answer for the code that asks."""
        return exchange is self.exchange

    async def wait(self, limit: float | None) -> None:
        """Wait for bytes, for `limit` seconds; `taken` says what has come of it."""
        self._arrived = None
        with anyio.move_on_after(limit):
            while self._arrived is None:  # over TLS, what has arrived may be less than a record
                await anyio.wait_readable(self._socket)
                self._arrived = self.exchange.receive_nowait()

    def taken(self) -> bytes | None:
        """Return the bytes that have come, `b""` at the end of the connection; None if there are none yet."""
        return self._arrived

    def close(self) -> None:
        """Close the answer; from any thread."""
        self.exchange.close()


class AsyncioReceiver:
    """Receives on an asyncio loop.

    Raises:
        NotImplementedError: this kind of loop can't wait for sockets.
    """

    def __init__(self, exchange: Exchange, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.exchange = exchange
        self._receive = exchange.receive_nowait
        self._descriptor = exchange.waitable.fileno()
        self._registered = False
        self._waiter: asyncio.Future[None] | None = None
        self._arrived: bytes | Exception | None = None
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._register()

    def serves(self, exchange: Exchange) -> bool:
        """Whether it can receive this answer for the code that asks; not when that runs on a later loop.

        Raises:
            RuntimeError: the code that asks runs on another loop, while this one is still open.
        """
        if exchange is not self.exchange:
            return False
        if self._is_here():
            return True
        if not self._loop.is_closed():
            raise RuntimeError("the stream is read on another event loop, which is still open")
        return False

    def _is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False

    def wait(self, limit: float | None) -> Awaitable[None]:
        """Wait for bytes, for `limit` seconds; `taken` says what has come of it."""
        self._arrived = None
        if limit is not None:
            self._due = self._loop.time() + limit
            if self._timer is None or self._timer.when() > self._due:
                self._set_timer()
        if not self._registered:
            self._register()
        self._waiter = self._loop.create_future()
        return self._waiter

    def taken(self) -> bytes | None:
        """Return the bytes that have come, `b""` at the end of the connection; None if there are none yet.

        Raises:
            ChatAnywhereError: the connection failed, or the call was cancelled.
        """
        arrived, self._arrived = self._arrived, None
        if isinstance(arrived, Exception):
            raise arrived
        return arrived

    def close(self) -> None:
        """Let go of the socket and close the answer; from any thread."""
        if self._loop.is_running() and not self._is_here():
            with suppress(RuntimeError):  # closed in between
                self._loop.call_soon_threadsafe(self.close)
                return
        if not self._loop.is_closed():
            self._unregister()
            if self._timer is not None:
                self._timer.cancel()
        self.exchange.close()

    def _register(self) -> None:
        self._loop.add_reader(self._descriptor, self._on_readable)
        self._registered = True

    def _unregister(self) -> None:
        if self._registered:
            self._loop.remove_reader(self._descriptor)
            self._registered = False

    def _on_readable(self) -> None:
        if self._waiter is None or self._waiter.done():
            self._unregister()  # what nobody asks for stays with the server
            return
        try:
            self._arrived = self._receive()
        except Exception as error:  # a signal handler may raise what it likes, and the loop would only log it
            self._arrived = error
        if self._arrived is not None:
            self._wake(self._waiter)

    def _wake(self, waiter: asyncio.Future[None]) -> None:
        try:
            waiter.set_result(None)
        except asyncio.InvalidStateError:
            pass  # a signal handler has just cancelled the task, as asyncio's own does on Ctrl-C

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._due, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if self._waiter is not None and not self._waiter.done():
            if self._loop.time() >= self._due:
                self._wake(self._waiter)
            else:  # bytes have come since it was set
                self._set_timer()


Receiver = AnyioReceiver | AsyncioReceiver


def receiver(exchange: Exchange) -> Receiver:
    """Return the best one for the event loop that is running. The answer is `waitable`."""
    loop = _asyncio_loop()
    if loop is not None:
        with suppress(NotImplementedError):
            return AsyncioReceiver(exchange, loop)
    return AnyioReceiver(exchange)


def thread_safe(function: Callable[[], object]) -> Callable[[], None]:
    """Make of a function for the event loop that is running one that any thread, or a signal handler, may call."""
    loop = _asyncio_loop()
    if loop is None:
        import trio

        return functools.partial(trio.lowlevel.current_trio_token().run_sync_soon, function)

    def call() -> None:
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(function)

    return call


def _asyncio_loop() -> asyncio.AbstractEventLoop | None:
    """The loop whose task is running; None where that is trio's, which may be the guest of an asyncio loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return None if asyncio.current_task() is None else loop
