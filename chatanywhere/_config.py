"""What a client was told: arguments and environment, read and checked once; URLs, headers, keys."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, TypeAlias
from urllib.parse import SplitResult, unquote_plus, urlencode, urlsplit

from ._errors import AuthenticationError
from ._http.environment import checked_proxy
from ._policy import DEFAULT, Retry, RetryLike, Timeout, TimeoutLike
from ._protocols import find_protocol
from ._protocols.protocol import ChatProtocol
from ._protocols.service import HOST, KEY_PAGE
from ._secrets import Secrets, without_secrets

Url: TypeAlias = "str | Sequence[str]"
"""A host or a URL, or several, of which the next is asked when one can't be reached."""

Model: TypeAlias = "str | Sequence[str]"
"""The name of a model, or several, of which the next is asked when one is refused or fails."""

_MAX_RESPONSE = 256 * 1024 * 1024  # bytes

_QUOTES = tuple("\"'`“”‘’„«»")

_HOST_NAME = re.compile(r"(?:[\w-]{1,63}\.)*[\w-]{1,63}\.?")
"""With the characters of all scripts, and the underscores of containers; names that DNS has are at most as long."""

_LIKE_A_KEY = re.compile(r"(?:Bearer\s.*|sk-[\w-]*|eyJ[\w-]*\.[\w.-]*|[\w+=-]{20,})", re.DOTALL)
"""What has no scheme, and is no host with a domain or a port, nor a short name of one's own network."""

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "api_key": ((str, type(None)), "a str"),
    "base_url": ((str, Iterable, type(None)), "a str or several"),
    "model": ((str, Iterable, type(None)), "a str or several"),
    "proxy": ((str, type(None)), "a str"),
    "verify": ((bool, str, os.PathLike), "True, False or a path"),
    "headers": ((Mapping, type(None)), "a dict"),
    "max_response_bytes": ((int, type(None), type(DEFAULT)), "an int, or None for no limit"),
    "keepalive_expiry": ((int, float, type(None)), "a number of seconds, or None for no limit"),
    "stream": ((bool, type(None)), "True, False or None"),
    "query": ((Mapping, type(None)), "a dict"),
    "files": ((Mapping, type(None)), "a dict"),
    "raw": ((bool,), "True or False"),
    "extra_headers": ((Mapping, type(None)), "a dict"),
    "extra_query": ((Mapping, type(None)), "a dict"),
    "extra_body": ((Mapping, type(None)), "a dict"),
}
"""The types of the arguments that need a look, and how to say them."""

_SETTINGS = ("api_key", "base_url", "protocol", "proxy", "verify", "keepalive_expiry", "observers")

_MISPLACED: dict[str, str] = {
    "stream": "stream() always streams, and complete(stream=False) asks for one JSON object",
    "keep_text": "it belongs to stream()",
    **{name: f"it belongs to the client: Client({name}=…)" for name in _SETTINGS},
    "max_threads": "it belongs to the client: AsyncClient(max_threads=…)",
    "max_retries": "use retry=, which is the number of attempts in all",
    "request_timeout": "use timeout=",
    "http_client": "this client makes its own connections: use Client(proxy=…, verify=…)",
    "proxies": "use Client(proxy=…)",
    "default_headers": "use Client(headers=…)",
    "default_query": "put it into the base URL: Client(base_url='https://host/v1?name=value')",
    "organization": "use headers={'OpenAI-Organization': …}",
    "project": "use headers={'OpenAI-Project': …}",
    **dict.fromkeys(("api_base", "azure_endpoint", "websocket_base_url"), "use Client(base_url=…)"),
    "azure_deployment": "put it into the base URL: Client(base_url='https://host/openai/deployments/name')",
    "api_version": "put it into the base URL: Client(base_url='https://host/openai?api-version=…')",
    "api_type": "choose by Client(base_url=…)",
    **dict.fromkeys(("admin_api_key", "azure_ad_token", "azure_ad_token_provider"), "use Client(api_key=…)"),
    "workload_identity": "use Client(api_key=…)",
    "webhook_secret": "this client receives no webhooks",
}
"""Keywords that belong elsewhere, or that OpenAI's library has for something else than a field of the body, and where
they belong. No service has a field of such a name; if one ever has, `extra_body` sends it."""


