"""Any endpoint by its path: what is sent, what comes back, and that all promises of a call hold for it."""

from __future__ import annotations

import email.policy
import io
import json
import logging
import pickle
import time
from collections.abc import Callable
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import pytest
from faces import Face
from leaks import leaks, shown
from raw_server import RawServer, json_answer

from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    BadRequestError,
    Client,
    InternalServerError,
    NotFoundError,
    ProtocolError,
    RawResponse,
    Retry,
    Timeout,
)

KEY = "sk-0123456789abcdef"
MIB = 1024 * 1024


def client_of(server: RawServer, **settings: Any) -> Client:
    return Client(KEY, base_url=server.url, **{"retry": None, **settings})


@pytest.fixture
def server(raw_server: RawServer) -> RawServer:
    """A server that has one answer to all requests."""
    raw_server.answer(json_answer({"ok": True}), None)
    return raw_server


def only(server: RawServer) -> tuple[str, EmailMessage, bytes]:
    """The request line, the headers and the body of the one request that a server got."""
    (request,) = server.requests
    line, _, rest = request.partition(b"\r\n")
    head, _, body = rest.partition(b"\r\n\r\n")
    message = BytesParser(policy=email.policy.HTTP).parsebytes(head + b"\r\n\r\n")
    assert isinstance(message, EmailMessage)
    return line.decode(), message, body


# What is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE", "post"])
@pytest.mark.parametrize("path", ["/images/generations", "images/generations"])
def test_a_request_goes_to_a_path_below_the_base_url(server: RawServer, face: Face, method: str, path: str) -> None:
    """With the key and, if there is one, a JSON body."""
    body = {"prompt": "天", "n": 2}
    assert face.call(client_of(server), "request", method, path, body) == {"ok": True}
    line, headers, content = only(server)
    assert line == f"{method.upper()} /v1/images/generations HTTP/1.1"
    assert (headers["Authorization"], headers["Content-Type"]) == (f"Bearer {KEY}", "application/json")
    assert json.loads(content) == body


@pytest.mark.parametrize("path", ["/v1/files", "v1/files"])
def test_v1_is_not_sent_twice(server: RawServer, face: Face, path: str) -> None:
    """A path with the `/v1` of the base URL is told, with the one that is meant; any other base URL may have it."""
    for base_url in (server.url, f"{server.url}/v1/", f"{server.url}/v1?api-version=1", f"{server.url}/api/v1"):
        with pytest.raises(ValueError, match=r"ends in /v1 already.*Give '/files'"):
            face.call(Client(KEY, base_url=base_url), "request", "GET", path)
    assert server.requests == []
    face.call(Client(KEY, base_url=f"{server.url}/api"), "request", "GET", path)
    assert only(server)[0] == "GET /api/v1/files HTTP/1.1"


@pytest.mark.parametrize("body", [{}, {"a": None}, [], [1, "a"], {"deep": [{"er": 1.5}]}], ids=repr)
def test_json_is_sent_as_it_is(server: RawServer, body: Any) -> None:
    """Nothing is added, and nothing left out."""
    client_of(server).request("POST", "/x", body)
    assert json.loads(only(server)[2]) == body


def test_without_json_there_is_no_body(server: RawServer, face: Face) -> None:
    """Nor a Content-Type."""
    face.call(client_of(server), "request", "GET", "/files")
    _, headers, content = only(server)
    assert (headers["Content-Type"], headers["Content-Length"], content) == (None, None, b"")


def test_a_query_and_headers_are_sent(server: RawServer, face: Face) -> None:
    """The query is written as in chats, and stands beside that of the base URL; headers replace the client's own."""
    client = Client(KEY, base_url=f"{server.url}/v1?api-version=1&a=1", headers={"X-Client": "1"})
    query = {"a": 2, "limit": 5, "after": None, "include": ["x", "y z"]}
    face.call(client, "request", "GET", "/files", query=query, headers={"accept": "text/plain", "X-Call": "1"})
    line, headers, _ = only(server)
    assert line == "GET /v1/files?api-version=1&a=2&limit=5&include%5B%5D=x&include%5B%5D=y+z HTTP/1.1"
    assert (headers["X-Client"], headers["X-Call"], headers["Accept"]) == ("1", "1", "text/plain")


