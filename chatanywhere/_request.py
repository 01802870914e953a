"""Requests to any endpoint, by its path: what is sent, and the answer as it is. Knows no client."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import unquote

from ._call import Call
from ._config import check_types, parameters
from ._policy import RetryLike, TimeoutLike
from ._protocols.decoder import Decoder
from ._protocols.head import AnswerHead
from ._protocols.json_body import encode_json
from ._protocols.json_text import JSONText
from ._protocols.protocol import Endpoint, bearer, read_answer
from ._service import Service

_METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

FileLike: TypeAlias = "str | os.PathLike[str] | bytes | BinaryIO | tuple[str, Any] | tuple[str, Any, str]"
"""The path of a file, its content, a file that is open in binary mode, or `(name, content)` or with a media type."""

Files: TypeAlias = "Mapping[str, FileLike | list[FileLike]]"
"""Files by the names of their fields."""


@dataclass(frozen=True, slots=True)
class RawResponse:
    """An answer as it is: speech, a picture, a file.

    Attributes:
        content: the body.
        headers: with case-insensitive keys.
        status_code: 2xx, for any other is an error.
    """

    content: bytes = field(repr=False)
    headers: Mapping[str, str]
    status_code: int


class _JSONOrNothing(Decoder[tuple[Any]]):
    """Reads JSON of any kind, and None where there is none. The value is in a tuple, for None is no event."""

    def __init__(self, max_json: int, head: AnswerHead) -> None:
        self._text = JSONText(max_json, head.charset)
        self._is_empty = True

    def feed(self, block: bytes, events: list[tuple[Any]]) -> None:
        self._is_empty = self._is_empty and block.isspace()
        self._text.feed(block)

    def finish(self, events: list[tuple[Any]]) -> Iterator[None]:
        value = None
        if not self._is_empty:
            _, value = yield from read_answer(self._text, "JSON (raw=True gives it as it is)")
        events.append((value,))

    def is_whole(self, choices: int) -> bool:
        return self._text.is_whole


class _RawDecoder(Decoder[tuple[Any]]):
    """Keeps the bytes of an answer."""

    def __init__(self) -> None:
        self._blocks: list[bytes] = []

    def feed(self, block: bytes, events: list[tuple[Any]]) -> None:
        self._blocks.append(block)

    def finish(self, events: list[tuple[Any]]) -> None:
        events.append((b"".join(self._blocks),))


def any_call(
    service: Service,
    method: str,
    path: str,
    json: Any,
    *,
    query: Mapping[str, Any] | None,
    files: Files | None,
    raw: bool,
    timeout: TimeoutLike,
    retry: RetryLike,
    headers: Mapping[str, str] | None,
) -> Call[tuple[Any]]:
    """Prepare a request to the endpoint at a path; see `Client.request`. Its answer is to be read by `result`.

    Raises:
        ValueError, TypeError: an argument can't be sent.
        OSError: a file can't be read.
    """
    check_types(query=query, files=files, raw=raw, headers=headers)
    limit = service.settings.largest_response()
    content, media_type = _content(json, files)
    accepted = "*/*" if raw else "application/json"
    if files is not None:
        headers = {**(headers or {}), "Content-Type": media_type or ""}  # which alone has the form's boundary

    def own_headers(base_url: str, api_key: str | None) -> dict[str, str]:
        fields = {**bearer(base_url, api_key), "Accept": accepted, "Content-Type": media_type}
        return {name: value for name, value in fields.items() if value is not None}

    path = _checked_path(path, service.settings.hosts)
    endpoint: Endpoint[tuple[Any]] = Endpoint(
        _checked_method(method),
        path,
        (lambda _, __: _RawDecoder()) if raw else (lambda head, max_json: _JSONOrNothing(max_json, head)),
        own_headers,
        lambda _: content or b"",
        max_json=sys.maxsize if limit is None else limit,
        silent=True,
        operation="embeddings" if path == "/embeddings" else "request",
    )
    model = json.get("model") if isinstance(json, Mapping) else None
    names = (model if isinstance(model, str) else "",)
    body: dict[str, Any] | None = None if content is None else {}  # which `content` stands for
    return service.ask(endpoint, body, timeout=timeout, retry=retry, headers=headers, query=query, names=names)


def result(call: Call[tuple[Any]], answer: tuple[Any]) -> Any:
    """Return what a call has come to: JSON, or a `RawResponse`."""
    (value,) = answer
    response = call.response
    if isinstance(value, bytes) and response is not None:
        return RawResponse(value, call.headers, response.status_code)
    return value


def _checked_method(method: str) -> str:
    if not isinstance(method, str) or method.upper() not in _METHODS:
        raise ValueError(f"method={method!r}: one of {', '.join(_METHODS)}")
    return method.upper()


def _checked_path(path: str, hosts: Sequence[str]) -> str:
    if not isinstance(path, str):
        raise TypeError(f"path must be a str such as '/images/generations', not {type(path).__name__}")
    if "://" in path or path.startswith("//"):
        raise ValueError(f"path={path!r}: the key would go elsewhere. Give what follows the base URL, such as '/files'")
    if "?" in path or "#" in path:
        raise ValueError(f"path={path!r}: give what follows '?' as query={{…}}")
    if not path.strip("/") or not path.isprintable():
        raise ValueError(f"path={path!r}: not a path such as '/images/generations'")
    if any(part in (".", "..") for part in unquote(path).replace("\\", "/").split("/")):
        raise ValueError(f"path={path!r}: '.' and '..' would lead out of the base URL")
    path = f"/{path.removeprefix('/')}"
    if path.startswith("/v1/") and all(host.partition("?")[0].endswith("/v1") for host in hosts):
        raise ValueError(f"path={path!r}: the base URL ends in /v1 already. Give {path[3:]!r}")
    return path


def _content(json: Any, files: Files | None) -> tuple[bytes | None, str | None]:
    """Return the body and its media type."""
    if files is not None:
        if json is not None and not isinstance(json, Mapping):
            raise TypeError(f"json must be a dict where there are files, not {type(json).__name__}")
        from ._http.form import encode_form  # few need it

        opened = [(name, _opened(name, file)) for name, each in files.items() for file in _several(each)]
        return encode_form(parameters(json or {}), opened)
    if json is None:
        return None, None
    if isinstance(json, (str, bytes, bytearray)):
        raise TypeError(f"json must be a dict or a list, which is written as JSON here, not {type(json).__name__}")
    return encode_json(json), "application/json"


def _several(files: Any) -> list[Any]:
    return files if isinstance(files, list) else [files]


def _opened(name: str, file: Any) -> tuple[str, bytes, str | None]:
    """Return a file's name, content and media type, the last None if it was not given."""
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return os.path.basename(os.fspath(file)), opened.read(), None
    if isinstance(file, tuple) and len(file) in (2, 3):
        file_name, content, media_type = (*file, None)[:3]
    else:
        named = getattr(file, "name", None)
        file_name, content, media_type = os.path.basename(named) if isinstance(named, str) else name, file, None
    if hasattr(content, "read"):
        content = content.read()
    if not isinstance(content, (bytes, bytearray, memoryview)):
        what = "give a path, bytes, (name, bytes) or a file open in binary mode"
        raise TypeError(f"files[{name!r}]: {what}, not {type(content).__name__}")
    if not isinstance(file_name, str) or not isinstance(media_type, (str, type(None))):
        raise TypeError(f"files[{name!r}]: the name and the media type must be str")
    if media_type is not None and not media_type.isprintable():
        raise ValueError(f"files[{name!r}]: {media_type!r} is not a media type such as 'audio/mpeg'")
    return file_name, bytes(content), media_type
