"""What is left of a run whose program is killed or interrupted; `many_crashes.py` has more of it."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from batch.crashes import Crash
from batch.runs import echo, interrupt

import chatanywhere
from chatanywhere import Client
from chatanywhere.testing import Fault, LoopbackServer

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals")


def test_what_a_killed_program_had_paid_is_not_lost(tmp_path: Path) -> None:
    """Killed at random moments, and run to its end: each answer is kept once, and few are asked twice."""
    chance = random.Random(7)
    with LoopbackServer(echo, faults=[Fault.latency(0.05, at="head")]) as server:
        crash = Crash(tmp_path, server, count=120, concurrency=8)
        for _ in range(2):
            crash.kill(chance.uniform(0.05, 0.5))
        assert crash.end(crash.start())
        crash.check_all()


@pytest.mark.parametrize("place", ["commit:20", "hand-out:20"])
def test_a_kill_between_answer_commit_and_hand_out_loses_nothing(place: str, tmp_path: Path) -> None:
    """An answer that is not committed is asked for again; one that is committed is handed out by the next run."""
    with LoopbackServer(echo) as server:
        crash = Crash(tmp_path, server, count=40, concurrency=4)
        assert not crash.end(crash.start(place))
        assert crash.end(crash.start())
        crash.check_all()


INTERRUPTED = """
import sys, time, asyncio
from chatanywhere import AsyncClient, Client

how, url, journal = sys.argv[1:]
prompts = [str(number) for number in range(100)]
options = {"journal": journal, "concurrency": 8}

async def main():
    async for result in AsyncClient("any", base_url=url).map(prompts, **options):
        print(result.index, flush=True)

try:
    if how == "sync":
        for result in Client("any", base_url=url).map(prompts, **options):
            print(result.index, flush=True)
    elif how == "body":
        for result in Client("any", base_url=url).map(prompts, **options):
            print(result.index, flush=True)
            time.sleep(60)
    else:
        asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", time.monotonic(), flush=True)  # the clock of all processes
"""


@pytest.mark.parametrize("how", ["sync", "body", "async"])
def test_ctrl_c_ends_a_run_within_a_second(how: str, tmp_path: Path) -> None:
    """Nothing more is sent, running calls are cancelled, and each that was begun has its row."""
    journal = tmp_path / "run.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(Path(chatanywhere.__file__).parents[1])}
    with LoopbackServer(lambda request: "x" if request.text == "0" else Fault.latency(30.0, after=200)) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", INTERRUPTED, how, server.url, str(journal)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "0\n"
        assert interrupt(process, server, 9) < 1.5  # a second, on a machine that has time
        output, _ = process.communicate(timeout=20)
        assert not output
        assert process.returncode == 0
        assert len(server.requests) == 9
    connection = sqlite3.connect(journal)
    states = sorted(state for (state,) in connection.execute("SELECT state FROM calls"))
    connection.close()
    assert states == ["done"] + ["sent"] * 8
    Client("any", base_url="http://127.0.0.1:9").map([], journal=journal).close()


TWICE = """
import sys, time
from chatanywhere import Client
from chatanywhere._batch.runner import Runner

url, journal = sys.argv[1:]
wait = Runner.close

def close(self):
    print("ending", flush=True)
    time.sleep(30)  # as on a disk that does not answer
    wait(self)

Runner.close = close

try:
    list(Client("any", base_url=url).map(["a"], journal=journal))
finally:
    print("left", time.monotonic(), flush=True)
"""


def test_a_second_ctrl_c_leaves_at_once(tmp_path: Path) -> None:
    """Whatever the first one waits for."""
    environment = {**os.environ, "PYTHONPATH": str(Path(chatanywhere.__file__).parents[1])}
    with LoopbackServer(faults=[Fault.latency(30.0, at="head")]) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", TWICE, server.url, str(tmp_path / "j")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        assert process.stdout is not None
        deadline = time.monotonic() + 20
        while not server.requests and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ending\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        said, when = process.stdout.readline().split()
        assert said == "left"
        assert float(when) - began < 1
        process.communicate(timeout=20)
        assert time.monotonic() - began < 3
    Client("any", base_url="http://127.0.0.1:9").map([], journal=tmp_path / "j").close()


STUCK = """
import sys, time, asyncio
from chatanywhere import AsyncClient
from chatanywhere._batch.journal import Journal
from chatanywhere._batch.runner import Runner

how, url, journal = sys.argv[1:]
close = Runner.close

def commit(self, entries):
    print("begun", flush=True)
    time.sleep(30)  # as on a disk that does not answer

def told_close(self):
    print("closing", flush=True)
    close(self)

Journal._commit = commit
Runner.close = told_close

async def main():
    async for _ in AsyncClient("any", base_url=url).map(["a"], journal=journal):
        pass

try:
    if how == "asyncio":
        asyncio.run(main())
    else:
        import trio
        trio.run(main)
finally:
    print("left", time.monotonic(), flush=True)
"""


@pytest.mark.parametrize("how", ["asyncio", "trio"])
def test_a_second_ctrl_c_of_an_event_loop_leaves_no_later(how: str, tmp_path: Path) -> None:
    """The first one waits for the run's end, and no longer than a second where the disk does not answer."""
    environment = {**os.environ, "PYTHONPATH": str(Path(chatanywhere.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, how, "http://127.0.0.1:9", str(tmp_path / "j")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "closing\n"
    process.send_signal(signal.SIGINT)
    said, when = process.stdout.readline().split()
    assert said == "left"
    assert float(when) - began < 1.5  # a second, on a machine that has time
    process.communicate(timeout=20)
    assert time.monotonic() - began < 3
