"""Runs the notebooks of the examples in kernels of their own."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))
TIMEOUT = 60  # seconds for a cell; reached only when something hangs


def executed(path: Path) -> list[list[str]]:
    """Run a notebook from its first cell to its last, and return what each cell shows, as Markdown or as text."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook, timeout=TIMEOUT, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    nbformat.validate(notebook)
    return [[_text(output) for output in cell.outputs] for cell in notebook.cells if cell.cell_type == "code"]


def _text(output: nbformat.NotebookNode) -> str:
    if output.output_type == "stream":
        return str(output.text)
    return str(output.data.get("text/markdown") or output.data.get("text/html") or output.data["text/plain"])
