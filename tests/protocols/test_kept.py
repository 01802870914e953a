"""Nothing that the service says is lost: what has an event, what has none, and the whole answer as one dict."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
from decoding import DONE, Answer, chunk, joined, sse
from hypothesis import example, given
from hypothesis import strategies as st

from chatanywhere._accumulator import Accumulator
from chatanywhere._errors import ChatAnywhereError, ProtocolError
from chatanywhere._merging import without_halves
from chatanywhere._protocols import chunks as wire
from chatanywhere._protocols import json_text
from chatanywhere._protocols import template as short
from chatanywhere._protocols.protocol import JSONDecoder
from chatanywhere._types import (
    Choice,
    Completion,
    Event,
    Extra,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)


class Read:
    """An answer read to the end of its connection."""

    def __init__(self, *pieces: bytes) -> None:
        answer = Answer("openai", {})
        self.events: list[Event] = []
        for piece in [*pieces, b""]:
            if not answer.over and answer.error is None:
                self.events += answer.feed(piece)
        self.error: ChatAnywhereError | None = answer.error
        self.completion: Completion = answer.completion(None)
        self.chunks = [json.loads(each) for each in answer.chunks()]

    @property
    def said(self) -> list[Event]:
        """The events without the one that says that it began."""
        return [event for event in joined(self.events) if not isinstance(event, Started)]


def read(*chunks: Any, end: Any = DONE) -> Read:
    return Read(sse(*chunks, end))


def whole(message: dict[str, Any], **choice: Any) -> dict[str, Any]:
    """A completion that is not streamed."""
    choices = [{"index": 0, "message": message, "finish_reason": "stop", **choice}]
    return {"id": "c1", "object": "chat.completion", "model": "m1", "choices": choices}


# Any answer ---------------------------------------------------------------------------------------------------

TEXTS = st.text(max_size=6) | st.sampled_from(
    ["", '"', "\\", "\n", "a\u2028b", "你好", "😀", '"}}]}', "\ud83d", "\ude00"]
)
CALLS = st.fixed_dictionaries(
    {},
    optional={
        "index": st.none() | st.integers(0, 2),
        "id": st.none() | st.sampled_from(["", "t1", "t2"]),
        "type": st.just("function"),
        "function": st.fixed_dictionaries(
            {}, optional={"name": st.none() | st.sampled_from(["f", "g"]), "arguments": st.none() | TEXTS}
        ),
        "extra_content": st.just({"google": {"thought_signature": "s"}}),
    },
)
DELTAS = st.fixed_dictionaries(
    {},
    optional={
        "role": st.just("assistant"),
        "content": st.none()
        | TEXTS
        | st.lists(st.builds(lambda text: {"type": "text", "text": text}, TEXTS), max_size=2),
        "reasoning_content": st.none() | TEXTS,
        "reasoning": st.none() | TEXTS,
        "refusal": st.none() | TEXTS,
        "tool_calls": st.none() | st.lists(CALLS, max_size=2),
        "annotations": st.lists(st.just({"type": "url_citation"}), max_size=1),
        "audio": st.fixed_dictionaries({}, optional={"id": st.just("a"), "data": st.sampled_from(["AA", "BB"])}),
        "x_unknown": st.integers() | TEXTS,
    },
)
CHOICES = st.fixed_dictionaries(
    {"delta": DELTAS},
    optional={
        "index": st.none() | st.integers(0, 2),
        "finish_reason": st.none() | st.just("stop"),
        "logprobs": st.none() | st.just({"content": [{"token": "a", "logprob": -0.5}]}),
    },
)
USUAL = st.builds(lambda text: chunk(content=text), TEXTS)
PADDED = st.builds(lambda text, padding: {**chunk(content=text), "obfuscation": padding}, TEXTS, TEXTS)
CHUNKS = (
    USUAL
    | PADDED
    | st.fixed_dictionaries(
        {"choices": st.lists(CHOICES, max_size=2)},
        optional={
            "id": st.sampled_from(["", "c1"]),
            "created": st.just(5),
            "usage": st.none() | st.just({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}),
            "x_unknown": TEXTS,
        },
    )
)


@given(st.lists(CHUNKS, max_size=8), st.booleans(), st.data())
def test_every_split_comes_to_the_same(chunks: list[Any], ascii_: bool, data: Any) -> None:
    """Events, text and raw do not depend on where the bytes are cut."""
    written = [json.dumps(each, ensure_ascii=ascii_).encode("utf-8", "replace").decode() for each in chunks]
    content = sse(*written, DONE)
    places = sorted(data.draw(st.sets(st.integers(1, len(content) - 1), max_size=8)))
    pieces = [content[start:end] for start, end in itertools.pairwise([0, *places, len(content)])]
    found = [Read(content), Read(*pieces)]
    results = [(each.said, each.completion, each.completion.raw, str(each.error)) for each in found]
    assert results[0] == results[1]
    for choice, raw in zip(found[0].completion.choices, found[0].completion.raw.get("choices", ()), strict=False):
        if isinstance(raw["message"].get("content"), str) and raw["index"] == choice.index and found[0].error is None:
            assert raw["message"]["content"] == choice.text


@given(
    st.lists(USUAL | PADDED | st.sampled_from([chunk(reasoning_content="嗯"), {"choices": []}, chunk(x=1)]), max_size=8)
)
def test_the_short_way_comes_to_what_the_long_way_does(chunks: list[Any]) -> None:
    """With and without the template by which a usual chunk is read, an answer is the same."""
    content = sse(*chunks, chunk("stop"), DONE)
    short = Read(content)
    with mock.patch.object(wire, "_MAX_IDLE_TEMPLATES", 0):
        long = Read(content)
    assert (short.events, short.completion, short.completion.raw) == (long.events, long.completion, long.completion.raw)


USUAL_DATA = json.dumps(chunk(content="word"))
PADDED_DATA = json.dumps({**chunk(content="word"), "obfuscation": "pad"})


@pytest.mark.parametrize(
    "data",
    [
        data
        for usual, text in ((USUAL_DATA, '"word"'), (PADDED_DATA, '"word"'), (PADDED_DATA, '"pad"'))
        for data in (
            usual.replace(text, '"wo"rd"'),
            usual.replace(text, '"wo\nrd"'),
            usual.replace(text, '"word'),
            usual.replace(text, '"\\x"'),
            usual[:-1],
            usual + "}",
        )
    ],
)
def test_what_only_looks_like_a_usual_chunk_is_refused(data: str) -> None:
    """A chunk that begins like the one before and is no JSON is a ProtocolError, and the text before it is kept."""
    before = {**chunk(content="Hi"), **({"obfuscation": "x"} if "obfuscation" in data else {})}
    found = read(before, before, "".join(f"{line}\ndata: " for line in data.split("\n"))[:-7])
    assert found.completion.text == "HiHi"
    assert isinstance(found.error, ProtocolError)


@pytest.mark.parametrize(
    "last",
    [
        chunk("stop", content="!"),
        {**chunk(content="!"), "usage": {"prompt_tokens": 1}},
        {**chunk(content="!"), "choices": [{"index": 1, "delta": {"content": "!"}}]},
        chunk(content="!", refusal="No"),
        chunk(content="!", x=1),
        chunk(content="!", content_="!"),
        {**chunk(content="!"), "x": "!"},
        {**chunk(content="!"), "x": "!", "usage": {"prompt_tokens": 1}},
        {**chunk(content="!"), "x": 1},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("padding", [{}, {"x": "?"}])
def test_what_is_not_usual_takes_the_long_way(last: dict[str, Any], padding: dict[str, str]) -> None:
    """A chunk that says more than the ones before it is read whole, however much it looks like them."""
    chunks = [{**chunk(content="Hi"), **padding}, {**chunk(content="Hi"), **padding}, last]
    found = read(*chunks)
    with mock.patch.object(wire, "template", return_value=None):
        expected = read(*chunks)
    assert (found.events, found.completion.raw) == (expected.events, expected.completion.raw)
    assert found.chunks == chunks


def test_a_text_within_another_is_not_taken_for_the_text() -> None:
    """Where the content stands is found out exactly, even where another string holds the same characters."""
    begin = '{"id": "\\"content\\": \\"", "x": {"content": "no"}, "choices": [{"delta": '
    odd, plain = begin + '{"y": "content", "content": "%s"}}]}', begin + '{"content": "%s"}}]}'
    found = read(odd % "a", odd % "b", plain % "c", plain % "d", chunk("stop"))
    assert (found.completion.text, found.error) == ("abcd", None)


# The whole answer as one dict -----------------------------------------------------------------------------------


def test_raw_is_the_answer_as_if_it_had_not_been_streamed() -> None:
    """Strings are joined, names stay, lists follow their index, null is left out, and what nobody knows is kept."""
    call = {"index": 0, "id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x"'}}
    more = {"index": 0, "id": "", "function": {"name": "", "arguments": ": 1}"}}
    chunks = [
        {**chunk(role="assistant", content=""), "object": "chat.completion.chunk", "created": 5, "usage": None},
        {**chunk(role="assistant", content="He"), "sources": ["a"]},
        {**chunk(content="llo", refusal=None, x={"a": "1", "b": [1]}), "sources": ["a"]},
        chunk(x={"a": "2", "b": [2]}, tool_calls=[call]),
        chunk("tool_calls", tool_calls=[more]),
        {"id": "c1", "choices": [], "usage": {"prompt_tokens": 1, "y": {"z": 2}}, "v": True},
    ]
    found = read(*chunks)
    assert found.chunks == chunks
    assert found.completion.raw == {
        "id": "c1",
        "model": "m1",
        "object": "chat.completion",
        "created": 5,
        "sources": ["a"],
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hello",
                    "x": {"a": "12", "b": [1, 2]},
                    "tool_calls": [
                        {"id": "t1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 1, "y": {"z": 2}},
        "v": True,
    }


def test_raw_of_an_answer_that_is_not_streamed_is_that_answer() -> None:
    """One JSON object is kept as it came, nulls and all."""
    answer = whole({"role": "assistant", "content": "Hi", "refusal": None}, logprobs=None)
    found = Read(json.dumps(answer).encode())
    assert (found.completion.raw, found.chunks, found.completion.text) == (answer, [answer], "Hi")


@pytest.mark.parametrize("name", ["finish_reason", "system_fingerprint", "service_tier", "x_unknown"])
@pytest.mark.parametrize("empty", ["", None, "missing"])
def test_what_is_empty_wipes_nothing_out(name: str, empty: str | None) -> None:
    """What is said outside a delta stays if it is said again without a value."""
    for within in (True, False):
        chunks = [chunk(content="Hi"), chunk(), chunk()]
        for each, value in zip(chunks, ("", "stop", empty), strict=True):
            place = each["choices"][0] if within else each
            place.pop(name, None)
            place |= {} if value == "missing" else {name: value}
        raw = read(*chunks, chunk("stop")).completion.raw
        assert (raw["choices"][0] if within else raw)[name] == "stop"


ITEMS = st.fixed_dictionaries({"title": st.sampled_from("ab")}, optional={"date": st.none(), "x": st.just([1, None])})


def without_nulls(item: Any) -> Any:
    return {name: item[name] for name in item if item[name] is not None} if isinstance(item, dict) else item


@given(st.lists(ITEMS | st.sampled_from(["https://a.example", 1]), min_size=1, max_size=4), st.data())
def test_a_list_that_each_chunk_has_is_there_once(items: list[Any], data: Any) -> None:
    """Sources are said whole in every chunk, or as far as they are known; deep in another object too."""
    ends = sorted(data.draw(st.lists(st.integers(0, len(items)), min_size=1, max_size=4)))
    lists = [items[:end] for end in [*ends, len(items), len(items)]]
    found = read(*[{**chunk(content="a"), "results": each, "x": {"y": each}} for each in lists], chunk("stop"))
    raw = found.completion.raw
    assert raw["results"] == raw["x"]["y"] == [without_nulls(item) for item in items]


@pytest.mark.parametrize("object_", [{}, {"object": "chat.completion.chunk"}, {"object": ""}], ids=str)
@pytest.mark.parametrize(
    "fields", [{}, {"delta": {}}, {"delta": {"content": "Hi"}}, {"message": {"content": "Hi"}}], ids=str
)
def test_a_chunk_alone_has_the_shape_of_an_answer(object_: dict[str, Any], fields: dict[str, Any]) -> None:
    """An answer of one chunk is in raw as one of many is."""
    found = read({**choice("stop", **fields), **object_}).completion
    assert [(each["message"].get("content"), "delta" in each) for each in found.raw["choices"]] == [
        (found.text or None, False)
    ]
    assert found.raw.get("object", "") in ("", "chat.completion") if "message" in fields else "chat.completion"


@given(st.lists(st.tuples(st.integers(0, 2), TEXTS), max_size=8), st.data())
def test_items_with_the_same_index_are_pieces_in_their_order(pieces: list[tuple[int, str]], data: Any) -> None:
    """Pieces are joined as they were said, those of one chunk too, however deep they are."""
    items = [{"index": index, "text": text, "x": {"y": {"z": text}}} for index, text in pieces]
    places = sorted(data.draw(st.sets(st.integers(0, len(items)), max_size=4)))
    chunks = [chunk(parts=items[start:end], w="w") for start, end in itertools.pairwise([0, *places, len(items)])]
    raw = read(*chunks, chunk("stop")).completion.raw["choices"][0]["message"]
    texts = {index: without_halves("".join(text for each, text in pieces if each == index)) for index, _ in pieces}
    assert {item["index"]: item["text"] for item in raw.get("parts", ())} == texts
    assert {item["index"]: item["x"]["y"]["z"] for item in raw.get("parts", ())} == texts


INDEXED = st.lists(
    st.fixed_dictionaries({"index": st.integers(0, 1)}, optional={"a": st.just(1), "b": st.just([2])}), max_size=2
)


@given(
    st.lists(
        st.dictionaries(st.sampled_from("xyz"), INDEXED | st.just({"b": 1}) | st.just("s"), max_size=3), max_size=8
    )
)
@example([{"x": [{"index": 0, "a": 1}]}, {"x": {"b": 1}}, {"y": [{"index": 0, "c": 1}]}])
def test_fields_do_not_come_into_each_others_way(deltas: list[dict[str, Any]]) -> None:
    """What becomes of a field in raw does not depend on the others, whatever has taken whose place."""

    def message(deltas: list[dict[str, Any]]) -> dict[str, Any]:
        message: dict[str, Any] = read(*[chunk(**each) for each in deltas], chunk("stop")).completion.raw["choices"][0][
            "message"
        ]
        return message

    alone = [message([{name: each[name]} for each in deltas if name in each]) for name in "xyz"]
    assert message(deltas) == {name: value for each in alone for name, value in each.items()}


def test_raw_takes_linear_time() -> None:
    """Many chunks, and many items with an index, are put together without going through them again and again."""
    items = [{"index": number, "text": "a"} for number in range(5_000)]
    found = read(*[chunk(content="word ")] * 5_000, chunk("stop", parts=items), chunk(parts=items))
    message = found.completion.raw["choices"][0]["message"]
    assert message["content"] == "word " * 5_000
    assert message["parts"] == [{"index": number, "text": "aa"} for number in range(5_000)]


# What has an event ----------------------------------------------------------------------------------------------


def test_a_refusal_is_told() -> None:
    """A refusal has its event and its attribute."""
    found = read(chunk(refusal="I "), chunk(refusal="can't."), chunk("stop"))
    assert found.said == [RefusalDelta("I can't."), Finished("stop")]
    assert (found.completion.text, found.completion.refusal) == ("", "I can't.")
    assert found.completion.message == {"role": "assistant", "content": None, "refusal": "I can't."}


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
@pytest.mark.parametrize("as_details", [False, True])
def test_thoughts_are_read_under_each_of_their_names_and_once(name: str, as_details: bool) -> None:
    """What was thought counts once, under however many names it comes."""
    details = {"reasoning_details": [{"type": "reasoning.text", "text": "Hm"}]} if as_details else {}
    for delta in ({name: "Hm"}, {"reasoning": "Hm", "reasoning_content": "Hm"}, {}):
        found = read(chunk(**delta, **details), chunk("stop", content="Hi"))
        assert found.completion.reasoning == ("Hm" if delta or details else "")
        assert found.completion.text == "Hi"


@pytest.mark.parametrize(
    ("content", "text", "thought"),
    [
        ([{"type": "text", "text": "Hi"}], "Hi", ""),
        ([{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], "Hi", ""),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}], "", "Hm"),
        ([{"type": "thinking", "thinking": "Hm"}, {"type": "text", "text": "Hi"}], "Hi", "Hm"),
        ([{"type": "image_url", "image_url": {"url": "x"}}], "", ""),
        ([], "", ""),
    ],
)
def test_content_may_be_a_list_of_parts(content: list[Any], text: str, thought: str) -> None:
    """Parts of text are text, thinking parts are thoughts, others are kept."""
    for answer in (read(chunk(content=content), chunk("stop")), Read(json.dumps(whole({"content": content})).encode())):
        assert (answer.completion.text, answer.completion.reasoning, answer.error) == (text, thought, None)
        if content:
            assert answer.completion.raw["choices"][0]["message"]["content"] == content
    if content and content[0]["type"] == "image_url":
        assert Extra({"content": content}) in answer.events


SHAPES: dict[str, Callable[[str], Any]] = {
    "a text": lambda text: text,
    "a list": lambda text: [text],
    "a list in a list": lambda text: [[text]],
    "pieces": lambda text: list(text),
    "a part": lambda text: {"text": text},
    "a part of a part": lambda text: {"content": [{"text": text}]},
    "a value": lambda text: {"text": {"value": text, "annotations": []}},
    "a list with null": lambda text: [None, text, None],
}
KINDS = {
    "text": {"text": "text", "output_text": "text"},
    "reasoning": {"thinking": "thinking", "reasoning": "reasoning", "reasoning_text": "text", "summary_text": "text"},
    "refusal": {"refusal": "refusal"},
}
FIELDS = {"content": "text", "reasoning_content": "reasoning", "reasoning": "reasoning", "refusal": "refusal"}
told_in_shapes = pytest.mark.parametrize("shape", SHAPES)


def told(found: Read) -> dict[str, str]:
    """What has been said in words, by its kind."""
    choice = found.completion.choices[0]
    return {kind: getattr(choice, kind) for kind in KINDS if getattr(choice, kind)}


@told_in_shapes
@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("streamed", [True, False])
def test_words_are_read_in_any_shape(shape: str, field: str, streamed: bool) -> None:
    """What a field says is a text, or a part with one, or a list of either."""
    message = {field: SHAPES[shape]("Hm")}
    found = read(chunk("stop", **message)) if streamed else Read(json.dumps(whole(message)).encode())
    assert (told(found), found.error) == ({FIELDS[field]: "Hm"}, None)


@told_in_shapes
@pytest.mark.parametrize(
    ("kind", "type_", "name"),
    [
        (kind, type_, name)
        for kind, types in KINDS.items()
        for type_, own in types.items()
        for name in dict.fromkeys((own, "text"))
    ],
)
def test_a_part_is_what_its_type_says(shape: str, kind: str, type_: str, name: str) -> None:
    """A thought among the parts of the content is none of the answer, in whatever field of the part it stands."""
    part = {"type": type_, name: SHAPES[shape]("Hm")}
    found = read(chunk("stop", content=[part, {"type": "text", "text": ""}]))
    assert (told(found), found.error) == ({kind: "Hm"}, None)
    if name == type_:
        del part["type"]
        assert told(read(chunk("stop", content=[part]))) == {kind: "Hm"}


@pytest.mark.parametrize(
    "detail", [{"type": "reasoning.text", "text": "Hm"}, {"type": "reasoning.summary", "summary": "Hm"}]
)
def test_details_of_reasoning_are_thoughts(detail: dict[str, str]) -> None:
    """Texts and summaries are read, and what else they say is kept."""
    secret = {"type": "reasoning.encrypted", "data": "AAAA"}
    found = read(chunk("stop", reasoning_details=[detail, secret]))
    assert told(found) == {"reasoning": "Hm"}
    assert Extra({"reasoning_details": [detail, secret]}) in found.events


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize(
    "value", [5, 0.5, True, {"x": 1}, [{"x": 1}], [5], {"type": "image", "data": "AAAA"}], ids=json.dumps
)
def test_what_is_not_said_in_words_is_kept(field: str, value: Any) -> None:
    """What is no text in any shape is an Extra and in raw, and takes no other words away."""
    other = "reasoning" if field == "content" else "content"
    found = read(chunk("stop", **{field: value, other: "Hi"}))
    assert (list(told(found).values()), found.error) == (["Hi"], None)
    assert Extra({field: value}) in found.events
    assert found.completion.raw["choices"][0]["message"][field] == value


FRAGMENTS = [
    {"id": "t1", "type": "function", "function": {"name": "f", "arguments": ""}},
    {"function": {"arguments": '{"q": "}'}},
    {"function": {"arguments": '"}'}},
    {"id": "t2", "type": "function", "function": {"name": "g", "arguments": ""}},
    {"function": {"arguments": '{"q":'}},
    {"function": {"arguments": ' "\\"y"}'}},
]
TWO_CALLS = (ToolCall("t1", "f", '{"q": "}"}'), ToolCall("t2", "g", '{"q": "\\"y"}'))


@pytest.mark.parametrize("index", ["missing", "null", "zero", "right"])
@pytest.mark.parametrize("ids", ["once", "always", "never"])
@pytest.mark.parametrize("together", [False, True], ids=["apart", "in one chunk"])
def test_the_fragments_of_tool_calls_find_together(index: str, ids: str, together: bool) -> None:
    """Parallel calls stay apart, whatever the server says of their index and ids."""
    fragments = []
    for number, fragment in enumerate(FRAGMENTS):
        call = number // 3
        fragment = {**fragment}
        if index != "missing":
            fragment["index"] = {"null": None, "zero": 0, "right": call}[index]
        if ids == "always":
            fragment["id"] = TWO_CALLS[call].id
        elif ids == "never":
            fragment.pop("id", None)
        fragments.append(fragment)
    chunks = [chunk(tool_calls=fragments)] if together else [chunk(tool_calls=[each]) for each in fragments]
    completion = read(*chunks, chunk("tool_calls")).completion
    expected = [ToolCall(None if ids == "never" else call.id, call.name, call.arguments) for call in TWO_CALLS]
    assert list(completion.tool_calls) == expected
    raw = completion.raw["choices"][0]["message"]["tool_calls"]
    assert [each["function"]["arguments"] for each in raw] == [call.arguments for call in TWO_CALLS]
    assert completion.message["tool_calls"] == raw


def test_calls_that_take_turns_are_told_apart_by_their_index() -> None:
    """Fragments of numbered calls may come in any order, and a name or an id may be said again."""
    call = lambda index, text, **more: {"index": index, **more, "function": {"name": "f", "arguments": text}}  # noqa: E731
    chunks = [chunk(tool_calls=[call(1, "{"), call(0, "{}")]), chunk(tool_calls=[call(0, " ", id="b"), call(1, "}")])]
    found = read(*chunks, chunk("tool_calls"))
    assert [each.arguments for each in found.completion.tool_calls] == ["{} ", "{}"]


def test_arguments_that_are_an_object_are_taken_as_json() -> None:
    """Some servers send the arguments as they are, not as a text."""
    found = read(chunk("tool_calls", tool_calls=[{"id": "t", "function": {"name": "f", "arguments": {"x": "你"}}}]))
    assert found.completion.tool_calls == (ToolCall("t", "f", '{"x": "你"}'),)
    assert found.completion.message["tool_calls"][0]["function"]["arguments"] == '{"x": "你"}'


def test_a_custom_tool_is_called_with_free_text() -> None:
    """The input of a custom call is its arguments, and the call says what it is."""
    pieces = [
        {"index": 0, "id": "t", "type": "custom", "custom": {"name": "sh", "input": "ls"}},
        {"index": 0, "custom": {"input": " -l"}},
    ]
    found = read(*[chunk(tool_calls=[each]) for each in pieces], chunk("tool_calls"))
    (call,) = found.completion.tool_calls
    assert (call.id, call.name, call.type, call.input) == ("t", "sh", "custom", "ls -l")
    assert found.completion.message["tool_calls"] == [
        {"id": "t", "type": "custom", "custom": {"name": "sh", "input": "ls -l"}}
    ]


def test_the_old_function_call_is_a_tool_call() -> None:
    """A `function_call` has the events of a tool call, and goes back as it came."""
    pieces = [{"name": "f", "arguments": "{"}, {"arguments": "}"}]
    found = read(*[chunk(function_call=each) for each in pieces], chunk("function_call"))
    assert found.said[:2] == [ToolCallDelta(0, None, "f", "{"), ToolCallDelta(0, None, None, "}")]
    assert found.completion.tool_calls == (ToolCall(None, "f", "{}"),)
    assert found.completion.message["function_call"] == {"name": "f", "arguments": "{}"}


def test_what_a_service_wants_back_is_in_the_message() -> None:
    """A call's signature goes back with it, and so do the thoughts that led to it."""
    signed = {"google": {"thought_signature": "s"}}
    call = {"index": 0, "id": "t", "function": {"name": "f", "arguments": "{}"}, "extra_content": signed}
    found = read(chunk(reasoning_content="Hm", content="Hi"), chunk("tool_calls", tool_calls=[call]))
    assert found.completion.tool_calls[0].extra == {"extra_content": signed}
    assert found.completion.message["tool_calls"][0]["extra_content"] == signed
    assert found.completion.message["reasoning_content"] == "Hm"
    assert "reasoning_content" not in read(chunk("stop", reasoning_content="Hm", content="Hi")).completion.message


