"""`br` and `zstd` bodies, with each library that decodes them."""

from __future__ import annotations

import importlib
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_server import RawServer

from chatanywhere import Client
from chatanywhere._errors import ChatAnywhereError, ProtocolError, StreamInterruptedError
from chatanywhere._http.body import Body

CONTENT = "".join(f"{number}: 你好 😀\n" for number in range(50)).encode()
SKIPPED = b"\x5a\x2a\x4d\x18\x03\x00\x00\x00abc"  # a zstd frame that is to be skipped (RFC 8878, section 3.1.2)

LIBRARIES = {
    "brotli": "br",
    "brotlicffi": "br",
    "compression.zstd": "zstd",
    "backports.zstd": "zstd",
    "zstandard": "zstd",
}


class Library(NamedTuple):
    """A library, and the coding it is for."""

    coding: str
    compress: Callable[[bytes], bytes]

    def read(self, *pieces: bytes, limit: int | None = None) -> tuple[bytes, type[ChatAnywhereError] | None]:
        """Read a body as the client does: the content up to its end or a fault, and the fault."""
        body, content = Body({"content-encoding": self.coding}, limit=limit), bytearray()
        try:
            for piece in (*pieces, b""):
                for block in body.feed(piece):
                    content += block
        except ChatAnywhereError as error:
            return bytes(content), type(error)
        return bytes(content), None


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Library:
    """The only library that is there."""
    module = pytest.importorskip(request.param)
    without(monkeypatch, *(name for name in LIBRARIES if name != request.param))
    return Library(LIBRARIES[request.param], module.compress)


def flushed(name: str) -> Iterator[bytes]:
    """A compressed `one` and `two`, each flushed when it was written."""
    module: Any = importlib.import_module(name)
    if LIBRARIES[name] == "br":
        compressor = module.Compressor()
        write = getattr(compressor, "process", None) or compressor.compress
        yield write(b"one") + compressor.flush()
        yield write(b"two") + compressor.flush()
    else:
        compressor = module.ZstdCompressor()
        if name == "zstandard":
            compressor = compressor.compressobj()
            block = module.COMPRESSOBJ_FLUSH_BLOCK
        else:
            block = compressor.FLUSH_BLOCK
        yield compressor.compress(b"one") + compressor.flush(block)
        yield compressor.compress(b"two") + compressor.flush(block)


def single_bytes(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def test_a_call_is_answered(library: Library, raw_server: RawServer) -> None:
    """A server that compresses unasked is understood."""
    body = library.compress(CONTENT)
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Encoding: {library.coding.upper()}\r\n"
    raw_server.answer(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    with Client("k", base_url=raw_server.url, protocol="web") as client:
        assert client.complete("Hello").text == CONTENT.decode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, 200), max_size=10))
def test_any_split_gives_the_content(library: Library, cuts: set[int]) -> None:
    """The content comes, whatever the connection makes of the bytes."""
    wire = library.compress(CONTENT)
    places = [0, *sorted(place for place in cuts if place < len(wire)), len(wire)]
    pieces = [wire[start:end] for start, end in pairwise(places)]
    assert library.read(*pieces) == (CONTENT, None)
    assert library.read(*single_bytes(wire)) == (CONTENT, None)


