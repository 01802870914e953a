"""How chats are written and read. Knows nothing of sockets."""

from __future__ import annotations

from .openai import OpenAIProtocol
from .protocol import ChatProtocol
from .web import WebProtocol

PROTOCOLS: dict[str, ChatProtocol] = {protocol.name: protocol for protocol in (WebProtocol(), OpenAIProtocol())}
"""All there are, by name."""
