"""Fixtures, and what a run of the tests says at its end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import trustme
from faces import Face
from raw_server import RawServer, has_unread_bytes

from chatanywhere.testing.writer import ResponseWriter

pytest_plugins = ["coverage_gate"]

hypothesis.settings.register_profile("thorough", deadline=None)  # the machines are noisy
hypothesis.settings.register_profile("quick", deadline=None, max_examples=50)
hypothesis.settings.load_profile("quick")


def pytest_configure() -> None:
    """Let the children of tests end on Ctrl-C also where a shell that runs the tests in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def raw_server() -> Iterator[RawServer]:
    """A server that sends exactly the bytes it is told to."""
    server = RawServer()
    try:
        yield server
    finally:
        server.close()


@pytest.fixture
def full_port() -> Iterator[int]:
    """A port whose queue of connections is full: another one is neither accepted nor refused."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def pieces_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loopback servers wait with a piece until the one before has been read, so that no two are read as one."""
    pause = ResponseWriter.wait

    def wait(writer: ResponseWriter, seconds: float) -> None:
        while has_unread_bytes(writer.connection) and not writer.closing.wait(0.001):
            pass
        pause(writer, seconds)

    monkeypatch.setattr(ResponseWriter, "wait", wait)


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A throw-away certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its certificate, as a file."""
    path = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


@pytest.fixture(scope="session")
def tls_context(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context with a certificate for 127.0.0.1."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is at the mercy of the keys, URLs and proxies of the machine it runs on."""
    for name in list(os.environ):
        if name.startswith(("CHATANYWHERE_", "OPENAI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(params=["sync", "asyncio", "trio"])
def face(request: pytest.FixtureRequest) -> Face:
    """Each of the ways to make a call."""
    return Face(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """List the cells of the fault matrix that passed, and how fast async calls stopped."""
    properties = [pair for report in terminalreporter.stats.get("passed", []) for pair in report.user_properties]
    cells = Counter(value for name, value in properties if name == "cell")
    if cells:
        terminalreporter.section(f"fault matrix: {sum(cells.values())} cells passed")
        for cell, count in sorted(cells.items()):
            terminalreporter.write_line(f"{cell:56} {count} of 3 faces")
    latencies = [value for name, value in properties if name == "latency"]
    if latencies:
        terminalreporter.section("async calls told to stop: ms until the task goes on, ms until all is clean")
        for phase in dict.fromkeys(phase for phase, _, _ in latencies):
            gone_on = sorted(1000 * gone_on for name, gone_on, _ in latencies if name == phase)
            clean = sorted(1000 * clean for name, _, clean in latencies if name == phase)
            middle = len(clean) // 2
            terminalreporter.write_line(
                f"{phase:20} median {gone_on[middle]:5.1f}, {clean[middle]:5.1f}   "
                f"worst of {len(clean)} {gone_on[-1]:5.1f}, {clean[-1]:5.1f}"
            )
