"""The blocking client: what is configured, what is sent, what a stream tells."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import socket
import sys
import threading
from typing import Any

import pytest
import responses
from faces import Face
from raw_server import BEGUN, RawServer, sockets_to

from chatanywhere import (
    AuthenticationError,
    Client,
    Finished,
    InternalServerError,
    ProtocolError,
    Retry,
    Started,
    Stream,
    StreamCancelledError,
    StreamInterruptedError,
    TextDelta,
    Usage,
)
from chatanywhere.testing import Fault, LoopbackServer

KEY = "sk-0123456789abcdef"


def sent(client: Client, messages: Any = "Hello", **options: Any) -> Any:
    """Make a call to a mocked service, and return the request that it got."""
    with responses.RequestsMock(assert_all_requests_are_fired=False) as mock:
        events = 'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\ndata: [DONE]\n\n'
        mock.post(re.compile(".*"), body=events, content_type="text/event-stream")
        client.complete(messages, **options)
        return mock.calls[0].request


# Where it goes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        (None, "https://api.chatanywhere.tech/v1/chat/completions"),
        ("https://api.chatanywhere.org", "https://api.chatanywhere.org/v1/chat/completions"),
        ("https://api.chatanywhere.org/", "https://api.chatanywhere.org/v1/chat/completions"),
        ("https://api.chatanywhere.org/v1", "https://api.chatanywhere.org/v1/chat/completions"),
        ("https://api.chatanywhere.org/v1/", "https://api.chatanywhere.org/v1/chat/completions"),
        ("https://api.chatanywhere.org/v1/chat/completions", "https://api.chatanywhere.org/v1/chat/completions"),
        ("https://api.chatanywhere.org/v1/chat/completions/", "https://api.chatanywhere.org/v1/chat/completions"),
        (" https://api.chatanywhere.org\n", "https://api.chatanywhere.org/v1/chat/completions"),
        ("api.chatanywhere.org/v1", "https://api.chatanywhere.org/v1/chat/completions"),
        ("https://gateway.example/chat/v1", "https://gateway.example/chat/v1/chat/completions"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1/chat/completions"),
        ("localhost:8000", "http://localhost:8000/v1/chat/completions"),
        ("LocalHost/v1", "http://localhost/v1/chat/completions"),
        ("llama.localhost:8000/v1", "http://llama.localhost:8000/v1/chat/completions"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000/v1/chat/completions"),
        ("127.8.9.1", "http://127.8.9.1/v1/chat/completions"),
        ("[::1]:8000", "http://[::1]:8000/v1/chat/completions"),
        ("https://localhost:8000", "https://localhost:8000/v1/chat/completions"),
        ("localhost.example:8000", "https://localhost.example:8000/v1/chat/completions"),
        ("notlocalhost:8000", "https://notlocalhost:8000/v1/chat/completions"),
        ("192.0.2.1:8000", "https://192.0.2.1:8000/v1/chat/completions"),
        ("[2001:db8::1]:8000", "https://[2001:db8::1]:8000/v1/chat/completions"),
        (["https://one.example", "https://two.example"], "https://one.example/v1/chat/completions"),
    ],
)
def test_every_spelling_of_a_base_url_works(base_url: Any, url: str) -> None:
    """The host may be written with or without /v1, a slash, the full path, the scheme."""
    assert sent(Client(KEY, base_url=base_url)).url == url


def test_a_server_on_this_machine_needs_no_scheme(monkeypatch: pytest.MonkeyPatch) -> None:
    """Host and port are enough, in the argument as in the environment: it is asked over http."""
    with LoopbackServer(lambda _: "Hi") as server:
        host = server.url.removeprefix("http://")
        assert Client(KEY, base_url=host).complete("Hello").text == "Hi"
        monkeypatch.setenv("CHATANYWHERE_BASE_URL", host)
        assert Client(KEY).complete("Hello").text == "Hi"


@pytest.mark.parametrize(
    "base_url",
    [
        "ftp://host",
        "https://",
        "https://host:port",
        "https://host:99999",
        "https://host#x",
        "https://u:p@host",
        "http:/host",
        "https:host",
        "https://host:",
        "https://one.example,https://two.example",
        "https://one.example, https://two.example",
        "https://one.example/v1 https://two.example/v1",
        "one.example,two.example",
        "https://exa mple",
        "https://exa%20mple",
        "https://host..example",
        "https://.example",
        f"https://{'a' * 64}.example",
        "https://ho$t",
        [],
    ],
)
def test_what_is_no_base_url_is_refused(base_url: Any) -> None:
    """A base URL that can't be used is a ValueError that says what one looks like."""
    with pytest.raises(ValueError, match="base_url"):
        Client(KEY, base_url=base_url)


