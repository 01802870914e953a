"""A client of the ChatAnywhere chat service: one deadline that holds, no text lost, stops when told.

from chatanywhere import Client

with Client().stream("Tell me a joke") as stream:
    for text in stream:
        print(text, end="", flush=True)
"""

from __future__ import annotations

TYPE_CHECKING = False  # typing's own would have to be imported, which takes longer than all the rest
if TYPE_CHECKING:
    from typing import Any

    from IPython.core.interactiveshell import InteractiveShell

    from ._account import Balance, UsageRecord
    from ._async_client import AsyncClient, AsyncStream
    from ._batch.async_run import AsyncRun
    from ._batch.limits import Limits
    from ._batch.progress import Progress
    from ._batch.result import Result
    from ._batch.run import Run
    from ._client import Client
    from ._conversation.async_conversation import AsyncConversation
    from ._conversation.conversation import Conversation
    from ._conversation.turn import Turn
    from ._embeddings import Embeddings
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
        OutputError,
        PermissionDeniedError,
        PromptTooLongError,
        ProtocolError,
        QuotaExceededError,
        RateLimitError,
        StreamCancelledError,
        StreamInterruptedError,
        UnprocessableEntityError,
    )
    from ._observe import CallView, Observer
    from ._picture import image
    from ._policy import Retry, Timeout
    from ._request import RawResponse
    from ._stream import Stream
    from ._tools import AsyncToolStream, ToolStream
    from ._types import (
        Choice,
        Completion,
        Extra,
        Finished,
        ReasoningDelta,
        RefusalDelta,
        Started,
        TextDelta,
        ToolCall,
        ToolCallDelta,
        ToolFinished,
        ToolRun,
        ToolStarted,
        Usage,
    )
    from .provider import AsyncGeneratorProvider, ChatAnywhere, ChatAnywhereAPI

__version__ = "0.1.0"

__all__ = [
    "APIConnectionError",
    "APIStatusError",
    "APITimeoutError",
    "AsyncClient",
    "AsyncConversation",
    "AsyncGeneratorProvider",
    "AsyncRun",
    "AsyncStream",
    "AsyncToolStream",
    "AuthenticationError",
    "BadRequestError",
    "Balance",
    "CallView",
    "ChatAnywhere",
    "ChatAnywhereAPI",
    "ChatAnywhereError",
    "Choice",
    "Client",
    "Completion",
    "ConflictError",
    "Conversation",
    "Embeddings",
    "Extra",
    "Finished",
    "InsufficientBalanceError",
    "InternalServerError",
    "Limits",
    "ModelNotAllowedError",
    "NotFoundError",
    "Observer",
    "OutputError",
    "PermissionDeniedError",
    "Progress",
    "PromptTooLongError",
    "ProtocolError",
    "QuotaExceededError",
    "RateLimitError",
    "RawResponse",
    "ReasoningDelta",
    "RefusalDelta",
    "Result",
    "Retry",
    "Run",
    "Started",
    "Stream",
    "StreamCancelledError",
    "StreamInterruptedError",
    "TextDelta",
    "Timeout",
    "ToolCall",
    "ToolCallDelta",
    "ToolFinished",
    "ToolRun",
    "ToolStarted",
    "ToolStream",
    "Turn",
    "UnprocessableEntityError",
    "Usage",
    "UsageRecord",
    "__version__",
    "image",
]

_HOMES = {
    "Client": "_client",
    "Embeddings": "_embeddings",
    "RawResponse": "_request",
    "Turn": "_conversation.turn",
    "image": "_picture",
    "AsyncClient": "_async_client",
    "AsyncStream": "_async_client",
    "AsyncRun": "_batch.async_run",
    "Limits": "_batch.limits",
    "Progress": "_batch.progress",
    "Result": "_batch.result",
    "Run": "_batch.run",
    "Stream": "_stream",
    **dict.fromkeys(("AsyncToolStream", "ToolStream"), "_tools"),
    "AsyncConversation": "_conversation.async_conversation",
    "Conversation": "_conversation.conversation",
    **dict.fromkeys(("CallView", "Observer"), "_observe"),
    **dict.fromkeys(("Balance", "UsageRecord"), "_account"),
    **dict.fromkeys(("Retry", "Timeout"), "_policy"),
    **dict.fromkeys(("AsyncGeneratorProvider", "ChatAnywhere", "ChatAnywhereAPI"), "provider"),
    **dict.fromkeys(
        (
            "Choice",
            "Completion",
            "Extra",
            "Finished",
            "ReasoningDelta",
            "RefusalDelta",
            "Started",
            "TextDelta",
            "ToolCall",
            "ToolCallDelta",
            "ToolFinished",
            "ToolRun",
            "ToolStarted",
            "Usage",
        ),
        "_types",
    ),
}
"""Where the names are at home; the errors, which are the rest, are in `_errors`. A name is imported when asked for."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{_HOMES.get(name, '_errors')}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Add `%%chat` to IPython; it is what `%load_ext chatanywhere` calls.

    Raises:
        ImportError: IPython is missing.
    """
    from .notebook import load_ipython_extension as load

    load(shell)


def unload_ipython_extension(shell: InteractiveShell) -> None:
    """Take `%%chat` away, as `%unload_ext chatanywhere` asks for."""
    from .notebook import unload_ipython_extension as unload

    unload(shell)
