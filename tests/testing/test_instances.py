"""Values for JSON schemas, held against what each schema means, and against pydantic's models."""

from __future__ import annotations

import enum
import ipaddress
import json
import re
import uuid
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatanywhere.testing.instances import instances

Case = tuple[Any, Callable[[Any], bool]]
"""A schema, and whether a value is what it asks for: said twice, independently."""


def is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@st.composite
def numbers(draw: st.DrawFn) -> Case:
    low = draw(st.integers(-1000, 1000) | st.floats(-1000, 1000, allow_nan=False).map(lambda value: round(value, 2)))
    high = low + draw(st.integers(3, 50))
    step = draw(st.sampled_from([1, 2, 3]))
    if draw(st.booleans()):
        schema = {"type": "integer", "minimum": low, "maximum": high, "multipleOf": step}
        return schema, lambda value: is_integer(value) and low <= value <= high and value % step == 0
    schema = {"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high}
    return schema, lambda value: is_number(value) and low < value < high


@st.composite
def strings(draw: st.DrawFn) -> Case:
    least = draw(st.integers(0, 40))
    most = least + draw(st.integers(0, 5))
    schema = {"type": "string", "minLength": least, "maxLength": most}
    return schema, lambda value: isinstance(value, str) and least <= len(value) <= most


def constants() -> st.SearchStrategy[Case]:
    values = st.sampled_from([None, True, False, 0, 1, 2.5, "", "a", [], [1], {}, {"a": None}])
    return st.lists(values, min_size=1, max_size=3).map(
        lambda found: ({"enum": found}, lambda value: json.dumps(value) in map(json.dumps, found))
    ) | values.map(lambda found: ({"const": found}, lambda value: json.dumps(value) == json.dumps(found)))


def plain_types() -> st.SearchStrategy[Case]:
    return st.sampled_from(
        [
            ({"type": "null"}, lambda value: value is None),
            ({"type": "boolean"}, lambda value: isinstance(value, bool)),
            ({"type": ["string", "null"]}, lambda value: value is None or isinstance(value, str)),
            ({"type": "string", "nullable": True}, lambda value: value is None or isinstance(value, str)),
            ({"type": "object"}, lambda value: isinstance(value, dict)),
            ({"type": "array"}, lambda value: isinstance(value, list)),
            ({}, lambda value: True),
            (True, lambda value: True),
        ]
    )


@st.composite
def objects(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    cases = draw(st.dictionaries(st.text(max_size=3), inner, max_size=4))
    required = [name for name in cases if draw(st.booleans())]
    schema = {
        "type": "object",
        "properties": {name: each for name, (each, _) in cases.items()},
        "required": required,
        "additionalProperties": False,
    }

    def check(value: Any) -> bool:
        return (
            isinstance(value, dict)
            and {*required} <= {*value} <= {*cases}
            and all(cases[name][1](each) for name, each in value.items())
        )

    return schema, check


@st.composite
def arrays(draw: st.DrawFn, inner: st.SearchStrategy[Case]) -> Case:
    items, is_item = draw(inner)
    first = draw(st.lists(inner, max_size=2))
    least = draw(st.integers(0, 4))
    most = max(least, len(first)) + draw(st.integers(0, 2))
    schema = {"type": "array", "items": items, "minItems": least, "maxItems": most}
    if first:
        schema["prefixItems"] = [each for each, _ in first]

    def check(value: Any) -> bool:
        if not isinstance(value, list) or not least <= len(value) <= most:
            return False
        checks = [check for _, check in first][: len(value)]
        checks += [is_item] * (len(value) - len(checks))
        return all(check(item) for check, item in zip(checks, value, strict=True))

    return schema, check


def alternatives(inner: st.SearchStrategy[Case]) -> st.SearchStrategy[Case]:
    def any_of(cases: list[Case]) -> Case:
        return {"anyOf": [each for each, _ in cases]}, lambda value: any(check(value) for _, check in cases)

    def all_of(case: Case) -> Case:
        return {"allOf": [case[0], {"description": "x"}]}, case[1]

    return st.lists(inner, min_size=1, max_size=3).map(any_of) | inner.map(all_of)


cases = st.recursive(
    numbers() | strings() | constants() | plain_types(),
    lambda inner: objects(inner) | arrays(inner) | alternatives(inner),
    max_leaves=12,
)


@given(cases)
def test_an_instance_fits_its_schema(case: Case) -> None:
    """Whatever a schema is put together from, its instances are what it asks for, and JSON."""
    schema, check = case
    found = instances(schema, 3)
    assert found
    assert all(check(value) for value in found)
    assert json.loads(json.dumps(found)) == found


@given(cases, cases)
def test_an_instance_fits_a_schema_that_is_referred_to(first: Case, second: Case) -> None:
    """Definitions are looked up by their pointers, escapes included."""
    schema = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/x~1y"}, "b": {"$ref": "#/definitions/0"}},
        "required": ["a", "b"],
        "$defs": {"x/y": first[0]},
        "definitions": [second[0]],
    }
    (value,) = instances(schema, 1)
    assert first[1](value["a"])
    assert second[1](value["b"])


@given(st.data())
def test_exactly_one_of_several_fits(data: st.DataObject) -> None:
    """An instance of `oneOf` fits one of its schemas, even where most values fit more."""
    steps = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True))
    if any(step % other == 0 for step in steps for other in steps if other < step) and len(steps) > 2:
        return  # it may be that nothing fits exactly one
    schema = {"type": "integer", "oneOf": [{"multipleOf": step} for step in steps]}
    (value,) = instances(schema, 1)
    assert sum(value % step == 0 for step in steps) == 1


