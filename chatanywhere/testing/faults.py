"""What goes wrong with a response, where, and how often.

A fault is a value, and its action a function of the `ResponseWriter` that it strikes: the writer's own methods
where they are enough, else one of the functions at the end.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import format_datetime
from typing import Literal, NoReturn

from .writer import Response, ResponseOver, ResponseWriter, error_object, reason_phrase, service_error

MAX_SECONDS = 60.0
"""How long a fault may go on sending; then the connection is closed."""

_BLOCK = 64 * 1024  # bytes

Place = Literal["accept", "head", "fields", "headers", "piece", "size", "chunk", "end"]

_IN_ANSWER: tuple[Place, ...] = ("head", "fields", "headers", "piece", "size", "chunk", "end")
_ANYWHERE: tuple[Place, ...] = ("accept", *_IN_ANSWER)

# What some faults need of the headers of the response that they strike.
_CHUNKED = (("Transfer-Encoding", "chunked"),)  # they change the content, and so its length
_GZIP = (*_CHUNKED, ("Content-Encoding", "gzip"))
_CLOSE = (("Connection", "close"),)


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong with a response, made by one of the methods here.

    They are named after toxiproxy's toxics where there is one. Common arguments, each where it makes sense:

    - `at`: the place where the fault strikes, or begins:
        - `"accept"`: before a request is read from a new connection, and before the TLS handshake.
        - `"head"`: when the request has been read, and nothing of the answer has been sent.
        - `"fields"`: behind the status line, before the first header.
        - `"headers"`: in the middle of the status line and headers.
        - `"piece"`: right behind a piece of the reply; `after` says which.
        - `"size"`: in the middle of a chunk's size line; right before the body if it is not chunked.
        - `"chunk"`: in the middle of a chunk, or of a body that is not chunked.
        - `"end"`: behind the content, before the last chunk, which ends it.
    - `after`: how many pieces of the reply come first: 0 is right behind the headers. Given alone it means
        `at="piece"`; with `"size"` and `"chunk"`, the chunk that follows is struck. A reply with
        fewer pieces is struck behind its last. A body that is not streamed is one piece.
    - `first`: strike the first so many requests only; connections, if it strikes at `"accept"`.

    A fault that goes on sending stops after 60 seconds, and the connection is closed.

    Attributes:
        name: the method that made it.
        at: the place.
        after: how many pieces come first.
        first: how many requests are struck, None for all.
        arguments: what is particular to it.
        needs: the headers that it puts into the response that it strikes.

    Raises:
        ValueError: an argument is out of range, or a place is none of the fault's.
    """

    name: str
    at: str
    after: float
    first: int | None
    arguments: tuple[object, ...]
    _action: Callable[..., None] = field(repr=False)
    needs: tuple[tuple[str, str], ...] = field(repr=False, default=())

    def __post_init__(self) -> None:
        if self.first is not None:
            check_number("first", self.first)
            if self.first < 1:
                raise ValueError(f"first={self.first}: a number of requests, 1 or more, or None for all")
        check_number("after", self.after)
        if not self.after >= 0:
            raise ValueError(f"after={self.after}: a number of pieces, 0 or more")

    def strike(self, writer: ResponseWriter) -> None:
        """Do what goes wrong; the server calls this when the writer has come to the fault's place."""
        self._action(writer, *self.arguments)

    # The connection

    @classmethod
    def latency(
        cls, seconds: float, *, at: Place | None = None, after: int | None = None, first: int | None = None
    ) -> Fault:
        """Wait for a time, and go on. At the head, unless a place is given."""
        check_seconds("seconds", seconds)
        place = _place("latency", _ANYWHERE, at, after)
        return cls("latency", *place, first, (seconds,), ResponseWriter.wait)

    @classmethod
    def timeout(cls, *, at: Place | None = None, after: int | None = None, first: int | None = None) -> Fault:
        """Be silent, with the connection open, until the client leaves or the server is closed.

        At the head, unless a place is given.
        """
        return cls("timeout", *_place("timeout", _ANYWHERE, at, after), first, (), ResponseWriter.silence)

    @classmethod
    def reset_peer(cls, *, at: Place | None = None, after: int | None = None, first: int | None = None) -> Fault:
        """Reset the connection (RST). At the head, unless a place is given.

        What the client has not read by then it may never see.
        """
        return cls("reset_peer", *_place("reset_peer", _ANYWHERE, at, after), first, (), ResponseWriter.reset)

    @classmethod
    def limit_data(
        cls, size: int, *, at: Place | None = None, after: int | None = None, first: int | None = None
    ) -> Fault:
        """Close the connection in order (FIN) when `size` bytes have been sent.

        They are counted as HTTP has them, from the head on unless a place is given; 0 closes the connection there.
        """
        _check_size(size, least=0)
        return cls(
            "limit_data", *_place("limit_data", _IN_ANSWER, at, after), first, (size,), ResponseWriter.limit_size
        )

    @classmethod
    def slow_drip(
        cls, seconds: float, *, at: Place | None = None, after: int | None = None, first: int | None = None
    ) -> Fault:
        """Send byte by byte, and wait for a time after each. From the head on, unless a place is given."""
        check_seconds("seconds", seconds)
        return cls("slow_drip", *_place("slow_drip", _IN_ANSWER, at, after), first, (1, seconds), _send_in_slices)

    @classmethod
    def slicer(
        cls,
        size: int,
        delay: float = 0.0,
        *,
        at: Place | None = None,
        after: int | None = None,
        first: int | None = None,
    ) -> Fault:
        """Send at most `size` bytes at a time, `delay` seconds apart. From the head on, unless a place is given."""
        _check_size(size)
        check_seconds("delay", delay)
        return cls("slicer", *_place("slicer", _IN_ANSWER, at, after), first, (size, delay), _send_in_slices)

    @classmethod
    def slow_close(cls, seconds: float, *, first: int | None = None) -> Fault:
        """Close the connection, as the headers say it will be, but only a time after the complete answer.

        `latency(…, at="end")` has the end of the answer itself come late.
        """
        check_seconds("seconds", seconds)
        return cls("slow_close", "close", 0, first, (seconds,), ResponseWriter.wait, _CLOSE)

    # What is answered instead

    @classmethod
    def status(
        cls,
        status: int,
        message: str | None = None,
        *,
        body: str | bytes | None = None,
        content_type: str = "application/json",
        first: int | None = None,
    ) -> Fault:
        """Answer with a status from 400 to 599; no reply is used up.

        Args:
            status: the status.
            message: what the error object says, which the service sends with a status; None: the status's name.
            body: what to send in place of an error object.
            content_type: of `body`.
            first: see `Fault`.
        """
        _check_status(status)
        if body is None:
            response = service_error(status, message or reason_phrase(status))
        else:
            response = Response(status, content_type, body.encode() if isinstance(body, str) else body)
        return cls._instead("status", response, first)

    @classmethod
    def retry_after(
        cls,
        seconds: float | None = None,
        *,
        ms: float | None = None,
        date: datetime | None = None,
        status: int = 429,
        first: int | None = None,
    ) -> Fault:
        """Answer with a status, and with a header that says when to try again; no reply is used up.

        Args:
            seconds: `Retry-After` as a number of seconds.
            ms: `retry-after-ms`, a number of milliseconds, which is OpenAI's.
            date: `Retry-After` as a date; one without a time zone is in local time.
            status: the status, from 400 to 599.
            first: see `Fault`.

        Raises:
            ValueError: it is not exactly one of `seconds`, `ms` and `date`.
        """
        if [seconds, ms, date].count(None) != 2:
            raise ValueError("give one of seconds, ms= and date=")
        _check_status(status)
        if date is not None:
            headers = {"Retry-After": format_datetime(date.astimezone(timezone.utc), usegmt=True)}
        else:
            headers = {"Retry-After": f"{seconds}"} if ms is None else {"retry-after-ms": f"{ms}"}
        return cls._instead("retry_after", service_error(status, reason_phrase(status), headers), first)

    @classmethod
    def html(cls, status: int = 502, *, first: int | None = None) -> Fault:
        """Answer with a gateway's page and a status from 400 to 599, or 200; no reply is used up."""
        if status != 200:
            _check_status(status)
        title = f"{status} {reason_phrase(status)}"
        page = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\n"
        return cls._instead("html", Response(status, "text/html; charset=utf-8", page.encode()), first)

    @classmethod
    def _instead(cls, name: str, response: Response, first: int | None) -> Fault:
        return cls(name, "answer", 0, first, (response,), _answer)

    # The bytes

    @classmethod
    def inject(
        cls, data: bytes, *, at: Place | None = None, after: int | None = None, first: int | None = None
    ) -> Fault:
        r"""Send bytes of one's own among those of the answer. Before the first header, unless a place is given.

        `inject(b"no colon\r\n")` is a malformed header line, with all of the other headers behind it;
        `inject(b"HTTP/1.1 103 Early Hints\r\n\r\n", at="head")` an interim response (RFC 9110, section 15.2).

        Raises:
            TypeError: `data` is not bytes.
        """
        if not isinstance(data, bytes):
            raise TypeError(f"data must be bytes, not {type(data).__name__}")
        if at is None and after is None:
            at = "fields"
        return cls("inject", *_place("inject", _IN_ANSWER, at, after), first, (data,), ResponseWriter.send)

    # The content

    @classmethod
    def bad_chunk(cls, *, at: Literal["size", "chunk"] = "size", after: int = 0, first: int | None = None) -> Fault:
        """Send a byte too many: the chunk's size is none, or the chunk does not end where its size says."""
        place = _place("bad_chunk", ("size", "chunk"), at, after)
        return cls("bad_chunk", *place, first, (b"!",), ResponseWriter.send, _CHUNKED)

    @classmethod
    def bad_gzip(cls, *, truncated: bool = False, after: int = 0, first: int | None = None) -> Fault:
        """Compress the answer, though nobody asked for it, and send what is not gzip behind some pieces.

        Args:
            truncated: send nothing there, so that the compressed data lacks its end.
            after: see `Fault`.
            first: see `Fault`.
        """
        data = b"" if truncated else b"\xff" * 8  # 0xff begins a deflate block of a type that there is not
        return cls("bad_gzip", "piece", after, first, (data,), _send_uncompressed, _GZIP)

    @classmethod
    def gzip_bomb(cls, size: int, *, after: int = 0, first: int | None = None) -> Fault:
        """Compress the answer, and end it with `size` zero bytes, which take a thousandth of that on the wire."""
        _check_size(size)
        return cls("gzip_bomb", "piece", after, first, (size, b"\0"), _flood, _GZIP)

    @classmethod
    def huge_line(cls, size: int, *, after: int = 0, first: int | None = None) -> Fault:
        """End the answer with an event that is one line: `data: `, `size` bytes, and no line end.

        The web protocol knows no lines; there it is `size` bytes of text.
        """
        _check_size(size)
        return cls("huge_line", "piece", after, first, (size, b"x", b"data: "), _flood, _CHUNKED)

    @classmethod
    def bad_utf8(cls, *, after: int = 0, first: int | None = None) -> Fault:
        """Send, between pieces, one whose text is a byte that UTF-8 does not have."""
        return cls("bad_utf8", "piece", after, first, (b"\xff",), _send_text, _CHUNKED)

    @classmethod
    def bad_json(cls, *, after: int = 0, first: int | None = None) -> Fault:
        """Send, between pieces, the beginning of a JSON object only.

        The web protocol carries text, where this is no fault.
        """
        return cls("bad_json", "piece", after, first, (b'{"choices": [{"delta"',), ResponseWriter.event, _CHUNKED)

    @classmethod
    def error_frame(
        cls, message: str = "upstream failed", *, status: int = 500, after: int = 0, first: int | None = None
    ) -> Fault:
        """Send an error object with a status from 400 to 599 behind some pieces, where the answer then ends.

        The web protocol carries text, of which this is a part then.
        """
        _check_status(status)
        error = error_object(status, message)
        return cls("error_frame", "piece", after, first, (error,), _end_with_event, _CHUNKED)

    @classmethod
    def no_done(cls, *, after: int | None = None, first: int | None = None) -> Fault:
        """End the answer behind some pieces, or all, but not as it should end.

        A stream of events lacks the finish reason and `[DONE]`; anything else, as the web protocol
        has it, lacks the last chunk, and the connection is closed in order.
        """
        return cls("no_done", "piece", math.inf if after is None else after, first, (), _end_early)


