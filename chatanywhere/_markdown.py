"""Markdown that others have written, made harmless for a notebook. No I/O."""

from __future__ import annotations

import re

_FENCE = re.compile(r"(`{3,}|~{3,})[ \w+#.,:={}/-]*")
_CLOSING = re.compile(r"(`{3,}|~{3,})[ \t]*")
_CLOSING_FOR_SOME = re.compile(r"\s*[`~]{3,}\s*")
_FENCE_FOR_SOME = re.compile(r"[\s>*+\-\d.)]*(?:`{3,}|~{3,})|.*\$\$")  # the last begins a formula of many lines
_SPAN = re.compile(r"`[^`]+`")
_SPANS_IN_DOUBT = re.compile(r"``|[\\|$\]~@]|://|www\.")


class MarkdownEscaper:
    """Writes `<` as `&lt;` outside of code, so that no tag comes into being.

    Code is what is so for every reader of Markdown: fenced blocks at the left margin, and `spans` within a line. Where
    readers may differ, `&lt;` stands in code, too: in a paragraph behind backticks without a partner, or with links;
    and in all that follows a fence that is indented or in a list, for what ends a block for one reader begins one for
    another.
    """

    def __init__(self) -> None:
        self._in_doubt = False

    def escape(self, text: str) -> str:
        """Return a text in which all blocks are closed."""
        lines: list[str] = []
        fence = ""
        spans_in_doubt = False
        for line in re.split(r"\r\n|[\n\r]", text):
            if fence and not self._in_doubt:
                closing = _CLOSING.fullmatch(line)
                if closing and closing[1].startswith(fence):
                    fence = ""
                elif _CLOSING_FOR_SOME.fullmatch(line) and line.lstrip().startswith(fence):
                    self._in_doubt = True
                lines.append(line)
                continue
            opening = _FENCE.fullmatch(line)
            if opening and not self._in_doubt:
                fence, spans_in_doubt = opening[1], False
                lines += ["", line.replace("<", "&lt;")]  # what is before it ends for all
                continue
            self._in_doubt = self._in_doubt or bool(_FENCE_FOR_SOME.match(line))
            if not line.strip(" \t"):
                spans_in_doubt = False
            elif self._in_doubt or _SPANS_IN_DOUBT.search(line):
                spans_in_doubt = True
            rest = _SPAN.sub("", line)
            lines.append(_outside_spans(line) if not spans_in_doubt else line.replace("<", "&lt;"))
            spans_in_doubt = spans_in_doubt or "`" in rest
        if fence:
            lines.append(fence)
        return "\n".join(lines)


def _outside_spans(line: str) -> str:
    end, pieces = 0, []
    for span in _SPAN.finditer(line):
        pieces += [line[end : span.start()].replace("<", "&lt;"), span[0]]
        end = span.end()
    return "".join([*pieces, line[end:].replace("<", "&lt;")])


def escaped(text: str) -> str:
    """Return one text in Markdown without tags; see `MarkdownEscaper`."""
    return MarkdownEscaper().escape(text)
