"""`chatanywhere.openai` where it is not, or not only, what OpenAI's library is."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import pydantic
import pytest
from openai_calls import HELLO, PARIS, WEATHER, chunk, message
from raw_server import RawServer, json_answer

import chatanywhere.openai as openai
from chatanywhere import (
    APIStatusError,
    ChatAnywhereError,
    Client,
    OutputError,
    ProtocolError,
    QuotaExceededError,
    StreamInterruptedError,
    Timeout,
)
from chatanywhere.openai import AsyncOpenAI, OpenAI
from chatanywhere.testing import Fault, LoopbackServer, Reply

theirs = pytest.importorskip("openai")

ASK: dict[str, Any] = {"model": "gpt-4o-mini", "messages": HELLO}


def client_of(server: LoopbackServer | RawServer, **settings: Any) -> OpenAI:
    return OpenAI(**{"api_key": "key", "base_url": f"{server.url}/v1", "max_retries": 0, **settings})


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    """A server with the small talker."""
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def completion(server: LoopbackServer) -> Any:
    """A whole answer."""
    return client_of(server).chat.completions.create(**ASK)


# The import --------------------------------------------------------------------------------------------------


def test_the_import_is_cheap() -> None:
    """Neither OpenAI's library nor pydantic nor anyio nor an HTTP library is loaded by the import."""
    unwanted = ["openai", "pydantic", "anyio", "requests", "httpx", "asyncio", "chatanywhere._async_client"]
    code = f"import sys; from chatanywhere.openai import OpenAI; print(*set({unwanted}) & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_chats_need_no_pydantic(server: LoopbackServer) -> None:
    """Answers, streams and their events are there without pydantic."""
    code = f"""
import sys
sys.modules["pydantic"] = sys.modules["openai"] = None
from chatanywhere.openai import OpenAI
chat = OpenAI(api_key="key", base_url={server.url!r}).chat.completions
asked = {{"model": "gpt-4o-mini", "messages": [{{"role": "user", "content": "Hello"}}]}}
assert chat.create(**asked).model_dump()["choices"][0]["message"]["content"]
assert [chunk for chunk in chat.create(**asked, stream=True)]
with chat.stream(**asked) as stream:
    assert stream.get_final_completion().choices[0].message.content
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


DEMO = """
from {module} import OpenAI

client = OpenAI(api_key="key", base_url="{url}/v1")


def ask(messages: list):
    completion = client.chat.completions.create(model="gpt-3.5-turbo", messages=messages)
    print(completion.choices[0].message.content)
    print(completion.choices[0].message, completion.usage)


