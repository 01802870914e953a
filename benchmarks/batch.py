"""Many prompts at a time, and what is written of them: `python benchmarks/batch.py` makes BATCH.md in 8 minutes.

Every sample has a process of its own, and so has the server, which answers each prompt after 0.2 s. Peers that are not
installed are left out. `--only speed --only limited` prints these tables, and writes nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import random
import resource
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from measure import describe
from server import Address, allow_connections, serving

PEERS = {
    "openai": "OpenAI's SDK in a thread pool",
    "langchain_openai": "LangChain's `batch`",
    "litellm": "litellm's `batch_completion`",
}
LIMIT = 100
LONGEST = 60  # seconds for a sample
MEMORY_AT = (2000, 5000, 10_000)  # results


def ask(how: str, url: str, prompts: list[str], concurrency: int) -> int:
    """Ask all prompts in one of the ways; return how many were answered."""
    if how == "openai":
        import openai

        with openai.OpenAI(api_key="any", base_url=url, max_retries=2) as sdk, ThreadPoolExecutor(concurrency) as pool:

            def complete(prompt: str) -> bool:
                try:
                    stream = sdk.chat.completions.create(
                        model="gpt-4o-mini", messages=[{"role": "user", "content": prompt}], stream=True
                    )
                    return bool(list(stream))
                except openai.OpenAIError:
                    return False

            return sum(pool.map(complete, prompts))
    if how == "langchain_openai":
        from langchain_openai import ChatOpenAI

        chat = ChatOpenAI(model="gpt-4o-mini", api_key="any", base_url=url, streaming=True)  # type: ignore[arg-type]
        answers = chat.batch(prompts, config={"max_concurrency": concurrency}, return_exceptions=True)
        return sum(not isinstance(answer, Exception) for answer in answers)
    if how == "litellm":
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it asks the network
        import litellm

        messages = [[{"role": "user", "content": prompt}] for prompt in prompts]
        answers = litellm.batch_completion(
            model="openai/gpt-4o-mini", messages=messages, max_workers=concurrency, api_key="any", api_base=url
        )
        return sum(not isinstance(answer, Exception) for answer in answers)
    from chatanywhere import Client

    client = Client("any", base_url=url)
    if how == "pool":
        with ThreadPoolExecutor(concurrency) as pool:
            return sum(bool(each.text) for each in pool.map(client.complete, prompts))
    if how.startswith("async"):

        async def count() -> int:
            run = client.as_async().map(prompts, concurrency=concurrency, timeout=6)
            return sum([1 async for result in run if result.error is None])

        return asyncio.run(count())
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "run.sqlite") if how == "journal" else None
        return sum(result.error is None for result in client.map(prompts, concurrency=concurrency, journal=journal))


def sample(how: str, url: str, count: int, concurrency: int) -> None:
    """Print what the run of this process took."""
    allow_connections()
    prompts = [f"prompt {number}" for number in range(count)]
    if how in ("dask", "killed"):
        ask_cluster(url, prompts, concurrency, kill=how == "killed")
        return
    ask(how, url.replace("limited-100-", "call-"), ["warm"], 1)  # imports
    cpu, began = time.process_time(), time.monotonic()
    answered = ask(how, url, prompts, concurrency)
    print(json.dumps({
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "answered": answered,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))  # fmt: skip


def ask_cluster(url: str, prompts: list[str], concurrency: int, *, kill: bool) -> None:
    """The same by a cluster's workers, two processes, one of which may be killed in the middle."""
    from distributed import Client as Cluster
    from distributed import LocalCluster

    from chatanywhere import Client

    os.environ["CHATANYWHERE_API_KEY"] = "any"  # the workers take it from their environment
    client = Client(base_url=url)
    local = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=2, threads_per_worker=concurrency // 2, **local) as workers, Cluster(workers) as dask:
        list(client.map(["warm"] * concurrency, concurrency=concurrency, executor=dask))  # imports
        began, answered = time.monotonic(), 0
        for result in client.map(prompts, concurrency=concurrency, executor=dask):
            answered += result.error is None
            if kill and result.index == len(prompts) // 2:
                os.kill(next(iter(dask.run(os.getpid).values())), signal.SIGKILL)
        print(json.dumps({"seconds": time.monotonic() - began, "answered": answered}))


