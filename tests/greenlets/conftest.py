"""None of these tests may be skipped: what is missing here is missing for users."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

pytest.register_assert_rewrite("greenlets.jobs")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, Any, Any]:
    """Make a failure of each skip."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
    return report
