"""Answers as instances of the caller's types. No I/O."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from .errors import ContentFilterFinishReasonError, LengthFinishReasonError
from .request import given, plain
from .types import ChatCompletion, ParsedChatCompletion

_logger = logging.getLogger("chatanywhere")


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
        refuse_unfinished(choice.finish_reason, completion)
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


def refuse_unfinished(finish_reason: str | None, completion: ChatCompletion) -> None:
    """See to it that an answer has not ended too early to be read.

    Raises:
        LengthFinishReasonError, ContentFilterFinishReasonError: it has.
    """
    if finish_reason == "length":
        raise LengthFinishReasonError(completion=completion)
    if finish_reason == "content_filter":
        raise ContentFilterFinishReasonError(completion=completion)
