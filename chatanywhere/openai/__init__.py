"""OpenAI's client by its names, over this package: a program changes one line of its imports.

    from chatanywhere.openai import OpenAI

    completion = OpenAI().chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hi"}])
    print(completion.choices[0].message.content)

docs/openai.md says what works, what differs, and what is better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    ConflictError,
    InternalServerError,
    NotFoundError,
    PermissionDeniedError,
    ProtocolError,
    RateLimitError,
    UnprocessableEntityError,
)
from .._policy import Timeout
from .client import AsyncOpenAI, OpenAI
from .errors import APIResponse, ContentFilterFinishReasonError, LengthFinishReasonError
from .events import ChatCompletionStreamState
from .model import BaseModel
from .parsing import pydantic_function_tool
from .request import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT, NOT_GIVEN, NotGiven, Omit, not_given, omit
from .stream import (
    AsyncChatCompletionStream,
    AsyncChatCompletionStreamManager,
    AsyncChunkStream,
    ChatCompletionStream,
    ChatCompletionStreamManager,
    ChunkStream,
)
from .types import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionMessage,
    CreateEmbeddingResponse,
    Embedding,
    ParsedChatCompletion,
)

__all__ = [
    "DEFAULT_MAX_RETRIES",
    "DEFAULT_TIMEOUT",
    "NOT_GIVEN",
    "APIConnectionError",
    "APIError",
    "APIResponse",
    "APIResponseValidationError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncChatCompletionStream",
    "AsyncChatCompletionStreamManager",
    "AsyncChunkStream",
    "AsyncClient",
    "AsyncOpenAI",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "BaseModel",
    "ChatAnywhereError",
    "ChatCompletion",
    "ChatCompletionChunk",
    "ChatCompletionMessage",
    "ChatCompletionStream",
    "ChatCompletionStreamManager",
    "ChatCompletionStreamState",
    "ChunkStream",
    "Client",
    "ConflictError",
    "ContentFilterFinishReasonError",
    "CreateEmbeddingResponse",
    "Embedding",
    "InternalServerError",
    "LengthFinishReasonError",
    "NotFoundError",
    "NotGiven",
    "Omit",
    "OpenAI",
    "OpenAIError",
    "ParsedChatCompletion",
    "PermissionDeniedError",
    "ProtocolError",
    "RateLimitError",
    "Stream",
    "Timeout",
    "UnprocessableEntityError",
    "not_given",
    "omit",
    "pydantic_function_tool",
]

OpenAIError = ChatAnywhereError
APIError = ChatAnywhereError
APIResponseValidationError = ProtocolError
Client = OpenAI
AsyncClient = AsyncOpenAI
Stream = ChunkStream
AsyncStream = AsyncChunkStream

if TYPE_CHECKING:
    from .resources import Beta, Chat, EmbeddingCalls, Models

    chat: Chat
    beta: Beta
    embeddings: EmbeddingCalls
    models: Models

api_key: str | None = None
base_url: str | None = None
organization: str | None = None
project: str | None = None
timeout: Any = DEFAULT_TIMEOUT
max_retries = DEFAULT_MAX_RETRIES
default_headers: dict[str, str] | None = None
default_query: dict[str, Any] | None = None

_SETTINGS = (
    "api_key",
    "base_url",
    "organization",
    "project",
    "timeout",
    "max_retries",
    "default_headers",
    "default_query",
)
_shared: list[tuple[list[Any], OpenAI]] = []  # the client of the module, behind what it was made of


def _group(name: str) -> Any:
    """Return a group of calls of the client that the module's own settings make: `chatanywhere.openai.chat`."""
    if name not in ("chat", "beta", "embeddings", "models"):
        remedy = ": OpenAI(base_url=…) asks any host" if name.endswith("OpenAI") else ""
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}{remedy}")
    settings = [globals()[each] for each in _SETTINGS]
    if not _shared or _shared[0][0] != settings:
        _shared[:] = [(settings, OpenAI(**dict(zip(_SETTINGS, settings, strict=True))))]
    return getattr(_shared[0][1], name)


if not TYPE_CHECKING:
    __getattr__ = _group