def test_a_key_is_text() -> None:
    """Something else is a TypeError, which does not show it."""
    with pytest.raises(TypeError, match=r"api_key must be a str, not bytes$"):
        Client(KEY.encode())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("base_url", "kind"),
    [([8000], "int"), (b"https://host", "bytes"), (bytearray(b"host"), "bytearray"), ([b"h"], "bytes")],
)
def test_a_base_url_is_text(base_url: Any, kind: str) -> None:
    """Something else is a TypeError that names its type."""
    with pytest.raises(TypeError, match=f"base_url must be a str or several, not {kind}$"):
        Client(KEY, base_url=base_url)


@pytest.mark.parametrize("urls", ["https://one.example,https://two.example", "one.example, two.example"])
def test_several_base_urls_are_a_list(urls: str) -> None:
    """With commas between them they are none, and the error says how they are given."""
    with pytest.raises(ValueError, match="several are a list"):
        Client(KEY, base_url=urls)


@pytest.mark.parametrize(
    "host", ["host", "my_container", "host.", "例え.example", "sk-host.example", "[::1]", "[fe80::1%25eth0]"]
)
def test_hosts_of_one_s_own_network_are_taken(host: str) -> None:
    """So are names without a domain, with an underscore, or in any script."""
    assert f"https://{host}:8000/v1" in repr(Client(KEY, base_url=f"https://{host}:8000"))


SERVICE = "https://api.chatanywhere.org"


@pytest.mark.parametrize(
    ("environment", "arguments", "host", "key"),
    [
        ({"CHATANYWHERE_API_KEY": "env"}, {}, "api.chatanywhere.tech", "env"),
        ({"CHATANYWHERE_API_KEY": "env"}, {"api_key": "argument"}, "api.chatanywhere.tech", "argument"),
        ({"CHATANYWHERE_API_KEY": "env", "CHATANYWHERE_BASE_URL": "https://a.example/v1"}, {}, "a.example", "env"),
        (
            {"CHATANYWHERE_API_KEY": "env", "CHATANYWHERE_BASE_URL": "https://a.example"},
            {"base_url": "https://b.example"},
            "b.example",
            "env",
        ),
        ({"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": f"{SERVICE}/v1"}, {}, "api.chatanywhere.org", "theirs"),
        ({"OPENAI_API_KEY": "theirs", "OPENAI_API_BASE": f"{SERVICE}/v1"}, {}, "api.chatanywhere.org", "theirs"),
        (
            {"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": SERVICE, "CHATANYWHERE_API_KEY": "ours"},
            {},
            "api.chatanywhere.org",
            "ours",
        ),
        (
            {
                "OPENAI_API_KEY": "theirs",
                "OPENAI_BASE_URL": "https://api.openai.com/v1",
                "CHATANYWHERE_API_KEY": "ours",
            },
            {},
            "api.chatanywhere.tech",
            "ours",
        ),
    ],
)
def test_arguments_come_before_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], arguments: dict[str, str], host: str, key: str
) -> None:
    """Arguments, then CHATANYWHERE_*, then the OPENAI_* pair when it is set up for ChatAnywhere."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    request = sent(Client(**arguments))  # type: ignore[arg-type]
    assert request.url == f"https://{host}/v1/chat/completions"
    assert request.headers["Authorization"] == f"Bearer {key}"


@pytest.mark.parametrize(
    ("environment", "arguments"),
    [
        ({}, {}),
        ({"OPENAI_API_KEY": "theirs"}, {}),
        ({"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": "https://api.openai.com/v1"}, {}),
        ({"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": "https://chatanywhere.org.evil.example"}, {}),
        ({"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": "https://[broken"}, {}),
        ({"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": SERVICE}, {"base_url": "https://elsewhere.example"}),
        (
            {"OPENAI_API_KEY": "theirs", "OPENAI_BASE_URL": SERVICE, "CHATANYWHERE_BASE_URL": "https://else.example"},
            {},
        ),
    ],
)
def test_a_key_meant_for_openai_goes_nowhere_else(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], arguments: dict[str, str]
) -> None:
    """Without a key there is an error that says which variable to set, and where to get one or who wants it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    page = r"CHATANYWHERE_API_KEY.*github\.com/chatanywhere"
    with pytest.raises(AuthenticationError, match=rf"{page}|for https://else.*CHATANYWHERE_API_KEY") as caught:
        Client(**arguments)  # type: ignore[arg-type]
    assert caught.value.attempts == 0


