"""Answer many prompts at the same time, with threads: one prompt per line in, one answer per line out, in order.

    python examples/parallel.py < prompts.txt

Needs a key in CHATANYWHERE_API_KEY. A prompt that fails does not disturb the others; the exit code is then 1.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from chatanywhere import ChatAnywhereError, Client

THREADS = 8  # how many prompts are under way at a time


def ask(client: Client, prompt: str) -> str | ChatAnywhereError:
    """Return the answer in one line, or the error."""
    try:
        return " ".join(client.complete(prompt).text.split())
    except ChatAnywhereError as error:
        return error


def main() -> int:
    """Print each answer as soon as it and those before it are there."""
    prompts = [line.strip() for line in sys.stdin if line.strip()]
    failed = 0
    with Client() as client, ThreadPoolExecutor(THREADS) as pool:  # threads may share a client
        for prompt, answer in zip(prompts, pool.map(partial(ask, client), prompts), strict=True):
            if isinstance(answer, ChatAnywhereError):
                failed += 1
                print(f"{prompt!r} failed: {answer}", file=sys.stderr)
                print()  # keeps the lines of prompts and answers in step
            else:
                print(answer, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
