"""The loopback server, asked by clients that share no code with it or with the package."""

from __future__ import annotations

import http.client
import itertools
import json
import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere.testing import Fault, LoopbackServer, Request

TIMEOUT = 20.0  # seconds; reached only when something hangs
WEB = "/v1/chat/gpt/"
OPENAI = "/v1/chat/completions"
KEY = {"Authorization": "Bearer key"}


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def ask_web(server: LoopbackServer, text: str = "Hi") -> requests.Response:
    return requests.post(server.url + WEB, json={"list": user(text)}, timeout=TIMEOUT)


def ask_openai(server: LoopbackServer, text: str = "Hi", **options: Any) -> requests.Response:
    body = {"model": "gpt-4o-mini", "messages": user(text), **options}
    return requests.post(server.url + OPENAI, json=body, headers=KEY, timeout=TIMEOUT)


@contextmanager
def connect(server: LoopbackServer) -> Iterator[socket.socket]:
    port = int(server.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
        yield connection


def read_to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def exchange(server: LoopbackServer, request: bytes) -> tuple[bytes, bytes]:
    """Send raw bytes; return the head and the rest of what comes until the server closes."""
    with connect(server) as connection:
        connection.sendall(request)
        head, _, rest = read_to_end(connection).partition(b"\r\n\r\n")
        return head, rest


def raw_post(path: str, body: object, *headers: str, version: str = "1.1") -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", f"Content-Length: {len(content)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + content


def web_chunks(server: LoopbackServer, text: str = "Hi") -> list[str]:
    """Return the chunks of an answer of the web protocol, as they are framed on the wire."""
    _, rest = exchange(server, raw_post(WEB, {"list": user(text)}, "Connection: close"))
    chunks = []
    while not rest.startswith(b"0\r\n"):
        size, _, rest = rest.partition(b"\r\n")
        chunks.append(rest[: int(size, 16)].decode())
        assert rest[int(size, 16) :].startswith(b"\r\n")
        rest = rest[int(size, 16) + 2 :]
    assert rest == b"0\r\n\r\n"
    return chunks


def events(response: requests.Response) -> list[str]:
    """Return the data of each event of an answer of the openai protocol."""
    assert response.headers["Content-Type"] == "text/event-stream"
    found = response.content.decode().split("\n\n")
    assert found.pop() == ""
    assert all(event.startswith("data: ") for event in found)
    return [event[len("data: ") :] for event in found]


@pytest.fixture
def server(no_thread_left: None) -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


# Start and close


def test_the_url_of_a_server_that_is_not_running_names_the_remedy() -> None:
    """Before the start and after the close, `url` raises an error that says what to do."""
    server = LoopbackServer()
    with pytest.raises(RuntimeError, match=r"start\(\)"):
        server.url  # noqa: B018
    with server:
        assert server.url.startswith("http://127.0.0.1:")
    with pytest.raises(RuntimeError, match=r"start\(\)"):
        server.url  # noqa: B018


def test_start_and_close_may_be_repeated(no_thread_left: None) -> None:
    """A second start or close changes nothing, and a closed server can be started again."""
    server = LoopbackServer(["one", "two"])
    assert server.start() is server
    url = server.url
    assert server.start().url == url
    assert ask_web(server).text == "one"
    server.close()
    server.close()
    with server:
        assert ask_web(server).text == "two"
    assert len(server.requests) == 2


def test_a_port_in_use_is_an_error_of_start(server: LoopbackServer) -> None:
    """Starting on a port that another server has raises OSError and leaves nothing open."""
    second = LoopbackServer(port=int(server.url.rpartition(":")[2]))
    with pytest.raises(OSError, match=r"."):
        second.start()
    second.close()


def test_close_wakes_a_reply_in_the_middle_of_its_delay(no_thread_left: None) -> None:
    """A server with an hour between pieces sends the first at once and still closes at once."""
    with LoopbackServer([["one", "two"]], delay=3600) as server:
        connection = http.client.HTTPConnection(server.url[len("http://") :], timeout=TIMEOUT)
        connection.request("POST", WEB, json.dumps({"list": user("Hi")}))
        response = connection.getresponse()
        assert response.read(3) == b"one"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    connection.close()


def test_close_ends_idle_connections(no_thread_left: None) -> None:
    """A kept-alive connection that waits for its next request is closed with the server."""
    with LoopbackServer() as server:
        connection = http.client.HTTPConnection(server.url[len("http://") :], timeout=TIMEOUT)
        connection.request("GET", "/v1/models")
        assert connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()


# The web protocol


def test_web_sends_each_piece_as_a_chunk(no_thread_left: None) -> None:
    """A reply given in pieces arrives in exactly these pieces, one HTTP chunk each."""
    with LoopbackServer([["Hel", "lo, 世", "界\n"], ["", "a", "", "b"], []]) as server:
        assert web_chunks(server) == ["Hel", "lo, 世", "界\n"]
        assert web_chunks(server) == ["a", "b"]  # an empty chunk would end the body
        assert web_chunks(server) == []


@pytest.mark.parametrize(
    "text",
    ["How do you do?  Fine.\n", "你好，今天天气不错。", "  \n "],
)
def test_a_text_is_streamed_in_small_pieces(text: str) -> None:
    """A str is split word by word, Chinese character by character, and nothing is lost."""
    with LoopbackServer([text]) as server:
        chunks = web_chunks(server)
    assert "".join(chunks) == text
    assert all(len(chunk.split()) <= 1 for chunk in chunks)
    assert len(chunks) >= len(text.strip()) / 5


def test_any_text_arrives_whole(no_thread_left: None) -> None:
    """Whatever a str is made of, under both protocols the client gets exactly this str."""
    texts: list[str] = []
    with LoopbackServer(lambda request: texts[-1]) as server:

        @given(st.text(st.characters(exclude_categories=["Cs"])))
        def check(text: str) -> None:
            texts.append(text)
            assert ask_web(server).content.decode() == text
            streamed = events(ask_openai(server, stream=True))[:-1]
            deltas = [json.loads(event)["choices"][0]["delta"] for event in streamed]
            assert "".join(delta.get("content", "") for delta in deltas) == text

        check()


def test_web_needs_no_key_and_names_no_encoding(server: LoopbackServer) -> None:
    """The web protocol answers status 200 and bytes, to a client without a key."""
    response = ask_web(server)
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["Transfer-Encoding"] == "chunked"


# The openai protocol


def test_openai_streams_the_events_of_a_chat_completion(no_thread_left: None) -> None:
    """A streamed completion is: the role, each piece, the finish, and `[DONE]`."""
    with LoopbackServer([["你好", "", ", world"]]) as server:
        *chunks, done = events(ask_openai(server, stream=True))
    assert done == "[DONE]"
    bodies = [json.loads(chunk) for chunk in chunks]
    assert [body["choices"] for body in bodies] == [
        [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": "你好"}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": ""}, "finish_reason": None}],
        [{"index": 0, "delta": {"content": ", world"}, "finish_reason": None}],
        [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    ]
    for body in bodies:
        assert body["id"].startswith("chatcmpl-")
        assert body["object"] == "chat.completion.chunk"
        assert body["model"] == "gpt-4o-mini"
        assert isinstance(body["created"], int)
        assert "usage" not in body
    assert len({body["id"] for body in bodies}) == 1


def test_openai_streams_the_usage_when_asked(no_thread_left: None) -> None:
    """With `include_usage`, one more event has the usage and no choices; the others have none."""
    with LoopbackServer(["three words here"]) as server:
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last, done = events(ask_openai(server, "four words 你好", **options))
    assert done == "[DONE]"
    assert all(json.loads(chunk)["usage"] is None for chunk in chunks)
    assert json.loads(last)["choices"] == []
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    assert json.loads(last)["usage"] == usage


def test_openai_answers_in_one_when_not_asked_to_stream(no_thread_left: None) -> None:
    """Without `stream`, the answer is one completion object with its usage."""
    with LoopbackServer([["Hel", "lo"]]) as server:
        response = ask_openai(server)
    assert response.headers["Content-Type"] == "application/json"
    body = response.json()
    assert body["object"] == "chat.completion"
    message = {"role": "assistant", "content": "Hello"}
    assert body["choices"] == [{"index": 0, "message": message, "finish_reason": "stop"}]
    assert body["usage"] == {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer "}, {"Authorization": "Basic x"}])
def test_openai_needs_a_key(server: LoopbackServer, headers: dict[str, str]) -> None:
    """Without a bearer key the status is 401, in the service's own words."""
    response = requests.post(server.url + OPENAI, json={"messages": user("Hi")}, headers=headers, timeout=TIMEOUT)
    assert response.status_code == 401
    error = response.json()["error"]
    assert error.pop("message").startswith("wrong api key")
    assert error == {"type": "chatanywhere_error", "param": None, "code": "401 UNAUTHORIZED"}


def test_a_lone_surrogate_is_carried_as_json_carries_it(server: LoopbackServer) -> None:
    """A character that UTF-8 has no bytes for goes in and comes out as an escape."""
    message = ask_openai(server, "My name is Ada\ud800.").json()["choices"][0]["message"]
    assert message["content"].startswith("Pleased to meet you, Ada")
    assert ask_openai(server, model="\ud800").json()["model"] == "\ud800"


def test_the_models_are_listed(server: LoopbackServer) -> None:
    """`GET /v1/models` lists models with the fields that the service gives them."""
    listing = requests.get(server.url + "/v1/models?x=1", timeout=TIMEOUT).json()
    assert listing["object"] == "list"
    assert {"gpt-3.5-turbo", "gpt-4o-mini", "deepseek-r1"} <= {m["id"] for m in listing["data"]}
    assert {*listing["data"][0]} == {"id", "object", "created", "owned_by"}


@pytest.mark.parametrize("name", ["gpt-4o", "text-embedding-3-small", "gpt%2D4o"])
def test_a_model_is_described(server: LoopbackServer, name: str) -> None:
    """`GET /v1/models/…` has what the list says of the model."""
    listing = requests.get(server.url + "/v1/models", timeout=TIMEOUT).json()["data"]
    described = requests.get(f"{server.url}/v1/models/{name}", timeout=TIMEOUT).json()
    assert described in listing
    assert described["id"] == name.replace("%2D", "-")


@pytest.mark.parametrize("name", ["nothing", "deepseek%2Fr1", "a/b", "gpt-4o/"])
def test_an_unknown_model_is_not_found(server: LoopbackServer, name: str) -> None:
    """Any other model has status 404 and the code that tells it from an unknown path."""
    response = requests.get(f"{server.url}/v1/models/{name}?x=1", timeout=TIMEOUT)
    assert response.status_code == 404
    error = response.json()["error"]
    assert error.pop("message") == f"The model '{name.replace('%2F', '/')}' does not exist"
    assert error == {"type": "invalid_request_error", "param": "model", "code": "model_not_found"}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", WEB, {"list": user("Hi")}),
        ("POST", OPENAI, {"messages": user("Hi")}),
        ("POST", "/v1/embeddings", {"model": "m", "input": "Hi"}),
        ("GET", "/v1/models", None),
        ("GET", "/v1/models/gpt-4o", None),
    ],
)
def test_a_path_may_lack_v1(server: LoopbackServer, method: str, path: str, body: object) -> None:
    """Each path is also there without `/v1`, and its request is read in the same way."""
    answers = [
        requests.request(method, server.url + each, json=body, headers=KEY, timeout=TIMEOUT)
        for each in (path, path.removeprefix("/v1"))
    ]
    assert [answer.status_code for answer in answers] == [200, 200]
    lengths = {len(re.sub("chatcmpl-[0-9a-f]+", "", answer.text)) for answer in answers}
    assert len(lengths) == 1
    first, second = server.requests
    assert (second.path, second.messages) == (path.removeprefix("/v1"), first.messages)


