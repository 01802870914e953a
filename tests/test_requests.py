"""Requests as people make them: every way to name a service, to write a message, to give an option."""

from __future__ import annotations

import collections
import copy
import dataclasses
import datetime
import decimal
import enum
import errno
import fractions
import functools
import inspect
import io
import itertools
import json
import pickle
import re
import socket
import threading
import time
import types
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import anyio
import anyio.to_thread
import pytest
import requests
import responses
from faces import Face
from hypothesis import example, given
from hypothesis import strategies as st
from raw_server import RawServer

from chatanywhere import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    ChatAnywhereAPI,
    Client,
    Completion,
    InternalServerError,
    ProtocolError,
    Retry,
    StreamInterruptedError,
    Timeout,
    ToolCall,
    UnprocessableEntityError,
)
from chatanywhere._call import Call
from chatanywhere._config import Settings
from chatanywhere._protocols.protocol import Endpoint, JSONDecoder
from chatanywhere._service import Service
from chatanywhere.testing import Fault, LoopbackServer

try:
    import openai
    from openai.types.chat import ChatCompletionMessage
    from pydantic import BaseModel
except ImportError:  # they have no wheels for the newest Python
    HAS_OPENAI = False
else:
    HAS_OPENAI = True
try:
    import numpy
except ImportError:
    HAS_NUMPY = False
else:
    HAS_NUMPY = True

KEY = "sk-0123456789abcdef"
CHAT = "/chat/completions"


def sent(client: Client, messages: Any = "Hello", **options: Any) -> Any:
    """Make a call to a mocked service, and return the request that it got."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        mock.post(re.compile(".*"), body=EVENTS, content_type="text/event-stream")
        with client.stream(messages, **options) as stream:
            list(stream)
        return mock.calls[0].request


# Base URLs ----------------------------------------------------------------------------------------------------

HOSTS = (
    "https://api.example",
    "http://127.0.0.1:8000",
    "http://[::1]:8000",
    "http://localhost",
    "https://例え.example",
)
PATHS = (
    "/v1",
    "/v1beta/openai",
    "/api/paas/v4",
    "/compatible-mode/v1",
    "/openai/deployments/gpt-4o",
    "/v1/v1",
    "/chat",
)
QUERIES = ("", "?api-version=2024-10-21", "?a=1&b=%2F&a=2&c")
ENDINGS = ("", "/", CHAT, f"{CHAT}/")
SPELLINGS = [
    pytest.param(f"{host}{path}{ending}{query}", f"{host}{path}{CHAT}{query}", id=f"{host}{path}{ending}{query}")
    for host, path, ending, query in itertools.product(HOSTS, PATHS, ENDINGS, QUERIES)
]
BARE = [
    pytest.param(f"{host}{ending}{query}", f"{host}/v1{CHAT}{query}", id=f"{host}{ending}{query}")
    for host, ending, query in itertools.product(HOSTS, ("", "/", "//"), QUERIES)
]
FULL = [
    pytest.param(f"{host}{CHAT}{ending}{query}", f"{host}{CHAT}{query}", id=f"{host}{CHAT}{ending}{query}")
    for host, ending, query in itertools.product(HOSTS, ("", "/"), QUERIES)
]


def ascii_url(url: str) -> str:
    """The URL as it is sent: with the host's name in Punycode."""
    return url.replace("例え", "xn--r8jz45g")


@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize(("base_url", "url"), [*SPELLINGS, *BARE, *FULL])
def test_a_base_url_is_taken_by_one_rule(monkeypatch: pytest.MonkeyPatch, base_url: str, url: str, way: str) -> None:
    """A bare host gets /v1, any path is taken as it is, a full URL is cut to its base, and a query is kept."""
    if way == "environment":
        monkeypatch.setenv("CHATANYWHERE_BASE_URL", f" {base_url}\n")
    assert sent(Client(KEY, base_url=base_url if way == "argument" else None)).url == ascii_url(url)


