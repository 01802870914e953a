"""What a run does next, in a world without threads and without time."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime

import pytest
from batch.world import NOON, Answer, World, allows, completion, refusal
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere import (
    APIConnectionError,
    AuthenticationError,
    ChatAnywhereError,
    Completion,
    InsufficientBalanceError,
    InternalServerError,
    Limits,
    QuotaExceededError,
    RateLimitError,
)
from chatanywhere._batch.asker import Task

SPENT = QuotaExceededError("limited to 200 requests per day", status_code=429)


@pytest.mark.parametrize("kind", ["fixed window", "sliding window", "bucket", "counting refusals"])
def test_a_service_with_a_limit_is_asked_as_fast_as_it_allows(kind: str) -> None:
    """2,000 prompts from 256 threads at 100 a second: all are answered, in 25 s, with at most 700 refusals."""
    world = World(2000, allows(100, kind), concurrency=256).run()
    assert sorted(result.index for result in world.results) == list(range(2000))
    assert all(result.error is None and result.attempts == 1 for result in world.results)
    assert world.now <= 25
    assert len(world.sent) - 2000 <= 700


def test_a_service_without_a_limit_gets_all_that_there_are() -> None:
    """Nobody waits who has a thread."""
    world = World(2000, lambda now, task: (0.2, completion()), concurrency=64).run()
    assert world.most == 64
    assert world.now == pytest.approx(2000 / 64 * 0.2, rel=0.03)


def test_retry_after_holds_for_everybody() -> None:
    """Nothing is sent before the time that one of the refused was told."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.1, completion()) if now >= 5 else (0.1, refusal(retry_after=5.0))

    world = World(40, service).run()
    assert len(world.results) == 40
    assert [when for when, _ in world.sent if 0 < when < 5] == []


def test_fewer_requests_are_made_at_a_time_after_a_refusal_and_more_with_each_answer() -> None:
    """Concurrency times 0.7, at most twice a second, and one more for as many answers as there are requests."""
    refusals = iter([True])

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.1, refusal()) if next(refusals, False) else (1.0, completion())

    world = World(1000, service, concurrency=20)
    world.run(until=1.05)
    assert world.engine._gate.limit == pytest.approx(14 + 19 / 14, abs=0.2)
    world.run()
    assert world.most == 20
    assert len(world.results) == 1000


def test_not_adaptive_means_not_fewer() -> None:
    """`adaptive=False` keeps the concurrency."""
    refusals = iter([True] * 10)

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.1, refusal()) if next(refusals, False) else (1.0, completion())

    world = World(100, service, concurrency=20, limits=Limits(adaptive=False)).run()
    assert world.engine._gate.limit == 20
    assert len(world.results) == 100


@pytest.mark.parametrize("status", [429, 503])
def test_a_refusal_is_no_attempt(status: int) -> None:
    """A prompt that was refused 19 times and then answered has made one attempt."""
    seen: list[int] = []

    def service(now: float, task: Task) -> tuple[float, Answer]:
        seen.append(task.index)
        return (0.1, refusal(status=status)) if task.index == 0 and seen.count(0) < 20 else (0.1, completion())

    world = World(100, service, concurrency=4).run()
    assert {result.attempts for result in world.results} == {1}
    assert seen.count(0) == 20


def test_the_20th_refusal_in_a_row_is_a_failure_while_others_are_answered() -> None:
    """That prompt has failed with the refusal, and the others have their answers."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.01, refusal()) if task.index == 3 else (0.1, completion())

    world = World(400, service, concurrency=4).run()
    (failed,) = [result for result in world.results if result.error is not None]
    assert failed.index == 3
    assert isinstance(failed.error, RateLimitError)
    assert [index for _, index in world.sent].count(3) == 20
    assert len(world.results) == 400


def test_no_answer_of_the_model_is_an_attempt() -> None:
    """A 503 that speaks of the model is tried again as often as the policy says, and then a failure."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return 0.1, refusal(status=503, words="No response, please try again later!")

    world = World(1, service).run()
    (result,) = world.results
    assert isinstance(result.error, InternalServerError)
    assert result.attempts == len(world.sent) == 3


