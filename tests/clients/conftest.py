"""The libraries that these tests import stay on this machine, and none of the tests may be skipped."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from greenlets.conftest import pytest_runtest_makereport

from chatanywhere.testing import LoopbackServer

__all__ = ["pytest_runtest_makereport"]

pytest.register_assert_rewrite("clients.cases")

# What libraries read when they are imported: no price lists, models, or statistics over the network.
os.environ.update(LITELLM_LOCAL_MODEL_COST_MAP="True", HF_HUB_OFFLINE="1", LANGSMITH_TRACING="false")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail the tests in which the name of another machine is looked up."""
    asked = []
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name not in (None, "127.0.0.1", "localhost"):
            asked.append(name)
            raise socket.gaierror(f"there is no network in these tests, and so no {name}")
        return look_up(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up_here)
    yield
    assert not asked


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """A server with the small talker."""
    with LoopbackServer() as server:
        yield server
