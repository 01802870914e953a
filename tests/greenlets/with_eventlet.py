"""Programs of eventlet: patched before or after the import, and stopped in eventlet's ways."""

from __future__ import annotations

import pytest
from greenlets.jobs import Programs, scheme

__all__ = ["scheme"]  # a fixture

PATCH = "import eventlet, greenlet; eventlet.monkey_patch()"

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


CONCURRENT = """
PATCH
c = client()
jobs = [eventlet.spawn(lambda: c.complete("Hello").text) for _ in range(20)]
with within(20):
    texts = [job.wait() for job in jobs]
assert texts == ["together"] * 20, texts
"""


@pytest.fixture(params=STOPS.values(), ids=STOPS.keys())
def how(request: pytest.FixtureRequest) -> str:
    """How a call is stopped."""
    return str(request.param)


class TestEventlet(Programs):
    patch = PATCH
    concurrent = CONCURRENT
