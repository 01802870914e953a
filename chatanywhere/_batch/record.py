"""Answers and errors as JSON, as the journal keeps them, and back. No I/O."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from .. import _errors
from .._errors import APIStatusError, APITimeoutError, ChatAnywhereError, OutputError
from .._types import Choice, Completion, ToolCall, Usage

_SAID = ("code", "message", "status_code", "hint", "retry_after", "phase", "reason")
_ALWAYS = ("partial", "request_id", "attempts")
"""What errors have besides their words; bodies and headers are left out."""

_BETWEEN = "\x1e"
"""What RFC 7464 puts between JSON texts, for it can't be within one."""


def dumped(completion: Completion) -> str:
    """Write an answer.

    Its chunks are kept as they came, for putting them together takes ten times as long as compressing them.
    """
    told = {name: value for name, value in vars(completion).items() if name[0] != "_" and value not in (None, "", ())}
    told.pop("parsed", None)
    if len(completion.choices) == 1:
        logprobs = told.pop("choices")[0].logprobs
        if logprobs:
            told["choices"] = [{"logprobs": logprobs}]
    if completion._chunks:
        chunks = _BETWEEN.join(completion._chunks).encode("utf-8", "surrogatepass")
        # What chunks repeat is near: 16 KB of memory do as well as 256, and are made sooner.
        small = zlib.compressobj(1, zlib.DEFLATED, 12, 5)
        told["chunks"] = base64.b64encode(small.compress(chunks) + small.flush()).decode()
    return json.dumps(told, separators=(",", ":"), default=_fields)


def _fields(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    return {each.name: getattr(value, each.name) for each in fields(value)}


def loaded(written: str) -> Completion:
    """Read what `dumped` has written.

    Raises:
        ValueError: it is something else.
    """
    try:
        told = json.loads(written)
        chunks = told.pop("chunks", None)
        if chunks is not None:
            text = zlib.decompress(base64.b64decode(chunks)).decode("utf-8", "surrogatepass")
            told["_chunks"] = tuple(text.split(_BETWEEN))
        told["tool_calls"] = _calls(told)
        if told.get("usage") is not None:
            told["usage"] = Usage(**told["usage"])
        told.setdefault("text", "")
        choices = told.pop("choices", [])
        if len(choices) > 1:
            told["choices"] = tuple(Choice(**{**each, "tool_calls": _calls(each)}) for each in choices)
        elif choices:  # the completion says all else
            said = {name: told[name] for name in ("text", "reasoning", "refusal", "finish_reason") if name in told}
            told["choices"] = (Choice(0, **said, tool_calls=told["tool_calls"], **choices[0]),)
        return Completion(**told)
    except (AttributeError, KeyError, TypeError, zlib.error) as exc:
        raise ValueError(f"the journal has no answer there: {written:.80}") from exc


def _calls(told: dict[str, Any]) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(**call) for call in told.get("tool_calls", ()))


def dumped_error(error: Exception) -> str:
    """Write an error."""
    told: dict[str, Any] = {"type": type(error).__name__, "words": str(error)}
    if isinstance(error, ChatAnywhereError):
        told["words"] = str(error.args[0]) if error.args else ""
        told |= {name: getattr(error, name) for name in _ALWAYS}
        told |= {name: getattr(error, name) for name in _SAID if hasattr(error, name)}
    if isinstance(error, OutputError):
        told["completion"] = dumped(error.completion)
        del told["partial"]
    return json.dumps(told, separators=(",", ":"))


def loaded_error(text: str) -> ChatAnywhereError:
    """Read what `dumped_error` has written. An error that was none of this package's is a `ChatAnywhereError`.

    Raises:
        ValueError: it is something else.
    """
    try:
        told = json.loads(text)
        name, words = told.pop("type"), told.pop("words")
        kind = getattr(_errors, name, None)
        if not (isinstance(kind, type) and issubclass(kind, ChatAnywhereError)):
            return ChatAnywhereError(f"{name}: {words}")
        if issubclass(kind, OutputError):
            error: ChatAnywhereError = kind(words, told.pop("reason"), loaded(told.pop("completion")))
        elif issubclass(kind, APITimeoutError):
            error = kind(words, told.pop("phase"))
        elif issubclass(kind, APIStatusError):
            error = kind(words, status_code=told.pop("status_code"))
        else:
            error = kind(words)
        for attribute in (*_SAID, *_ALWAYS):
            if attribute in told:
                setattr(error, attribute, told[attribute])
        return error
    except (AttributeError, KeyError, TypeError) as exc:
        raise ValueError(f"the journal has no error there: {text:.80}") from exc
