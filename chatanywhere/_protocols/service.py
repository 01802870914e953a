"""What errors mean: the words and codes that services are known by, the class, and what to do. No I/O."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

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
from .envelope import Envelope, is_error, read_error, shortened, unescaped
from .json_text import MAX_DEPTH

if TYPE_CHECKING:
    from datetime import datetime

KEY_PAGE = "https://github.com/chatanywhere/GPT_API_free"
"""Where keys are given out."""

HOST = re.compile(r"(.*\.)?chatanywhere\.(tech|org|cn|com\.cn)")
"""The names of the service's hosts."""

_BY_STATUS: dict[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: ConflictError,
    422: UnprocessableEntityError,
    429: RateLimitError,
}


class _Known(NamedTuple):
    """An error that is recognised.

    Attributes:
        hint: cause and remedy; `{here}` is the host, and `{keys}` where keys are given out, if that is known.
        phrases: parts of messages that have stayed the same.
        codes: the whole `code` or `type`.
        elsewhere: the hint for hosts that are not ChatAnywhere's, if it is another one.
    """

    kind: type[APIStatusError]
    hint: str
    phrases: Sequence[str] = ()
    codes: Sequence[str] = ()
    elsewhere: str | None = None


_WRONG_KEY = "The key is not valid {here}. Check api_key= or CHATANYWHERE_API_KEY{keys}."

_KNOWN = (
    # OpenAI's codes, which others have taken over, and llama.cpp's.
    _Known(
        QuotaExceededError,
        "The quota of the key or of its account is spent {here}. Top the account up, or use another key.",
        codes=("insufficient_quota",),
    ),
    _Known(
        PromptTooLongError,
        "The prompt, with max_tokens, is longer than the model takes. Shorten the messages or leave out old turns, "
        "lower max_tokens=, or choose a model= that takes more.",
        ("maximum context length is", "ContextWindowExceededError"),
        ("context_length_exceeded", "exceed_context_size_error"),
    ),
    _Known(NotFoundError, "There is no such model {here}. Choose another model=.", codes=("model_not_found",)),
    # ChatAnywhere's messages.
    _Known(
        AuthenticationError,
        "The call went to OpenAI, not to ChatAnywhere: the base URL is not applied. Set base_url= or "
        "CHATANYWHERE_BASE_URL to https://api.chatanywhere.tech (abroad: https://api.chatanywhere.org).",
        ("Incorrect API key provided",),
        elsewhere=_WRONG_KEY,
    ),
    _Known(AuthenticationError, _WRONG_KEY, ("wrong api key", "ApiKey错误")),
    _Known(
        AuthenticationError,
        "The key has been suspended {here}. Ask the service why, or set another one as api_key= or "
        "CHATANYWHERE_API_KEY{keys}.",
        ("api key has been suspended",),
    ),
    _Known(
        QuotaExceededError,
        "The free quota of the day is spent; it counts per key and per IP address, for some models also per model. "
        "It resets at 00:00 (probably UTC+8). Wait until then, or use a paid key.",
        ("免费API限制每日", "requests per day"),
    ),
    _Known(
        PromptTooLongError,
        "A free key sends at most 4096 tokens in one call. Shorten the messages or leave out old turns, "
        "or use a paid key.",
        ("免费API限制模型输入token小于4096", "number of prompt tokens for free accounts is limited"),
    ),
    _Known(
        ModelNotAllowedError,
        "A free key may not use this model, or this endpoint (/v1/completions is closed to it). "
        "Choose another model=, or use a paid key.",
        ("免费API限制使用", "free account is limited to use"),
    ),
    _Known(
        InsufficientBalanceError,
        "The balance does not cover what the call may cost, which is reserved ahead from the prompt and max_tokens. "
        "Lower max_tokens=, or top up the account.",
        ("账户余额过低", "balance is not sufficient"),
    ),
    _Known(
        PermissionDeniedError,
        "The service refuses your IP address. Try the other host as base_url=, or proxy=.",
        ("请求客户端IP不支持访问",),
    ),
    _Known(
        InternalServerError,
        "The model behind the service answered nothing. It usually passes: try again.",
        ("模型无返回结果", "No response, please try again"),
    ),
)

_HINTS = {
    401: _WRONG_KEY,
    404: "There is nothing at this path. Check base_url=: it is the host alone, with or without /v1.",
    429: "Too many requests for the moment. Wait a little, or raise Retry(attempts=…).",
}

NO_REASON = "the service gave no reason"

MAX_ERROR_BYTES = 64 * 1024
"""Bytes that are read of an answer with an error status."""


class ErrorDecoder:
    """Reads the body of an answer with an error status; the error is raised when enough of it has come.

    Args:
        base_url: what was asked, for the hint.
    """

    done = False
    ended = 0

    def __init__(self, status: int, headers: Mapping[str, str], base_url: str | None = None) -> None:
        self.chunks: list[str] = []
        self._status = status
        self._headers = headers
        self._base_url = base_url
        self._content = bytearray()

    def feed(self, block: bytes, events: list[Any]) -> None:
        self._content += block
        if len(self._content) >= MAX_ERROR_BYTES:
            raise self.error()

    def finish(self, events: list[Any]) -> None:
        raise self.error()

    def error(self) -> APIStatusError:
        """Return what is known by now."""
        error = error_from(self._status, self._headers, bytes(self._content[:MAX_ERROR_BYTES]), self._base_url)
        error.request_id = self._headers.get("x-request-id")
        return error


