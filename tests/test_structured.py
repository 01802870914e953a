"""Structured output: the schema that is sent for a type, and the instance that comes back."""

from __future__ import annotations

import copy
import datetime
import decimal
import enum
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, Literal

import anyio
import hypothesis
import hypothesis.strategies as st
import pydantic
import pytest
from faces import Face
from typing_extensions import TypedDict

from chatanywhere import Client, Completion, OutputError, TextDelta
from chatanywhere._schema import Output
from chatanywhere.testing import Fault, LoopbackServer, Reply


class Unit(enum.Enum):
    KELVIN = "K"
    CELSIUS = "C"


class Place(pydantic.BaseModel):
    name: str
    country: str = "Italy"


class Weather(pydantic.BaseModel):
    """The weather at a place."""

    place: Annotated[Place, pydantic.Field(description="where")]
    temperature: float = pydantic.Field(default=20, ge=-90)
    unit: Unit = Unit.CELSIUS
    link: pydantic.HttpUrl | None = None


class Node(pydantic.BaseModel):
    value: int
    children: list[Annotated[Node, pydantic.Field(description="a child")]] = []


@dataclass
class Trip:
    city: str
    days: int = 3
    stops: list[str] = field(default_factory=list)


class Point(TypedDict):
    x: int
    default: int


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]


Pet = Annotated[Cat | Dog, pydantic.Field(discriminator="kind")]

ROME = {"name": "Rome", "country": "Italy"}
KINDS: dict[str, tuple[Any, str, Any]] = {
    "model": (
        Weather,
        json.dumps({"place": ROME, "temperature": 21.5, "unit": "K", "link": None}),
        Weather(place=Place(name="Rome"), temperature=21.5, unit=Unit.KELVIN),
    ),
    "recursive model": (
        Node,
        '{"value": 1, "children": [{"value": 2, "children": []}]}',
        Node(value=1, children=[Node(value=2)]),
    ),
    "dataclass": (Trip, '{"city": "北京", "days": 1, "stops": ["a"]}', Trip("北京", 1, ["a"])),
    "TypedDict": (Point, '{"x": 1, "default": 2}', {"x": 1, "default": 2}),
    "list": (list[int], '{"value": [1, 2]}', [1, 2]),
    "list of models": (list[Place], json.dumps({"value": [ROME]}), [Place(name="Rome")]),
    "tuple": (tuple[int, str], '{"value": [1, "a"]}', (1, "a")),
    "set": (set[int], '{"value": [1, 2]}', {1, 2}),
    "union": (int | str, '{"value": "a"}', "a"),
    "optional": (int | None, '{"value": null}', None),
    "tagged union": (Pet, '{"value": {"kind": "dog"}}', Dog(kind="dog")),
    "literal": (Literal["spam", "ham"], '{"value": "ham"}', "ham"),
    "enum": (Unit, '{"value": "K"}', Unit.KELVIN),
    "number": (float, '{"value": 1.5}', 1.5),
    "date": (datetime.date, '{"value": "2026-01-02"}', datetime.date(2026, 1, 2)),
}


def objects_in(schema: Any) -> Iterator[dict[str, Any]]:
    """Every schema that is a part of a schema, the whole one included."""
    yield schema
    for name in ("properties", "$defs"):
        for part in schema.get(name, {}).values():
            yield from objects_in(part)
    for part in schema.get("anyOf", ()):
        yield from objects_in(part)
    if "items" in schema:
        yield from objects_in(schema["items"])


def assert_strict(response_format: Any) -> None:
    """Hold what is sent against the rules of OpenAI's strict mode."""
    assert set(response_format) == {"type", "json_schema"}
    sent = response_format["json_schema"]
    assert (response_format["type"], sent["strict"]) == ("json_schema", True)
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", sent["name"])
    schema = sent["schema"]
    assert schema["type"] == "object"
    assert "anyOf" not in schema
    for part in objects_in(schema):
        assert not part.keys() & {"default", "oneOf", "allOf", "discriminator", "prefixItems", "uniqueItems"}
        assert part.keys() & {"type", "anyOf", "$ref", "enum", "const"}
        assert part.get("format") in (None, "date")
        if part.get("type") == "object":
            assert part["required"] == list(part["properties"])
            assert part["additionalProperties"] is False
        if "$ref" in part:
            assert list(part) == ["$ref"]
            assert part["$ref"].removeprefix("#/$defs/") in schema["$defs"]