@pytest.mark.parametrize("role", ["missing", "", None, "assistant", "model"])
@pytest.mark.parametrize("type_", ["missing", "", None, "function"])
@pytest.mark.parametrize("streamed", [True, False])
def test_the_message_can_be_sent_back(role: str | None, type_: str | None, streamed: bool) -> None:
    """A message has a role and its calls a type, whether or not the server said them."""
    call = {"id": "t", "type": type_, "function": {"name": "f", "arguments": {}}}
    body = {"role": role, "tool_calls": [{name: value for name, value in call.items() if value != "missing"}]}
    body = {name: value for name, value in body.items() if value != "missing"}
    found = read(chunk("tool_calls", **body)) if streamed else Read(json.dumps(whole(body)).encode())
    assert found.completion.message == {
        "role": role if role == "model" else "assistant",
        "content": None,
        "tool_calls": [{"id": "t", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
    }


USAGES = [
    ({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}, Usage(1, 2, 3)),
    ({"prompt_tokens": 1.0, "completion_tokens": "2", "total_tokens": 3}, Usage(1, 2, 3)),
    ({"prompt_tokens": "1.0", "completion_tokens": " 2 ", "total_tokens": " 3.00\n"}, Usage(1, 2, 3)),
    ({"prompt_tokens": "1.5"}, None),
    ({"prompt_tokens": "-1"}, None),
    ({"prompt_tokens": "9" * 30}, None),
    ({"prompt_tokens": 1, "completion_tokens": 2}, Usage(1, 2, 3)),
    ({"prompt_tokens": 1, "total_tokens": 3}, Usage(1, 2, 3)),
    ({"completion_tokens": 2, "total_tokens": 3}, Usage(1, 2, 3)),
    ({"prompt_tokens": 1, "completion_tokens": None, "total_tokens": None}, Usage(1, 0, 1)),
    (
        {
            "prompt_tokens": 5,
            "completion_tokens": 6,
            "total_tokens": 11,
            "prompt_tokens_details": {"cached_tokens": 4},
            "completion_tokens_details": {"reasoning_tokens": 3},
        },
        Usage(5, 6, 11, cached_tokens=4, reasoning_tokens=3),
    ),
    ({"prompt_tokens": 5, "prompt_cache_hit_tokens": 4}, Usage(5, 0, 5, cached_tokens=4)),
    ({"prompt_tokens": 5, "cached_tokens": 4, "prompt_tokens_details": None}, Usage(5, 0, 5, cached_tokens=4)),
    ({"tokens": 7}, None),
    ({"prompt_tokens": 1.5}, None),
    ({"prompt_tokens": -1}, None),
    ({"prompt_tokens": True}, None),
    (7, None),
    ([1], None),
    ("many", None),
]


@pytest.mark.parametrize(("usage", "expected"), USAGES, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("within", [False, True], ids=["chunk", "choice"])
def test_usage_is_read_as_servers_write_it(usage: Any, expected: Usage | None, within: bool) -> None:
    """Counts in any spelling, in the chunk or its choice; another shape is kept and no error."""
    last = chunk("stop", content="Hi")
    (last["choices"][0] if within else last)["usage"] = usage
    found = read(last)
    assert (found.completion.usage, found.error) == (expected, None)
    raw = found.completion.raw
    assert (raw["choices"][0] if within else raw)["usage"] == (
        {name: value for name, value in usage.items() if value is not None} if isinstance(usage, dict) else usage
    )


@pytest.mark.parametrize(
    "put",
    [
        lambda usage, last: last.update(x_groq={"id": "r", "usage": usage}),
        lambda usage, last: last["choices"][0]["delta"].update(usage=usage),
        lambda usage, last: last["choices"][0].update(message={"usage": usage}),
    ],
    ids=["x_groq", "delta", "message"],
)
def test_usage_is_found_where_servers_put_it(put: Callable[[Any, Any], None]) -> None:
    """In Groq's own field, in a delta, in a message."""
    last = chunk("stop", content="Hi")
    put({"prompt_tokens": 1, "completion_tokens": 2}, last)
    found = read(chunk(content="Hi"), chunk(content="Hi"), last)
    assert found.events.count(Usage(1, 2, 3)) == 1
    assert found.completion.usage == Usage(1, 2, 3)


@pytest.mark.parametrize("index", ["0", 0.0, -1, 1.5, "x", True, [], {}, None], ids=repr)
def test_the_index_of_a_choice_may_be_written_anyhow(index: Any) -> None:
    """What is no count is that of the first choice."""
    found = Read(sse(*[{"choices": [{"index": index, "delta": {"content": text}}]} for text in "Hi"], DONE))
    assert (found.said, found.error) == ([TextDelta("Hi")], None)


def test_the_index_may_be_a_number_in_a_text() -> None:
    """`"1"` is another choice than `"0"`."""
    found = Read(sse(*[{"choices": [{"index": text, "delta": {"content": text}}]} for text in ("0", "1")], DONE))
    assert found.said == [TextDelta("0", 0), TextDelta("1", 1)]


@pytest.mark.parametrize(("reason", "told"), [(True, "true"), (1, "1"), ({"type": "stop"}, '{"type": "stop"}')])
def test_a_finish_reason_may_be_anything(reason: Any, told: str) -> None:
    """What is no text is told as it stands there, and the choice has ended."""
    last = chunk(content="Hi")
    last["choices"][0]["finish_reason"] = reason
    found = Read(sse(last))
    assert (found.said, found.error) == ([TextDelta("Hi"), Finished(told)], None)


def test_a_choice_may_be_null_and_a_name_a_number() -> None:
    """Nothing is said by null; an id that is a number is the text of it."""
    found = read({"id": 5, "model": 7, "choices": [None]}, {"choices": [None, {"delta": {"content": "Hi"}}]})
    assert (found.completion.text, found.completion.id, found.completion.model) == ("Hi", "5", "7")


@pytest.mark.parametrize("times", [1, 3])
def test_a_completion_that_is_no_chat_is_read(times: int) -> None:
    """Where a choice has neither a delta nor a message, its `text` is the answer."""
    found = read(*[{"choices": [{"text": "Hi", "index": 0}]}] * times)
    assert (found.completion.text, found.error) == ("Hi" * times, None)
    assert Extra({"text": "Hi"}) in read({"choices": [{"text": "Hi", "delta": {"content": "Ho"}}]}).events


def test_what_a_choice_has_beside_its_delta_is_an_answer() -> None:
    """An answer whose choice has said something that has no event of its own holds something."""
    found = read({"choices": [{"x_unknown": 1}]})
    assert (found.said, found.error) == ([Extra({"x_unknown": 1})], None)


def test_the_first_id_and_model_that_are_not_empty_are_those_of_the_answer() -> None:
    """Some services begin with a chunk that has neither."""
    first = {"id": "", "model": "", "choices": [], "prompt_filter_results": []}
    found = read(first, {**chunk(content="Hi"), "created": 5}, {**chunk("stop"), "id": "c2"})
    assert found.events[0] == Started("c1", "m1", 5)
    assert (found.completion.id, found.completion.model, found.completion.created) == ("c1", "m1", 5)


# Several answers ------------------------------------------------------------------------------------------------


def several(index: int, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m1", "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def test_several_answers_are_kept_apart() -> None:
    """Each choice has its text, thoughts, calls and reason; the first one's are those of the completion."""
    logprobs = {"content": [{"token": "Hi", "logprob": -1}]}
    last = several(0, "stop", content="!")
    last["choices"][0]["logprobs"] = logprobs
    found = read(
        several(1, content="Ho"),
        several(0, content="Hi"),
        several(1, reasoning_content="Hm"),
        several(1, "length", tool_calls=[{"id": "t", "function": {"name": "f", "arguments": "{}"}}]),
        {**last, "choices": [*last["choices"], *several(2, "stop", refusal="No")["choices"]]},
    )
    assert found.completion.choices == (
        Choice(0, "Hi!", finish_reason="stop", logprobs=logprobs),
        Choice(1, "Ho", "Hm", tool_calls=(ToolCall("t", "f", "{}"),), finish_reason="length"),
        Choice(2, "", refusal="No", finish_reason="stop"),
    )
    assert (found.completion.text, found.completion.finish_reason) == ("Hi!", "stop")
    assert found.said[:3] == [TextDelta("Ho", 1), TextDelta("Hi", 0), ReasoningDelta("Hm", 1)]
    assert [choice["index"] for choice in found.completion.raw["choices"]] == [0, 1, 2]


def test_many_answers_take_linear_time() -> None:
    """Ten thousands of choices are kept in a moment, not in seconds."""
    accumulator = Accumulator()
    start = time.process_time()
    for index in range(40_000):
        accumulator.add(TextDelta("a", index))
    assert time.process_time() - start < 4
    assert len(accumulator.completion(None).choices) == 40_000


# What has no event of its own -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "field",
    [
        {"annotations": [{"type": "url_citation", "url_citation": {"url": "https://a.example"}}]},
        {"audio": {"id": "a1", "data": "AAAA", "transcript": "Hi"}},
        {"images": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}]},
        {"x_unknown": 0},
    ],
    ids=lambda field: next(iter(field)),
)
def test_a_field_without_an_event_is_an_extra(field: dict[str, Any]) -> None:
    """What a delta holds beyond the known fields is an event, counts as an answer, and is in raw."""
    (name, value), *_ = field.items()
    for found in (
        read(chunk(**field)),
        Read(json.dumps(whole({"role": "assistant", "content": None, **field})).encode()),
    ):
        assert Extra(field) in found.events
        assert found.error is None
        assert found.completion.raw["choices"][0]["message"][name] == value
        told = getattr(found.completion, name, value)
        assert (list(told) if isinstance(told, tuple) else told) == value


def test_audio_in_pieces_is_put_together() -> None:
    """Data and transcript are joined; the next request names the audio by its id."""
    found = read(chunk(audio={"id": "a1", "data": "AA"}), chunk("stop", audio={"data": "BB", "expires_at": 5}))
    assert found.completion.audio == {"id": "a1", "data": "AABB", "expires_at": 5}
    assert found.completion.message["audio"] == {"id": "a1"}


def test_log_probabilities_are_put_together() -> None:
    """Those of each piece are in one list, even if two are alike."""
    piece = chunk(content="a")
    piece["choices"][0]["logprobs"] = {"content": [{"token": "a", "logprob": -0.5}], "refusal": None}
    found = read(piece, piece, chunk("stop"))
    expected = {"content": [{"token": "a", "logprob": -0.5}] * 2}
    assert found.completion.logprobs == found.completion.raw["choices"][0]["logprobs"] == expected


# The end --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deltas", "message"),
    [
        ([{"content": "He"}, {"content": "llo"}], {"content": "Hello"}),
        ([{"reasoning_content": "Hm"}, {"content": "Hi"}], {"reasoning": "Hm", "content": "Hi"}),
        ([{"refusal": "No"}], {"refusal": "No", "content": None}),
        (
            [{"tool_calls": [{"index": 0, "id": "t", "function": {"name": "f", "arguments": '{"a":1}'}}]}],
            {"tool_calls": [{"id": "t", "function": {"name": "f", "arguments": '{"a":1}'}}]},
        ),
    ],
)
@pytest.mark.parametrize("apart", [True, False])
def test_a_last_chunk_with_the_whole_message_repeats_nothing(deltas: list[Any], message: Any, apart: bool) -> None:
    """What came in deltas is not said again when the message comes as a whole."""
    expected = read(*[chunk(**delta) for delta in deltas], chunk("stop")).completion
    chunks = [chunk(**delta) for delta in deltas]
    last = chunk("stop") if apart else chunks.pop()
    last["choices"][0].update(message={"role": "assistant", **message}, finish_reason="stop")
    found = read(*chunks, last).completion
    for name in ("text", "reasoning", "refusal", "tool_calls", "finish_reason"):
        assert getattr(found, name) == getattr(expected, name)
    raw, told = found.raw["choices"][0]["message"], expected.raw["choices"][0]["message"]
    for name in ("content", "reasoning", "reasoning_content", "refusal"):
        assert raw.get(name) == told.get(name)
    assert len(raw.get("tool_calls", ())) == len(message.get("tool_calls", ()))


