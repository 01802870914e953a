"""Making TCP connections: which address is tried when, what limits and ends it, and what is left behind: nothing."""

from __future__ import annotations

import errno
import gc
import itertools
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import psutil
import pytest
from raw_server import drop_all_that_comes

from chatanywhere import APITimeoutError, Timeout
from chatanywhere._http import dialing
from chatanywhere._http.dialing import dial, socket_options
from chatanywhere._http.scope import CallScope

HOST = "api.example"

Listen = Callable[[], int]
Table = Callable[..., None]


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Opens ports that accept connections."""
    listeners: list[socket.socket] = []

    def open_port() -> int:
        listeners.append(socket.create_server(("127.0.0.1", 0)))
        return int(listeners[-1].getsockname()[1])

    yield open_port
    for listener in listeners:
        listener.close()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    """Sets the addresses that every name has; an int is a port of this machine, over IPv4."""
    monkeypatch.setattr(dialing, "_worked", {})

    def set_table(*addresses: int | tuple[int, tuple[Any, ...]]) -> None:
        found = [(socket.AF_INET, ("127.0.0.1", each)) if isinstance(each, int) else each for each in addresses]
        infos = [(family, socket.SOCK_STREAM, 6, "", address) for family, address in found]
        real = socket.getaddrinfo

        def look_up(*args: Any, flags: int = 0, **kwargs: Any) -> Any:
            return real(*args, flags=flags, **kwargs) if flags else infos

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    return set_table


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """Every test closes what it gets, so no more is open afterwards than before."""
    before = psutil.Process().num_fds()
    yield
    assert psutil.Process().num_fds() <= before


def scope(**limits: float | None) -> CallScope:
    call = CallScope(Timeout(**{"total": 20, "connect": 10, **limits}))
    call.connecting()
    return call


def soon(action: Callable[[], object]) -> threading.Thread:
    """Do something in another thread when this one waits for the network."""
    main = threading.get_ident()
    end = time.monotonic() + 10

    def run() -> None:
        while sys._current_frames()[main].f_code.co_name != "_connected_or_failed" and time.monotonic() < end:
            time.sleep(0.005)
        action()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


class Recording(socket.socket):
    """Notes which addresses are tried."""

    tried: list[Any]

    def connect_ex(self, address: Any) -> int:
        self.tried.append(address)
        return super().connect_ex(address)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that are tried, in order."""
    Recording.tried = []
    monkeypatch.setattr(socket, "socket", Recording)
    return Recording.tried


def test_a_connection_is_a_plain_blocking_socket(listen: Listen) -> None:
    """Whatever the default timeout is, it has none; and the scope does not hold it any more."""
    call = scope()
    socket.setdefaulttimeout(5)
    try:
        sock = dial(call, "127.0.0.1", listen())
    finally:
        socket.setdefaulttimeout(None)
    with sock:
        assert type(sock) is socket.socket
        assert sock.gettimeout() is None
        assert os.get_blocking(sock.fileno())
        call.cancel()
        assert not select.select([sock], [], [], 0)[0]


def test_ipv6_works() -> None:
    """An address of the other family is connected to in the same way."""
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listener:
        dial(scope(), "::1", listener.getsockname()[1]).close()


