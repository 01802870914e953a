"""A cancel or a Ctrl-C at every single line: whichever it strikes, the call ends well and holds no connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from faces import backends, run
from raw_server import BEGUN, RawServer, json_answer, sockets_to

import chatanywhere
from chatanywhere import AsyncClient, AsyncStream, Client, Stream, StreamCancelledError

PACKAGE = str(Path(chatanywhere.__file__).parent)


class Trap:
    """Does something before the n-th line of the package that runs in this thread, as a signal handler may.

    `within` is what the names of the files that count begin with.
    """

    def __init__(self, line: int, action: Callable[[], object], within: str = PACKAGE) -> None:
        self.sprung = False
        self._lines_left = line
        self._action = action
        self._within = within

    def __enter__(self) -> Trap:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(self._before)

    def _trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not frame.f_code.co_filename.startswith(self._within):
            return None
        if event == "line" and not self.sprung:
            self._lines_left -= 1
            if self._lines_left == 0:
                self.sprung = True
                self._action()
        return self._trace


def traps(action: Callable[[], object], within: str = PACKAGE, *, least: int = 100) -> Iterator[Trap]:
    """One for each line, until there is no such line."""
    line, sprung = 0, True
    while sprung:
        line += 1
        trap = Trap(line, action, within)
        yield trap
        sprung = trap.sprung
    assert line > least


@contextlib.contextmanager
def ending_well(stream: Stream | AsyncStream, trap: Trap) -> Iterator[list[str]]:
    """The pieces that are read with the trap set are the whole answer, or the error tells of all that had arrived."""
    pieces: list[str] = []
    error: StreamCancelledError | None = None
    try:
        with trap:
            yield pieces
    except StreamCancelledError as exc:
        error = exc
    if error is None:
        assert "".join(pieces) == stream.completion.text == "onetwothree"
    else:
        assert error.partial == stream.text
        assert stream.text.startswith("".join(pieces))
        assert "onetwothree".startswith(stream.text)


@pytest.fixture
def no_collection() -> Iterator[None]:
    """No connection is closed by garbage collection: it comes anywhere, and a trap in it can crash Python."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def server(raw_server: RawServer, no_collection: None) -> RawServer:
    """Answers "onetwothree" in three pieces."""

    def pause(_: object) -> None:
        time.sleep(0.002)  # the reader waits by then, or does not: it must be right in both cases

    raw_server.answer(BEGUN, pause, b"3\r\ntwo\r\n", pause, b"5\r\nthree\r\n0\r\n\r\n", None)
    return raw_server


def test_cancel_at_every_line(server: RawServer) -> None:
    """A stream that is cancelled from a signal handler is complete or ends with StreamCancelledError, and is closed."""
    client = Client(base_url=server.url, protocol="web", timeout=5)
    streams: list[Stream] = []
    for trap in traps(lambda: streams[-1].cancel()):
        streams.append(client.stream("Hello"))
        with ending_well(streams[-1], trap) as pieces:
            pieces.extend(streams[-1])
    assert client.complete("Hello").text == "onetwothree"
    assert len(sockets_to(server.port)) <= 1  # in the pool


