"""A request that the server received, and the errors with which it refuses one."""

from __future__ import annotations

import functools
import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .writer import Response, openai_error, service_error

WEB_PATH = "/v1/chat/gpt/"


@dataclass(frozen=True)
class Request:
    """A request that the server received, whatever its method and path."""

    method: str
    path: str
    """The request target as it was sent, so with the query."""
    headers: http.client.HTTPMessage
    """The headers; `headers.get(name)` asks for one in upper or lower case alike."""
    body: bytes

    @functools.cached_property
    def json(self) -> Any:
        """The body as JSON, or None if it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None

    @property
    def route(self) -> str:
        """The path without the query, and with the `/v1` that some clients leave out."""
        path = without_query(self.path)
        return path if path.startswith("/v1/") else f"/v1{path}"

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation that was sent, under either protocol; empty if there is none."""
        name = "list" if self.route == WEB_PATH else "messages"
        messages = self.json.get(name) if isinstance(self.json, dict) else None
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            return messages
        return []

    @property
    def text(self) -> str:
        """The text of the user's last message; empty if there is none."""
        said = [text_of(message) for message in self.messages if message.get("role") == "user"]
        return said[-1] if said else ""

    @property
    def fields(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            RequestError: it is none.
        """
        if not isinstance(self.json, dict):
            raise RequestError(400, "the body is not a JSON object")
        return self.json

    @property
    def key(self) -> str:
        """The key that was sent as a bearer's.

        Raises:
            RequestError: there is none.
        """
        scheme, _, key = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise RequestError(401, "wrong api key: none was sent as `Authorization: Bearer …`")
        return key.strip()

    @property
    def raw_key(self) -> str:
        """The key that was sent alone, as the service's account wants it.

        Raises:
            RequestError: there is none, or it was sent as a bearer's.
        """
        key: str = self.headers.get("Authorization", "").strip()
        if not key or key.lower() == "bearer" or " " in key:
            raise RequestError(401, "wrong api key: the account wants the key alone in `Authorization`, without Bearer")
        return key


def without_query(path: str) -> str:
    """Return a request target without its query."""
    return path.partition("?")[0]


def text_of(message: Mapping[str, Any]) -> str:
    """Return a message's text: its content, or the text parts of its content, one per line."""
    content = message.get("content")
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, Mapping))
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


class RequestError(Exception):
    """A request that is answered with an error status, in the service's envelope."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def response(self) -> Response:
        """The answer to it."""
        return service_error(self.status, str(self))


class ParameterError(RequestError):
    """A request with a parameter that OpenAI refuses, which is answered in its words and its envelope."""

    def __init__(self, parameter: str, message: str, code: str | None = None, *, status: int = 400) -> None:
        super().__init__(status, message)
        self._parameter = parameter
        self._code = code

    @property
    def response(self) -> Response:
        return openai_error(self.status, str(self), self._code, param=self._parameter)
