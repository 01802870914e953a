"""Answers as instances of the caller's types, whole or while they come, and the events of that. No I/O."""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from .._message import MessageSoFar
from .errors import ContentFilterFinishReasonError, LengthFinishReasonError
from .model import BaseModel
from .request import given, omit, plain
from .types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionTokenLogprob,
    ChunkChoice,
    ParsedChatCompletion,
    ParsedChatCompletionMessage,
    ParsedChoice,
)

_logger = logging.getLogger("chatanywhere")

_NAMES = ("role", "id", "type", "name")
"""Strings of a delta that are not pieces."""


class PydanticFunctionTool(dict[str, Any]):
    """The function of a tool that is made of a pydantic model, which its arguments become."""

    def __init__(self, function: Mapping[str, Any], model: type) -> None:
        super().__init__(function)
        self.model = model


def pydantic_function_tool(model: type, *, name: str | None = None, description: str | None = None) -> dict[str, Any]:
    """Return a strict tool whose arguments are a pydantic model; the name and the docstring are told with it.

    Raises:
        ImportError: pydantic is not installed.
    """
    from .._schema import Output  # needs pydantic

    told: Any = Output(model).response_format["json_schema"]
    function: dict[str, Any] = {"name": name or model.__name__, "strict": True, "parameters": told["schema"]}
    description = model.__doc__ if description is None else description
    if description is not None:
        function["description"] = description
    return {"type": "function", "function": PydanticFunctionTool(function, model)}


class Wanted:
    """What a program wants an answer to be an instance of.

    Args:
        response_format: a type, or what is sent as it is.
        tools: those of the request.
        strict: whether all tools have to be such that their arguments can be read.

    Raises:
        TypeError, ValueError: an answer can't be read so.
        ImportError: a type needs pydantic, which is not installed.
    """

    def __init__(self, response_format: Any, tools: Any, *, strict: bool = False) -> None:
        self.tools = list(tools) if given(tools) and tools is not None else tools
        self.response_format = response_format
        self._output: Any = None
        if given(response_format) and response_format is not None and not isinstance(response_format, Mapping):
            from .._schema import Output  # needs pydantic

            self._output = Output(response_format)
            self.response_format = self._output.response_format
        self._functions: dict[str, Mapping[str, Any]] = {}
        for tool in self.tools if isinstance(self.tools, list) else ():
            tool = tool if isinstance(tool, Mapping) else plain(tool)
            if tool.get("type") != "function":
                if strict:
                    raise ValueError(f"only tools of the type 'function' can be parsed, not {tool.get('type')!r}")
                continue
            function = tool["function"]
            if strict and function.get("strict") is not True:
                raise ValueError(f"{function.get('name')!r} can't be parsed: give it 'strict': True, or use create()")
            self._functions[function.get("name")] = function

    @property
    def has_type(self) -> bool:
        """Whether the text is read."""
        return self._output is not None

    @property
    def reads(self) -> bool:
        """Whether anything is read."""
        return self.has_type or any(map(_is_read, self._functions.values()))

    def is_strict(self, name: Any) -> bool:
        """Whether the arguments of a function are read."""
        return name in self._functions and _is_read(self._functions[name])

    def content(self, message: Any) -> Any:
        """Return what a message is; None if it holds no such thing.

        Raises:
            pydantic.ValidationError: it is not what was wanted.
        """
        return self._output.value(message.content) if self._output and message.content and not message.refusal else None

    def so_far(self, text: str) -> Any:
        """Return what can be read of JSON that is still coming; None while that is nothing, or without pydantic."""
        try:
            from .._schema import read_so_far
        except ImportError:
            return None
        return read_so_far(text)

    def arguments(self, name: Any, arguments: str) -> Any:
        """Return the arguments of a call; None if nobody said what they are.

        Raises:
            ValueError: they are not what was wanted, which pydantic says by a `ValidationError`.
        """
        function = self._functions.get(name, {})
        model = getattr(function, "model", None)
        if model is not None:
            return model.model_validate_json(arguments)
        return json.loads(arguments) if function.get("strict") else None


def _is_read(function: Mapping[str, Any]) -> bool:
    return bool(function.get("strict")) or hasattr(function, "model")


def parsed(completion: ChatCompletion, wanted: Wanted) -> ParsedChatCompletion[Any]:
    """Return an answer with what it was wanted to be.

    Raises:
        LengthFinishReasonError, ContentFilterFinishReasonError: it has ended too early.
        pydantic.ValidationError: it is something else.
    """
    choices = []
    for choice in completion.choices or ():
        _refuse(choice.finish_reason, completion)
        message = choice.message
        calls = []
        for call in message.tool_calls or ():
            fields = call.to_dict()
            if call.type == "custom":
                _logger.warning("a call of a custom tool is left out of what is parsed: %s", call.id)
                continue
            function = fields.get("function") or {}
            arguments = wanted.arguments(function.get("name"), function.get("arguments") or "")
            calls.append({**fields, "function": {**function, "parsed_arguments": arguments}})
        told = {**message.to_dict(), "parsed": wanted.content(message), "tool_calls": calls or None}
        choices.append({**choice.to_dict(), "message": told})
    whole: ParsedChatCompletion[Any] = ParsedChatCompletion(**{**completion.to_dict(), "choices": choices})
    if hasattr(completion, "_request_id"):
        whole._request_id = completion._request_id
    return whole


def _refuse(finish_reason: str | None, completion: ChatCompletion) -> None:
    if finish_reason == "length":
        raise LengthFinishReasonError(completion=completion)
    if finish_reason == "content_filter":
        raise ContentFilterFinishReasonError(completion=completion)


# Events ------------------------------------------------------------------------------------------------------


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
                _refuse(piece.finish_reason, whole)
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
        for call in _calls(delta):
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
        for call in _calls(delta):
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
        for call in _calls(delta):
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
        for call in _calls(delta):
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


def _calls(delta: Mapping[str, Any]) -> list[dict[str, Any]]:
    calls = delta.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


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
