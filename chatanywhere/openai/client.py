"""OpenAI's clients as faces of `Client` and `AsyncClient`: two thin ones, over what they have in common."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from .._client import Client
from .._policy import DEFAULT
from .errors import APIRequest, APIResponse, ResponseHeaders, adapted
from .reading import completion_of
from .request import (
    CHATS,
    DEFAULT_MAX_RETRIES,
    DEFAULT_TIMEOUT,
    Asked,
    absent,
    check_how,
    given,
    is_streamed,
    limits,
    merged_headers,
    not_given,
    own,
    retry,
)
from .resources import (
    AsyncBeta,
    AsyncChat,
    AsyncEmbeddingCalls,
    AsyncModels,
    Beta,
    Chat,
    EmbeddingCalls,
    Models,
)
from .stream import AsyncChunkStream, ChunkStream
from .types import ChatCompletion, ChatCompletionChunk

if TYPE_CHECKING:
    from typing_extensions import Self

    from .._async_client import AsyncClient
    from .._config import Url
    from .._request import RawResponse

ClientT = TypeVar("ClientT")

_KEYWORDS = {
    "http_client": "this client makes its own connections: use client=chatanywhere.Client(proxy=…, verify=…)",
    "admin_api_key": "use api_key=",
    "workload_identity": "use api_key=, which may be a function",
    "provider": "use base_url=",
    "data_residency": "use base_url=",
    "websocket_base_url": "this client has no websockets",
    "webhook_secret": "this client receives no webhooks",
}
"""Arguments that OpenAI's library has, and what takes their place."""


_STAYS = ("api_key", "_own_key", "_key_provider", "chat", "beta", "embeddings", "models")
"""What is not pickled with a client."""


