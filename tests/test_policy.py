"""Time limits as they are given, and which failures are tried again, when, how often and where."""

from __future__ import annotations

import logging
import random
import re
import socket
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
import tenacity
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer

from chatanywhere import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatAnywhereError,
    Client,
    InternalServerError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    Retry,
    StreamInterruptedError,
    Timeout,
)
from chatanywhere._protocols.head import AnswerHead
from chatanywhere._protocols.service import error_from
from chatanywhere.testing import Fault, LoopbackServer

AT_ONCE = Retry(attempts=3, backoff=0)
QUOTA = "免费API限制每日200次请求"


class Refusing:
    """A port of this machine that refuses connections until `listen` is called."""

    def __init__(self) -> None:
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def listen(self) -> None:
        self._socket.listen()
        self._socket.setblocking(False)

    @property
    def was_asked(self) -> bool:
        """Whether somebody has connected since `listen`."""
        try:
            self._socket.accept()[0].close()
        except BlockingIOError:
            return False
        return True

    def __enter__(self) -> Refusing:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def failure(client: Client, **options: Any) -> ChatAnywhereError:
    """Make a call that fails."""
    with pytest.raises(ChatAnywhereError) as caught:
        client.complete("Hello", **options)
    return caught.value


# What is configured -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", ["total", "connect", "read"])
@pytest.mark.parametrize(
    ("value", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (float("nan"), ValueError),
        (float("inf"), ValueError),
        (1e10, ValueError),  # more than sockets and locks can be given
        ("5", TypeError),
        (True, TypeError),
        ([], TypeError),
    ],
    ids=repr,
)
def test_a_limit_is_a_positive_number(limit: str, value: Any, error: type[Exception]) -> None:
    """Anything else is refused, in words that name the limit and say that None switches it off."""
    with pytest.raises(error, match=rf"Timeout\({limit}=.*None for no limit"):
        Timeout(**{limit: value})


@pytest.mark.parametrize(
    ("value", "timeout"),
    [
        (5, Timeout(total=5, connect=10, read=60)),
        (0.5, Timeout(total=0.5, connect=10, read=60)),
        (None, Timeout(total=None, connect=None, read=None)),
        (Timeout(read=1), Timeout(total=120, connect=10, read=1)),
    ],
)
def test_a_number_is_the_total(value: Any, timeout: Timeout) -> None:
    """`timeout=` takes the seconds of the whole call, None for no limit at all, or a `Timeout`."""
    assert Timeout.of(value) == timeout


@pytest.mark.parametrize(
    ("setting", "value", "error", "words"),
    [
        ("attempts", 0, ValueError, "1 is the least"),
        ("attempts", -1, ValueError, "1 is the least"),
        ("attempts", 1.5, TypeError, "int"),
        ("attempts", True, TypeError, "int"),
        ("attempts", "3", TypeError, "int"),
        *(
            (setting, value, error, words)
            for setting in ("backoff", "max_backoff", "max_retry_after")
            for value, error, words in [
                (-0.1, ValueError, "at least 0"),
                (float("inf"), ValueError, "at most"),
                (float("nan"), ValueError, "at most"),
                ("1", TypeError, "number"),
                (None, TypeError, "number"),
                (True, TypeError, "number"),
            ]
        ),
    ],
)
def test_a_retry_is_checked(setting: str, value: Any, error: type[Exception], words: str) -> None:
    """A number that can't be waited for, or no attempt at all, is refused in words that name the setting."""
    with pytest.raises(error, match=rf"Retry\({setting}.*{words}"):
        Retry(**{setting: value})


@pytest.mark.parametrize(
    ("value", "retry"),
    [(5, Retry(attempts=5)), (1, Retry(attempts=1)), (None, Retry(attempts=1)), (AT_ONCE, AT_ONCE)],
)
def test_a_number_is_the_attempts(value: Any, retry: Retry) -> None:
    """`retry=` takes the number of attempts in all, None for a single one, or a `Retry`."""
    assert Retry.of(value) == retry


