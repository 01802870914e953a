"""Names for annotations in programs that use this package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping, Sequence
from typing import Any, TypedDict

from ._types import Event, Message, Messages, MessagesLike, ToolEvent

__all__ = ["AsyncResult", "ChatOptions", "CreateResult", "Event", "Message", "Messages", "MessagesLike", "ToolEvent"]


class ChatOptions(TypedDict, total=False):
    """The fields of a chat's body that services know, as keywords of `stream` and `complete`.

    Only what is given is sent, and None is not. A service may take others, which are sent as they are.
    https://platform.openai.com/docs/api-reference/chat/create says what each means.
    """

    audio: Mapping[str, Any] | None
    frequency_penalty: float | None
    function_call: str | Mapping[str, Any] | None
    functions: Sequence[Mapping[str, Any]] | None
    logit_bias: Mapping[str, float] | None
    logprobs: bool | None
    max_completion_tokens: int | None
    max_tokens: int | None
    metadata: Mapping[str, str] | None
    modalities: Sequence[str] | None
    moderation: Mapping[str, Any] | None
    n: int | None
    parallel_tool_calls: bool | None
    prediction: Mapping[str, Any] | None
    presence_penalty: float | None
    prompt_cache_key: str | None
    prompt_cache_options: Mapping[str, Any] | None
    prompt_cache_retention: str | None
    reasoning_effort: str | None
    safety_identifier: str | None
    seed: int | None
    service_tier: str | None
    stop: str | Sequence[str] | None
    store: bool | None
    stream_options: Mapping[str, Any] | None
    temperature: float | None
    tool_choice: str | Mapping[str, Any] | None
    tools: Sequence[Mapping[str, Any]] | None
    top_logprobs: int | None
    top_p: float | None
    user: str | None
    verbosity: str | None
    web_search_options: Mapping[str, Any] | None


class AsyncResult(AsyncGenerator[str, None]):
    """What `create_async_generator` returns: iterate it, or await it first and then iterate it."""

    @abstractmethod
    def __await__(self) -> Generator[None, None, AsyncGenerator[str, None]]:
        """Return the generator itself, at once."""


CreateResult = Iterator[str]
"""What `create_completion` returns."""