def choice(finish_reason: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"id": "c1", "model": "m1", "choices": [{"index": 0, **fields, "finish_reason": finish_reason}]}


def ways_of_saying_again(field: str, pieces: list[str]) -> dict[str, list[dict[str, Any]]]:
    """How servers stream a text that they say more than once."""
    text = "".join(pieces)
    deltas = [choice(delta={field: piece}) for piece in pieces]
    so_far = ["".join(pieces[: count + 1]) for count in range(len(pieces))]
    messages = [choice(message={"role": "assistant", field: each}) for each in so_far]
    whole = choice("stop", message={"role": "assistant", field: text})
    return {
        "deltas": [*deltas, choice("stop")],
        "and a message": [*deltas, whole],
        "and two messages": [*deltas, whole, whole],
        "and a message in the last": [*deltas[:-1], choice("stop", delta={field: pieces[-1]}, message={field: text})],
        "each with the message so far": [
            *[choice(delta={field: piece}, message={field: each}) for piece, each in zip(pieces, so_far, strict=True)],
            choice("stop", delta={}, message={field: text}),
        ],
        "and a last delta": [*deltas, choice("stop", delta={field: text})],
        "messages so far": [*messages, choice("stop")],
        "messages so far, the last again": [*messages, whole],
        "one message": [whole],
        "the same message": [whole, whole, whole],
    }


