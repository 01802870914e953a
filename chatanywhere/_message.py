"""The message of one choice while it comes: which tool call a fragment belongs to, and what is said again.

Whoever puts an answer together, the events or the raw object, asks here, so that they agree. Knows JSON's values only.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from zlib import crc32

_TEXTS = ("content", "reasoning", "refusal")
_SAME = {"reasoning_content": "reasoning", "reasoning_details": "reasoning", "function_call": "tool_calls"}
"""Fields that say the same as another one."""

_MOST_CALLS = 1000  # that are remembered of one choice: an answer need not end


class MessageSoFar:
    """What has been said of a message, as far as that must be known to tell what is new."""

    def __init__(self) -> None:
        self.calls = _ToolCalls()
        self._texts = {field: _Told() for field in _TEXTS}
        self._in_deltas: set[str] = set()  # the fields that have come so
        self._last: dict[str, Any] = {}  # the message that came last, its texts and calls left out

    def news(self, body: Mapping[str, Any], *, whole: bool = False, last: bool = False) -> dict[str, Any]:
        """Return what a delta adds to the message, or a whole message to what has been said of it.

        Some servers say the whole message again in the end, as such or as one more delta, and some say it in each
        chunk as far as it has come. Tool calls are returned as `as_call` makes them, each with its number as `index`.

        Args:
            body: the delta or the message.
            whole: it is a message.
            last: it comes with the finish reason.
        """
        new: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for name, value in body.items():
            field = _SAME.get(name, name)
            if value and isinstance(value, str) and field in _TEXTS:
                if text := self._new_text(field, value, whole, last):
                    new[name] = text
                    texts.setdefault(field, text)  # what was thought may come under two names at once
            elif name == "tool_calls":
                if value and (calls := self._new_calls(value, whole)):
                    new[name] = calls
            elif not whole:
                new[name] = value
            elif field not in self._in_deltas:
                old, self._last[name] = self._last.get(name), value
                if old != value:
                    new[name] = new_items(old, value) if isinstance(old, list) and isinstance(value, list) else value
        for field, text in texts.items():
            self.tell(field, text)
        if not whole:
            self._in_deltas.update(_SAME.get(name, name) for name, value in body.items() if value)
        return new

    @property
    def has_text(self) -> bool:
        """Some text has come in deltas."""
        return "content" in self._in_deltas

    def tell(self, field: str, *pieces: str) -> None:
        """Take note of pieces of a text, `"content"`, `"reasoning"` or `"refusal"`, that were read without `news`."""
        self._texts[field].add(*pieces)

    def _new_text(self, field: str, text: str, whole: bool, last: bool) -> str:
        told = self._texts[field]
        if not whole:
            return "" if last and told.several and told.rest(text) == "" else text
        rest = told.rest(text) if told.size else None
        if rest is None:  # a piece, which is how some servers use the message; or the same, written otherwise
            return "" if field in self._in_deltas else text
        return rest

    def _new_calls(self, calls: Any, whole: bool) -> Any:
        if isinstance(calls, dict):
            calls = [calls]
        if not isinstance(calls, list):
            return calls
        known = max(1, self.calls.count) if whole and "tool_calls" in self._in_deltas else 0
        return self.calls.read(calls, whole=whole, known=known)


class _Told:
    """A text, of which no more is kept than tells whether another one begins with it.

    Attributes:
        size: its characters.
        several: more than one of its pieces was not empty.
    """

    def __init__(self) -> None:
        self.size = 0
        self.several = False
        self._checksum = 0

    def add(self, *pieces: str) -> None:
        text = "".join(pieces)
        if not self.several:
            self.several = sum(map(bool, pieces)) + bool(self.size) > 1
        self.size += len(text)
        self._checksum = _checksum(text, self._checksum)

    def rest(self, text: str) -> str | None:
        """What follows the text in another one, None if that does not begin with it."""
        if len(text) < self.size or _checksum(text[: self.size]) != self._checksum:
            return None
        return text[self.size :]


def _checksum(text: str, before: int = 0) -> int:
    return crc32(text.encode("utf-8", "surrogatepass"), before)


class _ToolCalls:
    """The tool calls of a message, and which of them a fragment belongs to.

    That is what `index` says. Some servers leave it out, have 0 for all, or begin at 0 again with each chunk. So
    another name always begins another call, the same one does behind arguments that are complete, and another id does
    where there is no index, or with a name. An id that is known leads to its call.
    """

    def __init__(self) -> None:
        self.count = 0
        self._calls: dict[int, _CallSoFar] = {}  # by their place
        self._by_index: dict[int, _CallSoFar] = {}  # that the server gave last
        self._by_id: dict[str, _CallSoFar] = {}
        self._last: _CallSoFar | None = None
        self._without: _CallSoFar | None = None  # the last call that began without an index
        self._numbered = False
        self._highest = -1
        self._chunk = 0

    def read(self, fragments: Sequence[Any], *, whole: bool, known: int) -> list[Any]:
        """Return the fragments of a chunk with the numbers of their calls, which are the server's where it has any.

        Args:
            fragments: what `tool_calls` holds; null is left out, what is no object stays as it is.
            whole: they are those of a message, where each is a call of its own.
            known: how many of them have been read.
        """
        self._chunk += 1
        return [
            self._read(each, place if whole else index_of(each), whole) if isinstance(each, dict) else each
            for place, each in enumerate(fragments)
            if each is not None and place >= known
        ]

    def _read(self, fragment: Mapping[str, Any], index: int | None, whole: bool) -> dict[str, Any]:
        call = as_call(fragment)
        kind, tool = tool_of(call)
        id_, name, arguments = _text(call.get("id")), _text(tool.get("name")), arguments_text(tool)
        self._numbered = self._numbered or bool(index)
        known = self._by_index.get(index or 0) if whole else self._find(index, id_, name)
        if known is not None and (id_ or name or whole):
            rest = known.rest(id_, name, arguments)
            if rest is not None and (whole or self._repeats(known, index, id_, rest)):
                arguments = rest
                call = {name: call[name] for name in call if name not in known.fields}
                call[kind] = {"input" if "input" in tool else "arguments": rest}
            elif whole or self._begins_another(known, index, id_, name, arguments):
                known = None
        if known is None:
            known = self._begin(index)
        known.add(id_, name, arguments, free=kind == "custom")
        known.chunk = self._chunk
        known.fields.update(call)
        if id_ and id_ == known.id:
            self._by_id[id_] = known
        self._last = known
        return {"index": known.place, **call}

    def _find(self, index: int | None, id_: str | None, name: str | None) -> _CallSoFar | None:
        """The call that a fragment goes on with, if it begins none."""
        by_id = self._by_id.get(id_) if id_ else None
        if index is None:
            # Where others have an index, this was left out because it is 0: so do programs in Go.
            call = self._without if self._numbered and self._without else self._last
        else:
            call = self._by_index.get(index)
            if call is None and name:
                return None
        return by_id if by_id is not None and (call is None or call.id != id_) else call

    def _repeats(self, known: _CallSoFar, index: int | None, id_: str | None, rest: str) -> bool:
        """Whether a fragment that fits a call says the whole of it again."""
        sure = known.name and (id_ or (index is not None and self._numbered))
        return bool(sure and rest == "" and known.complete and known.chunk != self._chunk)

    def _begins_another(
        self, known: _CallSoFar, index: int | None, id_: str | None, name: str | None, arguments: str
    ) -> bool:
        if name and known.name and name != known.name:
            return True
        says = bool(arguments.strip())
        if index is not None and self._numbered:
            return bool(name) and says and known.complete
        other = bool(id_ and known.id and id_ != known.id)
        if other and index is None:
            return True
        if not name:  # some servers make up another id for each fragment
            return other and not known.name
        if known.begun:
            return known.complete and (says or not (known.other_ids if other else known.named_again))
        return other or (known.chunk == self._chunk and bool(known.name) and not id_)

    def _begin(self, index: int | None) -> _CallSoFar:
        if index is not None and index not in self._by_index and index not in self._calls:
            place = index
        else:
            place = self._highest + 1
        self._highest = max(self._highest, place)
        self.count += 1
        call = self._calls[place] = _CallSoFar(place, index)
        if index is None:
            self._without = call
        else:
            self._by_index[index] = call
        if len(self._calls) > _MOST_CALLS:
            self._forget(self._calls.pop(next(iter(self._calls))))
        return call

    def _forget(self, call: _CallSoFar) -> None:
        if call.index is not None and self._by_index.get(call.index) is call:
            del self._by_index[call.index]
        if call.id and self._by_id.get(call.id) is call:
            del self._by_id[call.id]


_MARKS = re.compile(r'\\(?:.|$)|["{}\[\]]', re.DOTALL)


class _CallSoFar:
    """A tool call as far as it has come. The arguments are looked at once, however many pieces they have.

    Attributes:
        place: its number.
        index: what the server called it when it began.
        chunk: the number of the one that the last fragment was in.
        fields: the names of what it holds.
        begun: some of the arguments have come.
        free: the arguments are no JSON, but free text.
        named_again: a fragment that was not the first had the name, too, and
        other_ids: another id.
    """

    def __init__(self, place: int, index: int | None) -> None:
        self.place = place
        self.index = index
        self.id: str | None = None
        self.name: str | None = None
        self.chunk = 0
        self.fields: set[str] = set()
        self.begun = self.free = self.named_again = self.other_ids = False
        self._arguments = _Told()
        self._depth = 0
        self._in_string = False
        self._cut = ""  # a backslash at the end of a piece

    @property
    def complete(self) -> bool:
        """The arguments may be all there are."""
        return self.begun and (self.free or (self._depth <= 0 and not self._in_string))

    def rest(self, id_: str | None, name: str | None, arguments: str) -> str | None:
        """What a call adds to this one's arguments, if it has the same name and says all that this one does."""
        if name != self.name or (id_ and self.id and id_ != self.id):
            return None
        return self._arguments.rest(arguments)

    def add(self, id_: str | None, name: str | None, arguments: str, *, free: bool) -> None:
        self.named_again = self.named_again or bool(name and self.name)
        self.other_ids = self.other_ids or bool(id_ and self.id and id_ != self.id)
        self.id, self.name = self.id or id_, self.name or name
        self.free = self.free or free
        self.begun = self.begun or bool(arguments.strip())
        self._arguments.add(arguments)
        text, self._cut = self._cut + arguments, ""
        for match in _MARKS.finditer(text):
            mark = match[0]
            if mark[0] == "\\":
                self._cut = "\\" if len(mark) == 1 else ""
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in "{[" else -1


