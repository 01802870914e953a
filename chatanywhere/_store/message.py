"""Messages and conversations as they are stored, and messages as rows. Files in them are kept by their hashes."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([A-Za-z0-9+/=]+)")
_ATTACHMENT = "attachment:"

_PLAIN = (
    *("id", "parent", "reasoning", "status", "error", "finish_reason", "model", "host"),
    *("prompt_tokens", "completion_tokens", "created"),
)
"""Columns that are fields of a message as they are."""


@dataclass(frozen=True)
class StoredMessage:
    """A message as it is stored.

    Attributes:
        message: as it is sent: `role`, `content`, and what else it has.
        text: what it says; of parts, those that are text.
        status: `"complete"`, `"streaming"` (it is being written, or who did so was killed), `"cut"`, or `"failed"` for
            an answer of which nothing has come.
        parameters: what the answer was asked for with.
    """

    id: int
    parent: int | None
    message: dict[str, Any]
    text: str
    reasoning: str
    status: str
    error: str | None
    finish_reason: str | None
    model: str | None
    host: str | None
    parameters: dict[str, Any]
    prompt_tokens: int | None
    completion_tokens: int | None
    seconds: float | None
    created: float

    @property
    def role(self) -> str:
        """`"user"`, `"assistant"`, `"system"` or `"tool"`."""
        return str(self.message["role"])


@dataclass(frozen=True)
class StoredConversation:
    """A conversation as it is stored; times are in seconds since 1970.

    Attributes:
        model: that has answered last.
        head: the last message of the last complete turn, None if there is none.
        last: the last message at all.
        messages: how many lead to the last one.
    """

    id: str
    title: str
    model: str | None
    head: int | None
    last: int | None
    created: float
    updated: float
    messages: int


def insert(rows: sqlite3.Connection, message: Mapping[str, Any], columns: Mapping[str, Any]) -> int:
    """Add a message to the table, and return its id.

    Args:
        rows: the database.
        message: as it is sent.
        columns: what the table has of it besides.
    """
    content = message.get("content")
    text = text_of(content)
    calls = message.get("tool_calls")
    fields = {name: value for name, value in message.items() if name not in ("role", "content")}
    if calls:
        del fields["tool_calls"]
    attachments: dict[str, tuple[str, bytes]] = {}
    if content != text:
        fields["content"] = _detached(content, attachments)
    values = {"role": message["role"], "content": text, "fields": as_json(fields), "tool_calls": as_json(calls)}
    values |= columns
    names, places = ", ".join(values), ", ".join("?" * len(values))
    row = rows.execute(
        f"INSERT INTO messages ({names}) VALUES ({places})",  # noqa: S608  the names are our own
        [storable(value) for value in values.values()],
    )
    assert row.lastrowid is not None
    for digest, (kind, data) in attachments.items():
        rows.execute("INSERT OR IGNORE INTO attachments VALUES (?, ?, ?)", (digest, kind, data))
        rows.execute("INSERT OR IGNORE INTO attached VALUES (?, ?)", (row.lastrowid, digest))
    return row.lastrowid


def read(rows: sqlite3.Connection, row: sqlite3.Row) -> StoredMessage:
    """Return the message that a row of the table has."""
    fields = json.loads(row["fields"] or "{}")
    message = {"role": row["role"], "content": row["content"], **fields}
    if "content" in fields:
        message["content"] = _attached(rows, fields["content"])
    if row["tool_calls"]:
        message["tool_calls"] = json.loads(row["tool_calls"])
    return StoredMessage(
        message=message,
        text=row["content"],
        parameters=json.loads(row["parameters"] or "{}"),
        seconds=None if row["milliseconds"] is None else row["milliseconds"] / 1000,
        **{name: row[name] for name in _PLAIN},
    )


def text_of(content: Any) -> str:
    """Return what the content of a message says: a text, or those of its parts that are text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "\n\n".join(text for text in texts if isinstance(text, str))


def as_json(value: Any) -> str | None:
    """A value as a column has it, None for nothing; what has no JSON becomes a text."""
    return json.dumps(value, ensure_ascii=False, default=str) if value else None


def storable(value: Any) -> Any:
    """A value that SQLite can have: its texts are UTF-8, which has no half characters."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _detached(value: Any, attachments: dict[str, tuple[str, bytes]]) -> Any:
    """A content with references in the places of files, which are put among the attachments by their hashes."""
    if isinstance(value, (list, tuple)):
        return [_detached(each, attachments) for each in value]
    if isinstance(value, Mapping):
        return {name: _detached(each, attachments) for name, each in value.items()}
    match = _DATA_URL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        return value
    try:
        data = base64.b64decode(match[2], validate=True)
    except ValueError:
        return value
    if base64.b64encode(data).decode() != match[2]:
        return value
    digest = hashlib.sha256(match[1].encode() + b"\n" + data).hexdigest()  # the same bytes may have two types
    attachments[digest] = match[1], data
    return f"{_ATTACHMENT}{digest}"


def _attached(rows: sqlite3.Connection, value: Any) -> Any:
    """A content with its attachments in their places."""
    if isinstance(value, list):
        return [_attached(rows, each) for each in value]
    if isinstance(value, dict):
        return {name: _attached(rows, each) for name, each in value.items()}
    if isinstance(value, str) and value.startswith(_ATTACHMENT):
        digest = value.removeprefix(_ATTACHMENT)
        row = rows.execute("SELECT * FROM attachments WHERE hash = ?", (digest,)).fetchone()
        if row is not None:
            return f"data:{row['type']};base64,{base64.b64encode(row['content']).decode()}"
    return value
