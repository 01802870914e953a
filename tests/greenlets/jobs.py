"""Runs programs of gevent and eventlet, each in a process of its own, against a server of this process.

What replaces the standard library's sockets does so for a whole process, so no test can do it for itself. The files
`with_gevent.py` and `with_eventlet.py` are no part of the suite: `nox -s greenlets` installs what they need.
None of their tests may be skipped.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from chatanywhere.testing import Fault, LoopbackServer

PRELUDE = """
import sys, time
url, ca_file = sys.argv[1:]

def client(**settings):
    from chatanywhere import Client
    settings = {"protocol": "web", "verify": ca_file, "proxy": "", "retry": None, "timeout": 20, **settings}
    return Client("test-key", base_url=url, **settings)

class within:
    "What is done inside takes no longer than this."

    def __init__(self, seconds):
        self.seconds = seconds

    def __enter__(self):
        self.began = time.monotonic()

    def __exit__(self, *_):
        assert time.monotonic() - self.began < self.seconds, time.monotonic() - self.began
"""
"""What every program begins with."""

Run = Callable[[str], str]
"""Runs a program to its end and returns what it printed."""

PATCHED = {
    "first": "PATCH\nimport chatanywhere\n",
    "late": "import chatanywhere\nfrom chatanywhere import Client, Timeout\nPATCH\n",
    "after a call": "c = client()\nassert c.complete('Hello').text == 'one two'\nPATCH\n",
}
"""When the standard library is patched. `PATCH` stands for how."""

patched = pytest.mark.parametrize("when", PATCHED.values(), ids=PATCHED.keys())


@contextlib.contextmanager
def serving(scheme: str, folder: Path, replies: Any = None, **settings: Any) -> Iterator[tuple[LoopbackServer, Path]]:
    """A server that says "one two", plain or with TLS, and the file of the authority that vouches for it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    tls = context if scheme == "https" else None
    with LoopbackServer(replies or (lambda _: ["one ", "two"]), tls=tls, **settings) as server:
        yield server, folder / "ca.pem"


