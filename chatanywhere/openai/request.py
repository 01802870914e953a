"""What a call of OpenAI's library is for a `Client`: bodies, headers, limits. No I/O, and knows no client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, ValuesView
from typing import Any, NamedTuple, TypeAlias, TypedDict
from urllib.parse import quote

from .._policy import Retry, Timeout
from .._types import Completion
from ..typing import ChatOptions
from .errors import APIRequest
from .model import BaseModel


class Omit:
    """Stands for an argument that is not given, where None is sent as `null`."""

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "omit"


class NotGiven(Omit):
    """The older name of `Omit`."""

    def __repr__(self) -> str:
        return "NOT_GIVEN"


omit: Any = Omit()
not_given: Any = NotGiven()
NOT_GIVEN: Any = not_given

DEFAULT_TIMEOUT = Timeout(total=600.0, connect=5.0, read=600.0)
DEFAULT_MAX_RETRIES = 2

CHATS = "/chat/completions"


class CallOptions(TypedDict, total=False):
    """What every call takes beside its arguments."""

    extra_headers: Mapping[str, Any] | None
    extra_query: Mapping[str, Any] | None
    timeout: Any


class BodyOptions(CallOptions, total=False):
    """The same of calls that have a body."""

    extra_body: Mapping[str, Any] | None


class ParseOptions(ChatOptions, BodyOptions, total=False):
    """What `parse` and `stream` take beside their arguments."""


class CreateOptions(ParseOptions, total=False):
    """What `create` takes beside its arguments."""

    response_format: Mapping[str, Any] | None


ChatArguments: TypeAlias = "tuple[dict[str, Any], dict[str, Any]]"
"""The body of a chat, and how it is to be sent."""

_OPTIONS = frozenset(ChatOptions.__annotations__) | {"response_format"}
_HOW = frozenset(CallOptions.__annotations__)


def given(value: object) -> bool:
    """Whether an argument is given; those of OpenAI's library that say that it is not are known, too."""
    return type(value).__name__ not in ("Omit", "NotGiven")


def chat(
    function: str, messages: Any, model: Any, stream: Any, options: Mapping[str, Any], wanted: Any = None
) -> ChatArguments:
    """Return the body of a chat, which has what was given of it as it was given, and how it is to be sent.

    `function` is named in errors; `wanted` is what the answer is to be an instance of.

    Raises:
        TypeError: there is no such option.
    """
    options = dict(options)
    how = {name: options.pop(name) for name in _HOW & options.keys()}
    extra_body = _extra_body(options)
    for name in options:
        if name not in _OPTIONS:
            remedy = f"to send it as a field of the body, use extra_body={{{name!r}: …}}"
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}: {remedy}")
    if wanted is not None:
        options |= {"response_format": wanted.response_format, "tools": wanted.tools}
    kind = options.get("response_format")
    if isinstance(kind, type):
        raise TypeError(f"response_format={kind.__name__}: {function}() takes a dict; parse() and stream() take types")
    fields = {"messages": messages, "model": model, "stream": stream, **options}
    return {**plain(fields), **extra_body}, how


def _extra_body(options: dict[str, Any]) -> dict[str, Any]:
    """Take the fields of the body that have no keyword out of options, and return them."""
    fields: dict[str, Any] = plain(options.pop("extra_body", None) or {}, by_alias=True)
    return fields


def is_streamed(body: Mapping[str, Any] | None) -> bool:
    """Whether a body asks for a stream."""
    return bool(body and body.get("stream"))


def embeddings(arguments: Mapping[str, Any]) -> ChatArguments:
    """Return the body of a call for embeddings, and how it is to be sent."""
    known = ("input", "model", "dimensions", "encoding_format", "user")
    fields = {name: arguments[name] for name in known if name in arguments}
    how = {name: value for name, value in arguments.items() if name not in known}
    extra_body = _extra_body(how)
    if not given(fields.get("encoding_format", omit)):
        fields["encoding_format"] = "base64"  # which is shorter, and decoded here
    return {**plain(fields), **extra_body}, how


def model_path(model: str) -> str:
    """Return where a model is told of.

    Raises:
        ValueError: it has no name.
    """
    if not model:
        raise ValueError(f"model={model!r}: give the name of a model")
    return f"/models/{quote(model, safe=':@')}"


