"""Ask the best model first, and the next one when it is refused, its quota is spent, or it is down.

    python examples/fallback.py "What is a monad?" gpt-4o gpt-4o-mini

Needs a key in CHATANYWHERE_API_KEY. Without names of models, those in MODELS are asked. Failures are logged.
"""

from __future__ import annotations

import logging
import sys

from chatanywhere import ChatAnywhereError, Client, Retry

MODELS = ["gpt-4o", "deepseek-v3", "gpt-4o-mini"]


def main(question: str, models: list[str]) -> int:
    """Print the answer, and which model gave it."""
    logging.basicConfig(format="%(message)s")
    logging.getLogger("chatanywhere").setLevel(logging.INFO)
    try:
        with Client(model=models, retry=Retry(attempts=2, failover=True)) as client:
            completion = client.complete(question)
    except ChatAnywhereError as error:
        print(f"fallback: {error}", file=sys.stderr)
        return 1
    print(f"[{completion.model}] {completion.text}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python fallback.py QUESTION [MODEL ...]")
    sys.exit(main(sys.argv[1], sys.argv[2:] or MODELS))
