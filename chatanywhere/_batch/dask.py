"""Calls on other machines: the tasks of a Dask cluster. The only user of distributed.

The driver, which makes the run, alone has the journal, the limits and the order. Each call is one task of Dask's, which
is handed over when the engine starts it; so no more of them are there than `concurrency`. Its answer, or the error as a
value, stays with Dask until it is committed.

The key is no part of a task. A worker takes it from its own environment, and has one client for all calls.
"""

from __future__ import annotations

import asyncio
import pickle
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from time import monotonic
from typing import Any

from .._config import Settings
from .._errors import APIConnectionError, AuthenticationError, ChatAnywhereError, StreamCancelledError
from .._http.scope import CallScope
from .._policy import Timeout, logger
from .._service import Service
from .._types import Completion
from .asker import Asker, Task

try:
    import cloudpickle  # type: ignore[import-untyped]
    import distributed
except ImportError as exc:
    raise ImportError(
        "executor= takes a dask.distributed.Client, which needs distributed: pip install 'chatanywhere[dask]'",
        name="distributed",
    ) from exc

_LOOK_AGAIN = 5.0
"""Seconds after which a run looks for workers again, as long as some of them can't ask."""

_FAREWELL = 0.5
"""Seconds that calls which are cancelled have to say how far they came."""

_LEAST_KEY = 8
"""Characters; what is shorter is found in any bytes."""


