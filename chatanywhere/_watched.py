"""A call that tells observers what becomes of it. Only clients that have observers make such calls."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any, TypeVar

from ._accumulator import Accumulator
from ._call import Call, State, Step
from ._config import Settings
from ._errors import ChatAnywhereError, StreamCancelledError
from ._hosts import Hosts
from ._http.exchange import HTTPResponse
from ._http.transport import HTTPRequest, Transport
from ._observe import CallView, Notifier, in_hook
from ._protocols.fields import read_usage
from ._protocols.protocol import Endpoint
from ._secrets import without_secrets
from ._types import Extra, Finished, ReasoningDelta, RefusalDelta, Started, TextDelta, ToolCallDelta, Usage

T = TypeVar("T")

_SPOKEN = (TextDelta, ReasoningDelta, RefusalDelta, ToolCallDelta)

_ids = itertools.count(1)


class _Facts:
    """What one attempt is, and has come to, for the views of it.

    Attributes:
        asked: what views show of the request.
        request: its JSON, for observers that capture content.
        accumulator: puts the answer together, for observers that capture content.
    """

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.asked = asked
        self.request: Mapping[str, Any] | None = None
        self.response_bytes = 0
        self.has_spoken = False
        self.id: str | None = None
        self.response_model: str | None = None
        self.finish_reasons: dict[int, str] = {}
        self.usage: Usage | None = None
        self.accumulator: Accumulator | None = None

    def note(self, event: object) -> None:
        """Take note of what an answer says beside its text."""
        if isinstance(event, Usage):
            self.usage = event
        elif isinstance(event, Started):
            self.id = self.id or event.id
            self.response_model = self.response_model or event.model
        elif isinstance(event, Finished):
            self.finish_reasons[event.index] = event.reason
        elif not isinstance(event, Extra):  # the value of another endpoint, such as that of embeddings
            answer = event[0] if isinstance(event, tuple) else event
            if isinstance(answer, bytes) and self.asked["model"]:  # else it may be a file of any size
                answer = _object(answer)
            if isinstance(answer, dict):  # JSON as it is
                model, usage = answer.get("model"), answer.get("usage")
                usage = read_usage(usage) if isinstance(usage, dict) else None
            else:
                model, usage = getattr(answer, "model", None), getattr(answer, "usage", None)
            self.response_model = model if isinstance(model, str) else None
            self.usage = usage if isinstance(usage, Usage) else None


class WatchedCall(Call[T]):
    """A `Call` with observers."""

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        hosts: Hosts,
        endpoint: Endpoint[T],
        body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(settings, transport, hosts, endpoint, body, **options)
        self._notifier = Notifier(tuple(settings.observers))
        self._captures = self._notifier.captures and endpoint.operation == "chat"
        self._body = body or {}
        self._id = next(_ids)
        self._process = os.getpid()
        self._began: float | None = None  # when it was first asked for an event
        self._is_over = False
        self._cancelled: StreamCancelledError | None = None  # what a reader will get, if one comes
        self._told_failures = 0  # the number of the last attempt that they were told has failed
        self._facts = self._new_facts(self._content())

    # What happens -------------------------------------------------------------------------------------------

    def next(self) -> T | Step:
        """See `Call.next`."""
        if self._began is None:
            self._began = monotonic()
            if not in_hook():
                self._tell("call_started")
        event = super().next()
        if not isinstance(event, Step):
            self._note(event)
        elif event is Step.END:
            self._end(None, completed=self.state is State.COMPLETE)
        return event

    def _note(self, event: T) -> None:
        facts = self._facts
        if facts.accumulator is not None:
            facts.accumulator.add(event)  # type: ignore[arg-type]  # of a chat
        if not isinstance(event, _SPOKEN):
            facts.note(event)
        elif not facts.has_spoken:
            facts.has_spoken = True
            self._tell("first_text")

    def failed(self, error: ChatAnywhereError) -> None:
        """See `Call.failed`."""
        self._end(error)

    def _request(self, host: str) -> HTTPRequest:
        request = super()._request(host)
        self._facts = self._new_facts(request.content)
        return request

    def accept(self, data: bytes) -> None:
        """See `Call.accept`."""
        if self._reading is not None:
            self._facts.response_bytes += len(data)
        super().accept(data)

    def _begin_reading(self, response: HTTPResponse, data: bytes) -> None:
        self._facts.response_bytes = len(data)
        super()._begin_reading(response, data)
        if self.response is not None:
            self._tell("answer_started")

    def _attempt_failed(self, error: ChatAnywhereError, wait: float | None) -> None:
        # Where the time is up before the next attempt, the last one is not told again.
        if self._attempts > self._told_failures and not isinstance(error, StreamCancelledError):
            self._told_failures = self._attempts
            self._tell("attempt_failed", error=error, wait=wait)

    def stop_waiting(self, error: BaseException | None = None) -> None:
        """See `Call.stop_waiting`."""
        super().stop_waiting(error)
        if error is not None and not isinstance(error, ChatAnywhereError):
            self._end(_from_outside(error))

    def cancel(self, text: str = "") -> None:
        """See `Call.cancel`."""
        super().cancel()
        state, interrupt = self.state, _interrupt()
        if interrupt is not None:
            self._end(interrupt)
        elif state in (State.READY, State.WAITING) and not self._is_over:
            error = self._cancelled = super()._cancellation()
            error.partial = text
            self.annotate(error)
            if state is State.READY:  # else a reader is there, and says that it has failed
                self._end(error)

    def _cancellation(self) -> StreamCancelledError:
        error, self._cancelled = self._cancelled, None  # its traceback is to hold this call
        return error or super()._cancellation()

    def close(self) -> None:
        """See `Call.close`."""
        super().cancel()
        self._end(_interrupt() or self._cancelled)

    # Telling ------------------------------------------------------------------------------------------------

    def _end(self, error: BaseException | None, *, completed: bool = False) -> None:
        if not self._is_over:
            self._tell("call_ended", error=error, completed=completed)
            self._is_over = self._notifier.begun  # else Ctrl-C was faster, and `close` tells it; nobody is told twice

    def _tell(self, hook: str, **more: Any) -> None:
        # A process that was forked has got a copy of the call, which is its parent's.
        if not (self._notifier.begun or hook == "call_started") or self._process != os.getpid():
            return
        facts, completion = self._facts, None
        if facts.accumulator is not None and hook == "call_ended":
            completion = facts.accumulator.completion(self.request_id, self.chunks, model=facts.asked["model"])
        self._notifier.tell(hook, self._view(facts, **more), facts.request, completion)

    def _new_facts(self, content: bytes | None) -> _Facts:
        endpoint, hide, left_out = self._endpoint, self._all_secrets().hide, self._left_out()
        fields = {**self._body, **self._alternatives[self._alternative]}
        fields = {name: value for name, value in fields.items() if name not in left_out}
        asked = {
            "call_id": self._id,
            "operation": endpoint.operation,
            "path": hide(endpoint.path),
            "model": hide(self.name) or None,
            "host": hide(without_secrets(self._host.partition("?")[0])),
            "streamed": endpoint.operation == "chat" and not endpoint.silent,
            "parameters": _parameters(fields),
            "request_bytes": len(content or b""),
        }
        facts = _Facts(asked)
        if self._notifier.captures and self._body and content is not None:
            facts.request = _object(content)  # what the body holds need not be JSON
        if self._captures:
            facts.accumulator = Accumulator(keep_text=self.keeps_text)
        return facts

    def _view(self, facts: _Facts, **more: Any) -> CallView:
        hide = self._all_secrets().hide
        response = None if self.exchange is None else self.exchange.response
        request_id = None if response is None else response.request_id
        return CallView(
            **facts.asked,
            attempt=max(1, self._attempts),
            seconds=monotonic() - (self._began or 0.0),
            response_bytes=facts.response_bytes,
            status_code=None if response is None else response.status_code,
            request_id=request_id and hide(request_id),
            response_id=facts.id and hide(facts.id),
            response_model=facts.response_model and hide(facts.response_model),
            finish_reasons=tuple(hide(reason) for _, reason in sorted(facts.finish_reasons.items())),
            usage=facts.usage,
            **more,
        )


def _parameters(fields: Mapping[str, Any]) -> dict[str, Any]:
    """What can't be anybody's words."""
    found: dict[str, Any] = {name: value for name, value in fields.items() if isinstance(value, (int, float))}
    wanted = fields.get("response_format")
    if isinstance(wanted, Mapping) and wanted.get("type") in ("json_object", "json_schema", "text"):
        found["response_format"] = wanted["type"]
    return found


def _object(content: bytes) -> dict[str, Any] | None:
    """Read an object's JSON; None where it is something else."""
    try:
        value = json.loads(content)
    except (RecursionError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _interrupt() -> BaseException | None:
    """What interrupts the call from outside, such as Ctrl-C or the cancelling of its task, if anything does."""
    error = sys.exc_info()[1]
    return None if isinstance(error, Exception) else _from_outside(error)


def _from_outside(error: BaseException | None) -> BaseException | None:
    """What ends a coroutine that is forgotten interrupts nobody."""
    return None if isinstance(error, GeneratorExit) else error
