"""`serve`: a server for one's own experiments."""

from __future__ import annotations

import argparse
import ast
import contextlib
import itertools
import signal
import time
from typing import TYPE_CHECKING, Any

from .failures import UsageError

if TYPE_CHECKING:
    from ..testing import Fault

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


def add(commands: Any) -> None:
    """Add the command to the parser."""
    serve = commands.add_parser("serve", help="run a practice server until Ctrl-C")
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
    add_delay(serve, default=0.05)


def add_delay(parser: argparse.ArgumentParser, *, default: float) -> None:
    """Add the option that says how slowly the server answers."""
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
    from ..testing import Fault

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


def _serve(arguments: argparse.Namespace) -> int:
    import logging

    from ..testing import LoopbackServer

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
        raise UsageError(str(error), "`chatanywhere serve --help` says what is wanted") from error
    try:
        server.start()
    except OSError as error:
        if error.filename is not None:
            raise UsageError(str(error), "name another file") from error
        raise UsageError(
            f"can't listen on {arguments.host}, port {arguments.port}: {error}",
            "choose another with --port or --host, or any free port with --port 0",
        ) from error
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # to be ended as by Ctrl-C
    with contextlib.suppress(KeyboardInterrupt), server:
        print((_RELAY_START if what else _SERVE_START).format(url=server.url, what=what), flush=True)
        while True:
            time.sleep(3600)
    return 0
