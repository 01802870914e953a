"""The shapes in which services put an error into JSON, and what they say in it. No I/O.

There is no standard: OpenAI nests an object under `error`, FastAPI has `detail`, Spring a page of fields, Gemini a
list, others a code and a `msg`. What is read here is what they have in common: words, a code, and at times a status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

MAX_MESSAGE = 500
"""Characters of an answer that are shown where it has no message."""

_MAX_DEPTH = 6  # how deep words are looked for
_MAX_ITEMS = 10  # of a list of errors

_WORDS = (
    "message",
    "msg",
    "detail",
    "error_message",
    "errorMessage",
    "error_msg",
    "error_description",
    "description",
    "reason",
    "errors",
    "title",
)
_CODES = ("code", "error_code", "errorCode")
_STATUSES = ("status", "status_code", "statusCode", "http_status", "code")
_FINE = (None, "", 0, "0", 200, "200", "200 OK")  # codes that say that nothing is wrong; False is 0

_STATUS = re.compile("([45][0-9][0-9])(?: [A-Za-z_ -]+)?")  # such as "429" or "429 TOO_MANY_REQUESTS"
_ESCAPES = re.compile(r"(?:\\u[0-9a-fA-F]{4})+")
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f]")


class Envelope(NamedTuple):
    """What an error says.

    Attributes:
        message: its words; where there are none, the fields that there are, as JSON; `""` if it says nothing at all.
        code: the service's own name or number for what went wrong.
        type: the same more broadly, from OpenAI's field of that name.
        status: the HTTP status that it names, 400 to 599.
    """

    message: str
    code: str | None = None
    type: str | None = None
    status: int | None = None


def read_error(answer: Any) -> Envelope:
    """Read an error, in whatever shape of JSON it comes."""
    message = _words(answer) or _fields(answer)
    return Envelope(unescaped(message), _code(answer), _type(answer), _status(answer))


def is_error(answer: Any) -> bool:
    """Whether JSON in an answer whose status says that all is fine is an error nevertheless."""
    if isinstance(answer, list):
        return bool(answer) and all(isinstance(each, dict) and is_error(each) for each in answer)
    if not isinstance(answer, dict):
        return False
    if answer.get("error") or "error" in (answer.get("object"), answer.get("type")):
        return True
    if answer.get("choices") or str(answer.get("object")).startswith("chat.completion"):
        return False
    codes = [answer[name] for name in _CODES if name in answer]
    if codes:
        return any(code not in _FINE for code in codes if not isinstance(code, (dict, list)))
    return any(
        isinstance(answer.get(name), (str, list)) and _words(answer[name]) for name in ("message", "msg", "detail")
    )


def unescaped(text: str) -> str:
    r"""Show the characters that `\u` escapes stand for, and what can't be encoded as U+FFFD."""
    text = _ESCAPES.sub(_characters, text)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _characters(match: re.Match[str]) -> str:
    characters: str = json.loads(f'"{match[0]}"')
    return match[0] if _CONTROL.search(characters) else characters  # no terminal is to obey them


def shortened(text: str) -> str:
    """The beginning of a text, in one line."""
    return " ".join(text.split())[:MAX_MESSAGE]


def _words(value: Any, depth: int = 0) -> str:
    """The words in an error, or `""`."""
    if isinstance(value, str):
        return value.strip()
    if depth == _MAX_DEPTH:
        return ""
    if isinstance(value, list):
        return "; ".join(filter(None, (_words(item, depth + 1) for item in value[:_MAX_ITEMS])))
    if not isinstance(value, dict):
        return ""
    for candidate in _candidates(value):
        words = _words(candidate, depth + 1)
        if not words and isinstance(candidate, dict) and candidate is not value.get("error"):
            words = _fields(candidate)  # a message is an object of the service's own
        if words:
            return f"{_place(value)}{words}"
    return ""


def _candidates(fields: dict[str, Any]) -> Iterator[Any]:
    """The values that may hold the words, the best ones first."""
    error = fields.get("error")
    if isinstance(error, (dict, list)):
        yield error
    yield from (fields.get(name) for name in _WORDS)
    # In Spring's page, it is the name of the status.
    if isinstance(error, str):
        yield error
    if any(name in fields for name in _CODES):
        yield fields.get("text")


def _place(fields: dict[str, Any]) -> str:
    """Where in the request the error is, as FastAPI says it."""
    place = fields.get("loc")
    return f"{'.'.join(map(str, place))}: " if isinstance(place, list) and place else ""


def _fields(answer: Any) -> str:
    """What is there to be shown where there are no words."""
    error = answer.get("error") if isinstance(answer, dict) else None
    shown = error if isinstance(error, (dict, list)) and error else answer
    if isinstance(shown, dict):
        shown = {name: value for name, value in shown.items() if not _is_empty(value)}
    return "" if _is_empty(shown) else _as_json(shown)


def _is_empty(value: Any) -> bool:
    return value in (None, [], {}) or (isinstance(value, str) and not value.strip())


def _as_json(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)[:MAX_MESSAGE]
    except RecursionError:
        return ""


def _objects(answer: Any) -> Iterator[dict[str, Any]]:
    """The objects that may have a code: the error's own first."""
    if isinstance(answer, list):
        for item in answer[:1]:
            yield from _objects(item if isinstance(item, dict) else None)
    elif isinstance(answer, dict):
        error = answer.get("error")
        if isinstance(error, list):
            error = error[0] if error else None
        if isinstance(error, dict):
            yield error
        yield answer


def _code(answer: Any) -> str | None:
    for fields in _objects(answer):
        for name in _CODES:
            value = fields.get(name)
            if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
                return str(value)
    return None


def _type(answer: Any) -> str | None:
    types = (fields.get("type") for fields in _objects(answer))
    return next((value for value in types if isinstance(value, str)), None)


def _status(answer: Any) -> int | None:
    for fields in _objects(answer):
        for name in _STATUSES:
            value = fields.get(name)
            match = _STATUS.fullmatch(str(value)) if isinstance(value, (str, int)) else None
            if match:
                return int(match[1])
    return None
