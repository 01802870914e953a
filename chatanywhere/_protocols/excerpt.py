"""The part of an answer that an error shows. No I/O."""

from __future__ import annotations

import json
import re

MAX_MESSAGE = 500
"""Characters of an answer that are shown where it has no message."""

_BEFORE = 60  # characters in front of the place, and as many behind it
_BEHIND = 60
_BEGINNING = 200

_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x0c\\x0e-\\x1f\\x7f-\\x9f]|\r(?!\n)")


def excerpt(text: str, place: int = 0) -> str:
    """Quote what stands around a place; `…` is where something was left out."""
    start, end = max(0, place - _BEFORE), place + _BEHIND
    return _quoted(text, start, end)


def beginning(text: str) -> str:
    """Quote the beginning of what came in the place of an answer."""
    text = text[: 10 * _BEGINNING].strip()
    return _quoted(text, 0, _BEGINNING)


def _quoted(text: str, start: int, end: int) -> str:
    before = "…" if start else ""
    behind = "…" if end < len(text) else ""
    return repr(before + text[start:end] + behind)


def excerpt_around(text: str, exc: BaseException) -> str:
    """Say why a reader of JSON stopped, and quote what stands around the place, if it says so; else the beginning."""
    if isinstance(exc, json.JSONDecodeError):
        return f"{exc.msg}: {excerpt(text, exc.pos)}"
    return f"{exc}: {excerpt(text)}"


def shortened(text: str) -> str:
    """The beginning of a text, in one line."""
    return printable(" ".join(text.split())[:MAX_MESSAGE])


def printable(text: str) -> str:
    r"""Show the characters that `\u` escapes stand for, control characters as escapes, and as U+FFFD half a character.

    So no terminal obeys what a server says, and all can be encoded.
    """
    text = _CONTROL.sub(_escaped, _ESCAPES.sub(_characters, text))
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _characters(match: re.Match[str]) -> str:
    characters: str = json.loads(f'"{match[0]}"')
    return match[0] if _CONTROL.search(characters) else characters


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
