"""The errors: what they carry, that they travel, and that nobody else's error comes out of a call."""

from __future__ import annotations

import copy
import http.client
import inspect
import io
import json
import pickle
import socket
import ssl
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
import responses
import urllib3
import urllib3.exceptions
from raw_server import RawServer

import chatanywhere
from chatanywhere import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    ChatAnywhereError,
    Client,
    Completion,
    OutputError,
    ProtocolError,
    StreamInterruptedError,
    Timeout,
    ToolCall,
)
from chatanywhere.testing import Fault, LoopbackServer

URL = "http://127.0.0.1:9"
CHAT = f"{URL}/v1/chat/completions"


def tree(kind: type[Any]) -> Iterator[type[Any]]:
    """A class and all that derive from it."""
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


# OpenAI's face, which another test may have imported, has errors of its own.
ERRORS = sorted(
    {kind for kind in tree(ChatAnywhereError) if not kind.__module__.startswith("chatanywhere.openai")},
    key=lambda kind: kind.__name__,
)


def named(kind: object) -> str:
    return getattr(kind, "__name__", repr(kind))


# What they carry ----------------------------------------------------------------------------------------------


def full_error(kind: type[ChatAnywhereError]) -> ChatAnywhereError:
    """An error of this kind whose every attribute differs from its default."""
    error: ChatAnywhereError
    if issubclass(kind, APIStatusError):
        error = kind(
            "quota: 天若有情",
            status_code=429,
            code="429 TOO_MANY_REQUESTS",
            body={"error": {"message": ["quota"]}},
            headers={"x-request-id": "r1"},
            hint="Wait.",
        )
        error.retry_after = 1.5
    elif issubclass(kind, APITimeoutError):
        error = kind("timeout: nothing came", "read")
    elif issubclass(kind, OutputError):
        error = kind("it does not fit", "invalid", Completion("one 二", tool_calls=(ToolCall("c", "f", "{}"),)))
    else:
        error = kind("it broke")
    error.partial, error.attempts, error.request_id = "天若", 3, "r1"
    return error


def public(error: ChatAnywhereError) -> dict[str, Any]:
    """All that a user can see of an error."""
    names = ["partial", "attempts", "request_id", "args"]
    if isinstance(error, APITimeoutError):
        names += ["phase"]
    if isinstance(error, OutputError):
        names += ["reason", "completion"]
    if isinstance(error, APIStatusError):
        names += ["status_code", "code", "message", "body", "hint", "headers", "retry_after"]
    return {"class": type(error), "str": str(error), **{name: getattr(error, name) for name in names}}


def through_pickle(protocol: int) -> Callable[[Any], Any]:
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


