"""Several calls that are one to the caller: some at a time, under one deadline, and with one end.

Both faces have it: threads or tasks take the calls in turn, and a face has only to wait for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

from ._call import Call
from ._errors import ChatAnywhereError
from ._http.scope import CallScope
from ._policy import Timeout

T = TypeVar("T")


def _raise(error: ChatAnywhereError) -> Any:
    raise error


class CallGroup(Generic[T]):
    """Calls that are made when it is their turn.

    Args:
        makers: make the calls.
        timeout: of it, `total` bounds them all together, from now on.
        most: how many are made at a time, on a connection each.
        settle: makes of a call's error its value; without it, the first error ends the group.

    Attributes:
        values: those of the calls, in the order of the makers; to be looked at when all have ended.
        size: how many threads or tasks have something to do.
    """

    def __init__(
        self,
        makers: Iterable[Callable[[], Call[T]]],
        timeout: Timeout,
        *,
        most: int = 8,
        settle: Callable[[ChatAnywhereError], T] = _raise,
    ) -> None:
        self._waiting = deque(enumerate(makers))
        self._places: dict[Call[T], int] = {}  # of the calls that are being made
        self._settle = settle
        self._scope = CallScope(timeout)
        self.values: list[Any] = [None] * len(self._waiting)
        self.size = min(most, len(self._waiting))

    def take(self) -> Call[T] | None:
        """Return the next call, which is to be made; None if there is no other."""
        try:
            place, make = self._waiting.popleft()
        except IndexError:
            return None
        call = make()
        call.scope.share_deadline(self._scope)
        self._places[call] = place
        if self._scope.cancelled:  # in between
            call.cancel()
        return call

    def put(self, call: Call[T], value: T) -> None:
        """Take the value of a call that has ended."""
        self.values[self._places.pop(call)] = value

    def settle(self, call: Call[T], error: ChatAnywhereError) -> None:
        """The same for one that has failed.

        Raises:
            ChatAnywhereError: the group has failed with it.
        """
        self.put(call, self._settle(error))

    def cancel(self) -> None:
        """Let no other call begin, and end those that are being made, from any thread."""
        self._scope.cancel()
        self._waiting.clear()
        for call in list(self._places):
            call.cancel()

    def read(self) -> list[T]:
        """Make all calls, blocking until they have ended, and return their values.

        Raises:
            ChatAnywhereError: one has failed.
        """
        if self.size <= 1:
            self._work()
            return self.values
        from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait  # few need it
        from contextvars import copy_context

        with ThreadPoolExecutor(self.size, "chatanywhere") as threads:
            try:
                workers = [threads.submit(copy_context().run, self._work) for _ in range(self.size)]
                for worker in wait(workers, return_when=FIRST_EXCEPTION).done:
                    worker.result()
            finally:
                self.cancel()  # Ctrl-C, too, ends all of it
        return self.values

    def _work(self) -> None:
        while (call := self.take()) is not None:
            try:
                self.put(call, call.read())
            except ChatAnywhereError as error:
                self.settle(call, error)
