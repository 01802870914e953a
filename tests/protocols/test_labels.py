"""Answers under the wrong label, and events as servers write them: the first bytes say what an answer is."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable
from time import monotonic
from typing import Any

import anyio
import pytest
from decoding import CHUNKS, DONE, STARTED, STOP, Answer, Decoded, chunk, cuts, joined, openai, sse
from faces import Face
from hypothesis import given
from hypothesis import strategies as st
from raw_server import RawServer

from chatanywhere import Client
from chatanywhere._errors import (
    APIStatusError,
    APITimeoutError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    StreamInterruptedError,
)
from chatanywhere._types import Finished, TextDelta, Usage

LABELS = ["text/event-stream", "application/json", "text/html; charset=utf-8", "text/plain", "", "application/x-ndjson"]
HI = [STARTED, TextDelta("Hi"), Finished("stop")]
EVENTS = sse(chunk(content="Hi"), STOP, DONE)
OBJECT = {"id": "c1", "model": "m1", "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
ERROR = {"error": {"message": "limited to 200 requests per day", "code": "429"}}
BLANKS = [b"", b"\r\n", b"\n\n", b"\xef\xbb\xbf"]

labels = pytest.mark.parametrize("label", LABELS)


# What it is ---------------------------------------------------------------------------------------------------


@labels
@pytest.mark.parametrize(
    "begin", [b"", b"\n", b": keep-alive\n\n", b"event: x\ndata:\n\n", b"\xef\xbb\xbf", b"retry: 1\n"]
)
def test_an_event_stream_is_one_under_any_label(label: str, begin: bytes) -> None:
    """What begins as an event stream is read as one, however it is cut and called."""
    for pieces in cuts(begin + EVENTS):
        events, error = openai(*pieces, content_type=label)
        assert (joined(events), error) == (HI, None)


UNSEEN = [" ", "\t", "\n", "\r", "\x0b", "\x0c", "\0", "\ufeff"]


@labels
@given(st.lists(st.sampled_from(UNSEEN), max_size=5), st.sampled_from(["data:", "id: 1\n", ":\n", "event: x\n", "{"]))
def test_nothing_unseen_takes_the_first_chunk_away(label: str, unseen: list[str], begin: str) -> None:
    """Blanks, NULs and byte order marks in front of an answer are no part of its first field, however it is cut."""
    blanks = "".join(unseen).encode()
    content = json.dumps(OBJECT).encode() if begin == "{" else begin.removeprefix("data:").encode() + EVENTS
    for pieces in ([blanks + content], [blanks, content], [bytes([byte]) for byte in blanks + content]):
        events, error = openai(*pieces, content_type=label)
        assert (joined(events), error) == (HI, None)


@labels
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("blanks", BLANKS)
def test_a_json_object_is_one_under_any_label(label: str, indent: int | None, blanks: bytes) -> None:
    """One object, pretty-printed or not, is the answer that is not streamed."""
    for pieces in cuts(blanks + json.dumps(OBJECT, indent=indent).encode() + b"\n"):
        assert openai(*pieces, content_type=label) == (HI, None)


@labels
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("content", [ERROR, [ERROR]], ids=["object", "list"])
def test_a_bare_error_is_the_services_under_any_label(label: str, indent: int | None, content: Any) -> None:
    """The service's words are told, and a spent quota is known as such."""
    for pieces in cuts(json.dumps(content, indent=indent).encode()):
        events, error = openai(*pieces, content_type=label)
        assert events == []
        assert isinstance(error, QuotaExceededError)
        assert error.message == "limited to 200 requests per day"


USAGE_CHUNK = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
BEHIND = {
    "nothing": "",
    "blanks": "\n \r\n",
    "the end of a stream": "\n\ndata: [DONE]\n\n",
    "that without its blank line": "\ndata: [DONE]",
    "that at once": "data:[DONE]",
    "a comment": "\n\n: bye\n\n",
    "an event": f"\n\nevent: end\ndata: {json.dumps(USAGE_CHUNK)}\n\ndata: [DONE]\n\n",
    "more JSON": f"\n{json.dumps(USAGE_CHUNK)}\n",
    "the same again": None,
    "an error": json.dumps({"error": None}),
}


