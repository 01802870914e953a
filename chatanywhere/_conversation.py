"""A conversation: what has been said, and the turn that is being made. It knows the client by its public names only.

A turn enters the history when its answer is complete. One that is not is kept aside, to be asked again or gone on with.
"""

from __future__ import annotations

import inspect
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NoReturn, TypeVar

from . import _transcript
from ._attachment import FileLike, parts_of
from ._errors import ChatAnywhereError
from ._history import History, as_json, as_markdown, copied, question_size, read, text_of, with_text
from ._markdown import escape, sanitize
from ._turn import FOR_TOOLS, Asking, Turn, go_on
from ._types import Completion, MessagesLike, ToolFinished, ToolRun

if TYPE_CHECKING:
    from typing_extensions import Self

    from ._async_client import AsyncClient, AsyncStream
    from ._client import Client
    from ._config import Model
    from ._stream import Stream
    from ._types import ResponseFormat, Wanted

C = TypeVar("C", bound="Client | AsyncClient")
S = TypeVar("S", bound="Stream | AsyncStream")

_NOT_SAVED = (
    *FOR_TOOLS,
    *("extra_headers", "extra_query", "headers"),  # which may hold secrets
    *("keep_text", "max_response_bytes", "retry", "stream", "timeout"),
)


class BaseConversation(Generic[C]):
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
        self.max_messages = _limit("max_messages", max_messages)
        self.max_chars = _limit("max_chars", max_chars)
        self.options = _checked_options(options)
        self._client = client
        self._turn: Turn | None = None
        self._asking: Callable[[], Asking | None] | None = None
        self._lock = threading.RLock()  # reentrant, because a stream may be collected anywhere
        given = [] if isinstance(messages, Sequence) and not messages else read(messages)
        self._history = History(given if system is None else [{"role": "system", "content": system}, *given])

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
        self._settle()
        with self._lock:  # another thread may change it
            return copied(self._history.messages)

    @property
    def system(self) -> str | None:
        """The system message. Another one may be set at any time; the history stays."""
        return self._history.system

    @system.setter
    def system(self, text: str | None) -> None:
        if text is not None and not isinstance(text, str):
            raise TypeError(f"system must be a str, not {type(text).__name__}")
        with self._changing("system is changed"):
            moved = self._history.set_system(text)
            self._turn = self._turn and replace(self._turn, index=self._turn.index + moved)

    @property
    def turn(self) -> Turn | None:
        """The last turn, complete or not; None if none has been made, or if it has been taken back. A copy.

        One that was kept elsewhere may be set, for `retry()` and `resume()`: `Turn([question], partial, "cut", index)`.

        Raises:
            TypeError, ValueError: it is none, or it has no place in the history.
        """
        self._settle()
        turn = self._turn
        return turn and replace(turn, messages=copied(turn.messages))

    @turn.setter
    def turn(self, turn: Turn | None) -> None:
        with self._changing("a turn is set"):
            if turn is not None:
                if not isinstance(turn, Turn):
                    raise TypeError(f"turn must be a Turn, not {type(turn).__name__}")
                if not 0 <= turn.index <= len(self._history.messages):
                    raise ValueError(f"index={turn.index}: the conversation has {len(self._history.messages)} messages")
                if not 0 < turn.asked <= len(turn.messages):
                    raise ValueError(f"asked={turn.asked}: the turn has {len(turn.messages)} messages")
                turn = replace(turn, messages=read(turn.messages))
            self._turn = turn

    def __len__(self) -> int:
        self._settle()
        return len(self._history.messages)

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
        with self._changing("a turn is taken back"):
            starts = [self._history.last_question()]
            if self._turn is not None and self._turn.status == "complete":
                starts.append(self._turn.index)  # which may have been asked with several messages
            start = min((each for each in starts if each is not None), default=None)
            if start is None:
                raise RuntimeError("there is no turn to take back: nothing has been asked")
            taken = self._history.messages[start:]
            del self._history.messages[start:]
            self._turn = None
            return taken

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
        with self._changing("a message is changed"):
            messages = self._history.messages
            size = len(messages)
            if not -size <= index < size:
                raise IndexError(f"there is no message {index}: the conversation has {size}")
            index %= size
            messages[index:] = [with_text(messages[index], text)]
            self._turn = None

    def fork(self) -> Self:
        """Return a conversation with the same history and settings that goes on by itself, with the same client."""
        self._settle()
        with self._lock:
            other = type(self)(
                self._client,
                model=self.model,
                max_messages=self.max_messages,
                max_chars=self.max_chars,
                **self.options,
            )
            other._history = History(self._history.messages)
            other._turn = self._turn and replace(self._turn, messages=copied(self._turn.messages))
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
        _transcript.write(path, self._record())

    @classmethod
    def load(cls, path: str | os.PathLike[str], client: C) -> Self:
        """Return a conversation that was saved.

        Raises:
            ValueError: the file is another one, or damaged, or the path has another ending.
            OSError: it can't be read.
            TypeError: the client is none of this kind of conversation's.
        """
        cls._check_client(client)
        record = _transcript.read(path)
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
        conversation._turn = conversation._recorded_turn(record)
        return conversation

    def _record(self) -> _transcript.Record:
        """What a file has of it."""
        self._settle()
        with self._lock:
            turn = self._turn
            settings = {
                "model": list(self.model) if isinstance(self.model, tuple) else self.model,
                "max_messages": self.max_messages,
                "max_chars": self.max_chars,
                "options": saved(self.options) or None,
                "finish_reason": turn and turn.finish_reason,
            }
            record: _transcript.Record = {name: value for name, value in settings.items() if value is not None}
            record["messages"] = copied(self._history.messages)
            if turn and turn.status != "complete":
                record["unfinished"] = {"messages": copied(turn.messages), "text": turn.text}
                if turn.index < len(self._history.messages):
                    record["replaces"] = len(self._history.messages) - turn.index
        return record

    def _recorded_turn(self, record: Mapping[str, Any]) -> Turn | None:
        """The last turn, as a file has it."""
        unfinished = record.get("unfinished")
        if unfinished:
            messages, text = unfinished["messages"], unfinished["text"]
            index = len(self._history.messages) - record.get("replaces", 0)
            return Turn(messages, text, "cut" if text else "failed", max(0, index), question_size(messages))
        turn = self._last_turn(record.get("finish_reason"))
        return turn if turn and turn.status == "complete" else None

    # Turns --------------------------------------------------------------------------------------------------

    def _ask(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike],
        model: Model | None,
        options: Mapping[str, Any],
        tools: Iterable[Callable[..., Any]] = (),
    ) -> Asking:
        """Begin a turn."""
        question = _question(text, files)
        options = _checked_options(options)
        with self._changing("another question"):
            self._history.check_calls(question)
            turn = Turn(
                question,
                "",
                "failed",
                len(self._history.messages),
                len(question),
                model=model or self.model,
                _options={**self.options, **options},
                _first=(model, options),
                _tools=tuple(tools),
            )
            return self._begin(turn)

    def _ask_again(self, model: Model | None, options: Mapping[str, Any]) -> Asking:
        """Begin the last turn anew."""
        with self._changing("another question"):
            turn = self._last_turn()
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
                _options={**self.options, **first_options, **_checked_options(options)},
                _first=turn._first,
                _tools=turn._tools,
            )
            return self._begin(again)

    def _ask_for_the_rest(self, model: Model | None, options: Mapping[str, Any]) -> Asking:
        """Begin to go on with the last answer."""
        with self._changing("another question"):
            turn = self._last_turn()
            if turn is None:
                raise RuntimeError("there is no answer to go on with: nothing has been asked")
            messages = list(turn.messages)
            if turn.status == "complete":
                reason = turn.finish_reason
                if reason != "length":
                    why = f"finish_reason {reason!r}" if reason else "it came to its end"
                    raise RuntimeError(f"the last answer is complete ({why}): there is no rest of it")
                messages.pop()
            if not turn.text and len(messages) == turn.asked:
                raise RuntimeError("nothing of the last answer's text had come: use retry(), which asks again")
            rest = replace(
                turn,
                messages=messages,
                status="cut",
                completion=None,
                model=model or turn.model or self.model,
                _options={**self.options, **turn._options, **_checked_options(options)},
                _before=turn.completion or turn._before,
            )
            return self._begin(rest, rest=bool(turn.text))

    def _last_turn(self, finish_reason: str | None = None) -> Turn | None:
        """The turn that was made last, as far as it can be told from the history."""
        if self._turn is not None:
            return self._turn
        start = self._history.last_question()
        if start is None:
            return None
        messages = self._history.messages[start:]
        if messages[-1]["role"] != "assistant":  # the answer has been dropped
            return Turn(messages, "", "failed", start, question_size(messages))
        text = text_of(messages[-1])
        completion: Completion[Any] = Completion(text, finish_reason=finish_reason)
        return Turn(messages, text, "complete", start, completion=completion)

    def _begin(self, turn: Turn, *, rest: bool = False) -> Asking:
        new = list(turn.messages)
        if rest:
            new += [{"role": "assistant", "content": turn.text}, {"role": "user", "content": go_on(turn.text)}]
        limits = {name: _limit(name, getattr(self, name)) for name in ("max_messages", "max_chars")}
        before = self._history.before(turn.index, new, **limits)
        asking = Asking(turn, [*before, *copied(new)], rest=rest)
        self._asking = weakref.ref(asking)  # whoever waits for the answer holds it
        return asking

    @contextmanager
    def _answering(self, asking: Asking) -> Iterator[None]:
        """Wait for the answer to a turn in here; if it does not come, the history stays as it is."""
        begun = asking.turn
        try:
            yield
        except BaseException as error:
            is_misuse = isinstance(error, Exception) and not isinstance(error, ChatAnywhereError)
            if is_misuse and asking.turn is begun:  # else it is `on_round` that failed
                self._asking = None  # nothing has been sent
                raise
            if asking.turn.status != "complete":  # else it was interrupted when it was about to enter the history
                asking.fail(getattr(error, "partial", ""), error=error)
            self._end(asking)
            raise

    def _watched(self, asking: Asking, stream: S) -> S:
        """Have a stream bring the answer to a turn; return it."""
        asking.stream = weakref.ref(stream)
        self._asking = lambda: asking
        stream.add_done_callback(partial(self._stream_done, asking))
        return stream

    def _stream_done(self, asking: Asking, stream: Stream | AsyncStream) -> None:
        with self._lock:
            if self._asking is None or self._asking() is not asking:
                return
            error: BaseException | None = stream.error
            if stream.status == "complete" and asking.turn.status != "complete":
                try:
                    asking.complete(stream.completion)
                except ChatAnywhereError as exc:  # it does not fit the type that was asked for
                    error = exc
            if asking.turn.status != "complete":
                asking.fail(stream.text, stream.reasoning, error)
            self._end(asking)

    def _complete(self, asking: Asking, completion: Completion[Any]) -> Completion[Any]:
        whole = asking.complete(completion)
        self._end(asking)
        return whole

    def _end(self, asking: Asking) -> None:
        """Put a turn where it belongs."""
        with self._lock:
            if self._asking is None or self._asking() is not asking:
                return  # another thread has
            turn = asking.turn
            if turn.status == "complete":
                self._history.messages[turn.index :] = copied(turn.messages)
            self._turn, self._asking = turn, None

    def _settle(self) -> None:
        """Take note of the end of a stream of which its reader has not learned yet, or was kept from telling."""
        held = self._asking  # which another thread may change
        asking = held and held()
        if not asking or asking.stream is None:
            return
        stream = asking.stream()
        if stream is None:
            asking.fail("")
            self._end(asking)
        elif stream.status != "open":
            self._stream_done(asking, stream)

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """Keep other threads out.

        Raises:
            RuntimeError: an answer is on its way.
        """
        self._settle()
        with self._lock:
            if self._asking is not None and self._asking() is not None:
                raise RuntimeError(
                    f"an answer of this conversation is on its way: read it to its end or close it before {what}, or "
                    "use a copy of the conversation, made by fork()"
                )
            yield


