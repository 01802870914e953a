"""How a TCP connection is made: which addresses are tried when, and with which options.

Sockets are used, not subclassed, and `socket` and `select` are asked for their classes and functions when these are
needed, so that gevent and eventlet may replace them before or after this file is imported.
"""

from __future__ import annotations

import errno
import itertools
import math
import os
import select
import socket
from collections.abc import Iterable
from time import monotonic
from typing import Any

from .._policy import Timeout
from .names import AddressInfo, resolve
from .scope import CallScope
from .sockets import raised_by_program, shut_down

ATTEMPT_DELAY = 0.25
"""Seconds that an address has for its answer before the next one is tried beside it (RFC 8305, section 5)."""

FAMILY_MEMORY = 600.0
"""Seconds for which the address family that worked for a host is tried first."""

LONGEST_SILENCE = 30
"""Seconds after which a path that answers nothing counts as dead, however long the limits are."""

Option = tuple[int, int, int]
"""Level, name, value: as for `socket.socket.setsockopt`."""


def dial(scope: CallScope, host: str, port: int, options: Iterable[Option] = ()) -> socket.socket:
    """Connect to the address of `host` that answers first, trying them as RFC 8305 says.

    Args:
        scope: limits it; `cancel()` ends it at once, from any thread.
        host: a name or an address.
        port: a number.
        options: are set where the platform has them.

    Returns:
        A plain socket without a timeout. It is not attached to the scope: whoever attaches it has to ask the scope
        afterwards whether the call was cancelled meanwhile.

    Raises:
        socket.gaierror: there is no such name.
        TimeoutError: the time is up, which the scope knows then, or the operating system gave up.
        OSError: no address could be connected to, or the call was cancelled.
    """
    addresses = _in_order(host, resolve(scope, host, port))
    race = _Race(scope)
    try:
        scope.attach(race)
        sock = race.run(addresses)
        set_options(sock, options)  # not before it is connected: TCP_USER_TIMEOUT limits that, too
        sock.settimeout(None)
        if sock.family != addresses[0][0]:
            _worked[host] = (sock.family, monotonic() + FAMILY_MEMORY)
        race.end(winner=sock)
        scope.budget()
        return sock
    except BaseException:
        race.end(winner=None)
        raise


_worked: dict[str, tuple[int, float]] = {}
"""By host: the family that won over the one that was tried first, and when to forget that."""


def _in_order(host: str, addresses: list[AddressInfo]) -> list[AddressInfo]:
    """Let the families alternate (RFC 8305, section 4), the resolver's first one first unless another has worked."""
    families: dict[int, list[AddressInfo]] = {}
    for address in addresses:
        families.setdefault(address[0], []).append(address)
    if len(families) < 2:
        return addresses
    worked, until = _worked.get(host, (0, 0.0))
    if worked in families and monotonic() < until:
        families = {worked: families.pop(worked), **families}
    turns = itertools.zip_longest(*families.values())
    return [address for turn in turns for address in turn if address is not None]


