"""Frozen values: what goes in (messages) and what comes out (events, the completion)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, ClassVar, Protocol, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""One turn: `{"role": "user", "content": "…"}`; further keys are sent as they are."""

Messages: TypeAlias = Sequence[Message]
"""A conversation, oldest turn first."""


class Dumpable(Protocol):
    """An object that tells what it is made of, as those of pydantic do."""

    def model_dump(self) -> Any:
        """Return it as a dict."""


class DataclassInstance(Protocol):
    """An instance of any dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]


MessagesLike: TypeAlias = Iterable[Message | Dumpable | DataclassInstance]
"""A conversation as callers have it; a `Completion` is a dataclass too."""


@dataclass(frozen=True, slots=True)
class Started:
    """The answer began; what the service calls it."""

    id: str | None
    model: str | None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what a reasoning model thought before it answered."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call; `id` and `name` come once, `arguments` is a piece of a JSON text."""

    index: int
    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The model stopped, and why: `"stop"`, `"length"`, `"tool_calls"`, `"content_filter"` …"""

    reason: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the call cost, as the service counts them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


Event: TypeAlias = Started | TextDelta | ReasoningDelta | ToolCallDelta | Finished | Usage
"""What `Stream.events()` yields."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model asks the caller to run; `arguments` is a JSON text."""

    id: str | None
    name: str | None
    arguments: str


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer.

    What a protocol does not tell is `None`; the `web` protocol tells nothing but the text.
    """

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    id: str | None = None
    model: str | None = None
    request_id: str | None = None

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Return all that it holds, by name, as dicts, lists and values that JSON has."""
        return {each.name: _to_json(getattr(self, each.name)) for each in fields(self)}


def _to_json(value: Any) -> Any:
    """Return a value with its frozen values as dicts, and its tuples as lists."""
    if is_dataclass(value):
        return {each.name: _to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: _to_json(item) for name, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, (list, tuple)) else value
