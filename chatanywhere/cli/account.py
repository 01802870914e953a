"""`models`, `balance`, `usage` and `ping`: what the service tells of itself and of the account."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .failures import NothingDone
from .options import add_connection, make_client
from .printing import one_line

if TYPE_CHECKING:
    from .. import UsageRecord

_BAR = 24  # characters


def add(commands: Any) -> None:
    """Add the commands to the parser."""
    for name, command, words in [
        ("models", _models, "list the models of the service"),
        ("balance", _balance, "show what the account holds"),
        ("usage", _usage, "show what the key has used, day by day"),
        ("ping", _ping, "show how soon each host answers"),
    ]:
        parser = commands.add_parser(name, help=words)
        parser.set_defaults(command=command)
        if command is _usage:
            parser.add_argument("--days", type=_days, default=5, metavar="N", help="how far to look back (%(default)s)")
        add_connection(parser)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= 3660:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 1 to 3660")
    return int(text)


def _models(arguments: argparse.Namespace) -> int:
    with make_client(arguments) as client:
        for each in client.models():
            print(one_line(each))
    return 0


def _balance(arguments: argparse.Namespace) -> int:
    with make_client(arguments) as client:
        balance = client.balance()
    for name in ("total", "used", "remaining"):
        value = getattr(balance, name)
        print(f"{name:10} {'unknown' if value is None else f'{value:.4f}':>14}")
    return 0


def _usage(arguments: argparse.Namespace) -> int:
    with make_client(arguments) as client:
        records = client.usage_by_day(arguments.days)
    for line in table(records):
        print(line)
    return 0


def table(records: Sequence[UsageRecord]) -> list[str]:
    """Return records as the lines of a table, with bars that compare their cost, or their tokens where none is told."""
    by_cost = any(each.cost for each in records)
    sizes = [max(0.0, (each.cost if by_cost else each.total_tokens) or 0.0) for each in records]
    largest = max(sizes, default=0) or 1
    mark = "█" if _can_print("█") else "#"
    rows = [("time", "calls", "tokens", "cost", "")]
    for each, size in zip(records, sizes, strict=True):
        name = one_line(" ".join(filter(None, (each.time, each.model)))) or "-"
        length = round(size / largest * _BAR)
        cost = "-" if each.cost is None else f"{each.cost:.4f}"
        rows.append((name, _number(each.count), _number(each.total_tokens), cost, mark * (length or bool(size))))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [
        f"{name:{widths[0]}}  {calls:>{widths[1]}}  {tokens:>{widths[2]}}  {cost:>{widths[3]}}  {bar}".rstrip()
        for name, calls, tokens, cost, bar in rows
    ]


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _can_print(character: str) -> bool:
    try:
        character.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True


def _ping(arguments: argparse.Namespace) -> int:
    with make_client(arguments) as client:
        times = client.ping()
    for host, seconds in times.items():
        print(f"{host}  {'no answer' if seconds is None else f'{1000 * seconds:.0f} ms'}")
    if all(seconds is None for seconds in times.values()):
        raise NothingDone(
            "no host answers", "see whether the network and --proxy are right, or name another --base-url"
        )
    return 0
