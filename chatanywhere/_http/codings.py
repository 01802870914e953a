"""Content codings without I/O (RFC 9110, section 8.4.1): gzip, deflate, and br and zstd where a library for them is.

Content goes out in bounded blocks, so that a bomb never stands in memory. What is behind the end of the compressed
data is ignored as padding, unless it is a further member (gzip) or frame (zstd).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from importlib import import_module
from typing import Any, Protocol

from .._errors import ProtocolError, StreamInterruptedError

_BLOCK = 64 * 1024  # bytes that decompression puts out at a time; many small events in them take tenths of a second
_BROTLI_BLOCK = 16 * 1024  # Google's brotli puts out some times of what it is asked for
_WINDOW_LOG = 23  # zstd's window is at most 8 MB (RFC 9659, section 3)
_SLICE = 64  # compressed bytes at a time; four of them may hold a block of 128 KiB (RFC 8878, section 3.1.1.2)
_SHOWN = 64  # characters of a header that an error repeats


class Decompressor(Protocol):
    """Takes one body's compressed data, and knows whether it came to its end.

    Attributes:
        damaged: the data was wrong, its check included.
    """

    damaged: bool

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the content that `data` completes, in blocks of at most 64 KiB.

        Raises:
            ProtocolError: the data is damaged. The content before the damage has gone out.
        """
        ...

    def end(self) -> None:
        """No more will come.

        Raises:
            StreamInterruptedError: the data has not come to its end.
        """
        ...


def decompressor(content_encoding: str) -> Decompressor | None:
    """Return what undoes a coding; None for none.

    Raises:
        ProtocolError: the coding is not supported, or no library for it is installed.
    """
    coding = content_encoding.strip().lower()
    if coding in ("", "identity"):
        return None
    if coding in ("gzip", "x-gzip", "deflate"):
        return _Inflater(coding)
    begin = _find(coding)
    if begin is None:
        raise ProtocolError(f"the answer's Content-Encoding is not supported: {content_encoding[:_SHOWN]!r}")
    return _Expander(coding, begin)


class _Inflater:
    """gzip and deflate, a block at a time; knows whether the compressed data came to its end."""

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._begun = False
        self._held = b""  # what is too short to tell which format, or whether a further member, it begins
        self._inflate: zlib._Decompress | None = None
        self._over = False
        self.damaged = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._over:  # padding behind the end
            return
        data = self._held + data
        self._held = b""
        while True:
            if self._inflate is None:
                if len(data) < 2:
                    self._held = data
                    return
                self._inflate = self._begin(data)
                if self._inflate is None:
                    self._over = True
                    return
            before = self._inflate.copy()
            try:
                block = self._inflate.decompress(data, _BLOCK)
            except zlib.error as exc:
                self.damaged = True
                yield from _until_damage(before, data)
                raise ProtocolError(f"the answer is not {self._coding}: {exc}") from exc
            if block:
                yield block
            if self._inflate.eof:
                data = self._inflate.unused_data
                self._inflate = None
            else:
                data = self._inflate.unconsumed_tail
                if not data and len(block) < _BLOCK:  # a full block may leave more behind, even without a tail
                    return

    def _begin(self, data: bytes) -> zlib._Decompress | None:
        """A decompressor for what begins with these bytes; None if it is not a further gzip member."""
        first, self._begun = not self._begun, True
        if data.startswith(b"\x1f\x8b"):
            return zlib.decompressobj(zlib.MAX_WBITS | 16)
        if not first:
            return None
        # Some servers send deflate without its zlib header (RFC 1950, section 2.2).
        raw = self._coding == "deflate" and (data[0] & 15 != 8 or int.from_bytes(data[:2], "big") % 31)
        return zlib.decompressobj(-zlib.MAX_WBITS if raw else zlib.MAX_WBITS)

    def end(self) -> None:
        if self._inflate is not None or (self._held and not self._begun):
            raise StreamInterruptedError(f"the answer's {self._coding} data ended early")


def _until_damage(inflate: zlib._Decompress, data: bytes) -> Iterator[bytes]:
    """The content before the byte that is wrong, which zlib drops when both come together."""
    for position in range(len(data)):
        try:
            block = inflate.decompress(data[position : position + 1])
        except zlib.error:
            return
        if block:
            yield block


