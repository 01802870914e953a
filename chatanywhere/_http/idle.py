"""Connections between two calls."""

from __future__ import annotations

from time import monotonic

from .connections import Connection
from .sockets import has_ended

MAX_IDLE = 100
"""Idle connections that are kept."""


class IdleConnections:
    """Those that wait for another call, the one that was used last in front.

    There is no lock: a signal handler, or Ctrl-C, that came while it is held would leave it locked for good.
    Appending to a list and removing from it can't be interrupted.
    """

    def __init__(self, expiry: float | None) -> None:
        self._expiry = expiry
        self._closed = False
        self._idle: list[_Idle] = []
        self._next_sweep = 0.0

    def take(self, origin: str) -> Connection | None:
        """Return a connection to this origin that has not ended."""
        now = monotonic()
        if now >= self._next_sweep:
            self._sweep(now)
        for entry in self._idle[::-1]:  # a copy: others take and sweep meanwhile
            mine = False
            try:
                mine = entry.origin == origin and self._remove(entry)
                if mine and not self._is_over(entry, now):
                    return entry.connection
            except BaseException:
                if mine:
                    entry.connection.close()
                raise
            if mine:
                entry.connection.close()
                self._sweep(now)  # where one has ended, others have
        return None

    def put(self, origin: str, connection: Connection) -> None:
        """Keep a connection, whose answer has been read to its end."""
        if self._expiry == 0:
            connection.close()
            return
        self._idle.append(_Idle(origin, connection))
        for entry in list(self._idle) if self._closed else self._idle[:-MAX_IDLE]:
            self._close(entry)

    def close(self) -> None:
        """Close them all, and those that are still to come."""
        self._closed = True
        for entry in list(self._idle):
            self._close(entry)

    def _sweep(self, now: float) -> None:
        """Close those that have expired, and those that the server has closed."""
        self._next_sweep = now + 1
        for entry in list(self._idle):
            if self._is_over(entry, now):
                self._close(entry)

    def _is_over(self, entry: _Idle, now: float) -> bool:
        if self._expiry is not None and now - entry.since > self._expiry:
            return True
        sock = entry.connection.sock  # None where another thread has taken it meanwhile, and closed it
        return sock is None or has_ended(sock)

    def _close(self, entry: _Idle) -> None:
        if self._remove(entry):
            entry.connection.close()

    def _remove(self, entry: _Idle) -> bool:
        """Whether this thread has it now."""
        try:
            self._idle.remove(entry)
        except ValueError:
            return False
        return True


class _Idle:
    def __init__(self, origin: str, connection: Connection) -> None:
        self.origin = origin
        self.connection = connection
        self.since = monotonic()
