"""Texts that match a regular expression, for expressions of the plain kind.

Known are characters, classes, escapes, groups, alternatives, repetitions and anchors at the ends. Whoever asks has to
check a text, since what looks ahead or back, or names a group, is not obeyed.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator

_DIGITS, _WORD, _BLANK = string.digits, string.ascii_lowercase + string.ascii_uppercase + string.digits + "_", " \t"
_OTHERS = "-.,:;!?'\"()[]{}<>/\\|@#$%^&*+=~`"
_ANY = _WORD + " " + _OTHERS
_CLASSES = {
    "d": _DIGITS,
    "w": _WORD,
    "s": _BLANK,
    "D": _WORD[:-11] + "_ " + _OTHERS,
    "W": " " + _OTHERS,
    "S": _WORD + _OTHERS,
}
_CONTROL = {"t": "\t", "n": "\n", "r": "\r", "f": "\f", "v": "\v"}
_CODE = re.compile(r"x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}")
_REPEAT = re.compile(r"(?:[*+?]|\{(\d+)(,(\d*))?\})[?+]?")
_GROUP = re.compile(r"\?(?:[:=!]|<[=!]|P?<\w+>)")
_MOST = 10_000  # repetitions


def matches(pattern: str, least: int = 0) -> Iterator[str]:
    """Yield texts that an expression may match.

    Args:
        pattern: the expression, as JSON schemas have them (ECMA 262).
        least: how long a text has to be; what may be repeated is repeated so much more often.

    Raises:
        ValueError: the expression is malformed.
    """
    for extra in dict.fromkeys((*range(4), *range(least, max(0, least - 40), -1), least // 2, least // 3)):
        for turn in range(8):
            yield _Matcher(pattern, turn, extra).text()
    # Where an end is not anchored, anything may stand there.
    if least and pattern[-1:] != "$":
        yield _Matcher(pattern, 0, 0).text().ljust(least, "x")
    if least and pattern[:1] != "^":
        yield _Matcher(pattern, 0, 0).text().rjust(least, "x")


class _Matcher:
    """Reads an expression and writes what it matches at the same time.

    Args:
        pattern: the expression.
        turn: which of the characters of a class, and of alternatives, is taken; in every other turn, what is optional.
        extra: how many repetitions there are besides those that have to be.
    """

    def __init__(self, pattern: str, turn: int, extra: int) -> None:
        self._pattern = pattern
        self._place = 0
        self._turn = turn
        self._extra = extra

    def text(self) -> str:
        text = self._alternatives()
        if self._place < len(self._pattern):
            raise ValueError(f"unbalanced parenthesis in the pattern {self._pattern!r}")
        return text

    def _alternatives(self) -> str:
        texts = [self._sequence()]
        while self._next("|"):
            texts.append(self._sequence())
        return texts[self._turn % len(texts)]

    def _sequence(self) -> str:
        text = ""
        while self._place < len(self._pattern) and self._pattern[self._place] not in "|)":
            atom = self._atom()
            least, most = self._repetitions()
            if least > _MOST:
                raise ValueError(f"too many repetitions in the pattern {self._pattern!r}")
            # What may be there or not goes by the turn, lest all that can be repeated grows at once.
            extra = self._turn % 2 if most == least + 1 else self._extra
            text += atom * min(most, least + extra)
        return text

    def _next(self, token: str) -> bool:
        found = self._pattern.startswith(token, self._place)
        self._place += len(token) * found
        return found

    def _take(self) -> str:
        if self._place == len(self._pattern):
            raise ValueError(f"the pattern {self._pattern!r} ends too early")
        self._place += 1
        return self._pattern[self._place - 1]

    def _repetitions(self) -> tuple[int, int]:
        found = _REPEAT.match(self._pattern, self._place)
        if not found:
            return 1, 1
        self._place = found.end()
        least, comma, most = found.groups()
        if least is not None:
            return int(least), int(most) if most else _MOST if comma else int(least)
        return {"*": (0, _MOST), "+": (1, _MOST), "?": (0, 1)}[found[0][0]]

    def _atom(self) -> str:
        character = self._take()
        if character == "(":
            return self._group()
        if character == "[":
            return self._picked(self._class())
        if character == "\\":
            return self._picked(self._escape())
        if character == ".":
            return self._picked(_ANY)
        return "" if character in "^$" else character

    def _group(self) -> str:
        opening = _GROUP.match(self._pattern, self._place)
        self._place = opening.end() if opening else self._place
        text = self._alternatives()
        if not self._next(")"):
            raise ValueError(f"unbalanced parenthesis in the pattern {self._pattern!r}")
        # What is looked for ahead or behind is the text of others.
        return "" if opening and opening[0] in ("?=", "?!", "?<=", "?<!") else text

    def _picked(self, characters: str) -> str:
        return characters[self._turn % len(characters)] if characters else ""

    def _escape(self) -> str:
        """Return the characters that an escape stands for."""
        code = _CODE.match(self._pattern, self._place)
        if code:
            self._place = code.end()
            return chr(int(code[0][1:], 16))
        character = self._take()
        if character in "bB":
            return ""
        return _CLASSES.get(character) or _CONTROL.get(character, character)

    def _class(self) -> str:
        """Return the characters of a class."""
        negated = self._next("^")
        found = ""
        first = True
        while first or not self._next("]"):
            first = False
            start = self._take()
            start = self._escape() if start == "\\" else start
            following = self._pattern[self._place : self._place + 2]
            if len(start) == 1 and len(following) == 2 and following[0] == "-" and following[1] != "]":
                self._take()
                end = self._take()
                end = self._escape() if end == "\\" else end
                found += "".join(map(chr, range(ord(start), min(ord(end), ord(start) + 255) + 1)))
            else:
                found += start
        return "".join(character for character in _ANY if character not in found) if negated else found
