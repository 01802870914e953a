"""Runs on clusters of Dask's whose workers are processes, which are killed, and join late without a key.

`nox -s dask`.
"""

from __future__ import annotations

import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask as dask_library
import distributed
import distributed.comm.utils as comm
import pytest
from batch.clusters import cluster_of
from batch.runs import collect, echo, interrupt, take_all
from faces import Face

import chatanywhere
from chatanywhere import APIConnectionError, AuthenticationError, BadRequestError, Client, Limits, Result
from chatanywhere.testing import Fault, LoopbackServer, Request

KEY = "sk-which-only-the-workers-have"
THREADS = 8  # of each worker


@pytest.fixture
def dask(monkeypatch: pytest.MonkeyPatch) -> Iterator[distributed.Client]:
    """A client of a cluster with two workers that have a key."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", KEY)
    with cluster_of(2, THREADS) as cluster, distributed.Client(cluster) as dask:
        monkeypatch.delenv("CHATANYWHERE_API_KEY")  # workers that are begun from now on have none
        yield dask


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """Answers each prompt with its own words after 0.1 s."""
    with LoopbackServer(echo, faults=[Fault.latency(0.1, at="head")]) as server:
        yield server


def prompts(count: int) -> list[str]:
    return [f"prompt {number}" for number in range(count)]


def check_answers(results: list[Result], count: int) -> None:
    assert [result.index for result in results] == list(range(count))
    assert [result.text for result in results] == [f"said prompt {number}" for number in range(count)]


def at(number: int, do: Callable[[], object]) -> Callable[[Result], None]:
    """Do something when the result of this number has come."""

    def note(result: Result) -> None:
        if result.index == number:
            do()

    return note


def warnings_of(caplog: pytest.LogCaptureFixture, word: str) -> list[str]:
    """Those of this package that have a word."""
    messages = [record.getMessage() for record in caplog.records if record.name == "chatanywhere"]
    return [message for message in messages if word in message]


def kill_one(dask: distributed.Client) -> None:
    """Kill a worker in the middle of what it does; its nanny begins another one."""
    os.kill(next(iter(dask.run(os.getpid).values())), signal.SIGKILL)


def test_a_worker_that_is_killed_loses_nothing(
    face: Face, dask: distributed.Client, server: LoopbackServer, tmp_path: Path
) -> None:
    """Its prompts are asked again, each answer is in the journal once, and few are asked twice."""
    client = Client("any", base_url=server.url)
    journal = tmp_path / "run.sqlite"
    results, error = collect(
        face, client, prompts(300), executor=dask, concurrency=16, journal=journal,
        on_result=at(50, lambda: kill_one(dask)),
    )  # fmt: skip
    assert error is None
    check_answers(results, 300)
    asked = Counter(request.text for request in server.requests)
    assert sum(asked.values()) - len(asked) <= 16
    connection = sqlite3.connect(journal)
    rows = connection.execute("SELECT state, count(*), count(DISTINCT key) FROM calls GROUP BY state").fetchall()
    connection.close()
    assert rows == [("done", 300, 300)]


@pytest.mark.parametrize("how", ["joins", "restarted"])
def test_a_worker_that_comes_late_without_a_key_answers_nothing(
    how: str, dask: distributed.Client, server: LoopbackServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Its prompts go to others, and a warning names it, once."""
    before = set(dask.nthreads())

    def change() -> None:
        if how == "joins":
            dask.cluster.scale(3)
        else:
            kill_one(dask)
        deadline = time.monotonic() + 30
        while not set(dask.nthreads()) - before and time.monotonic() < deadline:
            time.sleep(0.05)

    client = Client("any", base_url=server.url)
    run = client.map(prompts(300), executor=dask, concurrency=24, retry=1)
    results = []
    for result in run:
        results.append(result)
        at(20, change)(result)
    check_answers(results, 300)
    (late,) = set(dask.nthreads()) - before
    warned = [
        record.getMessage()
        for record in caplog.records
        if record.name == "chatanywhere" and late in record.getMessage()
    ]
    assert len(warned) == 1
    assert "CHATANYWHERE_API_KEY" in warned[0]
    assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}


