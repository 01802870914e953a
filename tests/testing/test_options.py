"""What a chat can ask of its answer, and what is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from asking import chat, complete, refusal, stream
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere.testing import Fault, LoopbackServer, Reply

CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}


@pytest.fixture(scope="module")
def talker() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


def both(reply: Any, **options: Any) -> list[tuple[Any, str | None]]:
    """The text and finish reason of each choice; the same where they are streamed."""
    with LoopbackServer([reply, reply]) as server:
        choices = complete(server, **options)["choices"]
        chunks = stream(server, **options)
    whole = [(choice["message"]["content"] or "", choice["finish_reason"]) for choice in choices]
    streamed = []
    for index in range(len(whole)):
        parts = [each for chunk in chunks for each in chunk["choices"] if each["index"] == index]
        text = "".join(part["delta"].get("content") or "" for part in parts)
        streamed.append((text, parts[-1]["finish_reason"]))
    assert streamed == whole
    return whole


# Length and stop


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize(
    ("limit", "text", "reason"),
    [
        (1, "one", "length"),
        (2, "one two", "length"),
        (4, "one two 你好", "stop"),
        (3, "one two 你", "length"),
        (9, "one two 你好", "stop"),
    ],
)
@pytest.mark.parametrize("reply", ["one two 你好", Reply("one two 你好")], ids=["str", "Reply"])
def test_a_text_is_cut_to_so_many_words(reply: Any, name: str, limit: int, text: str, reason: str) -> None:
    """A limit keeps so many words, and the finish reason is `length` if there were more."""
    assert both(reply, **{name: limit}) == [(text, reason)]


def test_the_limit_counts_what_was_thought() -> None:
    """Reasoning comes first, so it takes of the limit what it has; calls that come behind are not reached."""
    reply = Reply("one two", reasoning="let me think", tool_calls=[CALL])
    with LoopbackServer([reply] * 3) as server:
        (cut,) = complete(server, max_tokens=2)["choices"]
        assert cut["message"] == {"role": "assistant", "content": "", "reasoning_content": "let me"}
        (cut,) = complete(server, max_tokens=4)["choices"]
        assert (cut["message"]["content"], cut["finish_reason"]) == ("one", "length")
        (whole,) = complete(server, max_tokens=5)["choices"]
        assert (whole["message"]["tool_calls"], whole["finish_reason"]) == ([CALL], "tool_calls")


@pytest.mark.parametrize(
    ("stop", "text"),
    [
        ("three", "one two "),
        (["four", "two"], "one "),
        (["e tw"], "on"),
        ("one", ""),
        ("five", "one two three four"),
        ([], "one two three four"),
        (["x", "y", "z", "four"], "one two three "),
    ],
)
def test_a_text_ends_before_a_stop(stop: Any, text: str) -> None:
    """The first of the stops ends the text, and is not part of it; the finish reason is `stop`."""
    assert both("one two three four", stop=stop) == [(text, "stop")]


def test_the_earlier_of_a_stop_and_the_limit_ends_a_text() -> None:
    """With both, the finish reason tells which one it was."""
    assert both("one two three four", stop="four", max_tokens=2) == [("one two", "length")]
    assert both("one two three four", stop="two", max_tokens=2) == [("one ", "stop")]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (["one two", " three"], ("one two three", "stop")),
        (Reply(pieces=["one two", " three"]), ("one two three", "stop")),
        (Reply("one two three", finish_reason="content_filter"), ("one two three", "content_filter")),
        (Reply("one two three", finish_reason=""), ("one two three", None)),
    ],
)
def test_a_reply_says_what_it_is_told_to(reply: Any, said: tuple[str, str | None]) -> None:
    """Pieces, and what has a finish reason, are not cut by any option."""
    assert both(reply, max_tokens=1, stop="two") == [said]


def test_given_usage_and_chunks_stay_as_they_are() -> None:
    """A cut text still has the usage that it was given, and chunks know no options at all."""
    usage = {"prompt_tokens": 7, "completion_tokens": 8, "total_tokens": 15}
    chunks = [{"choices": [{"index": 0, "delta": {"content": "one two three"}, "finish_reason": "stop"}]}]
    with LoopbackServer([Reply("one two", usage=usage), Reply(chunks=chunks)]) as server:
        cut = complete(server, max_tokens=1)
        assert (cut["choices"][0]["message"]["content"], cut["usage"]) == ("one", usage)
        assert stream(server, max_tokens=1, n=2, logprobs=True) == chunks


def test_the_usage_counts_what_was_said(talker: LoopbackServer) -> None:
    """Words that were cut are not counted."""
    with LoopbackServer(["one two three"]) as server:
        assert complete(server, max_tokens=2)["usage"]["completion_tokens"] == 2


# Choices


@pytest.mark.parametrize("number", [1, 2, 5])
@pytest.mark.parametrize("reply", ["one", ["o", "ne"], Reply("one")], ids=["str", "pieces", "Reply"])
def test_a_scripted_reply_is_repeated_for_further_choices(reply: Any, number: int) -> None:
    """`n` is how many choices there are, the first as the script has it, and each with its index."""
    assert both(reply, n=number) == [("one", "stop")] * number


def test_choices_of_a_reply_come_before_repetitions() -> None:
    """A reply with choices of its own has these, and only what they lack to `n` is repeated."""
    reply = Reply("one", choices=[Reply("two", finish_reason="length")])
    assert both(reply, n=3) == [("one", "stop"), ("two", "length"), ("one", "stop")]
    assert both(reply) == [("one", "stop"), ("two", "length")]


def test_the_talker_has_other_things_to_say(talker: LoopbackServer) -> None:
    """Without a script the further choices differ from the first."""
    texts = [choice["message"]["content"] for choice in complete(talker, n=3)["choices"]]
    assert len(set(texts)) == 3


# Log probabilities


def check_token(told: dict[str, Any], token: str, number: int) -> None:
    """Whether a token's log probabilities are such as a model has."""
    assert {*told} == {"token", "logprob", "bytes", "top_logprobs"}
    assert (told["token"], bytes(told["bytes"]).decode()) == (token, token)
    assert told["logprob"] < 0
    top = told["top_logprobs"]
    assert len(top) == number
    assert len({each["token"] for each in top}) == number
    assert [each["logprob"] for each in top] == sorted((each["logprob"] for each in top), reverse=True)
    assert sum(math.exp(each["logprob"]) for each in top) <= 1
    assert all({*each} == {"token", "logprob", "bytes"} for each in top)
    assert all(bytes(each["bytes"]).decode() == each["token"] for each in top)
    if top:
        assert top[0] == {name: told[name] for name in ("token", "logprob", "bytes")}


