"""What the server answers to a request: the table of its routes, and what each of them says.

A route is a function of the request and an entry in `ROUTES`, at the end. Nothing here writes to a connection.
"""

from __future__ import annotations

import functools
import http.client
import json
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from .faults import Fault
from .talker import talk, text_of
from .writer import Response, StreamedBody, reason_phrase, service_error, to_json

_WEB_PATH = "/v1/chat/gpt/"
_MODELS = ("gpt-3.5-turbo", "gpt-4o", "gpt-4o-mini", "deepseek-r1", "deepseek-v3")

_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[^\s{_CJK}]+)|\s+")

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """A request that the server received, whatever its method and path."""

    method: str
    path: str
    """The request target as it was sent, so with the query."""
    headers: http.client.HTTPMessage
    """The headers; `headers.get(name)` asks for one in upper or lower case alike."""
    body: bytes

    @functools.cached_property
    def json(self) -> Any:
        """The body as JSON, or None if it is none."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was sent, under either protocol; empty if there is none."""
        name = "list" if _without_query(self.path) == _WEB_PATH else "messages"
        messages = self.json.get(name) if isinstance(self.json, dict) else None
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            return messages
        return []

    @property
    def text(self) -> str:
        """The text of the user's last message; empty if there is none."""
        said = [text_of(message) for message in self.messages if message.get("role") == "user"]
        return said[-1] if said else ""


def _without_query(path: str) -> str:
    return path.partition("?")[0]


class RequestError(Exception):
    """A request that is answered with an error status, in the service's envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# What chats are answered with

Reply = str | Sequence[str] | Fault
"""What is answered: a text, to be streamed word by word; the very pieces to be streamed; or a fault."""


class Replies:
    """The replies of a server to chats, given to connections that may ask at the same time.

    Args:
        replies: what a `LoopbackServer` takes under this name.

    Raises:
        TypeError: `replies` is a single reply, or no replies at all.
    """

    def __init__(self, replies: Iterable[Reply] | Callable[[Request], Reply] | None) -> None:
        if isinstance(replies, (str, Fault)):
            raise TypeError("replies is an iterable of replies: for one reply, pass [reply]")
        self._next: Callable[[Request], Reply]
        if replies is None:
            self._next = lambda request: talk(request.messages)
        elif callable(replies):
            self._next = replies
        elif isinstance(replies, Iterable):
            self._script = iter(replies)
            self._lock = threading.Lock()
            self._next = self._next_in_script
        else:
            raise TypeError(f"replies must be an iterable of replies or a function, not {type(replies).__name__}")

    def _next_in_script(self, request: Request) -> Reply:
        with self._lock:
            try:
                return next(self._script)
            except StopIteration:
                raise RequestError(
                    400, "the server has no reply left: give it more, or a function that makes them"
                ) from None

    def take(self, request: Request) -> tuple[list[str], Fault | None]:
        """Return the pieces of the reply to a chat, and what goes wrong with it.

        Raises:
            RequestError: the request is no chat, or there is no reply left.
        """
        if not isinstance(request.json, dict):
            raise RequestError(400, "the body is not a JSON object")
        if not request.messages:
            raise RequestError(400, "the messages are not a non-empty list of objects")
        reply = self._next(request)
        fault: Fault | None = None
        if isinstance(reply, Fault):
            if reply.at == "accept":
                raise ValueError("a fault that is a reply comes too late to strike at='accept'")
            fault, reply = reply, talk(request.messages)
        if isinstance(reply, str):
            return _WORD.findall(reply), fault
        if isinstance(reply, Sequence) and all(isinstance(piece, str) for piece in reply):
            return list(reply), fault
        raise TypeError(f"a reply is a str, a sequence of str or a Fault, not {reply!r:.80}")


# The routes


@dataclass(frozen=True)
class Route:
    """What is answered to one method at one path."""

    method: str
    path: str
    answer: Callable[[Request, Replies], Response]
    """Makes the answer; it may raise a `RequestError`."""


def respond(request: Request, replies: Replies) -> Response:
    """Return the answer to a request, which is an error where there is no other."""
    path = _without_query(request.path)
    routes = {route.method: route for route in ROUTES if route.path == path}
    if not routes:
        return _spring_error(404, path)
    if request.method not in routes:
        return _spring_error(405, path, {"Allow": ", ".join(routes)})
    try:
        return routes[request.method].answer(request, replies)
    except RequestError as error:
        return service_error(error.status, str(error))
    except Exception as error:
        _logger.exception("No reply to %s %s", request.method, request.path)
        return service_error(500, f"{type(error).__name__}: {error}")


def _spring_error(status: int, path: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error as the framework beneath the service words it."""
    error = {
        "timestamp": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "status": status,
        "error": reason_phrase(status),
        "path": path,
    }
    return Response(status, "application/json", to_json(error), headers or {})


def _require_key(request: Request) -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise RequestError(401, "wrong api key: none was sent as `Authorization: Bearer …`")


def _answer_web(request: Request, replies: Replies) -> Response:
    pieces, fault = replies.take(request)
    body = StreamedBody([piece.encode() for piece in pieces])
    return Response(200, "application/octet-stream", body, fault=fault)


def _answer_chat(request: Request, replies: Replies) -> Response:
    _require_key(request)
    pieces, fault = replies.take(request)
    common = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": request.json.get("model", _MODELS[0]),
    }
    usage = _usage(request, pieces)
    if request.json.get("stream"):
        include_usage = (request.json.get("stream_options") or {}).get("include_usage")
        body = _chat_events(common, pieces, usage if include_usage else None)
        return Response(200, "text/event-stream", body, fault=fault)
    message = {"role": "assistant", "content": "".join(pieces)}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    completion = {**common, "object": "chat.completion", "choices": [choice], "usage": usage}
    return Response(200, "application/json", to_json(completion), fault=fault)


def _chat_events(common: dict[str, Any], pieces: list[str], usage: dict[str, int] | None) -> StreamedBody:
    """Return a completion as a stream of events; `usage` is None if it was not asked for."""
    common = {**common, "object": "chat.completion.chunk"}
    if usage is not None:
        common["usage"] = None  # until the one chunk that has it

    def event(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event({**common, "choices": [choice]})

    return StreamedBody(
        opening=[event({"role": "assistant", "content": ""})],
        pieces=[event({"content": piece}) for piece in pieces],
        ending=[
            event({}, finish_reason="stop"),
            *([_event({**common, "choices": [], "usage": usage})] if usage is not None else []),
            b"data: [DONE]\n\n",
        ],
    )


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % to_json(value)


def _usage(request: Request, pieces: list[str]) -> dict[str, int]:
    prompt_tokens = sum(_count_tokens(text_of(message)) for message in request.messages)
    completion_tokens = _count_tokens("".join(pieces))
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _count_tokens(text: str) -> int:
    return len(_WORD.findall(text))


def _answer_models(request: Request, replies: Replies) -> Response:
    models = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "loopback"} for name in _MODELS]
    return Response(200, "application/json", to_json({"object": "list", "data": models}))


ROUTES = (
    Route("POST", _WEB_PATH, _answer_web),
    Route("POST", "/v1/chat/completions", _answer_chat),
    Route("GET", "/v1/models", _answer_models),
)
"""All that the server has."""
