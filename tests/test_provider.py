"""The contract that g4f programs expect of a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import Any, Callable

import anyio
import pytest
from conftest import RawServer

from chatanywhere import APITimeoutError, AsyncGeneratorProvider, AuthenticationError, ChatAnywhere, ChatAnywhereAPI
from chatanywhere.testing import LoopbackServer

backends = pytest.mark.parametrize("backend", ["asyncio", "trio"])
MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """A server that answers in three pieces."""
    with LoopbackServer(lambda _: ["one ", "two ", "three"], delay=0.02) as server:
        yield server


@pytest.fixture
def provider(server: LoopbackServer) -> type[ChatAnywhere]:
    """The provider of that server."""
    return type("Provider", (ChatAnywhere,), {"url": server.url})


def run(backend: str, function: Callable[[], Awaitable[Any]]) -> Any:
    return anyio.run(function, backend=backend)


def test_the_facts_are_those_of_the_original() -> None:
    """A program that looks at the class finds what g4f's has."""
    facts = {name: getattr(ChatAnywhere, name) for name in ("url", "working", "needs_auth")}
    assert facts == {"url": "https://chatanywhere.cn", "working": False, "needs_auth": False}
    assert ChatAnywhere.supports_gpt_35_turbo
    assert ChatAnywhere.supports_message_history
    assert ChatAnywhere.supports_stream
    assert (ChatAnywhereAPI.working, ChatAnywhereAPI.needs_auth) == (True, True)
    assert ChatAnywhereAPI.default_model == "gpt-4o-mini"
    assert issubclass(ChatAnywhere, AsyncGeneratorProvider)
    assert issubclass(ChatAnywhereAPI, AsyncGeneratorProvider)


@backends
@pytest.mark.parametrize("awaited", [False, True])
def test_pieces_come_with_and_without_await(provider: type[ChatAnywhere], backend: str, awaited: bool) -> None:
    """What create_async_generator returns can be iterated at once, or awaited first."""

    async def main() -> list[str]:
        pieces = provider.create_async_generator("gpt-3.5-turbo", MESSAGES)
        if awaited:
            pieces = await pieces  # type: ignore[assignment]
        assert isinstance(pieces, AsyncGenerator)
        return [piece async for piece in pieces]

    assert run(backend, main) == ["one ", "two ", "three"]


@backends
def test_nothing_is_sent_before_the_first_piece_is_asked_for(
    provider: type[ChatAnywhere], server: LoopbackServer, backend: str
) -> None:
    """A generator that is thrown away costs nothing, and raises nothing, not even for a wrong model."""

    async def main() -> None:
        await provider.create_async_generator("gpt-3.5-turbo", MESSAGES).aclose()
        unknown = provider.create_async_generator("no such model", MESSAGES)
        assert server.requests == []
        with pytest.raises(ValueError, match="no such model"):
            await unknown.__anext__()
        assert server.requests == []

    run(backend, main)


def test_the_request_is_the_pages(provider: type[ChatAnywhere], server: LoopbackServer) -> None:
    """Keywords go into the body, but those that are for the client or for g4f do not."""
    text = asyncio.run(
        provider.create_async(
            "",
            MESSAGES,
            proxy="",
            timeout=10,
            stream=True,
            provider=provider,
            ignore_working=True,
            api_key="k",
            base_url="https://elsewhere.example",
            headers={"X-Mine": "1"},
            max_tokens=5,
            stop=None,
        )
    )
    assert text == "one two three"
    (request,) = server.requests
    assert (request.path, request.headers["X-Mine"]) == ("/v1/chat/gpt/", "1")
    assert sorted(request.json) == [
        "continuous", "id", "list", "max_tokens", "models", "prompt", "temperature", "title",
    ]  # fmt: skip
    assert (request.json["temperature"], request.json["max_tokens"]) == (0.5, 5)


