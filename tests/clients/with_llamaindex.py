"""LlamaIndex's `OpenAILike`, and its embeddings."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
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
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike

from chatanywhere.testing import Fault, LoopbackServer, Reply

MESSAGES = [ChatMessage(role="user", content=ADA)]


def chat(server: LoopbackServer, **settings: Any) -> OpenAILike:
    where = {"model": "gpt-4o-mini", "api_base": f"{server.url}/v1", "api_key": "x", "max_retries": 0}
    return OpenAILike(**{**where, "is_chat_model": True, "is_function_calling_model": True, **settings})


@pytest.mark.parametrize("is_chat_model", [True, False])
def test_answers(server: LoopbackServer, is_chat_model: bool) -> None:
    """An answer comes at once, in pieces, and asynchronously, from chats and from the completions of old."""
    model = chat(server, is_chat_model=is_chat_model)
    assert model.complete(ADA).text == ANSWER
    assert model.chat(MESSAGES).message.content
    pieces = [piece.delta for piece in model.stream_complete(ADA)]
    assert "".join(pieces) == ANSWER
    assert len(pieces) >= 9

    async def ask() -> list[str]:
        pieces = [piece.delta async for piece in await model.astream_complete(ADA)]
        return [(await model.acomplete(ADA)).text, "".join(pieces)]

    assert asyncio.run(ask()) == [ANSWER, ANSWER]
    path = "/v1/chat/completions" if is_chat_model else "/v1/completions"
    assert {request.path for request in server.requests} == {path}


@pytest.mark.parametrize("by_schema", [True, False])
def test_structured_output(server: LoopbackServer, by_schema: bool) -> None:
    """An answer fits a model, by a schema and by a tool."""
    structured = chat(server, should_use_structured_outputs=by_schema).as_structured_llm(Person)
    assert isinstance(structured.chat(MESSAGES).raw, Person)
    if by_schema:  # LlamaIndex 0.14 itself does not look for the pieces of a tool call where it puts them
        assert isinstance(list(structured.stream_chat(MESSAGES))[-1].raw, Person)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(streamed: bool) -> None:
    """A tool is called, and its result is told."""
    tool = FunctionTool.from_defaults(weather)
    messages = [ChatMessage(role="user", content="How is the weather?")]
    with LoopbackServer(WEATHER) as server:
        model = chat(server)

        def ask() -> Any:
            if not streamed:
                return model.chat_with_tools([tool], chat_history=messages)
            return list(model.stream_chat_with_tools([tool], chat_history=messages))[-1]

        answer = ask()
        (call,) = model.get_tool_calls_from_response(answer)
        assert (call.tool_name, call.tool_kwargs) == ("weather", {"city": "Paris", "days": 2})
        result = ChatMessage(
            role="tool", content=str(tool(**call.tool_kwargs)), additional_kwargs={"tool_call_id": call.tool_id}
        )
        messages += [answer.message, result]
        assert ask().message.content == "It is 22 degrees."
        assert results_of(server) == ["22 degrees in Paris"]


def test_a_tool_is_demanded(server: LoopbackServer) -> None:
    """A tool that has to be called is called, with arguments that fit."""
    tool = FunctionTool.from_defaults(weather)
    answer = chat(server).predict_and_call([tool], user_msg=ADA, tool_required=True)
    assert "degrees in" in str(answer)


def test_embeddings(server: LoopbackServer) -> None:
    """Texts have vectors."""
    model = OpenAILikeEmbedding(model_name="text-embedding-3-small", api_base=f"{server.url}/v1", api_key="x")
    vectors = model.get_text_embedding_batch(["Hello", "Bye"])
    assert [len(vector) for vector in vectors] == [1536, 1536]
    assert asyncio.run(model.aget_query_embedding("Hello")) == vectors[0]


def test_a_picture(server: LoopbackServer) -> None:
    """A picture that is sent with a text arrives."""
    blocks = [TextBlock(text=ADA), ImageBlock(image=PICTURE, image_mimetype="image/png")]
    assert chat(server).chat([ChatMessage(role="user", blocks=blocks)]).message.content == ANSWER
    assert picture_of(server) == PICTURE


def test_reasoning() -> None:
    """What the model thought is a block of its own."""
    with LoopbackServer([Reply("Yes.", reasoning="Let me think.")]) as server:
        thinking, text = chat(server).chat(MESSAGES).message.blocks
    assert (thinking.content, text.text) == ("Let me think.", "Yes.")


@pytest.mark.parametrize(("fault", "kind"), SDK_ERRORS.values(), ids=SDK_ERRORS.keys())
def test_errors(server: LoopbackServer, fault: Fault, kind: type[Exception]) -> None:
    """What goes wrong is the error of OpenAI's SDK."""
    server.faults = [fault]
    with pytest.raises(kind):
        chat(server, timeout=0.5).chat(MESSAGES)


def test_a_busy_server(server: LoopbackServer) -> None:
    """It is asked again when it says."""
    with waited_for_a_second(server):
        assert chat(server, max_retries=1).chat(MESSAGES).message.content == ANSWER
