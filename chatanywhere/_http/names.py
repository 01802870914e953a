"""How the addresses of a host are found.

`socket`, `queue` and `threading` are asked for their classes and functions when these are needed, so that gevent and
eventlet may replace them before or after this file is imported.
"""

from __future__ import annotations

import copy
import errno
import os
import queue
import socket
import threading
from typing import Any

from .scope import CallScope

AddressInfo = tuple[int, int, int, str, tuple[Any, ...]]
"""Family, type, protocol, canonical name, address: as from `socket.getaddrinfo`."""


def resolve(scope: CallScope, host: str, port: int) -> list[AddressInfo]:
    """Look a name up, waiting no longer than the call may take.

    `getaddrinfo` can't be interrupted, so it runs in a thread of its own, which is left behind when it takes too
    long. Who asks for a name that is being looked up already shares that thread, so a resolver that hangs costs one
    thread for each name.

    Raises:
        socket.gaierror: there is no such name.
        OSError: it could not be looked up, the time is up, or the call was cancelled.
    """
    try:
        return _look_up(host, port, socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        pass  # a name, not an address
    try:
        while True:
            limit = scope.budget()
            found = _lookup(host, port).wait(scope, limit)
            if isinstance(found, Exception):
                raise copy.copy(found)  # all who wait get the same one
            if found is not None:
                return list(found)
    except UnicodeError as exc:
        raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {host!r}") from exc


def _look_up(host: str, port: int, flags: int = 0) -> list[AddressInfo]:
    try:
        found: list[Any] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    except socket.gaierror:
        if not flags:
            _check_descriptors()
        raise
    return found


def _check_descriptors() -> None:
    """Raise an OSError if no file can be opened: the C library may say of every name then that there is none."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise OSError(exc.errno, exc.strerror) from None


class _Lookup:
    """A name that is being looked up, for all who have asked for it since. A signal handler may ask, too."""

    def __init__(self, key: tuple[Any, ...]) -> None:
        self.starter: int | None = threading.get_ident()
        """The thread that is about to start the lookup, None when it has begun."""
        self._key = key
        self._waiting: set[queue.SimpleQueue[Any]] = set()
        self._over = False
        self._outcome: list[AddressInfo] | Exception | None = None

    def start(self, host: str, port: int) -> None:
        """Look the name up in a thread, or here if none can be started."""
        name = f"chatanywhere-resolve-{host}"
        try:
            threading.Thread(target=self._run, args=(host, port), name=name, daemon=True).start()
        except RuntimeError:  # the interpreter ends, a subinterpreter has no daemons, or the system allows no more
            self.end(_look_up(host, port))

    def _run(self, host: str, port: int) -> None:
        self.starter = None
        outcome: list[AddressInfo] | Exception | None = None
        try:
            outcome = _look_up(host, port)
        except Exception as exc:
            outcome = exc.with_traceback(None)
        finally:
            self.end(outcome)

    def end(self, outcome: list[AddressInfo] | Exception | None) -> None:
        """Tell all who wait; with None, that they have to ask again."""
        if _in_flight.get(self._key) is self:
            _in_flight.pop(self._key, None)
        # In this order: who joins meanwhile either is among those who wait, or sees that it is over.
        self._outcome = outcome
        self._over = True
        for mailbox in tuple(self._waiting):
            mailbox.put(outcome)

    def wait(self, scope: CallScope, limit: float | None) -> list[AddressInfo] | Exception | None:
        """Return the outcome; None if there is none, the `limit` in seconds is up, or the call was cancelled."""
        mailbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._waiting.add(mailbox)
        try:
            return self._outcome if self._over else scope.wait(mailbox, limit)
        finally:
            self._waiting.discard(mailbox)


_in_flight: dict[tuple[Any, ...], _Lookup] = {}


def _lookup(host: str, port: int) -> _Lookup:
    """Return the lookup of this name that is in flight, or a new one."""
    # The thread of a lookup that was in flight before a fork is the parent's; another resolver may know other names.
    key = (os.getpid(), socket.getaddrinfo, host, port)
    new = _Lookup(key)
    try:
        lookup = _in_flight.setdefault(key, new)
        if lookup is not new and lookup.starter != new.starter:
            return lookup
        # The other case is a signal handler's, which came while this thread was about to start that lookup.
        new.start(host, port)
    except BaseException:
        new.end(None)
        raise
    return new
