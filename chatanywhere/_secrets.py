"""What nobody is to see, keys and passwords, and how it is taken out of what a server may have repeated.

This is the one place that does so. It is used at the border: on every error before the program gets it, on the headers
of an answer, on what urllib3 logs during a call, and on what a client says of itself.

A secret comes back as it is, or as JSON, HTML, a URL or Python writes it, one inside of the other, or broken into
lines. These are too many spellings to look for each. So the text is read, time and again: escapes become the characters
that they stand for, and blanks are left out; and in each of these readings the secret, read likewise, is looked for.
The time that it takes grows with the text and with the secret, and is short where nothing is found.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

_LEAST = 4  # characters; what is shorter is part of too many words
_LONG = 8  # characters; what is shorter is hidden only where it stands alone, for it may be part of a word
_SHOWN = 6  # of a long secret that was cut in two, fewer characters than these may be seen
_READINGS = 3  # of one text, as of a URL in JSON in a page
_MAX_DEPTH = 120  # of lists and dicts; bodies of errors are less deep
_MAX_TEXT = 256 * 1024  # characters of a text that an error keeps, which may be all that came
_MASK = "***"

_NAMES = re.compile(
    r"auth|key|token|secret|passw|passphrase|pwd|credential|signature|session|cookie|jwt|(?<![\w-])(?:sig|code)(?![\w-])",
    re.IGNORECASE,
)
"""What the names of headers, and of parameters in URLs, have in them whose values are secrets."""

_ESCAPE = re.compile(
    r"""\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"""  # two for one character
    r"""|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}|\\U00(?:0[0-9a-fA-F]|10)[0-9a-fA-F]{4}|\\["'\\/bfnrt]"""
    r"""|%[0-9a-fA-F]{2}|&(?:\#([0-9]{1,9}|[xX][0-9a-fA-F]{1,8})|[A-Za-z][A-Za-z0-9]{1,31});"""
)
_LETTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

# Where something has cut a text off, an excerpt, a limit or the end of a block; perhaps within an escape.
_CUT = re.compile(r"""(?:\\(?:u\w{0,3}|x\w?)?|%\w?|&\#?\w{0,8}){0,2}(?:['"…]|\Z)""")
_CUT_BACKWARDS = re.compile(r"""(?:[0-9a-fA-F]|[\w\#;]{0,8}[0-9;][\w\#;]{0,8})?(?:['"…]|\Z)""")

_LOGGERS = ("connection", "connectionpool", "poolmanager", "response", "util.retry")
"""Of urllib3. A filter holds for one logger, not for those below it."""


