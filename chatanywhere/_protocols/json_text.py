"""JSON texts (RFC 8259) that are read at once: limits of size and nesting, and pauses within long ones. No I/O."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Generator, Iterator
from json import JSONDecodeError
from typing import Any, NamedTuple, NoReturn

from .._errors import ProtocolError

MAX_JSON = 16 * 1024 * 1024
"""Bytes that a JSON text may have; an endpoint whose answers are larger says so."""

MAX_DEPTH = 100
"""How deep arrays and objects may be nested. Beyond, who prints, copies or pickles a value runs out of stack."""

_BYTES_PER_VALUE = 8  # of the limit of a text's size: small values take ten times the memory of their characters
_AT_ONCE = 100_000  # values that are read without a pause, which takes some hundredths of a second
_LONG_EVENT = 1_000_000  # values of a text that has to be read without a pause
_TURN = 2000  # values that are read between two pauses

_MAX_BARE = 64 * 1024  # characters

_BRACKETS = b"[]{}"
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\xff\x01\xff")  # as signed numbers: one level down, one up
_OTHERS = bytes(set(range(256)) - set(_BRACKETS))


class JSONText:
    """The content of an answer that is one JSON text.

    Args:
        limit: the bytes that it may have, also an attribute.
        charset: the encoding that it is labelled with, for what is not UTF-8; `""` if there is none.
    """

    def __init__(self, limit: int = MAX_JSON, charset: str = "") -> None:
        self.limit = limit
        self._charset = charset
        self._content = bytearray()
        self._brackets = _Brackets()

    @property
    def is_whole(self) -> bool:
        """Whether nothing can belong to it that has not come yet."""
        return self._brackets.are_closed

    def feed(self, block: bytes) -> None:
        """Take more of it.

        Raises:
            ProtocolError: it is larger than the limit.
        """
        self._content += block
        if len(self._content) > self.limit:
            self._content.clear()
            raise ProtocolError(f"the answer is one JSON text, and larger than the {self.limit} bytes it may have")
        self._brackets.feed(block)

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
            UnicodeDecodeError: it is not UTF-8, nor what it is labelled as.
        """
        content, self._content = self._content, bytearray()
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            if not self._charset:
                raise
            return content.decode(self._charset)


