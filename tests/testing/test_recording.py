"""What a real service answers, recorded and replayed by loopback servers, whoever asks."""

from __future__ import annotations

import base64
import gzip
import http.client
import itertools
import json
import math
import os
import re
import selectors
import socket
import ssl
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer, json_answer
from waiting import until

import chatanywhere
from chatanywhere import BadRequestError, Client
from chatanywhere.testing import Fault, LoopbackServer, Reply

TIMEOUT = 20.0  # seconds; reached only when something hangs
PROMPT = 2.0  # seconds that what is to happen at once may take on a busy machine
KEY = "sk-Abc0123456789/defghijklmnopqrstuvwxyz+ABCDEFG"
CHAT = "/v1/chat/completions"
WEB = "/v1/chat/gpt/"


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def chat(text: str = "Hi", **options: Any) -> dict[str, Any]:
    return {"model": "gpt-4o-mini", "messages": user(text), **options}


def post(server: LoopbackServer, body: object = None, path: str = CHAT, **options: Any) -> requests.Response:
    """Ask as OpenAI's clients do, with the key."""
    headers = {"Authorization": f"Bearer {KEY}", **options.pop("headers", {})}
    if not {"data", "files"} & options.keys():
        options["json"] = chat() if body is None else body
    return requests.post(server.url + path, headers=headers, timeout=TIMEOUT, **options)


def connected(server: LoopbackServer) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2])), TIMEOUT)


def raw_exchange(server: LoopbackServer, request: bytes) -> bytes:
    """Send raw bytes; return all that comes until the server closes."""
    with connected(server) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def raw_chat(body: object, *headers: str, version: str = "1.1", path: str = CHAT) -> bytes:
    content = json.dumps(body).encode()
    lines = [f"POST {path} HTTP/{version}", "Connection: close", "Host: x", f"Content-Length: {len(content)}"]
    return "\r\n".join([*lines, f"Authorization: Bearer {KEY}", *headers, "", ""]).encode() + content


def without_head(data: bytes) -> bytes:
    return data.partition(b"\r\n\r\n")[2]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def ends_of(path: Path) -> list[str]:
    return [line["end"] for line in lines_of(path) if "end" in line]


@pytest.fixture
def path(tmp_path: Path, no_thread_left: None) -> Path:
    """Where a recording is to be."""
    return tmp_path / "chat.rec"


def record_from(path: Path, upstream: LoopbackServer | RawServer, ask: Callable[[LoopbackServer], object]) -> Any:
    """Let something be asked while it is recorded; return what it comes to."""
    with LoopbackServer.record(path, upstream=upstream.url) as server:
        return ask(server)


def replayed(path: Path, ask: Callable[[LoopbackServer], object]) -> Any:
    """Let something be asked while it is replayed without pauses; return what it comes to."""
    with LoopbackServer.replay(path, speed=math.inf) as server:
        return ask(server)


# What comes back


@pytest.mark.parametrize(
    ("where", "body"),
    [
        (CHAT, chat(stream=True)),
        (CHAT, chat()),
        (WEB, {"list": user("Hi")}),
        ("/v1/embeddings", {"model": "m", "input": "你好"}),
        (CHAT, chat(n=0)),
        ("/v1/no/such/path", {}),
    ],
    ids=["stream", "object", "web", "embeddings", "refused", "absent"],
)
def test_an_answer_is_replayed_byte_by_byte(path: Path, where: str, body: object) -> None:
    """The answer's bytes are those of the service, in the same chunks, both times; so are status and headers."""
    request = raw_chat(body, path=where)
    with LoopbackServer([["你好", ", ", "world\n"]]) as upstream:
        first = record_from(path, upstream, lambda server: raw_exchange(server, request))
    assert replayed(path, lambda server: raw_exchange(server, request)) == first
    assert b"\r\nx-request-id: " in first
    if body == chat(stream=True):
        assert without_head(first).count(b"data: ") == 6  # the role, three pieces, the finish, [DONE]
        assert without_head(first).count(b"\r\n") == 2 * 7  # each a chunk of its own, and the last


def test_pieces_come_with_their_pauses(path: Path) -> None:
    """A replay takes the time that the service took between pieces, and a speed divides it."""
    pause = 0.15
    with LoopbackServer([["one", "two", "three"]], delay=pause) as upstream:
        record_from(path, upstream, lambda server: post(server, chat(stream=True)))

    def times(speed: float) -> list[float]:
        with LoopbackServer.replay(path, speed) as server:
            start = time.monotonic()
            response = post(server, chat(stream=True), stream=True)
            return [time.monotonic() - start for _ in response.iter_content(None)]

    as_it_was = times(1)
    assert len(as_it_was) >= 3
    assert as_it_was[-1] > 2 * pause * 0.9
    assert any(later - earlier > pause / 2 for earlier, later in itertools.pairwise(as_it_was))
    assert times(0.5)[-1] > 4 * pause * 0.9
    for speed in (0, math.inf):
        assert times(speed)[-1] < 2 * pause
    # What no clock can wait for is waited for all the same.
    with LoopbackServer.replay(path, speed=1e-300) as server, pytest.raises(requests.ReadTimeout):
        requests.post(server.url + CHAT, json=chat(stream=True), timeout=0.2)


def test_what_is_recorded_is_streamed_meanwhile(path: Path, raw_server: RawServer) -> None:
    """A piece reaches the client before the service has sent the next."""
    go_on = threading.Event()
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw_server.answer(head, b"3\r\none\r\n", lambda _: go_on.wait(TIMEOUT) and None, b"3\r\ntwo\r\n0\r\n\r\n")
    with LoopbackServer.record(path, raw_server.url) as server:
        response = post(server, stream=True)
        pieces = response.iter_content(None)
        assert next(pieces) == b"one"
        go_on.set()
        assert list(pieces) == [b"two"]
    assert ends_of(path) == ["complete"]


def test_the_client_s_connection_is_kept(path: Path) -> None:
    """One connection of the client's serves several requests, recorded and replayed."""

    def ask(server: LoopbackServer) -> None:
        with requests.Session() as session:
            for text in ("one", "two"):
                session.post(server.url + CHAT, json=chat(text), headers={"Authorization": "Bearer x"}, timeout=TIMEOUT)
        assert server.connections == 1

    with LoopbackServer() as upstream:
        record_from(path, upstream, ask)
    replayed(path, ask)


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "PUT"])
def test_any_method_is_recorded(path: Path, method: str) -> None:
    """Requests with another method than POST, and without a body, are answered as they were."""

    def ask(server: LoopbackServer) -> tuple[int, bytes, dict[str, str]]:
        response = requests.request(method, f"{server.url}/v1/models?x=1", timeout=TIMEOUT)
        return response.status_code, response.content, dict(response.headers)

    with LoopbackServer() as upstream:
        first = record_from(path, upstream, ask)
    assert replayed(path, ask) == first


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none", b"one"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.0 200 OK\r\n\r\n\xff\x00", b"\xff\x00"),
        (b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none", b"one"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n1;x=y\r\na\r\n0\r\nTrailer: x\r\n\r\n", b"a"),
        (b'HTTP/1.1 200 OK\r\nOdd"(): \x00\x85\xff\r\n: none\r\nContent-Length: 3\r\n\r\none', b"one"),
        (b"HTTP/1.1 599 Odd\r\nContent-Length: 2\r\nX-Folded: a\r\n b\r\n\r\n{}", b"{}"),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_any_framing_is_read_and_written(
    path: Path, raw_server: RawServer, answer: bytes, content: bytes, version: str
) -> None:
    """However the end of the body is marked, and whatever comes before the answer, its content comes back."""
    raw_server.answer(answer)
    request = raw_chat(chat(), version=version)
    first = record_from(path, raw_server, lambda server: raw_exchange(server, request))
    assert ends_of(path) == ["complete"]
    assert replayed(path, lambda server: raw_exchange(server, request)) == first
    response = http.client.HTTPResponse(_Given(first))  # type: ignore[arg-type]
    response.begin()
    assert response.read() == content
    assert version == "1.1" or b"Transfer-Encoding" not in first


