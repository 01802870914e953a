"""The contract that g4f programs expect of a provider."""

from __future__ import annotations

import asyncio
import gc
import socket
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from typing import Any

import anyio
import pytest
from faces import backends, run
from raw_server import BEGUN, RawServer

from chatanywhere import (
    APITimeoutError,
    AsyncClient,
    AsyncGeneratorProvider,
    AuthenticationError,
    ChatAnywhere,
    ChatAnywhereAPI,
)
from chatanywhere.testing import LoopbackServer

MESSAGES = [{"role": "user", "content": "Hello"}]


@pytest.fixture(autouse=True)
def without_g4f(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests in this process may have loaded g4f."""
    monkeypatch.delitem(sys.modules, "g4f.providers.response", raising=False)


@pytest.fixture
def server(pieces_apart: None) -> Iterator[LoopbackServer]:
    """A server that answers in three pieces."""
    with LoopbackServer(lambda _: ["one ", "two ", "three"]) as server:
        yield server


@pytest.fixture
def provider(server: LoopbackServer) -> type[ChatAnywhere]:
    """The provider of that server."""
    return type("Provider", (ChatAnywhere,), {"url": server.url})


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key in the environment, for the provider that needs one."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "k")


@pytest.fixture(params=[ChatAnywhere, ChatAnywhereAPI])
def either(request: pytest.FixtureRequest, server: LoopbackServer, key: None) -> type[AsyncGeneratorProvider]:
    """Each of the two providers, of that server."""
    return type("Provider", (request.param,), {"url": server.url})


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
            top_p=0.5,
        )
    )
    assert text == "one two three"
    (request,) = server.requests
    assert (request.path, request.headers["X-Mine"]) == ("/v1/chat/gpt/", "1")
    assert sorted(request.json) == [
        "continuous", "id", "list", "models", "prompt", "temperature", "title", "top_p",
    ]  # fmt: skip
    assert (request.json["temperature"], request.json["top_p"]) == (0.5, 0.5)


def test_pictures_are_refused(provider: type[ChatAnywhere]) -> None:
    """g4f's media= can't be sent, and what can't be sent is not left out in silence."""
    with pytest.raises(ValueError, match="media="):
        list(provider.create_completion("", MESSAGES, media=[("picture", None)]))


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
def test_what_was_read_to_its_end_stays_at_its_end(
    either: type[AsyncGeneratorProvider], server: LoopbackServer, backend: str
) -> None:
    """A second iteration gives nothing more and asks nothing more of the server."""

    async def main() -> None:
        pieces = either.create_async_generator("", MESSAGES)
        assert [piece async for piece in pieces] == ["one ", "two ", "three"]
        assert [piece async for piece in pieces] == []

    run(backend, main)
    assert len(server.requests) == 1


@backends
@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("thrown", "args"),
    [
        ((KeyError("x"),), ("x",)),
        ((KeyError,), ()),
        ((KeyError, KeyError("x")), ("x",)),
        ((KeyError, "x"), ("x",)),
    ],
    ids=["instance", "class", "class and instance", "class and argument"],
)
def test_athrow_raises_what_it_is_given_and_ends(
    either: type[AsyncGeneratorProvider], backend: str, begun: bool, thrown: tuple[Any, ...], args: tuple[str, ...]
) -> None:
    """Every spelling of an error that a generator takes comes out as that error, and nothing comes after it."""

    async def main() -> None:
        pieces = either.create_async_generator("", MESSAGES)
        if begun:
            assert await pieces.__anext__() == "one "
        with pytest.raises(KeyError) as caught:
            await pieces.athrow(*thrown)
        assert caught.value.args == args
        with pytest.raises(StopAsyncIteration):
            await pieces.asend(None)

    run(backend, main)


@backends
@pytest.mark.parametrize("begun", [False, True])
def test_aclose_ends(either: type[AsyncGeneratorProvider], backend: str, begun: bool) -> None:
    """After aclose, which may be repeated, there is nothing more to iterate."""

    async def main() -> None:
        pieces = either.create_async_generator("", MESSAGES)
        if begun:
            assert await pieces.__anext__() == "one "
        await pieces.aclose()
        await pieces.aclose()
        with pytest.raises(StopAsyncIteration):
            await pieces.__anext__()

    run(backend, main)


@backends
@pytest.mark.parametrize("how", ["aclose", "athrow"])
def test_ending_it_early_closes_the_connection(raw_server: RawServer, backend: str, how: str) -> None:
    """The server sees that nobody waits for the rest of the answer."""
    closed = threading.Event()

    def wait_for_close(connection: socket.socket) -> None:
        connection.settimeout(10)
        if not connection.recv(1):
            closed.set()

    raw_server.answer(BEGUN, wait_for_close)
    provider = type("Provider", (ChatAnywhere,), {"url": raw_server.url})

    async def main() -> bool:
        pieces = provider.create_async_generator("", MESSAGES)
        assert await pieces.__anext__() == "one"
        if how == "aclose":
            await pieces.aclose()
        else:
            with pytest.raises(KeyError):
                await pieces.athrow(KeyError)
        return closed.wait(5)  # within the loop, whose end would close the connection too

    assert run(backend, main)