@given(st.integers(0, 6), st.integers(0, 3))
def test_items_are_unique_where_they_have_to_be(number: int, kind: int) -> None:
    """`uniqueItems` is obeyed for items of every type that has enough values."""
    items = [{"type": "string"}, {"type": "integer"}, {"type": "array", "items": {"type": "string"}}]
    items.append({"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"]})
    (value,) = instances({"type": "array", "items": items[kind], "minItems": number, "uniqueItems": True}, 1)
    assert len(value) >= number
    assert len({json.dumps(item) for item in value}) == len(value)


@pytest.mark.parametrize(
    ("schema", "check"),
    [
        ({"not": {"type": "string"}}, lambda value: not isinstance(value, str)),
        ({"type": "array", "contains": {"const": 7}}, lambda value: 7 in value),
        ({"type": "array", "contains": {"const": 7}, "minContains": 3}, lambda value: value.count(7) >= 3),
        ({"type": "object", "minProperties": 3}, lambda value: len(value) >= 3),
        (
            {"type": "object", "properties": {"a": {}, "b": {}, "c": {}}, "required": ["c"], "maxProperties": 2},
            lambda value: len(value) == 2 and "c" in value,
        ),
        (
            {"type": "object", "required": ["ab"], "patternProperties": {"^a": {"type": "integer"}}},
            lambda value: is_integer(value["ab"]),
        ),
        (
            {"type": "object", "required": ["ab"], "additionalProperties": {"type": "integer"}},
            lambda value: is_integer(value["ab"]),
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
                "anyOf": [{"required": ["a", "c"]}, {"required": ["b"]}],
                "additionalProperties": False,
            },
            lambda value: "b" in value and "c" not in value,
        ),
        (
            {"allOf": [{"anyOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 2}, {"const": 3}]}]},
            lambda value: value == 2,
        ),
        ({"allOf": [{"enum": [1, 2, 3]}, {"enum": [3, 4]}]}, lambda value: value == 3),
        ({"allOf": [{"type": "number"}, {"type": "integer", "minimum": 5}, {"maximum": 5}]}, lambda value: value == 5),
        ({"allOf": [{"multipleOf": 4, "type": "integer"}, {"multipleOf": 6}]}, lambda value: value % 12 == 0),
        (
            {
                "allOf": [
                    {"properties": {"a": {"minimum": 3}}, "required": ["a"]},
                    {"properties": {"a": {"type": "integer", "maximum": 3}}},
                ]
            },
            lambda value: value["a"] == 3,
        ),
        ({"type": "array", "items": [{"const": 1}], "additionalItems": False}, lambda value: value == [1]),
        ({"type": "number", "minimum": 0.1, "maximum": 0.2}, lambda value: 0.1 <= value <= 0.2),
        ({"type": "number", "multipleOf": 0.01, "minimum": 1.005}, lambda value: value == 1.01),
        ({"type": "integer", "maximum": -7}, lambda value: value <= -7),
        ({"type": "integer", "exclusiveMaximum": 1}, lambda value: value < 1),
        ({"minimum": 10}, lambda value: value >= 10),
        ({"type": "string", "maxLength": 0}, lambda value: value == ""),
    ],
)
def test_the_rarer_keywords_are_obeyed(schema: dict[str, Any], check: Callable[[Any], bool]) -> None:
    """Each keyword has its effect on the instance."""
    (value,) = instances(schema, 1)
    assert check(value)


PATTERNS = [
    r"^[a-z]+$",
    r"^\d{3}-\d{4}$",
    r"^(foo|bar)+$",
    r"a.c",
    r"^[A-Z][a-z]*$",
    r"^[^@\s]+@[^@\s]+\.[a-z]{2,}$",
    r"^\w{2,5}$",
    r"^(?:red|green)$",
    r"^(?P<year>\d{4})-(?:0[1-9]|1[0-2])$",
    r"^#?([a-f0-9]{6}|[a-f0-9]{3})$",
    r"^\+?[1-9]\d{1,14}$",
    r"^v\d+\.\d+\.\d+(-[\w.]+)?$",
    r"\bword\b",
    r"^\x41\u0042\t\\\/$",
    r"^[\d\-_\]]{4}$",
    r"^(?=.*)x{3,}?$",
    r"^$",
    r"^\D\W\S\s$",
]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_string_matches_its_pattern(pattern: str) -> None:
    """Expressions of the usual kind are matched."""
    found = instances({"type": "string", "pattern": pattern}, 3)
    assert all(re.search(pattern, value) for value in found)


@given(st.sampled_from([r"^[a-z]+$", r"^\d*$", r"^x\w+$", r"[abc]", r"^(ab?)+$", r"^a.*"]), st.integers(1, 30))
def test_a_pattern_and_a_length_go_together(pattern: str, length: int) -> None:
    """What may be repeated is repeated until the text is as long as it has to be."""
    (value,) = instances({"type": "string", "pattern": pattern, "minLength": length, "maxLength": length + 1}, 1)
    assert re.search(pattern, value)
    assert length <= len(value) <= length + 1


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("date-time", lambda value: datetime.fromisoformat(value.replace("Z", "+00:00"))),
        ("date", date.fromisoformat),
        ("time", lambda value: time.fromisoformat(value.replace("Z", "+00:00"))),
        ("uuid", uuid.UUID),
        ("ipv4", ipaddress.IPv4Address),
        ("ipv6", ipaddress.IPv6Address),
        ("email", lambda value: re.fullmatch(r"\w+@[\w.]+", value)),
        ("uri", lambda value: re.fullmatch(r"https://.+", value)),
        ("of my own", lambda value: isinstance(value, str)),
    ],
)
def test_a_string_has_its_format(name: str, read: Callable[[str], object]) -> None:
    """Texts of the known formats are readable as such, and differ; an unknown one is passed over."""
    found = instances({"type": "string", "format": name}, 5)
    assert all(read(value) for value in found)
    assert len(set(found)) == 5


