"""The key stays where it belongs, and nothing but the settings decides where a call goes and whom it trusts."""

from __future__ import annotations

import base64
import gzip
import json
import logging
import pickle
import socket
import ssl
import traceback
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from leaks import leaks, reachable, shown
from raw_server import RawServer
from urllib3.exceptions import InsecureRequestWarning

from chatanywhere import (
    APIConnectionError,
    APIStatusError,
    AsyncClient,
    AuthenticationError,
    ChatAnywhereError,
    Client,
    InternalServerError,
    ProtocolError,
    Retry,
)
from chatanywhere.testing import Fault, LoopbackServer

KEY = "sk-0123456789abcdef0123"
PASSWORD = "hunter2-hunter2"
MIB = 1024 * 1024


def http_answer(status: str, body: bytes | str = b"", *fields: str) -> bytes:
    """An answer with a body of known length, after which the connection is closed, as it is by `RawServer`."""
    content = body.encode() if isinstance(body, str) else body
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(content)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode() + content


def event(data: str) -> bytes:
    """An answer of one event, which is not the last."""
    return http_answer("200 OK", f"data: {data}\n\n", "Content-Type: text/event-stream")


def says(text: str) -> bytes:
    """A good answer on the openai protocol."""
    data = json.dumps({"choices": [{"delta": {"content": text}}]})
    return http_answer("200 OK", f"data: {data}\n\ndata: [DONE]\n\n", "Content-Type: text/event-stream")


@pytest.fixture
def refusing() -> Iterator[str]:
    """The host and port of a server that refuses connections."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{sock.getsockname()[1]}"


# The key is not shown -----------------------------------------------------------------------------------------


def test_the_search_for_leaks_finds_one() -> None:
    """A key deep within the causes of an error is found, so that its absence below means something."""
    cause = ValueError({"headers": [KEY.encode()]})
    error = ChatAnywhereError("it broke")
    error.__context__ = KeyError()
    error.__context__.__cause__ = cause
    assert any(KEY in text for text in reachable(error))


ECHOES: dict[str, bytes] = {
    "401": http_answer(
        "401 Unauthorized",
        json.dumps({"error": {"message": f"wrong api key {KEY}", "code": KEY, KEY: [KEY]}}),
        "Content-Type: application/json",
        f"x-request-id: {KEY}",
        f"x-echo: Bearer {KEY}",
    ),
    "503 in text": http_answer("503 Busy", f"no capacity for {KEY}", "Content-Type: text/plain"),
    "502 page": http_answer("502 Bad", f"<html><title>{KEY}</title></html>", "Content-Type: text/html"),
    "redirect": http_answer("302 Found", b"", f"Location: http://127.0.0.1:9/?key={KEY}"),
    "error frame": event(json.dumps({"error": {"message": f"no {KEY}", "code": "500 X"}})),
    "bad JSON": event(f'{{"choices": "{KEY}'),
    "not an object": event(json.dumps(KEY)),
    "bad UTF-8": http_answer("200 OK", f"data: {KEY}".encode() + b"\xff\n\n", "Content-Type: text/event-stream"),
    "a page": http_answer("200 OK", f"<html><title>{KEY}</title></html>", "Content-Type: text/html"),
    "bad Content-Length": f"HTTP/1.1 200 OK\r\nContent-Length: {KEY}\r\n\r\n".encode(),
    "bad Content-Encoding": http_answer("200 OK", b"", f"Content-Encoding: {KEY}"),
    "bad Transfer-Encoding": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {KEY}\r\n\r\n".encode(),
    "bad chunk": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n".encode(),
    "bad trailer": f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n{KEY}\n".encode(),
    "not HTTP": f"{KEY} is not welcome\r\n\r\n".encode(),
}


@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_that_the_server_repeats_is_not_shown(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, echo: str
) -> None:
    """Whatever part of an answer repeats the key, no error, pickle, traceback or log record has it."""
    caplog.set_level(logging.DEBUG)
    raw_server.answer(ECHOES[echo])
    client = Client(KEY, base_url=raw_server.url, retry=Retry(2, 0))
    with pytest.raises(ChatAnywhereError) as caught:
        client.complete("Hello")
    assert leaks(shown(caught.value, client, caplog), KEY) == []


def test_a_key_in_an_error_behind_text_is_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    """An error frame that ends an answer which had begun is cleaned, too, and the text is kept."""
    with LoopbackServer(lambda _: ["one ", "two"], faults=[Fault.error_frame(f"no {KEY}", after=1)]) as server:
        client = Client(KEY, base_url=server.url)
        with pytest.raises(InternalServerError, match=r"no \*\*\*") as caught:
            client.complete("Hello")
    assert caught.value.partial == "one "
    assert leaks(shown(caught.value, client, caplog), KEY) == []


def test_a_key_is_not_shown_when_nobody_listens(refusing: str, caplog: pytest.LogCaptureFixture) -> None:
    """The request, which holds the key, is not attached to the error of a connection that was refused."""
    caplog.set_level(logging.DEBUG)
    client = Client(KEY, base_url=f"http://{refusing}", retry=Retry(2, 0))
    with pytest.raises(APIConnectionError) as caught:
        client.complete("Hello")
    assert leaks(shown(caught.value, client, caplog), KEY) == []


@pytest.mark.parametrize("fault", [Fault.reset_peer(), Fault.timeout(), Fault.limit_data(20)], ids=lambda f: f.name)
def test_a_key_is_not_shown_when_the_connection_fails(fault: Fault, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is it attached when the connection is lost, or silent, after the request was sent."""
    caplog.set_level(logging.DEBUG)
    with LoopbackServer(faults=[fault]) as server:
        client = Client(KEY, base_url=server.url, retry=Retry(2, 0))
        with pytest.raises(ChatAnywhereError) as caught:
            client.complete("Hello", timeout=0.3)
    assert leaks(shown(caught.value, client, caplog), KEY) == []


