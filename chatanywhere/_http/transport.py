"""Sends requests through requests' adapter, and says what went wrong in our own words.

requests' adapter is used without its `Session`. A session would let `~/.netrc` replace the key, follow
redirects with the key and the body, keep cookies, and let the environment overrule explicit proxies and CA
bundles; the adapter does none of this.
"""

from __future__ import annotations

import functools
import http.client
import os
import socket
import ssl
import sys
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
import urllib3.response
from requests.adapters import HTTPAdapter

from .._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatAnywhereError,
    ProtocolError,
    StreamInterruptedError,
)
from .._secrets import Secrets, hidden_in_logs
from . import connections, environment
from .connections import Connection
from .exchange import Exchange, HTTPResponse, words
from .idle import IdleConnections
from .scope import CallScope
from .sockets import RECEIVE_SIZE, SEND_SIZE, raised_by_program, scoped

_LIBRARY_ERRORS = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,  # the one that is not an HTTPError
    http.client.HTTPException,
    OSError,
)
"""What requests, urllib3, http.client and the socket raise when the world fails them."""

_MAX_DESTINATIONS = 1000  # URLs of which is remembered how to get there

# http.client tells the status of a proxy's refusal in words only.
_TUNNEL_DENIED = "Tunnel connection failed: 407"
_TLS_REMEDIES = {
    "WRONG_VERSION_NUMBER": "perhaps the server has no TLS: use http:// in the URL then",
    "CERTIFICATE_VERIFY_FAILED": "if a CA of your own made the certificate, name its file: verify='/path/to/ca.pem'",
}
"""By OpenSSL's names of the reasons."""


class PublicExchange:
    """An answer that comes through the public methods of requests and urllib3.

    So it is where their classes have been replaced or mocked. It is what `Exchange` is once the head has come.
    """

    is_sent = True
    loss = None
    waitable = None

    def __init__(self, scope: CallScope, adapter: HTTPAdapter | None, answer: requests.Response, max_bytes: int | None):
        """Take an answer; `adapter` is closed with it."""
        self._scope = scope
        self._adapter = adapter
        self._raw = answer.raw
        self._closed = False
        self.response = HTTPResponse(
            answer.status_code, answer.headers, max_bytes, framed=False, reason=answer.reason or ""
        )
        scope.sending()
        scope.reading()

    def receive(self) -> bytes:
        """See `Exchange.receive`; the framing has been taken off."""
        # A mock's answer need not be urllib3's.
        options = {"decode_content": False} if isinstance(self._raw, urllib3.response.BaseHTTPResponse) else {}
        handled = sys.exc_info()[1]
        try:
            data: bytes = self._raw.read1(RECEIVE_SIZE, **options)
            return data
        except _LIBRARY_ERRORS as exc:
            raise self._scope.failure() or _interruption(exc, handled) from exc

    def close(self) -> None:
        """Give the connection back to its pool if the body was read to its end, else close it."""
        if self._closed:
            return
        self._scope.detach()
        if not self.response.body.complete or self._scope.cancelled:
            self._raw.close()
        self._closed = True
        if hasattr(self._raw, "release_conn"):
            self._raw.release_conn()
        if self._adapter is not None:
            self._adapter.close()


@dataclass(frozen=True)
class HTTPRequest:
    """What is sent.

    Attributes:
        content: the body; None for none.
    """

    method: str
    url: str
    headers: Mapping[str, str]
    content: bytes | None