class DaskAsker(Asker):
    """Makes calls of prompts, on the workers of a cluster.

    Args:
        service, options: as those of `Asker`.
        cluster: whose workers make the calls.
        concurrency: how many calls there are at a time.

    Raises:
        TypeError: it is no client of Dask's, or one for an event loop.
        RuntimeError: it is closed.
        ValueError: the key would be seen in the tasks.
    """

    def __init__(self, service: Service, options: Mapping[str, Any], cluster: object, concurrency: int) -> None:
        super().__init__(service, options)
        self._cluster: Any = _checked(cluster)
        self._concurrency = concurrency
        settings = service.settings
        self._secret = (settings.key or "").encode()
        # What the driver knows from its environment, but for the key, holds on the workers, too.
        told = {**settings.arguments(), "base_url": settings.hosts, "model": settings.models}
        self._run = self._packed(told), self._packed(self._options)
        self._name = uuid.uuid4().hex
        self._turn = threading.Lock()  # of who looks for workers
        self._looked = 0.0
        self._where: dict[str, Any] = {}  # the workers to which tasks are given, if not to all
        self._named: set[str] = set()  # those that can't ask
        self._futures: set[Any] = set()
        self._gathering = threading.Lock()  # of who gets what workers have returned
        self._finished: deque[Any] = deque()
        self._answers: dict[str, bytes | None] = {}
        self._cancelled = False

    def _packed(self, value: object) -> bytes:
        packed: bytes = cloudpickle.dumps(value)
        if len(self._secret) >= _LEAST_KEY and self._secret in packed:
            raise ValueError(
                "the API key is in headers=, in a URL or in a prompt, and would go to the scheduler: "
                "leave it out there, for the workers take it from their environment"
            )
        return packed

    # The workers --------------------------------------------------------------------------------------------

    def open(self) -> None:
        """See to it that all workers can ask, before anything is sent.

        Raises:
            AuthenticationError: some have no key; the message names them.
            RuntimeError: some can't make a client of these settings.
            APIConnectionError: the scheduler is gone.
        """
        found = self._look()
        if any(found.values()):
            raise _unable(found)
        threads = sum(self._told(self._cluster.nthreads).values())
        if threads < self._concurrency:
            logger.warning(
                "concurrency=%d, and the Dask workers have %d threads: no more calls than that are made at a time, and "
                "limits= counts those that wait for a thread as if they were",
                self._concurrency,
                threads,
            )

    def _look(self) -> dict[str, Exception | None]:
        """Return why each worker can't ask, None for those that can, and use only these from now on."""
        answers = self._told(self._cluster.run, check, *self._run, on_error="return")
        found = {address: error for address, error in answers.items() if not isinstance(error, OSError)}  # it is gone
        able = [address for address, error in found.items() if error is None]
        # If none of them is there any more, a task goes to another, and comes back.
        self._where = {"workers": able, "allow_other_workers": True} if 0 < len(able) < len(found) else {}
        self._looked = monotonic()
        return found

    def _look_again(self) -> None:
        """A worker that has come after the beginning may be unable to ask: leave it out.

        Raises:
            AuthenticationError, RuntimeError: no worker can ask any more.
        """
        with self._turn:
            found = self._look()
            for address, error in found.items():
                if error is not None and address not in self._named:
                    self._named.add(address)
                    logger.warning("%s; its prompts go to other workers", _unable({address: error}))
        if found and all(found.values()):
            error = _unable(found)
            if not isinstance(error, AuthenticationError):  # which ends a run by itself
                self.on_failure(error)
            raise error

    def _told(self, ask: Callable[..., Any], *arguments: object, **options: object) -> Any:
        """Ask the scheduler something."""
        try:
            return ask(*arguments, **options)
        except Exception as exc:
            raise self._gone() from exc

    def _gone(self) -> Exception:
        """No more calls can be made; return the error that says so."""
        error = APIConnectionError(
            "the Dask client was closed, or its scheduler is gone: with a journal=, the run can be begun again"
        )
        self.on_failure(error)
        return error

    # The calls ----------------------------------------------------------------------------------------------

    def attempt(self, task: Task) -> Completion:
        """Let a worker make one attempt, blocking until it has ended.

        Raises: as `Asker.attempt`.
        """
        call = task.call
        assert call is not None
        keywords = dict(task.keywords)
        if call.output is not None and "response_format" in keywords:  # the type itself stays here
            keywords["response_format"] = call.output.response_format
        prompt = self._packed((keywords, task.retry, task.time_left))
        began = monotonic()
        while (answer := self._ask(task, prompt)) is None:
            self._look_again()
        outcome, task.again, seconds = _unpacked(answer)
        in_queues = max(0.0, monotonic() - began - seconds)  # Dask's, which is not the call's time
        task.began += in_queues
        task.started += in_queues
        if isinstance(outcome, BaseException):
            raise outcome
        return self.parsed(outcome, task)

    def _ask(self, task: Task, prompt: bytes) -> bytes | None:
        """Return what a worker says, None if that worker can't ask."""
        if self._where and monotonic() - self._looked > _LOOK_AGAIN:
            self._look_again()
        future = None
        try:
            key = f"chatanywhere-{uuid.uuid4().hex}"
            future = self._cluster.submit(
                ask, *self._run, self._name, prompt, key=key, pure=False, retries=0, **self._where
            )
            self._futures.add(future)
            task.held = future
            if self._cancelled:  # in between
                future.cancel()
            return self._answer(future)
        except BaseException as exc:
            raise self._lost(future, exc) from exc
        finally:
            self._futures.discard(future)

    def _answer(self, future: Any) -> bytes | None:
        """Block until a task has ended, and get what it returned, together with what others have at that moment.

        To get each by itself would take most of the time that a call costs.
        """
        ended = threading.Event()
        future.add_done_callback(lambda _: ended.set())
        while not ended.wait(1.0) and self._cluster.status == "running":
            pass
        if future.status != "finished":
            future.result(timeout=5.0)  # raises, at once
        self._finished.append(future)
        with self._gathering:
            if future.key not in self._answers:
                together = {future, *(self._finished.popleft() for _ in range(len(self._finished)))}
                keys = [each.key for each in together]
                self._answers.update(zip(keys, self._cluster.gather(list(together)), strict=True))
            return self._answers.pop(future.key)

    def _lost(self, future: Any, error: BaseException) -> Exception:
        """Return what an attempt fails with that has no answer, and not by its own fault."""
        if self._cancelled:
            return StreamCancelledError("the run was cancelled")
        if future is None or self._cluster.status != "running":
            return self._gone()
        if isinstance(error, distributed.KilledWorker):
            return APIConnectionError(f"the Dask workers that had the prompt have died: {error}")
        if future.status == "cancelled":
            return APIConnectionError(f"Dask has cancelled the task, as a restart of the workers does: {error}")
        # It is none of the prompt's: the scheduler, for one, may not have the package.
        failure = RuntimeError(f"Dask can't do the tasks of this run: {type(error).__name__}: {error}")
        self.on_failure(failure)
        return failure

    def cancel(self, tasks: Iterable[Task]) -> None:
        """End the calls that are running, from any thread."""
        if not self._cancelled:
            self._cancelled = True
            self._cluster.loop.add_callback(self._cancel)

    async def _cancel(self) -> None:
        """What is running ends with what it has; what Dask has not begun, or a worker does not tell, is given up."""
        farewell = asyncio.create_task(asyncio.sleep(_FAREWELL))
        with suppress(Exception):  # a worker that can't be reached
            telling = self._cluster.run(cancel, self._name, on_error="ignore", asynchronous=True)
            await asyncio.wait_for(telling, _FAREWELL)
        await farewell
        with suppress(Exception):
            await self._cluster.cancel(list(self._futures), asynchronous=True)


