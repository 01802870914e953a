"""Chat completion chunks, as JSON, and the events that they come to. Knows nothing of how they are framed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from json.decoder import scanstring  # type: ignore[attr-defined]  # which is what the standard library reads strings by
from typing import Any

from .._errors import ProtocolError
from .._merging import without_halves
from .._message import MessageSoFar, arguments_text, index_of, tool_of
from .._types import (
    Event,
    Extra,
    Finished,
    ReasoningDelta,
    RefusalDelta,
    Started,
    TextDelta,
    ToolCallDelta,
)
from .excerpt import MAX_MESSAGE, excerpt, excerpt_around
from .fields import TEXT_FIELDS, is_empty, read_count, read_name, read_usage, refuse, text_of, text_or_none
from .head import UNKNOWN, AnswerHead
from .json_text import BareJSON, loads
from .service import error_in, error_within
from .sse import NamedData, StrayLine
from .template import NO_TEMPLATE, is_plain, template

_PieceKind = type[TextDelta] | type[ReasoningDelta] | type[RefusalDelta]
_Source = tuple[_PieceKind, int]  # what a piece is, and of which choice

_FIRST_TEXT: _Source = (TextDelta, 0)

_MAX_IDLE_TEMPLATES = 4
_MOST_PIECES = 32  # that are kept though they have become events, since to tell the message of each takes time, and
_MOST_TEXT = 1000  # characters of one
_SHOWN = 3  # pieces, of those that hold nothing
_MOST_CHOICES = 1000  # of an answer
_MOST_ITEMS = 10_000  # of a chunk's lists together, since going through them must not hold up an event loop
_LONGEST_TEMPLATE = 16 * 1024  # characters of a chunk that one is made of


class ChunkReader:
    """Makes events of chunks; pieces of one kind that arrive together become one event.

    Its argument is for the errors that services say in the place of chunks.

    Nearly every chunk differs from the one before in its text alone. Where one has turned out to hold nothing but a
    piece of text, what is written before and behind that piece is kept as a template: a chunk that begins and ends
    like it says the same about everything but the text, so the text is all that has to be read of it.

    Attributes:
        chunks: the JSON of those that were read, in their order.
    """

    def __init__(self, head: AnswerHead = UNKNOWN) -> None:
        self.chunks: list[str] = []
        self._head = head
        self._started = Started(None, None)
        self._begun = False
        self._empty = True
        self._choices: dict[int, _ChoiceState] = {}
        self._open = 0  # choices that have no finish reason
        self._source: _Source = _FIRST_TEXT
        self._pieces: list[str] = []  # of this source
        self._given = 0  # how many of them have become events, and
        self._told = 0  # how many of them the message knows
        self._halves: dict[_Source, str] = {}  # of characters, whose other halves have not come
        self._template = NO_TEMPLATE
        self._idle_templates = 0  # that were of no use, in a row
        self._used = True  # the template has been
        self._skipped: list[str] = []  # the data of events with names that mean nothing here
        self._bare = BareJSON()  # which may come to be an error
        self._plain = False  # whether plain chunks are looked for, since no two begin and end alike

    def add_all(self, datas: list[str], events: list[Event]) -> bool:
        """Take chunks in, as JSON; append the events that can't be merged with what may follow.

        Returns:
            Whether `[DONE]` was among them; what follows it is not read.

        Raises:
            ProtocolError, APIStatusError: something is wrong; what came before it is there after a `flush`.
        """
        pieces, keep = self._pieces, self.chunks.append
        known = self._template
        before, behind, size, last = known
        used = False
        for data in datas:
            if data.startswith(before) and type(data) is str:  # else it has a name, which may be "error"
                try:
                    text, end = scanstring(data, size)
                except json.JSONDecodeError:
                    pass  # the long way says what is wrong
                else:
                    if data[end:] == behind or (last and known.ends(data, end)):
                        pieces.append(text)
                        keep(data)
                        used = True
                        continue
            if used:
                self._used = True
            if self._add(data, events):
                return True
            known = self._template
            before, behind, size, last = known
        if used:
            self._used = True
        return False

    def flush(self, events: list[Event], *, last: bool = False) -> None:
        """Append the pieces taken in so far; `last` says that none will follow."""
        pieces, given = self._pieces, self._given
        if len(pieces) > given or (last and self._source in self._halves):
            text = pieces[-1] if len(pieces) == given + 1 else "".join(pieces[given:])
            self._given = len(pieces)
            if self._given > _MOST_PIECES or len(text) > _MOST_TEXT:
                self._forget()
            if self._halves or not text.isascii():
                text = self._halves.pop(self._source, "") + text
                # JSON writes an emoji as two escapes, and some servers put one into each of two chunks.
                if "\ud800" <= text[-1:] <= "\udbff" and not last:
                    self._halves[self._source] = text[-1]
                    text = text[:-1]
                text = without_halves(text)
            if text:
                kind, index = self._source
                events.append(kind(text, index))
        if last and self._halves:
            events += [kind(without_halves(half), index) for (kind, index), half in self._halves.items()]
            self._halves.clear()

    def is_whole(self, choices: int = 1) -> bool:
        """Whether every choice that has begun has its finish reason, and those are at least so many."""
        return not self._open and len(self._choices) >= choices

    def would_be_whole(self, data: str, choices: int) -> bool:
        """Whether nothing would be missing if this came, too: it is `[DONE]`, an error, or all finish reasons."""
        if data.strip() == "[DONE]":
            return True
        try:
            chunk = loads(data)
        except json.JSONDecodeError:
            return False
        if error_within(chunk) is not None:
            return True
        said = chunk.get("choices") if isinstance(chunk, dict) else None
        if not isinstance(said, list) or not all(isinstance(choice, dict) for choice in said):
            return False
        states = {index: state.finished for index, state in self._choices.items()}
        for choice in said:
            index = index_of(choice) or 0
            states[index] = states.get(index) or bool(choice.get("finish_reason"))
        return all(states.values()) and len(states) >= choices

    @property
    def is_empty(self) -> bool:
        """Nothing has been said, nor why."""
        return self._empty and self._open == len(self._choices)

    @property
    def shown(self) -> list[str]:
        """What an error shows of chunks that have said nothing."""
        return self._skipped + self.chunks[:_SHOWN] if self.is_empty else []

    # One chunk ----------------------------------------------------------------------------------------------

    def _add(self, data: str, events: list[Event]) -> bool:
        """Do what `add_all` does, for one chunk of any kind."""
        if isinstance(data, NamedData):
            return self._add_named(data.event, str(data), events)
        if isinstance(data, StrayLine):
            self._add_stray(str(data))
            return False
        if not data.startswith("{"):
            said = data.strip()
            if said in ("", "[DONE]"):  # "" is sent to keep the connection alive
                return bool(said)
        chunk = _parse(data)
        if self._plain and self._source is _FIRST_TEXT and is_plain(chunk):
            self._pieces.append(chunk["choices"][0]["delta"]["content"])
            self.chunks.append(data)
        else:
            self.add(chunk, data, events)
        return False

    def _add_named(self, name: str, data: str, events: list[Event]) -> bool:
        """Take in the data of an event with a name: it may be an error, or may not be ours."""
        try:
            chunk = _parse(data)
        except ProtocolError:
            if data.strip() == "[DONE]" and name != "error":
                return True
            chunk = data.strip()
        if name == "error" and chunk != "":
            raise error_in(chunk, self._head)
        if isinstance(chunk, dict):
            if _FAILURE.search(name) or not _OURS.isdisjoint(chunk) or chunk.get("type") == "error":
                self.add(chunk, data, events)
            return False
        error = error_within(chunk, self._head)
        if error is not None:
            raise error
        if chunk and len(self._skipped) < _SHOWN:
            self._skipped.append(data[:MAX_MESSAGE])
        return False

    def _add_stray(self, line: str) -> None:
        """Look for an error that was sent as bare JSON, without the frame of an event."""
        error = error_within(self._bare.add(line), self._head)
        if error is not None:
            raise error

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
            error = error_within(chunk, self._head)
            if error is not None:
                raise error
        if not isinstance(chunk, dict):
            raise ProtocolError(f"not a chat completion chunk: {excerpt(data)}")
        if len(data) > _MOST_ITEMS:
            _check_items(chunk)
        self._read(chunk, events)
        self.chunks.append(data)
        if self._idle_templates < _MAX_IDLE_TEMPLATES:
            self._learn(chunk, data)
        else:
            self._template = NO_TEMPLATE
            first = self._choices.get(0)
            known = bool(self._started.id and self._started.model) and not self._empty
            self._plain = known and first is not None and first.message.has_text

    def _read(self, chunk: dict[str, Any], events: list[Event]) -> None:
        choices = chunk.get("choices") or []
        if not isinstance(choices, list):
            refuse("choices", choices, "a list")
        if not (self._started.id and self._started.model):
            self._start(chunk, events)
        for position, choice in enumerate(choices):
            self._read_choice(choice, f"choices[{position}]", chunk, events)
        groq = chunk.get("x_groq")
        self._spent(chunk.get("usage") or (groq.get("usage") if isinstance(groq, dict) else None), events)

    def _start(self, chunk: Mapping[str, Any], events: list[Event]) -> None:
        old = self._started
        self._started = Started(
            old.id or read_name(chunk.get("id")),
            old.model or read_name(chunk.get("model")),
            old.created or read_count(chunk.get("created")),
        )
        news = (old.id, old.model) != (self._started.id, self._started.model)
        if news or (not self._begun and chunk.get("choices")):
            self._begun = True
            self.flush(events)
            events.append(self._started)

    def _read_choice(self, choice: Any, where: str, chunk: dict[str, Any], events: list[Event]) -> None:
        if choice is None:
            return
        if not isinstance(choice, dict):
            refuse(where, choice, "an object")
        index = index_of(choice) or 0
        state = self._choices.get(index)
        if state is None:
            if len(self._choices) == _MOST_CHOICES:
                raise ProtocolError(f"the answer has more than {_MOST_CHOICES} choices")
            state = self._choices[index] = _ChoiceState()
            self._open += 1
        # "message" is where the answer that is not streamed has its text; in a stream it may repeat all of it.
        for field in ("delta", "message"):
            body = choice.get(field)
            if body:
                if not isinstance(body, dict):
                    refuse(f"{where}.{field}", body, "an object")
                self._tell()
                body = state.message.news(body, whole=field == "message", last=bool(choice.get("finish_reason")))
                self._read_message(body, index, f"{where}.{field}", events)
        if choice.get("error"):
            raise error_in(chunk, self._head)
        extra = {name: choice[name] for name in choice if name not in _CHOICE_FIELDS}
        if isinstance(extra.get("text"), str) and "delta" not in choice and "message" not in choice:
            self._piece(TextDelta, extra.pop("text"), index, events)  # as completions that are no chats have it
        self._extra(extra, index, events)
        reason = choice.get("finish_reason")
        if reason:
            self._open -= not state.finished
            state.finished = True
            self.flush(events)
            events.append(Finished(reason if isinstance(reason, str) else json.dumps(reason), index))
        self._spent(choice.get("usage"), events)

    def _read_message(self, body: dict[str, Any], index: int, where: str, events: list[Event]) -> None:
        extra = {name: value for name, value in body.items() if name not in _MESSAGE_FIELDS}
        thoughts: list[str] = []  # some servers send what was thought under two names at once
        for name in _THOUGHTS:
            thought = text_of(body.get(name))
            if thought is None:
                extra[name] = body[name]
            elif thought not in thoughts:
                thoughts.append(thought)
                self._piece(ReasoningDelta, thought, index, events)
        content = body.get("content")
        if isinstance(content, str):
            self._piece(TextDelta, content, index, events)
        elif content:
            self._read_parts(content, index, events)
        refusal = text_of(body.get("refusal"))
        if refusal is None:
            extra["refusal"] = body["refusal"]
        else:
            self._piece(RefusalDelta, refusal, index, events)
        self._call_tools(body, index, where, events)
        self._extra(extra, index, events)
        self._spent(body.get("usage"), events)

    def _read_parts(self, content: Any, index: int, events: list[Event]) -> None:
        """Read content that is no text, but has parts: text, thoughts, and what is neither."""
        for part in content if isinstance(content, list) else [content]:
            kind, text = _kind_of(part), text_of(part)
            if kind is None or text is None:
                self._extra({"content": [part] if isinstance(content, list) else part}, index, events)
            else:
                self._piece(kind, text, index, events)

    def _call_tools(self, body: dict[str, Any], index: int, where: str, events: list[Event]) -> None:
        """Make events of tool calls that `MessageSoFar` has told apart."""
        calls = body.get("tool_calls") or []
        if not isinstance(calls, list):
            refuse(f"{where}.tool_calls", calls, "a list")
        for position, call in enumerate(calls):
            here = f"{where}.tool_calls[{position}]"
            if not isinstance(call, dict):
                refuse(here, call, "an object")
            for name in ("function", "custom"):
                if call.get(name) and not isinstance(call[name], dict):
                    refuse(f"{here}.{name}", call[name], "an object")
            self._call_tool(call["index"], call, index, events)
        function = body.get("function_call")
        if function and not isinstance(function, dict):
            refuse(f"{where}.function_call", function, "an object")
        if function and not self._choices[index].message.calls.count:  # else it is one of those
            self._call_tool(0, {"function": function}, index, events)

    def _call_tool(self, place: int, call: dict[str, Any], index: int, events: list[Event]) -> None:
        self._empty = False
        self.flush(events)
        kind, tool = tool_of(call)
        extra = {name: call[name] for name in call if name not in _CALL_FIELDS and not is_empty(call[name])}
        id_, name = text_or_none(call.get("id")), text_or_none(tool.get("name"))
        events.append(ToolCallDelta(place, id_, name, arguments_text(tool), kind, index, extra))

    def _piece(self, kind: _PieceKind, text: str, index: int, events: list[Event]) -> None:
        if not text:
            return
        self._empty = False
        if (kind, index) != self._source:
            self.flush(events)
            self._forget()
            self._source = (kind, index) if index or kind is not TextDelta else _FIRST_TEXT
            self._template = NO_TEMPLATE
        self._pieces.append(text)
        self._told = len(self._pieces)

    def _tell(self) -> None:
        """Let the message know the pieces that were read the short way."""
        if len(self._pieces) > self._told:
            kind, index = self._source
            self._choices[index].message.tell(_FIELDS[kind], *self._pieces[self._told :])
            self._told = len(self._pieces)

    def _forget(self) -> None:
        """Let go of the pieces, all of which have become events."""
        self._tell()
        self._pieces.clear()
        self._given = self._told = 0

    def _extra(self, fields: dict[str, Any], index: int, events: list[Event]) -> None:
        """Give out what has no event of its own, if there is anything."""
        fields = {name: value for name, value in fields.items() if not is_empty(value)}
        if fields:
            self._empty = False
            self.flush(events)
            events.append(Extra(fields, index))

    def _spent(self, counts: Any, events: list[Event]) -> None:
        usage = read_usage(counts) if isinstance(counts, dict) else None
        if usage:
            self.flush(events)
            events.append(usage)

    def _learn(self, chunk: dict[str, Any], data: str) -> None:
        """Make a template of a chunk that has been read, if it holds nothing but a piece of text."""
        found = template(chunk, data) if len(data) <= _LONGEST_TEMPLATE else None
        if found is not None:
            self._idle_templates = 0 if self._used else self._idle_templates + 1
            self._used = False
            self._template = found


class _ChoiceState:
    """What has to be known of a choice while it comes."""

    def __init__(self) -> None:
        self.finished = False
        self.message = MessageSoFar()


def _parse(data: str) -> Any:
    """Read a chunk's JSON.

    Raises:
        ProtocolError: it is none, or beyond the limits of JSON that is read at once.
    """
    try:
        return loads(data)
    except json.JSONDecodeError as exc:
        raise ProtocolError(f"not a chat completion chunk: {excerpt_around(data, exc)}") from exc


def _kind_of(part: Any) -> _PieceKind | None:
    """What a part of content is, by its type, or by the field that it has; None for what is not said in words."""
    if not isinstance(part, dict):
        return TextDelta
    name = part.get("type") or next((name for name in _PARTS if name in part), "text")
    return _PARTS.get(name) if isinstance(name, str) else None


def _check_items(chunk: dict[str, Any]) -> None:
    """See to it that going through the lists of a chunk does not hold up an event loop.

    Raises:
        ProtocolError: they have too many items.
    """
    count = 0
    pending: list[Any] = [chunk.get("choices")]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            count += len(value)
            if count > _MOST_ITEMS:
                raise ProtocolError(f"not a chat completion chunk: its lists have more than {_MOST_ITEMS} items")
            pending += value
        elif isinstance(value, dict):
            pending += [value[name] for name in _GONE_THROUGH if name in value]


_OURS = frozenset(("choices", "usage", "error", "errors"))  # by which a chunk or an error is known under any name
_FAILURE = re.compile("err|fail|exception", re.IGNORECASE)  # in the name of an event whose message is an error's
_PARTS: dict[str, _PieceKind] = {
    "text": TextDelta,
    "output_text": TextDelta,
    "thinking": ReasoningDelta,
    "reasoning": ReasoningDelta,
    "reasoning_text": ReasoningDelta,
    "summary_text": ReasoningDelta,
    "refusal": RefusalDelta,
}
_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details")
_MESSAGE_FIELDS = frozenset(
    ("role", "content", "reasoning_content", "reasoning", "refusal", "tool_calls", "function_call", "usage")
)
_GONE_THROUGH = ("delta", "message", "tool_calls", *_THOUGHTS, *TEXT_FIELDS)
_CHOICE_FIELDS = frozenset(("index", "delta", "message", "finish_reason", "usage"))
_FIELDS: dict[_PieceKind, str] = {TextDelta: "content", ReasoningDelta: "reasoning", RefusalDelta: "refusal"}
_CALL_FIELDS = frozenset(("index", "id", "type", "function", "custom"))
