"""The turns of a conversation: made one at a time, and put into its history when they end. Knows no client."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from .._errors import ChatAnywhereError
from .._types import Completion
from .history import History
from .message import copied
from .turn import Asking, Turn, go_on

if TYPE_CHECKING:
    from .._async_client import AsyncStream
    from .._stream import Stream

S = TypeVar("S", bound="Stream | AsyncStream")


class Turns:
    """The turns of a conversation, of which one is made at a time, whatever the threads."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._asking: Callable[[], Asking | None] | None = None
        self._lock = threading.RLock()  # reentrant, because a stream may be collected anywhere

    @contextmanager
    def reading(self) -> Iterator[History]:
        """Read the history in here, which no other thread changes meanwhile."""
        self._settle()
        with self._lock:
            yield self._history

    @contextmanager
    def changing(self, what: str) -> Iterator[History]:
        """Change the history in here, or begin a turn.

        Raises:
            RuntimeError: an answer is on its way.
        """
        with self.reading() as history:
            if self._asking is not None and self._asking() is not None:
                raise RuntimeError(
                    f"an answer of this conversation is on its way: read it to its end or close it before {what}, or "
                    "use a copy of the conversation, made by fork()"
                )
            yield history

    def begin(self, turn: Turn, *, rest: bool = False, **limits: int | None) -> Asking:
        """Begin a turn, while nothing else changes the history.

        Args:
            turn: what is asked.
            rest: only the rest of its answer is.
            limits: as in `History.before`.
        """
        new = list(turn.messages)
        if rest:
            new += [{"role": "assistant", "content": turn.text}, {"role": "user", "content": go_on(turn.text)}]
        before = self._history.before(turn.index, new, **limits)
        asking = Asking(turn, [*before, *copied(new)], rest=rest)
        self._asking = weakref.ref(asking)  # whoever waits for the answer holds it
        return asking

    @contextmanager
    def answering(self, asking: Asking) -> Iterator[None]:
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

    def complete(self, asking: Asking, completion: Completion[Any]) -> Completion[Any]:
        """Put the turn of an answer into the history, and return the whole of the answer."""
        whole = asking.complete(completion)
        self._end(asking)
        return whole

    def watched(self, asking: Asking, stream: S) -> S:
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

    def _end(self, asking: Asking) -> None:
        with self._lock:
            if self._asking is None or self._asking() is not asking:
                return  # another thread has
            self._history.end(asking.turn)
            self._asking = None

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
