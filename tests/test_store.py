"""Conversations on disk: nothing is lost by what goes wrong, and nothing is left of what is removed."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from chatanywhere._store import Store, StoreError, history_path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a database may be."""
    return tmp_path / "data" / "history.sqlite3"


def say(store: Store, conversation: str, question: str, answer: str, *, status: str = "complete") -> int:
    """Store a turn, and return the id of the answer."""
    head = store.find(conversation).head
    asked = store.add(conversation, [{"role": "user", "content": question}], after=head)
    kept = store.answer(conversation, after=asked)
    kept.finish(status, content=answer)
    return kept.id


def test_a_cut_turn_is_a_branch_of_its_own(path: Path) -> None:
    """The head stays at the last complete turn, and the last message is the cut one until something follows."""
    with Store(path) as store:
        id_ = store.begin("title")
        first = say(store, id_, "1", "one")
        cut = say(store, id_, "2", "tw", status="cut")
        assert (store.find(id_).head, store.find(id_).last) == (first, cut)
        assert [each.text for each in store.messages(cut)] == ["1", "one", "2", "tw"]
        third = say(store, id_, "3", "three")
        assert [each.text for each in store.messages(third)] == ["1", "one", "3", "three"]
        store.go_back(id_, first)
        assert store.find(id_).messages == 2
        assert len(store.search("three")) == 1


MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "See"}, {"type": "text", "text": "this"}]},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f"}}]},
    {"role": "tool", "content": "{}", "tool_call_id": "1"},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,not base64"}}]},
    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "attachment:unknown"}}]},
    {"role": "assistant", "content": None, "refusal": "No."},
    {"role": "assistant", "content": "天气\0\x1b[31m", "tool_calls": []},
    {"role": "user", "content": [{"type": "text", "text": f"data:{kind};base64,aGk="} for kind in ("a/b", "c/d")]},
]


@pytest.mark.parametrize("message", MESSAGES, ids=str)
def test_a_message_comes_back_as_it_was(path: Path, message: dict[str, Any]) -> None:
    """Parts, pictures, tool calls and all that it has besides; a picture is stored once."""
    with Store(path) as store:
        id_ = store.begin("")
        last = store.add(id_, [message, message], after=None)
        assert [each.message for each in store.messages(last)] == [message] * 2
    with Store(path, writing=False) as store:
        assert [each.message for each in store.messages(last)] == [message] * 2


def test_half_a_character_does_not_break_it(path: Path) -> None:
    """What UTF-8 has no bytes for becomes a question mark, and is found by one."""
    with Store(path) as store:
        id_ = store.begin("a\ud83d")
        assert store.find(id_).title == "a?"
        assert len(store.search("A\ud83d")) == 1
        with pytest.raises(ValueError, match="no conversation begins"):
            store.find("\ud83d")


@pytest.mark.parametrize("text", ["100% sure", "a_b", "今天天气好", "Straße", "nul\0inside", "it's", "É", "a\\b", '"'])
def test_what_was_said_is_found(text: str) -> None:
    """By each two characters of it, in either case; no character means another one."""
    with Store() as store:
        found, other = store.begin(""), store.begin("")
        say(store, found, text, "yes")
        say(store, other, "xyz", "no")
        for place in range(max(1, len(text) - 1)):
            part = text[place : place + 2]
            for each in (part, part.upper(), part.lower()):
                assert [one.id for one in store.search(each)] == [found]


