"""One call's clock, its stop flag, and the sockets, connections and responses that obey them.

All knowledge of the insides of http.client and urllib3 is in this file. What it rests on:

* Every operation on a socket is given the time that is left, so no drip, silence or hang outlives a limit.
* Nothing wakes a blocked read from another thread but a shutdown of the operating system's socket; closing
  the response or the socket object does not. `SSLSocket.shutdown` would drop the TLS layer and let ciphertext
  pass for text, so the method of the plain socket class is called.
* After a shutdown a read may end in an error, or look like the regular end of the answer. So the flag decides
  what happened, never the exception.
"""

from __future__ import annotations

import contextvars
import errno
import http.client
import io
import os
import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from time import monotonic
from typing import Any, TypeVar

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .._errors import APITimeoutError, ChatAnywhereError, Phase, StreamCancelledError
from .._policy import Timeout

RECEIVE_SIZE = 65536
"""Bytes asked of a socket at a time."""

LINGER = 0.25
"""Seconds that an answer which is over may take to end its framing."""

MAX_INTERIM = 100
"""Heads of interim answers (status 1xx) that may come before the answer's own."""

T = TypeVar("T")
S = TypeVar("S", bound="GuardedSocket")

current: contextvars.ContextVar[Exchange] = contextvars.ContextVar("chatanywhere_exchange")
"""The exchange that the connections opened or used in this context obey."""

_WHERE: dict[Phase, str] = {
    "connect": "while connecting",
    "headers": "before the answer began",
    "read": "within the answer",
}