@pytest.fixture
def unraisable(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The types of what was raised while an object was deleted, which Python can only print."""
    types: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraised: types.append(unraised.exc_type))
    return types


def test_ctrl_c_at_every_line(server: RawServer, unraisable: list[Any]) -> None:
    """KeyboardInterrupt comes through, the next call gets its own answer, and no socket outlives its stream."""
    client = Client(base_url=server.url, protocol="web", timeout=5)

    def interrupt() -> None:
        raise KeyboardInterrupt

    def read(trap: Trap) -> None:
        with trap, client.stream("Hello") as stream:
            for _ in stream:
                pass

    for trap in traps(interrupt):
        unraisable.clear()
        try:
            read(trap)
        except KeyboardInterrupt:
            assert trap.sprung
        else:
            assert unraisable == [KeyboardInterrupt] * trap.sprung
        assert client.complete("Hello").text == "onetwothree"
        assert len(sockets_to(server.port)) <= 1


@backends
def test_cancel_at_every_line_of_an_event_loop(server: RawServer, backend: str) -> None:
    """An async stream that is cancelled from a signal handler is complete or ends with StreamCancelledError."""
    streams: list[AsyncStream] = []

    async def main() -> None:
        client = AsyncClient(base_url=server.url, protocol="web", timeout=5)
        for trap in traps(lambda: streams[-1].cancel()):
            streams.append(client.stream("Hello"))
            with ending_well(streams[-1], trap) as pieces:
                async for piece in streams[-1]:
                    pieces.append(piece)
        assert (await client.complete("Hello")).text == "onetwothree"
        assert len(sockets_to(server.port)) <= 1

    run(backend, main)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_ctrl_c_at_every_line_of_an_event_loop(server: RawServer, loop: str) -> None:
    """Ctrl-C cancels the task, as asyncio has it: it ends as cancelled, nothing is logged, no socket stays open."""
    streams: list[AsyncStream] = []
    tasks: list[asyncio.Task[list[str]]] = []
    logged: list[dict[str, Any]] = []

    async def read() -> list[str]:
        return [piece async for piece in streams[-1]]

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
        client = AsyncClient(base_url=server.url, protocol="web", timeout=5)
        for trap in traps(lambda: tasks[-1].cancel()):
            streams.append(client.stream("Hello"))
            tasks.append(asyncio.create_task(read()))
            try:
                with trap:
                    pieces = await tasks[-1]
            except asyncio.CancelledError:
                assert trap.sprung
            else:
                assert "".join(pieces) == "onetwothree"
        assert (await client.complete("Hello")).text == "onetwothree"
        assert len(sockets_to(server.port)) <= 1

    run(loop, main)
    assert logged == []


def test_ctrl_c_at_every_line_of_several_calls(
    raw_server: RawServer, no_collection: None, unraisable: list[Any]
) -> None:
    """KeyboardInterrupt comes through, the calls in other threads end, and no connection is lost."""

    def steps(request: bytes) -> list[Any]:
        texts = json.loads(request.partition(b"\r\n\r\n")[2])["input"]
        return [json_answer({"data": [{"embedding": [float(text)]} for text in texts]}), None]

    def interrupt() -> None:
        raise KeyboardInterrupt

    raw_server.steps = steps
    client = Client("any-key", base_url=raw_server.url, timeout=5, max_response_bytes=100)
    interrupted = 0
    for trap in traps(interrupt):
        unraisable.clear()
        try:
            with trap:
                vectors = client.embed(["1", "2"], dimensions=3)
        except KeyboardInterrupt:
            interrupted += 1
            assert unraisable == []
        else:
            assert list(vectors) == [[1.0], [2.0]]
            assert unraisable == [KeyboardInterrupt] * trap.sprung
        for thread in threading.enumerate():
            if thread.name.startswith("chatanywhere"):
                thread.join(1)
                assert not thread.is_alive()
    assert interrupted > 50
    assert list(client.embed(["1", "2"], dimensions=3)) == [[1.0], [2.0]]
    client.close()
    assert sockets_to(raw_server.port, "ESTABLISHED") == []


@pytest.mark.parametrize(
    "file", [*(f"_conversation/{name}.py" for name in ("conversation", "history", "turn", "turns")), "_stream.py"]
)
@pytest.mark.parametrize("method", ["send", "stream", "resume"])
def test_an_interrupt_leaves_a_conversation_in_order(
    server: RawServer, method: str, file: str, unraisable: list[Any]
) -> None:
    """Whichever line Ctrl-C strikes, an answer that was handed out is in the history, once, and another can be had."""
    client = Client(base_url=server.url, protocol="web", timeout=5)
    before = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]

    def interrupt() -> None:
        raise KeyboardInterrupt

    for trap in traps(interrupt, str(Path(PACKAGE) / file), least=5):
        conversation = client.conversation(messages=before)
        if method == "resume":
            with conversation.stream("Count") as begun:
                next(begun)
        text = None
        with contextlib.suppress(KeyboardInterrupt), trap:
            if method == "stream":
                with conversation.stream("Count") as stream:
                    text = "".join(stream)
            else:
                text = (conversation.send("Count") if method == "send" else conversation.resume()).text
        if len(conversation) == 2:
            assert text is None
            assert conversation.messages == before
        else:
            assert conversation.messages[2:] == [
                {"role": "user", "content": "Count"},
                {"role": "assistant", "content": "onetwothree"},
            ]
        conversation.send("Again")
        assert len(conversation) in (4, 6)
