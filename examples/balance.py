"""Tell what the account of the key holds, and what was used on the last days.

    python examples/balance.py

Needs a key of ChatAnywhere's in CHATANYWHERE_API_KEY. Other services have no such thing, and the program says so.
"""

from __future__ import annotations

import sys

from chatanywhere import ChatAnywhereError, Client


def shown(number: float | None) -> str:
    """A number, or that it is not told."""
    return "?" if number is None else f"{number:g}"


def main() -> int:
    """Print the balance, and a line for each day."""
    try:
        with Client() as client:
            balance = client.balance()
            days = client.usage_by_day()
    except ChatAnywhereError as error:
        print(f"balance: {error}", file=sys.stderr)
        return 1
    print(f"{shown(balance.remaining)} CA left, of {shown(balance.total)}")
    for day in days:
        print(f"{(day.time or '?')[:10]}: {shown(day.cost)} CA for {shown(day.count)} calls")
    return 0


if __name__ == "__main__":
    sys.exit(main())
