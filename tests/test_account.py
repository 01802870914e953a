"""The account and the hosts: what is sent, and what is made of answers that are known in part only."""

from __future__ import annotations

import itertools
import json
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from faces import Face
from leaks import leaks, shown
from raw_server import RawServer, Step, json_answer, sockets_to

from chatanywhere import (
    APITimeoutError,
    AuthenticationError,
    Balance,
    Client,
    InternalServerError,
    NotFoundError,
    ProtocolError,
    Retry,
    UsageRecord,
)

KEY = "sk-0123456789abcdef"
OTHER_KEY = "sk-ANOTHERKEYALTOGETHER"

ANSWERS: dict[str, Any] = {
    "models": {"data": []},
    "balance": {
        "id": 7,
        "apiKey": OTHER_KEY,
        "adminKeyId": "12",
        "balanceTotal": 10.5,
        "balanceUsed": 3.25,
        "status": True,
    },
    "usage": [],
    "usage_by_day": [],
}
"""By the name of the method, an answer to it."""

OWN = [name for name in ANSWERS if name != "models"]
"""The methods that ask ChatAnywhere's own endpoints."""


def client_of(server: RawServer, **settings: Any) -> Client:
    return Client(KEY, base_url=server.url, **{"retry": None, **settings})


# What is sent -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "arguments", "path", "body"),
    [
        ("balance", {}, "/v1/query/balance", {}),
        ("usage", {}, "/v1/query/usage_details", {"hours": 24, "model": "%"}),
        ("usage", {"hours": 1, "model": "gpt-4o%"}, "/v1/query/usage_details", {"hours": 1, "model": "gpt-4o%"}),
        ("usage_by_day", {}, "/v1/query/day_usage_details", {"days": 5, "model": "%"}),
        ("usage_by_day", {"days": 30, "model": "m"}, "/v1/query/day_usage_details", {"days": 30, "model": "m"}),
    ],
)
def test_the_account_is_asked_as_the_service_wants_it(
    raw_server: RawServer, face: Face, method: str, arguments: dict[str, Any], path: str, body: Any
) -> None:
    """By POST, with the key as it is in `Authorization`, and not as a bearer's."""
    raw_server.answer(json_answer(ANSWERS[method]), None)
    face.call(client_of(raw_server), method, **arguments)
    head, _, content = raw_server.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {path} HTTP/1.1\r\n".encode())
    assert f"\r\nAuthorization: {KEY}\r\n".encode() in head + b"\r\n"
    assert json.loads(content) == body


@pytest.mark.parametrize("method", ANSWERS)
def test_each_has_the_options_of_a_call(raw_server: RawServer, face: Face, method: str) -> None:
    """Headers, attempts and time limit can be given for one question."""
    raw_server.answer(json_answer({"error": "busy"}, "503 Busy"), None)
    client = client_of(raw_server)
    with pytest.raises(InternalServerError):
        face.call(client, method, retry=Retry(2, 0), headers={"X-Mine": "1"})
    assert len(raw_server.requests) == 2
    assert all(b"\r\nX-Mine: 1\r\n" in request for request in raw_server.requests)
    raw_server.answer(raw_server.hold)
    with pytest.raises(APITimeoutError):
        face.call(client, method, timeout=0.2)