PROXY_SECRETS = (KEY, PASSWORD, base64.b64encode(f"user:{PASSWORD}".encode()).decode())
DENIED = http_answer("407 Proxy Authentication Required", "no", "Proxy-Authenticate: Basic")


@pytest.mark.parametrize("answer", [None, DENIED, b"SSH-2.0\r\n"], ids=["refuses", "says 407", "is none"])
@pytest.mark.parametrize("target", ["https://127.0.0.1:9", "http://127.0.0.1:9"])
def test_a_proxy_s_password_is_not_shown(
    raw_server: RawServer, refusing: str, caplog: pytest.LogCaptureFixture, target: str, answer: bytes | None
) -> None:
    """When a proxy fails, neither the key nor the proxy's password can be seen anywhere."""
    caplog.set_level(logging.DEBUG)
    raw_server.answer(*([answer] if answer else []))
    host = raw_server.url.partition("//")[2] if answer else refusing
    client = Client(KEY, base_url=target, proxy=f"http://user:{PASSWORD}@{host}", retry=Retry(2, 0))
    with pytest.raises(ChatAnywhereError) as caught:
        client.complete("Hello")
    assert leaks(shown(caught.value, client, caplog), *PROXY_SECRETS) == []


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4"])
def test_a_socks_proxy_s_password_is_not_shown(refusing: str, caplog: pytest.LogCaptureFixture, scheme: str) -> None:
    """The same for a SOCKS proxy that refuses."""
    caplog.set_level(logging.DEBUG)
    proxy = f"{scheme}://user:{PASSWORD}@{refusing}"
    client = Client(KEY, base_url="https://127.0.0.1:9", proxy=proxy, retry=Retry(2, 0))
    with pytest.raises(APIConnectionError) as caught:
        client.complete("Hello")
    assert leaks(shown(caught.value, client, caplog), *PROXY_SECRETS) == []