class Exchange:
    """What one call may still do: its limits, whether it was cancelled, and the socket it is using.

    Attributes:
        cancelled: `cancel()` was called; nothing unsets it.
        response: the answer whose head has been read, when it came through the classes of this file.
        wake: set by whoever waits for something other than a socket; `cancel()` calls it, from any thread.
    """

    def __init__(self, timeout: Timeout) -> None:
        self._process = os.getpid()
        self.cancelled = False
        self.response: Response | None = None
        self._timeout = timeout
        self._deadline = None if timeout.total is None else monotonic() + timeout.total
        self._connect_deadline: float | None = None
        self._phase: Phase = "connect"
        self._tightest: Phase = "total"  # the limit that the running operation's time was taken from
        self._expired: Phase | None = None
        self._socket: GuardedSocket | None = None
        self.wake: Callable[[], None] | None = None
        # Reentrant, because a signal handler may cancel the call of the thread that it interrupts.
        self._lock = threading.RLock()

    def run(self, function: Callable[[], T]) -> T:
        """Call `function`; the connections that it opens or takes from a pool obey this exchange."""
        self._phase = "headers"
        self._expired = None
        self.response = None
        token = current.set(self)
        try:
            return function()
        finally:
            current.reset(token)

    def cancel(self) -> None:
        """Make the operation that is running, in whatever thread, and every later one fail at once."""
        self.cancelled = True
        wake = self.wake
        if wake is not None:
            wake()
        with self._lock:
            if self._socket is not None and self._process == os.getpid():  # a forked child shares the connection
                _shutdown(self._socket)

    def failure(self) -> ChatAnywhereError | None:
        """Return the error if the call was cancelled or a limit ran out, whatever else seems to have happened."""
        if self.cancelled:
            return StreamCancelledError("the call was cancelled")
        if self._expired is None:
            return None
        where = _WHERE[self._phase]
        if self._expired == "total":
            return APITimeoutError(f"timeout: the call's {self._timeout.total} s ran out {where}", "total")
        limit = self._timeout.connect if self._phase == "connect" else self._timeout.read
        return APITimeoutError(f"timeout: nothing came for {limit} s {where}", self._phase)

    def left(self) -> float | None:
        """Seconds left for the whole call, None for no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def budget(self) -> float | None:
        """Seconds that the next operation may take, None for no limit.

        Raises:
            OSError: there are none left, or the call was cancelled.
        """
        if self.cancelled:
            raise ConnectionAbortedError("the call was cancelled")
        now = monotonic()
        if self._phase != "connect":
            limit = self._timeout.read
        elif self._connect_deadline is not None:
            limit = self._connect_deadline - now
        else:
            limit = None
        self._tightest = self._phase
        if self._deadline is not None and (limit is None or self._deadline - now < limit):
            limit = self._deadline - now
            self._tightest = "total"
        if limit is not None and limit <= 0:
            self.expire()
            raise socket.timeout("timed out")
        return limit

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
        error = self.failure()
        assert error is not None
        return error

    def guard(self, sock: GuardedSocket, operation: Callable[..., T], *args: Any) -> T:
        """Do an operation of a socket within the time that is left."""
        limit = self.budget()
        if limit != sock.gettimeout():  # setting it is a system call
            sock.settimeout(limit)
        try:
            result = operation(*args)
        except socket.timeout:
            self.expire()
            raise
        if self.cancelled:  # an end of stream that cancel() made is not one
            raise ConnectionAbortedError("the call was cancelled")
        return result

    def sleep(self, seconds: float) -> None:
        """Wait; a `cancel()` ends it.

        Raises:
            StreamCancelledError: the call was cancelled.
        """
        self._wait(queue.SimpleQueue(), seconds)
        if self.cancelled:
            raise StreamCancelledError("the call was cancelled")

    def resolve(self, host: str, port: int) -> list[Any]:
        """Look a name up, waiting no longer than the call may take.

        `getaddrinfo` can't be interrupted, so it runs in a thread of its own, which is left behind when it
        takes too long.
        """
        try:
            return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        except (OSError, UnicodeError):
            pass  # a name, not an address
        mailbox: queue.SimpleQueue[Any] = queue.SimpleQueue()

        def look_up() -> None:
            try:
                mailbox.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            except (OSError, UnicodeError) as exc:
                mailbox.put(exc)

        threading.Thread(target=look_up, name=f"chatanywhere-resolve-{host}", daemon=True).start()
        found = self._wait(mailbox, self.budget())
        self.budget()
        if found is None:
            self.expire()
            raise socket.timeout("timed out")
        if isinstance(found, UnicodeError):
            raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {host!r}") from found
        if isinstance(found, OSError):
            raise found
        return list(found)

    def _wait(self, mailbox: queue.SimpleQueue[Any], seconds: float | None) -> Any:
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

    def connecting(self) -> None:
        """A connection is being made: the `connect` limit starts."""
        self._phase = "connect"
        limit = self._timeout.connect
        self._connect_deadline = None if limit is None else monotonic() + limit

    def connected(self) -> None:
        """The connection stands; what is awaited now is the head of the answer."""
        self._phase = "headers"

    def reading(self) -> None:
        """The head of the answer has come; what is awaited now is its body."""
        self._phase = "read"

    def linger(self) -> None:
        """The answer is whole: wait only a moment longer, for the end of its framing lets the connection be kept."""
        soon = monotonic() + LINGER
        self._deadline = soon if self._deadline is None else min(soon, self._deadline)

    def attach(self, sock: GuardedSocket) -> None:
        """Let `sock` obey this exchange, and `cancel()` shut it down."""
        with self._lock:
            sock.exchange = self
            self._socket = sock

    def closing(self) -> AbstractContextManager[Any]:
        """To be held while an attached socket is closed."""
        return self._lock

    def detach(self) -> None:
        """Let go of the socket: a later `cancel()` must not hit the next call on its connection."""
        with self._lock:
            sock = self._socket
            if sock is not None:
                sock.exchange = None
                self._socket = None


def _shutdown(sock: socket.socket) -> None:
    try:
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass  # not connected any more, or not yet: the flag is looked at before the next operation


def _os_socket(sock: Any) -> Any:
    """The socket beneath urllib3's `SSLTransport`, which it uses for TLS within TLS."""
    while not isinstance(sock, socket.socket):
        sock = sock.socket
    return sock