@pytest.mark.parametrize("name", LIBRARIES)
def test_nothing_is_held_back(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """What a server has flushed is content at once."""
    pytest.importorskip(name)
    without(monkeypatch, *(other for other in LIBRARIES if other != name))
    body = Body({"content-encoding": LIBRARIES[name]}, limit=None)
    assert [b"".join(body.feed(piece)) for piece in flushed(name)] == [b"one", b"two"]


@pytest.mark.parametrize("lost", [1, 4, 9, 40])
def test_data_that_ends_early_is_told_from_the_end(library: Library, lost: int) -> None:
    """Compressed data short of its end is a StreamInterruptedError, and nothing that came is lost by the cut."""
    wire = library.compress(CONTENT)[:-lost]
    content, error = library.read(wire)
    assert error is StreamInterruptedError
    assert CONTENT.startswith(content)
    assert library.read(*single_bytes(wire)) == (content, error)


def test_no_data_is_no_content(library: Library) -> None:
    """An empty body is a whole one, as with gzip."""
    assert library.read() == (b"", None)


@pytest.mark.parametrize("padding", [b"\0", b"\0\0\0", b"\x28\xb5", b"x" * 10_000])
def test_what_is_behind_the_end_is_ignored(library: Library, padding: bytes) -> None:
    """Padding is no content and no fault, whether it comes with the data or behind it."""
    wire = library.compress(CONTENT)
    for pieces in ([wire + padding], [wire, padding], single_bytes(wire + padding[:9]), [wire, *single_bytes(padding)]):
        assert library.read(*pieces) == (CONTENT, None)


def test_no_block_comes_twice(library: Library) -> None:
    """Content of several blocks with something behind its end in the same piece comes once."""
    content, error = library.read(library.compress(bytes(600_000)) + b"\0")
    assert (len(content), error) == (600_000, None)


def test_zstd_may_have_several_frames(library: Library) -> None:
    """Frames follow each other, empty ones and those to be skipped among them; the last one must be whole."""
    if library.coding != "zstd":
        pytest.skip("br has one stream")
    frames = [SKIPPED, *map(library.compress, (CONTENT[:99], b"", CONTENT[99:])), SKIPPED]
    frames.insert(2, SKIPPED)
    wire = b"".join(frames)
    assert library.read(wire) == library.read(*single_bytes(wire)) == library.read(*frames) == (CONTENT, None)
    assert library.read(wire[: -len(SKIPPED) - 1])[1] is StreamInterruptedError


def test_damage_keeps_the_content_before_it(library: Library) -> None:
    """Damaged data is a ProtocolError behind the content before the damage, however it is cut."""
    module = "brotli" if library.coding == "br" else "zstandard"
    pytest.importorskip(module)
    wire = b"".join(flushed(module)) + b"\xff" * 9
    assert library.read(wire) == library.read(*single_bytes(wire)) == (b"onetwo", ProtocolError)
    assert library.read(b"hello, I am neither")[1] is ProtocolError


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 200), value=st.integers(0, 255), cut=st.integers(0, 200))
def test_damage_is_judged_the_same_however_it_is_cut(library: Library, place: int, value: int, cut: int) -> None:
    """One wrong byte is content or an error of ours, and the cuts do not matter."""
    wire = bytearray(library.compress(CONTENT))
    wire[place % len(wire)] = value
    whole = library.read(bytes(wire))
    assert whole[1] in (None, ProtocolError, StreamInterruptedError)
    if 0 < cut < len(wire):  # no piece is empty but the end
        assert library.read(bytes(wire[:cut]), bytes(wire[cut:])) == whole


def test_a_bomb_never_stands_in_memory(library: Library) -> None:
    """50 MB of zeros come in blocks of at most 64 KiB, and no more of them are made than the limit allows."""
    limit = 2**20
    wire = library.compress(bytes(50_000_000))
    blocks: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match=f"max_response_bytes={limit}"):
            blocks.extend(map(len, Body({"content-encoding": library.coding}, limit=limit).feed(wire)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(blocks) <= 64 * 1024
    assert 0 < sum(blocks) <= limit
    assert peak < 8 * limit


@pytest.mark.parametrize("size", [1, 65_536, 98_304, 2**18, 2**18 + 1, 2**20 + 300])
def test_the_end_of_a_block_loses_nothing(library: Library, size: int) -> None:
    """Content of any size around that of the blocks comes whole."""
    content, error = library.read(library.compress(bytes(size)))
    assert (len(content), error) == (size, None)


def test_a_window_beyond_8_mb_is_refused(library: Library) -> None:
    """Zstd that wants more memory than RFC 9659 allows is a ProtocolError."""
    if library.coding != "zstd":
        pytest.skip("br has no such windows")
    window = bytes([(24 - 10) << 3])  # of 16 MiB
    assert library.read(b"\x28\xb5\x2f\xfd\x00" + window + b"\x01\x00\x00") == (b"", ProtocolError)
    assert library.read(b"\x28\xb5\x2f\xfd\x00" + bytes([(23 - 10) << 3]) + b"\x01\x00\x00") == (b"", None)


@pytest.mark.parametrize("coding", ["br", "zstd"])
def test_without_a_library_the_coding_is_refused(monkeypatch: pytest.MonkeyPatch, coding: str) -> None:
    """It is a ProtocolError that names the coding, before the first byte."""
    without(monkeypatch, *LIBRARIES)
    with pytest.raises(ProtocolError, match=f"Content-Encoding is not supported: '{coding}'"):
        Body({"content-encoding": coding}, limit=None)


def test_a_library_without_bounds_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A brotli before 1.2, which may fill the memory, counts as none."""

    class Old:
        class Decompressor:
            pass

        error = Exception

    without(monkeypatch, *LIBRARIES)
    monkeypatch.setitem(sys.modules, "brotli", Old)
    with pytest.raises(ProtocolError, match="not supported: 'br'"):
        Body({"content-encoding": "br"}, limit=None)
