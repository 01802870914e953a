"""The service's own words: every shape of an error is read, and what is known of it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from decoding import DONE, STARTED, USAGE, chunk, openai, sse
from faces import Face
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer

from chatanywhere import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    Client,
    InsufficientBalanceError,
    InternalServerError,
    ModelNotAllowedError,
    NotFoundError,
    PermissionDeniedError,
    PromptTooLongError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    Retry,
    StreamInterruptedError,
    TextDelta,
    Timeout,
)
from chatanywhere._protocols.excerpt import excerpt, excerpt_around
from chatanywhere._protocols.head import AnswerHead
from chatanywhere._protocols.service import KEY_PAGE, NO_REASON, error_from, error_in, error_within
from chatanywhere.testing import Fault, LoopbackServer

KEY = "sk-0123456789abcdef"
JSON = {"content-type": "application/json"}
OURS = "https://api.chatanywhere.tech"

Shape = Callable[[str], Any]

SHAPES: dict[str, Shape] = {
    "OpenAI's": lambda words: {"error": {"message": words, "type": "x", "param": None, "code": None}},
    "message is a list": lambda words: {"error": {"message": [words]}},
    "message is a list of objects": lambda words: {"error": {"message": [{"message": words}]}},
    "message is an object": lambda words: {"error": {"message": {"message": words}}},
    "message is an object with a detail": lambda words: {"error": {"message": {"detail": words}}},
    "error is a str": lambda words: {"error": words},
    "error is a list": lambda words: {"error": [{"message": words}]},
    "error is a list of str": lambda words: {"error": [words]},
    "error has a msg": lambda words: {"error": {"msg": words}},
    "error has a detail": lambda words: {"error": {"detail": words, "code": 1}},
    "error in an error": lambda words: {"error": {"error": {"message": words}}},
    "message": lambda words: {"message": words},
    "msg": lambda words: {"msg": words},
    "detail": lambda words: {"detail": words},
    "detail is a list": lambda words: {"detail": [words]},
    "detail is a list of objects": lambda words: {"detail": [{"type": "missing", "msg": words}]},
    "code and msg": lambda words: {"code": 1305, "msg": words},
    "code and message": lambda words: {"code": "1113", "message": words, "success": False},
    "error is null": lambda words: {"error": None, "message": words},
    "error is true": lambda words: {"error": True, "message": words},
    "error is empty": lambda words: {"error": "", "message": words},
    "object is error": lambda words: {"object": "error", "message": words, "type": "BadRequestError", "code": 40001},
    "type is error": lambda words: {"type": "error", "error": {"type": "overloaded", "message": words}},
    "Gemini's list": lambda words: [{"error": {"code": 429, "message": words, "status": "RESOURCE_EXHAUSTED"}}],
    "Spring's page": lambda words: {
        "timestamp": "2025-01-01T00:00:00",
        "status": 500,
        "error": "Internal Server Error",
        "message": words,
        "path": "/v1",
    },
    "error_code and error_msg": lambda words: {"error_code": 336003, "error_msg": words},
    "error_code and text": lambda words: {"text": words, "error_code": 50001},
    "OAuth's": lambda words: {"error": "invalid_token", "error_description": words},
    "errors": lambda words: {"errors": [{"message": words}]},
    "detail has an error": lambda words: {"detail": {"error": words}},
    "detail has a message": lambda words: {"detail": {"message": words}},
    "detail has an error with a message": lambda words: {"detail": {"error": {"message": words}}},
    "detail behind a message": lambda words: {"message": {"detail": words}},
    "error_msg": lambda words: {"error_msg": words},
    "errorMessage": lambda words: {"errorMessage": words},
    "problem": lambda words: {"type": "about:blank", "title": "Too Many", "status": 429, "detail": words},
    "MiniMax's": lambda words: {"base_resp": {"status_code": 1004, "status_msg": words}, "choices": None},
    "errcode and errmsg": lambda words: {"errcode": 40001, "errmsg": words},
    "no success": lambda words: {"success": False, "message": words, "data": None},
    "no success and a good code": lambda words: {"code": 0, "success": False, "msg": words},
    "no code": lambda words: {"code": None, "message": words},
    "status in a str": lambda words: {"status": "500", "reason": words},
    "status is error": lambda words: {"status": "error", "reason": words},
    "failed response": lambda words: {
        "type": "response.failed",
        "response": {"status": "failed", "error": {"code": "server_error", "message": words}},
    },
    "error within a choice": lambda words: {
        "choices": [{"error": {"message": words, "code": 502}, "finish_reason": "error"}]
    },
    "JSON in a message": lambda words: {"error": {"message": json.dumps({"error": {"message": words}})}},
}

SPOKEN = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc"], exclude_characters="\\") | st.sampled_from("\n\t"),
    min_size=1,
    max_size=50,
).filter(str.strip)

PING = 'event: ping\ndata: {"type": "ping"}\n\n'
WAYS: dict[str, Callable[[Any], str]] = {
    "JSON": json.dumps,
    "JSON in UTF-8": lambda value: json.dumps(value, ensure_ascii=False),
    "JSON over many lines": lambda value: json.dumps(value, indent=2),
    "an event": lambda value: f"data: {json.dumps(value)}\n\n",
    "a named event": lambda value: f"event: error\ndata: {json.dumps(value)}\n\n",
    "an event of many lines": lambda value: "".join(
        f"data: {line}\n" for line in json.dumps(value, indent=1).split("\n")
    ),
    "an event behind another": lambda value: f"{PING}data: {json.dumps(value)}\n\ndata: [DONE]\n\n",
    "an event behind an empty one": lambda value: f"data:\n\ndata: {json.dumps(value)}\n\n",
    "an event behind a chunk": lambda value: f'data: {{"choices": []}}\n\ndata: {json.dumps(value)}\n\n',
    "bare behind an event": lambda value: f"{PING}{json.dumps(value)}",
    "bare behind a comment": lambda value: f": ping\n\n{json.dumps(value, indent=2)}\n",
    "lines of JSON": lambda value: f'{{"type": "ping"}}\n{json.dumps(value)}\n',
}


# What it says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@given(words=SPOKEN, status=st.integers(400, 599))
def test_the_message_is_found_in_every_shape(shape: str, way: str, words: str, status: int) -> None:
    """Whatever the shape of an error, its words are the message, to the character, and its body is kept."""
    content = WAYS[way](SHAPES[shape](words)).encode()
    error = error_from(AnswerHead(status, JSON), content)
    assert (error.message, error.status_code) == (words.strip(), status)
    assert error.body == SHAPES[shape](words)


@pytest.mark.parametrize("shape", SHAPES)
@given(words=SPOKEN)
def test_the_message_is_found_in_every_shape_within_an_answer(shape: str, words: str) -> None:
    """The same shapes are known for errors where they stand in an answer whose status was 200."""
    answer = SHAPES[shape](words)
    error = error_within(answer)
    assert error is not None
    assert (error.message, error.body) == (words.strip(), answer)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_message_reaches_the_caller(face: Face, shape: str) -> None:
    """A call that a real server refuses, in any of the shapes, ends with its words."""
    fault = Fault.status(400, body=json.dumps(SHAPES[shape]("不行 no")), content_type="application/json")
    with LoopbackServer(faults=[fault]) as server:
        error = face.ask(Client(KEY, base_url=server.url)).error
    assert isinstance(error, BadRequestError)
    assert error.message == "不行 no"


FRAMINGS: dict[str, Callable[[Any], bytes]] = {
    "object": lambda value: json.dumps(value).encode(),
    "pretty object": lambda value: json.dumps(value, indent=2).encode(),
    "event": lambda value: sse(value),
    "event behind text": lambda value: sse(chunk(content="Hi"), value),
    "event before the end": lambda value: sse(value, DONE),
    "event of many lines": lambda value: (
        b"data: " + json.dumps(value, indent=2).replace("\n", "\ndata: ").encode() + b"\n\n"
    ),
    "named event": lambda value: b"event: error\n" + sse(value),
    "another named event": lambda value: b"event: failure\n" + sse(value),
    "bare behind a comment": lambda value: b": ping\n\n" + json.dumps(value).encode(),
    "bare behind text": lambda value: sse(chunk(content="Hi")) + json.dumps(value).encode() + b"\n",
    "pretty behind text": lambda value: sse(chunk(content="Hi")) + json.dumps(value, indent=2).encode(),
    "pretty before the end": lambda value: b": ping\n\n" + json.dumps(value, indent=2).encode() + b"\n\n" + sse(DONE),
}
"""How a 200 answer says an error."""

CODED: dict[str, Shape] = {
    **SHAPES,
    "code beside the error": lambda words: {"error": {"message": words}, "code": "insufficient_quota"},
    "status beside the error": lambda words: {"error": words, "status": 429},
    "code and msg of a service": lambda words: {"code": 1113, "msg": words},
    "Gemini's list with a long code": lambda words: [{"error": {"code": 503, "message": words}}],
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("shape", CODED)
def test_no_framing_loses_anything_of_an_error(shape: str, framing: str) -> None:
    """Class, status, code, words and body of an error within an answer are the same however it is framed and cut."""
    answer = CODED[shape]("不行 no")
    expected = error_within(answer)
    assert expected is not None
    content = FRAMINGS[framing](answer)
    for pieces in ([content], [content[:-9], content[-9:]], [bytes([byte]) for byte in content]):
        events, error = openai(*pieces)
        assert [event.text for event in events if isinstance(event, TextDelta)] == ["Hi"] * ("text" in framing)
        assert isinstance(error, APIStatusError)
        for name in ("status_code", "code", "message", "body", "hint"):
            assert getattr(error, name) == getattr(expected, name)
        assert (type(error), error.message) == (type(expected), "不行 no")


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_message_within_an_answer_reaches_the_caller(raw_server: RawServer, face: Face, framing: str) -> None:
    """A call whose answer of a real server has status 200 and is an error, in any shape and framing, ends with that."""
    answers = iter(CODED.values())

    def answer(_: bytes) -> list[Any]:
        body = FRAMINGS[framing](next(answers)("不行 no"))
        fields = f"Content-Type: text/event-stream\r\nrequest-id: r7\r\nContent-Length: {len(body)}"
        return [f"HTTP/1.1 200 OK\r\n{fields}\r\n\r\n".encode() + body, None]

    raw_server.steps = answer
    with Client(KEY, base_url=raw_server.url, retry=None) as client:
        for shape in CODED.values():
            expected, error = error_within(shape("不行 no")), face.ask(client).error
            assert isinstance(error, APIStatusError)
            assert (type(error), error.message, error.request_id) == (type(expected), "不行 no", "r7")
            assert error.headers["request-id"] == "r7"


@pytest.mark.parametrize("shape", CODED)
def test_a_list_of_models_that_is_an_error_is_the_services(raw_server: RawServer, shape: str) -> None:
    """What is read at once is looked at for an error as an answer to a chat is."""
    expected = error_within(CODED[shape]("不行 no"))
    body = json.dumps(CODED[shape]("不行 no")).encode()
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    with Client(KEY, base_url=raw_server.url, retry=None) as client, pytest.raises(APIStatusError) as caught:
        client.models()
    assert (type(caught.value), caught.value.message) == (type(expected), "不行 no")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<html><title>Sign in</title><p>Hotel", "the answer is an HTML page, titled 'Sign in': Hotel"),
        ('{"title": "not today"}', 'the answer is not a list of models: \'{"title": "not today"}\''),
        ("not today", "the answer is not a list of models: Expecting value: 'not today'"),
        ("", "the answer is not a list of models: it is empty"),
    ],
)
def test_what_came_in_the_place_of_a_list_of_models_is_shown(raw_server: RawServer, body: str, words: str) -> None:
    """A page is named, and of anything else the beginning is shown."""
    raw_server.answer(f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
    with Client(KEY, base_url=raw_server.url, retry=None) as client, pytest.raises(ProtocolError) as caught:
        client.models()
    assert str(caught.value) == words


@pytest.mark.parametrize("status", [200, 201, 202, 206])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_an_error_within_an_answer_has_the_status_of_the_answer(
    raw_server: RawServer, framing: str, status: int
) -> None:
    """Where an error names no status, it has that of HTTP, whichever that is."""
    body = FRAMINGS[framing]({"error": {"message": "Busy"}})
    raw_server.answer(b"HTTP/1.1 %d OK\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
    with Client(KEY, base_url=raw_server.url, retry=None) as client, pytest.raises(APIStatusError) as caught:
        client.complete("Hello")
    assert (caught.value.status_code, caught.value.message) == (status, "Busy")


def test_what_an_error_says_is_limited() -> None:
    """Words without end are cut."""
    for words in ("\x1b" * 10**6, "a" * 10**7, ["x" * 10**6] * 10):
        error = openai(sse({"error": {"message": words}})).error
        assert isinstance(error, APIStatusError)
        assert 60_000 < len(error.message) < 400_000
    errors = {str(number): {"errors": {"b": "no"}} for number in range(100_000)}
    assert str(openai(sse({"errors": errors, "status": 400})).error).count("no") == 10


def test_the_text_before_the_error_of_a_choice_is_not_lost() -> None:
    """A router that fails behind its model's words says so in the choice; the words come first, and no end."""
    error = {
        "message": "Upstream died",
        "code": 502,
        "metadata": {"provider_name": "X", "raw": '{"message": "no gpu"}'},
    }
    for field in ("delta", "message"):
        choice = {"index": 0, field: {"content": "Hi"}, "error": error, "finish_reason": "error"}
        events, found = openai(sse({**chunk(), "choices": [choice]}))
        assert events == [STARTED, TextDelta("Hi")]
        assert isinstance(found, InternalServerError)
        assert found.message == "Upstream died: no gpu"