class _Given:
    """Bytes as a connection, for http.client to read."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, mode: str) -> Any:
        import io

        return io.BytesIO(self._data)


def test_several_headers_of_one_name_stay_several(path: Path, raw_server: RawServer) -> None:
    """Headers come back in their order, each as often as it came; those of one connection do not."""
    lines = "Vary: a\r\nX-Mine: b\r\nVary: c\r\nKeep-Alive: x\r\nConnection: X-Hop\r\nX-Hop: y\r\nContent-Length: 0"
    raw_server.answer(f"HTTP/1.1 200 OK\r\n{lines}\r\n\r\n".encode())
    record_from(path, raw_server, post)
    first = replayed(path, lambda server: raw_exchange(server, raw_chat(chat())))
    assert first.split(b"\r\n")[1:5] == [b"Vary: a", b"X-Mine: b", b"Vary: c", b"Content-Length: 0"]
    assert b"Hop" not in first
    assert b"Keep-Alive" not in first


ANSWERS = (
    [
        b"HTTP/1.1 200 OK\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"\r\n",
        b"5\r\nhello\r\n",
        b"3\r\n12",
        b"3\r\n",
        b"0\r\n\r\n",
    ],
    [b"HTTP/1.1 401 No\r\n", b"Content-Length: 12\r\n", b"X: y\r\n", b"\r\n", b"hello", b" world!"],
    [b"HTTP/1.0 200 OK\r\n", b"Content-Encoding: gzip\r\n", b"\r\n", gzip.compress(b"hello " * 99)],
)
WRONG = (
    b"",
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b":",
    b"\xff",
    b"ffffffff\r\n",
    b"-1\r\n",
    b"HTTP/1.1 100 C\r\n\r\n",
    b"X: \x85\r\n",
)


def test_whatever_a_service_sends_is_replayed_as_it_was_passed_on(path: Path, raw_server: RawServer) -> None:
    """Of an answer with something wrong at any place the client gets the same bytes both times, or there is none."""
    passed_on: list[bytes] = []
    request = raw_chat(chat())
    with LoopbackServer.record(path, raw_server.url) as server:

        @given(
            st.sampled_from(ANSWERS), st.integers(0, 6), st.integers(0, 20), st.integers(0, 3), st.sampled_from(WRONG)
        )
        def check(steps: list[bytes], which: int, start: int, size: int, wrong: bytes) -> None:
            step = steps[which % len(steps)]
            changed = step[:start] + wrong + step[start + size :]
            raw_server.answer(*steps[: which % len(steps)], changed, *steps[which % len(steps) + 1 :])
            passed_on.append(raw_exchange(server, request))

        check()
    recorded = [answer for answer in passed_on if b"no answer from" not in answer]
    assert len(ends_of(path)) == len(recorded) > 0
    with LoopbackServer.replay(path, speed=0) as server:
        assert [raw_exchange(server, request) for _ in recorded] == recorded


# Where requests go


@pytest.mark.parametrize(
    ("upstream", "asked", "target"),
    [
        ("", "/v1/models", "/v1/models"),
        ("/", "/models", "/v1/models"),
        ("/v1", "/models", "/v1/models"),
        ("/v1/", "/v1/models", "/v1/models"),
        ("/v1beta/openai", "/v1/models", "/v1beta/openai/models"),
        ("/v1beta/openai/", "/models?a=b", "/v1beta/openai/models?a=b"),
        ("/v1beta/openai", "/v1beta/openai/models", "/v1beta/openai/models"),
        ("/api?version=1", "/v1/models", "/api/models?version=1"),
        ("/api?version=1", "/v1/models?a=%20b", "/api/models?a=%20b&version=1"),
        ("", "/v1/models/a%2Fb", "/v1/models/a%2Fb"),
        ("/路?x=路", "/v1/models", "/%E8%B7%AF/models?x=%E8%B7%AF"),
        ("", "/v1/models/\xe9", "/v1/models/%E9"),
    ],
)
def test_the_url_of_the_service_is_with_v1_or_without(
    path: Path, raw_server: RawServer, upstream: str, asked: str, target: str
) -> None:
    """What is asked below this server's URL is asked below the service's, whatever stands for `/v1` there."""
    raw_server.answer(json_answer({"ok": True}))
    request = f"GET {asked} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode("latin-1")
    with LoopbackServer.record(path, raw_server.url + upstream) as server:
        assert b'{"ok": true}' in raw_exchange(server, request)
    assert raw_server.requests[0].startswith(f"GET {target} HTTP/1.1\r\n".encode())
    assert b'{"ok": true}' in replayed(path, lambda server: raw_exchange(server, request))


def test_the_service_gets_what_the_client_sent(path: Path, raw_server: RawServer) -> None:
    """The key, the client's own headers and the body arrive, and nothing of the client's connection does."""
    raw_server.answer(json_answer({}))
    request = raw_chat(chat(), "X-Mine: é", "Accept-Encoding: gzip, br", "TE: x", "Keep-Alive: y")
    record_from(path, raw_server, lambda server: raw_exchange(server, request))
    head, _, body = raw_server.requests[0].partition(b"\r\n\r\n")
    fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert json.loads(body) == chat()
    assert fields.pop("Host") == raw_server.url.removeprefix("http://")
    assert fields == {
        "Authorization": f"Bearer {KEY}",
        "X-Mine": "é",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "Content-Length": str(len(body)),
    }


@pytest.mark.parametrize("trusted", [True, False])
def test_the_service_s_certificate_is_checked(
    path: Path, tls_context: ssl.SSLContext, ca_file: Path, monkeypatch: pytest.MonkeyPatch, trusted: bool
) -> None:
    """Over https it is recorded if the certificate is trusted, and the key is sent nowhere else."""
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    with LoopbackServer(["Hello!"], tls=tls_context) as upstream:
        response = record_from(path, upstream, lambda server: post(server, chat(stream=True)))
        assert len(upstream.requests) == trusted
    assert response.status_code == (200 if trusted else 502)
    if trusted:
        assert replayed(path, lambda server: post(server, chat(stream=True))).content == response.content
    else:
        assert "certificate" in response.json()["error"]["message"]


def test_the_service_is_asked_through_the_proxy_of_the_environment(
    path: Path, tls_context: ssl.SSLContext, ca_file: Path, raw_server: RawServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy for https is used, unless NO_PROXY names the host; one that can't be used is told of."""

    def relay(client: socket.socket) -> None:
        target = raw_server.requests[-1].split()[1].decode()
        host, _, port = target.rpartition(":")
        with socket.create_connection((host, int(port)), TIMEOUT) as server, selectors.DefaultSelector() as selector:
            for one, other in ((client, server), (server, client)):
                selector.register(one, selectors.EVENT_READ, other)
            while True:
                for key, _ in selector.select(TIMEOUT):
                    data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                    if not data:
                        return
                    key.data.sendall(data)

    raw_server.answer(b"HTTP/1.1 200 Connected\r\n\r\n", relay)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))
    monkeypatch.setenv("https_proxy", raw_server.url)
    with LoopbackServer(tls=tls_context) as upstream, LoopbackServer.record(path, upstream.url) as server:
        assert post(server).status_code == 200
        assert raw_server.requests[0].startswith(f"CONNECT {upstream.url.removeprefix('https://')} ".encode())
        assert b"Abc0123456789" not in raw_server.requests[0]
        for proxy in (
            "socks5://127.0.0.1:9",
            "http://user:secret@127.0.0.1:9",
            "https://127.0.0.1:9",
            "http://",
            "http://h:x",
            "http://[::1",
        ):
            monkeypatch.setenv("https_proxy", proxy)
            response = post(server)
            assert response.status_code == 502
            assert "NO_PROXY" in response.text
            assert "secret" not in response.text
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        assert post(server).status_code == 200
        assert len(raw_server.requests) == 1


def test_the_servers_may_have_tls_themselves(path: Path, tls_context: ssl.SSLContext, ca_file: Path) -> None:
    """With `tls=` clients record and replay over https, and a client that leaves is noticed."""
    ask = {"json": chat(), "headers": {"Authorization": f"Bearer {KEY}"}, "verify": str(ca_file), "timeout": TIMEOUT}
    with LoopbackServer() as upstream:
        with LoopbackServer.record(path, upstream.url, tls=tls_context) as server:
            first = requests.post(server.url + CHAT, **ask)
        upstream.faults = [Fault.timeout(after=2)]
        with LoopbackServer.record(path.with_suffix(".2"), upstream.url, tls=tls_context) as server:
            url = server.url + CHAT
            with requests.post(url, **{**ask, "json": chat(stream=True)}, stream=True) as response:
                next(response.iter_content(None))
            until(lambda: ends_of(path.with_suffix(".2")) == ["left"], TIMEOUT)
    with LoopbackServer.replay(path, tls=tls_context) as server:
        assert requests.post(server.url + CHAT, **ask).content == first.content


@pytest.mark.parametrize(
    "upstream",
    ["", "api.example.com", "ftp://example.com", "http://", "http://[::1", "http://h:x", "http://h/ x", "//h"],
)
def test_an_upstream_that_is_no_url_is_refused(path: Path, upstream: str) -> None:
    """What can't be asked is an error before the file is made."""
    with pytest.raises(ValueError, match="upstream"):
        LoopbackServer.record(path, upstream)
    with pytest.raises(TypeError, match="upstream"):
        LoopbackServer.record(path, upstream.encode())  # type: ignore[arg-type]
    assert not path.exists()


