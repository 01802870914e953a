"""Chat completion chunks, as JSON, and the events that they come to. Knows nothing of how they are framed."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]  # which is what the standard library reads strings by
from typing import Any, NamedTuple, NoReturn

from .._errors import ProtocolError
from .._merging import ToolCallPlaces, arguments_text, without_halves
from .._types import (
    Event,
    Extra,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from .excerpt import excerpt
from .json_text import MAX_DEPTH, check, loads
from .service import error_in_stream, error_within
from .sse import NamedData, StrayLine

_PieceKind = type[TextDelta] | type[ReasoningDelta] | type[RefusalDelta]

_KINDS: Mapping[str, _PieceKind] = {
    "content": TextDelta,
    "reasoning_content": ReasoningDelta,
    "reasoning": ReasoningDelta,
    "refusal": RefusalDelta,
}
"""The fields of a delta that hold a piece of text."""

_NEVER = "\r"
"""What no chunk begins with, since a CR ends a line."""

_MAX_IDLE_TEMPLATES = 4
_MOST = 1000  # choices, or tool calls of one
_MAX_STRAYS = 200  # lines of an error that was sent without a frame, and
_MAX_STRAY_LINE = 64 * 1024  # characters of one


class ChunkReader:
    """Makes events of chunks; pieces of one kind that arrive together become one event.

    Nearly every chunk differs from the one before in its text alone. Where one has turned out to hold nothing but a
    piece of text, what is written before and behind that piece is kept as a template: a chunk that begins and ends
    like it says the same about everything but the text, so the text is all that has to be read of it.

    Attributes:
        chunks: the JSON of those that were read, in their order.
        ended: how many choices have their finish reason; 0 while one of those that have begun has none.
    """

    def __init__(self) -> None:
        self.chunks: list[str] = []
        self.ended = 0
        self._loads, self._failures = _fastest_reader()
        self._started = Started(None, None)
        self._begun = False
        self._empty = True
        self._choices: dict[int, _ChoiceState] = {}
        self._kind: _PieceKind = TextDelta
        self._index = 0
        self._pieces: list[str] = []
        self._half = ""  # of a character
        self._halves: dict[tuple[_PieceKind, int], str] = {}  # the same, of other kinds and choices
        self._template = _NO_TEMPLATE
        self._idle_templates = 0  # that were of no use, in a row
        self._used = True  # the template has been
        self._strays: list[str] = []  # lines that may come to be an error
        self._plain = False  # whether plain chunks are looked for, since no two begin and end alike

    def add_all(self, datas: list[str], events: list[Event]) -> bool:
        """Take chunks in, as JSON; append the events that can't be merged with what may follow.

        Returns:
            Whether `[DONE]` was among them; what follows it is not read.

        Raises:
            ProtocolError, APIStatusError: something is wrong; what came before it is there after a `flush`.
        """
        pieces, keep = self._pieces, self.chunks.append
        before, behind, size = self._template
        used = False
        for data in datas:
            if data.startswith(before) and type(data) is str:  # else it has a name, which may be "error"
                try:
                    text, end = scanstring(data, size)
                except json.JSONDecodeError:
                    pass  # the long way says what is wrong
                else:
                    if data[end:] == behind:
                        pieces.append(text)
                        keep(data)
                        used = True
                        continue
            if used:
                self._used = True
            if self._add(data, events):
                return True
            before, behind, size = self._template
        if used:
            self._used = True
        return False

    def flush(self, events: list[Event], *, last: bool = False) -> None:
        """Append the pieces taken in so far; `last` says that none will follow."""
        if self._pieces or (last and self._half):
            text = "".join(self._pieces)
            self._pieces.clear()
            if not text.isascii() or self._half:
                text = self._half + text
                # JSON writes an emoji as two escapes, and some servers put one into each of two chunks.
                cut = "\ud800" <= text[-1:] <= "\udbff" and not last
                self._half = text[-1] if cut else ""
                text = without_halves(text[:-1] if cut else text)
            if text:
                events.append(self._kind(text, self._index))
        if last:
            events += [kind(without_halves(half), index) for (kind, index), half in self._halves.items() if half]
            self._halves.clear()

    @property
    def is_empty(self) -> bool:
        """Nothing has been said, nor why."""
        return self._empty and not any(choice.finished for choice in self._choices.values())

    # One chunk ----------------------------------------------------------------------------------------------

    def _add(self, data: str, events: list[Event]) -> bool:
        """Do what `add_all` does, for one chunk of any kind."""
        if isinstance(data, NamedData):
            return self._add_named(data.event, str(data), events)
        if isinstance(data, StrayLine):
            self._add_stray(str(data))
            return False
        _check(data)
        try:
            chunk = self._loads(data)
        except self._failures:
            if not data.strip():
                return False  # sent to keep the connection alive
            if data.strip() == "[DONE]":
                return True
            chunk = self._parse(data)
        if self._plain and self._kind is TextDelta and not self._index and _is_plain(chunk):
            self._pieces.append(chunk["choices"][0]["delta"]["content"])
            self.chunks.append(data)
        else:
            self.add(chunk, data, events)
        return False

    def _add_named(self, name: str, data: str, events: list[Event]) -> bool:
        """Take in the data of an event with a name: it may be an error, or may not be ours."""
        try:
            chunk = self._parse(data)
        except ProtocolError:
            if name != "error":
                return data.strip() == "[DONE]"
            chunk = data
        if name == "error" and chunk != "":
            raise error_in_stream(chunk.get("error") or chunk if isinstance(chunk, dict) else chunk)
        if isinstance(chunk, dict):
            self.add(chunk, data, events)
        return False

    def _add_stray(self, line: str) -> None:
        """Look for an error that was sent as bare JSON, without the frame of an event; it may be pretty-printed."""
        if line.startswith("{"):
            self._strays = []
        if len(self._strays) < _MAX_STRAYS and len(line) < _MAX_STRAY_LINE:
            self._strays.append(line)
        if line.rstrip().endswith("}") and (len(self._strays) == 1 or line.startswith("}")):
            try:
                value = loads("\n".join(self._strays))
            except (RecursionError, ValueError):
                return
            if value.get("error"):
                raise error_in_stream(value["error"])

    def add(self, chunk: Any, data: str, events: list[Event]) -> None:
        """Take in a chunk that has been read already.

        Args:
            chunk: what the JSON `data` says.
            data: that JSON.
            events: see `add_all`.

        Raises:
            ProtocolError, APIStatusError: see `add_all`.
        """
        if not isinstance(chunk, dict) or chunk.get("error") or not chunk.get("choices"):
            error = error_within(chunk)
            if error is not None:
                raise error
        if not isinstance(chunk, dict):
            raise ProtocolError(f"not a chat completion chunk: {excerpt(data)}")
        self._read(chunk, events)
        self.chunks.append(data)
        if self._idle_templates < _MAX_IDLE_TEMPLATES:
            self._learn(chunk, data)
        else:
            self._template = _NO_TEMPLATE
            first = self._choices.get(0)
            self._plain = bool(self._started.id and self._started.model and first and "content" in first.said)

    def _parse(self, data: str) -> Any:
        """Read what the fast readers refuse; the standard library reads some of it."""
        _check(data)
        try:
            return json.loads(data)
        except json.JSONDecodeError as exc:
            raise ProtocolError(f"not a chat completion chunk: {exc.msg}: {excerpt(data, exc.pos)}") from exc
        except (RecursionError, ValueError) as exc:  # nested too deep, or a number with too many digits
            raise ProtocolError(f"not a chat completion chunk: {excerpt(data)}") from exc

    def _read(self, chunk: dict[str, Any], events: list[Event]) -> None:
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            _refuse("choices", choices, "a list")
        _check_length("choices", choices)
        if not (self._started.id and self._started.model):
            self._start(chunk, events)
        for position, choice in enumerate(choices):
            self._read_choice(choice, f"choices[{position}]", events)
        self._spent(chunk.get("usage"), events)

    def _start(self, chunk: Mapping[str, Any], events: list[Event]) -> None:
        old = self._started
        self._started = Started(
            old.id or _text_or_none(chunk.get("id")),
            old.model or _text_or_none(chunk.get("model")),
            old.created or _count(chunk.get("created")),
        )
        news = (old.id, old.model) != (self._started.id, self._started.model)
        if news or (not self._begun and chunk.get("choices")):
            self._begun = True
            self.flush(events)
            events.append(self._started)

    def _read_choice(self, choice: Any, where: str, events: list[Event]) -> None:
        if not isinstance(choice, dict):
            _refuse(where, choice, "an object")
        index = 0 if choice.get("index") is None else choice["index"]
        if not _is_count(index):
            _refuse(f"{where}.index", index, "a number")
        state = self._choices.setdefault(index, _ChoiceState())
        # "message" is where the answer that is not streamed has its text; in a stream it may repeat all of it.
        for field in ("delta", "message"):
            body = choice.get(field)
            if body:
                if not isinstance(body, dict):
                    _refuse(f"{where}.{field}", body, "an object")
                if field == "message":
                    said = state.said | _THOUGHTS if state.said & _THOUGHTS else state.said
                    body = {name: value for name, value in body.items() if name not in said}
                self._read_message(body, index, f"{where}.{field}", events)
                if field == "delta":
                    state.said.update(name for name, value in body.items() if value)
        self._extra({name: choice[name] for name in choice if name not in _CHOICE_FIELDS}, index, events)
        reason = choice.get("finish_reason")
        if reason:
            if not isinstance(reason, str):
                _refuse(f"{where}.finish_reason", reason, "text")
            state.finished = True
            self.flush(events)
            events.append(Finished(reason, index))
        finished = [choice.finished for choice in self._choices.values()]
        self.ended = len(finished) if all(finished) else 0
        self._spent(choice.get("usage"), events)

    def _read_message(self, body: dict[str, Any], index: int, where: str, events: list[Event]) -> None:
        said: list[str] = []  # some servers send what was thought under two names at once
        extra = {name: value for name, value in body.items() if name not in _MESSAGE_FIELDS}
        for name in ("reasoning_content", "reasoning"):
            thought = body.get(name)
            if isinstance(thought, str):
                if thought and thought not in said:
                    said.append(thought)
                    self._piece(ReasoningDelta, thought, index, events)
            elif thought and name == "reasoning":
                extra[name] = thought
            elif thought:
                _refuse(f"{where}.{name}", thought, "text")
        details = body.get("reasoning_details")
        if isinstance(details, list):
            thought = _texts(details)
            if thought and thought not in said:
                self._piece(ReasoningDelta, thought, index, events)
        content = body.get("content")
        if isinstance(content, str):
            self._piece(TextDelta, content, index, events)
        elif isinstance(content, list):
            self._read_parts(content, index, f"{where}.content", events)
        elif content:
            _refuse(f"{where}.content", content, "text")
        refusal = body.get("refusal")
        if isinstance(refusal, str):
            self._piece(RefusalDelta, refusal, index, events)
        elif refusal:
            _refuse(f"{where}.refusal", refusal, "text")
        self._call_tools(body, index, where, events)
        if self._extra(extra, index, events):
            self._empty = False

    def _read_parts(self, parts: list[Any], index: int, where: str, events: list[Event]) -> None:
        """Read content that comes as a list of parts: text, thoughts, and what is neither."""
        for position, part in enumerate(parts):
            if not isinstance(part, dict):
                _refuse(f"{where}[{position}]", part, "an object")
            text, thinking = part.get("text"), part.get("thinking")
            if isinstance(text, str):
                self._piece(TextDelta, text, index, events)
            elif isinstance(thinking, str):
                self._piece(ReasoningDelta, thinking, index, events)
            elif isinstance(thinking, list):
                self._piece(ReasoningDelta, _texts(thinking), index, events)
            elif self._extra({"content": [part]}, index, events):
                self._empty = False

    def _call_tools(self, body: dict[str, Any], index: int, where: str, events: list[Event]) -> None:
        calls = body.get("tool_calls") or []
        if not isinstance(calls, list):
            _refuse(f"{where}.tool_calls", calls, "a list")
        _check_length(f"{where}.tool_calls", calls)
        places = self._choices[index].places
        for position, call in enumerate(calls):
            here = f"{where}.tool_calls[{position}]"
            if not isinstance(call, dict):
                _refuse(here, call, "an object")
            if where.endswith("message"):  # where each is a call of its own
                call = {"index": position, **call}
            number = call.get("index")
            if number is not None and not _is_count(number):
                _refuse(f"{here}.index", number, "a number")
            for name in ("function", "custom"):
                if call.get(name) and not isinstance(call[name], dict):
                    _refuse(f"{here}.{name}", call[name], "an object")
            function = call.get("function") or call.get("custom") or {}
            custom = call.get("type") == "custom" or bool(call.get("custom"))
            self._empty = False
            self.flush(events)
            events.append(
                ToolCallDelta(
                    places.place(call, first=not position),
                    _text_or_none(call.get("id")),
                    _text_or_none(function.get("name")),
                    arguments_text(function),
                    "custom" if custom else "function",
                    index,
                    {name: call[name] for name in call if name not in _CALL_FIELDS and not _is_empty(call[name])},
                )
            )
        function = body.get("function_call")
        if function:
            if not isinstance(function, dict):
                _refuse(f"{where}.function_call", function, "an object")
            self._empty = False
            self.flush(events)
            called = _text_or_none(function.get("name"))
            events.append(ToolCallDelta(0, None, called, arguments_text(function), choice=index))

    def _piece(self, kind: _PieceKind, text: str, index: int, events: list[Event]) -> None:
        if not text:
            return
        self._empty = False
        if kind is not self._kind or index != self._index:
            self.flush(events)
            self._halves[self._kind, self._index] = self._half
            self._kind, self._index = kind, index
            self._half = self._halves.pop((kind, index), "")
            self._template = _NO_TEMPLATE
        self._pieces.append(text)

    def _extra(self, fields: dict[str, Any], index: int, events: list[Event]) -> bool:
        """Give out what has no event of its own; return whether there was any."""
        fields = {name: value for name, value in fields.items() if not _is_empty(value)}
        if fields:
            self.flush(events)
            events.append(Extra(fields, index))
        return bool(fields)

    def _spent(self, counts: Any, events: list[Event]) -> None:
        usage = _usage(counts) if isinstance(counts, dict) else None
        if usage:
            self.flush(events)
            events.append(usage)

    # The template -------------------------------------------------------------------------------------------

    def _learn(self, chunk: dict[str, Any], data: str) -> None:
        """Make a template of a chunk that has been read, if it holds nothing but a piece of text."""
        field = _only_piece(chunk)
        if field is None:
            return
        self._idle_templates = 0 if self._used else self._idle_templates + 1
        self._used = False
        self._template = _template(chunk, data, field) or _NO_TEMPLATE


class _ChoiceState:
    """What has to be known of a choice while it comes."""

    def __init__(self) -> None:
        self.finished = False
        self.said: set[str] = set()  # the fields that came in deltas
        self.places = ToolCallPlaces()


class _Template(NamedTuple):
    """What a chunk holds around its piece of text."""

    before: str
    behind: str
    size: int


_NO_TEMPLATE = _Template(_NEVER, "", 0)


def _only_piece(chunk: dict[str, Any]) -> str | None:
    """Return the field that a chunk's piece of text is in, None if the chunk says anything else that has an event."""
    choices = chunk.get("choices")
    if not choices or len(choices) != 1 or not _is_empty(chunk.get("usage")):
        return None
    choice = choices[0]
    if not all(_is_empty(value) for name, value in choice.items() if name not in ("index", "delta")):
        return None
    said = [name for name, value in (choice.get("delta") or {}).items() if name != "role" and not _is_empty(value)]
    return said[0] if len(said) == 1 and said[0] in _KINDS and isinstance(choice["delta"][said[0]], str) else None


