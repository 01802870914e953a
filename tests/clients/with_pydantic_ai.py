"""Pydantic AI: `OpenAIChatModel`, and its embedder."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from clients.cases import (
    ADA,
    ANSWER,
    PICTURE,
    QUOTA,
    WEATHER,
    WRONG_KEY,
    Person,
    picture_of,
    results_of,
    waited_for_a_second,
    weather,
)
from pydantic_ai import (
    Agent,
    BinaryContent,
    Embedder,
    ModelAPIError,
    ModelHTTPError,
    NativeOutput,
    PromptedOutput,
    ToolOutput,
)
from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

from chatanywhere.testing import Fault, LoopbackServer, Reply


def agent(server: LoopbackServer, **settings: Any) -> Agent[None, Any]:
    return Agent(OpenAIChatModel("gpt-4o-mini", provider=provider(server)), **settings)


def provider(server: LoopbackServer) -> OpenAIProvider:
    return OpenAIProvider(base_url=f"{server.url}/v1", api_key="x")


def test_answers(server: LoopbackServer) -> None:
    """An answer comes at once and in pieces, with its usage."""
    whole = agent(server).run_sync(ADA)
    assert whole.output == ANSWER
    assert whole.usage.output_tokens == 9

    async def ask() -> list[str]:
        async with agent(server).run_stream(ADA) as run:
            return [piece async for piece in run.stream_text(delta=True, debounce_by=None)]

    assert "".join(pieces := asyncio.run(ask())) == ANSWER
    assert len(pieces) == 9


@pytest.mark.parametrize("how", [ToolOutput, NativeOutput])
def test_structured_output(server: LoopbackServer, how: Any) -> None:
    """An answer fits a model, by a tool, which is the default, and by a schema; whole and in pieces."""
    structured = agent(server, output_type=how(Person))
    assert isinstance(structured.run_sync(ADA).output, Person)

    async def ask() -> Any:
        async with structured.run_stream(ADA) as run:
            return [output async for output in run.stream_output(debounce_by=None)][-1]

    assert isinstance(asyncio.run(ask()), Person)


def test_a_schema_in_the_prompt() -> None:
    """An answer that is said to be JSON is read."""
    with LoopbackServer(['{"name": "Ada", "age": 36, "pets": []}']) as server:
        structured = agent(server, output_type=PromptedOutput(Person))
        assert structured.run_sync(ADA).output == Person(name="Ada", age=36, pets=[])


def test_tools() -> None:
    """A tool is called, and its result is told; whole and in pieces."""
    with LoopbackServer(WEATHER * 2) as server:
        told = agent(server, tools=[weather])
        assert told.run_sync("How is the weather?").output == "It is 22 degrees."
        assert results_of(server) == ["22 degrees in Paris"]

        async def ask() -> str:
            async with told.run_stream("How is the weather?") as run:
                return str(await run.get_output())

        assert asyncio.run(ask()) == "It is 22 degrees."
        assert results_of(server) == ["22 degrees in Paris"]


def test_embeddings(server: LoopbackServer) -> None:
    """Texts have vectors."""
    embedder = Embedder(OpenAIEmbeddingModel("text-embedding-3-small", provider=provider(server)))
    vectors = embedder.embed_documents_sync(["Hello", "Bye"]).embeddings
    assert [len(vector) for vector in vectors] == [1536, 1536]


def test_a_picture(server: LoopbackServer) -> None:
    """A picture that is sent with a text arrives."""
    picture = BinaryContent(PICTURE, media_type="image/png")
    assert agent(server).run_sync([ADA, picture]).output == ANSWER
    assert picture_of(server) == PICTURE


def test_reasoning() -> None:
    """What the model thought is a part of its own."""
    with LoopbackServer([Reply("Yes.", reasoning="Let me think.")]) as server:
        parts = agent(server).run_sync(ADA).all_messages()[-1].parts
    assert [(part.part_kind, part.content) for part in parts] == [("thinking", "Let me think."), ("text", "Yes.")]


@pytest.mark.parametrize(("fault", "status"), [(WRONG_KEY, 401), (QUOTA, 429)], ids=["wrong key", "quota"])
def test_errors(server: LoopbackServer, fault: Fault, status: int) -> None:
    """What the server refuses is an error with its status and words."""
    server.faults = [fault]
    with pytest.raises(ModelHTTPError) as caught:
        agent(server).run_sync(ADA)
    assert caught.value.status_code == status
    assert caught.value.body["code"] in ("invalid_api_key", "insufficient_quota")


def test_silence(server: LoopbackServer) -> None:
    """A server that says nothing is waited for as long as was said."""
    server.faults = [Fault.timeout()]
    with pytest.raises(ModelAPIError, match="timed out"):
        agent(server).run_sync(ADA, model_settings={"timeout": 0.2})


def test_a_busy_server(server: LoopbackServer) -> None:
    """It is asked again when it says."""
    with waited_for_a_second(server):
        assert agent(server).run_sync(ADA).output == ANSWER