class _Race:
    """The connections to one host's addresses that are being made; the first that stands wins."""

    def __init__(self, scope: CallScope) -> None:
        self._scope = scope
        self._sockets: list[socket.socket] = []
        self._failure = OSError(errno.EADDRNOTAVAIL, "the host has no address")

    def shut_down(self) -> None:
        """Wake whoever waits for them."""
        for sock in tuple(self._sockets):
            shut_down(sock)

    def run(self, addresses: list[AddressInfo]) -> socket.socket:
        """Return the first connection that stands. `end` has to be called in any case.

        Raises:
            OSError: none does; this is the last one's reason.
        """
        coming = list(reversed(addresses))
        due = 0.0
        while coming or self._sockets:
            if coming and monotonic() >= due:
                if self._begin(coming.pop()):
                    due = monotonic() + ATTEMPT_DELAY
                continue
            # Asked after connecting has begun: a cancel() that came too early to shut it down is noticed here.
            limit = self._scope.budget()
            if coming:
                pause = max(0.0, due - monotonic())
                limit = pause if limit is None else min(limit, pause)
            for sock in _connected_or_failed(self._sockets, limit):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                # One that was reset had been established: a server that refuses says ECONNREFUSED.
                if code in (0, errno.ECONNRESET):
                    return sock
                self._fail(sock, code)
                due = 0.0
        self._scope.budget()
        raise self._failure

    def _begin(self, address: AddressInfo) -> bool:
        """Begin to connect; return whether that did not fail at once."""
        family, kind, protocol, _, target = address
        try:
            self._sockets.append(socket.socket(family, kind, protocol))  # one line, so that none is open and unknown
        except OSError as exc:  # no such family here, or no descriptor left
            if raised_by_program(exc):
                raise
            self._failure = exc
            return False
        sock = self._sockets[-1]
        sock.settimeout(0)
        code = sock.connect_ex(target)
        if code in (0, errno.EINPROGRESS, errno.EWOULDBLOCK):
            return True
        self._fail(sock, code)
        return False

    def _fail(self, sock: socket.socket, code: int) -> None:
        self._failure = OSError(code, os.strerror(code))
        with self._scope.closing():
            sock.close()
        self._sockets.remove(sock)

    def end(self, winner: socket.socket | None) -> None:
        """Let go of the scope, and close all but the winner."""
        self._scope.detach()
        for sock in self._sockets:
            if sock is not winner:
                sock.close()


def _connected_or_failed(sockets: list[socket.socket], seconds: float | None) -> list[socket.socket]:
    """Wait for an end of connecting, for so long or without a limit; return those that have come to theirs."""
    if not hasattr(
        select, "poll"
    ):  # on Windows; and eventlet takes it away, whose own select has no highest descriptor
        _, connected, failed = select.select([], sockets, sockets, seconds)
        return [sock for sock in sockets if sock in connected or sock in failed]
    by_descriptor = {sock.fileno(): sock for sock in sockets}
    poll = select.poll()
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLOUT)
    ready = poll.poll(None if seconds is None else math.ceil(seconds * 1000))
    return [by_descriptor[descriptor] for descriptor, _ in ready]


def socket_options(timeout: Timeout, *, large: bool = False) -> list[Option]:
    """Return what the limits of a call ask of its connection, as far as the platform has it.

    A path that has died is noticed after half of the time for which the server may be silent, and after 30 s at the
    latest: keep-alive notices while an answer is awaited, TCP_USER_TIMEOUT while the request is on its way.

    Args:
        timeout: the limits.
        large: the request does not fit into the server's buffer. TCP_USER_TIMEOUT is off then, for it would end the
            connection to a server that takes its time to read, too.
    """
    limits = [limit / 2 for limit in (timeout.read, timeout.total) if limit is not None]
    seconds = max(1, int(min([LONGEST_SILENCE, *limits])))
    idle = max(1, seconds // 2)
    interval = max(1, (seconds - idle) // 3)
    wanted: list[tuple[int, str, int]] = [
        (socket.IPPROTO_TCP, "TCP_NODELAY", 1),
        (socket.SOL_SOCKET, "SO_KEEPALIVE", 1),
        (socket.IPPROTO_TCP, "TCP_KEEPIDLE" if hasattr(socket, "TCP_KEEPIDLE") else "TCP_KEEPALIVE", idle),
        (socket.IPPROTO_TCP, "TCP_KEEPINTVL", interval),
        (socket.IPPROTO_TCP, "TCP_KEEPCNT", 3),
        (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT", 0 if large else 1000 * seconds),  # Linux
    ]
    return [(level, getattr(socket, name), value) for level, name, value in wanted if hasattr(socket, name)]


def set_options(sock: Any, options: Iterable[Option]) -> None:
    """Set options on a connected socket, as far as the system has them."""
    for option in options:
        try:
            sock.setsockopt(*option)
        except OSError as exc:
            # macOS says EINVAL of a connection that its peer has ended already.
            if exc.errno not in (errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EINVAL):
                raise
