"""The two protocols: what a request looks like, and what every kind of answer means."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from typing import Any

import pytest
from decoding import CHUNKS, DONE, STARTED, STOP, USAGE, chunk, cuts, decoder_for, feed, joined, openai, sse, web
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere._errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InsufficientBalanceError,
    InternalServerError,
    ModelNotAllowedError,
    NotFoundError,
    PermissionDeniedError,
    PromptTooLongError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    StreamInterruptedError,
    UnprocessableEntityError,
)
from chatanywhere._protocols import find_protocol
from chatanywhere._protocols import sse as event_stream
from chatanywhere._protocols.head import AnswerHead
from chatanywhere._protocols.protocol import as_messages
from chatanywhere._protocols.service import error_from
from chatanywhere._types import (
    Event,
    Extra,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)

WEB, OPENAI = find_protocol("web"), find_protocol("openai")
TEXT = "你好, world! 😀\n再见 👩‍👩‍👧"
QUESTION = [{"role": "user", "content": "Hi"}]


# Requests -----------------------------------------------------------------------------------------------------


def test_a_str_is_one_user_message() -> None:
    """The shortest way to ask is a text."""
    assert as_messages("Hi") == QUESTION


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "system", "content": "Be brief."}, *QUESTION],
        (*QUESTION, {"role": "assistant", "tool_calls": []}, {"role": "tool", "tool_call_id": "1", "content": "x"}),
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "ada"}],
    ],
)
def test_a_conversation_is_taken_as_it_is(messages: Sequence[Mapping[str, Any]]) -> None:
    """Turns are sent unchanged, with whatever keys they have; only a role is needed."""
    assert as_messages(messages) == list(messages)


@pytest.mark.parametrize(
    ("messages", "kind", "words"),
    [
        (None, TypeError, "NoneType"),
        (b"Hi", TypeError, "bytes"),
        (QUESTION[0], TypeError, "dict"),
        (iter(()), ValueError, "empty"),
        ([], ValueError, "empty"),
        (["Hi"], TypeError, r"messages\[0\].*str"),
        ([*QUESTION, None], TypeError, r"messages\[1\].*NoneType"),
        ([*QUESTION, ("role", "user")], TypeError, r"messages\[1\].*tuple"),
        ([*QUESTION, *QUESTION, {"content": "Hi"}], ValueError, r"messages\[2\].*'role'"),
        ([{"role": None, "content": "Hi"}], ValueError, r"messages\[0\].*'role'.*NoneType"),
    ],
)
def test_what_is_no_conversation_is_refused(messages: Any, kind: type[Exception], words: str) -> None:
    """Wrong messages are refused before anything is sent, with the index of the wrong turn."""
    with pytest.raises(kind, match=words):
        as_messages(messages)


def test_a_web_request_is_the_pages() -> None:
    """The body has the fields of the original page, with the model's id on the site and the last turn as the title."""
    messages = [{"role": "user", "content": "Hi"}, {"role": "user", "content": "Again"}]
    body = WEB.body(messages, "gpt-3.5-turbo", {})
    assert re.fullmatch("[A-Za-z0-9_-]{21}", body.pop("id"))
    assert body == {
        "list": messages,
        "title": "Again",
        "prompt": "",
        "temperature": 0.5,
        "models": "61490748",
        "continuous": True,
    }


def test_every_web_request_has_an_id_of_its_own() -> None:
    """Two conversations never share an id."""
    assert len({WEB.body(QUESTION, "gpt-3.5-turbo", {})["id"] for _ in range(100)}) == 100


def test_the_sites_own_model_ids_pass() -> None:
    """A model given by its number on the site is sent as it is."""
    assert WEB.body(QUESTION, "12345678", {})["models"] == "12345678"


@pytest.mark.parametrize("model", ["gpt-4o", "", "６１４９０７４８", "61490748 ", "-1"])
def test_a_model_that_the_site_does_not_know_is_refused(model: str) -> None:
    """The error names the model, those that are known, and the protocol that has others."""
    with pytest.raises(ValueError, match=f"{model!r}.*'gpt-3.5-turbo'.*protocol='openai'"):
        WEB.body(QUESTION, model, {})


@pytest.mark.parametrize(
    ("message", "title"),
    [
        ({"content": [{"type": "text", "text": "你"}, {"type": "image_url"}, {"type": "text", "text": "好"}]}, "你好"),
        ({"content": ["你好", {"text": 5}, None]}, ""),
        ({"content": None}, ""),
        ({"content": 5}, ""),
        ({}, ""),
    ],
)
def test_the_title_is_the_text_of_the_last_turn(message: dict[str, Any], title: str) -> None:
    """Of a list of parts the title has the text; content without text makes an empty one."""
    assert WEB.body([*QUESTION, {"role": "user", **message}], "gpt-3.5-turbo", {})["title"] == title


