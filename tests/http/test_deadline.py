"""Time limits where no answer is in sight yet: names, connecting, TLS, proxies, sending."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from faces import Face
from raw_server import RawServer

from chatanywhere import APIConnectionError, APITimeoutError, Client, Timeout
from chatanywhere.testing import Fault, LoopbackServer

CONNECT = Timeout(total=20, connect=0.4)
TOTAL = Timeout(total=0.4, connect=10)

limits = pytest.mark.parametrize(
    ("timeout", "phase"), [(CONNECT, "connect"), (TOTAL, "total")], ids=["connect", "total"]
)


def assert_late(face: Face, client: Client, phase: str, messages: str = "Hello") -> None:
    outcome = face.ask(client, messages)
    assert isinstance(outcome.error, APITimeoutError), repr(outcome.error)
    assert outcome.error.phase == phase
    assert 0.35 < outcome.seconds < 2
    end = time.monotonic() + 1
    while (busy := busy_workers()) and time.monotonic() < end:
        time.sleep(0.005)
    assert not busy


def busy_workers() -> list[str]:
    """The worker threads of event loops that are still at work; trio gives them this name while they are."""
    return [name for name in (t.name for t in threading.enumerate()) if name.startswith(("AnyIO", "trio.to_thread"))]


def resolver(monkeypatch: pytest.MonkeyPatch, look_up: Callable[[], list[Any]]) -> None:
    """Let names be looked up by `look_up`; addresses are still understood."""
    original = socket.getaddrinfo

    def replaced(host: str, *args: Any, flags: int = 0, **kwargs: Any) -> list[Any]:
        return original(host, *args, flags=flags, **kwargs) if flags else look_up()

    monkeypatch.setattr(socket, "getaddrinfo", replaced)


@limits
def test_a_resolver_that_hangs(monkeypatch: pytest.MonkeyPatch, face: Face, timeout: Timeout, phase: str) -> None:
    """A name that can't be looked up in time does not hold the call."""
    hang = threading.Event()
    resolver(monkeypatch, lambda: [hang.wait(20)])
    try:
        assert_late(face, Client("k", base_url="https://api.example", timeout=timeout, retry=None), phase)
    finally:
        hang.set()


def test_a_name_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, face: Face) -> None:
    """It is an APIConnectionError that names the host."""

    def fail() -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    resolver(monkeypatch, fail)
    outcome = face.ask(Client("k", base_url="https://api.example", retry=None))
    assert isinstance(outcome.error, APIConnectionError)
    assert "api.example" in str(outcome.error)


@limits
def test_a_server_that_does_not_accept(full_port: int, face: Face, timeout: Timeout, phase: str) -> None:
    """Packets that nobody answers do not hold the call."""
    assert_late(face, Client("k", base_url=f"http://127.0.0.1:{full_port}", timeout=timeout, retry=None), phase)


def test_an_address_that_does_not_answer_leaves_time_for_the_next(
    monkeypatch: pytest.MonkeyPatch, full_port: int, face: Face
) -> None:
    """Of a name's addresses, one that swallows packets does not use up the time of the others."""
    with LoopbackServer(lambda _: "Hi") as server:
        ports = (full_port, int(server.url.rpartition(":")[2]))
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        resolver(monkeypatch, lambda: found)
        client = Client(base_url="http://api.example", protocol="web", timeout=Timeout(connect=1), retry=None)
        assert face.ask(client).text == "Hi"
        client.close()


@limits
def test_a_tls_handshake_that_hangs(face: Face, timeout: Timeout, phase: str) -> None:
    """A server that accepts and then says nothing is given up while connecting."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with LoopbackServer(faults=[Fault.timeout(at="accept")], tls=context) as server:
        assert_late(face, Client("k", base_url=server.url, timeout=timeout, retry=None), phase)


def test_a_server_that_reads_nothing(raw_server: RawServer, face: Face) -> None:
    """A request that can't be sent ends with the total."""
    raw_server.read_requests = False
    client = Client("k", base_url=raw_server.url, timeout=TOTAL, retry=None)
    assert_late(face, client, "total", "x" * 20_000_000)


@limits
@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h", "socks4"])
def test_a_proxy_that_hangs(raw_server: RawServer, face: Face, timeout: Timeout, phase: str, scheme: str) -> None:
    """A proxy that accepts and then says nothing is given up while connecting."""
    raw_server.read_requests = False
    proxy = raw_server.url.replace("http", scheme)
    assert_late(face, Client("k", base_url="https://192.0.2.1", timeout=timeout, retry=None, proxy=proxy), phase)


@limits
def test_a_proxy_that_drips(raw_server: RawServer, face: Face, timeout: Timeout, phase: str) -> None:
    """An answer to CONNECT that comes byte by byte does not extend the limits."""

    def drip(connection: socket.socket) -> None:
        while not raw_server.released.wait(0.05):
            connection.sendall(b"X")

    raw_server.answer(b"HTTP/1.1 200 ", drip)
    client = Client("k", base_url="https://192.0.2.1", timeout=timeout, retry=None, proxy=raw_server.url)
    assert_late(face, client, phase)


def test_limits_are_off_with_none(face: Face) -> None:
    """timeout=None sets no limit, and the call works."""
    with LoopbackServer(lambda _: "Hi") as server:
        assert face.ask(Client("k", base_url=server.url, timeout=None)).text == "Hi"


def test_a_wait_that_does_not_fit_is_not_begun(face: Face) -> None:
    """When the pause before another attempt would go past the total, the last error is raised at once."""
    with LoopbackServer(faults=[Fault.retry_after(30)]) as server:
        outcome = face.ask(Client("k", base_url=server.url, timeout=5, retry=3))
    assert type(outcome.error).__name__ == "RateLimitError"
    assert outcome.seconds < 2


def test_decompressing_takes_of_the_total_too(raw_server: RawServer, face: Face) -> None:
    """Compressed comments, which would keep the decoder busy for long and hold no event, end with the total."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Encoding: gzip\r\n\r\n"
    raw_server.answer(head + gzip.compress(b":\n" * 100_000_000), raw_server.hold)
    client = Client("k", base_url=raw_server.url, timeout=TOTAL, retry=None)
    outcome = face.ask(client)
    assert isinstance(outcome.error, APITimeoutError)
    assert outcome.error.phase == "total"
    assert outcome.seconds < 2


def test_the_total_bounds_all_attempts(face: Face) -> None:
    """Attempts that each fail in time do not add up to more than the total."""
    with LoopbackServer(faults=[Fault.timeout()]) as server:
        client = Client("k", base_url=server.url, timeout=Timeout(total=1, read=0.3), retry=50)
        outcome = face.ask(client)
    assert isinstance(outcome.error, APITimeoutError)
    assert outcome.error.attempts >= 2
    assert outcome.seconds < 2