@pytest.mark.parametrize("number", [None, 0, 1, 20])
def test_log_probabilities_are_well_formed(number: int | None) -> None:
    """Each word has its own, as many others as asked for, likeliest first, and the same whether streamed or not."""
    options = {"logprobs": True} | ({} if number is None else {"top_logprobs": number})
    with LoopbackServer(["Hello, the 世界", "Hello, the 世界"]) as server:
        (choice,) = complete(server, **options)["choices"]
        chunks = stream(server, **options)
    assert {*choice["logprobs"]} == {"content", "refusal"}
    assert choice["logprobs"]["refusal"] is None
    for told, token in zip(choice["logprobs"]["content"], ["Hello,", " the", " 世", "界"], strict=True):
        check_token(told, token, number or 0)
    parts = [chunk["choices"][0] for chunk in chunks]
    streamed = []
    for part in parts:
        if part["delta"].get("content"):
            assert [each["token"] for each in part["logprobs"]["content"]] == [part["delta"]["content"]]
            assert part["logprobs"]["refusal"] is None
            streamed += part["logprobs"]["content"]
        else:
            assert part["logprobs"] is None
    assert streamed == choice["logprobs"]["content"]


def test_a_refusal_has_log_probabilities_in_its_own_place() -> None:
    """The words of a refusal are told as such."""
    with LoopbackServer([Reply(refusal="I won't."), Reply(refusal="I won't.")]) as server:
        (choice,) = complete(server, logprobs=True)["choices"]
        chunks = stream(server, logprobs=True)
    assert choice["logprobs"]["content"] is None
    assert [each["token"] for each in choice["logprobs"]["refusal"]] == ["I", " won't."]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks if chunk["choices"][0]["logprobs"]]
    assert [each["refusal"][0]["token"] for each in told] == ["I", " won't."]


