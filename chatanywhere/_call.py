"""One call: a request with its attempts and hosts, as a machine that says what has to be done next.

Every face shares it: `Call.next` gives out what has arrived and decides what follows, without waiting. A face has
only to do the waiting that it names, in a thread or on an event loop.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from ._config import Settings, check_types, checked_headers
from ._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatAnywhereError,
    StreamCancelledError,
)
from ._http.body import Body
from ._http.scope import CallScope
from ._http.transport import HTTPResponse, Transport
from ._policy import DEFAULT, Retry, RetryLike, Timeout, TimeoutLike
from ._protocols.protocol import Decoder, Endpoint, as_messages
from ._protocols.service import error_from

if TYPE_CHECKING:
    from ._types import Event, Messages

T = TypeVar("T")

_USER_AGENT = "chatanywhere-python"

MAX_ERROR_BYTES = 64 * 1024
"""Bytes that are read of an answer with an error status."""


class Step(enum.Enum):
    """What a reader has to do before there is another event."""

    OPEN = enum.auto()
    RECEIVE = enum.auto()
    PAUSE = enum.auto()  # nothing; but decoding goes on for so long that an event loop wants its turn
    END = enum.auto()  # nothing: the answer is over


class State(enum.Enum):
    """How far a call has come."""

    NEW = enum.auto()  # an attempt is to be made, the first or another one
    OPENING = enum.auto()  # somebody waits for an attempt to be answered
    READING = enum.auto()  # what has arrived is looked at
    RECEIVING = enum.auto()  # somebody waits for more to arrive
    COMPLETE = enum.auto()
    FAILED = enum.auto()
    CANCELLED = enum.auto()


_WAITING = (State.OPENING, State.RECEIVING)
_OVER = (State.COMPLETE, State.FAILED, State.CANCELLED)


class Service:
    """What a client asks: the settings, the connections, and which host worked last. Its faces share it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hosts = settings.hosts  # the one that worked last comes first
        self.transport = Transport(proxy=settings.proxy, verify=settings.ca)

    def chat(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        options: Mapping[str, Any],
    ) -> Call[Event]:
        """Prepare a chat.

        Raises:
            AuthenticationError: there is no key.
            ValueError, TypeError: an argument can't be sent.
        """
        self.settings.check_key()
        if "stream" in options:
            raise TypeError("stream= is not an option: stream() always streams, complete() returns the whole answer")
        check_types(model=model, headers=headers)
        wire = self.settings.wire
        body = wire.body(as_messages(messages), model or self.settings.default_model, options)
        return Call(self, wire.chat, body, timeout=timeout, retry=retry, headers=headers)

    def ask(self, endpoint: Endpoint[T]) -> Call[T]:
        """Prepare to ask an endpoint other than that of chats.

        Raises:
            AuthenticationError: there is no key.
            RuntimeError: the protocol has chats only.
        """
        wire = self.settings.wire
        if wire.chats_only:
            raise RuntimeError(f"the {wire.name} protocol has no {endpoint.path}: use protocol='openai'")
        self.settings.check_key()
        return Call(self, endpoint)

    def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self.transport.close()

    def describe(self) -> str:
        """What a client's repr says between its brackets."""
        settings = self.settings
        return f"protocol={settings.protocol!r}, base_url={self.hosts!r}, model={settings.default_model!r}"


