"""The contract that g4f programs expect of a provider, on top of the clients."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ._call import Call
from ._config import Settings
from ._protocols import find_protocol
from ._service import Service
from ._stream import Stream
from ._types import Completion, Event, Messages, ReasoningDelta, TextDelta, tool_call_fields
from .typing import AsyncResult, CreateResult

if TYPE_CHECKING:
    from ._async_client import AsyncStream, Workers

_LIVE_URL = "https://api.chatanywhere.tech"

_SETTINGS = frozenset(each.name for each in fields(Settings) if each.init) - {"model", "protocol"}
"""What goes to the settings of the client; all else goes into the body."""

_EXTRA = ("extra_headers", "extra_query", "extra_body")
"""What is for a call, and not for the body as it is."""

_FOR_G4F = frozenset(
    (
        *("conversation", "cookies", "download_media", "ignore_stream", "ignore_working", "ignored", "max_retries"),
        *("provider", "raw", "return_conversation", "stream", "stream_timeout", "tool_emulation", "web_search"),
    )
)
"""What g4f passes to every provider for its own use; nothing of it goes into the body."""


class _ClassText:
    """A text that a class computes about itself, read like an attribute."""

    def __init__(self, function: Callable[[Any], str]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: object, owner: Any) -> str:
        return self._function(owner)


class AsyncGeneratorProvider:
    """A chat service as g4f knows it: class methods only, and facts as class attributes."""

    url: str = ""
    label: str | None = None
    working: bool = False
    live: int = 0
    """g4f counts here how its calls end: one up for each that works, one down for each that fails."""
    needs_auth: bool = False
    supports_stream: bool = True
    supports_message_history: bool = False
    supports_system_message: bool = True
    supports_gpt_35_turbo: bool = False
    supports_native_tools: bool = False
    """Whether `tools=` is sent; g4f describes tools in a prompt of its own where it is not."""
    use_stream_timeout: bool = False
    default_model: str = ""
    model_aliases: Mapping[str, str] = {}
    _ignored = _FOR_G4F

    @classmethod
    def create_async_generator(cls, model: str, messages: Messages, **kwargs: Any) -> AsyncResult:
        """Answer in pieces; see the subclass."""
        raise NotImplementedError(f"{cls.__name__} does not define create_async_generator")

    @classmethod
    def create_completion(cls, model: str, messages: Messages, stream: bool = True, **kwargs: Any) -> CreateResult:
        """Answer in pieces, without an event loop; see the subclass."""
        raise NotImplementedError(f"{cls.__name__} does not define create_completion")

    @classmethod
    async def create_async(cls, model: str, messages: Messages, **kwargs: Any) -> str:
        """Return the whole text of the answer."""
        pieces = cls.create_async_generator(model, messages, **kwargs)
        return "".join([piece async for piece in pieces if isinstance(piece, str)])

    @classmethod
    def get_parameters(cls) -> dict[str, inspect.Parameter]:
        """The parameters of `create_async_generator`, by name."""
        parameters = inspect.signature(cls.create_async_generator).parameters
        return {name: parameter for name, parameter in parameters.items() if name != "kwargs"}

    @_ClassText
    def params(cls: Any) -> str:
        """What `create_async_generator` takes, for people."""
        lines = ",\n".join(f"    {parameter}" for parameter in cls.get_parameters().values())
        return f"{cls.__name__} supports: (\n{lines}\n)"

    @classmethod
    def get_dict(cls) -> dict[str, Any]:
        """The provider's name and address."""
        return {"name": cls.__name__, "url": cls.url, "label": cls.label}

    @classmethod
    def get_models(cls, **kwargs: Any) -> list[str]:
        """The models that there are to choose from."""
        return [cls.default_model] if cls.default_model else []

    @classmethod
    def get_parent(cls) -> str:
        """The provider that this one is a variant of: itself."""
        return cls.__name__


# What is not text, in g4f's own words


def _g4f_object(name: str, *arguments: Any, **named: Any) -> list[Any]:
    """Make one of the objects by which g4f tells what is not text; none in a program that has not loaded g4f.

    Nobody else expects anything but text, and to import it takes seconds.
    """
    kind = getattr(sys.modules.get("g4f.providers.response"), name, None)
    return [] if kind is None else [kind(*arguments, **named)]


def _pieces(event: Event) -> list[Any]:
    """Return what g4f is given for an event."""
    if isinstance(event, TextDelta):
        return [] if event.index else [event.text]  # g4f knows one answer
    return _g4f_object("Reasoning", event.text) if isinstance(event, ReasoningDelta) and not event.index else []


