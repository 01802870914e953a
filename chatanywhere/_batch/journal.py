"""The journal of a run: what has been sent and what came of it, in a file that survives the end of the program.

SQLite, with one thread that writes. What is told at the same time is committed together, and what depends on it
happens behind the commit.
"""

from __future__ import annotations

import os
import queue
import sqlite3
import stat
import sys
import threading
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from itertools import chain
from operator import add
from typing import Any, NamedTuple

from .limits import Minute
from .lock import FileLock

VERSION = 1
_ID = 0x43414A4C  # "CAJL", by which SQLite's header says whose file it is
_MAGIC = b"SQLite format 3\0"

_TABLES = f"""
BEGIN;
CREATE TABLE calls (
    key BLOB NOT NULL, number INTEGER NOT NULL,  -- the n-th of the prompts that ask the same
    state TEXT NOT NULL,  -- sent, done, failed; open: the service refused to do it
    times_sent INTEGER NOT NULL, attempts INTEGER, seconds REAL, model TEXT NOT NULL,
    completion TEXT, error TEXT, sent_at REAL NOT NULL, ended_at REAL,
    PRIMARY KEY (key, number)
);
CREATE TABLE spent (
    model TEXT NOT NULL, minute INTEGER NOT NULL,  -- since 1970
    requests INTEGER NOT NULL, refused INTEGER NOT NULL, tokens INTEGER NOT NULL,
    PRIMARY KEY (model, minute)
) WITHOUT ROWID;
PRAGMA application_id = {_ID};
PRAGMA user_version = {VERSION};
COMMIT;
"""
_CHANGED = """INSERT INTO calls VALUES {rows} ON CONFLICT (key, number) DO UPDATE SET state = excluded.state,
times_sent = times_sent + excluded.times_sent, attempts = excluded.attempts, seconds = excluded.seconds,
model = excluded.model, completion = excluded.completion, error = excluded.error, sent_at = excluded.sent_at,
ended_at = excluded.ended_at"""
_SPENT = """INSERT INTO spent VALUES {rows} ON CONFLICT (model, minute) DO UPDATE SET
requests = requests + excluded.requests, refused = refused + excluded.refused, tokens = tokens + excluded.tokens"""
_MOST_VALUES = 990  # of one statement, in the oldest SQLite
_SPENT_SINCE = """SELECT minute, sum(requests), sum(refused), sum(tokens) FROM spent WHERE minute >= ?
GROUP BY minute ORDER BY minute"""
_FIND = "SELECT state, attempts, seconds, completion, error FROM calls WHERE key = ? AND number = ?"