def ask_in_pieces(messages: list):
    stream = client.chat.completions.create(model="gpt-3.5-turbo", messages=messages, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content is not None:
            print(chunk.choices[0].delta.content, end="")


if __name__ == "__main__":
    messages = [{{"role": "user", "content": "鲁迅和周树人的关系"}}]
    ask(messages)
    ask_in_pieces(messages)
"""
"""What the service's own example for OpenAI's library does, with the same functions of it."""


def test_the_services_own_example_runs_with_one_changed_line(server: LoopbackServer, tmp_path: Path) -> None:
    """Only the import differs, and what is printed does not."""
    printed = []
    for module in ("openai", "chatanywhere.openai"):
        file = tmp_path / "demo.py"
        file.write_text(DEMO.format(module=module, url=server.url), encoding="utf-8")
        done = subprocess.run(
            [sys.executable, "-X", "utf8", str(file)], capture_output=True, encoding="utf-8", timeout=60, check=True
        )
        printed.append(done.stdout)
    assert printed[0]
    if theirs.__version__.startswith("1."):
        printed = [text.replace(", audio=None", "") for text in printed]
    assert printed[1] == printed[0]


def test_the_module_is_a_client(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`chatanywhere.openai.chat` asks by the settings of the module, also after they have changed."""
    monkeypatch.setattr(openai, "base_url", server.url)
    for key in ("one", "two"):
        monkeypatch.setattr(openai, "api_key", key)
        assert openai.chat.completions.create(**ASK).choices[0].message.content
        assert openai.models.list().data
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer one"] * 2 + ["Bearer two"] * 2


@pytest.mark.parametrize("name", ["AzureOpenAI", "nonsense", "moderations"])
def test_the_module_has_no_other_names(name: str) -> None:
    """A name that is not there is an AttributeError; for other clients it names the remedy."""
    with pytest.raises(AttributeError, match="base_url" if name == "AzureOpenAI" else name):
        getattr(openai, name)
    assert all(hasattr(openai, each) for each in openai.__all__)


# Settings ----------------------------------------------------------------------------------------------------

THEIRS = {"OPENAI_API_KEY": "o", "OPENAI_BASE_URL": "other"}
ENVIRONMENTS: dict[str, tuple[dict[str, str], dict[str, Any], str, str]] = {
    "arguments": (
        {
            "CHATANYWHERE_API_KEY": "c",
            "CHATANYWHERE_BASE_URL": "other",
            "OPENAI_API_KEY": "o",
            "OPENAI_BASE_URL": "other",
        },
        {"api_key": "a", "base_url": "here"},
        "here",
        "a",
    ),
    "ours before theirs": (
        {
            "CHATANYWHERE_API_KEY": "c",
            "CHATANYWHERE_BASE_URL": "here",
            "OPENAI_API_KEY": "o",
            "OPENAI_BASE_URL": "other",
        },
        {},
        "here",
        "c",
    ),
    "theirs": ({"OPENAI_API_KEY": "o", "OPENAI_BASE_URL": "here"}, {}, "here", "o"),
    "their key where the program says": ({"OPENAI_API_KEY": "o"}, {"base_url": "here"}, "here", "o"),
    "the program's key where they say": ({"OPENAI_BASE_URL": "here"}, {"api_key": "a"}, "here", "a"),
}


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_where_key_and_host_are_from(name: str, server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Arguments go first, then this package's variables, then OpenAI's, whose key goes where its URL leads."""
    variables, arguments, _, key = ENVIRONMENTS[name]
    places = {"here": f"{server.url}/v1", "other": "http://127.0.0.1:9/v1"}
    for variable, value in variables.items():
        monkeypatch.setenv(variable, places.get(value, value))
    client = OpenAI(max_retries=0, **{each: places.get(value, value) for each, value in arguments.items()})
    client.models.list()
    assert server.requests[0].headers["Authorization"] == f"Bearer {key}"
    assert (client.api_key, client.base_url) == (key, f"{server.url}/v1/")


def test_openais_key_is_not_for_chatanywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of OpenAI's alone in the environment is refused at construction, by an OpenAIError, and sent nowhere."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-theirs")
    for kind in (OpenAI, AsyncOpenAI):
        with pytest.raises(openai.OpenAIError, match="OPENAI_BASE_URL"):
            kind()
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "ours")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    assert OpenAI().base_url == "https://api.chatanywhere.tech/v1/"  # and ours is not for OpenAI


def test_organization_and_project_of_the_environment(server: LoopbackServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """`OPENAI_ORG_ID` and `OPENAI_PROJECT_ID` are sent as headers."""
    monkeypatch.setenv("OPENAI_ORG_ID", "org")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj")
    client_of(server).models.list()
    headers = server.requests[0].headers
    assert (headers["OpenAI-Organization"], headers["OpenAI-Project"]) == ("org", "proj")


def test_a_key_may_be_a_function(server: LoopbackServer) -> None:
    """It is asked before each call; of the async client it is awaited."""
    keys = iter("abc")

    async def key() -> str:
        return next(keys)

    async def ask() -> None:
        async with AsyncOpenAI(api_key=key, base_url=server.url) as client:
            await client.models.list()

    with OpenAI(api_key=lambda: next(keys), base_url=server.url) as client:
        client.models.list()
        client.with_options(timeout=5).models.list()
    asyncio.run(ask())
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer a", "Bearer b", "Bearer c"]


def test_the_key_is_told_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither errors nor reprs nor pickles have it, whichever way it was given, and whatever the server repeats."""
    secret = "sk-0123456789abcdef"
    body = json.dumps({"error": {"message": f"bad key {secret}", "code": secret}})
    with LoopbackServer(faults=[Fault.status(401, body=body)]) as server:
        changed = client_of(server)
        changed.api_key = secret
        for client in (
            client_of(server, api_key=secret),
            client_of(server, api_key=lambda: secret),
            client_of(server, base_url=f"{server.url}/v1?api-key={secret}"),
            changed,
            client_of(server).with_options(api_key=secret),
        ):
            with pytest.raises(openai.AuthenticationError) as caught:
                client.chat.completions.create(**ASK)
            error = caught.value
            told = [str(error), repr(vars(error)), repr(error.response), error.response.text, repr(client)]  # type: ignore[attr-defined]
            assert [words for words in told if secret in words] == []
            assert secret.encode() not in pickle.dumps(error)
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "there")
    with LoopbackServer() as server:
        client = client_of(server, api_key=secret, default_headers={"X-A": "1"})
        assert copy.copy(client).api_key == copy.deepcopy(client).api_key == secret
        pickled = pickle.dumps(client)
        assert secret.encode() not in pickled
        pickle.loads(pickled).models.list()
        assert (server.requests[0].headers["Authorization"], server.requests[0].headers["X-A"]) == ("Bearer there", "1")


def test_a_client_of_the_other_kind_is_told() -> None:
    """A blocking client is not for the async face, nor the other way round."""
    with pytest.raises(TypeError, match=r"must be a chatanywhere\.Client"):
        OpenAI(client=Client("key").as_async())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="as_async"):
        AsyncOpenAI(client=Client("key"))  # type: ignore[arg-type]