def test_a_web_request_goes_for_the_pages() -> None:
    """The headers are those of the page on the host that is asked, and no key is among them."""
    headers = WEB.chat.headers("https://example.org", "secret-key")
    assert headers["Referer"] == "https://example.org/"
    assert headers["Origin"] == "https://example.org"
    assert headers["Authorization"] == ""
    assert headers["Content-Type"] == "application/json"
    assert "secret-key" not in str(headers)


def test_an_openai_request_is_a_chat_completion() -> None:
    """The body asks for a stream, and for what the call cost."""
    assert OPENAI.body(QUESTION, "any-model", {}) == {
        "model": "any-model",
        "messages": QUESTION,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_an_openai_request_carries_the_key() -> None:
    """The key goes into the Authorization header."""
    assert OPENAI.chat.headers("https://example.org", "secret-key") == {
        "Accept": "text/event-stream, application/json",
        "Content-Type": "application/json",
        "Authorization": "Bearer secret-key",
    }


@pytest.mark.parametrize(
    ("protocol", "options"),
    [
        ("web", {"temperature": 0, "prompt": "Be brief.", "seed": 1}),
        ("openai", {"temperature": 0, "stream_options": None, "n": 1}),
    ],
)
def test_options_go_into_the_body(protocol: str, options: dict[str, Any]) -> None:
    """Options are added as they are, and overrule what the protocol sends by itself."""
    wire = find_protocol(protocol)
    body = wire.body(QUESTION, wire.default_model, options)
    assert {name: body[name] for name in options} == options


# Answers: text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["", "text/plain; charset=utf-8", "application/octet-stream", "Text/HTML"])
def test_text_comes_whole_however_it_is_cut(content_type: str) -> None:
    """No split of the bytes harms a character, whatever the type that the answer claims to be."""
    for pieces in cuts(TEXT.encode()):
        events, error = web(*pieces, content_type=content_type)
        assert (joined(events), error) == ([TextDelta(TEXT)], None)


@pytest.mark.parametrize("content_type", ["text/plain", "text/html"])
def test_text_is_given_out_as_it_comes(content_type: str) -> None:
    """Each block's text is an event of its own, at once."""
    decoder = decoder_for("web", content_type)
    assert feed(decoder, "你".encode()) == [TextDelta("你")]
    assert feed(decoder, b"\xe5\xa5") == []
    assert feed(decoder, b"\xbd!") == [TextDelta("好!")]
    assert decoder.done is False


def test_no_text_is_an_empty_answer() -> None:
    """An empty answer on the web protocol has no events and is no error."""
    assert web() == ([], None)


@pytest.mark.parametrize(
    ("content_type", "text"), [("text/plain", "你好"), ("text/html", "你好"), ("text/html", " \n<"), ("text/plain", "")]
)
@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (b"\xffmore", r"not UTF-8: b'\\xff'"),
        (b"\xe4x", r"not UTF-8: b'\\xe4'"),
        (b"\xed\xa0\x80", "not UTF-8"),
        (b"\xe4\xbd", "middle of a UTF-8 character"),
    ],
    ids=["never a first byte", "no second byte", "surrogate", "end within a character"],
)
def test_text_before_what_is_not_utf8_is_not_lost(content_type: str, text: str, bad: bytes, words: str) -> None:
    """Bytes that are not UTF-8 are a ProtocolError behind the text before them."""
    for pieces in cuts(text.encode() + bad):
        events, error = web(*pieces, content_type=content_type)
        assert joined(events) == ([TextDelta(text)] if text else [])
        assert isinstance(error, ProtocolError)
        assert re.search(words, str(error))


PAGES = {
    "doctype": "<!DOCTYPE html>\n<html><head><title>Just a\n moment...</title></head></html>",
    "upper case": "\r\n <HTML lang=en><TITLE id=x>Just a moment...</TITLE>",
    "blanks before": "\n" * 300 + "<!doctype html><title>Just a moment...</title>",
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_a_page_in_place_of_the_text_is_recognised(page: str) -> None:
    """An HTML page is not taken for an answer: a ProtocolError with its title, and no text."""
    for pieces in cuts(page.encode()):
        events, error = web(*pieces, content_type="text/html; charset=utf-8")
        assert events == []
        assert isinstance(error, ProtocolError)
        assert "HTML page, titled 'Just a moment...'" in str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        *((page, "an HTML page, titled") for page in PAGES.values()),
        ("502 Bad Gateway", "text: '502 Bad Gateway'"),
        (" ", "empty"),
    ],
)
def test_the_openai_protocol_never_answers_in_html(content: str, words: str) -> None:
    """Under `text/html` nothing is an answer on the openai protocol, and the error says what it is."""
    events, error = openai(content.encode(), content_type="text/html")
    assert events == []
    assert isinstance(error, ProtocolError)
    assert words in str(error)


@pytest.mark.parametrize("wire", [WEB, OPENAI], ids=["web", "openai"])
def test_a_page_without_end_is_not_read_to_it(wire: Any) -> None:
    """A page is given up once there is more of it than is needed to name it."""
    decoder = decoder_for(wire.name, "text/html")
    blocks = itertools.repeat(b"<html><title>Endless</title>" + b"x" * 4096, 100)
    with pytest.raises(ProtocolError, match="titled 'Endless'"):
        list(map(feed, itertools.repeat(decoder), blocks))
    assert len(list(blocks)) > 50