@pytest.mark.parametrize("of", [Timeout.of, Retry.of])
def test_a_setting_of_another_kind_is_refused(of: Any) -> None:
    """Text is neither a number of seconds nor of attempts."""
    with pytest.raises(TypeError):
        of("3")


# What is tried again ------------------------------------------------------------------------------------------


TRANSIENT = [
    *map(Fault.status, (408, 409, 425, 429, 500, 502, 503, 504, 520)),
    Fault.html(502),
    Fault.reset_peer(at="accept"),
    Fault.reset_peer(),
    Fault.reset_peer(at="headers"),
    Fault.reset_peer(after=0),
    Fault.limit_data(0),
    Fault.limit_data(0, at="headers"),
    Fault.limit_data(0, after=0),
    Fault.no_done(after=0),
    Fault.bad_gzip(truncated=True),
    *(Fault.error_frame(status=status) for status in (429, 500, 503)),
]

FINAL: list[tuple[Fault, type[ChatAnywhereError]]] = [
    *((Fault.status(status), APIStatusError) for status in (400, 401, 402, 403, 404, 405, 413, 422)),
    *((Fault.error_frame(status=status), APIStatusError) for status in (400, 401, 403)),
    (Fault.status(429, QUOTA), QuotaExceededError),
    (Fault.error_frame(QUOTA, status=429), QuotaExceededError),
    (Fault.html(200), ProtocolError),
    (Fault.bad_json(), ProtocolError),
    (Fault.bad_chunk(), ProtocolError),
    (Fault.bad_gzip(), ProtocolError),
]


def ids_of(faults: list[Fault]) -> list[str]:
    """A name for each fault; the status is in a response, or in the words of an error object."""
    return [f"{fault.name} at {fault.at} {number}" for number, fault in enumerate(faults)]


def only_first(fault: Fault) -> Fault:
    """The same fault, for the first request only."""
    return replace(fault, first=1)


@pytest.mark.parametrize("fault", TRANSIENT, ids=ids_of(TRANSIENT))
def test_what_may_pass_is_tried_again(fault: Fault) -> None:
    """Failures of the connection and of the service that come before the first text do not reach the caller."""
    with LoopbackServer(lambda _: "Hi", faults=[only_first(fault)]) as server:
        client = Client("k", base_url=server.url, retry=AT_ONCE)
        assert client.complete("Hello").text == "Hi"
        assert len(server.requests) == (1 if fault.at == "accept" else 2)


@pytest.mark.parametrize(("fault", "error"), FINAL, ids=ids_of([fault for fault, _ in FINAL]))
def test_what_stays_wrong_is_not_tried_again(fault: Fault, error: type[ChatAnywhereError]) -> None:
    """What another attempt can't mend, a spent quota among it, is raised after the first."""
    with LoopbackServer(faults=[fault]) as server:
        outcome = failure(Client("k", base_url=server.url, retry=AT_ONCE))
        assert len(server.requests) == 1
    assert isinstance(outcome, error)
    assert outcome.attempts == 1


def test_a_service_that_says_so_is_not_asked_again(raw_server: RawServer) -> None:
    """`x-should-retry: false` goes before what the status says."""
    raw_server.answer(b"HTTP/1.1 500 Internal Server Error\r\nX-Should-Retry: false\r\nContent-Length: 0\r\n\r\n")
    assert isinstance(failure(Client("k", base_url=raw_server.url, retry=AT_ONCE)), InternalServerError)
    assert len(raw_server.requests) == 1


TIMEOUTS = [
    (Fault.timeout(), Timeout(read=0.2), "headers"),
    (Fault.timeout(after=0), Timeout(read=0.2), "read"),
]


