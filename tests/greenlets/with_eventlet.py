"""Programs of eventlet: patched before or after the import, and stopped in eventlet's ways."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest
from greenlets.jobs import (
    A_LOST_CONNECTION,
    A_NAME,
    AGAIN,
    LIMITS,
    NOTHING_LEFT,
    STOP,
    TWO_CALLS,
    Gate,
    patched,
    run_program,
    scheme,
    serving,
    stuck_in,
)

from chatanywhere.testing import Fault

__all__ = ["scheme"]  # a fixture

PATCH = "import eventlet, greenlet; eventlet.monkey_patch()"

phases = pytest.mark.parametrize(
    ("fault", "phase"), [(Fault.timeout(), "headers"), (Fault.timeout(after=1), "read")], ids=["head", "body"]
)


@patched
def test_calls_work(scheme: str, tmp_path: Path, when: str) -> None:
    """Whenever the patch is made, answers come, and a connection is used again."""
    with serving(scheme, tmp_path) as (server, ca_file):
        run_program(when + TWO_CALLS, PATCH, server.url, ca_file)
        # The connection of a call before the patch is another kind of socket; it may be used again, or not.
        assert server.connections == 1 or ("c = client()" in when and server.connections == 2)


def test_a_connection_that_ended_is_replaced(scheme: str, tmp_path: Path) -> None:
    """A server that closes after each answer costs no call and no wait."""
    with serving(scheme, tmp_path, faults=[Fault.slow_close(0.01)]) as (server, ca_file):
        run_program(A_LOST_CONNECTION, PATCH, server.url, ca_file)
        assert len(server.requests) == 5


def test_names_are_looked_up(scheme: str, tmp_path: Path) -> None:
    """By eventlet's own resolver."""
    with serving(scheme, tmp_path) as (server, ca_file):
        run_program(A_NAME, PATCH, server.url, ca_file)


@phases
def test_limits_hold(scheme: str, tmp_path: Path, fault: Fault, phase: str) -> None:
    """A silent server is given up when `read` has passed."""
    with serving(scheme, tmp_path, faults=[fault]) as (server, ca_file):
        run_program(LIMITS.replace("PHASE", repr(phase)) + NOTHING_LEFT, PATCH, server.url, ca_file)


STOPS = {
    "Timeout": """
timeout = eventlet.Timeout(0.3)
try:
    ask()
except eventlet.Timeout as caught:
    assert caught is timeout
else:
    raise AssertionError("not stopped")
""",
    "Timeout as a block": """
with eventlet.Timeout(0.3, False):
    ask()
    raise AssertionError("not stopped")
""",
    "kill": """
job = eventlet.spawn(ask)
eventlet.sleep(0.3)
eventlet.kill(job)
try:
    job.wait()
except greenlet.GreenletExit:
    pass
assert job.dead
""",
    "cancel": """
job = eventlet.spawn(outcome)
eventlet.sleep(0.5)
streams[0].cancel()
error = job.wait()
assert isinstance(error, StreamCancelledError)
assert error.partial == "".join(pieces)
""",
}


@pytest.mark.parametrize("place", ["head", "body"])
@pytest.mark.parametrize("how", STOPS.values(), ids=STOPS.keys())
def test_a_call_is_stopped(scheme: str, tmp_path: Path, place: str, how: str) -> None:
    """At once, without another attempt, with its connection closed; the next call works."""
    cancelled_in_head = "cancel" in how and place == "head"
    protocol = "openai" if cancelled_in_head else "web"
    program = STOP.replace("PROTOCOL", repr(protocol)).replace("HOW", textwrap.indent(how, "    "))
    with serving(scheme, tmp_path, **stuck_in("second head" if cancelled_in_head else place)) as (server, ca_file):
        run_program(program + NOTHING_LEFT + AGAIN, PATCH, server.url, ca_file)
        assert len(server.requests) == (3 if cancelled_in_head else 2)


CONCURRENT = """
PATCH
c = client()
jobs = [eventlet.spawn(lambda: c.complete("Hello").text) for _ in range(20)]
with within(20):
    texts = [job.wait() for job in jobs]
assert texts == ["together"] * 20, texts
"""


def test_greenlets_ask_at_the_same_time(scheme: str, tmp_path: Path) -> None:
    """Twenty calls overlap: each is answered only when all have been asked."""
    with serving(scheme, tmp_path, Gate(20)) as (server, ca_file):
        run_program(CONCURRENT, PATCH, server.url, ca_file)
