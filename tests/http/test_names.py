"""Looking names up: shared by those who ask at the same time, limited, and never in anybody's way."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from chatanywhere import APITimeoutError, Timeout
from chatanywhere._http import names
from chatanywhere._http.scope import CallScope

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 80))]


class Resolver:
    """Takes the place of `socket.getaddrinfo` for names, and answers when it is told to."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.asked: list[str] = []
        self.begun = threading.Semaphore(0)
        self.answer = threading.Event()
        self.outcome: list[Any] | Exception = FOUND

    def __call__(self, host: str, port: int, *args: Any, flags: int = 0, **kwargs: Any) -> Any:
        if flags:
            return self._real(host, port, *args, flags=flags, **kwargs)
        self.asked.append(host)
        self.begun.release()
        assert self.answer.wait(20)
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    """Names are looked up by this one."""
    replaced = Resolver(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", replaced)
    yield replaced
    replaced.answer.set()


@pytest.fixture
def pool(resolver: Resolver) -> Iterator[ThreadPoolExecutor]:
    """Threads to ask from."""
    with ThreadPoolExecutor(30) as executor:
        yield executor
        resolver.answer.set()


def scope(**limits: float) -> CallScope:
    call = CallScope(Timeout(**{"total": 20, "connect": None, **limits}))
    call.connecting()
    return call


def ask(pool: ThreadPoolExecutor, count: int, host: str = "api.example") -> list[Future[Any]]:
    """Let so many calls ask for the name, and return when all wait."""
    calls = [scope() for _ in range(count)]
    futures = [pool.submit(names.resolve, call, host, 80) for call in calls]
    for call in calls:
        while call.wake is None:
            threading.Event().wait(0.001)
    return futures


def lookups() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "chatanywhere-resolve-api.example"]


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_address_is_not_looked_up(resolver: Resolver, address: str) -> None:
    """What is an address already needs no thread and no resolver."""
    assert {info[4][:2] for info in names.resolve(scope(), address, 80)} == {(address, 80)}
    assert resolver.asked == []


def test_those_who_ask_at_the_same_time_share_one_lookup(resolver: Resolver, pool: ThreadPoolExecutor) -> None:
    """Many calls that wait for one name cost one thread, and each gets an answer of its own."""
    futures = ask(pool, 20)
    assert len(lookups()) == 1
    resolver.answer.set()
    found = [future.result(10) for future in futures]
    assert found == [FOUND] * 20
    assert len({id(each) for each in found}) == 20
    assert resolver.asked == ["api.example"]


def test_another_name_is_looked_up_beside_it(resolver: Resolver, pool: ThreadPoolExecutor) -> None:
    """A name whose lookup hangs is in no other name's way."""
    futures = ask(pool, 1) + ask(pool, 1, "other.example")
    resolver.answer.set()
    assert [future.result(10) for future in futures] == [FOUND] * 2
    assert sorted(resolver.asked) == ["api.example", "other.example"]


def test_an_answer_is_not_kept(resolver: Resolver) -> None:
    """Who asks after the lookup has ended asks the resolver again."""
    resolver.answer.set()
    for _ in range(3):
        assert names.resolve(scope(), "api.example", 80) == FOUND
    assert len(resolver.asked) == 3


def test_nobody_is_forgotten_who_joins_when_the_answer_comes(resolver: Resolver, pool: ThreadPoolExecutor) -> None:
    """However asking and answering meet, every call gets its answer."""
    resolver.answer.set()
    futures = [pool.submit(names.resolve, scope(), "api.example", 80) for _ in range(2000)]
    assert all(future.result(20) == FOUND for future in futures)


def test_who_runs_out_of_time_leaves_and_the_others_wait_on(resolver: Resolver, pool: ThreadPoolExecutor) -> None:
    """Each waits within its own limits."""
    others = ask(pool, 2)
    short = scope(connect=0.1)
    with pytest.raises(TimeoutError):
        names.resolve(short, "api.example", 80)
    failure = short.failure()
    assert isinstance(failure, APITimeoutError)
    assert failure.phase == "connect"
    assert not any(future.done() for future in others)
    resolver.answer.set()
    assert [future.result(10) for future in others] == [FOUND] * 2
    assert len(resolver.asked) == 1


def test_cancel_wakes_who_waits(resolver: Resolver, pool: ThreadPoolExecutor) -> None:
    """A cancelled call leaves at once, and the others wait on."""
    others = ask(pool, 1)
    call = scope()
    future = pool.submit(names.resolve, call, "api.example", 80)
    while call.wake is None:
        threading.Event().wait(0.001)
    call.cancel()
    with pytest.raises(ConnectionAbortedError):
        future.result(10)
    assert not others[0].done()