@labels
@pytest.mark.parametrize("behind", BEHIND)
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("size", [0, 200_000])
def test_what_stands_behind_an_object_takes_nothing_from_it(
    label: str, behind: str, indent: int | None, size: int
) -> None:
    """An object, or a bare error, is the same if the end of a stream follows it, or more JSON; large or small."""
    for content in ({**OBJECT, "x": [0] * size}, {**ERROR, "x": [0] * size}):
        text = json.dumps(content, indent=indent)
        more = BEHIND[behind]
        events, error = openai((text + (text if more is None else more)).encode(), content_type=label)
        if content.get("error"):
            assert (events, type(error)) == ([], QuotaExceededError)
        else:
            said = [event for event in dict.fromkeys(events) if not isinstance(event, Usage)]
            assert (said, error) == (HI, None)
            assert events.count(TextDelta("Hi")) == 1
            assert any(isinstance(event, Usage) for event in events) is ("prompt_tokens" in (more or ""))


@pytest.mark.parametrize("behind", ["oops", "}", "]", ",", "<html>", "data", '"', "{", '{"choices": ['])
def test_what_can_not_follow_an_object_is_refused(behind: str) -> None:
    """Behind an object there is JSON, or an event, or something is wrong with it."""
    assert isinstance(openai((json.dumps(OBJECT) + behind).encode()).error, ProtocolError)


@labels
def test_chunks_in_lines_are_a_stream(label: str) -> None:
    """Chunks that come as JSON in lines, without the frame of events, are all read, equal ones too."""
    lines = "\n".join(json.dumps(each) for each in (*[chunk(content="ha")] * 3, chunk("stop")))
    for pieces in ([lines.encode()], [bytes([byte]) for byte in lines.encode()]):
        events, error = openai(*pieces, content_type=label)
        assert (joined(events), error) == ([STARTED, TextDelta("hahaha"), Finished("stop")], None)


