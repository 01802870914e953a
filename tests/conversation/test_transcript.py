"""Conversations as files: what is written is read back, and what is damaged is told."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from chatanywhere._conversation.transcript import from_json, from_markdown, read, to_json, to_markdown, write

MARKS = [
    *("## User", "## Assistant ", "\\## User", "\\\\## Tool", "### Text", "### Picture", "### Part", "# Unfinished"),
    *("```json fields", "```json message", "```", "---", "chatanywhere: 1", "## Message", "![](x)", "{}", "## user"),
]
"""Lines that mean something in a file, or nearly."""

LINES = (
    st.sampled_from(MARKS) | st.text(max_size=8) | st.sampled_from(["", " ", "\r", "\t", "\ud83d", "\u2028", "天气"])
)
TEXTS = st.lists(LINES, max_size=6).map("\n".join)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)
PARTS = (
    st.builds(lambda text: {"type": "text", "text": text}, TEXTS)
    | st.builds(
        lambda url: {"type": "image_url", "image_url": {"url": url}},
        TEXTS | st.sampled_from(["https://example.org/cat.png", "data:image/png;base64,aGk=", "a b", ")"]),
    )
    | st.dictionaries(TEXTS, JSON, max_size=3)
)
MESSAGES = st.builds(
    lambda role, content, others: {**others, "role": role, **content},
    st.sampled_from(["system", "developer", "user", "assistant", "tool", "function"]) | TEXTS,
    st.builds(lambda content: {"content": content}, TEXTS | st.none() | st.lists(PARTS, max_size=3) | JSON)
    | st.just({}),
    st.dictionaries(st.sampled_from(["name", "tool_call_id", "tool_calls", "refusal", "content "]), JSON, max_size=2),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "model": st.text() | st.lists(st.text(), min_size=1),
        "max_messages": st.integers(1),
        "max_chars": st.integers(1),
        "options": st.dictionaries(TEXTS, JSON, max_size=2),
        "finish_reason": TEXTS,
        "replaces": st.integers(0, 9),
        "unfinished": st.fixed_dictionaries({"messages": st.lists(MESSAGES, min_size=1, max_size=3), "text": TEXTS}),
    },
)
RECORDS = st.builds(
    lambda settings, messages: {**settings, "messages": messages}, SETTINGS, st.lists(MESSAGES, max_size=4)
)


@settings(max_examples=60)
@given(record=RECORDS)
@example(record={"messages": [{"role": "user", "content": "## User\n\n"}, {"role": "user", "content": "\n"}]})
@example(record={"messages": [{"role": "user", "content": text} for text in MARKS]})
@example(record={"messages": [{"role": "user", "content": ""}]})
def test_what_is_written_reads_back(record: dict[str, Any]) -> None:
    """Whatever a conversation holds, it is the same when its Markdown, or its JSON, has been read."""
    for written, read_back in ((to_markdown, from_markdown), (to_json, from_json)):
        content = written(record).encode("utf-8", "backslashreplace")  # as it is written to files
        assert read_back(content.decode()) == record


RECORD: dict[str, Any] = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}]},
        {"role": "assistant", "content": "## User is a heading.\n\n```python\nx < 1\n```"},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ],
}


def test_markdown_reads_well() -> None:
    """Messages stand under their roles as they are, and what is no text is JSON below that."""
    assert (
        to_markdown(RECORD)
        == """---
chatanywhere: 1
model: "gpt-4o-mini"
---

## System

Be brief.

## User

### Text

What is this?

## Assistant

## User is a heading.

```python
x < 1
```

## Tool

```json fields
{
  "tool_call_id": "call_1"
}
```

sunny
"""
    )


def test_what_was_edited_by_hand_is_read() -> None:
    """Blank lines may be missing, and line ends and a byte order mark may be those of Windows."""
    text = "---\nchatanywhere: 1\n---\n## User\nHello\n## Assistant\n\nHi"
    messages = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    assert from_markdown(text)["messages"] == messages
    assert from_markdown(text.replace("\n", "\r\n"))["messages"] == messages


@pytest.mark.parametrize("ending", [".md", ".markdown", ".json", ".MD"])
def test_a_file_reads_back(tmp_path: Path, ending: str) -> None:
    """The ending says the format, in capitals too."""
    path = tmp_path / f"talk{ending}"
    write(path, RECORD)
    assert read(path) == RECORD
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(path) == RECORD


@pytest.mark.skipif(os.name != "posix", reason="needs modes")
def test_only_the_owner_can_read_a_new_file(tmp_path: Path) -> None:
    """Its mode is 0600; one that is there keeps its mode, and a link is followed."""
    path = tmp_path / "talk.md"
    write(path, RECORD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    link = tmp_path / "link.md"
    link.symlink_to(path)
    write(link, {"messages": []})
    assert link.is_symlink()
    assert read(path) == {"messages": []}
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_failure_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was there stays when a file can't be written, and nothing is left behind."""
    path = tmp_path / "talk.md"
    write(path, RECORD)

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write(path, {"messages": []})
    assert read(path) == RECORD
    assert [each.name for each in tmp_path.iterdir()] == ["talk.md"]