@pytest.mark.parametrize(("fault", "timeout", "phase"), TIMEOUTS, ids=["headers", "read"])
@pytest.mark.parametrize("on_timeout", [True, False])
def test_a_silent_server_is_asked_again_unless_told_otherwise(
    fault: Fault, timeout: Timeout, phase: str, on_timeout: bool
) -> None:
    """`on_timeout=False` raises the first timeout; else the next attempt may succeed."""
    retry = Retry(backoff=0, on_timeout=on_timeout)
    with LoopbackServer(lambda _: "Hi", faults=[only_first(fault)]) as server:
        client = Client("k", base_url=server.url, retry=retry, timeout=timeout)
        if on_timeout:
            assert client.complete("Hello").text == "Hi"
        else:
            outcome = failure(client)
            assert isinstance(outcome, APITimeoutError)
            assert (outcome.phase, outcome.attempts) == (phase, 1)
        assert len(server.requests) == 1 + on_timeout


@pytest.mark.parametrize(("on_timeout", "attempts"), [(True, 3), (False, 1)])
def test_a_server_that_is_slow_to_connect(raw_server: RawServer, on_timeout: bool, attempts: int) -> None:
    """The limit of `connect` is one of those that `on_timeout` is about."""
    raw_server.read_requests = False  # and so no TLS handshake
    retry = Retry(attempts=3, backoff=0, on_timeout=on_timeout)
    client = Client("k", base_url=raw_server.url.replace("http", "https"), retry=retry, timeout=Timeout(connect=0.2))
    outcome = failure(client)
    assert isinstance(outcome, APITimeoutError)
    assert (outcome.phase, outcome.attempts, raw_server.connections) == ("connect", attempts, attempts)


def test_the_total_is_never_followed_by_another_attempt() -> None:
    """When the time of the whole call is up, nothing is tried any more."""
    with LoopbackServer(faults=[Fault.timeout()]) as server:
        outcome = failure(Client("k", base_url=server.url, retry=AT_ONCE), timeout=0.2)
        assert len(server.requests) == 1
    assert isinstance(outcome, APITimeoutError)
    assert (outcome.phase, outcome.attempts) == ("total", 1)


def test_a_refused_connection_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    """A port on which nobody listens is tried as often as `attempts` says."""
    caplog.set_level(logging.INFO, "chatanywhere")
    with Refusing() as host:
        outcome = failure(Client("k", base_url=host.url, retry=AT_ONCE))
    assert type(outcome) is APIConnectionError
    assert outcome.attempts == 3
    assert len(caplog.records) == 2


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.error_frame(after=1), InternalServerError),
        (Fault.no_done(after=1), StreamInterruptedError),
        (Fault.limit_data(0, after=1), StreamInterruptedError),
        (Fault.timeout(after=1), APITimeoutError),
    ],
    ids=["error frame", "no end", "cut", "silence"],
)
def test_nothing_is_asked_again_once_text_was_delivered(fault: Fault, error: type[ChatAnywhereError]) -> None:
    """A failure behind the first text is raised, so that no text comes twice."""
    with LoopbackServer(lambda _: ["one ", "two"], faults=[fault]) as server:
        client = Client("k", base_url=server.url, retry=AT_ONCE, timeout=Timeout(read=0.2))
        with pytest.raises(error) as caught:
            list(client.stream("Hello"))
        assert len(server.requests) == 1
    assert type(caught.value) is error
    assert (caught.value.partial, caught.value.attempts) == ("one ", 1)


@pytest.mark.parametrize(
    "fault", [Fault.status(503), Fault.error_frame(), Fault.limit_data(0)], ids=["status", "frame", "cut"]
)
@pytest.mark.parametrize(("retry", "attempts"), [(None, 1), (1, 1), (Retry(2, 0), 2), (Retry(5, 0), 5)], ids=str)
def test_attempts_are_counted(fault: Fault, retry: Any, attempts: int) -> None:
    """`error.attempts` is how often the server was asked, and no more often than `attempts` says."""
    with LoopbackServer(faults=[fault]) as server:
        outcome = failure(Client("k", base_url=server.url, retry=retry))
        assert outcome.attempts == len(server.requests) == attempts