class Call(Generic[T]):
    """One request with all its attempts.

    Args:
        service: what is asked.
        endpoint: what it is asked for.
        body: what is sent; None for nothing.
        timeout, retry, headers: as in `Client.stream`.

    Attributes:
        scope: its limits, and the means to stop it.
        state: how far it has come.
        response: the answer to the last attempt, None if there is none yet.
        delivered: the reader's word that a piece of the answer has been given out, so that no other attempt is made.
        close_response: closes the connection of `response`; an event loop that watches it has its own way.
    """

    def __init__(
        self,
        service: Service,
        endpoint: Endpoint[T],
        body: Mapping[str, Any] | None = None,
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        settings = service.settings
        self._service = service
        self._endpoint = endpoint
        self._content = None if body is None else endpoint.encode(body)
        self._headers = {**(settings.headers or {}), **checked_headers(headers)}
        self._retry = Retry.of(settings.retry if retry is DEFAULT else retry)
        self._attempts = 0
        self._wait = 0.0  # seconds, before the next attempt
        self._error: ChatAnywhereError | None = None  # why the last attempt was not answered
        self._reading: Reading[T] | None = None
        self._lock = threading.RLock()  # reentrant, because a signal handler may cancel what it interrupts
        self.scope = CallScope(Timeout.of(settings.timeout if timeout is DEFAULT else timeout))
        self.state = State.NEW
        self.response: HTTPResponse | None = None
        self.delivered = False
        self.close_response = _close_nothing

    # What a reader does -------------------------------------------------------------------------------------

    @property
    def is_waiting(self) -> bool:
        """Somebody waits for what comes next."""
        return self.state in _WAITING

    def next(self) -> T | Step:
        """Return the next event of what has arrived, or what has to be done to get one.

        Raises:
            ChatAnywhereError: the call failed; see `arrived`.
        """
        if self.state in _OVER:
            return Step.END
        if self.scope.cancelled:
            self._fail(StreamCancelledError("the call was cancelled"))
        if self.state is State.NEW:
            return Step.OPEN
        reading = self._reading
        if reading is None:
            assert self._error is not None, "a call is answered or fails"
            self._fail(self._error)  # `open` has made all the attempts there may be
        try:
            event = next(reading.events, Step.END)
        except BaseException:  # Ctrl-C while decoding: what was being decoded is lost, so nothing may follow it
            self.cancel()
            raise
        if event is None:
            try:
                self.scope.check()
            except ChatAnywhereError as error:
                reading.fail(error)
                reading.events = iter(())
            return Step.PAUSE
        if event is not Step.END:
            return event
        if reading.error is not None:
            return self._try_again(reading.error)
        if reading.complete:
            self._release()
            self.state = State.COMPLETE
            return Step.END
        if reading.done:
            self.scope.linger()
        return Step.RECEIVE

    def perform(self, step: Step) -> None:
        """Do what `next` asked for, blocking until it is done."""
        if step is Step.RECEIVE:
            self.receive()
        elif step is Step.OPEN:
            self.open()

    def open(self) -> None:
        """Make attempts, after the wait that is due: block until one is answered, or there may be no other."""
        with Waiting(self):
            self.start_waiting(State.OPENING)
            self._reading = self._error = self.response = None
            while self.response is None:
                if self._wait:
                    self.scope.sleep(self._wait)
                try:
                    self._attempt()
                except ChatAnywhereError as error:
                    wait = self._wait_before_next(error)
                    if wait is None:
                        raise
                    self._wait = wait

    def _attempt(self) -> None:
        self._attempts += 1
        response = self._reach()
        if not 200 <= response.status_code < 300:
            raise _status_error(response)
        decoder = self._endpoint.decoder(response.headers.get("content-type", ""))
        self._reading = Reading(response.body, decoder)
        self.close_response = response.close
        self.response = response
        if response.body.complete:  # an answer without one
            self.accept(b"")

    def receive(self) -> None:
        """Block until more of the answer has come."""
        assert self.response is not None
        with Waiting(self):
            self.start_waiting(State.RECEIVING)
            self.accept(self.response.receive())

    def read(self) -> T:
        """Block until the whole answer is there, and return it; for an endpoint whose answer is one value.

        Raises:
            ChatAnywhereError: the call failed.
        """
        values: list[T] = []
        try:
            while (event := self.next()) is not Step.END:
                if isinstance(event, Step):
                    self.perform(event)
                else:
                    values.append(event)
        finally:
            self.cancel()
        return values[-1]

    def accept(self, data: bytes) -> None:
        """Take what the connection gave; `b""` says that it has ended."""
        assert self._reading is not None
        self._reading.events = self._reading.feed(data)

    def arrived(self) -> Iterator[T]:
        """Give out what had arrived when the call failed."""
        if self._reading is not None:
            for event in self._reading.events:
                if event is None:
                    break
                yield event

    # Waiting ------------------------------------------------------------------------------------------------

    def start_waiting(self, state: State) -> None:
        """From now until `stop_waiting`, only the reader may close the connection; `cancel()` wakes it.

        What is being waited for must not be closed: its descriptor might become another connection's.

        Raises:
            StreamCancelledError: the call has been cancelled already, and the connection perhaps closed.
        """
        with self._lock:
            self.state = state
        if self.scope.cancelled:
            raise StreamCancelledError("the call was cancelled")

    def stop_waiting(self, error: BaseException | None = None) -> None:
        """The wait is over; `error` is how, if it was not in order."""
        try:
            if isinstance(error, ChatAnywhereError):
                if self._reading is None:
                    self._error = error
                else:
                    self._reading.fail(error)
            elif error is not None:
                self.scope.cancel()
        finally:
            if self.state in _WAITING:
                self.state = State.READING
            if self.scope.cancelled:
                self._release()

    # Ending -------------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Stop at once, from any thread or task or a signal handler. Does nothing when the call is over."""
        if self.state not in _OVER:
            self.scope.cancel()
            self._release()

    def _release(self) -> None:
        with self._lock:
            if self.state not in _WAITING:
                self.close_response()

    def _try_again(self, error: ChatAnywhereError) -> Step:
        """Prepare another attempt, if there may be one; else the call has failed."""
        try:
            wait = None if self.delivered else self._wait_before_next(error)
            if wait is None:
                self._fail(error)
        finally:
            del error  # its traceback holds this frame
        self._wait = wait
        self._release()
        self.state = State.NEW
        return Step.OPEN

    def _wait_before_next(self, error: ChatAnywhereError) -> float | None:
        """Return the seconds to wait before another attempt, None if there may be no other."""
        self.annotate(error)
        return self._retry.wait_before_next(error, self.scope.left())

    def _fail(self, error: ChatAnywhereError) -> NoReturn:
        if self.state not in _WAITING:  # else whoever waits will see it, too
            self.state = State.CANCELLED if isinstance(error, StreamCancelledError) else State.FAILED
        self._release()
        self.annotate(error)
        if error.request_id is None and self.response is not None:
            error.request_id = self.response.request_id
        try:
            raise error
        finally:
            self._error = None  # its traceback holds this call
            if self._reading is not None:
                self._reading.error = None
            del error  # and this frame

    def annotate(self, error: ChatAnywhereError) -> None:
        """Add to an error what only the call knows, and take the key out of it."""
        error.attempts = self._attempts
        key = self._service.settings.key
        if key and len(key) >= 8:  # a shorter one is a placeholder, and may be part of a word
            error.redact(key)

    # Hosts --------------------------------------------------------------------------------------------------

    def _reach(self) -> HTTPResponse:
        """Ask the first host that can be reached, and remember it."""
        hosts = self._service.hosts
        for host in hosts:
            try:
                response = self._ask(host)
            except (APIConnectionError, APITimeoutError) as error:
                if host == hosts[-1] or (isinstance(error, APITimeoutError) and error.phase != "connect"):
                    raise
            else:
                if host != hosts[0]:
                    self._service.hosts = (host, *(other for other in hosts if other != host))
                return response
        raise AssertionError("a client has a host")

    def _ask(self, host: str) -> HTTPResponse:
        endpoint, settings = self._endpoint, self._service.settings
        headers = {
            "User-Agent": _USER_AGENT,
            # Compression holds back small pieces.
            "Accept-Encoding": "identity",
            **endpoint.headers(host, settings.key),
        }
        for name, value in self._headers.items():
            for own in [own for own in headers if own.lower() == name.lower()]:
                del headers[own]
            headers[name] = value
        with self.scope:
            return self._service.transport.open(
                endpoint.method, host + endpoint.path, headers, self._content, max_bytes=settings.max_response_bytes
            )


def _close_nothing() -> None:
    """There is no connection yet."""


class Waiting:
    """Around a wait of a call: the one place that knows the ways in which it can end."""

    def __init__(self, call: Call[Any]) -> None:
        self._call = call

    def __enter__(self) -> None:
        """Nothing: an interrupt that came behind it would find no `__exit__`."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._call.stop_waiting(error)
        return isinstance(error, ChatAnywhereError)  # `Call.next` says it, behind the events that came before


class Reading(Generic[T]):
    """What the bytes of one attempt's answer come to. No I/O, and no way back to the call.

    Attributes:
        events: those that have arrived, and were not given out yet.
        complete: the answer has come to its end.
        error: what was wrong with the bytes; to be looked at when their events have been taken.
    """

    def __init__(self, body: Body, decoder: Decoder[T]) -> None:
        self._body = body
        self._decoder = decoder
        self.events: Iterator[T | None] = iter(())
        self.complete = False
        self.error: ChatAnywhereError | None = None

    @property
    def done(self) -> bool:
        """The protocol says that the answer is over, even if its connection does not yet."""
        return self.complete or self._decoder.done

    def feed(self, data: bytes) -> Iterator[T | None]:
        """Yield the events that `data` completes; `b""` says that the connection has ended.

        An error is left in `error`, behind the events that came before it. None is yielded between the blocks of
        what was compressed: they may be many, and hold no event.
        """
        body, decoder = self._body, self._decoder
        events: list[T] = []
        failure: ChatAnywhereError | None = None
        try:
            for number, block in enumerate(body.feed(data)):
                if number:
                    yield from events
                    events.clear()
                    yield None
                if not decoder.done:
                    decoder.feed(block, events)
            if body.complete and not decoder.done:
                decoder.finish(events)
        except ChatAnywhereError as error:
            failure = error
        yield from events
        if failure is not None:
            self.fail(failure)
            failure = None  # its traceback holds this frame
        elif body.complete:
            self.complete = True

    def fail(self, error: ChatAnywhereError) -> None:
        """Take note of what went wrong with the connection or its bytes."""
        if self.done:
            self.complete = True  # nothing was missing but the end of the framing
        else:
            self.error = error


def _status_error(response: HTTPResponse) -> APIStatusError:
    content = bytearray()
    try:
        while not response.body.complete and len(content) < MAX_ERROR_BYTES:
            for block in response.body.feed(response.receive()):
                content += block
                if len(content) >= MAX_ERROR_BYTES:
                    break
    except StreamCancelledError:
        raise
    except ChatAnywhereError:
        pass  # the status says more than a body that was cut
    finally:
        response.close()
    error = error_from(response.status_code, response.headers, bytes(content[:MAX_ERROR_BYTES]))
    error.request_id = response.request_id
    return error
