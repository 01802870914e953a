"""Writes the JSON of requests from values as programs have them, and finds the one that has no JSON. No I/O."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_DEPTH = 6  # levels that the name of a place may have


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Write a request's body, in UTF-8. Half a character, which UTF-8 has not, is written as an escape.

    Objects with `model_dump()`, dataclasses, mappings and sequences of any kind may stand where JSON has objects and
    arrays.

    Raises:
        TypeError, ValueError: a value has no JSON; the message names its place.
    """
    try:
        text = json.dumps(body, ensure_ascii=False, allow_nan=False, default=_plain)
    except (RecursionError, TypeError, ValueError) as exc:
        kind = TypeError if isinstance(exc, TypeError) else ValueError
        raise kind(f"{_place(body) or 'the request'} can't be sent as JSON: {exc}") from exc
    return text.encode("utf-8", "backslashreplace")  # which writes a lone surrogate as JSON does


def edited(content: bytes, changes: Mapping[str, Any], *, without: Collection[str]) -> bytes:
    """Return a body written by `encode_json` with other values in some of its fields, and without some others."""
    fields = {**json.loads(content), **changes}
    return encode_json({name: value for name, value in fields.items() if name not in without})


def fields_of(value: object) -> Any:
    """What an object says of itself with `model_dump()`, or the fields of a dataclass; else None.

    Fields that are None are left out: such objects have one for everything that could have been there.
    """
    if isinstance(value, type):
        return None
    if callable(dump := getattr(value, "model_dump", None)):
        fields = dump()
    elif dataclasses.is_dataclass(value):
        fields = {each.name: getattr(value, each.name) for each in dataclasses.fields(value)}
    else:
        return None
    return {name: item for name, item in fields.items() if item is not None} if isinstance(fields, Mapping) else fields


def _plain(value: Any) -> Any:
    """Make of a value that JSON does not know one that it knows.

    Raises:
        TypeError: that is not possible.
    """
    from .._types import ToolCall, tool_call_fields  # here and not above, for importing the client is to be cheap

    if isinstance(value, ToolCall):
        return tool_call_fields(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray, memoryview)):
        return list(value)
    fields = fields_of(value)
    if fields is None:
        raise TypeError(f"{type(value).__name__} has no JSON{_remedy(value)}")
    return fields


def _remedy(value: Any) -> str:
    import datetime
    import enum
    import inspect
    import numbers

    if hasattr(value, "tolist"):  # numpy's numbers and arrays
        return "; give its tolist()"
    if isinstance(value, numbers.Number):
        return "; give an int or a float"
    if inspect.isroutine(value):
        return "; functions are for run_tools() and stream_tools()"
    if isinstance(value, (datetime.date, datetime.time)):
        return "; give its isoformat()"
    return "; give its value" if isinstance(value, enum.Enum) else ""


def _place(value: Any, name: str = "", depth: int = 0) -> str:
    """Name the innermost place whose value has no JSON: an option, and what in it."""
    if not isinstance(value, (dict, list, tuple)):
        try:
            value = _plain(value)
        except (TypeError, ValueError):
            return name
    children: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        children = [(f"{name}[{key!r}]" if name else str(key), item) for key, item in value.items()]
    elif isinstance(value, (list, tuple)):
        children = [(f"{name}[{index}]", item) for index, item in enumerate(value)]
    for place, item in children:
        if depth < _DEPTH and not _has_json(item):
            return _place(item, place, depth + 1)
    return name


def _has_json(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    except (RecursionError, TypeError, ValueError):
        return False
    return True
