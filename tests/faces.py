"""The ways to make a call: blocking, or async on one of the event loops."""

from __future__ import annotations

import functools
import importlib.util
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from chatanywhere import ChatAnywhereError, Client

FORK = importlib.util.find_spec("urllib3_future") is not None
"""Whether urllib3's files have been replaced by those of urllib3-future, as installing niquests does."""

_no_uvloop = pytest.mark.skipif(importlib.util.find_spec("uvloop") is None, reason="uvloop is not for Windows")

backends = pytest.mark.parametrize("backend", ["asyncio", pytest.param("uvloop", marks=_no_uvloop), "trio"])
"""Event loops, for `run`."""


def run(backend: str, function: Callable[..., Awaitable[Any]], *args: Any) -> Any:
    """Run an async function on a new event loop of this kind."""
    if backend == "uvloop":
        return anyio.run(function, *args, backend="asyncio", backend_options={"use_uvloop": True})
    return anyio.run(function, *args, backend=backend)


class Outcome:
    """How a call ended: its pieces, and its error if it failed."""

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.error: ChatAnywhereError | None = None
        self.seconds = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)


class Face:
    """One of the ways to make a call: blocking, or async on one of the event loops."""

    def __init__(self, name: str) -> None:
        self.name = name

    def call(self, client: Client, method: str, *arguments: Any, **options: Any) -> Any:
        """Call a method of a client, and return what it returns."""
        if self.name == "sync":
            return getattr(client, method)(*arguments, **options)
        function = getattr(client.as_async(), method)
        return anyio.run(functools.partial(function, *arguments, **options), backend=self.name)

    def ask(
        self,
        client: Client,
        messages: str = "Hello",
        *,
        on_piece: Callable[[str], None] = lambda _: None,
        **options: Any,
    ) -> Outcome:
        """Make a call to its end, whatever that is."""
        outcome = Outcome()
        began = time.monotonic()
        try:
            if self.name == "sync":
                with client.stream(messages, **options) as stream:
                    for piece in stream:
                        outcome.pieces.append(piece)
                        on_piece(piece)
            else:
                anyio.run(self._ask_async, client, messages, on_piece, options, outcome, backend=self.name)
        except ChatAnywhereError as error:
            outcome.error = error
        outcome.seconds = time.monotonic() - began
        return outcome

    async def _ask_async(
        self,
        client: Client,
        messages: str,
        on_piece: Callable[[str], None],
        options: dict[str, Any],
        outcome: Outcome,
    ) -> None:
        async with client.as_async().stream(messages, **options) as stream:
            async for piece in stream:
                outcome.pieces.append(piece)
                on_piece(piece)