# Text in the place of an answer -------------------------------------------------------------------------------

TEXTS = [
    "quota exceeded",
    "Error: quota exceeded",
    "配额已用尽",
    "upstream\nquota exceeded",
    "data quota exceeded",
    "-",
]


@pytest.mark.parametrize("label", ["text/plain", "text/html", "application/json", "text/event-stream", ""])
@pytest.mark.parametrize("text", TEXTS)
def test_text_in_the_place_of_an_answer_is_shown(raw_server: RawServer, face: Face, text: str, label: str) -> None:
    """Words without any frame are told, not called something else, and not asked for again in vain."""
    body = text.encode()
    raw_server.answer(
        f"HTTP/1.1 200 OK\r\nContent-Type: {label}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
    )
    error = face.ask(Client(KEY, base_url=raw_server.url, retry=Retry(3, 0))).error
    assert type(error) is ProtocolError
    assert repr(text)[1:-1] in str(error)
    assert "page" not in str(error)
    assert len(raw_server.requests) == 1


@pytest.mark.parametrize(
    "content",
    [
        b": ping\n\nno gpu\n",
        b"event: failure\ndata: no gpu\n\n",
        sse({"x": "no gpu"}),
        sse({"choices": [], "x": "no gpu"}),
    ],
)
@pytest.mark.parametrize("end", [b"", sse(DONE)], ids=["cut", "complete"])
def test_an_answer_that_holds_nothing_shows_what_came(content: bytes, end: bytes) -> None:
    """What is no part of an answer may be the service's words."""
    error = openai(content + end).error
    assert type(error) is (ProtocolError if end else StreamInterruptedError)
    assert "no gpu" in str(error)


