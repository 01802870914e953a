"""Sends requests through requests' adapter, and says what went wrong in our own words.

requests' adapter is used without its `Session`. A session would let `~/.netrc` replace the key, follow
redirects with the key and the body, keep cookies, and let the environment overrule explicit proxies and CA
bundles; the adapter does none of this.
"""

from __future__ import annotations

import http.client
import os
import ssl
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy
from urllib3.util.ssl_ import create_urllib3_context

from .._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatAnywhereError,
    ProtocolError,
    StreamInterruptedError,
)
from .body import Body
from .connections import POOLS, RECEIVE_SIZE, GuardedSocket, GuardedSSLSocket, RawResponse
from .scope import CallScope, current

_FOREIGN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    urllib3.exceptions.ProxySchemeUnsupported,  # the one that is not an HTTPError
    http.client.HTTPException,
    OSError,
)
"""What requests, urllib3, http.client and the socket raise when the world fails them."""

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


# http.client tells the status of a proxy's refusal in words only.
_TUNNEL_DENIED = "Tunnel connection failed: 407"
_TLS_REMEDIES = {
    "WRONG_VERSION_NUMBER": "perhaps the server has no TLS: use http:// in the URL then",
    "CERTIFICATE_VERIFY_FAILED": "if a CA of your own made the certificate, name its file: verify='/path/to/ca.pem'",
}
"""By OpenSSL's names of the reasons."""