# Recursion


def tree(value: Any) -> int:
    """How deep a tree is."""
    assert is_integer(value["value"])
    return 1 + max(map(tree, value.get("children", [])), default=0)


@pytest.mark.parametrize(
    "children",
    [
        {"type": "array", "items": {"$ref": "#/$defs/Tree"}},
        {"anyOf": [{"type": "array", "items": {"$ref": "#/$defs/Tree"}, "minItems": 1}, {"const": []}]},
    ],
)
@pytest.mark.parametrize("required", [["value"], ["value", "children"]])
def test_a_schema_may_lead_into_itself(children: dict[str, Any], required: list[str]) -> None:
    """A recursive schema has an instance that ends."""
    properties = {"value": {"type": "integer"}, "children": children}
    schema = {
        "$ref": "#/$defs/Tree",
        "$defs": {"Tree": {"type": "object", "properties": properties, "required": required}},
    }
    (value,) = instances(schema, 1)
    assert tree(value) < 5


def test_a_schema_may_be_its_own_root() -> None:
    """`#` is the schema itself."""
    schema = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    (value,) = instances(schema, 1)
    while value is not None:
        assert {*value} == {"next"}
        value = value["next"]


@given(st.integers(2, 9), st.booleans())
def test_schemas_that_refer_to_each_other_are_answered_soon(number: int, required: bool) -> None:
    """Definitions each of which refers to all of them do not take for ever, whether or not there is an instance."""
    names = [f"d{index}" for index in range(number)]
    properties = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    definition = {"type": "object", "properties": properties, "required": names if required else []}
    schema = {"$ref": "#/$defs/d0", "$defs": dict.fromkeys(names, definition)}
    if required:
        with pytest.raises(ValueError, match="no value was found"):
            instances(schema, 1)
    else:
        assert instances(schema, 1)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/A", "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"$ref": "#/$defs/A", "$defs": {"A": {"type": "array", "items": {"$ref": "#/$defs/A"}, "minItems": 1}}},
        {
            "$ref": "#/$defs/0",
            "$defs": {
                str(number): {
                    "type": "object",
                    "required": ["a", "b"],
                    "properties": {name: {"$ref": f"#/$defs/{number + 1}"} for name in "ab"},
                }
                for number in range(40)
            }
            | {"40": {"type": "null"}},
        },
        {"type": "string", "pattern": "(", "minLength": 1},
        {"type": "string", "pattern": "a{1000000}"},
        {"type": "string", "pattern": "\\"},
        {"type": "string", "pattern": ")"},
        False,
        5,
        [],
    ],
    ids=lambda schema: str(schema)[:60],
)
def test_what_has_no_instance_is_an_error(schema: Any) -> None:
    """A schema without an instance that ends, or that is none, is a ValueError, and that soon."""
    with pytest.raises(ValueError, match=r"."):
        instances(schema, 1)