def _check(data: str) -> None:
    """Hold a chunk against the limits of JSON that is read at once.

    Raises:
        ProtocolError: it is beyond them.
    """
    if len(data) > 2 * MAX_DEPTH:
        try:
            check(data)
        except ValueError as exc:
            raise ProtocolError(f"not a chat completion chunk: {exc}: {excerpt(data)}") from exc


def _check_length(where: str, values: list[Any]) -> None:
    """See to it that going through a list does not hold up an event loop.

    Raises:
        ProtocolError: it is too long.
    """
    if len(values) > _MOST:
        raise ProtocolError(f"not a chat completion chunk: {where} has more than {_MOST} items")


def _is_plain(chunk: Any) -> bool:
    """Whether a chunk says some text of the first choice, and nothing else that has an event."""
    if type(chunk) is not dict or chunk.get("usage") is not None or chunk.get("error") is not None:
        return False
    choices = chunk.get("choices")
    if type(choices) is not list or len(choices) != 1 or type(choices[0]) is not dict:
        return False
    choice = choices[0]
    get = choice.get
    delta, index = get("delta"), get("index", 0)
    return (
        type(delta) is dict
        and len(delta) == 1
        and type(delta.get("content")) is str
        and delta["content"] != ""
        and type(index) is int
        and not index
        and get("finish_reason") is None
        and get("logprobs") is None
        and len(choice) == 1 + ("index" in choice) + ("finish_reason" in choice) + ("logprobs" in choice)
    )