@pytest.mark.parametrize(
    ("method", "arguments", "error", "words"),
    [
        ("usage", {"hours": 0}, ValueError, "hours=0"),
        ("usage", {"hours": 1.5}, TypeError, "hours must be an int, not float"),
        ("usage", {"hours": True}, TypeError, "hours must be an int"),
        ("usage", {"model": None}, TypeError, "model must be a str.*'%'"),
        ("usage_by_day", {"days": -1}, ValueError, "days=-1"),
        ("usage_by_day", {"days": "5"}, TypeError, "days must be an int, not str"),
        ("balance", {"headers": []}, TypeError, "headers"),
        ("models", {"timeout": 0}, ValueError, "Timeout"),
    ],
)
def test_what_can_t_be_asked_is_told(
    raw_server: RawServer, face: Face, method: str, arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    """Before anything is sent."""
    with pytest.raises(error, match=words):
        face.call(client_of(raw_server), method, **arguments)
    assert raw_server.requests == []


@pytest.mark.parametrize("method", [*ANSWERS, "ping"])
def test_the_page_can_t_be_asked(face: Face, method: str) -> None:
    """The web protocol has nothing but chats."""
    with pytest.raises(RuntimeError, match="use protocol='openai'"):
        face.call(Client(protocol="web"), method)


# What is read -------------------------------------------------------------------------------------------------


NUMBERS: list[tuple[Any, float | None]] = [
    (0, 0.0),
    (12.5, 12.5),
    (-3, -3.0),
    ("12.5", 12.5),
    (" 1e2 ", 100.0),
    ("", None),
    ("many", None),
    ("nan", None),
    ("inf", None),
    (10**400, None),
    (True, None),
    (None, None),
    ([1], None),
]
"""What may stand for a number, and what it is."""


@pytest.mark.parametrize(("written", "number"), NUMBERS)
def test_a_balance_is_read_however_it_is_written(raw_server: RawServer, written: Any, number: float | None) -> None:
    """Numbers may be text, and what is missing or none is None; the difference is there where both numbers are."""
    client = client_of(raw_server)
    for total, used in itertools.permutations([(written, number), (4, 4.0)]):
        raw_server.answer(json_answer({**ANSWERS["balance"], "balanceTotal": total[0], "balanceUsed": used[0]}), None)
        remaining = None if number is None else total[1] - used[1]
        assert client.balance() == Balance(total[1], used[1], remaining)


def test_a_balance_that_is_not_told_is_none(raw_server: RawServer, face: Face) -> None:
    """An account without numbers has none; a free key's remainder is negative."""
    raw_server.answer(json_answer({}), None)
    assert face.call(client_of(raw_server), "balance") == Balance(None, None, None)
    raw_server.answer(json_answer({"balanceTotal": 0, "balanceUsed": 1.5}), None)
    assert face.call(client_of(raw_server), "balance") == Balance(0.0, 1.5, -1.5)


def test_the_key_of_a_balance_is_not_kept(raw_server: RawServer, caplog: pytest.LogCaptureFixture) -> None:
    """The service tells it, and nobody else does."""
    caplog.set_level("DEBUG")
    raw_server.answer(json_answer(ANSWERS["balance"]), None)
    client = client_of(raw_server)
    balance = client.balance()
    shown = [repr(balance), repr(client), caplog.text]
    assert balance.total == 10.5
    assert [text for text in shown if OTHER_KEY in text] == []
    assert OTHER_KEY.encode() not in pickle.dumps(balance)


WHOLE = [("", ""), ("\ufeff", ""), ('{"data": ', "}")]
NO_BALANCE = [
    around
    for around in itertools.product(["", "[", "x", "{}", "\ufeff", '{"data": '], ["", "]", "}", "x", "\ud83d", ", "])
    if around not in WHOLE
]
"""What stands before and behind a balance, and makes something else of it."""


@pytest.mark.parametrize(("before", "behind"), NO_BALANCE)
def test_what_is_no_balance_is_not_shown(
    raw_server: RawServer, caplog: pytest.LogCaptureFixture, before: str, behind: str
) -> None:
    """Nor is the key in it: of another shape, or no JSON at all."""
    caplog.set_level("DEBUG")
    body = f"{before}{json.dumps(ANSWERS['balance'])}{behind}".encode(errors="surrogatepass")
    raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body), None)
    client = client_of(raw_server)
    with pytest.raises(ProtocolError, match="not a balance") as caught:
        client.balance()
    assert leaks(shown(caught.value, client, caplog), OTHER_KEY) == []


def test_a_page_in_the_place_of_a_balance_is_told(raw_server: RawServer) -> None:
    """It holds no key, so its title is shown."""
    raw_server.answer(b"HTTP/1.1 200 OK\r\n\r\n<html><title>Log in: here</title></html>")
    with pytest.raises(ProtocolError, match="an HTML page, titled 'Log in: here'"):
        client_of(raw_server).balance()


FIELDS: dict[str, tuple[str, list[tuple[Any, Any]]]] = {
    "time": ("time", [("2024-04-17 00:00:00", "2024-04-17 00:00:00"), (None, None), (5, None), ("", None)]),
    "model": ("model", [("gpt-4o", "gpt-4o"), (None, None), ([], None)]),
    **{
        name: (field, [(0, 0), (7, 7), ("7", 7), (7.0, 7), (7.5, None), ("x", None), (-1, None), (True, None)])
        for name, field in {
            "prompt_tokens": "promptTokens",
            "completion_tokens": "completionTokens",
            "total_tokens": "totalTokens",
            "count": "count",
        }.items()
    },
    "cost": ("cost", NUMBERS),
}
"""By the attribute: the field, and what it may hold and means."""

