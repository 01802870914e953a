"""Measure everything that this package promises about speed, and write `RESULTS.md` and `results.png` beside this file.

Run it with `pip install '.[bench]'`. It takes about 20 minutes and talks to this machine only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
from collections.abc import Iterator
from typing import NamedTuple

from measure import HERE, Case, Samples, describe, measure, median, sample
from server import serving

EVENTS = "burst-20000"


class Peer(NamedTuple):
    """What is compared with, and how. At most `limit`, or at least.

    `ratio` and `difference` are ours to theirs; `absolute` is ours alone, `most` the most of all rounds.
    """

    case: Case
    limit: float | None = None
    kind: str = "ratio"
    at_least: bool = False
    name: str | None = None


class Row(NamedTuple):
    """One kind of work, with ours and the peers' ways to do it; `key` is what of a sample it is about."""

    title: str
    unit: str
    ours: Case
    peers: tuple[Peer, ...]
    key: str = "value"


def paced(number: int, *, beside_aiohttp: float) -> Row:
    def case(client: str) -> Case:
        return Case("streams", client, "paced-50-250", (f"number={number}",))

    title = f"{number} async streams of 50 events a second"
    peers = (Peer(case("AsyncOpenAI"), 1 / 3), Peer(case("aiohttp"), beside_aiohttp), Peer(case("asyncio streams")))
    return Row(title, "µs of CPU per event", case("chatanywhere"), peers)


def call(*, tls: bool) -> Row:
    def case(client: str) -> Case:
        return Case("calls", client, "call-0", ("number=1000",), tls)

    title = f"short calls, 12 words, streamed on a warm connection{' over TLS' if tls else ''}"
    peers = (Peer(case("requests"), 0.45), Peer(case("httpx iter_lines")), Peer(case("OpenAI")))
    return Row(title, "µs of CPU per call", case("chatanywhere"), peers)


def at_once(number: int, *, beside_aiohttp: float) -> tuple[Row, Row]:
    """The time, and how many threads there were."""

    def case(client: str) -> Case:
        return Case("at_once", client, "call-1", (f"number={number}",))

    title = f"{number:,} async calls at once, 1 s to the head"
    ours = case("chatanywhere complete()")
    peers = (Peer(case("aiohttp"), beside_aiohttp), Peer(case("AsyncOpenAI")))
    threads = Row(f"{title}: worker threads", "at most", ours, (Peer(ours, 40, "most"),), "threads")
    return Row(title, "seconds by the clock", ours, peers), threads


def embeddings(client: str) -> Case:
    return Case("embed", client, "embed-1536", ("number=10000",))


def embedding(title: str, ours: str, peer: Peer) -> Row:
    return Row(title, "texts a second by the clock", embeddings(ours), (peer,))


