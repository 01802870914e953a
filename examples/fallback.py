"""Ask the best model first, and the next one when it fails: its quota is spent, it is down, or too slow.

    python examples/fallback.py "What is a monad?" gpt-4o gpt-4o-mini

Needs a key in CHATANYWHERE_API_KEY. Without names of models, those in MODELS are asked.
"""

from __future__ import annotations

import sys

from chatanywhere import AuthenticationError, ChatAnywhereError, Client, Completion

MODELS = ["gpt-4o", "deepseek-v3", "gpt-4o-mini"]


def complete(client: Client, question: str, models: list[str]) -> Completion:
    """Return the answer of the first model that gives one.

    Raises:
        ChatAnywhereError: the last model's error, or that of the key.
    """
    *others, last = models
    for model in others:
        try:
            return client.complete(question, model=model, timeout=30)
        except AuthenticationError:
            raise  # another model would not accept the key either
        except ChatAnywhereError as error:
            print(f"{model} failed, asking the next one: {error}", file=sys.stderr)
    return client.complete(question, model=last, timeout=120)


def main(question: str, models: list[str]) -> int:
    """Print the answer, and which model gave it."""
    try:
        with Client() as client:
            completion = complete(client, question, models)
    except ChatAnywhereError as error:
        print(f"fallback: {error}", file=sys.stderr)
        return 1
    print(f"[{completion.model}] {completion.text}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: python fallback.py QUESTION [MODEL ...]")
    sys.exit(main(sys.argv[1], sys.argv[2:] or MODELS))