@pytest.mark.parametrize(
    "text",
    [
        "<",
        "<!doc",
        "<!DOCTYPE svg>",
        "<h1>Hi</h1>",
        "<htm",
        " \n Hi <html>",
        "Use <!DOCTYPE html> first",
        " " * 10,
        pytest.param("\n" * 300 + "Hi", id="blanks"),
        pytest.param("\n" * 300 + "x" * 70_000, id="blanks and a long text"),
    ],
)
def test_text_that_only_claims_to_be_html_is_text(text: str) -> None:
    """The web protocol's plain text often comes as `text/html`; nothing of it is held back for good."""
    encoded = text.encode()
    for pieces in ([encoded], [encoded[:5], encoded[5:]]):
        events, error = web(*pieces, content_type="text/html")
        assert (joined(events), error) == ([TextDelta(text)], None)


def test_a_page_that_was_asked_for_is_text() -> None:
    """An answer of another type that looks like HTML is the model's own words."""
    page = PAGES["doctype"]
    assert web(page.encode()) == ([TextDelta(page)], None)


# Answers: event streams ---------------------------------------------------------------------------------------

CONVERSATION = [
    chunk(role="assistant", content=""),
    chunk(reasoning_content="嗯…"),
    chunk(content="你好"),
    chunk(content=" 😀"),
    chunk("stop"),
    {"id": "c1", "model": "m1", "choices": [], "usage": USAGE},
    DONE,
]
CONVERSATION_EVENTS = [STARTED, ReasoningDelta("嗯…"), TextDelta("你好 😀"), Finished("stop"), Usage(1, 2, 3)]


@pytest.mark.parametrize("content_type", ["text/event-stream", "text/event-stream;charset=UTF-8", "", "text/plain"])
def test_a_stream_is_events(content_type: str) -> None:
    """A usual answer: its name, thoughts, text, the reason of its end, and what it cost."""
    decoder = decoder_for("openai", content_type)
    assert feed(decoder, sse(*CONVERSATION)) == CONVERSATION_EVENTS
    assert decoder.done is True


def test_a_stream_cut_anywhere_is_the_same_events() -> None:
    """No split of the bytes changes what is said, or its order."""
    for pieces in cuts(sse(*CONVERSATION)):
        events, error = openai(*pieces)
        assert (joined(events), error) == (CONVERSATION_EVENTS, None)


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param([chunk()], [], id="empty delta"),
        pytest.param([chunk(role="assistant", content="")], [], id="empty content"),
        pytest.param([chunk(content=None, reasoning_content=None, tool_calls=None)], [], id="nulls"),
        pytest.param([{"id": "c1", "model": "m1"}], [], id="no choices"),
        pytest.param([{"id": "c1", "model": "m1", "choices": None}], [], id="choices null"),
        pytest.param([{"id": "c1", "model": "m1", "choices": []}], [], id="choices empty"),
        pytest.param([{"id": "c1", "model": "m1", "choices": [{}]}], [], id="choice empty"),
        pytest.param([{**chunk(), "choices": [{"index": 0, "delta": None}]}], [], id="delta null"),
        pytest.param([{**chunk(), "choices": [{"delta": {"content": "Hi"}}]}], [TextDelta("Hi")], id="no index"),
        pytest.param(
            [{**chunk(), "choices": [{"index": 1, "delta": {"content": "Hi"}}]}],
            [TextDelta("Hi", 1)],
            id="another choice",
        ),
        pytest.param([{**chunk(content="Hi"), "error": None}], [TextDelta("Hi")], id="error null"),
        pytest.param([{**chunk(content="Hi"), "usage": None}], [TextDelta("Hi")], id="usage null"),
        pytest.param([{**chunk(), "usage": {"prompt_tokens": 1}}], [Usage(1, 0, 1)], id="usage incomplete"),
        pytest.param([{**chunk(content="Hi"), "usage": USAGE}], [TextDelta("Hi"), Usage(1, 2, 3)], id="usage and text"),
        pytest.param([chunk(content="a"), chunk(content="b")], [TextDelta("ab")], id="pieces together"),
        pytest.param(
            [chunk(reasoning_content="a"), chunk(reasoning_content="b")], [ReasoningDelta("ab")], id="thoughts"
        ),
        pytest.param(
            [chunk(content="a"), chunk(reasoning_content="b"), chunk(reasoning_content="c"), chunk(content="d")],
            [TextDelta("a"), ReasoningDelta("bc"), TextDelta("d")],
            id="order of text and thoughts",
        ),
        pytest.param(
            [chunk(content="a", reasoning_content="b")], [ReasoningDelta("b"), TextDelta("a")], id="thought first"
        ),
        pytest.param(
            [chunk(content="a"), {**chunk(), "id": "c2", "model": "m2"}, chunk(content="b")],
            [TextDelta("ab")],
            id="it starts once",
        ),
        pytest.param([chunk("length", content="a")], [TextDelta("a"), Finished("length")], id="text with the reason"),
        pytest.param([chunk("tool_calls")], [Finished("tool_calls")], id="finish reason tool_calls"),
        pytest.param([chunk("content_filter")], [Finished("content_filter")], id="finish reason content_filter"),
    ],
)
def test_a_chunk_means(chunks: list[Any], expected: list[Event]) -> None:
    """What each kind of chunk adds to the answer, behind the event that it started."""
    finished = [] if any(isinstance(event, Finished) for event in expected) else [STOP]
    events, error = openai(sse(*chunks, *finished, DONE))
    assert (events, error) == ([STARTED, *expected, *[Finished("stop")] * len(finished)], None)


