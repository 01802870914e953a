"""Waiting in tests for what other threads and processes bring about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


def until(condition: Callable[[], object], seconds: float) -> None:
    """Fail unless the condition comes true in so many seconds."""
    end = time.monotonic() + seconds
    pause = threading.Event()  # which needs no `time.sleep`, that a test may have replaced
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        pause.wait(0.005)
