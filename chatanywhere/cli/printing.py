"""How an answer gets to standard output: byte for byte to a pipe, and to a terminal without what it would obey."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Protocol, TextIO

_CONTROLS: dict[int, int | str] = {
    **{code: 0x2400 + code for code in range(0x20) if code not in (0x09, 0x0A)},
    0x7F: 0x2421,
    **{code: f"\\x{code:02x}" for code in range(0x80, 0xA0)},
}
"""The control characters but tab and line feed, and what is shown in their places."""


def visible(text: str) -> str:
    """Return a text in which control characters are shown: a terminal obeys them, whoever has written them."""
    return text.translate(_CONTROLS)


def one_line(text: str) -> str:
    """Return a text as one line that can be shown on a terminal."""
    return visible(" ".join(text.split()))


def is_terminal(stream: TextIO | None) -> bool:
    """Whether somebody looks at what is written there."""
    return stream is not None and stream.isatty()


class Printer(Protocol):
    """What an answer is written to, piece by piece."""

    def write(self, text: str) -> None:
        """Take a piece.

        Raises:
            OSError: the output can't be written, or nobody reads it any more (`BrokenPipeError`).
        """

    def end(self) -> None:
        """Show what is left of the answer, after which something else may be written."""


class PlainPrinter:
    """Writes the answer as it is, in UTF-8 whatever the locale, and adds nothing."""

    def write(self, text: str) -> None:
        """Take a piece."""
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        buffer = getattr(sys.stdout, "buffer", None)
        if buffer is None:  # a program has put something else in the place of standard output
            sys.stdout.write(text)
        else:
            sys.stdout.flush()  # what was printed before comes first
            buffer.write(text.encode("utf-8", "replace"))
        sys.stdout.flush()

    def end(self) -> None:
        """Add nothing."""


class TerminalPrinter:
    """Writes the answer to a terminal as it comes, and ends its last line."""

    def __init__(self) -> None:
        self._held = ""  # a carriage return, which may be part of a line end
        self._at_start = True

    def write(self, text: str) -> None:
        """Take a piece."""
        text = (self._held + text).replace("\r\n", "\n")
        self._held = "\r" if text.endswith("\r") else ""
        text = visible(text.removesuffix("\r"))
        if text:
            self._at_start = text.endswith("\n")
            sys.stdout.write(text)
            sys.stdout.flush()

    def end(self) -> None:
        """End the line."""
        if not self._at_start:
            sys.stdout.write("\n")
            sys.stdout.flush()
        self._held, self._at_start = "", True


class NoPrinter:
    """Shows nothing of an answer that is printed in another form at its end."""

    def write(self, text: str) -> None:
        """Take a piece."""

    def end(self) -> None:
        """Do nothing."""


def put(text: str) -> None:
    """Print a text that is not drawn, and that another may have written.

    Raises:
        OSError: the output can't be written.
    """
    printer = TerminalPrinter() if is_terminal(sys.stdout) else PlainPrinter()
    printer.write(text)
    printer.end()


def give_up(stream: TextIO) -> None:
    """See to it that Python, which flushes once more at its exit, does not fail then."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def prepare_output() -> None:
    """Let a pipe get UTF-8, and a terminal with a legacy encoding, which may not have Chinese, question marks."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            is_piped = stream is sys.stdout and not is_terminal(stream)
            stream.reconfigure(encoding="utf-8" if is_piped else None, errors="replace")
