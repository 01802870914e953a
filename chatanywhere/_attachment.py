"""Files that go with a question, as parts of its message. Sends nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any, TypeAlias

from ._picture import image

MAX_FILE = 20 * 1024 * 1024
"""Bytes that a file may have; services take no larger pictures, and no model reads so much text."""

FileLike: TypeAlias = "str | os.PathLike[str] | tuple[str, bytes]"
"""The path of a file, or a name and what the file of that name holds; or the URL of a picture."""

_URL = re.compile("(https?|data):", re.IGNORECASE)


def parts_of(files: Iterable[FileLike]) -> list[dict[str, Any]]:
    """Return files as parts of a message's content, each by what it holds: a picture, or a text with its name.

    Raises:
        TypeError: this is no list of files.
        ValueError: a file is neither text nor a picture, or too large.
        OSError: it can't be read.
    """
    if isinstance(files, (str, bytes, os.PathLike)) or not isinstance(files, Iterable):
        raise TypeError(f"files must be a list of paths, not {type(files).__name__}: use files=[path]")
    return [_part(file, index) for index, file in enumerate(files)]


def _part(file: Any, index: int) -> dict[str, Any]:
    if isinstance(file, str) and _URL.match(file):
        return image(file)
    if isinstance(file, (str, os.PathLike)):
        name = os.fsdecode(os.path.basename(file))
        with open(file, "rb") as opened:
            content = opened.read(MAX_FILE + 1)
    elif isinstance(file, tuple) and len(file) == 2 and isinstance(file[0], str) and isinstance(file[1], bytes):
        name, content = file
    else:
        raise TypeError(f"files[{index}] must be a path or (name, bytes), not {type(file).__name__}")
    if len(content) > MAX_FILE:
        raise ValueError(f"{name} has more than {MAX_FILE} bytes: give a part of it")
    text = _text(content)
    if text is not None:
        return {"type": "text", "text": f"{name}:\n{text}"}
    try:
        return image(content)
    except ValueError as exc:
        raise ValueError(f"{name} is neither text in UTF-8 nor a picture: {exc}") from exc


def _text(content: bytes) -> str | None:
    """The text of a file, None if it holds something else."""
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text