@pytest.mark.parametrize("name", ["gbk", "gb2312", "GB18030", "big5", "shift_jis", "euc-kr", "utf-16", "windows-1251"])
@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("kind", ["JSON", "page", "page that says so itself"])
def test_words_are_read_in_the_encoding_of_their_label(
    raw_server: RawServer, name: str, status: int, kind: str
) -> None:
    """Pages and JSON of gateways come in other encodings than UTF-8, and say so."""
    words = {"euc-kr": "가나다", "windows-1251": "Отказано", "shift_jis": "エラー"}.get(name, "中文")
    page = f"<html><meta charset={name}><title>{words}</title>"
    body = (json.dumps({"error": words}, ensure_ascii=False) if kind == "JSON" else page).encode(name)
    if kind != "page that says so itself":
        label = f'Content-Type: {"application/json" if kind == "JSON" else "text/html"}; charset="{name}"\r\n'
    else:
        label = "Content-Type: text/html\r\n"
    if (name == "utf-16") and (status == 200 or "itself" in kind):
        pytest.skip("its first bytes are no text's")
    raw_server.answer(f"HTTP/1.1 {status} X\r\n{label}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    with Client(KEY, base_url=raw_server.url, retry=None) as client, pytest.raises(ChatAnywhereError, match=words):
        client.complete("Hello")


@pytest.mark.parametrize(
    "label", ["gbk", "hex", "zlib", "punycode", "no-such", "unicode_escape", "idna", "utf-7", "\xe9", ""]
)
def test_what_is_wrongly_labelled_is_read_as_utf_8(label: str) -> None:
    """UTF-8 is read as such whatever it is called, and no label leads to an error or to another kind of codec."""
    head = AnswerHead(400, {"content-type": f"text/plain; charset={label}"})
    assert error_from(head, "不行 no".encode()).message == "不行 no"
    assert error_from(head, "不行 no".encode()[:-4] + b"\xff no").message.endswith(" no")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        [],
        "",
        {"error": None},
        {"error": ""},
        {"error": {}},
        {"error": []},
        {"error": {"message": None, "code": None}},
        {"error": {"message": ""}},
        {"message": " "},
    ],
    ids=repr,
)
def test_an_error_that_says_nothing_says_so(answer: Any) -> None:
    """Only where there is no word, code nor any other field, the service gave no reason."""
    assert error_from(AnswerHead(500, JSON), json.dumps(answer).encode()).message == NO_REASON


FIELDS = st.sampled_from(["error", "message", "msg", "detail", "code", "error_code", "type", "text", "x"])
LEAVES = st.text("ab用", min_size=1, max_size=5) | st.integers(1, 99_999)


@given(st.dictionaries(FIELDS, LEAVES | st.dictionaries(FIELDS, LEAVES, min_size=1), min_size=1))
def test_an_error_is_never_without_a_reason_when_there_is_any(answer: dict[str, Any]) -> None:
    """Whatever stands in an error is shown, as words or as the JSON that it is."""
    error = error_from(AnswerHead(500, JSON), json.dumps(answer).encode())
    assert error.message not in ("", NO_REASON)
    assert "\\u" not in error.message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (rb'{"data": "\u7528\u6237"}', '{"data": "用户"}'),
        (rb'{"error": {"mess\u7528', '{"error": {"mess用'),
        (rb"upstream: \u7528\u6237", "upstream: 用户"),
        (rb'{"error": {"message": "upstream: \\u7528\\u6237"}}', "upstream: 用户"),
        (rb'{"error": "\ud83d\ude00"}', "😀"),
        (rb'{"error": "\\ud83d\\ude00"}', "😀"),
        (rb'{"error": "\ud83d"}', "\ufffd"),
        (rb'{"error": "\\ud83d"}', "\ufffd"),
        (rb'{"error": "\\u001b[2J"}', r"\u001b[2J"),
        (rb'{"error": "\u001b[2J"}', r"\u001b[2J"),
        (rb'{"error": "C:\\users \\u12"}', r"C:\users \u12"),
    ],
)
def test_escapes_are_shown_as_their_characters(content: bytes, message: str) -> None:
    r"""No reader has to know what `\u7528` is; control characters stay escaped, and all of it can be printed."""
    error = error_from(AnswerHead(400, {}), content)
    assert error.message == message
    assert str(error).encode()