WAYS = {
    **{f"pickle protocol {protocol}": through_pickle(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ERRORS, ids=named)
def test_an_error_travels_whole(kind: type[ChatAnywhereError], way: str) -> None:
    """Every error comes out of a pickle or a copy with its class, its words and all its attributes."""
    error = full_error(kind)
    arrived = WAYS[way](error)
    assert arrived is not error
    assert public(arrived) == public(error)


def test_a_deep_copy_shares_nothing() -> None:
    """Changing the deep copy's body or headers leaves the error as it is."""
    error = full_error(APIStatusError)
    assert isinstance(error, APIStatusError)
    duplicate = copy.deepcopy(error)
    duplicate.body["error"]["message"].append("more")  # type: ignore[index]
    duplicate.headers["x-more"] = "more"
    assert error.body == {"error": {"message": ["quota"]}}
    assert error.headers == {"x-request-id": "r1"}


def test_every_error_can_be_imported() -> None:
    """All classes of the tree are names of the package, so that each can be caught."""
    exported = {value for name in chatanywhere.__all__ if inspect.isclass(value := getattr(chatanywhere, name))}
    assert exported >= set(ERRORS)
    assert {kind.__name__ for kind in ERRORS} <= set(chatanywhere.__all__)


def test_a_timeout_is_a_timeout_error() -> None:
    """A limit that ran out is caught by `except TimeoutError`, too, and by `except OSError`."""
    with LoopbackServer(faults=[Fault.timeout()]) as server, pytest.raises(TimeoutError) as caught:
        Client("k", base_url=server.url, retry=None).complete("Hello", timeout=Timeout(read=0.1))
    assert isinstance(caught.value, APITimeoutError)
    assert isinstance(caught.value, OSError)
    assert str(caught.value) == caught.value.args[0]


def test_str_has_the_status_the_words_and_the_hint() -> None:
    """What is printed says which status, what the service said, and what to do."""
    fault = Fault.status(404, "no such path")
    with LoopbackServer(faults=[fault]) as server, pytest.raises(APIStatusError) as caught:
        Client("k", base_url=server.url).complete("Hello")
    first, _, rest = str(caught.value).partition("\n")
    assert first == "404: no such path"
    assert caught.value.hint
    assert rest == caught.value.hint


# What they were made from -------------------------------------------------------------------------------------


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """The causes of an error, itself left out."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        seen.append(error)
        error = error.__cause__ or error.__context__
    yield from seen[1:]


def test_a_refused_connection_keeps_its_cause(unused_url: str) -> None:
    """The error of a connection that was refused leads to the system's ConnectionRefusedError."""
    with pytest.raises(APIConnectionError) as caught:
        Client("k", base_url=unused_url, retry=None).complete("Hello")
    assert caught.value.__cause__ is not None
    assert any(isinstance(cause, ConnectionRefusedError) for cause in chain(caught.value))


@pytest.fixture
def unused_url() -> Iterator[str]:
    """The address of a port that is taken, so that nobody else listens on it, and refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


@pytest.mark.parametrize(
    ("fault", "error", "cause"),
    [
        (Fault.reset_peer(), APIConnectionError, ConnectionResetError),
        (Fault.limit_data(0), APIConnectionError, http.client.RemoteDisconnected),
        (Fault.timeout(), APITimeoutError, socket.timeout),
        (Fault.timeout(after=0), APITimeoutError, socket.timeout),
        (Fault.reset_peer(after=0), StreamInterruptedError, ConnectionResetError),
        (Fault.bad_gzip(), ProtocolError, Exception),
        (Fault.bad_json(), ProtocolError, json.JSONDecodeError),
        (Fault.bad_utf8(), ProtocolError, UnicodeDecodeError),
    ],
    ids=lambda value: f"{value.name} at {value.at}" if isinstance(value, Fault) else "",
)
def test_a_real_failure_keeps_its_cause(
    fault: Fault, error: type[ChatAnywhereError], cause: type[BaseException]
) -> None:
    """`__cause__` leads to what the system, or a decoder, said."""
    with LoopbackServer(faults=[fault]) as server, pytest.raises(error) as caught:
        Client("k", base_url=server.url, retry=None).complete("Hello", timeout=Timeout(read=0.2))
    assert caught.value.__cause__ is not None
    assert any(isinstance(found, cause) for found in chain(caught.value))


# Other people's errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [requests.ReadTimeout, requests.ConnectTimeout, requests.exceptions.ProxyError])
def test_what_the_program_is_about_to_handle_says_nothing_of_the_call(kind: type[Exception], unused_url: str) -> None:
    """A call made in an `except` block fails for its own reasons, and goes to the next host if it can't connect."""
    with LoopbackServer(lambda _: "Hi") as server:
        try:
            raise kind("the program's own")
        except kind:
            with pytest.raises(APIConnectionError) as caught:
                Client("k", base_url=unused_url, retry=None).complete("Hello")
            assert type(caught.value) is APIConnectionError
            assert "proxy" not in str(caught.value)
            assert Client("k", base_url=[unused_url, server.url], retry=None).complete("Hello").text == "Hi"


POOL = urllib3.HTTPConnectionPool("127.0.0.1", 9)

# What the constructors of other people's errors are given, by the names of their parameters.
ARGUMENTS: dict[str, Any] = {
    "conn": POOL,
    "defects": [],
    "doc": "{",
    "error": OSError("tunnel failed"),
    "expected": 10,
    "host": "host.invalid",
    "length": b"zz",
    "line": "HTTP/9.9 ???",
    "line_type": "header line",
    "location": "http://[",
    "message": "it broke",
    "msg": "it broke",
    "partial": 5,
    "pool": POOL,
    "pos": 0,
    "reason": socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
    "response": urllib3.HTTPResponse(body=b""),
    "retries": 3,
    "scheme": "gopher",
    "unparsed_data": b"",
    "url": "/v1",
    "version": "HTTP/9.9",
}


def make(kind: type[Exception]) -> Exception:
    """An exception of somebody else's class, with arguments such as it may have."""
    if issubclass(kind, json.JSONDecodeError):
        return kind("it broke", "{", 0)
    if kind is http.client.IncompleteRead:  # its `partial` is bytes, urllib3's a number of them
        return kind(b"{", 10)
    arguments = []
    for parameter in list(inspect.signature(kind.__init__).parameters.values())[1:]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            arguments.append("it broke")
        elif parameter.kind is not parameter.VAR_KEYWORD:
            arguments.append(ARGUMENTS[parameter.name])
    return kind(*arguments)


def foreign_errors() -> list[type[Exception]]:
    """Every exception class that the libraries underneath define."""
    modules = (requests.exceptions, urllib3.exceptions, http.client)
    return [
        value
        for module in modules
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, Exception)
        and not issubclass(value, Warning)
        and (value.__module__, value.__name__) == (module.__name__, name)
    ]


def failed_call(exc: BaseException) -> ChatAnywhereError:
    """Make a call in which the library underneath raises `exc`, and return what comes out of it."""
    with responses.RequestsMock() as mock:
        mock.post(CHAT, body=exc)
        with pytest.raises(ChatAnywhereError) as caught:
            Client("k", base_url=URL).complete("Hello", retry=None)
    assert caught.value.__cause__ is not None
    assert caught.value.attempts == 1
    return caught.value


def test_the_enumeration_finds_errors_of_each_library() -> None:
    """The list below is not empty for want of finding anything."""
    found = foreign_errors()
    assert {requests.ConnectionError, urllib3.exceptions.MaxRetryError, http.client.BadStatusLine} <= set(found)
    assert len(found) > 40


@pytest.mark.parametrize("kind", foreign_errors(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_no_foreign_error_escapes(kind: type[Exception]) -> None:
    """Whatever the libraries underneath may raise, what comes out is a ChatAnywhereError that says something."""
    assert str(failed_call(make(kind)))


def max_retries(reason: Exception) -> requests.ConnectionError:
    """An error as requests wraps one of urllib3's."""
    return requests.ConnectionError(urllib3.exceptions.MaxRetryError(POOL, "/v1", reason))


def aborted(reason: Exception) -> requests.ConnectionError:
    """An error as requests wraps one of the connection's."""
    return requests.ConnectionError(urllib3.exceptions.ProtocolError("Connection aborted.", reason))


@pytest.mark.parametrize(
    ("exc", "error", "words"),
    [
        (requests.ConnectTimeout("slow"), APITimeoutError, "connect"),
        (urllib3.exceptions.ConnectTimeoutError("slow"), APITimeoutError, "connect"),
        (max_retries(urllib3.exceptions.ConnectTimeoutError("slow")), APITimeoutError, "connect"),
        (requests.ReadTimeout("slow"), APITimeoutError, "headers"),
        (urllib3.exceptions.ReadTimeoutError(POOL, "/v1", "slow"), APITimeoutError, "headers"),
        (max_retries(urllib3.exceptions.ReadTimeoutError(POOL, "/v1", "slow")), APITimeoutError, "headers"),
        (requests.ConnectionError("no route"), APIConnectionError, "no route"),
        (max_retries(urllib3.exceptions.NewConnectionError(POOL, "refused")), APIConnectionError, "refused"),
        (max_retries(make(urllib3.exceptions.NameResolutionError)), APIConnectionError, "not known"),
        (requests.exceptions.ProxyError("407"), APIConnectionError, "through the proxy.*407"),
        (
            max_retries(urllib3.exceptions.ProxyError("no tunnel", OSError("407"))),
            APIConnectionError,
            "through the proxy.*407",
        ),
        (requests.exceptions.SSLError("bad certificate"), APIConnectionError, "bad certificate"),
        (max_retries(urllib3.exceptions.SSLError(ssl.SSLError(1, "self-signed"))), APIConnectionError, "self-signed"),
        (aborted(http.client.RemoteDisconnected("closed")), APIConnectionError, "closed"),
        (aborted(ConnectionResetError(104, "reset")), APIConnectionError, "reset"),
        (aborted(http.client.BadStatusLine("SSH-2.0")), ProtocolError, "not HTTP.*SSH-2.0"),
        (http.client.LineTooLong("header line"), ProtocolError, "not HTTP.*header line"),
        (ConnectionRefusedError(111, "refused"), APIConnectionError, "refused"),
        (socket.gaierror(-2, "Name or service not known"), APIConnectionError, "not known"),
    ],
    ids=repr,
)
def test_a_foreign_error_is_told_in_our_words(exc: Exception, error: type[ChatAnywhereError], words: str) -> None:
    """Each failure has its class; a timeout says which limit it was, the others the innermost reason."""
    outcome = failed_call(exc)
    assert type(outcome) is error
    if isinstance(outcome, APITimeoutError):
        assert outcome.phase == words
    else:
        with pytest.raises(error, match=words):
            raise outcome


@pytest.mark.parametrize("exc", [KeyboardInterrupt(), SystemExit(1), MemoryError()], ids=named)
def test_what_is_no_failure_of_the_world_passes(exc: BaseException) -> None:
    """An interrupt, an exit or a lack of memory comes out as it is."""

    def raise_it(_: Any) -> Any:
        raise exc

    with responses.RequestsMock() as mock:
        mock.add_callback(responses.POST, CHAT, raise_it)
        with pytest.raises(type(exc)) as caught:
            Client("k", base_url=URL).complete("Hello")
    assert caught.value is exc


# Without a socket of our own ----------------------------------------------------------------------------------

SSE = 'data: {"choices": [{"delta": {"content": "天若"}}]}\n\ndata: {"choices": [{"delta": {"content": "有情"}}]}\n\n'


@pytest.mark.parametrize(
    ("protocol", "path", "content_type", "body"),
    [
        ("openai", "/v1/chat/completions", "text/event-stream", SSE + "data: [DONE]\n\n"),
        ("web", "/v1/chat/gpt/", "text/plain", "天若有情"),
    ],
)
def test_a_mocked_answer_streams(protocol: Any, path: str, content_type: str, body: str) -> None:
    """Programs may mock the service with `responses`, which has no socket to read from."""
    with responses.RequestsMock() as mock:
        mock.post(URL + path, body=body, content_type=content_type, headers={"x-request-id": "r1"})
        client = Client("k", base_url=URL, protocol=protocol, retry=None)
        with client.stream("Hello") as stream:
            assert "".join(stream) == "天若有情"
            assert stream.completion.request_id == "r1"


class Breaking(io.RawIOBase):
    """A body of which a part comes before it fails."""

    def __init__(self, exc: Exception) -> None:
        self._begin = SSE.encode()
        self._exc = exc

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._begin:
            raise self._exc
        data, self._begin = self._begin, b""
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize(
    ("exc", "error"),
    [
        (TimeoutError("timed out"), APITimeoutError),
        (ConnectionResetError(104, "reset"), StreamInterruptedError),
        (http.client.IncompleteRead(b""), StreamInterruptedError),
        (ssl.SSLError("bad record"), StreamInterruptedError),
    ],
    ids=repr,
)
def test_a_foreign_error_within_an_answer_keeps_the_text(exc: Exception, error: type[ChatAnywhereError]) -> None:
    """What breaks a mocked answer off comes out in our words, with the text so far."""
    with responses.RequestsMock() as mock:
        mock.post(CHAT, body=io.BufferedReader(Breaking(exc)), content_type="text/event-stream")
        with pytest.raises(error) as caught:
            list(Client("k", base_url=URL).stream("Hello"))
    assert type(caught.value) is error
    assert caught.value.partial == "天若有情"
    assert getattr(caught.value, "phase", "read") == "read"


@pytest.mark.parametrize("status", [400, 401, 429, 503])
def test_a_mocked_error_is_the_service_s(status: int) -> None:
    """A mocked status is read as a real one, body and headers included."""
    with responses.RequestsMock() as mock:
        mock.post(CHAT, status=status, json={"error": {"message": "no", "code": "c"}}, headers={"x-request-id": "r1"})
        with pytest.raises(APIStatusError) as caught:
            Client("k", base_url=URL).complete("Hello", retry=None)
    error = caught.value
    assert (error.status_code, error.message, error.code, error.request_id) == (status, "no", "c", "r1")
    assert error.body == {"error": {"message": "no", "code": "c"}}


def test_an_answer_that_is_not_http_is_shown(raw_server: RawServer) -> None:
    """A server of another kind is a ProtocolError that says how its answer begins."""
    raw_server.answer(b"SSH-2.0-OpenSSH\r\n")
    with pytest.raises(ProtocolError, match=r"not an HTTP/1 answer.*SSH-2\.0-OpenSSH"):
        Client("k", base_url=raw_server.url, retry=None).complete("Hello")


@pytest.mark.parametrize("depth", [10, 300, 700, 950, 100_000])
@pytest.mark.parametrize("nest", ['{"a":', "["])
def test_a_body_nested_deeply_is_an_error_of_the_tree(raw_server: RawServer, depth: int, nest: str) -> None:
    """However deep the JSON of an error is, the status is told, and the key in it is not shown."""
    key = "sk-0123456789"
    inner = nest * depth + f'"{key}"' + {"[": "]", "{": "}"}[nest[0]] * depth
    body = f'{{"error": {{"message": "too deep", "extra": {inner}}}}}'.encode()
    raw_server.answer(b"HTTP/1.1 400 Bad\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    with pytest.raises(BadRequestError) as caught:
        Client(key, base_url=raw_server.url).complete("Hello")
    assert caught.value.status_code == 400
    assert key not in str(caught.value.body)
