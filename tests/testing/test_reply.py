"""What the server can be told to say, in each form in which it says it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import requests

from chatanywhere import Client
from chatanywhere.testing import Fault, LoopbackServer, Reply

TIMEOUT = 10  # seconds
QUESTION = [{"role": "user", "content": "Hello"}]
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
CUSTOM = {
    "id": "call_2",
    "type": "custom",
    "custom": {"name": "sh", "input": "ls"},
    "extra_content": {"signature": "x"},
}
CHUNKS = [
    {"id": "a", "model": "m", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "Hel"}}]},
    {"id": "a", "model": "m", "choices": [{"index": 0, "delta": {"content": None, "mood": {"level": 1}}}], "x": 7},
    {"id": "a", "model": "m", "choices": [{"index": 1, "delta": {"content": "Bye", "notes": ["one"]}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "t", "function": {"arguments": "{"}}]}}]},
    {"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "id": "t", "function": {"arguments": "}"}}]}}]},
    {"choices": [{"index": 1, "delta": {"notes": ["two"]}, "finish_reason": "stop"}]},
    {"choices": [{"index": 0, "delta": {"content": "lo"}, "finish_reason": "length"}], "usage": {"total_tokens": 3}},
]


def ask(reply: Any, **body: Any) -> requests.Response:
    """The response to one chat over the openai protocol."""
    with LoopbackServer([reply]) as server:
        return requests.post(
            f"{server.url}/v1/chat/completions",
            json={"model": "any", "messages": QUESTION, **body},
            headers={"Authorization": "Bearer any"},
            timeout=TIMEOUT,
        )


def stream(reply: Any, **body: Any) -> list[Any]:
    """The chunks of the answer; the last event is [DONE]."""
    response = ask(reply, stream=True, **body)
    assert response.headers["Content-Type"] == "text/event-stream"
    *events, done, rest = response.content.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def deltas(chunks: Sequence[Mapping[str, Any]], index: int = 0) -> list[dict[str, Any]]:
    return [each["delta"] for chunk in chunks for each in chunk["choices"] if each["index"] == index]


def spoken(chunks: Sequence[Mapping[str, Any]], index: int = 0) -> dict[str, Any]:
    """A choice's message and finish reason, put together from chunks by hand."""
    message: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    for delta in deltas(chunks, index):
        for name, value in delta.items():
            if name == "tool_calls":
                (fragment,) = value
                if fragment["index"] == len(calls):
                    calls.append({key: value for key, value in fragment.items() if key != "index"})
                else:
                    calls[fragment["index"]]["function"]["arguments"] += fragment["function"]["arguments"]
            elif name != "role" and value is not None:
                message[name] = message.get(name, "") + value
    (reason,) = {
        each["finish_reason"]
        for chunk in chunks
        for each in chunk["choices"]
        if each["index"] == index and (each["finish_reason"] or not each["delta"])
    }
    if calls:
        message["tool_calls"] = calls
    return {"finish_reason": reason, **{name: value for name, value in message.items() if value}}


REPLIES = {
    "text": Reply("Hello, you there."),
    "chinese": Reply("你好！"),
    "pieces": Reply(pieces=["Hel", "lo", " you"]),
    "reasoning": Reply("Hello", reasoning="They greet."),
    "refusal": Reply(refusal="I will not."),
    "call": Reply(tool_calls=[CALL]),
    "calls": Reply("Let me see.", reasoning="Hm.", tool_calls=[CALL, CUSTOM, CALL]),
    "reason": Reply("Hello", finish_reason="length"),
    "no reason": Reply("Hello", finish_reason=""),
    "nothing": Reply(),
}

every_reply = pytest.mark.parametrize("reply", REPLIES.values(), ids=REPLIES)


@every_reply
def test_streamed_and_not_streamed_say_the_same(reply: Reply) -> None:
    """A stream's pieces come to the message that is answered where no stream was asked for."""
    (choice,) = ask(reply).json()["choices"]
    message = {name: value for name, value in choice["message"].items() if value and name != "role"}
    assert spoken(stream(reply)) == {"finish_reason": choice["finish_reason"], **message}


