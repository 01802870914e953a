"""What a request asks for, checked as OpenAI checks it and refused in its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .request import ParameterError
from .schema import unstrict

# The most that OpenAI takes.
_CHOICES = 128
_STOPS = 4
_TOP_LOGPROBS = 20

_KINDS = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}
"""What OpenAI calls the values of JSON."""


def read(fields: Mapping[str, Any], path: str, *kinds: type, required: bool = False) -> Any:
    """Return a parameter, or None if it is not given, or is null.

    Args:
        fields: the object that has it.
        path: its name, behind those of the objects that it lies in, with dots between.
        kinds: what it may be.
        required: whether it has to be given.

    Raises:
        ParameterError: it is of another kind, or missing.
    """
    return _checked(fields.get(path.rpartition(".")[2]), path, *kinds, required=required)


def _checked(value: Any, path: str, *kinds: type, required: bool = False) -> Any:
    if value is None:
        if required:
            raise ParameterError(path, f"Missing required parameter: '{path}'.", "missing_required_parameter")
        return None
    if type(value) not in kinds:
        expected = " or ".join(_KINDS[kind] for kind in kinds)
        message = f"Invalid type for '{path}': expected {expected}, but got {_KINDS[type(value)]} instead."
        raise ParameterError(path, message, "invalid_type")
    return value


def read_number(
    fields: Mapping[str, Any], path: str, least: float | None, most: float | None, *, whole: bool = True
) -> Any:
    """Return a parameter that is a number, an integer if it has to be `whole`, or None if it is not given.

    Raises:
        ParameterError: it is no such number, or out of range.
    """
    value = read(fields, path, int) if whole else read(fields, path, int, float)
    if value is None:
        return None
    kind = "integer" if whole else "decimal"
    if least is not None and not value >= least:
        message = f"Invalid '{path}': {kind} below minimum value. Expected a value >= {least}, but got {value} instead."
        raise ParameterError(path, message, f"{kind}_below_min_value")
    if most is not None and not value <= most:
        message = f"Invalid '{path}': {kind} above maximum value. Expected a value <= {most}, but got {value} instead."
        raise ParameterError(path, message, f"{kind}_above_max_value")
    return value


def read_choice(fields: Mapping[str, Any], path: str, *choices: str, required: bool = False) -> str | None:
    """Return a parameter that is one of some words, or None if it is not given.

    Raises:
        ParameterError: it is another.
    """
    value: str | None = read(fields, path, str, required=required)
    if value is not None and value not in choices:
        supported = ", ".join(f"'{choice}'" for choice in choices)
        message = f"Invalid value: '{value}'. Supported values are: {supported}."
        raise ParameterError(path, message, "invalid_value")
    return value


def read_texts(fields: Mapping[str, Any], path: str, most: int) -> list[str] | list[list[int]]:
    """Return a parameter that is a text or several, or the tokens of these; none of them is empty.

    Raises:
        ParameterError: it is something else, or there are more than `most`.
    """
    given = read(fields, path, str, list, required=True)
    texts = [given] if isinstance(given, str) or (given and type(given[0]) is int) else given
    if len(texts) > most:
        message = (
            f"Invalid '{path}': array too long. Expected an array with maximum length {most}, "
            f"but got an array with length {len(texts)} instead."
        )
        raise ParameterError(path, message, "array_above_max_length")
    if not all(isinstance(each, str) for each in texts) and not all(
        isinstance(each, list) and all(type(token) is int for token in each) for each in texts
    ):
        message = (
            f"Invalid type for '{path}': expected a string, an array of strings, of tokens, or of arrays of tokens."
        )
        raise ParameterError(path, message, "invalid_type")
    if not texts or not all(texts):
        raise ParameterError(path, f"Invalid '{path}': {path} cannot be empty.", "invalid_value")
    return texts


@dataclass(frozen=True)
class Tool:
    """A tool that may be called."""

    kind: str
    """`"function"` or `"custom"`."""
    name: str
    schema: Any = True
    """Of a function's arguments."""


