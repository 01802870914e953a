"""JSON schemas of the caller's types and functions, and what is read by them. The only user of pydantic. No I/O.

Imported when a call has a type as `response_format`, or functions as tools.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, get_type_hints

from ._errors import OutputError
from ._types import Completion, ToolCall

try:
    import pydantic
    import pydantic.json_schema
    import pydantic_core
except ImportError as exc:
    raise ImportError(
        "structured output and tools need pydantic: pip install 'chatanywhere[structured]'", name="pydantic"
    ) from exc

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # what OpenAI accepts as the name of a schema or a function

_FORMATS = ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid")
"""The formats of strings that strict mode knows; it refuses others."""

_LEFT_OUT = ("default", "discriminator", "uniqueItems")
"""What strict mode refuses, and an answer can do without: it is checked by the type itself."""

_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
"""What strict mode's patterns can't have; those that pydantic before 2.14 writes for a `Decimal` do."""

_MOST = 5  # things wrong with a value that are told


class Output:
    """A type of the caller's, which an answer is to be an instance of.

    Attributes:
        response_format: what asks a service for one. OpenAI wants an object at the root, so another type is wrapped
            into one. It is strict unless the type has objects whose fields nobody knows, such as `dict[str, int]`.

    Raises:
        TypeError: pydantic has no JSON schema for it.
    """

    def __init__(self, kind: Any) -> None:
        if isinstance(kind, (str, bytes)) or inspect.isroutine(kind):
            raise TypeError(f"response_format must be a type or a dict, not {kind!r:.80}")
        name = getattr(kind, "__name__", "")
        self._adapter, schema = _adapter(kind, "response_format")
        self._wrapped = _Strict(schema).schema.get("type") != "object"
        if self._wrapped:
            self._adapter, schema = _adapter(pydantic.create_model("Output", value=(kind, ...)), "response_format")
        strict = _Strict(schema)
        self._name = re.sub(r"[^a-zA-Z0-9_-]+", "_", name).strip("_")[:64] or "output"
        self.response_format = {
            "type": "json_schema",
            "json_schema": {"name": self._name, "strict": strict.strict, "schema": strict.schema},
        }

    def read(self, completion: Completion) -> Completion:
        """Return the answer with its instance as `parsed`; None in one that calls tools instead.

        Raises:
            OutputError: there is no instance.
        """
        if completion.refusal:
            raise OutputError(f"the model refuses to answer: {completion.refusal}", "refusal", completion)
        if completion.finish_reason == "content_filter":
            raise OutputError("the answer was held back by a content filter", "content_filter", completion)
        if completion.finish_reason == "length":
            raise OutputError(
                "the answer was cut at the largest number of tokens: raise max_tokens", "length", completion
            )
        if completion.tool_calls:
            return completion
        try:
            value = self.value(completion.text)
        except pydantic.ValidationError as exc:
            raise OutputError(f"the answer does not fit {self._name}: {_words(exc)}", "invalid", completion) from exc
        except Exception as exc:  # of a validator of the caller's
            with suppress(AttributeError):
                exc.partial = completion.text  # type: ignore[attr-defined]  # which has been paid for
            raise
        return replace(completion, parsed=value)

    def value(self, text: str) -> Any:
        """Return the instance that a text holds as JSON.

        Raises:
            pydantic.ValidationError: it holds none; and whatever a validator of the caller's raises.
        """
        value = self._adapter.validate_json(text)
        return value.value if self._wrapped else value


class Function:
    """A function of the caller's, as a tool.

    Attributes:
        name: by which the model calls it.
        definition: what a service is told of it, by its signature, annotations and docstring.
        awaitable: it is a coroutine function.

    Raises:
        TypeError, ValueError: it can't be one; the message names the remedy.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        if not inspect.isroutine(function):
            raise TypeError(f"a tool is a function with a name, not {function!r:.80}: write a def around it")
        self.name = function.__name__
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"{self.name!r} can't be the name of a tool: use 1 to 64 of a-z, A-Z, 0-9 and _ in a def")
        self.awaitable = inspect.iscoroutinefunction(function)
        self._function = function

        self._adapter, schema = _adapter(_taking(function), self.name)
        if schema.get("type") != "object":
            raise TypeError(f"{self.name} takes arguments by position only, and a model gives them by name")
        description, arguments = _documented(inspect.getdoc(function) or "")
        for name, field in schema["properties"].items():
            if name in arguments:
                field.setdefault("description", arguments[name])
        told = {"name": self.name, "description": description, "parameters": schema}
        self.definition = {"type": "function", "function": {key: value for key, value in told.items() if value}}

    def bind(self, call: ToolCall) -> Callable[[], Any]:
        """Return the function with the arguments of a call.

        Raises:
            ValueError: they are not what it takes.
        """
        call.json()  # it is an object
        try:
            args, kwargs = self._adapter.validate_json(call.arguments or "{}")
        except pydantic.ValidationError as exc:
            raise ValueError(f"wrong arguments for {self.name}: {_words(exc)}") from exc
        return functools.partial(self._function, *args, **kwargs)