def test_a_proxy_that_is_no_url_is_refused_without_its_password() -> None:
    """The ValueError says what a proxy's URL looks like, and not what was given."""
    with pytest.raises(ValueError, match="proxy must be a URL") as caught:
        Client(KEY, proxy=f"ftp://user:{PASSWORD}@127.0.0.1")
    assert PASSWORD not in "".join(traceback.format_exception(type(caught.value), caught.value, None))


def test_a_proxy_of_the_environment_that_is_no_url_is_refused_without_its_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is found when a call is made, and the error says where to look, and not what was there."""
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:{PASSWORD}@127.0.0.1:99999")
    client = Client(KEY, base_url="https://192.0.2.1")
    with pytest.raises(ValueError, match="HTTPS_PROXY") as caught:
        client.complete("Hello")
    assert PASSWORD not in "".join(traceback.format_exception(type(caught.value), caught.value, None))
    assert caplog.records == []


# The key is not written down, and is a key --------------------------------------------------------------------


def test_a_pickled_client_has_no_key() -> None:
    """No protocol of pickle writes the key."""
    client = Client(KEY, model="m1")
    pickles = [pickle.dumps(client, protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)]
    assert all(b"m1" in data for data in pickles)
    assert not any(KEY.encode() in data for data in pickles)


def test_an_unpickled_client_reads_the_key_of_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends the key of the process that it has come to."""
    with LoopbackServer(["Hi"]) as server:
        data = pickle.dumps(Client(KEY, base_url=server.url))
        monkeypatch.setenv("CHATANYWHERE_API_KEY", "sk-of-the-other-process")
        assert pickle.loads(data).complete("Hello").text == "Hi"
        assert server.requests[0].headers["Authorization"] == "Bearer sk-of-the-other-process"


def test_an_unpickled_client_without_a_key_says_so_when_it_is_used() -> None:
    """It can be made where there is no key; a call then says which variable is missing, and sends nothing."""
    with LoopbackServer(["Hi"]) as server:
        client = pickle.loads(pickle.dumps(Client(KEY, base_url=server.url)))
        for call in (lambda: client.complete("Hello"), client.models):
            with pytest.raises(AuthenticationError, match="CHATANYWHERE_API_KEY") as caught:
                call()
            assert caught.value.attempts == 0
        assert server.connections == 0


ODD = ["\r\nX-Evil: 1", "\n", "\r", " ", "\0", "\t", "é", "中", "\x7f"]


@pytest.mark.parametrize(
    ("place", "odd"),
    [("argument", odd) for odd in ODD] + [("environment", odd) for odd in ODD if odd != "\0"],  # it can't hold one
    ids=ascii,
)
def test_what_is_no_key_is_refused_without_showing_it(monkeypatch: pytest.MonkeyPatch, place: str, odd: str) -> None:
    """A key with a character that would break the header is a ValueError that does not repeat it."""
    key = f"{KEY}{odd}{KEY}"
    if place == "environment":
        monkeypatch.setenv("CHATANYWHERE_API_KEY", key)
    with pytest.raises(ValueError, match="copy it anew") as caught:
        Client(key if place == "argument" else None)
    assert not any(KEY in text for text in reachable(caught.value))