def test_a_key_in_a_wrong_url_is_not_shown(path: Path) -> None:
    """The error leaves the query out."""
    with pytest.raises(ValueError, match=r"'ftp://example\.com/v1'"):
        LoopbackServer.record(path, f"ftp://example.com/v1?key={KEY}")


def test_a_password_in_the_url_is_refused_and_not_shown(path: Path) -> None:
    """The error says where the key belongs, without repeating it."""
    with pytest.raises(ValueError, match="client") as caught:
        LoopbackServer.record(path, f"https://user:{KEY}@example.com/v1")
    assert KEY not in str(caught.value)


# What goes wrong


@pytest.mark.parametrize(
    "steps",
    [
        [],
        [b"HTTP/1.1 200"],
        [b"no HTTP\r\n\r\n"],
        [b"HTTP/3 200 OK\r\n\r\n"],
        [b"HTTP/1.1 101 Switching\r\n\r\n\x00\x00\x00\x00"],
        [b"HTTP/1.1 103 Early Hints\r\n\r\n" * 200],
        [b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nfour"],
        [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n"],
        [b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000],
        [b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000],
    ],
)
def test_what_is_no_answer_is_status_502_and_not_recorded(path: Path, raw_server: RawServer, steps: Any) -> None:
    """A service that does not answer, or not as HTTP has it, is told in OpenAI's envelope, and names the service."""
    raw_server.answer(*steps)
    response = record_from(path, raw_server, post)
    assert response.status_code == 502
    assert raw_server.url in response.json()["error"]["message"]
    assert len(lines_of(path)) == 1


def test_a_service_that_is_not_there_is_status_502(path: Path, raw_server: RawServer) -> None:
    """A refused connection, and a name without an address, are no answers, and the client's call says so."""
    raw_server.stop_listening()
    for url in (raw_server.url, "http://no-such-host.invalid/v1"):
        with (
            LoopbackServer.record(path, url) as server,
            Client(KEY, base_url=server.url, proxy="", retry=1) as client,
            pytest.raises(chatanywhere.InternalServerError, match="no answer from http://"),
        ):
            client.complete("Hi")
        assert len(lines_of(path)) == 1
        path.unlink()


@pytest.mark.parametrize(
    ("fault", "end"),
    [
        (Fault.limit_data(3, at="chunk", after=2), "cut"),
        (Fault.limit_data(0, after=2), "cut"),
        (Fault.bad_chunk(after=2), "cut"),
        (Fault.bad_gzip(truncated=True, after=2), "cut"),
        (Fault.bad_gzip(after=2), "cut"),
        (Fault.no_done(after=2), "complete"),
        (Fault.error_frame(after=2), "complete or left"),  # at what is wrong, the client need not wait for the rest
        (Fault.bad_utf8(after=2), "complete or left"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_an_answer_that_is_cut_is_replayed_cut(path: Path, fault: Fault, end: str) -> None:
    """A client finds the same text and the same kind of error in the replay as in the recording."""

    def ask(server: LoopbackServer) -> tuple[str, type, str]:
        with Client(KEY, base_url=server.url, proxy="", retry=1, timeout=TIMEOUT) as client:
            try:
                return client.complete("Hi").text, str, ""
            except chatanywhere.ChatAnywhereError as error:
                return error.partial, type(error), str(error).replace(server.url, "")

    with LoopbackServer([["one", "two", "three"]], faults=[fault]) as upstream:
        first = record_from(path, upstream, ask)
    (recorded_end,) = ends_of(path)
    assert recorded_end in end
    assert replayed(path, ask) == first
    assert first[0].startswith("one")


def test_a_reset_is_replayed_as_a_reset(path: Path, raw_server: RawServer) -> None:
    """A connection that the service reset is reset by the replay."""
    linger = (1).to_bytes(4, "little") + bytes(4)

    def reset(connection: socket.socket) -> None:
        got_it.wait(TIMEOUT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    def ask(server: LoopbackServer) -> bytes:
        got = b""
        with connected(server) as connection:
            connection.sendall(raw_chat(chat()))
            while b"one" not in got:
                got += connection.recv(100)
            got_it.set()
            with pytest.raises(ConnectionResetError):
                connection.recv(100)
        return got

    got_it = threading.Event()
    raw_server.answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n", reset)
    first = record_from(path, raw_server, ask)
    assert ends_of(path) == ["reset"]
    with LoopbackServer.replay(path) as server:
        assert ask(server) == first


@pytest.mark.parametrize("begun", [True, False])
def test_a_client_that_leaves_takes_the_service_s_connection_with_it(
    path: Path, raw_server: RawServer, begun: bool
) -> None:
    """The service sees at once that the client is gone; what had come of an answer is recorded as such."""
    left = threading.Event()

    def wait_for_the_end(connection: socket.socket) -> None:
        asked.set()
        if connection.recv(1) == b"":
            left.set()

    asked = threading.Event()
    first = [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"] if begun else []
    raw_server.answer(*first, wait_for_the_end)
    with LoopbackServer.record(path, raw_server.url) as server:
        with connected(server) as connection:
            connection.sendall(raw_chat(chat()))
            assert asked.wait(TIMEOUT)
            if begun:
                assert connection.recv(1)
        assert left.wait(PROMPT)
    assert ends_of(path) == ["left"] * begun


def test_what_had_come_before_the_client_left_is_replayed(path: Path) -> None:
    """A program that stops reading at some piece finds the same pieces in the replay, and silence behind them."""

    def ask(server: LoopbackServer) -> str:
        with Client(KEY, base_url=server.url, proxy="", timeout=TIMEOUT) as client, client.stream("Hi") as stream:
            while stream.text != "onetwo":
                next(stream)
            return stream.text

    with LoopbackServer([["one", "two", "three"]], faults=[Fault.timeout(after=2)]) as upstream:
        record_from(path, upstream, ask)
    assert ends_of(path) == ["left"]
    assert replayed(path, ask) == "onetwo"
    with LoopbackServer.replay(path) as server, Client(KEY, base_url=server.url, proxy="", retry=1) as client:
        with pytest.raises(chatanywhere.APITimeoutError) as caught:
            client.complete("Hi", timeout=0.5)
        assert caught.value.partial == "onetwo"


def test_a_client_may_leave_at_done(path: Path, raw_server: RawServer) -> None:
    """A client that goes away at `[DONE]`, before the last chunk, leaves a recording for those that wait for it."""
    event = b"data: [DONE]\n\n"
    body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(event), event)
    raw_server.answer(body, raw_server.hold)
    with LoopbackServer.record(path, raw_server.url) as server:
        with post(server, stream=True) as response:
            assert next(response.iter_lines()) == event.strip()
        until(lambda: ends_of(path) == ["complete"], TIMEOUT)
    assert replayed(path, post).content == event


def test_a_pipelined_request_is_no_leaving(path: Path, raw_server: RawServer) -> None:
    """A client that sends its next request early is answered both."""
    go_on = threading.Event()
    raw_server.answer(lambda _: go_on.wait(TIMEOUT) and None, json_answer({"ok": True}))
    with LoopbackServer.record(path, raw_server.url) as server, connected(server) as connection:
        connection.sendall(raw_chat(chat("one")).replace(b"Connection: close\r\n", b""))
        until(lambda: len(raw_server.requests) == 1, TIMEOUT)
        connection.sendall(raw_chat(chat("two")))
        go_on.set()
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.count(b'{"ok": true}') == 2
    assert ends_of(path) == ["complete"] * 2


@pytest.mark.parametrize("replaying", [True, False])
def test_close_ends_an_answer_in_its_middle(path: Path, replaying: bool) -> None:
    """A server that waits for the service, or for the end of a pause, still closes at once."""
    with LoopbackServer([["one", "two"]], delay=3600) as upstream:
        server = LoopbackServer.record(path, upstream.url).start()
        response = post(server, chat(stream=True), stream=True)
        next(response.iter_content(None))
        start = time.monotonic()
        server.close()
        response.close()
    if replaying:
        path.write_text(re.sub(r'"at": [0-9.]+, "end"', '"at": 3600, "end"', path.read_text()))
        with LoopbackServer.replay(path) as server:
            response = post(server, chat(stream=True), stream=True)
            next(response.iter_content(None))
            start = time.monotonic()
        response.close()
    assert time.monotonic() - start < PROMPT


def test_faults_strike_what_is_replayed(path: Path) -> None:
    """`faults=` goes wrong with a recorded answer as it does with any other."""
    with LoopbackServer([["one", "two", "three"]]) as upstream:
        record_from(path, upstream, lambda server: post(server, chat(stream=True)))
        record_from(path.with_suffix(".2"), upstream, lambda server: post(server, path="/v1/models"))
    faults = [Fault.status(503, first=1), Fault.limit_data(0, after=3), Fault.bad_gzip(truncated=True)]
    with LoopbackServer.replay(path, faults=faults[:2]) as server:
        assert post(server, chat(stream=True)).status_code == 503
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            post(server, chat(stream=True))
    for recording, body, where in ((path, chat(stream=True), CHAT), (path.with_suffix(".2"), chat(), "/v1/models")):
        for fault in (Fault.bad_chunk(), Fault.bad_gzip(truncated=False)):
            server = LoopbackServer.replay(recording, faults=[fault])
            with server, pytest.raises(requests.exceptions.RequestException):
                post(server, body, path=where)


# The file


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize("umask", [0, 0o022, 0o777])
def test_only_its_owner_can_read_a_recording(path: Path, umask: int) -> None:
    """The file has mode 0600 as soon as it is there, whatever the umask."""
    before = os.umask(umask)
    try:
        with LoopbackServer.record(path, "http://127.0.0.1:9"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_recording_is_not_overwritten(path: Path) -> None:
    """Where there is something already, the start fails, says what to do, and leaves all as it was."""
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="remove it"):
        LoopbackServer.record(path, "http://127.0.0.1:9").start()
    assert path.read_text() == "mine"
    with pytest.raises(FileExistsError):
        LoopbackServer.record(path.parent, "http://127.0.0.1:9").start()
    with pytest.raises(FileNotFoundError, match="folder"):
        LoopbackServer.record(path.parent / "sub" / "chat.rec", "http://127.0.0.1:9").start()


def test_a_port_in_use_leaves_no_file(path: Path) -> None:
    """A server that can't start has made nothing that would be in the way of the next try."""
    with LoopbackServer() as other:
        port = int(other.url.rpartition(":")[2])
        with pytest.raises(OSError, match=r"."):
            LoopbackServer.record(path, other.url, port=port).start()
        assert not path.exists()
        with LoopbackServer.record(path, other.url) as server:
            post(server)
        server.start().close()  # which goes on with its own file
    assert ends_of(path) == ["complete"]


def test_a_recording_can_be_read_by_people(path: Path) -> None:
    """Texts are texts, requests are JSON as it was sent, and what is not UTF-8 is base64."""
    with LoopbackServer([["你好", "!"]]) as upstream:
        url = upstream.url
        record_from(path, upstream, lambda server: post(server, {"list": user("“Hi”")}, WEB))
    first, request, answer, *pieces, end = lines_of(path)
    assert first == {"format": "chatanywhere recording", "version": 1, "upstream": f"{url}/v1"}
    assert request.keys() == {"request", "began", "json"}
    assert (request["request"], request["json"]) == ("POST /v1/chat/gpt/", {"list": user("“Hi”")})
    assert answer["status"] == 200
    assert [piece["text"] for piece in pieces] == ["你好", "!"]
    assert end["end"] == "complete"
    assert "“Hi”" in path.read_text(encoding="utf-8")


def test_an_exchange_is_in_the_file_when_the_client_has_its_answer(path: Path) -> None:
    """A program may look at the recording while the server still runs."""
    with LoopbackServer() as upstream, LoopbackServer.record(path, upstream.url) as server:
        for number, body in enumerate([chat(), chat(stream=True)], start=1):
            post(server, body)
            assert ends_of(path) == ["complete"] * number


def test_a_text_may_be_changed_by_hand(path: Path) -> None:
    """A recording whose text was edited is replayed with the new text, whatever size it has."""
    with LoopbackServer(["Hello, Ada."]) as upstream:
        record_from(path, upstream, post)
    path.write_text(path.read_text().replace("Hello, Ada.", "Good evening, Ada."))
    assert replayed(path, post).json()["choices"][0]["message"]["content"] == "Good evening, Ada."


@pytest.fixture(scope="module")
def two_exchanges(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a recording."""
    path = tmp_path_factory.mktemp("two") / "chat.rec"
    with LoopbackServer([["one"], ["two"]]) as upstream, LoopbackServer.record(path, upstream.url) as server:
        post(server, chat("1"), proxies={"http": ""})
        post(server, chat("2"), proxies={"http": ""})
    return path.read_bytes()


def test_a_recording_that_is_cut_has_the_exchanges_before(
    two_exchanges: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Wherever whoever wrote it was ended, what had been written whole is replayed, and the rest is told of."""
    first = two_exchanges.index(b"\n") + 1
    second = two_exchanges.index(b'{"request"', first + 1)
    path = tmp_path / "chat.rec"

    @given(st.integers(first, len(two_exchanges)))
    def check(size: int) -> None:
        path.write_bytes(two_exchanges[:size])
        caplog.clear()
        LoopbackServer.replay(path)
        at_border = size in (first, second - 1, second, len(two_exchanges) - 1, len(two_exchanges))
        assert bool(caplog.records) is not at_border

    check()
    path.write_bytes(two_exchanges[: second + 100])
    with LoopbackServer.replay(path) as server:
        assert post(server, chat("1")).status_code == 200
        assert post(server, chat("2")).status_code == 400


def changed(line: int, old: str, new: str) -> Callable[[bytes], bytes]:
    def change(recording: bytes) -> bytes:
        lines = recording.split(b"\n")
        assert old.encode() in lines[line]
        lines[line] = lines[line].replace(old.encode(), new.encode(), 1)
        return b"\n".join(lines)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda recording: b"", "no recording"),
        (lambda recording: recording[:20], "no recording"),
        (lambda recording: b"\xff" * 100_000, "no recording"),
        (lambda recording: b"[" * 50_000, "no recording"),
        (lambda recording: b'{"a": 1}\n', "no recording"),
        (changed(0, '"version": 1', '"version": 2'), "version 2, and this package reads version 1"),
        (changed(1, "{", "["), "line 2,"),
        (changed(1, '"POST /', '"POST'), "line 2,"),
        (changed(1, '"began": ', '"began": -'), "line 2,"),
        (changed(1, '"began": ', '"since": '), "line 2,"),
        (changed(2, "200", '"200"'), "line 3,"),
        (changed(2, "200", "99"), "line 3,"),
        (changed(2, "Content-Type", "Content Type"), "line 3,"),
        (changed(2, "application/json", "a\\\\r\\\\nb".replace("\\\\", "\\")), "line 3,"),
        (changed(2, '"at": ', '"at": NaN, "x": '), "line 3,"),
        (changed(3, '"text"', '"base64"'), "line 4,"),
        (changed(3, '"text"', '"words"'), "line 4,"),
        (changed(3, '"at": ', '"at": "1", "x": '), "line 4,"),
        (changed(4, "complete", "over"), "line 5,"),
        (changed(4, "{", "1\n{"), "line 5,"),
    ],
)
def test_what_is_no_recording_is_refused(
    two_exchanges: bytes, tmp_path: Path, change: Callable[[bytes], bytes], message: str
) -> None:
    """The error names the file, the line and the remedy."""
    path = tmp_path / "chat.rec"
    path.write_bytes(change(two_exchanges))
    with pytest.raises(ValueError, match=rf"chat\.rec.*{message}.*(record|LoopbackServer\.record)"):
        LoopbackServer.replay(path)


def test_a_recording_that_is_not_there_names_the_remedy(tmp_path: Path) -> None:
    """A missing file is a FileNotFoundError that says how one is made, a folder an OSError."""
    with pytest.raises(FileNotFoundError, match=r"LoopbackServer\.record"):
        LoopbackServer.replay(tmp_path / "chat.rec")
    with pytest.raises(OSError, match=re.escape(str(tmp_path))):
        LoopbackServer.replay(tmp_path)


def test_blank_lines_do_not_matter(two_exchanges: bytes, tmp_path: Path) -> None:
    """A recording may be given room between its lines, and behind them."""
    path = tmp_path / "chat.rec"
    path.write_bytes(two_exchanges.replace(b"\n", b"\n\n \r\n"))
    assert replayed(path, lambda server: post(server, chat("2"))).status_code == 200


def test_an_empty_recording_answers_nothing(path: Path) -> None:
    """A recording without exchanges is one, and says of each request that nothing was recorded."""
    LoopbackServer.record(path, "http://127.0.0.1:9").start().close()
    response = replayed(path, post)
    assert response.status_code == 400
    assert "nothing was recorded" in response.json()["error"]["message"]


@pytest.mark.parametrize("speed", [-1, -math.inf, math.nan, "1", True, None])
def test_a_speed_is_a_number(two_exchanges: bytes, tmp_path: Path, speed: Any) -> None:
    """A negative speed, and what is no number, is refused before anything is replayed."""
    path = tmp_path / "chat.rec"
    path.write_bytes(two_exchanges)
    with pytest.raises(
        TypeError if not isinstance(speed, (int, float)) or speed is True else ValueError, match="speed"
    ):
        LoopbackServer.replay(path, speed)


@pytest.mark.parametrize("speed", [10**400, 1e308, math.inf, 0, -0.0])
def test_a_speed_may_be_as_high_as_one_likes(path: Path, speed: float) -> None:
    """Whatever leaves no pause is a speed."""
    with LoopbackServer(["Hi"]) as upstream:
        first = record_from(path, upstream, post)
    with LoopbackServer.replay(path, speed) as server:
        assert post(server).content == first.content


def test_a_file_that_can_not_be_written_is_told_of(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client has its answer, the log has the error, and what is in the file stays a recording."""
    resource = pytest.importorskip("resource")
    with LoopbackServer() as upstream, LoopbackServer.record(path, upstream.url) as server:
        post(server, chat("one"))
        size = path.stat().st_size
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))
        try:
            assert post(server, chat("two")).status_code == 200
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "could not be recorded" in caplog.text
        assert path.stat().st_size == size
        post(server, chat("three"))
    assert replayed(
        path, lambda server: [post(server, chat(text)).status_code for text in ("one", "two", "three")]
    ) == [
        200,
        400,
        200,
    ]


def test_an_answer_without_end_is_forwarded_and_not_recorded(
    path: Path, raw_server: RawServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An answer above the limit costs no more memory than that, and is told of."""
    monkeypatch.setattr("chatanywhere.testing.recorder._MAX_RECORDED", 100_000)
    raw_server.answer(b"HTTP/1.1 200 OK\r\n\r\n", *[b"x" * 10_000] * 20)
    assert len(record_from(path, raw_server, post).content) == 200_000
    assert "too large" in caplog.text
    assert len(lines_of(path)) == 1


# Keys


def url_encoded(key: str) -> str:
    return "".join(f"%{byte:02x}" for byte in key.encode())


ECHOES: dict[str, Callable[[str], str]] = {
    "whole": lambda key: f"Incorrect API key provided: {key}.",
    "in a word": lambda key: f"x{key}y",
    "its beginning": lambda key: f"{key[:20]}",
    "its end": lambda key: f"…{key[-20:]}",
    "with stars": lambda key: f"{key[:8]}********{key[-4:]}",
    "with dots": lambda key: f"{key[:8]}...{key[-4:]}",
    "in a URL": lambda key: quote(key, safe=""),
    "all escaped": url_encoded,
    "in JSON": lambda key: json.dumps(json.dumps(key)).replace("/", "\\/"),
    "in JSON in JSON": lambda key: json.dumps(json.dumps(json.dumps(key).replace("/", "\\/").replace("+", "\\u002b"))),
    "in a URL in a URL": lambda key: quote(quote(key, safe=""), safe=""),
    "by numbers": lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
    "by numbers of HTML": lambda key: "".join(f"&#{ord(letter)};" for letter in key),
    "by hexadecimal numbers of HTML": lambda key: "".join(f"&#x{ord(letter):X};" for letter in key),
    "by numbers of Python": lambda key: "".join(f"\\x{ord(letter):02x}" for letter in key),
    "in base64": lambda key: base64.b64encode(f"user:{key}".encode()).decode(),
    "in base64 for URLs": lambda key: base64.urlsafe_b64encode(f"{key}!".encode()).decode(),
}


@pytest.mark.parametrize("echo", ECHOES.values(), ids=ECHOES.keys())
def test_an_echo_of_the_key_is_not_recorded(path: Path, raw_server: RawServer, echo: Callable[[str], str]) -> None:
    """The client gets what the service says, the file has it without the key, though it came in two pieces."""
    said = echo(KEY)
    content = f"« {said} »".encode()
    half = len(content) // 2
    head = f"HTTP/1.1 401 No\r\nX-Echo: {said.replace('…', '')}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    chunks = [b"%x\r\n%b\r\n" % (len(part), part) for part in (content[:half], content[half:])]
    raw_server.answer(head, *chunks, b"0\r\n\r\n")
    assert record_from(path, raw_server, post).content == content
    recorded = path.read_text(encoding="utf-8")
    for piece in (said, said[: len(said) // 2], said[-len(said) // 2 :], KEY[:8], KEY[-8:]):
        assert piece not in recorded
    again = replayed(path, post)
    assert (again.status_code, len(again.content)) == (401, len(content))
    assert again.content.startswith("« ".encode())
    assert again.content.endswith(" »".encode())


@pytest.mark.parametrize(
    ("where", "options"),
    [
        (CHAT, {"headers": {"Authorization": f"Bearer {KEY}"}}),
        (CHAT, {"headers": {"Authorization": KEY}}),
        (CHAT, {"headers": {"Authorization": "Basic " + base64.b64encode(f"me:{KEY}".encode()).decode()}}),
        (CHAT, {"headers": {"api-key": KEY}}),
        (CHAT, {"headers": {"X-API-Key": KEY}}),
        (CHAT, {"headers": {"X-Auth": KEY}}),
        (CHAT, {"headers": {"X-Auth-Token": KEY}}),
        (CHAT, {"headers": {"Proxy-Authorization": f"Bearer {KEY}"}}),
        (CHAT, {"headers": {"x-goog-api-key": KEY}}),
        (CHAT, {"headers": {"X-API-Key-Id": KEY}}),
        (CHAT, {"headers": {"X-Jwt": KEY}}),
        (CHAT, {"headers": {"X-Passwd": KEY}}),
        (CHAT, {"headers": {"X-User-Pwd": KEY}}),
        (CHAT, {"headers": {"Cookie": f"a=b; session={KEY}"}}),
        (CHAT, {"headers": {"OpenAI-Organization": KEY}}),
        (f"{CHAT}?key={quote(KEY, safe='')}&a=b", {}),
        (f"{CHAT}?api-key={quote(KEY, safe='')}", {}),
        (f"{CHAT}?app_key={quote(KEY, safe='')}", {}),
        (f"{CHAT}?code={quote(KEY, safe='')}", {}),
        (f"{CHAT}?secret={quote(KEY, safe='')}", {}),
        (f"{CHAT}?X-Amz-Security-Token={quote(KEY, safe='')}", {}),
        (CHAT, {"json": chat(api_key=KEY)}),
        (CHAT, {"json": chat(options=[{"apiKey": KEY, "x": 1}])}),
        (CHAT, {"json": chat(secret=KEY)}),
        (CHAT, {"json": chat(login={"passwd": KEY})}),
        (CHAT, {"data": {"api_key": KEY, "a": "b"}}),
        (CHAT, {"data": {"jwt": KEY, "a": "b"}}),
        (CHAT, {"files": {"api_key": (None, KEY), "a": (None, "b")}}),
    ],
)
def test_a_key_is_not_recorded_wherever_it_is(
    path: Path, raw_server: RawServer, where: str, options: dict[str, Any]
) -> None:
    """Keys in headers, queries, JSON and forms are in none of the file, nor what echoes them, and any other replays."""
    raw_server.answer(json_answer({"error": f"wrong key {KEY}"}, "401 Unauthorized"))

    def ask(server: LoopbackServer, key: str = KEY) -> requests.Response:
        text = json.dumps({"json": chat(), **options} if "files" not in options else {})
        asked = json.loads(text.replace(KEY, key)) if "files" not in options else options
        asked.setdefault("headers", {})
        url = server.url + where.replace(quote(KEY, safe=""), key)
        return requests.post(url, timeout=TIMEOUT, **asked)

    assert KEY in record_from(path, raw_server, ask).text
    assert KEY not in path.read_text()
    assert KEY[4:20] not in path.read_text()
    assert quote(KEY, safe="") not in path.read_text()
    assert replayed(path, lambda server: ask(server, "another-key-1")).status_code == 401


def test_a_key_in_the_service_s_url_is_not_recorded(path: Path, raw_server: RawServer) -> None:
    """A query that goes with each request stays out of the file, and so does what echoes it."""
    raw_server.answer(json_answer({"error": f"wrong key {KEY}"}, "401 Unauthorized"))
    query = f"?api-version=1&key={quote(KEY, safe='')}"
    with LoopbackServer.record(path, raw_server.url + query) as server:
        requests.post(server.url + CHAT, json=chat(), timeout=TIMEOUT)
    assert query.encode() in raw_server.requests[0]
    assert KEY not in path.read_text()
    assert quote(KEY, safe="") not in path.read_text()
    assert "api-version" not in path.read_text()


def test_the_keys_of_an_answer_are_not_recorded(path: Path, raw_server: RawServer) -> None:
    """Cookies, and keys that the service gives out, are not in the file; what else it says of tokens is."""
    body = json.dumps({"client_secret": "ek_0123", "api_key": 'a\\"b', "usage": {"total_tokens": 5}, "token": "Hi"})
    lines = ["Set-Cookie: id=1234567", "Set-Cookie: b=7654321", "x-ratelimit-remaining-tokens: 99"]
    head = ["HTTP/1.1 200 OK", *lines, "openai-organization: user-abc", f"Content-Length: {len(body)}", "", ""]
    raw_server.answer("\r\n".join(head).encode() + body.encode())
    first = record_from(path, raw_server, post)
    assert first.json() == json.loads(body)
    assert "1234567" in first.headers["Set-Cookie"]
    recorded = path.read_text()
    for secret in ("1234567", "7654321", "ek_0123", "user-abc"):
        assert secret not in recorded
    again = replayed(path, post)
    assert again.headers["x-ratelimit-remaining-tokens"] == "99"
    assert again.json() == {**first.json(), "client_secret": "*******", "api_key": again.json()["api_key"]}
    assert set(again.json()["api_key"]) == {"*"}


def test_a_compressed_answer_is_recorded_unpacked(path: Path, raw_server: RawServer) -> None:
    """A service that compresses though it is asked not to can hide no key in that."""
    content = gzip.compress(json.dumps({"error": f"wrong key {KEY}" * 100}).encode())
    head = f"HTTP/1.1 401 No\r\nContent-Encoding: gzip\r\nContent-Length: {len(content)}\r\n\r\n"
    raw_server.answer(head.encode() + content)
    assert record_from(path, raw_server, post).json()["error"] == f"wrong key {KEY}" * 100
    assert KEY not in path.read_text()
    assert "wrong key ****" in replayed(path, post).json()["error"]


@pytest.mark.parametrize("value", ["Basic", "Basic ?", "Basic \xff", "Basic ////", " ", "Bearer"])
def test_credentials_that_are_none_are_sent_on(path: Path, raw_server: RawServer, value: str) -> None:
    """What is malformed in the place of a key is for the service to refuse."""
    raw_server.answer(json_answer({"error": "no"}, "401 Unauthorized"))
    request = raw_chat(chat()).replace(f"Bearer {KEY}".encode(), value.encode("latin-1"))
    assert raw_exchange_status(record_from(path, raw_server, lambda server: raw_exchange(server, request))) == 401
    assert raw_exchange_status(replayed(path, lambda server: raw_exchange(server, request))) == 401


def raw_exchange_status(answer: bytes) -> int:
    return int(answer.split()[1])


def test_a_header_without_a_secret_has_none(path: Path, raw_server: RawServer) -> None:
    """What a client sends under other names is no key, though it comes back in the answer."""
    raw_server.answer(json_answer({"text": "Lew Nikolajewitsch Tolstoi, 3f2c9a1b-77aa"}))
    names = {
        "X-Author": "Lew Nikolajewitsch Tolstoi",
        "X-Trace-Id": "3f2c9a1b-77aa",
        "Keep-Alive": "Lew Nikolajewitsch",
    }
    first = record_from(path, raw_server, lambda server: post(server, headers=names))
    assert replayed(path, post).content == first.content


@pytest.mark.parametrize("key", ["test", "any", "123456", "x"])
def test_a_word_is_no_key(path: Path, raw_server: RawServer, key: str) -> None:
    """A placeholder in the place of a key takes no words out of the answers."""
    raw_server.answer(json_answer({"text": f"any test of x is 123456, {key}"}))
    options = {"headers": {"Authorization": f"Bearer {key}"}}
    first = record_from(path, raw_server, lambda server: post(server, **options))
    assert replayed(path, lambda server: post(server, **options)).content == first.content


def test_a_short_key_is_taken_out_where_it_stands_alone(path: Path, raw_server: RawServer) -> None:
    """A short key that is no word is left out, but not of other words."""
    raw_server.answer(json_answer({"text": "key-1 monkey-10 (key-1)"}))
    record_from(path, raw_server, lambda server: post(server, headers={"Authorization": "Bearer key-1"}))
    assert replayed(path, post).json() == {"text": "***** monkey-10 (*****)"}


@given(
    key=st.text(st.sampled_from('abcXYZ0189-_./+=% "\\&é'), min_size=12, max_size=80).filter(
        lambda key: key.strip() == key and not key.isspace()
    ),
    before=st.text(max_size=5),
    cuts=st.lists(st.integers(0, 100), max_size=3),
)
def test_any_key_is_found_in_any_pieces(key: str, before: str, cuts: list[int]) -> None:
    """However a key is written and cut, no form of it is left, and nothing changes its size."""
    from chatanywhere.testing.redaction import Redactor

    redactor = Redactor([key])
    for form in (key, quote(key), quote(key, safe=""), json.dumps(key), base64.b64encode(key.encode()).decode()):
        data = f"{before} {form} end".encode(errors="replace")
        hidden = redactor.hide(data)
        assert len(hidden) == len(data)
        assert hidden.endswith(b" end")
        assert form.strip('"').encode() not in hidden


# Which request is answered by what


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.text(max_size=9),
        lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=5), values, max_size=3),
        max_leaves=8,
    ),
    indent=st.sampled_from([None, 0, 2]),
    ascii=st.booleans(),
)
def test_json_is_compared_by_its_value(value: Any, indent: int | None, ascii: bool) -> None:
    """Blanks, escapes and the order of members make no difference; any other value does."""
    body = {"b": value, "a": 1.0, "c": {"x": 1, "y": 2}}
    other = {"c": {"y": 2.0, "x": 1}, "a": 1, "b": value}
    same = [json.dumps(body), json.dumps(other, indent=indent, ensure_ascii=ascii)]
    assert identity(same[0]) == identity(same[1])
    for changed_body in ({**body, "b": [value]}, {**body, "a": True}, {**body, "d": None}, {**body, "a": "1"}, [body]):
        assert identity(json.dumps(changed_body)) != identity(same[0])


def identity(body: str | bytes, content_type: str = "application/json", *lines: str) -> str:
    """By what a request is found."""
    from email import message_from_string

    from chatanywhere.testing import Request
    from chatanywhere.testing.matching import RecordedRequest
    from chatanywhere.testing.redaction import Redactor

    head = "\r\n".join([f"Content-Type: {content_type}", *lines, "", ""])
    headers = message_from_string(head, http.client.HTTPMessage)
    data = body.encode(errors="surrogatepass") if isinstance(body, str) else body
    request = Request("POST", CHAT, headers, data)
    return RecordedRequest.of(request, Redactor()).identity


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/v1/models", "/models"),
        ("/v1/models/gpt-4o", "/models/gpt%2D4o"),
        ("/v1/models?a=1&b=2", "/models?b=2&a=1"),
        ("/v1/models?a=x%20y", "/v1/models?a=x+y"),
    ],
)
def test_a_path_is_found_however_it_is_written(path: Path, one: str, other: str) -> None:
    """`/v1` may be left out, and the order and the escapes of a query make no difference; another query does."""
    with LoopbackServer() as upstream:
        first = record_from(path, upstream, lambda server: requests.get(server.url + one, timeout=TIMEOUT))
    assert replayed(path, lambda server: requests.get(server.url + other, timeout=TIMEOUT)).text == first.text
    for wrong in (f"{one}x", f"{one}?c=3", one.replace("v1", "v2")):
        assert replayed(path, lambda server, wrong=wrong: requests.get(server.url + wrong)).status_code == 400


@pytest.mark.parametrize(
    "changed_files",
    [
        {"file": ("a.wav", b"\x00\xff\r\n--x", "audio/wav"), "model": (None, "n")},
        {"file": ("b.wav", b"\x00\xff\r\n--x", "audio/wav"), "model": (None, "m")},
        {"file": ("a.wav", b"\x00\xff\r\n--y", "audio/wav"), "model": (None, "m")},
        {"file": ("a.wav", b"\x00\xff\r\n--x", "audio/mpeg"), "model": (None, "m")},
        {"file": ("a.wav", b"\x00\xff\r\n--x", "audio/wav")},
    ],
    ids=["field", "filename", "content", "type", "missing"],
)
def test_a_form_is_compared_by_its_parts(path: Path, changed_files: dict[str, Any]) -> None:
    """Another boundary and another order make no difference; another part does, and the error names it."""
    files: dict[str, Any] = {"file": ("a.wav", b"\x00\xff\r\n--x", "audio/wav"), "model": (None, "m")}
    where = "/v1/audio/transcriptions"
    with LoopbackServer() as upstream:
        record_from(path, upstream, lambda server: post(server, path=where, files=files))
    turned = dict(reversed(files.items()))
    assert replayed(path, lambda server: post(server, path=where, files=turned)).status_code == 404
    response = replayed(path, lambda server: post(server, path=where, files=changed_files))
    assert response.status_code == 400
    (name,) = [name for name in files if changed_files.get(name) != files[name]]
    assert f"differs in {name}" in response.json()["error"]["message"]


def test_curl_s_json_is_json(path: Path) -> None:
    """JSON that is called a form, as by `curl -d`, is compared and told of as JSON."""
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with LoopbackServer() as upstream:
        record_from(path, upstream, lambda server: post(server, data=json.dumps(chat()), headers=form))
    assert replayed(path, lambda server: post(server, chat())).status_code == 200
    response = replayed(path, lambda server: post(server, data=json.dumps(chat("Ho"), indent=1), headers=form))
    assert "differs in messages[0].content" in response.json()["error"]["message"]


def test_a_form_of_a_page_is_compared_by_its_fields(path: Path) -> None:
    """The order of fields in `application/x-www-form-urlencoded` makes no difference, and another value does."""
    with LoopbackServer() as upstream:
        record_from(
            path, upstream, lambda server: post(server, path="/v1/x", data=[("a", "é"), ("b", "1"), ("a", "3")])
        )
    same = [("b", "1"), ("a", "é"), ("a", "3")]
    assert replayed(path, lambda server: post(server, path="/v1/x", data=same)).status_code == 404
    other = [("b", "1"), ("a", "3"), ("a", "é")]
    response = replayed(path, lambda server: post(server, path="/v1/x", data=other))
    assert "differs in a[0]" in response.json()["error"]["message"]


def test_other_bodies_are_compared_as_they_are(path: Path) -> None:
    """A text, bytes, a malformed form or JSON, and one nested deep, are found again, and no others."""
    multipart = {"Content-Type": "multipart/form-data; boundary=b"}
    bodies: list[tuple[bytes, dict[str, str]]] = [
        (b"text", {}),
        (b"\xff\xfe", {}),
        (b"{", {"Content-Type": "application/json"}),
        (b"[" * 300 + b"]" * 300, {"Content-Type": "application/json"}),
        (b"[" * 5000, {"Content-Type": "application/json"}),
        (b'{"a": "' + b'\\"' * 100_000, {"Content-Type": "application/json"}),
        (b'{"a": ' + b"1" * 5000 + b"}", {}),
        (b"1", {"Content-Type": "application/json"}),
        (b"1.0", {"Content-Type": "application/json"}),
        (b"no parts", multipart),
        (b"--b\r\nno blank line\r\n--b--", multipart),
        (b"", {}),
    ]
    with LoopbackServer(lambda _: "") as upstream, LoopbackServer.record(path, upstream.url) as server:
        for number, (body, headers) in enumerate(bodies):
            post(server, path=f"/v1/{number}", data=body, headers=headers)
    with LoopbackServer.replay(path) as server:
        for number, (body, headers) in enumerate(bodies):
            assert post(server, path=f"/v1/{number}", data=body, headers=headers).status_code == 404
            assert post(server, path=f"/v1/{number}", data=body + b"x", headers=headers).status_code == 400


def test_a_compressed_body_is_compared_unpacked(path: Path) -> None:
    """The time that gzip writes into what it packs does not matter: it is found again all the same."""
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}
    with LoopbackServer() as upstream:
        for at, ask in ((1, record_from), (2, None)):
            body = gzip.compress(json.dumps(chat()).encode(), mtime=at)

            def send(server: LoopbackServer, body: bytes = body) -> requests.Response:
                return post(server, path="/v1/x", data=body, headers=headers)

            response = ask(path, upstream, send) if ask else replayed(path, send)
            assert response.status_code == 404
    assert lines_of(path)[1]["json"] == chat()