def _checked(cluster: object) -> object:
    if not isinstance(cluster, distributed.Client):
        remedy = "Client(cluster) is one" if hasattr(cluster, "scheduler_address") else "leave it out for threads"
        raise TypeError(f"executor must be a dask.distributed.Client, not {type(cluster).__name__}: {remedy}")
    if cluster.asynchronous:
        raise TypeError("executor must be a Dask client without asynchronous=True, also for an AsyncClient")
    if cluster.status != "running":
        raise RuntimeError(f"the Dask client is {cluster.status}: make another one, and keep it open during the run")
    return cluster


def _unable(found: Mapping[str, Exception | None]) -> ChatAnywhereError | RuntimeError:
    """Return the error for workers that can't ask."""
    errors = {address: error for address, error in found.items() if error is not None}
    without_key = [address for address, error in errors.items() if isinstance(error, AuthenticationError)]
    if without_key:
        return AuthenticationError(
            f"no API key on the Dask workers {', '.join(without_key)}: "
            "set CHATANYWHERE_API_KEY in the environment in which they are started",
            status_code=401,
        )
    address, error = next(iter(errors.items()))
    return RuntimeError(f"the Dask worker {address} can't make the calls: {error}")


# On the workers ---------------------------------------------------------------------------------------------

_lock = threading.Lock()
_calls: dict[str, set[Task]] = {}  # that are running, by the names of their runs
_cancelled: deque[str] = deque(maxlen=1000)


def check(settings: bytes, options: bytes) -> Exception | None:
    """Return why this worker can't make the calls of a run, None if it can."""
    try:
        _asker(settings, options)
    except AuthenticationError as error:
        return error
    except Exception as error:
        return RuntimeError(f"{type(error).__name__}: {error}")  # an OSError would say that it can't be reached
    return None


def ask(settings: bytes, options: bytes, name: str, prompt: bytes) -> bytes | None:
    """Make an attempt: a task of Dask's.

    Args:
        settings: what the driver's client was told.
        options: of all calls of the run.
        name: of the run.
        prompt: its keywords, when it is tried again, and the seconds that are left.

    Returns: an answer or an error, whether another attempt would not pay for the same once more, and how many seconds
        it took; None if there is no key here.
    """
    began = monotonic()
    try:
        asker = _asker(settings, options)
    except Exception:  # `check` says why
        return None
    task = Task(0, None)
    try:
        task.keywords, task.retry, left = _unpacked(prompt)
        task.clock = CallScope(Timeout(total=left))
        with _listed(name, task):
            outcome: Completion | BaseException = asker.attempt(task)
    except BaseException as error:
        outcome = error
    try:
        return pickle.dumps((outcome, task.again, monotonic() - began))
    except Exception as error:
        outcome = ChatAnywhereError(f"{type(outcome).__name__} can't be sent back: {error}")
        return pickle.dumps((outcome, task.again, monotonic() - began))


def _unpacked(packed: bytes) -> Any:
    return pickle.loads(packed)  # noqa: S301  # who can send this to a cluster can have it do anything


def _asker(settings: bytes, options: bytes) -> Asker:
    with _lock:  # else each of the threads that begin together would make one
        return _kept_asker(settings, options)


@lru_cache(maxsize=64)
def _kept_asker(settings: bytes, options: bytes) -> Asker:
    return Asker(_kept_service(settings), _unpacked(options))


@lru_cache(maxsize=8)
def _kept_service(settings: bytes) -> Service:
    return Service(Settings(**_unpacked(settings)))


@contextmanager
def _listed(name: str, task: Task) -> Iterator[None]:
    """Let `cancel` find a call."""
    with _lock:
        if name in _cancelled:
            raise StreamCancelledError("the run was cancelled")
        _calls.setdefault(name, set()).add(task)
    try:
        yield
    finally:
        with _lock:
            _calls[name].discard(task)
            if not _calls[name]:
                del _calls[name]


def cancel(name: str) -> None:
    """End the calls of a run, and begin no more of them."""
    with _lock:
        _cancelled.append(name)
        running = list(_calls.get(name, ()))
    for task in running:
        task.cancel()
