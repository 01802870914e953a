"""Sockets, connections and pools that obey the scope of the call that uses them.

All knowledge of the insides of http.client and urllib3 is in this file. What it rests on:

* Every operation on a socket is given the time that is left, so no drip, silence or hang outlives a limit.
* Nothing wakes a blocked read from another thread but a shutdown of the operating system's socket; closing
  the response or the socket object does not. `SSLSocket.shutdown` would drop the TLS layer and let ciphertext
  pass for text, so the method of the plain socket class is called.
* After a shutdown a read may end in an error, or look like the regular end of the answer. So the flag decides
  what happened, never the exception.
"""

from __future__ import annotations

import errno
import http.client
import io
import queue
import socket
import ssl
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from .scope import CallScope, current

RECEIVE_SIZE = 65536
"""Bytes asked of a socket at a time."""

MAX_INTERIM = 100
"""Heads of interim answers (status 1xx) that may come before the answer's own."""

T = TypeVar("T")
S = TypeVar("S", bound="GuardedSocket")


def resolve(scope: CallScope, host: str, port: int) -> list[Any]:
    """Look a name up, waiting no longer than the call may take.

    `getaddrinfo` can't be interrupted, so it runs in a thread of its own, which is left behind when it takes too
    long.

    Raises:
        OSError: there is no such name, the time is up, or the call was cancelled.
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
    found = scope.wait(mailbox, scope.budget())
    scope.budget()
    if found is None:
        scope.expire()
        raise TimeoutError("timed out")
    if isinstance(found, UnicodeError):
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {host!r}") from found
    if isinstance(found, OSError):
        raise found
    return list(found)


def _os_socket(sock: Any) -> Any:
    """The socket beneath urllib3's `SSLTransport`, which it uses for TLS within TLS."""
    while not isinstance(sock, socket.socket):
        sock = sock.socket
    return sock


class GuardedSocket(socket.socket):
    """A socket whose every blocking operation obeys the scope that it is attached to."""

    scope: CallScope | None = None

    def shut_down(self) -> None:
        """Wake whoever waits for this socket, in whatever thread."""
        try:
            socket.socket.shutdown(self, socket.SHUT_RDWR)
        except OSError:
            pass  # not connected any more, or not yet: the flag is looked at before the next operation

    def _guarded(self, operation: Callable[..., T], *args: Any) -> T:
        """Do one of the socket's operations within the time that is left."""
        scope = self.scope
        if scope is None:
            return operation(*args)
        limit = scope.budget()
        if limit != self.gettimeout():  # setting it is a system call
            self.settimeout(limit)
        try:
            result = operation(*args)
        except TimeoutError:
            scope.expire()
            raise
        if scope.cancelled:  # an end of stream that cancel() made is not one
            raise ConnectionAbortedError("the call was cancelled")
        return result

    def recv(self, *args: Any) -> bytes:
        return self._guarded(super().recv, *args)

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
        if self.scope is not None and self.scope.cancelled:
            raise ConnectionAbortedError("the call was cancelled")
        return data

    def recv_into(self, *args: Any) -> int:
        return self._guarded(super().recv_into, *args)

    def send(self, *args: Any) -> int:
        return self._guarded(super().send, *args)

    def _real_close(self, *args: Any) -> None:
        # Not while `cancel()`, in another thread, shuts this socket down: its descriptor may be another's by then.
        with self.scope.closing() if self.scope else nullcontext():
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
            if self.scope is None and exc.errno != errno.ENOTCONN:
                self.close()
            raise

    def do_handshake(self, block: bool = False) -> None:
        # Wrapping took the descriptor from the socket that was attached until now.
        scope = current.get(None)
        if scope is not None:
            scope.attach(self)
            # A connection that ends without TLS's own farewell was cut (RFC 8446, section 6.1).
            self.suppress_ragged_eofs = False
        self._guarded(super().do_handshake, block)


class _HeadFile(io.BufferedIOBase):
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


class RawResponse(http.client.HTTPResponse):
    """Reads the head strictly and leaves the body, as it comes from the socket, to the caller."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self._socket = sock
        self._head = _HeadFile(sock, self.fp.detach())  # from its buffer, which nobody needs, of 8 KiB
        self.fp = self._head  # type: ignore[assignment]

    def begin(self) -> None:
        super().begin()
        for _ in range(MAX_INTERIM):  # http.client knows of 100 only; there are also 102 and 103 (RFC 8297)
            if not 101 < self.status < 200:
                break
            self.headers = self.msg = None  # type: ignore[assignment]
            super().begin()
        scope = current.get(None)
        if scope is not None:
            scope.response = self

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
    """An http:// connection that obeys the scope of its call."""

    response_class = RawResponse

    def connect(self) -> None:
        scope = current.get()
        scope.connecting()
        super().connect()
        scope.connected()

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
        scope = current.get()
        try:
            addresses = resolve(scope, host, port)
        except socket.gaierror as exc:
            raise NameResolutionError(host, self, exc) from exc
        except TimeoutError as exc:
            raise ConnectTimeoutError(self, str(exc)) from exc
        failure: OSError | None = None
        for number, (family, kind, protocol, _, address) in enumerate(addresses):
            sock = make(family, kind, protocol)
            try:
                for option in self.socket_options or ():
                    sock.setsockopt(*option[:3])  # urllib3-future appends the protocol
                scope.attach(sock)
                budget = scope.budget()
                # An address that swallows packets must leave time for the others.
                sock.settimeout(budget and budget / (len(addresses) - number))
                connect(sock, address)
                scope.budget()
                return sock
            except OSError as exc:
                sock.close()
                failure = exc
            except BaseException:
                sock.close()
                raise
        try:
            scope.budget()
        except OSError as exc:
            failure = exc
        if isinstance(failure, TimeoutError):
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
