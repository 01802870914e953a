"""Files that go with a question."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from chatanywhere import image
from chatanywhere._attachment import parts_of

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("notes.txt", b"Hello", "Hello"),
        ("picture.png", "天气".encode(), "天气"),
        ("bom.csv", b"\xef\xbb\xbfa,b\r\n", "a,b\r\n"),
        ("windows.txt", "Hi\r\n".encode("utf-16"), "Hi\r\n"),
        ("empty.py", b"", ""),
    ],
)
def test_text_goes_along_with_its_name(tmp_path: Path, name: str, content: bytes, text: str) -> None:
    """What a file is, its content says and not its ending."""
    (tmp_path / name).write_bytes(content)
    part = {"type": "text", "text": f"{name}:\n{text}"}
    assert parts_of([tmp_path / name, str(tmp_path / name), (name, content)]) == [part] * 3


@pytest.mark.parametrize("content", [PNG, b"\xff\xd8\xff\xe0", b"GIF89a", b"RIFF1234WEBP\xff"])
def test_pictures_go_along_as_pictures(tmp_path: Path, content: bytes) -> None:
    """A picture is known by its first bytes, whatever its name."""
    path = tmp_path / "picture.txt"
    path.write_bytes(content)
    if content == b"GIF89a":
        assert parts_of([path])[0]["type"] == "text"  # which it is, too
        content += b"\x00"
        path.write_bytes(content)
    assert parts_of([path]) == [image(content)]
    assert base64.b64encode(content).decode() in parts_of([path])[0]["image_url"]["url"]


def test_a_url_is_that_of_a_picture() -> None:
    """The service fetches it."""
    assert parts_of(["https://example.org/cat.png"]) == [image("https://example.org/cat.png")]


@pytest.mark.parametrize("content", [b"\x00\x01", b"\x7fELF\xff", b"%PDF-1.4 \xe2", b"\xff\xfea"])
def test_what_is_neither_is_told(tmp_path: Path, content: bytes) -> None:
    """A file of another kind is a ValueError that names it and what there may be."""
    path = tmp_path / "thing.bin"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"thing\.bin is neither text in UTF-8 nor a picture: no PNG, JPEG"):
        parts_of([path])


def test_a_file_that_is_too_large_is_told(tmp_path: Path) -> None:
    """More than 20 MiB are neither sent nor read."""
    path = tmp_path / "large.txt"
    with path.open("wb") as file:
        file.truncate(20 * 1024 * 1024 + 1)
    with pytest.raises(ValueError, match=r"large\.txt has more than 20971520 bytes"):
        parts_of([path])


def test_what_is_missing_is_an_error_of_the_system(tmp_path: Path) -> None:
    """The error is that of opening the file."""
    with pytest.raises(FileNotFoundError):
        parts_of([tmp_path / "missing"])
    with pytest.raises(OSError):
        parts_of([tmp_path])


@pytest.mark.parametrize("files", ["notes.txt", b"x", Path("notes.txt"), 5, None])
def test_files_are_a_list(files: Any) -> None:
    """One path alone, whose characters would be files, is a TypeError that names the remedy."""
    with pytest.raises(TypeError, match=r"files=\[path\]"):
        parts_of(files)


@pytest.mark.parametrize("file", [5, ("a",), ("a", "b"), (b"a", b"b"), None, b"x"])
def test_a_file_is_a_path_or_a_name_and_bytes(file: Any) -> None:
    """Anything else is a TypeError with its index."""
    with pytest.raises(TypeError, match=r"files\[1\] must be a path"):
        parts_of([("a", b""), file])