@dataclass(frozen=True)
class AnswerOptions:
    """What a chat asks of its answer; the values are those of a chat that asks for nothing."""

    stream: bool = False
    include_usage: bool = False
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    n: int = 1
    logprobs: bool = False
    top_logprobs: int = 0
    json: bool = False
    """Whether the text is to be a JSON object, or what `schema` says."""
    schema: Any = None
    demanded: tuple[Tool, ...] = ()
    """The tools of which one is to be called."""
    parallel: bool = False
    """Whether several may be called at once; only if it was said so."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> AnswerOptions:
        """Return the options of a request for a chat completion.

        Raises:
            ParameterError: there is one that OpenAI refuses.
        """
        read(fields, "model", str)
        for name, least, most in (
            ("temperature", 0, 2),
            ("top_p", 0, 1),
            ("frequency_penalty", -2, 2),
            ("presence_penalty", -2, 2),
        ):
            read_number(fields, name, least, most, whole=False)
        read_number(fields, "seed", None, None)
        for name, kind in {"user": str, "metadata": dict, "logit_bias": dict, "store": bool}.items():
            read(fields, name, kind)
        stream = bool(read(fields, "stream", bool))
        stream_options = read(fields, "stream_options", dict)
        if stream_options is not None and not stream:
            _refuse_without("stream_options", "'stream' is enabled")
        logprobs = bool(read(fields, "logprobs", bool))
        top_logprobs = read_number(fields, "top_logprobs", 0, _TOP_LOGPROBS)
        if top_logprobs is not None and not logprobs:
            _refuse_without("top_logprobs", "'logprobs' is enabled")
        as_json, schema = _read_format(fields)
        return cls(
            stream=stream,
            include_usage=bool(read(stream_options or {}, "stream_options.include_usage", bool)),
            max_tokens=_read_limit(fields),
            stops=_read_stops(fields),
            n=read_number(fields, "n", 1, _CHOICES) or 1,
            logprobs=logprobs,
            top_logprobs=top_logprobs or 0,
            json=as_json,
            schema=schema,
            demanded=_read_demanded(fields, _read_tools(fields)),
            parallel=bool(read(fields, "parallel_tool_calls", bool)),
        )


def _refuse_without(name: str, condition: str) -> None:
    raise ParameterError(name, f"The '{name}' parameter is only allowed when {condition}.")


def _read_limit(fields: Mapping[str, Any]) -> int | None:
    limits = [read_number(fields, name, 1, None) for name in ("max_completion_tokens", "max_tokens")]
    if None not in limits:
        message = "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported."
        raise ParameterError("max_tokens", message, "invalid_parameter_combination")
    limit: int | None = limits[0] or limits[1]
    return limit


def _read_stops(fields: Mapping[str, Any]) -> tuple[str, ...]:
    stops = read(fields, "stop", str, list)
    if not isinstance(stops, list):
        stops = [] if stops is None else [stops]
    if len(stops) > _STOPS:
        message = (
            f"Invalid 'stop': array too long. Expected an array with maximum length {_STOPS}, "
            f"but got an array with length {len(stops)} instead."
        )
        raise ParameterError("stop", message, "array_above_max_length")
    for stop in stops:
        if not isinstance(stop, str) or not stop:
            message = "Invalid 'stop': expected a string that is not empty, or an array of such strings."
            raise ParameterError("stop", message, "invalid_type")
    return tuple(stops)


def _read_format(fields: Mapping[str, Any]) -> tuple[bool, Any]:
    """Return whether the answer is to be JSON, and the schema that it is to fit."""
    wanted = read(fields, "response_format", dict)
    if wanted is None:
        return False, None
    kind = read_choice(wanted, "response_format.type", "json_object", "json_schema", "text", required=True)
    if kind != "json_schema":
        return kind == "json_object", None
    described = read(wanted, "response_format.json_schema", dict, required=True)
    name = read(described, "response_format.json_schema.name", str) or "response"
    schema = read(described, "response_format.json_schema.schema", dict)
    strict = read(described, "response_format.json_schema.strict", bool)
    if strict and (fault := unstrict(schema)):
        message = f"Invalid schema for response_format '{name}': {fault}"
        raise ParameterError("response_format", message)
    return True, {} if schema is None else schema


def _read_tools(fields: Mapping[str, Any]) -> list[Tool]:
    tools = []
    given = read(fields, "tools", list)
    if given == []:
        message = "Invalid 'tools': empty array. Expected an array with minimum length 1."
        raise ParameterError("tools", message, "empty_array")
    for place, tool in enumerate(given or ()):
        path = f"tools[{place}]"
        _checked(tool, path, dict, required=True)
        kind = read_choice(tool, f"{path}.type", "function", "custom", required=True)
        described = read(tool, f"{path}.{kind}", dict, required=True)
        name = read(described, f"{path}.{kind}.name", str, required=True)
        if kind == "custom":
            tools.append(Tool("custom", name))
            continue
        schema = read(described, f"{path}.function.parameters", dict)
        if read(described, f"{path}.function.strict", bool) and (fault := unstrict(schema)):
            message = f"Invalid schema for function '{name}': {fault}"
            raise ParameterError(f"{path}.function.parameters", message, "invalid_function_parameters")
        # Arguments are an object, whatever the schema leaves open.
        tools.append(Tool("function", name, {"type": "object", **(schema or {})}))
    return tools


def _read_demanded(fields: Mapping[str, Any], tools: list[Tool]) -> tuple[Tool, ...]:
    for name in ("tool_choice", "parallel_tool_calls"):
        if fields.get(name) is not None and not tools:
            raise ParameterError(name, f"'{name}' is only allowed when 'tools' are specified.")
    choice = read(fields, "tool_choice", str, dict)
    if choice is None:
        return ()
    if isinstance(choice, str):
        read_choice(fields, "tool_choice", "none", "auto", "required")
        return tuple(tools) if choice == "required" else ()
    kind = read_choice(choice, "tool_choice.type", "function", "custom", "allowed_tools", required=True)
    if kind != "allowed_tools":
        return (_named(choice, "tool_choice", tools),)
    allowed = read(choice, "tool_choice.allowed_tools", dict, required=True)
    mode = read_choice(allowed, "tool_choice.allowed_tools.mode", "auto", "required", required=True)
    path = "tool_choice.allowed_tools.tools"
    listed = [_checked(each, path, dict, required=True) for each in read(allowed, path, list, required=True)]
    named = tuple(_named(each, path, tools) for each in listed)
    return named if mode == "required" else ()


def _named(choice: Mapping[str, Any], path: str, tools: list[Tool]) -> Tool:
    """Return the tool that a choice names."""
    kind = read_choice(choice, f"{path}.type", "function", "custom", required=True)
    described = read(choice, f"{path}.{kind}", dict, required=True)
    name = read(described, f"{path}.{kind}.name", str, required=True)
    for tool in tools:
        if (tool.kind, tool.name) == (kind, name):
            return tool
    raise ParameterError("tool_choice", f"Tool choice '{name}' not found in 'tools' parameter.")


def check_conversation(messages: Sequence[Mapping[str, Any]]) -> None:
    """See to it that each tool message is the result of a call, and that no call is left without its result.

    Raises:
        ParameterError: it is not so.
    """
    called: list[Any] = []
    waiting: list[Any] = []
    for place, message in enumerate([*messages, {}]):
        if message.get("role") == "tool":
            call_id = message.get("tool_call_id")
            if call_id not in called:
                raise ParameterError(
                    f"messages.[{place}].role",
                    "Invalid parameter: messages with role 'tool' must be a response to a preceding message with "
                    f"'tool_calls', and there is none of the id {call_id!r}.",
                )
            waiting = [each for each in waiting if each != call_id]
            continue
        if waiting:
            raise ParameterError(
                f"messages.[{place}].role",
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                "'tool_call_id'. The following tool_call_ids did not have response messages: "
                f"{', '.join(map(str, waiting))}",
            )
        calls = message.get("tool_calls")
        called = [call.get("id") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
        waiting = called
