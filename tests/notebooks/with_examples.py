"""The notebooks of the examples, and variables that are pandas'."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from chatanywhere.testing import LoopbackServer

from .conftest import Notebook
from .running import EXAMPLES, executed

SHOWN: dict[str, list[str]] = {
    "asynchronous": ["What is a tuple?", "cancelled"],
    "compare_models": ["I am *deepseek-chat*, and this is &lt;my&gt; answer."],
    "label_a_dataframe": ["<td>It broke on the first day.</td>\n      <td>bad</td>", "The **kettle**."],
    "quick_start": ["Your name is Alan: you told me in message 1.", "APIConnectionError: no connection to 127.0.0.1:9"],
}
"""What can be read in each."""


@pytest.mark.usefixtures("jupyter")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_a_notebook_runs_without_a_key_and_a_network(
    path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its first cell to its last, as "Run all" does it; and it leaves nothing in the history."""
    monkeypatch.delenv("CHATANYWHERE_API_KEY")
    shown = "\n".join("".join(cell) for cell in executed(path))
    assert all(each in shown for each in SHOWN[path.stem])
    assert not database.exists()


FRAME = pd.DataFrame({"name": ["Ada", "天气"], "value": [1.5, None]})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (FRAME, "  name  value\n0  Ada    1.5\n1   天气    NaN\n\n[2 rows x 2 columns]"),
        (FRAME["name"], "  name\n0  Ada\n1   天气\n\n[2 rows x 1 columns]"),
        (pd.DataFrame(), "Empty DataFrame\nColumns: []\nIndex: []"),
    ],
    ids=["frame", "series", "empty"],
)
def test_a_dataframe_is_a_table(notebook: Notebook, value: Any, text: str) -> None:
    """It has its names and its size."""
    notebook.shell.user_ns["df"] = value
    with LoopbackServer(["Yes."]) as server:
        assert notebook.at(server)("%%chat -v df\nWhat is it?") is None
        assert server.requests[0].text.startswith(f"What is it?\n\ndf:\n{text}")


class Frame(pd.DataFrame):
    """As other libraries make them."""


@pytest.mark.parametrize(
    "frame",
    [
        Frame({"number": range(200)}),
        pd.DataFrame({"number": range(1_000_000)}),
        pd.DataFrame({f"column {number}": range(1000) for number in range(1000)}),
        pd.DataFrame({"text": ["word " * 100_000] * 1000}),
    ],
    ids=["other class", "long", "wide", "full"],
)
def test_of_a_large_dataframe_a_part_is_sent(notebook: Notebook, frame: pd.DataFrame) -> None:
    """It has its ends, says how large the whole is, and is soon there."""
    notebook.shell.user_ns["df"] = frame
    with LoopbackServer(["Yes."]) as server:
        assert notebook.at(server)("%%chat -v df\nWhat is it?") is None
        text = server.requests[0].text
    assert len(text) < 101_000
    assert "..." in text
    assert len(frame) < 100 or len(text.splitlines()) > 100
    assert f"[{len(frame)} rows x {len(frame.columns)} columns]" in text
