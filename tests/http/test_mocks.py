"""Programs test themselves with mocks of requests and urllib3: `responses`, which answers, and vcrpy, which records."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import responses
import trustme
import vcr
from faces import Face
from vcr.errors import CannotOverwriteExistingCassetteException

from chatanywhere import APIConnectionError, BadRequestError, Client, InternalServerError, Retry
from chatanywhere.testing import Fault, LoopbackServer

URL = "https://api.example"
CHATS = {"openai": f"{URL}/v1/chat/completions", "web": f"{URL}/v1/chat/gpt/"}
EVENT = {"choices": [{"delta": {"content": "天若有情"}}]}
BODIES = {
    "openai": f"data: {json.dumps(EVENT)}\n\ndata: [DONE]\n\n",
    "web": "天若有情",
}
TYPES = {"openai": "text/event-stream", "web": "text/plain; charset=utf-8"}

protocols = pytest.mark.parametrize("protocol", ["openai", "web"])


def client_of(base_url: str, protocol: str = "openai", **settings: Any) -> Client:
    return Client("test-key", base_url=base_url, protocol=protocol, **{"retry": None, "timeout": 20, **settings})


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """A server that answers with the number of the chat."""
    with LoopbackServer(lambda _: f"answer {len(server.requests)}") as server:
        yield server


# responses ----------------------------------------------------------------------------------------------------


@protocols
def test_responses_answers(face: Face, protocol: str) -> None:
    """A mocked answer comes out whole, and the request is there to be looked at."""
    with responses.RequestsMock() as mock:
        mock.post(CHATS[protocol], body=BODIES[protocol], content_type=TYPES[protocol])
        outcome = face.ask(client_of(URL, protocol))
        assert (outcome.text, outcome.error) == ("天若有情", None)
        assert b"Hello" in mock.calls[0].request.body


@protocols
def test_responses_may_fail_at_first(face: Face, protocol: str) -> None:
    """Statuses and errors that a mock raises are followed by the attempts that `retry` allows."""
    with responses.RequestsMock() as mock:
        mock.post(CHATS[protocol], status=503)
        mock.post(CHATS[protocol], body=ConnectionResetError(104, "reset"))
        mock.post(CHATS[protocol], body=BODIES[protocol], content_type=TYPES[protocol])
        outcome = face.ask(client_of(URL, protocol, retry=Retry(attempts=3, backoff=0)))
        assert (outcome.text, outcome.error) == ("天若有情", None)
        assert len(mock.calls) == 3


def test_a_status_of_responses_is_told(face: Face) -> None:
    """With its body and its number of attempts."""
    with responses.RequestsMock() as mock:
        mock.post(CHATS["openai"], status=400, json={"error": {"message": "no such model"}})
        outcome = face.ask(client_of(URL, retry=3))
    assert type(outcome.error) is BadRequestError
    assert outcome.error.attempts == 1
    assert "no such model" in str(outcome.error)


def test_an_error_of_responses_is_told(face: Face) -> None:
    """What a mock has not been told to answer is a connection error, as with requests itself."""
    with responses.RequestsMock():
        outcome = face.ask(client_of(URL))
    assert type(outcome.error) is APIConnectionError


def test_responses_takes_a_client_that_has_connections(server: LoopbackServer, face: Face) -> None:
    """While the mock is active nothing reaches the server; before it and after it, the same connection does."""
    with client_of(server.url) as client:
        assert face.ask(client).text == "answer 1"
        with responses.RequestsMock() as mock:
            mock.post(f"{server.url}/v1/chat/completions", body=BODIES["openai"], content_type=TYPES["openai"])
            assert face.ask(client).text == "天若有情"
        assert face.ask(client).text == "answer 2"
    assert (len(server.requests), server.connections) == (2, 1)


# vcrpy --------------------------------------------------------------------------------------------------------


def cassette(path: Path, **settings: Any) -> Any:
    """Record what is not on the cassette, and play what is."""
    return vcr.use_cassette(str(path / "cassette.yaml"), **settings)


@protocols
def test_a_cassette_is_recorded_and_played(face: Face, tmp_path: Path, protocol: str) -> None:
    """Played with the server closed, the call gets the same answer, from the cassette alone."""
    with LoopbackServer(lambda _: ["one ", "二 ", "three"]) as server, client_of(server.url, protocol) as client:
        with cassette(tmp_path) as recorded:
            outcome = face.ask(client)
        assert (outcome.text, outcome.error) == ("one 二 three", None)
        assert len(recorded) == len(server.requests) == 1
        url = server.url
    with client_of(url, protocol) as client, cassette(tmp_path, record_mode="none") as played:
        outcome = face.ask(client)
    assert (outcome.text, outcome.error) == ("one 二 three", None)
    assert played.play_count == 1


def test_a_cassette_is_recorded_and_played_over_tls(face: Face, tmp_path: Path) -> None:
    """The same with https."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with LoopbackServer(lambda _: "Hi", tls=context) as server:
        url = server.url
        with client_of(url, verify=tmp_path / "ca.pem") as client, cassette(tmp_path):
            assert face.ask(client).text == "Hi"
    with client_of(url, verify=tmp_path / "ca.pem") as client, cassette(tmp_path, record_mode="none") as played:
        assert face.ask(client).text == "Hi"
    assert played.play_count == 1