@pytest.mark.parametrize("variable", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
@pytest.mark.parametrize("path", PATHS)
def test_the_variables_of_openais_library_go_by_the_same_rule(
    monkeypatch: pytest.MonkeyPatch, variable: str, path: str
) -> None:
    """What stands behind the host of the service is taken as it is there too."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv(variable, f"https://api.chatanywhere.org{path}{CHAT}?a=1")
    assert sent(Client()).url == f"https://api.chatanywhere.org{path}{CHAT}?a=1"


@pytest.mark.parametrize(("host", "query"), [*itertools.product(HOSTS, QUERIES)])
@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/", "/v1/chat/gpt", "/v1/chat/gpt/"])
def test_the_page_is_asked_in_every_spelling(host: str, path: str, query: str) -> None:
    """The web protocol has one path on a host, and takes that as it may stand in a base URL."""
    url = sent(Client(base_url=f"{host}{path}{query}", protocol="web")).url
    assert url == ascii_url(f"{host}/v1/chat/gpt/{query}")


@pytest.mark.parametrize("path", ["", *PATHS])
@pytest.mark.parametrize("query", QUERIES)
def test_every_endpoint_is_asked_below_the_base(path: str, query: str) -> None:
    """models() goes the same way, the query included."""
    with responses.RequestsMock() as mock:
        mock.get(re.compile(".*"), json={"data": []})
        Client(KEY, base_url=f"https://api.example{path}{query}").models()
        assert mock.calls[0].request.url == f"https://api.example{path or '/v1'}/models{query}"


SECRETS = ("pa55", "pa55\\word", "pa55/word", "pa55#word", "pa55?word", "pa55 word", "pa55@word", "pa55:word", "")


@pytest.mark.parametrize("secret", SECRETS)
@pytest.mark.parametrize("rest", ["api.example", "api.example:99999", "api.example:port/v1", "", "[::1", "h/#a"])
@pytest.mark.parametrize("scheme", ["https://", "", "ftp://"])
@pytest.mark.parametrize("way", ["argument", "environment"])
def test_a_password_in_a_base_url_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch, scheme: str, secret: str, rest: str, way: str
) -> None:
    """However the URL is misspelled, the error does not show what stands before the @."""
    base_url = f"{scheme}alice:{secret}@{rest}"
    if way == "environment":
        monkeypatch.setenv("CHATANYWHERE_BASE_URL", base_url)
    with pytest.raises(ValueError, match="base_url") as caught:
        Client(KEY, base_url=base_url if way == "argument" else None)
    for word in ("alice", *secret.replace("word", "").split()):
        assert not word or word not in str(caught.value)
    assert caught.value.__cause__ is None


def test_the_query_of_a_base_url_is_not_shown() -> None:
    """It may hold a key, so a client's repr leaves it out."""
    for client in (
        Client(KEY, base_url="https://a.example?key=hidden"),
        AsyncClient(KEY, base_url="https://a.example/x?key=hidden"),
    ):
        assert "hidden" not in repr(client)
        assert "https://a.example/" in repr(client)


@pytest.mark.parametrize(
    "base_url",
    ["https://a.example/\ud83d", "https://a.example/\x00", "https://a.example/a\r\nb", "https://a.example/\u200b"],
)
def test_a_base_url_with_what_can_t_be_sent_is_refused(base_url: str) -> None:
    """Half a character, a control character or an invisible one is told when the client is made."""
    with pytest.raises(ValueError, match="not a URL"):
        Client(KEY, base_url=base_url)


# The provider -------------------------------------------------------------------------------------------------

MESSAGES = [{"role": "user", "content": "Hello"}]


def asked_by_the_provider(**arguments: Any) -> list[str]:
    """The URLs that the live service's provider asks, while none can be reached."""
    asked = []
    with responses.RequestsMock() as mock:

        def refuse(request: Any) -> Any:
            asked.append(request.url)
            raise requests.ConnectionError("refused")

        mock.add_callback(responses.POST, re.compile(".*"), refuse)
        with pytest.raises(APIConnectionError):
            list(ChatAnywhereAPI.create_completion("", MESSAGES, api_key=KEY, retry=None, **arguments))
    return asked


def test_the_provider_asks_all_live_hosts() -> None:
    """With its URL unchanged it asks the hosts that a client asks."""
    hosts = ("https://api.chatanywhere.tech", "https://api.chatanywhere.org")
    assert asked_by_the_provider() == [f"{host}/v1{CHAT}" for host in hosts]


def test_the_provider_goes_where_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A relay's key goes to the relay; what the program names comes before it."""
    monkeypatch.setenv("CHATANYWHERE_BASE_URL", "https://relay.example/api/v3")
    assert asked_by_the_provider() == [f"https://relay.example/api/v3{CHAT}"]
    assert asked_by_the_provider(base_url="https://b.example") == [f"https://b.example/v1{CHAT}"]
    monkeypatch.setattr(ChatAnywhereAPI, "url", "https://own.example")
    assert asked_by_the_provider() == [f"https://own.example/v1{CHAT}"]


def test_the_provider_has_openais_extra_keywords_too() -> None:
    """They are no fields of the body there either."""
    with LoopbackServer(["Hi"]) as server:
        arguments = {"api_key": KEY, "base_url": f"{server.url}/v1?a=1", "extra_headers": {"X-Mine": "1"}}
        pieces = ChatAnywhereAPI.create_completion(
            "", MESSAGES, **arguments, extra_query={"b": 2}, extra_body={"seed": 3}
        )
        assert "".join(piece for piece in pieces if isinstance(piece, str)) == "Hi"  # g4f may be loaded
        (request,) = server.requests
    assert (request.path, request.headers["X-Mine"]) == (f"/v1{CHAT}?a=1&b=2", "1")
    assert request.json["seed"] == 3
    assert not [name for name in request.json if name.startswith("extra_")]


# Fields that the caller did not ask for -------------------------------------------------------------------------

REFUSALS = {
    "OpenAI's": {"error": {"message": "Unknown parameter: 'stream_options'.", "param": "stream_options"}},
    "its parameter only": {"error": {"message": "Unknown parameter.", "param": "stream_options"}},
    "FastAPI's": {"detail": [{"type": "extra_forbidden", "loc": ["body", "stream_options"], "msg": "Extra inputs"}]},
    "a str": {"error": "stream_options is not supported"},
    "a message": {"message": "[stream_options] invalid", "code": 20015},
    "a list": [{"error": {"code": 400, "message": 'Unknown name "stream_options": Cannot find field.'}}],
    "plain text": 'bad request: json: unknown field "stream_options"',
    "a page": "<html><title>Bad Request</title><p>stream_options: extra fields not permitted</html>",
    "what is in it": {"error": {"message": "Unknown field: include_usage"}},
    "its other spelling": {"error": {"message": "Unrecognized property 'streamOptions'"}},
    "in words": {"error": {"message": "Stream options are not supported"}},
}


def refusing_server(raw_server: RawServer, status: int, refusal: object, field: bytes = b'"stream_options"') -> None:
    """Answer requests that have the field with an error, and others with a text."""
    words = (refusal if isinstance(refusal, str) else json.dumps(refusal)).encode()
    refused = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(words), words)
    raw_server.steps = lambda request: [refused if field in request else ANSWER, None]