def test_a_second_store_of_a_process_loses_nothing(path: Path) -> None:
    """Opening and closing one does not free the locks of another, on which a third process would empty the log."""
    code = "import sys, pathlib; from chatanywhere._store import Store; Store(pathlib.Path(sys.argv[1])).close()"
    with Store(path) as store:
        store.begin("one")
        with Store(path):
            subprocess.run([sys.executable, "-c", code, path], check=True)
            store.begin("two")
        subprocess.run([sys.executable, "-c", code, path], check=True)
        store.begin("three")
    with Store(path) as store:
        assert [each.title for each in store.search()] == ["three", "two", "one"]


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
def test_what_is_not_ours_is_left_alone(path: Path) -> None:
    """Another program's database, another file and a device are refused, and their modes and contents stay."""
    path.parent.mkdir()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE notes (text)")
    text, pipe = path.with_name("text"), path.with_name("pipe")
    text.write_text("not a database" * 100, encoding="utf-8")
    os.mkfifo(pipe)
    for each in (path, text, pipe):
        each.chmod(0o664)
        content = each.read_bytes() if each.is_file() else b""
        with pytest.raises(StoreError, match=r"another program's database|not a database|not a file"):
            Store(each)
        assert stat.S_IMODE(each.stat().st_mode) == 0o664
        assert not each.is_file() or each.read_bytes() == content
    assert sorted(each.name for each in path.parent.iterdir()) == ["history.sqlite3", "pipe", "text"]


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
def test_only_the_owner_can_read_a_database(path: Path) -> None:
    """Its mode is 0600 and its folder's 0700, and one that others could read is closed to them, with its log."""
    with Store(path) as store:
        store.begin("title")
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        for each in path.parent.iterdir():
            assert stat.S_IMODE(each.stat().st_mode) == 0o600
    path.chmod(0o644)
    with Store(path):
        for each in path.parent.iterdir():
            assert stat.S_IMODE(each.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "change",
    [
        *(f"UPDATE messages SET fields = '{each}'" for each in ("{", "[1]", "5")),
        *("UPDATE messages SET tool_calls = '{'", "UPDATE messages SET milliseconds = 'x'"),
        *("UPDATE messages SET content = CAST(x'ff' AS TEXT)", "UPDATE conversations SET title = CAST(x'ff' AS TEXT)"),
        *("UPDATE attachments SET content = 'x'", "ALTER TABLE messages DROP COLUMN host", "DROP TABLE messages"),
    ],
)
def test_a_damaged_database_is_told(path: Path, change: str) -> None:
    """Whatever is in its place, reading it is a StoreError that names the file."""
    with Store(path) as store:
        last = store.add(store.begin("title"), [MESSAGES[4]], after=None)
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(change)
        with pytest.raises(StoreError, match=r"history\.sqlite3 can't be used"):  # noqa: PT012  one of them
            store.messages(last)
            store.search()


def test_messages_in_a_circle_come_to_an_end(path: Path) -> None:
    """A message that follows itself in a damaged database is not followed for ever."""
    with Store(path) as store:
        id_ = store.begin("title")
        last = say(store, id_, "1", "one")
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute("UPDATE messages SET parent = ? WHERE id = ?", (last, last - 1))
        assert len(store.messages(last)) == store.find(id_).messages == 2


def test_bytes_that_are_wrong_are_told(path: Path) -> None:
    """Wherever a file is damaged or cut, nothing but a StoreError comes of opening and reading it."""
    with Store(path) as store:
        last = store.add(store.begin("title"), MESSAGES, after=None)
    content = path.read_bytes()
    places = random.Random(0)
    told = 0
    for number in range(120):
        damaged = bytearray(content)
        for _ in range(places.choice([1, 20])):
            damaged[places.randrange(len(damaged) if number % 2 else 4096)] = places.randrange(256)
        path.write_bytes(damaged[: places.choice([None, None, None, places.randrange(len(damaged))])])
        try:
            with Store(path, writing=False) as store:
                store.messages(last)
                store.search("天气")
        except StoreError:
            told += 1
    assert told > 20


