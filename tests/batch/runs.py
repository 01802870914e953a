"""Runs on both faces, and in programs that are interrupted."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

import anyio
from faces import Face

from chatanywhere import AsyncRun, Client, Result, Run
from chatanywhere.testing import LoopbackServer, Request


def echo(request: Request) -> str:
    """An answer to each prompt in its own words."""
    return f"said {request.text}"


def collect(
    face: Face,
    client: Client,
    prompts: Iterable[Any],
    *,
    on_result: Callable[[Result], object] = lambda _: None,
    **options: Any,
) -> tuple[list[Result], BaseException | None]:
    """Make a run to its end, whatever that is; return its results, and what it has failed with."""
    if face.name == "sync":
        return take_all(client.map(prompts, **options), on_result)

    async def collect_async() -> tuple[list[Result], BaseException | None]:
        return await take_all_async(client.as_async().map(prompts, **options), on_result)

    return anyio.run(collect_async, backend=face.name)


def take_all(
    run: Run, on_result: Callable[[Result], object] = lambda _: None
) -> tuple[list[Result], BaseException | None]:
    """Take all results of a run; return them, and what it has failed with."""
    results: list[Result] = []
    try:
        for result in run:
            results.append(result)
            on_result(result)
    except Exception as error:
        return results, error
    return results, None


async def take_all_async(
    run: AsyncRun, on_result: Callable[[Result], object] = lambda _: None
) -> tuple[list[Result], BaseException | None]:
    """The same for an async run."""
    results: list[Result] = []
    try:
        async for result in run:
            results.append(result)
            on_result(result)
    except Exception as error:
        return results, error
    return results, None


def interrupt(process: subprocess.Popen[str], server: LoopbackServer, requests: int) -> float:
    """Press Ctrl-C in a program when it has asked so often; return after how many seconds it was interrupted."""
    assert process.stdout is not None
    deadline = time.monotonic() + 20
    while len(server.requests) < requests and time.monotonic() < deadline:
        time.sleep(0.01)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    said, when = process.stdout.readline().split()
    assert said == "interrupted"
    return float(when) - began