def test_without_poll_it_works(listen: Listen, closed_port: int, table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where eventlet has taken poll away, or on Windows, select serves."""
    monkeypatch.delattr(select, "poll")
    table(closed_port, listen())
    dial(scope(), HOST, 80).close()
    with pytest.raises(ConnectionRefusedError):
        dial(scope(), "127.0.0.1", closed_port)


def test_the_reason_of_the_last_address_is_told(closed_port: int, table: Table, tried: list[Any]) -> None:
    """A host of which no address can be connected to is an OSError, after all have been tried."""
    with pytest.raises(ConnectionRefusedError):
        dial(scope(), "127.0.0.1", closed_port)
    table((socket.AF_INET, ("255.255.255.255", 80)), closed_port)
    with pytest.raises(ConnectionRefusedError):
        dial(scope(), HOST, 80)
    assert len(tried) == 3


def test_a_host_without_addresses_is_an_error(table: Table) -> None:
    """A resolver that finds a name but nothing else leads to an OSError."""
    table()
    with pytest.raises(OSError, match="no address"):
        dial(scope(), HOST, 80)


def test_after_a_failure_the_next_address_is_tried_at_once(
    listen: Listen, closed_port: int, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only an address that does not answer is waited for."""
    monkeypatch.setattr(dialing, "ATTEMPT_DELAY", 15)
    table(closed_port, (socket.AF_INET, ("255.255.255.255", 80)), listen())
    began = time.monotonic()
    dial(scope(), HOST, 80).close()
    assert time.monotonic() - began < 5


def test_an_address_that_does_not_answer_delays_for_a_quarter_of_a_second(
    listen: Listen, full_port: int, table: Table
) -> None:
    """The next one is tried beside it, and wins; the connection that was begun is closed."""
    port = listen()
    table(full_port, port)
    began = time.monotonic()
    with dial(scope(), HOST, 80) as sock:
        assert 0.25 <= time.monotonic() - began < 5
        assert sock.getpeername()[1] == port


def test_an_address_that_is_slow_keeps_its_chance(closed_port: int, table: Table) -> None:
    """It is not given up when the next one is tried, nor by the options, which are set when it is connected."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, socket.socket() as first:
        first.connect(listener.getsockname())
        table(listener.getsockname()[1], closed_port)
        accepting = soon(lambda: (time.sleep(1.3), listener.accept()[0].close()))
        options = [(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)]
        with dial(scope(), HOST, 80, options) as sock:  # Linux asks again after 1 s and 3 s
            assert sock.getpeername() == listener.getsockname()
        accepting.join()


@pytest.mark.parametrize(("limits", "phase"), [({"connect": 0.4}, "connect"), ({"total": 0.4}, "total")])
@pytest.mark.parametrize("addresses", [1, 3])
def test_silence_ends_with_the_limit(
    full_port: int, table: Table, limits: dict[str, float], phase: str, addresses: int
) -> None:
    """However many addresses do not answer, the time is up when it is up, and the scope knows whose it was."""
    table(*[full_port] * addresses)
    call = scope(**limits)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        dial(call, HOST, 80)
    assert 0.35 < time.monotonic() - began < 3
    failure = call.failure()
    assert isinstance(failure, APITimeoutError)
    assert failure.phase == phase


@pytest.mark.parametrize("addresses", [1, 3])
def test_without_limits_cancel_ends_it(full_port: int, table: Table, addresses: int) -> None:
    """A `cancel()` from another thread wakes who waits for any number of addresses."""
    table(*[full_port] * addresses)
    call = scope(total=None, connect=None)
    thread = soon(lambda: (time.sleep(0.3 * addresses), call.cancel()))
    began = time.monotonic()
    with pytest.raises(ConnectionAbortedError):
        dial(call, HOST, 80)
    assert time.monotonic() - began < 5
    thread.join()


def test_a_cancel_just_before_connecting_begins_is_noticed(full_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not connecting yet can't be shut down; the call ends all the same."""
    call = scope(total=10)

    class Cancelling(socket.socket):
        def connect_ex(self, address: Any) -> int:
            call.cancel()
            return super().connect_ex(address)

    monkeypatch.setattr(socket, "socket", Cancelling)
    began = time.monotonic()
    with pytest.raises(ConnectionAbortedError):
        dial(call, "127.0.0.1", full_port)
    assert time.monotonic() - began < 5


def test_a_cancel_when_the_connection_stands_is_noticed(listen: Listen) -> None:
    """A connection that a cancelled call has made is closed, not returned."""
    call = scope()

    def options() -> Iterator[dialing.Option]:
        call.cancel()
        yield socket.IPPROTO_TCP, socket.TCP_NODELAY, 1

    with pytest.raises(ConnectionAbortedError):
        dial(call, "127.0.0.1", listen(), options())


def test_what_a_signal_handler_raises_comes_through(full_port: int) -> None:
    """A TimeoutError of the program's own reaches it at once, as the object it was, and is not taken for a limit."""
    own = TimeoutError("the program's")

    def handle(*_: object) -> None:
        raise own

    previous = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    call = scope()
    try:
        with pytest.raises(TimeoutError) as caught:
            dial(call, "127.0.0.1", full_port)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert caught.value is own
    assert call.failure() is None


def test_ctrl_c_at_every_line_leaves_no_socket(listen: Listen, closed_port: int, table: Table) -> None:
    """Wherever KeyboardInterrupt strikes, it comes through and every socket is closed."""
    table(closed_port, listen())
    gc.collect()  # what earlier tests have left would be closed in between
    descriptors = psutil.Process().num_fds()
    for line in itertools.count(1):
        try:
            sock = interrupted(line, lambda: dial(scope(), HOST, 80, socket_options(Timeout())))
        except KeyboardInterrupt:
            assert psutil.Process().num_fds() == descriptors
        else:
            sock.close()
            break
    assert line > 60


def interrupted(line: int, action: Callable[[], socket.socket]) -> socket.socket:
    """Do it, with a KeyboardInterrupt before the n-th line of the package's that runs."""
    left = line

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if "chatanywhere/_http" not in frame.f_code.co_filename:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    def run() -> socket.socket:
        sys.settrace(trace)
        return action()

    # In a thread of its own, for CPython leaves a thread with the exception that was being handled when it struck.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()


def test_a_family_that_the_system_lacks_is_passed_over(
    listen: Listen, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no IPv6 socket can be made, IPv4 is used; without any, the reason is told."""
    table((socket.AF_INET6, ("::1", 80, 0, 0)), listen())
    make = socket.socket

    def refuse(family: int, *args: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported")
        return make(family, *args)

    monkeypatch.setattr(socket, "socket", refuse)
    dial(scope(), HOST, 80).close()
    table((socket.AF_INET6, ("::1", 80, 0, 0)))
    with pytest.raises(OSError, match="not supported"):
        dial(scope(), HOST, 80)


def test_what_a_signal_handler_raises_is_not_taken_for_a_missing_family(
    listen: Listen, table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A TimeoutError that comes while a socket is made ends it all."""
    table(1, listen())
    own = TimeoutError("the program's")

    def interrupted(*_: Any) -> socket.socket:
        monkeypatch.setattr(socket, "socket", make)
        raise own

    make = socket.socket
    monkeypatch.setattr(socket, "socket", interrupted)
    with pytest.raises(TimeoutError) as caught:
        dial(scope(), HOST, 80)
    assert caught.value is own


def six(port: int) -> tuple[int, tuple[Any, ...]]:
    return socket.AF_INET6, ("::1", port, 0, 0)


def test_the_families_take_turns(closed_port: int, table: Table, tried: list[Any]) -> None:
    """Addresses are tried in the resolver's order, but IPv6 and IPv4 in alternation (RFC 8305, section 4)."""
    table(six(1), six(2), six(3), closed_port)
    with pytest.raises(OSError):
        dial(scope(), HOST, 80)
    assert [address[1] for address in tried] == [1, closed_port, 2, 3]


def test_the_family_that_worked_is_tried_first(
    listen: Listen, table: Table, tried: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host's broken IPv6 is paid for once; after a while it is tried again. Other hosts are not affected."""
    port = listen()
    table(six(1), port)

    def ports(host: str) -> list[int]:
        tried.clear()
        dial(scope(), host, 80).close()
        return [address[1] for address in tried]

    assert ports(HOST) == [1, port]
    assert ports(HOST) == [port]
    assert ports("other.example") == [1, port]
    later = time.monotonic() + dialing.FAMILY_MEMORY
    with monkeypatch.context() as patch:
        patch.setattr(dialing, "monotonic", lambda: later)
        assert ports(HOST) == [1, port]


def test_options_are_set_where_there_are_such(listen: Listen) -> None:
    """What the platform does not know is passed over, and the rest is set."""
    unknown = (socket.IPPROTO_TCP, 9999, 1)
    with dial(scope(), "127.0.0.1", listen(), [unknown, *socket_options(Timeout(read=30))]) as sock:
        set_now = [
            sock.getsockopt(socket.IPPROTO_TCP, option)
            for option in (
                socket.TCP_NODELAY,
                socket.TCP_KEEPIDLE,
                socket.TCP_KEEPINTVL,
                socket.TCP_KEEPCNT,
                socket.TCP_USER_TIMEOUT,
            )
        ]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert set_now == [1, 7, 2, 3, 15000]


def test_an_option_that_fails_otherwise_is_an_error(listen: Listen, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is not there is passed over."""

    class Failing(socket.socket):
        def setsockopt(self, *_: Any) -> None:
            raise OSError(errno.ENOBUFS, "no buffer space")

    monkeypatch.setattr(socket, "socket", Failing)
    with pytest.raises(OSError, match="no buffer space"):
        dial(scope(), "127.0.0.1", listen(), [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)])


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [
        (Timeout(), 30),
        (Timeout(None, None, None), 30),
        (Timeout(total=10), 5),
        (Timeout(read=5), 2),
        (Timeout(read=0.1), 1),
        (Timeout(total=None, read=2_000_000), 30),
    ],
)
def test_a_dead_path_is_to_be_noticed_within_half_of_the_limits(timeout: Timeout, seconds: int) -> None:
    """The options ask for whole seconds, at least one, and at most thirty."""
    options = {name: value for _, name, value in socket_options(timeout)}
    assert options[socket.TCP_USER_TIMEOUT] == 1000 * seconds
    probed = options[socket.TCP_KEEPIDLE] + options[socket.TCP_KEEPINTVL] * options[socket.TCP_KEEPCNT]
    assert options[socket.TCP_KEEPIDLE] >= 1
    assert options[socket.TCP_KEEPINTVL] >= 1
    assert probed <= max(seconds, 4)


def test_options_that_the_platform_lacks_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of macOS, one has another name and another is not there."""
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    monkeypatch.delattr(socket, "TCP_KEEPIDLE")
    monkeypatch.setattr(socket, "TCP_KEEPALIVE", 16, raising=False)
    assert [(name, value) for _, name, value in socket_options(Timeout())][2] == (16, 15)
    assert len(socket_options(Timeout())) == 5


@pytest.mark.parametrize("acknowledged", [False, True])
def test_a_path_that_dies_is_noticed(acknowledged: bool) -> None:
    """On its way, or after the request has arrived: the connection ends before the limit of `read`."""
    timeout = Timeout(read=4)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        sock = dial(scope(), "127.0.0.1", listener.getsockname()[1], socket_options(timeout))
        server, _ = listener.accept()
    with sock, server:
        if acknowledged:
            sock.sendall(b"x")
            assert server.recv(1) == b"x"
        drop_all_that_comes(server)
        if not acknowledged:
            sock.sendall(b"x")
        sock.settimeout(15)
        with pytest.raises(OSError) as caught:
            sock.recv(1)
        assert caught.value.errno == errno.ETIMEDOUT
