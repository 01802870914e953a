"""The command, in this process and in others, with a history of its own."""

from __future__ import annotations

import io
import logging
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import chatanywhere
from chatanywhere.cli import main
from chatanywhere.testing import LoopbackServer

ROOT = Path(chatanywhere.__file__).parents[1]
TIMEOUT = 60.0  # seconds; reached only when something hangs


class Done(NamedTuple):
    """A command that has ended."""

    code: int
    out: str
    err: str


class Command:
    """Runs `chatanywhere`.

    Attributes:
        database: where its history is.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path) -> None:
        self.database = folder / "data" / "history.sqlite3"
        self._monkeypatch = monkeypatch
        self._capture = capfd

    def at(self, server: LoopbackServer) -> Command:
        """Ask this server from now on."""
        self._monkeypatch.setenv("CHATANYWHERE_BASE_URL", server.url)
        return self

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Done:
        """Run it in this process."""
        self._monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        self._capture.readouterr()
        try:
            code = main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
        return Done(code, *self._capture.readouterr())

    def start(self, *arguments: str | bytes, **pipes: Any) -> subprocess.Popen[bytes]:
        """Run it in a process of its own."""
        command = [sys.executable, "-W", "error", "-m", "chatanywhere", *arguments]
        whole = {
            "cwd": ROOT,
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **pipes,
        }
        return subprocess.Popen(command, **whole)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the database."""
        with sqlite3.connect(self.database) as database:
            found = database.execute(query).fetchall()
        database.close()
        return found

    def answers(self) -> list[tuple[str, str]]:
        """The texts and statuses of all answers in the database, oldest first."""
        return self.rows("SELECT content, status FROM messages WHERE role = 'assistant' ORDER BY id")


@pytest.fixture
def command(
    clean_environment: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Command:
    """The command, with a key, and a history in a folder of the test's."""
    found = Command(monkeypatch, capfd, tmp_path)
    for name, value in {
        "CHATANYWHERE_API_KEY": "sk-0123456789abcdefghij",
        "CHATANYWHERE_HISTORY": str(found.database),
        "CHATANYWHERE_BASE_URL": "http://127.0.0.1:9",
        "NO_PROXY": "127.0.0.1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
    }.items():
        monkeypatch.setenv(name, value)
    return found


@pytest.fixture(autouse=True)
def restored_log() -> Iterator[None]:
    """The command `serve`, called in this process, leaves the server's log on."""
    yield
    logging.getLogger(LoopbackServer.__module__).setLevel(logging.WARNING)


@pytest.fixture(autouse=True)
def hangup() -> Iterator[None]:
    """Processes inherit what is ignored, which SIGHUP is where the tests are run under nohup."""
    if not hasattr(signal, "SIGHUP"):  # Windows
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
