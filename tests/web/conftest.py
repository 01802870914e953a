"""None of these tests may be skipped either."""

from __future__ import annotations

import pytest
from greenlets.conftest import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

pytest.register_assert_rewrite("web.browser")