class BareJSON:
    """JSON that stands bare among the lines of something else, each value in one line, or pretty-printed."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._lines: list[str] = []
        self._size = 0
        self._brackets = _Brackets()

    def add(self, line: str) -> Any:
        """Return the array or object that a line completes; None if it completes none.

        However many lines there are, each is read twice at the most.
        """
        begins = line.lstrip()[:1] in _KINDS
        if not (begins or self._lines):
            return None
        self._size += len(line)
        if self._size > _MAX_BARE:
            self._clear()
            return None
        value = _value_of(line) if begins else None
        if value is None:
            self._lines.append(line)
            self._brackets.feed(line.encode("utf-8", "surrogatepass"))
            if not self._brackets.are_closed:
                return None
            value = _value_of("\n".join(self._lines)) if len(self._lines) > 1 else None
        self._clear()
        return value


def _value_of(text: str) -> Any:
    """The array or object that a text is; None if it is none, or has no end."""
    brackets = _Brackets()
    brackets.feed(text.encode("utf-8", "surrogatepass"))
    try:
        return loads(text) if brackets.are_closed else None
    except JSONDecodeError:
        return None


class _Brackets:
    """Follows the brackets of a JSON text that comes in blocks.

    Attributes:
        are_closed: there have been some, and each that was opened has been closed.
    """

    def __init__(self) -> None:
        self.are_closed = False
        self._opened = 0
        self._closed = 0
        self._in_string = False
        self._cut = b""  # a backslash at the end of a block

    def feed(self, block: bytes) -> None:
        block, self._cut = self._cut + block, b""
        if (len(block) - len(block.rstrip(b"\\"))) % 2:
            block, self._cut = block[:-1], b"\\"
        parts = _without_escapes(block).split(b'"')
        outside = b"".join(parts[self._in_string :: 2])
        self._in_string ^= len(parts) % 2 == 0
        self._opened += outside.count(b"[") + outside.count(b"{")
        self._closed += outside.count(b"]") + outside.count(b"}")
        self.are_closed = self._opened == self._closed > 0


class Found(NamedTuple):
    """A value of a JSON text, from where it begins to where the next may."""

    value: Any
    start: int
    end: int


def read_all(text: str, limit: int = MAX_JSON) -> Iterator[Found | None]:
    """Yield the values that stand in a text one behind the other, at least one.

    None is yielded where there is much to read, so that limits and others have their turn. A thread would not do: the
    standard library's reader lets no other thread run until it is through.

    Args:
        text: what follows the last value has to be JSON too.
        limit: the bytes that the text may have; more values than one for each eight of them are too many.

    Raises:
        JSONDecodeError: what follows is not JSON, or is beyond the limits.
    """
    slowly = _count_values(text) > _AT_ONCE
    if not slowly:
        check(text)
    end = _skip(text, 0)
    while True:
        start = end
        if slowly:
            value, end = yield from _read_slowly(text, start, limit // _BYTES_PER_VALUE)
        else:
            value, end = _read_value(text, start)
        end = _skip(text, end)
        yield Found(value, start, end)
        if end == len(text):
            return


def read(text: str, limit: int = MAX_JSON) -> Generator[None, None, Any]:
    """Return the one value of a text. Yields, and raises, as `read_all` does."""
    value = None
    for found in read_all(text, limit):
        if found is None:
            yield
        elif found.end < len(text):
            raise JSONDecodeError("Extra data", text, found.end)
        else:
            value = found.value
    return value


def loads(text: str) -> Any:
    """Read a JSON text as `json.loads` does, within limits.

    Raises:
        JSONDecodeError: it is not JSON, is nested too deeply, or has so much that reading it at once would take long.
            Nothing else that may come out of the reader, so that what a signal handler raises passes.
    """
    check(text)
    try:
        return json.loads(text)
    except (RecursionError, ValueError) as exc:
        _reraise(exc, text)


def check(text: str) -> None:
    """See to it that a JSON text can be read at once, and its value be gone through by recursion.

    Raises:
        JSONDecodeError: it can't.
    """
    if len(text) < 2 * MAX_DEPTH:
        return
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(text) > MAX_DEPTH:
        raise JSONDecodeError(_TOO_DEEP, text, 0)
    if len(text) > _LONG_EVENT and _count_values(text) > _LONG_EVENT:
        raise JSONDecodeError(f"more than {_LONG_EVENT} values to be read at once", text, 0)


def _reraise(exc: RecursionError | ValueError, text: str, position: int = 0) -> NoReturn:
    """Raise what the standard library's reader says as what it is: some of it has a class that is anyone's."""
    if type(exc) in (RecursionError, ValueError):  # a number with too many digits
        raise JSONDecodeError(str(exc), text, position) from exc
    try:
        raise exc
    finally:
        del exc  # its traceback has this frame, and with it, until the garbage is collected, whoever was reading


_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


def _depth(text: str) -> int:
    """How deep brackets are nested outside of strings. If the text is not JSON, the number means nothing."""
    outside = b"".join(_without_escapes(text.encode("utf-8", "surrogatepass")).split(b'"')[::2])
    steps = memoryview(outside.translate(_STEPS, _OTHERS)).cast("b")
    return max(itertools.accumulate(steps), default=0)


def _without_escapes(content: bytes) -> bytes:
    """A JSON text in which each quotation mark begins a string or ends it."""
    return content.replace(rb"\\", b"").replace(rb"\"", b"") if b"\\" in content else content


def _count_values(text: str) -> int:
    """How many values there are, at the most: each but the first follows a bracket or a comma."""
    return text.count(",") + text.count("[") + text.count("{") + 1


_to_next = re.compile(r"[ \t\n\r]*").match
_match_numbers = re.compile(r"\[[-+.0-9eE, \t\n\r]{1,100000}\]").match  # a short array of nothing else
_KINDS: dict[str, tuple[type[Any], str]] = {"[": (list, "]"), "{": (dict, "}")}  # how they begin and end
_raw_decode = json.JSONDecoder().raw_decode


def _read_value(text: str, position: int) -> tuple[Any, int]:
    """The value at a place, and the place behind it."""
    try:
        return _raw_decode(text, position)
    except (RecursionError, ValueError) as exc:
        _reraise(exc, text, position)


def _read_slowly(text: str, position: int, most: int) -> Generator[None, None, tuple[Any, int]]:
    """Do what `_read_value` does, with pauses; strings, numbers and words are left to it."""
    around: list[tuple[Any, str]] = []  # the arrays and objects around this place, and what closes them
    names: list[str] = []  # of the members that are being read, one for each object around
    total = 0
    count = 0  # since the last pause
    while True:
        count += 1
        total += 1
        if total > most:
            raise JSONDecodeError(f"more than {most} values", text, position)
        if count >= _TURN:
            count = 0
            yield
        opener = text[position : position + 1]
        if opener == "[" and len(around) < MAX_DEPTH and (numbers := _match_numbers(text, position)):
            value = loads(numbers[0])
            position = numbers.end()
            count += len(value)
            total += len(value)
        elif opener in _KINDS:
            if len(around) == MAX_DEPTH:
                raise JSONDecodeError(_TOO_DEEP, text, position)
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
                raise JSONDecodeError(f"neither ',' nor {closer!r}", text, position)
        else:
            return value, position


def _read_name(text: str, position: int, names: list[str]) -> int:
    """Append the name of a member; return the place of its value."""
    name, position = _read_value(text, position)
    position = _skip(text, position)
    if not isinstance(name, str) or not text.startswith(":", position):
        raise JSONDecodeError("no name of a member", text, position)
    names.append(sys.intern(name))  # each name is kept once
    return _skip(text, position + 1)


def _skip(text: str, position: int) -> int:
    """The place behind blanks."""
    match = _to_next(text, position)
    assert match is not None, "none are blanks too"
    return match.end()