EVENTS = b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (len(EVENTS), EVENTS)


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_field_of_the_clients_own_that_is_refused_is_left_out(
    raw_server: RawServer, face: Face, status: int, refusal: object
) -> None:
    """The server is asked once more without it, on the same connection and as the same attempt, and from then on."""
    refusing_server(raw_server, status, refusal)
    with Client(KEY, base_url=raw_server.url, retry=None) as client:
        assert face.ask(client, "你好 \ud83d", temperature=0.5).text == "Hi"
        first, second = (json.loads(request.partition(b"\r\n\r\n")[2]) for request in raw_server.requests)
        assert first.pop("stream_options") == {"include_usage": True}
        assert first == second
        for _ in range(2):
            assert face.ask(client).text == "Hi"
        assert len(raw_server.requests) == 4
        assert face.ask(client, stream_options={"include_usage": False}).error is not None  # the caller's own
        assert client.complete("Hello", stream_options=None).text == "Hi"
        assert copy.copy(client).complete("Hello").text == "Hi"  # it has to learn that by itself
    assert raw_server.connections <= 4


def test_a_refusal_is_remembered_for_the_host_that_refused() -> None:
    """Another host is still asked for the usage."""
    refusing = RawServer()
    refusing_server(refusing, 400, REFUSALS["a str"])
    with LoopbackServer(["Hi"]) as other:
        client = Client(KEY, base_url=[refusing.url, other.url], retry=None, timeout=10)
        assert client.complete("Hello").text == "Hi"
        refusing.close()
        client.close()
        assert client.complete("Hello").usage is not None
        assert "stream_options" in other.requests[-1].json


def test_a_refusal_is_not_taken_for_that_of_the_host_that_answers(raw_server: RawServer) -> None:
    """Where the host that refused can't be reached any more, and another answers, that one is asked for the usage."""
    refused = b"HTTP/1.1 400 No\r\nContent-Length: 14\r\nConnection: close\r\n\r\nstream_options"

    def refuse(_: bytes) -> list[bytes | None]:
        raw_server.stop_listening()
        return [refused, None]

    raw_server.steps = refuse
    with LoopbackServer(["Hi", "Hi"]) as other:
        client = Client(KEY, base_url=[raw_server.url, other.url], retry=None, timeout=10)
        assert client.complete("Hello").text == "Hi"
        assert client.complete("Hello").usage is not None


def test_what_is_not_streamed_is_not_asked_for_options_of_a_stream() -> None:
    """`extra_body={"stream": False}` takes back what the client adds to a stream, so no server has to refuse it."""
    with LoopbackServer(["Hi"]) as server:
        assert Client(KEY, base_url=server.url).complete("Hello", extra_body={"stream": False}).text == "Hi"
        assert "stream_options" not in server.requests[0].json


@pytest.mark.parametrize(
    ("status", "words", "attempts"),
    [
        (400, "temperature is too high", 1),
        (403, "stream_options", 1),
        (404, "stream_options", 1),
        (500, "stream_options", 2),
    ],
)
def test_other_errors_are_what_they_were(raw_server: RawServer, status: int, words: str, attempts: int) -> None:
    """An error that names no such field, or has another status, is not followed by a request without it."""
    refusing_server(raw_server, status, {"error": {"message": words}})
    with pytest.raises(APIStatusError) as caught:
        Client(KEY, base_url=raw_server.url, retry=Retry(2, 0)).complete("Hello")
    assert caught.value.attempts == len(raw_server.requests) == attempts
    assert all(b"stream_options" in request for request in raw_server.requests)


def test_a_refusal_of_all_requests_is_told(raw_server: RawServer) -> None:
    """A server that repeats what it was sent in every error is asked once more, and what it says then is the error."""
    refusing_server(raw_server, 422, {"detail": [{"msg": "no", "input": {"stream_options": {}}}]}, b"HTTP/1.1")
    client = Client(KEY, base_url=raw_server.url)
    for count in (2, 4):  # nothing is remembered
        with pytest.raises(UnprocessableEntityError) as caught:
            client.complete("Hello")
        assert (caught.value.attempts, len(raw_server.requests)) == (1, count)
    for _ in range(2):
        with pytest.raises(UnprocessableEntityError):
            client.complete("Hello", stream=False)  # which sends no such field
    assert len(raw_server.requests) == 6


def test_any_endpoint_may_have_such_fields(raw_server: RawServer) -> None:
    """An endpoint names the fields that it is worth asking without, and each of them is left out when it is refused."""
    fields = ("encoding_format", "dimensions")

    def answer(request: bytes) -> list[Any]:
        name = next((name for name in fields if name.encode() in request), None)
        if name is None:
            return [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n[42]", None]
        return [b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name.encode()), None]

    raw_server.steps = answer
    endpoint = Endpoint("POST", "/embeddings", lambda *_: JSONDecoder(list, "a list"), added=fields)
    service = Service(Settings(KEY, base_url=raw_server.url))
    prepare = functools.partial(Call, service.settings, service.transport, service.hosts, endpoint)
    body = {"input": "Hi", "encoding_format": "base64", "dimensions": 3}
    assert prepare(body, max_bytes=None, retry=None).read() == [42]
    assert len(raw_server.requests) == 3
    assert prepare(body, max_bytes=None, retry=None).read() == [42]
    assert len(raw_server.requests) == 4
    with pytest.raises(APIStatusError, match="encoding_format"):
        prepare(body, max_bytes=None, own_fields=["encoding_format"], retry=None).read()
    service.close()


# One JSON object ----------------------------------------------------------------------------------------------


def complete(face: Face, client: Client, **options: Any) -> Completion:
    """Ask with the `complete()` of a face."""
    if face.name == "sync":
        return client.complete("Hello", **options)

    async def ask() -> Completion:
        return await client.as_async().complete("Hello", **options)

    return anyio.run(ask, backend=face.name)