# Requests that cannot be answered


def test_an_unknown_path_is_not_found(server: LoopbackServer) -> None:
    """Any other path has status 404, and OpenAI's envelope lists what there is."""
    response = requests.get(server.url + "/v2/nothing?x=1", timeout=TIMEOUT)
    assert response.status_code == 404
    error = response.json()["error"]
    assert error.pop("message") == (
        "Invalid URL (GET /v2/nothing): this server has POST /v1/chat/gpt/, POST /v1/chat/completions, "
        "POST /v1/completions, POST /v1/embeddings, GET /v1/models, GET /v1/models/{model}, "
        "POST /v1/query/balance, POST /v1/query/usage_details, POST /v1/query/day_usage_details, each also without /v1"
    )
    assert error == {"type": "invalid_request_error", "param": None, "code": "unknown_url"}


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", WEB, "POST"),
        ("PUT", OPENAI, "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/gpt-4o", "GET"),
        ("GET", "/v1/embeddings", "POST"),
        ("GET", "/query/balance", "POST"),
    ],
)
def test_a_wrong_method_is_not_allowed(server: LoopbackServer, method: str, path: str, allowed: str) -> None:
    """A known path that is asked by another method has status 405 and names the method."""
    response = requests.request(method, server.url + path, timeout=TIMEOUT)
    assert response.status_code == 405
    assert response.headers["Allow"] == allowed
    assert response.json()["error"]["message"] == f"Not allowed to {method} on {path}: it takes {allowed}"


