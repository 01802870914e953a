"""What the events of an answer come to: the text so far, and the whole answer as a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._merging import merge, merge_pieces
from ._types import (
    Choice,
    Completion,
    Event,
    Extra,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)


class Accumulator:
    """One attempt's answer, as far as its events have been given out.

    Args:
        keep_text: False for answers without end, whose text would fill the memory.
    """

    def __init__(self, *, keep_text: bool = True) -> None:
        self._keep_text = keep_text
        self._first = _ChoiceSoFar()
        self._choices = {0: self._first}
        self._started = Started(None, None)
        self._usage: Usage | None = None

    def add(self, event: Event) -> bool:
        """Take note of an event; return whether it is a piece of the answer, which must not be given out again."""
        match event:
            case TextDelta():
                if self._keep_text:
                    (self._choice(event.index) if event.index else self._first).text.append(event.text)
            case ReasoningDelta():
                if self._keep_text:
                    self._choice(event.index).reasoning.append(event.text)
            case RefusalDelta():
                if self._keep_text:
                    self._choice(event.index).refusal.append(event.text)
            case ToolCallDelta():
                if self._keep_text:
                    self._choice(event.choice).tool_calls.setdefault(event.index, []).append(event)
            case Extra():
                if self._keep_text and "logprobs" in event.fields:
                    self._choice(event.index).logprobs.append(event.fields["logprobs"])
            case Started():
                old = self._started
                self._started = Started(
                    old.id or event.id, old.model or event.model, old.created if old.created else event.created
                )
                return False
            case Finished():
                self._choice(event.index).finish_reason = event.reason
                return False
            case _:
                self._usage = event
                return False
        return True

    def _choice(self, index: int) -> _ChoiceSoFar:
        choice = self._choices.get(index)
        if choice is None:
            choice = self._choices[index] = _ChoiceSoFar()
        return choice

    @property
    def text(self) -> str:
        return self._first.text.joined()

    @property
    def reasoning(self) -> str:
        return self._first.reasoning.joined()

    def completion(self, request_id: str | None, chunks: Sequence[str] = (), model: str | None = None) -> Completion:
        """The answer as a value.

        Args:
            request_id: from its headers.
            chunks: the JSON of the objects that it consists of.
            model: that was asked, in case that the service does not say which one answered.
        """
        choices = tuple(choice.value(index) for index, choice in sorted(self._choices.copy().items()))
        first = choices[0]
        return Completion(
            text=first.text,
            reasoning=first.reasoning,
            tool_calls=first.tool_calls,
            finish_reason=first.finish_reason,
            usage=self._usage,
            id=self._started.id,
            model=self._started.model or model,
            request_id=request_id,
            refusal=first.refusal,
            created=self._started.created,
            choices=choices,
            _chunks=tuple(chunks),
        )


class _ChoiceSoFar:
    """One of the answers, as far as it has come."""

    def __init__(self) -> None:
        self.text = _GrowingText()
        self.reasoning = _GrowingText()
        self.refusal = _GrowingText()
        self.tool_calls: dict[int, list[ToolCallDelta]] = {}
        self.finish_reason: str | None = None
        self.logprobs: list[Any] = []

    def value(self, index: int) -> Choice:
        return Choice(
            index,
            self.text.joined(),
            self.reasoning.joined(),
            self.refusal.joined(),
            tuple(_tool_call(deltas) for _, deltas in sorted(self.tool_calls.items())),
            self.finish_reason,
            _logprobs(self.logprobs),
        )


class _GrowingText:
    """Text that grows. Another thread may ask for it at any moment, so nothing is ever taken away."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self.append = self._pieces.append
        self._known = (0, "")  # how many pieces have been joined, and to what

    def joined(self) -> str:
        count, text = self._known
        new = self._pieces[count:]
        if new:
            text += "".join(new)
            self._known = (count + len(new), text)
        return text


def _tool_call(deltas: list[ToolCallDelta]) -> ToolCall:
    return ToolCall(
        id=next((delta.id for delta in deltas if delta.id), None),
        name=next((delta.name for delta in deltas if delta.name), None),
        arguments="".join(delta.arguments for delta in deltas),
        type=next((delta.type for delta in deltas if delta.type != "function"), "function"),
        extra=merge_pieces(delta.extra for delta in deltas),
    )


def _logprobs(pieces: list[Any]) -> Mapping[str, Any] | None:
    """Put the log probabilities of the pieces together."""
    if not pieces:
        return None
    whole = merge({"choices": [{"logprobs": piece}]} for piece in pieces)
    logprobs: Any = whole["choices"][0]["logprobs"]
    return logprobs if isinstance(logprobs, dict) else None