_NETWORK = ("9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "lustre", "nfs", "smb", "fuse.sshfs", "fuse.gcsfuse")
"""How the names of file systems begin whose files are on another machine; WAL needs memory that is shared."""


class Row(NamedTuple):
    """What the journal has of a prompt."""

    state: str
    attempts: int
    seconds: float
    completion: str | None
    error: str | None


Then = Callable[[], object]


class _Entry(NamedTuple):
    """Something that the journal is told: a call's row, but for how often it was sent before, and what is spent.

    Without a row, it is something that is to be done behind the commit of what was told before.
    """

    row: tuple[Any, ...] | None
    model: str
    minute: int
    spent: tuple[int, int, int]
    then: Then | None


class Journal:
    """An open journal.

    What it is told, by one thread, is written at the next `flush`, and committed together.

    Args:
        path: its file, which is made if there is none, for the eyes of its owner only.
        today: seconds since 1970.

    Attributes:
        on_failure: called, by the thread that writes, when nothing more can be written.
        in_doubt: calls that were on their way when an earlier run was ended.
        is_new: no earlier run has left anything in it.

    Raises:
        ValueError: the path names no file, or the file is something else, or of another version. It is left as it is.
        RuntimeError: another run holds it.
        OSError: it can't be opened.
    """

    def __init__(self, path: str | os.PathLike[str], today: Callable[[], float]) -> None:
        if os.fspath(path) in ("", ":memory:") or "\0" in str(path):
            raise ValueError(f"journal={path!r} is no file: leave journal= out to keep nothing")
        self._path = os.path.abspath(os.fspath(path))
        self._today = today
        self.on_failure: Callable[[OSError], object] = lambda _: None
        on_network = is_on_network(self._path)
        if on_network:
            warnings.warn(
                f"the journal {self._path} is on a network file system, where SQLite is slower and less safe: "
                "keep it on a disk of this machine",
                stacklevel=4,
            )
        with ExitStack() as held:
            held.callback(FileLock(self._path).release)
            _check(self._path)  # behind the lock: to close the file takes this process's other locks off it
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
            try:
                self._reading = held.enter_context(closing(_open(self._path, wal=not on_network)))
                self._writing = held.enter_context(closing(_open(self._path, wal=not on_network)))
                count, sent = self._reading.execute("SELECT count(*), sum(state = 'sent') FROM calls").fetchone()
            except sqlite3.Error as exc:
                raise _failure(self._path, exc) from exc
            self._file = os.stat(self._path)
            self.in_doubt: int = sent or 0
            self.is_new = not count
            self._held = held.pop_all()
        self._sent_at: dict[tuple[bytes, int], float] = {}  # of calls that have not ended
        self._told: list[_Entry] = []
        self._queue: queue.SimpleQueue[list[_Entry] | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._write, name="chatanywhere journal", daemon=True)
        self._thread.start()

    # What it knows ------------------------------------------------------------------------------------------

    def find(self, key: bytes, number: int) -> Row | None:
        """Return what there is of a prompt."""
        with self._turn:
            try:
                # To its end, for a query that is not at its end holds a lock in DELETE mode.
                found = self._reading.execute(_FIND, (key, number)).fetchall()
            except sqlite3.Error as exc:
                raise _failure(self._path, exc) from exc
        return Row(*found[0]) if found else None

    def spent_since(self, moment: float) -> list[Minute]:
        """Return what has been spent since then, which is in seconds since 1970; the oldest minute first."""
        try:
            found = self._reading.execute(_SPENT_SINCE, (int(moment // 60),)).fetchall()
        except sqlite3.Error as exc:
            raise _failure(self._path, exc) from exc
        return [Minute(60.0 * minute, *spent) for minute, *spent in found]

    # What it is told ----------------------------------------------------------------------------------------

    def send(self, key: bytes, number: int, model: str, then: Then) -> None:
        """A call is about to be made; `then` is done when that has been committed."""
        now = self._sent_at[key, number] = self._today()
        row = (key, number, "sent", 1, None, None, model, None, None, now, None)
        self._told.append(_Entry(row, model, int(now // 60), (1, 0, 0), then))

    def refuse(self, key: bytes, number: int, model: str) -> None:
        """The service refused to make it, so that the day has it still."""
        sent_at = self._sent_at.pop((key, number))
        row = (key, number, "open", 0, None, None, model, None, None, sent_at, None)
        self._told.append(_Entry(row, model, int(sent_at // 60), (0, 1, 0), None))

    def end(self, key: bytes, number: int, model: str, row: Row, tokens: int, then: Then) -> None:
        """It has ended, and cost so many tokens; `then` is done when that has been committed."""
        now, sent_at = self._today(), self._sent_at.pop((key, number))
        state, attempts, seconds, completion, error = row
        whole = (key, number, state, 0, attempts, seconds, model, completion, error, sent_at, now)
        self._told.append(_Entry(whole, model, int(now // 60), (0, 0, tokens), then))

    def follow(self, then: Then) -> None:
        """Do `then` when all that has been told is committed."""
        self._told.append(_Entry(None, "", 0, (0, 0, 0), then))

    def flush(self) -> None:
        """Have written what has been told."""
        if self._told:
            told, self._told = self._told, []
            self._queue.put(told)

    def _write(self) -> None:
        going_on = True
        while going_on:
            batch = [self._queue.get()]
            while len(batch) < 1000 and not self._queue.empty():
                batch.append(self._queue.get())
            going_on = None not in batch
            entries = [entry for told in batch if told is not None for entry in told]
            try:
                self._commit(entries)
                for entry in entries:
                    if entry.then is not None:
                        entry.then()
            except Exception as exc:  # SQLite's, or that of a value which it can't keep: nobody waits for ever
                self.on_failure(_failure(self._path, exc))
                return

    def _commit(self, entries: Iterable[_Entry]) -> None:
        """Write it in few statements, for each lets go of Python's lock, and has to wait for it again."""
        rows: dict[tuple[bytes, int], tuple[Any, ...]] = {}
        spent: dict[tuple[str, int], tuple[int, ...]] = {}
        for entry in entries:
            if (row := entry.row) is None:
                continue
            place, minute = row[:2], (entry.model, entry.minute)
            before = rows.get(place)
            rows[place] = row if before is None else (*row[:3], row[3] + before[3], *row[4:])
            spent[minute] = tuple(map(add, spent.get(minute, (0, 0, 0)), entry.spent))
        self._writing.execute("BEGIN IMMEDIATE")
        for statement, changes in (
            (_CHANGED, list(rows.values())),
            (_SPENT, [(*minute, *counts) for minute, counts in spent.items()]),
        ):
            most = _MOST_VALUES // len(changes[0]) if changes else 1
            for start in range(0, len(changes), most):
                part = changes[start : start + most]
                marks = ",".join([f"({','.join('?' * len(part[0]))})"] * len(part))
                self._writing.execute(statement.format(rows=marks), list(chain.from_iterable(part)))
        self._writing.execute("COMMIT")
        if not os.path.samestat(os.stat(self._path), self._file):
            raise FileNotFoundError("another file has taken its place")

    def close(self) -> None:
        """Commit what has been told, and let go of the file. May be called again."""
        self.flush()
        self._queue.put(None)
        self._thread.join()
        with self._turn:  # no connection may be closed that another thread uses
            self._held.close()


def _open(path: str, *, wal: bool) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=30.0, isolation_level=None, check_same_thread=False)
    try:
        if not connection.execute("PRAGMA user_version").fetchone()[0]:
            connection.executescript(_TABLES)
        connection.execute(f"PRAGMA journal_mode={'WAL' if wal else 'DELETE'}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA wal_autocheckpoint=500")  # to write over a file is faster than to append
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: str) -> None:
    """See to it that a file is a journal, if there is one, without touching it."""
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for its other end
            raise _not_one(path)
        names = found.st_nlink
        if names > 1:  # to close it would take SQLite's locks off the other name
            raise ValueError(
                f"the journal {path} has {names} names (hard links), and SQLite would keep a log for each: "
                "take a copy of it as journal="
            )
        with open(path, "rb") as file:
            head = file.read(100)
    except FileNotFoundError:
        return
    if not head:  # as mkstemp makes it
        return
    if head[:16] != _MAGIC or int.from_bytes(head[68:72], "big") != _ID:
        raise _not_one(path)
    version = int.from_bytes(head[60:64], "big")
    if version != VERSION:
        raise ValueError(
            f"the journal {path} is of version {version}, and this package reads version {VERSION}: "
            "take another path as journal=, or the version of the package that has written it"
        )


def _not_one(path: str) -> ValueError:
    return ValueError(f"{path} is no journal, and is left as it is: take another path as journal=")


def _failure(path: str, error: Exception) -> OSError:
    return OSError(f"the journal {path} can't be used: {error}")


def is_on_network(path: str) -> bool:
    """Whether a file is on another machine, as far as the system tells."""
    path = os.path.realpath(path)
    if sys.platform == "win32":
        return path.startswith("\\\\")
    try:
        with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:
        return False
    found = ""
    kind = ""
    for folder, name in mounts:
        folder = folder.encode("utf-8", "surrogateescape").decode("unicode_escape")
        if len(folder) >= len(found) and (path == folder or path.startswith(folder.rstrip("/") + "/")):
            found, kind = folder, name
    return kind.startswith(_NETWORK)
