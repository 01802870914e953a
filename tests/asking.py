"""Requests to a loopback server, by a client that shares no code with it or with the package."""

from __future__ import annotations

import json
from typing import Any

import requests

from chatanywhere.testing import LoopbackServer

TIMEOUT = 20  # seconds; reached only when something hangs


def post(server: LoopbackServer, path: str, body: object, key: str = "Bearer key") -> requests.Response:
    return requests.post(server.url + path, json=body, headers={"Authorization": key}, timeout=TIMEOUT)


def chat(server: LoopbackServer, **options: Any) -> requests.Response:
    """Ask for a chat completion; the options may bring messages of their own."""
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello"}], **options}
    return post(server, "/v1/chat/completions", body)


def complete(server: LoopbackServer, **options: Any) -> dict[str, Any]:
    """The completion that answers such a chat."""
    response = chat(server, **options)
    assert response.status_code == 200, response.text
    completion: dict[str, Any] = response.json()
    return completion


def stream(server: LoopbackServer, **options: Any) -> list[dict[str, Any]]:
    """The chunks of such a chat's answer; the last event is [DONE]."""
    response = chat(server, stream=True, **options)
    assert response.status_code == 200, response.text
    *events, done, rest = response.content.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


def refusal(response: requests.Response, status: int = 400) -> dict[str, Any]:
    """The error that OpenAI's envelope holds."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert {*error} == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    return error
