"""Server-Sent Events, as the WHATWG specifies them (https://html.spec.whatwg.org/multipage/server-sent-events.html).

Text in, the `data` of each event out. Knows nothing of what the data means, and does no I/O.
"""

from __future__ import annotations

MAX_EVENT = 16 * 1024 * 1024
"""Characters that one line, or the data of one event, may have."""


class EventStreamDecoder:
    """Turns the text of an event stream, cut anywhere, into the `data` of its events.

    Event types, ids and `retry` are for reconnecting and for pages that listen by type; nothing here does
    either, so they are read and dropped. As the specification says, an event that the end of the stream cuts
    off before its blank line is not dispatched.
    """

    def __init__(self) -> None:
        self._tail: list[str] = []  # pieces of a line that has not ended yet
        self._tail_size = 0
        self._data: list[str] = []  # data lines of an event that has not ended yet
        self._data_size = 0
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
        # A line is joined once, when its end has come: joining at each block would take quadratic time.
        self._tail.append(lines[0])
        self._tail_size += len(lines[0])
        if self._tail_size > MAX_EVENT:
            raise ValueError(f"a line of the event stream is longer than {MAX_EVENT} characters")
        if len(lines) > 1:
            lines[0] = "".join(self._tail)
            last = lines.pop()
            self._tail = [last]
            self._tail_size = len(last)
            self._read(lines, found)

    def _read(self, lines: list[str], found: list[str]) -> None:
        data = self._data
        if not data and not any(lines[1::2]):
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
            elif line or not data:
                continue
            else:
                found.append(data[0] if len(data) == 1 else "\n".join(data))
                data.clear()
                self._data_size = 0
                continue
            data.append(value)
            self._data_size += len(value) + 1  # the line end counts, or empty lines would be free
            if self._data_size > MAX_EVENT:
                raise ValueError(f"an event of the stream is larger than {MAX_EVENT} characters")
