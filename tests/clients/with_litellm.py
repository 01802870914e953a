"""LiteLLM, as a library: `openai/…` models at the test server's URL."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any

import litellm
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

from chatanywhere.testing import Fault, LoopbackServer, Reply

litellm.suppress_debug_info = True

MESSAGES: list[Any] = [{"role": "user", "content": ADA}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]


def at(server: LoopbackServer, model: str = "openai/gpt-4o-mini") -> dict[str, Any]:
    """Where to ask."""
    return {"model": model, "api_base": f"{server.url}/v1", "api_key": "x"}


def test_answers(server: LoopbackServer) -> None:
    """An answer comes at once, in pieces, and asynchronously, with its usage."""
    answer = litellm.completion(messages=MESSAGES, **at(server))
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage.completion_tokens == 9
    options = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}, **at(server)}
    whole = litellm.stream_chunk_builder(list(litellm.completion(**options)))
    assert (whole.choices[0].message.content, whole.usage.completion_tokens) == (ANSWER, 9)

    async def ask() -> list[str]:
        whole = await litellm.acompletion(messages=MESSAGES, **at(server))
        chunks = [chunk async for chunk in await litellm.acompletion(**options)]
        return [whole.choices[0].message.content, "".join(chunk.choices[0].delta.content or "" for chunk in chunks)]

    assert asyncio.run(ask()) == [ANSWER, ANSWER]


def test_structured_output(server: LoopbackServer) -> None:
    """An answer fits a model, whole and in pieces."""
    options = {"messages": MESSAGES, "response_format": Person, **at(server)}
    Person.model_validate_json(litellm.completion(**options).choices[0].message.content)
    whole = litellm.stream_chunk_builder(list(litellm.completion(stream=True, **options)))
    Person.model_validate_json(whole.choices[0].message.content)


@pytest.mark.parametrize("streamed", [False, True])
def test_tools(streamed: bool) -> None:
    """A tool is called, and its result is told."""
    messages = [*MESSAGES]
    with LoopbackServer(WEATHER) as server:

        def ask() -> Any:
            answer = litellm.completion(messages=messages, tools=TOOLS, stream=streamed, **at(server))
            return (litellm.stream_chunk_builder(list(answer)) if streamed else answer).choices[0]

        choice = ask()
        assert choice.finish_reason == "tool_calls"
        (call,) = choice.message.tool_calls
        result = weather(**json.loads(call.function.arguments))
        messages += [choice.message, {"role": "tool", "tool_call_id": call.id, "content": result}]
        assert ask().message.content == "It is 22 degrees."
        assert results_of(server) == ["22 degrees in Paris"]


def test_embeddings(server: LoopbackServer) -> None:
    """Texts have vectors."""
    where = at(server, "openai/text-embedding-3-small")
    answer = litellm.embedding(input=["Hello", "Bye"], dimensions=8, **where)
    assert [len(each["embedding"]) for each in answer.data] == [8, 8]
    again = asyncio.run(litellm.aembedding(input=["Hello", "Bye"], dimensions=8, **where))
    assert [each["embedding"] for each in again.data] == [each["embedding"] for each in answer.data]


def test_a_picture(server: LoopbackServer) -> None:
    """A picture that is sent with a text arrives."""
    url = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"
    content = [{"type": "text", "text": ADA}, {"type": "image_url", "image_url": {"url": url}}]
    answer = litellm.completion(messages=[{"role": "user", "content": content}], **at(server))
    assert answer.choices[0].message.content == ANSWER
    assert picture_of(server) == PICTURE


def test_reasoning() -> None:
    """What the model thought is kept, whole and in pieces."""
    with LoopbackServer([Reply("Yes.", reasoning="Let me think.")] * 2) as server:
        whole = litellm.completion(messages=MESSAGES, **at(server))
        pieces = litellm.stream_chunk_builder(list(litellm.completion(messages=MESSAGES, stream=True, **at(server))))
        for answer in (whole, pieces):
            message = answer.choices[0].message
            assert (message.content, message.reasoning_content) == ("Yes.", "Let me think.")


ERRORS = {
    "wrong key": (WRONG_KEY, litellm.AuthenticationError),
    "quota": (QUOTA, litellm.RateLimitError),
    "page": (Fault.html(502), litellm.BadGatewayError),
    "silence": (Fault.timeout(), litellm.Timeout),
}


@pytest.mark.parametrize(("fault", "kind"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(server: LoopbackServer, fault: Fault, kind: type[Exception]) -> None:
    """What goes wrong is the error that LiteLLM has for it."""
    server.faults = [fault]
    with pytest.raises(kind):
        litellm.completion(messages=MESSAGES, timeout=0.5, max_retries=0, **at(server))


def test_a_busy_server(server: LoopbackServer) -> None:
    """It is asked again when it says."""
    with waited_for_a_second(server):
        litellm.completion(messages=MESSAGES, max_retries=1, **at(server))
