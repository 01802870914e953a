"""Connections that are used again: those that ended meanwhile, idle ones, and how often a request is sent."""

from __future__ import annotations

import contextlib
import inspect
import os
import pickle
import random
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import psutil
import pytest
import trustme
from faces import Face
from raw_server import RawServer, sockets_to
from waiting import until

from chatanywhere import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    BadRequestError,
    Client,
    Retry,
    Timeout,
)
from chatanywhere.testing import Fault, LoopbackServer

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n"
ANSWER = HEAD + b"Hi"
"""Announces that the connection stays open, whatever then happens to it."""
REFUSAL = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
"""The last answer of a call, and its error tells how many attempts there were."""

PATIENT = Retry(attempts=3, backoff=1000, max_backoff=1000)
"""With it no call comes to its end that waits between two attempts."""


@pytest.fixture
def other_server() -> Iterator[RawServer]:
    """A second host, which answers."""
    server = RawServer()
    server.answer(ANSWER, None)
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def client(raw_server: RawServer, other_server: RawServer) -> Iterator[Client]:
    """A client of both hosts."""
    with web([raw_server.url, other_server.url]) as client:
        yield client


def web(base_url: str | list[str], **settings: Any) -> Client:
    return Client(base_url=base_url, protocol="web", **{"timeout": 20, "retry": None, **settings})


def reset(connection: socket.socket) -> None:
    """A step: end the connection with a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def wait_for_bytes(connection: socket.socket) -> None:
    """A step: wait until the next request has begun to arrive, and leave it unread; closing is then a reset."""
    select.select([connection], [], [], 10)


def at_once(face: Face, client: Client, number: int) -> list[str]:
    """Make several calls at the same time, and return their texts."""
    texts: list[str] = []
    if face.name == "sync":
        threads = [threading.Thread(target=lambda: texts.append(client.complete("Hello").text)) for _ in range(number)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        return texts

    async def call(async_client: AsyncClient) -> None:
        texts.append((await async_client.complete("Hello")).text)

    async def main() -> None:
        async_client = client.as_async()
        async with anyio.create_task_group() as group:
            for _ in range(number):
                group.start_soon(call, async_client)

    anyio.run(main, backend=face.name)
    return texts


def together(number: int, *steps: Any) -> Callable[[bytes], list[Any]]:
    """Answer requests only when so many wait for it, so that each has a connection of its own."""
    barrier = threading.Barrier(number)

    def wait(_: socket.socket) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):  # they did not come; the test says so
            barrier.wait(5)

    return lambda _: [wait, *steps]


# The server did not take the request --------------------------------------------------------------------------


Ending = Callable[[RawServer, pytest.MonkeyPatch], None]
"""To be called when the connection is idle: lets it end before the next request is taken."""


def closed_meanwhile(server: RawServer, _: pytest.MonkeyPatch) -> None:
    """The end arrives before the client looks."""
    server.released.set()
    until(lambda: sockets_to(server.port, psutil.CONN_CLOSE_WAIT), 5)


def closed_on_the_way(server: RawServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end arrives when the client has looked, before it sends."""

    def before(send: Callable[..., Any]) -> Callable[..., Any]:
        def replaced(sock: socket.socket, data: Any, *args: Any) -> Any:
            if bytes(data[:4]) == b"POST" and not server.released.is_set():
                server.released.set()
                until(lambda: sockets_to(server.port, psutil.CONN_CLOSE_WAIT), 5)
            return send(sock, data, *args)

        return replaced

    monkeypatch.setattr(socket.socket, "send", before(socket.socket.send))
    monkeypatch.setattr(socket.socket, "sendall", before(socket.socket.sendall))


endings = pytest.mark.parametrize("end", [closed_meanwhile, closed_on_the_way], ids=lambda end: end.__name__)
retries = pytest.mark.parametrize("retry", [None, PATIENT], ids=["retry=None", "retries"])


