"""Pictures: the part of a message that is made of what programs have them in."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatanywhere import Client, image
from chatanywhere.testing import LoopbackServer

try:
    import PIL.Image
except ImportError:
    PIL = None  # type: ignore[assignment]

MIB = 1024 * 1024

FILES = {
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "image/png"),
    "jpeg": (b"\xff\xd8\xff\xe0" + bytes(20), "image/jpeg"),
    "jpeg of a camera": (b"\xff\xd8\xff\xe1" + bytes(20), "image/jpeg"),
    "gif": (b"GIF89a" + bytes(20), "image/gif"),
    "old gif": (b"GIF87a" + bytes(20), "image/gif"),
    "webp": (b"RIFF\n\x00\r\x00WEBPVP8 " + bytes(20), "image/webp"),
}
"""The beginnings of files, and their media types."""

NO_PICTURES = {
    "text": b"a picture",
    "bmp": b"BM" + bytes(20),
    "tiff": b"II*\x00" + bytes(20),
    "heic": bytes(4) + b"ftypheic",
    "svg": b"<svg/>",
    "wav": b"RIFF\x00\x00\x00\x00WAVEfmt ",
    "half a png": b"\x89PNG\r\n",
    "png later": b" \x89PNG\r\n\x1a\n",
}


def as_path(content: bytes, folder: Path) -> Path:
    path = folder / "picture.dat"
    path.write_bytes(content)
    return path


class Pipe(io.RawIOBase):
    """A file without a buffer, which gives a part of what was asked for: all bytes but the last ten first."""

    def __init__(self, content: bytes) -> None:
        self._parts = [content[-10:], content[:-10]]

    def read(self, size: int = -1) -> bytes:
        part = b""
        while self._parts and not part:
            part = self._parts.pop()
        if size < len(part):
            self._parts.append(part[size:])
        return part[:size]


WAYS: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda content, _: content,
    "bytearray": lambda content, _: bytearray(content),
    "memoryview": lambda content, _: memoryview(content),
    "path": as_path,
    "name": lambda content, folder: os.fspath(as_path(content, folder)),
    "file in memory": lambda content, _: io.BytesIO(content),
    "open file": lambda content, folder: as_path(content, folder).open("rb"),
    "pipe": lambda content, _: Pipe(content),
}
"""What a program may have a file in."""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize(("content", "media_type"), FILES.values(), ids=FILES)
def test_a_picture_is_sent_as_what_its_bytes_say(
    content: bytes, media_type: str, way: Callable[[bytes, Path], Any], tmp_path: Path
) -> None:
    """Whatever it is in, and whatever its name; the data is that of the file."""
    source = way(content, tmp_path)
    try:
        part = image(source)
    finally:
        if hasattr(source, "close"):
            source.close()
    url = f"data:{media_type};base64,{base64.b64encode(content).decode()}"
    assert part == {"type": "image_url", "image_url": {"url": url}}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("content", NO_PICTURES.values(), ids=NO_PICTURES)
def test_what_is_no_picture_is_told(content: bytes, way: Callable[[bytes, Path], Any], tmp_path: Path) -> None:
    """The error says what its bytes begin with, and what to do."""
    source = way(content, tmp_path)
    try:
        with pytest.raises(ValueError, match=r"no PNG, JPEG, GIF or WebP begins.*convert the picture"):
            image(source)
    finally:
        if hasattr(source, "close"):
            source.close()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_an_empty_picture_is_told(way: Callable[[bytes, Path], Any], tmp_path: Path) -> None:
    """As is a file that was written to and not rewound, and what to do about it."""
    source = way(b"", tmp_path)
    if isinstance(source, io.BytesIO):
        source.write(FILES["png"][0])
    try:
        with pytest.raises(ValueError, match=r"empty.*seek\(0\)"):
            image(source)
    finally:
        if hasattr(source, "close"):
            source.close()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_picture_has_20_mib_at_most(way: Callable[[bytes, Path], Any], tmp_path: Path) -> None:
    """Exactly that is taken, and a byte more is a ValueError."""
    largest = FILES["png"][0].ljust(20 * MIB, b"\0")
    for content in (largest, largest + b"\0"):
        source = way(content, tmp_path)
        try:
            if content is largest:
                assert len(image(source)["image_url"]["url"]) > 20 * MIB
            else:
                with pytest.raises(ValueError, match="make it smaller"):
                    image(source)
        finally:
            if hasattr(source, "close"):
                source.close()


@pytest.mark.parametrize(
    "url", ["https://example.org/cat.png", "HTTP://example.org/cat", "data:image/png;base64,AAAA", "data:,"]
)
def test_a_url_is_sent_as_it_is(url: str) -> None:
    """The service fetches it."""
    assert image(url)["image_url"] == {"url": url}


@pytest.mark.parametrize("detail", ["low", "high", "auto", "one of tomorrow"])
def test_the_detail_is_sent(detail: str) -> None:
    """As it is given."""
    assert image("https://example.org/cat.png", detail)["image_url"]["detail"] == detail
    assert image("https://example.org/cat.png", detail=detail)["image_url"]["detail"] == detail


@pytest.mark.parametrize("source", [None, 5, ["cat.png"], object(), image])
def test_what_holds_no_picture_is_told(source: Any) -> None:
    """The error says what may be given."""
    with pytest.raises(TypeError, match="give a path, bytes, a URL"):
        image(source)


def test_a_file_in_text_mode_is_told() -> None:
    """It would be a UnicodeDecodeError, or worse, none."""
    with pytest.raises(TypeError, match="text mode"):
        image(io.StringIO("text"))  # type: ignore[arg-type]


def test_a_detail_is_a_str() -> None:
    """Anything else is told."""
    with pytest.raises(TypeError, match="detail"):
        image(b"", 5)  # type: ignore[arg-type]


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    """As by open()."""
    with pytest.raises(FileNotFoundError):
        image(tmp_path / "none.png")


@pytest.mark.skipif(PIL is None, reason="needs Pillow")
@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "I", "I;16", "F", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "LAB"]
)
def test_an_image_of_pillow_s_is_sent_as_png(mode: str) -> None:
    """In a mode that PNG has: as it is, else in RGB."""
    made = PIL.Image.new(mode, (3, 2))
    _, _, data = image(made)["image_url"]["url"].partition("data:image/png;base64,")
    read = PIL.Image.open(io.BytesIO(base64.b64decode(data)))
    assert (read.format, read.size) == ("PNG", (3, 2))
    assert read.convert("RGB").tobytes() == made.convert("RGB").tobytes()


@pytest.mark.parametrize("size", [100, 20 * MIB])
def test_a_picture_goes_with_a_question(size: int) -> None:
    """The part stands in the content of a message, beside text; the server takes all that may be sent."""
    with LoopbackServer(["A cat."]) as server, Client("k", base_url=server.url) as client:
        content = [{"type": "text", "text": "What is this?"}, image(FILES["png"][0].ljust(size))]
        assert client.complete([{"role": "user", "content": content}]).text == "A cat."
        (message,) = server.requests[0].messages
    assert message["content"] == content