def test_the_same_request_gets_its_answers_in_their_order(path: Path) -> None:
    """Each time the next one, and in the end always the last; other requests do not disturb that."""
    with (
        LoopbackServer(["one", "two", "three", "other"]) as upstream,
        LoopbackServer.record(path, upstream.url) as server,
    ):
        for _ in range(3):
            post(server, {"list": user("Hi")}, WEB)
        post(server, {"list": user("other")}, WEB)

    def texts(server: LoopbackServer) -> list[str]:
        bodies = [user("Hi"), user("other"), user("Hi"), user("Hi"), user("Hi"), user("other")]
        return [post(server, {"list": body}, WEB).text for body in bodies]

    assert replayed(path, texts) == ["one", "other", "two", "three", "three", "other"]


def test_requests_at_the_same_time_keep_apart(path: Path) -> None:
    """Exchanges that overlap are written one after the other, and each of their answers is given out once."""
    with (
        LoopbackServer(lambda request: [request.text] * 5, delay=0.01) as upstream,
        LoopbackServer.record(path, upstream.url) as server,
        ThreadPoolExecutor(16) as pool,
    ):
        list(pool.map(lambda n: post(server, chat(f"{n % 8}", stream=True)), range(32)))
    assert ends_of(path) == ["complete"] * 32

    def ask(number: int) -> tuple[str, str]:
        response = post(server, chat(f"{number % 8}", stream=True))
        return response.text.split('"content": "')[2][:1], response.headers["x-request-id"]

    with LoopbackServer.replay(path, speed=0) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(32)))
    assert [text for text, _ in answers] == [f"{number % 8}" for number in range(32)]
    assert len({identity for _, identity in answers}) == 32


