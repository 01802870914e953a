"""The errors of OpenAI's library, by its names: they are this package's, with what programs read on OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from .._errors import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    OutputError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    StreamInterruptedError,
    UnprocessableEntityError,
)

T = TypeVar("T")

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


class _UnreadableError(OutputError):
    """The answer has ended too early to be read.

    Attributes:
        completion: the answer, a `ChatCompletion`.
    """

    def __init_subclass__(cls) -> None:
        cls.__module__ = __package__  # where programs import it from

    def __init__(self, message: str, reason: Any, completion: Any) -> None:
        ChatAnywhereError.__init__(self, message)
        self.reason, self.completion = reason, completion
        texts = [choice.message.content for choice in completion.choices or () if choice.message]
        self.partial = (texts and texts[0]) or ""
        self.request_id = getattr(completion, "_request_id", None)


class LengthFinishReasonError(_UnreadableError):
    """The answer was cut at the largest number of tokens."""

    def __init__(self, *, completion: Any) -> None:
        usage = f" - {completion.usage}" if completion.usage else ""
        words = f"Could not parse response content as the length limit was reached{usage}"
        super().__init__(words, "length", completion)


class ContentFilterFinishReasonError(_UnreadableError):
    """The answer was held back by a content filter."""

    def __init__(self, *, completion: Any) -> None:
        words = "Could not parse response content as the request was rejected by the content filter"
        super().__init__(words, "content_filter", completion)


class ResponseHeaders(Mapping[str, str]):
    """The headers of an answer, by their names in upper or lower case alike."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._fields = {name.lower(): value for name, value in headers.items()}

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        return f"ResponseHeaders({self._fields!r})"


class APIRequest(NamedTuple):
    """What was asked: what programs read on `request`."""

    method: str
    url: str


@dataclass
class APIResponse:
    """What was answered: what programs read on `response`, and what `with_raw_response` returns."""

    status_code: int
    headers: Mapping[str, str]
    request: APIRequest
    content: bytes = field(default=b"", repr=False)

    @property
    def text(self) -> str:
        """The body."""
        return self.content.decode("utf-8", "replace")

    @property
    def url(self) -> str:
        """What was asked."""
        return self.request.url

    @property
    def method(self) -> str:
        """How it was asked."""
        return self.request.method

    @property
    def http_request(self) -> APIRequest:
        """What was asked."""
        return self.request

    @property
    def request_id(self) -> str | None:
        """The server's name for the request."""
        return self.headers.get("x-request-id")

    def json(self) -> Any:
        """Return the body's JSON."""
        return json.loads(self.content)


class RawAPIResponse(APIResponse, Generic[T]):
    """An answer as it came, which can be read."""

    def __init__(self, response: APIResponse, read: Callable[[], T]) -> None:
        super().__init__(response.status_code, response.headers, response.request, response.content)
        self._read = read

    def parse(self) -> T:
        """Return what the call would have returned."""
        return self._read()


@contextmanager
def adapted(request: APIRequest) -> Iterator[None]:
    """Give the errors from inside what programs read on those of OpenAI's library, and the class they catch there."""
    try:
        yield
    except ChatAnywhereError as error:
        adapt(error, request)
        raise


def adapt(error: ChatAnywhereError, request: APIRequest) -> None:
    """Give an error what programs read on those of OpenAI's library, and the class that they catch there."""
    if "request" in vars(error):  # it has it already, and its body is what is read on OpenAI's
        return
    told: dict[str, Any] = {"request": request, "body": None}
    if isinstance(error, APIStatusError):
        if not error.attempts:  # nothing has been sent
            return
        whole, headers = error.body, ResponseHeaders(error.headers)
        whole = whole.strip() if isinstance(whole, str) else whole
        told["body"] = whole.get("error", whole) if isinstance(whole, dict) else whole
        text = whole if isinstance(whole, str) else "" if whole is None else json.dumps(whole, ensure_ascii=False)
        told["response"] = APIResponse(error.status_code, headers, request, text.encode("utf-8", "replace"))
        _become(error, _BY_STATUS.get(error.status_code, InternalServerError if error.status_code >= 500 else None))
    else:
        told["message"] = str(error)
        if isinstance(error, (ProtocolError, StreamInterruptedError)):
            _become(error, APIConnectionError)
    said = told["body"] if isinstance(told["body"], dict) else {}
    for name in ("code", "param", "type"):
        value = said.get(name)
        told[name] = str(value) if name == "code" and value is not None else value
    vars(error).update(told)


def _become(error: ChatAnywhereError, other: type[ChatAnywhereError] | None) -> None:
    """Make an error one of another class, too."""
    if other is not None and not isinstance(error, other):
        error.__class__ = _both(type(error), other)


_boths: dict[tuple[type, type], type[ChatAnywhereError]] = {}


def _both(kind: type[ChatAnywhereError], other: type[ChatAnywhereError]) -> type[ChatAnywhereError]:
    """Return the class of errors that are of two."""

    def reduce(self: ChatAnywhereError) -> tuple[Any, ...]:
        return _rebuild, (kind, other, self.args, vars(self))

    if (kind, other) not in _boths:
        members = {"__module__": kind.__module__, "__reduce__": reduce}
        _boths.setdefault((kind, other), type(kind.__name__, (kind, other), members))
    return _boths[kind, other]


def _rebuild(
    kind: type[ChatAnywhereError], other: type[ChatAnywhereError], args: tuple[Any, ...], state: dict[str, Any]
) -> ChatAnywhereError:
    both = _both(kind, other)
    error = both.__new__(both, *args)
    error.args = args
    vars(error).update(state)
    return error
