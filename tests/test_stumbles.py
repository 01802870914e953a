"""Small things that people stumble over: what a stream says of itself, what an interrupt leaves, how errors print."""

from __future__ import annotations

import copy
import json
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import anyio
import pytest
from faces import Face, backends, run
from raw_server import BEGUN, RawServer

import chatanywhere
from chatanywhere import (
    APIStatusError,
    APITimeoutError,
    AsyncClient,
    AsyncStream,
    ChatAnywhereError,
    Client,
    Completion,
    OutputError,
    ProtocolError,
    Stream,
    StreamCancelledError,
    StreamInterruptedError,
    ToolCall,
    Usage,
)
from chatanywhere.testing import Fault, LoopbackServer, Reply

KEY = "sk-0123456789"
PIECES = ["one ", "two ", "three"]

posix = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs POSIX timers")


# What a stream says of itself


def leave(stream: Stream | AsyncStream) -> None:
    """Stop reading."""
    raise StopIteration


ENDS: dict[str, Callable[[Any], object]] = {
    "complete": lambda stream: None,
    "cancelled": lambda stream: stream.cancel(),
    "closed": leave,
}
"""What is done after the first piece, by the word that the stream then has for itself."""

FAILURES = {
    StreamInterruptedError: Fault.no_done(after=2),
    ProtocolError: Fault.bad_json(after=2),
    APIStatusError: Fault.error_frame("overloaded", after=2),
    APITimeoutError: Fault.timeout(after=2),
}


def read_until(face: Face, client: Client, then: Callable[[Any], object]) -> Stream | AsyncStream:
    """Read a stream, do something after its first piece, and read on; return the stream when it is over."""
    if face.name == "sync":
        with client.stream("Hello") as stream:
            assert "open" in repr(stream)
            try:
                for piece in stream:
                    if piece == PIECES[0]:
                        then(stream)
            except (ChatAnywhereError, StopIteration):
                pass
        return stream

    async def main() -> AsyncStream:
        async with client.as_async().stream("Hello") as stream:
            assert "open" in repr(stream)
            try:
                async for piece in stream:
                    if piece == PIECES[0]:
                        then(stream)
            except (ChatAnywhereError, StopIteration):
                pass
        return stream

    result: AsyncStream = run(face.name, main)
    return result


@pytest.mark.parametrize("end", ENDS)
def test_a_stream_says_how_it_ended(face: Face, end: str, pieces_apart: None) -> None:
    """Its repr has the word, and so has the error of `completion` where there is none."""
    with LoopbackServer([PIECES]) as server, Client(KEY, base_url=server.url) as client:
        stream = read_until(face, client, ENDS[end])
        assert f" {end}, " in repr(stream)
        if end == "complete":
            assert stream.completion.text == "one two three"
        else:
            with pytest.raises(RuntimeError, match=f"not complete: the stream was {end}"):
                _ = stream.completion


@pytest.mark.parametrize("kind", FAILURES)
def test_a_stream_says_that_it_failed(face: Face, kind: type[ChatAnywhereError], pieces_apart: None) -> None:
    """A failed stream, even once it is closed, is not called anything else; `completion` names the error."""
    faults = [FAILURES[kind]]
    with (
        LoopbackServer([PIECES], faults=faults) as server,
        Client(KEY, base_url=server.url, retry=None, timeout=chatanywhere.Timeout(read=0.5)) as client,
    ):
        stream = read_until(face, client, ENDS["complete"])
        assert " failed, " in repr(stream)
        with pytest.raises(RuntimeError, match=rf"not complete: the stream failed with {kind.__name__}|InternalServer"):
            _ = stream.completion


def test_closing_after_the_end_changes_nothing(face: Face, pieces_apart: None) -> None:
    """A stream that was complete, or cancelled, when it was closed stays that."""
    with LoopbackServer([PIECES] * 2) as server, Client(KEY, base_url=server.url) as client:
        for end in ("complete", "cancelled"):
            stream = read_until(face, client, ENDS[end])
            if isinstance(stream, Stream):
                stream.close()
            else:
                run(face.name, stream.close)
            assert f" {end}, " in repr(stream)


# Reading it whole


