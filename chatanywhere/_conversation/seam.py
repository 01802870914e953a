"""Where an answer that was cut meets the rest of it, which the model was asked for. No I/O.

Models are asked to begin with the last words of the answer, but begin as they like: exactly where it stopped, with the
word or the line that was cut, from the beginning, or with the opening of the code block that is open already. What they
say again is left out. Where it can't be told whether they repeat themselves, it stays: text twice is a blemish, text
lost is a loss.
"""

from __future__ import annotations

import re
import unicodedata
from os.path import commonprefix

_ENOUGH = 4
"""Characters that nobody writes twice in a row within a word by chance: "train" goes on with "ing"."""

_ENOUGH_ACROSS_BLANKS = 12
"""Bytes of UTF-8 of which the same is true where blanks are in between, or in other places."""

_MOST = 10_000
"""Characters at the end of an answer that are compared, but for an answer that is begun anew."""

_LAST_WORDS = 40
"""Characters that a model is asked to repeat, or a few more: enough to be beyond doubt."""

_PROBE = 16  # characters by which a place of the answer is found
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_FENCE = re.compile(r"^ {0,3}(?P<fence>`{3,}|~{3,})(?P<info>[^\n]*)$", re.MULTILINE)
_OPENING = re.compile(r"\s*(?:`{3,}|~{3,})[ \t]*(?P<info>[^\s`~][^\n`]*)\n")
_OPENING_SO_FAR = re.compile(r"\s*(?:`{1,2}|~{1,2}|(?:`{3,}|~{3,})[^\n`]*)$|\s*$")


class Seam:
    """Lets through the rest of an answer, piece by piece, without what it says again.

    Args:
        partial: the answer as far as it came.
    """

    def __init__(self, partial: str) -> None:
        self._partial = partial
        self._base = partial.rstrip()
        self._last_words = last_words(partial)
        self._blanks = partial[len(self._base) :]
        self._fence = _open_line(partial)
        self._in_code = _is_in_code(partial)
        self._waiting: str | None = ""  # what can't be told yet; None behind the seam

    def feed(self, piece: str) -> str:
        """Return what is new, as far as that can be told."""
        if self._waiting is None:
            return piece
        self._waiting += piece
        return "" if self._may_change(self._waiting) else self.finish()

    def finish(self) -> str:
        """Return what is new of what has been held back: no more comes."""
        waiting, self._waiting = self._waiting, None
        return self.news(waiting) if waiting else ""

    def news(self, rest: str) -> str:
        """Return what the whole rest has that is not in the answer."""
        rest = rest[self._reopening(rest) :]
        body = rest.lstrip()
        size = self._said_as_asked(body)
        if not size:
            size = _overlap(self._partial, rest)
            if size:
                return rest[size:]
            size = _overlap(self._base, body, across_blanks=True)
            if not size:
                return rest
        blanks = commonprefix([body[size:], self._blanks])  # noqa: RUF071  which are no paths
        return body[size + len(blanks) :]

    def _may_change(self, rest: str) -> bool:
        """Whether more of the rest could lead to another overlap."""
        body = rest.lstrip()
        if len(body) < len(self._base) and self._base.startswith(body):
            return True
        if not body or (self._in_code and _OPENING_SO_FAR.match(rest)):
            return True
        rest = rest[self._reopening(rest) :]
        size = self._said_as_asked(rest.lstrip())
        if size:
            return self._blanks.startswith(rest.lstrip()[size:])
        for base, body in ((self._partial, rest), (self._base, rest.lstrip())):
            if body in base[-_MOST:-1]:
                return True
            size = _longest(base, body)
            new = body[size:]
            if size and (body[:size].startswith(new[:size]) or self._blanks.startswith(new)):
                return True  # a run may go on, or the blanks be said again
        return False

    def _said_as_asked(self, body: str) -> int:
        """How many characters are the words that the model was asked for, however long the same goes on before them."""
        words = self._last_words
        return len(words) if len(words) >= _LAST_WORDS // 2 and body.startswith(words) else 0

    def _reopening(self, rest: str) -> int:
        """How many characters at its beginning open the code block that is open already."""
        opening = _OPENING.match(rest)
        if opening is None or not self._in_code or rest.lstrip().startswith(self._base):
            return 0
        return 0 if self._fence and rest.lstrip().startswith(self._fence) else opening.end()


