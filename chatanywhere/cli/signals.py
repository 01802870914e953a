"""Signals: Ctrl-C stops an answer, others end the program, and none keeps what came from being stored."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

_ENDING = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
"""What a program is ended with, by the system as it shuts down, or by a terminal as it is closed."""

_AT_ONCE = 1.0
"""Seconds in which a signal that comes again is the same: a key is pressed twice, and a shell hangs up as well."""


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)  # as a shell reports it


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Let the signals that would end the process raise `SystemExit`; under nohup, one is ignored."""
    numbers = [each for each in _ENDING if _is_main_thread() and signal.getsignal(each) is signal.SIG_DFL]
    try:
        for number in numbers:
            signal.signal(number, _end)
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


class Interrupts:
    """Holds signals back, but where they are to be raised, as a `KeyboardInterrupt` or `SystemExit`.

    Args:
        wake: is called when there is one, in the middle of anything.
    """

    def __init__(self, wake: Callable[[], object] | None = None) -> None:
        self._wake = wake
        self._handlers: dict[int, Any] = {}
        self._came: dict[int, float] = {}  # when, by number
        self._waiting: int | None = None
        self._raises = False

    def __enter__(self) -> Interrupts:
        for number in [signal.SIGINT, *_ENDING] if _is_main_thread() else []:
            handler = signal.getsignal(number)
            if handler in (signal.default_int_handler, _end):
                self._handlers[number] = handler
                signal.signal(number, self._take)
        return self

    @property
    def waits(self) -> bool:
        """Whether there is one that will be raised."""
        return self._waiting is not None

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._raise()

    @contextlib.contextmanager
    def raised(self) -> Iterator[None]:
        """Raise what comes from here on, and what came before."""
        self._raises = True
        try:
            self._raise()
            yield
        finally:
            self._raises = False

    def _take(self, number: int, _: object) -> None:
        now = time.monotonic()
        if now - self._came.get(number, -_AT_ONCE) >= _AT_ONCE:
            self._came[number], self._waiting = now, number
            if self._raises:
                self._raise()
            elif self._wake is not None:
                self._wake()

    def _raise(self) -> None:
        number, self._waiting = self._waiting, None
        if number is not None:
            self._handlers[number](number, None)