def test_a_call_s_retry_goes_before_the_client_s() -> None:
    """`retry=` of a call takes the place of the client's for this call only."""
    with LoopbackServer(faults=[Fault.status(503)]) as server:
        client = Client("k", base_url=server.url, retry=Retry(2, 0))
        assert [failure(client, retry=None).attempts, failure(client).attempts] == [1, 2]


# When it is tried again ---------------------------------------------------------------------------------------


@pytest.fixture
def bounds(monkeypatch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """The bounds between which waits are drawn; the least is always drawn."""
    drawn: list[tuple[float, float]] = []

    def wait_random(low: float, high: float) -> tenacity.wait_fixed:
        drawn.append((low, high))
        return tenacity.wait_fixed(low)

    monkeypatch.setattr(tenacity, "wait_random", wait_random)
    return drawn


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the waits that may be drawn, the longest is."""
    monkeypatch.setattr(random, "random", lambda: 1.0)


@pytest.mark.parametrize(
    ("retry", "highest"),
    [
        (Retry(7), [0.5, 1, 2, 4, 8, 8]),
        (Retry(4, backoff=3, max_backoff=5), [3, 5, 5]),
        (Retry(4, backoff=2, max_backoff=1), [1, 1, 1]),
        (Retry(4, backoff=0), [0, 0, 0]),
        (Retry(2), [0.5]),
    ],
)
def test_waits_are_drawn_from_zero_to_a_growing_bound(
    bounds: list[tuple[float, float]], retry: Retry, highest: list[float]
) -> None:
    """The bound doubles from `backoff` to `max_backoff`, and every wait down to none may be drawn."""
    with LoopbackServer(faults=[Fault.status(500)]) as server:
        failure(Client("k", base_url=server.url, retry=retry))
    assert bounds == [(0, high) for high in highest]


@pytest.mark.parametrize("fault", [Fault.status(429), Fault.status(503), Fault.error_frame(status=429)], ids=str)
def test_a_service_with_too_much_to_do_is_given_time(bounds: list[tuple[float, float]], fault: Fault) -> None:
    """After 429 and 503 no wait is shorter than half of the bound."""
    with LoopbackServer(faults=[fault]) as server:
        failure(Client("k", base_url=server.url, retry=Retry(5, backoff=0.04, max_backoff=0.1)))
    assert bounds == [(high / 2, high) for high in (0.04, 0.08, 0.1, 0.1)]


def test_the_bound_grows_over_failures_of_different_kinds(bounds: list[tuple[float, float]]) -> None:
    """An answer that fails after its head, and one that fails at once, count alike."""
    replies = [Fault.error_frame(), Fault.status(500), Fault.status(502), Fault.no_done(after=0), "Hi"]
    with LoopbackServer(replies) as server:
        assert Client("k", base_url=server.url, retry=5).complete("Hello").text == "Hi"
    assert bounds == [(0, 0.5), (0, 1), (0, 2), (0, 4)]


def test_the_wait_that_was_drawn_is_waited(longest: None, caplog: pytest.LogCaptureFixture) -> None:
    """Between the attempts passes as much time as the log says."""
    caplog.set_level(logging.INFO, "chatanywhere")
    began = time.monotonic()
    with LoopbackServer(faults=[Fault.status(503, first=3)]) as server:
        Client("k", base_url=server.url, retry=Retry(4, 0.05, 0.1)).complete("Hello")
    assert 0.25 <= time.monotonic() - began < 5
    assert waits(caplog) == [0.05, 0.1, 0.1]


def waits(caplog: pytest.LogCaptureFixture) -> list[float]:
    """The waits that the log tells of."""
    found = [re.search(r"trying again in ([0-9.]+) s$", record.getMessage()) for record in caplog.records]
    return [float(match[1]) for match in found if match]


RETRY_AFTER = [Fault.retry_after(0.3), Fault.retry_after(ms=300), Fault.retry_after(0.3, status=503)]


@pytest.mark.parametrize("fault", RETRY_AFTER, ids=["seconds", "milliseconds", "503"])
def test_a_wait_that_the_service_asks_for_is_kept(
    bounds: list[tuple[float, float]], caplog: pytest.LogCaptureFixture, fault: Fault
) -> None:
    """`Retry-After` takes the place of the random wait."""
    caplog.set_level(logging.INFO, "chatanywhere")
    began = time.monotonic()
    with LoopbackServer(lambda _: "Hi", faults=[only_first(fault)]) as server:
        assert Client("k", base_url=server.url).complete("Hello").text == "Hi"
    assert time.monotonic() - began >= 0.3
    assert waits(caplog) == [0.3]
    assert bounds == []


def test_a_wait_until_a_date_is_kept() -> None:
    """`Retry-After` may be a date; the next attempt is not made before it."""
    date = datetime.now(timezone.utc) + timedelta(seconds=2)
    with LoopbackServer(lambda _: "Hi", faults=[Fault.retry_after(date=date, first=1)]) as server:
        assert Client("k", base_url=server.url).complete("Hello").text == "Hi"
    assert datetime.now(timezone.utc) >= date.replace(microsecond=0)


def test_a_date_is_counted_from_the_service_s_own_clock(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    """A service whose clock is wrong by years is waited for as long as it means."""
    caplog.set_level(logging.INFO, "chatanywhere")
    raw_server.answer(
        b"HTTP/1.1 429 Too Many Requests\r\nDate: Wed, 21 Oct 2015 07:28:00 GMT\r\n"
        b"Retry-After: Wed, 21 Oct 2015 07:28:01 GMT\r\nContent-Length: 0\r\n\r\n"
    )
    failure(Client("k", base_url=raw_server.url, retry=Retry(2, 0)))
    assert waits(caplog) == [1]


PASSED = datetime(2001, 1, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize("fault", [Fault.retry_after(0), Fault.retry_after(ms=0), Fault.retry_after(date=PASSED)])
def test_a_service_that_asks_for_no_wait_is_given_the_ordinary_one(
    bounds: list[tuple[float, float]], fault: Fault
) -> None:
    """The error says 0 seconds, and the wait is drawn as if nothing had been said."""
    with LoopbackServer(faults=[fault]) as server:
        outcome = failure(Client("k", base_url=server.url, retry=Retry(3, 0.1)))
    assert isinstance(outcome, RateLimitError)
    assert outcome.retry_after == 0
    assert bounds == [(0.05, 0.1), (0.1, 0.2)]


@pytest.mark.parametrize(("status", "wait"), [(429, 0.1), (503, 0.1), (500, 0.01)])
def test_a_service_that_asks_for_a_very_short_wait(caplog: pytest.LogCaptureFixture, status: int, wait: float) -> None:
    """After 429 and 503 half of the bound is waited at least; otherwise what was asked for."""
    caplog.set_level(logging.INFO, "chatanywhere")
    with LoopbackServer(faults=[Fault.retry_after(0.01, status=status)]) as server:
        failure(Client("k", base_url=server.url, retry=Retry(2, 0.2)))
    assert waits(caplog) == [wait]


DATES = st.datetimes(timezones=st.timezones() | st.none()).map(format_datetime)
DATE_LIKE = st.lists(
    st.sampled_from(["Mon,", "01", "Jan", "2031", "00:00:00", "0.0.0.0", "GMT", "-0000", ",", "-", ":", "+9999"])
    | st.text()
).map(" ".join)
HEADER = st.text() | st.integers().map(str) | st.floats().map(str) | DATES | DATE_LIKE


@given(
    status=st.sampled_from([429, 500, 503]),
    headers=st.fixed_dictionaries({"retry-after": HEADER}, optional={"date": HEADER, "retry-after-ms": HEADER}),
    attempts=st.integers(1, 10),
)
def test_no_text_of_the_header_does_harm(status: int, headers: dict[str, str], attempts: int) -> None:
    """Whatever stands in `Retry-After`, the wait is one that the settings allow, or there is none and no attempt."""
    error = error_from(AnswerHead(status, headers), b"")
    error.attempts = attempts
    wait = Retry(attempts=11).wait_before_next(error, error.attempts, None)
    if error.retry_after is not None and error.retry_after > 60:
        assert wait is None
    else:
        assert wait is not None
        assert 0 <= wait <= 60


TOO_LONG = [
    (Fault.retry_after(61), Retry(), 61),
    (Fault.retry_after(ms=2000), Retry(max_retry_after=1), 2),
    (Fault.retry_after(0.2, status=503), Retry(max_retry_after=0), 0.2),
]


@pytest.mark.parametrize(("fault", "retry", "seconds"), TOO_LONG, ids=["seconds", "milliseconds", "503"])
def test_a_service_that_asks_for_too_long_a_wait_is_not_asked_again(fault: Fault, retry: Retry, seconds: float) -> None:
    """Above `max_retry_after` the error is raised at once, and its hint says why."""
    with LoopbackServer(faults=[fault]) as server:
        outcome = failure(Client("k", base_url=server.url, retry=retry))
        assert len(server.requests) == 1
    assert isinstance(outcome, APIStatusError)
    assert outcome.retry_after == pytest.approx(seconds)
    assert outcome.hint is not None
    assert f"{seconds:g} s" in outcome.hint
    assert f"max_retry_after={retry.max_retry_after:g}" in outcome.hint
    assert outcome.hint in str(outcome)


def test_too_long_a_wait_is_explained_after_other_attempts() -> None:
    """The hint is there, once, whichever attempt it was that met the limit."""
    with LoopbackServer([Fault.status(503), Fault.error_frame(), Fault.retry_after(100)]) as server:
        outcome = failure(Client("k", base_url=server.url, retry=Retry(5, 0)))
    assert isinstance(outcome, RateLimitError)
    assert outcome.attempts == 3
    assert str(outcome).count("max_retry_after=60") == 1


def test_the_longest_wait_allowed_is_waited() -> None:
    """A wait of exactly `max_retry_after` is not too long."""
    with LoopbackServer(lambda _: "Hi", faults=[Fault.retry_after(0.1, first=1)]) as server:
        client = Client("k", base_url=server.url, retry=Retry(max_retry_after=0.1))
        assert client.complete("Hello").text == "Hi"


@pytest.mark.parametrize("fault", [Fault.retry_after(30), Fault.status(503)], ids=["asked for", "drawn"])
def test_a_wait_that_does_not_fit_the_total_is_not_begun(longest: None, fault: Fault) -> None:
    """The last error is raised at once when there is no time left for the wait and another attempt."""
    began = time.monotonic()
    with LoopbackServer(faults=[fault]) as server:
        outcome = failure(Client("k", base_url=server.url, retry=Retry(3, backoff=30, max_backoff=30), timeout=10))
        assert len(server.requests) == 1
    assert isinstance(outcome, APIStatusError)
    assert outcome.attempts == 1
    assert time.monotonic() - began < 5


def test_every_retry_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The logger `chatanywhere` has a line for each: which attempt failed, why, and how long the wait is."""
    caplog.set_level(logging.DEBUG, "chatanywhere")
    replies = [Fault.status(503, "busy"), Fault.error_frame("upstream"), Fault.limit_data(0, after=0), "Hi"]
    with LoopbackServer(replies) as server:
        Client("k", base_url=server.url, retry=Retry(4, 0)).complete("Hello")
    assert {(record.name, record.levelname) for record in caplog.records} == {("chatanywhere", "INFO")}
    causes = ["InternalServerError: 503: busy", "InternalServerError: 500: upstream", "Stream"]
    for number, (record, cause) in enumerate(zip(caplog.records, causes, strict=True), 1):
        assert record.getMessage().startswith(f"attempt {number} failed ({cause}")
        assert record.getMessage().endswith("trying again in 0.00 s")


@pytest.mark.parametrize("fault", [None, Fault.status(400)], ids=["success", "failure"])
def test_nothing_is_logged_without_a_retry(caplog: pytest.LogCaptureFixture, fault: Fault | None) -> None:
    """A call that ends with its first attempt leaves no line."""
    caplog.set_level(logging.DEBUG, "chatanywhere")
    with LoopbackServer(["Hi"], faults=[fault] if fault else []) as server:
        client = Client("k", base_url=server.url)
        if fault:
            failure(client)
        else:
            client.complete("Hello")
    assert [record for record in caplog.records if record.name == "chatanywhere"] == []


# Where it is tried again --------------------------------------------------------------------------------------


def test_a_host_that_refuses_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    """The next host is asked within the same attempt, without a wait, and is asked first from then on."""
    caplog.set_level(logging.DEBUG, "chatanywhere")
    with Refusing() as first, LoopbackServer(lambda _: "Hi") as second:
        client = Client("k", base_url=[first.url, second.url], retry=None)
        assert client.complete("Hello").text == "Hi"
        first.listen()
        assert client.complete("Hello").text == "Hi"
        assert not first.was_asked
        assert len(second.requests) == 2
    assert caplog.records == []


def test_a_host_that_is_slow_to_connect_is_passed_over(raw_server: RawServer) -> None:
    """When the `connect` limit of one host has run out, the next is asked within the same attempt."""
    raw_server.read_requests = False  # and so no TLS handshake
    slow = raw_server.url.replace("http", "https")
    with LoopbackServer(lambda _: "Hi") as second:
        client = Client("k", base_url=[slow, second.url], retry=None, timeout=Timeout(connect=0.2))
        assert client.complete("Hello").text == "Hi"
        assert client.complete("Hello").text == "Hi"
        assert raw_server.connections == 1


def test_hosts_that_all_refuse_are_one_attempt() -> None:
    """`attempts` counts rounds over the hosts, and the error names the last."""
    with Refusing() as first, Refusing() as second:
        outcome = failure(Client("k", base_url=[first.url, second.url], retry=Retry(2, 0)))
    assert type(outcome) is APIConnectionError
    assert outcome.attempts == 2
    assert second.url.partition("//")[2] in str(outcome)


def test_a_host_that_worked_and_then_refuses_is_passed_over() -> None:
    """The order changes again when the other host is the one that works."""
    with Refusing() as first, LoopbackServer(lambda _: "Hi") as third:
        with LoopbackServer(lambda _: "Hi") as second:
            client = Client("k", base_url=[first.url, second.url, third.url], retry=None)
            client.complete("Hello")
            client.close()
        assert client.complete("Hello").text == "Hi"
        assert len(third.requests) == 1


@pytest.mark.parametrize(
    ("fault", "error"),
    [(Fault.status(503), InternalServerError), (Fault.timeout(), APITimeoutError)],
    ids=["503", "silence"],
)
def test_a_host_that_was_reached_is_not_passed_over(fault: Fault, error: type[ChatAnywhereError]) -> None:
    """A service that answers with an error, or is slow to answer, is not exchanged for another."""
    with LoopbackServer(faults=[fault]) as first, LoopbackServer(lambda _: "Hi") as second:
        client = Client("k", base_url=[first.url, second.url], retry=Retry(2, 0), timeout=Timeout(read=0.2))
        assert type(failure(client)) is error
        assert (len(first.requests), len(second.requests)) == (2, 0)
