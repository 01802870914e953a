"""Conversations on disk, in SQLite: for the command and the notebook. Knows no client.

The messages of a conversation are a tree. A conversation has two places in it: its `head`, the last answer that is
complete, behind which the next question goes; and its `last` message, which is another one where the last question has
no complete answer. So nothing is ever overwritten by going on, and what was cut is not sent again.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = 1
"""Of the tables; a later version of the package may have others."""

_APPLICATION = 0x43484157  # "CHAW": tells a database of ours from another program's

_PATIENCE = 5.0  # seconds to wait for another program that writes

_INTERVAL = 1.0  # seconds between two savings of an answer on its way

_TITLE = 80  # characters

_TABLES = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        title TEXT NOT NULL,
        head INTEGER,  -- the last message of the last complete turn
        last INTEGER,  -- the last message at all
        created REAL NOT NULL,  -- seconds since 1970
        updated REAL NOT NULL
    )
    """,
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        conversation TEXT NOT NULL,
        parent INTEGER,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        fields TEXT,  -- JSON: what the message has besides its role and text, or in place of it
        reasoning TEXT NOT NULL DEFAULT '',
        tool_calls TEXT,  -- JSON
        status TEXT NOT NULL DEFAULT 'complete',  -- or 'streaming', 'cut', 'failed'
        error TEXT,
        finish_reason TEXT,
        model TEXT,
        host TEXT,
        parameters TEXT,  -- JSON
        prompt_tokens INTEGER,
        completion_tokens INTEGER,
        milliseconds INTEGER,
        created REAL NOT NULL
    )
    """,
    "CREATE INDEX messages_of ON messages (conversation)",
    "CREATE TABLE attachments (hash TEXT PRIMARY KEY, type TEXT NOT NULL, content BLOB NOT NULL)",
    "CREATE TABLE attached (message INTEGER NOT NULL, hash TEXT NOT NULL, PRIMARY KEY (message, hash))",
)

_PATH = """
    WITH RECURSIVE path (id, parent) AS (
        SELECT id, parent FROM messages WHERE id = ?
        UNION ALL SELECT messages.id, messages.parent FROM messages JOIN path ON messages.id = path.parent
    )
"""

_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,([A-Za-z0-9+/=]+)")
_ATTACHMENT = "attachment:"


class StoreError(Exception):
    """The database can't be opened, read or written."""


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


