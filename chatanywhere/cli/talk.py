"""A conversation as the command holds it: a question is stored, sent, and its answer printed and stored as it comes."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._seam import Seam, joined
from .._store import AnswerInStore, Store, StoredMessage, StoreError, history_path, text_of
from .._turn import Turn
from .._types import tool_call_fields
from . import failures
from .answer import MISFIT_HINT, Answer, misfit, print_code, response_format
from .failures import UsageError, say, warn
from .options import checked_options, make_client, read_schema
from .printing import NoPrinter, PlainPrinter, Printer, TerminalPrinter, is_terminal, visible

if TYPE_CHECKING:
    from .._conversation import Conversation
    from .._stream import Stream

NOTES: dict[str | None, str] = {
    "length": "the answer has come to its largest length: --resume goes on with it",
    "content_filter": "a content filter of the service has ended the answer",
}
"""What a reader is told of answers that are complete, and yet are not."""


_AT_ONCE = 1.0  # seconds


@contextlib.contextmanager
def _interrupted_once() -> Iterator[None]:
    """Let Ctrl-C stop an answer; pressed again at once, it does not keep what came from being stored."""
    pressed = 0.0

    def stop(*_: object) -> None:
        nonlocal pressed
        now = time.monotonic()
        if not pressed or now - pressed > _AT_ONCE:
            pressed = now
            raise KeyboardInterrupt

    default = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not default:
        yield
        return
    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, default)


def open_store(arguments: argparse.Namespace) -> tuple[Store, Store]:
    """Return the store to write to, and the one in which earlier conversations are found.

    They are one, unless nothing can be written, of which a warning is printed; or nothing is to be.
    """
    path = None
    try:
        path = history_path()
        if path is not None and not arguments.no_store:
            store = Store(path)
            return store, store
    except StoreError as error:
        warn(f"{error}; nothing is stored")
    store = Store()
    try:
        return store, Store(path, writing=False) if path is not None and path.exists() else store
    except (OSError, StoreError):
        return store, store


class Talk:
    """A conversation.

    Args:
        arguments: the options of `ask` or `chat`.
        interactive: further questions may follow.

    Attributes:
        model: that is asked, None for the client's own.
        system: what the model is told first; None for what it was told before.
        spent: tokens of all answers so far.

    Raises:
        UsageError: an argument can't be used.
        ChatAnywhereError: there is no key.
    """

    def __init__(self, arguments: argparse.Namespace, *, interactive: bool = False) -> None:
        self.arguments = arguments
        self.options = checked_options(arguments.option)
        self._schema = read_schema(arguments.schema) if arguments.schema else None
        if self._schema is not None:
            self.options["response_format"] = response_format(self._schema)
        self.model: str | None = arguments.model
        self.system: str | None = arguments.system
        self.client = make_client(arguments)
        self._host, self._default_model = _asked(arguments)
        self.spent = [0, 0]
        self.store, found = open_store(arguments)
        self._stored = self.store.path is not None
        self._interactive = interactive
        self._remedy = (
            "/resume goes on with it, /retry asks again"
            if interactive
            else "`chatanywhere ask --resume` goes on with it"
        )
        self._id: str | None = None
        self._path: list[StoredMessage] = []
        self._head: int | None = None
        try:
            if arguments.id is not None or arguments.last or arguments.resume:
                self._take_up(found, arguments.id)
        except BaseException:
            self.close()
            raise
        finally:
            if found is not self.store:
                found.close()

    def reconnect(self) -> None:
        """Take another client, with the settings that the environment has now.

        Raises:
            ValueError, TypeError: one can't be used.
            AuthenticationError: there is no key.
        """
        client = make_client(self.arguments)
        self.client.close()
        self.client = client
        self._host, self._default_model = _asked(self.arguments)

    def _take_up(self, found: Store, beginning: str | None) -> None:
        """Go on with a conversation, the last one if no id is given."""
        hint = "`chatanywhere history` lists what there is"
        try:
            conversation = found.last() if beginning is None else found.find(beginning)
        except ValueError as error:
            raise UsageError(str(error), hint) from error
        except StoreError as error:
            raise UsageError(
                str(error), "without -c, --id and --resume, questions are answered all the same"
            ) from error
        if conversation is None:
            raise UsageError("there is no conversation to go on with", "ask without -c, which begins one")
        self._path, self._head, self._id = found.messages(conversation.last), conversation.head, conversation.id
        if found is not self.store:
            self._copy_to_memory()
        if self.model is None:
            asked = [each.parameters.get("model") for each in self._path if each.role == "assistant"]
            self.model = next((model for model in reversed(asked) if model), None)

    def close(self) -> None:
        """Close the database and the connections."""
        with contextlib.suppress(StoreError):
            self.store.close()
        self.client.close()

    def _leave_disk(self) -> None:
        """Store what follows in memory."""
        with contextlib.suppress(StoreError):
            self.store.close()
        self.store, self._stored = Store(), False

    def _copy_to_memory(self) -> None:
        """Go on in a store in memory."""
        self._leave_disk()
        if self._id is None:
            return
        path, head = self._path, self._head
        self._id = self.store.begin(text_of(path[0].message["content"]) if path else "")
        before: int | None = None
        for each in path:
            new = self.store.add(self._id, [each.message], after=before)
            assert new is not None
            self.store.update(new, status=each.status, finish_reason=each.finish_reason)
            before = new
            if each.id == head:
                self._head = new
        self._path = self.store.messages(before)

    # What is there ------------------------------------------------------------------------------------------

    def _complete_path(self) -> list[StoredMessage]:
        places = [place for place, each in enumerate(self._path) if each.id == self._head]
        return self._path[: places[-1] + 1] if places else []

    def questions(self) -> list[str]:
        """Return what was asked in this conversation, oldest first."""
        return [each.text for each in self._path if each.role == "user"]

    def questions_before(self) -> list[str]:
        """Return what was asked in all conversations, newest first."""
        try:
            return self.store.questions()
        except StoreError:
            return []

    def told(self) -> str | None:
        """Return what the model is told first."""
        told = [each.text for each in self._complete_path() if each.role == "system"]
        return self.system if self.system is not None else (told[-1] if told else None)

    def begin_anew(self) -> None:
        """Begin another conversation with the next question."""
        self._id, self._path, self._head = None, [], None

    def take(self, record: Mapping[str, Any]) -> None:
        """Begin another conversation, with what a file, or this process, has of one; see `record`."""
        self.begin_anew()
        model = record.get("model")
        self.model = self.model or (model[0] if isinstance(model, list) else model)
        self.options = {**record.get("options", {}), **self.options}
        messages, unfinished = record["messages"], record.get("unfinished") or {"messages": []}
        questions = [each for each in [*messages, *unfinished["messages"]] if each["role"] == "user"]
        if not questions:
            return
        self._id = self.store.begin(text_of(questions[0]["content"]))
        last = self._head = self.store.add(self._id, messages, after=None)
        self.store.go_back(self._id, last)
        if last is not None and record.get("finish_reason"):
            self.store.update(last, finish_reason=record["finish_reason"])
        if unfinished["messages"]:
            last = self.store.add(self._id, unfinished["messages"], after=last)
            kept = self.store.answer(self._id, after=last)
            kept.finish("cut" if unfinished["text"] else "failed", content=unfinished["text"])
            last = kept.id
        self._path = self.store.messages(last)

    def record(self) -> dict[str, Any]:
        """Return the conversation as `Conversation.save` writes it."""
        return record_of(self._path, self._head)

    # What can be done ---------------------------------------------------------------------------------------

    def ask(self, content: Any) -> Answer:
        """Ask, and print the answer."""
        path = self._complete_path()
        told = [each.text for each in path if each.role == "system"]
        new: list[dict[str, Any]] = []
        if self.system is not None and [self.system] != told[-1:]:
            new.append({"role": "system", "content": self.system})
        question = [{"role": "user", "content": content}]
        history = effective([*path, *new])
        conversation = self._conversation(history)
        return self._answer(
            {"messages": history, "unfinished": {"messages": question, "text": ""}},
            lambda: self._begin([*new, *question], self._head),
            lambda: conversation.stream(question),
            Answer(),
        )

    def retry(self, model: str | None = None) -> Answer:
        """Ask the last question again.

        Args:
            model: that is asked this time.

        Raises:
            UsageError: nothing was asked yet.
        """
        unfinished = self._unfinished("")
        conversation = self._conversation(unfinished["messages"])
        kept, self.model = self.model, model or self.model
        try:
            return self._answer(
                unfinished,
                lambda: self._begin([], self._path[self._last_question()].id),
                lambda: conversation.stream(unfinished["unfinished"]["messages"], model=model),
                Answer(),
            )
        finally:
            self.model = kept

    def resume(self) -> Answer:
        """Go on with the last answer, if it was cut or came to its largest length.

        Raises:
            UsageError: it is whole.
        """
        cut = self._path[-1] if self._path else None
        if cut is None or cut.role != "assistant" or (cut.status == "complete" and cut.finish_reason != "length"):
            raise UsageError("the last answer was not cut", "ask something, or ask again")
        if not cut.text:
            return self.retry()
        unfinished = self._unfinished(cut.text)
        history, question = unfinished["messages"], unfinished["unfinished"]["messages"]
        conversation = self._conversation(history)
        conversation.turn = Turn(question, cut.text, "cut", len(history), len(question), reasoning=cut.reasoning)
        answer = self._answer(
            unfinished,
            lambda: self._reopen(self._path[-1]),
            conversation.stream_resume,
            Answer(text=cut.text, reasoning=cut.reasoning),
        )
        if answer.completion is not None and conversation.turn is not None:  # that of the rest
            answer.completion = conversation.turn.completion
        return answer

    def _unfinished(self, text: str) -> dict[str, Any]:
        """The record of the conversation with its last question, and so much of an answer to it."""
        place = self._last_question()
        question = [self._path[place].message]
        return {"messages": effective(self._path[:place]), "unfinished": {"messages": question, "text": text}}

    def _conversation(self, history: Sequence[Mapping[str, Any]]) -> Conversation:
        """What makes the next turn; the history is the store's, where it is known what became of each turn."""
        return self.client.conversation(messages=history, model=self.model, **self.options)

    def undo(self) -> str:
        """Go back behind the last question, and return it.

        Raises:
            UsageError: nothing was asked yet.
        """
        place = self._last_question()
        question = self._path[place]
        while place and self._path[place - 1].role == "system":
            place -= 1  # which was told with it
        self._head = self._path[place - 1].id if place else None
        if self._id is not None:
            self.store.go_back(self._id, self._head)
        self._path = self._path[:place]
        return question.text

    def _last_question(self) -> int:
        places = [place for place, each in enumerate(self._path) if each.role == "user"]
        if not places:
            raise UsageError("nothing was asked yet", "type a question")
        return places[-1]

    # How it is done -----------------------------------------------------------------------------------------

    def _begin(self, new: Sequence[Mapping[str, Any]], after: int | None) -> AnswerInStore:
        title = text_of(new[-1]["content"]) if new else ""
        if self._id is None:
            self._id = self.store.begin(title or "(picture)")
        last = self.store.add(self._id, new, after=after) if new else after
        from .._conversation import saved

        parameters = saved({**self.options, **({"model": self.model} if self.model else {})})
        return self.store.answer(
            self._id, after=last, model=self.model or self._default_model, host=self._host, parameters=parameters
        )

    def _reopen(self, cut: StoredMessage) -> AnswerInStore:
        assert self._id is not None
        return self.store.reopen(self._id, cut.id)

    @_interrupted_once()
    def _answer(
        self,
        record: dict[str, Any],
        begin: Callable[[], AnswerInStore],
        send: Callable[[], Stream[Any]],
        answer: Answer,
    ) -> Answer:
        """Store a question, send it, and print and store what comes.

        Args:
            record: the conversation with the question, unfinished.
            begin: stores the question.
            send: sends it.
            answer: what had come of it before.
        """
        before = answer.text
        printer = self.printer(before)
        stream: Stream[Any] | None = None
        kept: AnswerInStore | None = None
        try:
            try:
                kept = begin()
            except StoreError as error:
                warn(f"{error}; nothing is stored from here on")
                self._copy_to_memory()
                kept = begin()
            answer.message, answer.conversation = (kept.id, kept.conversation) if self._stored else (None, None)
            with send() as stream:
                kept.follow(lambda: (joined(before, stream.text), answer.reasoning + stream.reasoning))
                self._print(stream, before, printer)
                completion = stream.completion
            answer.completion = completion
            answer.status, answer.finish_reason = "complete", completion.finish_reason
            answer.model, answer.usage, answer.tool_calls = completion.model, completion.usage, completion.tool_calls
            if completion.refusal and not completion.text:
                printer.write(completion.refusal)
                answer.text = completion.refusal
        except (Exception, KeyboardInterrupt) as error:
            answer.error = error
        return self._finish(answer, record, before, stream, kept, printer)

    def _print(self, stream: Stream[Any], before: str, printer: Printer) -> None:
        """Print an answer as it comes, and what had come when it was cut."""
        from .. import ChatAnywhereError, ReasoningDelta, TextDelta

        printed = 0
        thinking = False
        seam = Seam(before)
        try:
            for event in stream.events():
                if isinstance(event, TextDelta) and not event.index:
                    if thinking:
                        say("")
                        thinking = False
                    printed += len(event.text)
                    printer.write(seam.feed(event.text))
                elif isinstance(event, ReasoningDelta) and not event.index and self.arguments.reasoning:
                    thinking = True
                    shown = visible(event.text) if is_terminal(sys.stderr) else event.text
                    say(shown, end="")
        except ChatAnywhereError:
            printer.write(seam.feed(stream.text[printed:]))
            raise
        finally:
            rest = seam.finish()
            if rest:
                printer.write(rest)

    def _finish(
        self,
        answer: Answer,
        record: dict[str, Any],
        before: str,
        stream: Stream[Any] | None,
        kept: AnswerInStore | None,
        printer: Printer,
    ) -> Answer:
        """Store and tell how an answer has ended."""
        if stream is not None:
            answer.begun = bool(stream.text or stream.reasoning)
            answer.text = (joined(before, stream.text) if before else stream.text) or answer.text
            answer.reasoning += stream.reasoning
        if answer.status != "complete":
            answer.status = "cut" if answer.text or answer.reasoning else "failed"
        answer.model = answer.model or self.model or self._default_model
        answer.remedy = self._remedy if self._stored or self._interactive else None
        answer.seconds = time.monotonic() - answer.began
        words = None
        if answer.error is not None:
            words = failures.words_of(answer.error, begun=answer.begun).message
        elif self._schema is not None:
            answer.misfit = misfit(answer.text, self._schema)
        if kept is not None:
            self._keep(answer, record, kept, words)
        if answer.usage is not None:
            self.spent[0] += answer.usage.prompt_tokens
            self.spent[1] += answer.usage.completion_tokens
        try:
            printer.end()
            if self.arguments.json:
                answer.print()
            elif answer.text and self.arguments.extract:
                print_code(answer.text)
        except OSError as error:
            answer.error = answer.error or error
        self.tell(answer)
        return answer

    def _keep(self, answer: Answer, record: dict[str, Any], kept: AnswerInStore, words: str | None) -> None:
        usage, status, reason = answer.usage, answer.status, answer.finish_reason
        if status != "complete" and kept.id == self._head:  # more was wanted of what had come to its largest length
            status, reason = "complete", "length"
        calls = [tool_call_fields(each) for each in answer.tool_calls]
        try:
            kept.finish(
                status,
                content=answer.text,
                reasoning=answer.reasoning,
                tool_calls=calls,
                error=words,
                finish_reason=reason,
                model=answer.model,
                prompt_tokens=usage and usage.prompt_tokens,
                completion_tokens=usage and usage.completion_tokens,
                milliseconds=round(answer.seconds * 1000),
            )
            conversation = self.store.find(kept.conversation)
            self._head, self._path = conversation.head, self.store.messages(conversation.last)
        except (StoreError, ValueError) as error:  # a ValueError where the conversation was removed meanwhile
            warn(f"{error}; nothing is stored from here on")
            question = record["unfinished"]["messages"]
            if answer.status == "complete":
                record = {"messages": [*record["messages"], *question, {"role": "assistant", "content": answer.text}]}
            else:
                record["unfinished"]["text"] = answer.text
            self._leave_disk()
            self.take(record)

    def printer(self, before: str) -> Printer:
        """Return what an answer is printed with.

        Args:
            before: what had come of it before; what is printed is the rest.
        """
        arguments = self.arguments
        if arguments.json or arguments.extract:
            return NoPrinter()
        terminal = is_terminal(sys.stdout)
        if arguments.render == "always" or (
            arguments.render == "auto" and terminal and os.environ.get("TERM") != "dumb"
        ):
            try:
                from .markdown import MarkdownPrinter

                return MarkdownPrinter(forced=arguments.render == "always")
            except ImportError as error:
                if arguments.render == "always":
                    raise UsageError("--render always needs rich", "pip install 'chatanywhere[cli]'") from error
        return TerminalPrinter() if terminal else PlainPrinter()

    def tell(self, answer: Answer) -> None:
        """Write to standard error what was asked for, and what has gone wrong."""
        if self.arguments.usage and answer.usage is not None:
            usage = answer.usage
            say(f"usage: {usage.prompt_tokens} + {usage.completion_tokens} = {usage.total_tokens} tokens")
        if self.arguments.verbose:
            say(f"model: {answer.model}, host: {self._host or 'first of several'}, seconds: {answer.seconds:.2f}")
        if answer.error is not None:
            failures.tell(answer.error, debug=self.arguments.debug, begun=answer.begun, remedy=answer.remedy)
        elif answer.misfit:
            say(f"error: {answer.misfit}\nhint: {MISFIT_HINT}")
        elif answer.finish_reason in NOTES and is_terminal(sys.stderr):
            say(f"note: {NOTES[answer.finish_reason]}")


