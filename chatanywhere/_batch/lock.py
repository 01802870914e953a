"""A lock that says who holds it: a file beside the one that is locked. The system lets go of it when a process ends."""

from __future__ import annotations

import errno
import os
import socket
import sys
from contextlib import suppress

_TAKEN = (errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_held: dict[str, FileLock] = {}  # by this process: on network file systems, one does not lock itself out


class FileLock:
    """Held from its creation until `release`.

    Args:
        path: what is locked; the lock is this file with `.lock` behind it.

    Raises:
        RuntimeError: somebody holds it; the message says who.
        OSError: the file can't be made.
    """

    def __init__(self, path: str) -> None:
        self._path = os.path.realpath(path) + ".lock"
        if self._path in _held:
            holder = f"this process ({os.getpid()} on {socket.gethostname()})"
            raise RuntimeError(_taken(path, holder, "let that run end, or close() it"))
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o600)
            try:
                _lock(self._file)
            except OSError as exc:
                if exc.errno not in _TAKEN:
                    os.close(self._file)
                    raise OSError(exc.errno, f"the file system has no locks: {exc.strerror}", self._path) from exc
                holder = os.read(self._file, 300).decode(errors="replace").strip()
                os.close(self._file)
                raise RuntimeError(_taken(path, f"process {holder}" if holder else "another process")) from None
            if _is_at(self._file, self._path):
                break
            os.close(self._file)  # who held it has just removed it
        _held[self._path] = self
        try:
            os.ftruncate(self._file, 0)
            os.write(self._file, f"{os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError as exc:  # the disk is full
            self.release()
            raise OSError(exc.errno, exc.strerror, self._path) from exc

    def release(self) -> None:
        """Let go of it. May be called again."""
        if _held.get(self._path) is not self:
            return
        with suppress(OSError):  # Windows keeps a file that is open
            os.unlink(self._path)
        os.close(self._file)
        del _held[self._path]


def _forget() -> None:
    """A forked child holds nothing; else the lock would outlive its parent."""
    for lock in _held.values():
        os.close(lock._file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


def _taken(path: str, holder: str, remedy: str = "let that run end") -> str:
    return f"the journal {path} is held by {holder}: {remedy}, or take another journal="


def _is_at(file: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        os.lseek(file, 1 << 20, os.SEEK_SET)  # what is locked can't be read by others
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
