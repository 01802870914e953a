"""A run of the whole suite fails where a file of the package is covered by less than 90 %.

coverage.py has one threshold for all files together, which hides a small file that no test runs.
"""

from __future__ import annotations

import json
from pathlib import Path

import coverage
import pytest

LEAST = 90.0
"""Per cent of a file's lines and branches."""

_too_low = pytest.StashKey[dict[str, float]]()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Look at what pytest-cov has put together from all processes; it has done so when this is called."""
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if ended and _measures_everything(session.config):
        too_low = {name: covered for name, covered in _covered(session.config).items() if covered < LEAST}
        session.config.stash[_too_low] = too_low
        if too_low:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)  # below the table of pytest-cov
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name the files."""
    for name, covered in config.stash.get(_too_low, {}).items():
        terminalreporter.write_line(f"FAIL {name}: {covered:.2f}% covered, {LEAST:.0f}% required", red=True)


def _measures_everything(config: pytest.Config) -> bool:
    """Whether this process gathers the coverage of all tests, not of some that were asked for."""
    options = config.option
    measured = options.cov_source and not options.no_cov and not hasattr(config, "workerinput")
    some = config.args_source is config.ArgsSource.ARGS or options.keyword or options.markexpr or options.collectonly
    return bool(measured and not some)


def _covered(config: pytest.Config) -> dict[str, float]:
    """Return how many per cent of each file ran; files that were never imported are among them."""
    measured = coverage.Coverage()
    measured.load()
    report = Path(config.rootpath, ".coverage.json")
    try:
        measured.json_report(outfile=str(report))
        files = json.loads(report.read_bytes())["files"]
    finally:
        report.unlink(missing_ok=True)
    return {name: file["summary"]["percent_covered"] for name, file in files.items()}
