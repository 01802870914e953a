"""Markdown that is drawn while it comes."""

from __future__ import annotations

import io
import itertools
import random
import re
import sys

import pytest

pytest.importorskip("rich")

from markdown_it import MarkdownIt
from rich.cells import cell_len

from chatanywhere.cli.markdown import MarkdownPrinter

PIECES = [
    *(
        "word ",
        "longer-words ",
        "天气很好。",
        "“Quote” ",
        "é ",
        "end.",
        "3 apples ",
        "10",
        "🎉 ",
        "a_b_c ",
        "2 * 3 ",
        "x < y ",
        "&amp; ",
        "\\* ",
    ),
    *(
        "**bold b** ",
        "*em* ",
        "`code x` ",
        "~~del~~ ",
        "[link](http://x.y) ",
        "http://a.b/c_d ",
        "<b>html</b> ",
        "pre**fix** ",
    ),
    *(
        "***",
        "**",
        "`",
        "[",
        "\n",
        "\n\n",
        "  \n",
        "\r\n",
        "- item ",
        "\n- two\n",
        "1. one\n",
        "  - nested\n",
        "# head\n",
    ),
    *("> q\n", "```py\nx=1\n```\n", "\n~~~\nopen ```\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "    code\n", "---\n\n"),
]
"""What answers are made of, also where it means nothing."""


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm-256color")


def drawn(pieces: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is printed after each piece, and at the end, without colours."""
    output = io.StringIO()
    with monkeypatch.context() as context:
        context.setattr(sys, "stdout", output)
        printer = MarkdownPrinter(forced=True)
        states = []
        for piece in pieces:
            printer.write(piece)
            states.append(output.getvalue())
        printer.end()
    return [re.sub(r"\x1b\[[0-9;]*m", "", state) for state in [*states, output.getvalue()]]


@pytest.mark.parametrize("seed", range(60))
def test_the_same_is_drawn_however_an_answer_comes(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut anywhere, no character is lost or drawn twice, and what was drawn stays.

    But for a line that the next makes a heading or the top of a table, when its words have been drawn.
    """
    chance = random.Random(seed)
    text = "---"
    while re.search(r"\S *\r?\n *(---|\| ?---)", f"x\n{text}"):
        text = "".join(chance.choice(PIECES) for _ in range(chance.randint(1, 14)))
    pieces = []
    rest = text
    while rest:
        size = chance.choice([1, 2, 3, 5, 9, 30])
        pieces.append(rest[:size])
        rest = rest[size:]
    states = drawn(pieces, monkeypatch)
    assert all(after.startswith(before) for before, after in itertools.pairwise(states))
    assert re.sub(r"\s", "", states[-1]) == re.sub(r"\s", "", drawn([text], monkeypatch)[-1])


def test_words_are_drawn_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of the line is not waited for; markup is held back until it is whole."""
    pieces = ["One", " two", " three **fo", "ur** five ", "天", "气"]
    assert [state.rstrip() for state in drawn(pieces, monkeypatch)] == [
        *("", "One", "One two three", "One two three four five", "One two three four five 天"),
        *["One two three four five 天气"] * 2,
    ]


@pytest.mark.parametrize("word", ["1", "2024", "🎉", "—", "“1”"])
def test_a_paragraph_may_begin_with_anything(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what may be a list, a heading, a table, a quotation or code is waited for."""
    assert drawn([word, " and", " so on"], monkeypatch)[2].rstrip() == f"{word} and so"


def test_lines_are_broken_between_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """None is wider than the window, and a character of a wide script takes two columns."""
    text = "A sentence with **bold words in it** and 天气很好，我们去公园散步吧。 " * 8
    shown = drawn([*text], monkeypatch)[-1]
    lines = shown.splitlines()
    assert len(lines) > 5
    assert max(map(cell_len, lines)) <= 40
    assert all(line == line.strip() for line in lines)


def test_lines_of_code_are_drawn_as_they_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is there with its end, and a long one is not broken, so that it can be copied."""
    long = "x = " + "1 + " * 30
    states = drawn(["```python\n", f"{long}1\n", "y", " = 2\n", "```\n"], monkeypatch)
    assert states[1] == f"{long}1\n"
    assert states[3] == f"{long}1\ny = 2\n"


ADDRESS = "https://example.org/" + "0123456789" * 12


@pytest.mark.parametrize(
    "text",
    [
        *("{}", "See {} there", "{} first", "*See* **{}** there", "`{}`", "See\n{}\n", "[page]({}) {}", "> {}", "- {}"),
        *(
            "# {}",
            "1. See {}",
            "| a | b |\n|---|---|\n| {} | x |\n",
            "```\n{}\n```",
            "<div>\n{}\n</div>",
            "*never closed {}",
        ),
    ],
)
def test_a_word_that_is_longer_than_a_line_is_drawn_whole(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the address of a page, wherever it stands."""
    shown = drawn([*text.replace("{}", ADDRESS)], monkeypatch)[-1]
    assert shown.count("9") >= 12


LONG = [
    *("foo *bar ", "foo ` bar ", "foo [bar ", "foo _bar ", "x", "word ", "word\n", "- item\n", "- item\n\n  more\n\n"),
    *("  more of an item\n\n", "> quote\n>\n", "| a | b |\n", "* \n", "- ```\n", "  ```\n", "<b>\n", "\n", "`"),
]


@pytest.mark.parametrize("text", LONG)
def test_what_can_not_be_drawn_yet_is_not_read_each_time(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work grows as the answer does, whatever an answer is made of, and not as its square."""
    read = 0

    def counted(name: str) -> None:
        function = getattr(MarkdownIt, name)

        def call(self: MarkdownIt, source: str) -> object:
            nonlocal read
            read += len(source)
            return function(self, source)

        monkeypatch.setattr(MarkdownIt, name, call)

    counted("parse")
    counted("parseInline")
    whole = ("- one\n\n" if text[0] in " \n`" else "") + text * (8_000 // len(text))
    pieces = [whole[place : place + 10] for place in range(0, len(whole), 10)]
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    printer = MarkdownPrinter(forced=True)
    for piece in pieces:
        printer.write(piece)
    printer.end()
    assert read < 40 * len(whole)