LAYOUTS = {
    "one line": lambda value: json.dumps(value),
    "indented lines": lambda value: json.dumps(value, indent=2),
    "lines without an indent": lambda value: json.dumps(value, indent=0),
    "an indent of tabs": lambda value: json.dumps(value, indent="\t"),
    "all indented": lambda value: "  " + json.dumps(value, indent=2).replace("\n", "\n  "),
    "behind a tab": lambda value: f"\t{json.dumps(value)}",
    "the last brackets in one line": lambda value: "".join(json.dumps(value, indent=2).rsplit("\n", 1)),
    "a break in the middle": lambda value: json.dumps(value).replace(": ", ":\n", 1),
    "lines that end with CR LF": lambda value: json.dumps(value, indent=2).replace("\n", "\r\n"),
    "behind its name": lambda value: f"error: {json.dumps(value)}",
    "behind what has no end": lambda value: "{ oops\n" + json.dumps(value),
    "behind other JSON": lambda value: '{"type": "ping"}\n{\n}\n' + json.dumps(value, indent=2),
}
WORDS_OF_ERRORS = [
    ERROR,
    [ERROR],
    {"code": "insufficient_quota", "message": "spent"},
    {"detail": {"error": ERROR["error"]}},
]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("error", WORDS_OF_ERRORS, ids=lambda value: json.dumps(value)[:20])
@pytest.mark.parametrize("before", [sse(chunk(content="Hi")), b": keep-alive\n\n"], ids=["text", "a comment"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n", "\n\ndata: [DONE]\n\n"])
def test_a_bare_error_within_a_stream_is_known_in_any_layout(layout: str, error: Any, before: bytes, end: str) -> None:
    """JSON without a frame is an error of the service's, in however many lines, indented or not."""
    content = before + (LAYOUTS[layout](error) + end).encode()
    for pieces in ([content], [bytes([byte]) for byte in content]):
        assert isinstance(openai(*pieces).error, QuotaExceededError)


@pytest.mark.parametrize("name", ["progress", "status", "ping", "search", "done"])
@pytest.mark.parametrize(
    "said", [{"message": "searching"}, {"detail": "x"}, {"code": 1}, {"type": "ping"}, {"msg": "1/2"}], ids=json.dumps
)
def test_a_named_event_is_no_error_for_its_words(name: str, said: dict[str, Any]) -> None:
    """What a service tells under a name of its own is no error, and no part of the answer."""
    answer = Answer("openai", {})
    events = answer.feed(f"event: {name}\ndata: {json.dumps(said)}\n\n".encode() + EVENTS)
    assert (joined(events), answer.error) == (HI, None)
    assert not set(said) & set(answer.completion(None).raw)


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_a_bare_error_within_a_stream_is_the_services(indent: int | None, end: str) -> None:
    """JSON that a server writes into the stream without a frame is read for its error, behind the text before it."""
    content = sse(chunk(content="Hi")) + json.dumps(ERROR, indent=indent).encode() + end.encode()
    for pieces in ([content], [content[:-20], content[-20:]], [bytes([byte]) for byte in content]):
        events, error = openai(*pieces)
        assert events == HI[:2]
        assert isinstance(error, QuotaExceededError)


def test_a_spent_quota_told_in_a_stream_is_asked_once(raw_server: RawServer, face: Face) -> None:
    """An error that was sent bare, with status 200 and the label of a stream, is not tried again in vain."""
    body = json.dumps(ERROR).encode()
    raw_server.answer(head("text/event-stream", f"Content-Length: {len(body)}") + body, None)
    with Client("k" * 20, base_url=raw_server.url) as client:
        outcome = face.ask(client)
    assert type(outcome.error) is QuotaExceededError
    assert len(raw_server.requests) == 1


@labels
@pytest.mark.parametrize("blanks", BLANKS)
@pytest.mark.parametrize(
    "page", ["<!DOCTYPE html><title>Sign in</title><p>Hotel", "<HTML><head><title>Sign in</title>"]
)
def test_a_page_is_one_under_any_label(label: str, blanks: bytes, page: str) -> None:
    """The page of a portal or a gateway is a ProtocolError with its title."""
    for pieces in cuts(blanks + page.encode()):
        events, error = openai(*pieces, content_type=label)
        assert events == []
        assert isinstance(error, ProtocolError)
        assert "titled 'Sign in'" in str(error)


@given(st.lists(CHUNKS, max_size=3), st.sampled_from(LABELS), st.data())
def test_any_split_of_any_answer_is_the_same_under_each_label(chunks: list[Any], label: str, data: Any) -> None:
    """Neither the label nor the places of the cuts change what an event stream comes to."""
    content = sse(*chunks, DONE)
    places = sorted(data.draw(st.sets(st.integers(1, len(content) - 1), max_size=6)))
    pieces = [content[start:end] for start, end in itertools.pairwise([0, *places, len(content)])]
    results = [openai(content), openai(*pieces, content_type=label)]
    first, second = [(joined(events), type(error), str(error)) for events, error in results]
    assert first == second


# Events as servers write them -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"data:\n\n" + EVENTS, id="empty data as keep-alive"),
        pytest.param(b"data: \n\ndata:  \n\n" + EVENTS, id="blank data"),
        pytest.param(sse(chunk(content="Hi"), STOP) + b"data:  [DONE] \n\n", id="blanks around DONE"),
        pytest.param(sse(chunk(content="Hi"), STOP) + b"data:[DONE]", id="DONE as the last line"),
        pytest.param(sse(chunk(content="Hi"), STOP)[:-1], id="no blank line at the end"),
        pytest.param(sse(chunk(content="Hi"), STOP)[:-2], id="no line end at the end"),
        pytest.param(b"event: ping\ndata: now\n\n" + EVENTS, id="a named event that is no JSON"),
        pytest.param(b"event: ping\ndata: 5\n\n" + EVENTS, id="a named event that is no object"),
        pytest.param(b"event: message\n" + EVENTS, id="the name message"),
        pytest.param(b"event: chunk\n" + EVENTS, id="another name"),
        pytest.param(sse(chunk(content="H"), {**STOP}, chunk(content="i"), DONE), id="text behind the finish reason"),
    ],
)
def test_events_are_read_as_servers_write_them(content: bytes) -> None:
    """Each of these is a good answer, and the same one."""
    for pieces in cuts(content):
        decoded: Decoded = openai(*pieces)
        text = "".join(event.text for event in decoded.events if isinstance(event, TextDelta))
        assert (text, decoded.error) == ("Hi", None)
        assert Finished("stop") in decoded.events


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ('{"error": {"message": "Busy", "code": 429}}', "Busy"),
        ('{"message": "Busy", "code": 429}', "Busy"),
        ('"Busy"', "Busy"),
        ("Busy", "Busy"),
        ('["?"]', "?"),
        ("{}", "the service gave no reason"),
        (json.dumps(chunk(content="Hi")), json.dumps(chunk(content="Hi"))),
    ],
)
def test_an_event_named_error_is_an_error(data: str, message: str) -> None:
    """Whatever its data is, it is the service's error."""
    events, error = openai(sse(chunk(content="Hi")) + f"event: error\ndata: {data}\n\n".encode())
    assert events == HI[:2]
    assert isinstance(error, APIStatusError)
    assert error.message == message
    assert isinstance(error, RateLimitError) is ("429" in data)


