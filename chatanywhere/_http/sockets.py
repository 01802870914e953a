"""What is asked of the operating system's socket, whatever object stands above it: TLS, PySocks, gevent, eventlet.

It goes through `_socket`, which nobody replaces.
"""

from __future__ import annotations

import _socket
import errno
import functools
import math
import os
import select
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any

from .scope import CallScope, current

RECEIVE_SIZE = 65536
"""Bytes asked of a socket at a time."""

SEND_SIZE = 65536
"""Bytes given to a socket at a time: a long upload, of which each part gets through in time, is not silence."""

WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


def raised_by_program(exc: OSError) -> bool:
    """Whether neither the kernel nor TLS raised it; a signal handler of the program did, then."""
    return exc.errno is None and not isinstance(exc, ssl.SSLError)


def guarded(scope: CallScope, sock: Any, operation: Callable[..., Any], *args: Any) -> Any:
    """Do one of the socket's operations within the time that is left.

    Raises:
        OSError: it failed, the time is up, or the call was cancelled: the scope's `failure()` knows.
    """
    return _within(scope.budget(), scope, sock, operation, *args)


def _within(limit: float | None, scope: CallScope, sock: Any, operation: Callable[..., Any], *args: Any) -> Any:
    if limit != sock.gettimeout():  # setting it is a system call
        sock.settimeout(limit)
    try:
        result = operation(*args)
    except (TimeoutError, *WOULD_BLOCK):
        scope.expire_if_due()
        raise
    if scope.cancelled:  # an end of stream that cancel() made is not one
        raise ConnectionAbortedError("the call was cancelled")
    return result


def receive(scope: CallScope, sock: Any) -> bytes:
    """Wait for bytes and return them, `b""` at the end of the connection."""
    limit = scope.budget()
    try:
        return bytes(_within(limit, scope, sock, sock.recv, RECEIVE_SIZE))
    except TimeoutError:
        # The process may have stood still, and what has arrived meanwhile came in time.
        data = receive_nowait(scope, sock) if scope.expire_if_due() else None
        if data is None:
            raise
        scope.forgive()
        return data


def receive_nowait(scope: CallScope, sock: Any) -> bytes | None:
    """Return what has arrived, `b""` at the end of the connection, None if nothing has."""
    if sock.gettimeout() != 0:
        sock.settimeout(0)
    try:
        data: bytes | None = sock.recv(RECEIVE_SIZE)
    except WOULD_BLOCK:
        data = None
    if scope.cancelled:
        raise ConnectionAbortedError("the call was cancelled")
    return data


def send(scope: CallScope, sock: Any, data: memoryview) -> int:
    """Wait until some of `data` is on its way, and return how many bytes."""
    return int(guarded(scope, sock, sock.send, data[:SEND_SIZE]))


def wait_until_ready(scope: CallScope, sock: Any) -> None:
    """Wait until a non-blocking socket takes more, or something has arrived on it."""
    limit = scope.budget()
    if not hasattr(select, "poll"):  # on Windows; and eventlet takes it away
        readable, writable, _ = select.select([sock], [sock], [], limit)
        ready = bool(readable or writable)
    else:
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLIN | select.POLLOUT)
        ready = bool(poll.poll(None if limit is None else math.ceil(limit * 1000)))
    if not ready:
        scope.expire_if_due()
        raise TimeoutError("timed out")


def send_nowait(sock: Any, data: memoryview) -> int:
    """Return how many bytes the socket took without waiting."""
    if sock.gettimeout() != 0:
        sock.settimeout(0)
    try:
        return int(sock.send(data[:SEND_SIZE]))
    except WOULD_BLOCK:
        return 0


