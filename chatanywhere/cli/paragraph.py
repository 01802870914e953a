"""A paragraph of Markdown that is drawn word by word while it comes: most answers are little else."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.style import Style

from .printing import visible

_BEGINNING = re.compile(r"""["'(]?(?:[^\W\d_]|[^\x00-\x7f\s]|[0-9]+[^0-9.)])""")
"""What begins a paragraph, or goes on with one, and nothing else."""

_MARKUP = re.compile(r"[*`\\]|~~|!?\[|<(?=\w)|&(?=[#\w])|(?<!\w)_|_(?!\w)| {2,}\n")
"""What may be more than it looks like."""

_OPEN = re.compile(r"[*`]|~~|\[(?![^\]]*\][^(])|(?<!\w)_|_(?!\w)")
"""What is left of it in a text that was read, where its end has not come; or where it means nothing."""

_SINGLE = r"[\u2e80-\ua4cf\uac00-\ud7ff\uf900-\ufaff\uff00-\uff60]"
"""A character that lines may be broken behind: Chinese, Japanese, Korean."""

_WORD = re.compile(rf"\s+|{_SINGLE}|(?:(?!{_SINGLE})\S)+")

_PATIENCE = 8
"""Where what has come can't be drawn yet, it is looked at again when it is longer by one part in so many: to look each
time would take long for long ones.
"""


def begins(line: str) -> bool:
    """Whether a line, which may go on, is that of a paragraph for sure."""
    return _BEGINNING.match(line) is not None


class Paragraph:
    """A paragraph that is being drawn.

    Args:
        console: where.
        parser: of Markdown.
    """

    def __init__(self, console: Console, parser: MarkdownIt) -> None:
        self._console = console
        self._parser = parser
        self._raw = ""  # has come, and may belong to the next block
        self._source = ""  # belongs to this one, and has not been drawn
        self._enough = 0  # characters of it with which it is worth a look whether they can be
        self._column = 0
        self._blank: list[Segment] = []  # goes before the next word
        self._drawn = ""  # the last character that was drawn

    def feed(self, text: str) -> str | None:
        """Take a piece of the answer. Return what is behind the paragraph if that has ended, else None."""
        self._raw += text
        while "\n" in self._raw:
            line, _, rest = self._raw.partition("\n")
            following, ended, _ = rest.partition("\n")
            if not begins(following):
                if not ended:
                    break  # what follows can't be told yet
                if not following.strip() or not self._continues(following):
                    self._raw = line
                    self.end()
                    return rest
            self._source += visible(line.removesuffix("\r")) + "\n"
            self._raw = rest
        else:
            cut = self._raw.removesuffix("\r")
            self._source, self._raw = self._source + visible(cut), self._raw[len(cut) :]
        self._draw_settled()
        return None

    def _continues(self, line: str) -> bool:
        """Whether a line that stands behind one of a paragraph belongs to it."""
        tokens = self._parser.parse(f"x\n{line}\n")
        return [token.type for token in tokens if token.level == 0] == ["paragraph_open", "paragraph_close"]

    def end(self) -> None:
        """Draw what is left, and end the line."""
        self._draw_markup(self._source + visible(self._raw.partition("\n")[0].removesuffix("\r")))
        self._source = self._raw = ""
        self._new_line()

    def _draw_settled(self) -> None:
        """Draw what nothing that comes later can change."""
        if len(self._source) < self._enough:
            return
        while self._source:
            self._enough = len(self._source) + len(self._source) // _PATIENCE
            markup = _MARKUP.search(self._source)
            if markup is None or markup.start():
                size = _settled(self._source[: markup.start()] if markup else self._source, whole=markup is not None)
                if not size:
                    return
                self._put([Segment(self._source[:size].replace("\n", " "))])
            else:
                size = _settled(self._source, whole=False)
                inline = self._parser.parseInline(self._source[:size])
                if not size or any(_OPEN.search(token.content) for token in _texts(inline)):
                    return
                self._draw_markup(self._source[:size])
            self._source = self._source[size:]
        self._enough = 0

    def _draw_markup(self, source: str) -> None:
        if not source:
            return
        blocks = Markdown("", hyperlinks=False)
        blocks.parsed = [
            Token("paragraph_open", "p", 1),
            *self._parser.parseInline(source),
            Token("paragraph_close", "p", -1),
        ]
        leading = source[: len(source) - len(source.lstrip())]
        trailing = source[len(source.rstrip()) :]
        longest = 100 + 2 * len(source)  # columns
        options = self._console.options.update(width=longest, no_wrap=True, justify="left")
        lines = self._console.render_lines(blocks, options, pad=False)
        self._put([Segment(" ")] if leading else [])
        for number, line in enumerate(lines):
            if number:
                self._new_line()
            while line and not line[-1].text.strip():
                line = line[:-1]
            self._put(line)
        self._put([Segment(" ")] if trailing else [])

    def _put(self, segments: Iterable[Segment]) -> None:
        """Draw words, in the next line where they do not fit."""
        drawn: list[Segment] = []
        width = self._console.width
        for segment in segments:
            for word in _WORD.findall(segment.text):
                if not word.strip():
                    style = segment.style if _is_ruled(segment.style) else None
                    self._blank = [Segment(" ", style)] if self._column else []
                    continue
                size = cell_len(word)
                if self._column and self._column + len(self._blank) + size > width:
                    drawn.append(Segment.line())
                    self._column, self._blank = 0, []
                drawn += [*self._blank, Segment(word, segment.style)]
                self._column += len(self._blank) + size
                self._blank = []
        if drawn:
            # Not cropped: a word that is longer than the line, such as the address of a page, goes on in the next.
            self._console.print(Segments(drawn), end="", crop=False)

    def _new_line(self) -> None:
        if self._column:
            self._console.print(Segments([Segment.line()]), end="")
        self._column, self._blank = 0, []


def _settled(source: str, *, whole: bool) -> int:
    """How much of a text is words that have ended. `whole`: markup follows it, which may be within a word."""
    words = list(_WORD.finditer(source))
    if words and (re.fullmatch(_SINGLE, words[-1][0]) or (whole and not words[-1][0].strip())):
        return len(source)
    return words[-1].start() if words else 0


def _texts(tokens: Iterable[Token]) -> list[Token]:
    return [each for token in tokens for each in token.children or () if each.type == "text"]


def _is_ruled(style: Style | None) -> bool:
    """Whether a style is seen on a blank, too."""
    return style is not None and bool(style.underline or style.strike or style.bgcolor)
