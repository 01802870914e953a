"""Many prompts at a time, and what is written of them: `python benchmarks/batch.py` makes BATCH.md.

Every sample has a process of its own, and so has the server, which answers each prompt after 0.2 s. Peers that are not
installed are left out.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measure import describe
from server import allow_connections, serving

PEERS = {
    "openai": "OpenAI's SDK in a thread pool",
    "langchain_openai": "LangChain's `batch`",
    "litellm": "litellm's `batch_completion`",
}
LIMIT = 100
LONGEST = 60  # seconds for a sample


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
    if how == "async":

        async def count() -> int:
            run = client.as_async().map(prompts, concurrency=concurrency)
            return sum([1 async for result in run if result.error is None])

        return asyncio.run(count())
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder, "run.sqlite") if how in ("journal", "again") else None
        answered = sum(result.error is None for result in client.map(prompts, concurrency=concurrency, journal=journal))
        if how == "again":
            began = time.monotonic()
            answered = sum(result.from_journal for result in client.map(prompts, concurrency=16, journal=journal))
            print(json.dumps({"seconds": time.monotonic() - began, "answered": answered}))
            sys.exit()
        return answered


def sample(how: str, url: str, count: int, concurrency: int) -> None:
    """Print what the run of this process took."""
    allow_connections()
    prompts = [f"prompt {number}" for number in range(count)]
    ask(how if how != "again" else "map", url.replace("limited-100-", "call-"), ["warm"], 1)  # imports
    cpu, began = time.process_time(), time.monotonic()
    answered = ask(how, url, prompts, concurrency)
    print(json.dumps({
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
        "answered": answered,
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }))  # fmt: skip


def measured(how: str, path: str, count: int, concurrency: int, rounds: int = 1) -> dict[str, float]:
    """Return the medians of several samples, with the refusals of the server."""
    taken: list[dict[str, float]] = []
    path += "-whole" if how == "litellm" else ""  # which does not stream
    for number in range(rounds):
        print(f"{how} {path} {count} by {concurrency}, round {number + 1}", file=sys.stderr)
        with serving() as server:
            command = [
                sys.executable,
                __file__,
                "--sample",
                how,
                f"{server.http}/{path}/v1",
                str(count),
                str(concurrency),
            ]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, check=True, timeout=LONGEST, env=os.environ
            )
            with urllib.request.urlopen(f"{server.http}/usage/") as answer:
                used = json.load(answer)
            taken.append({**json.loads(done.stdout.splitlines()[-1]), "refusals": used["refusals"]})
    return {name: statistics.median(each[name] for each in taken) for name in taken[0]}


def rows(count: int, rounds: int) -> Iterable[str]:
    """Yield the lines of the table."""
    yield "| | prompts/s | of the ideal | CPU per prompt | memory |"
    yield "|---|---|---|---|---|"
    names: dict[str, Callable[[int], str]] = {
        "map": lambda n: f"`map`, concurrency {n}",
        "async": lambda n: f"`AsyncClient.map`, concurrency {n}",
        "journal": lambda n: f"`map` with a journal, concurrency {n}",
        "pool": lambda n: f"a thread pool around `complete`, {n} threads",
        **{peer: lambda n, peer=peer: f"{PEERS[peer]}, {n} threads" for peer in PEERS},  # type: ignore[misc]
    }
    cases = [("map", each) for each in (1, 8, 64, 256)]
    cases += [(how, each) for how in ("async", "journal", "pool") for each in (64, 256)]
    cases += [(peer, each) for peer in PEERS if importlib.util.find_spec(peer) for each in (64, 256)]
    for how, concurrency in cases:
        made = min(count, concurrency * 60)
        try:
            found = measured(how, "call-0.2", made, concurrency, rounds)
        except subprocess.TimeoutExpired:
            yield f"| {names[how](concurrency)} | no end after {LONGEST} s | | | |"
            continue
        rate = found["answered"] / found["seconds"]
        yield (
            f"| {names[how](concurrency)} | {rate:.1f} | {100 * rate / (concurrency / 0.2):.1f} % "
            f"| {1e3 * found['cpu'] / made:.2f} ms | {found['memory']:.0f} MB |"
        )


def limited(count: int) -> Iterable[str]:
    """Yield the lines of the table about a server with a limit."""
    yield f"| a server that allows {LIMIT}/s, 256 at a time | answered | seconds | refusals |"
    yield "|---|---|---|---|"
    for how in ("map", *(peer for peer in PEERS if importlib.util.find_spec(peer))):
        name = PEERS.get(how, "`map`")
        try:
            found = measured(how, f"limited-{LIMIT}-0.2", count, 256)
        except subprocess.TimeoutExpired:
            yield f"| {name} | no end after {LONGEST} s | | |"
            continue
        yield f"| {name} | {found['answered']:.0f} of {count} | {found['seconds']:.1f} | {found['refusals']:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--sample", nargs=4)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.sample:
        how, url, count, concurrency = arguments.sample
        sample(how, url, int(count), int(concurrency))
        return
    count = arguments.count
    peers = [name.replace("_", "-") for name in PEERS if importlib.util.find_spec(name)]
    lines = [
        "# Many prompts at a time",
        "",
        f"`python benchmarks/batch.py` makes this file. {count:,} prompts (fewer for 1 and 8 at a time), each answered",
        f"0.2 s after it was asked by a server on the same machine, medians of {arguments.rounds} rounds.",
        describe(*peers),
        "",
        *rows(count, arguments.rounds),
        "",
        *limited(count),
        "",
        "| | |",
        "|---|---|",
    ]
    again = measured("again", "call-0.2", count, 64)
    large = measured("map", "call-0.2", 10_000, 256)
    kept = measured("journal", "call-0.2", 10_000, 256)
    lines += [
        f"| the same {count:,} prompts again, from the journal | {again['seconds']:.2f} s |",
        f"| memory of 10,000 prompts | {large['memory']:.0f} MB, {kept['memory']:.0f} MB with a journal |",
    ]
    Path(__file__).with_name("BATCH.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
