"""The command line: one file per command, or family of commands.

Each imports what it needs by itself when it runs, so that `--help` waits neither for the client nor for rich.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from . import account, ask, batch, chat, config, demo, failures, history, serve
from .options import said
from .printing import give_up, one_line, prepare_output
from .signals import ending


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; None takes the process's own.

    Returns:
        The exit code: 0 complete; 1 no answer, or the output can't be written; 2 wrong use, with nothing sent; 3 the
        answer was cut, or does not fit its schema; 4 the key, the quota or the balance; 75 the quota of the day, for a
        batch; 130 Ctrl-C; 141 the output was closed before its end, as by `chatanywhere demo | head -3`. Shells report
        SIGINT and SIGPIPE by these two, and SIGHUP and SIGTERM by 129 and 143, which raise SystemExit.

    Raises:
        SystemExit: the arguments are wrong, or ask for help or the version; or a signal ends the program.
    """
    debug = "--debug" in (sys.argv[1:] if argv is None else argv)
    end: SystemExit | None = None
    try:
        with ending():
            code = _run(argv)
    except SystemExit as exc:
        end, code = exc, int(exc.code or 0)
    except KeyboardInterrupt:
        code = failures.INTERRUPTED
    except Exception as error:
        code = failures.tell(error, debug=debug)
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # so that what fails, fails here
    except OSError as error:
        give_up(sys.stdout)
        return code or failures.tell(error, debug=debug)  # else it has been told
    if end is not None:
        raise end
    return code


def _run(argv: Sequence[str] | None) -> int:
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    parser.prog += f" {arguments.name}"  # whose --help is the one to read
    if rest and (arguments.command is not ask.run or any(each.startswith("-") for each in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:  # argparse takes words of a question behind an option for something else
        try:
            arguments.text += map(said, rest)
        except argparse.ArgumentTypeError as error:
            parser.error(str(error))
    prepare_output()
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_: failures.warn(message)
        code: int = arguments.command(arguments)
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, and what to do in another."""

    def _print_message(self, message: str, file: Any = None) -> None:
        if file is not None:  # argparse itself keeps still where it can't be written
            file.write(message)

    def error(self, message: str) -> NoReturn:
        failures.say(f"error: {one_line(message)}\nhint: `{self.prog} --help` says what there is")
        raise SystemExit(failures.USAGE)


def _parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = _Parser(
        prog="chatanywhere",
        description="Chat at the keyboard: nothing that was said is lost. `demo` and `serve` work without a key.",
        epilog="`chatanywhere COMMAND --help` says what a command takes.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="name", metavar="COMMAND", required=True)
    for each in (ask, chat, batch, history, account, config, serve, demo):
        each.add(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
    return parser
