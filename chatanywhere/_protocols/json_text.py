"""JSON texts (RFC 8259) that are read at once: limits of size and nesting, and pauses within long ones. No I/O."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Generator
from typing import Any

from .._errors import ProtocolError

MAX_JSON = 16 * 1024 * 1024
"""Bytes that a JSON text may have; an endpoint whose answers are larger says so."""

MAX_DEPTH = 100
"""How deep arrays and objects may be nested. Beyond, who prints, copies or pickles a value runs out of stack."""

_AT_ONCE = 100_000  # values that are read without a pause, which takes some hundredths of a second
_LONG_EVENT = 1_000_000  # values of a text that has to be read without a pause
_TURN = 2000  # values that are read between two pauses

_MAX_BARE_LINES = 200
_MAX_BARE_LINE = 64 * 1024  # characters

_BRACKETS = b"[]{}"
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # as signed numbers: one level down, one up
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))


class JSONText:
    """The content of an answer that is one JSON text.

    Args:
        limit: the bytes that it may have.
        charset: the encoding that it is labelled with, for what is not UTF-8; `""` if there is none.
    """

    def __init__(self, limit: int = MAX_JSON, charset: str = "") -> None:
        self._limit = limit
        self._charset = charset
        self._content = bytearray()

    def feed(self, block: bytes) -> None:
        """Take more of it.

        Raises:
            ProtocolError: it is larger than the limit.
        """
        self._content += block
        if len(self._content) > self._limit:
            self._content.clear()
            raise ProtocolError(f"the answer is one JSON text, and larger than the {self._limit} bytes it may have")

    def set_aside(self, name: bytes, least: int) -> list[bytearray]:
        """Take the strings of at least `least` bytes that members of this name have out of the text, and return them.

        `"@0"` stands in the text for the first. They need not be read as JSON then, which takes longer than all else;
        so none are where the text has an escape.
        """
        found: list[bytearray] = []
        if b"\\" in self._content:
            return found
        pieces = self._content.split(b'"')
        for number in range(3, len(pieces), 2):  # the others are between strings
            if len(pieces[number]) >= least and pieces[number - 2] == name and pieces[number - 1].strip() == b":":
                found.append(pieces[number])
                pieces[number] = bytearray(b"@%d" % (len(found) - 1))
        if found:
            self._content = bytearray(b'"').join(pieces)
        return found

    def take(self) -> str:
        """Return the text, and keep nothing of it.

        Raises:
            ValueError: it is not UTF-8, nor what it is labelled as.
        """
        content, self._content = self._content, bytearray()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            if not self._charset:
                raise
            return content.decode(self._charset)

    def read(self) -> Generator[None, None, Any]:
        """Take the text, and read it as `read` does."""
        return (yield from read(self.take()))


class BareJSON:
    """JSON that stands bare among the lines of something else, each value in one line, or pretty-printed."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, line: str) -> Any:
        """Return the array or object that a line completes; None if it completes none."""
        lines = self._lines
        begins = line.startswith(("{", "[{")) or line.rstrip() == "["
        if begins:
            lines.clear()
        if (begins or lines) and len(lines) < _MAX_BARE_LINES and len(line) < _MAX_BARE_LINE:
            lines.append(line)
        if line.rstrip().endswith(("}", "]")) and (len(lines) == 1 or line.startswith(("}", "]"))):
            try:
                return loads("\n".join(lines))
            except ValueError:
                pass  # it goes on, or is none
        return None


def read(text: str) -> Generator[None, None, Any]:
    """Return the value of a JSON text. Yields where there is much to read, so that limits and others have their turn.

    A thread would not do: the standard library's reader lets no other thread run until it is through.

    Raises:
        ValueError: it is not JSON, or is nested too deeply.
    """
    if _count_values(text) <= _AT_ONCE:
        return loads(text)
    return (yield from _read_slowly(text))


def loads(text: str) -> Any:
    """Read a JSON text as `json.loads` does, within limits.

    Raises:
        ValueError: it is not JSON, is nested too deeply, or has so many values that reading it at once would take long.
    """
    check(text)
    return json.loads(text)


def check(text: str) -> None:
    """See to it that a JSON text can be read at once, and its value be gone through by recursion.

    Raises:
        ValueError: it can't.
    """
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise _too_deep()
    if len(text) > _LONG_EVENT and _count_values(text) > _LONG_EVENT:
        raise ValueError(f"more than {_LONG_EVENT} values to be read at once")


def _depth(text: str) -> int:
    """How deep brackets are nested outside of strings. If the text is not JSON, the number means nothing."""
    content = text.encode("utf-8", "surrogatepass").replace(rb"\\", b"").replace(rb"\"", b"")
    outside = b"".join(content.split(b'"')[::2])
    steps = memoryview(outside.translate(_STEPS, _OTHERS)).cast("b")
    return max(itertools.accumulate(steps), default=0)


def _count_values(text: str) -> int:
    """How many values there are, at the most: each but the first follows a bracket or a comma."""
    return text.count(",") + text.count("[") + text.count("{") + 1


def _too_deep() -> ValueError:
    return ValueError(f"nested deeper than {MAX_DEPTH} levels")


_to_next = re.compile(r"[ \t\n\r]*").match
_match_numbers = re.compile(r"\[[-+.0-9eE, \t\n\r]{1,100000}\]").match  # a short array of nothing else
_KINDS: dict[str, tuple[type[Any], str]] = {"[": (list, "]"), "{": (dict, "}")}  # how they begin and end
_read_value = json.JSONDecoder().raw_decode


def _read_slowly(text: str) -> Generator[None, None, Any]:
    """Do what `json.loads` does, with pauses; strings, numbers and words are left to it."""
    around: list[tuple[Any, str]] = []  # the arrays and objects around this place, and what closes them
    names: list[str] = []  # of the members that are being read, one for each object around
    position = _skip(text, 0)
    count = 0
    while True:
        count += 1
        if count >= _TURN:
            count = 0
            yield
        opener = text[position : position + 1]
        if opener == "[" and len(around) < MAX_DEPTH and (numbers := _match_numbers(text, position)):
            value = json.loads(numbers[0])
            position = numbers.end()
            count += len(value)
        elif opener in _KINDS:
            if len(around) == MAX_DEPTH:
                raise _too_deep()
            kind, closer = _KINDS[opener]
            value = kind()
            position = _skip(text, position + 1)
            if not text.startswith(closer, position):
                around.append((value, closer))
                position = _read_name(text, position, names) if closer == "}" else position
                continue
            position += 1
        else:
            value, position = _read_value(text, position)
        while around:
            container, closer = around[-1]
            if closer == "]":
                container.append(value)
            else:
                container[names.pop()] = value
            position = _skip(text, position)
            if text.startswith(closer, position):
                value, _ = around.pop()
                position += 1
            elif text.startswith(",", position):
                position = _skip(text, position + 1)
                if closer == "}":
                    position = _read_name(text, position, names)
                break
            else:
                raise ValueError(f"neither ',' nor {closer!r} at character {position}")
        else:
            if _skip(text, position) != len(text):
                raise ValueError(f"more than one value, from character {position} on")
            return value


def _read_name(text: str, position: int, names: list[str]) -> int:
    """Append the name of a member; return the place of its value."""
    name, position = _read_value(text, position)
    position = _skip(text, position)
    if not isinstance(name, str) or not text.startswith(":", position):
        raise ValueError(f"no name of a member before character {position}")
    names.append(sys.intern(name))  # each name is kept once
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    """The place behind blanks."""
    match = _to_next(text, position)
    assert match is not None, "none are blanks too"
    return match.end()