ELSEWHERE = [
    "https://elsewhere.example/files",
    "HTTP://elsewhere.example/files",
    "//elsewhere.example/files",
    "https:///files",
    "/files/https://elsewhere.example",
]
NO_PATHS = [
    "",
    "/",
    "/files?limit=5",
    "/files#top",
    "/../files",
    "..",
    "/files/../../admin",
    "/files/./x",
    "/files/%2e%2E/x",
    "/files/..%2fx",
    "/files\\..\\x",
    "/files/a\nb",
    "/files/a\r\nX-Mine: 1",
    "/files/\0",
]


@pytest.mark.parametrize("path", [*ELSEWHERE, *NO_PATHS])
@pytest.mark.parametrize("raw", [False, True])
def test_the_key_goes_nowhere_else(server: RawServer, face: Face, path: str, raw: bool) -> None:
    """What is no path below the base URL is a ValueError, and nothing has been sent."""
    with pytest.raises(ValueError, match="path=") as caught:
        face.call(client_of(server), "request", "GET", path, raw=raw)
    assert ("the key would go elsewhere" in str(caught.value)) is (path in ELSEWHERE)
    assert server.requests == []


@pytest.mark.parametrize(
    ("arguments", "options", "error", "words"),
    [
        (("HEAD", "/x"), {}, ValueError, "method='HEAD'"),
        (("GET /x HTTP/1.1\r\n", "/x"), {}, ValueError, "method="),
        ((None, "/x"), {}, ValueError, "method=None"),
        (("GET", None), {}, TypeError, "path must be a str"),
        (("GET", b"/x"), {}, TypeError, "path must be a str"),
        (("POST", "/x", '{"a": 1}'), {}, TypeError, "json must be a dict or a list.*not str"),
        (("POST", "/x", b"{}"), {}, TypeError, "json must be"),
        (("POST", "/x", {"a": {1}}), {}, TypeError, "^a can't be sent as JSON"),
        (("POST", "/x", {"a": float("nan")}), {}, ValueError, "^a can't be sent as JSON"),
        (("POST", "/x"), {"query": [("a", 1)]}, TypeError, "query must be a dict"),
        (("POST", "/x"), {"query": {"a": "\ud83d"}}, ValueError, "query has half a character"),
        (("POST", "/x"), {"files": ["a"]}, TypeError, "files must be a dict"),
        (("POST", "/x"), {"raw": 1}, TypeError, "raw must be True or False"),
        (("POST", "/x"), {"headers": 5}, TypeError, "headers must be a dict"),
        (("POST", "/x", [1]), {"files": {}}, TypeError, "json must be a dict where there are files"),
        (("POST", "/x", {"mask": io.BytesIO(b"a")}), {"files": {}}, TypeError, "mask must be text.*sent by files="),
        (("POST", "/x", {"a": [{"b": b"c"}]}), {"files": {}}, TypeError, r"^a\[\]\[b\] must be text.*not bytes"),
        (("POST", "/x"), {"query": {"a": bytearray()}}, TypeError, "^a must be text.*not bytearray"),
        (
            ("POST", "/x"),
            {"files": {"file": 5}},
            TypeError,
            r"files\['file'\]: give a path, bytes, \(name, bytes\).*not int",
        ),
        (("POST", "/x"), {"files": {"file": ("a", "text")}}, TypeError, r"files\['file'\].*not str"),
        (("POST", "/x"), {"files": {"file": ("a",)}}, TypeError, r"files\['file'\]"),
        (("POST", "/x"), {"files": {"file": (b"a", b"")}}, TypeError, "name and the media type must be str"),
        (("POST", "/x"), {"files": {"file": ("a", b"", 5)}}, TypeError, "name and the media type must be str"),
        (("POST", "/x"), {"files": {"file": ("a", b"", "a/b\r\nX: 1")}}, ValueError, "not a media type"),
        (("POST", "/x"), {"files": {"file": io.StringIO("text")}}, TypeError, r"files\['file'\].*not str"),
        (("POST", "/x"), {"files": {"file": "no such file"}}, FileNotFoundError, "no such file"),
    ],
)
def test_what_can_t_be_sent_is_told(
    server: RawServer, face: Face, arguments: Any, options: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Before anything is sent, and with the name of what is wrong."""
    with pytest.raises(error, match=words):
        face.call(client_of(server), "request", *arguments, **options)
    assert server.requests == []


def test_the_page_can_t_be_asked() -> None:
    """The web protocol has nothing but chats."""
    with pytest.raises(RuntimeError, match="has no /files: use protocol='openai'"):
        Client(protocol="web").request("GET", "/files")


# Files --------------------------------------------------------------------------------------------------------

CONTENT = b"ID3\x00\r\n--not a boundary\r\n\xff"


def path_of(folder: Path) -> Path:
    path = folder / "Speech 天.mp3"
    path.write_bytes(CONTENT)
    return path


class Named(io.BytesIO):
    name = "/some/where/talk.mp3"


class Numbered(io.BytesIO):
    name = 5  # as of a file that was opened by its descriptor


UPLOADS: dict[str, tuple[Callable[[Path], Any], str, str]] = {
    "path": (path_of, "Speech 天.mp3", "audio/mpeg"),
    "name of a path": (lambda folder: str(path_of(folder)), "Speech 天.mp3", "audio/mpeg"),
    "bytes": (lambda _: CONTENT, "file", "application/octet-stream"),
    "named bytes": (lambda _: ("a.wav", CONTENT), "a.wav", "audio/"),
    "bytes of a kind": (lambda _: ("a.wav", CONTENT, "text/x-mine"), "a.wav", "text/x-mine"),
    "bytearray": (lambda _: ("a", bytearray(CONTENT)), "a", "application/octet-stream"),
    "memoryview": (lambda _: ("a", memoryview(CONTENT)), "a", "application/octet-stream"),
    "file in memory": (lambda _: io.BytesIO(CONTENT), "file", "application/octet-stream"),
    "named file": (lambda _: Named(CONTENT), "talk.mp3", "audio/mpeg"),
    "numbered file": (lambda _: Numbered(CONTENT), "file", "application/octet-stream"),
    "file with a name": (lambda _: ("b.mp3", io.BytesIO(CONTENT)), "b.mp3", "audio/mpeg"),
    "file with a name and a kind": (lambda _: ("b", io.BytesIO(CONTENT), "audio/ogg"), "b", "audio/ogg"),
    "a bad name": (lambda _: ('a"b\r\nX: 1', CONTENT), "a%22b%0D%0AX: 1", "application/octet-stream"),
}
"""What a file may be given as, and the name and the beginning of the media type that it is sent with."""


def parts_of(server: RawServer) -> list[tuple[Any, Any, str, bytes]]:
    """The parts of the form that was sent: field, name, media type, content."""
    _, headers, body = only(server)
    whole = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode() + body
    message = BytesParser(policy=email.policy.HTTP).parsebytes(whole)
    assert message.get_content_type() == "multipart/form-data"
    found = []
    for part in message.iter_parts():  # type: ignore[attr-defined]
        header = part.get_param
        names = [header(name, header="content-disposition") for name in ("name", "filename")]
        found.append((*names, part.get_content_type(), part.get_payload(decode=True)))
    return found


@pytest.mark.parametrize(("upload", "name", "media_type"), UPLOADS.values(), ids=UPLOADS)
def test_a_file_is_sent_in_a_form(
    server: RawServer, face: Face, tmp_path: Path, upload: Callable[[Path], Any], name: str, media_type: str
) -> None:
    """With its name, a media type and the very bytes; the fields of the JSON are fields of the form."""
    fields = {"model": "whisper-1", "temperature": 0.5, "stream": False, "words": ["a", "b"], "prompt": None}
    arguments = ("POST", "/audio/transcriptions", fields)
    assert face.call(client_of(server), "request", *arguments, files={"file": upload(tmp_path)}) == {"ok": True}
    *sent, file = parts_of(server)
    assert [(field, content.decode()) for field, _, _, content in sent] == [
        ("model", "whisper-1"),
        ("temperature", "0.5"),
        ("stream", "false"),
        ("words[]", "a"),
        ("words[]", "b"),
    ]
    assert (file[0], file[3]) == ("file", CONTENT)
    assert str(file[1]).encode("utf-8", "surrogateescape").decode() == name
    assert file[2].startswith(media_type)


def test_a_form_keeps_its_boundary(server: RawServer, face: Face) -> None:
    """A Content-Type of the caller's, which can't have it, is not sent with a form."""
    client = client_of(server, headers={"content-type": "application/json", "X-Client": "1"})
    headers = {"CONTENT-TYPE": "multipart/form-data", "X-Mine": "1"}
    face.call(client, "request", "POST", "/files", files={"file": b"a"}, headers=headers)
    _, sent, content = only(server)
    (media_type,) = sent.get_all("Content-Type")
    assert media_type.startswith("multipart/form-data; boundary=")
    boundary = media_type.partition("boundary=")[2].strip('"')
    assert content.startswith(f"--{boundary}\r\n".encode())
    assert (sent["X-Client"], sent["X-Mine"]) == ("1", "1")


def test_several_files_may_have_one_field(server: RawServer) -> None:
    """In the order in which they are given."""
    files = {"image[]": [("a.png", b"1"), ("b.png", b"2")], "mask": ("m.png", b"3")}
    client_of(server).request("POST", "/images/edits", files=files)
    assert [(field, name, content) for field, name, _, content in parts_of(server)] == [
        ("image[]", "a.png", b"1"),
        ("image[]", "b.png", b"2"),
        ("mask", "m.png", b"3"),
    ]


def test_a_form_is_sent_again_whole(raw_server: RawServer, face: Face) -> None:
    """A file is read once, and every attempt has all of it."""
    raw_server.answer(json_answer({}, "503 Busy"), None)
    with pytest.raises(InternalServerError):
        face.call(
            client_of(raw_server, retry=Retry(3, 0)), "request", "POST", "/files", files={"file": io.BytesIO(CONTENT)}
        )
    first, *others = raw_server.requests
    assert CONTENT in first
    assert others == [first] * 2


# What comes back ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [{}, [], {"a": [1, None]}, "text", 5, 1.5, True, False, None, [None]], ids=repr)
def test_json_of_any_kind_comes_back(raw_server: RawServer, face: Face, value: Any) -> None:
    """What stands in the answer, even where other endpoints would take it for an error."""
    raw_server.answer(json_answer(value))
    assert face.call(client_of(raw_server), "request", "GET", "/x") == value


@pytest.mark.parametrize(
    "value", [{"error": None}, {"error": {"message": "no"}}, {"message": "deleted"}, {"code": 5}], ids=repr
)
def test_the_fields_of_a_good_answer_are_the_caller_s(raw_server: RawServer, value: Any) -> None:
    """A status that says that all is fine is believed."""
    raw_server.answer(json_answer(value))
    assert client_of(raw_server).request("GET", "/x") == value


EMPTY = {
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "length 0": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "no chunks": b"HTTP/1.1 202 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "blanks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n \r\n",
}


@pytest.mark.parametrize("answer", EMPTY.values(), ids=EMPTY)
def test_an_answer_without_content_is_none(raw_server: RawServer, face: Face, answer: bytes) -> None:
    """There is no JSON in it; as it is, it is empty bytes."""
    raw_server.answer(answer)
    assert face.call(client_of(raw_server), "request", "DELETE", "/files/1") is None
    found = face.call(client_of(raw_server), "request", "DELETE", "/files/1", raw=True)
    assert found.content.strip() == b""


def test_a_raw_answer_is_as_it_came(raw_server: RawServer, face: Face) -> None:
    """Speech: its bytes, its headers and its status."""
    content = bytes(range(256)) * 1000
    head = b"HTTP/1.1 201 Made\r\nContent-Type: audio/mpeg\r\nX-Mine: 1\r\nContent-Length: %d\r\n\r\n"
    raw_server.answer(head % len(content) + content)
    speech = face.call(client_of(raw_server), "request", "POST", "/audio/speech", {"input": "Hi"}, raw=True)
    assert isinstance(speech, RawResponse)
    assert (speech.content, speech.status_code) == (content, 201)
    assert (speech.headers["content-type"], speech.headers["x-mine"]) == ("audio/mpeg", "1")
    assert only(raw_server)[1]["Accept"] == "*/*"
    assert "content=" not in repr(speech)
    assert pickle.loads(pickle.dumps(speech)).content == content


@pytest.mark.parametrize("content", [b"<html>", b"{", b"\xff{}", b"[1,]", b"[" * 100_000], ids=lambda each: each[:9])
def test_what_is_no_json_is_told(raw_server: RawServer, face: Face, content: bytes) -> None:
    """The error says how to get it as it is."""
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(content), content))
    with pytest.raises(ProtocolError, match=r"not JSON \(raw=True|HTML page"):
        face.call(client_of(raw_server), "request", "GET", "/x")


def test_large_answers_are_read(raw_server: RawServer, face: Face) -> None:
    """Pictures come as long strings: more than a chat may have, up to `max_response_bytes`."""
    value = {"data": [{"b64_json": "A" * 20 * MIB}]}
    raw_server.answer(json_answer(value), None)
    client = client_of(raw_server)
    assert face.call(client, "request", "POST", "/images/generations", {}) == value
    for raw in (False, True):
        small = client_of(raw_server, max_response_bytes=10 * MIB)
        with pytest.raises(ProtocolError, match=f"max_response_bytes={10 * MIB}"):
            face.call(small, "request", "POST", "/images/generations", {}, raw=raw)
    assert client_of(raw_server, max_response_bytes=None).request("POST", "/images/generations", {}) == value


# The promises of all calls ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, BadRequestError), (404, NotFoundError), (418, APIStatusError), (500, InternalServerError)],
)
@pytest.mark.parametrize("raw", [False, True])
def test_an_error_is_one_of_the_tree(
    raw_server: RawServer, face: Face, status: int, kind: type[APIStatusError], raw: bool
) -> None:
    """With the words of the service, whatever was to come back."""
    raw_server.answer(json_answer({"error": {"message": "not so"}}, f"{status} No"))
    with pytest.raises(kind, match="not so") as caught:
        face.call(client_of(raw_server), "request", "POST", "/x", {}, raw=raw)
    assert type(caught.value) is kind
    assert caught.value.status_code == status


def test_a_request_is_repeated(raw_server: RawServer, face: Face) -> None:
    """What passes is tried again, as often as `retry` says."""
    answers = [json_answer({}, "503 Busy"), json_answer({}, "500 No"), json_answer({"ok": 1})]
    raw_server.steps = lambda _: [answers[len(raw_server.requests) - 1], None]
    assert face.call(client_of(raw_server), "request", "POST", "/x", {}, retry=Retry(3, 0)) == {"ok": 1}


def test_total_bounds_a_request_and_silence_does_not(raw_server: RawServer, face: Face) -> None:
    """A service that paints is silent; one that was awaited in vain is not asked again."""
    client = client_of(raw_server, timeout=Timeout(total=10, read=0.1), retry=Retry(3, 0))
    raw_server.answer(lambda _: time.sleep(0.3), json_answer({"ok": 1}), None)
    assert face.call(client, "request", "POST", "/images/generations", {}) == {"ok": 1}
    raw_server.requests.clear()
    raw_server.answer(raw_server.hold)
    with pytest.raises(APITimeoutError) as caught:
        face.call(client, "request", "POST", "/images/generations", {}, timeout=0.3)
    assert (caught.value.phase, len(raw_server.requests)) == ("total", 1)
    raw_server.answer(json_answer({}, "504 No"))
    with pytest.raises(InternalServerError):
        face.call(client, "request", "POST", "/images/generations", {})
    assert len(raw_server.requests) == 2


@pytest.mark.parametrize("raw", [False, True])
def test_the_key_is_not_shown(raw_server: RawServer, caplog: pytest.LogCaptureFixture, raw: bool) -> None:
    """Wherever the server repeats it."""
    caplog.set_level(logging.DEBUG)
    for answer in (json_answer({"error": {"message": KEY, "code": KEY}}, f"401 {KEY}"), KEY.encode() + b"\r\n\r\n"):
        client = client_of(raw_server)
        raw_server.answer(answer)
        with pytest.raises((APIStatusError, ProtocolError)) as caught:
            client.request("POST", "/x", {}, raw=raw)
        assert leaks(shown(caught.value, client, caplog), KEY) == []


def test_the_headers_of_an_answer_show_no_key(raw_server: RawServer, face: Face) -> None:
    """Nor any other secret of the request; all else in them is as it came."""
    head = f"HTTP/1.1 200 OK\r\nX-Key: {KEY}\r\nX-Asked: Bearer {KEY}\r\nX-{KEY}: 1\r\nX-Cookie: id=hush-hush\r\n"
    raw_server.answer(f"{head}X-Mine: 1\r\nContent-Length: 0\r\n\r\n".encode())
    cookie = {"Cookie": "id=hush-hush"}
    answer = face.call(client_of(raw_server), "request", "GET", "/files/1/content", raw=True, headers=cookie)
    assert answer.headers["x-mine"] == "1"
    assert [secret for secret in (KEY, "hush-hush") if secret in f"{answer!r} {dict(answer.headers)}"] == []


@pytest.mark.parametrize("number", [3, 2500])
def test_one_connection_serves_many_paths(server: RawServer, number: int) -> None:
    """Each file has a path of its own, and none needs a connection of its own."""
    client = client_of(server)
    for index in range(number):
        client.request("GET", f"/files/file-{index}", query={"part": index})
    assert (len(server.requests), server.connections) == (number, 1)


def test_one_connection_serves_many_paths_async(server: RawServer) -> None:
    """On an event loop, too."""
    import anyio

    async def main() -> None:
        async with client_of(server).as_async() as client:
            for index in range(5):
                await client.request("GET", f"/files/file-{index}")

    anyio.run(main)
    assert server.connections == 1
