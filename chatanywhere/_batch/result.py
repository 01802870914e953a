"""What has become of a prompt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic

from .._types import Completion, Parsed


@dataclass(frozen=True)
class Result(Generic[Parsed]):
    """What has become of one prompt of a run: it has a completion or an error.

    Attributes:
        index: its number among the prompts, from 0.
        id: its `id`, where it is a dict that has one.
        prompt: as it was given.
        completion: the answer.
        error: why there is none.
        attempts: how many there were; those that the service had no time for are not counted.
        seconds: how long they took, with the waits between them.
        from_journal: an earlier run has asked.
    """

    index: int
    id: Any
    prompt: Any = field(repr=False, hash=False)
    completion: Completion[Parsed] | None
    error: Exception | None
    attempts: int
    seconds: float
    from_journal: bool = False

    @property
    def text(self) -> str:
        """The text of the answer.

        Raises:
            ChatAnywhereError: there is none; it is `error`.
        """
        if self.completion is None:
            assert self.error is not None
            raise self.error
        return self.completion.text
