"""Keys and passwords: wherever a server or a library may repeat one, it is taken out."""

from __future__ import annotations

import base64
import html
import json
import logging
import traceback
from collections.abc import Callable
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from leaks import leaks, reachable, shown
from raw_server import RawServer

from chatanywhere import APIStatusError, ChatAnywhereError, Client, ProtocolError, Retry
from chatanywhere._http import connections
from chatanywhere._http.environment import checked_proxy
from chatanywhere._secrets import Secrets, without_secrets

KEY = "sk-0123456789abcdef0123"
TOKEN = "tok-ABCDEFGHIJ-klmnop"
HI = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\n'


@pytest.fixture(params=["own", "public"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How an answer is read: in the package's own way, or by urllib3, as where its fork has taken its place."""
    if request.param == "public":
        monkeypatch.setattr(connections, "BUILDS_ON_HTTP_CLIENT", False)
    return str(request.param)


# Where it is repeated -----------------------------------------------------------------------------------------


def answer(status: str, body: str, *fields: str) -> bytes:
    content = body.encode()
    head = "\r\n".join([f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(content)}", "Connection: close", "", ""])
    return head.encode() + content


EVENTS = "Content-Type: text/event-stream"
ECHOES: dict[str, Callable[[str], bytes]] = {
    "message": lambda said: answer("401 No", json.dumps({"error": {"message": f"wrong {said}!"}})),
    "code": lambda said: answer("401 No", json.dumps({"error": {"message": "wrong", "code": said}})),
    "detail": lambda said: answer("422 No", json.dumps({"detail": [{"loc": ["h", said], "msg": said}]})),
    "field": lambda said: answer("400 No", json.dumps({"x": {"y": [said, {said: 1}]}})),
    "text": lambda said: answer("500 No", f"upstream said: {said}", "Content-Type: text/plain"),
    "long text": lambda said: answer("500 No", "x" * (500 - len(said) // 2) + said, "Content-Type: text/plain"),
    "cut body": lambda said: answer("500 No", "x" * (65536 - len(said) // 2) + said, "Content-Type: text/plain"),
    "page": lambda said: answer("500 No", f"<html><title>{html.escape(said)}</title><p>{html.escape(said)}"),
    "x-request-id": lambda said: answer("500 No", "no", f"x-request-id: {said}"),
    "header": lambda said: answer("500 No", "no", f"x-echo: {said}"),
    "redirect": lambda said: answer("302 Found", "", f"Location: http://127.0.0.1:9/{quote(said, safe='')}"),
    "malformed header": lambda said: f"HTTP/1.1 200 OK\r\n{said}\r\nContent-Length: 0\r\n\r\n".encode(),
    "malformed header behind blanks": lambda said: f"HTTP/1.1 200 OK\r\nX : {said}\r\n\r\n".encode(),
    "status line": lambda said: f"HTTP/1.1 2000 {said}\r\n\r\n".encode(),
    "reason": lambda said: answer(f"500 {said}", "no"),
    "no HTTP": lambda said: f"{said}\r\n\r\n".encode(),
    "Content-Length": lambda said: f"HTTP/1.1 200 OK\r\nContent-Length: {said}\r\n\r\n".encode(),
    "Transfer-Encoding": lambda said: f"HTTP/1.1 200 OK\r\nTransfer-Encoding: {said}\r\n\r\n".encode(),
    "Content-Encoding": lambda said: answer("200 OK", "no", f"Content-Encoding: {said}"),
    "chunk": lambda said: f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{said}\r\n".encode(),
    "error within": lambda said: answer("200 OK", f"data: {json.dumps({'error': said})}\n\n", EVENTS),
    "error behind text": lambda said: answer("200 OK", f"{HI.decode()}data: {json.dumps({'error': said})}\n\n", EVENTS),
    "x-request-id of an answer": lambda said: answer(
        "200 OK", 'data: {"error": "no"}\n\n', EVENTS, f"x-request-id: {said}"
    ),
    "bad JSON": lambda said: answer("200 OK", f'data: {{"x": "{said}\n\n', EVENTS),
    "bad UTF-8": lambda said: b"HTTP/1.1 200 OK\r\n%b\r\n\r\ndata: %b\xff\n\n" % (EVENTS.encode(), said.encode()),
}

# The header, and what of it is the secret.
HEADERS = {
    "Authorization": (f"Bearer {TOKEN}", [TOKEN]),
    "authorization": (TOKEN, [TOKEN]),
    "AUTHORIZATION": (
        "Basic " + base64.b64encode(f"alice:{TOKEN}".encode()).decode(),
        [base64.b64encode(f"alice:{TOKEN}".encode()).decode(), TOKEN],
    ),
    "api-key": (TOKEN, [TOKEN]),
    "Api-Key": (TOKEN, [TOKEN]),
    "x-api-key": (TOKEN, [TOKEN]),
    "X-API-Key": (TOKEN, [TOKEN]),
    "x-goog-api-key": (TOKEN, [TOKEN]),
    "Proxy-Authorization": (f"Bearer {TOKEN}", [TOKEN]),
    "X-Auth-Token": (TOKEN, [TOKEN]),
    "Cookie": (f'a=1; session={TOKEN}; other="{TOKEN[::-1]}"', [TOKEN, TOKEN[::-1]]),
}


@pytest.mark.parametrize("echo", ECHOES)
@pytest.mark.parametrize("place", ["client", "call"])
@pytest.mark.parametrize("header", HEADERS)
def test_a_secret_in_a_header_that_the_server_repeats_is_not_shown(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, header: str, place: str, echo: str
) -> None:
    """Whatever part of an answer repeats a key that was given in `headers=`, no error, pickle or log record has it."""
    caplog.set_level(logging.DEBUG)
    value, secrets = HEADERS[header]
    headers = {header: value}
    client = Client(KEY, base_url=raw_server.url, retry=Retry(2, 0), headers=headers if place == "client" else None)
    for secret in secrets:
        raw_server.answer(ECHOES[echo](secret))
        with pytest.raises(ChatAnywhereError) as caught:
            client.complete("Hello", headers=headers if place == "call" else None)
        assert leaks(shown(caught.value, client, caplog), *secrets) == []


@pytest.mark.parametrize("echo", ECHOES)
def test_a_key_is_not_shown_however_the_answer_is_read(
    reading: str, raw_server: RawServer, caplog: pytest.LogCaptureFixture, echo: str
) -> None:
    """The same for the key itself, and where urllib3 reads the answer and logs what it finds malformed."""
    caplog.set_level(logging.DEBUG)
    raw_server.answer(ECHOES[echo](KEY))
    client = Client(KEY, base_url=raw_server.url, retry=Retry(2, 0))
    try:
        client.complete("Hello")
    except ChatAnywhereError as caught:
        error = caught
    else:  # urllib3 takes some of these
        error = ChatAnywhereError("")
    assert leaks(shown(error, client, caplog), KEY) == []


def test_urllib3_s_records_are_cleaned(
    monkeypatch: pytest.MonkeyPatch, raw_server: RawServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The record of a malformed header is there, with its exception, and without the key; others' records are whole."""
    monkeypatch.setattr(connections, "BUILDS_ON_HTTP_CLIENT", False)
    caplog.set_level(logging.DEBUG)
    raw_server.answer(f"HTTP/1.1 500 No\r\n{KEY}\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(APIStatusError):
        Client(KEY, base_url=raw_server.url, retry=None).complete("Hello")
    texts = [logging.Formatter().format(record) for record in caplog.records if record.name.startswith("urllib3")]
    assert any("***" in text and "Traceback" in text for text in texts)
    assert not any(KEY in text for text in texts)
    logging.getLogger("urllib3.connectionpool").warning("mine: %s", KEY)
    assert caplog.records[-1].getMessage() == f"mine: {KEY}"


@pytest.mark.parametrize("behind", range(0, 60, 3))
@pytest.mark.parametrize("line", ["HTTP/1.1 2000 ", "", "HTTP/1.1 200 OK\r\n bad"])
def test_a_key_that_an_excerpt_cuts_in_two_is_not_shown(raw_server: RawServer, line: str, behind: int) -> None:
    """Of a line that is shown in part, no 8 characters of the key are seen, wherever the excerpt ends."""
    raw_server.answer(f"{line}{'x' * behind}{KEY} and more of it\r\n\r\n".encode())
    with pytest.raises(ProtocolError) as caught:
        Client(KEY, base_url=raw_server.url, retry=None).complete("Hello")
    pieces = [KEY[start : start + 8] for start in range(len(KEY) - 7)]
    assert not [text for text in reachable(caught.value) if any(piece in text for piece in pieces)]


def test_the_name_of_a_request_has_no_key(raw_server: RawServer) -> None:
    """A server that names requests by their keys gets that out of neither stream nor completion."""
    raw_server.answer(answer("200 OK", f"{HI.decode()}data: [DONE]\n\n", EVENTS, f"x-request-id: r1-{KEY}"))
    with Client(KEY, base_url=raw_server.url).stream("Hello") as stream:
        assert list(stream) == ["Hi"]
        assert stream.request_id == stream.completion.request_id == "r1-***"


# What is left alone -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"X-Trace": "trace-0123456789"}, "trace-0123456789"),
        ({"User-Agent": "program/1.0.0"}, "program/1.0.0"),
        ({"Authorization": "Bearer short"}, "short"),
        ({"api-key": "EMPTY"}, "EMPTY"),
        ({"Cookie": "theme=dark; lang=zh-CN"}, "dark zh-CN"),
    ],
)
def test_what_is_no_secret_is_shown(raw_server: RawServer, headers: dict[str, str], said: str) -> None:
    """Other headers, and values of fewer than 8 characters, are taken for the server's words."""
    raw_server.answer(answer("400 No", json.dumps({"error": {"message": said}})))
    with pytest.raises(APIStatusError) as caught:
        Client(KEY, base_url=raw_server.url, headers=headers).complete("Hello")
    assert caught.value.message == said


def test_the_text_of_an_answer_is_the_caller_s(raw_server: RawServer) -> None:
    """A model that repeats the key is not censored, in text and in `partial`."""
    body = f'data: {{"choices": [{{"delta": {{"content": "{KEY}"}}}}]}}\n\ndata: {{"error": "no"}}\n\n'
    raw_server.answer(answer("200 OK", body, EVENTS))
    with pytest.raises(APIStatusError) as caught:
        Client(KEY, base_url=raw_server.url).complete("Hello")
    assert caught.value.partial == KEY


def test_an_exception_of_the_program_is_left_alone(raw_server: RawServer) -> None:
    """What the program was handling when it made the call is in the error's context, and stays as it was."""
    raw_server.answer(ECHOES["message"](KEY))
    mine = ValueError(KEY, [KEY])
    mine.__cause__ = KeyError(KEY)
    try:
        raise mine
    except ValueError:
        with pytest.raises(APIStatusError) as caught:
            Client(KEY, base_url=raw_server.url).complete("Hello")
    assert caught.value.__context__ is mine
    assert mine.args == (KEY, [KEY])
    assert mine.__cause__.args == (KEY,)


# All spellings ------------------------------------------------------------------------------------------------

SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": str,
    "repr": repr,
    "ascii": ascii,
    "JSON": json.dumps,
    "HTML": html.escape,
    "URL": lambda secret: quote(secret, safe=""),
    "latin-1": lambda secret: secret.encode().decode("latin-1"),
    "twice": lambda secret: secret + secret,
}

SECRET = st.text(st.characters(codec="utf-8"), min_size=8, max_size=30).filter(lambda text: "***" not in text)


@pytest.mark.parametrize("way", SPELLINGS)
@given(secret=SECRET, before=st.text("ab ", max_size=5), behind=st.text("yz ", max_size=5))
@example(secret='back\\slash"quote', before="", behind="")
def test_a_secret_is_known_in_every_spelling(way: str, secret: str, before: str, behind: str) -> None:
    """As Python, JSON, HTML or a URL quotes it, and in bytes; nested, in arguments, attributes, causes and contexts."""
    said = SPELLINGS[way](secret)
    text = f"{before}{said}{behind}"
    secrets = Secrets([secret])
    assert said.strip("'\"") not in secrets.hide(text)
    error = OSError(5, text, text)
    error.body = {text: [(text.encode("utf-8", "replace"), {"x": text})]}  # type: ignore[attr-defined]
    error.__context__ = ValueError(text)
    error.__context__.__cause__ = KeyError([text])
    secrets.remove_from(error)
    assert not [each for each in reachable(error) if said.strip("'\"") in each]
    assert said.strip("'\"") not in f"{error.strerror}{error.filename}"


@given(st.text(), st.binary())
def test_what_has_no_secret_stays_the_same_object(text: str, data: bytes) -> None:
    """Nothing is copied that need not be."""
    error = ValueError(text, data)
    body = error.body = {"x": [text, (data,)]}  # type: ignore[attr-defined]
    arguments = error.args
    Secrets([TOKEN]).remove_from(error)
    assert error.args is arguments
    assert error.body is body  # type: ignore[attr-defined]


def test_what_goes_round_in_circles_comes_to_an_end() -> None:
    """Causes and lists that hold themselves are gone through once."""
    error = ValueError(TOKEN)
    error.__cause__ = KeyError(error)
    error.body = body = [TOKEN]  # type: ignore[attr-defined, var-annotated]
    body.append(body)
    Secrets([TOKEN]).remove_from(error)
    assert error.args == ("***",)
    assert error.body[0] == "***"  # type: ignore[attr-defined]


# Proxies ------------------------------------------------------------------------------------------------------

ODD = [
    "\\",
    " ",
    '"',
    "'",
    "<",
    ">",
    "^",
    "`",
    "{",
    "|",
    "}",
    "[",
    "@",
    ":",
    "%",
    "%%",
    "%zz",
    "%5C",
    "é",
    "\xa0",
    "+",
    "&",
]
"""What a password may have besides letters: urllib3 refuses some, takes some for the end of the host's name."""

BREAKING = ["/", "?", "#"]
"""What ends the name of the host, by the grammar of URLs."""


def proxy_error(proxy: str, caplog: pytest.LogCaptureFixture, target: str = "http://127.0.0.1:9") -> list[str]:
    """Make a call through a proxy that must fail, and return all that can be seen of it."""
    caplog.set_level(logging.DEBUG)
    try:
        client = Client(KEY, base_url=target, proxy=proxy, retry=Retry(2, 0))
        client.complete("Hello", timeout=5)
    except ChatAnywhereError as error:
        return [text for _, text in shown(error, client, caplog)]
    except ValueError as error:
        return ["".join(traceback.format_exception(error)), *reachable(error)]
    raise AssertionError("the call did not fail")


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("encoded", [False, True], ids=["raw", "encoded"])
def test_a_proxy_takes_any_password(raw_server: RawServer, odd: str, encoded: bool) -> None:
    """Each character of a password reaches the proxy as it is, whether or not the URL has it percent-encoded."""
    password = f"pa55{odd}word"
    raw_server.answer(answer("200 OK", f"{HI.decode()}data: [DONE]\n\n", EVENTS))
    userinfo = f"alice:{quote(password, safe='') if encoded else password}"
    proxy = f"http://{userinfo}@127.0.0.1:{raw_server.port}"
    assert Client(KEY, base_url="http://127.0.0.1:9", proxy=proxy).complete("Hello").text == "Hi"
    sent = password.replace("%5C", "\\") if not encoded else password
    expected = base64.b64encode(f"alice:{sent}".encode("latin-1"))
    assert b"Proxy-Authorization: Basic " + expected in raw_server.requests[0]


@pytest.mark.parametrize("target", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
@pytest.mark.parametrize("odd", [*ODD, *BREAKING, "密"])
def test_a_proxy_s_password_with_odd_characters_is_not_shown(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, odd: str, target: str
) -> None:
    """No error has a proxy's password, whatever its characters, though the proxy repeats it in every spelling."""
    password = f"pa55{odd}word"
    spellings = {password, password.replace("\\", "\\\\"), quote(password, safe="")}
    basic = base64.b64encode(f"alice:{password}".encode("latin-1", "replace")).decode()
    raw_server.answer(answer(f"407 no {basic}", json.dumps({"error": [*spellings, basic]})))
    seen = proxy_error(f"http://alice:{password}@127.0.0.1:{raw_server.port}", caplog, target)
    assert not [text for text in seen for spelling in (*spellings, basic, f"alice:{password}") if spelling in text]


@pytest.mark.parametrize("port", ["99999", "0", "x", "12:34"])
@pytest.mark.parametrize("scheme", ["http://", "https://", "socks5://", "ftp://", ""])
@pytest.mark.parametrize("password", ["pa55\\word", "pa55word/", "pa55word#x", "pa55word?", "[pa55word"])
def test_a_proxy_that_is_no_url_is_not_shown(
    caplog: pytest.LogCaptureFixture, password: str, scheme: str, port: str
) -> None:
    """The ValueError for an address that can't be used repeats nothing of it."""
    seen = proxy_error(f"{scheme}alice:{password}@host:{port}", caplog)
    assert not [text for text in seen if "pa55" in text]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy"])
def test_the_password_of_the_environment_s_proxy_is_not_shown(
    monkeypatch: pytest.MonkeyPatch, raw_server: RawServer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """What the proxy of the environment repeats is taken out as well."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(name, f"http://alice:pa55%5Cword@127.0.0.1:{raw_server.port}")
    raw_server.answer(answer("500 No", "no pa55\\word, no pa55%5Cword", "x-request-id: pa55\\word"))
    client = Client(KEY, base_url="http://127.0.0.1:9", retry=Retry(2, 0))
    with pytest.raises(APIStatusError, match=r"no \*\*\*, no \*\*\*") as caught:
        client.complete("Hello")
    assert caught.value.request_id == "***"
    assert leaks(shown(caught.value, client, caplog), "pa55\\word", "pa55%5Cword") == []


def test_a_proxy_without_a_password_stays_as_it_is() -> None:
    """Only what stands before the `@` is encoded."""
    assert checked_proxy("http://host.example:3128/") == "http://host.example:3128/"
    assert checked_proxy("alice:pa55%20word@host.example:3128") == "http://alice:pa55%20word@host.example:3128"


# Base URLs ----------------------------------------------------------------------------------------------------


PASSWORDS = ["pa55", "pa55\\word", "pa55/word", "pa55@word", "pa55 word", "[pa55", "pa55\n", "pa55#"]
USERINFO = [f"{user}{password}" for user in ("alice:", ":", "") for password in PASSWORDS]
USERINFO.remove("pa55/word")  # a host and a path, by the grammar of URLs


@pytest.mark.parametrize("userinfo", USERINFO)
@pytest.mark.parametrize("scheme", ["http://", "https://", "ftp://", "//", "", "://"])
@pytest.mark.parametrize("rest", ["host:99999", "host:1", "", "[::1", "host:0/v1?key=pa55"])
def test_a_base_url_that_can_not_be_used_is_shown_without_its_password(scheme: str, userinfo: str, rest: str) -> None:
    """A user and a password are refused in every spelling, and the ValueError does not repeat the password."""
    with pytest.raises(ValueError, match="base_url") as caught:
        Client(KEY, base_url=f"{scheme}{userinfo}@{rest}")
    seen = ["".join(traceback.format_exception(caught.value)), *reachable(caught.value)]
    assert not [text for text in seen if "pa55" in text]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://alice:pa55@host:1/v1", "http://***@host:1/v1"),
        ("alice:pa55@host", "***@host"),
        ("http://host:99999", "http://host:99999"),
        ("http://host/?key=pa55", "http://host/?…"),
        ("ftp://a@b@c", "ftp://***@c"),
        ("", ""),
    ],
)
def test_the_rest_of_a_url_is_shown(url: str, shown: str) -> None:
    """Who has mistyped a URL sees where."""
    assert without_secrets(url) == shown


def test_the_message_of_a_wrong_url_has_the_rest_of_it() -> None:
    """The sample of a port that is out of range."""
    with pytest.raises(ValueError, match=r"http://\*\*\*@host:99999"):
        Client(KEY, base_url="http://alice:pa55@host:99999")


def test_secrets_are_not_in_the_way_of_anything(raw_server: RawServer) -> None:
    """No repr shows them, and calls with and without secret headers do not mix them up."""
    client = Client(KEY, base_url=raw_server.url, headers={"api-key": TOKEN}, proxy="")
    assert TOKEN not in repr(client)
    raw_server.answer(answer("400 No", json.dumps({"error": {"message": "other-secret-1"}})))
    with pytest.raises(APIStatusError, match=r"^400: \*\*\*"):
        client.complete("Hello", headers={"X-Api-Key": "other-secret-1"})
    with pytest.raises(APIStatusError, match="other-secret-1"):
        client.complete("Hello")


def test_the_context_is_cleaned_up_to_what_the_program_handles() -> None:
    """Errors of libraries in the context are cleaned, the exception that the program is handling behind them is not."""
    mine, theirs, error = ValueError(TOKEN), OSError(TOKEN), KeyError(TOKEN)
    try:
        raise mine
    except ValueError:
        theirs.__context__, error.__context__ = mine, theirs
        Secrets([TOKEN]).remove_from(error)
    assert (error.args, theirs.args, mine.args) == (("***",), ("***",), (TOKEN,))
