"""`batch`: a file of prompts is asked, and a file of answers written, however often it is interrupted."""

from __future__ import annotations

import argparse
from typing import Any

from ..options import add_connection, field, said


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "batch",
        help="ask the prompts of a file, and write a file of answers",
        description="Ask the prompts of a file. Nothing that was paid is lost: run it again, and it goes on.",
        epilog="Exit codes: 0 all answered, 1 some failed, 2 nothing was sent, 4 key or balance, "
        "75 the quota of the day is spent, 130 Ctrl-C.",
    )
    parser.set_defaults(command=run)
    parser.add_argument(
        "input",
        metavar="IN",
        help='OpenAI\'s batch requests, lines of {"prompt": …} or of text, or a table; - for standard input',
    )
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT", help="for the answers, when all is done; - prints them"
    )
    group = parser.add_argument_group("prompts")
    group.add_argument(
        "--format", choices=["csv", "jsonl", "text"], help="of IN, where its name and first line mislead"
    )
    group.add_argument(
        "--template", type=said, metavar="TEXT", help="makes prompts of a table with named columns: 'Translate: {text}'"
    )
    group.add_argument("-m", "--model", type=said, help="for prompts that name none, instead of CHATANYWHERE_MODEL")
    group.add_argument("-s", "--system", type=said, metavar="TEXT", help="what the model is told first")
    group.add_argument(
        "--option",
        action="append",
        default=[],
        type=field,
        metavar="KEY=VALUE",
        help="a field of all requests, such as temperature=0.2; JSON, or else text",
    )
    group.add_argument("--skip-bad", action="store_true", help="go on without lines that can't be asked")
    group.add_argument("--dry-run", action="store_true", help="say what there is to do, and send nothing")
    group = parser.add_argument_group("limits")
    group.add_argument(
        "-j", "--concurrency", type=_count, default=16, metavar="N", help="requests at a time (%(default)s)"
    )
    group.add_argument("--rpm", type=_count, metavar="N", help="requests per minute")
    group.add_argument("--tpm", type=_count, metavar="N", help="tokens per minute")
    group.add_argument("--rpd", type=_count, metavar="N", help="requests per day, counted by the journal")
    group.add_argument("--max-errors", type=_count, metavar="N", help="stop when so many prompts have failed")
    group.add_argument(
        "--on-quota", choices=["stop", "wait"], default="stop", help="wait for the next day, or stop (%(default)s)"
    )
    group = parser.add_argument_group("files")
    group.add_argument(
        "--journal", metavar="FILE", help="keeps what was sent and answered (OUT.journal; batch.journal for -)"
    )
    group.add_argument(
        "--errors", metavar="FILE", help="for prompts that have failed (OUT.errors.jsonl; batch.errors.jsonl for -)"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for each prompt, on standard error")
    add_connection(parser)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and int(text[:20]) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number, 1 or more")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    """Ask, and return the exit code."""
    from .job import BatchJob

    with BatchJob(arguments) as job:
        return job.rehearse() if arguments.dry_run else job.run()
