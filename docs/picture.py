"""Make the README's picture, `docs/chat.svg`: what `chatanywhere chat` shows on a pseudo-terminal of a real session.

    nox -s picture

A server of `chatanywhere.testing` plays the model. What the command writes goes to an emulator of a terminal, pyte, and
its screen, by rich, to the picture. It has no script, loads nothing, and brings its own background.
"""

from __future__ import annotations

import io
import os
import re
import sys
import tempfile
from pathlib import Path

import pexpect
import pyte
from rich.console import Console
from rich.segment import Segment, Segments
from rich.style import Style

from chatanywhere.testing import Fault, LoopbackServer, Reply

PICTURE = Path(__file__).with_name("chat.svg")
COLUMNS, ROWS = 92, 40
TIMEOUT = 20.0  # seconds

PROMPT = "\x1b[?2004h"
"""What switches bracketed paste on, which is the last that the prompt does."""

CODE = '''\
A `Counter` does it, without a loop of **your own**:

```python
from collections import Counter

def most_common(text, n=3):
    """Return the n most common words, and how often each occurs."""
    return Counter(text.lower().split()).most_common(n)
```

1. `lower()` makes *The* and *the* one word,
2. `split()` cuts at any white space.
'''
BEGINNING = [
    "They stay on the words: ",
    "for `split()`, *end.* and *end* ",
    "are two words, and ",
    "each would be counted",
]
REST = """and each would be counted for itself. This finds the words alone:

```python
words = re.findall(r"\\w+", text.lower())
```
"""

FORMAT = """\
<svg viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<title>chatanywhere chat</title>
<style>
.{unique_id}-matrix {{ font: {char_height}px/{line_height}px Menlo, Consolas, "DejaVu Sans Mono", monospace }}
.{unique_id}-title {{ font: bold 18px sans-serif }}
{styles}
</style>
<defs>
<clipPath id="{unique_id}-clip-terminal"><rect width="{terminal_width}" height="{terminal_height}"/></clipPath>
{lines}
</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}
<g class="{unique_id}-matrix">
{matrix}
</g>
</g>
</svg>
"""


def session() -> pyte.Screen:
    """Hold a conversation, and return the screen as it is at its end."""
    replies = [Reply(CODE), Reply(pieces=[*BEGINNING, "…"]), Reply(REST)]
    with LoopbackServer(replies, delay=0.01) as server, tempfile.TemporaryDirectory() as folder:
        environment = {
            "CHATANYWHERE_API_KEY": "any",
            "CHATANYWHERE_BASE_URL": server.url,
            "CHATANYWHERE_HISTORY": f"{folder}/history.sqlite3",
            "COLORTERM": "truecolor",
            "LANG": "C.UTF-8",
            "NO_PROXY": "127.0.0.1",
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "TERM": "xterm-256color",
        }
        screen = pyte.Screen(COLUMNS, ROWS)
        stream = pyte.Stream(screen)
        chat = pexpect.spawn(
            sys.executable,
            ["-m", "chatanywhere", "chat"],
            env=environment,
            dimensions=(ROWS, COLUMNS),
            encoding="utf-8",
            timeout=TIMEOUT,
        )

        def until(text: str) -> None:
            chat.expect_exact(text)
            stream.feed(chat.before + chat.after)

        until(PROMPT)
        chat.send("How do I find the most common words of a text in Python?\r")
        until(PROMPT)
        server.faults = [Fault.timeout(after=len(BEGINNING), first=1)]  # so that there is time to press Ctrl-C
        chat.send("And what of full stops?\r")
        until("two words")
        chat.sendintr()
        until(PROMPT)
        chat.send("/resume\r")
        until(PROMPT)
        chat.send("/usage\r")
        until(PROMPT)
        until("\x1b[?25h")  # the cursor is shown again, behind the prompt
        chat.sendeof()
        chat.expect(pexpect.EOF)
        chat.close()
        if chat.exitstatus != 0:
            raise RuntimeError(f"the chat has ended with {chat.exitstatus}")
    return screen


def drawn(screen: pyte.Screen) -> str:
    """Return a screen as SVG."""
    segments = []
    for row in range(screen.cursor.y + 1):
        chars = [screen.buffer[row][column] for column in range(COLUMNS)]
        while len(chars) > 1 and chars[-1].data == " ":
            chars.pop()
        segments += [*(Segment(char.data, _style(char)) for char in chars), Segment.line()]
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    console.print(Segments(Segment.simplify(segments)), soft_wrap=True, end="")
    svg = console.export_svg(title="chatanywhere chat", code_format=FORMAT, unique_id="chat")
    return "".join(f"{line.strip()}\n" for line in svg.splitlines() if line.strip())


def _style(char: pyte.screens.Char) -> Style:
    return Style(
        color=_color(char.fg),
        bgcolor=_color(char.bg),
        bold=char.bold,
        italic=char.italics,
        underline=char.underscore,
        reverse=char.reverse,
    )


def _color(name: str) -> str | None:
    """The color that pyte has a name for, by the name that rich has for it."""
    if re.fullmatch("[0-9a-f]{6}", name):
        return f"#{name}"
    return None if name == "default" else name.replace("brown", "yellow").replace("bright", "bright_")


if __name__ == "__main__":
    PICTURE.write_text(drawn(session()), encoding="utf-8")