@backends
def test_it_can_be_driven_like_a_generator(provider: type[ChatAnywhere], backend: str) -> None:
    """asend, athrow and aclose do what they do to any async generator."""

    async def main() -> None:
        pieces = provider.create_async_generator("", MESSAGES)
        assert await pieces.asend(None) == "one "
        with pytest.raises(KeyError):
            await pieces.athrow(KeyError("x"))
        with pytest.raises(StopAsyncIteration):
            await pieces.__anext__()

        pieces = provider.create_async_generator("", MESSAGES)
        assert await pieces.__anext__() == "one "
        await pieces.aclose()
        await pieces.aclose()
        assert [piece async for piece in pieces] == []

        pieces = provider.create_async_generator("", MESSAGES)
        with pytest.raises(KeyError):
            await pieces.athrow(KeyError)
        assert [piece async for piece in pieces] == []

    run(backend, main)


@backends
def test_the_timeout_is_the_total(raw_server: RawServer, backend: str) -> None:
    """A server that hangs is given up after `timeout` seconds."""
    raw_server.answer(raw_server.hold)
    provider = type("Provider", (ChatAnywhere,), {"url": raw_server.url})

    async def main() -> None:
        with pytest.raises(APITimeoutError) as caught:
            await provider.create_async("", MESSAGES, timeout=0.3)
        assert caught.value.phase == "total"

    run(backend, main)


@pytest.mark.parametrize(("stream", "pieces"), [(True, ["one ", "two ", "three"]), (False, ["one two three"])])
def test_create_completion_needs_no_event_loop(provider: type[ChatAnywhere], stream: bool, pieces: list[str]) -> None:
    """It is a plain generator, of the pieces or of the whole text."""
    assert list(provider.create_completion("", MESSAGES, stream=stream)) == pieces


def test_a_running_loop_is_no_obstacle(provider: type[ChatAnywhere]) -> None:
    """In a notebook, where a loop runs, both faces work."""

    async def main() -> tuple[str, str]:
        blocking = "".join(provider.create_completion("", MESSAGES))
        return blocking, await provider.create_async("", MESSAGES)

    assert asyncio.run(main()) == ("one two three", "one two three")


def test_it_describes_itself() -> None:
    """params, get_parameters, get_dict and get_parent tell what g4f asks for."""
    assert list(ChatAnywhere.get_parameters()) == ["model", "messages", "proxy", "timeout", "temperature"]
    assert "ChatAnywhere supports: (" in ChatAnywhere.params
    assert "temperature" in ChatAnywhere.params
    assert ChatAnywhere.get_dict() == {"name": "ChatAnywhere", "url": "https://chatanywhere.cn", "label": None}
    assert ChatAnywhere.get_parent() == "ChatAnywhere"


def test_a_provider_has_to_say_how_it_answers() -> None:
    """The base class answers nothing itself."""
    with pytest.raises(NotImplementedError, match="AsyncGeneratorProvider"):
        AsyncGeneratorProvider.create_async_generator("", MESSAGES)
    with pytest.raises(NotImplementedError, match="AsyncGeneratorProvider"):
        AsyncGeneratorProvider.create_completion("", MESSAGES)


@backends
def test_the_live_services_provider(server: LoopbackServer, backend: str) -> None:
    """ChatAnywhereAPI takes a key and speaks the live protocol."""
    provider = type("Provider", (ChatAnywhereAPI,), {"url": server.url})

    async def main() -> str:
        return "".join([piece async for piece in provider.create_async_generator("m1", MESSAGES, api_key="k1")])

    assert run(backend, main) == "one two three"
    (request,) = server.requests
    assert (request.path, request.headers["Authorization"]) == ("/v1/chat/completions", "Bearer k1")
    assert sorted(request.json) == ["messages", "model", "stream", "stream_options"]


def test_the_live_services_provider_without_a_loop(server: LoopbackServer) -> None:
    """create_completion and get_models work on it too, also with a base_url."""
    asked = {"api_key": "k", "base_url": server.url}
    assert "".join(ChatAnywhereAPI.create_completion("", MESSAGES, **asked)) == "one two three"
    assert server.requests[0].json["model"] == "gpt-4o-mini"
    assert "gpt-4o-mini" in ChatAnywhereAPI.get_models(**asked)


def test_the_live_service_needs_a_key() -> None:
    """Without one, the first piece asked for is the error that says where to get it."""
    with pytest.raises(AuthenticationError, match="CHATANYWHERE_API_KEY"):
        next(iter(ChatAnywhereAPI.create_completion("", MESSAGES)))