SSE = Row(
    "20,000 events in a burst",
    "µs of CPU per event",
    Case("burst", "chatanywhere", EVENTS),
    (
        Peer(Case("burst", "OpenAI", EVENTS), 1 / 25),
        Peer(Case("burst", "iter_lines", EVENTS), 1),
        Peer(Case("streams", "aiohttp", EVENTS), 0.6),
        Peer(Case("burst", "raw socket", EVENTS), 0.9),
        Peer(Case("burst", "raw socket, orjson", EVENTS)),
        Peer(Case("burst", "httpx-sse", EVENTS)),
    ),
)
SSE_ASYNC = Row(
    "the same, async",
    "µs of CPU per event",
    Case("streams", "chatanywhere", EVENTS),
    (
        Peer(Case("burst", "chatanywhere", EVENTS), 1.1, name="the blocking client"),
        Peer(Case("streams", "AsyncOpenAI", EVENTS), 1 / 20),
        Peer(Case("streams", "aiohttp", EVENTS), 0.75),
    ),
)
WEB = Row(
    "20,000 chunks of text in a burst",
    "µs of CPU per chunk",
    Case("burst", "chatanywhere web", EVENTS),
    (
        Peer(Case("burst", "iter_content", EVENTS), 1),
        Peer(Case("burst", "httpx", EVENTS), 1 / 5),
        Peer(Case("streams", "aiohttp iter_any", EVENTS), 1.25),
    ),
)
CALL = call(tls=False)
CALL_TLS = call(tls=True)
CALL_THREADS = Row(
    "short calls in 32 threads",
    "calls a second by the clock",
    Case("calls_in_threads", "chatanywhere", "call-0", ("number=32",)),
    (Peer(Case("calls_in_threads", "requests", "call-0", ("number=32",)), 2, at_least=True),),
)
CALL_TASKS = Row(
    "short calls in 32 async tasks",
    "µs of CPU per call",
    Case("calls_in_tasks", "chatanywhere", "call-0", ("number=32",)),
    (
        Peer(Case("calls_in_tasks", "aiohttp", "call-0", ("number=32",)), 1.3),
        Peer(Case("calls_in_tasks", "AsyncOpenAI", "call-0", ("number=32",))),
    ),
)
HUNDREDS, HUNDREDS_THREADS = at_once(300, beside_aiohttp=1.15)
THOUSAND, THOUSAND_THREADS = at_once(1000, beside_aiohttp=1.2)
PACED = paced(200, beside_aiohttp=1.5)
THREADS = Row(
    "200 threads, each with 50 events a second",
    "µs of CPU per event",
    Case("threads", "chatanywhere", "paced-50-250", ("number=200",)),
    (
        Peer(Case("threads", "OpenAI", "paced-50-250", ("number=200",)), 0.28),
        Peer(Case("threads", "raw socket", "paced-50-250", ("number=200",))),
    ),
)
THREADS_UNLIMITED = Row(
    "200 threads, the same with `timeout=None`",
    "µs of CPU per event",
    Case("threads", "chatanywhere, timeout=None", "paced-50-250", ("number=200",)),
    (Peer(Case("threads", "OpenAI, timeout=None", "paced-50-250", ("number=200",)), 1 / 3),),
)
ROWS = [
    SSE,
    SSE_ASYNC,
    WEB,
    Row(
        "64 MiB of text in chunks of 16 KiB, none of it kept",
        "MB/s",
        Case("bulk", "chatanywhere web, keep_text=False", "bulk-64"),
        (Peer(Case("bulk", "iter_content", "bulk-64"), 1, at_least=True),),
    ),
    Row(
        "the same, all of it kept",
        "MB/s",
        Case("bulk", "chatanywhere web", "bulk-64"),
        (Peer(Case("bulk", "iter_content, text kept", "bulk-64"), 1, at_least=True),),
    ),
    CALL,
    CALL_TLS,
    CALL_THREADS,
    CALL_TASKS,
    HUNDREDS,
    HUNDREDS_THREADS,
    THOUSAND,
    THOUSAND_THREADS,
    paced(40, beside_aiohttp=1.15),
    PACED,
    Row(
        "1,000 async streams of 2 events a second",
        "µs of CPU per event",
        Case("streams", "chatanywhere", "paced-2-20", ("number=1000",)),
        (Peer(Case("streams", "aiohttp", "paced-2-20", ("number=1000",)), 1.3),),
    ),
    THREADS,
    THREADS_UNLIMITED,
    embedding(
        "embeddings of 10,000 short texts, 1,536 numbers each",
        "chatanywhere",
        Peer(embeddings("OpenAI"), 3, at_least=True),
    ),
    embedding(
        "the same, as an array of numpy's", "chatanywhere, numpy", Peer(embeddings("OpenAI, numpy"), 3, at_least=True)
    ),
    embedding("the same, as lists", "chatanywhere, lists", Peer(embeddings("OpenAI"))),
    Row(
        "first text, on a warm connection, median of 300",
        "ms",
        Case("first", "chatanywhere", "burst-1", ("number=300",)),
        (
            Peer(Case("first", "OpenAI", "burst-1", ("number=300",)), 1 / 2),
            Peer(Case("first", "requests", "burst-1", ("number=300",)), 0.45),
        ),
    ),
    Row(
        "an event every 20 ms is seen after: 99th percentile",
        "ms",
        Case("delay", "chatanywhere", "stamped-50-250"),
        (
            Peer(Case("delay", "chatanywhere", "stamped-50-250"), 5, "absolute"),
            Peer(Case("delay", "requests", "stamped-50-250")),
        ),
    ),
    Row(
        "the same, async",
        "ms",
        Case("async_delay", "chatanywhere", "stamped-50-250"),
        (Peer(Case("async_delay", "chatanywhere", "stamped-50-250"), 5, "absolute"),),
    ),
    Row(
        "`from chatanywhere import Client`",
        "ms of CPU",
        Case("imports", "chatanywhere", "-"),
        (Peer(Case("imports", "requests", "-"), 1.12),),
    ),
    Row(
        "the same, and `Client('a-key')`, which imports requests",
        "ms of CPU",
        Case("imports", "chatanywhere, a client", "-"),
        (
            Peer(Case("imports", "requests", "-")),
            Peer(Case("imports", "requests, dataclasses", "-")),
        ),
    ),
    Row(
        "memory after 1 GiB of text, `keep_text=False`",
        "MiB",
        Case("memory", "chatanywhere web, keep_text=False", "bulk-1024"),
        (Peer(Case("memory", "chatanywhere web, keep_text=False", "bulk-1"), 8, "difference", name="1 MiB"),),
    ),
    Row(
        "memory of an open, silent stream",
        "KiB",
        Case("idle", "chatanywhere", "paced-0.01-2", ("number=1000",)),
        (Peer(Case("idle", "AsyncOpenAI", "paced-0.01-2", ("number=1000",)), 1 / 2),),
    ),
    Row(
        "1,000,000 events in one stream",
        "µs of CPU per event",
        Case("scale", "chatanywhere", "burst-1000000"),
        tuple(
            Peer(Case("scale", "chatanywhere", f"burst-{count}"), 1.15, name=f"{count:,} events")
            for count in (1_000, 10_000, 100_000)
        ),
    ),
]
EVENTS_IN_DETAIL = (SSE, SSE_ASYNC, WEB, PACED, THREADS, THREADS_UNLIMITED)
CALLS_IN_DETAIL = (CALL, CALL_TLS, CALL_THREADS, CALL_TASKS, HUNDREDS, THOUSAND)
PLOTTED = {
    "20,000 events in a burst": SSE,
    "20,000 events in a burst, async": SSE_ASYNC,
    "20,000 chunks of text in a burst": WEB,
    "short calls on a warm connection": CALL,
    "short calls in 32 async tasks": CALL_TASKS,
    "1,000 async calls at once, 1 s to the head": THOUSAND,
}
NAMES = {
    "aiohttp": "aiohttp, its lines",
    "asyncio streams": "asyncio's streams and json",
    "raw socket": "raw socket and json",
    "raw socket, orjson": "raw socket and orjson",
    "iter_lines": "requests `iter_lines`",
    "iter_content": "requests `iter_content(None)`",
    "iter_content, text kept": "requests `iter_content(None)`, kept in a list",
    "httpx": "httpx `iter_text`",
    "httpx iter_lines": "httpx `iter_lines`",
    "requests": "requests",
    "chatanywhere complete()": "chatanywhere `complete()`",
    "requests, dataclasses": "`import requests, dataclasses`",
}