@pytest.mark.parametrize("path", [WEB, OPENAI])
@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "[]", "1", "\udcff", "{}"),
        '{"list": [], "messages": []}',
        '{"list": 1, "messages": 1}',
        '{"list": ["Hi"], "messages": ["Hi"]}',
    ],
)
def test_a_body_without_messages_is_a_bad_request(server: LoopbackServer, path: str, body: str) -> None:
    """What is no JSON object with a non-empty list of messages has status 400."""
    content = body.encode(errors="surrogateescape")
    response = requests.post(server.url + path, data=content, headers=KEY, timeout=TIMEOUT)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "400 BAD_REQUEST"
    assert response.json()["error"]["type"] == "chatanywhere_error"


@pytest.mark.parametrize(("path", "name"), [(WEB, "messages"), (OPENAI, "list")], ids=["web", "openai"])
def test_the_messages_of_the_other_protocol_do_not_count(server: LoopbackServer, path: str, name: str) -> None:
    """Each protocol has its own name for the messages, and the other's is not taken for it."""
    body = {name: user("Hi")}
    response = requests.post(server.url + path, json=body, headers=KEY, timeout=TIMEOUT)
    assert response.status_code == 400


@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 1000 + b"\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3200001\r\n", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 52428801\r\n\r\n", 413),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(server: LoopbackServer, request_head: bytes, status: int) -> None:
    """A malformed or oversized request gets its status, and the connection ends."""
    with connect(server) as connection:
        connection.sendall(request_head)
        connection.shutdown(socket.SHUT_WR)
        head, _, body = read_to_end(connection).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert b"Connection: close" in head
    assert json.loads(body)["error"]["code"].startswith(str(status))
    assert server.requests == []