def as_call(fragment: Mapping[str, Any]) -> dict[str, Any]:
    """A tool call, or a fragment of one, as OpenAI has it.

    Its name and arguments are in its `function`, or its name and input in `custom`; they are text; and so is its id.
    """
    call = {name: value for name, value in fragment.items() if name != "index"}
    kind, tool = tool_of(call)
    if not call.get(kind):  # some servers have all in one object
        tool = {name: call.pop(name) for name in ("name", "arguments", "input") if name in call}
        if kind == "function" and "input" in tool:
            tool.setdefault("arguments", tool.pop("input"))
        call |= {kind: tool} if tool else {}
    for name in ("arguments", "input"):
        if not isinstance(tool.get(name), (str, type(None))):
            call[kind] = tool = {**tool, name: _written(tool[name])}
    if isinstance(call.get("id"), int):
        call["id"] = str(call["id"])
    return call


def tool_of(call: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What is called, `"function"` or `"custom"`, and what a call or a fragment says of it."""
    kind = "custom" if call.get("custom") or call.get("type") == "custom" else "function"
    tool = call.get(kind)
    return kind, tool if isinstance(tool, dict) else {}


def arguments_text(tool: Mapping[str, Any]) -> str:
    """The arguments of a call's fragment, or the input of one to a custom tool, as a text."""
    arguments = tool.get("arguments")
    return _written(tool.get("input") if arguments is None else arguments) or ""


def calls_of(message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The tool calls of a message or a delta, those that are objects."""
    calls = message.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def index_of(item: Mapping[str, Any]) -> int | None:
    """The index of a choice or a tool call, which some servers write as a float or a str; None if it has none."""
    index = item.get("index")
    if (isinstance(index, str) and index.isdecimal() and len(index) < 20) or (
        isinstance(index, float) and index.is_integer()
    ):
        index = int(index)
    # Beyond 63 bits, readers of JSON do not agree.
    return index if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < 1 << 63 else None


def new_items(old: list[Any], new: list[Any]) -> list[Any]:
    """What a list has behind another one, if it begins like that; else all of it."""
    return new[len(old) :] if new[: len(old)] == old else new


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _written(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
