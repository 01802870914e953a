"""Prompts as calls of a client: how they are read, what makes two of them the same, and one attempt at one of them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .._call import Call
from .._config import checked_models
from .._errors import ChatAnywhereError, OutputError
from .._http.scope import CallScope
from .._policy import DEFAULT, Retry, Timeout
from .._protocols.protocol import as_messages
from .._protocols.service import HOST
from .._service import Service
from .._stream import Stream

if TYPE_CHECKING:
    from .._types import Completion, Event

_ARGUMENTS = (
    "model",
    "timeout",
    "headers",
    "max_response_bytes",
    "stream",
    "extra_headers",
    "extra_query",
    "extra_body",
    "response_format",
)
"""The keywords of a call that are no fields of its body."""


class Task:
    """A prompt, and what has been done about it.

    Attributes:
        index, id, prompt: as in `Result`.
        keywords: its call's, `messages` among them.
        key: what is the same for prompts that ask the same; None if nobody wants to know.
        number: how many such prompts came before it.
        model: that is asked first, or has answered.
        retry: when it is tried again.
        timeout: the limits of its call.
        size: of the body in bytes.
        clock: the limits of an attempt, and the means to stop it; None before the prompt has a slot.
        time_left: seconds for this attempt and those that follow it, None for no limit.
        began: when it got that.
        started: when its last attempt was made.
        attempts: how many have been made, without those that were refused.
        refusals: how often in a row the service had no time for it.
        refused: the last time, so that nothing was spent.
        again: whether another attempt would not pay for the same once more.
        held: what is to be kept until its result is committed.
    """

    def __init__(self, index: int, prompt: Any) -> None:
        self.index = index
        self.prompt = prompt
        self.id: Any = None
        self.keywords: dict[str, Any] = {}
        self.key: bytes | None = None
        self.number = 0
        self.model = ""
        self.retry = Retry()
        self.timeout = Timeout()
        self.size = 0
        self.clock: CallScope | None = None
        self.time_left: float | None = None
        self.began = self.started = 0.0
        self.attempts = 0
        self.refusals = 0
        self.refused = False
        self.odd_refusals = 0  # those of them that came while others were answered
        self.answers_before = 0  # of all prompts, when the first of these refusals came
        self.is_first = True  # nothing has become of it yet
        self.again = True
        self.held: object = None
        self.spending: Any = None
        self.call: Call[Event] | None = None  # that is to be made, or is being made

    def cancel(self) -> None:
        """Stop what is done about it, from any thread."""
        if self.clock is not None:
            self.clock.cancel()
        call = self.call
        if call is not None:
            call.cancel()


class Asker:
    """Makes calls of prompts, for one run: in this process, by the threads that ask it to.

    Args:
        service: what is asked. It is the client's own, for a key needs the body as it is sent, and a call that can be
            cancelled before its answer begins; neither has a public name.
        options: the keywords of all calls; those of a prompt replace them.

    Attributes:
        on_failure: called, by any thread, when no more calls can be made.

    Raises: as `Client.complete`, where an argument can't be sent.
    """

    def __init__(self, service: Service, options: Mapping[str, Any]) -> None:
        self._service = service
        self._options = dict(options)
        self.on_failure: Callable[[Exception], object] = lambda _: None
        for name in ("messages", "prompt", "id"):
            if name in self._options:
                raise TypeError(f"{name}= is not an option of map(): each prompt has its own")
        retry = self._options.pop("retry", DEFAULT)
        self._retry = Retry.of(service.settings.retry if retry is DEFAULT else retry)
        self._identity = [service.settings.protocol, *dict.fromkeys(map(_place, service.settings.hosts))]
        # Once, for the schema of a type takes long to make.
        self.output = None
        self.output = self._call({"messages": "?"}, self._retry).output
        if self.output is not None:
            self._options["response_format"] = self.output.response_format

    def task(self, index: int, prompt: Any, *, keyed: bool) -> Task:
        """Read a prompt.

        Raises:
            TypeError, ValueError: it can't be sent; the message names its index.
            AuthenticationError: there is no key.
        """
        task = Task(index, prompt)
        try:
            keywords = _keywords(prompt)
            keywords["messages"] = as_messages(keywords["messages"])  # which may be read once only
            task.id = keywords.pop("id", None)
            task.retry = Retry.of(keywords.pop("retry", self._retry))
            task.call = call = self._call(keywords, task.retry)
            task.keywords = _copied(keywords)
        except (RecursionError, TypeError, ValueError) as exc:
            kind = TypeError if isinstance(exc, TypeError) else ValueError
            raise kind(f"prompts[{index}]: {exc}") from exc
        body = call.body or b""
        models = checked_models(keywords.get("model", self._options.get("model"))) or self._service.settings.models
        task.model = models[0]
        task.size = len(body)
        task.timeout = call.scope.timeout
        task.key = self._key(body, models) if keyed else None
        return task

    def _call(self, keywords: Mapping[str, Any], retry: Retry) -> Call[Event]:
        fields = {**self._options, **keywords}
        messages = fields.pop("messages")
        arguments = {name: fields.pop(name) for name in _ARGUMENTS if name in fields}
        call = self._service.chat(
            messages, **arguments, retry=replace(retry, attempts=1), kept_back=True, options=fields
        )
        if self.output is not None and "response_format" not in keywords:
            call.output = self.output
        return call

    def _key(self, body: bytes, models: tuple[str, ...]) -> bytes:
        fields = json.loads(body, parse_float=_number)
        asked = {name: value for name, value in fields.items() if value is not None}
        for name in self._service.settings.wire.transient:
            asked.pop(name, None)
        if len(models) > 1:
            asked["model"] = models
        canonical = json.dumps([*self._identity, asked], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).digest()

    def open(self) -> None:
        """Get ready, before the first attempt.

        Raises:
            Exception: no call can be made.
        """

    def attempt(self, task: Task) -> Completion:
        """Make one attempt, blocking until it has ended.

        Raises:
            ChatAnywhereError: it has failed.
            Exception: a validator of the caller's has broken on the answer.
        """
        call = task.call or self._call(task.keywords, task.retry)
        clock = task.clock
        assert clock is not None
        call.scope.share_deadline(clock)
        task.call = call
        if clock.cancelled:  # in between
            call.cancel()
        try:
            with Stream(call) as answer:
                completion = answer.read()
                task.model = call.name  # one of several
                return completion
        except ChatAnywhereError as error:
            task.again = call.may_ask_again(error)
            if isinstance(error, OutputError):
                task.model = call.name
            raise
        finally:
            task.call = None

    def cancel(self, tasks: Iterable[Task]) -> None:
        """End the attempts at these prompts, which are all that there are, and let no more begin, from any thread."""
        for task in tasks:
            task.cancel()

    def parsed(self, completion: Completion, task: Task) -> Completion:
        """Return an answer that was recorded with the instance that the prompt asks for.

        Raises:
            OutputError: there is none.
        """
        output = None if task.call is None else task.call.output
        return completion if output is None else output.read(completion)


def _keywords(prompt: Any) -> dict[str, Any]:
    if not isinstance(prompt, Mapping):
        return {"messages": prompt}
    keywords = dict(prompt)
    if "prompt" in keywords:
        if "messages" in keywords:
            raise TypeError("it has messages and prompt, which are two names of the same: leave one out")
        keywords["messages"] = keywords.pop("prompt")
    if "messages" not in keywords:
        raise TypeError("a dict has the keywords of a call, and needs messages or prompt: a message goes into a list")
    return keywords


def _copied(value: Any) -> Any:
    """Copy what a generator may change for its next prompt, while this one may be asked once more."""
    if isinstance(value, Mapping):
        return {name: _copied(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        copies = [_copied(each) for each in value]
        return copies if isinstance(value, list) else tuple(copies)
    return value


def _number(written: str) -> float:
    """A number of JSON's, where 1.0 is 1."""
    number = float(written)
    return int(number) if number.is_integer() else number


def _place(base_url: str) -> str:
    """What is the same for base URLs of the same service."""
    parts = urlsplit(base_url)
    host = "chatanywhere" if HOST.fullmatch(parts.hostname or "") else parts.netloc.lower()
    return f"{host}{parts.path}"
