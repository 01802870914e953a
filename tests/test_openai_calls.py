"""The same calls by OpenAI's library and by `chatanywhere.openai`: what they send, what they return, how they fail."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydantic
import pytest
from openai_calls import CASES, Case

import chatanywhere.openai as ours
from chatanywhere.testing import LoopbackServer

theirs = pytest.importorskip("openai")

NEWEST = "moderation" in theirs.types.chat.ChatCompletion.model_fields
"""Whether it has all the fields that ours have; those that it has not are None in ours, and not compared."""

NEWER = ("moments in the body", "models in the body", "headers in another case")
"""What the oldest version can't send."""

HEADERS = ["authorization", "content-type", "openai-organization", "openai-project", "x-a", "x-b", "x-c", "x-title"]

ERRORS = [
    name
    for name in dir(theirs)
    if isinstance(getattr(theirs, name), type) and issubclass(getattr(theirs, name), Exception) and hasattr(ours, name)
]


@dataclass
class Outcome:
    """What has become of a call."""

    result: Any
    error: BaseException | None
    requests: list[Any]


def run(module: Any, case: Case, face: str) -> Outcome:
    """Make a call with one of the modules, blocking or async."""

    async def call(server: LoopbackServer) -> Outcome:
        settings = {"api_key": "key", "base_url": f"{server.url}/v1", "max_retries": 0, **case.settings}
        client = getattr(module, {"sync": "OpenAI", "async": "AsyncOpenAI"}[face])(**settings)
        try:
            result, error = await case.call(module, client), None
        except Exception as exc:
            result, error = None, exc
        closed = client.close()
        if closed is not None:
            await closed
        return Outcome(result, error, [asked(request) for request in server.requests])

    with LoopbackServer(case.replies, faults=case.faults) as server:
        return asyncio.run(call(server))


def asked(request: Any) -> Any:
    headers = {name: request.headers[name] for name in HEADERS if request.headers[name] is not None}
    return request.method, request.path, json.loads(request.body or b"null"), headers


def described(value: Any) -> Any:
    """All that a program can see of a result, by attributes and by methods."""
    if isinstance(value, list):
        return [described(each) for each in value]
    if not hasattr(value, "to_dict"):
        return value
    attributes = {name: getattr(value, name) for name in fields_of(value)}
    return {
        "class": repr(value).partition("(")[0].partition("[")[0],
        "attributes": {name: described(each) for name, each in attributes.items()},
        "request id": getattr(value, "_request_id", "none"),
        "dump": value.model_dump(),
        "json": json.loads(value.model_dump_json()),
        "indented": json.loads(value.model_dump_json(indent=2, exclude_none=True)),
        "without none": value.model_dump(exclude_none=True),
        "without defaults": value.model_dump(exclude_defaults=True),
        "as it came": value.model_dump(exclude_unset=True, mode="json"),
        "dict": value.to_dict(),
        "to_json": json.loads(value.to_json()),
        "extra": value.model_extra,
        "set": value.model_fields_set - set(value.model_extra),
        "some": value.model_dump(include={"id", "choices"}, exclude={"choices": {"__all__": {"message", "delta"}}}),
        "first": value.model_dump(include={"choices": {0: {"index"}}}),
    }


def fields_of(value: Any) -> list[str]:
    known = type(value).model_fields if isinstance(value, pydantic.BaseModel) else type(value)._fields()
    return [*known, *(value.model_extra or {})]


def without_chance(value: Any) -> Any:
    """A description without the times that the server gives."""
    if isinstance(value, dict):
        return {name: 0 if name == "created" else without_chance(each) for name, each in value.items()}
    return [without_chance(each) for each in value] if isinstance(value, (list, tuple)) else value


def without_newer(found: Any, expected: Any) -> Any:
    """A description of ours without the fields that are None and that an older version of theirs has not."""
    if isinstance(found, dict) and isinstance(expected, dict):
        same = {name: without_newer(each, expected.get(name)) for name, each in found.items()}
        return {name: each for name, each in same.items() if name in expected or each is not None}
    if isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        return [without_newer(*pair) for pair in zip(found, expected, strict=True)]
    return found


def failure(error: BaseException) -> dict[str, Any]:
    """What a program reads on an error."""
    read: dict[str, Any] = {}
    for name in ("status_code", "code", "param", "type", "body", "request_id"):
        if hasattr(error, name):
            read[name] = getattr(error, name)
    if "code" in read:
        read["code"] = str(read["code"])  # the oldest version leaves a number as it is
    response = getattr(error, "response", None)
    if response is not None:
        read["response"] = response.status_code, response.headers.get("content-type"), response.headers["Date"][:3]
        read["text"] = response.text.strip()
        read["url"] = re.sub(r":\d+", "", f"{response.request.method} {response.request.url}")
    if hasattr(error, "completion"):
        read["completion"] = without_chance(error.completion.model_dump())
    return read


@pytest.fixture
def no_chance(monkeypatch: pytest.MonkeyPatch, ca_file: Path) -> None:
    """The server calls all answers and requests alike; OpenAI's library need not read all certificates each time."""
    monkeypatch.setattr(secrets, "token_hex", lambda size=8: "0" * size)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca_file))


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.usefixtures("no_chance")
@pytest.mark.parametrize("face", ["sync", "async"])
@pytest.mark.parametrize("name", CASES)
def test_both_do_the_same(name: str, face: str) -> None:
    """One changed line of imports changes nothing that is sent, returned or caught."""
    case = CASES[name]
    if not NEWEST and (name in NEWER or (name, face) == ("the events of a tool call", "async")):
        pytest.skip("the oldest version can't do that")
    expected, found = run(theirs, case, face), run(ours, case, face)
    assert found.requests == expected.requests
    result, wanted = without_chance(described(found.result)), without_chance(described(expected.result))
    assert (result if NEWEST else without_newer(result, wanted)) == wanted
    assert (found.error is None) is (expected.error is None), (found.error, expected.error)
    if expected.error is not None:
        caught = [each for each in ERRORS if isinstance(expected.error, getattr(theirs, each))]
        assert [each for each in caught if not isinstance(found.error, getattr(ours, each))] == [], found.error
        if not caught:
            kinds = [kind for kind in type(expected.error).__mro__ if kind.__module__ in ("builtins", "pydantic_core")]
            assert isinstance(found.error, kinds[0])
        read = failure(found.error)
        wanted = failure(expected.error)
        read = {name: read[name] for name in wanted}
        assert (read if NEWEST else without_newer(read, wanted)) == wanted


def test_the_calls_are_hard_enough() -> None:
    """At least sixty calls, of which more than twenty-five fail, stream or use tools."""
    assert len(CASES) >= 60
    hard = [name for name, case in CASES.items() if case.kinds & {"fails", "streams", "tools"}]
    assert len(hard) >= 25
