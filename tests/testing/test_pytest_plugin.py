"""The pytest plugin, in test files of their own."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def pytester(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A pytest that has this plugin alone, whether or not it is installed as one."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeini("[pytest]\naddopts = -p pytest_chatanywhere --strict-markers\nfilterwarnings = error\n")
    return pytester


def test_a_program_is_tested_offline(pytester: pytest.Pytester) -> None:
    """Without a marker the server makes conversation, on both fixtures, and records what was asked."""
    pytester.makepyfile("""
        def test_program(chatanywhere_server, chatanywhere_client):
            assert "Ada" in chatanywhere_client.complete("My name is Ada.").text
            assert chatanywhere_server.requests[0].path == "/v1/chat/completions"
            assert chatanywhere_server.requests[0].headers["Authorization"] == "Bearer test"
    """)
    pytester.runpytest().assert_outcomes(passed=1)


def test_the_marker_has_the_arguments(pytester: pytest.Pytester) -> None:
    """Replies, faults and protocol come from the closest marker, for each test anew."""
    pytester.makepyfile("""
        import pytest
        from chatanywhere.testing import Fault

        pytestmark = pytest.mark.chatanywhere(["the module's"])

        def test_module(chatanywhere_client):
            assert chatanywhere_client.complete("Hi").text == "the module's"

        @pytest.mark.chatanywhere(replies=["Hello!"], faults=[Fault.status(503, first=2)], protocol="web")
        @pytest.mark.parametrize("time", [1, 2])
        def test_own(chatanywhere_server, chatanywhere_client, time):
            assert chatanywhere_client.complete("Hi").text == "Hello!"
            assert [request.path for request in chatanywhere_server.requests] == ["/v1/chat/gpt/"] * 3
    """)
    pytester.runpytest().assert_outcomes(passed=3)


def test_an_indirect_parameter_has_the_arguments(pytester: pytest.Pytester) -> None:
    """Arguments may be a parameter of the server's, and add to the marker's or replace them."""
    pytester.makepyfile("""
        import pytest
        from chatanywhere import InternalServerError
        from chatanywhere.testing import Fault

        @pytest.mark.chatanywhere(faults=[Fault.status(500)], replies=["Hello!"])
        @pytest.mark.parametrize("chatanywhere_server", [{}, {"delay": 0}], indirect=True)
        def test_added(chatanywhere_client):
            with pytest.raises(InternalServerError):
                chatanywhere_client.complete("Hi")

        @pytest.mark.chatanywhere(faults=[Fault.status(500)], replies=["Hello!"])
        @pytest.mark.parametrize("chatanywhere_server", [{"faults": []}], indirect=True)
        def test_replaced(chatanywhere_client):
            assert chatanywhere_client.complete("Hi").text == "Hello!"
    """)
    pytester.runpytest().assert_outcomes(passed=3)


def test_the_server_and_the_client_are_closed(pytester: pytest.Pytester) -> None:
    """After the test, passed or failed, neither a thread nor the server's port is left."""
    pytester.makepyfile("""
        import socket, threading
        import pytest

        servers = []
        before = threading.active_count()

        @pytest.mark.parametrize("good", [True, False])
        def test_program(chatanywhere_server, chatanywhere_client, good):
            servers.append(chatanywhere_server)
            chatanywhere_client.complete("Hi")
            assert good

        def test_after():
            assert threading.active_count() == before
            for server in servers:
                with pytest.raises(RuntimeError, match="not running"):
                    server.url
    """)
    pytester.runpytest().assert_outcomes(passed=2, failed=1)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_an_async_program_is_tested_offline(pytester: pytest.Pytester, backend: str) -> None:
    """The async client asks the same server on any loop, without a plugin for it, and obeys the same marker."""
    pytester.makepyfile(f"""
        import anyio, pytest

        @pytest.mark.chatanywhere(["one", ["t", "wo"]], protocol="web")
        def test_program(chatanywhere_server, chatanywhere_async_client):
            async def main():
                first = await chatanywhere_async_client.complete("Hi")
                async with chatanywhere_async_client.stream("Hi") as stream:
                    return [first.text, *[piece async for piece in stream]]

            assert "".join(anyio.run(main, backend="{backend}")) == "onetwo"
            assert [request.path for request in chatanywhere_server.requests] == ["/v1/chat/gpt/"] * 2
    """)
    pytester.runpytest().assert_outcomes(passed=1)


def test_the_async_client_is_closed(pytester: pytest.Pytester) -> None:
    """After the test, passed or failed, its connections are closed."""
    pytester.makepyfile("""
        import asyncio, threading
        import psutil, pytest

        before = threading.active_count()
        clients = []

        @pytest.mark.parametrize("good", [True, False])
        def test_program(chatanywhere_async_client, good):
            clients.append(chatanywhere_async_client)  # not to be closed by garbage collection
            asyncio.run(chatanywhere_async_client.complete("Hi"))
            assert psutil.Process().net_connections("tcp")
            assert good

        def test_after():
            assert threading.active_count() == before
            assert psutil.Process().net_connections("tcp") == []
    """)
    pytester.runpytest_subprocess().assert_outcomes(passed=2, failed=1)


def test_a_proxy_of_the_environment_is_not_used(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client reaches the server although the environment names a proxy."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    pytester.makepyfile("""
        def test_program(chatanywhere_client):
            assert chatanywhere_client.complete("Hi").text
    """)
    pytester.runpytest().assert_outcomes(passed=1)


def test_the_marker_is_registered(pytester: pytest.Pytester) -> None:
    """`pytest --markers` tells what the marker is for."""
    pytester.runpytest("--markers").stdout.fnmatch_lines(["@pytest.mark.chatanywhere(replies=None, *, faults=()*"])


def test_the_plugin_imports_nothing_until_it_is_used(pytester: pytest.Pytester) -> None:
    """Loading the plugin costs every start of pytest next to nothing: the package is not loaded with it."""
    result = pytester.runpython_c("""if True:
        import sys, pytest
        before = set(sys.modules)
        import pytest_chatanywhere
        assert set(sys.modules) - before == {"pytest_chatanywhere"}
    """)
    assert result.ret == 0
