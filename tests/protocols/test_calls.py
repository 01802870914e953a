"""Which tool call a fragment belongs to: the same for events, `raw` and the object that is not streamed."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
from decoding import DONE, Answer, chunk, sse
from hypothesis import given, settings
from hypothesis import strategies as st

from chatanywhere._types import Completion, ToolCall


def read(*chunks: Any, end: Any = DONE) -> Completion:
    """The answer that a stream of chunks comes to."""
    answer = Answer("openai", {})
    answer.feed(sse(*chunks, end))
    answer.feed(b"")
    assert answer.error is None
    return answer.completion(None)


def read_object(message: dict[str, Any]) -> Completion:
    """The answer that one object comes to."""
    choices = [{"index": 0, "message": message, "finish_reason": "tool_calls"}]
    answer = Answer("openai", {})
    answer.feed(json.dumps({"object": "chat.completion", "id": "c1", "model": "m1", "choices": choices}).encode())
    answer.feed(b"")
    assert answer.error is None
    return answer.completion(None)


def raw_calls(completion: Completion) -> list[ToolCall]:
    """The tool calls that the raw answer holds, as values."""
    found = []
    for call in completion.raw["choices"][0]["message"].get("tool_calls", ()):
        kind = "custom" if "custom" in call else "function"
        tool = call[kind]
        extra = {name: call[name] for name in call if name not in ("id", "type", "function", "custom")}
        arguments = tool.get("input" if kind == "custom" else "arguments", "")
        found.append(ToolCall(call.get("id") or None, tool["name"], arguments, kind, extra))
    return found


# How servers write them ------------------------------------------------------------------------------------------


class Way(NamedTuple):
    """How a server writes tool calls into a stream.

    Attributes:
        index: how it numbers them; `"go"` leaves out 0, `"chunk"` begins at 0 again in each chunk, `"begin"` numbers no
            fragment but a call's first.
        ids: which fragments have the id of their call; `"same"`: it is that of all, `"made up"`: each has its own.
        names: which fragments have the name.
        cut: whether arguments come at once, in pieces, or in pieces behind a fragment that has the name alone.
        bundle: whether a chunk holds one fragment, some, or all.
        mixed: the fragments of the calls take turns.
        flat: name and arguments are in the call itself.
        empty: what stands where there is nothing: nothing, null, or an empty str.
        again: how the calls are said again in the end, if they are.
    """

    index: str
    ids: str
    names: str
    cut: str
    bundle: str
    mixed: bool
    flat: bool
    empty: Any
    again: str


INDEXES = ("right", "text", "float", "from one", "go", "begin", "chunk", "zero", "minus one", "null", "missing")
NUMBERED = ("right", "text", "float", "from one", "go")
WAYS = st.builds(
    Way,
    st.sampled_from(INDEXES),
    st.sampled_from(["once", "always", "never", "same", "made up"]),
    st.sampled_from(["once", "always"]),
    st.sampled_from(["whole", "pieces", "name first"]),
    st.sampled_from(["one", "some", "all"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["missing", None, ""]),
    st.sampled_from(["", "", "message", "delta"]),
)
ARGUMENTS = st.dictionaries(
    st.sampled_from(["q", "{", "\\", '"']),
    st.recursive(
        st.none() | st.integers(0, 9) | st.sampled_from(["", "}", "你", '"', "\\", "]"]),
        lambda values: st.lists(values, max_size=2) | st.dictionaries(st.just("x"), values, max_size=1),
        max_leaves=4,
    ),
    max_size=3,
).map(lambda value: json.dumps(value, ensure_ascii=False))
TOOLS = st.lists(
    st.tuples(st.sampled_from(["f", "g"]), ARGUMENTS | st.just("null"), st.booleans()), min_size=1, max_size=4
)


def says_enough(way: Way, tools: list[tuple[str, str, bool]]) -> bool:
    """Whether it can be known from such a stream what the calls are."""
    numbered = way.index in NUMBERED
    signed = [signed for _, _, signed in tools]
    whole = way.cut == "whole" or (way.cut == "pieces" and all(len(arguments) < 2 for _, arguments, _ in tools))
    return not any(
        (
            way.mixed and not numbered and (way.ids != "always" or way.cut != "name first" or way.index == "begin"),
            way.ids == "made up" and (way.index not in ("right", "from one", "text", "float") or way.again == "delta"),
            # A name that comes again before any arguments may be that of another call.
            way.names == "always" and way.cut == "name first" and (way.bundle != "one" or way.ids == "made up"),
            way.names == "always" and way.mixed and not numbered,
            # It may also be an empty end of the call before it, which then gets what stands beside it.
            way.names == "always" and way.cut == "name first" and way.ids in ("never", "same") and any(signed),
            way.index == "chunk" and not whole,
            # What says a call again, and what calls a second time, look alike.
            way.ids not in ("once", "always") and len({tool[:2] for tool in tools}) < len(tools),
            way.again == "delta" and (way.ids not in ("once", "always") or way.index == "chunk"),
            any(arguments == "null" for _, arguments, _ in tools) and way.cut != "whole",
        )
    )


def written(way: Way, tools: list[tuple[str, str, bool]], data: Any) -> tuple[list[dict[str, Any]], list[ToolCall]]:
    """The chunks in which a server writes these calls, and what they are."""
    per_call: list[list[dict[str, Any]]] = []
    expected = []
    for number, (name, arguments, signed) in enumerate(tools):
        pieces = [arguments]
        if way.cut != "whole":
            places = sorted(data.draw(st.sets(st.integers(1, max(1, len(arguments) - 1)), max_size=3)))
            pieces = [arguments[start:end] for start, end in zip([0, *places], [*places, None], strict=True)]
        if way.cut == "name first":
            pieces.insert(0, "")
        id_ = {"never": None, "same": "null"}.get(way.ids, f"call_{number}")
        signature = {"extra_content": {"google": {"thought_signature": f"s{number}"}}} if signed else {}
        fragments = []
        for position, piece in enumerate(pieces):
            said = way.ids in ("always", "same") or (not position and way.ids != "never")
            fragment_id = f"call_{number}_{position}" if way.ids == "made up" else id_ if said else way.empty
            if way.ids == "made up" and not position:
                id_ = fragment_id
            named = name if way.names == "always" or not position else way.empty
            tool = {"name": named, "arguments": piece}
            fragment = {"index": indexed(way, number, position), "id": fragment_id}
            fragment |= tool if way.flat else {"type": "function", "function": tool}
            fragments.append({**without_missing(fragment), **(signature if not position else {})})
        per_call.append(fragments)
        expected.append(ToolCall(id_, name, arguments, extra=signature))
    return list(chunked(way, per_call, data)), expected


def indexed(way: Way, number: int, position: int) -> Any:
    """What a server says is the index of a fragment."""
    match way.index:
        case "text":
            return str(number)
        case "float":
            return float(number)
        case "from one":
            return number + 1
        case "go":
            return number or "missing"
        case "begin":
            return "missing" if position else number
        case "zero":
            return 0
        case "minus one":
            return -1
        case "null":
            return None
        case "missing":
            return "missing"
    return number


def without_missing(fragment: dict[str, Any]) -> dict[str, Any]:
    tool = fragment.get("function")
    kept = {name: value for name, value in fragment.items() if value != "missing"}
    return {**kept, "function": without_missing(tool)} if isinstance(tool, dict) else kept


def chunked(way: Way, per_call: list[list[dict[str, Any]]], data: Any) -> Iterator[dict[str, Any]]:
    """Put the fragments of calls into chunks."""
    left = [list(fragments) for fragments in per_call]
    order = []
    if way.mixed:  # each begins in its turn, then they go on as it comes
        order = [fragments.pop(0) for fragments in left]
    while any(left):
        going = [fragments for fragments in left if fragments]
        order.append(data.draw(st.sampled_from(going) if way.mixed else st.just(going[0])).pop(0))
    while order:
        size = {"one": 1, "all": len(order)}.get(way.bundle) or data.draw(st.integers(1, len(order)))
        fragments, order = order[:size], order[size:]
        if way.index == "chunk":
            fragments = [{**each, "index": number} for number, each in enumerate(fragments)]
        yield chunk(tool_calls=fragments)


@settings(max_examples=300)
@given(st.tuples(WAYS, TOOLS).filter(lambda drawn: says_enough(*drawn)), st.data())
def test_calls_are_the_same_in_every_way_of_writing_them(
    drawn: tuple[Way, list[tuple[str, str, bool]]], data: Any
) -> None:
    """Events, raw, message, and an object that is not streamed agree on the calls, however a server numbers them."""
    way, tools = drawn
    chunks, expected = written(way, tools, data)
    message = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
                **call.extra,
            }
            for call in expected
        ],
    }
    last = chunk("tool_calls")
    if way.again == "message":
        last["choices"][0]["message"] = message
    elif way.again == "delta":
        last["choices"][0]["delta"] = {
            "tool_calls": [
                without_missing({"index": indexed(way, number, 0), **call})
                for number, call in enumerate(message["tool_calls"])
            ]
        }
    streamed, whole = read(*chunks, last), read_object(message)
    assert list(streamed.tool_calls) == raw_calls(streamed) == expected
    assert whole.tool_calls == streamed.tool_calls
    sent = [{name: value for name, value in call.items() if value} for call in streamed.message["tool_calls"]]
    assert sent == [{name: value for name, value in call.items() if value} for call in whole.message["tool_calls"]]


def call(name: str | None, arguments: str | None, **more: Any) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {**more, "function": {key: value for key, value in function.items() if value is not None}}


def custom(text: str, **more: Any) -> dict[str, Any]:
    return {**more, "type": "custom", "custom": {"name": "sh", "input": text}}


SERVERS = {
    # vLLM before 0.8, where one function was asked for: the name in each fragment, and each time another id.
    "named": (
        [[call("f", '{"q', index=0, id="a")], [call("f", '": 1}', index=0, id="b")], [call("f", "", index=0, id="c")]],
        [("a", "f", '{"q": 1}')],
    ),
    # LMDeploy and SGLang: 0 for all; the id once, or in each.
    "zeros": (
        [
            [call("f", "", index=0, id="a")],
            [call(None, "{}", index=0, id="")],
            [call("f", "", index=0, id="b")],
            [call(None, "{}", index=0, id="")],
        ],
        [("a", "f", "{}"), ("b", "f", "{}")],
    ),
    # MLX: the name is not known at first.
    "late name": ([[call("", "", index=0, id="a")], [call("f", "{}", index=0, id="a")]], [("a", "f", "{}")]),
    # Gemini: whole calls, all with the index 0 and without an id; each in its chunk, or all in one.
    "gemini": (
        [
            [call("f", '{"q":1}', index=0, id="")],
            [call("f", '{"q":2}', index=0, id=""), call("f", "{}", index=0, id="")],
        ],
        [(None, "f", '{"q":1}'), (None, "f", '{"q":2}'), (None, "f", "{}")],
    ),
    # Qwen: id and name in each fragment, and an empty one in the end.
    "qwen": (
        [[call("f", '{"q"', index=0, id="a")], [call("f", ":1}", index=0, id="a")], [call("f", "", index=0, id="a")]],
        [("a", "f", '{"q":1}')],
    ),
    "no arguments": ([[call("f", "")], [call("g", "")]], [(None, "f", ""), (None, "g", "")]),
    "name as id": (
        [[call("f", '{"q":1}', id="f"), call("f", '{"q":2}', id="f")]],
        [("f", "f", '{"q":1}'), ("f", "f", '{"q":2}')],
    ),
    "null": ([[call("f", "null")], [call("g", "null")]], [(None, "f", "null"), (None, "g", "null")]),
    "turns by id": (
        [[call("f", "", id="a"), call("f", "", id="b")], [call(None, "{}", id="a"), call(None, "[]", id="b")]],
        [("a", "f", "{}"), ("b", "f", "[]")],
    ),
    "numbers as ids": (
        [[call("f", "{}", id=1, index=0)], [call("f", "{}", id=2, index=0)]],
        [("1", "f", "{}"), ("2", "f", "{}")],
    ),
    "one object": ([call("f", "{}", id="a")], [("a", "f", "{}")]),
    "with null": ([[None, call("f", "{}", id="a")]], [("a", "f", "{}")]),
    "flat": (
        [[{"index": 0, "id": "a", "name": "f", "arguments": ""}], [{"index": 0, "arguments": "{}"}]],
        [("a", "f", "{}")],
    ),
    "anthropic": ([[{"type": "tool_use", "id": "a", "name": "f", "input": {"q": 1}}]], [("a", "f", '{"q": 1}')]),
    "custom": (
        [[custom("ls")], [custom("pwd {")], [custom("ls", id="a")]],
        [(None, "sh", "ls"), (None, "sh", "pwd {"), ("a", "sh", "ls")],
    ),
}


@pytest.mark.parametrize("server", SERVERS)
def test_calls_are_read_as_servers_have_written_them(server: str) -> None:
    """Each of these ways has been seen in the field, or is a cross of some that have."""
    deltas, expected = SERVERS[server]
    found = read(*[chunk(tool_calls=calls) for calls in deltas], chunk("tool_calls"))
    for calls in (found.tool_calls, raw_calls(found)):
        assert [(each.id, each.name, each.arguments) for each in calls] == expected
    assert all(each["type"] in each for each in found.message["tool_calls"] if server != "anthropic")


@pytest.mark.parametrize("first", ["tool_calls", "function_call", "both"])
@pytest.mark.parametrize("then", ["tool_calls", "function_call", "both", "nothing"])
def test_the_old_call_and_the_new_one_are_one(first: str, then: str) -> None:
    """A server that tells a call in both ways, at once or in a last message, tells of one call."""
    both = {"tool_calls": [call("f", "{}", index=0, id="a")], "function_call": {"name": "f", "arguments": "{}"}}
    said = {name: value for name, value in both.items() if first in (name, "both")}
    last = chunk("tool_calls")
    if then != "nothing":
        last["choices"][0]["message"] = {name: value for name, value in both.items() if then in (name, "both")}
    for found in (read(chunk(**said), last), read_object(said)):
        assert [(each.name, each.arguments) for each in found.tool_calls] == [("f", "{}")]
        assert {"tool_calls", "function_call"} & set(found.message) == {
            "function_call" if len(said) == 1 and "function_call" in said else "tool_calls"
        }


def test_a_message_in_pieces_or_as_far_as_it_has_come_holds_each_call_once() -> None:
    """Messages may hold the calls so far, or only those that are new."""

    def messages(*calls: list[dict[str, Any]]) -> Completion:
        return read(
            *[{"id": "c1", "choices": [{"index": 0, "message": {"tool_calls": each}}]} for each in calls],
            chunk("tool_calls"),
        )

    one, two = call("f", '{"q":1}'), call("f", '{"q":2}')
    half, empty = call("f", '{"q"'), call("g", "")
    for calls in ([[one], [one, two]], [[one], [two]], [[half], [one], [one, two], [one, two]], [[one, two]] * 3):
        found = messages(*calls)
        assert [each.arguments for each in found.tool_calls] == ['{"q":1}', '{"q":2}']
        assert raw_calls(found) == list(found.tool_calls)
    last = {"id": "c1", "choices": [{"index": 0, "message": {"tool_calls": [one, one, two]}, "finish_reason": "stop"}]}
    found = read(chunk(tool_calls=[one]), last, last)
    assert [each.arguments for each in found.tool_calls] == ['{"q":1}', '{"q":1}', '{"q":2}']
    assert len(messages([empty], [empty, one], [empty, one]).tool_calls) == 2


def test_many_calls_take_linear_time() -> None:
    """Ten thousands of calls without an index are told apart in seconds, not in a quarter of a minute."""
    chunks = [chunk(tool_calls=[call("f", "{}")] * 500)] * 80
    start = time.process_time()
    assert len(read(*chunks, chunk("tool_calls")).tool_calls) == 40_000
    assert time.process_time() - start < 4
