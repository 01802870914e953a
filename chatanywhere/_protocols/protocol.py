"""What the client asks of a protocol, and what a request to a service is made of. No I/O."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from .._errors import ProtocolError

if TYPE_CHECKING:
    from .._types import Event, Messages

T = TypeVar("T")


class Decoder(Protocol[T]):
    """Turns the content of one answer into events; an answer that is read at once has one, its value."""

    done: bool
    """The answer is over, whether or not the connection says so too."""

    def feed(self, block: bytes, events: list[T]) -> None:
        """Append to `events` those that `block` completes; pieces of one kind in a row are one event.

        Raises:
            ProtocolError, APIStatusError: something is wrong; the events before that place have been appended.
        """

    def finish(self, events: list[T]) -> None:
        """Append what is left when the content has ended.

        Raises:
            StreamInterruptedError, ProtocolError: it ended too early.
        """


class JSONDecoder(Generic[T]):
    """Reads an answer that is one JSON value.

    Args:
        parse: makes of the value what the caller gets; an error of its that a wrong shape leads to says
            that the value is not what was asked for.
        what: what was asked for, for the error.
    """

    done = False

    def __init__(self, parse: Callable[[Any], T], what: str) -> None:
        self._parse = parse
        self._what = what
        self._content: list[bytes] = []

    def feed(self, block: bytes, events: list[T]) -> None:
        self._content.append(block)

    def finish(self, events: list[T]) -> None:
        try:
            events.append(self._parse(json.loads(b"".join(self._content))))
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as exc:
            raise ProtocolError(f"the answer is not {self._what}") from exc


def encode_json(body: Mapping[str, Any]) -> bytes:
    """Write a request's body; a field that is None is left out.

    Raises:
        TypeError, ValueError: a value has no JSON.
    """
    try:
        return json.dumps({name: value for name, value in body.items() if value is not None}, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise type(exc)(f"the request can't be sent as JSON: {exc}") from exc


def bearer(base_url: str, api_key: str | None) -> dict[str, str]:
    """The headers of a JSON request that carries the key as OpenAI's API wants it."""
    return {"Accept": "application/json", "Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}


@dataclass(frozen=True)
class Endpoint(Generic[T]):
    """Something that a service can be asked.

    Attributes:
        method: the HTTP method; `"GET"` sends no body.
        path: what follows the base URL.
        decoder: makes a decoder for an answer with this `Content-Type`.
        headers: makes the headers of a request from the base URL and the key; this is how the key is sent.
        encode: writes the body.
    """

    method: str
    path: str
    decoder: Callable[[str], Decoder[T]]
    headers: Callable[[str, str | None], dict[str, str]] = bearer
    encode: Callable[[Mapping[str, Any]], bytes] = encode_json


class ChatProtocol(ABC):
    """A way to write and read chats.

    Attributes:
        name: as in `Client(protocol=…)`.
        base_urls: where the service speaks it, in the order in which they are tried.
        default_model: for callers who name none.
        needs_key: whether requests carry a key.
        chat: the endpoint of chats.
        chats_only: whether there are no other endpoints.
    """

    name: str
    base_urls: Sequence[str]
    default_model: str
    needs_key: bool
    chat: Endpoint[Event]
    chats_only: bool = False

    @abstractmethod
    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON body of a chat.

        Raises:
            ValueError: the model or an option can't be sent.
        """


def as_messages(messages: str | Messages) -> Messages:
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
