"""Messages of a conversation, as JSON. No I/O."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from .._attachment import FileLike, parts_of
from .._message import calls_of
from .._protocols.json_body import encode_json
from .._protocols.protocol import as_messages
from .._types import MessagesLike


def as_json(value: Any) -> Any:
    """Return a value as it will be read from the JSON that is sent.

    Raises:
        TypeError, ValueError: it has no JSON.
    """
    return json.loads(encode_json(value))


def read(messages: str | MessagesLike) -> list[dict[str, Any]]:
    """Return messages, in whatever form a caller has them, as JSON.

    Raises:
        TypeError, ValueError: these are none, or have no JSON.
    """
    return [as_json(message) for message in as_messages(messages)]


def asked_with(text: str | MessagesLike, files: Iterable[FileLike]) -> list[dict[str, Any]]:
    """Return the messages with which something is asked.

    Raises:
        TypeError, ValueError: they have no JSON, or there are files and no text; or as `parts_of`.
        OSError: a file can't be read.
    """
    parts = parts_of(files)
    if not isinstance(text, str):
        if parts:
            raise TypeError("files go with a question that is a str: put image() and texts into the messages instead")
        return read(text)
    content: Any = [{"type": "text", "text": text}, *parts] if parts else text
    return [as_json({"role": "user", "content": content})]


def copied(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages that nobody else has."""
    return copy.deepcopy([dict(message) for message in messages])


def size_of(message: Mapping[str, Any]) -> int:
    """Return how many characters there are in a message's text, and in the calls in it."""
    return len(text_of(message)) + sum(len(_called(call)) for call in calls_of(message))


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message, that of all its parts."""
    return "".join(_texts(message))


def with_text(message: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Return a message with another text: an answer is nothing else then, a question keeps its files."""
    if message["role"] == "assistant":
        return {"role": "assistant", "content": text}
    content = message.get("content")
    if not isinstance(content, list):
        return {**message, "content": text}
    is_text = [isinstance(part, dict) and part.get("type") == "text" for part in content]
    first = is_text.index(True) if True in is_text else 0
    return {**message, "content": [*content[:first], {"type": "text", "text": text}, *content[first + any(is_text) :]]}


def as_markdown(message: Mapping[str, Any]) -> str:
    """Return what a message says, for people."""
    content = message.get("content")
    parts = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    refusal = message.get("refusal")
    said = [*_texts(message), *([refusal] if isinstance(refusal, str) else [])]
    said += [f"*[{kind}]*" for kind in parts if kind != "text"]
    return "\n\n".join([*said, *(f"→ {_called(call)}" for call in calls_of(message))])


def _texts(message: Mapping[str, Any]) -> Iterator[str]:
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))


def _called(call: Mapping[str, Any]) -> str:
    """What a call says, as a text."""
    what = call.get("custom" if call.get("type") == "custom" else "function")
    what = what if isinstance(what, dict) else {}
    return f"{what.get('name')}({what.get('arguments') or what.get('input') or ''})"
