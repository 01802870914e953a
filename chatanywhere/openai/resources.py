"""The calls of OpenAI's clients: what is asked, and what the answer comes to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, NoReturn, TypeVar, overload

from .errors import RawAPIResponse
from .parsing import Wanted, parsed
from .reading import embeddings_of, object_of
from .request import CHATS, absent, chat, embeddings, given, model_path, omit
from .stream import AsyncChatCompletionStreamManager, AsyncChunkStream, ChatCompletionStreamManager, ChunkStream
from .types import (
    ChatCompletion,
    ChatCompletionChunk,
    CreateEmbeddingResponse,
    ListedModel,
    ModelPage,
    ParsedChatCompletion,
)

if TYPE_CHECKING:
    from typing_extensions import TypeVar as _TypeVar  # whose type variables may have defaults
    from typing_extensions import Unpack

    from .._config import Model
    from ..typing import MessagesLike
    from .client import AsyncOpenAI, OpenAI  # noqa: F401  what resources are of
    from .request import BodyOptions, CallOptions, CreateOptions, ParseOptions

    Kind = _TypeVar("Kind", default=Any)

T = TypeVar("T")


class Resource(Generic[T]):
    """A group of calls."""

    def __init__(self, face: T) -> None:
        self._face = face

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(absent(type(self).__name__, name))


# Blocking ----------------------------------------------------------------------------------------------------


class ChatCompletions(Resource["OpenAI"]):
    """`client.chat.completions`."""

    @overload
    def create(
        self,
        *,
        messages: MessagesLike,
        model: Model,
        stream: Literal[False] | None = None,
        **options: Unpack[CreateOptions],
    ) -> ChatCompletion: ...
    @overload
    def create(
        self, *, messages: MessagesLike, model: Model, stream: Literal[True], **options: Unpack[CreateOptions]
    ) -> ChunkStream[ChatCompletionChunk]: ...
    @overload
    def create(
        self, *, messages: MessagesLike, model: Model, stream: bool | None, **options: Unpack[CreateOptions]
    ) -> ChatCompletion | ChunkStream[ChatCompletionChunk]: ...
    def create(
        self, *, messages: MessagesLike, model: Model, stream: bool | None = omit, **options: Unpack[CreateOptions]
    ) -> ChatCompletion | ChunkStream[ChatCompletionChunk]:
        """Ask, and return the whole answer, or with `stream=True` its chunks as they come.

        Args:
            messages: dicts, or objects of answers.
            model: one name; or several, of which the next is asked when one is refused or fails.
            stream: whether the answer is wanted in pieces.
            options: the fields of the body, `extra_headers`, `extra_query`, `extra_body` and `timeout`. None is sent
                as `null`.

        Raises:
            ChatAnywhereError: the service can't be reached, is too slow, or answers with an error.
            TypeError, ValueError: an argument can't be sent. Nothing has been.
        """
        return self._face._chat(*chat("create", messages, model, stream, options))

    def parse(
        self,
        *,
        messages: MessagesLike,
        model: Model,
        response_format: type[Kind] | Mapping[str, Any] = omit,
        **options: Unpack[ParseOptions],
    ) -> ParsedChatCompletion[Kind]:
        """Ask for an instance of a type, and return the answer with it: `.choices[0].message.parsed`.

        The arguments of tool calls are read, too: by the models of tools that `pydantic_function_tool` makes, else as
        JSON. Needs the extra `structured`.

        `response_format` is a pydantic model, or another type that pydantic knows; a dict is sent as it is. Tools have
        to be strict functions. The other arguments are those of `create`.

        Raises: as `create`, and
            LengthFinishReasonError, ContentFilterFinishReasonError: the answer has ended too early to be read.
            pydantic.ValidationError: it is not what was asked for.
        """
        wanted = Wanted(response_format, options.get("tools", omit), strict=True)
        completion: Any = self._face._chat(*chat("parse", messages, model, False, options, wanted))
        return parsed(completion, wanted)

    def stream(
        self,
        *,
        messages: MessagesLike,
        model: Model,
        response_format: type[Kind] | Mapping[str, Any] = omit,
        **options: Unpack[ParseOptions],
    ) -> ChatCompletionStreamManager[Kind]:
        """Return a context manager that asks when it is entered, and gives the events of the answer.

        Arguments are those of `parse`, though tools need not be strict; what that raises, reading the events does.
        """
        wanted = Wanted(response_format, options.get("tools", omit))
        ask: Any = partial(self._face._chat, *chat("stream", messages, model, True, options, wanted))
        return ChatCompletionStreamManager(ask, wanted)

    @property
    def with_raw_response(self) -> RawChatCompletions:
        """The same calls, which return the answers as they came: `.headers`, `.status_code`, `.parse()`."""
        return RawChatCompletions(self._face)


class RawChatCompletions(Resource["OpenAI"]):
    """`client.chat.completions.with_raw_response`."""

    def create(self, *, messages: Any, model: Any, stream: bool | None = omit, **options: Any) -> RawAPIResponse[Any]:
        """Ask as `ChatCompletions.create` does, and return the answer as it came."""
        body, how = chat("create", messages, model, stream, options)
        if stream:
            chunks: Any = self._face._chat(body, how)
            return RawAPIResponse(chunks.response, lambda: chunks)
        response = self._face._fetch("POST", CHATS, body, how)
        return RawAPIResponse(response, partial(object_of, response, ChatCompletion))

    def parse(
        self, *, messages: Any, model: Any, response_format: Any = omit, **options: Any
    ) -> RawAPIResponse[ParsedChatCompletion[Any]]:
        """Ask as `ChatCompletions.parse` does, and return the answer as it came."""
        wanted = Wanted(response_format, options.get("tools", omit), strict=True)
        body, how = chat("parse", messages, model, False, options, wanted)
        response = self._face._fetch("POST", CHATS, body, how)
        return RawAPIResponse(response, lambda: parsed(object_of(response, ChatCompletion), wanted))


class Chat(Resource["OpenAI"]):
    """`client.chat`."""

    @property
    def completions(self) -> ChatCompletions:
        """The calls for chats."""
        return ChatCompletions(self._face)


class Beta(Resource["OpenAI"]):
    """`client.beta`, where `parse` and `stream` were once."""

    @property
    def chat(self) -> Chat:
        """The same as `client.chat`."""
        return self._face.chat


class EmbeddingCalls(Resource["OpenAI"]):
    """`client.embeddings`."""

    def create(
        self,
        *,
        input: Any,
        model: str,
        dimensions: int = omit,
        encoding_format: Literal["float", "base64"] = omit,
        user: str = omit,
        **options: Unpack[BodyOptions],
    ) -> CreateEmbeddingResponse:
        """Return the vectors of a text, of several, or of tokens: `.data[0].embedding`.

        Base64 is asked for, and decoded, unless `encoding_format` is given.

        Raises: as `ChatCompletions.create`.
        """
        arguments = {"input": input, "model": model, "dimensions": dimensions, "user": user}
        body, how = embeddings({**arguments, "encoding_format": encoding_format, **options})
        response = self._face._fetch("POST", "/embeddings", body, how)
        return embeddings_of(response, decoded=not given(encoding_format))

    @property
    def with_raw_response(self) -> RawEmbeddings:
        """The same call, which returns the answer as it came."""
        return RawEmbeddings(self._face)


class RawEmbeddings(Resource["OpenAI"]):
    """`client.embeddings.with_raw_response`."""

    def create(self, *, input: Any, model: str, **options: Any) -> RawAPIResponse[CreateEmbeddingResponse]:
        """Ask as `client.embeddings.create` does, and return the answer as it came."""
        body, how = embeddings({"input": input, "model": model, **options})
        response = self._face._fetch("POST", "/embeddings", body, how)
        decoded = not given(options.get("encoding_format", omit))
        return RawAPIResponse(response, partial(embeddings_of, response, decoded=decoded))


class Models(Resource["OpenAI"]):
    """`client.models`."""

    def list(self, **how: Unpack[CallOptions]) -> ModelPage:
        """Return the models that the service has."""
        return object_of(self._face._fetch("GET", "/models", None, how), ModelPage)

    def retrieve(self, model: str, **how: Unpack[CallOptions]) -> ListedModel:
        """Return one model by its name.

        Raises:
            NotFoundError: there is no such model.
        """
        return object_of(self._face._fetch("GET", model_path(model), None, how), ListedModel)


# Async -------------------------------------------------------------------------------------------------------


class AsyncChatCompletions(Resource["AsyncOpenAI"]):
    """`client.chat.completions`."""

    @overload
    async def create(
        self,
        *,
        messages: MessagesLike,
        model: Model,
        stream: Literal[False] | None = None,
        **options: Unpack[CreateOptions],
    ) -> ChatCompletion: ...
    @overload
    async def create(
        self, *, messages: MessagesLike, model: Model, stream: Literal[True], **options: Unpack[CreateOptions]
    ) -> AsyncChunkStream[ChatCompletionChunk]: ...
    @overload
    async def create(
        self, *, messages: MessagesLike, model: Model, stream: bool | None, **options: Unpack[CreateOptions]
    ) -> ChatCompletion | AsyncChunkStream[ChatCompletionChunk]: ...
    async def create(
        self, *, messages: MessagesLike, model: Model, stream: bool | None = omit, **options: Unpack[CreateOptions]
    ) -> ChatCompletion | AsyncChunkStream[ChatCompletionChunk]:
        """Ask, and return the whole answer, or with `stream=True` its chunks; see `ChatCompletions.create`."""
        return await self._face._chat(*chat("create", messages, model, stream, options))

    async def parse(
        self,
        *,
        messages: MessagesLike,
        model: Model,
        response_format: type[Kind] | Mapping[str, Any] = omit,
        **options: Unpack[ParseOptions],
    ) -> ParsedChatCompletion[Kind]:
        """Ask for an instance of a type, and return the answer with it; see `ChatCompletions.parse`."""
        wanted = Wanted(response_format, options.get("tools", omit), strict=True)
        completion: Any = await self._face._chat(*chat("parse", messages, model, False, options, wanted))
        return parsed(completion, wanted)

    def stream(
        self,
        *,
        messages: MessagesLike,
        model: Model,
        response_format: type[Kind] | Mapping[str, Any] = omit,
        **options: Unpack[ParseOptions],
    ) -> AsyncChatCompletionStreamManager[Kind]:
        """Return an async context manager that asks when it is entered; see `ChatCompletions.stream`."""
        wanted = Wanted(response_format, options.get("tools", omit))
        ask: Any = partial(self._face._chat, *chat("stream", messages, model, True, options, wanted))
        return AsyncChatCompletionStreamManager(ask, wanted)

    @property
    def with_raw_response(self) -> AsyncRawChatCompletions:
        """The same calls, which return the answers as they came: `.headers`, `.status_code`, `.parse()`."""
        return AsyncRawChatCompletions(self._face)


class AsyncRawChatCompletions(Resource["AsyncOpenAI"]):
    """`client.chat.completions.with_raw_response`."""

    async def create(
        self, *, messages: Any, model: Any, stream: bool | None = omit, **options: Any
    ) -> RawAPIResponse[Any]:
        """Ask as `ChatCompletions.create` does, and return the answer as it came."""
        body, how = chat("create", messages, model, stream, options)
        if stream:
            chunks: Any = await self._face._chat(body, how)
            return RawAPIResponse(chunks.response, lambda: chunks)
        response = await self._face._fetch("POST", CHATS, body, how)
        return RawAPIResponse(response, partial(object_of, response, ChatCompletion))

    async def parse(
        self, *, messages: Any, model: Any, response_format: Any = omit, **options: Any
    ) -> RawAPIResponse[ParsedChatCompletion[Any]]:
        """Ask as `ChatCompletions.parse` does, and return the answer as it came."""
        wanted = Wanted(response_format, options.get("tools", omit), strict=True)
        body, how = chat("parse", messages, model, False, options, wanted)
        response = await self._face._fetch("POST", CHATS, body, how)
        return RawAPIResponse(response, lambda: parsed(object_of(response, ChatCompletion), wanted))


class AsyncChat(Resource["AsyncOpenAI"]):
    """`client.chat`."""

    @property
    def completions(self) -> AsyncChatCompletions:
        """The calls for chats."""
        return AsyncChatCompletions(self._face)


class AsyncBeta(Resource["AsyncOpenAI"]):
    """`client.beta`, where `parse` and `stream` were once."""

    @property
    def chat(self) -> AsyncChat:
        """The same as `client.chat`."""
        return self._face.chat


class AsyncEmbeddingCalls(Resource["AsyncOpenAI"]):
    """`client.embeddings`."""

    async def create(
        self,
        *,
        input: Any,
        model: str,
        dimensions: int = omit,
        encoding_format: Literal["float", "base64"] = omit,
        user: str = omit,
        **options: Unpack[BodyOptions],
    ) -> CreateEmbeddingResponse:
        """Return the vectors of a text, of several, or of tokens; see `EmbeddingCalls.create`."""
        arguments = {"input": input, "model": model, "dimensions": dimensions, "user": user}
        body, how = embeddings({**arguments, "encoding_format": encoding_format, **options})
        response = await self._face._fetch("POST", "/embeddings", body, how)
        return embeddings_of(response, decoded=not given(encoding_format))

    @property
    def with_raw_response(self) -> AsyncRawEmbeddings:
        """The same call, which returns the answer as it came."""
        return AsyncRawEmbeddings(self._face)


class AsyncRawEmbeddings(Resource["AsyncOpenAI"]):
    """`client.embeddings.with_raw_response`."""

    async def create(self, *, input: Any, model: str, **options: Any) -> RawAPIResponse[CreateEmbeddingResponse]:
        """Ask as `client.embeddings.create` does, and return the answer as it came."""
        body, how = embeddings({"input": input, "model": model, **options})
        response = await self._face._fetch("POST", "/embeddings", body, how)
        decoded = not given(options.get("encoding_format", omit))
        return RawAPIResponse(response, partial(embeddings_of, response, decoded=decoded))


class AsyncModels(Resource["AsyncOpenAI"]):
    """`client.models`."""

    def list(self, **how: Unpack[CallOptions]) -> AsyncModelList:
        """Return the models that the service has: to be awaited, or iterated at once."""
        return AsyncModelList(partial(self._list, how))

    async def _list(self, how: Mapping[str, Any]) -> ModelPage:
        return object_of(await self._face._fetch("GET", "/models", None, how), ModelPage)

    async def retrieve(self, model: str, **how: Unpack[CallOptions]) -> ListedModel:
        """Return one model by its name.

        Raises:
            NotFoundError: there is no such model.
        """
        return object_of(await self._face._fetch("GET", model_path(model), None, how), ListedModel)


class AsyncModelList:
    """The models that the service has, on their way."""

    def __init__(self, ask: Callable[[], Awaitable[ModelPage]]) -> None:
        self._ask = ask

    def __await__(self) -> Generator[Any, Any, ModelPage]:
        return self._ask().__await__()

    async def __aiter__(self) -> AsyncIterator[ListedModel]:
        for each in await self._ask():
            yield each