@pytest.mark.parametrize("field", ["content", "reasoning_content", "reasoning", "refusal"])
@given(st.lists(TEXTS.filter(lambda text: text and text == without_halves(text)), min_size=2, max_size=5), st.data())
def test_a_text_that_is_said_again_is_there_once(field: str, pieces: list[str], data: Any) -> None:
    """A whole message, messages as far as they have come, and a last delta with all of it repeat nothing."""
    ways = ways_of_saying_again(field, pieces)
    content = sse(*data.draw(st.sampled_from(list(ways.values()))), DONE)
    places = sorted(data.draw(st.sets(st.integers(1, len(content) - 1), max_size=4)))
    found = Read(*[content[start:end] for start, end in itertools.pairwise([0, *places, len(content)])])
    name = {"content": "text", "reasoning_content": "reasoning"}.get(field, field)
    expected = Read(sse(choice("stop", message={field: "".join(pieces)}), DONE)).completion
    assert found.error is None
    assert getattr(found.completion, name) == getattr(expected, name)
    assert found.completion.raw["choices"][0]["message"][field] == getattr(expected, name)


def test_messages_may_be_pieces() -> None:
    """What does not begin with what was said before goes on with it; deltas that are alike are all said."""
    found = read(choice(message={"content": "He"}), choice("stop", message={"content": "llo"})).completion
    assert found.text == found.raw["choices"][0]["message"]["content"] == "Hello"
    found = read(choice(delta={"content": "ha"}), choice("stop", delta={"content": "ha"})).completion
    assert found.text == found.raw["choices"][0]["message"]["content"] == "haha"