@pytest.mark.parametrize("first", [{}, {"id": None, "model": None}])
def test_an_answer_need_not_have_a_name(first: dict[str, None]) -> None:
    """Without id and model it starts all the same."""
    stop = {"choices": [{"finish_reason": "stop"}]}
    assert openai(sse(first, stop, DONE)) == ([Started(None, None), Finished("stop")], None)


def test_pieces_in_different_blocks_are_events_of_their_own() -> None:
    """Nothing waits for what may follow: a block's text is given out before the next block comes."""
    decoder = decoder_for("openai", "text/event-stream")
    assert feed(decoder, sse(chunk(content="a"), chunk(content="b"))) == [STARTED, TextDelta("ab")]
    assert feed(decoder, sse(chunk(content="c"))) == [TextDelta("c")]


def test_tool_calls_come_in_pieces() -> None:
    """A call's id and name come once, its arguments bit by bit; text before it stays before it."""
    call = {"index": 1, "id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}}
    more = {"index": 1, "function": {"arguments": '{"x"'}}
    chunks = [chunk(content="a"), chunk(tool_calls=[call]), chunk(tool_calls=[more, more]), chunk(content="b")]
    pieces = [ToolCallDelta(1, "t1", "f", ""), *[ToolCallDelta(1, None, None, '{"x"')] * 2]
    assert openai(sse(*chunks, DONE)) == ([STARTED, TextDelta("a"), *pieces, TextDelta("b")], None)


def test_tool_calls_may_leave_out_what_is_not_new() -> None:
    """Without index and id a fragment belongs to the last call; without a function, or with nulls, nothing is added."""
    calls = [{"id": "t0"}, {"function": None}, {"function": {"name": None, "arguments": None}}]
    expected = [ToolCallDelta(0, "t0", None, ""), *[ToolCallDelta(0, None, None, "")] * 2]
    assert openai(sse(chunk(tool_calls=calls), DONE)) == ([STARTED, *expected], None)


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(sse(DONE), id="DONE alone"),
        pytest.param(b"data: [DONE]", id="no end of the line"),
        pytest.param(b"data: [DONE]\n", id="no blank line"),
        pytest.param(sse(STOP)[:-1], id="no blank line behind the finish reason"),
        pytest.param(sse(STOP), id="finish reason alone"),
        pytest.param(sse(STOP, DONE), id="both"),
        pytest.param(sse(STOP) + b"data: [DO", id="cut behind the finish reason"),
        pytest.param(sse(DONE, "{", {"error": "late"}), id="anything behind DONE"),
        pytest.param(sse(DONE) + b"\xff", id="not UTF-8 behind DONE"),
        pytest.param(sse(DONE, chunk(content="late")), id="text behind DONE"),
    ],
)
def test_an_answer_ends_with_a_finish_reason_or_done(end: bytes) -> None:
    """Either is enough, and what comes behind `[DONE]` is not looked at."""
    for pieces in cuts(end):
        events, error = openai(sse(chunk(content="Hi")), *pieces)
        assert error is None
        assert [event for event in events if not isinstance(event, Finished)] == [STARTED, TextDelta("Hi")]


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"data: [DON", id="cut within the line"),
        pytest.param(b"data: \xe4", id="cut within a character"),
        pytest.param(sse(STOP)[:-8], id="cut within the chunk of the finish reason"),
        pytest.param(sse({"choices": [{"index": 1, "finish_reason": "stop"}]}), id="end of another choice"),
    ],
)
def test_a_stream_without_its_end_was_interrupted(end: bytes) -> None:
    """A connection that closes in good order before the answer's end still is a StreamInterruptedError."""
    events, error = openai(sse(chunk(content="Hi")), end)
    assert events[:2] == [STARTED, TextDelta("Hi")]
    assert isinstance(error, StreamInterruptedError)


def test_an_empty_stream_was_interrupted() -> None:
    """No bytes at all are no answer on the openai protocol, and the error says so."""
    events, error = openai()
    assert events == []
    assert isinstance(error, StreamInterruptedError)
    assert str(error) == "the answer is empty"