def test_a_run_stops_when_no_worker_has_a_key_any_more(
    dask: distributed.Client, server: LoopbackServer, tmp_path: Path
) -> None:
    """All are killed and begun again without one: what was paid is handed out, and a later run does the rest."""

    def kill_all() -> None:
        before = set(dask.nthreads())
        for process in dask.run(os.getpid).values():
            os.kill(process, signal.SIGKILL)
        deadline = time.monotonic() + 30
        while len(set(dask.nthreads()) - before) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)

    client = Client("any", base_url=server.url)
    journal = tmp_path / "run.sqlite"
    run = client.map(prompts(200), executor=dask, concurrency=16, journal=journal)
    results, error = take_all(run, at(20, kill_all))
    assert isinstance(error, AuthenticationError)
    assert error.left == 200 - len(results)
    assert all(address in str(error) for address in dask.nthreads())
    assert all(result.error is None for result in results)
    check_answers(list(client.map(prompts(200), journal=journal)), 200)
    asked = Counter(request.text for request in server.requests)
    assert sum(asked.values()) - len(asked) <= 2 * 16


def test_workers_without_a_key_are_named_before_anything_is_sent(server: LoopbackServer) -> None:
    """Though the driver has one, and so have other workers."""
    with pytest.MonkeyPatch.context() as patch, cluster_of(1, THREADS) as cluster, distributed.Client(cluster) as dask:
        (without,) = dask.nthreads()
        patch.setenv("CHATANYWHERE_API_KEY", KEY)
        cluster.scale(2)
        dask.wait_for_workers(2)
        results, error = take_all(Client("any", base_url=server.url).map(prompts(5), executor=dask))
        assert results == []
        assert isinstance(error, AuthenticationError)
        assert [address in str(error) for address in dask.nthreads()].count(True) == 1
        assert without in str(error)
        assert server.requests == []


def test_limits_hold_for_the_whole_cluster(dask: distributed.Client) -> None:
    """No second has more requests than the limit, on all workers together, but for what comes a little late."""
    arrived: list[float] = []

    def note(request: Request) -> str:
        arrived.append(time.monotonic())
        return "x"

    with LoopbackServer(note) as server:
        client = Client("any", base_url=server.url)
        limits = Limits(requests_per_second=20)
        assert len(list(client.map(prompts(80), executor=dask, concurrency=16, limits=limits))) == 80
    arrived.sort()
    assert max(sum(first <= each < first + 0.7 for each in arrived) for first in arrived) <= 20
    assert arrived[-1] - arrived[0] > 2.7


def test_a_scheduler_that_goes_away_ends_the_run(
    face: Face, monkeypatch: pytest.MonkeyPatch, server: LoopbackServer, tmp_path: Path
) -> None:
    """With an error of the tree; what was paid is handed out, and a later run does the rest."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", KEY)
    client = Client("any", base_url=server.url)
    journal = tmp_path / "run.sqlite"
    with cluster_of(1, THREADS) as cluster, distributed.Client(cluster.scheduler_address, timeout=2) as dask:
        results, error = collect(
            face, client, prompts(200), executor=dask, concurrency=8, journal=journal, on_result=at(20, cluster.close)
        )
    assert isinstance(error, APIConnectionError)
    assert error.left == 200 - len(results)
    check_answers(list(client.map(prompts(200), journal=journal)), 200)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_prompts_whose_workers_die_fail(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Dask does not try again by itself, the run does, as often as `retry` says."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", KEY)
    with (
        dask_library.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster_of(2, THREADS) as cluster,
        distributed.Client(cluster) as dask,
    ):
        client = Client("any", base_url=server.url)
        results, error = take_all(
            client.map(prompts(100), executor=dask, concurrency=16), at(20, lambda: kill_one(dask))
        )
        assert error is None
        check_answers(results, 100)
        assert 2 in {result.attempts for result in results}
        results, error = take_all(
            client.map(prompts(100), executor=dask, concurrency=16, retry=1), at(20, lambda: kill_one(dask))
        )
    assert error is None
    failed = [result.error for result in results if result.error is not None]
    assert 0 < len(failed) <= 16
    assert all(isinstance(each, APIConnectionError) and "died" in str(each) for each in failed)


def test_no_key_is_in_what_dask_sends(
    dask: distributed.Client, server: LoopbackServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor in the journal, or in a result: neither the driver's nor the workers'."""
    seen: list[bytes] = []

    async def to_frames(*arguments: Any, **options: Any) -> Any:
        frames = await comm.to_frames(*arguments, **options)
        seen.extend(map(bytes, frames))
        return frames

    async def from_frames(frames: Any, *arguments: Any, **options: Any) -> Any:
        seen.extend(map(bytes, frames))
        return await comm.from_frames(frames, *arguments, **options)

    monkeypatch.setattr(distributed.comm.tcp, "to_frames", to_frames)
    monkeypatch.setattr(distributed.comm.tcp, "from_frames", from_frames)

    def answer(request: Request) -> Any:
        if request.text == "prompt 1":
            return Fault.status(400, f"{request.headers['Authorization']} is not allowed to do this")
        return request.text

    own_key = "sk-which-only-the-driver-has"
    with LoopbackServer(answer) as server:
        client = Client(own_key, base_url=server.url)
        journal = tmp_path / "run.sqlite"
        results = list(client.map(prompts(20), executor=dask, concurrency=8, journal=journal))
        assert {request.headers["Authorization"] for request in server.requests} == {f"Bearer {KEY}"}
    assert isinstance(results[1].error, BadRequestError)
    assert any(b"prompt 7" in each for each in seen)
    kept = [file.read_bytes() for file in tmp_path.iterdir()]
    assert any(b"prompt 7" in each for each in kept)
    for key in (KEY, own_key):
        assert not any(key.encode() in each for each in [*seen, *kept, pickle.dumps(results)])


