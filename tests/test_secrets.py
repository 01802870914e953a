"""Keys and passwords: wherever a server or a library may repeat one, it is taken out."""

from __future__ import annotations

import base64
import html
import itertools
import json
import logging
import random
import re
import string
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from faces import Face
from hypothesis import example, given
from hypothesis import strategies as st
from leaks import leaks, reachable, shown
from raw_server import RawServer

from chatanywhere import APIStatusError, AsyncClient, ChatAnywhereError, Client, ProtocolError, Retry
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


# The names that say that a value is secret ---------------------------------------------------------------------

STEMS = [
    "Auth",
    "Key",
    "Token",
    "Secret",
    "Password",
    "Credential",
    "Signature",
    "Session",
    "Cookie",
    "Api-Key",
    "apikey",
]
NAMES = [
    *(f"{before}{stem}{behind}" for stem in STEMS for before in ("", "x_") for behind in ("", "-Value")),
    "Authorization2",
    "Ocp-Apim-Subscription-Key",
    "x-functions-key",
    "X-Access-Token-V2",
    "X-Amz-Security-Token",
    "X-Goog-Api-Key",
    "X-User-Session",
    "X-Passwd",
    "X-JWT-Assertion",
]
VALUES: dict[str, Callable[[str], str]] = {
    "alone": str,
    "behind a scheme": lambda secret: f"Bearer {secret}",
    "a parameter": lambda secret: (
        f'AWS4-HMAC-SHA256 Credential={secret}/20130524/s3, SignedHeaders=host, Signature="{secret}"'
    ),
    "the answer to a challenge": lambda secret: (
        f'Digest username="al", uri="/v1/chat/completions", response="{secret}"'
    ),
}
faces = pytest.mark.parametrize("face", [Face("sync"), Face("asyncio"), Face("trio")], ids=lambda face: face.name)


@faces
@pytest.mark.parametrize("name", NAMES)
def test_a_header_is_secret_by_its_name(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, name: str, face: Face
) -> None:
    """Whatever headers call a key, and in whatever form it stands there, client's or call's, it is not shown."""
    caplog.set_level(logging.DEBUG)
    raw_server.answer(ECHOES["message"](TOKEN))
    for (form, value), place in itertools.product(VALUES.items(), ("client", "call")):
        if "cookie" in name.lower() and " " in value("x"):
            continue
        headers = {name: value(TOKEN)}
        client = Client(KEY, base_url=raw_server.url, retry=None, headers=headers if place == "client" else None)
        outcome = face.ask(client, headers=headers if place == "call" else {})
        assert outcome.error is not None
        assert leaks(shown(outcome.error, client, caplog), TOKEN) == [], (form, place)


PARAMETERS = [
    "key",
    "api_key",
    "api-key",
    "apikey",
    "subscription-key",
    "access_token",
    "sig",
    "code",
    "X-Amz-Signature",
]


def repeat_the_request(request: bytes) -> list[Any]:
    """An answer to a call that has failed, and shows the call's first line."""
    line = request.partition(b"\r\n")[0].decode("latin-1")
    return [answer("404 No", json.dumps({"error": f"there is no {line}"}), f"x-request-id: {line}")]


@faces
@pytest.mark.parametrize("way", ["base_url", "extra_query", "nested"])
@pytest.mark.parametrize("name", PARAMETERS)
def test_a_key_in_a_url_is_not_shown(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, name: str, way: str, face: Face
) -> None:
    """Parameters with such names are secrets, in a base URL and in `extra_query`, in every spelling."""
    caplog.set_level(logging.DEBUG)
    secret = "q/secret +1234=5678"
    query: dict[str, Any] = {name: secret, "api-version": "2024-10-21"}
    suffix = f"/v1?{urlencode(query)}" if way == "base_url" else ""
    extra = {} if way == "base_url" else {"x": query} if way == "nested" else query
    client = Client(KEY, base_url=raw_server.url + suffix, retry=None)
    raw_server.steps = repeat_the_request
    error = face.ask(client, extra_query=extra).error
    assert error is not None
    assert "2024-10-21" in str(error)
    for said in (secret, quote(secret, safe=""), quote_plus(secret), html.escape(secret)):
        assert leaks(shown(error, client, caplog), said) == []
        raw_server.answer(ECHOES["message"](said))
        again = face.ask(client, extra_query=extra).error
        assert again is not None
        assert leaks(shown(again, client, caplog), said) == []
        raw_server.steps = repeat_the_request