MALFORMED = {
    "not JSON": "{",
    "an error of a proxy": "upstream timed out",
    "a list": "[]",
    "a number": "5",
    "a str": '"[DONE]"',
    "null": "null",
    "not a number": "NaN",
    "a number too long to read": '{"id": %s}' % ("1" * 5000),
    "nested too deep to read": '{"id": ' + "[" * 200_000,
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_json_object_is_refused_behind_the_text_before_it(data: str) -> None:
    """Data that is not a JSON object is a ProtocolError that shows its beginning, in few words."""
    events, error = openai(sse(chunk(content="Hi"), data))
    assert events == [STARTED, TextDelta("Hi")]
    assert isinstance(error, ProtocolError)
    assert data[:10] in str(error).replace("\\", "")
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    "wrong",
    [
        {"choices": "Hi"},
        {"choices": 5},
        {"choices": {"index": 0}},
        {"choices": ["Hi"]},
        {"choices": [{"delta": "Hi"}]},
        {"choices": [{"delta": ["Hi"]}]},
        chunk(tool_calls=5),
        chunk(tool_calls="call"),
        chunk(tool_calls=[{"function": "f"}]),
        chunk(function_call="f"),
    ],
    ids=json.dumps,
)
def test_a_chunk_of_the_wrong_shape_is_refused_behind_the_text_before_it(wrong: dict[str, Any]) -> None:
    """JSON that is not a chat completion chunk is a ProtocolError, and the text before it is not lost."""
    events, error = openai(sse(chunk(content="Hi"), wrong))
    assert events == [STARTED, TextDelta("Hi")]
    assert isinstance(error, ProtocolError)
    assert "not a chat completion chunk" in str(error)


OPTIONAL_TEXT = (str, type(None))
FIELD_TYPES = {
    Started: {"id": OPTIONAL_TEXT, "model": OPTIONAL_TEXT},
    TextDelta: {"text": (str,)},
    ReasoningDelta: {"text": (str,)},
    RefusalDelta: {"text": (str,), "index": (int,)},
    ToolCallDelta: {"index": (int,), "id": OPTIONAL_TEXT, "name": OPTIONAL_TEXT, "arguments": (str,), "choice": (int,)},
    Finished: {"reason": (str,), "index": (int,)},
    Extra: {"fields": (dict,), "index": (int,)},
    Usage: {"prompt_tokens": (int,), "completion_tokens": (int,), "total_tokens": (int,)},
}


def mistyped(events: list[Event]) -> list[tuple[Event, str]]:
    """The fields of events that do not hold what their class declares."""
    return [
        (event, name)
        for event in events
        for name, types in FIELD_TYPES[type(event)].items()
        if not isinstance(getattr(event, name), types)
    ]


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": 5},
        {"model": ["m1"]},
        {"choices": [{"finish_reason": 5}]},
        {"choices": [{"finish_reason": {"type": "stop"}}]},
        chunk(tool_calls=[{"index": []}]),
        chunk(tool_calls=[{"index": "0"}]),
        chunk(tool_calls=[{"index": None}]),
        chunk(tool_calls=[{"id": 5}]),
        chunk(tool_calls=[{"function": {"name": 5}}]),
        chunk(tool_calls=[{"function": {"arguments": {"x": 1}}}]),
        {"usage": {**USAGE, "total_tokens": "3"}},
        {"usage": {**USAGE, "total_tokens": None}},
    ],
    ids=json.dumps,
)
def test_a_value_of_the_wrong_type_reaches_no_caller(wrong: dict[str, Any]) -> None:
    """Where a field has the wrong type, the event holds what it declares, or there is a ProtocolError."""
    events, error = openai(sse(wrong, DONE))
    assert mistyped(events) == []
    assert error is None or isinstance(error, ProtocolError)


@given(st.lists(CHUNKS, max_size=4))
def test_no_json_makes_it_fail_otherwise(chunks: list[Any]) -> None:
    """Whatever JSON comes as chunks, it is proper events or one of the library's own errors."""
    answers = [json.dumps(chunk).encode() for chunk in chunks]
    decoded = [openai(sse(*chunks)), *(openai(answer, content_type="application/json") for answer in answers)]
    assert [mistyped(events) for events, _ in decoded] == [[]] * len(decoded)


@given(st.binary(), st.sampled_from(["text/event-stream", "application/json", "text/html", "text/plain"]))
def test_no_bytes_make_it_fail_otherwise(content: bytes, content_type: str) -> None:
    """Whatever bytes come, either protocol makes events or one of the library's own errors of them."""
    for decoded in (openai(b"data: " + content, content_type=content_type), web(content, content_type=content_type)):
        assert mistyped(decoded.events) == []


def test_a_stream_that_is_not_utf8_is_refused_behind_the_text_before_it() -> None:
    """Events that are whole before the bad byte are given out, then comes a ProtocolError."""
    for pieces in cuts(sse(chunk(content="你好")) + b"data: \xff\n\n"):
        events, error = openai(*pieces)
        assert events == [STARTED, TextDelta("你好")]
        assert isinstance(error, ProtocolError)
        assert "not UTF-8" in str(error)


