"""What a `LoopbackServer` answers that records or replays: another server's answers, as they come or as they came."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

from .faults import check_number
from .forwarding import Upstream, UpstreamAnswer, UpstreamCut, UpstreamError
from .matching import RecordedRequest, nearest
from .recording import End, RecordedExchange, Recording
from .redaction import Redactor
from .request import Request, without_query
from .writer import ResponseWriter, openai_error, service_error

_MAX_RECORDED = 50 * 1024 * 1024  # bytes of an answer
_PIECE = 100  # bytes that a piece takes besides its own
_DONE = (b"data: [DONE]", b"data:[DONE]")
_MAX_DIFFERENCES = 3  # that are told

_logger = logging.getLogger(__name__)


class Recorder:
    """Answers with what another server answers, and writes it down.

    Args:
        path: the file to make.
        upstream: the URL of the other server.

    Attributes:
        recording: the recording, of which there is no file yet.

    Raises:
        TypeError, ValueError: see `Upstream`.
    """

    def __init__(self, path: str | os.PathLike[str], upstream: str) -> None:
        self._upstream = Upstream(upstream)
        self.recording = Recording(path, self._upstream.url)
        self._began = time.monotonic()

    def answer(self, request: Request, writer: ResponseWriter) -> None:
        """Answer a request."""
        began = time.monotonic() - self._began
        redactor = Redactor.of(request, self._upstream.query)
        recorded = RecordedRequest.of(request, redactor, self._upstream.path)
        try:
            answer = self._upstream.ask(request, writer)
        except UpstreamError as error:
            writer.write(service_error(502, str(error)))
            return
        for name, target in answer.headers:
            if name.lower() == "location" and 300 <= answer.status < 400 and "//" in without_query(target):
                message = "%s: the service redirects to %s, where nothing is recorded: give that server as upstream="
                _logger.warning(message, self.recording.path, redactor.hide_text(without_query(target)))
        take = _Take(self.recording, recorded, began, redactor, answer)
        with answer:
            if answer.is_over:
                take.end("complete")
            try:
                writer.relay(answer.status, answer.headers, take.pieces())
            except UpstreamCut as cut:
                if cut.reset:
                    writer.reset()
                writer.close()
            finally:
                take.end("left")


class _Take:
    """An answer that is being recorded."""

    def __init__(
        self, recording: Recording, request: RecordedRequest, began: float, redactor: Redactor, answer: UpstreamAnswer
    ) -> None:
        self._recording = recording
        self._request = request
        self._began = began
        self._redactor = redactor
        self._answer = answer
        self._headed = self._now()
        self._pieces: list[tuple[float, bytes]] = []
        self._room = _MAX_RECORDED
        self._is_over = False

    def _now(self) -> float:
        return time.monotonic() - self._answer.sent

    def pieces(self) -> Iterator[bytes]:
        """Yield the pieces of the answer as they come. It is written when the client can't know yet that it is over."""
        try:
            for data in self._answer.pieces():
                self._keep(data)
                if self._answer.is_over:
                    self.end("complete")
                yield data
        except UpstreamCut as cut:
            self.end("reset" if cut.reset else "cut")
            raise
        self.end("complete")

    def _keep(self, data: bytes) -> None:
        self._room -= len(data) + _PIECE
        if self._room < 0:
            self._pieces.clear()
        else:
            self._pieces.append((self._now(), data))

    def end(self, end: End) -> None:
        """Write the exchange, unless that has been done."""
        if self._is_over:
            return
        self._is_over = True
        data = b"".join(piece for _, piece in self._pieces)
        if end == "left" and data.rstrip().endswith(_DONE):
            end = "complete"  # nothing comes behind it, so that many clients go away here
        if self._room < 0:
            _logger.error("%s: an answer is too large to be recorded", self._recording.path)
            return
        hidden = self._redactor.hide(data)  # here, where a key is whole that came in two pieces
        exchange = RecordedExchange(
            self._request,
            self._began,
            self._answer.status,
            self._headed,
            self._redactor.hide_headers(self._answer.headers),
            list(_divided(hidden, self._pieces)),
            end,
            self._now(),
        )
        try:
            self._recording.add(exchange)
        except OSError as error:
            _logger.error("%s: an answer could not be recorded: %s", self._recording.path, error)


