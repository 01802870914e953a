"""How chats are written and read. Knows nothing of sockets."""

from __future__ import annotations

from importlib import import_module

from .protocol import ChatProtocol

NAMES = ("web", "openai")
"""The protocols there are; each has the file of that name, which is imported when it is asked for."""


def find_protocol(name: str) -> ChatProtocol:
    """Return the protocol of this name.

    Raises:
        ValueError: there is none.
    """
    if name not in NAMES:
        raise ValueError(f"protocol={name!r}: choose one of {', '.join(map(repr, NAMES))}")
    protocol: ChatProtocol = import_module(f".{name}", __name__).PROTOCOL
    return protocol