THOUGHTS = ("reasoning", "reasoning_content", "reasoning_details")


@pytest.mark.parametrize(("first", "then"), [*itertools.product(THOUGHTS, repeat=2)])
def test_thoughts_that_are_said_again_under_another_name_are_there_once(first: str, then: str) -> None:
    """Of a message behind deltas, what was thought is left out, whatever it is called."""
    said = {
        name: [{"type": "reasoning.text", "text": "Hm"}] if name == "reasoning_details" else "Hm" for name in THOUGHTS
    }
    last = choice("stop", message={"content": "Hi", then: said[then]})
    found = read(choice(delta={first: said[first]}), choice(delta={"content": "Hi"}), last).completion
    assert (found.text, found.reasoning) == ("Hi", "Hm")
    assert set(THOUGHTS) & set(found.raw["choices"][0]["message"]) == {first}


def test_other_fields_of_a_message_that_comes_again_are_there_once() -> None:
    """Lists as far as they have come, and whole objects, are not appended to themselves."""
    audio = {"id": "a", "data": "AA"}
    messages = [
        {"annotations": [{"n": 1, "x": None}], "audio": audio},
        {"annotations": [{"n": 1, "x": None}, {"n": 2}]},
    ]
    found = read(*[choice(message={"content": "Hi", **each}) for each in (*messages, messages[1])], choice("stop"))
    assert (list(found.completion.annotations), found.completion.audio) == ([{"n": 1}, {"n": 2}], audio)