def history_path() -> Path | None:
    """Return where conversations are stored, None if they are not: `CHATANYWHERE_HISTORY`, a path or `off`.

    Raises:
        StoreError: the user's data folder is not known without platformdirs.
    """
    named = os.environ.get("CHATANYWHERE_HISTORY", "").strip()
    if named:
        return None if named.lower() == "off" else Path(named).expanduser()
    try:
        import platformdirs
    except ImportError as error:
        raise StoreError(
            "platformdirs is missing: pip install 'chatanywhere[cli]', or set CHATANYWHERE_HISTORY to a path or off"
        ) from error
    return platformdirs.user_data_path("chatanywhere", appauthor=False) / "history.sqlite3"


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
        self.path = path
        self._lock = threading.RLock()
        with self._told():
            self._database = self._open(path, writing)

    def _open(self, path: Path | None, writing: bool) -> sqlite3.Connection:
        name = ":memory:"
        if path is not None:
            name = os.path.abspath(path)
            if writing:
                _make_file(Path(name))
            else:
                # Where nothing can be written there is no log beside the database, and there are no locks.
                fixed = "" if os.access(os.path.dirname(name), os.W_OK) else "&immutable=1"
                name = f"{Path(name).as_uri()}?mode=ro{fixed}"
        database = sqlite3.connect(
            name, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, uri=not writing
        )
        try:
            self._prepare(database, writing)
        except BaseException:
            database.close()
            raise
        return database

    def _prepare(self, database: sqlite3.Connection, writing: bool) -> None:
        database.row_factory = sqlite3.Row
        database.create_function("folded", 1, str.casefold, deterministic=True)
        database.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")
        if not self._is_new(database):
            if writing:
                self._use_log(database)
        elif writing:
            self._use_log(database)
            with _transaction(database):
                if self._is_new(database):  # nobody else has been faster
                    for each in _TABLES:
                        database.execute(each)
                    database.execute(f"PRAGMA application_id = {_APPLICATION}")
                    database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("PRAGMA secure_delete = ON")
        database.execute("PRAGMA synchronous = NORMAL")

    def _is_new(self, database: sqlite3.Connection) -> bool:
        """Whether there is nothing in the database yet.

        Raises:
            StoreError: there is, but nothing that could be used.
        """
        (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables:
            return True
        # Behind the tables, for all are written at once.
        (application,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if application != _APPLICATION:
            raise StoreError("it is another program's database")
        if version > VERSION:
            raise StoreError(f"a newer version of chatanywhere has made it (its tables have version {version})")
        return False

    def _use_log(self, database: sqlite3.Connection) -> None:
        """Write ahead, so that readers and the writer do not wait for each other."""
        patience = time.monotonic() + _PATIENCE
        while True:
            try:
                database.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:  # while another one does the same, SQLite does not wait
                if "locked" not in str(error) or time.monotonic() > patience:
                    raise
                time.sleep(0.01)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what SQLite and the system raise as a `StoreError` that names the file, one thread at a time."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError, StoreError) as error:
                place = "in memory" if self.path is None else str(self.path)
                raise StoreError(f"the history {place} can't be used: {error}") from error

    def close(self) -> None:
        """Close the database."""
        with self._told():
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
        title = _storable(next(filter(None, lines), "")[:_TITLE])
        now = time.time()
        with self._told(), _transaction(self._database):
            self._database.execute("INSERT INTO conversations VALUES (?, ?, NULL, NULL, ?, ?)", (new, title, now, now))
        return new

    def add(self, conversation: str, messages: Sequence[Mapping[str, Any]], *, after: int | None) -> int | None:
        """Add messages that are complete, one behind the other, and return the id of the last.

        They are what the conversation leads to, once a complete answer follows them; see `answer`.

        Args:
            conversation: its id.
            messages: as they are sent.
            after: the id of the message that they follow, None for none.
        """
        with self._told(), _transaction(self._database):
            for message in messages:
                after = self._insert(conversation, message, after)
            self._touch(conversation, after)
        return after

    def _insert(self, conversation: str, message: Mapping[str, Any], parent: int | None, **columns: Any) -> int:
        fields = {name: value for name, value in message.items() if name not in ("role", "content", "tool_calls")}
        content = message.get("content")
        text = text_of(content)
        attachments: dict[str, tuple[str, bytes]] = {}
        if content != text:
            fields["content"] = _detached(content, attachments)
        columns = {
            "conversation": conversation,
            "parent": parent,
            "role": message["role"],
            "content": text,
            "fields": _json(fields),
            "tool_calls": _json(message.get("tool_calls")),
            "created": time.time(),
            **columns,
        }
        names, places = ", ".join(columns), ", ".join("?" * len(columns))
        row = self._database.execute(
            f"INSERT INTO messages ({names}) VALUES ({places})",  # noqa: S608  the names are our own
            [_storable(value) for value in columns.values()],
        )
        assert row.lastrowid is not None
        for digest, (kind, data) in attachments.items():
            self._database.execute("INSERT OR IGNORE INTO attachments VALUES (?, ?, ?)", (digest, kind, data))
            self._database.execute("INSERT OR IGNORE INTO attached VALUES (?, ?)", (row.lastrowid, digest))
        return row.lastrowid

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
        with self._told(), _transaction(self._database):
            new = self._insert(
                conversation,
                {"role": "assistant", "content": ""},
                after,
                status="streaming",
                model=model,
                host=host,
                parameters=_json(parameters),
            )
            self._touch(conversation, new)
        return AnswerInStore(self, conversation, new)

    def reopen(self, conversation: str, id: int) -> AnswerInStore:
        """Go on with an answer that was cut; its text so far stays until it is saved again."""
        with self._told(), _transaction(self._database):
            self._database.execute("UPDATE messages SET status = 'streaming', error = NULL WHERE id = ?", (id,))
            self._touch(conversation, id)
        return AnswerInStore(self, conversation, id)

    def _touch(self, conversation: str, last: int | None) -> None:
        self._database.execute(
            "UPDATE conversations SET last = ?, updated = ? WHERE id = ?", (last, time.time(), conversation)
        )

    def update(self, id: int, conversation: str | None = None, **columns: Any) -> None:
        """Change what is stored of a message.

        Args:
            id: of the message.
            conversation: whose head the message is now.
            columns: what is changed.
        """
        named = ", ".join(f"{name} = ?" for name in columns)
        values = [_storable(value) for value in columns.values()]
        with self._told(), _transaction(self._database):
            self._database.execute(f"UPDATE messages SET {named} WHERE id = ?", (*values, id))  # noqa: S608  our own
            if conversation is not None:
                self._lead(conversation, id)

    def go_back(self, conversation: str, to: int | None) -> None:
        """Let a conversation lead to an earlier message, None for the beginning. What came after it stays stored."""
        with self._told(), _transaction(self._database):
            self._lead(conversation, to)

    def _lead(self, conversation: str, to: int | None) -> None:
        self._database.execute(
            "UPDATE conversations SET head = ?, last = ?, updated = ? WHERE id = ?", (to, to, time.time(), conversation)
        )

    def remove(self, conversations: Sequence[str]) -> None:
        """Remove conversations, and all that was said in them, from the file and from the log beside it."""
        with self._told():
            with _transaction(self._database):
                for each in conversations:
                    self._database.execute(
                        "DELETE FROM attached WHERE message IN (SELECT id FROM messages WHERE conversation = ?)",
                        (each,),
                    )
                    self._database.execute("DELETE FROM messages WHERE conversation = ?", (each,))
                    self._database.execute("DELETE FROM conversations WHERE id = ?", (each,))
                self._database.execute("DELETE FROM attachments WHERE hash NOT IN (SELECT hash FROM attached)")
            (busy, *_) = self._database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                f"another program reads the history {self.path}: what was removed may be in the file beside it until "
                "that program ends"
            )

    # Reading ------------------------------------------------------------------------------------------------

    def find(self, beginning: str) -> StoredConversation:
        """Return the one conversation whose id begins so.

        Raises:
            ValueError: there is none, or more than one.
        """
        found = self._conversations("WHERE substr(id, 1, ?) = ?", (len(beginning), beginning.lower()), limit=3)
        if len(found) != 1 or not beginning:
            known = ", ".join(each.id for each in found[:2])
            what = f"several conversations, {known} among them," if found else "no conversation"
            raise ValueError(f"{what} begins with {beginning!r}".replace("them, begins", "them, begin"))
        return found[0]

    def last(self) -> StoredConversation | None:
        """Return the conversation in which something was said last, None if there is none."""
        return next(iter(self._conversations("", (), limit=1)), None)

    def search(self, text: str = "", *, limit: int | None = None) -> list[StoredConversation]:
        """Return the conversations that have a text in them, newest first; that of upper case is the same."""
        if not text:
            return self._conversations("", (), limit=limit)
        where = """
            WHERE instr(folded(title), ?) OR EXISTS (
                SELECT 1 FROM messages WHERE conversation = conversations.id AND instr(folded(content), ?)
            )
        """
        return self._conversations(where, (text.casefold(),) * 2, limit=limit)

    def older(self, than: float) -> list[str]:
        """Return the ids of the conversations in which nothing was said since a moment, in seconds since 1970."""
        with self._told():
            rows = self._database.execute("SELECT id FROM conversations WHERE updated < ?", (than,)).fetchall()
        return [row["id"] for row in rows]

    def _conversations(self, where: str, values: Sequence[Any], *, limit: int | None) -> list[StoredConversation]:
        model = "SELECT model FROM messages WHERE conversation = conversations.id AND model NOT NULL ORDER BY id DESC"
        query = f"""
            SELECT *, ({model} LIMIT 1) AS model FROM conversations {where} ORDER BY updated DESC, rowid DESC LIMIT ?
        """  # noqa: S608  no part of it is from outside
        with self._told():
            rows = self._database.execute(query, (*values, -1 if limit is None else limit)).fetchall()
            count = f"{_PATH} SELECT count(*) FROM path"  # noqa: S608  our own
            counts = [self._database.execute(count, (row["last"],)).fetchone()[0] for row in rows]
        return [StoredConversation(**dict(row), messages=count) for row, count in zip(rows, counts, strict=True)]

    def messages(self, last: int | None) -> list[StoredMessage]:
        """Return the messages that lead to one, and that one, oldest first."""
        with self._told():
            rows = self._database.execute(
                f"{_PATH} SELECT messages.* FROM path JOIN messages USING (id) ORDER BY id",  # noqa: S608  our own
                (last,),
            ).fetchall()
            return [self._message(row) for row in rows]

    def _message(self, row: sqlite3.Row) -> StoredMessage:
        fields = json.loads(row["fields"] or "{}")
        message = {"role": row["role"], "content": row["content"], **fields}
        if "content" in fields:
            message["content"] = self._attached(fields["content"])
        if row["tool_calls"]:
            message["tool_calls"] = json.loads(row["tool_calls"])
        return StoredMessage(
            message=message,
            text=row["content"],
            parameters=json.loads(row["parameters"] or "{}"),
            seconds=None if row["milliseconds"] is None else row["milliseconds"] / 1000,
            **{
                name: row[name]
                for name in (
                    *("id", "parent", "reasoning", "status", "error", "finish_reason", "model", "host"),
                    *("prompt_tokens", "completion_tokens", "created"),
                )
            },
        )

    def _attached(self, value: Any) -> Any:
        """A content with its attachments in their places."""
        if isinstance(value, list):
            return [self._attached(each) for each in value]
        if isinstance(value, dict):
            return {name: self._attached(each) for name, each in value.items()}
        if isinstance(value, str) and value.startswith(_ATTACHMENT):
            digest = value.removeprefix(_ATTACHMENT)
            row = self._database.execute("SELECT * FROM attachments WHERE hash = ?", (digest,)).fetchone()
            if row is not None:
                return f"data:{row['type']};base64,{base64.b64encode(row['content']).decode()}"
        return value

    def questions(self, limit: int = 1000) -> list[str]:
        """Return what was asked last, newest first, without what is the same as the one after it."""
        with self._told():
            rows = self._database.execute(
                "SELECT content FROM messages WHERE role = 'user' AND content <> '' ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        texts = [row["content"] for row in rows]
        return [text for place, text in enumerate(texts) if place == 0 or text != texts[place - 1]]


class AnswerInStore:
    """An answer on its way into the store.

    Attributes:
        id: of its message.
        conversation: the id of its conversation.
    """

    def __init__(self, store: Store, conversation: str, id: int) -> None:
        self.id = id
        self.conversation = conversation
        self._store = store
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, said: Callable[[], tuple[str, str]]) -> None:
        """Save the answer once a second from now on, where something has come, until it is finished.

        In a thread, because who reads the answer waits for it.

        Args:
            said: returns the text and the reasoning so far.
        """
        self._thread = threading.Thread(target=self._save, args=(said,), daemon=True)
        self._thread.start()

    def _save(self, said: Callable[[], tuple[str, str]]) -> None:
        saved = ("", "")
        while not self._ended.wait(_INTERVAL):
            now = said()
            if now != saved:
                with contextlib.suppress(StoreError):  # `finish` will say so
                    self._store.update(self.id, content=now[0], reasoning=now[1])
                saved = now

    def finish(self, status: str, **columns: Any) -> None:
        """Store how the answer has ended; if it is complete, the conversation goes on behind it.

        Args:
            status: `"complete"`, `"cut"` or `"failed"`.
            columns: of the table of messages: `content`, `reasoning`, `model` …; `tool_calls` and `fields` as values.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        for name in ("tool_calls", "fields"):
            if name in columns:
                columns[name] = _json(columns[name])
        columns.setdefault("milliseconds", round((time.monotonic() - self._began) * 1000))
        complete = self.conversation if status == "complete" else None
        self._store.update(self.id, complete, status=status, **columns)


def text_of(content: Any) -> str:
    """Return what the content of a message says: a text, or those of its parts that are text."""
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, (list, tuple)) else ()
    texts = (part.get("text") for part in parts if isinstance(part, Mapping))
    return "\n\n".join(text for text in texts if isinstance(text, str))


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
    digest = hashlib.sha256(data).hexdigest()
    attachments[digest] = match[1], data
    return f"{_ATTACHMENT}{digest}"


def _make_file(path: Path) -> None:
    """Make a file that only its owner can read, and its folder likewise, if they are not there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        if os.name == "posix" and os.fstat(descriptor).st_mode & 0o077:
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _transaction(database: sqlite3.Connection) -> Iterator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if database.in_transaction:
            database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _json(value: Any) -> str | None:
    return json.dumps(value, ensure_ascii=False, default=str) if value else None


def _storable(value: Any) -> Any:
    """A value that SQLite can have: its texts are UTF-8, which has no half characters."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