class Secrets:
    """Strings that are not to be shown, however they are written when they come back."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._values = frozenset(value for value in values if len(value) >= _LEAST)
        self._known: tuple[tuple[str, str, str], ...] | None = None  # until `_ways_to_write` is asked for them

    @classmethod
    def of(
        cls, *, key: str | None = None, headers: Mapping[str, str] | None = None, urls: Iterable[str | None] = ()
    ) -> Secrets:
        """Collect the secrets of a request: the key, those among its headers, those in URLs, proxies' included."""
        values = list(_tokens(key or ""))
        for name, value in (headers or {}).items():
            if _NAMES.search(name):
                values += _in_header(name.lower(), value)
        for url in urls:
            values += _in_url(url or "")
        return cls(values)

    def __or__(self, other: Secrets) -> Secrets:
        if other._values <= self._values:
            return self
        both = Secrets(self._values | other._values)
        both._known = (*self._ways_to_write(), *other._ways_to_write())  # those of a client are known to its calls
        return both

    def hide(self, text: str) -> str:
        """The text without the secrets, and without parts of them at the ends of the text or of what it quotes."""
        if not self._values or len(text) < _LEAST:
            return text
        known = self._ways_to_write()
        spans: list[tuple[int, int]] = []
        for said, times, is_joined in _readings(text):
            found = [secret for secret, head, tail in known if head in said or tail in said]
            begins, ends = _places(text, times, is_joined) if found else ([], [])
            for secret in found:
                for start, end in _occurrences(said, secret):
                    span = begins[start], ends[end - 1]
                    if len(secret) >= _LONG or _stands_alone(said, start, end) or _stands_alone(text, *span):
                        spans.append(span)
        return _masked(text, spans) if spans else text

    def hide_in(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """The headers of an answer without the secrets: themselves, if they have none."""
        fields = list(headers.items())
        cleaned = [(self.hide(name), self.hide(value)) for name, value in fields]
        kind: Any = type(headers)
        return headers if cleaned == fields else kind(cleaned)

    def _ways_to_write(self) -> tuple[tuple[str, str, str], ...]:
        """What is looked for, with the beginning and the end of each; one is in any text that has a part of it."""
        if self._known is None:
            ways = {each for value in self._values for each in _ways_to_write(value)}
            self._known = tuple((each, each[:_SHOWN], each[-_SHOWN:]) for each in ways)
        return self._known

    def remove_from(self, error: BaseException) -> None:
        """Take the secrets out of an error, and out of those that it was made from.

        An exception that the program is handling meanwhile is left alone, though it is in the error's context.
        """
        pending: list[Any] = [error]
        handled = list(_chain(sys.exc_info()[1]))
        seen: list[BaseException] = [] if error in handled else handled
        while pending:
            each = pending.pop()
            if not isinstance(each, BaseException) or any(each is other for other in seen):
                continue
            seen.append(each)
            pending += [each.__cause__, each.__context__, *each.args]
            if (args := self._clean(each.args)) is not each.args:
                each.args = args
            fields = vars(each)
            for name, value in fields.items():
                if name != "partial":  # the answer's text is the caller's as it is
                    fields[name] = self._clean(value)
            for name in ("object", "strerror", "filename"):  # these are not in `vars`
                value = getattr(each, name, None)
                if name not in fields and (cleaned := self._clean(value)) is not value:
                    setattr(each, name, cleaned)

    def _clean(self, value: Any, depth: int = 0) -> Any:
        """A value without the secrets: itself, if it has none and is not excessively long."""
        kind = type(value)
        if kind is str:
            text = self.hide(value if len(value) <= _MAX_TEXT else f"{value[:_MAX_TEXT]}…")
            return value if text == value else text
        if kind in (bytes, bytearray):
            text = value[:_MAX_TEXT].decode("latin-1")
            hidden = self.hide(text)
            return value if hidden == text and len(value) <= _MAX_TEXT else kind(hidden.encode("latin-1"))
        if depth == _MAX_DEPTH or kind not in (dict, list, tuple):
            return value
        items = [part for pair in value.items() for part in pair] if kind is dict else list(value)
        cleaned = [self._clean(item, depth + 1) for item in items]
        if all(new is old for new, old in zip(cleaned, items, strict=True)):
            return value
        return dict(zip(cleaned[::2], cleaned[1::2], strict=True)) if kind is dict else kind(cleaned)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those in its context."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


# Readings of a text -------------------------------------------------------------------------------------------


def _readings(text: str) -> Iterator[tuple[str, int, bool]]:
    """The text, and what it is with its escapes read; the same of that, and so on; each also without its blanks.

    With each comes how many times escapes have been read, and whether blanks are left out, line breaks among them.
    """
    for times in range(_READINGS + 1):
        yield text, times, False
        joined = "".join(text.split())
        if joined != text:
            yield joined, times, True
        if not ("\\" in text or "%" in text or "&" in text):
            return
        before, text = text, _ESCAPE.sub(_character, text)
        if text == before:
            return


def _character(escape: re.Match[str]) -> str:
    """What an escape stands for."""
    first, second = escape[0][0], escape[0][1]
    if first == "%":
        return chr(int(escape[0][1:], 16))
    if escape[1]:  # a number of HTML's
        number = int(escape[1]) if escape[1].isdigit() else int(escape[1][1:], 16)
        return chr(min(number, sys.maxunicode))
    if first == "&":
        import html  # here and not above, for importing the client is to be cheap

        return html.unescape(escape[0])
    if second == "u":
        character: str = json.loads(f'"{escape[0]}"')
        return character
    return chr(int(escape[0][2:], 16)) if second in "xU" else _LETTERS.get(second, second)


def _places(text: str, times: int, is_joined: bool) -> tuple[list[int], list[int]]:
    """Where in the text each character of one of its readings begins, and where it ends."""
    begins, ends = list(range(len(text))), list(range(1, len(text) + 1))
    for _ in range(times):
        done, read = 0, [""]
        new_begins: list[int] = []
        new_ends: list[int] = []
        for escape in _ESCAPE.finditer(text):
            start, end = escape.span()
            character = _character(escape)
            read += (text[done:start], character)
            new_begins += begins[done:start] + [begins[start]] * len(character)
            new_ends += ends[done:start] + [ends[end - 1]] * len(character)
            done = end
        text = "".join((*read, text[done:]))
        begins, ends = new_begins + begins[done:], new_ends + ends[done:]
    if is_joined:
        kept = [place for place, character in enumerate(text) if not character.isspace()]
        begins, ends = [begins[place] for place in kept], [ends[place] for place in kept]
    return begins, ends


# Finding ------------------------------------------------------------------------------------------------------


def _ways_to_write(secret: str) -> set[str]:
    """The ways that reading does not bring to one."""
    plain = {secret, secret.encode("utf-8", "replace").decode("latin-1")}  # as headers are read
    texts = {reading for each in plain for reading, _, _ in _readings(each)}
    texts |= {each.replace(" ", "+") for each in texts}  # as in a query
    if len(secret) >= _LONG:
        texts |= set(_in_base64(secret.encode("utf-8", "replace")))
    return {each for each in texts if len(each) >= _LEAST}


def _in_base64(secret: bytes) -> Iterator[str]:
    """What base64 makes of it wherever it stands; four characters are three bytes, so there are three ways."""
    for before in range(3):
        whole = base64.b64encode(bytes(before) + secret).decode()
        # Without those characters in which other bytes have a part.
        text = whole[(before * 8 + 5) // 6 : (before + len(secret)) * 8 // 6]
        yield text
        yield text.replace("+", "-").replace("/", "_")


def _occurrences(text: str, secret: str) -> Iterator[tuple[int, int]]:
    """Where the secret is; if it is long, also where its beginning is followed by a cut, or its end follows one."""
    if len(secret) < _LONG:
        start = text.find(secret)
        while start != -1:
            yield start, start + len(secret)
            start = text.find(secret, start + 1)
        return
    yield from _beginnings(text, secret, _CUT)
    size = len(text)
    yield from ((size - end, size - start) for start, end in _beginnings(text[::-1], secret[::-1], _CUT_BACKWARDS))


def _beginnings(text: str, secret: str, cut: re.Pattern[str]) -> Iterator[tuple[int, int]]:
    """Where the secret is, or its beginning with a cut behind it. Takes linear time (Knuth, Morris and Pratt)."""
    size = len(secret)
    if secret[:_SHOWN] not in text:
        return
    letters = [*secret, None, *text]
    longest = [0]  # of what ends at each letter, the longest that is a beginning of the secret
    for place in range(1, len(letters)):
        letter, length = letters[place], longest[-1]
        while length and letters[length] != letter:
            length = longest[length - 1]
        length += letters[length] == letter
        longest.append(length)
        end = place - size
        if end > 0 and (length == size or (length >= _SHOWN and cut.match(text, end))):
            yield end - length, end


def _stands_alone(text: str, start: int, end: int) -> bool:
    """Whether a part of a text is no part of a word."""
    return not (text[start - 1 : start].isalnum() or text[end : end + 1].isalnum())


def _masked(text: str, spans: list[tuple[int, int]]) -> str:
    pieces: list[str] = []
    done = 0
    for start, end in sorted(spans):
        if start > done or not pieces:
            pieces += (text[done:start], _MASK)
        done = max(done, end)
    return "".join((*pieces, text[done:]))


# Where secrets are --------------------------------------------------------------------------------------------


def _tokens(*values: str) -> list[str]:
    """Those that are not, by all appearances, a placeholder, a word or a number, which others may use as well."""
    return [value for value in values if len(value) >= _LONG or not (value.isalpha() or value.isdigit())]


def _in_header(name: str, value: str) -> list[str]:
    """The secrets in the value of a header whose name says that it has some."""
    pairs = [(part.partition("=")[0], part.partition("=")[2].strip('"')) for part in re.split(r"[\s,;]+", value)]
    if "cookie" in name:
        return [each for each in (value, *(text for _, text in pairs)) if len(each) >= _LONG]  # others are settings
    scheme, _, credentials = value.partition(" ")
    if not credentials:
        return _tokens(value)
    found = _tokens(credentials.strip(), *(text for each, text in pairs if each == "response" or _NAMES.search(each)))
    if "authorization" not in name:
        found += _tokens(value)
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            found += _pair(*base64.b64decode(credentials).decode().partition(":")[::2])
    return found


def _in_url(url: str) -> list[str]:
    """The secrets of a URL: a user and a password, or one of them, and parameters that have the names of secrets."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return []
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    parameters = parse_qsl(parts.query, errors="replace") if parts.query else ()
    return [
        *_pair(user, password),
        *_pair(unquote(user), unquote(password)),
        *_tokens(*(value for name, value in parameters if _NAMES.search(name))),
    ]


def _pair(user: str, password: str) -> list[str]:
    if not user and not password:
        return []
    pair = f"{user}:{password}"
    basic = base64.b64encode(pair.encode("utf-8", "replace")).decode()
    latin = base64.b64encode(pair.encode("latin-1", "replace")).decode()  # which is what requests sends
    return [password or user, pair, basic, latin]


def without_secrets(url: str) -> str:
    """What may be shown of a URL that is perhaps none: not what stands before an `@`, nor its query."""
    shown = re.sub(r"\A([a-zA-Z0-9+.-]*://)?.*@", rf"\1{_MASK}@", url, flags=re.DOTALL)  # a password may have a "?"
    shown, mark, _ = shown.partition("?")
    return shown + (mark and "?…")


_hidden: ContextVar[Secrets | None] = ContextVar("chatanywhere_hidden", default=None)


class _LogFilter(logging.Filter):
    """Takes the secrets of the call that is being made out of a record."""

    def filter(self, record: logging.LogRecord) -> bool:
        secrets = _hidden.get()
        if secrets is not None:
            record.msg, record.args = secrets.hide(record.getMessage()), ()
            if record.exc_info and record.exc_info[1]:
                secrets.remove_from(record.exc_info[1])
        return True


_filter = _LogFilter()


@contextlib.contextmanager
def hidden_in_logs(secrets: Secrets) -> Iterator[None]:
    """Keep secrets out of what urllib3 logs meanwhile, in this thread or task."""
    for name in _LOGGERS:
        logging.getLogger(f"urllib3.{name}").addFilter(_filter)
    token = _hidden.set(secrets)
    try:
        yield
    finally:
        _hidden.reset(token)