def test_the_order_is_that_in_which_requests_began(path: Path) -> None:
    """Of two equal requests, the first to be asked is the first to be replayed, though it took longer."""
    began, go_on = threading.Event(), threading.Event()

    def reply(request: Any) -> str:
        if not began.is_set():
            began.set()
            go_on.wait(TIMEOUT)
            return "slow"
        return "fast"

    with (
        LoopbackServer(reply) as upstream,
        LoopbackServer.record(path, upstream.url) as server,
        ThreadPoolExecutor() as pool,
    ):
        slow = pool.submit(post, server)
        assert began.wait(TIMEOUT)
        post(server)
        go_on.set()
        slow.result()

    def texts(server: LoopbackServer) -> list[str]:
        return [post(server).json()["choices"][0]["message"]["content"] for _ in range(2)]

    assert replayed(path, texts) == ["slow", "fast"]


DIFFERENCES: list[tuple[dict[str, Any], str]] = [
    (chat("Ho"), 'messages[0].content: "Hi" was recorded, not "Ho"'),
    (chat(temperature=0.5), "temperature: it was not recorded, and is 0.5"),
    (chat(tools=[{"type": "function"}]), 'tools: it was not recorded, and is [{"type": "function"}]'),
    ({"messages": user("Hi")}, 'model: "gpt-4o-mini" was recorded, and it is missing'),
    ({**chat(), "messages": [*user("Hi"), *user("Yo")]}, "messages[1]: it was not recorded"),
    (chat(), ""),
]