def _last_pieces(completion: Completion) -> list[Any]:
    """Return what g4f is given at the end. Tool calls are whole by then; g4f reads no further than the reason."""
    pieces = []
    if completion.tool_calls:
        calls = [{"index": index, **tool_call_fields(call)} for index, call in enumerate(completion.tool_calls)]
        pieces += _g4f_object("ToolCalls", calls)
    if completion.usage is not None:
        counts = asdict(completion.usage)
        details = ("cached_tokens", "reasoning_tokens")
        pieces += _g4f_object("Usage", **{name: counts[name] for name in counts if counts[name] or name not in details})
    if completion.finish_reason is not None:
        pieces += _g4f_object("FinishReason", completion.finish_reason)
    return pieces


class _ServiceProvider(AsyncGeneratorProvider):
    """A provider that asks as the clients of this package do."""

    @classmethod
    def _service(cls, **settings: Any) -> Service:
        raise NotImplementedError

    @classmethod
    def create_completion(cls, model: str, messages: Messages, stream: bool = True, **kwargs: Any) -> CreateResult:
        """Yield the answer's pieces, or the whole text at once if not `stream`. Needs no event loop.

        Arguments, what else is yielded where g4f is loaded, and errors are those of `create_async_generator`.
        """
        service, call = cls._call(model, messages, kwargs)
        try:
            with Stream(call) as answer:
                if stream:
                    for event in answer.events():
                        yield from _pieces(event)
                else:
                    whole = answer.read()
                    if whole.reasoning:
                        yield from _g4f_object("Reasoning", whole.reasoning)
                    yield whole.text
                yield from _last_pieces(answer.completion)
        finally:
            service.close()

    @classmethod
    def _call(cls, model: str, messages: Messages, arguments: dict[str, Any]) -> tuple[Service, Call[Event]]:
        """Prepare a chat with a service of its own."""
        service, options = cls._split(arguments)
        extra = {name: options.pop(name) for name in _EXTRA if name in options}
        return service, service.chat(messages, model=model or None, **extra, options=options)

    @classmethod
    def _split(cls, arguments: dict[str, Any]) -> tuple[Service, dict[str, Any]]:
        """Divide the arguments between the settings and the body of the request."""
        if arguments.pop("media", None):
            raise ValueError("media= is not supported: put pictures into the content of a message")
        settings = {name: value for name, value in arguments.items() if name in _SETTINGS}
        body = {name: value for name, value in arguments.items() if name not in _SETTINGS | cls._ignored}
        return cls._service(**settings), body

    @classmethod
    def _generate(cls, model: str, messages: Messages, **arguments: Any) -> AsyncResult:
        def ask() -> AsyncStream:
            from ._async_client import AsyncStream

            _, call = cls._call(model, messages, arguments)
            return AsyncStream(call, _workers())

        return _AnswerPieces(ask)


@functools.cache
def _workers() -> Workers:
    """The worker threads of all calls: each has a service of its own."""
    from ._async_client import Workers

    return Workers(40)


class _AnswerPieces(AsyncResult):
    """An async generator that may also be awaited.

    Written out rather than made by a generator function, so that no event loop has to finalise it: it may be
    closed by another task, by another loop, or by garbage collection.
    """

    def __init__(self, ask: Callable[[], AsyncStream]) -> None:
        self._ask: Callable[[], AsyncStream] | None = ask
        self._stream: AsyncStream | None = None
        self._events: AsyncIterator[Event] | None = None
        self._ready: list[Any] = []
        self._running = False

    def __await__(self) -> Generator[None, None, AsyncGenerator[str, None]]:
        return self
        yield  # makes this a generator, which is what awaiting asks for

    async def asend(self, value: None) -> str:
        if self._ask is not None:
            ask, self._ask = self._ask, None
            self._stream = ask()
            self._events = self._stream.events()
        if self._stream is None:
            raise StopAsyncIteration
        if self._running:
            raise RuntimeError("another task is reading this answer")
        self._running = True
        try:
            return await self._next_piece(self._stream)
        except BaseException:
            self._stream = None  # like any generator, this one is over once it has raised
            raise
        finally:
            self._running = False

    async def _next_piece(self, stream: AsyncStream) -> str:
        while not self._ready:
            if self._events is None:
                raise StopAsyncIteration
            try:
                self._ready = _pieces(await self._events.__anext__())
            except StopAsyncIteration:
                self._events = None
                self._ready = _last_pieces(stream.completion)
        piece: str = self._ready.pop(0)
        return piece

    async def athrow(
        self, kind: Any, value: BaseException | object = None, traceback: TracebackType | None = None
    ) -> str:
        self._ask = None
        stream, self._stream = self._stream, None
        if stream is not None:
            await stream.aclose()
        if isinstance(kind, BaseException):
            error = kind
        elif isinstance(value, BaseException):
            error = value
        else:
            error = kind() if value is None else kind(*value) if isinstance(value, tuple) else kind(value)
        raise error.with_traceback(traceback) if traceback else error

    async def aclose(self) -> None:
        with suppress(GeneratorExit):
            await self.athrow(GeneratorExit)


