"""JSON schemas: what fits one, and what OpenAI asks of one that is to be held to strictly."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import chain
from typing import Any
from urllib.parse import unquote

TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "object": (dict,),
    "array": (list,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}

_CHECKS = 200_000  # in one document, which bounds the time

UNREADABLE = (TypeError, AttributeError, LookupError, ArithmeticError, RecursionError, re.error)
"""What is raised by a schema that is none; a schema is any JSON at all, in the wrong place as well."""


class Validator:
    """Checks values against the schemas in a JSON document.

    Args:
        root: the document, to which a `$ref` is relative.

    Attributes:
        checks: how many checks have been made.
    """

    def __init__(self, root: Any) -> None:
        self.checks = 0
        self._root = root

    def fits(self, value: Any, schema: Any) -> bool:
        """Return whether a value fits a schema; formats are not looked at.

        Raises:
            ValueError: it is one check too many, or a `$ref` leads nowhere.
        """
        self.checks += 1
        if self.checks > _CHECKS:
            raise ValueError("it is too large")
        if isinstance(schema, bool):
            return schema
        if schema.get("nullable") and value is None:
            return True
        kinds = schema.get("type", TYPES)
        return (
            any(is_of_type(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds))
            and ("const" not in schema or written(value) == written(schema["const"]))
            and ("enum" not in schema or written(value) in map(written, schema["enum"]))
            and ("$ref" not in schema or self.fits(value, self.found(schema["$ref"])))
            and all(self.fits(value, each) for each in schema.get("allOf", ()))
            and ("anyOf" not in schema or any(self.fits(value, each) for each in schema["anyOf"]))
            and ("oneOf" not in schema or sum(self.fits(value, each) for each in schema["oneOf"]) == 1)
            and ("not" not in schema or not self.fits(value, schema["not"]))
            and (not isinstance(value, dict) or self._object_fits(value, schema))
            and (not isinstance(value, list) or self._array_fits(value, schema))
            and (not isinstance(value, str) or _string_fits(value, schema))
            and (not is_of_type(value, "number") or _number_fits(value, schema))
        )

    def _object_fits(self, value: Mapping[str, Any], schema: Mapping[str, Any]) -> bool:
        return (
            all(name in value for name in schema.get("required", ()))
            and schema.get("minProperties", 0) <= len(value) <= schema.get("maxProperties", math.inf)
            and all(self.fits(each, part) for name, each in value.items() for part in property_schemas(schema, name))
        )

    def _array_fits(self, value: list[Any], schema: Mapping[str, Any]) -> bool:
        first = schema.get("prefixItems", ())
        rest = schema.get("items", True)
        if isinstance(rest, list):
            first, rest = rest, schema.get("additionalItems", True)
        schemas = chain(first, iter(lambda: rest, None))
        wanted = schema.get("contains", True)
        return (
            schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", math.inf)
            and all(self.fits(item, each) for item, each in zip(value, schemas, strict=False))
            and (not schema.get("uniqueItems") or len(set(map(written, value))) == len(value))
            and (
                "contains" not in schema
                or schema.get("minContains", 1)
                <= sum(self.fits(item, wanted) for item in value)
                <= schema.get("maxContains", math.inf)
            )
        )

    def found(self, pointer: str) -> Any:
        """Return the schema that a `$ref` names (RFC 6901)."""
        if not pointer.startswith("#"):
            raise ValueError(f"a $ref to {pointer!r} leads out of it")
        schema = self._root
        for part in pointer[1:].split("/")[1:]:
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            schema = schema[int(name)] if isinstance(schema, list) else schema[name]
        return schema


def written(value: Any) -> str:
    """Return a value as a text that is the same for the same value only; to Python, True is 1."""
    return json.dumps(value, sort_keys=True)


def is_of_type(value: Any, kind: str) -> bool:
    return type(value) in TYPES[kind] or (kind == "integer" and type(value) is float and value.is_integer())


def property_schemas(schema: Mapping[str, Any], name: str) -> list[Any]:
    """Return all schemas that hold for a property."""
    named = schema.get("properties", {})
    found = [named[name]] if name in named else []
    found += [each for pattern, each in schema.get("patternProperties", {}).items() if re.search(pattern, name)]
    return found or [schema.get("additionalProperties", True)]


def _string_fits(value: str, schema: Mapping[str, Any]) -> bool:
    return schema.get("minLength", 0) <= len(value) <= schema.get("maxLength", math.inf) and (
        "pattern" not in schema or re.search(schema["pattern"], value) is not None
    )


def _number_fits(value: float, schema: Mapping[str, Any]) -> bool:
    return (
        (not has_bound(schema, "minimum") or value >= schema["minimum"])
        and (not has_bound(schema, "maximum") or value <= schema["maximum"])
        and (not has_bound(schema, "exclusiveMinimum") or value > schema["exclusiveMinimum"])
        and (not has_bound(schema, "exclusiveMaximum") or value < schema["exclusiveMaximum"])
        and ("multipleOf" not in schema or _is_multiple(value, schema["multipleOf"]))
    )


def _is_multiple(value: float, step: float) -> bool:
    """Whether a number is a multiple as written, and as floats are divided too, which is all that many checkers do."""
    return Decimal(str(value)) % Decimal(str(step)) == 0 and float(value / step).is_integer()


def has_bound(schema: Mapping[str, Any], name: str) -> bool:
    return is_of_type(schema.get(name), "number")


# What OpenAI asks of a schema that is to be held to strictly

_NOT_STRICT = ("default", "allOf", "oneOf", "not", "if", "then", "else", "dependentRequired", "dependentSchemas")


def unstrict(schema: Any) -> str:
    """Return what keeps OpenAI from holding an answer to a schema strictly, in its words; `""` if nothing does."""
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind != "object" and not (isinstance(schema, dict) and "$ref" in schema):
        return f"schema must be a JSON Schema of 'type: \"object\"', got 'type: \"{kind}\"'."
    try:
        return next(_strict_faults(schema, ()), "")
    except UNREADABLE as error:
        return f"it can't be read: {type(error).__name__}: {error}"


def _strict_faults(schema: Any, context: tuple[str, ...]) -> Iterator[str]:
    for keyword in _NOT_STRICT:
        if keyword in schema:
            yield f"In context={context}, '{keyword}' is not permitted."
    properties = schema.get("properties", {})
    if schema.get("type") == "object" or properties:
        if schema.get("additionalProperties") is not False:
            yield f"In context={context}, 'additionalProperties' is required to be supplied and to be false."
        for name in properties:
            if name not in schema.get("required", ()):
                yield (
                    f"In context={context}, 'required' is required to be supplied and to be an array "
                    f"including every key in properties. Missing '{name}'."
                )
    for keyword in ("properties", "$defs", "definitions"):
        for name, each in schema.get(keyword, {}).items():
            yield from _strict_faults(each, (*context, keyword, name))
    for place, each in enumerate(schema.get("anyOf", ())):
        yield from _strict_faults(each, (*context, "anyOf", str(place)))
    if "items" in schema:
        yield from _strict_faults(schema["items"], (*context, "items"))
