"""pytest fixtures: a stand-in for the service, and clients of it.

Outside the package, because pytest imports its plugins at every start, and the package when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from chatanywhere import AsyncClient, Client
    from chatanywhere.testing import LoopbackServer

_MARKER = (
    "chatanywhere(replies=None, *, faults=(), delay=0.0, protocol='openai'): what the fixture chatanywhere_server "
    "answers, by the arguments of a LoopbackServer, and what the clients of it speak, 'openai' or 'web'."
)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", _MARKER)


@pytest.fixture
def chatanywhere_server(request: pytest.FixtureRequest) -> Iterator[LoopbackServer]:
    """A `chatanywhere.testing.LoopbackServer`, which runs until the test is over.

    Its arguments are the marker's, and those of a dict that is the fixture's indirect parameter:

        @pytest.mark.chatanywhere(["Hello!"], faults=[Fault.status(503, first=2)])
        @pytest.mark.parametrize("chatanywhere_server", [{"delay": 0}, {"delay": 0.1}], indirect=True)
    """
    from chatanywhere.testing import LoopbackServer

    positional, named = _marked(request)
    named.pop("protocol", None)
    with LoopbackServer(*positional, **{**named, **getattr(request, "param", {})}) as server:
        yield server


@pytest.fixture
def chatanywhere_client(request: pytest.FixtureRequest, chatanywhere_server: LoopbackServer) -> Iterator[Client]:
    """A `chatanywhere.Client` of `chatanywhere_server`: 5 seconds for a call, no waits between attempts."""
    from chatanywhere import Client, Retry

    protocol = _marked(request)[1].get("protocol", "openai")
    with Client(
        "test",
        base_url=chatanywhere_server.url,
        protocol=protocol,
        timeout=5,
        retry=Retry(backoff=0),
        proxy="",  # one that the environment names can't reach a server on this machine
    ) as client:
        yield client


@pytest.fixture
def chatanywhere_async_client(chatanywhere_client: Client) -> AsyncClient:
    """The same as a `chatanywhere.AsyncClient`, for any event loop; it needs no plugin that runs one.

    It shares the connections of `chatanywhere_client`, which are closed when the test is over.
    """
    return chatanywhere_client.as_async()


def _marked(request: pytest.FixtureRequest) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the positional and the named arguments of the marker that is closest to the test."""
    marker = request.node.get_closest_marker("chatanywhere")
    return (marker.args, dict(marker.kwargs)) if marker else ((), {})