@pytest.mark.parametrize("status", [429, 503])
def test_a_prompt_that_is_too_large_is_no_matter_of_time(status: int) -> None:
    """What asks for more tokens than a minute has is never answered, so that is an attempt, and the others go on."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        words = "Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 37000."
        return (0.1, refusal(status=status, words=words)) if task.index % 10 == 0 else (0.1, completion())

    world = World(200, service).run()
    assert [result.attempts for result in world.results if result.error is not None] == [3] * 20
    assert len(world.results) == 200
    assert world.now < 60


def test_prompts_that_are_always_refused_do_not_keep_the_others_from_being_asked() -> None:
    """From their second refusal on they are asked behind those that wait, which so have their answers soon."""
    answered: list[float] = []

    def service(now: float, task: Task) -> tuple[float, Answer]:
        if task.index % 20 == 7:
            return 0.01, refusal()
        answered.append(now)
        return 0.3, completion()

    World(400, service, concurrency=32).run()
    assert len(answered) == 380
    assert answered[-1] < 60


@pytest.mark.parametrize("dead", [50, 20, 5, 2], ids="one in {}".format)
@pytest.mark.parametrize("concurrency", [4, 16, 64, 256])
def test_prompts_that_are_always_refused_do_not_end_the_run(dead: int, concurrency: int) -> None:
    """As those of a model that the service has not: each fails at its 20th refusal, also where they fill the window."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        is_dead = task.index % dead == 1 and task.index < 10 * dead
        return (0.01, refusal(status=503)) if is_dead else (0.3, completion())

    count = 10 * dead + 4 * concurrency
    world = World(count, service, concurrency=concurrency, ahead=4 * concurrency).run()
    assert world.engine.error is None
    failed = [result.index for result in world.results if result.error is not None]
    assert sorted(failed) == list(range(1, 10 * dead, dead))
    assert len(world.results) == count
    asked = Counter(index for _, index in world.sent)
    assert all(20 <= asked[index] < 30 for index in failed)
    assert world.now < 600


@pytest.mark.parametrize(("rate", "concurrency"), [(3, 4), (3, 16), (10, 16), (60, 64)])
def test_a_service_that_has_little_time_loses_no_prompt(rate: int, concurrency: int) -> None:
    """So many a minute, which nobody has said: refusals that all get say nothing of the prompt, however many."""
    has, last = float(rate), 0.0

    def service(now: float, task: Task) -> tuple[float, Answer]:
        nonlocal has, last
        has, last = min(rate, has + (now - last) * rate / 60), now
        if has < 1:
            return 0.01, refusal()
        has -= 1
        return 0.3, completion()

    world = World(10 * rate + 50, service, concurrency=concurrency, ahead=4 * concurrency).run()
    assert world.engine.error is None
    assert [result for result in world.results if result.error is not None] == []
    assert world.now < 1.1 * (9 * rate + 50) * 60 / rate


@pytest.mark.parametrize("wait", [1e18, 1e300])
def test_a_wait_beyond_all_calendars_loses_no_answer(wait: float) -> None:
    """A service may name any number; those on their way have their results, and nobody knows when it goes on."""
    broke = QuotaExceededError("no money", status_code=429, code="insufficient_quota")
    broke.retry_after = wait
    world = World(9, lambda now, task: (0.1, broke) if task.index == 2 else (0.2, completion()), concurrency=4).run()
    assert sorted(result.index for result in world.results) == [0, 1, 3]
    assert world.engine.error is broke
    assert broke.resume_at is None


