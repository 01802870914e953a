"""What has been said in a conversation, as messages of JSON. A turn begins with a user's message. No I/O."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from ._message import calls_of
from ._protocols.json_body import encode_json
from ._protocols.protocol import as_messages
from ._types import MessagesLike

_SYSTEM = ("system", "developer")


class History:
    """The messages of a conversation.

    Attributes:
        messages: the system message is the first, if there is one.
    """

    def __init__(self, messages: Iterable[Mapping[str, Any]] = ()) -> None:
        self.messages = copied(messages)

    @property
    def system(self) -> str | None:
        """The text of the system message."""
        first = self.messages[0] if self.messages else {"role": ""}
        return text_of(first) if first["role"] in _SYSTEM else None

    def set_system(self, text: str | None) -> int:
        """Put another system message in the place of the one that there is; return by how much the others move."""
        old = 0 if self.system is None else 1
        role = self.messages[0]["role"] if old else "system"
        self.messages[:old] = [] if text is None else [{"role": role, "content": text}]
        return (text is not None) - old

    def last_question(self) -> int | None:
        """The index of the message with which the last turn begins."""
        return max((index for index, each in enumerate(self.messages) if each["role"] == "user"), default=None)

    def before(
        self,
        index: int,
        new: Sequence[Mapping[str, Any]],
        *,
        max_messages: int | None,
        max_chars: int | None,
    ) -> list[dict[str, Any]]:
        """Return what is sent before new messages: the system message, and as many turns as there is room for.

        Args:
            index: where the new messages will stand.
            new: what is sent in any case, and the rest of the turn that it belongs to.
            max_messages: how many there may be with the new ones, but without the system message.
            max_chars: how many characters these may have.
        """
        history = self.messages[:index]
        system = 0
        while system < len(history) and history[system]["role"] in _SYSTEM:
            system += 1
        kept = len(history)
        if new[0]["role"] in ("tool", "function"):  # what functions returned belongs to the turn that called them
            kept = max((place for place in range(system, kept) if _begins_turn(history, place)), default=system)
        count = len(history) - kept + len(new)
        size = sum(map(_size, [*history[kept:], *new]))
        for start in range(kept - 1, system - 1, -1):
            count, size = count + 1, size + _size(history[start])
            if (max_messages and count > max_messages) or (max_chars and size > max_chars):
                break
            if start == system or _begins_turn(history, start):
                kept = start
        return copied([*history[:system], *history[kept:]])

    def check_calls(self, question: Sequence[Mapping[str, Any]]) -> None:
        """Refuse a question where the model waits for the results of functions that it has called.

        Raises:
            RuntimeError: it does.
        """
        answer = max((index for index, each in enumerate(self.messages) if each["role"] == "assistant"), default=0)
        waiting: set[Any] = set()
        for message in [*self.messages[answer:], *question]:
            if message["role"] == "assistant":
                waiting = {call["id"] for call in calls_of(message) if call.get("id")}
            elif message["role"] == "tool":
                waiting.discard(message.get("tool_call_id"))
            elif waiting:
                break
        if waiting:
            raise RuntimeError(
                "the last answer calls functions, and waits for what they return: send that as messages with the role "
                "'tool', use run_tools(), or take the turn back with undo()"
            )


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


def copied(messages: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages that nobody else has."""
    return copy.deepcopy([dict(message) for message in messages])


def question_size(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many messages are the question of a turn that was not completed: the others are rounds of tools."""
    return next((index for index, each in enumerate(messages) if index and calls_of(each)), len(messages))


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


def _begins_turn(messages: Sequence[Mapping[str, Any]], index: int) -> bool:
    """Whether a message is the first of a turn, which may be asked with several."""
    return messages[index]["role"] == "user" and (index == 0 or messages[index - 1]["role"] != "user")


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


def _size(message: Mapping[str, Any]) -> int:
    """The characters of a message's text, and of the calls in it."""
    return len(text_of(message)) + sum(len(_called(call)) for call in calls_of(message))