@functools.cache
def scoped(base: type[Any]) -> Any:
    """Make a kind of socket whose every operation obeys a scope, for those who do the receiving themselves.

    They are PySocks while it talks to a proxy, urllib3's TLS within TLS, and its fork.
    """

    class Scoped(base):  # type: ignore[misc]
        scope: CallScope | None = None

        def _guarded(self, operation: Callable[..., Any], *args: Any) -> Any:
            return operation(*args) if self.scope is None else guarded(self.scope, self, operation, *args)

        def recv(self, *args: Any) -> Any:
            return self._guarded(super().recv, *args)

        def recv_into(self, *args: Any) -> Any:
            return self._guarded(super().recv_into, *args)

        def send(self, *args: Any) -> Any:
            return self._guarded(super().send, *args)

        def sendall(self, data: Any, flags: int = 0) -> None:
            with memoryview(data) as view, view.cast("B") as rest:
                sent = 0
                while sent < len(rest):
                    sent += self.send(rest[sent : sent + SEND_SIZE], flags)

        def do_handshake(self, block: bool = False) -> None:
            # Wrapping took the descriptor from the socket that obeyed the scope until now.
            self.scope = current.get(None)
            self.suppress_ragged_eofs = False
            self._guarded(super().do_handshake, block)

        def shut_down(self) -> None:
            shut_down(self)

    return Scoped


class Handle:
    """Lets `cancel()` end a connection while TLS or a proxy is negotiated with: `with Handle(scope, sock): …`.

    It holds a duplicate of the descriptor, since TLS and proxies may put another object above the connection, or
    close it, and its descriptor may then be another connection's. Nothing else can be attached to the scope meanwhile.

    Raises:
        OSError: the time is up, the call was cancelled, or there is no descriptor left.
    """

    def __init__(self, scope: CallScope, sock: Any) -> None:
        self._scope = scope
        self._sock = sock
        self._descriptor = -1

    def __enter__(self) -> Handle:
        try:
            self._descriptor = _socket.dup(self._sock.fileno())
            self._scope.attach(self)
            self._scope.budget()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._scope.detach()
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            _socket.close(descriptor)

    def fileno(self) -> int:
        """The duplicate."""
        return self._descriptor

    def shut_down(self) -> None:
        """Wake whoever waits for the connection."""
        shut_down(self)


def _view(descriptor: int) -> _socket.socket:
    """The operating system's socket, whatever class stands above it. To be detached."""
    kind: int = socket.SOCK_STREAM
    # Else a default timeout (`socket.setdefaulttimeout`) would make the descriptor non-blocking, for all who use it.
    if hasattr(socket, "SOCK_NONBLOCK"):
        return _socket.socket(socket.AF_INET, kind | socket.SOCK_NONBLOCK, 0, fileno=descriptor)
    blocking = os.name != "posix" or os.get_blocking(descriptor)
    view = _socket.socket(socket.AF_INET, kind, 0, fileno=descriptor)
    if blocking and socket.getdefaulttimeout() is not None:
        view.setblocking(True)
    return view


def shut_down(sock: Any) -> None:
    """Wake whoever waits for this socket, in whatever thread; over TLS, too, without a farewell.

    It must not be closed meanwhile by others: its descriptor may be another's then.
    """
    descriptor = sock.fileno()
    if descriptor < 0:
        return  # closed already
    view = _view(descriptor)
    try:
        view.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # not connected any more, or not yet: the flag is looked at before the next wait
    finally:
        view.detach()


def has_ended(sock: Any) -> bool:
    """Whether an idle connection can't be used again: there is something to read, which can only be its end."""
    descriptor = sock.fileno()
    if descriptor < 0:
        return True
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(0))
    if not hasattr(socket, "MSG_DONTWAIT"):  # Windows
        return bool(select.select([descriptor], [], [], 0)[0])
    view = _view(descriptor)
    try:
        view.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        pass
    finally:
        view.detach()
    return True


def was_not_read(sock: Any) -> bool:
    """Whether the server can't have read the request, for a connection that ended without a byte of an answer.

    To be asked once, after `recv` returned `b""`. It is so when our bytes met a socket that was closed (the error that
    the operating system keeps, once, is EPIPE) or, which Linux tells, when some were never acknowledged.
    """
    view = _view(sock.fileno())
    try:
        if view.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EPIPE:
            return True
    finally:
        view.detach()
    if sys.platform != "linux":
        return False
    import fcntl
    import termios

    unacknowledged = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))  # SIOCOUTQ has the same number
    return any(unacknowledged)