@backends
def test_a_second_reader_takes_nothing_from_the_first(raw_server: RawServer, backend: str) -> None:
    """Two tasks that read one answer at once are a RuntimeError for the second, and the first gets all the text."""
    refused, read_on = threading.Event(), threading.Event()
    raw_server.answer(
        BEGUN,
        lambda _: refused.wait(10),
        b"3\r\ntwo\r\n",
        lambda _: read_on.wait(10),
        b"5\r\nthree\r\n0\r\n\r\n",
    )
    provider = type("Provider", (ChatAnywhere,), {"url": raw_server.url})
    texts: list[str] = []

    async def main() -> None:
        pieces = provider.create_async_generator("", MESSAGES)
        texts.append(await pieces.__anext__())

        async def read() -> None:
            async for piece in pieces:
                texts.append(piece)
                read_on.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError):
                await pieces.__anext__()
            refused.set()

    run(backend, main)
    assert texts == ["one", "two", "three"]


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


def test_create_completion_sends_what_the_generator_sends(
    either: type[AsyncGeneratorProvider], server: LoopbackServer
) -> None:
    """Both faces make the same request of the same arguments, and g4f's own arguments are in neither."""
    arguments: dict[str, Any] = {"ignore_working": True, "provider": either, "timeout": 10, "proxy": "", "top_p": 0.5}
    asyncio.run(either.create_async("", MESSAGES, **arguments))
    list(either.create_completion("", MESSAGES, **arguments))
    first, second = (
        {name: value for name, value in request.json.items() if name != "id"} for request in server.requests
    )
    assert first == second
    assert first["top_p"] == 0.5
    assert not {"ignore_working", "provider", "timeout", "proxy"} & set(first)


def test_create_completion_sends_nothing_before_its_first_piece(
    either: type[AsyncGeneratorProvider], server: LoopbackServer
) -> None:
    """It is as lazy as the async generator."""
    pieces = either.create_completion("", MESSAGES)
    assert server.connections == 0
    assert next(pieces) == "one "
    assert server.connections == 1


@pytest.mark.parametrize(("given", "sent"), [({}, 0.5), ({"temperature": 1.2}, 1.2), ({"temperature": None}, None)])
def test_the_temperature_has_a_default(
    provider: type[ChatAnywhere], server: LoopbackServer, given: dict[str, Any], sent: float | None
) -> None:
    """It is 0.5 unless the program says otherwise; None leaves it out of the body."""
    asyncio.run(provider.create_async("", MESSAGES, **given))
    assert server.requests[0].json.get("temperature") == sent


def test_a_running_loop_is_no_obstacle(provider: type[ChatAnywhere]) -> None:
    """In a notebook, where a loop runs, both faces work."""

    async def main() -> tuple[str, str]:
        blocking = "".join(provider.create_completion("", MESSAGES))
        return blocking, await provider.create_async("", MESSAGES)

    assert asyncio.run(main()) == ("one two three", "one two three")


@backends
def test_create_async_returns_the_whole_text(either: type[AsyncGeneratorProvider], backend: str) -> None:
    """Both providers have it, on both event loops."""

    async def main() -> str:
        return await either.create_async("", MESSAGES)

    assert run(backend, main) == "one two three"


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
    with pytest.raises(NotImplementedError, match="AsyncGeneratorProvider"):
        asyncio.run(AsyncGeneratorProvider.create_async("", MESSAGES))


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


@backends
def test_the_live_service_needs_a_key_on_a_loop_too(backend: str) -> None:
    """The generator is made and awaited without complaint, and its first piece is the error."""

    async def main() -> None:
        pieces = await ChatAnywhereAPI.create_async_generator("", MESSAGES)
        with pytest.raises(AuthenticationError, match="CHATANYWHERE_API_KEY") as caught:
            await pieces.__anext__()
        assert caught.value.attempts == 0
        assert [piece async for piece in pieces] == []

    run(backend, main)


def test_the_live_services_models_need_a_key() -> None:
    """get_models says where to get one, before anything is sent."""
    with pytest.raises(AuthenticationError, match="CHATANYWHERE_API_KEY") as caught:
        ChatAnywhereAPI.get_models()
    assert caught.value.attempts == 0


@backends
def test_a_long_lived_loop_keeps_nothing_of_calls_that_are_over(provider: type[ChatAnywhere], backend: str) -> None:
    """Programs on an event loop make calls for weeks; what a call needed is gone when it is over."""

    def limiters() -> int:
        gc.collect()
        return sum(isinstance(thing, anyio.CapacityLimiter) for thing in gc.get_objects())

    async def main() -> list[int]:
        await provider.create_async("", MESSAGES)
        counts = [limiters()]
        for _ in range(5):
            await provider.create_async("", MESSAGES)
            await AsyncClient(base_url=provider.url, protocol="web").complete("Hello")
        return [*counts, limiters()]

    before, after = run(backend, main)
    assert after <= before
