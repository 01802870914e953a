"""SOCKS proxies, with connections that obey the scope of their call. The only user of PySocks; imported when needed."""

from __future__ import annotations

import errno
import socket
from typing import Any

import socks

from . import connections
from .connections import Connection, ScopedConnection, ScopedSecureConnection, SecureConnection, pool_classes
from .names import resolve
from .scope import current
from .sockets import raised_by_program, scoped


class _Connected(socket.socket):
    """Lets PySocks, which connects before it talks to the proxy, find that done: only its talk is wanted."""

    def connect(self, address: Any) -> None:
        pass


class _Talker(socks.socksocket, _Connected):
    pass


class _Socks:
    """Goes in front of a class of connections."""

    def __init__(self, _socks_options: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self._options = _socks_options
        super().__init__(*args, **kwargs)

    def dial(self, host: str, port: int) -> socket.socket:
        options, scope = self._options, current.get()
        proxy = options["proxy_host"], options["proxy_port"] or 1080
        if not options["rdns"]:  # PySocks would look the name up without a limit
            host = resolve(scope, host, port)[0][4][0]
        sock: socket.socket = super().dial(*proxy)  # type: ignore[misc]
        # PySocks talks through methods that obey the scope here.
        talker = scoped(_Talker)(sock.family, socket.SOCK_STREAM, 0, fileno=sock.detach())
        try:
            talker.scope = scope
            user, password = options["username"], options["password"]
            talker.set_proxy(options["socks_version"], *proxy, rdns=options["rdns"], username=user, password=password)
            talker.connect((host, port))
        except BaseException as exc:
            talker.close()
            if isinstance(exc, socks.ProxyError):
                cause = exc.socket_err
                if isinstance(cause, OSError) and not isinstance(cause, socks.ProxyError) and raised_by_program(cause):
                    raise cause from None  # a signal handler's, or a limit that ran out
                raise OSError(errno.ECONNREFUSED, f"the SOCKS proxy failed: {exc}") from exc
            raise
        sock = type(sock)(fileno=talker.detach())
        sock.settimeout(scope.budget())
        return sock


class _SocksConnection(_Socks, Connection):
    pass


class _SecureSocksConnection(_Socks, SecureConnection):
    pass


class _ScopedSocksConnection(_Socks, ScopedConnection):
    pass


class _ScopedSecureSocksConnection(_Socks, ScopedSecureConnection):
    pass


_POOLS = pool_classes(_SocksConnection, _SecureSocksConnection)
_PUBLIC_POOLS = pool_classes(_ScopedSocksConnection, _ScopedSecureSocksConnection)


def pools() -> dict[str, type[Any]]:
    """For `SOCKSProxyManager.pool_classes_by_scheme`."""
    return _POOLS if connections.BUILDS_ON_HTTP_CLIENT else _PUBLIC_POOLS