@pytest.mark.parametrize(("body", "message"), DIFFERENCES[:-1])
def test_a_request_that_was_not_recorded_is_told_what_differs(path: Path, body: object, message: str) -> None:
    """OpenAI's envelope names the nearest of the recorded requests, and where it differs."""
    with LoopbackServer() as upstream, LoopbackServer.record(path, upstream.url) as server:
        for other in (chat("Something quite different", temperature=2, top_p=0), chat(), chat("Hi", n=2, seed=1)):
            post(server, other)
        requests.get(f"{server.url}/v1/models", timeout=TIMEOUT)
    response = replayed(path, lambda server: post(server, body))
    assert response.status_code == 400
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", None, "not_recorded")
    assert f"chat.rec has no answer to this POST {CHAT}" in error["message"]
    assert message in error["message"]


@pytest.mark.parametrize(
    ("method", "where", "body", "message"),
    [
        ("PUT", CHAT, chat(), "the method: POST was recorded, not PUT"),
        ("POST", "/v1/chats", chat(), "the path: /v1/chat/completions was recorded, not /v1/chats"),
        ("POST", f"{CHAT}?a=b", chat(), 'query.a: it was not recorded, and is "b"'),
        ("POST", CHAT, None, "the body: json was recorded, not nothing"),
        ("POST", CHAT, chat("x" * 500 + "Hi" + "y" * 500), "…"),
    ],
)
def test_what_differs_may_be_anything(path: Path, method: str, where: str, body: object, message: str) -> None:
    """The method, the path, the query and the kind of body are named, and long texts are shown where they part."""
    recorded = chat("x" * 500 + "Ho" + "y" * 500) if message == "…" else chat()
    with LoopbackServer() as upstream:
        record_from(path, upstream, lambda server: post(server, recorded))
    response = replayed(path, lambda server: requests.request(method, server.url + where, json=body, timeout=TIMEOUT))
    told = response.json()["error"]["message"]
    assert message in told
    assert len(told) < 500
    if message == "…":
        assert "Hoyyy" in told
        assert "Hiyyy" in told


