"""What the events of an answer come to: the text so far, and the whole answer as a value."""

from __future__ import annotations

from ._types import Completion, Event, Finished, ReasoningDelta, Started, TextDelta, ToolCall, ToolCallDelta, Usage


class Accumulator:
    """One attempt's answer, as far as its events have been given out.

    Args:
        keep_text: False for answers without end, whose text would fill the memory.
    """

    def __init__(self, *, keep_text: bool = True) -> None:
        self._keep_text = keep_text
        self._text = _GrowingText()
        self._reasoning = _GrowingText()
        self._tool_calls: dict[int, list[ToolCallDelta]] = {}
        self._started: Started | None = None
        self._finished: Finished | None = None
        self._usage: Usage | None = None

    def add(self, event: Event) -> bool:
        """Take note of an event; return whether it is a piece of the answer, which must not be given out again."""
        match event:
            case TextDelta():
                if self._keep_text:
                    self._text.append(event.text)
            case ReasoningDelta():
                if self._keep_text:
                    self._reasoning.append(event.text)
            case ToolCallDelta():
                if self._keep_text:
                    self._tool_calls.setdefault(event.index, []).append(event)
            case Started():
                self._started = event
                return False
            case Finished():
                self._finished = event
                return False
            case _:
                self._usage = event
                return False
        return True

    @property
    def text(self) -> str:
        return self._text.joined()

    @property
    def reasoning(self) -> str:
        return self._reasoning.joined()

    def completion(self, request_id: str | None) -> Completion:
        """The answer as a value."""
        return Completion(
            text=self.text,
            reasoning=self.reasoning,
            tool_calls=tuple(_tool_call(deltas) for _, deltas in sorted(self._tool_calls.items())),
            finish_reason=self._finished.reason if self._finished else None,
            usage=self._usage,
            id=self._started.id if self._started else None,
            model=self._started.model if self._started else None,
            request_id=request_id,
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
    )
