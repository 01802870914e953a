"""The chunks of an answer as one object, in the shape of the one that is not streamed. Knows JSON's values only."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any

from ._message import MessageSoFar, index_of, new_items

_NAMES = frozenset(("role", "id", "type", "name", "object", "model", "format"))
"""Fields that are not said in pieces, but again and again: the first that is not empty stays."""


def merge(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the chunks of a stream together.

    The strings of a delta are joined, save for names; lists are merged by the `index` of their items, else appended;
    of what is said outside a delta, the last that is not empty stays; null is left out. What is said again is there
    once. A field that nobody knows is kept.
    """
    merging = _Merging()
    answer: dict[str, Any] = {}
    choices: dict[int, _MergedChoice] = {}
    for chunk in chunks:
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict):
                index = index_of(choice) or 0
                if index not in choices:
                    choices[index] = _MergedChoice(index, merging)
                choices[index].add(choice)
        merging.add(answer, {name: chunk[name] for name in chunk if name != "choices"}, again=True)
    answer["choices"] = [choice.merged() for _, choice in sorted(choices.items())]
    merging.join()
    answer["object"] = "chat.completion"
    return answer


def merge_pieces(pieces: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put the pieces of one object of a delta together."""
    merging = _Merging()
    whole: dict[str, Any] = {}
    for piece in pieces:
        merging.add(whole, piece, joined=True)
    merging.join()
    return whole


def without_halves(text: str) -> str:
    """Join the halves of characters, each of which came as an escape of its own; one without the other is U+FFFD."""
    if text.isascii() or not _HALF.search(text):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


_HALF = re.compile("[\ud800-\udfff]")


class _MergedChoice:
    """One choice of a merged answer."""

    def __init__(self, index: int, merging: _Merging) -> None:
        self._choice: dict[str, Any] = {"index": index}
        self._message: dict[str, Any] = {}
        self._so_far = MessageSoFar()
        self._merging = merging

    def add(self, choice: Mapping[str, Any]) -> None:
        self._merging.add(self._choice, {name: choice[name] for name in choice if name not in _SPECIAL})
        for name in ("delta", "message"):
            body = choice.get(name)
            if body and isinstance(body, dict):
                news = self._so_far.news(body, whole=name == "message", last=bool(choice.get("finish_reason")))
                self._merging.add(self._message, news, joined=True)

    def merged(self) -> dict[str, Any]:
        if self._so_far.calls.count:
            calls = sorted(self._message["tool_calls"], key=lambda call: call.pop("index"))
            self._message["tool_calls"] = calls
        return {"index": self._choice.pop("index"), "message": self._message, **self._choice}


_SPECIAL = ("index", "delta", "message")


class _Merging:
    """Merges values into others, of which it makes copies.

    Nothing is joined before the end, and no nesting is a call within a call: time stays linear, and deep JSON harmless.
    """

    def __init__(self) -> None:
        # Each by the id of the dict or list that is written first in the value, and that lives on there.
        self._texts: dict[tuple[int, str], tuple[dict[str, Any], list[str]]] = {}  # and the key
        self._items: dict[int, tuple[list[Any], dict[int, dict[str, Any]]]] = {}  # those with an index
        self._last: dict[tuple[int, str], tuple[dict[str, Any], list[Any]]] = {}  # and the key: as it was said last

    def add(
        self, target: dict[str, Any], source: Mapping[str, Any], *, joined: bool = False, again: bool = False
    ) -> None:
        """Merge `source` into `target`.

        Args:
            target: what is known.
            source: what is new.
            joined: its strings are pieces.
            again: its lists may be said again, whole or as far as they have come.
        """
        pending = deque([(target, source)])
        while pending:
            known, new = pending.popleft()
            for name, value in new.items():
                if isinstance(value, list):
                    self._put_list(known, name, value, again, pending)
                elif value is not None:
                    self._put(known, name, value, joined, pending)

    def _put(self, known: dict[str, Any], name: str, value: Any, joined: bool, pending: deque[Any]) -> None:
        old = known.get(name)
        if isinstance(value, dict):
            if not isinstance(old, dict):
                self._texts.pop((id(known), name), None)
                old = known[name] = {}
            pending.append((old, value))
        elif value == "":
            known.setdefault(name, value)
        elif name in _NAMES:
            known[name] = old or value
        elif joined and isinstance(value, str) and isinstance(old, str):
            self._texts.setdefault((id(known), name), (known, [old]))[1].append(value)
            known[name] = old or value
        elif joined and isinstance(value, str) and isinstance(old, list):
            old.append({"type": "text", "text": value})
        elif joined and isinstance(value, str):
            known[name] = value
            if not value.isascii():
                self._texts[id(known), name] = (known, [value])  # it may end with half a character
        else:
            self._texts.pop((id(known), name), None)
            known[name] = value

    def _put_list(self, known: dict[str, Any], name: str, new: list[Any], again: bool, pending: deque[Any]) -> None:
        old = known.get(name)
        if isinstance(old, str) and old:  # of content, some is a text and some in parts
            old = known[name] = [{"type": "text", "text": self._text_of(known, name)}]
        elif not isinstance(old, list):
            self._texts.pop((id(known), name), None)
            self._last.pop((id(known), name), None)
            old = known[name] = []
        if again:
            _, last = self._last.get((id(known), name), (known, []))
            self._last[id(known), name] = (known, new)
            new = new_items(last, new)
        for item in new:
            if not isinstance(item, dict):
                old.append(item)
                continue
            index: Any = item.get("index")
            _, places = self._items.setdefault(id(old), (old, {})) if isinstance(index, int) else (old, {})
            if index not in places:
                places[index] = {}
                old.append(places[index])
            pending.append((places[index], item))

    def _text_of(self, known: dict[str, Any], name: str) -> str:
        _, pieces = self._texts.pop((id(known), name), (known, [known[name]]))
        return "".join(pieces)

    def join(self) -> None:
        """Put the strings together that came in pieces."""
        for (_, name), (known, pieces) in self._texts.items():
            known[name] = without_halves("".join(pieces))
