"""What is asked of the operating system's socket: to wake who waits, whether it has ended, what was read."""

from __future__ import annotations

import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psutil
import pytest
import trustme
from raw_server import drop_all_that_comes

from chatanywhere import Timeout
from chatanywhere._http.scope import CallScope
from chatanywhere._http.sockets import Handle, has_ended, shut_down, was_not_read

Pair = tuple[socket.socket, socket.socket]
Pairs = Callable[..., Pair]


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    """Makes connections: the client's end and the server's."""
    with ExitStack() as stack:

        def make(tls: bool = False) -> Pair:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            client = stack.enter_context(socket.create_connection(listener.getsockname()))
            server = stack.enter_context(listener.accept()[0])
            client.settimeout(10)
            server.settimeout(10)
            if not tls:
                return client, server
            ca = trustme.CA()
            contexts = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            ca.configure_trust(contexts[0])
            ca.issue_cert("localhost").configure_cert(contexts[1])
            accepted: list[ssl.SSLSocket] = []
            thread = threading.Thread(target=lambda: accepted.append(contexts[1].wrap_socket(server, server_side=True)))
            thread.start()
            client = stack.enter_context(contexts[0].wrap_socket(client, server_hostname="localhost"))
            thread.join(10)
            accepted[0].sendall(b"x")
            assert client.recv(1) == b"x"  # the session's tickets have come before it
            return client, stack.enter_context(accepted[0])

        yield make


