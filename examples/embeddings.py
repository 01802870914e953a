"""Search by meaning: one text per line in, the three that are nearest to a question out, the nearest first.

    python examples/embeddings.py "How do I bake bread?" < notes.txt

Needs a key in CHATANYWHERE_API_KEY.
"""

from __future__ import annotations

import heapq
import math
import sys
from operator import mul

from chatanywhere import ChatAnywhereError, Client


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of the angle between two vectors: 1 if they point the same way."""
    product: float = sum(map(mul, one, other))
    return product / math.hypot(*one) / math.hypot(*other)


def main(question: str) -> int:
    """Print how like the question the nearest texts are, and the texts."""
    texts = list(filter(None, map(str.strip, sys.stdin)))
    try:
        with Client() as client:
            wanted, *vectors = client.embed([question, *texts])
    except ChatAnywhereError as error:
        print(f"embeddings: {error}", file=sys.stderr)
        return 1
    likenesses = [likeness(wanted, vector) for vector in vectors]
    for value, text in heapq.nlargest(3, zip(likenesses, texts, strict=True)):
        print(f"{value:.2f} {text}")
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("usage: python embeddings.py QUESTION < TEXTS")
    sys.exit(main(sys.argv[1]))