@endings
@retries
def test_a_connection_that_ended_before_the_request_is_replaced(
    raw_server: RawServer,
    other_server: RawServer,
    client: Client,
    face: Face,
    monkeypatch: pytest.MonkeyPatch,
    end: Ending,
    retry: Retry | None,
) -> None:
    """The request goes out on a new connection to the same host, without a wait, and it is the same attempt."""
    answers = iter([[ANSWER, raw_server.hold], [REFUSAL, None]])
    raw_server.steps = lambda _: next(answers)
    assert face.ask(client).text == "Hi"
    end(raw_server, monkeypatch)
    outcome = face.ask(client, retry=retry)
    assert raw_server.released.is_set()
    assert type(outcome.error) is BadRequestError, repr(outcome.error)
    assert outcome.error.attempts == 1
    assert (len(raw_server.requests), raw_server.connections) == (2, 2)
    assert not other_server.requests
    assert outcome.seconds < 5


@retries
def test_a_connection_that_ends_within_the_request_is_replaced(
    raw_server: RawServer, other_server: RawServer, client: Client, face: Face, retry: Retry | None
) -> None:
    """A request that could not be sent to its end has not been taken."""
    answers = iter([[ANSWER, wait_for_bytes], [REFUSAL, None]])
    raw_server.steps = lambda _: next(answers)
    assert face.ask(client).text == "Hi"
    outcome = face.ask(client, "x" * 12_000_000, retry=retry)  # more than the buffers of both sides hold
    assert type(outcome.error) is BadRequestError, repr(outcome.error)
    assert outcome.error.attempts == 1
    assert (len(raw_server.requests), raw_server.connections) == (2, 2)
    assert not other_server.requests
    assert outcome.seconds < 10


def test_all_idle_connections_may_have_ended(
    raw_server: RawServer, other_server: RawServer, client: Client, face: Face
) -> None:
    """Fifty that the server closed cost the next call nothing, and it leaves none of them half open."""
    raw_server.steps = together(50, ANSWER)
    assert at_once(face, client, 50) == ["Hi"] * 50
    until(lambda: len(sockets_to(raw_server.port, psutil.CONN_CLOSE_WAIT)) == raw_server.connections == 50, 5)
    raw_server.answer(ANSWER, None)
    outcome = face.ask(client)
    assert (outcome.text, outcome.error) == ("Hi", None)
    assert raw_server.connections == 51
    assert len(sockets_to(raw_server.port)) == 1
    assert not other_server.requests


def test_one_that_is_alive_is_found_among_those_that_have_ended(raw_server: RawServer, face: Face) -> None:
    """Whichever of five idle connections the server has kept, the next call goes on it."""
    for kept in range(5):
        numbers = iter(range(5))
        barrier = threading.Barrier(5)

        def steps(_: bytes, numbers: Iterator[int] = numbers, kept: int = kept, barrier: Any = barrier) -> list[Any]:
            number = next(numbers, kept)
            wait = [lambda _: barrier.wait(5)] if number != kept or barrier.n_waiting < 5 else []
            return [*wait, ANSWER, *([None] if number == kept else [])]

        raw_server.steps = steps
        with web(raw_server.url) as client:
            assert at_once(face, client, 5) == ["Hi"] * 5
            until(lambda: len(sockets_to(raw_server.port, psutil.CONN_CLOSE_WAIT)) == 4, 5)
            raw_server.answer(ANSWER, None)
            before = raw_server.connections
            assert face.ask(client).text == "Hi"
            assert raw_server.connections == before
        until(lambda: not sockets_to(raw_server.port), 5)


@pytest.mark.parametrize("retry", [None, PATIENT], ids=["retry=None", "retries"])
def test_a_server_that_closes_after_each_answer(
    raw_server: RawServer, other_server: RawServer, client: Client, face: Face, retry: Retry | None
) -> None:
    """However soon it closes, no call waits, none goes to another host, and no request is taken twice."""

    def linger(_: socket.socket) -> None:
        time.sleep(random.choice([0, 0.0005, 0.001, 0.003]))

    raw_server.answer(ANSWER, linger)
    outcomes = [face.ask(client, retry=retry) for _ in range(40)]
    lost = [outcome.error for outcome in outcomes if outcome.error is not None]
    # A request that arrives before the server closes ends in a reset, of which nobody can tell whether it was read.
    assert all("reused connection was lost" in str(error) for error in lost), lost
    assert retry is None or not lost
    assert len(raw_server.requests) == 40 - len(lost)
    assert not other_server.requests
    assert max(outcome.seconds for outcome in outcomes) < 5