def test_no_log_probabilities_unless_asked_for(talker: LoopbackServer) -> None:
    """A choice has the field only if the request asks for it."""
    assert "logprobs" not in complete(talker)["choices"][0]
    assert all("logprobs" not in choice for chunk in stream(talker, logprobs=False) for choice in chunk["choices"])


# Answers in JSON


def test_the_talker_answers_with_a_json_object(talker: LoopbackServer) -> None:
    """`json_object` has an object for an answer, `text` the usual one."""
    text = complete(talker, response_format={"type": "text"})["choices"][0]["message"]["content"]
    (choice,) = complete(talker, response_format={"type": "json_object"})["choices"]
    assert json.loads(choice["message"]["content"]) == {"answer": text}


def test_the_talker_answers_with_what_fits_a_schema(talker: LoopbackServer) -> None:
    """`json_schema` has an instance for an answer, streamed or not, and as many as there are choices."""
    schema = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 18}}, "required": ["age"]}
    options = {"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": schema}}, "n": 2}
    choices = complete(talker, **options)["choices"]
    assert [json.loads(choice["message"]["content"]) for choice in choices] == [{"age": 18}, {"age": 19}]
    chunks = stream(talker, **options)
    texts = [each["delta"].get("content", "") for chunk in chunks for each in chunk["choices"] if each["index"] == 0]
    assert json.loads("".join(texts)) == {"age": 18}