def test_blanks_around_a_key_do_no_harm() -> None:
    """A line break that was copied with the key is left out."""
    with LoopbackServer(["Hi"]) as server:
        Client(f" {KEY}\n", base_url=server.url).complete("Hello")
        assert server.requests[0].headers["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "中"], ids=ascii)
def test_a_header_can_t_break_out(value: str) -> None:
    """A header of the client's or a call's that would become two, or can't be encoded, is a ValueError."""
    with LoopbackServer(["Hi"]) as server:
        with pytest.raises(ValueError, match="X-One"):
            Client(KEY, base_url=server.url, headers={"X-One": value})
        with pytest.raises(ValueError, match="X-One"):
            Client(KEY, base_url=server.url).complete("Hello", headers={"X-One": value})
        assert server.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1",
        "http://chat.example/v1",
        "http://localhost.example",
        "http://127.0.0.1.example",
        "http://[2001:db8::1]:80",
        ["https://api.chatanywhere.tech", "http://192.0.2.1"],
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_key_in_the_clear_is_warned_of(kind: Any, url: Any) -> None:
    """Over http:// to another machine anybody on the way reads the key; the warning points to the caller."""
    with pytest.warns(UserWarning, match="unencrypted") as caught:
        kind(KEY, base_url=url)
    assert [warning.filename for warning in caught] == [__file__]
    assert KEY not in str(caught[0].message)


@pytest.mark.parametrize(
    ("url", "protocol"),
    [
        ("http://127.0.0.1:8000", "openai"),
        ("http://127.8.8.8", "openai"),
        ("http://localhost:8000", "openai"),
        ("http://chat.localhost", "openai"),
        ("http://[::1]:8000", "openai"),
        ("https://192.0.2.1", "openai"),
        ("http://192.0.2.1", "web"),
    ],
)
def test_a_key_that_nobody_can_read_is_not_warned_of(url: str, protocol: Any) -> None:
    """On this machine, over TLS, or where no key is sent, there is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Client(KEY, base_url=url, protocol=protocol)


# Where a call goes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["HOME", "NETRC"])
@pytest.mark.parametrize(("protocol", "sent"), [("openai", f"Bearer {KEY}"), ("web", "")])
def test_netrc_does_not_replace_the_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, protocol: Any, sent: str
) -> None:
    """A password for the same host in ~/.netrc stays there."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine 127.0.0.1 login user password {PASSWORD}\ndefault login user password {PASSWORD}\n")
    netrc.chmod(0o600)
    monkeypatch.delenv("NETRC", raising=False)
    monkeypatch.setenv(place, str(tmp_path if place == "HOME" else netrc))
    with LoopbackServer(["Hi"]) as server:
        Client(KEY, base_url=server.url, protocol=protocol).complete("Hello")
        assert server.requests[0].headers["Authorization"] == sent


@pytest.fixture
def second_raw_server() -> Iterator[RawServer]:
    """Another server that sends exactly the bytes it is told to."""
    server = RawServer()
    yield server
    server.close()


@pytest.mark.parametrize(
    ("environment", "proxy", "taken"),
    [
        ({"http_proxy": "ENV"}, None, "environment's proxy"),
        ({"HTTP_PROXY": "ENV"}, None, "environment's proxy"),
        ({"all_proxy": "ENV"}, None, "environment's proxy"),
        ({"https_proxy": "ENV"}, None, "none"),
        ({"http_proxy": "ENV"}, "", "none"),
        ({"http_proxy": "ENV", "no_proxy": "127.0.0.1"}, None, "none"),
        ({"http_proxy": "ENV", "NO_PROXY": "example.com,127.0.0.0/8"}, None, "none"),
        ({"http_proxy": "ENV", "NO_PROXY": "*"}, None, "none"),
        ({"http_proxy": "ENV", "NO_PROXY": "example.com"}, None, "environment's proxy"),
        ({"http_proxy": "ENV"}, "ARG", "argument's proxy"),
        ({"http_proxy": "ENV", "no_proxy": "127.0.0.1"}, "ARG", "argument's proxy"),
        ({}, "ARG", "argument's proxy"),
        ({}, None, "none"),
    ],
    ids=str,
)
def test_an_argument_decides_on_the_proxy_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    raw_server: RawServer,
    second_raw_server: RawServer,
    environment: dict[str, str],
    proxy: str | None,
    taken: str,
) -> None:
    """`proxy=` is all that counts when it is given, and `""` is none; else the usual variables do."""
    raw_server.answer(says("environment's proxy"))
    second_raw_server.answer(says("argument's proxy"))
    for name, value in environment.items():
        monkeypatch.setenv(name, raw_server.url if value == "ENV" else value)
    with LoopbackServer(lambda _: ["none"]) as server:
        client = Client(KEY, base_url=server.url, proxy=second_raw_server.url if proxy == "ARG" else proxy)
        assert client.complete("Hello").text == taken