def plain(value: Any, *, by_alias: bool = False) -> Any:
    """Return an argument with the objects in it as dicts: without the fields that did not come, as OpenAI's does."""
    if isinstance(value, str):
        return value
    if isinstance(value, Completion):
        return value.message
    if isinstance(value, BaseModel):
        return value.to_dict(mode="json")
    if isinstance(value, Mapping):
        return {name: plain(item, by_alias=by_alias) for name, item in value.items() if given(item)}
    if hasattr(value, "model_fields_set") and not isinstance(value, type):  # pydantic's
        return value.model_dump(exclude_unset=True, mode="json", by_alias=by_alias)
    if isinstance(value, (Sequence, Iterator, ValuesView)) and not isinstance(value, (bytes, bytearray, memoryview)):
        return [plain(item, by_alias=by_alias) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else value


def check_how(how: Mapping[str, Any]) -> None:
    """See to it that what is given of how a call is to be made is known.

    Raises:
        TypeError: something is not.
    """
    for name in how:
        if name not in BodyOptions.__annotations__:
            raise TypeError(f"got an unexpected keyword argument {name!r}: use extra_body= or extra_query=")


def own(how: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return the headers or parameters of a call.

    Raises:
        TypeError: they are no dict.
    """
    value = how.get(name)
    if value is not None and not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(value).__name__}")
    return value or {}


def merged_headers(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return headers of which the later ones replace the earlier ones, or take them away: `omit`.

    Raises:
        TypeError: the key is to be taken away.
    """
    found: dict[str, tuple[str, Any]] = {}
    for layer in layers:
        found |= {str(name).lower(): (name, value) for name, value in layer.items()}  # case says nothing
    if "authorization" in found and not given(found["authorization"][1]):
        raise TypeError("the key is sent with every request: put another value of 'Authorization' in its place")
    return {name: value for name, value in found.values() if given(value)}


def limits(timeout: Any, *, streamed: bool) -> Timeout:
    """Return what a timeout of OpenAI's library means: a number, None, or a `Timeout` of httpx or of this package.

    A number is for the whole call, and nothing else of it is limited but connecting. httpx has no limit for a call: its
    `read` is for the silence within a stream, and for the whole of an answer that comes at once.

    Raises:
        TypeError, ValueError: it is none of them.
    """
    if isinstance(timeout, Timeout) or timeout is None:
        return Timeout.of(timeout)
    if hasattr(timeout, "connect") and hasattr(timeout, "read"):
        if streamed:
            return Timeout(total=None, connect=timeout.connect, read=timeout.read)
        return Timeout(total=timeout.read, connect=timeout.connect, read=None)
    return Timeout(total=timeout, read=None)


def retry(max_retries: Any) -> Retry:
    """Return what a number of retries means: one attempt more.

    Raises:
        TypeError, ValueError: it is no such number.
    """
    if isinstance(max_retries, bool) or not isinstance(max_retries, int):
        raise TypeError(f"max_retries must be an int, not {type(max_retries).__name__}; 0 for none")
    if max_retries < 0:
        raise ValueError(f"max_retries={max_retries}: 0 is the least")
    return Retry(attempts=max_retries + 1)


class Asked(NamedTuple):
    """One request: what is asked, and how.

    Attributes:
        path: what follows the base URL.
        body: its JSON.
        query: parameters of the URL.
        options: `timeout`, `retry` and `headers`, as a `Client` has them.
    """

    request: APIRequest
    path: str
    body: dict[str, Any] | None
    query: dict[str, Any]
    options: dict[str, Any]

    def as_chat(self) -> dict[str, Any]:
        """Return the arguments of `Client.stream` and `Client.complete`, which send this body and nothing else."""
        body = dict(self.body or {})
        model = body.get("model")
        several = isinstance(model, list)  # of which the next is asked when one fails
        if several:
            del body["model"]
        return {
            "model": model if several or (model and isinstance(model, str)) else None,
            "extra_body": body,
            "extra_query": self.query,
            "stream_options": None,
            **self.options,
        }

    def as_request(self) -> dict[str, Any]:
        """Return the arguments of `Client.request` that ask for the answer as it is."""
        asked = {"method": self.request.method, "path": self.path, "json": self.body, "query": self.query}
        return {**asked, "raw": True, **self.options}


def absent(owner: str, name: str) -> str:
    """Say that a client or a group of calls has no such attribute, and what to do."""
    if name.startswith("_"):
        return f"{owner!r} object has no attribute {name!r}"
    return (
        f"{owner} has no {name!r} here. Other endpoints are asked by the client beneath: "
        "OpenAI().client.request('POST', '/path', {…})"
    )