def test_a_cancelled_call_asks_nobody(resolver: Resolver) -> None:
    """A call that is over starts no lookup."""
    call = scope()
    call.cancel()
    with pytest.raises(ConnectionAbortedError):
        names.resolve(call, "api.example", 80)
    assert resolver.asked == []


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "not known"),
        (UnicodeError("label too long"), "not a host name: 'api.example'"),
    ],
)
def test_all_get_the_error(resolver: Resolver, pool: ThreadPoolExecutor, error: Exception, expected: str) -> None:
    """A name that does not exist, or can't, is a gaierror for everyone who waits, each an object of its own."""
    resolver.outcome = error
    futures = ask(pool, 3)
    resolver.answer.set()
    errors = [future.exception(10) for future in futures]
    assert [type(each) for each in errors] == [socket.gaierror] * 3
    assert all(expected in str(each) for each in errors)
    assert len({id(each) for each in errors}) == 3


@pytest.mark.parametrize("name", ["x" * 64 + ".example", "a..example"])
def test_what_can_be_no_name_is_an_error_of_the_resolver(name: str) -> None:
    """A label that is too long, or empty, is a gaierror, not Python's UnicodeError."""
    with pytest.raises(socket.gaierror, match="not a host name"):
        names.resolve(scope(), name, 80)


def test_who_asks_again_waits_for_the_same_lookup(resolver: Resolver) -> None:
    """Attempts of one call that run out of time one after the other cost one thread."""
    for _ in range(3):
        with pytest.raises(TimeoutError):
            names.resolve(scope(connect=0.05), "api.example", 80)
    assert len(lookups()) == 1


def refuse(*_: Any, **__: Any) -> None:
    raise RuntimeError("can't start new thread")


@pytest.mark.parametrize("step", ["__init__", "start"])  # a subinterpreter without daemon threads refuses the first
def test_without_threads_a_name_is_looked_up_in_place(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Where no thread can be started, the one that asks looks the name up."""
    resolver.answer.set()
    monkeypatch.setattr(threading.Thread, step, refuse)
    assert names.resolve(scope(), "api.example", 80) == FOUND
    resolver.outcome = UnicodeError("label too long")
    with pytest.raises(socket.gaierror, match="not a host name"):
        names.resolve(scope(), "api.example", 80)


def test_who_shared_a_lookup_in_place_that_failed_looks_it_up_again(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch, pool: ThreadPoolExecutor
) -> None:
    """What goes wrong in one call's own lookup, an interrupt perhaps, is not passed on to the others."""
    list(pool.map(lambda _: threading.Event().wait(0.01), range(30)))  # its threads are running
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        first = pool.submit(names.resolve, scope(), "api.example", 80)
        assert resolver.begun.acquire(timeout=10)
        (second,) = ask(pool, 1)
        resolver.outcome = socket.gaierror(socket.EAI_AGAIN, "try again")
        real_end = names._Lookup.end

        def end(lookup: Any, outcome: Any) -> None:
            resolver.outcome = FOUND
            real_end(lookup, outcome)

        patch.setattr(names._Lookup, "end", end)
        resolver.answer.set()
        assert isinstance(first.exception(10), socket.gaierror)
        assert second.result(10) == FOUND


def test_an_interrupt_leaves_no_lookup_behind_that_nobody_makes(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After Ctrl-C while a lookup is started, the next call looks the name up."""
    resolver.answer.set()

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupt)
        with pytest.raises(KeyboardInterrupt):
            names.resolve(scope(), "api.example", 80)
    assert names.resolve(scope(total=5), "api.example", 80) == FOUND


def test_a_signal_handler_may_ask_for_the_same_name(resolver: Resolver, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that comes while this thread starts a lookup does not wait for it, since it can't go on meanwhile."""
    resolver.answer.set()
    found: list[Any] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        if not found:
            found.append(None)
            found.append(names.resolve(scope(total=5), "api.example", 80))
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    assert names.resolve(scope(), "api.example", 80) == FOUND
    assert found == [None, FOUND]


def test_another_resolver_is_asked_itself(
    resolver: Resolver, pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lookup by a function that has been replaced since, as gevent does, is not shared."""
    ask(pool, 1)
    after = Resolver(resolver)
    after.answer.set()
    monkeypatch.setattr(socket, "getaddrinfo", after)
    assert names.resolve(scope(total=5), "api.example", 80) == FOUND


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_lookup(resolver: Resolver, pool: ThreadPoolExecutor) -> None:
    """The thread that looks the name up exists in the parent only."""
    (future,) = ask(pool, 1)
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        resolver.answer = threading.Event()
        resolver.answer.set()
        try:
            os._exit(0 if names.resolve(scope(total=5), "api.example", 80) == FOUND else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not future.done()