CONTROLS = [chr(code) for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n"]
SAYINGS: dict[str, Callable[[str], tuple[AnswerHead, bytes]]] = {
    "message": lambda text: (AnswerHead(400), json.dumps({"error": {"message": text}}).encode()),
    "field": lambda text: (AnswerHead(400), json.dumps({"what": text}).encode()),
    "place": lambda text: (AnswerHead(400), json.dumps({"detail": [{"loc": [text], "msg": "no"}]}).encode()),
    "text": lambda text: (AnswerHead(400), f"({text})".encode()),
    "page": lambda text: (AnswerHead(400), f"<html><title>{text}</title><p>{text}".encode()),
    "location": lambda text: (AnswerHead(302, {"location": text}), b""),
    "reason": lambda text: (AnswerHead(400, reason=f"({text})"), b""),
    "challenge": lambda text: (AnswerHead(401, {"www-authenticate": f'Bearer error_description="({text})"'}), b""),
}


@pytest.mark.parametrize("saying", SAYINGS)
def test_no_terminal_obeys_a_service(saying: str) -> None:
    """Control characters in what a service says are not in what is printed, wherever they stood."""
    for control in CONTROLS:
        error = error_from(*SAYINGS[saying](f"a{control}[2Jb"))
        assert control not in str(error)
        assert "[2Jb" in str(error)
    assert error_from(*SAYINGS["message"]("a\r\nb\n\tc")).message == "a\r\nb\n\tc"


@pytest.mark.parametrize("framing", FRAMINGS)
def test_no_terminal_obeys_what_an_answer_says(framing: str) -> None:
    """The same holds for errors within an answer."""
    for control in CONTROLS:
        assert control not in str(openai(FRAMINGS[framing]({"error": {"message": f"a{control}b"}})).error)


@pytest.mark.parametrize("body", [b"", b"{}", b" ", b'{"error": null}'])
@pytest.mark.parametrize(
    ("reason", "headers", "message"),
    [
        ("I am full of reasons", {}, "I am full of reasons"),
        ("", {}, NO_REASON),
        ("I'm a Teapot", {}, NO_REASON),
        (
            "",
            {"WWW-Authenticate": 'Bearer realm="x", error="invalid_token", error_description="it \\"expired\\""'},
            'it "expired"',
        ),
        ("", {"WWW-Authenticate": 'Bearer realm="x"'}, NO_REASON),
    ],
)
def test_the_head_is_asked_where_the_body_says_nothing(
    raw_server: RawServer, face: Face, body: bytes, reason: str, headers: dict[str, str], message: str
) -> None:
    """Words of the server's own behind the status, and those of a challenge, are a reason."""
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    raw_server.answer(f"HTTP/1.1 418 {reason}\r\n{fields}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    error = face.ask(Client(KEY, base_url=raw_server.url)).error
    assert isinstance(error, APIStatusError)
    assert error.message == message


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 305, 307, 308, 399])
@pytest.mark.parametrize("location", ["https://else.example/v1", ""])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_words_of_a_redirect_are_told(status: int, location: str, shape: str) -> None:
    """They stand behind the place that it names, and alone where it names none."""
    headers = {"location": location} if location else {}
    error = error_from(AnswerHead(status, headers), json.dumps(SHAPES[shape]("moved 搬")).encode())
    assert error.status_code == status
    assert error.message == (f"the server redirects to {location!r}: moved 搬" if location else "moved 搬")
    assert bool(error.hint) is bool(location)


REQUEST_IDS = [
    "x-request-id",
    "request-id",
    "x-ms-request-id",
    "apim-request-id",
    "x-amzn-requestid",
    "x-litellm-call-id",
    "cf-ray",
]


@pytest.mark.parametrize("name", REQUEST_IDS)
@pytest.mark.parametrize("status", [200, 400])
def test_the_name_of_a_request_is_found_in_all_headers(
    raw_server: RawServer, face: Face, name: str, status: int
) -> None:
    """Services call it differently; where there are several, the service's own goes before those around it."""
    names = REQUEST_IDS[REQUEST_IDS.index(name) :]
    fields = "".join(f"{each.title()}: {each}-1\r\n" for each in reversed(names))
    raw_server.answer(f'HTTP/1.1 {status} X\r\n{fields}Content-Length: 11\r\n\r\n{{"error":1}}'.encode())
    error = face.ask(Client(KEY, base_url=raw_server.url)).error
    assert isinstance(error, APIStatusError)
    assert error.request_id == f"{name}-1"


def test_the_place_of_a_field_is_told() -> None:
    """FastAPI says which field of the request is wrong, and so does the message."""
    detail = [
        {"loc": ["body", "messages", 0], "msg": "field required"},
        {"loc": ["body", "n"], "msg": "not a number"},
    ]
    error = error_from(AnswerHead(422, JSON), json.dumps({"detail": detail}).encode())
    assert error.message == "body.messages.0: field required; body.n: not a number"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<html><title>502 Bad Gateway</title><body><center>nginx", "titled '502 Bad Gateway': nginx"),
        ("<TITLE>Log in</TITLE><p>Please &amp; <b>pay</b></p>", "titled 'Log in': Please & pay"),
        ("<html><script>if (a < b) {}</script><style>p {}</style><!-- no --><p>Blocked", "an HTML page: Blocked"),
        ("<html></html>", "an HTML page"),
        ("<html><title>Oops", "an HTML page, titled 'Oops'"),
        ("<?xml version='1.0'?><Error><Code>Denied</Code></Error>", "an XML document: Denied"),
        ("<?xml version='1.0'?><!DOCTYPE html><html><title>Hi</title>", "an HTML page, titled 'Hi'"),
    ],
)
def test_a_page_is_told_by_its_title_and_words(page: str, message: str) -> None:
    """Of the page of a gateway, what a browser would show is shown, in short."""
    assert error_from(AnswerHead(502, {"content-type": "text/html"}), page.encode()).message.endswith(message)


# The status ---------------------------------------------------------------------------------------------------

NO_STATUSES = (
    st.integers(-(10**6), 399)
    | st.integers(600, 10**6)
    | st.integers(-(10**6), 399).map(str)
    | st.integers(600, 10**6).map(str)
    | st.floats(400, 599)
    | st.sampled_from(
        ["4291", "429x", "x429", "429.0", "4 29", "", "rate_limited", "٤٢٩", True, None, [429], {"429": 1}]
    )
)
STATUS_FIELDS = ["code", "status", "status_code"]


@pytest.mark.parametrize("shape", ["nested", "flat"])
@pytest.mark.parametrize("field", [*STATUS_FIELDS, "error_code"])
@given(value=NO_STATUSES)
def test_a_code_that_is_no_status_is_none(shape: str, field: str, value: Any) -> None:
    """`'1305'`, `1113` and `50001` are the service's own, and the error has the status of the answer."""
    fields = {"message": "Busy", field: value}
    error = error_within({"error": fields} if shape == "nested" else {"object": "error", **fields})
    assert error is not None
    assert error.status_code == 200
    assert type(error) is APIStatusError


@pytest.mark.parametrize("shape", ["nested", "flat"])
@pytest.mark.parametrize("field", STATUS_FIELDS)
@given(status=st.integers(400, 599), way=st.sampled_from([int, str, "{} SOME_WORDS".format, "{} Some words".format]))
def test_a_status_that_an_error_names_is_its_own(
    shape: str, field: str, status: int, way: Callable[[int], Any]
) -> None:
    """An error within an answer has the status from 400 to 599 that it names, whole or with its words behind it."""
    fields = {"message": "Busy", field: way(status)}
    error = error_within({"error": fields} if shape == "nested" else {"object": "error", **fields})
    assert error is not None
    assert error.status_code == status


