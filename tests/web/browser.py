"""Runs the web programs of the examples under their servers, and is the browser that asks them.

The files `with_….py` are no part of the suite: `nox -s web` installs what they need. None of their tests may be
skipped.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import psutil
from greenlets.jobs import Gate

from chatanywhere.testing import Fault, LoopbackServer

EXAMPLES = Path(__file__).parents[2] / "examples" / "web"
TIMEOUT = 20.0  # seconds; reached only when something hangs
SOON = 1.0  # seconds in which a call ends whose browser has gone

DRIP = [f"{number} " for number in range(2000)]
"""A reply that goes on, at a delay of 0.05 seconds, for much longer than any test."""


class WebServer:
    """A web server that runs an example in a process of its own.

    Args:
        command: to be run as a module of Python.
        upstream: what the example takes for the service.

    Attributes:
        port: where it listens.
        log: the lines that it has written.
    """

    def __init__(self, command: list[str], upstream: LoopbackServer) -> None:
        environment = {
            **os.environ,
            "CHATANYWHERE_API_KEY": "any",
            "CHATANYWHERE_BASE_URL": upstream.url,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        }
        self.log: list[str] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment, stderr=subprocess.PIPE, encoding="utf-8"
        )
        self._limit = threading.Timer(3 * TIMEOUT, self.process.kill)
        self._limit.start()
        assert self.process.stderr
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"(?:Listening at|running on):? http://127\.0\.0\.1:(\d+)", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError("".join(self.log))
        self._reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,))
        self._reader.start()

    def stop(self) -> float:
        """End it as an administrator does; return how many seconds it took."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(TIMEOUT)
        return time.monotonic() - start

    def close(self) -> None:
        self._limit.cancel()
        self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stderr
        self.process.stderr.close()


@contextlib.contextmanager
def running(command: list[str], upstream: LoopbackServer) -> Iterator[WebServer]:
    """Run an example, and end it."""
    server = WebServer(command, upstream)
    try:
        yield server
        server.stop()
    finally:
        server.close()


class Browser:
    """One question, and the events that answer it."""

    def __init__(self, port: int, path: str = "/ask?" + urlencode({"question": "你好, count!"})) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        self._connection.request("GET", path)
        self.response = self._connection.getresponse()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def events(self) -> Iterator[tuple[str, str]]:
        """Yield the kind and the data of each event as it comes."""
        kind = "message"
        while line := self.response.readline().decode():
            name, _, value = line.rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "data":
                yield kind, json.loads(value)
                kind = "message"

    def read(self, pieces: int) -> str:
        """Return so many pieces of the answer, of which some may have come in one event, or more."""
        text = ""
        for _, more in self.events():
            text += more
            if text.count(" ") >= pieces:
                break
        return text

    def leave(self) -> None:
        """Go away."""
        self.response.close()
        self._connection.close()


def ask(port: int) -> str:
    """Return the whole answer."""
    with Browser(port) as browser:
        return "".join(text for _, text in browser.events())


def calls(upstream: LoopbackServer) -> int:
    """How many connections to what is taken for the service are open at both ends."""
    port = int(upstream.url.rpartition(":")[2])
    found = psutil.Process().net_connections("tcp4")
    return sum(each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED for each in found)


def begins(upstream: LoopbackServer) -> bool:
    """Whether a call comes."""
    end = time.monotonic() + TIMEOUT
    while not calls(upstream) and time.monotonic() < end:
        time.sleep(0.01)
    return bool(calls(upstream))


def ends(upstream: LoopbackServer, seconds: float) -> bool:
    """Whether all calls end within some seconds."""
    end = time.monotonic() + seconds
    while calls(upstream) and time.monotonic() < end:
        time.sleep(0.01)
    return not calls(upstream)


class WebProgram:
    """What every example does, under any server. `command` has the server's arguments after `--bind`."""

    program: str
    early_failure: tuple[int, str]
    """The status, and what the browser shows, where there was no answer at all."""

    def test_the_page_is_there(self, command: list[str]) -> None:
        """The form asks where the answers are."""
        with LoopbackServer() as upstream, running(command, upstream) as server, Browser(server.port, "/") as browser:
            page = browser.response.read().decode()
        assert browser.response.status == 200
        assert 'new EventSource("/ask?"' in page

    def test_an_answer_comes_as_it_is_made(self, command: list[str]) -> None:
        """The browser has the first pieces while the model still writes."""
        with (
            LoopbackServer(lambda _: DRIP, delay=0.05) as upstream,
            running(command, upstream) as server,
            Browser(server.port) as browser,
        ):
            assert "".join(DRIP[:20]).startswith(browser.read(3))
            assert calls(upstream) == 1
        assert browser.response.headers["Content-Type"].startswith("text/event-stream")
        assert upstream.requests[0].text == "你好, count!"

    def test_an_answer_ends(self, command: list[str]) -> None:
        """All of its text arrives, then the event that lets the page close the connection."""
        with (
            LoopbackServer(['Line\nand "line", 你好']) as upstream,
            running(command, upstream) as server,
            Browser(server.port) as browser,
        ):
            *events, last = browser.events()
        assert "".join(text for _, text in events) == 'Line\nand "line", 你好'
        assert last == ("end", "")
        assert "Traceback" not in "".join(server.log)

    def test_a_browser_that_goes_away_ends_the_call(self, command: list[str]) -> None:
        """The connection to the service is closed within a second, each time, and no error is logged."""
        with LoopbackServer(lambda _: DRIP, delay=0.05) as upstream, running(command, upstream) as server:
            for _ in range(3):
                with Browser(server.port) as browser:
                    browser.read(1)
                assert ends(upstream, SOON)
        assert "Traceback" not in "".join(server.log)

    def test_an_answer_that_breaks_off_is_told(self, command: list[str]) -> None:
        """The text that had come stays, and the browser is told in words; why is in the log."""
        fault = Fault.limit_data(0, after=3)
        with (
            LoopbackServer(lambda _: DRIP, faults=[fault]) as upstream,
            running(command, upstream) as server,
            Browser(server.port) as browser,
        ):
            *events, last = browser.events()
        assert "".join(text for _, text in events) == "".join(DRIP[:3])
        assert last == ("end", " [the answer broke off]")
        assert "StreamInterruptedError" in "".join(server.log)

    def test_no_answer_is_told(self, command: list[str]) -> None:
        """A refusal of the service's is told, without its words, which are in the log."""
        with (
            LoopbackServer(faults=[Fault.status(401, "wrong api key")]) as upstream,
            running(command, upstream) as server,
            Browser(server.port) as browser,
        ):
            assert (browser.response.status, browser.response.read().decode()) == self.early_failure
        assert "wrong api key" in "".join(server.log)

    def test_answers_overlap(self, command: list[str]) -> None:
        """Eight browsers are answered at the same time."""
        with (
            LoopbackServer(Gate(8)) as upstream,
            running(command, upstream) as server,
            ThreadPoolExecutor(8) as threads,
        ):
            assert list(threads.map(ask, [server.port] * 8)) == ["together"] * 8
        assert "Traceback" not in "".join(server.log)

    def test_the_server_can_be_stopped_while_it_answers(self, command: list[str]) -> None:
        """It waits for as long as it was told to, a second here; then the call ends with it."""
        with (
            LoopbackServer(lambda _: DRIP, delay=0.05) as upstream,
            running(command, upstream) as server,
            Browser(server.port) as browser,
        ):
            browser.read(1)
            assert server.stop() < 5
            assert ends(upstream, SOON)
