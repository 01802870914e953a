"""The command line: a demo without a key, and a server for one's own experiments."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .testing import Fault

# Each command imports what it needs by itself, so that `--help` does not wait for the clients.

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

_RELAY_START = """\
{what} Listening on {url} until Ctrl-C:

    export CHATANYWHERE_BASE_URL={url}
    export OPENAI_BASE_URL={url}/v1
"""

_SERVE_START = """\
Listening on {url} until Ctrl-C. For programs that use this package:

    export CHATANYWHERE_BASE_URL={url}
    export CHATANYWHERE_API_KEY=any

The web protocol:

    curl -N {url}/v1/chat/gpt/ -d '{{"list": [{{"role": "user", "content": "I am Ada."}}]}}'

The openai protocol, with any client of OpenAI's API, any model and any key:

    python -c 'import openai; client = openai.OpenAI(base_url="{url}/v1", api_key="any"); \
messages = [{{"role": "user", "content": "I am Ada."}}]; \
print(client.chat.completions.create(model="any", messages=messages))'
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; None takes the process's own.

    Returns:
        The exit code: 0, 1 if the output can't be written, 2 if the server can't be started, 130 if the demo is
        interrupted, 141 if the output was closed before its end, as by `chatanywhere demo | head -3`. Shells report
        SIGINT and SIGPIPE by these two.

    Raises:
        SystemExit: the arguments are wrong, or ask for help or the version.
    """
    try:
        try:
            return _run(argv)
        finally:
            print(end="", flush=True)  # so that what fails, fails here
    except OSError as error:
        try:
            sys.stdout.flush()
        except OSError:
            with open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())  # Python flushes once more at its exit
        if isinstance(error, BrokenPipeError):
            return 141
        print(f"chatanywhere: {error}", file=sys.stderr)
        return 1


def _run(argv: Sequence[str] | None) -> int:
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a legacy encoding may not have Chinese
    try:
        code: int = arguments.command(arguments)
    except KeyboardInterrupt:
        return 130
    return code


def _parser() -> argparse.ArgumentParser:
    from . import __version__

    parser = argparse.ArgumentParser(
        prog="chatanywhere", description="Chat without a key, with a server on this machine."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser("demo", help="hold three conversations, one with each client")
    demo.set_defaults(command=_demo)
    _add_delay(demo, default=0.08)

    serve = commands.add_parser("serve", help="run the server until Ctrl-C")
    serve.set_defaults(command=_serve)
    serve.add_argument(
        "--host", default="127.0.0.1", help="name or address to listen on, 0.0.0.0 for all (%(default)s)"
    )
    serve.add_argument("--port", type=_port, default=8000, help="port, 0 for any free one (%(default)s)")
    answers = serve.add_mutually_exclusive_group()
    answers.add_argument(
        "--reply",
        action="append",
        metavar="TEXT",
        help="what to answer, in place of making conversation; several take turns",
    )
    answers.add_argument(
        "--record", metavar="FILE", help="ask --upstream in its place, and write what it answers to a file"
    )
    answers.add_argument("--replay", metavar="FILE", help="answer from such a file")
    serve.add_argument("--upstream", metavar="URL", help="the service to record")
    serve.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="NUMBER",
        help="how many times as fast to replay, 0 for no pauses (%(default)s)",
    )
    serve.add_argument(
        "--fault",
        action="append",
        type=_fault,
        default=[],
        help="what goes wrong, such as 'status(503, first=2)' or 'reset_peer(after=3)': see chatanywhere.testing.Fault",
    )
    _add_delay(serve, default=0.05)
    return parser


def _add_delay(parser: argparse.ArgumentParser, *, default: float) -> None:
    parser.add_argument(
        "--delay",
        type=_seconds,
        default=default,
        metavar="SECONDS",
        help="time between two pieces of an answer (%(default)s)",
    )


def _seconds(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 3600:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 3600")


def _speed(text: str) -> float:
    with contextlib.suppress(ValueError):
        if float(text) >= 0:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number, 0 or more")


def _port(text: str) -> int:
    with contextlib.suppress(ValueError):
        if 0 <= int(text) <= 65535:
            return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port from 0 to 65535")


def _fault(text: str) -> Fault:
    """Read a fault as a program writes it: `reset_peer`, `status(503, first=2)`."""
    from .testing import Fault

    names = [name for name, value in vars(Fault).items() if isinstance(value, classmethod) and name[0] != "_"]
    try:
        call = ast.parse(text.strip(), mode="eval").body
        if isinstance(call, ast.Name):
            call = ast.Call(call, [], [])
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name) or call.func.id not in names:
            raise ValueError(f"none of {', '.join(names)}, with or without arguments")
        named = {str(each.arg): _literal(each.value) for each in call.keywords}
        fault: Fault = getattr(Fault, call.func.id)(*map(_literal, call.args), **named)
    except (SyntaxError, TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    return fault


def _literal(node: ast.expr) -> object:
    try:
        value: object = ast.literal_eval(node)
    except ValueError:
        message = f"{ast.unparse(node)} is no value, such as 503, 'text', b'bytes', True or None"
        raise ValueError(message) from None
    return value


def _demo(arguments: argparse.Namespace) -> int:
    import asyncio

    from . import ChatAnywhere, Client
    from ._protocols.service import KEY_PAGE
    from ._types import Messages
    from .testing import LoopbackServer

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


def _serve(arguments: argparse.Namespace) -> int:
    import logging

    from .testing import LoopbackServer

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")  # to standard error
    logging.getLogger(LoopbackServer.__module__).setLevel(logging.INFO)
    options = {"faults": arguments.fault, "port": arguments.port, "host": arguments.host}
    what = ""
    try:
        if arguments.record is not None or arguments.upstream is not None:
            if arguments.record is None or arguments.upstream is None:
                raise ValueError("--record FILE and --upstream URL belong together")
            server = LoopbackServer.record(arguments.record, arguments.upstream, **options)
            what = f"Recording to {arguments.record}."
        elif arguments.replay is not None:
            server = LoopbackServer.replay(arguments.replay, arguments.speed, **options)
            what = f"Replaying {arguments.replay}."
        else:
            replies = itertools.cycle(arguments.reply) if arguments.reply else None
            server = LoopbackServer(replies, delay=arguments.delay, **options)
    except (OSError, ValueError) as error:
        print(f"chatanywhere: {error}", file=sys.stderr)
        return 2
    try:
        server.start()
    except OSError as error:
        if error.filename is not None:
            print(f"chatanywhere: {error}", file=sys.stderr)
            return 2
        print(
            f"chatanywhere: can't listen on {arguments.host}, port {arguments.port}: {error}. "
            "Choose another with --port or --host, or any free port with --port 0.",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be ended as by Ctrl-C
    with contextlib.suppress(KeyboardInterrupt), server:
        print((_RELAY_START if what else _SERVE_START).format(url=server.url, what=what), flush=True)
        while True:
            time.sleep(3600)
    return 0
