"""Markdown on a terminal, append-only: nothing is drawn twice.

A block is drawn when it has ended, an item of a list likewise, a line of code and a word of a paragraph as it comes. So
the cursor never has to move up, which makes a terminal flicker, and goes wrong where a text is longer than the window.
"""

from __future__ import annotations

import errno
import itertools
import re
import sys
from collections.abc import Sequence

from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import Markdown, TableElement
from rich.segment import Segment, Segments
from rich.syntax import Syntax
from rich.table import Table

from .paragraph import Paragraph, begins
from .printing import visible

_THEME = "ansi_dark"  # the colours of the terminal

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_MAY_END = re.compile(r"\s*$|\s*(?:`{3}|~{3})| {0,3}#")
"""Lines behind which it is worth a look whether a block has ended: reading each time would take long for long ones."""

_PATIENCE = 8
"""Where it has not, the next look is worth it when there are more lines by one in so many, for the same reason. But a
line that begins with the mark of code or of a heading ends whatever is before it.
"""

_LEFT_BY_BLANK = ("paragraph_open", "heading_open", "table_open", "hr")
"""What a blank line ends; a list or a quotation may go on behind it."""


class MarkdownPrinter:
    """Draws the answer's Markdown on standard output as it comes.

    Args:
        forced: also where that is no terminal.
    """

    def __init__(self, *, forced: bool = False) -> None:
        if sys.stdout is None:
            raise OSError(errno.EBADF, "standard output is closed")
        self._console = _Terminal(
            file=sys.stdout, force_terminal=True if forced else None, highlight=False, emoji=False
        )
        # Neither HTML nor the targets of links would be drawn, and nothing that was said is to be left out.
        self._parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable("reference")
        self._line = ""  # has not ended
        self._lines: list[str] = []  # of blocks that have not been drawn
        self._enough = 0  # lines with which a look is worth it
        self._fence = ""  # what the code that is being drawn ends with
        self._code = Syntax("", "text")
        self._paragraph: Paragraph | None = None  # is being drawn
        self._drawn = False  # something has been, so that a blank line follows
        self._in_list = False  # items of the list at hand have been drawn

    def write(self, text: str) -> None:
        """Take a piece."""
        rest: str | None = text
        if self._paragraph is not None:
            rest = self._paragraph.feed(text)
        if rest is not None:
            self._paragraph = None
            *lines, self._line = (self._line + rest).split("\n")
            for line in lines:
                self._take(visible(line.removesuffix("\r")))
            if not self._lines and not self._fence and begins(self._line):
                self._separate()
                self._paragraph = Paragraph(self._console, self._parser)
                text, self._line = self._line, ""
                self._paragraph.feed(text)
        self._console.file.flush()

    def end(self) -> None:
        """Draw what is left."""
        self.write("\n")  # as if the last line had ended, which tells what it is
        if self._paragraph is not None:
            self._paragraph.end()
            self._paragraph = None
        self._draw(self._parse())
        self._console.file.flush()
        self._line, self._lines, self._enough, self._fence = "", [], 0, ""
        self._drawn = self._in_list = False

    def _take(self, line: str) -> None:
        if self._fence:
            fence = _FENCE.match(line)
            if fence and fence[1].startswith(self._fence) and not line[fence.end() :].strip(fence[1][0]).strip():
                self._fence = ""
            else:
                self._draw_code(line)
            return
        self._lines.append(line)
        if _MAY_END.match(line) and (len(self._lines) >= self._enough or line[:1] in ("`", "~", "#")):
            self._settle(is_blank=not line.strip())
            self._enough = len(self._lines) + len(self._lines) // _PATIENCE

    def _parse(self) -> list[Token]:
        return self._parser.parse("\n".join(self._lines) + "\n")

    def _settle(self, *, is_blank: bool) -> None:
        """Draw what has ended."""
        tokens = self._parse()
        starts = [place for place, token in enumerate(tokens) if token.level == 0 and token.nesting >= 0]
        if not starts:
            self._lines = []
            return
        last = tokens[starts[-1]]
        begins = last.map[0] if last.map else 0
        if last.type == "fence" and begins == len(self._lines) - 1 and not is_blank:
            self._draw(tokens[: starts[-1]])
            self._lines = []
            self._begin_code(last)
        elif is_blank and last.type in _LEFT_BY_BLANK:
            self._draw(tokens)
            self._lines = []
        else:
            self._draw(tokens[: starts[-1]])
            self._lines = self._lines[begins:]
            self._draw_items(tokens[starts[-1] :], begins)

    def _draw_items(self, tokens: Sequence[Token], begins: int) -> None:
        """Draw the items of a list but the last, which may go on."""
        starts = [place for place, token in enumerate(tokens) if token.level == 1 and token.type == "list_item_open"]
        if len(starts) < 2 or tokens[0].type not in ("bullet_list_open", "ordered_list_open"):
            return
        place = tokens[starts[-1]].map
        if place:
            self._draw([*tokens[: starts[-1]], tokens[-1]])
            self._lines = self._lines[place[0] - begins :]
            self._in_list = True

    def _draw(self, tokens: list[Token]) -> None:
        if not tokens:
            return
        self._separate(is_list=tokens[0].type in ("bullet_list_open", "ordered_list_open"))
        blocks = _Blocks("", hyperlinks=False, code_theme=_THEME)
        blocks.parsed = tokens
        lines = [_trimmed(line) for line in self._console.render_lines(blocks, pad=False)]
        while lines and not lines[-1]:
            lines.pop()
        for line in itertools.dropwhile(lambda line: not line, lines):
            self._console.print(Segments([*line, Segment.line()]), end="")

    def _separate(self, *, is_list: bool = False) -> None:
        if self._drawn and not (is_list and self._in_list):
            self._console.print()
        self._drawn, self._in_list = True, False

    def _begin_code(self, token: Token) -> None:
        self._separate()
        self._fence = token.markup
        language = token.info.split()
        self._code = Syntax("", language[0] if language else "text", theme=_THEME, background_color="default")

    def _draw_code(self, line: str) -> None:
        text = self._code.highlight(line)
        text.rstrip()
        self._console.print(text, soft_wrap=True)


class _Terminal(Console):
    def on_broken_pipe(self) -> None:
        """Nobody reads any more, which rich would make the end of the program."""
        raise


class _Table(TableElement):
    """A table in which words that are too long for their column go on in the next line: rich would leave them out."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for table in super().__rich_console__(console, options):
            if isinstance(table, Table):
                for column in table.columns:
                    column.overflow = "fold"
            yield table


class _Blocks(Markdown):
    elements = {**Markdown.elements, "table_open": _Table}  # noqa: RUF012  as rich has it


def _trimmed(line: list[Segment]) -> list[Segment]:
    """A line without the blanks at its end."""
    while line and not line[-1].text.strip():
        line = line[:-1]
    return [*line[:-1], Segment(line[-1].text.rstrip(), line[-1].style)] if line else []