class HTTPResponse:
    """An answer whose head has come.

    Attributes:
        status_code: the HTTP status.
        headers: with case-insensitive keys.
        body: decodes what `receive` returns.
        waitable: the socket for an event loop to wait for; None where only `receive`, in a thread, will do.
    """

    def __init__(self, response: requests.Response, scope: CallScope, max_bytes: int | None) -> None:
        self.status_code: int = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._raw = response.raw
        self._scope = scope
        scope.reading()
        self._closed = False
        # None where urllib3 has been replaced, or mocked: its public method is used then.
        self._response: RawResponse | None = scope.response
        self.waitable: GuardedSocket | None = None if self._response is None else self._response.waitable
        self.body = Body(
            response.headers,
            limit=max_bytes if 200 <= response.status_code < 300 else None,  # of an error, the beginning is read
            framed=self._response is not None,
            empty=response.status_code in (204, 304),
        )

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, from the header `x-request-id`."""
        return self.headers.get("x-request-id")

    def receive(self) -> bytes:
        """Wait for bytes and return them; `b""` says that the connection has ended.

        Raises:
            ChatAnywhereError: the connection failed, a limit ran out, or the call was cancelled.
        """
        try:
            if self._response is not None:
                return self._response.receive()
            data: bytes = self._raw.read1(RECEIVE_SIZE, decode_content=False)
            return data
        except _FOREIGN as exc:
            raise self._scope.failure() or _interruption(exc) from exc

    def receive_nowait(self) -> bytes | None:
        """Return what has arrived on `waitable`, `b""` at its end, None if nothing has.

        Raises:
            ChatAnywhereError: the connection failed, or the call was cancelled.
        """
        assert self._response is not None
        try:
            return self._response.receive_nowait()
        except _FOREIGN as exc:
            raise self._scope.failure() or _interruption(exc) from exc

    def close(self) -> None:
        """Give the connection back to its pool if the body was read to its end, else close it."""
        if self._closed:
            return
        self._scope.detach()
        reusable = self.body.complete and not self.body.surplus and not self._scope.cancelled
        if not reusable:
            self._raw.close()
        # Ctrl-C may come anywhere, and closing may then be tried again; but a signal handler that comes while the
        # connection is given back must not give it back too.
        self._closed = True
        if reusable and self._response is not None:
            self._response.close()
        self._raw.release_conn()


class Transport:
    """A connection pool with the settings of one client. Threads may share it; a forked child gets a new pool."""

    def __init__(self, *, proxy: str | None, verify: bool | str) -> None:
        self._adapter: _Adapter | None = None
        self._proxy = proxy
        self._verify = verify
        self._inherited: _Adapter | None = None
        self._process = os.getpid()

    def open(
        self, method: str, url: str, headers: Mapping[str, str], content: bytes | None, *, max_bytes: int | None
    ) -> HTTPResponse:
        """Send a request inside the current scope, and wait for the head of the answer, whatever its status.

        Raises:
            ChatAnywhereError: there is none.
            ValueError: the environment names a proxy or a CA bundle that can't be used.
        """
        scope = current.get()
        adapter = self._pool()
        proxy = adapter.environment_proxy(url) if self._proxy is None else self._proxy
        proxies = {"all": proxy} if proxy else {}
        if url.startswith("https:"):
            _ = adapter.tls_context  # a bad CA bundle is told here; requests would take it for a bad URL
        try:
            request = requests.Request(method, url, headers=dict(headers), data=content).prepare()
            response = adapter.send(request, stream=True, verify=bool(self._verify), proxies=proxies)
        except _FOREIGN as exc:
            foreign = exc
        except BaseException:
            scope.detach()
            raise
        else:
            try:
                return HTTPResponse(response, scope, max_bytes)
            except ProtocolError:
                scope.detach()
                response.close()
                raise
        scope.detach()
        # Raised out here, and from the root alone: the errors around it hold the request with the key, and the
        # pool with the proxy's password.
        root = _root(foreign)
        raise scope.failure() or _opening_error(foreign, root, urlsplit(url).netloc) from root

    def close(self) -> None:
        """Close the pooled connections. The next call opens new ones."""
        adapter, self._adapter = self._adapter, None
        if adapter is not None:
            adapter.close()

    def __del__(self) -> None:
        with suppress(Exception):  # at exit, modules may be gone
            self.close()

    def _pool(self) -> _Adapter:
        if self._process != os.getpid():
            # The parent goes on using these connections. They are kept, not closed: a thread that does not
            # exist here may have held one of their locks when the process forked.
            self._inherited, self._adapter, self._process = self._adapter, None, os.getpid()
        adapter = self._adapter
        if adapter is None:
            adapter = self._adapter = _Adapter(self._verify)
        return adapter


class _Adapter(HTTPAdapter):
    """requests' adapter, over connections that obey the scope of their call."""

    def __init__(self, verify: bool | str) -> None:
        self._verify = verify
        self._environment_proxies: dict[str, str | None] = {}
        super().__init__(pool_maxsize=1000)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = POOLS

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        scheme = proxy.partition(":")[0].lower()
        if scheme == "https":
            kwargs["proxy_ssl_context"] = self.tls_context
        manager = super().proxy_manager_for(proxy, **kwargs)
        if scheme.startswith("socks"):
            from . import socks

            manager.pool_classes_by_scheme = socks.POOLS
        else:
            manager.pool_classes_by_scheme = POOLS
        return manager

    def build_connection_pool_key_attributes(self, *args: Any, **kwargs: Any) -> Any:
        host, settings = super().build_connection_pool_key_attributes(*args, **kwargs)
        if host["scheme"] == "https":
            settings["ssl_context"] = self.tls_context
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

    def environment_proxy(self, url: str) -> str | None:
        """Return the proxy that the environment, or the system, has for the host of `url`.

        Asked once for each host: looking through a large environment takes as long as the rest of sending.

        Raises:
            ValueError: it can't be used.
        """
        parts = urlsplit(url)
        origin = f"{parts.scheme}://{parts.netloc}"
        if origin not in self._environment_proxies:
            proxy = select_proxy(origin, get_environ_proxies(origin))
            source = "the proxy in the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)"
            self._environment_proxies[origin] = checked_proxy(proxy, source) if proxy else None
        return self._environment_proxies[origin]

    @cached_property
    def tls_context(self) -> ssl.SSLContext:
        context: ssl.SSLContext = create_urllib3_context()
        context.sslsocket_class = GuardedSSLSocket
        if self._verify is False:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            return context
        path = self._verify if isinstance(self._verify, str) else _default_ca_bundle()
        try:
            if os.path.isdir(path):
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as exc:
            raise ValueError(f"not a CA bundle: {path!r} (verify=, REQUESTS_CA_BUNDLE): {_words(exc)}") from exc
        return context