def test_no_cookie_is_kept(raw_server: RawServer) -> None:
    """What a server sets is not sent back with the next call."""
    raw_server.answer(says("Hi").replace(b"\r\n", b"\r\nSet-Cookie: session=1; Path=/\r\n", 1))
    client = Client(KEY, base_url=raw_server.url)
    with client.stream("Hello") as stream:
        list(stream)
        assert stream.headers["set-cookie"] == "session=1; Path=/"
    client.complete("Hello")
    assert len(raw_server.requests) == 2
    assert b"cookie" not in raw_server.requests[1].lower()


@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
def test_no_redirect_is_followed(raw_server: RawServer, status: int) -> None:
    """The error names the target; neither the request nor the key goes there."""
    with LoopbackServer(lambda _: "Hi") as elsewhere:
        target = f"{elsewhere.url}/v1/chat/completions"
        raw_server.answer(http_answer(f"{status} Moved", b"moved", f"Location: {target}"))
        with pytest.raises(APIStatusError) as caught:
            Client(KEY, base_url=raw_server.url).complete("Hello")
        assert elsewhere.connections == 0
    assert caught.value.status_code == status
    assert target in str(caught.value)
    assert caught.value.hint
    assert len(raw_server.requests) == 1


# Whom a call trusts -------------------------------------------------------------------------------------------


class Authority:
    """A certificate authority, the file of its certificate, and a server that it vouches for."""

    def __init__(self, file: Path) -> None:
        authority = trustme.CA()
        self.file = str(file)
        authority.cert_pem.write_to_path(self.file)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)


@pytest.fixture
def ours(tmp_path: Path) -> Authority:
    """The authority of the server's certificate."""
    return Authority(tmp_path / "ours.pem")


@pytest.fixture
def other(tmp_path: Path) -> Authority:
    """An authority that knows nothing of the server."""
    return Authority(tmp_path / "other.pem")


@pytest.mark.parametrize(
    ("variables", "verify", "trusted"),
    [
        ({}, True, False),
        ({}, "ours", True),
        ({}, "other", False),
        ({"REQUESTS_CA_BUNDLE": "ours"}, True, True),
        ({"CURL_CA_BUNDLE": "ours"}, True, True),
        ({"REQUESTS_CA_BUNDLE": "other", "CURL_CA_BUNDLE": "ours"}, True, False),
        ({"REQUESTS_CA_BUNDLE": "ours", "CURL_CA_BUNDLE": "other"}, True, True),
        ({"REQUESTS_CA_BUNDLE": "ours"}, "other", False),
        ({"REQUESTS_CA_BUNDLE": "other"}, "ours", True),
    ],
    ids=str,
)
def test_an_argument_decides_whom_to_trust_then_the_environment(
    monkeypatch: pytest.MonkeyPatch,
    ours: Authority,
    other: Authority,
    variables: dict[str, str],
    verify: Any,
    trusted: bool,
) -> None:
    """`verify=path` is all that counts; without it the usual variables; a stranger's certificate is refused."""
    files = {"ours": ours.file, "other": other.file}
    for name, value in variables.items():
        monkeypatch.setenv(name, files[value])
    with LoopbackServer(lambda _: "Hi", tls=ours.context) as server:
        client = Client(KEY, base_url=server.url, verify=files.get(verify, verify))
        if trusted:
            assert client.complete("Hello").text == "Hi"
        else:
            with pytest.raises(APIConnectionError, match=r"(?is)certificate.*verify='/path/to/ca.pem'") as caught:
                client.complete("Hello")
            assert server.requests == []
            assert caught.value.attempts == 1  # it would not be another one the next time


