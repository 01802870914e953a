"""The blocking client: what was configured, and the calls made from it."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Union
from urllib.parse import SplitResult, urlsplit

from ._call import Call, Service
from ._errors import AuthenticationError, ProtocolError
from ._http.transport import Transport, checked_proxy
from ._policy import Retry, RetryLike, Timeout, TimeoutLike
from ._protocols.openai import KEY_PAGE, WIRES, Wire, conversation
from ._stream import Stream
from ._types import Completion, Messages

if TYPE_CHECKING:
    from ._async_client import AsyncClient


class _Default:
    """Says that an argument was not given, where None means "off"."""

    def __repr__(self) -> str:
        return "<the client's>"


DEFAULT: Any = _Default()

Url = Union[str, Sequence[str]]


class Client:
    """A client of the ChatAnywhere chat service, or of a server that speaks one of its two protocols.

    It holds configuration and a connection pool. Threads may share it, a process may go on using it after a
    fork, and it pickles: its configuration only, and never the key, which the new process reads from its own
    environment. What `headers` and `proxy` hold is configuration, secrets included.

    Args:
        api_key: the key; else `CHATANYWHERE_API_KEY`, else `OPENAI_API_KEY` if `OPENAI_BASE_URL` (or
            `OPENAI_API_BASE`) names a ChatAnywhere host. The `web` protocol sends none.
        base_url: the host, with or without `/v1` or the full path, or several to try in order while one
            can't be reached; else `CHATANYWHERE_BASE_URL`, else `OPENAI_BASE_URL` as above, else the live hosts.
        protocol: `"openai"`, the live service, or `"web"`, the original page's backend.
        model: else `CHATANYWHERE_MODEL`, else `gpt-4o-mini` (`gpt-3.5-turbo` on `web`).
        timeout: a `Timeout`, a number of seconds for the whole call, or None for no limit.
        retry: a `Retry`, a number of attempts in all, or None for one.
        proxy: a URL: `http://`, `https://`, `socks5://`, `socks5h://`; None takes the environment's, `""` none.
        verify: whether to verify TLS certificates, or the path of a file or folder of CA certificates.
        headers: sent with every request; they replace the client's own of the same name.
        max_response_bytes: the largest answer, in bytes after decompression; None for no limit.

    Raises:
        ValueError, TypeError: an argument can't be used; the message names the remedy.
        AuthenticationError: the `openai` protocol needs a key and there is none (`attempts` is 0).
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: Url | None = None,
        protocol: Literal["openai", "web"] = "openai",
        model: str | None = None,
        timeout: TimeoutLike = Timeout(),  # noqa: B008  frozen
        retry: RetryLike = Retry(),  # noqa: B008  frozen
        proxy: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = 256 * 1024 * 1024,
    ) -> None:
        if protocol not in WIRES:
            raise ValueError(f"protocol={protocol!r}: choose one of {', '.join(map(repr, WIRES))}")
        wire = WIRES[protocol]
        _check_types(
            api_key=api_key,
            base_url=base_url,
            model=model,
            proxy=proxy,
            verify=verify,
            headers=headers,
            max_response_bytes=max_response_bytes,
        )
        hosts, key = _find_service(wire, base_url, api_key)
        self._settings: dict[str, Any] = {
            "base_url": base_url,
            "protocol": protocol,
            "model": model,
            "timeout": timeout,
            "retry": retry,
            "proxy": proxy,
            "verify": verify,
            "headers": headers,
            "max_response_bytes": max_response_bytes,
        }
        self._model = model or os.environ.get("CHATANYWHERE_MODEL") or wire.default_model
        self._timeout = Timeout.of(timeout)
        self._retry = Retry.of(retry)
        self._headers = _checked_headers(headers)
        if max_response_bytes is not None and max_response_bytes < 1:
            raise ValueError(
                f"max_response_bytes={max_response_bytes}: a positive number of bytes, or None for no limit"
            )
        if not isinstance(verify, bool):
            verify = os.fspath(verify)
        if isinstance(verify, str) and not os.path.exists(verify):
            raise ValueError(f"verify={verify!r}: there is no such file or folder of CA certificates")
        transport = Transport(proxy=checked_proxy(proxy) if proxy else proxy, verify=verify)
        self._service = Service(wire, hosts, key, transport, max_response_bytes)
        self._check_key()  # the last thing, so that unpickling can do without

    def _check_key(self) -> None:
        if self._service.wire.needs_key and self._service.api_key is None:
            raise AuthenticationError(
                f"no API key: set CHATANYWHERE_API_KEY or pass api_key=. Keys are given out at {KEY_PAGE}",
                status_code=401,
            )

    def stream(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        keep_text: bool = True,
        **options: Any,
    ) -> Stream:
        """Ask, and return the answer's stream once its headers have come.

        Args:
            messages: a str, which is one user message, or a list of `{"role": …, "content": …}` dicts.
            model: instead of the client's.
            timeout: instead of the client's.
            retry: instead of the client's.
            headers: in addition to the client's.
            keep_text: False for an answer so long that its text would fill the memory: the pieces are given out
                only, and `text`, `reasoning`, `completion.text` and an error's `partial` stay empty.
            options: go into the request's JSON body as they are (`temperature`, `max_tokens`, `tools` …);
                None leaves the field out.

        Raises:
            ChatAnywhereError: the service can't be reached, is too slow, or answers with an error.
            ValueError, TypeError: an argument can't be sent. Nothing has been.
        """
        return Stream(self._call(messages, model, timeout, retry, headers, options), keep_text=keep_text)

    def complete(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Completion:
        """Ask, and return the whole answer. Arguments and errors are those of `stream`."""
        with self.stream(messages, model=model, timeout=timeout, retry=retry, headers=headers, **options) as stream:
            for _ in stream:
                pass
            return stream.completion

    def models(self) -> list[str]:
        """Ask the service which models it has (`GET /v1/models`), and return their ids.

        Raises:
            ChatAnywhereError: it can't be reached, or answers with an error.
            RuntimeError: the `web` protocol can't be asked.
        """
        return model_ids(self._models_call().read())

    def _models_call(self) -> Call:
        if self._service.wire.name != "openai":
            raise RuntimeError("the web protocol can't be asked for its models: use protocol='openai'")
        self._check_key()
        return Call(self._service, "/v1/models", None, self._headers, self._timeout, self._retry)

    def _call(
        self,
        messages: str | Messages,
        model: str | None,
        timeout: TimeoutLike,
        retry: RetryLike,
        headers: Mapping[str, str] | None,
        options: Mapping[str, Any],
    ) -> Call:
        self._check_key()
        if "stream" in options:
            raise TypeError("stream= is not an option: stream() always streams, complete() returns the whole answer")
        _check_types(model=model, headers=headers)
        wire = self._service.wire
        body = wire.body(conversation(messages), model or self._model, options)
        return Call(
            self._service,
            wire.path,
            _encoded({name: value for name, value in body.items() if value is not None}),
            {**self._headers, **_checked_headers(headers)},
            self._timeout if timeout is DEFAULT else Timeout.of(timeout),
            self._retry if retry is DEFAULT else Retry.of(retry),
        )

    def as_async(self, *, max_threads: int = 40) -> AsyncClient:
        """Return an `AsyncClient` that shares this client's settings and connections."""
        from ._async_client import AsyncClient

        return AsyncClient.from_sync(self, max_threads=max_threads)

    def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self._service.transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self._settings

    def __setstate__(self, state: dict[str, Any]) -> None:
        with suppress(AuthenticationError):  # a client without a key says so when it is used
            self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        service = self._service
        return f"Client(protocol={service.wire.name!r}, base_url={service.hosts!r}, model={self._model!r})"


# Configuration ------------------------------------------------------------------------------------------------

_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "api_key": ((str, type(None)), "a str"),
    "base_url": ((str, Iterable, type(None)), "a str or several"),
    "model": ((str, type(None)), "a str"),
    "proxy": ((str, type(None)), "a str"),
    "verify": ((bool, str, os.PathLike), "True, False or a path"),
    "headers": ((Mapping, type(None)), "a dict"),
    "max_response_bytes": ((int, type(None)), "an int, or None for no limit"),
}


