"""Chat in the terminal. The model sees the whole conversation each time.

    python examples/chat.py

Needs a key in CHATANYWHERE_API_KEY. Ctrl-C stops an answer; an empty line, or Ctrl-C at the prompt, ends the program.
"""

from __future__ import annotations

import sys

from chatanywhere import ChatAnywhereError, Client


def ask() -> str:
    """Return what the user types, `""` when there is nothing more to come."""
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        print()
        return ""


def answer(client: Client, messages: list[dict[str, str]]) -> str:
    """Print the answer as it arrives. Return what arrived, which may be less than all of it."""
    received = ""
    try:
        with client.stream(messages) as stream:
            for text in stream:
                received += text
                print(text, end="", flush=True)
    except KeyboardInterrupt:
        print(" [stopped]", end="")
    except ChatAnywhereError as error:
        print(f"\nchat: {error}", file=sys.stderr, end="")
    print()
    return received


def main() -> int:
    """Take turns with the model."""
    messages: list[dict[str, str]] = []
    try:
        client = Client()
    except ChatAnywhereError as error:  # there is no key
        print(f"chat: {error}", file=sys.stderr)
        return 1
    with client:
        while question := ask():
            messages.append({"role": "user", "content": question})
            if received := answer(client, messages):
                messages.append({"role": "assistant", "content": received})
            else:
                messages.pop()  # the question got no answer, so that it can be asked again
    return 0


if __name__ == "__main__":
    sys.exit(main())
