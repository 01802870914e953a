"""The events of an answer while it comes, and the answer so far. No I/O."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from .._message import MessageSoFar, calls_of
from .model import BaseModel
from .parsing import Wanted, parsed, refuse_unfinished
from .request import omit
from .types import (
    ChatCompletionChunk,
    ChatCompletionTokenLogprob,
    ChunkChoice,
    ParsedChatCompletion,
    ParsedChatCompletionMessage,
    ParsedChoice,
)

_NAMES = ("role", "id", "type", "name")
"""Strings of a delta that are not pieces."""


class ChunkEvent(BaseModel):
    """A chunk has come; `snapshot` is the answer so far."""

    type: Literal["chunk"]
    chunk: ChatCompletionChunk
    snapshot: ParsedChatCompletion[Any]


class ContentDeltaEvent(BaseModel):
    """A piece of the text, the text so far, and what can be read of it already."""

    type: Literal["content.delta"]
    delta: str
    snapshot: str
    parsed: Any | None


class ContentDoneEvent(BaseModel):
    """The text is whole; `parsed` is the instance of the type that was asked for."""

    type: Literal["content.done"]
    content: str
    parsed: Any | None


class RefusalDeltaEvent(BaseModel):
    """A piece of the words in which the model refuses to answer, and all of them so far."""

    type: Literal["refusal.delta"]
    delta: str
    snapshot: str


class RefusalDoneEvent(BaseModel):
    """The refusal is whole."""

    type: Literal["refusal.done"]
    refusal: str


class FunctionToolCallArgumentsDeltaEvent(BaseModel):
    """A piece of the arguments of a tool call, all of them so far, and what can be read of them already."""

    type: Literal["tool_calls.function.arguments.delta"]
    name: str
    index: int
    arguments: str
    parsed_arguments: Any
    arguments_delta: str


class FunctionToolCallArgumentsDoneEvent(BaseModel):
    """The arguments of a tool call are whole."""

    type: Literal["tool_calls.function.arguments.done"]
    name: str
    index: int
    arguments: str
    parsed_arguments: Any


class LogprobsContentDeltaEvent(BaseModel):
    """Log probabilities of a piece of the text, and all of them so far."""

    type: Literal["logprobs.content.delta"]
    content: list[ChatCompletionTokenLogprob]
    snapshot: list[ChatCompletionTokenLogprob]


class LogprobsContentDoneEvent(BaseModel):
    """The log probabilities of the text are whole."""

    type: Literal["logprobs.content.done"]
    content: list[ChatCompletionTokenLogprob]


class LogprobsRefusalDeltaEvent(BaseModel):
    """Log probabilities of a piece of the refusal, and all of them so far."""

    type: Literal["logprobs.refusal.delta"]
    refusal: list[ChatCompletionTokenLogprob]
    snapshot: list[ChatCompletionTokenLogprob]


class LogprobsRefusalDoneEvent(BaseModel):
    """The log probabilities of the refusal are whole."""

    type: Literal["logprobs.refusal.done"]
    refusal: list[ChatCompletionTokenLogprob]


ChatCompletionStreamEvent = (
    ChunkEvent
    | ContentDeltaEvent
    | ContentDoneEvent
    | RefusalDeltaEvent
    | RefusalDoneEvent
    | FunctionToolCallArgumentsDeltaEvent
    | FunctionToolCallArgumentsDoneEvent
    | LogprobsContentDeltaEvent
    | LogprobsContentDoneEvent
    | LogprobsRefusalDeltaEvent
    | LogprobsRefusalDoneEvent
)
"""What `chat.completions.stream` gives."""


class ChatCompletionStreamState:
    """The answer so far, of the chunks that have come: `handle_chunk` takes them, of any stream of this package's.

    Args:
        input_tools: the tools of the request, whose arguments are to be read.
        response_format: the type that the answer is to be an instance of.
        wanted: both.
    """

    def __init__(self, *, input_tools: Any = omit, response_format: Any = omit, wanted: Wanted | None = None) -> None:
        self._wanted = wanted or Wanted(response_format, input_tools)
        self._choices: dict[int, _ChoiceSnapshot] = {}
        self._completion: ParsedChatCompletion[Any] | None = None

    @property
    def current_completion_snapshot(self) -> ParsedChatCompletion[Any]:
        """The answer so far.

        Raises:
            RuntimeError: nothing has come yet.
        """
        if self._completion is None:
            raise RuntimeError("no chunk has come yet: there is a snapshot with the first event")
        return self._completion

    def get_final_completion(self) -> ParsedChatCompletion[Any]:
        """Return the answer, which has come to its end.

        Raises:
            LengthFinishReasonError, ContentFilterFinishReasonError: it has ended too early.
            pydantic.ValidationError: it is not what was wanted.
        """
        return parsed(self.current_completion_snapshot, self._wanted)

    def handle_chunk(self, chunk: ChatCompletionChunk) -> list[ChatCompletionStreamEvent]:
        """Take a chunk in, and return what it tells.

        Raises: as `get_final_completion`, when the answer has come to its end.
        """
        whole = self._completion
        if whole is None:
            fields = {"system_fingerprint": None, **chunk.to_dict(), "object": "chat.completion", "choices": []}
            fields.pop("obfuscation", None)
            whole = self._completion = ParsedChatCompletion(**fields)
        else:
            whole.usage = chunk.usage or whole.usage
            whole.system_fingerprint = chunk.system_fingerprint
            if chunk.moderation is not None:
                whole.moderation = chunk.moderation
        events: list[ChatCompletionStreamEvent] = [ChunkEvent(type="chunk", chunk=chunk, snapshot=whole)]
        for piece in chunk.choices or ():
            index = piece.index or 0
            if index not in self._choices:
                self._choices[index] = _ChoiceSnapshot(self._wanted)
            choice = self._choices[index]
            delta = choice.add(piece)
            self._set_choices(whole)
            if piece.finish_reason and self._wanted.reads:
                refuse_unfinished(piece.finish_reason, whole)
            choice.read(delta)
            events += choice.events(piece, delta)
            self._set_choices(whole)
        return events

    def _set_choices(self, whole: ParsedChatCompletion[Any]) -> None:
        whole.choices = [self._choices[number].snapshot for number in sorted(self._choices)]


class _ChoiceSnapshot:
    """One choice of the answer so far.

    Attributes:
        snapshot: it as an object.
    """

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._so_far = MessageSoFar()
        self._fields: dict[str, Any] = {}
        self._message: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._arguments: dict[int, Any] = {}  # what can be read of theirs
        self._done: set[Any] = set()  # what has been told to be whole
        self._call: int | None = None  # the one that is coming
        self.snapshot: ParsedChoice[Any] = ParsedChoice()

    def add(self, piece: ChunkChoice) -> dict[str, Any]:
        """Take a piece in, and return what it adds to the message."""
        delta = self._so_far.news(piece.delta.to_dict() if piece.delta else {}, last=bool(piece.finish_reason))
        if self._message:  # OpenAI's library has all of them behind the first piece
            self._message = {name: self._message.get(name) for name in _MESSAGE_FIELDS} | self._message
        _accumulate(self._message, {name: delta[name] for name in delta if name != "tool_calls"})
        for call in calls_of(delta):
            _accumulate(self._calls.setdefault(call["index"], {}), call)
        told, is_first = piece.to_dict(), not self._fields
        for name in ("delta", "logprobs"):
            told.pop(name, None)
        for name, value in told.items():
            if name not in self._fields or (name == "finish_reason" and value):
                self._fields[name] = value
        if piece.logprobs:
            self._add_logprobs(piece.logprobs.to_dict())
        elif is_first and "logprobs" in piece.model_fields_set:
            self._fields["logprobs"] = None
        self._build()
        return delta

    def _add_logprobs(self, told: dict[str, Any]) -> None:
        known = self._fields.get("logprobs") or {}
        lists = {name: (known.get(name) or []) + value for name, value in told.items() if value}
        self._fields["logprobs"] = {**told, **known, **lists}

    def read(self, delta: Mapping[str, Any]) -> None:
        """Read what can be read already."""
        if not self._wanted.reads:
            return
        for call in calls_of(delta):
            function = self._calls[call["index"]].get("function") or {}
            if self._wanted.is_strict(function.get("name")) and function.get("arguments"):
                self._arguments[call["index"]] = self._wanted.so_far(function["arguments"])
        self._build()
        message = self.snapshot.message
        if self._wanted.has_type and message.content and not message.refusal:
            message.parsed = self._wanted.so_far(message.content)

    def _build(self) -> None:
        message = dict(self._message)
        if self._calls:
            message["tool_calls"] = [self._call_fields(index) for index in sorted(self._calls)]
        self.snapshot = ParsedChoice(**self._fields, message=message)

    def _call_fields(self, index: int) -> dict[str, Any]:
        call = self._calls[index]
        if index not in self._arguments:
            return call
        return {**call, "function": {**call["function"], "parsed_arguments": self._arguments[index]}}

    def events(self, piece: ChunkChoice, delta: Mapping[str, Any]) -> Iterator[ChatCompletionStreamEvent]:
        """Tell what a piece has brought."""
        message, logprobs = self.snapshot.message, self.snapshot.logprobs
        for text, kind in (("content", ContentDeltaEvent), ("refusal", RefusalDeltaEvent)):
            if delta.get(text) is not None:
                read = {"parsed": message.parsed} if text == "content" else {}
                yield kind(type=f"{text}.delta", delta=delta[text], snapshot=getattr(message, text), **read)
        for call in calls_of(delta):
            whole = self._call_fields(call["index"])
            if whole.get("type") == "custom":
                continue
            function = {"name": None, "arguments": "", "parsed_arguments": None, **(whole.get("function") or {})}
            yield FunctionToolCallArgumentsDeltaEvent(
                type="tool_calls.function.arguments.delta",
                name=function["name"],
                index=call["index"],
                arguments=function["arguments"],
                parsed_arguments=function["parsed_arguments"],
                arguments_delta=(call.get("function") or {}).get("arguments") or "",
            )
        if piece.logprobs and logprobs:
            for text, event in (("content", LogprobsContentDeltaEvent), ("refusal", LogprobsRefusalDeltaEvent)):
                if news := getattr(piece.logprobs, text):
                    told = {text: news, "snapshot": getattr(logprobs, text)}
                    yield event(type=f"logprobs.{text}.delta", **told)
        if self.snapshot.finish_reason:
            yield from self._texts_done()
            yield from self._call_done()
        for call in calls_of(delta):
            if call["index"] != self._call:
                yield from self._texts_done()
                yield from self._call_done()
            self._call = call["index"]

    def _texts_done(self) -> Iterator[ChatCompletionStreamEvent]:
        message, logprobs = self.snapshot.message, self.snapshot.logprobs
        if message.content and self._is_new("content"):
            message.parsed = self._wanted.content(message)
            yield ContentDoneEvent(type="content.done", content=message.content, parsed=message.parsed)
        if message.refusal is not None and self._is_new("refusal"):
            yield RefusalDoneEvent(type="refusal.done", refusal=message.refusal)
        for text, kind in (("content", LogprobsContentDoneEvent), ("refusal", LogprobsRefusalDoneEvent)):
            tokens = logprobs and getattr(logprobs, text)
            if tokens is not None and self._is_new(f"logprobs.{text}"):
                yield kind(type=f"logprobs.{text}.done", **{text: tokens})

    def _call_done(self) -> Iterator[ChatCompletionStreamEvent]:
        index = self._call
        if index is None or not self._is_new(index) or self._calls[index].get("type") == "custom":
            return
        function = {"name": None, "arguments": "", **(self._calls[index].get("function") or {})}
        arguments = self._arguments[index] = self._wanted.arguments(function["name"], function["arguments"])
        self._build()
        yield FunctionToolCallArgumentsDoneEvent(
            type="tool_calls.function.arguments.done",
            index=index,
            name=function["name"],
            arguments=function["arguments"],
            parsed_arguments=arguments,
        )

    def _is_new(self, name: Any) -> bool:
        new = name not in self._done
        self._done.add(name)
        return new


_MESSAGE_FIELDS = [name for name in ParsedChatCompletionMessage._fields() if name != "parsed"]


def _accumulate(known: dict[str, Any], news: Mapping[str, Any]) -> None:
    """Add a delta: texts are pieces, lists go on, and the items of those that are numbered are found by that."""
    for name, value in news.items():
        old = known.get(name)
        if old is None:
            known[name] = old = {} if isinstance(value, dict) else [] if isinstance(value, list) else value
            if not isinstance(value, (dict, list)):
                continue
        if isinstance(old, str) and isinstance(value, str):
            known[name] = old or value if name in _NAMES else old + value
        elif isinstance(old, dict) and isinstance(value, dict):
            _accumulate(old, value)
        elif isinstance(old, list) and isinstance(value, list):
            for item in value:
                place = next((each for each in old if _is_same(each, item)), None)
                if place is None:
                    old.append(copy.deepcopy(item))
                else:
                    _accumulate(place, item)
        elif value is not None:
            known[name] = value


def _is_same(one: Any, other: Any) -> bool:
    index = other.get("index") if isinstance(other, dict) else None
    return index is not None and isinstance(one, dict) and one.get("index") == index
