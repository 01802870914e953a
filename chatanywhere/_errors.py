"""Everything that the world can do to a call. Knows nothing of HTTP libraries or of either protocol.

::

    ChatAnywhereError
    ├── APIConnectionError              DNS, refused, reset before the answer began, TLS, proxy
    │   └── APITimeoutError             also a TimeoutError
    ├── APIStatusError                  the service answered with an error
    │   ├── BadRequestError             400
    │   ├── AuthenticationError         401
    │   ├── PermissionDeniedError       403
    │   │   ├── ModelNotAllowedError
    │   │   ├── PromptTooLongError      also a BadRequestError
    │   │   └── InsufficientBalanceError
    │   ├── NotFoundError               404
    │   ├── ConflictError               409
    │   ├── UnprocessableEntityError    422
    │   ├── RateLimitError              429
    │   │   └── QuotaExceededError      never retried
    │   └── InternalServerError         5xx
    ├── ProtocolError                   the answer is not what the protocol allows
    ├── OutputError                     the answer is no instance of the type that was asked for
    ├── StreamInterruptedError          the answer was cut after it had begun
    └── StreamCancelledError            cancel() was called

Wrong use of the library is a `ValueError`, `TypeError` or `RuntimeError` and not in this tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from datetime import datetime

    from ._types import Completion

Phase = Literal["connect", "headers", "read", "total"]


class ChatAnywhereError(Exception):
    """Base of every error that a call can end with. Pickles and copies; never holds the API key.

    Attributes:
        partial: the text that had been received before the failure, `""` if none had.
        request_id: the server's name for the request, if it gave one.
        attempts: how many attempts were made, those that reached no host included; 0 when there was no key to send.
        left: prompts without a result, where the error has ended a run of `map()`; else None.
        resume_at: when it is worth while to begin that run again, if that is known.
    """

    __module__ = __package__  # where programs import it from, and what a traceback names
    partial: str = ""
    request_id: str | None = None
    attempts: int = 0
    left: int | None = None
    resume_at: datetime | None = None

    def __init_subclass__(cls) -> None:
        if cls.__module__ == __name__:
            cls.__module__ = __package__

    def __init__(self, message: str) -> None:
        super().__init__(message)

    def _repr_markdown_(self) -> str:
        """What a notebook shows where the error is a value, such as one of several results."""
        from ._markdown import escape, sanitize

        said = [escape(line) for line in str(self).splitlines()]
        so_far = ["So far:", sanitize(self.partial)] if self.partial else []
        return "\n\n".join([f"**{type(self).__name__}**", *said, *so_far])

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions pickle as class(*args) plus their attributes. Subclasses take more arguments than `args`
        # holds, and OSError (a base of APITimeoutError) has rules of its own, so __init__ is left out.
        return _rebuild, (type(self), self.args, self.__dict__)

    def __copy__(self) -> ChatAnywhereError:
        # Without its traceback, which holds what was at work. Dask's tblib has copies of all exceptions keep theirs.
        return _rebuild(type(self), self.args, self.__dict__)


def _rebuild(kind: type[ChatAnywhereError], args: tuple[Any, ...], state: dict[str, Any]) -> ChatAnywhereError:
    error = kind.__new__(kind, *args)
    ChatAnywhereError.__init__(error, *args)
    error.__dict__.update(state)
    return error


class APIConnectionError(ChatAnywhereError):
    """The service could not be reached, or the connection was lost before the answer began, or a time limit ran out."""


class APITimeoutError(APIConnectionError, TimeoutError):
    """A limit of `Timeout` ran out.

    Attributes:
        phase: the limit: `"total"` for the whole call, `"connect"` for name resolution, connecting, TLS and
            the proxy, `"headers"` for a server silent before its answer, `"read"` for one silent within it.
    """

    phase: Phase

    def __init__(self, message: str, phase: Phase) -> None:
        super().__init__(message)
        self.phase = phase


class APIStatusError(ChatAnywhereError):
    """The service answered with an error, as a status or inside a stream that had begun.

    Attributes:
        status_code: the HTTP status; for an error inside an answer, the one that the error names, if it does.
        code: the service's own code, such as `"403 FORBIDDEN"`.
        message: the service's own words; control characters are escaped.
        body: what was answered: parsed JSON, or text, at most 64 KiB of it.
        headers: the answer's headers.
        hint: cause and remedy in a sentence or two, where they are known.
        retry_after: seconds that the service asks to wait before another try, if it says so.
    """

    retry_after: float | None = None

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        code: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status_code = status_code
        self.code = code
        self.body = body
        self.headers: dict[str, str] = dict(headers or {})
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.status_code}: {self.message}" if self.attempts else self.message
        return f"{text}\n{self.hint}" if self.hint else text


class BadRequestError(APIStatusError):
    """400: the service does not accept the request as it is."""


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong. Raised with `attempts == 0` when there was no key to send."""


class PermissionDeniedError(APIStatusError):
    """403: the key may not do this."""


class ModelNotAllowedError(PermissionDeniedError):
    """The model is not open to a free key."""


class PromptTooLongError(BadRequestError, PermissionDeniedError):
    """The prompt has more tokens than the model takes, or than a free key may send."""


class InsufficientBalanceError(PermissionDeniedError):
    """The balance does not cover what the call may cost. Of some services the status is 402."""


class NotFoundError(APIStatusError):
    """404: there is no such path, or no such model; for the latter some services have status 400."""


class ConflictError(APIStatusError):
    """409: the service asks to try again."""


class UnprocessableEntityError(APIStatusError):
    """422: well-formed, but not acceptable."""


class RateLimitError(APIStatusError):
    """429: too many requests; `retry_after` says how long to wait, if the service does."""


class QuotaExceededError(RateLimitError):
    """The quota, of the day or of the account, is spent; waiting a little does not help, so it is never retried."""


class InternalServerError(APIStatusError):
    """5xx: the service, or the model behind it, failed."""


class ProtocolError(ChatAnywhereError):
    """The answer is not what the protocol allows: framing, encoding, JSON, UTF-8, or its size."""


class OutputError(ChatAnywhereError):
    """The answer is no instance of the type that was asked for; `partial` holds its text.

    Attributes:
        reason: `"invalid"` for one that does not fit, `"length"` for one that was cut at the largest number of tokens,
            `"refusal"` for one that the model refuses to give, `"content_filter"` for one that was held back.
        completion: the answer.
    """

    reason: Literal["invalid", "length", "refusal", "content_filter"]
    completion: Completion

    def __init__(
        self,
        message: str,
        reason: Literal["invalid", "length", "refusal", "content_filter"],
        completion: Completion,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.completion = completion
        self.partial = completion.text


class StreamInterruptedError(ChatAnywhereError):
    """The answer was cut after it had begun; `partial` holds the text up to there."""


class StreamCancelledError(ChatAnywhereError):
    """`cancel()` was called; `partial` holds the text up to there."""