def complete(face: Face, client: Client, **options: Any) -> Completion[Any]:
    """Make a call by this face."""
    if face.name == "sync":
        return client.complete("Hello", **options)
    found: list[Completion[Any]] = []

    async def main() -> None:
        found.append(await client.as_async().complete("Hello", **options))

    anyio.run(main, backend=face.name)
    return found[0]


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize(("kind", "answer", "value"), KINDS.values(), ids=KINDS)
def test_an_answer_is_an_instance_of_the_type(face: Face, kind: Any, answer: str, value: Any, streamed: bool) -> None:
    """A strict schema with an object at its root is sent, and `parsed` is what the answer says, unwrapped."""
    with LoopbackServer([answer]) as server, Client("k", base_url=server.url) as client:
        completion = complete(face, client, response_format=kind, stream=streamed)
        assert_strict(server.requests[0].json["response_format"])
    assert completion.parsed == value
    assert type(completion.parsed) is type(value)
    assert completion.text == answer
    assert "parsed" not in completion.to_dict()


LEAVES: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, st.integers(-(2**53), 2**53)),
    (bool, st.booleans()),
    (str, st.text()),
    (Unit, st.sampled_from(Unit)),
    (Literal["a", "b"], st.sampled_from(["a", "b"])),
    (datetime.date, st.dates()),
    (Point, st.fixed_dictionaries({"x": st.integers(0, 9), "default": st.integers(0, 9)})),
]


