"""Answer a question with the help of functions, and show which of them the model calls.

    python examples/tools.py QUESTION

Needs a key in CHATANYWHERE_API_KEY, and pydantic: pip install 'chatanywhere[structured]'.
"""

from __future__ import annotations

import sys
from datetime import date

from chatanywhere import ChatAnywhereError, Client, TextDelta, ToolFinished, ToolStarted


def today() -> date:
    """Return the date of today."""
    return date.today()


def days_between(start: date, end: date) -> int:
    """Count the days from one date to another.

    Args:
        start: the first date, such as 2026-01-31
        end: the other one
    """
    return (end - start).days


def main() -> int:
    """Ask, and print what happens as it happens."""
    if len(sys.argv) != 2:
        print("usage: python tools.py QUESTION", file=sys.stderr)
        return 1
    try:
        with Client() as client, client.stream_tools(sys.argv[1], [today, days_between]) as stream:
            for event in stream:
                if isinstance(event, TextDelta):
                    print(event.text, end="", flush=True)
                elif isinstance(event, ToolStarted):
                    print(f"[{event.call.name}({event.call.arguments})", end="", flush=True)
                elif isinstance(event, ToolFinished):
                    print(f" = {event.error or event.result}]")
            print()
    except ChatAnywhereError as error:
        print(f"\ntools: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
