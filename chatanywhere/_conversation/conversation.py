"""A conversation as a program holds it. It knows the client by its public names only.

A turn enters the history when its answer is complete. One that is not is kept aside, to be asked again or gone on with.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar, cast

from .._attachment import FileLike
from .._markdown import escape, sanitize
from .._types import Completion, MessagesLike, ToolFinished, ToolRun
from . import transcript
from .history import History
from .message import as_markdown, asked_with, copied, read
from .options import checked, limit, saved
from .turn import Asking, Turn, copy_of, without_answer
from .turns import Turns

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._async_client import AsyncClient, AsyncStream
    from .._client import Client
    from .._config import Model
    from .._stream import Stream
    from .._types import ResponseFormat, Wanted

C = TypeVar("C", bound="Client | AsyncClient")
S = TypeVar("S", bound="Stream | AsyncStream")


class BaseConversation(Generic[C, S]):
    """What the blocking and the async conversation have in common: all but the waiting."""

    _is_async: ClassVar[bool]

    def __init__(
        self,
        client: C,
        system: str | None = None,
        *,
        messages: MessagesLike = (),
        model: Model | None = None,
        max_messages: int | None = None,
        max_chars: int | None = None,
        **options: Any,
    ) -> None:
        self._check_client(client)
        if system is not None and not isinstance(system, str):
            raise TypeError(f"system must be a str, not {type(system).__name__}")
        self.model = model
        self.max_messages = limit("max_messages", max_messages)
        self.max_chars = limit("max_chars", max_chars)
        self.options = checked(options)
        self._client = client
        given = [] if isinstance(messages, Sequence) and not messages else read(messages)
        self._turns = Turns(History(given if system is None else [{"role": "system", "content": system}, *given]))

    @classmethod
    def _check_client(cls, client: object) -> None:
        complete = getattr(client, "complete", None)
        if not callable(complete) or inspect.iscoroutinefunction(complete) is not cls._is_async:
            wanted = "an AsyncClient" if cls._is_async else "a Client"
            raise TypeError(f"{cls.__name__} needs {wanted}, not {type(client).__name__}")

    # What has been said -------------------------------------------------------------------------------------

    @property
    def messages(self) -> list[dict[str, Any]]:
        """All that has been said, the system message first, as a new list."""
        with self._turns.reading() as history:
            return copied(history.messages)

    @property
    def system(self) -> str | None:
        """The system message. Another one may be set at any time; the history stays."""
        with self._turns.reading() as history:
            return history.system

    @system.setter
    def system(self, text: str | None) -> None:
        if text is not None and not isinstance(text, str):
            raise TypeError(f"system must be a str, not {type(text).__name__}")
        with self._turns.changing("system is changed") as history:
            history.set_system(text)

    @property
    def turn(self) -> Turn | None:
        """The last turn, complete or not; None if none has been made, or if it has been taken back. A copy.

        One that was kept elsewhere may be set, for `retry()` and `resume()`: `Turn([question], partial, "cut", index)`.

        Raises:
            TypeError, ValueError: it is none, or it has no place in the history.
        """
        with self._turns.reading() as history:
            return copy_of(history.turn)

    @turn.setter
    def turn(self, turn: Turn | None) -> None:
        with self._turns.changing("a turn is set") as history:
            history.set_turn(turn)

    def __len__(self) -> int:
        with self._turns.reading() as history:
            return len(history.messages)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.messages)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {len(self)} messages>"

    def _repr_markdown_(self) -> str:
        """What a notebook shows: the messages with their Markdown, in which no HTML or script works."""
        said = [f"**{escape(each['role'])}**\n\n{sanitize(as_markdown(each))}" for each in self.messages]
        return "\n\n---\n\n".join(said) or "*nothing has been said yet*"

    # What is changed without asking -------------------------------------------------------------------------

    def undo(self) -> list[dict[str, Any]]:
        """Take the last turn out of the history, with the rounds of tools in it, and return its messages.

        A turn that is not in the history, for it was cut or failed, is forgotten too.

        Raises:
            RuntimeError: there is none, or an answer is on its way.
        """
        with self._turns.changing("a turn is taken back") as history:
            return history.undo()

    def edit(self, index: int, text: str) -> None:
        """Change the text of one message, and drop those behind it. Nothing is sent: `retry()` asks what was changed.

        Args:
            index: that of the message in `messages`.
            text: takes the place of its text; pictures and files stay. An answer is this text and nothing else then.

        Raises:
            IndexError: there is no such message.
            TypeError: the index is no int, or the text no str.
            RuntimeError: an answer is on its way.
        """
        if not isinstance(index, int) or isinstance(index, bool):
            raise TypeError(f"index must be an int, not {type(index).__name__}")
        if not isinstance(text, str):
            raise TypeError(f"text must be a str, not {type(text).__name__}")
        with self._turns.changing("a message is changed") as history:
            history.edit(index, text)

    def fork(self) -> Self:
        """Return a conversation with the same history and settings that goes on by itself, with the same client."""
        other = type(self)(
            self._client,
            model=self.model,
            max_messages=self.max_messages,
            max_chars=self.max_chars,
            **self.options,
        )
        with self._turns.reading() as history:
            other._turns = Turns(history.copy())
        return other

    def __copy__(self) -> Self:
        return self.fork()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.fork()

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{type(self).__name__} can't be pickled, for its client has a key: use save() and load()")

    # Files --------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a file, as Markdown (`.md`, `.markdown`) or JSON (`.json`), whole or not at all.

        A turn that was cut is saved too, so that `resume()` can go on with it. Of the options, those that go into a
        request's body are saved: neither keys nor headers, nor limits. A new file has the mode 0600.

        Raises:
            ValueError: the path has another ending.
            OSError: the file can't be written.
        """
        transcript.write(path, self._record())

    @classmethod
    def load(cls, path: str | os.PathLike[str], client: C) -> Self:
        """Return a conversation that was saved.

        Raises:
            ValueError: the file is another one, or damaged, or the path has another ending.
            OSError: it can't be read.
            TypeError: the client is none of this kind of conversation's.
        """
        cls._check_client(client)
        record = transcript.read(path)
        try:
            conversation = cls(
                client,
                messages=record["messages"],
                model=record.get("model"),
                max_messages=record.get("max_messages"),
                max_chars=record.get("max_chars"),
                **saved(record.get("options", {})),
            )
        except (TypeError, ValueError) as exc:
            raise ValueError(f"{os.fspath(path)} is no conversation that save() has written: {exc}") from exc
        with conversation._turns.changing("it is loaded") as history:
            history.recall(record)
        return conversation

    def _record(self) -> transcript.Record:
        """What a file has of it."""
        settings = {
            "model": list(self.model) if isinstance(self.model, tuple) else self.model,
            "max_messages": self.max_messages,
            "max_chars": self.max_chars,
            "options": saved(self.options) or None,
        }
        with self._turns.reading() as history:
            return {**{name: value for name, value in settings.items() if value is not None}, **history.record()}

    # What is asked ------------------------------------------------------------------------------------------

    def stream_retry(self, *, model: Model | None = None, **options: Any) -> S:
        """Do what `retry` does, and return the stream of the answer. No functions are run."""
        return self._stream(self._ask_again(model, options))

    def stream_resume(self, *, model: Model | None = None, **options: Any) -> S:
        """Do what `resume` does, and return the stream of the rest, as the model says it.

        What it says again is in the stream, and not in the history.
        """
        return self._stream(self._ask_for_the_rest(model, options))

    def _stream(self, asking: Asking) -> S:
        with self._turns.answering(asking):
            return self._turns.watched(asking, cast("S", self._client.stream(**asking.request())))

    def _ask(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike],
        model: Model | None,
        options: Mapping[str, Any],
        response_format: Any = None,
        *,
        tools: Iterable[Callable[..., Any]] = (),
    ) -> Asking:
        """Begin a turn."""
        question = asked_with(text, files)
        options = checked(options if response_format is None else {"response_format": response_format, **options})
        with self._turns.changing("another question") as history:
            history.check_calls(question)
            turn = Turn(
                question,
                "",
                "failed",
                len(history.messages),
                len(question),
                model=model or self.model,
                _options={**self.options, **options},
                _first=(model, options),
                _tools=tuple(tools),
            )
            return self._begin(turn)

    def _ask_again(self, model: Model | None, options: Mapping[str, Any]) -> Asking:
        """Begin the last turn anew."""
        with self._turns.changing("another question") as history:
            turn = history.last_turn()
            if turn is None:
                raise RuntimeError("there is no question to ask again: nothing has been asked")
            first_model, first_options = turn._first
            again = Turn(
                turn.messages[: turn.asked],
                "",
                "failed",
                turn.index,
                turn.asked,
                model=model or first_model or self.model,
                _options={**self.options, **first_options, **checked(options)},
                _first=turn._first,
                _tools=turn._tools,
            )
            return self._begin(again)

    def _ask_for_the_rest(self, model: Model | None, options: Mapping[str, Any]) -> Asking:
        """Begin to go on with the last answer."""
        with self._turns.changing("another question") as history:
            turn = history.last_turn()
            if turn is None:
                raise RuntimeError("there is no answer to go on with: nothing has been asked")
            rest = replace(
                turn,
                messages=without_answer(turn),
                status="cut",
                completion=None,
                model=model or turn.model or self.model,
                _options={**self.options, **turn._options, **checked(options)},
                _before=turn.completion or turn._before,
            )
            return self._begin(rest, rest=bool(turn.text))

    def _begin(self, turn: Turn, *, rest: bool = False) -> Asking:
        limits = {name: limit(name, getattr(self, name)) for name in ("max_messages", "max_chars")}
        return self._turns.begin(turn, rest=rest, **limits)