@pytest.mark.parametrize("name", ["talk", "talk.txt", ".md", "talk.md.gz"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    """The error names the endings that there are."""
    for function in (read, lambda path: write(path, RECORD)):
        with pytest.raises(ValueError, match=r"\.md, \.markdown, \.json"):
            function(tmp_path / name)
    assert not list(tmp_path.iterdir())


NO_CONVERSATIONS = {
    "empty": "",
    "some Markdown": "# Title\n\nText\n",
    "front matter of another": "---\ntitle: Hello\n---\n\nText\n",
    "another's keys": '---\ntitle: "Hello"\n---\n',
    "a newer version": "---\nchatanywhere: 2\n---\n",
    "text without a role": "---\nchatanywhere: 1\n---\n\nHello\n",
    "JSON that is cut": '---\nchatanywhere: 1\n---\n\n## User\n\n```json fields\n{"name": \n',
    "fields that are none": "---\nchatanywhere: 1\n---\n\n## User\n\n```json fields\n[1]\n```\n\nHello\n",
    "text before the fields": "---\nchatanywhere: 1\n---\n\n## User\n\nHi\n\n```json fields\n{}\n```\n",
    "text behind a message": "---\nchatanywhere: 1\n---\n\n## User\n\n```json message\n{}\n```\n\nHi\n",
    "text before a part": "---\nchatanywhere: 1\n---\n\n## User\n\nHi\n\n### Text\n\nHi\n",
    "a picture that is none": "---\nchatanywhere: 1\n---\n\n## User\n\n### Picture\n\nHi\n",
    "a part that is none": "---\nchatanywhere: 1\n---\n\n## User\n\n### Part\n\n```json\n1\n```\n",
    "a message without a role": "---\nchatanywhere: 1\n---\n\n## Message\n\n```json message\n{}\n```\n",
    "an unfinished turn without a text": "---\nchatanywhere: 1\n---\n# Unfinished\n## User\n```json message\n{}\n```\n",
    "an unfinished turn without a question": "---\nchatanywhere: 1\n---\n\n# Unfinished\n\n## Assistant\n\nHi\n",
    "an empty unfinished turn": "---\nchatanywhere: 1\n---\n\n# Unfinished\n",
    "a model that is none": "---\nchatanywhere: 1\nmodel: 5\n---\n",
    "a model without a name": '---\nchatanywhere: 1\nmodel: ["a", ""]\n---\n',
    "options that are none": "---\nchatanywhere: 1\noptions: []\n---\n",
    "NaN": "---\nchatanywhere: 1\nmodel: NaN\n---\n",
    "depth": "---\nchatanywhere: 1\noptions: " + "[" * 100_000 + "\n---\n",
}


@pytest.mark.parametrize("text", NO_CONVERSATIONS.values(), ids=NO_CONVERSATIONS)
def test_a_damaged_file_is_told(tmp_path: Path, text: str) -> None:
    """A file of another kind, and one that is damaged, is a ValueError that names it."""
    path = tmp_path / "talk.md"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"talk\.md is no conversation that save\(\) has written"):
        read(path)


@pytest.mark.parametrize(
    "value",
    [1, [], {}, {"messages": []}, {"chatanywhere": 1}, {"chatanywhere": 1, "messages": [{}]}, {"chatanywhere": "1"}]
    + [{"chatanywhere": 1, "messages": [], "unfinished": each} for each in (None, [], {}, {"text": "", "messages": 1})],
    ids=json.dumps,
)
def test_other_json_is_told(tmp_path: Path, value: Any) -> None:
    """JSON that is no conversation is a ValueError that names the file."""
    path = tmp_path / "talk.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(ValueError, match=r"talk\.json is no conversation"):
        read(path)


@given(content=st.binary(max_size=60) | st.text().map(lambda text: f"---\nchatanywhere: 1\n---\n{text}".encode()))
def test_any_bytes_are_read_or_told(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """Nothing but a ValueError comes of a file, whatever is in it."""
    for ending in (".md", ".json"):
        path = tmp_path_factory.getbasetemp() / f"any-{os.getpid()}{ending}"
        path.write_bytes(content)
        told = ""
        try:
            read(path)
        except ValueError as error:
            told = str(error)
        assert not told or str(path) in told


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file beyond the limit is told, and not held."""
    path = tmp_path / "talk.json"
    path.write_bytes(b"x" * 11)
    monkeypatch.setattr(sys.modules["chatanywhere._conversation.transcript"], "MAX_FILE", 10)
    with pytest.raises(ValueError, match="more than 10 bytes"):
        read(path)
