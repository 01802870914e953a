"""What a model wrote is shown with its Markdown, and runs nothing, whichever program shows it."""

from __future__ import annotations

import re
import time
from html import unescape
from html.parser import HTMLParser
from typing import Any

import mistune
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from chatanywhere import (
    APIStatusError,
    Balance,
    ChatAnywhereError,
    Choice,
    Client,
    Completion,
    Embeddings,
    OutputError,
    StreamInterruptedError,
    ToolCall,
    ToolRun,
    Usage,
)
from chatanywhere._markdown import escape, sanitize
from chatanywhere.testing import LoopbackServer

COMMONMARK = MarkdownIt("commonmark", {"html": True})
WITH_TABLES = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
for each in (COMMONMARK, WITH_TABLES):
    each.validateLink = lambda url: True  # type: ignore[method-assign]  # which hides scripts, as not all programs do
MISTUNE = mistune.create_markdown(escape=False, plugins=["strikethrough", "table", "task_lists", "footnotes", "url"])
MISTUNE_WITH_FORMULAS = mistune.create_markdown(escape=False, plugins=["math"])
RENDERERS = [COMMONMARK.render, WITH_TABLES.render, MISTUNE, MISTUNE_WITH_FORMULAS]

MARKDOWN_MAKES = {
    *["p", "em", "strong", "del", "s", "a", "code", "pre", "ul", "ol", "li", "input", "blockquote", "hr", "br", "img"],
    *["h1", "h2", "h3", "h4", "h5", "h6", "table", "thead", "tbody", "tr", "th", "td", "section", "sup", "span", "div"],
}
ATTRIBUTES = {"href", "title", "class", "align", "start", "id", "style", "type", "disabled", "checked", "src", "alt"}


