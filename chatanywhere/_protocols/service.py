"""What errors mean: the words and codes that services are known by, the class, and what to do. No I/O."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, NamedTuple

from .._errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConflictError,
    InsufficientBalanceError,
    InternalServerError,
    ModelNotAllowedError,
    NotFoundError,
    PermissionDeniedError,
    PromptTooLongError,
    QuotaExceededError,
    RateLimitError,
    UnprocessableEntityError,
)
from .decoder import Decoder
from .envelope import Envelope, is_error, read_error
from .excerpt import printable, shortened
from .head import UNKNOWN, AnswerHead
from .json_text import BareJSON, loads
from .page import is_page, page_summary
from .sse import EventStreamDecoder, StrayLine

if TYPE_CHECKING:
    from datetime import datetime

KEY_PAGE = "https://github.com/chatanywhere/GPT_API_free"
"""Where keys are given out."""

HOST = re.compile(r"(.*\.)?chatanywhere\.(tech|org|cn|com\.cn)")
"""The names of the service's hosts."""

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    402: InsufficientBalanceError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


class _Known(NamedTuple):
    """An error that is recognised.

    Attributes:
        hint: cause and remedy, as they are true of any service; `{here}` is who was asked.
        codes: whole names, in lower case; in a message they mean the same, where they stand alone.
        phrases: patterns of parts of messages that have stayed the same.
        ours: the hint where ChatAnywhere itself was asked, if more is known then.
    """

    kind: type[APIStatusError]
    hint: str
    codes: Sequence[str] = ()
    phrases: Sequence[str] = ()
    ours: str = ""


_WRONG_KEY = "The key is not valid {here}. Check api_key= or CHATANYWHERE_API_KEY, and base_url=."
_NOT_FOUND = "There is no such path or model {here}. Check model= and base_url=."
_NO_BALANCE = "The balance does not cover what the call may cost. Lower max_tokens=, or top up the account."
_SHORTEN = "Shorten the messages or leave out old turns"

_KNOWN = (
    # Codes and words of OpenAI, and of many others.
    _Known(
        QuotaExceededError,
        "The quota of the key or of its account is spent {here}. Top the account up, or use another key.",
        (
            "insufficient_quota",
            "exceeded_current_quota_error",
            "insufficient_user_quota",
            "billing_hard_limit_reached",
            "billing_not_active",
            "budget_exceeded",
        ),
        # LiteLLM leaves OpenAI's code out. The same words with another address, Gemini's, are of a limit that passes.
        phrases=(r"OpenAIException - You exceeded your current quota.{,200}platform\.openai\.com", "账户已欠费"),
    ),
    _Known(
        PromptTooLongError,
        f"The prompt, with max_tokens, is longer than the model takes. {_SHORTEN}, "
        "lower max_tokens=, or choose a model= that takes more.",
        (
            "context_length_exceeded",
            "exceed_context_size_error",
            "contextwindowexceedederror",
            "tokens_limit_reached",
            "is too large to process. increase the physical batch size",
        ),
        (
            "maximum context length",
            "prompt is too long",
            "exceed context limit",
            "exceeds the maximum number of tokens",
            r"`inputs` tokens \+ `max_new_tokens` must be",
            "`inputs` must have less than",
            "please reduce your message size",
        ),
    ),
    _Known(
        NotFoundError,
        _NOT_FOUND,
        (
            "model_not_found",
            "deploymentnotfound",
            "invalid_model",
            "unknown_model",
            "unavailable_model",
            "model_not_available",
            "model_decommissioned",
        ),
        (
            "Invalid model name passed in model=",
            "Model (does )?not exist",
            r"is not a valid model ID(?! *\w)",
            "^invalid model ID",
            "Exception - Invalid model '",
            "^Model not found: ",
            "模型不存在",
        ),
    ),
    _Known(
        BadRequestError,
        "The model takes no such input {here}. Leave it out, or choose a model= that takes it.",
        ("image input is not supported", "audio input is not supported", "is not a multimodal model"),
    ),
    _Known(
        AuthenticationError,
        "A LiteLLM proxy without a database takes its master key alone {here}. Check api_key= or CHATANYWHERE_API_KEY.",
        ("no_db_connection",),
    ),
    # ChatAnywhere's messages, which relays pass on.
    _Known(
        AuthenticationError,
        _WRONG_KEY,
        phrases=("Incorrect API key provided", "wrong api key", "ApiKey错误"),
        ours=f"{_WRONG_KEY} Keys are given out at {KEY_PAGE}.",
    ),
    _Known(
        AuthenticationError,
        "The key has been suspended {here}. Ask the service why, or set another one as api_key= or "
        "CHATANYWHERE_API_KEY.",
        phrases=("api key has been suspended",),
    ),
    _Known(
        QuotaExceededError,
        "The requests of the day are spent {here}. Wait until the next one, or use another key.",
        phrases=("免费API限制每日", "limited to [0-9]+ requests per day", "free-models-per-day"),
        ours="The free quota of the day is spent; it counts per key and per IP address, for some models also per "
        "model. It resets at 00:00 (probably UTC+8). Wait until then, or use a paid key.",
    ),
    _Known(
        PromptTooLongError,
        f"The key may not send so many tokens in one call. {_SHORTEN}, or use another key.",
        phrases=("免费API限制模型输入token小于4096", "number of prompt tokens for free accounts is limited"),
        ours=f"A free key sends at most 4096 tokens in one call. {_SHORTEN}, or use a paid key.",
    ),
    _Known(
        ModelNotAllowedError,
        "The key may not use this model, or this endpoint, {here}. Choose another model=, or use another key.",
        [f"{who}_model_access_denied" for who in ("key", "team", "user", "customer", "org", "project", "agent")],
        phrases=("免费API限制使用", "free account is limited to use"),
        ours="A free key may not use this model, or this endpoint (/v1/completions is closed to it). "
        "Choose another model=, or use a paid key.",
    ),
    _Known(
        InsufficientBalanceError,
        _NO_BALANCE,
        phrases=("账户余额过低", "balance is (not sufficient|insufficient|too low)", "^Insufficient Balance"),
        ours="The balance does not cover what the call may cost, which is reserved ahead from the prompt and "
        "max_tokens. Lower max_tokens=, or top up the account.",
    ),
    _Known(
        PermissionDeniedError,
        "The service refuses your IP address. Try another host as base_url=, or proxy=.",
        phrases=("请求客户端IP不支持访问",),
    ),
    _Known(
        InternalServerError,
        "The model behind the service answered nothing. It usually passes: try again.",
        phrases=("模型无返回结果", "No response, please try again"),
    ),
)

