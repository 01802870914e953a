"""Compare async clients on answers that come slowly, and write `ASYNC.md` beside this file.

Run it with `pip install '.[bench]'`. It takes about ten minutes and talks to this machine only.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import sys

from measure import HERE, Case, describe, measure, median

ROWS = [
    ("chatanywhere", "asyncio"),
    ("chatanywhere", "uvloop"),
    ("chatanywhere", "trio"),
    ("aiohttp", "asyncio"),
    ("AsyncOpenAI", "asyncio"),
    ("a thread per piece", "asyncio"),
]
SCENARIOS = {  # streams, events a second, events
    "40 × 50/s": (40, 50, 250),
    "200 × 50/s": (200, 50, 250),
    "1,000 × 2/s": (1000, 2, 20),
}


def case(title: str, client: str, loop: str) -> Case:
    streams, pace, count = SCENARIOS[title]
    return Case("streams", client, f"paced-{pace}-{count}", (f"number={streams}", f"loop={loop}"))


CASES = [
    case(title, client, loop)
    for title in SCENARIOS
    for client, loop in ROWS
    if (title, client) != ("1,000 × 2/s", "a thread per piece")  # it would need a thousand threads
]


def latencies() -> str:
    """The table that the test suite prints."""
    command = [sys.executable, "-m", "pytest", "-q", "--no-cov", "-n", "0", "tests/test_async_cancel.py"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE.parent, timeout=300).stdout
    lines = re.findall(r"^(\S.*?) +median +([\d.]+), +([\d.]+) +worst of (\d+) +([\d.]+), +([\d.]+)$", output, re.M)
    table = ["| stuck in | task goes on: median | worst | all is clean: median | worst |", "|---|---|---|---|---|"]
    table += [f"| {phase} | {on} | {worst_on} | {clean} | {worst} |" for phase, on, clean, _, worst_on, worst in lines]
    return "\n".join(table)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    samples = measure(CASES, rounds)
    lines = [
        "# Async streams",
        "",
        f"Written by `benchmarks/async_streams.py` on {datetime.date.today()}.",
        describe("aiohttp", "openai", "uvloop", "trio"),
        "",
        "Server-Sent Events of a paced server; CPU time per event in µs, user and system, opening included,",
        f"median of {rounds} samples, each in a process of its own; in brackets as a ratio to aiohttp.",
        "",
        "| client | event loop | " + " | ".join(SCENARIOS) + " | threads at most |",
        "|---|---|" + "---|" * len(SCENARIOS) + "---|",
    ]
    for client, loop in ROWS:
        taken = {title: case(title, client, loop) for title in SCENARIOS}
        cells = []
        for title in SCENARIOS:
            if taken[title] in samples:
                own, peer = median(samples, taken[title]), median(samples, case(title, "aiohttp", "asyncio"))
                cells.append(f"{own:.0f} ({own / peer:.2f})")
            else:
                cells.append("–")
        threads = max(run["threads"] for one in taken.values() for run in samples.get(one, ()))
        lines.append(f"| {client} | {loop} | " + " | ".join(cells) + f" | {threads} |")
    lines += [
        "",
        "`a thread per piece` is a blocking client on an event loop the obvious way: `run_sync(next, stream)`.",
        "Threads include the main one. A thousand streams are all open at the same time.",
        "",
        "## Stopping",
        "",
        "Milliseconds from the moment at which a call that is stuck is told to stop (its scope is cancelled, it is",
        "closed by another task, or cancelled from another thread; asyncio, uvloop, trio) until its task goes on, and",
        "until no thread works for it and its socket is closed. From `tests/test_async_cancel.py`.",
        "",
        latencies(),
        "",
        "## What is held for a stream",
        "",
        "At most 64 KiB as received from the socket, and the events of that; for a compressed answer the events of one",
        "block of 256 KiB. What a program does not ask for stays with the server. The text so far is kept besides.",
        "",
    ]
    (HERE / "ASYNC.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