def _check_types(**arguments: object) -> None:
    for name, value in arguments.items():
        types, words = _TYPES[name]
        if not isinstance(value, types):
            raise TypeError(f"{name} must be {words}, not {type(value).__name__}")


_SERVICE_HOST = re.compile(r"(.*\.)?chatanywhere\.(tech|org|cn|com\.cn)")
_WIRE_PATHS = ("/v1/chat/completions", "/v1/chat/gpt", "/v1")


def _find_service(wire: Wire, base_url: Url | None, api_key: str | None) -> tuple[tuple[str, ...], str | None]:
    """Decide on hosts and key: from the arguments, then the environment, then the protocol."""
    urls = (os.environ.get("CHATANYWHERE_BASE_URL") or None) if base_url in (None, "") else base_url
    key = api_key or os.environ.get("CHATANYWHERE_API_KEY")
    if wire.needs_key:
        # A key and host set up for OpenAI's own library are meant for ChatAnywhere only if the host is one.
        their_url = os.environ.get("OPENAI_BASE_URL") or os.environ.get("OPENAI_API_BASE")
        if their_url and _is_service(their_url):
            urls = their_url if urls is None else urls
            if key is None and all(map(_is_service, _hosts(urls))):
                key = os.environ.get("OPENAI_API_KEY")
    hosts = _hosts(wire.base_urls if urls is None else urls)
    if key is not None:
        key = key.strip()
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            raise ValueError(
                "the API key has a character that no key has (a space, a line break, not ASCII): copy it anew"
            )
        if wire.needs_key and any(map(_is_exposed, hosts)):
            _warn("the API key goes over http:// unencrypted: use an https:// base_url")
    return hosts, key or None


