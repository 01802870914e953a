"""A conversation as it is kept: the messages of the store that lead to its last one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from .._store import AnswerInStore, Store, StoredMessage, StoreError, history_path, text_of
from .failures import UsageError, warn

Written = TypeVar("Written")


class Branch:
    """A conversation in the store; where nothing can be written, it goes on in memory, and a warning is printed.

    Args:
        stored: for later, too.
        goes_on: with one that was stored before:
        beginning: of its id; None for the last one.

    Attributes:
        path: its messages, oldest first; behind the last complete turn there may be one that is not.
        stored: whether it is.

    Raises:
        UsageError: there is no such conversation.
    """

    def __init__(self, *, stored: bool = True, goes_on: bool = False, beginning: str | None = None) -> None:
        self.path: list[StoredMessage] = []
        self._id: str | None = None
        self._head: int | None = None
        self._asked: dict[str, Any] = {}  # the record of what is answered now
        self._store, found = _open_store(stored)
        self.stored = self._store.path is not None
        try:
            if goes_on:
                self._take_up(found, beginning)
        except BaseException:
            self.close()
            raise
        finally:
            if found is not self._store:
                found.close()

    def _take_up(self, found: Store, beginning: str | None) -> None:
        try:
            conversation = found.last() if beginning is None else found.find(beginning)
            if conversation is None:
                raise UsageError("there is no conversation to go on with", "leave out -c, or --resume, to begin one")
            self.path = found.messages(conversation.last)
        except ValueError as error:
            raise UsageError(str(error), "`chatanywhere history` lists what there is") from error
        except StoreError as error:
            raise UsageError(str(error), "begin another one, whose questions are answered all the same") from error
        self._id, self._head = conversation.id, conversation.head
        if found is not self._store:
            self._copy_to_memory()

    def close(self) -> None:
        """Close the database."""
        with contextlib.suppress(StoreError):
            self._store.close()

    def _leave_disk(self) -> None:
        """Store what follows in memory."""
        self.close()
        self._store, self.stored = Store(), False

    def _copy_to_memory(self) -> None:
        """Go on in a store in memory."""
        self._leave_disk()
        if self._id is None:
            return
        path, head = self.path, self._head
        self._id = self._store.begin(text_of(path[0].message["content"]) if path else "")
        before: int | None = None
        for each in path:
            new = self._store.add(self._id, [each.message], after=before)
            assert new is not None
            self._store.update(new, status=each.status, finish_reason=each.finish_reason)
            before = new
            if each.id == head:
                self._head = new
        self.path = self._store.messages(before)

    # What is there ------------------------------------------------------------------------------------------

    def history(self) -> list[dict[str, Any]]:
        """Return the messages of complete turns."""
        return [each.message for each in self.path[: _size(self.path, self._head)]]

    def model(self) -> str | None:
        """Return the model that was asked for last, None if none was."""
        return _model(self.path)

    def questions(self) -> list[str]:
        """Return what was asked, oldest first."""
        return [each.text for each in self.path if each.role == "user"]

    def questions_before(self) -> list[str]:
        """Return what was asked in all conversations, newest first."""
        try:
            return self._store.questions()
        except StoreError:
            return []

    def told(self) -> str | None:
        """Return what the model was told first."""
        return next((text_of(each["content"]) for each in reversed(self.history()) if each["role"] == "system"), None)

    def cut(self) -> StoredMessage:
        """Return the last answer, which was cut, or has come to its largest length.

        Raises:
            UsageError: it is whole.
        """
        last = self.path[-1] if self.path else None
        if last is None or last.role != "assistant" or (last.status == "complete" and last.finish_reason != "length"):
            raise UsageError("the last answer was not cut", "ask something, or ask again")
        return last

    def unfinished(self, text: str = "") -> dict[str, Any]:
        """Return the record of the conversation with its last question, and so much of an answer to it.

        Raises:
            UsageError: nothing was asked yet.
        """
        place = self._last_question()
        before = [each.message for each in self.path[:place]]
        return _record_of_turn(before, [self.path[place].message], text)

    def record(self) -> dict[str, Any]:
        """Return the conversation as `Conversation.save` writes it."""
        return record_of(self.path, self._head)

    def _last_question(self) -> int:
        places = [place for place, each in enumerate(self.path) if each.role == "user"]
        if not places:
            raise UsageError("nothing was asked yet", "type a question")
        return places[-1]

    # Where it goes on ---------------------------------------------------------------------------------------

    def begin_anew(self) -> None:
        """Begin another conversation with the next question."""
        self._id, self.path, self._head = None, [], None

    def take(self, record: Mapping[str, Any]) -> None:
        """Begin another conversation, with what a file, or this process, has of one; see `record`."""
        self.begin_anew()
        messages, unfinished = record["messages"], record.get("unfinished") or {"messages": []}
        questions = [each for each in [*messages, *unfinished["messages"]] if each["role"] == "user"]
        if not questions:
            return

        def write() -> None:
            new = self._store.begin(text_of(questions[0]["content"]))
            head = last = self._store.add(new, messages, after=None)
            self._store.go_back(new, head)
            if head is not None and record.get("finish_reason"):
                self._store.update(head, finish_reason=record["finish_reason"])
            if unfinished["messages"]:
                last = self._store.add(new, unfinished["messages"], after=head)
                kept = self._store.answer(new, after=last)
                kept.finish("cut" if unfinished["text"] else "failed", content=unfinished["text"])
                last = kept.id
            self._id, self._head, self.path = new, head, self._store.messages(last)

        self._written(write)

    def undo(self) -> str:
        """Go back behind the last question, and return it.

        Raises:
            UsageError: nothing was asked yet.
        """
        place = self._last_question()
        question = self.path[place]
        while place and self.path[place - 1].role == "system":
            place -= 1  # which was told with it

        def write() -> None:
            head = self.path[place - 1].id if place else None
            self._store.go_back(str(self._id), head)
            self._head, self.path = head, self.path[:place]

        self._written(write)
        return question.text

    # An answer ----------------------------------------------------------------------------------------------

    def ask(
        self, told: Sequence[Mapping[str, Any]], question: Sequence[Mapping[str, Any]], **asked: Any
    ) -> AnswerInStore:
        """Store a question behind the complete turns, and begin the answer.

        Args:
            told: a system message, if there is another one from here on.
            question: its messages.
            asked: what `Store.answer` takes.
        """
        self._asked = _record_of_turn([*self.history(), *told], question, "")

        def write() -> AnswerInStore:
            if self._id is None:
                self._id = self._store.begin(text_of(question[-1]["content"]) or "(picture)")
            last = self._store.add(self._id, [*told, *question], after=self._head)
            return self._store.answer(self._id, after=last, **asked)

        return self._written(write)

    def ask_again(self, **asked: Any) -> AnswerInStore:
        """Begin another answer to the last question."""
        self._asked = self.unfinished()
        place = self._last_question()
        return self._written(lambda: self._store.answer(str(self._id), after=self.path[place].id, **asked))

    def reopen(self) -> AnswerInStore:
        """Go on with the last answer."""
        self._asked = self.unfinished(self.path[-1].text)
        return self._written(lambda: self._store.reopen(str(self._id), self.path[-1].id))

    def _written(self, write: Callable[[], Written]) -> Written:
        """Write, in memory if it can't be done on disk."""
        try:
            return write()
        except StoreError as error:
            warn(f"{error}; nothing is stored from here on")
            self._copy_to_memory()
            return write()

    def keep(self, kept: AnswerInStore, status: str, text: str, *, finish_reason: str | None, **columns: Any) -> None:
        """Store how an answer has ended.

        Args:
            kept: what was begun.
            status: of it.
            text: of it.
            finish_reason: of it.
            columns: what else `AnswerInStore.finish` takes.
        """
        if status != "complete" and kept.id == self._head:  # more was wanted of what had come to its largest length
            status, finish_reason = "complete", "length"
        try:
            kept.finish(status, content=text, finish_reason=finish_reason, **columns)
            conversation = self._store.find(kept.conversation)
            self._head, self.path = conversation.head, self._store.messages(conversation.last)
        except (StoreError, ValueError) as error:  # a ValueError where the conversation was removed meanwhile
            warn(f"{error}; nothing is stored from here on")
            self._leave_disk()
            question = self._asked["unfinished"]["messages"]
            if status == "complete":
                answer = {"role": "assistant", "content": text}
                messages = [*self._asked["messages"], *question, answer]
                self.take({"messages": messages, "finish_reason": finish_reason})
            else:
                self.take({**self._asked, "unfinished": {"messages": question, "text": text}})


