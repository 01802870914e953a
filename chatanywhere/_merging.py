"""The chunks of an answer as one object, in the shape of the one that is not streamed. Knows JSON's values only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

_NAMES = frozenset(("role", "id", "type", "name", "object", "model", "format"))
"""Fields that are not said in pieces, but again and again: the first that is not empty stays."""


def merge(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the chunks of a stream together.

    The strings of a delta are joined, save for names; lists are merged by the `index` of their items, else appended;
    of what is said outside a delta, the last stays; null is left out. A field that nobody knows is kept.
    """
    merging = _Merging()
    answer: dict[str, Any] = {}
    choices: dict[int, _MergedChoice] = {}
    for chunk in chunks:
        for choice in chunk.get("choices") or ():
            index = choice.get("index") or 0
            if index not in choices:
                choices[index] = _MergedChoice(index, merging)
            choices[index].add(choice)
        rest = {name: value for name, value in chunk.items() if name != "choices"}
        for name, value in chunk.items():
            if isinstance(value, list) and answer.get(name) == value:
                del rest[name]  # some lists, such as that of the sources, are said whole in every chunk
        merging.add(answer, rest)
    answer["choices"] = [choice.merged() for _, choice in sorted(choices.items())]
    merging.join()
    answer["object"] = "chat.completion"
    return answer


def without_halves(text: str) -> str:
    """Join the halves of characters, each of which came as an escape of its own; one without the other is U+FFFD."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_HALF = re.compile("[\ud800-\udfff]")


class ToolCallPlaces:
    """Which call each fragment of one choice's tool calls belongs to.

    That is what `index` says. Some servers leave it out, or have 0 for all: then a new id begins a new call, and so
    does a name behind arguments that are complete, or behind another call in the same chunk.
    """

    def __init__(self) -> None:
        self._calls: dict[int, _CallSoFar] = {}
        self._places: dict[int | None, int] = {}  # by the server's index
        self._numbered = False

    def place(self, fragment: Mapping[str, Any], *, first: bool) -> int:
        """Return the call's number, that of the server where it has one.

        Args:
            fragment: an item of `tool_calls`.
            first: it is the first in its chunk.
        """
        index = fragment.get("index")
        self._numbered = self._numbered or bool(index)
        function = fragment.get("function") or fragment.get("custom") or {}
        id_, name = fragment.get("id") or None, function.get("name") or None
        place = self._places.get(index)
        if place is None or self._begins_another(self._calls[place], index, id_, name, first):
            place = index if index is not None and index not in self._calls else max(self._calls, default=-1) + 1
            self._calls[place] = _CallSoFar()
            self._places[index] = self._places[None] = place
        self._calls[place].add(id_, name, arguments_text(function))
        return place

    def _begins_another(self, call: _CallSoFar, index: int | None, id_: Any, name: Any, first: bool) -> bool:
        if index is not None and self._numbered:
            return False
        if id_ and call.id:
            # Some servers make up another id for each fragment of a call, but then they number their calls.
            return bool(id_ != call.id and (index is None or name))
        return bool(name and call.name and (call.complete or not first))


def arguments_text(function: Mapping[str, Any]) -> str:
    """The arguments of a call's fragment, or the input of one to a custom tool, as a text."""
    arguments = function.get("arguments")
    if arguments is None:
        arguments = function.get("input")
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


_MARKS = re.compile(r'\\(?:.|$)|["{}\[\]]', re.DOTALL)


class _CallSoFar:
    """A tool call as far as it has come. The arguments are looked at once, however many pieces they have."""

    def __init__(self) -> None:
        self.id: Any = None
        self.name: Any = None
        self.complete = False  # the arguments are a whole object
        self._depth = 0
        self._in_string = False
        self._cut = ""  # a backslash at the end of a piece

    def add(self, id_: Any, name: Any, arguments: str) -> None:
        self.id, self.name = self.id or id_, self.name or name
        text, self._cut = self._cut + arguments, ""
        for match in _MARKS.finditer(text):
            mark = match[0]
            if mark[0] == "\\":
                self._cut = "\\" if len(mark) == 1 else ""
            elif mark == '"':
                self._in_string = not self._in_string
            elif not self._in_string:
                self._depth += 1 if mark in "{[" else -1
                self.complete = self._depth == 0


