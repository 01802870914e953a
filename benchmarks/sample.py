"""Take one sample in this process and print it as JSON: `sample.py HOW CLIENT URL [option=value …]`.

CPU time is the process's, user and system, after a short answer has been read to warm up.
"""

from __future__ import annotations

import gc
import json
import resource
import statistics
import sys
import threading
import time
from collections.abc import Awaitable, Callable

import anyio
import clients

Sample = dict[str, float]


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident() -> float:
    """Bytes of memory that the process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def base(url: str) -> str:
    return url.rpartition("/")[0]


def burst(client: str, url: str) -> Sample:
    """One answer, all at once."""
    clients.BLOCKING[client](f"{base(url)}/burst-100")()
    read = clients.BLOCKING[client](url)
    before, began = cpu(), time.perf_counter()
    pieces = read()
    return {"cpu": cpu() - before, "wall": time.perf_counter() - began, "pieces": pieces}


async def streams(client: str, url: str, number: int) -> Sample:
    """Answers on an event loop, all at the same time."""
    warm_up, close = clients.ASYNC[client](f"{base(url)}/burst-100")
    await warm_up()
    await close()
    read, close = clients.ASYNC[client](url)
    pieces = 0
    most_threads = 0

    async def one() -> None:
        nonlocal pieces, most_threads
        count = await read()
        pieces += count
        most_threads = max(most_threads, threading.active_count())

    before, began = cpu(), time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(one)
    sample = {"cpu": cpu() - before, "wall": time.perf_counter() - began, "pieces": pieces, "threads": most_threads}
    await close()
    return sample


def in_threads(client: str, url: str, number: int) -> Sample:
    """Answers in threads, all at the same time."""
    clients.BLOCKING[client](f"{base(url)}/burst-100")()
    read = clients.BLOCKING[client](url)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(read())) for _ in range(number)]
    before, began = cpu(), time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"cpu": cpu() - before, "wall": time.perf_counter() - began, "pieces": sum(counts)}


def first_text(client: str, url: str, number: int) -> Sample:
    """Short answers one after the other on a warm connection: the median of their times, in seconds."""
    read = clients.BLOCKING[client](url)
    for _ in range(10):
        read()
    times = []
    for _ in range(number):
        began = time.perf_counter()
        read()
        times.append(time.perf_counter() - began)
    return {"wall": statistics.median(times)}


def memory(client: str, url: str) -> Sample:
    """How much the process grows, at its peak, while it reads an answer: in bytes."""
    clients.BLOCKING[client](f"{base(url)}/bulk-1")()
    read = clients.BLOCKING[client](url)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    read()
    return {"bytes": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}


async def idle(client: str, url: str, number: int) -> Sample:
    """What an open stream takes that has nothing to say: in bytes."""
    warm_up, close = clients.ASYNC[client](f"{base(url)}/burst-100")
    await warm_up()
    await close()
    gc.collect()
    before = resident()
    read, close = clients.ASYNC[client](url)
    async with anyio.create_task_group() as tasks:
        for _ in range(number):
            tasks.start_soon(read)
        await anyio.sleep(5)  # they have all begun, and wait for their second piece
        gc.collect()
        taken = resident() - before
        tasks.cancel_scope.cancel()
    return {"bytes": taken / number}


def main() -> None:
    how, client, url, *rest = sys.argv[1:]
    options = dict(option.split("=") for option in rest)
    if options.get("speed") == "off":
        sys.modules.update(msgspec=None, orjson=None)  # type: ignore[arg-type]
    number = int(options.get("number", "1"))
    loop = options.get("loop", "asyncio")

    def on_loop(function: Callable[[str, str, int], Awaitable[Sample]]) -> Sample:
        uvloop = {"use_uvloop": True} if loop == "uvloop" else {}
        return anyio.run(
            function, client, url, number, backend="trio" if loop == "trio" else "asyncio", backend_options=uvloop
        )

    samples: dict[str, Callable[[], Sample]] = {
        "burst": lambda: burst(client, url),
        "streams": lambda: on_loop(streams),
        "threads": lambda: in_threads(client, url, number),
        "first": lambda: first_text(client, url, number),
        "memory": lambda: memory(client, url),
        "idle": lambda: on_loop(idle),
    }
    print(json.dumps(samples[how]()))


if __name__ == "__main__":
    main()
