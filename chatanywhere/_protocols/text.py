"""Text cut anywhere, and what comes in its place. No I/O."""

from __future__ import annotations

import codecs
from typing import Any

from .._errors import ProtocolError
from .._types import Event, TextDelta
from .decoder import Decoder
from .excerpt import beginning
from .head import AnswerHead
from .page import MAX_PAGE, is_page, page_summary

_TAGS = (b"<!doctype html", b"<html")


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


class TextDecoder(Decoder[Event]):
    """Raw text, as the `web` protocol sends it; recognises a page that came in its place."""

    def __init__(self, head: AnswerHead) -> None:
        self._utf8 = Utf8Decoder()
        self._head = head
        self._held = bytearray()  # what may turn out to be a page
        self._is_text = head.media_type != "text/html"

    def feed(self, block: bytes, events: list[Event]) -> None:
        if not self._is_text:
            self._held += block
            if self._may_be_page():
                if len(self._held) > MAX_PAGE:
                    raise ProtocolError(not_an_answer(self._head, bytes(self._held)))
                return
            self._is_text = True
            block, self._held = bytes(self._held), bytearray()
        text, error = self._utf8.feed(block)
        if text:
            events.append(TextDelta(text))
        if error:
            raise error

    def _may_be_page(self) -> bool:
        start = self._start()
        return any(tag.startswith(start[: len(tag)]) for tag in _TAGS)

    def _start(self) -> bytes:
        return bytes(self._held).lstrip()[:16].lower()

    def finish(self, events: list[Event]) -> None:
        if self._start().startswith(_TAGS):
            raise ProtocolError(not_an_answer(self._head, bytes(self._held)))
        self._is_text = True
        self.feed(bytes(self._held), events)
        self._utf8.finish()


class NoAnswerDecoder(Decoder[Any]):
    """A page, or other text where none is an answer; says what it is."""

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._content = bytearray()

    def feed(self, block: bytes, events: list[Event]) -> None:
        self._content += block
        if len(self._content) > MAX_PAGE:
            self.finish(events)

    def finish(self, events: list[Event]) -> None:
        raise ProtocolError(not_an_answer(self._head, bytes(self._content)))


def not_an_answer(head: AnswerHead, content: bytes) -> str:
    """Say, for an error, what came in the place of an answer."""
    text = head.decode(content)
    if is_page(text):
        return page_summary(text)
    return f"the answer is text: {beginning(text)}" if text.strip() else "the answer is empty"
