"""What the environment says about connections, and the errors when it says nonsense or has nothing left."""

from __future__ import annotations

import gc
import os
import resource
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from faces import Face, run
from raw_server import RawServer

from chatanywhere import APIConnectionError, Client
from chatanywhere._http.environment import environment_proxy
from chatanywhere.testing import LoopbackServer

NOWHERE = "https://127.0.0.1:9"
PASSWORD = "€-horse"


def everything(exc: BaseException | None) -> str:
    """All that an error shows, its causes and contexts included."""
    return f"{exc} {exc!r} {everything(exc.__cause__)} {everything(exc.__context__)}" if exc else ""


# Whom to bypass the proxy for ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("127.0.0.1:80", "http://127.0.0.1"),
        ("other,127.0.0.1:8080,another", "http://127.0.0.1:8080/v1/chat"),
        ("127.0.0.1:1, 127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("10.0.0.0/8:443", "https://10.1.2.3"),
        ("example.org:443", "https://example.org"),
        ("example.org:443", "https://api.example.org"),
        (".Example.org:443", "https://API.example.org:443"),
        ("example.org:80", "http://example.org"),
        ("[::1]:8080", "http://[::1]:8080"),
        ("[::1]", "http://[::1]:8080"),
        ("::1", "http://[::1]:8080"),
        ("fd00::/8", "https://[fd12::1]"),
        ("[fd00::/8]:443", "https://[fd12::1]"),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_an_entry_may_have_a_port(monkeypatch: pytest.MonkeyPatch, variable: str, entries: str, url: str) -> None:
    """A host, an address or a network, with the URL's port or none, goes without the proxy."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    assert environment_proxy(url) == "http://proxy:1"
    monkeypatch.setenv(variable, entries)
    assert environment_proxy(url) is None


@pytest.mark.parametrize(
    ("entries", "url"),
    [
        ("127.0.0.1:8080", "http://127.0.0.1:8081"),
        ("127.0.0.1:8080", "http://127.0.0.1"),
        ("10.0.0.0/8:443", "http://10.1.2.3"),
        ("example.org:443", "http://example.org"),
        ("example.org:443", "https://example.org:8443"),
        ("example.org:443", "https://an-example.org"),
        ("[::1]:8080", "http://[::1]:80"),
        ("[::1]:8080", "http://[::2]:8080"),
        ("fd00::/8", "https://10.1.2.3"),
        (",:443, ,:,.:443,[]:443,[", "https://example.org"),
        ("example.org:" + "4" * 5000, "https://example.org"),
        ("example.org:https", "https://example.org"),
    ],
)
def test_other_ports_and_hosts_go_through_the_proxy(monkeypatch: pytest.MonkeyPatch, entries: str, url: str) -> None:
    """An entry means the host and port that it names, and no others."""
    monkeypatch.setenv("ALL_PROXY", "http://proxy:1")
    monkeypatch.setenv("NO_PROXY", entries)
    assert environment_proxy(url) == "http://proxy:1"


def test_a_call_obeys_the_ports(monkeypatch: pytest.MonkeyPatch, raw_server: RawServer) -> None:
    """Of two servers on one address, the one that NO_PROXY names is asked directly, the other through the proxy."""
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nproxy")
    monkeypatch.setenv("HTTP_PROXY", raw_server.url)
    with LoopbackServer(lambda _: "direct") as server, LoopbackServer() as other:
        monkeypatch.setenv("NO_PROXY", server.url.removeprefix("http://"))
        with Client("k", base_url=[server.url], protocol="web") as client:
            assert client.complete("Hello").text == "direct"
        with Client("k", base_url=[other.url], protocol="web") as client:
            assert client.complete("Hello").text == "proxy"


# Passwords of proxies ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    "login",
    [f"user:{PASSWORD}", f"{PASSWORD}:staple", PASSWORD, "user:%E2%82%AC-horse", "user:%A4-horse", "user:\udce2-horse"],
)
@pytest.mark.parametrize("way", ["argument", "HTTPS_PROXY", "ALL_PROXY"])
def test_a_proxy_password_is_latin_1(monkeypatch: pytest.MonkeyPatch, way: str, scheme: str, login: str) -> None:
    """Any other is a ValueError that says so, and does not show it."""
    proxy = f"{scheme}://{login}@127.0.0.1:1"
    if way != "argument":
        monkeypatch.setenv(way, proxy)
    with pytest.raises(ValueError, match="not Latin-1") as caught:
        Client("k", base_url=NOWHERE, proxy=proxy if way == "argument" else None).complete("Hello")
    assert not isinstance(caught.value, UnicodeError)
    assert ("environment" in str(caught.value)) is (way != "argument")
    assert "horse" not in everything(caught.value)


@pytest.mark.parametrize("password", ["pässword", "p%C3%A4ssword"])
def test_a_latin_1_password_is_sent(raw_server: RawServer, password: str) -> None:
    """Whether it is written as it is or with percent signs, the proxy gets it in Latin-1."""
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nHi")
    proxy = raw_server.url.replace("://", f"://user:{password}@")
    with Client("k", base_url="http://192.0.2.1", protocol="web", proxy=proxy) as client:
        assert client.complete("Hello").text == "Hi"
    assert b"Proxy-Authorization: Basic dXNlcjpw5HNzd29yZA==" in raw_server.requests[0]


# Authorities ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def paths(ca_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files and folders of the server's authority and of another one, and of none."""
    folder = tmp_path_factory.mktemp("authorities")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    hashed, empty = folder / "hashed", folder / "empty"
    hashed.mkdir()
    empty.mkdir()
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(ca_file)]
    name = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    (hashed / f"{name}.0").write_bytes(ca_file.read_bytes())
    return {
        "ours": str(ca_file),
        "other": str(folder / "other.pem"),
        "folder": str(hashed),
        "empty folder": str(empty),
        "folders": f"{folder / 'nothing'}{os.pathsep}{empty}{os.pathsep}{hashed}",
        "nothing": str(folder / "nothing"),
    }