def compare(samples: Samples, row: Row, peer: Peer) -> tuple[float, float]:
    """Return the peer's median, and how ours compared with it: the median of the rounds, unless the most is asked."""
    pairs = [(a[row.key], b[row.key]) for a, b in zip(samples[row.ours], samples[peer.case], strict=True)]
    if peer.kind == "ratio":
        compared = statistics.median(a / b for a, b in pairs)
    elif peer.kind == "difference":
        compared = statistics.median(a - b for a, b in pairs)
    else:
        compared = (max if peer.kind == "most" else statistics.median)(a for a, _ in pairs)
    return median(samples, peer.case, row.key), compared


def is_met(peer: Peer, compared: float) -> bool:
    assert peer.limit is not None
    return compared >= peer.limit if peer.at_least else compared <= peer.limit


def table(samples: Samples) -> Iterator[str]:
    yield "| work | chatanywhere | beside | | ours to theirs | target | |"
    yield "|---|---|---|---|---|---|---|"
    for row in ROWS:
        first = f"{row.title}, {row.unit}", _number(median(samples, row.ours, row.key))
        for peer in row.peers:
            theirs, compared = compare(samples, row, peer)
            name = peer.name or NAMES.get(peer.case.client, peer.case.client)
            beside = _number(theirs)
            if peer.kind in ("absolute", "most"):
                name, beside = "–", ""
            sign = "+" if peer.kind == "difference" else ""
            target = mark = ""
            if peer.limit is not None:
                target = f"{'≥' if peer.at_least else '≤'} {sign}{_number(peer.limit)}"
                mark = "met" if is_met(peer, compared) else "**not met**"
            cells = (*first, name, beside, sign + _number(compared), target, mark)
            yield f"| {' | '.join(cells)} |"
            first = "", ""


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def detail(samples: Samples, rows: tuple[Row, ...], more: dict[str, str]) -> Iterator[str]:
    """How far the samples were apart, with the medians of what `more` names: what a sample calls it, by heading."""
    yield "| | " + " | ".join(("median", "lowest", "highest", *more)) + " |"
    yield "|---|" + "---|" * (3 + len(more))
    for row in rows:
        yield f"| **{row.title}**, {row.unit} |" + " |" * (3 + len(more))
        for case in (row.ours, *(peer.case for peer in row.peers)):
            taken = [run["value"] for run in samples[case]]
            values = [
                median(samples, case),
                min(taken),
                max(taken),
                *(median(samples, case, key) for key in more.values()),
            ]
            yield f"| {NAMES.get(case.client, case.client)} | " + " | ".join(map(_number, values)) + " |"