def test_a_whole_answer_may_be_asked_for(face: Face) -> None:
    """complete(stream=False) asks for one JSON object, which says what it cost without being asked."""
    with LoopbackServer(["one two"]) as server, Client(KEY, base_url=server.url) as client:
        completion = complete(face, client, stream=False, temperature=0.5)
        (request,) = server.requests
    assert (completion.text, completion.finish_reason) == ("one two", "stop")
    assert completion.usage is not None
    assert request.headers["Accept"] == "application/json"
    assert request.json == {
        "model": "gpt-4o-mini",
        "messages": MESSAGES,
        "stream": False,
        "temperature": 0.5,
    }


def test_a_whole_answer_may_be_asked_for_without_a_word(face: Face) -> None:
    """complete(stream=None) asks for the same, and leaves the field out, as None does with any other."""
    with LoopbackServer(["one two"]) as server, Client(KEY, base_url=server.url) as client:
        assert complete(face, client, stream=None).text == "one two"
        (request,) = server.requests
    assert request.json == {"model": "gpt-4o-mini", "messages": MESSAGES}


def test_a_model_may_think_in_silence_for_as_long_as_the_call_may_take(raw_server: RawServer, face: Face) -> None:
    """The limit of silence is off where there is nothing but silence, before the head and within the body."""
    body = b'{"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
    thinks = threading.Event()
    raw_server.answer(lambda _: thinks.wait(0.5), head + body[:5], lambda _: thinks.wait(0.5), body[5:], None)
    limits = Timeout(total=20, read=0.1)
    with Client(KEY, base_url=raw_server.url, timeout=limits, retry=None) as client:
        assert complete(face, client, stream=False).text == "Hi"
        with pytest.raises(APITimeoutError):
            complete(face, client)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("where", ["client", "call"])
def test_the_whole_call_is_limited_and_made_once(raw_server: RawServer, face: Face, begun: bool, where: str) -> None:
    """After its total there is a timeout and no other request, which would be billed again."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    raw_server.answer(*([head] if begun else []), raw_server.hold)
    limit = {"timeout": Timeout(total=0.4, read=0.1)}
    client = Client(KEY, base_url=raw_server.url, retry=3, **(limit if where == "client" else {}))  # type: ignore[arg-type]
    began = time.monotonic()
    with pytest.raises(APITimeoutError) as caught:
        complete(face, client, stream=False, **(limit if where == "call" else {}))
    assert 0.3 < time.monotonic() - began < 10
    assert (caught.value.phase, caught.value.attempts, len(raw_server.requests)) == ("total", 1, 1)


@pytest.mark.parametrize(("status", "repeated"), [(504, False), (524, False), (500, True), (502, True), (503, True)])
def test_a_gateway_that_gave_up_is_not_asked_again(raw_server: RawServer, status: int, repeated: bool) -> None:
    """Behind it the model may go on, and be paid for; other failures are tried again, and so is any that streams."""
    raw_server.answer(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status, None)
    with Client(KEY, base_url=raw_server.url, retry=Retry(2, 0)) as client:
        with pytest.raises(APIStatusError) as caught:
            client.complete("Hello", stream=False)
        assert caught.value.attempts == len(raw_server.requests) == 1 + repeated
        with pytest.raises(APIStatusError) as caught:
            client.complete("Hello")
        assert caught.value.attempts == 2


def test_a_wait_that_the_system_ended_is_not_repeated() -> None:
    """When TCP itself gives a connection up, the model may have gone on all the same."""

    class Silent(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            raise TimeoutError(errno.ETIMEDOUT, "Connection timed out")

    with responses.RequestsMock() as mock:
        mock.post(re.compile(".*"), body=io.BufferedReader(Silent()), content_type="application/json")
        client = Client(KEY, base_url="https://a.example", retry=Retry(3, 0))
        with pytest.raises(APITimeoutError) as caught:
            client.complete("Hello", stream=False)
        assert (caught.value.attempts, len(mock.calls)) == (1, 1)


def test_a_silent_call_can_be_cancelled(raw_server: RawServer) -> None:
    """Ctrl-C, or a task that is cancelled, ends the wait for one JSON object and closes its connection."""
    closed, asked = threading.Event(), threading.Event()

    def wait_for_close(connection: socket.socket) -> None:
        asked.set()
        connection.settimeout(10)
        if not connection.recv(1):
            closed.set()

    raw_server.answer(wait_for_close)

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            client = AsyncClient(KEY, base_url=raw_server.url)
            tasks.start_soon(functools.partial(client.complete, "Hello", stream=False, timeout=None))
            await anyio.to_thread.run_sync(asked.wait, 10)
            tasks.cancel_scope.cancel()

    anyio.run(main)
    assert closed.wait(5)
    assert len(raw_server.requests) == 1


def test_the_page_can_only_stream() -> None:
    """The web protocol has no JSON object to answer with, and says so before anything is sent."""
    with LoopbackServer() as server:
        with pytest.raises(RuntimeError, match="protocol='openai'"):
            Client(base_url=server.url, protocol="web").complete("Hello", stream=False)
        assert server.requests == []


CUTS = [Fault.reset_peer(after=1, first=1), Fault.no_done(after=1, first=1), Fault.error_frame(after=1, first=1)]


@pytest.mark.parametrize("fault", CUTS, ids=["reset", "no done", "error frame"])
@pytest.mark.parametrize("protocol", ["openai", "web"])
@pytest.mark.usefixtures("pieces_apart")
def test_complete_asks_again_for_an_answer_that_was_cut(face: Face, fault: Fault, protocol: Any) -> None:
    """Nothing of it has been given out, so the second answer is the whole one; a stream's pieces have."""
    if protocol == "web" and fault is not CUTS[0]:
        pytest.skip("there is no such end on this protocol")
    with LoopbackServer(lambda _: ["one ", "two"], faults=[fault]) as server:
        client = Client(KEY, base_url=server.url, protocol=protocol, retry=Retry(2, 0))
        assert complete(face, client).text == "one two"
        assert len(server.requests) == 2
    with LoopbackServer(lambda _: ["one ", "two"], faults=[fault]) as server:
        outcome = face.ask(Client(KEY, base_url=server.url, protocol=protocol, retry=Retry(2, 0)))
        assert (outcome.text, len(server.requests)) == ("one ", 1)
        assert outcome.error is not None