@given(status=st.integers(400, 599), named=st.integers(400, 599))
def test_the_status_of_the_answer_goes_before(status: int, named: int) -> None:
    """A code in the body does not change the status that HTTP has told."""
    body = json.dumps({"error": {"message": "Busy", "code": named}}).encode()
    assert error_from(AnswerHead(status, JSON), body).status_code == status


# Whether it is one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "", "error_code": 50001},
        {"error_code": "50001"},
        {"code": 1305, "data": None},
        {"detail": "Not Found"},
        {"error": {}, "code": 5, "message": "x"},
        {"status": 503},
        {"type": "response.failed", "response": {"error": None}},
        {"success": False},
        {"base_resp": {"status_code": 1004}},
        {"detail": {"code": "overloaded"}},
    ],
    ids=repr,
)
def test_an_error_that_is_not_called_so_is_one(answer: Any) -> None:
    """A code other than 0 or 200, or words, in an object without choices are an error with the answer's status."""
    error = error_within(answer)
    assert error is not None
    assert (error.status_code, error.body) == (503 if "status" in answer else 200, answer)
    assert error.message != NO_REASON


@pytest.mark.parametrize(
    "answer",
    [
        chunk(content="Hi"),
        chunk("stop"),
        {"error": None, **chunk(content="Hi")},
        {"code": 0, **chunk(content="Hi")},
        {"message": "x", **chunk(content="Hi")},
        {"object": "chat.completion.chunk", "choices": [], "usage": USAGE},
        {"object": "chat.completion.chunk", "choices": [], "message": "x"},
        {"code": 0, "msg": "ok", "data": {}},
        {"code": 200, "message": "ok"},
        {"code": 201, "message": "created"},
        {"code": "ok", "message": "done"},
        {"success": True, "message": "ok"},
        {"object": "list", "data": [{"id": "m"}], "message": "ok"},
        {"base_resp": {"status_code": 0, "status_msg": "success"}},
        {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
        {"type": "response.created", "response": {"status": "in_progress", "error": None, "metadata": {}}},
        {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "max_output_tokens"}}},
        {"type": "status", "description": "searching the web"},
        {"status": "processing", "title": "thinking"},
        {"choices": [{"error": None, "delta": {"content": "Hi"}}]},
        {"message": {"role": "assistant", "content": "Hi"}, "done": False},
        {"type": "ping"},
        {"choices": []},
        {},
        [],
        [chunk(content="Hi")],
        [1],
        [1, {"error": "no"}],
        [chunk(content="Hi"), {"error": "no"}],
        "error",
        None,
        5,
    ],
    ids=repr,
)
def test_what_is_no_error_is_none(answer: Any) -> None:
    """Pieces of an answer, counts, pings and codes that say that all is fine are no errors."""
    assert error_within(answer) is None


# What is known of it ------------------------------------------------------------------------------------------

CODES = {
    "insufficient_quota": QuotaExceededError,
    "context_length_exceeded": PromptTooLongError,
    "exceed_context_size_error": PromptTooLongError,
    "exceeded_current_quota_error": QuotaExceededError,
    "insufficient_user_quota": QuotaExceededError,
    "billing_hard_limit_reached": QuotaExceededError,
    "model_not_found": NotFoundError,
    "DeploymentNotFound": NotFoundError,
    "invalid_model": NotFoundError,
    "budget_exceeded": QuotaExceededError,
    "billing_not_active": QuotaExceededError,
    "unknown_model": NotFoundError,
    "unavailable_model": NotFoundError,
    "model_not_available": NotFoundError,
    "model_decommissioned": NotFoundError,
    "tokens_limit_reached": PromptTooLongError,
    "key_model_access_denied": ModelNotAllowedError,
    "no_db_connection": AuthenticationError,
}
PLACES: dict[str, Callable[[str], Any]] = {
    "code": lambda code: {"error": {"message": "no", "code": code}},
    "type": lambda code: {"error": {"message": "no", "type": code, "code": None}},
    "code beside": lambda code: {"error": "no", "code": code},
    "code alone": lambda code: {"message": "no", "code": code},
    "type alone": lambda code: {"object": "error", "message": "no", "type": code},
    "list": lambda code: [{"error": {"message": "no", "code": code}}],
    "detail": lambda code: {"detail": {"code": code, "message": "no"}},
    "detail's error": lambda code: {"detail": {"error": {"message": "no", "code": code}}},
    "errors": lambda code: {"errors": [{"message": "no", "code": code}]},
    "a later error": lambda code: {"errors": [{"message": "no"}, {"message": "no", "code": code}]},
    "error is the code": lambda code: {"error": code},
    "error_type": lambda code: {"error": "no", "error_type": code},
    "error_code": lambda code: {"error": "no", "error_code": code},
    "upper case": lambda code: {"error": {"message": "no", "code": code.upper()}},
    "innererror": lambda code: {"error": {"message": "no", "code": "x", "innererror": {"code": code}}},
    "JSON in a message": lambda code: {"error": {"message": json.dumps({"error": {"message": "no", "code": code}})}},
    "JSON behind words": lambda code: {
        "error": {"message": f"Upstream: {{'error': {{'code': '{code}'}}}}", "code": "429"}
    },
    "metadata": lambda code: {"error": {"message": "no", "metadata": {"raw": json.dumps({"code": code, "msg": "x"})}}},
    "failed response": lambda code: {"type": "response.failed", "response": {"error": {"code": code, "message": "no"}}},
}


@pytest.mark.parametrize("status", [200, 400, 402, 403, 413, 422, 429, 500, 503])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", CODES)
def test_a_known_code_decides_the_class(code: str, place: str, status: int) -> None:
    """Codes that OpenAI and others have in common mean the same whatever the status, have a hint, and are no reason to
    try again.
    """
    answer = PLACES[place](code)
    error = error_within(answer) if status == 200 else error_from(AnswerHead(status, JSON), json.dumps(answer).encode())
    assert type(error) is CODES[code]
    assert error.status_code == (429 if status == 200 and "429" in str(answer) else status)
    assert error.hint
    error.attempts = 1
    assert CODES[code] is NotFoundError or Retry(3).wait_before_next(error, 1, None) is None


@pytest.mark.parametrize("status", [400, 403, 413])
@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens.",
        "prompt is too long: 210000 tokens > 200000 maximum",
        "Prompt is too long",
        "input length and `max_tokens` exceed context limit: 190000 + 20000 > 200000",
        "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
        "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 5000 `inputs` tokens",
        "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",
        "Prompt contains 40000 tokens, too large for model with 32768 maximum context length",
    ],
)
def test_a_prompt_that_is_too_long_is_told_by_its_words(status: int, words: str) -> None:
    """Servers that give no code say it in sentences of their own."""
    error = error_from(AnswerHead(status, JSON), json.dumps({"error": {"message": words}}).encode())
    assert type(error) is PromptTooLongError