EMPTY = dict.fromkeys(FIELDS)


@pytest.mark.parametrize("method", ["usage", "usage_by_day"])
@pytest.mark.parametrize("name", FIELDS)
def test_a_record_is_read_however_it_is_written(raw_server: RawServer, method: str, name: str) -> None:
    """Each field by itself, and what is not told is None."""
    field, values = FIELDS[name]
    raw_server.answer(json_answer([{field: written, "unknown": 1} for written, _ in values]), None)
    records = getattr(client_of(raw_server), method)()
    assert records == [UsageRecord(**{**EMPTY, name: value}) for _, value in values]  # type: ignore[arg-type]


def test_records_are_as_the_service_has_them(raw_server: RawServer, face: Face) -> None:
    """All fields together, in the order of the answer."""
    row = {
        "time": "2024-04-17 00:00:00",
        "promptTokens": 10,
        "completionTokens": 5,
        "totalTokens": 15,
        "count": 2,
        "cost": 0.25,
    }
    raw_server.answer(json_answer([row, {}]), None)
    assert face.call(client_of(raw_server), "usage") == [
        UsageRecord("2024-04-17 00:00:00", None, 10, 5, 15, 2, 0.25),
        UsageRecord(**EMPTY),  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        *itertools.product(OWN, [None, 5, "text", [1], ["text"], [None], [[]]]),
        *itertools.product(["usage", "usage_by_day"], [{}, {"total": 1}]),
    ],
)
def test_an_answer_of_another_kind_is_told(raw_server: RawServer, face: Face, method: str, answer: Any) -> None:
    """What is no object, or no list of objects, is a ProtocolError."""
    raw_server.answer(json_answer(answer), None)
    with pytest.raises(ProtocolError, match=r"a balance|a list of what was used"):
        face.call(client_of(raw_server), method)


@pytest.mark.parametrize("method", ANSWERS)
def test_an_error_in_a_good_answer_is_one(raw_server: RawServer, method: str) -> None:
    """As gateways send it: the words are the service's."""
    raw_server.answer(json_answer({"error": {"message": "wrong api key", "code": "401 UNAUTHORIZED"}}), None)
    with pytest.raises(AuthenticationError, match="wrong api key"):
        getattr(client_of(raw_server), method)()


@pytest.mark.parametrize("status", [404, 405])
@pytest.mark.parametrize("method", OWN)
def test_a_host_without_these_endpoints_is_told(raw_server: RawServer, face: Face, method: str, status: int) -> None:
    """Other servers have none of them: the error says that they are ChatAnywhere's own."""
    raw_server.answer(json_answer({"error": {"message": "Invalid URL", "code": "unknown_url"}}, f"{status} No"), None)
    with pytest.raises(NotFoundError, match="Invalid URL\nThis endpoint is ChatAnywhere's own") as caught:
        face.call(client_of(raw_server), method)
    assert (caught.value.status_code, caught.value.code, caught.value.attempts) == (status, "unknown_url", 1)


def test_other_endpoints_are_not_said_to_be_its_own(raw_server: RawServer) -> None:
    """A host without a list of models may be anyone's."""
    raw_server.answer(json_answer({}, "404 No"), None)
    with pytest.raises(NotFoundError) as caught:
        client_of(raw_server).models()
    assert "own" not in str(caught.value)


# How soon hosts answer ----------------------------------------------------------------------------------------


@pytest.fixture
def closed_port() -> int:
    """A port at which nobody listens."""
    server = RawServer()
    server.close()
    return server.port


STATUSES = ["200 OK", "401 No", "404 No", "405 No", "429 No", "500 No", "503 No"]


@pytest.mark.parametrize("status", STATUSES)
def test_any_answer_counts(raw_server: RawServer, face: Face, status: str) -> None:
    """A host that answers can be reached, whatever it says; it is asked once."""
    raw_server.answer(lambda _: time.sleep(0.1), json_answer({}, status), None)
    seconds = face.call(client_of(raw_server, retry=3), "ping")
    assert list(seconds) == [f"{raw_server.url}/v1"]
    assert 0.1 <= seconds[f"{raw_server.url}/v1"] < 5
    (request,) = raw_server.requests
    assert request.startswith(b"GET /v1/models HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No\r\n\r\n",
    ],
)
def test_the_beginning_of_an_answer_is_enough(raw_server: RawServer, face: Face, answer: bytes) -> None:
    """What it says is not waited for, and not read."""
    raw_server.answer(answer, raw_server.hold)
    began = time.monotonic()
    (seconds,) = face.call(client_of(raw_server), "ping").values()
    assert seconds is not None
    assert time.monotonic() - began < 2