class Transport:
    """The connections of one client. Threads may share it; a forked child gets new ones."""

    def __init__(self, *, proxy: str | None, verify: bool | str, keepalive_expiry: float | None) -> None:
        self._make = functools.partial(_Adapter, proxy, verify, keepalive_expiry)
        self._adapters: dict[int, _Adapter] = {}  # by process, for a child must not use its parent's connections

    def open(self, scope: CallScope, request: HTTPRequest, max_bytes: int | None) -> Exchange | PublicExchange:
        """Connect and begin to send; the scope knows afterwards whether it has `connected`.

        Where urllib3's classes have been replaced or mocked, wait for the head of the answer, too.

        Raises:
            ChatAnywhereError: no connection could be established.
            ValueError: the environment names a proxy or a CA bundle that can't be used.
        """
        adapter = self._current_adapter()
        own = _is_own_way()
        handled = sys.exc_info()[1]  # the program's business, whatever it is
        try:
            with scope:
                return (_open if own else _open_publicly)(scope, adapter, request, max_bytes)
        except _LIBRARY_ERRORS as exc:
            error = exc
        except BaseException:
            scope.detach()
            raise
        scope.detach()
        failure = scope.failure()
        # Raised out here, and from the root alone: the errors around it hold the request with the key, and the
        # pool with the proxy's password.
        causes = _causes(error, handled)
        root = _root(causes)
        if failure is None and own and isinstance(root, OSError) and _is_programs(root):
            raise root
        raise failure or _opening_error(causes, root, urlsplit(request.url).netloc) from root

    def reuse(self, scope: CallScope, request: HTTPRequest, max_bytes: int | None) -> Exchange | None:
        """Begin to send on an idle connection, without waiting; None if there is none."""
        adapter = self._current_adapter()
        destination = adapter.known_destination(request.url)
        if destination is None or not _is_own_way():
            return None
        connection = None
        try:
            connection = adapter.idle.take(destination.origin)
            if connection is None:
                return None
            scope.sending()
            return _begin(scope, connection, adapter.idle, destination, request, max_bytes, reused=True)
        except BaseException as exc:
            if connection is not None:
                scope.detach()
                connection.close()
            if isinstance(exc, OSError) and not raised_by_program(exc):
                return None  # it has ended since it was looked at
            raise

    def environment_proxies(self) -> list[str]:
        """The URLs of those proxies that the environment named for the requests so far."""
        adapter = self._adapters.get(os.getpid())
        return [] if adapter is None else list(adapter.environment_proxies)

    def close(self) -> None:
        """Close the idle connections. The next call opens new ones."""
        adapter = self._adapters.pop(os.getpid(), None)
        if adapter is not None:
            adapter.close()

    def _current_adapter(self) -> _Adapter:
        # Those of a parent are kept, not closed: it goes on using their connections, and a thread that does not
        # exist here may have held one of their locks when the process forked.
        process = os.getpid()
        adapter = self._adapters.get(process)
        if adapter is not None and adapter.socket_class is not socket.socket:
            self.close()  # gevent or eventlet has put its own in place since
            adapter = None
        if adapter is None:
            adapter = self._adapters.setdefault(process, self._make())  # another thread may have been faster
            if adapter.finalizer is None:
                # Unlike `__del__`, it comes before the sockets' own end when garbage is collected, and at exit.
                adapter.finalizer = weakref.finalize(self, adapter.idle.close)
        return adapter


def _is_own_way() -> bool:
    """Whether requests and urllib3 are themselves: neither replaced by a fork, nor mocked."""
    return connections.BUILDS_ON_HTTP_CLIENT and not _is_mocked()


def _is_mocked() -> bool:
    # `responses` puts a method of its own in the adapter, vcrpy classes of its own in the pools.
    return HTTPAdapter.send.__module__ != "requests.adapters" or connections.is_mocked()


def _open(scope: CallScope, adapter: _Adapter, request: HTTPRequest, max_bytes: int | None) -> Exchange:
    destination = adapter.destination(request.url)
    connection = destination.make_connection()
    try:
        destination.connect(connection)
        return _begin(scope, connection, adapter.idle, destination, request, max_bytes, reused=False)
    except BaseException:
        scope.detach()
        connection.close()
        raise


def _begin(
    scope: CallScope,
    connection: Connection,
    idle: IdleConnections,
    destination: _Destination,
    request: HTTPRequest,
    max_bytes: int | None,
    *,
    reused: bool,
) -> Exchange:
    """Begin to send on a connection, which the caller closes if that fails."""
    message = destination.message(request)
    connection.fit(scope, large=len(message) > SEND_SIZE)
    exchange = Exchange(scope, connection, idle, destination.origin, message, reused=reused, max_bytes=max_bytes)
    exchange.send_nowait()
    return exchange


def _open_publicly(scope: CallScope, adapter: _Adapter, request: HTTPRequest, max_bytes: int | None) -> PublicExchange:
    headers = dict(request.headers)
    prepared = requests.Request(request.method, request.url, headers=headers, data=request.content).prepare()
    # A mock knows nothing of the scope and of our connections, and wants its own classes.
    mock = HTTPAdapter() if _is_mocked() else None
    limits: Any = (scope.timeout.connect, scope.timeout.read) if mock else None
    verify = environment.ca_bundle(adapter.verify) if mock and adapter.verify else bool(adapter.verify)
    proxies = adapter.proxies(request.url)
    with hidden_in_logs(Secrets.of(headers=request.headers, urls=[request.url, *proxies.values()])):
        answer = (mock or adapter).send(prepared, stream=True, timeout=limits, verify=verify, proxies=proxies)
    try:
        return PublicExchange(scope, mock, answer, max_bytes)
    except BaseException:
        answer.close()
        raise


