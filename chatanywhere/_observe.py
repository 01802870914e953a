"""What a program may watch: the moments of a call, the view of it at each, and how observers are told.

Knows no client and no call. Nothing here is imported before a client has observers.
"""

from __future__ import annotations

import inspect
import threading
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ._policy import logger

if TYPE_CHECKING:
    from ._types import Completion, Usage

HOOKS = ("call_started", "attempt_failed", "answer_started", "first_text", "call_ended")
"""The methods of an observer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallView:
    """What is known of a call at the moment at which an observer is told of it. It holds no key, and no content.

    Attributes:
        call_id: the same in all views of one call, and no other call's in this process.
        operation: `"chat"`, `"embeddings"`, `"models"`, `"balance"`, `"usage"`, `"usage_by_day"`, `"ping"` or
            `"request"`.
        path: of the endpoint, such as `"/chat/completions"`.
        model: that is asked, or was last; None where none is.
        host: the base URL that is asked, or was last, without its query.
        streamed: the answer comes piece by piece.
        parameters: the numbers and switches of the request's body, by their names: `temperature`, `max_tokens`, `n` …
        attempt: the number of the attempt that is being made, or was last, from 1.
        seconds: since the call began.
        request_bytes: of the body of this attempt's request.
        response_bytes: of the body of its answer so far, as they came: chunk framing and compression included.
        status_code: the HTTP status of its answer; None if there is none.
        request_id: the server's name for the request, if it gave one.
        response_id, response_model: what the service calls the answer, and the model that made it.
        finish_reasons: why the model stopped, in the order of the choices that have ended.
        usage: the tokens of the call, if the service has told.
        error: for `attempt_failed` how it failed; for `call_ended` what the caller got instead of the rest of the
            answer: a `ChatAnywhereError`, or what interrupted the call from outside, such as `KeyboardInterrupt`.
            None for an answer that came to its end, and for one that the caller has closed or forgotten before. At the
            end, the `partial` of a `ChatAnywhereError` is the text that had come.
        wait: for `attempt_failed`, the seconds until the next attempt; None if there is to be none.
        completed: for `call_ended`, whether the answer came to its end.
        request: the JSON that is sent, for an observer with `capture_content = True`; else None, as for
            `Client.request`.
        completion: for `call_ended` of a chat, and the same observers, the answer as far as it came; else None.
    """

    call_id: int
    operation: str
    path: str
    model: str | None
    host: str
    streamed: bool
    parameters: Mapping[str, Any] = field(hash=False)
    attempt: int = 1
    seconds: float = 0.0
    request_bytes: int = 0
    response_bytes: int = 0
    status_code: int | None = None
    request_id: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    finish_reasons: tuple[str, ...] = ()
    usage: Usage | None = None
    error: BaseException | None = None
    wait: float | None = None
    completed: bool = False
    request: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    completion: Completion | None = field(default=None, hash=False, repr=False)

    @property
    def finish_reason(self) -> str | None:
        """Why the model stopped, in the first choice that has ended."""
        return self.finish_reasons[0] if self.finish_reasons else None


class Observer:
    """Is told of what the calls of a client do: `Client(observers=[MyObserver()])`.

    Subclass it and write the methods that you need, or bring any object that has some of them. They come in this order,
    one after the other: `call_started`; for each attempt `answer_started` and `first_text`, as far as it gets, and
    `attempt_failed` if it fails; `call_ended`, exactly once, however the call ends. A call that can't be sent at all
    (ValueError, TypeError), and a stream that is never read, do not start.

    A method runs in the thread, or on the event loop, in which the call has come so far, and the call waits for it: be
    quick. `call_ended` may come in any other: where the call is cancelled, or where the garbage collector finds a
    stream that was forgotten. Several calls may be told of at the same time.

    An exception that a method raises is logged, and harms nothing; `KeyboardInterrupt`, `SystemExit` and the like pass.
    Calls that a method makes itself are not watched, for there would be no end to it; nor are those of a task that it
    starts.

    Attributes:
        capture_content: True for views that have `request` and `completion`, which hold what people write.
    """

    capture_content: bool = False

    def call_started(self, view: CallView) -> None:
        """A call begins; nothing has been sent."""

    def attempt_failed(self, view: CallView) -> None:
        """An attempt has failed, as `view.error` says; the next is made in `view.wait` seconds, or none if it is None.

        A request that is repeated within its attempt is none: without a field that the service refuses, or in place of
        an idle connection that had ended. Nor has an attempt failed in which the call is cancelled. One that is to come
        does not if the call is cancelled first, or its time is up.
        """

    def answer_started(self, view: CallView) -> None:
        """The head of an answer has come, with a status that promises one (2xx)."""

    def first_text(self, view: CallView) -> None:
        """The model has begun to speak: the first piece of text, thoughts, refusal or a tool call is there.

        It comes in chats only, once in each attempt that gets so far; if the answer is not streamed, when all is there.
        """

    def call_ended(self, view: CallView) -> None:
        """The call is over, and `view` says how."""


def checked_observers(observers: Iterable[object]) -> tuple[object, ...]:
    """Return observers that can be told.

    Raises:
        TypeError: one can't be; the message names the remedy.
    """
    if isinstance(observers, (str, bytes)) or not isinstance(observers, Iterable):
        raise TypeError(f"observers must be several, as in observers=[observer], not {type(observers).__name__}")
    checked = tuple(observers)
    for index, observer in enumerate(checked):
        name = f"observers[{index}]"
        if isinstance(observer, type):
            raise TypeError(f"{name} is the class {observer.__name__}: give an instance, {observer.__name__}()")
        hooks = [hook for hook in HOOKS if callable(getattr(observer, hook, None))]
        if not hooks:
            raise TypeError(f"{name} is a {type(observer).__name__}, which has none of the methods {', '.join(HOOKS)}")
        for hook in hooks:
            if inspect.iscoroutinefunction(getattr(observer, hook)):
                raise TypeError(f"{name}.{hook} is a coroutine function, and would not be awaited: write `def {hook}`")
    return checked


class Notifier:
    """Tells the observers of one call what happens, in order.

    Several threads may have something to tell, a signal handler too, and so may a hook: it may cancel the call that it
    is told of. So all of it goes into a queue, and whoever is telling already tells that, too. Nobody waits for an
    observer but the one who calls it, and he holds no lock that anybody else waits for.

    Attributes:
        begun: something has been told.
        captures: an observer wants to see content.
    """

    def __init__(self, observers: Sequence[object]) -> None:
        self._observers = observers
        self._captures = [getattr(each, "capture_content", False) is True for each in observers]
        self._queue: deque[tuple[int, str, CallView]] = deque()
        # Of the thread that tells; never waited for. Reentrant, for Ctrl-C may come before it is known to be held.
        self._turn = threading.RLock()
        self._over: set[int] = set()  # observers that have been told of the end
        self.begun = False
        self.captures = any(self._captures)

    def tell(
        self,
        hook: str,
        view: CallView,
        request: Mapping[str, Any] | None = None,
        completion: Completion | None = None,
    ) -> None:
        """Call a method of all observers.

        Args:
            hook: its name; behind `call_ended` nothing else is told.
            view: what they see.
            request: what those see besides who capture content.
            completion: the same.

        Raises:
            BaseException: what an observer has raised, if it is no `Exception`.
        """
        full = replace(view, request=request, completion=completion) if self.captures else view
        told = [(index, hook, full if captures else view) for index, captures in enumerate(self._captures)]
        # On one line, as in `_call`: Ctrl-C may come between any two.
        self.begun = self._queue.extend(told) is None  # type: ignore[func-returns-value]
        self._tell_all()

    def _tell_all(self) -> None:
        """Tell what is in the queue, unless a hook is running here already: then behind it."""
        running = _running.get()
        if running is not None and running.put_off(self):
            return
        running = _Running()
        try:
            copy_context().run(self._empty, running)  # so nothing has to be set back, whatever is interrupted
        finally:
            running.end()

    def _empty(self, running: _Running) -> None:
        _running.set(running)
        failure: BaseException | None = None
        while self._queue:
            mine = False
            try:
                mine = self._turn.acquire(blocking=False)
                if not mine:
                    break  # whoever has it looks at the queue again
                while self._queue:
                    try:
                        self._call()
                    except BaseException as error:  # the others are told all the same
                        failure = error if failure is None else failure
            finally:
                if mine:
                    self._turn.release()
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # its traceback holds this frame

    def _call(self) -> None:
        """Tell the first in the queue, and take it out."""
        first = self._queue[0]
        index, hook, view = first
        observer = self._observers[index]
        over = self._over if hook == "call_ended" else set()
        try:
            method = getattr(observer, hook, None)
            if method is None or index in self._over:
                self._queue.popleft()
            else:
                _ = self._queue.popleft(), over.add(index), method(view)  # type: ignore[func-returns-value]
        except Exception:
            logger.exception("%s.%s() has raised; the call goes on", type(observer).__name__, hook)
            if self._queue and self._queue[0] is first:
                self._queue.popleft()


class _Running:
    """Hooks are being called, on this stack. What else is to be told here, of other calls, waits for their end.

    For an observer may hold a lock of its own while the garbage collector, or a signal handler, ends another call.
    """

    def __init__(self) -> None:
        self._over = False
        self._later: deque[Notifier] = deque()

    def put_off(self, notifier: Notifier) -> bool:
        """Let one wait; False if there is nothing to wait for, for a task may have taken this context with it."""
        self._later.append(notifier)
        return not self._over

    def end(self) -> None:
        """Tell what has waited."""
        self._over = True
        while self._later:
            self._later.popleft()._tell_all()


_running: ContextVar[_Running | None] = ContextVar("chatanywhere_running", default=None)


def in_hook() -> bool:
    """Whether a hook is running, on this stack or in what has made this task."""
    return _running.get() is not None