def test_an_answer_in_json_is_cut_as_well(talker: LoopbackServer) -> None:
    """A limit that is too low leaves a part of the JSON, as it does with a model."""
    (choice,) = complete(talker, response_format={"type": "json_object"}, max_tokens=1)["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == ('{"answer":', "length")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "nothing"},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema"},
        {"enum": []},
        {"properties": 5},
        {"type": "string", "pattern": "(["},
        {"type": "string", "minLength": 10**9},
        {"type": "array", "minItems": "x"},
        {"type": "integer", "minimum": 5, "maximum": 4},
    ],
    ids=str,
)
def test_a_schema_that_nothing_fits_is_refused(talker: LoopbackServer, schema: dict[str, Any]) -> None:
    """A schema that is none, or that no value fits, has status 400, and the error names the parameter."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    error = refusal(chat(talker, response_format=wanted))
    assert error["param"] == "response_format"
    assert "Invalid schema" in error["message"]


STRICT: dict[str, Any] = {
    "type": "object",
    "properties": {"a": {"type": "array", "items": {"$ref": "#/$defs/B"}}},
    "required": ["a"],
    "additionalProperties": False,
    "$defs": {
        "B": {
            "anyOf": [
                {"type": "null"},
                {"type": "object", "properties": {}, "required": [], "additionalProperties": False},
            ]
        }
    },
}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({}, None),
        ({"type": "array"}, "must be a JSON Schema of 'type: \"object\"'"),
        ({"additionalProperties": True}, "'additionalProperties' is required"),
        ({"required": []}, "Missing 'a'"),
        ({"properties": {"a": {"type": "string", "default": "x"}}}, "'default' is not permitted"),
        ({"properties": {"a": {"allOf": []}}}, "'allOf' is not permitted"),
        ({"$defs": {"B": {"anyOf": [{"type": "object"}]}}}, "context=('$defs', 'B', 'anyOf', '0')"),
        ({"properties": {"a": {"type": "array", "items": {"type": "object"}}}}, "'items'"),
        ({"properties": 5}, "can't be read"),
    ],
)
@pytest.mark.parametrize("place", ["response_format", "tools"])
def test_a_strict_schema_must_be_one(
    talker: LoopbackServer, place: str, change: dict[str, Any], told: str | None
) -> None:
    """Where a schema is said to be strict, what OpenAI does not take is refused in its words."""
    schema = {**STRICT, **change}
    if place == "tools":
        function = {"name": "f", "strict": True, "parameters": schema}
        response = chat(talker, tools=[{"type": "function", "function": function}])
    else:
        wanted = {"name": "f", "strict": True, "schema": schema}
        response = chat(talker, response_format={"type": "json_schema", "json_schema": wanted})
    if told is None:
        assert response.status_code == 200
    else:
        assert told in refusal(response)["message"]


# Tools


def function(name: str, **parameters: Any) -> dict[str, Any]:
    schema = {"type": "object", "properties": parameters, "required": [*parameters]}
    return {"type": "function", "function": {"name": name, "parameters": schema}}


WEATHER = function("weather", city={"type": "string"}, days={"type": "integer", "minimum": 3})
TIME = function("time")
SHELL = {"type": "custom", "custom": {"name": "shell"}}
TOOLS = [WEATHER, TIME, SHELL]


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ({}, []),
        ({"tool_choice": "auto"}, []),
        ({"tool_choice": "none"}, []),
        ({"tool_choice": "required"}, ["weather"]),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ["weather"]),
        ({"tool_choice": "required", "parallel_tool_calls": True}, ["weather", "time", "shell"]),
        ({"tool_choice": {"type": "function", "function": {"name": "time"}}}, ["time"]),
        ({"tool_choice": {"type": "custom", "custom": {"name": "shell"}}}, ["shell"]),
        ({"tool_choice": allowed("required", "time", "weather")}, ["time"]),
        ({"tool_choice": allowed("auto", "time", "weather")}, []),
        ({"tool_choice": "required", "messages": [{"role": "user", "content": "What time is it?"}]}, ["time"]),
    ],
)
def test_the_talker_calls_what_it_has_to(talker: LoopbackServer, options: dict[str, Any], called: list[str]) -> None:
    """A tool is called where `tool_choice` demands it, one that is spoken of first, and several only if it is said."""
    (choice,) = complete(talker, tools=TOOLS, **options)["choices"]
    calls = choice["message"].get("tool_calls", [])
    assert [call[call["type"]]["name"] for call in calls] == called
    assert choice["finish_reason"] == ("tool_calls" if called else "stop")
    assert len({call["id"] for call in calls}) == len(calls)


def test_the_arguments_of_a_call_fit_its_schema(talker: LoopbackServer) -> None:
    """A function's arguments are an object that its parameters allow, a custom tool's input is a text."""
    (choice,) = complete(talker, tools=TOOLS, tool_choice="required", parallel_tool_calls=True)["choices"]
    weather, time, shell = choice["message"]["tool_calls"]
    arguments = json.loads(weather["function"]["arguments"])
    assert {name: type(value) for name, value in arguments.items()} == {"city": str, "days": int}
    assert arguments["days"] >= 3
    assert time["function"]["arguments"] == "{}"
    assert isinstance(shell["custom"]["input"], str)


def test_calls_are_streamed_in_fragments(talker: LoopbackServer) -> None:
    """The arguments of a call that is streamed come to the same JSON."""
    chunks = stream(talker, tools=TOOLS, tool_choice="required")
    fragments = [
        call["function"]["arguments"]
        for chunk in chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls", ())
    ]
    assert len(fragments) > 2
    assert json.loads("".join(fragments))["days"] >= 3


def test_each_choice_has_its_call(talker: LoopbackServer) -> None:
    """With `n`, every choice calls the tool that is demanded."""
    choices = complete(talker, tools=TOOLS, tool_choice="required", n=2)["choices"]
    assert [len(choice["message"]["tool_calls"]) for choice in choices] == [1, 1]


def conversation(*results: tuple[str, str]) -> list[dict[str, Any]]:
    """A question, calls with the ids c0 and c1, and results of calls."""
    calls = [{"id": f"c{number}", "type": "function", "function": {"name": "weather"}} for number in range(2)]
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": None, "tool_calls": calls}]
    return messages + [{"role": "tool", "tool_call_id": call, "content": content} for call, content in results]


@pytest.mark.parametrize("choice", ["auto", "required"])
def test_after_the_results_the_talker_tells_them(talker: LoopbackServer, choice: str) -> None:
    """What the tools said comes back in a text, so that a loop over tools comes to its end."""
    messages = conversation(("c1", "22 degrees"), ("c0", "noon"))
    (answer,) = complete(talker, tools=TOOLS, tool_choice=choice, messages=messages)["choices"]
    assert "22 degrees" in answer["message"]["content"]
    assert "noon" in answer["message"]["content"]
    assert "tool_calls" not in answer["message"]


def test_results_may_be_told_in_json(talker: LoopbackServer) -> None:
    """A response format holds for the answer that comes after the results."""
    messages = conversation(("c0", "22 degrees"), ("c1", ""))
    (answer,) = complete(talker, messages=messages, response_format={"type": "json_object"})["choices"]
    assert "22 degrees" in json.loads(answer["message"]["content"])["answer"]


@pytest.mark.parametrize(
    ("messages", "param", "told"),
    [
        (conversation(), "messages.[2].role", "c0, c1"),
        (conversation(("c0", "x")), "messages.[3].role", "c1"),
        ([*conversation(("c0", "x")), {"role": "user", "content": "Hi"}], "messages.[3].role", "c1"),
        (conversation(("c0", "x"), ("c2", "x")), "messages.[3].role", "c2"),
        ([{"role": "tool", "tool_call_id": "c0", "content": "x"}], "messages.[0].role", "preceding"),
    ],
)
def test_results_and_calls_must_belong_together(
    talker: LoopbackServer, messages: list[dict[str, Any]], param: str, told: str
) -> None:
    """A call without its result, and a result without its call, are refused as OpenAI refuses them."""
    error = refusal(chat(talker, messages=messages))
    assert error["param"] == param
    assert told in error["message"]


def test_a_fault_that_is_a_reply_strikes_what_the_talker_was_asked_for() -> None:
    """The reply that a fault strikes is the talker's, under the options of the request."""
    with LoopbackServer([Fault.latency(0)]) as server:
        (choice,) = complete(server, tools=TOOLS, tool_choice="required")["choices"]
    assert choice["finish_reason"] == "tool_calls"