def _place(name: str, places: Sequence[Place], at: Place | None, after: int | None) -> tuple[Place, int]:
    """Return where a fault strikes, given the places that make sense for it."""
    if at is None:
        at = "head" if after is None else "piece"
    if at not in places:
        raise ValueError(f"Fault.{name}(at={at!r}): it strikes at {', '.join(map(repr, places))}")
    counting = [place for place in places if place in ("piece", "size", "chunk")]
    if after is not None and at not in counting:
        raise ValueError(f"Fault.{name}(at={at!r}, after={after}): after= goes with {', '.join(map(repr, counting))}")
    return at, after or 0


def check_number(name: str, value: float) -> None:
    """Raise TypeError for what is no number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, not {type(value).__name__}")


def check_seconds(name: str, value: float) -> None:
    """Raise ValueError for what can't be waited for, TypeError for what is no number."""
    check_number(name, value)
    if not 0 <= value <= threading.TIMEOUT_MAX:
        raise ValueError(f"{name}={value}: a number of seconds, 0 or more")


def _check_size(size: int, least: int = 1) -> None:
    check_number("size", size)
    if size < least:
        raise ValueError(f"size={size}: a number of bytes, {least} or more")


def _check_status(status: int) -> None:
    check_number("status", status)
    if not 400 <= status <= 599:
        raise ValueError(f"status={status}: an error's is from 400 to 599")


