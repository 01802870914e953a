"""A conversation as the command holds it: a question is stored, sent, and its answer printed and stored as it comes."""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from .._conversation.seam import Seam, joined
from .._conversation.turn import Turn
from .._store import AnswerInStore
from .._types import tool_call_fields
from . import failures
from .answer import MISFIT_HINT, Answer, misfit, print_code, response_format
from .branch import Branch, effective
from .failures import UsageError, say
from .options import checked_options, make_client, read_schema
from .printing import NoPrinter, PlainPrinter, Printer, TerminalPrinter, is_terminal, visible
from .signals import Interrupts

if TYPE_CHECKING:
    from .._conversation.conversation import Conversation
    from .._stream import Stream

_NOTES: dict[str | None, str] = {
    "length": "the answer has come to its largest length",
    "tool_calls": "the answer calls functions, which nothing here runs: `chatanywhere show` has the calls",
    "content_filter": "a content filter of the service has ended the answer",
}
"""What a reader is told of answers that are complete, and yet are not."""

_LATER = "`chatanywhere ask --resume` goes on with it"


class Talk:
    """A conversation.

    Args:
        arguments: the options of `ask` or `chat`.
        remedy: how a chat goes on with an answer that was cut; None where no further questions follow.

    Attributes:
        model: that is asked, None for the client's own.
        system: what the model is told first; None for what it was told before.
        spent: tokens of all answers so far.

    Raises:
        UsageError: an argument can't be used.
        ChatAnywhereError: there is no key.
    """

    def __init__(self, arguments: argparse.Namespace, *, remedy: str | None = None) -> None:
        self.arguments = arguments
        self.options = checked_options(arguments.option)
        self._schema = read_schema(arguments.schema) if arguments.schema is not None else None
        if self._schema is not None:
            self.options["response_format"] = response_format(self._schema)
        self.model: str | None = arguments.model
        self.system: str | None = arguments.system
        self.client = make_client(arguments)
        self._host, self._default_model = _asked(arguments)
        self.spent = [0, 0]
        self._remedy = remedy
        try:
            self.branch = Branch(
                stored=not arguments.no_store,
                goes_on=arguments.id is not None or arguments.last or arguments.resume,
                beginning=arguments.id,
            )
        except BaseException:
            self.client.close()
            raise
        self.model = self.model or self.branch.model()

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

    def close(self) -> None:
        """Close the database and the connections."""
        self.branch.close()
        self.client.close()

    def told(self) -> str | None:
        """Return what the model is told first."""
        return self.branch.told() if self.system is None else self.system

    def take(self, record: Mapping[str, Any]) -> None:
        """Begin another conversation, with what a file has of one."""
        model = record.get("model")
        self.model = self.model or (model[0] if isinstance(model, list) else model)
        self.options = {**record.get("options", {}), **self.options}
        self.branch.take(record)

    def ask(self, content: Any) -> Answer:
        """Ask, and print the answer."""
        told = self.branch.told()
        new = [] if self.system in (None, told) else [{"role": "system", "content": self.system}]
        question = [{"role": "user", "content": content}]
        conversation = self._conversation(effective([*self.branch.history(), *new]))
        return self._answer(
            lambda: self.branch.ask(new, question, **self._asking()),
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
        record = self.branch.unfinished()
        conversation = self._conversation(record["messages"])
        kept, self.model = self.model, model or self.model
        try:
            return self._answer(
                lambda: self.branch.ask_again(**self._asking()),
                lambda: conversation.stream(record["unfinished"]["messages"], model=model),
                Answer(),
            )
        finally:
            self.model = kept

    def resume(self) -> Answer:
        """Go on with the last answer, if it was cut or came to its largest length.

        Raises:
            UsageError: it is whole.
        """
        cut = self.branch.cut()
        if not cut.text:
            return self.retry()
        record = self.branch.unfinished()
        history, question = record["messages"], record["unfinished"]["messages"]
        conversation = self._conversation(history)
        conversation.turn = Turn(question, cut.text, "cut", len(history), len(question), reasoning=cut.reasoning)
        answer = self._answer(
            self.branch.reopen,
            conversation.stream_resume,
            Answer(text=cut.text, reasoning=cut.reasoning),
        )
        if answer.completion is not None and conversation.turn is not None:  # that of the rest
            answer.completion = conversation.turn.completion
        return answer

    def _conversation(self, history: Sequence[Mapping[str, Any]]) -> Conversation:
        """What makes the next turn; the history is the store's, where it is known what became of each turn."""
        return self.client.conversation(messages=history, model=self.model, **self.options)

    def _asking(self) -> dict[str, Any]:
        """What is stored of a question besides its text."""
        from .._conversation.options import saved

        parameters = saved({**self.options, **({"model": self.model} if self.model else {})})
        return {"model": self.model or self._default_model, "host": self._host, "parameters": parameters}

    def _answer(
        self,
        begin: Callable[[], AnswerInStore],
        send: Callable[[], Stream[Any]],
        answer: Answer,
    ) -> Answer:
        """Store a question, send it, and print and store what comes.

        Args:
            begin: stores the question.
            send: sends it.
            answer: what had come of it before.
        """
        before = answer.text
        printer = self.printer(before)
        stream: Stream[Any] | None = None
        with Interrupts() as interrupts:
            kept = begin()
            try:
                with interrupts.raised(), send() as stream:
                    kept.follow(lambda: (joined(before, stream.text), answer.reasoning + stream.reasoning))
                    self._print(stream, before, printer)
                    answer.completion = stream.completion
                    if (refusal := answer.completion.refusal) and not answer.completion.text:
                        printer.write(refusal)
                        answer.text = refusal
            except (Exception, KeyboardInterrupt, SystemExit) as error:
                answer.error = error
            self._keep(answer, before, stream, kept)
            with interrupts.raised():
                self._show(answer, printer)
        if isinstance(answer.error, SystemExit):
            raise answer.error
        return answer

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
            if thinking:
                say("")
            rest = seam.finish()
            if rest:
                printer.write(rest)

    def _keep(self, answer: Answer, before: str, stream: Stream[Any] | None, kept: AnswerInStore) -> None:
        """Store how an answer has ended."""
        completion = answer.completion
        if stream is not None:
            answer.begun = bool(stream.text or stream.reasoning)
            answer.text = (joined(before, stream.text) if before else stream.text) or answer.text
            answer.reasoning += stream.reasoning
        if completion is not None:
            answer.status, answer.finish_reason = "complete", completion.finish_reason
            answer.model, answer.usage, answer.tool_calls = completion.model, completion.usage, completion.tool_calls
        else:
            answer.status = "cut" if answer.text or answer.reasoning else "failed"
        answer.model = answer.model or self.model or self._default_model
        answer.seconds = time.monotonic() - answer.began
        words = None
        if answer.error is not None:
            words = failures.words_of(answer.error, begun=answer.begun).message
        elif self._schema is not None:
            answer.misfit = misfit(answer.text, self._schema)
        usage = answer.usage
        self.branch.keep(
            kept,
            answer.status,
            answer.text,
            finish_reason=answer.finish_reason,
            reasoning=answer.reasoning,
            tool_calls=[tool_call_fields(each) for each in answer.tool_calls],
            error=words,
            model=answer.model,
            prompt_tokens=usage and usage.prompt_tokens,
            completion_tokens=usage and usage.completion_tokens,
            milliseconds=round(answer.seconds * 1000),
        )
        if self.branch.stored:
            answer.message, answer.conversation = kept.id, kept.conversation
        answer.remedy = self._remedy or (_LATER if self.branch.stored else None)

    def _show(self, answer: Answer, printer: Printer) -> None:
        """Print what is left of an answer, and tell how it has ended."""
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
        elif is_terminal(sys.stderr):
            note(answer)


def note(answer: Answer) -> None:
    """Write to standard error why an answer is not all that was wanted, if it is not."""
    if answer.finish_reason in _NOTES:
        remedy = f": {answer.remedy}" if answer.finish_reason == "length" and answer.remedy else ""
        say(f"note: {_NOTES[answer.finish_reason]}{remedy}")


def _asked(arguments: argparse.Namespace) -> tuple[str | None, str]:
    """The host that is asked, None if it may be one of several; and the model, where none is named."""
    from .._config import Settings
    from .._secrets import without_secrets

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the client has warned
        settings = Settings(base_url=arguments.base_url, protocol=arguments.protocol)
    host = without_secrets(settings.hosts[0]) if len(settings.hosts) == 1 else None
    return host, settings.models[0]