# What is sent -------------------------------------------------------------------------------------------------


def test_the_web_protocol_sends_what_the_page_sent() -> None:
    """Body and headers are those of the original page."""
    with LoopbackServer(["Hi", "Hi"]) as server:
        client = Client(base_url=server.url, protocol="web", timeout=10)
        for _ in range(2):
            client.complete([{"role": "user", "content": [{"type": "text", "text": "你好"}]}], prompt="Be brief")
        first, second = server.requests
        url = server.url
    assert (first.method, first.path) == ("POST", "/v1/chat/gpt/")
    headers = {name: first.headers[name] for name in ("Authorization", "Origin", "Referer", "Accept", "Content-Type")}
    assert headers == {
        "Authorization": "",
        "Origin": url,
        "Referer": f"{url}/",
        "Accept": "application/json, text/plain, */*",
        "Content-Type": "application/json",
    }
    assert "Firefox" in first.headers["User-Agent"]
    body = dict(first.json)
    assert re.fullmatch(r"[\w-]{21}", body.pop("id"))
    assert body == {
        "list": [{"role": "user", "content": [{"type": "text", "text": "你好"}]}],
        "title": "你好",
        "prompt": "Be brief",
        "temperature": 0.5,
        "models": "61490748",
        "continuous": True,
    }
    assert first.json["id"] != second.json["id"]


def test_the_openai_protocol_sends_what_the_caller_gave() -> None:
    """Options go into the body as they are, None leaves one out, and nothing is made up."""
    tools = [{"type": "function", "function": {"name": "f"}}]
    with LoopbackServer(["Hi"]) as server:
        client = Client(KEY, base_url=server.url, model="m1")
        client.complete("Hello", temperature=0, max_tokens=None, tools=tools)
        (request,) = server.requests
    assert request.headers["Authorization"] == f"Bearer {KEY}"
    assert request.headers["User-Agent"]
    assert request.json == {
        "model": "m1",
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "tools": tools,
    }


@pytest.mark.parametrize(
    ("environment", "configured", "called", "model"),
    [(None, None, None, "gpt-4o-mini"), ("m1", None, None, "m1"), ("m1", "m2", None, "m2"), ("m1", "m2", "m3", "m3")],
)
def test_the_model_is_chosen_by_call_client_and_environment(
    monkeypatch: pytest.MonkeyPatch, environment: str | None, configured: str | None, called: str | None, model: str
) -> None:
    """The nearest choice counts."""
    if environment:
        monkeypatch.setenv("CHATANYWHERE_MODEL", environment)
    request = sent(Client(KEY, model=configured), model=called)
    assert f'"model": "{model}"' in request.body.decode()