def joined(partial: str, rest: str) -> str:
    """Return an answer that was cut with the rest of it, what both have only once."""
    return partial + Seam(partial).news(rest)


def last_words(partial: str) -> str:
    """Return the end of an answer, from the beginning of a line or a word, for a model to repeat."""
    base = partial.rstrip()
    place = max(0, len(base) - _LAST_WORDS)
    line = base.rfind("\n", 0, place + 1) + 1
    if place - line > _LAST_WORDS:
        line = base.rfind(" ", place - _LAST_WORDS, place + 1) + 1 or place
    return base[line:].lstrip()


def _overlap(partial: str, rest: str, *, across_blanks: bool = False) -> int:
    """How many characters the rest says again of the end of an answer, 0 if that is not beyond doubt."""
    size = _longest(partial, rest)
    if not size or not rest[:size].strip():
        return 0
    repeated, before = rest[:size], partial[:-size]
    fence = _open_line(partial)
    if fence and repeated.endswith(fence):
        return size
    if rest.startswith(repeated, size) or (repeated + repeated).find(repeated, 1) < size:
        return 0  # a run, which may be longer than either has of it
    if not before:
        return size  # it begins again
    if across_blanks:
        enough = len(repeated.encode("utf-8", "surrogatepass")) >= _ENOUGH_ACROSS_BLANKS
        return size if enough and _begins_word(before[-1], repeated[0]) else 0
    if len(repeated) >= _ENOUGH or repeated[-1] == "\u200d":  # half an emoji
        return size
    if not any(map(str.isalpha, repeated)):
        return 0
    # No word goes on with "k " behind "quick ", but one may go on with "lo" behind "hel".
    is_of_one_word = all(map(_is_of_word, repeated))
    return 0 if is_of_one_word and not _begins_word(before[-1], repeated[0]) else size


def _longest(partial: str, rest: str) -> int:
    """The length of the longest text that the answer ends and the rest begins with."""
    if rest.startswith(partial):
        return len(partial)
    partial = partial[-_MOST:]
    if len(rest) >= _PROBE:
        probe = rest[:_PROBE]
        place = partial.find(probe, max(0, len(partial) - len(rest)))
        while place >= 0:
            if rest.startswith(partial[place:]):
                return len(partial) - place
            place = partial.find(probe, place + 1)
    for size in range(min(len(partial), len(rest), _PROBE - 1), 0, -1):
        if partial.endswith(rest[:size]):
            return size
    return 0


def _begins_word(before: str, first: str) -> bool:
    """Whether a word, or something else than what is before it, begins with a character."""
    if _HAN.match(first):
        return True
    if _is_of_word(first):
        return not _is_of_word(before) or bool(_HAN.match(before))
    return first != before


def _is_of_word(character: str) -> bool:
    return character.isalnum() or character == "_" or unicodedata.category(character)[0] == "M"


def _is_in_code(text: str) -> bool:
    """Whether a text in Markdown ends within a fenced block."""
    fence = ""
    for found in _FENCE.finditer(text):
        if not fence:
            if found["fence"][0] != "`" or "`" not in found["info"]:
                fence = found["fence"]
        elif found["fence"].startswith(fence) and not found["info"].strip():
            fence = ""
    return bool(fence)


def _open_line(text: str) -> str:
    """The last line of a text without its indent, if it begins or ends a fenced block."""
    line = text[text.rfind("\n") + 1 :]
    return line.strip() if _FENCE.match(line) else ""
