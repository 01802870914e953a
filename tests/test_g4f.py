"""The providers inside the real g4f: its clients, its functions, its lists of providers."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from raw_server import RawServer

from chatanywhere import AuthenticationError, ChatAnywhere, ChatAnywhereAPI, InternalServerError
from chatanywhere.testing import Fault, LoopbackServer, Reply

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import g4f
    import g4f.cookies
    from g4f.client import AsyncClient, Client
    from g4f.providers.response import FinishReason, ProviderInfo, Reasoning, ToolCalls, Usage
    from g4f.providers.retry_provider import IterListProvider, ProviderCircuitBreaker, RetryProvider

# g4f closes its loops and files when it is garbage collected.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

QUESTION = [{"role": "user", "content": "Hello"}]
PIECES = ["one ", "two ", "three"]
PAGE = ["continuous", "id", "list", "models", "prompt", "temperature", "title"]
LIVE = ["messages", "model", "stream", "stream_options"]


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """g4f asks nobody for its newest version, writes its records elsewhere, and forgets failures."""
    monkeypatch.setattr(g4f.debug, "version_check", False)
    monkeypatch.setattr(g4f.cookies.CookiesConfig, "cookies_dir", str(tmp_path))
    ProviderCircuitBreaker.reset()


@pytest.fixture
def server(pieces_apart: None) -> Iterator[LoopbackServer]:
    """A server that answers in three pieces."""
    with LoopbackServer(lambda _: PIECES) as server:
        yield server


@pytest.fixture(params=[ChatAnywhere, ChatAnywhereAPI])
def provider(request: pytest.FixtureRequest, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Each of the providers, of that server."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "sk-0123456789")
    return type(request.param.__name__, (request.param,), {"url": server.url})


def failing(url: str) -> Any:
    return type("Failing", (ChatAnywhere,), {"url": url})


def sent(server: LoopbackServer, *extra: str) -> bool:
    """Whether the body of the last request had the protocol's own fields and these, and no others."""
    request = server.requests[-1]
    own = PAGE if request.path == "/v1/chat/gpt/" else LIVE
    return sorted(request.json) == sorted([*own, *extra])


