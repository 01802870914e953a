"""Two thousand calls with random faults."""

from __future__ import annotations

import gc
import random
import threading
import time
from collections import Counter

import psutil

from chatanywhere import ChatAnywhereError, Client, Retry, Timeout
from chatanywhere.testing import Fault, LoopbackServer

FAULTS = [
    Fault.status(503, first=1),
    Fault.reset_peer(after=1, first=1),
    Fault.limit_data(40, first=1),
    Fault.no_done(after=1, first=1),
    Fault.bad_chunk(after=1, first=1),
    Fault.bad_utf8(after=1, first=1),
    Fault.timeout(after=1, first=1),
    Fault.error_frame(first=1),
    Fault.slicer(3, first=1),
]


def in_use() -> tuple[int, int, int]:
    process = psutil.Process()
    return threading.active_count(), len(process.net_connections()), process.num_fds()


def no_more_than(before: tuple[int, int, int]) -> bool:
    return all(now <= then for now, then in zip(in_use(), before, strict=True))


def test_two_thousand_calls_leave_nothing_behind() -> None:
    """Whatever fails, breaks off or is cancelled, the process ends with the threads and sockets it began with."""
    outcomes: Counter[str] = Counter()
    with LoopbackServer(lambda _: ["one ", "two"]) as server:
        gc.collect()
        before = in_use()

        def ask(seed: int) -> None:
            chance = random.Random(seed)
            protocol = ("web", "openai")[seed % 2]
            limits = Timeout(total=3, read=0.05)
            with Client("k", base_url=server.url, protocol=protocol, timeout=limits, retry=Retry(2, 0.001)) as client:  # type: ignore[arg-type]
                for _ in range(500):
                    server.faults = [chance.choice(FAULTS)] if chance.random() < 0.7 else []
                    try:
                        with client.stream("Hello") as stream:
                            for _ in stream:
                                if chance.random() < 0.1:
                                    break
                                if chance.random() < 0.05:
                                    stream.cancel()
                        outcomes["no error"] += 1
                    except ChatAnywhereError as error:
                        outcomes[type(error).__name__] += 1

        threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        end = time.monotonic() + 5
        while not no_more_than(before) and time.monotonic() < end:
            time.sleep(0.01)
        assert no_more_than(before), (in_use(), before)
    assert sum(outcomes.values()) == 2000
    assert len(outcomes) >= 5