def test_data_of_a_message_that_is_no_json_is_refused() -> None:
    """What is not named may not be skipped: text may be missing."""
    for name in ("", "event: message\n"):
        _, error = openai(f"{name}data: now\n\n".encode() + EVENTS)
        assert isinstance(error, ProtocolError)


# Where it ends ---------------------------------------------------------------------------------------------------


def head(label: str, *headers: str) -> bytes:
    return "\r\n".join(["HTTP/1.1 200 OK", f"Content-Type: {label}", *headers, "", ""]).encode()


def framed(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


def take(*pieces: bytes) -> Answer:
    answer = Answer("openai", {"transfer-encoding": "chunked"})
    for piece in pieces:
        if not answer.over and answer.error is None:
            answer.feed(piece)
    return answer


@pytest.mark.parametrize("missing", range(len(sse(chunk(content="lo", refusal="no"))) + 1))
def test_a_cut_loses_nothing_and_is_an_error(missing: int) -> None:
    """An event that is whole but for its end is given out when the connection is lost within it."""
    last = sse(chunk(content="lo", refusal="no"))
    answer = take(framed(sse(chunk(content="Hel"))), framed(last[: len(last) - missing]), b"")
    assert answer.text == ("Hello" if missing <= 2 else "Hel")
    assert isinstance(answer.error, StreamInterruptedError)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_cut_behind_the_finish_reason_is_no_error(missing: int) -> None:
    """Once every choice has its finish reason, nothing of the answer can be missing."""
    answer = take(framed(sse(chunk(content="Hi"), STOP)[: -missing or None]), b"")
    assert (answer.text, answer.over, answer.error) == ("Hi", True, None)


def test_a_cut_while_a_choice_goes_on_is_one() -> None:
    """A choice that has begun has to end."""
    other = {"choices": [{"index": 1, "delta": {"content": "Ho"}}]}
    end = {"choices": [{"index": 1, "finish_reason": "stop"}]}
    assert isinstance(take(framed(sse(other, chunk(content="Hi"), STOP)), b"").error, StreamInterruptedError)
    assert take(framed(sse(other, chunk(content="Hi"), STOP, end)), b"").error is None


def shut(_: Any) -> None:
    """A step that does nothing: the connection is closed behind it."""


@pytest.fixture(params=["closed", "silent"])
def ending(request: pytest.FixtureRequest, raw_server: RawServer) -> Callable[..., None]:
    """How the connection goes on behind the last bytes."""
    return shut if request.param == "closed" else raw_server.hold


def test_an_answer_is_complete_with_its_finish_reason(
    raw_server: RawServer, face: Face, ending: Callable[..., None]
) -> None:
    """Whether the connection is cut then or stays open and silent, the answer is there at the latest after a moment."""
    content = framed(sse(chunk(content="Hi"), STOP))
    raw_server.answer(head("text/event-stream", "Transfer-Encoding: chunked") + content, ending)
    with Client("k" * 20, base_url=raw_server.url, timeout=30) as client:
        outcome = face.ask(client)
    assert (outcome.text, outcome.error) == ("Hi", None)
    assert outcome.seconds < 8


TEXT = sse(chunk(content="Hi"))
HELD = {
    "an object": json.dumps(OBJECT).encode(),
    "an object, and the beginning of more": json.dumps(OBJECT).encode() + b"\n\ndata: ",
    "an object in lines": json.dumps(OBJECT, indent=2).encode() + b"\n",
    "a finish reason without its blank line": TEXT + sse(STOP)[:-1],
    "one without its line end": TEXT + sse(STOP)[:-2],
    "DONE without its blank line": TEXT + b"data: [DONE]\n",
    "DONE without its line end": TEXT + b"data:[DONE]",
    "DONE behind the beginning of its event": TEXT + b"id: 1\ndata: [DONE]",
}


@pytest.mark.parametrize("held", HELD)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_whole_does_not_wait_for_its_frame(
    raw_server: RawServer, held: str, stream: bool, ending: Callable[..., None]
) -> None:
    """What has come to its end but for the end of a line, an event or the framing is an answer after a moment."""
    raw_server.answer(head("", "Transfer-Encoding: chunked") + framed(HELD[held]), ending)
    begun = monotonic()
    with Client("k" * 20, base_url=raw_server.url, timeout=30) as client:
        assert client.complete("Hi", stream=stream).text == "Hi"
    assert monotonic() - begun < 8


@pytest.mark.parametrize("face_name", ["sync", "asyncio", "trio"])
@pytest.mark.parametrize("noise", [b": keep-alive\n\n", b"data:\n\n", b"\n", b'data: {"choices": []}\n\n'], ids=repr)
def test_bytes_without_news_do_not_put_off_the_end(raw_server: RawServer, noise: bytes, face_name: str) -> None:
    """What keeps a connection alive behind the last finish reason is not waited for."""

    def pause(_: object) -> None:
        raw_server.released.wait(0.4)

    steps = [step for _ in range(40) for step in (pause, framed(noise))]
    raw_server.answer(head("", "Transfer-Encoding: chunked") + framed(sse(chunk(content="Hi"), STOP)), *steps)
    with Client("k" * 20, base_url=raw_server.url, timeout=30) as client:
        outcome = Face(face_name).ask(client)
    assert (outcome.text, outcome.error) == ("Hi", None)
    assert outcome.seconds < 8


def test_news_put_off_the_end(raw_server: RawServer, face: Face) -> None:
    """Text behind the finish reason is read for as long as it comes."""

    def pause(_: object) -> None:
        raw_server.released.wait(0.7)

    steps = [step for _ in range(5) for step in (pause, framed(sse(chunk(content="i"))))]
    raw_server.answer(head("", "Transfer-Encoding: chunked") + framed(sse(chunk("stop", content="H"))), *steps)
    with Client("k" * 20, base_url=raw_server.url, timeout=30) as client:
        outcome = face.ask(client)
    assert (outcome.text, outcome.error) == ("Hiiiii", None)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(OBJECT)[:-1].encode(),
        json.dumps(OBJECT)[:-2].encode(),
        b'{"a": "}',
        b'{"a": "\\\\\\"}',
        TEXT + sse(STOP)[:-3],
        TEXT + sse(chunk(content="!"))[:-2],
        TEXT + b"data: [DONE",
    ],
)
def test_what_is_not_whole_is_waited_for(content: bytes) -> None:
    """Silence within an object or an event is not its end, whatever bracket it stands behind."""
    for pieces in ([content], [bytes([byte]) for byte in content]):
        answer = Answer("openai", {"transfer-encoding": "chunked"})
        for piece in pieces:
            answer.feed(framed(piece))
        assert not answer.whole


