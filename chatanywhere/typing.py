"""Names for annotations in programs that use this package."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Generator, Iterator

from ._types import Event, Message, Messages

__all__ = ["AsyncResult", "CreateResult", "Event", "Message", "Messages"]


class AsyncResult(AsyncGenerator[str, None]):
    """What `create_async_generator` returns: iterate it, or await it first and then iterate it."""

    @abstractmethod
    def __await__(self) -> Generator[None, None, AsyncGenerator[str, None]]:
        """Return the generator itself, at once."""


CreateResult = Iterator[str]
"""What `create_completion` returns."""