def test_the_next_host_is_asked_when_no_new_connection_can_be_made(raw_server: RawServer, face: Face) -> None:
    """A host that has gone altogether can't be reached: within the same attempt the next one answers."""
    going = RawServer()
    going.answer(ANSWER, None)
    raw_server.answer(REFUSAL, None)
    with web([going.url, raw_server.url]) as client:
        assert face.ask(client).text == "Hi"
        going.close()
        outcome = face.ask(client)
    assert type(outcome.error) is BadRequestError, repr(outcome.error)
    assert outcome.error.attempts == 1
    assert (len(going.requests), len(raw_server.requests)) == (1, 1)


# The server may have taken the request ------------------------------------------------------------------------


def read_then_closed(server: RawServer) -> list[list[Any]]:
    return [[ANSWER, None], []]


def read_then_reset(server: RawServer) -> list[list[Any]]:
    return [[ANSWER, None], [reset]]


def reset_unread(server: RawServer) -> list[list[Any]]:
    def forget(_: socket.socket) -> None:
        server.requests.append(b"unread")  # counted as one that went on the wire

    return [[ANSWER, wait_for_bytes, forget]]


losses = pytest.mark.parametrize(
    "lose", [read_then_closed, read_then_reset, reset_unread], ids=lambda lose: lose.__name__
)


@losses
def test_a_request_that_may_have_been_read_counts(
    raw_server: RawServer,
    other_server: RawServer,
    client: Client,
    face: Face,
    lose: Callable[[RawServer], list[list[Any]]],
) -> None:
    """With retries allowed the next attempt follows without a wait, on a new connection to the same host."""
    answers = iter([*lose(raw_server), [REFUSAL, None]])
    raw_server.steps = lambda _: next(answers)
    assert face.ask(client).text == "Hi"
    outcome = face.ask(client, retry=PATIENT)
    assert type(outcome.error) is BadRequestError, repr(outcome.error)
    assert outcome.error.attempts == 2
    assert (len(raw_server.requests), raw_server.connections) == (3, 2)
    assert not other_server.requests
    assert outcome.seconds < 5


@losses
def test_a_request_that_may_have_been_read_is_not_sent_again_unasked(
    raw_server: RawServer,
    other_server: RawServer,
    client: Client,
    face: Face,
    lose: Callable[[RawServer], list[list[Any]]],
) -> None:
    """With retry=None the error says what happened, and the next call goes to the same host."""
    answers = iter([*lose(raw_server), [ANSWER, None]])
    raw_server.steps = lambda _: next(answers)
    assert face.ask(client).text == "Hi"
    outcome = face.ask(client)
    assert type(outcome.error) is APIConnectionError, repr(outcome.error)
    assert "reused connection was lost" in str(outcome.error)
    assert "may have been read" in str(outcome.error)
    assert outcome.error.attempts == 1
    assert len(raw_server.requests) == 2
    assert face.ask(client).text == "Hi"
    assert (len(raw_server.requests), raw_server.connections) == (3, 2)
    assert not other_server.requests


def test_only_the_loss_of_a_reused_connection_is_followed_at_once(
    raw_server: RawServer, client: Client, face: Face
) -> None:
    """When the new connection is lost as well, the wait before the third attempt does not fit into the total."""
    answers = iter([[ANSWER, None], [], []])
    raw_server.steps = lambda _: next(answers)
    assert face.ask(client).text == "Hi"
    outcome = face.ask(client, retry=Retry(attempts=3, backoff=1e6, max_backoff=1e6), timeout=20)
    assert type(outcome.error) is APIConnectionError, repr(outcome.error)
    assert outcome.error.attempts == 2
    assert "reused" not in str(outcome.error)
    assert len(raw_server.requests) == 3
    assert outcome.seconds < 5


# Attempts and hosts -------------------------------------------------------------------------------------------


drops = pytest.mark.parametrize("drop", [[], [reset]], ids=["closed", "reset"])


@drops
@pytest.mark.parametrize("attempts", [1, 3])
def test_an_attempt_is_at_most_one_request(
    raw_server: RawServer, other_server: RawServer, client: Client, face: Face, drop: list[Any], attempts: int
) -> None:
    """A host that took the request and answered nothing is asked again by the next attempt; the other host is not."""
    raw_server.answer(*drop)
    outcome = face.ask(client, retry=Retry(attempts=attempts, backoff=0))
    assert type(outcome.error) is APIConnectionError, repr(outcome.error)
    assert outcome.error.attempts == attempts
    assert len(raw_server.requests) == attempts
    assert not other_server.requests