@pytest.mark.parametrize("ends", [1, 2])
def test_every_choice_that_was_asked_for_has_to_end(raw_server: RawServer, face: Face, ends: int) -> None:
    """With `n=2`, silence behind the first choice's end is a timeout; behind the second one's it is the end."""
    stops = [{"choices": [{"index": index, "finish_reason": "stop"}]} for index in range(ends)]
    content = framed(sse(chunk(content="Hi"), *stops))
    raw_server.answer(head("text/event-stream", "Transfer-Encoding: chunked") + content, raw_server.hold)
    with Client("k" * 20, base_url=raw_server.url, timeout=5, retry=None) as client:
        outcome = face.ask(client, n=2)
    assert outcome.text == "Hi"
    assert (type(outcome.error) if outcome.error else None) == (None if ends == 2 else APITimeoutError)


def test_what_comes_behind_the_finish_reason_is_waited_for(raw_server: RawServer, face: Face) -> None:
    """Usage that comes a while after the finish reason is read."""
    usage = {"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}

    def pause(_: object) -> None:
        raw_server.released.wait(0.7)

    raw_server.answer(
        head("text/event-stream", "Transfer-Encoding: chunked") + framed(sse(chunk(content="Hi"), STOP)),
        pause,
        framed(sse(usage)),
        raw_server.hold,
    )
    with Client("k" * 20, base_url=raw_server.url) as client:
        assert client.complete("Hi").usage is not None


def test_raw_chunks_are_given_out_as_they_arrive(raw_server: RawServer) -> None:
    """Each is given out before the next has come, those without an event too, and all before an error."""
    sent = [chunk(role="assistant"), chunk(content="Hi"), {"x": 1}]
    steps: list[Any] = [head("text/event-stream", "Transfer-Encoding: chunked")]
    gates = [threading.Event() for _ in sent]
    for each, gate in zip(sent, gates, strict=True):
        steps += [framed(sse(each)), lambda _, gate=gate: gate.wait(30) and None]
    raw_server.answer(*steps)
    for keep_text in (True, False):
        for gate in gates:
            gate.clear()
        with (
            Client("k" * 20, base_url=raw_server.url, retry=None) as client,
            client.stream("Hi", keep_text=keep_text) as stream,
        ):
            chunks = stream.chunks()
            for each, gate in zip(sent, gates, strict=True):
                assert next(chunks) == each
                gate.set()
            with pytest.raises(StreamInterruptedError):
                next(chunks)


def test_async_raw_chunks(raw_server: RawServer) -> None:
    """An async stream has them too."""
    sent = [chunk(role="assistant"), chunk(content="Hi"), STOP]
    raw_server.answer(head("text/event-stream") + sse(*sent, DONE))

    async def main() -> None:
        with Client("k" * 20, base_url=raw_server.url) as client:
            async with client.as_async().stream("Hi") as stream:
                assert [each async for each in stream.chunks()] == sent
                assert stream.completion.raw["choices"][0]["message"] == {"role": "assistant", "content": "Hi"}

    anyio.run(main)


def test_without_its_text_a_stream_keeps_no_chunks(raw_server: RawServer) -> None:
    """With `keep_text=False` nothing piles up: neither raw nor tool calls."""
    call = {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}}
    content = sse(chunk(content="Hi"), chunk(tool_calls=[call]), STOP, DONE)
    raw_server.answer(head("text/event-stream") + content)
    with Client("k" * 20, base_url=raw_server.url) as client, client.stream("Hi", keep_text=False) as stream:
        assert list(stream) == ["Hi"]
    assert (stream.completion.raw, stream.completion.tool_calls) == ({}, ())


def test_iterating_gives_the_first_of_several_answers(raw_server: RawServer, face: Face) -> None:
    """Text of other choices is no part of the iteration, nor of `text`."""
    other = {"choices": [{"index": 1, "delta": {"content": "Ho"}}]}
    raw_server.answer(head("text/event-stream") + sse(chunk(content="H"), other, chunk(content="i"), DONE))
    with Client("k" * 20, base_url=raw_server.url) as client:
        assert face.ask(client, n=2).text == "Hi"