# pydantic


def test_pydantic_takes_the_instances_of_its_schemas() -> None:
    """Models with nested, recursive, discriminated, constrained and optional parts all validate."""
    pydantic = pytest.importorskip("pydantic")

    class Color(enum.Enum):
        RED = "red"
        BLUE = "blue"

    class Cat(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        kind: Literal["cat"]
        lives: Annotated[int, pydantic.Field(ge=1, le=9)]

    class Dog(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        kind: Literal["dog"]
        good: bool = True

    class Node(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        value: float
        next: Node | None
        children: list[Node]

    namespace = {"Node": Node}
    Node.model_rebuild(_types_namespace=namespace)
    annotations: list[Any] = [
        Color,
        Node,
        Cat | Dog,
        Annotated[Cat | Dog, pydantic.Field(discriminator="kind")],
        dict[str, int],
        tuple[int, str, bool],
        set[Color],
        list[Annotated[str, pydantic.Field(pattern=r"^\d{5}$")]],
        Annotated[list[int], pydantic.Field(min_length=3)],
        Annotated[float, pydantic.Field(gt=0, lt=1)],
        Annotated[str, pydantic.Field(min_length=3, max_length=3)],
        datetime | None,
        timedelta,
        uuid.UUID,
        Literal[1, "a", None],
        pydantic.AnyUrl,
        list[Cat | list[Dog]],
    ]
    for annotation in annotations:
        adapter = pydantic.TypeAdapter(annotation)
        for value in instances(adapter.json_schema(), 3):
            adapter.validate_json(json.dumps(value))