def checked_proxy(proxy: str, source: str = "proxy") -> str:
    """Return a proxy's URL with its scheme. `source` says where it was given.

    Raises:
        ValueError: it can't be used. The message does not repeat it, for it may hold a password.
    """
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urlsplit(url)
        valid = parts.hostname and parts.port != 0 and parts.scheme in _PROXY_SCHEMES
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(f"{source} must be a URL such as http://host:port, https://…, socks5://… or socks5h://…")
    if parts.scheme.startswith("socks"):
        try:
            import socks  # noqa: F401
        except ImportError:
            raise ValueError("a SOCKS proxy needs PySocks: pip install 'chatanywhere[socks]'") from None
    return url


def _default_ca_bundle() -> str:
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or DEFAULT_CA_BUNDLE_PATH


def _causes(exc: BaseException) -> list[BaseException]:
    """The errors that `exc` was made from, itself first; requests and urllib3 keep them in several places."""
    found: list[BaseException] = []
    pending: list[Any] = [exc]
    while pending:
        cause = pending.pop(0)
        if isinstance(cause, BaseException) and cause not in found:
            found.append(cause)
            pending += [getattr(cause, "reason", None), *cause.args, cause.__cause__, cause.__context__]
    return found


def _root(exc: BaseException) -> BaseException:
    """The innermost error that says what happened: the operating system's, TLS's or http.client's."""
    causes = _causes(exc)
    wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
    roots = [cause for cause in causes if not isinstance(cause, wrappers)]
    return roots[0] if roots else causes[-1]


def _opening_error(exc: BaseException, root: BaseException, host: str) -> ChatAnywhereError:
    causes = _causes(exc)

    def has(*kinds: type[BaseException]) -> bool:
        return any(isinstance(cause, kinds) for cause in causes)

    refused = has(urllib3.exceptions.NewConnectionError)  # a kind of ConnectTimeoutError
    if not refused and has(requests.ConnectTimeout, urllib3.exceptions.ConnectTimeoutError):
        return APITimeoutError("timeout: no connection in time", "connect")
    if has(requests.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
        return APITimeoutError("timeout: the answer did not begin in time", "headers")
    if isinstance(root, http.client.HTTPException) and not isinstance(root, ConnectionError):
        return ProtocolError(f"the answer is not HTTP: {_words(root)}")
    if isinstance(exc, requests.exceptions.ProxyError) and _TUNNEL_DENIED in str(root):
        return APIStatusError(
            f"the proxy refused: {_words(root)}",
            status_code=407,
            hint="The proxy wants to know who you are: proxy=http://user:password@host:port.",
        )
    proxied = " through the proxy" if has(requests.exceptions.ProxyError, urllib3.exceptions.ProxyError) else ""
    remedy = _TLS_REMEDIES.get(getattr(root, "reason", "")) if isinstance(root, ssl.SSLError) else None
    return APIConnectionError(f"no connection to {host}{proxied}: {_words(root)}" + (f"\n{remedy}" if remedy else ""))


def _interruption(exc: BaseException) -> ChatAnywhereError:
    if any(isinstance(cause, (urllib3.exceptions.ReadTimeoutError, TimeoutError)) for cause in _causes(exc)):
        return APITimeoutError("timeout: nothing came within the answer", "read")
    return StreamInterruptedError(f"the connection was lost within the answer: {_words(exc)}")


def _words(exc: BaseException) -> str:
    text = str(exc)
    with suppress(AttributeError):
        text = exc.strerror or text  # type: ignore[attr-defined]
    return text or type(exc).__name__
