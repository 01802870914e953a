"""Pictures as parts of a message, from what programs have them in. Sends nothing."""

from __future__ import annotations

import base64
import io
import os
import re
from typing import Any, BinaryIO, Protocol, TypeAlias

MAX_PICTURE = 20 * 1024 * 1024
"""Bytes that a picture may have; services take no larger ones."""

_URL = re.compile("(https?|data):", re.IGNORECASE)

_BEGINNINGS = {
    "image/png": re.compile(rb"\x89PNG\r\n\x1a\n"),
    "image/jpeg": re.compile(rb"\xff\xd8\xff"),
    "image/gif": re.compile(rb"GIF8[79]a"),
    "image/webp": re.compile(rb"RIFF[\s\S]{4}WEBP"),
}
"""What the files of each media type begin with."""

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")  # of Pillow's, those that PNG has


class PillowImage(Protocol):
    """What is used of Pillow's `Image`."""

    mode: Any

    def save(self, fp: Any, format: str) -> None:
        """Write it to a file."""

    def convert(self, mode: str) -> Any:
        """Return it in another mode."""


Picture: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryIO | PillowImage"
"""A path or URL, the bytes of a file, a file that is open, or an image of Pillow's."""


def image(source: Picture, detail: str | None = None) -> dict[str, Any]:
    """Return a picture as a part of a message's content, beside `{"type": "text", "text": …}`.

    Args:
        source: the path of a PNG, JPEG, GIF or WebP file, its bytes, a file object that is open in binary mode, or an
            image of Pillow's, which is sent as PNG; at most 20 MiB. A URL (`http:`, `https:`, `data:`) is
            sent as it is, and the service fetches the picture.
        detail: how closely the model looks, where that can be chosen: `"low"`, `"high"`, `"auto"`.

    Raises:
        ValueError: it is of another kind, which its bytes say and not its name, or too large.
        TypeError: this is nothing that holds a picture.
        OSError: the file can't be read.
    """
    if detail is not None and not isinstance(detail, str):
        raise TypeError(f"detail must be a str such as 'low', not {type(detail).__name__}")
    url = source if isinstance(source, str) and _URL.match(source) else _data_url(_content(source))
    return {"type": "image_url", "image_url": {"url": url, **({} if detail is None else {"detail": detail})}}


def _content(source: Any) -> bytes:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return bytes(source)
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            return file.read(MAX_PICTURE + 1)
    if hasattr(source, "save") and hasattr(source, "mode"):
        png = io.BytesIO()
        (source if source.mode in _PNG_MODES else source.convert("RGB")).save(png, format="PNG")
        return png.getvalue()
    content: object = _read(source) if hasattr(source, "read") else None
    if not isinstance(content, bytes):
        what = "a file that is open in text mode" if isinstance(content, str) else type(source).__name__
        raise TypeError(f"not a picture but {what}: give a path, bytes, a URL, a file open in binary mode, or Pillow's")
    return content


def _read(file: Any) -> Any:
    """Read a file to its end, or a byte more than a picture may have. One without a buffer gives less at a time."""
    content = bytearray()
    while len(content) <= MAX_PICTURE:
        block = file.read(MAX_PICTURE + 1 - len(content))
        if not isinstance(block, bytes):
            return block
        if not block:
            break
        content += block
    return bytes(content)


def _data_url(content: bytes) -> str:
    if len(content) > MAX_PICTURE:
        raise ValueError(f"the picture has more than {MAX_PICTURE} bytes, which services do not take: make it smaller")
    for media_type, beginning in _BEGINNINGS.items():
        if beginning.match(content):
            return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    if not content:
        raise ValueError("the picture is empty. A file that was written to has to be rewound first: seek(0)")
    raise ValueError(f"no PNG, JPEG, GIF or WebP begins with {content[:12]!r}: convert the picture to one of them")
