"""How long a call may take and when it is tried again. The only user of tenacity."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import Any, TypeAlias

from ._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    RateLimitError,
    StreamInterruptedError,
    UnprocessableEntityError,
)

logger = logging.getLogger("chatanywhere")

LONGEST = 2_000_000
"""Seconds that an operating system can be asked to wait: poll(2) counts milliseconds in 31 bits."""


def _check_number(owner: str, name: str, value: Any, *, zero: bool) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{owner}({name}=…) takes a number, not {type(value).__name__}")
    if not 0 <= value <= LONGEST or (value == 0 and not zero):
        least = "at least" if zero else "more than"
        raise ValueError(f"{owner}({name}={value!r}): {least} 0 s and at most {LONGEST} s are possible")


@dataclass(frozen=True)
class Timeout:
    """Limits of one call, in seconds; `None` switches a limit off.

    Attributes:
        total: for the whole call: every attempt, every wait between attempts, every byte of the answer.
        connect: for reaching the server, per attempt and host: name resolution, TCP, TLS and the proxy.
        read: for silence: how long the server may send nothing, before its answer or within it.

    Raises:
        TypeError, ValueError: a limit is not a positive finite number.
    """

    total: float | None = 120.0
    connect: float | None = 10.0
    read: float | None = 60.0

    def __post_init__(self) -> None:
        for name in ("total", "connect", "read"):
            value = getattr(self, name)
            if value is not None:
                try:
                    _check_number("Timeout", name, value, zero=False)
                except (TypeError, ValueError) as exc:
                    raise type(exc)(f"{exc}, or None for no limit") from None

    @classmethod
    def of(cls, value: TimeoutLike) -> Timeout:
        """Read what `timeout=` accepts: a `Timeout`, a number of seconds for `total`, or None for no limit at all."""
        if isinstance(value, cls):
            return value
        return cls(None, None, None) if value is None else cls(total=value)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Retry:
    """When a failed call is tried again. Nothing is, once a piece of the answer has been delivered.

    Each host and each model has so many attempts of its own, where there are several and the next is asked.

    An attempt sends one request at most; one that reaches no host counts too. A reused connection that had ended
    before the server took the request is replaced within the attempt.

    The wait before attempt n + 1 is random between 0 and `backoff * 2 ** (n - 1)`, at most `max_backoff`
    ("full jitter"), unless the service says how long to wait. After 429 and 503 it is at least half of that bound,
    whatever the service says, so that one with too much to do is not asked again within milliseconds.

    Attributes:
        attempts: in all, the first included.
        backoff: seconds.
        max_backoff: seconds.
        max_retry_after: seconds; a service that asks for a longer wait is not asked again.
        on_timeout: whether a `connect` or `read` limit that ran out is followed by another attempt.
        failover: whether the next of several hosts is asked, too, when one still fails after its attempts: with a 5xx,
            a 429, or a connection that is lost or silent. One that can't be reached is always followed by the next.

    Raises:
        TypeError, ValueError: a number is out of range.
    """

    attempts: int = 3
    backoff: float = 0.5
    max_backoff: float = 8.0
    max_retry_after: float = 60.0
    on_timeout: bool = True
    failover: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.attempts, bool) or not isinstance(self.attempts, int):
            raise TypeError(f"Retry(attempts=…) takes an int, not {type(self.attempts).__name__}")
        if self.attempts < 1:
            raise ValueError(f"Retry(attempts={self.attempts}): the first attempt counts, so 1 is the least")
        for name in ("backoff", "max_backoff", "max_retry_after"):
            _check_number("Retry", name, getattr(self, name), zero=True)

    @classmethod
    def of(cls, value: RetryLike) -> Retry:
        """Read what `retry=` accepts: a `Retry`, an int for `attempts`, or None for a single attempt."""
        if isinstance(value, cls):
            return value
        return cls(attempts=1 if value is None else value)  # type: ignore[arg-type]

    def wait_before_next(
        self, error: ChatAnywhereError, attempts: int, time_left: float | None, *, at_once: bool = False
    ) -> float | None:
        """Return the seconds to wait before another attempt, or None if there is to be none.

        Args:
            error: how the last attempt failed.
            attempts: how many there have been, at this host for this model.
            time_left: seconds left for the whole call, None for no limit.
            at_once: the failure says nothing about the service, so there is no reason to wait.
        """
        if attempts >= self.attempts or not self._allows(error):
            self._explain(error)
            return None
        wait = 0.0 if at_once else self._wait_after(error, attempts)
        if time_left is not None and wait >= time_left:
            return None
        logger.info(
            "attempt %d failed (%s: %s), trying again in %.2f s",
            error.attempts,
            type(error).__name__,
            str(error).partition("\n")[0],
            wait,
        )
        # Its frames hold the stream, which would then be left to the garbage collector.
        error.__traceback__ = None
        return wait

    def fails_over(self, error: ChatAnywhereError) -> bool:
        """Whether another host is asked when one has failed so, and its attempts are used up."""
        if not self.failover or isinstance(error, QuotaExceededError):
            return False
        if isinstance(error, APITimeoutError):
            return self.on_timeout and error.phase != "total"
        return isinstance(error, (InternalServerError, RateLimitError, APIConnectionError, StreamInterruptedError))

    def _allows(self, error: ChatAnywhereError) -> bool:
        if isinstance(error, APITimeoutError):
            return self.on_timeout and error.phase != "total"
        if isinstance(error, APIStatusError):
            status = error.status_code
            transient = status in (408, 409, 425, 429) or status >= 500 or status < 300
            if any(name.lower() == "x-should-retry" and said == "false" for name, said in error.headers.items()):
                return False  # OpenAI's servers know
            return transient and not isinstance(error, _LASTING) and not self._is_too_long(error)
        if isinstance(error.__cause__, ssl.SSLCertVerificationError):
            return False  # it will not be another one
        return isinstance(error, (APIConnectionError, StreamInterruptedError))

    def _explain(self, error: ChatAnywhereError) -> None:
        if isinstance(error, APIStatusError) and self._is_too_long(error):
            note = (
                f"The service asks to wait {error.retry_after:g} s, more than max_retry_after={self.max_retry_after:g}."
            )
            error.hint = f"{error.hint} {note}" if error.hint else note

    def _is_too_long(self, error: APIStatusError) -> bool:
        return (error.retry_after or 0) > self.max_retry_after

    def _wait_after(self, error: ChatAnywhereError, attempts: int) -> float:
        import tenacity  # here, because it takes a third of the time that importing requests does

        state = tenacity.RetryCallState(tenacity.Retrying(), None, (), {})
        state.attempt_number = attempts
        most = tenacity.wait_exponential(multiplier=self.backoff, max=self.max_backoff)(state)
        least, asked = 0.0, 0.0
        if isinstance(error, APIStatusError):
            least = most / 2 if error.status_code in (429, 503) else 0.0
            asked = error.retry_after or 0.0  # "at once" leaves the wait to us
        return max(asked, least) if asked else tenacity.wait_random(least, most)(state)


_LASTING = (
    AuthenticationError,
    BadRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuotaExceededError,
    UnprocessableEntityError,
)
"""What does not pass by itself, whatever the status by which it is told: within a stream that is 200."""


def is_about_model(error: ChatAnywhereError) -> bool:
    """Whether another model may do better: this one is refused, over its quota or limit, or failing."""
    if isinstance(error, NotFoundError):
        words = f"{error.code} {error.message} {error.body}".lower()
        return any(name in words for name in ("model", "模型", "deployment"))
    if isinstance(error, BadRequestError):
        return error.status_code == 403 or error.status_code >= 500  # a prompt that is too long for this one, a picture
    return isinstance(error, (PermissionDeniedError, RateLimitError, InternalServerError))


TimeoutLike: TypeAlias = "Timeout | float | None"
"""A `Timeout`, or seconds for the whole call, or None for no limit."""

RetryLike: TypeAlias = "Retry | int | None"
"""A `Retry`, or a number of attempts in all, or None for one."""


class _Default:
    """Says that an argument was not given, where None means "off"."""

    def __repr__(self) -> str:
        return "<default>"

    def __reduce__(self) -> str:
        return "DEFAULT"  # there is one, in copies and other processes too


DEFAULT: Any = _Default()
