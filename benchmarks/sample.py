"""Take one sample in this process and print it as JSON: `sample.py HOW CLIENT URL [option=value …]`.

`value` is what the sample is about, in the unit that its function names; CPU time is the process's, user and system.
"""

from __future__ import annotations

import cProfile
import gc
import io
import json
import pstats
import resource
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import clients
from server import WORDS, allow_connections

Sample = dict[str, Any]


def resident() -> float:
    """Bytes of memory that the process has now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def most_resident() -> float:
    """The most bytes of memory that it has had."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def warm(client: str, url: str) -> clients.BlockingReader:
    """Read a short answer, for imports and everything else that is done once."""
    base = url.rpartition("/")[0]
    clients.BLOCKING[client](f"{base}/burst-100")()
    return clients.BLOCKING[client](url)


class Cost:
    """Between `with` and its end: microseconds per piece, of CPU and by the clock."""

    def __enter__(self) -> Cost:
        self._cpu, self._clock = time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._cpu, self._clock = time.process_time() - self._cpu, time.perf_counter() - self._clock

    def per(self, pieces: int) -> Sample:
        return {"value": 1e6 * self._cpu / pieces, "wall": 1e6 * self._clock / pieces}


class Used:
    """Between `with` and its end: what the server used, besides the two questions for it."""

    def __init__(self, url: str) -> None:
        self._url = f"{url.rpartition('/')[0]}/usage/"

    def __enter__(self) -> Used:
        self._before = self._ask()
        return self

    def __exit__(self, *error: object) -> None:
        self._after = self._ask()

    def per(self, calls: int) -> Sample:
        """µs of its CPU per call, and the connections that were made to it."""
        cpu, connections = (self._after[name] - self._before[name] for name in ("cpu", "connections"))
        return {"server": 1e6 * cpu / calls, "connections": connections - 1}

    def _ask(self) -> dict[str, float]:
        with urllib.request.urlopen(self._url) as answer:
            used: dict[str, float] = json.load(answer)
        return used


def burst(client: str, url: str) -> Sample:
    """One answer, all at once: µs of CPU per piece."""
    read = warm(client, url)
    with Cost() as cost:
        pieces = read()
    return cost.per(pieces)


def profile(client: str, url: str) -> Sample:
    """The same, under a profiler: its report."""
    read = warm(client, url)
    profiler = cProfile.Profile()
    profiler.runcall(read)
    report = io.StringIO()
    pstats.Stats(profiler, stream=report).strip_dirs().sort_stats("tottime").print_stats(15)
    return {"report": report.getvalue()}


def bulk(client: str, url: str) -> Sample:
    """One large answer: MB by the clock's second."""
    read = warm(client, url)
    with Cost() as cost:
        pieces = read()
    return {"value": len(clients.TOKEN) / cost.per(pieces)["wall"]}


def scale(client: str, url: str) -> Sample:
    """µs of CPU per event, once the answer is open; of as many answers as have 100,000 events together."""
    from chatanywhere import Client

    count = int(url.rpartition("-")[2])
    warm(client, url)
    asked = Client(clients.KEY, base_url=f"{url}/v1", max_response_bytes=None)
    times = []
    for _ in range(max(3, 100_000 // count)):
        with asked.stream(clients.MESSAGES) as stream, Cost() as cost:
            for _ in stream:
                pass
        times.append(cost.per(count)["value"])
    return {"value": statistics.median(times)}


async def streams(client: str, url: str, number: int) -> Sample:
    """Answers on an event loop, all at the same time: µs of CPU per piece."""
    warm_up, close = clients.ASYNC[client](f"{url.rpartition('/')[0]}/burst-100")
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

    with Cost() as cost:
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(one)
    await close()
    return {**cost.per(pieces), "threads": most_threads}


def in_threads(client: str, url: str, number: int) -> Sample:
    """Answers in threads, all at the same time: µs of CPU per piece."""
    read = warm(client, url)
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(read())) for _ in range(number)]
    with Cost() as cost:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return cost.per(sum(counts))


def first(client: str, url: str, number: int) -> Sample:
    """Ms until the first text of a short answer, on a warm connection: the median of many."""
    ask = clients.PIECES[client](url)
    times = []
    for _ in range(10 + number):
        began = time.perf_counter()
        pieces = ask()
        next(pieces)
        times.append(time.perf_counter() - began)
        for _ in pieces:
            pass
    return {"value": 1e3 * statistics.median(times[10:])}


WARM = 10  # calls, for imports, connections and everything else that is done once


def check(answer: str) -> None:
    """Make sure that a client has done its work."""
    assert answer == WORDS, answer


def calls(client: str, url: str, number: int) -> Sample:
    """Short answers, one after another on a warm connection: µs of CPU per call."""
    ask = clients.PIECES[client](url)
    for _ in range(WARM):
        check("".join(ask()))
    with Used(url) as used, Cost() as cost:
        for _ in range(number):
            check("".join(ask()))
    return cost.per(number) | used.per(number)


def calls_in_threads(client: str, url: str, number: int, seconds: float = 2) -> Sample:
    """The same in threads, on a warm connection each, for some time: calls per second by the clock."""
    ask = clients.PIECES[client](url)
    warm, measured = threading.Barrier(number + 1), threading.Barrier(number + 1)
    counts = []

    def work() -> None:
        for _ in range(WARM):
            check("".join(ask()))
        warm.wait()
        measured.wait()
        count, end = 0, time.perf_counter() + seconds
        while time.perf_counter() < end:
            check("".join(ask()))
            count += 1
        counts.append(count)

    threads = [threading.Thread(target=work) for _ in range(number)]
    for thread in threads:
        thread.start()
    warm.wait()
    with Used(url) as used:
        measured.wait()
        with Cost() as cost:
            for thread in threads:
                thread.join()
    each = cost.per(sum(counts))
    return {"value": 1e6 / each["wall"]} | used.per(sum(counts))


