"""How many requests are made at a time, after whatever refusals."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere._batch.gate import Gate

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "refusal", "odd refusal", "pass over"]),
        st.sampled_from([0.0, 0.01, 0.3, 0.45, 0.5, 2.0]),
        st.none() | st.sampled_from([0.0, 0.2, 3.0]),
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 64), st.booleans())
def test_the_limit_is_cut_twice_a_second_at_most_and_grows_with_each_answer(
    steps: list[tuple[str, float, float | None]], most: int, adaptive: bool
) -> None:
    """In whatever order they come; nobody asks before the time that anybody was told, nor more than there are slots."""
    gate, now, held = Gate(most, adaptive=adaptive), 100.0, 0.0
    cuts: list[float] = []
    for kind, pause, retry_after in steps:
        now += pause
        before = gate.limit
        if kind == "answer":
            gate.answer(0.2)
            assert gate.limit == pytest.approx(min(most, before + 1 / before))
        else:
            held = max(held, now + (retry_after or 0))
            if kind == "pass over":
                gate.pass_over(retry_after, now)
            else:
                gate.refuse(retry_after, now, odd=kind == "odd refusal")
            if gate.limit != before:
                assert gate.limit == pytest.approx(max(1.0, before * 0.7))
                assert kind != "pass over"
                assert adaptive
                cuts.append(now)
            elif adaptive and kind != "pass over" and before > 1:
                assert cuts
                assert now - cuts[-1] < 0.5  # else there is no reason to leave it
        ready = gate.ready_at(0, now)
        assert ready is not None
        assert held <= ready <= max(held, now + 8)
        assert gate.ready_at(int(gate.limit), now) is None
        if ready <= now:
            gate.start(now)
    assert all(later - sooner >= 0.5 for sooner, later in pairwise(cuts))
