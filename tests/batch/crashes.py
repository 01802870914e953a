"""A program that makes a run and is killed in the middle, and what must be true afterwards. `program` is what it is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import chatanywhere
from chatanywhere.testing import LoopbackServer

PROGRAM = """
import os, signal, sys
from chatanywhere import Client
from chatanywhere._batch.runner import Outbox
from chatanywhere._batch.journal import Journal

url, journal, count, concurrency, place = sys.argv[1:]
at = int(place.partition(":")[2] or 0)
seen = 0

def dying(function):
    def wrapper(*arguments, **options):
        global seen
        seen += 1
        if seen == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return wrapper

if place.startswith("commit"):
    Journal.end = dying(Journal.end)  # there is an answer, and it is not committed
if place.startswith("hand-out"):
    Outbox.put = dying(Outbox.put)  # it is committed, and not handed out
prompts = [f"prompt {number}" for number in range(int(count))]
run = Client("any", base_url=url).map(prompts, journal=journal, concurrency=int(concurrency), order="done")
print("begun", flush=True)
for result in run:
    print(result.index, result.text, flush=True)
print("ended", flush=True)
"""


class Crash:
    """Runs of the same program with the same journal.

    Attributes:
        handed_out: what each run has printed, by the prompt's index.
    """

    def __init__(self, folder: Path, server: LoopbackServer, *, count: int, concurrency: int) -> None:
        self._server = server
        self._journal = folder / "run.sqlite"
        self._count = count
        self._concurrency = concurrency
        self.handed_out: dict[int, str] = {}
        self._kills = 0

    def start(self, place: str = "") -> subprocess.Popen[bytes]:
        """Begin a run; it kills itself at a place, if one is given: `"commit:5"` or `"hand-out:5"`."""
        arguments = [self._server.url, str(self._journal), str(self._count), str(self._concurrency), place]
        environment = {**os.environ, "PYTHONPATH": str(Path(chatanywhere.__file__).parents[1])}
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *arguments],
            stdout=subprocess.PIPE,
            bufsize=0,  # what readline() had read ahead would be lost to communicate()
            env=environment,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        return process

    def kill(self, after: float) -> None:
        """Begin a run, and kill it after so many seconds."""
        process = self.start()
        time.sleep(after)
        process.kill()
        self.end(process)

    def end(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait for its end, and check what must be true; return whether it has come to its own end."""
        output, _ = process.communicate(timeout=60)
        lines = output.decode().splitlines()
        ended = lines[-1:] == ["ended"]
        for line in lines[: len(lines) - ended]:
            number, _, text = line.partition(" ")
            if line.endswith(f"prompt {number}"):  # else it was killed within the line
                assert self.handed_out.setdefault(int(number), text) == text
        self._kills += not ended
        self._check()
        return ended

    def _check(self) -> None:
        connection = sqlite3.connect(self._journal)
        states = Counter(state for (state,) in connection.execute("SELECT state FROM calls"))
        (spent,) = connection.execute("SELECT coalesce(sum(requests), 0) FROM spent").fetchone()
        (sent,) = connection.execute("SELECT coalesce(sum(times_sent), 0) FROM calls").fetchone()
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
        assert states.keys() <= {"done", "sent"}
        assert states["sent"] <= self._concurrency
        assert len(self.handed_out) <= states["done"]
        asked = Counter(request.text for request in self._server.requests)
        assert asked.keys() <= {f"prompt {number}" for number in range(self._count)}
        assert len(self._server.requests) <= sent == spent  # sent is committed before it leaves
        assert sum(asked.values()) - len(asked) <= self._concurrency * self._kills

    def check_all(self) -> None:
        """Everything is answered and handed out, and each answer is there once."""
        connection = sqlite3.connect(self._journal)
        assert connection.execute(
            "SELECT count(*), count(DISTINCT key) FROM calls WHERE state = 'done'"
        ).fetchone() == (
            self._count,
            self._count,
        )
        connection.close()
        assert self.handed_out == {number: f"said prompt {number}" for number in range(self._count)}