class _Face(Generic[ClientT]):
    """What the blocking and the async client have in common: their settings, and what these make of a call.

    Attributes:
        client: the client beneath, a `chatanywhere.Client` or `AsyncClient`.
        api_key, organization, project, timeout, max_retries: as they were given; they may be changed.
    """

    client: ClientT

    def __init__(
        self,
        *,
        api_key: Any = None,
        organization: str | None = None,
        project: str | None = None,
        base_url: Any = None,
        timeout: Any = not_given,
        max_retries: Any = not_given,
        default_headers: Mapping[str, Any] | None = None,
        default_query: Mapping[str, Any] | None = None,
        client: ClientT | None = None,
        **other: Any,
    ) -> None:
        from .._config import variable  # here, for a program that makes no client is to import little

        for name, value in other.items():
            if name not in _KEYWORDS:
                raise TypeError(f"{type(self).__name__}() got an unexpected keyword argument {name!r}")
            if value is not None:
                raise TypeError(f"{type(self).__name__}({name}=…) is not there: {_KEYWORDS[name]}")
        if client is not None and (api_key is not None or base_url is not None):
            raise TypeError("client= has its own key and base URL: give them to it")
        self.organization = variable("OPENAI_ORG_ID") if organization is None else organization
        self.project = variable("OPENAI_PROJECT_ID") if project is None else project
        self.timeout = timeout if given(timeout) else DEFAULT if client else DEFAULT_TIMEOUT
        self.max_retries = max_retries if given(max_retries) else DEFAULT if client else DEFAULT_MAX_RETRIES
        self._custom_headers = dict(default_headers or {})
        self._custom_query = dict(default_query or {})
        self._key_provider: Callable[[], Any] | None = api_key if callable(api_key) else None
        self._base_url = ""
        self.api_key = ""
        if client is None:
            url, key = _found(base_url, "-" if self._key_provider else api_key)
            client = self._make(key, url)
            first, _, query = (url if isinstance(url, str) else url[0] if url else _DEFAULT_URL).partition("?")
            self._base_url = first.rstrip("/") + "/" + (f"?{query}" if query else "")
            self.api_key = "" if self._key_provider else key or variable("CHATANYWHERE_API_KEY") or ""
        self.client = client
        self._own_key = self.api_key  # that the client sends by itself
        self._limits(self.timeout, streamed=True)  # tell what is wrong with it now
        self._attach()

    def _attach(self) -> None:
        raise NotImplementedError

    def _make(self, api_key: str | None, base_url: Url | None) -> ClientT:
        raise NotImplementedError

    @property
    def base_url(self) -> str:
        """What is asked; "" for what a `client=` asks. Another one makes a client beneath of its own."""
        return self._base_url

    @base_url.setter
    def base_url(self, url: Any) -> None:
        other = self.copy(base_url=url)
        self.client, self._base_url, self._own_key = other.client, other._base_url, other._own_key

    @property
    def default_headers(self) -> dict[str, Any]:
        """The headers that were given, which are sent with every request."""
        return self._custom_headers

    @property
    def default_query(self) -> dict[str, Any]:
        """The parameters that were given, which are sent with every request."""
        return self._custom_query

    def copy(
        self,
        *,
        api_key: Any = None,
        organization: str | None = None,
        project: str | None = None,
        base_url: Any = None,
        timeout: Any = not_given,
        max_retries: Any = not_given,
        default_headers: Mapping[str, Any] | None = None,
        set_default_headers: Mapping[str, Any] | None = None,
        default_query: Mapping[str, Any] | None = None,
        set_default_query: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a client with other settings, and the same connections unless the base URL is another one.

        `default_headers` and `default_query` are added to those that there are, `set_default_headers` and
        `set_default_query` take their place.

        Raises:
            ValueError: both are given.
        """
        for name, added, put in [
            ("headers", default_headers, set_default_headers),
            ("query", default_query, set_default_query),
        ]:
            if added is not None and put is not None:
                raise ValueError(f"default_{name}= adds and set_default_{name}= replaces: give one of them")
        headers = {**self._custom_headers, **(default_headers or {})}
        query = {**self._custom_query, **(default_query or {})}
        settings: dict[str, Any] = {
            "organization": self.organization if organization is None else organization,
            "project": self.project if project is None else project,
            "timeout": timeout if given(timeout) else self.timeout,
            "max_retries": max_retries if given(max_retries) else self.max_retries,
            "default_headers": headers if set_default_headers is None else set_default_headers,
            "default_query": query if set_default_query is None else set_default_query,
        }
        key = api_key if api_key is not None else self._key_provider or self.api_key or None
        if base_url is not None:
            return type(self)(api_key=key, base_url=base_url, **settings)
        duplicate = type(self)(client=self.client, **settings)
        duplicate._base_url, duplicate._own_key = self._base_url, self._own_key
        duplicate._key_provider = key if callable(key) else None
        duplicate.api_key = "" if callable(key) else key or ""
        return duplicate

    with_options = copy

    def __copy__(self) -> Self:
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled: never the key, which the other process has to know itself; see `Client`."""
        return {name: value for name, value in vars(self).items() if name not in _STAYS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, api_key="", _own_key="", _key_provider=None)
        self._attach()

    def _limits(self, timeout: Any, *, streamed: bool) -> dict[str, Any]:
        timeout = timeout if given(timeout) else self.timeout
        return {
            "timeout": timeout if timeout is DEFAULT else limits(timeout, streamed=streamed),
            "retry": self.max_retries if self.max_retries is DEFAULT else retry(self.max_retries),
        }

    def _asked(
        self,
        key: str,
        method: str,
        path: str,
        body: dict[str, Any] | None,
        how: Mapping[str, Any],
    ) -> Asked:
        """Return what a call asks; `how` has what was given of `extra_headers`, `extra_query` and `timeout`.

        Raises:
            TypeError, ValueError: an argument can't be sent.
        """
        check_how(how)
        headers = {"OpenAI-Organization": self.organization, "OpenAI-Project": self.project}
        if key != self._own_key:
            headers["Authorization"] = f"Bearer {key}"
        headers = {name: value for name, value in headers.items() if value is not None}
        headers = merged_headers(headers, self._custom_headers, own(how, "extra_headers"))
        query = {**self._custom_query, **own(how, "extra_query")}
        return Asked(
            # Without the query of the base URL, which may be a key.
            APIRequest(method, self.base_url.partition("?")[0].rstrip("/") + path),
            path,
            body,
            {name: value for name, value in query.items() if given(value)},
            {"headers": headers, **self._limits(how.get("timeout", not_given), streamed=is_streamed(body))},
        )

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            raise AttributeError(absent(type(self).__name__, name))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.client!r})"


def _found(base_url: Any, api_key: str | None) -> tuple[Any, str | None]:
    """Return base URL and key: of the arguments, else of the environment; None for what a `Client` finds by itself.

    A key of `OPENAI_API_KEY` goes where `base_url=` or `OPENAI_BASE_URL` say, and nowhere else: OpenAI's is not for
    ChatAnywhere.
    """
    from .._config import variable

    url = base_url if base_url is None or isinstance(base_url, (str, list, tuple)) else str(base_url)
    key = api_key
    ours = variable("CHATANYWHERE_API_KEY") if key is None else None
    if not url and ours is None and variable("CHATANYWHERE_BASE_URL") is None:
        url = variable("OPENAI_BASE_URL")
    if url and key is None and ours is None:
        key = variable("OPENAI_API_KEY")
    return url or variable("CHATANYWHERE_BASE_URL"), key