_BY_STATUS_ALONE = {
    401: _Known(AuthenticationError, _WRONG_KEY, ours=f"{_WRONG_KEY} Keys are given out at {KEY_PAGE}."),
    402: _Known(InsufficientBalanceError, _NO_BALANCE),
    404: _Known(NotFoundError, _NOT_FOUND),
    429: _Known(RateLimitError, "Too many requests for the moment. Wait a little, or raise Retry(attempts=…)."),
}

_NO_KEY = "A key is wanted {here}, and protocol='web' sends none. Use protocol='openai'."
_REDIRECT = "A request is not sent again elsewhere, because it carries the key. If the target is right, set base_url=."

NO_REASON = "the service gave no reason"

MAX_ERROR_BYTES = 64 * 1024
"""Bytes that are read of an answer with an error status."""

_MAX_BODY = 50_000  # values of what an error was read of; what comes with an error status is too short for more

_WAITS = (("retry-after-ms", 0.001), ("retry-after", 1.0))
"""Headers that say how long to wait, and their unit in seconds."""

_DESCRIBED = re.compile(r'error_description="((?:[^"\\]|\\.){1,500})"')


class ErrorDecoder(Decoder[Any]):
    """Reads the body of an answer with an error status; the error is raised when enough of it has come.

    Args:
        head: what is known of the answer.
        absent: the hint where the status says that there is no such endpoint (404, 405).
    """

    def __init__(self, head: AnswerHead, absent: str | None = None) -> None:
        self._head = head
        self._absent = absent if head.status in (404, 405) else None
        self._content = bytearray()

    def feed(self, block: bytes, events: list[Any]) -> None:
        self._content += block
        if len(self._content) >= MAX_ERROR_BYTES:
            raise self.error()

    def finish(self, events: list[Any]) -> None:
        raise self.error()

    def error(self) -> APIStatusError:
        """Return what is known by now."""
        error = error_from(self._head, bytes(self._content[:MAX_ERROR_BYTES]))
        if self._absent is not None:
            error = NotFoundError(
                error.message,
                status_code=error.status_code,
                code=error.code,
                body=error.body,
                headers=error.headers,
                hint=self._absent,
            )
            error.request_id = self._head.request_id
        return error


def error_from(head: AnswerHead, content: bytes) -> APIStatusError:
    """Read an answer with an error status, or one that redirects.

    Args:
        head: its status is not 2xx.
        content: as much of the body as was read.
    """
    envelope, body = _read_body(head.decode(content))
    location = head.headers.get("location")
    if 300 <= head.status < 400 and location:
        target = f"the server redirects to {location!r}"
        envelope = Envelope(f"{target}: {envelope.message}" if envelope.message else target)
        return _status_error(head, head.status, envelope, body, _REDIRECT)
    return _status_error(head, head.status, envelope, body)


def error_within(answer: Any, head: AnswerHead = UNKNOWN) -> APIStatusError | None:
    """Return the error that JSON inside an answer with a good status is; None if it is none.

    Args:
        answer: a chunk or a whole body, parsed.
        head: its status is the error's, unless that names one itself.
    """
    return error_in(answer, head) if is_error(answer) else None


