"""What a client asks: it prepares calls, and holds what they share."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ._call import Call
from ._config import Model, Settings, check_options, check_types, checked_models
from ._hosts import Hosts
from ._http.transport import Transport
from ._policy import DEFAULT, RetryLike, TimeoutLike
from ._protocols.json_body import fields_of
from ._protocols.protocol import Endpoint, as_messages, bearer
from ._secrets import without_secrets

if TYPE_CHECKING:
    from ._schema import Output
    from ._types import Event, MessagesLike

T = TypeVar("T")


class Service:
    """What a client asks: the settings, the connections, and what is known of the hosts. Its faces share it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.hosts = Hosts(settings.hosts)
        self._new_call: type[Call[Any]] = Call
        if settings.observers:
            from ._watched import WatchedCall  # few need it

            self._new_call = WatchedCall
        self.transport = Transport(proxy=settings.proxy, verify=settings.ca, keepalive_expiry=settings.keepalive_expiry)

    def chat(
        self,
        messages: str | MessagesLike,
        *,
        model: Model | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = DEFAULT,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        keep_text: bool = True,
        stream: bool | None = True,
        response_format: Any = None,
        kept_back: bool = False,
        options: Mapping[str, Any],
    ) -> Call[Event]:
        """Prepare a chat; see `Client.stream`, and for `stream=False` `Client.complete`. `kept_back` is for the `Call`.

        Raises:
            AuthenticationError: there is no key.
            RuntimeError: the protocol can only stream.
            ValueError, TypeError: an argument can't be sent.
            ImportError: a type as `response_format` needs pydantic, which is not installed.
        """
        settings, wire = self.settings, self.settings.wire
        settings.check_key()
        check_types(
            headers=headers,
            stream=stream,
            extra_headers=extra_headers,
            extra_query=extra_query,
            extra_body=extra_body,
        )
        check_options(options)
        endpoint = wire.chat
        if not stream:
            if wire.chats_only:
                raise RuntimeError(f"the {wire.name} protocol can only stream: use protocol='openai'")
            endpoint = replace(endpoint, headers=bearer, silent=True)  # a model that thinks says nothing meanwhile
            options = {**options, "stream": stream}
        output = None
        if response_format is not None:
            output = _output(response_format, keep_text)
            options = {**options, "response_format": output.response_format if output else response_format}
        turns, exactly = as_messages(messages), extra_body or {}
        asked = {**options, **exactly}
        models = checked_models(model) or settings.models
        bodies = []
        for each in models:
            fields = wire.body(turns, each, asked).items()
            bodies.append({name: value for name, value in fields if value is not None or name in exactly})
        call: Call[Event] = self._new_call(
            settings,
            self.transport,
            self.hosts,
            endpoint,
            bodies[0],
            timeout=timeout,
            retry=retry,
            headers={**(headers or {}), **(extra_headers or {})},
            query=extra_query,
            names=models,
            alternatives=[
                {name: value for name, value in each.items() if value != bodies[0].get(name)} for each in bodies[1:]
            ],
            max_bytes=settings.largest_response(max_response_bytes, kept=keep_text),
            own_fields=asked.keys(),
            kept_back=kept_back,
        )
        call.output = output
        call.keeps_text = keep_text
        return call

    def ask(
        self,
        endpoint: Endpoint[T],
        body: Mapping[str, Any] | None = None,
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        query: Mapping[str, Any] | None = None,
        names: Sequence[str] = ("",),
    ) -> Call[T]:
        """Prepare to ask an endpoint other than that of chats; `names` as in `Call`.

        Raises:
            AuthenticationError: there is no key.
            RuntimeError: the protocol has chats only.
            ValueError, TypeError: an argument can't be sent.
        """
        settings, wire = self.settings, self.settings.wire
        if wire.chats_only:
            raise RuntimeError(f"the {wire.name} protocol has no {endpoint.path}: use protocol='openai'")
        settings.check_key()
        check_types(headers=headers)
        return self._new_call(
            settings,
            self.transport,
            self.hosts,
            endpoint,
            body,
            max_bytes=settings.largest_response(),
            timeout=timeout,
            retry=retry,
            headers=headers,
            query=query,
            names=names,
        )

    def at(self, host: str) -> Service:
        """Return the same, with its connections, at one host only."""
        alone = copy.copy(self)
        alone.hosts = self.hosts.only(host)
        return alone

    def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self.transport.close()

    def describe(self) -> str:
        """What a client's repr says between its brackets."""
        settings = self.settings
        hosts = tuple(map(without_secrets, settings.hosts))
        models = settings.models if len(settings.models) > 1 else settings.models[0]
        words = f"protocol={settings.protocol!r}, base_url={hosts!r}, model={models!r}"
        return settings.secrets.hide(words)


def _output(response_format: Any, keep_text: bool) -> Output | None:
    """Return what makes instances of a type out of an answer; None for a `response_format` that is sent as it is."""
    if isinstance(response_format, Mapping) or fields_of(response_format) is not None:
        return None
    if not keep_text:
        raise ValueError("keep_text=False keeps nothing that could be read as response_format= wants it")
    from ._schema import Output  # here, because it needs pydantic

    return Output(response_format)
