"""One call: what is sent, and how often and where it is tried. The one retry loop that every face shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from ._errors import (
    APIConnectionError,
    APIStatusError,
    APITimeoutError,
    ChatAnywhereError,
    StreamCancelledError,
)
from ._http.connections import Exchange
from ._http.transport import Answer, Transport
from ._policy import Retry, Timeout
from ._protocols.openai import Decoder, Wire, error_from

_USER_AGENT = "chatanywhere-python"

MAX_ERROR_BYTES = 64 * 1024
"""Bytes that are read of an answer with an error status."""


@dataclass
class Service:
    """Where and how a client asks; its calls share it.

    Attributes:
        hosts: in the order in which they are tried; the one that worked last comes first.
        max_bytes: the largest answer, after decompression.
    """

    wire: Wire
    hosts: tuple[str, ...]
    api_key: str | None = field(repr=False)
    transport: Transport
    max_bytes: int | None


class Call:
    """One request with all its attempts. `content` is None for a GET.

    Attributes:
        exchange: its limits, and the means to stop it.
    """

    def __init__(
        self,
        service: Service,
        path: str,
        content: bytes | None,
        headers: Mapping[str, str],
        timeout: Timeout,
        retry: Retry,
    ) -> None:
        self._service = service
        self._path = path
        self._content = content
        self._headers = headers
        self._retry = retry
        self._attempts = 0
        self.exchange = Exchange(timeout)

    def open(self, failed: ChatAnywhereError | None) -> tuple[Answer, Decoder]:
        """Make attempts until one is answered; `failed` is how the one before ended, if there was one.

        Raises:
            ChatAnywhereError: the last attempt's.
        """
        if failed is not None:
            self.annotate(failed)
        exchange = self.exchange
        return self._retry.run(self._attempt, failed=failed, time_left=exchange.left, sleep=exchange.sleep)

    def read(self) -> bytes:
        """Make attempts until one is answered whole, and return its content.

        Raises:
            ChatAnywhereError: the last attempt's.
        """

        def attempt() -> bytes:
            answer, _ = self._attempt()
            try:
                return b"".join(_blocks(answer))
            except ChatAnywhereError as error:
                self.annotate(error)
                raise
            finally:
                answer.close()

        exchange = self.exchange
        return self._retry.run(attempt, failed=None, time_left=exchange.left, sleep=exchange.sleep)

    def annotate(self, error: ChatAnywhereError) -> None:
        """Add to an error what only the call knows, and take the key out of it."""
        error.attempts = self._attempts
        key = self._service.api_key
        if key and len(key) >= 8:  # a shorter one is a placeholder, and may be part of a word
            error.redact(key)

    def _attempt(self) -> tuple[Answer, Decoder]:
        self._attempts += 1
        try:
            answer = self._reach()
            if not 200 <= answer.status_code < 300:
                raise _status_error(answer)
            return answer, self._service.wire.decoder(answer.headers.get("content-type", ""))
        except ChatAnywhereError as error:
            self.annotate(error)
            raise

    def _reach(self) -> Answer:
        """Ask the first host that can be reached, and remember it."""
        hosts = self._service.hosts
        for host in hosts:
            try:
                answer = self._ask(host)
            except (APIConnectionError, APITimeoutError) as error:
                if host == hosts[-1] or (isinstance(error, APITimeoutError) and error.phase != "connect"):
                    raise
            else:
                if host != hosts[0]:
                    self._service.hosts = (host, *(other for other in hosts if other != host))
                return answer
        raise AssertionError("a client has a host")

    def _ask(self, host: str) -> Answer:
        service = self._service
        headers = {
            "User-Agent": _USER_AGENT,
            # Compression holds back small pieces.
            "Accept-Encoding": "identity",
            **service.wire.headers(host, service.api_key),
        }
        for name, value in self._headers.items():
            for own in [own for own in headers if own.lower() == name.lower()]:
                del headers[own]
            headers[name] = value
        return service.transport.open(
            host + self._path, headers, self._content, self.exchange, max_bytes=service.max_bytes
        )


def _status_error(answer: Answer) -> APIStatusError:
    content = bytearray()
    try:
        for block in _blocks(answer):
            content += block
            if len(content) >= MAX_ERROR_BYTES:
                break
    except StreamCancelledError:
        raise
    except ChatAnywhereError:
        pass  # the status says more than a body that was cut
    finally:
        answer.close()
    error = error_from(answer.status_code, answer.headers, bytes(content[:MAX_ERROR_BYTES]))
    error.request_id = answer.headers.get("x-request-id")
    return error


def _blocks(answer: Answer) -> Iterator[bytes]:
    """The content of an answer that is read at once."""
    while not answer.body.complete:
        yield from answer.body.feed(answer.receive())