def keep(url: str, journal: str, count: int, concurrency: int) -> None:
    """Make a run with a journal; print when it begins, what it had at some places, and how it has ended."""
    from chatanywhere import Client, QuotaExceededError

    allow_connections()
    prompts = [f"prompt {number}" for number in range(count)]
    run = Client("any", base_url=url).map(prompts, journal=journal, concurrency=concurrency)
    said: dict[str, Any] = {"memory": {}, "error": None}
    recorded = number = 0
    began = time.monotonic()
    print("begun", flush=True)
    try:
        for number, result in enumerate(run, start=1):
            recorded += result.from_journal
            if number in MEMORY_AT:
                pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
                said["memory"][number] = pages * resource.getpagesize() / 2**20
    except (QuotaExceededError, KeyboardInterrupt) as error:
        said["error"] = type(error).__name__
    said |= {"results": number, "recorded": recorded, "seconds": time.monotonic() - began, "ended": time.monotonic()}
    said["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(said), flush=True)


# Samples --------------------------------------------------------------------------------------------------------------


def told(server: Address, path: str) -> dict[str, Any]:
    """Return what the server tells under a path."""
    with urllib.request.urlopen(f"{server.http}/{path}/") as answer:
        return dict(json.load(answer))


def measured(how: str, path: str, count: int, concurrency: int) -> dict[str, float]:
    """Take a sample, with the refusals of the server."""
    path += "-whole" if how == "litellm" else ""  # which does not stream
    print(f"{how} {path} {count} by {concurrency}", file=sys.stderr)
    with serving() as server:
        arguments = [how, f"{server.http}/{path}/v1", str(count), str(concurrency)]
        command = [sys.executable, __file__, "--sample", *arguments]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LONGEST)
        return {**json.loads(done.stdout.splitlines()[-1]), "refusals": told(server, "usage")["refusals"]}