def test_an_event_that_is_too_large_is_refused_behind_the_text_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """An event without end is a ProtocolError, not memory without end."""
    monkeypatch.setattr(event_stream, "MAX_EVENT", 1000)
    text, more = sse(chunk(content="Hi")), b"data: more\n"
    for pieces in ([text, *[more] * 1000], [text + more * 1000]):
        events, error = openai(*pieces)
        assert events == [STARTED, TextDelta("Hi")]
        assert isinstance(error, ProtocolError)
        assert "1000 characters" in str(error)


@pytest.mark.parametrize(
    ("frame", "kind", "status", "code", "message"),
    [
        ({"message": "Busy", "code": "429 TOO_MANY_REQUESTS"}, RateLimitError, 429, "429 TOO_MANY_REQUESTS", "Busy"),
        ({"message": "Down", "code": 503}, InternalServerError, 503, "503", "Down"),
        ({"message": "Down", "code": "server_error"}, APIStatusError, 200, "server_error", "Down"),
        ({"message": "Down", "type": "x"}, APIStatusError, 200, None, "Down"),
        ({"message": "No response, please try again"}, InternalServerError, 200, None, "No response, please try again"),
        (
            {"message": "limited to 200 requests per day"},
            QuotaExceededError,
            200,
            None,
            "limited to 200 requests per day",
        ),
        ({"message": None, "code": None, "x": 1}, APIStatusError, 200, None, '{"x": 1}'),
        ({"message": None, "code": None}, APIStatusError, 200, None, "the service gave no reason"),
        ("Something broke", APIStatusError, 200, None, "Something broke"),
        (["?"], APIStatusError, 200, None, "?"),
    ],
)
@pytest.mark.parametrize("begun", [True, False], ids=["behind text", "at once"])
def test_an_error_within_a_stream_is_the_services(
    frame: Any, kind: type[APIStatusError], status: int, code: str | None, message: str, begun: bool
) -> None:
    """An error that comes with status 200 is told by its own code, or by what it says; text before it comes first."""
    events, error = openai(sse(*[chunk(content="Hi")] * begun, {"error": frame}, DONE))
    assert events == [STARTED, TextDelta("Hi")] * begun
    assert isinstance(error, APIStatusError)
    assert (type(error), error.status_code, error.code, error.message) == (kind, status, code, message)
    assert error.body == {"error": frame}


# Answers: one object ------------------------------------------------------------------------------------------

COMPLETION = {
    "id": "c1",
    "object": "chat.completion",
    "model": "m1",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "reasoning_content": "嗯…",
                "content": "你好 😀",
                "tool_calls": [{"id": "t1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            "finish_reason": "stop",
        }
    ],
    "usage": USAGE,
}


def test_an_answer_that_is_not_streamed_is_the_same_events() -> None:
    """A server that ignores `stream` and sends one JSON object is understood as well."""
    text, call, finished = TextDelta("你好 😀"), ToolCallDelta(0, "t1", "f", "{}"), Finished("stop")
    expected = [STARTED, ReasoningDelta("嗯…"), text, call, finished, Usage(1, 2, 3)]
    for pieces in cuts(json.dumps(COMPLETION, ensure_ascii=False).encode()):
        assert openai(*pieces, content_type="Application/JSON; charset=utf-8") == (expected, None)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"choices": []}',
        b'{"choices": "Hi"}',
        b'{"id": ',
        b'{"id": "\xff"}',
        b"[" * 200_000,
    ],
    ids=lambda content: content[:20],
)
def test_json_that_is_no_completion_is_refused(content: bytes) -> None:
    """A JSON answer that is not a chat completion is a ProtocolError."""
    _, error = openai(content, content_type="application/json")
    assert isinstance(error, ProtocolError)


def test_text_before_the_wrong_place_of_an_object_is_not_lost() -> None:
    """What could be read of an object is given out before the error, as it is of a stream."""
    wrong = chunk(content="Hi", tool_calls=5)
    events, error = openai(json.dumps(wrong).encode(), content_type="application/json")
    assert events == [STARTED, TextDelta("Hi")]
    assert isinstance(error, ProtocolError)


def test_an_error_object_with_status_200_is_the_services() -> None:
    """An error in place of the completion is told as one within a stream is."""
    content = json.dumps({"error": {"message": "Busy", "code": "429"}}).encode()
    events, error = openai(content, content_type="application/json")
    assert events == []
    assert isinstance(error, RateLimitError)
    assert (error.status_code, error.message) == (429, "Busy")


# Answers: errors ----------------------------------------------------------------------------------------------


def envelope(message: str | None, code: str | None = None) -> bytes:
    error = {"message": message, "type": "chatanywhere_error", "param": None, "code": code}
    return json.dumps({"error": error}, ensure_ascii=False).encode()


