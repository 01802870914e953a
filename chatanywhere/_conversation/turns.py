"""The turns of a conversation: made one at a time, and put into its history when they end. Knows no client."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
        # Not for what the garbage collector does with a stream or a coroutine that is forgotten, in any thread and in
        # the middle of anything: see `_end`.
        self._lock = threading.RLock()

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
        stream.add_done_callback(asking.keep)
        return stream

    def _end(self, asking: Asking) -> None:
        """A turn has ended; `_settle` puts it where it belongs. No lock is waited for, so it may be called anywhere."""
        if self._asking is not None and self._asking() is asking:
            self._asking = lambda: asking
            asking.over = True

    def _settle(self) -> None:
        """Put a turn that has ended where it belongs, before the history is looked at or changed."""
        held = self._asking  # which another thread may change
        asking = held and held()
        if not asking or not asking.has_ended():
            return
        with self._lock:
            if self._asking is None or self._asking() is not asking:
                return  # another thread has
            asking.take_stream()
            self._history.end(asking.turn)
            self._asking = None
