"""What a run may spend in a second, a minute and a day. No I/O; the clocks are the caller's."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime, timedelta, timezone
from typing import NamedTuple

BYTES_PER_TOKEN = 3
"""Of a request, as long as nobody knows better."""

_DAY = re.compile(r"([01]\d|2[0-3]):([0-5]\d)([+-])([01]\d|2[0-3]):([0-5]\d)", re.ASCII)


@dataclass(frozen=True)
class Limits:
    """What a run may spend; None for no limit.

    Attributes:
        requests_per_second: how many requests may start in any second.
        requests_per_minute: the same for any minute.
        tokens_per_minute: tokens of prompts and answers in any minute. What a call costs is known only when it ends;
            until then it counts as many as those before it did on average, and the first goes alone.
        requests_per_day: as `on_quota` says, the run stops or waits when they are spent. With a journal they are
            counted over all runs that have it.
        tokens_per_day: the same for tokens; what is on its way when they are spent comes on top.
        day_starts: when the day begins, as `"HH:MM+HH:MM"`: the time, and how far its zone is ahead of UTC.
        adaptive: whether fewer requests are made at a time after the service has said that there are too many.

    Raises:
        TypeError, ValueError: a limit is no positive number.
    """

    requests_per_second: float | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    requests_per_day: int | None = None
    tokens_per_day: int | None = None
    day_starts: str = "00:00+08:00"
    adaptive: bool = True

    def __post_init__(self) -> None:
        for each in fields(self)[:5]:
            value = getattr(self, each.name)
            kinds = (int, float) if each.name == "requests_per_second" else (int,)
            if value is not None and (isinstance(value, bool) or not isinstance(value, kinds)):
                kind = "an int" if len(kinds) == 1 else "a number"
                raise TypeError(f"Limits({each.name}=…) takes {kind}, or None for no limit, not {type(value).__name__}")
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"Limits({each.name}={value!r}): a positive number, or None for no limit")
        if not isinstance(self.day_starts, str) or not _DAY.fullmatch(self.day_starts):
            raise ValueError(f"Limits(day_starts={self.day_starts!r}): write it as '00:00+08:00'")
        if not isinstance(self.adaptive, bool):
            raise TypeError(f"Limits(adaptive=…) takes True or False, not {type(self.adaptive).__name__}")

    def day_start(self, now: float) -> datetime:
        """Return when the day began that `now` is in, which is in seconds since 1970."""
        found = _DAY.fullmatch(self.day_starts)
        assert found
        ahead = timedelta(hours=int(found[4]), minutes=int(found[5]))
        here = datetime.fromtimestamp(now, timezone(-ahead if found[3] == "-" else ahead))
        start = here.replace(hour=int(found[1]), minute=int(found[2]), second=0, microsecond=0)
        return start if start <= here else start - timedelta(days=1)

    def next_day(self, now: float) -> datetime:
        """Return when the next day begins."""
        return self.day_start(now) + timedelta(days=1)


class Minute(NamedTuple):
    """What has been spent in a minute.

    Attributes:
        begins: in seconds since 1970.
        requests: those that were sent.
        refused: those of them that the service refused to answer; no day's limit counts them.
        tokens: of answers and their prompts.
    """

    begins: float
    requests: int
    refused: int
    tokens: int


class Window:
    """No more than `most` in any `seconds`; what is larger than that goes alone."""

    def __init__(self, most: float, seconds: float) -> None:
        self._most = most
        self._seconds = seconds
        self._spent: deque[list[float]] = deque()  # when, and how much
        self._sum = 0.0

    def ready_at(self, amount: float, now: float) -> float:
        """Return when so much may be spent: `now`, or later."""
        spent = self._spent
        while spent and spent[0][0] + self._seconds <= now:
            self._sum -= spent.popleft()[1]
        left = self._sum
        if not spent or left + amount <= self._most:
            return now
        for when, each in spent:
            left -= each
            if left + amount <= self._most:
                return when + self._seconds
        return spent[-1][0] + self._seconds

    def spend(self, amount: float, now: float) -> list[float]:
        """Take note of what is spent; return the entry, for `correct`."""
        entry = [now, amount]
        self._spent.append(entry)
        self._sum += amount
        return entry

    def correct(self, entry: list[float], amount: float) -> None:
        """Say what it came to."""
        if self._spent and entry[0] >= self._spent[0][0]:  # else it is forgotten
            self._sum += amount - entry[1]
        entry[1] = amount


class Limiter:
    """Says when the next request may start.

    Args:
        limits: what may be spent.
        today: now, in seconds since 1970.
        now: the same by the clock that is never set back.
        spent: by earlier runs, since the day began and in the last minute at least; the oldest first.
    """

    def __init__(self, limits: Limits, today: float, now: float, spent: Iterable[Minute] = ()) -> None:
        self._limits = limits
        self._requests: list[Window] = []
        if limits.requests_per_second is not None:
            most = limits.requests_per_second
            whole = most == int(most)  # else they are spaced
            self._requests.append(Window(most, 1.0) if whole else Window(1, 1 / most))
        if limits.requests_per_minute is not None:
            self._requests.append(Window(limits.requests_per_minute, 60.0))
        self._tokens = None if limits.tokens_per_minute is None else Window(limits.tokens_per_minute, 60.0)
        self._day = limits.day_start(today)
        self.requests = self.tokens = 0
        self._mean: float | None = None  # tokens of a call
        for minute in spent:
            self._remember(minute, today, now)

    def _remember(self, minute: Minute, today: float, now: float) -> None:
        answered = minute.requests - minute.refused
        if minute.begins >= self._day.timestamp():
            self.requests += answered
            self.tokens += minute.tokens
        when = now - max(0.0, today - (minute.begins + 60))  # nobody knows better, so at its end
        if when > now - 60:
            for window in self._requests:
                window.spend(minute.requests, when)
            if self._tokens is not None:
                self._tokens.spend(minute.tokens, when)
        if minute.tokens and answered > 0:
            self._mean = minute.tokens / answered

    def ready_at(self, size: int, now: float) -> float:
        """Return when a request may start.

        Args:
            size: of its body in bytes.
            now: by a clock that is never set back.
        """
        ready = max((window.ready_at(1, now) for window in self._requests), default=now)
        if self._tokens is not None:
            ready = max(ready, self._tokens.ready_at(self._expected(size), now))
        return ready

    def start(self, size: int, now: float) -> list[float] | None:
        """A request starts; return what its tokens are counted by, for `end`."""
        self.requests += 1
        for window in self._requests:
            window.spend(1, now)
        return None if self._tokens is None else self._tokens.spend(self._expected(size), now)

    def end(self, entry: list[float] | None, tokens: int | None) -> None:
        """It has ended, and cost so many tokens; None if the service refused to do it."""
        if tokens is None:
            self.requests = max(0, self.requests - 1)  # it may have been sent on the day before
        if entry is not None and self._tokens is not None:
            self._tokens.correct(entry, tokens or 0)
        if tokens:
            self.tokens += tokens
            self._mean = tokens if self._mean is None else 0.9 * self._mean + 0.1 * tokens

    @property
    def guesses(self) -> bool:
        """Whether tokens are limited, and nobody knows what a call costs."""
        return self._tokens is not None and self._mean is None

    def _expected(self, size: int) -> float:
        return size / BYTES_PER_TOKEN if self._mean is None else self._mean

    def spent(self, now: float) -> str | None:
        """Return which limit of the day is spent, None if none is; `now` is in seconds since 1970."""
        day = self._limits.day_start(now)
        if day != self._day:
            self._day, self.requests, self.tokens = day, 0, 0
        for name, spent in (("requests_per_day", self.requests), ("tokens_per_day", self.tokens)):
            most = getattr(self._limits, name)
            if most is not None and spent >= most:
                return f"{name}={most}"
        return None