def test_settings_can_be_read_and_changed(server: LoopbackServer) -> None:
    """What a program changes on a client counts from then on; a copy for another host has the other settings."""
    client = client_of(server, timeout=5, default_headers={"X-A": "1"})
    assert (client.api_key, client.timeout, client.max_retries) == ("key", 5, 0)
    assert client.with_options(timeout=6).client is client.client  # and so has its connections
    client.api_key = "changed"
    client.models.list()
    with LoopbackServer() as other:
        moved = client.copy(base_url=other.url, set_default_headers={"X-B": "2"})
        moved.models.list()
        assert (moved.timeout, other.requests[0].headers["X-A"], other.requests[0].headers["X-B"]) == (5, None, "2")
        assert other.requests[0].headers["Authorization"] == "Bearer changed"
        client.base_url = other.url
        client.models.list()
        assert [each.headers["X-A"] for each in other.requests] == [None, "1"]
        assert client.base_url == f"{other.url}/"
    assert [each.headers["Authorization"] for each in server.requests] == ["Bearer changed"]
    assert "changed" not in repr(client)
    with pytest.raises(ValueError, match="one of them"):
        client.copy(default_query={}, set_default_query={})


@dataclass
class HTTPXTimeout:
    """What httpx has as a timeout."""

    connect: float | None
    read: float | None
    write: float | None = None
    pool: float | None = None


@pytest.mark.parametrize(
    ("timeout", "streamed", "whole"),
    [
        (7, Timeout(7, 10, None), Timeout(7, 10, None)),
        (None, Timeout(None, None, None), Timeout(None, None, None)),
        (Timeout(9), Timeout(9), Timeout(9)),
        (HTTPXTimeout(2, 8), Timeout(None, 2, 8), Timeout(8, 2, None)),
    ],
)
def test_what_timeouts_mean(timeout: Any, streamed: Timeout, whole: Timeout, server: LoopbackServer) -> None:
    """A number bounds the whole call; httpx's `read` bounds the silences of a stream, and all of a whole answer."""
    asked: list[Any] = []

    class Watched(Client):
        def stream(self, *args: Any, **options: Any) -> Any:
            asked.append(options["timeout"])
            return super().stream(*args, **options)

        def complete(self, *args: Any, **options: Any) -> Any:
            asked.append(options["timeout"])
            return super().complete(*args, **options)

    client = OpenAI(client=Watched("key", base_url=server.url), timeout=timeout)
    client.chat.completions.create(**ASK, stream=True).close()
    client.chat.completions.create(**ASK)
    assert asked == [streamed, whole]


WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "http_client": ({"http_client": object()}, TypeError, "proxy="),
    "webhook_secret": ({"webhook_secret": "x"}, TypeError, "webhooks"),
    "nonsense": ({"nonsense": 1}, TypeError, "nonsense"),
    "timeout": ({"timeout": "1"}, TypeError, "number"),
    "max_retries": ({"max_retries": None}, TypeError, "0 for none"),
    "negative": ({"max_retries": -1}, ValueError, "0 is the least"),
    "client and key": ({"client": Client("key")}, TypeError, "give them to it"),
}


