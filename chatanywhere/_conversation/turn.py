"""A question and its answer: what is asked, and what becomes of it. Knows no client."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from .._errors import ChatAnywhereError
from .._protocols.json_body import fields_of
from .._stream import leave_text
from .._types import Completion, ToolFinished, Usage
from .message import as_json, copied
from .options import FOR_TOOLS
from .seam import joined, last_words

if TYPE_CHECKING:
    from .._async_client import AsyncStream
    from .._config import Model
    from .._stream import Stream

_NOT_FOR_THE_REST = ("n", "prediction", "response_format", "tool_choice")
"""Options of a question that make no sense where its answer is gone on with."""


@dataclass(frozen=True)
class Turn:
    """A question and its answer, as far as it came.

    Attributes:
        messages: the question, and the rounds of tools that came to their end; of a complete turn the answer is the
            last.
        text: the answer, as far as it came.
        status: `"complete"`; `"cut"` if some of the answer came, for it failed, or was cancelled; `"failed"` if none
            did.
        index: the place of its first message in `Conversation.messages`; those that were there and behind it, of a
            turn that was asked again, have been replaced if it is complete.
        asked: how many of the messages are the question.
        completion: the answer, if the turn is complete.
        error: a copy of what ended it, without traceback; None for a turn that is complete, or was interrupted or ended
            by an error of the program, or whose stream was left before its end.
        reasoning: what the model thought before it answered, so far.
        model: what was asked for; None for the client's own. `completion.model` is what answered.
    """

    messages: Sequence[dict[str, Any]]
    text: str
    status: Literal["complete", "cut", "failed"]
    index: int
    asked: int = 1
    completion: Completion | None = field(default=None, repr=False)
    error: ChatAnywhereError | None = None
    reasoning: str = field(default="", repr=False)
    model: Model | None = None
    _options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _first: tuple[Model | None, Mapping[str, Any]] = field(default=(None, {}), repr=False)  # what it was asked with
    _tools: Sequence[Callable[..., Any]] = field(default=(), repr=False)
    _before: Completion | None = field(default=None, repr=False)  # a part of the answer that ended by its length

    @property
    def finish_reason(self) -> str | None:
        """Why the answer ended, as the service said it."""
        return None if self.completion is None else self.completion.finish_reason


def without_answer(turn: Turn) -> list[dict[str, Any]]:
    """Return the messages of a turn whose answer is gone on with: the question, and the rounds of tools.

    Raises:
        RuntimeError: there is nothing to go on with.
    """
    messages = list(turn.messages)
    if turn.status == "complete":
        reason = turn.finish_reason
        if reason != "length":
            why = f"finish_reason {reason!r}" if reason else "it came to its end"
            raise RuntimeError(f"the last answer is complete ({why}): there is no rest of it")
        messages.pop()
    if not turn.text and len(messages) == turn.asked:
        raise RuntimeError("nothing of the last answer's text had come: use retry(), which asks again")
    return messages


def copy_of(turn: Turn | None) -> Turn | None:
    """Return a turn whose messages nobody else has."""
    return turn and replace(turn, messages=copied(turn.messages))


def go_on(text: str) -> str:
    """Return the request that a model is sent behind its own answer, and that stays out of the history.

    A model that is told to repeat nothing leaves out the blank before the next word, or begins the word that was cut
    anew, and nobody can tell which. So it is told to repeat some words, which are left out at the seam.
    """
    request = "Your answer was cut off. Go on with it, without an introduction."
    words = last_words(text)
    return f"{request} Begin by repeating its last words exactly, which are\n\n{words}" if words else request


class Asking:
    """A turn that is being made.

    Attributes:
        turn: what is known of it so far; its text is what came of the answer before.
        rest: only the rest of an answer is asked for.
        stream: where the answer comes from, if that is a stream.
        over: what has come is in `turn`.
    """

    def __init__(self, turn: Turn, messages: Sequence[dict[str, Any]], *, rest: bool) -> None:
        self.turn = turn
        self.rest = rest
        self.stream: Callable[[], Stream | AsyncStream | None] | None = None
        self.over = False
        self._messages = messages

    @property
    def runs_tools(self) -> bool:
        """Whether functions are run for it. To write the rest of a text none are needed."""
        return bool(self.turn._tools) and not self.rest

    def request(self, *, runs_tools: bool = False) -> dict[str, Any]:
        """Return the arguments of a call."""
        left_out = (() if runs_tools else FOR_TOOLS) + (_NOT_FOR_THE_REST if self.rest else ())
        options = {name: value for name, value in self.turn._options.items() if name not in left_out}
        return {**options, "messages": self._messages, "model": self.turn.model}

    def request_with_tools(self) -> dict[str, Any]:
        """Return the arguments of a run of tools, which tells its rounds."""
        request = self.request(runs_tools=True)
        on_round = request.get("on_round")

        def told(completion: Completion, results: Sequence[ToolFinished]) -> object:
            self.told(completion, results)
            return None if on_round is None else on_round(completion, results)

        async def told_async(completion: Completion, results: Sequence[ToolFinished]) -> None:
            self.told(completion, results)
            assert on_round is not None
            await on_round(completion, results)

        if on_round is None or callable(on_round):  # else it will be refused
            request["on_round"] = told_async if inspect.iscoroutinefunction(on_round) else told
        return {**request, "tools": self.turn._tools}

    def told(self, completion: Completion, results: Sequence[ToolFinished]) -> None:
        """Take note of a round of tools."""
        from .._tools import tool_message  # which needs pydantic, as whoever is here has

        said = [as_json(completion.message), *map(tool_message, results)]
        self.turn = replace(self.turn, messages=[*self.turn.messages, *said])

    def keep(self, stream: Stream | AsyncStream) -> None:
        """The stream has ended; hold it until somebody wants to know what has come of it."""
        self.stream = lambda: stream

    def has_ended(self) -> bool:
        """Whether there is nothing more to come."""
        if self.over or self.stream is None:
            return self.over
        stream = self.stream()
        return stream is None or stream.status != "open"

    def take_stream(self) -> None:
        """Put into `turn` what has come of a stream that has ended."""
        if self.over or self.stream is None:
            return
        stream = self.stream()
        # A copy, for the stream's own error has what came of the stream.
        error: BaseException | None = None if stream is None else copy.copy(stream.error)
        whole = self.turn.status == "complete"  # Ctrl-C has come in here before
        if not whole and stream is not None and stream.status == "complete":
            try:
                self.complete(stream.completion)
                whole = True
            except Exception as exc:  # it does not fit the type that was asked for
                error = exc
        if not whole:
            self.fail(*("", "") if stream is None else (stream.text, stream.reasoning), error)
        self.over = True

    def complete(self, completion: Completion[Any]) -> Completion[Any]:
        """The answer has come; return it, with what came of it before."""
        turn = self.turn
        message = completion.message
        if self.rest:
            completion = _whole(turn, completion)
            message = {**message, "content": completion.text}
            completion = _parsed(turn._options.get("response_format"), completion)
        self.turn = replace(
            turn,
            messages=[*turn.messages, as_json(message)],
            text=completion.text,
            reasoning=completion.reasoning,
            status="complete",
            completion=completion,
            error=None,
        )
        return completion

    def fail(self, text: str, reasoning: str = "", error: BaseException | None = None) -> None:
        """The answer has not come to its end."""
        text = joined(self.turn.text, text)
        reasoning = self.turn.reasoning + reasoning
        status: Literal["cut", "failed"] = "cut" if text else "failed"
        failure = None
        if isinstance(error, ChatAnywhereError):
            error.partial = text
            failure = copy.copy(error)  # whose traceback would hold this
        elif error is not None:
            leave_text(error, text)
        self.turn = replace(self.turn, text=text, reasoning=reasoning, status=status, error=failure)


def _whole(turn: Turn, rest: Completion[Any]) -> Completion[Any]:
    """The rest of an answer with what came before it."""
    text = joined(turn.text, rest.text)
    reasoning = "\n\n".join(filter(None, (turn.reasoning, rest.reasoning)))
    raw = copy.deepcopy(rest.raw)
    chunks: tuple[str, ...] = ()
    if raw.get("choices"):
        raw["choices"][0].setdefault("message", {})["content"] = text
        chunks = (json.dumps(raw),)
    return replace(
        rest,
        text=text,
        reasoning=reasoning,
        usage=_sum(turn._before.usage if turn._before else None, rest.usage),
        choices=(replace(rest.choices[0], text=text, reasoning=reasoning),),
        _chunks=chunks,
    )


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    if first is None or second is None:
        return first or second
    return Usage(*(getattr(first, each.name) + getattr(second, each.name) for each in fields(Usage)))


def _parsed(response_format: Any, completion: Completion[Any]) -> Completion[Any]:
    """The answer with the instance that was asked for, if one was."""
    if response_format is None or isinstance(response_format, Mapping) or fields_of(response_format) is not None:
        return completion
    from .._schema import Output  # here, because it needs pydantic

    return Output(response_format).read(completion)
