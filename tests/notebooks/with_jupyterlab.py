"""`%%chat` in JupyterLab, in a browser: Chromium without a window, which is skipped where it is not installed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from chatanywhere.testing import LoopbackServer, Reply, Request

from .running import TIMEOUT

CHROMIUM = next(filter(None, map(shutil.which, ["chromium", "chromium-browser", "google-chrome"])), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.usefixtures("jupyter"),
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt install chromium chromium-driver"),
]

SCRIPT = "<script>window.hacked = 1</script> <img src=x onerror='window.hacked = 1'>"


@pytest.fixture
def lab(tmp_path: Path, database: Path) -> Iterator[str]:
    """The address of a JupyterLab, with a notebook in its folder."""
    folder = tmp_path / "notebooks"
    folder.mkdir()
    cells = [nbformat.v4.new_code_cell(each) for each in ["%load_ext chatanywhere", "%%chat\nCount", "'behind it'"]]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "test.ipynb")
    options = ["--no-browser", "--allow-root", "--ServerApp.port=0", "--IdentityProvider.token=any"]
    command = [sys.executable, "-m", "jupyterlab", *options, "--LabApp.expose_app_in_browser=True", str(folder)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            runtime = Path(os.environ["JUPYTER_RUNTIME_DIR"])
            found: list[Path] = []
            until(lambda: found.extend(runtime.glob("jpserver-*.json")) or found or process.poll() is not None)
            assert found, (tmp_path / "log").read_text()
            url = json.loads(found[0].read_text())["url"]
            yield f"{url}lab/tree/test.ipynb?token=any&reset"
        finally:
            process.terminate()


def until(condition: Callable[[], Any]) -> Any:
    """Wait until something is so."""
    end = time.monotonic() + TIMEOUT
    while not (value := condition()):
        assert time.monotonic() < end, "it has taken too long"
        time.sleep(0.05)
    return value


class Page:
    """The notebook in the browser."""

    def __init__(self, browser: Chrome, url: str) -> None:
        self.browser = browser
        browser.get(url)
        self.until("return window.jupyterapp && document.querySelectorAll('.jp-Notebook .jp-CodeCell').length == 3")
        self.until(
            "const panel = jupyterapp.shell.currentWidget;"
            "return panel && panel.sessionContext && panel.sessionContext.session"
            " && panel.sessionContext.session.kernel && panel.sessionContext.session.kernel.status == 'idle'"
        )

    def until(self, script: str) -> Any:
        """Wait until a script returns what is true."""
        return WebDriverWait(self.browser, TIMEOUT, 0.05).until(lambda browser: browser.execute_script(script))

    def run_all(self) -> None:
        """Choose "Run All Cells", and do not wait."""
        self.browser.execute_script("jupyterapp.commands.execute('notebook:run-all-cells')")

    def stop(self) -> None:
        """Click ■."""
        button = '.jp-NotebookPanel-toolbar [data-command="notebook:interrupt-kernel"]'
        self.browser.find_element(By.CSS_SELECTOR, button).click()

    def outputs(self, cell: int) -> list[str]:
        """The outputs below a cell, as they can be read."""
        script = (
            "return [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')[arguments[0]]"
            ".querySelectorAll('.jp-OutputArea-output')].map(each => each.innerText.trim())"
        )
        found: list[str] = self.browser.execute_script(script, cell)
        return found

    def html(self, cell: int) -> str:
        """The outputs below a cell, as HTML."""
        script = (
            "return [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')[arguments[0]]"
            ".querySelectorAll('.jp-OutputArea-output')].map(each => each.innerHTML).join('')"
        )
        return str(self.browser.execute_script(script, cell))


@pytest.fixture
def page(lab: str, tmp_path: Path) -> Iterator[Page]:
    """The notebook in a browser, its kernel idle."""
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for each in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--no-proxy-server", "--disable-gpu"):
        options.add_argument(each)
    options.add_argument(f"--user-data-dir={tmp_path / 'chromium'}")
    options.add_argument("--window-size=1200,1000")
    with Chrome(options=options, service=ChromeService(DRIVER)) as browser:
        yield Page(browser, lab)


def test_a_cell_is_run_stopped_in_the_middle_and_run_again(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """The answer grows on the page, stays when it is stopped, and no HTML in it works at any time."""
    endless = Reply(pieces=["**Count:** ", SCRIPT, *(f" {number}" for number in range(1000))])
    whole = Reply(pieces=["**Done:** ", SCRIPT, " 一 `<二>`"])

    def reply(asked: Request) -> Reply:
        return whole if len(server.requests) > 1 else endless

    with LoopbackServer(reply, delay=0.05) as server:
        monkeypatch.setenv("CHATANYWHERE_BASE_URL", server.url)
        page: Page = request.getfixturevalue("page")
        page.run_all()
        seen: set[str] = set()
        until(lambda: seen.update(page.outputs(1)) or len(seen) > 5)
        assert "<strong>Count:</strong>" in page.html(1)
        page.stop()
        until(lambda: len(page.outputs(1)) == 2)
        answer, error = page.outputs(1)
        assert answer.startswith(f"Count: {SCRIPT} 0 1 2 3")
        assert "999" not in answer
        assert error == "KeyboardInterrupt: the answer was stopped; `%chat --resume` goes on with it"
        assert page.outputs(2) == []  # "Run all" has stopped
        assert all(answer.startswith(each[:-1]) for each in seen)
        # Until then, the kernel drops what it is asked to run.
        page.until(
            "return ![...document.querySelectorAll('.jp-InputPrompt')].some(each => each.innerText.includes('*'))"
        )

        page.run_all()
        until(lambda: page.outputs(2) == ["'behind it'"])
        assert page.outputs(1) == [f"Done: {SCRIPT} 一 <二>"]
        assert "<strong>Done:</strong>" in page.html(1)
        assert "<code>&lt;二&gt;</code>" in page.html(1)
        assert page.browser.execute_script("return window.hacked") is None
        assert "<script" not in page.html(1)
    assert [message["content"] for message in server.requests[-1].json["messages"]] == ["Count"]


def test_no_formula_leads_to_a_script_or_loads_anything(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Formulas are left to JupyterLab, which draws them without the links and styles of theirs that could do harm."""
    with LoopbackServer() as elsewhere:
        formulas = (
            r"$$\href{javascript:window.hacked=1}{a}$$ $\style{background-image:url(ELSEWHERE/x)}{b}$"
            r" \\[ \href{javascript:window.hacked=1}{c} \\] \\(d\\)"
        )
        with LoopbackServer([formulas.replace("ELSEWHERE", elsewhere.url)]) as server:
            monkeypatch.setenv("CHATANYWHERE_BASE_URL", server.url)
            page: Page = request.getfixturevalue("page")
            page.run_all()
            until(lambda: page.html(1).count("<mjx-container") == 4)
            links = "return [...document.querySelectorAll('.jp-OutputArea-output a, mjx-container [href]')].length"
            assert page.browser.execute_script(links) == 0
            assert "background" not in page.html(1)
        assert elsewhere.requests == []
