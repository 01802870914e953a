"""What failures say of a run: the service has no time, or nothing, or has been silent for too long. No I/O."""

from __future__ import annotations

import re

from .._errors import (
    APIStatusError,
    AuthenticationError,
    ChatAnywhereError,
    InsufficientBalanceError,
    InternalServerError,
    QuotaExceededError,
    RateLimitError,
)

LONGEST_TROUBLE = 600.0
"""Seconds without any answer after which a run stops."""

MOST_REFUSALS = 20
"""Refusals of one prompt in a row, while others are answered, after which it has failed."""

_LUCK = 0.3  # of the prompts that are asked for the first time, how many have to be answered so that it is no luck
_MEMORY = 0.1  # how much the last of them counts in that

_DAILY = re.compile(r"每日|每天|per day|daily|requests_per_day|tokens_per_day", re.IGNORECASE)
_OF_THE_PROMPT = re.compile("模型无返回结果|no response|request too large", re.IGNORECASE)


def as_refusal(error: BaseException) -> APIStatusError | None:
    """Return an error with which the service says that it has no time for a request; None for any other."""
    if isinstance(error, QuotaExceededError) or not isinstance(error, (RateLimitError, InternalServerError)):
        return None
    if isinstance(error, InternalServerError) and error.status_code != 503:
        return None
    return None if _OF_THE_PROMPT.search(error.message) else error


def as_stop(error: BaseException) -> ChatAnywhereError | None:
    """Return an error after which it is no use to ask anything else; None for any other."""
    kinds = (QuotaExceededError, AuthenticationError, InsufficientBalanceError)
    return error if isinstance(error, kinds) else None


def is_daily(error: ChatAnywhereError) -> bool:
    """Whether a quota is spent that there is again on the next day."""
    return isinstance(error, QuotaExceededError) and bool(_DAILY.search(f"{error.message} {error.code}"))


def own_limit(name: str) -> QuotaExceededError:
    """Return the error for a limit of the caller's own that is spent for today."""
    return QuotaExceededError(
        f"{name} is spent: a limit of this run's own",
        status_code=429,
        hint="Run it again with the same journal= on the next day, or pass on_quota='wait'.",
    )


class Trouble:
    """A time without any answer.

    Attributes:
        since: when it began; None if there is none.
        error: the last one of it.
    """

    def __init__(self) -> None:
        self.since: float | None = None
        self.error: ChatAnywhereError | None = None
        self._answered = 1.0  # of the prompts that were asked for the first time of late

    def note_first(self, *, answered: bool) -> None:
        """A prompt's first request has been answered, or refused.

        This tells a service that has little time, and refuses whatever it is asked, from prompts that it never answers.
        """
        self._answered += _MEMORY * (answered - self._answered)

    @property
    def others_succeed(self) -> bool:
        """Whether a prompt that is refused again and again is unlike the others."""
        return self._answered >= _LUCK

    def note(self, error: BaseException, now: float) -> None:
        """A request has failed."""
        if isinstance(error, ChatAnywhereError):
            self.error = error
            self.since = now if self.since is None else self.since

    def end(self) -> None:
        """There was an answer, or there are no questions."""
        self.since = None

    def lasts_too_long(self, now: float) -> ChatAnywhereError | None:
        """Return the error with which a run stops, None if it may go on."""
        return self.error if self.since is not None and now - self.since >= LONGEST_TROUBLE else None