class _MergedChoice:
    """One choice of a merged answer."""

    def __init__(self, index: int, merging: _Merging) -> None:
        self._choice: dict[str, Any] = {"index": index}
        self._message: dict[str, Any] = {}
        self._calls: dict[int, dict[str, Any]] = {}
        self._places = ToolCallPlaces()
        self._said: set[str] = set()  # the fields that came in deltas
        self._merging = merging

    def add(self, choice: Mapping[str, Any]) -> None:
        self._merging.add(self._choice, {name: choice[name] for name in choice if name not in _SPECIAL})
        delta, message = choice.get("delta") or {}, choice.get("message") or {}
        self._add(delta)
        self._said |= {name for name, value in delta.items() if value}
        # Some servers say the whole message again in the end.
        self._add({name: value for name, value in message.items() if name not in self._said}, whole=True)

    def _add(self, delta: Mapping[str, Any], whole: bool = False) -> None:
        self._merging.add(self._message, {name: delta[name] for name in delta if name != "tool_calls"}, joined=True)
        for position, call in enumerate(delta.get("tool_calls") or ()):
            fragment = {"index": position, **call} if whole else call
            place = self._places.place(fragment, first=not position)
            call = {name: value for name, value in call.items() if name != "index"}
            function = call.get("function")
            if function and not isinstance(function.get("arguments", ""), (str, type(None))):
                call["function"] = {**function, "arguments": arguments_text(function)}
            self._merging.add(self._calls.setdefault(place, {}), call, joined=True)

    def merged(self) -> dict[str, Any]:
        if self._calls:
            self._message["tool_calls"] = [call for _, call in sorted(self._calls.items())]
        return {"index": self._choice.pop("index"), "message": self._message, **self._choice}


_SPECIAL = ("index", "delta", "message")


class _Merging:
    """Merges values into others, of which it makes copies.

    Nothing is joined before the end, and no nesting is a call within a call: time stays linear, and deep JSON harmless.
    """

    def __init__(self) -> None:
        self._texts: dict[tuple[int, str], tuple[dict[str, Any], list[str]]] = {}  # by the id of the dict, and the key
        self._items: dict[int, dict[int, dict[str, Any]]] = {}  # by the id of the list, and the item's index

    def add(self, target: dict[str, Any], source: Mapping[str, Any], *, joined: bool = False) -> None:
        """Merge `source` into `target`; `joined` says that the strings of `source` are pieces."""
        pending = [(target, source)]
        while pending:
            known, new = pending.pop()
            for name, value in new.items():
                if value is not None:
                    self._put(known, name, value, joined, pending)

    def _put(self, known: dict[str, Any], name: str, value: Any, joined: bool, pending: list[Any]) -> None:
        old = known.get(name)
        if isinstance(value, dict):
            if not isinstance(old, dict):
                self._texts.pop((id(known), name), None)
                old = known[name] = {}
            pending.append((old, value))
        elif isinstance(value, list):
            if isinstance(old, str) and old:  # of content, some is a text and some in parts
                old = known[name] = [{"type": "text", "text": self._text_of(known, name)}]
            elif not isinstance(old, list):
                self._texts.pop((id(known), name), None)
                old = known[name] = []
            self._extend(old, value, pending)
        elif name in _NAMES:
            known[name] = old or value
        elif joined and isinstance(value, str) and isinstance(old, str):
            self._texts.setdefault((id(known), name), (known, [old]))[1].append(value)
            known[name] = old or value
        elif joined and isinstance(value, str) and isinstance(old, list):
            if value:
                old.append({"type": "text", "text": value})
        elif joined and isinstance(value, str):
            known[name] = value
            if not value.isascii():
                self._texts[id(known), name] = (known, [value])  # it may end with half a character
        else:
            self._texts.pop((id(known), name), None)
            known[name] = value

    def _extend(self, known: list[Any], new: list[Any], pending: list[Any]) -> None:
        for item in new:
            if not isinstance(item, dict):
                known.append(item)
                continue
            index = item.get("index")
            places = self._items.setdefault(id(known), {})
            target = places.get(index) if isinstance(index, int) else None
            if target is None:
                target = {}
                known.append(target)
                if isinstance(index, int):
                    places[index] = target
            pending.append((target, item))

    def _text_of(self, known: dict[str, Any], name: str) -> str:
        _, pieces = self._texts.pop((id(known), name), (known, [known[name]]))
        return "".join(pieces)

    def join(self) -> None:
        """Put the strings together that came in pieces."""
        for (_, name), (known, pieces) in self._texts.items():
            known[name] = without_halves("".join(pieces))