def test_a_host_that_ends_each_new_connection_was_reached(other_server: RawServer, face: Face) -> None:
    """A connection was established, so the request may have been read: the next host is not asked."""
    with LoopbackServer(faults=[Fault.reset_peer(at="accept")]) as server:
        outcome = face.ask(web([server.url, other_server.url], retry=Retry(attempts=2, backoff=0)))
    assert type(outcome.error) is APIConnectionError, repr(outcome.error)
    assert outcome.error.attempts == 2
    assert not other_server.requests


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


def test_a_host_that_refuses_is_followed_by_the_next(raw_server: RawServer, closed_port: int, face: Face) -> None:
    """Within one attempt, since nothing can have been sent."""
    raw_server.answer(REFUSAL, None)
    outcome = face.ask(web([f"http://127.0.0.1:{closed_port}", raw_server.url]))
    assert type(outcome.error) is BadRequestError, repr(outcome.error)
    assert outcome.error.attempts == 1
    assert len(raw_server.requests) == 1


def test_a_host_that_does_not_answer_is_followed_by_the_next(raw_server: RawServer, full_port: int, face: Face) -> None:
    """The limit of `connect` ran out: no connection could be established."""
    raw_server.answer(REFUSAL, None)
    hosts = [f"http://127.0.0.1:{full_port}", raw_server.url]
    outcome = face.ask(web(hosts, timeout=Timeout(total=20, connect=0.3)))
    assert type(outcome.error) is BadRequestError, repr(outcome.error)
    assert outcome.error.attempts == 1


