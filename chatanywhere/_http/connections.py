"""Connections that obey the scope of the call that uses them.

All knowledge of the insides of http.client and urllib3 is in this file. What it rests on:

* Every operation on a socket is given the time that is left, so no drip, silence or hang outlives a limit.
* Nothing wakes a blocked read from another thread but a shutdown of the operating system's socket; closing
  the socket object does not. After a shutdown a read may end in an error, or look like the regular end of the
  answer. So the flag decides what happened, never the exception.
* Sockets are used, not subclassed, and their classes looked up when one is made: so gevent and eventlet may put
  theirs in place at any time. Only where others do the receiving (see `scoped`) is there no way but a subclass.
"""

from __future__ import annotations

import errno
import http.client
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import urllib3.connection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from .._errors import ProtocolError
from .._policy import Timeout
from . import dialing, sockets
from .head import HeadDecoder
from .scope import CallScope, current
from .sockets import receive, scoped, send


def _original(kind: type[Any]) -> Any:
    """The class that a mock has put one of its own in front of, as vcrpy does while a cassette is in use."""
    return next((base for base in kind.__mro__ if base.__module__ == "urllib3.connection"), kind)


if TYPE_CHECKING:
    from urllib3.connection import HTTPConnection as _HTTPConnection
    from urllib3.connection import HTTPSConnection as _HTTPSConnection
else:
    _HTTPConnection = _original(urllib3.connection.HTTPConnection)
    _HTTPSConnection = _original(urllib3.connection.HTTPSConnection)

PRIVATE = ("_new_conn", "_tunnel")
"""The private methods of urllib3's connections that are overridden; its own SOCKS support does it the same way."""


BUILDS_ON_HTTP_CLIENT = issubclass(_HTTPConnection, http.client.HTTPConnection) and all(
    hasattr(_HTTPConnection, name) for name in PRIVATE
)
"""Whether urllib3's connections are those that this file knows; its fork's are not."""


def is_mocked() -> bool:
    """Whether somebody has put connections of their own in the place of urllib3's."""
    return HTTPConnectionPool.ConnectionCls is not _HTTPConnection


# Connections ---------------------------------------------------------------------------------------------------


class TunnelError(OSError):
    """A proxy did not let the call through."""

    def __init__(self, message: str) -> None:
        super().__init__(errno.ECONNREFUSED, message)


class _BaseConnection(_HTTPConnection):
    """What is made under the current scope."""

    _fitted: tuple[Timeout, bool]  # to what the socket's options have been
    _connecting: ExitStack

    def __init__(self, host: str, *args: Any, **kwargs: Any) -> None:
        self._name = host  # urllib3's `host` has lost a dot at the end, which matters to the resolver
        super().__init__(host, *args, **kwargs)

    def connect(self) -> None:
        """Connect; the scope's `connect` limit starts.

        Raises:
            OSError: it failed, the time is up, or the call was cancelled: the scope's `failure()` knows.
            ProtocolError: a proxy does not speak HTTP.
        """
        scope = current.get()
        scope.connecting()
        try:
            with ExitStack() as self._connecting:
                super().connect()
                scope.budget()
            self.fit(scope)
            scope.sending()
        except BaseException as exc:
            if isinstance(exc, (TimeoutError, *sockets.WOULD_BLOCK)):
                scope.expire_if_due()
            self.close()
            raise

    @property
    def innermost(self) -> Any:
        """The operating system's socket; urllib3 puts an object of its own above it for TLS within TLS."""
        sock = self.sock
        return getattr(sock, "socket", sock)

    def fit(self, scope: CallScope, *, large: bool = False) -> None:
        """Let the connection obey this scope. Its limits are the kernel's too, so that a dead path is noticed.

        `large` says that the request is; see `socket_options`.
        """
        for sock in (self.sock, self.innermost):
            if hasattr(sock, "scope"):
                sock.scope = scope
            if hasattr(sock, "suppress_ragged_eofs"):
                sock.suppress_ragged_eofs = False  # one that ends without TLS's own farewell was cut (RFC 8446, 6.1)
        if self._fitted != (scope.timeout, large):
            dialing.set_options(self.innermost, dialing.socket_options(scope.timeout, large=large))
            self._fitted = scope.timeout, large

    def _new_conn(self) -> socket.socket:
        return self.dial(self._name, self.port)

    def dial(self, host: str, port: int) -> socket.socket:
        """Connect to the host, or its proxy. Until `connect` is done, `cancel()` shuts the connection down."""
        scope = current.get()
        sock = dialing.dial(scope, host, port, dialing.socket_options(scope.timeout))
        self._fitted = scope.timeout, False
        try:
            self._connecting.enter_context(sockets.Handle(scope, sock))
            sock.settimeout(scope.budget())  # a deadline for the TLS handshake
        except BaseException:
            sock.close()
            raise
        return sock


