"""How many requests are made at a time, as the service's refusals teach it. No I/O; the clock is the caller's."""

from __future__ import annotations

_CUT = 0.7
_REST = 0.5  # seconds between two cuts, for the refusals of one moment say the same
_PAUSE = 0.1  # seconds that nobody asks after a refusal; it doubles until there is an answer
_LONGEST_PAUSE = 8.0


class Gate:
    """One for all prompts of a run: a refusal slows down everybody, and each answer makes it a little faster.

    Requests that start together are refused together. So from the first refusal on they are spread over the time that
    an answer takes, and the first of them that is refused holds back the others.

    Args:
        most: how many requests may be made at a time.
        adaptive: whether fewer are after a refusal.

    Attributes:
        limit: how many are allowed at the moment.
        held_until: until when there is none, by the clock of the caller.
    """

    def __init__(self, most: int, *, adaptive: bool = True) -> None:
        self._most = most
        self._adaptive = adaptive
        self.limit = float(most)
        self.held_until = 0.0
        self._cut_at: float | None = None
        self._row = 0  # pauses since the last answer
        self._seconds: float | None = None  # that an answer takes
        self._next = 0.0

    def ready_at(self, running: int, now: float) -> float | None:
        """Return when another request may start, None if one of those that are running has to end before."""
        return max(now, self.held_until, self._next) if running < int(self.limit) else None

    def start(self, now: float) -> None:
        """A request starts."""
        if self._cut_at is not None and self._seconds is not None:
            self._next = max(now, self._next) + self._seconds / self.limit

    def answer(self, seconds: float) -> None:
        """A request has been answered, and took so long."""
        self._row = 0
        self._seconds = seconds if self._seconds is None else 0.9 * self._seconds + 0.1 * seconds
        self.limit = min(self._most, self.limit + 1 / self.limit)

    def refuse(self, retry_after: float | None, now: float, *, odd: bool = False) -> None:
        """A request has been refused, and perhaps been told how long everybody has to wait.

        It is odd if others have been answered meanwhile.
        """
        if self._adaptive and (self._cut_at is None or now - self._cut_at >= _REST):
            self.limit = max(1.0, self.limit * _CUT)
            self._cut_at = now
        if now >= self.held_until:
            self.held_until = now + (_PAUSE if odd else min(_PAUSE * 2**self._row, _LONGEST_PAUSE))
            self._row = min(self._row + (not odd), 10)
        self._hold(retry_after, now)

    def pass_over(self, retry_after: float | None, now: float) -> None:
        """A request has been refused that says nothing of the others, but for how long everybody has to wait."""
        self._next = min(self._next, now)
        self._hold(retry_after, now)

    def _hold(self, retry_after: float | None, now: float) -> None:
        self.held_until = max(self.held_until, now + (retry_after or 0.0))