@pytest.mark.parametrize("name", WRONG)
def test_settings_that_cannot_be_used(name: str) -> None:
    """The message names the remedy."""
    settings, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        OpenAI(**{"api_key": "key", **settings})


def test_arguments_that_cannot_be_used(server: LoopbackServer) -> None:
    """The message names the remedy, and nothing is sent."""
    chat = client_of(server).chat.completions
    for options, words in [
        ({"top_k": 1}, "extra_body"),
        ({"extra_headers": "x"}, "dict"),
        ({"extra_headers": {"authorization": openai.omit}}, "another value"),
        ({"timeout": "x"}, "number"),
        ({"messages": object()}, "messages"),
        ({"stop": {"a"}}, "stop"),
        ({"response_format": pydantic.BaseModel}, "parse"),
    ]:
        with pytest.raises(TypeError, match=words):
            chat.create(**{**ASK, **options})
    with pytest.raises(TypeError, match="nonsense"):
        client_of(server).embeddings.create(model="m", input="a", nonsense=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="nonsense"):
        client_of(server).models.list(nonsense=1)  # type: ignore[call-arg]
    assert server.requests == []


@pytest.mark.parametrize("name", ["responses", "images", "audio", "files", "completions", "post", "with_raw_response"])
def test_other_endpoints_name_the_remedy(name: str, server: LoopbackServer) -> None:
    """What is not there is an AttributeError that says how it can be asked for."""
    client = client_of(server)
    with pytest.raises(AttributeError, match=r"client\.request\("):
        getattr(client, name)
    with pytest.raises(AttributeError, match=r"client\.request\("):
        _ = client.chat.completions.with_streaming_response  # type: ignore[attr-defined]
    assert not hasattr(client, name)
    assert client.client.request("GET", "/models")["data"]


# Objects -----------------------------------------------------------------------------------------------------


def test_objects_are_copied_and_pickled(completion: Any) -> None:
    """Copies are equal and of their own."""
    for duplicate in (
        copy.copy(completion),
        copy.deepcopy(completion),
        pickle.loads(pickle.dumps(completion)),
        completion.model_copy(),
        completion.model_copy(deep=True),
        type(completion).model_validate(completion.to_dict()),
        type(completion).model_validate_json(completion.to_json()),
        type(completion).model_construct(**completion.to_dict()),
    ):
        assert duplicate == completion
        assert duplicate.model_dump() == completion.model_dump()
        duplicate.note = 1
        assert not hasattr(completion, "note")
    assert pickle.loads(pickle.dumps(completion))._request_id == completion._request_id
    assert completion.model_copy(update={"id": "other"}).id == "other"
    assert completion != completion.to_dict()


def test_objects_can_be_changed(completion: Any) -> None:
    """What a program sets is there, and dumped; an object is no key of a dict, since it can be changed."""
    said = completion.choices[0].message
    said.content = "changed"
    said.mine = {"a": 1}
    assert said.to_dict() == {"content": "changed", "role": "assistant", "mine": {"a": 1}}
    del said.mine
    with pytest.raises(AttributeError, match="'ChatCompletionMessage' object has no attribute 'mine'"):
        _ = said.mine
    with pytest.raises(AttributeError):
        _ = completion.usage._request_id
    with pytest.raises(TypeError, match="unhashable"):
        hash(said)
    assert dict(said)["content"] == "changed"


def test_objects_of_openais_library_can_be_sent(server: LoopbackServer) -> None:
    """Its messages, and its marks of what is not given, mean what they mean there."""
    said = theirs.types.chat.ChatCompletionMessage(role="assistant", content="Hi")
    client = client_of(server)
    client.chat.completions.create(**{**ASK, "messages": [*HELLO, said, *HELLO]}, stop=theirs.NOT_GIVEN)
    ours = client.client.complete("Hello")
    client.chat.completions.create(**{**ASK, "messages": [*HELLO, ours, *HELLO]})  # type: ignore[list-item]
    assert server.requests[0].json["messages"][1] == {"role": "assistant", "content": "Hi"}
    assert "stop" not in server.requests[0].json
    assert server.requests[2].json["messages"][1]["content"] == ours.text


