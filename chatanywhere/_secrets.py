"""What nobody is to see, keys and passwords, and how it is taken out of what a server may have repeated.

This is the one place that does so. It is used at the border: on every error before the program gets it, on the server's
name for a request, and on what urllib3 logs during a call.
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
from urllib.parse import quote, unquote, urlsplit

_LEAST = 8  # characters; what is shorter is a placeholder, and may be part of a word
_SHOWN = 6  # of a secret that was cut in two, fewer characters than these may be seen
_MAX_DEPTH = 120  # of lists and dicts; bodies of errors are less deep
_MASK = "***"

_NAMES = re.compile("(.*-)?(authorization|api-?key|cookie|token|secret)", re.IGNORECASE)
"""The headers whose values are secrets."""

_LOGGERS = ("connection", "connectionpool", "poolmanager", "response", "util.retry")
"""Of urllib3. A filter holds for one logger, not for those below it."""


class Secrets:
    """Strings that are not to be shown, in all the spellings in which they may come back."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        self._spellings = {each for value in values if len(value) >= _LEAST for each in _spellings(value)}
        self._patterns: dict[str, re.Pattern[str]] = {}

    @classmethod
    def of(
        cls, *, key: str | None = None, headers: Mapping[str, str] | None = None, proxies: Iterable[str | None] = ()
    ) -> Secrets:
        """Collect the secrets of a request: the key, those among its headers, the passwords in URLs of proxies."""
        values = [key or ""]
        for name, value in (headers or {}).items():
            if _NAMES.fullmatch(name):
                values += _in_header(name.lower(), value)
        for proxy in proxies:
            values += _in_url(proxy or "")
        return cls(values)

    def __or__(self, other: Secrets) -> Secrets:
        both = Secrets()
        both._spellings = self._spellings | other._spellings
        return both

    def hide(self, text: str) -> str:
        """The text without the secrets, and without parts of them at the ends of the text or of what it quotes."""
        for secret in sorted(self._spellings, key=len, reverse=True):
            if secret[:_SHOWN] in text or secret[-_SHOWN:] in text:
                if secret not in self._patterns:
                    self._patterns[secret] = _pattern(secret)
                text = self._patterns[secret].sub(_MASK, text)
        return text

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
        """A value without the secrets: itself, if it has none."""
        kind = type(value)
        if kind is str:
            text = self.hide(value)
            return value if text == value else text
        if kind in (bytes, bytearray):
            text = value.decode("latin-1")
            hidden = self.hide(text)
            return value if hidden == text else kind(hidden.encode("latin-1"))
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


def _pattern(secret: str) -> re.Pattern[str]:
    """Matches a secret, and a part of it where something has cut the rest off: an excerpt, a limit, a block's end."""
    beginnings = "|".join(re.escape(secret[:size]) for size in range(len(secret) - 1, _SHOWN - 1, -1))
    ends = "|".join(re.escape(secret[-size:]) for size in range(len(secret) - 1, _SHOWN - 1, -1))
    return re.compile(rf"{re.escape(secret)}|(?:{beginnings})(?=['\"…]|\Z)|(?:(?<=['\"…])|\A)(?:{ends})")


def _spellings(secret: str) -> set[str]:
    """The ways in which a secret comes back: as it is, quoted by Python, in JSON, HTML or a URL."""
    import html  # here and not above, for importing the client is to be cheap

    plain = {secret, secret.encode("utf-8", "replace").decode("latin-1")}  # as headers are read
    ways = (repr, ascii, json.dumps)
    quoted = {way(each)[1:-1] for each in plain for way in ways}
    return plain | quoted | {html.escape(secret), quote(secret, safe=""), quote(secret, safe="!$&'()*+,;=:")}


def _in_header(name: str, value: str) -> list[str]:
    """The secrets in the value of a header."""
    if name.endswith("cookie"):
        return [value, *(part.partition("=")[2].strip(' "') for part in value.split(";"))]
    if not name.endswith("authorization"):
        return [value]
    scheme, _, credentials = value.partition(" ")
    if not credentials:
        return [value]
    decoded = []
    if scheme.lower() == "basic":
        with contextlib.suppress(binascii.Error, UnicodeDecodeError):
            decoded = _pair(*base64.b64decode(credentials).decode().partition(":")[::2])
    return [credentials, *decoded]


def _in_url(url: str) -> list[str]:
    """The secrets of a URL with a user and a password, or with one of them."""
    try:
        userinfo = urlsplit(url).netloc.rpartition("@")[0]
    except ValueError:
        return []
    user, _, password = userinfo.partition(":")
    return [*_pair(user, password), *_pair(unquote(user), unquote(password))]


def _pair(user: str, password: str) -> list[str]:
    pair = f"{user}:{password}"
    basic = base64.b64encode(pair.encode("utf-8", "replace")).decode()
    latin = base64.b64encode(pair.encode("latin-1", "replace")).decode()  # which is what requests sends
    return [password or user, pair, basic, latin] if user or password else []


def without_password(url: str) -> str:
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