# What is refused

KINDS: dict[str, Any] = {
    "a boolean": True,
    "an integer": 1,
    "a decimal number": 1.5,
    "a string": "x",
    "an array": ["x"],
    "an object": {"x": 1},
}
TAKES = {
    "n": ["an integer"],
    "max_tokens": ["an integer"],
    "max_completion_tokens": ["an integer"],
    "top_logprobs": ["an integer"],
    "seed": ["an integer"],
    "stop": ["a string", "an array"],
    "stream": ["a boolean"],
    "logprobs": ["a boolean"],
    "store": ["a boolean"],
    "parallel_tool_calls": ["a boolean"],
    "stream_options": ["an object"],
    "response_format": ["an object"],
    "metadata": ["an object"],
    "logit_bias": ["an object"],
    "tools": ["an array"],
    "tool_choice": ["a string", "an object"],
    "model": ["a string"],
    "user": ["a string"],
    "temperature": ["an integer", "a decimal number"],
    "top_p": ["an integer", "a decimal number"],
    "frequency_penalty": ["an integer", "a decimal number"],
    "presence_penalty": ["an integer", "a decimal number"],
}


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kinds in TAKES.items() for kind in KINDS if kind not in kinds]
)
def test_an_option_of_another_type_is_refused(talker: LoopbackServer, name: str, kind: str) -> None:
    """What an option is not comes back as OpenAI's 400, which names the option and both types."""
    beside = {"tools": TOOLS} if name in ("tool_choice", "parallel_tool_calls") else {}
    error = refusal(chat(talker, **beside, **{name: KINDS[kind]}))
    assert (error["param"], error["code"]) == (name, "invalid_type")
    assert f"'{name}': expected {' or '.join(TAKES[name])}, but got {kind} instead." in error["message"]


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 129}, "n", "integer_above_max_value"),
        ({"max_tokens": -1}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": 0}, "max_completion_tokens", "integer_below_min_value"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "invalid_parameter_combination"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"top_logprobs": 1}, "top_logprobs", None),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stop": ""}, "stop", "invalid_type"),
        ({"stop": ["a", 1]}, "stop", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", None),
        ({"stream": True, "stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_type"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 5}}},
            "response_format.json_schema.schema",
            "invalid_type",
        ),
        ({"tools": []}, "tools", "empty_array"),
        ({"tools": [5]}, "tools[0]", "invalid_type"),
        ({"tools": [WEATHER, {"type": "x"}]}, "tools[1].type", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "missing_required_parameter"),
        ({"tool_choice": "required"}, "tool_choice", None),
        ({"parallel_tool_calls": True}, "parallel_tool_calls", None),
        ({"tools": TOOLS, "tool_choice": "always"}, "tool_choice", "invalid_value"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice.function", "missing_required_parameter"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", None),
        ({"tools": TOOLS, "tool_choice": allowed("required", "x")}, "tool_choice", None),
    ],
)
def test_an_option_out_of_range_is_refused(
    talker: LoopbackServer, options: dict[str, Any], param: str, code: str | None
) -> None:
    """What an option can't be comes back as OpenAI's 400, with its parameter and its code."""
    error = refusal(chat(talker, **options))
    assert (error["param"], error["code"]) == (param, code)


