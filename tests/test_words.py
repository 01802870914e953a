"""The service's own words: every shape of an error is read, and what is known of it is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from decoding import DONE, USAGE, chunk
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
    Client,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    PromptTooLongError,
    QuotaExceededError,
    RateLimitError,
    Retry,
    Timeout,
)
from chatanywhere._protocols.excerpt import excerpt, excerpt_around
from chatanywhere._protocols.service import KEY_PAGE, NO_REASON, error_from, error_in_stream, error_within
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
}

CHUNKED_SHAPES = {name: shape for name, shape in SHAPES.items() if name != "errors"}
"""Those that can be told from a piece of an answer."""

SPOKEN = st.text(st.characters(codec="utf-8", exclude_characters="\\"), min_size=1, max_size=50).filter(str.strip)

WAYS: dict[str, Callable[[Any], str]] = {
    "JSON": json.dumps,
    "JSON in UTF-8": lambda value: json.dumps(value, ensure_ascii=False),
    "JSON over many lines": lambda value: json.dumps(value, indent=2),
    "an event": lambda value: f"data: {json.dumps(value)}\n\n",
    "a named event": lambda value: f"event: error\ndata: {json.dumps(value)}\n\n",
}


# What it says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("shape", SHAPES)
@given(words=SPOKEN, status=st.integers(400, 599))
def test_the_message_is_found_in_every_shape(shape: str, way: str, words: str, status: int) -> None:
    """Whatever the shape of an error, its words are the message, to the character, and its body is kept."""
    content = WAYS[way](SHAPES[shape](words)).encode()
    error = error_from(status, JSON, content)
    assert (error.message, error.status_code) == (words.strip(), status)
    assert error.body == SHAPES[shape](words)


@pytest.mark.parametrize("shape", CHUNKED_SHAPES)
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
    assert error_from(500, JSON, json.dumps(answer).encode()).message == NO_REASON


FIELDS = st.sampled_from(["error", "message", "msg", "detail", "code", "error_code", "type", "text", "x"])
LEAVES = st.text("ab用", min_size=1, max_size=5) | st.integers(1, 99_999)


@given(st.dictionaries(FIELDS, LEAVES | st.dictionaries(FIELDS, LEAVES, min_size=1), min_size=1))
def test_an_error_is_never_without_a_reason_when_there_is_any(answer: dict[str, Any]) -> None:
    """Whatever stands in an error is shown, as words or as the JSON that it is."""
    error = error_from(500, JSON, json.dumps(answer).encode())
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
        (rb'{"error": "C:\\users \\u12"}', r"C:\users \u12"),
    ],
)
def test_escapes_are_shown_as_their_characters(content: bytes, message: str) -> None:
    r"""No reader has to know what `\u7528` is; control characters stay escaped, and all of it can be printed."""
    error = error_from(400, {}, content)
    assert error.message == message
    assert str(error).encode()


def test_the_place_of_a_field_is_told() -> None:
    """FastAPI says which field of the request is wrong, and so does the message."""
    detail = [
        {"loc": ["body", "messages", 0], "msg": "field required"},
        {"loc": ["body", "n"], "msg": "not a number"},
    ]
    error = error_from(422, JSON, json.dumps({"detail": detail}).encode())
    assert error.message == "body.messages.0: field required; body.n: not a number"


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<html><title>502 Bad Gateway</title><body><center>nginx", "titled '502 Bad Gateway': nginx"),
        ("<TITLE>Log in</TITLE><p>Please &amp; <b>pay</b></p>", "titled 'Log in': Please & pay"),
        ("<html><script>if (a < b) {}</script><style>p {}</style><!-- no --><p>Blocked", "an HTML page: Blocked"),
        ("<html></html>", "an HTML page"),
        ("<html><title>Oops", "an HTML page, titled 'Oops'"),
    ],
)
def test_a_page_is_told_by_its_title_and_words(page: str, message: str) -> None:
    """Of the page of a gateway, what a browser would show is shown, in short."""
    assert error_from(502, {"content-type": "text/html"}, page.encode()).message.endswith(message)


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
    assert error_from(status, JSON, body).status_code == status


# Whether it is one --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        {"text": "", "error_code": 50001},
        {"error_code": "50001"},
        {"code": 1305, "data": None},
        {"detail": "Not Found"},
        {"error": {}, "code": 5, "message": "x"},
    ],
    ids=repr,
)
def test_an_error_that_is_not_called_so_is_one(answer: Any) -> None:
    """A code other than 0 or 200, or words, in an object without choices are an error with the answer's status."""
    error = error_within(answer)
    assert error is not None
    assert (error.status_code, error.body) == (200, answer)
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
}
PLACES: dict[str, Callable[[str], Any]] = {
    "code": lambda code: {"error": {"message": "no", "code": code}},
    "type": lambda code: {"error": {"message": "no", "type": code, "code": None}},
    "code beside": lambda code: {"error": "no", "code": code},
    "code alone": lambda code: {"message": "no", "code": code},
    "type alone": lambda code: {"object": "error", "message": "no", "type": code},
    "list": lambda code: [{"error": {"message": "no", "code": code}}],
}