@pytest.mark.parametrize(
    "chunks",
    [[], [{}], [{"id": "c1", "choices": []}], [chunk(role="assistant", content="")], [{"usage": {"prompt_tokens": 1}}]],
    ids=json.dumps,
)
def test_a_complete_answer_that_holds_nothing_is_no_success(chunks: list[Any]) -> None:
    """Without text, thought, refusal, call, other content and finish reason there is no answer."""
    error = read(*chunks).error
    assert isinstance(error, ProtocolError)
    assert "holds nothing" in str(error)
    assert read(*chunks, chunk("stop")).error is None


def test_plain_chunks_behind_parts_without_text_are_an_answer() -> None:
    """Text that is read the short way counts as any other, whatever came before it."""
    with mock.patch.object(wire, "_MAX_IDLE_TEMPLATES", 0):
        found = read(chunk(content=[{"type": "text", "text": ""}]), chunk(content="Hi"))
    assert (found.completion.text, found.error) == ("Hi", None)


HANDLED = [ValueError, TypeError, LookupError, KeyError, RecursionError, AttributeError, ArithmeticError]
SAID = {
    "an event": sse(chunk(content="Hi")),
    "a named event": b"event: x\n" + sse(chunk(content="Hi")),
    "an object": json.dumps(whole({"content": "Hi"})).encode(),
    "a large object": json.dumps({**whole({"content": "Hi"}), "x": [0] * 200_000}).encode(),
    "a stray line": b": x\n\n" + b'{"error": {"message": "Busy"}}\n',
    "an error": sse({"error": {"message": '{"error": "Busy"}'}}),
    "many events": sse(*[chunk(content="Hi")] * 3),
}


