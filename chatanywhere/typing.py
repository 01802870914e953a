"""Names for annotations in programs that use this package."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Iterator
from typing import Protocol

from ._types import Event, Message, Messages

__all__ = ["AsyncResult", "CreateResult", "Event", "Message", "Messages"]


class AsyncResult(AsyncGenerator[str, None], Awaitable[AsyncGenerator[str, None]], Protocol):
    """What `create_async_generator` returns: iterate it, or await it first and then iterate it."""


CreateResult = Iterator[str]
"""What `create_completion` returns."""
