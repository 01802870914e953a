"""An answer on its way into the store: saved while it comes, so that little is lost if the program is killed."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

from .database import StoreError
from .message import as_json

_INTERVAL = 1.0  # seconds between two savings


class AnswerInStore:
    """An answer on its way into the store. Made by `Store.answer` and `Store.reopen`.

    Attributes:
        id: of its message.
        conversation: the id of its conversation.
    """

    def __init__(self, update: Callable[..., None], conversation: str, id: int) -> None:
        self.id = id
        self.conversation = conversation
        self._update = update
        self._began = time.monotonic()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def follow(self, said: Callable[[], tuple[str, str]]) -> None:
        """Save the answer once a second from now on, where something has come, until it is finished.

        In a thread, because who reads the answer waits for it.

        Args:
            said: returns the text and the reasoning so far.
        """
        self._thread = threading.Thread(target=self._save, args=(said,), daemon=True)
        self._thread.start()

    def _save(self, said: Callable[[], tuple[str, str]]) -> None:
        saved = ("", "")
        while not self._ended.wait(_INTERVAL):
            now = said()
            if now != saved:
                with contextlib.suppress(StoreError):  # `finish` will say so
                    self._update(self.id, content=now[0], reasoning=now[1])
                saved = now

    def finish(self, status: str, **columns: Any) -> None:
        """Store how the answer has ended; if it is complete, the conversation goes on behind it.

        Args:
            status: `"complete"`, `"cut"` or `"failed"`.
            columns: of the table of messages: `content`, `reasoning`, `model` …; `tool_calls` and `fields` as values.
        """
        self._ended.set()
        if self._thread is not None:
            with contextlib.suppress(RuntimeError):  # Ctrl-C came before it had begun; it will end at once
                self._thread.join()
        for name in ("tool_calls", "fields"):
            if name in columns:
                columns[name] = as_json(columns[name])
        columns.setdefault("milliseconds", round((time.monotonic() - self._began) * 1000))
        complete = self.conversation if status == "complete" else None
        self._update(self.id, complete, status=status, **columns)
