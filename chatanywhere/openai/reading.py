"""Answers of a `Client` as objects. No I/O, and knows no client."""

from __future__ import annotations

import base64
import json
import sys
from array import array
from typing import Any, TypeVar

from .._errors import ProtocolError
from .._types import Completion
from .errors import APIResponse, adapt
from .model import BaseModel
from .types import ChatCompletion, CreateEmbeddingResponse

T = TypeVar("T", bound=BaseModel)


def completion_of(answer: Completion) -> ChatCompletion:
    """Return a whole answer as an object."""
    completion = ChatCompletion(**answer.raw)
    completion._request_id = answer.request_id
    return completion


def object_of(response: APIResponse, kind: type[T]) -> T:
    """Return what an answer says as an object.

    Raises:
        ProtocolError: it is no JSON object.
    """
    try:
        fields = json.loads(response.content)
        if not isinstance(fields, dict):
            raise ValueError("it is no object")
    except (RecursionError, ValueError) as exc:
        raise _unreadable(response, f"the answer is not JSON: {exc}") from exc
    found = kind(**fields)
    found._request_id = response.request_id
    return found


def embeddings_of(response: APIResponse, *, decoded: bool) -> CreateEmbeddingResponse:
    """Return vectors; `decoded` makes lists of those in Base64.

    Raises:
        ProtocolError: there are none.
    """
    found = object_of(response, CreateEmbeddingResponse)
    if decoded and not found.data:
        raise _unreadable(response, "the answer has no embeddings")
    for each in found.data if decoded else ():
        encoded: Any = each.embedding
        if isinstance(encoded, str):
            vector = array("f")
            try:
                vector.frombytes(base64.b64decode(encoded, validate=True))
            except ValueError as exc:
                raise _unreadable(response, "a vector is not floats in Base64") from exc
            if sys.byteorder == "big":
                vector.byteswap()
            each.embedding = vector.tolist()
    return found


def _unreadable(response: APIResponse, words: str) -> ProtocolError:
    error = ProtocolError(words)
    error.attempts = 1
    error.request_id = response.request_id
    adapt(error, response.request)
    return error