def test_a_host_that_can_t_be_reached_has_no_time(raw_server: RawServer, closed_port: int, face: Face) -> None:
    """None for a refused connection, for silence, and for what is no HTTP; the others are not disturbed."""
    silent, odd = RawServer(), RawServer()
    try:
        silent.answer(silent.hold)
        odd.answer(b"220 smtp ready\r\n\r\n")
        raw_server.answer(json_answer({}), None)
        urls = [f"http://127.0.0.1:{closed_port}", silent.url, raw_server.url, odd.url]
        seconds = face.call(Client(KEY, base_url=urls), "ping", timeout=0.5)
        assert list(seconds) == [f"{url}/v1" for url in urls]
        assert [value is not None for value in seconds.values()] == [False, False, True, False]
    finally:
        silent.close()
        odd.close()


def test_hosts_are_asked_at_the_same_time(face: Face) -> None:
    """As many as there are: each answers only when all have been asked."""
    number = 12
    everyone = threading.Barrier(number)
    servers = [RawServer() for _ in range(number)]

    def steps(_: bytes) -> list[Step]:
        everyone.wait(10)
        return [json_answer({}), None]

    try:
        for server in servers:
            server.steps = steps
        seconds = face.call(Client(KEY, base_url=[server.url for server in servers]), "ping")
        assert None not in seconds.values()
    finally:
        for server in servers:
            server.close()


def test_the_query_of_a_host_is_not_shown(raw_server: RawServer) -> None:
    """It may hold a key; it is sent all the same."""
    raw_server.answer(json_answer({}), None)
    client = Client(KEY, base_url=f"{raw_server.url}/v1?key={OTHER_KEY}")
    assert list(client.ping(headers={"X-Mine": "1"})) == [f"{raw_server.url}/v1"]
    assert f"?key={OTHER_KEY} ".encode() in raw_server.requests[0]
    assert b"X-Mine: 1" in raw_server.requests[0]


def test_a_ping_wakes_a_host_that_rests(raw_server: RawServer) -> None:
    """A host that has failed is asked in its turn again when it has answered a ping."""
    first = RawServer()
    try:
        first.answer(json_answer({}, "500 No"), None)
        raw_server.answer(json_answer({"data": []}), None)
        client = Client(KEY, base_url=[first.url, raw_server.url], retry=Retry(1, failover=True))
        assert client.models() == client.models() == []
        assert (len(first.requests), len(raw_server.requests)) == (1, 2)
        first.answer(json_answer({"data": []}), None)
        client.ping()
        assert client.models() == []
        assert (len(first.requests), len(raw_server.requests)) == (3, 3)
    finally:
        first.close()


@pytest.fixture
def proxied(raw_server: RawServer) -> Callable[[str], Client]:
    """Makes a client that asks through a proxy, which answers with a status."""

    def make(status: str) -> Client:
        raw_server.answer(json_answer({}, status), None)
        return Client(KEY, base_url="http://service.localhost", proxy=raw_server.url, retry=None)

    return make


def test_a_proxy_that_refuses_is_no_host(proxied: Callable[[str], Client], face: Face) -> None:
    """What it answers in place of the host says nothing of it."""
    assert face.call(proxied("407 Who are you?"), "ping") == {"http://service.localhost/v1": None}
    assert face.call(proxied("200 OK"), "ping")["http://service.localhost/v1"] is not None


def test_no_connection_is_left_behind(raw_server: RawServer, face: Face) -> None:
    """Of hosts that were too slow."""
    raw_server.answer(raw_server.hold)
    assert list(face.call(client_of(raw_server), "ping", timeout=0.2).values()) == [None]
    end = time.monotonic() + 5
    while sockets_to(raw_server.port, "ESTABLISHED") and time.monotonic() < end:
        time.sleep(0.005)
    assert sockets_to(raw_server.port, "ESTABLISHED") == []