def test_the_client_streams(provider: Any, server: LoopbackServer) -> None:
    """Pieces come out of g4f's blocking client as they came in, and g4f counts a success."""
    client = Client(provider=provider)
    chunks = list(client.chat.completions.create(QUESTION, stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks if chunk.choices[0].delta.content] == PIECES
    assert sent(server)
    assert provider.live == 1


def test_the_client_does_not_wait_for_the_end(provider: Any) -> None:
    """A piece comes out of g4f's blocking client while the rest of the answer is still to come."""
    with LoopbackServer(lambda _: PIECES, faults=[Fault.timeout(after=2)]) as server:
        unfinished = type(provider.__name__, (provider,), {"url": server.url})
        chunks = Client(provider=unfinished).chat.completions.create(QUESTION, stream=True)
        assert next(chunk for chunk in chunks if chunk.choices[0].delta.content)
        chunks.close()


def test_the_client_returns_a_whole_answer(provider: Any, server: LoopbackServer) -> None:
    """The same without streaming; g4f's own arguments stay out of the request."""
    client = Client(provider=provider)
    answer = client.chat.completions.create(QUESTION, timeout=30, stream_timeout=10, ignore_stream=True)
    assert answer.choices[0].message.content == "one two three"
    assert sent(server)


def test_the_async_client_streams(provider: Any, server: LoopbackServer) -> None:
    """Pieces come out of g4f's async client, which waits for each with a limit of its own."""

    async def main() -> list[str]:
        client = AsyncClient(provider=provider)
        chunks = client.chat.completions.create(QUESTION, stream=True, timeout=30, stream_timeout=10)
        return [chunk.choices[0].delta.content async for chunk in chunks if chunk.choices[0].delta.content]

    assert asyncio.run(main()) == PIECES
    assert sent(server)
    assert provider.live == 1


def test_the_async_client_returns_a_whole_answer(provider: Any, server: LoopbackServer) -> None:
    """The same without streaming."""

    async def main() -> str:
        answer = await AsyncClient(provider=provider).chat.completions.create(QUESTION, timeout=30)
        text: str = answer.choices[0].message.content
        return text

    assert asyncio.run(main()) == "one two three"
    assert sent(server)


def test_a_limit_on_tokens_reaches_the_live_service_only(provider: Any, server: LoopbackServer) -> None:
    """max_tokens and stop are fields of the live service; the page has none, and g4f cuts its answers itself."""
    chunks = Client(provider=provider).chat.completions.create(QUESTION, max_tokens=2, stop="never", stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two "
    assert sent(server, *(["max_tokens", "stop"] if "API" in provider.__name__ else []))


def test_a_key_and_a_host_given_to_the_client_are_used(server: LoopbackServer) -> None:
    """g4f.Client(api_key=…, base_url=…) reaches ChatAnywhereAPI, and neither gets into the body."""
    client = Client(provider=ChatAnywhereAPI, api_key="sk-of-the-client", base_url=server.url)
    assert client.chat.completions.create(QUESTION).choices[0].message.content == "one two three"
    assert server.requests[-1].headers["Authorization"] == "Bearer sk-of-the-client"
    assert sent(server)
    assert "gpt-4o-mini" in client.models.get_all(base_url=server.url)


def test_models_are_listed() -> None:
    """g4f asks a provider for its models; the page has one."""
    assert Client(provider=ChatAnywhere).models.get_all() == ["gpt-3.5-turbo"]


@pytest.mark.parametrize("working", [True, False])
def test_chat_completion_create(provider: Any, server: LoopbackServer, working: bool) -> None:
    """g4f's oldest function, streaming and not; a provider that is not working has to be asked for explicitly."""
    chosen = type(provider.__name__, (provider,), {"working": working})
    more = {} if working else {"ignore_working": True}
    assert g4f.ChatCompletion.create("", QUESTION, chosen, **more) == "one two three"
    assert sent(server)
    pieces = g4f.ChatCompletion.create("", QUESTION, chosen, stream=True, **more)
    assert [piece for piece in pieces if isinstance(piece, str)] == PIECES
    assert sent(server)


def test_chat_completion_create_async(provider: Any, server: LoopbackServer) -> None:
    """The same for event loops."""

    async def main() -> list[str]:
        pieces = g4f.ChatCompletion.create_async("", QUESTION, provider, stream=True, ignore_working=True)
        whole = await g4f.ChatCompletion.create_async("", QUESTION, provider, ignore_working=True)
        return [*[piece async for piece in pieces if isinstance(piece, str)], whole]

    assert asyncio.run(main()) == [*PIECES, "one two three"]
    assert sent(server)


@pytest.mark.parametrize("kind", [RetryProvider, IterListProvider])
def test_a_list_of_providers_passes_over_one_that_fails(provider: Any, server: LoopbackServer, kind: Any) -> None:
    """The next one answers; g4f's blocking client drives the list from an event loop of its own."""
    with LoopbackServer(faults=[Fault.status(404)]) as gone:
        providers = kind([failing(gone.url), provider], shuffle=False)
        assert Client(provider=providers).chat.completions.create(QUESTION).choices[0].message.content == (
            "one two three"
        )
        chunks = Client(provider=providers).chat.completions.create(QUESTION, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "one two three"

        async def main() -> list[Any]:
            return [chunk async for chunk in providers.create_async_generator("", QUESTION)]

        chunks = asyncio.run(main())
        assert [chunk for chunk in chunks if isinstance(chunk, str)] == PIECES
        names = [chunk.name for chunk in chunks if isinstance(chunk, ProviderInfo)]
        assert names == ["Failing", provider.__name__]
        assert len(gone.requests) == 3
    assert sent(server)


@pytest.mark.parametrize("kind", [None, RetryProvider])
def test_a_stream_that_is_left_early_closes_its_connection(raw_server: RawServer, kind: Any) -> None:
    """Breaking off g4f's blocking stream, also one that an event loop drives, leaves no connection open."""
    closed = threading.Event()

    def wait_for_close(connection: socket.socket) -> None:
        connection.settimeout(10)
        if not connection.recv(1):
            closed.set()

    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw_server.answer(head + b"3\r\none\r\n", wait_for_close)
    provider = type("Provider", (ChatAnywhere,), {"url": raw_server.url})
    chosen = kind([provider], shuffle=False) if kind else provider
    for chunk in Client(provider=chosen).chat.completions.create(QUESTION, stream=True):
        assert chunk.choices[0].delta.content == "one"
        break
    del chunk
    assert closed.wait(5)


def test_an_error_is_raised(provider: Any) -> None:
    """What goes wrong is raised through g4f, blocking or async, streaming or not, and g4f counts a failure."""
    with LoopbackServer(faults=[Fault.status(500)]) as broken:
        chosen = type("Provider", (provider,), {"url": broken.url})
        for stream in (True, False):
            with pytest.raises(InternalServerError):
                list(Client(provider=chosen).chat.completions.create(QUESTION, stream=stream, retry=None))

        async def main(stream: bool) -> None:
            answer = AsyncClient(provider=chosen).chat.completions.create(QUESTION, stream=stream, retry=None)
            if stream:
                async for _ in answer:
                    pass
            else:
                await answer

        for stream in (True, False):
            with pytest.raises(InternalServerError):
                asyncio.run(main(stream))
        assert chosen.live == provider.live - 4


# What is not text

TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "description": "", "parameters": {"type": "object", "properties": {}}},
    }
]
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
THINKING = Reply(
    "Let me look.",
    reasoning="They ask about Paris.",
    tool_calls=[("weather", {"city": "Paris"}), ("time", "{}")],
    usage=USAGE,
)
ARGUMENTS = ['{"city": "Paris"}', "{}"]


