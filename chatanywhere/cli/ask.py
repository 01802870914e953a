"""`ask`: one question, one answer."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from typing import Any

from . import failures
from .failures import UsageError
from .options import add_asking, content_of, read_input, said
from .printing import is_terminal


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "ask",
        help="ask a question, and print the answer",
        description="Ask, and print the answer as it comes. What comes by standard input is put behind TEXT.",
    )
    parser.set_defaults(command=run)
    parser.add_argument("text", nargs="*", type=said, metavar="TEXT")
    add_asking(parser)


def run(arguments: argparse.Namespace) -> int:
    """Ask, and return the exit code."""
    from .answer import Answer
    from .talk import Talk

    began = time.monotonic()
    try:
        content = _content(arguments)
        with contextlib.closing(Talk(arguments)) as talk:
            answer = talk.resume() if arguments.resume else talk.ask(content)
    except (Exception, KeyboardInterrupt) as error:
        if not arguments.json:
            raise
        answer = Answer(error=error, seconds=time.monotonic() - began)
        failures.tell(error, debug=arguments.debug)
        answer.print()
    return answer.code


def _content(arguments: argparse.Namespace) -> Any:
    """What is asked, None where an answer is gone on with."""
    text = " ".join(arguments.text)
    if arguments.resume:
        if text or arguments.file:
            raise UsageError("--resume goes on with the last answer, and asks nothing", "leave TEXT and -f out")
        return None
    piped = b""
    if "-" not in arguments.file and sys.stdin is not None and not is_terminal(sys.stdin):
        piped = read_input()
    return content_of(text, arguments.file, piped=piped)