class GuardedSocket(socket.socket):
    """A socket whose every blocking operation obeys the exchange that it is attached to."""

    exchange: Exchange | None = None

    def recv(self, *args: Any) -> bytes:
        exchange = self.exchange
        return super().recv(*args) if exchange is None else exchange.guard(self, super().recv, *args)

    def recv_nowait(self, size: int) -> bytes | None:
        """Return what has arrived, or None if nothing has.

        Raises:
            OSError: the connection failed, or the call was cancelled.
        """
        if self.gettimeout() != 0:
            self.settimeout(0)
        try:
            data = super().recv(size)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            data = None
        if self.exchange is not None and self.exchange.cancelled:
            raise ConnectionAbortedError("the call was cancelled")
        return data

    def recv_into(self, *args: Any) -> int:
        exchange = self.exchange
        return super().recv_into(*args) if exchange is None else exchange.guard(self, super().recv_into, *args)

    def send(self, *args: Any) -> int:
        exchange = self.exchange
        return super().send(*args) if exchange is None else exchange.guard(self, super().send, *args)

    def _real_close(self, *args: Any) -> None:
        # Not while `cancel()`, in another thread, shuts this socket down: its descriptor may be another's by then.
        with self.exchange.closing() if self.exchange else nullcontext():
            super()._real_close(*args)  # type: ignore[misc]

    def sendall(self, data: Any, flags: int = 0) -> None:
        # One send at a time: the limit of `read` is for silence, not for a long upload.
        with memoryview(data) as view, view.cast("B") as rest:
            sent = 0
            while sent < len(rest):
                sent += self.send(rest[sent:], flags)


class GuardedSSLSocket(GuardedSocket, ssl.SSLSocket):
    """The same over TLS; set as an `SSLContext.sslsocket_class`."""

    def recv(self, *args: Any) -> bytes:
        try:
            return super().recv(*args)
        except OSError as exc:
            # On a connection that was reset before the handshake, `ssl` gives its new socket up without closing it.
            if self.exchange is None and exc.errno != errno.ENOTCONN:
                self.close()
            raise

    def do_handshake(self, block: bool = False) -> None:
        # Wrapping took the descriptor from the socket that was attached until now.
        exchange = current.get(None)
        if exchange is None:
            super().do_handshake(block)
        else:
            exchange.attach(self)
            # A connection that ends without TLS's own farewell was cut (RFC 8446, section 6.1).
            self.suppress_ragged_eofs = False
            exchange.guard(self, super().do_handshake, block)


class _Head(io.BufferedIOBase):
    """The file that http.client reads an answer's head from.

    What was received beyond the head stays in `rest`. A connection lost within the head is an error here;
    http.client takes it for the head's end.
    """

    def __init__(self, sock: Any, file: Any) -> None:
        self.rest = b""
        self._socket = sock
        self._file = file  # unread, but while it is open closing the socket object does not close the socket

    def readline(self, limit: int | None = -1) -> bytes:
        limit = sys.maxsize if limit is None or limit < 0 else limit
        while b"\n" not in self.rest and len(self.rest) < limit:
            data = self._socket.recv(RECEIVE_SIZE)
            if not data:
                raise http.client.RemoteDisconnected("the connection was lost before the answer began")
            self.rest += data
        size = min(self.rest.find(b"\n") + 1 or limit, limit)
        line, self.rest = self.rest[:size], self.rest[size:]
        return line

    def close(self) -> None:
        self._file.close()
        super().close()


