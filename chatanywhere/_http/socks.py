"""SOCKS proxies, with connections that obey the scope of their call. The only user of PySocks; imported when needed."""

from __future__ import annotations

import socket
from typing import Any

import socks

from .connections import (
    GuardedConnection,
    GuardedPool,
    GuardedSecureConnection,
    GuardedSecurePool,
    GuardedSocket,
    resolve,
)
from .scope import current


class _SocksSocket(GuardedSocket, socks.socksocket):
    """PySocks talks to the proxy through the methods that obey the scope."""


class _SocksConnection(GuardedConnection):
    def __init__(self, _socks_options: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        self._options = _socks_options
        super().__init__(*args, **kwargs)

    def _new_conn(self) -> socket.socket:
        options = self._options
        target: str = self._dns_host
        if not options["rdns"]:  # PySocks would look the name up without a limit
            target = resolve(current.get(), target, self.port)[0][4][0]

        def connect(sock: _SocksSocket, address: tuple[Any, ...]) -> None:
            sock.set_proxy(
                options["socks_version"],
                address[0],
                address[1],
                rdns=options["rdns"],
                username=options["username"],
                password=options["password"],
            )
            sock.connect((target, self.port))

        return self.open_socket(options["proxy_host"], options["proxy_port"] or 1080, _SocksSocket, connect)


class _SecureSocksConnection(_SocksConnection, GuardedSecureConnection):
    pass


class _Pool(GuardedPool):
    ConnectionCls = _SocksConnection  # type: ignore[assignment]


class _SecurePool(GuardedSecurePool):
    ConnectionCls = _SecureSocksConnection  # type: ignore[assignment]


POOLS = {"http": _Pool, "https": _SecurePool}
"""For `SOCKSProxyManager.pool_classes_by_scheme`."""