# Errors ------------------------------------------------------------------------------------------------------


def failed(server: LoopbackServer | RawServer, **options: Any) -> Any:
    def ask() -> None:
        answer: Any = client_of(server).chat.completions.create(**{**ASK, **options})
        list(answer if options.get("stream") else ())

    with pytest.raises(ChatAnywhereError) as caught:
        ask()
    return caught.value


def test_errors_are_of_both_libraries() -> None:
    """An error is what its words say, and what its status says, which programs catch; it pickles as it is."""
    body = json.dumps({"error": {"message": "top up", "code": "insufficient_quota", "type": "t", "param": None}})
    with LoopbackServer(faults=[Fault.status(403, body=body)]) as server:
        error, url = failed(server), server.url
    for each in (error, pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert isinstance(each, QuotaExceededError)
        assert isinstance(each, openai.PermissionDeniedError)
        assert type(each) is type(error)
        assert (each.code, each.type, each.param, each.message) == ("insufficient_quota", "t", None, "top up")
        assert each.response.json()["error"] == each.body
        assert each.hint in str(each)
        assert each.request.url == f"{url}/v1/chat/completions"
        assert each.response.headers["CONTENT-TYPE"] == "application/json"
    assert str(error).startswith("403: top up\n")
    assert (openai.OpenAIError, openai.APIError) == (ChatAnywhereError, ChatAnywhereError)


def test_errors_have_the_text_that_had_come() -> None:
    """A stream that is cut is caught as an APIConnectionError, and has the text so far."""
    with LoopbackServer(["one two three"], faults=[Fault.limit_data(0, after=2)]) as server:
        error = failed(server, stream=True)
    assert isinstance(error, StreamInterruptedError)
    assert isinstance(error, openai.APIConnectionError)
    assert pickle.loads(pickle.dumps(error)).partial == error.partial == "one two"
    assert (error.code, error.body, error.message) == (None, None, str(error))


@pytest.mark.parametrize("steps", [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n<html></h", json_answer({"a": 1})])
def test_what_is_no_answer_is_an_error(steps: bytes, raw_server: RawServer) -> None:
    """A page, or JSON of another kind, is no answer with everything None in it, but a ProtocolError."""
    raw_server.answer(steps)
    error = failed(raw_server)
    assert isinstance(error, ProtocolError)
    assert isinstance(error, openai.APIConnectionError)
    with pytest.raises(openai.APIResponseValidationError):
        client_of(raw_server).embeddings.create(model="m", input="a")


def test_an_error_in_a_good_answer_is_an_error(raw_server: RawServer) -> None:
    """An error with the status 200 is raised, and has what an error has."""
    raw_server.answer(json_answer({"error": {"message": "busy", "code": "429 TOO_MANY_REQUESTS", "type": "t"}}))
    error = failed(raw_server)
    assert isinstance(error, openai.RateLimitError)
    assert (error.type, error.response.status_code) == ("t", 429)


def test_broken_json_in_a_stream_is_a_protocol_error() -> None:
    """It is no error of the standard library, and has the text so far."""
    with LoopbackServer(["one two three"], faults=[Fault.bad_json(after=2)]) as server:
        error = failed(server, stream=True)
    assert isinstance(error, ProtocolError)
    assert error.partial == "one two"


def test_a_redirect_is_not_followed(raw_server: RawServer) -> None:
    """The key goes nowhere else."""
    raw_server.answer(b"HTTP/1.1 308 X\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n")
    error = failed(raw_server)
    assert isinstance(error, APIStatusError)
    assert error.status_code == 308


REFUSALS: dict[str, tuple[bytes, type[ChatAnywhereError]]] = {
    "a quota that is spent": (
        json_answer({"error": {"message": "limited to 200 requests per day"}}, "429 Too Many Requests"),
        QuotaExceededError,
    ),
    "a request that is refused": (
        json_answer({"error": {"message": "no"}}, "400 Bad Request\r\nX-Should-Retry: true"),
        openai.BadRequestError,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused_for_good_is_not_asked_again(name: str, raw_server: RawServer) -> None:
    """Waiting a little does not help, so there is one request, whatever max_retries and headers say."""
    answer, kind = REFUSALS[name]
    raw_server.answer(answer)
    with pytest.raises(kind):
        client_of(raw_server, max_retries=5).chat.completions.create(**ASK)
    assert len(raw_server.requests) == 1


def test_some_errors_are_of_more_classes(raw_server: RawServer) -> None:
    """What is told within a stream is caught by its status too, and what parse() can't read as an APIError."""
    told = b'data: {"error": {"message": "busy", "code": "insufficient_quota"}}\n\n'
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + told)
    error = failed(raw_server, stream=True)
    assert isinstance(error, QuotaExceededError)
    assert error.status_code == 200
    assert issubclass(openai.LengthFinishReasonError, openai.APIError)


def test_a_closed_client_asks_again(server: LoopbackServer) -> None:
    """It may be closed twice, and used after that."""
    client = client_of(server)
    client.close()
    client.close()
    assert client.models.list().data


def test_answers_that_cannot_be_read_are_output_errors() -> None:
    """LengthFinishReasonError is an OutputError, with the answer and the text."""
    with LoopbackServer([Reply('{"na', finish_reason="length")]) as server, pytest.raises(OutputError) as caught:
        client_of(server).chat.completions.parse(**ASK, response_format=Named)
    assert isinstance(caught.value, openai.LengthFinishReasonError)
    assert (caught.value.reason, caught.value.partial) == ("length", '{"na')
    assert caught.value.completion.choices[0].message.content == '{"na'
    assert pickle.loads(pickle.dumps(caught.value)).completion == caught.value.completion


# What is better ----------------------------------------------------------------------------------------------


def test_one_deadline_for_the_whole_call() -> None:
    """A server that never stops sending is left when the time is up, with the text so far, and not asked again."""
    with LoopbackServer(["one " * 1000], delay=0.02) as server:
        client = client_of(server, timeout=0.5, max_retries=2)
        began = time.monotonic()
        with pytest.raises(openai.APITimeoutError) as caught:
            list(client.chat.completions.create(**ASK, stream=True))
        assert time.monotonic() - began < 5
        assert len(server.requests) == 1
    assert caught.value.partial.startswith("one one")


def test_silence_is_not_asked_again() -> None:
    """A whole answer that was awaited in vain is not asked for again, though there are retries left."""
    with LoopbackServer(faults=[Fault.timeout()]) as server:
        with pytest.raises(openai.APITimeoutError):
            client_of(server, max_retries=2).chat.completions.create(**ASK, timeout=HTTPXTimeout(0.3, 0.3))
        assert len(server.requests) == 1


def test_a_bare_host_gets_v1(server: LoopbackServer) -> None:
    """A base URL without a path is one that people forget `/v1` in."""
    OpenAI(api_key="key", base_url=server.url).models.list()
    client_of(server).models.list()
    assert [request.path for request in server.requests] == ["/v1/models", "/v1/models"]


def test_a_stream_is_cancelled_from_another_thread() -> None:
    """A reader that waits gets StreamCancelledError at once, which is an APIError, with the text so far."""
    with LoopbackServer(["one two"], faults=[Fault.timeout(after=1)]) as server:
        stream = client_of(server).chat.completions.create(**ASK, stream=True)
        timer = threading.Timer(0.2, stream.cancel)
        timer.start()
        with stream, pytest.raises(openai.APIError) as caught:
            list(stream)
        timer.join()
    assert caught.value.partial == stream.text == "one"


def test_a_stream_without_its_end_is_an_error() -> None:
    """What stops with neither a finish reason nor [DONE] is no whole answer, for the helper neither."""
    with LoopbackServer([Reply("one", finish_reason="")] * 2, faults=[Fault.no_done()]) as server:
        error = failed(server, stream=True)
        assert isinstance(error, StreamInterruptedError)
        assert error.partial == "one"
        manager = client_of(server).chat.completions.stream(**ASK)
        with manager as stream, pytest.raises(openai.APIConnectionError):
            stream.get_final_completion()


def test_a_stream_is_closed_by_its_response() -> None:
    """Programs that close the response of a stream leave it so."""
    with LoopbackServer(["one two", "one two"], faults=[Fault.timeout(after=1)]) as server:
        stream = client_of(server).chat.completions.create(**ASK, stream=True)
        next(stream)
        stream.response.close()
        with pytest.raises(openai.APIError):
            list(stream)
        with client_of(server).chat.completions.stream(**ASK) as events:
            assert events.response.status_code == 200
            next(events)
            events.cancel()
            with pytest.raises(openai.APIError):
                events.until_done()


def test_the_next_host_is_asked() -> None:
    """Of several base URLs, one that can't be reached is passed over."""
    with LoopbackServer(["Hi"]) as server:
        client = OpenAI(api_key="key", base_url=["http://127.0.0.1:9/v1", server.url])
        assert client.chat.completions.create(**ASK).choices[0].message.content == "Hi"


def test_the_next_model_is_asked() -> None:
    """Of several models, one that is refused is passed over; the body names one."""
    with LoopbackServer(["Hi", "Hi"], faults=[Fault.status(403, "no", first=1)]) as server:
        chat = client_of(server).chat.completions
        assert chat.create(messages=HELLO, model=["gpt-5", "gpt-4o-mini"]).choices[0].message.content == "Hi"
        assert [request.json["model"] for request in server.requests] == ["gpt-5", "gpt-4o-mini"]


def test_a_client_of_ones_own() -> None:
    """`client=` is asked with its own key, limits and models' host."""
    with LoopbackServer(["Hi"]) as server, Client("own", base_url=server.url) as client:
        face = OpenAI(client=client)
        assert face.chat.completions.create(**ASK).choices[0].message.content == "Hi"
        assert face.with_options(api_key="other").models.list().data
        assert [each.headers["Authorization"] for each in server.requests] == ["Bearer own", "Bearer other"]


def test_trio_runs_the_async_client(server: LoopbackServer) -> None:
    """The async client is for asyncio and trio alike."""

    async def ask() -> list[Any]:
        async with AsyncOpenAI(api_key="key", base_url=server.url) as client:
            stream = await client.chat.completions.create(**ASK, stream=True)
            async with client.chat.completions.stream(**ASK) as events:
                final = await events.get_final_completion()
            raw = await client.embeddings.with_raw_response.create(model="m", input="a", dimensions=2)
            await stream.response.aclose()
            parsed = await client.chat.completions.with_raw_response.parse(**ASK)
            return [final, raw.parse(), parsed.parse()]

    final, vectors, parsed = anyio.run(ask, backend="trio")
    assert final.choices[0].message.content
    assert len(vectors.data[0].embedding) == 2
    assert parsed.choices[0].message.content


def test_answers_as_they_came(server: LoopbackServer) -> None:
    """`with_raw_response` gives status, headers and body, and reads them when it is asked to."""
    client = client_of(server)
    raw = client.embeddings.with_raw_response.create(model="m", input="a", dimensions=2, encoding_format="float")
    assert (raw.status_code, raw.method, raw.url) == (200, "POST", f"{server.url}/v1/embeddings")
    assert raw.json()["data"] == json.loads(raw.text)["data"] == raw.parse().to_dict()["data"]
    parsed = client.chat.completions.with_raw_response.parse(**ASK)
    assert parsed.parse()._request_id == parsed.request_id == parsed.headers["x-request-id"]
    assert parsed.http_request.method == "POST"


def test_a_server_that_does_not_stream_is_read() -> None:
    """An answer in one, where a stream was asked for, is one chunk."""
    with LoopbackServer([message(content="Hi")]) as server:
        (piece,) = client_of(server).chat.completions.create(**ASK, stream=True)
    assert (piece.object, piece.choices[0].delta.content) == ("chat.completion.chunk", "Hi")


def test_tool_calls_without_numbers_are_put_together() -> None:
    """Where fragments have no index, and say name and id again, the events and the answer are those of one call."""

    def fragment(arguments: str) -> dict[str, Any]:
        call = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        return chunk({"role": "assistant", "tool_calls": [call]})

    chunks = [fragment(""), fragment('{"city":'), fragment('"Rome"}'), chunk({}, finish_reason="tool_calls")]
    with LoopbackServer([Reply(chunks=chunks)]) as server:
        manager = client_of(server).chat.completions.stream(**ASK, tools=[WEATHER])
        with manager as stream:
            events = list(stream)
    (call,) = stream.get_final_completion().choices[0].message.tool_calls
    assert (call.id, call.function.name, call.function.arguments) == ("c", "weather", '{"city":"Rome"}')
    done = [event for event in events if event.type == "tool_calls.function.arguments.done"]
    assert [event.arguments for event in done] == ['{"city":"Rome"}']
    assert stream.current_completion_snapshot.choices[0].message.role == "assistant"


def test_the_state_of_a_stream_can_be_kept_by_hand() -> None:
    """`ChatCompletionStreamState` takes the chunks of a stream."""
    state = openai.ChatCompletionStreamState(input_tools=[WEATHER])
    with pytest.raises(RuntimeError, match="no chunk"):
        _ = state.current_completion_snapshot
    with LoopbackServer([PARIS]) as server:
        for piece in client_of(server).chat.completions.create(**ASK, tools=[WEATHER], stream=True):
            state.handle_chunk(piece)
    final = state.get_final_completion().choices[0]
    assert final.message.tool_calls[0].function.name == "weather"  # type: ignore[index]
    assert final.finish_reason == "tool_calls"


class Named(pydantic.BaseModel):
    """A model with a default, which strict mode refuses."""

    name: str
    age: int = 3


@dataclass
class Pet:
    """A plain dataclass."""

    name: str


def test_types_that_openais_library_cannot_read() -> None:
    """Dataclasses and lists are read; defaults, which OpenAI's strict mode refuses, are not sent."""
    with LoopbackServer(['{"name": "Tom"}', '{"value": [1, 2]}', '{"name": "Ada"}']) as server:
        chat = client_of(server).chat.completions
        assert chat.parse(**ASK, response_format=Pet).choices[0].message.parsed == Pet("Tom")
        with chat.stream(**ASK, response_format=list[int]) as stream:
            assert stream.get_final_completion().choices[0].message.parsed == [1, 2]
        assert chat.parse(**ASK, response_format=Named).choices[0].message.parsed == Named(name="Ada")
        schema = server.requests[2].json["response_format"]["json_schema"]["schema"]
    assert "default" not in schema["properties"]["age"]
    assert schema["required"] == ["name", "age"]


def test_embeddings_that_are_none() -> None:
    """An answer without vectors, or with broken ones, is a ProtocolError."""
    for data in ([], [{"index": 0, "embedding": "*"}]):
        server = RawServer()
        server.answer(json_answer({"object": "list", "data": data, "model": "m"}))
        with pytest.raises(ProtocolError) as caught:
            client_of(server).embeddings.create(model="m", input="a")
        server.close()
        assert caught.value.attempts == 1


def test_names_of_models_are_quoted(server: LoopbackServer) -> None:
    """A name with a slash or a question mark is one part of the path."""
    with pytest.raises(openai.NotFoundError):
        client_of(server).models.retrieve("org/none?")
    assert server.requests[0].path == "/v1/models/org%2Fnone%3F"
    assert not client_of(server).models.list().has_next_page()


def test_tools_that_are_no_functions_are_not_parsed(raw_server: RawServer) -> None:
    """They are refused by parse(), as there; a call of one that comes all the same is left out, and logged."""
    custom = {"type": "custom", "custom": {"name": "shell"}}
    call = {"id": "call-1", "type": "custom", "custom": {"name": "shell", "input": "ls"}}
    for library in (openai, theirs):
        client = library.OpenAI(api_key="key", base_url=f"{raw_server.url}/v1", max_retries=0)
        with pytest.raises(ValueError, match="function"):
            client.chat.completions.parse(**ASK, tools=[custom])
        assert not raw_server.requests
    raw_server.answer(json_answer(message(content="Done", tool_calls=[call])))
    answer = client_of(raw_server).chat.completions.parse(**ASK).choices[0].message
    assert (answer.content, answer.tool_calls) == ("Done", None)


def test_a_tool_without_a_docstring_has_no_description() -> None:
    """What a model does not say of itself is not told, unless the program says it."""

    class Place(pydantic.BaseModel):
        city: str

    for description in (None, "Find a place."):
        tool = openai.pydantic_function_tool(Place, description=description)["function"]
        assert tool == theirs.pydantic_function_tool(Place, description=description)["function"]
