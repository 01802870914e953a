"""The two protocols: what a request looks like, what an answer means. No I/O.

`web` is the original page's backend: raw text. `openai` is the live service: OpenAI's chat completions, as
Server-Sent Events.
"""

from __future__ import annotations

import codecs
import functools
import json
import math
import re
import secrets
import string
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

from .._errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InsufficientBalanceError,
    InternalServerError,
    ModelNotAllowedError,
    NotFoundError,
    PermissionDeniedError,
    PromptTooLongError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    StreamInterruptedError,
    UnprocessableEntityError,
)
from .._types import Event, Finished, Messages, ReasoningDelta, Started, TextDelta, ToolCallDelta, Usage
from . import sse

KEY_PAGE = "https://github.com/chatanywhere/GPT_API_free"
"""Where keys are given out."""


class Decoder(Protocol):
    """Turns the content of one answer into events."""

    done: bool
    """The answer is over, whether or not the connection says so too."""

    def feed(self, block: bytes, events: list[Event]) -> None:
        """Append to `events` those that `block` completes; pieces of one kind in a row are one event.

        Raises:
            ProtocolError, APIStatusError: something is wrong; the events before that place have been appended.
        """

    def finish(self, events: list[Event]) -> None:
        """Append what is left when the content has ended.

        Raises:
            StreamInterruptedError, ProtocolError: it ended too early.
        """


class Wire(ABC):
    """A protocol, as the client sees it."""

    name: str
    base_urls: Sequence[str]
    default_model: str
    path: str
    needs_key: bool

    @abstractmethod
    def headers(self, base_url: str, api_key: str | None) -> dict[str, str]:
        """The headers of a request to the host at `base_url`."""

    @abstractmethod
    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON body of a request.

        Raises:
            ValueError: the model or an option can't be sent.
        """

    @abstractmethod
    def decoder(self, content_type: str) -> Decoder:
        """A decoder for one answer."""


def conversation(messages: str | Messages) -> Messages:
    """Read what a caller passes as messages: a str is one user message, a list is taken as it is.

    Raises:
        TypeError, ValueError: it is not a conversation; the message names the index of the bad turn.
    """
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if not isinstance(messages, Sequence) or isinstance(messages, bytes):
        raise TypeError(f"messages must be a str or a list of dicts, not {type(messages).__name__}")
    if not messages:
        raise ValueError("messages is empty: there is no message at index 0 to answer")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(f"messages[{index}] must be a dict with 'role' and 'content', not {type(message).__name__}")
        if "role" not in message:
            raise ValueError(f"messages[{index}] has no 'role': one of 'system', 'user', 'assistant' is usual")
        if not isinstance(message["role"], str):
            raise ValueError(f"messages[{index}]['role'] must be a str, not {type(message['role']).__name__}")
    return cast("Messages", messages)


class _Web(Wire):
    name = "web"
    base_urls = ("https://chatanywhere.cn",)
    default_model = "gpt-3.5-turbo"
    path = "/v1/chat/gpt/"
    needs_key = False

    models: Mapping[str, str] = {"gpt-3.5-turbo": "61490748"}  # the site's own ids; no other is known
    _id_characters = string.ascii_letters + string.digits + "-_"

    def headers(self, base_url: str, api_key: str | None) -> dict[str, str]:
        return {
            "User-Agent": "Mozilla/5.0 (X11; Ubuntu; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/119.0",
            "Accept": "application/json, text/plain, */*",
            "Content-Type": "application/json",
            "Referer": f"{base_url}/",
            "Origin": base_url,
            "Authorization": "",
        }

    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        site_id = model if model.isascii() and model.isdigit() else self.models.get(model)
        if site_id is None:
            known = ", ".join(map(repr, self.models))
            raise ValueError(
                f"the web protocol does not know the model {model!r}; it knows {known} and the site's numeric ids. "
                "Other models need protocol='openai'"
            )
        return {
            "list": messages,
            "id": "".join(secrets.choice(self._id_characters) for _ in range(21)),
            "title": _text_of(messages[-1].get("content")),
            "prompt": "",
            "temperature": 0.5,
            "models": site_id,
            "continuous": True,
            **options,
        }

    def decoder(self, content_type: str) -> Decoder:
        return _TextDecoder(maybe_page=_media_type(content_type) == "text/html")


class _OpenAI(Wire):
    name = "openai"
    base_urls = ("https://api.chatanywhere.tech", "https://api.chatanywhere.org")
    default_model = "gpt-4o-mini"
    path = "/v1/chat/completions"
    needs_key = True

    def headers(self, base_url: str, api_key: str | None) -> dict[str, str]:
        return {
            "Accept": "text/event-stream, application/json",
            "Content-Type": "application/json",
            "Authorization": f"Bearer {api_key}",
        }

    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        if options.get("n") not in (None, 1):
            raise ValueError(f"n={options['n']!r}: a stream carries one answer; make several calls instead")
        # Without include_usage the service does not say what the call cost.
        usage = {"stream_options": {"include_usage": True}}
        return {"model": model, "messages": messages, "stream": True, **usage, **options}

    def decoder(self, content_type: str) -> Decoder:
        media_type = _media_type(content_type)
        if media_type == "text/html":
            return _TextDecoder(maybe_page=True, text_allowed=False)
        return _ObjectDecoder() if media_type == "application/json" else _EventDecoder()


WIRES: dict[str, Wire] = {"web": _Web(), "openai": _OpenAI()}


def _media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def _text_of(content: Any) -> str:
    """The text of a message's content, which may be a list of parts."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, Sequence) else ()
    return "".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


