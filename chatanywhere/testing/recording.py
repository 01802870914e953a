r"""A recording: the file to which a server writes what another has answered, and from which it is answered again.

A recording is a text of lines, each of which is a JSON object. The first says what it is:

    {"format": "chatanywhere recording", "version": 1, "upstream": "https://api.chatanywhere.tech/v1"}

After it come the exchanges, each as soon as it is over. One is a line for the request, one for the status and the
headers of its answer, one for each piece of the body as it came, and one for the end:

    {"request": "POST /v1/chat/completions", "began": 0.02, "json": {"model": "gpt-4o-mini", "messages": […]}}
    {"status": 200, "at": 0.41, "headers": [["Content-Type", "text/event-stream"], ["Transfer-Encoding", "chunked"]]}
    {"at": 0.41, "text": "data: {\"id\": …}\n\n"}
    {"at": 0.9, "end": "complete"}

`began` is in seconds since the recording began, `at` in seconds since the request was sent. The body of a request is
`json`, or `form`, a list of its fields; these, bodies of other kinds and pieces are `text`, or `base64` where they are
not UTF-8. An answer's end is `complete`, `cut` (the connection was closed too early), `reset`, or `left`: the client
went away. What there is of an exchange without an end is left out when the file is read.
"""

from __future__ import annotations

import base64
import errno
import json
import logging
import math
import os
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from .matching import RecordedRequest, as_text
from .writer import to_json

_FORMAT = "chatanywhere recording"
_VERSION = 1
_MAX_HEADER = 65_536  # bytes of the first line

End = Literal["complete", "cut", "reset", "left"]

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecordedExchange:
    """A request and its answer. Times are in seconds: `began` since the recording began, others since the request."""

    request: RecordedRequest
    began: float
    status: int
    headed: float
    """When the headers had come."""
    headers: Sequence[tuple[str, str]]
    pieces: Sequence[tuple[float, bytes]]
    """When each piece of the body had come, and the piece."""
    end: End
    ended: float

    def to_lines(self) -> bytes:
        """Return what is written of it."""
        request = {"request": f"{self.request.method} {self.request.path}", "began": round(self.began, 3)}
        lines: list[dict[str, Any]] = [
            {**request, **self.request.body},
            {"status": self.status, "at": round(self.headed, 3), "headers": self.headers},
            *({"at": round(at, 3), **as_text(piece)} for at, piece in self.pieces),
            {"at": round(self.ended, 3), "end": self.end},
        ]
        return b"".join(to_json(line) + b"\n" for line in lines)


