"""One call: a request with its attempts and hosts, as a machine that says what has to be done next.

Every face shares it: `Call.next` gives out what has arrived and decides what follows, without waiting. A face has
only to do the waiting that it names, in a thread or on an event loop.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, NoReturn, Protocol, TypeVar

from ._config import Settings, checked_headers, checked_query, endpoint_url
from ._errors import APIConnectionError, APIStatusError, APITimeoutError, ChatAnywhereError, StreamCancelledError
from ._hosts import Hosts
from ._http.exchange import Exchange, HTTPResponse, Loss
from ._http.scope import BriefLock, CallScope
from ._http.transport import HTTPRequest, PublicExchange, Transport
from ._policy import DEFAULT, Retry, RetryLike, TimeoutLike, is_about_model, logger
from ._protocols.head import AnswerHead
from ._protocols.json_body import edited
from ._protocols.protocol import Endpoint
from ._protocols.service import ErrorDecoder
from ._reading import Reading
from ._secrets import Secrets

if TYPE_CHECKING:
    from ._schema import Output

T = TypeVar("T")

_USER_AGENT = "chatanywhere-python"

_GATEWAY_TIMEOUTS = (504, 524)
"""The statuses of gateways that have waited too long for the service, the second one Cloudflare's."""


class Step(enum.Enum):
    """What a reader has to do before there is another event."""

    WAIT = enum.auto()  # for the next attempt
    OPEN = enum.auto()
    SEND = enum.auto()
    RECEIVE = enum.auto()
    PAUSE = enum.auto()  # nothing; but decoding goes on for so long that an event loop wants its turn
    END = enum.auto()  # nothing: the answer is over


class State(enum.Enum):
    """How far a call has come."""

    READY = enum.auto()  # for `next`
    WAITING = enum.auto()  # somebody does what `next` asked for
    COMPLETE = enum.auto()
    FAILED = enum.auto()
    CANCELLED = enum.auto()


_OVER = (State.COMPLETE, State.FAILED, State.CANCELLED)
_READY = State.READY  # asked for at every event


