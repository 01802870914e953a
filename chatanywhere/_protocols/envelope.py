"""The shapes in which services put an error into JSON, and what they say in it. No I/O.

There is no standard: OpenAI nests an object under `error`, FastAPI has `detail`, Spring a page of fields, Gemini a
list, others a code and a `msg`. What is read here is what they have in common: words, a code, and at times a status.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from .excerpt import MAX_MESSAGE, printable
from .json_text import loads

_MAX_DEPTH = 6  # how deep words are looked for
_MAX_ITEMS = 10  # of a list of errors
_MAX_WORDS = 64 * 1024  # characters of a message, be it words or JSON
_MAX_FIELDS = 100  # of an object that is shown
_MAX_VALUES = 5000  # that are looked at, since no error has so many, and other JSON has more

_WORDS = (
    "message",
    "msg",
    "detail",
    "error_message",
    "errorMessage",
    "error_msg",
    "errmsg",
    "status_msg",
    "error_description",
    "errors",
)
_OTHER_WORDS = ("description", "reason", "title")  # which stand in what is no error, too
_AROUND = ("response", "base_resp", "innererror")  # what errors are put into, beside `error`
_CODES = ("code", "error_code", "errorCode", "errcode", "status_code")
_TYPES = ("type", "error_type", "errorType")
_STATUSES = ("status", "status_code", "statusCode", "http_status", "code")

_FINE = re.compile("|0|0.0|none|false|ok|success|2[0-9][0-9]( .*)?", re.IGNORECASE)  # codes: nothing is wrong
_STATUS = re.compile("([45][0-9][0-9])(?: [A-Za-z_ -]+)?")  # such as "429" or "429 TOO_MANY_REQUESTS"


class Envelope(NamedTuple):
    """What an error says.

    Attributes:
        message: its words; where there are none, the fields that there are, as JSON; `""` if it says nothing at all.
        code: the service's own name or number for what went wrong.
        status: the HTTP status that it names, 400 to 599.
        names: all that it calls itself, codes and types, in lower case.
    """

    message: str
    code: str | None = None
    status: int | None = None
    names: frozenset[str] = frozenset()


def read_error(answer: Any) -> Envelope:
    """Read an error, in whatever shape of JSON it comes."""
    walk = _Walk()
    message = walk.words(answer) or _as_json(walk.wordless) or _fields(answer)
    return Envelope(printable(message[:_MAX_WORDS]), walk.code, walk.status, frozenset(walk.names))


def is_error(answer: Any) -> bool:
    """Whether JSON in an answer whose status says that all is fine is an error nevertheless."""
    if isinstance(answer, list):
        return bool(answer) and all(isinstance(each, dict) and is_error(each) for each in answer[:_MAX_ITEMS])
    if not isinstance(answer, dict):
        return False
    if answer.get("error") or "error" in (answer.get("object"), answer.get("type")):
        return True
    if answer.get("choices") or str(answer.get("object")).startswith("chat.completion"):
        return bool(_errors_of_choices(answer))
    walk = _Walk()
    walk.words(answer)
    if walk.failed:
        return True
    if answer.get("data") or answer.get("success") or any(answer.get(name) not in (None, "") for name in _CODES):
        return False  # it is what was asked for, or says that all is fine
    return any(_Walk().words(answer.get(name)) for name in _WORDS)


class _Walk:
    """One way through an error: its words, and all that it calls itself, wherever that stands.

    Attributes:
        code, status: see `Envelope`; those of the innermost object go before.
        names: see `Envelope`.
        wordless: what stands where words should be, and has none.
        failed: a code or status says that something is wrong.
    """

    def __init__(self) -> None:
        self.code: str | None = None
        self.status: int | None = None
        self.names: set[str] = set()
        self.wordless: Any = None
        self._left = _MAX_VALUES
        self.failed = False

    def words(self, value: Any, depth: int = 0) -> str:
        """Return the words in a value, or `""`."""
        if isinstance(value, str):
            return self._quoted(value[:_MAX_WORDS].strip(), depth)
        self._left -= 1
        if depth == _MAX_DEPTH or self._left < 0:
            return ""
        if isinstance(value, list):
            return "; ".join(filter(None, (self.words(item, depth + 1) for item in value[:_MAX_ITEMS])))
        if not isinstance(value, dict):
            return ""
        found = ""
        for name, candidate in _candidates(value):
            words = self.words(candidate, depth + 1)  # also behind the first ones, for there may be a code
            found = found or words
            if not words and name in _WORDS and isinstance(candidate, dict):
                self.wordless = self.wordless or candidate
        self._note(value)
        metadata = value.get("metadata")
        if isinstance(metadata, dict):  # of OpenRouter's, which has the words of the service behind it there
            behind = self.words(metadata.get("raw"), depth + 1)
            found = ": ".join(filter(None, (found, behind)))
        return f"{_place(value)}{found}" if found else ""

    def _quoted(self, text: str, depth: int) -> str:
        """The words of a text, which may be JSON that another service has said."""
        if text.startswith("{") and text.endswith("}") and len(text) <= _MAX_WORDS and depth < _MAX_DEPTH:
            try:
                value = loads(text)
            except json.JSONDecodeError:
                return text
            return self.words(value, depth + 1) or text
        return text

    def _note(self, fields: dict[str, Any]) -> None:
        """Take note of what an object calls itself."""
        for name in _CODES:
            code = fields.get(name)
            if isinstance(code, (str, int, float)):
                self.failed |= not _FINE.fullmatch(str(code))
                if code != "" and not isinstance(code, (bool, float)):
                    self.code = self.code or str(code)
                    self.names.add(str(code).lower())
        for name in _TYPES:
            kind = fields.get(name)
            if isinstance(kind, str):
                self.names.add(kind.lower())
                self.failed |= kind.endswith((".failed", ".error"))
        for name in _STATUSES:
            value = fields.get(name)
            match = _STATUS.fullmatch(str(value)) if isinstance(value, (str, int)) else None
            if match:
                self.status = self.status or int(match[1])
        self.failed |= (
            self.status is not None
            or fields.get("success") is False
            or fields.get("status") in ("error", "failed", "failure", "fail")
        )


def _candidates(fields: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The values that may hold the words, with their names, the best ones first."""
    error = fields.get("error")
    if isinstance(error, (dict, list)):
        yield "error", error
    yield from ((name, fields.get(name)) for name in _WORDS)
    errors = fields.get("errors")
    if isinstance(errors, dict) and not errors.keys() & {"error", *_WORDS}:  # ASP.NET's, by the fields of the request
        yield "errors", [{"loc": [name], "message": words} for name, words in islice(errors.items(), _MAX_ITEMS)]
    yield from ((name, fields.get(name)) for name in _OTHER_WORDS)
    # In Spring's page, it is the name of the status.
    if isinstance(error, str):
        yield "error", error
    if any(name in fields for name in _CODES):
        yield "text", fields.get("text")
    yield from ((name, fields.get(name)) for name in _AROUND if isinstance(fields.get(name), dict))
    yield "choices", _errors_of_choices(fields)