@pytest.mark.parametrize(
    ("variables", "trusted"),
    [
        ({"SSL_CERT_FILE": "ours"}, True),
        ({"SSL_CERT_FILE": "other"}, False),
        ({"SSL_CERT_DIR": "folder"}, True),
        ({"SSL_CERT_DIR": "folders"}, True),
        ({"SSL_CERT_DIR": "empty folder"}, False),
        ({"SSL_CERT_FILE": "other", "SSL_CERT_DIR": "folder"}, True),
        ({"SSL_CERT_FILE": "ours", "SSL_CERT_DIR": "empty folder"}, True),
        ({"REQUESTS_CA_BUNDLE": "ours", "SSL_CERT_FILE": "nothing"}, True),
        ({"REQUESTS_CA_BUNDLE": "folder", "SSL_CERT_FILE": "nothing"}, True),
        ({"CURL_CA_BUNDLE": "ours", "SSL_CERT_FILE": "other"}, True),
        ({"CURL_CA_BUNDLE": "other", "SSL_CERT_FILE": "ours"}, False),
        ({"REQUESTS_CA_BUNDLE": "other", "SSL_CERT_DIR": "folder"}, False),
        ({"REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", "SSL_CERT_FILE": "ours", "SSL_CERT_DIR": ""}, True),
    ],
    ids=str,
)
def test_openssl_s_variables_come_after_those_of_requests(
    monkeypatch: pytest.MonkeyPatch,
    paths: dict[str, str],
    tls_context: ssl.SSLContext,
    variables: dict[str, str],
    trusted: bool,
) -> None:
    """SSL_CERT_FILE and SSL_CERT_DIR, both together, say whom to trust if the variables of requests do not."""
    for name, value in variables.items():
        monkeypatch.setenv(name, paths.get(value, value))
    with LoopbackServer(["Hi"], tls=tls_context) as server, Client("k", base_url=server.url, retry=None) as client:
        if trusted:
            assert client.complete("Hello").text == "Hi"
        else:
            with pytest.raises(APIConnectionError, match=r"(?i)certificate"):
                client.complete("Hello")


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_authorities_that_are_not_there_are_named(
    monkeypatch: pytest.MonkeyPatch, face: Face, paths: dict[str, str], variable: str
) -> None:
    """A path that leads nowhere is a ValueError with the path and the variable."""
    monkeypatch.setenv(variable, paths["nothing"])
    with pytest.raises(ValueError, match=rf"nothing.*{variable}"):
        face.ask(Client("k", base_url=NOWHERE, retry=None))


