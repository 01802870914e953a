"""Programs of gevent: patched before or after the import, stopped in gevent's ways, and as gunicorn's workers."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from greenlets.jobs import PATCHED, Gate, Programs, run_program, scheme, serving

from chatanywhere.testing import Fault, Request

__all__ = ["scheme"]  # a fixture

PATCH = "import gevent; from gevent import monkey; monkey.patch_all()"

STOPS = {
    "Timeout": """
timeout = gevent.Timeout(0.3)
timeout.start()
try:
    ask()
except gevent.Timeout as caught:
    assert caught is timeout
else:
    raise AssertionError("not stopped")
""",
    "Timeout as a block": """
with gevent.Timeout(0.3, False):
    ask()
    raise AssertionError("not stopped")
""",
    "kill": """
job = gevent.spawn(ask)
gevent.sleep(0.3)
job.kill()
assert job.dead and job.successful() and isinstance(job.value, gevent.GreenletExit), job
""",
    "cancel": """
job = gevent.spawn(outcome)
gevent.sleep(0.5)
streams[0].cancel()
error = job.get()
assert isinstance(error, StreamCancelledError)
assert error.partial == "".join(pieces)
""",
    "cancel from a thread": """
job = gevent.spawn(outcome)
gevent.sleep(0.5)
gevent.get_hub().threadpool.spawn(streams[0].cancel)
error = job.get()
assert isinstance(error, StreamCancelledError)
assert error.partial == "".join(pieces)
""",
}


CONCURRENT = """
PATCH
c = client()
jobs = [gevent.spawn(lambda: c.complete("Hello").text) for _ in range(20)]
gevent.joinall(jobs, timeout=20)
assert [job.value for job in jobs] == ["together"] * 20, [job.value or job.exception for job in jobs]
"""


@pytest.fixture(params=STOPS.values(), ids=STOPS.keys())
def how(request: pytest.FixtureRequest) -> str:
    """How a call is stopped."""
    return str(request.param)


class TestGevent(Programs):
    patch = PATCH
    concurrent = CONCURRENT


BATCH = """
PATCH
import gevent, os, tempfile
from chatanywhere import Client
turns = []

def count():
    while True:
        turns.append(1)
        gevent.sleep(0.01)

gevent.spawn(count)
with tempfile.TemporaryDirectory() as folder:
    options = {"journal": folder + "/run.sqlite", "concurrency": 20}
    for again in (False, True):
        results = list(client().map([str(number) for number in range(60)], **options))
        assert [(result.text, result.from_journal) for result in results] == [("one two", again)] * 60
    assert len(turns) > 5
    with gevent.Timeout(0.5, False), within(2):
        list(client().map(["slow"] * 30, **options))
    assert os.listdir(folder) == ["run.sqlite"]  # it is closed, and not locked
"""


@pytest.mark.parametrize("when", PATCHED.values(), ids=PATCHED.keys())
def test_a_batch_is_made_by_greenlets(when: str, tmp_path: Path) -> None:
    """Its threads are some, the hub goes on meanwhile, and a Timeout of gevent's ends it and frees the journal."""

    def reply(request: Request) -> Any:
        return Fault.latency(30.0, after=50) if request.text == "slow" else ["one ", "two"]

    with serving("http", tmp_path, reply) as (server, ca_file):
        server.faults = [Fault.latency(0.05, at="head")]
        run_program(BATCH.replace("PATCH\n", when), PATCH, server.url, ca_file)


# gunicorn ---------------------------------------------------------------------------------------------------------

APP = """
import os
from chatanywhere import Client

client = Client("test-key", base_url=os.environ["URL"], protocol="web", verify=os.environ["CA"], proxy="", retry=None)

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    with client.stream("Hello") as stream:
        for piece in stream:
            yield piece.encode()
"""


@contextlib.contextmanager
def gunicorn(folder: Path, url: str, ca_file: Path, *options: str) -> Iterator[int]:
    """Run the app with one worker; return the port."""
    (folder / "app.py").write_text(APP)
    command = [sys.executable, "-m", "gunicorn", "-k", "gevent", "-w", "1", "-b", "127.0.0.1:0", *options, "app:app"]
    paths = os.pathsep.join([str(folder), *sys.path])
    environment = {**os.environ, "URL": url, "CA": str(ca_file), "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
    try:
        end = time.monotonic() + 20
        while "Booting worker" not in log.read_text() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)
        listening = re.search(r"Listening at: http://127\.0\.0\.1:(\d+)", log.read_text())
        assert listening is not None, log.read_text()
        yield int(listening[1])
    finally:
        process.terminate()
        process.wait(20)
    assert "Traceback" not in log.read_text(), log.read_text()


def get(port: int) -> str:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    with contextlib.closing(connection):
        connection.request("GET", "/")
        return connection.getresponse().read().decode()


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["import in the worker", "preload"])
def test_a_worker_of_gunicorn_asks(scheme: str, tmp_path: Path, options: tuple[str, ...]) -> None:
    """With --preload the app, and its client, are there before the worker patches; ten calls overlap."""
    with (
        serving(scheme, tmp_path, Gate(10)) as (server, ca_file),
        gunicorn(tmp_path, server.url, ca_file, *options) as port,
        concurrent.futures.ThreadPoolExecutor(10) as threads,
    ):
        assert list(threads.map(get, [port] * 10)) == ["together"] * 10