def wider(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Types that are made of others, each with a strategy of its instances."""
    lists = parts.map(lambda part: (list[part[0]], st.lists(part[1], max_size=3)))
    optional = parts.map(lambda part: (part[0] | None, st.none() | part[1]))
    pairs = st.tuples(parts, parts).map(lambda two: (tuple[two[0][0], two[1][0]], st.tuples(two[0][1], two[1][1])))

    def record(fields: list[tuple[Any, st.SearchStrategy[Any]]]) -> tuple[Any, st.SearchStrategy[Any]]:
        names = [f"field_{index}" for index in range(len(fields))]
        kind = make_dataclass("Record", [(name, each[0]) for name, each in zip(names, fields, strict=True)])
        return kind, st.builds(kind, *(each[1] for each in fields))

    return lists | optional | pairs | st.lists(parts, min_size=1, max_size=3).map(record)


TYPES = st.recursive(st.sampled_from(LEAVES), wider, max_leaves=6)


@hypothesis.given(st.data())
def test_any_type_comes_back_as_it_went(data: st.DataObject) -> None:
    """Whatever a type is made of, its schema is strict, and the JSON of an instance is read as that instance."""
    kind, instances = data.draw(TYPES)
    value = data.draw(instances)
    output = Output(kind)
    assert_strict(output.response_format)
    text = pydantic.TypeAdapter(kind).dump_json(value).decode()
    wrapped = list(output.response_format["json_schema"]["schema"]["properties"]) == ["value"]
    assert output.read(Completion(f'{{"value": {text}}}' if wrapped else text)).parsed == value


def test_a_description_stays_with_its_field() -> None:
    """What pydantic writes beside a `$ref` is kept, with the referenced schema in its place."""
    schema = Output(Weather).response_format["json_schema"]["schema"]
    assert schema["description"] == "The weather at a place."
    place = schema["properties"]["place"]
    assert (place["description"], list(place["properties"])) == ("where", ["name", "country"])


class Offer(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(regex_engine="python-re")

    code: Annotated[str, pydantic.Field(pattern="^[A-Z]+$")]
    buyer: Annotated[str, pydantic.Field(pattern="^(?!nobody)")]
    seller: Annotated[str, pydantic.Field(pattern="(?<=Mr )[A-Z]")]
    price: decimal.Decimal
    note: Any = object()


def test_what_strict_mode_does_not_know_is_left_to_the_type() -> None:
    """Patterns that look around, and a default without JSON, are not sent; the answer has to fit them all the same."""
    output = Output(Offer)
    fields = output.response_format["json_schema"]["schema"]["properties"]
    assert fields["code"]["pattern"] == "^[A-Z]+$"
    assert {"pattern", "default"}.isdisjoint({*fields["buyer"], *fields["seller"], *fields["note"]})
    assert "(?" not in json.dumps(fields)  # which Decimal has, by older versions of pydantic
    good = {"code": "A", "buyer": "Ann", "seller": "Mr Bo", "price": "1.50", "note": None}
    assert output.read(Completion(json.dumps(good))).parsed.price == decimal.Decimal("1.50")
    for wrong in ({"code": "a"}, {"buyer": "nobody"}, {"seller": "Bo"}):
        with pytest.raises(OutputError, match=f"{next(iter(wrong))}: String should match"):
            output.read(Completion(json.dumps({**good, **wrong})))


@pytest.mark.parametrize(
    ("kind", "answer", "value"),
    [
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (dict, '{"a": [1]}', {"a": [1]}),
        (Any, '{"value": 1}', 1),
        (list[dict[str, Any]], '{"value": [{"a": 1}]}', [{"a": 1}]),
    ],
    ids=str,
)
def test_a_type_with_unknown_fields_is_not_strict(kind: Any, answer: str, value: Any) -> None:
    """Strict mode has no such objects, so it is not asked for; the answer is read all the same."""
    output = Output(kind)
    assert output.response_format["json_schema"]["strict"] is False
    assert output.response_format["json_schema"]["schema"]["type"] == "object"
    assert output.read(Completion(answer)).parsed == value


NAMES = {"Trip": Trip, "Page_int": type("Page[int]", (Trip,), {}), "output": type("天气", (Trip,), {})}


@pytest.mark.parametrize("name", NAMES)
def test_a_schema_has_a_name_that_is_accepted(name: str) -> None:
    """It is the type's own as far as that can be."""
    assert Output(NAMES[name]).response_format["json_schema"]["name"] == name


def test_the_name_of_a_schema_is_not_too_long() -> None:
    """OpenAI takes 64 characters."""
    assert Output(type("A" * 100, (Trip,), {})).response_format["json_schema"]["name"] == "A" * 64


# Answers that are none

FAILURES: dict[str, tuple[Reply, str, str]] = {
    "not JSON": (Reply("Sorry?"), "invalid", "the answer does not fit Trip: Invalid JSON"),
    "a field of another type": (
        Reply('{"city": "Rome", "days": "many", "stops": []}'),
        "invalid",
        "does not fit Trip: days: Input should be a valid integer",
    ),
    "a field is missing": (Reply("{}"), "invalid", "does not fit Trip: city: Field required"),
    "empty": (Reply("", finish_reason="stop"), "invalid", "does not fit Trip"),
    "many mistakes": (
        Reply(json.dumps({"city": "Rome", "stops": [1] * 1000})),
        "invalid",
        "does not fit Trip: stops.0: .*; and 995 more",
    ),
    "cut": (Reply('{"city": "Ro', finish_reason="length"), "length", "raise max_tokens"),
    "cut behind its end": (Reply('{"city": "Rome"}', finish_reason="length"), "length", "raise max_tokens"),
    "refused": (Reply(refusal="I won't."), "refusal", r"refuses to answer: I won't\."),
    "filtered": (Reply('{"city": "', finish_reason="content_filter"), "content_filter", "content filter"),
}


@pytest.mark.parametrize(("reply", "reason", "words"), FAILURES.values(), ids=FAILURES)
def test_an_answer_that_is_no_instance_is_an_error(face: Face, reply: Reply, reason: str, words: str) -> None:
    """It says why, and has the answer and its text; one request was made. It pickles and copies."""
    with LoopbackServer([reply]) as server, Client("k", base_url=server.url) as client:
        with pytest.raises(OutputError, match=words) as caught:
            complete(face, client, response_format=Trip)
        assert len(server.requests) == 1
    error = caught.value
    assert (error.reason, error.partial, error.attempts) == (reason, reply.text, 1)
    assert error.completion.text == reply.text
    assert error.completion.parsed is None
    assert error.request_id == error.completion.request_id is not None
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert (str(twin), twin.reason, twin.completion) == (str(error), reason, error.completion)


def test_an_error_does_not_show_the_key() -> None:
    """A key that the answer repeats is not in the words about it."""
    with LoopbackServer([Reply(refusal="Your key is sk-5ecret0123456789")]) as server:
        client = Client("sk-5ecret0123456789", base_url=server.url)
        with pytest.raises(OutputError, match=r"Your key is \*\*\*"):
            client.complete("Hello", response_format=Trip)


def test_an_answer_that_calls_a_tool_is_no_instance_yet(face: Face) -> None:
    """`parsed` is None, and the calls are there."""
    with LoopbackServer([Reply(tool_calls=[("f", {})])]) as server, Client("k", base_url=server.url) as client:
        completion = complete(face, client, response_format=Trip)
    assert completion.parsed is None
    assert completion.tool_calls[0].name == "f"


# Streams


def test_a_stream_parses_at_its_end(face: Face) -> None:
    """The pieces come as they are, and `completion` and `read()` have the instance, the same each time."""
    pieces = ['{"city": "Rome", ', '"days": 1, ', '"stops": []}']
    with LoopbackServer([pieces]) as server:
        client = Client("k", base_url=server.url)
        if face.name == "sync":
            with client.stream("Hello", response_format=Trip) as stream:
                events = list(stream.events())
                parsed = [stream.completion.parsed, stream.read().parsed]
        else:

            async def main() -> None:
                async with client.as_async().stream("Hello", response_format=Trip) as stream:
                    events.extend([event async for event in stream.events()])
                    parsed.extend([stream.completion.parsed, (await stream.read()).parsed])

            events, parsed = [], []
            anyio.run(main, backend=face.name)
        assert_strict(server.requests[0].json["response_format"])
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == "".join(pieces)
    assert parsed == [Trip("Rome", 1)] * 2
    assert parsed[0] is parsed[1]


def test_a_stream_with_a_wrong_answer_can_be_read() -> None:
    """Its text is given out; what says that it does not fit is `completion`, each time."""
    with LoopbackServer(["No."]) as server, Client("k", base_url=server.url) as client:
        stream = client.stream("Hello", response_format=Trip)
        assert "".join(stream) == "No."
        for _ in range(2):
            with pytest.raises(OutputError) as caught:
                _ = stream.completion
            assert caught.value.completion.finish_reason == "stop"


# What is sent

FORMATS: dict[str, Any] = {
    "a dict": {"type": "json_object"},
    "a model": pydantic.create_model("Format", type=(str, "json_object"))(),
    "a dataclass": make_dataclass("Format", [("type", str, "json_object")])(),
}


@pytest.mark.parametrize("response_format", FORMATS.values(), ids=FORMATS)
def test_a_format_that_is_no_type_is_sent_as_it_is(face: Face, response_format: Any) -> None:
    """A dict, or an object that stands for one, is in the body, and the answer is not looked at."""
    with LoopbackServer(["{}"]) as server, Client("k", base_url=server.url) as client:
        completion = complete(face, client, response_format=response_format)
        assert server.requests[0].json["response_format"] == {"type": "json_object"}
    assert (completion.text, completion.parsed) == ("{}", None)


def test_no_format_is_no_field() -> None:
    """Without one, the body has none."""
    with LoopbackServer() as server, Client("k", base_url=server.url) as client:
        client.complete("Hello")
        client.complete("Hello", response_format=None)
        assert ["response_format" in request.json for request in server.requests] == [False, False]


MISTAKES: dict[str, tuple[Any, type[Exception], str]] = {
    "a str": ({"response_format": "json_object"}, TypeError, "must be a type or a dict, not 'json_object'"),
    "a number": ({"response_format": 1}, TypeError, "response_format has no JSON schema"),
    "a function": ({"response_format": len}, TypeError, "must be a type or a dict"),
    "any class": ({"response_format": Face}, TypeError, "response_format has no JSON schema: .*Face"),
    "an unknown name": ({"response_format": list["Nowhere"]}, TypeError, "response_format has no .*Nowhere"),  # noqa: F821
    "no text": ({"response_format": Trip, "keep_text": False}, ValueError, "keep_text=False keeps nothing"),
}


@pytest.mark.parametrize(("options", "kind", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_type_without_a_schema_is_told(options: dict[str, Any], kind: type[Exception], words: str) -> None:
    """Wrong use is told, with nothing sent, by both faces."""
    with LoopbackServer() as server:
        client = Client("k", base_url=server.url)
        for stream in (client.stream, client.as_async().stream):
            with pytest.raises(kind, match=words):
                stream("Hello", **options)
        assert server.requests == []


WITHOUT = """
import sys
sys.modules["pydantic"] = None  # as if it were not installed
from dataclasses import dataclass
from chatanywhere import Client
from chatanywhere.testing import LoopbackServer

@dataclass
class Trip:
    city: str

with LoopbackServer() as server:
    client = Client("k", base_url=server.url)
    for call in (lambda: client.complete("Hi", response_format=Trip), lambda: client.run_tools("Hi", [print])):
        try:
            call()
        except ImportError as error:
            print(error)
    print(len(server.requests), client.complete("Hello", response_format={"type": "text"}).text)
"""


def test_without_pydantic_the_remedy_is_told() -> None:
    """Nothing is sent then; calls that need no pydantic work."""
    done = subprocess.run([sys.executable, "-c", WITHOUT], capture_output=True, text=True, check=True, timeout=60)
    told = "structured output and tools need pydantic: pip install 'chatanywhere[structured]'\n"
    assert done.stdout == f"{told}{told}0 Hello. Who are you?\n"


def test_a_failed_call_is_not_parsed(face: Face) -> None:
    """What a service refuses is the service's error, as ever."""
    with LoopbackServer(faults=[Fault.status(400, "no schemas here")]) as server:
        outcome = face.ask(Client("k", base_url=server.url), response_format=Trip)
    assert "no schemas here" in str(outcome.error)


class Broken(pydantic.BaseModel):
    name: str

    @pydantic.field_validator("name")
    @classmethod
    def check(cls, name: str) -> str:
        return {"known": name}[name]


def test_what_a_validator_raises_is_raised_and_the_answer_is_kept() -> None:
    """An exception of the caller's own code is the caller's, with the text of the answer as `partial`."""
    with LoopbackServer(['{"name": "x"}']) as server, pytest.raises(KeyError) as caught:
        Client("k", base_url=server.url).complete("Hello", response_format=Broken)
    assert caught.value.partial == '{"name": "x"}'  # type: ignore[attr-defined]
