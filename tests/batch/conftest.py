"""A server for runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from batch.runs import echo

from chatanywhere.testing import LoopbackServer


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """Answers each prompt with its own words."""
    with LoopbackServer(echo) as server:
        yield server
