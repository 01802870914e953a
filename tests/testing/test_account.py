"""The account that the server keeps of what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
import requests
from asking import TIMEOUT, post

from chatanywhere.testing import Fault, LoopbackServer, Reply

BALANCE = "/v1/query/balance"
USAGE = "/v1/query/usage_details"
DAYS = "/v1/query/day_usage_details"


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(lambda request: "one two three") as server:
        yield server


def ask(server: LoopbackServer, model: str = "gpt-4o", key: str = "sk-1", **options: Any) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": "four words are here"}], **options}
    assert post(server, "/v1/chat/completions", body, f"Bearer {key}").status_code == 200


def query(server: LoopbackServer, path: str, key: str = "sk-1", **body: Any) -> Any:
    response = post(server, path, body, key)
    assert response.status_code == 200, response.text
    return response.json()


def total(records: list[dict[str, Any]], name: str) -> Any:
    """The sum over records; the hour may have changed in between."""
    return sum(record[name] for record in records)


def test_the_balance_goes_down_with_each_answer(server: LoopbackServer) -> None:
    """A new key has its total; chats and embeddings use it up, streamed or not."""
    fresh = query(server, BALANCE)
    assert {*fresh} == {"id", "apiKey", "adminKeyId", "balanceTotal", "balanceUsed", "status"}
    assert (fresh["apiKey"], fresh["balanceUsed"]) == ("sk-1", 0)
    used = [0.0]
    ask(server)
    used.append(query(server, BALANCE)["balanceUsed"])
    ask(server, stream=True)
    used.append(query(server, BALANCE)["balanceUsed"])
    assert post(server, "/v1/embeddings", {"model": "m", "input": "Hello"}, "Bearer sk-1").status_code == 200
    used.append(query(server, BALANCE)["balanceUsed"])
    assert used == sorted(set(used))
    assert used[2] == pytest.approx(2 * used[1])
    assert query(server, BALANCE)["balanceTotal"] == fresh["balanceTotal"] > used[-1]


def test_the_usage_is_told_by_the_hour(server: LoopbackServer) -> None:
    """The records of the hours add up to what was answered, and to what the balance lacks."""
    assert query(server, USAGE, model="%", hours=24) == []
    for _ in range(3):
        ask(server)
    records = query(server, USAGE, model="%", hours=24)
    names = {"time", "promptTokens", "completionTokens", "totalTokens", "count", "cost"}
    assert all({*record} == names for record in records)
    assert all(datetime.strptime(record["time"], "%Y-%m-%d %H:00:00") for record in records)
    counts = [total(records, name) for name in ("promptTokens", "completionTokens", "totalTokens", "count")]
    assert counts == [12, 9, 21, 3]
    assert total(records, "cost") == pytest.approx(query(server, BALANCE)["balanceUsed"])
    assert query(server, USAGE) == records  # all models of a day are what is asked for


def test_the_usage_is_told_by_the_day(server: LoopbackServer) -> None:
    """The records of days add up to the same."""
    ask(server)
    ask(server)
    records = query(server, DAYS, model="%", days=2)
    assert all({*record} == {"time", "totalTokens", "count", "cost"} for record in records)
    assert all(datetime.strptime(record["time"], "%Y-%m-%d 00:00:00") for record in records)
    assert (total(records, "totalTokens"), total(records, "count")) == (14, 2)
    assert total(records, "cost") == pytest.approx(query(server, BALANCE)["balanceUsed"])


@pytest.mark.parametrize(
    ("pattern", "count"),
    [("%", 4), ("gpt-4o", 1), ("gpt-4o%", 2), ("%mini", 1), ("gpt-_o", 1), ("gpt-4o*", 0), ("[a-z]%", 1), ("x", 0)],
)
def test_models_are_chosen_as_sql_does(server: LoopbackServer, pattern: str, count: int) -> None:
    """`%` stands for any characters, `_` for one, and nothing else for anything but itself."""
    for model in ("gpt-4o", "gpt-4o-mini", "deepseek-r1", "[a-z]"):
        ask(server, model)
    for path in (USAGE, DAYS):
        assert total(query(server, path, model=pattern), "count") == count


def test_each_key_has_an_account_of_its_own(server: LoopbackServer) -> None:
    """What one key uses is not charged to another."""
    ask(server, key="sk-1")
    assert query(server, BALANCE, key="sk-2")["balanceUsed"] == 0
    assert query(server, USAGE, key="sk-2") == []
    assert query(server, BALANCE, key="sk-1")["balanceUsed"] > 0


def test_only_what_was_answered_is_charged() -> None:
    """Requests that are refused or go wrong cost nothing; usage that a reply is given is what it costs."""
    usage = {"prompt_tokens": 1000, "completion_tokens": 1, "total_tokens": 1001}
    chunks = [{"choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 20}}]
    replies = [Fault.status(503), Reply("Hi", usage=usage), Reply(chunks=chunks), {"usage": {"prompt_tokens": 5}}, {}]
    with LoopbackServer(replies, faults=[Fault.status(500, first=1)]) as server:
        for status in (500, 503, 200, 200, 200, 200, 400):
            body = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
            assert post(server, "/v1/chat/completions", body, "Bearer sk-1").status_code == status
        records = query(server, USAGE)
    assert total(records, "count") == 4
    assert total(records, "promptTokens") == 1015
    assert total(records, "completionTokens") == 21


@pytest.mark.parametrize("path", [BALANCE, USAGE, DAYS])
@pytest.mark.parametrize("key", ["", "Bearer sk-1", "bearer sk-1", "Bearer", "Basic x"])
def test_the_key_is_sent_alone(server: LoopbackServer, path: str, key: str) -> None:
    """A key that is missing, or sent as a bearer's, has status 401 in the service's envelope."""
    response = post(server, path, {}, key)
    assert response.status_code == 401
    error = response.json()["error"]
    assert error.pop("message").startswith("wrong api key")
    assert error == {"type": "chatanywhere_error", "param": None, "code": "401 UNAUTHORIZED"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        *((USAGE, {"hours": hours}) for hours in (0, -1, "x", 1.5, True, None, 10**9)),
        *((DAYS, {"days": days}) for days in (0, "x", [])),
        *((path, {"model": 5}) for path in (USAGE, DAYS)),
        *((path, []) for path in (USAGE, DAYS)),
    ],
)
def test_a_malformed_query_is_a_bad_request(server: LoopbackServer, path: str, body: Any) -> None:
    """What is no number or no text has status 400 in the service's envelope."""
    response = post(server, path, body, "sk-1")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "400 BAD_REQUEST"


def test_a_balance_needs_no_body(server: LoopbackServer) -> None:
    """An empty body is as good as an empty object."""
    response = requests.post(server.url + BALANCE, headers={"Authorization": "sk-1"}, timeout=TIMEOUT)
    assert response.status_code == 200
