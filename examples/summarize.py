"""Print a summary of the text on standard input.

    python examples/summarize.py < article.txt

Needs a key in CHATANYWHERE_API_KEY. The exit code is 0, 1 if the call failed, or 2 if there was nothing to read.
"""

from __future__ import annotations

import sys

from chatanywhere import ChatAnywhereError, Client


def main() -> int:
    """Read, ask, and print the answer as it arrives."""
    article = sys.stdin.read()
    if not article.strip():
        print("summarize: nothing to read; use it as: python summarize.py < article.txt", file=sys.stderr)
        return 2
    messages = [
        {"role": "system", "content": "Summarize the user's text in three sentences, in the language of the text."},
        {"role": "user", "content": article},
    ]
    try:
        with Client() as client, client.stream(messages) as stream:
            for text in stream:
                print(text, end="", flush=True)
            print()
    except ChatAnywhereError as error:
        print(f"\nsummarize: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