class _Utf8:
    """Decodes UTF-8 cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, block: bytes) -> tuple[str, ProtocolError | None]:
        """Return the text, and the error that follows it if what follows is not UTF-8."""
        try:
            return self._decoder.decode(block), None
        except UnicodeDecodeError as exc:
            error = ProtocolError(f"the answer is not UTF-8: {exc.object[exc.start : exc.end]!r}")
            error.__cause__ = exc
            return exc.object[: exc.start].decode(), error

    def finish(self) -> None:
        try:
            self._decoder.decode(b"", True)
        except UnicodeDecodeError as exc:
            raise ProtocolError("the answer ends in the middle of a UTF-8 character") from exc


class _TextDecoder:
    """Raw text, as the `web` protocol sends it; recognises a page that came in its place."""

    done = False

    def __init__(self, *, maybe_page: bool, text_allowed: bool = True) -> None:
        self._utf8 = _Utf8()
        self._page = "" if maybe_page else None  # what may turn out to be a page; None once it is text
        self._text_allowed = text_allowed

    def feed(self, block: bytes, events: list[Event]) -> None:
        text, error = self._utf8.feed(block)
        if self._page is not None:
            self._page += text
            text = self._decide()
        if error and self._page and not self._is_page(self._page):
            text = self._page
        if text:
            events.append(TextDelta(text))
        if error:
            raise error

    def _decide(self) -> str:
        """Return the text held back so far once it can't be a page."""
        held = self._page or ""
        start = held.lstrip()[:16].lower()
        if not self._text_allowed or any(tag.startswith(start[: len(tag)]) for tag in _PAGE_TAGS):
            if len(held) > _PAGE_LIMIT:
                raise ProtocolError(_page_summary(held))
            return ""
        self._page = None
        return held

    def finish(self, events: list[Event]) -> None:
        if self._page is not None and self._is_page(self._page):
            raise ProtocolError(_page_summary(self._page))
        if self._page:
            events.append(TextDelta(self._page))
        self._utf8.finish()

    def _is_page(self, text: str) -> bool:
        return not self._text_allowed or text.lstrip()[:16].lower().startswith(_PAGE_TAGS)


class _EventDecoder:
    """Chat completion chunks as Server-Sent Events."""

    def __init__(self) -> None:
        self.done = False
        self._utf8 = _Utf8()
        self._sse = sse.Decoder()
        self._chunks = _Chunks()

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

    def __init__(self) -> None:
        self._content: list[bytes] = []

    def feed(self, block: bytes, events: list[Event]) -> None:
        self._content.append(block)

    def finish(self, events: list[Event]) -> None:
        try:
            text = b"".join(self._content).decode()
        except UnicodeDecodeError as exc:
            raise ProtocolError("the answer is not UTF-8") from exc
        chunks = _Chunks()
        try:
            chunks.add(text, events)
        finally:
            chunks.flush(events)
        if not chunks.finished:
            raise ProtocolError(f"the answer is not a chat completion: {_excerpt(text)}")


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


_COUNTS = ("prompt_tokens", "completion_tokens", "total_tokens")


class _Chunks:
    """Reads chat completion chunks, and puts pieces of one kind that arrived together into one event."""

    def __init__(self) -> None:
        self._loads = _fastest_loads()
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
            try:
                chunk = self._loads(data)
            except Exception:  # the fast readers have errors of their own, and refuse some of what json reads
                chunk = json.loads(data)
            if chunk.get("error"):
                raise error_in_stream(chunk["error"])
            if not self._started:
                self._started = True
                events.append(Started(_text_or_none(chunk.get("id")), _text_or_none(chunk.get("model"))))
            for choice in chunk.get("choices") or ():
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


# Errors -------------------------------------------------------------------------------------------------------

_PAGE_TAGS = ("<!doctype html", "<html")
_PAGE_LIMIT = 64 * 1024  # characters of a page that are read for its title

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}

