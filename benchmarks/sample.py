"""Take one sample in this process: `sample.py URL/SCENARIO LOOP STREAMS CLIENT`; prints JSON.

CPU time is the process's, user and system, after one short answer has been read to warm up.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time

import anyio
import clients


def cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def sample(url: str, streams: int, name: str) -> dict[str, float]:
    warm_up, close = clients.ASYNC[name](f"{url.rpartition('/')[0]}/burst-10")
    await warm_up()
    await close()
    read, close = clients.ASYNC[name](url)
    pieces = 0
    most_threads = 0

    async def one() -> None:
        nonlocal pieces, most_threads
        count = await read()
        pieces += count
        most_threads = max(most_threads, threading.active_count())

    cpu_before, wall_before = cpu(), time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(streams):
            tasks.start_soon(one)
    result = {"cpu": cpu() - cpu_before, "wall": time.perf_counter() - wall_before}
    await close()
    return {**result, "pieces": pieces, "threads": most_threads}


def main() -> None:
    url, loop, streams, name = sys.argv[1:]
    options = {"use_uvloop": True} if loop == "uvloop" else {}
    backend = "asyncio" if loop == "uvloop" else loop
    result = anyio.run(sample, url, int(streams), name, backend=backend, backend_options=options)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
