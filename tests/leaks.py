"""What an error, a client and the log let anybody see, and the search for a secret in it."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections import deque
from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType, TracebackType

import pytest

from chatanywhere import ChatAnywhereError, Client


def reachable(root: object) -> Iterator[str]:
    """All text that can be reached from an object by its attributes, items and causes."""
    seen: dict[int, object] = {}
    pending = deque([(root, 0)])
    opaque = (type, FunctionType, MethodType, ModuleType, TracebackType, int, float, type(None))
    while pending:
        value, depth = pending.popleft()
        if isinstance(value, opaque) or id(value) in seen or depth > 10:
            continue
        seen[id(value)] = value  # keeps it alive, so that its id is not given to another
        found: list[object] = []
        if isinstance(value, str):
            yield value
        elif isinstance(value, (bytes, bytearray)):
            yield bytes(value).decode("latin-1")
        elif isinstance(value, Mapping):
            found += [*value.keys(), *value.values()]
        elif isinstance(value, (list, tuple, set, frozenset)):
            found += value
        if isinstance(value, BaseException):
            found += [value.args, value.__cause__, value.__context__, getattr(value, "object", None)]
        found += getattr(value, "__dict__", {}).values()
        pending += [(item, depth + 1) for item in found]


def shown(error: ChatAnywhereError, client: Client, caplog: pytest.LogCaptureFixture) -> Iterator[tuple[str, str]]:
    """All that an error, a client and the log let anybody see, with the name of the place."""
    yield "str", str(error)
    yield "repr", repr(error)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield f"pickle protocol {protocol}", pickle.dumps(error, protocol).decode("latin-1")
    yield "traceback", "".join(traceback.format_exception(type(error), error, error.__traceback__))
    yield "repr(client)", repr(client)
    for record in caplog.records:
        yield "log", f"{logging.Formatter().format(record)} {record.args!r}"
    for text in reachable(error):
        yield "attribute", text


def leaks(shown: Iterator[tuple[str, str]], *secrets: str) -> list[str]:
    """The places that show a secret, as it is or as HTTP's Basic scheme has it."""
    return [f"{place}: {text:.200}" for place, text in shown if any(secret in text for secret in secrets)]