# What the service says, in parts of its messages that have stayed the same: the class, a hint, the parts.
_KNOWN: Sequence[tuple[type[APIStatusError], str, Sequence[str]]] = (
    (
        AuthenticationError,
        "The call went to OpenAI, not to ChatAnywhere: the base URL is not applied. Set base_url= or "
        "CHATANYWHERE_BASE_URL to https://api.chatanywhere.tech (abroad: https://api.chatanywhere.org).",
        ("Incorrect API key provided",),
    ),
    (
        AuthenticationError,
        f"The key is not valid here. Check api_key= or CHATANYWHERE_API_KEY; keys are given out at {KEY_PAGE}.",
        ("wrong api key", "ApiKey错误"),
    ),
    (
        AuthenticationError,
        f"The key has been suspended. Ask the service why, or get another one at {KEY_PAGE}.",
        ("api key has been suspended",),
    ),
    (
        QuotaExceededError,
        "The free quota of the day is spent; it counts per key and per IP address, for some models also per model. "
        "It resets at 00:00 (probably UTC+8). Wait until then, or use a paid key.",
        ("免费API限制每日", "requests per day"),
    ),
    (
        PromptTooLongError,
        "A free key sends at most 4096 tokens in one call. Shorten the messages or leave out old turns, "
        "or use a paid key.",
        ("免费API限制模型输入token小于4096", "number of prompt tokens for free accounts is limited"),
    ),
    (
        ModelNotAllowedError,
        "A free key may not use this model, or this endpoint (/v1/completions is closed to it). "
        "Choose another model=, or use a paid key.",
        ("免费API限制使用", "free account is limited to use"),
    ),
    (
        InsufficientBalanceError,
        "The balance does not cover what the call may cost, which is reserved ahead from the prompt and max_tokens. "
        "Lower max_tokens=, or top up the account.",
        ("账户余额过低", "balance is not sufficient"),
    ),
    (
        PermissionDeniedError,
        "The service refuses your IP address. Try the other host as base_url=, or proxy=.",
        ("请求客户端IP不支持访问",),
    ),
    (
        InternalServerError,
        "The model behind the service answered nothing. It usually passes: try again.",
        ("模型无返回结果", "No response, please try again"),
    ),
)

_HINTS = {
    401: f"Check api_key= or CHATANYWHERE_API_KEY; keys are given out at {KEY_PAGE}.",
    404: "There is nothing at this path. Check base_url=: it is the host alone, with or without /v1.",
    429: "Too many requests for the moment. Wait a little, or raise Retry(attempts=…).",
}


def error_from(status: int, headers: Mapping[str, str], content: bytes) -> APIStatusError:
    """Read the answer with an error status.

    Args:
        status: of the answer, not 2xx.
        headers: with case-insensitive keys.
        content: as much of the body as was read.
    """
    text = content.decode("utf-8", "replace")
    body: object = text
    message: object
    code = None
    try:
        body = parsed = json.loads(text)
        error = parsed["error"]
    except (KeyError, RecursionError, TypeError, ValueError):
        page = _media_type(headers.get("content-type", "")) == "text/html" or text.lstrip()[:1] == "<"
        message = _page_summary(text) if page else " ".join(text.split())[:500]
    else:
        # An unknown path is answered with {"status", "error": "Not Found", "path"}, the rest with an object.
        fields = error if isinstance(error, dict) else {"message": error}
        message = fields.get("message")
        code = fields.get("code")
    hint = None
    if 300 <= status < 400:
        target = headers.get("location")
        message = f"the server redirects to {target!r}"
        hint = (
            "A request is not sent again elsewhere, because it carries the key. If the target is right, set base_url=."
        )
    return _status_error(status, message, code, body, headers, hint)


def error_in_stream(error: Any) -> APIStatusError:
    """Read an error that stands inside an answer whose status was 200."""
    fields = error if isinstance(error, dict) else {"message": error}
    code = fields.get("code")
    match = re.match("[1-5][0-9][0-9]", str(code))
    return _status_error(int(match[0]) if match else 200, fields.get("message"), code, {"error": error}, {}, None)


def _status_error(
    status: int, message: Any, code: Any, body: object, headers: Mapping[str, str], hint: str | None
) -> APIStatusError:
    words = message if isinstance(message, str) else ""
    kind = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    hint = hint or _HINTS.get(status)
    for known, its_hint, parts in _KNOWN:
        if any(part in words for part in parts):
            # A known message decides the class only where it narrows what the status says, if that says anything.
            if kind is APIStatusError or issubclass(known, kind):
                kind = known
            hint = its_hint
            break
    error = kind(
        words or "the service gave no reason",
        status_code=status,
        code=None if code is None else str(code),
        body=body,
        headers=headers,
        hint=hint,
    )
    error.retry_after = _retry_after(headers)
    return error


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the answer asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date."""
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait = float(headers.get(name, "")) * seconds
        except ValueError:
            continue
        if math.isfinite(wait):
            return max(0.0, wait)
    from datetime import datetime, timezone
    from email.utils import parsedate_to_datetime

    try:
        when = parsedate_to_datetime(headers.get("retry-after", ""))
        return max(0.0, (when.replace(tzinfo=when.tzinfo or timezone.utc) - datetime.now(timezone.utc)).total_seconds())
    except (OverflowError, TypeError, ValueError):
        return None


def _page_summary(page: str) -> str:
    title = re.search("<title[^<>]*>([^<]*)", page, re.IGNORECASE)  # takes linear time, whatever the page
    name = f", titled {' '.join(title[1].split())[:200]!r}" if title else ""
    return f"the answer is an HTML page{name}"
