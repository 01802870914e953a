"""Observers: what they are told of calls, in which order, and that they harm none, whatever they do."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import copy
import dataclasses
import functools
import gc
import json
import os
import pickle
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

import anyio
import psutil
import pytest
import responses
from faces import Face
from leaks import reachable
from raw_server import BEGUN, RawServer, json_answer, sockets_to

import chatanywhere
from chatanywhere import (
    APIConnectionError,
    APITimeoutError,
    AsyncClient,
    AsyncStream,
    BadRequestError,
    CallView,
    Client,
    Embeddings,
    InternalServerError,
    Observer,
    Retry,
    Stream,
    StreamCancelledError,
    StreamInterruptedError,
    TextDelta,
)
from chatanywhere.testing import Fault, LoopbackServer, Reply

KEY = "sk-0123456789abcdef"
HOOKS = ["call_started", "attempt_failed", "answer_started", "first_text", "call_ended"]
FINE = ["call_started", "answer_started", "first_text", "call_ended"]
SOON = Retry(backoff=0.001, max_backoff=0.001)
RAW = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nHi"


def interrupt() -> None:
    """Do as Ctrl-C does."""
    raise KeyboardInterrupt


class Recorder(Observer):
    """Keeps all that it is told, and may do something about it."""

    def __init__(self, **actions: Callable[[CallView], object]) -> None:
        self.told: list[tuple[str, CallView]] = []
        self._actions = actions

    def _record(self, hook: str, view: CallView) -> None:
        self.told.append((hook, view))
        self._actions.get(hook, lambda _: None)(view)

    def call_started(self, view: CallView) -> None:
        self._record("call_started", view)

    def attempt_failed(self, view: CallView) -> None:
        self._record("attempt_failed", view)

    def answer_started(self, view: CallView) -> None:
        self._record("answer_started", view)

    def first_text(self, view: CallView) -> None:
        self._record("first_text", view)

    def call_ended(self, view: CallView) -> None:
        self._record("call_ended", view)

    @property
    def hooks(self) -> list[str]:
        return [hook for hook, _ in self.told]

    def views(self, hook: str) -> list[CallView]:
        return [view for each, view in self.told if each == hook]

    @property
    def end(self) -> CallView:
        """The view of the one end, which nothing has followed."""
        assert self.hooks.count("call_ended") == 1
        assert self.hooks[0] == "call_started"
        assert self.hooks[-1] == "call_ended"
        return self.told[-1][1]


@contextlib.contextmanager
def watched(*replies: Any, faults: Any = (), **settings: Any) -> Iterator[tuple[LoopbackServer, Client, Recorder]]:
    """A server that says this, and a client of it that is watched."""
    recorder = Recorder()
    said: Any = replies[0] if callable(replies[:1] and replies[0]) else list(replies) or (lambda _: "Hi")
    with LoopbackServer(said, faults=faults) as server:
        options = {"base_url": server.url, "observers": [recorder], "retry": SOON, "timeout": 20, **settings}
        with Client(KEY, **options) as client:
            yield server, client, recorder


# What is told -------------------------------------------------------------------------------------------------


WAYS = {
    "stream": lambda face, client: face.ask(client, temperature=0.5, max_tokens=9),
    "complete": lambda face, client: face.call(client, "complete", "Hello", temperature=0.5, max_tokens=9),
    "one object": lambda face, client: face.call(
        client, "complete", "Hello", temperature=0.5, max_tokens=9, stream=False
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_told_from_its_beginning_to_its_end(face: Face, way: str) -> None:
    """Each moment comes once, in order, with what is known by then."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    usage["prompt_tokens_details"] = {"cached_tokens": 1}  # type: ignore[assignment]
    with watched(Reply("Hello there", usage=usage)) as (server, client, recorder):
        WAYS[way](face, client)
        request, url = server.requests[0], server.url
    assert recorder.hooks == FINE
    views = [view for _, view in recorder.told]
    started, answer, text, end = views
    for view in views:
        assert (view.operation, view.path, view.model) == ("chat", "/chat/completions", "gpt-4o-mini")
        assert (view.host, view.attempt, view.wait, view.error) == (f"{url}/v1", 1, None, None)
        assert view.streamed is (way != "one object")
        assert view.parameters == {"temperature": 0.5, "max_tokens": 9, "stream": view.streamed}
        assert view.request_bytes == len(request.body)
        assert (view.request, view.completion) == (None, None)
    assert len({view.call_id for view in views}) == 1
    assert 0 <= started.seconds <= answer.seconds <= text.seconds <= end.seconds < 10
    assert (started.status_code, started.request_id, started.response_bytes) == (None, None, 0)
    assert answer.status_code == 200
    assert answer.request_id
    assert text.response_model == end.response_model == "gpt-4o-mini"
    assert end.response_id
    assert end.response_id.startswith("chatcmpl-")
    assert (end.finish_reasons, end.completed) == (("stop",), True)
    assert end.usage is not None
    assert (end.usage.prompt_tokens, end.usage.completion_tokens, end.usage.cached_tokens) == (3, 2, 1)
    assert (started.completed, started.usage) == (False, None)


def test_the_bytes_of_the_answer_are_those_of_its_body(raw_server: RawServer, face: Face) -> None:
    """What came behind the head is counted, as it came."""
    recorder = Recorder()
    raw_server.answer(RAW, None)
    with Client(base_url=raw_server.url, protocol="web", observers=[recorder]) as client:
        assert face.ask(client).text == "Hi"
        raw_server.answer(BEGUN, b"3\r\ntwo\r\n0\r\n\r\n", None)
        assert face.ask(client).text == "onetwo"
    sizes = [view.response_bytes for view in recorder.views("call_ended")]
    assert sizes == [2, len(b"3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n")]
    assert all(view.streamed and view.model == "gpt-3.5-turbo" for view in recorder.views("call_ended"))


