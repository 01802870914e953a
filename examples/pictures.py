"""Ask about pictures: files, or URLs of pictures.

    python examples/pictures.py "What is on this picture?" photo.jpg

Needs a key in CHATANYWHERE_API_KEY, and a model that can see.
"""

from __future__ import annotations

import sys
from typing import Any

from chatanywhere import ChatAnywhereError, Client, image


def main(question: str, pictures: list[str]) -> int:
    """Print the answer."""
    content: list[dict[str, Any]] = [{"type": "text", "text": question}]
    try:
        content += map(image, pictures)
        with Client() as client:
            # ChatAnywhere bills a picture by a fixed price when the answer is streamed, else by what it took.
            print(client.complete([{"role": "user", "content": content}], stream=False))
    except (ChatAnywhereError, OSError, ValueError) as error:
        print(f"pictures: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python pictures.py QUESTION PICTURE [PICTURE ...]")
    sys.exit(main(sys.argv[1], sys.argv[2:]))
