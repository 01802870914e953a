"""Frozen values: what goes in (messages) and what comes out (events, the completion)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeAlias

from ._merging import merge
from ._message import as_call, tool_of

if TYPE_CHECKING:
    from typing import _SpecialForm

    from typing_extensions import TypeVar  # whose type variables may have defaults

    Parsed = TypeVar("Parsed", default=Any, covariant=True)
    Wanted = TypeVar("Wanted", default=Any)
    ResponseFormat: TypeAlias = type[Wanted] | Mapping[str, Any] | _SpecialForm | None
    """A type, of which `parsed` is an instance then, or a dict, which is sent as it is."""
else:
    from typing import TypeVar

    Parsed = TypeVar("Parsed", covariant=True)

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
    """The answer began; what the service calls it, and when it made it (seconds since 1970).

    Comes again if the service tells more of this later.
    """

    id: str | None
    model: str | None
    created: int | None = None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer; `index` is that of its choice, 0 unless more than one was asked for by `n`."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of what a reasoning model thought before it answered."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class RefusalDelta:
    """A piece of the words in which the model refuses to answer."""

    text: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call; `id` and `name` come once, `arguments` is a piece of a JSON text.

    Attributes:
        index: the number of the call within its choice.
        choice: the index of the choice.
        type: `"custom"` for a tool whose `arguments` are free text.
        extra: further fields, such as `extra_content`.
    """

    index: int
    id: str | None
    name: str | None
    arguments: str
    type: str = "function"
    choice: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """The model stopped, and why: `"stop"`, `"length"`, `"tool_calls"`, `"content_filter"` …"""

    reason: str
    index: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the call cost, as the service counts them; 0 for those that it does not tell.

    Attributes:
        cached_tokens: those of `prompt_tokens` that the service had seen before.
        reasoning_tokens: those of `completion_tokens` that were spent on thinking.
    """

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Extra:
    """What an answer tells and no other event does: log probabilities, audio, images, annotations, unknown fields.

    `fields` is a piece, as it came; `Completion.raw` has them put together.
    """

    fields: Mapping[str, Any] = field(hash=False)
    index: int = 0


Event: TypeAlias = Started | TextDelta | ReasoningDelta | RefusalDelta | ToolCallDelta | Finished | Usage | Extra
"""What `Stream.events()` yields."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model asks the caller to run; `arguments` is a JSON text.

    Attributes:
        type: `"custom"` for a tool whose `arguments` are free text, its `input`.
        extra: further fields, such as `extra_content`, which some services want back.
    """

    id: str | None
    name: str | None
    arguments: str
    type: str = "function"
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def input(self) -> str | None:
        """What a custom tool is given; None for a function."""
        return self.arguments if self.type == "custom" else None

    def json(self) -> dict[str, Any]:
        """Return the arguments as a dict.

        Raises:
            ValueError: they are no JSON object, which may be because the answer was cut.
        """
        try:
            value = json.loads(self.arguments or "{}")
        except (RecursionError, ValueError) as exc:
            raise ValueError(f"the arguments of {self.name} are no JSON: {exc}: {self.arguments:.80}") from exc
        if not isinstance(value, dict):
            raise ValueError(f"the arguments of {self.name} are no JSON object: {self.arguments:.80}")
        return value


@dataclass(frozen=True, slots=True)
class ToolStarted:
    """A function that the model calls is about to be run."""

    call: ToolCall


@dataclass(frozen=True, slots=True)
class ToolFinished:
    """A function that the model called has returned `result`, or has failed with `error`.

    Attributes:
        content: what the model is told of it.
    """

    call: ToolCall
    result: Any = field(default=None, hash=False)
    error: Exception | None = None
    content: str = field(default="", compare=False)


ToolEvent: TypeAlias = Event | ToolStarted | ToolFinished
"""What `Client.stream_tools` yields."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the answers to a question that was asked with `n`."""

    index: int
    text: str
    reasoning: str = ""
    refusal: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    logprobs: Mapping[str, Any] | None = field(default=None, hash=False)

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from ._markdown import escape, sanitize

        calls = [f"→ {escape(f'{call.name}({call.arguments})')}" for call in self.tool_calls]
        return "\n\n".join(filter(None, [sanitize(self.text), sanitize(self.refusal), *calls]))


