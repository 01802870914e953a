"""What a decoder of answers is. No I/O."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Decoder(ABC, Generic[T]):
    """Turns the content of one answer into events; an answer that is read at once has one, its value."""

    @property
    def done(self) -> bool:
        """The answer is over, whether or not the connection says so too."""
        return False

    @property
    def chunks(self) -> list[str]:
        """The JSON of the objects that the answer consists of, as far as they have come."""
        return []

    def is_whole(self, choices: int) -> bool:
        """Whether nothing is missing if the answer ends here: all choices have, and they are at least so many."""
        return self.done

    @abstractmethod
    def feed(self, block: bytes, events: list[T]) -> None:
        """Append to `events` those that `block` completes; pieces of one kind in a row are one event.

        Raises:
            ProtocolError, APIStatusError: something is wrong; the events before that place have been appended.
        """

    @abstractmethod
    def finish(self, events: list[T]) -> Iterable[None] | None:
        """Append what is left when the content has ended.

        Where that takes long, an iterable is returned that does it, with pauses.

        Raises (also while that is iterated):
            StreamInterruptedError, ProtocolError: it ended too early, or is not what the protocol allows; what could be
                read has been appended.
        """
