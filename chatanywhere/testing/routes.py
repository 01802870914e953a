"""What the server answers to a request: the table of its routes, and what each of them says.

A route is a function of the request and an entry in `ROUTES`, at the end. Nothing here writes to a connection.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

from . import embeddings
from .account import Ledger
from .completions import as_events, as_object, fitted, usage_of
from .faults import Fault
from .options import AnswerOptions, check_conversation, read
from .prompts import TextCompletion, as_chats, options_of
from .replies import Reply, ReplyLike
from .request import WEB_PATH, ParameterError, Request, RequestError, without_query
from .talker import reply_to
from .writer import Response, StreamedBody, openai_error, service_error, to_json

_MODELS = ("gpt-3.5-turbo", "gpt-4o", "gpt-4o-mini", "deepseek-r1", "deepseek-v3", *embeddings.MODELS)

_logger = logging.getLogger(__name__)


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
        self._next: Callable[[Request], ReplyLike] | None
        if replies is None:
            self._next = None  # the small talker's turn
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

    def take(self, request: Request, options: AnswerOptions) -> tuple[Reply | Mapping[str, Any], Fault | None]:
        """Return the reply to a chat, or the object to be sent in its place, and what goes wrong with it.

        Raises:
            RequestError: the request is no chat, or there is no reply left.
        """
        if not request.messages:
            raise RequestError(400, "the messages are not a non-empty list of objects")
        if self._next is None:
            return reply_to(request.messages, options), None
        reply = self._next(request)
        if isinstance(reply, Fault):
            if reply.at == "accept":
                raise ValueError("a fault that is a reply comes too late to strike at='accept'")
            return reply_to(request.messages, options), reply
        if isinstance(reply, str):
            return Reply(reply), None
        if isinstance(reply, (Reply, Mapping)):
            return reply, None
        if isinstance(reply, Sequence) and all(isinstance(piece, str) for piece in reply):
            return Reply(pieces=reply), None
        raise TypeError(f"a reply is a Reply, a str, a sequence of str, a dict or a Fault, not {reply!r:.80}")


# The routes


@dataclass(frozen=True)
class Backend:
    """What the routes of a server have in common."""

    replies: Replies
    ledger: Ledger = field(default_factory=Ledger)


@dataclass(frozen=True)
class Route:
    """What is answered to one method at one path."""

    method: str
    path: str
    """With `/v1`, which a request may leave out. A name in braces at its end stands for any text."""
    answer: Callable[[Request, Backend], Response]
    """Makes the answer; it may raise a `RequestError`."""

    def matches(self, path: str) -> bool:
        """Return whether a path is this route's, whatever the method."""
        start, brace, _ = self.path.partition("{")
        return path.startswith(start) and path != start if brace else path == start


def respond(request: Request, backend: Backend) -> Response:
    """Return the answer to a request, which is an error where there is no other."""
    path = without_query(request.path)
    routes = {route.method: route for route in ROUTES if route.matches(request.route)}
    if not routes:
        there_are = ", ".join(f"{route.method} {route.path}" for route in ROUTES)
        message = f"Invalid URL ({request.method} {path}): this server has {there_are}, each also without /v1"
        return openai_error(404, message, "unknown_url")
    if request.method not in routes:
        message = f"Not allowed to {request.method} on {path}: it takes {', '.join(routes)}"
        return openai_error(405, message, "method_not_supported", headers={"Allow": ", ".join(routes)})
    try:
        return routes[request.method].answer(request, backend)
    except RequestError as error:
        return error.response
    except Exception as error:
        _logger.exception("No reply to %s %s", request.method, request.path)
        return service_error(500, f"{type(error).__name__}: {error}")


def _json_response(value: object, fault: Fault | None = None) -> Response:
    return Response(200, "application/json", to_json(value), fault=fault)


def _answer_web(request: Request, backend: Backend) -> Response:
    reply, fault = backend.replies.take(request, AnswerOptions())
    if not isinstance(reply, Reply):
        return _json_response(reply, fault)
    body = StreamedBody([piece.encode() for piece in reply.text_pieces])
    return Response(200, "application/octet-stream", body, fault=fault)


def _answer_chat(request: Request, backend: Backend) -> Response:
    key = request.key
    options = AnswerOptions.of(request.fields)
    check_conversation(request.messages)
    model = request.fields.get("model") or _MODELS[0]
    reply, fault = backend.replies.take(request, options)
    if not isinstance(reply, Reply):
        backend.ledger.charge(key, model, reply.get("usage"))
        return _json_response(reply, fault)
    reply = fitted(reply, options)
    usage = usage_of(request, reply)
    if fault is None:  # what goes wrong costs nothing
        backend.ledger.charge(key, model, usage)
    if options.stream:
        return Response(200, "text/event-stream", as_events(model, reply, usage, options), fault=fault)
    return _json_response(as_object(model, reply, usage, options), fault)


def _answer_text(request: Request, backend: Backend) -> Response:
    key = request.key
    model = read(request.fields, "model", str, required=True)
    options = options_of(request.fields)
    chats = as_chats(request)
    replies = []
    for chat in chats:
        reply, fault = backend.replies.take(chat, options)
        if not isinstance(reply, Reply):
            return _json_response(reply, fault)
        replies.append(fitted(reply, options))
    answer = TextCompletion(request.fields, chats, replies, options)
    if fault is None:
        backend.ledger.charge(key, model, answer.usage)
    if options.stream:
        return Response(200, "text/event-stream", answer.as_events(), fault=fault)
    return _json_response(answer.as_object(), fault)


def _answer_embeddings(request: Request, backend: Backend) -> Response:
    key = request.key
    model = read(request.fields, "model", str, required=True)
    body, tokens = embeddings.embed(request.fields, model)
    backend.ledger.charge(key, model, {"prompt_tokens": tokens})
    return Response(200, "application/json", body)


def _described(model: str) -> dict[str, Any]:
    return {"id": model, "object": "model", "created": 1_700_000_000, "owned_by": "loopback"}


def _answer_models(request: Request, backend: Backend) -> Response:
    return _json_response({"object": "list", "data": [_described(model) for model in _MODELS]})


def _answer_model(request: Request, backend: Backend) -> Response:
    model = unquote(request.route.partition("/models/")[2])
    if model not in _MODELS:
        raise ParameterError("model", f"The model '{model}' does not exist", "model_not_found", status=404)
    return _json_response(_described(model))


def _answer_balance(request: Request, backend: Backend) -> Response:
    return _json_response(backend.ledger.balance(request.raw_key))


def _answer_usage(request: Request, backend: Backend) -> Response:
    return _json_response(backend.ledger.by_hour(request.raw_key, request.fields))


def _answer_usage_by_day(request: Request, backend: Backend) -> Response:
    return _json_response(backend.ledger.by_day(request.raw_key, request.fields))


ROUTES = (
    Route("POST", WEB_PATH, _answer_web),
    Route("POST", "/v1/chat/completions", _answer_chat),
    Route("POST", "/v1/completions", _answer_text),
    Route("POST", "/v1/embeddings", _answer_embeddings),
    Route("GET", "/v1/models", _answer_models),
    Route("GET", "/v1/models/{model}", _answer_model),
    Route("POST", "/v1/query/balance", _answer_balance),
    Route("POST", "/v1/query/usage_details", _answer_usage),
    Route("POST", "/v1/query/day_usage_details", _answer_usage_by_day),
)
"""All that the server has."""