def _template(chunk: dict[str, Any], data: str, field: str) -> _Template | None:
    """Cut the piece of text out of a chunk; None if it is not clear where it is."""
    place = data.find('"', data.find(f'"{field}"') + len(field) + 2)
    if place < 0:
        return None
    try:
        _, end = scanstring(data, place + 1)
        before, behind = data[: place + 1], data[end:]
        # The proof: with another text in that place, it is the same chunk with that text.
        other = json.loads(f'{before}another text"{behind}')
        delta = other["choices"][0]["delta"]
        found, delta[field] = delta[field], chunk["choices"][0]["delta"][field]
    except (IndexError, KeyError, RecursionError, TypeError, ValueError):
        return None
    return _Template(before, behind, len(before)) if found == "another text" and other == chunk else None


# Values -----------------------------------------------------------------------------------------------------

_MESSAGE_FIELDS = frozenset(
    ("role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call")
)
_THOUGHTS = frozenset(("reasoning_content", "reasoning", "reasoning_details"))
_CHOICE_FIELDS = frozenset(("index", "delta", "message", "finish_reason", "usage"))
_CALL_FIELDS = frozenset(("index", "id", "type", "function", "custom"))


def _usage(counts: dict[str, Any]) -> Usage | None:
    """Read what an answer cost; None if it is told in another shape."""
    prompt, completion, total = map(_count, map(counts.get, ("prompt_tokens", "completion_tokens", "total_tokens")))
    if prompt is None and completion is None and total is None:
        return None
    if total is None:
        total = (prompt or 0) + (completion or 0)
    elif prompt is None:
        prompt = max(0, total - completion) if completion is not None else None
    elif completion is None:
        completion = max(0, total - prompt)
    cached = (_detail(counts, "prompt_tokens_details", "cached_tokens"), counts.get("prompt_cache_hit_tokens"))
    thought = _detail(counts, "completion_tokens_details", "reasoning_tokens")
    return Usage(
        prompt or 0,
        completion or 0,
        total,
        next(filter(None, map(_count, cached)), 0),
        _count(thought) or 0,
    )