def run_program(program: str, patch: str, url: str, ca_file: Path) -> str:
    """Run a program in which `PATCH` stands for `patch`; return what it printed.

    Raises:
        AssertionError: it failed, or printed anything as an error.
    """
    source = PRELUDE + program.replace("PATCH", patch)
    command = [sys.executable, "-W", "ignore", "-c", source, url, str(ca_file)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 0, ran.stderr
    assert not ran.stderr
    return ran.stdout


class Gate:
    """Answers of a `LoopbackServer` that wait until so many requests are there: only calls that overlap pass it."""

    def __init__(self, number: int) -> None:
        self._barrier = threading.Barrier(number)

    def __call__(self, _: object) -> str:
        try:
            self._barrier.wait(10)
        except threading.BrokenBarrierError:
            return "alone"
        return "together"


# Programs ---------------------------------------------------------------------------------------------------------

TWO_CALLS = """
c = globals().get("c") or client()
for _ in range(2):
    assert c.complete("Hello").text == "one two"
with c.stream("Hello") as stream:
    assert "".join(stream) == "one two"
c.close()
"""

A_LOST_CONNECTION = """
PATCH
c = client()
for _ in range(5):
    with within(5):
        assert c.complete("Hello").text == "one two"
    time.sleep(0.05)
"""

A_NAME = """
PATCH
url = url.replace("127.0.0.1", "localhost")
assert client().complete("Hello").text == "one two"
"""

LIMITS = """
PATCH
from chatanywhere import APITimeoutError, Timeout
c = client(timeout=Timeout(total=20, read=0.4))
with within(5):
    try:
        c.complete("Hello")
    except APITimeoutError as error:
        assert error.phase == PHASE, error.phase
    else:
        raise AssertionError("no limit")
"""

NOTHING_LEFT = """
def sockets():
    port = int(url.rpartition(":")[2])
    import psutil
    return [c for c in psutil.Process().net_connections() if c.raddr and c.raddr.port == port and c.fd != -1]

end = time.monotonic() + 5
while sockets() and time.monotonic() < end:
    time.sleep(0.01)
assert not sockets(), sockets()
"""
"""No connection is open."""

STOP = """
PATCH
from chatanywhere import Retry, StreamCancelledError
c = client(protocol=PROTOCOL, retry=Retry(attempts=2, backoff=0))
asked, streams, pieces = [], [], []

def ask():
    asked.append(1)
    with c.stream("Hello") as stream:
        streams.append(stream)
        for piece in stream:
            pieces.append(piece)

def outcome():
    try:
        ask()
    except StreamCancelledError as error:
        return error

with within(3):
HOW
assert len(asked) == 1
"""
"""`ask` is stuck in the head or in the body of an answer; `HOW` stops it."""

AGAIN = """
assert c.complete("Hello").text == "one two"
c.close()
"""


def stuck_in(place: str) -> dict[str, Any]:
    """The settings of a `LoopbackServer` whose first answer, or the next attempt's, gets stuck there; no later one.

    `stream()` returns with the head of an answer, so only a second attempt has a stream to be cancelled in the head.
    """
    if place == "body":
        return {"faults": [Fault.timeout(after=1, first=1)]}
    if place == "head":
        return {"faults": [Fault.timeout(first=1)]}
    numbers = itertools.count(1)

    def reply(_: Any) -> list[str]:
        if next(numbers) == 2:
            time.sleep(3)  # longer than the program takes
        return ["one ", "two"]

    return {"replies": reply, "faults": [Fault.no_done(after=0, first=1)]}


@pytest.fixture(params=["http", "https"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Without TLS and with it."""
    return str(request.param)


class Programs:
    """What either library's programs have to do alike; each file has a subclass that says how they are written."""

    patch: str
    """The statements that patch the standard library."""

    concurrent: str
    """Twenty calls at once, each of which comes to "together"."""

    @patched
    def test_calls_work(self, scheme: str, tmp_path: Path, when: str) -> None:
        """Whenever the patch is made, answers come, and a connection is used again."""
        with serving(scheme, tmp_path) as (server, ca_file):
            run_program(when + TWO_CALLS, self.patch, server.url, ca_file)
            # The connection of a call before the patch is another kind of socket; it may be used again, or not.
            assert server.connections == 1 or ("c = client()" in when and server.connections == 2)

    def test_a_connection_that_ended_is_replaced(self, scheme: str, tmp_path: Path) -> None:
        """A server that closes after each answer costs no call and no wait."""
        with serving(scheme, tmp_path, faults=[Fault.slow_close(0.01)]) as (server, ca_file):
            run_program(A_LOST_CONNECTION, self.patch, server.url, ca_file)
            assert len(server.requests) == 5

    def test_names_are_looked_up(self, scheme: str, tmp_path: Path) -> None:
        """By the library's own resolver."""
        with serving(scheme, tmp_path) as (server, ca_file):
            run_program(A_NAME, self.patch, server.url, ca_file)

    @pytest.mark.parametrize(
        ("fault", "phase"), [(Fault.timeout(), "headers"), (Fault.timeout(after=1), "read")], ids=["head", "body"]
    )
    def test_limits_hold(self, scheme: str, tmp_path: Path, fault: Fault, phase: str) -> None:
        """A silent server is given up when `read` has passed."""
        with serving(scheme, tmp_path, faults=[fault]) as (server, ca_file):
            run_program(LIMITS.replace("PHASE", repr(phase)) + NOTHING_LEFT, self.patch, server.url, ca_file)

    @pytest.mark.parametrize("place", ["head", "body"])
    def test_a_call_is_stopped(self, scheme: str, tmp_path: Path, place: str, how: str) -> None:
        """At once, without another attempt, with its connection closed; the next call works."""
        cancelled_in_head = "cancel" in how and place == "head"
        protocol = "openai" if cancelled_in_head else "web"
        program = STOP.replace("PROTOCOL", repr(protocol)).replace("HOW", textwrap.indent(how, "    "))
        with serving(scheme, tmp_path, **stuck_in("second head" if cancelled_in_head else place)) as (server, ca_file):
            run_program(program + NOTHING_LEFT + AGAIN, self.patch, server.url, ca_file)
            assert len(server.requests) == (3 if cancelled_in_head else 2)

    def test_greenlets_ask_at_the_same_time(self, scheme: str, tmp_path: Path) -> None:
        """Twenty calls overlap: each is answered only when all have been asked."""
        with serving(scheme, tmp_path, Gate(20)) as (server, ca_file):
            run_program(self.concurrent, self.patch, server.url, ca_file)