class Recording:
    """The file of a recording.

    Args:
        path: where it is, or is to be.
        upstream: the URL of the server that is asked, without its query.
        exchanges: what is in it, in the order in which it began.

    Attributes:
        path, upstream, exchanges: see above.
    """

    def __init__(self, path: str | os.PathLike[str], upstream: str, exchanges: Sequence[RecordedExchange] = ()) -> None:
        self.path = Path(path).absolute()  # wherever the program changes to later
        self.upstream = upstream
        self.exchanges = exchanges
        self._lock = threading.Lock()
        self._is_made = False

    def make(self) -> None:
        """Make the file, which only its owner can read, unless that has been done.

        Raises:
            FileExistsError: there is something at the path.
            OSError: the file can't be made.
        """
        with self._lock:
            if not self._is_made:
                self._make()
                self._is_made = True

    def _make(self) -> None:
        first = {"format": _FORMAT, "version": _VERSION, "upstream": self.upstream}
        try:
            with open(self.path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                os.chmod(self.path, 0o600)  # of which the umask may have left less
                file.write(to_json(first) + b"\n")
        except FileExistsError:
            message = "it exists already, and a recording is not overwritten: replay it, remove it, or name another"
            raise FileExistsError(errno.EEXIST, message, str(self.path)) from None
        except FileNotFoundError:
            message = "there is no folder for the recording: make it first"
            raise FileNotFoundError(errno.ENOENT, message, str(self.path)) from None

    def add(self, exchange: RecordedExchange) -> None:
        """Write an exchange to the end of the file, or nothing of it.

        Raises:
            OSError: it can't be written.
        """
        lines = memoryview(exchange.to_lines())
        self.make()
        with self._lock, open(self.path, "r+b", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            try:
                while lines:
                    lines = lines[file.write(lines) :]
            except OSError:
                file.truncate(size)
                raise

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Recording:
        """Read a file.

        Raises:
            ValueError: it is no recording, or one of a version that is not known here.
            OSError: it can't be read.
        """
        try:
            with open(path, "rb") as file:
                upstream = _read_first(path, file.readline(_MAX_HEADER))
                lines = file.readlines()
        except FileNotFoundError:
            message = "there is no such recording: make it with LoopbackServer.record(path, upstream=…)"
            raise FileNotFoundError(errno.ENOENT, message, os.fspath(path)) from None
        exchanges: list[RecordedExchange] = []
        reader = _Reader(exchanges.append)
        is_cut = False
        for number, line in enumerate(lines, start=2):
            if not line.strip():  # an editor's
                continue
            try:
                reader.feed(json.loads(line))
            except (ValueError, TypeError, KeyError, RecursionError) as error:
                is_cut = number == len(lines) + 1 and not line.endswith(b"\n")
                if is_cut:  # whoever wrote it was ended in the middle
                    break
                message = f"{path}, line {number}, can't be read as part of a recording: mend it, or record anew"
                raise ValueError(f"{message} ({type(error).__name__}: {error})") from error
        if is_cut or reader.is_inside:
            _logger.warning("%s: the last exchange lacks its end, and is left out", path)
        recording = cls(path, upstream, sorted(exchanges, key=lambda exchange: exchange.began))
        recording._is_made = True
        return recording


def _read_first(path: str | os.PathLike[str], line: bytes) -> str:
    """Check a recording's first line; return the URL that it has."""
    try:
        first = json.loads(line)
    except (ValueError, RecursionError):
        first = None
    if not isinstance(first, dict) or first.get("format") != _FORMAT:
        raise ValueError(f"{path} is no recording: make one with LoopbackServer.record(path, upstream=…)")
    if first.get("version") != _VERSION:
        raise ValueError(
            f"{path} is a recording of version {first.get('version')!r}, and this package reads version {_VERSION}: "
            "record anew, or use the version of the package that made it"
        )
    return str(first.get("upstream", ""))


class _Reader:
    """Puts exchanges together from their lines; whatever is wrong with a line is an error of any kind."""

    def __init__(self, found: Callable[[RecordedExchange], None]) -> None:
        self._found = found
        self._request: tuple[RecordedRequest, float] | None = None
        self._answer: tuple[int, float, list[tuple[str, str]]] | None = None
        self._pieces: list[tuple[float, bytes]] = []

    @property
    def is_inside(self) -> bool:
        """Whether there is an exchange that has not come to its end."""
        return self._request is not None

    def feed(self, line: dict[str, Any]) -> None:
        if self._request is None:
            method, path = line["request"].split(" ")
            body = {name: value for name, value in line.items() if name in ("json", "form", "text", "base64")}
            request = RecordedRequest(method, path, body)
            request.identity  # noqa: B018  what can't be compared is an error here, and not in the middle of a test
            self._request = request, _seconds(line["began"])
        elif self._answer is None:
            self._answer = _status(line["status"]), _seconds(line["at"]), [_header(*each) for each in line["headers"]]
            self._pieces = []
        elif "end" in line:
            if line["end"] not in get_args(End):
                raise ValueError(f"an end is one of {', '.join(get_args(End))}")
            (request, began), (status, headed, headers) = self._request, self._answer
            self._request = self._answer = None
            end, ended = line["end"], _seconds(line["at"])
            self._found(RecordedExchange(request, began, status, headed, headers, self._pieces, end, ended))
        else:
            text = line.get("text")
            piece = base64.b64decode(line["base64"], validate=True) if text is None else text.encode()
            self._pieces.append((_seconds(line["at"]), piece))


def _seconds(value: Any) -> float:
    if isinstance(value, bool) or not 0 <= value < math.inf:
        raise ValueError(f"{value!r} is no number of seconds")
    return float(value)


def _status(value: Any) -> int:
    if not isinstance(value, int) or not 200 <= value <= 999:
        raise ValueError(f"{value!r} is no status of an answer")
    return value


def _header(name: str, value: str) -> tuple[str, str]:
    # Services send names and values that are none; here it matters only that neither is a line of its own.
    if not re.fullmatch(r"[!-9;-~]*", name) or not re.fullmatch(r"[^\r\n\u0100-\U0010ffff]*", value):
        raise ValueError(f"{name!r}: {value!r} is no header")
    return name, value
