"""An answer as the command has it: its exit code, and the forms in which it is printed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import failures
from .printing import put

if TYPE_CHECKING:
    from .. import Completion, Usage

_FENCE = re.compile(r"([ \t]*)(`{3,}(?=[^`]*$)|~{3,})")

MISFIT_HINT = "ask again, or say in the question what is wanted"


@dataclass
class Answer:
    """What came of a question.

    Attributes:
        began: by `time.monotonic`.
        status: as in the store.
        misfit: why it does not fit the schema; "" if it does, or there is none.
        begun: something of it has come, this time.
        remedy: how it is gone on with, if it was cut.
        completion: as the library has it, if it is complete.
    """

    began: float = field(default_factory=time.monotonic)
    message: int | None = None
    conversation: str | None = None
    model: str | None = None
    text: str = ""
    reasoning: str = ""
    status: str = "failed"
    finish_reason: str | None = None
    usage: Usage | None = None
    tool_calls: Sequence[Any] = ()
    error: BaseException | None = None
    misfit: str = ""
    seconds: float = 0.0
    begun: bool = False
    remedy: str | None = None
    completion: Completion | None = None

    @property
    def code(self) -> int:
        """The exit code."""
        if self.error is not None:
            return failures.code_of(self.error, begun=self.begun)
        return failures.CUT if self.misfit else failures.COMPLETE

    @property
    def unprinted(self) -> bool:
        """Whether the output could not be written."""
        from .. import ChatAnywhereError

        return isinstance(self.error, OSError) and not isinstance(self.error, ChatAnywhereError)

    def fields(self) -> dict[str, Any]:
        """Return it as `--json` prints it."""
        error = None
        if self.error is not None:
            words = failures.words_of(self.error, begun=self.begun, remedy=self.remedy)
            error = {"type": type(self.error).__name__, "message": words.message, "hint": words.hint}
        elif self.misfit:
            error = {"type": "OutputError", "message": self.misfit, "hint": MISFIT_HINT}
        usage = self.usage
        return {
            "id": self.message,
            "conversation": self.conversation,
            "model": self.model,
            "text": self.text,
            "reasoning": self.reasoning,
            "status": self.status,
            "finish_reason": self.finish_reason,
            "usage": None if usage is None else {name: getattr(usage, name) for name in usage.__slots__},
            "error": error,
            "seconds": round(self.seconds, 3),
        }

    def print(self) -> None:
        """Print it as one line of JSON.

        Raises:
            OSError: the output can't be written.
        """
        put(json.dumps(self.fields(), ensure_ascii=False) + "\n")


def response_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return what asks a service for an answer that fits a schema."""
    from ..testing.schema import unstrict

    name = re.sub(r"[^a-zA-Z0-9_-]+", "_", str(schema.get("title") or "answer")).strip("_")[:64] or "answer"
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema, "strict": not unstrict(schema)}}


def misfit(text: str, schema: Mapping[str, Any]) -> str:
    """Return why an answer does not fit a schema, "" if it does."""
    from ..testing.schema import UNREADABLE, Validator

    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "the answer is no JSON"
    try:
        return "" if Validator(schema).fits(value, schema) else "the answer does not fit the schema"
    except (ValueError, *UNREADABLE) as error:
        return f"the schema can't be used: {error}"


def print_code(text: str) -> None:
    """Print the first block of code, or all where there is none.

    Raises:
        OSError: the output can't be written.
    """
    code = first_code(text)
    if code is None:
        failures.warn("the answer has no block of code")
    put(text if code is None else code)


def first_code(text: str) -> str | None:
    """Return the lines of the first block of code, without the indentation of a list; None if there is none."""
    fence: re.Match[str] | None = None
    code = []
    for line in re.findall(r"[^\n]*\n|[^\n]+", text):
        if fence is None:
            fence = _FENCE.match(line)
            continue
        indent = len(fence[1])
        said = line.strip()
        if said.startswith(fence[2]) and not said.strip(fence[2][0]) and len(line) - len(line.lstrip()) <= indent + 3:
            break
        code.append(line[indent:] if not line[:indent].strip() else line.lstrip())
    return None if fence is None else "".join(code)