@pytest.mark.parametrize("said", SAID)
@pytest.mark.parametrize("base", HANDLED, ids=lambda base: base.__name__)
@pytest.mark.parametrize("where", ["loads", "raw_decode", "scanstring"])
def test_what_a_signal_handler_raises_is_not_swallowed(said: str, base: type[Exception], where: str) -> None:
    """An exception that is none of the JSON reader's own passes, whatever class it is of, and wherever it strikes."""

    class Deadline(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            pass

        __str__ = Exception.__str__

    struck = False

    def strike(*_: object) -> None:
        nonlocal struck
        struck = True
        raise Deadline

    def interrupted(*_: object) -> None:
        signal.raise_signal(signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, strike)
    try:
        with contextlib.ExitStack() as stack:
            if where == "loads":
                stack.enter_context(mock.patch.object(json, "loads", interrupted))
            elif where == "raw_decode":
                stack.enter_context(mock.patch.object(json_text, "_raw_decode", interrupted))
            else:
                stack.enter_context(mock.patch.object(wire, "scanstring", interrupted))
                stack.enter_context(mock.patch.object(short, "scanstring", interrupted))
            try:
                Read(SAID[said], sse(DONE))
            except Deadline:
                return
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not struck


class Shapes:
    """An answer whose shape is looked at when a signal strikes."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __call__(self, _: object) -> Any:
        raise self._error


@pytest.mark.parametrize("base", [ValueError, TypeError, KeyError, IndexError, AttributeError])
def test_a_signal_within_an_answer_of_another_kind_is_not_swallowed(base: type[Exception]) -> None:
    """Where the shape of a value is read, Python's own errors are the answer's, and no others."""

    class Deadline(base):  # type: ignore[misc, valid-type]
        pass

    for error, expected in ((Deadline("now"), Deadline), (base("wrong"), ProtocolError)):
        decoder: JSONDecoder[Any] = JSONDecoder(Shapes(error), "a list")
        decoder.feed(b"[]", [])
        with pytest.raises(expected):
            list(decoder.finish([]))