@dataclass(frozen=True)
class Settings:
    """The arguments of a client, checked, and what follows from them and the environment.

    Attributes:
        wire: the protocol.
        hosts: the base URLs, what precedes an endpoint's path, with their queries; in the order in which they are
            to be tried.
        key: the key to send, None if there is none.
        models: those of calls that name none, in the order in which they are to be asked.
        ca: whether certificates are verified, or the path of what they are verified with.
        secrets: the key and passwords among the arguments.

    Raises:
        ValueError, TypeError: an argument can't be used; the message names the remedy.
    """

    api_key: str | None = field(default=None, repr=False)
    base_url: Url | None = field(default=None, repr=False)
    protocol: str = "openai"
    model: Model | None = None
    timeout: TimeoutLike = Timeout()  # noqa: RUF009  frozen
    retry: RetryLike = Retry()  # noqa: RUF009  frozen
    proxy: str | None = field(default=None, repr=False)
    verify: bool | str | os.PathLike[str] = True
    headers: Mapping[str, str] | None = field(default=None, repr=False)
    max_response_bytes: int | None = DEFAULT
    keepalive_expiry: float | None = 30.0
    observers: Iterable[object] = field(default=(), repr=False)
    wire: ChatProtocol = field(init=False, repr=False)
    hosts: tuple[str, ...] = field(init=False, repr=False)
    key: str | None = field(init=False, repr=False)
    models: tuple[str, ...] = field(init=False)
    ca: bool | str = field(init=False)
    secrets: Secrets = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        wire = find_protocol(self.protocol)
        check_types(**{each.name: getattr(self, each.name) for each in fields(self) if each.name in _TYPES})
        check_max_response_bytes(self.max_response_bytes)
        if self.keepalive_expiry is not None and not 0 <= self.keepalive_expiry < math.inf:  # nor nan
            raise ValueError(f"keepalive_expiry={self.keepalive_expiry}: seconds, at least 0, or None for no limit")
        if isinstance(self.base_url, (bytes, bytearray)):  # which are iterable
            raise TypeError(f"base_url must be a str or several, not {type(self.base_url).__name__}")
        base_url = self.base_url if self.base_url is None or isinstance(self.base_url, str) else tuple(self.base_url)
        hosts, key = _find_service(wire, base_url, self.api_key)
        models = checked_models(self.model)
        headers = checked_headers(self.headers)
        proxy = checked_proxy(self.proxy) if self.proxy else self.proxy
        checked: dict[str, Any] = {
            "base_url": base_url,
            "headers": headers,
            "timeout": Timeout.of(self.timeout),
            "retry": Retry.of(self.retry),
            "ca": _checked_verify(self.verify),
            "proxy": proxy,
            "wire": wire,
            "hosts": hosts,
            "key": key,
            "observers": _checked_observers(self.observers),
            "secrets": Secrets.of(key=key, headers=headers, urls=[self.proxy, proxy, *hosts]),
            "model": self.model if self.model is None or isinstance(self.model, str) else models,
            "models": models or (variable("CHATANYWHERE_MODEL") or wire.default_model,),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def check_key(self) -> None:
        """See to it that there is a key, if the protocol needs one.

        Raises:
            AuthenticationError: there is none (`attempts` is 0).
        """
        if self.wire.needs_key and self.key is None:
            ours = all(map(_is_service, self.hosts))
            wanted = "" if ours else f" for {_shown(self.hosts)}"
            source = f". Keys are given out at {KEY_PAGE}" if ours else ""
            raise AuthenticationError(
                f"no API key{wanted}: set CHATANYWHERE_API_KEY or pass api_key={source}{_why_not_theirs(self.hosts)}",
                status_code=401,
            )

    def limits(self, timeout: TimeoutLike = DEFAULT) -> Timeout:
        """Return what `timeout` of a call means."""
        return Timeout.of(self.timeout if timeout is DEFAULT else timeout)

    def largest_response(self, asked_for: int | None = DEFAULT, *, kept: bool = True) -> int | None:
        """Return the bytes that an answer may have, None for no limit.

        Args:
            asked_for: the call's own limit.
            kept: the answer is kept; one that is not needs no limit but one that was asked for.

        Raises:
            ValueError, TypeError: `asked_for` is no limit.
        """
        check_max_response_bytes(asked_for)
        limit = self.max_response_bytes if asked_for is DEFAULT else asked_for
        if limit is not DEFAULT:
            return limit
        return _MAX_RESPONSE if kept else None

    def arguments(self) -> dict[str, Any]:
        """Return what a client pickles: the arguments but for the key and the observers, which belong to a process."""
        left_out = ("api_key", "observers")
        return {each.name: getattr(self, each.name) for each in fields(self) if each.init and each.name not in left_out}


def check_types(**arguments: object) -> None:
    """Hold arguments of a client or a call against the types that they may have.

    Raises:
        TypeError: one has another; the message names it.
    """
    for name, value in arguments.items():
        types, words = _TYPES[name]
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise TypeError(f"{name} must be {words}, not {type(value).__name__}")


def checked_models(model: Model | None) -> tuple[str, ...]:
    """Return the models that an argument names; none where it is None or "".

    Raises:
        ValueError, TypeError: it can't be used.
    """
    check_types(model=model)
    if not model:
        if model in (None, ""):
            return ()
        raise ValueError("model is empty: give a name, several, or None for the default")
    names = (model,) if isinstance(model, str) else tuple(model)
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise TypeError(f"model[{index}] must be the name of a model, not {name!r:.80}")
    return tuple(dict.fromkeys(names))


def check_max_response_bytes(limit: int | None) -> None:
    """Hold a limit of a client or a call against what it may be.

    Raises:
        ValueError, TypeError: it is none.
    """
    check_types(max_response_bytes=limit)
    if isinstance(limit, int) and limit < 1:
        raise ValueError(f"max_response_bytes={limit}: a positive number of bytes, or None for no limit")


def check_options(options: Iterable[str]) -> None:
    """See to it that the options of a call are meant for the body of its request.

    Raises:
        TypeError: one is not; the message says where it belongs.
    """
    for name in options:
        if name in _MISPLACED:
            raise TypeError(f"{name}= is not an option of this call: {_MISPLACED[name]}")


def checked_query(query: Mapping[str, object] | None) -> list[tuple[str, str]]:
    """Return the parameters of a URL as `parameters` does.

    Raises:
        TypeError, ValueError: one can't be sent.
    """
    checked = parameters(query or {})
    if any("\ud800" <= character <= "\udfff" for each in checked for character in "".join(each)):
        raise ValueError("extra_query or query has half a character, which no URL can have")
    return checked


def parameters(fields: Mapping[str, object]) -> list[tuple[str, str]]:
    """Return fields one by one as text, written as OpenAI's library does.

    Lists are `name[]`, mappings `name[key]`; what is None or empty is left out.

    Raises:
        TypeError: one is a file, or the content of one.
    """
    found = []
    pending = list(fields.items())
    while pending:
        name, value = pending.pop(0)
        if isinstance(value, Mapping):
            pending[:0] = [(f"{name}[{key}]", item) for key, item in value.items()]
        elif isinstance(value, (list, tuple)):
            pending[:0] = [(f"{name}[]", item) for item in value]
        elif isinstance(value, (bytes, bytearray, memoryview)) or hasattr(value, "read"):
            raise TypeError(f"{name} must be text or a number, not {type(value).__name__}: files are sent by files=")
        elif value is not None and value != "":
            found.append((str(name), str(value).lower() if isinstance(value, bool) else str(value)))
    return found


def checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return headers that can be sent.

    Raises:
        ValueError, TypeError: a name or a value can't be. The message shows no value, and nothing that is no name.
    """
    checked = {}
    for number, (name, value) in enumerate((headers or {}).items(), 1):
        if not isinstance(name, str):
            raise TypeError(f"headers: name number {number} must be a str, not {type(name).__name__}")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(
                f"headers: name number {number} is not the name of a header (RFC 9110, section 5.1): "
                "write {'Name': 'value'}"
            )
        if not isinstance(value, str):
            raise TypeError(f"headers[{name!r}] must be a str, not {type(value).__name__}")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise ValueError(f"headers: {name!r} is set by the client, from what it sends")
        if any(character > "\xff" for character in value):
            raise ValueError(f"headers[{name!r}] has a character that is not Latin-1")
        if re.search(r"[\r\n\0]", value):
            raise ValueError(f"headers[{name!r}] has a line break or a NUL")
        checked[name] = value.strip()
    return checked


def _checked_observers(observers: Iterable[object]) -> tuple[object, ...]:
    if isinstance(observers, tuple) and not observers:
        return ()
    from ._observe import checked_observers  # few need it

    return checked_observers(observers)


def _checked_verify(verify: bool | str | os.PathLike[str]) -> bool | str:
    if isinstance(verify, bool):
        return verify
    path = os.fspath(verify)
    if not os.path.exists(path):
        raise ValueError(f"verify={path!r}: there is no such file or folder of CA certificates")
    return path


def _find_service(wire: ChatProtocol, base_url: Url | None, api_key: str | None) -> tuple[tuple[str, ...], str | None]:
    """Decide on hosts and key: from the arguments, then the environment, then the protocol."""
    urls = variable("CHATANYWHERE_BASE_URL") if base_url in (None, "") else base_url
    key = api_key or variable("CHATANYWHERE_API_KEY")
    their_url = variable(their_variable()) if wire.needs_key else None
    # A key and host set up for OpenAI's own library are meant for ChatAnywhere only if the host is one.
    is_ours = their_url is not None and _is_service(their_url)
    if urls is None:
        urls = their_url if is_ours and their_url else wire.base_urls
    try:
        hosts = _hosts(wire, urls)
    except ValueError as error:
        Secrets.of(key=key).remove_from(error)
        raise
    if is_ours and key is None and all(map(_is_service, hosts)):
        key = variable("OPENAI_API_KEY")
    if key is not None:
        key = key.strip()
        if key[:1] in _QUOTES or key[-1:] in _QUOTES:
            raise ValueError("the API key is in quotes, as a line of an env file may have it: take them off")
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                "the API key has a character that no key has (a space, a line break, not ASCII): copy it anew"
            )
        if wire.needs_key and any(map(_is_exposed, hosts)):
            _warn("the API key goes over http:// unencrypted: use an https:// base_url")
    return hosts, key or None


def _why_not_theirs(hosts: Sequence[str]) -> str:
    """Why the key that is set up for OpenAI's own library is not used, if there is one."""
    if variable("OPENAI_API_KEY") is None:
        return ""
    name = their_variable()
    their_url = variable(name)
    if their_url and _is_service(their_url):
        reason = f"goes to ChatAnywhere's hosts only, and base_url is {_shown(hosts)}"
    else:
        said = "is not set"
        if their_url:
            said = "looks like a key" if _LIKE_A_KEY.fullmatch(their_url) else f"is {without_secrets(their_url)}"
        reason = f"is used only if {name} names one of ChatAnywhere's hosts, and that {said}"
    return f". OPENAI_API_KEY is set, but {reason}"


def variable(name: str) -> str | None:
    """A variable of the environment, None if it is empty, as CI writes one that is not set."""
    return os.environ.get(name, "").strip() or None


def their_variable() -> str:
    """The variable that has the base URL of OpenAI's own library: its first versions had another one."""
    old, new = "OPENAI_API_BASE", "OPENAI_BASE_URL"
    return old if variable(old) and not variable(new) else new


def _shown(hosts: Sequence[str]) -> str:
    return ", ".join(map(without_secrets, hosts))


def _warn(message: str) -> None:
    """Warn, and name the line of the program that called into this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and (
        frame.f_globals.get("__package__") == __package__ or frame.f_code.co_filename == "<string>"  # a dataclass's
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_exposed(host: str) -> bool:
    """Whether what is sent to this host can be read on its way."""
    parts = urlsplit(host)
    return parts.scheme == "http" and not _is_loopback(parts)


def _is_loopback(parts: SplitResult) -> bool:
    """Whether the host of a URL is this machine: an address or, by RFC 6761 (section 6.3), a name."""
    name = parts.hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")


def _hosts(wire: ChatProtocol, urls: Url) -> tuple[str, ...]:
    hosts = tuple(_base_url(wire, url) for url in ([urls] if isinstance(urls, str) else urls))
    if not hosts:
        raise ValueError("base_url is empty: give a URL, or None for the live hosts")
    return tuple(dict.fromkeys(hosts))


def _base_url(wire: ChatProtocol, url: str) -> str:
    """Bring the spellings of a base URL to one: what precedes the path of an endpoint, and the query if there is one.

    A bare host gets the protocol's root, any other path is taken as it is. Where no scheme is given it is `https`,
    but `http` for this machine, whose servers seldom have a certificate.
    """
    if not isinstance(url, str):
        raise TypeError(f"base_url must be a str or several, not {type(url).__name__}")
    text = url.strip()
    has_scheme = "://" in text
    if not has_scheme and _LIKE_A_KEY.fullmatch(text):
        raise ValueError(
            "base_url looks like a key, which goes into api_key=; if it is a host, write https:// before it"
        )
    parts = _split(text if has_scheme else f"https://{text}")
    if parts and not has_scheme and _is_loopback(parts):
        parts = parts._replace(scheme="http")
    if not parts or parts.scheme not in ("http", "https") or not text.isprintable() or " " in text:
        shown = f"base_url={without_secrets(url)!r}" if has_scheme else "base_url"
        several = "; several are a list: [url, url]" if "," in text else ""
        raise ValueError(f"{shown}: not a URL such as https://api.chatanywhere.tech/v1{several}")
    if "@" in parts.netloc or parts.fragment:
        raise ValueError("base_url must have no user, password or fragment: the key goes into api_key=")
    path, full = parts.path.rstrip("/"), wire.chat.path.rstrip("/")
    if path.endswith(full):
        path = path.removesuffix(full)
    elif not wire.root:
        path = path.removesuffix("/v1")  # such a protocol has it in the paths of its endpoints
    else:
        path = path or wire.root
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}{path}{query}"


def endpoint_url(base_url: str, path: str, query: Sequence[tuple[str, str]] = ()) -> str:
    """Return where an endpoint is.

    Args:
        base_url: one of `Settings.hosts`.
        path: the endpoint's.
        query: further parameters; they replace those of the base URL that have the same names.
    """
    base, _, own = base_url.partition("?")
    names = {name for name, _ in query}
    parts = [part for part in own.split("&") if unquote_plus(part.partition("=")[0]) not in names]
    whole = "&".join(part for part in (*parts, urlencode(query)) if part)
    return f"{base}{path}?{whole}" if whole else base + path


def _split(url: str) -> SplitResult | None:
    """The parts of a URL, None if it has no valid host and port."""
    try:
        parts = urlsplit(url)
        valid = "[" in parts.netloc or _HOST_NAME.fullmatch(parts.hostname or "")
        return parts if valid and parts.port != 0 and not parts.netloc.endswith(":") else None
    except ValueError:
        return None


def _is_service(url: str) -> bool:
    parts = _split(url if "://" in url else f"https://{url}")
    return parts is not None and HOST.fullmatch(parts.hostname or "") is not None
