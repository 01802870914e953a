"""What calls find out about the hosts of a service. Its calls share it, in whatever threads they are made."""

from __future__ import annotations

import copy
from time import monotonic

REST = 60.0
"""Seconds for which others are asked before a host that has failed."""


class Hosts:
    """The base URLs of a service, and what is known of them.

    Attributes:
        refused: by base URL, the fields of a body that had to be left out.
    """

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._urls = urls
        self._resting: dict[str, float] = {}  # hosts that have failed, and until when others are asked first
        self.refused: dict[str, frozenset[str]] = {}

    @property
    def in_turn(self) -> tuple[str, ...]:
        """The base URLs in the order in which they are to be asked: those that have just failed come last."""
        if not self._resting:
            return self._urls
        now = monotonic()
        return tuple(sorted(self._urls, key=lambda host: self._resting.get(host, now) > now))

    def rest(self, host: str) -> None:
        """Ask others first for a while: this host has failed."""
        self._resting[host] = monotonic() + REST

    def wake(self, host: str) -> None:
        """Ask a host in its turn: it has answered."""
        self._resting.pop(host, None)

    def only(self, host: str) -> Hosts:
        """Return the same with one host, and what is known of it."""
        alone = copy.copy(self)
        alone._urls = (host,)
        return alone
