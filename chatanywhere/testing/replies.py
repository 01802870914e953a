"""What the server says in answer to a chat, and how OpenAI's protocol writes it: in chunks, or as one object."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias

from .faults import Fault

_CJK = r"\u2e80-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
_WORD = re.compile(rf"\s*(?:[{_CJK}]|[^\s{_CJK}]+)|\s+")
_FRAGMENT = re.compile(r"\w+|\W+")


def words(text: str) -> list[str]:
    """Return the words of a text, each with the blanks before it; a Chinese or Japanese character is one."""
    return _WORD.findall(text)


@dataclass(frozen=True)
class Reply:
    """What the server says in answer to one chat, streamed or not, as it was asked.

    Reasoning comes first, then the text, the refusal, the tool calls. The web protocol has the text only.

    Args:
        text: the answer, to be streamed word by word.
        pieces: the answer as the very pieces to be streamed, in place of `text`.
        reasoning: what the model thought, told as `reasoning_content` word by word.
        refusal: why the model will not answer.
        tool_calls: functions to be called: OpenAI's dicts, which are sent with all that they hold, or pairs of a
            name and its arguments, a JSON text or what can be written as one. Arguments are streamed in fragments.
        finish_reason: None: `"tool_calls"` if there are any, else `"stop"`. `""` sends none.
        usage: what is told as the token counts; None: words are counted.
        chunks: `chat.completion.chunk` objects, sent as they are in place of all else; where no stream was asked
            for, they are put together into one object.
        choices: what the further choices say, for requests with `n`; the reply itself is the first.

    Raises:
        TypeError: an argument is not of its type.
        ValueError: the answer is given twice, as `text` and `pieces`, or as `chunks` and anything else; or one of
            the `choices` has `usage`, `chunks` or choices of its own.
    """

    text: str = ""
    _: KW_ONLY
    pieces: Sequence[str] | None = None
    reasoning: str = ""
    refusal: str = ""
    tool_calls: Sequence[Mapping[str, Any] | tuple[str, Any]] = ()
    finish_reason: str | None = None
    usage: Mapping[str, Any] | None = None
    chunks: Sequence[Mapping[str, Any]] | None = None
    choices: Sequence[Reply] = ()

    def __post_init__(self) -> None:
        for name in ("text", "reasoning", "refusal"):
            if not isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a str, not {type(getattr(self, name)).__name__}")
        if self.finish_reason is not None and not isinstance(self.finish_reason, str):
            raise TypeError(f"finish_reason must be a str or None, not {type(self.finish_reason).__name__}")
        if self.usage is not None and not isinstance(self.usage, Mapping):
            raise TypeError(f"usage must be a dict or None, not {type(self.usage).__name__}")
        if self.pieces is not None and not _are_all(str, self.pieces):
            raise TypeError(f"pieces must be a sequence of str, not {self.pieces!r:.80}")
        if self.text and self.pieces is not None:
            raise ValueError("the answer is given as text= or as pieces=, not both")
        if self.chunks is not None and not _are_all(Mapping, self.chunks):
            raise TypeError(f"chunks must be a sequence of dicts, not {self.chunks!r:.80}")
        if not isinstance(self.tool_calls, Sequence) or not all(map(_is_tool_call, self.tool_calls)):
            raise TypeError(
                f"tool_calls must be a sequence of OpenAI's dicts or of (name, arguments), not {self.tool_calls!r:.80}"
            )
        _check_json("tool_calls", [dict(call) if isinstance(call, Mapping) else call for call in self.tool_calls])
        _check_json("usage", self.usage)
        _check_json("chunks", self.chunks)
        if not _are_all(Reply, self.choices):
            raise TypeError(f"choices must be a sequence of further Replys, not {self.choices!r:.80}")
        if self.chunks is not None and (self._says_anything or self.usage is not None or self.choices):
            raise ValueError("chunks= is all that is sent: nothing else can be given with it")
        if any(choice.choices or choice.usage is not None or choice.chunks is not None for choice in self.choices):
            raise ValueError("usage=, chunks= and choices= belong to the reply, not to one of its choices")

    @property
    def _says_anything(self) -> bool:
        """Whether the first choice was given anything to say, but for chunks."""
        given = (self.text, self.reasoning, self.refusal, self.tool_calls)
        return any(given) or self.pieces is not None or self.finish_reason is not None

    @property
    def text_pieces(self) -> list[str]:
        """The answer in the pieces in which it is streamed; of `chunks`, what they have of it."""
        if self.chunks is not None:
            choices = folded(self.chunks).get("choices", ())
            return [text for choice in choices[:1] if isinstance(text := choice["message"].get("content"), str)]
        return words(self.text) if self.pieces is None else list(self.pieces)

    @property
    def written(self) -> list[str]:
        """All that the model wrote, in any of the choices."""
        own = [self.reasoning, "".join(self.text_pieces), self.refusal]
        return own + [text for choice in self.choices for text in choice.written]

    @property
    def reason(self) -> str | None:
        """Why the first choice finished."""
        if self.finish_reason is None:
            return "tool_calls" if self.tool_calls else "stop"
        return self.finish_reason or None

    def deltas(self) -> Iterator[dict[str, Any]]:
        """Yield what the first choice says, as a stream has it."""
        yield from ({"reasoning_content": word} for word in words(self.reasoning))
        yield from ({"content": piece} for piece in self.text_pieces)
        yield from ({"refusal": word} for word in words(self.refusal))
        for index, call in enumerate(self.tool_calls):
            yield from ({"tool_calls": [fragment]} for fragment in _fragments(index, _as_dict(call)))

    def message(self) -> dict[str, Any]:
        """Return what the first choice says, as the object has it that is not streamed."""
        text = "".join(self.text_pieces)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if not text and (self.refusal or self.tool_calls):
            message["content"] = None
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.refusal:
            message["refusal"] = self.refusal
        if self.tool_calls:
            message["tool_calls"] = [_as_dict(call) for call in self.tool_calls]
        return message


ReplyLike: TypeAlias = Reply | str | Sequence[str] | Mapping[str, Any] | Fault
"""What can be answered to a chat: a `Reply`; a str, which is its text; a sequence of str, which are its pieces; a dict,
which is sent as a JSON object, also where a stream was asked for; or a `Fault`, which strikes the small talker's reply.
"""


def _are_all(kind: type, values: object) -> bool:
    return (
        isinstance(values, Sequence) and not isinstance(values, str) and all(isinstance(each, kind) for each in values)
    )


def _check_json(name: str, value: object) -> None:
    """Raise TypeError or ValueError for what can't be written as JSON."""
    try:
        json.dumps(value)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name} must be what JSON can write: {error}") from error