@contextmanager
def kept(server: Address, path: str, journal: Path, count: int, concurrency: int) -> Iterator[subprocess.Popen[str]]:
    """A process that makes a run with a journal, when that has begun."""
    print(f"journal {path} {count} by {concurrency}", file=sys.stderr)
    arguments = [f"{server.http}/{path}/v1", str(journal), str(count), str(concurrency)]
    command = [sys.executable, __file__, "--keep", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "begun\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def outcome(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What such a process has said when it has come to its end."""
    output, _ = process.communicate(timeout=LONGEST)
    return dict(json.loads(output.splitlines()[-1]))


def states(journal: Path) -> dict[str, int]:
    """How many rows a journal has in each state; it is whole, and each of them is another prompt's."""
    connection = sqlite3.connect(journal)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert connection.execute("SELECT count(*) = count(DISTINCT key) FROM calls").fetchone() == (1,)
    found = dict(connection.execute("SELECT state, count(*) FROM calls GROUP BY state"))
    connection.close()
    return found


# Tables ---------------------------------------------------------------------------------------------------------------


def speed(count: int, rounds: int) -> Iterable[str]:
    """How fast, beside others."""
    names: dict[str, Callable[[int], str]] = {
        "map": lambda n: f"`map`, concurrency {n}",
        "async": lambda n: f"`AsyncClient.map`, concurrency {n}",
        "journal": lambda n: f"`map` with a journal, concurrency {n}",
        "pool": lambda n: f"a thread pool around `complete`, {n} threads",
        **{peer: lambda n, peer=peer: f"{PEERS[peer]}, {n} threads" for peer in PEERS},  # type: ignore[misc]
    }
    cases = [("map", each) for each in (1, 8, 64, 256)]
    cases += [(how, each) for how in ("async", "journal", "pool") for each in (64, 256)]
    cases += [(peer, each) for peer in installed() for each in (64, 256)]
    taken: dict[tuple[str, int], list[dict[str, float]]] = {case: [] for case in cases}
    for number in range(rounds):  # in turn, so that a busy moment of the machine hits all of them
        for how, concurrency in cases:
            if number == 0 or (concurrency >= 64 and how not in PEERS):
                with suppress(subprocess.TimeoutExpired):
                    taken[how, concurrency].append(measured(how, "call-0.2", min(count, concurrency * 60), concurrency))
    found = {
        case: {name: statistics.median(each[name] for each in samples) for name in samples[0]}
        for case, samples in taken.items()
        if samples
    }
    yield "| | prompts/s | of the ideal | CPU per prompt | memory |"
    yield "|---|---|---|---|---|"
    for how, concurrency in cases:
        name, made = names[how](concurrency), min(count, concurrency * 60)
        if (how, concurrency) not in found:
            yield f"| {name} | no end after {LONGEST} s | | | |"
            continue
        case = found[how, concurrency]
        rate = case["answered"] / case["seconds"]
        yield (
            f"| {name} | {rate:.1f} | {100 * rate / (concurrency / 0.2):.1f} % "
            f"| {1e3 * case['cpu'] / made:.2f} ms | {case['memory']:.0f} MB |"
        )
    yield ""
    yield "| | target | 64 at a time | 256 at a time |"
    yield "|---|---|---|---|"
    over = [found["map", each]["seconds"] / found["pool", each]["seconds"] for each in (64, 256)]
    cost = [1e3 * (found["journal", n]["cpu"] - found["map", n]["cpu"]) / count for n in (64, 256)]
    yield f"| time, by that of a thread pool around `complete` | ≤ 1.15 | {over[0]:.2f} | {over[1]:.2f} |"
    yield f"| the journal's CPU per prompt | ≤ 0.3 ms | {cost[0]:.2f} ms | {cost[1]:.2f} ms |"


def limited(count: int, rounds: int) -> Iterable[str]:
    """A server with a limit, beside others."""
    yield f"| a server that allows {LIMIT}/s, 256 at a time | answered | seconds | refusals |"
    yield "|---|---|---|---|"
    for how in ("map", *installed()):
        name = PEERS.get(how, "`map` (target: all, ≤ 25 s, ≤ 700)")
        try:
            found = measured(how, f"limited-{LIMIT}-0.2", count, 256)
        except subprocess.TimeoutExpired:
            yield f"| {name} | no end after {LONGEST} s | | |"
            continue
        yield f"| {name} | {found['answered']:.0f} of {count} | {found['seconds']:.1f} | {found['refusals']:.0f} |"


def clusters(count: int, rounds: int) -> Iterable[str]:
    """Dask's workers."""
    yield "| two workers of Dask's on the same machine, 32 threads each | answered | prompts/s | asked again |"
    yield "|---|---|---|---|"
    for how, name in (("dask", "`map(executor=…)` (target: ≥ 250/s)"), ("killed", "one worker killed (target: ≤ 64)")):
        with serving() as server:
            command = [sys.executable, __file__, "--sample", how, f"{server.http}/counted-0.2/v1", str(count), "64"]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=LONGEST)
            found, asked = json.loads(done.stdout.splitlines()[-1]), told(server, "asked")
        del asked["warm"]
        rate = found["answered"] / found["seconds"]
        yield f"| {name} | {found['answered']} of {count} | {rate:.1f} | {sum(asked.values()) - len(asked)} |"


def safety(count: int, rounds: int) -> Iterable[str]:
    """What ends a program, and what is left of it."""
    yield "| | target | |"
    yield "|---|---|---|"
    for row in ROWS.values():
        yield row(count)


def memory(count: int) -> str:
    """Of a long run."""
    with (
        serving() as server,
        tempfile.TemporaryDirectory() as folder,
        kept(server, "call-0.2", Path(folder, "run.sqlite"), MEMORY_AT[-1], 256) as process,
    ):
        said = outcome(process)
    at = ", ".join(f"{said['memory'][str(number)]:.0f} MB at {number:,}" for number in MEMORY_AT)
    return f"| memory of a run with a journal, 256 at a time | ≤ 80 MB, flat | {said['peak']:.0f} MB; {at} |"


def kills(count: int) -> str:
    """`kill -9` at ten random moments, and a run to the end."""
    chance, most = random.Random(), 0
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "run.sqlite")

        def twice() -> int:
            return sum(number - 1 for number in told(server, "asked").values())

        for _ in range(10):
            before = twice()
            with kept(server, "counted-0.2", journal, count, 64) as process:
                time.sleep(chance.uniform(0.05, 1.0))
                process.kill()
                process.wait()
            states(journal)
            most = max(most, twice() - before)
        before = twice()
        with kept(server, "counted-0.2", journal, count, 64) as process:
            said = outcome(process)
        most = max(most, twice() - before)
        found, asked = states(journal), told(server, "asked")
    return (
        f"| `kill -9` at ten random moments, 64 at a time | each answer once, ≤ 64 asked twice per kill | "
        f"{found.get('done', 0):,} answers in the journal, {said['results']:,} handed out, {len(asked):,} asked, "
        f"at most {most} twice per kill |"
    )


