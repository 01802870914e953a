"""What of a request is recorded and compared: its method, its path and its body, without the keys in them."""

from __future__ import annotations

import base64
import functools
import http.client
import io
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from .redaction import MASK, Redactor, is_secret_name
from .request import WEB_PATH, Request, without_query

_MAX_BODY = 50 * 1024 * 1024  # bytes that a compressed body may come to
_MAX_DEPTH = 200  # of JSON that is compared as such
_MAX_DIFFERENCES = 100  # that are counted
_MAX_CANDIDATES = 500  # requests that are looked at for the nearest
_SHOWN = 40  # characters of a value
_FAR = 10**9  # characters, more than a body has: how far another method or path is

_ABSENT = object()


class Difference(NamedTuple):
    """In what a request differs from one that was recorded."""

    told: str
    size: int
    """How many characters of the two differ."""


@dataclass(frozen=True)
class RecordedRequest:
    """A request as it is recorded and compared.

    Two are the same if their methods are, their paths and queries, and their bodies: JSON and its numbers by value,
    forms by their fields, whatever the boundary between these, and anything else byte by byte.
    """

    method: str
    path: str
    """With `/v1`, which the request may have left out, and with the query."""
    body: Mapping[str, Any]
    """Nothing, or one member, which says what it is: `json`, `form`, `text` or `base64`."""

    @classmethod
    def of(cls, request: Request, redactor: Redactor, prefix: str = "/v1") -> RecordedRequest:
        """Return what is recorded of a request; `prefix` is a path in whose place `/v1` may stand."""
        path = "/v1" + below(request.path, prefix)
        body = _body(request.headers, redactor.hide(_unpacked(request)))
        if path == WEB_PATH and isinstance(body.get("json"), dict):
            body["json"].pop("id", None)  # the page makes up another one for each request
        _, mark, query = request.path.partition("?")
        path = redactor.hide_text(path) + mark + redactor.hide_query(query)
        return cls(request.method, path, body)

    @functools.cached_property
    def identity(self) -> str:
        """A text that is the same for the same requests, and for them only."""
        body = self.body
        if "form" in body:
            body = {"form": sorted(body["form"], key=lambda field: str(field["name"]))}
        return json.dumps([self.method, *self._target, body], sort_keys=True)

    @property
    def _target(self) -> tuple[str, list[tuple[str, str]]]:
        query = self.path.partition("?")[2]
        return unquote(without_query(self.path)), sorted(parse_qsl(query, keep_blank_values=True))

    def differences(self, asked: RecordedRequest) -> Iterator[Difference]:
        """Yield in what a request differs from this one, the most important first."""
        if self.method != asked.method:
            yield Difference(f"the method: {self.method} was recorded, not {asked.method}", _FAR)
        (path, query), (other_path, other_query) = self._target, asked._target
        if path != other_path:
            yield Difference(f"the path: {path} was recorded, not {other_path}", _FAR + _gap(path, other_path)[1])
        yield from _differences("query", dict(query), dict(other_query))
        nothing: tuple[str, Any] = ("nothing", None)
        (kind, mine), (other_kind, other) = [next(iter(each.body.items()), nothing) for each in (self, asked)]
        if kind != other_kind:
            yield Difference(f"the body: {kind} was recorded, not {other_kind}", _FAR)
        elif kind == "form":
            yield from _differences("", _by_name(mine), _by_name(other))
        else:
            yield from _differences("" if kind == "json" else "the body", mine, other)


def below(path: str, prefix: str) -> str:
    """Return a path without the query, and without `/v1` or another prefix."""
    path = without_query(path)
    for start in (prefix, "/v1"):
        if path == start or path.startswith(f"{start}/"):
            return path[len(start) :]
    return path


def nearest(
    recorded: Iterable[RecordedRequest], asked: RecordedRequest
) -> tuple[RecordedRequest, list[Difference]] | None:
    """Return the request that differs least from another, and in what; None if there are none."""
    best: tuple[RecordedRequest, list[Difference]] | None = None
    least = math.inf
    # Of many, those at the same path.
    candidates = sorted(recorded, key=lambda each: (each.method, each._target[0]) != (asked.method, asked._target[0]))
    for each in candidates[:_MAX_CANDIDATES]:
        differences = list(islice(each.differences(asked), _MAX_DIFFERENCES))
        size = sum(difference.size for difference in differences)
        if size < least:
            best, least = (each, differences), size
    return best


# Bodies


def _unpacked(request: Request) -> bytes:
    """Return a body without its compression, which packs the same in more than one way."""
    if request.headers.get("Content-Encoding", "").lower() in ("gzip", "x-gzip", "deflate"):
        unpacker = zlib.decompressobj(wbits=32 + zlib.MAX_WBITS)
        try:
            body = unpacker.decompress(request.body, _MAX_BODY)
        except zlib.error:
            return request.body
        if unpacker.eof:
            return body
    return request.body


def _body(headers: http.client.HTTPMessage, data: bytes) -> dict[str, Any]:
    if not data:
        return {}
    value = _json(data)
    if isinstance(value, (dict, list)):  # whatever it is called: curl calls everything a form
        return {"json": value}
    kind = headers.get_content_type()
    fields = None
    if kind.startswith("multipart/"):
        fields = _parts(data, headers.get_boundary(""))
    elif kind == "application/x-www-form-urlencoded":
        fields = [{"name": name, "text": value} for name, value in parse_qsl(data.decode("latin-1"), True)]
    return as_text(data) if fields is None else {"form": [_without_secret(field) for field in fields]}