def _is_tool_call(call: object) -> bool:
    return isinstance(call, Mapping) or (isinstance(call, tuple) and len(call) == 2 and isinstance(call[0], str))


def _as_dict(call: Mapping[str, Any] | tuple[str, Any]) -> dict[str, Any]:
    """Return a tool call as OpenAI has it."""
    if isinstance(call, Mapping):
        return dict(call)
    name, arguments = call
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    function = {"name": name, "arguments": arguments}
    return {"id": f"call_{secrets.token_hex(12)}", "type": "function", "function": function}


def _fragments(index: int, call: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a tool call as a stream has it: all but the arguments, then these bit by bit."""
    function = call.get("function")
    arguments = function.get("arguments") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(arguments, str):
        yield {"index": index, **call}
        return
    yield {"index": index, **call, "function": {**function, "arguments": ""}}
    for fragment in _FRAGMENT.findall(arguments):
        yield {"index": index, "function": {"arguments": fragment}}


_TOLD_WHOLE = frozenset(
    ("id", "object", "created", "model", "system_fingerprint", "service_tier", "role", "type", "name", "finish_reason")
)
"""Fields that no chunk has in part; a str of any other name goes on where the chunk before left off."""


def folded(chunks: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Put chunks together into the object that is not streamed."""
    whole: dict[str, Any] = {}
    for chunk in chunks:
        whole = _added(whole, chunk)
    for choice in whole.get("choices", ()):
        choice["message"] = choice.pop("delta", {})
        for call in choice["message"].get("tool_calls") or ():
            call.pop("index", None)
    return {**whole, "object": "chat.completion"}


def _added(known: Any, more: Any, name: str = "") -> Any:
    """Return what is known of the field `name` with what a chunk adds to it."""
    if isinstance(more, Mapping):
        known = known if isinstance(known, Mapping) else {}
        return {**known, **{key: _added(known.get(key), value, key) for key, value in more.items()}}
    if isinstance(more, list):
        items = list(known or ())
        for item in more:
            place = next((place for place, each in enumerate(items) if _are_same(each, item)), None)
            if place is None:
                items.append(_added(None, item))
            else:
                items[place] = _added(items[place], item)
        return items
    if more is None or (known and name in _TOLD_WHOLE):
        return known
    return known + more if isinstance(known, str) and isinstance(more, str) else more


def _are_same(item: Any, other: Any) -> bool:
    """Whether two items of a list are parts of one, which their index says."""
    return (
        all(isinstance(each, Mapping) and "index" in each for each in (item, other)) and item["index"] == other["index"]
    )