def test_read_returns_the_whole_answer(face: Face, pieces_apart: None) -> None:
    """Also what was read before; asked again, it returns the same."""

    async def main() -> list[Completion]:
        async with AsyncClient(KEY, base_url=server.url) as client, client.stream("Hello") as stream:
            assert await stream.__anext__() == PIECES[0]
            return [await stream.read(), await stream.read()]

    with LoopbackServer([PIECES]) as server:
        if face.name == "sync":
            with Client(KEY, base_url=server.url) as client, client.stream("Hello") as stream:
                assert next(stream) == PIECES[0]
                answers = [stream.read(), stream.read()]
        else:
            answers = run(face.name, main)
    assert answers[0] == answers[1]
    assert answers[0].text == "one two three"
    assert answers[0].finish_reason == "stop"


@pytest.mark.parametrize("kind", FAILURES)
def test_read_raises_what_iterating_does(face: Face, kind: type[ChatAnywhereError]) -> None:
    """The error, with the text so far; asked again, it says that there will be no answer."""

    async def main() -> None:
        client = AsyncClient(KEY, base_url=server.url, retry=None, timeout=chatanywhere.Timeout(read=0.5))
        async with client, client.stream("Hello") as stream:
            with pytest.raises(kind) as caught:
                await stream.read()
            assert caught.value.partial == "one two "
            with pytest.raises(RuntimeError, match="failed"):
                await stream.read()

    with LoopbackServer([PIECES], faults=[FAILURES[kind]]) as server:
        if face.name != "sync":
            run(face.name, main)
            return
        client = Client(KEY, base_url=server.url, retry=None, timeout=chatanywhere.Timeout(read=0.5))
        with client, client.stream("Hello") as stream:
            with pytest.raises(kind) as caught:
                stream.read()
            assert caught.value.partial == "one two "
            with pytest.raises(RuntimeError, match="failed"):
                stream.read()


def test_read_of_a_closed_stream_is_refused() -> None:
    """What was closed before its end can't be read to it."""
    with LoopbackServer([PIECES]) as server, Client(KEY, base_url=server.url) as client:
        with client.stream("Hello") as stream:
            pass
        with pytest.raises(StreamCancelledError):
            stream.read()
        with pytest.raises(RuntimeError, match="closed before its end"):
            stream.read()


# An interrupted call


class Stop(BaseException):
    """As a program's own, or gevent's: not an error, and no part of the call."""


@posix
@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, Stop])
@pytest.mark.parametrize("arrived", ["", "one"])
def test_an_interrupted_complete_keeps_its_text(
    raw_server: RawServer, monkeypatch: pytest.MonkeyPatch, kind: type[BaseException], arrived: str
) -> None:
    """What Ctrl-C, or another exception of a signal handler, breaks off has the text so far, if any, as `partial`."""
    raw_server.answer(*([BEGUN] if arrived else []), raw_server.hold)
    client = Client(base_url=raw_server.url, protocol="web", timeout=20)
    streams: list[Stream] = []

    class Watched(Stream):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            streams.append(self)

    monkeypatch.setattr("chatanywhere._stream.Stream", Watched)

    def interrupt(*_: object) -> None:
        if raw_server.requests and (streams[-1].text if streams else "") == arrived:
            raise kind

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(kind) as caught:
            client.complete("Hello")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert caught.value.partial == arrived  # type: ignore[attr-defined]
    client.close()


