"""Keys and passwords of a request, and how they are left out of what is recorded of it and of its answer."""

from __future__ import annotations

import base64
import functools
import html
import re
from collections.abc import Iterable, Iterator
from urllib.parse import parse_qsl, urlencode

from .request import Request

MASK = "***"
"""What stands for a secret where sizes do not matter."""

_LEAST = 4  # characters; what is shorter is no secret
_LONG = 12  # characters from which a value is looked for inside of words, and in parts
_LONGEST = 256  # characters of a value that are looked for in all the ways to write them

_HEADER = re.compile(
    r"authorization|authentication|(?:^|-)auth(?:-|$)|cookie|passw(?:or)?d|passphrase|pwd|jwt|secret|signature|credential|"
    r"session|organization|project|(?:^|[-_])(?:api)?-?(?:key|token)(?:-id)?$",
    re.I,
)
_MEMBER = (
    r"(?:[\w-]{0,40}[-_])?(?:"
    r"(?:api|app|access|auth|private|secret|security|client|refresh|session|bearer|subscription)[-_]?(?:key|token|secret)|"
    r"secret|passw(?:or)?d|passphrase|pwd|jwt|credentials?|authorization)"
)
_PARAMETER = re.compile(rf"(?:{_MEMBER}|key|token|sig|signature|auth|code|.*[-_](?:signature|credential))", re.I)
_MEMBER_OF_JSON = re.compile(rb'(?i)("%b"\s*:\s*")([^"\\]*(?:\\.[^"\\]*)*)' % _MEMBER.encode())
_FIELD_OF_FORM = re.compile(rb'(?i)name="?%b"?\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]*)' % _MEMBER.encode())
_NAMED = re.compile(_MEMBER, re.I)

# What services call keys and accounts by, whole or with stars in the place of a part.
_WELL_KNOWN = rb"\b(?:sk|pk|rk|ek|org|proj)[-_](?:(?=[\w-]{0,40}[0-9])[\w-]{16,}|[\w-]{0,16}\*{3,}[\w*-]*)"


