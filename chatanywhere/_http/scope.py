"""One call's clock, its limits and its cancel flag.

A scope opens no socket. What waits on one asks it how long the next operation may take, and tells it what it is
waiting for, so that `cancel()` can wake it from any thread.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from time import monotonic
from typing import Any, Protocol

from .._errors import APITimeoutError, ChatAnywhereError, Phase, StreamCancelledError
from .._policy import Timeout

LINGER = 0.25
"""Seconds that an answer which is over may take to end its framing."""

LULL = 2.0
"""Seconds without news that are the end of an answer whose choices have ended, and that may have more to say."""

GRACE = 0.25
"""Seconds for taking what had arrived when a process that stood still finds a limit long gone."""

_MOMENT = 0.1
"""Seconds for which a `BriefLock` is waited for."""

_LATE = 0.05  # seconds behind a limit, from which on the process must have stood still
_EARLY = 0.01  # seconds by which a clock other than ours may say that the time is up

_WHERE: dict[Phase, str] = {
    "connect": "while connecting",
    "headers": "before the answer began",
    "read": "within the answer",
}


class BriefLock:
    """A lock that is held for microseconds, and so is not waited for longer than a moment: `with lock: …`.

    The garbage collector ends a call that is forgotten in the middle of anything, in any thread, and so does a signal
    handler. What either has interrupted may be what the holder of the lock waits for, and the holder may have been
    interrupted so that it never lets go. Whoever has waited for that moment goes on without the lock.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # reentrant, for what was interrupted may hold it

    def __enter__(self) -> None:
        self._lock.acquire(timeout=_MOMENT)

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._lock.release()
        except RuntimeError:
            pass  # it was not had


class Interruptible(Protocol):
    """What `cancel()` can end for whoever waits for it."""

    def shut_down(self) -> None:
        """Called from any thread."""


