r"""Conversations as files: Markdown that reads well and reads back, or JSON.

In Markdown each message stands under a heading with its role. What is no text is a block of JSON below that. A line of
a text that looks like one of these marks gets a backslash in front, and so does one that has backslashes already:

    ---
    chatanywhere: 1
    model: "gpt-4o-mini"
    ---

    ## User

    How is a heading written?

    ## Assistant

    \## User
"""

from __future__ import annotations

import json
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeAlias

Record: TypeAlias = dict[str, Any]
"""What is known of a conversation, as JSON: its `messages`, its settings, and a turn that is `unfinished`."""

MAX_FILE = 256 * 1024 * 1024
"""Bytes that a file may have."""

_VERSION = 1
_TITLES = {role: role.capitalize() for role in ("system", "developer", "user", "assistant", "tool", "function")}
_ROLES = {title: role for role, title in _TITLES.items()}
_MARK = re.compile(
    rf"^(?P<escaped>\\*)(?:(?P<unfinished># Unfinished)|## (?P<title>{'|'.join(_ROLES)}|Message)"
    r"|### (?P<part>Text|Picture|Part)|```json (?P<block>fields|message))[ \t]*$",
    re.MULTILINE,
)
_PICTURE = re.compile(r"!\[\]\(([^\s()<>\\]+)\)")
_BLOCK = re.compile(r"\s*```json[^\n]*\n(.*?)\n```(?:\n\n|\n|$)", re.DOTALL)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")  # of which UTF-8 has none


def write(path: str | os.PathLike[str], record: Record) -> None:
    """Write a conversation to a file in the format that its ending says, whole or not at all.

    Raises:
        ValueError: the ending is none of the formats'.
        OSError: it can't be written; what was there is as before.
    """
    content = _format(path)[0](record).encode("utf-8", "backslashreplace")  # in JSON, an escape
    path = os.path.realpath(path)
    number, temporary = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=os.path.dirname(path))  # its mode is 0600
    try:
        with open(number, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(temporary, stat.S_IMODE(os.stat(path).st_mode))
        os.replace(temporary, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def read(path: str | os.PathLike[str]) -> Record:
    """Read a conversation from a file that `write` has made.

    Raises:
        ValueError: the file is another one, or damaged.
        OSError: it can't be read.
    """
    reader = _format(path)[1]
    with open(path, "rb") as file:
        content = file.read(MAX_FILE + 1)
    try:
        if len(content) > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE} bytes")
        return _checked(reader(content.decode("utf-8-sig")))
    except (RecursionError, ValueError) as exc:
        raise ValueError(f"{os.fspath(path)} is no conversation that save() has written: {exc}") from exc


def _format(path: str | os.PathLike[str]) -> tuple[Callable[[Record], str], Callable[[str], Record]]:
    ending = os.path.splitext(os.fspath(path))[1].lower()
    if ending not in _FORMATS:
        raise ValueError(f"{os.fspath(path)}: the ending says the format: {', '.join(_FORMATS)}")
    return _FORMATS[ending]


def _checked(record: Any) -> Record:
    """Return a record as it was read.

    Raises:
        ValueError: it has not the shape of one.
    """
    _check_messages(record.get("messages"))
    if "unfinished" in record:
        unfinished = record["unfinished"]
        if not isinstance(unfinished, dict) or not isinstance(unfinished.get("text"), str):
            raise ValueError("the unfinished turn has no text")
        _check_messages(unfinished.get("messages"))
        if not unfinished["messages"]:
            raise ValueError("the unfinished turn has no question")
    model = record.get("model", "")
    names = model if isinstance(model, list) and model else [model]
    if not all(isinstance(name, str) for name in names) or (isinstance(model, list) and "" in model):
        raise ValueError("the model is no name")
    for name, kind in {"options": dict, "finish_reason": str, "replaces": int}.items():
        if name in record and not isinstance(record[name], kind):
            raise ValueError(f"{name} is not what it should be")
    return dict(record)


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list):
        raise ValueError("it has no messages")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValueError("a message has no role")


# JSON -------------------------------------------------------------------------------------------------------


def to_json(record: Record) -> str:
    """Return a conversation as JSON."""
    return _written({"chatanywhere": _VERSION, **record}) + "\n"


def from_json(text: str) -> Record:
    """Read what `to_json` has written.

    Raises:
        ValueError: this is something else.
    """
    record = _loaded(text)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    _check_version(record.pop("chatanywhere", None))
    return record


def _written(value: Any, *, indent: int | None = 2) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)


