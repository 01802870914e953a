"""The async face of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .._async_client import AsyncClient, AsyncStream
from .._attachment import FileLike
from .._types import Completion, MessagesLike, ToolFinished, ToolRun
from .conversation import BaseConversation
from .turn import Asking

if TYPE_CHECKING:
    from .._config import Model
    from .._types import ResponseFormat, Wanted


class AsyncConversation(BaseConversation[AsyncClient, AsyncStream]):
    """The same conversation for asyncio and trio. Made by `AsyncClient.conversation`."""

    _is_async = True

    async def send(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> Completion[Wanted]:
        """Ask, and return the whole answer; see `Conversation.send`."""
        return await self._read(self._ask(text, files, model, options, response_format))

    def stream(
        self,
        text: str | MessagesLike,
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> AsyncStream[Wanted]:
        """Prepare to ask, and return the answer's stream; see `Conversation.stream`."""
        return self._stream(self._ask(text, files, model, options, response_format))

    async def retry(self, *, model: Model | None = None, **options: Any) -> Completion:
        """Ask the last question again; see `Conversation.retry`."""
        return await self._read(self._ask_again(model, options))

    async def resume(self, *, model: Model | None = None, **options: Any) -> Completion:
        """Go on with the last answer; see `Conversation.resume`."""
        return await self._read(self._ask_for_the_rest(model, options))

    async def run_tools(
        self,
        text: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        files: Iterable[FileLike] = (),
        *,
        model: Model | None = None,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None = None,
        **options: Any,
    ) -> ToolRun:
        """Ask, and run the functions that the model calls; see `Conversation.run_tools`."""
        return await self._run(self._ask(text, files, model, {"on_round": on_round, **options}, tools=tools))

    async def _read(self, asking: Asking) -> Completion[Any]:
        if asking.runs_tools:
            return (await self._run(asking)).completion
        with self._turns.answering(asking):
            return self._turns.complete(asking, await self._client.complete(**asking.request()))

    async def _run(self, asking: Asking) -> ToolRun[Any]:
        with self._turns.answering(asking):
            run = await self._client.run_tools(**asking.request_with_tools())
            self._turns.complete(asking, run.completion)
        return run
