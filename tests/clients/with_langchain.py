"""LangChain's `ChatOpenAI` and `OpenAIEmbeddings`."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
import tiktoken
from clients.cases import (
    ADA,
    ANSWER,
    PICTURE,
    SDK_ERRORS,
    WEATHER,
    Person,
    picture_of,
    results_of,
    waited_for_a_second,
    weather,
)
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from chatanywhere.testing import Fault, LoopbackServer


def chat(server: LoopbackServer, **settings: Any) -> ChatOpenAI:
    return ChatOpenAI(base_url=f"{server.url}/v1", api_key="x", model="gpt-4o-mini", **settings)


def test_answers(server: LoopbackServer) -> None:
    """An answer comes at once, in pieces, and asynchronously, with its usage."""
    model = chat(server, stream_usage=True)
    answer = model.invoke(ADA)
    assert answer.content == ANSWER
    assert answer.usage_metadata["output_tokens"] == 9
    first, *others = model.stream(ADA)
    whole = sum(others, first)
    assert len(others) > 5
    assert (whole.content, whole.usage_metadata["output_tokens"]) == (ANSWER, 9)

    async def ask() -> list[str]:
        return [(await model.ainvoke(ADA)).content, "".join([str(each.content) async for each in model.astream(ADA)])]

    assert asyncio.run(ask()) == [ANSWER, ANSWER]
    assert [each.content for each in model.batch([ADA, ADA])] == [ANSWER, ANSWER]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(server: LoopbackServer, method: Any) -> None:
    """An answer fits a model, by a schema and by a tool."""
    structured = chat(server).with_structured_output(Person, method=method)
    assert isinstance(structured.invoke(ADA), Person)
    assert isinstance(list(structured.stream(ADA))[-1], Person)


def test_json_mode() -> None:
    """An answer that is said to be JSON is read."""
    with LoopbackServer(['{"name": "Ada", "age": 36, "pets": []}']) as server:
        structured = chat(server).with_structured_output(Person, method="json_mode")
        assert structured.invoke(ADA) == Person(name="Ada", age=36, pets=[])
        assert server.requests[0].json["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(streamed: bool) -> None:
    """A tool is called, and its result is told."""
    tools = [tool(weather)]
    messages: list[Any] = [HumanMessage("How is the weather?")]
    with LoopbackServer(WEATHER) as server:
        model = chat(server).bind_tools(tools, strict=True)

        def ask() -> Any:
            if not streamed:
                return model.invoke(messages)
            first, *others = model.stream(messages)
            return sum(others, first)

        answer = ask()
        (call,) = answer.tool_calls
        assert (call["name"], call["args"]) == ("weather", {"city": "Paris", "days": 2})
        messages += [answer, tools[0].invoke(call)]
        assert isinstance(messages[-1], ToolMessage)
        assert ask().content == "It is 22 degrees."
        assert results_of(server) == ["22 degrees in Paris"]


def test_a_tool_is_demanded(server: LoopbackServer) -> None:
    """A tool that has to be called is called, with arguments that fit."""
    for choice in ("any", "weather", {"type": "function", "function": {"name": "weather"}}):
        (call,) = chat(server).bind_tools([tool(weather)], tool_choice=choice).invoke(ADA).tool_calls
        assert "degrees" in weather(**call["args"])


@pytest.mark.parametrize("in_tokens", [False, True])
def test_embeddings(server: LoopbackServer, in_tokens: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts have vectors, sent as texts or as tokens, which is LangChain's default."""
    ranks = {bytes([value]): value for value in range(256)}
    bytes_alone = tiktoken.Encoding("bytes", pat_str=r"\S+", mergeable_ranks=ranks, special_tokens={})
    monkeypatch.setattr(tiktoken, "encoding_for_model", lambda _: bytes_alone)
    url = f"{server.url}/v1"
    settings: dict[str, Any] = {"model": "text-embedding-3-small", "dimensions": 8, "base_url": url, "api_key": "x"}
    embeddings = OpenAIEmbeddings(**settings, check_embedding_ctx_length=in_tokens)
    vectors = embeddings.embed_documents(["Hello", "Bye"])
    assert [len(vector) for vector in vectors] == [8, 8]
    assert vectors[0] != vectors[1]
    assert isinstance(server.requests[-1].json["input"][0], list if in_tokens else str)
    assert embeddings.embed_query("Hello") == pytest.approx(vectors[0])


def test_a_picture(server: LoopbackServer) -> None:
    """A picture that is sent with a text arrives, in LangChain's form as in OpenAI's."""
    data = base64.b64encode(PICTURE).decode()
    for part in (
        {"type": "image", "base64": data, "mime_type": "image/png"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ):
        message = HumanMessage([{"type": "text", "text": ADA}, part])
        assert chat(server).invoke([message]).content == ANSWER
        assert picture_of(server) == PICTURE


@pytest.mark.parametrize(("fault", "kind"), SDK_ERRORS.values(), ids=SDK_ERRORS.keys())
def test_errors(server: LoopbackServer, fault: Fault, kind: type[Exception]) -> None:
    """What goes wrong is the error of OpenAI's SDK, or one of LangChain's own below it."""
    server.faults = [fault]
    with pytest.raises(kind):
        chat(server, max_retries=0, timeout=0.5).invoke(ADA)


def test_a_busy_server(server: LoopbackServer) -> None:
    """It is asked again when it says."""
    with waited_for_a_second(server):
        assert chat(server, max_retries=1).invoke(ADA).content == ANSWER