LONG = "Lorem ipsum dolor sit amet. " * 1000
ASKED = ["What is the capital of France?", "Tell me a joke about Ada.", f"{LONG}Sum it up.", "Say this: " + "x" * 50]


@pytest.mark.parametrize(
    ("text", "recorded", "asked"),
    [
        ("Tell me a story about Ada.", "Tell me a joke about Ada.", "Tell me a story about Ada."),
        ("What is the capital of Spain?", "…t is the capital of France?", "…t is the capital of Spain?"),
        ("Tell me a joke about Ada. Now.", "…me a joke about Ada.", "…me a joke about Ada. Now."),
        (f"{LONG}Sum it.", "…lor sit amet. Sum it up.", "…lor sit amet. Sum it."),
        ("Say this: " + "x" * 60, "…" + "x" * 20, "…" + "x" * 30),
        ("Say that: " + "x" * 50, "Say this: " + "x" * 30 + "…", "Say that: " + "x" * 30 + "…"),
    ],
)
def test_the_nearest_has_most_in_common(path: Path, text: str, recorded: str, asked: str) -> None:
    """Of requests that differ in the same place the nearest in its words is named, and shown where they part."""
    with LoopbackServer() as upstream, LoopbackServer.record(path, upstream.url) as server:
        for each in ASKED:
            post(server, chat(each))
    told = replayed(path, lambda server: post(server, chat(text))).json()["error"]["message"]
    assert f"differs in messages[0].content: {json.dumps(recorded, ensure_ascii=False)} was recorded" in told
    assert f"was recorded, not {json.dumps(asked, ensure_ascii=False)}. To record anew" in told


