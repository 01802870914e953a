"""What a run does next: which prompt is asked when, what follows from how it went, and when the run ends. No I/O.

It makes no thread and no request, and the clocks are the caller's, so that a run of hours is tested in a moment.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timezone

from .._errors import APIStatusError, ChatAnywhereError, StreamCancelledError
from .._http.scope import CallScope
from .._types import Completion
from .asker import Task
from .gate import Gate
from .limits import Limiter, Limits, Minute
from .progress import Tally, paid_for, tokens_of
from .result import Result
from .trouble import LONGEST_TROUBLE, MOST_REFUSALS, Trouble, as_refusal, as_stop, is_daily, own_limit

_HOUR = 3600.0
_ODD = 2  # refusals of one prompt in a row, while others are answered, that are no matter of the moment
_PAUSE, _LONGEST_PAUSE = 0.1, 4.0  # seconds between the next of them; it doubles


class Engine:
    """Decides; somebody else does it.

    Args:
        tally: what is counted.
        concurrency: how many requests are made at a time.
        limits: what they may spend.
        clock: seconds that are never set back.
        today: seconds since 1970.
        spent: what earlier runs have spent, as the limiter wants to know it.
        errors, max_errors, on_quota, reuse: as in `Client.map`.

    Attributes:
        error: why the run has stopped.
    """

    def __init__(
        self,
        tally: Tally,
        *,
        concurrency: int,
        limits: Limits,
        clock: Callable[[], float],
        today: Callable[[], float],
        spent: Iterable[Minute] = (),
        errors: str = "return",
        max_errors: int | None = None,
        on_quota: str = "stop",
        reuse: bool = False,
    ) -> None:
        self._tally = tally
        self._concurrency = concurrency
        self._limits = limits
        self._clock = clock
        self._today = today
        self._most_failures = 1 if errors == "raise" else max_errors
        self._keeps_failures = errors != "raise"
        self._waits = on_quota == "wait"
        self._gate = Gate(concurrency, adaptive=limits.adaptive)
        self._limiter = Limiter(limits, today(), clock(), spent)
        self._queue: deque[Task] = deque()
        self._resting: list[tuple[float, int, Task]] = []  # between two attempts; they keep their slots
        self._apart: list[tuple[float, int, Task]] = []  # refused while others are answered; they have no slots
        self._running: set[Task] = set()
        self._sleeps_until: float | None = None  # by `today`
        self._probing = False  # after a sleep, one request says whether there is a quota again
        self._trouble = Trouble()
        self._answers = 0
        self._first: dict[bytes, Task | Result] | None = {} if reuse else None  # of equal prompts
        self._followers: dict[Task, list[Task]] = {}
        self.error: BaseException | None = None
        self._source_error: BaseException | None = None
        self._reading = True

    # What comes in ------------------------------------------------------------------------------------------

    def add(self, task: Task) -> Result | None:
        """Take a prompt; return its result if an equal one has been answered."""
        self._tally.read += 1
        if self._first is not None and task.key is not None:
            first = self._first.setdefault(task.key, task)
            if isinstance(first, Result):
                return self._shared(first, task)
            if first is not task:
                self._followers.setdefault(first, []).append(task)
                return None
        if not self._busy:
            self._trouble.end()
        self._queue.append(task)
        return None

    def add_recorded(self, result: Result) -> None:
        """Take a prompt that an earlier run has asked, and what became of it."""
        self._tally.read += 1
        self._count(result)

    def end_reading(self, error: BaseException | None = None) -> None:
        """No more prompts will be read; `error` is why, if it is no good reason. Those that were come to their end."""
        self._reading = False
        self._source_error = error

    @property
    def _busy(self) -> bool:
        return bool(self._queue or self._resting or self._apart or self._running)

    @property
    def over(self) -> bool:
        """Nothing more will happen."""
        if self._running:
            return False
        return self.error is not None or not (self._reading or self._busy)

    @property
    def failure(self) -> BaseException | None:
        """What the run has failed with, when it is over."""
        return self.error or self._source_error

    def stop(self, error: BaseException, resume_at: datetime | None = None) -> None:
        """Start no more calls; those that are running may end."""
        if self.error is not None:
            return
        self.error = error
        self._queue.clear()
        self._resting.clear()
        self._apart.clear()
        if isinstance(error, ChatAnywhereError):
            wait = getattr(error, "retry_after", None)
            if resume_at is None and wait is not None:
                with suppress(OverflowError, ValueError, OSError):  # a service may name any number
                    resume_at = datetime.fromtimestamp(self._today() + wait, timezone.utc)
            error.resume_at = resume_at

    # What goes out ------------------------------------------------------------------------------------------

    def due(self) -> list[Task]:
        """Return the prompts that are to be asked now; they have their slots."""
        now, started = self._clock(), list[Task]()
        while self._apart and self._apart[0][0] <= now:
            self._queue.append(heapq.heappop(self._apart)[2])
        while (task := self._next(now)) is not None:
            if task.clock is None:
                task.began, task.time_left = now, task.timeout.total
            task.clock = CallScope(replace(task.timeout, total=task.time_left))
            task.started, task.refused = now, False
            task.attempts += 1
            task.spending = self._limiter.start(task.size, now)
            self._gate.start(now)
            self._running.add(task)
            started.append(task)
        return started

    def _next(self, now: float) -> Task | None:
        """Take the next prompt, if one may be asked now."""
        if self.error is not None or not self._first_waiting(now) or self._is_asleep():
            return None
        if (ready := self._ready_at(now)) is None or ready > now:
            self._stop_if_in_trouble(now)
            return None
        if (limit := self._limiter.spent(self._today())) is not None:
            self._refused_for_good(own_limit(limit))
            return None
        if self._resting and self._resting[0][0] <= now:
            return heapq.heappop(self._resting)[2]
        return self._queue.popleft()

    def _first_waiting(self, now: float) -> Task | None:
        if self._resting and self._resting[0][0] <= now:
            return self._resting[0][2]
        has_slot = len(self._running) + len(self._resting) < self._concurrency
        return self._queue[0] if self._queue and has_slot else None

    def _ready_at(self, now: float) -> float | None:
        """When a request may start; None if another has to end before."""
        task = self._first_waiting(now)
        goes_alone = self._probing or (self._limiter.guesses and not self._answers)
        if task is None or (goes_alone and self._running):
            return None
        ready = self._gate.ready_at(len(self._running), now)
        return None if ready is None else max(ready, self._limiter.ready_at(task.size, now))

    def wait(self) -> float | None:
        """Return the seconds after which `due` may return something, None if something has to happen before."""
        now = self._clock()
        if self.error is not None:
            return None
        if self._sleeps_until is not None:
            # A machine that is asleep may stand still by the one clock, and not by the other.
            return min(60.0, max(0.0, self._sleeps_until - self._today()))
        times = [waiting[0][0] for waiting in (self._resting, self._apart) if waiting and waiting[0][0] > now]
        ready = self._ready_at(now)
        if ready is not None:
            times.append(ready)
            if self._trouble.since is not None:
                times.append(self._trouble.since + LONGEST_TROUBLE)
        return min(_HOUR, max(0.0, min(times) - now)) if times else None

    # How it went --------------------------------------------------------------------------------------------

    def settle(self, task: Task, outcome: Completion | BaseException) -> Result | None:
        """Take what an attempt came to; return the result, if the prompt has one now."""
        self._running.discard(task)
        if isinstance(outcome, Completion):
            return self._answered(task, outcome)
        return self._not_answered(task, outcome)

    def _not_answered(self, task: Task, error: BaseException) -> Result | None:
        if isinstance(error, StreamCancelledError):
            self._limiter.end(task.spending, 0)
            return None
        now, stop, refusal = self._clock(), as_stop(error), as_refusal(error)
        paid = paid_for(error)
        self._limiter.end(task.spending, None if stop or refusal else tokens_of(paid))
        if paid is not None:
            self._tally.pay(task.model, paid)
        self._trouble.note(error, now)
        result = None
        if stop is not None:
            self._requeue(task)
            self._refused_for_good(stop)
        elif refusal is not None:
            result = self._refused(task, refusal)
        else:
            result = self._failed_attempt(task, error)
        self._stop_if_in_trouble(now)
        return result

    def _answered(self, task: Task, completion: Completion) -> Result:
        now = self._clock()
        self._limiter.end(task.spending, tokens_of(completion))
        self._gate.answer(now - task.started)
        self._tally.pay(task.model, completion)
        self._answers += 1
        self._note_first(task, answered=True)
        self._trouble.end()
        if self._gate.held_until > now:  # it has refused others, and has them wait
            self._trouble.since = now
        self._probing = self._probing and self._sleeps_until is not None  # else it was sent before the sleep
        result = Result(task.index, task.id, task.prompt, completion, None, task.attempts, round(now - task.began, 6))
        self._count(result)
        return result

    def _refused(self, task: Task, error: APIStatusError) -> Result | None:
        """The service has no time: everybody waits, and it was no attempt. Or it never has any for this prompt."""
        now = self._clock()
        self._note_first(task, answered=False)
        if not task.refusals:
            task.answers_before = self._answers
        task.refusals += 1
        if self._answers > task.answers_before and self._trouble.others_succeed:
            task.odd_refusals += 1
        if task.odd_refusals >= MOST_REFUSALS - 1:  # the first one says nothing of others
            return self._fail(task, error)
        if task.odd_refusals < _ODD:
            self._gate.refuse(error.retry_after, now, odd=task.odd_refusals > 0)
            self._requeue(task)
        else:
            self._gate.pass_over(error.retry_after, now)
            self._requeue(task, min(_PAUSE * 2 ** (task.odd_refusals - _ODD), _LONGEST_PAUSE))
        return None

    def _note_first(self, task: Task, *, answered: bool) -> None:
        if task.is_first:
            task.is_first = False
            self._trouble.note_first(answered=answered)

    def _requeue(self, task: Task, pause: float | None = None) -> None:
        task.attempts -= 1
        task.refused = True
        task.clock = None  # the time in the queue is not the call's
        if self.error is not None:
            return
        if pause is not None:
            heapq.heappush(self._apart, (self._clock() + pause, task.index, task))
        elif task.refusals < 2:
            self._queue.appendleft(task)
        else:
            self._queue.append(task)  # it may be the prompt that is refused, and not the moment

    def _failed_attempt(self, task: Task, error: BaseException) -> Result | None:
        task.refusals = task.odd_refusals = 0
        task.is_first = False
        wait = None
        if isinstance(error, ChatAnywhereError) and task.again and self.error is None:
            # What it waits longer than it should, because the service has no time for anybody, is not its own.
            if task.time_left is not None:
                task.time_left = max(0.0, task.time_left - (self._clock() - task.started))
            wait = task.retry.wait_before_next(error, task.attempts, task.time_left)
        if wait is None:
            if not isinstance(error, Exception):  # such as SystemExit, which is meant for the program
                self.stop(error)
            return self._fail(task, error)
        if task.time_left is not None:
            task.time_left -= wait
        heapq.heappush(self._resting, (self._clock() + wait, task.index, task))
        return None

    def _fail(self, task: Task, error: BaseException) -> Result | None:
        if not isinstance(error, Exception):
            return None
        error.__traceback__ = None  # its frames hold the call
        if isinstance(error, ChatAnywhereError):
            error.attempts = task.attempts
        seconds = round(self._clock() - task.began, 6)
        result = Result(task.index, task.id, task.prompt, None, error, task.attempts, seconds)
        self._count(result)
        return result

    def followers(self, task: Task, result: Result | None) -> list[Result]:
        """Return the results of those that ask the same as `task`, which has got its own."""
        if self._first is None or task.key is None or result is None:
            return []
        if result.completion is None:
            self._first.pop(task.key, None)
        else:
            self._first[task.key] = result
        return [self._shared(result, each) for each in self._followers.pop(task, [])]

    def _shared(self, result: Result, task: Task) -> Result:
        result = replace(result, index=task.index, id=task.id, prompt=task.prompt)
        self._count(result)
        return result

    def _count(self, result: Result) -> None:
        failed = self._tally.count(result, counts_failure=self._keeps_failures)
        if result.error is not None and self._most_failures is not None and failed >= self._most_failures:
            self.stop(result.error)

    def hands_out(self, result: Result) -> bool:
        """Whether the caller gets it as a result."""
        return result.error is None or self._keeps_failures

    # When it is no use to go on -----------------------------------------------------------------------------

    def _stop_if_in_trouble(self, now: float) -> None:
        error = self._trouble.lasts_too_long(now)
        if error is not None:
            self.stop(error)

    def _refused_for_good(self, error: ChatAnywhereError) -> None:
        """The quota is spent, or the money, or the key is none."""
        if not is_daily(error):
            self.stop(error)
        elif self._waits:
            self._sleep()
        else:
            self.stop(error, self._limits.next_day(self._today()))

    def _sleep(self) -> None:
        today = self._today()
        self._trouble.end()
        if self._sleeps_until is None:  # else another one has said the same
            self._sleeps_until = today + _HOUR if self._probing else self._limits.next_day(today).timestamp()
            self._probing = True

    def _is_asleep(self) -> bool:
        if self._sleeps_until is not None and self._today() < self._sleeps_until:
            return True
        self._sleeps_until = None
        return False