@pytest.mark.parametrize("sizes", [[1], [7], [1000], [3, 50, 2]], ids=str)
def test_a_request_may_come_in_chunks(server: LoopbackServer, sizes: list[int]) -> None:
    """A body whose size its client does not tell ahead is read, with what chunks may have beside their data."""
    body = json.dumps({"messages": user("Hi" * 50)}).encode()
    left, chunks = body, b""
    for size in itertools.cycle(sizes):
        chunk, left = left[:size], left[size:]
        chunks += b"%X ; a=b\r\n%b\r\n" % (len(chunk), chunk)
        if not left:
            break
    head = b"POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer k\r\nTransfer-Encoding: Chunked\r\n"
    with connect(server) as connection:
        connection.sendall(head + b"\r\n" + chunks + b"0\r\nA-Trailer: x\r\n\r\n")
        connection.sendall(head + b"Connection: close\r\n\r\n" + chunks + b"0\r\n\r\n")
        assert read_to_end(connection).count(b"HTTP/1.1 200 OK") == 2
    assert [request.body for request in server.requests] == [body, body]


def test_chunks_that_break_off_are_no_request(server: LoopbackServer) -> None:
    """A client that goes away at any byte of its chunks has asked nothing."""
    request = b"POST /v1/chat/completions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: b\r\n\r\n"
    for end in range(request.index(b"2\r\n{"), len(request)):
        with connect(server) as connection:
            connection.sendall(request[:end])
            connection.shutdown(socket.SHUT_WR)
            assert read_to_end(connection) == b""
    assert server.requests == []