class Conversation(BaseConversation["Client", "Stream"]):
    """A conversation with a model. Made by `Client.conversation`.

    A turn enters the history when its answer is complete, whatever its finish reason. If it fails or is cancelled, the
    history is as before: the error has the text so far as `partial`, `turn` has it too, `retry()` asks again, and
    `resume()` goes on where the answer was cut.

    One turn is made at a time; `fork()` makes a copy for another. The history holds JSON: messages that are objects
    are read when they come in.

    Attributes:
        model: of all turns that name none.
        options: of all turns, as in `Client.complete`.
        max_messages: how many messages are sent at most, the system message apart, the question included. As many of
            the last whole turns are sent as there is room for. The question is always sent.
        max_chars: the same for the characters of their texts.
    """

    _is_async = False

    def send(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> Completion[Wanted]:
        """Ask, and return the whole answer, which is then in the history. An answer that was cut is asked for again.

        Args:
            text: the question; or messages, such as what functions have returned, as in `Client.stream`.
            files: paths, or pairs of a name and bytes: PNG, JPEG, GIF and WebP go along as pictures, text (UTF-8) with
                its name. A URL is that of a picture.
            model: for this answer only.
            response_format: as in `Client.complete`. An answer that does not fit does not enter the history.
            options: for this answer, as in `Client.complete`.

        Raises:
            ChatAnywhereError: there is no answer, or not the whole of it.
            RuntimeError: another answer is on its way, or functions that were called have not been answered.
            ValueError, TypeError: an argument can't be sent. Nothing has been.
            OSError: a file can't be read. Nothing has been sent.
        """
        return self._read(self._ask(text, files, model, options, response_format))

    def stream(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> Stream[Wanted]:
        """Ask, and return the answer's stream, as `Client.stream` does. Arguments and errors are those of `send`.

        When it has been read to its end, in whatever way, the turn is in the history; if it is left before, it is not.
        """
        return self._stream(self._ask(text, files, model, options, response_format))

    def retry(self, *, model: Model | None = None, **options: Any) -> Completion:
        """Ask the last question again, and return the answer, which takes the place of the last one.

        It is asked as before, with its functions if it was `run_tools` that did. If that fails, the history stays.

        Args:
            model: for this answer only.
            options: for this answer, instead of those with which it was asked before.

        Raises: as `send`, and
            RuntimeError: nothing has been asked.
        """
        return self._read(self._ask_again(model, options))

    def resume(self, *, model: Model | None = None, **options: Any) -> Completion:
        """Go on with the last answer, if it was cut, cancelled, or ended by `"length"`; return the whole of it.

        The model is sent what has come, and asked to go on, beginning with the last words of it. What it says again is
        left out. The whole is the turn then; the request to go on is not in the history. If it is cut again, it can be
        resumed again. Where functions have been run, and nothing of the answer's text had come, the run goes on.

        The completion is that of the last request with the whole text; its usage is the sum of what is known.

        Args:
            model: for the rest of the answer.
            options: as in `retry`.

        Raises: as `send`, and
            RuntimeError: there is nothing to go on with; the message says why.
        """
        return self._read(self._ask_for_the_rest(model, options))

    def run_tools(
        self,
        text: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None = None,
        **options: Any,
    ) -> ToolRun:
        """Ask, and run the functions that the model calls; see `Client.run_tools`, which has the other options.

        The question, the rounds and the answer enter the history together. `messages` of what is returned is what was
        sent and the answer. If `max_rounds` ends it, the model waits for results: `undo()` takes the turn back.
        """
        return self._run(self._ask(text, files, model, {"on_round": on_round, **options}, tools=tools))

    def _read(self, asking: Asking) -> Completion[Any]:
        if asking.runs_tools:
            return self._run(asking).completion
        with self._turns.answering(asking):
            return self._turns.complete(asking, self._client.complete(**asking.request()))

    def _run(self, asking: Asking) -> ToolRun[Any]:
        with self._turns.answering(asking):
            run = self._client.run_tools(**asking.request_with_tools())
            self._turns.complete(asking, run.completion)
        return run
