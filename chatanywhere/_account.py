"""What a service tells of itself and of the caller's account: models, balance, usage, how soon it answers.

The endpoints of the account are ChatAnywhere's own, and documented in part. So what they answer is read loosely: what
is missing, or of another kind, is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from time import monotonic
from typing import Any, TypeVar

from ._errors import APIStatusError, ChatAnywhereError, ProtocolError
from ._group import CallGroup
from ._policy import TimeoutLike
from ._protocols.decoder import Decoder
from ._protocols.fields import read_count, text_or_none
from ._protocols.protocol import Endpoint, JSONDecoder, bearer
from ._service import Service

T = TypeVar("T")

_MOST_ROWS = 100  # of a table that is shown


@dataclass(frozen=True, slots=True)
class Balance:
    """What an account holds, in the service's own unit (CA). What the service does not tell is None.

    Attributes:
        total: what was paid in; 0 for a free key.
        used: what was spent.
        remaining: the difference, which is negative for a free key that was used.
    """

    total: float | None
    used: float | None
    remaining: float | None

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from ._markdown import table

        return table(["Total", "Used", "Remaining"], [(self.total, self.used, self.remaining)])


@dataclass(frozen=True, slots=True)
class UsageRecord:
    """What was used in some period. What the service does not tell is None.

    Attributes:
        time: of the period, as the service writes it (`"2024-04-17 00:00:00"`); it does not say in which time zone.
        model: what was asked.
        prompt_tokens, completion_tokens, total_tokens: how many tokens there were.
        count: how many calls.
        cost: in the service's own unit (CA).
    """

    time: str | None
    model: str | None
    prompt_tokens: int | None
    completion_tokens: int | None
    total_tokens: int | None
    count: int | None
    cost: float | None


class UsageRecords(list[UsageRecord]):
    """A list that notebooks show as a table."""

    def _repr_markdown_(self) -> str:
        """What a notebook shows."""
        from ._markdown import table

        heads = ["Time", "Model", "Calls", "Prompt tokens", "Completion tokens", "Tokens", "Cost"]
        names = ["time", "model", "count", "prompt_tokens", "completion_tokens", "total_tokens", "cost"]
        rows = [[getattr(record, name) for name in names] for record in self[:_MOST_ROWS]]
        more = f"\n\n… and {len(self) - _MOST_ROWS} more" if len(self) > _MOST_ROWS else ""
        return table(heads, rows) + more


def raw_key(base_url: str, api_key: str | None) -> dict[str, str]:
    """The headers of a request to an account's endpoint, which wants the key without `Bearer`."""
    return bearer(base_url, api_key) | {"Authorization": api_key or ""}


def json_endpoint(method: str, path: str, parse: Callable[[Any], T], what: str, **settings: Any) -> Endpoint[T]:
    """Return an endpoint whose answer is one JSON value, of which `parse` makes what the caller gets.

    `what` says in errors what that is, and `settings` are further attributes of the endpoint.
    """

    return Endpoint(method, path, lambda head, max_json: JSONDecoder(parse, what, max_json, head), **settings)


def _model_ids(answer: Any) -> list[str]:
    ids = [model["id"] for model in answer["data"]]
    if not isinstance(answer["data"], list) or not all(isinstance(each, str) for each in ids):
        raise TypeError("not a list of objects with an id")
    return ids


class _BalanceDecoder(JSONDecoder[Balance]):
    """Quotes nothing of an answer that is no balance, for it may hold a key."""

    def finish(self, events: list[Balance]) -> Iterator[None]:
        try:
            yield from super().finish(events)
            return
        except ProtocolError as error:
            words, said = "the answer is not a balance", str(error)
        raise ProtocolError(words if said.startswith(words) else said)  # without its cause, which has the answer, too


def _balance(answer: Any) -> Balance:
    if not isinstance(answer, Mapping):
        raise TypeError("not an object")
    total, used = _number(answer.get("balanceTotal")), _number(answer.get("balanceUsed"))
    return Balance(total, used, None if total is None or used is None else total - used)


def _records(answer: Any) -> list[UsageRecord]:
    if not isinstance(answer, list):
        raise TypeError("not a list of records")
    return UsageRecords(map(_record, answer))


