"""Our client against llama.cpp, with a model that babbles: any bytes at all, unless a grammar holds it.

Structured output and tool calls are real nevertheless, since llama.cpp makes grammars of the schemas.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any, Literal

import pydantic
import pytest
import requests
from clients import tiny_model
from clients.cases import PICTURE, serving
from faces import Face

from chatanywhere import (
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    Client,
    NotFoundError,
    OutputError,
    PromptTooLongError,
    Retry,
    StreamCancelledError,
    Timeout,
    image,
)

KEY = "sk-tiny"
REPLACEMENT = "\ufffd"  # what llama.cpp has in the place of bytes that are no character, but for the last of a stream
PROGRAM = """
import sys, time, xllamacpp
settings = xllamacpp.CommonParams()
settings.model.path = sys.argv[1]
settings.model_alias = {"tiny"}
settings.port = 0
settings.api_keys = [sys.argv[2]]
settings.n_parallel, settings.n_ctx = 4, 4 * int(sys.argv[3])
settings.cpuparams.n_threads = 1
settings.warmup = False
settings.use_jinja = True
settings.embedding = True
settings.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
server = xllamacpp.Server(settings)
print("serving at", server.listening_address, flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("llama")
    tiny_model.write(folder / "tiny.gguf")
    command = [sys.executable, "-c", PROGRAM, folder / "tiny.gguf", KEY, str(tiny_model.CONTEXT)]
    with serving(command, "serving at ", folder) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    # It closes connections behind a stream without saying so, sometimes when the next request has been read.
    with Client(KEY, base_url=url, model="tiny", retry=Retry(3, 0.05), timeout=30, proxy="") as client:
        yield client


class Pet(pydantic.BaseModel):
    """A pet."""

    kind: Literal["cat", "dog"]
    lives: Literal[7, 9]
    names: list[Literal["Tom", "Kitty"]] = pydantic.Field(min_length=1, max_length=2)


def test_an_answer_in_pieces(face: Face, client: Client) -> None:
    """The pieces are the text of the completion, with its usage, however strange the bytes."""
    for number in range(5):
        outcome = face.ask(client, f"Hello {number}", max_tokens=100)
        assert outcome.error is None
        assert outcome.text
    with client.stream("Hello", max_tokens=100) as stream:
        assert "".join(stream) == stream.completion.text
    assert stream.completion.usage is not None
    assert 0 < stream.completion.usage.completion_tokens <= 100
    assert stream.completion.finish_reason in ("length", "stop")


@pytest.mark.parametrize("stream", [True, False])
def test_an_answer_at_once(face: Face, client: Client, stream: bool) -> None:
    """The same seed gives the same answer, streamed or not."""
    first, second = (
        face.call(client, "complete", "Hello", seed=1, max_tokens=50, stream=each).text for each in (stream, True)
    )
    assert ascii(first.rstrip(REPLACEMENT)) == ascii(second.rstrip(REPLACEMENT))


@pytest.mark.parametrize("stream", [True, False])
def test_structured_output(face: Face, client: Client, stream: bool) -> None:
    """An answer fits a type, with whatever blanks between."""
    for _ in range(5):
        parsed = face.call(client, "complete", "A pet?", response_format=Pet, stream=stream, max_tokens=500).parsed
        assert isinstance(parsed, Pet)
        assert parsed.names


def test_structured_output_that_is_cut(client: Client) -> None:
    """An answer that ends too early is told as what it is."""
    with pytest.raises(OutputError) as caught:
        client.complete("A pet?", response_format=Pet, max_tokens=3)
    assert caught.value.reason == "length"


@pytest.mark.parametrize("stream", [True, False])
def test_tools(face: Face, client: Client, stream: bool) -> None:
    """A function is called with arguments that fit, and the run ends with the answer behind its result."""
    called = []

    def weather(city: Literal["Paris", "Rome"], days: Literal[1, 2]) -> str:
        """Tell the weather."""
        called.append((city, days))
        return f"{20 + days} degrees in {city}"

    # The model is made to begin a call where it may, and else to end.
    bias = {str(tiny_model.CALL): 50, str(tiny_model.END): 100}
    options = {"tool_choice": "required", "logit_bias": bias, "max_tokens": 1000, "stream": stream}
    run = face.call(client, "run_tools", "How is the weather?", [weather], **options)
    assert called
    asked, call, *results, answer = run.messages
    assert (asked["role"], answer["role"]) == ("user", "assistant")
    assert [each["function"]["name"] for each in call["tool_calls"]] == ["weather"] * len(called)
    assert [result["content"] for result in results] == [f"{20 + days} degrees in {city}" for city, days in called]
    assert [result["tool_call_id"] for result in results] == [each["id"] for each in call["tool_calls"]]
    assert run.completion.finish_reason == "stop"


def test_several_choices(face: Face, client: Client) -> None:
    """Choices that are asked for come in one stream."""
    completion = face.call(client, "complete", "Hello", n=3, max_tokens=20)
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert all(choice.finish_reason for choice in completion.choices)


def test_log_probabilities(client: Client) -> None:
    """They come to one for each token."""
    completion = client.complete("Hello", logprobs=True, top_logprobs=2, max_tokens=5)
    tokens = completion.choices[0].logprobs["content"]
    assert [len(token["top_logprobs"]) for token in tokens] == [2] * len(tokens)


def test_embeddings(face: Face, client: Client) -> None:
    """Vectors have length 1, in the order of their texts, however many requests they take."""
    texts = [f"text {number}" for number in range(50)]
    vectors = face.call(client, "embed", texts, model="tiny")
    assert [len(vector) for vector in vectors] == [tiny_model.EMBEDDING] * 50
    assert math.hypot(*vectors[0]) == pytest.approx(1, abs=1e-4)
    assert vectors[7] == pytest.approx(client.embed("text 7", model="tiny")[0], abs=1e-4)


def test_models(face: Face, client: Client) -> None:
    """The one model is listed, and how soon the server answers can be asked."""
    assert face.call(client, "models") == ["tiny"]
    (seconds,) = face.call(client, "ping").values()
    assert 0 < seconds < 5


ERRORS: dict[str, tuple[type[ChatAnywhereError], dict[str, Any]]] = {
    "too long": (PromptTooLongError, {"messages": "x" * 5000}),
    "no picture": (BadRequestError, {"messages": [{"role": "user", "content": [image(PICTURE)]}]}),
    "no number": (BadRequestError, {"messages": "Hello", "temperature": "hot"}),
    "no message": (BadRequestError, {"messages": [{"role": "user", "content": 5}]}),
}


@pytest.mark.parametrize(("kind", "options"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("stream", [True, False])
def test_errors(
    face: Face, client: Client, kind: type[ChatAnywhereError], options: dict[str, Any], stream: bool
) -> None:
    """What it refuses is known, and not asked for again."""
    with pytest.raises(kind) as caught:
        face.call(client, "complete", stream=stream, **options)
    assert type(caught.value) is kind
    assert caught.value.attempts == 1


def test_other_errors(face: Face, client: Client, url: str) -> None:
    """A wrong key, a path that there is not, and a text that is too long for a vector are known, too."""
    with pytest.raises(AuthenticationError):
        face.call(Client("wrong", base_url=url, proxy=""), "complete", "Hello")
    with pytest.raises(NotFoundError, match="Set base_url="):
        face.call(client, "balance")
    with pytest.raises(PromptTooLongError):
        face.call(client, "embed", "x" * 3000, model="tiny")


ENDLESS: dict[str, Any] = {"ignore_eos": True, "max_tokens": 1_000_000}


def test_a_limit(face: Face, client: Client) -> None:
    """An answer that takes too long is broken off, and what came is kept."""
    outcome = face.ask(client, timeout=Timeout(total=0.3), retry=None, **ENDLESS)
    assert isinstance(outcome.error, APITimeoutError)
    assert outcome.error.partial == outcome.text != ""
    assert outcome.seconds < 5


def test_cancel(client: Client, url: str) -> None:
    """A stream stops when it is told to by another thread, and the server works no longer for it."""
    with client.stream("Hello", **ENDLESS) as stream:
        threading.Timer(0.2, stream.cancel).start()
        with pytest.raises(StreamCancelledError) as caught:
            "".join(stream)
    assert caught.value.partial == stream.text != ""
    end = time.monotonic() + 10
    headers = {"Authorization": f"Bearer {KEY}"}
    while any(slot["is_processing"] for slot in requests.get(f"{url}/slots", headers=headers, timeout=10).json()):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_many_at_once(client: Client) -> None:
    """More streams than it has places for wait for theirs."""
    texts: list[str] = []

    def ask(number: int) -> None:
        texts.append(client.complete(f"Hello {number}", max_tokens=100).text)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(texts) == 12