def as_text(data: bytes) -> dict[str, str]:
    """Return bytes as a member of a JSON object: `text`, or `base64` where they are none in UTF-8."""
    try:
        return {"text": data.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(data).decode()}


def _json(data: bytes) -> Any:
    """Return the value of JSON, without secrets; None if it is none, or nested too deep."""
    if _is_deep(data):
        return None
    try:
        return json.loads(data, parse_float=_number, object_pairs_hook=_without_secrets)
    except (ValueError, RecursionError):
        return None


def _is_deep(data: bytes) -> bool:
    depth = 0
    for token in re.finditer(rb'"[^"\\]*(?:\\.[^"\\]*)*(?:"|\\?\Z)|[\[{]|[]}]', data, re.DOTALL):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(token[0], 0)
        if depth > _MAX_DEPTH:
            return True
    return False


def _number(text: str) -> float:
    """Return a number, and an int if it is one: JSON knows no difference between 1 and 1.0."""
    number = float(text)
    return int(number) if number.is_integer() else number


def _without_secrets(members: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: MASK if isinstance(value, str) and is_secret_name(name) else value for name, value in members}


def _without_secret(field: dict[str, str]) -> dict[str, str]:
    return {"name": field["name"], "text": MASK} if is_secret_name(field["name"]) else field


def _parts(data: bytes, boundary: str) -> list[dict[str, str]] | None:
    """Return the parts of a multipart body; None if it is malformed."""
    pieces = (b"\r\n" + data).split(b"\r\n--" + boundary.encode("latin-1", "replace"))
    if not boundary or len(pieces) < 2 or not pieces[-1].startswith(b"--"):
        return None
    fields = []
    for piece in pieces[1:-1]:
        head, blank, content = piece.partition(b"\r\n\r\n")
        if not blank:
            return None
        try:
            headers = http.client.parse_headers(io.BytesIO(head.lstrip(b" \t\r\n") + b"\r\n\r\n"))
        except http.client.HTTPException:
            return None
        name = headers.get_param("name", "", "Content-Disposition")
        field = {"name": name if isinstance(name, str) else name[2]}
        if (filename := headers.get_filename()) is not None:
            field["filename"] = filename
        if "Content-Type" in headers:
            field["type"] = headers.get_content_type()
        fields.append({**field, **as_text(content)})
    return fields


# Differences


def _by_name(fields: Iterable[Mapping[str, str]]) -> dict[str, Any]:
    """Return the fields of a form by name: their texts, or all that is known of a file; lists of these for several."""
    named: dict[str, list[Any]] = {}
    for field in fields:
        rest = {name: value for name, value in field.items() if name != "name"}
        named.setdefault(field["name"], []).append(rest["text"] if rest.keys() == {"text"} else rest)
    return {name: values[0] if len(values) == 1 else values for name, values in named.items()}


def _differences(place: str, recorded: Any, asked: Any) -> Iterator[Difference]:
    """Yield where two values differ, as a program writes it, such as `messages[1].content`, and how."""
    if isinstance(recorded, dict) and isinstance(asked, dict):
        for name in {**recorded, **asked}:
            below = f"{place}.{name}" if place else name
            yield from _differences(below, recorded.get(name, _ABSENT), asked.get(name, _ABSENT))
    elif isinstance(recorded, list) and isinstance(asked, list):
        for position in range(max(len(recorded), len(asked))):
            items = [each[position] if position < len(each) else _ABSENT for each in (recorded, asked)]
            yield from _differences(f"{place}[{position}]", *items)
    elif recorded is _ABSENT:
        yield Difference(f"{place}: it was not recorded, and is {_shown(asked)}", len(_as_json(asked)))
    elif asked is _ABSENT:
        yield Difference(f"{place}: {_shown(recorded)} was recorded, and it is missing", len(_as_json(recorded)))
    elif (mine := _as_json(recorded)) != (other := _as_json(asked)):
        start, size = 0, _gap(mine, other)[1]
        if isinstance(recorded, str) and isinstance(asked, str):
            start = max(0, _gap(recorded, asked)[0] - _SHOWN // 2)
        yield Difference(f"{place}: {_shown(recorded, start)} was recorded, not {_shown(asked, start)}", size)


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _gap(one: str, other: str) -> tuple[int, int]:
    """Return where two texts part, and how many characters lie between there and where they are the same again."""
    start = _length_in_common(one, other)
    end = _length_in_common(one[start:][::-1], other[start:][::-1])
    return start, max(len(one), len(other)) - start - end


def _length_in_common(one: str, other: str) -> int:
    """Return how many characters two texts begin with that are the same."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # by halves, since texts may be long
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _shown(value: Any, start: int = 0) -> str:
    """Return a value as JSON, a text from its `start` on, and a long one not to its end."""
    if isinstance(value, str):
        end = start + _SHOWN
        return _as_json("…" * (start > 0) + value[start:end] + "…" * (end < len(value)))
    text = _as_json(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