def _detail(counts: dict[str, Any], group: str, name: str) -> Any:
    details = counts.get(group)
    value = details.get(name) if isinstance(details, dict) else None
    return counts.get(name) if value is None else value


def _count(value: Any) -> int | None:
    """Read a count, which some servers write as a float or a str."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if _is_count(value) else None


def _is_count(value: Any) -> bool:
    # Beyond 63 bits, readers of JSON do not agree.
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _texts(parts: list[Any]) -> str:
    """The text of parts, in one."""
    return "".join(part["text"] for part in parts if isinstance(part, dict) and isinstance(part.get("text"), str))


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, (str, list, dict)) and not value)


def _text_or_none(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _refuse(where: str, value: Any, wanted: str) -> NoReturn:
    if isinstance(value, (list, dict)):
        shown = "a list" if isinstance(value, list) else "an object"
    else:
        shown = excerpt(value) if isinstance(value, str) else "null" if value is None else f"a {type(value).__name__}"
    raise ProtocolError(f"not a chat completion chunk: {where} is {shown}, not {wanted}")


# Readers of JSON ----------------------------------------------------------------------------------------------

_raw_decode = json.JSONDecoder().raw_decode


def _standard_loads(data: str) -> Any:
    """Do what `json.loads` does, without its search for blanks around the value.

    Raises:
        ValueError: it is not JSON, or there are blanks around it.
    """
    value, end = _raw_decode(data)
    if end != len(data):
        raise ValueError("not the value alone")
    return value


@functools.cache
def _fastest_reader() -> tuple[Callable[[str], Any], tuple[type[Exception], ...]]:
    """The reader of msgspec (`chatanywhere[speed]`) or orjson where one is installed, and its errors.

    Importing it waits until now.
    """
    try:
        import msgspec
    except ImportError:
        pass
    else:
        return msgspec.json.decode, (RecursionError, ValueError, msgspec.DecodeError)
    try:
        import orjson
    except ImportError:
        return _standard_loads, (RecursionError, ValueError)
    return orjson.loads, (RecursionError, ValueError)