class ChatAnywhere(_ServiceProvider):
    """The original page's backend, which is gone (`working = False`). Subclass it with another `url` to use one."""

    url = "https://chatanywhere.cn"
    supports_gpt_35_turbo = True
    supports_message_history = True
    supports_stream = True
    working = False
    default_model = find_protocol("web").default_model
    # The page's backend has no such fields; g4f sees to the first two itself.
    _ignored = _FOR_G4F | {"max_tokens", "stop", "response_format"}

    @classmethod
    def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: float | None = 120,
        temperature: float | None = 0.5,
        **kwargs: Any,
    ) -> AsyncResult:
        """Return the answer as an async generator of `str`, which may also be awaited first.

        In a program that has loaded g4f it also yields what is not text, as g4f's own objects: `Reasoning`, and at
        the end `ToolCalls`, `Usage` and `FinishReason`, where the service tells them.

        Nothing is sent, and nothing raised, before its first piece is asked for. Works on asyncio and trio.

        Args:
            model: `""` for the default one.
            messages: `{"role": …, "content": …}` dicts, oldest first.
            proxy: a proxy's URL; None takes the environment's.
            timeout: seconds for the whole answer, None for no limit.
            temperature: of the model; None leaves it to the service.
            kwargs: go into the request's JSON body.

        Raises:
            ChatAnywhereError, ValueError: while it is iterated; see `Client.stream`.
        """
        return cls._generate(model, messages, proxy=proxy, timeout=timeout, temperature=temperature, **kwargs)

    @classmethod
    def _service(cls, *, api_key: object = None, base_url: object = None, **settings: Any) -> Service:
        # The page knows neither keys nor other hosts; programs pass them to every provider alike.
        return Service(Settings(protocol="web", base_url=cls.url, **settings))


class ChatAnywhereAPI(_ServiceProvider):
    """The live service."""

    url = _LIVE_URL
    supports_gpt_35_turbo = True
    supports_message_history = True
    supports_stream = True
    supports_native_tools = True
    working = True
    needs_auth = True
    default_model = find_protocol("openai").default_model

    @classmethod
    def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: float | None = 120,
        temperature: float | None = None,
        api_key: str | None = None,
        **kwargs: Any,
    ) -> AsyncResult:
        """Return the answer as an async generator of `str`; see `ChatAnywhere.create_async_generator`.

        Args:
            model: `""` for the default one.
            messages: `{"role": …, "content": …}` dicts, oldest first.
            proxy: a proxy's URL; None takes the environment's.
            timeout: seconds for the whole answer, None for no limit.
            temperature: of the model; None leaves it to the service.
            api_key: else the environment's `CHATANYWHERE_API_KEY`.
            kwargs: go into the request's JSON body; `base_url` names another host, before the environment's
                `CHATANYWHERE_BASE_URL`, unless the class has a `url` of its own.

        Raises:
            ChatAnywhereError, ValueError: while it is iterated; see `Client.stream`.
        """
        return cls._generate(
            model, messages, proxy=proxy, timeout=timeout, temperature=temperature, api_key=api_key, **kwargs
        )

    @classmethod
    def get_models(cls, api_key: str | None = None, **kwargs: Any) -> list[str]:
        """Ask the service which models it has.

        Raises:
            ChatAnywhereError: it can't be reached, or refuses the key.
        """
        from ._account import MODELS

        service, _ = cls._split({"api_key": api_key, **kwargs})
        try:
            return service.ask(MODELS).read()
        finally:
            service.close()

    @classmethod
    def _service(cls, *, base_url: str | None = None, **settings: Any) -> Service:
        # Nobody has chosen the live URL: the environment may name a host, and there is more than one live host.
        chosen = base_url or (None if cls.url == _LIVE_URL else cls.url)
        return Service(Settings(protocol="openai", base_url=chosen, **settings))