def test_a_client_that_sends_too_much_still_reads_why(server: LoopbackServer) -> None:
    """The refusal of an oversized body reaches a client that sends all of it regardless."""
    body = b" " * (50 * 1024 * 1024 + 1)
    response = requests.post(server.url + WEB, data=body, timeout=TIMEOUT)
    assert response.status_code == 413


# Connections


def test_a_connection_is_kept_for_further_requests(server: LoopbackServer) -> None:
    """Many requests of both protocols can follow each other on one connection."""
    connection = http.client.HTTPConnection(server.url[len("http://") :], timeout=TIMEOUT)
    connection.connect()
    used = connection.sock
    for path, name in [(WEB, "list"), (OPENAI, "messages"), (WEB, "list"), ("/x", "list")]:
        connection.request("POST", path, json.dumps({name: user("Hi")}), KEY)
        response = connection.getresponse()
        assert response.headers["Connection"] == "keep-alive"
        assert response.read()
        assert connection.sock is used
    connection.close()
    assert len(server.requests) == 4


def test_a_connection_ends_when_the_client_says_so(server: LoopbackServer) -> None:
    """With `Connection: close` the answer is whole and the connection closed after it."""
    request = raw_post(WEB, {"list": user("Hi")}, "connection: Close")
    head, rest = exchange(server, request)
    assert b"Connection: close" in head
    assert rest.endswith(b"0\r\n\r\n")


def test_an_old_client_gets_a_body_without_chunks(no_thread_left: None) -> None:
    """A client of HTTP/1.0 gets the bare text, and the close of the connection ends it."""
    with LoopbackServer([["Hel", "", "lo"]]) as server:
        head, rest = exchange(server, raw_post(WEB, {"list": user("Hi")}, version="1.0"))
    assert b"Transfer-Encoding" not in head
    assert rest == b"Hello"


def test_the_answer_to_head_has_no_body(server: LoopbackServer) -> None:
    """A HEAD request is answered with headers alone, so that the next answer is found."""
    head, rest = exchange(
        server,
        b"HEAD /v1/models HTTP/1.1\r\n\r\nHEAD /x HTTP/1.1\r\nConnection: close\r\n\r\n",
    )
    assert head.startswith(b"HTTP/1.1 405 ")
    assert rest.startswith(b"HTTP/1.1 404 ")
    assert rest.endswith(b"\r\n\r\n")


def test_empty_lines_before_a_request_are_ignored(server: LoopbackServer) -> None:
    """A client that sends a line break too many after a request is still understood."""
    request = b"\r\nGET /v1/models HTTP/1.1\r\nConnection: close\r\n\r\n"
    assert exchange(server, request)[0].startswith(b"HTTP/1.1 200 ")


def test_a_client_that_expects_to_continue_is_told_to(server: LoopbackServer) -> None:
    """`Expect: 100-continue` is answered before the body is sent."""
    request = raw_post(WEB, {"list": user("Hi")}, "Expect: 100-continue", "Connection: close")
    head, _, body = request.partition(b"\r\n\r\n")
    with connect(server) as connection:
        connection.sendall(head + b"\r\n\r\n")
        assert connection.recv(1024) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")


def test_every_response_has_a_request_id(server: LoopbackServer) -> None:
    """Answers and errors alike carry an `x-request-id` of their own."""
    responses = [ask_web(server), ask_openai(server), ask_openai(server, stream=True)]
    responses += [ask_openai(server, messages=[])]
    ids = {response.headers["x-request-id"] for response in responses}
    assert len(ids) == 4
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in ids)


def test_connections_are_served_at_the_same_time(no_thread_left: None) -> None:
    """Replies that wait for one another all arrive, each to the client that asked for it."""
    together = threading.Barrier(16, timeout=TIMEOUT)

    def reply(request: Request) -> str:
        together.wait()
        return f"for {request.text}"

    with LoopbackServer(reply) as server, ThreadPoolExecutor(16) as pool:
        names = [f"client{number}" for number in range(16)]
        answers = list(pool.map(lambda name: ask_web(server, name).text, names))
    assert answers == [f"for {name}" for name in names]


