"""Text cut anywhere, and web pages that come in its place. No I/O."""

from __future__ import annotations

import codecs

from .._errors import ProtocolError
from .._types import Event, TextDelta
from .service import page_summary

_TAGS = ("<!doctype html", "<html")
_LIMIT = 64 * 1024  # characters of a page that are read for its title


class Utf8Decoder:
    """Decodes UTF-8 cut anywhere."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def feed(self, block: bytes) -> tuple[str, ProtocolError | None]:
        """Return the text, and the error that follows it if what follows is not UTF-8."""
        try:
            return self._decoder.decode(block), None
        except UnicodeDecodeError as exc:
            error = ProtocolError(f"the answer is not UTF-8: {exc.object[exc.start : exc.end]!r}")
            error.__cause__ = exc
            return exc.object[: exc.start].decode(), error

    def finish(self) -> None:
        try:
            self._decoder.decode(b"", True)
        except UnicodeDecodeError as exc:
            raise ProtocolError("the answer ends in the middle of a UTF-8 character") from exc


class TextDecoder:
    """Raw text, as the `web` protocol sends it; recognises a page that came in its place."""

    done = False
    ended = 0

    def __init__(self, *, maybe_page: bool, text_allowed: bool = True) -> None:
        self.chunks: list[str] = []
        self._utf8 = Utf8Decoder()
        self._page = "" if maybe_page else None  # what may turn out to be a page; None once it is text
        self._text_allowed = text_allowed

    def feed(self, block: bytes, events: list[Event]) -> None:
        text, error = self._utf8.feed(block)
        if self._page is not None:
            self._page += text
            text = self._decide()
        if error and self._page and not self._is_page(self._page):
            text = self._page
        if text:
            events.append(TextDelta(text))
        if error:
            raise error

    def _decide(self) -> str:
        """Return the text held back so far once it can't be a page."""
        held = self._page or ""
        start = held.lstrip()[:16].lower()
        if not self._text_allowed or any(tag.startswith(start[: len(tag)]) for tag in _TAGS):
            if len(held) > _LIMIT:
                raise ProtocolError(page_summary(held))
            return ""
        self._page = None
        return held

    def finish(self, events: list[Event]) -> None:
        if self._page is not None and self._is_page(self._page):
            raise ProtocolError(page_summary(self._page))
        if self._page:
            events.append(TextDelta(self._page))
        self._utf8.finish()

    def _is_page(self, text: str) -> bool:
        return not self._text_allowed or text.lstrip()[:16].lower().startswith(_TAGS)