class CallScope:
    """What one call may still do. What is done inside `with scope:` obeys it.

    Attributes:
        timeout: the limits.
        cancelled: `cancel()` was called; nothing unsets it.
        connected: a connection has been established for the attempt that is being made.
        wake: set by whoever waits for something other than a socket; `cancel()` calls it, from any thread.
    """

    def __init__(self, timeout: Timeout) -> None:
        self._process = os.getpid()
        self.timeout = timeout
        self.cancelled = False
        self.connected = False
        self._deadline = None if timeout.total is None else monotonic() + timeout.total
        self._connect_deadline: float | None = None
        self._lull: float | None = None  # when an answer that is whole is over if it says no more
        self._phase: Phase = "connect"
        self._tightest: Phase = "total"  # the limit that the running operation's time was taken from
        self._due: float | None = None  # when that time is up
        self._grace: float | None = None  # when what had arrived before a limit must have been taken
        self._expired: Phase | None = None
        self._waited_for: Interruptible | None = None
        self._token: contextvars.Token[CallScope] | None = None
        self.wake: Callable[[], None] | None = None
        self._lock = BriefLock()

    def __enter__(self) -> CallScope:
        """The connections that are opened from now on obey this scope."""
        self._token = current.set(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._token is not None:
            current.reset(self._token)
            self._token = None

    def cancel(self) -> None:
        """Make the operation that is running, in whatever thread, and every later one fail at once."""
        self.cancelled = True
        wake = self.wake
        if wake is not None:
            wake()
        with self._lock:
            if self._waited_for is not None and self._process == os.getpid():  # a forked child shares the connection
                self._waited_for.shut_down()

    # Limits -------------------------------------------------------------------------------------------------

    def share_deadline(self, whole: CallScope) -> None:
        """Be a part of something that has a limit of its own, instead of that of `total` from now on."""
        self._deadline = whole._deadline

    def failure(self) -> ChatAnywhereError | None:
        """Return the error if the call was cancelled or a limit ran out, whatever else seems to have happened."""
        if self.cancelled:
            return StreamCancelledError("the call was cancelled")
        if self._expired is None:
            return None
        where = _WHERE[self._phase]
        if self._expired == "total":
            return APITimeoutError(f"timeout: the call's {self.timeout.total} s ran out {where}", "total")
        limit = self.timeout.connect if self._phase == "connect" else self.timeout.read
        return APITimeoutError(f"timeout: nothing came for {limit} s {where}", self._phase)

    def raise_if_cancelled(self) -> None:
        """Do nothing while the call may go on.

        Raises:
            StreamCancelledError: the call was cancelled.
        """
        if self.cancelled:
            raise StreamCancelledError("the call was cancelled")

    def left(self) -> float | None:
        """Seconds left for the whole call, None for no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def budget(self) -> float | None:
        """Seconds that the next operation may take, None for no limit.

        0 where the limit is long gone, for the process stood still: what has arrived of an answer may be taken, for a
        moment, but not waited for.

        Raises:
            OSError: there are none left, or the call was cancelled.
        """
        if self.cancelled:
            raise ConnectionAbortedError("the call was cancelled")
        now = monotonic()
        if self._phase != "connect":
            limit = self.timeout.read
            if self._lull is not None and (limit is None or self._lull - now < limit):
                limit = self._lull - now
        elif self._connect_deadline is not None:
            limit = self._connect_deadline - now
        else:
            limit = None
        self._tightest = self._phase
        if self._deadline is not None and (limit is None or self._deadline - now < limit):
            limit = self._deadline - now
            self._tightest = "total"
        if limit is None:
            self._due = None
            return None
        self._due = now + limit
        if limit > 0:
            return limit
        if self._grace is None and limit < -_LATE and self._phase != "connect":
            self._grace = now + GRACE
        if self._grace is not None and now < self._grace:
            return 0.0
        self.expire()
        raise TimeoutError("timed out")

    def expire_if_due(self) -> bool:
        """An operation ended as too late; return whether the time that `budget` gave has run out, and note it.

        If it was not, a signal handler has raised a TimeoutError of its own, or the kernel gave the connection up.
        """
        due = self._due is not None and monotonic() >= self._due - _EARLY
        if due:
            self._expired = self._tightest
            self._lull = None  # if it was that, what is left to do has the other limits
        return due

    def forgive(self) -> None:
        """What was awaited has come in time: the process stood still, and was too late to see it."""
        self._expired = None

    def check(self) -> float | None:
        """The same as `budget`, for those who wait without a socket.

        Raises:
            ChatAnywhereError: there are none left, or the call was cancelled.
        """
        try:
            return self.budget()
        except OSError:
            error = self.failure()
            assert error is not None
            raise error from None

    def expire(self) -> ChatAnywhereError:
        """The time that `budget` gave was not enough; return the error that says so."""
        self._expired = self._tightest
        self._lull = None
        error = self.failure()
        assert error is not None
        return error

    # What is being done -------------------------------------------------------------------------------------

    def start_attempt(self) -> None:
        """An attempt is to be made; until it connects, the limit of the whole call is the only one."""
        self.connected = False
        self._phase = "connect"
        self._connect_deadline = None
        self._lull = None
        self._expired = None

    def connecting(self) -> None:
        """A connection is being made: the `connect` limit starts."""
        self.start_attempt()
        limit = self.timeout.connect
        self._connect_deadline = None if limit is None else monotonic() + limit

    def sending(self) -> None:
        """A connection stands: what is awaited now is that the request is sent, and the head of the answer."""
        self.connected = True
        self._phase = "headers"
        self._expired = None  # what another host was given up for

    def reading(self) -> None:
        """The head of the answer has come; what is awaited now is its body."""
        self._phase = "read"

    def linger(self) -> None:
        """The answer is whole: wait only a moment longer, for the end of its framing lets the connection be kept."""
        soon = monotonic() + LINGER
        self._deadline = soon if self._deadline is None else min(soon, self._deadline)

    def may_end(self, whole: bool, news: bool) -> None:
        """Say whether the answer is whole, though it may go on, and whether it has said more since the last time.

        Bytes that say nothing, which keep a connection alive, do not put off its end.
        """
        if not whole:
            self._lull = None
        elif news or self._lull is None:
            self._lull = monotonic() + LULL

    # Waiting ------------------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Wait; a `cancel()` ends it.

        Raises:
            StreamCancelledError: the call was cancelled.
        """
        self.wait(queue.SimpleQueue(), seconds)
        self.raise_if_cancelled()

    def wait(self, mailbox: queue.SimpleQueue[Any], seconds: float | None) -> Any:
        """Return what is put into `mailbox`, or None when the time is up or the call cancelled.

        A SimpleQueue rather than an Event, because it may be used from a signal handler.
        """
        self.wake = lambda: mailbox.put(None)
        try:
            return None if self.cancelled else mailbox.get(timeout=seconds)
        except queue.Empty:
            return None
        finally:
            self.wake = None

    def attach(self, waited_for: Interruptible) -> None:
        """Let `cancel()` shut it down."""
        with self._lock:
            self._waited_for = waited_for

    def closing(self) -> AbstractContextManager[Any]:
        """To be held while one of several sockets that are waited for is closed: see `detach`."""
        return self._lock

    def detach(self) -> None:
        """Let go of it, before its descriptor is closed or another call's: a `cancel()` must not hit that."""
        with self._lock:
            self._waited_for = None


current: contextvars.ContextVar[CallScope] = contextvars.ContextVar("chatanywhere_scope")
"""The scope that is entered in this context: the one way by which connections, which urllib3 makes, learn of it."""
