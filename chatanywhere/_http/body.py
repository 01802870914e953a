"""An HTTP body without I/O: chunk framing, size limit.

Bytes in as they come from the connection, bytes of the content out, or an error. A blocking reader and an
event loop feed the same object. Stricter than http.client, which takes a lost connection, a size line cut
down to `0` and sizes such as `+9` or `0x9` for good answers (RFC 9112, section 7.1, allows none of them).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from .._errors import ProtocolError, StreamInterruptedError
from .codings import decompressor

_MAX_LINE = 4096  # bytes of a chunk's size line with its extensions, and of a trailer
_MAX_TRAILERS = 100
_SHOWN = 64  # characters of a header that an error repeats

# A chunk's extensions (RFC 9112, section 7.1.1): `;name`, `;name=token` or `;name="any text"`.
_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_QUOTABLE = rb"[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]*"
_QUOTED = rb'"%b(?:\\[\t \x21-\x7e\x80-\xff]%b)*"' % (_QUOTABLE, _QUOTABLE)
_EXTENSION = rb"[ \t]*;[ \t]*%b(?:[ \t]*=[ \t]*(?:%b|%b))?" % (_TOKEN, _TOKEN, _QUOTED)
# Nearly every size has its line end right behind it: that is looked for first, and as fast as without extensions.
_SIZE_LINE = re.compile(rb"0*([1-9a-fA-F][0-9a-fA-F]{0,14}|0)(?:\r\n|(?:%b)*[ \t]*\r\n)" % _EXTENSION)


class Body:
    """One answer's body, from its framing to its content.

    Attributes:
        complete: the framing says that everything has come.
        surplus: bytes came after the end, so the connection can't be used again.
    """

    def __init__(self, headers: Mapping[str, str], *, limit: int | None, framed: bool = True, empty: bool = False):
        """Read the framing and the encoding from the answer's headers.

        Args:
            headers: with case-insensitive keys; repeated ones joined by commas.
            limit: the largest content, in bytes, after decompression; None for no limit.
            framed: False when the framing has been taken off already.
            empty: the answer has no body whatever its headers say (status 204 or 304).

        Raises:
            ProtocolError: the headers announce what can't be read.
        """
        self._limit = limit
        self._room = limit
        self._ended = False  # the connection has
        self._decompress = decompressor(headers.get("content-encoding", ""))
        # Content may be shorter than what it was compressed to, so only plain sizes are held against the limit.
        largest = limit if self._decompress is None else None
        self._framing: _Chunked | _Sized | _UntilClose
        coding = headers.get("transfer-encoding")
        length = headers.get("content-length")
        if empty:
            self._framing = _Sized(0)
        elif not framed:
            self._framing = _UntilClose()
        elif coding is not None:  # it overrules a length (RFC 9112, section 6.3)
            if coding.strip(" \t").lower() != "chunked":
                raise ProtocolError(f"the answer's Transfer-Encoding is not supported: {coding[:_SHOWN]!r}")
            self._framing = _Chunked(largest)
        elif length is not None:
            self._framing = _Sized(_content_length(length))
            if largest is not None and self._framing.left > largest:
                raise self._too_large()
        else:
            self._framing = _UntilClose()

    @property
    def complete(self) -> bool:
        return self._framing.complete

    @property
    def surplus(self) -> bool:
        return self._framing.surplus

    @property
    def leaves_connection(self) -> bool:
        """Whether it is complete, and its connection can be used again: it has not ended, and no more has come."""
        return self.complete and not self.surplus and not self._ended

    @property
    def damaged(self) -> bool:
        """Whether compressed data was wrong, its check included: then none of the content can be trusted."""
        return self._decompress is not None and self._decompress.damaged

    def feed(self, data: bytes) -> Iterable[bytes]:
        """Return the content that `data` completes, in blocks of at most 64 KiB where it was compressed.

        Args:
            data: what the connection gave; `b""` says that it has ended.

        Raises (also while it is iterated):
            ProtocolError: the bytes are not what the headers announced, or the content is larger than the limit.
            StreamInterruptedError: the connection ended before the body did.
        """
        fault: ProtocolError | None = None
        if data:
            try:
                content = self._framing.feed(data)
            except _Malformed as exc:
                # What came before the bad place is text all the same; it goes out first.
                content, fault = exc.content, ProtocolError(str(exc))
        else:
            self._ended = not self.complete
            self._framing.end()
            content = b""
        if self._decompress is None and fault is None:
            return (self._admit(content),) if content else ()
        return self._blocks(content, fault)

    def _blocks(self, content: bytes, fault: ProtocolError | None) -> Iterator[bytes]:
        if self._decompress is None:
            if content:
                yield self._admit(content)
        else:
            for block in self._decompress.feed(content):
                yield self._admit(block)
            if self.complete and fault is None:
                self._decompress.end()
        if fault is not None:
            raise fault

    def _admit(self, block: bytes) -> bytes:
        if self._room is not None:
            self._room -= len(block)
            if self._room < 0:
                raise self._too_large()
        return block

    def _too_large(self) -> ProtocolError:
        return ProtocolError(f"the answer is larger than max_response_bytes={self._limit}")


class _Malformed(Exception):
    """A framing error, with the content that came before it."""

    def __init__(self, message: str, content: bytes = b"") -> None:
        super().__init__(message)
        self.content = content


def _content_length(value: str) -> int:
    # A proxy may have joined repeated headers; RFC 9112, section 6.3, accepts them when they agree.
    lengths = {part.strip(" \t") for part in value.split(",")}
    length = lengths.pop()
    if lengths or not re.fullmatch("[0-9]{1,18}", length):
        raise ProtocolError(f"the answer's Content-Length is not a length: {value[:_SHOWN]!r}")
    return int(length)


class _UntilClose:
    """The body ends with the connection."""

    complete = False
    surplus = False

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> None:
        self.complete = True


class _Sized:
    """The body has the length that Content-Length says."""

    surplus = False

    def __init__(self, length: int) -> None:
        self.left = length

    @property
    def complete(self) -> bool:
        return not self.left

    def feed(self, data: bytes) -> bytes:
        content = data[: self.left]
        self.left -= len(content)
        self.surplus = self.surplus or len(content) < len(data)
        return content

    def end(self) -> None:
        if self.left:
            raise StreamInterruptedError(f"the connection was lost {self.left} bytes before the end of the answer")


class _Chunked:
    """The body comes in chunks, each behind a line with its size (RFC 9112, section 7.1)."""

    complete = False
    surplus = False

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._rest = b""  # the beginning of a line that has not ended yet
        self._left: int | None = None  # bytes to come of this chunk; 0: its line end; None: a size line
        self._trailers: int | None = None  # trailer lines seen, once the last chunk has come

    def feed(self, data: bytes) -> bytes:
        if self.complete:
            self.surplus = True
            return b""
        if self._rest:
            data = self._rest + data
            if self._left is None and len(data) < _MAX_LINE and b"\n" not in data:
                self._rest = data  # not to be matched again at every byte
                return b""
        content: list[bytes] = []
        try:
            position = self._split(data, content)
        except _Malformed as exc:
            raise _Malformed(str(exc), b"".join(content)) from None
        self._rest = data[position:]
        if self.complete and self._rest:
            self.surplus = True
            self._rest = b""
        return content[0] if len(content) == 1 else b"".join(content)

    def _split(self, data: bytes, content: list[bytes]) -> int:
        """Append the payloads in `data` to `content`; return how many of its bytes were used."""
        position, end = 0, len(data)
        left = self._left
        match_size_line = _SIZE_LINE.match
        try:
            while self._trailers is None:
                if left is None:
                    if position == end:
                        return position
                    match = match_size_line(data, position)
                    if match is None and data.find(b"\n", position, position + _MAX_LINE) >= 0:
                        raise _Malformed(f"not the size of a chunk: {data[position : position + 32]!r}")
                    line_end = match.end() if match else end + 1
                    if line_end - position > _MAX_LINE:
                        raise _Malformed(f"a chunk's size line is longer than {_MAX_LINE} bytes")
                    if match is None:
                        return position
                    left = int(match[1], 16)
                    position = line_end
                    if left == 0:
                        self._trailers = 0
                        break
                    if self._limit is not None and left > self._limit:
                        raise _Malformed(f"a chunk of {left} bytes is larger than max_response_bytes={self._limit}")
                if left:
                    payload = data[position : position + left]
                    if not payload:
                        return position
                    content.append(payload)
                    position += len(payload)
                    left -= len(payload)
                    if left:
                        return position
                if not data.startswith(b"\r\n", position):
                    if data[position:] in (b"", b"\r"):
                        return position
                    raise _Malformed(f"a chunk does not end where its size says: {data[position : position + 2]!r}")
                position += 2
                left = None
        finally:
            self._left = left
        return self._skip_trailers(data, position)

    def _skip_trailers(self, data: bytes, position: int) -> int:
        assert self._trailers is not None
        while True:
            line_end = data.find(b"\n", position, position + _MAX_LINE)
            if line_end < 0:
                if len(data) - position >= _MAX_LINE:
                    raise _Malformed(f"a trailer is longer than {_MAX_LINE} bytes")
                return position
            line = data[position:line_end]
            position = line_end + 1
            if line == b"\r":
                self.complete = True
                return position
            self._trailers += 1
            if not line.endswith(b"\r") or self._trailers > _MAX_TRAILERS:
                raise _Malformed(f"not a trailer, or one too many: {line[:32]!r}")

    def end(self) -> None:
        if self._trailers is None:
            raise StreamInterruptedError("the connection was lost before the last chunk of the answer")
        self.complete = True  # everything but the blank line behind the last chunk is there
