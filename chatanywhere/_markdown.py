r"""Markdown of a model's, made harmless where it is shown with HTML and scripts, as notebooks do; no I/O.

Programs that show Markdown differ in what they take for code, and JupyterLab takes formulas out before it looks. What
comes out of here leaves them no choice: a backtick that is no part of code is written `&#96;`, fenced code has all its
lines at one indentation and is closed, and a formula can't reach into code, or into an attribute of HTML.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from operator import itemgetter

_CONTROL = {code: "\ufffd" for code in range(0x20) if chr(code) not in "\n\t"} | dict.fromkeys(
    (0x85, 0x2028, 0x2029), " "
)
"""Control characters, and line ends that only some programs take for such."""

_FENCE = re.compile(
    r"(?P<indent> *)(?! )(?P<quote>(?:> ?)*)(?P<lead> *(?! )(?:(?:[-+*]|\d{1,9}[.)]) +(?! ))*)"
    r"(?:(?P<ticks>`{3,})(?P<info>[^`]*)|(?P<tildes>~{3,})(?P<rest>.*))"
)
# A fence that could be more of a paragraph, and lines that could make one a part of what is before it.
_DEEP = re.compile(r" {4}|[> ]*(?:[-+*\d]| {4})")
_ITEM = re.compile(r" *(?:[-+*]|\d{1,9}[.)])(?:[ \t]+|$)")
_UNDERLINE = re.compile(r"[> \t]*(?:-+|=+)[ \t]*")
_ODD_IN_INFO = re.compile(r"[^\w+#.:/=,{}() -]")

_FORMULA = re.compile(r"\$|\\\\[(\[]|\\begin\{", re.IGNORECASE)
"""Where a formula may begin."""

_DISPLAY = re.compile(r"\${2,}|(?<!\\)\\{2,}[\[\]]|\\(?:begin|end)\{[a-z]*\*?\}", re.IGNORECASE)
"""What begins and ends formulas that some programs look for before they look for code."""

_CUTS_CODE = re.compile(r"\$\$|\\\\[()\[\]]|\\(?:begin|end)\{", re.IGNORECASE)
"""The same in code of a line, where `\\\\(` does it, too."""

_WHOLE_FORMULA = re.compile(
    r"\$\$[^$]+\$\$|\$(?![\s$])[^$\n]*(?<!\s)\$(?!\d)|\\\\\(.{0,2000}?\\\\\)|\\\\\[.{0,2000}?\\\\\]"
    r"|\\begin\{([a-z]*\*?)\}.{0,2000}?\\end\{\1\}",
    re.DOTALL,
)
"""A formula on whose beginning and end most programs agree."""

_EMPHASIS = re.compile("[*_]")
_BRACKET = re.compile(r"\\.|[\[\]]", re.DOTALL)
_PIPE = re.compile(r"(?<!\\)\||\\\\\|")
_DELIMITER_ROW = re.compile(r"(?m)^[ \t>]*[|:-][ \t|:-]*$")
_NEW_BLOCK = re.compile(r"\n(?![ ]*[^\W\d_])")
"""The end of a line after which something else than more of a paragraph may begin."""

_PICTURE_DATA = "data:image/(?:png|jpeg|gif|webp);base64,"
_TARGET = rf"(?:https?:|mailto:|{_PICTURE_DATA}|[^\s:&\\<>]{{0,500}}(?:[\s/?#)]|$))"
"""The beginning of what a link may lead to: what can't be a script."""

_LINK = re.compile(rf"[\s>]*(?![\s>]){_TARGET}", re.IGNORECASE)
_DEFINITION = re.compile(
    rf" *(?=\S){_TARGET}\S{{0,2000}}(?: +\"[^\"\n]{{0,500}}\")? *(?:$|\n(?! *[\"'(]))", re.IGNORECASE
)
_PICTURE = re.compile(rf"!\[[\w .,:;()-]*\]\({_PICTURE_DATA}[A-Za-z0-9+/=]+\)")
_SPACE = re.compile(r"\s")
_URL = re.compile(r"://|www\.|mailto:|xmpp:", re.IGNORECASE)
_ACTIVE = re.compile(r"(?P<ticks>`+)|<|(?<!!)!+\[|\][(:]|~{3,}|\"")


def escape(text: str) -> str:
    """Return Markdown that shows a text as it is, on one line."""
    return " ".join(_literal(text.translate(_CONTROL)).split())