@pytest.mark.usefixtures("pieces_apart")
def test_complete_gives_up_with_what_had_come(face: Face) -> None:
    """When every attempt was cut, the error has the last one's text and the count of all."""
    with LoopbackServer(lambda _: ["one ", "two"], faults=[Fault.reset_peer(after=1)]) as server:
        with pytest.raises(StreamInterruptedError) as caught:
            complete(face, Client(KEY, base_url=server.url, retry=Retry(2, 0)))
        assert (caught.value.partial, caught.value.attempts, len(server.requests)) == ("one ", 2, 2)


# Keywords -----------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_OPENAI, reason="needs OpenAI's library")
@pytest.mark.parametrize("way", ["stream", "complete"])
def test_openais_extra_keywords_mean_what_they_mean_there(way: str) -> None:
    """They make the same request as OpenAI's library makes of them: headers, parameters, fields; none in the body."""
    extra: dict[str, Any] = {
        "extra_headers": {"X-Secret": "s3cret", "user-agent": "mine"},
        "extra_query": {"a": 1, "b": True, "c": [1, 2], "d": {"e": "ü &", "f": None}, "g": "", "h": None, "i": 0.5},
        "extra_body": {"top_k": 5, "temperature": 0.1, "guided": {"choice": ["a", None]}, "seed": None},
    }
    with LoopbackServer(lambda _: "Hi") as server:
        with openai.OpenAI(api_key=KEY, base_url=f"{server.url}/v1", max_retries=0) as theirs:
            theirs.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Hello"}], temperature=0.9, **extra
            )
        with Client(KEY, base_url=server.url) as client:
            if way == "stream":
                list(client.stream("Hello", model="m", temperature=0.9, headers={"User-Agent": "no"}, **extra))
            else:
                client.complete("Hello", model="m", temperature=0.9, headers={"x-secret": "no"}, **extra)
        expected, request = server.requests
    assert parse_qsl(urlsplit(request.path).query) == parse_qsl(urlsplit(expected.path).query)
    for name in ("X-Secret", "User-Agent"):
        assert request.headers.get_all(name) == expected.headers.get_all(name)[-1:]  # older ones send their own, too
    body = dict(request.json)
    assert (body.pop("stream"), body.pop("stream_options")) == (True, {"include_usage": True})
    assert body == expected.json
    assert "s3cret" not in request.body.decode()


def test_a_parameter_replaces_that_of_the_base_url() -> None:
    """Others are kept as they are written."""
    client = Client(KEY, base_url="https://a.example/v1?api-version=1&x=%2F&api%2Dversion=2")
    url = sent(client, extra_query={"api-version": 3}).url
    assert url == f"https://a.example/v1{CHAT}?x=%2F&api-version=3"


OURS = ["api_key", "base_url", "protocol", "proxy", "verify", "keepalive_expiry", "observers", "max_threads"]
THEIRS = [
    name
    for kind in ((openai.OpenAI, openai.AsyncOpenAI, openai.AzureOpenAI) if HAS_OPENAI else ())
    for name in inspect.signature(kind).parameters
    # What an OpenRouter or a data platform may have as a field, what a call has too, and what is not public.
    if name not in ("provider", "data_residency", "timeout") and not name.startswith("_")
]
OLD = ["api_base", "api_type", "request_timeout", "proxies"]


@pytest.mark.parametrize("name", [*OURS, *dict.fromkeys(name for name in (*THEIRS, *OLD) if name not in OURS)])
@pytest.mark.parametrize("way", ["stream", "complete", "async stream", "async complete"])
def test_a_keyword_of_a_constructor_is_no_option(name: str, way: str) -> None:
    """It is a TypeError that names the right place, and never part of a body."""
    with LoopbackServer() as server:
        client = Client(KEY, base_url=server.url)
        asynchronous = client.as_async()
        options: dict[str, Any] = {name: "s3cret"}
        ask = {
            "stream": functools.partial(client.stream, "Hello", **options),
            "complete": functools.partial(client.complete, "Hello", **options),
            "async stream": functools.partial(asynchronous.stream, "Hello", **options),
            "async complete": lambda: anyio.run(functools.partial(asynchronous.complete, "Hello", **options)),
        }[way]
        with pytest.raises(
            TypeError, match=rf"^{name}= is not an option.*(use|belongs|put|choose|no webhooks)"
        ) as caught:
            ask()
        assert "s3cret" not in str(caught.value)
        assert server.requests == []
        client.complete("Hello", extra_body=options)  # whoever means the body can say so
        assert server.requests[-1].json[name] == "s3cret"


