"""A world without threads and without time: an engine, the prompts, and a service that is a function."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

from chatanywhere import Completion, InternalServerError, Limits, RateLimitError, Result, Usage
from chatanywhere._batch.asker import Task
from chatanywhere._batch.engine import Engine
from chatanywhere._batch.progress import Tally

NOON = 1_700_000_000.0  # seconds since 1970

Answer = Completion | Exception
Service = Callable[[float, Task], "tuple[float, Answer]"]
"""What a request that arrives at a time comes to: seconds until it ends, and how."""


def completion(tokens: int = 20) -> Completion:
    return Completion("Hello", usage=Usage(tokens // 2, tokens - tokens // 2, tokens), finish_reason="stop")


def refusal(retry_after: float | None = None, status: int = 429, words: str = "slow down") -> Exception:
    kind = RateLimitError if status == 429 else InternalServerError
    error = kind(words, status_code=status)
    error.retry_after = retry_after
    return error


class World:
    """Runs an engine to its end.

    Attributes:
        now: seconds since it began.
        sent: when each request was sent, and of which prompt.
        results: what was handed out.
        most: how many requests were on their way at the same time.
    """

    def __init__(
        self, count: int, service: Service, *, limits: Limits | None = None, ahead: int | None = None, **options: Any
    ) -> None:
        self.now = 0.0
        self.asleep = 0.0  # seconds by which the clock on the wall is ahead
        self.sent: list[tuple[float, int]] = []
        self.results: list[Result] = []
        self.most = 0
        self.service = service
        self.tally = Tally(lambda: self.now, count)
        self.engine = Engine(
            self.tally,
            **{"concurrency": 16, **options},
            limits=limits or Limits(),
            clock=lambda: self.now,
            today=lambda: NOON + self.now + self.asleep,
        )
        self._unread = deque(range(count))
        self._ahead = ahead or count
        self._read()
        self._coming: list[tuple[float, int, Task, Answer]] = []

    def _read(self) -> None:
        """Read as many prompts as may be without a result."""
        while self._unread and self.tally.read - len(self.results) < self._ahead:
            task = Task(self._unread.popleft(), "prompt")
            task.size = 60
            self.engine.add(task)
        if not self._unread:
            self.engine.end_reading()

    def run(self, until: float = 1e9) -> World:
        """Let time pass until the run is over."""
        number = steps = 0
        while not self.engine.over and self.now < until:
            steps += 1
            assert steps < 50_000, "it goes round in circles"
            for task in self.engine.due():
                seconds, answer = self.service(self.now, task)
                self.sent.append((self.now, task.index))
                number += 1
                heapq.heappush(self._coming, (self.now + seconds, number, task, answer))
            self.most = max(self.most, len(self._coming))
            if self.engine.over:
                break
            wait = self.engine.wait()
            times = [self._coming[0][0]] if self._coming else []
            times += [] if wait is None else [self.now + max(wait, 1e-6)]
            assert times, "nothing will ever happen"
            self.now = min(times)
            while self._coming and self._coming[0][0] <= self.now:
                _, _, task, answer = heapq.heappop(self._coming)
                result = self.engine.settle(task, answer)
                if result is not None and self.engine.hands_out(result):
                    self.results.append(result)
                    self._read()
        return self


def allows(rate: int, kind: str, seconds: float = 0.2) -> Service:
    """A service that allows so many requests a second, and counts them in one of several ways."""
    log: deque[float] = deque()
    tokens, last = float(rate), 0.0

    def allowed(now: float) -> bool:
        nonlocal tokens, last
        if kind == "bucket":
            tokens, last = min(rate, tokens + (now - last) * rate), now
            tokens -= (has := tokens >= 1)
            return has
        begins = float(int(now)) if kind == "fixed window" else now - 1
        while log and (log[0] < begins or (log[0] == begins and kind != "fixed window")):
            log.popleft()
        if kind == "counting refusals" or len(log) < rate:
            log.append(now)
            return len(log) <= rate
        return False

    def service(now: float, task: Task) -> tuple[float, Answer]:
        # As far apart as requests of threads are.
        spread = (task.index * 7919 % 100) / 100
        if allowed(now + 0.001):
            return seconds * (0.95 + 0.1 * spread), completion()
        return 0.002 + 0.003 * spread, refusal()

    return service