@pytest.mark.parametrize(
    ("status", "message", "kind", "hint"),
    [
        (401, "wrong api key", AuthenticationError, "not valid at api.chatanywhere.tech"),
        (401, "ApiKey错误", AuthenticationError, "not valid at api.chatanywhere.tech"),
        (401, "Incorrect API key provided: sk-abc.", AuthenticationError, "and base_url="),
        (401, "something else", AuthenticationError, "CHATANYWHERE_API_KEY"),
        (401, "This api key has been suspended", AuthenticationError, "suspended"),
        (403, "This api key has been suspended", PermissionDeniedError, "suspended"),
        (429, "免费API限制每日200次请求，请00:00后再试", QuotaExceededError, "00:00"),
        (429, "free account is limited to 200 requests per day", QuotaExceededError, "00:00"),
        (429, "Too Many Requests", RateLimitError, "Wait a little"),
        (403, "免费API限制使用gpt-4-32k模型", ModelNotAllowedError, "another model="),
        (403, "Your free account is limited to use gpt-4-32k", ModelNotAllowedError, "another model="),
        (403, "免费API限制模型输入token小于4096，如有更多需求，请访问", PromptTooLongError, "4096 tokens"),
        (403, "The number of prompt tokens for free accounts is limited to 4096", PromptTooLongError, "4096 tokens"),
        (403, "账户余额过低，请充值后使用", InsufficientBalanceError, "max_tokens"),
        (403, "Your balance is not sufficient to support this request", InsufficientBalanceError, "max_tokens"),
        (403, "请求客户端IP不支持访问", PermissionDeniedError, "IP address"),
        (403, "something else", PermissionDeniedError, None),
        (503, "模型无返回结果，请稍后再试", InternalServerError, "try again"),
        (503, "No response, please try again later", InternalServerError, "try again"),
        (503, "something else", InternalServerError, None),
        (400, "max_tokens is too large", BadRequestError, None),
        (404, "no such path", NotFoundError, "base_url="),
        (409, "conflict", ConflictError, None),
        (422, "not acceptable", UnprocessableEntityError, None),
        (599, "unheard of", InternalServerError, None),
        (418, "I'm a teapot", APIStatusError, None),
        (402, "账户余额过低", InsufficientBalanceError, "max_tokens"),
        (500, "wrong api key", InternalServerError, "not valid at api.chatanywhere.tech"),
    ],
)
def test_an_error_is_told_by_its_status_and_its_words(
    status: int, message: str, kind: type[APIStatusError], hint: str | None
) -> None:
    """The service's messages, Chinese and English, narrow the class that the status gives, and bring a remedy."""
    head = AnswerHead(status, base_url="https://api.chatanywhere.tech")
    error = error_from(head, envelope(message, f"{status} CODE"))
    assert (type(error), error.status_code, error.message, error.code) == (kind, status, message, f"{status} CODE")
    if hint is None:
        assert error.hint is None
    else:
        assert error.hint is not None
        assert hint in error.hint
        assert str(error) == f"{message}\n{error.hint}"


SPRING = {"timestamp": "2025-01-01T00:00:00", "path": "/v2", "status": 404, "error": "Not Found", "requestId": "r1"}
NO_REASON = "the service gave no reason"
NGINX = "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center>nginx</center></body>\r\n</html>"


@pytest.mark.parametrize(
    ("status", "content", "message", "code"),
    [
        pytest.param(404, SPRING, "Not Found", None, id="error is a str"),
        pytest.param(
            500, {"error": {"message": None, "code": "500 X"}}, '{"code": "500 X"}', "500 X", id="message null"
        ),
        pytest.param(500, {"error": {"message": {"x": 1}, "code": 7}}, '{"x": 1}', "7", id="message no text"),
        pytest.param(500, {"error": {}}, NO_REASON, None, id="error empty"),
        pytest.param(500, {"error": None}, NO_REASON, None, id="error null"),
        pytest.param(
            502,
            {"object": None, "data": None, "error": {"type": "cf_bad_gateway", "code": "502"}},
            '{"type": "cf_bad_gateway", "code": "502"}',
            "502",
            id="cf_bad_gateway",
        ),
        pytest.param(400, {"answer": "bad"}, '{"answer": "bad"}', None, id="JSON of another kind"),
        pytest.param(400, ["bad"], "bad", None, id="JSON list"),
        pytest.param(400, None, NO_REASON, None, id="JSON null"),
    ],
)
def test_an_error_is_read_from_json_of_any_kind(status: int, content: Any, message: str, code: str | None) -> None:
    """The message and code are found where they are; without one, the error says so or shows what was answered."""
    error = error_from(AnswerHead(status, {"content-type": "application/json"}), json.dumps(content).encode())
    assert (error.status_code, error.message, error.code) == (status, message, code)
    assert error.body == content


