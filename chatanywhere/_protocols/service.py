"""What this service's errors mean: its envelopes, the words it is known by, and what to do. No I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from datetime import datetime

KEY_PAGE = "https://github.com/chatanywhere/GPT_API_free"
"""Where keys are given out."""

HOST = re.compile(r"(.*\.)?chatanywhere\.(tech|org|cn|com\.cn)")
"""The names of the service's hosts."""

MAX_DEPTH = 100
"""How deep the JSON of an error may be nested to be given out as more than its text."""

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}

# What the service says, in parts of its messages that have stayed the same: the class, a hint, the parts.
_KNOWN: Sequence[tuple[type[APIStatusError], str, Sequence[str]]] = (
    (
        AuthenticationError,
        "The call went to OpenAI, not to ChatAnywhere: the base URL is not applied. Set base_url= or "
        "CHATANYWHERE_BASE_URL to https://api.chatanywhere.tech (abroad: https://api.chatanywhere.org).",
        ("Incorrect API key provided",),
    ),
    (
        AuthenticationError,
        f"The key is not valid here. Check api_key= or CHATANYWHERE_API_KEY; keys are given out at {KEY_PAGE}.",
        ("wrong api key", "ApiKey错误"),
    ),
    (
        AuthenticationError,
        f"The key has been suspended. Ask the service why, or get another one at {KEY_PAGE}.",
        ("api key has been suspended",),
    ),
    (
        QuotaExceededError,
        "The free quota of the day is spent; it counts per key and per IP address, for some models also per model. "
        "It resets at 00:00 (probably UTC+8). Wait until then, or use a paid key.",
        ("免费API限制每日", "requests per day"),
    ),
    (
        PromptTooLongError,
        "A free key sends at most 4096 tokens in one call. Shorten the messages or leave out old turns, "
        "or use a paid key.",
        ("免费API限制模型输入token小于4096", "number of prompt tokens for free accounts is limited"),
    ),
    (
        ModelNotAllowedError,
        "A free key may not use this model, or this endpoint (/v1/completions is closed to it). "
        "Choose another model=, or use a paid key.",
        ("免费API限制使用", "free account is limited to use"),
    ),
    (
        InsufficientBalanceError,
        "The balance does not cover what the call may cost, which is reserved ahead from the prompt and max_tokens. "
        "Lower max_tokens=, or top up the account.",
        ("账户余额过低", "balance is not sufficient"),
    ),
    (
        PermissionDeniedError,
        "The service refuses your IP address. Try the other host as base_url=, or proxy=.",
        ("请求客户端IP不支持访问",),
    ),
    (
        InternalServerError,
        "The model behind the service answered nothing. It usually passes: try again.",
        ("模型无返回结果", "No response, please try again"),
    ),
)

_HINTS = {
    401: f"Check api_key= or CHATANYWHERE_API_KEY; keys are given out at {KEY_PAGE}.",
    404: "There is nothing at this path. Check base_url=: it is the host alone, with or without /v1.",
    429: "Too many requests for the moment. Wait a little, or raise Retry(attempts=…).",
}


MAX_ERROR_BYTES = 64 * 1024
"""Bytes that are read of an answer with an error status."""


class ErrorDecoder:
    """Reads the body of an answer with an error status; the error is raised when enough of it has come."""

    done = False

    def __init__(self, status: int, headers: Mapping[str, str]) -> None:
        self._status = status
        self._headers = headers
        self._content = bytearray()

    def feed(self, block: bytes, events: list[Any]) -> None:
        self._content += block
        if len(self._content) >= MAX_ERROR_BYTES:
            raise self.error()

    def finish(self, events: list[Any]) -> None:
        raise self.error()

    def error(self) -> APIStatusError:
        """Return what is known by now."""
        error = error_from(self._status, self._headers, bytes(self._content[:MAX_ERROR_BYTES]))
        error.request_id = self._headers.get("x-request-id")
        return error


def error_from(status: int, headers: Mapping[str, str], content: bytes) -> APIStatusError:
    """Read the answer with an error status.

    Args:
        status: of the answer, not 2xx.
        headers: with case-insensitive keys.
        content: as much of the body as was read.
    """
    text = content.decode("utf-8", "replace")
    body: object = text
    message: object
    code = None
    try:
        parsed = json.loads(text)
        shallow = _is_shallow(parsed)
        body = parsed if shallow else text
        error = parsed["error"]
    except (KeyError, RecursionError, TypeError, ValueError):
        page = media_type(headers.get("content-type", "")) == "text/html" or text.lstrip()[:1] == "<"
        message = page_summary(text) if page else " ".join(text.split())[:500]
    else:
        # An unknown path is answered with {"status", "error": "Not Found", "path"}, the rest with an object.
        fields = error if isinstance(error, dict) else {"message": error}
        message = fields.get("message")
        code = fields.get("code") if shallow else None
    hint = None
    if 300 <= status < 400:
        target = headers.get("location")
        message = f"the server redirects to {target!r}"
        hint = (
            "A request is not sent again elsewhere, because it carries the key. If the target is right, set base_url=."
        )
    return _status_error(status, message, code, body, headers, hint)


def _is_shallow(value: Any) -> bool:
    """Whether a body can be gone through without running out of stack."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for each in level
            if isinstance(each, (dict, list))
            for item in (each.values() if isinstance(each, dict) else each)
        ]
        if not level:
            return True
    return False


def error_in_stream(error: Any) -> APIStatusError:
    """Read an error that stands inside an answer whose status was 200."""
    fields = error if isinstance(error, dict) else {"message": error}
    body: object = {"error": error}
    if not _is_shallow(body):
        fields, body = {"message": fields.get("message")}, None
    code = fields.get("code")
    match = re.match("[1-5][0-9][0-9]", str(code))
    return _status_error(int(match[0]) if match else 200, fields.get("message"), code, body, {}, None)


def _status_error(
    status: int, message: Any, code: Any, body: object, headers: Mapping[str, str], hint: str | None
) -> APIStatusError:
    words = message if isinstance(message, str) else ""
    kind = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    hint = hint or _HINTS.get(status)
    for known, its_hint, parts in _KNOWN:
        if any(part in words for part in parts):
            # A known message decides the class only where it narrows what the status says, if that says anything.
            if kind is APIStatusError or issubclass(known, kind):
                kind = known
            hint = its_hint
            break
    error = kind(
        words or "the service gave no reason",
        status_code=status,
        code=None if code is None else str(code),
        body=body,
        headers=headers,
        hint=hint,
    )
    error.retry_after = _retry_after(headers)
    return error


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the answer asks to wait: `retry-after-ms`, or `Retry-After` in seconds or as a date.

    A date is counted from the one that the answer was sent on (`Date`), since the service's clock may differ from ours.
    """
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait = float(headers.get(name, "")) * seconds
        except ValueError:
            continue
        if math.isfinite(wait):
            return max(0.0, wait)
    then = _date(headers.get("retry-after", ""))
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


def media_type(content_type: str) -> str:
    """The type of a `Content-Type`, without its parameters."""
    return content_type.partition(";")[0].strip().lower()


def page_summary(page: str) -> str:
    """Say what page it is, for an error."""
    title = re.search("<title[^<>]*>([^<]*)", page, re.IGNORECASE)  # takes linear time, whatever the page
    name = f", titled {' '.join(title[1].split())[:200]!r}" if title else ""
    return f"the answer is an HTML page{name}"