@pytest.mark.usefixtures("reading")
def test_a_key_in_a_url_is_not_logged(raw_server: RawServer, caplog: pytest.LogCaptureFixture) -> None:
    """Nor does urllib3 log it, which logs URLs."""
    caplog.set_level(logging.DEBUG)
    raw_server.answer(answer("200 OK", f"{HI.decode()}data: [DONE]\n\n", EVENTS))
    client = Client(KEY, base_url=f"{raw_server.url}/v1?key={TOKEN}")
    assert client.complete("Hello").text == "Hi"
    assert TOKEN not in caplog.text
    assert TOKEN not in repr(client)


@faces
@pytest.mark.parametrize("field", ["x-request-id: r1-{}", "X-Echo: Bearer {}", "{}: 1", 'X-JSON: {{"key": "{}"}}'])
def test_the_headers_of_an_answer_have_no_key(raw_server: RawServer, field: str, face: Face) -> None:
    """A server that repeats the key there gets it out of neither stream, completion nor error."""
    for status in ("200 OK", "400 No"):
        raw_server.answer(answer(status, f"{HI.decode()}data: [DONE]\n\n", EVENTS, field.format(KEY), "X-Other: 1"))
        client = Client(KEY, base_url=raw_server.url, retry=None)
        error = face.ask(client).error
        if error is None:
            with client.stream("Hello") as stream:
                headers = stream.headers
                assert list(stream) == ["Hi"]
            assert KEY not in f"{stream.request_id} {stream.completion}"
        else:
            assert isinstance(error, APIStatusError)
            headers = error.headers
        assert KEY not in repr(headers)
        assert KEY not in str(dict(headers))
        assert "***" in repr(headers)
        assert "1" in (headers.get("X-Other"), headers.get("x-other"))


# What is left alone -------------------------------------------------------------------------------------------


PLACEHOLDERS = ["EMPTY", "none", "null", "ollama", "dummy", "k", "abc", "1234", "0000000"]


@pytest.mark.parametrize("name", ["X-Api-Key", "X-Max-Tokens", "X-Session"])
@pytest.mark.parametrize("value", [*PLACEHOLDERS, "4096", "true"])
def test_a_word_or_a_number_is_no_secret(raw_server: RawServer, value: str, name: str) -> None:
    """A value that is no longer than a word, and is nothing but letters or digits, is what a server may say as well."""
    raw_server.answer(ECHOES["message"](value))
    for key, headers in ((KEY, {name: value}), (value, {})):
        with pytest.raises(APIStatusError) as caught:
            Client(key, base_url=raw_server.url, headers=headers).complete("Hello")
        assert caught.value.message == f"wrong {value}!"


@pytest.mark.parametrize("secret", ["s3cret7", "pa55", "sk-1", "a/b-c"])
def test_a_short_secret_is_hidden_where_it_stands_alone(raw_server: RawServer, secret: str) -> None:
    """Four characters will do, if they are no word; within words they are left."""
    client = Client(KEY, base_url=raw_server.url, headers={"x-api-key": secret})
    for said, expected in (
        (secret, "***"),
        (f"({quote(secret, safe='')})", "(***)"),
        (f"x{secret} {secret}y", f"x{secret} {secret}y"),
    ):
        raw_server.answer(ECHOES["message"](said))
        with pytest.raises(APIStatusError) as caught:
            client.complete("Hello")
        assert caught.value.message == f"wrong {expected}!"


