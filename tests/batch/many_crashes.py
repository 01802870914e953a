"""Many kills, of larger runs: `nox -s crashes`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from batch.crashes import Crash
from batch.runs import echo

from chatanywhere.testing import Fault, LoopbackServer


@pytest.mark.parametrize("seed", range(5))
def test_ten_kills_lose_nothing(seed: int, tmp_path: Path) -> None:
    """At ten random moments, of 600 prompts by 32 threads."""
    chance = random.Random(seed)
    with LoopbackServer(echo, faults=[Fault.latency(0.1, at="head")]) as server:
        crash = Crash(tmp_path, server, count=600, concurrency=32)
        for _ in range(10):
            crash.kill(chance.uniform(0, 1.0))
        assert crash.end(crash.start())
        crash.check_all()


@pytest.mark.parametrize("place", ["commit", "hand-out"])
@pytest.mark.parametrize("at", [1, 2, 3, 10, 50, 99, 100])
def test_a_kill_at_any_answer_loses_nothing(place: str, at: int, tmp_path: Path) -> None:
    """Between an answer and its commit, and between that and its hand-out."""
    with LoopbackServer(echo) as server:
        crash = Crash(tmp_path, server, count=100, concurrency=8)
        assert not crash.end(crash.start(f"{place}:{at}"))
        assert crash.end(crash.start())
        crash.check_all()
