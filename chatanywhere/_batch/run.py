"""What the caller of `map` holds: the results, in their order, and the means to stop."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping, Sized
from numbers import Real
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Literal, TypedDict

from .._policy import logger
from .._types import Parsed
from .asker import Asker
from .engine import Engine
from .journal import Journal
from .limits import Limits, Minute
from .progress import Bar, Prices, Progress, Tally, teller
from .result import Result
from .runner import End, Runner

if TYPE_CHECKING:
    from distributed import Client as DaskClient

    from .._service import Service


class MapOptions(TypedDict):
    """The arguments of `Client.map` that are about the run, and not about its calls."""

    journal: str | os.PathLike[str] | None
    concurrency: int
    limits: Limits | None
    order: Literal["input", "done"]
    ahead: int | None
    errors: Literal["return", "raise"]
    max_errors: int | None
    on_quota: Literal["stop", "wait"]
    reuse: bool
    retry_failed: bool
    progress: bool | Callable[[Progress], object] | None
    prices: Prices | None
    executor: DaskClient | None


class BaseRun(Generic[Parsed]):
    """What the blocking and the async run have in common: all but the waiting.

    Raises: as `Client.map`.
    """

    def __init__(
        self, service: Service, prompts: Iterable[Any], options: MapOptions, call_options: Mapping[str, Any]
    ) -> None:
        _check(prompts, options)
        concurrency, limits = options["concurrency"], options["limits"] or Limits()
        asker = _asker(service, call_options, options)
        self._tell = teller(options["progress"])
        self._tally = Tally(time.monotonic, _length(prompts), options["prices"])
        journal = None if options["journal"] is None else Journal(options["journal"], time.time)
        spent: list[Minute] = []
        if journal is not None:
            try:
                now = time.time()
                spent = journal.spent_since(min(limits.day_start(now).timestamp(), now - 60))
            except BaseException:
                journal.close()
                raise
            if journal.in_doubt:
                logger.warning(
                    "prompts that were on their way when an earlier run ended: %d; those that are asked again may be "
                    "billed twice",
                    journal.in_doubt,
                )
        engine = Engine(
            self._tally,
            concurrency=concurrency,
            limits=limits,
            clock=time.monotonic,
            today=time.time,
            spent=spent,
            errors=options["errors"],
            max_errors=options["max_errors"],
            on_quota=options["on_quota"],
            reuse=options["reuse"],
        )
        self._runner = Runner(
            engine,
            self._tally,
            asker,
            prompts,
            journal,
            ahead=options["ahead"] or 4 * concurrency,
            keyed=journal is not None or options["reuse"],
            counted=not options["reuse"],
            retry_failed=options["retry_failed"],
        )
        self._in_order = options["order"] == "input"
        self._held: dict[int, Result[Parsed]] = {}  # that wait for those before them
        self._next_index = 0
        self._end: End | None = None
        self._is_raised = False
        self._turn = threading.Lock()  # held by the thread or task that waits for a result
        # The threads know the runner only, so that a run which is forgotten ends, at the latest with the program.
        self._close_runner = weakref.finalize(self, self._runner.close)

    @property
    def progress(self) -> Progress:
        """How far the run has come, at any time."""
        return self._tally.progress

    def cancel(self) -> None:
        """Start no more calls, and end those that are running; from any thread or task, or a signal handler.

        Who iterates gets the results that there are, and then `StreamCancelledError`.
        """
        self._runner.cancel()

    def _take(self, item: Result[Parsed] | End) -> None:
        """Take an item out of the outbox."""
        if isinstance(item, End):
            self._end = item
        else:
            self._held[item.index] = item
        if self._tell is not None:
            try:
                self._tell(self.progress)
            except (StopIteration, StopAsyncIteration) as error:  # which would be taken for the end of the run
                raise RuntimeError(f"progress= raised {type(error).__name__}") from error
            if self._end is not None and isinstance(self._tell, Bar):
                self._tell.close()

    def _ready(self) -> Result[Parsed] | None:
        """Return the result that is to be handed out next, None if that has not come."""
        if not self._held:
            return None
        index = self._next_index
        if not self._in_order:
            index = next(iter(self._held))
        elif index not in self._held:
            if self._end is None:
                return None
            self._held = dict(sorted(self._held.items()))  # those between them have none
            self._in_order = False
            index = next(iter(self._held))
        self._next_index = index + 1
        self._runner.handed_out()
        return self._held.pop(index)

    def _finish(self) -> BaseException | None:
        """Return what the run has failed with, once, when everything has been handed out."""
        error = None if self._end is None or self._is_raised else self._end.error
        self._is_raised = True
        return error

    def __repr__(self) -> str:
        progress = self.progress
        return f"<{type(self).__name__} {progress.done} done, {progress.failed} failed, {progress.waiting} waiting>"


class Run(BaseRun[Parsed]):
    """The results of many prompts: an iterator, and a context manager. Made by `Client.map`.

    Iterate it once, in one thread; `cancel()` may come from any other. It begins when it is entered, or its first
    result asked for. Leaving the `with` block ends it, and so does forgetting it, as a loop over `client.map(…)` does
    that is left: no call is started, those that are running are cancelled, and the journal is committed.
    """

    def __iter__(self) -> Iterator[Result[Parsed]]:
        return self

    def __next__(self) -> Result[Parsed]:
        mine = False
        try:
            mine = self._turn.acquire(blocking=False)
            if not mine:
                raise RuntimeError("another thread is reading this run")
            self._runner.start()
            while (result := self._ready()) is None and self._end is None:
                self._take(self._runner.outbox.get())
        except BaseException:
            if mine:
                self.close()
            raise
        finally:
            if mine:
                self._turn.release()
        if result is not None:
            return result
        error = self._finish()
        if error is None:
            raise StopIteration
        raise error

    def close(self) -> None:
        """End the run, if it has not ended: see `Run`. May be called again."""
        self._close_runner()

    def __enter__(self) -> Run[Parsed]:
        self._runner.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _asker(service: Service, call_options: Mapping[str, Any], options: MapOptions) -> Asker:
    """Return who makes the calls: threads of this process, or the workers of a cluster."""
    if options["executor"] is None:
        return Asker(service, call_options)
    from .dask import DaskAsker  # few need it

    return DaskAsker(service, call_options, options["executor"], options["concurrency"])


def _length(prompts: Iterable[Any]) -> int | None:
    """Return how many there are, None if they don't know, as some that have a length in principle."""
    try:
        return len(prompts) if isinstance(prompts, Sized) else None
    except (TypeError, NotImplementedError):
        return None