def test_tls_where_there_is_none_says_so() -> None:
    """The error for https:// to a server that speaks http:// names the remedy."""
    with LoopbackServer() as server:
        client = Client(KEY, base_url=server.url.replace("http:", "https:"), retry=None)
        with pytest.raises(APIConnectionError, match="use http://"):
            client.complete("Hello")


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    """An authority that is trusted does not make every name right."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("chat.example").configure_cert(context)
    with LoopbackServer(["Hi"], tls=context) as server:
        client = Client(KEY, base_url=server.url, verify=str(tmp_path / "ca.pem"), retry=None)
        with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
            client.complete("Hello")
        assert server.requests == []


@pytest.mark.parametrize("variable", [None, "REQUESTS_CA_BUNDLE"])
def test_verification_can_be_switched_off(
    monkeypatch: pytest.MonkeyPatch, ours: Authority, other: Authority, variable: str | None
) -> None:
    """`verify=False` takes any certificate, whatever the environment says, and urllib3 warns of it."""
    if variable:
        monkeypatch.setenv(variable, other.file)
    with LoopbackServer(["Hi"], tls=ours.context) as server:
        client = Client(KEY, base_url=server.url, verify=False)
        with pytest.warns(InsecureRequestWarning):
            assert client.complete("Hello").text == "Hi"


def test_a_path_that_is_none_is_refused_at_once() -> None:
    """A CA bundle that does not exist is a ValueError that names it."""
    with pytest.raises(ValueError, match=r"/no/such/ca\.pem"):
        Client(KEY, verify="/no/such/ca.pem")


@pytest.mark.parametrize("way", ["verify", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
@pytest.mark.parametrize("content", ["not a certificate", "", None], ids=["text", "empty", "missing"])
def test_a_file_without_certificates_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, way: str, content: str | None
) -> None:
    """A CA bundle that can't be read is a ValueError that names it, wherever it was set."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    if way != "verify":
        monkeypatch.setenv(way, str(file))
    with pytest.raises(ValueError, match=r"ca\.pem"):
        Client(KEY, base_url="https://127.0.0.1:9", verify=str(file) if way == "verify" else True).complete("Hello")


# How much a call takes ----------------------------------------------------------------------------------------


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    """How many bytes Python's memory has grown at its highest, since the test began."""
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()


def chunked(*chunks: bytes) -> bytes:
    """A text in chunks."""
    fields = ["Content-Type: text/plain", "Transfer-Encoding: chunked", "Connection: close"]
    framed = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode() + framed + b"0\r\n\r\n"


def compressed(text: bytes) -> bytes:
    return http_answer("200 OK", gzip.compress(text), "Content-Type: text/plain", "Content-Encoding: gzip")


FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "sized": lambda text: http_answer("200 OK", text, "Content-Type: text/plain"),
    "one chunk": chunked,
    "small chunks": lambda text: chunked(*(text[start : start + 10] for start in range(0, len(text), 10))),
    "until close": lambda text: b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + text,
    "gzip": compressed,
}


@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_answer_may_have_as_many_bytes_as_allowed(raw_server: RawServer, framing: str) -> None:
    """`max_response_bytes` bytes of content are an answer, one more is a ProtocolError with no more text than that."""
    client = Client(base_url=raw_server.url, protocol="web", max_response_bytes=1000)
    raw_server.answer(FRAMINGS[framing](b"x" * 1000))
    assert client.complete("Hello").text == "x" * 1000
    raw_server.answer(FRAMINGS[framing](b"x" * 1001))
    with pytest.raises(ProtocolError, match="max_response_bytes=1000") as caught:
        client.complete("Hello")
    assert len(caught.value.partial) <= 1000