def test_nothing_is_left_of_what_a_killed_program_stored(path: Path) -> None:
    """A conversation is removed from the file and its log, with what was saved over and over, and its pictures."""
    code = (
        "import sys, pathlib; from chatanywhere._store import Store\n"
        "store = Store(pathlib.Path(sys.argv[1])); id_ = store.begin('SECRET')\n"
        "url = 'data:image/png;base64,' + 'U0VDUkVU' * 9000\n"
        "content = [{'type': 'text', 'text': 'SECRET' * 999}, {'type': 'image_url', 'image_url': {'url': url}}]\n"
        "kept = store.answer(id_, after=store.add(id_, [{'role': 'user', 'content': content}], after=None))\n"
        "for number in range(99): store.update(kept.id, content='SECRET' * number * 7)\n"
        "print(id_, flush=True); sys.stdin.read()"
    )
    with Store(path) as store:
        say(store, store.begin("other"), "stays" * 999, "")
    command = [sys.executable, "-c", code, path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        id_ = program.stdout.readline().strip()
        program.kill()
    assert any(b"SECRET" in each.read_bytes() for each in path.parent.iterdir())
    with Store(path) as store:
        assert store.find(id_).messages == 2
        store.remove([id_])
        assert not any(b"SECRET" in each.read_bytes() for each in path.parent.iterdir())
        assert len(store.search("stays")) == 1


@pytest.mark.skipif(os.name != "posix", reason="needs another way to lock")
def test_a_file_system_without_shared_memory_will_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there can be no log beside the file, it is stored without one, and nothing is left of it either."""
    connect = sqlite3.connect

    def without_log(name: str, *, uri: bool, **options: Any) -> sqlite3.Connection:
        name = name if uri else f"{Path(name).as_uri()}?mode=rwc"
        return connect(f"{name}&vfs=unix-dotfile", uri=True, **options)

    monkeypatch.setattr(sqlite3, "connect", without_log)
    with Store(path) as store:
        id_ = store.begin("SECRET")
        assert not path.with_name(f"{path.name}-wal").exists()
        with Store(path, writing=False) as other:
            assert other.find(id_).title == "SECRET"
        store.remove([id_])
    assert [b"SECRET" in each.read_bytes() for each in path.parent.iterdir()] == [False]


def test_an_answer_is_saved_while_it_is_silent(path: Path) -> None:
    """What has come is in the database a second later, without another piece."""
    with Store(path) as store, Store(path, writing=False) as other:
        kept = store.answer(store.begin(""), after=None)
        kept.follow(lambda: ("half", "why"))
        deadline = threading.Event()
        for _ in range(40):
            (message,) = other.messages(kept.id)
            if message.text or deadline.wait(0.05):
                break
        assert (message.text, message.reasoning, message.status) == ("half", "why", "streaming")
        kept.finish("cut", content="half an answer")
        assert other.messages(kept.id)[0].text == "half an answer"


def test_a_database_in_memory_is_like_one_on_disk() -> None:
    """It is gone with the process."""
    with Store() as store:
        id_ = store.begin("title")
        say(store, id_, "1", "one")
        assert store.questions() == ["1"]
        store.remove([id_])
        assert store.last() is None


def test_a_reader_that_is_in_the_way_of_removing_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log can't be emptied while another program reads an older state."""
    monkeypatch.setattr("chatanywhere._store.database._PATIENCE", 0.1)
    with Store(path) as store:
        id_ = store.begin("title")
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM conversations").fetchall()
        with pytest.raises(StoreError, match="another program reads"):
            store.remove([id_])
        reader.close()
        assert store.last() is None


def test_a_writer_that_does_not_end_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for, and then the error names the file."""
    monkeypatch.setattr("chatanywhere._store.database._PATIENCE", 0.1)
    with Store(path) as store:
        writer = sqlite3.connect(path, isolation_level=None)
        writer.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match=r"history\.sqlite3 can't be used: .*locked"):
            store.begin("title")
        writer.close()
        assert store.begin("title")


def test_without_platformdirs_the_place_has_to_be_named(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """The message says how."""
    monkeypatch.delenv("CHATANYWHERE_HISTORY", raising=False)
    monkeypatch.setitem(sys.modules, "platformdirs", None)
    with pytest.raises(StoreError, match=r"chatanywhere\[cli\]"):
        history_path()
    monkeypatch.setenv("CHATANYWHERE_HISTORY", str(path))
    assert history_path() == path
    monkeypatch.setenv("CHATANYWHERE_HISTORY", "OFF")
    assert history_path() is None
    monkeypatch.setenv("CHATANYWHERE_HISTORY", "~nobody-of-this-name/history")
    with pytest.raises(StoreError, match="no such home folder"):
        history_path()