@pytest.fixture
def without_package(tmp_path: Path) -> Iterator[None]:
    """Workers that are begun meanwhile don't have this package."""
    preload = tmp_path / "preload.py"
    preload.write_text('import sys; sys.modules["chatanywhere._batch.dask"] = None')
    with dask_library.config.set({"distributed.worker.preload": [str(preload)]}):
        yield


def test_a_worker_without_the_package_does_no_harm(
    dask: distributed.Client, server: LoopbackServer, without_package: None
) -> None:
    """If it joins in the middle of a run, it breaks when it is given a task, and its prompts go to others."""

    def join() -> None:
        dask.cluster.scale(3)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:  # it may have gone already
            events = [event for _, event in dask.get_events("all")]
            if sum(event.get("action") == "add-worker" for event in events) == 3:
                return
            time.sleep(0.05)
        raise AssertionError("no third worker came")

    before = set(dask.nthreads())
    client = Client("any", base_url=server.url)
    results, error = take_all(client.map(prompts(300), executor=dask, concurrency=24, retry=1), at(20, join))
    assert error is None
    check_answers(results, 300)
    assert len(server.requests) == 300
    assert set(dask.nthreads()) <= before


def test_workers_without_the_package_are_named(server: LoopbackServer, without_package: None) -> None:
    """Before anything is sent."""
    with cluster_of(1, THREADS) as cluster, distributed.Client(cluster) as dask:
        results, error = take_all(Client("any", base_url=server.url).map(prompts(10), executor=dask))
        assert results == []
        assert isinstance(error, RuntimeError)
        assert next(iter(dask.nthreads())) in str(error)
    assert server.requests == []


INTERRUPTED = """
import os, sys, time
from dataclasses import dataclass
from chatanywhere import Client
from distributed import Client as DaskClient, LocalCluster

@dataclass
class Label:
    mood: str

def main(url):
    with LocalCluster(
        n_workers=2,
        threads_per_worker=8,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        worker_dashboard_address="127.0.0.1:0",
    ) as cluster, DaskClient(cluster) as dask:
        prompts = [str(number) for number in range(100)]
        run = Client(base_url=url).map(prompts, executor=dask, concurrency=16, response_format=Label)
        try:
            for result in run:
                print(result.completion.parsed, flush=True)
        except KeyboardInterrupt:
            print("interrupted", time.monotonic(), flush=True)

if __name__ == "__main__":
    main(sys.argv[1])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_ctrl_c_ends_what_runs_on_the_workers(tmp_path: Path) -> None:
    """The run ends within a second, and so do the connections. The type of the answers is of `__main__`."""
    program = tmp_path / "program.py"
    program.write_text(INTERRUPTED)
    environment = {
        **os.environ, "PYTHONPATH": str(Path(chatanywhere.__file__).parents[1]), "CHATANYWHERE_API_KEY": KEY,
    }  # fmt: skip

    def answer(request: Request) -> Any:
        return '{"mood": "good"}' if request.text == "0" else Fault.latency(30.0, after=200)

    with LoopbackServer(answer) as server:
        process = subprocess.Popen(
            [sys.executable, str(program), server.url], stdout=subprocess.PIPE, text=True, env=environment
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "Label(mood='good')\n"
            assert interrupt(process, server, 17) < 1.0
            process.stdout.read()
            assert process.wait(timeout=30) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        assert len(server.requests) == 17
