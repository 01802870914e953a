"""The blocking client: a face of the calls that a service can be asked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

from ._policy import DEFAULT, Retry, RetryLike, Timeout, TimeoutLike

if TYPE_CHECKING:
    from distributed import Client as DaskClient
    from typing_extensions import Unpack

    from ._account import Balance, UsageRecord
    from ._async_client import AsyncClient
    from ._batch.limits import Limits
    from ._batch.progress import Progress
    from ._batch.run import MapOptions, Run
    from ._config import Model, Url
    from ._conversation.conversation import Conversation
    from ._embeddings import Embeddings
    from ._request import Files, RawResponse
    from ._service import Service
    from ._stream import Stream
    from ._tools import ToolStream
    from ._types import Completion, MessagesLike, ResponseFormat, ToolFinished, ToolRun, Wanted
    from .typing import ChatOptions


class Client:
    """A client of the ChatAnywhere chat service, or of a server that speaks one of its two protocols.

    It holds configuration and a connection pool. Threads may share it, a process may go on using it after a
    fork, and it pickles: its configuration only, and never the key, which the new process reads from its own
    environment, nor the observers. What `headers`, `base_url` and `proxy` hold is configuration, secrets included. A
    copy made by `copy` or `deepcopy`, which stays in the process, keeps the key and the same observers, and has
    connections of its own.

    Args:
        api_key: the key; else `CHATANYWHERE_API_KEY`, else `OPENAI_API_KEY` if `OPENAI_BASE_URL` (or
            `OPENAI_API_BASE`) names a ChatAnywhere host. The `web` protocol sends none.
        base_url: a host, which gets `/v1`; or with a path, which is taken as it is; or the full URL of chats. A query
            is sent with every request. Or several of them, to try in order while one can't be reached. Without a
            scheme it is asked over https, this machine (`localhost:8000`) over http.
            Else `CHATANYWHERE_BASE_URL`, else `OPENAI_BASE_URL` as above, else the live hosts.
        protocol: `"openai"`, the live service, or `"web"`, the original page's backend.
        model: else `CHATANYWHERE_MODEL`, else `gpt-4o-mini` (`gpt-3.5-turbo` on `web`). Of several, the next
            is asked when one is refused (403, or 404 for the model), over its quota, or failing (429, 5xx) after its
            attempts.
        timeout: a `Timeout`, a number of seconds for the whole call, or None for no limit.
        retry: a `Retry`, a number of attempts in all, or None for one.
        proxy: a URL: `http://`, `https://`, `socks5://`, `socks5h://`; None takes the environment's, `""` none.
        verify: whether to verify TLS certificates, or the path of a file or folder of CA certificates.
        headers: sent with every request; they replace the client's own of the same name.
        max_response_bytes: the largest answer, in bytes after decompression; None for no limit. Else 256 MiB, and
            no limit with `keep_text=False`.
        keepalive_expiry: seconds after which an idle connection is not used again; None for no limit, 0 closes each
            after its answer.
        observers: are told of what the calls do: `Observer`s, or any objects that have some of their methods.

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
        model: Model | None = None,
        timeout: TimeoutLike = Timeout(),  # noqa: B008  frozen
        retry: RetryLike = Retry(),  # noqa: B008  frozen
        proxy: str | None = None,
        verify: bool | str | os.PathLike[str] = True,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = DEFAULT,
        keepalive_expiry: float | None = 30.0,
        observers: Iterable[object] = (),
    ) -> None:
        self._service = _service(
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
            observers=observers,
        )
        self._service.settings.check_key()

    def stream(
        self,
        messages: str | MessagesLike,
        *,
        model: Model | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = DEFAULT,
        keep_text: bool = True,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Unpack[ChatOptions],
    ) -> Stream[Wanted]:
        """Ask, and return the answer's stream once its headers have come.

        Args:
            messages: a str, which is one user message, or an iterable of them: `{"role": …, "content": …}` dicts,
                `Completion`s, objects with `model_dump()` (pydantic's, those of OpenAI's library), dataclasses.
            model: instead of the client's.
            timeout: instead of the client's.
            retry: instead of the client's.
            headers: in addition to the client's.
            max_response_bytes: instead of the client's.
            keep_text: False for an answer so long that it would fill the memory: the pieces are given out only, and
                `text`, `reasoning`, the same and `tool_calls` of `completion`, and an error's `partial` stay empty.
                Its size is not limited, unless `max_response_bytes` was given.
            extra_headers: what `headers` is, by the name that OpenAI's library has for it; it comes last.
            extra_query: parameters of the URL, which replace those of the base URL.
            extra_body: fields of the JSON body, whatever their names; they replace all others, and None is `null`.
            response_format: a type that the answer is to be an instance of, which `completion.parsed` is then: a
                pydantic model, a dataclass, a `TypedDict`, or whatever else pydantic's `TypeAdapter` takes. Needs the
                extra `structured`. A dict is sent as it is.
            options: go into the request's JSON body as they are (`temperature`, `max_tokens`, `tools` …, which
                `typing.ChatOptions` lists; others too, though type checkers want them in `extra_body`);
                None leaves the field out. A keyword that belongs to the constructor, here or in OpenAI's
                library, is a TypeError that says where it belongs.

        Raises:
            ChatAnywhereError: the service can't be reached, is too slow, or answers with an error.
            ValueError, TypeError: an argument can't be sent. Nothing has been.
            ImportError: a type as `response_format` needs pydantic, which is not installed.
        """
        from ._stream import Stream

        call = self._service.chat(
            messages,
            model=model,
            timeout=timeout,
            retry=retry,
            headers=headers,
            max_response_bytes=max_response_bytes,
            extra_headers=extra_headers,
            extra_query=extra_query,
            extra_body=extra_body,
            response_format=response_format,
            keep_text=keep_text,
            options=options,
        )
        return Stream(call, keep_text=keep_text)

    def complete(
        self,
        messages: str | MessagesLike,
        *,
        model: Model | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
        max_response_bytes: int | None = DEFAULT,
        stream: bool | None = True,
        extra_headers: Mapping[str, str] | None = None,
        extra_query: Mapping[str, Any] | None = None,
        extra_body: Mapping[str, Any] | None = None,
        response_format: ResponseFormat[Wanted] = None,
        **options: Unpack[ChatOptions],
    ) -> Completion[Wanted]:
        """Ask, and return the whole answer. Arguments and errors are those of `stream`.

        Nothing is given out before the end of the answer, so one that was cut is asked for again.

        `stream=False` asks for one JSON object, for models that can't be streamed. A model that thinks is silent then,
        so the `read` limit is off: the call is bounded by `total`. A gateway's timeout (504, 524) is not followed by
        another attempt, which would be billed again. `stream=None` asks for the same without the field, which is what
        OpenAI's API takes for False.

        A `KeyboardInterrupt`, and whatever else interrupts it from outside, has the text so far as `partial`.

        Raises:
            OutputError: the answer is no instance of the type that `response_format` asks for.
            RuntimeError: `stream=False` on the `web` protocol, which can only stream.
        """
        from ._stream import Stream, leave_text

        answer: Stream[Wanted] | None = None
        try:
            call = self._service.chat(
                messages,
                model=model,
                timeout=timeout,
                retry=retry,
                headers=headers,
                max_response_bytes=max_response_bytes,
                extra_headers=extra_headers,
                extra_query=extra_query,
                extra_body=extra_body,
                response_format=response_format,
                stream=stream,
                kept_back=True,
                options=options,
            )
            with Stream(call) as answer:
                return answer.read()
        except BaseException as interrupt:
            leave_text(interrupt, answer.text if answer else "")
            raise

    def run_tools(
        self,
        messages: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        *,
        max_rounds: int = 8,
        parallel: bool = False,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None = None,
        timeout: TimeoutLike = DEFAULT,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> ToolRun[Wanted]:
        """Ask, run the functions that the model calls, tell it what they returned, and so on until it calls none.

        Functions run in threads. One that raises does not end the run: the model is told the error's words, as it is
        when it calls a function that there is not, or with arguments that do not fit. Needs the extra `structured`.

        Args:
            messages: as in `stream`.
            tools: functions with annotations; what the model is told of them is in their docstrings. They return a str,
                or what pydantic can write as JSON.
            max_rounds: how often functions are run. If the model wants still more, the answer that says so is the last
                one, so there are at most `max_rounds` + 1 requests.
            parallel: whether the calls of one answer run at the same time; their results come when all have finished.
            on_round: called after each round, with the answer and what became of its calls, and waited for; what it
                raises ends the run.
            timeout: instead of the client's; its `total` bounds the whole run: no request and no function starts after
                it, and a function that is still running is not waited for.
            response_format: as in `complete`, for the last answer.
            options: the others of `complete`. A `tool_choice` that demands a call is for the first request only.

        Raises:
            ChatAnywhereError: a request failed, or the time is up (`APITimeoutError`).
            ImportError: pydantic is not installed.
            TypeError, ValueError: a tool is no function, or an argument can't be sent.
        """
        from ._tools import Rounds, ToolStream

        rounds = Rounds(
            messages,
            tools,
            max_rounds=max_rounds,
            parallel=parallel,
            on_round=on_round,
            timeout=self._service.settings.limits(timeout),
            options={"response_format": response_format, **options},
            awaits=False,
        )
        run: ToolStream[Wanted] = ToolStream(self, rounds, whole=True)
        with run:
            return run.read()

    def stream_tools(
        self,
        messages: str | MessagesLike,
        tools: Iterable[Callable[..., Any]],
        *,
        max_rounds: int = 8,
        parallel: bool = False,
        on_round: Callable[[Completion, Sequence[ToolFinished]], object] | None = None,
        timeout: TimeoutLike = DEFAULT,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> ToolStream[Wanted]:
        """Do what `run_tools` does, and return all that happens as events.

        They are those of `Stream.events()`, and `ToolStarted` and `ToolFinished`. At the end, `run` is what `run_tools`
        returns. Arguments and errors are those of `run_tools`; the time of `timeout` begins now.
        """
        from ._tools import Rounds, ToolStream

        rounds = Rounds(
            messages,
            tools,
            max_rounds=max_rounds,
            parallel=parallel,
            on_round=on_round,
            timeout=self._service.settings.limits(timeout),
            options={"response_format": response_format, **options},
            awaits=False,
        )
        return ToolStream(self, rounds)

    def conversation(
        self,
        system: str | None = None,
        *,
        messages: MessagesLike = (),
        model: Model | None = None,
        max_messages: int | None = None,
        max_chars: int | None = None,
        **options: Any,
    ) -> Conversation:
        """Begin a conversation, which remembers what is said. Nothing is sent.

        Args:
            system: the system message.
            messages: what has been said before, as in `stream`.
            model: instead of the client's.
            max_messages: how many messages are sent at most, without the system message and with the question. Whole
                turns are left out, the oldest first; the question is always sent.
            max_chars: the same for the characters of their texts.
            options: of all turns, as in `complete`.

        Raises:
            ValueError, TypeError: an argument can't be used.
        """
        from ._conversation.conversation import Conversation

        return Conversation(
            self,
            system,
            messages=messages,
            model=model,
            max_messages=max_messages,
            max_chars=max_chars,
            **options,
        )

    def map(
        self,
        prompts: Iterable[str | MessagesLike | Mapping[str, Any]],
        *,
        journal: str | os.PathLike[str] | None = None,
        concurrency: int = 16,
        limits: Limits | None = None,
        order: Literal["input", "done"] = "input",
        ahead: int | None = None,
        errors: Literal["return", "raise"] = "return",
        max_errors: int | None = None,
        on_quota: Literal["stop", "wait"] = "stop",
        reuse: bool = False,
        retry_failed: bool = True,
        progress: bool | Callable[[Progress], object] | None = None,
        prices: Mapping[str, tuple[float, float]] | None = None,
        executor: DaskClient | None = None,
        model: Model | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        response_format: ResponseFormat[Wanted] = None,
        **options: Any,
    ) -> Run[Wanted]:
        """Ask many prompts, some at a time, and return an iterator of their `Result`s, which begins when it is asked.

        A failed prompt is a result, too, that has an `error`. The run itself ends early when the quota or the balance
        is spent, or the key refused: calls that are running end, all that was paid for is handed out, and then that
        error is raised, with `left`, the number of prompts without a result, and `resume_at`, a `datetime` or None.
        It ends so, too, when there has been no answer for 10 minutes.

        429 and 503 are no failures: everybody waits as long as the service says, fewer requests are made at a time, and
        the prompt is asked again. It fails at the 20th time in a row, while others are answered.

        Args:
            prompts: any iterable, also one without end, of strings, lists of messages, or dicts of keywords of
                `complete`: `messages`, or `prompt`, which is another name of it, `model`, `temperature` …; and `id`,
                which is for you only. They are read by a thread of the run, and no more than are needed. What they
                raise is raised when all that was paid for has been handed out.
            journal: a file that keeps what has been sent and answered. A run that is begun again with it, after
                whatever end, asks what has no answer yet. A prompt is known by the service, the model, the messages and
                the options; not by the key, the limits or its place. It is made for the eyes of its owner only.
            concurrency: requests that are made at a time, by a thread each.
            limits: what may be spent in a second, a minute, a day; see `Limits`.
            order: `"input"` hands out results in the order of the prompts, `"done"` as they come.
            ahead: how many prompts may be read and not handed out, in whatever order; None is 4 x `concurrency`.
            errors: `"raise"` ends the run at the first prompt that fails, with its error.
            max_errors: ends it so at that many.
            on_quota: `"wait"` sleeps until the next day when a quota of the day is spent, and then tries once an hour
                until there is one.
            reuse: prompts that ask the same share one answer, which is kept in memory for those that may follow. Else
                each is asked.
            retry_failed: whether those are asked again that have failed in an earlier run with the same journal.
            progress: True draws a bar, which needs the extra `batch`; a function is called with a `Progress` at each
                step, by whoever iterates. What it raises ends the run.
            prices: by model, what a million tokens cost that are sent, and received: `{"gpt-4o-mini": (0.15, 0.6)}`.
            executor: a `dask.distributed.Client`, whose workers make the calls, with keys from their environment; needs
                the extra `dask`. None is for threads.
            model: as in `complete`, for each prompt.
            timeout: the same; the time of a prompt begins when its request does.
            retry: the same; a prompt that is to be tried again waits, with its place among those that are asked.
            response_format: as in `complete`. `completion.parsed` of what the journal has, too, is an instance.
            options: the others of `complete`.

        Raises:
            ValueError, TypeError: an argument can't be used, or the journal is another file. Nothing has been sent.
            RuntimeError: another run holds the journal; the message says which process.
            OSError: the journal can't be opened; later, from the iterator, it can't be written.
            ImportError: `progress=True` needs tqdm, a type as `response_format` pydantic, `executor` distributed.
        """
        from ._batch.run import Run

        run: MapOptions = {
            "journal": journal,
            "concurrency": concurrency,
            "limits": limits,
            "order": order,
            "ahead": ahead,
            "errors": errors,
            "max_errors": max_errors,
            "on_quota": on_quota,
            "reuse": reuse,
            "retry_failed": retry_failed,
            "progress": progress,
            "prices": prices,
            "executor": executor,
        }
        call = {"model": model, "timeout": timeout, "retry": retry, "response_format": response_format, **options}
        return Run(self._service, prompts, run, call)

    def models(
        self,
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> list[str]:
        """Ask the service which models it has (`GET …/models`), and return their ids.

        Args:
            timeout: instead of the client's.
            retry: instead of the client's.
            headers: in addition to the client's.

        Raises:
            ChatAnywhereError: it can't be reached, or answers with an error.
            RuntimeError: the `web` protocol can't be asked.
        """
        from ._account import MODELS

        return self._service.ask(MODELS, timeout=timeout, retry=retry, headers=headers).read()

    def embed(
        self,
        texts: str | Iterable[str],
        *,
        model: str = "text-embedding-3-small",
        dimensions: int | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Embeddings:
        """Return the embeddings of texts, in their order (`POST …/embeddings`).

        Many texts are sent as several requests, up to 8 at a time: at most 2,048 texts each, 300,000 tokens
        (OpenAI's limit; a token is taken for two bytes of UTF-8, which is cautious), and no more vectors than an answer
        may have in bytes. `timeout` bounds them all together by `total`; the `read` limit is off, for a server is
        silent while it works. When one request fails, the others are cancelled, and its error is raised.

        Args:
            texts: a str, which is one text, or any iterable of them. None may be longer than the model takes, which is
                8,192 tokens for OpenAI's; the service refuses a longer one.
            model: that makes the vectors.
            dimensions: numbers of a vector, where the model leaves the choice.
            timeout: instead of the client's.
            retry: instead of the client's; it counts for each request.
            headers: in addition to the client's.

        Raises:
            ChatAnywhereError: the service can't be reached, is too slow, or answers with an error.
            ValueError, TypeError: a text is empty or no str; the message names its index. Nothing has been sent.
            RuntimeError: the `web` protocol has no embeddings.
        """
        from ._embeddings import embedding_calls, joined

        calls = embedding_calls(self._service, texts, model, dimensions, timeout=timeout, retry=retry, headers=headers)
        return joined(calls.read(), model)

    def balance(
        self,
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Balance:
        """Return what the account of the key holds (`POST …/query/balance`, which only ChatAnywhere has).

        Args:
            timeout: instead of the client's.
            retry: instead of the client's.
            headers: in addition to the client's.

        Raises:
            NotFoundError: the host has no such endpoint.
            ChatAnywhereError: it can't be reached, or answers with an error.
            RuntimeError: the `web` protocol can't be asked.
        """
        from ._account import BALANCE

        return self._service.ask(BALANCE, {}, timeout=timeout, retry=retry, headers=headers).read()

    def usage(
        self,
        hours: int = 24,
        model: str = "%",
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> list[UsageRecord]:
        """Return what the key has used of late (`POST …/query/usage_details`, which only ChatAnywhere has).

        Args:
            hours: how far to look back.
            model: a name, in which `%` stands for any characters: `"gpt-4o%"`.
            timeout: instead of the client's.
            retry: instead of the client's.
            headers: in addition to the client's.

        Raises: as `balance`, and
            ValueError, TypeError: an argument can't be sent. Nothing has been.
        """
        from ._account import USAGE, usage_body

        body = usage_body(model, hours=hours)
        return self._service.ask(USAGE, body, timeout=timeout, retry=retry, headers=headers).read()

    def usage_by_day(
        self,
        days: int = 5,
        model: str = "%",
        *,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> list[UsageRecord]:
        """Return what the key has used on each of the last days (`POST …/query/day_usage_details`).

        `days` is how far to look back; the other arguments, and the errors, are those of `usage`.
        """
        from ._account import USAGE_BY_DAY, usage_body

        body = usage_body(model, days=days)
        return self._service.ask(USAGE_BY_DAY, body, timeout=timeout, retry=retry, headers=headers).read()

    def ping(
        self, *, timeout: TimeoutLike = DEFAULT, headers: Mapping[str, str] | None = None
    ) -> dict[str, float | None]:
        """Ask all hosts at the same time, once each, and return how soon each has answered, by its base URL.

        It is the time in seconds until an answer to `GET …/models` has begun, whatever its status (of one with an
        error, until it has come): names, connecting and TLS included, unless the client has an idle connection to that
        host. None for a host that can't be reached within the limits.

        Args:
            timeout: instead of the client's.
            headers: in addition to the client's.

        Raises:
            RuntimeError: the `web` protocol can't be asked.
        """
        from ._account import Ping

        ping = Ping(self._service, timeout=timeout, headers=headers)
        return ping.seconds(ping.calls.read())

    @overload
    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        raw: Literal[True],
        query: Mapping[str, Any] | None = None,
        files: Files | None = None,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> RawResponse: ...
    @overload
    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        files: Files | None = None,
        raw: Literal[False] = False,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Any: ...
    def request(
        self,
        method: str,
        path: str,
        json: Any = None,
        *,
        query: Mapping[str, Any] | None = None,
        files: Files | None = None,
        raw: bool = False,
        timeout: TimeoutLike = DEFAULT,
        retry: RetryLike = DEFAULT,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """Ask any endpoint: images, audio, files, responses … under the limits, retries and errors of all calls.

        Nothing is said while the service works, so the `read` limit is off: `total` bounds the call, and an answer that
        was awaited in vain is not asked for again. It may have as many bytes as `max_response_bytes` allows.

        Args:
            method: `"GET"`, `"POST"`, `"PUT"`, `"PATCH"` or `"DELETE"`.
            path: what follows the base URL: `"/images/generations"`.
            json: the body; a dict, a list, or an object that messages may be as well. None for no body.
            query: parameters of the URL, which replace those of the base URL.
            files: by the names of their fields, paths, bytes, files that are open in binary mode, `(name, bytes)` or
                `(name, bytes, media type)`; or lists of these. The fields of `json` are fields of the same form then
                (`multipart/form-data`).
            raw: return the answer as it is, for speech and other files.
            timeout: instead of the client's.
            retry: instead of the client's.
            headers: in addition to the client's.

        Returns:
            The JSON of the answer, None if there is none; with `raw=True` an object with `content` (bytes), `headers`
            and `status_code`.

        Raises:
            ChatAnywhereError: the service can't be reached, is too slow, or answers with an error.
            ValueError, TypeError: an argument can't be sent. Nothing has been.
            OSError: a file can't be read. Nothing has been sent.
            RuntimeError: the `web` protocol can't be asked.
        """
        from ._request import any_call, result

        call = any_call(
            self._service,
            method,
            path,
            json,
            query=query,
            files=files,
            raw=raw,
            timeout=timeout,
            retry=retry,
            headers=headers,
        )
        return result(call, call.read())

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

    def __copy__(self) -> Client:
        duplicate = type(self).__new__(type(self))
        vars(duplicate).update(vars(self), _service=type(self._service)(self._service.settings))
        return duplicate

    def __deepcopy__(self, memo: dict[int, Any]) -> Client:
        import copy

        duplicate = self.__copy__()
        memo[id(self)], memo[id(self._service)] = duplicate, duplicate._service
        vars(duplicate).update(copy.deepcopy(vars(self), memo))  # what a subclass has added
        return duplicate

    def __getstate__(self) -> dict[str, Any]:
        return self._service.settings.arguments()

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._service = _service(**state)  # a client without a key says so when it is used

    def __repr__(self) -> str:
        return f"Client({self._service.describe()})"


def _service(**settings: Any) -> Service:
    """Make what a client asks, unchecked for a key."""
    # Here and not above: importing the client is cheap, and making the first one imports requests.
    from ._config import Settings
    from ._service import Service

    return Service(Settings(**settings))