def _check(prompts: Iterable[Any], options: MapOptions) -> None:
    """Hold the arguments of `map` against what they may be.

    Raises:
        TypeError, ValueError: one is something else.
    """
    if isinstance(prompts, AsyncIterable) and not isinstance(prompts, Iterable):
        raise TypeError("prompts must be an iterable, which a thread can read: [prompt async for prompt in prompts]")
    if isinstance(prompts, (str, bytes, bytearray, Mapping)) or not isinstance(prompts, Iterable):
        raise TypeError(f"prompts must be an iterable of prompts, not {type(prompts).__name__}: [prompt] is one")
    if hasattr(prompts, "columns"):
        raise TypeError("prompts must be an iterable of prompts, not a table: give one of its columns")
    for name, words in (("concurrency", ""), ("ahead", ", or None"), ("max_errors", ", or None")):
        value: Any = options[name]  # type: ignore[literal-required]
        if value is None and words:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be an int{words}, not {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name}={value}: at least 1{words}")
    for name, choices in (
        ("order", ("input", "done")),
        ("errors", ("return", "raise")),
        ("on_quota", ("stop", "wait")),
    ):
        value = options[name]  # type: ignore[literal-required]
        if value not in choices:
            raise ValueError(f"{name}={value!r}: {choices[0]!r} or {choices[1]!r}")
    if options["limits"] is not None and not isinstance(options["limits"], Limits):
        raise TypeError(f"limits must be a Limits, or None, not {type(options['limits']).__name__}")
    for name in ("reuse", "retry_failed"):
        value = options[name]  # type: ignore[literal-required]
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
    if options["journal"] is not None and not isinstance(options["journal"], (str, os.PathLike)):
        raise TypeError(f"journal must be a path, or None, not {type(options['journal']).__name__}")
    if options["prices"] is not None:
        if not isinstance(options["prices"], Mapping):
            raise TypeError(f"prices must be a dict, not {type(options['prices']).__name__}")
        for model, price in options["prices"].items():
            if not isinstance(model, str):
                raise TypeError(f"prices must have the names of models, not {model!r:.80}")
            if not (isinstance(price, (tuple, list)) and len(price) == 2 and all(map(_is_price, price))):
                raise TypeError(
                    f"prices[{model!r}] must be (sent, received), two numbers per million tokens, not {price!r:.80}"
                )


def _is_price(value: Any) -> bool:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    return is_number and bool(0 <= value < 1e300)  # it is multiplied