@pytest.mark.parametrize(
    "words",
    [
        "Field required",
        "messages: field required (type=missing)",
        "a key looks like this: sk-…",
        "you sent sk-01234***...***0123",
        "maximum context length is 4096 tokens",
        "100% of \\u0041 &amp; %41\n\n more",
    ],
)
def test_words_that_a_key_has_in_common_with_a_message_are_shown(raw_server: RawServer, words: str) -> None:
    """Only a whole secret is hidden, or a part that something has cut off; and nothing else changes."""
    raw_server.answer(answer("422 No", words, "Content-Type: text/plain"))
    for key in ("sk-no-key-required", "sk-proj-" + KEY, KEY):
        with pytest.raises(APIStatusError) as caught:
            Client(key, base_url=raw_server.url).complete("Hello")
        assert caught.value.body == words


# Wrong arguments ----------------------------------------------------------------------------------------------


WRONG_HEADERS: dict[str, Callable[[str], dict[Any, Any]]] = {
    "a line as the name": lambda secret: {f"Authorization: Bearer {secret}": "x"},
    "a line without a blank": lambda secret: {f"api-key:{secret}": "x"},
    "an assignment as the name": lambda secret: {f"api-key={secret}": "x"},
    "a scheme as the name": lambda secret: {f"Bearer {secret}": "x"},
    "quotes": lambda secret: {f'"{secret}"': "x"},
    "bytes as the name": lambda secret: {f"Bearer {secret}".encode(): b"x"},
    "a pair as the name": lambda secret: {("api-key", secret): "x"},
    "bytes": lambda secret: {"api-key": secret.encode()},
    "a list": lambda secret: {"api-key": [secret]},
    "not Latin-1": lambda secret: {"api-key": f"{secret}…"},
    "half a character": lambda secret: {"api-key": f"{secret}\ud800"},
    "a line break": lambda secret: {"api-key": f"{secret}\n{secret}"},
    "NUL": lambda secret: {"api-key": f"{secret}\0"},
}


@pytest.mark.parametrize("wrong", WRONG_HEADERS)
@pytest.mark.parametrize("place", ["client", "headers", "extra_headers"])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_a_header_that_can_not_be_sent_is_not_shown(wrong: str, place: str, kind: Any) -> None:
    """A header that stands in the wrong place, or has what no header may have, is refused without repeating it."""
    headers = {"X-Fine": "1", **WRONG_HEADERS[wrong](TOKEN)}
    make: Any = kind if place == "client" else kind(KEY).stream
    with pytest.raises((TypeError, ValueError), match="headers") as caught:
        make(KEY, **{place.replace("client", "headers"): headers})
    seen = ["".join(traceback.format_exception(caught.value)), *reachable(caught.value)]
    assert not [text for text in seen if TOKEN in text]


def test_a_parameter_that_can_not_be_sent_is_not_shown() -> None:
    """The same for a parameter with half a character."""
    with pytest.raises(ValueError, match="half a character") as caught:
        Client(KEY).complete("Hello", extra_query={"key": f"{TOKEN}\ud800"})
    assert not [text for text in reachable(caught.value) if TOKEN in text]


TOKENS = [
    KEY,
    "sk-" + "aB3" * 16,
    "sk-proj-" + "a_B-3" * 30,
    "0123456789abcdef" * 2,
    f"Bearer {KEY}",
    f"Bearer\t{KEY}",
    f"Authorization: Bearer {KEY}",
    base64.b64encode(bytes(range(30))).decode().replace("/", "_"),
    ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode() for part in ({"alg": "HS256"}, {"sub": 12})),
    f"api_key={KEY}",
    f"'{KEY}'",
]


