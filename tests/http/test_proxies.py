"""Real proxies on loopback: HTTP, CONNECT for TLS, SOCKS, with and without a password."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from faces import Face
from raw_server import RawServer

from chatanywhere import APIConnectionError, APIStatusError, APITimeoutError, Client, StreamInterruptedError, Timeout
from chatanywhere.testing import Fault, LoopbackServer

PROXY = """
import asyncio, sys, pproxy

async def main(uri):
    server = await pproxy.Server(uri).start_server({"rserver": [pproxy.Connection("direct")]})
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.wait_for(asyncio.Event().wait(), 60)  # stops by itself if nobody stops it

asyncio.run(main(sys.argv[1]))
"""

StartProxy = Callable[[str], int]


@pytest.fixture
def start_proxy() -> Iterator[StartProxy]:
    """Start a proxy in a process of its own; the function takes pproxy's address and returns the port."""
    with contextlib.ExitStack() as stack:

        def start(uri: str) -> int:
            command = [sys.executable, "-W", "ignore", "-c", PROXY, uri]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            stack.callback(process.wait, 10)
            stack.callback(process.kill)
            assert process.stdout is not None
            stack.callback(process.stdout.close)
            return int(process.stdout.readline())

        yield start


@pytest.fixture
def tls(tmp_path: Path) -> tuple[ssl.SSLContext, str]:
    """A server's TLS context, and the file of the authority that vouches for it."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    return context, str(tmp_path / "ca.pem")


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("scheme", ["http", "socks5", "socks5h", "socks4"])
def test_answers_stream_through_a_proxy(
    start_proxy: StartProxy, tls: tuple[ssl.SSLContext, str], face: Face, scheme: str, secure: bool
) -> None:
    """Text comes, connections are reused, and faults behind the proxy are told as without it."""
    port = start_proxy(f"{scheme.rstrip('h') if scheme != 'http' else scheme}://127.0.0.1:0")
    context, ca_file = tls
    with LoopbackServer(lambda _: ["one ", "two"], tls=context if secure else None) as server:
        client = Client("k", base_url=server.url, verify=ca_file, proxy=f"{scheme}://127.0.0.1:{port}", retry=None)
        assert [face.ask(client).text for _ in range(2)] == ["one two"] * 2
        assert server.connections == 1
        server.faults = (Fault.no_done(after=1),)
        outcome = face.ask(client)
        assert type(outcome.error) is StreamInterruptedError
        assert outcome.error.partial == "one "
        server.faults = (Fault.timeout(after=1),)
        outcome = face.ask(client, timeout=Timeout(total=0.4))
        assert isinstance(outcome.error, APITimeoutError)
        assert outcome.seconds < 2
        client.close()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("scheme", ["http", "socks5"])
def test_a_proxy_may_ask_for_a_password(
    start_proxy: StartProxy, tls: tuple[ssl.SSLContext, str], face: Face, scheme: str, secure: bool
) -> None:
    """The right one lets the call through; a wrong one is an APIConnectionError, and neither is shown."""
    port = start_proxy(f"{scheme}://127.0.0.1:0#user:correct-horse")
    context, ca_file = tls
    with LoopbackServer(lambda _: "Hi", tls=context if secure else None) as server:

        def ask(password: str) -> tuple[str, Exception | None]:
            proxy = f"{scheme}://user:{password}@127.0.0.1:{port}"
            with Client("k", base_url=server.url, verify=ca_file, proxy=proxy, retry=None, timeout=5) as client:
                outcome = face.ask(client)
                return outcome.text, outcome.error

        # The wrong one first: this proxy lets in whoever comes from an address that has shown the right one.
        text, error = ask("battery-staple")
        assert text == ""
        assert error is not None
        assert "battery-staple" not in repr(error) + str(error) + repr(error.__cause__)
        assert ask("correct-horse") == ("Hi", None)


def test_a_proxy_that_answers_407_is_named(raw_server: RawServer, face: Face) -> None:
    """The error says that the proxy refused, and why; asking it again would change nothing."""
    raw_server.answer(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    client = Client("k", base_url="https://192.0.2.1", proxy=raw_server.url)
    outcome = face.ask(client)
    assert isinstance(outcome.error, APIStatusError)
    assert outcome.error.status_code == 407
    assert outcome.error.attempts == len(raw_server.requests) == 1
    assert "proxy" in str(outcome.error)
    assert "user:password@" in (outcome.error.hint or "")


def test_a_proxy_that_is_not_there_is_named(face: Face) -> None:
    """The error says that it is the proxy that can't be reached."""
    client = Client("k", base_url="https://192.0.2.1", proxy="http://127.0.0.1:1", retry=None)
    outcome = face.ask(client)
    assert type(outcome.error) is APIConnectionError
    assert "proxy" in str(outcome.error)