class Response(http.client.HTTPResponse):
    """Reads the head strictly and leaves the body, as it comes from the socket, to the caller."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._socket = sock
        self._head = _Head(sock, self.fp.detach())  # from its buffer, which nobody needs, of 8 KiB
        self.fp = self._head  # type: ignore[assignment]

    def begin(self) -> None:
        super().begin()
        for _ in range(MAX_INTERIM):  # http.client knows of 100 only; there are also 102 and 103 (RFC 8297)
            if not 101 < self.status < 200:
                break
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        exchange = current.get(None)
        if exchange is not None:
            exchange.response = self

    def receive(self) -> bytes:
        """Return the next bytes of the body as they are on the wire, `b""` at the end of the connection."""
        data, self._head.rest = self._head.rest, b""
        return data or self._socket.recv(RECEIVE_SIZE)

    @property
    def waitable(self) -> GuardedSocket | None:
        """The socket, if an event loop can wait for it; it can't where urllib3 does TLS within TLS."""
        return self._socket if isinstance(self._socket, GuardedSocket) else None

    def receive_nowait(self) -> bytes | None:
        """Like `receive`, but None where that would wait. Only where the socket is `waitable`."""
        data, self._head.rest = self._head.rest, b""
        return data or self._socket.recv_nowait(RECEIVE_SIZE)


class GuardedConnection(HTTPConnection):
    """An http:// connection that obeys the exchange that is current."""

    response_class = Response

    def connect(self) -> None:
        exchange = current.get()
        exchange.connecting()
        super().connect()
        exchange.connected()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # from the pool
            current.get().attach(_os_socket(self.sock))
        super().request(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        # The one private method that is overridden; urllib3's own SOCKS support does it the same way.
        return self.open_socket(self._dns_host, self.port, GuardedSocket, lambda sock, address: sock.connect(address))

    def open_socket(
        self, host: str, port: int, make: Callable[..., S], connect: Callable[[S, tuple[Any, ...]], None]
    ) -> S:
        """Connect to the first address of `host` that answers, with sockets from `make`."""
        exchange = current.get()
        try:
            addresses = exchange.resolve(host, port)
        except socket.gaierror as exc:
            raise NameResolutionError(host, self, exc) from exc
        except socket.timeout as exc:
            raise ConnectTimeoutError(self, str(exc)) from exc
        failure: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = make(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option[:3])  # urllib3-future appends the protocol
                exchange.attach(sock)
                budget = exchange.budget()
                # An address that swallows packets must leave time for the others.
                sock.settimeout(budget and budget / (len(addresses) - number))
                connect(sock, address)
                exchange.budget()
                return sock
            except OSError as exc:
                sock.close()
                failure = exc
            except BaseException:
                sock.close()
                raise
        try:
            exchange.budget()
        except OSError as exc:
            failure = exc
        if isinstance(failure, socket.timeout):
            raise ConnectTimeoutError(self, str(failure)) from failure
        raise NewConnectionError(self, str(failure)) from failure


class GuardedSecureConnection(GuardedConnection, HTTPSConnection):
    """The same for https://."""


class LockFreeStack(queue.LifoQueue[Any]):
    """Takes the place of the queue in which a urllib3 pool keeps its idle connections.

    That one has a lock in Python code, and a signal handler, or Ctrl-C, that comes while it is held would leave
    it locked for good. Appending to a list and popping from it can't be interrupted.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: list[Any] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        if len(self._items) >= self._maxsize:
            raise queue.Full
        self._items.append(item)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        try:
            return self._items.pop()
        except IndexError:
            raise queue.Empty from None

    def qsize(self) -> int:
        return len(self._items)


class GuardedPool(HTTPConnectionPool):
    QueueCls = LockFreeStack  # type: ignore[assignment]
    ConnectionCls = GuardedConnection


class GuardedSecurePool(HTTPSConnectionPool):
    QueueCls = LockFreeStack  # type: ignore[assignment]
    ConnectionCls = GuardedSecureConnection


POOLS = {"http": GuardedPool, "https": GuardedSecurePool}
"""For `PoolManager.pool_classes_by_scheme`."""