@pytest.mark.parametrize("place", ["argument", "environment", "list"])
@pytest.mark.parametrize("token", TOKENS)
def test_a_key_in_the_place_of_a_base_url_is_refused(monkeypatch: pytest.MonkeyPatch, token: str, place: str) -> None:
    """Arguments in the wrong order are told before anything is sent to a host of that name, without showing the key."""
    if place == "environment":
        monkeypatch.setenv("CHATANYWHERE_BASE_URL", token)
    with pytest.raises(ValueError, match="base_url") as caught:
        Client("x", base_url={"argument": token, "environment": None, "list": [token]}[place])
    seen = ["".join(traceback.format_exception(caught.value)), *reachable(caught.value)]
    assert not [text for text in seen if token in text or KEY in text]


@pytest.mark.parametrize("url", ["ftp://host/{}", "https://host:99999/v1/{}", "https://{}:{}/", "https://a b/{}"])
def test_the_key_in_a_base_url_is_not_shown(url: str) -> None:
    """Neither an error nor a client's repr shows the path of a URL, if the key is in it."""
    with pytest.raises(ValueError, match="base_url") as caught:
        Client(KEY, base_url=url.format(KEY, KEY))
    assert not [text for text in reachable(caught.value) if KEY in text]
    assert "https://host/***/v1" in repr(Client(KEY, base_url=f"https://host/{KEY}/v1"))


# What nobody has said is secret --------------------------------------------------------------------------------


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
    """Other headers, words of fewer than 8 letters, and a cookie's settings, are taken for the server's words."""
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
    "PHP": lambda secret: json.dumps(secret).replace("/", "\\/"),
    "JSON, all escaped": lambda secret: "".join(f"\\u{ord(each):04X}" if each < "\uffff" else each for each in secret),
    "URL in lower case": lambda secret: re.sub("%..", lambda escape: escape[0].lower(), quote(secret, safe="")),
    "URL, all escaped": lambda secret: "".join(f"%{each:02x}" for each in secret.encode()),
    "a query": quote_plus,
    "HTML by numbers": lambda secret: "".join(f"&#{ord(each)};" for each in secret),
    "HTML by hexadecimal numbers": lambda secret: "".join(f"&#x{ord(each):X};" for each in secret),
    "JSON in JSON": lambda secret: json.dumps(json.dumps(secret)),
    "JSON in HTML": lambda secret: html.escape(json.dumps(secret)),
    "JSON in a URL": lambda secret: quote(json.dumps(secret)),
    "URL in a URL": lambda secret: quote(quote(secret, safe=""), safe=""),
    "bytes": lambda secret: repr(secret.encode())[1:],
}
BROKEN: dict[str, Callable[[str], str]] = {
    "two lines": lambda secret: f"{secret[:5]}\n{secret[5:]}",
    "lines": lambda secret: "\r\n  ".join(secret[place : place + 4] for place in range(0, len(secret), 4)),
    "lines in JSON": lambda secret: json.dumps(f"{secret[:5]}\n{secret[5:]}"),
    "base64": lambda secret: base64.b64encode(secret.encode()).decode(),
    "Basic": lambda secret: base64.b64encode(f":{secret}".encode()).decode(),
    "Basic with a user": lambda secret: base64.b64encode(f"user:{secret}".encode()).decode(),
    "base64 of more": lambda secret: base64.b64encode(f"a header: {secret}, and more".encode()).decode(),
    "base64 for URLs": lambda secret: base64.urlsafe_b64encode(f"a:{secret}".encode()).decode(),
}
"""Ways that leave no line in which the secret is whole."""

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


RAW: dict[str, Callable[[str], bytes]] = {
    "text": ECHOES["text"],
    "long text": ECHOES["long text"],
    "cut body": ECHOES["cut body"],
    "page": lambda said: answer("500 No", f"<html><title>{said}</title><p>no: {said}</p>"),
    "JSON": lambda said: answer("401 No", f'{{"error": {{"message": "wrong {said}"}}}}'),
    "truncated JSON": lambda said: answer("401 No", f'{{"error": {{"message": "wrong {said}'),
    "excerpt": lambda said: answer("200 OK", f'data: {{"x": "{said}\n\n', EVENTS),
    "excerpt of what comes before": lambda said: answer("200 OK", f'data: {{"x": "{said}", x}}\n\n', EVENTS),
    "event": lambda said: answer("200 OK", f'data: {{"error": "{said}"}}\n\n', EVENTS),
    "header": lambda said: answer("500 No", "no", f"x-echo: {' '.join(said.split())}"),
}
"""Places that a server may fill with what is written in any way."""
ODD_KEY = "sk-A/b+C=d&e%2Ff~G\"h'i\\jKlM0123456789"