def error_from(status: int, headers: Mapping[str, str], content: bytes, base_url: str | None = None) -> APIStatusError:
    """Read the answer with an error status.

    Args:
        status: of the answer, not 2xx.
        headers: with case-insensitive keys.
        content: as much of the body as was read.
        base_url: what was asked, for the hint; None if it is not known.
    """
    text = content.decode("utf-8", "replace")
    body: object = text
    try:
        parsed = _parse(text)
    except (RecursionError, ValueError):
        page = media_type(headers.get("content-type", "")) == "text/html" or text.lstrip()[:1] == "<"
        envelope = Envelope(page_summary(text) if page else unescaped(shortened(text)))
    else:
        envelope = read_error(parsed)
        if _is_shallow(parsed):
            body = parsed
        else:
            envelope = Envelope(envelope.message or shortened(text))
    hint = None
    if 300 <= status < 400:
        envelope = Envelope(f"the server redirects to {headers.get('location')!r}")
        hint = (
            "A request is not sent again elsewhere, because it carries the key. If the target is right, set base_url=."
        )
    return _status_error(status, envelope, body, headers, hint, base_url)


def _parse(text: str) -> Any:
    """Read JSON, bare or as the data of one server-sent event.

    Raises:
        ValueError, RecursionError: it is none.
    """
    text = text.lstrip("\ufeff")
    try:
        return json.loads(text)
    except ValueError:
        data = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")]
        return json.loads(data[0] if data else text)


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


def error_within(answer: Any, status: int = 200) -> APIStatusError | None:
    """Return the error that JSON inside an answer with a good status is; None if it is none.

    Args:
        answer: a chunk or a whole body, parsed.
        status: of the answer; the error has it unless it names one itself.
    """
    if not is_error(answer):
        return None
    return _error_in(answer, status)


def error_in_stream(error: Any) -> APIStatusError:
    """Read what stands under `error` inside an answer whose status was 200."""
    return _error_in({"error": error}, 200)


def _error_in(answer: Any, status: int) -> APIStatusError:
    envelope = read_error(answer)
    body = answer if _is_shallow(answer) else None
    return _status_error(envelope.status or status, envelope, body, {})


def _status_error(
    status: int,
    envelope: Envelope,
    body: object,
    headers: Mapping[str, str],
    hint: str | None = None,
    base_url: str | None = None,
) -> APIStatusError:
    message, code, its_type, _ = envelope
    kind = _BY_STATUS.get(status, InternalServerError if status >= 500 else APIStatusError)
    hint = hint or _HINTS.get(status)
    host = _other_host(base_url)
    for known in _KNOWN:
        exact = code in known.codes or its_type in known.codes
        if exact or any(phrase in message for phrase in known.phrases):
            # Words decide the class only where they narrow what the status says, if that says anything.
            if exact or kind is APIStatusError or issubclass(known.kind, kind):
                kind = known.kind
            hint = known.elsewhere if host and known.elsewhere else known.hint
            break
    error = kind(
        message or NO_REASON,
        status_code=status,
        code=code,
        body=body,
        headers=headers,
        hint=hint
        and hint.format(
            here=f"at {host}" if host else "here",
            keys=f"; keys are given out at {KEY_PAGE}" if base_url and not host else "",
        ),
    )
    error.retry_after = _retry_after(headers)
    return error


def _other_host(base_url: str | None) -> str | None:
    """The host of a URL, None if it is one of ChatAnywhere's or not known."""
    host = urlsplit(base_url).hostname if base_url else None
    return None if host is None or HOST.fullmatch(host) else host


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
    """Say what page it is, for an error: its title, and the beginning of its words."""
    title, words = _read_page(page)
    name = f", titled {title!r}" if title else ""
    said = f": {words}" if words and words != title else ""
    return f"the answer is an HTML page{name}{said}"


def _read_page(page: str) -> tuple[str, str]:
    """The title and the words of a page, shortened. Takes linear time, whatever the page."""
    title, words = "", []
    inside = ""  # an element whose text is not the page's
    _, *tags = page[:MAX_ERROR_BYTES].split("<")
    for part in tags:
        tag, _, text = part.partition(">")
        name = tag[:8].lower().lstrip("/").partition(" ")[0]
        if tag.startswith("/"):
            inside = "" if name == inside else inside
        elif name in ("title", "script", "style") and not inside:
            inside = name
        if inside == "title":
            title = title or text
        elif not inside and not tag.startswith("!--"):
            words.append(text)
    return _plain(title), _plain(" ".join(words))


def _plain(text: str) -> str:
    import html  # here and not above, for importing the client is to be cheap

    return " ".join(html.unescape(text).split())[:200]