def _taking(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function with the same signature that returns its arguments, for pydantic checks those of what it calls."""

    def take(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    try:
        signature = inspect.signature(function)
        parameters = signature.parameters.values()
        # Without what it returns, which nobody asks for: its name may be known to type checkers only.
        take.__annotations__ = {each.name: each.annotation for each in parameters if each.annotation is not each.empty}
        hints = get_type_hints(take, getattr(inspect.unwrap(function), "__globals__", {}), include_extras=True)
    except (AttributeError, NameError) as exc:
        raise TypeError(f"{function.__name__} has an annotation that is not known where it was defined: {exc}") from exc
    except ValueError as exc:  # it is written in C
        raise TypeError(f"{function.__name__} does not tell its arguments: write a def around it") from exc
    take.__annotations__ = hints
    take.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[each.replace(annotation=hints.get(each.name, each.empty)) for each in parameters]
    )
    return take


def to_json(value: Any) -> str:
    """Write what a function returned.

    Raises:
        ValueError: it has no JSON.
    """
    return pydantic_core.to_json(value).decode()


def read_so_far(text: str) -> Any:
    """Read JSON that is still coming, as far as it has come; None while it is nothing that could be JSON."""
    try:
        return pydantic_core.from_json(text, allow_partial=True)
    except ValueError:
        return None


class _Generator(pydantic.json_schema.GenerateJsonSchema):
    """Does not warn of a default that has no JSON: the schema can do without it."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  as pydantic has it


def _adapter(kind: Any, place: str) -> tuple[pydantic.TypeAdapter[Any], dict[str, Any]]:
    """What checks instances of a type, and their JSON schema."""
    try:
        adapter = pydantic.TypeAdapter(kind)
        return adapter, adapter.json_schema(schema_generator=_Generator)
    except (pydantic.PydanticUserError, NameError) as exc:  # the second for an annotation that nobody knows
        raise TypeError(f"{place} has no JSON schema: {exc}") from exc


def _words(error: pydantic.ValidationError) -> str:
    """What is wrong with a value, in a line."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [": ".join(filter(None, [".".join(map(str, each["loc"])), each["msg"]])) for each in found[:_MOST]]
    return "; ".join(told) + (f"; and {len(found) - _MOST} more" if len(found) > _MOST else "")


class _Strict:
    """A JSON schema of pydantic's, as OpenAI's strict mode wants it.

    Attributes:
        schema: all fields required, no others allowed, no defaults, nothing beside a `$ref`.
        strict: False if it has objects with any fields, or values of any type, which strict mode can't have.
    """

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self.strict = True
        self._definitions = schema.get("$defs", {})
        self.schema: dict[str, Any] = self._written(schema, ())

    def _written(self, schema: Any, path: tuple[str, ...]) -> Any:
        """Write a schema that stands inside of the definitions `path`."""
        if not isinstance(schema, Mapping):
            self.strict = False
            return schema
        reference = schema.get("$ref")
        if reference and len(schema) > 1:
            name = reference.rpartition("/")[2]
            if name in path:  # it goes on for ever
                return {"$ref": reference}
            path = (*path, name)
            schema = {**self._definitions[name], **{key: schema[key] for key in schema if key != "$ref"}}
        written: dict[str, Any] = {}
        for key, value in schema.items():
            if key in _LEFT_OUT or (key == "format" and value not in _FORMATS):
                continue
            if key == "pattern" and _LOOK_AROUND.search(value):
                continue
            if key in ("properties", "$defs"):
                written[key] = {name: self._written(each, path) for name, each in value.items()}
            elif key in ("anyOf", "oneOf", "prefixItems"):
                written["anyOf" if key == "oneOf" else key] = [self._written(each, path) for each in value]
            elif key == "items":
                written[key] = self._written(value, path)
            else:
                written[key] = value
        if "prefixItems" in written:  # a tuple; strict mode has arrays of one kind only
            written["items"] = {"anyOf": written.pop("prefixItems")}
        if "properties" in written:
            written |= {"required": list(written["properties"]), "additionalProperties": False}
        elif written.get("type") == "object" or not {"type", "anyOf", "$ref", "enum", "const"} & written.keys():
            self.strict = False
        return written


_SECTION = re.compile(
    r"(?m)^(?=(?:Args|Arguments|Parameters|Other Parameters|Keyword Args|Returns|Yields|Raises|Examples?|Notes?)"
    r"(?::[ \t]*|[ \t]*\n-{3,}[ \t]*)$|:(?:param|type|returns?|rtype|raises)\b)"
)
_ARGUMENTS = ("Args", "Arguments", "Parameters", "Other Parameters", "Keyword Args")
_GOOGLE = re.compile(r"(?m)^([ \t]+)\*{0,2}(\w+)[ \t]*(?:\([^\n]*?\))?:(.*(?:\n\1[ \t]+\S.*)*)")
_NUMPY = re.compile(r"(?m)^\*{0,2}(\w+)[ \t]*(?::.*)?\n((?:[ \t]+\S.*(?:\n|\Z))+)")
_SPHINX = re.compile(r":param (?:[^:\n]*[ ])?\*{0,2}(\w+):(.*(?:\n[ \t]+\S.*)*)")


def _documented(docstring: str) -> tuple[str, dict[str, str]]:
    """What a docstring says before its sections, and of each argument, in the style of Google, NumPy or Sphinx."""
    text, *sections = _SECTION.split(docstring)
    arguments: dict[str, str] = {}
    for section in sections:
        heading, _, rest = section.partition("\n")
        if heading.startswith(":"):
            arguments |= dict(_SPHINX.findall(section))
        elif heading.rstrip(": \t") in _ARGUMENTS:
            numpy = not heading.rstrip().endswith(":")
            arguments |= dict(_NUMPY.findall(rest) if numpy else [found[1:] for found in _GOOGLE.findall(rest)])
    return text.strip(), {name: " ".join(words.split()) for name, words in arguments.items()}