class Seen(HTMLParser):
    """What a browser would run or fetch of a page, and the text and code that it would show."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.harm: list[str] = []
        self.text = ""
        self.code = ""
        self._in_code = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_code = self._in_code or tag == "code"
        if tag not in MARKDOWN_MAKES:
            self.harm.append(f"<{tag}>")
        for name, value in attrs:
            url = (value or "").strip().lower()
            harmless = not url.startswith(("javascript:", "vbscript:", "data:text"))
            if name not in ATTRIBUTES or not harmless or (name == "src" and not url.startswith("data:image/")):
                self.harm.append(f"<{tag} {name}={value}>")

    def handle_endtag(self, tag: str) -> None:
        self._in_code = self._in_code and tag != "code"
        if tag not in MARKDOWN_MAKES:
            self.harm.append(f"</{tag}>")

    def handle_comment(self, data: str) -> None:
        self.harm.append(f"<!--{data}")

    def handle_decl(self, decl: str) -> None:
        self.harm.append(f"<!{decl}")

    def handle_pi(self, data: str) -> None:
        self.harm.append(f"<?{data}")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_code:
            self.code += data


def harm(markdown: str) -> list[str]:
    """What runs or is fetched in any of the programs."""
    return [each for render in RENDERERS for each in Seen(str(render(markdown))).harm]


# What it is for


@pytest.mark.parametrize(
    ("markdown", "harmless"),
    [
        ("a < b & c > d", "a &lt; b & c > d"),
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("<div>\n\nx</div>", "&lt;div>\n\nx&lt;/div>"),
        ("<!-- x -->", "&lt;!-- x -->"),
        ("an open `<b>", "an open &#96;&lt;b>"),
        (r"\`<b>`", r"\&#96;&lt;b>&#96;"),
        ("- `a\n- <b>`", "- &#96;a\n- &lt;b>&#96;"),
        ("[x](javascript:alert(1))", "[x]&#40;javascript:alert(1))"),
        ("[x](JaVaScript:alert(1))", "[x]&#40;JaVaScript:alert(1))"),
        ("[x](&#106;avascript:alert(1))", "[x]&#40;&#106;avascript:alert(1))"),
        (r"[x](javascript\:alert(1))", r"[x]&#40;javascript\:alert(1))"),
        ("[x](\njavascript:alert(1))", "[x]&#40;\njavascript:alert(1))"),
        ("> [x](\n> javascript:alert(1))", "> [x]&#40;\n> javascript:alert(1))"),
        ("[x](<javascript:alert(1)>)", "[x]&#40;&lt;javascript:alert(1)>)"),
        ("[x](data:text/html,y)", "[x]&#40;data:text/html,y)"),
        ("[x](vbscript:y)", "[x]&#40;vbscript:y)"),
        ("[x]\n\n[x]: javascript:alert(1)", "[x]\n\n[x]&#58; javascript:alert(1)"),
        ("[x]\n\n[x]:\njavascript:alert(1)", "[x]\n\n[x]&#58;\njavascript:alert(1)"),
        ("<javascript:alert(1)>", "&lt;javascript:alert(1)>"),
        ("![a cat](https://example.org/?q=secret)", "[🖼 a cat](https://example.org/?q=secret)"),
        ("!![x](https://example.org)", "&#33;[🖼 x](https://example.org)"),
        ("![x](data:image/svg+xml,<svg onload=alert(1)>)", "[🖼 x]&#40;data:image/svg+xml,&lt;svg onload=alert(1)>)"),
        ("a | b\n--|--\n`x | <b>` | y", "a | b\n--|--\n&#96;x | &lt;b>&#96; | y"),
        ("$x$ [y](http://z/$\"onclick=\"alert(1)$)", '$x$ [y](http://z/$&quot;onclick=&quot;alert(1)$)'),
        ("If $a < b$, it costs $5 < $10", "If $a \\lt  b$, it costs $5 &lt; $10"),
        ("$$\na<b\n$$", "$$\na\\lt b\n$$"),
        ("https://example.org/`<b>`", "https://example.org/&#96;&lt;b>&#96;"),
        ("\x1b[31mred\x00", "\ufffd&#91;31mred\ufffd"),
    ],
)  # fmt: skip
def test_what_could_run_is_text(markdown: str, harmless: str) -> None:
    """HTML, scripts in links, and pictures from elsewhere do nothing, and what was written can still be read."""
    assert sanitize(markdown) == harmless
    assert harm(harmless) == []


@pytest.mark.parametrize(
    "markdown",
    [
        "",
        "Plain text, **bold**, *italics*, ~~gone~~ and \"quotes\".",
        "# Heading\n\n- one\n- two\n  - three\n\n1. first\n2. second\n\n> quoted\n\n---",
        "Inline `a < b` and ``code with ` in it: <b>`` and `<script>`.",
        "Look:\n```html\n<script>alert(1)</script>\n```\nDone.",
        "~~~\n<b>\n~~~",
        "````\n```\n<b>\n```\n````",
        "1. Step:\n   ```python\n   if a < b:\n       pass\n   ```\n2. Next",
        "- ```\n  <b>\n  ```",
        "> ```\n> <b>\n> ```",
        "| a | b |\n|---|---|\n| `<b>` | `x \\| <y>` |",
        "[page](https://example.org/a_(b)?c=1&d=2 \"title\"), [mail](mailto:a@b.c), [part](#part), [file](docs/a.md)",
        "[1]\n\n[1]: https://example.org \"title\"",
        "![dot](data:image/png;base64,iVBORw0KGgo=)",
        "Energy is $E = mc^2$, and\n\n$$\n\\begin{aligned} a \\end{aligned}\n$$",
        "It costs $5; run `echo a`.",
        "你好，`a<b`、`c<d`。",
    ],
)  # fmt: skip
def test_what_is_harmless_stays_as_it_is(markdown: str) -> None:
    """Markdown that runs nothing, and code, are not touched."""
    assert sanitize(markdown) == markdown
    assert harm(markdown) == []


@pytest.mark.parametrize(
    ("markdown", "closed"),
    [
        ("```\n<b>", "```\n<b>\n```"),
        ("```html\n<b>\n``", "```html\n<b>\n``\n```"),
        ("- ```\n  <b>", "- ```\n  <b>\n  ```"),
        ("> ```\n> <b>\n<i>", "> ```\n> <b>\n> ```\n&lt;i>"),
        ("1. a\n   ```\n<b>\n   ```", "1. a\n   ```\n   <b>\n   ```"),
        ("`a\nb <c>`", "`a b <c>`"),
    ],
)
def test_code_is_closed_and_at_one_indentation(markdown: str, closed: str) -> None:
    """An answer that was cut, or goes on, shows its code as code, and all of it."""
    assert sanitize(markdown) == closed
    for render in RENDERERS:
        assert "<b>" in Seen(str(render(closed))).code or "<c>" in Seen(str(render(closed))).code


# Whatever is written

PIECES = [
    *"`*_~[]()!|>#-=+$\"'<>\\:&;{} \t\n",
    *["``", "```", "~~~", "\n\n", "    ", "\n   ", "\n> ", "\n- ", "\n2. ", "\n---\n", "\n===\n", "\r", "\xa0", "\x85"],
    *["<q>", "</q>", "<q onx=1>", "<!--", "-->", "`<q>`", "``<q>``", "<http://a>", "http://x/", "www.x.y/", "\u2028"],
    *["](", "](javascript:x)", "[x](javascript:y)", "\n[x]: javascript:z\n", "[x]:", "javascript:", "&#106;", "&lt;"],
    *["\n|-|-|\n", "\n```\n", "\n```html\n", "\n   ```\n", "\n~~~\n", "\n> ```\n", "\n- ```\n", "\n2.  x\n   ```\n"],
    *["$$", "\\\\(", "\\\\)", "\\\\[", "\\\\]", "\\begin{a}", "\\end{a}", "@@0@@", "![", "\\`", "text", "你好"],
]
ANSWERS = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=30).map("".join)


@given(ANSWERS)
@example("- text\n> ```\n> <q>")
@example("$ `a $ <q>`")
@example("~~a `b~~ <q>`")
@example("text\n- ```\n\xa0\n  <q>\n  ```")
@example("[1]:\n```\n<q>\n```")
@example("[x\n\n```\n\\[x]: http://x\n<q>\n```")
@example("[a `b`](http://x) <q> [`c](http://x) <q>`](http://x)")
@example('"text\n```\n---\n<q>\n```')
def test_no_answer_runs_anything(answer: str) -> None:
    """No tag, attribute or script of a model's gets into the page, in any of the programs."""
    assert harm(sanitize(answer)) == []


