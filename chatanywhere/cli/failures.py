"""What has gone wrong, as the command says it: one line, one with the remedy, and an exit code."""

from __future__ import annotations

import argparse
import re
import sys
import traceback
from typing import NamedTuple

from .printing import give_up, one_line

COMPLETE = 0
NO_ANSWER = 1
USAGE = 2
CUT = 3
NO_USE = 4
ANOTHER_DAY = 75
INTERRUPTED = 130
CLOSED = 141

_STOPPED = (KeyboardInterrupt, SystemExit)

_FLAGS = (
    (r"pass api_key=|api_key= or CHATANYWHERE_API_KEY|api_key=", "CHATANYWHERE_API_KEY"),
    (r"CHATANYWHERE_API_KEY or CHATANYWHERE_API_KEY", "CHATANYWHERE_API_KEY"),
    (r"\bbase_url=(?=')", "base URL "),  # which the environment may have named
    (r"\bbase_url\b(?!=)", "the base URL"),
    (r"\bbase_url=", "--base-url "),
    (r"\b(max_tokens|max_response_bytes)=", r"--option \1="),  # -o is something else for a batch
    (r"\bRetry\(attempts=([0-9-]+)\)", r"--option retry=\1"),
    (r"\bverify='(.*?)'", r"export REQUESTS_CA_BUNDLE=\1"),
    (r"(for what they return): send that .*", r"\1, which can't be given here: begin another one, or /undo in a chat"),
    (r"\bmodel=", "--model "),
    (r"\bjournal=", "--journal "),
    (r"\brequests_per_day=", "--rpd "),
    (r"\bon_quota='wait'", "--on-quota wait"),
    (r"\bproxy=", "--proxy "),
    (r"\bprotocol='(\w+)'", r"--protocol \1"),
    (r"\bsave\(\)", "/save"),
    (r"^\[Errno \d+\] ", ""),
    (r", or raise Retry\(attempts=…\)", ""),
    (r"(--[a-z-]+) (?=[ .,:;]|$)", r"\1"),
)
"""What the library's errors call the arguments of Python, and what they are here."""


class UsageError(Exception):
    """The command can't be used like this; nothing has been sent.

    Args:
        message: what is wrong.
        hint: what to do.
    """

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class NothingDone(Exception):
    """Something else than a question has failed; the exit code is 1."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Words(NamedTuple):
    """An error in two lines."""

    message: str
    hint: str


def code_of(error: BaseException, *, begun: bool = False) -> int:
    """Return the exit code for an error.

    Args:
        error: what was raised.
        begun: something of an answer had come.
    """
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, SystemExit):  # of a signal
        return int(error.code or 0)
    if isinstance(error, BrokenPipeError):
        return CLOSED
    if isinstance(error, (UsageError, argparse.ArgumentTypeError)):
        return USAGE
    from .. import _errors as errors

    if isinstance(error, errors.ChatAnywhereError):
        if begun or isinstance(error, errors.OutputError):
            return CUT
        no_use = (
            errors.AuthenticationError,
            errors.QuotaExceededError,
            errors.InsufficientBalanceError,
            errors.ModelNotAllowedError,
        )
        payment = getattr(error, "status_code", None) == 402
        return NO_USE if payment or isinstance(error, no_use) else NO_ANSWER
    # What the library says of arguments that can't be used; it has sent nothing.
    return USAGE if isinstance(error, (ValueError, TypeError, RuntimeError, ImportError)) else NO_ANSWER


def words_of(error: BaseException, *, begun: bool = False, remedy: str | None = None) -> Words:
    """Return what is said of an error.

    Args:
        error: what was raised.
        begun: something of an answer had come.
        remedy: how a cut answer is gone on with.
    """
    message = str(error) or type(error).__name__
    hint: str | None = getattr(error, "hint", None)
    if isinstance(error, _STOPPED):
        message, hint = "interrupted", remedy if begun else None
    from .. import _errors as errors

    if isinstance(error, errors.APIStatusError):
        message = f"{error.status_code}: {error.message}" if error.attempts else error.message
    if begun and isinstance(error, errors.ChatAnywhereError):
        message = f"the answer was cut: {message}"
        hint = hint or remedy
    elif isinstance(error, errors.APIConnectionError) and hint is None:
        message, _, hint = message.partition("\n")  # which has the remedy, if there is one
    message, hint = one_line(message), one_line(hint or _hint(error))
    for pattern, flag in _FLAGS:
        message, hint = re.sub(pattern, flag, message), re.sub(pattern, flag, hint)
    return Words(message.strip(), hint.strip())


def _hint(error: BaseException) -> str:
    """The remedy for an error that names none."""
    from .. import _errors as errors

    match error:
        case KeyboardInterrupt() | SystemExit():
            return "ask again"
        case errors.AuthenticationError():
            from .._protocols.service import KEY_PAGE

            return f"export CHATANYWHERE_API_KEY=sk-…; free keys are given out at {KEY_PAGE}"
        case errors.APITimeoutError():
            return "wait longer with --timeout SECONDS, or see with `chatanywhere ping` which hosts answer"
        case errors.APIConnectionError():
            return "see with `chatanywhere ping` which hosts answer, and with `chatanywhere config` which are asked"
        case errors.BadRequestError() | errors.UnprocessableEntityError():
            return "change what --option sends, or the question, or try another model with -m"
        case errors.APIStatusError():
            return "if it does not pass, try another model with -m, or another host with --base-url"
        case errors.StreamInterruptedError():
            return "ask again"
        case errors.ChatAnywhereError():
            return "ask again; --base-url may name a host that is no such service"
        case ImportError():
            return "pip install 'chatanywhere[cli]'"
        case ValueError() if "base_url" in str(error):
            return "give the address of a service by --base-url or CHATANYWHERE_BASE_URL"
        case ValueError() | TypeError() | RuntimeError():
            return "`chatanywhere config` shows the settings, and --help what there is"
        case OSError():
            return "see whether the place can be written, and has room"
    return "this is a mistake of the program: --debug shows where; please report it"


def tell(error: BaseException, *, debug: bool = False, begun: bool = False, remedy: str | None = None) -> int:
    """Write an error to standard error, and return the exit code.

    Args:
        error: what was raised.
        debug: with its traceback.
        begun: something of an answer had come.
        remedy: how it is gone on with.
    """
    code = code_of(error, begun=begun)
    if code == CLOSED:
        return code
    if debug:
        say("".join(traceback.format_exception(error)), end="")
    if not isinstance(error, _STOPPED):
        words = words_of(error, begun=begun, remedy=remedy)
        say(f"error: {words.message}\nhint: {words.hint}")
    return code


def warn(message: object) -> None:
    """Write a warning to standard error."""
    say(f"warning: {one_line(str(message))}")


def say(text: str, *, end: str = "\n") -> None:
    """Write a line, or several, to standard error, if there is one that can be written."""
    if sys.stderr is None:
        return
    try:
        print(text, end=end, file=sys.stderr, flush=True)
    except OSError:
        give_up(sys.stderr)