class Connection(_BaseConnection):
    """An http:// connection, whose user sends and receives by itself."""

    _tunnel_request = b""

    def shut_down(self) -> None:
        """Wake whoever waits for this connection, in whatever thread."""
        if self.sock is not None:
            sockets.shut_down(self.innermost)

    def set_tunnel(self, host: str, port: int | None = None, headers: Any = None, scheme: str = "http") -> None:
        super().set_tunnel(host, port, headers, scheme)
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        fields = {"Host": authority, **(headers or {})}
        lines = [f"CONNECT {authority} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "\r\n"]
        self._tunnel_request = "\r\n".join(lines).encode("latin-1")

    def _tunnel(self) -> None:
        """Ask the proxy for a connection. http.client would read its answer by lines, for as long as they drip."""
        scope = current.get()
        rest = memoryview(self._tunnel_request)
        while rest:
            rest = rest[send(scope, self.sock, rest) :]
        decoder = HeadDecoder()
        head = None
        while head is None:
            data = receive(scope, self.sock)
            if not data:
                raise TunnelError("the proxy closed the connection")
            try:
                head = decoder.feed(data)
            except ProtocolError as exc:
                raise ProtocolError(f"the proxy's answer: {exc}") from None
        if not 200 <= head.status_code < 300:
            reason = http.client.responses.get(head.status_code, "")
            raise TunnelError(f"Tunnel connection failed: {head.status_code} {reason}")
        if decoder.rest:
            raise TunnelError("the proxy sent more than its answer")  # what follows is the server's, who waits for us


class SecureConnection(Connection, _HTTPSConnection):
    """The same for https://."""


class ScopedConnection(_BaseConnection):
    """One whose socket obeys the scope by itself, for urllib3's public methods."""

    def connect(self) -> None:
        super().connect()
        current.get().attach(self.innermost)

    def dial(self, host: str, port: int) -> socket.socket:
        sock = scoped(socket.socket)(fileno=super().dial(host, port).detach())
        sock.scope = current.get()
        return sock  # type: ignore[no-any-return]

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:  # it has been idle
            scope = current.get()
            self.fit(scope)
            scope.sending()
            scope.attach(self.innermost)
        super().request(*args, **kwargs)


class ScopedSecureConnection(ScopedConnection, _HTTPSConnection):
    """The same for https://."""


def pool_classes(connection: type[Any], secure: type[Any]) -> dict[str, type[Any]]:
    """Make pool classes of these connections, for `PoolManager.pool_classes_by_scheme`."""
    return {
        "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": connection}),
        "https": type("SecurePool", (HTTPSConnectionPool,), {"ConnectionCls": secure}),
    }


_POOLS = pool_classes(Connection, SecureConnection)
_PUBLIC_POOLS = pool_classes(ScopedConnection, ScopedSecureConnection)


def pools() -> dict[str, type[Any]]:
    """The pool classes for the urllib3 that is there."""
    return _POOLS if BUILDS_ON_HTTP_CLIENT else _PUBLIC_POOLS