def _loaded(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


def _check_version(version: Any) -> None:
    if version is None:
        raise ValueError("it does not say chatanywhere's version")
    if version != _VERSION:
        raise ValueError(f"it is of version {version!r:.20}, and this is {_VERSION}: install a newer chatanywhere")


# Markdown ---------------------------------------------------------------------------------------------------


def to_markdown(record: Record) -> str:
    """Return a conversation as Markdown."""
    settings = {name: value for name, value in record.items() if name not in ("messages", "unfinished")}
    lines = [
        f"{name}: {_written(value, indent=None)}" for name, value in {"chatanywhere": _VERSION, **settings}.items()
    ]
    sections = ["\n".join(["---", *lines, "---"]), *map(_section, record["messages"])]
    unfinished = record.get("unfinished")
    if unfinished:
        sections += ["# Unfinished", *map(_section, unfinished["messages"])]
        sections.append(_section({"role": "assistant", "content": unfinished["text"]}))
    return "\n\n".join(sections) + "\n"


def from_markdown(text: str) -> Record:
    """Read what `to_markdown` has written.

    Raises:
        ValueError: this is something else.
    """
    if text.startswith("---\r\n"):  # somebody's editor has changed all line ends
        text = text.replace("\r\n", "\n")
    front, end, text = text.removeprefix("---\n").partition("\n---\n")
    if not end:
        raise ValueError("it does not begin with '---' and the settings")
    pairs = (line.partition(":") for line in front.split("\n") if line.strip())
    record: Record = {name: _loaded(value) for name, _, value in pairs}
    _check_version(record.pop("chatanywhere", None))
    messages: list[dict[str, Any]] = []
    record["messages"] = messages
    for mark, body in _pieces(f"{text}\n", "unfinished", "title"):  # as if another heading followed
        if mark is None:
            if body.strip():
                raise ValueError(f"a heading with a role must stand before {body.strip()[:40]!r}")
        elif mark["title"]:
            messages.append(_message(mark["title"], body))
        else:
            messages = []
            record["unfinished"] = {"messages": messages}
    if "unfinished" in record:
        partial = messages.pop() if messages else {}
        record["unfinished"]["text"] = partial.get("content")
    return record


def _section(message: Mapping[str, Any]) -> str:
    """A message under its heading."""
    fields = dict(message)
    title = _TITLES.get(fields["role"], "Message")
    if title != "Message":
        del fields["role"]
    content = fields.get("content")
    pieces = [f"## {title}"]
    if isinstance(content, str) and not _HALF_CHARACTER.search(content):
        body = [_escaped(content)]
    elif content and isinstance(content, list) and all(isinstance(part, dict) for part in content):
        body = [_part(part) for part in content]
    else:
        return "\n\n".join([*pieces, _block("json message", fields)])
    del fields["content"]
    if fields:
        pieces.append(_block("json fields", fields))
    return "\n\n".join([*pieces, *body])


def _part(part: Mapping[str, Any]) -> str:
    match part:
        case {"type": "text", "text": str(text)} if len(part) == 2 and not _HALF_CHARACTER.search(text):
            return f"### Text\n\n{_escaped(text)}"
        case {"type": "image_url", "image_url": {"url": str(url), **rest}} if len(part) == 2 and not rest:
            picture = f"![]({url})"
            if _PICTURE.fullmatch(picture) and not _HALF_CHARACTER.search(url):
                return f"### Picture\n\n{picture}"
    return f"### Part\n\n{_block('json', part)}"


def _block(info: str, value: Any) -> str:
    return f"```{info}\n{_written(value)}\n```"


def _escaped(text: str) -> str:
    return _MARK.sub(r"\\\g<0>", text)


def _unescaped(text: str) -> str:
    return _MARK.sub(lambda mark: mark[0].removeprefix("\\"), text)


def _pieces(text: str, *kinds: str) -> Iterator[tuple[re.Match[str] | None, str]]:
    """Yield what is before the first mark of these kinds, and then each mark with what is behind it."""
    mark: re.Match[str] | None = None
    place = 0
    for found in _MARK.finditer(text):
        if not found["escaped"] and any(found[kind] for kind in kinds):
            yield mark, text[place : found.start()]
            mark, place = found, found.end()
    yield mark, text[place:]


def _message(title: str, body: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": _ROLES[title]} if title in _ROLES else {}
    _, *blocks = _pieces(body, "block", "part")
    mark = blocks[0][0] if blocks else None
    if mark and mark["block"]:
        if body[: mark.start()].strip():
            raise ValueError(f"there is text before the JSON of a message: {body.strip()[:40]!r}")
        body = body[mark.start() :]
        fields, body = _read_block(body)
        if not isinstance(fields, dict):
            raise ValueError("a message is no JSON object")
        message |= fields
        if mark["block"] == "message":
            if body.strip():
                raise ValueError(f"there is text behind the JSON of a message: {body.strip()[:40]!r}")
            return message
        body = f"\n\n{body}"
    before, *parts = _pieces(body, "part")
    if not parts:
        message["content"] = _text(body)
        return message
    if before[1].strip():
        raise ValueError(f"there is text before the parts of a message: {before[1].strip()[:40]!r}")
    message["content"] = [_read_part(each["part"], content) for each, content in parts if each]
    return message


def _read_part(kind: str, body: str) -> dict[str, Any]:
    if kind == "Text":
        return {"type": "text", "text": _text(body)}
    if kind == "Part":
        part, _ = _read_block(body)
        if isinstance(part, dict):
            return part
    elif picture := _PICTURE.fullmatch(body.strip()):
        return {"type": "image_url", "image_url": {"url": picture[1]}}
    raise ValueError(f"this is no part of a message: {body.strip()[:40]!r}")


def _read_block(text: str) -> tuple[Any, str]:
    """Return the value of a block of JSON, and what is behind it."""
    found = _BLOCK.match(text)
    if not found:
        raise ValueError(f"this is no block of JSON: {text.strip()[:40]!r}")
    return _loaded(found[1]), text[found.end() :]


def _text(body: str) -> str:
    """The text between two marks: without the blank line behind the first, and that before the second."""
    body = body.removeprefix("\n").removeprefix("\n")
    return _unescaped(body.removesuffix("\n").removesuffix("\n") if body.endswith("\n\n") else body.removesuffix("\n"))


_FORMATS = {
    ".md": (to_markdown, from_markdown),
    ".markdown": (to_markdown, from_markdown),
    ".json": (to_json, from_json),
}
"""By the endings of files."""
