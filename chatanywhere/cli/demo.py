"""`demo`: three conversations with a server on this machine, without a key."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Sequence
from typing import Any

from .serve import add_delay

_MODEL = "gpt-3.5-turbo"
_WEB_TURNS = (
    "Hello! My name is Ada.",
    "I love engines that weave algebra.",
    "Do you remember my name, and what I love?",
)
_OPENAI_TURNS = (
    "Hi, I'm Alan.",
    "I am afraid of poisoned apples.",
    "What was my name again?",
)
_ASYNC_TURNS = ("你好！我叫小明。", "我喜欢下雨天。", "你还记得我叫什么吗？")

_DEMO_END = """\
Each turn sent the whole conversation, which is how the name was remembered.

That was a server on this machine. For the live service, get a key at
{key_page} and set it:

    export CHATANYWHERE_API_KEY=sk-...

The rest is Python:

    from chatanywhere import Client
    with Client().stream("Hello!") as stream:
        for text in stream:
            print(text, end="", flush=True)
"""


def add(commands: Any) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser("demo", help="hold three conversations, one with each client, without a key")
    parser.set_defaults(command=_demo)
    add_delay(parser, default=0.08)


def _demo(arguments: argparse.Namespace) -> int:
    import asyncio

    from .. import ChatAnywhere, Client
    from .._protocols.service import KEY_PAGE
    from .._types import Messages
    from ..testing import LoopbackServer

    with LoopbackServer(delay=arguments.delay) as server:

        class Provider(ChatAnywhere):
            url = server.url

        def ask(client: Client, messages: Messages) -> str:
            with client.stream(messages) as stream:
                return "".join(_say(text) for text in stream)

        async def ask_provider(messages: Messages) -> str:
            # Closed here, and not by the garbage collector, when nobody reads on.
            async with contextlib.aclosing(Provider.create_async_generator(_MODEL, messages, proxy="")) as stream:
                return "".join([_say(text) async for text in stream])

        # proxy="": a proxy that the environment names can't reach a server on this machine.
        with Client(base_url=server.url, protocol="web", model=_MODEL, proxy="") as client:
            _converse('Client(protocol="web")', _WEB_TURNS, lambda sent: ask(client, sent))
        with Client("demo", base_url=server.url, model=_MODEL, proxy="") as client:
            _converse('Client(protocol="openai")', _OPENAI_TURNS, lambda sent: ask(client, sent))
        _converse(
            "async for ... in ChatAnywhere.create_async_generator(...)",
            _ASYNC_TURNS,
            lambda sent: asyncio.run(ask_provider(sent)),
        )
    print(_DEMO_END.format(key_page=KEY_PAGE), end="")
    return 0


def _converse(title: str, turns: Sequence[str], ask: Callable[[list[dict[str, str]]], str]) -> None:
    """Hold a conversation in which each turn sends all that was said before it."""
    print(title)
    messages: list[dict[str, str]] = []
    for text in turns:
        print(f"    you:    {text}")
        print("    server: ", end="", flush=True)
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": ask(messages)})
        print()
    print()


def _say(text: str) -> str:
    print(text, end="", flush=True)
    return text
