"""The database of conversations: where it is, its tables, and how threads and processes share it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
import threading
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

VERSION = 1
"""Of the tables; a later version of the package may have others."""

_APPLICATION = 0x43484157  # "CHAW": tells a database of ours from another program's

_PATIENCE = 5.0  # seconds to wait for another program that writes

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

_DAMAGE = (IndexError, TypeError, ValueError)
"""What reading a value raises that this package has not written."""

_making = threading.Lock()


class StoreError(Exception):
    """The database can't be opened, read or written."""


def history_path() -> Path | None:
    """Return where conversations are stored, None if they are not: `CHATANYWHERE_HISTORY`, a path or `off`.

    Raises:
        StoreError: the user's data folder is not known without platformdirs, or the home folder of `~` is not.
    """
    named = os.environ.get("CHATANYWHERE_HISTORY", "").strip()
    if named.lower() == "off":
        return None
    if named:
        try:
            return Path(named).expanduser()
        except RuntimeError as error:
            raise StoreError(f"CHATANYWHERE_HISTORY={named}: there is no such home folder") from error
    try:
        import platformdirs
    except ImportError as error:
        raise StoreError(
            "platformdirs is missing: pip install 'chatanywhere[cli]', or set CHATANYWHERE_HISTORY to a path or off"
        ) from error
    return platformdirs.user_data_path("chatanywhere", appauthor=False) / "history.sqlite3"


def folded(text: str) -> str:
    """Return what is the same of all texts that differ in case only, or in how an accent is written."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.casefold())


class Database:
    """A database, which is made if it is not there. Arguments and errors are those of `Store`.

    Attributes:
        path: of its file, None if it is in memory.
    """

    def __init__(self, path: Path | None, *, writing: bool) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._told():
            self._connection = self._open(writing)

    @contextlib.contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read in here, one thread at a time."""
        with self._told():
            try:
                yield self._connection
            except _DAMAGE as error:
                raise StoreError(f"it is damaged ({error})") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Read and write in here, in one transaction."""
        with self._told(), _transaction(self._connection):
            yield self._connection

    def empty_log(self) -> None:
        """Leave nothing in the log beside the file.

        Raises:
            StoreError: another program is in the way.
        """
        with self._told():
            (busy, *_) = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StoreError(
                f"another program reads the history {self.path}: what was removed may be in the file beside it until "
                "that program ends"
            )

    def close(self) -> None:
        """Close it."""
        with self._told():
            self._connection.close()

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Raise what SQLite and the system raise as a `StoreError` that names the file, one thread at a time."""
        with self._lock:
            try:
                yield
            except (sqlite3.Error, OSError, StoreError, UnicodeDecodeError) as error:  # the last of a damaged database
                place = "in memory" if self.path is None else str(self.path)
                raise StoreError(f"the history {place} can't be used: {error}") from error

    def _open(self, writing: bool) -> sqlite3.Connection:
        name = ":memory:"
        if self.path is not None:
            name = os.path.abspath(self.path)
            if writing:
                _make_file(Path(name))
            if not os.path.isfile(name):  # but a device, or a pipe, which SQLite would wait for
                raise StoreError("it is not a file")
            if not writing:
                # Where nothing can be written there is no log beside the database, and there are no locks.
                fixed = "" if os.access(os.path.dirname(name), os.W_OK) else "&immutable=1"
                name = f"{Path(name).as_uri()}?mode=ro{fixed}"
        connection = sqlite3.connect(
            name, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, uri=not writing
        )
        try:
            self._prepare(connection, writing)
            if self.path is not None and writing:
                _hide(name)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, writing: bool) -> None:
        connection.row_factory = sqlite3.Row
        connection.create_function("folded", 1, folded, deterministic=True)
        connection.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")
        new = _is_new(connection)
        if writing:
            _use_log(connection)
            if new:
                with _transaction(connection):
                    if _is_new(connection):  # nobody else has been faster
                        for each in _TABLES:
                            connection.execute(each)
                        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
                        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA synchronous = NORMAL")


def _is_new(connection: sqlite3.Connection) -> bool:
    """Whether there is nothing in the database yet.

    Raises:
        StoreError: there is, but nothing that could be used.
    """
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if not tables:
        return True
    # Behind the tables, for all are written at once.
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if application != _APPLICATION:
        raise StoreError("it is another program's database")
    if version > VERSION:
        raise StoreError(f"a newer version of chatanywhere has made it (its tables have version {version})")
    return False


def _use_log(connection: sqlite3.Connection) -> None:
    """Write ahead, so that readers and the writer do not wait for each other. Some file systems can't: then they do."""
    patience = time.monotonic() + _PATIENCE
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            return
        except sqlite3.OperationalError as error:  # while another one does the same, SQLite does not wait
            if "locked" not in str(error) or time.monotonic() > patience:
                raise
            time.sleep(0.01)


def _make_file(path: Path) -> None:
    """Make a file that only its owner can read, and its folder likewise, if they are not there.

    A file that is there is not opened, but by SQLite: closing it would free the locks that this process has on it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _making:
        if not path.exists():
            with contextlib.suppress(FileExistsError):  # another process has been faster
                os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _hide(name: str) -> None:
    """Let only the owner read a database that is known to be ours, and what is beside it."""
    for each in (name, f"{name}-wal", f"{name}-shm") if os.name == "posix" else ():
        with contextlib.suppress(FileNotFoundError):
            if stat.S_IMODE(os.stat(each).st_mode) & 0o077:
                os.chmod(each, 0o600)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
