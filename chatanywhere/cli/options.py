"""The options that commands share, and what is made of them."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._attachment import MAX_FILE, FileLike, parts_of
from .failures import UsageError

if TYPE_CHECKING:
    from .. import Client

_INPUT = "standard input"
_URL = re.compile("(https?|data):", re.IGNORECASE)

_ELSEWHERE = {"model": "-m", "system": "-s", "messages": "TEXT", "timeout": "--timeout", "response_format": "--schema"}
"""What can't be an option of the service, and which of the command's it is."""


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the service is reached."""
    group = parser.add_argument_group("connection")
    group.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="time for the whole call (120)")
    group.add_argument("--proxy", metavar="URL", help="instead of the environment's; '' for none")
    group.add_argument("--base-url", metavar="URL", help="of the service, instead of CHATANYWHERE_BASE_URL")
    group.add_argument("--protocol", choices=["openai", "web"], default="openai", help="(%(default)s)")


def add_asking(parser: argparse.ArgumentParser) -> None:
    """Add the options of a question and its answer."""
    group = parser.add_argument_group("question")
    group.add_argument(
        "-m", "--model", type=said, help="instead of CHATANYWHERE_MODEL, or of the one that answered before"
    )
    group.add_argument("-s", "--system", type=said, metavar="TEXT", help="what the model is told first")
    which = group.add_mutually_exclusive_group()
    which.add_argument("-c", "--continue", dest="last", action="store_true", help="go on with the last conversation")
    which.add_argument("--id", type=said, help="go on with this conversation; the beginning of its id is enough")
    group.add_argument(
        "-f", "--file", action="append", default=[], metavar="FILE", help="text or a picture; - for standard input"
    )
    group.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        type=_option,
        metavar="KEY=VALUE",
        help="a field of the request, such as temperature=0.2; JSON, or else text",
    )
    group.add_argument("--schema", metavar="FILE.json", help="a JSON schema that the answer has to fit")
    group.add_argument("--resume", action="store_true", help="go on with an answer that was cut")
    group.add_argument("--no-store", action="store_true", help="keep nothing on disk")
    group = parser.add_argument_group("answer")
    group.add_argument("-x", "--extract", action="store_true", help="print the first block of code only")
    group.add_argument("--json", action="store_true", help="print one JSON object, also where there is no answer")
    group.add_argument(
        "--render", choices=["auto", "always", "never"], default="auto", help="draw Markdown (auto: on a terminal)"
    )
    group.add_argument("--reasoning", action="store_true", help="show what the model thinks, on standard error")
    group.add_argument("-u", "--usage", action="store_true", help="show the tokens, on standard error")
    group.add_argument("-v", "--verbose", action="store_true", help="show model, host and time, on standard error")
    add_connection(parser)


def said(text: str) -> str:
    """Read an argument that is no file's name; it is text in UTF-8 where the locale's encoding can't read it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        try:
            return os.fsencode(text).decode("utf-8")
        except UnicodeError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not text in UTF-8") from error
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return seconds


def _option(text: str) -> tuple[str, Any]:
    key, value = field(text)
    if key in _ELSEWHERE:
        raise argparse.ArgumentTypeError(f"{key} is not set by -o but by {_ELSEWHERE[key]}")
    return key, value


def field(text: str) -> tuple[str, Any]:
    """Read KEY=VALUE, a field of a request; the value is JSON if it can be read so."""
    key, sign, value = said(text).partition("=")
    if not sign or not key.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, such as temperature=0.2")
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(value)
        json.dumps(parsed, allow_nan=False, ensure_ascii=False).encode()  # NaN and half a character are none
        return key, parsed
    return key, value


def make_client(arguments: argparse.Namespace, *, model: str | None = None, api_key: str | None = None) -> Client:
    """Return a client with the settings of the arguments; the key is that of the environment, if none is given.

    Raises:
        ValueError, TypeError: one can't be used.
        AuthenticationError: there is no key.
    """
    from .. import Client, Timeout

    timeout = Timeout() if arguments.timeout is None else Timeout(total=arguments.timeout)
    return Client(
        api_key,
        base_url=arguments.base_url,
        protocol=arguments.protocol,
        model=model,
        proxy=arguments.proxy,
        timeout=timeout,
    )


def checked_options(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return the fields that `-o` adds to a request.

    Raises:
        UsageError: one is none.
    """
    from .._config import check_options

    options = dict(pairs)
    for name in options:
        try:
            check_options([name])
        except TypeError as error:
            raise UsageError(
                f"-o: {name} is no field of a request", "leave it out; --help lists what there is"
            ) from error
    return options


def read_schema(path: str) -> dict[str, Any]:
    """Return the JSON schema in a file.

    Raises:
        UsageError: there is none.
    """
    try:
        with open(path, "rb") as file:
            schema = json.loads(file.read(MAX_FILE).decode("utf-8-sig"))
        if not isinstance(schema, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"--schema {path}: {_reason(error)}", "give a file with one JSON schema") from error
    return schema


def _reason(error: Exception) -> object:
    return getattr(error, "strerror", None) or error


def read_input() -> bytes:
    """Return what comes by standard input.

    Raises:
        UsageError: it is too large, or can't be read.
    """
    if sys.stdin is None:
        return b""
    buffer = getattr(sys.stdin, "buffer", None)
    try:
        if buffer is None:  # a program has put something else in its place
            return sys.stdin.read(MAX_FILE).encode("utf-8", "surrogatepass")
        content = buffer.read(MAX_FILE + 1) or b""
    except OSError as error:
        raise UsageError(f"standard input can't be read: {_reason(error)}", "give another one: < /dev/null") from error
    if len(content) > MAX_FILE:
        raise UsageError(f"standard input has more than {MAX_FILE} bytes", "give a part of it")
    return content


def content_of(text: str, files: Sequence[str], *, piped: bytes = b"") -> str | list[dict[str, Any]]:
    """Return the content of a message.

    Args:
        text: that was typed.
        files: names of files with text, which are put behind it, or with pictures; `-` is standard input.
        piped: what came by standard input, which is the end of the text, or a picture.

    Raises:
        UsageError: a file can't be read, or has neither; or there is nothing at all.
    """
    texts = [text] if text.strip() else []
    attached: list[FileLike] = [(_INPUT, read_input()) if name == "-" else name for name in files]
    try:
        if b"\0" in piped:
            raise ValueError("not text")
        behind = piped.decode("utf-8-sig")
        texts += [behind] if behind.strip() else []
    except ValueError:
        attached.append((_INPUT, piped))
    parts = []
    for each in attached:
        try:
            parts += parts_of([Path(each) if isinstance(each, str) and not _URL.match(each) else each])
        except (OSError, ValueError) as error:  # a ValueError for a name with a NUL, too
            name = each[0] if isinstance(each, tuple) else each or repr(each)
            reason = f"{name} can't be read: {_reason(error)}" if isinstance(error, OSError) else str(error)
            raise UsageError(reason, "see whether the name is right, and what is in it") from error
    texts += [part["text"] for part in parts if part["type"] == "text"]
    pictures = [part for part in parts if part["type"] != "text"]
    if not texts and not pictures:
        raise UsageError("there is nothing to ask", "chatanywhere ask 'your question', or pipe one in")
    whole = "\n\n".join(texts)
    return [*([{"type": "text", "text": whole}] if whole else []), *pictures] if pictures else whole