@pytest.mark.parametrize("path", [WEB, OPENAI])
def test_a_client_that_leaves_in_the_middle_is_no_event(
    path: str, capfd: pytest.CaptureFixture[str], no_thread_left: None
) -> None:
    """A connection that breaks in a reply prints nothing, and the server answers the next client."""
    before = set(threading.enumerate())
    with LoopbackServer(lambda request: ["x" * 1_000_000] * 100) as server:
        started = set(threading.enumerate())
        with connect(server) as connection:
            body = {"list": user("Hi"), "messages": user("Hi"), "stream": True}
            connection.sendall(raw_post(path, body, "Authorization: Bearer key"))
            assert connection.recv(100)
            serving = set(threading.enumerate()) - started
        for thread in serving:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        assert requests.get(server.url + "/v1/models", timeout=TIMEOUT).status_code == 200
    assert serving
    assert set(threading.enumerate()) <= before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("sent", [b"", b"POST / HT", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nx"])
def test_a_client_that_leaves_before_it_has_asked_is_no_event(
    server: LoopbackServer, capfd: pytest.CaptureFixture[str], sent: bytes
) -> None:
    """A request that breaks off is neither answered nor recorded nor complained about."""
    with connect(server) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        assert read_to_end(connection) == b""
    assert server.requests == []
    assert capfd.readouterr() == ("", "")


# Replies


def test_without_replies_the_conversation_is_answered(server: LoopbackServer) -> None:
    """A server without a script answers from all messages of the conversation."""
    messages = user("My name is Ada.") + user("What is my name?")
    assert "Ada" in ask_openai(server, messages=messages).text
    assert "Ada" not in ask_openai(server, messages=messages[1:]).text


def test_scripted_replies_are_given_in_order_until_used_up(server: LoopbackServer) -> None:
    """Each chat, and nothing else, takes the next reply; a chat too many has status 400."""
    script = (reply for reply in ["one", ["t", "wo"]])
    with LoopbackServer(script) as scripted:
        assert ask_web(scripted).text == "one"
        assert ask_web(scripted, "").status_code == 200
        response = ask_web(scripted)
    assert response.status_code == 400
    assert "no reply left" in response.json()["error"]["message"]


def test_scripted_replies_are_each_given_once(no_thread_left: None) -> None:
    """Clients that ask at the same time share a script, and no reply is lost or doubled."""
    script = [str(number) for number in range(64)]
    with LoopbackServer(iter(script)) as server, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda text: ask_web(server, text).text, script))
    assert sorted(answers) == sorted(script)


def test_a_single_str_is_not_taken_for_a_script() -> None:
    """A str in place of an iterable of replies would be spelt out, so it is an error; so is what is no reply."""
    with pytest.raises(TypeError, match=r"\[reply\]"):
        LoopbackServer("Hello")
    with pytest.raises(TypeError, match="not int"):
        LoopbackServer(5)  # type: ignore[arg-type]


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_out_of_range_is_an_error(port: int) -> None:
    """A port that no system has is refused when the server is made, with the range."""
    with pytest.raises(ValueError, match=f"port={port}: a port is from 0 to 65535"):
        LoopbackServer(port=port)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"port": "80"}, "port must be an int, not str"),
        ({"port": 1.5}, "port must be an int, not float"),
        ({"port": True}, "port must be an int, not bool"),
        ({"host": None}, "host must be a str, not NoneType"),
        ({"host": b"127.0.0.1"}, "host must be a str, not bytes"),
    ],
)
def test_an_address_of_another_type_is_an_error(arguments: dict[str, Any], told: str) -> None:
    """A host and a port of another type are refused by name when the server is made."""
    with pytest.raises(TypeError, match=told):
        LoopbackServer(**arguments)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "::1", "::"])
def test_the_host_may_be_another(host: str) -> None:
    """The server listens where it is told to, and its url reaches it from this machine."""
    if ":" in host and not has_ipv6():
        pytest.skip("needs IPv6")
    with LoopbackServer(["Hello!"], host=host) as server:
        assert ask_web(server).text == "Hello!"


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("delay", [-1, float("inf"), float("nan")])
def test_a_delay_that_cannot_be_waited_for_is_an_error(delay: float) -> None:
    """A delay that is negative, endless or no number is refused when the server is made."""
    with pytest.raises(ValueError, match="seconds"):
        LoopbackServer(delay=delay)


