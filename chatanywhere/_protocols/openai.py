"""OpenAI's chat completions, which the live service speaks: Server-Sent Events, or one JSON object. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .._errors import ProtocolError, StreamInterruptedError
from .._types import Event, Messages
from . import sse
from .chunks import ChunkReader
from .excerpt import beginning
from .head import AnswerHead
from .json_text import MAX_JSON, JSONText
from .protocol import ChatProtocol, Decoder, Endpoint, bearer, read_answer
from .text import NoAnswerDecoder, Utf8Decoder


def _chat_headers(base_url: str, api_key: str | None) -> dict[str, str]:
    return bearer(base_url, api_key) | {"Accept": "text/event-stream, application/json"}


class _AnyDecoder:
    """Decides by the first bytes what an answer is, since they say it better than its `Content-Type`."""

    def __init__(self, head: AnswerHead, max_json: int = MAX_JSON) -> None:
        self.done = False
        self.ended = 0
        self.chunks: list[str] = []
        self._head = head
        self._max_json = max_json
        self._begin = b""
        self._decoder: Decoder[Event] | None = None

    def feed(self, block: bytes, events: list[Event]) -> None:
        decoder = self._decoder
        if decoder is None:
            self._begin += block
            decoder = self._decide(self._begin)
            if decoder is None:
                if len(self._begin) <= _MAX_BLANKS:
                    return
                decoder = self._as_labelled()
            self._use(decoder)
            block, self._begin = self._begin, b""
        try:
            decoder.feed(block, events)
        finally:
            self.done, self.ended = decoder.done, decoder.ended

    def _use(self, decoder: Decoder[Event]) -> None:
        self._decoder = decoder
        self.chunks = decoder.chunks

    def _decide(self, begin: bytes) -> Decoder[Event] | None:
        """Return the decoder for an answer that begins so, None if that can't be told yet."""
        if _BOM.startswith(begin):
            return None
        start = begin.removeprefix(_BOM).lstrip()[:_SEEN]
        if start[:1] in (b"{", b"["):
            return _ObjectDecoder(self._head, self._max_json)
        if start[:1] == b"<":
            return NoAnswerDecoder(self._head)
        if start and (start.startswith(_FIELDS) or self._head.media_type not in ("text/html", "application/json")):
            return _EventDecoder(self._head)
        return None if any(field.startswith(start) for field in _FIELDS) else self._as_labelled()

    def _as_labelled(self) -> Decoder[Event]:
        if self._head.media_type == "text/html":
            return NoAnswerDecoder(self._head)
        is_json = self._head.media_type == "application/json"
        return _ObjectDecoder(self._head, self._max_json) if is_json else _EventDecoder(self._head)

    def finish(self, events: list[Event]) -> Iterator[None]:
        decoder = self._decoder
        if decoder is None:  # there is next to nothing
            decoder = self._as_labelled()
            self._use(decoder)
            decoder.feed(self._begin, events)
        try:
            yield from decoder.finish(events) or ()
        finally:
            self.done, self.ended = decoder.done, decoder.ended


NOTHING = "the answer is complete but holds nothing, not even a finish reason"

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")  # what an event stream begins with
_BOM = b"\xef\xbb\xbf"
_SEEN = max(map(len, _FIELDS))
_MAX_BLANKS = 64 * 1024


def _with_words(what: str, lines: list[str]) -> str:
    """Say what is wrong, and what came that is no part of an answer: it may be words of the service."""
    return f"{what}: {beginning(chr(10).join(lines))}" if lines else what


class _EventDecoder:
    """Chat completion chunks as Server-Sent Events."""

    def __init__(self, head: AnswerHead) -> None:
        self.done = False
        self._utf8 = Utf8Decoder()
        self._sse = sse.EventStreamDecoder()
        self._reader = ChunkReader(head)
        self.chunks = self._reader.chunks

    @property
    def ended(self) -> int:
        return self._reader.ended

    def feed(self, block: bytes, events: list[Event]) -> None:
        text, error = self._utf8.feed(block)
        found: list[str] = []
        try:
            self._sse.feed(text, found)
        except ValueError as exc:
            error = ProtocolError(str(exc))
            error.__cause__ = exc
        self._read(found, events, error)

    def _read(self, found: list[str], events: list[Event], error: ProtocolError | None = None) -> None:
        done = False
        try:
            done = self._reader.add_all(found, events)
            if error and not done:
                raise error
        finally:
            self._reader.flush(events, last=done)
        self._end(done)

    def _end(self, done: bool) -> None:
        if done and self._reader.is_empty:
            raise ProtocolError(_with_words(NOTHING, self._sse.unknown + self._reader.shown))
        self.done = done

    def finish(self, events: list[Event]) -> None:
        # Where the framing says that this is all, the last event need not have its blank line.
        done = False
        try:
            done = self._reader.add_all(self._sse.rest(), events)
        except (ProtocolError, ValueError) as exc:
            if not self._reader.ended:
                raise StreamInterruptedError("the stream ended within an event") from exc
        finally:
            self._reader.flush(events, last=True)
        self._end(done)
        if self.done or self._reader.ended:
            return
        unknown = self._sse.unknown
        if unknown and not (self.chunks or self._sse.has_comments):
            raise ProtocolError(_with_words("the answer is text", unknown))
        what = "the stream ended with neither a finish reason nor [DONE]"
        raise StreamInterruptedError(_with_words(what, unknown + self._reader.shown))


class _ObjectDecoder:
    """One chat completion object, from servers that do not stream."""

    done = False

    def __init__(self, head: AnswerHead, max_json: int) -> None:
        self._text = JSONText(max_json, head.charset)
        self._reader = ChunkReader(head)
        self.chunks = self._reader.chunks

    @property
    def ended(self) -> int:
        return self._reader.ended

    def feed(self, block: bytes, events: list[Event]) -> None:
        self._text.feed(block)

    def finish(self, events: list[Event]) -> Iterator[None]:
        text, value = yield from read_answer(self._text, "a chat completion")
        try:
            self._reader.add(value, text, events)
        finally:
            self._reader.flush(events, last=True)
        if self._reader.is_empty:
            raise ProtocolError(_with_words(NOTHING, self._reader.shown))


class OpenAIProtocol(ChatProtocol):
    name = "openai"
    base_urls = ("https://api.chatanywhere.tech", "https://api.chatanywhere.org")
    root = "/v1"
    default_model = "gpt-4o-mini"
    needs_key = True
    chat = Endpoint("POST", "/chat/completions", _AnyDecoder, _chat_headers, added=("stream_options",))

    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        # Without include_usage a stream does not say what the call cost.
        usage = {"stream_options": {"include_usage": True}} if options.get("stream", True) else {}
        return {"model": model, "messages": messages, "stream": True, **usage, **options}


PROTOCOL = OpenAIProtocol()