class Redactor:
    """Takes secrets out of bytes. Each byte of one becomes a `*`, so that all sizes stay true.

    Args:
        values: the secrets. Those that are short, and a mere word or number, are no secrets.
    """

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._pattern = _pattern(frozenset(filter(_is_secret, values)))

    @classmethod
    def of(cls, request: Request, query: str = "") -> Redactor:
        """Return what takes out the secrets of a request's headers, query and body, and those of another query."""
        values = [each for header in request.headers.items() for each in _in_header(*header)]
        queries = [query, request.path.partition("?")[2]]
        if request.headers.get_content_type() == "application/x-www-form-urlencoded":
            queries.append(request.body.decode("latin-1"))
        pairs = [pair for query in queries for pair in parse_qsl(query, errors="replace")]
        values += [value for name, value in pairs if _PARAMETER.fullmatch(name)]
        for found in (*_MEMBER_OF_JSON.finditer(request.body), *_FIELD_OF_FORM.finditer(request.body)):
            values.append(found[found.lastindex or 0].decode(errors="replace"))
        return cls(values)

    def hide(self, data: bytes) -> bytes:
        """Return bytes of the same number without the secrets, and without what JSON has by the name of one."""
        data = self._pattern.sub(lambda found: b"*" * len(found[0]), data)
        return _MEMBER_OF_JSON.sub(lambda found: found[1] + b"*" * len(found[2]), data)

    def hide_text(self, text: str) -> str:
        """Return a text without the secrets."""
        return self.hide(text.encode(errors="replace")).decode(errors="replace")

    def hide_headers(self, headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return the headers that have no secret's name, without secrets in their values."""
        return [(name, self.hide_text(value)) for name, value in headers if not _HEADER.search(name)]

    def hide_query(self, query: str) -> str:
        """Return a query without the secrets, and without the values of parameters that have a secret's name."""
        pairs = parse_qsl(query, keep_blank_values=True, errors="replace")
        hidden = [(name, MASK if _PARAMETER.fullmatch(name) else self.hide_text(value)) for name, value in pairs]
        return urlencode(hidden, safe="*")


def is_secret_name(name: str) -> bool:
    """Return whether a member of a JSON object, or a field of a form, has the name of a secret."""
    return _NAMED.fullmatch(name) is not None


def _is_secret(value: str) -> bool:
    return len(value) >= _LONG or (len(value) >= _LEAST and not (value.isalpha() or value.isdigit()))


def _in_header(name: str, value: str) -> Iterator[str]:
    """Yield what is secret in a header, if its name says that something is."""
    if not _HEADER.search(name):
        return
    if "cookie" in name.lower():  # of which those that are short are settings
        yield from (part for part in re.split(r"[=;\s]+", value) if len(part) >= _LONG)
        return
    yield value
    for part in re.split(r"[\s,;]+", value):
        yield part
        yield part.partition("=")[2].strip('"')
    scheme, _, credentials = value.partition(" ")
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(credentials).decode("latin-1")
        except ValueError:
            return
        yield pair
        yield pair.partition(":")[2]


@functools.lru_cache(maxsize=64)
def _pattern(values: frozenset[str]) -> re.Pattern[bytes]:
    """Return what finds the values as they may come back: whole, in part, escaped, in base64, with stars in between."""
    patterns = [_WELL_KNOWN]
    starts = {*b"spreo", *b"%\\&+"}  # bytes with which something may begin: of what is well known, and of escapes
    for value in sorted(values, key=len, reverse=True):
        letters = [_written(letter) if len(value) <= _LONGEST else re.escape(letter.encode()) for letter in value]
        whole = b"".join(letters)
        for letter in (value[0], value[-_LONG:][0]):
            starts |= {letter.encode(errors="replace")[0], letter.encode("latin-1", errors="replace")[0]}
        if len(value) < _LONG:
            patterns.append(rb"(?<![^\W_])%b(?![^\W_])" % whole)
            continue
        rest = len(value) - _LONG
        encoded = list(_in_base64(value.encode()))
        starts |= {text[0] for text in encoded}
        patterns += [whole, *map(re.escape, encoded)]
        patterns.append(rb"%b[\w.~+/=%%-]{0,%d}" % (b"".join(letters[:_LONG]), rest))  # it may be cut
        patterns.append(b"".join(letters[-_LONG:]))
        patterns.append(
            rb"%b[\w+/=-]{0,12}(?:\*{3,}|\.{3}|\xe2\x80\xa6|\\u2026)[\w*+/=-]{0,12}" % b"".join(letters[:4])
        )
    # To look at one byte first is several times as fast.
    return re.compile(b"(?=[%b])(?:%b)" % (re.escape(bytes(sorted(starts))), b"|".join(patterns)))


def _written(letter: str) -> bytes:
    """Return a pattern of the ways to write a letter: as it is, or with escapes of URLs, JSON, Python and HTML."""
    plain = {letter.encode(errors="replace"), letter.encode("latin-1", errors="replace")}
    ways = {re.escape(each) for each in plain}
    ways |= {b"(?i:%b)" % b"".join(b"%%(?:25)*%02x" % byte for byte in each) for each in plain}
    ways.add(rb"(?i:\\{1,8}(?:u%04x|x%02x)|&\#(?:0*%d|x0*%x);)" % ((ord(letter),) * 4))
    if letter in "\"\\/'":
        ways.add(rb"\\{1,8}%b" % re.escape(letter.encode()))
    if letter == " ":
        ways.add(re.escape(b"+"))
    if (escaped := html.escape(letter)) != letter:
        ways.add(re.escape(escaped.encode()))
    return b"(?:%b)" % b"|".join(sorted(ways))


def _in_base64(value: bytes) -> Iterator[bytes]:
    """Yield what is sure of a value in base64: its first byte may be any of the three that make four letters."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + value)
        text = whole[-(-before * 8 // 6) : (before + len(value)) * 8 // 6]
        yield text
        yield text.replace(b"+", b"-").replace(b"/", b"_")
