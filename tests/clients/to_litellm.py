"""Our client against a LiteLLM proxy: mock answers of its own, and a `LoopbackServer` behind it."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from clients.cases import (
    ADA,
    ANSWER,
    PICTURE,
    QUOTA,
    WRONG_KEY,
    Person,
    picture_of,
    results_of,
    serving,
    weather,
)
from faces import Face

from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    Client,
    InternalServerError,
    NotFoundError,
    PromptTooLongError,
    QuotaExceededError,
    RateLimitError,
    Retry,
    StreamCancelledError,
    Timeout,
    image,
)
from chatanywhere.testing import Fault, LoopbackServer

KEY = "sk-master"
TEXT = "Pleased to meet you, 小明."
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
MOCKS: dict[str, dict[str, Any]] = {
    "mock": {"mock_response": TEXT},
    "slow": {"mock_response": TEXT, "mock_delay": 8},
    "tool": {"mock_response": "", "mock_tool_calls": [CALL]},
    "limited": {"mock_response": "litellm.RateLimitError"},
    "small": {"mock_response": "litellm.ContextWindowExceededError"},
    "broken": {"mock_response": "litellm.InternalServerError"},
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[LoopbackServer]:
    """The server behind the proxy."""
    with LoopbackServer() as server:
        yield server


@pytest.fixture(scope="module")
def url(upstream: LoopbackServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("litellm")
    there = {"model": "openai/gpt-4o-mini", "api_key": "x", "api_base": f"{upstream.url}/v1", "max_retries": 0}
    models = {**MOCKS, "loopback": {}, "vectors": {"model": "openai/text-embedding-3-small"}}
    settings = {
        "model_list": [{"model_name": name, "litellm_params": {**there, **model}} for name, model in models.items()],
        "litellm_settings": {"num_retries": 0, "telemetry": False},
        "router_settings": {"num_retries": 0, "disable_cooldowns": True},
        "general_settings": {"master_key": KEY},
    }
    config = folder / "config.yaml"
    config.write_text(json.dumps(settings))  # which is YAML, too
    program = "import sys; from litellm import run_server; sys.exit(run_server())"
    arguments = ["--config", config, "--host", "127.0.0.1", "--port", "0", "--telemetry", "False"]
    environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    with serving([sys.executable, "-c", program, *arguments], "Uvicorn running on ", folder, environment) as url:
        yield url


@pytest.fixture
def client(url: str, upstream: LoopbackServer) -> Iterator[Client]:
    upstream.faults = []
    with Client(KEY, base_url=url, model="mock", retry=None, timeout=30, proxy="") as client:
        yield client


def test_an_answer_in_pieces(face: Face, client: Client) -> None:
    """A stream has the text and its usage, from a mock and from a server behind the proxy."""
    outcome = face.ask(client)
    assert (outcome.error, outcome.text) == (None, TEXT)
    with client.stream(ADA, model="loopback") as stream:
        assert "".join(stream) == ANSWER
    completion = stream.completion
    assert (completion.finish_reason, completion.model) == ("stop", "loopback")
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 9
    assert completion.request_id


@pytest.mark.parametrize("model", ["mock", "loopback"])
def test_an_answer_at_once(face: Face, client: Client, model: str) -> None:
    """One object is read as a stream is."""
    completion = face.call(client, "complete", ADA, model=model, stream=False)
    assert completion.text == {"mock": TEXT, "loopback": ANSWER}[model]
    assert completion.usage.completion_tokens > 0
    assert completion.request_id


def test_several_choices(face: Face, client: Client) -> None:
    """Choices that come in the same chunks are told apart."""
    completion = face.call(client, "complete", ADA, n=2)
    assert [choice.text for choice in completion.choices] == [TEXT, TEXT]


def test_a_call_of_a_tool(face: Face, client: Client) -> None:
    """A mocked call is read."""
    (call,) = face.call(client, "complete", ADA, model="tool", stream=False).tool_calls
    assert (call.id, call.name, call.arguments) == ("call_1", "weather", '{"city": "Paris"}')


@pytest.mark.parametrize("stream", [True, False])
def test_tools(face: Face, client: Client, upstream: LoopbackServer, stream: bool) -> None:
    """A function is called, and its result is told through the proxy."""
    run = face.call(
        client, "run_tools", "How is it?", [weather], model="loopback", tool_choice="required", stream=stream
    )
    assert "degrees in" in run.text
    assert [message["role"] for message in run.messages] == ["user", "assistant", "tool", "assistant"]
    assert results_of(upstream) == [run.messages[2]["content"]]


@pytest.mark.parametrize("stream", [True, False])
def test_structured_output(face: Face, client: Client, stream: bool) -> None:
    """An answer fits a type."""
    completion = face.call(client, "complete", ADA, model="loopback", response_format=Person, stream=stream)
    assert isinstance(completion.parsed, Person)


def test_embeddings(face: Face, client: Client) -> None:
    """Vectors come through the proxy, however it writes them."""
    vectors = face.call(client, "embed", ["Hello", "Bye"], model="vectors", dimensions=8)
    assert [len(vector) for vector in vectors] == [8, 8]
    assert vectors[1] == pytest.approx(client.embed("Bye", model="vectors", dimensions=8)[0])


def test_models(face: Face, client: Client) -> None:
    """All of its models are listed."""
    assert set(face.call(client, "models")) == {*MOCKS, "loopback", "vectors"}


def test_a_picture(face: Face, client: Client, upstream: LoopbackServer) -> None:
    """A picture that is sent with a text arrives."""
    content = [{"type": "text", "text": ADA}, image(PICTURE)]
    answer = face.call(client, "complete", [{"role": "user", "content": content}], model="loopback")
    assert answer.text == ANSWER
    assert picture_of(upstream) == PICTURE


def test_another_endpoint(face: Face, client: Client) -> None:
    """What has no method of its own can be asked for."""
    answer = face.call(client, "request", "POST", "/responses", {"model": "mock", "input": ADA})
    assert answer["output"][0]["content"][0]["text"] == TEXT


# Errors -----------------------------------------------------------------------------------------------------------

OWN = {
    "limited": RateLimitError,
    "small": PromptTooLongError,
    "broken": InternalServerError,
    "unknown": NotFoundError,
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("model", "kind"), OWN.items(), ids=OWN)
def test_errors(face: Face, client: Client, model: str, kind: type[APIStatusError], stream: bool) -> None:
    """Errors of the proxy are known."""
    with pytest.raises(APIStatusError) as caught:
        face.call(client, "complete", ADA, model=model, stream=stream)
    assert type(caught.value) is kind
    assert caught.value.request_id


BEHIND = {
    "wrong key": (WRONG_KEY, AuthenticationError),
    "quota": (QUOTA, QuotaExceededError),
    "limit": (Fault.status(429), RateLimitError),
    "refused": (Fault.status(400), BadRequestError),
    "overloaded": (Fault.status(503), InternalServerError),
    "page": (Fault.html(502), InternalServerError),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("fault", "kind"), BEHIND.values(), ids=BEHIND)
def test_errors_behind_the_proxy(
    face: Face, client: Client, upstream: LoopbackServer, fault: Fault, kind: type[APIStatusError], stream: bool
) -> None:
    """Errors of the service behind it are what they would be without the proxy."""
    upstream.faults = [fault]
    with pytest.raises(APIStatusError) as caught:
        face.call(client, "complete", ADA, model="loopback", stream=stream)
    assert type(caught.value) is kind


def test_a_wrong_key(face: Face, url: str) -> None:
    """A proxy without a database takes its master key alone, and says so in its own way."""
    with pytest.raises(AuthenticationError):
        face.call(Client("sk-wrong", base_url=url, proxy=""), "complete", ADA)


def test_the_next_model(face: Face, client: Client) -> None:
    """A model that the proxy does not have is followed by the next."""
    assert face.call(client, "complete", ADA, model=["unknown", "mock"]).text == TEXT


def test_how_long_to_wait(client: Client, upstream: LoopbackServer) -> None:
    """The service behind the proxy is asked again when it says."""
    upstream.faults = [Fault.retry_after(1, first=1)]
    began, sent = time.monotonic(), len(upstream.requests)
    assert client.complete(ADA, model="loopback", retry=Retry(2, backoff=0)).text == ANSWER
    assert 1 <= time.monotonic() - began < 10
    assert len(upstream.requests) == sent + 2


def test_an_error_within_a_stream(face: Face, client: Client, upstream: LoopbackServer) -> None:
    """An error that comes behind some text is raised with that text."""
    upstream.faults = [Fault.error_frame("upstream failed", after=2)]
    error = face.ask(client, ADA, model="loopback").error
    assert isinstance(error, InternalServerError)
    assert "upstream failed" in str(error)
    assert error.partial == "Pleased to"


# Limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False])
def test_a_limit(face: Face, client: Client, stream: bool) -> None:
    """A proxy that takes too long is not waited for."""
    began = time.monotonic()
    with pytest.raises(APITimeoutError) as caught:
        face.call(client, "complete", ADA, model="slow", timeout=Timeout(total=0.5), stream=stream)
    assert caught.value.phase == "total"
    assert time.monotonic() - began < 5


def test_silence_within_a_stream(face: Face, client: Client, upstream: LoopbackServer) -> None:
    """Text that came is kept when no more follows."""
    upstream.faults = [Fault.timeout(after=2)]
    error: ChatAnywhereError | None = face.ask(client, ADA, model="loopback", timeout=Timeout(read=0.5)).error
    assert isinstance(error, APITimeoutError)
    assert (error.phase, error.partial) == ("read", "Pleased to")


def test_cancel(client: Client, upstream: LoopbackServer) -> None:
    """A stream stops when it is told to by another thread."""
    upstream.faults = [Fault.timeout(after=2)]
    with client.stream(ADA, model="loopback") as stream:
        threading.Timer(0.5, stream.cancel).start()
        with pytest.raises(StreamCancelledError) as caught:
            "".join(stream)
    assert caught.value.partial == "Pleased to"