def _record(fields: Mapping[str, Any]) -> UsageRecord:
    return UsageRecord(
        time=text_or_none(fields.get("time")),
        model=text_or_none(fields.get("model")),
        prompt_tokens=read_count(fields.get("promptTokens")),
        completion_tokens=read_count(fields.get("completionTokens")),
        total_tokens=read_count(fields.get("totalTokens")),
        count=read_count(fields.get("count")),
        cost=_number(fields.get("cost")),
    )


def _number(value: Any) -> float | None:
    """Read a number, which may be written as a str."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


_OWN: dict[str, Any] = {
    "headers": raw_key,
    "absent": "This endpoint is ChatAnywhere's own, and the host that was asked does not have it. Set base_url= to "
    "https://api.chatanywhere.tech (abroad: https://api.chatanywhere.org) to ask for a balance or for what was used.",
}

MODELS = json_endpoint("GET", "/models", _model_ids, "a list of models", operation="models")
"""Lists the models."""

BALANCE: Endpoint[Balance] = Endpoint(
    "POST",
    "/query/balance",
    lambda head, max_json: _BalanceDecoder(_balance, "a balance", max_json, head),
    operation="balance",
    **_OWN,
)
"""Tells what the account of the key holds."""

USAGE = json_endpoint("POST", "/query/usage_details", _records, "a list of what was used", operation="usage", **_OWN)
"""Tells what the key has used of late."""

USAGE_BY_DAY = json_endpoint(
    "POST", "/query/day_usage_details", _records, "a list of what was used", operation="usage_by_day", **_OWN
)
"""Tells what the key has used day by day."""


def usage_body(model: str, **period: int) -> dict[str, Any]:
    """The body of a question for what was used.

    Args:
        model: a name, in which `%` stands for any characters.
        period: its length, by the name that it has: `hours` or `days`.

    Raises:
        TypeError, ValueError: an argument can't be sent.
    """
    if not isinstance(model, str):
        raise TypeError(f"model must be a str, in which '%' stands for any characters, not {type(model).__name__}")
    for name, value in period.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an int, not {type(value).__name__}")
        if value < 1:
            raise ValueError(f"{name}={value}: at least 1")
    return {**period, "model": model}


# How soon a host answers --------------------------------------------------------------------------------------


class _BeginningDecoder(Decoder["float | None"]):
    """Yields the time at which the head of an answer has come, and leaves the rest."""

    def __init__(self) -> None:
        self._done = False
        self._time = monotonic()

    @property
    def done(self) -> bool:
        return self._done

    def feed(self, block: bytes, events: list[float | None]) -> None:
        events.append(self._time)
        self._done = True

    def finish(self, events: list[float | None]) -> None:
        events.append(self._time)


_HEAD: Endpoint[float | None] = Endpoint("GET", "/models", lambda _, __: _BeginningDecoder(), operation="ping")
"""Tells when the answer has begun."""


def _answered_at(error: ChatAnywhereError) -> float | None:
    """The same for an answer with an error status; None if the host has not answered."""
    is_answer = isinstance(error, APIStatusError) and error.status_code != 407  # which is a proxy's
    return monotonic() if is_answer else None


class Ping:
    """Asks all hosts of a service at the same time, once each.

    Attributes:
        calls: to be made.
    """

    def __init__(self, service: Service, *, timeout: TimeoutLike, headers: Mapping[str, str] | None) -> None:
        self._hosts = service.settings.hosts
        self._began = monotonic()
        self.calls = CallGroup(
            [
                partial(service.at(host).ask, _HEAD, timeout=timeout, retry=None, headers=headers)
                for host in self._hosts
            ],
            service.settings.limits(timeout),
            most=len(self._hosts),
            settle=_answered_at,
        )

    def seconds(self, times: Sequence[float | None]) -> dict[str, float | None]:
        """Return how soon the hosts have answered, by their URLs, whose queries may hold a key.

        Args:
            times: what the calls have told.
        """
        spans = [None if time is None else time - self._began for time in times]
        return dict(zip((host.partition("?")[0] for host in self._hosts), spans, strict=True))