_DEFAULT_URL = "https://api.chatanywhere.tech/v1"


def _response(answer: RawResponse, asked: Asked) -> APIResponse:
    return APIResponse(answer.status_code, ResponseHeaders(answer.headers), asked.request, answer.content)


class OpenAI(_Face[Client]):
    """OpenAI's client, over a `Client`: its deadline, partial texts, cancelling, failover, and this service's errors.

    Args:
        api_key: the key, or a function that returns it; else `CHATANYWHERE_API_KEY`. `OPENAI_API_KEY` is used where
            `base_url` or `OPENAI_BASE_URL` says where it goes, for OpenAI's key is not for ChatAnywhere.
        base_url: as of a `Client`; else `CHATANYWHERE_BASE_URL`, else `OPENAI_BASE_URL` unless the key is that of
            `CHATANYWHERE_API_KEY`, else ChatAnywhere's hosts.
        organization, project: sent as headers; else `OPENAI_ORG_ID` and `OPENAI_PROJECT_ID`.
        timeout: seconds for the whole call, with its retries; None for no limit; or a `Timeout` of this package or of
            httpx. Else 600 s, 5 of them to connect.
        max_retries: attempts after the first.
        default_headers, default_query: sent with every request.
        client: a `Client` to ask, in place of one of its own: with a proxy, several hosts or models, observers …

    Raises:
        OpenAIError: there is no key.
        TypeError, ValueError: an argument can't be used; the message names the remedy.
    """

    def _attach(self) -> None:
        if not isinstance(self.client, Client):
            raise TypeError(f"client must be a chatanywhere.Client, not {type(self.client).__name__}")
        self.chat = Chat(self)
        self.beta = Beta(self)
        self.embeddings = EmbeddingCalls(self)
        self.models = Models(self)

    def _make(self, api_key: str | None, base_url: Url | None) -> Client:
        return Client(api_key, base_url=base_url)

    def _key(self) -> str:
        return self._key_provider() if self._key_provider else self.api_key

    def _chat(self, body: dict[str, Any], how: Mapping[str, Any]) -> ChatCompletion | ChunkStream[ChatCompletionChunk]:
        asked = self._asked(self._key(), "POST", CHATS, body, how)
        with adapted(asked.request):
            if is_streamed(body):
                return ChunkStream(self.client.stream("", **asked.as_chat()), asked.request)
            return completion_of(self.client.complete("", stream=None, **asked.as_chat()))

    def _fetch(self, method: str, path: str, body: dict[str, Any] | None, how: Mapping[str, Any]) -> APIResponse:
        asked = self._asked(self._key(), method, path, body, how)
        with adapted(asked.request):
            return _response(self.client.request(**asked.as_request()), asked)

    def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self.client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class AsyncOpenAI(_Face["AsyncClient"]):
    """OpenAI's async client, over an `AsyncClient`; see `OpenAI`. `api_key` may be a coroutine function."""

    def _attach(self) -> None:
        from .._async_client import AsyncClient

        if not isinstance(self.client, AsyncClient):
            what = "a chatanywhere.AsyncClient, such as Client().as_async()"
            raise TypeError(f"client must be {what}, not {type(self.client).__name__}")
        self.chat = AsyncChat(self)
        self.beta = AsyncBeta(self)
        self.embeddings = AsyncEmbeddingCalls(self)
        self.models = AsyncModels(self)

    def _make(self, api_key: str | None, base_url: Url | None) -> AsyncClient:
        from .._async_client import AsyncClient  # imports anyio

        return AsyncClient(api_key, base_url=base_url)

    async def _key(self) -> str:
        if self._key_provider is None:
            return self.api_key
        key: Any = self._key_provider()
        return str(await key if inspect.isawaitable(key) else key)

    async def _chat(
        self, body: dict[str, Any], how: Mapping[str, Any]
    ) -> ChatCompletion | AsyncChunkStream[ChatCompletionChunk]:
        asked = self._asked(await self._key(), "POST", CHATS, body, how)
        with adapted(asked.request):
            if is_streamed(body):
                chunks = AsyncChunkStream[ChatCompletionChunk](self.client.stream("", **asked.as_chat()), asked.request)
                return await chunks.__aenter__()
            return completion_of(await self.client.complete("", stream=None, **asked.as_chat()))

    async def _fetch(self, method: str, path: str, body: dict[str, Any] | None, how: Mapping[str, Any]) -> APIResponse:
        asked = self._asked(await self._key(), method, path, body, how)
        with adapted(asked.request):
            return _response(await self.client.request(**asked.as_request()), asked)

    async def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        await self.client.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