def _errors_of_choices(fields: dict[str, Any]) -> list[Any]:
    choices = fields.get("choices")
    if not isinstance(choices, list):
        return []
    return [choice["error"] for choice in choices[:_MAX_FIELDS] if isinstance(choice, dict) and choice.get("error")]


def _place(fields: dict[str, Any]) -> str:
    """Where in the request the error is, as FastAPI says it."""
    place = fields.get("loc")
    if not isinstance(place, list):
        return ""
    names = [str(each) for each in place[:_MAX_ITEMS] if isinstance(each, (str, int))]
    return f"{'.'.join(names)}: " if names else ""


def _fields(answer: Any) -> str:
    """What is there to be shown where there are no words."""
    error = answer.get("error") if isinstance(answer, dict) else None
    return _as_json(error if isinstance(error, (dict, list)) and error else answer)


def _as_json(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: each for name, each in islice(value.items(), _MAX_FIELDS) if not _is_empty(each)}
    if _is_empty(value):
        return ""
    text = ""
    for piece in json.JSONEncoder(ensure_ascii=False).iterencode(value):
        text += piece
        if len(text) >= MAX_MESSAGE:
            break
    return text[:MAX_MESSAGE]


def _is_empty(value: Any) -> bool:
    return value in (None, [], {}) or (isinstance(value, str) and not value.strip())