def sanitize(markdown: str) -> str:
    """Return Markdown that shows the same without HTML, scripts, or anything that is loaded from elsewhere.

    `<` is `&lt;` outside code. A link leads to a page, an address of mail or a part of this document, or is plain text.
    A picture is a link to it unless its data is in it. Code stays as it is, and is closed if it is not, so that what
    is sanitized can be joined by empty lines, and can be the beginning of a text that goes on. Code that not all
    programs would see is shown with its backticks.
    """
    text = markdown.replace("\r\n", "\n").replace("\r", "\n").translate(_CONTROL)
    return "\n".join(_blocks(text.split("\n"), formulas=_FORMULA.search(text) is not None))


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table of values, None being an empty cell, and numbers standing at the right."""
    cells = [
        ["" if value is None else escape(f"{value:g}" if isinstance(value, float) else str(value)) for value in row]
        for row in rows
    ]
    lines = [heads, ["---"] * len(heads), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _literal(text: str) -> str:
    """The text without a character that has a meaning in Markdown."""
    return re.sub(r"[!-/:-@\[-`{-~]", lambda found: f"&#{ord(found[0])};", text)


def _blocks(lines: list[str], *, formulas: bool) -> Iterator[str]:
    """Yield the lines, those outside fenced code made harmless."""
    underlined = _underlined(lines)
    paragraph: list[str] = []
    position = 0
    while position < len(lines):
        line = lines[position]
        opening = _FENCE.fullmatch(_without_tabs(line))
        if opening is None:
            if line.strip(" \t"):
                paragraph.append(line)
            else:
                yield from _paragraph(paragraph, formulas)
                paragraph = []
                yield ""
            position += 1
            continue
        yield from _paragraph(paragraph, formulas)
        opened = position
        code, position = _fenced(lines, position, opening)
        # A fence that is not at the margin could be more of a paragraph, and so could one before what underlines a
        # heading. And a formula could reach into it.
        if paragraph and (formulas or underlined[opened] or _hangs(code[0], paragraph)):
            yield ""
        paragraph = []
        yield from code
        if formulas and position < len(lines) and lines[position].strip():
            yield ""
    yield from _paragraph(paragraph, formulas)


def _hangs(opening: str, paragraph: list[str]) -> bool:
    """Whether a fence after a paragraph could be more of it, or of an item of a list in it."""
    if _DEEP.match(opening):
        return True
    indent = len(opening) - len(opening.lstrip(" "))
    items = map(_ITEM.match, map(_without_tabs, paragraph))
    return (indent > 0 or opening[0] == ">") and any(item and len(item[0].expandtabs(4)) > indent for item in items)


def _underlined(lines: list[str]) -> list[bool]:
    """Whether what underlines a heading comes before the next empty line, from each line on."""
    underlined = [False] * (len(lines) + 1)
    for position in reversed(range(len(lines))):
        if lines[position]:
            underlined[position] = _UNDERLINE.fullmatch(lines[position]) is not None or underlined[position + 1]
    return underlined


def _without_tabs(line: str) -> str:
    """The line, with spaces in the place of tabs before its first character."""
    content = line.lstrip(" \t")
    return line[: len(line) - len(content)].expandtabs(4) + content


def _fenced(lines: list[str], position: int, opening: re.Match[str]) -> tuple[list[str], int]:
    """Return the lines of fenced code, closed, and the position of the line after it."""
    depth = opening["quote"].count(">")
    base = opening["indent"] + "> " * depth
    lead = re.sub(r"(?<=[-+*.)]) +", " ", opening["lead"])
    fence = opening["ticks"] or opening["tildes"]
    info = _ODD_IN_INFO.sub("", opening["info"] or opening["rest"] or "")
    margin = len(lead) if depth else len(opening["indent"]) + len(lead)
    quote = re.compile(rf" *(?:> ?){{{depth}}}")
    closing = re.compile(rf" {{0,{margin + 3}}}{fence[0]}{{{len(fence)},}} *")
    indent = " " * margin if not depth else base + " " * margin

    code: list[str] = []
    end = len(lines)
    for number in range(position + 1, len(lines)):
        line = lines[number]
        if depth:
            quoted = quote.match(line)
            if quoted is None:
                end = number
                break
            line = line[quoted.end() :]
        if margin:
            line = _without_tabs(line)
        if closing.fullmatch(line):
            end = number + 1
            break
        missing = margin - (len(line) - len(line.lstrip(" ")))
        code.append((base if depth else "") + (" " * missing + line if missing > 0 and line.strip(" \t") else line))
    # Some programs see an end where others don't.
    longest = max((len(found) for line in code for found in re.findall(rf"^[> ]*({fence[0]}+)", line)), default=0)
    fence = fence[0] * max(len(fence), longest + 1) if longest >= len(fence) else fence
    return [base + lead + fence + info, *code, indent + fence], end


def _paragraph(lines: list[str], formulas: bool) -> Iterator[str]:
    """Yield lines between which is no empty one, made harmless outside code."""
    if lines:
        yield _inline("\n".join(lines), formulas)


def _inline(text: str, formulas: bool) -> str:
    pieces: list[str] = []  # text and code in turns
    plain: list[str] = []
    for piece, is_code in _spans(text, formulas):
        if is_code:
            pieces += ["".join(plain), piece]
            plain = []
        else:
            plain.append(piece)
    pieces.append("".join(plain))
    codes = "".join(pieces[1::2])
    if codes:
        emphasis = _EMPHASIS.search(codes) is not None
        if emphasis or "](" in codes:
            pieces[1::2] = [_unmistakable(code, emphasis) for code in pieces[1::2]]
        hidden = re.compile(rf"~+|{_DISPLAY.pattern}" + (r"|\$" if "$" in codes else ""), re.IGNORECASE)
    elif formulas and not _balanced(pieces[0]):
        hidden = _DISPLAY
    else:
        hidden = None
    if hidden is not None:
        pieces[::2] = [hidden.sub(lambda found: _literal(found[0]), piece) for piece in pieces[::2]]
    if formulas:
        pieces[::2] = [_WHOLE_FORMULA.sub(_in_tex, piece) for piece in pieces[::2]]
    _hide_open_brackets(pieces)
    return "".join(pieces)


def _hide_open_brackets(pieces: list[str]) -> None:
    """Take their meaning from brackets that are not closed in a paragraph: some programs look for the end in code."""
    opened: list[tuple[int, int]] = []
    for number in range(0, len(pieces), 2):
        for found in _BRACKET.finditer(pieces[number]):
            if found[0] == "[":
                opened.append((number, found.start()))
            elif found[0] == "]" and opened:
                opened.pop()
    for number, places in itertools.groupby(opened, itemgetter(0)):
        piece = pieces[number]
        cuts = [-1, *(start for _, start in places), len(piece)]
        pieces[number] = _literal("[").join(piece[start + 1 : end] for start, end in itertools.pairwise(cuts))


def _in_tex(formula: re.Match[str]) -> str:
    """A formula with the sign for "less than" that needs no escape, which it would be shown with."""
    return formula[0].replace("&lt;", "\\lt ")


def _unmistakable(code: str, emphasis: bool) -> str:
    """Code in which JupyterLab sees neither links nor, if there is what could be some, emphasis."""
    content = code.strip("`")
    before_link = content.partition("](")[0]
    if (
        "`" in content
        or (before_link != content and "[" not in before_link)
        or (emphasis and ("](" in content or content[-1] == "\\"))
    ):
        return _literal(code)
    return f"`{content}`"


def _balanced(text: str) -> bool:
    """Whether each displayed formula of a text ends within it, and its beginning is seen by all programs."""
    closing = ""
    for line in text.split("\n"):
        opened = 0  # where the formula began in which the line ends
        for found in _DISPLAY.finditer(line):
            mark = found[0]
            if closing:
                if mark == closing:
                    closing = ""
                continue
            opened = found.start()
            if mark == "$$":
                closing = mark
            elif mark == "\\\\[":
                closing = "\\\\]"
            elif mark[:6] == "\\begin":
                closing = "\\end" + mark[6:]
            else:
                return False
        if closing and not "   ".startswith(line[:opened]):
            return False
    return not closing and "\\$" not in text


def _spans(text: str, formulas: bool) -> Iterator[tuple[str, bool]]:
    """Yield pieces of text, made harmless, and of code, and whether they are code."""
    table = _DELIMITER_ROW.search(text) is not None
    closings = _closings(text)
    position = 0
    in_url = False
    while found := _ACTIVE.search(text, position):
        start, end = found.span()
        before = text[position:start]
        yield before, False
        mark = found[0]
        *_, word = _SPACE.split(before)
        in_url = _URL.search(word) is not None or (in_url and (formulas or word == before))
        if found["ticks"]:
            if not in_url and (code := _code(text, start, end, closings.get(start), table)):
                end = start + len(code)
                code = code.replace("\n", " ")
                yield (_literal(code), False) if _CUTS_CODE.search(code) else (code, True)
            else:
                yield _literal(mark), False
        elif mark == "<":
            yield "&lt;", False
        elif mark[0] == "!":
            yield _literal(mark[:-2] if before[-1:] != "\\" else mark[:-1]), False
            picture = _PICTURE.match(text, end - 2)
            end = picture.end() if picture else end
            yield picture[0] if picture else "[🖼 ", False
        elif mark == '"':
            yield "&quot;" if formulas else mark, False
        elif mark[0] == "]":
            allowed = _LINK if mark[1] == "(" else _DEFINITION
            yield mark if allowed.match(text, end) else "]" + _literal(mark[1]), False
        else:
            yield _literal(mark), False
        position = end
    yield text[position:], False


def _closings(text: str) -> dict[int, int]:
    """Where the next backticks of the same number end, by where some begin."""
    closings: dict[int, int] = {}
    seen: dict[int, int] = {}
    for found in reversed(list(re.finditer("`+", text))):
        if len(found[0]) in seen:
            closings[found.start()] = seen[len(found[0])]
        seen[len(found[0])] = found.end()
    return closings


def _code(text: str, start: int, end: int, closing: int | None, table: bool) -> str:
    """Return the code that backticks begin, `""` if some program could see it otherwise."""
    if (
        closing is None
        or text[start - 1 : start] == "\\"
        or _NEW_BLOCK.search(text, end, closing)
        or (table and _PIPE.search(text, end, closing))
    ):
        return ""
    return text[start:closing]