def test_a_function_replies_to_each_request(no_thread_left: None) -> None:
    """A function of the request makes the reply, from the messages of either protocol."""

    def reply(request: Request) -> list[str]:
        return [f"{len(request.messages)} ", request.text]

    parts = [{"type": "text", "text": "Look:"}, {"type": "image_url", "image_url": {"url": "…"}}]
    messages = [*user("Hi"), {"role": "user", "content": parts}, {"role": "assistant"}]
    with LoopbackServer(reply) as server:
        assert ask_web(server).text == "1 Hi"
        message = ask_openai(server, messages=messages).json()["choices"][0]["message"]
        assert message["content"] == "3 Look:"


def test_an_exception_in_a_function_is_reported(caplog: pytest.LogCaptureFixture, no_thread_left: None) -> None:
    """A function that raises has status 500, the exception in the message and in the log."""

    def reply(request: Request) -> str:
        raise KeyError("which one")

    with LoopbackServer(reply) as server:
        response = ask_web(server)
        assert ask_openai(server, stream=True).status_code == 500
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "500 INTERNAL_SERVER_ERROR"
    assert response.json()["error"]["message"] == "KeyError: 'which one'"
    assert "which one" in caplog.text


@pytest.mark.parametrize("reply", [None, 7, b"bytes", ["one", None]])
def test_what_is_no_reply_is_reported(reply: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A reply of another type has status 500 and a message that says what a reply is."""
    with LoopbackServer([reply]) as server:
        response = ask_web(server)
    assert response.status_code == 500
    assert (
        "TypeError: a reply is a Reply, a str, a sequence of str, a dict or a Fault"
        in response.json()["error"]["message"]
    )


# What arrived


def test_requests_are_logged_without_secrets(caplog: pytest.LogCaptureFixture, no_thread_left: None) -> None:
    """Each request is a line with its method, path and status; neither the key nor a query gets into the log."""
    caplog.set_level("INFO", "chatanywhere.testing.server")
    with LoopbackServer(["Hello!"], faults=[Fault.status(503, first=1)]) as server:
        ask_openai(server)
        ask_openai(server)
        requests.get(server.url + "/v2/\x1b[1m?key=secret", headers={"Authorization": "Bearer secret"}, timeout=TIMEOUT)
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), TIMEOUT) as connection:
            connection.sendall(b"GET /\x1b HTTP/1.1\r\n\r\n")
            connection.recv(1)
            connection.sendall(b"nonsense\r\n")
            while connection.recv(4096):
                pass
        server.faults = [Fault.reset_peer()]
        with pytest.raises(requests.ConnectionError):
            requests.get(server.url + "/v1/models", timeout=TIMEOUT)
    assert {record.getMessage() for record in caplog.records} == {
        f"POST {OPENAI} 503",
        f"POST {OPENAI} 200",
        "GET /v2/%1B%5B1m 404",
        r"GET /\x1b 404",
        "400: malformed request line",
        "GET /v1/models without an answer",
    }


def test_requests_are_recorded_as_they_were_sent(server: LoopbackServer) -> None:
    """Every request is kept with its method, path, headers and body, in order of arrival."""
    requests.get(server.url + "/x?y=1", headers={"X-One": "1"}, timeout=TIMEOUT)
    requests.put(server.url + "/z", data=b"\xff", timeout=TIMEOUT)
    ask_web(server, "你好")
    get, put, chat = server.requests
    assert (get.method, get.path, get.body, get.json) == ("GET", "/x?y=1", b"", None)
    assert get.headers.get("x-one") == get.headers.get("X-ONE") == "1"
    assert (put.method, put.path, put.body, put.json) == ("PUT", "/z", b"\xff", None)
    assert put.messages == []
    assert put.text == ""
    assert (chat.method, chat.path) == ("POST", WEB)
    assert chat.json == {"list": user("你好")} == json.loads(chat.body)
    assert chat.messages == user("你好")
    assert chat.text == "你好"
