"""Server-Sent Events, as the WHATWG specifies them (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Text in, the `data` of each event out. Knows nothing of what the data means, and does no I/O.
"""

from __future__ import annotations

from .._errors import ProtocolError

MAX_EVENT = 16 * 1024 * 1024
"""Characters that one line, or the data of one event, may have."""

_MAX_UNKNOWN = 10  # lines that are kept to be shown, and
_MAX_SHOWN = 500  # characters of each
_MAX_PENDING = 64 * 1024
_MANY = 4096  # pieces that are joined, since each costs some dozen bytes beside its characters


class NamedData(str):
    """The data of an event that has a name of its own."""

    event: str

    def __new__(cls, data: str, event: str) -> NamedData:
        self = super().__new__(cls, data)
        self.event = event
        return self


def _is_one_event(text: str) -> bool:
    """Whether it is one event of one line, and no more."""
    end = len(text) - 2
    return text.startswith("data: ") and text.find("\n") == end <= MAX_EVENT and text[-1] == "\n" and "\r" not in text


class StrayLine(str):
    """A line that is no part of an event, from the first on that begins as JSON."""


class EventStreamDecoder:
    """Turns the text of an event stream, cut anywhere, into the `data` of its events.

    The data of an event that has a name other than `message` is a `NamedData`. Ids and `retry` are for reconnecting,
    which nothing here does, so they are read and dropped. As the specification says, an event that the end of the
    stream cuts off before its blank line is not dispatched; `rest` has it for those who know better.

    JSON that was sent without the frame of an event is no field of the specification's; its lines are `StrayLine`s.

    Attributes:
        unknown: the first lines, shortened, that are no part of an event.
        has_comments: there has been a line that belongs to an event stream, though to none of its data.
    """

    def __init__(self) -> None:
        self._tail = _SmallPieces("")  # of a line that has not ended yet
        self._data = _SmallPieces("\n")  # the data lines of an event that has not ended yet
        self._event = ""
        self._begun = False
        self._after_cr = False
        self._stray = False  # there has been the beginning of what may be bare JSON
        self.unknown: list[str] = []
        self.has_comments = False

    def feed(self, text: str, found: list[str]) -> None:
        """Append to `found` the data of every event that `text` completes.

        Raises:
            ProtocolError: a line or an event is larger than `MAX_EVENT`; what came before it has been appended.
        """
        if not text:
            return
        if not self._begun:
            self._begun = True
            text = text[1:] if text[0] == "\ufeff" else text
        if self._is_between() and _is_one_event(text):  # which is what nearly all servers send at a time
            found.append(text[6:-2])
            return
        if self._after_cr and text:
            # The CR that ended the last block ended its line; an LF right behind it is part of the same end.
            self._after_cr = False
            text = text[1:] if text[0] == "\n" else text
        if "\r" in text:
            self._after_cr = text.endswith("\r")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        lines = text.split("\n")
        tail = self._tail
        if tail.size + len(lines[0]) > MAX_EVENT:
            raise ProtocolError(f"a line of the event stream is longer than {MAX_EVENT} characters")
        last = lines.pop()
        if lines:
            if tail.size:
                tail.append(lines[0])
                lines[0] = tail.take()
            self._read(lines, found)
        if last:
            tail.append(last)

    def _is_between(self) -> bool:
        """Whether the last event and its line have ended."""
        return not (self._tail.size or self._data.size or self._event or self._after_cr)

    def _read(self, lines: list[str], found: list[str]) -> None:
        data = self._data
        if not data.size and not self._event and not any(lines[1::2]):
            # What nearly all servers send, a line of data and a blank one in turn, is taken in one go.
            values = [line[6:] for line in lines[::2] if line.startswith("data: ")]
            if 2 * len(values) == len(lines):
                found += values
                return
        for line in lines:
            if line.startswith("data:"):
                value = line[6:] if line[5:6] == " " else line[5:]
            elif line == "data":
                value = ""
            elif not line:
                self._dispatch(found)
                continue
            else:
                self._note(line, found)
                continue
            data.append(value)
            if data.size > MAX_EVENT:
                raise ProtocolError(f"an event of the stream is larger than {MAX_EVENT} characters")

    def _dispatch(self, found: list[str]) -> None:
        """A blank line: the event, if there is any, is whole."""
        event, self._event = self._event, ""
        if self._data.size:
            data = self._data.take()
            found.append(data if event in ("", "message") else NamedData(data, event))

    def _note(self, line: str, found: list[str]) -> None:
        """Take a line in that is no data."""
        field, _, value = line.partition(":")
        if field in ("", "event", "id", "retry"):
            self.has_comments = True
            if field == "event":
                self._event = value.removeprefix(" ")
            return
        if len(self.unknown) < _MAX_UNKNOWN:
            self.unknown.append(line[:_MAX_SHOWN])
        said = value.lstrip() if field == "error" else line
        self._stray = self._stray or said.lstrip()[:1] in ("{", "[")
        if self._stray:
            found.append(StrayLine(said))

    def pending(self) -> str:
        """What `rest` has to say, of data that is not large; nothing is taken."""
        if not 0 < self._tail.size + self._data.size <= _MAX_PENDING:
            return ""
        line = self._tail.text()
        lines = [self._data.text()] * bool(self._data.size)
        lines += [line[5:].removeprefix(" ")] * line.startswith("data:")
        return "\n".join(lines)

    def rest(self) -> list[str]:
        """Return the data of the event that has not ended yet, its last line included, if there is one."""
        found: list[str] = []
        self.feed("\n\n", found)
        return found


class _SmallPieces:
    """Text that comes in pieces, joined in time, so that small ones take little more memory than their characters.

    Joining at each piece would take quadratic time.

    Args:
        between: what stands between two pieces.

    Attributes:
        size: characters; a line end behind each piece counts too, or empty lines would be free.
    """

    def __init__(self, between: str) -> None:
        self._between = between
        self._joined: list[str] = []
        self._pieces: list[str] = []
        self.size = 0

    def append(self, piece: str) -> None:
        self._pieces.append(piece)
        self.size += len(piece) + len(self._between)
        if len(self._pieces) == _MANY:
            self._joined.append(self._between.join(self._pieces))
            self._pieces.clear()

    def text(self) -> str:
        return self._between.join(self._joined + self._pieces)

    def take(self) -> str:
        """Return it, and begin anew."""
        text = self.text()
        self._joined.clear()
        self._pieces.clear()
        self.size = 0
        return text