@dataclass(frozen=True)
class Completion(Generic[Parsed]):
    """A whole answer.

    What a protocol does not tell is `None`; the `web` protocol tells nothing but the text.

    Attributes:
        choices: all answers, if more than one was asked for by `n`; what the other attributes say is the first one's.
        created: when the service made it, in seconds since 1970.
        parsed: the instance of the type that was asked for by `response_format`, else None.
    """

    text: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    id: str | None = None
    model: str | None = None
    request_id: str | None = None
    refusal: str = ""
    created: int | None = None
    choices: tuple[Choice, ...] = field(default=(), repr=False)
    parsed: Parsed = field(default=None, repr=False, hash=False)  # type: ignore[assignment]  # where it is Any
    _chunks: tuple[str, ...] = field(default=(), repr=False, compare=False)  # as JSON, for only few ask for `raw`

    def __post_init__(self) -> None:
        if not self.choices:
            choice = Choice(0, self.text, self.reasoning, self.refusal, self.tool_calls, self.finish_reason)
            object.__setattr__(self, "choices", (choice,))

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        """What a notebook shows: the answer with its Markdown, in which no HTML or script works."""
        if len(self.choices) == 1:
            return self.choices[0]._repr_markdown_()
        return "\n\n".join(f"**{choice.index}**\n\n{choice._repr_markdown_()}" for choice in self.choices)

    @cached_property
    def raw(self) -> dict[str, Any]:
        """All that the service said, as one dict in the shape of the answer that is not streamed.

        Empty where the protocol has no such shape, and with `keep_text=False`.
        """
        chunks: list[dict[str, Any]] = [json.loads(chunk) for chunk in self._chunks]
        if len(chunks) == 1 and _is_whole(chunks[0]):
            return chunks[0]
        return merge(chunks) if chunks else {}

    @property
    def message(self) -> dict[str, Any]:
        """The answer as a message, to be appended to the conversation, with all that the service wants back.

        Thoughts are a part of it only where a tool is called: services that have them want them back then, and
        refuse them else.
        """
        said = {name: value for name, value in self._message().items() if value is not None}
        if not said:
            said = {"content": self.text or None if self.tool_calls else self.text}
            said["tool_calls"] = [tool_call_fields(call) for call in self.tool_calls]
        calls = said.pop("tool_calls", None)
        if calls:
            said.pop("function_call", None)  # which is one of them
            calls = [calls] if isinstance(calls, dict) else calls
            said["tool_calls"] = [_with_type(as_call(call)) for call in calls if call is not None]
        else:
            said = {name: said[name] for name in said if name not in _THOUGHTS}
        if isinstance(said.get("audio"), dict) and said["audio"].get("id"):
            said["audio"] = {"id": said["audio"]["id"]}  # which is how it is referred to
        role = said.pop("role", None) or "assistant"
        return {"role": role, "content": None, **said}

    @property
    def annotations(self) -> tuple[Mapping[str, Any], ...]:
        """Where the answer's facts are from, as the service says it."""
        return tuple(self._message().get("annotations") or ())

    @property
    def audio(self) -> Mapping[str, Any] | None:
        """The spoken answer: `data` in Base64, `transcript`, and the `id` by which it can be referred to."""
        return self._message().get("audio")

    @property
    def images(self) -> tuple[Mapping[str, Any], ...]:
        """The images of the answer, as the service sends them."""
        return tuple(self._message().get("images") or ())

    @property
    def logprobs(self) -> Mapping[str, Any] | None:
        """The log probabilities of the tokens, if they were asked for."""
        return self.choices[0].logprobs

    def _message(self) -> dict[str, Any]:
        choices = self.raw.get("choices") or [{}]
        return choices[0].get("message") or {}

    def to_dict(self) -> dict[str, Any]:
        """Return all that it holds, by name, as dicts, lists and values that JSON has.

        What `parsed` holds is in `text`, as JSON.
        """
        names = (each.name for each in fields(self) if each.name[0] != "_" and each.name != "parsed")
        return {name: _to_json(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class ToolRun(Generic[Parsed]):
    """What the model and the functions that it called came to.

    Attributes:
        completion: the last answer. It has `tool_calls` that were not run if there were more rounds than allowed.
        messages: the whole conversation, with that answer at its end.
    """

    completion: Completion[Parsed]
    messages: list[Any] = field(repr=False, hash=False)

    @property
    def text(self) -> str:
        """The text of the last answer."""
        return self.completion.text

    def __str__(self) -> str:
        return self.text

    def _repr_markdown_(self) -> str:
        return self.completion._repr_markdown_()


_THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details")


def tool_call_fields(call: ToolCall) -> dict[str, Any]:
    """A tool call as it stands in a message."""
    what = {"name": call.name, "input" if call.type == "custom" else "arguments": call.arguments}
    return {"id": call.id, "type": call.type, call.type: what, **call.extra}


def _with_type(call: dict[str, Any]) -> dict[str, Any]:
    return {**call, "type": call.get("type") or tool_of(call)[0]}


def _is_whole(answer: Mapping[str, Any]) -> bool:
    """Whether one object is an answer that was not streamed."""
    if answer.get("object") == "chat.completion.chunk":
        return False
    choices = [choice if isinstance(choice, dict) else {} for choice in answer.get("choices") or [None]]
    return all(isinstance(choice.get("message"), dict) and not choice.get("delta") for choice in choices)


def _to_json(value: Any) -> Any:
    """Return a value with its frozen values as dicts, and its tuples as lists."""
    if is_dataclass(value):
        return {each.name: _to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {name: _to_json(item) for name, item in value.items()}
    return [_to_json(item) for item in value] if isinstance(value, (list, tuple)) else value