def test_a_key_is_not_told_with_what_differs(path: Path) -> None:
    """The error shows neither the key that was recorded nor the one that is sent."""
    with LoopbackServer() as upstream:
        record_from(path, upstream, lambda server: post(server, chat(api_key=KEY, user=KEY)))
    told = replayed(path, lambda server: post(server, chat(api_key=f"{KEY}x", user=f"{KEY}x"))).text
    assert "differs in" in told
    assert KEY[:12] not in told


# Clients


def test_the_web_protocol_is_replayed(path: Path) -> None:
    """Its requests have an id that is made up for each, which makes no difference; what is asked does."""

    def ask(server: LoopbackServer, text: str = "Hi") -> str:
        with Client(base_url=server.url, protocol="web", proxy="", retry=None) as client:
            return client.complete(text).text

    with LoopbackServer() as upstream:
        first = record_from(path, upstream, ask)
    assert replayed(path, ask) == first
    with pytest.raises(BadRequestError, match="no answer to this POST"):
        replayed(path, lambda server: ask(server, "Ho"))


def test_a_redirect_is_passed_on_and_told_of(
    path: Path, raw_server: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not followed; the log says that what is there is not recorded, and shows no key."""
    target = f"https://other.example/v1?key={KEY}"
    raw_server.answer(f"HTTP/1.1 307 Elsewhere\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())

    def ask(server: LoopbackServer) -> requests.Response:
        headers = {"Authorization": f"Bearer {KEY}"}
        url = server.url + CHAT
        return requests.post(url, json=chat(), headers=headers, timeout=TIMEOUT, allow_redirects=False)

    assert record_from(path, raw_server, ask).headers["Location"] == target
    assert "redirects to https://other.example/v1, where nothing is recorded" in caplog.text
    assert KEY not in caplog.text + path.read_text()
    assert replayed(path, ask).status_code == 307


def ask_as_a_program(client: Client) -> list[Any]:
    """What a program does with a client: whole answers, streams, tools, embeddings, lists, errors."""
    told: list[Any] = [client.complete("I am Ada.").text]
    with client.stream("Who am I?") as stream:
        told += ["".join(stream), stream.completion.usage]
    told.append(client.complete("Hi", stream=False, n=2).raw)
    told += [client.models(), client.balance(), client.embed(["one", "two"]).model]
    for options in ({"n": 0}, {"tool_choice": "required", "tools": [{"type": "function", "function": {"name": "f"}}]}):
        try:
            told.append(client.complete("Hi", **options).tool_calls)
        except chatanywhere.ChatAnywhereError as error:
            told += [type(error), str(error).replace(str(client), ""), error.request_id]
    return told


def test_a_program_of_this_package_runs_offline(path: Path) -> None:
    """What a client gets from the replay equals what it got from the service, errors and usage included."""

    def ask(server: LoopbackServer, key: str = KEY) -> list[Any]:
        with Client(key, base_url=server.url, proxy="", retry=1, timeout=TIMEOUT) as client:
            return [str(each).replace(server.url, "") for each in ask_as_a_program(client)]

    with LoopbackServer() as upstream:
        first = record_from(path, upstream, ask)
    assert [re.sub(r":\d+", "", each) for each in replayed(path, lambda server: ask(server, "another"))] == [
        re.sub(r":\d+", "", each) for each in first
    ]


def test_a_retry_is_replayed_as_well(path: Path) -> None:
    """A service that was busy at first is so in the replay, and the program gets through in the same way."""

    def ask(server: LoopbackServer) -> tuple[str, int]:
        with Client(KEY, base_url=server.url, proxy="", retry=chatanywhere.Retry(backoff=0)) as client:
            return client.complete("Hi").text, len(server.requests)

    with LoopbackServer(["Hello!"], faults=[Fault.status(503, first=2)]) as upstream:
        assert record_from(path, upstream, ask) == ("Hello!", 3)
    assert replayed(path, ask) == ("Hello!", 3)


def test_openai_s_library_is_replayed(path: Path) -> None:
    """Completions, streams, parsed values, tools, embeddings, files and errors come back as they came."""
    openai = pytest.importorskip("openai")
    pydantic = pytest.importorskip("pydantic")

    class Weather(pydantic.BaseModel):  # type: ignore[misc, name-defined]
        """Tell the weather."""

        city: str
        days: int

    def ask(server: LoopbackServer, key: str = KEY) -> list[Any]:
        told: list[Any] = []
        with openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0) as client:
            chats = client.chat.completions
            told.append(chats.create(model="m", messages=user("Hi")).to_dict())
            told += [chunk.to_dict() for chunk in chats.create(model="m", messages=user("Hi"), stream=True)]
            parsed = chats.parse(model="m", messages=user("Hi"), response_format=Weather)
            told.append(parsed.choices[0].message.parsed.model_dump())
            tools = [openai.pydantic_function_tool(Weather)]
            with chats.stream(model="m", messages=user("Hi"), tools=tools, tool_choice="required") as stream:
                told += [event.type for event in stream]
                told.append(stream.get_final_completion().choices[0].message.tool_calls[0].function.arguments)
            told.append(client.embeddings.create(model="m", input=["one", "two"]).to_dict())
            told.append([model.id for model in client.models.list()])
            for call in (
                lambda: chats.create(model="m", messages=[]),
                lambda: client.models.retrieve("no/such model"),
                lambda: client.audio.transcriptions.create(model="m", file=("a.wav", b"\xff\x00")),
            ):
                with pytest.raises(openai.APIStatusError) as caught:
                    call()
                told += [type(caught.value), caught.value.body, caught.value.request_id]
        return told

    with LoopbackServer() as upstream:
        first = record_from(path, upstream, ask)
    assert replayed(path, lambda server: ask(server, "another")) == first

    with (
        LoopbackServer.replay(path) as server,
        openai.OpenAI(base_url=server.url + "/v1", api_key="x") as client,
    ):
        with pytest.raises(openai.BadRequestError, match=r"differs in messages\[0\]\.content") as caught:
            client.chat.completions.create(model="m", messages=user("Ho"))
        assert caught.value.code == "not_recorded"
        assert len(server.requests) == 1


def test_a_recording_of_one_client_s_replays_to_another(path: Path) -> None:
    """What OpenAI's library recorded answers this package's client where it sends the same body."""
    openai = pytest.importorskip("openai")
    with (
        LoopbackServer([["Hel", "lo!"]]) as upstream,
        LoopbackServer.record(path, upstream.url) as server,
        openai.OpenAI(base_url=server.url, api_key=KEY) as client,
    ):
        options = {"stream": True, "stream_options": {"include_usage": True}}
        list(client.chat.completions.create(model="gpt-4o-mini", messages=user("Hi"), **options))
    with LoopbackServer.replay(path) as server, Client("x", base_url=server.url, proxy="") as own:
        assert own.complete("Hi", model="gpt-4o-mini").text == "Hello!"


def test_more_than_a_text_is_recorded(path: Path) -> None:
    """Reasoning and tool calls come back as they were."""
    reply = Reply("text", reasoning="thought so", tool_calls=[("f", {"a": [1, 2]})])

    def ask(server: LoopbackServer) -> dict[str, Any]:
        with Client(KEY, base_url=server.url, proxy="") as client:
            return client.complete("Hi").raw

    with LoopbackServer([reply]) as upstream:
        first = record_from(path, upstream, ask)
    assert replayed(path, ask) == first
