"""`%%chat` in a kernel, as Jupyter runs it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from chatanywhere.testing import Fault, LoopbackServer, Reply

from .running import EXAMPLES, TIMEOUT, executed

# What Jupyter's libraries warn of is not ours to mend.
pytestmark = [pytest.mark.usefixtures("jupyter"), pytest.mark.filterwarnings("default")]


class Kernel:
    """A kernel, and what it sends."""

    def __init__(self, manager: KernelManager, client: BlockingKernelClient) -> None:
        self.manager = manager
        self.client = client

    def start(self, code: str) -> str:
        """Send a cell."""
        return str(self.client.execute(code))

    def messages(self, cell: str) -> Iterator[tuple[str, Any]]:
        """Yield what comes of a cell, until it has ended."""
        while True:
            message = self.client.get_iopub_msg(timeout=TIMEOUT)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return
            yield kind, content

    def run(self, code: str) -> list[tuple[str, Any]]:
        """Run a cell, and return what it shows."""
        shown = self.messages(self.start(code))
        return [(kind, content) for kind, content in shown if kind not in ("status", "execute_input")]


@pytest.fixture
def kernel(jupyter: None) -> Iterator[Kernel]:
    """A kernel with the extension loaded."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel()
    client = manager.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        found = Kernel(manager, client)
        assert found.run("%load_ext chatanywhere") == []
        yield found
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_a_cell_is_run_stopped_and_gone_on_with(kernel: Kernel) -> None:
    """While the event loop of the kernel runs: one output grows, Stop keeps it, and a new kernel goes on with it."""
    pieces = ["One ", "two <b> ", "three"]
    with LoopbackServer([Reply(pieces=pieces), Reply(pieces=pieces), "<b> three."], delay=0.2) as server:
        kernel.run(f"import os; os.environ['CHATANYWHERE_BASE_URL'] = {server.url!r}")
        first, *updates = kernel.run("%%chat\nCount {x}")
        assert first[0] == "display_data"
        assert first[1]["data"] == {"text/markdown": "One ", "text/plain": "One "}
        assert {kind for kind, _ in updates} == {"update_display_data"}
        assert {content["transient"]["display_id"] for _, content in [first, *updates]} == {
            first[1]["transient"]["display_id"]
        }
        assert updates[-1][1]["data"]["text/markdown"] == "One two &lt;b> three"
        assert server.requests[0].text == "Count {x}"

        reply = kernel.client.execute_interactive("%chat -v nobody Hi", timeout=TIMEOUT)
        assert reply["content"]["status"] == "error"  # by which "Run all" stops
        assert len(server.requests) == 1

        server.faults = [Fault.timeout(after=2)]
        shown = kernel.messages(kernel.start("%chat --new Count?"))
        seen = []
        for kind, content in shown:
            seen.append((kind, content))
            if content.get("data", {}).get("text/plain") == "One two <b> ":
                kernel.manager.interrupt_kernel()
                break
        began = time.monotonic()
        seen += shown
        assert time.monotonic() - began < 5
        kind, error = seen[-1]
        assert (kind, error["ename"]) == ("error", "KeyboardInterrupt")
        assert error["traceback"] == ["KeyboardInterrupt: the answer was stopped; `%chat --resume` goes on with it"]

        server.faults = []
        kernel.manager.restart_kernel(now=True)
        kernel.client.wait_for_ready(timeout=TIMEOUT)
        from chatanywhere._store import Store

        with Store(Path(os.environ["CHATANYWHERE_HISTORY"])) as store:
            conversation = store.last()
        assert conversation is not None
        kernel.run(f"import os; os.environ['CHATANYWHERE_BASE_URL'] = {server.url!r}\n%load_ext chatanywhere")
        last = kernel.run(f"%chat --id {conversation.id} --resume")[-1]
        assert last[1]["data"]["text/plain"] == "One two <b> three."


def test_the_first_notebook_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The quick start of the examples needs neither a key nor a network; `nox -s notebooks` runs the others."""
    monkeypatch.delenv("CHATANYWHERE_API_KEY")
    (path,) = [path for path in EXAMPLES if path.stem == "quick_start"]
    shown = executed(path)
    assert ["Your name is Alan: you told me in message 1."] in shown


def test_run_all_stops_at_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes behind a cell that failed is not run, and the saved notebook has what came, and why it ended."""
    with LoopbackServer([Reply(pieces=["One ", "two"])], faults=[Fault.no_done(after=1)]) as server:
        monkeypatch.setenv("CHATANYWHERE_BASE_URL", server.url)
        cells = [nbformat.v4.new_code_cell(each) for each in ["%load_ext chatanywhere", "%%chat\nHi", "print('never')"]]
        notebook = nbformat.v4.new_notebook(cells=cells)
        with pytest.raises(CellExecutionError):
            NotebookClient(notebook, timeout=TIMEOUT, kernel_name="python3").execute()
    assert notebook.cells[2].outputs == []
    outputs = notebook.cells[1].outputs
    assert outputs[0].data == {"text/markdown": "One ", "text/plain": "One "}
    assert len(outputs[1].traceback) == 1
    assert outputs[1].traceback[0].startswith("StreamInterruptedError: the answer was cut: ")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_notebooks_are_kept_without_outputs(path: Path) -> None:
    """So a change of one shows what was changed, and nothing in it is out of date."""
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert all(not cell.outputs and cell.execution_count is None for cell in code)
