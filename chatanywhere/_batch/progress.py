"""How far a run has come. The only user of tqdm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any, TypeAlias

from .._errors import OutputError
from .._types import Completion
from .result import Result

Prices: TypeAlias = Mapping[str, "tuple[float, float]"]
"""What a million tokens of a model cost, sent and received."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come.

    Attributes:
        done: prompts that have an answer.
        failed: prompts that have none.
        waiting: the others; where nobody knows how many prompts there are, those that have been read.
        from_journal: how many of `done` and `failed` an earlier run has asked.
        in_doubt: prompts that an earlier run had sent when it was ended, so that they may be billed twice.
        tokens: those that this run has spent.
        seconds_left: by what has been done so far; None if nobody knows how many prompts there are.
        cost: what the tokens cost, None without `prices`. A model that has no price is left out.
    """

    done: int
    failed: int
    waiting: int
    from_journal: int
    in_doubt: int
    tokens: int
    seconds_left: float | None
    cost: float | None


def tokens_of(completion: Completion | None) -> int:
    """Return what an answer has cost, as far as the service tells; 0 for none."""
    usage = None if completion is None else completion.usage
    return 0 if usage is None else usage.total_tokens or usage.prompt_tokens + usage.completion_tokens


def paid_for(error: BaseException | None) -> Completion | None:
    """Return the answer that is paid for though it is an error, None if there is none."""
    return error.completion if isinstance(error, OutputError) else None


class Tally:
    """What is counted of a run.

    Args:
        clock: seconds that are never set back.
        total: how many prompts there are; None if nobody knows.
        prices: as in `Client.map`.

    Attributes:
        read: prompts that have been read.
        in_doubt, tokens: as in `Progress`.
    """

    def __init__(self, clock: Callable[[], float], total: int | None = None, prices: Prices | None = None) -> None:
        self._clock = clock
        self._began = clock()
        self._total = total
        self._prices = prices
        self._cost = 0.0
        self._done = self._failed = self._recorded = 0
        self.read = self.in_doubt = self.tokens = 0

    def end(self, total: int) -> None:
        """There are so many prompts, and no others."""
        self._total = total

    def count(self, result: Result, *, counts_failure: bool) -> int:
        """Count a result; return how many have failed, this one included."""
        failed = self._failed + (result.error is not None)
        self._done += result.error is None
        if result.error is None or counts_failure:
            self._failed = failed
            self._recorded += result.from_journal
        return failed

    def pay(self, model: str, completion: Completion) -> None:
        """An answer of this model has been paid for."""
        self.tokens += tokens_of(completion)
        prices, usage = self._prices or {}, completion.usage
        price = prices.get(model) or prices.get(completion.model or "")
        if price is not None and usage is not None:
            self._cost += (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1e6

    @property
    def left(self) -> int:
        """Prompts that have no result."""
        known = self.read if self._total is None else max(self._total, self.read)
        return known - self._done - self._failed

    @property
    def progress(self) -> Progress:
        """How far the run has come."""
        left, asked, seconds = self.left, self._done + self._failed - self._recorded, None
        if asked > 0 and self._total is not None:
            seconds = (self._clock() - self._began) / asked * left
        cost = None if self._prices is None else self._cost
        return Progress(self._done, self._failed, left, self._recorded, self.in_doubt, self.tokens, seconds, cost)


def teller(progress: bool | Callable[[Progress], object] | None) -> Callable[[Progress], object] | None:
    """Return what is told of each step; see `map`.

    Raises:
        TypeError: it can't be called.
        ImportError: a bar needs tqdm, which is not installed.
    """
    if progress is None or progress is False:
        return None
    if progress is True:
        return Bar()
    if not callable(progress) or iscoroutinefunction(progress):
        kind = type(progress).__name__ if not callable(progress) else "an async one"
        raise TypeError(f"progress must be True, or a function that takes a Progress, not {kind}")
    return progress


class Bar:
    """A bar of tqdm's, on a terminal's stderr.

    Raises:
        ImportError: tqdm is not installed.
    """

    def __init__(self) -> None:
        try:
            from tqdm import tqdm
        except ImportError as exc:
            raise ImportError("progress=True needs tqdm: pip install 'chatanywhere[batch]'", name="tqdm") from exc
        self._make = tqdm
        self._bar: Any = None

    def __call__(self, progress: Progress) -> None:
        """Draw how far the run has come."""
        if self._bar is None:
            self._bar = self._make(unit="prompt", initial=progress.from_journal)
        bar = self._bar
        bar.total = progress.done + progress.failed + progress.waiting
        said = {"failed": str(progress.failed)} if progress.failed else {}
        if progress.cost is not None:
            said["cost"] = f"{progress.cost:.4g}"
        bar.set_postfix(said, refresh=False)
        bar.update(progress.done + progress.failed - bar.n)

    def close(self) -> None:
        """Leave it as it is, and go to the next line."""
        if self._bar is not None:
            self._bar.close()
