"""What nearly all chunks are written like, so that their text is all that has to be read of them. No I/O."""

from __future__ import annotations

import json
from json.decoder import scanstring  # type: ignore[attr-defined]  # which is what the standard library reads strings by
from typing import Any, NamedTuple

from .fields import is_empty
from .json_text import loads


class Template(NamedTuple):
    """What a chunk holds around its piece of text.

    Attributes:
        before: up to the text, its quotation mark included.
        behind: from behind the text's quotation mark to the end; or up to the padding, its quotation mark included.
        size: of `before`.
        last: what follows the padding: a text that says nothing, and differs in length to hide that of the piece from
            those who watch the line (OpenAI's `obfuscation`). Empty where there is none.
    """

    before: str
    behind: str
    size: int
    last: str = ""

    def ends(self, data: str, place: int) -> bool:
        """Whether a chunk with padding goes on behind its piece of text, which ends at `place`, as this says."""
        if not data.startswith(self.behind, place):
            return False
        try:
            _, place = scanstring(data, place + len(self.behind))
        except json.JSONDecodeError:
            return False
        return data[place:] == self.last


NO_TEMPLATE = Template("\r", "", 0)
"""What no chunk begins like, since a CR ends a line."""

_PIECES = ("content", "reasoning_content", "reasoning", "refusal")
_CHUNK_FIELDS = ("id", "object", "created", "model", "choices", "usage", "error")


def template(chunk: dict[str, Any], data: str) -> Template | None:
    """Make a template of a chunk that has been read; None if it says more than a piece of text.

    It is `NO_TEMPLATE` where it is not clear what to cut out.

    Args:
        chunk: what the JSON `data` says.
        data: that JSON.
    """
    field = _only_piece(chunk)
    if field is None:
        return None
    try:
        return _cut(chunk, data, field)
    except json.JSONDecodeError:
        return NO_TEMPLATE


def _only_piece(chunk: dict[str, Any]) -> str | None:
    """Return the field that a chunk's piece of text is in, None if the chunk says anything else that has an event."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        return None
    choice = choices[0]
    beside = [chunk.get("usage"), chunk.get("x_groq")]
    if not all(map(is_empty, beside + [choice[name] for name in choice if name not in ("index", "delta")])):
        return None
    said = [name for name, value in (choice.get("delta") or {}).items() if name != "role" and not is_empty(value)]
    return said[0] if len(said) == 1 and said[0] in _PIECES and isinstance(choice["delta"][said[0]], str) else None


def _cut(chunk: dict[str, Any], data: str, field: str) -> Template:
    """Cut the piece of text out of a chunk, and the padding if there is any.

    Raises:
        JSONDecodeError: they are not where they seem to be.
    """
    start, end = _place_of(field, data, data.find(f'"{field}"'))
    before, behind, last = data[:start], data[end:], ""
    padding = next(reversed(chunk))
    if padding not in _CHUNK_FIELDS and isinstance(chunk[padding], str):
        start, end = _place_of(padding, data, data.rfind(f'"{padding}"'))
        behind, last = data[len(data) - len(behind) : start], data[end:]
    # The proof: with other texts in these places, it is the same chunk with these texts.
    other = loads(f'{before}a text"{behind}padding"{last}' if last else f'{before}a text"{behind}')
    choice = chunk["choices"][0]
    expected = {**chunk, "choices": [{**choice, "delta": {**choice["delta"], field: "a text"}}]}
    if last:
        expected[padding] = "padding"
    return Template(before, behind, len(before), last) if other == expected else NO_TEMPLATE


def _place_of(field: str, data: str, place: int) -> tuple[int, int]:
    """Where the text of a field begins, behind its quotation mark, and ends, behind the other one.

    Raises:
        JSONDecodeError: it is not there.
    """
    start = data.find('"', place + len(field) + 2) + 1
    return start, scanstring(data, start)[1]


def is_plain(chunk: Any) -> bool:
    """Whether a chunk says some text of the first choice, and nothing else that has an event."""
    if type(chunk) is not dict or chunk.get("usage") is not None or chunk.get("error") is not None or "x_groq" in chunk:
        return False
    choices = chunk.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return False
    choice = choices[0]
    get = choice.get
    delta, index = get("delta"), get("index", 0)
    return (
        type(delta) is dict
        and len(delta) == 1
        and type(delta.get("content")) is str
        and delta["content"] != ""
        and type(index) is int
        and not index
        and get("finish_reason") is None
        and get("logprobs") is None
        and len(choice) == 1 + ("index" in choice) + ("finish_reason" in choice) + ("logprobs" in choice)
    )