def test_errors_are_recorded_and_played(face: Face, tmp_path: Path) -> None:
    """A status that is tried again is on the cassette as often as it came."""
    retry = Retry(attempts=3, backoff=0)
    with LoopbackServer(lambda _: "Hi", faults=[Fault.status(503, first=2)]) as server:
        url = server.url
        with client_of(url, retry=retry) as client, cassette(tmp_path) as recorded:
            assert face.ask(client).text == "Hi"
        assert len(recorded) == len(server.requests) == 3
    with client_of(url, retry=retry) as client, cassette(tmp_path, record_mode="none") as played:
        assert face.ask(client).text == "Hi"
    assert played.play_count == 3
    with client_of(url) as client, cassette(tmp_path, record_mode="none"):
        outcome = face.ask(client)
    assert type(outcome.error) is InternalServerError


def test_what_is_not_on_a_cassette_does_not_go_to_the_network(
    server: LoopbackServer, face: Face, tmp_path: Path
) -> None:
    """The error of vcrpy passes, and nothing is tried again."""
    with client_of(server.url, retry=Retry(attempts=3, backoff=0)) as client:
        with (
            cassette(tmp_path, record_mode="none"),
            pytest.raises(CannotOverwriteExistingCassetteException),
        ):
            face.ask(client)
        assert not server.requests


def test_a_client_that_has_connections_plays_and_goes_back_to_the_network(
    server: LoopbackServer, face: Face, tmp_path: Path
) -> None:
    """Inside a cassette its idle connection is not used, behind it the network is."""
    with client_of(server.url) as client:
        assert face.ask(client).text == "answer 1"
        with cassette(tmp_path):
            assert face.ask(client).text == "answer 2"
        with cassette(tmp_path, record_mode="none") as played:
            assert face.ask(client).text == "answer 2"
            assert played.play_count == 1
        assert len(server.requests) == 2
        assert face.ask(client).text == "answer 3"
        assert face.ask(client).text == "answer 4"
    assert len(server.requests) == 4


def test_models_are_recorded_and_played(server: LoopbackServer, tmp_path: Path) -> None:
    """What is asked with GET is, too."""
    with client_of(server.url) as client:
        with cassette(tmp_path):
            models = client.models()
        with cassette(tmp_path, record_mode="none") as played:
            assert client.models() == models
    assert played.play_count == len(server.requests) == 1


FIRST_IMPORT = """
import sys
import vcr
url, path, face = sys.argv[1:]
assert "chatanywhere" not in sys.modules

def ask(client):
    if face == "sync":
        return client.complete("Hello").text
    import anyio

    async def main():
        return (await client.as_async().complete("Hello")).text

    return anyio.run(main, backend=face)

with vcr.use_cassette(path):
    from chatanywhere import Client
    client = Client("test-key", base_url=url, retry=None, timeout=20, proxy="")
    print(ask(client))
with vcr.use_cassette(path, record_mode="none", allow_playback_repeats=True):
    print(ask(client))
    print(ask(Client("test-key", base_url=url, retry=None, timeout=20, proxy="")))
print(ask(client))
print(ask(Client("test-key", base_url=url, retry=None, timeout=20, proxy="")))
"""


def test_the_first_import_may_be_inside_a_cassette(server: LoopbackServer, face: Face, tmp_path: Path) -> None:
    """It records and plays there, and goes to the network behind it."""
    arguments = [server.url, str(tmp_path / "cassette.yaml"), face.name]

    ran = subprocess.run(
        [sys.executable, "-c", FIRST_IMPORT, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["answer 1", "answer 1", "answer 1", "answer 2", "answer 3"]
    assert len(server.requests) == 3
