"""What the client asks of a protocol, and what a request to a service is made of. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from .._errors import ProtocolError
from .decoder import Decoder
from .excerpt import beginning, excerpt_around
from .head import UNKNOWN, AnswerHead
from .json_body import encode_json, fields_of
from .json_text import MAX_JSON, JSONText, read
from .page import is_page, page_summary
from .service import error_within

if TYPE_CHECKING:
    from .._types import Event, Message, Messages, MessagesLike

T = TypeVar("T")


class JSONDecoder(Decoder[T]):
    """Reads an answer that is one JSON value.

    Args:
        parse: makes of the value what the caller gets; an error of Python's own, which a wrong shape leads to, says
            that the value is not what was asked for.
        what: what was asked for, for the error.
        max_json: the bytes that the answer may have.
        head: what is known of the answer, for its errors.
    """

    def __init__(
        self, parse: Callable[[Any], T], what: str, max_json: int = MAX_JSON, head: AnswerHead = UNKNOWN
    ) -> None:
        self._parse = parse
        self._what = what
        self._head = head
        self._text = JSONText(max_json, head.charset)

    def feed(self, block: bytes, events: list[T]) -> None:
        self._text.feed(block)

    def finish(self, events: list[T]) -> Iterator[None]:
        text, value = yield from read_answer(self._text, self._what)
        error = error_within(value, self._head)
        if error is not None:
            raise error
        try:
            events.append(self._parse(value))
        except Exception as exc:
            if type(exc) not in _WRONG_SHAPE:  # a signal handler's
                raise
            raise ProtocolError(f"the answer is not {self._what}: {beginning(text)}") from exc

    def is_whole(self, choices: int) -> bool:
        return self._text.is_whole


_WRONG_SHAPE = (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError)


def read_answer(content: JSONText, what: str) -> Generator[None, None, tuple[str, Any]]:
    """Return an answer that is one JSON value, as text too. Yields where that takes long.

    Args:
        content: the whole of it.
        what: what was asked for, for the error.

    Raises:
        ProtocolError: it is something else.
    """
    text = ""
    try:
        text = content.take()
        return text, (yield from read(text, content.limit))
    except (JSONDecodeError, UnicodeDecodeError) as exc:
        raise no_json(text, what, exc) from exc


def no_json(text: str, what: str, exc: JSONDecodeError | UnicodeDecodeError) -> ProtocolError:
    """Return the error that an answer is for which a reader of JSON has raised one.

    Args:
        text: the answer.
        what: what was asked for.
        exc: where it is wrong.
    """
    if is_page(text):
        return ProtocolError(page_summary(text))
    if isinstance(exc, UnicodeDecodeError):
        found = "it is not UTF-8"
    else:
        found = excerpt_around(text, exc) if text.strip() else "it is empty"
    return ProtocolError(f"the answer is not {what}: {found}")


def bearer(base_url: str, api_key: str | None) -> dict[str, str]:
    """The headers of a JSON request that carries the key as OpenAI's API wants it."""
    return {"Accept": "application/json", "Content-Type": "application/json", "Authorization": f"Bearer {api_key}"}


@dataclass(frozen=True)
class Endpoint(Generic[T]):
    """Something that a service can be asked.

    Attributes:
        method: the HTTP method; `"GET"` sends no body.
        path: what follows the base URL, such as `https://host/v1`.
        decoder: makes a decoder for an answer with this head, of which JSON that is read at once may have so many
            bytes.
        headers: makes the headers of a request from the base URL and the key; this is how the key is sent.
        encode: writes the body.
        added: fields of the body that the caller has not asked for, and that the answer is worth having without: a
            service that refuses one is asked again without it.
        max_json: the bytes of JSON that is read at once; more for answers that carry vectors or pictures.
        silent: nothing comes while the service works, so that the `read` limit says nothing; an answer that was awaited
            in vain is paid for all the same, so it is not asked for again.
        absent: the hint where a host does not have it (404, 405).
        operation: what asking it is called where calls are watched.
    """

    method: str
    path: str
    decoder: Callable[[AnswerHead, int], Decoder[T]]
    headers: Callable[[str, str | None], dict[str, str]] = bearer
    encode: Callable[[Mapping[str, Any]], bytes] = encode_json
    added: tuple[str, ...] = ()
    max_json: int = MAX_JSON
    silent: bool = False
    absent: str | None = None
    operation: str = "request"


class ChatProtocol(ABC):
    """A way to write and read chats.

    Attributes:
        name: as in `Client(protocol=…)`.
        base_urls: where the service speaks it, in the order in which they are tried.
        root: the path of a base URL that names no more than a host; the endpoints' paths follow it.
        default_model: for callers who name none.
        needs_key: whether requests carry a key.
        chat: the endpoint of chats.
        chats_only: whether there is nothing but chats that are streamed.
        transient: the fields of a body that say nothing of what is asked: how the answer is to travel, and names that
            are new for each request.
    """

    name: str
    base_urls: Sequence[str]
    root: str = ""
    default_model: str
    needs_key: bool
    chat: Endpoint[Event]
    chats_only: bool = False
    transient: Sequence[str] = ("stream", "stream_options")

    @abstractmethod
    def body(self, messages: Messages, model: str, options: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON body of a chat; options overrule what the protocol sends by itself.

        Raises:
            ValueError: the model can't be sent.
        """


def as_messages(messages: str | MessagesLike) -> Messages:
    """Read what a caller passes as messages: a str is one user message, an iterable is read to its end.

    A message is a mapping, which is taken as it is, a `Completion`, an object with `model_dump()`, or a dataclass.

    Raises:
        TypeError, ValueError: it is not a conversation; the message names the index of the bad turn.
    """
    from .._types import Completion  # here and not above, for importing the client is to be cheap

    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    alone = isinstance(messages, (bytes, bytearray, memoryview, Mapping, Completion)) or hasattr(messages, "model_dump")
    if alone or not isinstance(messages, Iterable):
        raise TypeError(f"messages must be a str or a list of dicts, not {type(messages).__name__}")
    turns = [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]
    if not turns:
        raise ValueError("messages is empty: there is no message at index 0 to answer")
    return turns


def _message(message: object, place: str) -> Message:
    from .._types import Completion

    if isinstance(message, Mapping):
        fields = message
    elif isinstance(message, Completion):
        fields = message.message
    else:
        fields = fields_of(message)
    if not isinstance(fields, Mapping):
        raise TypeError(f"{place} must be a dict with 'role' and 'content', not {type(message).__name__}")
    if "role" not in fields:
        raise ValueError(f"{place} has no 'role': one of 'system', 'user', 'assistant' is usual")
    if not isinstance(fields["role"], str):
        raise ValueError(f"{place}['role'] must be a str, not {type(fields['role']).__name__}")
    return (
        {"content": None, **fields} if hasattr(message, "content") else fields
    )  # some servers want it with tool calls