def effective(path: Sequence[StoredMessage | Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return messages as they are sent: what the model is told first comes first, as it was told last."""
    messages = [dict(each.message if isinstance(each, StoredMessage) else each) for each in path]
    system = [each for each in messages if each["role"] == "system"]
    return [*system[-1:], *(each for each in messages if each["role"] != "system")]


def record_of(path: Sequence[StoredMessage], head: int | None) -> dict[str, Any]:
    """Return messages as `Conversation.save` writes them.

    Args:
        path: the messages, oldest first.
        head: the id of the last one of the last complete turn; what follows is unfinished.
    """
    places = [place for place, each in enumerate(path) if each.id == head]
    size = places[-1] + 1 if places else 0
    answers = [each for each in path if each.role == "assistant"]
    model = next((each.parameters["model"] for each in reversed(answers) if "model" in each.parameters), None)
    record: dict[str, Any] = {} if model is None else {"model": model}
    if size and path[size - 1].finish_reason:
        record["finish_reason"] = path[size - 1].finish_reason
    asked = [each for each in path[size:] if each.role != "assistant"]
    told = [each for each in asked if each.role == "system"]
    record["messages"] = effective([*path[:size], *told])
    if size < len(path):
        text = path[-1].text if path[-1].role == "assistant" else ""
        questions = [each.message for each in asked if each.role != "system"]
        record["unfinished"] = {"messages": questions, "text": text}
    return record


def _asked(arguments: argparse.Namespace) -> tuple[str | None, str]:
    """The host that is asked, None if it may be one of several; and the model, where none is named."""
    from .._config import Settings
    from .._secrets import without_secrets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client has warned
        settings = Settings(base_url=arguments.base_url, protocol=arguments.protocol)
    host = without_secrets(settings.hosts[0]) if len(settings.hosts) == 1 else None
    return host, settings.models[0]
