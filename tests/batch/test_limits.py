"""What may be spent in a second, a minute and a day."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere import Limits
from chatanywhere._batch.limits import Limiter, Minute, Window

STEPS = st.lists(st.tuples(st.floats(0, 2), st.integers(0, 40), st.integers(0, 60)), max_size=60)


@given(STEPS, st.integers(1, 50), st.floats(0.1, 5))
def test_a_window_never_holds_more_than_it_may(steps: list[tuple[float, int, int]], most: int, seconds: float) -> None:
    """Whatever is asked for when, no window has more in it, unless one alone is larger; and nothing waits in vain."""
    window = Window(most, seconds)
    now, spent = 0.0, list[tuple[float, int]]()
    for pause, amount, _ in steps:
        now += pause
        ready = window.ready_at(amount, now)
        assert now <= ready <= now + seconds + 1e-9
        if ready > now:
            before = sum(each for when, each in spent if when + seconds > now)
            assert before + amount > most  # else there would be no reason to wait
            now = ready
        window.spend(amount, now)
        spent.append((now, amount))
    for begin, _ in spent:
        inside = [each for when, each in spent if begin <= when < begin + seconds - 1e-9]
        assert sum(inside) <= most or sum(1 for each in inside if each) <= 1


@given(STEPS, st.integers(20, 80))
def test_tokens_are_counted_as_they_came_to(steps: list[tuple[float, int, int]], most: int) -> None:
    """What was expected is corrected, in any order and at any time, also when it has been forgotten."""
    window = Window(most, 3.0)
    now, entries = 0.0, list[tuple[list[float], int]]()
    for number, (pause, amount, actual) in enumerate(steps):
        now = max(now + pause, window.ready_at(amount, now + pause))
        entries.append((window.spend(amount, now), actual))
        if number % 3 == 0:
            window.correct(*entries.pop(number // 3 % len(entries)))
        window.ready_at(0, now)
        assert window._sum == pytest.approx(sum(each for _, each in window._spent), abs=1e-6)


@pytest.mark.parametrize(
    ("start", "now", "expected"),
    [
        ("00:00+08:00", "2026-03-01T15:59:59+00:00", "2026-03-01T00:00:00+08:00"),
        ("00:00+08:00", "2026-03-01T16:00:00+00:00", "2026-03-02T00:00:00+08:00"),
        ("17:30-05:00", "2026-03-01T22:29:00+00:00", "2026-02-28T17:30:00-05:00"),
        ("17:30-05:00", "2026-03-01T22:30:00+00:00", "2026-03-01T17:30:00-05:00"),
        ("00:00+00:00", "2026-03-01T00:00:00+00:00", "2026-03-01T00:00:00+00:00"),
        ("23:59+05:45", "2026-03-01T18:13:59+00:00", "2026-02-28T23:59:00+05:45"),
    ],
)
def test_the_day_begins_where_the_service_is(start: str, now: str, expected: str) -> None:
    """`day_starts` has a time and the zone of it; the next day begins 24 hours later."""
    limits = Limits(day_starts=start)
    moment = datetime.fromisoformat(now).timestamp()
    assert limits.day_start(moment) == datetime.fromisoformat(expected)
    assert limits.next_day(moment) - limits.day_start(moment) == timedelta(days=1)


def test_another_day_has_all_of_it_again() -> None:
    """What was spent is forgotten when the day is over, and what an earlier run has spent counts until then."""
    noon = datetime(2026, 3, 1, 12, tzinfo=timezone.utc).timestamp()
    spent = [Minute(noon - 80_000, 99, 0, 99), Minute(noon - 3600, 9, 1, 0)]  # the first is yesterday's
    limiter = Limiter(Limits(requests_per_day=10, tokens_per_day=1000), noon, 0.0, spent)
    limiter.end(limiter.start(10, 0), 5)
    assert limiter.spent(noon) is None
    limiter.end(limiter.start(10, 0), 5)
    assert limiter.spent(noon) == "requests_per_day=10"
    assert limiter.spent(noon + 86400) is None
    limiter.end(limiter.start(10, 0), 1000)
    assert limiter.spent(noon + 86400) == "tokens_per_day=1000"


@given(
    st.lists(st.tuples(st.floats(0, 30), st.integers(0, 40), st.booleans(), st.booleans()), max_size=60),
    st.integers(1, 20),
    st.integers(50, 200),
    st.floats(0, 60),
)
def test_the_limits_of_a_minute_hold_over_restarts(
    steps: list[tuple[float, int, bool, bool]], requests: int, tokens: int, began: float
) -> None:
    """Whenever a run ends and another begins, which knows of each minute what was spent in it, and no more."""
    limits = Limits(requests_per_minute=requests, tokens_per_minute=tokens)
    now, starts = began, list[tuple[float, int]]()
    journal: dict[int, Minute] = {}
    limiter = Limiter(limits, now, 0.0)
    offset = now  # the other clock began then
    for pause, cost, is_refused, restarts in steps:
        now += pause
        if restarts:
            offset = now - 1000.0
            limiter = Limiter(limits, now, 1000.0, list(journal.values()))
        limiter._mean = cost  # it is known what each costs, so that the limit is sharp
        now = limiter.ready_at(0, now - offset) + offset
        limiter.end(limiter.start(0, now - offset), None if is_refused else cost)
        starts.append((now, 0 if is_refused else cost))
        old = journal.get(int(now // 60), Minute(now // 60 * 60, 0, 0, 0))
        journal[int(now // 60)] = Minute(
            old.begins, old.requests + 1, old.refused + is_refused, old.tokens + starts[-1][1]
        )
    for begin, _ in starts:
        inside = [cost for when, cost in starts if begin <= when < begin + 60 - 1e-6]
        assert len(inside) <= requests
        assert sum(inside) <= tokens


def test_a_refused_request_is_given_back() -> None:
    """It counts for the second and the minute, in which it was sent, but not for the day."""
    limiter = Limiter(Limits(requests_per_second=1, requests_per_day=1, tokens_per_minute=10), 0.0, 0.0)
    limiter.end(limiter.start(30, 0), None)
    assert limiter.spent(0.0) is None
    assert limiter.ready_at(30, 0.5) == 1.0


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"requests_per_second": 0}, "positive"),
        ({"requests_per_second": float("nan")}, "positive"),
        ({"requests_per_second": float("inf")}, "positive"),
        ({"requests_per_minute": -1}, "positive"),
        ({"requests_per_minute": 1.5}, "an int"),
        ({"requests_per_second": "9"}, "a number"),
        ({"requests_per_day": True}, "an int"),
        ({"tokens_per_day": 0}, "positive"),
        ({"day_starts": "00:00"}, "00:00\\+08:00"),
        ({"day_starts": "24:00+08:00"}, "00:00\\+08:00"),
        ({"day_starts": "00:00+24:00"}, "00:00\\+08:00"),
        ({"day_starts": 8}, "00:00\\+08:00"),
        ({"adaptive": 1}, "True or False"),
    ],
)
def test_what_is_no_limit_is_refused(arguments: dict[str, Any], error: str) -> None:
    """The message names the argument, and what it may be."""
    with pytest.raises((TypeError, ValueError), match=error) as caught:
        Limits(**arguments)
    assert next(iter(arguments)) in str(caught.value)
