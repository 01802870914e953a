"""A client of the ChatAnywhere chat service: one deadline that holds, no text lost, stops when told.

from chatanywhere import Client

with Client().stream("Tell me a joke") as stream:
    for text in stream:
        print(text, end="", flush=True)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._client import Client
from ._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    AuthenticationError,
    BadRequestError,
    ChatAnywhereError,
    ConflictError,
    InsufficientBalanceError,
    InternalServerError,
    ModelNotAllowedError,
    NotFoundError,
    PermissionDeniedError,
    PromptTooLongError,
    ProtocolError,
    QuotaExceededError,
    RateLimitError,
    StreamCancelledError,
    StreamInterruptedError,
    UnprocessableEntityError,
)
from ._policy import Retry, Timeout
from ._stream import Stream
from ._types import Completion, Finished, ReasoningDelta, Started, TextDelta, ToolCall, ToolCallDelta, Usage
from .provider import AsyncGeneratorProvider, ChatAnywhere, ChatAnywhereAPI

if TYPE_CHECKING:
    from ._async_client import AsyncClient, AsyncStream

__version__ = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncGeneratorProvider",
    "AsyncStream",
    "AuthenticationError",
    "BadRequestError",
    "ChatAnywhere",
    "ChatAnywhereAPI",
    "ChatAnywhereError",
    "Client",
    "Completion",
    "ConflictError",
    "Finished",
    "InsufficientBalanceError",
    "InternalServerError",
    "ModelNotAllowedError",
    "NotFoundError",
    "PermissionDeniedError",
    "PromptTooLongError",
    "ProtocolError",
    "QuotaExceededError",
    "RateLimitError",
    "ReasoningDelta",
    "Retry",
    "Started",
    "Stream",
    "StreamCancelledError",
    "StreamInterruptedError",
    "TextDelta",
    "Timeout",
    "ToolCall",
    "ToolCallDelta",
    "UnprocessableEntityError",
    "Usage",
    "__version__",
]


def __getattr__(name: str) -> Any:
    # anyio is imported by those who use it.
    if name in ("AsyncClient", "AsyncStream"):
        from . import _async_client

        return getattr(_async_client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