@given(ANSWERS, st.data())
def test_no_beginning_of_an_answer_runs_anything(answer: str, data: st.DataObject) -> None:
    """What is shown while an answer comes is harmless at each piece."""
    assert harm(sanitize(answer[: data.draw(st.integers(0, len(answer)))])) == []


@given(st.lists(ANSWERS, min_size=2, max_size=3))
def test_answers_are_harmless_together(answers: list[str]) -> None:
    """What is made harmless piece by piece can be shown as one page, with empty lines between."""
    assert harm("\n\n".join(map(sanitize, answers))) == []


@given(ANSWERS)
def test_what_is_harmless_is_not_changed_again(answer: str) -> None:
    """To sanitize twice comes to what once does, as a browser shows it, where there are no formulas."""
    assume(not re.search(r"\$|\\\\|\\begin", answer))
    once = sanitize(answer)
    assert COMMONMARK.render(sanitize(once)) == COMMONMARK.render(once)


@given(st.text(st.sampled_from("abc <>&*_#`~[]()!|\\\"'$-+=.:\u4f60"), max_size=40))
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    """Names and messages of others are shown to the letter, on one line."""
    escaped = escape(text)
    assert escaped == " ".join(escaped.split())
    for render in RENDERERS:
        page = Seen(str(render(f"x{escaped}x")))
        assert page.harm == []
        assert unescape(page.text).strip() == f"x{' '.join(text.split())}x"


