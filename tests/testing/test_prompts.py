"""Text completions, which came before chats, by requests and by OpenAI's SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from asking import post, refusal

from chatanywhere.testing import Fault, LoopbackServer, Reply

PROMPT = "Hello, I am Ada."
ANSWER = "Pleased to meet you, Ada. What brings you here?"


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


def complete(server: LoopbackServer, prompt: Any = PROMPT, **options: Any) -> dict[str, Any]:
    """The answer to a request."""
    response = post(server, "/v1/completions", {"model": "m", "prompt": prompt, **options})
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def stream(server: LoopbackServer, prompt: Any = PROMPT, **options: Any) -> list[dict[str, Any]]:
    """The chunks of the answer to a request."""
    response = post(server, "/v1/completions", {"model": "m", "prompt": prompt, "stream": True, **options})
    *events, done, rest = response.content.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def test_the_sdk_reads_an_answer(server: LoopbackServer) -> None:
    """OpenAI's SDK has the text, the finish reason and the usage, whole and in pieces."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=0) as client:
        whole = client.completions.create(model="m", prompt=PROMPT)
        options: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = client.completions.create(model="m", prompt=PROMPT, **options)
    assert (whole.object, whole.model, whole.choices[0].finish_reason) == ("text_completion", "m", "stop")
    assert whole.choices[0].text == "".join(chunk.choices[0].text for chunk in chunks) == ANSWER
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert len(chunks) == 10
    assert whole.usage
    assert last.usage == whole.usage
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens, whole.usage.total_tokens) == (4, 9, 13)


def test_a_length_is_16_unless_another_is_asked_for() -> None:
    """What is longer is cut, with the finish reason `length`."""
    with LoopbackServer(lambda _: " ".join(["word"] * 20)) as server:
        for asked, number in ((None, 16), (3, 3), (20, 20)):
            (choice,) = complete(server, max_tokens=asked)["choices"]
            assert choice["text"].split() == ["word"] * number
            assert choice["finish_reason"] == ("stop" if number == 20 else "length")


def test_each_prompt_is_answered(server: LoopbackServer) -> None:
    """Several prompts have their choices one behind the other, `n` of each; in a stream these take turns."""
    prompts = [PROMPT, "My name is Bob."]
    choices = complete(server, prompts, n=2)["choices"]
    assert [choice["index"] for choice in choices] == [0, 1, 2, 3]
    assert choices[0]["text"] == ANSWER
    assert "Bob" in choices[2]["text"]
    texts = dict.fromkeys(range(4), "")
    for chunk in stream(server, prompts, n=2):
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert list(texts.values()) == [choice["text"] for choice in choices]


@pytest.mark.parametrize(
    "prompt",
    [[1, 2], [[1, 2], [3]], ["a", "b"]],
    ids=["tokens", "several lists of tokens", "several texts"],
)
def test_a_prompt_may_be_tokens(server: LoopbackServer, prompt: list[Any]) -> None:
    """Tokens are taken, one list or several, as texts are."""
    number = 1 if prompt == [1, 2] else 2
    assert len(complete(server, prompt)["choices"]) == number


def test_a_script_is_answered_by_the_prompt() -> None:
    """Each prompt takes one reply, a function sees it as a chat's, and a reply has its text only."""
    with LoopbackServer(["one", Reply("two", reasoning="hm", tool_calls=[("f", {})])]) as server:
        choices = complete(server, ["a", "b"])["choices"]
        assert [choice["text"] for choice in choices] == ["one", "two"]
        assert post(server, "/v1/completions", {"model": "m", "prompt": "c"}).status_code == 400
    with LoopbackServer(lambda request: f"{request.path} {request.text}") as server:
        assert complete(server, "a")["choices"][0]["text"] == "/v1/completions a"
    with LoopbackServer([{"own": 1}, Fault.status(503)]) as server:
        assert complete(server) == {"own": 1}
        assert post(server, "/v1/completions", {"model": "m", "prompt": "c"}).status_code == 503
    with LoopbackServer([Reply("a", usage={"prompt_tokens": 7})]) as server:
        assert complete(server)["usage"] == {"prompt_tokens": 7}


def test_options(server: LoopbackServer) -> None:
    """A text ends at a stop, begins with its prompt if it is to echo it, and has log probabilities."""
    assert complete(server, stop=" meet")["choices"][0]["text"] == "Pleased to"
    echoed = complete(server, echo=True, logprobs=2)["choices"][0]
    assert echoed["text"] == PROMPT + ANSWER
    told = echoed["logprobs"]
    assert "".join(told["tokens"]) == echoed["text"]
    assert [len(each) for each in told["top_logprobs"]] == [2] * len(told["tokens"])
    assert (
        told["text_offset"] == [echoed["text"].index(ANSWER[:7]) if i else 0 for i in (0, 1)] + told["text_offset"][2:]
    )
    streamed = [chunk["choices"][0] for chunk in stream(server, echo=True, logprobs=2)]
    assert [each["logprobs"]["text_offset"][0] for each in streamed[:-1]] == told["text_offset"]
    assert streamed[-1]["logprobs"] is None
    assert complete(server)["choices"][0]["logprobs"] is None


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"prompt": None}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_type"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"logprobs": 6}, "logprobs", "integer_above_max_value"),
        ({"logprobs": True}, "logprobs", "invalid_type"),
        ({"echo": 1}, "echo", "invalid_type"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"stream_options": {}}, "stream_options", None),
    ],
    ids=str,
)
def test_what_openai_refuses_is_refused(
    server: LoopbackServer, options: dict[str, Any], param: str, code: str | None
) -> None:
    """Malformed requests have status 400, with their parameter and code."""
    error = refusal(post(server, "/v1/completions", {"model": "m", "prompt": PROMPT, **options}))
    assert (error["param"], error["code"]) == (param, code)


def test_a_key_is_needed(server: LoopbackServer) -> None:
    """Without a bearer's key the status is 401."""
    assert post(server, "/v1/completions", {"model": "m", "prompt": "a"}, key="").status_code == 401