def _open_store(stored: bool) -> tuple[Store, Store]:
    """Return the store to write to, and the one in which earlier conversations are found.

    They are one, unless nothing can be written, of which a warning is printed; or nothing is to be.
    """
    path = None
    try:
        path = history_path()
        if path is not None and stored:
            store = Store(path)
            return store, store
    except StoreError as error:
        warn(f"{error}; nothing is stored")
    store = Store()
    try:
        return store, Store(path, writing=False) if path is not None and path.exists() else store
    except (OSError, StoreError):
        return store, store


def effective(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as they are sent: what the model is told first comes first, as it was told last."""
    system = [dict(each) for each in messages if each["role"] == "system"]
    return [*system[-1:], *(dict(each) for each in messages if each["role"] != "system")]


def _record_of_turn(
    before: Sequence[Mapping[str, Any]], question: Sequence[Mapping[str, Any]], text: str
) -> dict[str, Any]:
    return {"messages": effective(before), "unfinished": {"messages": list(question), "text": text}}


def record_of(path: Sequence[StoredMessage], head: int | None) -> dict[str, Any]:
    """Return messages as `Conversation.save` writes them.

    Args:
        path: the messages, oldest first.
        head: the id of the last one of the last complete turn; what follows is unfinished.
    """
    size = _size(path, head)
    model = _model(path)
    record: dict[str, Any] = {} if model is None else {"model": model}
    if size and path[size - 1].finish_reason:
        record["finish_reason"] = path[size - 1].finish_reason
    asked = [each.message for each in path[size:] if each.role != "assistant"]
    told = [each for each in asked if each["role"] == "system"]
    record["messages"] = effective([*(each.message for each in path[:size]), *told])
    if size < len(path):
        text = path[-1].text if path[-1].role == "assistant" else ""
        questions = [each for each in asked if each["role"] != "system"]
        record["unfinished"] = {"messages": questions, "text": text}
    return record


def _size(path: Sequence[StoredMessage], head: int | None) -> int:
    """Return how many messages are those of complete turns."""
    return next((place + 1 for place, each in enumerate(path) if each.id == head), 0)


def _model(path: Sequence[StoredMessage]) -> str | None:
    """Return the model that was asked for last, None if none was."""
    asked = (each.parameters.get("model") for each in reversed(path) if each.role == "assistant")
    return next(filter(None, asked), None)
