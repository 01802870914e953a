"""What every third-party client is asked to do with a `LoopbackServer`, and how the server refuses.

The files `with_*.py` hold other libraries to the test server, `to_*.py` this package's client to other servers. They
are no part of the suite: `nox -s clients` installs what they need.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pydantic

from chatanywhere.testing import Fault, LoopbackServer, Reply

ADA = "Hello, I am Ada."
ANSWER = "Pleased to meet you, Ada. What brings you here?"
"""What a server without a script answers to that."""

WEATHER = [Reply(tool_calls=[("weather", {"city": "Paris", "days": 2})]), "It is 22 degrees."]
"""Replies: a tool is called, and its result is told."""


def weather(city: str, days: int) -> str:
    """Tell the weather.

    Args:
        city: where.
        days: how many days ahead.
    """
    return f"{20 + days} degrees in {city}"


class Pet(pydantic.BaseModel):
    """A pet."""

    name: str
    lives: int = pydantic.Field(ge=1, le=9)


class Person(pydantic.BaseModel):
    """A person."""

    name: str
    age: int = pydantic.Field(ge=18)
    pets: list[Pet]


PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
"""One pixel, as PNG."""


def picture_of(server: LoopbackServer) -> bytes:
    """The picture in the last request, which was sent behind a text."""
    text, picture = server.requests[-1].messages[-1]["content"]
    assert text["type"] == "text"
    head, _, data = picture["image_url"]["url"].partition(",")
    assert (picture["type"], head) == ("image_url", "data:image/png;base64")
    return base64.b64decode(data)


def results_of(server: LoopbackServer) -> list[Any]:
    """The results of tools that the last request tells, each behind the call that it belongs to."""
    *_, call, result = server.requests[-1].messages
    assert call["tool_calls"][0]["function"]["name"] == "weather"
    assert result["tool_call_id"] == call["tool_calls"][0]["id"]
    return [message["content"] for message in server.requests[-1].messages if message["role"] == "tool"]


def _refusal(status: int, message: str, kind: str, code: str) -> Fault:
    error = {"message": message, "type": kind, "param": None, "code": code}
    return Fault.status(status, body=json.dumps({"error": error}))


WRONG_KEY = _refusal(401, "Incorrect API key provided: x.", "invalid_request_error", "invalid_api_key")
QUOTA = _refusal(
    429,
    "You exceeded your current quota, please check your plan and billing details. For more information on this error, "
    "read the docs: https://platform.openai.com/docs/guides/error-codes/api-errors.",
    "insufficient_quota",
    "insufficient_quota",
)

SDK_ERRORS = {
    "wrong key": (WRONG_KEY, openai.AuthenticationError),
    "quota": (QUOTA, openai.RateLimitError),
    "silence": (Fault.timeout(), openai.APITimeoutError),
}
"""Faults, and what clients that stand on OpenAI's SDK make of them."""
BUSY = Fault.retry_after(1, first=1)


@contextmanager
def waited_for_a_second(server: LoopbackServer) -> Iterator[None]:
    """What is done inside is refused once with `Retry-After: 1`, and takes that time."""
    server.faults = [BUSY]
    sent, began = len(server.requests), time.monotonic()
    yield
    assert 1 <= time.monotonic() - began < 20
    assert len(server.requests) == sent + 2


@contextmanager
def serving(
    command: Sequence[str | Path], says: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """Run a server of another project, which finds no network; give the URL that its log has behind some words.

    Args:
        command: starts it.
        says: the words.
        folder: where it runs, and leaves its log.
        environment: in addition to the paths of this process.
    """
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9") | {"NO_PROXY": "127.0.0.1"}
    paths = {"PATH": os.environ["PATH"], "HOME": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    log = folder / "log"
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=folder, env={**paths, **nowhere, **(environment or {})}, stdout=output, stderr=output
        )
    try:
        end = time.monotonic() + 120
        while not (found := re.search(rf"{re.escape(says)}(http://127\.0\.0\.1:[1-9]\d*)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)
        yield found[1]
        assert process.poll() is None, log.read_text()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(20)
