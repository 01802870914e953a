"""Objects over the JSON of answers, which behave as those of OpenAI's library do. Knows no fields and no pydantic."""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

T = TypeVar("T", bound="BaseModel")

_OWN = ("_extra", "_fields_set", "_request_id")


class BaseModel:
    """An object of an answer: its fields are attributes, those that nobody knows, too.

    A field that is known and did not come is None. The methods are those of pydantic's models that programs use, and
    say what those of OpenAI's library would say.

    Attributes:
        _request_id: the server's name for the request, of the object that is the whole answer.
    """

    __slots__ = ("__dict__", "__weakref__", *_OWN)
    __hash__ = None  # type: ignore[assignment]  # it can be changed

    _kinds: ClassVar[dict[str, type[BaseModel]]] = {}  # by the names that annotations have for them
    _called: ClassVar[str]  # what OpenAI's library calls it
    _tag: ClassVar[str | None]  # the `type` by which it is told from others that may stand in its place
    _known: ClassVar[dict[str, _Field] | None]

    _extra: dict[str, Any]
    _fields_set: set[str]
    _request_id: str | None

    def __init_subclass__(cls, *, called: str | None = None, tag: str | None = None) -> None:
        super().__init_subclass__()
        cls._called, cls._tag, cls._known = called or cls.__name__, tag, None
        BaseModel._kinds[cls.__name__] = cls

    def __init__(self, /, **values: Any) -> None:
        known = self._fields()
        self.__dict__.update({name: field.read(values.get(name)) for name, field in known.items()})
        object.__setattr__(self, "_extra", {name: values[name] for name in values if name not in known})
        object.__setattr__(self, "_fields_set", values.keys() & known.keys())

    @classmethod
    def _fields(cls) -> dict[str, _Field]:
        """The known fields, in their order."""
        if cls._known is None:
            found: dict[str, _Field] = {}
            for base in reversed(cls.__mro__[: cls.__mro__.index(BaseModel)]):
                for name, annotation in inspect.get_annotations(base).items():
                    found[name] = _field(annotation, BaseModel._kinds)
            cls._known = found
        return cls._known

    @classmethod
    def model_construct(cls: type[T], _fields_set: set[str] | None = None, /, **values: Any) -> T:
        """Make one of its fields."""
        return cls(**values)

    construct = model_construct

    @classmethod
    def model_validate(cls: type[T], obj: Any) -> T:
        """Make one of a dict; values are taken as they are."""
        return obj if isinstance(obj, cls) else cls(**obj)

    @classmethod
    def model_validate_json(cls: type[T], json_data: str | bytes) -> T:
        """Make one of JSON; values are taken as they are."""
        return cls(**json.loads(json_data))

    # Attributes -----------------------------------------------------------------------------------------------

    if not TYPE_CHECKING:  # which are to find typing errors; getattr() is for fields that they do not know

        def __getattr__(self, name: str) -> Any:
            try:
                return object.__getattribute__(self, "_extra")[name]
            except (AttributeError, KeyError):
                raise AttributeError(f"{type(self)._called!r} object has no attribute {name!r}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _OWN:
            object.__setattr__(self, name, value)
        elif name in self._fields():
            self.__dict__[name] = value
            self._fields_set.add(name)
        else:
            self._extra[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self._extra:
            del self._extra[name]
        else:
            object.__delattr__(self, name)

    @property
    def model_extra(self) -> dict[str, Any]:
        """The fields that are not known."""
        return self._extra

    @property
    def model_fields_set(self) -> set[str]:
        """The names of the known fields that came."""
        return self._fields_set

    def _items(self) -> Iterator[tuple[str, Any]]:
        yield from self.__dict__.items()
        yield from self._extra.items()

    def __iter__(self) -> Iterator[Any]:
        return self._items()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BaseModel):
            return NotImplemented
        return type(self) is type(other) and self.__dict__ == other.__dict__ and self._extra == other._extra

    def __repr__(self) -> str:
        return f"{type(self)._called}({', '.join(f'{name}={value!r}' for name, value in self._items())})"

    # Copies ---------------------------------------------------------------------------------------------------

    def model_copy(self: T, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> T:
        """Return a copy, with other values in the fields of `update`."""
        duplicate = copy.deepcopy(self) if deep else copy.copy(self)
        for name, value in (update or {}).items():
            setattr(duplicate, name, value)
        return duplicate

    def __copy__(self: T) -> T:
        duplicate = type(self).__new__(type(self))
        duplicate.__dict__.update(self.__dict__)
        duplicate._extra, duplicate._fields_set = dict(self._extra), set(self._fields_set)
        if hasattr(self, "_request_id"):
            duplicate._request_id = self._request_id
        return duplicate

    if not TYPE_CHECKING:  # deprecated by pydantic, and still called by programs
        copy = model_copy

    # What it is made of ---------------------------------------------------------------------------------------

    def model_dump(
        self,
        *,
        mode: str = "python",
        include: Any = None,
        exclude: Any = None,
        context: Any = None,
        by_alias: bool | None = None,
        exclude_unset: bool = False,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        round_trip: bool = False,
        warnings: bool | str = True,
        fallback: Callable[[Any], Any] | None = None,
        serialize_as_any: bool = False,
    ) -> dict[str, Any]:
        """Return it as a dict, with what it holds as dicts and lists.

        `mode="json"` is for values that JSON has. `include` and `exclude` are sets of names, or dicts of names and what
        is wanted of each, where items of lists go by their numbers or `"__all__"`. `exclude_unset` leaves out the known
        fields that did not come, `exclude_defaults` those that are None and need not be there, `exclude_none` all that
        are None. The other options say nothing of such objects.
        """
        how = _How(mode, exclude_unset, exclude_defaults, exclude_none)
        return self._dump(how, include, exclude)

    def model_dump_json(self, *, indent: int | None = None, ensure_ascii: bool = False, **options: Any) -> str:
        """Return it as JSON; the options are those of `model_dump`."""
        separators = (",", ":") if indent is None else (",", ": ")
        fields = self.model_dump(**{**options, "mode": "json"})
        return json.dumps(fields, ensure_ascii=ensure_ascii, indent=indent, separators=separators)

    def to_dict(
        self,
        *,
        mode: str = "python",
        use_api_names: bool = True,
        exclude_unset: bool = True,
        exclude_defaults: bool = False,
        exclude_none: bool = False,
        warnings: bool = True,
    ) -> dict[str, Any]:
        """Return it as a dict, without the fields that did not come; see `model_dump`."""
        return self._dump(_How(mode, exclude_unset, exclude_defaults, exclude_none), None, None)

    def to_json(self, *, indent: int | None = 2, use_api_names: bool = True, **options: Any) -> str:
        """Return it as JSON, without the fields that did not come; see `to_dict`."""
        return self.model_dump_json(indent=indent, **{"exclude_unset": True, **options})

    if not TYPE_CHECKING:  # as `copy`
        dict, json = model_dump, model_dump_json

    def _dump(self, how: _How, include: Any, exclude: Any) -> dict[str, Any]:
        known = self._fields()
        dumped = {}
        for name, value in self._items():
            if name in known:
                if how.exclude_unset and name not in self._fields_set:
                    continue
                if how.exclude_defaults and value is None and known[name].optional:
                    continue
            if (value is None and how.exclude_none) or not _is_in(name, include, exclude):
                continue
            dumped[name] = _dumped(value, how, _within(name, include), _within(name, exclude))
        return dumped


class _How(NamedTuple):
    """The options by which objects are dumped."""

    mode: str
    exclude_unset: bool
    exclude_defaults: bool
    exclude_none: bool


class _Field(NamedTuple):
    """A known field.

    Attributes:
        kinds: what an object in it may be; the first unless its `type` says otherwise.
        optional: it may be None.
        several: it is a list.
        floats: it holds numbers, and the whole ones among them are floats, too.
    """

    kinds: tuple[type[BaseModel], ...]
    optional: bool
    several: bool
    floats: bool

    def read(self, value: Any) -> Any:
        """Return what the attribute is for a value of JSON."""
        if not self.kinds and not self.floats:
            return value
        if isinstance(value, list):
            return list(map(self._one, value))
        return value if self.several else self._one(value)

    def _one(self, value: Any) -> Any:
        if isinstance(value, dict) and self.kinds:
            kinds = [kind for kind in self.kinds if kind._tag == value.get("type")] or self.kinds
            return kinds[0](**value)
        return float(value) if self.floats and type(value) is int else value


def _field(annotation: str, kinds: Mapping[str, type[BaseModel]]) -> _Field:
    words = re.findall(r"\w+", annotation)
    return _Field(
        tuple(kinds[word] for word in words if word in kinds), "None" in words, "list" in words, "float" in words
    )


def _dumped(value: Any, how: _How, include: Any = None, exclude: Any = None) -> Any:
    if isinstance(value, BaseModel):
        return value._dump(how, include, exclude)
    if isinstance(value, (list, tuple)):
        return [
            _dumped(item, how, _within(place, include), _within(place, exclude))
            for place, item in enumerate(value)
            if _is_in(place, include, exclude)
        ]
    if isinstance(value, dict):
        return {
            key: _dumped(item, how, _within(key, include), _within(key, exclude))
            for key, item in value.items()
            if _is_in(key, include, exclude)
        }
    if isinstance(value, type):
        return value
    if callable(dump := getattr(value, "model_dump", None)):  # an instance of a type of the caller's
        return dump(**how._asdict())
    return value


def _is_in(name: Any, include: Any, exclude: Any) -> bool:
    """Whether a field, or an item of a list, is asked for."""
    if include is not None and name not in include and "__all__" not in include:
        return False
    if isinstance(exclude, Mapping):
        return exclude.get(name, exclude.get("__all__")) not in (True, ...)
    return exclude is None or (name not in exclude and "__all__" not in exclude)


def _within(name: Any, wanted: Any) -> Any:
    """What is asked for of a field; None for nothing in particular."""
    inner = wanted.get(name, wanted.get("__all__")) if isinstance(wanted, Mapping) else None
    return inner if isinstance(inner, (Mapping, set, frozenset)) else None
