"""The examples for Flask and Django under gunicorn, with its workers of threads and of gevent."""

from __future__ import annotations

import time

import pytest
from web.browser import DRIP, EXAMPLES, SOON, Browser, WebProgram, ask, calls, ends, running

from chatanywhere.testing import Fault, LoopbackServer

WORKERS = {"gthread": ["gthread", "--threads", "8"], "gevent": ["gevent"]}


def gunicorn(program: str, worker: str, *options: str) -> list[str]:
    where = ["--chdir", str(EXAMPLES), "--bind", "127.0.0.1:0", "--graceful-timeout", "1"]
    return ["gunicorn", *where, "--worker-class", *WORKERS[worker], *options, program]


@pytest.fixture(params=WORKERS)
def worker(request: pytest.FixtureRequest) -> str:
    """The kind of worker."""
    return str(request.param)


class UnderGunicorn(WebProgram):
    early_failure = (502, "The model can't be reached.")

    @pytest.fixture
    def command(self, worker: str) -> list[str]:
        """How the example is run."""
        return gunicorn(self.program, worker)

    def test_a_client_from_before_the_fork_serves_all_processes(self, worker: str) -> None:
        """With `--preload` the client is made once, and two processes use it."""
        with (
            LoopbackServer(lambda _: "Hello!") as upstream,
            running(gunicorn(self.program, worker, "--preload", "--workers", "2"), upstream) as server,
        ):
            assert {ask(server.port) for _ in range(10)} == {"Hello!"}
        assert "Traceback" not in "".join(server.log)


class TestFlask(UnderGunicorn):
    program = "flask_app:app"

    def test_a_browser_that_leaves_a_silent_model_ends_the_call(self, command: list[str]) -> None:
        """What is written while the model thinks finds out that nobody reads it."""
        with (
            LoopbackServer(lambda _: DRIP, faults=[Fault.timeout(after=3)]) as upstream,
            running(command, upstream) as server,
        ):
            with Browser(server.port) as browser:
                browser.read(3)
            assert ends(upstream, SOON)


class TestDjango(UnderGunicorn):
    program = "django_app:application"

    def test_nobody_learns_that_a_browser_has_left_while_the_model_is_silent(self, command: list[str]) -> None:
        """As the documents say: the call goes on while nothing is written, and ends soon after the model goes on."""
        silence = Fault.latency(2.0, at="piece", after=3)
        with (
            LoopbackServer(lambda _: DRIP, delay=0.05, faults=[silence]) as upstream,
            running(command, upstream) as server,
        ):
            with Browser(server.port) as browser:
                browser.read(3)
            began = time.monotonic()
            assert not ends(upstream, 1.5)
            assert calls(upstream) == 1
            assert ends(upstream, began + 2.0 + SOON - time.monotonic())