class Conversation(BaseConversation["Client"]):
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
        return self._read(self._ask(text, files, model, {**_wanting(response_format), **options}))

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
        return self._stream(self._ask(text, files, model, {**_wanting(response_format), **options}))

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

    def stream_retry(self, *, model: Model | None = None, **options: Any) -> Stream:
        """Do what `retry` does, and return the stream of the answer. No functions are run."""
        return self._stream(self._ask_again(model, options))

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

    def stream_resume(self, *, model: Model | None = None, **options: Any) -> Stream:
        """Do what `resume` does, and return the stream of the rest, as the model says it.

        What it says again is in the stream, and not in the history.
        """
        return self._stream(self._ask_for_the_rest(model, options))

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
        return self._run(self._ask(text, files, model, {"on_round": on_round, **options}, tools))

    def _read(self, asking: Asking) -> Completion[Any]:
        if asking.runs_tools:
            return self._run(asking).completion
        with self._answering(asking):
            return self._complete(asking, self._client.complete(**asking.request()))

    def _stream(self, asking: Asking) -> Stream[Any]:
        with self._answering(asking):
            return self._watched(asking, self._client.stream(**asking.request()))

    def _run(self, asking: Asking) -> ToolRun[Any]:
        with self._answering(asking):
            run = self._client.run_tools(**asking.request_with_tools())
            self._complete(asking, run.completion)
        return run


