"""IPython in this process, with outputs that are kept, and a history of conversations of its own."""

from __future__ import annotations

import os
import sqlite3
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import IPython
import pytest
from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

import chatanywhere
from chatanywhere.testing import LoopbackServer


class KeepingPublisher(DisplayPublisher):
    """Keeps what a front end would be sent: when, what, and whether it takes the place of another output."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.kept: list[tuple[float, dict[str, str], bool]] = []

    def publish(self, data: dict[str, str], *_: Any, update: bool = False, **__: Any) -> None:  # type: ignore[override]
        self.kept.append((time.monotonic(), data, update))


class Notebook:
    """Runs cells.

    Attributes:
        database: where conversations are stored.
    """

    def __init__(self, shell: InteractiveShell, database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.shell = shell
        self.database = database
        self._monkeypatch = monkeypatch

    def at(self, server: LoopbackServer) -> Notebook:
        """Ask this server from now on."""
        self._monkeypatch.setenv("CHATANYWHERE_BASE_URL", server.url)
        return self

    def __call__(self, cell: str) -> BaseException | None:
        """Run a cell, and return the error that it ended with."""
        result = self.shell.run_cell(cell)
        return result.error_before_exec or result.error_in_exec

    @property
    def outputs(self) -> list[dict[str, str]]:
        """What is shown: outputs as their last updates left them."""
        shown: list[dict[str, str]] = []
        for _, data, update in self.shell.display_pub.kept:
            if update:
                shown.pop()
            shown.append(data)
        return shown

    @property
    def markdown(self) -> list[str]:
        """The Markdown of what is shown."""
        return [data["text/markdown"] for data in self.outputs if "text/markdown" in data]

    def answers(self) -> list[tuple[str, str]]:
        """The texts and statuses of all answers that are stored, oldest first."""
        query = "SELECT content, status FROM messages WHERE role = 'assistant' ORDER BY id"
        with sqlite3.connect(self.database) as database:
            found = database.execute(query).fetchall()
        database.close()
        return found

    def conversations(self) -> list[str]:
        """The ids of all conversations that are stored, oldest first."""
        with sqlite3.connect(self.database) as database:
            found = database.execute("SELECT id FROM conversations ORDER BY rowid").fetchall()
        database.close()
        return [row[0] for row in found]


@pytest.fixture
def database(clean_environment: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where conversations are stored; processes that are started store them there, too."""
    path = tmp_path / "history.sqlite3"
    monkeypatch.setenv("CHATANYWHERE_HISTORY", str(path))
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "any-key")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    return path


@pytest.fixture
def jupyter(database: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Kernels import this package, write their files into a folder of the test's, and need no proxy."""
    paths = [str(Path(chatanywhere.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR"):
        monkeypatch.setenv(f"JUPYTER_{name}", str(tmp_path / "jupyter" / name.lower()))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def terminal(database: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    """IPython that prints what it shows, with the extension loaded."""
    plain = "nocolor" if IPython.version_info[0] >= 9 else "NoColor"
    settings = Config(HistoryManager={"enabled": False}, InteractiveShell={"colors": plain})
    # Not as the module __main__, which pytest's workers have.
    shell = InteractiveShell.instance(config=settings, user_module=types.ModuleType("cells"))
    try:
        notebook = Notebook(shell, database, monkeypatch)
        assert notebook("%load_ext chatanywhere") is None
        yield notebook
        magics = shell.magics_manager.registry["ChatMagics"]
        if magics._talk is not None:
            magics._talk.close()
    finally:
        shell.restore_sys_module_state()
        InteractiveShell.clear_instance()


@pytest.fixture
def notebook(terminal: Notebook) -> Notebook:
    """The same, as a notebook's front end has it."""
    terminal.shell.display_pub = KeepingPublisher(parent=terminal.shell)
    return terminal