@pytest.mark.parametrize("status", [200, 400, 402, 403, 413, 422, 429, 500, 503])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("code", CODES)
def test_a_known_code_decides_the_class(code: str, place: str, status: int) -> None:
    """Codes that OpenAI and others have in common mean the same whatever the status, have a hint, and are no reason to
    try again.
    """
    answer = PLACES[place](code)
    error = error_within(answer) if status == 200 else error_from(status, JSON, json.dumps(answer).encode())
    assert type(error) is CODES[code]
    assert error.status_code == status
    assert error.hint
    error.attempts = 1
    assert Retry(3).wait_before_next(error, 1, None) is None


@pytest.mark.parametrize("status", [400, 403, 413])
def test_a_prompt_that_is_too_long_is_told_by_its_words(status: int) -> None:
    """Servers that give no code say it in OpenAI's sentence."""
    words = "This model's maximum context length is 4097 tokens. However, you requested 5000 tokens."
    error = error_from(status, JSON, json.dumps({"error": {"message": words}}).encode())
    assert type(error) is PromptTooLongError


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
    hint = error_from(status, JSON, json.dumps({"error": words}).encode(), base_url).hint or ""
    host = base_url.partition("//")[2].rpartition(":")[0].strip("[]") or base_url.partition("//")[2]
    assert host in hint
    assert "CHATANYWHERE_API_KEY" in hint
    assert KEY_PAGE not in hint
    assert "api.chatanywhere" not in hint


@pytest.mark.parametrize("base_url", [OURS, "https://api.chatanywhere.org", "https://api.chatanywhere.com.cn/v1"])
def test_a_hint_of_chatanywhere_names_the_page_for_keys(base_url: str) -> None:
    """Where ChatAnywhere refused the key, the hint says where another one is to be had."""
    assert KEY_PAGE in (error_from(401, JSON, b"", base_url).hint or "")


def test_the_hint_knows_what_was_asked() -> None:
    """A real call to a server of one's own that refuses the key names this server."""
    with LoopbackServer(faults=[Fault.status(401)]) as server, pytest.raises(AuthenticationError) as caught:
        Client(KEY, base_url=server.url).complete("Hello")
    assert "127.0.0.1" in (caught.value.hint or "")
    assert KEY_PAGE not in str(caught.value)


def test_a_model_that_there_is_not_is_no_wrong_path() -> None:
    """A 404 for the model gives a hint about the model."""
    error = error_in_stream({"message": "The model `x` does not exist", "code": "model_not_found"})
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
    assert "oops" in excerpt_around(text, caught.value)
    assert excerpt_around(text, RecursionError()).startswith('\'{"id"')


# Why there is no key ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "arguments", "reason"),
    [
        ({}, {}, "OPENAI_BASE_URL names one of ChatAnywhere's hosts, and that is not set"),
        ({"OPENAI_BASE_URL": "https://api.openai.com/v1"}, {}, "and that is https://api.openai.com/v1"),
        ({"OPENAI_API_BASE": "https://api.openai.com/v1"}, {}, "and that is https://api.openai.com/v1"),
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
