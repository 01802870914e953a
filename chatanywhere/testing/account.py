"""The service's account: what the chats and embeddings of this server have cost, by key and hour."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from .request import RequestError

_TOTAL = 100.0  # CA, with which each key begins
_PROMPT_PRICE = 0.00105  # CA for 1,000 tokens
_COMPLETION_PRICE = 0.0042

_ZONE = timezone(timedelta(hours=8))  # the service's
_LONGEST = 10_000  # hours or days


class _Charge(NamedTuple):
    """What was used at one time."""

    key: str
    model: str
    time: datetime
    prompt_tokens: int
    completion_tokens: int

    @property
    def cost(self) -> float:
        return (self.prompt_tokens * _PROMPT_PRICE + self.completion_tokens * _COMPLETION_PRICE) / 1000


class Ledger:
    """The charges of a server; connections may enter and read them at the same time."""

    def __init__(self) -> None:
        self._charges: list[_Charge] = []

    def charge(self, key: str, model: str, usage: object) -> None:
        """Enter what an answer took, as far as its `usage` tells."""
        told = usage if isinstance(usage, Mapping) else {}
        counts = [told.get(name) for name in ("prompt_tokens", "completion_tokens")]
        prompt_tokens, completion_tokens = (count if isinstance(count, int) else 0 for count in counts)
        self._charges.append(_Charge(key, model, datetime.now(_ZONE), prompt_tokens, completion_tokens))

    def balance(self, key: str) -> dict[str, Any]:
        """Return what a key has had and used, as the service tells it."""
        used = sum(charge.cost for charge in list(self._charges) if charge.key == key)
        total = {"balanceTotal": _TOTAL, "balanceUsed": round(used, 8)}
        return {"id": 1, "apiKey": key, "adminKeyId": 1, **total, "status": 1}

    def by_hour(self, key: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what a key has used in each of the last `hours`; hours without use are left out.

        Raises:
            RequestError: a field is malformed.
        """
        since = datetime.now(_ZONE) - timedelta(hours=_number(fields, "hours", 24))
        records = []
        for time, charges in self._grouped(key, fields, since, "%Y-%m-%d %H:00:00").items():
            prompt_tokens = sum(charge.prompt_tokens for charge in charges)
            completion_tokens = sum(charge.completion_tokens for charge in charges)
            tokens = {"promptTokens": prompt_tokens, "completionTokens": completion_tokens}
            records.append({"time": time, **tokens, **_totals(charges)})
        return records

    def by_day(self, key: str, fields: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return what a key has used in each of the last `days`; days without use are left out.

        Raises:
            RequestError: a field is malformed.
        """
        since = datetime.now(_ZONE) - timedelta(days=_number(fields, "days", 1))
        days = self._grouped(key, fields, since, "%Y-%m-%d 00:00:00")
        return [{"time": time, **_totals(charges)} for time, charges in days.items()]

    def _grouped(
        self, key: str, fields: Mapping[str, Any], since: datetime, time_format: str
    ) -> dict[str, list[_Charge]]:
        """Return a key's charges of the models that are asked for, by the time at which an hour or a day began."""
        pattern = fields.get("model", "%")
        if not isinstance(pattern, str):
            raise RequestError(400, "model is a text, in which % stands for any characters")
        pattern = glob.escape(pattern).replace("%", "*").replace("_", "?")  # LIKE of SQL
        groups: dict[str, list[_Charge]] = {}
        for charge in list(self._charges):
            if charge.key == key and charge.time > since and fnmatchcase(charge.model, pattern):
                groups.setdefault(charge.time.strftime(time_format), []).append(charge)
        return groups


def _totals(charges: list[_Charge]) -> dict[str, Any]:
    return {
        "totalTokens": sum(charge.prompt_tokens + charge.completion_tokens for charge in charges),
        "count": len(charges),
        "cost": round(sum(charge.cost for charge in charges), 8),
    }


def _number(fields: Mapping[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    if type(value) is not int or not 1 <= value <= _LONGEST:
        raise RequestError(400, f"{name} is a number from 1 to {_LONGEST}")
    return value
