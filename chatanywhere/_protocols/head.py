"""What is known of an answer before its content. No I/O."""

from __future__ import annotations

import codecs
import contextlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import urlsplit

_NAMED = re.compile(r"charset\s*=\s*[\"']?([\w-]{1,40})", re.IGNORECASE)
_NAMED_BY_PAGE = re.compile(rb"<meta[^>]{1,200}?charset\s*=\s*[\"']?([\w-]{1,40})", re.IGNORECASE)
_BEGIN = 1024  # bytes of a page in which it names its encoding
_ENCODINGS = re.compile("(gb|hz|big5|shift_j|euc|cp[0-9]|iso[0-9]|koi8|johab|mac|utf-16|utf-32).*")
"""Python's names of those that texts come in. There are others, which take more than linear time."""


class AnswerHead(NamedTuple):
    """What is known of an answer before its content.

    Attributes:
        status: the HTTP status.
        headers: with case-insensitive keys.
        base_url: what was asked; None if it is not known.
        reason: the words behind the status, which HTTP/1 has.
        request_id: the server's name for the request.
        sends_key: the protocol's requests carry a key.
    """

    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({})
    base_url: str | None = None
    reason: str = ""
    request_id: str | None = None
    sends_key: bool = True

    @property
    def host(self) -> str | None:
        """Who was asked, if that is known."""
        return urlsplit(self.base_url).hostname if self.base_url else None

    @property
    def media_type(self) -> str:
        """The type of the content, without its parameters, as the `Content-Type` has it."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def charset(self) -> str:
        """Python's name for the encoding that the `Content-Type` names; `""` if it names none that is known."""
        named = _NAMED.search(self.headers.get("content-type", ""))
        return _encoding(named[1]) if named else ""

    def decode(self, content: bytes) -> str:
        """Read text: as UTF-8 if it is that, for little else can be taken for it; else as it is labelled."""
        with contextlib.suppress(UnicodeDecodeError):
            return codecs.getincrementaldecoder("utf-8-sig")().decode(content)  # a character may be cut at the end
        page = _NAMED_BY_PAGE.search(content[:_BEGIN])
        charset = self.charset or (_encoding(page[1].decode("ascii", "replace")) if page else "")
        return content.decode(charset or "utf-8", "replace")


UNKNOWN = AnswerHead()
"""For what is known by its content alone."""


def _encoding(label: str) -> str:
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError) as exc:
        if type(exc) not in (LookupError, ValueError):  # a signal handler's
            raise
        return ""
    return name if _ENCODINGS.fullmatch(name) else ""