def test_the_text_is_streamed_word_by_word_and_pieces_as_they_are() -> None:
    """A text is split at blanks, and into the characters of Chinese; pieces are each an event of its own."""
    assert deltas(stream(Reply("one two 你好")))[1:-1] == [{"content": piece} for piece in ["one", " two", " 你", "好"]]
    assert deltas(stream(Reply(pieces=["one two", "你好"])))[1:-1] == [{"content": "one two"}, {"content": "你好"}]


@pytest.mark.parametrize(
    ("given", "sent"), [(None, "stop"), ("length", "length"), ("", None)], ids=["default", "given", "none"]
)
def test_the_finish_reason_is_as_told(given: str | None, sent: str | None) -> None:
    """`"stop"` unless another is given; the empty one is null, as of a model that says none."""
    reply = Reply("Hi", finish_reason=given)
    assert ask(reply).json()["choices"][0]["finish_reason"] == sent
    assert stream(reply)[-1]["choices"] == [{"index": 0, "delta": {}, "finish_reason": sent}]


@pytest.mark.parametrize(
    ("reply", "content"),
    [
        (Reply("Hi"), ""),
        (Reply(), ""),
        (Reply("Hi", tool_calls=[("f", {})]), ""),
        (Reply(tool_calls=[("f", {})]), None),
        (Reply(refusal="No."), None),
    ],
)
def test_a_stream_begins_with_null_where_no_text_follows(reply: Reply, content: str | None) -> None:
    """The first chunk has what OpenAI's has, so that its SDK says of a stream what it says of an object."""
    assert deltas(stream(reply))[0] == {"role": "assistant", "content": content}