def visible(text: str) -> str:
    """What a reader makes of a text, who knows all ways to write, and skips what fills it up."""
    text = text.replace("x" * 100, "")
    for _ in range(4):
        text = "".join(text.split()).replace("\\/", "/").replace('\\"', '"').replace("\\\\", "\\")
        text = re.sub(r"\\[ux]([0-9a-fA-F]{4}|[0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), text)
        text = re.sub("%([0-9a-fA-F]{2})", lambda match: chr(int(match[1], 16)), html.unescape(text))
    return text


@faces
@pytest.mark.parametrize("place", RAW)
def test_a_key_is_hidden_in_every_spelling_and_place(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, place: str, face: Face
) -> None:
    """A key with characters that have to be escaped is not shown however a server writes it, nor a part of it."""
    caplog.set_level(logging.DEBUG)
    client = Client(ODD_KEY, base_url=raw_server.url, retry=None)
    pieces = {visible(ODD_KEY)[start : start + 10] for start in range(len(visible(ODD_KEY)) - 9)}
    pieces |= {base64.b64encode(f":{ODD_KEY}".encode()).decode()[start : start + 12] for start in range(0, 40, 4)}
    for way, write in (SPELLINGS | BROKEN).items():
        raw_server.answer(RAW[place](write(ODD_KEY)))
        error = face.ask(client).error
        if error is not None:
            seen = [*shown(error, client, caplog)]
            assert not [text for _, text in seen for piece in pieces if piece in visible(text)], way
        else:  # the key is what ends the JSON, and then the error
            assert place == "event", way


@pytest.mark.parametrize("way", BROKEN)
@given(secret=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=8, max_size=30))
def test_a_secret_is_known_where_it_is_broken_or_encoded(way: str, secret: str) -> None:
    """Of what base64 or line breaks have made of it, too little is left to be of use."""
    said = BROKEN[way](secret)
    left = Secrets([secret]).hide(f"said {said} and more")
    assert left.startswith("said ")
    assert left.endswith(" and more")
    assert said not in left
    assert len(left) - len("said *** and more") <= (2 if "lines" in way else len(said) - len(secret))


CUTTABLE: dict[str, Callable[[str], str]] = {
    "plain": str,
    "JSON": lambda character: json.dumps(character)[1:-1].replace("/", "\\/"),
    "JSON, all escaped": lambda character: f"\\u{ord(character):04x}",
    "URL": lambda character: quote(character, safe=""),
    "HTML": html.escape,
    "HTML by numbers": lambda character: f"&#x{ord(character):x};",
}
AROUND = [("", ""), ("wrong: '…", "…'"), ('{"x": "', '"'), ("said ", "…")]


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("way", CUTTABLE)
def test_a_secret_that_is_cut_anywhere_is_hidden(way: str, around: tuple[str, str]) -> None:
    """Wherever an excerpt begins or ends, be it within an escape, fewer than 6 characters of the secret are left."""
    secret = "t0k/en+w=it&h%od<d>chars"
    written = "".join(map(CUTTABLE[way], secret))
    longest = max(len(CUTTABLE[way](character)) for character in secret)
    before, behind = around
    for place in range(len(written)):
        parts = [written[:place]] if before == "said " else [written[:place], written[place:]]
        for part in parts:
            left = Secrets([secret]).hide(f"{before}{part}{behind}").removeprefix(before).removesuffix(behind)
            whole = sum(1 for _ in re.finditer("|".join(re.escape(CUTTABLE[way](each)) for each in secret), part))
            assert len(left) <= (6 * longest if whole < 6 else len("***") + longest), (part, left)