@pytest.mark.parametrize(
    ("messages", "options", "error", "words"),
    [
        ([], {}, ValueError, "index 0"),
        ([{"role": "user", "content": "Hi"}, {"content": "Hi"}], {}, ValueError, r"messages\[1\].*role"),
        ([{"role": 5}], {}, ValueError, r"messages\[0\]"),
        (["Hi"], {}, TypeError, r"messages\[0\]"),
        (5, {}, TypeError, "messages"),
        ({"role": "user"}, {}, TypeError, "messages"),
        (b"Hi", {}, TypeError, "messages"),
        ("Hi", {"stream": False}, TypeError, r"complete\(stream=False\)"),
        ("Hi", {"stop": object()}, TypeError, "JSON"),
        ("Hi", {"temperature": float("nan")}, ValueError, "JSON"),
        ("Hi", {"timeout": 0}, ValueError, "None for no limit"),
        ("Hi", {"retry": 0}, ValueError, "1 is the least"),
        ("Hi", {"headers": {"X": "a\r\nb"}}, ValueError, "line break"),
        ("Hi", {"headers": {"X": "中"}}, ValueError, "Latin-1"),
        ("Hi", {"headers": {"X Y": "a"}}, ValueError, "not the name of a header"),
        ("Hi", {"headers": {"X": 5}}, TypeError, "must be a str"),
        ("Hi", {"headers": ["X"]}, TypeError, "headers must be a dict"),
        ("Hi", {"model": 3}, TypeError, "model must be a str"),
    ],
)
def test_what_can_t_be_sent_is_not_sent(
    messages: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Wrong use is told before anything leaves, in words that name the place or the remedy."""
    with LoopbackServer() as server:
        client = Client(KEY, base_url=server.url)
        with pytest.raises(error, match=words):
            client.stream(messages, **options)
        assert server.requests == []


def test_a_model_that_the_page_does_not_know_is_refused() -> None:
    """The error of the web protocol says which models it knows; a numeric id passes."""
    with LoopbackServer(["Hi"]) as server:
        client = Client(base_url=server.url, protocol="web")
        with pytest.raises(ValueError, match=r"gpt-3\.5-turbo"):
            client.stream("Hello", model="gpt-4o")
        client.complete("Hello", model="12345")
        (request,) = server.requests
    assert request.json["models"] == "12345"


def test_headers_replace_each_other_by_name() -> None:
    """A call's headers go before the client's, and these before the library's, in upper or lower case alike."""
    request = sent(
        Client(KEY, headers={"user-agent": "mine", "X-One": "1", "X-Two": "2"}), headers={"x-two": "3", "ACCEPT": "*/*"}
    )
    assert {name.lower(): value for name, value in request.headers.items() if name.lower() != "content-length"} == {
        "user-agent": "mine",
        "x-one": "1",
        "x-two": "3",
        "accept": "*/*",
        "accept-encoding": "identity",
        "content-type": "application/json",
        "authorization": f"Bearer {KEY}",
    }


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"protocol": "soap"}, ValueError, "'web', 'openai'"),
        ({"timeout": -1}, ValueError, "timeout|total"),
        ({"timeout": "5"}, TypeError, "total"),
        ({"retry": 0}, ValueError, "attempts"),
        ({"proxy": "gopher://x"}, ValueError, "proxy"),
        ({"proxy": "http://"}, ValueError, "proxy"),
        ({"max_response_bytes": 0}, ValueError, "max_response_bytes"),
        ({"verify": "/no/such/file"}, ValueError, "verify"),
        ({"headers": {"Content-Length": "3"}}, ValueError, "set by the client"),
        ({"headers": {"transfer-encoding": "chunked"}}, ValueError, "set by the client"),
        ({"headers": ["X"]}, TypeError, "headers must be a dict, not list"),
        ({"model": 3}, TypeError, "model must be a str or several, not int"),
        ({"proxy": 8080}, TypeError, "proxy must be a str, not int"),
        ({"verify": None}, TypeError, "verify must be True, False or a path, not NoneType"),
        ({"base_url": 8000}, TypeError, "base_url must be a str or several, not int"),
        ({"max_response_bytes": "1 MiB"}, TypeError, "max_response_bytes must be an int"),
    ],
)
def test_settings_are_checked_when_they_are_given(settings: dict[str, Any], error: type[Exception], words: str) -> None:
    """A setting that can't work is refused at once."""
    with pytest.raises(error, match=words):
        Client(KEY, **settings)


