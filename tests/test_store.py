"""Conversations on disk: nothing is lost by what goes wrong, and nothing is left of what is removed."""

from __future__ import annotations

import sqlite3
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
    """What UTF-8 has no bytes for becomes a question mark."""
    with Store(path) as store:
        id_ = store.begin("a\ud83d")
        assert store.find(id_).title == "a?"


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
    monkeypatch.setattr("chatanywhere._store._PATIENCE", 0.1)
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
    monkeypatch.setattr("chatanywhere._store._PATIENCE", 0.1)
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