class AsyncConversation(BaseConversation["AsyncClient"]):
    """The same conversation for asyncio and trio. Made by `AsyncClient.conversation`."""

    _is_async = True

    async def send(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> Completion[Wanted]:
        """Ask, and return the whole answer; see `Conversation.send`."""
        return await self._read(self._ask(text, files, model, {**_wanting(response_format), **options}))

    def stream(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> AsyncStream[Wanted]:
        """Prepare to ask, and return the answer's stream; see `Conversation.stream`."""
        return self._stream(self._ask(text, files, model, {**_wanting(response_format), **options}))

    async def retry(self, *, model: Model | None = None, **options: Any) -> Completion:
        """Ask the last question again; see `Conversation.retry`."""
        return await self._read(self._ask_again(model, options))

    def stream_retry(self, *, model: Model | None = None, **options: Any) -> AsyncStream:
        """Do what `retry` does, and return the stream of the answer. No functions are run."""
        return self._stream(self._ask_again(model, options))

    async def resume(self, *, model: Model | None = None, **options: Any) -> Completion:
        """Go on with the last answer; see `Conversation.resume`."""
        return await self._read(self._ask_for_the_rest(model, options))

    def stream_resume(self, *, model: Model | None = None, **options: Any) -> AsyncStream:
        """Do what `resume` does, and return the stream of the rest; see `Conversation.stream_resume`."""
        return self._stream(self._ask_for_the_rest(model, options))

    async def run_tools(
        self,
        text: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None = None,
        **options: Any,
    ) -> ToolRun:
        """Ask, and run the functions that the model calls; see `Conversation.run_tools`."""
        return await self._run(self._ask(text, files, model, {"on_round": on_round, **options}, tools))

    async def _read(self, asking: Asking) -> Completion[Any]:
        if asking.runs_tools:
            return (await self._run(asking)).completion
        with self._answering(asking):
            return self._complete(asking, await self._client.complete(**asking.request()))

    def _stream(self, asking: Asking) -> AsyncStream[Any]:
        with self._answering(asking):
            return self._watched(asking, self._client.stream(**asking.request()))

    async def _run(self, asking: Asking) -> ToolRun[Any]:
        with self._answering(asking):
            run = await self._client.run_tools(**asking.request_with_tools())
            self._complete(asking, run.completion)
        return run


# Messages ---------------------------------------------------------------------------------------------------


def _limit(name: str, limit: int | None) -> int | None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
        raise TypeError(f"{name} must be an int or None, not {type(limit).__name__}")
    if limit is not None and limit < 1:
        raise ValueError(f"{name}={limit}: 1 is the least, which sends the question only; None is for no limit")
    return limit


def _checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    if "messages" in options:
        raise TypeError("messages= is for conversation(): give messages that come next in the place of the text")
    if not options.get("keep_text", True):
        raise ValueError("keep_text=False keeps no answer that could enter the conversation: use client.stream()")
    return dict(options)


def _wanting(response_format: Any) -> dict[str, Any]:
    return {} if response_format is None else {"response_format": response_format}


def saved(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are kept: neither keys nor headers, nor limits, nor what JSON can't have."""
    return {name: value for name, value in options.items() if name not in _NOT_SAVED and _has_json(value)}


def _has_json(value: Any) -> bool:
    try:
        as_json({"": value})
    except (TypeError, ValueError):
        return False
    return True


def _question(text: str | MessagesLike, files: Iterable[FileLike]) -> list[dict[str, Any]]:
    """The messages with which something is asked."""
    parts = parts_of(files)
    if not isinstance(text, str):
        if parts:
            raise TypeError("files go with a question that is a str: put image() and texts into the messages instead")
        return read(text)
    content: Any = [{"type": "text", "text": text}, *parts] if parts else text
    return [as_json({"role": "user", "content": content})]