@pytest.mark.parametrize(
    "piece",
    [
        *["`", "``a", "\\`", "[x](", "![", "](a", "$", "$$", "$a", "\n```\n", "\n> ```\n", "- ", "> ", "<", "http://"],
        *[
            " ",
            "\t",
            "\xa0\n",
            "|",
            "-",
            ">",
            "1. ",
            "[",
            "]: ",
            "~",
            "\\",
            "\\\\[",
            "\\begin{a}",
            "\n    ",
            "\n=",
            "!",
        ],
    ],
)
def test_a_long_answer_takes_little_time(piece: str) -> None:
    """The time grows with the length, not with its square: a second is far more than 50,000 characters take."""
    answer = piece * (50_000 // len(piece))
    for text in (answer, f"{answer}```x", f"|-|\n`{answer}x`"):
        start = time.process_time()
        sanitize(text)
        assert time.process_time() - start < 1


# What notebooks show of values

SCRIPT = "<script>alert(1)</script> `<b>`"
SHOWN = "&lt;script>alert(1)&lt;/script> `<b>`"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (Completion("**Hello**"), "**Hello**"),
        (Completion(SCRIPT), SHOWN),
        (Completion("", refusal=SCRIPT), SHOWN),
        (
            Completion("Let me see.", tool_calls=(ToolCall("1", "weather", '{"city": "<b>"}'),)),
            "Let me see.\n\n→ weather&#40;&#123;&#34;city&#34;&#58; &#34;&#60;b&#62;&#34;&#125;&#41;",
        ),
        (
            Completion("a", choices=(Choice(0, "a"), Choice(1, SCRIPT))),
            f"**0**\n\na\n\n**1**\n\n{SHOWN}",
        ),
        (ToolRun(Completion(SCRIPT), []), SHOWN),
        (Balance(10.0, 2.5, None), "| Total | Used | Remaining |\n| --- | --- | --- |\n| 10 | 2&#46;5 |  |"),
        (Embeddings((), "<m>", Usage(3, 0, 3)), "| Model | Vectors | Numbers | Tokens |\n| --- | --- | --- | --- |\n"
         "| &#60;m&#62; | 0 |  | 3 |"),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_a_notebook_shows_values_without_harm(value: Any, shown: str) -> None:
    """Answers with their Markdown, all else as tables; what others have written runs nothing."""
    assert value._repr_markdown_() == shown
    assert harm(shown) == []


def with_partial(error: ChatAnywhereError, partial: str) -> ChatAnywhereError:
    error.partial = partial
    return error


@pytest.mark.parametrize(
    "error",
    [
        APIStatusError("<script>alert(1)</script>", status_code=500, hint="[x](javascript:alert(1))"),
        with_partial(StreamInterruptedError("the *connection* was lost"), SCRIPT),
        OutputError("no <b>", "invalid", Completion(SCRIPT)),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_notebook_shows_errors_without_harm(error: ChatAnywhereError) -> None:
    """Its kind, all its words as they are, and the text that had come."""
    shown = error._repr_markdown_()
    assert harm(shown) == []
    page = Seen(COMMONMARK.render(shown)).text
    assert page.startswith(type(error).__name__)
    for line in str(error).splitlines():
        assert line in page
    assert (SCRIPT.replace("`", "") in page) == bool(error.partial)


def test_a_notebook_shows_a_table_of_what_was_used() -> None:
    """A list of what was used is one row a record, a hundred at most."""
    with LoopbackServer() as server, Client("a-key", base_url=server.url) as client:
        for _ in range(2):
            client.complete("Hello")
        records = client.usage()
    assert isinstance(records, list)
    assert records
    shown = records._repr_markdown_()  # type: ignore[attr-defined]
    assert len(shown.splitlines()) == 2 + len(records)
    assert shown.startswith("| Time | Model | Calls |")
    many = type(records)(records * 200)._repr_markdown_()  # type: ignore[attr-defined]
    assert many.endswith(f"\n\n… and {len(records) * 200 - 100} more")
    assert harm(many) == []