def test_a_refusal_for_a_day_stops_the_run_though_others_were_on_their_way() -> None:
    """10 minutes after the last answer, and not when a day has gone by."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.1, refusal(retry_after=86400.0)) if task.index == 0 else (5.0, completion())

    world = World(50, service, concurrency=4).run()
    assert isinstance(world.engine.error, RateLimitError)
    assert len(world.results) == 3
    assert world.now == pytest.approx(605, abs=1)


def test_ten_minutes_without_an_answer_end_the_run() -> None:
    """It stops with the refusal, and says how many are left."""
    world = World(50, lambda now, task: (0.1, refusal(retry_after=30.0))).run()
    assert isinstance(world.engine.error, RateLimitError)
    assert world.now == pytest.approx(600, abs=31)
    assert world.tally.left == 50
    assert world.results == []


def test_ten_minutes_of_lost_connections_end_the_run_too() -> None:
    """Prompts fail one after the other, but not for ever."""
    world = World(4000, lambda now, task: (1.0, APIConnectionError("refused"))).run()
    assert isinstance(world.engine.error, APIConnectionError)
    assert world.now == pytest.approx(600, abs=20)


def test_a_long_silence_is_no_trouble() -> None:
    """A model that thinks for an hour has not failed."""
    world = World(4, lambda now, task: (3600.0, completion()), concurrency=1).run()
    assert len(world.results) == 4


@pytest.mark.parametrize(
    "error",
    [
        SPENT,
        AuthenticationError("wrong api key", status_code=401),
        InsufficientBalanceError("balance is not sufficient", status_code=403),
        QuotaExceededError("no money", status_code=429, code="insufficient_quota"),
    ],
    ids=["quota", "key", "balance", "account"],
)
@pytest.mark.parametrize("on_quota", ["stop", "wait"])
def test_what_is_no_use_to_go_on_after_stops_the_run(error: ChatAnywhereError, on_quota: str) -> None:
    """Nothing more is sent, and those that are on their way have their results; money is not waited for."""
    if error is SPENT and on_quota == "wait":
        return

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.05, error) if len(world.sent) >= 200 else (0.2, completion())

    world = World(1000, service, concurrency=16, on_quota=on_quota)
    world.run()
    assert world.engine.error is error
    assert len(world.results) == 200
    assert len(world.sent) <= 216
    assert world.tally.left == 800
    if error is SPENT:
        assert error.resume_at == Limits().next_day(NOON)
    else:
        assert error.resume_at is None


def day_of(now: float) -> datetime:
    return Limits().day_start(NOON + now)


def test_a_quota_of_the_day_is_waited_for() -> None:
    """200 a day: 500 prompts take three days, and are sent when the days begin."""
    asked: dict[datetime, int] = {}

    def service(now: float, task: Task) -> tuple[float, Answer]:
        day = day_of(now)
        asked[day] = asked.get(day, 0) + 1
        return (0.2, completion()) if asked[day] <= 200 else (0.05, QuotaExceededError(SPENT.message, status_code=429))

    world = World(500, service, on_quota="wait").run()
    assert world.engine.error is None
    assert len(world.results) == 500
    assert all(result.error is None for result in world.results)
    assert [min(count, 216) for count in asked.values()] == list(asked.values())
    assert len(asked) == 3


def test_a_quota_that_comes_late_is_asked_for_once_an_hour() -> None:
    """When the new day brings none, one request an hour looks for it."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        fine = now < 1 or now > 40 * 3600
        return (0.2, completion()) if fine else (0.05, QuotaExceededError(SPENT.message, status_code=429))

    world = World(200, service, on_quota="wait").run()
    assert len(world.results) == 200
    midnight = (Limits().next_day(NOON).timestamp()) - NOON
    looks = [when for when, _ in world.sent if midnight - 1 < when < 40 * 3600]
    assert looks[0] == pytest.approx(midnight, abs=1)
    assert all(3600 <= b - a < 3602 for a, b in itertools.pairwise(looks))


def test_a_machine_that_was_asleep_goes_on_by_the_clock_on_the_wall() -> None:
    """The wait for the next day is over when that has come, though the other clock stood still."""
    spent = [True]

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.1, SPENT) if spent[0] else (0.1, completion())

    world = World(3, service, on_quota="wait", concurrency=1)
    world.run(until=10)
    assert world.results == []
    spent[0], world.asleep = False, 86400.0
    assert len(world.run(until=100).results) == 3


@pytest.mark.parametrize("name", ["requests_per_day", "tokens_per_day"])
def test_a_limit_of_one_s_own_for_the_day_stops_the_run(name: str) -> None:
    """The error says that it is the run's own."""
    limits = Limits(**{name: 50 if name == "requests_per_day" else 1000})
    world = World(100, lambda now, task: (0.1, completion(20)), limits=limits, concurrency=1).run()
    assert len(world.results) == len(world.sent) == 50
    assert isinstance(world.engine.error, QuotaExceededError)
    assert name in str(world.engine.error)
    assert world.engine.error.resume_at == limits.next_day(NOON)


def test_a_limit_of_one_s_own_is_waited_for() -> None:
    """At most so many are sent on each day."""
    world = World(130, lambda now, task: (0.1, completion()), limits=Limits(requests_per_day=50), on_quota="wait").run()
    assert len(world.results) == len(world.sent) == 130
    days = [day_of(when) for when, _ in world.sent]
    assert [days.count(day) for day in dict.fromkeys(days)] == [50, 50, 30]


def test_refusals_count_for_no_day() -> None:
    """What the service refused is not spent."""
    world = World(50, allows(10, "bucket"), limits=Limits(requests_per_day=50), concurrency=16).run()
    assert world.engine.error is None
    assert len(world.results) == 50 < len(world.sent)


def test_the_first_call_tells_what_one_costs() -> None:
    """Where tokens are limited it goes alone, and those that follow are no more than the limit has for."""
    world = World(60, lambda now, task: (1.0, completion(100)), limits=Limits(tokens_per_minute=1000)).run()
    times = [when for when, _ in world.sent]
    assert times[:2] == [0.0, 1.0]
    assert all(sum(begin <= when < begin + 59.9 for when in times) <= 10 for begin in times)
    assert world.now < 60 * 6 + 5


