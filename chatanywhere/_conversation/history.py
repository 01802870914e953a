"""What has been said in a conversation, and its last turn. A turn begins with a user's message. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .._message import calls_of
from .._types import Completion
from .message import copied, read, size_of, text_of, with_text
from .turn import Turn, copy_of

_SYSTEM = ("system", "developer")


class History:
    """The messages of a conversation, and its last turn.

    Attributes:
        messages: the system message is the first, if there is one.
        turn: the one that was made last, complete or not; None if none was, or if it has been taken back.
    """

    def __init__(self, messages: Iterable[Mapping[str, Any]] = (), turn: Turn | None = None) -> None:
        self.messages = copied(messages)
        self.turn = turn

    def copy(self) -> History:
        """Return one that nobody else has."""
        return History(self.messages, copy_of(self.turn))

    # The system message -------------------------------------------------------------------------------------

    @property
    def system(self) -> str | None:
        """The text of the system message."""
        first = self.messages[0] if self.messages else {"role": ""}
        return text_of(first) if first["role"] in _SYSTEM else None

    def set_system(self, text: str | None) -> None:
        """Put another system message in the place of the one that there is."""
        old = 0 if self.system is None else 1
        role = self.messages[0]["role"] if old else "system"
        self.messages[:old] = [] if text is None else [{"role": role, "content": text}]
        moved = (text is not None) - old
        self.turn = self.turn and replace(self.turn, index=self.turn.index + moved)

    # Turns --------------------------------------------------------------------------------------------------

    def last_turn(self, finish_reason: str | None = None) -> Turn | None:
        """Return the turn that was made last, as far as it can be told from the messages; None if nothing was asked.

        Args:
            finish_reason: of its answer, where that is known.
        """
        if self.turn is not None:
            return self.turn
        start = self._last_question()
        if start is None:
            return None
        messages = self.messages[start:]
        if messages[-1]["role"] != "assistant":  # the answer has been dropped
            return Turn(messages, "", "failed", start, _question_size(messages))
        text = text_of(messages[-1])
        completion: Completion[Any] = Completion(text, finish_reason=finish_reason)
        return Turn(messages, text, "complete", start, completion=completion)

    def set_turn(self, turn: Turn | None) -> None:
        """Let a turn that was kept elsewhere be the last.

        Raises:
            TypeError, ValueError: it is none, or it has no place in the history.
        """
        if turn is not None:
            if not isinstance(turn, Turn):
                raise TypeError(f"turn must be a Turn, not {type(turn).__name__}")
            if not 0 <= turn.index <= len(self.messages):
                raise ValueError(f"index={turn.index}: the conversation has {len(self.messages)} messages")
            if not 0 < turn.asked <= len(turn.messages):
                raise ValueError(f"asked={turn.asked}: the turn has {len(turn.messages)} messages")
            turn = replace(turn, messages=read(turn.messages))
        self.turn = turn

    def end(self, turn: Turn) -> None:
        """Put a turn where it belongs: among the messages if it is complete, else beside them."""
        if turn.status == "complete":
            self.messages[turn.index :] = copied(turn.messages)
        self.turn = turn

    def undo(self) -> list[dict[str, Any]]:
        """Take the last turn out, and return its messages.

        Raises:
            RuntimeError: there is none.
        """
        starts = [self._last_question()]
        if self.turn is not None and self.turn.status == "complete":
            starts.append(self.turn.index)  # which may have been asked with several messages
        start = min((each for each in starts if each is not None), default=None)
        if start is None:
            raise RuntimeError("there is no turn to take back: nothing has been asked")
        taken = self.messages[start:]
        del self.messages[start:]
        self.turn = None
        return taken

    def edit(self, index: int, text: str) -> None:
        """Change the text of one message, and drop those behind it.

        Raises:
            IndexError: there is no such message.
        """
        size = len(self.messages)
        if not -size <= index < size:
            raise IndexError(f"there is no message {index}: the conversation has {size}")
        index %= size
        self.messages[index:] = [with_text(self.messages[index], text)]
        self.turn = None

    def _last_question(self) -> int | None:
        """The index of the message with which the last turn begins."""
        return max((index for index, each in enumerate(self.messages) if each["role"] == "user"), default=None)

    # What is sent -------------------------------------------------------------------------------------------

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
        size = sum(map(size_of, [*history[kept:], *new]))
        for start in range(kept - 1, system - 1, -1):
            count, size = count + 1, size + size_of(history[start])
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

    # Files --------------------------------------------------------------------------------------------------

    def record(self) -> dict[str, Any]:
        """Return what a file has of it."""
        record: dict[str, Any] = {"messages": copied(self.messages)}
        turn = self.turn
        if turn and turn.finish_reason is not None:
            record["finish_reason"] = turn.finish_reason
        if turn and turn.status != "complete":
            record["unfinished"] = {"messages": copied(turn.messages), "text": turn.text}
            if turn.index < len(self.messages):
                record["replaces"] = len(self.messages) - turn.index
        return record

    def recall(self, record: Mapping[str, Any]) -> None:
        """Take the last turn from a file, whose messages are here."""
        unfinished = record.get("unfinished")
        if unfinished:
            messages, text = unfinished["messages"], unfinished["text"]
            index = len(self.messages) - record.get("replaces", 0)
            self.turn = Turn(messages, text, "cut" if text else "failed", max(0, index), _question_size(messages))
        else:
            turn = self.last_turn(record.get("finish_reason"))
            self.turn = turn if turn and turn.status == "complete" else None


def _begins_turn(messages: Sequence[Mapping[str, Any]], index: int) -> bool:
    """Whether a message is the first of a turn, which may be asked with several."""
    return messages[index]["role"] == "user" and (index == 0 or messages[index - 1]["role"] != "user")


def _question_size(messages: Sequence[Mapping[str, Any]]) -> int:
    """How many messages are the question of a turn that was not completed: the others are rounds of tools."""
    return next((index for index, each in enumerate(messages) if index and calls_of(each)), len(messages))