def test_a_schema_of_a_function_that_nothing_fits_is_refused(talker: LoopbackServer) -> None:
    """It is refused when the function is to be called, by its name."""
    broken = function("broken", x={"enum": []})
    error = refusal(chat(talker, tools=[broken], tool_choice="required"))
    assert error["param"] == "tools"
    assert "'broken'" in error["message"]


@pytest.mark.parametrize("name", TAKES)
def test_null_is_as_good_as_nothing(talker: LoopbackServer, name: str) -> None:
    """An option that is null is not given."""
    assert chat(talker, **{name: None}).status_code == 200


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*TAKES, "type", "name"]), inner),
    max_leaves=8,
)
KEYWORDS = re.findall(
    r"\S+",
    "type const enum $ref allOf anyOf oneOf not nullable $defs minimum maximum exclusiveMinimum exclusiveMaximum "
    "properties required additionalProperties patternProperties minProperties maxProperties multipleOf pattern format "
    "items prefixItems additionalItems contains minContains minItems maxItems uniqueItems minLength maxLength",
)
json_schemas = st.recursive(
    json_values,
    lambda inner: st.dictionaries(
        st.sampled_from(KEYWORDS), inner | st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=1), inner)
    ),
    max_leaves=10,
)


@given(options=st.dictionaries(st.sampled_from([*TAKES]), json_values, max_size=3))
def test_whatever_is_asked_is_answered_or_refused(talker: LoopbackServer, options: dict[str, Any]) -> None:
    """No option makes the server fail: the status is 200 or 400."""
    assert chat(talker, **options).status_code in (200, 400)


@given(schema=st.dictionaries(st.sampled_from(KEYWORDS), json_schemas), strict=st.booleans())
def test_whatever_the_schema_there_is_an_answer(talker: LoopbackServer, schema: dict[str, Any], strict: bool) -> None:
    """Keywords with values of any kind do not make the server fail, either."""
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": strict}}
    assert chat(talker, response_format=wanted).status_code in (200, 400)