def test_every_argument_of_the_client_is_one_of_the_call_or_told() -> None:
    """There is no argument of the constructors that would go into the body in silence."""
    constructors = {*inspect.signature(Client).parameters, *inspect.signature(AsyncClient).parameters}
    assert constructors - {*inspect.signature(Client.stream).parameters} == set(OURS)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extra_headers": ["X"]}, "extra_headers must be a dict"),
        ({"extra_query": "a=1"}, "extra_query must be a dict"),
        ({"extra_body": b"{}"}, "extra_body must be a dict"),
        ({"stream": 1}, "stream must be True, False or None, not int"),
        ({"stream": "no"}, "stream must be True, False or None, not str"),
        ({"keep_text": False}, r"keep_text= .*stream\(\)"),
        ({"max_response_bytes": "1"}, "max_response_bytes must be an int"),
    ],
)
def test_an_argument_of_another_type_is_told(options: dict[str, Any], words: str) -> None:
    """Before anything is sent, as a TypeError that names it."""
    with pytest.raises(TypeError, match=words):
        Client(KEY, base_url="http://127.0.0.1:1").complete("Hello", **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"extra_headers": {"X": "a\nb"}}, "line break"),
        ({"extra_headers": {"Content-Length": "3"}}, "set by the client"),
        ({"extra_query": {"a": "\ud83d"}}, "extra_query"),
        ({"max_response_bytes": 0}, "max_response_bytes"),
        ({"extra_body": {"a": float("inf")}}, "^a can't be sent as JSON"),
    ],
)
def test_a_value_that_can_t_be_sent_is_told(options: dict[str, Any], words: str) -> None:
    """Before anything is sent, as a ValueError that names it."""
    with pytest.raises(ValueError, match=words):
        Client(KEY, base_url="http://127.0.0.1:1").complete("Hello", **options)


@pytest.mark.parametrize("whole", [False, True])
def test_a_call_has_its_own_limit_of_size(face: Face, whole: bool) -> None:
    """max_response_bytes can be given per call, lower or higher than the client's, or None."""
    text = "x" * 5000
    with LoopbackServer(lambda _: text) as server, Client(KEY, base_url=server.url, max_response_bytes=2000) as client:
        roomy = Client(KEY, base_url=server.url)
        options: dict[str, Any] = {"stream": False} if whole else {}
        assert complete(face, client, max_response_bytes=None, **options).text == text
        assert complete(face, client, max_response_bytes=100_000, **options).text == text
        assert complete(face, roomy, **options).text == text
        for failing, limit in ((client, {}), (roomy, {"max_response_bytes": 2000})):
            with pytest.raises(ProtocolError, match="2000"):
                complete(face, failing, **limit, **options)
        assert face.ask(client, max_response_bytes=None).text == text
        assert isinstance(face.ask(client).error, ProtocolError)


# Messages -----------------------------------------------------------------------------------------------------


