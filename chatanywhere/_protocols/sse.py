"""Server-Sent Events, as the WHATWG specifies them (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Text in, the `data` of each event out. Knows nothing of what the data means, and does no I/O.
"""

from __future__ import annotations

MAX_EVENT = 16 * 1024 * 1024
"""Characters that one line, or the data of one event, may have."""

_MANY = 4096  # pieces that are joined, since each costs some dozen bytes beside its characters


class EventStreamDecoder:
    """Turns the text of an event stream, cut anywhere, into the `data` of its events.

    Event types, ids and `retry` are for reconnecting and for pages that listen by type; nothing here does
    either, so they are read and dropped. As the specification says, an event that the end of the stream cuts
    off before its blank line is not dispatched.
    """

    def __init__(self) -> None:
        self._tail = _SmallPieces("")  # of a line that has not ended yet
        self._data = _SmallPieces("\n")  # the data lines of an event that has not ended yet
        self._begun = False
        self._after_cr = False

    def feed(self, text: str, found: list[str]) -> None:
        """Append to `found` the data of every event that `text` completes.

        Raises:
            ValueError: a line or an event is larger than `MAX_EVENT`; what came before it has been appended.
        """
        if not text:
            return
        if not self._begun:
            self._begun = True
            text = text[1:] if text[0] == "\ufeff" else text
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
            raise ValueError(f"a line of the event stream is longer than {MAX_EVENT} characters")
        last = lines.pop()
        if lines:
            if tail.size:
                tail.append(lines[0])
                lines[0] = tail.take()
            self._read(lines, found)
        if last:
            tail.append(last)

    def _read(self, lines: list[str], found: list[str]) -> None:
        data = self._data
        if not data.size and not any(lines[1::2]):
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
            elif line or not data.size:
                continue
            else:
                found.append(data.take())
                continue
            data.append(value)
            if data.size > MAX_EVENT:
                raise ValueError(f"an event of the stream is larger than {MAX_EVENT} characters")


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

    def take(self) -> str:
        """Return it, and begin anew."""
        text = self._between.join(self._joined + self._pieces)
        self._joined.clear()
        self._pieces.clear()
        self.size = 0
        return text
