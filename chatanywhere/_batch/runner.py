"""The threads of a run. One reads the prompts, one decides, the others ask; what decides shares nothing with them.

They talk through queues only: no lock is held while Ctrl-C may come, and a signal handler may cancel a run.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from .._errors import ChatAnywhereError, OutputError, StreamCancelledError
from .._policy import logger
from .._types import Completion
from .asker import Asker, Task
from .engine import Engine
from .journal import Journal, Row
from .progress import Tally, paid_for, tokens_of
from .record import dumped, dumped_error, loaded, loaded_error
from .result import Result

LEAVE = 0.8
"""Seconds that a run which is given up waits for its calls to end."""

_TOGETHER = 32
"""Messages that are taken at a time: as many results share a commit, which costs less, and none waits for long."""


class End:
    """The last item that a run hands out.

    Attributes:
        error: what the run has failed with.
    """

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Outbox:
    """What a run has ready, for the one who iterates it: results, and the `End` behind them.

    Attributes:
        wake: called when something has come, by any thread, for a reader that waits without one.
    """

    def __init__(self) -> None:
        self._queue: queue.SimpleQueue[Result | End] = queue.SimpleQueue()
        self.wake: Callable[[], None] | None = None

    def put(self, item: Result | End) -> None:
        """Hand out an item."""
        self._queue.put(item)
        wake = self.wake
        if wake is not None:
            with suppress(RuntimeError):  # the event loop has ended meanwhile
                wake()

    def get(self) -> Result | End:
        """Block until there is an item, and return it."""
        return self._queue.get()

    def get_nowait(self) -> Result | End | None:
        """Return an item, None if there is none."""
        with suppress(queue.Empty):
            return self._queue.get_nowait()
        return None


class Runner:
    """Does what the engine decides.

    Args:
        engine: decides.
        tally: what is counted.
        asker: asks.
        prompts: are read by a thread of their own, so that results are handed out while the next prompt is awaited.
        journal: what is kept; None for nothing.
        ahead: how many prompts may be read and not handed out.
        keyed: whether it matters which prompts ask the same.
        counted: equal prompts are asked one by one.
        retry_failed: whether what failed in an earlier run is asked again.

    Attributes:
        outbox: what is handed out; who takes a result out of it for good says so by `handed_out`.
    """

    def __init__(
        self,
        engine: Engine,
        tally: Tally,
        asker: Asker,
        prompts: Iterable[Any],
        journal: Journal | None,
        *,
        ahead: int,
        keyed: bool,
        counted: bool,
        retry_failed: bool,
    ) -> None:
        self._engine = engine
        self._tally = tally
        self._asker = asker
        self._prompts = prompts
        self._journal = journal
        self._keyed = keyed
        self._counted = counted
        self._retry_failed = retry_failed
        self._numbers: dict[bytes, int] = {}
        self._mailbox: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._starts: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._ahead = ahead
        self._window: queue.SimpleQueue[bool] = queue.SimpleQueue()  # a token for each further prompt that may be read
        self._asking: set[Task] = set()
        self._threads = 0
        self._broken = False
        self._given_up = False
        # Held until all has ended. Not an Event: a run that is forgotten is closed by the garbage collector, which may
        # come while the thread that sets the event is about to, and waits for that then.
        self._running = threading.Lock()
        self._running.acquire()
        self._started = False
        self._process = os.getpid()
        self.outbox = Outbox()
        asker.on_failure = self._failed
        if journal is not None:
            journal.on_failure = self._failed

    # Whoever iterates ---------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin. May be called again.

        Raises:
            RuntimeError: the run is that of another process, and its threads are not in this one.
        """
        if self._process != os.getpid():
            raise RuntimeError("this run was made before the process was forked: call map() in the new process")
        if not self._started:
            self._started = True
            self._context = contextvars.copy_context()
            self._spawn(self._dispatch, "run")
            self._spawn(self._read, "prompts")

    def _spawn(self, function: Callable[[], object], name: str) -> None:
        """Do something in a thread, in the context of who has begun the run: tracing wants to know that."""
        context = self._context.copy()
        threading.Thread(target=context.run, args=(function,), name=f"chatanywhere {name}", daemon=True).start()

    def handed_out(self) -> None:
        """A result has been given to the caller."""
        self._window.put(True)

    def cancel(self) -> None:
        """Start no more calls, and end those that are running, from any thread or a signal handler."""
        self._mailbox.put(self._cancel)

    def close(self) -> None:
        """Do the same, and wait a moment until all has ended and the journal is committed. May be called again."""
        if self._process != os.getpid():
            return
        if not self._started:
            self._started = True
            self._end()
        self.cancel()
        if self._running.acquire(timeout=LEAVE):
            self._running.release()

    # The thread that decides --------------------------------------------------------------------------------

    def _dispatch(self) -> None:
        engine, mailbox = self._engine, self._mailbox
        try:
            self._asker.open()
            while not (engine.over or self._broken):
                with suppress(queue.Empty):
                    mailbox.get(timeout=engine.wait())()
                    for _ in range(min(_TOGETHER, mailbox.qsize())):
                        mailbox.get_nowait()()
                for task in engine.due():
                    self._send(task)
                if self._journal is not None:  # one commit for a result, and for the prompt that takes its place
                    self._journal.flush()
        except BaseException as error:  # a thread can't be started, or there is no memory
            engine.stop(error)
            self._cancel()
        self._end()

    def _end(self) -> None:
        """Nothing is running any more."""
        self._given_up = True
        self._window.put(False)
        for _ in range(self._threads):
            self._starts.put(None)
        self._drain()
        if self._journal is not None:
            self._journal.close()  # what it commits is handed out
            self._drain()  # it may have failed
        error = self._engine.failure
        if isinstance(error, ChatAnywhereError):
            error.left = self._tally.left
        self._running.release()
        self.outbox.put(End(error))

    def _drain(self) -> None:
        while not self._mailbox.empty():
            try:
                self._mailbox.get_nowait()()
            except BaseException as error:  # whoever iterates gets the `End`, whatever breaks
                self._engine.stop(error)

    def _send(self, task: Task) -> None:
        self._asking.add(task)
        if len(self._asking) > self._threads:
            try:
                self._spawn(self._work, "call")
            except RuntimeError as exc:
                raise RuntimeError(
                    f"no more than {self._threads} threads can be made here: lower concurrency="
                ) from exc
            self._threads += 1
        if self._journal is None or task.key is None:
            self._starts.put(task)
        else:
            self._journal.send(task.key, task.number, task.model, partial(self._starts.put, task))

    def _settle(self, task: Task, outcome: Completion | BaseException) -> None:
        """An attempt has ended."""
        engine = self._engine
        self._asking.discard(task)
        result = engine.settle(task, outcome)
        if result is not None:
            results = [result, *engine.followers(task, result)]
            then = partial(self._hand_out, results, task)
            if self._journal is None or task.key is None:
                then()
            else:
                row = _row(result)
                tokens = tokens_of(result.completion or paid_for(result.error))
                self._journal.end(task.key, task.number, task.model, row, tokens, then)
        elif self._journal is not None and task.key is not None and task.refused:
            self._journal.refuse(task.key, task.number, task.model)

    def _hand_out(self, results: Iterable[Result], task: Task | None = None) -> None:
        """What is known of the results is kept; until then there was `task`, and what it holds."""
        for result in results:
            if self._engine.hands_out(result):
                self.outbox.put(result)

    def _cancel(self) -> None:
        self._given_up = True
        self._window.put(False)
        self._engine.stop(StreamCancelledError("the run was cancelled"))
        self._asker.cancel(self._asking)

    def _failed(self, error: Exception) -> None:
        """The journal can't be written, so nothing that is done from now on would be kept; or nothing more is done."""
        self._mailbox.put(partial(self._break_off, error))

    def _break_off(self, error: Exception) -> None:
        self._broken = True
        self._engine.stop(error)
        self._cancel()

    def _add(self, task: Task) -> None:
        shared = self._engine.add(task)
        if shared is None:
            return
        if self._journal is None:
            self._hand_out([shared])
        else:  # the answer may not be committed yet
            self._journal.follow(partial(self._hand_out, [shared]))

    def _add_recorded(self, result: Result) -> None:
        self._engine.add_recorded(result)
        self._hand_out([result])

    # The threads that ask -----------------------------------------------------------------------------------

    def _work(self) -> None:
        while (task := self._starts.get()) is not None:
            try:
                outcome: Completion | BaseException = self._asker.attempt(task)
            except BaseException as error:
                outcome = error
            self._mailbox.put(partial(self._settle, task, outcome))
            del task, outcome

    # The thread that reads ----------------------------------------------------------------------------------

    def _read(self) -> None:
        failure: BaseException | None = None
        try:
            prompts: Iterator[Any] = iter(self._prompts)
            index = 0
            while index < self._ahead or self._window.get():
                if self._given_up or self._engine.error is not None:
                    break
                try:
                    prompt = next(prompts)
                except StopIteration:
                    self._tally.end(index)
                    break
                task = self._asker.task(index, prompt, keyed=self._keyed)
                recorded = self._recorded(task) if task.key is not None else None
                if recorded is None:
                    self._mailbox.put(partial(self._add, task))
                else:
                    self._mailbox.put(partial(self._add_recorded, recorded))
                index += 1
        except BaseException as error:
            failure = error
        self._mailbox.put(partial(self._engine.end_reading, failure))

    def _recorded(self, task: Task) -> Result | None:
        """Return what an earlier run has got for a prompt."""
        assert task.key is not None
        if self._counted:
            task.number = self._numbers.get(task.key, 0)
        elif task.key in self._numbers:  # this run asks it, so what the journal has of it is this run's
            return None
        result = self._found(task)
        if self._counted or result is None:
            self._numbers[task.key] = task.number + 1
        return result

    def _found(self, task: Task) -> Result | None:
        assert task.key is not None
        row = None
        if self._journal is not None and not self._journal.is_new:
            row = self._journal.find(task.key, task.number)
        if row is None or row.state not in ("done", "failed"):
            self._tally.in_doubt += row is not None and row.state == "sent"
            return None
        if row.state == "failed":
            if self._retry_failed or row.error is None:
                return None
            error = loaded_error(row.error)
            return Result(task.index, task.id, task.prompt, None, error, row.attempts, row.seconds, True)
        completion = loaded(row.completion or "")
        try:
            completion = self._asker.parsed(completion, task)
        except Exception as error:  # it does not fit the type any more, or a validator of the caller's breaks on it
            if self._retry_failed and isinstance(error, OutputError):
                logger.info("prompts[%d] is asked again: %s", task.index, error)
                return None
            error.__traceback__ = None
            return Result(task.index, task.id, task.prompt, None, error, row.attempts, row.seconds, True)
        return Result(task.index, task.id, task.prompt, completion, None, row.attempts, row.seconds, True)


def _row(result: Result) -> Row:
    if result.error is not None:
        return Row("failed", result.attempts, result.seconds, None, dumped_error(result.error))
    assert result.completion is not None
    return Row("done", result.attempts, result.seconds, dumped(result.completion), None)