class Dumped:
    """As pydantic's models are, with no need of it."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def model_dump(self) -> dict[str, Any]:
        return self.fields


@dataclasses.dataclass(frozen=True)
class Turn:
    role: str
    content: Any
    name: str | None = None


class Role(str, enum.Enum):
    USER = "user"


HI = {"role": "user", "content": "Hi"}
PART = {"type": "text", "text": "Hi"}


@dataclasses.dataclass
class Part:
    type: str
    text: str
    cache_control: None = None


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
ANSWERED = {"role": "assistant", "content": "Yes"}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
WRITTEN: dict[str, tuple[Any, Any]] = {
    "a dict": (HI, HI),
    "a read-only mapping": (types.MappingProxyType(HI), HI),
    "a UserDict": (collections.UserDict(HI), HI),
    "an ordered dict": (collections.OrderedDict(HI), HI),
    "a role of an enum": ({"role": Role.USER, "content": "Hi"}, HI),
    "model_dump": (Dumped(**HI, name=None, tool_calls=None), HI),
    "a dataclass": (Turn("user", "Hi"), HI),
    "a dataclass with a name": (Turn("user", "Hi", "Ada"), {**HI, "name": "Ada"}),
    "a completion": (Completion("Yes"), ANSWERED),
    "a completion with calls": (Completion("", tool_calls=(ToolCall("c1", "f", '{"x": 1}'),)), CALLED),
    "a completion with both": (
        Completion("Yes", reasoning="hm", tool_calls=(ToolCall("c1", "f", '{"x": 1}'),)),
        {**CALLED, "content": "Yes"},
    ),
    "an empty completion": (Completion(""), {"role": "assistant", "content": ""}),
    "parts that are dumped": (
        {"role": "user", "content": [Dumped(**PART, cache_control=None)]},
        {**HI, "content": [PART]},
    ),
    "parts that are dataclasses": (Turn("user", [Part(**PART)]), {**HI, "content": [PART]}),
    "parts in a tuple": ({"role": "user", "content": (PART,)}, {**HI, "content": [PART]}),
    "parts in a deque": ({"role": "user", "content": collections.UserList([PART])}, {**HI, "content": [PART]}),
    "calls of this package": (
        {"role": "assistant", "content": None, "tool_calls": (ToolCall("c1", "f", '{"x": 1}'),)},
        CALLED,
    ),
}
if HAS_OPENAI:

    class Model(BaseModel):
        role: str = "user"
        content: Any = "Hi"
        name: str | None = None

    _message = ChatCompletionMessage.model_validate(CALLED)
    WRITTEN["pydantic"] = (Model(), HI)
    WRITTEN["OpenAI's message"] = (_message, CALLED)
    WRITTEN["calls of OpenAI's"] = ({"role": "assistant", "content": None, "tool_calls": _message.tool_calls}, CALLED)
SERIES: dict[str, Callable[[Any], Any]] = {
    "list": lambda turn: [turn],
    "tuple": lambda turn: (turn,),
    "generator": lambda turn: (each for each in (turn,)),
    "iterator": lambda turn: iter([turn]),
    "filter": lambda turn: filter(None, [turn]),
    "deque": lambda turn: collections.deque([turn]),
    "values": lambda turn: {"a": turn}.values(),
    "UserList": lambda turn: collections.UserList([turn]),
}


@pytest.mark.parametrize("series", SERIES.values(), ids=SERIES)
@pytest.mark.parametrize(("turn", "written"), WRITTEN.values(), ids=WRITTEN)
def test_messages_are_taken_as_people_have_them(turn: Any, written: Any, series: Callable[[Any], Any]) -> None:
    """Any iterable of dicts, completions, dataclasses and pydantic's objects, OpenAI's among them."""
    assert json.loads(sent(Client(KEY), series(turn)).body)["messages"] == [written]


def test_an_iterable_is_read_once(raw_server: RawServer) -> None:
    """A generator of messages outlives repetitions and refused fields: it is written down when the call is made."""
    raw_server.answer(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n", None)
    with pytest.raises(InternalServerError):
        Client(KEY, base_url=raw_server.url, retry=Retry(3, 0)).complete(dict(HI) for _ in range(2))
    bodies = [json.loads(request.partition(b"\r\n\r\n")[2]) for request in raw_server.requests]
    assert [body["messages"] for body in bodies] == [[HI, HI]] * 3


def test_a_conversation_goes_on_with_the_completion(face: Face) -> None:
    """What complete() returns is the next message of the list."""
    with (
        LoopbackServer(lambda request: f"{len(request.messages)}") as server,
        Client(KEY, base_url=server.url) as client,
    ):
        messages: list[Any] = ["never sent"]
        messages[:] = [HI]
        messages += [client.complete(messages), HI]
        assert face.ask(client, messages).text == "3"  # type: ignore[arg-type]
        assert server.requests[-1].messages == [HI, {"role": "assistant", "content": "1"}, HI]


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        (Completion("Hi"), TypeError, "not Completion"),
        (Dumped(**HI), TypeError, "not Dumped"),
        (Turn("user", "Hi"), TypeError, "not Turn"),
        (HI, TypeError, "not dict"),
        (bytearray(b"Hi"), TypeError, "not bytearray"),
        (5, TypeError, "not int"),
        (None, TypeError, "not NoneType"),
        (iter(()), ValueError, "empty"),
        ([HI, "Hi"], TypeError, r"messages\[1\].*not str"),
        ([HI, b"Hi"], TypeError, r"messages\[1\].*not bytes"),
        ([HI, [HI]], TypeError, r"messages\[1\].*not list"),
        ([HI, Dumped], TypeError, r"messages\[1\]"),
        ([HI, Turn], TypeError, r"messages\[1\]"),
        ([Part("text", "Hi")], ValueError, r"messages\[0\] has no 'role'"),
        ([ToolCall("c1", "f", "{}")], ValueError, r"messages\[0\] has no 'role'"),
        ([Dumped(role=5)], ValueError, r"messages\[0\]\['role'\] must be a str, not int"),
        ([HI, {**HI, "content": {1, 2}}], TypeError, r"messages\[1\]\['content'\] .*set has no JSON"),
        ([HI, Turn("user", [PART, {"type": b""}])], TypeError, r"messages\[1\]\['content'\]\[1\]\['type'\].*bytes"),
    ],
)  # fmt: skip
def test_what_is_no_message_is_told_with_its_place(messages: Any, error: type[Exception], words: str) -> None:
    """Wrong messages are refused before anything is sent."""
    with pytest.raises(error, match=words):
        Client(KEY).stream(messages)


# Values -------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


NO_JSON: dict[str, tuple[Any, str]] = {
    "Decimal": (decimal.Decimal("0.5"), "Decimal has no JSON; give an int or a float"),
    "Fraction": (fractions.Fraction(1, 2), "Fraction has no JSON; give an int or a float"),
    "complex": (1j, "complex has no JSON"),
    "function": (len, "has no JSON; functions are for run_tools() and stream_tools()"),
    "date": (datetime.date(2025, 1, 1), "date has no JSON; give its isoformat()"),
    "datetime": (datetime.datetime(2025, 1, 1), "datetime has no JSON; give its isoformat()"),
    "time": (datetime.time(), "time has no JSON; give its isoformat()"),
    "timedelta": (datetime.timedelta(1), "timedelta has no JSON"),
    "an enum": (Color.RED, "Color has no JSON; give its value"),
    "bytes": (b"x", "bytes has no JSON"),
    "a set": ({1}, "set has no JSON"),
    "a generator": ((each for each in ()), "generator has no JSON"),
    "a class": (Dumped, "has no JSON"),
    "an object": (object(), "object has no JSON"),
    "a function": (print, "has no JSON"),
}
HAVE_JSON: list[tuple[Any, Any]] = [
    (Level.HIGH, 3),
    (Role.USER, "user"),
    ((1, 2), [1, 2]),
    (range(2), [0, 1]),
    (Dumped(**HI), HI),
    ([Turn(**HI)], [HI]),
    (types.MappingProxyType({"a": 1}), {"a": 1}),
]
NO_NUMBERS = [float("nan"), float("inf"), float("-inf")]
if HAS_NUMPY:
    HAVE_JSON += [(numpy.float64(0.5), 0.5), (numpy.str_("x"), "x")]
    NO_NUMBERS.append(numpy.float64("nan"))
    for each in (
        numpy.float32(0.5),
        numpy.float16(0.5),
        numpy.int64(5),
        numpy.uint8(5),
        numpy.bool_(True),
        numpy.zeros(2),
    ):
        NO_JSON[type(each).__name__] = (each, f"{type(each).__name__} has no JSON; give its tolist()")
PLACES: dict[str, Callable[[Any], tuple[Any, str]]] = {
    "alone": lambda value: (value, "top_p"),
    "in a list": lambda value: ([1, value], r"top_p\[1\]"),
    "in a tuple": lambda value: ((1, value), r"top_p\[1\]"),
    "in a dict": lambda value: ({"a": {"b": value}}, r"top_p\['a'\]\['b'\]"),
    "in a dataclass": lambda value: (Turn("user", [value]), r"top_p\['content'\]\[0\]"),
    "in a model": lambda value: (Dumped(a=value), r"top_p\['a'\]"),
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize(("value", "words"), NO_JSON.values(), ids=NO_JSON)
def test_a_value_that_has_no_json_is_told_with_its_option(
    value: Any, words: str, place: Callable[[Any], tuple[Any, str]]
) -> None:
    """It is a TypeError that names the option, the place within it, and the remedy."""
    option, name = place(value)
    with pytest.raises(TypeError, match=f"^{name} can't be sent as JSON: .*{re.escape(words)}"):
        Client(KEY).stream("Hello", temperature=0, top_p=option, seed=5)


@pytest.mark.parametrize("value", NO_NUMBERS)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_number_that_is_none_is_told_with_its_option(value: Any, place: Callable[[Any], tuple[Any, str]]) -> None:
    """JSON has no such numbers: a ValueError names the option."""
    option, name = place(value)
    with pytest.raises(ValueError, match=f"^{name} can't be sent as JSON"):
        Client(KEY).stream("Hello", top_p=option)


def test_a_value_without_end_is_told() -> None:
    """What holds itself, or is nested too deep, is a ValueError that names the option."""
    endless: list[Any] = []
    endless.append(endless)
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    for value in (endless, deep):
        with pytest.raises(ValueError, match=r"^stop.* can't be sent as JSON"):
            Client(KEY).stream("Hello", stop=value)
    while deep:  # else its end is a recursion too
        deep = deep.pop()


@pytest.mark.parametrize(("value", "written"), HAVE_JSON)
def test_a_value_that_has_json_is_sent(value: Any, written: Any) -> None:
    """Subclasses of what JSON has, and objects that say what they are made of."""
    assert json.loads(sent(Client(KEY), top_p=value).body)["top_p"] == written


@given(text=st.text(st.characters()), protocol=st.sampled_from(["openai", "web"]))
@example("中文 \U0001f600 é \u2028", "openai")
@example("\ud83d", "openai")
@example("\ude00\ud83d", "web")
@example('\\\ud83d"\\', "openai")
def test_texts_are_sent_as_utf_8(text: str, protocol: Any) -> None:
    """Every text arrives as it is, in UTF-8 and not as escapes; half a character, which UTF-8 has not, as an escape."""
    body = sent(Client(KEY, protocol=protocol, base_url="https://a.example"), text).body
    decoded = json.loads(body.decode())
    content = (decoded["messages"] if protocol == "openai" else decoded["list"])[0]["content"]
    assert content.encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
    for character in text:
        assert ord(character) < 128 or "\ud800" <= character <= "\udfff" or character.encode() in body


def test_a_chinese_prompt_is_no_longer_than_it_is() -> None:
    """Three bytes for a character, not six."""
    length = len(sent(Client(KEY), "x").body)
    assert len(sent(Client(KEY), "x" + "天" * 1000).body) == length + 3000


# Keys ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("quoted", ['"{}"', "'{}'", "“{}”", "`{}`", '"{}', "{}'", ' "{}"\n', "‘{}’", "«{}»"])
@pytest.mark.parametrize("way", ["argument", "environment"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_in_quotes_is_told(monkeypatch: pytest.MonkeyPatch, quoted: str, way: str, kind: Any) -> None:
    """As an env file has it, which some programs pass on as it is: a ValueError that says so, without the key."""
    key = quoted.format(KEY)
    if way == "environment":
        monkeypatch.setenv("CHATANYWHERE_API_KEY", key)
    with pytest.raises(ValueError, match="in quotes") as caught:
        kind(key if way == "argument" else None)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_copy_keeps_the_key_in_the_process(duplicate: Any, kind: Any) -> None:
    """Copies ask as the original does, over connections of their own, and neither they nor it pickle the key."""
    with LoopbackServer(lambda _: "Hi") as server:
        original = kind(KEY, base_url=f"{server.url}/v1?a=1", model="m1", headers={"X-Mine": "1"})
        copied = duplicate({"client": original})["client"] if duplicate is copy.deepcopy else duplicate(original)
        again = duplicate(copied)
        assert type(again) is kind
        assert len({id(client._service) for client in (original, copied, again)}) == 3
        assert repr(again) == repr(original)
        for client in (original, copied, again):
            if kind is Client:
                assert client.complete("Hello").text == "Hi"
                client.close()
            else:
                assert anyio.run(ask_once, client) == "Hi"
            assert KEY.encode() not in pickle.dumps(client)
        assert server.connections == 3
        for request in server.requests:
            assert (request.headers["Authorization"], request.headers["X-Mine"]) == (f"Bearer {KEY}", "1")
            assert (request.path, request.json["model"]) == (f"/v1{CHAT}?a=1", "m1")


async def ask_once(client: AsyncClient) -> str:
    """Ask, and close the client."""
    async with client:
        return (await client.complete("Hello")).text


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_copy_of_a_subclass_has_what_it_has(kind: Any) -> None:
    """Whoever builds on a client keeps the class and its attributes; a deep copy has copies of them."""

    class Mine(kind):  # type: ignore[misc]
        def __init__(self, *args: Any, **settings: Any) -> None:
            super().__init__(*args, **settings)
            self.calls: list[str] = []
            self.me = self

    original = Mine(KEY)
    original.calls.append("one")
    shallow, deep = copy.copy(original), copy.deepcopy(original)
    assert type(shallow) is type(deep) is Mine
    assert shallow.calls is original.calls
    assert shallow.me is original
    assert (deep.calls, deep.me) == (["one"], deep)
    deep.calls.append("two")
    assert original.calls == ["one"]
    assert len({id(each._service.transport) for each in (original, shallow, deep)}) == 3
