"""The file that survives the end of the program."""

from __future__ import annotations

import errno
import json
import os
import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch.runs import take_all
from hypothesis import given, settings
from hypothesis import strategies as st

import chatanywhere
from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    ChatAnywhereError,
    Choice,
    Client,
    Completion,
    OutputError,
    QuotaExceededError,
    RateLimitError,
    Result,
    ToolCall,
    Usage,
)
from chatanywhere._batch import journal as journal_module
from chatanywhere._batch import lock
from chatanywhere._batch.journal import Journal, Row
from chatanywhere._batch.limits import Minute
from chatanywhere._batch.record import dumped, dumped_error, loaded, loaded_error
from chatanywhere.testing import LoopbackServer, Reply


def opened(path: Path | str, now: float = 6e9) -> Journal:
    return Journal(path, lambda: now)


def nothing() -> None:
    pass


KEYS = [b"a" * 32, b"b" * 32, b"c" * 32]
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["send", "end", "fail", "refuse", "reopen"]),
        st.sampled_from(KEYS),
        st.integers(0, 1),
        st.sampled_from(["m", "n"]),
        st.sampled_from([0, 0, 5, 70]),
    ),
    max_size=30,
)


@settings(max_examples=15)
@given(ACTIONS)
def test_whatever_is_told_is_there_when_it_is_opened_again(actions: list[tuple[str, bytes, int, str, int]]) -> None:
    """The last word on each prompt, and what was spent in each minute, in whatever order, however often closed."""
    states: dict[tuple[bytes, int], str] = {}
    sent: dict[tuple[bytes, int], tuple[int, str]] = {}
    spent: Counter[tuple[int, str]] = Counter()  # by minute and kind
    committed: list[int] = []
    told, now = 0, 6e9

    def today() -> float:
        return now

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "run.sqlite")
        journal = Journal(file, today)
        for action, key, number, model, pause in actions:
            place = key, number
            now += pause
            minute = int(now // 60)
            if action == "send":
                journal.send(key, number, model, lambda told=told: committed.append(told))  # type: ignore[misc]
                told += 1
                states[place], sent[place] = "sent", (minute, model)
                spent[minute, "requests"] += 1
            elif action == "reopen":
                journal.close()
                assert committed == list(range(told))
                journal = Journal(file, today)
                sent.clear()
            elif place in sent:
                began, model = sent.pop(place)
                if action == "refuse":
                    journal.refuse(key, number, model)
                    states[place] = "open"
                    spent[began, "refused"] += 1
                else:
                    state = states[place] = "done" if action == "end" else "failed"
                    row = Row(state, 2, 0.5, "{}" if action == "end" else None, None if action == "end" else "{}")
                    journal.end(key, number, model, row, 7, nothing)
                    spent[minute, "tokens"] += 7
        journal.close()
        connection = sqlite3.connect(file)
        (times,) = connection.execute("SELECT coalesce(sum(times_sent), 0) FROM calls").fetchone()
        connection.close()
        assert times == told
        journal = Journal(file, today)
        for key, number in [(key, number) for key in KEYS for number in (0, 1)]:
            found = journal.find(key, number)
            assert (found and found.state) == states.get((key, number))
        kinds = "requests", "refused", "tokens"
        for begins in (0, 6e9 + 60):
            assert journal.spent_since(begins) == [
                Minute(60.0 * minute, *(spent[minute, kind] for kind in kinds))
                for minute in sorted({minute for minute, _ in spent if 60 * minute >= begins})
            ]
        assert journal.in_doubt == list(states.values()).count("sent")
        journal.close()


def test_what_is_told_is_committed_before_anybody_goes_on(tmp_path: Path) -> None:
    """When a thread learns that its row is there, another connection finds it."""
    file = tmp_path / "run.sqlite"
    journal = opened(file)
    missing: list[bytes] = []
    one_at_a_time = threading.Lock()

    def work(number: int) -> None:
        reader = sqlite3.connect(file)
        for each in range(10):
            key = b"%d-%d" % (number, each)
            done = threading.Event()
            with one_at_a_time:
                journal.send(key, 0, "m", done.set)
                journal.flush()
            assert done.wait(20)
            if reader.execute("SELECT state FROM calls WHERE key = ?", (key,)).fetchone() != ("sent",):
                missing.append(key)
        reader.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.close()
    assert missing == []


def test_the_file_is_sqlite_s_and_its_owner_s(tmp_path: Path) -> None:
    """WAL while it is open, one file when it is closed, and nobody else can read it."""
    file = tmp_path / "run.sqlite"
    journal = opened(file)
    journal.send(b"k", 0, "m", nothing)
    assert journal._writing.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._writing.execute("PRAGMA synchronous").fetchone() == (2,)
    for each in os.listdir(tmp_path):
        assert stat.S_IMODE((tmp_path / each).stat().st_mode) == 0o600
    journal.close()
    assert os.listdir(tmp_path) == ["run.sqlite"]


@pytest.mark.parametrize(
    "content",
    [
        b"id,text\n1,hello\n",
        b"SQLite format 3\0" + bytes(4080),
        b"x" * 5000,
        b"SQLite",
    ],
    ids=["csv", "other database", "bytes", "beginning"],
)
def test_a_file_that_is_no_journal_is_left_untouched(content: bytes, tmp_path: Path) -> None:
    """It is refused by its name, and nothing is made beside it."""
    file = tmp_path / "notes"
    file.write_bytes(content)
    before = file.stat()
    with pytest.raises(ValueError, match="notes is no journal"):
        Client("k", base_url="http://127.0.0.1:9").map(["a"], journal=file)
    assert file.read_bytes() == content
    assert file.stat().st_mtime_ns == before.st_mtime_ns
    assert os.listdir(tmp_path) == ["notes"]


def test_another_program_s_database_is_left_untouched(tmp_path: Path) -> None:
    """Also one that is open, and has a WAL."""
    file = tmp_path / "other.db"
    other = sqlite3.connect(file)
    other.execute("PRAGMA journal_mode=WAL")
    other.execute("CREATE TABLE t (a)")
    other.commit()
    before = {each: (tmp_path / each).read_bytes() for each in os.listdir(tmp_path)}
    with pytest.raises(ValueError, match=r"other\.db is no journal"):
        opened(file)
    assert {each: (tmp_path / each).read_bytes() for each in os.listdir(tmp_path)} == before
    other.close()


def test_a_journal_of_another_version_is_refused(tmp_path: Path) -> None:
    """The message has both versions."""
    file = tmp_path / "run.sqlite"
    opened(file).close()
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA user_version = 7")
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    with pytest.raises(ValueError, match=r"version 7.*version 1"):
        opened(file)


def test_an_empty_file_becomes_a_journal(tmp_path: Path) -> None:
    """As tempfile makes them."""
    file = tmp_path / "empty"
    file.touch()
    journal = opened(file)
    journal.send(b"k", 0, "m", nothing)
    journal.close()
    assert opened_state(file) == ["sent"]


def opened_state(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    states = [state for (state,) in connection.execute("SELECT state FROM calls ORDER BY key, number")]
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
    return states


def test_a_journal_that_this_process_holds_is_refused(tmp_path: Path) -> None:
    """The message has the process and the machine; when the run is over, the journal is free."""
    journal = opened(tmp_path / "run.sqlite")
    with pytest.raises(
        RuntimeError, match=rf"is held by this process \({os.getpid()} on \S+\): .* or close\(\) it, or"
    ):
        opened(tmp_path / "run.sqlite")
    journal.close()
    opened(tmp_path / "run.sqlite").close()


@pytest.mark.skipif(sys.platform == "win32", reason="there, links need a privilege")
def test_a_journal_by_another_name_is_refused(tmp_path: Path) -> None:
    """A symbolic link is the file itself; of a file with two names, SQLite would keep a log for each."""
    file, symbolic, hard = tmp_path / "run.sqlite", tmp_path / "symbolic", tmp_path / "hard"
    symbolic.symlink_to(file)
    journal = opened(symbolic)
    for each in (file, symbolic):
        with pytest.raises(RuntimeError, match="is held by this process"):
            opened(each)
    hard.hardlink_to(file)
    with pytest.raises(ValueError, match=r"hard has 2 names.*copy"):
        opened(hard)
    journal.close()
    with pytest.raises(ValueError, match=r"run\.sqlite has 2 names"):
        opened(file)
    hard.unlink()
    opened(file).close()


def test_a_run_that_is_refused_takes_no_locks_off_the_file(tmp_path: Path) -> None:
    """A reader that comes and goes behind it would else remove the log, and with it what is written from then on."""
    file = tmp_path / "run.sqlite"
    count = f"import sqlite3; c = sqlite3.connect({str(file)!r}); print(*c.execute('SELECT count(*) FROM calls'))"
    journal = opened(file)
    with pytest.raises(RuntimeError, match="is held by this process"):
        opened(file)
    for expected in ("(0,)", "(1,)"):
        done = subprocess.run([sys.executable, "-c", f"{count}; c.close()"], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected
        written = threading.Event()
        journal.send(expected.encode(), 0, "m", written.set)
        journal.flush()
        assert written.wait(20)
    journal.close()


def test_a_lock_file_that_was_just_removed_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who held it has removed it between opening and locking it here: it is made anew."""
    real, asked = lock._is_at, list[str]()

    def is_at(file: int, path: str) -> bool:
        asked.append(path)
        if len(asked) == 1:
            os.unlink(path)
        return real(file, path)

    monkeypatch.setattr(lock, "_is_at", is_at)
    journal = opened(tmp_path / "run.sqlite")
    assert len(asked) == 2
    assert (tmp_path / "run.sqlite.lock").read_text().startswith(f"{os.getpid()} on ")
    journal.close()
    journal.close()
    assert os.listdir(tmp_path) == ["run.sqlite"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_let_go_of_the_lock(tmp_path: Path) -> None:
    """The journal is its parent's."""
    held = lock.FileLock(str(tmp_path / "run.sqlite"))
    child = os.fork()
    if not child:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / "run.sqlite.lock").exists()
    with pytest.raises(RuntimeError, match="is held by this process"):
        opened(tmp_path / "run.sqlite")
    held.release()


def test_a_journal_that_is_damaged_is_told_so(tmp_path: Path) -> None:
    """An `OSError` that names the file, when it is opened or when it is read."""
    file = tmp_path / "run.sqlite"
    opened(file).close()
    content = bytearray(file.read_bytes())
    content[100:] = b"\xff" * (len(content) - 100)
    file.write_bytes(content)
    with pytest.raises(OSError, match=r"run\.sqlite can't be used: .*malformed"):
        opened(file)
    assert os.listdir(tmp_path) == ["run.sqlite"]


HOLD = """
import sys, time
from chatanywhere._batch.journal import Journal
journal = Journal(sys.argv[1], time.time)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_journal_that_another_process_holds_is_refused(tmp_path: Path) -> None:
    """The message has its number; when it is killed, the journal is free at once."""
    file = tmp_path / "run.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(Path(chatanywhere.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert process.stdin
    assert process.stdout
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RuntimeError, match=f"is held by process {process.pid} on "):
            opened(file)
        process.kill()
        process.wait()
    opened(file).close()


FORK = """
import os, sys, time
from chatanywhere._batch.journal import Journal
journal = Journal(sys.argv[1], time.time)
if not os.fork():
    print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_does_not_hold_a_journal_longer_than_its_parent(tmp_path: Path) -> None:
    """When the parent is killed, its journal is free, though the child lives on."""
    file = tmp_path / "run.sqlite"
    environment = {**os.environ, "PYTHONPATH": str(Path(chatanywhere.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORK, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
    )
    assert process.stdin
    assert process.stdout
    with process.stdin, process.stdout:
        assert process.stdout.readline() == b"held\n"
        process.kill()
        process.wait()
        opened(file).close()


def test_a_path_that_can_t_be_a_file_says_so(tmp_path: Path) -> None:
    """The system's own error, which names the path."""
    with pytest.raises(OSError, match="missing/run"):
        opened(tmp_path / "missing" / "run.sqlite")


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_is_no_journal(kind: str, tmp_path: Path) -> None:
    """Nobody waits for the other end of a pipe, and nothing is made beside it."""
    path = tmp_path / "notes"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe" and hasattr(os, "mkfifo"):
        os.mkfifo(path)
    elif kind == "device" and os.path.exists(os.devnull):
        path.symlink_to(os.devnull)
    else:
        pytest.skip("there is none")
    with pytest.raises(ValueError, match="notes is no journal"):
        opened(path)
    assert os.listdir(tmp_path) == ["notes"]


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_what_names_no_file_is_refused(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would keep it nowhere, and a file of that name is not what is wanted."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="leave journal= out"):
        opened(path)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_full_before_the_journal_is_there_leaves_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file; when there is room again, the journal can be made."""

    def write(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(lock.os, "write", write)
    with pytest.raises(OSError, match=r"No space left .*run\.sqlite\.lock"):
        opened(tmp_path / "run.sqlite")
    monkeypatch.undo()
    assert os.listdir(tmp_path) == []
    opened(tmp_path / "run.sqlite").close()


def test_a_file_system_without_locks_is_not_held_by_anybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some network file systems are: the error says what is missing."""

    def no_lock(file: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock, "_lock", no_lock)
    with pytest.raises(OSError, match=r"no locks: No locks available.*run\.sqlite\.lock"):
        opened(tmp_path / "run.sqlite")


def test_a_request_that_is_refused_after_midnight_is_none_of_the_day_before(tmp_path: Path) -> None:
    """It counts for the minute in which it was sent, and for no day."""
    now = [86400.0 - 1]
    journal = Journal(tmp_path / "run.sqlite", lambda: now[0])
    for number in range(3):
        journal.send(b"k", number, "m", nothing)
    now[0] += 2
    journal.refuse(b"k", 0, "m")
    journal.close()
    journal = opened(tmp_path / "run.sqlite")
    assert journal.spent_since(86400) == []
    assert journal.spent_since(0) == [Minute(86340.0, 3, 1, 0)]
    journal.close()


def test_a_network_file_system_gets_a_warning_and_no_wal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """WAL needs memory that is shared, which two machines have not."""
    monkeypatch.setattr(journal_module, "is_on_network", lambda path: True)
    file = tmp_path / "run.sqlite"
    with pytest.warns(UserWarning, match="network file system"):
        journal = opened(file)
    done = threading.Event()
    journal.send(b"k", 0, "m", done.set)
    journal.flush()
    assert done.wait(20)
    assert journal.find(b"k", 0) is not None
    assert journal._writing.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    journal.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_file_systems_are_known_by_the_mount_that_is_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest mount point above the file decides."""
    mounts = "\n".join(
        [
            "/dev/vda / ext4 rw 0 0",
            "server:/x /mnt/share\\040one nfs4 rw 0 0",
            "tmpfs /mnt/share\\040one/ram tmpfs rw 0 0",
        ]
    )
    listing = tmp_path / "mounts"
    listing.write_text(mounts + "\n")
    real = open

    def redirected(name: Any, *args: Any, **kwargs: Any) -> Any:
        return real(listing if name == "/proc/self/mounts" else name, *args, **kwargs)

    monkeypatch.setattr("builtins.open", redirected)
    on_network = journal_module.is_on_network
    assert [on_network(path) for path in ("/a", "/mnt/share one/a", "/mnt/share one/ram/a", "/mnt/share one more")] == [
        False,
        True,
        False,
        False,
    ]


def test_a_full_disk_hands_out_nothing_that_is_not_kept(tmp_path: Path) -> None:
    """The run ends with an `OSError` that says so, and what was handed out is in the journal."""
    file = tmp_path / "run.sqlite"
    with LoopbackServer(lambda request: "word " * 200) as server:
        run = Client("k", base_url=server.url).map((str(number) for number in range(500)), journal=file, concurrency=4)
        assert run._runner._journal is not None
        run._runner._journal._writing.execute("PRAGMA max_page_count = 40")
        results, error = take_all(run)
    assert isinstance(error, OSError)
    assert "run.sqlite can't be used: database or disk is full" in str(error)
    states = Counter(opened_state(file))
    assert 0 < len(results) <= states["done"] < 500


def test_an_answer_that_is_shared_is_not_handed_out_before_its_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt that comes when an equal one has its answer, which can't be kept, has none either."""
    commit = Journal._commit

    def full(self: Journal, entries: Any) -> None:
        entries = list(entries)
        if any("done" in (entry.row or ()) for entry in entries):
            while run.progress.done < 2:
                time.sleep(0.01)
            raise sqlite3.OperationalError("database or disk is full")
        commit(self, entries)

    def prompts() -> Iterator[str]:
        yield "a"
        while run.progress.done < 1:
            time.sleep(0.01)
        yield "a"

    monkeypatch.setattr(Journal, "_commit", full)
    with LoopbackServer() as server:
        run = Client("k", base_url=server.url).map(prompts(), journal=tmp_path / "j", reuse=True)
        results, error = take_all(run)
    assert results == []
    assert "disk is full" in str(error)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a file that is open")
@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_is_removed_hands_out_nothing_more(replaced: bool, tmp_path: Path) -> None:
    """Nothing is committed then that anybody could find again, so the run ends with an `OSError`."""
    file = tmp_path / "run.sqlite"

    def remove(result: Result) -> None:
        if result.index == 20:
            file.unlink()
            if replaced:
                file.touch()

    with LoopbackServer() as server:
        run = Client("k", base_url=server.url).map(map(str, range(500)), journal=file, concurrency=4)
        results, error = take_all(run, remove)
    assert isinstance(error, OSError)
    assert re.search(r"run\.sqlite can't be used: .*(No such|its place)", str(error))
    assert len(results) < 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_is_its_process_s_own(tmp_path: Path) -> None:
    """A forked child can't iterate or end it, is told who holds its journal, and makes runs of its own."""
    with LoopbackServer() as server:
        client = Client("k", base_url=server.url)
        with client.map(map(str, range(100)), ahead=20, journal=tmp_path / "run.sqlite") as run:
            next(run)
            told, say = os.pipe()
            child = os.fork()
            if not child:
                words: list[str] = []
                for attempt in (lambda: next(run), lambda: list(client.map(["a"], journal=tmp_path / "run.sqlite"))):
                    try:
                        attempt()
                    except RuntimeError as error:
                        words.append(str(error))
                run.close()
                words.append(str(len(list(client.map(["a"], journal=tmp_path / "other")))))
                os.write(say, json.dumps(words).encode())
                os._exit(0)
            os.waitpid(child, 0)
            words = json.loads(os.read(told, 10_000))
            os.close(told)
            os.close(say)
            assert "call map() in the new process" in words[0]
            assert f"is held by process {os.getpid()} on " in words[1]
            assert words[2] == "1"
            assert len(list(run)) == 99


def test_what_the_journal_cannot_keep_ends_the_run(tmp_path: Path) -> None:
    """A name that is no text is told as an error, and nobody waits for ever."""
    with LoopbackServer() as server:
        run = Client("k", base_url=server.url).map(["a", {"prompt": "b", "model": "\ud800"}], journal=tmp_path / "j")
        results, error = take_all(run)
        assert isinstance(error, OSError)
        assert "can't be used: 'utf-8' codec can't encode" in str(error)
        assert len(results) <= 1
    opened(tmp_path / "j").close()


def test_a_journal_that_cannot_tell_what_was_spent_is_not_held(tmp_path: Path) -> None:
    """The error names the file, whose lock is free."""
    file = tmp_path / "run.sqlite"
    opened(file).close()
    connection = sqlite3.connect(file)
    connection.execute("DROP TABLE spent")
    connection.close()
    for _ in range(2):
        with pytest.raises(OSError, match=r"run\.sqlite can't be used: no such table"):
            Client("k", base_url="http://127.0.0.1:9").map(["a"], journal=file)


# What is written of answers and errors


def test_an_answer_is_read_as_it_was_written() -> None:
    """All that it has: tool calls, thoughts, choices, usage, and what the service said besides."""
    call = ToolCall("c1", "f", "{}", extra={"x": 1})
    replies: list[Any] = [
        "Hello",
        "",
        Reply("Hi \ud83d\ude00 你好", reasoning="hm"),
        Reply(tool_calls=[("f", {"a": 1})]),
    ]
    with LoopbackServer(replies * 2) as server:
        client = Client("k", base_url=server.url)
        answers = [client.complete("x", stream=stream) for stream in (True, False) for _ in replies]
    answers += [
        Completion("text of the web protocol"),
        Completion("a", tool_calls=(call,), usage=Usage(1, 2, 3, 1, 1), refusal="no"),
        Completion("a", choices=(Choice(0, "a", logprobs={"content": []}), Choice(1, "b", tool_calls=(call,)))),
        Completion("a", choices=(Choice(0, "a", logprobs={"content": [{"token": "a"}]}),)),
    ]
    for answer in answers:
        again = loaded(dumped(answer))
        assert again == answer
        assert again.raw == answer.raw
        assert again.message == answer.message
        assert dumped(again) == dumped(answer)


def test_an_error_is_read_as_it_was_written() -> None:
    """Its class, its words, and what a program asks it for; another's error becomes one of this package's."""
    status = QuotaExceededError("spent", status_code=429, code="quota", body={"a": 1}, hint="wait")
    status.retry_after, status.request_id, status.attempts = 5.0, "r1", 2
    output = OutputError("does not fit", "invalid", Completion("{"))
    for error in (status, RateLimitError("slow", status_code=429), APITimeoutError("late", "read"), output):
        again = loaded_error(dumped_error(error))
        assert type(again) is type(error)
        assert str(again) == str(error)
        for name in ("partial", "attempts", "request_id", "code", "hint", "retry_after", "phase", "reason"):
            assert getattr(again, name, None) == getattr(error, name, None)
    assert isinstance(loaded_error(dumped_error(output)), OutputError)
    other = loaded_error(dumped_error(KeyError("x")))
    assert type(other) is ChatAnywhereError
    assert str(other) == "KeyError: 'x'"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"chunks": "?"}',
        '{"chunks": "AAAA"}',
        '{"usage": 5}',
        '{"tool_calls": [{"a": 1}]}',
        '{"nothing": 1}',
    ],
)
def test_what_is_no_answer_is_a_value_error(text: str) -> None:
    """A journal that somebody has edited is no reason for a crash of another kind."""
    with pytest.raises(ValueError, match=r"."):
        loaded(text)


@pytest.mark.parametrize(
    "told", [[], {}, {"type": "APITimeoutError", "words": "x"}, {"type": "APIStatusError", "words": "x"}]
)
def test_what_is_no_error_is_a_value_error(told: Any) -> None:
    """The same for what has failed."""
    with pytest.raises(ValueError, match="no error there"):
        loaded_error(json.dumps(told))


def test_a_class_is_taken_from_the_error_tree_only() -> None:
    """The name in the file chooses among this package's errors, and nothing else is made of it."""
    for name in ("Mapping", "annotations", "TYPE_CHECKING", "object", "SystemExit"):
        assert type(loaded_error(json.dumps({"type": name, "words": "w"}))) is ChatAnywhereError
    assert issubclass(APIStatusError, ChatAnywhereError)