@backends
def test_a_cancelled_complete_keeps_its_text(
    raw_server: RawServer, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """What cancels a task in the middle of an answer has the text so far as `partial`, where the call is awaited."""
    raw_server.answer(BEGUN, raw_server.hold)
    streams: list[AsyncStream] = []
    partial: list[str] = []

    class Watched(AsyncStream):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            streams.append(self)

    monkeypatch.setattr("chatanywhere._async_client.AsyncStream", Watched)

    async def ask() -> None:
        try:
            await AsyncClient(base_url=raw_server.url, protocol="web", timeout=20).complete("Hello")
        except anyio.get_cancelled_exc_class() as cancelled:
            partial.append(cancelled.partial)  # type: ignore[attr-defined]
            raise

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            while not streams or streams[-1].text != "one":
                await anyio.sleep(0.005)
            group.cancel_scope.cancel()

    run(backend, main)
    assert partial == ["one"]


# Names


@backends
def test_an_async_client_and_stream_can_be_closed_by_either_name(backend: str) -> None:
    """`close` is what `aclose` is: the connections are closed, and a stream that is left says that it was closed."""

    async def main() -> None:
        client = AsyncClient(KEY, base_url=server.url)
        stream = client.stream("Hello")
        async with stream:
            await stream.__anext__()
            await stream.close()
            assert " closed, " in repr(stream)
        for close in (client.close, client.aclose):
            assert (await client.complete("Hello")).text == "one two three"
            connections = server.connections
            await close()
            assert (await client.complete("Hello")).text == "one two three"
            assert server.connections == connections + 1
        await client.close()

    with LoopbackServer(lambda _: PIECES) as server:
        run(backend, main)


ERRORS = [
    kind
    for kind in (getattr(chatanywhere, name) for name in chatanywhere.__all__)
    if isinstance(kind, type) and issubclass(kind, ChatAnywhereError)
]


def made(kind: type[ChatAnywhereError]) -> ChatAnywhereError:
    if issubclass(kind, APIStatusError):
        return kind("no", status_code=418)
    if issubclass(kind, OutputError):
        return kind("no", "invalid", Completion("Hello"))
    return kind("no", "read") if issubclass(kind, APITimeoutError) else kind("no")


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_print_by_the_name_that_they_are_imported_by(kind: type[ChatAnywhereError]) -> None:
    """A traceback names `chatanywhere.…`, and the error pickles and copies under that name."""
    error = made(kind)
    (line,) = traceback.format_exception_only(error)
    assert line == f"chatanywhere.{kind.__name__}: no\n"
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(copied) is kind
        assert str(copied) == str(error)


def test_there_are_errors_to_be_tried() -> None:
    """The test above has members, and none is left out."""
    assert len(ERRORS) >= 19
    assert {kind.__module__ for kind in ERRORS} == {"chatanywhere"}


def run_code(code: str) -> str:
    """What a program prints in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout


def test_an_error_of_ones_own_keeps_its_module() -> None:
    """A subclass in a program is the program's, and pickles there."""
    code = "import chatanywhere, pickle\nclass Own(chatanywhere.ProtocolError): pass\n"
    assert (
        run_code(code + "print(Own.__module__, repr(pickle.loads(pickle.dumps(Own('no')))))") == "__main__ Own('no')\n"
    )


def test_an_error_unpickles_in_a_process_that_has_not_imported_the_package() -> None:
    """The name in the pickle is one that can be imported."""
    data = pickle.dumps(made(chatanywhere.QuotaExceededError))
    assert run_code(f"import pickle; print(repr(pickle.loads({data!r})))") == "QuotaExceededError('no')\n"


# A completion as JSON

COMPLETIONS = {
    "text": Completion("Hello"),
    "all": Completion(
        "Hello\ud800 你好",
        reasoning="Hm.",
        tool_calls=(ToolCall("call_1", "weather", "{}"), ToolCall(None, None, "")),
        finish_reason="stop",
        usage=Usage(1, 2, 3),
        id="id",
        model="model",
        request_id="request",
    ),
}


@pytest.mark.parametrize("completion", COMPLETIONS.values(), ids=COMPLETIONS)
def test_a_completion_can_be_written_as_json(completion: Completion) -> None:
    """`to_dict()` has every field but `parsed`, as JSON gives it back, and is the caller's own."""
    values = completion.to_dict()
    assert json.loads(json.dumps(values)) == values
    names = [each.name for each in fields(Completion) if not each.name.startswith("_")]
    assert [*values, "parsed"] == names
    assert values["text"] == completion.text
    assert [call["arguments"] for call in values["tool_calls"]] == [call.arguments for call in completion.tool_calls]
    assert (values["usage"] or {}).get("total_tokens") == (completion.usage and completion.usage.total_tokens)


def test_what_a_server_says_can_be_written_as_json() -> None:
    """The completion of a call, with all that it may hold."""
    reply = Reply("Hello", reasoning="Hm.", tool_calls=[("weather", {"city": "北京"})])
    with LoopbackServer([reply]) as server, Client(KEY, base_url=server.url) as client:
        values = client.complete("Hello").to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["tool_calls"][0]["name"] == "weather"