def test_a_socks_proxy_needs_pysocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PySocks the error says what to install."""
    monkeypatch.setitem(__import__("sys").modules, "socks", None)
    with pytest.raises(ValueError, match=r"chatanywhere\[socks\]"):
        Client(KEY, proxy="socks5://127.0.0.1:1080")


# What a stream tells ------------------------------------------------------------------------------------------


def test_a_stream_knows_its_answer() -> None:
    """Status, headers, request id, the text so far and at the end the completion."""
    with LoopbackServer([["one ", "two"]]) as server, Client(KEY, base_url=server.url) as client:
        with client.stream("Hello", model="m1") as stream:
            assert (stream.status_code, stream.text, stream.reasoning) == (200, "", "")
            assert stream.headers["Content-Type"] == "text/event-stream"
            with pytest.raises(RuntimeError, match="read the stream to its end"):
                _ = stream.completion
            assert "".join(stream) == stream.text == "one two"
        completion = stream.completion
    assert (completion.text, completion.finish_reason, completion.model) == ("one two", "stop", "m1")
    assert completion.usage == Usage(prompt_tokens=1, completion_tokens=2, total_tokens=3)
    assert completion.request_id == stream.request_id
    assert str(completion) == "one two"
    assert next(stream, None) is None
    assert "complete" in repr(stream)


def test_events_tell_more_than_the_text() -> None:
    """events() yields when the answer starts, its text, why it ended, and what it cost."""
    with LoopbackServer([["one ", "two"]]) as server, Client(KEY, base_url=server.url).stream("Hello") as stream:
        events = list(stream.events())
    assert [type(event) for event in events if not isinstance(event, TextDelta)] == [Started, Finished, Usage]
    assert stream.text == "one two"


def test_breaking_off_events_loses_none(raw_server: RawServer) -> None:
    """What a loop over events() did not take is there for the next."""
    lines = [f'data: {{"choices": [{{"delta": {{"{key}": "x"}}}}]}}\n\n' for key in ("content", "reasoning_content")]
    body = "".join([*lines, "data: [DONE]\n\n"]).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: {len(body)}\r\n\r\n"
    raw_server.answer(head.encode() + body)
    with Client(KEY, base_url=raw_server.url).stream("Hello") as stream:
        for _ in stream.events():
            break
        assert list(stream) == ["x"]
    assert (stream.text, stream.reasoning) == ("x", "x")


def test_a_server_that_does_not_stream_is_understood() -> None:
    """A chat completion in one JSON object is an answer too."""
    answer = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    with responses.RequestsMock() as mock:
        mock.post("https://api.chatanywhere.tech/v1/chat/completions", json=answer)
        assert Client(KEY).complete("Hello").text == "Hi"


def test_an_error_says_what_had_come() -> None:
    """Text before a failure is in the error and stays in the stream, and nothing is asked again."""
    with LoopbackServer([["one ", "two ", "three"]] * 2, faults=[Fault.no_done(after=2)]) as server:
        stream = Client(KEY, base_url=server.url, retry=3).stream("Hello")
        with pytest.raises(StreamInterruptedError) as caught:
            list(stream)
        assert len(server.requests) == 1
    assert caught.value.partial == stream.text == "one two "
    assert caught.value.attempts == 1
    assert caught.value.request_id == stream.request_id
    assert "failed" in repr(stream)


def test_a_failure_before_the_first_text_is_tried_again() -> None:
    """Errors of the service, error frames and cuts that come before any text do not reach the caller."""
    faults = [Fault.status(503, first=1), Fault.error_frame(first=2), Fault.no_done(after=0, first=3)]
    with LoopbackServer(lambda _: "Hi", faults=faults) as server:
        client = Client(KEY, base_url=server.url, retry=4)
        for _ in range(3):
            assert client.complete("Hello").text == "Hi"
        assert len(server.requests) > 3


def test_a_call_that_keeps_failing_says_how_often_it_was_tried() -> None:
    """The last attempt's error counts the attempts."""
    with LoopbackServer(faults=[Fault.status(500)]) as server:
        client = Client(KEY, base_url=server.url, retry=2)
        with pytest.raises(InternalServerError) as caught:
            client.complete("Hello")
        assert caught.value.attempts == len(server.requests) == 2


def test_models_are_listed() -> None:
    """models() asks the live protocol's server; the web protocol has none to ask."""
    with LoopbackServer() as server:
        assert "gpt-4o-mini" in Client(KEY, base_url=server.url).models()
        with pytest.raises(RuntimeError, match="openai"):
            Client(base_url=server.url, protocol="web").models()
    with responses.RequestsMock() as mock:
        mock.get("https://api.chatanywhere.tech/v1/models", body="[]")
        with pytest.raises(ProtocolError, match="list of models"):
            Client(KEY).models()


