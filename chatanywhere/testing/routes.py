"""What the server answers to a request: the table of its routes, and what each of them says.

A route is a function of the request and an entry in `ROUTES`, at the end. Nothing here writes to a connection.
"""

from __future__ import annotations

import functools
import http.client
import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from .faults import Fault
from .replies import Reply, ReplyLike, folded, words
from .talker import talk, text_of
from .writer import Response, StreamedBody, service_error, to_json

_WEB_PATH = "/v1/chat/gpt/"
_MODELS = ("gpt-3.5-turbo", "gpt-4o", "gpt-4o-mini", "deepseek-r1", "deepseek-v3")

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
        name = "list" if without_query(self.path) == _WEB_PATH else "messages"
        messages = self.json.get(name) if isinstance(self.json, dict) else None
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            return messages
        return []

    @property
    def text(self) -> str:
        """The text of the user's last message; empty if there is none."""
        said = [text_of(message) for message in self.messages if message.get("role") == "user"]
        return said[-1] if said else ""


def without_query(path: str) -> str:
    """Return a request target without its query."""
    return path.partition("?")[0]


class RequestError(Exception):
    """A request that is answered with an error status, in the service's envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


# What chats are answered with


class Replies:
    """The replies of a server to chats, given to connections that may ask at the same time.

    Args:
        replies: what a `LoopbackServer` takes under this name.

    Raises:
        TypeError: `replies` is a single reply, or no replies at all.
    """

    def __init__(self, replies: Iterable[ReplyLike] | Callable[[Request], ReplyLike] | None) -> None:
        if isinstance(replies, (str, Mapping, Fault, Reply)):
            raise TypeError("replies is an iterable of replies: for one reply, pass [reply]")
        self._next: Callable[[Request], ReplyLike]
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

    def _next_in_script(self, request: Request) -> ReplyLike:
        with self._lock:
            try:
                return next(self._script)
            except StopIteration:
                raise RequestError(
                    400, "the server has no reply left: give it more, or a function that makes them"
                ) from None

    def take(self, request: Request) -> tuple[Reply | Mapping[str, Any], Fault | None]:
        """Return the reply to a chat, or the object to be sent in its place, and what goes wrong with it.

        Raises:
            RequestError: the request is no chat, or there is no reply left.
        """
        if not isinstance(request.json, dict):
            raise RequestError(400, "the body is not a JSON object")
        if not request.messages:
            raise RequestError(400, "the messages are not a non-empty list of objects")
        reply = self._next(request)
        if isinstance(reply, Fault):
            if reply.at == "accept":
                raise ValueError("a fault that is a reply comes too late to strike at='accept'")
            return Reply(talk(request.messages)), reply
        if isinstance(reply, str):
            return Reply(reply), None
        if isinstance(reply, (Reply, Mapping)):
            return reply, None
        if isinstance(reply, Sequence) and all(isinstance(piece, str) for piece in reply):
            return Reply(pieces=reply), None
        raise TypeError(f"a reply is a Reply, a str, a sequence of str, a dict or a Fault, not {reply!r:.80}")


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
    path = without_query(request.path)
    routes = {route.method: route for route in ROUTES if route.path == path}
    if not routes:
        there_are = ", ".join(f"{route.method} {route.path}" for route in ROUTES)
        message = f"Invalid URL ({request.method} {path}): this server has {there_are}"
        return _openai_error(404, "unknown_url", message)
    if request.method not in routes:
        message = f"Not allowed to {request.method} on {path}: it takes {', '.join(routes)}"
        return _openai_error(405, "method_not_supported", message, {"Allow": ", ".join(routes)})
    try:
        return routes[request.method].answer(request, replies)
    except RequestError as error:
        return service_error(error.status, str(error))
    except Exception as error:
        _logger.exception("No reply to %s %s", request.method, request.path)
        return service_error(500, f"{type(error).__name__}: {error}")


def _openai_error(status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error of the request itself as OpenAI words it."""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": code}
    return Response(status, "application/json", to_json({"error": error}), headers or {})


def _require_key(request: Request) -> None:
    scheme, _, key = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key.strip():
        raise RequestError(401, "wrong api key: none was sent as `Authorization: Bearer …`")


def _answer_web(request: Request, replies: Replies) -> Response:
    reply, fault = replies.take(request)
    if not isinstance(reply, Reply):
        return _json_response(reply, fault)
    body = StreamedBody([piece.encode() for piece in reply.text_pieces])
    return Response(200, "application/octet-stream", body, fault=fault)


def _answer_chat(request: Request, replies: Replies) -> Response:
    _require_key(request)
    reply, fault = replies.take(request)
    if not isinstance(reply, Reply):
        return _json_response(reply, fault)
    if request.json.get("stream"):
        return Response(200, "text/event-stream", _chat_events(request, reply), fault=fault)
    if reply.chunks is not None:
        return _json_response(folded(reply.chunks), fault)
    choices = [
        {"index": index, "message": choice.message(), "finish_reason": choice.reason}
        for index, choice in enumerate([reply, *reply.choices])
    ]
    return _json_response({**_head(request, ""), "choices": choices, "usage": _usage(request, reply)}, fault)


def _json_response(value: Mapping[str, Any], fault: Fault | None) -> Response:
    return Response(200, "application/json", to_json(value), fault=fault)


def _head(request: Request, kind: str) -> dict[str, Any]:
    """Return what a completion and each of its chunks begin with."""
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "created": int(time.time()),
        "model": request.json.get("model", _MODELS[0]),
        "object": f"chat.completion{kind}",
    }


def _chat_events(request: Request, reply: Reply) -> StreamedBody:
    """Return a reply as a stream of events."""
    done = b"data: [DONE]\n\n"
    if reply.chunks is not None:
        return StreamedBody([_event(chunk) for chunk in reply.chunks], ending=[done])
    common = _head(request, ".chunk")
    usage = []
    if (request.json.get("stream_options") or {}).get("include_usage"):
        usage.append(_event({**common, "choices": [], "usage": _usage(request, reply)}))
        common["usage"] = None  # until the one chunk that has it

    def event(index: int, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        return _event({**common, "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]})

    choices = list(enumerate([reply, *reply.choices]))
    # Pieces of the choices take turns.
    rows = zip_longest(*([event(index, delta) for delta in choice.deltas()] for index, choice in choices))
    return StreamedBody(
        opening=[event(index, {"role": "assistant", "content": ""}) for index, _ in choices],
        pieces=[piece for row in rows for piece in row if piece is not None],
        ending=[*(event(index, {}, choice.reason) for index, choice in choices), *usage, done],
    )


def _event(value: object) -> bytes:
    return b"data: %b\n\n" % to_json(value)


def _usage(request: Request, reply: Reply) -> Mapping[str, Any]:
    if reply.usage is not None:
        return reply.usage
    prompt_tokens = sum(len(words(text_of(message))) for message in request.messages)
    completion_tokens = sum(len(words(text)) for text in reply.written)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _answer_models(request: Request, replies: Replies) -> Response:
    models = [{"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "loopback"} for name in _MODELS]
    return Response(200, "application/json", to_json({"object": "list", "data": models}))


ROUTES = (
    Route("POST", _WEB_PATH, _answer_web),
    Route("POST", "/v1/chat/completions", _answer_chat),
    Route("GET", "/v1/models", _answer_models),
)
"""All that the server has."""