def error_in(answer: Any, head: AnswerHead = UNKNOWN) -> APIStatusError:
    """Read JSON, or text, that was sent as an error inside an answer with a good status."""
    envelope = read_error(answer)
    return _status_error(head, envelope.status or head.status, envelope, answer if _is_small(answer) else None)


def _is_small(value: Any) -> bool:
    """Whether going through a value, to take secrets out of it or to copy it, takes no long time."""
    count = 0
    pending = [value]
    while pending and count < _MAX_BODY:
        each = pending.pop()
        inner = each.values() if isinstance(each, dict) else each if isinstance(each, list) else ()
        count += 1 + len(inner)
        pending += inner
    return count < _MAX_BODY


def _read_body(text: str) -> tuple[Envelope, object]:
    """What the body of an error says, and what it is."""
    if is_page(text):
        return Envelope(page_summary(text)), text
    try:
        value = _parse(text)
    except JSONDecodeError:
        return Envelope(shortened(text)), text
    return read_error(value), value


def _parse(text: str) -> Any:
    """Read JSON, bare or among server-sent events or lines: the first that is an error.

    Raises:
        ValueError: there is none.
    """
    try:
        return loads(text)
    except JSONDecodeError:
        values: list[Any] = []
        found: list[str] = []
        events, bare = EventStreamDecoder(), BareJSON()
        events.feed(text, found)
        for data in found + events.rest():
            value = bare.add(data) if isinstance(data, StrayLine) else _value(data)
            if value and (isinstance(value, str) or is_error(value) or getattr(data, "event", "") == "error"):
                return value
            values += [] if value is None else [value]
        if not values:
            raise
        return values[-1]


def _value(data: str) -> Any:
    """The JSON, or else the words, that are the data of an event; None if there is nothing in it."""
    try:
        return loads(data)
    except JSONDecodeError:
        return None if data.strip() in ("", "[DONE]") else data


def _status_error(
    head: AnswerHead, status: int, envelope: Envelope, body: object, hint: str | None = None
) -> APIStatusError:
    message = envelope.message or _said_by(head) or NO_REASON
    kind = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    known = _BY_STATUS_ALONE.get(status)
    for each in _KNOWN:
        exact = any(
            code in envelope.names or re.search(rf"(?<!\w){re.escape(code)}(?!\w)", message, re.IGNORECASE)
            for code in each.codes
        )
        if exact or any(re.search(phrase, message, re.IGNORECASE) for phrase in each.phrases):
            known = each
            # Words decide the class only where they narrow what the status says, if that says anything. For a model
            # that there is not, some have status 400.
            unknown = (kind, known.kind) == (BadRequestError, NotFoundError)
            if exact or unknown or kind is APIStatusError or issubclass(known.kind, kind):
                kind = known.kind
            break
    host = head.host
    if known and not hint:
        hint = (host and HOST.fullmatch(host) and known.ours) or known.hint
        hint = _NO_KEY if known.kind is AuthenticationError and not head.sends_key else hint
    error = kind(
        message,
        status_code=status,
        code=envelope.code,
        body=body,
        headers=head.headers,
        hint=hint and hint.format(here=f"at {host}" if host else "here"),
    )
    error.request_id = head.request_id
    error.retry_after = _retry_after(head.headers)
    return error


def _said_by(head: AnswerHead) -> str:
    """What the head says of an error: what RFC 6750, section 3, has, or words of the server's own behind the status."""
    described = _DESCRIBED.search(head.headers.get("www-authenticate", ""))
    if described:
        return printable(re.sub(r"\\(.)", r"\1", described[1]))
    from http import HTTPStatus

    try:
        standard = HTTPStatus(head.status).phrase
    except ValueError as exc:
        if type(exc) is not ValueError:  # a signal handler's
            raise
        standard = ""
    return "" if head.reason.lower() == standard.lower() else printable(head.reason.strip())


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the answer asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date.

    A date is counted from the one that the answer was sent on (`Date`), since the service's clock may differ from ours.
    LiteLLM passes on what the service behind it asks under names of its own.
    """
    for name, seconds in (*_WAITS, *((f"llm_provider-{name}", seconds) for name, seconds in _WAITS)):
        try:
            wait = float(headers.get(name, "")) * seconds
        except ValueError as exc:
            if type(exc) is not ValueError:  # a signal handler's
                raise
            continue
        if math.isfinite(wait):
            return max(0.0, wait)
    then = _date(headers.get("retry-after") or headers.get("llm_provider-retry-after", ""))
    if then is None:
        return None
    from datetime import datetime, timezone

    now = _date(headers.get("date", "")) or datetime.now(timezone.utc)
    return max(0.0, (then - now).total_seconds())


def _date(text: str) -> datetime | None:
    """The moment that an HTTP date names (RFC 9110, section 5.6.7), None if it names none."""
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(text)
    # The first releases of Python 3.10 raise an IndexError if the year is a lone comma or a part between dashes is
    # missing (gh-95087), and an UnboundLocalError if the time has more than two dots (gh-89402).
    except (IndexError, OverflowError, UnboundLocalError, ValueError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)