# The key log ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["no/such/folder/keys", "folder", "file/keys", "x" * 300])
@pytest.mark.parametrize("way", ["server", "proxy"])
def test_a_key_log_that_cannot_be_written_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, face: Face, place: str, way: str
) -> None:
    """It is a ValueError that names SSLKEYLOGFILE, not the CA bundle."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / place))
    url, proxy = (NOWHERE, None) if way == "server" else ("http://127.0.0.1:9", NOWHERE)
    with pytest.raises(ValueError, match="SSLKEYLOGFILE can't be written") as caught:
        face.ask(Client("k", base_url=url, proxy=proxy, retry=None))
    assert "CA" not in str(caught.value)


def test_a_key_log_is_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ca_file: Path, tls_context: ssl.SSLContext
) -> None:
    """Where it can be, TLS's keys go there."""
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    with (
        LoopbackServer(["Hi"], tls=tls_context) as server,
        Client("k", base_url=server.url, verify=str(ca_file)) as client,
    ):
        assert client.complete("Hello").text == "Hi"
    assert "CLIENT_" in (tmp_path / "keys").read_text()


# Nothing left --------------------------------------------------------------------------------------------------


@contextmanager
def no_descriptors() -> Iterator[None]:
    """No file or socket can be opened in here."""
    gc.collect()  # what it closes in here could be opened again
    gc.disable()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    opened: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 256), hard))
        try:
            while True:
                opened.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            yield
    finally:
        gc.enable()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in opened:
            os.close(descriptor)


PLACES: dict[str, dict[str, Any]] = {
    "socket": {"base_url": "http://127.0.0.1:9"},
    "CA bundle": {"base_url": NOWHERE},
    "name": {"base_url": "http://localhost:9"},
    "socket of the proxy": {"base_url": "http://192.0.2.1", "proxy": "http://127.0.0.1:9"},
    "socket of SOCKS": {"base_url": "http://192.0.2.1", "proxy": "socks5://127.0.0.1:9"},
    "key log": {"base_url": NOWHERE},
}


@pytest.mark.parametrize("place", PLACES)
def test_out_of_descriptors_is_an_error_that_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, face: Face, place: str
) -> None:
    """It is an APIConnectionError with the system's words, wherever it strikes; the next call is not spoilt."""
    if place == "key log":
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    client = Client(protocol="web", retry=None, timeout=10, **PLACES[place])

    def ask() -> None:
        with no_descriptors(), pytest.raises(APIConnectionError, match="Too many open files"):
            client.complete("Hello")

    async def ask_async() -> None:
        with no_descriptors(), pytest.raises(APIConnectionError, match="Too many open files"):
            await client.as_async().complete("Hello")

    # Imports open files, too.
    face.ask(Client(protocol="web", base_url=NOWHERE, proxy="socks5://127.0.0.1:9", retry=None))
    if face.name == "sync":
        ask()
    else:
        run(face.name, ask_async)
    again = face.ask(client)
    assert type(again.error) is APIConnectionError
    assert "Too many open files" not in str(again.error)