SENTENCES = {
    "LiteLLM knows no model": (
        400,
        {
            "message": "/chat/completions: Invalid model name passed in model=a. Call `/v1/models` to view",
            "code": "400",
        },
        NotFoundError,
    ),
    "DeepSeek knows no model": (400, {"message": "Model Not Exist", "code": "invalid_request_error"}, NotFoundError),
    "OpenRouter knows no model": (400, {"message": "a/b is not a valid model ID", "code": 400}, NotFoundError),
    "OpenAI's quota behind LiteLLM": (
        429,
        {
            "message": "litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your current quota, "
            "please check your plan and billing details. For more information on this error, read the docs: "
            "https://platform.openai.com/docs/guides/error-codes/api-errors."
            "\n\nLiteLLM: model group 'a' failed with the error above. No fallback was attempted.",
            "type": "throttling_error",
            "code": "429",
        },
        QuotaExceededError,
    ),
    "Gemini's limit behind LiteLLM, which takes it for OpenAI": (
        429,
        {
            "message": "litellm.RateLimitError: RateLimitError: OpenAIException - You exceeded your current quota, "
            "please check your plan and billing details. For more information on this error, head to: "
            "https://ai.google.dev/gemini-api/docs/rate-limits.\n* Quota exceeded for metric: requests, limit: 10\n"
            "Please retry in 11.1s.",
            "type": "throttling_error",
            "code": "429",
        },
        RateLimitError,
    ),
    "Gemini's limit": (
        429,
        {"message": "You exceeded your current quota. Please retry in 20.5s.", "status": "RESOURCE_EXHAUSTED"},
        RateLimitError,
    ),
    "OpenRouter's limit of the minute": (
        429,
        {"message": "Rate limit exceeded: free-models-per-min. ", "code": 429},
        RateLimitError,
    ),
    "OpenRouter's limit of the day": (
        429,
        {"message": "Rate limit exceeded: free-models-per-day. Add 10 credits to unlock 1000", "code": 429},
        QuotaExceededError,
    ),
    "OpenRouter's credits": (
        402,
        {"message": "This request requires more credits, or fewer max_tokens.", "code": 402},
        InsufficientBalanceError,
    ),
    "DeepSeek's balance": (402, {"message": "Insufficient Balance", "type": "unknown_error"}, InsufficientBalanceError),
    "SiliconFlow's balance": (
        403,
        {"code": 30001, "message": "Sorry, your account balance is insufficient"},
        InsufficientBalanceError,
    ),
    "Zhipu's balance": (429, {"code": "1113", "message": "您的账户已欠费，请充值后重试。"}, QuotaExceededError),
    "Zhipu's limit": (429, {"code": "1302", "message": "您当前使用该API的并发数过高"}, RateLimitError),
    "Zhipu knows no model": (400, {"code": "1211", "message": "模型不存在，请检查模型代码。"}, NotFoundError),
    "SiliconFlow knows no model": (
        400,
        {"code": 20012, "message": "Model does not exist. Please check it carefully."},
        NotFoundError,
    ),
    "xAI knows no model": (400, {"message": "Model not found: grok-9"}, NotFoundError),
    "OpenAI knows no model": (400, {"message": "invalid model ID", "param": "model"}, NotFoundError),
    "Perplexity knows no model": (
        400,
        {"message": "litellm.BadRequestError: PerplexityException - Invalid model 'perplexity/sonar'.", "code": "400"},
        NotFoundError,
    ),
    "Groq and a long text": (
        413,
        {
            "message": "Request too large for model `a` on tokens per minute (TPM): Limit 6000, Requested 12328, "
            "please reduce your message size and try again.",
            "code": "rate_limit_exceeded",
        },
        PromptTooLongError,
    ),
    "vLLM and a picture": (500, {"message": "a is not a multimodal model", "code": 500}, BadRequestError),
    "LiteLLM without a database": (
        400,
        {"message": "No connected db.", "type": "no_db_connection"},
        AuthenticationError,
    ),
    "LiteLLM's budget": (
        422,
        {"message": "Budget has been exceeded! Current cost: 2.0, Max budget: 1.0", "type": "budget_exceeded"},
        QuotaExceededError,
    ),
    "llama.cpp and a long text": (
        500,
        {
            "code": 500,
            "message": "input (6001 tokens) is too large to process. increase the physical batch size "
            "(current batch size: 512)",
            "type": "server_error",
        },
        PromptTooLongError,
    ),
    "llama.cpp and a picture": (
        500,
        {
            "code": 500,
            "message": "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj",
            "type": "server_error",
        },
        BadRequestError,
    ),
}


@pytest.mark.parametrize(("status", "told", "kind"), SENTENCES.values(), ids=SENTENCES)
def test_what_other_servers_say_is_known(status: int, told: dict[str, Any], kind: type[APIStatusError]) -> None:
    """What is no use trying again is none of the errors that are tried again, whatever the status it is told by."""
    error = error_from(AnswerHead(status, JSON, "http://127.0.0.1:4000"), json.dumps({"error": told}).encode())
    assert type(error) is kind
    assert error.status_code == status
    assert error.hint
    error.attempts = 1
    assert (Retry(3).wait_before_next(error, 1, None) is None) is (kind is not RateLimitError)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "Invalid value: 'invalid_model_settings'", BadRequestError),
        (400, "Unsupported value: 'temperature' does not support 0.2 with this model.", BadRequestError),
        (400, "This 'model' is not a valid model ID field", BadRequestError),
        (400, "you must provide a model parameter", BadRequestError),
        (429, "no_insufficient_quota: wait a second", RateLimitError),
        (429, "Rate limit reached for gpt-4o on requests per day (RPD): Limit 200. Try again in 7m12s", RateLimitError),
        (429, "The model is overloaded. Please try again later.", RateLimitError),
        (503, "No deployments available for selected model, Try again in 5 seconds", InternalServerError),
    ],
)
def test_words_like_those_of_others_decide_nothing(status: int, words: str, kind: type[APIStatusError]) -> None:
    """A code that is part of another, and a model that is merely spoken of, leave the class to the status."""
    assert type(error_from(AnswerHead(status, JSON), json.dumps({"error": words}).encode())) is kind