def test_models_are_asked_for_again_when_the_answer_is_cut(raw_server: RawServer) -> None:
    """A list that was cut is no list, and asking again does no harm; the error says how often it was tried."""
    whole = b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 27\r\n\r\n{"data": [{"id": "gpt-x"}]}'
    answers = iter([[whole[:-5]], [whole], [whole[:-5]], [whole[:-5]]])
    raw_server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]
    client = Client(KEY, base_url=raw_server.url, retry=Retry(2, 0))
    assert client.models() == ["gpt-x"]
    with pytest.raises(StreamInterruptedError) as caught:
        client.models()
    assert caught.value.attempts == 2
    assert len(raw_server.requests) == 4


# Sharing ------------------------------------------------------------------------------------------------------


def test_threads_share_a_client() -> None:
    """Calls from many threads at once do not mix."""
    with LoopbackServer(lambda request: request.text * 50) as server, Client(KEY, base_url=server.url) as client:
        texts: dict[int, str] = {}

        def ask(number: int) -> None:
            texts[number] = client.complete(f"{number} ").text

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert texts == {number: f"{number} " * 50 for number in range(20)}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_client_works_on_in_a_forked_child() -> None:
    """The child opens connections of its own, and the parent's go on working."""
    with LoopbackServer(lambda _: "Hi") as server, Client(KEY, base_url=server.url) as client:
        assert client.complete("Hello").text == "Hi"
        child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                os._exit(0 if client.complete("Hello").text == "Hi" else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert client.complete("Hello").text == "Hi"
        assert server.connections == 2


def test_a_closed_client_may_be_used_again() -> None:
    """close() lets go of the connections only."""
    with LoopbackServer(lambda _: "Hi") as server:
        client = Client(KEY, base_url=server.url)
        for _ in range(2):
            assert client.complete("Hello").text == "Hi"
            client.close()
        assert server.connections == 2


def test_a_forgotten_client_closes_its_connections() -> None:
    """No socket outlives the client that opened it."""
    with LoopbackServer(lambda _: "Hi") as server:
        client = Client(KEY, base_url=server.url)
        client.complete("Hello")
        descriptors = [found.fd for found in sockets_to(int(server.url.rpartition(":")[2]))]
        closed = threading.Event()
        original = socket.socket.close

        def close(self: socket.socket) -> None:
            if self.fileno() in descriptors:
                closed.set()
            original(self)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket.socket, "close", close)
            del client
            assert closed.wait(5)


