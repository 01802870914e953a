"""OpenAI's chat completions, which the live service speaks: Server-Sent Events, or one JSON object. No I/O."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .._errors import ProtocolError, StreamInterruptedError
from .._types import Event, Finished, Messages, ReasoningDelta, Started, TextDelta, ToolCallDelta, Usage
from . import sse
from .json_text import MAX_DEPTH, MAX_JSON, JSONText, check
from .protocol import ChatProtocol, Decoder, Endpoint, JSONDecoder, bearer
from .service import error_in_stream, media_type
from .text import TextDecoder, Utf8Decoder


def _chat_headers(base_url: str, api_key: str | None) -> dict[str, str]:
    return bearer(base_url, api_key) | {"Accept": "text/event-stream, application/json"}


def _model_ids(answer: Any) -> list[str]:
    ids = [model["id"] for model in answer["data"]]
    if not isinstance(answer["data"], list) or not all(isinstance(each, str) for each in ids):
        raise TypeError("not a list of objects with an id")
    return ids


MODELS = Endpoint("GET", "/models", lambda _, max_json: JSONDecoder(_model_ids, "a list of models", max_json))
"""Lists the models."""


def _chat_decoder(content_type: str, max_json: int = MAX_JSON) -> Decoder[Event]:
    kind = media_type(content_type)
    if kind == "text/html":
        return TextDecoder(maybe_page=True, text_allowed=False)
    return _ObjectDecoder(max_json) if kind == "application/json" else _EventDecoder()


class OpenAIProtocol(ChatProtocol):
    name = "openai"
    base_urls = ("https://api.chatanywhere.tech", "https://api.chatanywhere.org")
    root = "/v1"
    default_model = "gpt-4o-mini"
    needs_key = True
    chat = Endpoint("POST", "/chat/completions", _chat_decoder, _chat_headers, added=("stream_options",))

    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        # Without include_usage a stream does not say what the call cost.
        usage = {"stream_options": {"include_usage": True}} if options.get("stream", True) else {}
        return {"model": model, "messages": messages, "stream": True, **usage, **options}


class _EventDecoder:
    """Chat completion chunks as Server-Sent Events."""

    def __init__(self) -> None:
        self.done = False
        self._utf8 = Utf8Decoder()
        self._sse = sse.EventStreamDecoder()
        self._chunks = _ChunkReader()

    def feed(self, block: bytes, events: list[Event]) -> None:
        text, error = self._utf8.feed(block)
        found: list[str] = []
        try:
            self._sse.feed(text, found)
        except ValueError as exc:
            error = ProtocolError(str(exc))
            error.__cause__ = exc
        try:
            for data in found:
                if data == "[DONE]":
                    self.done = True
                    return
                self._chunks.add(data, events)
            if error:
                raise error
        finally:
            self._chunks.flush(events)

    def finish(self, events: list[Event]) -> None:
        if not self._chunks.finished:
            raise StreamInterruptedError("the stream ended with neither a finish reason nor [DONE]")


class _ObjectDecoder:
    """One chat completion object, from servers that do not stream."""

    done = False

    def __init__(self, max_json: int) -> None:
        self._text = JSONText(max_json)

    def feed(self, block: bytes, events: list[Event]) -> None:
        self._text.feed(block)

    def finish(self, events: list[Event]) -> Iterator[None]:
        beginning = self._text.beginning
        try:
            value = yield from self._text.read()
        except ValueError as exc:
            raise ProtocolError(f"the answer is not a chat completion: {_excerpt(beginning)}") from exc
        chunks = _ChunkReader(lambda _: value)
        try:
            chunks.add(beginning, events)
        finally:
            chunks.flush(events)
        if not chunks.finished:
            raise ProtocolError(f"the answer is not a chat completion: {_excerpt(beginning)}")


_raw_decode = json.JSONDecoder().raw_decode


def _standard_loads(data: str) -> Any:
    """Do what `json.loads` does, without its search for blanks around the value.

    Raises:
        ValueError: it is not JSON, or there are blanks around it.
    """
    value, end = _raw_decode(data)
    if end != len(data):
        raise ValueError("not the value alone")
    return value


@functools.cache
def _fastest_loads() -> Callable[[str], Any]:
    """The reader of msgspec (`chatanywhere[speed]`) or orjson where one is installed; importing it waits until now."""
    try:
        import msgspec
    except ImportError:
        pass
    else:
        return msgspec.json.decode
    try:
        import orjson
    except ImportError:
        return _standard_loads
    return orjson.loads


_MOST = 1000  # choices, or tool calls of one; going through more would hold up an event loop

_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class _ChunkReader:
    """Reads chat completion chunks, and puts pieces of one kind that arrived together into one event."""

    def __init__(self, loads: Callable[[str], Any] | None = None) -> None:
        self._loads = loads or _fastest_loads()
        self.finished = False
        self._started = False
        self._kind: type[TextDelta] | type[ReasoningDelta] = TextDelta
        self._pieces: list[str] = []
        self._half = ""  # of a character

    def add(self, data: str, events: list[Event]) -> None:
        """Take a chunk in, as JSON; append the events that can't be merged with what may follow.

        Raises:
            ProtocolError, APIStatusError: something is wrong; what came before it is there after a `flush`.
        """
        try:
            if len(data) > 2 * MAX_DEPTH:
                check(data)
            try:
                chunk = self._loads(data)
            except Exception:  # the fast readers have errors of their own, and refuse some of what json reads
                chunk = json.loads(data)
            if chunk.get("error"):
                raise error_in_stream(chunk["error"])
            if not self._started:
                self._started = True
                events.append(Started(_text_or_none(chunk.get("id")), _text_or_none(chunk.get("model"))))
            choices = chunk.get("choices") or ()
            if len(choices) > _MOST:
                raise ValueError("too many choices")
            for choice in choices:
                if choice.get("index"):
                    continue  # another answer to the same question
                # "message" is where the answer that is not streamed has its text.
                delta = choice.get("delta") or choice.get("message") or {}
                reasoning = delta.get("reasoning_content")
                if reasoning:
                    self._piece(ReasoningDelta, reasoning, events)
                content = delta.get("content")
                if content:
                    if self._kind is TextDelta and not self._half and type(content) is str and content.isascii():
                        self._pieces.append(content)  # as `_piece` would
                    else:
                        self._piece(TextDelta, content, events)
                calls = delta.get("tool_calls")
                if calls:
                    if len(calls) > _MOST:
                        raise ValueError("too many tool calls")
                    self.flush(events)
                    events.extend(map(_tool_call, calls, range(len(calls))))
                reason = choice.get("finish_reason")
                if reason:
                    self.finished = True
                    self.flush(events)
                    events.append(Finished(_text(reason)))
            usage = chunk.get("usage")
            if usage:
                counts = {name: usage.get(name) for name in _COUNTS}
                if all(map(_is_count, counts.values())):
                    self.flush(events)
                    events.append(Usage(**counts))
        except (AttributeError, RecursionError, TypeError, ValueError) as exc:
            raise ProtocolError(f"not a chat completion chunk: {_excerpt(data)}") from exc

    def _piece(self, kind: type[TextDelta] | type[ReasoningDelta], text: Any, events: list[Event]) -> None:
        if not isinstance(text, str):
            raise TypeError("not text")
        if kind is not self._kind:
            self.flush(events)
            self._kind = kind
        if self._half:
            text = (self._half + text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            self._half = ""
        # JSON writes an emoji as two escapes, and some servers put one into each of two chunks.
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        self._pieces.append(text)

    def flush(self, events: list[Event]) -> None:
        """Append the pieces taken in so far."""
        if self._pieces:
            text = "".join(self._pieces)
            self._pieces.clear()
            if text:
                events.append(self._kind(text))


def _tool_call(call: Any, position: int) -> ToolCallDelta:
    function = call.get("function") or {}
    index = call.get("index", position)
    if not _is_count(index):
        raise TypeError("index is not a number")
    name, arguments = function.get("name"), function.get("arguments") or ""
    return ToolCallDelta(index, _text_or_none(call.get("id")), _text_or_none(name), _text(arguments))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < 1 << 63  # beyond, readers of JSON do not agree


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:120] + "…")


PROTOCOL = OpenAIProtocol()
