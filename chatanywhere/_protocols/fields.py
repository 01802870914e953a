"""Fields of a chunk, in all the shapes in which servers write them."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from .._errors import ProtocolError
from .._types import Usage
from .excerpt import excerpt

_SHOWN = 40  # characters of a number


def read_usage(counts: dict[str, Any]) -> Usage | None:
    """Read what an answer cost; None if it is told in another shape."""
    prompt, completion, total = map(read_count, map(counts.get, ("prompt_tokens", "completion_tokens", "total_tokens")))
    if prompt is None and completion is None and total is None:
        return None
    if total is None:
        total = (prompt or 0) + (completion or 0)
    elif prompt is None:
        prompt = max(0, total - completion) if completion is not None else None
    elif completion is None:
        completion = max(0, total - prompt)
    cached = (_detail(counts, "prompt_tokens_details", "cached_tokens"), counts.get("prompt_cache_hit_tokens"))
    thought = _detail(counts, "completion_tokens_details", "reasoning_tokens")
    return Usage(
        prompt or 0,
        completion or 0,
        total,
        next(filter(None, map(read_count, cached)), 0),
        read_count(thought) or 0,
    )


def _detail(counts: dict[str, Any], group: str, name: str) -> Any:
    details = counts.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return counts.get(name) if value is None else value


def read_count(value: Any) -> int | None:
    """Read a count, which some servers write as a float or a str; None if it is none."""
    if isinstance(value, str):
        match = _COUNT.fullmatch(value)
        value = int(match[1]) if match else None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if is_count(value) else None


_COUNT = re.compile(r"\s*([0-9]{1,19})(?:\.0*)?\s*")


def is_count(value: Any) -> bool:
    # Beyond 63 bits, readers of JSON do not agree.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def text_of(value: Any) -> str | None:
    """The text of a piece: itself, what is said in a part, or in those of a list; None if there is no telling."""
    if isinstance(value, dict):
        name = next((name for name in TEXT_FIELDS if name in value), None)
        return None if name is None else text_of(value[name])
    if isinstance(value, list):
        texts = [text for text in map(text_of, value) if text is not None]
        return "".join(texts) if texts or not value else None
    return "" if value is None else value if isinstance(value, str) else None


TEXT_FIELDS = ("text", "thinking", "reasoning", "refusal", "summary", "content", "value")
"""The fields of a part that may hold its text."""


def is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def read_name(value: Any) -> str | None:
    """Read a name, which some servers write as a number; None if there is none."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else text_or_none(value)


def refuse(where: str, value: Any, wanted: str) -> NoReturn:
    if isinstance(value, (list, dict)):
        shown = "a list" if isinstance(value, list) else "an object"
    else:
        shown = excerpt(value) if isinstance(value, str) else json.dumps(value)[:_SHOWN]
    raise ProtocolError(f"not a chat completion chunk: {where} is {shown}, not {wanted}")