@pytest.fixture(params=["poll", "no poll", "no MSG_DONTWAIT"])
def platform(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the platform lacks: eventlet takes poll away, Windows has neither."""
    if request.param != "poll":
        monkeypatch.delattr(select, "poll")
    if request.param == "no MSG_DONTWAIT":
        monkeypatch.delattr(socket, "MSG_DONTWAIT")


def scope() -> CallScope:
    call = CallScope(Timeout(total=20))
    call.connecting()
    return call


tls = pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])


@tls
def test_shutting_down_wakes_who_reads(pairs: Pairs, tls: bool) -> None:
    """A read that another thread waits in ends at once, without a byte and without TLS's ciphertext."""
    client, _ = pairs(tls)
    received: list[bytes] = []

    def read() -> None:
        try:
            received.append(client.recv(100))
        except OSError:
            received.append(b"")

    thread = threading.Thread(target=read)
    thread.start()
    shut_down(client)
    thread.join(5)
    assert received == [b""]


def test_shutting_down_keeps_tls(pairs: Pairs) -> None:
    """What had arrived before comes out decrypted or not at all."""
    client, server = pairs(tls=True)
    server.sendall(b"secret")
    while not has_ended(client):  # it has not arrived
        pass
    shut_down(client)
    assert client.recv(100) in (b"secret", b"")


def test_shutting_down_what_is_not_connected_does_nothing() -> None:
    """Neither a socket that is not connected yet nor one that is closed is an error."""
    with socket.socket() as sock:
        shut_down(sock)
    shut_down(sock)


@pytest.mark.parametrize("has_flag", [True, False], ids=["SOCK_NONBLOCK", "without"])
@pytest.mark.parametrize("look", [shut_down, was_not_read])
def test_a_default_timeout_changes_no_descriptor(
    pairs: Pairs, monkeypatch: pytest.MonkeyPatch, look: Callable[[socket.socket], object], has_flag: bool
) -> None:
    """`socket.setdefaulttimeout` does not make a blocking connection non-blocking by looking at it."""
    client, _ = pairs()
    client.settimeout(None)
    if not has_flag:
        monkeypatch.delattr(socket, "SOCK_NONBLOCK")
    socket.setdefaulttimeout(5)
    try:
        look(client)
    finally:
        socket.setdefaulttimeout(None)
    assert os.get_blocking(client.fileno())


@tls
@pytest.mark.usefixtures("platform")
def test_an_idle_connection_has_not_ended(pairs: Pairs, tls: bool) -> None:
    """A connection that both sides keep open can be used again."""
    client, _ = pairs(tls)
    assert not has_ended(client)


@tls
@pytest.mark.usefixtures("platform")
def test_a_connection_that_the_server_closed_has_ended(pairs: Pairs, tls: bool) -> None:
    """The end is seen without reading, and so are bytes that nobody asked for."""
    client, server = pairs(tls)
    server.close()
    assert has_ended(client)
    other, server = pairs(tls)
    server.sendall(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
    assert has_ended(other)


@pytest.mark.usefixtures("platform")
def test_a_connection_that_is_reset_or_closed_here_has_ended(pairs: Pairs) -> None:
    """Neither can be used again."""
    client, server = pairs()
    server.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    server.close()
    assert has_ended(client)
    client.close()
    assert has_ended(client)


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_a_request_to_a_closed_socket_was_not_read(pairs: Pairs, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """A server that had closed before the request came can't have read it; every system keeps the error."""
    client, server = pairs()
    monkeypatch.setattr("sys.platform", system)
    server.close()
    client.sendall(b"POST")
    assert client.recv(1) == b""
    assert was_not_read(client)


def test_a_request_that_was_never_acknowledged_was_not_read(pairs: Pairs) -> None:
    """Bytes that the server's system did not acknowledge are known on Linux."""
    client, server = pairs()
    drop_all_that_comes(server)
    server.shutdown(socket.SHUT_WR)
    client.sendall(b"POST")
    assert client.recv(1) == b""
    assert was_not_read(client)


@pytest.mark.parametrize("read", [True, False])
def test_a_request_that_was_acknowledged_may_have_been_read(pairs: Pairs, read: bool) -> None:
    """Where the server read it, or its system keeps it for the server, nothing is promised."""
    client, server = pairs()
    client.sendall(b"POST")
    if read:
        assert server.recv(100) == b"POST"
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    assert not was_not_read(client)


def test_where_the_system_does_not_count_nothing_is_promised(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Linux's count, bytes that were not acknowledged may have been read."""
    client, server = pairs()
    drop_all_that_comes(server)
    server.shutdown(socket.SHUT_WR)
    client.sendall(b"POST")
    assert client.recv(1) == b""
    monkeypatch.setattr("sys.platform", "darwin")
    assert not was_not_read(client)


def test_a_handle_outlives_the_object_above_the_connection(pairs: Pairs) -> None:
    """`cancel()` ends a connection whose descriptor has gone to another object, as TLS does it."""
    client, _ = pairs()
    call = scope()
    with Handle(call, client), socket.socket(fileno=client.detach()) as above:
        above.settimeout(10)
        thread = threading.Thread(target=call.cancel)
        thread.start()
        assert above.recv(1) == b""
        thread.join()


def test_a_handle_does_not_hit_another_connection(pairs: Pairs) -> None:
    """`cancel()` leaves a connection alone that has got the descriptor of one that was closed."""
    client, _ = pairs()
    call = scope()
    one, server = socket.socketpair()
    with one, server, Handle(call, client):
        descriptor = client.fileno()
        client.close()
        with socket.socket(fileno=os.dup2(one.fileno(), descriptor)) as other:
            call.cancel()
            server.sendall(b"x")
            assert other.recv(1) == b"x"


def test_a_handle_that_is_over_does_nothing_and_holds_nothing(pairs: Pairs) -> None:
    """Afterwards a `cancel()` does not reach the connection, and its descriptor is closed."""
    client, server = pairs()
    call = scope()
    before = psutil.Process().num_fds()
    with Handle(call, client):
        assert psutil.Process().num_fds() == before + 1
    assert psutil.Process().num_fds() == before
    call.cancel()
    server.sendall(b"x")
    assert client.recv(1) == b"x"


def test_a_handle_is_refused_to_a_call_that_was_cancelled(pairs: Pairs) -> None:
    """A `cancel()` that came before it, which could not end the connection, is noticed."""
    client, _ = pairs()
    call = scope()
    call.cancel()
    before = psutil.Process().num_fds()
    with pytest.raises(ConnectionAbortedError), Handle(call, client):
        pytest.fail("the call was cancelled")
    assert psutil.Process().num_fds() == before


def test_a_handle_needs_a_descriptor(pairs: Pairs) -> None:
    """A connection that is closed has none, which is an OSError."""
    client, _ = pairs()
    client.close()
    with pytest.raises(OSError), Handle(scope(), client):
        pytest.fail("it is closed")
