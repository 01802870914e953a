"""What the environment says about connections: proxies and whom to bypass them for, authorities, TLS."""

from __future__ import annotations

import errno
import functools
import ipaddress
import os
import re
import socket
import ssl
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

_PROXY_SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")
_USERINFO = "!$&'()*+,;=:%"  # besides letters, digits and "_.-~" (RFC 3986, section 3.2.1)
_END_OF_HOST = re.compile("[/?#]")
_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_PORTS = {"http": 80, "https": 443}
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Says nothing about the file that could not be opened."""


# Proxies -------------------------------------------------------------------------------------------------------


def environment_proxy(url: str) -> str | None:
    """Return the proxy that the environment, or the system, has for the host of `url`.

    Raises:
        ValueError: it can't be used.
    """
    parts = urlsplit(url)
    origin = f"{parts.scheme}://{parts.netloc}"
    proxy = select_proxy(origin, get_environ_proxies(origin))
    if not proxy or _is_bypassed(parts.hostname or "", parts.port or _PORTS[parts.scheme]):
        return None
    return checked_proxy(proxy, "the proxy in the environment (HTTPS_PROXY, HTTP_PROXY, ALL_PROXY)")


def _is_bypassed(host: str, port: int) -> bool:
    """Whether an entry of NO_PROXY names the host, with this port or without one; requests overlooks some with one."""
    entries = re.split(r"[,\s]+", os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "")
    return any(_matches(entry.lower(), host, port) for entry in entries)


_ENTRY = re.compile(r"(?:\[(?P<address>[^\]]*)\]|(?P<name>[^:]*))(?::(?P<port>[0-9]{1,5}))?")
"""An entry of NO_PROXY that may have a port; an IPv6 address has brackets then."""


def _matches(entry: str, host: str, port: int) -> bool:
    match = _ENTRY.fullmatch(entry)
    name = (match["address"] or match["name"] or "") if match else entry
    if match and match["port"] and int(match["port"]) != port:
        return False
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = name.lstrip(".")
        return bool(name) and f".{host}".endswith(f".{name}")
    try:
        return address in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def checked_proxy(proxy: str, source: str = "proxy") -> str:
    """Return a proxy's URL with its scheme. `source` says where it was given.

    Raises:
        ValueError: it can't be used. The message does not repeat it, for it may hold a password.
    """
    scheme, _, rest = proxy.partition("://") if "://" in proxy else ("http", "", proxy)
    authority = _END_OF_HOST.split(rest, maxsplit=1)[0]
    apart = rest[len(authority) :]
    userinfo, at, host = authority.rpartition("@")
    # urllib3 takes a backslash for the end of the host, and urlsplit a bracket for an address.
    userinfo = quote(_LONE_PERCENT.sub("%25", userinfo), safe=_USERINFO, errors="surrogatepass")
    url = f"{scheme}://{userinfo}{at}{host}{apart}"
    try:
        parts = urlsplit(url)
        valid = parts.hostname and parts.port != 0 and parts.scheme in _PROXY_SCHEMES
        valid = valid and "\\" not in host and "@" not in apart  # which is the rest of a password with a "/"
    except ValueError:
        valid = False
    if not valid:
        raise ValueError(
            f"{source} must be a URL such as http://host:port, https://…, socks5://… or socks5h://…; "
            "in its password, write %2F for /, %3F for ? and %23 for #"
        )
    if parts.scheme.startswith("socks"):
        try:
            import socks  # noqa: F401
        except ImportError:
            raise ValueError("a SOCKS proxy needs PySocks: pip install 'chatanywhere[socks]'") from None
    elif not _is_latin_1(unquote(userinfo)):
        raise ValueError(f"{source} has a user name or password with a character that is not Latin-1")
    return url


def _is_latin_1(text: str) -> bool:
    return all(character <= "\xff" for character in text)


# TLS -----------------------------------------------------------------------------------------------------------


def authorities(verify: bool | str) -> tuple[str, str | None, str | None]:
    """Return whose certificates are trusted: where that was said, a file, a folder (or several, as OpenSSL has them).

    `verify` is the path of either, or anything else for what the environment says, or certifi.
    """
    if isinstance(verify, str):
        return ("verify=", *_file_or_folder(verify))
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        if path := os.environ.get(name):
            return (name, *_file_or_folder(path))
    file, folder = os.environ.get("SSL_CERT_FILE") or None, os.environ.get("SSL_CERT_DIR") or None
    if file or folder:
        return " and ".join(name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)), file, folder
    return "certifi", DEFAULT_CA_BUNDLE_PATH, None


def _file_or_folder(path: str) -> tuple[str | None, str | None]:
    return (None, path) if os.path.isdir(path) else (path, None)


def ca_bundle(verify: bool | str) -> str:
    """The same, as the one path that requests takes."""
    _, file, folder = authorities(verify)
    return file or (folder or "").partition(os.pathsep)[0]


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """Return how to talk TLS, and whom to trust.

    Raises:
        ValueError: the CA bundle, or the file that the environment names for TLS's keys, can't be used.
        OSError: the system has no file descriptor or memory left.
    """
    if verify is False:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        _check_key_log()
        context = _trusting(*authorities(verify))
    context.wrap_socket = functools.partial(_wrap_socket, context.wrap_socket)  # type: ignore[method-assign]
    return context


def _trusting(source: str, file: str | None, folder: str | None) -> ssl.SSLContext:
    if folder and not any(map(os.path.isdir, folder.split(os.pathsep))):  # OpenSSL does not look before it needs it
        raise ValueError(f"not a folder of CA certificates: {folder!r} ({source})")
    try:
        # urllib3's own function holds on to the classes of its import, which gevent may have replaced since.
        return ssl.create_default_context(cafile=file, capath=folder)
    except OSError as exc:
        if exc.errno in (None, *_EXHAUSTED) and not isinstance(exc, ssl.SSLError):
            raise  # without a number it is a signal handler's
        raise ValueError(f"not a CA bundle: {file or folder!r} ({source}): {exc.strerror or exc}") from exc


def _check_key_log() -> None:
    """See whether the file can be written to which `ssl.create_default_context` lets TLS's keys go, for debugging."""
    path = None if sys.flags.ignore_environment else os.environ.get("SSLKEYLOGFILE")
    if path:
        try:
            with open(path, "ab"):
                pass
        except OSError as exc:
            if exc.errno in _EXHAUSTED:
                raise
            raise ValueError(f"SSLKEYLOGFILE can't be written: {path!r}: {exc.strerror}") from exc


def _wrap_socket(wrap: Callable[..., ssl.SSLSocket], sock: socket.socket, **options: Any) -> ssl.SSLSocket:
    """Do what `SSLContext.wrap_socket` does, but leave no socket open when the handshake is interrupted."""
    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:  # reset already
        raise OSError(code, os.strerror(code))
    wrapped = wrap(sock, do_handshake_on_connect=False, **options)
    try:
        wrapped.do_handshake()
    except BaseException:
        wrapped.close()
        raise
    return wrapped
