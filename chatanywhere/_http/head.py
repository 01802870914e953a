"""The head of an HTTP answer without I/O: status line and header fields.

Bytes in as they come from the connection, a `Head` out once it is whole, or an error. A blocking reader and an event
loop feed the same object. Strict in what RFC 9112 defines in its sections 2.2, 4 and 5, because the headers say where
the body ends: http.client takes a line without a colon for the end of them, and drops the framing that stands below.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._errors import ProtocolError

MAX_HEAD = 64 * 1024  # bytes of one head, blank line included
MAX_FIELDS = 200
MAX_INTERIM = 100
_SHOWN = 48  # bytes of the answer that an error repeats

_BEGINNING = b"HTTP/1."
_END = re.compile(rb"\n\r?\n")

# Of Latin-1, what may stand in values: no control character but the tab, so neither NUL nor a lone CR.
_TEXT = r"[\t \x21-\x7e\x80-\xff]*"
_STATUS_LINE = re.compile(rf"HTTP/1\.([0-9]) ([1-9][0-9][0-9])(?: ({_TEXT}))?\r?\n")
# A line that begins with a blank continues the value above it. No two parts of the pattern can match the same
# character, so a head that does not match is refused in linear time.
_FIELD = re.compile(rf"([!#$%&'*+.^_`|~0-9A-Za-z-]+):({_TEXT}(?:\r?\n[ \t]{_TEXT})*)\r?\n")


class Headers(Mapping[str, str]):
    """Header fields by name, in any case.

    Fields of one name are one, their values joined by `", "` (RFC 9110, section 5.3); the spelling that came first is
    the one that iterating gives.
    """

    __slots__ = ("_fields",)

    def __init__(self, fields: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, tuple[str, str]] = {}  # spelling and value by the name in lower case
        known = self._fields
        for field in fields:
            name, value = field
            key = name.lower()
            if key in known:
                name, before = known[key]
                field = (name, f"{before}, {value}")
            known[key] = field

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    # Mapping has the next two by way of a KeyError, which takes longer than the look-up.

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def get(self, name: str, default: Any = None) -> Any:
        field = self._fields.get(name.lower())
        return default if field is None else field[1]

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        return _in_lower_case(self) == _in_lower_case(other)

    __hash__ = None  # type: ignore[assignment]  # as of any Mapping

    def __repr__(self) -> str:
        return f"Headers({list(self.items())!r})"


def _in_lower_case(headers: Mapping[str, str]) -> dict[str, str]:
    return {str(name).lower(): value for name, value in headers.items()}


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a final answer.

    Attributes:
        status_code: the HTTP status, 200 or higher.
        headers: with case-insensitive keys; repeated ones joined by commas.
        keep_alive: the connection may be used again once the body has been read. A body that ends with the connection
            leaves none to be used, whatever this says.
        reason: the words behind the status, mostly those of RFC 9110.
    """

    status_code: int
    headers: Headers
    keep_alive: bool
    reason: str = dataclasses.field(default="", compare=False)


class HeadDecoder:
    """Finds the head of an answer, behind any number of interim ones (status 100 to 199, RFC 9110, section 15.2).

    Attributes:
        begun: a byte of an answer has come, be it of an interim one.
        rest: what came behind the head, once `feed` has returned it.
    """

    def __init__(self) -> None:
        self.begun = False
        self.rest = b""
        self._buffer = bytearray()
        self._searched = 0  # bytes of the buffer before which no head ends
        self._interim = 0

    def feed(self, data: bytes) -> Head | None:
        """Return the head that `data` completes; None if it is not whole yet.

        The time that it takes grows with the number of bytes, however they are cut.

        Args:
            data: what the connection gave. Its end is the caller's to judge. Nothing may be fed behind a head.

        Raises:
            ProtocolError: the bytes are no head of an HTTP/1 answer, one that was not asked for (status 101), or larger
                than 64 KiB, 200 fields or 100 interim answers.
        """
        self.begun = True
        self._buffer += data
        while (text := self._cut()) is not None:
            head = _parse(text)
            if head.status_code >= 200:
                self.rest = bytes(self._buffer)
                return head
            if head.status_code == 101:
                raise ProtocolError("the server switched to another protocol (status 101) without being asked")
            self._interim += 1
            if self._interim > MAX_INTERIM:
                raise ProtocolError(f"the server sent more than {MAX_INTERIM} interim answers")
        return None

    def _cut(self) -> str | None:
        """Take one head off the buffer and return it; None if it is not whole."""
        buffer = self._buffer
        if buffer[: len(_BEGINNING)] != _BEGINNING[: len(buffer)]:  # told at once, not when a limit runs out
            raise ProtocolError(_no_answer(bytes(buffer[:_SHOWN])))
        end = _END.search(buffer, self._searched, MAX_HEAD)
        if end is None:
            if len(buffer) >= MAX_HEAD:
                raise ProtocolError(f"the head of the answer is larger than {MAX_HEAD} bytes")
            self._searched = max(0, len(buffer) - 2)  # "\n\r" may be the beginning of the end
            return None
        size = end.end()
        text = buffer[:size].decode("latin-1")
        del buffer[:size]
        self._searched = 0
        return text


def _no_answer(data: bytes) -> str:
    """Say what bytes look like that can't begin an HTTP/1 answer."""
    if data[:2] in (b"\x15\x03", b"\x16\x03"):  # a record with an alert or a handshake (RFC 8446, section 5.1)
        return "the server speaks TLS: use https://"
    # The frame of SETTINGS or GOAWAY: 3 bytes of length, type, flags, and stream 0 (RFC 9113, section 4.1).
    if data[:1] == b"\0" and data[3:4] in (b"\x04", b"\x07") and not any(data[5:9]):
        return "the server speaks HTTP/2 only, this client HTTP/1.1"
    return f"not an HTTP/1 answer; it begins with {data!r}"


def _parse(text: str) -> Head:
    line = _STATUS_LINE.match(text)
    if line is None:
        raise ProtocolError(f"not the status line of an HTTP/1 answer: {_shown(text, 0)}")
    fields: list[tuple[str, str]] = []
    match = _FIELD.match
    position = line.end()
    while (field := match(text, position)) is not None:
        name, value = field.groups()
        if "\n" in value:  # each fold is to become a blank (RFC 9112, section 5.2)
            value = " ".join(part.strip(" \t\r") for part in value.split("\n"))
        fields.append((name, value.strip(" \t")))
        position = field.end()
    if text[position:] not in ("\r\n", "\n"):
        raise ProtocolError(f"not a header of an HTTP/1 answer: {_shown(text, position)}")
    if len(fields) > MAX_FIELDS:
        raise ProtocolError(f"the answer has more than {MAX_FIELDS} headers")
    headers = Headers(fields)
    return Head(int(line[2]), headers, _keep_alive(line[1], headers), line[3] or "")


def _shown(text: str, position: int) -> str:
    """The line at `position`, or the beginning of a long one."""
    return ascii(text[position : position + _SHOWN].partition("\n")[0])


def _keep_alive(minor_version: str, headers: Headers) -> bool:
    """Whether the connection outlives the answer (RFC 9112, section 9.3)."""
    is_1_0 = minor_version == "0"
    # Someone on the way may have read the framing in the other way (RFC 9112, sections 6.1 and 6.3).
    if "transfer-encoding" in headers and (is_1_0 or "content-length" in headers):
        return False
    options = [option.strip(" \t").lower() for option in headers.get("connection", "").split(",")]
    return "close" not in options and (not is_1_0 or "keep-alive" in options)