def test_calls_whose_cost_is_never_told_do_not_go_one_by_one() -> None:
    """A service that counts no tokens is asked as fast as any other."""
    answer = Completion("Hello", finish_reason="stop")
    world = World(60, lambda now, task: (1.0, answer), limits=Limits(tokens_per_minute=10_000)).run()
    assert world.most == 16


def test_max_errors_ends_the_run_with_the_last_error() -> None:
    """As many failed results are handed out, and the calls on their way end."""
    errors = [ChatAnywhereError(f"number {number}") for number in range(100)]
    world = World(100, lambda now, task: (0.1, errors[task.index]), concurrency=1, max_errors=5).run()
    assert [result.error for result in world.results] == errors[:5]
    assert world.engine.error is errors[4]
    assert world.tally.left == 95


def test_errors_raise_hands_out_answers_only() -> None:
    """At the first failure nothing more is sent; those on their way end, and have their results if they are answers."""
    wrong = ChatAnywhereError("wrong")
    world = World(
        100, lambda now, task: (0.1, wrong) if task.index == 2 else (0.2, completion()), concurrency=4, errors="raise"
    ).run()
    assert sorted(result.index for result in world.results) == [0, 1, 3]
    assert world.engine.error is wrong
    assert len(world.sent) == 4


def test_a_failed_prompt_is_tried_again_within_its_own_time() -> None:
    """Three attempts, with waits between them, and nobody else waits."""

    def service(now: float, task: Task) -> tuple[float, Answer]:
        return (0.1, InternalServerError("no", status_code=500)) if task.index == 0 else (0.1, completion())

    world = World(10, service, concurrency=2).run()
    (failed,) = [result for result in world.results if result.error]
    assert failed.attempts == 3
    assert failed.error is not None
    assert failed.error.attempts == 3
    assert len(world.results) == 10


def test_a_prompt_s_time_stands_still_while_everybody_waits() -> None:
    """One that is to be tried again has as much time left after a long hold as before it."""
    left: list[float | None] = []

    def service(now: float, task: Task) -> tuple[float, Answer]:
        if task.index == 0:
            left.append(task.time_left)
            return 5.0, InternalServerError("no", status_code=500)
        return (5.0, completion()) if now > 300 else (4.9, refusal(retry_after=300.0))

    world = World(2, service).run()
    assert len(world.results) == 2
    assert world.now > 300
    assert left[0] == 120
    assert left == pytest.approx([120, 115, 109], abs=2)


def test_no_attempt_follows_when_the_time_is_up() -> None:
    """Two attempts of 70 s do not fit into 120 s, so the second one's is the last."""
    world = World(1, lambda now, task: (70.0, APIConnectionError("lost"))).run()
    assert world.results[0].attempts == len(world.sent) == 2


OUTCOMES = st.sampled_from(["answer", "slow answer", "429", "503", "500", "lost", "wrong"])


@given(
    st.lists(OUTCOMES, max_size=60),
    st.integers(1, 8),
    st.builds(
        Limits,
        requests_per_second=st.none() | st.integers(1, 20) | st.floats(0.3, 5),
        requests_per_minute=st.none() | st.integers(5, 300),
        tokens_per_minute=st.none() | st.integers(100, 5000),
        adaptive=st.booleans(),
    ),
)
def test_whatever_happens_every_prompt_has_one_result(outcomes: list[str], concurrency: int, limits: Limits) -> None:
    """Limits hold in any second and any minute, no more than `concurrency` are on their way, and none is lost."""
    coming = iter(outcomes)

    def service(now: float, task: Task) -> tuple[float, Answer]:
        made: dict[str, tuple[float, Answer]] = {
            "slow answer": (30.0, completion(50)),
            "429": (0.01, refusal()),
            "503": (0.5, refusal(2.0, status=503)),
            "500": (0.2, InternalServerError("no", status_code=500)),
            "lost": (1.0, APIConnectionError("lost")),
            "wrong": (0.1, ChatAnywhereError("wrong")),
        }
        return made.get(next(coming, "answer"), (0.1, completion()))

    world = World(25, service, limits=limits, concurrency=concurrency).run()
    assert world.engine.error is None
    assert sorted(result.index for result in world.results) == list(range(25))
    assert world.most <= concurrency
    times = [when for when, _ in world.sent]
    for most, seconds in ((limits.requests_per_second, 1.0), (limits.requests_per_minute, 60.0)):
        if most is not None:
            for begin in times:
                within = sum(begin <= when < begin + seconds - 1e-9 for when in times)
                assert within <= max(1, -(-most // 1))