# How long it takes --------------------------------------------------------------------------------------------


def echoes_of(token: str) -> Iterator[str]:
    """Texts of 64 KiB that have a token in them, or nearly."""
    size = 65536
    yield (token + " ") * (size // len(token))
    yield ("x" * (size - len(token))) + token
    yield (json.dumps(token) * 5).replace("A", "\\u0041")[:size]
    yield quote("%/" * (size // 12)) + token
    yield "\n".join(token[place : place + 8] for place in range(0, len(token), 8)) * 3
    yield (token[:-1] + '"') * (size // len(token))
    yield f'"{token[1:]}' * (size // len(token))
    yield (token[:6] + '"' + token[-6:] + "…") * (size // 14)
    yield token[:-1] * (size // len(token))
    yield "\\" * size + "&" * 10
    yield "%25" * (size // 3)


@pytest.mark.parametrize("kind", ["random", "one letter", "two letters", "nearly one letter", "JWT"])
def test_a_long_secret_is_found_in_linear_time(kind: str) -> None:
    """A token of 16,000 characters takes less than a second of the processor in 64 KiB of text of any kind."""
    letters = random.Random(7).choices(string.ascii_letters + string.digits + "-_.", k=16000)
    token = {
        "random": "".join(letters),
        "one letter": "A" * 16000,
        "two letters": "AB" * 8000,
        "nearly one letter": "A" * 8000 + "b" + "A" * 7999,
        "JWT": f"eyJ{''.join(letters[:8000])}.{''.join(letters[8000:-4])}",
    }[kind]
    for text in echoes_of(token):
        began = time.process_time()
        left = Secrets.of(key=token).hide(text)
        assert time.process_time() - began < 1
        assert token not in left


@faces
def test_a_long_key_does_not_hold_up_a_call(raw_server: RawServer, face: Face) -> None:
    """A call with a key of 16,000 characters that the server repeats ends in time, the key not shown."""
    token = "".join(random.Random(7).choices(string.ascii_letters, k=16000))
    raw_server.answer(answer("401 No", json.dumps({"error": {"message": f"wrong key {token}", "key": token}})))
    outcome = face.ask(Client(token, base_url=raw_server.url, retry=None, timeout=30))
    assert isinstance(outcome.error, APIStatusError)
    assert outcome.seconds < 5
    assert not [text for text in reachable(outcome.error) if token[:8] in text]


def test_what_an_error_keeps_is_bounded() -> None:
    """Of a text of many millions of characters, an error keeps the beginning, and its end takes no time."""
    error = ValueError("a\\n%41" * 3_000_000, b"\\n" * 3_000_000)
    began = time.process_time()
    Secrets([TOKEN]).remove_from(error)
    assert time.process_time() - began < 2
    assert [len(each) < 300_000 for each in error.args] == [True, True]


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


@pytest.mark.parametrize("password", ["pa55", "pa55wd", "s3cr", "sesame", "1234"])
@pytest.mark.parametrize("target", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_a_short_password_of_a_proxy_is_not_shown(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, password: str, target: str
) -> None:
    """What stands in a URL as a password is one, though it be a word of four letters."""
    basic = base64.b64encode(f"alice:{password}".encode()).decode()
    body = json.dumps({"error": [password, f"alice:{password}", basic, f"<{password}>"]})
    raw_server.answer(answer(f"407 no {basic} ({password})", body, f"x-request-id: {password}"))
    seen = proxy_error(f"http://alice:{password}@127.0.0.1:{raw_server.port}", caplog, target)
    alone = re.compile(rf"(?<![0-9A-Za-z]){password}(?![0-9A-Za-z])")
    assert not [text for text in seen if basic in text or alone.search(text)]


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
        ("https://host/v1?a=1&b=2", "https://host/v1?…"),
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