def _divided(data: bytes, pieces: list[tuple[float, bytes]]) -> Iterator[tuple[float, bytes]]:
    """Yield data in pieces of the same sizes as others."""
    start = 0
    for at, piece in pieces:
        yield at, data[start : start + len(piece)]
        start += len(piece)


class Player:
    """Answers from a recording. The same request again gets the next of its answers, and in the end always the last.

    Args:
        path: the recording.
        speed: how many times as fast as it was; `math.inf`, or 0: without pauses.

    Attributes:
        recording: what was read.

    Raises:
        TypeError: `speed` is no number.
        ValueError: `speed` is negative or no number, or the file is no recording.
        OSError: the file can't be read.
    """

    def __init__(self, path: str | os.PathLike[str], speed: float) -> None:
        if speed != math.inf:
            check_number("speed", speed)
            if not speed >= 0:
                raise ValueError(f"speed={speed}: how many times as fast as recorded, or 0 for no pauses")
        self._speed = min(speed or math.inf, sys.float_info.max)
        self.recording = Recording.read(path)
        self._lock = threading.Lock()
        self._answers: dict[str, list[RecordedExchange]] = {}  # by their requests' identities
        for exchange in self.recording.exchanges:
            self._answers.setdefault(exchange.request.identity, []).append(exchange)
        self._prefix = urlsplit(self.recording.upstream).path

    def answer(self, request: Request, writer: ResponseWriter) -> None:
        """Answer a request."""
        start = time.monotonic()
        asked = RecordedRequest.of(request, Redactor.of(request), self._prefix)
        exchange = self._next(asked)
        if exchange is None:
            # This status, since clients try others again, or say more about them than is true here.
            writer.write(openai_error(400, self._missing(asked), "not_recorded"))
            return
        self._wait(writer, start, exchange.headed)
        writer.relay(exchange.status, _sized(exchange), self._pieces(exchange, writer, start))

    def _next(self, asked: RecordedRequest) -> RecordedExchange | None:
        with self._lock:
            answers = self._answers.get(asked.identity)
            if not answers:
                return None
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def _wait(self, writer: ResponseWriter, start: float, at: float) -> None:
        """Let time pass until so many seconds of the recording behind the start."""
        left = start + at / self._speed - time.monotonic()
        writer.wait(min(max(left, 0), threading.TIMEOUT_MAX))

    def _pieces(self, exchange: RecordedExchange, writer: ResponseWriter, start: float) -> Iterator[bytes]:
        for at, piece in exchange.pieces:
            self._wait(writer, start, at)
            yield piece
        self._wait(writer, start, exchange.ended)
        if exchange.end == "cut":
            writer.close()
        if exchange.end == "reset":
            writer.reset()
        if exchange.end == "left":
            writer.silence()  # what would have come is not known

    def _missing(self, asked: RecordedRequest) -> str:
        """Return what is said to a request that was not recorded."""
        message = f"{self.recording.path} has no answer to this {asked.method} {without_query(asked.path)}"
        found = nearest((answers[0].request for answers in self._answers.values()), asked)
        if found is None:
            return f"{message}: nothing was recorded"
        request, differences = found
        told = "; ".join(difference.told for difference in differences[:_MAX_DIFFERENCES])
        more = len(differences) - _MAX_DIFFERENCES
        told += f"; and {more} more" if more > 0 else ""
        found_at = f"{request.method} {without_query(request.path)}"
        return f"{message}. The nearest, {found_at}, differs in {told}. To record anew, remove the file"


def _sized(exchange: RecordedExchange) -> list[tuple[str, str]]:
    """Return the headers of an answer. If all of it came, they name the size that it has, as changed by hand."""
    size = sum(len(piece) for _, piece in exchange.pieces)
    is_whole = exchange.end == "complete" and exchange.request.method != "HEAD" and exchange.status not in (204, 304)
    return [
        (name, str(size) if is_whole and name.lower() == "content-length" else value)
        for name, value in exchange.headers
    ]
