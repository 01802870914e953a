"""Conversations on disk, in SQLite: for the command and the notebook. Knows no client.

The messages of a conversation are a tree. A conversation has two places in it: its `head`, the last answer that is
complete, behind which the next question goes; and its `last` message, which is another one where the last question has
no complete answer. So nothing is ever overwritten by going on, and what was cut is not sent again.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .answer import AnswerInStore
from .database import Database, StoreError, folded, history_path
from .message import StoredConversation, StoredMessage, as_json, insert, read, storable, text_of

__all__ = ["AnswerInStore", "Store", "StoreError", "StoredConversation", "StoredMessage", "history_path", "text_of"]

_TITLE = 80  # characters

# UNION, and not UNION ALL, ends where a damaged database leads in a circle.
_PATH = """
    WITH RECURSIVE path (id, parent) AS (
        SELECT id, parent FROM messages WHERE id = ?
        UNION SELECT messages.id, messages.parent FROM messages JOIN path ON messages.id = path.parent
    )
"""


class Store:
    """Conversations in a database, which is made if it is not there.

    Threads may share it. Processes may share the database: one that writes is waited for.

    Args:
        path: of the file; None for a database in memory, which is gone with the process.
        writing: False to read only, which can be done where nothing can be written.

    Raises:
        StoreError: it can't be opened; or a later version of this package, or another program, has made it. The
            methods raise it as well, where nothing else is said.
    """

    def __init__(self, path: Path | None = None, *, writing: bool = True) -> None:
        self._database = Database(path, writing=writing)

    @property
    def path(self) -> Path | None:
        """The path of the file, None for a database in memory."""
        return self._database.path

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Writing ------------------------------------------------------------------------------------------------

    def begin(self, title: str) -> str:
        """Make a conversation that has no messages, and return its id.

        Args:
            title: of whose text the first line that says something is taken.
        """
        new = os.urandom(8).hex()
        lines = [" ".join(line.split()) for line in title.splitlines()]
        title = storable(next(filter(None, lines), "")[:_TITLE])
        now = time.time()
        with self._database.writing() as rows:
            rows.execute("INSERT INTO conversations VALUES (?, ?, NULL, NULL, ?, ?)", (new, title, now, now))
        return new

    def add(self, conversation: str, messages: Sequence[Mapping[str, Any]], *, after: int | None) -> int | None:
        """Add messages that are complete, one behind the other, and return the id of the last.

        They are what the conversation leads to, once a complete answer follows them; see `answer`.

        Args:
            conversation: its id.
            messages: as they are sent.
            after: the id of the message that they follow, None for none.
        """
        with self._database.writing() as rows:
            for message in messages:
                columns = {"conversation": conversation, "parent": after, "created": time.time()}
                after = insert(rows, message, columns)
            _lead(rows, conversation, last=after)
        return after

    def answer(
        self,
        conversation: str,
        *,
        after: int | None,
        model: str | None = None,
        host: str | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> AnswerInStore:
        """Begin an answer, whose status is `streaming` until it is finished.

        Args:
            conversation: its id.
            after: the id of the question.
            model: that is asked.
            host: likewise.
            parameters: likewise, by name; what JSON can't have is written as text.
        """
        columns = {
            "conversation": conversation,
            "parent": after,
            "status": "streaming",
            "model": model,
            "host": host,
            "parameters": as_json(parameters),
            "created": time.time(),
        }
        with self._database.writing() as rows:
            new = insert(rows, {"role": "assistant", "content": ""}, columns)
            _lead(rows, conversation, last=new)
        return AnswerInStore(self.update, conversation, new)

    def reopen(self, conversation: str, id: int) -> AnswerInStore:
        """Go on with an answer that was cut; its text so far stays until it is saved again."""
        with self._database.writing() as rows:
            rows.execute("UPDATE messages SET status = 'streaming', error = NULL WHERE id = ?", (id,))
            _lead(rows, conversation, last=id)
        return AnswerInStore(self.update, conversation, id)

    def update(self, id: int, conversation: str | None = None, **columns: Any) -> None:
        """Change what is stored of a message.

        Args:
            id: of the message.
            conversation: whose head the message is now.
            columns: what is changed.
        """
        named = ", ".join(f"{name} = ?" for name in columns)
        values = [storable(value) for value in columns.values()]
        with self._database.writing() as rows:
            rows.execute(f"UPDATE messages SET {named} WHERE id = ?", (*values, id))  # noqa: S608  our own
            if conversation is not None:
                _lead(rows, conversation, head=id, last=id)

    def go_back(self, conversation: str, to: int | None) -> None:
        """Let a conversation lead to an earlier message, None for the beginning. What came after it stays stored."""
        with self._database.writing() as rows:
            _lead(rows, conversation, head=to, last=to)

    def remove(self, conversations: Sequence[str]) -> None:
        """Remove conversations, and all that was said in them, from the file and from the log beside it."""
        with self._database.writing() as rows:
            for each in conversations:
                rows.execute(
                    "DELETE FROM attached WHERE message IN (SELECT id FROM messages WHERE conversation = ?)", (each,)
                )
                rows.execute("DELETE FROM messages WHERE conversation = ?", (each,))
                rows.execute("DELETE FROM conversations WHERE id = ?", (each,))
            rows.execute("DELETE FROM attachments WHERE hash NOT IN (SELECT hash FROM attached)")
        self._database.empty_log()

    # Reading ------------------------------------------------------------------------------------------------

    def find(self, beginning: str) -> StoredConversation:
        """Return the one conversation whose id begins so.

        Raises:
            ValueError: there is none, or more than one.
        """
        values = (len(beginning), storable(beginning.lower()))
        found = self._conversations("WHERE substr(id, 1, ?) = ?", values, limit=3)
        if len(found) != 1 or not beginning:
            known = ", ".join(each.id for each in found[:2])
            what = f"several conversations, {known} among them," if found else "no conversation"
            raise ValueError(f"{what} begins with {beginning!r}".replace("them, begins", "them, begin"))
        return found[0]

    def last(self) -> StoredConversation | None:
        """Return the conversation in which something was said last, None if there is none."""
        return next(iter(self._conversations("", (), limit=1)), None)

    def search(self, text: str = "", *, limit: int | None = None) -> list[StoredConversation]:
        """Return the conversations that have a text in them, newest first, in whatever case."""
        if not text:
            return self._conversations("", (), limit=limit)
        where = """
            WHERE instr(folded(title), ?) OR EXISTS (
                SELECT 1 FROM messages WHERE conversation = conversations.id AND instr(folded(content), ?)
            )
        """
        return self._conversations(where, (folded(storable(text)),) * 2, limit=limit)

    def older(self, than: float) -> list[str]:
        """Return the ids of the conversations in which nothing was said since a moment, in seconds since 1970."""
        with self._database.reading() as rows:
            found = rows.execute("SELECT id FROM conversations WHERE updated < ?", (than,)).fetchall()
            return [row["id"] for row in found]

    def _conversations(self, where: str, values: Sequence[Any], *, limit: int | None) -> list[StoredConversation]:
        model = "SELECT model FROM messages WHERE conversation = conversations.id AND model NOT NULL ORDER BY id DESC"
        query = f"""
            SELECT *, ({model} LIMIT 1) AS model FROM conversations {where} ORDER BY updated DESC, rowid DESC LIMIT ?
        """  # noqa: S608  no part of it is from outside
        count = f"{_PATH} SELECT count(*) FROM path"  # noqa: S608  our own
        with self._database.reading() as rows:
            found = rows.execute(query, (*values, -1 if limit is None else limit)).fetchall()
            counts = [rows.execute(count, (row["last"],)).fetchone()[0] for row in found]
            return [StoredConversation(**dict(row), messages=count) for row, count in zip(found, counts, strict=True)]

    def messages(self, last: int | None) -> list[StoredMessage]:
        """Return the messages that lead to one, and that one, oldest first."""
        query = f"{_PATH} SELECT messages.* FROM path JOIN messages USING (id) ORDER BY id"  # noqa: S608  our own
        with self._database.reading() as rows:
            return [read(rows, row) for row in rows.execute(query, (last,)).fetchall()]

    def questions(self, limit: int = 1000) -> list[str]:
        """Return what was asked last, newest first, without what is the same as the one after it."""
        query = "SELECT content FROM messages WHERE role = 'user' AND content <> '' ORDER BY id DESC LIMIT ?"
        with self._database.reading() as rows:
            texts = [row["content"] for row in rows.execute(query, (limit,)).fetchall()]
        return [text for place, text in enumerate(texts) if place == 0 or text != texts[place - 1]]


def _lead(rows: sqlite3.Connection, conversation: str, **places: int | None) -> None:
    """Let a conversation lead to other messages: its `last`, and its `head`."""
    named = ", ".join(f"{name} = ?" for name in places)
    query = f"UPDATE conversations SET {named}, updated = ? WHERE id = ?"  # noqa: S608  the names are our own
    rows.execute(query, (*places.values(), time.time(), conversation))