def test_a_host_without_a_handshake_is_followed_by_the_next(raw_server: RawServer, face: Face) -> None:
    """A connection on which TLS fails has not been established."""
    raw_server.answer(REFUSAL, None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with LoopbackServer(faults=[Fault.reset_peer(at="accept")], tls=context) as server:
        outcome = face.ask(web([server.url, raw_server.url]))
    assert type(outcome.error) is BadRequestError, repr(outcome.error)
    assert outcome.error.attempts == 1


def test_a_silent_host_was_reached(raw_server: RawServer, other_server: RawServer, client: Client, face: Face) -> None:
    """When the limit of `read` runs out, the next attempt asks the same host."""
    raw_server.answer(raw_server.hold)
    outcome = face.ask(client, timeout=Timeout(total=20, read=0.3), retry=Retry(attempts=2, backoff=0))
    assert isinstance(outcome.error, APITimeoutError)
    assert (outcome.error.attempts, len(raw_server.requests)) == (2, 2)
    assert not other_server.requests


def test_an_attempt_that_reached_no_host_counts(closed_port: int, face: Face) -> None:
    """Each attempt asks every host."""
    hosts = [f"http://127.0.0.1:{closed_port}", f"http://localhost:{closed_port}"]
    outcome = face.ask(web(hosts, retry=Retry(attempts=2, backoff=0)))
    assert type(outcome.error) is APIConnectionError
    assert outcome.error.attempts == 2


# Idle connections ---------------------------------------------------------------------------------------------


def test_bytes_that_nobody_asked_for_end_an_idle_connection(raw_server: RawServer, face: Face) -> None:
    """A stray answer on an idle connection is not taken for that of the next request."""

    def stray(connection: socket.socket) -> None:
        connection.sendall(ANSWER.replace(b"Hi", b"no"))
        arrived.set()
        raw_server.released.wait(10)

    arrived = threading.Event()
    answers = iter([[ANSWER, lambda _: finished.wait(10), stray], [ANSWER, None]])
    finished = threading.Event()
    raw_server.steps = lambda _: next(answers)
    with web(raw_server.url) as client:
        assert face.ask(client).text == "Hi"
        finished.set()
        assert arrived.wait(10)
        assert face.ask(client).text == "Hi"
    assert raw_server.connections == 2


@pytest.mark.parametrize(("expiry", "connections"), [(0.2, 2), (0, 2), (30.0, 1), (None, 1)])
def test_an_idle_connection_expires(raw_server: RawServer, face: Face, expiry: float | None, connections: int) -> None:
    """After `keepalive_expiry` seconds it is not used again; None is no limit."""
    raw_server.answer(ANSWER, None)
    with web(raw_server.url, keepalive_expiry=expiry) as client:
        assert face.ask(client).text == "Hi"
        time.sleep(0.3)
        assert face.ask(client).text == "Hi"
        assert raw_server.connections == connections
        assert len(sockets_to(raw_server.port)) == (expiry != 0)


def test_expired_connections_are_closed_by_the_next_call(raw_server: RawServer, face: Face) -> None:
    """Ten that are idle for too long are gone after a call that needs one."""
    raw_server.steps = together(10, ANSWER, None)
    with web(raw_server.url, keepalive_expiry=0.3) as client:
        assert at_once(face, client, 10) == ["Hi"] * 10
        assert len(sockets_to(raw_server.port, psutil.CONN_ESTABLISHED)) == 10
        time.sleep(0.4)
        raw_server.answer(ANSWER, None)
        assert face.ask(client).text == "Hi"
        assert raw_server.connections == 11
        assert len(sockets_to(raw_server.port)) == 1


def test_at_most_a_hundred_idle_connections_are_kept(raw_server: RawServer, face: Face) -> None:
    """A burst of 120 calls leaves 100 connections open, and the next burst uses them again."""
    raw_server.steps = together(120, ANSWER, None)
    with web(raw_server.url) as client:
        assert at_once(face, client, 120) == ["Hi"] * 120
        assert len(sockets_to(raw_server.port)) == 100
        raw_server.steps = together(100, ANSWER, None)
        assert at_once(face, client, 100) == ["Hi"] * 100
        assert raw_server.connections == 120
        assert len(sockets_to(raw_server.port)) == 100


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_idle_connections_expire_after_30_seconds_by_default(kind: type) -> None:
    """Both clients have the setting, as httpx does, in seconds."""
    assert inspect.signature(kind).parameters["keepalive_expiry"].default == 30.0


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(
    ("value", "error"),
    [("30", TypeError), (True, TypeError), (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError)],
)
def test_a_keepalive_expiry_that_is_no_time_is_refused(kind: type, value: Any, error: type[Exception]) -> None:
    """The message names the argument."""
    with pytest.raises(error, match=r"^(?!.*unexpected).*keepalive_expiry"):
        kind("k", keepalive_expiry=value)


def test_a_pickled_client_keeps_its_keepalive_expiry(raw_server: RawServer) -> None:
    """It is a setting like the others."""
    raw_server.answer(ANSWER, None)
    with pickle.loads(pickle.dumps(web(raw_server.url, keepalive_expiry=0))) as client:
        assert [client.complete("Hello").text for _ in range(2)] == ["Hi", "Hi"]
    assert raw_server.connections == 2


# Dead paths ---------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform != "linux", reason="the options are Linux's")
@pytest.mark.parametrize("way", ["direct", "TLS", "proxy"])
def test_the_system_looks_whether_the_path_is_dead(raw_server: RawServer, face: Face, tmp_path: Path, way: str) -> None:
    """Probes of an idle path, and unacknowledged bytes, end a connection well before `read` (60 s) would."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    raw_server.answer(ANSWER, None)
    with LoopbackServer(["Hi"], tls=context) as tls_server:
        url, settings, port = {
            "direct": (raw_server.url, {}, raw_server.port),
            "TLS": (tls_server.url, {"verify": tmp_path / "ca.pem"}, int(tls_server.url.rpartition(":")[2])),
            "proxy": ("http://192.0.2.1", {"proxy": raw_server.url}, raw_server.port),
        }[way]
        with web(url, **settings) as client:
            assert face.ask(client).text == "Hi"
            (idle,) = sockets_to(port)
            with socket.socket(fileno=os.dup(idle.fd)) as sock:

                def option(name: str) -> int:
                    return sock.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))

                assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                probing = option("TCP_KEEPIDLE") + option("TCP_KEEPINTVL") * option("TCP_KEEPCNT")
                assert 0 < probing < 60
                assert 0 < option("TCP_USER_TIMEOUT") < 60_000
                assert option("TCP_NODELAY")


def test_a_lost_new_connection_is_no_reused_one(raw_server: RawServer, face: Face) -> None:
    """The words for the loss of a reused connection are for those."""
    raw_server.answer()
    outcome = face.ask(web(raw_server.url))
    assert type(outcome.error) is APIConnectionError
    assert not isinstance(outcome.error, APIStatusError)
    assert "reused" not in str(outcome.error)