def _warn(message: str) -> None:
    """Warn, and name the line of the program that called into this package."""
    frame, level = sys._getframe(), 1
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, stacklevel=level)


def _is_exposed(host: str) -> bool:
    """Whether what is sent to this host can be read on its way."""
    parts = urlsplit(host)
    name = parts.hostname or ""
    try:
        loopback = ipaddress.ip_address(name).is_loopback
    except ValueError:
        loopback = name == "localhost" or name.endswith(".localhost")
    return parts.scheme == "http" and not loopback


def _hosts(urls: Url) -> tuple[str, ...]:
    hosts = tuple(_host(url) for url in ([urls] if isinstance(urls, str) else urls))
    if not hosts:
        raise ValueError("base_url is empty: give a URL, or None for the live hosts")
    return tuple(dict.fromkeys(hosts))


def _host(url: str) -> str:
    """Bring the spellings of a base URL to one: scheme, host and port, and what stands before `/v1`."""
    if not isinstance(url, str):
        raise TypeError(f"base_url must be a str or several, not {type(url).__name__}")
    text = url.strip()
    if "://" not in text:
        text = f"https://{text}"
    parts = _split(text)
    if not parts or parts.scheme not in ("http", "https"):
        raise ValueError(f"base_url={url!r}: not a URL such as https://api.chatanywhere.tech")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError("base_url must have no user, password, query or fragment: the key goes into api_key=")
    path = parts.path.rstrip("/")
    for ending in _WIRE_PATHS:
        if path.endswith(ending):
            path = path[: -len(ending)]
            break
    return f"{parts.scheme}://{parts.netloc}{path}"


def _split(url: str) -> SplitResult | None:
    """The parts of a URL, None if it has no valid host and port."""
    try:
        parts = urlsplit(url)
        return parts if parts.hostname and parts.port != 0 else None
    except ValueError:
        return None


def _is_service(url: str) -> bool:
    parts = _split(url if "://" in url else f"https://{url}")
    return parts is not None and _SERVICE_HOST.fullmatch(parts.hostname or "") is not None


def _checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    checked = {}
    for name, value in (headers or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"headers[{name!r}]: names and values must be str")
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"headers: {name!r} is not the name of a header (RFC 9110, section 5.1)")
        if name.lower() in ("content-length", "transfer-encoding"):
            raise ValueError(f"headers: {name!r} is set by the client, from what it sends")
        try:
            value.encode("latin-1")
        except UnicodeEncodeError:
            raise ValueError(f"headers[{name!r}] has a character that is not Latin-1") from None
        if re.search(r"[\r\n\0]", value):
            raise ValueError(f"headers[{name!r}] has a line break or a NUL")
        checked[name] = value.strip()
    return checked


def model_ids(content: bytes) -> list[str]:
    """Read the answer to `GET /v1/models`."""
    try:
        return [model["id"] for model in json.loads(content)["data"]]
    except (ValueError, KeyError, TypeError) as exc:
        raise ProtocolError("the answer is not a list of models") from exc


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(body, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"the request can't be sent as JSON: {exc}") from exc