class Call(Generic[T]):
    """One request with all its attempts.

    Args:
        settings, transport, hosts: what is asked, and how it is reached.
        endpoint: what it is asked for.
        body: what is sent; None for nothing.
        names: what is asked, for the log: a model, and its alternatives.
        alternatives: fields that take the place of those of the body, one set after the other, where what is asked is
            refused, or fails.
        max_bytes: the largest answer; None for no limit.
        timeout, retry, headers: as in `Client.stream`.
        query: further parameters of the URL.
        own_fields: those of the body that the caller has set; no service is asked without them.
        kept_back: the reader gives nothing out before the end, so even an answer that was cut is asked for again.

    Attributes:
        scope: its limits, and the means to stop it.
        state: how far it has come.
        exchange: the attempt that is being made, None if it has not got a connection yet.
        response: the answer to the last attempt, None if there is none yet, or one with an error status.
        wait: seconds before the next attempt.
        delivered: the reader's word that a piece of the answer has been given out, so that no other attempt is made.
        output: the type that the answer is to be an instance of, None for any answer.
        keeps_text: the reader keeps what the answer says.
        watcher: an event loop's, which watches the connection of `exchange` and has a way of its own to close it.
    """

    def __init__(
        self,
        settings: Settings,
        transport: Transport,
        hosts: Hosts,
        endpoint: Endpoint[T],
        body: Mapping[str, Any] | None = None,
        *,
        max_bytes: int | None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        names: Sequence[str] = ("",),
        alternatives: Sequence[Mapping[str, Any]] = (),
        own_fields: Collection[str] = (),
        kept_back: bool = False,
    ) -> None:
        self._settings = settings
        self._transport = transport
        self._hosts = hosts
        self._endpoint = endpoint
        # By the alternative, and what is left out.
        self._contents = {} if body is None else {(0, frozenset[str]()): endpoint.encode(body)}
        self._names = names
        self._alternatives = ({}, *alternatives)
        self._alternative = 0
        self._added = {name: body[name] for name in endpoint.added if body and name in body and name not in own_fields}
        self._refused: dict[str, frozenset[str]] = {}  # by base URL
        choices = (body or {}).get("n")
        self._choices = max(1, choices) if isinstance(choices, int) else 1
        self._tried: set[str] = set()  # hosts that have failed, and are not asked for this alternative any more
        self._host = hosts.in_turn[0]  # that is asked, or was last
        self._query = checked_query(query)
        self._max_bytes = max_bytes
        self._kept_back = kept_back
        own_headers = checked_headers(headers)
        self._headers = {**(settings.headers or {}), **own_headers}
        self._secrets = settings.secrets
        if own_headers or self._query:
            self._secrets |= Secrets.of(headers=own_headers, urls=[endpoint_url("", "", self._query)])
        self._retry = Retry.of(settings.retry if retry is DEFAULT else retry)
        self._attempts = 0
        self._earlier = 0  # attempts at other hosts and alternatives
        self._fresh = False  # an idle connection has let this call down
        self._error: ChatAnywhereError | None = None  # why there is no answer to the last attempt
        self._reading: Reading[T] | None = None
        self._closing = BriefLock()
        limits = settings.limits(timeout)
        self.scope = CallScope(replace(limits, read=None) if endpoint.silent else limits)
        self.state = State.READY
        self.exchange: Exchange | PublicExchange | None = None
        self.response: HTTPResponse | None = None
        self.wait = 0.0
        self.delivered = False
        self.output: Output | None = None
        self.keeps_text = True
        self.watcher: Closing | None = None

    # What a reader does -------------------------------------------------------------------------------------

    def next(self) -> T | Step:
        """Return the next event of what has arrived, or what has to be done to get one.

        Raises:
            ChatAnywhereError: the call failed; see `arrived`.
        """
        reading = self._reading
        if reading is None or self.state is not _READY or self.scope.cancelled:
            return self._next_step()
        try:
            event = next(reading.events, Step.END)
        except BaseException:  # Ctrl-C while decoding: what was being decoded is lost, so nothing may follow it
            self.cancel()
            raise
        if event is None:
            try:
                self.scope.check()
            except ChatAnywhereError as error:
                reading.events = iter(())
                reading.fail(error)
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
        else:
            self.scope.may_end(reading.whole, reading.news)
            reading.news = False
        return Step.RECEIVE

    def _next_step(self) -> Step:
        """Return what has to be done where no answer is being read."""
        if self.state in _OVER:
            return Step.END
        if self.scope.cancelled:
            self._fail(self.annotate(self._cancellation()))
        if self._error is not None:
            return self._try_again(self._error)
        if self.exchange is None:
            return Step.WAIT if self.wait else Step.OPEN
        return Step.RECEIVE if self.exchange.is_sent else Step.SEND

    def perform(self, step: Step) -> None:
        """Do what `next` asked for, blocking until it is done."""
        if step is Step.RECEIVE:
            self.receive()
        elif step is Step.OPEN:
            self.open()
        elif step is Step.SEND:
            self.send()
        elif step is Step.WAIT:
            with Waiting(self):
                self.start_waiting()
                self.scope.sleep(self.wait)
                self.wait = 0.0

    def open(self) -> None:
        """Make an attempt: block until there is a connection, and the request on its way."""
        with Waiting(self):
            self.start_waiting()
            self.scope.check()
            self._attempts += 1
            self._reach()
            assert self.exchange is not None
            if self.exchange.response is not None:  # urllib3's public methods wait for it
                self._begin_reading(self.exchange.response, b"")

    def open_now(self) -> bool:
        """Make an attempt if that takes no waiting, on a connection that is idle; return whether there was one."""
        with Waiting(self):
            self.start_waiting()
            self.scope.check()
            self.exchange = self._reuse(self._request(self._candidates()[0]))
            self._attempts += self.exchange is not None
        return self.exchange is not None or self._error is not None

    def send(self) -> None:
        """Block until the request is on its way."""
        assert isinstance(self.exchange, Exchange)
        with Waiting(self):
            self.start_waiting()
            self.exchange.send()
            if self.exchange.response is not None:  # sooner than the request was sent to its end
                self._begin_reading(self.exchange.response, self.exchange.rest)

    def receive(self) -> None:
        """Block until more of the answer has come."""
        assert self.exchange is not None
        with Waiting(self):
            self.start_waiting()
            self.accept(self.exchange.receive())

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
        except ChatAnywhereError as error:
            self.failed(error)
            raise
        finally:
            self.cancel()
        return values[-1]

    def accept(self, data: bytes) -> None:
        """Take what the connection gave; `b""` says that it has ended."""
        if self._reading is not None:
            self._reading.events = self._reading.feed(data)
            return
        assert isinstance(self.exchange, Exchange)
        response = self.exchange.read_head(data)
        if response is not None:
            self._begin_reading(response, self.exchange.rest)

    @property
    def chunks(self) -> list[str]:
        """The JSON of the objects that this attempt's answer consists of, as far as they have been read."""
        return [] if self._reading is None else self._reading.chunks

    def arrived(self) -> Iterator[T]:
        """Give out what had arrived when the call failed."""
        if self._reading is not None:
            for event in self._reading.events:
                if event is None:
                    break
                yield event

    def _cancellation(self) -> StreamCancelledError:
        """Return what a reader of a cancelled call gets."""
        return StreamCancelledError("the call was cancelled")

    def failed(self, error: ChatAnywhereError) -> None:
        """The reader's word that the caller gets this error, in which all is that had arrived."""

    def _begin_reading(self, response: HTTPResponse, data: bytes) -> None:
        """The head of an answer has come, and perhaps the beginning of its body."""
        head = AnswerHead(
            response.status_code,
            response.headers,
            self._host,
            response.reason,
            response.request_id,
            self._settings.wire.needs_key,
        )
        if 200 <= response.status_code < 300:
            decoder = self._endpoint.decoder(head, self._endpoint.max_json)
            self._reading = Reading(response.body, decoder, choices=self._choices)
            self.response = response
            self._hosts.wake(self._host)
            if self._host in self._refused:
                refused = self._hosts.refused
                refused[self._host] = refused.get(self._host, frozenset()) | self._refused[self._host]
        else:
            self._reading = Reading(response.body, ErrorDecoder(head, self._endpoint.absent))
        if data or response.body.complete:  # it may have none
            self._reading.events = self._reading.feed(data)

    # Waiting ------------------------------------------------------------------------------------------------

    def start_waiting(self) -> None:
        """From now until `stop_waiting`, only the reader may close the connection; `cancel()` wakes it.

        What is being waited for must not be closed: its descriptor might become another connection's.

        Raises:
            StreamCancelledError: the call has been cancelled already, and the connection perhaps closed.
        """
        # In this order: `cancel` sets the flag, and looks at the state then. So one of the two sees the other.
        self.state = State.WAITING
        self.scope.raise_if_cancelled()

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
            if self.state is State.WAITING:
                self.state = State.READY
            if self.scope.cancelled:
                self._release()

    # Ending -------------------------------------------------------------------------------------------------

    def cancel(self, text: str = "") -> None:
        """Stop at once, from any thread or task or a signal handler. Does nothing when the call is over.

        Args:
            text: what the reader has of the answer, for whoever is told.
        """
        if self.state not in _OVER:
            self.scope.cancel()
            self._release()

    def close(self) -> None:
        """Do the same for a reader who wants no more."""
        self.cancel()

    def _release(self) -> None:
        with self._closing:
            closing = self.watcher or self.exchange
            if closing is not None and self.state is not State.WAITING:
                closing.close()

    def _try_again(self, error: ChatAnywhereError) -> Step:
        """Prepare another attempt, if there may be one; else the call has failed."""
        loss = self.exchange and self.exchange.loss
        try:
            if loss is Loss.UNREAD:  # as if that connection had not been there
                self._attempts -= 1
                wait: float | None = 0.0
            elif self._may_repeat and (refused := self._refused_fields(error)):
                logger.info("asking again without %s, which the service refuses", ", ".join(sorted(refused)))
                self._refused[self._host] = self._refused.get(self._host, frozenset()) | refused
                self._attempts -= 1
                wait = 0.0
            else:
                self.annotate(error)
                wait = None
                if self._may_repeat and self.may_ask_again(error):
                    wait = self._retry.wait_before_next(
                        error, self._attempts - self._earlier, self.scope.left(), at_once=loss is not None
                    )
                if wait is None and self._may_repeat and self._go_on(error):
                    wait = 0.0
                self._attempt_failed(error, wait)
            if wait is None:
                self._fail(error)
        finally:
            del error  # its traceback holds this frame
        self._release()
        self.wait, self._fresh = wait, loss is not None
        self._error = self._reading = self.exchange = self.response = self.watcher = None
        self.scope.start_attempt()
        return self._next_step()

    def _attempt_failed(self, error: ChatAnywhereError, wait: float | None) -> None:
        """Called when that is so, and the next attempt is to come in so many seconds, or there is to be none."""

    def _refused_fields(self, error: ChatAnywhereError) -> frozenset[str]:
        """The fields that the service does not accept, of those that it was sent unasked."""
        if not isinstance(error, APIStatusError) or error.status_code not in (400, 422):
            return frozenset()
        words, left_out = _folded(f"{error.message} {error.body}"), self._left_out()
        return frozenset(
            name
            for name, value in self._added.items()
            if name not in left_out and any(_folded(each) in words for each in (name, *_fields(value)))
        )

    def _go_on(self, error: ChatAnywhereError) -> bool:
        """Turn to the next host, or to the next model; False if none may do better, or no time is left."""
        if self.scope.left() == 0:
            return False
        following = None
        if self._retry.fails_over(error):
            self._hosts.rest(self._host)
            # Where none could be reached, each has been tried in each attempt.
            self._tried.update([self._host] if self.scope.connected else self._candidates())
            following = next(iter(self._candidates()), None)
        if following is None and self._alternative + 1 < len(self._alternatives) and is_about_model(error):
            self._alternative += 1
            self._tried.clear()
            following = self.name
        if following is None:
            return False
        shown = self._secrets.hide(following.partition("?")[0])
        logger.info("%s: asking %s next", type(error).__name__, shown)
        self._earlier = self._attempts
        error.__traceback__ = None  # its frames hold the stream
        return True

    @property
    def body(self) -> bytes | None:
        """What is sent at first, as it is written; None for nothing."""
        return self._contents.get((0, frozenset()))

    @property
    def name(self) -> str:
        """What is asked, or was last: one of several models."""
        return self._names[self._alternative]

    def may_ask_again(self, error: ChatAnywhereError) -> bool:
        """Whether another attempt would not pay once more for an answer that was awaited in vain.

        It was where the request was sent, and nothing comes before the end, here or by a gateway, or until TCP gave up.
        """
        if not self._endpoint.silent:
            return True
        if isinstance(error, APIStatusError):
            return error.status_code not in _GATEWAY_TIMEOUTS
        return not (self.scope.connected and any(isinstance(each, TimeoutError) for each in (error, error.__cause__)))

    @property
    def _may_repeat(self) -> bool:
        """Nothing that another attempt would bring again has been given out."""
        return self._kept_back or not self.delivered

    def _fail(self, error: ChatAnywhereError) -> NoReturn:
        """End the call with an error, which has been annotated."""
        if self.state is not State.WAITING:  # else whoever waits will see it, too
            self.state = State.CANCELLED if isinstance(error, StreamCancelledError) else State.FAILED
        self._release()
        try:
            raise error
        finally:
            self._error = None  # its traceback holds this call
            if self._reading is not None:
                self._reading.error = None
            del error  # and this frame

    def annotate(self, error: ChatAnywhereError) -> ChatAnywhereError:
        """Add to an error what only the call knows, take the secrets out of it, and return it."""
        error.attempts = self._attempts
        if error.request_id is None and self.response is not None:
            error.request_id = self.response.request_id
        self._all_secrets().remove_from(error)
        return error

    def _all_secrets(self) -> Secrets:
        """Those of the client, of this call, and of the environment."""
        proxies = self._transport.environment_proxies()
        return self._secrets | Secrets.of(urls=proxies) if proxies else self._secrets

    @property
    def request_id(self) -> str | None:
        """The server's name for the request, if it gave one; for a call that has been answered."""
        name = None if self.response is None else self.response.request_id
        return None if name is None else self._all_secrets().hide(name)

    @property
    def headers(self) -> Mapping[str, str]:
        """Those of the answer; for a call that has been answered."""
        assert self.response is not None
        return self._all_secrets().hide_in(self.response.headers)

    # Hosts --------------------------------------------------------------------------------------------------

    def _reach(self) -> None:
        """Begin to send the request to the first host to which a connection can be had, and remember that host."""
        hosts = self._candidates()
        for host in hosts:
            request = self._request(host)
            try:
                self.exchange = self._reuse(request) or self._transport.open(self.scope, request, self._max_bytes)
            except APIConnectionError as error:
                timed_out = isinstance(error, APITimeoutError) and error.phase != "connect"
                if self.scope.connected or timed_out:
                    raise
                self._hosts.rest(host)
                if host == hosts[-1]:
                    raise
            else:
                return

    def _candidates(self) -> list[str]:
        """The base URLs that may be asked, in their order."""
        return [host for host in self._hosts.in_turn if host not in self._tried]

    def _reuse(self, request: HTTPRequest) -> Exchange | None:
        return None if self._fresh else self._transport.reuse(self.scope, request, self._max_bytes)

    def _request(self, host: str) -> HTTPRequest:
        endpoint = self._endpoint
        self._host = host
        headers = {
            "User-Agent": _USER_AGENT,
            # Compression holds back small pieces.
            "Accept-Encoding": "identity",
            **endpoint.headers(host.partition("?")[0], self._settings.key),
        }
        for name, value in self._headers.items():
            for own in [own for own in headers if own.lower() == name.lower()]:
                del headers[own]
            headers[name] = value
        return HTTPRequest(endpoint.method, endpoint_url(host, endpoint.path, self._query), headers, self._content())

    def _content(self) -> bytes | None:
        left_out = self._left_out()
        key = self._alternative, left_out
        if self._contents and key not in self._contents:
            changes = self._alternatives[self._alternative]
            self._contents[key] = edited(self._contents[0, frozenset()], changes, without=left_out)
        return self._contents.get(key)

    def _left_out(self) -> frozenset[str]:
        """The fields that are not sent to the host that is asked."""
        refused = self._refused.get(self._host, frozenset()) | self._hosts.refused.get(self._host, frozenset())
        return refused.intersection(self._added)


def _fields(value: object) -> Iterable[str]:
    """The names in the value of a field: a service may refuse these in its place."""
    return value if isinstance(value, Mapping) else ()


def _folded(text: str) -> str:
    """A text in which names are found however they are written: `stream_options`, `streamOptions`."""
    return re.sub("[^0-9a-z]", "", text.lower())


class Closing(Protocol):
    """What has a connection to close."""

    def close(self) -> None: ...


class Waiting:
    """Around a wait of a call: the one place that knows the ways in which it can end."""

    def __init__(self, call: Call[Any]) -> None:
        self._call = call

    def __enter__(self) -> None:
        """Nothing: an interrupt that came behind it would find no `__exit__`."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        self._call.stop_waiting(error)
        return isinstance(error, ChatAnywhereError)  # `Call.next` says it, behind the events that came before
