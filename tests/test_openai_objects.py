"""Objects and events of any answers: by OpenAI's library, and by `chatanywhere.openai`, of the same JSON."""

from __future__ import annotations

import copy
import json
import re
from typing import Any

import pydantic
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chatanywhere.openai as ours

theirs = pytest.importorskip("openai")
chat = pytest.importorskip("openai.types.chat")
streaming = pytest.importorskip("openai.lib.streaming.chat")

pytestmark = pytest.mark.skipif(
    "moderation" not in chat.ChatCompletion.model_fields, reason="an older version has fewer fields"
)

VALUES = st.recursive(
    st.none() | st.integers(0, 9) | st.sampled_from([1.5, "", "x", "小"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "index", "type"]), inner),
    max_leaves=4,
)
"""JSON of any kind; no true and false, which OpenAI's library makes 1 and 0 of where numbers belong."""


def fields(**known: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have some of these fields, others that nobody knows, and seldom something else in a known one."""
    unknown = st.dictionaries(st.sampled_from(["zz", "reasoning", "_x"]), VALUES, max_size=2)
    some = st.fixed_dictionaries({}, optional=known)
    wrong = st.dictionaries(st.sampled_from([*known]), VALUES, max_size=1)
    return st.builds(lambda *parts: {**parts[0], **parts[1], **parts[2]}, some, unknown, st.just({}) | wrong)


TEXT = st.none() | st.sampled_from(["", "Hi", "小明"])
COUNT = st.integers(0, 9)


def maybe(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | strategy


def several(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | st.lists(strategy, max_size=2)


FUNCTION = fields(name=st.just("f"), arguments=st.just("{}"))
TOKEN = fields(token=TEXT, logprob=st.sampled_from([0, -1.5]), bytes=several(COUNT), top_logprobs=several(
    fields(token=TEXT, logprob=st.just(-1), bytes=st.none())
))  # fmt: skip
LOGPROBS = maybe(fields(content=several(TOKEN), refusal=several(TOKEN)))
CALL = fields(
    id=TEXT,
    type=st.sampled_from(["function", "custom", "other", None]),
    function=FUNCTION,
    custom=fields(name=TEXT, input=TEXT),
    index=COUNT,
)
AUDIO = maybe(fields(id=TEXT, data=TEXT, expires_at=COUNT, transcript=TEXT))
CITATION = fields(url=TEXT, title=TEXT, start_index=COUNT, end_index=COUNT)
MESSAGE = fields(
    role=st.just("assistant"),
    content=TEXT,
    refusal=TEXT,
    tool_calls=several(CALL),
    function_call=maybe(FUNCTION),
    audio=AUDIO,
    annotations=several(fields(type=st.just("url_citation"), url_citation=CITATION)),
)
DELTA = fields(
    role=TEXT, content=TEXT, refusal=TEXT, tool_calls=several(CALL), function_call=maybe(FUNCTION), audio=AUDIO
)
USAGE = maybe(
    fields(
        prompt_tokens=COUNT,
        completion_tokens=COUNT,
        total_tokens=COUNT,
        prompt_tokens_details=maybe(fields(cached_tokens=COUNT, image_tokens=COUNT, audio_tokens=st.none())),
        completion_tokens_details=maybe(fields(reasoning_tokens=COUNT, text_tokens=COUNT)),
    )
)
MODERATED = fields(type=st.sampled_from(["error", "moderation_results"]), code=TEXT, model=TEXT)
REASON = st.sampled_from(["stop", "weird", None])


def answers(choices: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return fields(
        id=TEXT,
        choices=several(choices),
        created=COUNT,
        model=TEXT,
        object=TEXT,
        service_tier=TEXT,
        system_fingerprint=TEXT,
        usage=USAGE,
        moderation=maybe(st.fixed_dictionaries({"input": MODERATED, "output": MODERATED})),
        metadata=maybe(st.just({"a": "b"})),
        obfuscation=TEXT,
    )


COMPLETIONS = answers(fields(index=COUNT, finish_reason=REASON, message=MESSAGE, logprobs=LOGPROBS))
CHUNKS = answers(fields(index=COUNT, finish_reason=REASON, delta=DELTA, logprobs=LOGPROBS))


def seen(value: Any) -> list[Any]:
    """What a program sees of an object."""
    return [
        value.model_dump(),
        value.to_dict(),
        json.loads(value.to_json()),
        value.model_dump_json(),
        value.model_dump(exclude_none=True),
        value.model_dump(exclude_defaults=True),
        list(dict(value)),
        re.sub(r"Moderation\w+\(", "(", repr(value)),
    ]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@settings(max_examples=25)
@given(COMPLETIONS, CHUNKS)
def test_objects_of_any_json_are_the_same(completion: dict[str, Any], chunk: dict[str, Any]) -> None:
    """Attributes, dumps and repr of an object are those of OpenAI's library, whatever the service says."""
    for kind, mine, answer in [
        (chat.ChatCompletion, ours.ChatCompletion, completion),
        (chat.ChatCompletionChunk, ours.ChatCompletionChunk, chunk),
    ]:
        expected = seen(kind.construct(**copy.deepcopy(answer)))
        assert seen(mine(**copy.deepcopy(answer))) == expected


# Streams -----------------------------------------------------------------------------------------------------


class Point(pydantic.BaseModel):
    """What answers are read as."""

    x: int
    y: str


class f(pydantic.BaseModel):
    """A tool."""

    x: int


@st.composite
def cut(draw: st.DrawFn, text: str) -> list[str]:
    """Return a text in pieces."""
    places = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=4)))
    return [text[start:end] for start, end in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def choices_of(draw: st.DrawFn, index: int, kind: str) -> list[dict[str, Any]]:
    """Return the pieces of one choice, which says a text, JSON, why it says nothing, or calls tools."""
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": draw(st.sampled_from(["", None]))}]
    if kind == "refusal":
        deltas += [{"refusal": piece} for piece in draw(cut("I will not."))]
    elif kind != "tools":
        text = "Hello 小明, how are you?" if kind == "text" else '{"x": 1, "y": "小\\n"}'
        deltas += [{"content": piece} for piece in draw(cut(text))]
    if kind in ("tools", "text"):
        for number in range(draw(st.integers(0, 2))):
            name = draw(st.sampled_from(["f", "g"]))
            called = {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": ""}}
            deltas.append({"tool_calls": [{"index": number, **called}]})
            for piece in draw(cut('{"x": 12}')):
                deltas.append({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    tokens = [{"token": "a", "logprob": -0.5, "bytes": None, "top_logprobs": []}]
    logprobs = draw(st.sampled_from([{}, {"logprobs": None}, {"logprobs": {"content": tokens, "refusal": None}}]))
    # OpenAI's library counts those twice that come with the first piece of a further choice.
    said = [{"index": index, "delta": delta, "finish_reason": None, **logprobs} for delta in deltas]
    said[0].pop("logprobs", None)
    reason = draw(st.sampled_from(["stop", "stop", "stop", "length", "content_filter"]))
    return [*said, {"index": index, "delta": {}, "finish_reason": reason}]


@st.composite
def streams(draw: st.DrawFn, kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the chunks of an answer of one choice or two, which come one after the other, or in turns."""
    kind = st.sampled_from(kinds)
    pieces = [draw(choices_of(index, draw(kind))) for index in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()) and len(pieces) == 2:
        (first, *rest), (second, *others) = pieces
        turns = [piece for pair in zip(rest, others, strict=False) for piece in pair]
        left = rest[len(others) :] + others[len(rest) :]
        merged = [first, second, *turns, *left]
    else:
        merged = [piece for each in pieces for piece in each]
    head = {"id": "i", "object": "chat.completion.chunk", "created": 1, "model": "m", **draw(HEADS)}
    chunks = [{**head, "choices": [piece]} for piece in merged]
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return [*chunks, {**head, "choices": [], "usage": usage}] if draw(st.booleans()) else chunks


HEADS = st.sampled_from([{}, {"system_fingerprint": "fp"}, {"service_tier": "auto", "usage": None}, {"zz": 1}])


def told(module: Any, state: Any, kind: Any, chunks: list[dict[str, Any]]) -> list[Any]:
    """What a stream tells: its events, and the answer, or the error."""
    events: list[Any] = []
    try:
        for each in chunks:
            events += [event.model_dump() for event in state.handle_chunk(kind(**copy.deepcopy(each)))]
        final = state.get_final_completion()
        events += [final.model_dump(), final.to_dict(), [choice.message.parsed for choice in final.choices]]
    except (module.LengthFinishReasonError, module.ContentFilterFinishReasonError) as error:
        events += [type(error).__name__, error.completion.model_dump()]
    return events


STRICT = [
    {"type": "function", "function": {"name": "f", "strict": True, "parameters": {}}},
    {"type": "function", "function": {"name": "g", "parameters": {}}},
]


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@settings(max_examples=25)
@given(st.data())
def test_events_of_any_stream_are_the_same(data: st.DataObject) -> None:
    """However an answer is cut into chunks, the events are those of OpenAI's library, and so is the whole."""
    wanted = data.draw(st.sampled_from(["nothing", "strict", "model", "type"]))
    kinds = ("json", "refusal", "tools") if wanted == "type" else ("text", "json", "refusal", "tools")
    chunks = data.draw(streams(kinds))
    both = []
    for module, kind, state in [
        (theirs, chat.ChatCompletionChunk.construct, streaming.ChatCompletionStreamState),
        (ours, ours.ChatCompletionChunk, ours.ChatCompletionStreamState),
    ]:
        options: dict[str, Any] = {
            "nothing": {},
            "strict": {"input_tools": STRICT},
            "model": {"input_tools": [module.pydantic_function_tool(f)]},
            "type": {"response_format": Point},
        }[wanted]
        both.append(told(module, state(**options), kind, chunks))
    assert both[1] == both[0]
