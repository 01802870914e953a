"""OpenAI's chat completions, which the live service speaks: Server-Sent Events, or one JSON object. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from json import JSONDecodeError
from typing import Any

from .._errors import ProtocolError, StreamInterruptedError
from .._types import Event, Messages
from . import sse
from .chunks import ChunkReader
from .decoder import Decoder
from .excerpt import beginning
from .head import AnswerHead
from .json_text import MAX_JSON, JSONText, read_all
from .protocol import ChatProtocol, Endpoint, bearer, no_json
from .text import NoAnswerDecoder, Utf8Decoder


def _chat_headers(base_url: str, api_key: str | None) -> dict[str, str]:
    return bearer(base_url, api_key) | {"Accept": "text/event-stream, application/json"}


class _AnyDecoder(Decoder[Event]):
    """Decides by the first bytes what an answer is, since they say it better than its `Content-Type`."""

    def __init__(self, head: AnswerHead, max_json: int = MAX_JSON) -> None:
        self._head = head
        self._max_json = max_json
        self._begin = b""
        self._decoder: Decoder[Event] | None = None

    @property
    def done(self) -> bool:
        return self._decoder is not None and self._decoder.done

    @property
    def chunks(self) -> list[str]:
        return [] if self._decoder is None else self._decoder.chunks

    def is_whole(self, choices: int) -> bool:
        return self._decoder is not None and self._decoder.is_whole(choices)

    def feed(self, block: bytes, events: list[Event]) -> None:
        decoder = self._decoder
        if decoder is None:
            # Nothing that can't be seen is a part of what follows: in front of a field, it would be one of its name.
            self._begin = _UNSEEN.sub(b"", self._begin + block, count=1)
            decoder = self._decoder = self._decide(self._begin)
            if decoder is None:
                return
            block, self._begin = self._begin, b""
        decoder.feed(block, events)

    def _decide(self, begin: bytes) -> Decoder[Event] | None:
        """Return the decoder for an answer that begins so, None if that can't be told yet."""
        if begin[:1] in (b"{", b"["):
            return _ObjectDecoder(self._head, self._max_json)
        if begin[:1] == b"<":
            return NoAnswerDecoder(self._head)
        if begin.startswith(_FIELDS):
            return _EventDecoder(self._head)
        return None if any(start.startswith(begin) for start in _STARTS) else self._as_labelled()

    def _as_labelled(self) -> Decoder[Event]:
        if self._head.media_type == "text/html":
            return NoAnswerDecoder(self._head)
        is_json = self._head.media_type == "application/json"
        return _ObjectDecoder(self._head, self._max_json) if is_json else _EventDecoder(self._head)

    def finish(self, events: list[Event]) -> Iterator[None]:
        if self._decoder is None:  # there is next to nothing
            self._decoder = self._as_labelled()
            self._decoder.feed(self._begin, events)
        yield from self._decoder.finish(events) or ()


NOTHING = "the answer is complete but holds nothing, not even a finish reason"

_FIELDS = (b"data:", b"event:", b"id:", b"retry:", b":")  # what an event stream begins with
_BOM = b"\xef\xbb\xbf"
_STARTS = (*_FIELDS, _BOM)
_UNSEEN = re.compile(rb"^(?:\xef\xbb\xbf|[\0\s])+")


def _with_words(what: str, lines: list[str]) -> str:
    """Say what is wrong, and what came that is no part of an answer: it may be words of the service."""
    return f"{what}: {beginning(chr(10).join(lines))}" if lines else what


class _EventDecoder(Decoder[Event]):
    """Chat completion chunks as Server-Sent Events."""

    def __init__(self, head: AnswerHead) -> None:
        self._done = False
        self._utf8 = Utf8Decoder()
        self._sse = sse.EventStreamDecoder()
        self._reader = ChunkReader(head)

    @property
    def done(self) -> bool:
        return self._done

    @property
    def chunks(self) -> list[str]:
        return self._reader.chunks

    def is_whole(self, choices: int) -> bool:
        if self._done or self._reader.is_whole(choices):
            return True
        pending = self._sse.pending()
        return bool(pending) and self._reader.would_be_whole(pending, choices)

    def feed(self, block: bytes, events: list[Event]) -> None:
        text, error = self._utf8.feed(block)
        found: list[str] = []
        try:
            self._sse.feed(text, found)
        except ProtocolError as exc:
            error = exc
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
        self._done = done

    def finish(self, events: list[Event]) -> None:
        # Where the framing says that this is all, the last event need not have its blank line.
        done = False
        try:
            done = self._reader.add_all(self._sse.rest(), events)
        except ProtocolError as exc:
            if not self._reader.is_whole():
                raise StreamInterruptedError("the stream ended within an event") from exc
        finally:
            self._reader.flush(events, last=True)
        self._end(done)
        if done or self._reader.is_whole():
            return
        unknown = self._sse.unknown
        is_silent = not (self.chunks or self._sse.has_comments)
        if unknown and is_silent:
            raise ProtocolError(_with_words("the answer is text", unknown))
        what = "the answer is empty" if is_silent else "the stream ended with neither a finish reason nor [DONE]"
        raise StreamInterruptedError(_with_words(what, unknown + self._reader.shown))


class _ObjectDecoder(Decoder[Event]):
    """One chat completion object, from servers that do not stream; some send more behind it."""

    def __init__(self, head: AnswerHead, max_json: int) -> None:
        self._text = JSONText(max_json, head.charset)
        self._reader = ChunkReader(head)

    @property
    def chunks(self) -> list[str]:
        return self._reader.chunks

    def is_whole(self, choices: int) -> bool:
        return self._text.is_whole

    def feed(self, block: bytes, events: list[Event]) -> None:
        self._text.feed(block)

    def finish(self, events: list[Event]) -> Iterator[None]:
        try:
            yield from self._read(events)
        finally:
            self._reader.flush(events, last=True)
        if self._reader.is_empty:
            raise ProtocolError(_with_words(NOTHING, self._reader.shown))

    def _read(self, events: list[Event]) -> Iterator[None]:
        text = ""
        try:
            text = self._text.take()
            for found in read_all(text, self._text.limit):
                if found is None or found.start:
                    yield
                if found is not None:
                    self._reader.add(found.value, text[found.start : found.end].rstrip(), events)
        except (JSONDecodeError, UnicodeDecodeError) as exc:
            rest = text[exc.pos :] if isinstance(exc, JSONDecodeError) else ""
            if self.chunks and rest.startswith(tuple(map(bytes.decode, _FIELDS))):
                self._read_events(rest, events)
                return
            raise no_json(text, "a chat completion", exc) from exc

    def _read_events(self, text: str, events: list[Event]) -> None:
        """Read what some servers send behind the object as if it were the last event of a stream: `[DONE]`."""
        found: list[str] = []
        decoder = sse.EventStreamDecoder()
        decoder.feed(text, found)
        self._reader.add_all(found + decoder.rest(), events)


class OpenAIProtocol(ChatProtocol):
    name = "openai"
    base_urls = ("https://api.chatanywhere.tech", "https://api.chatanywhere.org")
    root = "/v1"
    default_model = "gpt-4o-mini"
    needs_key = True
    chat = Endpoint(
        "POST", "/chat/completions", _AnyDecoder, _chat_headers, added=("stream_options",), operation="chat"
    )

    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        # Without include_usage a stream does not say what the call cost.
        usage = {"stream_options": {"include_usage": True}} if options.get("stream", True) else {}
        return {"model": model, "messages": messages, "stream": True, **usage, **options}


PROTOCOL = OpenAIProtocol()