SPEAKING = {
    "text": Reply("Hi"),
    "thoughts": Reply("Hi", reasoning="Well"),
    "a refusal": Reply(refusal="No"),
    "a tool call": Reply(tool_calls=[("weather", {"city": "Rome"})]),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("reply", SPEAKING.values(), ids=SPEAKING)
def test_the_first_text_is_whatever_the_model_says_first(face: Face, reply: Reply, stream: bool) -> None:
    """Text, thoughts, a refusal and a tool call alike, streamed or not, once."""
    with watched(reply) as (_, client, recorder):
        face.call(client, "complete", "Hello", stream=stream)
    assert recorder.hooks == FINE


def test_an_empty_answer_has_no_first_text(face: Face) -> None:
    """A model that says nothing never begins to speak."""
    with watched("") as (_, client, recorder):
        face.call(client, "complete", "Hello")
    assert recorder.hooks == ["call_started", "answer_started", "call_ended"]
    assert recorder.end.completed


OPERATIONS: dict[str, tuple[str, tuple[Any, ...], str, str | None]] = {
    "models": ("models", (), "/models", None),
    "embed": ("embeddings", ("Hello",), "/embeddings", "text-embedding-3-small"),
    "balance": ("balance", (), "/query/balance", None),
    "usage": ("usage", (), "/query/usage_details", None),
    "usage_by_day": ("usage_by_day", (), "/query/day_usage_details", None),
    "ping": ("ping", (), "/models", None),
    "request": ("request", ("GET", "/models"), "/models", None),
    "complete": ("chat", ("Hello",), "/chat/completions", "gpt-4o-mini"),
    "run_tools": ("chat", ("Hello", [interrupt]), "/chat/completions", "gpt-4o-mini"),
}


@pytest.mark.parametrize("method", OPERATIONS)
def test_every_kind_of_call_is_told(face: Face, method: str) -> None:
    """Each has the name of what it does."""
    operation, arguments, path, model = OPERATIONS[method]
    with watched() as (server, client, recorder):
        face.call(client, method, *arguments)
        assert len(server.requests) == 1
    spoken = ["first_text"] if operation == "chat" else []
    assert recorder.hooks == ["call_started", "answer_started", *spoken, "call_ended"]
    assert {(view.operation, view.path, view.model) for _, view in recorder.told} == {(operation, path, model)}
    assert recorder.end.completed
    if method == "embed":
        assert recorder.end.usage is not None
        assert recorder.end.response_model == model


def test_a_request_by_its_path_is_told_with_its_model(face: Face) -> None:
    """What any endpoint is asked names the model that the JSON names, and the tokens that the answer tells."""
    with watched() as (_, client, recorder):
        body = {"model": "text-embedding-3-small", "input": "Hello"}
        face.call(client, "request", "POST", "/embeddings", body)
    assert (recorder.end.operation, recorder.end.model) == ("embeddings", "text-embedding-3-small")
    assert recorder.end.response_model == "text-embedding-3-small"
    assert recorder.end.usage is not None
    assert recorder.end.usage.prompt_tokens == 1


def test_the_tokens_of_bytes_are_told(raw_server: RawServer, face: Face) -> None:
    """The answer may be wanted as it came, as OpenAI's face wants that of embeddings; it may be no JSON, too."""
    answers = {"/embeddings": b'{"model": "m2", "usage": {"prompt_tokens": 7}}', "/audio/speech": b"{MP3"}
    recorder = Recorder()
    with Client(KEY, base_url=raw_server.url, observers=[recorder]) as client:
        for path, answer in answers.items():
            raw_server.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(answer), answer), None)
            assert face.call(client, "request", "POST", path, {"model": "m"}, raw=True).content == answer
    embeddings, speech = recorder.views("call_ended")
    assert embeddings.usage is not None
    assert (embeddings.usage.prompt_tokens, embeddings.response_model) == (7, "m2")
    assert (speech.usage, speech.response_model, speech.completed) == (None, None, True)


def test_no_kind_of_call_is_left_out() -> None:
    """The table above has all methods that ask; streams, and what consists of calls, have tests of their own."""
    others = {"as_async", "close", "conversation", "map", "stream", "stream_tools"}
    methods = {name for name in dir(Client) if not name.startswith("_")}
    assert methods - others <= {*OPERATIONS}