class _Member(Protocol):
    """One library's decompressor for one br stream or zstd frame. It can't be copied.

    Attributes:
        errors: what damage raises.
        eof: the end has come; `rest` is behind it, where the library tells that.
    """

    errors: type[Exception]
    rest: bytes

    @property
    def eof(self) -> bool: ...

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Return the content in bounded blocks; all of them have to be taken."""
        ...


class _Expander:
    """br and zstd. A second decompressor follows one piece behind.

    When a piece is damaged the libraries drop the content before the damage, and brotli's do so when anything is behind
    the end. The second one then takes that piece byte by byte.
    """

    def __init__(self, coding: str, begin: Callable[[], _Member]) -> None:
        self._coding = coding
        self._begin = begin
        self._begun = False
        self._held = b""  # what is too short to tell whether it begins a further frame
        self._ahead: _Member | None = None
        self._behind: _Member | None = None
        self._over = False
        self.damaged = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        data = self._held + data
        self._held = b""
        while data and not self._over:
            if self._ahead is None or self._behind is None:
                if self._begun and not self._continues(data):
                    return
                self._begun = True
                self._ahead, self._behind = self._begin(), self._begin()
            data = yield from self._expand(self._ahead, self._behind, data)

    def _continues(self, data: bytes) -> bool:
        """Whether a further zstd frame, perhaps one to be skipped, begins here (RFC 8878, section 3.1)."""
        self._over = self._coding != "zstd" or not (
            b"\x28\xb5\x2f\xfd".startswith(data[:4])
            or (data[0] & 0xF0 == 0x50 and b"\x2a\x4d\x18".startswith(data[1:4]))
        )
        if not self._over and len(data) < 4:
            self._held = data
        return not self._over and not self._held

    def _expand(self, ahead: _Member, behind: _Member, data: bytes) -> Generator[bytes, None, bytes]:
        """Return what is behind the end of this member."""
        given = 0
        try:
            for block in ahead.feed(data):
                given += len(block)
                yield block
        except ahead.errors as exc:
            rest = yield from _until_damage_or_end(behind, data, given)
            if rest is None:
                self.damaged = True
                raise ProtocolError(f"the answer is not {self._coding}: {exc}") from exc
        else:
            if not ahead.eof:
                for _ in behind.feed(data):
                    pass
                return b""
            rest = ahead.rest
        self._ahead = self._behind = None
        return rest

    def end(self) -> None:
        if self._ahead is not None:
            raise StreamInterruptedError(f"the answer's {self._coding} data ended early")


def _until_damage_or_end(member: _Member, data: bytes, given: int) -> Generator[bytes, None, bytes | None]:
    """The content of a bad piece without the first `given` bytes; return what is behind its end, None for damage."""
    for position in range(len(data)):
        if member.eof:
            return data[position:]
        try:
            for block in member.feed(data[position : position + 1]):
                fresh = block[given:]
                given = max(0, given - len(block))
                if fresh:
                    yield fresh
        except member.errors:
            break
    return None


class _BrotliStream:
    """Google's brotli, or brotlicffi."""

    rest = b""

    def __init__(self, library: Any) -> None:
        self.errors: type[Exception] = library.error
        self._decompressor = library.Decompressor()
        _ = self._decompressor.can_accept_more_data  # those before 1.2 know no bound for what they put out

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.is_finished())

    def feed(self, data: bytes) -> Iterator[bytes]:
        while block := self._decompressor.process(data, output_buffer_limit=_BROTLI_BLOCK):
            yield block
            if self.eof:
                return
            data = b""


class _ZstdFrame:
    """Python's own zstd, or its backport."""

    rest = b""

    def __init__(self, library: Any) -> None:
        self.errors: type[Exception] = library.ZstdError
        self._decompressor = library.ZstdDecompressor(
            options={library.DecompressionParameter.window_log_max: _WINDOW_LOG}
        )

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        while True:
            block = self._decompressor.decompress(data, _BLOCK)
            if block:
                yield block
            if self._decompressor.eof or self._decompressor.needs_input:
                self.rest = self._decompressor.unused_data
                return
            data = b""


class _ZstandardFrame:
    """zstandard, which knows no bound for what it puts out, so what goes in is bounded."""

    rest = b""

    def __init__(self, library: Any) -> None:
        self.errors: type[Exception] = library.ZstdError
        self._decompressor = library.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG).decompressobj()
        _ = self._decompressor.eof  # those before 0.19 do not tell

    @property
    def eof(self) -> bool:
        return bool(self._decompressor.eof)

    def feed(self, data: bytes) -> Iterator[bytes]:
        for position in range(0, len(data), _SLICE):
            content = self._decompressor.decompress(data[position : position + _SLICE])
            yield from (content[start : start + _BLOCK] for start in range(0, len(content), _BLOCK))
            if self._decompressor.eof:
                self.rest = self._decompressor.unused_data + data[position + _SLICE :]
                return


_LIBRARIES: dict[str, dict[str, Callable[[Any], _Member]]] = {
    "br": {"brotlicffi": _BrotliStream, "brotli": _BrotliStream},
    "zstd": {
        "compression.zstd": _ZstdFrame,  # Python 3.14 and newer
        "backports.zstd": _ZstdFrame,
        "zstandard": _ZstandardFrame,
    },
}
"""By coding, in the order in which they are looked for. Only a body of that coding imports one."""


def _find(coding: str) -> Callable[[], _Member] | None:
    """What begins a stream or frame with the first library that is installed, and new enough; None without one."""
    for name, kind in _LIBRARIES.get(coding, {}).items():
        try:
            begin = partial(kind, import_module(name))
            begin()
        except (ImportError, AttributeError):
            continue
        return begin
    return None
