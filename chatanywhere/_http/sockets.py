"""What is asked of the operating system's socket, whatever object stands above it: TLS, PySocks, gevent, eventlet.

It goes through `_socket`, which nobody replaces.
"""

from __future__ import annotations

import _socket
import errno
import os
import select
import socket
import sys
from typing import Any

from .scope import CallScope


class Handle:
    """Lets `cancel()` end a connection while TLS or a proxy is negotiated with: `with Handle(scope, sock): …`.

    It holds a duplicate of the descriptor, since TLS and proxies may put another object above the connection, or
    close it, and its descriptor may then be another connection's. Nothing else can be attached to the scope meanwhile.

    Raises:
        OSError: the time is up, the call was cancelled, or there is no descriptor left.
    """

    scope: CallScope | None = None

    def __init__(self, scope: CallScope, sock: Any) -> None:
        self._scope = scope
        self._sock = sock
        self._duplicate: _socket.socket | None = None

    def __enter__(self) -> Handle:
        try:
            self._duplicate = _view(_socket.dup(self._sock.fileno()))
            self._scope.attach(self)
            self._scope.budget()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._scope.detach()
        if self._duplicate is not None:
            self._duplicate.close()

    def shut_down(self) -> None:
        """Wake whoever waits for the connection."""
        if self._duplicate is not None:
            shut_down(self._duplicate)


def _view(descriptor: int) -> _socket.socket:
    """The operating system's socket, whatever class stands above it. To be detached where it is not a duplicate."""
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
