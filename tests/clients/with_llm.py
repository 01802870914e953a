"""Simon Willison's `llm`: a model of `extra-openai-models.yaml`, in Python and at the command line."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import llm
import openai
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

from chatanywhere.testing import Fault, LoopbackServer

MODEL = """
- model_id: loopback
  model_name: gpt-4o-mini
  api_base: {url}/v1
  supports_schema: true
  supports_tools: true
  vision: true
"""


@pytest.fixture
def serve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., LoopbackServer]]:
    """Starts a server with these replies, of which `llm` knows as the model `loopback`."""
    servers = []

    def start(replies: Any = None) -> LoopbackServer:
        server = LoopbackServer(replies).start()
        servers.append(server)
        (tmp_path / "extra-openai-models.yaml").write_text(MODEL.format(url=server.url))
        monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.url}/v1")
        return server

    yield start
    for server in servers:
        server.close()


def test_answers(serve: Callable[..., LoopbackServer]) -> None:
    """An answer comes in pieces, at once, and asynchronously, with its usage."""
    serve()
    model = llm.get_model("loopback")
    assert "".join(pieces := list(model.prompt(ADA))) == ANSWER
    assert len(pieces) == 9
    assert model.prompt(ADA, stream=False).text() == ANSWER
    response = model.prompt(ADA)
    assert response.text() == ANSWER
    assert response.usage().output == 9

    async def ask() -> str:
        return str(await llm.get_async_model("loopback").prompt(ADA).text())

    assert asyncio.run(ask()) == ANSWER


def test_a_conversation(serve: Callable[..., LoopbackServer]) -> None:
    """The history is sent."""
    serve()
    conversation = llm.get_model("loopback").conversation()
    conversation.prompt("My name is Ada.").text()
    assert "Ada" in conversation.prompt("What is my name?").text()


@pytest.mark.parametrize("stream", [True, False])
def test_a_schema(serve: Callable[..., LoopbackServer], stream: bool) -> None:
    """An answer fits a model."""
    serve()
    Person.model_validate_json(llm.get_model("loopback").prompt(ADA, schema=Person, stream=stream).text())


@pytest.mark.parametrize("stream", [True, False])
def test_tools(serve: Callable[..., LoopbackServer], stream: bool) -> None:
    """A tool is called, and its result is told."""
    server = serve(WEATHER)
    chain = llm.get_model("loopback").chain("How is the weather?", tools=[weather], stream=stream)
    assert chain.text() == "It is 22 degrees."
    assert results_of(server) == ["22 degrees in Paris"]


def test_embeddings(serve: Callable[..., LoopbackServer]) -> None:
    """Texts have vectors."""
    serve()
    model = llm.get_embedding_model("3-small")
    assert [len(vector) for vector in model.embed_batch(["Hello", "Bye"], key="x")] == [1536, 1536]


def test_a_picture(serve: Callable[..., LoopbackServer]) -> None:
    """A picture that is sent with a text arrives."""
    server = serve()
    picture = llm.Attachment(content=PICTURE, type="image/png")
    assert llm.get_model("loopback").prompt(ADA, attachments=[picture]).text() == ANSWER
    assert picture_of(server) == PICTURE


ERRORS = {"wrong key": (WRONG_KEY, openai.AuthenticationError), "quota": (QUOTA, openai.RateLimitError)}


@pytest.mark.parametrize(("fault", "kind"), ERRORS.values(), ids=ERRORS.keys())
def test_errors(serve: Callable[..., LoopbackServer], fault: Fault, kind: type[Exception]) -> None:
    """What goes wrong is the error of OpenAI's SDK."""
    serve().faults = [fault]
    with pytest.raises(kind):
        llm.get_model("loopback").prompt(ADA).text()


def test_a_busy_server(serve: Callable[..., LoopbackServer]) -> None:
    """It is asked again when it says."""
    with waited_for_a_second(serve()):
        llm.get_model("loopback").prompt(ADA).text()


@pytest.mark.parametrize("arguments", [["-m", "loopback"], ["openai", "endpoint", "URL", "-m", "gpt-4o-mini"]])
def test_the_command(serve: Callable[..., LoopbackServer], arguments: list[str]) -> None:
    """The command asks the model of the file, or any server by its URL."""
    url = f"{serve().url}/v1"
    command = [sys.executable, "-m", "llm", *(url if each == "URL" else each for each in arguments), ADA]
    environment = {**os.environ, "no_proxy": "127.0.0.1"}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (ran.stdout.strip(), ran.returncode) == (ANSWER, 0), ran.stderr