class _Destination:
    """How requests for one URL get there."""

    def __init__(self, pool: Any, url: str, target: str) -> None:
        self._pool = pool
        self._target = target
        self._tunnels = pool.proxy is not None and url.startswith("https:")
        self.origin = _origin(url)
        self._fields = {"Host": urlsplit(url).netloc}
        if pool.proxy is not None and not self._tunnels:
            self._fields |= pool.proxy_headers

    def make_connection(self) -> Connection:
        """Return a connection that is not connected yet."""
        pool, proxy = self._pool, self._pool.proxy
        host, port = (proxy.host, proxy.port) if self._tunnels else (pool.host, pool.port)
        settings = {**pool.conn_kw, **({"cert_reqs": pool.cert_reqs} if pool.scheme == "https" else {})}
        connection: Connection = pool.ConnectionCls(host=host, port=port, timeout=None, **settings)
        if self._tunnels:
            connection.set_tunnel(pool.host, pool.port, pool.proxy_headers, proxy.scheme)
        return connection

    def connect(self, connection: Connection) -> None:
        """Connect inside the current scope.

        Raises:
            OSError, HTTPError: it failed.
        """
        try:
            connection.connect()
        except (OSError, urllib3.exceptions.HTTPError) as exc:
            if self._pool.proxy is not None and not connection.has_connected_to_proxy:
                raise urllib3.exceptions.ProxyError("no connection to the proxy", exc) from exc
            raise
        if self._pool.scheme == "https" and not (connection.is_verified or connection.proxy_is_verified):
            warnings.warn(f"{self.origin} is not verified", urllib3.exceptions.InsecureRequestWarning, stacklevel=2)

    def message(self, request: HTTPRequest) -> bytes:
        """The request as it is sent, in one piece."""
        names = {name.lower() for name in request.headers}
        fields = {name: value for name, value in self._fields.items() if name.lower() not in names}
        fields |= request.headers
        if request.content is not None or request.method not in ("GET", "HEAD"):  # RFC 9110, section 8.6
            fields["Content-Length"] = str(len(request.content or b""))
        lines = [f"{request.method} {self._target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join((*lines, "\r\n")).encode("latin-1") + (request.content or b"")


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


class _Adapter(HTTPAdapter):
    """requests' adapter, over connections that obey the scope of their call, and those that are idle."""

    finalizer: weakref.finalize[Any, Any] | None = None

    def __init__(self, proxy: str | None, verify: bool | str, keepalive_expiry: float | None) -> None:
        self._proxy = proxy
        self.verify = verify
        self._destinations: dict[str, _Destination] = {}
        self._origins: set[str] = set()  # of all of them, also those that were forgotten
        self.environment_proxies: set[str] = set()
        self.idle = IdleConnections(keepalive_expiry)
        self.socket_class = socket.socket
        super().__init__(pool_maxsize=1000)

    def destination(self, url: str) -> _Destination:
        """Ask requests and urllib3 how to get to a URL; once for each, for it takes as long as the rest of sending.

        Raises:
            RequestException: it can't be used.
            ValueError: the environment names a proxy or a CA bundle that can't be used.
        """
        destination = self._destinations.get(url)
        if destination is None:
            proxies = self.proxies(url)
            prepared = requests.Request("GET", url).prepare()
            pool = self.get_connection_with_tls_context(prepared, bool(self.verify), proxies)
            destination = _Destination(pool, str(prepared.url), self.request_url(prepared, proxies))
            if len(self._destinations) >= _MAX_DESTINATIONS:
                self._destinations.clear()
            self._destinations[url] = destination
            self._origins.add(_origin(url))
        return destination

    def known_destination(self, url: str) -> _Destination | None:
        """Return the same for a URL at whose host others were asked before, so that it takes no waiting; else None."""
        destination = self._destinations.get(url)
        if destination is None and _origin(url) in self._origins:
            return self.destination(url)
        return destination

    def proxies(self, url: str) -> dict[str, str]:
        """Return the proxy for a URL in the way that requests wants it.

        Raises:
            ValueError: it can't be used, or the CA bundle can't.
        """
        if url.startswith("https:"):
            _ = self.tls_context  # a bad CA bundle is told here; requests would take it for a bad URL
        proxy = self._proxy
        if proxy is None and (proxy := environment.environment_proxy(url)):
            self.environment_proxies.add(proxy)
        return {"all": proxy} if proxy else {}

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = connections.pools()

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        scheme = proxy.partition(":")[0].lower()
        if scheme == "https":
            kwargs["proxy_ssl_context"] = self._scoped_tls_context
        manager = super().proxy_manager_for(proxy, **kwargs)
        if scheme.startswith("socks"):
            from . import socks

            manager.pool_classes_by_scheme = socks.pools()
        else:
            manager.pool_classes_by_scheme = connections.pools()
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, settings = super().build_connection_pool_key_attributes(*args, **kwargs)
        if host["scheme"] == "https":
            own = connections.BUILDS_ON_HTTP_CLIENT
            settings["ssl_context"] = self.tls_context if own else self._scoped_tls_context
        return host, settings

    def cert_verify(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do: the context holds the CAs already. Loading them takes 20 ms a connection."""

    def close(self) -> None:
        # requests leaves the pools to garbage collection, and a traceback may hold one of them for long.
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            if hasattr(manager.pools, "keys"):  # urllib3-future, which closes them itself, has none
                for key in manager.pools.keys():  # noqa: SIM118  not a dict
                    pool = manager.pools.get(key)
                    if pool is not None:
                        pool.close()
        super().close()
        self.idle.close()
        if self.finalizer is not None:
            self.finalizer.detach()

    @cached_property
    def tls_context(self) -> ssl.SSLContext:
        """How to talk TLS, and whom to trust.

        Raises:
            ValueError: the CA bundle can't be used.
        """
        return environment.tls_context(self.verify)

    @cached_property
    def _scoped_tls_context(self) -> ssl.SSLContext:
        """The same, for those who do the receiving themselves."""
        context = environment.tls_context(self.verify)
        context.sslsocket_class = scoped(ssl.SSLSocket)
        return context


def _causes(exc: BaseException, handled: BaseException | None = None) -> list[BaseException]:
    """The errors that `exc` was made from, itself first; requests and urllib3 keep them in several places.

    `handled` is what the program was about to handle when it made the call; Python makes it a context of all.
    """
    found: list[BaseException] = []
    pending: list[Any] = [exc]
    while pending:
        cause = pending.pop(0)
        if isinstance(cause, BaseException) and cause not in found and cause is not handled:
            found.append(cause)
            pending += [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
    return found


def _root(causes: list[BaseException]) -> BaseException:
    """The innermost error that says what happened: the operating system's, TLS's or http.client's."""
    wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
    roots = [cause for cause in causes if not isinstance(cause, wrappers)]
    return roots[0] if roots else causes[-1]


def _is_programs(root: OSError) -> bool:
    """Whether a signal handler of the program raised it; requests' own errors are OSErrors without a number, too."""
    return raised_by_program(root) and not isinstance(root, requests.RequestException)


def _opening_error(causes: list[BaseException], root: BaseException, host: str) -> ChatAnywhereError:
    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    refused = has(urllib3.exceptions.NewConnectionError)  # a kind of ConnectTimeoutError
    if not refused and has(requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError):
        return APITimeoutError("timeout: no connection in time", "connect")
    if has(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
        return APITimeoutError("timeout: the answer did not begin in time", "headers")
    if isinstance(root, http.client.HTTPException) and not isinstance(root, ConnectionError):
        return ProtocolError(f"the answer is not HTTP: {words(root)}")
    if _TUNNEL_DENIED in str(root):
        return APIStatusError(
            f"the proxy refused: {words(root)}",
            status_code=407,
            hint="The proxy wants to know who you are: proxy=http://user:password@host:port.",
        )
    proxied = " through the proxy" if has(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError) else ""
    remedy = _TLS_REMEDIES.get(getattr(root, "reason", "")) if isinstance(root, ssl.SSLError) else None
    return APIConnectionError(f"no connection to {host}{proxied}: {words(root)}" + (f"\n{remedy}" if remedy else ""))


def _interruption(exc: BaseException, handled: BaseException | None) -> ChatAnywhereError:
    if any(isinstance(cause, (urllib3.exceptions.ReadTimeoutError, TimeoutError)) for cause in _causes(exc, handled)):
        return APITimeoutError("timeout: nothing came within the answer", "read")
    return StreamInterruptedError(f"the connection was lost within the answer: {words(exc)}")
