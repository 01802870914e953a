"""Markdown that others have written: code is shown as it is, and nothing in it becomes a tag."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from chatanywhere._markdown import MarkdownEscaper, escaped

READERS = [MarkdownIt("commonmark", {"html": True}), MarkdownIt("gfm-like", {"html": True, "linkify": False})]

PIECES = st.sampled_from(
    [
        *("<script>", "<b>", "`", "``", "```", "~~~", "````", "```py", "`x`", "|", "\n|---|---|\n", "\\", "http://x/"),
        *("\n", "\n\n", " ", "    ", "\t", "- ", "> ", "1. ", "*", "~~", "[a](b", "[a]: ", ")", "$$", "$", "# ", "\r"),
        *("<!--", "-->", "a", "\n```\n", "\n~~~\n", "\u00a0"),
    ]
)
TEXTS = st.lists(PIECES, max_size=16).map("".join)


@given(texts=st.lists(TEXTS, min_size=1, max_size=3))
@example(texts=["- a\n\n  ```\n  x\nb <script>\n```\n<script>\n"])
@example(texts=["```\nopen", "```\n<script>"])
@example(texts=["| ` | <script> ` |\n|---|---|"])
@example(texts=["a ` b\nc ` <script> ` d"])
def test_no_tag_comes_into_being(texts: list[str]) -> None:
    """Whatever is written, in one message or over several, no reader of Markdown finds a tag in it."""
    escaper = MarkdownEscaper()
    shown = "\n\n---\n\n".join(map(escaper.escape, texts))
    for reader in READERS:
        assert not re.search("<(script|b)>|<!--", reader.render(shown))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b", "a &lt; b"),
        ("Use `Vec<T>` here, or <b>.", "Use `Vec<T>` here, or &lt;b>."),
        ("```cpp\nstd::vector<int> v;\n```\n<b>", "\n```cpp\nstd::vector<int> v;\n```\n&lt;b>"),
        ("~~~\n```\n<b>\n~~~", "\n~~~\n```\n<b>\n~~~"),
        ("```\nwithout an end <", "\n```\nwithout an end <\n```"),
        ("1 & 2, **bold**, &lt;", "1 & 2, **bold**, &lt;"),
        ("", ""),
    ],
)
def test_code_is_as_it_was_written(text: str, shown: str) -> None:
    """`<` is `&lt;` outside of code, and itself in blocks and spans; blocks are closed."""
    assert escaped(text) == shown
