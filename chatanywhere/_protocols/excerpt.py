"""The part of an answer that an error shows. No I/O."""

from __future__ import annotations

import json

_BEFORE = 60  # characters in front of the place, and as many behind it
_BEHIND = 60


def excerpt(text: str, place: int = 0) -> str:
    """Quote what stands around a place; `…` is where something was left out."""
    start, end = max(0, place - _BEFORE), place + _BEHIND
    before = "…" if start else ""
    behind = "…" if end < len(text) else ""
    return repr(before + text[start:end] + behind)


def excerpt_around(text: str, exc: BaseException) -> str:
    """Quote what stands around the place where a reader of JSON stopped, if it says so; else the beginning."""
    return excerpt(text, exc.pos if isinstance(exc, json.JSONDecodeError) else 0)