def test_a_pickled_client_reads_its_key_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pickles carry the configuration without the key."""
    monkeypatch.setenv("CHATANYWHERE_API_KEY", "from-the-environment")
    duplicate = pickle.loads(pickle.dumps(Client("from-the-argument", model="m1", base_url="https://a.example")))
    request = sent(duplicate)
    assert request.headers["Authorization"] == "Bearer from-the-environment"
    assert request.url.startswith("https://a.example")
    assert KEY not in repr(Client(KEY))


def test_stream_is_what_a_client_returns() -> None:
    """The type is public, for annotations."""
    with LoopbackServer(["Hi"]) as server, Client(KEY, base_url=server.url).stream("Hello") as stream:
        assert isinstance(stream, Stream)


def test_a_text_need_not_be_kept(face: Face) -> None:
    """With keep_text=False the pieces are given out, and no more is remembered of them; nothing is sent about it."""
    with LoopbackServer(lambda _: ["one ", "two"]) as server, Client(KEY, base_url=server.url) as client:
        stream = client.stream("Hello", keep_text=False)
        assert "".join(stream) == "one two"
        assert (stream.text, stream.completion.text, stream.completion.finish_reason) == ("", "", "stop")
        assert face.ask(client, keep_text=False).text == "one two"
        assert "keep_text" not in server.requests[-1].json
    with LoopbackServer(lambda _: ["one ", "two"], faults=[Fault.reset_peer(after=1)]) as server:
        outcome = face.ask(Client(KEY, base_url=server.url), keep_text=False)
        assert outcome.text == "one "
        assert isinstance(outcome.error, StreamInterruptedError)
        assert (outcome.error.partial, outcome.error.attempts) == ("", 1)


@pytest.mark.parametrize("way", ["close", "cancel", "break"])
def test_a_stream_that_was_stopped_says_so(way: str) -> None:
    """Its repr no longer calls it open."""
    with LoopbackServer([["one ", "two"]]) as server, Client(KEY, base_url=server.url) as client:
        with client.stream("Hello") as stream:
            assert "open" in repr(stream)
            for _ in stream:
                break
            if way != "break":
                getattr(stream, way)()
        assert ("cancelled" if way == "cancel" else "closed") in repr(stream)


def test_two_threads_that_read_one_stream() -> None:
    """The one that is second is refused, whenever it comes, and the first one gets the whole answer."""
    pieces = [f"{number} " for number in range(300)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with LoopbackServer(lambda _: pieces) as server, Client(KEY, base_url=server.url) as client:
            for _ in range(10):
                stream = client.stream("Hello")
                errors: list[Exception] = []

                def read(stream: Stream = stream, errors: list[Exception] = errors) -> None:
                    try:
                        for _ in stream:
                            pass
                    except Exception as exc:
                        errors.append(exc)

                threads = [threading.Thread(target=read) for _ in range(2)]
                for thread in threads:
                    thread.start()
                for thread in threads:
                    thread.join(10)
                assert {str(error) for error in errors} <= {"another thread or task is reading this stream"}
                assert stream.text == "".join(pieces)
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.parametrize("protocol", ["openai", "web"])
@pytest.mark.parametrize("empty", ["", " ", "\n"], ids=ascii)
@pytest.mark.parametrize("url", ["OPENAI_BASE_URL", "OPENAI_API_BASE"])
@pytest.mark.parametrize("without", ["CHATANYWHERE_API_KEY", "OPENAI_API_KEY", "both"])
def test_an_empty_variable_is_none(
    monkeypatch: pytest.MonkeyPatch, without: str, url: str, empty: str, protocol: Any
) -> None:
    """A secret that is not set, which some systems write as an empty variable, is no malformed key, nor a URL."""
    for name in ("CHATANYWHERE_BASE_URL", "CHATANYWHERE_MODEL", "OPENAI_BASE_URL", "OPENAI_API_BASE"):
        monkeypatch.setenv(name, empty)
    monkeypatch.setenv(url, SERVICE)
    for name in ("CHATANYWHERE_API_KEY", "OPENAI_API_KEY"):
        if without in (name, "both"):
            monkeypatch.setenv(name, empty)
    if protocol == "web":
        assert Client(protocol="web")
    else:
        with pytest.raises(AuthenticationError, match="no API key"):
            Client()


@pytest.mark.parametrize(
    "body",
    [b"[]", b"{}", b'{"data": {}}', b'{"data": [1]}', b'{"data": [{"id": null}]}', b"1e999", b"[" * 2000],
    ids=repr,
)
def test_models_of_another_shape_are_refused(raw_server: RawServer, body: bytes) -> None:
    """What is not a list of models is a ProtocolError, and never half a list."""
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    with pytest.raises(ProtocolError, match="not a list of models"):
        Client(KEY, base_url=raw_server.url).models()


def test_a_second_reader_of_a_cancelled_stream_gets_the_text_too(raw_server: RawServer) -> None:
    """While the thread that reads has not yet stopped, another one is told what had arrived."""
    raw_server.answer(BEGUN, raw_server.hold)
    stream = Client(base_url=raw_server.url, protocol="web").stream("Hello")
    assert next(stream) == "one"
    with stream._turn:  # as the first reader holds it until it has stopped
        stream.cancel()
        with pytest.raises(StreamCancelledError) as caught:
            next(stream)
    assert (caught.value.partial, caught.value.attempts) == ("one", 1)


def test_a_bool_is_no_number_of_bytes() -> None:
    """True is an int to Python, and a mistake here."""
    with pytest.raises(TypeError, match=r"max_response_bytes must be an int.*not bool"):
        Client(KEY, max_response_bytes=True)