def test_reasoning_comes_before_the_text() -> None:
    """The thinking is told first, word by word, in the field of its own."""
    assert deltas(stream(Reply("Hi", reasoning="They greet")))[1:-1] == [
        {"reasoning_content": "They"},
        {"reasoning_content": " greet"},
        {"content": "Hi"},
    ]


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', {"city": "Paris"}])
def test_a_tool_call_may_be_a_pair(arguments: Any) -> None:
    """A name and arguments are made into OpenAI's dict, the arguments into JSON, with an id; the reason is its own."""
    reply = Reply(tool_calls=[("weather", arguments)])
    (choice,) = ask(reply).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert choice["message"]["content"] is None
    assert choice["finish_reason"] == "tool_calls"
    assert call.pop("id")
    assert call == {"type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    fragments = [delta["tool_calls"][0] for delta in deltas(stream(reply)) if "tool_calls" in delta]
    assert len(fragments) > 2
    assert "".join(each["function"]["arguments"] for each in fragments) == '{"city": "Paris"}'
    assert {each["index"] for each in fragments} == {0}


def test_the_client_reads_tool_calls_and_reasoning() -> None:
    """What the server says arrives at this package's own client."""
    reply = Reply("Wait.", reasoning="Weather?", tool_calls=[CALL, ("time", "{}")])
    with LoopbackServer([reply]) as server, Client("any", base_url=server.url, proxy="") as client:
        completion = client.complete("Hello")
    assert (completion.text, completion.reasoning, completion.finish_reason) == ("Wait.", "Weather?", "tool_calls")
    assert [(call.name, call.arguments) for call in completion.tool_calls] == [
        ("weather", '{"city": "北京"}'),
        ("time", "{}"),
    ]


def test_usage_is_counted_or_given() -> None:
    """Words are counted, those of all choices, unless the counts are given; a stream tells them if asked."""
    include = {"stream_options": {"include_usage": True}}
    counted = Reply("two words", reasoning="and one more", choices=[Reply("last")])
    assert ask(counted).json()["usage"] == {"prompt_tokens": 1, "completion_tokens": 6, "total_tokens": 7}
    *others, last = stream(counted, **include)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == 6
    assert {chunk["usage"] for chunk in others} == {None}
    assert all("usage" not in chunk for chunk in stream(counted))
    given = {"total_tokens": 5, "prompt_tokens_details": {"cached_tokens": 2}}
    assert ask(Reply("Hi", usage=given)).json()["usage"] == given
    assert stream(Reply("Hi", usage=given), **include)[-1]["usage"] == given


def test_further_choices_take_turns() -> None:
    """Each choice has its index, its pieces between those of the others, and a finish reason of its own."""
    reply = Reply("one two three", choices=[Reply("four five", finish_reason="length"), Reply(tool_calls=[CALL])])
    chunks = stream(reply, n=3)
    whole = ask(reply, n=3).json()["choices"]
    assert [choice["index"] for choice in whole] == [0, 1, 2]
    for index, choice in enumerate(whole):
        message = {name: value for name, value in choice["message"].items() if value and name != "role"}
        assert spoken(chunks, index) == {"finish_reason": choice["finish_reason"], **message}
    assert [choice["finish_reason"] for choice in whole] == ["stop", "length", "tool_calls"]
    assert [chunk["choices"][0]["index"] for chunk in chunks[:7]] == [0, 1, 2, 0, 1, 2, 0]


def test_chunks_are_sent_as_they_are() -> None:
    """A stream is these very objects and [DONE], usage asked for or not."""
    assert stream(Reply(chunks=CHUNKS)) == CHUNKS
    assert stream(Reply(chunks=CHUNKS), stream_options={"include_usage": True}) == CHUNKS
    assert stream(Reply(chunks=[])) == []


def test_chunks_are_put_together_where_no_stream_was_asked_for() -> None:
    """Strings are joined but for names, lists by their index else appended, null is nothing, unknown fields stay."""
    assert ask(Reply(chunks=CHUNKS)).json() == {
        "id": "a",
        "model": "m",
        "object": "chat.completion",
        "x": 7,
        "usage": {"total_tokens": 3},
        "choices": [
            {
                "index": 0,
                "finish_reason": "length",
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "mood": {"level": 1},
                    "tool_calls": [{"id": "t", "function": {"arguments": "{}"}}],
                },
            },
            {"index": 1, "finish_reason": "stop", "message": {"content": "Bye", "notes": ["one", "two"]}},
        ],
    }


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        *((reply, "".join(reply.pieces or [reply.text])) for reply in REPLIES.values()),
        (Reply(chunks=CHUNKS), "Hello"),
        (Reply(chunks=[]), ""),
    ],
)
def test_the_web_protocol_has_the_text_only(reply: Reply, text: str) -> None:
    """Where there is no field for the rest, the text alone is answered."""
    with LoopbackServer([reply]) as server:
        response = requests.post(f"{server.url}/v1/chat/gpt/", json={"list": QUESTION}, timeout=TIMEOUT)
    assert (response.status_code, response.content.decode()) == (200, text)


@pytest.mark.parametrize("body", [{}, {"stream": True}], ids=["not streamed", "streamed"])
@pytest.mark.parametrize("reply", [{"choices": []}, {"code": 1113, "msg": "余额不足"}, {}], ids=str)
def test_a_dict_is_sent_as_json(reply: dict[str, Any], body: dict[str, Any]) -> None:
    """A dict is answered as a JSON object, whether or not a stream was asked for."""
    response = ask(reply, **body)
    assert response.headers["Content-Type"] == "application/json"
    assert response.json() == reply


def test_the_other_kinds_of_replies_still_do() -> None:
    """A str, a list of pieces, a fault and a function that returns a Reply are replies as well."""
    replies = ["one", ["t", "wo"], Fault.status(503), Reply("four")]
    with LoopbackServer(replies) as server, Client("any", base_url=server.url, proxy="", retry=2) as client:
        assert [client.complete("Hi").text for _ in range(3)] == ["one", "two", "four"]
    twice = LoopbackServer(lambda request: Reply(request.text * 2))
    with twice as server, Client("any", base_url=server.url, proxy="") as client:
        assert client.complete("Hi").text == "HiHi"