def plot(samples: Samples) -> None:
    """Draw what each client takes for some kinds of work, as multiples of what ours takes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(2, 3, figsize=(12, 4.8), layout="constrained")
    for panel, (title, row) in zip(panels.flat, PLOTTED.items(), strict=True):
        times = {row.ours: 1.0} | {peer.case: 1 / compare(samples, row, peer)[1] for peer in row.peers}
        cases = sorted(times, key=lambda case: -times[case])
        names = [NAMES.get(case.client, case.client).replace("`", "") for case in cases]
        colors = ["#d95f02" if case == row.ours else "#9aa5b1" for case in cases]
        bars = panel.barh(names, [times[case] for case in cases], color=colors)
        panel.bar_label(bars, [f"{times[case]:.3g}" for case in cases], padding=3, fontsize=8)
        panel.set_xlim(0, 1.15 * max(times.values()))
        panel.set_title(title, fontsize=9)
        panel.set_xlabel(f"times ours, which is {_number(median(samples, row.ours))} {row.unit}", fontsize=8)
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(HERE / "results.png", dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", metavar="WORD", help="print the rows that have this word in their title; write nothing"
    )
    arguments = parser.parse_args()
    if arguments.only:
        ROWS[:] = [row for row in ROWS if arguments.only in row.title]
    machine = describe("aiohttp", "openai", "httpx", "httpx-sse", "orjson")
    samples = measure(
        [case for row in ROWS for case in (row.ours, *(peer.case for peer in row.peers))], arguments.rounds
    )
    if arguments.only:
        print(*table(samples), sep="\n")
        return
    with serving() as server:
        profile = json.loads(sample(Case("profile", "chatanywhere", EVENTS), server))["report"]
    lines = [
        "# Results",
        "",
        f"Written by `benchmarks/results.py` on {datetime.date.today()}. {machine}",
        "",
        f"Medians of {arguments.rounds} samples, each in a process of its own, all clients in turn; a ratio is the",
        "median of the rounds' ratios, so it may differ a little from that of the two medians. CPU time is the",
        "process's, user and system. The server has a process of its own. The clients are as they are by default.",
        "",
        *table(samples),
        "",
        *(HERE / "remarks.md").read_text(encoding="utf-8").splitlines(),
        "",
        "## Events in detail",
        "",
        *detail(samples, EVENTS_IN_DETAIL, {"by the clock, µs": "wall"}),
        "",
        "## Calls in detail",
        "",
        "With the CPU time that a call took the server, and the connections that were made besides the warm ones.",
        "",
        *detail(samples, CALLS_IN_DETAIL, {"the server's CPU, µs": "server", "new connections": "connections"}),
        "",
        "## Where the time of a burst of events goes",
        "",
        "Blocking client, under cProfile, which makes calls dearer than they are:",
        "",
        "```",
        *(line.rstrip() for line in profile.strip().splitlines()),
        "```",
        "",
    ]
    (HERE / "RESULTS.md").write_text("\n".join(lines), encoding="utf-8")
    plot(samples)


if __name__ == "__main__":
    main()