def ctrl_c(count: int) -> str:
    """In the middle of a run."""
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "run.sqlite")
        with kept(server, "counted-0.2", journal, count, 64) as process:
            time.sleep(1.5)
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            said = outcome(process)
            ended = time.monotonic() - began
        found, asked = states(journal), told(server, "asked")
    assert said["error"] == "KeyboardInterrupt"
    return (
        f"| Ctrl-C | out in 1 s, each call has its row | raised after {said['ended'] - began:.2f} s, out after "
        f"{ended:.2f} s; {len(asked)} calls, {sum(found.values())} rows |"
    )


def quota(count: int) -> str:
    """200 a day, and the next day."""
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "run.sqlite")
        days = []
        for _ in range(2):
            before = sum(told(server, "day").values())
            with kept(server, "quota-200-0.2", journal, count, 64) as process:
                said = outcome(process)
            assert said["error"] == "QuotaExceededError"
            days.append(sum(told(server, "asked").values()) - before)
        found = states(journal)
    return (
        f"| quota after 200, 64 at a time | ≤ 264 sent; the next day goes on | "
        f"{days[0]} sent, {days[1]} on the next day; {found.get('done', 0)} answers |"
    )


def again(count: int) -> str:
    """A run that is complete."""
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            before = sum(told(server, "asked").values())
            with kept(server, "counted-0.2", Path(folder, "run.sqlite"), count, 256) as process:
                said = outcome(process)
            sent = sum(told(server, "asked").values()) - before
    assert said["recorded"] == count
    took = f"{sent} calls, {said['seconds']:.2f} s"
    return f"| the same {count:,} prompts again, from the journal | 0 calls, < 1 s | {took} |"


def slow_async(count: int) -> str:
    """The time of a call begins with its turn."""
    found = measured("async", "call-1", 800, 40)
    return (
        f"| 800 async calls, 40 at a time, 1 s each, `timeout=6` | 800 answered | {found['answered']:.0f} answered "
        f"in {found['seconds']:.1f} s |"
    )


ROWS: dict[str, Callable[[int], str]] = {
    "memory": memory,
    "kills": kills,
    "ctrl-c": ctrl_c,
    "quota": quota,
    "again": again,
    "slow-async": slow_async,
}
SECTIONS: dict[str, Callable[[int, int], Iterable[str]]] = {
    "speed": speed,
    "limited": limited,
    "safety": safety,
    **({"clusters": clusters} if importlib.util.find_spec("distributed") else {}),
}
"""The tables; another one is a function that yields its lines, and a name here."""


def installed() -> list[str]:
    """Return the peers that are."""
    return [peer for peer in PEERS if importlib.util.find_spec(peer)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--keep", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=[*SECTIONS, *ROWS], action="append")
    arguments = parser.parse_args()
    if arguments.sample or arguments.keep:
        first, second, count, concurrency = arguments.sample or arguments.keep
        (sample if arguments.sample else keep)(first, second, int(count), int(concurrency))
        return
    count = arguments.count
    if arguments.only:
        for name in arguments.only:
            lines = SECTIONS[name](count, arguments.rounds) if name in SECTIONS else [ROWS[name](count)]
            print(*lines, sep="\n", flush=True)
        return
    lines = [
        "# Many prompts at a time",
        "",
        f"`python benchmarks/batch.py` makes this file. {count:,} prompts (fewer for 1 and 8 at a time), each answered",
        f"0.2 s after it was asked by a server on the same machine, medians of {arguments.rounds} rounds.",
        describe(
            *(name.replace("_", "-") for name in installed()), *(["distributed"] if "clusters" in SECTIONS else [])
        ),
    ]
    for section in SECTIONS.values():
        lines += ["", *section(count, arguments.rounds)]
    Path(__file__).with_name("BATCH.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
