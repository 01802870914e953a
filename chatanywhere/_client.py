"""The blocking client: a face of the calls that a service can be asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from ._call import Service
from ._config import Settings, Url
from ._policy import DEFAULT, Retry, RetryLike, Timeout, TimeoutLike

if TYPE_CHECKING:
    from ._async_client import AsyncClient
    from ._stream import Stream
    from ._types import Completion, Messages


class Client:
    """A client of the ChatAnywhere chat service, or of a server that speaks one of its two protocols.

    It holds configuration and a connection pool. Threads may share it, a process may go on using it after a
    fork, and it pickles: its configuration only, and never the key, which the new process reads from its own
    environment. What `headers` and `proxy` hold is configuration, secrets included.

    Args:
        api_key: the key; else `CHATANYWHERE_API_KEY`, else `OPENAI_API_KEY` if `OPENAI_BASE_URL` (or
            `OPENAI_API_BASE`) names a ChatAnywhere host. The `web` protocol sends none.
        base_url: the host, with or without `/v1` or the full path, or several to try in order while one
            can't be reached. Without a scheme it is asked over https, this machine (`localhost:8000`) over http.
            Else `CHATANYWHERE_BASE_URL`, else `OPENAI_BASE_URL` as above, else the live hosts.
        protocol: `"openai"`, the live service, or `"web"`, the original page's backend.
        model: else `CHATANYWHERE_MODEL`, else `gpt-4o-mini` (`gpt-3.5-turbo` on `web`).
        timeout: a `Timeout`, a number of seconds for the whole call, or None for no limit.
        retry: a `Retry`, a number of attempts in all, or None for one.
        proxy: a URL: `http://`, `https://`, `socks5://`, `socks5h://`; None takes the environment's, `""` none.
        verify: whether to verify TLS certificates, or the path of a file or folder of CA certificates.
        headers: sent with every request; they replace the client's own of the same name.
        max_response_bytes: the largest answer, in bytes after decompression; None for no limit.
        keepalive_expiry: seconds after which an idle connection is not used again; None for no limit, 0 closes each
            after its answer.

    Raises:
        ValueError, TypeError: an argument can't be used; the message names the remedy.
        AuthenticationError: the `openai` protocol needs a key and there is none (`attempts` is 0).
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: Url | None = None,
        protocol: Literal["openai", "web"] = "openai",
        model: str | None = None,
        timeout: TimeoutLike = Timeout(),  # noqa: B008  frozen
        retry: RetryLike = Retry(),  # noqa: B008  frozen
        proxy: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = 256 * 1024 * 1024,
        keepalive_expiry: float | None = 30.0,
    ) -> None:
        settings = Settings(
            api_key=api_key,
            base_url=base_url,
            protocol=protocol,
            model=model,
            timeout=timeout,
            retry=retry,
            proxy=proxy,
            verify=verify,
            headers=headers,
            max_response_bytes=max_response_bytes,
            keepalive_expiry=keepalive_expiry,
        )
        settings.check_key()
        self._service = Service(settings)

    def stream(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        keep_text: bool = True,
        **options: Any,
    ) -> Stream:
        """Ask, and return the answer's stream once its headers have come.

        Args:
            messages: a str, which is one user message, or a list of `{"role": …, "content": …}` dicts.
            model: instead of the client's.
            timeout: instead of the client's.
            retry: instead of the client's.
            headers: in addition to the client's.
            keep_text: False for an answer so long that its text would fill the memory: the pieces are given out
                only, and `text`, `reasoning`, `completion.text` and an error's `partial` stay empty.
            options: go into the request's JSON body as they are (`temperature`, `max_tokens`, `tools` …);
                None leaves the field out.

        Raises:
            ChatAnywhereError: the service can't be reached, is too slow, or answers with an error.
            ValueError, TypeError: an argument can't be sent. Nothing has been.
        """
        from ._stream import Stream  # here and not above, for importing the client is to be cheap

        call = self._service.chat(messages, model=model, timeout=timeout, retry=retry, headers=headers, options=options)
        return Stream(call, keep_text=keep_text)

    def complete(
        self,
        messages: str | Messages,
        *,
        model: str | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Completion:
        """Ask, and return the whole answer. Arguments and errors are those of `stream`."""
        with self.stream(messages, model=model, timeout=timeout, retry=retry, headers=headers, **options) as stream:
            for _ in stream:
                pass
            return stream.completion

    def models(self) -> list[str]:
        """Ask the service which models it has (`GET /v1/models`), and return their ids.

        Raises:
            ChatAnywhereError: it can't be reached, or answers with an error.
            RuntimeError: the `web` protocol can't be asked.
        """
        from ._protocols.openai import MODELS

        return self._service.ask(MODELS).read()

    def as_async(self, *, max_threads: int = 40) -> AsyncClient:
        """Return an `AsyncClient` that shares this client's settings and connections."""
        from ._async_client import AsyncClient  # here, because it knows this module

        return AsyncClient._sharing(self._service, max_threads)

    def close(self) -> None:
        """Close the pooled connections; the next call opens new ones."""
        self._service.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self._service.settings.arguments()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._service = Service(Settings(**state))  # a client without a key says so when it is used

    def __repr__(self) -> str:
        return f"Client({self._service.describe()})"
