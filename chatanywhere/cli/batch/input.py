"""The prompts of a file: its lines, and which of them can't be asked.

A file is read at least twice, for nothing is sent before its last line has been seen. So what can't be read twice, such
as a pipe, is copied to a file without a name first.
"""

from __future__ import annotations

import csv
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from io import BufferedIOBase, BytesIO
from types import MappingProxyType
from typing import IO, Any, TypeAlias

from ..failures import NothingDone, UsageError
from ..printing import one_line
from .line import BadLine, Line, PromptTemplate, call_of, from_json, shown, with_system

_MAX_LINE = 32 << 20  # bytes; there are lines with pictures in them
_BOM = b"\xef\xbb\xbf"
_ENDINGS = {".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".txt": "text"}

Record: TypeAlias = "str | list[str] | BadLine"
"""A line of JSON or of text, or the cells of a row."""


class BatchInput:
    """The prompts of a file, as an iterable for `map`. `check` counts them, and finds those that can't be asked.

    Args:
        path: of the file; `-` is standard input.
        format: `"csv"`, `"jsonl"` or `"text"`; None for what the name and the first line say.
        template: of the prompts of a table.
        system: what the model is told first, in prompts that don't say it themselves.
        fields: of all requests that don't have them themselves.

    Attributes:
        bad: the numbers of the lines that are left out.
        first_fault: the number of the first of them, and what is wrong with it.

    Raises:
        UsageError: there is no such file, or no such table or field.
    """

    def __init__(
        self,
        path: str,
        *,
        format: str | None = None,
        template: str | None = None,
        system: str | None = None,
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.name = "standard input" if path == "-" else path
        self.bad: set[int] = set()
        self.first_fault: tuple[int, str] | None = None
        self._system = system
        self._fields = _checked_fields(fields)
        self._count = 0
        self._template = None if template is None else PromptTemplate(template)
        self._delimiter = ","
        self._columns: list[str] = []
        self._file = _opened(path, self.name)
        try:
            self._was = self._state()
            self._format = format or self._recognized(path)
            if self._format == "csv":
                self._delimiter = self._found_delimiter(path)
                self._columns = self._read_columns()
            self._check_template()
        except BaseException:
            self.close()
            raise

    def _recognized(self, path: str) -> str:
        """What the name says, else the template, else the first line."""
        ending = _ENDINGS.get(os.path.splitext(path)[1].lower())
        if ending is not None:
            return ending
        if self._template is not None:
            return "csv"
        return "jsonl" if self._first_line().lstrip()[:1] in (b"{", b"[") else "text"

    def _found_delimiter(self, path: str) -> str:
        """What is between the cells: what the name says, else the first of these that the first line has."""
        if path.lower().endswith(".tsv"):
            return "\t"
        first = self._first_line()
        return next((each for each in ",;\t" if each.encode() in first), ",")  # where 0.5 is 0,5, Excel writes ;

    def _first_line(self) -> bytes:
        return next((line for _, line in self._lines() if line is not None and line.strip()), b"")

    def _check_template(self) -> None:
        if self._template is None and self._format == "csv":
            raise UsageError(
                f"{self.name} is a table, and there is no --template that makes prompts of its columns: "
                + ", ".join(self._columns),
                "--template 'Translate: {text}', for one; --format text takes each line as a prompt",
            )
        if self._template is not None:
            if self._format != "csv":
                raise UsageError(
                    f"--template is for tables, and {self.name} is none", "leave it out, or say --format csv"
                )
            self._template.check(self._columns, self.name)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> BatchInput:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The prompts --------------------------------------------------------------------------------------------

    def check(self, sendable: Callable[[int, Mapping[str, Any]], object]) -> None:
        """Read all lines, and take note of those that can't be asked.

        Args:
            sendable: raises a ValueError or a TypeError for a prompt that can't be sent; it is given its number, too,
                as `map` counts them.

        Raises:
            NothingDone: the file is being written.
        """
        seen: dict[str, int] = {}
        for number, record in self._records():
            try:
                name, prompt = self._prompt(number, record)
                first = seen.setdefault(name, number)
                if first != number:
                    raise BadLine(f"its id {shown(name)} is that of line {first}")
                try:
                    sendable(self._count, prompt)
                except (TypeError, ValueError) as error:
                    del seen[name]
                    raise BadLine(str(error).removeprefix(f"prompts[{self._count}]: ")) from error
            except BadLine as fault:
                self.bad.add(number)
                if self.first_fault is None:
                    self.first_fault = number, one_line(str(fault))
            else:
                self._count += 1
        self._check_state()

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, record in self._records():
            if number in self.bad:
                continue
            self._check_state()  # nobody has checked the lines of a file that has been changed
            yield self._prompt(number, record)[1]
        self._check_state()

    def _prompt(self, number: int, record: Record) -> tuple[str, dict[str, Any]]:
        """Return the id of a record, and the keywords of its call, of which the id is one.

        Raises:
            BadLine: it can't be asked.
        """
        if isinstance(record, BadLine):
            raise record
        if self._template is not None and not isinstance(record, str):
            name, call = self._template.prompt(self._columns, record)
        else:
            assert isinstance(record, str)
            name, call = from_json(record) if self._format == "jsonl" else Line(None, {"messages": record})
        if self._system is not None:
            call["messages"] = with_system(call["messages"], self._system)
        body = {**self._fields["extra_body"], **call.get("extra_body", {})}
        name = f"line-{number}" if name is None else name
        return name, {**self._fields, **call, "extra_body": body, "id": name}

    def _state(self) -> tuple[int, int]:
        found = os.fstat(self._file.fileno())
        return found.st_size, found.st_mtime_ns

    def _check_state(self) -> None:
        if self._state() != self._was:
            raise NothingDone(f"{self.name} has changed while it was read", "run it again when it is complete")

    # The lines ----------------------------------------------------------------------------------------------

    def _records(self) -> Iterator[tuple[int, Record]]:
        """Lines, or rows of a table without its first, with their numbers, but for those that are blank."""
        if self._format == "csv":
            rows = self._rows()
            next(rows, None)
            yield from rows
            return
        for number, line in self._lines():
            if line is None:
                yield number, _too_long()
            elif line.strip():
                yield number, _text(line.rstrip(b"\r\n"))

    def _lines(self) -> Iterator[tuple[int, bytes | None]]:
        """All lines with their numbers; None for one that is too long."""
        self._file.seek(0)
        number = 0
        while line := self._file.readline(_MAX_LINE):
            number += 1
            if number == 1:
                line = line.removeprefix(_BOM)
            if len(line) < _MAX_LINE or line.endswith(b"\n"):
                yield number, line
            else:
                while line and not line.endswith(b"\n"):
                    line = self._file.readline(_MAX_LINE)
                yield number, None

    def _rows(self) -> Iterator[tuple[int, list[str] | BadLine]]:
        """The rows of a table that have something in them, each with the number of its first line."""
        csv.field_size_limit(_MAX_LINE)
        lines, at, long = self._lines(), 0, True

        def texts() -> Iterator[str]:
            nonlocal at, long
            for number, line in lines:
                at, long = number, line is None
                if line is None:
                    return
                yield line.decode("utf-8", "surrogateescape")

        while long:  # a line that is too long is the end of a reader
            long = False
            reader = csv.reader(texts(), delimiter=self._delimiter, strict=True)
            while True:
                first = at + 1
                try:
                    row = next(reader)
                except StopIteration:
                    break
                except csv.Error as error:
                    if long:
                        break
                    words = str(error).partition(" - ")[0]  # behind it is what the programmer is told
                    lost = f", up to line {at}" if at > first else ""  # where a quote has no end
                    yield first, BadLine(f"it is no row of a table: {words}{lost}")
                else:
                    whole = _text("".join(row).encode("utf-8", "surrogateescape"))
                    if isinstance(whole, BadLine):
                        yield first, whole
                    elif whole.strip():
                        yield first, row
            if long:
                yield first, _too_long()

    def _read_columns(self) -> list[str]:
        """The names in the first line of a table.

        Raises:
            UsageError: it has none that can be read.
        """
        number, row = next(self._rows(), (1, BadLine("it is empty")))
        if isinstance(row, BadLine):
            raise UsageError(f"{self.name}, line {number}: {row}", "a table begins with the names of its columns")
        return [cell.strip() for cell in row]


def _checked_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    for name, option in (("messages", "IN"), ("model", "-m")):
        if name in fields:
            raise UsageError(f"--option: {name} is set by {option}", "leave it out")
    try:
        return call_of(fields)
    except BadLine as error:
        raise UsageError(f"--option: {error}", "leave it out; --help lists what there is") from error


def _too_long() -> BadLine:
    return BadLine(f"it has more than {_MAX_LINE} bytes")


def _text(line: bytes) -> str | BadLine:
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # as UTF-16 has them
        return BadLine("it is not UTF-8: save the file as UTF-8, which Excel calls CSV UTF-8")
    return text


def _opened(path: str, name: str) -> IO[bytes]:
    """Open a file that can be read twice.

    Raises:
        UsageError: there is none.
    """
    try:
        if path == "-":
            return _copied(_standard_input())
        file = open(path, "rb")  # noqa: SIM115  it is the caller's
        if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return file
        with file:
            return _copied(file)
    except (OSError, ValueError) as error:  # a ValueError for a name with a NUL, too
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{name} can't be read: {reason}",
            "see whether the name is right; what comes by a pipe needs room in TMPDIR",
        ) from error


def _standard_input() -> BufferedIOBase:
    if sys.stdin is None:
        raise ValueError("it is closed")
    buffer: BufferedIOBase | None = getattr(sys.stdin, "buffer", None)
    # A program may have put something else in its place.
    return buffer or BytesIO(sys.stdin.read().encode("utf-8", "surrogatepass"))


def _copied(file: BufferedIOBase) -> IO[bytes]:
    copy = tempfile.TemporaryFile()  # noqa: SIM115  it is the caller's
    try:
        while block := file.read1(1 << 20):  # `read` would want a terminal's Ctrl-D twice
            copy.write(block)
        copy.flush()
    except BaseException:
        copy.close()
        raise
    return copy