@pytest.fixture
def thinking(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackServer]:
    """A server that thinks, and calls two tools; g4f's providers ask it."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "sk-0123456789")
    with LoopbackServer(lambda _: THINKING) as server:
        monkeypatch.setattr(ChatAnywhereAPI, "url", server.url)
        yield server


async def collect(pieces: Any) -> list[Any]:
    return [piece async for piece in pieces]


@pytest.mark.parametrize("how", ["async", "blocking", "blocking, at once"])
def test_what_is_not_text_comes_as_the_objects_of_g4f(thinking: LoopbackServer, how: str) -> None:
    """Reasoning comes where it was told; whole tool calls, usage and the finish reason at the end, once each."""
    if how == "async":
        pieces = asyncio.run(collect(ChatAnywhereAPI.create_async_generator("", QUESTION, tools=TOOLS)))
    else:
        pieces = list(ChatAnywhereAPI.create_completion("", QUESTION, stream="at once" not in how, tools=TOOLS))
    assert "".join(piece for piece in pieces if isinstance(piece, str)) == "Let me look."
    kinds = [type(piece) for piece in pieces]
    thoughts = kinds.index(str)
    assert set(kinds[:thoughts]) == {Reasoning}
    assert "".join(str(piece) for piece in pieces[:thoughts]) == "They ask about Paris."
    assert set(kinds[thoughts:-3]) == {str}
    calls, usage, reason = pieces[-3:]
    assert isinstance(calls, ToolCalls)
    assert [call["function"]["arguments"] for call in calls.get_list()] == ARGUMENTS
    assert isinstance(usage, Usage)
    assert usage.get_dict() == USAGE
    assert isinstance(reason, FinishReason)
    assert reason.reason == "tool_calls"
    assert thinking.requests[-1].json["tools"] == TOOLS


def test_create_async_returns_text_only(thinking: LoopbackServer) -> None:
    """The whole text is a str still."""
    assert asyncio.run(ChatAnywhereAPI.create_async("", QUESTION)) == "Let me look."


def test_a_program_that_has_not_loaded_g4f_gets_text_only(
    thinking: LoopbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether or not g4f is installed; nothing imports it."""
    monkeypatch.delitem(sys.modules, "g4f.providers.response")
    pieces = asyncio.run(collect(ChatAnywhereAPI.create_async_generator("", QUESTION)))
    assert {type(piece) for piece in pieces} == {str}
    for stream in (True, False):
        assert "".join(ChatAnywhereAPI.create_completion("", QUESTION, stream=stream)) == "Let me look."
    assert "g4f.providers.response" not in sys.modules


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("blocking", [True, False])
def test_tools_go_through_the_clients_of_g4f(thinking: LoopbackServer, blocking: bool, stream: bool) -> None:
    """g4f sends `tools=` as they are, not in a prompt, and its answer has the calls, the reasoning and the reason."""
    arguments: dict[str, Any] = {"tools": TOOLS, "tool_choice": "auto", "stream": stream}

    async def main() -> list[Any]:
        answer = AsyncClient(provider=ChatAnywhereAPI).chat.completions.create(QUESTION, **arguments)
        return await collect(answer) if stream else [await answer]

    if blocking:
        answer = Client(provider=ChatAnywhereAPI).chat.completions.create(QUESTION, **arguments)
        chunks = list(answer) if stream else [answer]
    else:
        chunks = asyncio.run(main())
    sent = thinking.requests[-1].json
    assert (sent["tools"], sent["tool_choice"]) == (TOOLS, "auto")
    assert sent["messages"] == QUESTION
    said = [getattr(chunk.choices[0], "delta" if stream else "message") for chunk in chunks]
    calls = [call for each in said for call in each.tool_calls or ()]
    assert [call.function.arguments for call in calls] == ARGUMENTS
    assert all(call.id for call in calls)
    thoughts = [each.reasoning for each in said if each.reasoning]
    assert "".join("".join(map(str, each)) for each in thoughts) == "They ask about Paris."
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    assert chunks[-1].usage.total_tokens == 7


def test_the_page_knows_no_tools() -> None:
    """g4f asks which provider has them."""
    assert (ChatAnywhereAPI.supports_native_tools, ChatAnywhere.supports_native_tools) == (True, False)


def test_a_provider_can_be_named_once_g4f_knows_it(thinking: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """g4f's list of names has g4f's own only; one line adds another, as the documents say."""
    from g4f.errors import ProviderNotFoundError
    from g4f.Provider import ProviderLoader

    def ask() -> Any:
        answer = Client(provider="ChatAnywhereAPI").chat.completions.create(QUESTION)
        return answer.choices[0].message.content

    with pytest.raises(ProviderNotFoundError):
        ask()
    monkeypatch.setitem(ProviderLoader.loaded, "ChatAnywhereAPI", ChatAnywhereAPI)
    assert ask() == "Let me look."
    assert g4f.ChatCompletion.create("gpt-4o", QUESTION, "ChatAnywhereAPI").endswith("Let me look.")
    assert thinking.requests[-1].json["model"] == "gpt-4o"


def test_a_missing_key_is_told() -> None:
    """ChatAnywhereAPI without a key says where to get one."""
    with pytest.raises(AuthenticationError, match="CHATANYWHERE_API_KEY"):
        Client(provider=ChatAnywhereAPI).chat.completions.create(QUESTION)
