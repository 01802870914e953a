"""The options of a conversation's turns: which there may be, and which are saved. No I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .message import as_json

FOR_TOOLS = ("max_rounds", "on_round", "parallel")
"""Options of a run of tools, and of no other call."""

_NOT_SAVED = (
    *FOR_TOOLS,
    *("extra_headers", "extra_query", "headers"),  # which may hold secrets
    *("keep_text", "max_response_bytes", "retry", "stream", "timeout"),
)


def checked(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that a turn may have.

    Raises:
        TypeError, ValueError: one of them can't be used in a conversation.
    """
    if "messages" in options:
        raise TypeError("messages= is for conversation(): give messages that come next in the place of the text")
    if not options.get("keep_text", True):
        raise ValueError("keep_text=False keeps no answer that could enter the conversation: use client.stream()")
    return dict(options)


def limit(name: str, value: int | None) -> int | None:
    """Return how much is sent at most, None for no limit.

    Raises:
        TypeError, ValueError: it is no such limit.
    """
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise TypeError(f"{name} must be an int or None, not {type(value).__name__}")
    if value is not None and value < 1:
        raise ValueError(f"{name}={value}: 1 is the least, which sends the question only; None is for no limit")
    return value


def saved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are kept: neither keys nor headers, nor limits, nor what JSON can't have."""
    return {name: value for name, value in options.items() if name not in _NOT_SAVED and _has_json(value)}


def _has_json(value: Any) -> bool:
    try:
        as_json({"": value})
    except (TypeError, ValueError):
        return False
    return True
