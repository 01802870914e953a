"""What a line of a batch asks: an object of JSON, or a row of a table that a template makes a prompt of. No I/O."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..failures import UsageError

URL = "/v1/chat/completions"

_SHOWN = 60  # characters of a value that is wrong
_PLACE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_OF_CALLS = ("timeout", "retry", "max_response_bytes", "headers", "extra_headers", "extra_query", "extra_body")
"""Keywords of calls that a line has no say in."""


class BadLine(Exception):
    """A line that can't be asked, and why."""


class Line(NamedTuple):
    """What a line asks.

    Attributes:
        name: its id, if it has one.
        call: keywords of a call.
    """

    name: str | None
    call: dict[str, Any]


def from_json(line: str) -> Line:
    """Read a line with an object: a request of OpenAI's batches, or a prompt with fields of its request.

    Raises:
        BadLine: it asks nothing.
    """
    try:
        fields = json.loads(line, parse_constant=_no_number)
    except json.JSONDecodeError as error:
        whole = "" if error.pos < len(line.rstrip()) else "; each line has to be a whole object, as `jq -c` prints it"
        raise BadLine(f"it is not JSON: {error.msg} at character {error.pos + 1}{whole}") from error
    except (ValueError, RecursionError) as error:
        raise BadLine(f"it is not JSON: {error}") from error
    if isinstance(fields, list):
        raise BadLine("it is a JSON array: give one object per line, as `jq -c '.[]'` prints them")
    if not isinstance(fields, dict):
        raise BadLine("it is no JSON object; --format text takes each line as a prompt")
    return _from_request(fields) if fields.keys() & {"body", "url", "method"} else _from_prompt(fields)


def _from_request(fields: dict[str, Any]) -> Line:
    unknown = sorted(fields.keys() - {"custom_id", "method", "url", "body"})
    if unknown:
        raise BadLine(f"{shown(unknown[0])} is no field of a batch's request: custom_id, method, url, body")
    name, body = _name(fields.get("custom_id"), "custom_id"), fields.get("body")
    if fields.get("method") != "POST":
        raise BadLine(f'its method has to be "POST", not {shown(fields.get("method"))}')
    if fields.get("url") != URL:
        raise BadLine(f'its url has to be "{URL}", not {shown(fields.get("url"))}')
    if not isinstance(body, dict):
        raise BadLine(f"its body has to be an object, not {shown(body)}")
    messages = body.pop("messages", None)
    if not isinstance(messages, list):
        raise BadLine(f"messages of its body has to be a list, not {shown(messages)}")
    return Line(name, {"messages": messages, **_call(body)})


def _from_prompt(fields: dict[str, Any]) -> Line:
    fields = {name: value for name, value in fields.items() if value is not None}  # as tables write what is not there
    names = [each for each in ("custom_id", "id") if each in fields]
    asked = [each for each in ("prompt", "messages") if each in fields]
    for each, what in ((names, "an id"), (asked, "a prompt")):
        if len(each) > 1:
            raise BadLine(f"it has {what} twice: {' and '.join(each)}")
    if not asked:
        raise BadLine("it has neither a prompt, nor messages, nor a body")
    name = _name(fields.pop(names[0]), names[0]) if names else None
    messages = fields.pop(asked[0])
    kind = "list" if asked[0] == "messages" else "text"
    if not isinstance(messages, list) and not (kind == "text" and isinstance(messages, str)):
        raise BadLine(f"its {asked[0]} has to be a {kind}, not {shown(messages)}")
    return Line(name, {"messages": messages, **call_of(fields)})


def call_of(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields of a request as keywords of a call.

    Raises:
        BadLine: one is none.
    """
    from ..._config import check_options

    for name in fields:
        try:
            check_options(() if name == "stream" else (name,))
            if name in _OF_CALLS:
                raise TypeError(name)
        except TypeError as error:
            raise BadLine(f"{name} is no field of a request") from error
    return _call(dict(fields))


def _call(fields: dict[str, Any]) -> dict[str, Any]:
    """The same, where what is not known is sent as it is."""
    model, stream = fields.pop("model", None), fields.pop("stream", None)
    fields.pop("stream_options", None)  # how an answer travels is not the line's
    call: dict[str, Any] = {"extra_body": fields}
    if model is not None:
        if not isinstance(model, str):
            raise BadLine(f"its model has to be a text, not {shown(model)}")
        call["model"] = model
    if stream is not None and not isinstance(stream, bool):
        raise BadLine(f"its stream has to be true or false, not {shown(stream)}")
    if stream is False:  # what some prompts cost depends on it
        call["stream"] = False
    return call


def _name(value: object, field: str) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise BadLine(f"its {field} has to be a text, not {shown(value)}")
    return str(value)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


def shown(value: object) -> str:
    """Return a value of a line's as an error shows it."""
    if value is None:
        return "nothing"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def with_system(messages: str | list[Any], system: str) -> list[Any]:
    """Put what the model is told first before messages that don't begin with it themselves."""
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    if not turns:  # which can't be asked
        return turns
    first = turns[0].get("role") if isinstance(turns[0], dict) else None
    return turns if first in ("system", "developer") else [{"role": "system", "content": system}, *turns]


class PromptTemplate:
    """A text with the names of columns in braces; `{{` and `}}` are braces.

    Raises:
        UsageError: it is none.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._names = []
        for found in _PLACE.finditer(text):
            if found[0] in ("{", "}"):
                raise UsageError(f"--template: a {found[0]} stands alone", "write {{ and }} for braces that are text")
            if found[1] is not None:
                self._names.append(found[1].strip())
        if not self._names:
            raise UsageError(
                "--template names no column, so that all prompts would be the same",
                "--template 'Translate: {text}', for one, in single quotes",
            )

    def check(self, columns: Sequence[str], table: str) -> None:
        """See to it that a table has the columns.

        Raises:
            UsageError: it has not, or one of them twice.
        """
        for name in self._names:
            if columns.count(name) != 1:
                how = "two columns" if name in columns else "no column"
                raise UsageError(
                    f"--template: {table} has {how} {{{name}}}; its columns are {', '.join(columns)}",
                    "name one of those that there are; {{ and }} are braces",
                )

    def prompt(self, columns: Sequence[str], row: Sequence[str]) -> Line:
        """Return what a row of a table asks.

        Raises:
            BadLine: it is not as long as the others.
        """
        if len(row) != len(columns):
            raise BadLine(f"it has {len(row)} cells, and the first line {len(columns)}")
        cells = dict(zip(columns, row, strict=True))
        return Line(cells.get("custom_id") or cells.get("id") or None, {"messages": self._filled(cells)})

    def _filled(self, cells: Mapping[str, str]) -> str:
        return _PLACE.sub(lambda found: found[0][0] if found[1] is None else cells[found[1].strip()], self._text)