@pytest.mark.parametrize("reply", [Reply("Hi"), {"text": "Hi"}, "Hi"], ids=["Reply", "dict", "str"])
def test_a_single_reply_is_not_taken_for_a_script(reply: Any) -> None:
    """One reply in place of an iterable of replies is an error that says how to pass it."""
    with pytest.raises(TypeError, match=r"\[reply\]"):
        LoopbackServer(reply)


@pytest.mark.parametrize(
    ("arguments", "error", "told"),
    [
        ({"text": ["Hi"]}, TypeError, "text must be a str"),
        ({"reasoning": 1}, TypeError, "reasoning must be a str"),
        ({"refusal": None}, TypeError, "refusal must be a str"),
        ({"pieces": "Hi"}, TypeError, "pieces must be a sequence of str"),
        ({"pieces": [1]}, TypeError, "pieces must be a sequence of str"),
        ({"text": "Hi", "pieces": ["Hi"]}, ValueError, "not both"),
        ({"chunks": {}}, TypeError, "chunks must be a sequence of dicts"),
        ({"chunks": ["Hi"]}, TypeError, "chunks must be a sequence of dicts"),
        *(
            ({"chunks": [], **other}, ValueError, "nothing else can be given")
            for other in ({"text": "a"}, {"reasoning": "a"}, {"tool_calls": [CALL]}, {"usage": {}}, {"pieces": []})
        ),
        ({"tool_calls": CALL}, TypeError, "tool_calls must be a sequence"),
        ({"tool_calls": ["weather"]}, TypeError, "tool_calls must be a sequence"),
        ({"tool_calls": [("weather",)]}, TypeError, "tool_calls must be a sequence"),
        ({"tool_calls": 5}, TypeError, "tool_calls must be a sequence"),
        ({"tool_calls": None}, TypeError, "tool_calls must be a sequence"),
        ({"tool_calls": iter([CALL])}, TypeError, "tool_calls must be a sequence"),
        ({"tool_calls": [("weather", {1})]}, TypeError, "tool_calls must be what JSON can write"),
        ({"tool_calls": [{"function": {"arguments": {1}}}]}, TypeError, "tool_calls must be what JSON can write"),
        ({"usage": 5}, TypeError, "usage must be a dict"),
        ({"usage": {"total_tokens": {1}}}, TypeError, "usage must be what JSON can write"),
        ({"chunks": [{"choices": {1}}]}, TypeError, "chunks must be what JSON can write"),
        ({"finish_reason": 5}, TypeError, "finish_reason must be a str"),
        ({"choices": ["Hi"]}, TypeError, "choices must be a sequence of further Replys"),
        *(
            ({"choices": [Reply(**inner)]}, ValueError, "belong to the reply")
            for inner in ({"usage": {}}, {"chunks": []}, {"choices": [Reply()]})
        ),
    ],
)
def test_what_can_not_be_said_is_refused_at_once(arguments: dict[str, Any], error: type[Exception], told: str) -> None:
    """A wrong argument is an error where the reply is made, and not in the server's thread."""
    with pytest.raises(error, match=told):
        Reply(**arguments)


@pytest.mark.parametrize("nothing", [(), []], ids=["tuple", "list"])
def test_nothing_may_be_given_as_any_sequence(nothing: Any) -> None:
    """An empty list says as little as an empty tuple, in a choice and beside chunks."""
    reply = Reply("a", tool_calls=nothing, choices=[Reply("b", choices=nothing, tool_calls=nothing)])
    assert [choice["message"]["content"] for choice in ask(reply).json()["choices"]] == ["a", "b"]
    assert stream(Reply(chunks=CHUNKS, tool_calls=nothing, choices=nothing)) == CHUNKS


def test_arguments_that_refer_to_themselves_are_refused() -> None:
    """What JSON can't write, since it has no end, is an error where the reply is made."""
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="tool_calls must be what JSON can write"):
        Reply(tool_calls=[("weather", endless)])
