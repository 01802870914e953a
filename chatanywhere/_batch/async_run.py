"""A run for event loops: the same threads, and a loop that waits for their results."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import TracebackType

import anyio
import anyio.lowlevel
import anyio.to_thread

from .._http.receiver import thread_safe
from .._types import Parsed
from .result import Result
from .run import BaseRun
from .runner import End


class AsyncRun(BaseRun[Parsed]):
    """The results of many prompts: an async iterator, and an async context manager. Made by `AsyncClient.map`.

    See `Run`. The calls are made by threads, as many as `concurrency` says; the event loop has only the results to
    take. Cancelling the task that waits for one ends the run.
    """

    def __aiter__(self) -> AsyncIterator[Result[Parsed]]:
        return self

    async def __anext__(self) -> Result[Parsed]:
        if not self._turn.acquire(blocking=False):
            raise RuntimeError("another task is reading this run")
        try:
            self._runner.start()
            await anyio.lowlevel.checkpoint()  # a journal is faster than the loop's other tasks would like
            while (result := self._ready()) is None and self._end is None:
                self._take(await self._wait())
        except BaseException:
            await self.aclose()
            raise
        finally:
            self._turn.release()
        if result is not None:
            return result
        error = self._finish()
        if error is None:
            raise StopAsyncIteration
        raise error

    async def _wait(self) -> Result[Parsed] | End:
        outbox = self._runner.outbox
        while (item := outbox.get_nowait()) is None:
            came = anyio.Event()
            outbox.wake = thread_safe(came.set)
            try:
                item = outbox.get_nowait()  # it may have come in between
                if item is not None:
                    break
                await came.wait()
            finally:
                outbox.wake = None
        return item

    async def aclose(self) -> None:
        """End the run, if it has not ended: see `Run`. May be called again."""
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(self._close_runner, limiter=anyio.CapacityLimiter(1))

    async def close(self) -> None:
        """Another name of `aclose`."""
        await self.aclose()

    async def __aenter__(self) -> AsyncRun[Parsed]:
        self._runner.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
