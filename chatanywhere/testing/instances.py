"""Instances of a JSON schema, made up; no model, no I/O.

A schema proposes values, the likeliest first, and those that it does not allow are dropped, which decides `oneOf` and
`not`, and whatever else is easier to check than to make. A `$ref` within itself proposes nothing, so that an
alternative, an absent property or an empty array takes its place: what has an instance at all has one in which no
`$ref` lies within itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import chain, count, islice, product
from string import ascii_lowercase
from typing import Any

from .pattern import matches
from .schema import TYPES, UNREADABLE, Validator, has_bound, property_schemas, written

_GENEROUS = 2_000  # checks, after which properties are left out that need not be there
_PROPOSALS = 1_000  # of one type, before another is tried
_SIZE = 10_000  # items or characters that a schema may demand

_FORMATS = {
    "date-time": "2024-01-{:02}T12:00:00Z",
    "date": "2024-01-{:02}",
    "time": "12:00:{:02}Z",
    "duration": "P{}D",
    "email": "ada{}@example.com",
    "idn-email": "ada{}@example.com",
    "hostname": "host{}.example.com",
    "idn-hostname": "host{}.example.com",
    "ipv4": "192.0.2.{}",
    "ipv6": "2001:db8::{:x}",
    "uuid": "00000000-0000-4000-8000-{:012x}",
    "uri": "https://example.com/{}",
    "url": "https://example.com/{}",
    "uri-reference": "/{}",
    "iri": "https://example.com/{}",
    "iri-reference": "/{}",
    "json-pointer": "/{}",
}
"""Texts of a format, each to be filled with a number from 1 to 28."""

_TYPE_BY_KEYWORD = {
    "properties": "object",
    "required": "object",
    "additionalProperties": "object",
    "minProperties": "object",
    "items": "array",
    "prefixItems": "array",
    "minItems": "array",
    "contains": "array",
    "pattern": "string",
    "format": "string",
    "minLength": "string",
    "maxLength": "string",
    "minimum": "number",
    "maximum": "number",
    "exclusiveMinimum": "number",
    "exclusiveMaximum": "number",
    "multipleOf": "number",
}


def instances(schema: Any, number: int) -> list[Any]:
    """Return values that fit a schema: `number` of them, or less if there are no more to be thought of.

    Args:
        schema: the schema, an object or a bool of JSON.
        number: how many.

    Raises:
        ValueError: nothing was found that fits, or the schema is none.
    """
    try:
        found = list(islice(_Maker(schema).values(schema), number))
    except UNREADABLE as error:
        raise ValueError(f"it can't be read: {type(error).__name__}: {error}") from error
    if not found:
        raise ValueError("no value was found that fits it")
    return found


class _Maker:
    """Makes values for a schema and the schemas within it.

    Args:
        root: the schema to which a `$ref` is relative.
    """

    def __init__(self, root: Any) -> None:
        self._validator = Validator(root)

    # What is proposed

    def values(self, schema: Any, entered: frozenset[str] = frozenset()) -> Iterator[Any]:
        """Yield values that fit a schema, given the `$ref`s that lead to it."""
        for value in self._proposals(schema, entered):
            if self._validator.fits(value, schema):
                yield value

    def _proposals(self, schema: Any, entered: frozenset[str]) -> Iterator[Any]:
        if isinstance(schema, bool):
            return _texts(0, _SIZE) if schema else iter(())
        if "$ref" in schema:
            pointer = schema["$ref"]
            if pointer in entered:
                return iter(())
            both = _merged([self._validator.found(pointer), _without(schema, "$ref")])
            return self.values(both, entered | {pointer})
        for name in ("anyOf", "oneOf"):
            if name in schema:
                rest = _without(schema, name)
                return chain.from_iterable(self.values(_merged([rest, each]), entered) for each in schema[name])
        if "allOf" in schema:
            return self.values(_merged([_without(schema, "allOf"), *schema["allOf"]]), entered)
        if "const" in schema:
            return iter([schema["const"]])
        if "enum" in schema:
            return iter(schema["enum"])
        kinds = schema.get("type") or next(([kind] for key, kind in _TYPE_BY_KEYWORD.items() if key in schema), TYPES)
        kinds = [kinds] if isinstance(kinds, str) else sorted(kinds, key=lambda kind: bool(kind == "null"))
        if schema.get("nullable"):
            kinds.append("null")
        return chain.from_iterable(islice(self._of_type(kind, schema, entered), _PROPOSALS) for kind in kinds)

    def _of_type(self, kind: str, schema: Mapping[str, Any], entered: frozenset[str]) -> Iterator[Any]:
        if kind == "object":
            return self._objects(schema, entered)
        if kind == "array":
            return self._arrays(schema, entered)
        if kind == "string":
            return _strings(schema)
        if kind == "boolean":
            return iter((True, False))
        if kind == "null":
            return iter((None,))
        if kind not in TYPES:
            raise ValueError(f"there is no type {kind!r}")
        return _numbers(schema, whole=kind == "integer")

    def _objects(self, schema: Mapping[str, Any], entered: frozenset[str]) -> Iterator[dict[str, Any]]:
        """Yield objects with all properties that can be had, the optional ones too."""
        required = schema.get("required", [])
        names = list(dict.fromkeys((*schema.get("properties", {}), *required)))
        names += [f"key{number}" for number in range(1, 1 + _size(schema, "minProperties") - len(names))]
        properties: dict[str, _Repeating] = {}
        for name in names:
            if name not in required and self._validator.checks > _GENEROUS:
                continue
            found = _Repeating(self.values(_merged(property_schemas(schema, name)), entered))
            if found.last:
                properties[name] = found
            elif name in required:
                return
        optional = [name for name in properties if name not in required]
        spare = len(properties) - schema.get("maxProperties", math.inf)
        for name in optional[len(optional) - int(max(spare, 0)) :]:
            del properties[name]
        while True:
            yield {name: each.last[0] for name, each in properties.items()}
            advanced = [each.advance() for each in properties.values()]
            if not any(advanced):
                return

    def _arrays(self, schema: Mapping[str, Any], entered: frozenset[str]) -> Iterator[list[Any]]:
        """Yield arrays of one item, where there has to be no other number."""
        first = list(schema.get("prefixItems", ()))
        rest = schema.get("items", True)
        if isinstance(rest, list):  # as older drafts had it
            first, rest = rest, schema.get("additionalItems", True)
        if "contains" in schema:
            wanted = max(_size(schema, "minContains", 1), 1)
            first += [rest] * (wanted - len(first))
            first[:wanted] = [_merged([each, schema["contains"]]) for each in first[:wanted]]
        size = max(_size(schema, "minItems"), len(first), 1)
        size = min(size, schema.get("maxItems", size))
        heads = [_Repeating(self.values(each, entered)) for each in first[:size]]
        if not all(head.last for head in heads):
            size = next(place for place, head in enumerate(heads) if not head.last)
        items = self.values(rest, entered)
        last: list[Any] = []
        while True:
            array = [head.last[0] for head in heads[:size]]
            known = {written(item) for item in array} if schema.get("uniqueItems") else None
            advanced = 0
            while len(array) < size:
                for item in items:
                    advanced += 1
                    last = [item]
                    if known is None or written(item) not in known:
                        break
                else:
                    if known is not None or not last:
                        break
                array += last
                if known is not None:
                    known.add(written(last[0]))
            yield array
            advanced += sum(head.advance() for head in heads)
            if not advanced:
                return


class _Repeating:
    """Values one after the other, the last of them again and again; `last` is empty if there are none."""

    def __init__(self, values: Iterator[Any]) -> None:
        self._values = values
        self.last = list(islice(values, 1))

    def advance(self) -> bool:
        """Go on to the next value, and return whether there was one."""
        more = list(islice(self._values, 1))
        self.last = more or self.last
        return bool(more)


def _without(schema: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key != name}


def _size(schema: Mapping[str, Any], name: str, default: int = 0) -> int:
    size = schema.get(name, default)
    if size > _SIZE:
        raise ValueError(f"{name} is more than {_SIZE}")
    return int(size)


def _merged(schemas: Iterable[Any]) -> Any:
    """Return one schema that says what all of them say, as far as it helps to propose values.

    Of what can't be said in one, such as two patterns, it says the first; values are checked against each.
    """
    whole: dict[str, Any] = {}
    for schema in schemas:
        if schema is False:
            return False
        for name, value in {} if schema is True else schema.items():
            if name not in whole:
                whole[name] = value
            elif whole[name] != value:
                _add(whole, name, value)
    return whole


def _add(whole: dict[str, Any], name: str, value: Any) -> None:
    """Add a keyword to a schema that has it already, with another value."""
    known = whole[name]
    if name == "properties":
        both = {key: _merged([known[key], value[key]]) for key in known.keys() & value.keys()}
        whole[name] = {**known, **value, **both}
    elif name == "required":
        whole[name] = [*known, *value]
    elif name == "enum":
        whole[name] = [each for each in known if written(each) in map(written, value)]
    elif name == "type":
        kinds, others = ([each] if isinstance(each, str) else each for each in (known, value))
        same = [kind for kind in kinds if kind in others]
        # An integer is a number as well.
        whole[name] = same or ["integer" for kind in kinds if {kind} | {*others} == {"integer", "number"}]
    elif name in ("items", "additionalProperties", "contains"):
        whole[name] = _merged([known, value])
    elif name.startswith(("min", "exclusiveMin")):
        whole[name] = max(known, value)
    elif name.startswith(("max", "exclusiveMax")):
        whole[name] = min(known, value)
    elif name in ("$ref", "anyOf", "oneOf"):
        whole["allOf"] = [*whole.get("allOf", ()), {name: value}]  # to be merged when the first has been resolved
    elif name == "allOf":
        whole[name] = [*known, *value]


# Strings and numbers


def _strings(schema: Mapping[str, Any]) -> Iterator[str]:
    least, most = _size(schema, "minLength"), schema.get("maxLength", math.inf)
    if "pattern" in schema:
        return (text for text in matches(schema["pattern"], least) if least <= len(text) <= most)
    if schema.get("format") in _FORMATS:
        return (_FORMATS[schema["format"]].format(number) for number in range(1, 29))
    return _texts(least, most)


def _texts(least: int, most: float) -> Iterator[str]:
    """Yield texts of at least, and at most, so many characters."""
    if most < 8:
        sizes = range(max(least, min(int(most), 1)), int(most) + 1)
        return ("".join(letters) for size in sizes for letters in product(ascii_lowercase, repeat=size))
    texts = ("text" if number == 1 else f"text {number}" for number in count(1))
    return ((text + " text" * (least // 5 + 1))[: max(least, len(text))] for text in texts)


def _numbers(schema: Mapping[str, Any], *, whole: bool) -> Iterator[float]:
    """Yield the multiples of a step between the bounds, then what lies in the middle if a step was not asked for."""
    step = Decimal(str(schema.get("multipleOf", 1)))
    lows = [Decimal(str(schema[name])) for name in ("minimum", "exclusiveMinimum") if has_bound(schema, name)]
    highs = [Decimal(str(schema[name])) for name in ("maximum", "exclusiveMaximum") if has_bound(schema, name)]
    low, high = max(lows, default=None), min(highs, default=None)
    if low is None and high is not None and high <= step:
        start = (high / step).to_integral_value("ROUND_FLOOR")
        yield from (_plain((start - number) * step) for number in range(_PROPOSALS))
        return
    start = Decimal(1) if low is None else (low / step).to_integral_value("ROUND_CEILING")
    for number in range(_PROPOSALS):
        value = (start + number) * step
        if high is not None and value > high:
            break
        yield _plain(value)
    if not whole and "multipleOf" not in schema and low is not None and high is not None:
        yield from (float(low + (high - low) * part / 16) for part in (8, *range(1, 16)))


def _plain(value: Decimal) -> float:
    return int(value) if value == value.to_integral_value() else float(value)