def test_each_request_of_embeddings_is_a_call(face: Face) -> None:
    """Several of them are told with numbers of their own, in the context of the caller."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []
    recorder = Recorder(call_started=lambda _: seen.append(variable.get()))
    with LoopbackServer() as server, Client(KEY, base_url=server.url, observers=[recorder]) as client:
        ask = functools.partial(face.call, client, "embed", ["word"] * 4097, dimensions=2)
        vectors: Embeddings = contextvars.copy_context().run(lambda: (variable.set("set"), ask())[1])
        assert len(vectors) == 4097
        assert len(server.requests) == 3
    assert seen == ["set"] * 3
    ends = recorder.views("call_ended")
    assert len({view.call_id for view in ends}) == 3
    assert vectors.usage is not None
    assert sum(view.usage.prompt_tokens for view in ends if view.usage) == vectors.usage.prompt_tokens


def test_each_attempt_at_a_prompt_is_a_call() -> None:
    """A run over many prompts is told as the chats that it consists of, in the context in which it was begun."""
    variable = contextvars.ContextVar("variable", default="unset")
    seen: list[str] = []
    recorder = Recorder(call_started=lambda _: seen.append(variable.get()))
    with watched(faults=[Fault.status(500, first=1)], observers=[recorder]) as (_, client, _):
        variable.set("set")
        texts = [result.completion.text for result in client.map(["one", "two"], concurrency=1) if result.completion]
    assert texts == ["Hi", "Hi"]
    assert seen == ["set"] * 3
    ends = recorder.views("call_ended")
    assert sorted(view.completed for view in ends) == [False, True, True]
    assert len({view.call_id for view in ends}) == 3
    (failed,) = recorder.views("attempt_failed")
    assert (failed.attempt, failed.wait) == (1, None)


def test_each_round_of_tools_is_a_call(face: Face) -> None:
    """A run is told as the chats that it consists of."""

    def weather(city: str) -> str:
        return f"{city} sunny"

    with watched(Reply(tool_calls=[("weather", {"city": "Rome"})]), "Sunny.") as (_, client, recorder):
        face.call(client, "run_tools", "Weather?", [weather])
    assert recorder.hooks == FINE * 2
    assert [view.finish_reason for view in recorder.views("call_ended")] == ["tool_calls", "stop"]


def test_a_run_of_tools_that_is_left_is_no_error(face: Face) -> None:
    """Its stream is closed, in the middle of an answer, as any other may be."""

    def weather(city: str) -> str:
        return f"{city} sunny"

    async def leave(client: AsyncClient) -> None:
        async with client.stream_tools("Weather?", [weather]) as run:
            async for event in run:
                if isinstance(event, TextDelta):
                    break

    with watched(["one", "two"], faults=[Fault.timeout(after=1)]) as (_, client, recorder):
        if face.name == "sync":
            with client.stream_tools("Weather?", [weather]) as run:
                for event in run:
                    if isinstance(event, TextDelta):
                        break
        else:
            anyio.run(leave, client.as_async(), backend=face.name)
        assert (recorder.end.error, recorder.end.completed) == (None, False)


@responses.activate
def test_calls_to_a_mock_are_told(face: Face) -> None:
    """An answer that comes through the public methods of requests, in a worker thread too, is told like others."""
    completion = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}]}
    responses.post("https://mocked/v1/chat/completions", json=completion)
    recorder = Recorder()
    with Client(KEY, base_url="https://mocked", observers=[recorder]) as client:
        assert face.call(client, "complete", "Hello", stream=False).text == "Hi"
    assert recorder.hooks == FINE
    assert recorder.end.response_bytes == len(json.dumps(completion))


def test_an_async_client_that_shares_a_service_shares_its_observers() -> None:
    """as_async() has the same observers; so has a client made by itself."""
    with watched() as (server, client, recorder):
        anyio.run(client.as_async().complete, "Hello")
        anyio.run(AsyncClient(KEY, base_url=server.url, observers=[recorder]).complete, "Hello")
    assert recorder.hooks == FINE * 2


# Attempts -----------------------------------------------------------------------------------------------------


def test_every_attempt_that_fails_is_told(face: Face) -> None:
    """Each has its number, its error, and the seconds until the next; the last has None."""
    with watched(faults=[Fault.status(500)]) as (_, client, recorder):
        outcome = face.ask(client)
    assert recorder.hooks == ["call_started", *["attempt_failed"] * 3, "call_ended"]
    failed = recorder.views("attempt_failed")
    assert [view.attempt for view in failed] == [1, 2, 3]
    assert {view.status_code for view in failed} == {500}
    assert {type(view.error) for view in failed} == {InternalServerError}
    assert len({id(view.error) for view in failed}) == 3
    first, second, last = (view.wait for view in failed)
    assert first is not None
    assert second is not None
    assert 0 <= first <= 0.001 >= second >= 0
    assert last is None
    assert recorder.end.error is failed[-1].error is outcome.error
    assert (recorder.end.attempt, recorder.end.completed) == (3, False)


def test_an_attempt_that_fails_after_others_saw_an_answer_is_told(face: Face) -> None:
    """An answer that is cut begins, speaks and fails; the next attempt begins anew."""
    cut = Fault.limit_data(30, at="piece", after=1, first=1)
    with watched(*[["one", "two"]] * 2, faults=[cut]) as (_, client, recorder):
        assert face.call(client, "complete", "Hello").text == "onetwo"
    assert recorder.hooks == ["call_started", "answer_started", "first_text", "attempt_failed", *FINE[1:]]
    (failed,) = recorder.views("attempt_failed")
    assert isinstance(failed.error, StreamInterruptedError)
    assert [view.attempt for _, view in recorder.told] == [1, 1, 1, 1, 2, 2, 2]
    assert recorder.end.error is None
    assert recorder.end.completed


def test_the_views_of_a_failover_name_who_was_asked(face: Face) -> None:
    """A host that fails and a model that fails are those of the view, and the next is asked at once."""
    bad = Fault.status(500)
    with LoopbackServer(faults=[bad]) as first, LoopbackServer(lambda _: "Hi") as second:
        recorder = Recorder()
        retry = Retry(1, failover=True)
        urls = [first.url, second.url]
        with Client(KEY, base_url=urls, retry=retry, observers=[recorder]) as client:
            assert face.ask(client).text == "Hi"
        told = [(hook, view.host, view.attempt, view.wait) for hook, view in recorder.told[1:3]]
        assert told == [
            ("attempt_failed", f"{first.url}/v1", 1, 0.0),
            ("answer_started", f"{second.url}/v1", 2, None),
        ]
        recorder = Recorder()
        models = ["one", "two"]
        with Client(KEY, base_url=first.url, model=models, retry=None, observers=[recorder]) as client:
            assert isinstance(face.ask(client).error, InternalServerError)
        failed = recorder.views("attempt_failed")
        assert [(view.model, view.wait) for view in failed] == [("one", 0.0), ("two", None)]
        assert (recorder.told[0][1].model, recorder.end.model) == ("one", "two")


def test_a_request_that_is_repeated_within_its_attempt_is_not_told(raw_server: RawServer, face: Face) -> None:
    """One without a refused field, and one in the place of an idle connection that had ended, are no attempts."""
    refused = b"HTTP/1.1 400 No\r\nContent-Length: 14\r\n\r\nstream_options"
    events = b'data: {"choices": [{"delta": {"content": "Hi"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n%b" % (
        len(events),
        events,
    )
    raw_server.steps = lambda request: [refused, None] if b"stream_options" in request else [answer]
    recorder = Recorder()
    with Client(KEY, base_url=raw_server.url, retry=None, observers=[recorder]) as client:
        assert face.ask(client).text == "Hi"
        assert recorder.hooks == FINE
        while not sockets_to(raw_server.port, psutil.CONN_CLOSE_WAIT):  # it is idle, and the server has closed it
            time.sleep(0.001)
        assert face.ask(client).text == "Hi"
        assert raw_server.connections == 2
    assert recorder.hooks == FINE * 2
    assert {view.attempt for _, view in recorder.told} == {1}
    # Without the field, the request is shorter than the one that was told of first.
    started, *_, ended = (view.request_bytes for _, view in recorder.told[:4])
    assert started > ended


def test_an_attempt_that_reaches_nobody_is_told(face: Face) -> None:
    """There is no status, and no answer."""
    recorder = Recorder()
    with Client(KEY, base_url="http://127.0.0.1:1", retry=None, observers=[recorder]) as client:
        assert isinstance(face.ask(client).error, APIConnectionError)
    assert recorder.hooks == ["call_started", "attempt_failed", "call_ended"]
    assert (recorder.end.status_code, recorder.end.response_bytes) == (None, 0)


def test_a_call_without_time_has_an_end_and_no_attempt(face: Face) -> None:
    """Where the time is up before anything is sent, no attempt has failed."""
    started = Recorder(call_started=lambda _: time.sleep(0.02))
    with watched(timeout=0.01, observers=[started]) as (server, client, _):
        assert isinstance(face.ask(client).error, APITimeoutError)
        assert server.requests == []
    assert started.hooks == ["call_started", "call_ended"]
    assert isinstance(started.end.error, APITimeoutError)


def test_what_is_never_sent_is_never_told(face: Face) -> None:
    """Wrong use, and an async stream that is not entered, start no call."""
    with watched() as (server, client, recorder):
        wrong: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
            ("complete", ([],), {}),
            ("complete", ("Hello",), {"proxy": "x"}),
            ("embed", ([""],), {}),
            ("request", ("GET", "http://other"), {}),
        ]
        for method, arguments, options in wrong:
            with pytest.raises((TypeError, ValueError)):
                face.call(client, method, *arguments, **options)
        stream = client.as_async().stream("Hello")
        stream.cancel()
        del stream
        assert server.requests == []
    assert recorder.told == []


# Ends ---------------------------------------------------------------------------------------------------------


def started_stream(server: RawServer, recorder: Recorder, *steps: Any) -> Stream:
    """A stream of which one piece has been read."""
    server.answer(BEGUN, *(steps or (server.hold,)))
    client = Client(base_url=server.url, protocol="web", observers=[recorder], retry=None, timeout=20)
    stream = client.stream("Hello")
    assert next(stream) == "one"
    return stream


def close(stream: Stream) -> None:
    stream.close()


def leave(stream: Stream) -> None:
    with stream:
        pass


def raise_inside(stream: Stream) -> None:
    with contextlib.suppress(ZeroDivisionError), stream:
        raise ZeroDivisionError


def ctrl_c_inside(stream: Stream) -> None:
    with contextlib.suppress(KeyboardInterrupt), stream:
        raise KeyboardInterrupt


def cancel(stream: Stream) -> None:
    stream.cancel()


def cancel_and_read(stream: Stream) -> None:
    stream.cancel()
    with pytest.raises(StreamCancelledError):
        next(stream)


def cancel_from_a_thread(stream: Stream) -> None:
    threading.Timer(0.05, stream.cancel).start()
    with pytest.raises(StreamCancelledError):
        next(stream)


def ctrl_c_while_waiting(stream: Stream) -> None:
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.05, signal.pthread_kill, (main, signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        next(stream)


def error_of_a_handler(stream: Stream) -> None:
    def handle(*_: object) -> None:
        raise ZeroDivisionError

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(ZeroDivisionError):
            next(stream)
    finally:
        signal.signal(signal.SIGALRM, before)


ENDS: dict[Callable[[Stream], None], type[BaseException] | None] = {
    close: None,
    leave: None,
    raise_inside: None,
    ctrl_c_inside: KeyboardInterrupt,
    cancel: StreamCancelledError,
    cancel_and_read: StreamCancelledError,
    cancel_from_a_thread: StreamCancelledError,
    ctrl_c_while_waiting: KeyboardInterrupt,
    error_of_a_handler: ZeroDivisionError,
}


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_a_stream_that_is_not_read_to_its_end_is_told_to_end(raw_server: RawServer, end: Any) -> None:
    """However it ends, that comes once, with the error that the reader got or would get, and is the last thing told."""
    recorder = Recorder()
    stream = started_stream(raw_server, recorder)
    end(stream)
    assert type(recorder.end.error) is (ENDS[end] or type(None))
    assert not recorder.end.completed
    stream.close()
    stream.cancel()
    del stream
    gc.collect()
    assert recorder.hooks == FINE


def test_a_stream_that_is_forgotten_ends_at_once(raw_server: RawServer) -> None:
    """A loop that is left by `break` lets go of its stream, and that is told, without an error."""
    recorder = Recorder()
    raw_server.answer(BEGUN, raw_server.hold)
    with Client(base_url=raw_server.url, protocol="web", observers=[recorder]) as client:
        for _ in client.stream("Hello"):
            break
    assert recorder.end.error is None
    assert not recorder.end.completed


def test_a_stream_in_a_cycle_ends_when_it_is_collected(raw_server: RawServer) -> None:
    """The garbage collector's end is an end like others."""
    recorder = Recorder()
    cycle: list[Any] = [started_stream(raw_server, recorder)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert recorder.end.error is None


def test_an_error_within_an_answer_is_its_end(face: Face) -> None:
    """The view has the error that the caller gets, itself."""
    fault = Fault.limit_data(30, at="piece", after=1)
    with watched(lambda _: ["one", "two"], faults=[fault]) as (_, client, recorder):
        outcome = face.ask(client)
    assert isinstance(outcome.error, StreamInterruptedError)
    assert recorder.end.error is outcome.error
    assert recorder.views("attempt_failed")[0].wait is None


FAILURES: dict[str, tuple[list[Fault], float | None, Callable[[Any], object]]] = {
    "cut": ([Fault.limit_data(30, at="piece", after=1)], 20, lambda _: None),
    "too late": ([Fault.timeout(after=1)], 0.3, lambda _: None),
    "cancelled": ([Fault.timeout(after=1)], 20, lambda stream: stream.cancel()),
    "cancelled by a thread": (
        [Fault.timeout(after=1)],
        20,
        lambda stream: threading.Timer(0.05, stream.cancel).start(),
    ),
}


@pytest.mark.parametrize("failure", FAILURES)
def test_the_error_that_is_told_is_the_one_that_the_caller_gets(face: Face, failure: str) -> None:
    """It is the same object, and has the text that had come by then."""
    faults, timeout, act = FAILURES[failure]
    partial: list[str] = []
    recorder = Recorder(call_ended=lambda view: partial.append(getattr(view.error, "partial", "")))
    caught: list[chatanywhere.ChatAnywhereError] = []

    def read(client: Client) -> None:
        with client.stream("Hello") as stream:
            for _ in stream:
                act(stream)

    async def read_async(client: AsyncClient) -> None:
        try:
            async with client.stream("Hello") as stream:
                async for _ in stream:
                    act(stream)
        except chatanywhere.ChatAnywhereError as error:
            caught.append(error)

    with LoopbackServer(lambda _: ["one", "two"], faults=faults) as server:
        options: Any = {"base_url": server.url, "observers": [recorder], "timeout": timeout, "retry": None}
        with Client(KEY, **options) as client:
            if face.name == "sync":
                with pytest.raises(chatanywhere.ChatAnywhereError) as info:
                    read(client)
                caught.append(info.value)
            else:
                anyio.run(read_async, client.as_async(), backend=face.name)
    assert caught == [recorder.end.error]
    assert partial == ["one"] == [error.partial for error in caught]


def test_a_cancelled_stream_that_is_closed_first_was_cancelled(raw_server: RawServer) -> None:
    """Whoever leaves the block before the reader has noticed does not make a close of it."""
    recorder = Recorder()
    raw_server.answer(BEGUN, raw_server.hold)

    async def main() -> None:
        client = AsyncClient(base_url=raw_server.url, protocol="web", observers=[recorder], timeout=20)

        async def read(stream: AsyncStream) -> None:
            with pytest.raises(StreamCancelledError):
                await stream.read()

        async with anyio.create_task_group() as tasks, client.stream("Hello") as stream:
            assert await stream.__anext__() == "one"
            tasks.start_soon(read, stream)
            await anyio.wait_all_tasks_blocked()
            stream.cancel()

    anyio.run(main)
    assert isinstance(recorder.end.error, StreamCancelledError)
    assert recorder.end.error.partial == "one"


def test_a_coroutine_that_is_forgotten_is_no_error(raw_server: RawServer) -> None:
    """Nobody has interrupted what ends because nobody awaits it any more."""
    recorder = Recorder()
    raw_server.answer(BEGUN, raw_server.hold)

    async def main() -> None:
        client = AsyncClient(base_url=raw_server.url, protocol="web", observers=[recorder], timeout=20)
        stream = client.stream("Hello")
        assert await stream.__anext__() == "one"
        waiting: Any = stream.__anext__()
        waiting.send(None)
        waiting.close()

    anyio.run(main)
    assert (recorder.end.error, recorder.end.completed) == (None, False)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("where", ["waiting", "outside"])
def test_a_task_that_is_cancelled_ends_its_call(raw_server: RawServer, backend: str, where: str) -> None:
    """The error is what the event loop cancels with."""
    recorder = Recorder()
    raw_server.answer(BEGUN, raw_server.hold)

    async def main() -> type[BaseException]:
        client = AsyncClient(base_url=raw_server.url, protocol="web", observers=[recorder])
        with anyio.CancelScope() as scope:
            async with client.stream("Hello") as stream:
                assert await stream.__anext__() == "one"
                scope.deadline = anyio.current_time() + 0.05
                await (stream.__anext__() if where == "waiting" else anyio.sleep(20))
        return anyio.get_cancelled_exc_class()

    kind = anyio.run(main, backend=backend)
    assert type(recorder.end.error) is kind
    assert recorder.hooks == FINE


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_task_that_is_cancelled_while_a_thread_connects_ends_its_call(full_port: int, backend: str) -> None:
    """It is told at once, and not again when the thread has seen it."""
    recorder = Recorder()

    async def main() -> type[BaseException]:
        client = AsyncClient(base_url=f"http://127.0.0.1:{full_port}", protocol="web", observers=[recorder])
        with anyio.move_on_after(0.1):
            await client.complete("Hello")
        assert recorder.hooks == ["call_started", "call_ended"]
        return anyio.get_cancelled_exc_class()

    kind = anyio.run(main, backend=backend)
    assert type(recorder.end.error) is kind


def test_a_stream_that_was_cancelled_before_it_began_has_both_ends(raw_server: RawServer) -> None:
    """Entering it fails, and that is told as a call that has ended."""
    recorder = Recorder()

    async def main() -> None:
        stream = AsyncClient(base_url=raw_server.url, protocol="web", observers=[recorder]).stream("Hello")
        stream.cancel()
        with pytest.raises(StreamCancelledError):
            await stream.__aenter__()

    anyio.run(main)
    assert recorder.hooks == ["call_started", "call_ended"]
    assert isinstance(recorder.end.error, StreamCancelledError)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_tells_nothing_of_its_parents_calls(raw_server: RawServer) -> None:
    """The copy of a stream that it has got may be closed there, and the parent's goes on."""
    recorder = Recorder()
    stream = started_stream(raw_server, recorder)
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            stream.close()
            os._exit(recorder.hooks.count("call_ended"))
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    stream.close()
    assert recorder.hooks == FINE


def test_a_watched_stream_that_fails_is_freed(raw_server: RawServer) -> None:
    """No reference cycle holds the stream or its call; so nothing waits for the garbage collector."""
    raw_server.answer(BEGUN)
    gc.collect()
    gc.disable()
    try:
        client = Client(base_url=raw_server.url, protocol="web", observers=[Observer()])
        stream = client.stream("Hello")
        freed = weakref.ref(stream._call)
        try:
            list(stream)
        except StreamInterruptedError:
            pass
        del stream
        assert freed() is None
    finally:
        gc.enable()


# Observers that misbehave -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_an_observer_that_raises_is_logged(face: Face, hook: str, caplog: pytest.LogCaptureFixture) -> None:
    """The call does not notice, and the other observers are told all the same."""

    def fail(_: CallView) -> None:
        raise InternalServerError("mine", status_code=500)  # as of a call that the observer has made

    first, second = Recorder(**{hook: fail}), Recorder()
    with watched(faults=[Fault.status(500, first=1)], observers=[first, second]) as (_, client, _):
        assert face.ask(client).text == "Hi"
    assert first.hooks == second.hooks == ["call_started", "attempt_failed", *FINE[1:]]
    (record,) = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.name == "chatanywhere"
    assert record.getMessage() == f"Recorder.{hook}() has raised; the call goes on"
    assert record.exc_info
    assert "mine" in str(record.exc_info[1])


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("hook", HOOKS)
def test_what_ends_a_program_passes(face: Face, hook: str, kind: type[BaseException]) -> None:
    """It comes to the caller, the other observers are told all the same, and the call has one end."""

    def fail(_: CallView) -> None:
        raise kind

    first, second = Recorder(**{hook: fail}), Recorder()
    with watched(faults=[Fault.status(500, first=1)], observers=[first, second]) as (_, client, _):
        with pytest.raises(kind if face.name != "trio" else BaseException) as caught:  # perhaps in a group
            face.ask(client)
        assert kind.__name__ in repr(caught.value)
    assert first.hooks == second.hooks
    assert first.end.completed is (hook == "call_ended")
    assert hook in ("call_ended", *first.hooks[-2:-1])


class Locked:
    """An observer with a lock that the same thread can't take twice, as those of many metrics are."""

    def __init__(self, hook: str, action: Callable[[CallView], object]) -> None:
        self.hooks: list[str] = []
        self._lock = threading.Lock()
        self._hook = hook
        self._action = action

    def __getattr__(self, name: str) -> Any:
        if name not in HOOKS:
            raise AttributeError(name)
        return functools.partial(self._told, name)

    def _told(self, hook: str, view: CallView) -> None:
        assert self._lock.acquire(timeout=5), f"a deadlock in {hook}"
        with contextlib.ExitStack() as stack:
            stack.callback(self._lock.release)
            self.hooks.append(hook)
            if hook == self._hook:
                self._action(view)


@pytest.mark.parametrize("hook", ["call_started", "attempt_failed", "answer_started", "first_text", "call_ended"])
def test_an_observer_may_cancel_what_it_watches(hook: str) -> None:
    """The call ends as cancelled, and that is told behind the hook that has done it, not within it."""
    streams: list[AsyncStream] = []
    observer = Locked(hook, lambda _: streams[0].cancel())
    cut = Fault.limit_data(30, at="piece", after=0, first=1)

    async def main() -> None:
        with LoopbackServer(lambda _: ["one", "two"], faults=[cut]) as server:
            client = AsyncClient(KEY, base_url=server.url, retry=SOON, observers=[observer], timeout=10)
            streams.append(client.stream("Hello"))
            if hook == "call_ended":
                assert (await streams[0].read()).text == "onetwo"
            else:
                with pytest.raises(StreamCancelledError):
                    await streams[0].read()

    anyio.run(main)
    assert observer.hooks.count("call_ended") == 1
    assert observer.hooks[-1] == "call_ended"
    assert hook in observer.hooks


def test_an_observer_may_end_another_call(raw_server: RawServer) -> None:
    """That end is told when the hook is over, for the observer may hold a lock."""
    recorder: list[str] = []
    others: list[Stream] = []

    def end(view: CallView) -> None:
        if others:
            others.pop().close()
        recorder.append(f"{view.call_id} is over")

    observer = Locked("call_ended", end)
    raw_server.answer(BEGUN, raw_server.hold)
    with Client(base_url=raw_server.url, protocol="web", observers=[observer]) as client:
        stream = client.stream("Hello")
        others.append(client.stream("Hello"))
        stream.close()
    assert len(recorder) == 2
    assert observer.hooks.count("call_ended") == 2


def test_calls_that_an_observer_makes_are_not_watched(face: Face) -> None:
    """Or else there would be no end: of the observer's own calls, nor of those of tasks that it starts, it hears."""
    texts: list[str] = []
    tasks: list[Any] = []
    with LoopbackServer(lambda _: "Hi") as server:

        def ask(_: CallView) -> None:
            texts.append(client.complete("And I?").text)
            if face.name == "asyncio" and not tasks:
                tasks.append(asyncio.ensure_future(client.as_async().complete("And later?")))

        observer = Locked("first_text", ask)
        with Client(KEY, base_url=server.url, observers=[observer]) as client:
            if face.name == "asyncio":

                async def main() -> str:
                    text = (await client.as_async().complete("Hello")).text
                    assert [(await task).text for task in tasks] == ["Hi"]
                    return text

                assert anyio.run(main) == "Hi"
            else:
                assert face.ask(client).text == "Hi"
            assert observer.hooks == FINE
            assert texts == ["Hi"]
            assert client.complete("Hello").text == "Hi"  # and later calls are
            assert observer.hooks == FINE * 2


def test_nobody_waits_for_an_observer_that_another_thread_calls(raw_server: RawServer) -> None:
    """A cancel comes through while a hook blocks; its end is told behind that hook, by the thread that is in it."""
    within, go_on = threading.Event(), threading.Event()

    def block(_: CallView) -> None:
        within.set()
        assert go_on.wait(10)

    recorder = Recorder(first_text=block)
    raw_server.answer(BEGUN, raw_server.hold)
    stream = Client(base_url=raw_server.url, protocol="web", observers=[recorder], timeout=20).stream("Hello")
    pieces: list[str] = []

    def read() -> None:
        with contextlib.suppress(StreamCancelledError):
            pieces.extend(stream)

    reader = threading.Thread(target=read)
    reader.start()
    assert within.wait(10)
    began = time.monotonic()
    stream.cancel()
    assert time.monotonic() - began < 2
    assert recorder.hooks == FINE[:3]
    go_on.set()
    reader.join(10)
    assert isinstance(recorder.end.error, StreamCancelledError)


def test_many_threads_are_told_apart() -> None:
    """Each call of several at the same time has its own number, and its hooks in order."""
    with watched(lambda _: ["one", "two"]) as (_, client, recorder):
        threads = [threading.Thread(target=client.complete, args=("Hello",)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    by_call: dict[int, list[str]] = {}
    for hook, view in recorder.told:
        by_call.setdefault(view.call_id, []).append(hook)
    assert list(by_call.values()) == [FINE] * 16


# Observers that are none --------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", HOOKS)
def test_any_object_with_some_of_the_methods_is_an_observer(face: Face, hook: str) -> None:
    """It is told of what it has a method for."""
    views: list[CallView] = []
    some = SimpleNamespace(**{hook: views.append})
    with watched(faults=[Fault.status(500, first=1)], observers=iter([some])) as (_, client, _):
        assert face.ask(client).text == "Hi"
    assert len(views) == 1


class Wordless:
    """An object with a method too few, and one of another kind."""

    call_ended = "a text"


class Awaited(Observer):
    async def call_ended(self, view: CallView) -> None:  # type: ignore[override]
        """Would have to be awaited."""


NOT_OBSERVERS: dict[str, tuple[Any, str]] = {
    "None": (None, r"as in observers=\[observer\], not NoneType"),
    "one": (Recorder(), r"as in observers=\[observer\], not Recorder"),
    "a str": ("call_ended", "not str"),
    "None in a list": ([None], r"observers\[0\] is a NoneType, which has none of the methods call_started, attempt_"),
    "no methods": ([Recorder(), Wordless()], r"observers\[1\] is a Wordless, .*first_text, call_ended$"),
    "a class": ([Recorder], r"observers\[0\] is the class Recorder: give an instance, Recorder\(\)"),
    "a coroutine": ([Awaited()], r"observers\[0\]\.call_ended is a coroutine function"),
}


@pytest.mark.parametrize("kind", [Client, AsyncClient])
@pytest.mark.parametrize(("value", "words"), NOT_OBSERVERS.values(), ids=NOT_OBSERVERS)
def test_what_is_no_observer_is_refused(kind: Any, value: Any, words: str) -> None:
    """The error names it, and the methods that it could have."""
    with pytest.raises(TypeError, match=words):
        kind(KEY, observers=value)


def test_observers_belong_to_the_client() -> None:
    """A call that is given some says so."""
    with pytest.raises(TypeError, match=r"it belongs to the client: Client\(observers=…\)"):
        Client(KEY).complete("Hello", observers=[Recorder()])  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_observers_stay_behind_when_a_client_is_pickled(kind: Any) -> None:
    """They need not be picklable, and belong to the process; copies within it keep them, the same ones."""
    recorder = Recorder(call_started=lambda _: None)  # which does not pickle
    with LoopbackServer(lambda _: "Hi") as server:
        client = kind(KEY, base_url=server.url, observers=[recorder])
        for each in (client, copy.copy(client), copy.deepcopy(client)):
            if kind is Client:
                each.complete("Hello")
            else:
                anyio.run(each.complete, "Hello")
        assert recorder.hooks == FINE * 3
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CHATANYWHERE_API_KEY", KEY)
            sent = pickle.loads(pickle.dumps(client))
        if kind is Client:
            sent.complete("Hello")
        else:
            anyio.run(sent.complete, "Hello")
        assert recorder.hooks == FINE * 3


# What views hold ----------------------------------------------------------------------------------------------


def test_views_show_no_key(raw_server: RawServer, face: Face) -> None:
    """Wherever a server repeats a key, and wherever the client was told one, `***` is there instead."""
    token, own = "token-0123456789ab", "own-0123456789abcdef"
    secrets = [KEY, token, own]
    chunk = {
        "id": f"id {KEY}",
        "model": f"model {KEY}",
        "choices": [{"delta": {"content": "Hi"}, "finish_reason": f"stop {own}"}],
    }
    events = f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode()
    head = f"Content-Type: text/event-stream\r\nContent-Length: {len(events)}\r\nX-Request-Id: {KEY}\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\n" + head.encode() + events
    refusal = json_answer({"error": {"message": f"{KEY} {token} {own}", "code": 1}}, "500 No")
    answers = iter([[refusal, None], [answer, None]])
    raw_server.steps = lambda _: next(answers)  # type: ignore[assignment,return-value]
    recorder = Recorder()
    options: Any = {"headers": {"X-Token": token}, "observers": [recorder], "retry": SOON, "model": f"m-{KEY}"}
    with Client(KEY, base_url=f"{raw_server.url}/v1?api_key={own}", **options) as client:
        assert face.ask(client).text == "Hi"
    assert recorder.hooks == ["call_started", "attempt_failed", *FINE[1:]]
    for _, view in recorder.told:
        assert not any(secret in repr(view) for secret in secrets)
        for name in CallView.__dataclass_fields__:
            for text in reachable(getattr(view, name)):
                assert not any(secret in text for secret in secrets), (name, text)
    assert (recorder.end.response_id, recorder.end.request_id) == ("id ***", "***")
    assert (recorder.end.host, recorder.end.model) == (f"{raw_server.url}/v1", "m-***")


def test_content_is_for_observers_who_ask(face: Face) -> None:
    """Only they see what was written, and views do not show it when they are printed."""
    asking, other = Recorder(), Recorder()
    asking.capture_content = True
    with watched(Reply("a secret answer", reasoning="Hm"), observers=[other, asking]) as (server, client, _):
        face.ask(client, "a secret question", user="a secret user")
        assert all(view.request == server.requests[0].json for _, view in asking.told)
    completion = asking.end.completion
    assert completion is not None
    assert (completion.text, completion.reasoning, completion.finish_reason) == ("a secret answer", "Hm", "stop")
    assert completion.usage == asking.end.usage
    assert [view.completion for _, view in asking.told[:-1]] == [None] * 3
    assert all("secret" not in repr(view) for _, view in asking.told)
    for _, view in other.told:
        texts = [text for name in CallView.__dataclass_fields__ for text in reachable(getattr(view, name))]
        assert not any("secret" in text for text in texts)


def test_content_is_as_far_as_it_came(face: Face) -> None:
    """An answer that fails leaves the text so far; one that is not kept leaves none."""
    recorder = Recorder()
    recorder.capture_content = True
    fault = Fault.limit_data(30, at="piece", after=1)
    with watched(lambda _: ["one", "two"], faults=[fault], observers=[recorder]) as (server, client, _):
        assert face.ask(client).error is not None
        server.faults = ()
        assert face.ask(client, keep_text=False).text == "onetwo"
    texts = [view.completion.text for view in recorder.views("call_ended") if view.completion]
    assert texts == ["one", ""]


def test_the_request_that_is_seen_is_the_one_that_is_sent(face: Face) -> None:
    """With another model, and without what the service refuses, it is that one."""
    recorder = Recorder()
    recorder.capture_content = True
    fault = Fault.status(500)
    with watched(faults=[fault], model=["one", "two"], retry=None, observers=[recorder]) as (server, client, _):
        face.ask(client)
        seen = [view.request for view in recorder.views("attempt_failed")]
        assert seen == [request.json for request in server.requests]
    assert [request["model"] for request in seen if request] == ["one", "two"]


@dataclasses.dataclass
class Note:
    """A message as programs may have it."""

    role: str
    content: object


def test_the_request_that_is_seen_is_json(face: Face) -> None:
    """Whatever a program has given; and nobody changes the program's own by it."""
    content: list[Any] = [{"type": "text", "text": "Hello"}]
    recorder = Recorder(call_started=lambda view: view.request["messages"][1]["content"].clear())  # type: ignore[index]
    recorder.capture_content = True
    messages: Any = [Note("system", "Be short."), {"role": "user", "content": content}, Note("user", ("Hi",))]
    with watched(observers=[recorder]) as (server, client, _):
        face.ask(client, messages)
        sent = server.requests[0].json
        assert sent["messages"][1]["content"] == content == [{"type": "text", "text": "Hello"}]
        assert recorder.views("answer_started")[0].request == sent


def test_a_view_is_frozen() -> None:
    """Nobody changes what others see."""
    with watched() as (_, client, recorder):
        client.complete("Hello")
    with pytest.raises(AttributeError):
        recorder.end.model = "other"  # type: ignore[misc]
    assert recorder.end.finish_reason == "stop"
    assert recorder.told[0][1].finish_reason is None
    assert len({view for _, view in recorder.told}) == 4


# Interrupts anywhere ------------------------------------------------------------------------------------------

WATCHING = tuple(str(Path(chatanywhere.__file__).parent / name) for name in ("_observe.py", "_watched.py"))


@contextlib.contextmanager
def trapping(line: int, action: Callable[[], object]) -> Iterator[SimpleNamespace]:
    """Do something before the n-th line of the files about watching that runs; what is yielded says whether it has."""
    trap = SimpleNamespace(left=line, sprung=False)

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename not in WATCHING:
            return None
        if event == "line":
            trap.left -= 1
            if trap.left == 0:
                trap.sprung = True
                action()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield trap
    finally:
        sys.settrace(before)


@pytest.fixture
def recorders(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Recorder]]:
    """Two observers. No garbage is collected meanwhile, for a trap in that can crash Python."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # for Ctrl-C while an object is deleted
    gc.disable()
    try:
        yield [Recorder(), Recorder()]
    finally:
        gc.enable()


def check_ends(recorders: list[Recorder]) -> None:
    for each in recorders:
        assert not each.hooks or each.end
        each.told.clear()


@pytest.mark.parametrize("way", ["models", "closed"])
def test_ctrl_c_at_any_line_of_the_telling_leaves_one_end(
    raw_server: RawServer, recorders: list[Recorder], way: str
) -> None:
    """What has started ends once, for each observer, whatever was interrupted."""
    raw_server.steps = lambda request: [json_answer({"data": []}), None] if b"GET" in request else [BEGUN]
    client = Client(KEY, base_url=raw_server.url, retry=None, observers=recorders, timeout=10)
    page = Client(base_url=raw_server.url, protocol="web", retry=None, observers=recorders, timeout=10)

    def read() -> None:
        with contextlib.suppress(KeyboardInterrupt):
            if way == "models":
                client.models()
                return
            with page.stream("Hello") as stream:
                next(stream)

    line, sprung = 1, True
    while sprung:
        with trapping(line, interrupt) as trap:
            read()
        sprung = trap.sprung
        check_ends(recorders)
        line += 1
    assert line > 100
    client.close()
    page.close()


def test_a_cancel_at_any_line_of_the_telling_leaves_one_end(raw_server: RawServer, recorders: list[Recorder]) -> None:
    """A signal handler may cancel a call while it is told of, or while its end is."""
    raw_server.answer(BEGUN, b"0\r\n\r\n", None)

    async def main() -> None:
        client = AsyncClient(base_url=raw_server.url, protocol="web", retry=None, observers=recorders, timeout=10)
        line, sprung = 1, True
        while sprung:
            stream = client.stream("Hello")
            with trapping(line, stream.cancel) as trap, contextlib.suppress(StreamCancelledError):
                await stream.read()
            sprung = trap.sprung
            stream.cancel()
            check_ends(recorders)
            line += 1
        assert line > 100

    anyio.run(main)


def test_bad_requests_are_told_as_they_are(face: Face) -> None:
    """A refusal is one attempt, which none follows."""
    with watched(faults=[Fault.status(400)]) as (_, client, recorder):
        outcome = face.ask(client)
    assert isinstance(outcome.error, BadRequestError)
    assert recorder.hooks == ["call_started", "attempt_failed", "call_ended"]
    assert (recorder.end.status_code, recorder.end.error) == (400, outcome.error)