@pytest.mark.parametrize(
    ("content_type", "content", "message"),
    [
        pytest.param("text/html", NGINX.encode(), "HTML page, titled '502 Bad Gateway'", id="page"),
        pytest.param("", b"\r\n" + NGINX.encode(), "HTML page, titled '502 Bad Gateway'", id="page of no type"),
        pytest.param("text/html; charset=utf-8", b"<center>oops", "HTML page", id="page without a title"),
        pytest.param("text/plain", b" upstream\n  timed  out ", "upstream timed out", id="text"),
        pytest.param("text/plain", b"", NO_REASON, id="nothing"),
        pytest.param("text/plain", "错误".encode("gbk"), "\ufffd", id="not UTF-8"),
        pytest.param("application/json", b'{"error": {"mess', '{"error": {"mess', id="JSON cut off"),
        pytest.param("application/json", b"[" * 60_000, "[[[", id="JSON nested too deep"),
        pytest.param("application/json", b'{"error": ' + b"[" * 60_000, '{"error"', id="error nested too deep"),
    ],
)
def test_an_error_is_read_from_what_is_not_json(content_type: str, content: bytes, message: str) -> None:
    """Pages are named by their title, text is quoted in short, and the body is kept as text."""
    error = error_from(AnswerHead(502, {"content-type": content_type}), content)
    assert type(error) is InternalServerError
    assert message in error.message
    assert len(error.message) <= 500
    assert error.body == content.decode("utf-8", "replace")
    assert error.code is None


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_named_and_not_followed(status: int) -> None:
    """The error says where the server points and what to do, for the key is not carried elsewhere."""
    error = error_from(
        AnswerHead(status, {"location": "https://elsewhere.example/v1", "content-type": "text/html"}), NGINX.encode()
    )
    assert type(error) is APIStatusError
    assert "'https://elsewhere.example/v1'" in error.message
    assert "base_url=" in (error.hint or "")


def test_an_error_keeps_the_headers() -> None:
    """What was answered can be looked at."""
    assert error_from(AnswerHead(500, {"x-request-id": "r1"}), b"").headers == {"x-request-id": "r1"}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20),
        ({"retry-after": " 1.5 "}, 1.5),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "1500", "retry-after": "20"}, 1.5),
        ({"retry-after-ms": "soon", "retry-after": "20"}, 20),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00"}, 0),
        ({"retry-after": ""}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after-ms": "nan", "retry-after": "20"}, 20),
        ({"retry-after": "Mon, 01 Jan 99999 00:00:00 GMT"}, None),
        ({"retry-after": "Mon, 01 Jan 2020 00:00:00 +99999999999999999999"}, None),
        ({"retry-after": "17 June , 2022"}, None),
        ({"retry-after": "-Jan-20 00:00:00 GMT"}, None),
        ({"retry-after": "Wed, 3 Apr 2002 12.34.56.78+0800"}, None),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:30 GMT"}, 30),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:28:30 GMT"}, 0),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "today"}, 0),
        ({"retry-after": "20", "date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 20),
        ({"llm_provider-retry-after": "7"}, 7),
        ({"llm_provider-retry-after-ms": "1500", "llm_provider-retry-after": "20"}, 1.5),
        ({"llm_provider-retry-after": "7", "retry-after": "20"}, 20),
        ({"llm_provider-retry-after": "Wed, 21 Oct 2015 07:28:00 GMT", "date": "Wed, 21 Oct 2015 07:27:30 GMT"}, 30),
    ],
    ids=str,
)
def test_how_long_to_wait_is_read(headers: dict[str, str], expected: float | None) -> None:
    """Milliseconds, seconds or a date that has passed are a number of seconds; what is none of them is None."""
    assert error_from(AnswerHead(429, headers), b"").retry_after == expected


@pytest.mark.parametrize("failure", [IndexError, OverflowError, UnboundLocalError, ValueError])
def test_a_date_that_the_standard_library_fails_on_is_none(
    monkeypatch: pytest.MonkeyPatch, failure: type[Exception]
) -> None:
    """Whatever its reader raises for one, in any release of Python, is not raised in the place of the error."""

    def parse(text: str) -> datetime:
        raise failure

    monkeypatch.setattr("email.utils.parsedate_to_datetime", parse)
    assert error_from(AnswerHead(429, {"retry-after": "17 June , 2022"}), b"").retry_after is None


def test_how_long_to_wait_may_be_said_by_a_date() -> None:
    """A date to come is as many seconds as are left until then."""
    date = format_datetime(datetime.now(timezone.utc) + timedelta(hours=1), usegmt=True)
    wait = error_from(AnswerHead(429, {"retry-after": date}), b"").retry_after
    assert wait is not None
    assert 3000 < wait <= 3600


def test_an_emoji_cut_into_two_chunks_comes_out_whole() -> None:
    """Two halves of a surrogate pair, each an escape in a chunk of its own, are one character."""
    emoji = json.dumps("🙂").strip('"')
    halves = [
        f'data: {{"choices": [{{"delta": {{"content": "{half}"}}}}]}}\n\n' for half in (emoji[:6], emoji[6:] + "!")
    ]
    for pieces in (["".join(halves)], halves):
        events, error = openai(*(piece.encode() for piece in pieces), sse(DONE))
        assert (joined(events)[1:], error) == ([TextDelta("🙂!")], None)