async def calls_in_tasks(client: str, url: str, number: int, each: int = 50) -> Sample:
    """The same in tasks of an event loop: µs of CPU per call."""
    ask, close = clients.ANSWERS[client](url)

    async def work(times: int) -> None:
        for _ in range(times):
            check(await ask())

    async def everyone(times: int) -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(number):
                tasks.start_soon(work, times)

    await everyone(WARM)
    with Used(url) as used, Cost() as cost:
        await everyone(each)
    await close()
    return cost.per(number * each) | used.per(number * each)


async def at_once(client: str, url: str, number: int) -> Sample:
    """Calls on an event loop, all begun at once: seconds by the clock, and the most worker threads."""
    ask, close = clients.ANSWERS[client](url)
    check(await ask())
    most_threads = 0

    async def work() -> None:
        check(await ask())

    async def watch() -> None:
        nonlocal most_threads
        while True:
            most_threads = max(most_threads, threading.active_count() - 1)
            await anyio.sleep(0.005)

    with Used(url) as used, Cost() as cost:
        async with anyio.create_task_group() as watching:
            watching.start_soon(watch)
            async with anyio.create_task_group() as tasks:
                for _ in range(number):
                    tasks.start_soon(work)
            watching.cancel_scope.cancel()
    await close()
    each = cost.per(number)
    return {"value": each["wall"] * number / 1e6, "cpu": each["value"], "threads": most_threads} | used.per(number)


def embed(client: str, url: str, number: int) -> Sample:
    """Embeddings of short texts: texts per second by the clock."""
    make = clients.EMBEDDINGS[client](url)
    texts = [f"A short text, the {index}th of its kind." for index in range(number)]
    make(texts)  # for imports, connections, and the answers that the server keeps
    with Cost() as cost:
        vectors = make(texts)
    assert (len(vectors), len(vectors[-1])) == (number, 1536)
    each = cost.per(number)
    return {"value": 1e6 / each["wall"], "cpu": each["value"]}


def delay(client: str, url: str) -> Sample:
    """Ms between the moment when a piece was sent, which it says itself, and when it is seen: the 99th percentile."""
    delays = []
    for text in clients.PIECES[client](url)():
        seen = time.monotonic()
        delays += [seen - float(stamp) for stamp in text.split()]
    return {"value": 1e3 * statistics.quantiles(delays, n=100)[-1]}


async def async_delay(client: str, url: str, number: int) -> Sample:
    """The same on an event loop, for this package's client."""
    from chatanywhere import AsyncClient

    delays = []
    async for text in AsyncClient(clients.KEY, base_url=f"{url}/v1").stream(clients.MESSAGES):
        seen = time.monotonic()
        delays += [seen - float(stamp) for stamp in text.split()]
    return {"value": 1e3 * statistics.quantiles(delays, n=100)[-1]}


def memory(client: str, url: str) -> Sample:
    """MiB that the process takes at its peak, after it has read an answer."""
    clients.BLOCKING[client](url)()
    return {"value": most_resident() / 2**20}


async def idle(client: str, url: str, number: int) -> Sample:
    """KiB that an open stream takes that has nothing to say."""
    warm_up, close = clients.ASYNC[client](f"{url.rpartition('/')[0]}/burst-100")
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
    return {"value": taken / number / 1024}


IMPORTS = {
    "chatanywhere": "from chatanywhere import Client",
    "chatanywhere, a client": "from chatanywhere import Client; Client('a-key')",
    "requests": "import requests",
    "requests, dataclasses": "import requests, dataclasses",
}


def imports(client: str) -> Sample:
    """Ms of CPU that an import takes in a new interpreter, beyond the interpreter's own: the least of nine.

    Other programs on the machine only ever add to it.
    """

    def run(code: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Isolated: of what is installed, compiled, rather than of the directory that this is run in.
        subprocess.run([sys.executable, "-I", "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime

    run(IMPORTS[client])
    return {"value": 1e3 * (min(run(IMPORTS[client]) for _ in range(9)) - min(run("pass") for _ in range(9)))}


def main() -> None:
    how, client, url, *rest = sys.argv[1:]
    allow_connections()
    options = dict(option.split("=") for option in rest)
    number = int(options.get("number", "1"))
    loop = options.get("loop", "asyncio")

    def on_loop(function: Callable[[str, str, int], Awaitable[Sample]]) -> Sample:
        uvloop = {"use_uvloop": True} if loop == "uvloop" else {}
        return anyio.run(
            function, client, url, number, backend="trio" if loop == "trio" else "asyncio", backend_options=uvloop
        )

    samples: dict[str, Callable[[], Sample]] = {
        "burst": lambda: burst(client, url),
        "profile": lambda: profile(client, url),
        "bulk": lambda: bulk(client, url),
        "scale": lambda: scale(client, url),
        "streams": lambda: on_loop(streams),
        "threads": lambda: in_threads(client, url, number),
        "first": lambda: first(client, url, number),
        "calls": lambda: calls(client, url, number),
        "calls_in_threads": lambda: calls_in_threads(client, url, number),
        "calls_in_tasks": lambda: on_loop(calls_in_tasks),
        "at_once": lambda: on_loop(at_once),
        "embed": lambda: embed(client, url, number),
        "delay": lambda: delay(client, url),
        "async_delay": lambda: on_loop(async_delay),
        "memory": lambda: memory(client, url),
        "idle": lambda: on_loop(idle),
        "imports": lambda: imports(client),
    }
    print(json.dumps(samples[how]()))


if __name__ == "__main__":
    main()