def _send_in_slices(writer: ResponseWriter, size: int, delay: float) -> None:
    writer.limit_time(MAX_SECONDS)
    writer.slice(size, delay)


def _answer(writer: ResponseWriter, response: Response) -> NoReturn:
    writer.write(response)
    raise ResponseOver


def _send_uncompressed(writer: ResponseWriter, data: bytes) -> NoReturn:
    """Send bytes where compressed ones should follow, and end the response."""
    writer.compressor = None
    writer.piece(data)
    writer.finish()


def _flood(writer: ResponseWriter, size: int, byte: bytes, start: bytes = b"") -> NoReturn:
    """Send `start`, if the body is a stream of events, then one byte `size` times, and end the response."""
    writer.limit_time(MAX_SECONDS)
    if writer.event_stream:
        writer.piece(start)
    for position in range(0, size, _BLOCK):
        writer.piece(byte * min(_BLOCK, size - position))
    writer.finish()


def _send_text(writer: ResponseWriter, text: bytes) -> None:
    """Send a piece of text as it is, valid or not."""
    writer.event(b'{"choices": [{"index": 0, "delta": {"content": "%b"}}]}' % text if writer.event_stream else text)


def _end_with_event(writer: ResponseWriter, data: bytes) -> NoReturn:
    writer.event(data)
    writer.finish()


def _end_early(writer: ResponseWriter) -> NoReturn:
    """End a stream of events before the events that end it, and anything else before its last chunk."""
    if writer.event_stream:
        writer.finish()
    writer.close()