@pytest.mark.parametrize(
    "fields",
    [b"".join(b"X-%d: 1\r\n" % number for number in range(200)), b"X: " + b"x" * 70_000 + b"\r\n", b"X" * 1_000_000],
    ids=["many", "long", "endless"],
)
def test_a_head_has_limits(raw_server: RawServer, fields: bytes) -> None:
    """More than 200 headers, or 64 KiB of them, are no answer."""
    raw_server.answer(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nHi")
    with pytest.raises(ProtocolError, match=r"200 headers|65536 bytes"):
        Client(base_url=raw_server.url, protocol="web").complete("Hello")


BOMBS = {
    "gzip bomb": Fault.gzip_bomb(200 * MIB),
    "gzip bomb behind text": Fault.gzip_bomb(200 * MIB, after=1),
    "huge line": Fault.huge_line(200 * MIB),
}


@pytest.mark.parametrize("bomb", BOMBS)
@pytest.mark.parametrize("protocol", ["web", "openai"])
def test_a_huge_answer_takes_little_memory(peak: Callable[[], int], bomb: str, protocol: Any) -> None:
    """200 MiB, compressed or not, are given up at `max_response_bytes`, and never stand in memory."""
    with LoopbackServer(lambda _: ["one ", "two"], faults=[BOMBS[bomb]]) as server:
        client = Client(KEY, base_url=server.url, protocol=protocol, max_response_bytes=MIB, retry=None)
        with pytest.raises(ProtocolError, match="max_response_bytes"):
            client.complete("Hello")
        assert peak() < 12 * MIB


def forever(start: bytes, block: bytes) -> list[Any]:
    """Steps of an answer that goes on until the client closes the connection."""

    def send(connection: socket.socket) -> None:
        while True:
            connection.sendall(block)

    return [start, send]


BLOCK = b"x" * 65536
GZIP_BLOCK = zlib.compressobj(wbits=31).compress(bytes(100 * MIB))  # the end is left out

ENDLESS = {
    "until close": ("Connection: close", BLOCK),
    "chunked": ("Transfer-Encoding: chunked", b"10000\r\n" + BLOCK + b"\r\n"),
    "sized": ("Content-Length: 999999999999", BLOCK),
}


@pytest.mark.parametrize("framing", ENDLESS)
def test_an_error_s_body_is_not_read_to_its_end(raw_server: RawServer, peak: Callable[[], int], framing: str) -> None:
    """Of an error that never ends, 64 KiB are read and kept."""
    field, block = ENDLESS[framing]
    raw_server.answer(*forever(f"HTTP/1.1 500 Oops\r\nContent-Type: text/plain\r\n{field}\r\n\r\n".encode(), block))
    with pytest.raises(InternalServerError) as caught:
        Client(KEY, base_url=raw_server.url, retry=None, timeout=20).complete("Hello")
    assert caught.value.body == "x" * 65536
    assert len(caught.value.message) <= 500
    assert peak() < 4 * MIB


def test_an_error_s_body_may_be_a_bomb(raw_server: RawServer, peak: Callable[[], int]) -> None:
    """64 KiB are what is kept of it after decompression."""
    answer = http_answer("500 Oops", GZIP_BLOCK, "Content-Type: text/plain", "Content-Encoding: gzip")
    raw_server.answer(answer)
    with pytest.raises(InternalServerError) as caught:
        Client(KEY, base_url=raw_server.url, retry=None).complete("Hello")
    assert caught.value.body == "\0" * 65536
    assert peak() < 4 * MIB


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_an_error_s_short_body_is_whole(status: int) -> None:
    """Exactly 64 KiB of text are kept to the last byte."""
    body = "x" * 65535 + "y"
    fault = Fault.status(status, body=body, content_type="text/plain")
    with LoopbackServer(faults=[fault]) as server, pytest.raises(APIStatusError) as caught:
        Client(KEY, base_url=server.url, retry=None).complete("Hello")
    assert caught.value.body == body


@pytest.mark.parametrize("framing", ["Content-Length: 2000\r\n", ""], ids=["sized", "until close"])
def test_a_status_says_more_than_the_size_of_its_body(raw_server: RawServer, framing: str) -> None:
    """An error with a body above `max_response_bytes` is told, and tried again, by its status."""
    raw_server.answer(f"HTTP/1.1 503 Busy\r\n{framing}Connection: close\r\n\r\n".encode() + b"x" * 2000)
    client = Client(KEY, base_url=raw_server.url, retry=Retry(2, 0), max_response_bytes=1000)
    with pytest.raises(InternalServerError) as caught:
        client.complete("Hello")
    assert caught.value.attempts == 2