def test_a_spent_quota_within_an_answer_is_asked_once(raw_server: RawServer, face: Face) -> None:
    """An error in an answer with status 200 is read before it is decided whether to try again."""
    frame = json.dumps({"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    body = f"data: {frame}\n\ndata: {DONE}\n\n".encode()
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nx-request-id: r1\r\n\r\n" + body)
    error = face.ask(Client(KEY, base_url=raw_server.url, retry=Retry(3, 0))).error
    assert isinstance(error, QuotaExceededError)
    assert (error.attempts, error.request_id, len(raw_server.requests)) == (1, "r1", 1)


@pytest.mark.parametrize("text", ["", "Hi"], ids=["before any text", "behind text"])
@pytest.mark.parametrize("retry", [None, Retry(2, 0)], ids=["one attempt", "two attempts"])
def test_an_error_within_an_answer_has_the_request_s_name(
    raw_server: RawServer, face: Face, text: str, retry: Retry | None
) -> None:
    """`request_id` is what the service wants to know, of errors in an answer with status 200 as well."""
    frames = [json.dumps(chunk(content=text))] * bool(text) + [
        json.dumps({"error": {"message": "Down", "code": "500"}})
    ]
    body = "".join(f"data: {frame}\n\n" for frame in frames).encode()
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nx-request-id: r1\r\n\r\n" + body)
    error = face.ask(Client(KEY, base_url=raw_server.url, retry=retry)).error
    assert isinstance(error, InternalServerError)
    assert (error.request_id, error.partial) == ("r1", text)


@pytest.mark.parametrize("unit", ["requests per min (RPM)", "requests per day (RPD)", "tokens per day (TPD)"])
@pytest.mark.parametrize("base_url", [OURS, "https://api.openai.com", None])
def test_a_rate_limit_that_passes_is_no_spent_quota(unit: str, base_url: str | None) -> None:
    """A limit counted by the day that frees one request after the other is waited for."""
    words = f"Rate limit reached for gpt-4o on {unit}: Limit 10000, Used 10000. Please try again in 8.64s."
    answer = {"error": {"message": words, "type": "requests", "code": "rate_limit_exceeded"}}
    error = error_from(AnswerHead(429, JSON, base_url), json.dumps(answer).encode())
    assert type(error) is RateLimitError
    assert "00:00" not in (error.hint or "")


KNOWN_WORDS = {
    "免费API限制每日200次请求": (429, QuotaExceededError),
    "Your free account is limited to 200 requests per day": (429, QuotaExceededError),
    "免费API限制模型输入token小于4096": (403, PromptTooLongError),
    "The number of prompt tokens for free accounts is limited to 4096": (403, PromptTooLongError),
    "免费API限制使用gpt-4": (403, ModelNotAllowedError),
    "Your free account is limited to use gpt-4": (403, ModelNotAllowedError),
    "账户余额过低": (403, InsufficientBalanceError),
    "Your balance is not sufficient": (403, InsufficientBalanceError),
    "请求客户端IP不支持访问": (403, PermissionDeniedError),
    "模型无返回结果": (503, InternalServerError),
    "wrong api key": (401, AuthenticationError),
    "This api key has been suspended": (401, AuthenticationError),
    "Incorrect API key provided: sk-abc.": (401, AuthenticationError),
}
OF_THE_SERVICE = ("ree key", "paid key", "ree quota", "00:00", "4096", "api.chatanywhere", "/v1/completions", KEY_PAGE)


@pytest.mark.parametrize("words", KNOWN_WORDS)
@pytest.mark.parametrize("within", [True, False], ids=["within an answer", "by status"])
def test_what_is_said_by_a_relay_is_known_and_its_hint_is_true(
    raw_server: RawServer, face: Face, words: str, within: bool
) -> None:
    """A relay forwards the service's words: the class is the same, the hint speaks of no rule of ChatAnywhere's, and
    where it names a host it is the one that was asked.
    """
    status, kind = KNOWN_WORDS[words]
    body = json.dumps({"error": {"message": words, "code": f"{status} X"}}).encode()
    raw_server.answer(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (200 if within else status, len(body), body))
    error = face.ask(Client(KEY, base_url=raw_server.url, retry=None)).error
    assert isinstance(error, APIStatusError)
    assert type(error) is kind
    assert error.hint
    assert not [each for each in OF_THE_SERVICE if each in error.hint]
    assert " here" not in error.hint
    ours = error_from(AnswerHead(status, JSON, OURS), body)
    assert type(ours) is kind
    assert " here" not in (ours.hint or "")


@pytest.mark.parametrize(
    "answer",
    [
        {"detail": "Not Found"},
        {"error": "model 'x' not found"},
        {"object": "error", "message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404},
        {"error": {"code": "DeploymentNotFound", "message": "The API deployment does not exist."}},
    ],
)
@pytest.mark.parametrize("base_url", [OURS, "http://127.0.0.1:11434/v1", "https://me.example/openai/deployments/x"])
def test_a_404_may_be_of_the_path_or_of_the_model(answer: Any, base_url: str) -> None:
    """The hint names the host and both, and says nothing of how a base URL has to look."""
    error = error_from(AnswerHead(404, JSON, base_url), json.dumps(answer).encode())
    assert type(error) is NotFoundError
    assert str(AnswerHead(base_url=base_url).host) in (error.hint or "")
    assert "model=" in (error.hint or "")
    assert "base_url=" in (error.hint or "")
    assert "/v1" not in (error.hint or "")


@pytest.mark.parametrize("words", ["", "wrong api key", "no"])
def test_a_key_that_is_never_sent_is_not_blamed(words: str) -> None:
    """The web protocol sends no key, so its hint is about the protocol."""
    with LoopbackServer(faults=[Fault.status(401, words)]) as server, pytest.raises(AuthenticationError) as caught:
        Client(protocol="web", base_url=server.url).complete("Hello")
    assert "protocol='openai'" in (caught.value.hint or "")
    assert "api_key" not in (caught.value.hint or "")


HOSTS = [
    "https://api.openai.com",
    "http://127.0.0.1:8000/v1",
    "https://chatanywhere.tech.evil.example",
    "http://[::1]:1",
]
REFUSALS = [
    (401, "something else"),
    (401, "wrong api key"),
    (401, "Incorrect API key provided: sk-abc."),
    (401, "This api key has been suspended"),
]


@pytest.mark.parametrize(("status", "words"), REFUSALS)
@pytest.mark.parametrize("base_url", HOSTS)
def test_a_hint_for_another_host_names_it(base_url: str, status: int, words: str) -> None:
    """Where the key of another service was refused, the hint names the variable and that host, and not our page."""
    hint = error_from(AnswerHead(status, JSON, base_url), json.dumps({"error": words}).encode()).hint or ""
    host = base_url.partition("//")[2].rpartition(":")[0].strip("[]") or base_url.partition("//")[2]
    assert host in hint
    assert "CHATANYWHERE_API_KEY" in hint
    assert KEY_PAGE not in hint
    assert "api.chatanywhere" not in hint


@pytest.mark.parametrize("base_url", [OURS, "https://api.chatanywhere.org", "https://api.chatanywhere.com.cn/v1"])
def test_a_hint_of_chatanywhere_names_the_page_for_keys(base_url: str) -> None:
    """Where ChatAnywhere refused the key, the hint says where another one is to be had."""
    assert KEY_PAGE in (error_from(AnswerHead(401, JSON, base_url), b"").hint or "")


def test_the_hint_knows_what_was_asked() -> None:
    """A real call to a server of one's own that refuses the key names this server."""
    with LoopbackServer(faults=[Fault.status(401)]) as server, pytest.raises(AuthenticationError) as caught:
        Client(KEY, base_url=server.url).complete("Hello")
    assert "127.0.0.1" in (caught.value.hint or "")
    assert KEY_PAGE not in str(caught.value)


def test_a_model_that_there_is_not_is_no_wrong_path() -> None:
    """A 404 for the model gives a hint about the model."""
    error = error_in({"message": "The model `x` does not exist", "code": "model_not_found"})
    assert isinstance(error, NotFoundError)
    assert "model=" in (error.hint or "")


# The tree -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limits", [Timeout(read=0.1), Timeout(total=0.1)], ids=["read", "total"])
@pytest.mark.parametrize("fault", [Fault.timeout(), Fault.timeout(after=0)], ids=["before the answer", "within it"])
def test_a_limit_that_ran_out_is_a_connection_error(face: Face, fault: Fault, limits: Timeout) -> None:
    """`except APIConnectionError` catches timeouts as it does in OpenAI's library, `except TimeoutError` still does."""
    with LoopbackServer(faults=[fault]) as server:
        error = face.ask(Client(KEY, base_url=server.url, retry=None), timeout=limits).error
    assert isinstance(error, APITimeoutError)
    assert isinstance(error, APIConnectionError)
    assert isinstance(error, TimeoutError)


def test_a_timeout_is_not_tried_again_where_that_is_switched_off() -> None:
    """Being a connection error does not make a timeout one to `Retry(on_timeout=False)`."""
    with LoopbackServer(faults=[Fault.timeout()] * 2) as server, pytest.raises(APITimeoutError) as caught:
        Client(KEY, base_url=server.url, retry=Retry(2, 0, on_timeout=False)).complete(
            "Hello", timeout=Timeout(read=0.1)
        )
    assert caught.value.attempts == 1


def test_a_prompt_that_is_too_long_is_caught_either_way() -> None:
    """It is a bad request to other services, and not permitted to a free key by this one."""
    assert issubclass(PromptTooLongError, BadRequestError)
    assert issubclass(PromptTooLongError, PermissionDeniedError)
    assert issubclass(QuotaExceededError, RateLimitError)


# The place that is wrong --------------------------------------------------------------------------------------


@given(st.text(max_size=300), st.integers(0, 300))
def test_an_excerpt_shows_the_place(text: str, place: int) -> None:
    """What is quoted holds the place, is short, and says where something was left out."""
    place = min(place, len(text))
    shown = excerpt(text, place)
    assert repr(text[place : place + 1])[1:-1] in shown or text[place : place + 1] in "'\""
    assert len(shown) <= 10 * 122 + 2
    assert text[: max(0, place - 60)] == "" or shown[1] == "…"
    assert text[place + 60 :] == "" or shown[-2] == "…"


def test_an_excerpt_around_an_error_shows_where_the_reader_stopped() -> None:
    """JSON that is wrong far behind its beginning is shown there."""
    text = json.dumps({"id": "x" * 500}) + "oops"
    with pytest.raises(ValueError) as caught:
        json.loads(text)
    assert "Extra data: '…" in excerpt_around(text, caught.value)
    assert "oops" in excerpt_around(text, caught.value)
    assert excerpt_around(text, RecursionError("too deep")).startswith('too deep: \'{"id"')


@pytest.mark.parametrize("value", [-1, 1.5, True, 1 << 63, -(10**50)])
def test_a_number_that_is_none_is_shown(value: float) -> None:
    """What stands where something else should be is in the error, and at most some of a long number."""
    for answer, where, wanted in (
        ({"choices": value}, "choices", "a list"),
        ({"choices": [{"delta": value}]}, "choices[0].delta", "an object"),
    ):
        error = openai(sse(answer)).error
        assert isinstance(error, ProtocolError)
        assert f"{where} is {json.dumps(value)[:40]}, not {wanted}" in str(error)


@pytest.mark.parametrize("stream", [True, False])
def test_why_json_can_not_be_read_is_told(raw_server: RawServer, stream: bool) -> None:
    """The reader's own words and the place are in the error, streamed or not."""
    content = b'{"choices": oops}'
    body = b"data: %b\n\n" % content if stream else content
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    with Client(KEY, base_url=raw_server.url) as client, pytest.raises(ProtocolError, match=r"Expecting value: .*oops"):
        client.complete("Hello", stream=stream)


# Why there is no key ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "arguments", "reason"),
    [
        ({}, {}, "OPENAI_BASE_URL names one of ChatAnywhere's hosts, and that is not set"),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1"}, {}, "and that is https://api.openai.com/v1"),
        (
            {"OPENAI_API_BASE": "https://api.openai.com/v1"},
            {},
            "if OPENAI_API_BASE.*, and that is https://api.openai.com",
        ),
        (
            {"OPENAI_API_BASE": "https://a.example", "OPENAI_BASE_URL": " "},
            {},
            "if OPENAI_API_BASE.*is https://a.example",
        ),
        (
            {"OPENAI_API_BASE": "https://a.example", "OPENAI_BASE_URL": "b.example"},
            {},
            "if OPENAI_BASE_URL.*is b.example",
        ),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1?key=1"}, {}, r"https://api.openai.com/v1\?…$"),
        ({"OPENAI_BASE_URL": KEY}, {}, "and that looks like a key"),
        ({"OPENAI_BASE_URL": "https://u:pa55@api.openai.com"}, {}, r"and that is https://\*\*\*@api.openai.com"),
        ({"OPENAI_BASE_URL": OURS}, {"base_url": "https://else.example"}, "base_url is https://else.example"),
    ],
)
def test_a_key_of_openai_that_is_not_used_is_explained(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], arguments: dict[str, Any], reason: str
) -> None:
    """Who has set `OPENAI_API_KEY` is told why there is "no API key" nevertheless, and the key is not shown."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(AuthenticationError, match=f"no API key.*OPENAI_API_KEY is set, but .*{reason}") as caught:
        Client(**arguments)
    assert KEY not in str(caught.value)


def test_without_a_key_of_openai_nothing_is_said_of_it() -> None:
    """The usual message stays short, and names the page for keys."""
    with pytest.raises(AuthenticationError, match=KEY_PAGE) as caught:
        Client()
    assert "OPENAI" not in str(caught.value)


def test_who_asks_another_host_is_not_sent_to_our_page() -> None:
    """A key is missing for that host, which is named."""
    with pytest.raises(AuthenticationError, match=r"no API key for http://127\.0\.0\.1:8000") as caught:
        Client(base_url="http://127.0.0.1:8000")
    assert KEY_PAGE not in str(caught.value)
